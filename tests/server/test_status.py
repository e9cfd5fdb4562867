"""What the server says about itself."""

from __future__ import annotations

import metricsdb as mdb
from tests.server.conftest import T0
from tests.server.remote_write import body


def data(response):
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "success"
    return response.json()["data"]


def test_health_and_readiness(call):
    assert call("GET", "/-/ready").status_code == 200
    assert call("GET", "/-/healthy").status_code == 200


def test_buildinfo_tells_grafana_which_api_this_is(call):
    info = data(call("GET", "/api/v1/status/buildinfo"))
    assert info["revision"] == mdb.__version__
    assert info["version"].startswith("3.")
    assert info["application"] == "MetricsDB"


def test_the_configuration_is_shown_with_its_defaults(call):
    assert "body_bytes_max: 67108864" in data(call("GET", "/api/v1/status/config"))["yaml"]
    assert data(call("GET", "/api/v1/status/flags")) == {}


def test_runtime_info_counts_series(call):
    info = data(call("GET", "/api/v1/status/runtimeinfo"))
    assert info["timeSeriesCount"] == 4
    assert info["startTime"].endswith("Z")


def test_tsdb_status_names_the_largest(call):
    status = data(call("GET", "/api/v1/status/tsdb"))
    assert status["headStats"]["numSeries"] == 4
    assert status["headStats"]["minTime"] == (T0 - 600) * 1000
    assert status["headStats"]["maxTime"] == T0 * 1000
    assert status["seriesCountByMetricName"] == [
        {"name": "http_requests_total", "value": 3},
        {"name": "temperature", "value": 1},
    ]
    assert {"name": "__name__", "value": 2} in status["labelValueCountByLabelName"]
    assert {"name": "code=200", "value": 2} in status["seriesCountByLabelValuePair"]
    assert len(data(call("GET", "/api/v1/status/tsdb", params={"limit": 1}))["seriesCountByMetricName"]) == 1
    assert call("GET", "/api/v1/status/tsdb", params={"limit": "x"}).status_code == 400


def test_own_metrics_count_what_came_and_what_was_refused(call, db):
    call("POST", "/api/v1/write", content=body([({"__name__": "up"}, [(T0 * 1000, 1.0)])]))
    call("POST", "/api/v1/import/prometheus", content=b"good 1\nbad{ 2\n")
    call("GET", "/api/v1/query", params={"query": "up"})
    call("GET", "/nowhere")
    answer = call("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    for line in (
        'metricsdb_ingested_samples_total{source="remote_write"} 1',
        'metricsdb_ingested_samples_total{source="import"} 1',
        'metricsdb_rejected_samples_total{source="import",reason="malformed"} 1',
        'metricsdb_http_requests_total{handler="/api/v1/query",code="200"} 1',
        'metricsdb_http_requests_total{handler="/api/v1/write",code="204"} 1',
        'metricsdb_http_requests_total{handler="other",code="404"} 1',
        'metricsdb_http_request_duration_seconds_count{handler="/api/v1/query"} 1',
        "metricsdb_storage_series 6",
        "metricsdb_queries_running 0",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert any(line.startswith("metricsdb_memory_bytes{part=") for line in lines)


def test_own_metrics_are_text_that_we_can_read_ourselves(call, db):
    report = db.ingest(call("GET", "/metrics").content, "prometheus")
    assert report.rejected == {}
    assert report.accepted > 30
