"""Shapes in which answers come back: long frames, wide frames, and their time column."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("ms", "UTC")


def finish(frame: pl.DataFrame) -> pl.DataFrame:
    """Gives the native ``timestamp`` column (int64 ms) its type. No copy."""
    return frame.with_columns(pl.col("timestamp").cast(TIME))


def widen(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per timestamp, one ``Float64`` column per series, named as PromQL prints the series.

    Takes a long frame (label columns, ``timestamp``, ``value``). Missing samples are null.
    """
    labels = [c for c in frame.columns if c not in ("timestamp", "value")]
    if frame.is_empty():
        return frame.select("timestamp")
    return (
        frame.with_columns(_series_text(labels).alias("series"))
        .pivot(on="series", index="timestamp", values="value")
        .sort("timestamp")
    )


def _escaped(text: pl.Expr) -> pl.Expr:
    """Quotes, backslashes and line breaks as PromQL writes them inside a string."""
    for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.str.replace_all(plain, written, literal=True)
    return text


def _series_text(labels: list[str]) -> pl.Expr:
    pairs = [
        pl.when(pl.col(c).is_not_null()).then(pl.concat_str(pl.lit(f'{c}="'), _escaped(pl.col(c)), pl.lit('"')))
        for c in labels
        if c != "__name__"
    ]
    body = pl.concat_str(pairs, separator=", ", ignore_nulls=True) if pairs else pl.lit("")
    name = pl.col("__name__").fill_null("") if "__name__" in labels else pl.lit("")
    return pl.concat_str(name, pl.lit("{"), body, pl.lit("}"))
