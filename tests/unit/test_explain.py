"""Estimates, plans and suggestions as Python sees them."""

from __future__ import annotations

import numpy as np
import pytest

import metricsdb as mdb
from metricsdb.testing import FakeClock

T0 = 1_700_000_000
HOUR = (T0, T0 + 3600, "1m")


@pytest.fixture
def db():
    with mdb.Database(clock=FakeClock((T0 + 3600) * 1000)) as database:
        times = (T0 + np.arange(0, 3601, 15)) * 1000
        for job in ("api", "web"):
            for instance in range(30):
                labels = {"__name__": "requests_total", "job": job, "instance": f"host-{instance}"}
                database.append(labels, times.astype("datetime64[ms]"), np.arange(len(times)) % 100)
        yield database


def test_a_plan_has_a_row_a_node_with_bounds_and_counts(db):
    plan = db.explain("sum by (job) (rate(requests_total[5m]))", *HOUR, analyze=True)
    assert plan.frame["detail"].to_list() == ["sum by (job)", "rate", "requests_total[5m]"]
    assert plan.frame["parent"].to_list() == [None, 0, 1]
    assert plan.frame["depth"].to_list() == [0, 1, 2]
    assert plan.frame["position"].to_list() == ["1:1", "1:15", "1:20"]
    assert plan.frame["series"].to_list() == [2, 60, 60]
    selector = plan.frame.row(2, named=True)
    assert selector["samples"] == selector["estimated_samples"] == plan.totals["samples"] == 60 * 241
    assert 0 < selector["bytes"] <= selector["estimated_bytes"]
    assert selector["codec"]
    assert (plan.frame["milliseconds"] > 0).all()


def test_without_analyze_nothing_is_run(db):
    plan = db.explain("sum(requests_total)", *HOUR)
    assert plan.frame["samples"].null_count() == plan.frame.height
    assert dict(db.stats().iter_rows())["decoded_samples"] == 0
    assert not plan.analyzed


def test_a_plan_is_text_for_people_and_notebooks(db):
    plan = db.explain('sum by (job) (rate(requests_total{job=~"api"}[5m]))', *HOUR, analyze=True)
    lines = str(plan).splitlines()
    assert lines[1].startswith("sum by (job)")
    assert lines[2].startswith("  rate")
    assert 'regex-literal: job=~"api" is a plain text' in str(plan)
    assert 'sum by (job) (rate(requests_total{job="api"}[5m]))   (same answer)' in str(plan)
    assert repr(plan) == plan.text
    assert "<pre>" in plan._repr_html_()
    assert "&quot;api&quot;" in plan._repr_html_()


def test_explain_is_a_statement_but_metrics_may_be_called_so(db):
    frame = db.query("EXPLAIN ANALYZE sum(requests_total)", T0 + 60)
    assert frame["detail"].to_list() == ["sum", "requests_total"]
    assert frame["samples"].to_list() == [0, 60]
    assert db.query("explain sum(requests_total)")["samples"].null_count() == 2
    assert db.query_range("EXPLAIN ANALYZE requests_total", *HOUR)["values"].to_list() == [60 * 61]
    db.append({"__name__": "explain", "analyze": "yes"}, [T0 + 60], [7])
    assert db.query("explain", T0 + 60)["value"].item() == 7
    assert db.query('explain{analyze="yes"} - 1', T0 + 60)["value"].item() == 6
    with pytest.raises(mdb.ParseError) as wrong:
        db.query("EXPLAIN sum(")
    assert wrong.value.column == 13


def test_an_estimate_says_what_a_query_can_cost(db):
    bound = db.estimate("sum(rate(requests_total[5m]))", *HOUR)
    assert (bound.series, bound.samples, bound.samples_min) == (60, 60 * 241, 60 * 241)
    assert bound.bytes > 0
    assert bound.values >= 61
    assert db.estimate("requests_total").samples == 60
    assert db.estimate("nothing", *HOUR).samples == 0
    with pytest.raises(mdb.ConfigError, match="needs a step"):
        db.estimate("up", T0, T0 + 60)


def test_a_refusal_names_the_costly_part_and_the_remedy():
    with mdb.Database(max_samples=100) as db:
        db.append({"__name__": "x"}, list(range(T0, T0 + 3600, 15)), [1.0] * 240)
        with pytest.raises(mdb.QueryLimit, match=r"x\[1h\] at 1:13.*raise max_samples"):
            db.query("sum(changes(x[1h]))", T0 + 3600)


def test_suggestions_come_as_a_frame(db):
    found = db.suggest('requests_total{job=~"api"}', *HOUR).row(0, named=True)
    assert found["check"] == "regex-literal"
    assert found["rewrite"] == 'requests_total{job="api"}'
    assert (found["meaning"], found["same_answer"], found["position"]) == ("same", True, "1:1")
    untried = db.suggest('requests_total{job=~"api"}', *HOUR, check=False).row(0, named=True)
    assert untried["same_answer"] is None
    assert untried["measured_saving"] is None


def test_a_saving_is_predicted_within_a_factor_of_two(db):
    query = "sum by (job) (requests_total) / count by (job) (requests_total)"
    found = db.suggest(query, *HOUR).row(0, named=True)
    assert found["check"] == "join-is-aggregation"
    assert found["same_answer"]
    assert found["measured_saving"] > 0.4
    assert 0.5 < found["predicted_saving"] / found["measured_saving"] < 2


def test_a_declared_gauge_and_a_recording_rule_are_known(db):
    db.ingest(b"# TYPE temperature gauge\ntemperature 3\n", "prometheus", time=T0 + 3600)
    assert db.suggest("rate(temperature[5m])")["check"].to_list() == ["rate-over-gauge"]
    rules = {"job:requests:rate5m": "sum by (job) (rate(requests_total[5m]))"}
    found = db.suggest("sum by (job) (rate(requests_total[5m]))", *HOUR, rules=rules, check=False)
    assert found["rewrite"].to_list() == ["job:requests:rate5m"]
    with pytest.raises(mdb.ParseError):
        db.suggest("up", rules={"broken": "sum("})
