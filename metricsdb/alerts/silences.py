"""Silences: matchers and a time in which no alert that they take is notified of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metricsdb.alerts.matchers import Matcher, matches
from metricsdb.errors import ConfigError

__all__ = ["Silence", "Silences"]

KEPT_MS = 5 * 86_400_000


@dataclass(frozen=True, slots=True)
class Silence:
    """In force from ``starts_at_ms`` until before ``ends_at_ms``, for alerts that all matchers take."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at_ms: int
    ends_at_ms: int
    created_by: str = ""
    comment: str = ""

    def active(self, now_ms: int) -> bool:
        return self.starts_at_ms <= now_ms < self.ends_at_ms

    def state(self, now_ms: int) -> str:
        """``active``, ``pending`` or ``expired``."""
        if self.active(now_ms):
            return "active"
        return "pending" if now_ms < self.starts_at_ms else "expired"

    def may_become(self, matchers: Iterable[Matcher], starts_at_ms: int, now_ms: int) -> bool:
        """Whether it can be changed under its id, as in Alertmanager: it takes the same alerts, and its past stays."""
        starts = starts_at_ms >= now_ms if self.starts_at_ms > now_ms else starts_at_ms == self.starts_at_ms
        return self.matchers == tuple(sorted(matchers)) and now_ms < self.ends_at_ms and starts

    def plain(self) -> dict[str, Any]:
        """JSON has it so."""
        pairs = [[m.name, m.op, m.value] for m in self.matchers]
        fields = (self.id, self.starts_at_ms, self.ends_at_ms, self.created_by, self.comment)
        return dict(zip(("id", "starts_at_ms", "ends_at_ms", "created_by", "comment"), fields, strict=True)) | {
            "matchers": pairs
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Silence:
        matchers = tuple(Matcher(name, text, op) for name, op, text in value["matchers"])
        return cls(matchers=matchers, **{k: v for k, v in value.items() if k != "matchers"})


class Silences:
    """All silences; those that ended are kept for five days. Not for several threads."""

    def __init__(self, known: Iterable[Silence] = ()) -> None:
        self._all = {silence.id: silence for silence in known}

    def add(
        self,
        matchers: Iterable[Matcher],
        starts_at_ms: int,
        ends_at_ms: int,
        created_by: str = "",
        comment: str = "",
        id: str | None = None,
    ) -> Silence:
        """A new one, or the same again: its id is a hash of what it says, unless ``id`` is given. Raises
        ``ConfigError``."""
        taken = tuple(sorted(matchers))
        if not taken or matches(taken, {}):
            raise ConfigError("a silence needs a matcher that does not take the empty label set")
        if ends_at_ms <= starts_at_ms:
            raise ConfigError("a silence must end after it starts")
        text = repr((taken, starts_at_ms, ends_at_ms, created_by, comment))
        named = hashlib.sha256(text.encode()).hexdigest()[:32] if id is None else id
        silence = Silence(named, taken, starts_at_ms, ends_at_ms, created_by, comment)
        self._all[silence.id] = silence
        return silence

    def expire(self, id: str, now_ms: int) -> Silence:
        """Ends one now. Raises ``ConfigError`` where none has this id."""
        if id not in self._all:
            raise ConfigError(f"no silence has the id {id!r}")
        silence = self._all[id]
        starts, ends = min(silence.starts_at_ms, now_ms), min(silence.ends_at_ms, now_ms)
        self._all[id] = replace(silence, starts_at_ms=starts, ends_at_ms=ends)
        return self._all[id]

    def get(self, id: str) -> Silence | None:
        return self._all.get(id)

    def muting(self, labels: Mapping[str, str], now_ms: int) -> list[Silence]:
        """Those in force that take an alert."""
        return [one for one in self._all.values() if one.active(now_ms) and matches(one.matchers, labels)]

    def list(self) -> list[Silence]:
        return sorted(self._all.values(), key=lambda one: (one.starts_at_ms, one.id))

    def forget(self, now_ms: int) -> None:
        self._all = {one.id: one for one in self._all.values() if one.ends_at_ms + KEPT_MS > now_ms}
