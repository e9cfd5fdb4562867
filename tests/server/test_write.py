"""Ways in over HTTP: what is taken, what is refused, and with which status."""

from __future__ import annotations

import asyncio
import gzip

import cramjam
import httpx
import pytest

import metricsdb as mdb
from metricsdb.config import Config, Limits
from metricsdb.server import create_app
from tests.server.conftest import T0
from tests.server.remote_write import Request2, body, field, histogram, request

UP = {"__name__": "up", "job": "a"}
HEADERS = {
    "content-type": "application/x-protobuf",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
}


def latest(db: mdb.Database, selector: str) -> list[tuple[int, float]]:
    frame = db.select(selector, 0, T0 + 10_000)
    return [(int(t.timestamp()), v) for t, v in frame.select("timestamp", "value").iter_rows()]


def test_remote_write_stores_and_answers_204(call, db):
    answer = call("POST", "/api/v1/write", content=body([(UP, [(T0 * 1000, 1.0)])]), headers=HEADERS)
    assert (answer.status_code, answer.content) == (204, b"")
    assert latest(db, "up") == [(T0, 1.0)]


def test_old_senders_without_headers_are_taken(call, db):
    assert call("POST", "/api/v1/write", content=body([(UP, [(T0 * 1000, 1.0)])])).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "zstd"},
        {"content-encoding": "gzip"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"},
        {"content-type": "application/json;proto=io.prometheus.write.v2.Request"},
    ],
)
def test_other_encodings_are_415(call, headers):
    answer = call("POST", "/api/v1/write", content=body([(UP, [(T0 * 1000, 1.0)])]), headers={**HEADERS, **headers})
    assert answer.status_code == 415
    assert "send" in answer.text


def test_the_content_type_may_name_its_message(call):
    headers = {**HEADERS, "content-type": "application/x-protobuf; proto=prometheus.WriteRequest"}
    answer = call("POST", "/api/v1/write", content=body([(UP, [(T0 * 1000, 1.0)])]), headers=headers)
    assert answer.status_code == 204


HEADERS_2 = {
    "content-type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "2.0.0",
}


def written(answer: httpx.Response) -> tuple[int, int, int]:
    names = ("samples", "histograms", "exemplars")
    samples, histograms, exemplars = (int(answer.headers[f"x-prometheus-remote-write-{n}-written"]) for n in names)
    return samples, histograms, exemplars


def test_remote_write_2_stores_starts_histograms_and_metadata(call, db):
    made, ms = Request2(), T0 * 1000
    hits = {"__name__": "hits_total", "job": "a"}
    made.add(hits, [(ms - 1000, 5.0, ms - 60_000), (ms, 7.0, ms - 500)], kind=1, help="Hits.", exemplars=2)
    made.add({"__name__": "latency", "job": "a"}, histograms=[histogram(ms, [3, 1, 2], start=ms - 7000)], kind=3)
    answer = call("POST", "/api/v1/write", content=made.body(), headers=HEADERS_2)
    assert (answer.status_code, answer.content, written(answer)) == (204, b"", (2, 1, 0))
    assert latest(db, "hits_total") == [(T0 - 1, 5.0), (T0, 7.0)]
    assert db.query("start_timestamp(hits_total)", T0)["value"].to_list() == [T0 - 0.5]
    # The second value is higher, but the start says that the counter was reset.
    assert db.query("resets(hits_total[1m])", T0)["value"].to_list() == [1.0]
    assert db.histograms("latency", 0, T0)["histogram"].struct.field("count").to_list() == [6]
    assert db.metadata("hits_total").select("type", "help").rows() == [("counter", "Hits.")]


def test_both_versions_write_to_the_same_series(call, db):
    made = Request2()
    made.add(UP, [(T0 * 1000, 2.0, 0)])
    call("POST", "/api/v1/write", content=body([(UP, [(T0 * 1000 - 5000, 1.0)])]), headers=HEADERS)
    assert call("POST", "/api/v1/write", content=made.body(), headers=HEADERS_2).status_code == 204
    assert latest(db, "up") == [(T0 - 5, 1.0), (T0, 2.0)]
    assert len(db.series("up")) == 1


def test_what_is_wrong_in_remote_write_2_is_named_and_the_rest_counted(call, db):
    made = Request2()
    made.add(UP, [(T0 * 1000, 2.0, 0)])
    made.series += field(5, field(1, b"\x01\x63") + field(2, b"\x10\x05"))
    answer = call("POST", "/api/v1/write", content=made.body(), headers=HEADERS_2)
    assert (answer.status_code, written(answer)) == (400, (1, 0, 0))
    assert "invalid_labels: 1" in answer.text
    broken = call("POST", "/api/v1/write", content=made.body()[:-4], headers=HEADERS_2)
    assert (broken.status_code, written(broken)) == (400, (0, 0, 0))
    # A body of version 1.0 has nothing that 2.0 knows.
    other = call("POST", "/api/v1/write", content=body([(UP, [(0, 1.0)])]), headers=HEADERS_2)
    assert (other.status_code, written(other)) == (204, (0, 0, 0))


def test_native_histograms_come_by_remote_write_1_too(call, db):
    raw = field(1, field(1, field(1, b"__name__") + field(2, b"h")) + field(4, histogram(T0 * 1000, [2, 0, 1])))
    packed = bytes(cramjam.snappy.compress_raw(raw))
    assert call("POST", "/api/v1/write", content=packed, headers=HEADERS).status_code == 204
    assert db.histograms("h", 0, T0)["histogram"].struct.field("count").to_list() == [3]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\xff\xff\xff\xff\xff\xff\x01", body([(UP, [(T0 * 1000, 1.0)])])[:-3]]
)
def test_a_malformed_body_is_400_and_changes_nothing(call, db, content):
    before = db.stats()
    answer = call("POST", "/api/v1/write", content=content, headers=HEADERS)
    if content == b"":
        assert answer.status_code in (204, 400)
    else:
        assert answer.status_code == 400
        assert answer.text.strip()
    assert dict(before.iter_rows())["series"] == dict(db.stats().iter_rows())["series"]


def test_a_bad_series_is_named_and_its_neighbours_are_stored(call, db):
    raw = request([(UP, [(T0 * 1000, 1.0)])]) + field(
        1, field(1, field(1, b"\xff") + field(2, b"x")) + field(2, b"\x09" + bytes(8) + b"\x10\x01")
    )
    answer = call("POST", "/api/v1/write", content=bytes(cramjam.snappy.compress_raw(raw)), headers=HEADERS)
    assert answer.status_code == 400
    assert "1 samples stored" in answer.text
    assert latest(db, "up") == [(T0, 1.0)]


def small_app(db: mdb.Database) -> httpx.ASGITransport:
    return httpx.ASGITransport(app=create_app(db, config=Config(limits=Limits(body_bytes_max=100))))


@pytest.mark.parametrize("path", ["/api/v1/write", "/api/v1/import/prometheus"])
def test_a_body_over_the_limit_is_413_however_it_comes(db, path):
    async def parts():
        for _ in range(3):
            yield b"x" * 50

    async def story() -> list[int]:
        async with httpx.AsyncClient(transport=small_app(db), base_url="http://test") as client:
            whole = await client.post(path, content=b"x" * 101)
            streamed = await client.post(path, content=parts())
            return [whole.status_code, streamed.status_code]

    assert asyncio.run(story()) == [413, 413]


def test_text_is_imported_with_time_and_labels(call, db):
    answer = call(
        "POST",
        "/api/v1/import/prometheus",
        params={"timestamp": T0 * 1000, "extra_label": ["site=x", "rack=1=2"]},
        content=b'load{host="a"} 1.5\nload{host="b"} 2 1600000000000\n',
    )
    assert answer.status_code == 204
    assert latest(db, 'load{host="a",site="x",rack="1=2"}') == [(T0, 1.5)]
    assert latest(db, 'load{host="b"}') == [(1_600_000_000, 2.0)]


def test_openmetrics_is_told_by_its_content_type(call, db):
    text = b"# TYPE hits counter\nhits_total 3 1700000000.5\n# EOF\n"
    headers = {"content-type": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
    assert call("POST", "/api/v1/import/prometheus", content=text, headers=headers).status_code == 204
    assert latest(db, "hits_total") == [(T0, 3.0)]
    without_end = call("POST", "/api/v1/import/prometheus", content=text[:-6], headers=headers)
    assert without_end.status_code == 400


def test_protobuf_is_told_by_its_content_type(call, db):
    counter = b"\x09" + bytes(6) + b"\x08\x40" + field(3, b"\x08\x07")
    family = field(1, b"hits_total") + b"\x18\x00" + field(4, field(3, counter))
    content = bytes([len(family)]) + family
    headers = {"content-type": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily"}
    assert call("POST", "/api/v1/import/prometheus", content=content, headers=headers).status_code == 204
    assert latest(db, "hits_total") == [(T0, 3.0)]
    assert db.query("start_timestamp(hits_total)", T0)["value"].to_list() == [7.0]
    assert call("POST", "/api/v1/import/prometheus", content=content[:-1], headers=headers).status_code == 400


def test_gzip_is_taken_and_what_is_none_is_refused(call, db):
    headers = {"content-encoding": "gzip"}
    packed = gzip.compress(b"zipped 1\n")
    assert call("POST", "/api/v1/import/prometheus", content=packed, headers=headers).status_code == 204
    assert latest(db, "zipped") == [(T0, 1.0)]
    assert call("POST", "/api/v1/import/prometheus", content=b"no", headers=headers).status_code == 400


def test_a_gzip_bomb_is_413(db):
    async def story() -> int:
        async with httpx.AsyncClient(transport=small_app(db), base_url="http://test") as client:
            packed = gzip.compress(b"x" * 1000)
            assert len(packed) < 100
            headers = {"content-encoding": "gzip"}
            return (await client.post("/api/v1/import/prometheus", content=packed, headers=headers)).status_code

    assert asyncio.run(story()) == 413


def test_a_malformed_line_is_named_and_its_neighbours_are_stored(call, db):
    answer = call("POST", "/api/v1/import/prometheus", content=b"good 1\nbad{ 2\nfine 3\n")
    assert answer.status_code == 400
    assert "2 samples stored" in answer.text
    assert "malformed: 1" in answer.text
    assert latest(db, "good") == [(T0, 1.0)]
    assert latest(db, "fine") == [(T0, 3.0)]


@pytest.mark.parametrize("parameters", [{"timestamp": "soon"}, {"extra_label": "x"}, {"extra_label": "=x"}])
def test_import_options_that_cannot_be_read_are_400(call, parameters):
    assert call("POST", "/api/v1/import/prometheus", params=parameters, content=b"a 1\n").status_code == 400


def test_a_series_too_many_is_a_bad_request_that_names_the_limit_and_the_rest_is_stored(call, db):
    db.limits.set(mdb.Limit(max_series=db.series("{__name__!=''}").height + 1, name="all of them"))
    content = body([({"__name__": "up", "job": job}, [(T0 * 1000, 1.0)]) for job in "ab"])
    answer = call("POST", "/api/v1/write", content=content, headers=HEADERS)
    assert answer.status_code == 400, "a sender does not repeat it"
    assert "1 samples stored" in answer.text
    assert 'cardinality_limit: 1, first: limit "all of them"' in answer.text
    assert latest(db, "up") == [(T0, 1.0)]
    told = call("GET", "/metrics").text
    assert 'metricsdb_rejected_samples_total{source="remote_write",reason="cardinality_limit"} 1' in told
    assert 'metricsdb_limit_met_total{limit="all of them",outcome="rejected"} 1' in told
    assert 'metricsdb_limit_series{limit="all of them"} 5' in told
