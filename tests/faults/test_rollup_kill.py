"""A backfill that is killed with SIGKILL at random moments goes on where it was: nothing twice, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import metricsdb as mdb
from metricsdb.testing import FakeClock

ROOT = Path(__file__).parents[2]
CYCLES = 25
SERIES, SAMPLES = 600, 2_880
START = 1_780_000_200
NOW_MS = (START + 15 * SAMPLES) * 1000
LINE = {'{__name__="m"}': "raw 2h -> 1m -> 10m -> 1h keep 1%"}

# The pass is slowed, so that kills fall into it; late samples come in between.
CHILD = f"""
import sys
import metricsdb as mdb
from metricsdb.testing import FakeClock
db = mdb.Database(sys.argv[1], clock=FakeClock({NOW_MS}), rollups={LINE!r})
print("open", flush=True)
db.rollups.run(samples_per_second=4e6, progress=lambda share, done: print(share, flush=True))
print("done", flush=True)
sys.stdin.read()
"""


def value(series: int, times: np.ndarray) -> np.ndarray:
    return (times.astype(np.int64) // 15 * (series + 7) % 97).astype(float)


def test_a_killed_backfill_counts_no_sample_twice(tmp_path):
    times = START + 15.0 * np.arange(1, SAMPLES + 1)
    with mdb.Database(tmp_path / "db", clock=FakeClock(NOW_MS), durability="interval") as db:
        for i in range(SERIES):
            db.append({"__name__": "m", "i": str(i)}, times, value(i, times))
    rng = random.Random(5)
    finished = 0
    for _ in range(CYCLES):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "db")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        for _ in range(rng.randrange(12)):
            if (line := child.stdout.readline()) == "done\n":
                finished += 1
                break
            assert line
        child.send_signal(signal.SIGKILL)
        child.communicate()
        with mdb.Database(tmp_path / "db", clock=FakeClock(NOW_MS), durability="interval", rollups=LINE) as db:
            assert db.recovery is not None
            assert db.recovery.whole
            db._native.check()
            for level in ("1m", "1h"):
                records = db.rollups.records("m", level)
                assert int(records["count"].sum()) == SERIES * SAMPLES
                assert float(records["sum"].sum()) == float(sum(value(i, times).sum() for i in range(SERIES)))
    with mdb.Database(tmp_path / "db", clock=FakeClock(NOW_MS), durability="interval", rollups=LINE) as db:
        db.rollups.run()
        assert db.rollups.levels()["series"].to_list() == [SERIES] * 3
        old = db.query_range("sum(count_over_time(m[1h]))", START + 3600, START + 9 * 3600, 3600)
        assert set(old["value"]) == {float(SERIES * 240)}
