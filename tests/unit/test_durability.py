"""A database with a directory: what comes back, what it says of itself, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metricsdb as mdb
from metricsdb.errors import ConfigError, DatabaseLocked, FormatVersionError, NotDurable, StorageError

T0 = 1_700_000_000


def rows(db: mdb.Database) -> list[tuple[str, list[int], list[float]]]:
    found = db.raw('{__name__=~".+"}', 0, T0 + 10**8)
    return [(str(s.labels), s.timestamps.tolist(), s.values.tolist()) for s in found]


def fill(db: mdb.Database) -> None:
    for n in range(50):
        db.append({"__name__": "m", "n": str(n)}, T0 + 15 * np.arange(300), np.arange(300) / (n + 1))
    db.append({"__name__": "ints"}, [T0, T0 + 1], np.array([2**62 + 1, -5]))
    db.append_histograms({"__name__": "h"}, T0, mdb.Histogram(schema=0, count=3, sum=4.0, zero_count=3))
    db.ingest(b"# HELP m help\n# TYPE m gauge\nm 1\n", "prometheus", time=T0)


@pytest.mark.parametrize("mode", ["batch", "interval", "none"])
def test_what_was_written_is_there_when_it_is_opened_again(tmp_path, mode):
    with mdb.Database(tmp_path / "db", durability=mode, precision={"ints": "digits(3)"}) as db:
        fill(db)
        before, metadata = rows(db), db.metadata()
        assert db.recovery is not None
        assert db.recovery.series == 0
        assert not db.recovery.damaged
        assert (db.durability.mode, db.durability.path) == (mode, str(tmp_path / "db"))
    for _ in range(2):
        with mdb.Database(tmp_path / "db", durability=mode) as db:
            assert rows(db) == before
            assert db.metadata().equals(metadata)
            assert db.histograms("h", 0, T0 + 1).height == 1
            assert db.precision.list().rows() == [("ints", "digits(3)", "exact", 1)]
            assert db.recovery.series == 53
            db.checkpoint()
            assert db.durability.replay_bytes < 1000 < db.durability.checkpoint_bytes
            db._native.check()


def test_the_api_says_what_each_mode_may_lose(tmp_path):
    modes = {"batch": "no acknowledged sample", "interval": "in the last 0.25 s", "none": "without a bound"}
    for mode, words in modes.items():
        with mdb.Database(tmp_path / mode, durability=mode, sync_interval="250ms") as db:
            assert words in db.durability.loss
            assert db.durability.sync_interval_s == (0.25 if mode == "interval" else None)
    memory = mdb.Database()
    assert memory.durability.mode == "none"
    assert "no directory" in memory.durability.loss
    assert memory.recovery is None
    memory.sync()
    assert "journal_failing" not in dict(memory.stats().iter_rows())


def test_a_second_writer_is_refused_by_name(tmp_path):
    with mdb.Database(tmp_path / "db") as db:
        db.append({"__name__": "m"}, 1, 1)
        with pytest.raises(DatabaseLocked, match=rf"{tmp_path}/db is open in another process \(pid {os.getpid()}\)"):
            mdb.Database(tmp_path / "db")
        code = f"import metricsdb; metricsdb.Database({str(tmp_path / 'db')!r})"
        environment = {**os.environ, "PYTHONPATH": str(Path(mdb.__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert f"pid {os.getpid()}" in done.stderr
    mdb.Database(tmp_path / "db").close()


def test_a_closed_database_says_so(tmp_path):
    db = mdb.Database(tmp_path / "db")
    db.close()
    db.close()
    with pytest.raises(ConfigError, match="is closed; open it again"):
        db.append({"__name__": "m"}, 1, 1)


def test_a_snapshot_is_a_database_and_restore_copies_it(tmp_path):
    db = mdb.Database()
    fill(db)
    db.snapshot(tmp_path / "snapshot")
    before = rows(db)
    with pytest.raises(ConfigError, match="there is a database already"):
        db.snapshot(tmp_path / "snapshot")
    with mdb.Database.restore(tmp_path / "snapshot", tmp_path / "new", durability="none") as restored:
        assert rows(restored) == before
        restored.append({"__name__": "only_here"}, T0, 1)
    with mdb.Database(tmp_path / "snapshot") as opened:
        assert rows(opened) == before
        opened.snapshot(tmp_path / "third")
    for wrong in (tmp_path / "new", tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            mdb.Database.restore(wrong if wrong.name == "nowhere" else tmp_path / "third", tmp_path / "new")


def test_damage_is_passed_over_and_listed(tmp_path):
    with mdb.Database(tmp_path / "db") as db:
        fill(db)
        db.checkpoint()
    part = next((tmp_path / "db").glob("checkpoint-*-*"))
    body = bytearray(part.read_bytes())
    for at in range(len(body) // 2, len(body), 997):
        body[at] ^= 0xFF
    part.write_bytes(body)
    with mdb.Database(tmp_path / "db") as db:
        report = db.recovery
        assert report.damaged
        assert report.skipped.height > 0
        assert report.lost.height > 0
        named = report.lost.drop_nulls("series")
        assert named.columns == ["series", "start", "end", "samples", "what", "cause"]
        db._native.check()
    with mdb.Database(tmp_path / "db") as db:
        assert not db.recovery.damaged


def test_another_version_of_the_format_is_refused(tmp_path):
    with mdb.Database(tmp_path / "db") as db:
        db.append({"__name__": "m"}, 1, 1)
    journal = next((tmp_path / "db").glob("journal-*"))
    from zlib import crc32

    copy = bytearray(journal.read_bytes()[:28])
    copy[8] = 7
    copy += crc32(copy).to_bytes(4, "little")
    journal.write_bytes(bytes(copy) * 2)
    with pytest.raises(FormatVersionError, match=r"journal-0000000001 has version 7 .* reads version 1"):
        mdb.Database(tmp_path / "db")


def test_wrong_arguments_are_refused(tmp_path):
    cases = [
        ((), {"durability": "batch"}, "needs a directory"),
        ((tmp_path / "x",), {"durability": "always"}, "give batch, interval or none"),
        ((tmp_path / "x",), {"sync_interval": "1ms"}, "too short"),
        (("",), {}, "empty"),
    ]
    for arguments, options, words in cases:
        with pytest.raises(ConfigError, match=words):
            mdb.Database(*arguments, **options)
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="give a directory that can be written"):
        mdb.Database(tmp_path / "file")
    assert issubclass(NotDurable, mdb.WriteError)


def test_one_that_nobody_closed_lets_go_of_its_directory(tmp_path):
    for turn in range(3):
        db = mdb.Database(tmp_path / "db", durability="interval", sync_interval="1h")
        db.append({"__name__": "m"}, T0 + turn, turn)
        if turn == 1:
            db.start("10ms")
        elif turn == 2:
            # In a cycle, which only the collector finds.
            db.me = db  # type: ignore[attr-defined]
        threads = (db._keeper._sync._thread, db._keeper._checkpoint._thread) if db._keeper else ()
        del db
        with mdb.Database(tmp_path / "db") as again:
            assert len(again.raw("m", 0, T0 + 10)[0].timestamps) == turn + 1
            # It was closed, not found as after a crash: all of the journal is known to be safe.
            assert again.recovery is not None
            assert again.recovery.cut.height == 0
        assert not any(thread.is_alive() for thread in threads)


def test_the_end_of_a_process_closes_what_it_left_open(tmp_path):
    script = (
        "import sys, metricsdb; db = metricsdb.Database(sys.argv[1], durability='interval', sync_interval='1h');"
        "db.append({'__name__': 'm'}, 1, 1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "db")], check=True, timeout=60)
    # The last frame is short: it says how far the journal was synced.
    segment = (tmp_path / "db" / "journal-0000000001").read_bytes()
    assert segment.rfind(b"\xff\xfe") >= len(segment) - 27
    with mdb.Database(tmp_path / "db") as db:
        assert db.recovery is not None
        assert (db.recovery.whole, db.series("m").height) == (True, 1)


def test_what_was_not_synced_is_told_from_damage(tmp_path):
    db = mdb.Database(tmp_path / "db", durability="interval", sync_interval="1h")
    for step in range(3):
        db.append({"__name__": "m"}, T0 + step, step)
        db.sync()
    synced = (tmp_path / "db" / "journal-0000000001").stat().st_size
    for step in range(3, 9):
        db.append({"__name__": "m"}, T0 + step, step)
    end = (tmp_path / "db" / "journal-0000000001").stat().st_size
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    shutil.copytree(tmp_path / "db", tmp_path / "bad")
    db.close()
    for folder, at in {"copy": end - 60, "bad": synced - 60}.items():
        segment = tmp_path / folder / "journal-0000000001"
        whole = bytearray(segment.read_bytes())
        whole[at : at + 4] = bytes(4)
        segment.write_bytes(whole)
        with mdb.Database(tmp_path / folder) as again:
            report = again.recovery
            assert report is not None
            assert (report.whole, report.damaged) == (False, folder == "bad")
            assert (report.unsynced.height, report.skipped.height) == ((0, 1) if report.damaged else (1, 0))
            assert set(report.lost["cause"]) == {"damaged" if report.damaged else "unsynced"}
            assert len(again.raw("m", 0, T0 + 10)[0].timestamps) == 8
