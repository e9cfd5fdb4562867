"""Every type of value: what is stored of it, what comes back, and what is refused at the door."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb

EVER = (np.datetime64(-(2**50), "ms"), np.datetime64(2**50, "ms"))
FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def times(n: int) -> np.ndarray:
    return (np.arange(n, dtype=np.int64) * 1000).view("datetime64[ms]")


def stored(values: Any, policy: str = "last", twice: Any = None) -> np.ndarray:
    db = mdb.Database(duplicates=policy)
    for column in [values] if twice is None else [values, twice]:
        assert db.append({"__name__": "m"}, times(len(column)), column).rejected == {}
    db._native.check()
    (row,) = db.raw("m", *EVER)
    assert row.timestamps.tolist() == list(range(0, 1000 * len(values), 1000))
    return row.values


def words(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values).view(np.uint64).tolist()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_kept_exactly_and_uint64_as_itself(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([0, 1, info.max, info.min, info.max - 1, 7, info.max // 2 + 1], dtype=dtype)
    for column in (values, pl.Series(values)):
        found = stored(column)
        assert found.dtype == (np.uint64 if dtype == "uint64" else np.int64)
        assert found.tolist() == values.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_widened_without_a_change(dtype: str) -> None:
    values = np.array([0.1, -0.0, np.inf, -np.inf, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype=dtype)
    assert words(stored(values)) == words(values.astype(np.float64))


def test_booleans_are_zeros_and_ones() -> None:
    states = [True, False, False, True]
    for column in (states, np.array(states), pl.Series(states)):
        found = stored(column)
        assert (found.dtype, found.tolist()) == (np.int64, [1, 0, 0, 1])


def test_decimals_come_back_as_the_same_decimals() -> None:
    texts = ["1.5", "-0.001", "123456789.012345", "0", "-0.0", "1000000000000000000000", "999999999999999", "0.1"]
    values = [Decimal(t) for t in texts]
    found = stored(values)
    assert words(found) == words(np.array([float(t) for t in texts]))
    assert [Decimal(repr(v)) for v in found.tolist()] == values
    short = [v for v in values if abs(v) < 10**18]
    assert [Decimal(repr(v)) for v in stored(pl.Series(short, dtype=pl.Decimal(38, 9))).tolist()] == short


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([Decimal("1.234567890123456")], "value 1.234567890123456 has 16 significant digits, and float64 keeps 15"),
        (pl.Series([Decimal("1"), Decimal("1234567890.1234567")]), "1234567890.1234567 has 17 significant digits"),
        ([Decimal("1e400")], "too far from 1"),
        ([Decimal("1e-400")], "too far from 1"),
        ([Decimal("sNaN")], "signaling NaN"),
        ([Decimal(1), 2], "value 2 is a int that no 64 bits hold"),
        ([2**64], "is a int that no 64 bits hold"),
        ([2**63, -1], "no integer of 64 bits holds both"),
        (["a"], "values have dtype <U1"),
        (pl.Series(["a"]), "values have dtype String"),
        (pl.Series([1], dtype=pl.Int128), "values have dtype Int128"),
        (pl.Series([1, None]), "values hold 1 nulls"),
        (np.array([1.0], dtype=np.complex128), "values have dtype complex128"),
        ([[1.0], [2.0]], "2 dimensions"),
    ],
)
def test_what_64_bits_do_not_hold_is_refused(values: Any, message: str) -> None:
    db = mdb.Database()
    with pytest.raises(mdb.WriteError, match=message):
        db.append({"__name__": "m"}, times(len(values)), values)
    assert db.series().height == 0


def test_lists_of_large_integers_are_not_made_floats() -> None:
    assert stored([2**63, 1, 2**64 - 1]).tolist() == [2**63, 1, 2**64 - 1]
    assert stored([2**53 + 1, -1]).tolist() == [2**53 + 1, -1]


def test_a_frame_and_a_batch_keep_their_types() -> None:
    db = mdb.Database()
    top = 2**64 - 1
    frame = pl.DataFrame({"host": ["a", "b"], "timestamp": [1.0, 2.0], "value": pl.Series([top, 3], dtype=pl.UInt64)})
    assert db.write(frame, name="m").accepted == 2
    assert [row.values.tolist() for row in db.raw("m", *EVER)] == [[top], [3]]
    assert [row.values.dtype for row in db.raw("m", *EVER)] == [np.uint64] * 2
    prices = frame.with_columns(value=pl.Series(["1.10", "2.25"]).cast(pl.Decimal(10, 2)))
    assert db.write(prices, name="price").accepted == 2
    assert sorted(db.query("price", 2.0)["value"]) == [1.1, 2.25]
    refs = db.register([{"__name__": "u"}])
    db.append_batch(refs, [1.0], np.array([top], dtype=np.uint64))
    assert db.query("u", 1.0)["value"].to_list() == [float(top)]
    assert db.select("u", 1.0, 1.0)["value"].to_list() == [float(top)]
    assert db.query("max_over_time(u[1m]) > 1e19", 1.0).height == 1


@pytest.mark.parametrize(
    ("policy", "second", "wanted"),
    [
        ("max", [2**64 - 1, 2**63 - 1], [2**64 - 1, 2**63]),
        ("min", [2**64 - 1, 2**63 - 1], [2**63, 2**63 - 1]),
        ("sum", [1, 2**63 - 1], [2**63 + 1, 2**64 - 1]),
    ],
)
def test_policies_compare_and_add_uint64_exactly(policy: str, second: list[int], wanted: list[int]) -> None:
    found = stored(np.full(2, 2**63, dtype=np.uint64), policy, np.array(second, dtype=np.uint64))
    assert (found.dtype, found.tolist()) == (np.uint64, wanted)


def test_a_sum_that_leaves_uint64_and_mixed_kinds_are_floats() -> None:
    found = stored(np.array([2**63], dtype=np.uint64), "sum", np.array([2**63], dtype=np.uint64))
    assert (found.dtype, found.tolist()) == (np.float64, [2.0**64])
    db = mdb.Database()
    for at, dtype in enumerate(["uint64", "int64", "float64", "uint64"]):
        db.append({"__name__": "m"}, [float(at)], np.array([at + 1], dtype=dtype))
    (row,) = db.raw("m", *EVER)
    assert (row.values.dtype, row.values.tolist()) == (np.float64, [1.0, 2.0, 3.0, 4.0])
    assert [r.values.dtype for at in (0, 1, 2) for r in db.raw("m", at, at)] == [np.uint64, np.int64, np.float64]


def test_uint64_survives_sealing_re_encoding_and_late_samples() -> None:
    db = mdb.Database()
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.integers(0, 1000, 6000, dtype=np.uint64)) + np.uint64(2**63 - 2**20)
    order = np.argsort(rng.integers(0, 40, 6000) + np.arange(6000))
    db.append({"__name__": "m"}, times(6000)[order], walk[order])
    db.reencode(10_000.0)
    db._native.check()
    (row,) = db.raw("m", *EVER)
    assert row.values.dtype == np.uint64
    assert np.array_equal(row.values, walk)
    summed = db.query("sum_over_time(m[2h])", 5999.0)["value"].item()
    assert summed == pytest.approx(float(sum(walk.tolist())), rel=1e-15)
    assert db.query("resets(m[2h])", 5999.0)["value"].item() == 0
    extremes = [db.query(f"{f}_over_time(m[2h])", 5999.0)["value"].item() for f in ("min", "max")]
    assert extremes == [float(walk[0]), float(walk[-1])]


ANY_WORDS = st.lists(
    st.integers(0, 2**64 - 1)
    | st.integers(0, 300)
    | st.sampled_from([2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 0x7FF0_0000_0000_0002, 0x7FF8_0000_0000_0007, 1]),
    min_size=1,
    max_size=300,
)


@settings(max_examples=150, deadline=None)
@given(ANY_WORDS, st.sampled_from(["float64", "int64", "uint64"]), st.booleans())
def test_any_64_bits_come_back(bits: list[int], dtype: str, through_polars: bool) -> None:
    values = np.array(bits, dtype=np.uint64).view(dtype)
    found = stored(pl.Series(values) if through_polars else values)
    assert found.dtype == dtype
    assert words(found) == bits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200), st.sampled_from(["float32", "int32", "uint32"]))
def test_any_32_bits_come_back_widened(bits: list[int], dtype: str) -> None:
    values = np.array(bits, dtype=np.uint32).view(dtype)
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64 if dtype == "float32" else np.int64)
    assert words(stored(values)) == words(wide)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-30, 30)), min_size=1, max_size=50))
def test_any_decimal_of_fifteen_digits_comes_back(parts: list[tuple[int, int]]) -> None:
    values = [Decimal(m).scaleb(e) for m, e in parts]
    assert [Decimal(repr(v)) for v in stored(values).tolist()] == values


def test_the_two_ways_of_decimals_are_one() -> None:
    rng = np.random.default_rng(9)
    parts = zip(rng.integers(-(10**15) + 1, 10**15, 500), rng.integers(0, 18, 500), strict=True)
    values = [Decimal(int(m)).scaleb(-int(e)) for m, e in parts]
    series = pl.Series(values, dtype=pl.Decimal(38, 18))
    assert words(stored(series)) == words(stored(values)) == words(np.array([float(v) for v in values]))
