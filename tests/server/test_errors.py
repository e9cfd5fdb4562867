"""Each exception has its place in Prometheus' scheme of error types and statuses."""

import json

import pytest

from metricsdb import errors
from metricsdb.server.reply import failure

CASES = [
    (errors.ParseError("1:2: parse error: no", 1, 2, None), "bad_data", 400),
    (errors.ConfigError("bad option"), "bad_data", 400),
    (errors.WriteError("bad body"), "bad_data", 400),
    (errors.CardinalityLimit("one too many"), "bad_data", 400),
    (errors.MemoryLimit("memory is short"), "unavailable", 503),
    (errors.NotDurable("the disk is full"), "unavailable", 503),
    (errors.StorageError("no such directory"), "internal", 500),
    (errors.DatabaseLocked("process 1 has it"), "internal", 500),
    (errors.FormatVersionError("version 9"), "internal", 500),
    (errors.ForkedError("forked"), "internal", 500),
    (errors.TemplateError("no such function", 1, 4), "bad_data", 400),
    (errors.DeliveryError("HTTP 500", True), "internal", 500),
    (errors.ExecutionError("many-to-many"), "execution", 422),
    (errors.QueryLimit("too many samples"), "execution", 422),
    (errors.QueryTimeout("too slow"), "timeout", 503),
    (errors.QueryCancelled("stopped"), "canceled", 499),
    (errors.QueryKilled("killed"), "canceled", 499),
    (errors.QueryRejected("too many"), "unavailable", 503),
    (errors.ReadOnlyError("a view"), "bad_data", 400),
    (errors.ColdStoreError("s3://bucket", "away", "look at it"), "unavailable", 503),
    (errors.CorruptionError("bits fell over"), "internal", 500),
    (errors.QueryError("no answer"), "internal", 500),
    (errors.MetricsDBError("whatever"), "internal", 500),
]


@pytest.mark.parametrize(("error", "kind", "status"), CASES, ids=lambda c: getattr(type(c), "__name__", ""))
def test_every_error_has_its_type_and_status(error, kind, status):
    answer = failure(error)
    assert answer.status_code == status
    assert json.loads(answer.body) == {"status": "error", "errorType": kind, "error": str(error)}


def test_no_error_class_is_forgotten():
    assert {type(error).__name__ for error, _, _ in CASES} == set(errors.__all__)


def test_a_parse_error_is_blamed_on_its_parameter():
    body = json.loads(failure(CASES[0][0], "query").body)
    assert body["error"] == 'invalid parameter "query": 1:2: parse error: no'
