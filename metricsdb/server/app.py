"""The ASGI app over an open database: to serve, to mount in another app, or to call in process from tests."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from metricsdb._native import __version__
from metricsdb.config import Config
from metricsdb.database import Database
from metricsdb.server.admin import Admin
from metricsdb.server.auth import Auth
from metricsdb.server.gate import Door, Gate
from metricsdb.server.intake import Intake
from metricsdb.server.params import FORM_BYTES_MAX
from metricsdb.server.read import Read
from metricsdb.server.reply import refusal
from metricsdb.server.rules import Rules
from metricsdb.server.runner import Runner
from metricsdb.server.silences import Silencing
from metricsdb.server.state import Counts
from metricsdb.server.status import Status
from metricsdb.server.write import RemoteWrite, TextImport
from metricsdb.web import Right

__all__ = ["create_app"]

STATUS_THREADS = 2
# Forms of all requests together: a usual one has some hundred bytes.
FORMS_BYTES_MAX = 64 << 20
Endpoint = Callable[[Request], Awaitable[Response]]
# Path, methods, the right that it takes (None: nobody is asked), handler.
Row = tuple[str, list[str], Right | None, Endpoint | ASGIApp]


def create_app(
    db: Database,
    *,
    config: Config | None = None,
    counts: Counts | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Starlette:
    """Prometheus' HTTP API, remote write and the server's own state over `db`.

    `config` gives limits and credentials; what listens and what is scraped is not the app's business (see
    `metricsdb.server.run`). `counts` is shared with scraper and listeners, so that /metrics shows them too.
    `flags` is shown under /api/v1/status/flags; `environ` (by default the process') has the secrets that credentials
    name. Raises ConfigError where one cannot be read. The database stays open when the app ends.
    """
    config = config or Config()
    counts = counts or Counts(db.now_ms() / 1000)
    auth = Auth(config.web, os.environ if environ is None else environ)
    threads = config.limits.query_concurrency
    executor = ThreadPoolExecutor(threads, thread_name_prefix="metricsdb-call")
    # Status pages walk all series: a flood of them must not take the threads of writes.
    beside = ThreadPoolExecutor(STATUS_THREADS, thread_name_prefix="metricsdb-status")
    runner = Runner(db, counts)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        runner.close()
        auth.close()
        for pool in (executor, beside):
            pool.shutdown(wait=False, cancel_futures=True)

    intake = Intake(config.web.write_bytes_max, config.limits.body_bytes_max, max(1, threads // 2))
    forms = Intake(FORMS_BYTES_MAX, FORM_BYTES_MAX, threads)
    status = Status(db, counts, config, dict(flags or {}), beside, __version__)
    rules = Rules(db.alerts)
    endpoints = [
        # First, because routes are tried in order and these are hot.
        *_writes(db, counts, intake, executor),
        *_reads(Read(db, runner, forms, counts)),
        *_status(status),
        *_admin(Admin(db, runner, forms, counts)),
        ("/api/v1/rules", ["GET"], "read", rules.rules),
        ("/api/v1/alerts", ["GET"], "read", rules.alerts),
        *_silences(Silencing(db.alerts, db.now_ms, beside)),
    ]
    routes = [
        Route(path, _behind(endpoint, right, auth, counts), methods=methods)
        for path, methods, right, endpoint in endpoints
    ]
    names: dict[object, str] = {route.endpoint: route.path for route in routes}
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Gate, counts, names, config.web, db._hindrance)],
        exception_handlers={HTTPException: _no_endpoint},
        lifespan=lifespan,
    )
    app.state.auth = auth
    return app


async def _no_endpoint(request: Request, error: Exception) -> Response:
    """No such path, or no such method of it."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return refusal("not_found", "no such endpoint; docs/http-api.md lists them", 404)
    answer = refusal("bad_data", f"{request.method} is no method of this endpoint", error.status_code)
    answer.headers.update(error.headers or {})
    return answer


class _AnyText(Convertor[str]):
    """A label's name: Starlette's own of paths ends at a newline."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("text", _AnyText())


def _behind(endpoint: Endpoint | ASGIApp, right: Right | None, auth: Auth, counts: Counts) -> ASGIApp:
    if inspect.ismethod(endpoint) or inspect.isfunction(endpoint):
        app = request_response(endpoint)
    else:
        app = cast(ASGIApp, endpoint)
    return _Open(app) if right is None else Door(app, right, auth, counts)


class _Open:
    """An endpoint that asks for nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _writes(db: Database, counts: Counts, intake: Intake, executor: Executor) -> list[Row]:
    text_import = TextImport(db._store, db.now_ms, counts, intake, executor)
    return [
        ("/api/v1/write", ["POST"], "write", RemoteWrite(db._store, counts, intake, executor)),
        ("/api/v1/import/prometheus", ["POST", "PUT"], "write", text_import.take),
    ]


def _reads(read: Read) -> list[Row]:
    both, get = ["GET", "POST"], ["GET"]
    active = "/api/v1/status/active_queries"
    return [
        ("/api/v1/query", both, "read", read.endpoint(Read.query, "query")),
        ("/api/v1/query_range", both, "read", read.endpoint(Read.query_range, "query")),
        ("/api/v1/series", both, "read", read.endpoint(Read.series, "match[]")),
        ("/api/v1/labels", both, "read", read.endpoint(Read.labels, "match[]")),
        ("/api/v1/label/{name:text}/values", get, "read", read.endpoint(Read.label_values, "match[]")),
        ("/api/v1/metadata", get, "read", read.endpoint(Read.metadata, None)),
        ("/api/v1/format_query", both, "read", read.endpoint(Read.format_query, "query")),
        ("/api/v1/parse_query", both, "read", read.endpoint(Read.parse_query, "query")),
        (active, get, "read", read.active_queries),
        (active + "/{id:text}", ["DELETE", "POST"], "admin", read.kill),
        ("/federate", get, "read", read.federate),
    ]


def _admin(admin: Admin) -> list[Row]:
    pages, either = "/api/v1/admin/tsdb", ["POST", "PUT"]
    return [
        (f"{pages}/delete_series", either, "admin", admin.endpoint(Admin.delete_series)),
        (f"{pages}/clean_tombstones", either, "admin", admin.endpoint(Admin.clean_tombstones)),
        (f"{pages}/snapshot", either, "admin", admin.endpoint(Admin.snapshot)),
    ]


def _silences(silencing: Silencing) -> list[Row]:
    """Who silences decides who is told of nothing: not what a writer of samples may do."""
    return [
        ("/api/v2/alerts", ["GET"], "read", silencing.alerts),
        ("/api/v2/silences", ["GET"], "read", silencing.silences),
        ("/api/v2/silences", ["POST"], "admin", silencing.put),
        ("/api/v2/silence/{id:text}", ["GET"], "read", silencing.get),
        ("/api/v2/silence/{id:text}", ["DELETE"], "admin", silencing.end),
    ]


def _status(status: Status) -> list[Row]:
    pages = "/api/v1/status"
    return [
        (f"{pages}/buildinfo", ["GET"], "read", status.buildinfo),
        (f"{pages}/config", ["GET"], "admin", status.config),
        (f"{pages}/flags", ["GET"], "admin", status.flags),
        (f"{pages}/runtimeinfo", ["GET"], "read", status.runtimeinfo),
        (f"{pages}/tsdb", ["GET"], "read", status.tsdb),
        ("/api/v1/openapi.json", ["GET"], "read", status.openapi),
        ("/metrics", ["GET"], "read", status.metrics),
        ("/-/ready", ["GET"], None, status.ready),
        ("/-/healthy", ["GET"], None, status.healthy),
    ]
