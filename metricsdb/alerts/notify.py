"""Delivery: notifications become messages in an outbox, and channels hand them over.

A channel is one way of one receiver: a webhook with Alertmanager's payload, an Alertmanager, or what apprise speaks.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import logging
import os
import ssl
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from metricsdb.alerts import policy as policies
from metricsdb.alerts.amconfig import Config
from metricsdb.alerts.model import PostableAlert
from metricsdb.alerts.outbox import Message, Outbox
from metricsdb.alerts.policy import Policy, Resolve, shown
from metricsdb.alerts.routing import Notification
from metricsdb.alerts.templates import Data, NotificationTemplates
from metricsdb.alerts.templates.gotime import GoTime
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, DeliveryError, TemplateError
from metricsdb.web import Secret

__all__ = [
    "AlertmanagerFeed",
    "AppriseChannel",
    "Channel",
    "Delivered",
    "Delivery",
    "HttpChannel",
    "alertmanager_body",
    "channels",
    "secret",
    "webhook_body",
]

log = logging.getLogger("metricsdb.alerts")

_RFC3339 = "2006-01-02T15:04:05.999999999Z07:00"
_REDIRECTS_MAX = 3
TITLE = (
    '[{{ .Status | toUpper }}{{ if eq .Status "firing" }}:{{ .Alerts.Firing | len }}{{ end }}] '
    '{{ .GroupLabels.Values | join " " }}'
)
TEXT = """{{ range .Alerts }}{{ .Status }}: {{ .Labels.alertname }}
{{ range .Annotations.SortedPairs }}{{ .Name }}: {{ .Value }}
{{ end }}{{ range .Labels.SortedPairs }}- {{ .Name }} = {{ .Value }}
{{ end }}{{ end }}"""


def secret(value: str | Secret) -> Callable[[], str]:
    """Where a secret is read, each time it is needed: ``env:NAME``, ``file:/path``, or the text itself.

    The reader raises ``ConfigError``, which names the variable or file and never what stands in it.
    """
    if isinstance(value, _Authorization):
        return value.read
    text = value.reveal() if isinstance(value, Secret) else value
    held = Secret(text)
    kind, _, name = text.partition(":")
    if kind == "env":

        def from_environment() -> str:
            found = os.environ.get(name)
            if found is None:
                raise ConfigError(f"the environment has no {name}, which a receiver needs")
            return found

        return from_environment
    if kind == "file":

        def from_file() -> str:
            try:
                return Path(name).read_text().strip()
            except OSError as error:
                raise ConfigError(f"a receiver's secret in {name} cannot be read: {error.strerror}") from None

        return from_file
    return held.reveal


# --- bodies -------------------------------------------------------------------------------------


def webhook_body(notification: Notification, external_url: str = "", max_alerts: int = 0) -> str:
    """Alertmanager's webhook payload, version 4. ``max_alerts``: the rest is only counted; 0: all."""
    alerts = notification.alerts[: max_alerts or None]
    data = Data(notification.receiver, notification.group_labels, alerts, notification.at_ms, external_url)
    payload = _plain(data) | {
        "version": "4",
        "groupKey": notification.group_key,
        "truncatedAlerts": len(notification.alerts) - len(alerts),
        "receiver": notification.receiver,
    }
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "plain"):
        value = value.plain()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def alertmanager_body(alert: PostableAlert) -> dict[str, Any]:
    """One alert as Alertmanager's API v2 takes it."""
    body = {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": GoTime(alert.starts_at_ms).format(_RFC3339),
        "generatorURL": alert.generator_url,
    }
    return body | ({} if alert.ends_at_ms is None else {"endsAt": GoTime(alert.ends_at_ms).format(_RFC3339)})


@lru_cache(maxsize=1)
def _authorities() -> ssl.SSLContext:
    """Those that the system trusts: read once, since that takes longer than a delivery."""
    return ssl.create_default_context()


# --- channels -----------------------------------------------------------------------------------


class Channel(Protocol):
    """Hands over one message; raises ``DeliveryError``. ``interval_ms``: the least time between two of them."""

    interval_ms: int

    async def send(self, message: Message) -> None: ...


class HttpChannel:
    """POSTs a message's body as JSON. ``url`` and the values of ``headers`` are read as `secret` says.

    The address is resolved, checked by ``policy``, and connected to as it was checked; so is each redirect, of which
    307 and 308 are followed, without the headers if they lead to another host. ``rate``: messages a second at most.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        headers: Mapping[str, str | Secret] | None = None,
        policy: Policy | None = None,
        timeout: float = 10.0,
        rate: float | None = None,
        resolve: Resolve = policies.resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = secret(url)
        self._headers = {name: secret(value) for name, value in (headers or {}).items()}
        self._policy = policy or Policy()
        self._resolve = resolve
        self._timeout = timeout
        self._transport = transport
        self.interval_ms = 0 if rate is None else round(1000 / rate)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"

    async def send(self, message: Message) -> None:
        try:
            url = self._url()
            headers = {name: read() for name, read in self._headers.items()}
        except ConfigError as error:
            raise DeliveryError(str(error), retry=True) from None
        for _ in range(_REDIRECTS_MAX + 1):
            answer = await self._post(url, headers, message)
            if answer.status_code not in (307, 308):
                return self._judge(url, answer)
            there = urljoin(url, answer.headers.get("location", ""))
            if urlsplit(there).netloc != urlsplit(url).netloc:
                headers = {}
            url = there
        raise DeliveryError(f"{shown(url)}: more than {_REDIRECTS_MAX} redirects", retry=False)

    async def _post(self, url: str, headers: Mapping[str, str], message: Message) -> httpx.Response:
        address = await self._policy.address(url, self._resolve)
        parts = urlsplit(url)
        literal = f"[{address}]" if ":" in address else address
        port = f":{parts.port}" if parts.port else ""
        pinned = urlunsplit((parts.scheme, literal + port, parts.path or "/", parts.query, ""))
        sent = {
            "host": parts.netloc.rpartition("@")[2],
            "content-type": "application/json",
            "idempotency-key": message.key,
            "user-agent": "metricsdb",
        }
        auth = (parts.username, parts.password or "") if parts.username else None
        try:
            # A proxy of the environment would resolve names by itself.
            async with httpx.AsyncClient(
                timeout=self._timeout,
                trust_env=False,
                follow_redirects=False,
                transport=self._transport,
                verify=_authorities(),
            ) as client:
                request = client.build_request(
                    "POST",
                    pinned,
                    content=message.body.encode(),
                    headers=sent | dict(headers),
                    extensions={"sni_hostname": parts.hostname or ""},
                )
                answer = await client.send(request, auth=auth, stream=True)
                await answer.aclose()
                return answer
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DeliveryError(f"{shown(url)}: {type(error).__name__}", retry=True) from None

    def _judge(self, url: str, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        status = answer.status_code
        again = answer.headers.get("retry-after", "")
        wait = float(again) if again.isdecimal() else None
        raise DeliveryError(f"{shown(url)}: HTTP {status}", status >= 500 or status in (408, 429), wait)


class AppriseChannel:
    """Whatever apprise speaks (``pip install metricsdb[apprise]``). ``urls`` are read as `secret` says.

    apprise resolves names by itself: the policy of HTTP channels does not reach there.
    """

    def __init__(self, urls: Iterable[str | Secret], *, rate: float | None = None) -> None:
        self._urls = [secret(url) for url in urls]
        self.interval_ms = 0 if rate is None else round(1000 / rate)
        try:
            self._apprise = importlib.import_module("apprise")
        except ImportError:
            raise ConfigError("apprise is not installed; pip install 'metricsdb[apprise]'") from None

    def __repr__(self) -> str:
        return "AppriseChannel(<secret>)"

    async def send(self, message: Message) -> None:
        told = json.loads(message.body)
        sender = self._apprise.Apprise()
        try:
            accepted = [sender.add(read()) for read in self._urls]
        except ConfigError as error:
            raise DeliveryError(str(error), retry=True) from None
        if not all(accepted):
            raise DeliveryError("apprise does not know one of the receiver's addresses", retry=False)
        if not await sender.async_notify(title=told["title"], body=told["body"]):
            raise DeliveryError("apprise could not hand the notification over", retry=True)


# --- from configuration -------------------------------------------------------------------------


def channels(config: Config, *, policy: Policy | None = None, **options: Any) -> tuple[dict[str, Channel], list[str]]:
    """A channel for each webhook and each `apprise_configs` of a configuration, by name, and what has none.

    Slack, mail and so on stay in the file for an Alertmanager; here they are listed, and nothing is sent to them.
    """
    found: dict[str, Channel] = {}
    missing = []
    for receiver in config.receivers.values():
        for one in receiver.integrations:
            name = f"{receiver.name}/{one.kind}/{one.index}"
            if one.kind == "webhook":
                found[name] = _webhook(one.raw, name, policy, options)
            elif one.kind == "apprise":
                found[name] = AppriseChannel(one.raw.get("urls") or (), rate=one.raw.get("rate"))
            else:
                missing.append(name)
    return found, missing


def _webhook(raw: Mapping[str, Any], name: str, policy: Policy | None, options: Mapping[str, Any]) -> HttpChannel:
    url = f"file:{raw['url_file']}" if raw.get("url_file") else raw.get("url")
    if not isinstance(url, str):
        raise ConfigError(f"receiver {name}: give url or url_file")
    if not url.startswith(("file:", "env:")):
        (policy or Policy()).check_url(url)
    http = raw.get("http_config") or {}
    headers: dict[str, str | Secret] = {}
    given = http.get("authorization") or {}
    if given or http.get("basic_auth"):
        headers["authorization"] = _Authorization(given, http.get("basic_auth") or {})
    return HttpChannel(url, headers=headers, policy=policy, rate=raw.get("rate"), **options)


class _Authorization(Secret):
    """The header's value, made of files as they are when it is asked for."""

    __slots__ = ("_given", "_user")

    def __init__(self, given: Mapping[str, Any], user: Mapping[str, Any]) -> None:
        super().__init__("")
        self._given, self._user = given, user

    def read(self) -> str:
        if self._user:
            password = _from(self._user, "password")
            pair = f"{self._user.get('username', '')}:{password}".encode()
            return "Basic " + base64.b64encode(pair).decode()
        return f"{self._given.get('type', 'Bearer')} {_from(self._given, 'credentials')}"


def _from(raw: Mapping[str, Any], key: str) -> str:
    path = raw.get(f"{key}_file")
    return secret(f"file:{path}" if path else str(raw.get(key, "")))()


# --- delivery -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Delivered:
    """What one pass did. ``lost``: messages that no receiver will get, and why."""

    sent: int = 0
    failed: int = 0
    lost: list[str] = field(default_factory=list)


class Delivery:
    """Puts notifications into the outbox and hands over what is due there. A message is given up after ``keep_ms``."""

    def __init__(
        self,
        outbox: Outbox,
        channels: Mapping[str, Channel],
        clock: Clock,
        *,
        templates: NotificationTemplates | None = None,
        keep_ms: int = 86_400_000,
    ) -> None:
        self.outbox, self.channels, self._clock = outbox, dict(channels), clock
        self._templates = templates or NotificationTemplates()
        self._keep_ms = keep_ms
        # By channel and `sent`, `failed` (tried again) or `lost`.
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def put(
        self, notifications: Iterable[Notification], state: Any = None, messages: Iterable[Message] = ()
    ) -> list[str]:
        """Takes what `Router.tick` made, with the router's state; returns the names that have no channel.

        ``messages``: what is ready already, taken with them, all or nothing.

        When it returns, each message survives a crash. Raises ``StorageError``.
        """
        made, missing = [*messages], []
        for one in notifications:
            name = f"{one.receiver}/{one.integration.kind}/{one.integration.index}"
            channel = self.channels.get(name)
            if channel is None:
                missing.append(name)
            else:
                made.append(Message(name, one.key, self._body(one, channel), one.at_ms))
        self.outbox.put(made, state)
        return missing

    def _body(self, notification: Notification, channel: Channel) -> str:
        url = self._templates.external_url
        raw = notification.integration.raw
        if not isinstance(channel, AppriseChannel):
            return webhook_body(notification, url, int(raw.get("max_alerts", 0)))
        at = notification.at_ms
        data = Data(notification.receiver, notification.group_labels, notification.alerts, at, url)
        texts = {"title": raw.get("title", TITLE), "body": raw.get("body", TEXT)}
        return json.dumps({name: self._text(text, data, at) for name, text in texts.items()})

    def _text(self, text: str, data: Data, at_ms: int) -> str:
        try:
            return self._templates.render(text, data, at_ms)
        except TemplateError as error:  # it goes out all the same
            return f"<error expanding template: {error}>"

    async def deliver(self, rounds: int | None = None) -> Delivered:
        """Tries what is due, targets side by side, until each has failed, is empty or has to wait.

        ``rounds``: so many messages of each target at most.
        """
        report = Delivered()
        turns = iter(count() if rounds is None else range(rounds))
        while (due := self.outbox.due(self._clock.now_ms())) and next(turns, None) is not None:
            await asyncio.gather(*(self._try(message, report) for message in due))
        return report

    async def _try(self, message: Message, report: Delivered) -> None:
        channel = self.channels.get(message.target)
        if channel is None:
            report.lost.append(f"{message.target}: no such channel any more")
            self.outcomes[message.target, "lost"] += 1
            self.outbox.done(message)
            return
        try:
            await channel.send(message)
        except Exception as unexpected:
            # A channel of somebody's own may raise anything; the others are delivered to all the same.
            error = unexpected if isinstance(unexpected, DeliveryError) else _unexpected(message, unexpected)
            now = self._clock.now_ms()
            if not error.retry or now - message.at_ms > self._keep_ms:
                report.lost.append(f"{message.target}: {error}")
                self.outcomes[message.target, "lost"] += 1
                self.outbox.done(message)
            else:
                report.failed += 1
                self.outcomes[message.target, "failed"] += 1
                self.outbox.failed(message, now, round((error.retry_after or 0) * 1000))
            return
        report.sent += 1
        self.outcomes[message.target, "sent"] += 1
        self.outbox.done(message, self._clock.now_ms() + channel.interval_ms if channel.interval_ms else 0)


def _unexpected(message: Message, error: Exception) -> DeliveryError:
    # Its text may hold an address, which is a secret.
    log.error("%s: the channel raised %s", message.target, type(error).__name__)
    return DeliveryError(f"the channel raised {type(error).__name__}", retry=True)


class AlertmanagerFeed:
    """Alerts for an Alertmanager, as Prometheus sends them: changes at once, what fires again every ``resend_ms``.

    What fires is sent with an end four resends ahead, so that it resolves there if we are gone. What is resolved is
    sent again for 15 minutes. Not for several threads.
    """

    RESOLVED_MS = 15 * 60_000

    def __init__(self, target: str = "alertmanager", *, resend_ms: int = 60_000, interval_ms: int = 0) -> None:
        self.target, self._resend_ms = target, resend_ms
        self._valid_ms = 4 * max(resend_ms, interval_ms)
        self._sent: dict[str, tuple[int, bool]] = {}

    def messages(self, alerts: Iterable[PostableAlert], now_ms: int) -> list[Message]:
        """One message with what is due of ``alerts``, which are all that fire and what was resolved lately; or none."""
        due = []
        known: dict[str, tuple[int, bool]] = {}
        for alert in alerts:
            resolved = alert.resolved(now_ms)
            if resolved and now_ms - (alert.ends_at_ms or 0) > self.RESOLVED_MS:
                continue
            before = self._sent.get(alert.fingerprint)
            known[alert.fingerprint] = (now_ms, resolved) if before is None else before
            if before is None or before[1] != resolved or now_ms - before[0] >= self._resend_ms:
                known[alert.fingerprint] = (now_ms, resolved)
                due.append(alertmanager_body(alert) | ({} if resolved else self._valid(now_ms)))
        self._sent = known
        if not due:
            return []
        body = json.dumps(due, separators=(",", ":"), ensure_ascii=False)
        # Several groups are evaluated at one time: the body tells their messages apart.
        return [Message(self.target, f"{self.target}-{now_ms}-{zlib.crc32(body.encode()):08x}", body, now_ms)]

    def _valid(self, now_ms: int) -> dict[str, str]:
        return {"endsAt": GoTime(now_ms + self._valid_ms).format(_RFC3339)}
