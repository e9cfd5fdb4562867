"""What alerts cost: 10,000 statements live every 15 s over 100,000 series, and rehearsals of a month.

cores        CPU seconds of an evaluation of all statements (median of eight; with their series and deliveries) by 15
backtest     one alert over 30 days at 1-minute steps on 1,000 series: wall time and CPU time, best of three
sweep        100 variants of it (thresholds x FOR) from one scan, the same, and in backtests
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks.workloads import START_MS
from metricsdb.testing import FakeClock

EVERY_S, EVALUATIONS = 15, 8
DAYS = 30
STATEMENT = "ALERT Hot WHEN load > 0.9 FOR 5m CLEAR AT 0.8"
THRESHOLDS = [round(0.9 + 0.005 * i, 3) for i in range(20)]
FORS = ["0s", "2m", "5m", "10m", "30m"]


def main(quick: bool = False) -> list[dict]:
    series, statements, days = (1_000, 100, 1) if quick else (100_000, 10_000, DAYS)
    kinds = {
        # Ten alerts on each of some selectors, as teams write them: equal expressions are evaluated once.
        "ten a selector": lambda i: f'load{{job="{i // 10}"}} > 0.{90 + i % 10}',
        "each its own": lambda i: f'load{{shard="{i}"}} > 0.95',
        "rates, ten a selector": lambda i: f'rate(requests_total{{job="{i // 10}"}}[5m]) > {30 + i % 10}',
    }
    live = [_live(name, kind, series, statements) for name, kind in kinds.items()]
    return [*live, *_rehearsed(series // 100 if not quick else 50, days)]


def _live(name: str, kind, series: int, statements: int) -> dict:
    clock = FakeClock(START_MS)
    rate = name.startswith("rates")
    with mdb.Database(clock=clock) as db:
        numbers = pl.Series("i", np.arange(series))
        labels = pl.DataFrame(
            {
                "__name__": ["requests_total" if rate else "load"] * series,
                "instance": numbers.cast(pl.String),
                "job": (numbers % (statements // 10)).cast(pl.String),
                "shard": (numbers % statements).cast(pl.String),
            }
        )
        refs = db.register(labels)
        rng = np.random.default_rng(3)
        told = []
        db.alerts.deliver = lambda alerts, _now_ms: told.extend(alerts)
        clauses = 'FOR 1m LABELS {team="t"} ANNOTATIONS {summary="{{ $labels.instance }} is at {{ $value }}"}'
        for first in range(0, statements, 1_000):
            group = range(first, min(first + 1_000, statements))
            text = "\n".join(f"ALERT A{i} WHEN {kind(i)} {clauses}" for i in group)
            db.alerts.install(f"GROUP g{first} EVERY {EVERY_S}s {{ {text} }}")
        level, count = rng.uniform(0, 0.9, series), rng.uniform(0, 1e6, series)
        spent = []
        # The first minutes fill the windows; the last evaluations count.
        for step in range(20 + EVALUATIONS):
            # Of a hundred series one is above most bounds, and stays there for some minutes.
            high = (np.arange(series) + step // 8) % 100 == 0
            count += np.where(high, 80, 20) * EVERY_S
            db.append_batch(refs, clock.now_ms() / 1000, count if rate else np.where(high, 0.96, level))
            if step >= 20:
                before = time.process_time()
                db.alerts.tick(clock.now_ms())
                spent.append(time.process_time() - before)
            elif step >= 10:
                db.alerts.tick(clock.now_ms())
            clock.move(EVERY_S)
        listed = db.alerts.list()
        assert set(listed["health"]) == {"ok"}, listed.filter(pl.col("health") != "ok")["error"][0]
        active = int(listed["firing"].sum() + listed["pending"].sum())
    cpu = statistics.median(spent)
    return {
        "table": f"live: {statements:,} statements over {series:,} series every {EVERY_S} s",
        "statements": name, "active instances": active, "cpu s": cpu, "at most": max(spent), "cores": cpu / EVERY_S,
    }  # fmt: skip


def _rehearsed(series: int, days: int) -> list[dict]:
    minutes = days * 1440
    end = START_MS // 60_000 * 60 + minutes * 60
    with mdb.Database(clock=FakeClock(end * 1000)) as db:
        refs = db.register(pl.DataFrame({"__name__": ["load"] * series, "instance": [str(i) for i in range(series)]}))
        rng = np.random.default_rng(4)
        level = rng.uniform(0, 0.7, series)
        for step in range(minutes):
            level = np.clip(level + rng.normal(0, 0.02, series), 0, 1)
            db.append_batch(refs, end - (minutes - step) * 60, np.round(level, 3))
        backtests, sweeps = [], []
        for _ in range(3):
            before = _now()
            done = db.alerts.backtest(STATEMENT, end - minutes * 60, end)
            backtests.append(_now() - before)
        for _ in range(2):
            before = _now()
            swept = done.sweep(threshold=THRESHOLDS, for_=FORS)
            sweeps.append(_now() - before)
        assert swept.height == len(THRESHOLDS) * len(FORS)
        same = swept.filter((pl.col("threshold") == 0.9) & (pl.col("for") == "5m"))
        assert same["pages"].item() == done.summary["pages"]
    return [
        {
            "table": f"rehearsals of {days} days at 1-minute steps, {series:,} series",
            "transitions": done.transitions.height,
            "backtest s, cpu s": " ".join(f"{one:.2f}" for one in _best(backtests)),
            "sweep s, cpu s": " ".join(f"{one:.2f}" for one in _best(sweeps)),
            "sweep in backtests, by cpu": _best(sweeps)[1] / _best(backtests)[1],
        }
    ]  # fmt: skip


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def _best(spent: list[np.ndarray]) -> np.ndarray:
    return np.min(spent, axis=0)
