"""A database with a disk tier between memory and the cold store: what goes where when, and what is asked of it."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import metricsdb as mdb
from metricsdb.cold import RETRY_MS
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock

sys.path.insert(0, str(Path(__file__).parents[1]))
from unit.cold.test_cold_rollups import POLICY, QUERIES, written

pytest.importorskip("obstore")

HOUR, DAY = 3600, 86_400
T0 = 1_767_225_600  # a midnight
DAYS = 9
RULES = {
    '{i="through"}': "memory 1d -> disk 3d -> cold 7d",
    '{i="disk"}': "memory 1d -> disk 5d",
    '{i="past"}': "memory 2d -> cold 6d",
    "": "memory",
}
NAMES = ("through", "disk", "past", "stays")
GRACE_S = 121

Samples = dict[str, dict[int, float]]


def opened(tmp_path: Path, cold: object = "memory://") -> tuple[mdb.Database, FakeClock]:
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, disk=tmp_path / "disk", cold=cold, retention=RULES, idle_cpu=0.0, cache_memory=0)
    for tier in (db.disk, db.cold):
        tier.mover.bucket_ms = DAY * 1000  # one part a day instead of twelve
    return db, clock


def live(db: mdb.Database, clock: FakeClock, model: Samples, day: int) -> None:
    """A day's samples, one every hour, and what ticks do in the night."""
    times = T0 + day * DAY + np.arange(0, DAY, HOUR)
    for at, name in enumerate(NAMES):
        values = times % 977 + at / 4
        db.append({"__name__": "m", "i": name}, times, values)
        model.setdefault(name, {}).update(zip(times.tolist(), values.tolist(), strict=True))
    clock.move(DAY - 3 * 200)
    for _ in range(3):
        clock.move(200)
        db.tick()


def grown(tmp_path: Path, cold: object = "memory://") -> tuple[mdb.Database, FakeClock, Samples]:
    (db, clock), model = opened(tmp_path, cold), Samples()
    for day in range(DAYS):
        live(db, clock, model, day)
    settle(db, clock)
    return db, clock, model


def settle(db: mdb.Database, clock: FakeClock) -> None:
    for _ in range(3):
        for tier in (db.disk, db.cold):
            tier.hurry()
        db.tick()
        clock.move(GRACE_S)
        db.tick()


def answer(db: mdb.Database) -> Samples:
    raw = db.raw("m", 0, T0 * 2)
    return {
        one.labels["i"]: dict(zip((one.timestamps // 1000).tolist(), one.values.tolist(), strict=True)) for one in raw
    }


def days_in(db: mdb.Database, tier: str) -> dict[str, list[int]]:
    """By series on which days since T0 a tier has samples."""
    if tier == "memory":
        found = db._native.raw("m", 0, T0 * 2000)
        return {dict(names)["i"]: sorted({int(t // 1000 - T0) // DAY for t in times}) for names, times, _ in found}
    catalog = (db.disk if tier == "disk" else db.cold).catalog
    days: dict[str, set[int]] = {}
    for part in catalog.parts(0, T0 * 2000):
        rows = catalog.samples(part).join(catalog.series(part), on="series")
        for name, at in rows.select("i", "timestamp").iter_rows():
            days.setdefault(name, set()).add((at // 1000 - T0) // DAY)
    return {name: sorted(of) for name, of in days.items()}


def young(model: Samples, now_ms: int) -> Samples:
    """What rules keep."""
    kept = {"through": 7, "disk": 5, "past": 6, "stays": 10**4}
    return {
        name: {t: v for t, v in of.items() if t * 1000 >= now_ms - kept[name] * DAY * 1000}
        for name, of in model.items()
    }


def test_samples_are_where_their_line_says_and_answers_are_those_of_one_memory(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    for tier in (db.disk, db.cold):
        tier.hurry()
    db.tick()
    assert answer(db) == young(model, clock.now_ms())
    # Now is a bit later than the end of day 8.
    assert days_in(db, "memory") == {
        "through": [8], "disk": [8], "past": [7, 8], "stays": list(range(9)),
    }  # fmt: skip
    assert days_in(db, "disk") == {"through": [6, 7], "disk": [4, 5, 6, 7]}
    assert days_in(db, "cold") == {"through": [2, 3, 4, 5], "past": [3, 4, 5, 6]}
    moved = db.retention.log("moved")
    assert set(moved.select("rule", "to").rows()) == {
        ('{i="through"}', "disk"), ('{i="through"}', "cold"), ('{i="disk"}', "disk"), ('{i="past"}', "cold"),
    }  # fmt: skip
    assert db.retention.log("expired")["to"].is_null().all()
    for name, tier in (("disk", db.disk), ("cold", db.cold)):
        assert tier.counts[f"{name}_moved_samples"] == moved.filter(to=name)["samples"].sum()
        assert dict(db.stats().rows())[f"{name}_runs"] == tier.counts[f"{name}_runs"] > 0
    assert dict(db.stats().rows())["disk_failures"] == 0
    # No object is left that nobody names.
    clock.move(GRACE_S)
    db.disk.run()
    files = {str(p.relative_to(tmp_path / "disk")) for p in (tmp_path / "disk").rglob("*.parquet")}
    assert files == db.disk.catalog.state.keys()


def test_aggregates_over_three_tiers_and_what_explain_says(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    kept = young(model, clock.now_ms())
    at = clock.now_ms() / 1000
    ask = "count_over_time(m[30d])"
    cost = db.estimate(ask, at)
    assert cost.cold_parts >= 4
    plan = db.explain(ask, at, analyze=True)
    assert plan.totals["cold_bytes"] > 0
    found = db.query(ask, at)
    assert dict(found.select("i", "value").rows()) == {name: len(of) for name, of in kept.items()}


def test_a_late_sample_stands_over_what_is_cold_wherever_it_is(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    seen = set()
    for name, day in (("through", 3), ("past", 4), ("disk", 6)):
        at = T0 + day * DAY + 5 * HOUR
        for value in (-1.0, -2.0, -1.0):
            db.append({"__name__": "m", "i": name}, at, value)
            model[name][at] = value
            for _ in range(4):
                assert answer(db)[name][at] == value
                frame = db.query(f'm{{i="{name}"}}', at)
                assert frame["value"].to_list() == [value]
                seen |= {tier for tier in ("memory", "disk", "cold") if day in days_in(db, tier).get(name, [])}
                for tier in (db.disk, db.cold):
                    tier.hurry()
                db.tick()
                clock.move(GRACE_S)
    settle(db, clock)
    assert answer(db) == young(model, clock.now_ms())
    assert seen == {"memory", "disk", "cold"}
    assert 3 not in days_in(db, "disk")["through"]


def test_a_rule_that_comes_to_skip_the_disk_takes_what_is_there_first(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    db.retention.use({**RULES, '{i="through"}': "memory 1d -> cold 7d"})
    at = T0 + 7 * DAY + 5 * HOUR  # on disk
    db.append({"__name__": "m", "i": "through"}, at, -5.0)
    model["through"][at] = -5.0
    for _ in range(6):
        assert answer(db)["through"] == young(model, clock.now_ms())["through"]
        settle(db, clock)
    assert "through" not in days_in(db, "disk")
    assert answer(db)["through"] == young(model, clock.now_ms())["through"]
    # And one that has no place but memory any more leaves what moved where it is, until it is gone.
    db.retention.use({"": "4d"})
    settle(db, clock)
    limit = clock.now_ms() / 1000 - 4 * DAY
    assert answer(db) == {name: {t: v for t, v in of.items() if t >= limit} for name, of in model.items()}


def test_a_disk_tier_needs_no_object_store(tmp_path: Path) -> None:
    clock = FakeClock((T0 + 6 * DAY) * 1000)
    db = mdb.Database(clock=clock, disk=str(tmp_path / "disk"), retention="memory 2d -> disk 4d", idle_cpu=0.0)
    times = np.arange(T0, T0 + 6 * DAY, HOUR)
    db.append({"__name__": "m", "i": "a"}, times, times % 977)
    db.tick()
    clock.move(GRACE_S)
    db.disk.hurry()
    db.tick()
    wanted = {t: float(t % 977) for t in times.tolist() if t * 1000 >= clock.now_ms() - 4 * DAY * 1000}
    assert answer(db) == {"a": wanted}
    assert days_in(db, "memory") == {"a": [4, 5]}
    assert days_in(db, "disk") == {"a": [2, 3]}
    with pytest.raises(mdb.ConfigError, match="no cold store"):
        _ = db.cold
    assert db.disk.move("m", before="now").samples > 0
    # Another process finds it there.
    later = mdb.Database(clock=clock, disk=tmp_path / "disk")
    assert later.disk.parts().height == db.disk.parts().height > 0


def test_what_cannot_be_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(mdb.ConfigError, match="disk 's3://bucket' is no directory"):
        mdb.Database(disk="s3://bucket")
    with pytest.raises(mdb.ConfigError, match="disk and cold are both .*give each a directory of its own"):
        mdb.Database(disk=tmp_path / "one", cold=f"{tmp_path}/two/../one")
    with pytest.raises(mdb.ConfigError, match="'up': samples are to go to disk, and there is no disk tier; give"):
        mdb.Database(retention={"up": "memory 1d -> disk 2d"})
    with pytest.raises(mdb.ConfigError, match="'everything': samples are to go cold, and there is no cold store"):
        mdb.Database(disk=tmp_path / "one", retention="memory 1d -> disk 2d -> cold 3d")
    with pytest.raises(mdb.ConfigError, match="no disk tier; open it with"):
        _ = mdb.Database().disk


# --- a disk that fails -----------------------------------------------------------------------------


def fail(monkeypatch: pytest.MonkeyPatch, verb: str, of: Path, error: OSError) -> dict[str, bool]:
    """Makes a verb fail in one store alone, while ``broken["is"]``."""
    inner, broken = getattr(Objects, verb), {"is": True}

    def ask(objects, *args):
        if broken["is"] and objects.directory == of.resolve():
            with objects._errors(f"{verb} something"):
                raise error
        return inner(objects, *args)

    monkeypatch.setattr(Objects, verb, ask)
    return broken


def test_while_the_disk_is_full_memory_keeps_and_others_go_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (db, clock), model = opened(tmp_path), Samples()
    full = fail(monkeypatch, "put", tmp_path / "disk", OSError(28, "No space left on device"))
    with caplog.at_level(logging.WARNING, "metricsdb.cold"):
        for day in range(4):
            live(db, clock, model, day)
    assert "No space left on device" in caplog.text
    assert str(tmp_path / "disk") in caplog.text
    failures = db.disk.counts["disk_failures"]
    assert failures > 0
    assert db.disk.counts["disk_moved_samples"] == 0
    assert db.cold.counts == {**db.cold.counts, "cold_failures": 0}
    assert db.cold.counts["cold_moved_samples"] == 24
    assert answer(db) == model
    clock.move(RETRY_MS / 1000)
    db.tick()
    assert db.disk.counts["disk_failures"] == failures + 1
    full["is"] = False
    clock.move(RETRY_MS / 1000)
    db.tick()
    assert db.disk.counts["disk_moved_samples"] == 2 * 3 * 24
    settle(db, clock)
    assert days_in(db, "memory")["through"] == [3]
    assert answer(db) == model


def test_a_full_disk_still_lets_go_of_what_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, clock, _ = grown(tmp_path)
    held = sum(p.stat().st_size for p in (tmp_path / "disk").rglob("*.parquet"))
    fail(monkeypatch, "put", tmp_path / "disk", OSError(28, "No space left on device"))
    clock.move(3 * DAY)
    for _ in range(3):
        db.disk.step(clock.now_ms())
        clock.move(RETRY_MS / 1000)
    assert db.disk.counts["disk_failures"] == 3
    left = sum(p.stat().st_size for p in (tmp_path / "disk").rglob("*.parquet"))
    assert left < held * 0.75
    assert not {4} & set(days_in(db, "disk")["disk"])


def test_a_disk_that_cannot_be_read_holds_up_only_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, clock, model = grown(tmp_path)
    settle(db, clock)
    moved, before = db.cold.counts["cold_moved_samples"], days_in(db, "memory")["past"]
    broken = fail(monkeypatch, "ranges", tmp_path / "disk", OSError(5, "Input/output error"))
    for catalog in db._tiers.catalogs:
        catalog._cache._items.clear()
    at = clock.now_ms() // 1000
    db.append({"__name__": "m", "i": "past"}, T0 + 5 * DAY, -9.0)
    model["past"][T0 + 5 * DAY] = -9.0
    clock.move(DAY)
    db.cold.hurry()
    db.cold.step(clock.now_ms())
    assert db.cold.counts["cold_failures"] == 1
    assert db.cold.counts["cold_moved_samples"] > moved
    with pytest.raises(mdb.ColdStoreError, match="Input/output error"):
        db.query('count_over_time(m{i="disk"}[30d])', at)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert db.query('count_over_time(m{i="disk"}[30d])', at, partial=True).height == 1
    assert "partial" in str(told[0].message)
    broken["is"] = False
    settle(db, clock)
    assert before != days_in(db, "memory")["past"]
    assert answer(db)["past"] == young(model, clock.now_ms())["past"]


def test_what_the_disk_could_not_let_go_of_goes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, clock, model = grown(tmp_path)
    clock.move(DAY)
    db.cold.hurry()
    db.cold.step(clock.now_ms())
    assert 6 in days_in(db, "cold")["through"]
    full = fail(monkeypatch, "create", tmp_path / "disk", OSError(28, "No space left on device"))
    clock.move(GRACE_S)
    db.cold.step(clock.now_ms())
    assert db.cold.counts["cold_failures"] == 1
    assert 6 in days_in(db, "disk")["through"]
    full["is"] = False
    settle(db, clock)
    assert 6 not in days_in(db, "disk")["through"]
    assert answer(db) == young(model, clock.now_ms())


def test_a_cold_store_that_is_away_leaves_samples_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (db, clock), model = opened(tmp_path, tmp_path / "cold"), Samples()
    away = fail(monkeypatch, "put", tmp_path / "cold", OSError(111, "Connection refused"))
    for day in range(6):
        live(db, clock, model, day)
    assert db.cold.counts["cold_failures"] > 0
    assert days_in(db, "disk")["through"] == [0, 1, 2, 3]
    assert answer(db) == young(model, clock.now_ms())
    away["is"] = False
    settle(db, clock)
    assert days_in(db, "disk")["through"] == [3, 4]
    assert days_in(db, "cold")["through"] == [0, 1, 2]


# --- what else reads and changes all tiers ----------------------------------------------------------


def test_deletes_reach_the_disk_and_can_be_taken_back(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    before = answer(db)
    done = db.delete('m{i="through"}', T0 + 3 * DAY, T0 + 9 * DAY, undo="1d")
    assert done.cold_parts >= 2
    left = {t: v for t, v in before["through"].items() if t < T0 + 3 * DAY}
    assert answer(db) == {**before, "through": left}
    settle(db, clock)
    assert "through" not in days_in(db, "disk")
    assert answer(db)["through"] == {t: v for t, v in young(model, clock.now_ms())["through"].items() if t in left}
    assert done.id is not None
    assert db.undelete(done.id) == len(before["through"]) - len(left)
    assert answer(db) == young(model, clock.now_ms())
    settle(db, clock)
    assert answer(db) == young(model, clock.now_ms())


def test_pins_recall_and_incidents_take_from_all_tiers(tmp_path: Path) -> None:
    db, clock, _ = grown(tmp_path)
    before = answer(db)
    ask = ('m{i="through"}', T0, T0 + 9 * DAY)
    view = db.recall(*ask)
    assert answer(view) == {"through": before["through"]}
    db.export_incident(tmp_path / "one", *ask)
    assert answer(mdb.open_incident(tmp_path / "one")) == {"through": before["through"]}
    db.pin("held", *ask)
    assert answer(db) == before
    clock.move(20 * DAY)
    settle(db, clock)
    assert answer(db)["through"] == before["through"]
    assert set(db.cold.parts()["pinned"]) == {"held"}


def test_a_pin_of_its_own_store_stands_behind_what_came_later(tmp_path: Path) -> None:
    clock = FakeClock((T0 + 6 * DAY) * 1000)
    db = mdb.Database(clock=clock, disk=tmp_path / "disk", retention="memory 2d -> disk 9d", idle_cpu=0.0)
    db.append({"__name__": "m", "i": "a"}, [T0, T0 + HOUR], [1.0, 2.0])
    db.pin("held", "m", T0, T0 + DAY)
    db.append({"__name__": "m", "i": "a"}, T0, 7.0)
    for _ in range(3):
        assert answer(db) == {"a": {T0: 7.0, T0 + HOUR: 2.0}}
        assert answer(db.recall("m", T0, T0 + DAY)) == {"a": {T0: 7.0, T0 + HOUR: 2.0}}
        db.disk.hurry()
        db.tick()
        clock.move(GRACE_S)
    assert db._native.stats()["samples"] == 0


def test_samples_by_hand_go_from_both(tmp_path: Path) -> None:
    db, clock, model = grown(tmp_path)
    shares: list[float] = []
    for _ in range(2):
        db.cold.move("m", before=T0 + 9 * DAY, progress=lambda share, _: shares.append(share))
        clock.move(GRACE_S)
        db.tick()
    assert days_in(db, "disk") == {}
    assert days_in(db, "memory") == {}
    assert set(answer(db)["stays"]) == set(model["stays"])
    assert max(shares) == 1.0
    assert shares.count(1.0) == 2
    assert shares[: shares.index(1.0) + 1] == sorted(shares[: shares.index(1.0) + 1])


def test_explain_impact_and_simulate_know_of_the_disk(tmp_path: Path) -> None:
    db, _, _ = grown(tmp_path)
    found = db.retention.explain("m").sort("i")
    assert dict(found.select("i", "to").rows()) == {"disk": "disk", "past": "cold", "stays": None, "through": "disk"}
    by = {row["i"]: row for row in found.iter_rows(named=True)}
    assert (by["through"]["leaves_disk"] - by["through"]["start"]).days == 3
    assert by["past"]["leaves_disk"] is None
    for name, expr in {
        "young": 'sum(m{i="through"})',
        "disk": 'sum(sum_over_time(m{i="through"}[2d]))',
        "both": 'sum(sum_over_time(m{i="through"}[5d]))',
        "cold": 'sum(sum_over_time(m{i="past"}[5d]))',
        "gone": 'sum(sum_over_time(m{i="disk"}[6d]))',
    }.items():
        db.alerts.install(f"RECORD {name} = {expr}")
    told = {row["name"]: (row["effect"], row["detail"]) for row in db.retention.impact().iter_rows(named=True)}
    assert told["young"] == ("none", "")
    assert told["disk"] == ("disk", "a part is read from disk: the same answer, later")
    assert told["both"] == ("cold", "a part is read from disk and the cold store: the same answer, later")
    assert told["cold"] == ("cold", "a part is read from the cold store: the same answer, later")
    assert told["gone"][0] == "data"
    ahead = db.retention.simulate(days=30, prices={"memory": 3.0, "disk": 0.1, "cold": 0.02})
    tiers = ahead.filter(rule='{i="through"}', day=30)
    samples = dict(tiers.select("tier", "samples").rows())
    assert samples == {
        "memory": pytest.approx(24, rel=0.05), "disk": pytest.approx(48, rel=0.05), "cold": pytest.approx(96, rel=0.05),
    }  # fmt: skip
    assert set(ahead.filter(rule='{i="disk"}')["tier"]) == {"memory", "disk"}
    assert set(ahead.filter(rule='{i="past"}')["tier"]) == {"memory", "cold"}
    assert ahead["cost"].null_count() == 0
    compared = db.retention.compare({"now": RULES, "then": "memory 1d -> disk 2d"})
    assert set(compared.filter(policy="then")["tier"]) == {"memory", "disk"}


def test_a_rule_above_its_limit_of_bytes_sends_samples_to_disk_sooner(tmp_path: Path) -> None:
    clock = FakeClock((T0 + 9 * DAY) * 1000)
    rule = {"keep": "memory 30d -> disk 60d", "max_bytes": 3000}
    db = mdb.Database(clock=clock, disk=tmp_path / "disk", retention={"": rule}, idle_cpu=0.0)
    times = np.arange(T0, T0 + 9 * DAY, 300)
    db.append({"__name__": "m", "i": "a"}, times, np.random.default_rng(1).random(len(times)))
    db.tick()
    clock.move(GRACE_S)
    db.disk.hurry()
    db.tick()
    assert db.disk.counts["disk_moved_samples"] > 1000
    assert len(answer(db)["a"]) == len(times)


def test_the_sample_that_is_left_is_that_of_a_store_without_a_disk_tier(tmp_path: Path) -> None:
    """Late samples of a day of which a sample is left come by the disk, too."""
    outcomes = []
    for disk in (None, tmp_path):
        clock = FakeClock((T0 + 2 * DAY) * 1000)
        line = f"memory 1d -> {'disk 2d -> ' if disk else ''}cold 4d -> 1 in 3 by job 30d"
        db = mdb.Database(clock=clock, disk=disk, cold="memory://", retention=line, idle_cpu=0.0)
        tiers = [tier for tier in (db._disk, db._cold) if tier is not None]
        for day in range(2):
            for i in range(30):
                labels = {"__name__": "m", "job": "ab"[i % 2], "i": str(i)}
                db.append(labels, T0 + day * DAY + np.arange(0, DAY, 6 * HOUR), np.arange(4.0) + i)
        for _ in range(7):
            clock.move(DAY)
            for _ in range(3):
                for tier in tiers:
                    tier.hurry()
                db.tick()
                clock.move(GRACE_S)
        db.append({"__name__": "m", "job": "a", "i": "0"}, T0 + 7 * HOUR, 99.0)
        db.append({"__name__": "m", "job": "a", "i": "2"}, T0 + 7 * HOUR, 98.0)
        db.append({"__name__": "m", "job": "a", "i": "4"}, T0 + 7 * HOUR, 97.0)
        for _ in range(3):
            for tier in tiers:
                tier.hurry()
            db.tick()
            clock.move(GRACE_S)
        assert db._native.stats()["samples"] == 0
        if disk is not None:
            assert db.disk.parts().is_empty()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sums = db.query("sum by (job) (m)", T0 + DAY + 6 * HOUR).sort("job")
        outcomes.append((answer(db), sums.rows(), [str(one.message) for one in told]))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 10
    assert "only a sample is left" in outcomes[0][2][0]


# --- records of rollups -----------------------------------------------------------------------------


class Records:
    """One store that keeps its records in memory, and one whose records go by disk to the cold store."""

    def __init__(self, folder: Path) -> None:
        start = 20_600 * DAY
        clocks = FakeClock(start * 1000), FakeClock(start * 1000)
        rollups = {"load": POLICY, "hits_total": "raw 6h -> 10m 4d -> 1h"}
        self.start = start
        self.whole = mdb.Database(clock=clocks[0], rollups=rollups, evict="never")
        self.tiers = mdb.Database(
            clock=clocks[1], rollups=rollups, evict="never", disk=folder / "disk", cold="memory://",
            retention="memory 2d -> disk 5d -> cold 60d",
        )  # fmt: skip
        for db, clock in zip((self.whole, self.tiers), clocks, strict=True):
            written(db, clock, 11)
        for _ in range(3):
            self.tiers.disk.run()
            self.tiers.cold.run()
            for clock in clocks:
                clock.move(1_000)
        self.clock = clocks[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records(tmp_path_factory.mktemp("records"))


def test_records_go_the_same_way(records: Records) -> None:
    days = {
        name: {(part.every_ms, (part.moves_ms[1] // 1000 - records.start) // DAY) for part in tier.catalog.state.parts}
        for name, tier in (("disk", records.tiers.disk), ("cold", records.tiers.cold))
    }
    assert {every for every, _ in days["disk"]} == {600_000, 3_600_000}
    assert {day for _, day in days["disk"]} == {6, 7, 8}
    # The first sample ends a bucket of the day before.
    assert {day for _, day in days["cold"]} == {-1, 0, 1, 2, 3, 4, 5}
    span = records.tiers._native.records_span()
    assert span is not None
    assert span[0] // 1000 - records.start >= 9 * DAY


@pytest.mark.parametrize("expr", QUERIES)
def test_answers_over_records_on_disk_and_cold_are_those_of_one_memory(records: Records, expr: str) -> None:
    for start, end, step in ((0, 11, "1h"), (4.5, 6.7, "13m"), (5, 5, "1h")):
        frames, told = [], []
        for db in (records.whole, records.tiers):
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                frame = db.query_range(expr, records.start + start * DAY, records.start + end * DAY, step)
            labels = sorted(c for c in frame.columns if c not in ("timestamp", "value"))
            frames.append(frame.select(*labels, "timestamp", "value").sort(*labels, "timestamp"))
            told.append(sorted(str(one.message) for one in heard))
        assert frames[0].equals(frames[1])
        assert frames[0].height
        bits = [frame["value"].to_numpy().view("uint64").tolist() for frame in frames]
        assert bits[0] == bits[1]
        assert told[0] == told[1]


def test_wide_records_that_meet_several_days_move_once(tmp_path: Path) -> None:
    clock = FakeClock(20_600 * DAY * 1000)
    rollups = {"load": "raw 12h -> 5h 40d -> 35h", "hits_total": "raw 6h -> 10m 4d -> 1h"}
    db = mdb.Database(
        clock=clock, rollups=rollups, evict="never", disk=tmp_path / "disk", cold="memory://",
        retention="memory 2d -> disk 5d -> cold 60d",
    )  # fmt: skip
    written(db, clock, 15)
    wanted = db.rollups.records("load", "35h").sort("host", "timestamp")
    for _ in range(4):
        db.disk.run()
        db.cold.run()
        clock.move(1_000)
    frame = db.rollups.records("load", "35h").sort("host", "timestamp")
    assert frame.equals(wanted)
    parts = [part for tier in (db.disk, db.cold) for part in tier.catalog.state.parts if part.every_ms == 126_000_000]
    rows = sum(len(tier.catalog.samples(part)) for tier in (db.disk, db.cold) for part in tier.catalog.state.parts
               if part.every_ms == 126_000_000)  # fmt: skip
    assert parts
    memory = db._native.rollup_records("load", 126_000_000, 0, 2**62).height
    assert rows + memory == wanted.height
