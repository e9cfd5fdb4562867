"""Random boolean selectors against brute force over every label set."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable

import pytest

import metricsdb as mdb

# 100,000 take a quarter of a minute; the index has as many of its own in Rust.
SELECTORS = int(os.environ.get("METRICSDB_SELECTORS", "20000"))
UNIVERSES = 20

NAMES = ["env", "code", "pod", "absent"]
VALUES = ["", "prod", "prod-eu", "prod\nx", "staging", "200", "404", "5e2", "-0.5", "NaN", "pröd", "pod-7"]
PATTERNS = [
    "", ".*", ".+", "prod", "prod.*", "prod.+", ".*7", ".*o.*", "prod|200", "prod|", "(prod|stag).*", "[0-9]+", "4..",
    "(?i)PROD", "p.+d", ".*-.*-.*", "x|.*", "^prod$", "pr(o|ö)d", "(prod)?", "[^p].*", ".", "(a|b)", r"\w+", r"\D*",
]  # fmt: skip
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
}

Labels = dict[str, str]
Test = Callable[[Labels], bool]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n") + '"'


def leaf(rng: random.Random) -> tuple[str, Test]:
    """A matcher's text, and what it means."""
    name, kind = rng.choice(NAMES), rng.random()
    if kind < 0.3:
        value, equal = rng.choice(VALUES), rng.random() < 0.5
        return f"{name}{'=' if equal else '!='}{quoted(value)}", lambda s: (s.get(name, "") == value) == equal
    if kind < 0.7:
        pattern, positive = rng.choice(PATTERNS), rng.random() < 0.5
        compiled = re.compile(pattern, re.ASCII | re.DOTALL)
        text = f"{name}{'=~' if positive else '!~'}{quoted(pattern)}"
        return text, lambda s: (compiled.fullmatch(s.get(name, "")) is not None) == positive
    if kind < 0.82:
        values, inside = rng.sample(VALUES, rng.randint(1, 3)), rng.random() < 0.5
        text = f"{name} {'' if inside else 'not '}in ({', '.join(map(quoted, values))})"
        return text, lambda s: (s.get(name, "") in values) == inside
    if kind < 0.9:
        return f"has({name})", lambda s: s.get(name, "") != ""
    sign, number = rng.choice(list(COMPARISONS)), rng.choice([0.0, 200.0, 500.0])
    return f"num({name}) {sign} {number}", lambda s: numeric(s.get(name, ""), sign, number)


def numeric(text: str, sign: str, number: float) -> bool:
    try:
        return COMPARISONS[sign](float(text), number)
    except ValueError:
        return False


def selector(rng: random.Random, depth: int = 0) -> tuple[str, Test]:
    kind = rng.random()
    if depth == 3 or kind < 0.4:
        return leaf(rng)
    if kind < 0.5:
        text, test = selector(rng, depth + 1)
        return f"not ({text})", lambda s: not test(s)
    parts = [selector(rng, depth + 1) for _ in range(rng.randint(2, 3))]
    tests = [test for _, test in parts]
    if kind < 0.75:
        return f"({' or '.join(text for text, _ in parts)})", lambda s: any(test(s) for test in tests)
    joint = rng.choice([", ", " and "])
    return f"({joint.join(text for text, _ in parts)})", lambda s: all(test(s) for test in tests)


@pytest.mark.parametrize("seed", range(UNIVERSES))
def test_selectors_take_what_brute_force_takes(seed: int) -> None:
    rng = random.Random(seed)
    db = mdb.Database()
    series = []
    for i in range(rng.randint(1, 40)):
        labels = {"__name__": "m", "id": str(i), **{name: rng.choice(VALUES) for name in NAMES[:3]}}
        series.append({name: value for name, value in labels.items() if value})
        db.append(series[-1], [0], [1.0])
    for _ in range(SELECTORS // UNIVERSES):
        text, test = selector(rng)
        expected = sorted(s["id"] for s in series if test(s))
        assert db.label_values("id", f"m{{{text}}}", start=0, end=0) == expected, text
