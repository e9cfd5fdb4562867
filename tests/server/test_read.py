"""The query API: Prometheus' JSON, statuses and error types."""

from __future__ import annotations

import asyncio

import httpx
import pytest

import metricsdb as mdb
from metricsdb.server import create_app
from tests.server.conftest import T0

# Over a million quantiles of forty samples each: far longer than a millisecond on any machine.
SLOW = "max_over_time(quantile_over_time(0.9, http_requests_total[10m])[4000s:1ms])"


def ok(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["status"] == "success"
    return body["data"]


def refused(response, status, kind, *words):
    assert response.status_code == status, response.text
    body = response.json()
    assert body["status"] == "error"
    assert body["errorType"] == kind
    for word in words:
        assert word in body["error"]


def test_a_histogram_stands_in_the_place_of_a_value(db, call):
    for i, at in enumerate([T0 - 60, T0]):
        given = {"positive_spans": [(1, 2)], "positive_buckets": [1 + i, 2], "negative_spans": [(0, 1)]}
        sample = mdb.Histogram(
            schema=0, count=5 + 2 * i, sum=2.5, zero_threshold=0.25, zero_count=1 + i, negative_buckets=[1], **given
        )
        db.append_histograms({"__name__": "latency"}, at, sample)
    buckets = [[1, "-1", "-0.5", "1"], [3, "-0.25", "0.25", "2"], [0, "1", "2", "2"], [0, "2", "4", "2"]]
    newest = {"count": "7", "sum": "2.5", "buckets": buckets}
    data = ok(call("GET", "/api/v1/query", params={"query": "latency", "time": T0}))
    assert data["result"] == [{"metric": {"__name__": "latency"}, "histogram": [T0, newest]}]
    steps = {"query": '{__name__=~"latency|temperature"}', "start": T0 - 60, "end": T0, "step": 60}
    matrix = ok(call("GET", "/api/v1/query_range", params=steps))["result"]
    assert [set(m) for m in matrix] == [{"metric", "histograms"}, {"metric", "values"}]
    assert matrix[0]["histograms"][1] == [T0, newest]
    assert "latency" not in call("GET", "/federate", params={"match[]": '{__name__=~".+"}'}).text


def test_an_instant_query_gives_a_vector(call):
    data = ok(call("GET", "/api/v1/query", params={"query": 'http_requests_total{code="500"}', "time": T0}))
    assert data == {
        "resultType": "vector",
        "result": [
            {"metric": {"__name__": "http_requests_total", "code": "500", "service": "api"}, "value": [T0, "40"]}
        ],
    }


def test_time_defaults_to_now(call):
    data = ok(call("GET", "/api/v1/query", params={"query": "time()"}))
    assert data == {"resultType": "scalar", "result": [T0, str(T0)]}


def test_a_string_and_a_matrix_have_their_types(call):
    assert ok(call("GET", "/api/v1/query", params={"query": '"hello"'})) == {
        "resultType": "string",
        "result": [T0, "hello"],
    }
    data = ok(call("GET", "/api/v1/query", params={"query": 'temperature{room="a"}[30s]'}))
    assert data["resultType"] == "matrix"
    assert data["result"][0]["values"] == [[T0 - 15, "23"], [T0, "23"]]


def test_nan_and_times_with_fractions_are_written_as_prometheus_does(call):
    data = ok(call("GET", "/api/v1/query", params={"query": "temperature", "time": f"{T0 - 600 + 45}.5"}))
    assert data["result"][0]["value"] == [T0 - 600 + 45.5, "NaN"]


def test_a_range_query_gives_a_matrix(call):
    parameters = {
        "query": "sum by (service) (rate(http_requests_total[1m]))",
        "start": T0 - 60,
        "end": T0,
        "step": "30s",
    }
    data = ok(call("GET", "/api/v1/query_range", params=parameters))
    assert data["resultType"] == "matrix"
    by_service = {row["metric"]["service"]: row["values"] for row in data["result"]}
    assert [t for t, _ in by_service["web"]] == [T0 - 60, T0 - 30, T0]
    assert [float(v) for _, v in by_service["web"]] == pytest.approx([2, 2, 2])


def test_a_posted_form_is_the_same_as_the_url(call):
    parameters = {"query": "http_requests_total", "time": str(T0)}
    posted = call("POST", "/api/v1/query", data=parameters)
    assert ok(posted) == ok(call("GET", "/api/v1/query", params=parameters))
    mixed = call("POST", "/api/v1/query", params={"time": T0}, data={"query": "http_requests_total"})
    assert ok(mixed) == ok(posted)


def test_warnings_come_with_the_answer(call):
    body = call("GET", "/api/v1/query", params={"query": "quantile(2, temperature)"}).json()
    assert body["status"] == "success"
    assert any("quantile value should be between 0 and 1" in text for text in body["warnings"])


def test_a_limit_cuts_the_answer_and_says_so(call):
    body = call("GET", "/api/v1/query", params={"query": "http_requests_total", "limit": 2}).json()
    assert len(body["data"]["result"]) == 2
    assert body["warnings"] == ["results truncated due to limit"]


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("query", {"query": "sum("}, ['invalid parameter "query"', "1:5: parse error"]),
        ("query", {"query": ""}, ['invalid parameter "query"', "parse error"]),
        (
            "query",
            {"query": "up", "time": "soon"},
            ['invalid parameter "time"', "Invalid time value for 'time'", '"soon"'],
        ),
        ("query", {"query": "up", "timeout": "soon"}, ['invalid parameter "timeout"', 'cannot parse "soon"']),
        ("query", {"query": "up", "limit": "-1"}, ['invalid parameter "limit"']),
        ("query_range", {"query": "up"}, ['invalid parameter "start"', 'cannot parse "" to a valid timestamp']),
        ("query_range", {"query": "up", "start": "0"}, ['invalid parameter "end"']),
        ("query_range", {"query": "up", "start": "0", "end": "1"}, ['invalid parameter "step"']),
        (
            "query_range",
            {"query": "up", "start": "2", "end": "1", "step": "1"},
            ['invalid parameter "end"', "end timestamp must not be before start time"],
        ),
        (
            "query_range",
            {"query": "up", "start": "0", "end": "1", "step": "0"},
            ['invalid parameter "step"', "zero or negative query resolution step widths are not accepted"],
        ),
        ("query_range", {"query": "up", "start": "0", "end": "1", "step": "-1"}, ["zero or negative"]),
        (
            "query_range",
            {"query": "up", "start": "0", "end": "11001", "step": "1"},
            ["exceeded maximum resolution of 11,000 points per timeseries"],
        ),
        ("series", {}, ["no match[] parameter provided"]),
        ("series", {"match[]": "{"}, ['invalid parameter "match[]"', "parse error"]),
        ("series", {"match[]": "up", "start": "x"}, ["Invalid time value for 'start'"]),
        ("labels", {"match[]": "up{"}, ['invalid parameter "match[]"']),
        ("label/job/values", {"match[]": "up{"}, ['invalid parameter "match[]"']),
        ("format_query", {"query": "sum("}, ['invalid parameter "query"', "parse error"]),
        ("parse_query", {"query": "sum("}, ['invalid parameter "query"', "parse error"]),
    ],
)
def test_bad_parameters_are_bad_data(call, path, parameters, words):
    refused(call("GET", f"/api/v1/{path}", params=parameters), 400, "bad_data", *words)
    if path != "label/job/values":
        refused(call("POST", f"/api/v1/{path}", data=parameters), 400, "bad_data", *words)


def test_eleven_thousand_points_are_still_allowed(call):
    parameters = {"query": "vector(1)", "start": "0", "end": "11000", "step": "1"}
    data = ok(call("GET", "/api/v1/query_range", params=parameters))
    assert len(data["result"][0]["values"]) == 11_001


def test_what_the_data_do_not_allow_is_an_execution_error(call):
    expr = "http_requests_total + on (service) http_requests_total"
    refused(call("GET", "/api/v1/query", params={"query": expr}), 422, "execution", "many-to-many")


def test_a_form_that_is_not_percent_encoded_utf8_is_bad_data(call):
    refused(call("GET", "/api/v1/query?query=%ff"), 400, "bad_data", "error parsing form values")


def test_series_are_listed(call):
    data = ok(call("GET", "/api/v1/series", params={"match[]": ["temperature", 'http_requests_total{code="500"}']}))
    assert sorted(map(str, data)) == sorted(
        map(
            str,
            [
                {"__name__": "http_requests_total", "code": "500", "service": "api"},
                {"__name__": "temperature", "room": "a"},
            ],
        )
    )
    assert len(ok(call("POST", "/api/v1/series", data={"match[]": "http_requests_total", "limit": "1"}))) == 1
    assert ok(call("GET", "/api/v1/series", params={"match[]": "temperature", "end": "5"})) == []


def test_labels_and_their_values_are_listed(call):
    assert ok(call("GET", "/api/v1/labels")) == ["__name__", "code", "room", "service"]
    assert ok(call("GET", "/api/v1/labels", params={"match[]": "temperature"})) == ["__name__", "room"]
    assert ok(call("GET", "/api/v1/label/__name__/values")) == ["http_requests_total", "temperature"]
    assert ok(call("GET", "/api/v1/label/code/values", params={"match[]": '{service="web"}'})) == ["200"]
    assert ok(call("GET", "/api/v1/label/nothing/values")) == []
    body = call("GET", "/api/v1/labels", params={"limit": 2}).json()
    assert body["data"] == ["__name__", "code"]
    assert body["warnings"] == ["results truncated due to limit"]


def test_metadata_is_what_the_sender_declared(call, db):
    db.ingest(b"# HELP hits Hits so far.\n# TYPE hits counter\nhits 1\n# TYPE other gauge\nother 1\n", "prometheus")
    assert ok(call("GET", "/api/v1/metadata", params={"metric": "hits"})) == {
        "hits": [{"type": "counter", "help": "Hits so far.", "unit": ""}]
    }
    assert len(ok(call("GET", "/api/v1/metadata", params={"limit": 1}))) == 1
    assert ok(call("GET", "/api/v1/metadata", params={"metric": "nothing"})) == {}


def test_a_query_is_formatted_and_parsed(call):
    assert ok(call("GET", "/api/v1/format_query", params={"query": "sum  by(a)(b)"})) == "sum by (a) (b)"
    tree = ok(call("POST", "/api/v1/parse_query", data={"query": "sum by (a) (b)"}))
    assert tree["type"] == "aggregation"
    assert tree["op"] == "sum"
    assert tree["expr"]["type"] == "vectorSelector"


def test_federation_gives_the_newest_samples_as_text(call, db):
    answer = call("GET", "/federate", params={"match[]": 'http_requests_total{service="web"}'})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    line = f'http_requests_total{{code="200",service="web"}} 1200 {T0 * 1000}'
    assert line in answer.text.splitlines()
    assert call("GET", "/federate", params={"match[]": "{"}).status_code == 400


def test_a_query_past_its_timeout_is_a_503(call, db):
    answer = call("GET", "/api/v1/query", params={"query": SLOW, "timeout": "1ms"})
    refused(answer, 503, "timeout", "timed out")


def test_a_slow_query_holds_up_nobody(db):
    async def story() -> None:
        transport = httpx.ASGITransport(app=create_app(db))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            slow = asyncio.create_task(client.get("/api/v1/query", params={"query": SLOW, "timeout": "2s"}))
            while "metricsdb_queries_running 1" not in (await client.get("/metrics")).text:
                assert not slow.done(), "the query ended before it was seen: make it longer"
            assert (await client.get("/-/ready")).status_code == 200
            assert not slow.done()
            await slow

    asyncio.run(story())


def test_unknown_paths_and_methods_are_told_apart(call):
    assert call("GET", "/api/v1/nothing").status_code == 404
    assert call("DELETE", "/api/v1/query").status_code == 405
    assert call("GET", "/api/v1/write").status_code == 405


def test_a_level_is_chosen_by_parameter_and_a_wrong_one_is_told_those_there_are(db, call):
    db.rollups.set("http_requests_total", "1m -> 2m")
    db.rollups.run()
    end = T0 // 120 * 120
    params = {"query": 'increase(http_requests_total{code="500"}[4m])', "time": str(end)}
    whole = ok(call("GET", "/api/v1/query", params=params))
    assert ok(call("GET", "/api/v1/query", params={**params, "level": "2m"})) == whole
    params["query"] = 'http_requests_total{code="500"}[4m]'
    points = [len(ok(call("GET", "/api/v1/query", params=params | level))["result"][0]["values"])
              for level in ({}, {"level": "120"})]  # fmt: skip
    assert points == [16, 8]
    refused = call("GET", "/api/v1/query", params={**params, "level": "1h"})
    assert refused.status_code == 400
    assert "levels that there are: 1m, 2m" in refused.json()["error"]


def test_nocache_evaluates_what_is_kept(db, call):
    steps = {"query": "sum(http_requests_total)", "start": T0 - 300, "end": T0, "step": 15}

    def served() -> int:
        return dict(db.stats().iter_rows())["cache_whole"]

    first = ok(call("GET", "/api/v1/query_range", params=steps))
    for extra, count in [({}, 1), ({"nocache": "1"}, 1), ({"stats": "all"}, 1), ({"nocache": "0"}, 2)]:
        data = ok(call("GET", "/api/v1/query_range", params=steps | extra))
        assert data["result"] == first["result"]
        assert served() == count


def test_points_thin_each_series_of_a_range(call):
    steps = {"query": "http_requests_total", "start": T0 - 300, "end": T0, "step": 1}
    whole = ok(call("GET", "/api/v1/query_range", params=steps))["result"]
    for method in ({}, {"method": "lttb"}):
        thin = ok(call("GET", "/api/v1/query_range", params=steps | {"points": "8"} | method))["result"]
        assert [s["metric"] for s in thin] == [s["metric"] for s in whole]
        for few, all_ in zip(thin, whole, strict=True):
            assert len(few["values"]) <= 8 < len(all_["values"])
            assert all(v in all_["values"] for v in few["values"])
    for wrong in ({"points": "3"}, {"points": "x"}, {"points": "8", "method": "mean"}):
        assert call("GET", "/api/v1/query_range", params=steps | wrong).status_code == 400
