"""The StatsD listener: lines over UDP and TCP into a bounded queue, a batch of them into the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from metricsdb._native import NativeDatabase
from metricsdb.clock import Clock
from metricsdb.config import StatsdListener, address
from metricsdb.errors import MetricsDBError

if TYPE_CHECKING:
    from metricsdb._native import Report

__all__ = ["Statsd"]

log = logging.getLogger("metricsdb.statsd")

# A line of StatsD is some 50 bytes; a TCP sender that writes this much without a newline is not StatsD.
LINE_BYTES_MAX = 64 * 1024
SOURCE = "statsd"


class Statsd:
    """Collects lines, and writes them every flush interval in one native call.

    A queue that is full drops messages and counts them: a sender that is too fast must not take the memory.
    """

    def __init__(
        self,
        native: NativeDatabase,
        clock: Clock,
        config: StatsdListener,
        *,
        written: Callable[[str, Report], None] | None = None,
        dropped: Callable[[str, int], None] | None = None,
    ) -> None:
        self._native = native
        self._clock = clock
        self._config = config
        self._written = written
        self._dropped = dropped
        self._queue: list[bytes] = []
        self._servers: list[asyncio.BaseTransport | asyncio.Server] = []
        self._connections: set[asyncio.StreamWriter] = set()
        self.udp_port: int | None = None
        self.tcp_port: int | None = None

    async def start(self) -> None:
        """Opens the sockets. Raises OSError if an address is taken."""
        loop = asyncio.get_running_loop()
        if self._config.udp is not None:
            udp, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self.push), local_addr=address(self._config.udp)
            )
            self._servers.append(udp)
            self.udp_port = udp.get_extra_info("sockname")[1]
        if self._config.tcp is not None:
            host, port = address(self._config.tcp)
            tcp = await asyncio.start_server(self._read_lines, host, port, limit=LINE_BYTES_MAX)
            self._servers.append(tcp)
            self.tcp_port = tcp.sockets[0].getsockname()[1]

    async def run(self) -> None:
        """Flushes for ever; ends when cancelled, after a last flush."""
        try:
            while True:
                await self._clock.sleep(self._config.flush_interval.seconds)
                self.flush()
        finally:
            self.close()
            self.flush()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.close()

    def push(self, message: bytes) -> None:
        """Takes one message (a line, or a datagram of lines), or drops it if the queue is full."""
        if len(self._queue) >= self._config.queue_messages_max:
            if self._dropped is not None:
                self._dropped(SOURCE, 1)
            return
        self._queue.append(message)

    def flush(self) -> None:
        """Writes every metric at the clock's time: what is queued is counted first, what is idle stands as it was."""
        body = b"\n".join(self._queue)
        self._queue.clear()
        try:
            report = self._native.ingest(body, "statsd", self._clock.now_ms(), self._config.labels, False)
        except MetricsDBError as error:
            log.warning("%d bytes of StatsD were refused: %s", len(body), error)
            return
        if self._written is not None:
            self._written(SOURCE, report)

    async def _read_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while line := await reader.readline():
                self.push(line.rstrip(b"\r\n"))
        except (ValueError, ConnectionError) as error:
            log.warning("a StatsD connection ends: %s", error)
        finally:
            self._connections.discard(writer)
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, push: Callable[[bytes], None]) -> None:
        self._push = push

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 asyncio's signature
        self._push(data)
