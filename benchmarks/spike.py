"""A cardinality explosion: 2,000,000 new series in a minute beside a steady load, and what the steady load feels."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import pathlib
import statistics
import tempfile
import threading
import time

import cramjam
import numpy as np

from benchmarks import workloads
from benchmarks.process import WRITE_HEADERS, Server, available

SECONDS = 60
SENDERS = 4
# Steady probes before the spike, one a second: what is compared with.
CALM_PROBES = 15
QUESTION = 'count(cpu_usage_user{region="us-east-1"})'
# With limits: a metric may have so many series, whoever sends them.
LIMITS = """series_limits:
  - by: metric
    max_series: 100_000
"""


def main(quick: bool = False) -> list[dict]:
    fleet = workloads.devops(100 if quick else 4_000, 90)
    bodies = spike_bodies(20_000 if quick else 2_000_000)
    seconds = 3 if quick else SECONDS
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "limits.yml")
        config.write_text(LIMITS)
        cases = {"metricsdb": (), "victoria-metrics": (), "metricsdb, limits": ("--config", str(config))}
        for case, arguments in cases.items():
            engine = case.split(",")[0]
            if available(engine):
                with Server(engine, *arguments) as server:
                    rows.append({"case": case, **_one(server, fleet, bodies, seconds)})
    return rows


def spike_bodies(series: int) -> list[bytes]:
    """Remote-write bodies of new series, one sample each: every one has labels of its own."""
    time_ms = np.array([workloads.START_MS + 10_000])
    one = np.ones(1)
    bodies = []
    for first in range(0, series, workloads.SERIES_PER_BODY):
        blocks = []
        for i in range(first, min(series, first + workloads.SERIES_PER_BODY)):
            digest = hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest()
            labels = {
                "__name__": "http_request_duration_seconds_count",
                "instance": f"10.1.{i % 200}.7:8080",
                "namespace": f"team-{i % 60}",
                "path": f"/api/v1/users/{digest[:12]}",
                "request_id": digest,
                "service": f"svc-{i % 500}",
            }
            blocks.append(workloads.series_block(workloads.label_bytes(labels), time_ms, one))
        bodies.append(bytes(cramjam.snappy.compress_raw(b"".join(blocks))))
    return bodies


class _Probe(threading.Thread):
    """Once a second a body of the steady load and a question about it: milliseconds of each, and refusals."""

    def __init__(self, server: Server, steady: list[bytes], ask_s: float) -> None:
        super().__init__(daemon=True)
        self.server, self.steady, self.ask_s = server, steady, ask_s
        self.writes: list[float] = []
        self.queries: list[float] = []
        self.refused = 0
        self.done = threading.Event()

    def run(self) -> None:
        at = 0
        while not self.done.is_set():
            begun = time.perf_counter()
            status, _ = self.server.request("POST", "/api/v1/write", self.steady[at % len(self.steady)], WRITE_HEADERS)
            written = time.perf_counter()
            self.refused += status not in (200, 204)
            try:
                self.server.query(QUESTION, self.ask_s, self.ask_s, 0)
            except RuntimeError:
                self.refused += 1
            asked = time.perf_counter()
            self.writes.append((written - begun) * 1e3)
            self.queries.append((asked - written) * 1e3)
            at += 1
            self.done.wait(max(0.0, 1 - (asked - begun)))


def _probe(server: Server, steady: list[bytes]) -> _Probe:
    probe = _Probe(server, steady, (workloads.START_MS + 20_000) / 1000)
    probe.start()
    return probe


def _one(server: Server, fleet: workloads.Workload, bodies: list[bytes], seconds: float) -> dict:
    server.send(fleet.bodies(range(3)))
    steady = [body for body, _, _ in fleet.bodies(range(3, fleet.steps if fleet.steps < 20 else 20))]
    calm = _probe(server, steady)
    time.sleep(CALM_PROBES if seconds == SECONDS else 2)
    calm.done.set()
    calm.join()
    before, cpu = server.rss(), server.cpu_s()
    probe = _probe(server, steady)
    accepted, took = _send(server, bodies, seconds)
    probe.done.set()
    probe.join()
    spent = server.cpu_s() - cpu
    server.settle()
    after = _probe(server, steady)
    time.sleep(CALM_PROBES if seconds == SECONDS else 2)
    after.done.set()
    after.join()
    median = statistics.median
    return {
        "bodies taken": accepted,
        "s": took,
        "CPU s": spent,
        "MB before": before / 1e6,
        "peak MB": _peak(server) / 1e6,
        "write ms: calm, spike, after": "  ".join(f"{median(p.writes):.1f}" for p in (calm, probe, after)),
        "query ms: calm, spike, after": "  ".join(f"{median(p.queries):.1f}" for p in (calm, probe, after)),
        "worst in spike": f"{max(probe.writes):.0f} {max(probe.queries):.0f}",
        "probes refused": probe.refused,
    }


def _send(server: Server, bodies: list[bytes], seconds: float) -> tuple[int, float]:
    """Posts the bodies evenly over the time on a few connections: how many were taken, and the time it took."""
    begun, taken = time.perf_counter(), [0] * SENDERS

    def sender(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)) as connection:
            for at in range(number, len(bodies), SENDERS):
                time.sleep(max(0.0, begun + seconds * at / len(bodies) - time.perf_counter()))
                connection.request("POST", "/api/v1/write", bodies[at], WRITE_HEADERS)
                response = connection.getresponse()
                response.read()
                taken[number] += response.status in (200, 204)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(taken), time.perf_counter() - begun


def _peak(server: Server) -> int:
    """The largest resident set the process ever had."""
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
