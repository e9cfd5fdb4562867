"""A year in the life of a database: what leaves memory, disk and the cold store, and when, against a plain model."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.lifecycle import forecast
from metricsdb.testing import FakeClock

DAY, HOUR = 86_400, 3_600
T0 = 1_767_225_600  # a midnight
EVERY = 1800
BUCKET_MS = 86_400_000
ALL = '{__name__=~".+"}'
# Selector, seconds in memory, seconds until gone; the first that takes a series governs it.
Rules = list[tuple[str, float, float | None]]
FIRST: Rules = [('{tier="gold"}', 2 * DAY, None), ('{tier="debug"}', DAY, DAY), ("", DAY, 20 * DAY)]
LATER: Rules = [('{tier="gold"}', 3 * DAY, 200 * DAY), ('{tier="debug"}', HOUR, 5 * DAY), ("", DAY, 10 * DAY)]
# A pass comes every half hour at most, parts are looked at each hour, and a tick here is a day.
SLACK = DAY


def lines(rules: Rules, disk: bool) -> dict[str, str]:
    """With a disk tier, some go by it, some end there, and some go past it."""

    def line(selector: str, memory: float, gone: float | None) -> str:
        last = "" if gone is None else f" {int(gone)}s"
        if gone == memory:
            return f"memory {int(memory)}s"
        if disk and selector == "":
            return f"memory {int(memory)}s -> disk{last}"
        by = f"disk {int(memory + 3 * DAY)}s -> " if disk and "gold" in selector else ""
        return f"memory {int(memory)}s -> {by}cold{last}"

    return {selector: line(selector, memory, gone) for selector, memory, gone in rules}


class Life:
    """A store and its model: series by labels, times to values."""

    def __init__(self, disk: Path | None = None) -> None:
        self.clock = FakeClock(T0 * 1000)
        self.db = mdb.Database(clock=self.clock, disk=disk, cold="memory://", idle_cpu=0.0, cache_memory=0)
        self.tiers = [self.db.cold] if disk is None else [self.db.disk, self.db.cold]
        for tier in self.tiers:
            tier.mover.bucket_ms = BUCKET_MS  # one a day instead of twelve: a year has many
        self.model: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.written: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.rng = np.random.default_rng(5)
        self.rules: Rules = []

    def use(self, rules: Rules) -> None:
        self.rules = rules
        self.db.retention.use(lines(rules, len(self.tiers) == 2))

    def write(self, tier: str, pod: str, times: np.ndarray) -> None:
        values = np.round(self.rng.random(len(times)), 2)
        self.db.append({"__name__": "m", "tier": tier, "pod": pod}, times, values)
        for kept in (self.model, self.written):
            kept[tier, pod].update(zip(times.tolist(), values.tolist(), strict=True))

    def day(self, day: int) -> None:
        """Samples of a day, with churn, spikes and late ones; then a night of ticks."""
        start = T0 + day * DAY
        times = np.arange(start, start + DAY, EVERY)
        for tier in ("gold", "plain", "debug"):
            for i in range(2):
                self.write(tier, f"{i}", times)
            self.write(tier, f"churn-{day // 3}", times)
        if day % 40 == 7:
            for i in range(30):
                self.write("plain", f"spike-{day}-{i}", times[20:24])
        if day % 5 == 2:  # some come late, to buckets that went cold
            self.write("gold", "0", start - 4 * DAY + np.arange(0, HOUR, 600) + 7)
        self.until(start + DAY)
        for _ in range(3):
            self.db.tick()
            self.clock.move(200)
        self.forget()

    def forget(self) -> None:
        """What rules let go is gone for good, whatever later ones say."""
        now = self.clock.now_ms() / 1000
        for key in list(self.model):
            _, gone = self.gone(key[0])
            if gone is not None:
                self.model[key] = {t: v for t, v in self.model[key].items() if t >= now - gone}

    def until(self, at: int) -> None:
        self.clock.move(at - self.clock.now_ms() / 1000)

    def gone(self, tier: str) -> tuple[float, float | None]:
        return next((m, g) for selector, m, g in self.rules if selector in ("", f'{{tier="{tier}"}}'))

    def check(self) -> None:
        """All younger than its rule lets go is there, with its value; nothing that was gone a day ago is."""
        now = self.clock.now_ms() / 1000
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.db._tiers, "_limit", 1 << 40)
            raw = self.db.raw(ALL, 0, now + DAY)
        found = {
            (s.labels["tier"], s.labels["pod"]): dict(zip((s.timestamps // 1000).tolist(), s.values, strict=True))
            for s in raw
        }
        for (tier, pod), model in self.model.items():
            _, gone = self.gone(tier)
            have = found.get((tier, pod), {})
            wanted = {t: v for t, v in model.items() if gone is None or t >= now - gone}
            missing = wanted.items() - have.items()
            assert not missing, (tier, pod, sorted(missing)[:3])
            for t, v in have.items():
                assert self.written[tier, pod][t] == v, (tier, pod, t)
                assert gone is None or t >= now - gone - SLACK, (tier, pod, t)

    def in_memory(self) -> pl.DataFrame:
        held = self.db._native.governed([selector for selector, *_ in self.rules], [])
        rows = [(selector, row[1], row[4]) for (selector, *_), row in zip(self.rules, held, strict=False)]
        return pl.DataFrame(rows, schema=["rule", "samples", "first"], orient="row")


@pytest.mark.parametrize(("disk", "days", "change"), [(False, 365, 200), (True, 130, 70)])
def test_a_year_of_life(disk: bool, days: int, change: int, tmp_path: Path) -> None:
    life = Life(tmp_path if disk else None)
    life.use(FIRST)
    for day in range(days):
        if day == change:
            life.use(LATER)
        life.day(day)
        if day % 60 == 29 or change <= day <= change + 2:
            life.check()
    # Memory has what its rules say, and not a whole bucket more.
    now = life.clock.now_ms()
    for (selector, memory, _), (_, _, first) in zip(LATER, life.in_memory().rows(), strict=True):
        assert first >= now - memory * 1000 - BUCKET_MS - HOUR * 1000, selector
    assert sum(tier.parts()["samples"].sum() for tier in life.tiers) > 20_000
    assert all(tier.parts()["samples"].sum() > 500 for tier in life.tiers)
    moved = life.db.retention.log("moved")
    assert set(moved["rule"]) == {'{tier="gold"}', '{tier="debug"}', "everything"}


class Load:
    """What one day brings to a store: a scrape each twenty seconds, in one of several shapes."""

    def __init__(self, kind: str, life: Life) -> None:
        self.kind, self.life = kind, life
        self.rng = np.random.default_rng(5)

    def write(self, pod: str, times: np.ndarray) -> None:
        if len(times):
            values = np.round(self.rng.random(len(times)), 2)
            self.life.db.append({"__name__": "m", "tier": "plain", "pod": pod}, times, values)

    def day(self, at: int) -> None:
        start = T0 + at * DAY
        times = np.arange(start, start + DAY, 20)
        if self.kind == "weekly" and at % 7 >= 5:
            times = times[::3]
        # Pods are replaced at 18:00: of some kinds each day, of others each third.
        lifetime, first = {"churning": (3, 9), "churning daily": (1, 6)}.get(self.kind, (0, 12))
        deployed = np.searchsorted(times, start + 18 * HOUR)
        for i in range(12 + (at if self.kind == "growing" else 0)):
            if i < first or not lifetime:
                self.write(f"{i}", times)
            else:
                self.write(f"{i}-{at // lifetime}", times[:deployed])
                self.write(f"{i}-{(at + 1) // lifetime}", times[deployed:])
        if self.kind == "late" and at % 3 == 2:
            self.write("0", start - 4 * DAY + np.arange(0, 2 * HOUR, 60) + 7)
        if self.kind == "spiking" and at % 4 == 1:
            for i in range(20):
                self.write(f"spike-{at}-{i}", times[2000:2100])
        self.life.until(start + DAY)
        for _ in range(3):
            self.life.db.tick()
            self.life.clock.move(200)


def held(db: mdb.Database) -> dict[str, tuple[int, int, int]]:
    """Samples, series and bytes of each tier."""
    series, samples, _, size, *_ = db._native.governed([""], [])[0]
    index = sum(of for part, of, _ in db._native.memory() if part in forecast.INDEX)
    parts = db.cold.catalog.state.parts
    names = {name for part in parts for name in db.cold.catalog.series(part)["series"].to_list()}
    cold = sum(part.samples for part in parts), len(names), sum(part.bytes for part in parts)
    return {"memory": (samples, series, size + index), "cold": cold}


def check_said(db: mdb.Database, said: pl.DataFrame, at: int) -> None:
    of_day = {tier: row for tier, *row in said.filter(day=at).select("tier", "samples", "series", "bytes").rows()}
    for tier, found in held(db).items():
        for what, is_so, was_said in zip(("samples", "series", "bytes"), found, of_day[tier], strict=True):
            assert was_said == pytest.approx(is_so, rel=0.05), (tier, what, at)


KINDS = ["steady", "churning", "churning daily", "growing", "late", "spiking", "weekly"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_simulated_is_what_happens(kind):
    """By tier and day samples, series and bytes within 5 %."""
    # A rhythm has to be seen twice.
    warm, ahead, kept = (16, 10, 20) if kind == "weekly" else (9, 9, 9)
    life = Life()
    # Of a part's series nobody knows when they ended in it: four a day.
    life.db.cold.mover.bucket_ms = BUCKET_MS // 4
    life.use([("", 2 * DAY, kept * DAY)])
    load = Load(kind, life)
    for at in range(warm):
        load.day(at)
    said = life.db.retention.simulate(days=ahead).filter(rule="everything")
    check_said(life.db, said, 0)
    for at in range(1, ahead + 1):
        load.day(warm + at - 1)
        check_said(life.db, said, at)


def test_what_was_simulated_of_a_disk_tier_is_what_happens(tmp_path: Path) -> None:
    """By tier and day, samples within 5 %."""
    life = Life(tmp_path)
    life.db.retention.use("memory 2d -> disk 5d -> cold 9d")

    def day(at: int) -> None:
        for i in range(6):
            life.write("plain", f"{i}", np.arange(T0 + at * DAY, T0 + (at + 1) * DAY, 60))
        life.until(T0 + (at + 1) * DAY)
        for _ in range(3):
            life.db.tick()
            life.clock.move(200)

    for at in range(7):
        day(at)
    said = life.db.retention.simulate(days=8).filter(pl.col("rule") == "everything")
    for at in range(1, 9):
        day(6 + at)
        of_day = dict(said.filter(day=at).select("tier", "samples").rows())
        held = {"memory": life.db._native.governed([""], [])[0][1]}
        for name, tier in (("disk", life.db.disk), ("cold", life.db.cold)):
            rows = [tier.catalog.samples(part).height for part in tier.catalog.state.parts]
            held[name] = sum(rows)
        assert held == {name: pytest.approx(samples, rel=0.05) for name, samples in of_day.items()}, at


def test_a_year_is_what_was_simulated_month_by_month():
    """Two rules that share a cold store, of which one is changed: by day samples of each rule in memory, and of both in
    the cold tier with their bytes, within 5 %."""
    life = Life()
    lines = {'{tier="gold"}': "memory 3d -> cold 40d", "": "memory 2d -> cold 15d"}
    life.db.retention.use(lines)
    rng = np.random.default_rng(3)

    def day(at: int) -> None:
        start = T0 + at * DAY
        times = np.arange(start, start + DAY, 300)
        for i in range(6):
            life.db.append({"__name__": "m", "tier": "gold", "pod": f"{i}"}, times, np.round(rng.random(288), 2))
            # Fewer come on weekends, and pods are replaced twice a week.
            part = times[::3] if at % 7 >= 5 else times
            name = {"__name__": "m", "tier": "plain", "pod": f"{i}-{at // 4 if i < 3 else 0}"}
            life.db.append(name, part, np.round(rng.random(len(part)), 2))
        if at % 5 == 2:
            late = start - 5 * DAY + np.arange(0, HOUR, 300) + 7
            life.db.append({"__name__": "m", "tier": "gold", "pod": "0"}, late, np.round(rng.random(12), 2))
        life.until(start + DAY)
        for _ in range(3):
            life.db.tick()
            life.clock.move(200)

    said, asked = pl.DataFrame(), 0
    for at in range(365):
        day(at)
        if asked:
            of_day = said.filter(day=at - asked)
            in_memory = dict(of_day.filter(tier="memory").select("rule", "samples").rows())
            for title, held in zip(
                ('{tier="gold"}', "everything"), life.db._native.governed([*lines], []), strict=False
            ):
                assert in_memory[title] == pytest.approx(held[1], rel=0.05), (title, at)
            parts = life.db.cold.parts()
            cold = of_day.filter(tier="cold").select(pl.col("samples", "bytes").sum())
            for what in ("samples", "bytes"):
                assert cold[what].item() == pytest.approx(parts[what].sum(), rel=0.05), (what, at)
        if at == 200:
            lines = {'{tier="gold"}': "memory 1d -> cold 60d", "": "memory 4d -> cold 20d"}
            life.db.retention.use(lines)
            # What moves at once is in both places for two minutes.
            for _ in range(2):
                life.db.tick()
                life.clock.move(200)
        if at in (60, 200) or (at % 45 == 44 and at > 60):
            said, asked = life.db.retention.simulate(days=60), at
