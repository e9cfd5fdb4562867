"""PromQL, slow and obvious: one instant after the other, over dicts. A node prints itself and evaluates itself.

Metric names are dropped at once: never ask for two names in one selector, nor group by the name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]
Matrix = dict[Labels, dict[int, float]]
Samples = list[tuple[int, float | None]]  # ascending milliseconds; None marks the end of a series
Data = dict[Labels, Samples]
LOOKBACK_MS = 300_000


class Refused(Exception):
    """The query has no answer on these data."""


def drop_name(labels: Labels) -> Labels:
    return tuple(p for p in labels if p[0] != "__name__")


def insert(into: Vector, labels: Labels, value: float) -> None:
    if labels in into:
        raise Refused("two samples under one label set")
    into[labels] = value


def ms(duration: int) -> str:
    return f"-{-duration}ms" if duration < 0 else f"{duration}ms"


class Node:
    def text(self) -> str:
        raise NotImplementedError

    def vector(self, data: Data, t: int) -> Vector:
        raise NotImplementedError

    def matrix(self, data: Data, times: Sequence[int]) -> Matrix:
        """All steps of a query. A node that looks at all of them at once knows only this."""
        result: Matrix = {}
        for t in times:
            for labels, value in self.vector(data, t).items():
                result.setdefault(labels, {})[t] = value
        return result


@dataclass(frozen=True)
class Selector(Node):
    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    offset: int = 0
    at: int | None = None

    def text(self, window: str = "") -> str:
        inner = ",".join(f'{label}{op}"{value}"' for label, op, value in self.matchers)
        pinned = "" if self.at is None else f" @ {self.at / 1000}"
        offset = f" offset {ms(self.offset)}" if self.offset else ""
        return f"{self.name}{{{inner}}}{window}{pinned}{offset}"

    def takes(self, labels: Labels) -> bool:
        have = dict(labels)
        if have["__name__"] != self.name:
            return False
        return all((have.get(label, "") == value) == (op == "=") for label, op, value in self.matchers)

    def time(self, t: int) -> int:
        return (t if self.at is None else self.at) - self.offset

    def vector(self, data: Data, t: int) -> Vector:
        t = self.time(t)
        found: Vector = {}
        for labels, samples in data.items():
            seen = [v for at, v in samples if t - LOOKBACK_MS < at <= t]
            if self.takes(labels) and seen and seen[-1] is not None:
                found[labels] = seen[-1]
        return found


Window = tuple[list[tuple[int, float]], int, int]  # samples in (start, end], start, end


@dataclass(frozen=True)
class Range:
    selector: Selector
    length: int

    def text(self) -> str:
        return self.selector.text(f"[{ms(self.length)}]")

    def windows(self, data: Data, t: int) -> Iterator[tuple[Labels, Window]]:
        end = self.selector.time(t)
        start = end - self.length
        for labels, samples in data.items():
            if self.selector.takes(labels):
                yield labels, ([(at, v) for at, v in samples if start < at <= end and v is not None], start, end)


@dataclass(frozen=True)
class Subquery:
    expr: Node
    length: int
    step: int
    offset: int = 0

    def text(self) -> str:
        offset = f" offset {ms(self.offset)}" if self.offset else ""
        return f"({self.expr.text()})[{ms(self.length)}:{ms(self.step)}]{offset}"

    def windows(self, data: Data, t: int) -> Iterator[tuple[Labels, Window]]:
        end = t - self.offset
        start = end - self.length
        found: dict[Labels, list[tuple[int, float]]] = {}
        for at in range(start // self.step * self.step, end + 1, self.step):
            if at > start:
                for labels, value in self.expr.vector(data, at).items():
                    found.setdefault(labels, []).append((at, value))
        for labels, samples in found.items():
            yield labels, (samples, start, end)


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


def variance(values: list[float]) -> float:
    mean = total(values) / len(values)
    return total([(v - mean) ** 2 for v in values]) / len(values)


def extreme(values: list[float], sign: int) -> float:
    numbers = [v for v in values if not math.isnan(v)]
    return max(numbers, key=lambda v: v * sign) if numbers else math.nan


def extrapolated(counter: bool, per_second: bool) -> Callable[[Window], float | None]:
    def compute(window: Window) -> float | None:
        samples, start, end = window
        if len(samples) < 2:
            return None
        (first, v0), (last, v1) = samples[0], samples[-1]
        gain = v1 - v0
        if counter:
            gain += sum(a for (_, a), (_, b) in itertools.pairwise(samples) if b < a)
        seconds = (last - first) / 1000
        interval = seconds / (len(samples) - 1)
        before, after = (first - start) / 1000, (end - last) / 1000
        before = before if before < interval * 1.1 else interval / 2
        after = after if after < interval * 1.1 else interval / 2
        if counter and gain > 0 and v0 >= 0:
            before = min(before, seconds * (v0 / gain))
        return gain * (seconds + before + after) / seconds / ((end - start) / 1000 if per_second else 1)

    return compute


def last_two(per_second: bool) -> Callable[[Window], float | None]:
    def compute(window: Window) -> float | None:
        if len(window[0]) < 2:
            return None
        (t0, v0), (t1, v1) = window[0][-2:]
        if per_second:
            return (v1 if v1 < v0 else v1 - v0) / ((t1 - t0) / 1000)
        return v1 - v0

    return compute


def pairs(differs: Callable[[float, float], bool]) -> Callable[[Window], float | None]:
    return lambda w: float(sum(differs(a, b) for (_, a), (_, b) in itertools.pairwise(w[0])))


def values(compute: Callable[[list[float]], float]) -> Callable[[Window], float | None]:
    return lambda w: compute([v for _, v in w[0]])


# Name -> function of a window; whether it is right to the last bit, however it is added up.
WINDOW_FUNCTIONS: dict[str, tuple[Callable[[Window], float | None], bool]] = {
    "rate": (extrapolated(True, True), False),
    "increase": (extrapolated(True, False), False),
    "delta": (extrapolated(False, False), False),
    "irate": (last_two(True), False),
    "idelta": (last_two(False), True),
    "resets": (pairs(lambda a, b: b < a), True),
    "changes": (pairs(lambda a, b: a != b and not (math.isnan(a) and math.isnan(b))), True),
    "sum_over_time": (values(total), True),
    "avg_over_time": (values(lambda v: total(v) / len(v)), False),
    "min_over_time": (values(lambda v: extreme(v, -1)), True),
    "max_over_time": (values(lambda v: extreme(v, 1)), True),
    "count_over_time": (values(lambda v: float(len(v))), True),
    "last_over_time": (values(lambda v: v[-1]), True),
    "present_over_time": (values(lambda _: 1.0), True),
    "stddev_over_time": (values(lambda v: math.sqrt(variance(v))), False),
}


@dataclass(frozen=True)
class Over(Node):
    function: str
    over: Range | Subquery

    def text(self) -> str:
        return f"{self.function}({self.over.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, window in self.over.windows(data, t):
            value = WINDOW_FUNCTIONS[self.function][0](window) if window[0] else None
            if value is not None:
                insert(result, labels if self.function == "last_over_time" else drop_name(labels), value)
        return result


MAPS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": lambda v: float(np.floor(v)),
    "ceil": lambda v: float(np.ceil(v)),
    "sgn": lambda v: v if math.isnan(v) or v == 0 else math.copysign(1, v),
    "exp": lambda v: float(np.exp(v)),
    "sqrt": lambda v: math.sqrt(v) if v >= 0 else math.nan,
}


@dataclass(frozen=True)
class Map(Node):
    function: str
    of: Node

    def text(self) -> str:
        return f"{self.function}({self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            insert(result, drop_name(labels), MAPS[self.function](value))
        return result


AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "sum": total,
    "avg": lambda v: total(v) / len(v),
    "min": lambda v: extreme(v, -1),
    "max": lambda v: extreme(v, 1),
    "count": lambda v: float(len(v)),
    "group": lambda _: 1.0,
    "stddev": lambda v: math.sqrt(variance(v)),
    "quantile": lambda v: quantile(0.3, v),
}


@dataclass(frozen=True)
class Aggregate(Node):
    op: str
    without: bool
    labels: tuple[str, ...]
    of: Node

    def text(self) -> str:
        clause = f"{'without' if self.without else 'by'} ({', '.join(self.labels)})"
        param = "0.3, " if self.op == "quantile" else ""
        return f"{self.op} {clause} ({param}{self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        groups: dict[Labels, list[float]] = {}
        for labels, value in self.of.vector(data, t).items():
            kept = tuple(p for p in drop_name(labels) if (p[0] in self.labels) != self.without)
            groups.setdefault(kept, []).append(value)
        return {labels: AGGREGATES[self.op](found) for labels, found in groups.items()}


def number(compute: Callable[[np.float64, np.float64], np.floating]) -> Callable[[float, float], float]:
    def quiet(a: float, b: float) -> float:
        with np.errstate(all="ignore"):
            return float(compute(np.float64(a), np.float64(b)))

    return quiet


ARITHMETIC = {
    "+": number(lambda a, b: a + b),
    "-": number(lambda a, b: a - b),
    "*": number(lambda a, b: a * b),
    "/": number(lambda a, b: a / b),
    "%": number(np.fmod),
    "^": number(np.power),
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


@dataclass(frozen=True)
class WithNumber(Node):
    op: str
    of: Node
    number: float
    returns_bool: bool = False
    number_first: bool = False

    def text(self) -> str:
        sides = [f"({self.of.text()})", f"({self.number})"]
        return f" {self.op}{' bool' if self.returns_bool else ''} ".join(sides[::-1] if self.number_first else sides)

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            sides = (self.number, value) if self.number_first else (value, self.number)
            if self.op in ARITHMETIC:
                insert(result, drop_name(labels), ARITHMETIC[self.op](*sides))
            elif self.returns_bool:
                insert(result, drop_name(labels), float(COMPARISONS[self.op](*sides)))
            elif COMPARISONS[self.op](*sides):
                insert(result, labels, value)
        return result


@dataclass(frozen=True)
class Match(Node):
    """Two vectors, one to one, or a set operation."""

    op: str
    left: Node
    right: Node
    on: bool
    labels: tuple[str, ...]

    def text(self) -> str:
        clause = f"{'on' if self.on else 'ignoring'} ({', '.join(self.labels)})"
        return f"({self.left.text()}) {self.op} {clause} ({self.right.text()})"

    def key(self, labels: Labels) -> Labels:
        return tuple(p for p in drop_name(labels) if (p[0] in self.labels) == self.on)

    def vector(self, data: Data, t: int) -> Vector:
        left, right = self.left.vector(data, t), self.right.vector(data, t)
        if self.op in ("and", "or", "unless"):
            return self.combine(left, right)
        if not left or not right:
            return {}
        one: dict[Labels, float] = {}
        for labels, value in right.items():
            insert(one, self.key(labels), value)
        result: Vector = {}
        matched: Vector = {}
        for labels, value in left.items():
            key = self.key(labels)
            if key not in one:
                continue
            insert(matched, key, value)
            if self.op in ARITHMETIC:
                insert(result, key, ARITHMETIC[self.op](value, one[key]))
            elif COMPARISONS[self.op](value, one[key]):
                insert(result, tuple(p for p in labels if (p[0] in self.labels) == self.on), value)
        return result

    def combine(self, left: Vector, right: Vector) -> Vector:
        if self.op == "or":
            known = {self.key(labels) for labels in left}
            return left | {labels: v for labels, v in right.items() if self.key(labels) not in known}
        known = {self.key(labels) for labels in right}
        return {labels: v for labels, v in left.items() if (self.key(labels) in known) == (self.op == "and")}


def between(compute: Callable[[float, float, float], float]) -> Callable[[Window], list[float]]:
    """What `compute` says of each two neighbours and the seconds between them."""
    return lambda w: [compute(a, b, (t1 - t0) / 1000) for (t0, a), (t1, b) in itertools.pairwise(w[0])]


ROLLUPS: dict[str, Callable[[Window], list[float]]] = {
    "rollup": lambda w: [v for _, v in w[0]],
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


@dataclass(frozen=True)
class Rollup(Node):
    function: str
    over: Range | Subquery
    only: str = ""

    def text(self) -> str:
        return f"{self.function}({self.over.text()}{f', {self.only!r}' if self.only else ''})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, window in self.over.windows(data, t):
            numbers = ROLLUPS[self.function](window)
            kept = labels if self.function == "rollup" else drop_name(labels)
            for part in [self.only] if numbers and self.only else PARTS if numbers else []:
                named = kept if self.only else tuple(sorted([*kept, ("rollup", part)]))
                insert(result, named, PARTS[part](numbers))
        return result


def mad(values: list[float]) -> float:
    median = quantile(0.5, values)
    return quantile(0.5, [abs(v - median) for v in values])


# Name -> a number of all values of a row.
WHOLE: dict[str, Callable[[list[float]], float]] = {
    "range_avg": AGGREGATES["avg"],
    "range_min": AGGREGATES["min"],
    "range_max": AGGREGATES["max"],
    "range_sum": total,
    "range_first": lambda v: v[0],
    "range_last": lambda v: v[-1],
    "range_median": lambda v: quantile(0.5, v),
    "range_mad": mad,
    "range_stddev": lambda v: math.sqrt(variance(v)),
    "range_stdvar": variance,
}


@dataclass(frozen=True)
class WholeRange(Node):
    function: str
    of: Node

    def text(self) -> str:
        return f"{self.function}({self.of.text()})"

    def matrix(self, data: Data, times: Sequence[int]) -> Matrix:
        result = self.of.matrix(data, times)
        for labels, row in result.items():
            numbers = [row[t] for t in times if t in row and not math.isnan(row[t])]
            if numbers:
                result[labels] = dict.fromkeys(times, WHOLE[self.function](numbers))
        return result


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
        return tuple(p for p in labels if p[0] in self.labels)

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
                numbers = [v for v in found if not math.isnan(v)]
                if self.op == "default" and math.isnan(row.get(t, math.nan)) and found:
                    result.setdefault(labels, {})[t] = (numbers or found)[0]
                elif t in row and (self.op == "default" or bool(numbers) == (self.op == "if")):
                    result.setdefault(labels, {})[t] = row[t]
        return result


def evaluate(node: Node, data: Data, start: int, end: int, step: int) -> dict[Labels, list[tuple[int, float]]]:
    """What a range query answers; names of values that are no longer the metric's are dropped on the way."""
    matrix = node.matrix(data, range(start, end + 1, step))
    return {labels: sorted(row.items()) for labels, row in matrix.items()}
