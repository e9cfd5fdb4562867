"""A database some of whose samples lie on disk or in a cold store, made by moving them there."""

from __future__ import annotations

from typing import Any

import metricsdb as mdb
from metricsdb.clock import SystemClock
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.memory import NativeMemory, StoreMemory
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects

ALL = '{__name__=~".+"}'


def mover_of(db: mdb.Database, where: Any = "memory://") -> Mover:
    """What moves this database's samples to a store, where its queries then find them: before those of others."""
    catalog = Catalog(Objects(where))
    db._tiers.catalogs = (*db._tiers.catalogs, catalog)
    return Mover(catalog, "test", SystemClock())


def move(db: mdb.Database, mover: Mover, start: int, end: int, selector: str = ALL, of: Mover | None = None) -> int:
    """Moves samples in [start, end] to a store, from another one or from memory; how many."""
    memory = NativeMemory(lambda: db._native) if of is None else StoreMemory(of)
    export = memory.export([Rule(selector, None)], 0, start, end)
    moved = mover.add(export)
    if export.series.height:
        assert memory.drop(export.series, start, end) == export.series.height
    return moved.samples
