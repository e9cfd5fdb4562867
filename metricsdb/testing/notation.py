"""Prometheus' series notation, as its `.test` scripts and rule unit tests write it.

    http_requests{path="/a", code="200"}   0+10x10 _ _x3 stale NaN -Inf 1e3

The first value stands at time 0, each next one a step later. `axN` is a N+1 times, `a+bxN` N+1 values with b
added each time, `_` a step without a sample, `stale` a staleness marker.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metricsdb.database import Database
from metricsdb.times import DurationLike, duration_ms

__all__ = ["STALE", "Series", "load", "parse_labels", "parse_series", "parse_values"]

STALE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]

_NUMBER = r"(?:[Ii]nf|NaN|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_ITEM = re.compile(
    rf"(?:(?P<gap>_)|(?P<stale>stale)|(?P<value>[+-]?{_NUMBER})(?P<step>[+-]{_NUMBER})?)(?:x(?P<times>\d+))?"
)
_NAME = re.compile(r"[^\W\d][\w:.]*|[:_][\w:.]*")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:(x[0-9a-fA-F]{2}|[0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: the label set, and a value a step; None where there is no sample."""

    labels: dict[str, str]
    values: list[float | None]

    def samples(self, step_ms: int, start_ms: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Timestamps (int64 ms) and values (float64) of the samples that are there."""
        there = [i for i, value in enumerate(self.values) if value is not None]
        times = start_ms + np.array(there, dtype=np.int64) * step_ms
        return times, np.array([v for v in self.values if v is not None], dtype=np.float64)


def load(db: Database, step: DurationLike, text: str, *, start_ms: int = 0) -> None:
    """Writes every series of `text`, one a line; empty lines and those that begin with # are passed over."""
    step_ms = duration_ms(step, "step")
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            series = parse_series(line)
            times, values = series.samples(step_ms, start_ms)
            db.append(series.labels, times.view("datetime64[ms]"), values)


def parse_series(line: str) -> Series:
    """A whole line. Raises ValueError that names the faulty part."""
    line = line.strip()
    end = _labels_end(line)
    if line[end:].startswith("@"):
        raise ValueError(f"{line!r}: start timestamps are not stored; leave the line out")
    return Series(parse_labels(line[:end]), parse_values(line[end:]))


def parse_values(text: str) -> list[float | None]:
    """The values of a line; None is a step without a sample. Raises ValueError."""
    if "{{" in text:
        raise ValueError(f"{text.strip()!r}: native histograms are not stored; write classic buckets")
    values: list[float | None] = []
    for item in text.split():
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is no series value; write 1, 1x3, 1+2x3, _, _x3 or stale")
        times = int(match["times"]) if match["times"] is not None else None
        if match["gap"]:
            values += [None] * (1 if times is None else times)
        elif match["step"] is not None and times is None:
            raise ValueError(f"{item!r} says how much to add but not how often; write {item}xN")
        else:
            values += _repeated(match, times or 0)
    return values


def _repeated(match: re.Match[str], times: int) -> Iterator[float]:
    value = STALE if match["stale"] else float(match["value"])
    step = float(match["step"] or 0)
    yield value
    for _ in range(times):
        # By repeated addition, as Prometheus does: the rounding is part of the notation.
        value = value + step if step else value
        yield value


def parse_labels(text: str) -> dict[str, str]:
    """`name{label="value", "odd name"="value"}`, or the name as a bare string in the braces. Raises ValueError."""
    text = text.strip()
    name, brace, inside = text.partition("{") if not text.startswith("{") else ("", "{", text[1:])
    labels = {"__name__": name.strip()} if name.strip() else {}
    if not brace:
        return labels
    if not inside.endswith("}"):
        raise ValueError(f"{text!r}: the label set has no closing brace")
    rest = inside[:-1].strip()
    while rest:
        key, rest, quoted = _key(rest)
        rest = rest.lstrip()
        if rest.startswith("="):
            value, rest = _string(rest[1:].lstrip())
            rest = rest.lstrip()
        elif quoted:
            key, value = "__name__", key
        else:
            raise ValueError(f"{text!r}: label {key!r} has no value")
        if key in labels:
            raise ValueError(f"{text!r}: label {key!r} stands there twice")
        labels[key] = value
        if rest and not rest.startswith(","):
            raise ValueError(f"{text!r}: a comma is missing before {rest!r}")
        rest = rest[1:].lstrip()
    return labels


def _labels_end(line: str) -> int:
    """Where the label set ends: its closing brace (not one in a string), or the first blank."""
    at, opened = 0, False
    while at < len(line):
        if line[at] in "\"'`":
            at = len(line) - len(_string(line[at:])[1])
            continue
        if line[at] == "{":
            opened = True
        elif line[at] == "}":
            return at + 1
        elif not opened and (line[at].isspace() or line[at] == "@"):
            # `name {a="b"}`: the braces may stand apart from the name.
            rest = line[at:].lstrip()
            if rest.startswith("{") and not rest.startswith("{{"):
                at = len(line) - len(rest)
                continue
            return at
        at += 1
    if opened:
        raise ValueError(f"{line!r}: the label set has no closing brace")
    return at


def _key(text: str) -> tuple[str, str, bool]:
    """The label's name, the rest, and whether the name was quoted."""
    if text[0] in "\"'`":
        name, rest = _string(text)
        return name, rest, True
    match = _NAME.match(text)
    if match is None:
        raise ValueError(f"{text!r} does not begin with a label name")
    return match[0], text[match.end() :], False


def _string(text: str) -> tuple[str, str]:
    """A Go string literal at the start of `text`, and what follows it."""
    quote = text[:1]
    if quote not in ('"', "'", "`"):
        raise ValueError(f"{text!r} does not begin with a string")
    at = 1
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" and quote != "`" else 1
    if at >= len(text):
        raise ValueError(f"{text!r}: the string does not end")
    body = text[1:at]
    return (body if quote == "`" else _unescape(body)), text[at + 1 :]


def _unescape(body: str) -> str:
    """Go's escapes. \\x and octal ones are bytes of UTF-8."""
    if "\\" not in body:
        return body
    raw, last = bytearray(), 0
    for match in _ESCAPE.finditer(body):
        raw += body[last : match.start()].encode()
        last = match.end()
        byte, short, long, plain = match.groups()
        if byte:
            raw.append(int(byte[1:], 16) if byte[0] == "x" else int(byte, 8) & 0xFF)
        elif short or long:
            raw += chr(int(short or long, 16)).encode()
        else:
            raw += _ESCAPES.get(plain, plain).encode()
    raw += body[last:].encode()
    return raw.decode()
