"""The cold store of one database, as ``db.cold``: what it has, moving to it, and looking after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from metricsdb.clock import Clock
from metricsdb.errors import ColdStoreError, ConfigError
from metricsdb.frames import TIME
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import GONE_GRACE_MS, Levels, Memory, Moved, Mover, Note, Progress, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.lifecycle.cold.thin import Thinned, Used, thin, unused
from metricsdb.lifecycle.sampling import SampleRule
from metricsdb.sizes import SizeLike, size_bytes
from metricsdb.times import DAY_MS, DurationLike, Time, duration_ms

__all__ = ["Cold", "Moved", "Upkeep"]

log = logging.getLogger("metricsdb.cold")

# Whole buckets move, so that looking more often would seldom find one.
RUN_EVERY_MS, RETRY_MS = 900_000, 60_000
# A pass over parts of which rules let go of something may publish a manifest.
EXPIRE_EVERY_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What ``Cold.run`` did. ``sampled``: days of which a sample is left; ``compacted``: parts that became fewer or
    were rewritten; ``swept``: objects deleted."""

    moved: Moved
    expired: int
    sampled: int
    compacted: int
    swept: int


class Cold:
    """One cold store: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``file:///dir``, a path, or a store of obstore.

    Credentials come from the environment, as the store's own tools read them, or from ``options``. ``rules`` say which
    samples are to move, which to leave for good, and of which a sample is to stay, by now; ``used`` how many queries
    read the series of a frame of labels. ``records`` of rollups move day by day beside the samples; ``levels`` say by
    width when they are to leave for good. Raises ``ConfigError``; the store is first asked when something is wanted of
    it.
    """

    def __init__(
        self,
        where: Any,
        memory: Memory,
        *,
        owner: str,
        clock: Clock,
        moving: Callable[[int], Sequence[Rule]],
        expiring: Callable[[int], Sequence[Rule]],
        time: Callable[[Time], int],
        options: Mapping[str, Any] | None = None,
        bucket: DurationLike = "2h",
        cache_memory: SizeLike = "64MiB",
        grace: DurationLike = 0,
        note: Note | None = None,
        sampling: Callable[[int], Sequence[SampleRule]] | None = None,
        used: Used = unused,
        note_sampled: Callable[[SampleRule, Thinned], None] | None = None,
        records: Memory | None = None,
        levels: Callable[[int], Levels] | None = None,
    ) -> None:
        bucket_ms = duration_ms(bucket, "bucket")
        if bucket_ms <= 0 or DAY_MS % bucket_ms:
            raise ConfigError(f"cold bucket {bucket!r} does not divide a day; give one that does, as 2h")
        self.catalog = Catalog(Objects(where, options), size_bytes(cache_memory, "cache_memory"))
        self.mover = Mover(self.catalog, owner, clock, bucket_ms)
        self.mover.grace_ms = duration_ms(grace, "grace")
        self._memory, self._moving, self._expiring, self._time, self._clock = memory, moving, expiring, time, clock
        self._records, self._levels = records, levels
        self._note, self._sampling, self._used, self._note_sampled = note, sampling, used, note_sampled
        self.counts = {"cold_moved_samples": 0, "cold_moved_bytes": 0, "cold_runs": 0, "cold_failures": 0}
        self._due_ms = self._expire_ms = -(2**63)

    def __repr__(self) -> str:
        return f"Cold({self.catalog.objects.name!r})"

    def run(self, *, samples_per_second: float | None = None, progress: Progress | None = None) -> Upkeep:
        """Moves what the rules say, lets go of what they let go, compacts, and deletes what nothing needs any more.

        ``samples_per_second`` bounds how fast samples are moved; ``progress(share, moved)`` is called after each
        bucket. Memory keeps what was moved until queries that began before that are sure to be over, and lets go of it
        in the next run. Whenever it is stopped, nothing is lost, and the next run goes on. Raises ``ColdStoreError``,
        ``NotDurable``.
        """
        return self._run(self._clock.now_ms(), True, samples_per_second, progress)

    def _run(
        self, now_ms: int, expires: bool, samples_per_second: float | None = None, progress: Progress | None = None
    ) -> Upkeep:
        moved = self._move(self._moving(now_ms), samples_per_second, progress)
        self.counts["cold_runs"] += 1
        levels = self._levels(now_ms) if self._levels is not None else {}
        expired = self.mover.expire(self._expiring(now_ms), levels) if expires else 0
        sampled = 0
        if expires and self._sampling is not None:
            sampled = thin(self.mover, self._sampling(now_ms), self._used, self._note_sampled)
        return Upkeep(moved, expired, sampled, self.mover.compact(), self.mover.sweep())

    def _move(self, rules: Sequence[Rule], samples_per_second: float | None, progress: Progress | None) -> Moved:
        moved = self.mover.move(self._memory, rules, samples_per_second, progress, self._note)
        if self._records is not None:
            # A few records stand for many samples: smaller parts would be tables of series, mostly.
            moved += self.mover.move(self._records, rules, samples_per_second, None, self._note, DAY_MS)
        self.counts["cold_moved_samples"] += moved.samples
        self.counts["cold_moved_bytes"] += moved.bytes
        return moved

    def step(self, now_ms: int) -> Moved:
        """What is due: a run, now and then, and between them what memory may let go of.

        A store that is away is told in the log, and asked again a minute later.
        """
        if now_ms < self._due_ms:
            dropped = self.mover.drop(self._memory)
            return dropped if self._records is None else dropped + self.mover.drop(self._records)
        try:
            done = self._run(now_ms, now_ms >= self._expire_ms).moved
        except ColdStoreError as error:
            self.counts["cold_failures"] += 1
            self._due_ms = now_ms + RETRY_MS
            log.warning("%s", error)
            return Moved()
        if now_ms >= self._expire_ms:
            self._expire_ms = now_ms + EXPIRE_EVERY_MS
        # What no part needs any more is deleted once readers are through.
        self._due_ms = now_ms + (GONE_GRACE_MS if self.catalog.state.gone else RUN_EVERY_MS)
        if done.samples:
            log.info("%d samples went cold, %d bytes", done.samples, done.bytes)
        return done

    def hurry(self) -> None:
        """Makes the next ``step`` a whole run."""
        self._due_ms = self._expire_ms = -(2**63)

    def move(
        self,
        selector: str,
        before: Time,
        *,
        samples_per_second: float | None = None,
        progress: Progress | None = None,
    ) -> Moved:
        """Moves whole buckets of a selector's samples before a time, whatever the rules say; see ``run``."""
        return self._move([Rule(selector, self._time(before))], samples_per_second, progress)

    def compact(self, progress: Callable[[float, int], None] | None = None) -> int:
        """Makes few parts of many, and rewrites those of which something was deleted; how many were replaced."""
        return self.mover.compact(progress)

    def parts(self, *, refresh: bool = False) -> pl.DataFrame:
        """What is cold, oldest first: ``key``, ``kind``, ``pinned``, ``start``, ``end``, ``series``, ``samples`` (of
        rollups: records), ``bytes``.

        ``bytes`` are those of the object of samples; ``series_bytes`` those of its table of series, which several may
        share. ``refresh`` asks the store for what other processes published.
        """
        state = self.catalog.refresh() if refresh else self.catalog.state
        rows = [
            (
                p.key,
                p.kind,
                p.pinned,
                p.start_ms,
                p.end_ms,
                p.series,
                p.samples,
                p.bytes,
                p.series_bytes,
                len(p.tombstones),
            )
            for p in sorted(state.parts, key=lambda part: (part.start_ms, part.order))
        ]
        frame = pl.DataFrame(rows, schema=_PARTS, orient="row")
        return frame.with_columns(pl.col("start", "end").cast(TIME))

    def days(self) -> pl.DataFrame:
        """By day: ``day``, ``parts``, ``samples``, ``records`` of rollups, ``bytes`` of both."""
        day = pl.col("key").str.extract(r"day=([^/]+)").alias("day")
        rolled = pl.col("kind") == "rollups"
        counts = [pl.col("samples").filter(of).sum().alias(n) for n, of in (("samples", ~rolled), ("records", rolled))]
        return self.parts().group_by(day).agg(pl.len().alias("parts"), *counts, pl.col("bytes").sum()).sort("day")


_PARTS = {
    "key": pl.String,
    "kind": pl.String,
    "pinned": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "series": pl.UInt64,
    "samples": pl.UInt64,
    "bytes": pl.UInt64,
    "series_bytes": pl.UInt64,
    "deletions": pl.UInt32,
}
