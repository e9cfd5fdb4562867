"""Times and durations as people write them, to integer milliseconds.

One rule everywhere: a bare number is seconds since the epoch, as Prometheus' HTTP API takes it;
numpy and Polars timestamps keep the unit they carry.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb.errors import ConfigError

Time = datetime | int | float | str | np.datetime64
DurationLike = timedelta | int | float | str

DAY_MS = 86_400_000
# Seconds beyond this are the year 5138: almost surely milliseconds that lost their unit.
_SECONDS_MAX = 100_000_000_000
_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": DAY_MS,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdwy]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")


class Duration:
    """A length of time in a configuration file: ``15s``, ``1m30s``, or a number of seconds."""

    __slots__ = ("ms",)

    def __init__(self, text: str | float) -> None:
        self.ms = duration_ms(text)
        if self.ms <= 0:
            raise ConfigError(f"{text!r} must be longer than zero; write it as '15s' or '1m'")

    @property
    def seconds(self) -> float:
        return self.ms / 1000

    def __str__(self) -> str:
        return f"{self.ms // 1000}s" if self.ms % 1000 == 0 else f"{self.ms}ms"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.ms == other.ms

    def __hash__(self) -> int:
        return hash(self.ms)


def duration_ms(value: DurationLike, what: str = "duration") -> int:
    """Milliseconds of ``"5m"``, ``"1h30m"``, a ``timedelta``, or a number of seconds.

    Raises ``ConfigError`` for anything else, naming ``what``.
    """
    if isinstance(value, timedelta):
        return round(value.total_seconds() * 1000)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not np.isfinite(value):
            raise ConfigError(f"{what} {value!r} is not finite; give seconds or a string such as '5m'")
        return round(value * 1000)
    if isinstance(value, str):
        text = value.strip()
        if _DURATION.fullmatch(text):
            return round(sum(float(n) * _UNITS_MS[u] for n, u in _PART.findall(text)))
        try:
            return duration_ms(float(text), what)
        except ValueError:
            pass
    raise ConfigError(f"{what} {value!r} is not a duration; write it as '30s', '5m', '1h30m', or seconds")


_UNITS = (("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def duration_text(ms: int) -> str:
    """Milliseconds as a duration, in days at most, as people write ages: ``"1h30m"``, ``"90d"``, ``"0s"``."""
    text, rest = "", abs(ms)
    for unit, width in _UNITS:
        count, rest = divmod(rest, width)
        text += f"{count}{unit}" if count else ""
    return ("-" if ms < 0 else "") + (text or "0s")


def time_ms(value: Time, now_ms: int, what: str = "time") -> int:
    """Milliseconds since the epoch of one point in time.

    Takes a ``datetime`` (naive ones are UTC), ``numpy.datetime64``, seconds as a number or numeric string,
    RFC 3339, ``"now"``, or an offset from now such as ``"-1h"`` or ``"now-5m"``.
    """
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            raise ConfigError(f"{what} is NaT; give a time")
        return int(value.astype("datetime64[ms]").astype(np.int64))
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return _seconds_ms(float(value), what)
    if isinstance(value, str):
        return _text_ms(value.strip(), now_ms, what)
    raise ConfigError(f"{what} {value!r} is a {type(value).__name__}; give a datetime, seconds, or a string")


def _seconds_ms(value: float, what: str) -> int:
    if not np.isfinite(value):
        raise ConfigError(f"{what} {value!r} is not finite; give seconds since the epoch")
    if abs(value) > _SECONDS_MAX:
        raise ConfigError(
            f"{what} {value!r} looks like milliseconds; bare numbers are seconds: divide by 1000 "
            "or pass numpy.datetime64 values, which keep their unit"
        )
    return round(value * 1000)


def _text_ms(text: str, now_ms: int, what: str) -> int:
    relative = text.removeprefix("now").replace(" ", "")
    if relative == "" and text:
        return now_ms
    if relative[:1] in "+-" and _DURATION.fullmatch(relative[1:]):
        offset = duration_ms(relative[1:], what)
        return now_ms + offset if relative[0] == "+" else now_ms - offset
    try:
        return _seconds_ms(float(text), what)
    except ValueError:
        pass
    try:
        return time_ms(datetime.fromisoformat(text), now_ms, what)
    except ValueError:
        raise ConfigError(
            f"{what} {text!r} is not a time; write '2026-01-01T00:00:00Z', seconds, 'now', or '-1h'"
        ) from None


def time_column_ms(values: Any, now_ms: int, what: str = "timestamps") -> npt.NDArray[np.int64]:
    """One-dimensional ``int64`` milliseconds from a scalar, list, numpy array or Polars series of times.

    ``datetime64`` columns keep their unit (finer units are floored); numeric columns are seconds.
    """
    if isinstance(values, pl.Series):
        if values.null_count():
            raise ConfigError(f"{what} hold {values.null_count()} nulls; drop those rows")
        if isinstance(values.dtype, pl.Datetime):
            values = values.dt.timestamp("ms").to_numpy()
            return np.ascontiguousarray(values, dtype=np.int64)
        values = values.to_numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(v, (datetime, str)) for v in values):
        return np.array([time_ms(v, now_ms, what) for v in values], dtype=np.int64)
    if isinstance(values, (datetime, str)):
        return np.array([time_ms(values, now_ms, what)], dtype=np.int64)
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1:
        raise ConfigError(f"{what} has {array.ndim} dimensions; give one")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            raise ConfigError(f"{what} holds NaT at row {int(np.isnat(array).argmax())}; drop such rows")
        return np.ascontiguousarray(array.astype("datetime64[ms]").view(np.int64))
    if array.dtype.kind in "iuf":
        return _seconds_column_ms(array, what)
    raise ConfigError(f"{what} has dtype {array.dtype}; give datetime64 or seconds")


def _seconds_column_ms(array: npt.NDArray[Any], what: str) -> npt.NDArray[np.int64]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ConfigError(f"{what} holds a time that is not finite; drop such rows")
    if array.min() < -_SECONDS_MAX or array.max() > _SECONDS_MAX:
        raise ConfigError(
            f"{what} look like milliseconds; bare numbers are seconds: use "
            "array.view('datetime64[ms]') (int64) to say that they are milliseconds"
        )
    if array.dtype.kind == "f":
        return np.round(array * 1000).astype(np.int64)
    return array.astype(np.int64) * 1000
