"""Random stores, from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate, product
from random import Random

from tests.twins.histograms import CUSTOM, Histogram, upper_bound
from tests.twins.promql import Data
from tests.twins.windows import Started, Value

LABELS = {"job": ["a", "b"], "instance": ["0", "1", "2"], "zone": ["", "x"]}
NUMBERS = ["gauge", "counter"]
# Counters of exponential and of custom buckets; gauges with numbers among the histograms.
HISTOGRAMS = ["latency", "custom", "mixed"]
# What only their own functions are asked of: a series for each bucket, what is known of targets,
# numbers with start timestamps.
CLASSIC, INFO, STARTED = "classic", "target_info", "started"
GAPS = [*[10_000] * 6, *[15_000] * 4, 5_000, 11_003, 11_003, 200_000]


def times(rng: Random, most: int) -> list[int]:
    return list(
        accumulate(
            rng.choices(GAPS, k=min(rng.randint(0, 3 * most), most)),
            initial=rng.choice([0, 3_000, 3_000, 3_000, 3_000, 250_000]),
        )
    )


def quarter(rng: Random) -> float:
    """Sums of quarters are exact, so nothing hangs on the order of additions."""
    return rng.randint(-400, 400) / 4


def gauge(rng: Random) -> Value | None:
    odd: list[Value | None] = [None, math.nan, math.inf, -math.inf, 0.0, -0.0]
    return rng.choice(odd) if rng.random() < 0.25 else quarter(rng)


def histogram(rng: Random, schema: int, bounds: tuple[float, ...] = (), threshold: float = 0.0) -> Histogram:
    """Whole counts; buckets above the zero bucket."""
    if bounds:
        found = {i: float(rng.randint(1, 4)) for i in range(len(bounds) + 1) if rng.random() < 0.6}
        return Histogram(CUSTOM, sum(found.values()), quarter(rng), positive=found, bounds=bounds)
    indices = [i for i in range(-4, 5) if upper_bound(i - 1, schema) >= threshold]
    sides = [{i: float(rng.randint(1, 4)) for i in indices if rng.random() < 0.4} for _ in range(2)]
    zeros = float(rng.randint(0, 2))
    count = zeros + sum(n for side in sides for n in side.values())
    negative = sides[1] if rng.random() < 0.3 else {}
    count -= 0 if negative else sum(sides[1].values())
    return Histogram(schema, count, abs(quarter(rng)), threshold, zeros, sides[0], negative)


def counters(rng: Random, count: int) -> list[Value | None]:
    """Numbers that climb, and fall to zero at times."""
    found, value = [], 0.0
    for _ in range(count):
        step = rng.randint(-1, 12)
        value = 0.0 if step < 0 else value + step
        found.append(value)
    return found


@dataclass(frozen=True)
class Shapes:
    """Which buckets a store's histograms have. Where thresholds cut buckets, all have one schema: else it would
    hang on the order of additions which buckets the zero bucket takes in."""

    schemas: tuple[int, ...]
    thresholds: tuple[float, ...]
    bounds: tuple[tuple[float, ...], ...] = ((-1.0, 0.5, 2.0, 5.0), (0.5, 2.0, 4.0, 5.0))

    def draw(self, rng: Random, name: str) -> Histogram:
        if name == "custom":
            return histogram(rng, CUSTOM, rng.choice(self.bounds))
        return histogram(rng, rng.choice(self.schemas), (), rng.choice(self.thresholds))


SHAPES = [
    Shapes((0,), (0.0,)),
    Shapes((0, 0, 1), (0.0,)),
    Shapes((-1, 0, 1, 2), (0.0, 0.25, 1.0)),
    Shapes((0,), (0.0, 0.3, 3.0)),
]


def histograms(rng: Random, shapes: Shapes, name: str, count: int) -> list[Value | None]:
    found: list[Value | None] = []
    value: Histogram | None = None
    for _ in range(count):
        more = shapes.draw(rng, name)
        before = value
        value = more if value is None or rng.random() < 0.15 else value.plus(more) if rng.random() < 0.8 else value
        if before is not None:
            value = replace(value, hint="reset" if value.is_reset_after(before) else "not_reset")
        found.append(value)
    if name == "mixed":
        drawn = [replace(shapes.draw(rng, name), hint="gauge") for _ in found]
        return [quarter(rng) if rng.random() < 0.2 else h for h in drawn]
    return [None if rng.random() < 0.04 else h for h in found]


BOUNDS = [
    ("0.5", "1", "2", "+Inf"),
    ("-1", "0", "2.5", "Inf"),
    ("1", "1.0", "4", "+Inf"),
    ("1", "4"),
    ("0.5", "wide", "+Inf"),
]


def buckets(rng: Random, labels: list[tuple[str, str]], at: list[int]) -> Data:
    """A classic histogram; its lowest bucket may count too much, and each may miss a sample."""
    counts, found = dict.fromkeys(rng.choice(BOUNDS), 0.0), Data()
    extra = rng.choice([0, 0, 0, 3])
    for t in at:
        more = 0
        for i, le in enumerate(counts):
            more += rng.randint(0, 3)
            counts[le] += more + (extra if i == 0 else 0)
            if rng.random() < 0.97:
                found.setdefault(tuple(sorted([*labels, ("le", le)])), []).append((t, counts[le]))
    return found


def started(rng: Random, at: list[int]) -> list[Value | None]:
    """A counter that says when it began, deltas, or starts that contradict each other."""
    kind, value, start = rng.choice(["counter", "delta", "odd"]), 0.0, rng.choice([0, max(at[0] - 4_000, 0)])
    found: list[Value | None] = []
    for before, t in zip([at[0] - 10_000, *at], at, strict=False):
        if kind == "delta":
            value, start = float(rng.randint(0, 9)), max(before + rng.choice([0, 0, 0, 1, 2_000]), 0)
        elif rng.random() < 0.15:
            value, start = float(rng.randint(0, 12)), max(rng.randint(before, t), 0)
        else:
            value += rng.randint(0, 5)
        odd = [0, start, start, t, t + 5, max(before - 5, 0)]
        found.append(Started(value, rng.choice(odd) if kind == "odd" else start) if rng.random() > 0.03 else None)
    return found


def store(rng: Random, names: list[str], series: int = 5, samples: int = 40) -> Data:
    data: Data = {}
    shapes = rng.choice(SHAPES)
    for name in names:
        for values in rng.sample(list(product(*LABELS.values())), min(rng.randint(0, 3 * series), series)):
            labels = [("__name__", name), *((n, v) for n, v in zip(LABELS, values, strict=True) if v)]
            at = times(rng, samples)
            column: list[Value | None]
            if name.startswith("classic"):
                data |= buckets(rng, labels, at[::3])
                continue
            if name == "target_info":
                labels.append(("version", rng.choice("12")))
                column = [1.0 if rng.random() < 0.9 else None for _ in at]
            elif name == STARTED:
                column = started(rng, at)
            elif name.startswith("gauge"):
                column = [gauge(rng) for _ in at]
            elif name.startswith("counter"):
                column = counters(rng, len(at))
            else:
                column = histograms(rng, shapes, name, len(at))
            data[tuple(sorted(labels))] = list(zip(at, column, strict=True))
    return data
