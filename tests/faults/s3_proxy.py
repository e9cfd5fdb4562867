"""A proxy before an S3 server that answers badly on purpose: 5xx, slowly, partly, or not at all with the work done."""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from metricsdb.lifecycle.cold import objects

FAST = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=20), "base": 2},
}
FAULTS = ("500", "503", "slow", "cut", "lost", "refused")


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients are killed amid requests."""


class Proxy:
    """``share`` of the requests end in one of ``faults``, by a seeded dice."""

    def __init__(self, port: int, share: float = 0.0, faults: tuple[str, ...] = FAULTS, seed: int = 1) -> None:
        self.share, self.faults, self.seen = share, faults, Counter[str]()
        self._dice, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.draw()
                if fault in ("500", "503"):
                    self.send_response(int(fault))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "refused":
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                upstream.request(
                    self.command, self.path, body, {k: v for k, v in self.headers.items() if k != "Connection"}
                )
                answer = upstream.getresponse()
                found = answer.read()
                upstream.close()
                if fault == "lost":  # the work is done, and nobody hears of it
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(0.05)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(found))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(found[: len(found) // 2])
                    self.close_connection = True
                else:
                    self.wfile.write(found)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815  names of the library

        self.server = _Quiet(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def draw(self) -> str:
        with self._lock:
            fault = self._dice.choice(self.faults) if self._dice.random() < self.share else ""
            self.seen[fault] += 1
            return fault

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def s3_server() -> Iterator[int]:
    """A server of S3 in this process; its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    try:
        yield running.get_host_and_port()[1]
    finally:
        running.stop()


def make_bucket(port: int, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=, Signature="
    }
    connection.request("PUT", f"/{name}", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()


def s3_objects(url: str, bucket: str) -> objects.Objects:
    """Objects of a bucket behind a URL; what fails is tried again soon, and not for long."""
    options = {"access_key_id": "a-key", "secret_access_key": "a-secret", "endpoint": url, "region": "us-east-1"}
    with mock.patch.object(objects, "RETRIES", FAST):
        return objects.Objects(f"s3://{bucket}/prefix", {**options, "allow_http": "true"})
