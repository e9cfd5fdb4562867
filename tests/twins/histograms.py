"""Native histograms, slow and obvious: two dicts from a bucket's index to its count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tests.twins.numbers import ARITHMETIC, Open, total
from tests.twins.remarks import RECONCILED, remark

CUSTOM = -53  # the schema of histograms that bring their upper bounds
Buckets = dict[int, float]


class Incompatible(Exception):
    """Exponential and custom buckets don't add up."""


def upper_bound(index: int, schema: int) -> float:
    return 2.0 ** (index / 2.0**schema)


def plus(a: Buckets, b: Buckets, sign: int = 1) -> Buckets:
    """Empty buckets are none."""
    both = {i: a.get(i, 0.0) + sign * b.get(i, 0.0) for i in {*a, *b}}
    return {i: n for i, n in both.items() if n != 0}


@dataclass(frozen=True)
class Histogram:
    schema: int
    count: float
    sum: float
    zero_threshold: float = 0.0
    zero_count: float = 0.0
    positive: Buckets = field(default_factory=dict)
    negative: Buckets = field(default_factory=dict)
    bounds: tuple[float, ...] = ()
    hint: str = field(default="unknown", compare=False)  # "reset" and "not_reset": beside the sample before; "gauge"

    @property
    def custom(self) -> bool:
        return self.schema == CUSTOM

    def buckets(self) -> list[tuple[float, float, float]]:
        """(lower, upper, count) upwards, the zero bucket among them."""
        if self.custom:
            edges = [-math.inf, *self.bounds, math.inf]
            return [(edges[i], edges[i + 1], n) for i, n in sorted(self.positive.items())]

        def edge(i: int) -> float:
            return upper_bound(i, self.schema)

        below = [(-edge(i), -edge(i - 1), n) for i, n in sorted(self.negative.items(), reverse=True)]
        above = [(edge(i - 1), edge(i), n) for i, n in sorted(self.positive.items())]
        zero = [(-self.zero_threshold, self.zero_threshold, self.zero_count)] if self.zero_count > 0 else []
        return below + zero + above

    def times(self, factor: float) -> Histogram:
        def all_of(buckets: Buckets) -> Buckets:
            scaled = {i: n * factor for i, n in buckets.items()}
            return {i: n for i, n in scaled.items() if n != 0}

        return replace(
            self,
            count=self.count * factor,
            sum=self.sum * factor,
            zero_count=self.zero_count * factor,
            positive=all_of(self.positive),
            negative=all_of(self.negative),
        )

    def by(self, divisor: float) -> Histogram:
        if divisor != 0:
            return self.times(1 / divisor)

        def over_zero(n: float) -> float:
            return math.nan if n == 0 or math.isnan(n) else math.copysign(math.inf, n * math.copysign(1, divisor))

        n, s, z = map(over_zero, (self.count, self.sum, self.zero_count))
        return replace(self, count=n, sum=s, zero_count=z, positive={}, negative={})

    def coarser(self, schema: int) -> Histogram:
        """Each coarser bucket takes in two finer ones a level."""
        if self.custom or schema >= self.schema:
            return self
        levels = self.schema - schema

        def merged(buckets: Buckets) -> Buckets:
            found: Buckets = {}
            for i, n in buckets.items():
                found = plus(found, {math.ceil(i / 2**levels): n})
            return found

        return replace(self, schema=schema, positive=merged(self.positive), negative=merged(self.negative))

    def over_bounds(self, bounds: tuple[float, ...]) -> Histogram:
        """Custom buckets that end at these bounds, all of which are among its own."""
        found: Buckets = {}
        for i, n in self.positive.items():
            upper = self.bounds[i] if i < len(self.bounds) else math.inf
            found = plus(found, {sum(b < upper for b in bounds): n})
        return replace(self, bounds=bounds, positive=found)

    def straddles(self, threshold: float) -> float | None:
        """The end of a bucket that a zero bucket of this width would cut in two."""
        for buckets in (self.positive, self.negative):
            for i, n in buckets.items():
                low, high = upper_bound(i - 1, self.schema), upper_bound(i, self.schema)
                if low < threshold < high and n != 0:
                    return high
        return None

    def zero_up_to(self, threshold: float) -> Histogram:
        """The zero bucket widened over the buckets beneath a threshold that cuts none."""
        if threshold == self.zero_threshold:
            return self
        inside = [
            {i: n for i, n in b.items() if upper_bound(i, self.schema) <= threshold}
            for b in (self.positive, self.negative)
        ]
        gained = total([n for b in inside for n in b.values()])
        return replace(
            self,
            zero_threshold=threshold,
            zero_count=self.zero_count + gained,
            positive=plus(self.positive, inside[0], -1),
            negative=plus(self.negative, inside[1], -1),
        )

    def plus(self, other: Histogram, sign: int = 1, during: str = "") -> Histogram:
        """`during`: what a remark calls that."""
        a, b = alike(self, other)
        if during and self.bounds != other.bounds:
            remark(f"{RECONCILED} {during}")
        return replace(
            a,
            count=a.count + sign * b.count,
            sum=a.sum + sign * b.sum,
            zero_count=a.zero_count + sign * b.zero_count,
            positive=plus(a.positive, b.positive, sign),
            negative=plus(a.negative, b.negative, sign),
            hint="gauge" if sign < 0 else a.hint if a.hint == b.hint else "unknown",
        )

    def minus(self, other: Histogram) -> Histogram:
        return self.plus(other, -1, "subtraction")

    def is_reset_after(self, before: Histogram) -> bool:
        if self.count < before.count or self.custom != before.custom:
            return True
        reconciled = self.bounds != before.bounds
        if self.custom:
            before, now = alike(before, self)
        else:
            if self.schema > before.schema or self.zero_threshold < before.zero_threshold:
                return True
            if self.zero_threshold != before.zero_threshold and before.straddles(self.zero_threshold) is not None:
                return True
            now, before = self, before.zero_up_to(self.zero_threshold).coarser(self.schema)
        if now.zero_count < before.zero_count:
            return True
        sides = [(now.positive, before.positive), (now.negative, before.negative)]
        lost = [(new.get(i, 0.0), n, i not in new) for new, old in sides for i, n in old.items()]
        # That a bucket is missing says something where all have the same bounds.
        return any(new < n or (missing and not reconciled) for new, n, missing in lost)

    def quantile(self, q: float) -> float:
        if math.isnan(q):
            return math.nan
        if not 0 <= q <= 1:
            return math.copysign(math.inf, q)
        if self.count == 0:
            return math.nan
        self.needs_observations()
        rank, seen = q * self.count, 0.0
        buckets = [b for b in self.buckets() if b[2] != 0]
        for low, high, n in buckets:
            if seen + n != rank and math.isclose(seen + n, rank, rel_tol=1e-9) and (low, high, n) != buckets[-1]:
                raise Open  # only for rounding it is not the end of this bucket
            if seen + n >= rank or (low, high, n) == buckets[-1]:
                low, high = (low, high) if self.custom else self.cut(low, high)
                return self.within(low, high, (rank - seen) / n)
            seen += n
        return math.nan

    def needs_observations(self) -> None:
        """Where less than nothing lies, or infinitely much, nobody says."""
        if not math.isfinite(self.count) or self.zero_count < 0 or any(n < 0 for _, _, n in self.buckets()):
            raise Open

    def cut(self, low: float, high: float) -> tuple[float, float]:
        """A bucket around zero, beside buckets of one sign alone, holds observations of that sign."""
        if low <= 0 <= high:
            if self.positive and not self.negative:
                low = 0.0
            if self.negative and not self.positive:
                high = 0.0
        return low, high

    def within(self, low: float, high: float, part: float) -> float:
        if low == -math.inf:
            if high <= 0:
                return high
            low = 0.0
        if high == math.inf:
            return low
        if self.custom or low <= 0 <= high:
            return low + (high - low) * part
        if low > 0:
            return low * (high / low) ** part
        return -(abs(low) * (high / low) ** part)

    def below(self, value: float) -> float:
        """How many observations lie below a value."""
        found = 0.0
        for low, high, n in self.buckets():
            low, high = self.cut(low, high)
            if high <= value:
                found += n
            elif low < value:
                found += n * self.part(low, high, value)
        return found

    def part(self, low: float, high: float, value: float) -> float:
        if low == -math.inf:
            return 1.0
        if self.custom or low <= 0 <= high:
            return (value - low) / (high - low)
        return math.log(value / low) / math.log(high / low)

    def fraction(self, low: float, high: float) -> float:
        if self.count == 0 or math.isnan(low) or math.isnan(high):
            return math.nan
        self.needs_observations()
        return (self.below(high) - self.below(low)) / self.count if low < high else 0.0

    def average(self) -> float:
        return ARITHMETIC["/"](self.sum, self.count)

    def variance(self) -> float:
        """With each observation in the middle of its bucket."""
        squares = [n * (self.middle(low, high) - self.average()) ** 2 for low, high, n in self.buckets()]
        return ARITHMETIC["/"](total(squares), self.count)

    def middle(self, low: float, high: float) -> float:
        if self.custom:
            return (low + high) / 2
        return 0.0 if low <= 0 <= high else math.copysign(math.sqrt(low * high), high)


def alike(a: Histogram, b: Histogram) -> tuple[Histogram, Histogram]:
    """Both over the same buckets: the coarser schema, the wider zero bucket, the bounds in common."""
    if a.custom != b.custom:
        raise Incompatible
    if a.custom:
        common = tuple(v for v in a.bounds if v in b.bounds)
        return a.over_bounds(common), b.over_bounds(common)
    threshold = max(a.zero_threshold, b.zero_threshold)
    if a.zero_threshold != b.zero_threshold:
        while True:
            cut = [end for h in (a, b) if h.zero_threshold < threshold and (end := h.straddles(threshold)) is not None]
            if not cut:
                break
            threshold = max(cut)
    a, b = a.zero_up_to(threshold), b.zero_up_to(threshold)
    schema = min(a.schema, b.schema)
    return a.coarser(schema), b.coarser(schema)


def added(histograms: Iterable[Histogram], during: str = "") -> Histogram:
    first, *others = histograms
    for other in others:
        first = first.plus(other, 1, during)
    return first
