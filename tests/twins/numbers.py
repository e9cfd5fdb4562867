"""What functions and operators make of plain numbers, as slowly as it can be said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


class Refused(Exception):
    """The query has no answer on these data."""


class Open(Exception):
    """The language leaves the answer open, such as which of two equal series is the largest."""


def quantile(q: float, values: list[float]) -> float:
    if math.isnan(q):
        return math.nan
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q)
    ordered = sorted(values, key=lambda v: (not math.isnan(v), v))
    rank = q * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return ordered[low] * (1 - (rank - low)) + ordered[high] * (rank - low)


def total(values: list[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else float(sum(values))


def mean(values: list[float]) -> float:
    return total(values) / len(values)


def variance(values: list[float]) -> float:
    middle = mean(values)
    return mean([(v - middle) ** 2 for v in values])


def deviation(values: list[float]) -> float:
    return math.sqrt(variance(values))


def mad(values: list[float]) -> float:
    median = quantile(0.5, values)
    return quantile(0.5, [abs(v - median) for v in values])


def extreme(values: list[float], sign: int) -> float:
    numbers = [v for v in values if not math.isnan(v)]
    return max(numbers, key=lambda v: v * sign) if numbers else math.nan


def line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Level at 0 and slope of the least squares line through points (x, y)."""
    n, x, y = len(points), total([p[0] for p in points]), total([p[1] for p in points])
    xy, xx = total([a * b for a, b in points]), total([a * a for a, _ in points])
    slope = (xy - x * y / n) / (xx - x * x / n)
    return y / n - slope * x / n, slope


def quiet(compute: Callable[..., np.floating]) -> Callable[..., float]:
    """IEEE arithmetic: nothing raises."""

    def of(*numbers: float) -> float:
        with np.errstate(all="ignore"):
            return float(compute(*map(np.float64, numbers)))

    return of


ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": quiet(lambda a, b: a + b),
    "-": quiet(lambda a, b: a - b),
    "*": quiet(lambda a, b: a * b),
    "/": quiet(lambda a, b: a / b),
    "%": quiet(np.fmod),
    "^": quiet(np.power),
    "atan2": quiet(np.arctan2),
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}
MAPS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": quiet(np.floor),
    "ceil": quiet(np.ceil),
    "sgn": lambda v: v if math.isnan(v) or v == 0 else math.copysign(1, v),
    "round": lambda v: v if not math.isfinite(v) else float(math.floor(v + 0.5)),
    "exp": quiet(np.exp),
    "sqrt": quiet(np.sqrt),
    "ln": quiet(np.log),
    "log2": quiet(np.log2),
    "log10": quiet(np.log10),
    "sin": quiet(np.sin),
    "cos": quiet(np.cos),
    "tanh": quiet(np.tanh),
    "asinh": quiet(np.arcsinh),
    "acos": quiet(np.arccos),
    "deg": lambda v: v * 180 / math.pi,
    "rad": lambda v: v * math.pi / 180,
}
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "sum": total,
    "avg": mean,
    "min": lambda v: extreme(v, -1),
    "max": lambda v: extreme(v, 1),
    "count": lambda v: float(len(v)),
    "group": lambda _: 1.0,
    "stddev": deviation,
    "stdvar": variance,
    "quantile": lambda v: quantile(0.3, v),
}
