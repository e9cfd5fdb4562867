"""Silences and alerts as Alertmanager's API v2 has them, for amtool, Grafana and scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from metricsdb.alerts.manager import Alerts
from metricsdb.alerts.matchers import Matcher, matches, parse
from metricsdb.alerts.pipeline import Pipeline
from metricsdb.alerts.routing import Held
from metricsdb.alerts.silences import Silence
from metricsdb.alerts.templates.gotime import GoTime
from metricsdb.errors import ConfigError
from metricsdb.server.params import BadParameter, url_form
from metricsdb.server.reply import json_bytes
from metricsdb.times import time_ms

__all__ = ["Silencing"]

T = TypeVar("T")
_RFC3339 = "2006-01-02T15:04:05.999Z07:00"
BODY_BYTES_MAX = 64 << 10
_STATES = {"active": 0, "pending": 1, "expired": 2}


class _Matcher(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    value: str
    isRegex: bool  # noqa: N815  (Alertmanager's names)
    isEqual: bool = True  # noqa: N815


class _Posted(msgspec.Struct):
    matchers: list[_Matcher]
    startsAt: str  # noqa: N815
    endsAt: str  # noqa: N815
    createdBy: str  # noqa: N815
    comment: str
    id: str = ""


class Silencing:
    """The handlers. What cannot be read is answered by 400 with a text as JSON, as Alertmanager does."""

    def __init__(self, alerts: Alerts, now_ms: Callable[[], int], executor: Executor) -> None:
        self._alerts, self._now_ms, self._executor = alerts, now_ms, executor

    async def silences(self, request: Request) -> Response:
        """All of them, those in force first; ``filter``: matchers that take what a silence's own say."""
        try:
            wanted = _filters(request)
        except (BadParameter, ConfigError) as error:
            return _text(str(error), 400)
        made, now_ms = self._routed(), self._now_ms()
        found = [] if made is None else await self._run(made.all_silences)
        shown = [one for one in found if _filtered(one, wanted)]
        shown.sort(key=lambda one: (_STATES[one.state(now_ms)], one.ends_at_ms, one.id))
        return json_bytes(msgspec.json.encode([_silence(one, now_ms) for one in shown]))

    async def put(self, request: Request) -> Response:
        """Takes a silence; one that gives the ``id`` of another changes it, or takes its place."""
        body = await _body(request)
        if body is None:
            return _text(f"the body has more than {BODY_BYTES_MAX} bytes", 413)
        made, now_ms = self._routed(), self._now_ms()
        try:
            posted = msgspec.json.decode(body, type=_Posted)
            matchers = [Matcher(one.name, one.value, _OPS[one.isEqual, one.isRegex]) for one in posted.matchers]
            start, end = (time_ms(text, now_ms, "time") for text in (posted.startsAt, posted.endsAt))
            if made is None:
                raise ConfigError("there are no routes here to silence; db.alerts.route makes them")
            if end <= now_ms:
                raise ConfigError("end time can't be in the past")
        except (msgspec.MsgspecError, ValueError, ConfigError) as error:
            return _text(str(error), 400)
        known = {one.id: one.starts_at_ms for one in await self._run(made.all_silences)}
        if posted.id and posted.id not in known:
            return _text(f"silence {posted.id} not found", 404)
        try:
            span = (start if start == known.get(posted.id) else max(start, now_ms), end)
            silence = await self._run(
                lambda: made.put_silence(matchers, *span, posted.createdBy, posted.comment, posted.id or None)
            )
        except ConfigError as error:
            return _text(str(error), 400)
        return json_bytes(msgspec.json.encode({"silenceID": silence.id}))

    async def get(self, request: Request) -> Response:
        silence = await self._known(request)
        if silence is None:
            return _text("silence not found", 404)
        return json_bytes(msgspec.json.encode(_silence(silence, self._now_ms())))

    async def end(self, request: Request) -> Response:
        made, silence = self._routed(), await self._known(request)
        if made is None or silence is None:
            return _text("silence not found", 404)
        await self._run(lambda: made.unsilence(silence.id))
        return Response(status_code=200)

    async def alerts(self, request: Request) -> Response:
        """What fires, with its receivers and what holds it back; ``filter``, ``receiver`` (a regex), ``active``,
        ``silenced``, ``inhibited``."""
        try:
            form, wanted = url_form(request), _filters(request)
            shown = {name: form.text(name) not in ("false", "0", "f") for name in ("active", "silenced", "inhibited")}
            receiver = Matcher("receiver", form.text("receiver") or ".*", "=~")
        except (BadParameter, ConfigError) as error:
            return _text(str(error), 400)
        made = self._routed()
        found = [] if made is None else await self._run(made.held)

        def taken(one: Held) -> bool:
            state = "silenced" if one.silenced_by else "inhibited" if one.inhibited_by else "active"
            names = one.receivers or ("",)
            there = any(receiver.matches({"receiver": name}) for name in names)
            return shown[state] and there and matches(wanted, one.alert.labels)

        at = GoTime(self._now_ms()).format(_RFC3339)
        return json_bytes(msgspec.json.encode([_alert(one, at) for one in found if taken(one)]))

    def _routed(self) -> Pipeline | None:
        """The pipeline, where it has routes of its own."""
        made = self._alerts.pipeline
        return None if made is None or made.config is None else made

    async def _known(self, request: Request) -> Silence | None:
        made = self._routed()
        known = [] if made is None else await self._run(made.all_silences)
        return next((one for one in known if one.id == request.path_params["id"]), None)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


# isEqual, isRegex
_OPS = {(True, False): "=", (False, False): "!=", (True, True): "=~", (False, True): "!~"}


async def _body(request: Request) -> bytes | None:
    """None: it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            return None
    return body


def _filters(request: Request) -> list[Matcher]:
    return [matcher for text in url_form(request).all("filter") for matcher in parse(text)]


def _filtered(silence: Silence, wanted: list[Matcher]) -> bool:
    """Each wanted matcher takes the text of one of the silence's on that label."""
    said = {one.name: one.value for one in silence.matchers}
    return all(one.name in said and one.matches(said) for one in wanted)


def _silence(one: Silence, now_ms: int) -> dict[str, Any]:
    start, end = (GoTime(at).format(_RFC3339) for at in (one.starts_at_ms, one.ends_at_ms))
    matchers = [
        {"name": m.name, "value": m.value, "isRegex": m.op.endswith("~"), "isEqual": m.op.startswith("=")}
        for m in one.matchers
    ]
    return {
        "id": one.id,
        "status": {"state": one.state(now_ms)},
        "updatedAt": start,
        "comment": one.comment,
        "createdBy": one.created_by,
        "startsAt": start,
        "endsAt": end,
        "matchers": matchers,
    }


def _alert(one: Held, now: str) -> dict[str, Any]:
    alert = one.alert
    held = bool(one.silenced_by or one.inhibited_by)
    status = {
        "state": "suppressed" if held else "active",
        "silencedBy": list(one.silenced_by),
        "inhibitedBy": list(one.inhibited_by),
        "mutedBy": [],
    }
    return {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": GoTime(alert.starts_at_ms).format(_RFC3339),
        "endsAt": GoTime(alert.ends_at_ms or 0).format(_RFC3339),
        "updatedAt": now,
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": name} for name in one.receivers],
        "status": status,
    }


def _text(message: str, status: int) -> Response:
    return json_bytes(msgspec.json.encode(message), status)
