"""What a retention policy comes to in days ahead, from how the store grew: `docs/retention.md` has the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError
from metricsdb.lifecycle.retention import Place, RetentionRule
from metricsdb.times import DAY_MS

__all__ = ["COLD_BYTES", "Growth", "HeldCold", "forecast", "growth"]

# Days back that are looked at, and those whose mean is what a day brings.
HISTORY_DAYS, RECENT_DAYS = 400, 7
# Days that a trend is read off, and the share of their differences that a straight line must explain.
TREND_DAYS_MIN, TREND_DAYS_MAX, TREND_FIT = 5, 28, 0.9
# Bytes of a sample in a cold store that has none yet to be measured (node capture, benchmarks/cold.py).
COLD_BYTES = 0.6
# What series share by their number; buffers, free pages and answers are none of theirs.
_INDEX = {
    "symbols", "raw label hashes", "values", "posting lists", "posting bitmaps", "sorted values", "all series",
    "table of labels",
}  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class Growth:
    """What the series of one rule hold, and what a day brings. Arrays go back day by day, the last 24 hours first."""

    rule: str
    samples: Floats
    ended: Floats
    """Series whose newest sample is of that day: of the first, those that are alive."""
    samples_a_day: float
    series_a_day: float
    sample_bytes: float
    series_bytes: float


@dataclass(frozen=True, slots=True)
class HeldCold:
    """What is outside of memory now: samples by days back, and bytes of one (None: there are none to measure); and
    bytes of records of rollups by days back."""

    samples: Floats
    sample_bytes: float | None = None
    rolled: Floats = field(default_factory=lambda: np.zeros(HISTORY_DAYS))


def growth(native: NativeDatabase, rules: Sequence[RetentionRule], now_ms: int) -> list[Growth]:
    """What the series of each rule, and behind these those of none, brought so far.

    Rates are means over the last whole days, seven at most. The day in which a rule's oldest sample lies is no whole
    one, and its series may be older than it says; where there is no other, samples are scaled to a day and no series
    are taken to come.
    """
    stats = native.stats()
    held = stats["samples"] + stats["histogram_samples"]
    days = min(max((now_ms - stats["first_ms"]) // DAY_MS + 1, 1), HISTORY_DAYS) if held else 1
    edges = [now_ms - DAY_MS * back for back in range(days, -1, -1)]
    rows = native.governed([rule.selector for rule in rules], edges)
    common = sum(size for part, size, _ in native.memory() if part in _INDEX)
    total = max(sum(row[0] for row in rows), 1)
    found = []
    titles = [*(rule.title for rule in rules), ""]
    for title, (series, samples, sample_bytes, size, first, _, intervals) in zip(titles, rows, strict=True):
        counts = np.array(intervals, dtype=np.float64)[::-1]
        # What is older than the history, and what is of the future, belongs to the days at its ends.
        counts[-1, 0] += max(samples - counts[:, 0].sum(), 0.0)
        counts[0, 2] += max(series - counts[:, 2].sum(), 0.0)
        whole = 0 if first is None else min((now_ms - first) // DAY_MS, days, RECENT_DAYS)
        span = DAY_MS if first is None else min(max(now_ms - first, 1), DAY_MS)
        a_day = counts[:whole, 0].mean() if whole else counts[0, 0] * DAY_MS / span
        found.append(
            Growth(
                title,
                counts[:, 0],
                counts[:, 2],
                float(a_day),
                float(counts[:whole, 1].mean()) if whole else 0.0,
                sample_bytes / max(samples, 1),
                (size - sample_bytes) / max(series, 1) + common / total,
            )
        )
    return found


def _left(amounts: Floats, days: Floats, low: float, high: float) -> Floats:
    """Of amounts by days back, what is between two ages (days) on each of the days ahead."""
    ages = np.arange(len(amounts))[None, :] + days[:, None]
    inside = np.minimum(ages + 1, high) - np.maximum(ages, low)
    return np.asarray(np.clip(inside, 0.0, 1.0) @ amounts)


def _new(days: Floats, low: float, high: float, slope: float = 0.0) -> Floats:
    """Days' worth of what comes from now on that is between two ages; a day brings ``slope`` more than the one before,
    as a share of today's, and never less than nothing."""
    last = np.inf if slope >= 0 else -1 / slope
    begun, ended = (np.clip(days - age, 0.0, last) for age in (high, low))
    return np.asarray(ended - begun + slope * (ended**2 - begun**2) / 2)


def _trend(history: Floats) -> tuple[float, float] | None:
    """What a day brings now, and how much more each next one as a share of it; None where no straight line says so."""
    # The oldest day may have lost some of its samples.
    whole = min(int(np.flatnonzero(history).max(initial=0)), TREND_DAYS_MAX)
    if whole < TREND_DAYS_MIN:
        return None
    ages, amounts = np.arange(whole) + 0.5, history[:whole]
    (slope, now), spread = np.polyfit(ages, amounts, 1), np.var(amounts)
    rest = np.mean((amounts - now - slope * ages) ** 2)
    if rest > (1 - TREND_FIT) * spread or now <= 0:
        return None
    return float(now), float(-slope / now)


def _days(age_ms: int | None) -> float:
    return np.inf if age_ms is None else age_ms / DAY_MS


def forecast(
    rules: Sequence[RetentionRule],
    grown: Sequence[Growth],
    cold: HeldCold,
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
    share = [g.samples_a_day if rule.is_moved else 0.0 for rule, g in zip(rules, grown, strict=False)]
    frames = []
    for at, g in enumerate(grown):
        rule = rules[at] if at < len(rules) else None
        memory = _days(None if rule is None else rule.memory_ms)
        part = share[at] / max(sum(share), 1e-9) if rule is not None and rule.is_moved else 0.0
        # Where several rules have samples in the cold store, nobody knows what each of them brought a day.
        history = _padded(g.samples) + (cold.samples if part == 1.0 else 0.0)
        trend = _trend(history) or (g.samples_a_day, 0.0)
        tiers: dict[Place, tuple[Floats, Floats, Floats]] = {"memory": _memory(rule, g, trend, ahead, memory)}
        for place, ages in () if rule is None else _outside(rule):
            goes = plain.get(g.rule, 1.0)
            moved, brought = replace(g, samples=g.samples * goes), (trend[0] * goes, trend[1])
            samples, series, size = _cold(moved, brought, ahead, ages, left.get(g.rule, 1.0), cold, part)
            tiers[place] = samples, series, size + part * _rolled(cold.rolled, ahead, ages[0], ages[-1])
        for tier, (samples, series, size) in tiers.items():
            price = (prices or {}).get(tier)
            cost = [None] * len(ahead) if price is None else size / _GIB * price / _MONTH_DAYS
            columns = [ahead, [g.rule] * len(ahead), [tier] * len(ahead), samples, series, size, cost]
            frames.append(
                pl.DataFrame(dict(zip(_SCHEMA, columns, strict=True)), schema_overrides=_SCHEMA, strict=False)
            )
    return pl.concat(frames).sort("day", maintain_order=True)


def _padded(samples: Floats) -> Floats:
    return np.pad(samples, (0, HISTORY_DAYS - len(samples)))


def _memory(
    rule: RetentionRule | None, g: Growth, trend: tuple[float, float], ahead: Floats, until: float
) -> tuple[Floats, Floats, Floats]:
    now, slope = trend
    samples = _left(g.samples, ahead, 0.0, until) + now * _new(ahead, 0.0, until, slope)
    # Of those that are alive none ends without another in its place.
    series = g.ended[0] + _left(g.ended[1:], ahead + 1, 0.0, until)
    series = series + g.series_a_day * _new(ahead, 0.0, max(until - 1, 0.0))
    size = samples * g.sample_bytes + series * g.series_bytes
    if rule is not None and rule.max_bytes is not None:
        most = np.minimum(1.0, rule.max_bytes / np.maximum(size, 1.0))
        samples, size = samples * most, size * most
    return samples, series, size


def _outside(rule: RetentionRule) -> Iterator[tuple[Place, tuple[float, float, float, float]]]:
    """Places behind memory, with ages: what is outside of memory is there from the first on, samples come at the
    second, up to the third there are all of them, and they leave at the last."""
    local = _days(rule.local_ms)
    if "disk" in rule.places:
        yield "disk", (0.0, _days(rule.memory_ms), local, local)
    if rule.is_cold:
        yield "cold", (local if "disk" in rule.places else 0.0, local, _days(rule.whole_ms), _days(rule.kept_ms))


def _rolled(size: Floats, ahead: Floats, since: float, until: float) -> Floats:
    """Bytes of records of such ages, if each day brings as many as the last seven that brought some."""
    days = np.flatnonzero(size)[:RECENT_DAYS]
    if not len(days):
        return np.zeros(len(ahead))
    low = min(max(float(days[0]), since), until)
    return np.asarray(_left(size, ahead, since, until) + size[days].mean() * _new(ahead, low, until))


def _cold(
    g: Growth,
    trend: tuple[float, float],
    ahead: Floats,
    ages: tuple[float, float, float, float],
    left: float,
    cold: HeldCold,
    part: float,
) -> tuple[Floats, Floats, Floats]:
    now, slope = trend
    # What is in memory now goes cold; what is cold already stays until it is old.
    since, low, whole, high = ages
    young = np.arange(len(cold.samples)) < whole
    fresh, old = np.where(young, cold.samples, 0.0), np.where(young, 0.0, cold.samples)
    there = _left(fresh, ahead, since, whole) + left * _left(fresh, ahead, whole, high) + _left(old, ahead, 0.0, high)
    samples = part * there + _left(g.samples, ahead, low, whole) + now * _new(ahead, low, whole, slope)
    samples = samples + left * (_left(g.samples, ahead, whole, high) + now * _new(ahead, whole, high, slope))
    series = np.where(samples > 0, g.ended[0] + g.series_a_day * _new(ahead, 0.0, high), 0.0)
    each = COLD_BYTES if cold.sample_bytes is None else cold.sample_bytes
    return samples, series, samples * each
