"""What the records of a series are: a slow, obvious model. A bucket that ends at e holds the samples in (e - w, e]."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Bucket(NamedTuple):
    end: int
    count: int
    first: tuple[int, float]
    last: tuple[int, float]
    min: float
    max: float
    sum: float
    stddev: float
    increase: float
    resets: int


def increase_of(values: list[float]) -> tuple[float, int]:
    """The gain of a counter over its samples, and how often it was reset."""
    gain, resets = 0.0, 0
    for before, after in pairwise(values):
        gain += after - before if after >= before else after
        resets += after < before
    return gain, resets


def buckets(samples: Iterable[tuple[int, float]], width: int) -> list[Bucket]:
    """Of samples with times in whole units, in any order; the last value of a time stands."""
    by_end: dict[int, list[tuple[int, float]]] = {}
    for time, value in sorted(dict(samples).items()):
        by_end.setdefault(math.ceil(time / width) * width, []).append((time, value))
    found = []
    for end, inside in sorted(by_end.items()):
        values = [v for _, v in inside]
        total = math.fsum(values)
        mean = total / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
        gain, resets = increase_of(values)
        found.append(
            Bucket(end, len(values), inside[0], inside[-1], min(values), max(values), total, deviation, gain, resets)
        )
    return found


def over(samples: Iterable[tuple[int, float]], start: int, end: int) -> list[tuple[int, float]]:
    """The samples in (start, end]."""
    return [(t, v) for t, v in sorted(dict(samples).items()) if start < t <= end]
