"""The cold store of one database, as ``db.cold``: what it has, moving to it, and looking after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from metricsdb.clock import Clock
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import Memory, Moved, Mover, Progress, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.lifecycle.cold.parts import DAY_MS
from metricsdb.sizes import SizeLike, size_bytes
from metricsdb.times import DurationLike, Time, duration_ms

__all__ = ["Cold", "Moved", "Upkeep"]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What ``Cold.run`` did. ``compacted``: parts that became fewer or were rewritten; ``swept``: objects deleted."""

    moved: Moved
    expired: int
    compacted: int
    swept: int


class Cold:
    """One cold store: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``file:///dir``, a path, or a store of obstore.

    Credentials come from the environment, as the store's own tools read them, or from ``options``. ``rules`` say which
    samples are to move, and which to leave for good, by now. Raises ``ConfigError``; the store is first asked when
    something is wanted of it.
    """

    def __init__(
        self,
        where: Any,
        memory: Memory,
        *,
        owner: str,
        clock: Clock,
        moving: Callable[[], Sequence[Rule]],
        expiring: Callable[[], Sequence[Rule]],
        time: Callable[[Time], int],
        options: Mapping[str, Any] | None = None,
        bucket: DurationLike = "2h",
        cache_memory: SizeLike = "64MiB",
    ) -> None:
        bucket_ms = duration_ms(bucket, "bucket")
        if bucket_ms <= 0 or DAY_MS % bucket_ms:
            raise ConfigError(f"cold bucket {bucket!r} does not divide a day; give one that does, as 2h")
        self.catalog = Catalog(Objects(where, options), size_bytes(cache_memory, "cache_memory"))
        self.mover = Mover(self.catalog, owner, clock, bucket_ms)
        self._memory, self._moving, self._expiring, self._time = memory, moving, expiring, time

    def __repr__(self) -> str:
        return f"Cold({self.catalog.objects.name!r})"

    def run(self, *, samples_per_second: float | None = None, progress: Progress | None = None) -> Upkeep:
        """Moves what the rules say, lets go of what they let go, compacts, and deletes what nothing needs any more.

        ``samples_per_second`` bounds how fast samples are moved; ``progress(share, moved)`` is called after each
        bucket. Whenever it is stopped, nothing is lost, and the next run goes on. Raises ``ColdStoreError``,
        ``NotDurable``.
        """
        moved = self.mover.move(self._memory, self._moving(), samples_per_second, progress)
        return Upkeep(moved, self.mover.expire(self._expiring()), self.mover.compact(), self.mover.sweep())

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
        return self.mover.move(self._memory, rules, samples_per_second, progress)

    def compact(self, progress: Callable[[float, int], None] | None = None) -> int:
        """Makes few parts of many, and rewrites those of which something was deleted; how many were replaced."""
        return self.mover.compact(progress)

    def parts(self, *, refresh: bool = False) -> pl.DataFrame:
        """What is cold, oldest first: ``key``, ``kind``, ``pinned``, ``start``, ``end``, ``series``, ``samples``,
        ``bytes``.

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
        """By day: ``day``, ``parts``, ``samples``, ``bytes`` (of samples)."""
        day = pl.col("key").str.extract(r"day=([^/]+)").alias("day")
        return self.parts().group_by(day).agg(pl.len().alias("parts"), pl.col("samples", "bytes").sum()).sort("day")


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
