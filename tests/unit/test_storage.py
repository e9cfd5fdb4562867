"""The account of memory: every table adds up, and it is what the process really grows by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb import storage

T0 = 1_700_000_000
KEYS = [k for k in get_args(storage.By) if k != "part"]


def held(account: pl.DataFrame) -> int:
    """Bytes of the database, without what the process freed and keeps."""
    return account.filter(pl.col(account.columns[0]) != storage.FREED)["bytes"].sum()


def fleet(hosts: int, steps: int, jitter: int = 0) -> mdb.Database:
    """Per host a counter, a constant and a decimal."""
    db = mdb.Database()
    names = ["requests_total", "up", "load"]
    frame = pl.select(n=pl.int_range(hosts * 3)).select(
        pl.lit(pl.Series(names)).gather(pl.col("n") % 3).alias("__name__"),
        pl.format("host-{}", pl.col("n") // 3).alias("host"),
        pl.format("dc-{}", pl.col("n") // 3 % 4).alias("dc"),
    )
    refs = db.register(frame)
    kind = np.arange(len(refs)) % 3
    for t in range(steps):
        values = np.choose(
            kind, [np.full(len(refs), t * 10.0) + kind, np.ones(len(refs)), np.full(len(refs), t % 7 / 8)]
        )
        db.append_batch(refs, T0 + 15 * t + t * 7919 % (jitter + 1) / 1000, values)
    return db


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 60), st.integers(0, 700), st.integers(0, 9))
def test_every_table_adds_up_to_the_same_total(hosts, steps, jitter):
    with fleet(hosts, steps, jitter) as db:
        total = held(db.memory())
        for by in KEYS:
            frame = db.memory(by=by)
            assert frame.columns == [by, "bytes", "series", "samples", "bytes_per_series", "bytes_per_sample", "share"]
            assert held(frame) == total
            assert frame[by].is_unique().all()
            assert frame["bytes"].is_sorted(descending=True)
            assert frame["share"].sum() == pytest.approx(1)


def test_metrics_count_their_series_and_samples():
    with fleet(10, 100) as db:
        rows = db.memory(by="metric").rows_by_key("metric", named=True, unique=True)
        assert (rows["up"]["series"], rows["up"]["samples"]) == (10, 1000)
        assert rows["up"]["bytes_per_sample"] == rows["up"]["bytes"] / 1000
        assert rows["(index)"]["bytes_per_sample"] is None


def test_an_unknown_key_is_refused_with_those_there_are():
    with mdb.Database() as db, pytest.raises(mdb.ConfigError, match="part, metric, label, codec, tier, shard"):
        db.memory(by="colour")


def test_chunks_are_explained_one_by_one():
    with fleet(3, 1100, jitter=5) as db:
        chunks = db.explain_storage("load")
        assert chunks["samples"].sum() == 3 * 1100
        assert chunks["series"].n_unique() == 3
        assert chunks.filter(tier="sealed")["time_codec"].unique().to_list() == ["column"]
        assert (chunks["first"] < chunks["last"]).all()
        assert chunks.filter(tier="open")["detail"].str.contains("slack").all()
        assert db.explain_storage("load", limit=2).height == 2
        with pytest.raises(mdb.ConfigError):
            db.explain_storage("load", limit=-1)
        with pytest.raises(mdb.ParseError):
            db.explain_storage("load{")


def test_labels_may_be_named_like_the_columns():
    with mdb.Database() as db:
        db.append({"__name__": "x", "tier": "a", "samples": "b", "series": "c"}, T0, 1)
        assert db.explain_storage("x")["series"].to_list() == ['x{samples="b", series="c", tier="a"}']


def test_forms_are_compared_by_what_they_really_take():
    with fleet(100, 300) as db:
        forms = db.compare_storage().rows_by_key("form", named=True, unique=True)
        samples = 100 * 3 * 300
        assert forms["16-byte pairs"]["bytes"] == 16 * samples
        assert forms["float32 pairs"]["ratio_to_pairs"] == 0.75
        assert forms["metricsdb, labels and index too"]["bytes"] == held(db.memory())
        assert forms["metricsdb"]["bytes"] < forms["metricsdb, labels and index too"]["bytes"]
        assert forms["Parquet, zstd"]["measured_samples"] == samples
        one = db.compare_storage("load").rows_by_key("form", named=True, unique=True)
        assert one["16-byte pairs"]["bytes"] == 16 * samples // 3
        assert one["metricsdb"]["bytes"] == db.explain_storage("load")["bytes"].sum()


def test_a_sample_of_the_series_stands_for_all(monkeypatch):
    rng = np.random.default_rng(3)
    with mdb.Database() as db:
        for i in range(200):
            db.append({"__name__": "x", "i": str(i)}, T0 + np.arange(300.0), rng.normal(size=300))
        whole = db.compare_storage().rows_by_key("form", named=True, unique=True)["Parquet, zstd"]
        monkeypatch.setattr(storage, "SAMPLES_MEASURED", 6_000)
        part = db.compare_storage().rows_by_key("form", named=True, unique=True)["Parquet, zstd"]
        assert (whole["measured_samples"], part["measured_samples"]) == (60_000, 6_000)
        assert part["bytes"] == pytest.approx(whole["bytes"], rel=0.2)


def test_an_empty_database_has_nothing_to_compare_or_to_advise():
    with mdb.Database() as db:
        assert db.compare_storage()["bytes"].to_list()[:2] == [0, 0]
        assert db.advise().is_empty()
        assert db.explain_storage("up").is_empty()


def requests(count: int, steps: int, *, ids: bool) -> mdb.Database:
    db = mdb.Database()
    labels = pl.select(n=pl.int_range(count)).select(
        pl.lit("request_seconds").alias("__name__"),
        pl.format("service-{}", pl.col("n") % 400).alias("service"),
        pl.format("{}", (pl.col("n") * 2654435761 % 2**32)).alias("request_id"),
    )
    refs = db.register(labels if ids else labels.drop("request_id"))
    moments = np.arange(count) // 400 / 1000
    for t in range(steps):
        times = T0 + 15 * t + moments
        db.append_batch(refs, times, np.round(np.sqrt(np.arange(count) * 7919 % 1000 + t), 3))
    return db


@pytest.mark.parametrize(("count", "steps"), [(12_000, 3), (40_000, 2)])
def test_dropping_a_label_saves_what_was_predicted(count, steps):
    def labelled(db):
        return held(db.memory().filter(pl.col("part") != "write buffers"))

    with requests(count, steps, ids=True) as db, requests(count, steps, ids=False) as dropped:
        rows = db.advise().filter(pl.col("subject") == "request_id")
        assert rows["action"][0] == (
            f"drop label request_id: {count:,} values, all but one series each; {count:,} series become 400"
        )
        assert rows["bytes_saved"][0] == pytest.approx(labelled(db) - labelled(dropped), rel=0.1)


def test_metrics_that_say_nothing_are_named():
    with fleet(10, 100) as db:
        for t in range(100):
            db.append({"__name__": "zcopy", "a": "1"}, T0 + t, t * t)
            db.append({"__name__": "original", "a": "1"}, T0 + t, t * t)
        actions = dict(db.advise(100).filter(kind="metric").select("subject", "action").iter_rows())
        assert actions["up"] == "drop metric up: none of its 10 series ever changed"
        assert actions["zcopy"] == "drop metric zcopy: its 1 series repeat those of original"
        assert "if nobody asks" in actions["load"]
        advice = db.advise(3)
        assert advice.height == 3
        assert advice["bytes_saved"].is_sorted(descending=True)
        with pytest.raises(mdb.ConfigError):
            db.advise(-1)


# The child warms every path up in a database that it keeps, so that neither code nor buffers count. glibc's caches of
# small blocks are off, since they count as in use.
CHILD = '''
import ctypes, gc, json, os, sys
import numpy as np
import polars as pl
import metricsdb as mdb
from metricsdb import demo

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

glibc = ctypes.CDLL(None)
glibc.mallinfo2.restype = Mallinfo2

def reading():
    """Bytes resident, and in use by glibc's word."""
    gc.collect()
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if ": " in line)
    heap = glibc.mallinfo2()
    return np.array([int(lines["Rss"].split()[0]) << 10, heap.uordblks + heap.hblkhd])

def accounted(db):
    """All bytes, and those of the database alone."""
    rows = db.memory()
    return np.array([rows["bytes"].sum(), rows.filter(pl.col("part") != "(freed)")["bytes"].sum()])

def labels(start, end):
    return pl.select(n=pl.int_range(start, end)).select(
        pl.format("metric_{}", pl.col("n") % 20).alias("__name__"),
        pl.format("host-{}:9100", pl.col("n") // 20).alias("instance"),
        *(pl.format("v{}", pl.col("n") // 20 % (3 + k)).alias(f"label_{k}") for k in range(6)),
    )

def fill(db, series, steps, dtype):
    refs = np.concatenate([db.register(labels(start, min(series, start + 2000))) for start in range(0, series, 2000)])
    rng, walk = np.random.default_rng(1), np.zeros(series, dtype=np.int64)
    for t in range(steps):
        walk += rng.integers(0, 100, series)
        db.append_batch(refs, 1_700_000_000 + 15 * t, walk.astype(dtype))

def node(db, instances, steps):
    capture = CAPTURE
    for i in range(instances):
        refs = db.register([{**one, "instance": f"node-{i}:9100"} for one in capture.labels])
        for t in range(steps):
            values = capture.values[t]
            there = ~np.isnan(values)
            db.append_batch(refs[there], 1_700_000_000 + 15 * t, values[there])

CAPTURE = demo.read_capture()[0] if sys.argv[1] == "node" else None
case = {
    "many series": (lambda db: fill(db, 40_000, 3, float), lambda db: fill(db, 500_000, 3, float)),
    "integers": (lambda db: fill(db, 4000, 600, int), lambda db: fill(db, 160_000, 600, int)),
    "node": (lambda db: node(db, 1, 400), lambda db: node(db, 320, 400)),
}[sys.argv[1]]
warm = mdb.Database()
case[0](warm)
warm.memory(), warm.query("count({__name__=~'.+'})")
db = mdb.Database()
at_first, before = accounted(db), reading()
case[1](db)
(resident, used), (whole, own) = map(int, reading() - before), map(int, accounted(db) - at_first)
print(json.dumps({"resident": resident, "used": used, "whole": whole, "own": own}))
'''


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup, and asks glibc")
@pytest.mark.parametrize("case", ["many series", "integers", "node"])
def test_the_account_is_what_the_process_grows_by(case):
    env = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    command = [sys.executable, "-c", CHILD, case]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    found = json.loads(run.stdout)
    assert found["own"] == pytest.approx(found["used"], rel=0.01), found
    # A stack or a page table more or less is no part of it.
    assert found["whole"] == pytest.approx(found["resident"], rel=0.03, abs=1 << 20), found


def noisy() -> mdb.Database:
    """Sealed chunks of small random steps, which entropy coding makes smaller, and of digits that are noise."""
    rng = np.random.default_rng(5)
    db = mdb.Database()
    times = (np.arange(4096) * 15_000).astype("datetime64[ms]")
    for i in range(40):
        values = 1000 + rng.standard_normal(4096).cumsum()
        column = np.floor(values) if i % 2 else values.round(6)
        db.append({"__name__": "walk" if i % 2 else "noise", "i": str(i)}, times, column)
    return db


def test_what_reencoding_and_a_policy_are_said_to_save_they_save():
    db = noisy()
    advice = db.advise(limit=100)

    def predicted(kind: str, subject: str) -> int:
        return advice.filter((pl.col("kind") == kind) & (pl.col("subject") == subject))["bytes_saved"][0]

    done = db.reencode()
    saved = done.bytes_before - done.bytes_after
    assert saved > 0
    assert abs(predicted("form", "sealed chunks") - saved) <= 0.1 * saved
    other = noisy()
    report = other.precision.set('{__name__="noise"}', "digits(4)", rewrite=True)
    assert report is not None
    saved = report["bytes_before"][0] - report["bytes_after"][0]
    assert saved > 0
    assert abs(predicted("policy", "noise") - saved) <= 0.1 * saved
    action = advice.filter(pl.col("kind") == "policy")["action"].to_list()
    assert any("precision.set" in text and "off by" in text for text in action)
