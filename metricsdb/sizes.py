"""Sizes as people write them, to whole bytes."""

from __future__ import annotations

import re

from metricsdb.errors import ConfigError

SizeLike = int | str

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)


def size_bytes(value: SizeLike, what: str = "size") -> int:
    """Bytes of ``"4GiB"``, ``"512Mi"``, ``"1.5GB"`` (powers of 1000), or a number of bytes.

    Raises ``ConfigError`` for anything else, naming ``what``.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"{what} {value!r} is not a size; write it as '4GiB', '512MiB', or bytes")
    unit: int = (1024 if match[3] else 1000) ** _POWERS[match[2].lower()]
    return round(float(match[1]) * unit)


def size_text(size: int) -> str:
    """The shortest of ``4GiB``, ``512MiB``, … that says it exactly."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
