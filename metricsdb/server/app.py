"""The ASGI app over an open database: to serve, to mount in another app, or to call in process from tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import perf_counter

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metricsdb._native import __version__
from metricsdb.config import Config
from metricsdb.database import Database
from metricsdb.server.read import Read
from metricsdb.server.runner import Runner
from metricsdb.server.state import Counts
from metricsdb.server.status import Status
from metricsdb.server.write import RemoteWrite, TextImport

__all__ = ["create_app"]


def create_app(
    db: Database,
    *,
    config: Config | None = None,
    counts: Counts | None = None,
    flags: Mapping[str, str] | None = None,
) -> Starlette:
    """Prometheus' HTTP API, remote write and the server's own state over `db`.

    `config` gives the limits; what listens and what is scraped is not the app's business (see
    `metricsdb.server.run`). `counts` is shared with scraper and listeners, so that /metrics shows them too.
    `flags` is shown under /api/v1/status/flags. The database stays open when the app ends.
    """
    config = config or Config()
    counts = counts or Counts(db.now_ms() / 1000)
    executor = ThreadPoolExecutor(config.limits.query_concurrency, thread_name_prefix="metricsdb-call")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        runner.close()
        executor.shutdown(wait=False, cancel_futures=True)

    body_bytes_max = config.limits.body_bytes_max
    runner = Runner(db, counts)
    read = Read(db, runner)
    status = Status(db._native, db._upkeep.relief, counts, config, dict(flags or {}), executor, __version__)
    text_import = TextImport(db._native, db.now_ms, counts, body_bytes_max, executor)
    both = ["GET", "POST"]
    routes = [
        # First, because routes are tried in order and this one is hot.
        Route("/api/v1/write", RemoteWrite(db._native, counts, body_bytes_max, executor), methods=["POST"]),
        Route("/api/v1/query", read.endpoint(Read.query, "query"), methods=both),
        Route("/api/v1/query_range", read.endpoint(Read.query_range, "query"), methods=both),
        Route("/api/v1/import/prometheus", text_import.take, methods=["POST", "PUT"]),
        Route("/api/v1/series", read.endpoint(Read.series, "match[]"), methods=both),
        Route("/api/v1/labels", read.endpoint(Read.labels, "match[]"), methods=both),
        Route("/api/v1/label/{name:path}/values", read.endpoint(Read.label_values, "match[]")),
        Route("/api/v1/metadata", read.endpoint(Read.metadata, None)),
        Route("/api/v1/format_query", read.endpoint(Read.format_query, "query"), methods=both),
        Route("/api/v1/parse_query", read.endpoint(Read.parse_query, "query"), methods=both),
        Route("/api/v1/status/active_queries", read.active_queries),
        Route("/api/v1/status/active_queries/{id:int}", read.kill, methods=["DELETE", "POST"]),
        Route("/api/v1/status/buildinfo", status.buildinfo),
        Route("/api/v1/status/config", status.config),
        Route("/api/v1/status/flags", status.flags),
        Route("/api/v1/status/runtimeinfo", status.runtimeinfo),
        Route("/api/v1/status/tsdb", status.tsdb),
        Route("/federate", read.federate),
        Route("/metrics", status.metrics),
        Route("/-/ready", status.ready),
        Route("/-/healthy", status.healthy),
    ]
    names: dict[object, str] = {route.endpoint: route.path for route in routes}
    return Starlette(routes=routes, middleware=[Middleware(_Counted, counts, names)], lifespan=lifespan)


class _Counted:
    """Counts requests and their duration under the route that answered."""

    def __init__(self, app: ASGIApp, counts: Counts, names: Mapping[object, str]) -> None:
        self._app = app
        self._counts = counts
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            handler = self._names.get(scope.get("endpoint"), "other")
            self._counts.request(handler, status, perf_counter() - started)
