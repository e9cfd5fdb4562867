"""Start timestamps: what `rate`, `increase`, `irate` and `resets` make of when a sample's counter began."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from tests.twins.histograms import Histogram
from tests.twins.numbers import Open
from tests.twins.promql import Data, Node, Range, Selector, Subquery, Vector, drop_name, insert
from tests.twins.remarks import remark
from tests.twins.windows import Started, Window, lead, remark_on_name

Point = tuple[int, float, int]  # time, value, start; a start of 0 is none
OVERLAP = "PromQL warning: sample has start time that overlaps with previous sample timestamp for metric"


def anew(before: Point, point: Point) -> bool:
    """Whether it counts from zero: it fell, began between the two, or both are deltas, of which one begins as the other
    ends."""
    (t0, v0, start0), (t, v, start) = before, point
    is_delta = start == t0 and 0 < start0 < t0
    return v < v0 or (start != 0 and start < t and (start > t0 or is_delta))


def points_of(window: Window) -> list[Point]:
    return [
        (t, float(v), v.start if isinstance(v, Started) else 0) for t, v in window[0] if not isinstance(v, Histogram)
    ]


def gained(per_second: bool, points: list[Point], start: int, end: int) -> float | None:
    if any(s != 0 and s < t0 and s != s0 for (t0, _, s0), (_, _, s) in itertools.pairwise(points)):
        remark(OVERLAP)
    first, _, began = points[0]
    if began == start:
        raise Open
    counted_from_zero = start < began < first and began != 0
    if counted_from_zero:
        points = [(began, 0.0, 0), *points]
    if len(points) < 2:
        return None
    (first, v0, _), (last, v1, _) = points[0], points[-1]
    lost = sum(a[1] for a, b in itertools.pairwise(points[counted_from_zero:]) if anew(a, b))
    grown, seconds = v1 - v0 + lost, (last - first) / 1000
    after = (end - last) / 1000
    if counted_from_zero:
        # Whether the zero is one more sample, in the mean distance of samples, nobody says.
        inner, n = (last - points[1][0]) / 1000, len(points) - 2
        intervals = [seconds / (n + 1), *([seconds / n, inner / n] if n else [0.0])]
        ways = {lead(after, interval, math.inf) for interval in intervals}
        if len(ways) > 1:
            raise Open
        before = 0.0
    else:
        interval = seconds / (len(points) - 1)
        from_zero = seconds * (v0 / grown) if grown > 0 and v0 >= 0 else math.inf
        before, ways = lead((first - start) / 1000, interval, from_zero), {lead(after, interval, math.inf)}
    return grown * ((seconds + before + ways.pop()) / seconds) / ((end - start) / 1000 if per_second else 1)


def instant(points: list[Point], start: int, end: int) -> float | None:
    if len(points) < 2:
        return None
    before, point = points[-2:]
    return (point[1] if anew(before, point) else point[1] - before[1]) / ((point[0] - before[0]) / 1000)


STARTED: dict[str, Callable[[list[Point], int, int], float | None]] = {
    "rate": lambda p, start, end: gained(True, p, start, end),
    "increase": lambda p, start, end: gained(False, p, start, end),
    "irate": instant,
    "resets": lambda p, start, end: float(sum(anew(a, b) for a, b in itertools.pairwise(p))),
}


@dataclass(frozen=True)
class OverStarts(Node):
    function: str
    over: Range | Subquery

    def text(self) -> str:
        return f"{self.function}({self.over.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, window in self.over.windows(data, t):
            if self.function in ("rate", "increase") and isinstance(self.over, Range):
                remark_on_name(window)
            points = points_of(window)
            if isinstance(self.over, Subquery):
                points = [(at, v, 0) for at, v, _ in points]  # of starts it says nothing
            value = STARTED[self.function](points, *window[1:]) if points else None
            if value is not None:
                insert(result, drop_name(labels), value)
        return result


@dataclass(frozen=True)
class StartTimestamp(Node):
    of: Selector

    def text(self) -> str:
        return f"start_timestamp({self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        newest = self.of.newest(data, t)
        return {drop_name(labels): (v.start if isinstance(v, Started) else 0) / 1000 for labels, _, v in newest}
