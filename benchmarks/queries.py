"""Questions in process, CPU of the whole process, answers as frames; beside DuckDB over the same samples in memory."""

from __future__ import annotations

import statistics
import time

import duckdb
import polars as pl

import metricsdb as mdb
from benchmarks import workloads
from benchmarks.workloads import Workload

AVERAGES = [f"avg by (hostname) (avg_over_time(cpu_usage_{m}[1h]))" for m in workloads.CPU_METRICS]
TOP = "topk(10, sum by (service) (rate(http_requests_total[5m])))"


def main(quick: bool = False) -> list[dict]:
    devops = workloads.devops(100 if quick else 4_000, 361)
    rows = [
        _ours(devops, "double-groupby-all", AVERAGES),
        _duckdb(
            devops, "double-groupby-all", "SELECT hostname, name, avg(value) FROM s JOIN l USING (id) GROUP BY ALL"
        ),
        _ours(devops, "lastpoint", ['{__name__=~"cpu_.+"}']),
        _duckdb(devops, "lastpoint", "SELECT id, max(t), arg_max(value, t) FROM s GROUP BY id"),
    ]
    card = workloads.card(1_000 if quick else 100_000)
    rows.append(_ours(card, "count", ['count({__name__=~"cpu_.+"})']))
    rows.append(_duckdb(card, "count", "SELECT count(DISTINCT id) FROM s"))
    rows.append(_ours(card, "count by region", ['count by (region) ({__name__=~"cpu_.+"})']))
    rows.append(_ours(workloads.svc(600 if quick else 12_000), "topk of rate by service", [TOP]))
    return rows


def _ours(fleet: Workload, name: str, exprs: list[str]) -> dict:
    db = mdb.Database()
    refs = db.register(fleet.labels)
    for step in range(fleet.steps):
        db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step])
    end = fleet.end_ms / 1000
    return {"case": f"{fleet.name}: {name}", "engine": "metricsdb",
            **_cost(lambda: sum(db.query(expr, end).height for expr in exprs))}  # fmt: skip


def _duckdb(fleet: Workload, name: str, sql: str) -> dict:
    con = duckdb.connect()
    names = fleet.labels.rename({"__name__": "name"}).with_row_index("id")
    con.register("names", names.to_arrow())
    con.execute("CREATE TABLE l AS SELECT * FROM names")
    con.execute("CREATE TABLE s (id UINTEGER, t BIGINT, value DOUBLE)")
    for step in range(fleet.steps):
        part = pl.DataFrame({"id": names["id"], "t": fleet.times(step), "value": fleet.values[step]})
        con.register("part", part.to_arrow())
        con.execute("INSERT INTO s SELECT * FROM part")
    con.execute("CHECKPOINT")
    return {"case": f"{fleet.name}: {name}", "engine": "duckdb", **_cost(lambda: pl.DataFrame(con.sql(sql)).height)}


def _cost(ask) -> dict:
    costs, height = [], ask()
    for _ in range(15):
        before = time.process_time()
        ask()
        costs.append((time.process_time() - before) * 1e3)
    return {"CPU ms": statistics.median(costs), "least": min(costs), "rows": height}
