"""Debian's prometheus runs the exported rules on the same samples: the same alerts at the same evaluations."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest

import metricsdb as mdb
from metricsdb.alerts.evaluate import evaluate
from metricsdb.alerts.export import portable
from metricsdb.clock import SystemClock
from metricsdb.testing import FakeClock
from tests.peers.processes import free_port, need, running, wait_for
from tests.server.remote_write import body

pytestmark = pytest.mark.peers

SECONDS = 25
# The plain subset: what Prometheus has words for, too.
STATEMENTS = """
GROUP peer EVERY 1s {
  RECORD evaluations = vector(1)
  ALERT AtOnce WHEN level > 5
  ALERT After WHEN level > 5 FOR 2s LABELS { team="t", instance="all-{{ $labels.instance }}" }
  ALERT Kept WHEN level == 0 FOR 1s KEEP FIRING FOR 3s
  ALERT Valued WHEN sum by (zone) (level) >= 10 LABELS { at="{{ $value }}" }
  ALERT Gone WHEN absent(level{instance="gone"}) FOR 3s
  ALERT Joined WHEN level > on (instance) bound FOR 1s
  RECORD zone:level:max = max by (zone) (level)
  ALERT Recorded WHEN zone:level:max > 7 FOR 1s
}
"""


def series(start: int) -> list[tuple[dict[str, str], list[tuple[int, float]]]]:
    """Steps of some seconds each, known beforehand."""
    rng = random.Random(7)
    found = []
    for number in range(6):
        labels = {"__name__": "level", "instance": f"i{number}", "zone": "ab"[number % 2]}
        value, samples = 0, []
        for second in range(SECONDS):
            value = rng.randint(0, 9) if rng.random() < 0.35 else value
            samples.append((start + second * 1000, float(value)))
        found.append((labels, samples))
        if number < 3:
            bounds = [(at, float(3 + 2 * (i // 8 % 3))) for i, (at, _) in enumerate(samples)]
            found.append(({"__name__": "bound", "instance": f"i{number}"}, bounds))
    return found


def theirs(url: str, metric: str, until: float) -> dict[tuple, float]:
    """Each sample of a metric by labels and time; markers of ends are none."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": f"{metric}[10m]", "time": until}).json()
    return {
        (tuple(sorted(found["metric"].items())), round(float(at) * 1000)): float(value)
        for found in answer["data"]["result"]
        for at, value in found["values"]
    }


def ours(db: mdb.Database, metric: str, times: list[int]) -> dict[tuple, float]:
    found = {}
    for at in times:
        frame = db.query(metric, at / 1000)
        names = [name for name in frame.columns if name not in ("timestamp", "value")]
        for row in frame.iter_rows(named=True):
            labels = {name: row[name] for name in names if row[name]} | {"__name__": metric}
            found[tuple(sorted(labels.items())), at] = row["value"]
    return found


def test_the_same_alerts_at_the_same_evaluations(tmp_path: Path):
    with mdb.Database(clock=FakeClock(0)) as installed:
        installed.alerts.load(STATEMENTS)
        made = portable(installed.alerts.export())
        assert made.inexact == []
    (tmp_path / "rules.yml").write_text(made.rules.to_yaml())
    (tmp_path / "prometheus.yml").write_text("rule_files: [rules.yml]\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        need("prometheus"), f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver",
    ]  # fmt: skip
    with running(command, f"{url}/-/ready", tmp_path / "log"):
        # All at once and ahead of time, so that no evaluation of theirs can see less than it should.
        start = SystemClock().now_ms() + 3000
        data = series(start)
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        sent = httpx.post(f"{url}/api/v1/write", content=body(data), headers=headers)
        assert sent.status_code < 300, sent.text
        end = start + SECONDS * 1000
        wait_for("the last evaluation", lambda: SystemClock().now_ms() > end, seconds=SECONDS + 60, pause=0.5)
        until = end / 1000
        evaluations = sorted(at for _, at in theirs(url, "evaluations", until))
        wanted = {metric: theirs(url, metric, until) for metric in ("ALERTS", "ALERTS_FOR_STATE", "zone:level:max")}
    # What was evaluated before the samples came is no part of it, but as what was pending already.
    assert len(evaluations) > SECONDS // 2
    with mdb.Database(clock=FakeClock(end)) as db:
        db.alerts.load(STATEMENTS)
        for labels, samples in data:
            db.append(labels, [at / 1000 for at, _ in samples], [value for _, value in samples])
        (group,) = db.alerts.groups()
        for at in evaluations:
            evaluate(db._tiers.queries, group, at, 300_000, lambda _alert, _at: [], db.alerts.render, SystemClock())
        for metric, expected in wanted.items():
            found = ours(db, metric, evaluations)
            if metric == "ALERTS_FOR_STATE":  # theirs are whole seconds
                found = {key: float(int(value)) for key, value in found.items()}
            # Prometheus writes alerts once it has looked for their state of before its start: from the third on.
            found, expected = ({k: v for k, v in all_.items() if k[1] >= evaluations[2]} for all_ in (found, expected))
            assert len(expected) > SECONDS
            assert found == expected, metric
    firing = {dict(labels)["alertname"] for labels, _ in wanted["ALERTS"] if dict(labels)["alertstate"] == "firing"}
    assert firing == {"AtOnce", "After", "Kept", "Valued", "Gone", "Joined", "Recorded"}
