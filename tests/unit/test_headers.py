"""Windows of whole blocks are answered from the heads of chunks; the counter of decoded samples shows it."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb

STEP_S, BLOCK, BLOCKS = 15, 512, 12
SAMPLES = BLOCK * BLOCKS
END = (SAMPLES - 1) * STEP_S


def filled(values: np.ndarray) -> mdb.Database:
    db = mdb.Database()
    db.append({"__name__": "m_total"}, (np.arange(SAMPLES) * STEP_S * 1000).astype("datetime64[ms]"), values)
    return db


def decoded(db: mdb.Database) -> int:
    return int(db.stats().filter(pl.col("name") == "decoded_samples")["value"][0])


def ask(db: mdb.Database, expr: str, time: float = END) -> tuple[float, int]:
    before = decoded(db)
    frame = db.query(expr, time)
    return frame["value"][0], decoded(db) - before


COUNTER = np.cumsum(np.random.default_rng(3).poisson(40, SAMPLES)).astype(float)
GAUGE = np.random.default_rng(4).integers(0, 1000, SAMPLES) / 10


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("count_over_time(m_total[2d])", SAMPLES),
        ("sum_over_time(m_total[2d])", COUNTER.sum()),
        ("avg_over_time(m_total[2d])", COUNTER.mean()),
        ("min_over_time(m_total[2d])", COUNTER.min()),
        ("max_over_time(m_total[2d])", COUNTER.max()),
        ("last_over_time(m_total[2d])", COUNTER[-1]),
        ("resets(m_total[2d])", 0),
        ("present_over_time(m_total[2d])", 1),
    ],
)
def test_a_counter_is_answered_without_decoding(expr, wanted):
    value, cost = ask(filled(COUNTER), expr)
    assert math.isclose(value, wanted, rel_tol=1e-12)
    assert cost == 0


def test_a_rate_over_whole_blocks_decodes_its_edges_alone():
    db = filled(COUNTER)
    window = 10 * BLOCK * STEP_S + 100 * STEP_S
    value, cost = ask(db, f"increase(m_total[{window}s])")
    inside = COUNTER[-(10 * BLOCK + 100) :]
    gain = inside[-1] - inside[0]
    assert math.isclose(value, gain * window / ((len(inside) - 1) * STEP_S), rel_tol=1e-9)
    assert 0 < cost <= BLOCK


def test_a_gauge_needs_its_values_only_where_falls_count():
    db = filled(GAUGE)
    assert ask(db, "max_over_time(m_total[2d])") == (GAUGE.max(), 0)
    value, cost = ask(db, "resets(m_total[2d])")
    assert (value, cost) == ((np.diff(GAUGE) < 0).sum(), SAMPLES)


def test_windows_side_by_side_are_answered_from_heads_too():
    db = filled(GAUGE)
    before = decoded(db)
    width = 4 * BLOCK * STEP_S
    frame = db.query_range(f"sum_over_time(m_total[{width}s])", width - STEP_S, END, width)
    assert np.allclose(frame["value"], GAUGE.reshape(-1, 4 * BLOCK).sum(axis=1), rtol=1e-12)
    assert decoded(db) == before


FUNCTIONS = ["count", "sum", "avg", "min", "max", "last", "first"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, SAMPLES - 1),
    st.integers(1, SAMPLES),
    st.sampled_from([*(f"{f}_over_time" for f in FUNCTIONS), "rate", "increase", "delta", "resets"]),
    st.lists(st.tuples(st.integers(0, SAMPLES - 1), st.sampled_from([math.nan, 0.0, 1e300, -5.0])), max_size=5),
)
def test_heads_say_what_samples_say(end, width, function, odd):
    values = COUNTER.copy()
    for at, value in odd:
        values[at] = value
    window = f"[{width * STEP_S}s]"
    fast = filled(values).query(f"{function}(m_total{window})", end * STEP_S)["value"].to_list()
    # A subquery over each sample is evaluated sample by sample.
    slow = filled(values).query(f"{function}(m_total{window[:-1]}:{STEP_S}s])", end * STEP_S)["value"].to_list()
    assert len(fast) == len(slow)
    for a, b in zip(fast, slow, strict=True):
        assert a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-11)
