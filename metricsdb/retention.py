"""Retention of one database, as ``db.retention``: rules, why they hold, what went, and what a policy would come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from metricsdb._native import Read
from metricsdb.charts import plot
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.lifecycle.deletions import Deleted, Trash
from metricsdb.lifecycle.forecast import HISTORY_DAYS, LOOK_DAYS, SILENT_MS, HeldCold, forecast, growth
from metricsdb.lifecycle.impact import Asked, impact, panels, readers
from metricsdb.lifecycle.retention import Aging, Departure, Place, RetentionLike, RetentionRule, rules_of
from metricsdb.lifecycle.rollups import RollupPolicy
from metricsdb.lifecycle.sampling import share
from metricsdb.times import DAY_MS, DurationLike, Time, duration_ms, time_ms

if TYPE_CHECKING:
    import altair as alt

    from metricsdb.cold import Cold
    from metricsdb.database import Database
    from metricsdb.lifecycle.cold.catalog import Catalog
    from metricsdb.lifecycle.cold.layout import Ints
    from metricsdb.lifecycle.cold.manifest import Part

__all__ = ["Retention", "RetentionRule"]

_ROLLED = (
    "; rolled up by {!s}: its samples stay in memory until records alone stand for them, and these move on with age, "
    "but those of native histograms"
)
_GO = {"disk": "to disk, and there is no disk tier", "cold": "cold, and there is no cold store"}
# Milliseconds from the epoch to a time that dates still reach.
_FAR = 10**14
_LOG = {
    "time": pl.Int64,
    "what": pl.String,
    "rule": pl.String,
    "before": pl.Int64,
    "samples": pl.UInt64,
    "series": pl.UInt64,
    "bytes": pl.UInt64,
    "to": pl.String,
}


class Retention:
    """How long samples of one database stay where. The first rule that takes a series governs it."""

    def __init__(self, db: Database, aging: Aging, trash: Trash) -> None:
        self._db, self._aging, self._trash = db, aging, trash

    @property
    def rules(self) -> tuple[RetentionRule, ...]:
        return self._aging.rules

    def use(self, policy: RetentionLike) -> None:
        """Replaces all rules: a duration, a line, selectors with their lines, or rules in order (None: none).

        ``"15d"``; ``"memory 2d -> disk 14d -> cold 90d"``; ``{"up": "memory 400d", "": "15d"}``;
        ``[RetentionRule.of('{team="db"}', "30d", importance="high", max_bytes="4GiB")]``. What no rule keeps any more
        leaves with the next ``tick``. Raises ``ConfigError``, ``ParseError``; nothing is changed then.
        """
        rules = rules_of(policy)
        tiers: dict[Place, Cold | None] = {"disk": self._db._disk, "cold": self._db._cold}
        for rule in rules:
            for place in rule.places[1:]:
                if tiers[place] is None:
                    raise ConfigError(
                        f"retention rule {rule.title!r}: samples are to go {_GO[place]}; "
                        f"give Database({place}=…), or leave {place} out of the line"
                    )
        self._aging.use(rules)
        # Not `_native`: while a directory is still read, too, it has to be known who is refused first.
        self._db._store.set_importance(self._aging.low)
        self._hurry()

    def _hurry(self) -> None:
        for tier in (self._db._disk, self._db._cold):
            if tier is not None:
                tier.hurry()

    def list(self) -> pl.DataFrame:
        """The rules in order: ``rule``, ``selector``, ``keep``, ``importance``, ``max_bytes``, ``max_share``."""
        rows = [(r.title, r.selector, str(r), r.importance, r.max_bytes, r.max_share) for r in self.rules]
        schema: dict[str, Any] = dict.fromkeys(("rule", "selector", "keep", "importance"), pl.String)
        return pl.DataFrame(rows, schema={**schema, "max_bytes": pl.UInt64, "max_share": pl.Float64}, orient="row")

    def explain(self, selector: str = "", policy: RetentionLike = None) -> pl.DataFrame:
        """A row a series in memory: which rule governs it and why, where its samples are, and until when.

        ``rule``, ``keep``, ``why``; ``start``, ``end``, ``samples``, ``bytes`` of what is in memory; when the oldest of
        it ``leaves`` memory, ``to`` where (disk or cold; null: it is gone by then), when it ``leaves_disk``, and when
        it is ``gone`` everywhere (null: never); then labels (``label_to``, where one has the name of a column). Of
        series that are rolled up ``why`` says what goes there in place of samples. ``policy``: as if it held.
        """
        rules = self.rules if policy is None else rules_of(policy)
        rows, labels = self._db._native.governing(selector, [rule.selector for rule in rules])
        of_rules = pl.DataFrame(
            [
                (at, r.title, str(r), _why(rules, at), r.memory_ms, (*r.places, None)[1],
                 r.local_ms if "disk" in r.places else None, r.kept_ms)
                for at, r in enumerate(rules)
            ],
            schema={
                "rule": pl.UInt32, "title": pl.String, "keep": pl.String, "why": pl.String,
                "memory_ms": pl.Int64, "to": pl.String, "disk_ms": pl.Int64, "kept_ms": pl.Int64,
            },
            orient="row",
        )  # fmt: skip
        found = rows.join(of_rules, on="rule", how="left", maintain_order="left").select(
            pl.col("title").alias("rule"),
            "keep",
            pl.col("why").fill_null("no rule takes it: it stays") + self._rolled_text(rules, labels, rows["rule"]),
            pl.col("first").cast(TIME).alias("start"),
            pl.col("last").cast(TIME).alias("end"),
            "samples",
            "bytes",
            (pl.col("first") + pl.col("memory_ms")).cast(TIME).alias("leaves"),
            "to",
            (pl.col("first") + pl.col("disk_ms")).cast(TIME).alias("leaves_disk"),
            (pl.col("first") + pl.col("kept_ms")).cast(TIME).alias("gone"),
        )
        taken = {name: f"label_{name}" for name in labels.columns if name in found.columns}
        return pl.concat([found, labels.rename(taken)], how="horizontal")

    def _rolled_text(self, rules: Sequence[RetentionRule], labels: pl.DataFrame, rule_of: pl.Series) -> pl.Series:
        """What is said of series that are to move on, where records of rollups go in place of samples."""
        moved = rule_of.is_in([at for at, rule in enumerate(rules) if rule.is_moved]).fill_null(value=False)
        said = pl.repeat("", len(rule_of), eager=True)
        for policy, taken in self._rolled_up(labels):
            text = pl.repeat(_ROLLED.format(policy), len(rule_of), eager=True)
            said = text.zip_with(moved & taken, said)
        return said

    def _rolled_up(self, labels: pl.DataFrame) -> Iterator[tuple[RollupPolicy, pl.Series]]:
        """Policies that make records, each with the series of a frame of labels that it governs."""
        left = pl.repeat(True, labels.height, eager=True)
        for policy in self._db.rollups.policies if labels.height else ():
            taken = left & Read(policy.selector, 0, 0).matches(labels)["matches"]
            left = left & ~taken
            if policy.levels:
                yield policy, taken

    def log(self, what: str | None = None) -> pl.DataFrame:
        """What went when by which rule, the oldest first: ``time``, ``what``, ``rule``, ``before``, counts,
        and ``to`` where, of what moved.

        ``what``: expired, moved, sampled, evicted, deleted or undeleted. The last 10,000; with a directory they are in
        its ``retention.log``, too, a JSON line each.
        """
        rows = [asdict(row) for row in self._aging.log.rows if what is None or row.what == what]
        table = [tuple(row.get(name, row.get(f"{name}_ms")) for name in _LOG) for row in rows]
        return pl.DataFrame(table, schema=_LOG, orient="row").with_columns(pl.col("time", "before").cast(TIME))

    # --- ahead ----------------------------------------------------------------------------------

    def simulate(
        self, policy: RetentionLike = None, days: int = 365, prices: Mapping[str, float] | None = None
    ) -> pl.DataFrame:
        """What the store will hold if it grows on as it did: a row a day, rule and tier. Changes nothing.

        ``date``, ``day`` (0: now), ``rule`` (empty: of none), ``tier``, ``samples``, ``series``, ``bytes``, and the
        ``cost`` of that day by ``prices`` per GiB and month, such as ``{"memory": 3.0, "disk": 0.1, "cold": 0.02}``
        (null where a tier has none). ``policy``: None for the one in force. Raises ``ConfigError``.
        """
        rules, now_ms = self.rules if policy is None else rules_of(policy), self._db.now_ms()
        lives, governed = self._lives(rules, now_ms)
        grown, cold = growth(self._db._native, rules, lives, now_ms), self._cold(rules, governed, now_ms)
        left, plain = self._shares(rules), self._plain(rules)
        found = forecast(rules, grown, cold, now_ms, days, prices, left, plain)
        date = (pl.lit(now_ms) + pl.col("day").cast(pl.Int64) * DAY_MS).cast(TIME).alias("date")
        return found.select(date, *found.columns)

    def _shares(self, rules: Sequence[RetentionRule]) -> dict[str, float]:
        """By rule which share of its series in memory a sample would leave."""
        if not any(rule.sampled for rule in rules):
            return {}
        rows, labels = self._db._native.governing("", [rule.selector for rule in rules])
        return {
            rule.title: share(labels.filter(rows["rule"] == at), rule.sampled.keep)
            for at, rule in enumerate(rules)
            if rule.sampled and rule.sampled.keep
        }

    def _plain(self, rules: Sequence[RetentionRule]) -> dict[str, float]:
        """By rule whose samples move on which share of those in memory is of series that are not rolled up."""
        if not self._db.rollups.policies or not any(rule.is_moved for rule in rules):
            return {}
        rows, labels = self._db._native.governing("", [rule.selector for rule in rules])
        rolled = pl.repeat(False, rows.height, eager=True)
        for _, taken in self._rolled_up(labels):
            rolled = rolled | taken
        held = rows.select("rule", "samples", plain=pl.when(rolled).then(0).otherwise("samples"))
        sums = held.group_by("rule").agg(pl.col("samples", "plain").sum()).iter_rows()
        return {rules[at].title: plain / max(samples, 1) for at, samples, plain in sums if at is not None}

    def _parts(self) -> Iterator[tuple[Catalog, Part]]:
        for catalog in self._db._tiers.catalogs:
            for part in catalog.parts(-(2**63), 2**63 - 1):
                if part.pinned is None:
                    yield catalog, part

    def _lives(self, rules: Sequence[RetentionRule], now_ms: int) -> tuple[pl.DataFrame, dict[str, Ints]]:
        """A row a series of memory and of the last weeks' parts: ``rule`` (its place; none: behind all), ``first`` and
        ``last`` sample (ms); and by table of series in these parts the rule of each.

        Of a part, times are those of its first and last sample. A series that was silent before the newest sample for
        an hour at most, or three of its own intervals, is alive: its last is now.
        """
        rows, labels = self._db._native.governing("", [rule.selector for rule in rules])
        mean = (pl.col("last") - pl.col("first")) / (pl.col("samples") - 1).clip(1)
        alive = pl.col("last").max() - pl.col("last") <= pl.max_horizontal(SILENT_MS, 3 * mean)
        last = pl.when(alive).then(pl.lit(now_ms)).otherwise("last").alias("last")
        of_rule = rows["rule"].fill_null(len(rules))
        found = [rows.select(_identity(labels), of_rule, "first", last)]
        times: dict[str, tuple[Catalog, Part, int, int]] = {}
        for catalog, part in self._parts() if any(rule.is_moved for rule in rules) else ():
            if part.end_ms > now_ms - (LOOK_DAYS + 1) * DAY_MS:
                *_, start, end = times.get(part.series_key, (catalog, part, part.start_ms, part.end_ms))
                times[part.series_key] = catalog, part, min(start, part.start_ms), max(end, part.end_ms)
        governed = {}
        for key, (catalog, part, start, end) in times.items():
            governed[key] = _governed(catalog, part, rules)
            of_part = [_identity(catalog.series(part).drop("series")), pl.Series("rule", governed[key])]
            found.append(pl.DataFrame(of_part).with_columns(first=pl.lit(start), last=pl.lit(end)))
        series = pl.concat(found, how="vertical_relaxed").group_by("series")
        return series.agg(pl.col("rule").first(), pl.col("first").min(), pl.col("last").max()), governed

    def _cold(self, rules: Sequence[RetentionRule], governed: Mapping[str, Ints], now_ms: int) -> HeldCold:
        """What is on disk and in the cold store, by rule and days back."""
        samples, rolled, size = np.zeros((len(rules) + 1, HISTORY_DAYS)), np.zeros(HISTORY_DAYS), 0
        unknown = np.zeros(HISTORY_DAYS)
        for catalog, part in self._parts():
            young, old = (now_ms - part.end_ms - 1) / DAY_MS, (now_ms - part.start_ms) / DAY_MS
            ages = np.arange(np.floor(young), np.floor(old) + 1)
            share = np.clip(np.minimum(ages + 1, old) - np.maximum(ages, young), 0.0, None) / (old - young)
            days = np.clip(ages, 0, HISTORY_DAYS - 1).astype(np.int64)
            if part.every_ms:
                np.add.at(rolled, days, part.bytes * share)
                continue
            of_days = np.zeros(HISTORY_DAYS)
            np.add.at(of_days, days, part.samples * share)
            size += part.bytes
            if (of_rule := governed.get(part.series_key)) is not None:
                # Of a part that has series of several rules it is looked how many samples each of them has.
                mixed = bool(np.ptp(of_rule))
                rows = np.bincount(of_rule, catalog.counts(part) if mixed else None, len(rules) + 1)
                samples += np.outer(rows / rows.sum(), of_days)
            else:
                unknown += of_days
        # Parts that are older than what is looked at: as the younger ones are shared.
        by_rule = samples.sum(axis=1)
        moved = [rule.is_moved for rule in rules]
        by_rule = by_rule if by_rule.any() else np.array([*moved, 0.0])
        samples += np.outer(by_rule / max(by_rule.sum(), 1), unknown)
        total = samples.sum()
        of_rules = {rule.title: of_rule for rule, of_rule in zip(rules, samples, strict=False) if rule.is_moved}
        first = self._db._disk or self._db._cold
        bucket_ms = 1 if first is None else first.mover.bucket_ms
        return HeldCold(of_rules, size / total if total else None, rolled, bucket_ms)

    def compare(
        self,
        policies: Mapping[str, RetentionLike],
        days: int = 365,
        prices: Mapping[str, float] | None = None,
    ) -> pl.DataFrame:
        """Policies beside each other: ``policy``, ``tier``, ``samples``, ``bytes`` on the last day, ``bytes_most`` on
        any, and the ``cost`` of all days."""
        found = []
        for name, policy in policies.items():
            ahead = self.simulate(() if policy is None else policy, days, prices)
            sums = ahead.group_by("day", "tier").agg(pl.col("samples", "bytes", "cost").sum()).sort("day")
            priced = pl.when(ahead["cost"].is_not_null().any()).then(pl.col("cost").sum())
            row = sums.group_by("tier", maintain_order=True).agg(
                pl.col("samples").last(),
                pl.col("bytes").last(),
                pl.col("bytes").max().alias("bytes_most"),
                priced.alias("cost"),
            )
            found.append(row.sort("tier", descending=True).select(pl.lit(name).alias("policy"), *row.columns))
        if not found:
            raise ConfigError("compare: no policies; give {name: policy}")
        return pl.concat(found)

    def plot(self, frame: pl.DataFrame, what: str = "bytes") -> alt.Chart:
        """A picture of what ``simulate`` gave: ``bytes``, ``samples``, ``series`` or ``cost`` by tier and day."""
        if what not in ("bytes", "samples", "series", "cost"):
            raise ConfigError(f"what {what!r} is not known; use bytes, samples, series or cost")
        sums = frame.group_by("date", "tier").agg(pl.col(what).sum()).sort("date", "tier")
        samples = sums.rename({"date": "timestamp", what: "value"})
        return plot(samples, title=f"{what} ahead", unit="bytes" if what == "bytes" else "number")

    def impact(
        self, policy: RetentionLike = None, dashboards: Sequence[Mapping[str, Any] | str | Path] = ()
    ) -> pl.DataFrame:
        """What alerts, recording rules, SLOs and Grafana dashboards would lose by a policy, a row a rule they read by.

        ``kind`` (alert, record, slo, panel), ``name``, ``expr``; how far it ``look_back``s; the ``rule``, how long that
        has samples ``kept``, what of the look-back is ``lost``, the ``resolution`` of records that stand for the rest;
        ``effect``: ``data``, ``sample``, ``precision``, ``disk`` or ``cold`` (read from there, the same), ``none``,
        ``no series`` or ``unread`` (``detail`` says why). ``dashboards``: JSON that Grafana exports, as a mapping or a
        path.
        """
        rules = self.rules if policy is None else rules_of(policy)
        asked = [one for group in self._db.alerts.groups() for rule in group.rules for one in _asked(rule)]
        asked += [one for dashboard in dashboards for one in panels(dashboard)]
        rollups, now_ms = self._db.rollups.policies, self._db.now_ms()
        return impact(self._db._native, rules, rollups, asked, now_ms, self._db._lookback_ms)

    def used(self, labels: pl.DataFrame) -> pl.Series:
        """How many queries of installed statements read each series of a frame of labels."""
        asked = [one for group in self._db.alerts.groups() for rule in group.rules for one in _asked(rule)]
        return readers(asked, labels, self._db.now_ms(), self._db._lookback_ms)

    # --- deletions ------------------------------------------------------------------------------

    def delete(
        self, selectors: Sequence[str], start: Time | None, end: Time | None, undo: DurationLike | None
    ) -> Deleted:
        """See ``Database.delete``."""
        now = self._db.now_ms()
        first = -(2**63) if start is None else time_ms(start, now, "start")
        last = 2**63 - 1 if end is None else time_ms(end, now, "end")
        undo_ms = 0 if undo is None else duration_ms(undo, "undo")
        if first > last:
            raise ConfigError(f"delete: start {start!r} is after end {end!r}; give them in order")
        if not selectors or undo_ms < 0:
            raise ConfigError("delete: name the series by a selector, and give an undo of 0 or more")
        movers = self._db._movers()
        with ExitStack() as held:
            # Else a move may come in between, and take along what is deleted.
            for mover in movers:
                held.enter_context(mover.lock)
            cold = (
                piece
                for at, one in enumerate(selectors)
                if undo_ms
                for piece in self._db._tiers.pieces(one, first, last, selectors[:at])
            )
            done = self._trash.delete(self._db._native, selectors, first, last, now, undo_ms, cold)
            done = replace(done, cold_parts=sum(mover.delete(selectors, first, last) for mover in movers))
        if done.cold_parts:
            self._hurry()
        what = ", ".join(selectors)
        self._aging.log.add([Departure(now, "deleted", what, last, done.samples, done.series, done.bytes)])
        return done

    def undelete(self, name: str) -> int:
        """See ``Database.undelete``."""
        note, taken = self._trash.undelete(self._db._native, name)
        what, now = ", ".join(note.selectors), self._db.now_ms()
        self._aging.log.add([Departure(now, "undeleted", what, note.end_ms, taken, note.series)])
        return taken

    def deletions(self) -> pl.DataFrame:
        """See ``Database.deletions``."""
        rows = [
            (d.id, d.selectors, d.start_ms, d.end_ms, d.deleted_ms, d.until_ms, d.samples, d.series)
            for d in self._trash.deletions()
        ]
        times = dict.fromkeys(("start", "end", "deleted", "until"), pl.Int64)
        counts = {"samples": pl.UInt64, "series": pl.UInt64}
        frame = pl.DataFrame(
            rows, schema={"id": pl.String, "selectors": pl.List(pl.String), **times, **counts}, orient="row"
        )
        # The ends of time are further away than dates go.
        near = [pl.when(pl.col(name).is_between(-_FAR, _FAR)).then(name).cast(TIME).alias(name) for name in times]
        return frame.with_columns(near)

    def tick(self, now_ms: int) -> None:
        """Frees deletions that can be taken back no more."""
        self._trash.tick(now_ms)


def _identity(labels: pl.DataFrame) -> pl.Series:
    """A hash of each row's labels, whatever the columns of the frame."""
    if not labels.width:
        return pl.Series("series", [], dtype=pl.UInt64)
    each = [pl.lit(name + "\0") + pl.col(name) + "\0" for name in sorted(labels.columns)]
    return labels.select(pl.concat_str(each, ignore_nulls=True).hash().alias("series")).to_series()


def _governed(catalog: Catalog, part: Part, rules: Sequence[RetentionRule]) -> Ints:
    """The place of the rule that governs each series of a part; none: behind all."""
    series = catalog.series(part)["series"]
    found = np.full(len(series), len(rules), dtype=np.int64)
    for at in reversed(range(len(rules))):
        found[series.is_in(catalog.matching(part, [rules[at].selector]).implode()).to_numpy()] = at
    return found


def _why(rules: Sequence[RetentionRule], at: int) -> str:
    takes = rules[at].selector or "every series"
    if at == 0:
        return f"the first rule takes {takes}"
    return f"none of the {at} before takes it, and rule {at + 1} takes {takes}"


def _asked(rule: Any) -> list[Asked]:
    """The queries of an installed statement."""
    exprs = [query for alert in rule.alerts for query in alert.queries] or [rule.expr]
    return [Asked(rule.kind, rule.name, expr) for expr in dict.fromkeys(exprs)]
