"""The whole way: a statement fires in a database, and its receiver is told, with its template rendered."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import asyncio
import json

from metricsdb import Database
from metricsdb.alerts import PostableAlert, RouteHint
from metricsdb.alerts.amconfig import load
from metricsdb.alerts.matchers import parse
from metricsdb.alerts.pipeline import Pipeline
from metricsdb.alerts.routing import Router
from metricsdb.testing import FakeClock

T0 = 1_700_000_000_000
CONFIG = """
route: {receiver: chat, group_by: [alertname], group_wait: 0s, group_interval: 1m, repeat_interval: 1h}
receivers:
  - name: chat
    webhook_configs: [{url: "http://chat"}]
  - name: pager
    webhook_configs: [{url: "http://pager"}]
  - name: mail
    email_configs: [{to: x}]
time_intervals: [{name: always, time_intervals: [{}]}, {name: never, time_intervals: [{years: ["1999"]}]}]
"""


class Seen:
    interval_ms = 0

    def __init__(self) -> None:
        self.bodies: list[dict] = []

    async def send(self, message) -> None:
        self.bodies.append(json.loads(message.body))


def test_a_statement_tells_its_receiver(tmp_path):
    clock, pager = FakeClock(T0), Seen()
    with Database(clock=clock) as db:
        pipeline = Pipeline(
            load(CONFIG), clock, directory=tmp_path, channels={"pager/webhook/0": pager}, external_labels={"dc": "x"}
        )
        pipeline.connect(db.alerts)
        assert db.alerts.intervals["always"](T0) and not db.alerts.intervals["never"](T0)  # noqa: PT018
        db.alerts.install(
            'ALERT Hot WHEN temperature > 5 ANNOTATIONS { s="{{ $labels.room }}: {{ $value }} {{ $externalLabels.dc }}" } '
            'ROUTE TO "pager"'
        )
        for _ in range(4):
            db.append({"__name__": "temperature", "room": "a"}, clock.now_ms() / 1000, 9.5)
            db.alerts.tick(clock.now_ms())
            asyncio.run(pipeline.deliver())
            clock.move(60.0)
        pipeline.close()
    assert [body["alerts"][0]["annotations"] for body in pager.bodies] == [{"s": "a: 9.5 x"}]
    assert pager.bodies[0]["groupKey"] == '{}/{alertname="Hot"}:{alertname="Hot"}'


def test_what_waits_is_sent_by_the_next_process(tmp_path):
    clock, chat = FakeClock(T0), Seen()
    first = Pipeline(load(CONFIG), clock, directory=tmp_path)
    assert first.undelivered == ["mail/email/0"]
    first([(PostableAlert({"alertname": "A"}, {}, T0 - 1), None)], T0)
    first.close()
    second = Pipeline(load(CONFIG), clock, directory=tmp_path, channels={"chat/webhook/0": chat})
    assert asyncio.run(second.deliver()).sent == 1
    # Told already: nothing new comes of the same alert.
    second([(PostableAlert({"alertname": "A"}, {}, T0 - 1), None)], T0 + 60_000)
    assert asyncio.run(second.deliver()).sent == 0
    assert len(chat.bodies) == 1
    with second.changing() as router:
        silence = router.silences.add(parse("alertname=B"), T0, T0 + 1_000)
    second.close()
    third = Pipeline(load(CONFIG), clock, directory=tmp_path)
    assert third.router.silences.list() == [silence]
    third.close()


def test_a_hint_takes_the_place_of_the_tree():
    router = Router(load(CONFIG))
    alert = PostableAlert({"alertname": "A", "zone": "z"}, {}, T0)
    hint = RouteHint(("pager", "chat"), ("zone",), 5_000, 7_000, 9_000)
    frame = router.explain(alert, T0, hint)
    assert frame["receiver"].to_list() == ["pager", "chat"]
    assert frame["flush"][0].timestamp() * 1000 == T0 + 5_000
    router.receive([alert], T0, {alert.fingerprint: hint})
    assert router.tick(T0) == []
    made = {n.receiver: n.group_labels for n in router.tick(T0 + 5_000)}
    assert made == {"pager": {"zone": "z"}, "chat": {"zone": "z"}}
    assert router.explain(alert, T0, RouteHint(("nobody",)))["receiver"].to_list() == ["chat"]
