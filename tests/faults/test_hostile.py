"""Half a minute of everything at once, under a limit that is far too small: the promises hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "hostile.py"
ROOT = Path(__file__).parents[2]


def test_a_small_limit_holds_while_series_samples_and_queries_come_without_end():
    options = ["--minutes", "0.5", "--limit", "12MiB", "--keep", "1m", "--steady", "20000", "--rated", "20000"]
    # Other tests run beside it: how long a probe takes is said, not judged.
    command = [sys.executable, str(SCRIPT), *options, "--lenient"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["broken"] == []
    assert seen["probes"] > 5
    assert seen["series_refused"] > 0
    assert seen["query_refused"] + seen["batch_refused"] > 0
    assert seen["peak_rss"] <= seen["rss_bound"]
