"""Kills a process with SIGKILL at every step of a move and of sampling, and looks for what is missing or too much:
samples, and records of rollups.

    python tests/faults/cold_torture.py --cycles 400
    python tests/faults/cold_torture.py --cycles 400 --disk
    python tests/faults/cold_torture.py --cycles 400 --s3 0.2

Each cycle is a process that compares what is there with all that was ever acknowledged, makes one whole run, compares
again, looks for objects that no manifest names, writes new and late samples, deletes some, and is killed at step n of
the next run, which moves, leaves a sample of old days, compacts and sweeps: before or after a verb of a store, a sync
of a file, an export or a drop. With `--disk` everything goes by a disk tier, and on from there. Cycle n + 1 takes step
n + 1, and begins anew where a run had no more steps. With `--s3` the store is a server of S3 that answers such a share
of requests badly: 5xx, late, in part, or not at all. Prints a line of JSON with what it saw: kills by the phase of a
run that they fell in, and bad answers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

HOUR = 3_600_000
# Of the first day there are two buckets alone, so that it is soon old enough for a sample.
EVENING = 494_420 * HOUR
KILLED, RAN_OUT = -signal.SIGKILL, 0
BUCKET = "cold"
# Of what a store that fails did not do.
TRIES = 10


class Steps:
    """Counts what may be interrupted; kills the process at one of them."""

    def __init__(self, note: Path) -> None:
        self.last, self.taken, self.phase, self._note = -1, 0, "", note
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            if self.taken == self.last:
                self._note.write_text(self.phase)
                os.kill(os.getpid(), signal.SIGKILL)
            self.taken += 1

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **words: Any) -> Any:
            self.step()
            found = act(*args, **words)
            self.step()
            return found

        return stepped


Rows = dict[tuple[str, int], float]


def sampled_before(rounds: int) -> int:
    """What the run of a round leaves a sample of: days that are over by this time."""
    return EVENING + (rounds - 2) * 2 * HOUR


def sampled(rows: Rows, before: int) -> Rows:
    """Of days that are over before a time every third hour, another one each day."""
    day = 24 * HOUR
    return {
        (job, at): value
        for (job, at), value in rows.items()
        if (at // day + 1) * day > before or (at // HOUR + at // day) % 3 == 0
    }


def expected(rounds: int) -> Rows:
    """All that was acknowledged in so many rounds and not deleted, by job and time."""
    rows: Rows = {}
    for n in range(rounds):
        rows |= written(n)
        if n % 5 == 4:
            rows = {
                (job, at): v for (job, at), v in rows.items() if job != "b" or not deleted(n)[0] <= at <= deleted(n)[1]
            }
    return rows


def written(n: int) -> Rows:
    """A bucket of two hours, and one late sample of an earlier one, which changes what was there."""
    start = EVENING + n * 2 * HOUR
    new = {(job, start + i * HOUR // 4): n + i / 8 + len(job) for job in ("a", "b", "cc") for i in range(8)}
    return new | {
        ("a", EVENING + max(n - 3, 0) * 2 * HOUR): -float(n),
        ("cc", EVENING + max(n - 9, 0) * 2 * HOUR + 7): 0.5 * n,
    }


Records = dict[tuple[str, int, int], tuple[int, float]]
WIDTHS = HOUR // 4, HOUR


def rolled(n: int) -> dict[tuple[str, int], float]:
    """What records of a round are made of."""
    start = EVENING + n * 2 * HOUR
    return {(job, start + i * HOUR // 4): n + i / 2 for job in ("a", "b") for i in range(8)}


def records(rounds: int) -> Records:
    """Count and sum of every bucket of so many rounds, by job, width and end."""
    found: Records = {}
    for n in range(rounds):
        for (job, at), value in rolled(n).items():
            for every in WIDTHS:
                key = job, every, -(-at // every) * every
                count, total = found.get(key, (0, 0.0))
                found[key] = count + 1, total + value
    return found


def deleted(n: int) -> tuple[int, int]:
    return EVENING + (n - 3) * 2 * HOUR, EVENING + (n - 3) * 2 * HOUR + HOUR


def child(folder: Path, rounds: int, last: int, url: str, by_disk: bool) -> None:
    import numpy as np
    from faults.s3_proxy import s3_objects
    from twins.cold import cold_rows

    import metricsdb
    from metricsdb.errors import ColdStoreError
    from metricsdb.lifecycle.cold import objects
    from metricsdb.lifecycle.cold.catalog import Catalog
    from metricsdb.lifecycle.cold.memory import NativeMemory, NativeRecords, StoreMemory
    from metricsdb.lifecycle.cold.move import Mover, Rule
    from metricsdb.lifecycle.cold.thin import thin, unused
    from metricsdb.lifecycle.rollups import RollupPolicy
    from metricsdb.lifecycle.sampling import Keep, SampleRule
    from metricsdb.testing import FakeClock

    steps, clock = Steps(folder / "killed"), FakeClock(EVENING + 10**6 * HOUR + rounds * 60_000)
    db = metricsdb.Database(folder / "db", durability="batch", clock=clock, idle_cpu=0)
    catalog = Catalog(s3_objects(url, BUCKET) if url else objects.Objects(folder / "cold"))
    memory = NativeMemory(lambda: db._native)
    rolling = NativeRecords(lambda: db._native)
    policy = RollupPolicy.parse("r", "raw 1h -> 15m -> 1h").native
    mover = Mover(catalog, "me", clock)
    disk = Mover(Catalog(objects.Objects(folder / "disk")), "me", clock) if by_disk else None
    movers = [mover] if disk is None else [disk, mover]
    stored = [] if disk is None else [StoreMemory(disk), StoreMemory(disk, records=True)]
    rules = [Rule("", EVENING + (rounds - 1) * 2 * HOUR)]

    def tried(phase: str, act: Callable[[], Any]) -> Any:
        """What a store that fails now and then did not do is done again."""
        steps.phase = phase
        for _ in range(TRIES if url else 1):
            try:
                return act()
            except ColdStoreError as error:
                why = error
        sys.exit(f"{phase}, round {rounds}: {why}")

    def run(round_: int) -> None:
        sample = [SampleRule("", sampled_before(round_), Keep.parse("1 in 3 hours"))]
        tried("samples", lambda: movers[0].move(memory, rules))
        tried("records", lambda: movers[0].move(rolling, rules, bucket_ms=2 * HOUR))
        for kind, one in zip(("samples on", "records on"), stored, strict=False):
            older = [Rule("", sampled_before(round_))]
            tried(kind, lambda one=one, older=older: mover.move(one, older, bucket_ms=2 * HOUR))
        tried("sampling", lambda: thin(mover, sample, unused))
        for one in movers:
            tried("compaction", one.compact)
        clock.move(16)
        for one in movers:
            tried("sweep", one.sweep)

    def in_memory() -> Rows:
        series = db._native.raw("m", 0, 2**62)
        return {
            (names["job"], int(at)): float(v) for names, t, values in series for at, v in zip(t, values, strict=True)
        }

    def rows_of(one: Mover) -> Rows:
        return {
            (dict(s)["job"], at): float(np.int64(bits).view(np.float64))
            for (s, at), (_, bits) in tried("look", lambda: cold_rows(one.catalog)).items()
        }

    def in_stores() -> Rows:
        found: Rows = {}
        for one in reversed(movers):
            found |= rows_of(one)
        return found

    def records_in_memory() -> Records:
        frames = [(every, db._native.rollup_records("r", every, 0, 2**62)) for every in WIDTHS]
        rows = ((every, row) for every, frame in frames for row in frame.iter_rows(named=True))
        return {(row["job"], every, row["timestamp"]): (row["count"], row["sum"]) for every, row in rows}

    def records_of(catalog: Catalog) -> Records:
        found: Records = {}
        for part in tried("look", lambda: catalog.parts(-(2**63), 2**63 - 1)):
            if part.every_ms:
                frame = tried("look", lambda part=part: catalog.samples(part).join(catalog.series(part), on="series"))
                for row in frame.iter_rows(named=True):
                    found[row["job"], part.every_ms, row["timestamp"]] = row["count"], row["sum"]
        return found

    def records_in_stores() -> Records:
        found: Records = {}
        for one in reversed(movers):
            found |= records_of(one.catalog)
        return found

    def look_at_records(when: str) -> None:
        found, wanted = records_in_stores() | records_in_memory(), records(rounds)
        if found != wanted:
            apart = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)][:3]
            sys.exit(f"{when}, round {rounds}: records {[(key, wanted.get(key), found.get(key)) for key in apart]}")

    def look(when: str, wanted: Rows) -> None:
        look_at_records(when)
        found = in_stores() | in_memory()
        if found != wanted:
            missing, more = wanted.keys() - found.keys(), found.keys() - wanted.keys()
            other = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]][:3]
            sys.exit(
                f"{when}, round {rounds}: missing {sorted(missing)[:3]}, too much {sorted(more)[:3]}, other {other}"
            )

    # The run that was killed left samples of whole days, or none.
    wanted = expected(rounds)
    left = sampled(wanted, sampled_before(rounds))
    new = written(rounds - 1) if rounds else {}
    before = sampled(wanted, sampled_before(rounds - 1)) | {key: wanted[key] for key in new if key in wanted}
    there = in_stores() | in_memory()
    days = {at // (24 * HOUR) for _, at in wanted}
    whole = {day for day in days if any(at // (24 * HOUR) == day and (j, at) not in left for j, at in there)}
    stays = {key for key in wanted if key in (before if key[1] // (24 * HOUR) in whole else left)}
    look("after a kill", {key: wanted[key] for key in stays})
    run(rounds)
    look("after a run", left)
    for one in movers:
        listed = tried("look", lambda one=one: list(one.catalog.objects.list("")))
        kept = {found.key for found in listed if not found.key.startswith("manifest/")}
        if kept != one.catalog.state.keys():
            sys.exit(f"orphans, round {rounds}: {sorted(kept - one.catalog.state.keys())[:3]}")
        # A late sample that changes another is twice in parts until these become one.
        parts = one.catalog.state.parts
        spare = sum(part.samples for part in parts if not part.every_ms) - len(rows_of(one))
        if spare > 2 * rounds:
            sys.exit(f"twice, round {rounds}: {spare} samples too many in parts")
        if sum(part.samples for part in parts if part.every_ms) != len(records_of(one.catalog)):
            sys.exit(f"records twice, round {rounds}")
    if disk is not None:
        gone = sampled_before(rounds)
        both = (
            rows_of(disk).keys() & rows_of(mover).keys() or records_of(disk.catalog).keys() & records_of(catalog).keys()
        )
        if (
            both
            or any(at < gone for _, at in rows_of(disk))
            or any(end <= gone for *_, end in records_of(disk.catalog))
        ):
            sys.exit(f"left on disk, round {rounds}: {sorted(both)[:3]}")
    if (
        list(folder.rglob("cold/tmp/*"))
        or list(folder.rglob("disk/tmp/*"))
        or any(at < (rules[0].before_ms or 0) for _, at in in_memory())
    ):
        sys.exit(f"left behind, round {rounds}")
    if any(end <= (rules[0].before_ms or 0) for _, _, end in records_in_memory()):
        sys.exit(f"records left behind, round {rounds}")
    for (job, at), value in written(rounds).items():
        db.append({"__name__": "m", "job": job}, np.array([at]).view("datetime64[ms]"), [value])
    for (job, at), value in rolled(rounds).items():
        db.append({"__name__": "r", "job": job}, np.array([at]).view("datetime64[ms]"), [value])
    # Samples of a round are gone but for those in whose bucket the next one begins.
    db._native.roll([policy], (EVENING + (rounds + 1) * 2 * HOUR + HOUR - 1, 0, 1), 0, 2**40)
    if rounds % 5 == 4:
        start, end = deleted(rounds)
        db._native.delete(['m{job="b"}'], start, end)
        for one in movers:
            tried("deletion", lambda one=one: one.delete(['m{job="b"}'], start, end))
    (folder / "rounds").write_text(str(rounds + 1))
    rules = [Rule("", EVENING + rounds * 2 * HOUR)]
    steps.last = last
    for store in (one.catalog.objects for one in movers):
        for verb in ("put", "create", "get", "ranges", "delete"):
            setattr(store, verb, steps.around(getattr(store, verb)))
    stepping: Any = type("Os", (), {**vars(os), "fsync": staticmethod(steps.around(os.fsync))})
    objects.os = stepping
    for changed in (memory, rolling, *stored):
        held: Any = changed
        held.export, held.drop = steps.around(held.export), steps.around(held.drop)
    run(rounds + 1)
    db.close()


def torture(
    cycles: int, folder: Path, first: int = 0, stride: int = 1, url: str = "", *, disk: bool = False
) -> dict[str, Any]:
    """Kills, by phase too, and whole runs, and the most steps of a run. ``url``: of a server of S3; else a directory.
    ``disk``: with a disk tier. Raises ``AssertionError`` with what a process found."""
    whole = most = 0
    kills: Counter[str] = Counter()
    last = first
    for _ in range(cycles):
        rounds = int((folder / "rounds").read_text()) if (folder / "rounds").exists() else 0
        command = [sys.executable, __file__, "--child", str(folder), str(rounds), str(last), url, "disk" * disk]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode in (KILLED, RAN_OUT), ended.stderr
        most = max(most, last)
        if ended.returncode == KILLED:
            kills[(folder / "killed").read_text()] += 1
            last += stride
        else:
            whole, last = whole + 1, first
    return {"cycles": cycles, "kills": kills.total(), "whole": whole, "steps": most, "phases": dict(kills)}


def failing_torture(cycles: int, folder: Path, share: float, first: int = 0, stride: int = 1) -> dict[str, Any]:
    """As ``torture``, with a server of S3 that answers such a share of the requests badly; ``answers`` counts these."""
    from faults.s3_proxy import Proxy, make_bucket, s3_server

    with s3_server() as port:
        make_bucket(port, BUCKET)
        proxy = Proxy(port, share)
        seen = torture(cycles, folder, first, stride, proxy.url)
        proxy.close()
    return seen | {"answers": {fault or "good": count for fault, count in sorted(proxy.seen.items())}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--s3", type=float, metavar="SHARE")
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--child", nargs=5)
    args = parser.parse_args()
    if args.child:
        folder, rounds, last, url, disk = args.child
        child(Path(folder), int(rounds), int(last), url, bool(disk))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.s3 is None:
            print(json.dumps(torture(args.cycles, Path(folder), disk=args.disk)))
        else:
            print(json.dumps(failing_torture(args.cycles, Path(folder), args.s3)))


if __name__ == "__main__":
    main()
