"""Rollups: samples a second of CPU from sealed chunks to records, beside polars' group_by_dynamic on the same frame."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

import metricsdb as mdb

SERIES, SAMPLES = 200, 23_040
START = 1_780_000_200
EVERY = '{__name__=~".+"}'


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def lowest(run: Callable[[], object], times: int = 3) -> float:
    """Seconds of CPU, the least of some runs."""
    spent = []
    for _ in range(times):
        begun = cpu()
        run()
        spent.append(cpu() - begun)
    return min(spent)


def frame(series: int) -> pl.DataFrame:
    """Four days at 15 s: half of the series counters, half gauges of two decimals."""
    rng = np.random.default_rng(1)
    times = START + 15 * np.arange(SAMPLES)
    parts = []
    for i in range(series):
        counter = np.cumsum(rng.poisson(5, SAMPLES)).astype(float)
        values = counter if i % 2 else np.round(20 + np.cumsum(rng.normal(0, 0.1, SAMPLES)), 2)
        parts.append(pl.DataFrame({"__name__": "m_total" if i % 2 else "m", "i": str(i), "t": times, "value": values}))
    stamp = pl.from_epoch("t", time_unit="s").dt.replace_time_zone("UTC").alias("timestamp")
    return pl.concat(parts).with_columns(stamp).drop("t")


def rolled(samples: pl.DataFrame, line: str) -> tuple[float, float]:
    """Million samples a second of CPU, bytes a record of the last level."""
    best, size = float("inf"), 0.0
    for _ in range(3):
        with mdb.Database() as db:
            db.write(samples)
            db.rollups.use({EVERY: line})
            begun = cpu()
            done = db.rollups.run()
            best = min(best, (cpu() - begun) / done.samples)
            size = float(db.rollups.levels()["bytes_per_record"][-1])
    return 1e-6 / best, size


def asked(samples: pl.DataFrame) -> list[dict[str, object]]:
    """Samples in a query's range by seconds of CPU, read from samples and from records that stand beside them."""
    rows: list[dict[str, object]] = []
    end = START + 15 * SAMPLES - 3600
    with mdb.Database() as plain, mdb.Database() as both:
        for db in (plain, both):
            db.write(samples)
            db.reencode()
        both.rollups.use({EVERY: "1m -> 10m -> 1h"})
        both.rollups.run()
        for expr, step in (
            ("rate(m_total[1h])", 600),
            ("max_over_time(m[6h])", 3600),
            ("increase(m_total[1d])", 86400),
        ):
            for name, db in (("samples", plain), ("records", both)):
                query = partial(db.query_range, expr, START + 86_400, end, step, cache=False)
                speed = samples.height / 2 / lowest(query, 5) / 1e6
                rows.append(
                    {"case": f"{expr} every {step} s, {name}", "M samples/CPU-s": speed, "bytes a record": None}
                )
    return rows


def main(quick: bool = False) -> list[dict[str, object]]:
    samples = frame(20 if quick else SERIES)
    rows: list[dict[str, object]] = []
    for line in ("1h", "10m", "1m", "1m -> 10m -> 1h", "10m keep 1%", "10m with quantiles"):
        speed, size = rolled(samples, line)
        rows.append({"case": line, "M samples/CPU-s": speed, "bytes a record": size})
    ordered = samples.sort("i", "timestamp")
    value = pl.col("value")
    moments = (value.min(), value.max(), value.sum(), value.first(), value.last(), value.var())
    columns = [pl.len().alias("n"), *(moment.alias(str(i)) for i, moment in enumerate(moments))]
    for every in ("1h", "10m", "1m"):
        grouped = ordered.lazy().group_by_dynamic("timestamp", every=every, closed="right", label="right", group_by="i")
        spent = lowest(grouped.agg(columns).collect)
        speed = samples.height / spent / 1e6
        rows.append({"case": f"polars group_by_dynamic, {every}", "M samples/CPU-s": speed, "bytes a record": None})
    return rows + asked(samples)
