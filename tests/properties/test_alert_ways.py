"""One statement on the same samples comes to the same: live, stopped and started again, in a unit test, rehearsed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import metricsdb as mdb
from metricsdb.testing import FakeClock, load
from metricsdb.testing.rules import run
from tests.properties.test_alerts import _values, generated

STEPS, SERIES = 40, 4
COLUMNS = ["timestamp", "labels", "level", "from", "to", "notified", "flapping", "muted"]


def samples(rng: random.Random) -> dict[str, str]:
    """Lines of Prometheus' notation; a gap is a marker, so that nobody's look-back reaches over it."""
    rows = (_values(rng, STEPS) for _ in range(SERIES))
    texts = [" ".join("stale" if value is None else f"{value:g}" for value in row) for row in rows]
    return {f'x{{i="{i}"}}': text for i, text in enumerate(texts)}


def filled(db: mdb.Database, lines: dict[str, str]) -> None:
    load(db, "1s", "\n".join(f"{labels} {values}" for labels, values in lines.items()))


def live(lines: dict[str, str], text: str, folder: Path | None, stops: set[int]) -> list[tuple[Any, ...]]:
    clock = FakeClock(0)
    db = mdb.Database(folder, clock=clock, alerts_every="1s", durability="none")
    filled(db, lines)
    db.alerts.install(text)
    for step in range(STEPS):
        if step in stops:
            db.close()
            db = mdb.Database(folder, clock=clock, alerts_every="1s", durability="none")
        db.alerts.tick(clock.now_ms())
        clock.move(1)
    found = db.alerts.history().select(COLUMNS).rows()
    db.close()
    return found


def rehearsed(lines: dict[str, str], text: str) -> list[tuple[Any, ...]]:
    with mdb.Database(clock=FakeClock(STEPS * 1000)) as db:
        filled(db, lines)
        rows = db.alerts.backtest(text, 0, STEPS - 1, every="1s").transitions
        if "i" not in rows.columns:
            assert rows.is_empty()
            return []
        labels = pl.lit('{i="') + pl.col("i") + '"}'
        names = {name: f"alert_{name}" for name in ("level", "from", "to", "flapping", "muted")}
        shown = rows.select(
            "timestamp", labels.alias("labels"), *(pl.col(own).alias(name) for name, own in names.items()),
            pl.col("alert_notify").alias("notified"),
        )  # fmt: skip
        return shown.select(COLUMNS).rows()


def unit_test(folder: Path, lines: dict[str, str], text: str, rows: list[tuple[Any, ...]], change: int | None) -> bool:
    """Whether a test file that expects these transitions passes; ``change``: with one of them a second later."""
    expected = []
    for place, (at, labels, level, before, after, told, flapping, muted) in enumerate(rows):
        seconds = round(at.timestamp()) + (place == change)
        one = {"at": f"{seconds}s", "labels": {"i": labels.split('"')[1]}, "level": level, "from": before, "to": after}
        expected.append({**one, "notified": told, "flapping": flapping, "muted": muted})
    series = [{"series": labels, "values": values} for labels, values in lines.items()]
    moves = {"alertname": "a", "eval_time": f"{STEPS - 1}s", "exp_transitions": expected}
    test = {"interval": "1s", "input_series": series, "transition_test": [moves]}
    (folder / "s.alerts").write_text(text)
    file = {"rule_files": ["s.alerts"], "evaluation_interval": "1s", "tests": [test]}
    (folder / "t.yml").write_text(yaml.safe_dump(file))
    result = run(folder / "t.yml")
    assert result.ok or "transitions of a" in str(result), str(result)
    return result.ok


@pytest.mark.parametrize("seed", range(40))
def test_four_ways_are_one(seed, tmp_path):
    rng = random.Random(seed)
    text, _ = generated(rng)
    lines = samples(rng)
    wanted = live(lines, text, None, set())
    stops = set(rng.sample(range(1, STEPS), 5))
    assert live(lines, text, tmp_path / "db", stops) == wanted, text
    assert rehearsed(lines, text) == wanted, text
    assert unit_test(tmp_path, lines, text, wanted, None), text
    if wanted:
        assert not unit_test(tmp_path, lines, text, wanted, rng.randrange(len(wanted))), text
