"""Old samples recalled, pinned, and handed on as a file."""

from __future__ import annotations

import json
import math
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb import incidents
from metricsdb.lifecycle.cold.move import Mover
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock
from tests.tiers import move, mover_of

pytest.importorskip("obstore")

DAY = 86_400_000
T0 = 1_750_000_000_000 - 1_750_000_000_000 % DAY
STALE = np.uint64(0x7FF0000000000002)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def filled(clock: FakeClock | None = None, path: Path | None = None, cold: str | None = None) -> mdb.Database:
    """Two days of all kinds of samples."""
    db = mdb.Database(path, clock=clock, cold=cold)
    times = np.arange(T0, T0 + 2 * DAY, 600_000).view("datetime64[ms]")
    floats = np.linspace(0, 1, len(times))
    floats[:4] = [math.nan, -0.0, math.inf, STALE.view("float64")]
    db.append({"__name__": "x", "kind": "float"}, times, floats)
    db.append({"__name__": "x", "kind": "int"}, times, 2**60 + np.arange(len(times)))
    db.append({"__name__": "x", "kind": "uint"}, times, np.uint64(2**64 - 1) - np.arange(len(times)).astype(np.uint64))
    histogram = mdb.Histogram(3, 5, 7.5, 0.001, 1, [(0, 2)], [1, 3], [], [], [], "unknown")
    db.append_histograms({"__name__": "h"}, times[:50], [histogram] * 50)
    db.append({"__name__": "other"}, times, floats)
    return db


def exact(db: mdb.Database, selector: str, start: int = T0, end: int = T0 + 2 * DAY) -> list[object]:
    raw = db.raw(selector, at(start), at(end))
    return [(s.labels, s.values.dtype, s.timestamps.tolist(), s.values.view(np.uint64).tolist()) for s in raw]


def half_cold(db: mdb.Database) -> mdb.Database:
    mover = mover_of(db)
    move(db, mover, T0, T0 + DAY - 1)
    return db


def test_a_recalled_view_has_exactly_the_samples_wherever_they_lay():
    whole, db = filled(), half_cold(filled())
    view = db.recall('{__name__=~"x|h"}', at(T0), at(T0 + 2 * DAY))
    assert exact(view, "x") == exact(whole, "x")
    assert view.histograms("h", at(T0), at(T0 + DAY)).equals(whole.histograms("h", at(T0), at(T0 + DAY)))
    assert view.query("other", at(T0 + DAY)).is_empty()
    assert view.query_range("x", at(T0), at(T0 + DAY), "1h").equals(whole.query_range("x", at(T0), at(T0 + DAY), "1h"))
    part = db.recall("x", at(T0 + 600_000), at(T0 + 1_200_000))
    assert [times for _, _, times, _ in exact(part, "x")] == [[T0 + 600_000, T0 + 1_200_000]] * 3


def test_a_view_takes_no_samples():
    view = filled().recall("x", at(T0), at(T0 + DAY))
    for write in (
        lambda: view.append({"__name__": "y"}, [at(T0)], [1.0]),
        lambda: view.register([{"__name__": "y"}]),
        lambda: view.write(pl.DataFrame({"__name__": ["y"], "timestamp": [at(T0)], "value": [1.0]})),
        lambda: view.ingest(b"y 1\n", "prometheus"),
        lambda: view.append_histograms({"__name__": "y"}, [], []),
        lambda: view._native.write_remote(b""),
    ):
        with pytest.raises(mdb.ReadOnlyError, match="read-only; write to the database"):
            write()
    view.tick()
    assert view.series("x").height == 3


def test_a_view_that_would_not_fit_says_so():
    db = mdb.Database()
    times = np.arange(T0, T0 + DAY, 10_000).view("datetime64[ms]")
    for i in range(100):
        db.append({"__name__": "x", "i": str(i)}, times, np.random.default_rng(i).normal(size=len(times)))
    with pytest.raises(mdb.MemoryLimit, match="memory_limit"):
        db.recall("x", at(T0), at(T0 + DAY), memory_limit="4MiB")


@pytest.mark.parametrize("where", ["cold", "directory", "memory"])
def test_a_pin_outlives_what_rules_take(where: str, tmp_path: Path):
    clock = FakeClock(T0 + 2 * DAY + 7_200_000)
    db = filled(clock, tmp_path / "db" if where == "directory" else None, "memory://" if where == "cold" else None)
    wanted = exact(db, "x", T0 + 3_600_000, T0 + DAY + 3_600_000)
    if where == "cold":
        assert db.cold.move("x", at(T0 + DAY)).samples
    db.pin("night", "x", at(T0 + 3_600_000), at(T0 + DAY + 3_600_000))
    with pytest.raises(mdb.ConfigError, match="there already"):
        db.pin("night", "x", at(T0), at(T0 + 1))
    db._native.delete(["x"], T0, T0 + 2 * DAY)
    assert exact(db, "x", T0 + 3_600_000, T0 + DAY + 3_600_000) == wanted
    row = db.pins().row(0, named=True)
    assert (row["name"], row["selector"], row["samples"]) == ("night", "x", sum(len(t) for _, _, t, _ in wanted))
    assert row["copied_until"] == row["end"]
    if where == "directory":
        db.close()
        db = mdb.Database(tmp_path / "db", clock=clock)
        assert exact(db, "x", T0 + 3_600_000, T0 + DAY + 3_600_000) == wanted
    db.unpin("night")
    assert db.pins().is_empty()
    assert exact(db, "x", T0 + DAY + 1, T0 + DAY + 3_600_000) == []
    with pytest.raises(mdb.ConfigError, match="no pin is called 'night'"):
        db.unpin("night")
    db.close()


def test_what_pins_held_leaves_their_directory(tmp_path: Path):
    clock = FakeClock(T0 + 3 * DAY)
    with filled(clock, tmp_path) as db:
        db.pin("both", '{__name__=~"x|other"}', at(T0), at(T0 + DAY))
        db.pin("one", "x", at(T0), at(T0 + DAY))
        db.unpin("one")
        db.delete("other", at(T0), at(T0 + DAY))
        before = len(db.pins()), exact(db, "x")
        for _ in range(2):
            db.tick()
            clock.move(1000)
        parts = db._pins._mover.catalog.state.parts
        assert sum(part.samples for part in parts) == db.pins()["samples"].item() == 3 * 145
        assert not any(part.tombstones for part in parts)
        there = {str(file.relative_to(tmp_path / "pins")) for file in (tmp_path / "pins").rglob("*.parquet")}
        assert there == db._pins._mover.catalog.state.keys()
        assert (len(db.pins()), exact(db, "x")) == before


def test_pins_of_a_directory_are_there_when_it_gets_a_cold_store(tmp_path: Path):
    clock = FakeClock(T0 + 3 * DAY)
    with filled(clock, tmp_path / "db") as db:
        wanted = exact(db, "x")
        db.pin("early", "x", at(T0), at(T0 + 2 * DAY))
    with mdb.Database(tmp_path / "db", clock=clock, cold=str(tmp_path / "cold")) as db:
        db._native.delete(["x"], T0, T0 + 2 * DAY)
        assert db.pins()["name"].to_list() == ["early"]
        assert exact(db, "x") == wanted
        assert db.delete("x", at(T0), at(T0 + 2 * DAY)).cold_parts
        assert exact(db, "x") == []


@pytest.mark.parametrize("cold", [None, "memory://"])
def test_nothing_is_deleted_between_what_a_pin_reads_and_what_it_keeps(
    cold: str | None, monkeypatch: pytest.MonkeyPatch
):
    db = filled(FakeClock(T0 + 3 * DAY), cold=cold)
    db.pin("first", "other", at(T0), at(T0 + 1))
    fill, held = incidents._filled, []

    def is_held(mover: Mover) -> bool:
        free = mover.lock.acquire(blocking=False)
        if free:
            mover.lock.release()
        return not free

    def filling(*given: object) -> None:
        fill(*given)
        with ThreadPoolExecutor(1) as other:
            # As a deletion asks for them.
            held.extend(other.map(is_held, db._movers()))

    monkeypatch.setattr(incidents, "_filled", filling)
    db.pin("second", "x", at(T0), at(T0 + DAY - 1))
    assert held == [True]
    db.close()


def test_a_pin_whose_end_lies_ahead_is_copied_on():
    clock = FakeClock(T0 + 3_600_000)
    db = mdb.Database(clock=clock)
    db.append({"__name__": "x"}, [at(T0 + 1_800_000)], [1.0])
    db.pin("now", "x", at(T0), at(T0 + 3 * 3_600_000))
    for hour in (2, 3, 4):
        clock.move((T0 + hour * 3_600_000 + 1_000_000 - clock.now_ms()) / 1000)
        db.append({"__name__": "x"}, [at(T0 + hour * 3_600_000 - 60_000)], [float(hour)])
        db.tick()
    db._native.delete(["x"], T0, T0 + DAY)
    assert db.query("x[1d]", at(T0 + DAY))["value"].to_list() == [1.0, 2.0, 3.0]
    with pytest.raises(mdb.ConfigError, match="ends before"):
        db.pin("odd", "x", at(T0 + 1), at(T0))


def test_an_incident_is_one_file_that_opens_anywhere(tmp_path: Path):
    db = half_cold(filled())
    db.alerts.install("ALERT high WHEN x > 0.5; RECORD y = x * 2")
    db.alerts.tick(T0 + DAY + DAY // 2 + 600_000)
    path = tmp_path / "night.incident"
    db.export_incident(path, '{__name__=~"x|h"}', at(T0), at(T0 + 2 * DAY))
    found = mdb.open_incident(path)
    assert exact(found, "x") == exact(filled(), "x")
    assert found.histograms("h", at(T0), at(T0 + DAY)).height == 50
    assert found.incident is not None
    assert found.incident.transitions.height == db.alerts.history().height > 0
    assert any("ALERT high" in text for text in found.incident.statements)
    with pytest.raises(mdb.ReadOnlyError):
        found.append({"__name__": "x"}, [at(T0)], [1.0])
    with zipfile.ZipFile(path) as file:
        samples = pl.read_parquet(file.read("samples.parquet"))
    assert samples.columns[:3] == ["row", "timestamp", "value"]


def test_a_file_that_is_no_whole_incident_is_refused(tmp_path: Path):
    path = tmp_path / "x.incident"
    with pytest.raises(mdb.ConfigError, match="is not there"):
        mdb.open_incident(path)
    filled().export_incident(path, "x", at(T0), at(T0 + DAY))
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"x" * 100):
        path.write_bytes(broken)
        with pytest.raises(mdb.CorruptionError, match="no whole incident"):
            mdb.open_incident(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("incident.json", json.dumps({"version": 2}))
    with pytest.raises(mdb.FormatVersionError, match="version 2"):
        mdb.open_incident(path)


def test_a_member_that_would_unpack_to_more_than_is_borne_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.incident"
    filled().export_incident(path, "x", at(T0), at(T0 + DAY))
    monkeypatch.setattr(incidents, "_MEMBER_BYTES_MAX", 10)
    with pytest.raises(mdb.CorruptionError, match="incident.json would take"):
        mdb.open_incident(path)


def test_a_pin_of_nothing_holds_nothing():
    db = filled(FakeClock(T0 + 3 * DAY))
    db.pin("none", "nothing", at(T0), at(T0 + DAY))
    assert db.pins()["samples"].to_list() == [0]


def test_a_pin_that_another_process_lets_go_while_pins_are_listed_is_none(monkeypatch: pytest.MonkeyPatch):
    db = filled(FakeClock(T0 + 3 * DAY))
    db.pin("one", "x", at(T0), at(T0 + DAY))
    db.pin("two", "x", at(T0), at(T0 + DAY))
    real = Objects.get

    def get(objects: Objects, key: str) -> bytes:
        if key.endswith(f"{b'one'.hex()}.json"):
            objects.delete([key])
        return real(objects, key)

    monkeypatch.setattr(Objects, "get", get)
    assert db.pins()["name"].to_list() == ["two"]
