"""Rule files that we write, read by promtool."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random
import subprocess
from itertools import pairwise

import pytest
import yaml

from metricsdb.alerts import export, rules
from metricsdb.alerts.documents import to_yaml
from metricsdb.testing.rules import run
from tests.peers.processes import need
from tests.unit.alerts.corpus import HAND, generated
from tests.unit.alerts.statements import groups

pytestmark = pytest.mark.peers


def without_what_is_newer(plain):
    """Debian's Prometheus of 2023 knows fewer keys, and would refuse them."""
    for group in plain["groups"]:
        for key in ("query_offset", "labels"):
            group.pop(key, None)
        for rule in group.get("rules") or ():
            for key in list(rule):
                if key not in ("alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"):
                    del rule[key]
    return plain


def check(tmp_path, text: str) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(text)
    done = subprocess.run([need("promtool"), "check", "rules", "--lint=none", str(path)], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", range(8))
def test_what_was_read_and_written_is_accepted(tmp_path, seed):
    text = yaml.safe_dump(generated(60, seed))
    check(tmp_path, text)
    check(tmp_path, rules.load(text).to_yaml())


def test_our_own_writing_is_accepted(tmp_path):
    check(tmp_path, HAND)
    check(tmp_path, rules.load(HAND).to_yaml())


def test_exports_are_accepted(tmp_path):
    made = export.portable(groups())
    check(tmp_path, to_yaml(without_what_is_newer(made.rules.plain())))
    check(tmp_path, export.native([g for g in groups() if not g.offset_ms]))


def episodes(values: list[float], fire: float, clear: float) -> list[bool]:
    """Whether an alert with a clear level fires at each value: the slow, obvious way."""
    on, found = False, []
    for value in values:
        on = value > fire or (on and value > clear)
        found.append(on)
    return found


@pytest.mark.parametrize("clear", ["at", "when"])
@pytest.mark.parametrize("by", [None, ["i"]])
def test_a_clear_level_holds_in_prometheus_as_it_was_meant(tmp_path, clear, by):
    """The exported self-reference on a noisy series, evaluated by promtool and by ours."""
    chance = random.Random(3)
    values = [round(chance.uniform(0, 10), 1) for _ in range(60)]
    level = export.Level(
        "m > 8", "page", "m", ">", "8", **({"clear_at": 3.0} if clear == "at" else {"clear_when": "m <= 3"})
    )
    made = export.portable([export.StatementGroup("g", [export.Statement("A", [level], by=by, labels={"team": "x"})])])
    expected = episodes(values, 8, 3)
    assert 5 < sum(a != b for a, b in pairwise(expected)) < 30
    cases = []
    for i, on in enumerate(expected):
        labels = {"i": "1", "severity": "page", "team": "x"}
        cases.append({"eval_time": f"{i}m", "alertname": "A", "exp_alerts": [{"exp_labels": labels}] if on else []})
    test = {
        "interval": "1m",
        "input_series": [{"series": 'm{i="1"}', "values": " ".join(map(str, values))}],
        "alert_rule_test": cases,
    }
    (tmp_path / "r.yml").write_text(to_yaml(made.rules.plain()))
    (tmp_path / "t.yml").write_text(yaml.safe_dump({"rule_files": ["r.yml"], "tests": [test]}))
    done = subprocess.run(
        [need("promtool"), "test", "rules", str(tmp_path / "t.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(tmp_path / "t.yml").ok
