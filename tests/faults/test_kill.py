"""A writer that is killed with SIGKILL at random moments loses nothing that it was told to be stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "torture.py"
ROOT = Path(__file__).parents[2]
# `make torture` runs 1,000 and more.
CYCLES = {"batch": 200, "interval": 40, "none": 40}


@pytest.mark.parametrize("mode", CYCLES)
def test_a_killed_writer_loses_no_acknowledged_sample(mode):
    command = [sys.executable, str(SCRIPT), "--cycles", str(CYCLES[mode]), "--mode", mode]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert (seen["cycles"], seen["lost"], seen["crashed"]) == (CYCLES[mode], 0, 0)
    assert seen["verified"] > CYCLES[mode] // 4
    assert seen["acknowledged"] > CYCLES[mode]
