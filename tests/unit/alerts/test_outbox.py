"""The outbox: what was promised is there after any end of the process, once taken it is not sent again."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from metricsdb.alerts.outbox import Message, Outbox
from metricsdb.errors import DatabaseLocked, StorageError


def message(i: int, target: str = "a") -> Message:
    return Message(target, f"k{i}", f"body {i} é\n", i)


def test_what_waits_is_there_after_opening_again(tmp_path):
    box = Outbox(tmp_path)
    box.put([message(1), message(2), message(3, "b")], {"log": {"a": 1}})
    box.put([], None)
    box.done(message(1))
    box.close()
    box = Outbox(tmp_path)
    assert box.waiting() == [message(2), message(3, "b")]
    assert (box.state, box.damaged) == ({"log": {"a": 1}}, 0)
    assert box.waiting("a") == [message(2)]
    assert box.waiting("none") == []
    box.close()


def test_without_a_directory_it_is_memory():
    box = Outbox()
    box.put([message(1), message(1)])
    assert box.waiting() == [message(1)]
    assert box.path is None
    box.close()


def test_only_one_process_has_it(tmp_path):
    box = Outbox(tmp_path)
    with pytest.raises(DatabaseLocked):
        Outbox(tmp_path)
    box.close()
    Outbox(tmp_path).close()


def test_every_torn_end_keeps_what_came_before(tmp_path):
    box = Outbox(tmp_path)
    for i in range(4):
        box.put([message(i)])
    box.close()
    whole = (tmp_path / "outbox.log").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        (tmp_path / "outbox.log").write_bytes(whole[:cut])
        again = Outbox(tmp_path)
        assert again.waiting() == [message(i) for i in range(sum(end <= cut for end in ends))]
        assert again.damaged == 0
        again.close()


def test_a_damaged_line_costs_that_line(tmp_path):
    box = Outbox(tmp_path)
    for i in range(3):
        box.put([message(i)])
    box.close()
    lines = (tmp_path / "outbox.log").read_bytes().split(b"\n")
    for wrong in (lines[1].replace(b"k1", b"k9"), b"zz", b"00000000 {"):
        (tmp_path / "outbox.log").write_bytes(b"\n".join([lines[0], wrong, lines[2], b""]))
        again = Outbox(tmp_path)
        assert again.waiting() == [message(0), message(2)]
        assert again.damaged == 1
        again.close()


def test_targets_are_in_order_and_wait_for_themselves_alone():
    box = Outbox(chance=random.Random(1))
    box.put([message(1), message(2), message(3, "b")])
    assert box.due(0) == [message(1), message(3, "b")]
    first = box.failed(message(1), 1_000)
    assert 1_500 <= first <= 2_000
    assert box.due(1_000) == [message(3, "b")]
    assert box.next_due() == 0
    box.done(message(3, "b"), not_before_ms=9_000)
    assert box.next_due() == first
    waits = []
    for _ in range(30):
        waits.append(box.failed(message(1), 0))
    assert waits[0] >= 1_000
    assert waits[1] >= 2_000
    assert 150_000 <= waits[-1] <= 300_000
    assert box.failed(message(1), 0, retry_after_ms=900_000) == 900_000
    box.done(message(1))
    assert box.due(0) == [message(2)]


def test_the_file_is_written_anew_when_most_of_it_is_done(tmp_path):
    box = Outbox(tmp_path)
    big = [Message("a", f"k{i}", "x" * 40_000) for i in range(60)]
    box.put(big)
    for one in big[:-1]:
        box.done(one)
    assert (tmp_path / "outbox.log").stat().st_size < 1 << 20
    box.put([message(1)])
    box.close()
    again = Outbox(tmp_path)
    assert [m.key for m in again.waiting()] == ["k59", "k1"]
    # What is done and not known any more is nothing new.
    again._apply({"done": ["nobody", "k"]})
    again.close()


def test_what_cannot_be_written_was_not_taken(tmp_path, monkeypatch):
    box = Outbox(tmp_path)
    box.put([message(1)])
    real = os.fsync
    calls = []

    def fails(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="No space"):
        box.put([message(2)])
    box.put([message(3)])
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(StorageError, match="I/O error"):
        box.put([message(4)])
    monkeypatch.undo()
    assert box.waiting() == [message(1), message(3)]
    box.close()
    with pytest.raises(StorageError, match="closed"):
        box.put([message(5)])
    again = Outbox(tmp_path)
    assert [m for m in again.waiting() if m.key != "k4"] == [message(1), message(3)]
    again.close()


def test_a_line_that_was_set_apart_is_no_damage(tmp_path):
    box = Outbox(tmp_path)
    box.put([message(1)])
    box.close()
    with (tmp_path / "outbox.log").open("ab") as file:
        file.write(b"\n")
    again = Outbox(tmp_path)
    assert (again.waiting(), again.damaged) == ([message(1)], 0)
    shutil.rmtree(tmp_path)
    with pytest.raises(StorageError, match="cannot be written"):
        again._rewrite()
    again.close()


def test_a_directory_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be opened"):
        Outbox(tmp_path / "file")
