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

CYCLES, WORKERS_AT_ONCE = 200, 4
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


def cycle(directory: Path, url: str, number: int, lines: int) -> list[str]:
    """Runs a worker until it has promised so many, kills it, and returns what it said."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(directory), url, str(number)],
        stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    try:
        for raw in process.stdout:
            said.append(raw.decode().strip())
            if len(said) > lines:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        # What it said before it died is promised, too.
        said += [line.decode().strip() for line in process.stdout if line.endswith(b"\n")]
        process.stdout.close()
        process.wait()
    assert said, "the worker did not start"
    return said[1:]


def test_nothing_promised_is_lost(tmp_path):
    counter, chance = Counter(), random.Random(9)
    promised: dict[str, str] = {}
    for number in range(CYCLES):
        for line in cycle(tmp_path / str(number % WORKERS_AT_ONCE), counter.url, number, chance.randrange(12)):
            name, key = line.split()
            promised[name] = key
    counter.stumbles = False
    # What is still in the outboxes goes out when they are opened for the last time.
    for number in range(WORKERS_AT_ONCE):
        cycle(tmp_path / str(number), counter.url, 10_000 + number, 30)
    counter.server.shutdown()
    counter.server.server_close()
    assert len(promised) > CYCLES
    assert not {name for name, key in promised.items() if key not in counter.keys}
    assert not {name for name in promised if name not in counter.alerts}
