"""How answers come back: the type of their time column, and the warnings that are told beside them."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("ms", "UTC")


class QueryWarning(UserWarning):
    """PromQL's warning: the answer is probably not what was meant."""


class QueryInfo(QueryWarning):
    """PromQL's info: the answer stands, the query may be improved."""


def finish(frame: pl.DataFrame) -> pl.DataFrame:
    """Gives the native ``timestamp`` column (int64 ms) its type. No copy."""
    return frame.with_columns(pl.col("timestamp").cast(TIME))
