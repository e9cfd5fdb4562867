"""Label filters over 12,000 services x 8 series: boolean, regex, negative; beside a scan by Polars."""

from __future__ import annotations

import time

import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks import workloads

FILTERS = {
    "boolean": (
        '{code="500" and (service="pay-0042" or namespace=~"team-1.") and not region in ("eu-west-1")}',
        (pl.col("code") == "500")
        & ((pl.col("service") == "pay-0042") | pl.col("namespace").str.contains("^team-1.$"))
        & (pl.col("region") != "eu-west-1"),
    ),
    "regex prefix": ('{service=~"checkout-.*",code="200"}',
                     pl.col("service").str.starts_with("checkout-") & (pl.col("code") == "200")),
    "regex suffix": ('{pod=~".*7f"}', pl.col("pod").str.ends_with("7f")),
    "regex set": ('{service=~"auth-0001|mail-0002|geo-0003"}',
                  pl.col("service").is_in(["auth-0001", "mail-0002", "geo-0003"])),
    "negative": ('{__name__="http_requests_total",code!="200",region!~"us-.*",method="GET"}',
                 (pl.col("code") != "200") & ~pl.col("region").str.starts_with("us-") & (pl.col("method") == "GET")),
}  # fmt: skip


def main(quick: bool = False) -> list[dict]:
    fleet = workloads.svc(1_200 if quick else 12_000, 1)
    db = mdb.Database()
    db.append_batch(db.register(fleet.labels), fleet.times(0).view("datetime64[ms]"), fleet.values[0])
    rows = []
    for name, (selector, scan) in FILTERS.items():
        count = f"count({selector})"
        found = int(db.query(count, time=workloads.START_MS / 1000)["value"][0])
        assert found == fleet.labels.filter(scan).height, name
        rows.append({"case": name, "engine": "metricsdb", "series": found,
                     **_times(lambda count=count: db.query(count, time=workloads.START_MS / 1000))})  # fmt: skip
        rows.append({"case": name, "engine": "polars scan", "series": found,
                     **_times(lambda scan=scan: fleet.labels.filter(scan).height)})  # fmt: skip
    return rows


def _times(run) -> dict:
    run()
    taken = []
    for _ in range(200):
        before = time.perf_counter()
        run()
        taken.append((time.perf_counter() - before) * 1e3)
    return {"p50 ms": float(np.median(taken)), "p99 ms": float(np.percentile(taken, 99))}
