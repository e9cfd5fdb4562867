"""Rollups of one database, as ``db.rollups``: policies, what stands, records, and what a policy would cost."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from metricsdb import charts
from metricsdb._native import NativeDatabase
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.lifecycle.rollups import Kind, Progress, Rolled, Roller, RollupEstimate, RollupLevel, RollupPolicy
from metricsdb.times import DurationLike, Time, duration_ms, duration_text

if TYPE_CHECKING:
    import altair as alt

    from metricsdb.database import Database

__all__ = ["RollupPreview", "Rollups"]

# Functions that a preview compares: of gauges, and of counters.
_GAUGE = ("min", "max", "avg", "sum", "count", "stddev", "last", "quantile")
_COUNTER = ("rate", "increase", "max", "min", "count")
_NAMED_COUNTER = re.compile(r"(_total|_count|_sum|_bucket)\b")
# Windows of a preview, in buckets.
_WINDOW = 4


class Rollups:
    """The rollup policies of one database. The first whose selector takes a series governs it."""

    def __init__(self, db: Database, roller: Roller, clock: Clock) -> None:
        self._db, self._roller, self._clock = db, roller, clock

    @property
    def policies(self) -> tuple[RollupPolicy, ...]:
        return self._roller.policies

    def use(self, policies: Mapping[str, str] | Sequence[RollupPolicy]) -> None:
        """Replaces all policies. Records that there are stay and are kept as the new policy of their series says.

        Raises ``ConfigError``; nothing is changed then.
        """
        if isinstance(policies, Mapping):
            policies = [RollupPolicy.parse(selector, text) for selector, text in policies.items()]
        self._roller.use(policies)

    def set(self, selector: str, policy: str, *, kind: Kind | None = None) -> None:
        """Adds a policy behind all others, or replaces that of the same selector in its place.

        ``policy`` is a line such as ``"raw 6h -> 1m 7d -> 1h"``: raw samples stay six hours, records of minutes seven
        days, those of hours for good; ``"none"`` for no records. ``kind``: ``"counter"``, ``"gauge"`` or
        ``"states"``, where type, name and behaviour would say otherwise (``kinds`` shows it). Of series that have
        records a counter stays one, and what is none stays none. Raises ``ConfigError``; nothing is changed then.
        """
        new = RollupPolicy.parse(selector, policy, kind)
        known = [p.selector for p in self.policies]
        at = known.index(selector) if selector in known else len(known)
        self._roller.use((*self.policies[:at], new, *self.policies[at + 1 :]))

    def remove(self, selector: str) -> None:
        """Takes the policy of a selector away: no new records are made by it; those that there are stay."""
        rest = tuple(p for p in self.policies if p.selector != selector)
        if len(rest) == len(self.policies):
            known = ", ".join(repr(p.selector) for p in self.policies) or "none"
            raise ConfigError(f"rollups: no policy has the selector {selector!r}; those that have one: {known}")
        self._roller.use(rest)

    def list(self) -> pl.DataFrame:
        """The policies in order: ``selector``, ``policy``, ``kind`` (null: found out)."""
        rows = [(p.selector, str(p), p.kind) for p in self.policies]
        return pl.DataFrame(rows, schema=dict.fromkeys(("selector", "policy", "kind"), pl.String), orient="row")

    def run(self, *, samples_per_second: float | None = None, progress: Progress | None = None) -> Rolled:
        """One pass over all series now, as the backfill of a new policy; ``tick`` does the same bit by bit.

        Each series that was rolled stays so when the pass is stopped: another one goes on from there.
        ``samples_per_second`` bounds how fast samples are read; ``progress(share, rolled)`` is called after each step.
        Raises ``NotDurable``.
        """
        return self._roller.all(
            self._db._native, self._db.now_ms(), self._clock.monotonic, samples_per_second, progress
        )

    def estimate(self) -> RollupEstimate:
        """A dry run: what ``run`` would do now. Counts series and samples, tries a part of them, changes nothing."""
        return self._roller.estimate(self._db._native, self._db.now_ms(), self._clock.monotonic)

    @property
    def done(self) -> Rolled:
        """What was rolled since the database was opened."""
        return self._roller.done

    def levels(self) -> pl.DataFrame:
        """What stands: ``level``, ``series``, ``records``, ``bytes``, ``bytes_per_record``, ``start``, ``end``."""
        rows = [(duration_text(every), *rest) for every, *rest in self._db._native.rollup_levels()]
        schema = {"level": pl.String, "series": pl.UInt64, "records": pl.UInt64, "bytes": pl.UInt64}
        frame = pl.DataFrame(rows, schema={**schema, "start": pl.Int64, "end": pl.Int64}, orient="row")
        per_record = (pl.col("bytes") / pl.col("records")).alias("bytes_per_record")
        return frame.select(*schema, per_record, pl.col("start", "end").cast(TIME))

    def columns(self) -> pl.DataFrame:
        """Where the bytes of records go: ``level``, ``column``, ``bytes`` (encoded)."""
        rows = [(duration_text(every), *rest) for every, *rest in self._db._native.rollup_columns()]
        return pl.DataFrame(rows, schema={"level": pl.String, "column": pl.String, "bytes": pl.UInt64}, orient="row")

    def kinds(self, selector: str) -> pl.DataFrame:
        """What series with records are taken for, a row a series: labels, ``kind``.

        ``counter``, ``gauge``, ``states`` (a gauge of few whole numbers, whose records have states), ``histogram``
        (native ones). Decided when a series gets its first record. Raises ``ParseError``.
        """
        return self._db._native.rollup_kinds(selector)

    def records(
        self, selector: str, level: DurationLike, start: Time | None = None, end: Time | None = None
    ) -> pl.DataFrame:
        """Records of a width, a row a bucket, those that no pass has made yet included (not of native histograms).

        Columns: labels, ``start`` and ``timestamp`` of the bucket, which holds the samples in (start, timestamp], then
        ``count``, ``sum``, ``min``, ``max``, ``first``, ``last``, ``first_time``, ``last_time``, ``stddev`` (of the
        population), ``increase`` (within the bucket, resets taken into account), ``resets``, ``unkept`` (samples that
        stray, but that the policy's share was too small for), ``quantile_error`` (of native histograms whose buckets
        were merged, since the policy allows fewer: by which share of it a quantile may be off; else null). Of native
        histograms the columns of values are null. Raises ``ConfigError``, ``ParseError``.
        """
        every = duration_ms(level, "level")
        if every < 1000:
            raise ConfigError(f"level {level!r} must be a second at least")
        frame = self._store(selector, times := self._db._range(start, end)).rollup_records(selector, every, *times)
        return frame.with_columns(pl.col("start", "timestamp", "first_time", "last_time").cast(TIME))

    def _store(self, selector: str, times: tuple[int, int]) -> NativeDatabase:
        """What stands in memory, and in the cold store. Raises ``ColdStoreError``."""
        return self._db._tiers.select([selector], *times)

    def states(
        self, selector: str, level: DurationLike, start: Time | None = None, end: Time | None = None
    ) -> pl.DataFrame:
        """How often and for how long each value was seen: a row a bucket and value, of policies ``with states``
        and of series whose kind is ``states``.

        Columns: labels, ``start`` and ``timestamp`` of the bucket, ``value``, ``count`` of its samples, ``seconds``. A
        value holds from its sample to the next, the last one of a bucket to the bucket's end. Buckets that no pass has
        made yet, and those of more than 16 values, have no rows. Raises ``ConfigError``, ``ParseError``.
        """
        every = duration_ms(level, "level")
        frame = self._store(selector, times := self._db._range(start, end)).rollup_states(selector, every, *times)
        return frame.with_columns(pl.col("start", "timestamp").cast(TIME))

    def kept(self, selector: str, start: Time | None = None, end: Time | None = None) -> pl.DataFrame:
        """Samples that survived beside records: labels, ``timestamp``, ``value``."""
        frame = self._store(selector, times := self._db._range(start, end)).rollup_kept(selector, *times)
        return frame.with_columns(pl.col("timestamp").cast(TIME))

    def preview(
        self,
        policy: str,
        selector: str,
        *,
        start: Time | None = None,
        end: Time | None = None,
        kind: Kind | None = None,
        max_samples: int = 2_000_000,
    ) -> RollupPreview:
        """What a policy would save on what is stored, and what it would cost in exactness; changes nothing.

        A copy of the selected samples (the newest ``max_samples`` of them) is rolled up in a database of its own, level
        by level, and queried beside the samples.
        """
        wanted = RollupPolicy.parse(selector, policy, kind)
        frame = self._db.scan(selector)
        low, high = self._db._range(start, end)
        times = pl.col("timestamp").dt.timestamp("ms")
        samples = frame.filter(times.is_between(low, high)).collect()
        if samples.is_empty():
            raise ConfigError(f"rollups: {selector!r} has no sample in this range; preview a selector that has some")
        if samples.height > max_samples:
            samples = samples.sort("timestamp").tail(max_samples)
        return _preview(type(self._db), samples, wanted)


@dataclass(frozen=True)
class RollupPreview:
    """``sizes``: a row for raw samples and each level. ``errors``: one for each level, function and kind of window."""

    policy: str
    sizes: pl.DataFrame
    errors: pl.DataFrame

    def plot(self) -> alt.VConcatChart:
        """Bytes of samples and of each level, and errors by function. Raises ``ConfigError`` without Altair."""
        return charts.preview(self.sizes, self.errors, self.policy)

    def __repr__(self) -> str:
        return f"{self.policy}\n{self.sizes}\n{self.errors}"


def _preview(make: type[Database], samples: pl.DataFrame, policy: RollupPolicy) -> RollupPreview:
    labels = [c for c in samples.columns if c not in ("series", "timestamp", "value")]
    frame = samples.select(*labels, "timestamp", "value")
    last = samples["timestamp"].dt.timestamp("ms").max()
    first = samples["timestamp"].dt.timestamp("ms").min()
    assert isinstance(first, int)
    assert isinstance(last, int)
    raw = make(max_samples=10**12)
    raw.write(frame)
    raw.reencode()
    raw_bytes = _sample_bytes(raw)
    sizes = [("raw", samples.height, raw_bytes, raw_bytes / samples.height, 1.0)]
    errors: list[pl.DataFrame] = []
    for at, level in enumerate(policy.levels):
        rolled = make(max_samples=10**12)
        rolled.write(frame)
        # Nothing finer than this level is left.
        finer = (RollupLevel(below.every_ms, 0) for below in policy.levels[:at])
        chain = (*finer, RollupLevel(level.every_ms))
        end = last - last % level.every_ms
        rules = [replace(policy, levels=chain, raw_ms=0).native]
        shard = 0
        while shard < 256:
            shard = rolled._native.roll(rules, (end, 0, 1), shard, 1 << 40)[0]
        kept = rolled.rollups.levels().filter(pl.col("level") == duration_text(level.every_ms))
        if kept.is_empty():
            continue
        records, size = int(kept["records"][0]), int(kept["bytes"][0])
        sizes.append((duration_text(level.every_ms), records, size, size / max(records, 1), size / raw_bytes))
        errors += _compare(raw, rolled, policy, level.every_ms, (first, end))
    schema = {"level": pl.String, "rows": pl.UInt64, "bytes": pl.UInt64, "bytes_per_row": pl.Float64}
    table = pl.DataFrame(sizes, schema={**schema, "share_of_raw": pl.Float64}, orient="row")
    return RollupPreview(str(policy), table, pl.concat(errors) if errors else pl.DataFrame(schema=_ERRORS))


_ERRORS = {
    "level": pl.String,
    "function": pl.String,
    "windows": pl.String,
    "points": pl.UInt32,
    "missing": pl.UInt32,
    "p99_error": pl.Float64,
    "worst_error": pl.Float64,
}


def _sample_bytes(db: Database) -> int:
    parts = db.memory().filter(pl.col("part").str.contains("chunks|shared columns|histograms"))
    return int(parts["bytes"].sum())


def _compare(
    raw: Database, rolled: Database, policy: RollupPolicy, every_ms: int, span: tuple[int, int]
) -> list[pl.DataFrame]:
    """Relative errors of window functions: of windows of whole buckets, and of windows that cut some."""
    step, window = every_ms / 1000, _WINDOW * every_ms / 1000
    begin = (span[0] // every_ms + _WINDOW + 1) * step
    counts = policy.kind == "counter" or (policy.kind is None and _NAMED_COUNTER.search(policy.selector) is not None)
    functions = _COUNTER if counts else _GAUGE
    rows = []
    for function in functions:
        name = function if function in ("rate", "increase") else f"{function}_over_time"
        argument = "0.99, " if function == "quantile" else ""
        # A selector may take several metrics.
        expr = f"{name}({argument}{policy.selector}[{window:g}s]) keep_metric_names"
        for kind, shift in (("whole buckets", 0.0), ("any", step / 3)):
            if begin + shift > span[1] / 1000:
                continue
            with warnings.catch_warnings():
                # That records answer approximately is what is measured here.
                warnings.simplefilter("ignore")
                grid = (begin + shift, span[1] / 1000, step)
                answers = [db.query_range(expr, *grid, cache=False) for db in (raw, rolled)]
            rows.append(_error_row(answers, duration_text(every_ms), function, kind))
    return rows


def _error_row(answers: Sequence[pl.DataFrame], level: str, function: str, windows: str) -> pl.DataFrame:
    true, found = answers
    keys = [c for c in true.columns if c != "value"]
    both = true.join(found, on=keys, how="left", suffix="_rolled", nulls_equal=True)
    apart = (pl.col("value_rolled") - pl.col("value")).abs()
    # Of values that pass through zero, the usual size of the series' values is what an error is measured by.
    scale = pl.max_horizontal(pl.col("value").abs(), pl.col("value").abs().mean())
    error = pl.when(apart == 0).then(0.0).otherwise(apart / scale).drop_nans()
    present = pl.col("value_rolled").is_not_null()
    return both.select(
        pl.lit(level).alias("level"),
        pl.lit(function).alias("function"),
        pl.lit(windows).alias("windows"),
        pl.len().cast(pl.UInt32).alias("points"),
        (~present).sum().cast(pl.UInt32).alias("missing"),
        error.quantile(0.99).alias("p99_error"),
        error.max().alias("worst_error"),
    ).head(1)
