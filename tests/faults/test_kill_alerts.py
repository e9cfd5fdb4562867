"""Alerts of a process that is killed with SIGKILL at any place go on as if it never had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "alert_torture.py"
ROOT = Path(__file__).parents[2]


def test_no_state_and_no_notification_is_lost():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "--cycles", "250"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["killed"] >= 200
    assert seen["notifications"] > 200
    assert {name: seen[name] for name in ("crashed", "lost", "invented", "missed")} == dict.fromkeys(
        ("crashed", "lost", "invented", "missed"), 0
    )
    assert seen["same_states"]
    assert seen["same_series"]
