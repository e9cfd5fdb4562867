"""Times and durations of the HTTP API, as Prometheus reads them."""

import pytest

from metricsdb.server.params import MAX_TIME_MS, MIN_TIME_MS, BadParameter, Form, duration_ms, time_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000.123", 1_700_000_000_123),
        ("1700000000.1235", 1_700_000_000_124),
        ("-1.5", -1_500),
        ("1e3", 1_000_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T00:00:01.25Z", 1_250),
        ("1970-01-01T00:00:01.123999999Z", 1_123),
        ("1969-12-31T23:59:59.5Z", -500),
        ("1970-01-01T01:00:00+01:00", 0),
        ("-292273086-05-16T16:47:06Z", MIN_TIME_MS),
        ("292277025-08-18T07:12:54.999999999Z", MAX_TIME_MS),
    ],
)
def test_times_are_read(text, expected):
    assert time_ms(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "NaN",
        "Inf",
        "1e300",
        "2020-13-01T00:00:00Z",
        "2020-01-01",
        "2020-01-01 00:00:00Z",
        "1_000",
        " 1",
        "٣",
    ],
)
def test_what_is_no_time_is_refused_with_its_text(text):
    with pytest.raises(ValueError, match="to a valid timestamp") as caught:
        time_ms(text)
    assert f'"{text}"' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15", 15_000),
        ("0.5", 500),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("5ms", 5),
        ("1y", 31_536_000_000),
        ("0", 0),
        ("-5", -5_000),
    ],
)
def test_durations_are_read(text, expected):
    assert duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "5m1h", "1.5h", "m", "5 m", "1e30", "-5m", "99999999999y"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="to a valid duration"):
        duration_ms(text)


@pytest.mark.parametrize(("text", "expected"), [("", 0), ("0", 0), ("7", 7)])
def test_limits_are_read(text, expected):
    assert Form([("limit", text)]).limit() == expected


@pytest.mark.parametrize("text", ["-1", "x", "1.5"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(BadParameter, match='invalid parameter "limit"'):
        Form([("limit", text)]).limit()


def test_the_first_value_counts_and_all_are_kept():
    form = Form([("match[]", "a"), ("match[]", "b")])
    assert form.text("match[]") == "a"
    assert form.all("match[]") == ["a", "b"]
    assert form.text("time") == ""
    assert form.time_or("time", 5) == 5
