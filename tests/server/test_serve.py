"""`metricsdb serve` as a process of its own, with a configuration: it scrapes, it listens, it ends in order."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

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


class Hook:
    """A receiver of webhooks on a port of its own."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


ROUTES = """
route: {{receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s}}
receivers: [{{name: hook, webhook_configs: [{{url: 'http://127.0.0.1:{port}/alerts'}}]}}]
"""
RULES = """
groups:
  - name: heat
    interval: 1s
    rules:
      - {alert: Hot, expr: warmth > 30, annotations: {summary: '{{ $labels.room }} is at {{ $value }}'}}
"""


def test_a_server_evaluates_rules_and_tells_a_webhook(tmp_path: Path) -> None:
    http, hook = free_port(), Hook()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "heat.yml").write_text(RULES)
    (tmp_path / "routes.yml").write_text(ROUTES.format(port=hook.port))
    (tmp_path / "metricsdb.yml").write_text(f"""
listen: 127.0.0.1:{http}
storage: {{data: {tmp_path}/data}}
alerts:
  rules: ['rules/*.yml']
  route: routes.yml
  external_url: http://metrics.example
  external_labels: {{dc: x}}
""")
    server = f"http://127.0.0.1:{http}"
    command = [sys.executable, "-m", "metricsdb", "serve", "--config", str(tmp_path / "metricsdb.yml")]

    def told(status: str) -> bool:
        return any(body["status"] == status for body in hook.bodies)

    with running(command, f"{server}/-/ready", tmp_path / "log") as process:
        httpx.post(f"{server}/api/v1/import/prometheus", content=b'warmth{room="attic"} 35\n').raise_for_status()
        wait_for("the webhook", lambda: told("firing"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    (alert,) = hook.bodies[0]["alerts"]
    assert alert["labels"] == {"alertname": "Hot", "room": "attic", "dc": "x"}
    assert alert["annotations"] == {"summary": "attic is at 35"}
    assert alert["generatorURL"].startswith("http://metrics.example/graph?")
    with running(command, f"{server}/-/ready", tmp_path / "log2"):
        httpx.post(f"{server}/api/v1/import/prometheus", content=b'warmth{room="attic"} 20\n').raise_for_status()
        wait_for("the end of it, which a server that was restarted knows", lambda: told("resolved"))
    assert [body["status"] for body in hook.bodies] == ["firing", "resolved"]
    hook.close()
    assert "Traceback" not in (tmp_path / "log").read_text() + (tmp_path / "log2").read_text()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{rules: [none.yml]}", "none.yml: cannot be read"),
        ("{route: none.yml}", "none.yml: cannot be read"),
        ("{rules: [bad.yml]}", "bad.yml: "),
        ("{every: 0s}", "alerts.every: '0s' must be longer than zero"),
        ("{alertmanagers: ['am:9093']}", "is not http(s)://host[:port][/path]; write it so"),
    ],
)
def test_a_server_says_what_is_wrong_with_its_alerts(tmp_path: Path, section: str, said: str) -> None:
    (tmp_path / "bad.yml").write_text(RULES.replace("warmth > 30", "sum by ("))
    (tmp_path / "metricsdb.yml").write_text(f"listen: 127.0.0.1:{free_port()}\nalerts: {section}\n")
    command = [sys.executable, "-m", "metricsdb", "serve", "--config", str(tmp_path / "metricsdb.yml")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
