"""What comes in as frames, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from metricsdb.errors import WriteError

__all__ = ["Rejected", "WriteReport", "by_series", "report"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Samples refused for one reason."""

    count: int
    example: str


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of one call's samples; ``accepted`` and the counts in ``rejected`` add up to what came.

    ``duplicates`` and ``out_of_order`` are counted among ``accepted``.
    """

    accepted: int
    duplicates: int
    out_of_order: int
    series_created: int
    rejected: dict[str, Rejected]

    @property
    def rejected_total(self) -> int:
        return sum(r.count for r in self.rejected.values())


def report(parts: tuple[int, int, int, int, list[tuple[str, int, str]]], registered: int = 0) -> WriteReport:
    """Of a native call's counts; ``registered``: series that were made for it before."""
    accepted, duplicates, out_of_order, created, rejected = parts
    return WriteReport(
        accepted,
        duplicates,
        out_of_order,
        created + registered,
        {r: Rejected(n, example) for r, n, example in rejected},
    )


def by_series(frame: Any, value: str, timestamp: str, name: str | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A long frame's rows that have a value, with ``§row``, the number of their series; and these series.

    Of the series a String column a label. Raises ``WriteError``, naming the column.
    """
    table = _long_frame(frame, value, timestamp)
    labels = [c for c in table.columns if c not in (value, timestamp, "series")]
    if name is not None:
        table = table.with_columns(pl.lit(name).alias("__name__"))
        labels = list(dict.fromkeys([*labels, "__name__"]))
    if "__name__" not in labels:
        raise WriteError("the frame has no metric name; add a '__name__' column or pass name=")
    wrong = [f"{n}: {table[n].dtype}" for n in labels if table[n].dtype.is_nested()]
    if wrong:
        raise WriteError(f"label columns must be text or plain values, not {', '.join(wrong)}; cast or drop them")
    table = table.filter(pl.col(value).is_not_null())
    table = table.with_columns(pl.col(labels).cast(pl.String), pl.struct(labels).rank("dense").alias("§row"))
    keys = table.unique("§row", keep="first").sort("§row")
    return table.with_columns(pl.col("§row") - 1), keys.select(labels)


def _long_frame(frame: Any, value: str, timestamp: str) -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame) and not hasattr(frame, "__arrow_c_stream__"):
        raise WriteError(f"a {type(frame).__name__} is no frame; pass Polars or anything with __arrow_c_stream__")
    table = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
    for column in (value, timestamp):
        if column not in table.columns:
            raise WriteError(f"the frame has no column {column!r}; it has {table.columns}")
    if not table[value].dtype.is_numeric() and table[value].dtype != pl.Boolean:
        raise WriteError(f"column {value!r} is {table[value].dtype}; values must be numbers")
    return table
