"""What a series costs: a million series with 11 labels and three samples, by growth of the process."""

from __future__ import annotations

import multiprocessing
import os

from benchmarks import workloads


def main(quick: bool = False) -> list[dict]:
    # A process of its own, so that nothing else's memory is counted.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grow, (5_000 if quick else 100_000,))


def _rss() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _grow(hosts: int) -> list[dict]:
    import metricsdb as mdb

    fleet = workloads.card(hosts)
    _ = fleet._templates
    db = mdb.Database()
    before = _rss()
    for body, _, _ in fleet.bodies():
        db.ingest(body, "remote_write")
    grown = _rss() - before
    accounted = int(db.memory()["bytes"].sum())
    return [
        {"case": "card", "engine": "metricsdb", "series": fleet.series, "RSS B/series": grown / fleet.series,
         "accounted B/series": accounted / fleet.series},
        {"case": "card", "engine": "labels as text alone", "series": fleet.series,
         "RSS B/series": sum(fleet.labels.select(c).to_series().str.len_bytes().sum() + len(c) * fleet.series
                             for c in fleet.labels.columns) / fleet.series},
    ]  # fmt: skip
