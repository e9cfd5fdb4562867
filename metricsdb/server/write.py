"""Ways in over HTTP: remote write and import.

Remote write is the hot path: plain ASGI, the body goes to native code as it came, and nothing here looks
at a sample.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from metricsdb._native import NativeDatabase
from metricsdb.adapters.exposition import format_of
from metricsdb.errors import MemoryLimit, MetricsDBError, NotDurable
from metricsdb.server.intake import Held, Intake, NoRoom, TooLarge, no_room
from metricsdb.server.params import BadParameter, url_form
from metricsdb.server.reply import retry_after
from metricsdb.server.state import Counts

if TYPE_CHECKING:
    from metricsdb._native import Report

__all__ = ["RemoteWrite", "TextImport"]

T = TypeVar("T")

# A body up to this is decoded on the event loop: handing it to a thread costs more than the work of
# a usual one (2,000 samples take about 30 kB and under a millisecond). So it is for series that are known.
INLINE_BYTES_MAX = 256 * 1024
# Sources that are known to send such; when they are more, all are learned anew.
STEADY_SOURCES_MAX = 4096
_PROTOBUF = "application/x-protobuf"
_REQUEST_2 = "io.prometheus.write.v2.Request"
_VERSIONS = {"prometheus.WriteRequest": 1, _REQUEST_2: 2}
_GZIP = ("gzip", "x-gzip")
# Bytes of gzip given to zlib at once: what follows the end of a member is copied, so many small members
# would take time by the square of the body if it were all of the rest.
_GZIP_WINDOW = 8192


class RemoteWrite:
    """``POST /api/v1/write``: remote write 1.0 and 2.0, told apart by the content type.

    204 when all was taken; 400 names what was not (the rest is stored), 429 does where memory is short for new series;
    503 where nothing was taken but may be later; 413 and 415 as the protocol says. Answers to
    2.0 say in headers how many samples, histograms and exemplars were stored.
    """

    def __init__(self, native: NativeDatabase, counts: Counts, intake: Intake, executor: Executor) -> None:
        self._native = native
        self._counts = counts
        self._intake = intake
        self._executor = executor
        # A write that waits for a disk must not hold the event loop, and those that wait together share a sync.
        self._inline_bytes_max = INLINE_BYTES_MAX if native.journal() is None else 0
        # Whose last body was taken whole and made no series.
        self._steady: set[str] = set()
        self._no_content: list[Message] = [
            {"type": "http.response.start", "status": 204, "headers": []},
            {"type": "http.response.body", "body": b""},
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Senders older than the specification leave both headers out; like Prometheus we take them at their body.
        kind, encoding, length = b"", b"", b"0"
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"content-encoding":
                encoding = value
            elif name == b"content-length":
                length = value
        version = 1 if kind in (b"", b"application/x-protobuf") else _version(kind.decode("latin-1"))
        answer = self._refuse_headers(kind, encoding, length, version)
        if answer is None:
            with self._intake.hold(scope) as held:
                try:
                    held.expect(int(length))
                    body = await held.read(receive)
                    answer = await (self._take_v2(body, held) if version == 2 else self._take(body, held))
                except (TooLarge, NoRoom) as error:
                    answer = no_room(error, self._intake, self._counts)
        if answer is not None:
            await answer(scope, receive, send)
            return
        for message in self._no_content:
            await send(message)

    def _refuse_headers(self, kind: bytes, encoding: bytes, length: bytes, version: int | None) -> Response | None:
        if encoding not in (b"", b"snappy"):
            return _unsupported(f"Content-Encoding {encoding.decode('latin-1')!r}; send snappy")
        if version is None:
            return _unsupported(
                f"Content-Type {kind.decode('latin-1')!r}; send {_PROTOBUF} with proto=prometheus.WriteRequest "
                f"(remote write 1.0, also without proto) or proto={_REQUEST_2} (2.0)"
            )
        if not length.isdigit():
            return PlainTextResponse(f"Content-Length {length.decode('latin-1')!r} is no number of bytes\n", 400)
        if len(length) > 18:
            return no_room(TooLarge(), self._intake, self._counts)
        return None

    async def _decode(self, decode: Callable[[bytes], T], body: bytes, held: Held) -> T:
        intake, loop = self._intake, asyncio.get_running_loop()
        await intake.enter(held.source)
        if len(body) <= self._inline_bytes_max and held.source in self._steady:
            # The turn lasts to the next round of the loop, so that a source of many connections has no more of each.
            loop.call_soon(intake.leave, held.source)
            return decode(body)
        try:
            return await loop.run_in_executor(self._executor, decode, body)
        finally:
            intake.leave(held.source)

    def _stored(self, source: str, report: Report) -> None:
        """Counts a body. New series take long: who sends them must not hold the event loop, where all others wait."""
        self._counts.write("remote_write", report)
        _, _, _, created, rejected = report
        if created or rejected:
            self._steady.discard(source)
            return
        if len(self._steady) >= STEADY_SOURCES_MAX:
            self._steady.clear()
        self._steady.add(source)

    async def _take_v2(self, body: bytes, held: Held) -> Response:
        try:
            report, histograms = await self._decode(self._native.write_remote_v2, body, held)
        except (NotDurable, MemoryLimit) as error:
            return _unavailable(error)
        except MetricsDBError as error:
            return PlainTextResponse(f"{error}\n", 400, _written(0, 0))
        self._stored(held.source, report)
        answer = _partly(report) or Response(status_code=204)
        answer.headers.update(_written(report[0] - histograms, histograms))
        return answer

    async def _take(self, body: bytes, held: Held) -> Response | None:
        try:
            report = await self._decode(self._native.write_remote, body, held)
        except (NotDurable, MemoryLimit) as error:
            return _unavailable(error)
        except MetricsDBError as error:
            # Limits too: a sender repeats what is answered with 5xx, and this body will never fit.
            return PlainTextResponse(f"{error}\n", 400)
        self._stored(held.source, report)
        return _partly(report) if report[4] else None


def _version(kind: str) -> int | None:
    """Which remote write a content type means, if any: 1 is also what one without a message means."""
    name, _, parameters = kind.partition(";")
    if name.strip().lower() != _PROTOBUF:
        return None
    version = 1
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "proto":
            if value.strip() not in _VERSIONS:
                return None
            version = _VERSIONS[value.strip()]
    return version


def _written(samples: int, histograms: int) -> dict[str, str]:
    """What an answer to remote write 2.0 must say; exemplars are not stored."""
    counts = {"Samples": samples, "Histograms": histograms, "Exemplars": 0}
    return {f"X-Prometheus-Remote-Write-{what}-Written": str(count) for what, count in counts.items()}


def _partly(report: Report) -> Response | None:
    """What the sender is told of a body of which something was refused.

    429 where memory is short: a sender may send the body again, or go on without the series that are new in it.
    Parts of the protocol that are not stored (exemplars) are counted in /metrics but do
    not fail the request: Prometheus would log an error for every body.
    """
    accepted, _, _, _, rejected = report
    refused = [f"{reason}: {n}, first: {example}" for reason, n, example in rejected if reason != "unsupported"]
    if not refused:
        return None
    text = f"{accepted} samples stored, refused: {'; '.join(refused)}\n"
    if any(reason == "memory_limit" for reason, _, _ in rejected):
        return PlainTextResponse(text, 429, retry_after(MemoryLimit(text)))
    return PlainTextResponse(text, 400)


def _unavailable(error: MetricsDBError) -> Response:
    """The sender keeps the body and sends it again; what stands in memory already is replaced by the same."""
    return PlainTextResponse(f"{error}\n", 503, retry_after(error))


def _unsupported(what: str) -> Response:
    return PlainTextResponse(f"unsupported {what}\n", 415)


class TextImport:
    """``POST /api/v1/import/prometheus``: Prometheus text or protobuf, or OpenMetrics, plain or as gzip.

    ``timestamp`` (Unix milliseconds) stands in for samples without one; each ``extra_label=name=value`` is added
    to all series, a label of that name that the sender wrote becomes ``exported_<name>``. 204 when all was taken,
    400 names the lines that were not (the rest is stored); 413 and 415 as for remote write.
    """

    def __init__(
        self, native: NativeDatabase, now_ms: Callable[[], int], counts: Counts, intake: Intake, executor: Executor
    ) -> None:
        self._native = native
        self._now_ms = now_ms
        self._counts = counts
        self._intake = intake
        self._executor = executor

    async def take(self, request: Request) -> Response:
        try:
            form = url_form(request)
            at, labels = _import_options(form.text("timestamp"), form.all("extra_label"))
        except BadParameter as error:
            return PlainTextResponse(f"{error}\n", 400)
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity", *_GZIP):
            return _unsupported(f"Content-Encoding {encoding!r}; send gzip, or the text as it is")
        now = self._now_ms() if at is None else at
        kind = format_of(request.headers.get("content-type", ""))
        length = request.headers.get("content-length", "0")
        with self._intake.hold(request.scope) as held:
            try:
                held.expect(int(length) if re.fullmatch("[0-9]{1,18}", length) else 0)
                body = await held.read(request.receive)
                await self._intake.enter(held.source)
                try:
                    if encoding in _GZIP:
                        body = await self._in_thread(partial(gunzip, body, self._intake.body_bytes_max))
                        held.replace(len(body))
                    report = await self._in_thread(partial(self._native.ingest, body, kind, now, labels, False))
                finally:
                    self._intake.leave(held.source)
            except (TooLarge, NoRoom) as error:
                return no_room(error, self._intake, self._counts)
            except zlib.error as error:
                return PlainTextResponse(f"body cannot be unpacked as gzip, nothing is stored: {error}\n", 400)
            except (NotDurable, MemoryLimit) as error:
                return _unavailable(error)
            except MetricsDBError as error:
                return PlainTextResponse(f"{error}\n", 400)
        self._counts.write("import", report)
        return _partly(report) or Response(status_code=204)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _import_options(timestamp: str, extra: list[str]) -> tuple[int | None, dict[str, str]]:
    if timestamp and not re.fullmatch(r"-?[0-9]{1,18}", timestamp):
        raise BadParameter(f"{timestamp!r} is no Unix time in milliseconds", "timestamp")
    labels = {}
    for pair in extra:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise BadParameter(f"{pair!r} is not name=value", "extra_label")
        labels[name] = value
    return (int(timestamp) if timestamp else None), labels


def gunzip(body: bytes, bytes_max: int) -> bytes:
    """The text of all members; never more than is allowed is held.

    Raises TooLarge, and zlib.error for what is not gzip from its first byte to its last, also an empty or cut body.
    """
    text, packed, at = bytearray(), memoryview(body), 0
    while True:
        decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not decoder.eof:
            window = packed[at : at + _GZIP_WINDOW]
            if not window:
                raise zlib.error("it ends before its end mark")
            text += decoder.decompress(window, bytes_max + 1 - len(text))
            if len(text) > bytes_max:
                raise TooLarge
            at += len(window) - len(decoder.unused_data)
        if at == len(body):
            return bytes(text)
