"""Real programs on free loopback ports, ended when the test ends."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest


def need(program: str) -> str:
    """The program's path; skips the test where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (apt-get install prometheus prometheus-node-exporter)")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, check: Callable[[], bool], seconds: float = 30, pause: float = 0.1) -> None:
    """Asks `check` until it is true. Real programs give no other sign."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(pause)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


@contextlib.contextmanager
def running(command: list[str], ready_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` until the block ends; `ready_url` says when it is up."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait_for(f"{command[0]} to start", lambda: answers(ready_url) or fail_if_ended(process, command[0], log))
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fail_if_ended(process: subprocess.Popen[bytes], name: str, log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return False
