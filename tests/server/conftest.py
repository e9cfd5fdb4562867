"""A database with a clock that stands still, and its app called in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

import metricsdb as mdb
from metricsdb.server import create_app
from metricsdb.testing import FakeClock, load

T0 = 1_700_000_000


@pytest.fixture
def db() -> mdb.Database:
    database = mdb.Database(clock=FakeClock(T0 * 1000))
    load(
        database,
        "15s",
        """
        http_requests_total{service="api", code="200"} 0+15x40
        http_requests_total{service="api", code="500"} 0+1x40
        http_requests_total{service="web", code="200"} 0+30x40
        temperature{room="a"} 20 21 22 NaN 23x36
        """,
        start_ms=(T0 - 600) * 1000,
    )
    return database


@pytest.fixture
def call(db: mdb.Database) -> Callable[..., httpx.Response]:
    """call(method, path, **httpx arguments) -> response, each in a loop of its own."""
    app = create_app(db)

    def request(method: str, path: str, **arguments: object) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(once())

    return request
