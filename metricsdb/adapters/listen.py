"""The StatsD listener: lines over UDP and TCP into a bounded queue, a batch of them into the database."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from metricsdb._native import NativeDatabase
from metricsdb.adapters.room import Room
from metricsdb.clock import Clock
from metricsdb.config import StatsdListener, address
from metricsdb.errors import MetricsDBError
from metricsdb.logs import Seldom, printable

if TYPE_CHECKING:
    from metricsdb._native import Report

__all__ = ["Statsd", "kernel_drops"]

log = logging.getLogger("metricsdb.statsd")

# A line of StatsD is some 50 bytes; a TCP sender that writes this much without a newline is not StatsD.
LINE_BYTES_MAX = 64 * 1024
# What is asked of the kernel for datagrams that wait; it gives what net.core.rmem_max allows.
RECEIVE_BYTES = 4 << 20
# A batch up to this is written on the event loop.
INLINE_BYTES_MAX = 256 * 1024
SOURCE = "statsd"
# Linux' SO_MEMINFO: nine counters of a socket, of which the last one is datagrams that found no room.
_SO_MEMINFO, _MEMINFO = 55, struct.Struct("=9I")


class Statsd:
    """Collects lines, and writes them every flush interval in one native call.

    The queue is bounded in messages and bytes, and shared between senders (`Room`). A datagram that finds no room is
    dropped and counted, as are those that the kernel dropped; a TCP sender waits, so that its own buffers fill.
    """

    def __init__(
        self,
        native: NativeDatabase,
        clock: Clock,
        config: StatsdListener,
        *,
        written: Callable[[str, Report], None] | None = None,
        dropped: Callable[[str, str, int], None] | None = None,
    ) -> None:
        self._native = native
        self._clock = clock
        self._config = config
        self._written = written
        self._dropped = dropped
        self._queue: list[bytes] = []
        self._messages = Room(config.queue_messages_max)
        self._bytes = Room(config.queue_bytes_max)
        self._emptied = asyncio.Event()
        # A write that waits for a disk must not hold the event loop.
        self._inline_bytes_max = INLINE_BYTES_MAX if native.journal() is None else -1
        self._servers: list[asyncio.BaseTransport | asyncio.Server] = []
        self._connections: set[asyncio.StreamWriter] = set()
        self._socket: socket.socket | None = None
        self._kernel_dropped = 0
        self._log = Seldom()
        self.udp_port: int | None = None
        self.tcp_port: int | None = None

    async def start(self) -> None:
        """Opens the sockets. Raises OSError if an address is taken."""
        loop = asyncio.get_running_loop()
        if self._config.udp is not None:
            self._socket = await _bound(*address(self._config.udp))
            udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._take), sock=self._socket)
            self._servers.append(udp)
            self.udp_port = self._socket.getsockname()[1]
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
                body = self._collect()
                if len(body) <= self._inline_bytes_max:
                    self._write(body)
                else:
                    await asyncio.to_thread(self._write, body)
        finally:
            self.flush()
            self.close()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.close()

    def push(self, message: bytes, source: str = "") -> bool:
        """Takes one message (a line, or a datagram of lines); False if the queue has no room for its source."""
        if not self._messages.take(source, 1):
            return False
        if not self._bytes.take(source, len(message)):
            self._messages.give(source, 1)
            return False
        self._queue.append(message)
        return True

    def flush(self) -> None:
        """Writes every metric at the clock's time: what is queued is counted first, what is idle stands as it was."""
        self._write(self._collect())

    def _collect(self) -> bytes:
        body = b"\n".join(self._queue)
        self._queue.clear()
        self._messages.clear()
        self._bytes.clear()
        self._emptied.set()
        self._count_kernel_drops()
        return body

    def _write(self, body: bytes) -> None:
        try:
            report = self._native.ingest(body, "statsd", self._clock.now_ms(), self._config.labels, False)
        except MetricsDBError as error:
            if self._log.due(self._clock.monotonic()):
                log.warning("%d bytes of StatsD were refused: %s", len(body), printable(str(error)))
            self._drop("refused", body.count(b"\n") + bool(body))
            return
        if self._written is not None:
            self._written(SOURCE, report)

    def _take(self, data: bytes, source: str) -> None:
        if not self.push(data, source):
            self._drop("queue", 1)

    def _drop(self, reason: str, count: int) -> None:
        if self._dropped is not None:
            self._dropped(SOURCE, reason, count)

    def _count_kernel_drops(self) -> None:
        now = None if self._socket is None else kernel_drops(self._socket)
        if now is not None and now != self._kernel_dropped:
            self._drop("kernel", (now - self._kernel_dropped) % 2**32)
            self._kernel_dropped = now

    async def _read_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._config.connections_max:
            self._drop("connections", 1)
            writer.close()
            return
        peer = writer.get_extra_info("peername")
        source = str(peer[0]) if peer else ""
        self._connections.add(writer)
        try:
            while line := await reader.readline():
                line = line.rstrip(b"\r\n")
                while not self.push(line, source):
                    self._emptied.clear()
                    await self._emptied.wait()
        except ValueError:
            self._drop("line", 1)
            if self._log.due(self._clock.monotonic()):
                log.warning("a StatsD connection from %s ends: no newline in %d bytes", source, LINE_BYTES_MAX)
        except ConnectionError:
            pass  # what it sent is written; it may come again
        finally:
            self._connections.discard(writer)
            writer.close()


def kernel_drops(of: socket.socket) -> int | None:
    """Datagrams that the socket's buffer had no room for, modulo 2**32; None where the kernel does not say."""
    try:
        return int(_MEMINFO.unpack(of.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1])
    except (OSError, struct.error):
        return None


async def _bound(host: str, port: int) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, where = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        opened.bind(where)
    except OSError:
        opened.close()
        raise
    return opened


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, str], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._take(data, str(addr[0]))
