"""Hypothesis strategies of metric streams, as exporters make them and as they go wrong.

Each gives a `Stream`: a label set, timestamps (int64 ms) and values (float64). Times ascend, except where the
strategy's name says otherwise. Everything shrinks towards few, small, regular samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

__all__ = [
    "Stream",
    "bursty",
    "classic_histograms",
    "counters",
    "disordered",
    "gauges",
    "label_sets",
    "many_label_sets",
    "sparse",
    "streams",
]

# 2023-11-15, a multiple of two hours: ordinary times.
EPOCH_MS = 1_700_006_400_000
_INTERVALS_MS = (1_000, 10_000, 15_000, 60_000)


@dataclass(frozen=True, slots=True)
class Stream:
    """Samples of one series."""

    labels: dict[str, str]
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def _names(first: str) -> st.SearchStrategy[str]:
    return st.builds(lambda head, tail: head + tail, st.sampled_from(first), st.text("abcxyz_09", max_size=8))


def label_sets(metric: str | None = None, *, labels_max: int = 4) -> st.SearchStrategy[dict[str, str]]:
    """Valid label sets with a metric name; values are any UTF-8 text but the empty one."""
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
    others = st.dictionaries(_names("abcdef"), text, max_size=labels_max)
    name = _names("mnop") if metric is None else st.just(metric)
    return st.builds(lambda name, rest: {"__name__": name, **rest}, name, others)


@st.composite
def _times(draw: st.DrawFn, count: int, jitter: bool = True) -> npt.NDArray[np.int64]:
    """Ascending times of a scraper: an interval, and a few milliseconds of jitter if asked for."""
    interval = draw(st.sampled_from(_INTERVALS_MS))
    times = EPOCH_MS + np.arange(count, dtype=np.int64) * interval
    if jitter and draw(st.booleans()):
        times = times + np.array(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)), dtype=np.int64)
    return times


def _counts(samples_max: int) -> st.SearchStrategy[int]:
    return st.integers(1, samples_max)


@st.composite
def gauges(draw: st.DrawFn, samples_max: int = 150) -> Stream:
    """Values that go up and down: whole numbers, two decimals, or any finite float."""
    count = draw(_counts(samples_max))
    whole = st.integers(-(10**6), 10**6).map(float)
    decimals = st.integers(-(10**6), 10**6).map(lambda n: n / 100)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    kind = draw(st.sampled_from([whole, decimals, floats]))
    values = draw(st.lists(kind, min_size=count, max_size=count))
    return Stream(draw(label_sets()), draw(_times(count)), np.array(values, dtype=np.float64))


@st.composite
def counters(draw: st.DrawFn, samples_max: int = 150) -> Stream:
    """Values that only grow, and fall to a small one where the process began anew."""
    count = draw(_counts(samples_max))
    steps = np.array(draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count)), dtype=np.float64)
    resets = draw(st.sets(st.integers(1, count), max_size=3))
    values = np.empty(count)
    total = 0.0
    for i, step in enumerate(steps):
        total = step if i in resets else total + step
        values[i] = total
    return Stream(draw(label_sets()), draw(_times(count)), values)


@st.composite
def sparse(draw: st.DrawFn, samples_max: int = 40) -> Stream:
    """Few samples with long and uneven gaps between them, up to a week each."""
    count = draw(_counts(samples_max))
    gaps = draw(st.lists(st.integers(1, 7 * 86_400_000), min_size=count, max_size=count))
    values = draw(st.lists(st.floats(-1e9, 1e9), min_size=count, max_size=count))
    times = EPOCH_MS + np.cumsum(np.array(gaps, dtype=np.int64))
    return Stream(draw(label_sets()), times, np.array(values, dtype=np.float64))


@st.composite
def bursty(draw: st.DrawFn, samples_max: int = 200) -> Stream:
    """A level that stays as it is, broken by short bursts of quick and large changes."""
    level = draw(st.integers(0, 100))
    parts = draw(
        st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(0, 10**9), max_size=10)), min_size=1, max_size=8)
    )
    values = np.concatenate([np.array([level] * calm + burst, dtype=np.float64) for calm, burst in parts])
    values = values[:samples_max]
    return Stream(draw(label_sets()), draw(_times(len(values))), values)


@st.composite
def disordered(draw: st.DrawFn, samples_max: int = 80) -> Stream:
    """Another stream in a random order, some of its samples sent twice (the same time, another value)."""
    stream = draw(st.one_of(gauges(samples_max), counters(samples_max), sparse()))
    count = len(stream.timestamps)
    again = draw(st.lists(st.integers(0, count - 1), max_size=10))
    order = draw(st.permutations([*range(count), *again]))
    values = stream.values[order]
    values = values + np.arange(len(order)) if again else values
    return Stream(stream.labels, stream.timestamps[order], values)


@st.composite
def classic_histograms(draw: st.DrawFn, samples_max: int = 60) -> list[Stream]:
    """The series of one classic histogram: a cumulative bucket per bound, +Inf, `_sum` and `_count`."""
    count = draw(_counts(samples_max))
    bounds = sorted(draw(st.sets(st.sampled_from([0.005, 0.01, 0.1, 0.5, 1.0, 2.5, 10.0]), min_size=1)))
    cells = count * (len(bounds) + 1)
    hits = np.array(draw(st.lists(st.integers(0, 50), min_size=cells, max_size=cells)), dtype=np.float64)
    buckets = hits.reshape(count, -1).cumsum(axis=0).cumsum(axis=1)
    middle = np.array([*bounds, bounds[-1] * 2])
    sums = (hits.reshape(count, -1) * middle).sum(axis=1).cumsum()
    labels, times = draw(label_sets("latency_seconds", labels_max=2)), draw(_times(count, jitter=False))
    labels.pop("le", None)
    found = [
        Stream({**labels, "__name__": "latency_seconds_bucket", "le": le}, times, buckets[:, i])
        for i, le in enumerate([*(f"{b:g}" for b in bounds), "+Inf"])
    ]
    found.append(Stream({**labels, "__name__": "latency_seconds_sum"}, times, sums))
    found.append(Stream({**labels, "__name__": "latency_seconds_count"}, times, buckets[:, -1]))
    return found


@st.composite
def many_label_sets(draw: st.DrawFn, count_max: int = 300) -> list[dict[str, str]]:
    """Label sets of one metric, all different, that share values as a fleet's do: service, pod, code."""
    services, pods = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    codes = draw(st.lists(st.sampled_from(["200", "404", "500", "503"]), min_size=1, unique=True))
    whole = [
        {"__name__": "requests_total", "service": f"s{s}", "pod": f"s{s}-{p}", "code": code}
        for s in range(services)
        for p in range(pods)
        for code in codes
    ]
    return whole[:count_max]


def streams() -> st.SearchStrategy[Stream]:
    """Any single-series stream of this module."""
    return st.one_of(gauges(), counters(), sparse(), bursty(), disordered())
