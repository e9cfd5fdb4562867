"""A process that is killed at any step of a move, of a compaction or of a sweep loses nothing and leaves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.cold_torture import failing_torture, torture


def test_nothing_is_lost_kept_twice_or_left_behind_whatever_step_a_process_ends_at(tmp_path: Path) -> None:
    # `cold_torture.py --cycles 400` takes every step; this, every third.
    seen = torture(25, tmp_path, first=1, stride=3)
    assert seen["kills"] >= 15


def test_nor_is_anything_that_goes_by_a_disk_tier(tmp_path: Path) -> None:
    # `cold_torture.py --cycles 400 --disk` takes every step; this, every fifth.
    seen = torture(40, tmp_path, first=2, stride=5, disk=True)
    assert seen["kills"] >= 25
    assert seen["phases"]["samples on"] >= 3
    assert seen["phases"]["records on"] >= 1


def test_nor_is_anything_where_the_store_fails_meanwhile(tmp_path: Path) -> None:
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    # `cold_torture.py --cycles 400 --s3 0.2` takes every step; this, every seventh.
    seen = failing_torture(14, tmp_path, share=0.2, first=2, stride=7)
    assert seen["kills"] >= 8
    assert seen["phases"]["records"] >= 1
    assert sum(seen["answers"].values()) - seen["answers"]["good"] > 50
