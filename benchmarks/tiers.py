"""Queries of cold storage: what of its bytes a selective one reads; CPU of fetching, of recall, of a second query."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
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


def main(quick: bool = False) -> list[dict]:
    services, days = (500, 2) if quick else (12_000, 30)
    objects = Objects("memory://")
    mover = Mover(Catalog(objects), "benchmark", SystemClock())
    for day in range(days):
        _move_a_day(mover, services, T0 + day * DAY_MS)
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


def _move_a_day(mover: Mover, services: int, day_ms: int) -> None:
    db = mdb.Database()
    names = pl.Series(np.arange(services)).cast(pl.String).str.zfill(5)
    refs = db.register(pl.DataFrame({"__name__": ["requests_total"] * services, "service": "s" + names}))
    count = DAY_MS // STEP_MS
    rng = np.random.default_rng(day_ms)
    for block in np.array_split(refs, max(1, services // 1000)):
        times = np.tile(day_ms + STEP_MS * np.arange(count), len(block)).view("datetime64[ms]")
        values = rng.poisson(30, (len(block), count)).cumsum(axis=1).astype(np.float64)
        db.append_batch(np.repeat(block, count), times, values.ravel())
    mover.add(NativeMemory(lambda: db._native).export([Rule('{__name__=~".+"}', None)], 0, day_ms, day_ms + DAY_MS - 1))


def _cpu(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return (time.process_time() - before) * 1e3
