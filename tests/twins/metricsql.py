"""What the language has from MetricsQL, on top of the slow PromQL."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.twins.histograms import Histogram
from tests.twins.numbers import AGGREGATES, ARITHMETIC, deviation, mad, mean, quantile, total, variance
from tests.twins.promql import Data, Labels, Matrix, Node, Range, Subquery, Value, Vector, drop_name, insert, pick
from tests.twins.remarks import IGNORED, NO_COUNTER_NAME, perhaps, remark
from tests.twins.windows import Window, mixed, remark_on_name


def numbers_of(window: Window) -> list[tuple[int, float]]:
    return [(t, v) for t, v in window[0] if not isinstance(v, Histogram)]


def between(compute: Callable[[float, float, float], float]) -> Callable[[list[tuple[int, float]]], list[float]]:
    """What `compute` says of each two neighbours and the seconds between them."""
    return lambda w: [compute(a, b, (t1 - t0) / 1000) for (t0, a), (t1, b) in itertools.pairwise(w)]


ROLLUPS: dict[str, Callable[[list[tuple[int, float]]], list[float]]] = {
    "rollup": lambda w: [v for _, v in w],
    "rollup_candlestick": lambda w: [v for _, v in w],
    "rollup_delta": between(lambda a, b, _: b - a),
    "rollup_deriv": between(lambda a, b, s: (b - a) / s),
    "rollup_increase": between(lambda a, b, _: b if b < a else b - a),
    "rollup_rate": between(lambda a, b, s: (b if b < a else b - a) / s),
    "rollup_scrape_interval": between(lambda _a, _b, s: s),
}
PARTS: dict[str, Callable[[list[float]], float]] = {
    "min": AGGREGATES["min"],
    "max": AGGREGATES["max"],
    "avg": AGGREGATES["avg"],
}
CANDLE: dict[str, Callable[[list[float]], float]] = {
    "open": lambda v: v[0],
    "high": AGGREGATES["max"],
    "low": AGGREGATES["min"],
    "close": lambda v: v[-1],
}


@dataclass(frozen=True)
class Rollup(Node):
    function: str
    over: Range | Subquery
    only: str = ""

    def text(self) -> str:
        return f"{self.function}({self.over.text()}{f', {self.only!r}' if self.only else ''})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        parts = CANDLE if self.function == "rollup_candlestick" else PARTS
        for labels, window in self.over.windows(data, t):
            if self.function in ("rollup_increase", "rollup_rate") and isinstance(self.over, Range):
                remark_on_name(window if self.over.selector.name != "mixed" else ([], 0, 0))
                perhaps(NO_COUNTER_NAME)
            if numbers_of(window) and mixed(window[0]):
                remark(IGNORED)
            numbers = ROLLUPS[self.function](numbers_of(window))
            kept = labels if self.function in ("rollup", "rollup_candlestick") else drop_name(labels)
            for part in [self.only] if numbers and self.only else parts if numbers else []:
                named = kept if self.only else tuple(sorted([*kept, ("rollup", part)]))
                insert(result, named, parts[part](numbers))
        return result


Row = dict[int, float]


def constant(compute: Callable[[list[float]], float]) -> Callable[[Row], Callable[[float], float | None]]:
    """One number of all values, at every step."""

    def of(row: Row) -> Callable[[float], float | None]:
        found = compute(list(row.values()))
        return lambda _: found

    return of


def trimmed(strays: Callable[[list[float], float], bool]) -> Callable[[Row], Callable[[float], float | None]]:
    return lambda row: lambda v: None if strays(list(row.values()), v) else v


def normalized(row: Row) -> Callable[[float], float | None]:
    low, width = min(row.values()), max(row.values()) - min(row.values())
    return lambda v: 0.0 if width == 0 else ARITHMETIC["/"](v - low, width)


# Text -> of a row's numbers, what becomes of each of them; the first ones put something at every step.
EVERYWHERE: dict[str, Callable[[Row], Callable[[float], float | None]]] = {
    "range_avg({})": constant(AGGREGATES["avg"]),
    "range_min({})": constant(AGGREGATES["min"]),
    "range_max({})": constant(AGGREGATES["max"]),
    "range_sum({})": constant(total),
    "range_first({})": constant(lambda v: v[0]),
    "range_last({})": constant(lambda v: v[-1]),
    "range_median({})": constant(lambda v: quantile(0.5, v)),
    "range_quantile(0.3, {})": constant(lambda v: quantile(0.3, v)),
    "range_mad({})": constant(mad),
    "range_stddev({})": constant(deviation),
    "range_stdvar({})": constant(variance),
}
EACH: dict[str, Callable[[Row], Callable[[float], float | None]]] = {
    "range_normalize({})": normalized,
    "range_trim_outliers(1.7, {})": trimmed(lambda v, x: abs(x - quantile(0.5, v)) > 1.7 * mad(v)),
    "range_trim_spikes(0.4, {})": trimmed(lambda v, x: x < quantile(0.2, v) or x > quantile(0.8, v)),
    "range_trim_zscore(1.3, {})": trimmed(lambda v, x: abs(x - mean(v)) > 1.3 * deviation(v)),
}


@dataclass(frozen=True)
class WholeRange(Node):
    """A NaN is a gap; histograms are left out."""

    function: str
    of: Node

    def text(self) -> str:
        return self.function.format(self.of.text())

    def matrix(self, data: Data, times: Sequence[int]) -> Matrix:
        result: Matrix = {}
        for labels, row in self.of.matrix(data, times).items():
            plain = {t: v for t, v in row.items() if not isinstance(v, Histogram)}
            numbers = {t: plain[t] for t in times if t in plain and not math.isnan(plain[t])}
            kept: dict[int, Value | None] = dict(plain)
            if numbers and self.function in EVERYWHERE:
                kept = dict.fromkeys(times, EVERYWHERE[self.function](numbers)(0))
            elif numbers:
                kept = plain | {t: EACH[self.function](numbers)(v) for t, v in numbers.items()}
            result[labels] = {t: v for t, v in kept.items() if v is not None}
        return {labels: row for labels, row in result.items() if row}


def is_gap(value: Value | None) -> bool:
    return value is None or (not isinstance(value, Histogram) and math.isnan(value))


@dataclass(frozen=True)
class Gap(Node):
    """`default`, `if`, `ifnot`, with a number or a vector on the right."""

    op: str
    left: Node
    right: Node | float
    labels: tuple[str, ...]

    def text(self) -> str:
        if isinstance(self.right, Node):
            return f"({self.left.text()}) {self.op} on ({', '.join(self.labels)}) ({self.right.text()})"
        return f"({self.left.text()}) {self.op} ({self.right})"

    def key(self, labels: Labels) -> Labels:
        return pick(labels, self.labels, True)

    def matrix(self, data: Data, times: Sequence[int]) -> Matrix:
        left = self.left.matrix(data, times)
        right: Matrix = {(): dict.fromkeys(times, self.right)} if not isinstance(self.right, Node) else {}
        if isinstance(self.right, Node):
            right = self.right.matrix(data, times)
        if self.op == "default" and not left:
            return right
        bare = list(right) == [()]
        result: Matrix = {}
        for labels, row in left.items():
            others = [right[o] for o in sorted(right) if bare or self.key(o) == self.key(labels)]
            for t in times:
                found = [o[t] for o in others if t in o]
                there = [v for v in found if not is_gap(v)]
                if self.op == "default" and is_gap(row.get(t)) and found:
                    result.setdefault(labels, {})[t] = (there or found)[0]
                elif t in row and (self.op == "default" or bool(there) == (self.op == "if")):
                    result.setdefault(labels, {})[t] = row[t]
        return result


@dataclass(frozen=True)
class Outliers(Node):
    """Whole series that stray from their group at some step; NaN and histograms are gaps."""

    op: str  # "outliers_iqr" or "outliers_mad"
    labels: tuple[str, ...]
    of: Node

    def text(self) -> str:
        tolerance = "1.7, " if self.op == "outliers_mad" else ""
        return f"{self.op} by ({', '.join(self.labels)}) ({tolerance}{self.of.text()})"

    def strays(self, value: float, among: list[float]) -> bool:
        if self.op == "outliers_mad":
            return abs(value - quantile(0.5, among)) > 1.7 * mad(among)
        low, high = quantile(0.25, among), quantile(0.75, among)
        return value < low - 1.5 * (high - low) or value > high + 1.5 * (high - low)

    def matrix(self, data: Data, times: Sequence[int]) -> Matrix:
        rows = {
            labels: {t: v for t, v in row.items() if not isinstance(v, Histogram)}
            for labels, row in self.of.matrix(data, times).items()
        }
        groups: dict[Labels, list[Labels]] = {}
        for labels in rows:
            groups.setdefault(pick(drop_name(labels), self.labels, True), []).append(labels)
        result: Matrix = {}
        for members in groups.values():
            for labels in members:
                for t, value in rows[labels].items():
                    among = [v for m in members if not is_gap(v := rows[m].get(t))]
                    if not is_gap(value) and self.strays(value, among):
                        result[labels] = rows[labels]
        return result


@dataclass(frozen=True)
class Template(Node):
    """The same query, said by a template."""

    of: Node

    def text(self) -> str:
        return f"WITH (q = {self.of.text()}, same(x) = x) same(q)"

    def vector(self, data: Data, t: int) -> Vector:
        return self.of.vector(data, t)
