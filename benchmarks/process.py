"""Servers under test: started on a free loopback port, measured by what the kernel accounts to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

TICKS = os.sysconf("SC_CLK_TCK")
COMMANDS = {
    "metricsdb": [sys.executable, "-m", "metricsdb", "serve", "--listen", "127.0.0.1:{port}"],
    "victoria-metrics": [
        "victoria-metrics", "-storageDataPath={data}", "-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y",
    ],
    "prometheus": [
        "prometheus", "--config.file={data}/prometheus.yml", "--storage.tsdb.path={data}/tsdb",
        "--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver",
        "--web.enable-admin-api", "--storage.tsdb.retention.time=100y",
    ],
}  # fmt: skip
WRITE_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


def available(name: str) -> bool:
    return shutil.which(COMMANDS[name][0]) is not None


class Server(contextlib.AbstractContextManager["Server"]):
    """One server process; `cpu_s` and `rss` are the whole process' own."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.data = tempfile.mkdtemp(prefix=f"bench-{name}-")
        with open(f"{self.data}/prometheus.yml", "w") as f:
            f.write("global: {}\n")
        command = [*(a.format(port=self.port, data=self.data) for a in COMMANDS[name]), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        path = "/health" if name == "victoria-metrics" else "/-/ready"
        while True:
            with contextlib.suppress(OSError):
                if self.request("GET", path)[0] == 200:
                    break
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.__exit__()
                raise RuntimeError(f"{name} did not start: {' '.join(command)}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.data, ignore_errors=True)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict | None = None
    ) -> tuple[int, bytes]:
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def cpu_s(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self) -> int:
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))

    def settle(self, seconds: float = 30) -> None:
        """Returns when background work is done: under 5 % of a core for a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.cpu_s()
            time.sleep(1)
            if self.cpu_s() - before < 0.05:
                return

    def send(self, bodies) -> int:
        """Posts remote-write bodies over one connection, in order; returns the samples accepted."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = 0
        for body, samples, _ in bodies:
            c.request("POST", "/api/v1/write", body, WRITE_HEADERS)
            r = c.getresponse()
            text = r.read()
            if r.status not in (200, 204):
                raise RuntimeError(f"{self.name} answered {r.status}: {text[:200]!r}")
            sent += samples
        c.close()
        return sent

    def query(self, expr: str, start_s: float, end_s: float, step_s: float) -> list:
        """The result rows of an instant (step 0) or range query, past the server's cache."""
        if step_s:
            path, args = "query_range", {"query": expr, "start": start_s, "end": end_s, "step": step_s}
        else:
            path, args = "query", {"query": expr, "time": end_s}
        args["nocache"] = "1"
        status, body = self.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(args)}")
        if status != 200:
            raise RuntimeError(f"{self.name} answered {status}: {body[:200]!r}")
        return json.loads(body)["data"]["result"]
