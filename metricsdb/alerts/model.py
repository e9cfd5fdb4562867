"""The words that the parts of alerting share: an alert as it is sent, and what a statement says of its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PostableAlert", "RouteHint", "fingerprint"]

_FNV_OFFSET, _FNV_PRIME = 14695981039346656037, 1099511628211


def fingerprint(labels: Mapping[str, str]) -> str:
    """Alertmanager's name of a label set: 64-bit FNV-1a over the sorted pairs, as 16 hexadecimal digits."""
    value = _FNV_OFFSET
    for name in sorted(labels):
        for byte in name.encode() + b"\xff" + labels[name].encode() + b"\xff":
            value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@dataclass(frozen=True, slots=True)
class PostableAlert:
    """One alert instance as it is handed to the router or posted to an Alertmanager.

    ``labels`` hold ``alertname``. Times are milliseconds since the epoch. ``ends_at_ms``: when it was resolved, or, in
    the future, when it counts as resolved if nobody sends it again; None: the receiver's ``resolve_timeout`` says.
    ``fingerprint`` is that of the labels and need not be given.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at_ms: int = 0
    ends_at_ms: int | None = None
    generator_url: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.labels))

    def resolved(self, now_ms: int) -> bool:
        """Whether it has ended at that time."""
        return self.ends_at_ms is not None and self.ends_at_ms <= now_ms


@dataclass(frozen=True, slots=True)
class RouteHint:
    """A statement's `ROUTE` clause. None: the routing tree's own word stands."""

    receivers: tuple[str, ...]
    group_by: tuple[str, ...] | None = None
    wait_ms: int | None = None
    interval_ms: int | None = None
    repeat_ms: int | None = None
