"""Columns in: 40,000 series x 361 steps in ten-step batches, and one sample each to a million series; how long a
scrape's write takes while old chunks are re-encoded beside it, and while something else takes the other core."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

import duckdb
import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks import workloads


def main(quick: bool = False) -> list[dict]:
    fleet = workloads.devops(400 if quick else 4_000, 361)
    rows = [_row("ten-step batches, 40 k series", fleet, peer, run) for peer, run in PEERS.items()]
    many = workloads.devops(10_000 if quick else 100_000, 2)
    rows.append(_row("one sample each, 1 M series", many, "metricsdb", lambda f: _metricsdb(f, steps_per_batch=1)))
    rows.append(_row("one sample each, 1 M series", many, "duckdb", lambda f: _duckdb(f, steps_per_batch=1)))
    return rows + _waits(workloads.node(5 if quick else 60, 600))


def _row(case: str, fleet: workloads.Workload, peer: str, run) -> dict:
    cpu = run(fleet)
    return {
        "case": case,
        "engine": peer,
        "samples": fleet.samples,
        "M samples/CPU-s": fleet.samples / cpu / 1e6,
    }


def _batches(fleet: workloads.Workload, refs: np.ndarray, steps: int):
    for first in range(0, fleet.steps, steps):
        block = fleet.values[first : first + steps]
        times = np.concatenate([fleet.times(first + k) for k in range(len(block))])
        yield np.tile(refs, len(block)), times.view("datetime64[ms]"), block.ravel()


def _metricsdb(fleet: workloads.Workload, steps_per_batch: int = 10) -> float:
    db = mdb.Database()
    refs = db.register(fleet.labels)
    cpu = 0.0
    for batch in _batches(fleet, refs, steps_per_batch):
        before = time.process_time()
        report = db.append_batch(*batch)
        cpu += time.process_time() - before
        assert report.accepted == len(batch[0])
    return cpu


def _duckdb(fleet: workloads.Workload, steps_per_batch: int = 10) -> float:
    con = duckdb.connect()
    con.execute('create table samples(series uinteger, "at" timestamp_ms, value double)')
    cpu = 0.0
    for refs, times, values in _batches(fleet, np.arange(fleet.series, dtype=np.uint32), steps_per_batch):
        batch = pl.DataFrame({"series": refs, "at": times, "value": values})  # noqa: F841 - named in the SQL
        before = time.process_time()
        con.execute("insert into samples select * from batch")
        con.execute("checkpoint")
        cpu += time.process_time() - before
    return cpu


def _polars(fleet: workloads.Workload) -> float:
    frame, cpu = None, 0.0
    for refs, times, values in _batches(fleet, np.arange(fleet.series, dtype=np.uint32), 10):
        before = time.process_time()
        batch = pl.DataFrame({"series": refs, "at": times, "value": values})
        frame = batch if frame is None else frame.vstack(batch)
        cpu += time.process_time() - before
    return cpu


PEERS = {"metricsdb": _metricsdb, "duckdb": _duckdb, "polars (uncompressed)": _polars}


def _waits(fleet: workloads.Workload) -> list[dict]:
    """One scrape a write, again and again for as long as re-encoding the fleet takes."""
    db = mdb.Database()
    refs = db.register(fleet.labels)
    for step in range(fleet.steps):
        db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step])
    scrape = slice(0, len(fleet.labels) // 60)
    now = fleet.times(fleet.steps - 1)[scrape]

    def write_beside(work: Callable[[], object] | None, seconds: float = 0.0) -> tuple[list[float], float]:
        nonlocal now
        other = threading.Thread(target=work) if work else None
        began, took = time.perf_counter(), []
        if other:
            other.start()
        while (other and other.is_alive()) or time.perf_counter() - began < seconds:
            now = now + 15_000
            before = time.perf_counter()
            db.append_batch(refs[scrape], now.view("datetime64[ms]"), fleet.values[0, scrape])
            took.append(1e3 * (time.perf_counter() - before))
        return took, time.perf_counter() - began

    def hash_for(seconds: float) -> None:
        block, end = bytes(1 << 20), time.perf_counter() + seconds
        while time.perf_counter() < end:
            hashlib.sha256(block)

    reencoding, seconds = write_beside(db.reencode)
    hashing, _ = write_beside(lambda: hash_for(seconds))
    alone, _ = write_beside(None, seconds)
    cases = {"alone": alone, "beside hashing": hashing, "beside re-encoding": reencoding}
    return [
        {
            "table": f"write of a scrape of {len(now)} samples, ms",
            "case": case,
            "writes": len(took),
            "median": float(np.median(took)),
            "p99.9": float(np.quantile(took, 0.999)),
            "worst": max(took),
        }
        for case, took in cases.items()
    ]
