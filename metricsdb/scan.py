"""A selector as a Polars ``LazyFrame`` that reads only what the query around it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from metricsdb.frames import TIME, finish

if TYPE_CHECKING:
    from metricsdb.database import Database

_EVER = (-(2**63), 2**63 - 1)


def scan(db: Database, selector: str) -> pl.LazyFrame:
    """Columns ``series`` (UInt64), one String per label, ``timestamp``, ``value``.

    Filters on labels choose series before any sample is read, comparisons of ``timestamp`` with a literal
    bound the range that is decoded, and label columns that are not asked for are not built. The label
    columns are those that the selected series have when ``scan`` is called.
    """
    series = db._tiers.names([selector], *_EVER).series_frame([selector], *_EVER)
    labels = [c for c in series.columns if c != "series"]
    schema: dict[str, Any] = {"series": pl.UInt64, **dict.fromkeys(labels, pl.String)}
    schema |= {"timestamp": TIME, "value": pl.Float64}

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema) if columns is None else columns
        chosen = db._native.series_frame([selector], *_EVER)
        chosen = chosen.select(
            pl.col(c) if c in chosen.columns else pl.lit(None, pl.String).alias(c) for c in ("series", *labels)
        )
        start, end = _EVER
        for part in [] if predicate is None else _conjuncts(predicate):
            roots = set(part.meta.root_names())
            if roots and roots <= {"series", *labels}:
                chosen = chosen.filter(part)
            elif roots == {"timestamp"}:
                start, end = _narrow(part, start, end)
        needed = set(wanted) | (set(predicate.meta.root_names()) if predicate is not None else set())
        native = db._tiers.select([selector], start, end)
        if native is not db._native:
            found = finish(native.select(selector, start, end)).lazy()
            found = found.select(
                pl.col(c) if c in found.collect_schema() else pl.lit(None, t).alias(c) for c, t in schema.items()
            )
            found = found if predicate is None else found.filter(predicate)
            found = found.select(wanted)
            yield (found if n_rows is None else found.head(n_rows)).collect()
            return
        rows_left = n_rows
        for block in chosen.iter_slices(_series_per_block(batch_size)):
            frame = db._read_series(block, [c for c in labels if c in needed], start, end)
            if predicate is not None:
                frame = frame.filter(predicate)
            frame = frame.select(wanted)
            if rows_left is not None:
                frame = frame.head(rows_left)
                rows_left -= frame.height
            yield frame
            if rows_left == 0:
                return

    return register_io_source(read, schema=schema)


def _series_per_block(batch_size: int | None) -> int:
    # Some hundred samples a series are usual; the batch size is a wish, not a contract.
    return max(64, (batch_size or 1_000_000) // 250)


def _conjuncts(predicate: pl.Expr) -> list[pl.Expr]:
    """The parts of ``a & b & c``, so that each can be pushed down alone."""
    todo, parts = [json.loads(predicate.meta.serialize(format="json"))], []
    while todo:
        node = todo.pop()
        binary = node.get("BinaryExpr") if isinstance(node, dict) else None
        if binary and binary["op"] == "And":
            todo += [binary["left"], binary["right"]]
        else:
            parts.append(pl.Expr.deserialize(json.dumps(node).encode(), format="json"))
    return parts


_FLIPPED = {"Lt": "Gt", "LtEq": "GtEq", "Gt": "Lt", "GtEq": "LtEq", "Eq": "Eq"}


def _narrow(part: pl.Expr, start: int, end: int) -> tuple[int, int]:
    """The range that ``timestamp OP literal`` leaves of start..end (ms, closed); unknown forms leave all."""
    binary = json.loads(part.meta.serialize(format="json")).get("BinaryExpr")
    if not binary or binary["op"] not in _FLIPPED:
        return start, end
    op, left, right = binary["op"], binary["left"], binary["right"]
    if "Column" in right:
        op, left, right = _FLIPPED[op], right, left
    if left != {"Column": "timestamp"} or "Literal" not in right:
        return start, end
    literal = pl.Expr.deserialize(json.dumps(right).encode(), format="json")
    at = pl.select(literal).to_series()
    if not isinstance(at.dtype, pl.Datetime) or at[0] is None:
        return start, end
    # Compared in microseconds or finer, a bound may fall between two milliseconds: floor and let the
    # filter that follows decide the edge.
    ms = int(at.dt.timestamp("us")[0]) // 1000
    if op in ("Gt", "GtEq", "Eq"):
        start = max(start, ms)
    if op in ("Lt", "LtEq", "Eq"):
        end = min(end, ms)
    return start, end
