"""Leaving a sample of days that are old enough: read, chosen from, written anew, verified, and only then published.

What stays of a day is decided over all of its parts at once, and they are replaced in one manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from metricsdb.lifecycle.cold.manifest import Draw, Part
from metricsdb.lifecycle.cold.move import COMPACT_SAMPLES, Changed, Mover
from metricsdb.lifecycle.cold.objects import Missing
from metricsdb.lifecycle.cold.parts import Cut, cut, merge, split
from metricsdb.lifecycle.sampling import COLUMNS, SampleRule, choose, kept_hours
from metricsdb.times import DAY_MS

__all__ = ["Thinned", "Used", "thin", "unused"]

# How many queries read each series of a table of labels.
Used = Callable[[pl.DataFrame], pl.Series]
Note = Callable[[SampleRule, "Thinned"], None]


def unused(labels: pl.DataFrame) -> pl.Series:
    """Where nobody says what is read."""
    return pl.repeat(0, labels.height, dtype=pl.UInt32, eager=True)


@dataclass(frozen=True, slots=True)
class Thinned:
    """What a rule took from the cold store: samples, series of one day, and bytes of all that was replaced."""

    samples: int = 0
    series: int = 0
    bytes: int = 0


def thin(mover: Mover, rules: Sequence[SampleRule], used: Used, note: Note | None = None) -> int:
    """Leaves samples of whole UTC days before the time of the rules that govern their series, the oldest first; pinned
    parts stay. What was sampled once is not sampled again. How many days.

    Raises ``ColdStoreError``: days that are published by then are through, the others as they were.
    """
    done = 0
    before = max((rule.before_ms for rule in rules if rule.keep and rule.before_ms is not None), default=None)
    if before is None:
        return done
    old = {part.day for part in mover.catalog.state.parts if _is_whole(part) and _day_end(part) <= before}
    for day in sorted(old):
        with mover.lock:
            parts = [part for part in mover.catalog.parts(-(2**63), before) if part.day == day and _is_whole(part)]
            done += _day(mover, parts, rules, used, note)
    return done


def _is_whole(part: Part) -> bool:
    """Whether a sample may be left of it: pins and records of rollups, which are few, stay as they are."""
    return not part.pinned and part.kind != "rollups"


def _day_end(part: Part) -> int:
    return (part.start_ms // DAY_MS + 1) * DAY_MS


@dataclass(slots=True)
class _Rule:
    """A rule that is due, by part the series that it governs and that nothing has been drawn from, and which stay."""

    rule: SampleRule
    draw: Draw
    governed: dict[str, pl.Series]
    stay: pl.DataFrame


def _day(mover: Mover, parts: list[Part], rules: Sequence[SampleRule], used: Used, note: Note | None) -> int:
    # What memory still has of them would stand beside the series that stand for it.
    if not parts or mover.is_in_both(_day_end(parts[0]) - DAY_MS, _day_end(parts[0]) - 1):
        return 0
    tables = {part.key: mover.catalog.table(part) for part in parts if _waits(part, rules)}
    due = [found for at in range(len(rules)) if (found := _due(mover, parts, tables, rules, at, used))]
    if not due:
        return 0
    cuts: list[Cut] = []
    gone = [Thinned() for _ in due]
    old = [part for part in parts if any(len(one.governed.get(part.key, ())) for one in due)]
    for part in old:
        samples = mover.catalog.samples(part)
        for at, one in enumerate(due):
            left = _left(samples, one, part)
            share = (samples.height - left.height) / max(samples.height, 1)
            lost = samples.height - left.height
            gone[at] = Thinned(gone[at].samples + lost, 0, gone[at].bytes + round(part.bytes * share))
            samples = left
        table = _told(tables[part.key], [one.stay for one in due])
        series, rows = merge([(table, samples)])
        draws = tuple(dict.fromkeys([*part.sampled, *(o.draw for o in due if len(o.governed.get(part.key, ())))]))
        for some_series, some in split(series, rows, COMPACT_SAMPLES):
            made = cut(some_series, some, mover.name, mover.catalog.state, kind=part.kind)
            cuts.append(replace(made, part=replace(made.part, order=part.order, sampled=draws)))
    try:
        mover.publish(cuts, old)
    except (Changed, Missing):
        # Somebody else changed the day: the next run sees what is left to do.
        mover.catalog.refresh()
        return 0
    for one, taken in zip(due, gone, strict=True):
        candidates = pl.concat([*one.governed.values()]).n_unique()
        if note is not None:
            note(one.rule, replace(taken, series=candidates - one.stay["series"].n_unique()))
    return 1


def _waits(part: Part, rules: Sequence[SampleRule]) -> bool:
    """Whether a rule that is due has not been at a part; its table need not be read to know."""
    return any(
        rule.keep is not None
        and rule.before_ms is not None
        and _day_end(part) <= rule.before_ms
        and Draw(rule.selector, str(rule.keep)) not in part.sampled
        for rule in rules
    )


def _due(
    mover: Mover,
    parts: Sequence[Part],
    tables: dict[str, pl.DataFrame],
    rules: Sequence[SampleRule],
    at: int,
    used: Used,
) -> _Rule | None:
    rule, others = rules[at], tuple(one.selector for one in rules[:at])
    if rule.keep is None or rule.before_ms is None:
        return None
    draw, governed, found = Draw(rule.selector, str(rule.keep)), {}, []
    known = [mover.catalog.drawn(part) for part in parts if draw in part.sampled]
    for part in parts:
        if part.key not in tables or draw in part.sampled or _day_end(part) > rule.before_ms:
            continue
        table = tables[part.key]
        taken = mover.catalog.matching(part, (rule.selector,), others)
        whole = table.filter(pl.col("series").is_in(taken.implode()))
        if "sampled_by" in table.columns:
            whole = whole.filter(pl.col("sampled_by").is_null())
        if whole.height:
            governed[part.key] = whole["series"]
            found.append(whole.drop(COLUMNS, strict=False))
    if not found:
        return None
    table = pl.concat(found, how="diagonal").unique("series", keep="first", maintain_order=True)
    before = pl.concat(known).filter(pl.col("sampled_by") == draw.keep) if known else None
    counts = used(table.drop("series")) if rule.keep.kind == "top" else None
    return _Rule(rule, draw, governed, choose(table, rule.keep, before, counts))


def _left(samples: pl.DataFrame, one: _Rule, part: Part) -> pl.DataFrame:
    governed = one.governed.get(part.key)
    if governed is None:
        return samples
    keep = one.rule.keep
    assert keep is not None
    own = pl.col("series").is_in(governed.implode())
    if keep.kind == "hours":
        return samples.filter(~own | kept_hours(keep, pl.col("timestamp")))
    return samples.filter(~own | pl.col("series").is_in(one.stay["series"].implode()))


def _told(table: pl.DataFrame, stay: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """A table of series with what is known of those that were drawn, now or before."""
    new = pl.concat(stay).unique("series", keep="first")
    before = [name for name in COLUMNS if name in table.columns]
    told = table.join(new, on="series", how="left", maintain_order="left", suffix="_new")
    if before:
        told = told.with_columns(pl.coalesce(name, f"{name}_new").alias(name) for name in COLUMNS)
    return told.select(*table.columns, *[name for name in COLUMNS if name not in before])
