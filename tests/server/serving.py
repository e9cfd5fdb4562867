"""The server on a real socket, in the test's own event loop; and clients that speak bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

import metricsdb as mdb
from metricsdb.config import Config
from metricsdb.server.app import create_app
from metricsdb.server.openapi import description
from metricsdb.server.run import _Server, tls_context
from metricsdb.server.state import Counts
from metricsdb.web import Web

# (path, method) -> what the description says of it.
OPERATIONS: dict[tuple[str, str], Any] = {
    (path, method.upper()): operation
    for path, methods in description("1")["paths"].items()
    for method, operation in methods.items()
}


@dataclass(repr=False)
class Served:
    server: _Server
    counts: Counts
    db: mdb.Database
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, **arguments: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, **arguments)
        self.clients.append(writer)
        return reader, writer

    async def end(self) -> None:
        for client in self.clients:
            client.close()
            with suppress(OSError):
                await client.wait_closed()
        self.server.should_exit = True

    async def talk(self, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends, and reads the first answer or what came before the end."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
        answer = await read_answer(reader)
        writer.close()
        return answer


@asynccontextmanager
async def served(
    web: Web | None = None, *, config: Config | None = None, environ: Mapping[str, str] | None = None, app: Any = None
) -> AsyncIterator[Served]:
    db, counts, web = mdb.Database(), Counts(0), web or Web()
    chosen = Config(web=web) if config is None else config
    made = create_app(db, config=chosen, counts=counts, environ=environ or {})
    tls = None if web.tls_server_config is None else tls_context(web.tls_server_config)
    server = _Server(app or made, ("127.0.0.1", 0), web, counts, tls)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    try:
        on = Served(server, counts, db)
        yield on
    finally:
        await on.end()
        await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 sockets raise no event of ours
            await asyncio.sleep(0.001)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body (of a Content-Length, or to the end). Status 0: the connection ended without one."""
    async with asyncio.timeout(20):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, {}, b""
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        length = int(headers.get("content-length", "0"))
        return int(first.split()[1]), headers, await reader.readexactly(length)


def error_of(body: bytes) -> tuple[str, str]:
    found = json.loads(body)
    assert found["status"] == "error"
    return found["errorType"], found["error"]


def run(story: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story)
