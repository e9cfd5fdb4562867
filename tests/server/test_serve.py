"""`metricsdb serve` as a process of its own, with a configuration: it scrapes, it listens, it ends in order."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.peers.processes import free_port, running, wait_for


def value(server: str, expr: str) -> str | None:
    result = httpx.get(f"{server}/api/v1/query", params={"query": expr}).json()["data"]["result"]
    return result[0]["value"][1] if result else None


def test_a_configured_server_scrapes_listens_and_stops(tmp_path: Path) -> None:
    http, statsd = free_port(), free_port()
    (tmp_path / "metricsdb.yml").write_text(f"""
listen: 127.0.0.1:{http}
scrape:
  - {{job_name: self, targets: ['127.0.0.1:{http}'], scrape_interval: 200ms}}
  - {{job_name: nobody, targets: ['127.0.0.1:1'], scrape_interval: 200ms}}
statsd: {{udp: '127.0.0.1:{statsd}', flush_interval: 100ms, labels: {{dc: x}}}}
precision: [{{selector: warmth, policy: decimals(1)}}]
""")
    server = f"http://127.0.0.1:{http}"
    command = [sys.executable, "-m", "metricsdb", "serve", "--config", str(tmp_path / "metricsdb.yml")]
    with running(command, f"{server}/-/ready", tmp_path / "log") as process:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hits:2|c\nhits:3|c\nwarmth:21.4567|g", ("127.0.0.1", statsd))
        wait_for("the server's own metrics", lambda: value(server, 'up{job="self"}') == "1")
        wait_for("the target that is not there", lambda: value(server, 'up{job="nobody"}') == "0")
        wait_for("StatsD", lambda: value(server, 'hits{dc="x"}') == "5")
        assert value(server, "warmth") == "21.5"
        ingested = 'metricsdb_ingested_samples_total{source="scrape"}'
        wait_for("its own count of what was scraped", lambda: float(value(server, ingested) or 0) > 0)
        assert "job_name: self" in httpx.get(f"{server}/api/v1/status/config").json()["data"]["yaml"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "http://127.0.0.1:1/metrics" in log, "a target that fails is named in the log, once"
    assert log.count("http://127.0.0.1:1/metrics") == 1


def test_a_killed_server_comes_back_with_all_that_it_acknowledged(tmp_path: Path) -> None:
    http = free_port()
    server = f"http://127.0.0.1:{http}"
    command = [sys.executable, "-m", "metricsdb", "serve", "--listen", f"127.0.0.1:{http}"]
    command += ["--data", str(tmp_path / "data"), "--durability", "batch"]
    for round_ in range(2):
        with running(command, f"{server}/-/ready", tmp_path / f"log{round_}") as process:
            if round_ == 1:
                assert value(server, "count(kept)") == "100"
                flags = httpx.get(f"{server}/api/v1/status/flags").json()["data"]
                assert (flags["durability"], flags["data"]) == ("batch", str(tmp_path / "data"))
                assert value(server, "sum(kept)") == "4950"
                second = [*command[:4], "--listen", f"127.0.0.1:{free_port()}", *command[6:]]
                refused = subprocess.run(second, capture_output=True, text=True, check=False, timeout=60)
                assert refused.returncode == 2
                assert f"pid {process.pid}" in refused.stderr
                continue
            for n in range(100):
                done = httpx.post(f"{server}/api/v1/import/prometheus", content=f'kept{{n="{n}"}} {n}\n'.encode())
                assert done.status_code == 204
            process.kill()
            process.wait(20)
