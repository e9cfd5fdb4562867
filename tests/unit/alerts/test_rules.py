"""Rule files: nothing is lost, what is wrong is named, and statements come back from a native export."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random

import pytest
import yaml

import metricsdb as mdb
from metricsdb.alerts import RouteHint, export, rules
from metricsdb.alerts.documents import read_yaml, to_yaml
from metricsdb.alerts.groups import groups_of
from metricsdb.errors import ConfigError
from tests.unit.alerts.corpus import HAND, UNKNOWN, generated
from tests.unit.alerts.statements import groups as some_groups


@pytest.mark.parametrize("text", [HAND, UNKNOWN, *(yaml.safe_dump(generated(60, seed)) for seed in range(8)), "", "{}"])
def test_a_file_read_and_written_is_the_same_file(text):
    file = rules.load(text)
    before = read_yaml(text, "") or {}
    assert read_yaml(file.to_yaml(), "") == {"groups": []} | before
    assert rules.load(file.to_yaml()).plain() == file.plain()


@pytest.mark.parametrize("text", [HAND, UNKNOWN, *(yaml.safe_dump(generated(60, seed)) for seed in range(8))])
def test_a_file_that_becomes_statements_and_a_file_again_means_the_same(text):
    """Installed and exported: what a file said by its group stands in each rule, and an interval in each group."""
    file = rules.load(text)
    statements, _ = file.to_statements()
    made = export.portable(export.installed(groups_of(statements, 60_000)))
    assert made.inexact == []
    with mdb.Database() as db:

        def meant(one):
            return [
                (group.name, group.interval_ms or 60_000, group.limit, group.query_offset_ms, [
                    (rule.alert, rule.record, db.format_query(rule.expr), rule.for_ms, rule.keep_firing_for_ms,
                     group.labels | rule.labels, rule.annotations) for rule in group.rules
                ]) for group in one.groups if group.rules
            ]  # fmt: skip

        assert meant(rules.load(made.rules.to_yaml())) == meant(file)


def test_a_limit_counts_levels_apart_there():
    text = "GROUP g LIMIT 5 { ALERT A BY (i) LEVEL low WHEN x > 1 LEVEL high WHEN x > 2 ALERT B WHEN x > 3 }"
    made = export.portable(export.installed(groups_of(text, 60_000)))
    assert made.rules.groups[0].limit == 5
    assert made.inexact == ["A: LIMIT counts each level for itself"]


def test_a_rule_has_typed_fields(tmp_path):
    (tmp_path / "r.yml").write_text(HAND)
    file = rules.read(tmp_path / "r.yml")
    disk, skew, record, one, fixed = file.groups[0].rules
    assert (disk.alert, disk.for_ms, disk.keep_firing_for_ms) == ("DiskFilling", 5_400_000, 300_000)
    assert disk.labels == {"severity": "warning", "team": "storage"}
    assert (record.record, record.alert, record.name) == ("instance:node_cpu:rate5m", None, "instance:node_cpu:rate5m")
    assert (one.expr, fixed.expr, skew.for_ms) == ("1", "2.5", 0)
    assert (file.groups[0].interval_ms, file.groups[0].limit, file.groups[1].interval_ms) == (30_000, 100, None)
    assert file.groups[2].rules[0].labels["n"] == "5"


def test_rules_are_told_as_statements():
    text, left_out = rules.load(UNKNOWN).to_statements()
    assert text == (
        'GROUP carried EVERY 1m OFFSET 30s LABELS {region="eu"} {\n  ALERT A\n    WHEN up == 0\n'
        "    KEEP FIRING FOR 1m\n  RECORD a:b = up\n}\n"
    )
    assert [line.split(": ")[-1] for line in left_out] == [
        "the file's 'namespace'", "'partial_response_strategy'", "'x-owner'", "'x-note'",
    ]  # fmt: skip
    text, left_out = rules.load(HAND).to_statements()
    assert 'ALERT "Clock skew, badly"\n    WHEN abs(node_timex_offset_seconds) > 0.05\n' in text
    assert 'LABELS {severity="warning", team="storage"}' in text
    assert "RECORD instance:node_cpu:rate5m = sum" in text
    assert "GROUP node EVERY 30s LIMIT 100 {" in text
    assert left_out == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "holds a list"),
        ("a: [", "not YAML"),
        ("groups: 5", "groups is a int"),
        ("groups: [5]", "group 1 has no name"),
        ("groups: [{name: a}, {name: a}]", "stands there twice"),
        ("groups: [{name: a, limit: x}]", "limit 'x' is no number"),
        ("groups: [{name: a, interval: 5}]", "has no unit"),
        ("groups: [{name: a, interval: '5'}]", "has no unit"),
        ("groups: [{name: a, interval: 5x}]", "is not a duration"),
        ("groups: [{name: a, rules: [5]}]", "rule 1 is a int"),
        ("groups: [{name: a, rules: [{expr: x}]}]", "needs one of"),
        ("groups: [{name: a, rules: [{alert: x, record: y, expr: x}]}]", "needs one of"),
        ("groups: [{name: a, rules: [{alert: x}]}]", "`expr` is missing"),
        ("groups: [{name: a, rules: [{record: x, expr: x, for: 5m}]}]", "a recording rule has no `for`"),
        ("groups: [{name: a, rules: [{alert: x, expr: x, for: 5 minutes}]}]", "for '5 minutes' is not a duration"),
        ("groups: [{name: a, rules: [{alert: x, expr: x, labels: [1]}]}]", "no mapping of names"),
        ("groups: [{name: a, rules: [{alert: x, expr: x, labels: {__name__: y}}]}]", "cannot be set"),
        ("groups: [{name: a, rules: [{alert: x, expr: x, annotations: {s: '{{ $x }}'}}]}]", "annotation 's': template"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        rules.load(text, "f.yml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        rules.read(tmp_path / "nowhere.yml")


def test_levels_become_rules_and_inhibition():
    made = export.portable([some_groups()[0]])
    disk = [rule.raw for rule in made.rules.groups[0].rules if rule.name == "DiskFilling"]
    assert [rule["labels"]["severity"] for rule in disk] == ["warning", "critical"]
    firing = 'ALERTS{alertname="DiskFilling",alertstate="firing",team="storage",severity="warning"}'
    assert disk[0]["expr"] == f"(used > 0.8) or (((used) > 0.75) and on(instance, mountpoint) {firing})"
    assert (disk[0]["for"], disk[0]["keep_firing_for"]) == ("10m", "10m")
    assert disk[1]["expr"].startswith("(count_over_time((used > 0.92)[2m59s999ms:1m]) >= 2) or (")
    assert made.alertmanager["inhibit_rules"][0] == {
        "source_matchers": ['alertname="DiskFilling"', 'severity=~"critical"'],
        "target_matchers": ['alertname="DiskFilling"', 'severity="warning"'],
        "equal": ["instance", "mountpoint"],
    }
    assert made.alertmanager["inhibit_rules"][1]["source_matchers"] == ['alertname="HostDown"']
    assert [r["receiver"] for r in made.alertmanager["routes"]] == ["chat", "mail", "pager"]
    listed = "\n".join(made.inexact)
    for clause in ("COOLDOWN", "FLAP", "CAP", "ON NODATA", "HOLD", "FOR 2 OF 3"):
        assert f"DiskFilling: {clause}" in listed
    with pytest.raises(ConfigError, match="no exact form"):
        export.portable([some_groups()[0]], refuse=True)


def test_a_clear_condition_keeps_what_fires():
    made = export.portable([some_groups()[1]])
    exprs = {rule.name: rule.expr for rule in made.rules.groups[0].rules}
    assert exprs["Slow"] == (
        '(p99 > 0.5) or (max without (alertname, alertstate) (ALERTS{alertname="Slow",alertstate="firing"}) '
        "unless (p99 < 0.35))"
    )
    assert exprs["SlowBy"] == (
        '(p99 > 0.5) or on(job) (max by (job) (ALERTS{alertname="SlowBy",alertstate="firing"}) '
        "unless on(job) (p99 < 0.35))"
    )
    assert exprs["Ignoring"].endswith('and ignoring(alertname, alertstate, t) ALERTS{alertname="Ignoring",alertstate="firing"})')  # fmt: skip
    assert made.rules.groups[0].rules[0].labels == {"region": "eu"}
    assert "Levels: LEVEL low is not inhibited by high" in "\n".join(made.inexact)
    assert "Never: DURING needs ROUTE TO" in "\n".join(made.inexact)


def test_clear_at_needs_the_parts_of_its_comparison():
    broken = export.Statement("A", [export.Level("x > 1", clear_at=0.5)])
    with pytest.raises(ConfigError, match="CLEAR AT"):
        export.portable([export.StatementGroup("g", [broken])])


def test_plain_values_become_statements():
    value = {"name": "g", "interval_ms": 1000, "statements": [
        {"name": "A", "levels": [{"when": "x > 1", "of": [2, 3], "route": {"receivers": ["a"], "group_by": ["b"]}}]}, {"record": "a:b", "expr": "x"}]}  # fmt: skip
    group = export.StatementGroup.of(value)
    assert group.statements[0].levels[0].of == (2, 3)
    assert group.statements[0].levels[0].route == RouteHint(("a",), ("b",))
    assert group.statements[1] == export.Recording("a:b", "x")
    assert export.Statement.of(value["statements"][0]) == group.statements[0]
    with pytest.raises(ConfigError, match="statement 'A'"):
        export.Statement.of({"name": "A", "levels": [{"wen": "x"}]})
    with pytest.raises(ConfigError, match="group 'g' has .'nam'., which it knows not; it has name, "):
        export.StatementGroup.of({"name": "g", "nam": "h"})
    with pytest.raises(ConfigError, match="group None has no name"):
        export.StatementGroup.of({})
    with pytest.raises(ConfigError, match=r"rules: '# metricsdb group \[oops\]': .*; take that comment out"):
        export.restore("groups: []\n# metricsdb group [oops]")


def test_a_native_export_gives_the_statements_back():
    groups = some_groups()
    text = export.native(groups)
    assert yaml.safe_load(text) == export.portable(groups).rules.plain()
    restored, left_out = export.restore(text)
    texts = [one.text.replace("\n", "\n  ") for group in groups for one in group.statements]
    assert all(f"\n  {text}\n" in restored for text in texts)
    heads = [line for line in restored.split("\n") if line.startswith("GROUP ")]
    assert heads == [
        "GROUP disks EVERY 1m {", 'GROUP slow LABELS {region="eu"} {', "GROUP later OFFSET 30s {", "GROUP empty {"
    ]  # fmt: skip
    assert left_out == []


GROUPED = """
GROUP slow EVERY 2m OFFSET 30s LIMIT 7 LABELS {region="eu"} {
  ALERT Levels BY (i) CAP 9 INSTANCES LEVEL low WHEN x > 0.7 FOR 10m CLEAR AT 0.6 LEVEL high WHEN x > 0.8 CLEAR AT 0.7
  RECORD sums = sum(x) LABELS {k="v"} BACKFILL 1h
  ALERT Text WHEN x > 3 ANNOTATIONS {summary=`two
lines`}
};
GROUP "b c" { ALERT Plain WHEN y > 1 FOR 5m };
ALERT Loose WHEN y > 2
"""


@pytest.mark.parametrize("name", ["default", "on", "Sum", "labels", "offset", "a b", "for"])
def test_a_name_may_be_a_word_of_the_language(name):
    """Prometheus knows no such words: a group that is called default could not be loaded once."""
    file = {"groups": [{"name": name, "rules": [{"alert": name, "expr": "x > 1", "labels": {"on": name}}]}]}
    if " " not in name:
        file["groups"][0]["rules"].append({"record": name, "expr": "x"})
    with mdb.Database() as db:
        assert set(db.alerts.load(yaml.safe_dump(file)).added) == {name}
        (group,) = db.alerts.groups()
        assert (group.name, group.rules[0].name) == (name, name)


def test_what_is_restored_is_installed_as_it_was():
    """Name, interval, offset, limit and labels of a group included: they were lost once."""

    def installed(text):
        groups = groups_of(text, 60_000)
        return [(g.name, g.every_ms, g.offset_ms, g.limit, [rule.text for rule in g.rules]) for g in groups]

    restored, left_out = export.restore(export.native(export.installed(groups_of(GROUPED, 60_000))))
    assert installed(restored) == installed(GROUPED)
    assert left_out == []


def test_an_edited_rule_is_taken_as_it_is():
    groups, chance = some_groups(), random.Random(3)
    text = export.native(groups)
    edited = text.replace("expr: p99 > 0.9", "expr: p99 > 0.95\n      odd: 1")
    assert edited != text
    restored, left_out = export.restore(edited)
    assert "ALERT Never\n    WHEN p99 > 0.95\n    KEEP FIRING FOR 1s" in restored
    assert "\n  N\n" in export.restore(text)[0]
    assert "\n  N\n" not in restored
    assert left_out == ["rules: group 'slow', rule 6, 'Never': 'odd'"]
    # Rules that stand in another order, in another file layout, are still theirs.
    plain = yaml.safe_load(text)
    comments = "\n".join(line for line in text.split("\n") if line.lstrip().startswith("#"))
    chance.shuffle(plain["groups"])
    again = export.restore(to_yaml(plain) + comments)[0]
    assert sorted(again.strip().split("\n\n")) == sorted(export.restore(text)[0].strip().split("\n\n"))


@pytest.mark.parametrize("text", [HAND, UNKNOWN, *(yaml.safe_dump(generated(60, seed)) for seed in range(8))])
def test_the_parser_reads_what_we_tell_it(text):
    for group in rules.load(text).groups:
        if group.rules:
            told, _ = rules.RuleFile((group,)).to_statements()
            (read,) = groups_of(told, 60_000)
            assert [rule.name for rule in read.rules] == [rule.name for rule in group.rules]


def test_a_comment_at_the_end_hides_nothing():
    file = rules.load("groups: [{name: g, rules: [{alert: A, expr: 'x > 1 # why', for: 5m, labels: {a: b}}]}]")
    assert "x > 1 # why\n   FOR 5m" in file.to_statements()[0]
    level = export.Level("x > 1 # a", "", "x # b", ">", "1", clear_at=0.5)
    made = export.portable([export.StatementGroup("g", [export.Statement("A", [level])])])
    assert made.rules.groups[0].rules[0].expr.count("\n") == 2
