"""`metricsdb test-rules`: the vectors' verdicts, and what promtool of Debian cannot be asked (tests/peers asks the rest)."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metricsdb.testing.rules import run

SHARED = Path(os.environ.get("METRICSDB_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "conformance" / "promtool"
VERDICTS = {
    "no-test-group-interval.yml": True, "at-modifier-test.yml": True, "failing.yml": False, "rules_run.yml": False,
    "bad-promql.yml": False, "bad-rules-syntax-test.yml": False,
}  # fmt: skip

RULES = """
groups:
  - name: second
    query_offset: 1m
    labels: {region: eu, from: group}
    limit: 2
    rules:
      - {record: "seen", expr: "m", labels: {from: rule}}
      - {alert: Late, expr: "m > 1", annotations: {s: "{{ $value }} {{ externalURL }} {{ now }}"}}
  - name: first
    rules:
      - {record: "doubled", expr: "m * 2"}
"""


def case(tmp_path, tests: str, rules: str = RULES, head: str = "rule_files: [r.yml]") -> str:
    (tmp_path / "r.yml").write_text(rules)
    (tmp_path / "t.yml").write_text(f"{head}\ntests:\n{tests}")
    return str(run(tmp_path / "t.yml"))


SERIES = '  input_series: [{series: \'m{a="x"}\', values: "0 1 2 3 4 5"}]\n'


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the vectors of the peers are not here")
@pytest.mark.parametrize(("name", "ok"), VERDICTS.items())
def test_the_vectors_get_promtools_verdict(name, ok):
    assert run(VECTORS / name).ok is ok


def test_the_command_ends_with_promtools_status(tmp_path):
    (tmp_path / "good.yml").write_text("tests: []")
    (tmp_path / "bad.yml").write_text("tests: 5")
    for names, status in ((["good.yml"], 0), (["good.yml", "bad.yml"], 1)):
        paths = [str(tmp_path / name) for name in names]
        done = subprocess.run(
            [sys.executable, "-m", "metricsdb", "test-rules", *paths], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert done.stdout.count("Unit Testing:") == len(names)


def test_offsets_labels_and_urls_of_newer_files(tmp_path):
    text = case(tmp_path, "- external_url: http://ext\n" + SERIES + """
  alert_rule_test:
    - eval_time: 3m
      alertname: Late
      exp_alerts: [{exp_labels: {a: x, region: eu, from: group}, exp_annotations: {s: "2 http://ext 180"}}]
  promql_expr_test:
    - {expr: seen, eval_time: 3m, exp_samples: [{labels: 'seen{a="x",region="eu",from="rule"}', value: 2}]}
    - {expr: doubled, eval_time: 3m, exp_samples: [{labels: 'doubled{a="x"}', value: 6}]}
""")  # fmt: skip
    assert "SUCCESS" in text, text


def test_labels_in_templates_are_those_of_the_series(tmp_path):
    """What promtool says of the same file; `test_alerts.py` holds live alerts to it."""
    rules = """
groups:
- name: g
  rules:
  - alert: A
    expr: x > 5
    labels: {team: own, sev: page, copy: "{{ $labels.team }}-{{ $labels.sev }}-{{ $labels.alertname }}"}
    annotations: {s: "{{ $labels.team }}/{{ $labels.sev }}/{{ $labels.alertname }}/{{ $labels.i }}/{{ $labels.copy }}"}
"""
    text = case(tmp_path, """- interval: 1m
  input_series: [{series: 'x{i="a",team="series"}', values: '9x5'}]
  alert_rule_test:
  - eval_time: 1m
    alertname: A
    exp_alerts:
    - {exp_labels: {team: own, sev: page, i: a, copy: "series--"}, exp_annotations: {s: "series///a/"}}
""", rules)  # fmt: skip
    assert "SUCCESS" in text, text


def test_nearly_the_same_is_the_same_where_the_file_says_so(tmp_path):
    tests = '- promql_expr_test: [{expr: "vector(0.1) + 0.2", exp_samples: [{labels: "{}", value: 0.3}]}]'
    assert "FAILED" in case(tmp_path, tests)
    assert "SUCCESS" in case(tmp_path, tests, head="fuzzy_compare: true")


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ("- alert_rule_test: [{eval_time: 1m}]", "misses required attribute alertname at eval_time 1m"),
        ("- {name: N, alert_rule_test: [{eval_time: 1m}]}", "eval_time 1m (in TestGroup N)"),
        ("- {unknown: 1}", "unknown"),
        ("- input_series: [{series: 'm{', values: 1}]", "closing brace"),
        ("- promql_expr_test: [{expr: 'm[5m]', eval_time: 2m}]\n" + SERIES, "rule result is not a vector or scalar"),
        ("- promql_expr_test: [{expr: '\"x\"'}]", "rule result is not a vector or scalar"),
        ("- promql_expr_test: [{expr: m, exp_samples: [{labels: 'm{', value: 1}]}]", "closing brace"),
        ("- promql_expr_test: [{expr: m, exp_samples: [{labels: m, histogram: '{{}}'}]}]", "native histograms are not compared"),
        ("- promql_expr_test: [{expr: m, eval_time: soon}]", "not a duration"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tests, says, tmp_path):
    assert says in case(tmp_path, tests, rules="groups: []")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{alert: A, expr: 'label_replace(m, \"a\", \"\", \"a\", \".*\")'}", "contains the same label set"),
        ("{alert: A, expr: m, labels: {a: one}}", "same labelset after applying alert labels"),
        ("{record: r, expr: m, labels: {a: one}}", "same labelset after applying rule labels"),
        ("{alert: A, expr: '\"text\"'}", "instant vector or a scalar"),
    ],
)  # fmt: skip
def test_rules_that_fail_end_the_test(rule, says, tmp_path):
    series = "- input_series: [{series: 'm{a=\"x\"}', values: 1}, {series: 'm{a=\"y\"}', values: 1}]\n"
    text = case(tmp_path, series + "  alert_rule_test: [{alertname: A}]", f"groups: [{{name: g, rules: [{rule}]}}]")
    assert "err: " in text
    assert says in text or "vector cannot contain" in text


def test_limits_are_kept(tmp_path):
    series = "- input_series: [" + ",".join(f"{{series: 'm{{a=\"{i}\"}}', values: 2x9}}" for i in range(3)) + "]\n"
    for number, says in ((0, "exceeded limit of 2 with 3 series"), (1, "exceeded limit of 2 with 3 alerts")):
        rules = ["{record: s, expr: m}", "{alert: Late, expr: m}"][number]
        text = case(tmp_path, series + "  alert_rule_test: [{alertname: Late}]", f"groups: [{{name: g, limit: 2, rules: [{rules}]}}]")  # fmt: skip
        assert says in text


def test_files_and_orders(tmp_path):
    assert "no file match pattern" in case(tmp_path, "- {}", head="rule_files: [none*.yml]")
    assert "group name repeated" in case(tmp_path, "- {}", head="group_eval_order: [a, a]")
    rules = """
groups:
  - {name: b, rules: [{record: two, expr: one + 1}]}
  - {name: a, rules: [{record: one, expr: "1"}]}
"""
    tests = "- promql_expr_test: [{expr: two, exp_samples: [{labels: two, value: 2}]}]"
    assert "FAILED" in case(tmp_path, tests, rules)
    assert "SUCCESS" in case(tmp_path, tests, rules, head="rule_files: [r.yml]\ngroup_eval_order: [a, b]")
    assert "FAILED" in str(run(tmp_path / "nowhere.yml"))
    (tmp_path / "empty.yml").write_text("")
    assert run(tmp_path / "empty.yml").ok


def test_what_was_resolved_long_ago_is_forgotten(tmp_path):
    rules = "groups: [{name: g, rules: [{alert: A, expr: m > 0}]}]"
    values = "1 0x20 1 0x3"
    tests = f"- input_series: [{{series: m, values: '{values}'}}]\n  alert_rule_test:\n"
    tests += (
        "    - {eval_time: 22m, alertname: A, exp_alerts: [{}]}\n    - {eval_time: 23m, alertname: A, exp_alerts: []}"
    )
    assert "SUCCESS" in case(tmp_path, tests, rules)
    histogram = "- promql_expr_test: [{expr: 'm', eval_time: 0m, exp_samples: []}]\n"
    assert "native histograms" in case(tmp_path, histogram + "  input_series: [{series: m, values: '{{}}'}]", rules)


def test_what_is_pending_is_no_alert_yet(tmp_path):
    rules = "groups: [{name: g, rules: [{alert: Slow, expr: 'm > 0', for: 3m}]}]\n"
    text = case(tmp_path, "-" + SERIES[1:] + """
  alert_rule_test:
    - {eval_time: 2m, alertname: Slow, exp_alerts: []}
    - {eval_time: 5m, alertname: Slow, exp_alerts: [{exp_labels: {a: x}}]}
""", rules)  # fmt: skip
    assert "SUCCESS" in text, text


def test_rules_that_record_one_series_twice_with_other_values_fail(tmp_path):
    rules = "groups: [{name: g, rules: [{record: r, expr: 'm'}, {record: r, expr: 'm + 1'}]}]\n"
    text = case(tmp_path, "-" + SERIES[1:] + "  promql_expr_test: [{expr: r, eval_time: 3m, exp_samples: []}]\n", rules)
    assert "duplicate sample for timestamp" in text, text
