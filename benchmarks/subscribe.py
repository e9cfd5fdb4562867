"""One new step of a stream: `poll` beside the same step as an instant query, and beside the last hour as a range query."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import metricsdb as mdb
from benchmarks import workloads
from metricsdb.testing import FakeClock

EXPRESSIONS = [
    'sum by (datacenter) (rate({__name__=~"usage_.*"}[5m]))',
    'sum by (datacenter) (rate({__name__=~"usage_.*"}[1h]))',
    'quantile_over_time(0.9, {__name__=~"usage_.*"}[1h])',
    'max_over_time(rate({__name__=~"usage_.*"}[5m])[1h:10s])',
    'avg_over_time(sum by (datacenter) (rate({__name__=~"usage_.*"}[5m]))[2h:1m])',
]
POLLS = 15


def main(quick: bool = False) -> list[dict]:
    hosts, steps = (5, 1_000) if quick else (100, 1_000)
    fleet = workloads.devops(hosts, steps)
    fleet.labels = fleet.labels.with_columns(fleet.labels["__name__"].str.replace("^(cpu_)?", "usage_"))
    rows = []
    for expr in EXPRESSIONS:
        clock = FakeClock(fleet.times(steps - POLLS - 2)[0].item())
        db = mdb.Database(clock=clock)
        refs = db.register(fleet.labels)
        for step in range(steps):
            db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step])
        stream = db.subscribe(expr, step="10s")
        stream.poll(clock.now_ms() / 1000 + 10)
        polls, instants, hours = [], [], []
        for _ in range(POLLS):
            clock.move(10)
            at = (stream.next_ms) / 1000
            polls.append(_cpu(lambda: stream.poll(at)))
            instants.append(_cpu(lambda: db.query(expr, at)))
        hours.append(_cpu(lambda: db.query_range(expr, at - 3_600, at, "10s")))
        rows.append({
            "expression": expr, "series": fleet.series,
            "poll, cpu ms": float(np.median(polls)), "instant query, cpu ms": float(np.median(instants)),
            "hour as range query, cpu ms": min(hours), "kept MB": stream.held() * 8 / 1e6,
        })  # fmt: skip
    return rows


def _cpu(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return (time.process_time() - before) * 1e3
