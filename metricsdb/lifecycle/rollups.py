"""Rollup policies: which series become records of which widths, how long each is kept, and what that would cost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError, ParseError
from metricsdb.times import DurationLike, duration_ms, duration_text

if TYPE_CHECKING:
    from metricsdb._native import RollupRule

__all__ = [
    "DELAY_MS",
    "NOTHING_ROLLED",
    "Anomalies",
    "Rolled",
    "Roller",
    "RollupEstimate",
    "RollupLevel",
    "RollupPolicy",
    "at_level",
    "leaving",
]

Kind = Literal["counter", "gauge", "states"]

# Samples of one native call: some milliseconds of work, after which the budget is looked at.
STEP_SAMPLES = 1_000_000
# Samples on which an estimate is tried.
TRIED_SAMPLES = 500_000
# Samples younger than this wait: late ones of the last minutes are usual.
DELAY_MS = 60_000
# A pass over all series that was finished is not repeated before this time is over.
PASS_INTERVAL_MS = 15_000
# Buckets of the finest level for which a series waits: their block is written anew each time.
BATCH = 64
_SHARDS = 256
# Standard deviations from which on a sample strays.
THRESHOLD = 5.0

_KEPT = r"(?:quantiles|states|[0-9]+\s+buckets)"
_BESIDE = re.compile(rf"\s+with\s+({_KEPT}(?:(?:\s*,\s*|\s+and\s+){_KEPT})*)\s*$", re.IGNORECASE)
_BUCKETS = re.compile(r"([0-9]+)\s+buckets", re.IGNORECASE)
_KEEP = re.compile(r"\s+keep\s+([0-9.]+)\s*%(?:\s+above\s+([0-9.]+))?\s*$", re.IGNORECASE)
_PART = re.compile(r"^(raw|[0-9][0-9a-z.]*)(?:\s+(?:for\s+)?([0-9][0-9a-z.]*))?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RollupLevel:
    """Records of one width, and how long they stay (None: for good)."""

    every_ms: int
    keep_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Anomalies:
    """Which samples survive at their own time and value: those that stray, at most ``share`` of all.

    A sample strays that is farther than ``threshold`` standard deviations of the noise around it from the median of the
    61 samples around it (of a counter: of its increases); ``neighbours`` on either side survive with it.
    """

    share: float = 0.01
    threshold: float = THRESHOLD
    neighbours: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not self.threshold > 0 or self.neighbours < 0:
            raise ConfigError(f"{self}: share must be above 0 and at most 1, threshold above 0, neighbours 0 or more")

    def __str__(self) -> str:
        return f"keep {self.share * 100:g}% above {self.threshold:g}"


@dataclass(frozen=True, slots=True)
class RollupPolicy:
    """The levels of the series that a selector takes. ``parse`` reads the line that people write.

    ``raw_ms``: how long samples stay once records stand for them (None: as long as others). ``kind``: None goes by
    declared type, name (``_total``, ``_sum``, ``_count``, ``_bucket``), else by behaviour: a counter never falls,
    states are eight whole numbers at most.
    """

    selector: str
    levels: tuple[RollupLevel, ...]
    raw_ms: int | None = None
    kind: Kind | None = None
    anomalies: Anomalies | None = None
    quantiles: bool = False
    """Whether gauges keep a sketch in each record: ``quantile_over_time`` within one percent."""
    states: bool = False
    """Whether records of gauges say how often and for how long each value was seen, where a bucket has 16 at most;
    those of series whose kind is ``states`` do anyhow."""
    buckets: int | None = None
    """How many buckets the native histograms of one record may have together; above it their schema is lowered until
    they fit, and queries say by how much quantiles may be off. None: any number, and nothing is lowered."""

    def __post_init__(self) -> None:
        if self.buckets is not None and not 1 <= self.buckets < 2**31:
            raise ConfigError(
                f"rollup of {self.selector!r}: a record with {self.buckets} buckets can't be; give 1 or more, "
                "such as 160"
            )

    @classmethod
    def parse(cls, selector: str, text: str, kind: Kind | None = None) -> RollupPolicy:
        """From a line such as ``"raw 6h -> 1m 7d -> 10m 90d -> 1h"``; ``"none"`` keeps series without records.

        Each part is a width and how long its records stay; without a duration they stay for good. A line that ends with
        ``keep 1%``, or ``keep 1% above 5``, keeps samples that stray, too (``Anomalies``), and one that ends with
        ``with quantiles``, ``with states``, ``with 160 buckets``, or some of these (``with quantiles and states``)
        sketches or states of gauges, or native histograms of so many buckets a record. Widths rise, each a multiple of
        the one before. What stays shorter than the next width needs is refused.

        Raises ``ConfigError``.
        """
        raw: int | None = None
        levels: list[RollupLevel] = []
        anomalies = None
        beside: list[str] = []
        buckets = None
        if found := _BESIDE.search(text):
            beside = found[1].lower().replace(",", " ").split()
            most = _BUCKETS.search(found[1])
            buckets = None if most is None else int(most[1])
            text = text[: found.start()]
        if keeps := _KEEP.search(text):
            anomalies = Anomalies(float(keeps[1]) / 100, float(keeps[2] or THRESHOLD))
            text = text[: keeps.start()]
        parts = [part.strip() for part in re.split(r"->|,", text)]
        if text.strip().lower() == "none":
            return cls(selector, (), None, kind)
        for at, part in enumerate(parts):
            level = _PART.match(part)
            if not level:
                raise ConfigError(
                    f"rollup {text!r}: {part!r} is no level; write a width and how long it stays, as in "
                    "'raw 6h -> 1m 7d -> 1h'"
                )
            keep = None if level[2] is None else duration_ms(level[2], f"rollup {text!r}: {part!r}")
            if level[1].lower() == "raw":
                if at > 0:
                    raise ConfigError(f"rollup {text!r}: raw samples come first")
                raw = keep
            else:
                levels.append(RollupLevel(duration_ms(level[1], f"rollup {text!r}: {part!r}"), keep))
        policy = cls(
            selector,
            tuple(levels),
            raw,
            kind,
            anomalies,
            quantiles="quantiles" in beside,
            states="states" in beside,
            buckets=buckets,
        )
        policy.check(text)
        return policy

    def check(self, text: str = "") -> None:
        """Raises ``ConfigError`` where a level can't be made of the one below it."""
        text = text or str(self)
        if not self.levels:
            raise ConfigError(f"rollup {text!r} has no level; add one, as in '1m 7d', or write 'none'")
        below, keep, name = 1, self.raw_ms, "raw samples"
        for level in self.levels:
            width = duration_text(level.every_ms)
            if level.every_ms < 1000 or level.every_ms % below or level.every_ms == below:
                raise ConfigError(
                    f"rollup {text!r}: {width} must be a second at least and a multiple of the level before"
                )
            if keep is not None and keep < 2 * level.every_ms:
                raise ConfigError(
                    f"rollup {text!r}: {name} stay for {duration_text(keep)}, less than two buckets of {width}; "
                    "keep them longer"
                )
            if keep is not None and level.keep_ms is not None and level.keep_ms <= keep:
                raise ConfigError(f"rollup {text!r}: records of {width} must stay longer than {name}")
            below, keep, name = level.every_ms, level.keep_ms, f"records of {width}"

    def __str__(self) -> str:
        if not self.levels:
            return "none"
        parts = [] if self.raw_ms is None else [f"raw {duration_text(self.raw_ms)}"]
        for level in self.levels:
            keep = "" if level.keep_ms is None else f" {duration_text(level.keep_ms)}"
            parts.append(duration_text(level.every_ms) + keep)
        words = [word for word in ("quantiles", "states") if getattr(self, word)]
        words += [] if self.buckets is None else [f"{self.buckets} buckets"]
        beside = " and ".join(words)
        ends = [f" {self.anomalies}" if self.anomalies else "", f" with {beside}" if beside else ""]
        return " -> ".join(parts) + "".join(ends)

    @property
    def native(self) -> RollupRule:
        levels = [(level.every_ms, level.keep_ms) for level in self.levels]
        strays = self.anomalies
        kept = None if strays is None else (strays.share, strays.threshold, strays.neighbours)
        return self.selector, self.raw_ms, levels, self.kind, kept, (self.quantiles, self.states, self.buckets)


@dataclass(frozen=True, slots=True)
class Rolled:
    """What became records. ``remade``: buckets that late samples came to; ``kept``: samples that survive;
    ``raw_*``: samples that records stand for now."""

    series: int = 0
    samples: int = 0
    records: int = 0
    expired_records: int = 0
    remade: int = 0
    kept: int = 0
    raw_samples: int = 0
    raw_bytes: int = 0

    def __add__(self, other: Rolled) -> Rolled:
        return Rolled(
            self.series + other.series,
            self.samples + other.samples,
            self.records + other.records,
            self.expired_records + other.expired_records,
            self.remade + other.remade,
            self.kept + other.kept,
            self.raw_samples + other.raw_samples,
            self.raw_bytes + other.raw_bytes,
        )


NOTHING_ROLLED = Rolled()


def at_level(native: NativeDatabase, level: DurationLike | None) -> NativeDatabase:
    """The database for queries that want records of this width, though finer ones or samples are there; None: any.

    Raises ``ConfigError``, with the levels that there are, where no series has such records.
    """
    if level is None:
        return native
    found = native.at_level(duration_ms(level, "level"))
    if found is None:
        levels = ", ".join(duration_text(every) for every, *_ in native.rollup_levels())
        there = (
            f"levels that there are: {levels}" if levels else "there are none; db.rollups.run() makes those of policies"
        )
        raise ConfigError(f"level {level!r}: no series has records of this width; {there}")
    return found


def leaving(policies: Sequence[RollupPolicy], now_ms: int) -> dict[int, list[tuple[str, int | None]]]:
    """By width of records the selectors of all policies in order, and the time before which records go (None: they
    stay): whole buckets of the next level, as in memory. Records of a width that a policy does not name go as its
    last."""

    def before(policy: RollupPolicy, every_ms: int) -> int | None:
        named = [at for at, level in enumerate(policy.levels) if level.every_ms == every_ms]
        at = named[0] if named else len(policy.levels) - 1
        kept = policy.levels[at].keep_ms if policy.levels else None
        wider = policy.levels[at + 1].every_ms if policy.levels[at + 1 :] else every_ms
        return None if kept is None else (now_ms - kept) // wider * wider

    widths = {level.every_ms for policy in policies for level in policy.levels}
    return {every: [(policy.selector, before(policy, every)) for policy in policies] for every in sorted(widths)}


@dataclass(frozen=True, slots=True)
class RollupEstimate:
    """What a pass over all series would do.

    ``series`` and ``samples`` are counted. ``records``, the ``bytes`` that these take and ``seconds`` of one core are
    those of ``tried`` samples, in proportion.
    """

    series: int
    samples: int
    records: int
    bytes: int
    seconds: float
    tried: int


@dataclass(slots=True)
class Roller:
    """Keeps the policies and makes passes, step by step: called by a tick, which owns the time."""

    delay_ms: int = DELAY_MS
    policies: tuple[RollupPolicy, ...] = ()
    done: Rolled = field(default_factory=Rolled)
    _shard: int = 0
    _rest_until_ms: int = -(2**63)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pause: threading.Event = field(default_factory=threading.Event)

    def use(self, policies: Iterable[RollupPolicy]) -> None:
        """Replaces all policies. Raises ``ParseError`` (selector), ``ConfigError``; nothing is changed then."""
        new = tuple(policies)
        for policy in new:
            if policy.levels:
                policy.check()
            try:
                NativeDatabase.check_rollup([policy.native])
            except ParseError as error:
                raise ConfigError(f"rollup: selector {policy.selector!r}: {error}") from error
        # A pass under way goes on with them; the next one begins at once.
        self.policies, self._rest_until_ms = new, -(2**63)

    def step(self, native: NativeDatabase, now_ms: int, seconds: float, clock: Callable[[], float]) -> Rolled:
        """What is due, for so many seconds at most; one native call at least. Nothing beside a pass of ``all``."""
        total, started = Rolled(), clock()
        if not self.policies or now_ms < self._rest_until_ms or not self._lock.acquire(blocking=False):
            return total
        try:
            while True:
                total += self._call(native, (now_ms, self.delay_ms, BATCH))
                if self._shard >= _SHARDS:
                    self._shard, self._rest_until_ms = 0, now_ms + PASS_INTERVAL_MS
                    return total
                if clock() - started >= seconds:
                    return total
        finally:
            self._lock.release()

    def all(
        self,
        native: NativeDatabase,
        now_ms: int,
        clock: Callable[[], float],
        samples_per_second: float | None = None,
        progress: Progress | None = None,
    ) -> Rolled:
        """One whole pass, however little is due of a series, and what it came to."""
        total = Rolled()
        with self._lock:
            self._shard = 0
            while self._shard < _SHARDS:
                begun = clock()
                step = self._call(native, (now_ms, 0, 1))
                total += step
                if progress is not None:
                    progress(self._shard / _SHARDS, total)
                if samples_per_second:
                    self._pause.wait(max(0.0, step.samples / samples_per_second - (clock() - begun)))
            self._shard = 0
        return total

    def estimate(self, native: NativeDatabase, now_ms: int, clock: Callable[[], float]) -> RollupEstimate:
        """What ``all`` would do now, tried on a part of the series that has some ``TRIED_SAMPLES``; changes nothing."""
        rules = [policy.native for policy in self.policies]
        series, samples, *_ = native.roll_estimate(rules, now_ms, 0)
        nth = max(1, min(series, -(-samples // TRIED_SAMPLES)))
        begun = clock()
        _, _, _, tried, records, size = native.roll_estimate(rules, now_ms, nth)
        seconds = clock() - begun
        scale = samples / tried if tried else 0.0
        return RollupEstimate(series, samples, round(records * scale), round(size * scale), seconds * scale, tried)

    def _call(self, native: NativeDatabase, pass_: tuple[int, int, int]) -> Rolled:
        rules = [policy.native for policy in self.policies]
        self._shard, *counts = native.roll(rules, pass_, self._shard, STEP_SAMPLES)
        step = Rolled(*counts)
        self.done += step
        return step


Progress = Callable[[float, Rolled], None]
