"""The slow, obvious store: a dict of dicts. What `Database` must agree with, bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping

LabelKey = tuple[tuple[str, str], ...]


def bits(value: float | int) -> bytes:
    """The 64 bits of a sample; integers and floats are different values even where they compare equal."""
    return b"i" + struct.pack("<q", value) if isinstance(value, int) else b"f" + struct.pack("<d", value)


def _least(old: float | int, new: float | int) -> float | int:
    return new if new < old or math.isnan(old) else old


def _most(old: float | int, new: float | int) -> float | int:
    return new if new > old or math.isnan(old) else old


POLICIES: dict[str, Callable[[float | int, float | int], float | int]] = {
    "last": lambda old, new: new,
    "first": lambda old, new: old,
    "min": _least,
    "max": _most,
    "error": lambda old, new: old,
}


class Store:
    """Samples by series and time; `policy` decides between two samples for one time."""

    def __init__(self, policy: str = "last") -> None:
        self.policy = policy
        self.series: dict[LabelKey, dict[int, float | int]] = {}

    def append(self, labels: Mapping[str, str], samples: Iterable[tuple[int, float | int]]) -> None:
        key = tuple(sorted((n, v) for n, v in labels.items() if v))
        row = self.series.setdefault(key, {})
        for at, value in samples:
            row[at] = POLICIES[self.policy](row[at], value) if at in row else value

    def read(self, labels: Mapping[str, str], start: int, end: int) -> list[tuple[int, bytes]]:
        key = tuple(sorted((n, v) for n, v in labels.items() if v))
        return [(t, bits(v)) for t, v in sorted(self.series.get(key, {}).items()) if start <= t <= end]
