"""`metricsdb test-rules` on statements: expected transitions and notifications, beside promtool's own keys."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import pytest

from metricsdb.testing.rules import run

STATEMENTS = """
ALERT Full BY (instance)
  COOLDOWN 2m
  ANNOTATIONS { text="{{ $labels.instance }} at {{ $value }} of {{ $externalLabels.dc }}, {{ query \\"count(used)\\" | first | value }} there" }
  LEVEL warning WHEN used > 0.7 FOR 1m CLEAR AT 0.6
  LEVEL critical WHEN used > 0.9 ROUTE TO "pager" WAIT 0s
RECORD twice = 2 * used
"""
ROUTE = """
route: {receiver: chat, group_by: [alertname], group_wait: 30s, group_interval: 1m, repeat_interval: 4h}
receivers:
  - {name: chat, slack_configs: [{api_url: 'http://slack.example'}]}
  - {name: pager}
  - {name: nobody}
"""
SERIES = """
    interval: 1m
    external_labels: {dc: x}
    input_series:
      - {series: 'used{instance="a"}', values: "0.5 0.8 0.8 0.95 0.65 0.5 0.5"}
      - {series: 'used{instance="b"}', values: "0.1x6"}
"""
HEAD = "rule_files: [s.alerts]\nroute: am.yml\n"


def case(folder, tests: str, statements: str = STATEMENTS, head: str = HEAD, series: str = SERIES) -> str:
    (folder / "s.alerts").write_text(statements)
    (folder / "am.yml").write_text(ROUTE)
    (folder / "t.yml").write_text(f"{head}tests:\n  - name: T{series}{tests}")
    return str(run(folder / "t.yml"))


MOVES = """
    transition_test:
      - alertname: Full
        eval_time: 6m
        exp_transitions:
          - {at: 1m, level: warning, from: inactive, to: pending, labels: {instance: a}, notified: false}
          - {at: 2m, level: warning, from: pending, to: firing, notified: true, flapping: false, muted: null}
          - {at: 3m, level: critical, from: inactive, to: firing, notified: true}
          - {at: 4m, level: critical, from: firing, to: inactive, notified: true}
          - {at: 5m, level: warning, to: inactive}
      - {alertname: Full, eval_time: 0m}
"""
TOLD = """
    notification_test:
      - receiver: pager
        eval_time: 3m30s
        exp_notifications:
          - at: 3m
            exp_alerts:
              - exp_labels: {alertname: Full, severity: critical, instance: a, dc: x}
                exp_annotations: {text: "a at 0.95 of x, 2 there"}
"""


def test_transitions_are_those_of_the_history(tmp_path):
    text = case(tmp_path, MOVES)
    assert "SUCCESS" in text, text
    text = case(tmp_path, MOVES.replace("at: 2m, level: warning", "at: 3m, level: warning"))
    assert "transitions of Full, time: 6m" in text
    assert 'at: 2m, labels: {instance="a"}, level: warning, from: pending, to: firing' in text
    assert "name: T" in text


def test_notifications_are_what_a_receiver_is_told(tmp_path):
    alert = "{exp_labels: {alertname: Full, severity: critical, instance: a, dc: x}, exp_annotations: {text: 'a at %s of x, 2 there'}}"
    over = TOLD.replace("3m30s", "9m") + f"          - {{at: 4m, status: resolved, exp_alerts: [{alert % '0.65'}]}}\n"
    text = case(tmp_path, TOLD)
    assert "SUCCESS" in text, text
    # The group interval is the root's, a minute: what ends a minute later is told at once.
    text = case(tmp_path, over)
    assert "SUCCESS" in text, text
    # Slack is not told of what is over, unless it asks for that.
    chat = "    notification_test:\n      - receiver: chat\n        eval_time: 9m\n        exp_notifications:\n          - {at: 2m30s, exp_alerts: [%s]}\n"
    warning = alert.replace("critical", "warning") % "0.8"
    text = case(tmp_path, chat % warning)
    assert "SUCCESS" in text, text
    text = case(tmp_path, chat % warning.replace("0.8", "0.9"))
    assert "notifications of chat, time: 9m" in text
    assert "exp:" in text
    text = case(
        tmp_path, "    notification_test: [{receiver: nobody, eval_time: 9m}, {receiver: all, eval_time: 1m}]\n"
    )
    assert "names the receiver 'all'; there are: chat, nobody, pager" in text


def test_promtools_own_keys_look_at_statements_too(tmp_path):
    text = case(tmp_path, """
    alert_rule_test:
      - {eval_time: 1m, alertname: Full, exp_alerts: []}
      - eval_time: 3m30s
        alertname: Full
        exp_alerts:
          - {exp_labels: {severity: warning, instance: a}, exp_annotations: {text: "a at 0.95 of x, 2 there"}}
          - {exp_labels: {severity: critical, instance: a}, exp_annotations: {text: "a at 0.95 of x, 2 there"}}
    promql_expr_test:
      - {expr: 'twice{instance="a"}', eval_time: 2m, exp_samples: [{labels: 'twice{instance="a"}', value: 1.6}]}
""")  # fmt: skip
    assert "SUCCESS" in text, text
    text = case(tmp_path, "    alert_rule_test: [{eval_time: 3m, alertname: Full, exp_alerts: []}]\n")
    assert "alertname: Full, time: 3m" in text
    text = case(tmp_path, "    promql_expr_test: [{expr: twice, eval_time: 2m, exp_samples: []}]\n")
    assert 'expr: "twice", time: 2m' in text
    assert "misses required attribute alertname" in case(tmp_path, "    alert_rule_test: [{eval_time: 3m}]\n")


def test_rule_files_of_prometheus_take_part(tmp_path):
    rules = "groups: [{name: g, interval: 2m, rules: [{alert: Used, expr: used > 0.7, for: 1m}]}]\n"
    (tmp_path / "r.yml").write_text(rules)
    moves = """
    transition_test:
      - alertname: Used
        eval_time: 6m
        exp_transitions:
          - {at: 2m, to: pending}
          - {at: 4m, to: inactive}
"""
    text = case(tmp_path, moves, head="rule_files: [s.alerts, r.yml]\n", statements="ALERT Other WHEN used > 9")
    assert "SUCCESS" in text, text
    # Without a route there are the receivers that statements name.
    named = 'ALERT A WHEN used > 0.9 ROUTE TO "desk" WAIT 0s'
    told = "    notification_test: [{receiver: desk, eval_time: 3m, exp_notifications: [{at: 3m, exp_alerts: [{exp_labels: {alertname: A, instance: a, dc: x}}]}]}]\n"
    text = case(tmp_path, told, head="rule_files: [s.alerts]\n", statements=named)
    assert "SUCCESS" in text, text
    text = case(tmp_path, "    transition_test: []\n", head="rule_files: [s.alerts]\ngroup_eval_order: [a]\n")
    assert "order rule_files" in text


def test_samples_after_the_last_evaluation_are_there(tmp_path):
    expr = '    promql_expr_test: [{expr: "sum(used)", eval_time: 2m, exp_samples: [{labels: "{}", value: 0.9}]}]\n'
    assert "SUCCESS" in case(tmp_path, expr, statements="GROUP g EVERY 1h { RECORD r = used }")


def test_nothing_to_run_is_no_error(tmp_path):
    assert "SUCCESS" in case(tmp_path, "    transition_test: [{alertname: A, eval_time: 3m}]\n", head="", statements="")


@pytest.mark.parametrize(
    ("statements", "tests", "says"),
    [
        ("ALERT A WHEN used > 5 and used < 3", "", "no value can make"),
        ('ALERT A WHEN used > 5 ROUTE TO "void"', "", "which is no receiver"),
        ("ALERT A WHEN used > 5 DURING night", "", "night"),
        ("ALERT A WHEN used * on () used > 0", "    transition_test: [{alertname: A, eval_time: 1m}]\n", "rule: A, time: 0s, err: "),
        ("ALERT A WHEN", "", "s.alerts"),
        ("ALERT A WHEN used > 5", "    transition_test: [{alertname: A, eval_time: 1m, exp_transitions: [{at: 1m}]}]\n", "required field `to`"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_said(tmp_path, statements, tests, says):
    text = case(tmp_path, tests, statements)
    assert "FAILED" in text
    assert says in text, text


def test_errors_that_a_statement_expects_are_part_of_its_story(tmp_path):
    series = """
    interval: 1m
    input_series:
      - {series: 'used{instance="a"}', values: "0.5 0.9 0.9 0.9 0.5 0.5"}
      - {series: 'used{instance="b"}', values: "_ _ 0.1 stale"}
"""
    moves = """
    transition_test:
      - {alertname: A, eval_time: 5m, exp_transitions: [{at: 1m, to: firing}, {at: 4m, to: inactive}]}
"""
    for clause, says in (("ON ERROR KEEP", "SUCCESS"), ("", "rule: A, time: 2m, err: ")):
        text = case(tmp_path, moves, f"ALERT A {clause} WHEN used + on () used > 1", series=series)
        assert says in text, text


def test_a_story_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("metricsdb.testing.timelines.ROWS_MAX", 3)
    assert "more than 3 transitions; make it shorter" in case(tmp_path, MOVES)
