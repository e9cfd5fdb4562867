"""Times and durations as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from metricsdb.errors import ConfigError
from metricsdb.times import duration_ms, time_column_ms, time_ms

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("15ms", 15),
        ("0.5s", 500),
        ("90", 90_000),
        (2, 2_000),
        (0.25, 250),
        (timedelta(minutes=1), 60_000),
        ("1w", 604_800_000),
    ],
)
def test_durations(written: object, ms: int) -> None:
    assert duration_ms(written) == ms


@pytest.mark.parametrize("wrong", ["five minutes", "5 m", "", None, float("nan"), True, []])
def test_a_wrong_duration_is_named_with_a_remedy(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"step .*(write it as '30s'|give seconds)"):
        duration_ms(wrong, "step")


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (0, 0),
        (-1.5, -1_500),
        (1_700_000_000, NOW),
        ("1700000000.25", NOW + 250),
        ("now", NOW),
        ("-1h", NOW - 3_600_000),
        ("now-5m", NOW - 300_000),
        ("now + 1s", NOW + 1_000),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T00:00Z", 1_767_225_600_000),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600_000),
        (datetime(2026, 1, 1), 1_767_225_600_000),  # noqa: DTZ001 - naive times are UTC
        (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600_000),
        (datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 1_767_225_600_000),
        (np.datetime64(1_767_225_600_000_000, "us"), 1_767_225_600_000),
        (np.int64(5), 5_000),
    ],
)
def test_points_in_time(written: object, ms: int) -> None:
    assert time_ms(written, NOW) == ms


@pytest.mark.parametrize("wrong", ["yesterday", "", float("inf"), np.datetime64("NaT"), None, True])
def test_a_wrong_time_is_named(wrong: object) -> None:
    with pytest.raises(ConfigError, match="start"):
        time_ms(wrong, NOW, "start")


def test_milliseconds_without_a_unit_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"looks like milliseconds.*datetime64"):
        time_ms(NOW, NOW)
    with pytest.raises(ConfigError, match=r"look like milliseconds.*datetime64"):
        time_column_ms(np.array([NOW]), NOW)


@pytest.mark.parametrize(
    "column",
    [
        [1.0, 2.5],
        np.array([1_000, 2_500]).view("datetime64[ms]"),
        np.array([1_000_000_000, 2_500_000_000]).view("datetime64[ns]"),
        pl.Series([1_000_000, 2_500_000]).cast(pl.Datetime("us", "UTC")),
        [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 2, 500_000, tzinfo=UTC)],
        ["1970-01-01T00:00:01Z", "2.5"],
    ],
)
def test_columns_keep_the_unit_they_carry(column: object) -> None:
    assert time_column_ms(column, NOW).tolist() == [1_000, 2_500]


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 2)), np.array(["NaT"], dtype="datetime64[ms]"), np.array([float("nan")]), np.array([b"x"])],
)
def test_a_wrong_column_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="timestamps"):
        time_column_ms(wrong, NOW)


def test_an_empty_column_is_empty() -> None:
    assert time_column_ms([], NOW).dtype == np.int64
