"""Precision policies: who gets which, what they change, what they leave, and what a preview says before."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import metricsdb as mdb
from metricsdb import config

T0 = 1_700_000_000
NOISE = np.random.default_rng(11).normal(50, 9, 2048)


def columns(db: mdb.Database, metric: str, values: object, start: int = 0) -> None:
    count = len(np.atleast_1d(values))
    db.append({"__name__": metric}, T0 + 15 * np.arange(start, start + count), values)


def stored(db: mdb.Database, metric: str) -> list[float]:
    return [float(v) for series in db.raw(metric, 0, T0 + 10**8) for v in series.values]


def test_nothing_is_rounded_unless_a_policy_says_so():
    db = mdb.Database()
    columns(db, "m", [1.23456])
    assert stored(db, "m") == [1.23456]
    assert db.precision.list().is_empty()


def test_the_first_selector_that_matches_wins_and_others_stay_exact():
    db = mdb.Database(precision={"room": "decimals(1)", '{__name__=~"r.+"}': "digits(5)"})
    for metric in ("room", "roof", "sky"):
        columns(db, metric, [21.234567])
    assert [stored(db, m) for m in ("room", "roof", "sky")] == [[21.2], [21.235], [21.234567]]
    assert db.precision.list().rows() == [
        ("room", "decimals(1)", "exact", 1),
        ('{__name__=~"r.+"}', "digits(5)", "exact", 1),
    ]
    assert db.precision.list().schema == {
        "selector": pl.String, "policy": pl.String, "counters": pl.String, "series": pl.UInt64,
    }  # fmt: skip


def test_setting_a_selector_again_replaces_its_policy_where_it_stands():
    db = mdb.Database()
    db.precision.set("m", "decimals(0)")
    db.precision.set('{__name__="m"}', "decimals(3)")
    columns(db, "m", [1.23456], 0)
    assert db.precision.set("m", "decimals(1)", counters="rounded") is None
    columns(db, "m", [1.23456], 1)
    assert db.precision.list().rows()[0] == ("m", "decimals(1)", "rounded", 1)
    db.precision.remove("m")
    columns(db, "m", [1.23456], 2)
    db.precision.remove('{__name__="m"}')
    columns(db, "m", [1.23456], 3)
    assert stored(db, "m") == [1.0, 1.2, 1.235, 1.23456]


def test_late_samples_are_rounded_too():
    db = mdb.Database(precision={"m": "decimals(1)"})
    columns(db, "m", NOISE[:1024], 10)
    columns(db, "m", NOISE[:9], 0)
    columns(db, "m", NOISE[20:22], 30)
    found = np.array(stored(db, "m"))
    assert len(found) == 1033
    assert (found == np.round(found, 1)).all()
    db._native.check()


def test_counters_keep_their_integers_by_declaration_or_by_name():
    body = b"# TYPE requests counter\nrequests 12345.6\nbytes_total 98765\ntemperature 98765.4\n"
    db = mdb.Database(precision={'{__name__=~".+"}': "digits(2)"})
    db.ingest(body, "prometheus", time=T0)
    assert [stored(db, m) for m in ("requests", "bytes_total", "temperature")] == [[12345.0], [98765.0], [99000.0]]
    db.precision.set('{__name__=~".+"}', "digits(2)", counters="rounded")
    db.ingest(body, "prometheus", time=T0 + 15)
    assert [stored(db, m)[1] for m in ("requests", "bytes_total", "temperature")] == [12000, 99000, 99000]


def test_integers_stay_integers_and_markers_stay_what_they_are():
    db = mdb.Database(precision={"m": "decimals(-2)"})
    columns(db, "m", [1234, 1250, 1350, -49])
    assert db.raw("m", 0, T0 + 10**6)[0].values.tolist() == [1200, 1200, 1400, 0]
    assert db.raw("m", 0, T0 + 10**6)[0].values.dtype == np.int64
    bits = np.array([0x7FF0000000000002, 0x7FF8DEADBEEF0000, 0xFFF0000000000000], dtype=np.uint64)
    columns(db, "m", bits.view(np.float64), 4)
    assert (db.raw("m", T0 + 60, T0 + 10**6)[0].values.view(np.uint64) == bits).all()


def test_a_preview_has_a_row_a_metric_and_changes_nothing():
    db = mdb.Database()
    for metric in ("quiet", "loud"):
        columns(db, metric, NOISE if metric == "loud" else np.full(2048, 7.0))
    before = db.select('{__name__=~".+"}', T0, "now").sort("__name__", "timestamp")
    frame = db.precision.preview("decimals(1)", '{__name__=~".+"}')
    assert frame.schema == {
        "metric": pl.String, "series": pl.UInt64, "samples": pl.UInt64, "bytes_now": pl.UInt64,
        "bytes_then": pl.UInt64, "saved": pl.Int64, "saved_ratio": pl.Float64, "max_abs_error": pl.Float64,
        "max_rel_error": pl.Float64, "rms_error": pl.Float64,
    }  # fmt: skip
    assert frame["metric"].to_list() == ["loud", "quiet"]
    loud, quiet = frame.rows(named=True)
    assert (quiet["saved"], quiet["max_abs_error"], quiet["rms_error"]) == (0, 0, 0)
    error = np.abs(NOISE - np.round(NOISE, 1))
    assert loud["samples"] == 2048
    assert loud["saved"] == loud["bytes_now"] - loud["bytes_then"] > 0.5 * loud["bytes_now"]
    assert loud["saved_ratio"] == pytest.approx(loud["saved"] / loud["bytes_now"])
    assert loud["max_abs_error"] == pytest.approx(error.max())
    assert loud["max_rel_error"] == pytest.approx((error / np.abs(NOISE)).max())
    assert loud["rms_error"] == pytest.approx(np.sqrt((error**2).mean()))
    assert_frame_equal(before, db.select('{__name__=~".+"}', T0, "now").sort("__name__", "timestamp"))
    assert db.precision.list().is_empty()


def test_a_preview_looks_at_its_range_and_knows_counters():
    db = mdb.Database()
    columns(db, "x_total", np.arange(10_000, 11_000))
    assert db.precision.preview("digits(2)", "x_total")["max_abs_error"].item() == 0
    rounded = db.precision.preview("digits(2)", "x_total", counters="rounded", start=T0, end=T0 + 15 * 99)
    assert rounded.select("samples", "max_abs_error").row(0) == (100, 99)
    assert db.precision.preview("digits(2)", "nobody").is_empty()
    with pytest.raises(mdb.QueryLimit, match="max_samples"):
        db.precision.preview("digits(2)", "x_total", max_samples=999)


@pytest.mark.parametrize("policy", ["decimals(1)", "digits(3)", "relative(0.01)", "bits(10)", "lossless"])
def test_a_preview_foretells_the_bytes(policy):
    now, then = mdb.Database(), mdb.Database(precision={'{__name__=~"m."}': policy})
    series = {"m0": NOISE, "m1": np.cumsum(NOISE - 50), "m2": np.abs(NOISE) * 1e6}
    for metric, values in series.items():
        columns(now, metric, values)
        columns(then, metric, values)
    foretold = now.precision.preview(policy, '{__name__=~"m."}')

    def sealed(db: mdb.Database) -> int:
        return db.memory().filter(pl.col("part") == "sealed chunks")["bytes"].item()

    assert then.stats().filter(pl.col("name") == "open_samples")["value"].item() == 0
    assert foretold["bytes_then"].sum() == pytest.approx(sealed(then), rel=0.1)
    assert foretold["bytes_now"].sum() == pytest.approx(sealed(now), rel=0.1)


def test_a_rewrite_is_as_if_the_policy_had_been_there():
    late, early = mdb.Database(), mdb.Database(precision={"m": "digits(3)"})
    for db in (late, early):
        columns(db, "m", NOISE[:1500])
        columns(db, "other", NOISE[:10])
    report = late.precision.set("m", "digits(3)", rewrite=True)
    assert report is not None
    row = report.row(0, named=True)
    assert (row["series"], row["samples"]) == (1, 1500)
    assert 1400 < row["changed"] <= 1500
    assert row["bytes_after"] < row["bytes_before"] / 2
    assert stored(late, "m") == stored(early, "m")
    assert stored(late, "other") == NOISE[:10].tolist()
    assert late.precision.apply("m")["changed"].item() == 0
    assert late.precision.apply("other").row(0) == (0, 0, 0, 0, 0)
    late._native.check()


def test_policies_outlive_close():
    db = mdb.Database(precision={"m": "decimals(0)"})
    db.close()
    columns(db, "m", [1.6])
    assert stored(db, "m") == [2.0]


@pytest.mark.parametrize(
    ("selector", "policy", "error", "words"),
    [
        ("m{", "digits(3)", mdb.ParseError, ["'m{'"]),
        ("rate(m[5m])", "digits(3)", mdb.ParseError, ["'rate(m[5m])'"]),
        ("m", "digits(18)", mdb.ConfigError, ["'m'", "digits(18)", "1 to 17"]),
        ("m", "sharp", mdb.ConfigError, ["'m'", "sharp", "relative(0.001)"]),
    ],
)
def test_a_refusal_names_input_and_remedy_and_changes_nothing(selector, policy, error, words):
    db = mdb.Database(precision={"m": "decimals(1)"})
    for call in (lambda: db.precision.set(selector, policy), lambda: db.precision.preview(policy, selector)):
        with pytest.raises(error) as caught:
            call()
        assert all(word in str(caught.value) for word in words), caught.value
    assert db.precision.list().rows() == [("m", "decimals(1)", "exact", 0)]
    with pytest.raises(error):
        mdb.Database(precision={selector: policy})


def test_other_refusals():
    db = mdb.Database(precision={"m": "decimals(1)"})
    with pytest.raises(mdb.ConfigError, match="'n'.*'m'"):
        db.precision.remove("n")
    with pytest.raises(mdb.ConfigError, match="'exact' or 'rounded'"):
        db.precision.set("m", "digits(3)", counters="maybe")  # type: ignore[arg-type]
    with pytest.raises(mdb.ConfigError, match="max_samples 0"):
        db.precision.preview("digits(3)", "m", max_samples=0)
    for i in range(126):
        db.precision.set(f"m{i}", "digits(3)")
    with pytest.raises(mdb.ConfigError, match="at most 127"):
        db.precision.set("one_more", "digits(3)")


def test_the_configuration_has_a_list_of_them():
    text = b"""
precision:
  - {selector: 'm{a="b"}', policy: digits(4)}
  - {selector: n, policy: lossless, counters: rounded}
"""
    got = config.parse(text).precision
    assert [(p.selector, p.policy, p.counters) for p in got] == [
        ('m{a="b"}', "digits(4)", "exact"),
        ("n", "lossless", "rounded"),
    ]
    assert config.parse(config.dump(config.parse(text)).encode()).precision == got
    for wrong, words in [
        (b"precision: [{selector: m}]", "precision[0]"),
        (b"precision: [{selector: m, policy: bits(3), counters: no}]", "counters"),
        (b"precision: [{selector: m, policy: a}, {selector: m, policy: b}]", "'m'"),
    ]:
        with pytest.raises(mdb.ConfigError) as caught:
            config.parse(wrong)
        assert words in str(caught.value)
