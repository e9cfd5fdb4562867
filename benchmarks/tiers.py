"""Queries of cold storage: what of its bytes a selective one reads; CPU of fetching, of recall, of a second query."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import metricsdb as mdb
from metricsdb.clock import SystemClock
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.memory import NativeMemory
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects

DAY_MS = 86_400_000
T0 = 1_780_012_800_000
STEP_MS = 60_000
# As many as a move puts into one part.
SERVICES_OF_PART = 5_000


def main(quick: bool = False) -> list[dict]:
    services, days = (500, 2) if quick else (12_000, 30)
    with TemporaryDirectory() as folder:
        return _measured(Objects(Path(folder)), services, days)


def _measured(objects: Objects, services: int, days: int) -> list[dict]:
    mover = Mover(Catalog(objects), "benchmark", SystemClock())
    for first in range(0, services, SERVICES_OF_PART):
        _move(mover, range(first, min(first + SERVICES_OF_PART, services)), days)
    state = mover.catalog.state
    stored = sum(part.bytes for part in state.parts)
    stored += sum({part.series_key: part.series_bytes for part in state.parts}.values())
    start, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (T0, T0 + days * DAY_MS - 1))
    rows = []
    for what, selector in (("one service", 'service="s00123"'), ("ten services", 'service=~"s0012."')):
        db = mdb.Database()
        db._tiers.catalogs = (Catalog(objects),)
        expr = f"sum(rate(requests_total{{{selector}}}[5m]))"
        before = objects.bytes_read
        first = _cpu(lambda db=db, expr=expr: db.query_range(expr, start, end, "1h"))
        read = objects.bytes_read - before
        again = _cpu(lambda db=db, expr=expr: db.query_range(expr, start, end, "1h"))
        rows.append(
            {
                "table": f"{services:,} services, {days} days of {DAY_MS // STEP_MS:,} samples, {stored / 1e6:,.0f} MB",
                "query": what,
                "read MB": read / 1e6,
                "share": read / stored,
                "cpu ms": first,
                "again, cpu ms": again,
            }
        )
    db = mdb.Database()
    db._tiers.catalogs = (Catalog(objects),)
    samples = services * DAY_MS // STEP_MS
    views: list[Any] = []
    spent = _cpu(
        lambda: views.append(db.recall("requests_total", start, datetime.fromtimestamp(T0 / 1000 + 86_399, UTC)))
    )
    rows.append({"table": "recall", "samples": samples, "million samples per cpu second": samples / spent / 1e3})
    return rows


def _move(mover: Mover, services: range, days: int) -> None:
    """A part a day; each day has the first one's values, so that but one has to stand in memory."""
    db = mdb.Database()
    names = pl.Series(np.array(services)).cast(pl.String).str.zfill(5)
    refs = db.register(pl.DataFrame({"__name__": ["requests_total"] * len(services), "service": "s" + names}))
    count = DAY_MS // STEP_MS
    rng = np.random.default_rng(services.start)
    for block in np.array_split(refs, max(1, len(services) // 1000)):
        times = np.tile(T0 + STEP_MS * np.arange(count), len(block)).view("datetime64[ms]")
        values = rng.poisson(30, (len(block), count)).cumsum(axis=1).astype(np.float64)
        db.append_batch(np.repeat(block, count), times, values.ravel())
    first = NativeMemory(lambda: db._native).export([Rule('{__name__=~".+"}', None)], 0, T0, T0 + DAY_MS - 1)
    for day in range(days):
        later = first.samples.with_columns(pl.col("timestamp") + day * DAY_MS)
        mover.add(replace(first, samples=later))


def _cpu(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return (time.process_time() - before) * 1e3
