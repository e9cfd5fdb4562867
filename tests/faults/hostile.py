"""A hostile hour, shortened: new series without end, heavy queries and twice the rated samples, under a memory limit.

    python tests/faults/hostile.py --minutes 10 --limit 1GiB

One process: a database, threads that do their worst, and a probe of the alert class each second. Ends with a line of
JSON, and status 1 where a promise was broken: memory past the limit and the fixed part, a probe refused or late, a
refusal that is not typed or not counted, a sample that is neither stored, nor refused, nor counted as evicted, a sum of
folded series that is not that of their values.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import metricsdb as mdb
from metricsdb.sizes import size_bytes

# What the process takes beside the limit: Python, its libraries, stacks, and the frames of this program.
FIXED_BYTES = 200 << 20
LATE_S = 1.0
# Series of a metric that may have one: all others are folded.
FOLDED = 2_000
PROBE = 'count(steady) + count(rate(steady{n=~".*7"}[1m]))'
HEAVY = [
    "sum by (n) (rate(steady[5m]))",
    "steady * on (n) group_left steady",
    "topk(10, max_over_time(steady[10m]))",
    "count by (kind) (hostile)",
    'label_replace(hostile, "x", "$1", "id", "(.*)")',
    "quantile_over_time(0.9, steady[5m:10s])",
]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Hostile:
    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        overflow = mdb.Limit(selector="folded", max_series=1, at_limit="overflow", label="pod", max_folded=1)
        self.db = mdb.Database(
            memory_limit=chosen.limit, evict_keep=chosen.keep, query_timeout="30s", limits=[overflow]
        )
        steady = pl.select(n=pl.int_range(chosen.steady)).select(
            pl.lit("steady").alias("__name__"), pl.format("{}", "n").alias("n"), pl.lit("api").alias("job")
        )
        self.refs = self.db.register(steady)
        pods = pl.select(n=pl.int_range(FOLDED)).select(
            pl.lit("folded").alias("__name__"), pl.format("pod-{}", "n").alias("pod")
        )
        self.folded = self.db.register(pods)
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.broken: list[str] = []
        self.late: list[float] = []
        self.peak = self.peak_held = 0
        self.seed = 0

    def note(self, **counts: int) -> None:
        with self.lock:
            self.seen.update(counts)

    def forever(self, work: Callable[[], None], every_s: float) -> threading.Thread:
        """A thread that does it again and again; what is refused is counted, anything else ends the run."""

        def loop() -> None:
            due = time.monotonic()
            while not self.stop.is_set():
                try:
                    work()
                except Exception as error:
                    self.broken.append(f"{type(error).__name__}: {error}")
                    self.stop.set()
                due = max(due + every_s, time.monotonic() - 1)
                self.stop.wait(max(0.0, due - time.monotonic()))

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    def taken(self, report: mdb.WriteReport, sent: int) -> None:
        rejected = sum(r.count for reason, r in report.rejected.items() if reason == "memory_limit")
        if report.accepted + report.rejected_total != sent or report.rejected_total != rejected:
            self.broken.append(f"{sent} samples were sent, but the report says {report}")
        self.note(accepted=report.accepted, rejected=rejected)

    def write(self) -> None:
        """A tenth of a second of the steady load, at twice its rate."""
        count = min(self.chosen.rated * 2 // 10, len(self.refs))
        with self.lock:
            self.seed += 1
            at = self.seed * count % len(self.refs)
        refs = np.take(self.refs, np.arange(at, at + count), mode="wrap")
        values = np.round(np.random.default_rng(self.seed).normal(100, 10, count), 2)
        times = np.full(count, time.time_ns() // 1_000_000).astype("datetime64[ms]")
        try:
            self.taken(self.db.append_batch(refs, times, values), count)
        except mdb.MemoryLimit:
            self.note(rejected=count, writes_refused=1)

    def fold(self) -> None:
        """A value of each folded series, whole numbers at one time, by references and as text in turn; and their sum as
        it is told then."""
        with self.lock:
            self.seed += 1
        values = np.random.default_rng(self.seed).integers(0, 1 << 40, FOLDED)
        now = time.time_ns() // 1_000_000
        self.note(folds_tried=1)
        try:
            if self.seen["folds_tried"] % 2:
                report = self.db.append_batch(self.folded, np.datetime64(now, "ms"), values.astype(np.float64))
            else:
                lines = (f'folded{{pod="pod-{i}"}} {value} {now}\n' for i, value in enumerate(values))
                report = self.db.ingest("".join(lines).encode(), format="prometheus")
        except mdb.MemoryLimit as error:
            if "bodies" in str(error):
                self.note(bodies_refused=1)
            else:
                self.note(rejected=FOLDED, writes_refused=1)
            if "new series" in str(error):
                self.broken.append(f"series that were there were refused as new ones: {error}")
            return
        self.note(rejected=report.rejected_total)
        if report.rejected_total:
            self.note(folds_in_part=1)
            return
        told = self.db.query("sum(folded)", now / 1000, priority="alert")["value"].item()
        self.note(folds=1)
        if told != values.sum():
            self.broken.append(f"the sum of folded series is {told}, their values come to {values.sum()}")

    def invent(self) -> None:
        """A fifth of a second of new series, each with one sample."""
        count = self.chosen.new_series // 300
        with self.lock:
            self.seed += 1
            start = self.seed * count
        lines = (
            f'hostile{{id="{start + i:032x}",kind="{i % 20}",pod="pod-{start + i}-{i % 7}",job="mad"}} {i}\n'
            for i in range(count)
        )
        body = "".join(lines).encode()
        try:
            report = self.db.ingest(body, format="prometheus")
        except mdb.MemoryLimit as error:
            if "bodies" in str(error):
                self.note(bodies_refused=1)
            else:
                self.note(series_refused=count)
            return
        self.note(series_made=report.series_created, accepted=report.accepted, series_refused=count - report.accepted)

    def ask(self, number: int, priority: str) -> None:
        expr = HEAVY[number % len(HEAVY)]
        try:
            self.db.query_range(expr, "-10m", "now", "5s", priority=priority, cache=number % 2 == 0)
            self.note(answered=1)
        except mdb.QueryRejected as error:
            self.note(**{f"{priority}_refused" if "memory limit" in str(error) else "rejected": 1})
            self.stop.wait(error.retry_after)
        except (mdb.QueryLimit, mdb.QueryTimeout) as error:
            self.note(**{type(error).__name__: 1})

    def probe(self) -> None:
        begun = time.monotonic()
        try:
            self.db.query(PROBE, priority="alert")
        except mdb.QueryError as error:
            self.broken.append(f"a probe was refused: {error}")
        self.late.append(time.monotonic() - begun)

    def watch(self) -> None:
        self.peak = max(self.peak, resident())
        shares = self.db._native.memory_shares()
        self.peak_held = max(self.peak_held, sum(shares.values()))
        if self.chosen.verbose and len(self.late) > self.seen["shown"]:
            self.seen["shown"] = len(self.late)
            print(resident() >> 20, {k: v >> 20 for k, v in shares.items()}, self.late[-1], file=sys.stderr)

    def run(self) -> dict[str, object]:
        numbers = iter(range(10**9))
        begun, baseline = time.monotonic(), resident()
        self.db.start()
        threads = [
            self.forever(self.write, 0.1),
            self.forever(self.invent, 0.2),
            self.forever(self.fold, 1.0),
            self.forever(lambda: self.ask(next(numbers), "query"), 0.1),
            self.forever(lambda: self.ask(next(numbers), "query"), 0.1),
            self.forever(lambda: self.ask(next(numbers), "batch"), 0.1),
            self.forever(self.probe, 1.0),
            self.forever(self.watch, 0.05),
        ]
        self.stop.wait(self.chosen.minutes * 60)
        # On a busy machine little comes in a minute: then it takes longer until a limit is met.
        for _ in range(240 if self.chosen.lenient else 0):
            if self.seen["series_refused"]:
                break
            self.stop.wait(1)
        self.stop.set()
        for thread in threads:
            thread.join()
        self.db.stop()
        return self.judge(time.monotonic() - begun, baseline)

    def judge(self, seconds: float, baseline: int) -> dict[str, object]:
        limit, stats = size_bytes(self.chosen.limit), dict(self.db.stats().iter_rows())
        bound = round(1.05 * limit) + FIXED_BYTES
        late = sorted(self.late)
        if self.peak > bound:
            self.broken.append(f"{self.peak} bytes were resident, {bound} promised")
        if late[-1] > LATE_S and not self.chosen.lenient:
            self.broken.append(f"a probe took {late[-1]:.2f} s")
        for name, said, counted in [
            # A new series with one sample is refused as one or as the other.
            (
                "samples and series",
                self.seen["rejected"] + self.seen["series_refused"],
                stats["refused_samples"] + stats["refused_new_series"],
            ),
            ("bodies", self.seen["bodies_refused"], stats["refused_bodies"]),
            ("queries", self.seen["query_refused"], stats["refused_queries"]),
            ("batch queries", self.seen["batch_refused"], stats["refused_batch_queries"]),
        ]:
            if said != counted:
                self.broken.append(f"{said} {name} were refused, {counted} counted")
        # The first series of its metric, and the sum of the others; of a batch taken in part nobody knows which.
        least = self.seen["accepted"] + 2 * self.seen["folds"]
        most = least + 2 * self.seen["folds_in_part"]
        if not least <= stats["samples"] + stats["evicted_samples"] <= most:
            self.broken.append(
                f"{least} samples were accepted, {stats['samples']} are there, {stats['evicted_samples']} left"
            )
        if not self.seen["folds"]:
            self.broken.append("no sum of folded series was looked at")
        self.db._native.check()
        return {
            "seconds": round(seconds, 1),
            "limit": limit,
            "baseline_rss": baseline,
            "peak_rss": self.peak,
            "peak_held": self.peak_held,
            "rss_bound": bound,
            "probes": len(late),
            "probe_p50_s": round(late[len(late) // 2], 4),
            "probe_max_s": round(late[-1], 4),
            **self.seen,
            **{k: stats[k] for k in ("series", "samples", "evicted_samples", "evicted_series", "evictions")},
            "broken": self.broken[:5],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--keep", default="1m", help="what eviction leaves")
    parser.add_argument("--steady", type=int, default=50_000, help="series of the steady load")
    parser.add_argument("--rated", type=int, default=50_000, help="samples a second; twice as many come")
    parser.add_argument("--new-series", type=int, default=100_000, help="a minute")
    parser.add_argument(
        "--lenient", action="store_true", help="don't judge how long probes took, and go on until series were refused"
    )
    parser.add_argument("--verbose", action="store_true")
    seen = Hostile(parser.parse_args()).run()
    print(json.dumps(seen))
    sys.exit(1 if seen["broken"] else 0)


if __name__ == "__main__":
    main()
