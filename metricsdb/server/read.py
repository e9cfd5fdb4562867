"""Questions over HTTP: Prometheus' query API. Native code writes the JSON; Python sees bytes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from metricsdb._native import Body, StopSwitch
from metricsdb.database import Database
from metricsdb.errors import ExecutionError, MetricsDBError
from metricsdb.lifecycle.rollups import at_level
from metricsdb.server.intake import Intake, NoRoom, no_room
from metricsdb.server.params import MAX_TIME_MS, MIN_TIME_MS, STEPS_MAX, BadParameter, Form, read_form, url_form
from metricsdb.server.reply import failure, json_bytes, refusal, success
from metricsdb.server.runner import Runner, Streamed
from metricsdb.server.state import Counts, Exposition

__all__ = ["Read"]

T = TypeVar("T")

PRIORITY_HEADER = "x-metricsdb-priority"
QUERY_FIELDS = ("id", "class", "query", "source", "state", "seconds", "samples", "bytes", "bytesPeak")
Answer = Callable[["Read", Request, Form], Awaitable[Response]]


class Read:
    """The handlers; each runs its native call in a worker thread, so that a slow query holds up nobody."""

    def __init__(self, db: Database, runner: Runner, forms: Intake, counts: Counts) -> None:
        self._forms = forms
        self._counts = counts
        self._native = db._store
        self._tiers = db._tiers
        self._now_ms = db.now_ms
        self._lookback_ms = db._lookback_ms
        self._timeout_ms = db._timeout_ms
        self._runner = runner

    def endpoint(self, answer: Answer, parameter: str | None) -> Callable[[Request], Awaitable[Response]]:
        """A Starlette handler; a text that cannot be parsed is blamed on `parameter`."""

        async def handler(request: Request) -> Response:
            try:
                with self._forms.hold(request.scope) as held:
                    return await answer(self, request, await read_form(request, held))
            except NoRoom as error:
                return no_room(error, self._forms, self._counts)
            except BadParameter as error:
                return refusal("bad_data", str(error), 400)
            except MetricsDBError as error:
                return failure(error, parameter)

        return handler

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._runner.call(work)

    async def query(self, request: Request, form: Form) -> Response:
        limit = form.limit()
        at = form.time_or("time", self._now_ms())
        return await self._evaluate(request, form, (at, at, 0), limit)

    async def query_range(self, request: Request, form: Form) -> Response:
        limit = form.limit()
        start, end = form.time("start"), form.time("end")
        if end < start:
            raise BadParameter("end timestamp must not be before start time", "end")
        step = form.duration("step")
        if step <= 0:
            raise BadParameter(
                "zero or negative query resolution step widths are not accepted. Try a positive integer", "step"
            )
        if (end - start) // step > STEPS_MAX:
            raise BadParameter(
                "exceeded maximum resolution of 11,000 points per timeseries. "
                "Try decreasing the query resolution (?step=XX)"
            )
        return await self._evaluate(request, form, (start, end, step), limit, form.limit("points"))

    async def _evaluate(
        self, request: Request, form: Form, times: tuple[int, int, int], limit: int, points: int = 0
    ) -> Response:
        timeout = form.duration_or("timeout", self._timeout_ms)
        lookback = form.duration_or("lookback_delta", self._lookback_ms)
        if lookback <= 0:
            raise BadParameter("must be longer than zero", "lookback_delta")
        priority = form.text("priority") or request.headers.get(PRIORITY_HEADER, "query")
        source = f"http {request.client.host}:{request.client.port}" if request.client else "http"
        expr, partly, level = form.text("query"), form.flag("partial_response"), form.text("level")

        def work(stop: StopSwitch) -> tuple[bytes, Body | None]:
            native = self._tiers.query(expr, *times, lookback, partial=partly)
            return at_level(native, level or None).api_query(
                expr, *times, lookback, max(timeout, 1), limit, form.text("stats"), priority, source, stop,
                cache=not form.flag("nocache"), points=points, method=form.text("method") or "m4",
            )  # fmt: skip

        first, rest = await self._runner.query(request, priority, work)
        return json_bytes(first) if rest is None else Streamed(first, rest, self._runner.executor(priority))

    async def active_queries(self, _request: Request) -> Response:
        """What runs and waits: `Database.queries` as JSON."""
        rows = self._native.queries()
        return success([dict(zip(QUERY_FIELDS, row, strict=True)) for row in rows])

    async def kill(self, request: Request) -> Response:
        """Ends one of them."""
        text = request.path_params["id"]
        # Ids count up from 1: one of twenty digits there never is.
        if not re.fullmatch("[0-9]{1,19}", text) or not self._native.kill(int(text)):
            return refusal("not_found", f"no query has the id {text[:20]}; it may have ended", 404)
        return success({"killed": int(text)})

    async def series(self, _request: Request, form: Form) -> Response:
        matchers = form.all("match[]")
        if not matchers:
            raise BadParameter("no match[] parameter provided")
        limit, (start, end) = form.limit(), _range(form)

        def work() -> bytes:
            return self._tiers.names(matchers, start, end).api_series(matchers, start, end, limit)

        return json_bytes(await self._run(work))

    async def labels(self, _request: Request, form: Form) -> Response:
        limit, (start, end) = form.limit(), _range(form)
        matchers = form.all("match[]")
        names = await self._run(lambda: self._tiers.names(matchers, start, end).label_names(matchers, start, end))
        return _limited(names, limit)

    async def label_values(self, request: Request, form: Form) -> Response:
        name: str = request.path_params["name"]
        if not name:
            raise BadParameter(f'invalid label name: "{name}"')
        limit, (start, end) = form.limit(), _range(form)
        matchers = form.all("match[]")
        values = await self._run(
            lambda: self._tiers.names(matchers, start, end).label_values(name, matchers, start, end)
        )
        return _limited(values, limit)

    async def metadata(self, _request: Request, form: Form) -> Response:
        limit, each = form.limit(), form.limit("limit_per_metric")
        rows = await self._run(partial(self._native.metadata, form.text("metric") or None))
        found: dict[str, list[dict[str, str]]] = {}
        for metric, kind, text, unit in rows:
            if limit and metric not in found and len(found) >= limit:
                break
            entries = found.setdefault(metric, [])
            if not each or len(entries) < each:
                entries.append({"type": kind, "help": text, "unit": unit})
        return success(found)

    async def format_query(self, _request: Request, form: Form) -> Response:
        return success(self._native.format_query(form.text("query")))

    async def parse_query(self, _request: Request, form: Form) -> Response:
        return success(msgspec.Raw(self._native.parse_query(form.text("query")).encode()))

    async def federate(self, request: Request) -> Response:
        """``/federate``: the newest sample of each selected series as text; refusals are plain text too."""
        try:
            form = url_form(request)
            matchers, at, lookback = form.all("match[]"), self._now_ms(), self._lookback_ms

            def work() -> bytes:
                return self._tiers.select(matchers, at - lookback + 1, at).federate(matchers, at, lookback)

            return Response(await self._run(work), media_type=Exposition.CONTENT_TYPE)
        except ExecutionError as error:
            return Response(f"{error}\n", 500, media_type="text/plain; charset=utf-8")
        except (BadParameter, MetricsDBError) as error:
            return Response(f"{error}\n", 400, media_type="text/plain; charset=utf-8")


def _range(form: Form) -> tuple[int, int]:
    return form.time_or("start", MIN_TIME_MS), form.time_or("end", MAX_TIME_MS)


def _limited(names: list[str], limit: int) -> Response:
    if limit and len(names) > limit:
        return success(names[:limit], ["results truncated due to limit"])
    return success(names)
