"""Parameters of the HTTP API, read as Prometheus reads them; its wording of each refusal."""

from __future__ import annotations

import asyncio
import math
import re
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from starlette.requests import Request

from metricsdb.server.intake import Held, TooLarge

__all__ = ["FORM_BYTES_MAX", "STEPS_MAX", "BadParameter", "Form", "duration_ms", "read_form", "time_ms", "url_form"]

# Points a series that one range query may return.
STEPS_MAX = 11_000
# Bytes of one form body, as Go's net/http allows.
FORM_BYTES_MAX = 10 << 20
# Each parameter costs some hundred bytes, however short it is.
PARAMETERS_MAX = 10_000
# A form up to this is read on the event loop.
INLINE_BYTES_MAX = 64 << 10
# The times that Prometheus' clients send for "since ever" and "for ever".
MIN_TIME_MS = (-(2**63) // 1000 + 62_135_596_801) * 1000
MAX_TIME_MS = (2**63 // 1000 - 62_135_596_801) * 1000
_EDGES = {
    "-292273086-05-16T16:47:06Z": MIN_TIME_MS,
    "292277025-08-18T07:12:54.999999999Z": MAX_TIME_MS,
}
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_UNITS_MS = (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1_000, 1)


class BadParameter(Exception):
    """A parameter cannot be read: becomes ``bad_data``, status 400."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message if name is None else f'invalid parameter "{name}": {message}')


class Form:
    """Parameters of the URL and of a posted form; the form's come first."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        """The first value, or an empty string."""
        values = self._values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def time(self, name: str) -> int:
        """A required time, in milliseconds."""
        try:
            return time_ms(self.text(name))
        except ValueError as error:
            raise BadParameter(str(error), name) from None

    def time_or(self, name: str, default: int) -> int:
        text = self.text(name)
        if not text:
            return default
        try:
            return time_ms(text)
        except ValueError as error:
            raise BadParameter(f"Invalid time value for '{name}': {error}", name) from None

    def duration(self, name: str) -> int:
        """A required duration, in milliseconds."""
        try:
            return duration_ms(self.text(name))
        except ValueError as error:
            raise BadParameter(str(error), name) from None

    def duration_or(self, name: str, default: int) -> int:
        return self.duration(name) if self.text(name) else default

    def flag(self, name: str) -> bool:
        """Whether it is set: to anything but 0, f or false, as VictoriaMetrics reads it."""
        return self.text(name).lower() not in ("", "0", "f", "false", "no")

    def limit(self, name: str = "limit") -> int:
        """A count; 0 stands for no limit."""
        text = self.text(name)
        if not text:
            return 0
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
            raise BadParameter(f"cannot parse {_quoted(text)} to a number", name)
        count = int(text)
        if count < 0:
            raise BadParameter("limit must be non-negative", name)
        return count


async def read_form(request: Request, held: Held) -> Form:
    """The request's parameters; a POST or PUT may carry them as a form, or partly in both places. Raises NoRoom."""
    pairs: list[tuple[str, str]] = []
    if request.method in ("POST", "PUT"):
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/x-www-form-urlencoded":
            try:
                body = await held.read(request.receive)
            except TooLarge:
                raise BadParameter("error parsing form values: http: POST too large") from None
            if len(body) <= INLINE_BYTES_MAX:
                pairs = _pairs(body)
            else:
                pairs = await asyncio.to_thread(_pairs, body)
    return Form(pairs + _pairs(request.scope["query_string"]))


def url_form(request: Request) -> Form:
    """The parameters of the URL alone, for requests whose body is data."""
    return Form(_pairs(request.scope["query_string"]))


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        text = raw.decode("ascii")
        if text.count("&") >= PARAMETERS_MAX:
            raise BadParameter(f"error parsing form values: more than {PARAMETERS_MAX} of them; send fewer")
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadParameter("error parsing form values: they are not percent-encoded UTF-8") from None


def time_ms(text: str) -> int:
    """Milliseconds of Unix seconds, with a fraction if need be, or of RFC 3339. Raises ValueError."""
    if _FLOAT.fullmatch(text):
        seconds = float(text)
        if math.isfinite(seconds) and abs(seconds) * 1000 < 2**63:
            # As Prometheus: the fraction is rounded to milliseconds on its own.
            fraction, whole = math.modf(seconds)
            return int(whole) * 1000 + round(fraction * 1000)
    match = _RFC3339.fullmatch(text)
    if match:
        day, clock, part, zone = match.groups()
        zone = "+00:00" if zone == "Z" else zone
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}{zone}")
        except ValueError:
            raise ValueError(f"cannot parse {_quoted(text)} to a valid timestamp") from None
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1000 + int(f"{part or '.0'}000"[1:4])
    if text in _EDGES:
        return _EDGES[text]
    raise ValueError(f"cannot parse {_quoted(text)} to a valid timestamp")


def duration_ms(text: str) -> int:
    """Milliseconds of a number of seconds or of Prometheus' `1h30m`. Raises ValueError."""
    if _FLOAT.fullmatch(text):
        seconds = float(text)
        if not abs(seconds) * 1e9 <= 2**63:
            raise ValueError(f"cannot parse {_quoted(text)} to a valid duration. It overflows int64")
        return int(seconds * 1000)
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if text and match:
        total = sum(int(n) * unit for n, unit in zip(match.groups(), _UNITS_MS, strict=True) if n)
        if total * 1_000_000 < 2**63:
            return total
    raise ValueError(f"cannot parse {_quoted(text)} to a valid duration")


def _quoted(text: str) -> str:
    """As Go's %q writes it, near enough for a message."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
