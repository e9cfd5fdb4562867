"""What the server says about itself: health, status pages, own metrics."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from metricsdb.config import Config, dump
from metricsdb.database import Database
from metricsdb.server.openapi import description
from metricsdb.server.params import BadParameter, url_form
from metricsdb.server.reply import json_bytes, refusal, success
from metricsdb.server.state import TIERS, Counts, Exposition, expose_alerts, expose_limits, expose_memory

__all__ = ["Status"]

T = TypeVar("T")

# The release of Prometheus whose HTTP API this is: Grafana and others switch features on by this number.
API_VERSION = "3.5.0"


class Status:
    """Handlers that never touch a sample."""

    def __init__(
        self,
        db: Database,
        counts: Counts,
        config: Config,
        flags: dict[str, str],
        executor: Executor,
        version: str,
    ) -> None:
        self._native, self._hindrance = db._store, db._hindrance
        self._relief = db._upkeep.relief
        self._alerts = db.alerts
        self._tiers = [tier.counts for tier in (db._disk, db._cold) if tier is not None]
        self._counts = counts
        self._config = config
        self._flags = flags
        self._executor = executor
        self._version = version
        self._description = msgspec.json.encode(description(version))

    async def ready(self, _request: Request) -> Response:
        why = self._hindrance()
        if why is not None:
            return PlainTextResponse(f"MetricsDB is not ready: {why}\n", 503, headers={"Retry-After": "1"})
        return PlainTextResponse("MetricsDB is Ready.\n")

    async def healthy(self, _request: Request) -> Response:
        return PlainTextResponse("MetricsDB is Healthy.\n")

    async def buildinfo(self, _request: Request) -> Response:
        return success(
            {
                "version": API_VERSION,
                "revision": self._version,
                "branch": "",
                "buildUser": "",
                "buildDate": "",
                "goVersion": f"Python {sys.version.split()[0]}",
                "application": "MetricsDB",
            }
        )

    async def config(self, _request: Request) -> Response:
        return success({"yaml": dump(self._config)})

    async def flags(self, _request: Request) -> Response:
        return success(self._flags)

    async def openapi(self, _request: Request) -> Response:
        return json_bytes(self._description)

    async def runtimeinfo(self, _request: Request) -> Response:
        started = datetime.fromtimestamp(self._counts.started, UTC)
        stats = await self._run(self._native.stats)
        return success(
            {
                "startTime": started.isoformat().replace("+00:00", "Z"),
                "CWD": os.getcwd(),
                "reloadConfigSuccess": True,
                "lastConfigTime": started.isoformat().replace("+00:00", "Z"),
                "timeSeriesCount": stats.get("series", 0),
                "corruptionCount": 0,
                "storageRetention": str(self._config.retention or ""),
            }
        )

    async def tsdb(self, request: Request) -> Response:
        try:
            limit = url_form(request).limit() or 10
        except BadParameter as error:
            return refusal("bad_data", str(error), 400)
        stats = await self._run(self._native.stats)
        found = await self._run(partial(self._native.cardinality, limit))
        data = {name: [{"name": n, "value": v} for n, v in rows] for name, rows in found.items()}
        return success({"headStats": _head_stats(stats), **data})

    async def metrics(self, _request: Request) -> Response:
        stats, memory = await self._run(self._native.stats), await self._run(self._native.memory)
        out = Exposition()
        out.family("metricsdb_build_info", "gauge", "What runs here.")
        out.sample({"version": self._version}, 1)
        await self._run(partial(expose_limits, self._native, out))
        expose_memory(out, stats, self._native.memory_steps(), self._relief.counts())
        for name, value in (row for counts in self._tiers for row in counts.items()):
            out.family(f"metricsdb_{name}_total", "counter", TIERS[name])
            out.sample({}, value)
        for name, value in stats.items():
            out.gauge(f"metricsdb_storage_{name}", f"{name.replace('_', ' ').capitalize()} in storage.", value)
        out.family("metricsdb_memory_bytes", "gauge", "Bytes the database holds, by part.")
        for part, size, _ in memory:
            out.sample({"part": part}, size)
        await self._run(partial(expose_alerts, self._alerts, out))
        self._counts.expose(out)
        out.process(self._counts.started)
        return Response(out.text(), media_type=Exposition.CONTENT_TYPE)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _head_stats(stats: dict[str, int]) -> dict[str, int]:
    """Prometheus' names for what `stats` counts."""
    return {
        "numSeries": stats["series"],
        "numLabelPairs": stats["label_pairs"],
        "chunkCount": stats["chunks"],
        "minTime": stats["first_ms"],
        "maxTime": stats["last_ms"],
    }
