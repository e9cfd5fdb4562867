"""Calls of native code from the event loop: in threads by class, ended when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from metricsdb._native import Body, StopSwitch
from metricsdb.database import Database
from metricsdb.errors import ConfigError, QueryRejected
from metricsdb.server.gate import SlowBody
from metricsdb.server.state import Counts

__all__ = ["Runner", "Streamed"]

T = TypeVar("T")

# A query that is over so soon is not worth a look whether its client is still there.
WATCH_AFTER_S = 0.01


class Runner:
    """Threads for as many calls of each class as may run and wait; more are refused at once."""

    def __init__(self, db: Database, counts: Counts) -> None:
        self._counts = counts
        self._limits = {name: running + db.queries_waiting_max for name, running in db.concurrency.items()}
        self._executors = {
            name: ThreadPoolExecutor(limit, thread_name_prefix=f"metricsdb-{name}")
            for name, limit in self._limits.items()
        }
        self._in_flight = dict.fromkeys(self._limits, 0)
        self._switches: set[StopSwitch] = set()

    def executor(self, priority: str) -> Executor:
        return self._executors[priority]

    async def call(self, work: Callable[[], T]) -> T:
        """Runs a call of people's class to its end."""
        return await self._run(work, "query", None, None)

    async def query(self, request: Request, priority: str, work: Callable[[StopSwitch], T]) -> T:
        """Runs a query; a client that disconnects ends it."""
        if priority not in self._limits:
            raise ConfigError(f"priority {priority!r} is no class of queries; use {', '.join(self._limits)}")
        switch = StopSwitch()
        return await self._run(lambda: work(switch), priority, switch, request.receive)

    async def _run(self, work: Callable[[], T], priority: str, switch: StopSwitch | None, receive: Receive | None) -> T:
        limit = self._limits[priority]
        if self._in_flight[priority] >= limit:
            raise QueryRejected(
                f"too many queries: {limit} of class {priority} run or wait; "
                f"try again later, or raise {priority}_concurrency"
            )
        self._in_flight[priority] += 1
        self._counts.query(1)
        future = asyncio.get_running_loop().run_in_executor(self._executors[priority], work)
        try:
            if switch is None or receive is None:
                return await future
            self._switches.add(switch)
            await asyncio.wait({future}, timeout=WATCH_AFTER_S)
            if not future.done():
                await _watched(future, switch, receive)
            return await future
        except asyncio.CancelledError:
            if switch is not None:
                switch.cancel()
            raise
        finally:
            self._in_flight[priority] -= 1
            self._counts.query(-1)
            if switch is not None:
                self._switches.discard(switch)

    def close(self) -> None:
        """Ends what runs."""
        for switch in list(self._switches):
            switch.cancel()
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


async def _watched(future: asyncio.Future[T], switch: StopSwitch, receive: Receive) -> None:
    """Waits for the end of the call or of the client."""
    gone = asyncio.create_task(_disconnected(receive))
    either: set[asyncio.Future[Any]] = {future, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
        switch.cancel()
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone


async def _disconnected(receive: Receive) -> None:
    """Returns when the client is gone; one that never ends its body is as good as gone."""
    with suppress(SlowBody):
        while (await receive())["type"] != "http.disconnect":
            pass


class Streamed(Response):
    """A body that is written while it is sent, at the pace of the client and until the query's deadline.

    Where it fails after its beginning, the connection ends without an end of the body: the client sees that it was cut.
    """

    media_type = "application/json"

    def __init__(self, first: bytes, rest: Body, executor: Executor) -> None:
        super().__init__(media_type=self.media_type)
        del self.headers["content-length"]
        self._first, self._rest, self._executor = first, rest, executor

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        try:
            async with asyncio.timeout(self._rest.seconds_left()):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                piece: bytes | None = self._first
                while piece is not None and not gone.done():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await self._in_thread(lambda: next(self._rest, None))
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await self._in_thread(self._rest.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
