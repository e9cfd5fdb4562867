"""Samples on their way from memory to disk and to the cold store, or past the disk: always those of one dictionary.

`METRICSDB_DISK_LIVES=2000` lives more of them, `METRICSDB_DISK_SEED=7` others.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from metricsdb.lifecycle.cold import move as moving
from metricsdb.lifecycle.cold.catalog import Catalog, select
from metricsdb.lifecycle.cold.memory import StoreMemory
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock
from tests.twins.cold import ListMemory, Rows, cold_rows, hash_of, labels, number, series_frame

LIVES = int(os.environ.get("METRICSDB_DISK_LIVES", "32"))
SEED = int(os.environ.get("METRICSDB_DISK_SEED", "1"))
HOUR, DAY = 3_600_000, 86_400_000
T0 = 20_600 * DAY
GRACE_S = 100
SELECTORS = ('{job="a"}', '{job=~"a|b"}', '{job!=""}')
JOBS = [labels(__name__="m", job=job) for job in "abcd"]


class Life:
    """Three tiers, and all that they should have. ``rows``: what was written and not deleted."""

    def __init__(self, random: Random) -> None:
        self.random, self.clock = random, FakeClock(T0 + 30 * DAY)
        self.memory, self.rows = ListMemory({}), Rows()
        self.stores = Objects("memory:///"), Objects("memory:///")
        self.befores = [24] * len(SELECTORS)
        self.open()

    def open(self) -> None:
        """As a process that starts: of what was under way nothing is known."""
        self.disk, self.cold = (Mover(Catalog(one), "me", self.clock) for one in self.stores)
        self.disk.grace_ms = self.cold.grace_ms = GRACE_S * 1000
        self.stored = StoreMemory(self.disk)

    def look(self) -> None:
        found = cold_rows(self.cold.catalog) | cold_rows(self.disk.catalog) | self.memory.rows
        assert found == self.rows

    def write(self) -> None:
        """Few times and values, so that samples change, and change back."""
        new = {
            (self.random.choice(JOBS), T0 + self.random.randrange(16) * 3 * HOUR): number(
                float(self.random.randrange(3))
            )
            for _ in range(self.random.randrange(1, 6))
        }
        self.memory.rows |= new
        self.rows |= new

    def rules(self, *, through: bool | None = None) -> list[Rule]:
        """Of each selector what is before a time, where its samples go by disk (None: wherever they go)."""
        return [
            Rule(selector, T0 + before * HOUR if through in (None, by_disk) else None)
            for selector, before, by_disk in zip(SELECTORS, self.befores, self.by_disk, strict=True)
        ]

    def to_disk(self) -> None:
        self.disk.move(self.memory, self.rules(through=True))

    def to_cold(self) -> None:
        self.cold.move(self.stored, self.rules(), bucket_ms=DAY)
        self.cold.move(self.memory, self.rules(through=False), behind=self.stored)

    def change_rules(self) -> None:
        if self.random.random() < 0.5:
            self.befores = [self.random.randrange(0, 60) for _ in SELECTORS]
        self.by_disk = [self.random.random() < 0.5 for _ in SELECTORS]

    def wait(self) -> None:
        self.clock.move(self.random.choice([1, GRACE_S + 1]))
        self.disk.drop(self.memory)
        self.cold.drop(self.stored)
        self.cold.drop(self.memory)

    def delete(self) -> None:
        selector = self.random.choice(SELECTORS)
        start = T0 + self.random.randrange(60) * HOUR
        end = start + self.random.randrange(20) * HOUR
        with self.cold.lock, self.disk.lock:
            taken = set(select(series_frame(JOBS), [selector]))
            for rows in (self.memory.rows, self.rows):
                for series, at in list(rows):
                    if hash_of(series) in taken and start <= at <= end:
                        del rows[series, at]
            self.cold.delete([selector], start, end)
            self.disk.delete([selector], start, end)

    def tidy(self) -> None:
        for mover in (self.disk, self.cold):
            mover.compact()
            mover.sweep()


@pytest.mark.parametrize("part", range(4))
def test_no_sample_is_lost_or_stale_on_its_way(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(LIVES // 4):
        random = Random(f"{SEED}/{part}/{i}")
        monkeypatch.setattr(moving, "PART_SAMPLES", random.choice([10, 10**6, 10**6]))
        life = Life(random)
        life.change_rules()
        steps = [
            life.write,
            life.to_disk,
            life.to_cold,
            life.wait,
            life.tidy,
            life.delete,
            life.open,
            life.change_rules,
        ]
        for _ in range(40):
            step = random.choices(steps, [6, 5, 5, 5, 1, 1, 1, 3])[0]
            step()
            life.look()
        # All that is old enough ends where its line ends, once nothing comes any more.
        life.befores = [24 * 3] * len(SELECTORS)
        for _ in range(4):
            life.to_disk()
            life.to_cold()
            life.clock.move(GRACE_S + 1)
            life.wait()
            life.tidy()
            life.look()
        assert life.memory.rows == cold_rows(life.disk.catalog) == {}
        for mover in (life.disk, life.cold):
            assert {one.key for one in mover.catalog.objects.list("") if not one.key.startswith("manifest/")} <= {
                *mover.catalog.state.keys(),
                *(gone.key for gone in mover.catalog.state.gone),
            }
