"""PromQL, slow and obvious: one instant after the other, over dicts. A node prints itself and evaluates itself.

Metric names are dropped at once: never ask for two names in one selector, nor group by the name.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.twins.histograms import Histogram, Incompatible
from tests.twins.numbers import ARITHMETIC, COMPARISONS, MAPS, Open, Refused
from tests.twins.remarks import BAD_BOUND, out_of_range, remark
from tests.twins.trims import TRIMS, trimmed
from tests.twins.windows import ARGUMENTS, KEEP_NAMES, WINDOW_FUNCTIONS, Value, Window, edged, remark_on_name

Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, Value]
Matrix = dict[Labels, dict[int, Value]]
Data = dict[Labels, list[tuple[int, Value | None]]]  # ascending milliseconds; None marks the end of a series
LOOKBACK_MS = 300_000


def drop_name(labels: Labels) -> Labels:
    return tuple(p for p in labels if p[0] != "__name__")


def pick(labels: Labels, names: Sequence[str], wanted: bool) -> Labels:
    """The labels that are among the names, or that are not."""
    return tuple(p for p in labels if (p[0] in names) == wanted)


def insert(into: Vector, labels: Labels, value: Value) -> None:
    if labels in into:
        raise Refused("two samples under one label set")
    into[labels] = value


class Said(int):
    """Milliseconds that an expression says."""

    words: str

    def __new__(cls, duration: int, words: str) -> Said:
        found = super().__new__(cls, duration)
        found.words = words
        return found


def ms(duration: int) -> str:
    if isinstance(duration, Said):
        return f"({duration.words})"
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


MATCHES: dict[str, Callable[[str, str], bool]] = {
    "=": lambda have, wanted: have == wanted,
    "!=": lambda have, wanted: have != wanted,
    "=~": lambda have, wanted: have in wanted.split("|"),
    "!~": lambda have, wanted: have not in wanted.split("|"),
}


@dataclass(frozen=True)
class Selector(Node):
    """Matchers of a branch hold together; of several branches one is enough. Regexes are plain words with | between."""

    name: str
    branches: tuple[tuple[tuple[str, str, str], ...], ...] = ((),)
    offset: int = 0
    at: int | None = None

    def text(self, window: str = "", extension: str = "") -> str:
        of_branch = [",".join(f'{label}{op}"{value}"' for label, op, value in b) for b in self.branches]
        inner = of_branch[0] if len(of_branch) == 1 else " or ".join(f"({b})" for b in of_branch)
        pinned = "" if self.at is None else f" @ {self.at / 1000}"
        offset = f" offset {ms(self.offset)}" if self.offset else ""
        return f"{self.name}{{{inner}}}{window}{pinned}{offset}{extension}"

    def takes(self, labels: Labels) -> bool:
        have = dict(labels)
        if have["__name__"] != self.name:
            return False
        return any(all(MATCHES[op](have.get(n, ""), v) for n, op, v in branch) for branch in self.branches)

    def time(self, t: int) -> int:
        return (t if self.at is None else self.at) - self.offset

    def newest(self, data: Data, t: int) -> Iterator[tuple[Labels, int, Value]]:
        t = self.time(t)
        for labels, samples in data.items():
            if self.takes(labels):
                seen = [(at, v) for at, v in samples if t - LOOKBACK_MS < at <= t]
                if seen and seen[-1][1] is not None:
                    yield labels, *seen[-1]

    def vector(self, data: Data, t: int) -> Vector:
        return {labels: value for labels, _, value in self.newest(data, t)}


@dataclass(frozen=True)
class Timestamp(Node):
    of: Selector

    def text(self) -> str:
        return f"timestamp({self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        return {drop_name(labels): at / 1000 for labels, at, _ in self.of.newest(data, t)}


@dataclass(frozen=True)
class Clock(Node):
    def text(self) -> str:
        return "vector(time())"

    def vector(self, data: Data, t: int) -> Vector:
        return {(): t / 1000}


@dataclass(frozen=True)
class Range:
    selector: Selector
    length: int

    def text(self, extension: str = "") -> str:
        return self.selector.text(f"[{ms(self.length)}]", extension)

    def windows(self, data: Data, t: int, around: int = 0) -> Iterator[tuple[Labels, Window]]:
        end = self.selector.time(t)
        start = end - self.length
        for labels, samples in data.items():
            if self.selector.takes(labels):
                inside = [(at, v) for at, v in samples if start - around < at <= end + around and v is not None]
                yield labels, (inside, start, end)


@dataclass(frozen=True)
class Subquery:
    expr: Node
    length: int
    step: int
    offset: int = 0
    at: int | None = None

    def text(self) -> str:
        pinned = "" if self.at is None else f" @ {self.at / 1000}"
        offset = f" offset {ms(self.offset)}" if self.offset else ""
        return f"({self.expr.text()})[{ms(self.length)}:{ms(self.step)}]{pinned}{offset}"

    def windows(self, data: Data, t: int) -> Iterator[tuple[Labels, Window]]:
        end = (t if self.at is None else self.at) - self.offset
        start = end - self.length
        found: dict[Labels, list[tuple[int, Value]]] = {}
        for at in range(start // self.step * self.step, end + 1, self.step):
            if at > start:
                for labels, value in self.expr.vector(data, at).items():
                    found.setdefault(labels, []).append((at, value))
        for labels, samples in found.items():
            yield labels, (samples, start, end)


@dataclass(frozen=True)
class Over(Node):
    function: str
    over: Range | Subquery

    def text(self) -> str:
        return f"{self.function}({ARGUMENTS.get(self.function, '')}{self.over.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, window in self.over.windows(data, t):
            value = WINDOW_FUNCTIONS[self.function][0](window) if window[0] else None
            # Of a subquery's names this twin knows nothing.
            if self.function in ("rate", "increase") and isinstance(self.over, Range):
                may_be_histogram = self.over.selector.name == "mixed"
                remark_on_name(window if isinstance(value, float) or not may_be_histogram else ([], 0, 0))
            if value is not None:
                insert(result, labels if self.function in KEEP_NAMES else drop_name(labels), value)
        return result


@dataclass(frozen=True)
class Edged(Node):
    """`anchored` or `smoothed`; of series of numbers alone."""

    function: str
    over: Range
    extension: str

    def text(self) -> str:
        return f"{self.function}({self.over.text(' ' + self.extension)})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, (around, start, end) in self.over.windows(data, t, LOOKBACK_MS):
            numbers = [(at, v) for at, v in around if not isinstance(v, Histogram)]
            value = edged(self.function, self.extension, numbers, start, end) if numbers else None
            if self.function in ("rate", "increase"):
                remark_on_name(([p for p in numbers if start < p[0] <= end], start, end))
            if value is not None:
                insert(result, drop_name(labels), value)
        return result


@dataclass(frozen=True)
class Map(Node):
    """A function of each number; histograms are left out."""

    function: str
    of: Node

    def text(self) -> str:
        return f"{self.function}({self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            if not isinstance(value, Histogram):
                insert(result, drop_name(labels), MAPS[self.function](value))
        return result


HISTOGRAM_FUNCTIONS: dict[str, Callable[[Histogram], float]] = {
    "histogram_count({})": lambda h: h.count,
    "histogram_sum({})": lambda h: h.sum,
    "histogram_avg({})": Histogram.average,
    "histogram_stdvar({})": Histogram.variance,
    "histogram_stddev({})": lambda h: math.sqrt(v) if (v := h.variance()) >= 0 else math.nan,
    "histogram_quantile(0, {})": lambda h: h.quantile(0),
    "histogram_quantile(0.3, {})": lambda h: h.quantile(0.3),
    "histogram_quantile(0.99, {})": lambda h: h.quantile(0.99),
    "histogram_quantile(2, {})": lambda h: h.quantile(2),
    "histogram_fraction(-1, 3, {})": lambda h: h.fraction(-1, 3),
    "histogram_fraction(0.7, Inf, {})": lambda h: h.fraction(0.7, math.inf),
}


@dataclass(frozen=True)
class OfHistogram(Node):
    function: str
    of: Node

    def text(self) -> str:
        return self.function.format(self.of.text())

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        if "quantile(2" in self.function:
            out_of_range(2)
        for labels, value in self.of.vector(data, t).items():
            if isinstance(value, Histogram):
                insert(result, drop_name(labels), HISTOGRAM_FUNCTIONS[self.function](value))
            elif "quantile" in self.function or "fraction" in self.function:
                remark(BAD_BOUND)  # a number without an upper bound
        return result


def combined(op: str, a: Value, b: Value) -> Value:
    """Arithmetic of two samples."""
    match isinstance(a, Histogram), isinstance(b, Histogram):
        case False, False:
            return ARITHMETIC[op](a, b)
        case True, True if op in ("+", "-"):
            if {a.hint, b.hint} == {"reset", "not_reset"}:
                raise Open  # where both are known to be, there is none; that hangs on how samples are stored
            return a.plus(b, 1, "addition") if op == "+" else a.minus(b)
        case True, False if op in ("*", "/"):
            return a.times(b) if op == "*" else a.by(b)
        case False, True if op == "*":
            return b.times(a)
        case True, False if op in TRIMS:
            return trimmed(a, op, b)
    raise Incompatible


def result_of(op: str, a: Value, b: Value, returns_bool: bool, kept: Value) -> Value | None:
    """None: filtered out. `Incompatible`: these two have no answer."""
    kinds = ["histogram" if isinstance(v, Histogram) else "float" for v in (a, b)]
    allowed = {
        "float float": [*ARITHMETIC, *COMPARISONS],
        "float histogram": ["*"],
        "histogram float": ["*", "/", *TRIMS],
        "histogram histogram": ["+", "-", "==", "!="],
    }
    if op not in allowed[" ".join(kinds)]:
        remark(
            f'PromQL info: incompatible sample types encountered for binary operator "{op}": {f" {op} ".join(kinds)}'
        )
        raise Incompatible
    if op not in COMPARISONS:
        try:
            return combined(op, a, b)
        except Incompatible:
            remark(f"PromQL warning: incompatible bucket layout encountered for binary operator {op}")
            raise
    holds = COMPARISONS[op](a, b)
    return float(holds) if returns_bool else kept if holds else None


@dataclass(frozen=True)
class WithNumber(Node):
    op: str
    of: Node
    number: float
    returns_bool: bool = False
    number_first: bool = False
    keep_name: bool = False

    def text(self) -> str:
        sides = [f"({self.of.text()})", f"({self.number})"]
        said = f" {self.op}{' bool' if self.returns_bool else ''} ".join(sides[::-1] if self.number_first else sides)
        return f"(({said}) keep_metric_names)" if self.keep_name else said

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            sides = (self.number, value) if self.number_first else (value, self.number)
            with contextlib.suppress(Incompatible):
                found = result_of(self.op, *sides, self.returns_bool, value)
                keeps = self.keep_name or (self.op not in ARITHMETIC and not self.returns_bool)
                if found is not None:
                    insert(result, labels if keeps else drop_name(labels), found)
        return result


def evaluate(node: Node, data: Data, start: int, end: int, step: int) -> dict[Labels, list[tuple[int, Value]]]:
    """What a range query answers; names of values that are no longer the metric's are dropped on the way."""
    matrix = node.matrix(data, range(start, end + 1, step))
    return {labels: sorted(row.items(), key=lambda p: p[0]) for labels, row in matrix.items()}
