"""A connection of the server: uvicorn's, with an end for clients that only want to hold it.

What the app cannot see is bounded here: a head that does not come or has no end, answers that nobody takes, more
connections than there is room for, requests piled up behind one another.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from metricsdb.server.gate import ALWAYS, refused
from metricsdb.server.state import Counts
from metricsdb.web import Web

__all__ = ["Connection"]

# Requests of one connection that may wait for the one before them. No client of ours sends any so.
PIPELINED_MAX = 16
# Connections above the limit that are still told why they are refused.
OVER_MAX = 64
# How long a body may go on coming after its request was answered.
DRAIN_S = 5.0
# The pace below which a client does not take its answer.
TAKE_BYTES_PER_SECOND_MIN = 16 * 1024


class _Ended(Exception):
    """Makes the parser stop; the refusal is in the connection."""


class Connection(HttpToolsProtocol):
    """One client. Timers run on the event loop's clock."""

    def __init__(
        self,
        config: UvicornConfig,
        state: ServerState,
        app_state: dict[str, Any],
        web: Web,
        counts: Counts,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, state, app_state, loop)
        self._web = web
        self._counts = counts
        self._in_head = False
        self._in_message = False
        # Bytes since the parser gave something whole: of a head, of a chunk's size, of trailers.
        self._pending = 0
        self._waits: asyncio.TimerHandle | None = None
        self._writes: asyncio.TimerHandle | None = None
        self._refusal = (400, "bad_data", "not HTTP/1.1; send a well-formed request", "malformed")

    # --- the life of a connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        excess = len(self.connections) - self._web.connections_max
        if excess > OVER_MAX:
            self._counts.refuse("connections")
            transport.abort()
        elif excess > 0:
            self.app = self._overloaded
        self._wait(self._web.header_timeout.seconds, self._no_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0, None)
        self._write_wait(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._pending > self._web.header_bytes_max:
            self._refusal = self._long_head()
            self.send_400_response("")
        elif self._waits is None and self._pending and (self._in_head or not self._in_work()):
            # A head that is not whole, or blank lines before one, of which the parser does not tell.
            self._wait(self._web.header_timeout.seconds, self._no_head)

    # --- what the parser finds ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._pending = 0
        if self._waits is not None:
            self._wait(0, None)
        if len(self.pipeline) >= PIPELINED_MAX:
            message = f"{PIPELINED_MAX} requests wait behind one; wait for answers"
            self._refusal = (429, "unavailable", message, "pipelined")
            raise _Ended
        super().on_headers_complete()
        self.headers = []  # trailers are for nobody

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._pending = 0
        if self._waits is not None:
            self._wait(0, None)
        super().on_message_complete()

    def _in_work(self) -> bool:
        return self._in_message or (self.cycle is not None and not self.cycle.response_complete)

    # --- answers ---

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self._in_head and self.cycle.response_complete:
            self._wait(DRAIN_S, self._no_end)
        if self._writes is None:
            self._write_wait(self.transport.get_write_buffer_size())

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 uvicorn's signature
        """Ends the connection with the refusal at hand; without one where half an answer is already out."""
        status, kind, message, reason = self._refusal
        self._counts.refuse(reason)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or self._in_head):
            self.transport.abort()
            return
        body = msgspec.json.encode({"status": "error", "errorType": kind, "error": message})
        retry = b"retry-after: 1\r\n" if status == 429 else b""
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], head, retry, b"connection: close\r\n\r\n", body)))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_wait(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_wait(0)

    async def _overloaded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in ALWAYS:
            await self.config.loaded_app(scope, receive, send)
            return
        message = f"{self._web.connections_max} connections are open; try again later, or raise connections_max"
        headers = {"Retry_After": "1", "Connection": "close"}
        await refused(self._counts, "connections", 503, "unavailable", message, **headers)(scope, receive, send)

    # --- timers ---

    def _wait(self, seconds: float, end: Any) -> None:
        """Ends the connection by `end` after so long, instead of what was to end it so far; None: nothing ends it."""
        if self._waits is not None:
            self._waits.cancel()
        self._waits = None if end is None else self.loop.call_later(seconds, end)

    def _no_head(self) -> None:
        if self.flow.read_paused:  # it is we who do not read: an answer is still on its way
            self._wait(self._web.header_timeout.seconds, self._no_head)
            return
        if not self._pending:  # a connection that was opened ahead of need
            self.transport.close()
            return
        seconds = self._web.header_timeout.seconds
        message = f"no whole request head in {seconds:g} s; send it at once, or raise header_timeout"
        self._refusal = (408, "timeout", message, "head_time")
        self.send_400_response("")

    def _no_end(self) -> None:
        self._counts.refuse("drain_time")
        self.transport.abort()

    def _write_wait(self, before: int) -> None:
        """Looks later how much the client took of `before` bytes; 0: all is taken."""
        if self._writes is not None:
            self._writes.cancel()
        self._writes = None
        if before:
            self._writes = self.loop.call_later(self._web.answer_timeout.seconds, self._taken, before)

    def _taken(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and before - left < min(before, int(TAKE_BYTES_PER_SECOND_MIN * self._web.answer_timeout.seconds)):
            self._counts.refuse("answer_time")
            self.transport.abort()
        else:
            self._write_wait(left)

    def _long_head(self) -> tuple[int, str, str, str]:
        message = (
            f"more than {self._web.header_bytes_max} bytes or {self._web.headers_max} fields of headers; send less"
        )
        return 431, "bad_data", message, "header_bytes"
