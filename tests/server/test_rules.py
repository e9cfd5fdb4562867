"""`/api/v1/rules` and `/api/v1/alerts` as Prometheus answers them."""

from __future__ import annotations

import pytest

from tests.server.conftest import T0

STATEMENTS = """
GROUP temperatures EVERY 1m LABELS { team="t" } {
  RECORD room:temperature:avg = avg by (room) (temperature)
  ALERT Warm WHEN temperature > 5 FOR 5m KEEP FIRING FOR 1m ANNOTATIONS { summary="warm" }
  ALERT Hot LEVEL low WHEN temperature > 5 LEVEL high WHEN temperature > 500
}
ALERT Bad WHEN temperature * on() http_requests_total > 1
"""


@pytest.fixture
def installed(db, call):
    db.alerts.install(STATEMENTS)
    assert call("GET", "/api/v1/rules").json()["data"]["groups"][0]["lastEvaluation"] == "0001-01-01T00:00:00Z"
    db.tick(T0)
    return call


def test_rules_are_told_by_group(installed):
    answer = installed("GET", "/api/v1/rules").json()
    assert answer["status"] == "success"
    group, default = answer["data"]["groups"]
    assert (group["name"], group["interval"], default["name"]) == ("temperatures", 60, "default")
    record, warm, low, high = group["rules"]
    assert record["type"] == "recording"
    assert record["name"] == "room:temperature:avg"
    assert record["health"] == "ok"
    assert record["query"] == "avg by (room) (temperature)"
    assert record["labels"] == {"team": "t"}
    shown = {
        name: warm[name] for name in ("type", "name", "query", "duration", "keepFiringFor", "state", "annotations")
    }
    assert shown == {
        "type": "alerting", "name": "Warm", "query": "temperature > 5", "duration": 300, "keepFiringFor": 60,
        "state": "pending", "annotations": {"summary": "warm"},
    }  # fmt: skip
    at = "2023-11-14T22:13:00Z"
    assert warm["alerts"] == [
        {
            "labels": {"alertname": "Warm", "room": "a", "team": "t"},
            "annotations": {"summary": "warm"},
            "state": "pending",
            "activeAt": at,
            "value": "2.3e+01",
        }
    ]
    assert (low["state"], low["labels"], high["state"]) == ("firing", {"team": "t", "severity": "low"}, "inactive")
    bad = default["rules"][0]
    assert bad["health"] == "err"
    assert "many-to-many" in bad["lastError"]


def test_rules_can_be_filtered(installed):
    def names(**parameters):
        groups = installed("GET", "/api/v1/rules", params=parameters).json()["data"]["groups"]
        return [rule["name"] for group in groups for rule in group["rules"]]

    assert names(type="record") == ["room:temperature:avg"]
    assert names(type="alert") == ["Warm", "Hot", "Hot", "Bad"]
    assert names(**{"rule_name[]": "Hot"}) == ["Hot", "Hot"]
    assert names(**{"rule_group[]": "default"}) == ["Bad"]
    told = installed("GET", "/api/v1/rules", params={"exclude_alerts": "true"}).json()["data"]["groups"][0]["rules"]
    assert told[1]["alerts"] == []
    wrong = installed("GET", "/api/v1/rules", params={"type": "x"})
    assert (wrong.status_code, wrong.json()["errorType"]) == (400, "bad_data")
    assert installed("GET", "/api/v1/rules?type=%ff").status_code == 400


def test_alerts_are_those_that_are_active(installed):
    found = installed("GET", "/api/v1/alerts").json()["data"]["alerts"]
    assert [(alert["labels"]["alertname"], alert["state"]) for alert in found] == [
        ("Warm", "pending"),
        ("Hot", "firing"),
    ]


VALUES = [
    (1.0, "1e+00"),
    (0.1, "1e-01"),
    (float("nan"), "NaN"),
    (float("inf"), "+Inf"),
    (float("-inf"), "-Inf"),
    (12345.678, "1.2345678e+04"),
]


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_values_are_written_as_prometheus_does(db, call, value, text):
    db.append({"__name__": "v"}, [T0], [value])
    db.alerts.install("ALERT A WHEN v")
    db.tick(T0 + 60)
    assert call("GET", "/api/v1/alerts").json()["data"]["alerts"][0]["value"] == text
