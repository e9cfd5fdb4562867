"""`</` and `>/`: a native histogram without what lies above, or below, a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.twins.histograms import CUSTOM, Buckets, Histogram, upper_bound
from tests.twins.numbers import Open, total

TRIMS = ("</", ">/")


@dataclass(frozen=True)
class Bucket:
    side: str  # "positive", "negative" or "zero"
    index: int
    low: float
    high: float
    count: float
    linear: bool  # else observations lie evenly on a logarithmic scale
    lowest: bool = False  # of custom ones

    def middle(self, low: float, high: float) -> float:
        return (low + high) / 2 if self.linear else math.copysign(math.sqrt(low * high), high)

    def below(self, at: float) -> float:
        """The share of observations below a value inside."""
        if self.linear:
            return (at - self.low) / (self.high - self.low)
        return math.log(at / self.low) / math.log(self.high / self.low)


def buckets(h: Histogram) -> Iterator[Bucket]:
    if h.schema == CUSTOM:
        edges = [0.0 if h.bounds and h.bounds[0] > 0 else -math.inf, *h.bounds, math.inf]
        for i, n in h.positive.items():
            yield Bucket("positive", i, edges[i], edges[i + 1], n, True, i == 0)
        return
    for i, n in h.positive.items():
        yield Bucket("positive", i, upper_bound(i - 1, h.schema), upper_bound(i, h.schema), n, False)
    for i, n in h.negative.items():
        yield Bucket("negative", i, -upper_bound(i, h.schema), -upper_bound(i - 1, h.schema), n, False)
    if h.zero_count > 0:
        low, high = h.cut(-h.zero_threshold, h.zero_threshold)
        yield Bucket("zero", 0, low, high, h.zero_count, True)


def kept(b: Bucket, op: str, at: float) -> tuple[float, float]:
    """How many of a bucket's observations stay, and their mean. A bucket without end can't be divided: it stays whole
    where its end does, else it goes; beneath zero also the lowest custom one, which else is thought to begin there."""
    if b.lowest and op == ">/" and -math.inf < at < 0:
        return 0.0, 0.0
    if math.isinf(b.low) or math.isinf(b.high):
        end = -math.inf if op == "</" else math.inf
        if at != end and b.low != -b.high and end in (b.low, b.high):
            return b.count, min(b.high, at) if op == "</" else max(b.low, at)
        return (b.count, 0.0) if at == -end else (0.0, 0.0)
    if b.low == b.high == at:
        raise Open
    low, high = (b.low, min(b.high, at)) if op == "</" else (max(b.low, at), b.high)
    if low >= high and (b.low != b.high or (b.low < at) != (op == "</")):
        return 0.0, 0.0
    if (low, high) == (b.low, b.high):
        return b.count, b.middle(low, high)
    share = b.below(at)
    return b.count * (share if op == "</" else 1 - share), b.middle(low, high)


def trimmed(h: Histogram, op: str, at: float) -> Histogram:
    """The sum is what middles say, unless nothing went."""
    if h.zero_count < 0 or any(b.count < 0 for b in buckets(h)) or not math.isfinite(h.count):
        raise Open
    rest = [(b, *kept(b, op, at)) for b in buckets(h)]
    if all(b.count == n for b, n, _ in rest):
        if any(math.isinf(b.high - b.low) and b.low < at < b.high for b, _, _ in rest):
            raise Open  # a bucket without end was cut, but nothing of it went
        return h
    sides: dict[str, Buckets] = {"positive": {}, "negative": {}, "zero": {}}
    for b, n, _ in rest:
        if n:
            sides[b.side][b.index] = n
    return replace(
        h,
        count=total([n for _, n, _ in rest]),
        sum=total([n * middle for _, n, middle in rest if n]),
        zero_count=sides["zero"].get(0, 0.0),
        positive=sides["positive"],
        negative=sides["negative"],
    )
