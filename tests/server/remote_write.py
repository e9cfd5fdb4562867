"""Remote write bodies, encoded by plain Python and somebody else's snappy."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import cramjam

Sample = tuple[int, float]


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def request(series: Iterable[tuple[Mapping[str, str], Iterable[Sample]]]) -> bytes:
    """The protobuf of a WriteRequest; labels are sorted as senders must."""
    out = b""
    for labels, samples in series:
        message = b"".join(
            field(1, field(1, name.encode()) + field(2, value.encode())) for name, value in sorted(labels.items())
        )
        for at, value in samples:
            message += field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(at))
        out += field(1, message)
    return out


def body(series: Iterable[tuple[Mapping[str, str], Iterable[Sample]]]) -> bytes:
    return bytes(cramjam.snappy.compress_raw(request(series)))


def fixed(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def number(field_number: int, value: int) -> bytes:
    return varint(field_number << 3) + varint(value)


def histogram(at: int, counts: Iterable[int], *, start: int = 0) -> bytes:
    """A native histogram of integers: schema 0, buckets from index 1 on, none with custom bounds."""
    counts = list(counts)
    deltas = [now - before for now, before in zip(counts, [0, *counts], strict=False)]
    span = number(1, 2) + number(2, len(counts))
    out = number(1, sum(counts)) + fixed(3, 1.5) + number(4, 0) + field(11, span)
    out += field(12, b"".join(varint(d << 1 if d >= 0 else (-d << 1) - 1) for d in deltas))
    return out + number(15, at) + (number(17, start) if start else b"")


class Request2:
    """A Request of remote write 2.0: strings by number, starts beside samples."""

    def __init__(self) -> None:
        self.symbols = [""]
        self.series = b""

    def symbol(self, text: str) -> int:
        if text not in self.symbols:
            self.symbols.append(text)
        return self.symbols.index(text)

    def add(
        self,
        labels: Mapping[str, str],
        samples: Iterable[tuple[int, float, int]] = (),
        histograms: Iterable[bytes] = (),
        *,
        kind: int = 0,
        help: str = "",
        exemplars: int = 0,
    ) -> None:
        refs = b"".join(varint(self.symbol(text)) for pair in sorted(labels.items()) for text in pair)
        message = field(1, refs)
        for at, value, start in samples:
            message += field(2, fixed(1, value) + number(2, at) + (number(3, start) if start else b""))
        message += b"".join(field(3, h) for h in histograms) + field(4, b"") * exemplars
        message += field(5, number(1, kind) + number(3, self.symbol(help)))
        self.series += field(5, message)

    def body(self) -> bytes:
        symbols = b"".join(field(4, text.encode()) for text in self.symbols)
        return bytes(cramjam.snappy.compress_raw(symbols + self.series))
