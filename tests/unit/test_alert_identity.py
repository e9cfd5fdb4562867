"""`db.alerts`: what an alert is (templates, collisions, limits), what late samples change, what outlives a restart."""

from __future__ import annotations

import polars as pl
import pytest

import metricsdb as mdb
from metricsdb import Histogram
from metricsdb.errors import ConfigError, ExecutionError
from metricsdb.testing import FakeClock
from tests.unit.test_alerts import MINUTE, T0, Taker, fill, ticks


@pytest.fixture
def clock():
    return FakeClock(T0)


@pytest.fixture
def db(clock):
    with mdb.Database(clock=clock) as db:
        yield db


TEMPLATED = """ALERT Full WHEN x > 5 LABELS { value="{{ $value }}", place="{{ $labels.instance }}!", team="t" }
  ANNOTATIONS { text="{{ $labels.value }}" }"""


def test_labels_that_are_templates_make_alerts_live_and_in_a_rehearsal(db, clock):
    fill(db, [7, 7, 8, 1])
    taker = db.alerts.deliver = Taker()
    db.alerts.install(TEMPLATED)
    ticks(db, clock, 4)
    seven, eight = (f'{{instance="a", place="a!", value="{v}"}}' for v in (7, 8))
    moves = db.alerts.history().select("labels", "to").rows()
    assert moves == [(seven, "firing"), (seven, "inactive"), (eight, "firing"), (eight, "inactive")]
    whole = {"alertname": "Full", "instance": "a", "place": "a!", "team": "t"}
    assert taker.all[0][0].labels == whole | {"value": "7"}
    # `value` is a label of the alert, and none of the series: as in Prometheus.
    assert taker.all[0][0].annotations == {"text": ""}
    assert db.query("ALERTS", T0 / 1000)["place"].to_list() == ["a!"]
    done = db.alerts.backtest(TEMPLATED, T0 / 1000, (T0 + 3 * MINUTE) / 1000)
    assert done.summary["firings"] == 2
    swept = done.sweep(threshold=[5.0, 7.5])
    assert swept["firings"].to_list() == [2, 1]


def test_templates_that_fail_are_the_rules_error(db, clock):
    fill(db, [9])
    db.alerts.install('ALERT A WHEN x > 5 LABELS { a="{{ $value }}" }; ALERT B WHEN x > 5')

    def render(text, labels, value):
        raise RuntimeError("no")

    db.alerts.render = render
    db.tick(T0 / 1000)
    listed = db.alerts.list()
    assert listed["health"].to_list() == ["err", "ok"]
    assert "templates of labels" in listed["error"][0]


def test_two_samples_that_are_one_alert_are_an_error(db, clock):
    fill(db, [9])
    fill(db, [9], instance="b")
    db.alerts.install('ALERT A WHEN x > 5 LABELS { instance="all" }')
    db.tick(T0 / 1000)
    assert "same labelset after applying alert labels" in db.alerts.list()["error"][0]
    with pytest.raises(ExecutionError, match="same labelset"):
        db.alerts.backtest('ALERT A WHEN x > 5 LABELS { instance="all" }', T0 / 1000, T0 / 1000)


def test_past_a_groups_limit_a_rule_fails_and_forgets(db, clock):
    for name in "abc":
        fill(db, [9, 9 if name == "a" else 1], instance=name)
    db.alerts.install("GROUP g EVERY 1m LIMIT 2 { ALERT A WHEN x > 5  RECORD r = x }")
    ticks(db, clock, 1)
    errors = db.alerts.list()["error"].to_list()
    assert "exceeded limit of 2 with 3 alerts" in errors[0]
    assert "exceeded limit of 2 with 3 series" in errors[1]
    assert db.alerts.active().is_empty()
    assert db.query("r", T0 / 1000).is_empty()
    ticks(db, clock, 1)
    assert db.alerts.list()["state"].to_list() == ["firing", "inactive"]
    assert db.alerts.groups()[0].failures == 3
    assert "LIMIT 2" in db._native.statements("GROUP g LIMIT 2 { RECORD r = x }")[0]["text"]


def test_late_samples_that_would_have_changed_an_evaluation_are_counted(db, clock):
    fill(db, [1, None, 1])
    db.alerts.install("ALERT A WHEN x > 5; ALERT B WHEN x > 5 CLEAR AT 3; RECORD r = x")
    ticks(db, clock, 3)
    columns = ("group", "name", "evaluations", "changed")
    assert db.alerts.late().select(columns).rows() == [("default", "A", 3, 0), ("default", "B", 3, 0)]
    fill(db, [9], start=T0 + MINUTE)
    assert db.alerts.late()["changed"].to_list() == [1, 1]
    fill(db, [4], instance="b")  # in the dead band of B alone
    assert db.alerts.late()["changed"].to_list() == [1, 3]


def test_samples_that_have_gone_cold_are_not_taken_for_changed(clock):
    pytest.importorskip("obstore")
    with mdb.Database(clock=clock, cold="memory://") as db:
        fill(db, [9, 9, 1])
        db.alerts.install("ALERT A WHEN x > 5")
        ticks(db, clock, 3)
        clock.move(86_400)
        assert db.cold.move("x", clock.now_ms() / 1000).samples == 3
        clock.move(3600)
        db.cold.run()
        assert db._native.series_frame(["x"], 0, 2**62).is_empty()
        assert db.alerts.late().select("evaluations", "changed").rows() == [(3, 0)]


def test_lints_know_the_data(db, clock):
    fill(db, [9] * 5)
    fill(db, [1000 + i for i in range(5)], name="req_total")
    clock.move(240)

    def checks(statements):
        return [(lint.statement, lint.check) for lint in db.alerts.lint(statements)]

    assert checks('ALERT A WHEN y > 5; ALERT B WHEN x{host="a"} > 5; ALERT C WHEN sum by (host) (x) > 5') == [
        ("A", "unknown_metric"), ("B", "unknown_label"), ("C", "unknown_label"),
    ]  # fmt: skip
    assert checks("RECORD y = x; ALERT A WHEN y > 5") == []
    assert checks("ALERT A WHEN rate(req_total[5m]) > 500") == [("A", "counter_scale")]
    assert checks("ALERT A WHEN rate(req_total[5m]) > 0.02 and on (instance) firing('B')") == []


def test_what_fires_can_be_asked_for(db, clock):
    fill(db, [9, 1])
    fill(db, [1, 9], instance="b")
    db.alerts.install('ALERT Hot LABELS { team="t" } LEVEL low WHEN x > 5 LEVEL high WHEN x > 8')
    db.alerts.install("GROUP z EVERY 1m { ALERT Both WHEN x > 0 unless on (instance) firing('Hot') }")
    ticks(db, clock, 1)
    found = db.query("firing('Hot')", T0 / 1000)
    assert found.select("instance", "team", "value").rows() == [("a", "t", 1.0)]
    assert db.alerts.active().filter(pl.col("alert") == "Both")["labels"].to_list() == ['{instance="b"}']


def test_ends_of_recorded_series_and_the_history_outlive_a_restart(tmp_path):
    clock = FakeClock(T0)
    with mdb.Database(tmp_path, clock=clock) as db:
        fill(db, [9, 9])
        fill(db, [9, 1], instance="b")
        db.alerts.install("ALERT A WHEN x > 5; RECORD r = x > 5 LABELS { by='rule' }")
        ticks(db, clock, 1)
    with mdb.Database(tmp_path, clock=clock) as db:
        ticks(db, clock, 1)
        assert db.query("r", (T0 + MINUTE) / 1000)["instance"].to_list() == ["a"]
        assert db.alerts.history().select("alert", "labels", "to").rows() == [
            ("A", '{instance="a"}', "firing"), ("A", '{instance="b"}', "firing"), ("A", '{instance="b"}', "inactive"),
        ]  # fmt: skip
        assert (tmp_path / "alerts-history.jsonl").read_text().count("\n") == 3


def test_recorded_histograms_are_written(db, clock):
    histogram = Histogram(schema=0, count=3, sum=4.0, positive_spans=[(0, 2)], positive_buckets=[1, 2])
    db.append_histograms({"__name__": "h", "instance": "a"}, [T0 / 1000], [histogram])
    fill(db, [1])
    db.alerts.install('RECORD r = {__name__=~"h|x"} LABELS { by="rule" }')
    db.alerts.install("GROUP a { RECORD s = sum(h) }")
    ticks(db, clock, 1)
    assert db.query("histogram_count(s)", T0 / 1000)["value"].to_list() == [3.0]
    assert "same labelset after applying rule labels" in db.alerts.list().filter(pl.col("name") == "r")["error"][0]


def test_a_history_that_cannot_be_read_or_written_is_no_reason_to_stop(tmp_path, caplog):
    clock = FakeClock(T0)
    with mdb.Database(tmp_path, clock=clock) as db:
        fill(db, [9, 1, 9, 1])
        db.alerts.install("ALERT A WHEN x > 5")
        ticks(db, clock, 2)
    file = tmp_path / "alerts-history.jsonl"
    file.write_bytes(b"torn\n[1]\n" + file.read_bytes())
    with mdb.Database(tmp_path, clock=clock) as db:
        assert db.alerts.history().height == 2
        file.unlink()
        file.mkdir()
        ticks(db, clock, 1)
        assert db.alerts.history().height == 3
        assert "kept in memory" in caplog.text


def test_an_evaluation_that_was_not_saved_is_in_the_history_once(tmp_path):
    clock = FakeClock(T0)
    with mdb.Database(tmp_path, clock=clock) as db:
        fill(db, [9, 1, 9, 1])
        db.alerts.install("ALERT A WHEN x > 5")
        ticks(db, clock, 1)
        saved = (tmp_path / "alerts.json").read_bytes()
        ticks(db, clock, 1)
    (tmp_path / "alerts.json").write_bytes(saved)
    clock = FakeClock(T0 + MINUTE)
    with mdb.Database(tmp_path, clock=clock) as db:
        ticks(db, clock, 2)
        assert db.alerts.history()["to"].to_list() == ["firing", "inactive", "firing"]


def test_a_plan_of_an_alert_says_what_is_evaluated_once(db, clock):
    fill(db, [9] * 5)
    text = """ALERT A
      LEVEL low WHEN x > 5 FOR 1m CLEAR AT 3 FOR 2 OF 3
      LEVEL high WHEN x > 8 CLEAR WHEN y < 2"""
    plan = db.explain(text, T0 / 1000)
    assert plan.frame.select("node", "depth").rows()[:3] == [("alert", 0), ("level", 1), ("level", 1)]
    details = plan.frame["detail"].to_list()
    assert details[:3] == [
        "ALERT A",
        "level low: fires when x > 5 for 60 s; clears at 3 at 2 of 3 evaluations",
        "level high: fires when x > 8; clears when y < 2",
    ]
    assert details[3:] == ["x", "y"]
    assert plan.frame["parent"].to_list() == [None, 0, 0, 0, 0]
    assert "ALERT A" in str(plan)
    analyzed = db.explain(f"EXPLAIN ANALYZE {text}", T0 / 1000)
    assert analyzed.analyzed
    assert "level low" in str(analyzed)
    assert db.query(f"EXPLAIN {text}", T0 / 1000)["detail"].to_list() == details
    assert db.explain("EXPLAIN x > 5", T0 / 1000).frame["detail"].to_list()[0] == "> 5"
    slo = "SLO s TARGET 99% OVER 30d BAD x TOTAL x BURN 14 OVER 1h AND 5m LEVEL page BURN 1 OVER 3d AND 6h LEVEL t"
    plan = db.explain(slo, T0 / 1000)
    assert plan.frame.filter(pl.col("node") == "alert").height == 2
    assert "clears when that ends" in plan.frame["detail"][1]
    with pytest.raises(ConfigError):
        db.alerts.lint("x > 5")
