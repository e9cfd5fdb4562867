"""Prometheus' admin API over the store: deletions and snapshots."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from metricsdb.database import Database
from metricsdb.errors import MetricsDBError
from metricsdb.server.intake import Intake, NoRoom, no_room
from metricsdb.server.params import MAX_TIME_MS, MIN_TIME_MS, BadParameter, Form, read_form
from metricsdb.server.reply import failure, refusal, success
from metricsdb.server.runner import Runner
from metricsdb.server.state import Counts

__all__ = ["Admin"]

Answer = Callable[["Admin", Form], Awaitable[Response]]
# As Go reads them; the empty text is a parameter that is not there.
_BOOLEANS = {"", "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"}


class Admin:
    """The handlers; each works in a thread of people's queries."""

    def __init__(self, db: Database, runner: Runner, forms: Intake, counts: Counts) -> None:
        self._db, self._runner, self._forms, self._counts = db, runner, forms, counts

    def endpoint(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def handler(request: Request) -> Response:
            try:
                with self._forms.hold(request.scope) as held:
                    return await answer(self, await read_form(request, held))
            except NoRoom as error:
                return no_room(error, self._forms, self._counts)
            except BadParameter as error:
                return refusal("bad_data", str(error), 400)
            except MetricsDBError as error:
                return failure(error, "match[]")

        return handler

    async def delete_series(self, form: Form) -> Response:
        """Deletes what ``match[]`` selects between ``start`` and ``end``; ``undo``: how long it can be taken back."""
        matchers = form.all("match[]")
        if not matchers:
            raise BadParameter("no match[] parameter provided")
        start, end = form.time_or("start", MIN_TIME_MS), form.time_or("end", MAX_TIME_MS)
        if end < start:
            raise BadParameter("end timestamp must not be before start time", "end")
        undo = form.duration_or("undo", 0) / 1000
        # The ends of what clients can say stand for the ends of time.
        span = (None if start == MIN_TIME_MS else start / 1000, None if end == MAX_TIME_MS else end / 1000)
        done = await self._runner.call(lambda: self._db.delete(matchers, *span, undo or None))
        return Response(status_code=204) if done.id is None else success({"id": done.id, "samples": done.samples})

    async def clean_tombstones(self, _form: Form) -> Response:
        """Deletions leave nothing behind in memory; those in a cold store are carried out by its own upkeep."""
        return Response(status_code=204)

    async def snapshot(self, form: Form) -> Response:
        """Writes everything into a folder of the data directory. ``skip_head`` means nothing here: all is one store."""
        if form.text("skip_head") not in _BOOLEANS:
            raise BadParameter('unable to parse boolean "skip_head" argument', "skip_head")
        home = self._db._home
        if home is None:
            return refusal("execution", "a database in memory alone has no folder for snapshots; give it a path", 422)
        now = datetime.fromtimestamp(self._db.now_ms() / 1000, UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"
        folder = Path(home.path) / "snapshots" / name
        await self._runner.call(lambda: self._write(folder))
        return success({"name": name})

    def _write(self, folder: Path) -> None:
        folder.parent.mkdir(exist_ok=True)
        self._db.snapshot(folder)
