"""Samples to receivers: what is installed, evaluated, routed and handed over, with nothing between but a clock."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

import metricsdb as mdb
from metricsdb.alerts import PostableAlert, RouteHint, amconfig, export
from metricsdb.alerts.outbox import Outbox
from metricsdb.alerts.pipeline import Pipeline
from metricsdb.alerts.routing import Router
from metricsdb.errors import ConfigError, DatabaseLocked, DeliveryError, ParseError, StorageError
from metricsdb.testing import FakeClock

MINUTE = 60_000
T0 = 1_700_000_040_000 - 1_700_000_040_000 % MINUTE

CONFIG = """
global: {resolve_timeout: 5m}
route:
  receiver: chat
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1m
  repeat_interval: 4h
  routes:
    - {receiver: desk, matchers: ['team="desk"'], group_by: [alertname]}
receivers:
  - name: chat
    webhook_configs: [{url: 'http://chat.example/hook'}]
  - name: desk
    webhook_configs: [{url: 'http://desk.example/hook'}]
  - name: pager
    webhook_configs: [{url: 'http://pager.example/hook'}]
time_intervals:
  - name: day
    time_intervals: [{times: [{start_time: '08:00', end_time: '20:00'}]}]
  - name: never
    time_intervals: [{years: ['1999']}]
"""

RULES = """
groups:
  - name: node
    interval: 1m
    limit: 7
    rules:
      - alert: DiskFilling
        expr: disk_used_ratio > 0.8
        labels: {severity: page}
        annotations:
          summary: "{{ $labels.instance }} of {{ $externalLabels.dc }} is {{ $value | humanizePercentage }} full"
          others: '{{ with query "count(disk_used_ratio)" }}{{ . | first | value }}{{ end }} disks'
"""


class Receiver:
    """Takes messages as a webhook would, unless it is down."""

    interval_ms = 0

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.keys: list[str] = []
        self.down = False

    async def send(self, message):
        if self.down:
            raise DeliveryError("down", retry=True)
        self.bodies.append(json.loads(message.body))
        self.keys.append(message.key)

    def take(self):
        taken, self.bodies = self.bodies, []
        return taken


@pytest.fixture
def clock():
    return FakeClock(T0)


@pytest.fixture
def ways():
    return {f"{name}/webhook/0": Receiver() for name in ("chat", "desk", "pager")}


@pytest.fixture
def db(clock):
    with mdb.Database(clock=clock) as db:
        yield db


def fill(db, values, name="disk_used_ratio", **labels):
    times = [(T0 + i * MINUTE) / 1000 for i in range(len(values))]
    db.append({"__name__": name, "instance": "a", **labels}, times, values)


def tick(db, clock, minutes=1):
    for _ in range(minutes):
        db.tick()
        db.alerts.send()
        clock.move(60)


def said(receiver):
    """Status, and the instances of each message."""
    return [(b["status"], [a["labels"]["instance"] for a in b["alerts"]]) for b in receiver.take()]


def test_samples_to_a_webhook_and_back_to_rest(db, clock, ways):
    fill(db, [0.5, 0.9, 0.9, 0.5])
    fill(db, [0.5] * 4, instance="b")
    db.alerts.route(CONFIG, channels=ways, external_url="https://m.example/", external_labels={"dc": "east"})
    done = db.alerts.load(RULES)
    assert (done.added, done.left_out) == (("DiskFilling",), ())
    tick(db, clock)
    assert ways["chat/webhook/0"].take() == []
    tick(db, clock)
    (body,) = ways["chat/webhook/0"].take()
    assert (body["version"], body["status"], body["receiver"]) == ("4", "firing", "chat")
    assert body["groupLabels"] == {"alertname": "DiskFilling"}
    assert body["externalURL"] == "https://m.example"
    (alert,) = body["alerts"]
    assert alert["labels"] == {"alertname": "DiskFilling", "instance": "a", "severity": "page", "dc": "east"}
    assert alert["annotations"] == {"summary": "a of east is 90% full", "others": "2 disks"}
    assert alert["startsAt"] == "2023-11-14T22:15:00Z"
    assert alert["generatorURL"].startswith("https://m.example/graph?g0.expr=disk_used_ratio")
    tick(db, clock)
    assert ways["chat/webhook/0"].take() == [], "it is told once"
    tick(db, clock)
    (body,) = ways["chat/webhook/0"].take()
    assert (body["status"], body["alerts"][0]["endsAt"]) == ("resolved", "2023-11-14T22:17:00Z")


def test_a_restart_loses_nothing_and_says_nothing_twice(tmp_path, clock, ways):
    chat = ways["chat/webhook/0"]
    with mdb.Database(tmp_path, clock=clock) as db:
        fill(db, [0.9, 0.9, 0.9, 0.5])
        db.alerts.route(CONFIG, channels=ways)
        db.alerts.load(RULES)
        chat.down = True
        tick(db, clock)
        silence = db.alerts.pipeline.silence('instance="z"', end="+1d", by="me")
    assert chat.take() == []
    chat.down = False
    for _ in range(2):
        with mdb.Database(tmp_path, clock=clock) as db:
            db.alerts.route(CONFIG, channels=ways)
            assert db.alerts.pipeline.silences()["id"].to_list() == [silence]
            tick(db, clock)
    assert said(chat) == [("firing", ["a"])]
    with mdb.Database(tmp_path, clock=clock) as db:
        db.alerts.route(CONFIG, channels=ways)
        tick(db, clock)
        assert said(chat) == [("resolved", ["a"])]
        with pytest.raises(DatabaseLocked):
            Pipeline(amconfig.load(CONFIG), clock, directory=tmp_path)


def test_what_was_received_is_told_by_whoever_comes_next(tmp_path, clock, ways):
    """Killed after the alerts came, before their group was due: the sender says what is over once, and never again."""
    config = amconfig.load(CONFIG.replace("group_wait: 0s", "group_wait: 30s"))
    first = Pipeline(config, clock, directory=tmp_path, channels=ways)
    hint = RouteHint(("pager",), group_by=("instance",))
    first.receive([(PostableAlert({"alertname": "A", "instance": "a"}, starts_at_ms=T0), hint)], T0)
    first.tick(T0)
    first.outbox.close()
    clock.move(31)
    second = Pipeline(config, clock, directory=tmp_path, channels=ways)
    second.tick(clock.now_ms())
    asyncio.run(second.deliver())
    (body,) = ways["pager/webhook/0"].take()
    assert body["groupLabels"] == {"instance": "a"}
    second.close()


def test_route_to_chooses_receivers_and_their_pace(db, clock, ways):
    fill(db, [0.9] * 8)
    db.alerts.route(CONFIG, channels=ways)
    db.alerts.install(
        'ALERT A WHEN disk_used_ratio > 0.8 ROUTE TO "pager", "desk" GROUP BY (instance) WAIT 0s REPEAT 3m;'
        'ALERT B WHEN disk_used_ratio > 0.85 LABELS {team="desk"}'
    )
    tick(db, clock, 8)
    assert said(ways["pager/webhook/0"]) == [("firing", ["a"])] * 2
    desk = [(b["groupLabels"], b["status"]) for b in ways["desk/webhook/0"].take()]
    assert desk == [({"instance": "a"}, "firing"), ({"alertname": "B"}, "firing"), ({"instance": "a"}, "firing")]
    assert ways["chat/webhook/0"].take() == []
    with pytest.raises(
        ConfigError, match="A has ROUTE TO 'nobody', which is no receiver; there are: chat, desk, pager"
    ):
        db.alerts.install('ALERT A WHEN disk_used_ratio > 0.8 ROUTE TO "nobody"')


def test_a_receiver_that_is_gone_leaves_its_alerts_to_the_tree(db, clock, ways, caplog):
    fill(db, [0.9] * 2)
    db.alerts.install('ALERT A WHEN disk_used_ratio > 0.8 ROUTE TO "gone"')
    db.alerts.route(CONFIG, channels=ways)
    tick(db, clock, 2)
    assert said(ways["chat/webhook/0"]) == [("firing", ["a"])]
    assert [r.getMessage() for r in caplog.records if "'gone'" in r.getMessage()] != []


def test_a_silence_holds_back_until_it_ends(db, clock, ways):
    fill(db, [0.9] * 6)
    with pytest.raises(ConfigError, match="call db.alerts.route first"):
        db.alerts.silence("a=b")
    pipeline = db.alerts.route(CONFIG, channels=ways)
    db.alerts.load(RULES)
    silence = db.alerts.silence('instance=~"a|b"', by="me", comment="moving")
    tick(db, clock, 2)
    assert said(ways["chat/webhook/0"]) == []
    assert pipeline.silences().select("id", "state", "matchers", "by", "comment").rows() == [
        (silence, "active", '{instance=~"a|b"}', "me", "moving")
    ]
    labels = {"alertname": "DiskFilling", "instance": "a", "severity": "page"}
    assert pipeline.explain(labels).select("receiver", "muted").rows() == [("chat", f"silenced by {silence}")]
    db.alerts.unsilence(silence)
    assert pipeline.silences()["state"].to_list() == ["expired"]
    assert pipeline.explain(labels, RouteHint(("pager",)))["receiver"].to_list() == ["pager"]
    tick(db, clock, 2)
    assert said(ways["chat/webhook/0"]) == [("firing", ["a"])]
    with pytest.raises(ConfigError, match="no silence has the id"):
        pipeline.unsilence("x")


def test_during_knows_the_intervals_of_the_file(db, clock, ways):
    fill(db, [0.9] * 3)
    db.alerts.route(CONFIG, channels=ways)
    db.alerts.install(
        "ALERT A DURING day WHEN disk_used_ratio > 0.8; ALERT B NOT DURING never WHEN disk_used_ratio > 0.8"
    )
    tick(db, clock, 2)  # 22:14 UTC
    assert [b["groupLabels"]["alertname"] for b in ways["chat/webhook/0"].take()] == ["B"]
    with pytest.raises(ConfigError, match="names the interval 'night', which is not known; there are: day, never"):
        db.alerts.install("ALERT C DURING night WHEN disk_used_ratio > 0.8")


def test_an_interval_that_is_gone_after_a_restart_mutes_nothing(tmp_path, clock, ways):
    with mdb.Database(tmp_path, clock=clock) as db:
        fill(db, [0.9] * 3)
        db.alerts.route(CONFIG, channels=ways)
        db.alerts.install("ALERT A DURING day WHEN disk_used_ratio > 0.8")
    with mdb.Database(tmp_path, clock=clock) as db:
        db.tick()
        assert db.alerts.list()["state"].to_list() == ["firing"]


def test_alertmanagers_hear_it_again_and_again(db, clock):
    fill(db, [0.9, 0.9, 0.9, 0.5, 0.5])
    pipeline = db.alerts.route(alertmanagers=["http://am.example:9093/base"], external_url="https://m.example")
    db.alerts.install(
        "GROUP a EVERY 3m { ALERT A WHEN disk_used_ratio > 0.8 } GROUP b { ALERT B WHEN disk_used_ratio > 0.8 }"
    )
    heard = []

    class Am(Receiver):
        async def send(self, message):
            heard.append([(a["labels"]["alertname"], a["endsAt"]) for a in json.loads(message.body)])

    (name,) = pipeline._delivery.channels
    assert name == "alertmanager am.example:9093/base"
    pipeline._delivery.channels[name] = Am()
    tick(db, clock, 4)
    names = [sorted({one for one, _ in message}) for message in heard]
    assert names == [["B"], ["A", "B"], ["A", "B"], ["A", "B"]], "a group of 3 minutes is said each minute, too"
    last = {one: end for message in heard for one, end in message}
    assert last["B"] == "2023-11-14T22:17:00Z"
    with pytest.raises(ConfigError, match="there are no routes here"):
        pipeline.silence('a="b"')
    with pytest.raises(ConfigError, match="stands twice"):
        db.alerts.route(alertmanagers=["http://am:9093", "http://am:9093/"])
    with pytest.raises(ConfigError, match="have nowhere to go"):
        db.alerts.route()


def test_a_full_disk_delays_and_loses_nothing(tmp_path, clock, ways, monkeypatch):
    pipeline = Pipeline(amconfig.load(CONFIG), clock, directory=tmp_path, channels=ways)

    def fails(*_):
        raise StorageError("no space")

    with monkeypatch.context() as broken:
        broken.setattr(pipeline.outbox, "put", fails)
        pipeline.receive([(PostableAlert({"alertname": "A", "instance": "a"}, starts_at_ms=T0), None)], T0)
        pipeline.tick(T0)
    pipeline.tick(T0 + 1000)
    asyncio.run(pipeline.deliver())
    assert said(ways["chat/webhook/0"]) == [("firing", ["a"])]
    pipeline.close()


def test_what_has_no_way_is_named_once(caplog, clock):
    config = amconfig.load("route: {receiver: x}\nreceivers: [{name: x, slack_configs: [{channel: '#a'}]}]\n")
    with caplog.at_level(logging.WARNING):
        Pipeline(config, clock)
    assert "nothing is sent to x/slack/0" in caplog.text


def test_files_are_loaded_whole_and_errors_name_them(db, tmp_path):
    one, two = tmp_path / "one.yml", tmp_path / "two.mql"
    one.write_text(RULES)
    two.write_text("GROUP other { RECORD r = sum(disk_used_ratio) } ALERT A WHEN disk_used_ratio > 0.9")
    db.alerts.install("GROUP old { ALERT Old WHEN disk_used_ratio > 0.1 }")
    db.alerts.load_all([one, str(two)])
    assert db.alerts.list()["name"].to_list() == ["DiskFilling", "r", "A"]
    (tmp_path / "three.yml").write_text(RULES)
    with pytest.raises(ConfigError, match="three.yml: group 'node' stands in .*one.yml, too; rename"):
        db.alerts.load_all([one, tmp_path / "three.yml"])
    two.write_text("ALERT A WHEN sum(")
    with pytest.raises(ConfigError, match="two.mql: "):
        db.alerts.load(two)
    with pytest.raises(ConfigError, match="nothing.yml: cannot be read"):
        db.alerts.load("nothing.yml")
    with pytest.raises(ConfigError, match="nothing.yml: cannot be read"):
        db.alerts.route(tmp_path / "nothing.yml")
    one.write_text(RULES.replace("disk_used_ratio > 0.8", "sum by ("))
    with pytest.raises(ConfigError, match="one.yml"):
        db.alerts.load(one)


def test_a_template_that_fails_goes_out_all_the_same(db, clock, ways):
    fill(db, [0.9] * 2)
    db.alerts.route(CONFIG, channels=ways)
    db.alerts.install("""ALERT A WHEN disk_used_ratio > 0.8 ANNOTATIONS {a='{{ query "sum(" }}'}""")
    tick(db, clock, 2)
    (body,) = ways["chat/webhook/0"].take()
    assert body["alerts"][0]["annotations"]["a"].startswith("<error expanding template: ")


def test_what_is_installed_is_exported(db):
    db.alerts.install("""GROUP g EVERY 30s {
      ALERT A BY (instance) CAP 9 INSTANCES ROUTE TO "pager" WAIT 1m
        LEVEL warning WHEN x > 0.7 FOR 10m CLEAR AT 0.6
        LEVEL critical WHEN x > 0.8 FOR 2 OF 3 CLEAR WHEN x < 0.7 FOR 5m
      RECORD r = sum(x) LABELS {a="b"}
    }""")
    (group,) = db.alerts.export()
    alert, record = group.statements
    assert (group.name, group.interval_ms, record.record, record.expr) == ("g", 30_000, "r", "sum(x)")
    low, high = alert.levels
    assert (low.expr, low.op, low.threshold, low.clear_at, low.for_ms) == ("x", ">", "0.7", 0.6, 600_000)
    assert (high.of, high.clear_when, high.clear_for_ms) == ((2, 3), "x < 0.7", 300_000)
    assert low.route == RouteHint(("pager",), wait_ms=60_000)
    made = export.portable([group])
    assert "A: CAP is left out" in made.inexact
    assert [r.name for r in made.rules.groups[0].rules] == ["A", "A", "r"]
    restored, left_out = export.restore(export.native([group]))
    assert left_out == []
    assert db.alerts.install(restored).unchanged == ("A", "r")
    assert db.alerts.export() == [group]


def test_a_hint_takes_the_place_of_the_tree():
    router = Router(amconfig.load(CONFIG))
    alert = PostableAlert({"alertname": "A", "zone": "z", "none": ""}, {}, T0)
    hint = RouteHint(("pager", "chat"), ("zone",), 5_000, 7_000, 9_000)
    frame = router.explain(alert, T0, hint)
    assert frame["receiver"].to_list() == ["pager", "chat"]
    assert frame["flush"][0].timestamp() * 1000 == T0 + 5_000
    router.receive([alert], T0, {alert.fingerprint: hint})
    assert router.tick(T0) == []
    state = json.loads(json.dumps(router.state()))
    router = Router(amconfig.load(CONFIG))
    router.restore(state)
    made = {n.receiver: n.group_labels for n in router.tick(T0 + 5_000)}
    assert made == {"pager": {"zone": "z"}, "chat": {"zone": "z"}}
    assert router.explain(alert, T0, RouteHint(("nobody",)))["receiver"].to_list() == ["chat"]


def test_a_file_of_states_alone_stays_small(tmp_path):
    box = Outbox(tmp_path)
    for i in range(100):
        box.put([], {"all": {"i": i, "held": "x" * 100_000}})
    assert (tmp_path / "outbox.log").stat().st_size < 2 << 20
    box.close()
    again = Outbox(tmp_path)
    assert again.state["all"]["i"] == 99
    again.close()


def test_a_channel_that_raises_anything_holds_up_no_other(db, clock, ways, caplog):
    fill(db, [0.9] * 3)

    class Broken(Receiver):
        async def send(self, message):
            raise RuntimeError(message.target)

    db.alerts.route(CONFIG, channels=ways | {"desk/webhook/0": Broken()})
    db.alerts.install('ALERT A WHEN disk_used_ratio > 0.8 ROUTE TO "desk", "pager"')
    tick(db, clock, 2)
    assert said(ways["pager/webhook/0"]) == [("firing", ["a"])]
    assert "desk/webhook/0: the channel raised RuntimeError" in caplog.text
    assert len(db.alerts.pipeline.outbox.waiting("desk/webhook/0")) == 1


def test_a_configuration_is_given_as_a_file_with_its_templates_or_read(db, clock, ways, tmp_path):
    (tmp_path / "parts").mkdir()
    one, two = tmp_path / "parts" / "one.tmpl", tmp_path / "two.tmpl"
    one.write_text('{{ define "one" }}first{{ end }}')
    two.write_text('{{ define "two" }}second{{ end }}')
    file = tmp_path / "alertmanager.yml"
    file.write_text(f"templates: ['parts/*.tmpl', '{two}']\n{CONFIG}")
    pipeline = db.alerts.route(file, channels=ways)
    text = '{{ template "one" }} {{ template "two" }}'
    assert pipeline._delivery._templates.render(text, None, T0) == "first second"
    one.write_text("{{ nothing }}")
    with pytest.raises(ConfigError, match="a file of `templates`"):
        db.alerts.route(file, channels=ways)
    assert db.alerts.route(amconfig.load(CONFIG), channels=ways).config.receivers.keys() == {"chat", "desk", "pager"}


def test_what_a_receiver_refuses_for_good_is_told_as_lost(db, clock, ways, caplog):
    class Refusing(Receiver):
        async def send(self, message):
            raise DeliveryError("no such room", retry=False)

    fill(db, [0.9] * 2)
    db.alerts.install("ALERT A WHEN disk_used_ratio > 0.8")
    db.alerts.route(CONFIG, channels={**ways, "chat/webhook/0": Refusing()})
    tick(db, clock, 1)
    (said_,) = [r.getMessage() for r in caplog.records if "is lost" in r.getMessage()]
    assert "no such room" in said_


def test_a_silence_takes_the_place_of_one_that_is_there_alone(db, ways):
    pipeline = db.alerts.route(CONFIG, channels=ways)
    old = pipeline.silence("a=b", by="me", comment="moving")
    with pytest.raises(ConfigError, match="no silence has the id 'x'"):
        pipeline.put_silence([], T0, T0 + MINUTE, "me", "longer", in_place_of="x")
    assert pipeline.silences()["state"].to_list() == ["active"]
    matchers = amconfig.load(CONFIG).route.routes[0].matchers
    new = pipeline.put_silence(matchers, T0, T0 + MINUTE, "me", "longer", in_place_of=old)
    assert dict(pipeline.silences().select("id", "state").rows()) == {old: "expired", new.id: "active"}


def test_a_text_of_many_lines_that_is_wrong_is_its_own_name(db):
    with pytest.raises(ConfigError, match="rules: group 'g', rule 1, 'A': could not parse expression: 1:9"):
        db.alerts.load("groups:\n - {name: g, rules: [{alert: A, expr: 'sum by ('}]}\n")
    with pytest.raises(ParseError) as error:
        db.alerts.load("ALERT A\n WHEN sum(\n")
    assert "WHEN" not in str(error.value)


def test_a_statement_that_cannot_be_read_removes_no_group(db, tmp_path):
    file = tmp_path / "wrong.mql"
    file.write_text("ALERT A WHEN sum(")
    db.alerts.install("ALERT B WHEN x > 1")
    with pytest.raises(ConfigError, match="wrong.mql: "):
        db.alerts.load_all([file])
    assert db.alerts.list()["name"].to_list() == ["B"]


def test_two_inhibitions_of_one_alert_have_no_export(db):
    db.alerts.install("ALERT A WHEN x > 1; ALERT B WHEN x > 2; ALERT C WHEN x > 3 INHIBITED BY A INHIBITED BY B")
    with pytest.raises(ConfigError, match="C: more than one INHIBITED BY cannot be exported"):
        db.alerts.export()


def test_routes_and_inhibitions_of_an_export_are_put_before_those_of_the_file():
    rule = {"source_matchers": ['alertname="A"'], "target_matchers": ['alertname="B"']}
    made = {"routes": [{"receiver": "pager", "matchers": ['alertname="A"']}], "inhibit_rules": [rule]}
    whole = amconfig.load(CONFIG).with_rules(made)
    again = amconfig.load(whole.to_yaml())
    assert [route.receiver for route in again.route.routes] == ["pager", "desk"]
    assert len(again.raw["inhibit_rules"]) == 1
