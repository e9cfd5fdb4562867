"""promtool gives our machine's firing alerts the same verdict, evaluation by evaluation, on what Prometheus knows."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
import yaml

import metricsdb as mdb
from metricsdb.testing import FakeClock, load
from tests.peers.processes import need

pytestmark = pytest.mark.peers

STEPS = 40


def _series(rng: random.Random) -> dict[str, str]:
    found = {}
    for name in "abc":
        value, values = rng.randint(0, 8), list[str]()
        for _ in range(STEPS):
            if rng.random() < 0.3:
                value = rng.randint(0, 8)
            values.append(rng.choice(["_", "stale"]) if rng.random() < 0.1 else str(value))
        found[f'x{{instance="{name}"}}'] = " ".join(values)
    return found


def _firing(db: mdb.Database, statement: str) -> list[set[str]]:
    """Instances that fire at each evaluation."""
    done = db.alerts.backtest(statement, 0, STEPS * 60 - 60)
    now: set[str] = set()
    found: list[set[str]] = []
    rows = done.transitions.select("timestamp", "instance", "alert_firing").rows() if done.labels else []
    for step in range(STEPS):
        for at, instance, firing in rows:
            if round(at.timestamp()) == step * 60:
                (now.add if firing else now.discard)(instance)
        found.append(set(now))
    return found


def test_promtool_sees_the_same_alerts_fire(tmp_path: Path):
    rng = random.Random(5)
    rules, tests, fired = [], [], 0
    for case in range(12):
        wait, keep, op = rng.choice([0, 1, 2, 3, 5]), rng.choice([0, 0, 1, 2, 4]), rng.choice([">", "<=", "=="])
        bound, series = rng.randint(2, 6), _series(rng)
        name = f"A{case}"
        rule = {"alert": name, "expr": f"x {op} {bound}", "for": f"{wait}m", "labels": {"team": "t"}}
        rules.append({**rule, **({"keep_firing_for": f"{keep}m"} if keep else {})})
        statement = f'ALERT {name} WHEN x {op} {bound} FOR {wait}m KEEP FIRING FOR {keep}m LABELS {{ team="t" }}'
        with mdb.Database(clock=FakeClock(STEPS * 60_000)) as db:
            load(db, "1m", "\n".join(f"{labels} {values}" for labels, values in series.items()), start_ms=0)
            firing = _firing(db, statement)
        fired += any(firing)
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": labels, "values": values} for labels, values in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": f"{step}m",
                        "alertname": name,
                        "exp_alerts": [{"exp_labels": {"instance": i, "team": "t"}} for i in sorted(instances)],
                    }
                    for step, instances in enumerate(firing)
                ],
            }
        )
    assert fired > 8
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "1m", "rules": rules}]}))
    unit = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(unit))
    done = subprocess.run(
        [need("promtool"), "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
