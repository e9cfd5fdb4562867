"""Which statements and dashboards look further back than a retention policy keeps samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from metricsdb._native import NativeDatabase, Read
from metricsdb.errors import ConfigError, MetricsDBError
from metricsdb.lifecycle.retention import Place, RetentionRule
from metricsdb.lifecycle.rollups import RollupPolicy
from metricsdb.times import duration_ms, duration_text

__all__ = ["Asked", "impact", "panels", "readers"]

STEP_MS = 60_000
# What Grafana puts in the place of its own variables, near enough for how far a query looks back.
_INTERVAL = "5m"
_VARIABLE = re.compile(r"(=~|!~|!=|=)\s*\"([^\"]*\$[^\"]*)\"")
_ANY = re.compile(r"\$\{?\w+(?::\w+)?\}?")
_AGO = re.compile(r"now-(\d+)([smhdwMy])(?:/\w)?")
_TIERS: dict[Place, str] = {"disk": "disk", "cold": "the cold store"}
_SCHEMA: dict[str, Any] = dict.fromkeys(
    ("kind", "name", "expr", "look_back", "rule", "kept", "lost", "resolution", "effect", "detail"), pl.String
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that somebody asks: of the newest time, or of a range that begins so long ago."""

    kind: str
    name: str
    expr: str
    range_ms: int = 0


def impact(
    native: NativeDatabase,
    rules: Sequence[RetentionRule],
    rollups: Sequence[RollupPolicy],
    asked: Iterable[Asked],
    now_ms: int,
    lookback_ms: int,
) -> pl.DataFrame:
    """A row for each query and rule that governs series it reads; ``docs/retention.md`` has the columns."""
    rows, labels = native.governing("", [rule.selector for rule in rules])
    reach = _Reach(rules, rollups, labels, rows["rule"])
    found = [row for one in asked for row in _rows(reach, one, now_ms, lookback_ms)]
    return pl.DataFrame(found, schema=_SCHEMA, orient="row")


def readers(asked: Iterable[Asked], labels: pl.DataFrame, now_ms: int, lookback_ms: int) -> pl.Series:
    """How many of these queries read each series of a frame of labels (UInt32); those that do not parse read none."""
    counts = pl.repeat(0, labels.height, dtype=pl.UInt32, eager=True)
    for one in asked:
        with suppress(MetricsDBError):
            reads = NativeDatabase.reads(one.expr, now_ms, now_ms, STEP_MS, lookback_ms)
            taken = [read.matches(labels)["matches"] for read in {read.takes(): read for read in reads}.values()]
            if taken:
                any_of = pl.select(pl.any_horizontal(taken)).to_series()
                counts += any_of.cast(pl.UInt32)
    return counts


@dataclass(frozen=True, slots=True)
class _Reach:
    """Which rules govern what a read reads, and how exactly that is kept."""

    rules: Sequence[RetentionRule]
    rollups: Sequence[RollupPolicy]
    labels: pl.DataFrame
    rule_of: pl.Series

    def governing(self, read: Read) -> list[tuple[RetentionRule | None, pl.Series]]:
        """The rules of the series that are read, each with which series these are; None for those of none."""
        if self.labels.is_empty():
            return []
        matches = read.matches(self.labels)["matches"]
        found = self.rule_of.filter(matches).unique().sort().to_list()
        return [(None if at is None else self.rules[at], matches & self.rule_of.eq_missing(at)) for at in found]

    def levels(self, series: pl.Series, back_ms: int) -> set[_Level | None]:
        """What stands for samples that old of some series; None: the samples themselves."""
        found: set[_Level | None] = set()
        for policy in self.rollups:
            taken = Read(policy.selector, 0, 0).matches(self.labels)["matches"]
            if (taken & series).any():
                found.add(_level(policy, back_ms))
            series = series & ~taken
        return found | ({None} if series.any() else set())


# Width of the records that stand, None where none do any more; and how long the last of them stay.
_Level = tuple[str | None, int | None]


def _level(policy: RollupPolicy, back_ms: int) -> _Level | None:
    raw = policy.raw_ms if policy.raw_ms is not None or not policy.levels else policy.levels[0].keep_ms
    if not policy.levels or raw is None or back_ms <= raw:
        return None
    stands = [level for level in policy.levels if level.keep_ms is None or back_ms <= level.keep_ms]
    return duration_text(stands[0].every_ms) if stands else None, policy.levels[-1].keep_ms


def _rows(reach: _Reach, one: Asked, now_ms: int, lookback_ms: int) -> Iterator[tuple[str | None, ...]]:
    head = (one.kind, one.name, one.expr)
    try:
        reads = NativeDatabase.reads(one.expr, now_ms - one.range_ms, now_ms, STEP_MS, lookback_ms)
    except MetricsDBError as error:
        yield (*head, None, None, None, None, None, "unread", str(error))
        return
    furthest: dict[str, tuple[int, RetentionRule | None, pl.Series]] = {}
    for read in reads:
        # A window does not hold the moment at which it begins.
        back = max(now_ms - read.start + 1, 0)
        for rule, series in reach.governing(read):
            title = "" if rule is None else rule.title
            if title not in furthest or back > furthest[title][0]:
                furthest[title] = (back, rule, series)
    if not furthest:
        yield (*head, None, None, None, None, None, "no series", "nothing that is stored is read")
    for title, (back, rule, series) in furthest.items():
        effects = [_effect(rule, level, back) for level in reach.levels(series, back)]
        yield (*head, duration_text(back), title or None, *max(effects, key=lambda e: _WORST.index(e[3])))


# The worst effect that some of the series have is told.
_WORST = ("none", "disk", "cold", "precision", "sample", "data")


def _effect(
    rule: RetentionRule | None, level: _Level | None, back_ms: int
) -> tuple[str | None, str | None, str | None, str, str]:
    """How long samples are kept, what is lost, how exactly the rest stands, and what that comes to."""
    kept = None if rule is None else rule.kept_ms
    width, records = (None, None) if level is None else level
    if level is not None and kept is not None:
        # Records stand longer than the samples they were made of.
        kept = None if records is None else max(kept, records)
    text = None if kept is None else duration_text(kept)
    if kept is not None and back_ms > kept:
        lost = duration_text(back_ms - kept)
        return text, lost, width, "data", f"the oldest {lost} of what is read are gone"
    if rule is not None and rule.sampled is not None and rule.whole_ms is not None and back_ms > rule.whole_ms:
        left = f"only {rule.sampled.keep} is left of what is older than {duration_text(rule.whole_ms)}"
        return text, None, width, "sample", left
    if width is not None:
        where = f", read from {_TIERS[tier]}" if (tier := _tier(rule, back_ms)) else ""
        return text, None, width, "precision", f"records of {width} stand for samples of that age{where}"
    if rule is not None and (tier := _tier(rule, back_ms)):
        also = "disk and " if tier == "cold" and "disk" in rule.places else ""
        return text, None, None, tier, f"a part is read from {also}{_TIERS[tier]}: the same answer, later"
    return text, None, None, "none", ""


def _tier(rule: RetentionRule | None, back_ms: int) -> Place | None:
    """The furthest place outside of memory that is read, if any."""
    if rule is None or not rule.is_moved or rule.memory_ms is None or back_ms <= rule.memory_ms:
        return None
    return "cold" if rule.is_cold and rule.local_ms is not None and back_ms > rule.local_ms else "disk"


def panels(dashboard: Mapping[str, Any] | str | Path) -> Iterator[Asked]:
    """The queries of a Grafana dashboard: its JSON, or the path of a file. Raises ``ConfigError``."""
    found: Any = dashboard
    if isinstance(dashboard, (str, Path)):
        try:
            found = json.loads(Path(dashboard).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"dashboard {str(dashboard)!r} cannot be read: {error}; export it as JSON") from None
    if not isinstance(found, Mapping):
        raise ConfigError("a dashboard is a JSON object; export it from Grafana as JSON")
    # The API answers with the dashboard inside.
    found = found.get("dashboard", found)
    title, span = found.get("title", "dashboard"), _ago(found.get("time", {}).get("from"))
    waiting = [*found.get("panels", []), *(p for row in found.get("rows", []) for p in row.get("panels", []))]
    while waiting:
        panel = waiting.pop(0)
        waiting = [*panel.get("panels", []), *waiting]
        own = panel.get("timeFrom")
        for target in panel.get("targets", []):
            if target.get("expr"):
                back = duration_ms(own, "timeFrom") if own else span
                yield Asked("panel", f"{title} / {panel.get('title', '')}", _plain(target["expr"], back), back)


def _ago(start: object) -> int:
    """How long ago a dashboard begins; Grafana's own default where it says a date."""
    found = _AGO.fullmatch(str(start))
    if not found:
        return 6 * 3_600_000
    unit = {"M": "30d"}.get(found[2])
    return int(found[1]) * duration_ms(unit or f"1{found[2]}")


def _plain(expr: str, range_ms: int) -> str:
    """A query without Grafana's variables: any value where a label is compared with one."""

    def matcher(found: re.Match[str]) -> str:
        return f'=~"{_ANY.sub(".*", found[2])}"' if found[1] in ("=", "=~") else '!~""'

    expr = re.sub(r"\$\{?__(?:rate_)?interval(?:_ms)?\}?", _INTERVAL, expr)
    expr = re.sub(r"\$\{?__range(?:_s|_ms)?\}?", duration_text(max(range_ms, 1000)), expr)
    expr = _VARIABLE.sub(matcher, expr)
    return re.sub(r"\[\s*\$\{?\w+\}?", f"[{_INTERVAL}", expr)
