"""What storage costs and what to do about it: the memory account and how chunks are stored, as frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Literal, get_args

import polars as pl

from metricsdb import frames
from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError, QueryLimit
from metricsdb.heap import freed_bytes

__all__ = ["FREED", "By", "advise", "compare_storage", "explain_storage", "memory"]

# Samples that `compare_storage` really writes, at most; the seed of which series they are of.
SAMPLES_MEASURED, SEED = 2_000_000, 7
# Metrics that `advise` names for nothing but their size, and tries a policy on.
LARGEST = 5
POLICY = "digits(4)"
# Samples on which `advise` tries the denser form.
SAMPLES_TRIED = 200_000
ADVICE = {
    "kind": pl.String,
    "subject": pl.String,
    "action": pl.String,
    "bytes_now": pl.UInt64,
    "bytes_saved": pl.UInt64,
    "share": pl.Float64,
}
Advice = tuple[str, str, str, float, float]
# Metric, series, samples, bytes, series that never changed, the metric that this one repeats.
Facts = tuple[str, int, int, int, int, str | None]

By = Literal["part", "metric", "label", "codec", "tier", "shard"]
# The row of what belongs to the process, and to none of its databases more than to others.
FREED = "(freed)"


def memory(native: NativeDatabase, by: By) -> pl.DataFrame:
    """See ``Database.memory``."""
    if by not in get_args(By):
        raise ConfigError(f"by {by!r} is no key of the memory account; use one of {', '.join(get_args(By))}")
    if by == "part":
        schema = {"part": pl.String, "bytes": pl.UInt64, "items": pl.UInt64}
        parts = pl.DataFrame([*native.memory(), (FREED, freed_bytes(), 0)], schema=schema, orient="row")
        return parts.with_columns(bytes_per_series=pl.col("bytes") / max(1, native.stats()["series"]))
    schema = {by: pl.String, "bytes": pl.UInt64, "series": pl.UInt64, "samples": pl.UInt64}
    rows = pl.DataFrame([*native.account(by), (FREED, freed_bytes(), 0, 0)], schema=schema, orient="row")
    return rows.sort(["bytes", by], descending=[True, False]).with_columns(
        bytes_per_series=_ratio("bytes", "series"),
        bytes_per_sample=_ratio("bytes", "samples"),
        share=pl.col("bytes") / pl.col("bytes").sum(),
    )


def _ratio(of: str, to: str) -> pl.Expr:
    """Null where nothing is counted."""
    return pl.when(pl.col(to) > 0).then(pl.col(of) / pl.col(to))


def explain_storage(native: NativeDatabase, selector: str, limit: int) -> pl.DataFrame:
    """See ``Database.explain_storage``."""
    if limit < 0:
        raise ConfigError(f"limit {limit} must not be negative")
    rows = native.explain_storage(selector, limit)
    return rows.select(
        "series",
        "tier",
        pl.col("first", "last").cast(frames.TIME),
        "samples",
        "bytes",
        bytes_per_sample=_ratio("bytes", "samples"),
        time_codec="time_codec",
        value_codec="value_codec",
        detail="detail",
    )


def compare_storage(native: NativeDatabase, selector: str | None) -> pl.DataFrame:
    """See ``Database.compare_storage``."""
    _, samples, sample_bytes, all_bytes = native.weigh(selector)
    measured = _measured(native, selector, samples)
    rows = [("16-byte pairs", 16.0 * samples, samples), ("float32 pairs", 12.0 * samples, samples)]
    for form, dtype in (("Parquet, zstd", pl.Float64), ("Parquet float32, zstd", pl.Float32)):
        file = BytesIO()
        measured.with_columns(pl.col("value").cast(dtype)).write_parquet(file, compression="zstd")
        rows.append((form, len(file.getvalue()) * samples / max(1, measured.height), measured.height))
    rows.append(("metricsdb", sample_bytes, samples))
    rows.append(("metricsdb, labels and index too", all_bytes, samples))
    schema = {"form": pl.String, "bytes": pl.Float64, "measured_samples": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row").select(
        "form",
        pl.col("bytes").round().cast(pl.UInt64),
        bytes_per_sample=pl.col("bytes") / max(1, samples),
        ratio_to_pairs=pl.col("bytes") / max(1, 16 * samples),
        measured_samples="measured_samples",
    )


def _measured(native: NativeDatabase, selector: str | None, samples: int) -> pl.DataFrame:
    """All samples of the selected series, or of as many of them, drawn by lot, as are allowed."""
    first, last = -(2**63), 2**63 - 1
    ids = native.series_frame([] if selector is None else [selector], first, last).select("series")
    count = ids.height * SAMPLES_MEASURED // max(1, samples)
    if count < ids.height:
        ids = ids.sample(max(1, count), seed=SEED)
    return native.read(ids.sort("series"), first, last).head(SAMPLES_MEASURED)


def advise(native: NativeDatabase, limit: int) -> pl.DataFrame:
    """See ``Database.advise``."""
    if limit < 0:
        raise ConfigError(f"limit {limit} must not be negative")
    total = max(1, sum(size for _, size, _ in native.memory()))
    facts = native.metric_facts()
    largest = [row[0] for row in sorted(facts, key=lambda row: -row[3])[:LARGEST]]
    rows = [*_label_advice(native), *_metric_advice(facts, largest), *_form_advice(native)]
    rows += _policy_advice(native, largest)
    rows = sorted((row for row in rows if row[4] >= 1), key=lambda row: (-row[4], row[:2]))[:limit]
    table = [(*row[:3], round(row[3]), round(row[4]), row[4] / total) for row in rows]
    return pl.DataFrame(table, schema=ADVICE, orient="row")


def _label_advice(native: NativeDatabase) -> Iterator[Advice]:
    held = {key: size for key, size, _, _ in native.account("label")}
    for label, values, series, now, left, saved in native.label_effects():
        if left == now:
            action = f"drop label {label}: {values:,} values on {series:,} series, which stay apart without it"
        else:
            each = ", all but one series each" if values * 10 > series * 9 else ""
            action = f"drop label {label}: {values:,} values{each}; {now:,} series become {left:,}"
        yield "label", label, action, held.get(label, 0), saved


def _metric_advice(facts: list[Facts], largest: list[str]) -> Iterator[Advice]:
    for metric, series, samples, size, constant, copy_of in facts:
        if copy_of is not None:
            action = f"drop metric {metric}: its {series:,} series repeat those of {copy_of}"
        elif constant == series and samples > series:
            action = f"drop metric {metric}: none of its {series:,} series ever changed"
        elif metric in largest:
            action = f"drop metric {metric} if nobody asks for it: {series:,} series, {samples:,} samples"
        else:
            continue
        yield "metric", metric, action, size, size


def _form_advice(native: NativeDatabase) -> Iterator[Advice]:
    """Sealed chunks in the denser form, tried on some of them."""
    size, before, after = native.preview_densify(SAMPLES_TRIED)
    if after < before:
        saved = size * (before - after) / before
        action = "re-encode old chunks: reencode(), or tick() with a smaller dense_after"
        yield "form", "sealed chunks", action, size, saved


def _policy_advice(native: NativeDatabase, largest: list[str]) -> Iterator[Advice]:
    """What digits that nobody reads cost, measured on the metrics that take most."""
    first, last = -(2**63), 2**63 - 1
    for metric in largest:
        selector = f"{{__name__={json.dumps(metric, ensure_ascii=False)}}}"
        try:
            rows = native.preview_precision(selector, POLICY, True, first, last, SAMPLES_MEASURED)
        except QueryLimit:
            continue  # too many samples to try it on all of them
        for _, _, _, now, then, _, error, _ in rows:
            action = f"precision.set('{selector}', '{POLICY}', rewrite=True): off by {error:.2g} of a value at most"
            yield "policy", metric, action, now, now - then
