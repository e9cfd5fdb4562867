"""What goes in comes out, bit for bit, whatever the order, the kind and the duplicates."""

from __future__ import annotations

import itertools
import struct
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb

sys.path.insert(0, str(Path(__file__).parents[1]))
from twins.store import POLICIES, Store, bits

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-5, 40).map(lambda i: i * 1000) | st.integers(-(2**40), 2**42)
# Every 64-bit pattern is a float64: NaN payloads, subnormals, signed zeros, infinities.
ANY_FLOAT = st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0])
FLOATS = st.sampled_from([0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 5e-324]) | ANY_FLOAT
PLAIN = st.integers(-1000, 1000).map(float)


def as_column(values: list) -> np.ndarray:
    return np.array(values, dtype=np.int64 if isinstance(values[0], int) else np.float64)


def as_times(times: list[int]) -> np.ndarray:
    return np.array(times, dtype=np.int64).view("datetime64[ms]")


def stored(db: mdb.Database, selector: str) -> list[tuple[int, bytes]]:
    found = db.raw(selector, np.datetime64(-(2**50), "ms"), np.datetime64(2**50, "ms"))
    assert len(found) <= 1
    return [
        (int(t), bits(int(v) if row.values.dtype == np.int64 else float(v)))
        for row in found
        for t, v in zip(row.timestamps, row.values, strict=True)
    ]


batches = st.lists(st.lists(st.tuples(TIMES, FLOATS | PLAIN), min_size=1, max_size=40), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(batches, st.sampled_from(["last", "first"]))
def test_float_samples_come_back_bit_for_bit_in_any_order(batches: list, policy: str) -> None:
    db, twin = mdb.Database(duplicates=policy), Store(policy)
    for batch in batches:
        times, values = zip(*batch, strict=True)
        report = db.append({"__name__": "m"}, as_times(list(times)), as_column(list(values)))
        assert report.accepted == len(batch)
        twin.append({"__name__": "m"}, batch)
    assert stored(db, "m") == twin.read({"__name__": "m"}, -(2**50), 2**50)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TIMES, INT64), min_size=1, max_size=80))
def test_integers_stay_exact(samples: list) -> None:
    db, twin = mdb.Database(), Store()
    times, values = zip(*samples, strict=True)
    db.append({"__name__": "m"}, as_times(list(times)), as_column(list(values)))
    twin.append({"__name__": "m"}, samples)
    assert stored(db, "m") == twin.read({"__name__": "m"}, -(2**50), 2**50)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_duplicate_policy_decides_between_two_samples_for_one_time(policy: str) -> None:
    for old, new in itertools.permutations([1.0, 2.0]):
        db, twin = mdb.Database(duplicates=policy), Store(policy)
        db.append({"__name__": "m"}, as_times([10, 20, 30]), [0.0, old, 0.0])
        report = db.append({"__name__": "m"}, as_times([20]), [new])
        twin.append({"__name__": "m"}, [(10, 0.0), (20, old), (30, 0.0), (20, new)])
        assert stored(db, "m") == twin.read({"__name__": "m"}, 0, 100)
        if policy == "error":
            assert report.accepted == 0
            assert report.rejected["duplicate_sample"].count == 1


def test_sum_adds_duplicates_up() -> None:
    db = mdb.Database(duplicates="sum")
    for _ in range(3):
        db.append({"__name__": "m"}, as_times([5]), [2.0])
    assert stored(db, "m") == [(5, bits(6.0))]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_batches_over_many_series_land_where_they_belong(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    labels = [{"__name__": "m", "i": str(i)} for i in range(count)]
    db, twin = mdb.Database(), Store()
    refs = db.register(labels)
    for _ in range(data.draw(st.integers(1, 4))):
        rows = data.draw(st.lists(st.tuples(st.integers(0, count - 1), TIMES, PLAIN), min_size=1, max_size=100))
        which, times, values = zip(*rows, strict=True)
        db.append_batch(refs[list(which)], as_times(list(times)), np.array(values))
        for i, t, v in rows:
            twin.append(labels[i], [(t, v)])
    for i, label_set in enumerate(labels):
        assert stored(db, f'm{{i="{i}"}}') == twin.read(label_set, -(2**50), 2**50)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500), PLAIN), min_size=1, max_size=200))
def test_a_written_frame_scans_back_the_same(rows: list) -> None:
    frame = pl.DataFrame(
        {
            "host": [r[0] for r in rows],
            "timestamp": as_times([r[1] * 1000 for r in rows]),
            "value": [r[2] for r in rows],
        }
    )
    db = mdb.Database()
    assert db.write(frame, name="m").accepted == len(rows)
    # Last write wins, as a dict does.
    expected = {(h, t * 1000): v for h, t, v in rows}
    got = db.scan("m").collect()
    assert {
        (h, int(t)): v for h, t, v in zip(got["host"], got["timestamp"].dt.timestamp("ms"), got["value"], strict=True)
    } == expected
    some = db.scan("m").filter((pl.col("host") == "a") & (pl.col("value") > 0)).select("value").collect()
    assert sorted(some["value"]) == sorted(v for (h, _), v in expected.items() if h == "a" and v > 0)
