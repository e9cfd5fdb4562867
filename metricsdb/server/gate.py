"""What every request passes: limits of head, number and pace; the door of each endpoint with its right; counts.

Each refusal is the API's error in JSON, is counted by reason, and says when to come again where that helps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metricsdb.logs import Seldom, printable
from metricsdb.server.auth import Auth, Busy, Identity
from metricsdb.server.reply import refusal
from metricsdb.server.state import Counts
from metricsdb.web import Right, Web

__all__ = ["ALWAYS", "BODY_BYTES_PER_SECOND_MIN", "Door", "Gate", "SlowBody", "refused", "source_of"]

log = logging.getLogger("metricsdb.server")

# What says how the server is must answer when nothing else does.
ALWAYS = ("/-/ready", "/-/healthy", "/metrics")
# What is answered while the data directory is still being read.
EARLY = (*ALWAYS, "/api/v1/write", "/api/v1/import/prometheus")
# The pace below which a sender is taken for one that only wants to hold a connection.
BODY_BYTES_PER_SECOND_MIN = 16 * 1024
_CLIENT = "metricsdb.client"


class SlowBody(Exception):
    """The body of a request did not come in time."""


def source_of(scope: Scope) -> str:
    """Who is treated fairly beside others: a credential at an address, or an address."""
    client = scope.get("client")
    host = client[0] if client else ""
    name = scope.get(_CLIENT)
    return host if name is None else f"{name}@{host}"


def refused(counts: Counts, reason: str, status: int, kind: str, message: str, **headers: str) -> Response:
    """A refusal, counted. Keywords are headers, with `_` for `-`."""
    counts.refuse(reason)
    answer = refusal(kind, message, status)
    for name, value in headers.items():
        answer.headers[name.replace("_", "-")] = value
    return answer


class Gate:
    """The outermost layer: refuses before anything is read, ends slow bodies, counts what was answered and how fast."""

    def __init__(
        self,
        app: ASGIApp,
        counts: Counts,
        names: Mapping[object, str],
        web: Web,
        hindrance: Callable[[], str | None],
    ) -> None:
        self._app = app
        self._hindrance = hindrance
        self._counts = counts
        self._names = names
        self._web = web
        self._body_timeout_s = web.body_timeout.seconds
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._running += 1
        try:
            answer = self._refuse(scope)
            try:
                if answer is None:
                    await self._app(scope, _InTime(receive, self._body_timeout_s), noting)
            except ClientDisconnect:
                status = status or 499  # as Prometheus counts what nobody waits for
            except SlowBody as error:
                answer = refused(self._counts, "body_time", 408, "timeout", str(error), Connection="close")
            except Exception:
                if status:  # the connection ends without the end of the body
                    raise
                log.exception("a request to %s failed", printable(scope["path"]))
                answer = refusal("internal", "a fault of MetricsDB; its log says more", 500)
            if answer is not None and not status:
                await answer(scope, receive, noting)
        finally:
            self._running -= 1
            handler = self._names.get(scope.get("endpoint"), "other")
            self._counts.request(handler, status or 500, perf_counter() - started)

    def _refuse(self, scope: Scope) -> Response | None:
        web, headers = self._web, scope["headers"]
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > web.header_bytes_max:
            message = f"the URL has {size} bytes, {web.header_bytes_max} allowed; POST the parameters as a form"
            return refused(self._counts, "url_bytes", 414, "bad_data", message)
        if len(headers) > web.headers_max:
            message = f"{len(headers)} header fields, {web.headers_max} allowed; send fewer, or raise headers_max"
            return refused(self._counts, "headers", 431, "bad_data", message)
        for name, value in headers:
            size += len(name) + len(value)
        if size > web.header_bytes_max:
            message = f"{size} bytes of headers, {web.header_bytes_max} allowed; send less, or raise header_bytes_max"
            return refused(self._counts, "header_bytes", 431, "bad_data", message)
        if self._running > web.requests_max and scope["path"] not in ALWAYS:
            message = f"{web.requests_max} requests are in work; try again later, or raise requests_max"
            return refused(self._counts, "requests", 503, "unavailable", message, Retry_After="1")
        why = self._hindrance()
        if why is not None and scope["path"] not in EARLY:
            return refused(self._counts, "replay", 503, "unavailable", why, Retry_After="1")
        return None


class _InTime:
    """A `receive` that raises SlowBody once the body is behind its pace; waiting for a disconnect has no end."""

    __slots__ = ("_came", "_deadline", "_receive", "_timeout_s", "_whole")

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self._came = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        if not self._deadline:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline + self._came / BODY_BYTES_PER_SECOND_MIN):
                message = await self._receive()
        except TimeoutError:
            raise SlowBody(
                f"{self._came} bytes of the body came in {self._timeout_s:g} s and the time that so many may take; "
                "send faster or less, or raise body_timeout"
            ) from None
        self._came += len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


class Door:
    """An endpoint behind the right that it takes. Without credentials in the configuration it stands open."""

    def __init__(self, app: ASGIApp, right: Right, auth: Auth, counts: Counts) -> None:
        self._app = app
        self._right = right
        self._auth = auth
        self._counts = counts
        self._log = Seldom()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = []
        answer: Response | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                given.append(value)
            elif name == b"sec-fetch-site" and value == b"cross-site" and self._right != "read":
                message = "a page of another site sent this; MetricsDB takes writes from programs and its own pages"
                answer = refused(self._counts, "cross_site", 403, "forbidden", message)
        if answer is None and self._auth.required:
            answer = await self._check(scope, given)
        await (answer or self._app)(scope, receive, send)

    async def _check(self, scope: Scope, given: list[bytes]) -> Response | None:
        identity: Identity | None = None
        if len(given) == 1:
            try:
                identity = await self._auth.identify(given[0])
            except Busy:
                message = "other passwords are being checked; try again later"
                return refused(self._counts, "passwords", 429, "unavailable", message, Retry_After="1")
        if identity is None:
            return self._unknown(scope)
        if self._right not in identity.rights:
            message = f"credential {identity.name!r} lacks the scope {self._right!r}; use another, or add that to it"
            return refused(self._counts, "forbidden", 403, "forbidden", message)
        scope[_CLIENT] = identity.name
        return None

    def _unknown(self, scope: Scope) -> Response:
        if self._log.due(asyncio.get_running_loop().time()):
            log.warning("no valid credentials from %s for %s", printable(source_of(scope)), printable(scope["path"]))
        message = "no valid credentials; send a bearer token, or name and password of basic authentication"
        answer = refused(self._counts, "unauthorized", 401, "unauthorized", message)
        for challenge in self._auth.challenges:
            answer.headers.append("WWW-Authenticate", challenge)
        return answer
