"""A twin's store in the database, and the database's answers as the twin gives them."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np

import metricsdb as mdb
from tests.server.remote_write import Request2
from tests.twins.histograms import Buckets, Histogram
from tests.twins.promql import Data, Labels
from tests.twins.remarks import NO_COUNTER_NAME, UNTOLD, kind_of
from tests.twins.windows import Started, Value

STALE = np.uint64(0x7FF0000000000002)

Steps = tuple[int, int, int]  # start, end, step
Answer = dict[Labels, list[tuple[int, Value]]]


def spans(buckets: Buckets) -> tuple[list[tuple[int, int]], list[float]]:
    """One span a bucket."""
    indices = sorted(buckets)
    gaps = [b - a - 1 for a, b in itertools.pairwise(indices)]
    return [(offset, 1) for offset in [*indices[:1], *gaps]], [buckets[i] for i in indices]


def written(h: Histogram) -> mdb.Histogram:
    sides = {}
    for name, buckets in (("positive", h.positive), ("negative", h.negative)):
        sides[f"{name}_spans"], sides[f"{name}_buckets"] = spans(buckets)
    hint = "gauge" if h.hint == "gauge" else "unknown"
    plain = (h.schema, h.count, h.sum, h.zero_threshold, h.zero_count)
    return mdb.Histogram(*plain, custom_values=h.bounds, reset_hint=hint, **sides)


def read(fields: dict[str, Any]) -> Histogram:
    sides = []
    for name in ("positive", "negative"):
        indices, at = [], 0
        for offset, length in fields[f"{name}_spans"]:
            indices += range(at + offset, at + offset + length)
            at += offset + length
        sides.append(dict(zip(indices, fields[f"{name}_buckets"], strict=True)))
    plain = {name: fields[name] for name in ("schema", "count", "sum", "zero_threshold", "zero_count")}
    return Histogram(**plain, positive=sides[0], negative=sides[1], bounds=tuple(fields["custom_values"]))


def filled(data: Data) -> mdb.Database:
    db = mdb.Database()
    for labels, column in data.items():
        numbers = [(t, v) for t, v in column if not isinstance(v, Histogram)]
        if any(isinstance(v, Started) for _, v in numbers):
            request, stale = Request2(), float(STALE.view("float64"))
            request.add(
                dict(labels), [(t, stale, 0) if v is None else (t, v, getattr(v, "start", 0)) for t, v in numbers]
            )
            db.ingest(request.body(), format="remote_write_v2")
        elif numbers:
            values = np.array([0.0 if v is None else v for _, v in numbers])
            values.view(np.uint64)[[v is None for _, v in numbers]] = STALE
            db.append(dict(labels), np.array([t for t, _ in numbers], dtype="datetime64[ms]"), values)
        histograms = [(t, v) for t, v in column if isinstance(v, Histogram)]
        if histograms:
            at = np.array([t for t, _ in histograms], dtype="datetime64[ms]")
            db.append_histograms(dict(labels), at, [written(v) for _, v in histograms])
    return db


def answer(db: mdb.Database, query: str, steps: Steps) -> tuple[Answer, set[str]]:
    """The rows, and the kinds of remarks."""
    start, end, step = steps
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", mdb.QueryWarning)
        frame = db.query_range(query, np.datetime64(start, "ms"), np.datetime64(end, "ms"), step / 1000)
    names = [c for c in frame.columns if c not in ("timestamp", "value", "histogram")]
    found: Answer = {}
    for row in frame.with_columns(frame["timestamp"].dt.epoch("ms")).iter_rows(named=True):
        labels = tuple(sorted((n, row[n]) for n in names if row[n] is not None))
        value = read(row["histogram"]) if row.get("histogram") is not None else row["value"]
        found.setdefault(labels, []).append((row["timestamp"], value))
    return found, {kind_of(str(w.message)) for w in said}


def close(a: Value, b: Value) -> bool:
    if isinstance(a, Histogram) and isinstance(b, Histogram):
        return alike(a, b)
    if isinstance(a, Histogram) or isinstance(b, Histogram):
        return False
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def alike(a: Histogram, b: Histogram) -> bool:
    if (a.schema, a.zero_threshold, a.bounds) != (b.schema, b.zero_threshold, b.bounds):
        return False
    sides = [(a.positive, b.positive), (a.negative, b.negative)]
    counts = [(x.get(i, 0.0), y.get(i, 0.0)) for x, y in sides for i in {*x, *y}]
    return all(close(x, y) for x, y in [(a.count, b.count), (a.sum, b.sum), (a.zero_count, b.zero_count), *counts])


def difference(found: Answer, expected: Answer) -> str | None:
    if set(found) != set(expected):
        return f"only the evaluator: {sorted({*found} - {*expected})}\nonly the twin: {sorted({*expected} - {*found})}"
    for labels, row in expected.items():
        if [t for t, _ in found[labels]] != [t for t, _ in row]:
            return f"{labels}\nevaluator: {found[labels]}\ntwin: {row}"
        for (t, a), (_, b) in zip(found[labels], row, strict=True):
            if not close(a, b):
                return f"{labels} at {t}\nevaluator: {a}\ntwin: {b}"
    return None


def misheard(found: set[str], expected: set[str], perhaps: set[str], of_all_steps: bool) -> str | None:
    """How remarks differ. Without `of_all_steps` the evaluator looked at more times than the twin did, and knows
    whether values between were counters; names it remarks on for samples between windows, too."""
    found, expected = ({r for r in said if not any(words in r for words in UNTOLD)} for said in (found, expected))
    if not of_all_steps:
        expected = {r for r in expected if "native histogram metric is not" not in r}
        found = found & expected
    more = found - expected - perhaps - {NO_COUNTER_NAME}
    return f"remarks of the evaluator: {found}\nof the twin: {expected}" if more or expected - found else None
