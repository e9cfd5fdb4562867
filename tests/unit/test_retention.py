"""Rules of retention: read, checked, carried out; what they come to ahead, and who would miss what."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.lifecycle import forecast
from metricsdb.lifecycle import retention as aging
from metricsdb.lifecycle.impact import panels
from metricsdb.lifecycle.retention import RetentionRule, Stay, rules_of
from metricsdb.testing.clock import FakeClock

T0 = 1_700_000_000
DAY = 86_400


def filled(days=3, step=600, services=4, path=None, **options):
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(path, clock=clock, **options)
    times = np.arange(T0 - days * DAY, T0, step)
    for i in range(services):
        db.append({"__name__": "m", "service": str(i)}, times, np.sin(times + i))
    return db, clock


def oldest(db, selector):
    return min((int(s.timestamps[0]) for s in db.raw(selector, 0, T0 * 2)), default=None)


# --- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("15d", ["memory 15d"]),
        (timedelta(hours=1), ["memory 1h"]),
        (90, ["memory 1m30s"]),
        ("memory 2d -> cold 90d", ["memory 2d -> cold 90d"]),
        ("memory", ["memory"]),
        ({"up": "400d", "": "memory 2d -> cold"}, ["memory 400d", "memory 2d -> cold"]),
        ({"up": {"keep": "1d", "importance": "low", "max_bytes": "4GiB"}}, ["memory 1d"]),
        ([{"keep": "1d"}], ["memory 1d"]),
        ([RetentionRule.of("up", "1d", max_share=0.5)], ["memory 1d"]),
        (None, []),
    ],
)
def test_rules_are_read_as_people_write_them(given, said):
    assert [str(rule) for rule in rules_of(given)] == said
    assert [str(rule) for rule in rules_of([RetentionRule.of(r.selector, str(r)) for r in rules_of(given)])] == said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0s", "retention '0s' must be longer than zero"),
        ("soon", "retention 'soon' is not a duration"),
        ({"up": "memory soon"}, "retention rule 'up': memory 'soon' is not a duration"),
        ({"up": "tape 2d"}, "retention rule 'up': 'tape 2d' is no place with an age; write a line"),
        ({"up": "disk 2d"}, "retention rule 'up': samples cannot go disk; write memory first, then disk, then cold"),
        ({"up": "memory 2d -> cold 3d -> disk 9d"}, "cannot go memory -> cold -> disk; write memory first"),
        ({"up": "memory 2d -> disk 3d -> disk 9d"}, "cannot go memory -> disk -> disk"),
        ({"up": "memory 2d -> disk 1d"}, "retention rule 'up': disk ends at 1d, not after 2d"),
        ({"up": "memory 2d -> disk 9d -> cold 3d"}, "retention rule 'up': cold ends at 3d, not after 9d"),
        ({"up": "memory 2d -> disk -> cold 3d"}, "retention rule 'up': samples never leave disk; give it an age"),
        ({"up": "memory 2d -> disk 9d -> 1 in 10 90d"}, "1 in 10 stands where no sample can be left"),
        ({"up": "memory 1 d"}, "'memory 1 d' is no place with an age"),
        ({"up": "memory 2d ->"}, "'' is no place with an age"),
        ({"up": "2d -> cold 3d"}, "'2d' is no place with an age"),
        ({"up": "memory 2d -> cold 1d"}, "cold ends at 1d, not after 2d"),
        ({"up": "memory -> cold 1d"}, "samples never leave memory; give it an age"),
        ({"up": "cold 1d"}, "cannot go cold; write memory first"),
        ({"up": "memory 1d -> memory 2d"}, "cannot go memory -> memory"),
        ({"": "1d", "up": "2d"}, "'everything': takes every series, so 'up' behind it governs none; put it last"),
        ([RetentionRule("up", ())], "samples cannot go nowhere"),
        ([{"selector": "up"}], "'up': `keep` is missing; it has selector, keep"),
        ([{"selector": "up", "keep": "1d", "maxbytes": 1}], "'maxbytes' is no field"),
        (
            [{"selector": "m", "keep": "1d", "name": "x"}, {"selector": "up", "keep": "1d", "name": "x"}],
            "another rule has this name",
        ),
        (["1d"], "retention rule 1 is '1d'; give a RetentionRule"),
        ({"up": {"keep": "1d", "importance": "vital"}}, "importance 'vital' is not known; give low, normal or high"),
        ({"up": {"keep": "1d", "max_bytes": 0}}, "max_bytes 0 bounds to nothing"),
        ({"up": {"keep": "1d", "max_share": 2}}, "max_share 2 is no share"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_with_its_name(given, words):
    with pytest.raises(mdb.ConfigError) as error:
        rules_of(given)
    assert words in str(error.value)


def test_a_store_of_pins_is_no_cold_store():
    pytest.importorskip("obstore")
    db, _ = filled()
    db.pin("p", "m", 0, T0)
    with pytest.raises(mdb.ConfigError, match="there is no cold store"):
        db.retention.use("memory 1d -> cold")


def test_a_selector_that_cannot_be_read_changes_nothing():
    db, _ = filled(retention="2d")
    with pytest.raises(mdb.ParseError):
        db.retention.use({"{": "1d"})
    with pytest.raises(mdb.ConfigError, match="there is no cold store"):
        db.retention.use("memory 1d -> cold 2d")
    assert db.retention.list().rows() == [("everything", "", "memory 2d", "normal", None, None)]
    db.retention.use(None)
    assert db.retention.rules == ()


# --- carried out --------------------------------------------------------------------------------


def test_the_first_rule_that_takes_a_series_decides_to_the_sample():
    db, clock = filled(retention={'{service="0"}': "memory", '{service="1"}': "12h", "": "1d"})
    db.tick()
    assert oldest(db, 'm{service="0"}') == (T0 - 3 * DAY) * 1000
    assert oldest(db, 'm{service="1"}') == (T0 - DAY // 2) * 1000
    assert oldest(db, 'm{service=~"[23]"}') == (T0 - DAY) * 1000
    log = db.retention.log()
    assert log.select("rule", "what", "samples", "series").rows() == [
        ('{service="1"}', "expired", 360, 1),
        ("everything", "expired", 576, 2),
    ]
    clock.move(1)
    db.tick()
    assert db.retention.log().height == 2, "not every tick is a pass"
    clock.move(DAY)
    db.tick()
    assert {s.labels["service"] for s in db.raw("m", 0, T0 * 2)} == {"0"}


def test_a_policy_that_changes_holds_at_the_next_tick():
    db, clock = filled(retention="3d")
    db.tick()
    db.retention.use("1d")
    clock.move(1)
    db.tick()
    assert oldest(db, "m") == (T0 - DAY + 600) * 1000


def test_samples_that_go_cold_leave_memory_only_when_they_are_gone_everywhere():
    pytest.importorskip("obstore")
    db, _ = filled(cold="memory://")
    db.retention.use("memory 1d -> cold 2d")
    engine = db._upkeep.aging
    now = T0 * 1000
    assert engine.moving(now, "memory", "cold") == [("", now - DAY * 1000)]
    assert engine.expiring(now) == [("", now - 2 * DAY * 1000)]
    db.tick()
    assert oldest(db, "m") == (T0 - 2 * DAY) * 1000
    db.retention.use({"m": "memory", "": "memory 1d -> cold"})
    assert engine.moving(now, "memory", "cold") == [("m", None), ("", now - DAY * 1000)]
    assert engine.expiring(now) == [("m", None), ("", None)]
    db._upkeep.aging.step(db._native, now)


def test_a_rule_above_its_bytes_loses_its_oldest_samples_sooner():
    rules = [RetentionRule.of('{service="0"}', "memory", max_bytes="12KiB"), RetentionRule.of("", "30d")]
    db, _ = filled(days=20, step=60, retention=rules)
    selectors = [rule.selector for rule in rules]
    assert db._native.governed(selectors, [])[0][3] > 12 << 10
    db.tick()
    assert db._native.governed(selectors, [])[0][3] <= 12 << 10
    assert oldest(db, 'm{service="0"}') > (T0 - 20 * DAY) * 1000
    assert oldest(db, 'm{service="1"}') == (T0 - 20 * DAY) * 1000


def test_a_share_of_memory_bounds_too_and_cold_samples_are_pressed_not_dropped():
    pytest.importorskip("obstore")
    db, _ = filled(days=20, step=60, cold="memory://")
    db.retention.use([RetentionRule.of('{service="0"}', "memory 30d -> cold", max_share=0.1), {"keep": "30d"}])
    db.tick()
    assert oldest(db, "m") == (T0 - 20 * DAY) * 1000
    (_, before), _ = db._upkeep.aging.moving(T0 * 1000, "memory", "cold")
    assert before > (T0 - 20 * DAY) * 1000


def test_where_memory_is_short_the_least_important_lose_first():
    rules = [RetentionRule.of('{service="0"}', "memory", importance="high"),
             RetentionRule.of('{service="1"}', "memory", importance="low")]  # fmt: skip
    db, _ = filled(days=10, step=60, retention=rules)
    engine, native = db._upkeep.aging, db._native
    assert engine.has_classes
    keep_from = (T0 - DAY) * 1000
    seen = []
    for _ in range(200):
        *left, finished = engine.evict(native, 1, T0 * 1000, keep_from)
        if finished and not any(left):
            break
        seen.append([oldest(db, f'm{{service="{i}"}}') for i in (1, 2, 0)])
    first = (T0 - 10 * DAY) * 1000
    low, middle, high = (np.array(column) for column in zip(*seen, strict=True))
    assert low[-1] == middle[-1] == high[-1] == keep_from
    assert (low[middle == first].max(), middle[high == first].max()) == (keep_from, keep_from)
    assert set(db.retention.log("evicted")["rule"]) == {'{service="0"}', '{service="1"}'}
    assert engine.evict(native, 1 << 40, T0 * 1000, T0 * 1000) == (0, 0, 0, True)


def test_a_database_above_its_limit_evicts_by_importance():
    clock = FakeClock(T0 * 1000)
    rules = [RetentionRule.of('{i="0"}', "memory", importance="high")]
    db = mdb.Database(clock=clock, memory_limit="8MiB", evict_keep="1m", retention=rules, idle_cpu=0.0)
    refs = db.register([{"__name__": "m", "i": str(i)} for i in range(20)])
    noise = np.random.default_rng(1)
    for at in range(T0 - 90_000, T0, 1000):
        for ref in refs:
            times = (np.arange(at, at + 1000) * 1000).astype("datetime64[ms]")
            db.append_batch(np.full(1000, ref), times, noise.random(1000))
        clock.move(1)
        db.tick()
    important, other = db._native.governed(['m{i="0"}'], [])
    assert important[4] == (T0 - 90_000) * 1000
    assert other[4] > (T0 - 90_000) * 1000


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_sample_is_missing_before_its_time_and_none_is_there_after(data):
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock)
    model: dict[str, set[int]] = {str(i): set() for i in range(3)}
    ages = st.sampled_from([None, 60, 100, 3600])
    for _ in range(data.draw(st.integers(1, 15))):
        step = data.draw(st.sampled_from(["write", "write", "late", "policy", "tick"]))
        now = clock.now_ms() // 1000
        if step in ("write", "late"):
            of = data.draw(st.sampled_from(sorted(model)))
            back = 0 if step == "write" else data.draw(st.integers(0, 4000))
            times = [now - back - i * 7 for i in range(data.draw(st.integers(1, 30)))]
            db.append({"__name__": "m", "i": of}, times, [1.0] * len(times))
            model[of] |= set(times)
        elif step == "policy":
            chosen = {f'{{i="{i}"}}': data.draw(ages) for i in range(2)} | {"": data.draw(ages)}
            lines = {sel: "memory" if age is None else f"{age}s" for sel, age in chosen.items()}
            db.retention.use(lines)
        else:
            clock.move(data.draw(st.sampled_from([1000, 1_000_000])) / 1000)
            db._upkeep.aging._pass_at = -(2**63)
            db.tick()
            now = clock.now_ms() // 1000
            for of, held in model.items():
                rule = next((r for r in db.retention.rules if r.selector in ("", f'{{i="{of}"}}')), None)
                if rule is not None and rule.kept_ms is not None:
                    model[of] = {t for t in held if t >= clock.now_ms() / 1000 - rule.kept_ms / 1000}
        found = {s.labels["i"]: set((s.timestamps // 1000).tolist()) for s in db.raw("m", 0, T0 * 2)}
        assert found == {of: held for of, held in model.items() if held}


# --- explained ----------------------------------------------------------------------------------


def test_explain_says_which_rule_governs_a_series_and_until_when():
    db, _ = filled(services=2, retention={'{service="0"}': "memory", '{service="1"}': "4d"})
    db.append({"__name__": "other"}, [T0], [1.0])
    found = db.retention.explain()
    assert found.select("__name__", "service", "rule", "keep").rows() == [
        ("m", "0", '{service="0"}', "memory"), ("m", "1", '{service="1"}', "memory 4d"), ("other", None, None, None),
    ]  # fmt: skip
    assert found["why"].to_list() == [
        'the first rule takes {service="0"}',
        'none of the 1 before takes it, and rule 2 takes {service="1"}',
        "no rule takes it: it stays",
    ]
    assert found["leaves"].dt.timestamp("ms").to_list() == [None, (T0 + DAY) * 1000, None]
    assert db.retention.explain("other", "1d")["why"].to_list() == ["the first rule takes every series"]
    assert db.retention.explain("nothing").height == 0


def test_the_log_is_read_again_and_lines_that_broke_off_are_passed_over(tmp_path, caplog):
    db, clock = filled(path=tmp_path, retention="2d")
    db.tick()
    db.retention.use("1d")
    db.tick()
    with (tmp_path / "retention.log").open("a") as file:
        file.write('{"time_ms": 1, "wh')
    db.close()
    db = mdb.Database(tmp_path, clock=clock)
    assert db.retention.log("expired").height == 2
    (tmp_path / "retention.log").unlink()
    (tmp_path / "retention.log").mkdir()
    db.retention.use("12h")
    db.tick()
    assert db.retention.log().height == 3
    assert "cannot be written" in caplog.text


# --- ahead --------------------------------------------------------------------------------------


def test_a_steady_store_holds_what_simulate_said():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, retention="4d", idle_cpu=0.0)
    noise = np.random.default_rng(7)

    def day(at):
        times = np.arange(at, at + DAY, 60)
        for i in range(20):
            # Half of the series live for two days, from noon on.
            half = i % 2 + (times - T0 + DAY // 2) // DAY
            for part in np.split(times, np.flatnonzero(np.diff(half // 2)) + 1) if i >= 10 else [times]:
                name = f"{i}" if i < 10 else f"{i}-{(i % 2 + (part[0] - T0 + DAY // 2) // DAY) // 2}"
                db.append({"__name__": "m", "pod": name}, part, np.round(noise.random(len(part)), 2))
        clock.move(DAY)
        db.tick()

    for d in range(3):
        day(T0 + d * DAY)
    ahead = db.retention.simulate(days=8, prices={"memory": 2.0})
    assert ahead["tier"].unique().to_list() == ["memory"]
    assert (ahead["cost"] > 0).any()
    worst = 0.0
    for d in range(3, 11):
        day(T0 + d * DAY)
        said = ahead.filter((pl.col("day") == d - 2) & (pl.col("rule") == "everything")).row(0, named=True)
        series, samples, _, size, *_ = db._native.governed([""], [])[0]
        index = sum(of for part, of, _ in db._native.memory() if part in forecast.INDEX)
        assert abs(said["samples"] / samples - 1) < 0.01, d
        assert abs(said["series"] / series - 1) < 0.05, d
        worst = max(worst, abs(said["bytes"] / (size + index) - 1))
    assert worst < 0.05


def test_labels_with_the_name_of_a_column_are_told_apart():
    db = mdb.Database(clock=FakeClock(T0 * 1000), retention="15d")
    db.append({"__name__": "m", "to": "x", "rule": "y", "host": "z"}, T0, 1.0)
    (row,) = db.retention.explain("m").iter_rows(named=True)
    assert (row["rule"], row["label_rule"], row["label_to"], row["host"]) == ("everything", "y", "x", "z")


def test_simulate_knows_cold_tiers_limits_and_empty_stores():
    db, _ = filled(days=3)
    ahead = db.retention.simulate("memory 1d -> cold 10d", days=20, prices={"cold": 0.02})
    total = ahead.group_by("day", "tier").agg(pl.col("samples").sum()).sort("day", "tier")
    cold = total.filter(pl.col("tier") == "cold")["samples"]
    a_day = 4 * DAY / 600
    assert cold[-1] == pytest.approx(9 * a_day, rel=0.02)
    assert total.filter(pl.col("tier") == "memory")["samples"][-1] == pytest.approx(a_day, rel=0.02)
    assert ahead.filter(pl.col("tier") == "memory")["cost"].is_null().all()
    bounded = db.retention.simulate([RetentionRule.of("", "30d", max_bytes=5000)], days=30)
    assert bounded["bytes"].max() <= 5001
    empty = mdb.Database(clock=FakeClock(T0 * 1000)).retention.simulate("1d", days=2)
    assert empty["samples"].sum() == 0
    with pytest.raises(mdb.ConfigError, match="days 0"):
        db.retention.simulate(days=0)
    with pytest.raises(mdb.ConfigError, match="'tape' is no tier; give memory, disk and cold"):
        db.retention.simulate(prices={"tape": 1.0})


def test_what_is_cold_already_is_counted_and_weighed():
    db, _ = filled(days=1)
    day = DAY * 1000

    class Catalog:
        def parts(self, start_ms, end_ms):
            part = SimpleNamespace(samples=1000, bytes=700, pinned=None, every_ms=0, series_key="one")
            for back in (5, 500):
                span = {"start_ms": T0 * 1000 - (back + 1) * day, "end_ms": T0 * 1000 - back * day - 1}
                yield SimpleNamespace(**{**vars(part), **span})
            yield SimpleNamespace(**{**vars(part), **span, "pinned": "incident"})

        def series(self, part):
            return pl.DataFrame({"series": [1], "__name__": ["m"], "service": ["cold"]})

        def matching(self, part, selectors):
            return self.series(part)["series"]

    db._tiers.catalogs = (Catalog(),)
    ahead = db.retention.simulate("memory 10d -> cold 12d", days=8).filter(pl.col("tier") == "cold")
    assert ahead["samples"].to_list()[:8] == pytest.approx([1000.0] * 7 + [0.0])
    assert ahead["bytes"][0] == pytest.approx(700.0)


def test_a_rule_that_cannot_come_below_its_bytes_ends_the_pass(monkeypatch):
    monkeypatch.setattr(aging, "LIMIT_STEPS", 1)
    db, _ = filled(retention=[RetentionRule.of("", "30d", max_bytes=1)])
    db.tick()
    assert db._native.stats()["samples"] < 4 * 3 * DAY / 600


def test_compare_sets_policies_beside_each_other_and_plots():
    db, _ = filled()
    policies = {"short": "1d", "cold": "memory 1d -> cold 30d", "none": None}
    found = db.retention.compare(policies, days=30, prices={"memory": 3.0, "cold": 0.02})
    assert found.select("policy", "tier").rows() == [
        ("short", "memory"), ("cold", "memory"), ("cold", "cold"), ("none", "memory"),
    ]  # fmt: skip
    assert (found["cost"] > 0).all()
    with pytest.raises(mdb.ConfigError, match="no policies"):
        db.retention.compare({})
    pytest.importorskip("altair")
    ahead = db.retention.simulate("memory 1d -> cold 30d", days=10)
    assert "memory" in db.retention.plot(ahead).to_json()
    assert db.retention.plot(ahead, "samples") is not None
    with pytest.raises(mdb.ConfigError, match="what 'colour'"):
        db.retention.plot(ahead, "colour")


DASHBOARD = {
    "title": "Shop",
    "time": {"from": "now-7d", "to": "now"},
    "panels": [
        {"title": "Rate", "targets": [{"expr": 'sum(rate(m{service=~"$service"}[$__rate_interval]))'}]},
        {"type": "row", "panels": [{"title": "Inner", "timeFrom": "1h", "targets": [{"expr": "m"}, {"expr": ""}]}]},
        {"title": "Broken", "targets": [{"expr": "sum("}, {"refId": "B"}]},
    ],
    "rows": [{"panels": [{"title": "Old", "targets": [{"expr": 'm{service!="$x"} offset ${__range}'}]}]}],
}


def test_a_series_is_used_by_the_queries_that_read_it_and_by_no_others():
    db, _ = filled()
    for name, expr in {"one": "vector(1)", "some": 'sum(m{service="0"})', "all": "sum(m) / vector(2)"}.items():
        db.alerts.install(f"RECORD {name} = {expr}")
    labels = db.series("m")
    used = dict(zip(labels["service"], db.retention.used(labels), strict=True))
    assert used.pop("0") == 2
    assert set(used.values()) == {1}


def test_impact_names_who_would_lose_data_precision_or_nothing(tmp_path):
    db, _ = filled(rollups={'{service="1"}': "raw 6h -> 1m 2d -> 10m 90d"})
    db.alerts.install('ALERT Slow WHEN avg_over_time(m{service="0"}[5d]) + m{service="0"} > 1 FOR 5m')
    db.alerts.install('RECORD m:rolled = sum(max_over_time(m{service="1"}[30d]))')
    db.alerts.install('RECORD m:old = sum(max_over_time(m{service="1"}[100d]))')
    db.alerts.install("RECORD m:none = sum(nothing)")
    policy = {'{service="2"}': "memory 1d -> cold 30d", '{service="3"}': "memory", "": "3d"}
    file = tmp_path / "shop.json"
    file.write_text(json.dumps({"dashboard": DASHBOARD}))
    found = db.retention.impact(policy, [DASHBOARD, str(file)])
    rows = {(r["name"], r["rule"]): r for r in found.iter_rows(named=True)}
    slow = rows["Slow", "everything"]
    assert (slow["kind"], slow["effect"], slow["kept"], slow["lost"]) == ("alert", "data", "3d", "2d")
    rolled = rows["m:rolled", "everything"]
    assert (rolled["effect"], rolled["resolution"], rolled["lost"]) == ("precision", "10m", None)
    assert rows["m:old", "everything"]["lost"] == "10d"
    assert rows["m:none", None]["effect"] == "no series"
    assert rows["Shop / Rate", '{service="2"}']["effect"] == "cold"
    assert rows["Shop / Rate", '{service="3"}']["effect"] == "none"
    assert rows["Shop / Rate", "everything"]["effect"] == "data"
    assert rows["Shop / Inner", "everything"]["effect"] == "none"
    assert rows["Shop / Broken", None]["effect"] == "unread"
    assert rows["Shop / Old", '{service="2"}']["look_back"] == "14d5m"
    assert found.filter(kind="panel").height == 2 * found.filter(kind="panel").n_unique(["name", "rule"])
    assert db.retention.impact()["effect"].to_list()[0] == "none"
    assert mdb.Database().retention.impact("1d").is_empty()
    assert mdb.Database().retention.impact("1d", [DASHBOARD])["effect"].unique().sort().to_list() == [
        "no series",
        "unread",
    ]


def test_dashboards_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(mdb.ConfigError, match="cannot be read"):
        list(panels(tmp_path / "none.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(mdb.ConfigError, match="JSON object"):
        list(panels(tmp_path / "list.json"))
    fixed = {"time": {"from": "2024-01-01"}, "panels": [{"targets": [{"expr": "up[$window]"}]}]}
    assert [(one.expr, one.range_ms) for one in panels(fixed)] == [("up[5m]", 6 * 3_600_000)]
    months = {"time": {"from": "now-2M"}, "panels": [{"targets": [{"expr": "up"}]}]}
    assert next(panels(months)).range_ms == 60 * DAY * 1000


def test_stays_are_text():
    assert str(Stay("cold", 1000)) == "cold 1s"


def test_what_days_bring_goes_on_by_their_line_and_their_rhythm():
    ahead = forecast.ahead_of
    line = np.array([19.0, 18, 17, 16, 15, 14])
    assert ahead(line, 3, 0.0) == pytest.approx([20, 21, 22])
    week = np.array([5.0, 1, 1, 5, 5, 5, 5])
    assert ahead(np.tile(week, 2), 8, 0.0) == pytest.approx([5, 5, 5, 5, 1, 1, 5, 5])
    # Both at once: a week ago it was seven less.
    both = np.tile(week, 3) - np.arange(21) + 100
    assert ahead(both, 4, 0.0) == pytest.approx([106, 107, 108, 109])
    # A line that falls brings nothing less than nothing.
    assert ahead(np.array([2.0, 4, 6, 8, 10]), 4, 7.0).tolist() == [7.0] * 4
    assert ahead(np.array([3.0, 5, 7, 9, 11]), 3, 7.0) == pytest.approx([1, 0, 0])


@pytest.mark.parametrize(
    "history",
    [
        [],
        [19.0, 18, 17, 16],  # too few for a line
        [5.0] * 9,
        [5.0, 1, 1, 5, 5, 5, 5, 5, 1, 1, 5, 5, 5],  # no second week
        [9.0, 2, 5, 4, 7, 1, 8, 3, 6, 2, 9, 4, 1, 7],
        [0.0] * 9,
    ],
)
def test_days_without_line_and_rhythm_are_taken_as_they_were_on_an_average(history):
    assert forecast.ahead_of(np.array(history), 3, 42.0).tolist() == [42.0] * 3


def test_spikes_at_random_times_are_in_a_window_as_their_mean():
    """Neither their days nor their number can be told: of eight stores together a fortnight's mean is as was said."""
    said, found = [], []
    for seed in range(8):
        clock, noise = FakeClock(T0 * 1000), np.random.default_rng(seed)
        db = mdb.Database(clock=clock, retention="14d", idle_cpu=0.0)
        for d in range(34):
            if d == 20:
                ahead = db.retention.simulate(days=14).filter(rule="everything", tier="memory")
                said.append(ahead["samples"][1:].mean())
            times = np.arange(T0 + d * DAY, T0 + (d + 1) * DAY, 300)
            db.append({"__name__": "m"}, times, noise.random(len(times)))
            if noise.random() < 0.3:
                db.append({"__name__": "spike"}, times[:144], noise.random(144))
            clock.move(DAY)
            db.tick()
            if d >= 20:
                found.append(db._native.governed([""], [])[0][1])
    assert np.mean(said) == pytest.approx(np.mean(found), rel=0.05)


def test_what_an_index_takes_without_series_is_known():
    db, _ = filled(services=1)
    index = sum(of for part, of, _ in db._native.memory() if part in forecast.INDEX)
    assert index == pytest.approx(forecast.BARE_BYTES, rel=0.15)
