"""`metricsdb test-rules` beside promtool: on generated files, the same verdict and the same text."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random
import re
import subprocess

import pytest
import yaml

from metricsdb.testing.rules import run
from tests.peers.processes import need

pytestmark = pytest.mark.peers


def values(chance: random.Random) -> str:
    items = ("0", "1", "5", "0x3", "1+2x4", "9-1.5x3", "_ 2", "_ 0", "stale 1", "100", "0.25x2", "-1", "Inf", "NaN")
    return " ".join(chance.choice(items) for _ in range(24))


def expr(chance: random.Random) -> str:
    metric = chance.choice(["a", "b", "c", 'a{i="1"}', "up"])
    return chance.choice([
        f"{metric} > {chance.randrange(6)}", f"{metric} == 0", f"absent({metric})", f"sum by (i) ({metric}) > 1",
        f"max_over_time({metric}[101s]) >= 5", f"{metric} * 2", "1", f"count({metric})", "r:one > 1", "r:two",
        'ALERTS{alertstate="firing"}', "ALERTS_FOR_STATE",  f"{metric} offset 70s > 0",
        f"{metric} > on(i) group_left b", f"label_replace({metric}, \"x\", \"$1\", \"i\", \"(.*)\")", f"sum({metric} offset -2m)",
    ])  # fmt: skip


def files(chance: random.Random) -> tuple[dict, dict]:
    groups = []
    for g in range(chance.randrange(1, 4)):
        rules = []
        for _ in range(chance.randrange(1, 5)):
            if chance.random() < 0.3:
                rules.append({"record": chance.choice(["r:one", "r:two"]), "expr": expr(chance)})
                if chance.random() < 0.5:
                    rules[-1]["labels"] = {"from": "rule", "i": ""}
                continue
            rule = {"alert": f"A{chance.randrange(3)}", "expr": expr(chance)}
            if chance.random() < 0.6:
                rule["for"] = chance.choice(["1m", "2m", "90s", "0s"])
            if chance.random() < 0.4:
                rule["keep_firing_for"] = chance.choice(["1m", "150s"])
            if chance.random() < 0.5:
                rule["labels"] = {"severity": "page", "v": "{{ $value }}", "i": "{{ $labels.i }}x"}
            if chance.random() < 0.5:
                rule["annotations"] = {
                    "s": "{{ $labels }} {{ humanize $value }} {{ $externalLabels.dc }}",
                    "q": '{{ with query "a" }}{{ len . }}{{ end }}',
                }
            rules.append(rule)
        groups.append({"name": f"g{g}", "rules": rules})
        if chance.random() < 0.2:
            groups[-1]["limit"] = chance.randrange(1, 3)
    series = [{"series": f'{name}{{i="{i}"}}', "values": values(chance)} for name in ("a", "b", "up") for i in (1, 2)]
    times = ["0s", "1m", "2m30s", "4m", "5m", "7m", "9m59s"]
    test = {
        "interval": chance.choice(["1m", "30s", "70s"]),
        "input_series": series,
        "external_labels": {"dc": "x"},
        "alert_rule_test": [{"eval_time": t, "alertname": f"A{n}", "exp_alerts": []} for t in times for n in range(3)],
        "promql_expr_test": [{"eval_time": t, "expr": expr(chance), "exp_samples": []} for t in times],
    }
    return {"groups": groups}, {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": [g["name"] for g in groups],
        "tests": [test],
    }


def normal(text: str) -> list[str]:
    """Lines without blanks at their ends, and errors without the words that are each program's own."""
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    return [re.sub(r"err: .*", "err", line) for line in lines if "Unit Testing" not in line]


@pytest.mark.parametrize("seed", range(120))
def test_the_same_verdict_in_the_same_words(seed, tmp_path):
    rules, tests = files(random.Random(seed))
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(tests))
    ours = run(path)
    mine = normal(str(ours).replace("  SUCCESS", ""))
    # Where two rules write one series, what promtool says may hang on the order of a Go map: it is asked twice.
    for attempt in range(2):
        done = subprocess.run(
            [need("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False
        )
        theirs = normal(done.stdout.replace("  SUCCESS", "") + done.stderr)
        if mine == theirs or attempt:
            break
    assert ours.ok == (done.returncode == 0)
    assert mine == theirs


@pytest.mark.parametrize("seed", range(20))
def test_what_holds_holds_there(seed, tmp_path):
    """The alerts that we find, as expectations: promtool finds them, too."""
    rules, tests = files(random.Random(1000 + seed))
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    path = tmp_path / "test.yml"
    tests["tests"][0]["promql_expr_test"] = []
    path.write_text(yaml.safe_dump(tests))
    blocks = re.findall(r"alertname: (A\d), time: (\S+), .*?got:(\[.*?\n {12}\])", str(run(path)), re.DOTALL)
    pairs = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')
    for name, at, block in blocks:
        for case in tests["tests"][0]["alert_rule_test"]:
            if case["alertname"] == name and case["eval_time"] == at:
                found = re.findall(r"Labels:\{(.*)\}\n +Annotations:\{(.*)\}", block)
                case["exp_alerts"] = [
                    {"exp_labels": {k: yaml.safe_load(v) for k, v in pairs.findall(labels)},
                     "exp_annotations": {k: yaml.safe_load(v) for k, v in pairs.findall(annotations)}}
                    for labels, annotations in found
                ]  # fmt: skip
    path.write_text(yaml.safe_dump(tests))
    ours = run(path)
    if "err: " in str(ours):
        return
    done = subprocess.run([need("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert (ours.ok, done.returncode) == (True, 0), str(ours) + done.stdout + done.stderr
