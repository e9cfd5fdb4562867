"""What queries may not do to others: estimates and ends over a million series, filters while samples flow in."""

from __future__ import annotations

import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np

import metricsdb as mdb
from benchmarks import workloads
from benchmarks.index import FILTERS
from metricsdb._native import StopSwitch

ALL = '{__name__=~"cpu_.+"}'
USER, SYSTEM = "cpu_usage_user", "cpu_usage_system"
# Work of every kind, most of it over all series.
HEAVY = [
    f"count({ALL})",
    f"count by (hostname) ({ALL})",
    'count({hostname=~".*9.+8.*7.*"})',
    ALL,
    f"sum by (hostname) ({ALL})",
    f"topk(10, rate({ALL}[5m]))",
    f"quantile by (region) (0.9, {ALL})",
    f'count_values("v", {ALL})',
    f"sort({ALL})",
    f'sort_by_label({ALL}, "hostname")',
    f"{USER} + on (hostname) {SYSTEM}",
    f"{ALL} and on (hostname) {USER}",
    f"{ALL} or {ALL}",
    f"sum by (region) (max_over_time({ALL}[2m:10s]))",
    f"max_over_time(sum by (hostname) ({USER})[2m:10s])",
    f"absent({ALL})",
    f'count(histogram_quantile(0.9, label_join({ALL}, "le", "", "service")))',
    f'label_replace({ALL}, "x", "$1", "hostname", "host_(.*)")',
]
# What the query before held is freed by the pool meanwhile.
SETTLE_S = 0.5
FLOW = 1_000_000  # samples a second
FLOW_BATCH = 48_000


def main(quick: bool = False) -> list[dict]:
    return [*_heavy(10_000 if quick else 1_000_000, 2 if quick else 5), *_filters(2 if quick else 15)]


def _filled(fleet: workloads.Workload) -> tuple[mdb.Database, np.ndarray]:
    db = mdb.Database(max_samples=2**62, max_query_memory=16 << 30)
    refs = db.register(fleet.labels)
    for step in range(fleet.steps):
        db.append_batch(refs, fleet.times(step).view("datetime64[ms]"), fleet.values[step])
    return db, refs


def _heavy(series: int, tries: int) -> list[dict]:
    """Of each query: its own time, CPU of its estimate, and ms from a call to end it until its caller goes on."""
    fleet = workloads.card(series // 10)
    db, _ = _filled(fleet)
    end, rows, draw = fleet.end_ms / 1000, [], random.Random(7)
    warnings.simplefilter("ignore", mdb.QueryInfo)
    for expr in HEAVY:
        begun = time.perf_counter()
        db.query(expr, end)
        alone = time.perf_counter() - begun
        estimates = [_cpu(lambda expr=expr: db.estimate(expr, end)) for _ in range(10 * tries)]
        time.sleep(SETTLE_S)
        db._native.probe_checks(True)
        db.query(expr, end)
        gap = db._native.probe_checks(False)
        late = {f"{how}, ms": _late(end_it, db, expr, end, [alone * draw.uniform(0, 0.8) for _ in range(tries)])
                for how, end_it in ENDS.items()}  # fmt: skip
        rows.append({"table": f"{series:,} series", "query": expr, "alone ms": alone * 1e3,
                     "estimate ms": min(estimates), "longest without a look, CPU ms": gap, **late})  # fmt: skip
    return rows


def _late(end_it: Callable[..., float | None], db: mdb.Database, expr: str, end: float, after: list[float]) -> object:
    """The longest time of several; None where the query was over each time."""
    taken = []
    for seconds in after:
        time.sleep(SETTLE_S)
        taken.append(end_it(db, expr, end, seconds))
    return max((ms for ms in taken if ms is not None), default=None)


def _cpu(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return (time.process_time() - before) * 1e3


def _killed(db: mdb.Database, expr: str, end: float, after: float) -> float | None:
    """Milliseconds; None where the query was over before."""
    called: list[float] = []

    def kill() -> None:
        rows = db.queries()
        called.append(time.perf_counter())
        for number in rows["id"]:
            db.kill(number)

    timer = threading.Timer(after, kill)
    timer.start()
    try:
        db.query(expr, end)
    except mdb.QueryKilled:
        return (time.perf_counter() - called[0]) * 1e3
    finally:
        timer.cancel()
        timer.join()
    return None


def _interrupted(db: mdb.Database, expr: str, end: float, after: float) -> float | None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before, after = signal.signal(signal.SIGALRM, interrupt), max(after, 1e-3)
    begun = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        db.query(expr, end)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return (time.perf_counter() - begun - after) * 1e3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


def _timed_out(db: mdb.Database, expr: str, end: float, after: float) -> float | None:
    timeout_ms = max(1, round(after * 1e3))
    begun = time.perf_counter()
    try:
        at, stop = round(end * 1e3), StopSwitch()
        db._native.api_query(expr, at, at, 0, 300_000, timeout_ms, 1, "", "query", "benchmark", stop)
    except mdb.QueryTimeout:
        return (time.perf_counter() - begun) * 1e3 - timeout_ms
    return None


ENDS = {"kill": _killed, "KeyboardInterrupt": _interrupted, "timeout": _timed_out}


def _filters(seconds: float) -> list[dict]:
    """The filters of `index`, over and over, alone and while a thread appends a million samples a second."""
    fleet = workloads.svc(12_000, 1)
    db, refs = _filled(fleet)
    flow, rows = _Flow(db, refs), []
    for what in ("alone", "1 M samples/s"):
        if what != "alone":
            flow.start()
        begun = time.perf_counter()
        taken: dict[str, list[float]] = {name: [] for name in FILTERS}
        while time.perf_counter() - begun < seconds:
            for name, (selector, _) in FILTERS.items():
                at = time.perf_counter()
                db.query(f"count({selector})", time=flow.now_ms / 1000)
                taken[name].append((time.perf_counter() - at) * 1e3)
        rate = flow.sent / (time.perf_counter() - begun) / 1e6
        rows += [{"table": "96,000 series", "filter": name, "beside": what, "M samples/s": rate, "asked": len(ms),
                  "p50 ms": float(np.median(ms)), "p99 ms": float(np.percentile(ms, 99)), "max ms": max(ms)}
                 for name, ms in taken.items()]  # fmt: skip
    flow.done.set()
    flow.join()
    return rows


class _Flow(threading.Thread):
    """Appends a million samples a second, a time of all series after the other."""

    def __init__(self, db: mdb.Database, refs: np.ndarray) -> None:
        super().__init__(daemon=True)
        self.db, self.refs = db, refs
        self.now_ms, self.sent = workloads.START_MS, 0
        self.done = threading.Event()

    def run(self) -> None:
        begun, at, values = time.perf_counter(), 0, np.zeros(len(self.refs))
        while not self.done.is_set():
            part = slice(at, at + FLOW_BATCH)
            self.db.append_batch(self.refs[part], np.datetime64(self.now_ms + 100, "ms"), values[part])
            at = part.stop % len(self.refs)
            if at == 0:
                self.now_ms += 100
                values = values + 1
            self.sent += FLOW_BATCH
            time.sleep(max(0.0, begun + self.sent / FLOW - time.perf_counter()))
