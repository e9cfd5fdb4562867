"""A process that is killed at any step of a move, of a compaction or of a sweep loses nothing and leaves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.cold_torture import torture


def test_nothing_is_lost_kept_twice_or_left_behind_whatever_step_a_process_ends_at(tmp_path: Path) -> None:
    # `cold_torture.py --cycles 400` takes every step; this, every third.
    seen = torture(25, tmp_path, first=1, stride=3)
    assert seen["kills"] >= 15
