"""Every sample that is kept is within the bound of its policy, in exact arithmetic; order and counters survive."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb

SHARES = st.sampled_from([0.1, 0.05, 0.01, 0.0025, 1e-3, 1e-6]) | st.floats(1e-9, 0.49)
POLICIES = st.one_of(
    st.tuples(st.just("bits"), st.integers(1, 51)),
    st.tuples(st.just("digits"), st.integers(1, 15)),
    st.tuples(st.just("decimals"), st.integers(-6, 9)),
    st.tuples(st.just("relative"), SHARES),
    st.tuples(st.just("absolute"), SHARES | st.floats(1e-6, 1e6)),
)
VALUES = st.one_of(
    st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-9),
    st.integers(-(10**6), 10**6).map(lambda n: n / 100),
    st.integers(-(10**4), 10**4).map(lambda n: (2 * n + 1) / 20),
    st.integers(-(10**12), 10**12).map(float),
)


def bound(kind: str, number: float, x: float, q: float) -> Fraction:
    size = abs(Fraction(x))
    half_unit = Fraction(math.ulp(q)) / 2 if q else Fraction(0)
    match kind:
        case "bits":
            return size / 2 ** (int(number) + 1)
        case "digits":
            return Fraction(10) ** (Decimal(repr(x)).adjusted() - int(number) + 1) / 2 + half_unit
        case "decimals":
            return Fraction(10) ** -int(number) / 2 + half_unit
        case "relative":
            return Fraction(number) * size
        case _:
            return Fraction(number)


def kept(metric: str, policy: str, values: list[float], counters: str = "exact") -> np.ndarray:
    db = mdb.Database()
    db.precision.set(metric, policy, counters=counters)
    # Backwards in part, so that some of them come late.
    order = np.concatenate([np.arange(0, len(values), 2), np.arange(1, len(values), 2)])
    db.append({"__name__": metric}, order + 1_700_000_000, np.array(values)[order])
    return db.raw(metric, 0, 2_000_000_000)[0].values


@settings(max_examples=300, deadline=None)
@given(POLICIES, st.lists(VALUES, min_size=1, max_size=200))
def test_every_kept_sample_is_within_its_bound(policy, values):
    kind, number = policy
    text = f"{kind}({number!r})"
    found = kept("m", text, values)
    for x, q in zip(values, found.tolist(), strict=True):
        error = abs(Fraction(x) - Fraction(q))
        assert error == 0 or error <= bound(kind, number, x, q), f"{text} of {x!r} is {q!r}"


@settings(max_examples=100, deadline=None)
@given(POLICIES, st.lists(st.floats(0, 1e9) | st.integers(0, 10**9).map(float), min_size=1, max_size=200))
def test_a_counter_still_never_falls_and_keeps_its_integers(policy, values):
    values = sorted(values)
    text = f"{policy[0]}({policy[1]!r})"
    exact, rounded = (kept("x_total", text, values, counters) for counters in ("exact", "rounded"))
    assert (np.diff(exact) >= 0).all()
    assert (np.diff(rounded) >= 0).all()
    assert all(q == x for x, q in zip(values, exact, strict=True) if x.is_integer())
    assert (np.floor(values) <= exact).all()
    assert (exact <= np.ceil(values)).all()
