"""Plain Prometheus alerts, one step at a time: pending, firing, `for`, `keep_firing_for`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metricsdb.alerts.rules import Rule
from metricsdb.alerts.templates import expand
from metricsdb.errors import ExecutionError

__all__ = ["Instance", "PlainAlert"]

Vector = Iterable[tuple[dict[str, str], float]]
RESOLVED_KEPT_MS = 15 * 60_000


@dataclass(slots=True)
class Instance:
    """One label set of an alert."""

    labels: dict[str, str]
    annotations: dict[str, str]
    value: float
    active_ms: int
    state: Literal["pending", "firing", "inactive"] = "pending"
    keep_since_ms: int | None = None
    resolved_ms: int | None = None


@dataclass(slots=True)
class PlainAlert:
    """The state of one rule; `step` is all that moves it, so another machine can stand in its place."""

    rule: Rule
    group_labels: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    active: dict[tuple[tuple[str, str], ...], Instance] = field(default_factory=dict)

    def step(self, at_ms: int, vector: Vector, context: Mapping[str, Any]) -> list[Instance]:
        """One evaluation: what the expression gave, to the instances that are active now.

        ``context``: what templates know beside labels and value. Raises ``ExecutionError`` where two samples become one
        alert, and where there are more alerts than ``limit``; then none is active.
        """
        found: dict[tuple[tuple[str, str], ...], Instance] = {}
        for labels, value in vector:
            made = self._instance(labels, value, at_ms, context)
            key = tuple(sorted(made.labels.items()))
            if key in found:
                raise ExecutionError("vector contains metrics with the same labelset after applying alert labels")
            found[key] = made
        for key, made in found.items():
            known = self.active.get(key)
            if known is None or known.state == "inactive":
                self.active[key] = made
            else:
                known.value, known.annotations = made.value, made.annotations
        shown = [one for key in list(self.active) if (one := self._moved(key, at_ms, key in found)) is not None]
        if self.limit and len(shown) > self.limit:
            self.active.clear()
            raise ExecutionError(f"exceeded limit of {self.limit} with {len(shown)} alerts")
        return shown

    def _instance(self, labels: Mapping[str, str], value: float, at_ms: int, context: Mapping[str, Any]) -> Instance:
        rule = self.rule
        kept = {name: text for name, text in labels.items() if name != "__name__"}
        own = dict(self.group_labels) | rule.labels
        own = {name: expand(text, labels, value, **context) for name, text in own.items()}
        merged = {name: text for name, text in (kept | own | {"alertname": rule.name}).items() if text}
        annotations = {name: expand(text, labels, value, **context) for name, text in rule.annotations.items()}
        return Instance(merged, annotations, value, at_ms)

    def _moved(self, key: tuple[tuple[str, str], ...], at_ms: int, true: bool) -> Instance | None:
        """The instance after this evaluation, or None where it is no longer active."""
        one = self.active[key]
        if true:
            one.keep_since_ms = None
        elif not self._kept(one, at_ms):
            gone = one.resolved_ms is not None and at_ms - one.resolved_ms > RESOLVED_KEPT_MS
            if one.state == "pending" or gone:
                del self.active[key]
            elif one.state == "firing":
                one.state, one.resolved_ms = "inactive", at_ms
            return None
        if one.state == "pending" and at_ms - one.active_ms >= self.rule.for_ms:
            one.state = "firing"
        return one

    def _kept(self, one: Instance, at_ms: int) -> bool:
        if one.state != "firing" or not self.rule.keep_firing_for_ms:
            return False
        if one.keep_since_ms is None:
            one.keep_since_ms = at_ms
        return at_ms - one.keep_since_ms < self.rule.keep_firing_for_ms
