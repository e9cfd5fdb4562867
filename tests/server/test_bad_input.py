"""Broken bodies and questions: each is a typed 4xx that says what is wrong, and what was stored stays as it was."""

from __future__ import annotations

import gzip
import random
import zlib

import cramjam
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.config import BODY_BYTES_MAX
from metricsdb.server.intake import TooLarge
from metricsdb.server.write import gunzip
from tests.server.conftest import T0
from tests.server.remote_write import body, field, request, varint

WRITE = "/api/v1/write"
IMPORT = "/api/v1/import/prometheus"
GZIP = {"content-encoding": "gzip"}
OPENMETRICS = {"content-type": "application/openmetrics-text; version=1.0.0"}
# Values that do not compress, so that a cut falls into every part of the formats.
NOISE = random.Random(1)
SERIES = [({"__name__": f"m{i}", "job": "a"}, [(T0 * 1000 + i, NOISE.random())]) for i in range(8)]
TEXT = "".join(f'm{i}{{job="a"}} {NOISE.random()}\n' for i in range(8)).encode()


def snappy(raw: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(raw))


def one_series(*samples: bytes, name: bytes = b"__name__", value: bytes = b"m") -> bytes:
    return field(1, field(1, field(1, name) + field(2, value)) + b"".join(samples))


def state(db: mdb.Database) -> tuple[pl.DataFrame, pl.DataFrame]:
    # Reading counts what was decoded.
    stats = db.stats().filter(pl.col("name") != "decoded_samples")
    return stats, db.select('{__name__=~".+"}', 0, T0 + 1_000_000)


def refuses(call, db, path, content, headers=None, status=400) -> str:
    """Sends what must change nothing; the words of the refusal."""
    before = state(db)
    answer = call("POST", path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert len(answer.text.split()) >= 3
    assert all(a.equals(b) for a, b in zip(before, state(db), strict=True))
    return answer.text


SAMPLE = field(2, b"\x09" + bytes(8) + b"\x10\x01")


@pytest.mark.parametrize("cut", range(0, len(body(SERIES)), 7))
def test_a_cut_remote_write_body_is_refused(call, db, cut):
    refuses(call, db, WRITE, body(SERIES)[:cut])


@pytest.mark.parametrize("cut", range(1, len(request(SERIES[:1])), 7))
def test_a_cut_message_is_refused_with_the_series_before_it(call, db, cut):
    refuses(call, db, WRITE, snappy(request(SERIES[1:]) + request(SERIES[:1])[:cut]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(snappy(bytes(BODY_BYTES_MAX + 1)), "bytes of a request body", id="unpacks to too much"),
        pytest.param(varint(2**32 - 1) + b"x", "bytes of a request body", id="claims to unpack to too much"),
        pytest.param(varint(1000) + b"\x00x", "bytes", id="claims more than there is"),
        pytest.param(varint(1) + body(SERIES)[2:], "snappy", id="claims less than there is"),
        pytest.param(snappy(one_series(b"\x12\x00" * (2**23 + 1))), "samples of a request body", id="too many samples"),
        pytest.param(snappy(b"\x0a\xff\xff\x03" + bytes(20)), "length", id="a length past the end"),
        pytest.param(snappy(b"\x0a" + b"\xff" * 11), "send a WriteRequest", id="a length beyond 64 bits"),
        pytest.param(request(SERIES), "snappy", id="not compressed"),
        pytest.param(bytes(cramjam.snappy.compress(request(SERIES))), "snappy", id="the framed format of snappy"),
        pytest.param(gzip.compress(request(SERIES)), "snappy", id="gzip"),
        pytest.param(snappy(TEXT), "send a WriteRequest", id="text"),
        pytest.param(snappy(one_series(SAMPLE, value=b"\xff")), "UTF-8", id="a value that is not UTF-8"),
        pytest.param(snappy(one_series(SAMPLE, name=b"\xc3\x28")), "UTF-8", id="a name that is not UTF-8"),
        pytest.param(snappy(one_series(SAMPLE, name=b"")), "invalid_labels", id="a label without a name"),
    ],
)
def test_a_lying_remote_write_body_is_refused(call, db, content, words):
    assert words in refuses(call, db, WRITE, content)


@pytest.mark.parametrize("length", ["many", "-1", "", "9" * 5000])
def test_a_content_length_that_is_no_number_of_bytes_is_refused(call, db, length):
    refuses(call, db, WRITE, body(SERIES), {"content-length": length}, 413 if length[:1] == "9" else 400)


def test_a_remote_write_body_keeps_the_neighbours_of_a_bad_series(call, db):
    bad = one_series(SAMPLE, name=b"\xff")
    answer = call("POST", WRITE, content=snappy(request(SERIES[:4]) + bad + request(SERIES[4:])))
    assert answer.status_code == 400
    assert "8 samples stored" in answer.text
    assert db.select('{job="a"}', T0, T0 + 1).height == 8


@pytest.mark.parametrize("path", [WRITE, IMPORT])
def test_an_oversized_body_is_refused(call, db, path):
    assert str(BODY_BYTES_MAX) in refuses(call, db, path, bytes(BODY_BYTES_MAX + 1), status=413)


@pytest.mark.parametrize("cut", range(0, len(gzip.compress(TEXT)), 7))
def test_cut_gzip_is_refused(call, db, cut):
    assert "gzip" in refuses(call, db, IMPORT, gzip.compress(TEXT)[:cut], GZIP)
    assert "gzip" in refuses(call, db, IMPORT, gzip.compress(b"first 1\n") + gzip.compress(TEXT)[: cut or 7], GZIP)


@pytest.mark.parametrize("end", [1, 4, 8], ids="{} bytes short".format)
def test_gzip_without_its_whole_trailer_is_refused(call, db, end):
    refuses(call, db, IMPORT, gzip.compress(TEXT)[:-end], GZIP)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(TEXT)[:-8] + bytes(4) + gzip.compress(TEXT)[-4:], id="a wrong checksum"),
        pytest.param(gzip.compress(TEXT)[:-4] + bytes(4), id="a wrong length"),
        pytest.param(gzip.compress(TEXT) + b"junk", id="something after it"),
        pytest.param(zlib.compress(TEXT), id="zlib"),
        pytest.param(TEXT, id="text"),
    ],
)
def test_broken_gzip_is_refused(call, db, content):
    assert "gzip" in refuses(call, db, IMPORT, content, GZIP)


def test_every_member_of_gzip_is_read(call, db):
    lines = TEXT.splitlines(keepends=True)
    packed = b"".join(gzip.compress(line) for line in lines[:7]) + gzip.compress(b"") + gzip.compress(lines[7])
    assert call("POST", IMPORT, content=packed, headers=GZIP).status_code == 204
    assert db.select('{job="a"}', T0, T0 + 1).height == 8


@pytest.mark.parametrize("members", [1, 2, 100])
def test_the_limit_of_gzip_holds_over_all_members(members):
    text = NOISE.randbytes(50_000)
    size = len(text) // members
    packed = b"".join(gzip.compress(text[i * size : (i + 1) * size]) for i in range(members))
    assert gunzip(packed, len(text)) == text
    with pytest.raises(TooLarge):
        gunzip(packed, len(text) - 1)


@pytest.mark.parametrize("encoding", ["snappy", "zstd", "br", "deflate", "gzip, gzip"])
def test_an_unknown_encoding_of_text_is_415(call, db, encoding):
    assert "send gzip" in refuses(call, db, IMPORT, gzip.compress(TEXT), {"content-encoding": encoding}, 415)


@pytest.mark.parametrize("encoding", ["", "identity", "GZIP", "x-gzip"])
def test_every_name_of_a_known_encoding_is_taken(call, db, encoding):
    content = gzip.compress(TEXT) if "gzip" in encoding.lower() else TEXT
    assert call("POST", IMPORT, content=content, headers={"content-encoding": encoding}).status_code == 204
    assert db.select('{job="a"}', T0, T0 + 1).height == 8


@pytest.mark.parametrize("cut", range(0, len(TEXT), 7))
def test_cut_text_keeps_the_lines_before_the_cut(call, db, cut):
    answer = call("POST", IMPORT, content=TEXT[:cut])
    assert answer.status_code in (204, 400)
    assert answer.status_code == 204 or "samples stored" in answer.text
    whole = TEXT[:cut].count(b"\n")
    # What is left of the cut line may be a sample too, of a shorter number.
    assert db.select('{job="a"}', T0, T0 + 1).height in (whole, whole + 1)


@pytest.mark.parametrize("cut", range(0, len(TEXT), 7))
def test_cut_openmetrics_is_refused(call, db, cut):
    refuses(call, db, IMPORT, TEXT[:cut], OPENMETRICS)


@pytest.mark.parametrize("line", [b'a{b="\xff"} 1', b"\xc3\x28 1", b'a{b="x} 1', b"a 1 2 3", b"a{} one", b"\x00"])
def test_a_bad_line_costs_text_that_line_and_openmetrics_everything(call, db, line):
    text = b"good 1\n" + line + b"\nfine 2\n"
    refuses(call, db, IMPORT, text + b"# EOF\n", OPENMETRICS)
    answer = call("POST", IMPORT, content=text)
    assert answer.status_code == 400
    assert "2 samples stored, refused: " in answer.text
    assert sorted(db.select('{__name__=~"good|fine"}', T0, T0 + 1)["value"]) == [1.0, 2.0]


QUERY = {"query": "up"}
RANGE = {"query": "up", "start": "1", "end": "2", "step": "1"}


@pytest.mark.parametrize(
    ("path", "parameters", "status", "kind"),
    [
        *(
            ("query", {"query": q}, 400, "bad_data")
            for q in ("", "up[", "up{", "nothing(up)", "up{a=~'('}", "1 + ", "sum(", "rate(up)", "'\xff", "(" * 5000)
        ),
        ("query", {}, 400, "bad_data"),
        *(("query", {**QUERY, "time": t}, 400, "bad_data") for t in ("now", "NaN", "1e300", "2020-13-01T00:00:00Z")),
        *(("query", {**QUERY, "timeout": t}, 400, "bad_data") for t in ("soon", "1x", "1e300")),
        *(("query", {**QUERY, "limit": n}, 400, "bad_data") for n in ("-1", "many", "1.5", "9" * 30)),
        ("query", {**QUERY, "lookback_delta": "x"}, 400, "bad_data"),
        ("query", {"query": "http_requests_total * on() temperature * on() http_requests_total"}, 422, "execution"),
        *(("query_range", RANGE | {name: "x"}, 400, "bad_data") for name in ("start", "end", "step")),
        *(("query_range", {k: v for k, v in RANGE.items() if k != name}, 400, "bad_data") for name in RANGE),
        *(("query_range", RANGE | {"step": s}, 400, "bad_data") for s in ("0", "-1", "NaN", "1e300")),
        ("query_range", RANGE | {"end": "0"}, 400, "bad_data"),
        ("query_range", RANGE | {"end": "11002"}, 400, "bad_data"),
        ("series", {}, 400, "bad_data"),
        *(("series", {"match[]": m}, 400, "bad_data") for m in ("", "{", "{}", "up[5m]", "up + 1", '{a=~"("}')),
        ("series", {"match[]": "up", "start": "x"}, 400, "bad_data"),
        ("labels", {"match[]": "{"}, 400, "bad_data"),
        ("labels", {"end": "x"}, 400, "bad_data"),
        ("label/job/values", {"match[]": "{"}, 400, "bad_data"),
        ("label/job/values", {"limit": "-1"}, 400, "bad_data"),
        ("metadata", {"limit": "x"}, 400, "bad_data"),
        ("metadata", {"limit_per_metric": "x"}, 400, "bad_data"),
        ("format_query", {"query": "up["}, 400, "bad_data"),
        ("parse_query", {"query": "up["}, 400, "bad_data"),
        ("status/tsdb", {"limit": "x"}, 400, "bad_data"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(call, db, path, parameters, status, kind):
    before = state(db)
    answer = call("GET", f"/api/v1/{path}", params=parameters)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert (told["status"], told["errorType"]) == ("error", kind)
    assert len(told["error"].split()) >= 3
    assert all(a.equals(b) for a, b in zip(before, state(db), strict=True))


@pytest.mark.parametrize("path", ["query", "series", "labels"])
def test_parameters_that_are_not_utf_8_are_refused(call, path):
    answer = call("GET", f"/api/v1/{path}?query=%ff&match[]=%ff")
    assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = call("POST", f"/api/v1/{path}", content=b"query=\xff&match[]=\xff", headers=form)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "bad_data")


@pytest.mark.parametrize(
    "parameters", ["timestamp=%ff", "timestamp=1.5", "timestamp=" + "9" * 30, "extra_label=a", "extra_label=%ff=x"]
)
def test_options_of_an_import_that_cannot_be_read_are_refused(call, db, parameters):
    refuses(call, db, f"{IMPORT}?{parameters}", TEXT)
