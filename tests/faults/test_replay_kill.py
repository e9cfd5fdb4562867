"""SIGKILL while a directory is being read and writes come in: what was acknowledged then is there after all of it."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import metricsdb as mdb

ROOT = Path(__file__).parents[2]
# More bytes of journal than are read before the directory is opened, and fewer than make a checkpoint.
SERIES, STEPS = 2000, 1500
KILLS = 8
NOTE = struct.Struct("<q?")

CHILD = """
import os, struct, sys
import metricsdb
path, mode, first, pipe = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
db = metricsdb.Database(path, durability=mode, idle_cpu=0)
for at in range(first, first + 100_000):
    replaying = db.durability.replaying
    report = db.append({"__name__": "meanwhile", "n": str(at % 7)}, at, at / 3)
    assert report.accepted == 1
    os.write(pipe, struct.pack("<q?", at, replaying))
"""


def killed(path: Path, mode: str, first: int, delay: float) -> list[tuple[int, bool]]:
    """What a child wrote from time ``first`` on until it was killed, so long after its first write."""
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(path), mode, str(first), str(write)]
    child = subprocess.Popen(command, pass_fds=(write,), env=environment)
    os.close(write)
    try:
        notes = os.read(read, NOTE.size)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        while more := os.read(read, 1 << 16):
            notes += more
    finally:
        os.close(read)
        child.kill()
        child.wait()
    return list(NOTE.iter_unpack(notes[: len(notes) // NOTE.size * NOTE.size]))


@pytest.mark.parametrize("mode", ["batch", "none"])
def test_kills_during_recoveries_cost_nothing_that_was_written_in_them(tmp_path, mode):
    rng = np.random.default_rng(5)
    path = tmp_path / "db"
    values = rng.random((STEPS, SERIES))
    with mdb.Database(path, durability="none", idle_cpu=0) as db:
        refs = db.register([{"__name__": "before", "n": str(n)} for n in range(SERIES)])
        for step in range(STEPS):
            db.append_batch(refs, 1_000_000 + step, values[step])
        assert db.durability.replay_bytes > 17 << 20
    acknowledged: list[tuple[int, bool]] = []
    chance = random.Random(7)
    for _ in range(KILLS):
        first = acknowledged[-1][0] + 2 if acknowledged else 1
        acknowledged += killed(path, mode, first, chance.random() * 0.2)
    assert sum(replaying for _, replaying in acknowledged) > KILLS, "writes came in while it was read"
    with mdb.Database(path, durability=mode) as db:
        assert db.recovery is not None
        assert db.recovery.whole
        found = {}
        for series in db.raw("meanwhile", 0, 10**6):
            found |= dict(zip((series.timestamps // 1000).tolist(), series.values.tolist(), strict=True))
        assert {at: at / 3 for at, _ in acknowledged}.items() <= found.items()
        # The last write of each child may have come before its note.
        assert len(found) <= len(acknowledged) + KILLS
        for series in db.raw("before", 0, 10**7):
            assert np.array_equal(series.values, values[:, int(series.labels["n"])])
