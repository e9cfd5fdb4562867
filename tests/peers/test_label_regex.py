"""Label regexes against Go's own engine: promtool judges what our selectors and label_replace answer."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

import metricsdb as mdb
from tests.peers.processes import need

pytestmark = pytest.mark.peers

TEXTS = [
    "", "a", "b", "ab", "ba", "aa", "é", "éé", "λ", "A", "AB", "K", "\u212a", "ſ", "s", "1", "11", "a1", "-", "a-b",
    "a.b", "_", "a b", " ", "\n", "a\nb", "\t", "a\n", "*", "{", "]", "&a", "0", "\x07", "\x0b", "éa", "\u00a0",
    "٣", "[", "{,2}", "\\",
]  # fmt: skip
PIECES = [
    "a", "b", "é", "-", "_", "1", ".", ".*", ".+", r"\d", r"\w", r"\s", r"\W", r"\D", r"\S", "[ab]", "[^a]", "[a-c-]",
    r"[\d-a]", "[[:alpha:]]", "[^[:^digit:]x]", r"\pL", r"\p{Greek}", r"\PL", r"\p{^Lu}", r"\x41", r"\x{e9}",
    r"\060", r"\0", r"\Qa.b\E", r"\b", r"\B", "^", "$", r"\A", r"\z", "(?i)", "(?m)", "(?U)", "(?i:A)", "(?i-m:k)",
    "()", "(a)", "(b|)", r"\n", r"\t", r"\.", r"\_", "[&&a]", "[a||b]", "[]a]", "[^]a]", "{", "}", "{,2}", "(?i)ſ",
    "[[a]", r"[\pL\d]",
]  # fmt: skip
BROKEN = [r"\1", r"\8", r"\Z", r"\C", r"\E", "(?=a)", "(?x)", "[b-a]", "[a", "(", ")", "[[:no:]]", r"\p{No}", "(?P<n"]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,}", "{01}"]
BROKEN_REPEATS = ["{2,1}", "{1001}", "**", "{2}{2}"]


def pattern(rng: random.Random, depth: int = 0) -> str:
    out = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.15 and depth < 3:
            piece = "(" + rng.choice(["", "?:", "?i:"]) + pattern(rng, depth + 1) + ")"
        elif kind < 0.25 and depth < 3:
            piece = pattern(rng, depth + 1) + "|" + pattern(rng, depth + 1)
        else:
            piece = rng.choice(BROKEN if rng.random() < 0.03 else PIECES)
        if rng.random() < 0.3:
            piece += rng.choice(BROKEN_REPEATS if rng.random() < 0.05 else REPEATS)
        out.append(piece)
    return "".join(out)


def quoted(text: str) -> str:
    """A string of PromQL with no escapes but those that Go knows."""
    plain = (f"\\{c}" if c in '"\\' else c if ord(c) >= 32 else f"\\x{ord(c):02x}" for c in text)
    return '"' + "".join(plain) + '"'


def named(row: dict) -> str:
    labels = ",".join(f"{k}={quoted(row[k])}" for k in ("i", "l", "r") if row.get(k))
    return "x{" + labels + "}"


@pytest.fixture(scope="module")
def questions() -> tuple[list[dict], list[str]]:
    """Queries with what we answer, and queries that we refuse for their regex."""
    db = mdb.Database()
    for i, text in enumerate(TEXTS):
        db.append({"__name__": "x", "i": str(i), "l": text}, [0], [1.0])
    rng = random.Random(7)
    answered, refused = [], []
    for _ in range(600):
        # Debian's Prometheus is older than 3.0, in which the dot learned to take newlines.
        regex = quoted("(?-s)" + pattern(rng))
        for query in (f'x{{i=~".+",l=~{regex}}}', f'label_replace(x,"r","<$1|${{2}}>","l",{regex})'):
            try:
                rows = db.query(query, time=0).rows(named=True)
            except mdb.QueryError:
                refused.append(query)
                continue
            samples = [{"labels": named(row), "value": 1} for row in rows]
            answered.append({"expr": query, "eval_time": "0", "exp_samples": samples})
    return answered, refused


def judge(tests: list[dict], folder: Path) -> subprocess.CompletedProcess[str]:
    series = [{"series": named({"i": str(i), "l": text}), "values": "1"} for i, text in enumerate(TEXTS)]
    group = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    file = folder / "regex.yml"
    file.write_text(json.dumps({"evaluation_interval": "1m", "tests": [group]}))
    return subprocess.run([need("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False)


def test_go_matches_and_captures_the_same(questions, tmp_path):
    answered, _ = questions
    assert len(answered) > 800
    verdict = judge(answered, tmp_path)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_go_refuses_the_same(questions, tmp_path):
    _, refused = questions
    assert len(refused) > 100
    verdict = judge([{"expr": query, "eval_time": "0", "exp_samples": []} for query in refused], tmp_path)
    assert (verdict.stdout + verdict.stderr).count("err: ") == len(refused), verdict.stdout + verdict.stderr
