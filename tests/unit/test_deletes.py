"""Deletions: exact, gone on return, taken back while there is time; with a directory also after a kill."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.lifecycle import deletions
from metricsdb.testing.clock import FakeClock

T0 = 1_700_000_000
A, B = {"__name__": "m", "i": "a"}, {"__name__": "m", "i": "b"}


def filled(path=None, samples=100, **options):
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(path, clock=clock, **options)
    for labels in (A, B):
        db.append(labels, np.arange(T0, T0 + samples), np.arange(samples, dtype=float))
    return db, clock


def times(db, selector="m"):
    return {one.labels["i"]: (one.timestamps // 1000 - T0).tolist() for one in db.raw(selector, 0, T0 * 2)}


def test_a_deletion_is_exact_and_gone_on_return():
    db, _ = filled()
    done = db.delete('m{i="a"}', T0 + 10, T0 + 19)
    assert (done.samples, done.series, done.gone, done.id) == (10, 1, 0, None)
    assert times(db) == {"a": [*range(10), *range(20, 100)], "b": list(range(100))}
    assert db.delete("m").gone == 2
    assert db._native.stats()["series"] == 0
    assert db.retention.log("deleted")["samples"].to_list() == [10, 190]


@pytest.mark.parametrize("kept", ["memory", "directory"])
def test_a_deletion_can_be_taken_back_while_there_is_time(tmp_path, kept):
    db, clock = filled(tmp_path if kept == "directory" else None)
    before = db.raw("m", 0, T0 * 2)
    first = db.delete(["m", 'm{i="a"}'], T0 + 50, undo="1h")
    second = db.delete('m{i="b"}', T0, T0 + 9, undo="2h")
    assert (first.samples, second.samples) == (100, 10)
    assert db.deletions()["samples"].to_list() == [100, 10]
    assert db.deletions()["selectors"].to_list() == [["m", 'm{i="a"}'], ['m{i="b"}']]
    assert db.deletions()["end"][0] is None
    assert db.undelete(first.id) == 100
    with pytest.raises(mdb.ConfigError, match=f"those that can: {second.id!r}"):
        db.undelete(first.id)
    clock.move(7200)
    db.tick()
    assert db.deletions().is_empty()
    with pytest.raises(mdb.ConfigError, match="those that can: none"):
        db.undelete(second.id)
    after = db.raw("m", 0, T0 * 2)
    assert before[0].timestamps.tolist() == after[0].timestamps.tolist()
    assert before[1].timestamps.tolist()[10:] == after[1].timestamps.tolist()
    assert db.retention.log()["what"].to_list() == ["deleted", "deleted", "undeleted"]
    if kept == "directory":
        assert not list((tmp_path / "trash").iterdir())


def test_what_waits_is_there_after_a_restart_and_half_of_a_deletion_is_not(tmp_path):
    db, clock = filled(tmp_path)
    done = db.delete("m", T0, T0 + 49, undo="1d")
    (tmp_path / "trash" / "half").mkdir()
    (tmp_path / "trash" / "half" / "0.samples.parquet").write_bytes(b"PAR1")
    db.close()
    db = mdb.Database(tmp_path, clock=clock)
    assert db.deletions()["id"].to_list() == [done.id]
    assert not (tmp_path / "trash" / "half").exists()
    assert db.undelete(done.id) == 100
    assert times(db) == {"a": list(range(100)), "b": list(range(100))}
    assert db.retention.log()["what"].to_list() == ["deleted", "undeleted"]


def test_integers_starts_and_histograms_come_back_as_they_were():
    db, _ = filled()
    big = np.array([2**63 + 1, 2**64 - 1], dtype=np.uint64)
    db.append({"__name__": "u"}, [T0, T0 + 1], big)
    db.append({"__name__": "n"}, [T0], np.array([-(2**62) - 1]))
    db.ingest(b"# TYPE c counter\nc_total 5 1700000001\nc_created 1700000000 1700000001\n# EOF\n", "openmetrics")
    h = mdb.Histogram(schema=0, count=3, sum=float("nan"), positive_spans=[(0, 1)], positive_buckets=[3])
    db.append_histograms({"__name__": "h"}, [T0], [h])
    selector = '{__name__=~".+"}'
    before = [(s.labels, s.timestamps.tolist(), s.values.tobytes()) for s in db.raw(selector, 0, T0 * 2)]
    exported = db._native.export(selector, 0, T0 * 2000)
    done = db.delete(selector, undo="1h")
    assert db.raw(selector, 0, T0 * 2) == []
    db.undelete(done.id)
    assert before == [(s.labels, s.timestamps.tolist(), s.values.tobytes()) for s in db.raw(selector, 0, T0 * 2)]
    again = db._native.export(selector, 0, T0 * 2000)
    assert sorted(exported[0]["digest"].to_list()) == sorted(again[0]["digest"].to_list())


def test_a_series_that_is_written_meanwhile_is_looked_at_again(monkeypatch):
    db, _ = filled()
    native, real = db._native, type(db._native).export
    late = iter([T0 + 5.5, T0 + 6.5])

    class Racing:
        """Somebody writes after each export."""

        def __getattr__(self, name):
            return getattr(native, name)

        def export(self, *arguments):
            found = real(native, *arguments)
            if (time := next(late, None)) is not None:
                db.append(A, [time], [1.0])
            return found

    monkeypatch.setattr(db, "_store", Racing())
    done = db.delete("m", undo="1h")
    assert done.samples == 202
    assert db.raw("m", 0, T0 * 2) == []
    monkeypatch.setattr(db, "_store", native)
    assert db.undelete(done.id) == 202
    assert times(db, 'm{i="b"}') == {"b": list(range(100))}


def test_who_writes_all_the_time_cannot_hold_a_deletion_up(monkeypatch):
    monkeypatch.setattr(deletions, "TRIES", 1)
    db, _ = filled()
    real = type(db._native).export
    native = db._native

    class Racing:
        def __getattr__(self, name):
            return getattr(native, name)

        def export(self, *arguments):
            found = real(native, *arguments)
            db.append(A, [T0 + 0.5], [1.0])
            return found

    monkeypatch.setattr(db, "_store", Racing())
    done = db.delete("m", undo="1h")
    monkeypatch.setattr(db, "_store", native)
    assert (done.samples, db.raw("m", 0, T0 * 2)) == (201, [])
    # What came in between was not safe, and is gone for good.
    assert db.undelete(done.id) == 100


def test_what_a_person_gets_wrong_is_said(tmp_path):
    db, _ = filled()
    with pytest.raises(mdb.ConfigError, match="start .* is after end"):
        db.delete("m", T0 + 1, T0)
    with pytest.raises(mdb.ConfigError, match="name the series"):
        db.delete([])
    with pytest.raises(mdb.ConfigError, match="undo"):
        db.delete("m", undo="soon")
    with pytest.raises(mdb.ParseError):
        db.delete("m{")
    assert db.delete("nothing", undo="1h").id is None
    assert len(times(db)["a"]) == 100


def test_a_disk_that_fails_deletes_nothing(tmp_path):
    db, _ = filled(tmp_path)
    (tmp_path / "trash").write_text("a file")
    with pytest.raises(mdb.StorageError, match="nothing more was deleted"):
        db.delete("m", undo="1h")
    assert len(times(db)["a"]) == 100


def test_records_of_buckets_that_are_cut_go_whole_and_are_counted():
    clock = FakeClock((T0 + 7200) * 1000)
    db = mdb.Database(clock=clock, rollups={"m": "raw 2m -> 1m"})
    start = T0 - T0 % 60
    db.append(A, np.arange(start, start + 7200), np.ones(7200))
    for _ in range(5):
        db.tick()
        clock.move(60)
    assert db.rollups.levels()["records"][0] > 60
    done = db.delete("m", start + 90, start + 600, undo="1h")
    assert done.buckets == 1
    assert done.records >= 9
    assert db.query_range("count_over_time(m[1m])", start + 180, start + 540, 60).is_empty()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_deletions_and_undeletions_are_those_of_a_set(data):
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock)
    model: dict[str, set[int]] = {"a": set(), "b": set()}
    waiting: dict[str, dict[str, set[int]]] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(["write", "write", "delete", "undo"]))
        low = data.draw(st.integers(0, 60))
        span = set(range(low, low + data.draw(st.integers(1, 40))))
        of = data.draw(st.sampled_from(["a", "b"]))
        if step == "write":
            db.append({"__name__": "m", "i": of}, np.array(sorted(span)) + T0, np.array(sorted(span), dtype=float))
            model[of] |= span
        elif step == "delete":
            selector, pods = data.draw(st.sampled_from([("m", "ab"), ('m{i="a"}', "a")]))
            done = db.delete(selector, T0 + low, T0 + max(span), undo="1h")
            taken = {pod: model[pod] & span for pod in pods}
            for pod in pods:
                model[pod] -= span
            assert done.samples == sum(map(len, taken.values()))
            if done.id is not None:
                waiting[done.id] = taken
        elif waiting:
            name = data.draw(st.sampled_from(sorted(waiting)))
            db.undelete(name)
            for pod, back in waiting.pop(name).items():
                model[pod] |= back
        assert times(db) == {pod: sorted(held) for pod, held in model.items() if held}
        assert db.deletions()["id"].to_list() == sorted(waiting)


def test_the_frame_of_no_deletions_has_columns():
    db, _ = filled()
    assert db.deletions().schema["until"] == pl.Datetime("ms", "UTC")


def test_the_log_is_in_the_directory_line_by_line(tmp_path):
    db, _ = filled(tmp_path)
    db.delete("m", T0, T0)
    lines = (tmp_path / "retention.log").read_text().splitlines()
    assert json.loads(lines[0])["what"] == "deleted"
    assert json.loads(lines[0])["samples"] == 2


def test_what_left_before_the_disk_failed_can_be_taken_back(tmp_path, monkeypatch):
    db, _ = filled(tmp_path)
    real = deletions.Trash._write

    def write(trash, name, at, frames, digests=None):
        if at == 1:
            raise mdb.StorageError("the disk is full; nothing more was deleted")
        real(trash, name, at, frames, digests)

    with monkeypatch.context() as patch:
        patch.setattr(deletions.Trash, "_write", write)
        with pytest.raises(mdb.StorageError, match="nothing more was deleted"):
            db.delete(['m{i="a"}', 'm{i="b"}'], undo="1h")
    assert times(db) == {"b": list(range(100))}
    db.close()
    db = mdb.Database(tmp_path, clock=FakeClock(T0 * 1000))
    (name,) = db.deletions()["id"]
    assert db.undelete(name) == 100
    assert times(db) == {"a": list(range(100)), "b": list(range(100))}


def test_a_note_that_cannot_be_written_deletes_nothing(tmp_path, monkeypatch):
    db, _ = filled(tmp_path)

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(deletions, "sync_folder", full)
        with pytest.raises(mdb.StorageError, match=r"No space left on device; nothing more was deleted"):
            db.delete("m", undo="1h")
    assert db.deletions().is_empty()
    assert times(db) == {"a": list(range(100)), "b": list(range(100))}
    assert not list((tmp_path / "trash").iterdir())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_a_process_that_ends_inside_a_deletion_loses_no_sample(tmp_path, dropped):
    """Of two series so many have left memory when it ends."""
    db, _ = filled(tmp_path, duplicates="sum")
    db.append(A, [T0 + 500], [7.0])
    native = db._native

    class Ending:
        def __getattr__(self, name):
            return getattr(native, name)

        def drop_copied(self, handles, digests, *rest):
            native.drop_copied(handles[:dropped], digests[:dropped], *rest)
            raise Killed

    db._store = Ending()
    with pytest.raises(Killed):
        db.delete("m", T0, T0 + 200, undo="1h")
    db._store = native
    db.close()
    db = mdb.Database(tmp_path, clock=FakeClock(T0 * 1000), duplicates="sum")
    held = sum(map(len, times(db).values()))
    assert held == 201 - 100 * dropped
    assert db.deletions()["samples"].to_list() == ([100 * dropped] if dropped else [])
    for name in db.deletions()["id"]:
        assert db.undelete(name) == 100 * dropped
    assert times(db) == {"a": [*range(100), 500], "b": list(range(100))}
    # No sample came twice: sums would say so.
    assert [s.values.max() for s in db.raw("m", T0, T0 + 200)] == [99, 99]
    assert not list((tmp_path / "trash").iterdir())
