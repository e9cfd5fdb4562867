"""Routing: the tree, groups and their times, what mutes, and that state comes back. The peer has the same in tests/peers."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random

import pytest

from metricsdb.alerts import PostableAlert, fingerprint
from metricsdb.alerts.amconfig import load
from metricsdb.alerts.intervals import TimeInterval
from metricsdb.alerts.matchers import Matcher, parse
from metricsdb.alerts.routing import Router, _compared
from metricsdb.alerts.silences import Silence
from metricsdb.errors import ConfigError
from tests.unit.alerts.amfiles import config

T0 = 1_700_000_000_000  # Tuesday, 2023-11-14 22:13:20 UTC
SMALL = """
route: {receiver: r, group_by: [alertname], group_wait: 10s, group_interval: 1m, repeat_interval: 1h}
receivers: [{name: r, webhook_configs: [{url: "http://h"}]}]
"""


def alert(name: str = "A", ends: int | None = None, starts: int = 0, **labels: str) -> PostableAlert:
    return PostableAlert({"alertname": name} | labels, {}, T0 + starts, None if ends is None else T0 + ends)


def told(notifications):
    return [
        (n.receiver, n.status, [(a.labels.get("i", a.labels["alertname"]), a.resolved(n.at_ms)) for a in n.alerts])
        for n in notifications
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('a="b"', [("a", "=", "b")]),
        ("a = b", [("a", "=", "b")]),
        ('{a="b", c!~"d.*",}', [("a", "=", "b"), ("c", "!~", "d.*")]),
        ('a=~"x,y|}"', [("a", "=~", "x,y|}")]),
        (r'a="q\"\\\n"', [("a", "=", 'q"\\\n')]),
        (r'a=~"\d+"', [("a", "=~", r"\d+")]),
        ('"odd name"!="ü"', [("odd name", "!=", "ü")]),
        ("ünïcode=x y", [("ünïcode", "=", "x y")]),
        ("{}", []),
        ("a=", [("a", "=", "")]),
        ('{a="b", }', [("a", "=", "b")]),
    ],
)
def test_matchers_are_read(text, found):
    assert [(m.name, m.op, m.value) for m in parse(text)] == found
    for matcher in parse(text):
        assert parse(str(matcher)) == [matcher]


@pytest.mark.parametrize(
    "text",
    ["", "a", "=b", '{a="b"', 'a="b"}', 'a="b', 'a=b"c', 'a="b" c', 'a=~"("', 'a==b"', '"\\z"="x"', "a=b}", 'a=b"c"'],
)
def test_matchers_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


def test_a_missing_label_is_empty():
    assert Matcher("a", "", "=").matches({})
    assert Matcher("a", "x", "!=").matches({})
    assert Matcher("a", ".*", "=~").matches({})
    assert not Matcher("a", ".+", "=~").matches({})
    assert not Matcher("a", "b", "=~").matches({"a": "abc"})


def test_a_group_waits_then_repeats_only_what_is_new():
    router = Router(load(SMALL))
    assert router.next_due() is None
    router.receive([alert(i="1")], T0)
    assert (router.tick(T0 + 9_999), router.next_due()) == ([], T0 + 10_000)
    router.receive([alert(i="2")], T0 + 5_000)
    assert told(router.tick(T0 + 10_000)) == [("r", "firing", [("1", False), ("2", False)])]
    router.receive([alert(i="1"), alert(i="2")], T0 + 60_000)
    assert router.tick(T0 + 70_000) == []
    router.receive([alert(i="3")], T0 + 71_000)
    assert told(router.tick(T0 + 130_000)) == [("r", "firing", [("1", False), ("2", False), ("3", False)])]
    router.receive([alert(i="1", ends=150_000)], T0 + 150_000)
    assert told(router.tick(T0 + 190_000)) == [("r", "firing", [("1", True), ("2", False), ("3", False)])]
    # The others were not sent again: resolve_timeout has passed.
    assert told(router.tick(T0 + 370_000 + 60_000)) == [("r", "resolved", [("2", True), ("3", True)])]
    assert router.tick(T0 + 500_000) == []
    assert router.next_due() is None


def test_what_fires_long_is_repeated():
    router, seen = Router(load(SMALL)), []
    for at in range(0, 3 * 3_600_000, 10_000):
        router.receive([alert()], T0 + at)
        seen += [at for _ in router.tick(T0 + at)]
    assert seen == [10_000, 3_670_000, 7_330_000]


def test_an_old_alert_does_not_wait():
    router = Router(load(SMALL))
    router.receive([alert(starts=-60_000)], T0)
    assert len(router.tick(T0)) == 1


def test_one_that_was_over_before_it_was_told_is_not_told():
    router = Router(load(SMALL))
    router.receive([alert(ends=5_000)], T0)
    assert router.tick(T0 + 10_000) == []


def test_a_late_tick_keeps_to_the_interval():
    router = Router(load(SMALL))
    router.receive([alert()], T0)
    assert len(router.tick(T0 + 200_000)) == 1
    assert router.next_due() == T0 + 250_000


def test_sendings_that_overlap_are_one_alert():
    router = Router(load(SMALL))
    router.receive([alert(starts=0, ends=100_000)], T0 + 1_000)
    router.receive([alert(starts=50_000)], T0 + 51_000)
    only = next(iter(router._alerts.values()))
    assert (only.starts_at_ms, only.ends_at_ms) == (T0, T0 + 351_000)
    router.receive([alert(starts=60_000, ends=70_000)], T0 + 80_000)
    assert next(iter(router._alerts.values())).ends_at_ms == T0 + 70_000
    router.receive([alert(starts=0, ends=65_000)], T0 + 90_000)
    assert next(iter(router._alerts.values())).ends_at_ms == T0 + 70_000
    router.receive([alert("B", starts=0, ends=900_000)], T0)
    router.receive([alert("B", starts=10, ends=800_000)], T0 + 20)
    assert router._alerts[fingerprint({"alertname": "B"})].ends_at_ms == T0 + 900_000


def test_alerts_are_completed_or_refused():
    router = Router(load(SMALL))
    router.receive([PostableAlert({"alertname": "A", "gone": ""})], T0)
    only = next(iter(router._alerts.values()))
    assert (only.labels, only.starts_at_ms, only.ends_at_ms) == ({"alertname": "A"}, T0, T0 + 300_000)
    router.receive([PostableAlert({"alertname": "B"}, ends_at_ms=T0 + 1)], T0)
    assert router._alerts[fingerprint({"alertname": "B"})].starts_at_ms == T0 + 1
    for wrong in (PostableAlert({"a": ""}), PostableAlert({"a": "b"}, {}, T0, T0 - 1)):
        with pytest.raises(ConfigError):
            router.receive([wrong], T0)


def test_silences_hold_back_and_end():
    router = Router(load(SMALL))
    silence = router.silences.add(parse('alertname="A"'), T0, T0 + 600_000, "me", "why")
    router.receive([alert(), alert("B")], T0)
    assert [n.group_labels["alertname"] for n in router.tick(T0 + 10_000)] == ["B"]
    assert router.silences.list() == [silence]
    router.silences.expire(silence.id, T0 + 60_000)
    assert [n.group_labels["alertname"] for n in router.tick(T0 + 70_000)] == ["A"]
    assert Silence.of(silence.plain()) == silence
    router.tick(T0 + 60_000 + 6 * 86_400_000)
    assert router.silences.list() == []
    for matchers, start, end in ([], 0, 1), (parse('a=~".*"'), 0, 1), (parse("a=b"), 1, 1):
        with pytest.raises(ConfigError):
            router.silences.add(matchers, start, end)
    with pytest.raises(ConfigError):
        router.silences.expire("none", 0)


def test_inhibition_needs_equal_labels_and_a_source_that_fires():
    text = (
        SMALL
        + """
inhibit_rules: [{source_matchers: [s="1"], target_matchers: [t="1"], equal: [host, none]}]
"""
    )
    router = Router(load(text))
    router.receive([alert("S", s="1", host="a"), alert("T", t="1", host="a"), alert("T", t="1", host="b")], T0)
    router.receive([alert("Both", s="1", t="1", host="c"), alert("Both", s="1", t="1", host="c", i="2")], T0)
    shown = {n.group_labels["alertname"]: len(n.alerts) for n in router.tick(T0 + 10_000)}
    assert shown == {"S": 1, "T": 1, "Both": 2}
    frame = router.explain(alert("T", t="1", host="a"), T0 + 10_000)
    assert frame["muted"].to_list() == ["inhibited by {'alertname': 'S', 's': '1', 'host': 'a'}"]
    router.receive([alert("S", ends=20_000, s="1", host="a")], T0 + 20_000)
    assert {n.group_labels["alertname"] for n in router.tick(T0 + 70_000)} == {"S", "T"}


def test_intervals_mute_and_activate():
    text = (
        SMALL.replace(
            "}\nreceivers",
            ", routes: [{matchers: [m=1], mute_time_intervals: [n]}, {matchers: [m=2], active_time_intervals: [n]}]}\nreceivers",
        )
        + """
time_intervals: [{name: n, time_intervals: [{times: [{start_time: 22:00, end_time: 24:00}]}]}]
"""
    )
    router = Router(load(text))
    router.receive([alert("A", m="1"), alert("B", m="2"), alert("C")], T0)
    assert [n.group_labels["alertname"] for n in router.tick(T0 + 10_000)] == ["B", "C"]
    assert router.explain(alert("A", m="1"), T0)["muted"][0] == "muted during n"
    assert router.explain(alert("B", m="2"), T0 + 2 * 3_600_000)["muted"][0] == "outside of n"


def test_explain_says_where_when_and_whether_it_is_known():
    router = Router(load(config(peer=False)))
    one = alert("DiskFull", team="db", severity="page", job="postgres", env="prod", instance="1")
    frame = router.explain(one, T0)
    assert frame["receiver"].to_list() == ["db", "postgres"]
    assert frame["integrations"].to_list() == [["webhook[0]", "webhook[1]"], ["webhook[0]"]]
    assert frame["told"].to_list() == [False, False]
    assert frame["flush"].to_list()[0].timestamp() * 1000 == T0 + 1_000
    router.receive([one], T0)
    router.silences.add(parse("instance=1"), T0, T0 + 1)
    assert router.explain(one, T0)["muted"][0].startswith("silenced by ")
    router.tick(T0 + 1_000)
    again = router.explain(one, T0 + 1_500)
    assert again["told"].to_list() == [True, True]
    assert again["flush"].to_list()[0].timestamp() * 1000 == T0 + 3_000
    assert router.explain(alert(starts=-9_000), T0)["flush"].to_list()[0].timestamp() * 1000 == T0


def test_a_receiver_that_wants_no_resolved_is_not_told():
    router = Router(load(config(peer=False)))
    labels = {"team": "db", "severity": "page", "instance": "1"}
    router.receive([alert("X", **labels)], T0)
    router.tick(T0 + 1_000)
    router.receive([alert("X", ends=1_500, **labels)], T0 + 1_500)
    names = {f"{n.receiver}/{n.integration.index}" for n in router.tick(T0 + 3_000)}
    assert names == {"db/1"}


def test_groups_are_bounded():
    router = Router(load(SMALL), max_groups=2)
    router.receive([alert("A"), alert("B"), alert("C"), alert("A", i="2")], T0)
    assert (len(router.tick(T0 + 10_000)), router.refused) == (2, 1)


def test_a_group_that_is_empty_is_forgotten_after_a_while():
    router = Router(load(SMALL))
    router.receive([alert()], T0)
    router.tick(T0 + 10_000)
    router.receive([alert(ends=15_000)], T0 + 15_000)
    router.tick(T0 + 70_000)
    # Soon after, it goes on in the old group; later, it begins anew and waits.
    other = Router(load(SMALL))
    other.restore(router.state())
    router.receive([alert(starts=80_000)], T0 + 80_000)
    assert router.next_due() == T0 + 130_000
    other.receive([alert(starts=101_000)], T0 + 101_000)
    assert other.next_due() == T0 + 111_000


def test_killed_and_restored_is_as_if_never_killed():
    chance = random.Random(2)
    steps = []
    for at in range(0, 1_200_000, 20_000):
        alerts = [
            alert(
                chance.choice("AB"),
                ends=at if chance.random() < 0.3 else None,
                i=str(chance.randrange(4)),
                starts=max(0, at - 1),
            )
            for _ in range(chance.randrange(3))
        ]
        steps.append((T0 + at, alerts))
    whole, parts = Router(load(SMALL)), Router(load(SMALL))
    for now, alerts in steps:
        whole.receive(alerts, now)
        parts.receive(alerts, now)
        assert [n.key for n in whole.tick(now)] == [n.key for n in parts.tick(now)]
        state = parts.state()
        parts = Router(load(SMALL))
        parts.restore(state)
        assert parts.state() == state
    fewer = Router(load(SMALL.replace("group_by: [alertname], ", "")))
    fewer.restore(whole.state() | {"groups": {"g": ["9/9", [], 0, True, [], None]}})
    assert fewer.next_due() is None


@pytest.mark.parametrize(
    ("raw", "inside", "outside"),
    [
        ({}, ["2024-02-29T00:00"], []),
        (
            {"times": [{"start_time": "09:00", "end_time": "17:00"}]},
            ["2024-01-01T09:00", "2024-01-01T16:59"],
            ["2024-01-01T17:00", "2024-01-01T08:59"],
        ),
        ({"times": [{"start_time": "00:00", "end_time": "24:00"}]}, ["2024-01-01T23:59"], []),
        ({"weekdays": ["Monday:wednesday", "sunday"]}, ["2024-01-01T00:00", "2024-01-07T00:00"], ["2024-01-04T00:00"]),
        ({"days_of_month": ["-1"]}, ["2024-02-29T00:00", "2023-02-28T00:00"], ["2024-02-28T00:00"]),
        (
            {"days_of_month": ["1:5", "-3:-2"]},
            ["2024-01-05T00:00", "2024-01-30T00:00"],
            ["2024-01-06T00:00", "2024-01-31T00:00"],
        ),
        ({"days_of_month": ["29:31"]}, ["2024-02-29T00:00"], ["2023-02-28T00:00"]),
        ({"days_of_month": ["20:-2"]}, ["2024-01-30T00:00"], ["2024-01-31T00:00", "2024-01-19T00:00"]),
        ({"months": ["january:march", "12"]}, ["2024-03-31T00:00", "2024-12-01T00:00"], ["2024-04-01T00:00"]),
        ({"years": ["2023:2024", "2030"]}, ["2024-01-01T00:00", "2030-01-01T00:00"], ["2025-01-01T00:00"]),
        (
            {"times": [{"start_time": "09:00", "end_time": "10:00"}], "location": "Asia/Tokyo"},
            ["2024-01-01T00:30"],
            ["2024-01-01T09:30"],
        ),
    ],
)
def test_intervals_contain_what_they_say(raw, inside, outside):
    from metricsdb.times import time_ms

    interval = TimeInterval.of(raw, "x")
    assert all(interval.contains(time_ms(at, 0)) for at in inside)
    assert not any(interval.contains(time_ms(at, 0)) for at in outside)


@pytest.mark.parametrize(
    "raw",
    [5, {"days": []}, {"location": "Mars/Base"}, {"times": ["9-17"]}, {"times": [{"start_time": "9", "end_time": "10:00"}]},
     {"times": [{"start_time": "10:00", "end_time": "09:00"}]}, {"times": [{"start_time": "10:00", "end_time": "24:01"}]},
     {"weekdays": ["funday"]}, {"weekdays": ["a:b:c"]}, {"days_of_month": ["0"]}, {"days_of_month": ["32"]},
     {"days_of_month": ["5:1"]}, {"days_of_month": ["-1:5"]}, {"months": ["13"]}, {"times": [{"start_time": "10:00", "end_time": "10:75"}]}],
)  # fmt: skip
def test_intervals_that_cannot_be_are_refused(raw):
    with pytest.raises(ConfigError):
        TimeInterval.of(raw, "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no mapping"),
        ("a: [", "not YAML"),
        ("receivers: []", "has no route"),
        ("route: {receiver: a}", "not among receivers"),
        ("route: {receiver: a}\nreceivers: [{}]", "receiver has no name"),
        ("route: {receiver: a}\nreceivers: [{name: a}, {name: a}]", "stands there twice"),
        ("route: {receiver: a, matchers: [x=y]}\nreceivers: [{name: a}]", "root route"),
        ("route: {receiver: a, group_by: ['...', b]}\nreceivers: [{name: a}]", "beside labels"),
        ("route: {receiver: a, group_by: [b, b]}\nreceivers: [{name: a}]", "twice"),
        ("route: {receiver: a, group_interval: 0s}\nreceivers: [{name: a}]", "longer than zero"),
        ("route: {receiver: a, group_wait: soon}\nreceivers: [{name: a}]", "group_wait"),
        ("route: {receiver: a, routes: [5]}\nreceivers: [{name: a}]", "is no route"),
        ("route: {receiver: a, routes: [{matchers: [5]}]}\nreceivers: [{name: a}]", "is no text"),
        ("route: {receiver: a, routes: [{match: [5]}]}\nreceivers: [{name: a}]", "no mapping"),
        ("route: {receiver: a, routes: [{mute_time_intervals: [n]}]}\nreceivers: [{name: a}]", "not defined"),
        ("route: {receiver: a}\nreceivers: [{name: a}]\ntime_intervals: [{}]", "has no name"),
        ("route: {receiver: a}\nreceivers: [{name: a}]\ntime_intervals: [{name: n}, {name: n}]", "stands there twice"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        load(text)


def test_a_configuration_comes_back_as_it_was():
    made = load(config(peer=False))
    assert load(made.to_yaml()).raw == made.raw
    assert made.raw["time_intervals"][1]["time_intervals"][0]["times"][0]["start_time"] == "09:00"
    assert len(list(made.route.walk())) == 7
    assert made.route.match({"team": "db", "job": "postgres"})[0].receiver == "quiet"


def test_many_sources_cost_each_alert_nothing(monkeypatch):
    """Thousands that inhibit, and thousands that might be: each alert looks at those of its own labels alone."""
    text = SMALL + 'inhibit_rules: [{source_matchers: [s="1"], target_matchers: [t=~"1|2"], equal: [host]}]'
    router, count, real = Router(load(text)), 0, PostableAlert.resolved

    def counted(self, now_ms):
        nonlocal count
        count += 1
        return real(self, now_ms)

    monkeypatch.setattr(PostableAlert, "resolved", counted)
    router.receive([alert("S", s="1", t="1", host=str(i)) for i in range(500)], T0)
    router.receive([alert("T", t="2", host=str(i)) for i in range(1000)], T0)
    shown = {n.group_labels["alertname"]: len(n.alerts) for n in router.tick(T0 + 10_000)}
    assert shown == {"S": 500, "T": 500}
    assert count < 20_000


def test_what_is_over_is_not_among_what_fires():
    router = Router(load(SMALL))
    router.receive([alert("Over", ends=1_000), alert("On", starts=5)], T0)
    assert [one.alert.labels["alertname"] for one in router.held(T0 + 500)] == ["Over", "On"]
    (held,) = router.held(T0 + 1_000)
    assert (held.alert.labels["alertname"], held.receivers) == ("On", ("r",))


def test_alerts_of_a_message_stand_in_alertmanagers_order():
    """As Debian's Alertmanager sent them in one message."""
    wanted = [
        {"job": "x", "y": "1"}, {"instance": "1"}, {"instance": "2"}, {"a": "1", "instance": "2"}, {"z": "1"},
        {"b": "1", "d": "1"}, {"a": "0", "d": "1"}, {"a": "1", "c": "1"}, {"a": "1", "b": "2", "c": "3"},
    ]  # fmt: skip
    chance = random.Random(3)
    for _ in range(5):
        router = Router(load(SMALL))
        router.receive([alert(**labels) for labels in chance.sample(wanted, len(wanted))], T0)
        [message] = router.tick(T0 + 10_000)
        assert [{n: v for n, v in a.labels.items() if n != "alertname"} for a in message.alerts] == wanted
    assert _compared({"a": "1"}, {"a": "1"}) == 0
