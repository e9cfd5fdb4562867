"""Under any limits, any stream of writes: the series that there are, and every sum, are those of a slow model."""

from __future__ import annotations

import math
from collections import defaultdict

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.testing import FakeClock

T0 = 1_700_000_000
LOOKBACK = 300
OVERFLOW = "__overflow__"
Labels = tuple[tuple[str, str], ...]

SERIES = st.tuples(st.sampled_from("ab"), st.sampled_from("123456"), st.sampled_from(["/", "/x"])).map(
    lambda s: (("__name__", s[0]), ("path", s[2]), ("pod", s[1]))
)
VALUES = st.integers(-1000, 1000).map(float) | st.sampled_from([0.1, 0.7, 1e15, 1e-9])
# Seconds since the step before, and what comes then, in one call or one call each.
STEPS = st.lists(
    st.tuples(st.integers(1, 200), st.dictionaries(SERIES, VALUES, min_size=1, max_size=8), st.booleans()),
    min_size=1, max_size=12,
)  # fmt: skip
LIMITS = st.lists(
    st.builds(
        mdb.Limit,
        max_series=st.integers(1, 8),
        by=st.sampled_from(["", "metric", "pod"]),
        at_limit=st.just("overflow"),
        label=st.sampled_from(["pod", "path"]),
        max_folded=st.integers(0, 8),
    )
    | st.builds(mdb.Limit, max_series=st.integers(1, 8), by=st.sampled_from(["", "metric"])),
    max_size=3,
    unique_by=lambda limit: limit.title,
)


class Model:
    """Every series is kept, and where it went."""

    def __init__(self, limits: list[mdb.Limit]) -> None:
        self.limits = limits
        self.stored: set[Labels] = set()
        self.folded: set[Labels] = set()
        self.samples: dict[Labels, list[tuple[int, float]]] = defaultdict(list)

    def full(self, limit: mdb.Limit, labels: Labels, more: bool) -> bool:
        def key(of: Labels) -> list[str]:
            return [dict(of).get(name, "") for name in limit.labels]

        count = sum(key(other) == key(labels) for other in self.stored)
        return count >= limit.max_series + (limit.max_folded if more else 0)

    def admit(self, labels: Labels) -> bool:
        """Whether a series gets in, itself or folded."""
        now, folded_by = labels, []
        while now not in self.stored:
            met = next((n for n in self.limits if self.full(n, now, n in folded_by)), None)
            if met is None:
                self.stored.add(now)
                break
            folded = tuple((name, OVERFLOW if name == met.label else value) for name, value in now)
            if met.at_limit == "reject" or folded == now or met in folded_by:
                return False
            folded_by.append(met)
            now = folded
        if now != labels:
            self.folded.add(labels)
        return True

    def write(self, labels: Labels, at: int, value: float) -> bool:
        if labels not in self.stored and labels not in self.folded and not self.admit(labels):
            return False
        self.samples[labels].append((at, value))
        return True

    def sum(self, metric: str, at: int) -> float | None:
        """What `sum(metric)` would say if nothing had been folded."""
        newest = [
            samples[-1][1]
            for labels, samples in self.samples.items()
            if dict(labels)["__name__"] == metric and samples[-1][0] > at - LOOKBACK
        ]
        return math.fsum(newest) if newest else None


@settings(max_examples=150, deadline=None)
@given(LIMITS, STEPS)
def test_series_and_sums_are_those_of_the_model(limits, steps):
    clock = FakeClock(T0 * 1000)
    db, model, at = mdb.Database(limits=limits, clock=clock), Model(limits), T0
    db.tick()
    for gap, samples, at_once in steps:
        at += gap
        clock.move(gap)
        db.tick()
        rows = sorted(samples.items())
        taken = sum(model.write(labels, at, value) for labels, value in rows)
        frames = [pl.DataFrame([{**dict(s), "timestamp": at, "value": v} for s, v in rows])]
        if not at_once:
            frames = [frames[0].slice(i, 1) for i in range(len(rows))]
        reports = [db.write(frame) for frame in frames]
        assert sum(r.accepted for r in reports) == taken
        assert sum(r.rejected_total for r in reports) == len(rows) - taken
        for metric in sorted({dict(labels)["__name__"] for labels in samples}):
            found, expected = db.query(f"sum({metric})", at)["value"].to_list(), model.sum(metric, at)
            if expected is None:
                assert found == []
            else:
                # Sums of ours are rounded once for each overflow series, and once by the query.
                assert math.isclose(found[0], expected, rel_tol=1e-14, abs_tol=1e-11)
    stored = db.series("{__name__!=''}").drop("series").rows(named=True)
    assert {tuple(sorted(row.items())) for row in stored} == model.stored
    db._native.check()
