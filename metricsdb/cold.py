"""A tier outside of memory, as ``db.disk`` and ``db.cold``: what it has, moving to it, and looking after it."""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from metricsdb.clock import Clock
from metricsdb.errors import ColdStoreError, ConfigError
from metricsdb.frames import TIME
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.memory import NativeMemory, NativeRecords, StoreMemory
from metricsdb.lifecycle.cold.move import GONE_GRACE_MS, Levels, Memory, Moved, Mover, Note, Progress, Rule, rules_at
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.lifecycle.cold.thin import Thinned, Used, thin, unused
from metricsdb.lifecycle.retention import Place
from metricsdb.lifecycle.rollups import leaving
from metricsdb.lifecycle.sampling import SampleRule
from metricsdb.sizes import SizeLike, size_bytes
from metricsdb.times import DAY_MS, DurationLike, Time, duration_ms, time_ms

if TYPE_CHECKING:
    from metricsdb.database import Database

__all__ = ["Cold", "Moved", "Source", "Upkeep", "open_tiers"]

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


@dataclass(frozen=True, slots=True)
class Source:
    """What samples, or records of rollups, come from. ``moving`` says which are to move by now, ``bucket_ms`` in what
    pieces (None: the store's own); what ``behind`` has of them is older, and goes first.
    """

    memory: Memory
    moving: Callable[[int], Sequence[Rule]]
    bucket_ms: int | None = None
    behind: Memory | None = None


class Cold:
    """One store: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``file:///dir``, a path, or a store of obstore.

    Credentials come from the environment, as the store's own tools read them, or from ``options``. ``sources`` are
    moved from in this order; ``expiring`` and ``sampling`` say what is to leave for good, and of what a sample is to
    stay, by now; ``levels`` by width when records are to leave for good; ``used`` how many queries read the series of a
    frame of labels. ``tier`` names the counters. Raises ``ConfigError``; the store is first asked when something is
    wanted of it.
    """

    def __init__(
        self,
        where: Any,
        sources: Sequence[Source],
        *,
        owner: str,
        clock: Clock,
        expiring: Callable[[int], Sequence[Rule]],
        time: Callable[[Time], int],
        tier: Place = "cold",
        options: Mapping[str, Any] | None = None,
        bucket: DurationLike = "2h",
        cache_memory: SizeLike = "64MiB",
        grace: DurationLike = 0,
        note: Note | None = None,
        sampling: Callable[[int], Sequence[SampleRule]] | None = None,
        used: Used = unused,
        note_sampled: Callable[[SampleRule, Thinned], None] | None = None,
        levels: Callable[[int], Levels] | None = None,
    ) -> None:
        bucket_ms = duration_ms(bucket, "bucket")
        if bucket_ms <= 0 or DAY_MS % bucket_ms:
            raise ConfigError(f"cold bucket {bucket!r} does not divide a day; give one that does, as 2h")
        self.catalog = Catalog(Objects(where, options), size_bytes(cache_memory, "cache_memory"))
        self.mover = Mover(self.catalog, owner, clock, bucket_ms)
        self.mover.grace_ms = duration_ms(grace, "grace")
        self._sources, self._expiring, self._time, self._clock = tuple(sources), expiring, time, clock
        self._tier, self._levels = tier, levels
        self._note, self._sampling, self._used, self._note_sampled = note, sampling, used, note_sampled
        self.counts = {f"{tier}_{name}": 0 for name in ("moved_samples", "moved_bytes", "runs", "failures")}
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
        try:
            moved = self._move([one.moving(now_ms) for one in self._sources], samples_per_second, progress)
        except ColdStoreError:
            # What a full disk lacks may be what nobody needs any more.
            if self.catalog.objects.directory is not None:
                with suppress(ColdStoreError):
                    self._expire(now_ms)
                    self.mover.sweep()
            raise
        self._count("runs", 1)
        expired = self._expire(now_ms) if expires else 0
        sampled = 0
        if expires and self._sampling is not None:
            sampled = thin(self.mover, self._sampling(now_ms), self._used, self._note_sampled)
        return Upkeep(moved, expired, sampled, self.mover.compact(), self.mover.sweep())

    def _expire(self, now_ms: int) -> int:
        levels = self._levels(now_ms) if self._levels is not None else {}
        return self.mover.expire(self._expiring(now_ms), levels)

    def _count(self, name: str, more: int) -> None:
        self.counts[f"{self._tier}_{name}"] += more

    def _noted(self, rule: Rule, moved: Moved) -> None:
        # Here, since a run that fails has moved what was published before.
        self._count("moved_samples", moved.samples)
        self._count("moved_bytes", moved.bytes)
        if self._note is not None:
            self._note(rule, moved)

    def _move(
        self, rules: Sequence[Sequence[Rule]], samples_per_second: float | None, progress: Progress | None
    ) -> Moved:
        """By source what its rules say. One that cannot be read holds up no other."""
        total, away = Moved(), None

        def told(at: int, share: float, moved: Moved) -> None:
            if progress is not None and share < 1:
                progress((at + share) / len(self._sources), total + moved)

        for at, (one, some) in enumerate(zip(self._sources, rules, strict=True)):
            try:
                moved = self.mover.move(
                    one.memory, some, samples_per_second, partial(told, at), self._noted, one.bucket_ms, one.behind
                )
            except ColdStoreError as error:
                if error.store == self.catalog.objects.name:
                    raise
                away = error
                continue
            total += moved
        if away is not None:
            raise away
        if progress is not None:
            progress(1.0, total)
        return total

    def step(self, now_ms: int) -> Moved:
        """What is due: a run, now and then, and between them what memory may let go of.

        A store that is away is told in the log, and asked again a minute later.
        """
        try:
            if now_ms < self._due_ms:
                return sum((self.mover.drop(one.memory) for one in self._sources), Moved())
            done = self._run(now_ms, now_ms >= self._expire_ms).moved
        except ColdStoreError as error:
            self._count("failures", 1)
            self._due_ms = now_ms + RETRY_MS
            log.warning("%s", error)
            return Moved()
        if now_ms >= self._expire_ms:
            self._expire_ms = now_ms + EXPIRE_EVERY_MS
        # What no part needs any more is deleted once readers are through.
        self._due_ms = now_ms + (GONE_GRACE_MS if self.catalog.state.gone else RUN_EVERY_MS)
        if done.samples:
            log.info("%s: %d samples moved there, %d bytes", self._tier, done.samples, done.bytes)
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
        rules = [Rule(selector, self._time(before))]
        return self._move([rules] * len(self._sources), samples_per_second, progress)

    def compact(self, progress: Callable[[float, int], None] | None = None) -> int:
        """Makes few parts of many, and rewrites those of which something was deleted; how many were replaced."""
        return self.mover.compact(progress)

    def parts(self, *, refresh: bool = False) -> pl.DataFrame:
        """What is there, oldest first: ``key``, ``kind``, ``pinned``, ``start``, ``end``, ``series``, ``samples`` (of
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


def open_tiers(db: Database, disk: str | Path | None, cold: Any) -> tuple[Cold | None, Cold | None]:
    """The disk tier and the cold store of a database. Raises ``ConfigError``."""
    if isinstance(disk, str) and "://" in disk:
        raise ConfigError(f"disk {disk!r} is no directory; give the path of one, and an object store as cold")
    # The same after a crash, so that what was left half done is known as one's own.
    owner = secrets.token_hex(6)
    if db._home is not None:
        owner = hashlib.sha256(f"{socket.gethostname()}:{db._home.path}".encode()).hexdigest()[:12]
    samples, records = NativeMemory(lambda: db._native), NativeRecords(lambda: db._native)
    # A few records stand for many samples, and a part has a day of what was on disk for long: more of them would be
    # tables of series, mostly, or be read as often.
    near = None if disk is None else _opened(db, "disk", Path(disk), owner, [
        Source(samples, _moving(db, "memory", "disk")),
        Source(records, _moving(db, "memory", "disk"), DAY_MS),
    ])  # fmt: skip
    if cold is None:
        return near, None
    sources = [
        Source(samples, _moving(db, "memory", "cold")),
        Source(records, _moving(db, "memory", "cold"), DAY_MS),
    ]
    if near is not None:
        stored = [StoreMemory(near.mover), StoreMemory(near.mover, records=True)]
        sources = [
            *(Source(one, _moving(db, "disk", "cold"), DAY_MS) for one in stored),
            *(replace(source, behind=one) for source, one in zip(sources, stored, strict=True)),
        ]
    far = _opened(db, "cold", cold, owner, sources)
    where = far.catalog.objects.directory
    if near is not None and where is not None and where == near.catalog.objects.directory:
        raise ConfigError(f"disk and cold are both {str(where)!r}; give each a directory of its own")
    return near, far


def _moving(db: Database, of: Place, to: Place) -> Callable[[int], list[Rule]]:
    return lambda now_ms: rules_at(db._upkeep.aging.moving(now_ms, of, to))


def _opened(db: Database, tier: Place, where: Any, owner: str, sources: Sequence[Source]) -> Cold:
    aging, policies = db._upkeep.aging, db._upkeep.roller
    return Cold(
        where, sources, owner=owner, clock=db._clock, tier=tier,
        expiring=lambda now_ms: rules_at(aging.expiring(now_ms)),
        levels=lambda now_ms: {of: rules_at(r) for of, r in leaving(policies.policies, now_ms).items()},
        time=lambda at: time_ms(at, db.now_ms()), grace=db._timeout_ms / 1000,
        note=lambda rule, moved: aging.note_moved(db.now_ms(), tier, rule.selector, rule.before_ms, moved),
        sampling=aging.sampling if tier == "cold" else None, used=lambda labels: db.retention.used(labels),
        note_sampled=lambda rule, gone: aging.note_sampled(db.now_ms(), rule, gone, gone.series),
    )  # fmt: skip
