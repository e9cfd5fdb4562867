"""Answers in Prometheus' envelope: one place for statuses and error types."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from metricsdb.errors import (
    ColdStoreError,
    ConfigError,
    CorruptionError,
    ExecutionError,
    MemoryLimit,
    MetricsDBError,
    NotDurable,
    ParseError,
    QueryCancelled,
    QueryLimit,
    QueryRejected,
    QueryTimeout,
    TemplateError,
    WriteError,
)

__all__ = ["failure", "json_bytes", "refusal", "retry_after", "success"]

# Exception -> (errorType, status), most special first. 499 is what Prometheus sends for a cancelled query.
_KINDS: tuple[tuple[type[MetricsDBError], str, int], ...] = (
    (ParseError, "bad_data", 400),
    (ConfigError, "bad_data", 400),
    (TemplateError, "bad_data", 400),
    (NotDurable, "unavailable", 503),
    (MemoryLimit, "unavailable", 503),
    (WriteError, "bad_data", 400),
    (QueryTimeout, "timeout", 503),
    (QueryRejected, "unavailable", 503),
    (QueryCancelled, "canceled", 499),
    (QueryLimit, "execution", 422),
    (ColdStoreError, "unavailable", 503),
    (ExecutionError, "execution", 422),
    (CorruptionError, "internal", 500),
    (MetricsDBError, "internal", 500),
)


# When a disk may have room again.
_DISK_RETRY_S = 5


def json_bytes(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def success(data: Any, warnings: list[str] | None = None) -> Response:
    body: dict[str, Any] = {"status": "success", "data": data}
    if warnings:
        body["warnings"] = warnings
    return json_bytes(msgspec.json.encode(body))


def refusal(kind: str, message: str, status: int) -> Response:
    body = {"status": "error", "errorType": kind, "error": message}
    return json_bytes(msgspec.json.encode(body), status)


def failure(error: MetricsDBError, parameter: str | None = None) -> Response:
    """The answer to a call that failed; a text that cannot be parsed is blamed on `parameter`."""
    name, status = next((name, status) for kind, name, status in _KINDS if isinstance(error, kind))
    message = str(error)
    if parameter is not None and isinstance(error, ParseError):
        message = f'invalid parameter "{parameter}": {message}'
    answer = refusal(name, message, status)
    answer.headers.update(retry_after(error))
    return answer


def retry_after(error: MetricsDBError) -> dict[str, str]:
    """The header that says when to come again, if that helps."""
    if isinstance(error, (QueryRejected, MemoryLimit)):
        return {"Retry-After": f"{error.retry_after:.0f}"}
    return {"Retry-After": str(_DISK_RETRY_S)} if isinstance(error, NotDurable) else {}
