"""The description of the HTTP API (OpenAPI 3.1) that the server gives at /api/v1/openapi.json.

`tests/server/test_openapi.py` holds it against routes and documentation, `test_api_fuzz.py` against answers.
"""

from __future__ import annotations

from typing import Any

from metricsdb.web import Right

__all__ = ["description"]

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_TIME: Json = {"type": "string", "description": "Unix seconds, with a fraction if need be, or RFC 3339"}
_SPAN: Json = {"type": "string", "description": "seconds, or 1h30m"}
_COUNT: Json = {"type": "integer", "minimum": 0, "description": "0: no limit"}
_FLAG: Json = {"type": "string", "description": "on with anything but 0, f, false, no"}
_LIST: Json = {"type": "array", "items": _TEXT}
_SHOWN: Json = {"type": "string", "enum": ["true", "false"], "description": "left out with false"}

_PARAMETERS: dict[str, Json] = {
    "query": {"type": "string", "description": "PromQL"},
    "time": _TIME,
    "start": _TIME,
    "end": _TIME,
    "step": _SPAN,
    "timeout": {**_SPAN, "description": "at most the server's"},
    "lookback_delta": _SPAN,
    "limit": _COUNT,
    "limit_per_metric": _COUNT,
    "stats": {"type": "string", "description": "anything: counts and timings; all: counts of each step, too"},
    "priority": {"type": "string", "enum": ["alert", "query", "batch"]},
    "nocache": _FLAG,
    "level": {**_SPAN, "description": "answer from rollups of this width wherever they are made"},
    "partial_response": {**_FLAG, "description": "answers with what there is where a cold store is away"},
    "points": {"type": "integer", "minimum": 0, "description": "so many of a series at most, 4 or more; 0: all"},
    "method": {"type": "string", "enum": ["m4", "minmax", "lttb", "minmax_lttb"]},
    "match[]": {**_LIST, "description": "selectors; what any of them selects"},
    "metric": _TEXT,
    "type": {"type": "string", "enum": ["alert", "record"]},
    "rule_name[]": _LIST,
    "rule_group[]": _LIST,
    "exclude_alerts": _FLAG,
    "undo": {**_SPAN, "description": "how long a deletion can be taken back"},
    "skip_head": {"type": "string", "enum": ["true", "false", "1", "0"], "description": "means nothing here"},
    "filter": {**_LIST, "description": 'matchers, name="value"'},
    "receiver": {"type": "string", "description": "a regex"},
    "active": _SHOWN,
    "silenced": _SHOWN,
    "inhibited": _SHOWN,
    "timestamp": {"type": "string", "pattern": "^-?[0-9]{1,18}$", "description": "Unix milliseconds"},
    "extra_label": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+=.+$"}},
}

_LABELS: Json = {"type": "object", "additionalProperties": _TEXT}
# Time, and value as text; time, and count, sum and buckets of a native histogram.
_POINT: Json = {"type": "array", "items": {"type": ["number", "string"]}, "minItems": 2, "maxItems": 2}
_HISTOGRAM: Json = {"type": "array", "items": {"type": ["number", "object"]}, "minItems": 2, "maxItems": 2}
_SERIES: Json = {
    "type": "object",
    "required": ["metric"],
    "properties": {
        "metric": _LABELS,
        "value": _POINT,
        "histogram": _HISTOGRAM,
        "values": {"type": "array", "items": _POINT},
        "histograms": {"type": "array", "items": _HISTOGRAM},
    },
}
_RESULT: Json = {
    "type": "object",
    "required": ["resultType", "result"],
    "properties": {
        "resultType": {"enum": ["vector", "matrix", "scalar", "string"]},
        "result": {"anyOf": [{"type": "array", "items": _SERIES}, _POINT]},
        "stats": {"type": "object"},
    },
}
_ACTIVE: Json = {
    "type": "object",
    "required": ["id", "class", "query", "source", "state", "seconds", "samples", "bytes", "bytesPeak"],
}
_ERROR: Json = {
    "type": "object",
    "required": ["status", "errorType", "error"],
    "properties": {
        "status": {"const": "error"},
        "errorType": {
            "enum": [
                "bad_data", "execution", "canceled", "timeout", "unavailable", "not_found", "unauthorized", "forbidden",
                "internal",
            ]
        },
        "error": _TEXT,
    },
}  # fmt: skip
_SILENCE: Json = {
    "type": "object",
    "required": ["matchers", "startsAt", "endsAt", "createdBy", "comment"],
    "properties": {
        "id": {**_TEXT, "description": "of the silence that this one takes the place of"},
        "matchers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value", "isRegex"],
                "properties": {
                    "name": _TEXT, "value": _TEXT, "isRegex": {"type": "boolean"}, "isEqual": {"type": "boolean"},
                },
                "additionalProperties": False,
            },
        },
        "startsAt": _TIME,
        "endsAt": _TIME,
        "createdBy": _TEXT,
        "comment": _TEXT,
    },
}  # fmt: skip
# What any request may be answered with, by the limits of connections and requests.
_ANYWHERE = {
    "401": "no valid credentials",
    "403": "the credentials lack the scope, or a page of another site sent a write",
    "404": "no such endpoint",
    "405": "no such method of the endpoint",
    "408": "head or body did not come in time",
    "414": "the URL is too long",
    "429": "too many passwords are being checked",
    "431": "too many or too long headers",
    "503": "too much is in work; Retry-After says when to come again",
}
_READ = {"400": "a parameter is missing or cannot be read", "422": "this data does not allow an answer"}
_WRITE = {
    "400": "the body cannot be read, or some of it was refused",
    "413": "the body is too large",
    "415": "another encoding or message",
}
_RESPONSE: Json = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_PLAIN: Json = {"content": {"text/plain": {"schema": _TEXT}}}


def description(version: str) -> Json:
    """The document, as JSON takes it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MetricsDB",
            "version": version,
            "summary": "The HTTP API of Prometheus, remote write, and the server's own state",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_queries(), **_catalogue(), **_writing(), **_state(), **_admin(), **_texts()},
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _queries() -> Json:
    common = ("timeout", "lookback_delta", "limit", "stats", "priority", "nocache", "partial_response", "level")
    canceled = {"499": "the query was stopped or killed"}
    return {
        "/api/v1/query": _form("Evaluates PromQL at one time", ("query",), ("time", *common), _RESULT, canceled),
        "/api/v1/query_range": _form(
            "Evaluates PromQL over a range, at most 11,000 steps",
            ("query", "start", "end", "step"),
            (*common, "points", "method"),
            _RESULT,
            canceled,
        ),
        "/api/v1/format_query": _form("Lays a query out", ("query",), (), _TEXT),
        "/api/v1/parse_query": _form("The tree of a query", ("query",), (), {"type": "object"}),
    }


def _catalogue() -> Json:
    span = ("start", "end", "limit")
    metadata = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object"}}}
    values = _operation("Values of a label", "read", _json(_LIST), ("match[]", *span), errors=_READ)
    values["parameters"].append({"name": "name", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}})
    return {
        "/api/v1/series": _form(
            "Series that selectors select", ("match[]",), span, {"type": "array", "items": _LABELS}
        ),
        "/api/v1/labels": _form("Names of labels", (), ("match[]", *span), _LIST),
        "/api/v1/label/{name}/values": {"get": values},
        "/api/v1/metadata": {
            "get": _operation(
                "Type, help and unit of metrics",
                "read",
                _json(metadata),
                ("metric", "limit", "limit_per_metric"),
                errors=_READ,
            )
        },
    }


def _writing() -> Json:
    done = {"204": {"description": "all was taken"}}
    binary = {"type": "string", "format": "binary"}
    write = _operation("Remote write 1.0 and 2.0, snappy", "write", done, errors=_WRITE)
    write["requestBody"] = {"required": True, "content": {"application/x-protobuf": {"schema": binary}}}
    text = _operation("Metrics as text or protobuf", "write", done, ("timestamp", "extra_label"), errors=_WRITE)
    text["requestBody"] = {
        "required": True,
        "content": {
            "text/plain": {"schema": _TEXT},
            "application/openmetrics-text": {"schema": _TEXT},
            "application/vnd.google.protobuf": {"schema": binary},
        },
    }
    for operation in (write, text):
        operation["responses"]["400"]["content"] = _PLAIN["content"]
        operation["responses"]["415"]["content"] = _PLAIN["content"]
        operation["responses"]["503"]["content"] = {**_RESPONSE["content"], **_PLAIN["content"]}
    return {
        "/api/v1/write": {"post": write},
        "/api/v1/import/prometheus": {"post": text, "put": text},
    }


def _state() -> Json:
    pages = "/api/v1/status"
    kill = _operation("Ends a query", "admin", _json({"type": "object"}), errors={"404": "no query has the id"})
    number = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    kill["parameters"].append({"name": "id", "in": "path", "required": True, "schema": number})
    any_object = {"type": "object"}
    active = {"type": "array", "items": _ACTIVE}
    shown: dict[str, tuple[str, Right, Json | None]] = {
        f"{pages}/active_queries": ("What runs and waits", "read", active),
        f"{pages}/buildinfo": ("Version of the API and of MetricsDB", "read", any_object),
        f"{pages}/config": ("The configuration in force, without secrets", "admin", any_object),
        f"{pages}/flags": ("Flags of the command line", "admin", _LABELS),
        f"{pages}/runtimeinfo": ("Start, series", "read", any_object),
        "/api/v1/openapi.json": ("This description", "read", None),
        "/api/v1/alerts": ("What is pending or fires", "read", any_object),
    }
    found: Json = {
        path: {"get": _operation(summary, right, _json(schema))} for path, (summary, right, schema) in shown.items()
    }
    filters = ("type", "rule_name[]", "rule_group[]", "exclude_alerts")
    rules = _operation("Installed statements", "read", _json(any_object), filters, errors={"400": "bad type"})
    found["/api/v1/rules"] = {"get": rules}
    found |= _silences()
    found[f"{pages}/active_queries/{{id}}"] = {"delete": kill, "post": kill}
    found[f"{pages}/tsdb"] = {
        "get": _operation(
            "Cardinality by metric, label and pair", "read", _json(any_object), ("limit",), errors={"400": "bad limit"}
        )
    }
    return found


def _admin() -> Json:
    pages, done = "/api/v1/admin/tsdb", {"204": {"description": "done"}}
    found: Json = {}
    either = {**done, **_json({"type": "object"})}
    for name, summary, answers, required, optional in (
        ("delete_series", "Deletes samples of series", either, ("match[]",), ("start", "end", "undo")),
        ("clean_tombstones", "Does nothing: deletions leave nothing behind", done, (), ()),
        ("snapshot", "Writes everything into a folder", _json({"type": "object"}), (), ("skip_head",)),
    ):
        operation = _operation(summary, "admin", answers, optional, required, _READ)
        found[f"{pages}/{name}"] = {"post": operation, "put": operation}
    return found


def _silences() -> Json:
    """Alertmanager's API v2: no envelope, and errors are texts."""
    listed = _bare({"type": "array", "items": {"type": "object"}})
    bad = {"400": "a matcher or body that cannot be read"}
    missing = {"404": "no silence has the id"}
    error: Json = {"anyOf": [_TEXT, {"$ref": "#/components/schemas/Error"}]}
    said: Json = {"content": {"application/json": {"schema": error}}}
    filters = ("filter", "receiver", "active", "silenced", "inhibited")
    alerts = _operation("What fires, and what holds it back", "read", listed, filters, errors=bad)
    silences = _operation("Silences", "read", listed, ("filter",), errors=bad)
    made = _bare({"type": "object", "required": ["silenceID"]})
    put = _operation("Puts a silence", "admin", made, errors={**bad, **missing, "413": "the body is too large"})
    put["requestBody"] = {"required": True, "content": {"application/json": {"schema": _SILENCE}}}
    get = _operation("A silence", "read", _bare({"type": "object"}), errors=missing)
    end = _operation("Ends a silence", "admin", {"200": {"description": "done"}}, errors=missing)
    for operation in (get, end):
        operation["parameters"].append({"name": "id", "in": "path", "required": True, "schema": _TEXT})
    for operation in (alerts, silences, put, get, end):
        for status in ("400", "404", "413"):
            if status in operation["responses"]:
                operation["responses"][status] |= said
    return {
        "/api/v2/alerts": {"get": alerts},
        "/api/v2/silences": {"get": silences, "post": put},
        "/api/v2/silence/{id}": {"get": get, "delete": end},
    }


def _bare(schema: Json) -> Json:
    """The answer 200 without an envelope."""
    return {"200": {"description": "done", "content": {"application/json": {"schema": schema}}}}


def _texts() -> Json:
    plain = {"200": {"description": "text", **_PLAIN}}
    federate = _operation("The newest sample of each series", "read", plain, ("match[]",), errors=_READ)
    for status in ("400", "422", "503"):
        federate["responses"].setdefault(status, {"description": "refused"})["content"] = {
            **_RESPONSE["content"],
            **_PLAIN["content"],
        }
    federate["responses"]["500"] = {"description": "the data does not allow an answer", **_PLAIN}
    return {
        "/federate": {"get": federate},
        "/metrics": {"get": _operation("The server's own metrics", "read", plain)},
        "/-/ready": {"get": _operation("Whether it serves", None, plain)},
        "/-/healthy": {"get": _operation("Whether it lives", None, plain)},
    }


def _form(
    summary: str, required: tuple[str, ...], optional: tuple[str, ...], data: Json, errors: Json | None = None
) -> Json:
    """GET with parameters in the URL, POST with a form."""
    errors = {**_READ, **(errors or {})}
    get = _operation(summary, "read", _json(data), optional, required, errors)
    post = _operation(summary, "read", _json(data), errors=errors)
    properties = {name: _PARAMETERS[name] for name in (*required, *optional)}
    schema = {"type": "object", "required": list(required), "properties": properties}
    post["requestBody"] = {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    return {"get": get, "post": post}


def _operation(
    summary: str,
    right: Right | None,
    answers: Json,
    optional: tuple[str, ...] = (),
    required: tuple[str, ...] = (),
    errors: dict[str, str] | None = None,
) -> Json:
    names = [(name, True) for name in required] + [(name, False) for name in optional]
    refused = {**_ANYWHERE, **(errors or {})}
    return {
        "summary": summary,
        "x-scope": right,
        "security": [] if right is None else [{"bearer": []}, {"basic": []}, {}],
        "parameters": [
            {"name": name, "in": "query", "required": needed, "schema": _PARAMETERS[name]} for name, needed in names
        ],
        "responses": {
            **answers,
            **{status: {"description": text, **_RESPONSE} for status, text in sorted(refused.items())},
        },
    }


def _json(data: Json | None) -> Json:
    """The answer 200 in Prometheus' envelope; None: some other object."""
    schema: Json = {"type": "object"}
    if data is not None:
        schema = {
            "type": "object",
            "required": ["status", "data"],
            "properties": {"status": {"const": "success"}, "data": data, "warnings": _LIST, "infos": _LIST},
        }
    return {"200": {"description": "done", "content": {"application/json": {"schema": schema}}}}
