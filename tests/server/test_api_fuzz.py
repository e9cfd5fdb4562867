"""The API is asked what its description allows, and much else: answers are as described, and never 500."""

from __future__ import annotations

import os

import cramjam
import pytest
from hypothesis import HealthCheck, settings

import metricsdb as mdb
from metricsdb.config import Config, Limits
from metricsdb.server import create_app
from metricsdb.testing import FakeClock
from tests.server.conftest import T0

schemathesis = pytest.importorskip("schemathesis", reason="a fuzzer of OpenAPI (pip install schemathesis)")


def fuzzed_app():
    db = mdb.Database(clock=FakeClock(T0 * 1000), query_timeout="2s", max_samples=1_000_000)
    db.append({"__name__": "up", "job": "a"}, [T0 - 15, T0], [1.0, 0.0])
    app = create_app(db, config=Config(limits=Limits(body_bytes_max=1 << 20)))

    async def that_goes_on(scope, receive, send):
        """The fuzzer starts and stops the app around each request; ours ends only once."""
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    return that_goes_on


# Operations x examples: 15 s of CPU. `METRICSDB_FUZZ=2000` runs for an hour.
EXAMPLES = int(os.environ.get("METRICSDB_FUZZ", "20"))
SCHEMA = schemathesis.openapi.from_asgi("/api/v1/openapi.json", fuzzed_app())
# Beside them: that nothing which the description forbids is taken. Prometheus takes much of that, and so do we.
CHECKS = [
    schemathesis.checks.CHECKS.get_one(name)
    for name in ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
]


@schemathesis.serializer("application/x-protobuf")
def packed(_context, value) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    # Random bytes are hardly ever snappy: then they would be all that is tried.
    return raw if len(raw) % 4 == 0 else bytes(cramjam.snappy.compress_raw(raw))


@schemathesis.serializer("application/openmetrics-text", "application/vnd.google.protobuf")
def plain(_context, value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


# Random text hardly ever parses: half of the queries are these, with whatever else was made up.
EXPRESSIONS = (
    "up", "up[5m]", "sum by (job) (rate(up[5m]))", "1", '"text"', "up + on (job) group_left up", "topk(2, up)",
    "max_over_time(up[1h:1s])", 'label_replace(up, "a", "$1", "job", "(.*)")', "{__name__=~'.+'}", "absent(nothing)",
    "up offset -1w", "up @ 1e9", "histogram_quantile(0.9, up)", "count_values('v', up)", "vector(1) / 0",
)  # fmt: skip


def meaningful(given):
    text = given.get("query") if isinstance(given, dict) else None
    if not isinstance(text, str) or len(text) % 2:
        return given
    return {**given, "query": EXPRESSIONS[len(text) // 2 % len(EXPRESSIONS)]}


@schemathesis.hook
def map_query(_context, query):
    return meaningful(query)


@schemathesis.hook
def map_body(_context, body):
    return meaningful(body)


def no_fault_of_ours(_context, response, _case) -> None:
    """A 503 is a refusal with a type; any other 5xx is a fault."""
    if response.status_code == 503:
        assert response.json()["errorType"] in ("timeout", "unavailable")
    else:
        assert response.status_code < 500, response.text


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES == 20)
def test_answers_are_as_described(case):
    case.validate_response(case.call(), checks=[no_fault_of_ours, *CHECKS])
