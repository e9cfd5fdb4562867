"""Bodies of writes between socket and store: so many bytes for all, shared by source, and each source in its turn."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from metricsdb.adapters.room import Room
from metricsdb.server.gate import refused, source_of
from metricsdb.server.state import Counts

__all__ = ["Held", "Intake", "NoRoom", "TooLarge", "no_room"]


class TooLarge(Exception):
    """The body has more bytes than one request may have."""


class NoRoom(Exception):
    """Other bodies, or others of this source, take the memory that there is for them."""


class Intake:
    """What all writes of one server hold. A source is a credential at an address, or an address.

    Memory is counted as it comes, not as it is announced, so a sender that never sends takes none.
    """

    def __init__(self, bytes_max: int, body_bytes_max: int, turns: int) -> None:
        self.body_bytes_max = body_bytes_max
        self.room = Room(bytes_max)
        self._turns = turns
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def hold(self, scope: Scope) -> Held:
        return Held(self, source_of(scope))

    async def enter(self, source: str) -> None:
        """Waits for a turn: so many of each source are worked on at once, in the order of their coming."""
        running = self._running.get(source, 0)
        if running < self._turns:
            self._running[source] = running + 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(source)
            raise

    def leave(self, source: str) -> None:
        waiting = self._waiting.get(source)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(source, None)
        left = self._running[source] - 1
        if left:
            self._running[source] = left
        else:
            del self._running[source]


class Held:
    """The memory of one body, given back at the end of a `with`."""

    __slots__ = ("_intake", "size", "source")

    def __init__(self, intake: Intake, source: str) -> None:
        self._intake = intake
        self.source = source
        self.size = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size:
            self._intake.room.give(self.source, self.size)
            self.size = 0

    def grow(self, count: int) -> None:
        """Raises TooLarge, NoRoom."""
        if self.size + count > self._intake.body_bytes_max:
            raise TooLarge
        if not self._intake.room.take(self.source, count):
            raise NoRoom
        self.size += count

    def expect(self, count: int) -> None:
        """As `grow`, for a size that is only announced: refused before its body is read, but not held."""
        if count > self._intake.body_bytes_max:
            raise TooLarge
        if not self._intake.room.fits(self.source, count):
            raise NoRoom

    def replace(self, count: int) -> None:
        """The body was unpacked to so many bytes. Raises NoRoom."""
        self._intake.room.give(self.source, self.size)
        self.size = 0
        if not self._intake.room.take(self.source, count):
            raise NoRoom
        self.size = count

    async def read(self, receive: Receive) -> bytes:
        """The whole body. Raises TooLarge, NoRoom, ClientDisconnect."""
        message = await receive()
        body: bytes = message.get("body", b"")
        self.grow(len(body))
        if message["type"] == "http.request" and not message.get("more_body", False):
            return body
        parts = [body]
        while True:
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            message = await receive()
            part: bytes = message.get("body", b"")
            self.grow(len(part))
            parts.append(part)
            if message["type"] == "http.request" and not message.get("more_body", False):
                return b"".join(parts)


def no_room(error: TooLarge | NoRoom, intake: Intake, counts: Counts) -> Response:
    """Senders repeat what is answered with 503, and drop what is answered with 413."""
    if isinstance(error, TooLarge):
        message = f"body is larger than {intake.body_bytes_max} bytes; send smaller batches"
        return refused(counts, "body_bytes", 413, "bad_data", message)
    message = "other bodies take the memory that there is for them, or this sender its share; send again later"
    return refused(counts, "write_bytes", 503, "unavailable", message, Retry_After="1")
