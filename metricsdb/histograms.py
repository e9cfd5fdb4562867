"""Native histograms: the object that goes in, and the struct column that comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from metricsdb.errors import WriteError

ResetHint = Literal["unknown", "reset", "not_reset", "gauge"]
Spans = Sequence[tuple[int, int]]

_INTEGERS = (int, np.integer)


@dataclass(frozen=True, slots=True)
class Histogram:
    """One native histogram, as Prometheus has it; counts are absolute, never differences.

    A span ``(offset, length)`` stands for ``length`` neighbouring buckets; ``offset`` is the index of the first
    bucket in a side's first span, and how many buckets are left out in the others. Bucket ``i`` of schema ``s``
    (-4 to 8) holds what is above ``2 ** ((i - 1) / 2**s)`` and not above ``2 ** (i / 2**s)``; schema -53 has the
    upper bounds ``custom_values`` instead. Where all counts are integers, they are kept as uint64; where one is a
    float, all are float64. Raises ``WriteError`` for numbers that don't fit.
    """

    schema: int
    count: float
    sum: float
    zero_threshold: float = 0.0
    zero_count: float = 0
    positive_spans: Spans = ()
    positive_buckets: Sequence[float] = ()
    negative_spans: Spans = ()
    negative_buckets: Sequence[float] = ()
    custom_values: Sequence[float] = ()
    reset_hint: ResetHint = "unknown"

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        counts = [self.count, self.zero_count, *self.positive_buckets, *self.negative_buckets]
        whole = all(isinstance(n, _INTEGERS) for n in counts)
        for name in ("count", "zero_count"):
            put(name, _count(name, getattr(self, name), whole))
        for name in ("positive_buckets", "negative_buckets"):
            put(name, tuple(_count(name, n, whole) for n in getattr(self, name)))
        for name in ("positive_spans", "negative_spans"):
            put(name, _spans(name, getattr(self, name)))
        put("schema", _within("schema", self.schema, -(2**31), 2**31))
        for name in ("sum", "zero_threshold"):
            put(name, _float(name, getattr(self, name)))
        put("custom_values", tuple(_float("custom_values", v) for v in self.custom_values))


def _count(name: str, value: Any, whole: bool) -> float:
    return _within(name, value, 0, 2**64) if whole else _float(name, value)


def _float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WriteError(f"histogram {name} {value!r} is no number") from None


def _within(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, _INTEGERS) or not low <= value < high:
        raise WriteError(f"histogram {name} {value!r} is not an integer from {low} to {high - 1}")
    return int(value)


def _spans(name: str, spans: Iterable[Any]) -> Spans:
    found = []
    for span in spans:
        if len(span) != 2:
            raise WriteError(f"histogram {name} hold {span!r}; give pairs (offset, length)")
        offset, length = span
        found.append((_within(name, offset, -(2**31), 2**31), _within(name, length, 0, 2**32)))
    return tuple(found)


def as_list(histograms: Any) -> list[Histogram]:
    """One histogram or a sequence of them, as a list. Raises ``WriteError`` for anything else."""
    found = [histograms] if isinstance(histograms, Histogram) else list(histograms)
    for i, item in enumerate(found):
        if not isinstance(item, Histogram):
            raise WriteError(f"histogram {i} is a {type(item).__name__}; give metricsdb.Histogram objects")
    return found


def with_histogram(frame: pl.DataFrame, fields: pl.DataFrame | None) -> pl.DataFrame:
    """The frame with the fields of its histograms, if it has some, as a last column ``histogram`` (Struct, or null)."""
    if fields is None:
        return frame
    there = pl.col("schema").is_not_null()
    column = fields.select(pl.when(there).then(pl.struct(pl.all())).alias("histogram"))
    return frame.with_columns(column.to_series())
