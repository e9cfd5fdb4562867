"""The last rows of a record, in memory and on disk."""

from __future__ import annotations

import logging

import pytest

from metricsdb.lines import Lines

log = logging.getLogger("metricsdb.test")


def opened(path, rows_max=4):
    return Lines(path, tuple, log, rows_max)


def test_the_file_is_written_anew_now_and_then(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = opened(path)
    for i in range(20):
        lines.add([(i, "x")])
        assert path.read_text().count("\n") <= 8
    lines.add([])
    wanted = [(i, "x") for i in range(16, 20)]
    assert list(lines.rows) == list(opened(path).rows) == wanted
    lines.keep(lambda row: row[0] < 18)
    assert list(lines.rows) == list(opened(path).rows) == wanted[:2]
    lines.keep(lambda _row: True)
    lines.add([(7, "y")])
    assert list(opened(path).rows) == [*wanted[:2], (7, "y")]


@pytest.mark.parametrize("broken", [b"", b"[1", b"3\n", b"[1, 2]\n{", b"\xff\n"])
def test_lines_that_cannot_be_read_are_passed_over_and_spoil_no_other(tmp_path, broken):
    path = tmp_path / "a.jsonl"
    path.write_bytes(broken)
    known = list(opened(path).rows)
    lines = opened(path)
    lines.add([(5,)])
    assert list(lines.rows) == list(opened(path).rows) == [*known, (5,)]


def test_a_disk_that_fails_is_named_and_stops_nothing(tmp_path, caplog):
    lines = opened(tmp_path / "a.jsonl", rows_max=2)
    (tmp_path / "a.jsonl.new").mkdir()
    for i in range(5):
        lines.add([(i,)])
    assert list(lines.rows) == [(3,), (4,)]
    assert "kept in memory" in caplog.text
    memory = opened(None)
    memory.add([(1,)])
    memory.keep(lambda _row: False)
    assert not memory.rows
