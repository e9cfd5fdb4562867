"""A process that is killed at any write of its outbox or its state tells receivers later what it would have told."""

from __future__ import annotations

import json

import metricsdb as mdb
from metricsdb.alerts import state
from metricsdb.alerts.outbox import Outbox
from metricsdb.testing import FakeClock

MINUTE = 60_000
T0 = 1_700_000_040_000 - 1_700_000_040_000 % MINUTE
CONFIG = """
route: {receiver: chat, group_by: [alertname], group_wait: 10s, group_interval: 1m, repeat_interval: 4h}
receivers:
  - {name: chat, webhook_configs: [{url: 'http://chat.example'}]}
  - {name: pager, webhook_configs: [{url: 'http://pager.example'}]}
"""
STATEMENTS = """
ALERT A WHEN x > 5;
ALERT B BY (instance) HOLD 1m LEVEL low WHEN x > 3 LEVEL high WHEN x > 7 ROUTE TO "pager" GROUP BY (instance) WAIT 0s
"""
VALUES = {"a": [1, 9, 9, 4, 1, 1, 9], "b": [1, 1, 6, 6, 1, 1, 1]}


class Killed(BaseException):
    """The process ends here."""


class Receiver:
    interval_ms = 0

    def __init__(self) -> None:
        self.told: dict[str, tuple] = {}

    async def send(self, message):
        body = json.loads(message.body)
        alerts = sorted((a["status"], sorted(a["labels"].items())) for a in body["alerts"])
        self.told.setdefault(message.key, (body["groupKey"], body["status"], alerts))


def run(path, monkeypatch, killed_at=None):
    """What each receiver was told, in order, and how many writes there were."""
    clock, ways = FakeClock(T0), {f"{name}/webhook/0": Receiver() for name in ("chat", "pager")}
    writes, append, save = 0, Outbox._append, state.save

    def counted(write):
        def killing(*args, **options):
            nonlocal writes
            writes += 1
            if writes == killed_at:
                raise Killed
            write(*args, **options)

        return killing

    def opened():
        db = mdb.Database(path, clock=clock)
        db.alerts.route(CONFIG, channels=ways)
        return db

    db = opened()
    for instance, values in VALUES.items():
        db.append({"__name__": "x", "instance": instance}, [T0 / 1000 + 60 * i for i in range(7)], values)
    db.alerts.install(STATEMENTS)
    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "_append", counted(append))
        patched.setattr(state, "save", counted(save))
        for _ in range(7 * 6):
            try:
                db.tick()
                db.alerts.send()
            except Killed:
                db.close()  # frees files; writes nothing of alerts
                db = opened()
                db.tick()
                db.alerts.send()
            clock.move(10)
    db.close()
    return {name: list(way.told.values()) for name, way in ways.items()}, writes


def test_whenever_it_is_killed_the_same_is_told(tmp_path, monkeypatch):
    wanted, writes = run(tmp_path / "whole", monkeypatch)
    assert writes > 20
    assert {status for _, status, _ in wanted["chat/webhook/0"]} == {"firing", "resolved"}
    assert len(wanted["pager/webhook/0"]) >= 2
    for killed_at in range(1, writes + 1):
        told, _ = run(tmp_path / str(killed_at), monkeypatch, killed_at)
        assert told == wanted, f"killed at write {killed_at}"
