"""Classic histograms: cumulative buckets, a series each, whose label `le` is their upper bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tests.twins.histograms import Histogram
from tests.twins.promql import Data, Labels, Node, Vector, drop_name, insert, pick
from tests.twins.remarks import BAD_BOUND, out_of_range, remark

Cumulative = list[tuple[float, float]]  # upper bound, observations up to it; ascending
FIXED = "PromQL info: input to histogram_quantile needed to be fixed for monotonicity"


def bound(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def by_histogram(vector: Vector) -> dict[Labels, Cumulative | Histogram]:
    """Samples with one bound in other words add up; what is there in both kinds is in none."""
    found: dict[Labels, dict[float, float]] = {}
    native: dict[Labels, Histogram] = {}
    for labels, value in vector.items():
        if isinstance(value, Histogram):
            native[drop_name(labels)] = value
            continue
        le = bound(dict(labels).get("le", ""))
        if le is None:
            remark(BAD_BOUND)
            continue
        buckets = found.setdefault(pick(drop_name(labels), ("le",), False), {})
        buckets[le] = buckets.get(le, 0.0) + value
    if {*found} & {*native}:
        remark("PromQL warning: vector contains a mix of classic and native histograms")
    either: dict[Labels, Cumulative | Histogram] = {
        labels: sorted(buckets.items()) for labels, buckets in found.items()
    }
    return {labels: h for labels, h in (either | native).items() if not (labels in found and labels in native)}


def quantile(q: float, buckets: Cumulative) -> float:
    if math.isnan(q):
        return math.nan
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q)
    if buckets[-1][0] != math.inf or len(buckets) < 2:
        return math.nan
    level, most = [], 0.0
    for i, (upper, count) in enumerate(buckets):
        if i and count < most:
            remark(FIXED)
        most = count if i == 0 else max(most, count)
        level.append((upper, most))
    total = level[-1][1]
    if total == 0 or math.isnan(total):
        return math.nan
    rank = q * total
    at = next((i for i, (_, count) in enumerate(level[:-1]) if count >= rank), len(level) - 1)
    upper, count = level[at]
    if at == len(level) - 1:
        return level[-2][0]
    if at == 0 and upper <= 0:
        return upper
    lower, below = level[at - 1] if at else (0.0, 0.0)
    return lower + (upper - lower) * ((rank - below) / (count - below)) if count > below else math.nan


def below(value: float, buckets: Cumulative) -> float:
    """Observations below a value; those of a bucket lie evenly in it. The lowest begins at zero, or nowhere."""
    lower, seen = 0.0 if buckets[0][0] > 0 else -math.inf, 0.0
    for upper, count in buckets:
        if value <= lower:
            return seen
        if value < upper:
            share = 1.0 if lower == -math.inf else (value - lower) / (upper - lower)
            return seen + (count - seen) * share
        lower, seen = upper, count
    return seen


def fraction(low: float, high: float, buckets: Cumulative) -> float:
    total = buckets[-1][1]
    if buckets[-1][0] != math.inf or total == 0 or math.isnan(low) or math.isnan(high):
        return math.nan
    if low >= high:
        return 0.0
    return (min(below(high, buckets), total) - min(below(low, buckets), total)) / total


def quantile_of(q: float) -> Callable[[Cumulative | Histogram], float]:
    return lambda h: h.quantile(q) if isinstance(h, Histogram) else quantile(q, h)


def fraction_of(low: float, high: float) -> Callable[[Cumulative | Histogram], float]:
    return lambda h: h.fraction(low, high) if isinstance(h, Histogram) else fraction(low, high, h)


CLASSIC_FUNCTIONS: dict[str, Callable[[Cumulative | Histogram], float]] = {
    "histogram_quantile(0, {})": quantile_of(0),
    "histogram_quantile(0.3, {})": quantile_of(0.3),
    "histogram_quantile(0.9, {})": quantile_of(0.9),
    "histogram_quantile(1, {})": quantile_of(1),
    "histogram_quantile(-1, {})": quantile_of(-1),
    "histogram_fraction(0.25, 1, {})": fraction_of(0.25, 1),
    "histogram_fraction(-0.5, 3, {})": fraction_of(-0.5, 3),
    "histogram_fraction(1, Inf, {})": fraction_of(1, math.inf),
    "histogram_fraction(-Inf, 0.75, {})": fraction_of(-math.inf, 0.75),
}


@dataclass(frozen=True)
class OfClassic(Node):
    function: str
    of: Node

    def text(self) -> str:
        return self.function.format(self.of.text())

    def vector(self, data: Data, t: int) -> Vector:
        if "quantile(-1" in self.function:
            out_of_range(-1)
        found = by_histogram(self.of.vector(data, t))
        return {labels: CLASSIC_FUNCTIONS[self.function](h) for labels, h in found.items()}


@dataclass(frozen=True)
class Quantiles(Node):
    """A series for each quantile, which a label names."""

    label: str
    quantiles: tuple[float, ...]
    of: Node

    def text(self) -> str:
        return f'histogram_quantiles({self.of.text()}, "{self.label}", {", ".join(map(str, self.quantiles))})'

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for q in self.quantiles:
            out_of_range(q)
        for labels, h in by_histogram(self.of.vector(data, t)).items():
            for q in self.quantiles:
                told = (*pick(labels, (self.label,), False), (self.label, str(float(q))))
                insert(result, tuple(sorted(told)), quantile_of(q)(h))
        return result
