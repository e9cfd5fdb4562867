"""Over HTTP, the same bodies and questions to MetricsDB, VictoriaMetrics and Prometheus in one run."""

from __future__ import annotations

import statistics

from benchmarks import workloads
from benchmarks.process import Server, available

QUESTIONS = {
    "node": [
        ("cpu-by-mode", "sum by (mode) (rate(node_cpu_seconds_total[5m]))", 15),
    ],
    "devops-int": [
        ("double-groupby-all",
         [f"avg by (hostname) (avg_over_time(cpu_usage_{m}[1h]))" for m in workloads.CPU_METRICS], 0),
        ("max-by-region", "max by (region) (cpu_usage_user)", 10),
        ("lastpoint", '{__name__=~"cpu_.+"}', 0),
    ],
    "svc": [
        ("topk-rate-by-service", "topk(10, sum by (service) (rate(http_requests_total[5m])))", 0),
        ("quantile-by-region", 'quantile by (region) (0.99, rate(http_requests_total{code="200"}[5m]))', 0),
    ],
}  # fmt: skip


def main(quick: bool = False) -> list[dict]:
    fleets = [workloads.node(6 if quick else 60), workloads.devops(100 if quick else 4_000, 361),
              workloads.svc(600 if quick else 12_000)]  # fmt: skip
    rows = []
    for fleet in fleets:
        for engine in ("metricsdb", "victoria-metrics", "prometheus"):
            if available(engine):
                rows += _one(engine, fleet)
    return rows


def _one(engine: str, fleet: workloads.Workload) -> list[dict]:
    with Server(engine) as server:
        cpu, rss = server.cpu_s(), server.rss()
        sent = server.send(fleet.bodies())
        server.settle()
        spent, grown = server.cpu_s() - cpu, server.rss() - rss
        rows = [
            {"case": f"{fleet.name}: remote write", "engine": engine, "samples": sent,
             "M samples/CPU-s": sent / spent / 1e6, "RSS B/sample": grown / sent},
        ]  # fmt: skip
        start, end = workloads.START_MS / 1000, fleet.end_ms / 1000
        for name, exprs, step in QUESTIONS.get(fleet.name, []):
            rows.append({"case": f"{fleet.name}: {name}", "engine": engine, **_ask(server, exprs, start, end, step)})
        return rows


def _ask(server: Server, exprs: str | list[str], start: float, end: float, step: float) -> dict:
    costs, rows, total = [], 0, 0.0
    for _ in range(8):
        before = server.cpu_s()
        for _ in range(5):
            for expr in [exprs] if isinstance(exprs, str) else exprs:
                result = server.query(expr, start, end, step)
        costs.append((server.cpu_s() - before) * 1e3 / 5)
        rows = len(result)
        total = sum(float(v[1]) for r in result for v in r.get("values") or [r["value"]])
    return {"CPU ms": statistics.median(costs), "series": rows, "sum": f"{total:.6g}"}
