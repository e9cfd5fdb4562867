"""A million rows of a range query as Polars frames: what is beyond evaluation, beside Polars' own gather and pivot."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks import workloads
from metricsdb._native import StopSwitch

SELECTOR = '{__name__=~".+"}'
RUNS = 5


def main(quick: bool = False) -> list[dict]:
    rows = []
    for hosts, steps in ((10, 100),) if quick else ((100, 1_000), (1_000, 100)):
        fleet = workloads.devops(hosts, steps)
        db = mdb.Database()
        refs = db.register(fleet.labels)
        for step in range(steps):
            db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step])
        rows += [{"series": fleet.series, "steps": steps, **row} for row in _shapes(db, fleet)]
    return rows


def _shapes(db: mdb.Database, fleet: workloads.Workload) -> list[dict]:
    start, end, step = workloads.START_MS, fleet.end_ms, fleet.step_ms

    def evaluate() -> None:
        # The limit cuts the answer to one series before it is written: what is left is the evaluation.
        stop = StopSwitch()
        db._native.api_query(
            SELECTOR, start, end, step, 300_000, 60_000, 1, "", "query", "benchmark", stop, cache=False
        )

    def answer(wide: bool = False) -> pl.DataFrame:
        return db.query_range(SELECTOR, start / 1000, end / 1000, f"{step}ms", wide=wide, cache=False)

    long, alone = answer(), _best(evaluate)
    assert long.height == fleet.samples
    gathered = np.repeat(np.arange(fleet.series), fleet.steps)
    labels = [c for c in long.columns if c not in ("timestamp", "value")]

    def pivot() -> pl.DataFrame:
        text = long.select(pl.concat_str(labels, separator=",").alias("series"), "timestamp", "value")
        return text.pivot(on="series", index="timestamp", values="value")

    cast = dict.fromkeys(labels, pl.Categorical)
    # A thousand columns take Polars' pivot half a minute.
    peers = [{"what": "polars: text and pivot", **_row(_best(pivot, 1), (0.0, 0.0))}] if fleet.series <= 100 else []
    return [
        *peers,
        {"what": "evaluation alone", **_row(alone, (0.0, 0.0)), "MB": 0.0},
        {"what": "long", **_row(_best(answer), alone), "MB": _megabytes(long)},
        {"what": "wide", **_row(_best(lambda: answer(wide=True)), alone), "MB": _megabytes(answer(wide=True))},
        {"what": "polars: gather of labels", **_row(_best(lambda: fleet.labels[gathered], 2), (0.0, 0.0))},
        {
            "what": "polars: cast of labels to Categorical",
            **_row(_best(lambda: long.cast(cast), 1), (0.0, 0.0)),
            "MB": _megabytes(long.cast(cast)),
        },
    ]


def _megabytes(frame: pl.DataFrame) -> float:
    """Views and codes count once a row; the text behind them once a series."""
    width = {pl.String: 16, pl.Categorical: 4}
    return frame.height * sum(width.get(t.base_type(), 8) for t in frame.dtypes) / 1e6


def _best(run: Callable[[], object], runs: int = RUNS) -> tuple[float, float]:
    """Wall and CPU ms of the best of some runs."""
    run()
    wall, cpu = [], []
    for _ in range(runs):
        before = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return min(wall) * 1e3, min(cpu) * 1e3


def _row(taken: tuple[float, float], alone: tuple[float, float]) -> dict:
    return {
        "wall ms": taken[0],
        "cpu ms": taken[1],
        "beyond evaluation, wall ms": taken[0] - alone[0],
        "beyond evaluation, cpu ms": taken[1] - alone[1],
    }
