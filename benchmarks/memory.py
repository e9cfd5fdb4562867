"""What series and samples cost, all in, by growth of a process: a million series with 11 labels, and a node fleet.

head: growth by every sample after a series' first one, that is without labels and index.
account: growth of `db.memory()`, what was freed and the C library keeps among it, as a part of the growth in RSS.
"""

from __future__ import annotations

import multiprocessing
import pathlib
import pickle
import tempfile
from collections.abc import Callable
from functools import partial

import polars as pl

import metricsdb as mdb
from benchmarks import workloads
from metricsdb.heap import return_freed_memory


def main(quick: bool = False) -> list[dict]:
    hosts, instances = (5_000, 6) if quick else (100_000, 60)
    return [
        _case("card, 3 samples", partial(workloads.card, hosts, 3), goal=None if quick else 400),
        _case("card, 240 samples", partial(workloads.card, hosts, 240), columns=True, goal=None if quick else 750),
        _case("node, 240 samples", partial(workloads.node, instances, 240)),
    ]


def _case(name: str, make: Callable[[], workloads.Workload], columns: bool = False, goal: int | None = None) -> dict:
    """A process makes the fleet and another one takes it in, so that nothing grows into what the first one freed.

    `columns`: instead of remote-write bodies. `goal`: bytes a series, of a million.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "fleet")
        _apart(_save, make, columns, path)
        return {"case": name, **_apart(_grow, path, columns, goal)}


def _apart(run: Callable, *arguments: object):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


def _save(make: Callable[[], workloads.Workload], columns: bool, path: pathlib.Path) -> None:
    fleet = make()
    if not columns:
        _ = fleet._templates
    with path.open("wb") as file:
        pickle.dump(fleet, file, protocol=5)


def _grow(path: pathlib.Path, columns: bool, goal: int | None) -> dict:
    with path.open("rb") as file:
        fleet: workloads.Workload = pickle.load(file)
    _warm_up()
    return_freed_memory()
    db = mdb.Database()
    accounted, before = int(db.memory()["bytes"].sum()), _rss()
    write = _columns(db, fleet) if columns else _bodies(db, fleet)
    accepted = write(0)
    first = _rss()
    accepted += sum(map(write, range(1, fleet.steps)))
    memory = db.memory()
    last = _rss()
    assert accepted == fleet.samples, f"{accepted} of {fleet.samples}"
    text = sum(len(c.name) * c.count() + c.str.len_bytes().sum() for c in fleet.labels.iter_columns())
    per_series = (last - before) / fleet.series
    return {
        "series": fleet.series,
        "RSS B/series": per_series,
        "RSS B/sample": (last - before) / fleet.samples,
        "head B/sample": (last - first) / (fleet.samples - fleet.series),
        "accounted B/series": int(memory.filter(pl.col("part") != "(freed)")["bytes"].sum()) / fleet.series,
        "account / RSS": (int(memory["bytes"].sum()) - accounted) / (last - before),
        "labels as text B/series": text / fleet.series,
        "goal B/series": goal,
        "met": None if goal is None else "yes" if per_series <= goal else "no",
    }


def _warm_up() -> None:
    """Brings code in, and what the process makes once."""
    fleet = workloads.card(10, 300)
    for write in (_columns, _bodies):
        db = mdb.Database()
        step = write(db, fleet)
        for at in range(fleet.steps):
            step(at)
        db.memory()


def _rss() -> int:
    with open("/proc/self/smaps_rollup") as file:  # `statm` may be some MB behind
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Rss:"))


def _columns(db: mdb.Database, fleet: workloads.Workload) -> Callable[[int], int]:
    """Appends a step as columns; how many samples were accepted."""
    refs = db.register(fleet.labels)
    return lambda step: db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step]).accepted


def _bodies(db: mdb.Database, fleet: workloads.Workload) -> Callable[[int], int]:
    """Appends a step as remote-write bodies; how many samples were accepted."""
    return lambda step: sum(
        db.ingest(body, "remote_write").accepted for body, _, _ in fleet.bodies(range(step, step + 1))
    )
