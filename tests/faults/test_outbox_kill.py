"""kill -9 while notifications are made and delivered: a counting receiver saw each that was promised at least once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# `make torture` has the long one.
CYCLES, OUTBOXES = (1000 if os.environ.get("METRICSDB_LONG") else 200), 4
WORKER = Path(__file__).with_name("outbox_worker.py")
ROOT = Path(__file__).parents[2]


class Counter:
    """A receiver that counts keys and alerts, and fails now and then."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.alerts: dict[str, int] = {}
        self.chance = random.Random(5)
        self.stumbles = True
        counter, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    fails = counter.stumbles and counter.chance.random() < 0.02
                    if not fails:
                        key = self.headers["Idempotency-Key"]
                        counter.keys[key] = counter.keys.get(key, 0) + 1
                        name = payload["groupLabels"]["alertname"]
                        counter.alerts[name] = counter.alerts.get(name, 0) + 1
                try:
                    self.send_response(503 if fails else 200)
                    self.end_headers()
                except OSError:
                    pass  # it was killed before it had the answer

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Worker:
    """A process that has all imported, and makes a child for each cycle."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def cycle(self, directory: Path, url: str, number: int, lines: int) -> list[list[str]]:
        """Lets a child go until it has promised so many, kills it, and returns what it said till then."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{directory} {url} {number}\n")
        self.process.stdin.flush()
        said, (word, pid) = [], self.line()
        assert word == "pid"
        while len(said) < lines:
            said.append(self.line())
        os.kill(int(pid), signal.SIGKILL)
        # What it said before it died is promised, too.
        while (more := self.line()) != ["end"]:
            said.append(more)
        return said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_nothing_promised_is_lost(tmp_path):
    counter, chance, worker = Counter(), random.Random(9), Worker()
    promised: dict[str, str] = {}
    for number in range(CYCLES):
        for line in worker.cycle(tmp_path / str(number % OUTBOXES), counter.url, number, chance.randrange(12)):
            name, key = line
            promised[name] = key
    counter.stumbles = False
    # What is still in the outboxes goes out when they are opened for the last time.
    for number in range(OUTBOXES):
        worker.cycle(tmp_path / str(number), counter.url, 10_000 + number, 30)
    worker.close()
    counter.server.shutdown()
    counter.server.server_close()
    assert len(promised) > CYCLES
    assert not {name for name, key in promised.items() if key not in counter.keys}
    assert not {name for name in promised if name not in counter.alerts}
