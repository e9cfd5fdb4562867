"""Series of rules that cannot be written: nothing counts as written, and no transition is lost."""

from __future__ import annotations

import pytest

import metricsdb as mdb
from metricsdb.config import Limit
from metricsdb.errors import MetricsDBError
from metricsdb.testing import FakeClock
from tests.unit.test_alerts import MINUTE, T0, fill


@pytest.fixture
def clock():
    return FakeClock(T0)


@pytest.fixture
def db(clock):
    """`x` of `a` is gone after two minutes, and that of `b` begins."""
    with mdb.Database(clock=clock) as db:
        for instance, values in {"a": [9, 9, float("nan")], "b": [None, None, 9, 9, 9]}.items():
            fill(db, values, instance)
        yield db


def tick(db, clock):
    db.tick()
    clock.move(MINUTE / 1000)


def instances(db, expr, minute):
    return sorted(db.query(expr, (T0 + minute * MINUTE) / 1000)["instance"].to_list())


def full(db, names):
    """From now on one series more of these is one too many."""
    db.limits.set(Limit(selector=f'{{__name__=~"{names}"}}', max_series=1, by="metric", name="full"))


def health(db):
    return db.alerts.list().select("health", "error").row(0)


def test_a_recorded_series_ends_with_a_marker_though_a_write_failed_in_between(db, clock):
    db.alerts.install("RECORD r = x > 0")
    tick(db, clock)
    tick(db, clock)
    full(db, "r")
    tick(db, clock)
    assert health(db)[0] == "err"
    db.limits.remove("full")
    tick(db, clock)
    assert health(db) == ("ok", "")
    assert instances(db, "r", 3) == ["b"]


def test_an_alert_is_told_though_its_series_cannot_be_written(db, clock):
    told = []
    db.alerts.deliver = lambda alerts, now_ms: told.extend((now_ms, alert.labels["instance"]) for alert, _ in alerts)
    db.alerts.install("ALERT Hot WHEN x > 5")
    tick(db, clock)
    tick(db, clock)
    full(db, "ALERTS.*")
    told.clear()
    tick(db, clock)
    assert sorted(told) == [(T0 + 2 * MINUTE, "a"), (T0 + 2 * MINUTE, "b")]
    state, error = health(db)
    assert (state, "full" in error) == ("err", True)
    assert db.alerts.history().select("from", "to").rows()[1:] == [("firing", "inactive"), ("inactive", "firing")]
    db.limits.remove("full")
    tick(db, clock)
    assert health(db) == ("ok", "")
    # That of `a` ends late, but it ends.
    assert instances(db, "ALERTS", 3) == ["b"]


def test_what_cannot_be_ended_is_not_removed(db, clock, monkeypatch):
    db.alerts.install("ALERT Hot WHEN x > 5")
    tick(db, clock)

    def refused(*_):
        raise MetricsDBError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(db.alerts, "_native", lambda: type("Full", (), {"end_alerts": refused})())
        with pytest.raises(MetricsDBError, match="full"):
            db.alerts.remove("Hot")
    assert db.alerts.list()["name"].to_list() == ["Hot"]
    db.alerts.remove("Hot")
    assert db.query("ALERTS", (T0 + MINUTE) / 1000).is_empty()
