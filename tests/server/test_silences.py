"""Alertmanager's API v2 for silences and alerts, and what /metrics says of alerts."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import T0

CONFIG = """
route: {receiver: chat, group_by: [alertname], group_wait: 0s, group_interval: 1m}
inhibit_rules:
  - source_matchers: ['severity="page"']
    target_matchers: ['severity="low"']
receivers:
  - {name: chat, webhook_configs: [{url: "http://127.0.0.1:9/hook"}]}
  - {name: pager}
"""
STATEMENTS = """
ALERT Warm WHEN temperature > 5 LABELS { severity="page" }
ALERT Rate WHEN count(http_requests_total) > 0 LABELS { severity="low" }
"""


class Taken:
    interval_ms = 0

    async def send(self, message):
        pass


@pytest.fixture
def routed(db, call):
    db.alerts.route(CONFIG, channels={"chat/webhook/0": Taken()})
    db.alerts.install(STATEMENTS)
    db.tick(T0)
    return call


def silence(**other):
    whole = {
        "matchers": [{"name": "alertname", "value": "W.*", "isRegex": True}],
        "startsAt": "2023-11-14T22:13:20Z",
        "endsAt": "2023-11-14T23:13:20Z",
        "createdBy": "me",
        "comment": "it is moved",
    }
    return json.dumps(whole | other)


def test_a_silence_comes_and_goes(routed, db):
    answer = routed("POST", "/api/v2/silences", content=silence())
    assert answer.status_code == 200, answer.text
    known = answer.json()["silenceID"]
    (one,) = routed("GET", "/api/v2/silences").json()
    assert one == routed("GET", f"/api/v2/silence/{known}").json()
    assert (one["id"], one["status"], one["createdBy"]) == (known, {"state": "active"}, "me")
    assert one["matchers"] == [{"name": "alertname", "value": "W.*", "isRegex": True, "isEqual": True}]
    assert (one["startsAt"], one["endsAt"]) == ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20Z")
    assert routed("GET", "/api/v2/silences", params={"filter": 'alertname="W.*"'}).json() == [one]
    assert routed("GET", "/api/v2/silences", params={"filter": 'team="x"'}).json() == []
    warm = next(a for a in routed("GET", "/api/v2/alerts").json() if a["labels"]["alertname"] == "Warm")
    assert warm["status"] == {"state": "suppressed", "silencedBy": [known], "inhibitedBy": [], "mutedBy": []}
    assert warm["receivers"] == [{"name": "chat"}]
    said = silence(id=known, comment="later", endsAt="2023-11-14T23:43:20Z")
    assert routed("POST", "/api/v2/silences", content=said).json() == {"silenceID": known}
    (one,) = routed("GET", "/api/v2/silences").json()
    assert (one["comment"], one["endsAt"]) == ("later", "2023-11-14T23:43:20Z")
    # What takes other alerts is another one.
    other = silence(id=known, matchers=[{"name": "alertname", "value": "Warm", "isRegex": False}])
    changed = routed("POST", "/api/v2/silences", content=other).json()["silenceID"]
    assert changed != known
    assert [s["status"]["state"] for s in routed("GET", "/api/v2/silences").json()] == ["active", "expired"]
    assert routed("DELETE", f"/api/v2/silence/{changed}").status_code == 200
    assert [s["status"]["state"] for s in routed("GET", "/api/v2/silences").json()] == ["expired", "expired"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "truncated"),
        ("{}", 400, "matchers"),
        (silence(matchers=[]), 400, "needs a matcher"),
        (silence(matchers=[{"name": "a", "value": "(", "isRegex": True}]), 400, "("),
        (silence(endsAt="2020-01-01T00:00:00Z"), 400, "past"),
        (silence(endsAt="soon"), 400, "soon"),
        (silence(id="nowhere"), 404, "nowhere"),
        (silence(comment="x" * 70_000), 413, "bytes"),
    ],
)
def test_what_is_wrong_is_said_as_a_text(routed, body, status, says):
    answer = routed("POST", "/api/v2/silences", content=body)
    assert (answer.status_code, says in answer.json()) == (status, True), answer.text
    assert routed("GET", "/api/v2/silence/none").status_code == 404
    assert routed("DELETE", "/api/v2/silence/none").status_code == 404
    for path in ("silences", "alerts"):
        assert routed("GET", f"/api/v2/{path}", params={"filter": "{"}).status_code == 400


def test_what_fires_is_told_with_what_holds_it_back(routed):
    def names(**params):
        return [a["labels"]["alertname"] for a in routed("GET", "/api/v2/alerts", params=params).json()]

    assert sorted(names()) == ["Rate", "Warm"]
    assert names(inhibited="false") == ["Warm"]
    assert names(active="false") == ["Rate"]
    assert names(receiver="pag.*") == []
    assert names(filter='severity=~"p.*"') == ["Warm"]


def test_without_routes_there_is_nothing_to_silence(call):
    assert call("GET", "/api/v2/silences").json() == []
    assert call("GET", "/api/v2/alerts").json() == []
    assert call("POST", "/api/v2/silences", content=silence()).status_code == 400
    assert call("GET", "/api/v2/silence/x").status_code == 404


def test_metrics_say_what_alerts_did(routed, db):
    db.alerts.send()
    text = routed("GET", "/metrics").text
    for line in (
        'metricsdb_alerts_evaluations_total{group="default"} 1',
        'metricsdb_alerts_evaluations_missed_total{group="default"} 0',
        'metricsdb_alerts_evaluation_failures_total{group="default"} 0',
        'metricsdb_alerts_active{state="firing"} 2',
        'metricsdb_alerts_notifications_total{receiver="chat/webhook/0",outcome="sent"} 1',
        'metricsdb_alerts_muted_total{reason="inhibited"} 1',
        "metricsdb_alerts_waiting 0",
    ):
        assert line in text, line
