"""Room in memory: what the upkeep does when the store holds more than its soft limit."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError
from metricsdb.heap import return_freed_memory
from metricsdb.lifecycle.retention import Aging
from metricsdb.sizes import SizeLike, size_bytes, size_text
from metricsdb.times import DurationLike, duration_ms

__all__ = ["Evict", "Freed", "MemoryPolicy", "Relief"]

log = logging.getLogger("metricsdb.memory")

Evict = Literal["oldest", "never"]

# Below this an empty database and its index would not fit.
LIMIT_MIN = 4 << 20
# Eviction goes on until the store holds this share of the soft limit, so that not every tick evicts.
GOAL = 0.95
# Freed pages go back to the system when they are this part of the limit: each time stops whoever allocates.
TRIM_PART = 64
# Or after so long: queries free memory too, and nobody says how much of it stays with the allocator.
TRIM_EVERY_MS = 10_000


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """How much a database may hold, and what leaves when it is too much."""

    limit: int | None = None
    soft: int = 0
    evict: Evict = "oldest"
    keep_ms: int = 600_000

    @classmethod
    def of(
        cls,
        limit: SizeLike | None,
        soft: float,
        evict: Evict,
        keep: DurationLike,
    ) -> MemoryPolicy:
        """From what a person gave. Raises ``ConfigError``."""
        if not 0 < soft <= 1:
            raise ConfigError(f"memory_soft {soft!r} must be a share of the limit, above 0 and at most 1")
        if evict not in get_args(Evict):
            raise ConfigError(f"evict {evict!r} is not known; give oldest or never")
        keep_ms = duration_ms(keep, "evict_keep")
        if keep_ms < 0:
            raise ConfigError("evict_keep must not be negative")
        size = None if limit is None else size_bytes(limit, "memory_limit")
        if size is not None and size < LIMIT_MIN:
            raise ConfigError(f"memory_limit {limit!r} is below {size_text(LIMIT_MIN)}, which an empty database needs")
        return cls(size, int((size or 0) * soft), evict, keep_ms)

    @property
    def native(self) -> tuple[int, int] | None:
        return None if self.limit is None else (self.limit, self.soft)

    def query_memory(self, asked: int) -> int:
        """What one query may hold: not more than a quarter of the limit."""
        return asked if self.limit is None else min(asked, self.limit // 4)

    def cache_memory(self, asked: int) -> int:
        """What answers that are kept may hold: not more than an eighth of the limit."""
        return asked if self.limit is None else min(asked, self.limit // 8)


@dataclass(slots=True)
class Freed:
    """What left memory since the database was made."""

    evictions: int = 0
    evicted_samples: int = 0
    evicted_series: int = 0
    evicted_bytes: int = 0
    expired_samples: int = 0
    expired_series: int = 0
    dropped_answers_bytes: int = 0


@dataclass(slots=True)
class Relief:
    """Makes room, step by step: called by a tick, which owns the time."""

    policy: MemoryPolicy
    freed: Freed = field(default_factory=Freed)
    _before: int = -(2**63)
    _untrimmed: int = 0
    _trim_at: int = -(2**63)

    def counts(self) -> dict[str, int]:
        return asdict(self.freed)

    def is_short(self, native: NativeDatabase) -> bool:
        """Measures, and says whether the store holds more than the soft limit.

        Where all together do, the answers that are kept are forgotten first.
        """
        if self.policy.limit is None:
            return False
        stored = native.measure()
        if sum(native.memory_shares().values()) > self.policy.soft:
            dropped = native.forget_answers()
            self.freed.dropped_answers_bytes += dropped
            self._untrimmed += dropped
        return stored > self.policy.soft

    def give_back(self, now_ms: int, freed: int = 0) -> None:
        """Returns pages to the system once so much was freed, or so much time is over, that it is worth it."""
        if self.policy.limit is None:
            return
        self._untrimmed += freed
        if self._untrimmed > self.policy.limit // TRIM_PART or now_ms >= self._trim_at:
            self._untrimmed, self._trim_at = 0, now_ms + TRIM_EVERY_MS
            return_freed_memory()

    def evict(self, native: NativeDatabase, aging: Aging, now_ms: int) -> tuple[int, int, bool]:
        """One step: samples and bytes that left, and whether that is all that may go."""
        if self.policy.evict == "never":
            return 0, 0, True
        goal, keep_from = int(self.policy.soft * GOAL), now_ms - self.policy.keep_ms
        if aging.has_classes:
            samples, series, size, finished = aging.evict(native, goal, now_ms, keep_from)
        else:
            (samples, _, series, size), self._before, finished = native.evict(goal, self._before, keep_from)
        if samples or series:
            freed = self.freed
            freed.evictions += 1
            freed.evicted_samples += samples
            freed.evicted_series += series
            freed.evicted_bytes += size
            log.warning(
                "memory limit %s: the %d oldest samples left, %d series with them; %d so far",
                size_text(self.policy.limit or 0), samples, series, freed.evicted_samples,
            )  # fmt: skip
        if finished:
            self._before = -(2**63)
        return samples, size, finished
