"""Remote write 1.0 bodies, encoded by plain Python and somebody else's snappy."""

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
