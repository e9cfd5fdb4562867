"""What a retention policy comes to in days ahead, from how the store grew: `docs/retention.md` has the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError
from metricsdb.lifecycle.retention import Place, RetentionRule
from metricsdb.times import DAY_MS

__all__ = ["COLD_BYTES", "INDEX", "LOOK_DAYS", "SILENT_MS", "Growth", "HeldCold", "forecast", "growth"]

# Days back that samples are counted, and those whose mean is what a day brings.
HISTORY_DAYS, RECENT_DAYS = 400, 7
# Those that line and rhythm are read off.
LOOK_DAYS = 28
# Fewest days of a line, days of a rhythm, and the share of differences that either must explain.
LINE_DAYS_MIN, RHYTHM_DAYS, FIT = 5, range(2, 15), 0.9
# Differences that are a smaller share than this of the whole are none.
_ROUNDING = 1e-6
# A series that was silent for less may go on.
SILENT_MS = 3_600_000
# Bytes of a sample in a cold store that has none yet to be measured (node capture, benchmarks/cold.py).
COLD_BYTES = 0.6
# What series share by their number; buffers, free pages and answers are none of theirs.
INDEX = {
    "symbols", "raw label hashes", "values", "posting lists", "posting bitmaps", "sorted values", "all series",
    "table of labels",
}  # fmt: skip
# What they take with the first series.
BARE_BYTES = 8_700
_MONTH_DAYS = 30.4375
_GIB = 2**30
_SCHEMA = {
    "day": pl.Int32,
    "rule": pl.String,
    "tier": pl.String,
    "samples": pl.Float64,
    "series": pl.Float64,
    "bytes": pl.Float64,
    "cost": pl.Float64,
}

Floats = npt.NDArray[np.float64]
Sums = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Growth:
    """What the series of one rule hold in memory. Arrays go back day by day, the last 24 hours first."""

    rule: str
    samples: Floats
    age_days: float
    """Of the oldest sample."""
    lives: pl.DataFrame
    """``first`` and ``last`` sample (ms) of each series, wherever they are; the last of those that are alive is now."""
    sample_bytes: float
    series_bytes: float
    index_bytes: float
    """The rule's share of what series have in common, of which ``bare_bytes`` are there without a series, too."""
    bare_bytes: float


@dataclass(frozen=True, slots=True)
class HeldCold:
    """What is outside of memory now: samples by rule and days back, and bytes of one (None: there are none to measure);
    and bytes of records of rollups by days back. ``bucket_ms``: samples go, and leave, in buckets of that width."""

    samples: Mapping[str, Floats] = field(default_factory=dict)
    sample_bytes: float | None = None
    rolled: Floats = field(default_factory=lambda: np.zeros(HISTORY_DAYS))
    bucket_ms: int = 1


def growth(native: NativeDatabase, rules: Sequence[RetentionRule], lives: pl.DataFrame, now_ms: int) -> list[Growth]:
    """What the series of each rule, and behind these those of none, brought so far.

    ``lives``: a row a series with its ``rule`` (of none: their number), and ms of its ``first`` and ``last`` sample
    anywhere, which is now of those that are alive.
    """
    stats = native.stats()
    held = stats["samples"] + stats["histogram_samples"]
    days = min(max((now_ms - stats["first_ms"]) // DAY_MS + 1, 1), HISTORY_DAYS) if held else 1
    edges = [now_ms - DAY_MS * back for back in range(days, -1, -1)]
    rows = native.governed([rule.selector for rule in rules], edges)
    common = sum(size for part, size, _ in native.memory() if part in INDEX)
    total = max(sum(row[0] for row in rows), 1)
    found = []
    titles = [*(rule.title for rule in rules), ""]
    for at, (title, row) in enumerate(zip(titles, rows, strict=True)):
        series, samples, sample_bytes, size, oldest, _, intervals = row
        counts = np.array(intervals, dtype=np.float64)[::-1, 0]
        # What is older than the history belongs to the day at its end.
        counts[-1] += max(samples - counts.sum(), 0.0)
        found.append(
            Growth(
                title,
                counts,
                max(now_ms - (now_ms if oldest is None else oldest), 1) / DAY_MS,
                lives.filter(pl.col("rule") == at),
                sample_bytes / max(samples, 1),
                (size - sample_bytes) / max(series, 1),
                common * series / total,
                BARE_BYTES * series / total,
            )
        )
    return found


def ahead_of(history: Floats, days: int, rest: float) -> Floats:
    """What each of the days ahead brings, from what those before brought, the last one first.

    A rhythm goes on that was seen twice and explains nine tenths of what a straight line leaves, and a line that
    explains nine tenths of what the rhythm leaves; where there is neither, each is ``rest``.
    """
    seen = history[:LOOK_DAYS]
    fits = {(1, True): _fit(seen, 1, True)} if len(seen) >= LINE_DAYS_MIN else {}
    if not fits or not np.ptp(seen):
        return np.full(days, rest)
    nothing = _ROUNDING * float(np.sum(seen**2))

    def explains(better: float, worse: float) -> bool:
        return worse > nothing and better <= (1 - FIT) * worse

    period, best = 1, fits[1, True]
    for tried in RHYTHM_DAYS:
        if 2 * tried <= len(seen):
            found = _fit(seen, tried, True)
            if explains(found[1], fits[1, True][1]):
                period, best = tried, found
                break
    plain = _fit(seen, period, False)
    ages = -1.0 - np.arange(days)
    if explains(best[1], plain[1]) and best[0][:-1].mean() > best[0][-1]:
        levels, slope = best[0][:-1], best[0][-1]
    elif period > 1:
        levels, slope = plain[0], 0.0
    else:
        return np.full(days, rest)
    return np.asarray(np.maximum(levels[ages.astype(np.int64) % period] + slope * ages, 0.0))


def _fit(seen: Floats, period: int, line: bool) -> tuple[Floats, float]:
    """A level for each day of a period, and behind them a slope, by age (days); and the squares that they leave."""
    ages = np.arange(len(seen))
    columns = np.eye(period)[ages % period]
    if line:
        columns = np.column_stack([columns, ages])
    found: Floats = np.linalg.lstsq(columns, seen, rcond=None)[0].astype(np.float64)
    return found, float(np.sum((seen - columns @ found) ** 2))


def _recent(history: Floats, age_days: float) -> float:
    """The mean of the last whole days: the oldest one may have lost some of its samples. Of less than a day, as much as
    a day would have."""
    whole = min(int(np.flatnonzero(history).max(initial=0)), RECENT_DAYS)
    return float(history[:whole].mean()) if whole else float(history[0]) / min(age_days, 1.0)


def _sums(history: Floats, ahead: Floats, known: float = 0.0) -> Sums:
    """How much came until a time (days from now): of a history that ends ``known`` days ago, and of days ahead."""
    knots = np.arange(-len(history), len(ahead) + 1) - known
    sums = np.cumsum([0.0, *history[::-1], *ahead])
    return lambda at: np.asarray(np.interp(at, knots, sums))


def _between(sums: Sums, days: Floats, low: float, high: float) -> Floats:
    """What is between two ages (days) on each of the days ahead."""
    return sums(days - low) - sums(days - high)


def _days(age_ms: int | None, now_ms: int, bucket_ms: int) -> float:
    """The age (days) until which samples stay: they leave by whole buckets."""
    return np.inf if age_ms is None else (age_ms + (now_ms - age_ms) % bucket_ms) / DAY_MS


def forecast(
    rules: Sequence[RetentionRule],
    grown: Sequence[Growth],
    cold: HeldCold,
    now_ms: int,
    days: int,
    prices: Mapping[str, float] | None,
    left: Mapping[str, float],
    plain: Mapping[str, float],
) -> pl.DataFrame:
    """A row a day, rule and tier: ``samples``, ``series``, ``bytes``, ``cost`` of that day (null without prices).

    ``left``: by rule the share of samples that a sample of its series has; ``plain``: the share of samples that go cold
    as such, since their series are not rolled up. Series of no rule stay. Prices are per GiB and month. Raises
    ``ConfigError``.
    """
    if days < 1:
        raise ConfigError(f"days {days} must be 1 or more")
    unknown = [name for name in prices or {} if name not in get_args(Place)]
    if unknown:
        raise ConfigError(f"prices: {unknown[0]!r} is no tier; give memory, disk and cold, per GiB and month")
    ahead = np.arange(days + 1, dtype=np.float64)
    frames = []
    rated = sum(_recent(g.samples, g.age_days) for rule, g in zip(rules, grown, strict=False) if rule.is_moved)
    for at, g in enumerate(grown):
        rule = rules[at] if at < len(rules) else None
        bucket_ms = cold.bucket_ms if rule is not None and rule.is_moved else 1
        memory = _days(None if rule is None else rule.memory_ms, now_ms, bucket_ms)
        held = cold.samples.get(g.rule, np.zeros(HISTORY_DAYS))
        flow = _Flow(g, held, now_ms, days)
        tiers: dict[Place, tuple[Floats, Floats, Floats]] = {"memory": _memory(rule, g, flow, ahead, memory)}
        for place, ages in () if rule is None else _outside(rule, now_ms, bucket_ms):
            samples, series = _moved(flow, held, ahead, ages, left.get(g.rule, 1.0), plain.get(g.rule, 1.0))
            part = _recent(g.samples, g.age_days) / max(rated, 1e-9)
            each = COLD_BYTES if cold.sample_bytes is None else cold.sample_bytes
            size = samples * each + part * _rolled(cold.rolled, ahead, ages[0], ages[-1])
            tiers[place] = samples, series, size
        for tier, (samples, series, size) in tiers.items():
            price = (prices or {}).get(tier)
            cost = [None] * len(ahead) if price is None else size / _GIB * price / _MONTH_DAYS
            columns = [ahead, [g.rule] * len(ahead), [tier] * len(ahead), samples, series, size, cost]
            frames.append(
                pl.DataFrame(dict(zip(_SCHEMA, columns, strict=True)), schema_overrides=_SCHEMA, strict=False)
            )
    return pl.concat(frames).sort("day", maintain_order=True)


class _Flow:
    """What came and will come of one rule: sums of ``samples`` in memory and ahead, and series, by days from now."""

    def __init__(self, g: Growth, cold: Floats, now_ms: int, days: int) -> None:
        history = cold.copy()
        history[: len(g.samples)] += g.samples
        whole = int(np.flatnonzero(history).max(initial=0))
        self.samples = _sums(g.samples, ahead_of(history[:whole], days, _recent(history, g.age_days)))
        first, last = (np.sort((g.lives[name].to_numpy() - now_ms) / DAY_MS) for name in ("first", "last"))
        self._begun, self._last = first, last[last < 0]
        # Nobody knows whether series of the first hour were there before.
        self.days = int(np.clip(-first[0] - SILENT_MS / DAY_MS, 0, LOOK_DAYS)) if len(first) else 0
        back = -np.arange(self.days + 1.0)
        alive = self._were_alive(back)
        self._alive = np.append(alive[0], ahead_of(alive, days, alive[0]))
        ended = -np.diff(np.searchsorted(self._last, back)).astype(np.float64)
        rate = float(ended[:RECENT_DAYS].mean()) if len(ended) else 0.0
        # Of series that ended before what is looked at, as many are cold as of those after it.
        self._older = rate, max(whole, LOOK_DAYS) if self.days == LOOK_DAYS else LOOK_DAYS
        self._will_end = _sums(np.zeros(0), ahead_of(ended, days, rate))

    def _were_alive(self, at: Floats) -> Floats:
        return (np.searchsorted(self._begun, at) - np.searchsorted(self._last, at)).astype(np.float64)

    def _ended(self, until: Floats) -> Floats:
        rate, days = self._older
        older = rate * (np.clip(until, -days, -LOOK_DAYS) + LOOK_DAYS)
        return np.asarray(older + np.searchsorted(self._last, until) + self._will_end(until))

    def series(self, at: Floats, span: float) -> Floats:
        """Series with a sample in so many days before a time."""
        ahead = np.interp(at, np.arange(len(self._alive)), self._alive)
        alive = np.where(at > 0, ahead, self._were_alive(at))
        return np.asarray(alive + self._ended(at) - self._ended(at - span))


def _memory(
    rule: RetentionRule | None, g: Growth, flow: _Flow, ahead: Floats, until: float
) -> tuple[Floats, Floats, Floats]:
    samples, series = _between(flow.samples, ahead, 0.0, until), flow.series(ahead, until)
    # The index keeps room for as many series as there ever were.
    before = float(flow.series(-np.arange(flow.days + 1.0), until).max(initial=1.0))
    most = np.maximum.accumulate(np.maximum(series, before)) / before
    size = samples * g.sample_bytes + series * g.series_bytes + g.bare_bytes + (g.index_bytes - g.bare_bytes) * most
    if rule is not None and rule.max_bytes is not None:
        most = np.minimum(1.0, rule.max_bytes / np.maximum(size, 1.0))
        samples, size = samples * most, size * most
    return samples, series, size


def _outside(
    rule: RetentionRule, now_ms: int, bucket_ms: int
) -> Iterator[tuple[Place, tuple[float, float, float, float]]]:
    """Places behind memory, with ages: what is outside of memory is there from the first on, samples come at the
    second, up to the third there are all of them, and they leave at the last."""
    by_disk = "disk" in rule.places
    memory, kept = (_days(age, now_ms, bucket_ms) for age in (rule.memory_ms, rule.kept_ms))
    # What was on disk goes on in whole days.
    local = _days(rule.local_ms, now_ms, DAY_MS) if by_disk and rule.is_cold else kept if by_disk else memory
    if by_disk:
        yield "disk", (0.0, memory, local, local)
    if rule.is_cold:
        whole = _days(rule.whole_ms, now_ms, bucket_ms) if rule.sampled else kept
        yield "cold", (local if by_disk else 0.0, local, whole, kept)


def _moved(
    flow: _Flow, held: Floats, ahead: Floats, ages: tuple[float, float, float, float], left: float, plain: float
) -> tuple[Floats, Floats]:
    """What is in memory now, and what comes, goes there; what is there already stays until it is old."""
    since, low, whole, high = ages
    young = np.arange(len(held)) < whole
    fresh, old = (_sums(np.where(young == one, held, 0.0), np.zeros(len(ahead) - 1)) for one in (True, False))
    samples = sum(
        share
        * (
            plain * _between(flow.samples, ahead, max(low, begun), ended)
            + _between(fresh, ahead, max(since, begun), ended)
        )
        for share, begun, ended in ((1.0, 0.0, whole), (left, whole, high))
    )
    samples = samples + _between(old, ahead, since, high)
    return samples, np.where(samples > 0, flow.series(ahead - low, high - low), 0.0)


def _rolled(size: Floats, ahead: Floats, since: float, until: float) -> Floats:
    """Bytes of records of such ages, if each day brings as many as the last seven that brought some."""
    days = np.flatnonzero(size)[:RECENT_DAYS]
    if not len(days):
        return np.zeros(len(ahead))
    youngest, brought = int(days[0]), np.full(len(ahead) - 1, size[days].mean())
    sums = _sums(size[youngest:], brought, youngest)
    return _between(sums, ahead, min(max(youngest, since), until), until)
