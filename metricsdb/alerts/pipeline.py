"""From the alert machine to the receivers: what `db.alerts` asks for, made of router, templates and outbox.

pipeline = Pipeline(amconfig.load(text), clock, directory="alerts")
pipeline.connect(db.alerts)
db.tick(); await pipeline.deliver()
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from metricsdb.alerts.amconfig import Config
from metricsdb.alerts.intervals import TimeInterval
from metricsdb.alerts.model import PostableAlert, RouteHint
from metricsdb.alerts.notify import Channel, Delivered, Delivery, channels
from metricsdb.alerts.outbox import Outbox
from metricsdb.alerts.policy import Policy
from metricsdb.alerts.routing import Router
from metricsdb.alerts.templates import NotificationTemplates, Query, expand
from metricsdb.clock import Clock

__all__ = ["Pipeline"]


class Asking(Protocol):
    """What of `db.alerts` is set."""

    deliver: Any
    render: Any
    intervals: Any


class Pipeline:
    """One router with its outbox. With a ``directory`` what was said and what waits survive the process.

    ``channels``: those of the configuration, unless given; ``undelivered`` names receivers' ways that have none.
    ``query`` answers `query "…"` in templates. Thread-safe; one ``deliver`` at a time. Raises as ``Outbox`` and
    ``notify.channels``.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        directory: str | Path | None = None,
        chance: random.Random | None = None,
        policy: Policy | None = None,
        channels: Mapping[str, Channel] | None = None,
        templates: NotificationTemplates | None = None,
        query: Query | None = None,
        external_labels: Mapping[str, str] | None = None,
        external_url: str = "",
    ) -> None:
        self._clock = clock
        self._mutex = threading.RLock()
        found, self.undelivered = _channels(config, policy) if channels is None else (dict(channels), [])
        self.router = Router(config)
        self.outbox = Outbox(directory, chance)
        if self.outbox.state is not None:
            self.router.restore(self.outbox.state)
        given = templates or NotificationTemplates((), external_url)
        self._delivery = Delivery(self.outbox, found, clock, templates=given)
        self._context = {"query": query, "external_labels": external_labels, "external_url": external_url}

    def connect(self, alerts: Asking) -> None:
        """Makes this what a manager delivers to, renders with, and takes named intervals from."""
        alerts.deliver = self
        alerts.render = self.render
        alerts.intervals |= {name: _within(times) for name, times in self.router.config.intervals.items()}

    def __call__(self, alerts: Sequence[tuple[PostableAlert, RouteHint | None]], now_ms: int) -> None:
        """Takes alerts with their statements' hints; what is due then is in the outbox when it returns."""
        hints = {alert.fingerprint: hint for alert, hint in alerts if hint is not None}
        with self._mutex:
            self.router.receive((alert for alert, _ in alerts), now_ms, hints)
            self.flush(now_ms)

    def flush(self, now_ms: int) -> None:
        """Puts what is due into the outbox. Call it every second or so: groups are due between evaluations, too."""
        with self._mutex:
            made = self.router.tick(now_ms)
            if made:
                self._delivery.put(made, self.router.state())

    @contextmanager
    def changing(self) -> Iterator[Router]:
        """The router for a change, such as ``router.silences.add(…)``, which is on disk when the block ends."""
        with self._mutex:
            yield self.router
            self.outbox.put([], self.router.state())

    async def deliver(self) -> Delivered:
        """Flushes, and hands over what is due in the outbox."""
        self.flush(self._clock.now_ms())
        return await self._delivery.deliver()

    def render(self, text: str, labels: Mapping[str, str], value: float) -> str:
        """A label or annotation for one instance, as Prometheus expands it."""
        return expand(text, labels, value, now_ms=self._clock.now_ms(), **self._context)

    def close(self) -> None:
        self.outbox.close()


def _channels(config: Config, policy: Policy | None) -> tuple[dict[str, Channel], list[str]]:
    return channels(config, policy=policy)


def _within(times: Iterable[TimeInterval]) -> Any:
    held = tuple(times)
    return lambda at_ms: any(one.contains(at_ms) for one in held)
