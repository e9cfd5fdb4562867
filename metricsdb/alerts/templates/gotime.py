"""Times and durations as Go writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metricsdb.alerts.templates.values import Record, sprint

__all__ = ["GoDuration", "GoTime", "in_zone"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|Z07:00:00|Z070000|Z07:00|Z0700|Z07|-07:00:00|-070000|-07:00|-0700|-07"
    r"|__2|002|01|02|03|04|05|06|15|_2|PM|pm|[.,]0+(?!\d)|[.,]9+(?!\d)|1|2|3|4|5"
)
_MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


_ELEMENTS: dict[str, Callable[[datetime], str]] = {
    "January": lambda at: _MONTHS[at.month - 1],
    "Jan": lambda at: _MONTHS[at.month - 1][:3],
    "01": lambda at: f"{at.month:02d}",
    "1": lambda at: str(at.month),
    "Monday": lambda at: _DAYS[at.weekday()],
    "Mon": lambda at: _DAYS[at.weekday()][:3],
    "2": lambda at: str(at.day),
    "_2": lambda at: f"{at.day:2d}",
    "02": lambda at: f"{at.day:02d}",
    "__2": lambda at: f"{at.timetuple().tm_yday:3d}",
    "002": lambda at: f"{at.timetuple().tm_yday:03d}",
    "15": lambda at: f"{at.hour:02d}",
    "3": lambda at: str(at.hour % 12 or 12),
    "03": lambda at: f"{at.hour % 12 or 12:02d}",
    "4": lambda at: str(at.minute),
    "04": lambda at: f"{at.minute:02d}",
    "5": lambda at: str(at.second),
    "05": lambda at: f"{at.second:02d}",
    "2006": lambda at: f"{at.year:04d}",
    "06": lambda at: f"{at.year % 100:02d}",
    "PM": lambda at: "PM" if at.hour >= 12 else "AM",
    "pm": lambda at: "pm" if at.hour >= 12 else "am",
}


class GoDuration(Record):
    """Nanoseconds."""

    name: ClassVar[str] = "time.Duration"

    def __init__(self, nanoseconds: int) -> None:
        self.nanoseconds = nanoseconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GoDuration) and self.nanoseconds == other.nanoseconds

    def text(self) -> str:
        total = abs(self.nanoseconds)
        sign = "-" if self.nanoseconds < 0 else ""
        if total == 0:
            return "0s"
        for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if total < size * 1_000 and total < 1_000_000_000:
                return f"{sign}{_decimal(total, size)}{unit}"
        minutes, rest = divmod(total, 60_000_000_000)
        text = _decimal(rest, 1_000_000_000) + "s"
        if minutes:
            hours, minutes = divmod(minutes, 60)
            text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
        return sign + text

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "String": lambda d: d.text(),
        "Seconds": lambda d: d.nanoseconds / 1e9,
        "Minutes": lambda d: d.nanoseconds / 60e9,
        "Hours": lambda d: d.nanoseconds / 3600e9,
        "Milliseconds": lambda d: int(d.nanoseconds / 1_000_000),
        "Nanoseconds": lambda d: d.nanoseconds,
        "Round": lambda d, unit: GoDuration(_rounded(d.nanoseconds, unit)),
        "Truncate": lambda d, unit: GoDuration(int(d.nanoseconds / _step(unit)) * _step(unit)),
    }


def _decimal(count: int, size: int) -> str:
    whole, part = divmod(count, size)
    return str(whole) + ("." + f"{part:0{len(str(size)) - 1}d}".rstrip("0") if part else "")


def _step(unit: Any) -> int:
    step = unit.nanoseconds if isinstance(unit, GoDuration) else int(unit)
    return max(step, 1)


def _rounded(nanoseconds: int, unit: Any) -> int:
    step = _step(unit)
    sign = -1 if nanoseconds < 0 else 1
    return sign * ((abs(nanoseconds) + step // 2) // step * step)


class GoTime(Record):
    """A moment; None is Go's zero time. Milliseconds are as fine as our times are."""

    name: ClassVar[str] = "time.Time"

    def __init__(self, ms: float | None, zone: tzinfo = UTC) -> None:
        self.ms = ms
        at = datetime(1, 1, 1, tzinfo=UTC) if ms is None else _EPOCH + timedelta(milliseconds=ms)
        self.at = at.astimezone(zone)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GoTime) and self.ms == other.ms

    def text(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def format(self, layout: str) -> str:
        """By Go's reference time, 2006-01-02T15:04:05-07:00."""
        return _LAYOUT.sub(self._element, layout)

    def _element(self, found: re.Match[str]) -> str:
        word, at = found[0], self.at
        if word[0] in ".," and word[1] in "09":
            return self._fraction(word)
        if word[0] in "Z-" or word == "MST":
            return self._zone(word)
        return _ELEMENTS[word](at)

    def _fraction(self, word: str) -> str:
        digits = f"{self.at.microsecond:06d}000"[: len(word) - 1]
        if word[1] == "9":
            digits = digits.rstrip("0")
        return word[0] + digits if digits else ""

    def _zone(self, word: str) -> str:
        offset = self.at.utcoffset() or timedelta()
        seconds = round(offset.total_seconds())
        if word == "MST":
            return self.at.tzname() or "UTC"
        if word[0] == "Z" and seconds == 0:
            return "Z"
        sign = "-" if seconds < 0 else "+"
        parts = (abs(seconds) // 3600, abs(seconds) // 60 % 60, abs(seconds) % 60)
        shown = parts[: 1 + word[1:].count("00")]
        return sign + (":" if ":" in word else "").join(f"{part:02d}" for part in shown)

    def since(self, other: GoTime) -> GoDuration:
        return GoDuration(round((self.at - other.at) / timedelta(microseconds=1)) * 1000)

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "String": lambda t: t.text(),
        "Format": lambda t, layout: t.format(_text(layout)),
        "Unix": lambda t: (t.at - _EPOCH) // timedelta(seconds=1),
        "UnixMilli": lambda t: (t.at - _EPOCH) // timedelta(milliseconds=1),
        "UnixNano": lambda t: (t.at - _EPOCH) // timedelta(microseconds=1) * 1000,
        "UTC": lambda t: GoTime(t.ms),
        "Local": lambda t: t,
        "Year": lambda t: t.at.year,
        "Month": lambda t: NamedNumber(t.at.month, _MONTHS[t.at.month - 1]),
        "Day": lambda t: t.at.day,
        "Hour": lambda t: t.at.hour,
        "Minute": lambda t: t.at.minute,
        "Second": lambda t: t.at.second,
        "Nanosecond": lambda t: t.at.microsecond * 1000,
        "Weekday": lambda t: NamedNumber((t.at.weekday() + 1) % 7, _DAYS[t.at.weekday()]),
        "YearDay": lambda t: t.at.timetuple().tm_yday,
        "IsZero": lambda t: t.ms is None,
        "Sub": lambda t, other: t.since(other),
        "Add": lambda t, length: GoTime((t.ms or 0) + length.nanoseconds / 1e6, t.at.tzinfo or UTC),
        "After": lambda t, other: t.at > other.at,
        "Before": lambda t, other: t.at < other.at,
        "Equal": lambda t, other: t.at == other.at,
    }


class NamedNumber(Record):
    """A month or a day of the week: a number that prints as its name."""

    name: ClassVar[str] = "time.Month"

    def __init__(self, number: int, word: str) -> None:
        self.number, self.word = number, word

    def text(self) -> str:
        return self.word

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {"String": lambda n: n.word}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"wrong type for value; expected string; got {sprint(value)}")
    return value


def in_zone(time: GoTime, name: str) -> GoTime:
    """The same moment as clocks in that place show it. Raises ValueError for a place that isn't known."""
    try:
        zone: tzinfo = UTC if name in ("", "UTC") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name}") from None
    return GoTime(time.ms, zone)
