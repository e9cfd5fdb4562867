"""Definitions for other systems: what they can say is said, what they can't is listed."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import json

import yaml

from metricsdb.alerts import RouteHint
from metricsdb.alerts.export import Level, Recording, Statement, StatementGroup
from metricsdb.alerts.foreign import datadog, grafana
from tests.unit.alerts.statements import groups


def test_grafana_gets_a_rule_a_level():
    made = grafana(groups(), folder="F", datasource="ds")
    plain = yaml.safe_load(made.to_yaml())
    assert plain == made.value
    disk = plain["groups"][0]
    assert (disk["name"], disk["folder"], disk["interval"], plain["apiVersion"]) == ("disks", "F", "1m", 1)
    low, high = disk["rules"]
    assert [low["title"], high["title"]] == ["DiskFilling (warning)", "DiskFilling (critical)"]
    assert low["data"][0]["datasourceUid"] == "ds"
    assert low["data"][0]["model"]["expr"] == "used"
    assert low["data"][1]["model"]["conditions"] == [
        {"evaluator": {"type": "gt", "params": [0.8]}, "unloadEvaluator": {"type": "lte", "params": [0.75]}}
    ]
    assert (low["for"], low["keepFiringFor"], low["noDataState"], low["execErrState"]) == ("10m", "10m", "NoData", "KeepLast")  # fmt: skip
    assert low["labels"] == {"severity": "warning", "team": "storage"}
    uids = [rule["uid"] for group in plain["groups"] for rule in group["rules"]]
    assert len(set(uids)) == len(uids)
    listed = "\n".join(made.inexact)
    for text in (
        "DiskFilling: COOLDOWN",
        "DiskFilling (critical): FOR 2 OF 3",
        "$values.A.Value",
        "a:b: RECORD",
        "Slow: CLEAR",
    ):
        assert text in listed


def test_a_condition_that_is_no_comparison_asks_whether_there_is_an_answer():
    one = StatementGroup("g", [Statement("A", [Level("absent(x)", clear_at=1.0)])])
    made = grafana([one])
    assert made.value["groups"][0]["rules"][0]["data"][1]["model"] == {
        "type": "math", "expression": "is_number($A) || is_inf($A)", "refId": "C",
    }  # fmt: skip
    assert made.inexact == ["A: CLEAR is left out"]


def test_datadog_gets_a_monitor_an_alert():
    made = datadog(groups())
    monitors = {one["name"]: one for one in json.loads(json.dumps(made.value))}
    disk = monitors["DiskFilling"]
    assert disk["query"] == "used > 0.92"
    assert disk["options"]["thresholds"] == {
        "critical": 0.92, "critical_recovery": 0.88, "warning": 0.8, "warning_recovery": 0.75,
    }  # fmt: skip
    assert disk["tags"] == ["team:storage"]
    assert disk["message"].endswith("@pager")
    assert disk["options"]["on_missing_data"] == "show_no_data"
    assert monitors["Levels"]["query"] == "p99 > 0.8"
    assert "Levels: its conditions are no thresholds" in "\n".join(made.inexact)
    assert "Kept: KEEP FIRING FOR is left out" in made.inexact
    again = Statement("R", [Level("x > 1", "", "x", ">", "1")], route=RouteHint(("chat",), repeat_ms=7_200_000))
    assert datadog([StatementGroup("g", [again])]).value[0]["options"]["renotify_interval"] == 120
    assert "unloadEvaluator" not in str(grafana([StatementGroup("g", [again])]).value)


def test_a_limit_of_a_group_is_listed():
    one = StatementGroup("g", [], limit=5)
    for made in (grafana([one]), datadog([one])):
        assert made.inexact == ["group g: LIMIT is left out"]


def test_a_monitor_has_two_levels():
    levels = [Level(f"x > {i}", name, "x", ">", str(i)) for i, name in enumerate(("low", "middle", "high"))]
    made = datadog([StatementGroup("g", [Statement("A", levels), Recording("a:b", "x")])])
    assert made.value[0]["options"]["thresholds"] == {"critical": 2.0, "warning": 1.0}
    assert made.inexact[0] == "A: levels below middle are left out; a monitor has two"
    assert made.inexact[-1] == "a:b: RECORD is left out"
