"""Scraping: asks targets for their metrics at even times, and says what became of it.

Beside the target's own series each scrape writes `up`, `scrape_duration_seconds` and `scrape_samples_scraped`.
A series that a target no longer gives ends with a staleness marker; after a failed scrape all of them do.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import numpy as np

from metricsdb._native import NativeDatabase, ScrapeState
from metricsdb.adapters.exposition import format_of
from metricsdb.adapters.room import Room
from metricsdb.clock import Clock
from metricsdb.config import Authorization, BasicAuth, ScrapeJob
from metricsdb.errors import MemoryLimit, MetricsDBError, NotDurable
from metricsdb.logs import printable

if TYPE_CHECKING:
    from metricsdb._native import Report

__all__ = ["ScrapeResult", "Scraper", "Target", "targets"]

log = logging.getLogger("metricsdb.scrape")

# Protobuf first: it alone brings native histograms, and start timestamps with every type. Text before OpenMetrics:
# one malformed line of it costs that line, of OpenMetrics the whole body.
ACCEPT = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.8,"
    "text/plain;version=0.0.4;q=0.7,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
)
# A scrape that starts this late still carries its even time: steady intervals compress far better.
TOLERANCE_MS = 5
# Bodies of all targets that are being read; at even times there are few.
BODIES_BYTES_MAX = 512 << 20
# A body up to this is stored on the event loop.
INLINE_BYTES_MAX = 256 * 1024
PART_BYTES = 64 * 1024
SECRET_BYTES_MAX = 4096
_ENCODINGS = ("", "identity", "gzip", "x-gzip")
_REPORTED = ("up", "scrape_duration_seconds", "scrape_samples_scraped")


@dataclass(slots=True)
class Target:
    """One URL, the labels that its series get, and what its last scrape gave."""

    url: str
    labels: dict[str, str]
    interval_ms: int
    timeout_s: float
    honor_labels: bool = False
    body_bytes_max: int = 64 << 20
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    state: ScrapeState = field(default_factory=ScrapeState)

    @property
    def shown(self) -> str:
        """The URL without name and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def credentials(self) -> dict[str, str]:
        """The header that the target asks for. Raises ValueError if a file cannot be read."""
        if self.basic_auth is not None:
            pair = self.basic_auth.username.encode() + b":" + _secret(self.basic_auth.password_file)
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        if self.authorization is not None:
            token = _secret(self.authorization.credentials_file).decode("latin-1")
            return {"Authorization": f"{self.authorization.type} {token}"}
        return {}

    def next_ms(self, now_ms: int) -> int:
        """The next time after `now_ms` that is this target's; targets spread evenly over their interval."""
        offset = zlib.crc32(self.url.encode()) % self.interval_ms
        return now_ms + self.interval_ms - (now_ms - offset) % self.interval_ms


@dataclass(frozen=True, slots=True)
class ScrapeResult:
    """What one scrape did; `error` is None if the target answered with metrics."""

    target: Target
    at_ms: int
    duration_s: float
    samples: int
    series_created: int
    rejected: list[tuple[str, int, str]]
    error: str | None


def targets(jobs: Iterable[ScrapeJob]) -> list[Target]:
    """All targets of the jobs, labelled `job` and `instance` as Prometheus does."""
    return [
        Target(
            url=job.url(name),
            labels={"job": job.job_name, "instance": name, **job.labels},
            interval_ms=job.scrape_interval.ms,
            timeout_s=job.timeout.seconds,
            honor_labels=job.honor_labels,
            body_bytes_max=job.body_bytes_max,
            basic_auth=job.basic_auth,
            authorization=job.authorization,
        )
        for job in jobs
        for name in job.targets
    ]


class Scraper:
    """Scrapes into one database. `written` is told of every report; `transport` replaces the network in tests."""

    def __init__(
        self,
        native: NativeDatabase,
        clock: Clock,
        *,
        written: Callable[[str, Report], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._native = native
        self._clock = clock
        self._written = written
        self._room = Room(BODIES_BYTES_MAX)
        # A write that waits for a disk must not hold the event loop.
        self._inline_bytes_max = INLINE_BYTES_MAX if native.journal() is None else -1
        self._client = httpx.AsyncClient(
            transport=transport,
            follow_redirects=True,
            headers={"Accept": ACCEPT, "Accept-Encoding": "gzip", "User-Agent": "MetricsDB"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def run(self, chosen: list[Target], done: Callable[[ScrapeResult], None] | None = None) -> None:
        """Scrapes for ever; ends when cancelled."""
        async with asyncio.TaskGroup() as group:
            for target in chosen:
                group.create_task(self._follow(target, done))

    async def _follow(self, target: Target, done: Callable[[ScrapeResult], None] | None) -> None:
        failing = False
        while True:
            now = self._clock.now_ms()
            due = target.next_ms(now)
            await self._clock.sleep((due - now) / 1000)
            started = self._clock.now_ms()
            result = await self.scrape(target, due if abs(started - due) <= TOLERANCE_MS else started)
            if done is not None:
                done(result)
            if (result.error is not None) != failing:
                failing = result.error is not None
                log.warning("%s: %s", printable(target.shown), printable(result.error or "answers again"))

    async def scrape(self, target: Target, at_ms: int) -> ScrapeResult:
        """One scrape, written at `at_ms`. Never raises for what the target does."""
        started = self._clock.monotonic()
        body, text_format, error = b"", "prometheus", None
        try:
            async with asyncio.timeout(target.timeout_s):
                body, text_format = await self._fetch(target)
        except TimeoutError:
            error = f"no answer within {target.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
            error = str(failure) or type(failure).__name__
        duration = self._clock.monotonic() - started
        store = partial(self._store, target, body, text_format, at_ms, duration, error)
        return store() if len(body) <= self._inline_bytes_max else await asyncio.to_thread(store)

    def _store(
        self, target: Target, body: bytes, text_format: str, at_ms: int, duration_s: float, error: str | None
    ) -> ScrapeResult:
        try:
            report = self._take(target, body, text_format, at_ms)
        except MetricsDBError as failure:
            error = str(failure)
            report = self._end(target, at_ms)
        samples = report[0] + sum(count for _, count, _ in report[4])
        self._report(target, at_ms, (float(error is None), duration_s, float(samples)))
        return ScrapeResult(target, at_ms, duration_s, samples, report[3], report[4], error)

    def _take(self, target: Target, body: bytes, text_format: str, at_ms: int) -> Report:
        report = self._native.ingest_scrape(target.state, body, text_format, at_ms, target.labels, target.honor_labels)
        if self._written is not None:
            self._written("scrape", report)
        return report

    def _end(self, target: Target, at_ms: int) -> Report:
        """Ends the target's series; where memory is short, they end with the lookback."""
        try:
            return self._take(target, b"", "prometheus", at_ms)
        except MemoryLimit:
            return 0, 0, 0, 0, []

    async def _fetch(self, target: Target) -> tuple[bytes, str]:
        """The body and its format. Raises ValueError if it is no answer that can be stored."""
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": f"{target.timeout_s:g}", **target.credentials()}
        async with self._client.stream("GET", target.url, headers=headers, timeout=target.timeout_s) as answer:
            if answer.status_code != 200:
                raise ValueError(f"server returned HTTP status {answer.status_code} {answer.reason_phrase}")
            encoding = answer.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in _ENCODINGS:  # packed twice, a body grows by the square of what gzip can do
                raise ValueError(f"body is encoded as {encoding!r}; gzip and identity are taken")
            parts, size = [], 0
            try:
                async for part in answer.aiter_bytes(PART_BYTES):
                    if size + len(part) > target.body_bytes_max:
                        raise ValueError(f"body is larger than {target.body_bytes_max} bytes; raise body_bytes_max")
                    if not self._room.take(target.url, len(part)):
                        raise ValueError("the bodies of other scrapes take the memory that there is for them")
                    size += len(part)
                    parts.append(part)
            finally:
                self._room.give(target.url, size)
            return b"".join(parts), format_of(answer.headers.get("content-type", ""))

    def _report(self, target: Target, at_ms: int, values: tuple[float, ...]) -> None:
        # A target cannot send again what was not kept; the database itself says that a disk fails or memory is short.
        with suppress(NotDurable, MemoryLimit):
            refs, _ = self._native.register([{"__name__": name, **target.labels} for name in _REPORTED], strict=False)
            times = np.full(len(refs), at_ms, dtype=np.int64)
            self._native.append_columns(refs, times, np.array(values))


def _secret(path: str) -> bytes:
    """The line in the file. Raises ValueError."""
    try:
        with Path(path).open("rb") as file:
            secret = file.read(SECRET_BYTES_MAX).strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not secret or not secret.isascii() or b"\n" in secret or b"\r" in secret:
        raise ValueError(f"{path} must hold one line of ASCII")
    return secret
