"""The native machine against the twin that was written from its table, and restarts at any place."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from metricsdb._native import AlertRule
from tests.twins.alerts import Level, Statement, run

SERIES = 50
# 100,000 pairs of a statement and a series; a million in `make torture`.
STATEMENTS = 20_000 if os.environ.get("METRICSDB_LONG") else 2000
SECOND = 1000


def _damp(rng: random.Random) -> tuple[str, tuple | None]:
    kind = rng.randrange(4)
    if kind < 2:
        return "", None
    if kind == 2:
        seconds = rng.choice([0, 1, 2, 3, 5, 8])
        return f" FOR {seconds}s", ("for", seconds * SECOND)
    n = rng.randint(1, 6)
    k = rng.randint(1, n)
    return f" FOR {k} OF {n}", ("of", k, n)


OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _condition(rng: random.Random) -> tuple[str, Level]:
    op, bound = rng.choice(list(OPERATORS)), rng.randint(2, 6)
    holds = OPERATORS[op]
    damp_text, damp = _damp(rng)
    text = f"WHEN x {op} {bound}{damp_text}"
    level = Level(lambda v: holds(v, bound), damp=damp)
    kind = rng.randrange(3)
    if kind and op in (">", ">=", "<", "<=") and kind == 1:
        at = bound - rng.randint(0, 2) if op in (">", ">=") else bound + rng.randint(0, 2)
        level.stay = lambda v: holds(v, at)
        clear_text, level.clear_damp = _damp(rng)
        text += f" CLEAR AT {at}{clear_text}"
    elif kind == 2:
        other, limit = rng.choice(list(OPERATORS)), rng.randint(1, 7)
        clears = OPERATORS[other]
        level.clear = lambda v: clears(v, limit)
        clear_text, level.clear_damp = _damp(rng)
        text += f" CLEAR WHEN x {other} {limit}{clear_text}"
    return text, level


def _own(rng: random.Random, level: Level) -> str:
    text = ""
    if rng.random() < 0.3:
        level.keep_firing = rng.randint(0, 5) * SECOND
        text += f" KEEP FIRING FOR {level.keep_firing // SECOND}s"
    if rng.random() < 0.3:
        level.hold = rng.randint(0, 6) * SECOND
        text += f" HOLD {level.hold // SECOND}s"
    return text


def generated(rng: random.Random) -> tuple[str, Statement]:
    levels, parts = [], []
    count = rng.choice([1, 1, 1, 2, 3])
    for i in range(count):
        text, level = _condition(rng)
        own = _own(rng, level)
        parts.append(f"LEVEL l{i} {text}{own}" if count > 1 else f"{text}{own}")
        levels.append(level)
    statement = Statement(levels)
    clauses = ""
    if rng.random() < 0.3:
        statement.cooldown = rng.randint(0, 6) * SECOND
        clauses += f" COOLDOWN {statement.cooldown // SECOND}s"
    if rng.random() < 0.4:
        changes, window, quiet = rng.randint(1, 4), rng.randint(2, 15), rng.randint(1, 8)
        then = rng.choice([None, "hold", "mute"])
        statement.flap = (changes, window * SECOND, quiet * SECOND, then)
        clauses += f" FLAP {changes} CHANGES IN {window}s UNTIL {quiet}s QUIET" + (f" THEN {then}" if then else "")
    if rng.random() < 0.6:
        what, after = rng.choice(["clear", "keep", "unknown", "fire"]), rng.choice([0, 0, 1, 2, 4])
        statement.nodata = (what, after * SECOND)
        clauses += f" ON NODATA {what}" + (f" AFTER {after}s" if after else "")
    if rng.random() < 0.5:
        statement.error = rng.choice(["keep", "unknown", "fire"])
        clauses += f" ON ERROR {statement.error}"
    return f"ALERT a{clauses} {' '.join(parts)}", statement


def _values(rng: random.Random, steps: int) -> list[float | None]:
    """Walks, jumps and gaps around the bounds."""
    value, found = rng.randint(0, 8), list[float | None]()
    gap, jump = rng.choice([0.0, 0.1, 0.3]), rng.choice([0.1, 0.4, 0.9])
    for _ in range(steps):
        if rng.random() < jump:
            value = rng.randint(0, 8)
        elif rng.random() < 0.3:
            value = min(8, max(0, value + rng.choice([-1, 1])))
        found.append(None if rng.random() < gap else float(value))
    return found


def _times(rng: random.Random, steps: int) -> list[int]:
    """A second apart, but for some evaluations that were missed."""
    now, found = rng.randint(-5, 5) * SECOND, list[int]()
    for _ in range(steps):
        found.append(now)
        now += SECOND * (rng.randint(2, 4) if rng.random() < 0.05 else 1)
    return found


def _at_night(night: range) -> Callable[[int], str | None]:
    return lambda now: "night" if now // SECOND in night else None


@pytest.mark.parametrize("seed", range(STATEMENTS // 100))
def test_the_machine_does_what_its_table_says(seed):
    rng = random.Random(seed)
    for _ in range(100):
        text, statement = generated(rng)
        steps = rng.randint(5, 30)
        times = _times(rng, steps)
        failed = [i for i in range(steps) if rng.random() < 0.04]
        night = range(*sorted(rng.sample(range(-5, 40), 2)))
        series = [_values(rng, steps) for _ in range(SERIES)]
        rows = [(0, {"i": f"{i:02}"}, values) for i, values in enumerate(series)]
        mutings = [(night.start * SECOND, night.stop * SECOND, [], "night")]
        cuts = rng.sample(range(1, steps), rng.randint(0, 3))
        found = AlertRule(text).simulate(times, rows, failed, cuts, mutings)
        by_series: dict[str, list] = {f"{i:02}": [] for i in range(SERIES)}
        for at, labels, level, before, after, _, _, flapping, told, muted, _ in found:
            by_series[labels["i"]].append((at, level, before, after, told, flapping, muted))
        for i, values in enumerate(series):
            wanted, _ = run(statement, times, values, failed, _at_night(night))
            assert by_series[f"{i:02}"] == wanted, (text, times, values, failed, night)


@pytest.mark.parametrize("seed", range(20))
def test_restarts_at_any_place_change_nothing(seed):
    rng = random.Random(1000 + seed)
    for _ in range(10):
        text, _ = generated(rng)
        cap = rng.choice(["", "CAP 3 INSTANCES "])
        text = text.replace("ALERT a", f"ALERT a {cap}", 1)
        steps = 30
        times = _times(rng, steps)
        failed = [i for i in range(steps) if rng.random() < 0.04]
        rows = [(0, {"i": f"{i:02}"}, _values(rng, steps)) for i in range(12)]
        whole = AlertRule(text)
        wanted = whole.simulate(times, rows, failed)
        for cuts in (list(range(1, steps)), [rng.randrange(1, steps)], rng.sample(range(1, steps), 5)):
            cut = AlertRule(text)
            assert cut.simulate(times, rows, failed, cuts) == wanted, text
            assert (cut.state(), cut.series()) == (whole.state(), whole.series()), text
