"""The command line: options, refusals, and a scrape from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import metricsdb as mdb


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metricsdb", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def exporter() -> Iterator[str]:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(b"answer 42\n")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_version_is_printed():
    assert run("--version").stdout == f"metricsdb {mdb.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--listen", "here"], "HOST:PORT"),
        (["serve", "--durability", "batch"], "needs a directory; give --data DIR"),
        (["serve", "--durability", "always"], "give batch, interval or none"),
        (["serve", "--data", "/proc/x"], "/proc/x"),
        (["serve", "--memory-limit", "4 apples"], "memory-limit '4 apples' is not a size; write it as '4GiB'"),
        (["serve", "--memory-limit", "1KiB"], "memory_limit 1024 is below 4MiB"),
        (["serve", "--retention", "soon"], "retention 'soon' is not a duration"),
        (["serve", "--retention", "0"], "must be longer than zero"),
        (["serve", "--retention", "memory 1d -> disk 2d"], "and there is no disk tier; give Database(disk=…)"),
        (["serve", "--disk", "s3://bucket"], "disk 's3://bucket' is no directory"),
        (["serve", "--config", "/nowhere.yml"], "/nowhere.yml: cannot be read"),
        (["scrape", "ftp://x"], "http(s)://"),
        (["scrape", "http://x", "--every", "soon"], "every"),
        (["scrape", "http://x", "--every", "0"], "longer than zero"),
        (["demo", "--minutes", "0"], "out of range"),
        (["demo", "--series", "0"], "positive"),
    ],
)
def test_a_refusal_is_one_line_and_status_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_options_are_refused():
    done = run("serve", "--durable", "yes")
    assert done.returncode == 2
    assert "--durable" in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)


def test_a_target_is_scraped_and_asked_about(exporter):
    done = run("scrape", exporter, "--query", "answer + 1")
    assert done.returncode == 0, done.stderr
    assert "43.0" in done.stdout


def test_a_target_that_fails_is_shown_and_the_status_says_so(exporter):
    done = run("scrape", f"http://{exporter}/nothing")
    assert done.returncode == 1
    assert "404" in done.stdout
