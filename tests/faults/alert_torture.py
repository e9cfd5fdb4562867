"""Evaluates alerts in a process that is killed at random places, over and over, and compares with one that never was.

Places are counted, not timed: before and after each native evaluation, delivery, write of the state file and rename.
Prints a line of JSON. Each cycle is a forked child that dies by SIGKILL, or comes to the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metricsdb as mdb
from metricsdb.alerts import manager, state
from metricsdb.testing import FakeClock

MINUTE = 60_000
T0 = 1_700_000_040_000 - 1_700_000_040_000 % MINUTE
STATEMENTS = """
ALERT Plain WHEN x > 5;
ALERT Damped WHEN x > 4 FOR 2m CLEAR AT 2 FOR 1m KEEP FIRING FOR 2m COOLDOWN 3m;
ALERT Flaps WHEN x > 5 FLAP 3 CHANGES IN 10m UNTIL 4m QUIET THEN HOLD;
ALERT Levels LEVEL low WHEN x > 4 FOR 2 OF 3 LEVEL high WHEN x > 6 CLEAR AT 5;
ALERT Capped WHEN x > 6 CAP 1 INSTANCES ON NODATA UNKNOWN AFTER 2m;
"""


def fill(db: mdb.Database, steps: int) -> None:
    rng = random.Random(7)
    for instance in "abc":
        kept = [(T0 + i * MINUTE) / 1000 for i in range(steps) if rng.random() > 0.1]
        db.append({"__name__": "x", "instance": instance}, kept, [rng.randint(0, 8) for _ in kept])


def evaluated(directory: Path, log: Path, steps: int, point: Callable[[], None]) -> None:
    """Goes on with the evaluations from where the state file says."""
    clock = FakeClock(T0)
    db = mdb.Database(directory, clock=clock)

    def deliver(alerts: Any, now_ms: int) -> None:
        point()
        with log.open("a") as file:
            for alert, _ in alerts:
                over = alert.resolved(now_ms)
                entry = [now_ms, sorted(alert.labels.items()), alert.starts_at_ms, over]
                file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        point()

    db.alerts.deliver = deliver
    if not db.alerts.groups():
        fill(db, steps)
        db.alerts.install(STATEMENTS)
    while True:
        last = db.alerts.groups()[0].evaluated_ms
        at = T0 if last is None else last + MINUTE
        if at >= T0 + steps * MINUTE:
            break
        point()
        db.alerts.tick(at)
        point()
    db.close()


def hooked(point: Callable[[], None]) -> None:
    """Counts places inside of the manager's own steps."""
    save, replace, evaluate = state.save, os.replace, manager.evaluate

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            point()
            done = call(*args, **more)
            point()
            return done

        return wrapped

    state.save, os.replace, manager.evaluate = counted(save), counted(replace), counted(evaluate)


def die_after(count: int) -> Callable[[], None]:
    left = count

    def point() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return point


def in_child(work: Callable[[], None]) -> int:
    """How a forked child ended: 0, or the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(directory: Path, log: Path) -> dict[str, Any]:
    with mdb.Database(directory, clock=FakeClock(T0)) as db:
        rules = [alert for group in db.alerts.groups() for rule in group.rules for alert in rule.alerts]
        states = {alert.name: bytes(alert.state()).hex() for alert in rules}
        missed = sum(group.missed for group in db.alerts.groups())
        written = [
            (sorted(series.labels.items()), series.timestamps.tolist(), [repr(v) for v in series.values.tolist()])
            for series in db.raw('{__name__=~"ALERTS.*"}', T0 / 1000 - 1, T0 / 1000 + 10**7)
        ]
    told = {json.dumps(entry) for entry in map(json.loads, log.read_text().splitlines())}
    return {"states": states, "missed": missed, "written": sorted(written), "told": told}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    steps = options.cycles
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as where:
        once, often = Path(where, "once"), Path(where, "often")
        logs = Path(where, "once.log"), Path(where, "often.log")
        assert in_child(lambda: evaluated(once, logs[0], steps, lambda: None)) == 0
        killed = crashed = 0
        while True:
            point = die_after(rng.randint(4, 24))

            def work(point: Callable[[], None] = point) -> None:
                hooked(point)
                evaluated(often, logs[1], steps, point)

            code = in_child(work)
            killed += code == -signal.SIGKILL
            crashed += code not in (0, -signal.SIGKILL)
            if code == 0 or crashed or killed > 50 * options.cycles:
                break
        whole, pieces = {}, {}
        for found, directory, log in ((whole, once, logs[0]), (pieces, often, logs[1])):
            found.update(result(directory, log))
    print(
        json.dumps(
            {
                "killed": killed,
                "crashed": crashed,
                "notifications": len(whole["told"]),
                "lost": len(whole["told"] - pieces["told"]),
                "invented": len(pieces["told"] - whole["told"]),
                "same_states": whole["states"] == pieces["states"],
                "same_series": whole["written"] == pieces["written"],
                "missed": pieces["missed"],
            }
        )
    )


if __name__ == "__main__":
    main()
