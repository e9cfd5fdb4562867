"""Kills a writing process with SIGKILL again and again, and looks after each time whether anything is missing.

    python tests/faults/torture.py --cycles 1000 --mode batch

The parent never touches a database: it forks children that open the directory, compare it with all that was ever
acknowledged, and go on writing until they are killed, at any moment between their first and some later instruction. So
kills hit recoveries, writes, syncs and checkpoints alike. Prints a line of JSON with what it saw.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import polars as pl  # loaded here, so that no child has to

assert pl.__version__
SERIES = 25
ROUND = struct.Struct("<Bq")
VERIFIED, SENT, WRITTEN, LOST, CRASHED = range(5)


def values_of(series: int, steps: np.ndarray) -> np.ndarray:
    return steps * 0.25 + series * (1 / 3 if series % 2 else 1000)


def child(path: str, mode: str, acknowledged: int, attempted: int, pipe: int) -> None:
    # Not before the fork: the threads of its kernels would be missing here.
    import metricsdb

    db = metricsdb.Database(path, durability=mode, sync_interval="20ms", idle_cpu=0)
    found = {int(s.labels["n"]): s for s in db.raw('torture{n!~"x.*"}', "1970-01-01T00:00Z", "1971-01-01T00:00Z")}
    newest = -1
    for n in range(SERIES):
        series = found.get(n)
        times = series.timestamps if series is not None else np.empty(0, dtype=np.int64)
        values = series.values if series is not None else np.empty(0)
        # Nothing acknowledged is missing, and nothing is there that was not sent, to the bit.
        whole = np.array_equal(times[: acknowledged + 1], np.arange(acknowledged + 1) * 1000)
        right = np.array_equal(values, values_of(n, times // 1000))
        newest = max(newest, int(times[-1]) // 1000 if len(times) else -1)
        if not whole or not right or newest > attempted:
            os.write(pipe, ROUND.pack(LOST, n))
            return
    if db.recovery is None or db.recovery.damaged:
        os.write(pipe, ROUND.pack(CRASHED, 1))
        return
    os.write(pipe, ROUND.pack(VERIFIED, newest))
    refs = db.register([{"__name__": "torture", "n": str(n)} for n in range(SERIES)])
    # What was sent and not acknowledged is sent again, since some series may have it.
    step = acknowledged + 1
    while True:
        os.write(pipe, ROUND.pack(SENT, step))
        values = np.array([values_of(n, np.array(step)) for n in range(SERIES)])
        db.append_batch(refs, np.full(SERIES, step * 1000).astype("datetime64[ms]"), values)
        os.write(pipe, ROUND.pack(WRITTEN, step))
        db.append({"__name__": "torture", "n": f"x{step % 500}"}, step, 1)
        if step % 40 == 0:
            db.checkpoint()
        step += 1


def cycle(
    path: str, mode: str, acknowledged: int, attempted: int, seconds: float, opened: bool
) -> list[tuple[int, int]]:
    """What a child said until it was killed, so long after its first instruction, or after it has opened."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            child(path, mode, acknowledged, attempted, write)
        except BaseException:  # whatever it is, the parent must know
            traceback.print_exc()
            os.write(write, ROUND.pack(CRASHED, 0))
        os._exit(0)
    os.close(write)
    said, deadline, killed = b"", time.monotonic() + (60 if opened else seconds), False
    while True:
        ready, _, _ = select.select([read], [], [], 30 if killed else max(0.0, deadline - time.monotonic()))
        piece = os.read(read, 1 << 16) if ready else b""
        if opened and piece and not said:
            deadline = time.monotonic() + seconds
        said += piece
        if not ready and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        elif not piece:
            break
    os.close(read)
    os.waitpid(pid, 0)
    whole = len(said) - len(said) % ROUND.size
    return list(ROUND.iter_unpack(said[:whole]))


def run(cycles: int, mode: str, seed: int, seconds_max: float, folder: Path) -> dict[str, object]:
    chance = random.Random(seed)
    path = str(folder / f"torture-{mode}")
    acknowledged = attempted = -1
    seen = {
        "mode": mode,
        "cycles": 0,
        "killed_in_recovery": 0,
        "verified": 0,
        "acknowledged": 0,
        "lost": 0,
        "crashed": 0,
    }
    begun = time.monotonic()
    for _ in range(cycles):
        if time.monotonic() - begun > seconds_max:
            break
        opened = chance.random() < 0.7
        said = cycle(path, mode, acknowledged, attempted, chance.uniform(0.0, 0.15 if opened else 0.5), opened)
        kinds = [kind for kind, _ in said]
        seen["cycles"] += 1
        seen["verified"] += kinds.count(VERIFIED)
        seen["killed_in_recovery"] += not said
        seen["lost"] += kinds.count(LOST)
        seen["crashed"] += kinds.count(CRASHED)
        for kind, number in said:
            if kind == SENT:
                attempted = max(attempted, number)
            elif kind == WRITTEN:
                acknowledged = max(acknowledged, number)
        seen["acknowledged"] = acknowledged + 1
        if seen["lost"] or seen["crashed"]:
            break
    seen["seconds"] = round(time.monotonic() - begun, 1)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--mode", choices=("batch", "interval", "none"), default="batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds-max", type=float, default=3600)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="metricsdb-torture-"))
    seen = run(chosen.cycles, chosen.mode, chosen.seed, chosen.seconds_max, folder)
    print(json.dumps(seen))
    if seen["lost"] or seen["crashed"]:
        print(f"the directory is kept: {folder}", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
