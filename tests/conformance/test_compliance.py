"""Prometheus' own answers to 289 range queries over 225 series of a demo service."""

from __future__ import annotations

import gzip
import json
import math
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metricsdb as mdb

SHARED = Path(os.environ.get("METRICSDB_SHARED", Path(__file__).parents[3] / "shared"))
FOLDER = SHARED / "conformance" / "compliance"
STALE = np.uint64(0x7FF0000000000002)
# Prometheus 2.42 refused such label names; since 3.0 any UTF-8 text is one.
NOW_VALID = [
    'label_replace(demo_num_cpus, "~invalid", "", "src", "(.*)")',
    'label_join(demo_num_cpus, "~invalid", "-", "instance")',
]
Samples = dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]


def load(name: str) -> Any:
    path = FOLDER / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


QUERIES = [q["query"] for q in load("queries.json")] if FOLDER.is_dir() else []
needs_vectors = pytest.mark.skipif(not QUERIES, reason="no shared/conformance beside the repository")


@pytest.fixture(scope="module")
def db() -> mdb.Database:
    return stored()


def stored() -> mdb.Database:
    filled = mdb.Database()
    for series in load("series.json.gz"):
        times = np.cumsum(np.array(series["t"], dtype=np.int64)).view("datetime64[ms]")
        values = np.array([0.0 if v == "stale" else float(v) for v in series["v"]])
        values.view(np.uint64)[[v == "stale" for v in series["v"]]] = STALE
        report = filled.append(series["labels"], times, values)
        assert report.accepted == len(times)
    return filled


@cache
def answers() -> dict[str, Any]:
    return load("answers.json.gz")


def ask(db: mdb.Database, query: str) -> Samples:
    said = answers()
    start, end = (np.datetime64(said[k], "ms") for k in ("start_ms", "end_ms"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mdb.QueryWarning)
        frame = db.query_range(query, start, end, said["step_ms"] / 1000)
    labels = [c for c in frame.columns if c not in ("timestamp", "value")]
    found: Samples = {}
    times = frame["timestamp"].dt.epoch("ms").to_list()
    for row, time, value in zip(frame.select(labels).rows() or [()] * len(frame), times, frame["value"], strict=True):
        key = tuple(sorted((n, v) for n, v in zip(labels, row, strict=True) if v is not None))
        found.setdefault(key, []).append((time, value))
    return found


def agree(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b) or math.isinf(a) or math.isinf(b):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= 1e-5 * min(abs(a), abs(b))


@needs_vectors
@pytest.mark.parametrize("query", [q for q in QUERIES if q not in NOW_VALID])
def test_answers_are_prometheus_answers(db: mdb.Database, query: str) -> None:
    expected = answers()["answers"][query]
    if "error" in expected:
        with pytest.raises(mdb.QueryError):
            ask(db, query)
        return
    wanted: Samples = {
        tuple((n, v) for n, v in json.loads(key)): [(t, float(v)) for t, v in samples]
        for key, samples in expected["result"].items()
    }
    found = ask(db, query)
    assert sorted(found) == sorted(wanted)
    for key, samples in wanted.items():
        assert [t for t, _ in found[key]] == [t for t, _ in samples], key
        apart = [(t, a, b) for (t, a), (_, b) in zip(found[key], samples, strict=True) if not agree(a, b)]
        assert not apart, key


@needs_vectors
@pytest.mark.parametrize("query", NOW_VALID)
def test_any_text_is_a_label_name_as_since_prometheus_3(db: mdb.Database, query: str) -> None:
    found, plain = ask(db, query), ask(db, "demo_num_cpus")
    wanted = plain
    if query.startswith("label_join"):
        wanted = {tuple(sorted([*key, ("~invalid", dict(key)["instance"])])): s for key, s in plain.items()}
    assert found == wanted
