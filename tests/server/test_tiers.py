"""The query API over cold storage: answers as of one memory, and what is said where the store is away."""

from __future__ import annotations

import asyncio

import httpx
import pytest

import metricsdb as mdb
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.server import create_app
from metricsdb.testing import FakeClock
from tests.server.conftest import T0
from tests.tiers import move, mover_of

pytest.importorskip("obstore")

RANGE = {"start": T0 - 600, "end": T0, "step": 60}
MATCH = {"match[]": "http_requests_total"}
ASKED = [
    ("/api/v1/query", {"query": "sum(rate(http_requests_total[10m]))", "time": T0}),
    ("/api/v1/query_range", {"query": "http_requests_total", **RANGE}),
    ("/api/v1/series", MATCH),
    ("/api/v1/labels", MATCH),
    ("/api/v1/label/service/values", {}),
    ("/federate", MATCH),
]


@pytest.mark.parametrize(("path", "params"), ASKED, ids=[path for path, _ in ASKED])
def test_the_answers_are_those_of_one_memory(db, call, path, params):
    wanted = call("GET", path, params=params).text
    assert "api" in wanted or "service" in wanted or "value" in wanted
    assert move(db, mover_of(db), (T0 - 900) * 1000, T0 * 1000) > 0
    assert db._native.stats()["samples"] == 0
    assert call("GET", path, params=params).text == wanted


def test_a_store_that_is_away_is_503_or_a_partial_answer(db, call, monkeypatch):
    move(db, mover_of(db), (T0 - 900) * 1000, (T0 - 300) * 1000)

    def away(*_args: object) -> None:
        raise mdb.ColdStoreError("test", "cannot be reached", "wait")

    monkeypatch.setattr(Catalog, "samples", away)
    params = {"query": "temperature", **RANGE}
    refused = call("GET", "/api/v1/query_range", params=params)
    assert (refused.status_code, refused.json()["errorType"]) == (503, "unavailable")
    answer = call("GET", "/api/v1/query_range", params={**params, "partial_response": "1"}).json()
    assert answer["data"]["result"][0]["values"][0][0] > T0 - 300
    assert "the answer is partial" in answer["warnings"][0]
    assert call("GET", "/api/v1/query", params={"query": "temperature", "time": T0}).status_code == 200


def test_what_moved_to_which_tier_is_counted_in_metrics(tmp_path):
    clock = FakeClock(T0 * 1000)
    lines = {'{i="a"}': "memory 1d -> disk 9d", "": "memory 1d -> cold 9d"}
    db = mdb.Database(clock=clock, disk=tmp_path, cold="memory://", retention=lines)
    for name in "abc":
        db.append({"__name__": "m", "i": name}, T0 - 2 * 86_400, 1.0)
    db.tick()

    async def metrics() -> str:
        transport = httpx.ASGITransport(app=create_app(db))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/metrics")).text

    text = asyncio.run(metrics())
    assert "\nmetricsdb_disk_moved_samples_total 1\n" in text
    assert "\nmetricsdb_cold_moved_samples_total 2\n" in text
    assert "\nmetricsdb_disk_failures_total 0\n" in text
