"""Shapes in which answers come back: long frames, wide frames, and their time column."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("ms", "UTC")


def finish(frame: pl.DataFrame) -> pl.DataFrame:
    """Gives the native ``timestamp`` column (int64 ms) its type. No copy."""
    return frame.with_columns(pl.col("timestamp").cast(TIME))
