"""Named time intervals: when a route is muted, or active."""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metricsdb.errors import ConfigError

__all__ = ["TimeInterval"]

_MONTHS = {name.lower(): i for i, name in enumerate(calendar.month_name) if name}
_NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_DAYS = {name: i for i, name in enumerate(_NAMES)}
_KEYS = {"times", "weekdays", "days_of_month", "months", "years", "location"}


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """All of its fields must hold; of one field, any range. Days of the month below zero count from its end."""

    times: tuple[tuple[int, int], ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    days: tuple[tuple[int, int], ...] = ()
    months: tuple[tuple[int, int], ...] = ()
    years: tuple[tuple[int, int], ...] = ()
    zone: tzinfo = UTC

    @classmethod
    def of(cls, raw: Any, where: str) -> TimeInterval:
        """From Alertmanager's mapping. Raises ``ConfigError``."""
        if not isinstance(raw, dict) or not raw.keys() <= _KEYS:
            raise ConfigError(f"{where}: {raw!r} is no time interval; it has {', '.join(sorted(_KEYS))}")
        name = str(raw.get("location") or "UTC")
        try:
            zone: tzinfo = UTC if name in ("UTC", "Local") else ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(f"{where}: location {name!r} is not known; write it as Europe/Paris") from None
        times = []
        for given in raw.get("times") or ():
            if not isinstance(given, dict) or given.keys() != {"start_time", "end_time"}:
                raise ConfigError(f"{where}: times {given!r} need start_time and end_time")
            start, end = _minutes(given["start_time"], where), _minutes(given["end_time"], where)
            if start >= end:
                raise ConfigError(f"{where}: start_time {given['start_time']!r} is not before end_time")
            times.append((start, end))
        return cls(
            tuple(times),
            _ranges(raw.get("weekdays"), f"{where}: weekdays", _DAYS, 0, 6),
            _ranges(raw.get("days_of_month"), f"{where}: days_of_month", {}, -31, 31),
            _ranges(raw.get("months"), f"{where}: months", _MONTHS, 1, 12),
            _ranges(raw.get("years"), f"{where}: years", {}, 0, 9999),
            zone,
        )

    def contains(self, now_ms: int) -> bool:
        at = datetime.fromtimestamp(now_ms / 1000, self.zone)
        minute = at.hour * 60 + at.minute
        last = calendar.monthrange(at.year, at.month)[1]
        return (
            (not self.times or any(start <= minute < end for start, end in self.times))
            and _in(self.weekdays, at.isoweekday() % 7)
            and (not self.days or any(_day(start, last) <= at.day <= _day(end, last) for start, end in self.days))
            and _in(self.months, at.month)
            and _in(self.years, at.year)
        )


def _in(ranges: Sequence[tuple[int, int]], value: int) -> bool:
    return not ranges or any(start <= value <= end for start, end in ranges)


def _day(day: int, last: int) -> int:
    return day if day > 0 else max(last + day + 1, 1)


def _minutes(given: Any, where: str) -> int:
    hours, colon, minutes = str(given).partition(":")
    if colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2:
        total = int(hours) * 60 + int(minutes)
        if int(minutes) < 60 and total <= 1440:
            return total
    raise ConfigError(f"{where}: {given!r} is no time of day; write it as 09:30, up to 24:00")


def _ranges(given: Any, where: str, names: Mapping[str, int], low: int, high: int) -> tuple[tuple[int, int], ...]:
    found = []
    for text in given or ():
        parts = str(text).lower().split(":")
        try:
            numbers = [names[part] if part in names else int(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or any(not low <= n <= high for n in numbers) or (low < 0 and 0 in numbers):
            raise ConfigError(f"{where}: {text!r} is no range; write one value, or two with a colon")
        start, end = numbers[0], numbers[-1]
        # Counted from the other end of the month, it depends on the month which is first.
        if start > end and (start > 0) == (end > 0):
            raise ConfigError(f"{where}: {text!r} ends before it begins")
        if start < 0 < end:
            raise ConfigError(f"{where}: {text!r} begins at the month's end and ends after its beginning")
        found.append((start, end))
    return tuple(found)
