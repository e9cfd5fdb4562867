"""One new step of a stream: `poll` beside the step as an instant query, and the last hour as a range query."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks.workloads import START_MS
from metricsdb.testing import FakeClock

EXPRESSIONS = [
    "sum by (zone) (rate(c[5m]))",
    "sum by (zone) (rate(c[1h]))",
    "quantile_over_time(0.9, c[1h])",
    "max_over_time(rate(c[5m])[1h:10s])",
    "avg_over_time(sum by (zone) (rate(c[5m]))[2h:1m])",
]
POLLS, STEPS, STEP_S = 15, 1_000, 10


def main(quick: bool = False) -> list[dict]:
    series = 50 if quick else 1_000
    db = mdb.Database()
    numbers = pl.Series("host", np.arange(series))
    labels = pl.DataFrame({"host": numbers.cast(pl.String), "zone": (numbers % 10).cast(pl.String)})
    refs = db.register(labels.with_columns(__name__=pl.lit("c")))
    counts = np.random.default_rng(1).poisson(20, (STEPS, series)).cumsum(axis=0)
    for step in range(STEPS):
        db.append_batch(refs, START_MS / 1000 + step * STEP_S, counts[step])
    return [{"expression": expr, "series": series, **_measure(db, expr)} for expr in EXPRESSIONS]


def _measure(db: mdb.Database, expr: str) -> dict:
    clock = FakeClock(START_MS + (STEPS - POLLS - 2) * STEP_S * 1000)
    db._clock = clock
    stream = db.subscribe(expr, step=STEP_S)
    stream.poll()
    polls, instants = [], []
    for _ in range(POLLS):
        clock.move(STEP_S)
        polls.append(_cpu(stream.poll))
        instants.append(_cpu(lambda: db.query(expr)))
    hour = min(_cpu(lambda: db.query_range(expr, "-1h", "now", STEP_S, cache=False)) for _ in range(3))
    return {
        "poll, cpu ms": float(np.median(polls)),
        "instant query, cpu ms": float(np.median(instants)),
        "hour as range query, cpu ms": hour,
        "kept MB": stream.held() * 8 / 1e6,
    }


def _cpu(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return (time.process_time() - before) * 1e3
