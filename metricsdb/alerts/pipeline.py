"""From alerts that fire to receivers that were told: the router, the outbox and the channels of one configuration."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from metricsdb.alerts import amconfig
from metricsdb.alerts.amconfig import Config
from metricsdb.alerts.matchers import Matcher, parse, shown
from metricsdb.alerts.model import PostableAlert, RouteHint
from metricsdb.alerts.notify import AlertmanagerFeed, Channel, Delivered, Delivery, HttpChannel, channels
from metricsdb.alerts.outbox import Message, Outbox
from metricsdb.alerts.policy import Policy
from metricsdb.alerts.policy import shown as shown_url
from metricsdb.alerts.routing import Held, Notification, Router
from metricsdb.alerts.silences import Silence
from metricsdb.alerts.templates import NotificationTemplates
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, StorageError, TemplateError
from metricsdb.frames import TIME
from metricsdb.times import Time, time_ms

__all__ = ["Pipeline", "read"]

log = logging.getLogger("metricsdb.alerts")


def read(source: Config | str | Path) -> tuple[Config, list[str]]:
    """Alertmanager's configuration from a path or a text, and the texts of the files that its ``templates`` names.

    Paths in it are relative to the file. Raises ``ConfigError``, which names it.
    """
    if isinstance(source, Config):
        return source, []
    if isinstance(source, str) and "\n" in source:
        return amconfig.load(source), []
    path = Path(source)
    try:
        config = amconfig.load(path.read_text(), str(path))
        globs = [str(one) for one in config.raw.get("templates") or ()]
        found = [file for one in globs for file in sorted(path.parent.glob(one) if one[0] != "/" else [Path(one)])]
        return config, [file.read_text() for file in found]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; give the path of an Alertmanager configuration") from None


class Pipeline:
    """Routes, keeps and hands over the alerts of one database. Thread-safe.

    ``config``: what Alertmanager's file says; None: alerts go to ``alertmanagers`` (base URLs) alone. ``directory``
    keeps what was told, silences and messages on their way; without one they are in memory. ``channels``: ways of your
    own, by the name ``receiver/kind/index``. Raises ``ConfigError``, ``StorageError``, and ``DatabaseLocked`` where
    another process has the directory.
    """

    def __init__(
        self,
        config: Config | None,
        clock: Clock,
        *,
        alertmanagers: Sequence[str] = (),
        directory: Path | None = None,
        external_url: str = "",
        external_labels: Mapping[str, str] | None = None,
        templates: Iterable[str] = (),
        policy: Policy | None = None,
        channels: Mapping[str, Channel] | None = None,
    ) -> None:
        self.external_url, self.external_labels = external_url.rstrip("/"), dict(external_labels or {})
        self.config = config
        self._clock = clock
        self._lock = threading.RLock()
        self._router = None if config is None else Router(config)
        ways = dict(_ways(config, policy, alertmanagers, channels or {}))
        self._feeds: list[AlertmanagerFeed] = []
        for url in alertmanagers:
            name, channel = _alertmanager(url, policy)
            if name in ways:
                raise ConfigError(f"Alertmanager {shown_url(url)} stands twice; give each one once")
            ways[name] = channel
            self._feeds.append(AlertmanagerFeed(name))
        try:
            named = NotificationTemplates(templates, self.external_url)
        except TemplateError as error:
            raise ConfigError(f"a file of `templates`: {error}") from None
        # What the outbox could not take yet, and whether the router moved on since it last did.
        self._notifications: list[Notification] = []
        self._messages: list[Message] = []
        self._unsaved = False
        self._posted: dict[str, PostableAlert] = {}
        self._warned: set[str] = set()
        self.outbox = Outbox(directory)
        self._delivery = Delivery(self.outbox, ways, clock, templates=named)
        if self._router is not None and self.outbox.state is not None:
            self._router.restore(self.outbox.state)

    def close(self) -> None:
        """Frees the directory. What waits there is handed over by whoever opens it next."""
        self.outbox.close()

    # --- alerts in, messages out ------------------------------------------------------------------

    def receive(self, alerts: Sequence[tuple[PostableAlert, RouteHint | None]], now_ms: int) -> None:
        """Takes alerts as `metricsdb.alerts.evaluate.Deliver` says; the next ``tick`` makes them survive a crash."""
        with self._lock:
            for alert, hint in alerts:
                url = alert.generator_url
                whole = replace(
                    alert,
                    labels={**self.external_labels, **alert.labels},
                    generator_url=self.external_url + url if url.startswith("/") else url,
                    fingerprint="",
                )
                if self._router is not None:
                    self._router.receive([whole], now_ms, self._known(whole, hint))
                if self._feeds:
                    self._posted[whole.fingerprint] = whole
            self._unsaved = True

    def tick(self, now_ms: int) -> None:
        """Puts what is due into the outbox (groups whose time has come, what an Alertmanager has to hear), with what
        was received: one write, after which they survive a crash. O(alerts) where there is something to put."""
        with self._lock:
            if self._router is not None:
                self._notifications += self._router.tick(now_ms)
            self._feed(now_ms)
            self._keep()

    def next_due(self) -> int | None:
        """When a group of alerts is flushed next; None: none is there."""
        with self._lock:
            return None if self._router is None else self._router.next_due()

    def waits(self) -> bool:
        """Whether `deliver` would try a message now."""
        return bool(self.outbox.due(self._clock.now_ms()))

    async def deliver(self, rounds: int | None = None) -> Delivered:
        """Hands over what is due (of each receiver ``rounds`` messages at most). What is lost is logged, with why."""
        done = await self._delivery.deliver(rounds)
        for one in done.lost:
            log.error("a notification is lost: %s", one)
        return done

    def _known(self, alert: PostableAlert, hint: RouteHint | None) -> dict[str, RouteHint]:
        if hint is None or self.config is None:
            return {}
        for name in set(hint.receivers) - self.config.receivers.keys() - self._warned:
            log.warning("ROUTE TO %r: there is no such receiver; alerts without another one go by the tree", name)
            self._warned.add(name)
        return {alert.fingerprint: hint}

    def _feed(self, now_ms: int) -> None:
        if not self._feeds:
            return
        for feed in self._feeds:
            self._messages += feed.messages(self._posted.values(), now_ms)
        over = now_ms - AlertmanagerFeed.RESOLVED_MS
        self._posted = {print_: one for print_, one in self._posted.items() if not one.resolved(over)}

    def _keep(self) -> None:
        """Everything into the outbox. A disk that fails keeps it here, for the next tick."""
        if not (self._notifications or self._messages or self._unsaved):
            return
        try:
            state = None if self._router is None else self._router.state()
            self._delivery.put(self._notifications, state, self._messages)
        except StorageError as error:
            log.error("%s; it is tried again", error)
            return
        self._notifications, self._messages, self._unsaved = [], [], False

    # --- silences, and where an alert would go ----------------------------------------------------

    def silence(self, matchers: str, start: Time = "now", end: Time = "+1h", by: str = "", comment: str = "") -> str:
        """Tells nobody of what ``matchers`` (``team="db", instance=~"db-.*"``) take, for a time; returns the id.

        The state goes on, and what still fires afterwards is told then. Raises ``ConfigError``.
        """
        now_ms = self._clock.now_ms()
        span = (time_ms(start, now_ms, "start"), time_ms(end, now_ms, "end"))
        return self.put_silence(parse(matchers), *span, by, comment).id

    def put_silence(
        self,
        matchers: Sequence[Matcher],
        start_ms: int,
        end_ms: int,
        by: str,
        comment: str,
        in_place_of: str | None = None,
    ) -> Silence:
        """The same of matchers and times; ``in_place_of``: the id of one that becomes it, or that ends with it where it
        takes other alerts or is over. Raises ``ConfigError``."""
        with self._lock:
            known, now_ms = self._routes().silences, self._clock.now_ms()
            before = None if in_place_of is None else known.get(in_place_of)
            if in_place_of is not None and before is None:
                raise ConfigError(f"no silence has the id {in_place_of!r}")
            same = in_place_of if before is not None and before.may_become(matchers, start_ms, now_ms) else None
            silence = known.add(matchers, start_ms, end_ms, by, comment, same)
            if before is not None and before.id != silence.id:
                known.expire(before.id, now_ms)
            self._unsaved = True
            self._keep()
            return silence

    def unsilence(self, id: str) -> None:
        """Ends a silence now. Raises ``ConfigError`` where none has this id."""
        with self._lock:
            self._routes().silences.expire(id, self._clock.now_ms())
            self._unsaved = True
            self._keep()

    def silences(self) -> pl.DataFrame:
        """A row a silence: ``id``, ``state`` (``active``, ``pending``, ``expired``), ``matchers``, ``start``, ``end``,
        ``by``, ``comment``. Those that ended are kept for five days."""
        known, now_ms = self.all_silences(), self._clock.now_ms()
        rows = [
            (
                one.id,
                one.state(now_ms),
                shown(one.matchers),
                one.starts_at_ms,
                one.ends_at_ms,
                one.created_by,
                one.comment,
            )
            for one in known
        ]
        texts = dict.fromkeys(("id", "state", "matchers"), pl.String)
        schema: dict[str, Any] = {**texts, "start": pl.Int64, "end": pl.Int64, "by": pl.String, "comment": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("start", "end").cast(TIME))

    def all_silences(self) -> list[Silence]:
        """What ``silences`` shows."""
        with self._lock:
            return self._routes().silences.list()

    def held(self) -> list[Held]:
        """The alerts that fire, with where they go and what holds them back; none without routes."""
        with self._lock:
            return [] if self._router is None else self._router.held(self._clock.now_ms())

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Messages by channel and outcome (``sent``, ``failed``, ``lost``), and alerts that were held back when their
        group was due, by reason (``inhibited``, ``interval``, ``silenced``), since the pipeline was made."""
        with self._lock:
            muted = {} if self._router is None else dict(self._router.muted)
            return dict(self._delivery.outcomes), muted

    def explain(self, labels: Mapping[str, str], route: RouteHint | None = None) -> pl.DataFrame:
        """Where an alert with these labels (and a statement's `ROUTE`) would go now, and why it may not; sends nothing.

        A row a route: ``route``, ``receiver``, ``integrations``, ``group``, ``muted`` (null: it passes), ``flush``,
        ``told``.
        """
        with self._lock:
            now_ms = self._clock.now_ms()
            alert = PostableAlert({**self.external_labels, **labels}, starts_at_ms=now_ms)
            return self._routes().explain(alert, now_ms, route)

    def _routes(self) -> Router:
        if self._router is None:
            raise ConfigError("there are no routes here: Alertmanager has them; silence there, or give a configuration")
        return self._router


def _ways(
    config: Config | None, policy: Policy | None, alertmanagers: Sequence[str], own: Mapping[str, Channel]
) -> dict[str, Channel]:
    """A channel by name for what can be handed over from here; the rest is named in the log, once."""
    if config is None:
        if not alertmanagers:
            raise ConfigError("alerts have nowhere to go; give an Alertmanager configuration, or alertmanagers")
        return dict(own)
    found, missing = channels(config, policy=policy)
    silent = [name for name in missing if name not in own]
    if silent and not alertmanagers:
        log.warning("nothing is sent to %s: only webhooks and apprise are served from here", ", ".join(silent))
    return {**found, **own}


def _alertmanager(url: str, policy: Policy | None) -> tuple[str, HttpChannel]:
    """Its name in the outbox, which has no credentials, and the channel."""
    host, port = (policy or Policy()).check_url(url)
    path = url.partition("://")[2].partition("/")[2].strip("/")
    whole = f"{url.rstrip('/')}/api/v2/alerts"
    return f"alertmanager {host}:{port}/{path}", HttpChannel(whole, policy=policy)
