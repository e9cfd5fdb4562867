"""Functions of a range vector: of the samples of one series in one window, numbers and histograms alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from tests.twins.histograms import Histogram, Incompatible, added
from tests.twins.numbers import deviation, extreme, line, mad, mean, quantile, total, variance
from tests.twins.remarks import (
    IGNORED,
    MIXED_SCHEMAS,
    MIXED_TYPES,
    NO_COUNTER_NAME,
    NOT_COUNTER,
    NOT_GAUGE,
    RECONCILED,
    perhaps,
    remark,
)


class Started(float):
    """A number whose counter began at a time; at 0: nobody knows when."""

    start: int

    def __new__(cls, value: float, start: int) -> Started:
        found = super().__new__(cls, value)
        found.start = start
        return found


Value = float | Histogram
Samples = list[tuple[int, Value]]  # ascending milliseconds
Window = tuple[Samples, int, int]  # samples in (start, end], start, end
Function = Callable[[Window], Value | None]


def numbers_of(window: Window) -> list[float]:
    return [v for _, v in window[0] if not isinstance(v, Histogram)]


def mixed(samples: Samples) -> bool:
    return len({isinstance(v, Histogram) for _, v in samples}) > 1


def remark_on_name(window: Window) -> None:
    """No metric here is named as a counter is; one sample is enough to say so."""
    if numbers_of(window):
        remark(NO_COUNTER_NAME)


def remarked(kind: str) -> None:
    """No answer, but a remark."""
    remark(kind)


def is_reset(before: Value, after: Value) -> bool:
    if isinstance(before, Histogram) and isinstance(after, Histogram):
        return after.is_reset_after(before)
    return isinstance(before, Histogram) != isinstance(after, Histogram) or after < before


def is_change(before: Value, after: Value) -> bool:
    if isinstance(before, Histogram) or isinstance(after, Histogram):
        return before != after
    return before != after and not (math.isnan(before) and math.isnan(after))


def gain(samples: Samples, counter: bool) -> Value:
    """Last minus first, plus what was lost at each reset."""
    (_, first), (_, last) = samples[0], samples[-1]
    if not isinstance(first, Histogram):
        lost = sum(a for (_, a), (_, b) in itertools.pairwise(samples) if b < a) if counter else 0
        return last - first + lost
    return histograms_gain([v for _, v in samples], counter)


def histograms_gain(values: list[Histogram], counter: bool) -> Histogram:
    first, last = values[0], values[-1]
    if counter and "gauge" in (first.hint, last.hint):
        remark(NOT_COUNTER)
    resets = [a for a, b in itertools.pairwise(values[1:]) if is_reset(a, b)]
    if counter and is_reset(first, values[1]):
        # What stood before the reset is taken off and added again: an empty one of the second's layout stands for it.
        first = values[1].times(0)
        perhaps(f"{RECONCILED} addition")  # where it is stored that the second was a reset
    if first.custom != last.custom:
        raise Incompatible
    for h in values[1:-1] if counter else []:
        if h.hint == "gauge":
            remark(NOT_COUNTER)
        if h.custom != last.custom:
            raise Incompatible
    result = last.minus(first)
    if not counter:
        if {first.hint, last.hint} != {"gauge"}:
            remark(NOT_GAUGE)
        return result
    for h in values[1:]:
        result = result.coarser(h.schema)
    return added([result, *resets], "addition")


def lead(gap: float, interval: float, from_zero: float) -> float:
    """Seconds between a window's edge and the sample next to it that are thought to have been as the others; a counter
    did not begin below zero."""
    return min(gap if gap < interval * 1.1 else interval / 2, from_zero)


def extrapolated(counter: bool, per_second: bool) -> Function:
    def compute(window: Window) -> Value | None:
        samples, start, end = window
        if len(samples) < 2 or mixed(samples):
            return remarked(MIXED_TYPES) if mixed(samples) else None
        try:
            gained = gain(samples, counter)
        except Incompatible:
            return remarked(MIXED_SCHEMAS)
        (first, v0), (last, _) = samples[0], samples[-1]
        seconds = (last - first) / 1000
        interval = seconds / (len(samples) - 1)
        before, after = (first - start) / 1000, (end - last) / 1000
        began, grown = (v.count if isinstance(v, Histogram) else v for v in (v0, gained))
        from_zero = seconds * (began / grown) if counter and grown > 0 and began >= 0 else math.inf
        before, after = lead(before, interval, from_zero), lead(after, interval, math.inf)
        factor = (seconds + before + after) / seconds / ((end - start) / 1000 if per_second else 1)
        return gained.times(factor) if isinstance(gained, Histogram) else gained * factor

    return compute


def last_two(per_second: bool) -> Function:
    def compute(window: Window) -> Value | None:
        if len(window[0]) < 2 or mixed(window[0][-2:]):
            return remarked(MIXED_TYPES) if mixed(window[0][-2:]) else None
        (t0, v0), (t1, v1) = window[0][-2:]
        seconds = (t1 - t0) / 1000 if per_second else 1
        if not isinstance(v1, Histogram):
            return (v1 if per_second and v1 < v0 else v1 - v0) / seconds
        if per_second and "gauge" in (v0.hint, v1.hint):
            remark(NOT_COUNTER)
        if not per_second and {v0.hint, v1.hint} != {"gauge"}:
            remark(NOT_GAUGE)
        try:
            return (v1 if per_second and is_reset(v0, v1) else v1.minus(v0)).by(seconds)
        except Incompatible:
            return remarked(MIXED_SCHEMAS)

    return compute


def pairs(differs: Callable[[Value, Value], bool]) -> Function:
    return lambda w: float(sum(differs(a, b) for (_, a), (_, b) in itertools.pairwise(w[0])))


def summed(share: Callable[[int], float], numbers: Callable[[list[float]], float]) -> Function:
    def compute(window: Window) -> Value | None:
        if mixed(window[0]):
            return remarked(MIXED_TYPES)
        values = [v for _, v in window[0]]
        if not isinstance(values[0], Histogram):
            return numbers(values)
        try:
            return added(values, "aggregation").times(share(len(values)))
        except Incompatible:
            return remarked(MIXED_SCHEMAS)

    return compute


def numbers(compute: Callable[[list[float]], float | None]) -> Function:
    """Of the numbers alone."""

    def of(window: Window) -> float | None:
        found = numbers_of(window)
        if found and mixed(window[0]):
            remark(IGNORED)
        return compute(found) if found else None

    return of


def timed(pick: Callable[[list[tuple[float, float]]], float | None]) -> Function:
    """Of pairs (seconds, number)."""

    def compute(window: Window) -> float | None:
        found = [(t / 1000, v) for t, v in window[0] if not isinstance(v, Histogram)]
        if found and mixed(window[0]):
            remark(IGNORED)
        return pick(found) if found else None

    return compute


def newest_extreme(sign: int) -> Callable[[list[tuple[float, float]]], float]:
    """When the largest number stood, the last time it did."""

    def pick(points: list[tuple[float, float]]) -> float:
        best = points[0]
        for point in points[1:]:
            if point[1] * sign >= best[1] * sign or math.isnan(best[1]):
                best = point
        return best[0]

    return pick


def slope(points: list[tuple[float, float]]) -> float | None:
    """Level numbers have no slope, whatever they are."""
    if len(points) < 2:
        return None
    origin, first = points[0]
    if all(v == first for _, v in points):
        return 0.0 if math.isfinite(first) else math.nan
    return line([(t - origin, v) for t, v in points])[1]


# Name -> function of a window; whether it is right to the last bit, however it is added up.
WINDOW_FUNCTIONS: dict[str, tuple[Function, bool]] = {
    "rate": (extrapolated(True, True), False),
    "increase": (extrapolated(True, False), False),
    "delta": (extrapolated(False, False), False),
    "irate": (last_two(True), False),
    "idelta": (last_two(False), True),
    "resets": (pairs(is_reset), True),
    "changes": (pairs(is_change), True),
    "sum_over_time": (summed(lambda _: 1.0, total), True),
    "avg_over_time": (summed(lambda n: 1 / n, mean), False),
    "min_over_time": (numbers(lambda v: extreme(v, -1)), True),
    "max_over_time": (numbers(lambda v: extreme(v, 1)), True),
    "count_over_time": (lambda w: float(len(w[0])), True),
    "last_over_time": (lambda w: w[0][-1][1], True),
    "first_over_time": (lambda w: w[0][0][1], True),
    "present_over_time": (lambda _: 1.0, True),
    "stddev_over_time": (numbers(deviation), False),
    "stdvar_over_time": (numbers(variance), False),
    "mad_over_time": (numbers(mad), True),
    "quantile_over_time": (numbers(lambda v: quantile(0.3, v)), False),
    "deriv": (timed(slope), False),
    "ts_of_first_over_time": (lambda w: w[0][0][0] / 1000, True),
    "ts_of_last_over_time": (lambda w: w[0][-1][0] / 1000, True),
    "ts_of_max_over_time": (timed(newest_extreme(1)), True),
    "ts_of_min_over_time": (timed(newest_extreme(-1)), True),
}
KEEP_NAMES = {"last_over_time", "first_over_time"}
ARGUMENTS = {"quantile_over_time": "0.3, "}


# --- anchored and smoothed: the samples around a window's edges, whose values they give -----------------------------

EDGED = {"anchored": ["changes", "delta", "increase", "rate", "resets"], "smoothed": ["delta", "increase", "rate"]}


def between(samples: list[tuple[int, float]], t: int, counter: bool) -> float | None:
    """The number at t on the line between the samples around it; a counter's fall began at zero."""
    known = dict(samples)
    before, after = [p for p in samples if p[0] < t], [p for p in samples if p[0] > t]
    if t in known or not before or not after:
        return known.get(t)
    (t0, v0), (t1, v1) = before[-1], after[0]
    from_ = 0.0 if counter and v1 < v0 else v0
    return from_ + (v1 - from_) * (t - t0) / (t1 - t0)


def edged(function: str, extension: str, around: list[tuple[int, float]], start: int, end: int) -> float | None:
    """`around`: the samples in the window and in the lookback about it, numbers alone."""
    counter = function in ("rate", "increase")
    before, inside = [p for p in around if p[0] <= start], [p for p in around if start < p[0] <= end]
    after = [p for p in around if p[0] > end]
    if extension == "anchored":
        if not inside:
            return None
        points = before[-1:] + inside
    else:
        if not inside and not (before and after):
            return None
        edges = [(t, v) for t in (start, end) if (v := between(around, t, counter)) is not None]
        points = sorted({**dict(inside), **dict(edges)}.items())
    if function in ("changes", "resets"):
        return WINDOW_FUNCTIONS[function][0]((points, start, end))
    result = gain(points, counter)
    return result / ((end - start) / 1000) if function == "rate" else result
