"""Over HTTP, the same bodies and questions to MetricsDB, VictoriaMetrics and Prometheus in one run."""

from __future__ import annotations

import random
import statistics

from benchmarks import workloads
from benchmarks.process import Server, available

MAX8 = 'max by (__name__) (max_over_time(cpu_usage_{m}{{hostname=~"{{eight}}"}}[1m]))'
RATE = "rate(http_requests_total[5m])"
# Name, expressions whose costs are added, seconds from the fleet's start to the first step (None: an instant query at
# its end), step in seconds. {one}: a host; {eight}: eight of them: others each time.
QUESTIONS: dict[str, list[tuple[str, list[str], int | None, int]]] = {
    "devops-int": [
        ("single-groupby-1-1-1", ['max(max_over_time(cpu_usage_user{hostname="{one}"}[1m]))'], 0, 60),
        ("single-groupby-5-8-1", [MAX8.format(m=m) for m in workloads.CPU_METRICS[:5]], 0, 60),
        ("cpu-max-all-8",
         [f'max(max_over_time(cpu_usage_{m}{{hostname=~"{{eight}}"}}[5m]))' for m in workloads.CPU_METRICS], 0, 300),
        ("double-groupby-1", ["avg by (hostname) (avg_over_time(cpu_usage_user[1h]))"], None, 0),
        ("double-groupby-all",
         [f"avg by (hostname) (avg_over_time(cpu_usage_{m}[1h]))" for m in workloads.CPU_METRICS], None, 0),
        ("high-cpu-all", ["max by (hostname) (max_over_time(cpu_usage_user[1m])) > 90"], 0, 60),
        ("lastpoint", ['{__name__=~"cpu_.+"}'], None, 0),
        ("range-avg-by-region", ["avg by (region) (cpu_usage_user)"], 0, 10),
        ("filter-count", ['count({service=~"1[0-9]",region!="us-west-1"})'], None, 0),
        ("filter-host-regex", ['count(cpu_usage_user{hostname=~"host_.*7",os!~"Ubuntu15.*"})'], None, 0),
    ],
    "svc": [
        ("topk-rate-by-service", [f"topk(10, sum by (service) ({RATE}))"], None, 0),
        ("quantile-by-region", ['quantile by (region) (0.99, rate(http_requests_total{code="200"}[5m]))'], None, 0),
        ("error-ratio-range",
         [f'sum by (region) (rate(http_requests_total{{code=~"5.."}}[5m])) / sum by (region) ({RATE})'], 300, 60),
        ("regex-services", ['sum(rate(http_requests_total{service=~"(checkout|pay)-01[0-9]{2}"}[5m]))'], 300, 15),
        ("negative-matchers",
         ['count by (code) (http_requests_total{service!~"checkout-.*|pay-.*|search-0.*",namespace!="team-1",'
          'code!~"2.."})'], None, 0),
        ("suffix-regex-pod", ['count(http_requests_total{pod=~".*a7"})'], None, 0),
        ("group-count", ["count(count by (service) (http_requests_total))"], None, 0),
    ],
    "node": [
        ("cpu-by-mode", ["sum by (mode) (rate(node_cpu_seconds_total[5m]))"], 0, 15),
        ("all-metrics-count", ['count by (__name__) ({job="node"})'], None, 0),
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
        for name, exprs, after, step in QUESTIONS[fleet.name]:
            rows.append({"case": f"{fleet.name}: {name}", "engine": engine, **_ask(server, fleet, exprs, after, step)})
        return rows


def _ask(server: Server, fleet: workloads.Workload, exprs: list[str], after: int | None, step: int) -> dict:
    """CPU of the server a question, asked until it cost half a second: the kernel counts in ticks of 10 ms."""
    draw, hosts = random.Random(7), []
    if "hostname" in fleet.labels.columns:
        hosts = fleet.labels["hostname"].unique(maintain_order=True).to_list()
    end = fleet.end_ms / 1000
    start = end if after is None else workloads.START_MS / 1000 + after
    costs, rows, total = [], 0, 0.0
    for _ in range(3):
        before, asked = server.cpu_s(), 0
        while asked < 5 or (server.cpu_s() - before < 0.5 and asked < 200):
            rows, total, asked = 0, 0.0, asked + 1
            one, eight = (draw.choice(hosts), "|".join(draw.sample(hosts, 8))) if hosts else ("", "")
            for expr in exprs:
                result = server.query(expr.replace("{one}", one).replace("{eight}", eight), start, end, step)
                rows += len(result)
                total += sum(float(v[1]) for r in result for v in r.get("values") or [r["value"]])
        costs.append((server.cpu_s() - before) * 1e3 / asked)
    return {"CPU ms": statistics.median(costs), "series": rows, "sum": f"{total:.6g}"}
