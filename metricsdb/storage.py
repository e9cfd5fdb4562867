"""What storage costs and what to do about it: the memory account and how chunks are stored, as frames."""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

from metricsdb import frames
from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError

__all__ = ["By", "explain_storage", "memory"]

By = Literal["part", "metric", "label", "codec", "tier", "shard"]


def memory(native: NativeDatabase, by: By) -> pl.DataFrame:
    """See ``Database.memory``."""
    if by not in get_args(By):
        raise ConfigError(f"by {by!r} is no key of the memory account; use one of {', '.join(get_args(By))}")
    if by == "part":
        schema = {"part": pl.String, "bytes": pl.UInt64, "items": pl.UInt64}
        parts = pl.DataFrame(native.memory(), schema=schema, orient="row")
        return parts.with_columns(bytes_per_series=pl.col("bytes") / max(1, native.stats()["series"]))
    schema = {by: pl.String, "bytes": pl.UInt64, "series": pl.UInt64, "samples": pl.UInt64}
    rows = pl.DataFrame(native.account(by), schema=schema, orient="row")
    return rows.with_columns(
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
