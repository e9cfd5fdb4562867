"""`metricsdb demo`: a fleet of real node_exporter data streams in, then answers what an operator would ask.

A packaged capture of one machine, a scrape a second, is replayed for many: each begins at its own second of it,
takes every fifth scrape, and scrapes at its own moment. Values and rates stay what the machine had.
"""

from __future__ import annotations

import asyncio
import lzma
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources

import httpx
import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from metricsdb.adapters.scrape import Scraper, Target
from metricsdb.clock import Clock, SystemClock
from metricsdb.database import Database, Refs
from metricsdb.errors import ConfigError
from metricsdb.server.app import create_app

__all__ = ["QUESTIONS", "Capture", "Fleet", "read_capture", "run"]

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

CAPTURE_INTERVAL_MS = 1_000
INTERVAL_MS = 5_000
# Rows of the capture between two scrapes of a machine.
STRIDE = INTERVAL_MS // CAPTURE_INTERVAL_MS
SERIES_DEFAULT = 1_000_000
# What a batch holds: instances of one block, steps of one batch; some 600,000 samples.
BLOCK_INSTANCES = 100
BATCH_STEPS = 10
# Measured on this data, rounded up: index and head of a series, then its compressed samples.
SERIES_BYTES, SAMPLE_BYTES = 800, 3

# What Carlos wants to know, and how he asks.
QUESTIONS = [
    ("How busy is the fleet, by kind of CPU time?", "sum by (mode) (rate(node_cpu_seconds_total[1m]))"),
    (
        "Which five racks are busiest?",
        'topk(5, avg by (rack) (sum by (rack, instance) (rate(node_cpu_seconds_total{mode!="idle"}[1m]))))',
    ),
    (
        "How much memory is left, by data centre and environment?",
        "avg by (dc, env) (node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
    ),
    (
        "Which root disks fill up fastest, in GB an hour?",
        'bottomk(5, sum by (instance) (deriv(node_filesystem_avail_bytes{mountpoint="/"}[3m])) * 3600) / 1e9',
    ),
    (
        "What goes over the network, in MB/s, by data centre?",
        'sum by (dc) (rate(node_network_receive_bytes_total{device!="lo"}[1m])) / 1e6',
    ),
    (
        "How is load spread over production?",
        'quantile by (dc) (0.95, node_load1{env="prod" and not dc in ("iad")})',
    ),
    (
        "What did disk writes do at their busiest in five minutes, in MB/s?",
        "max_over_time(sum(rate(node_disk_written_bytes_total[1m]))[5m:30s]) / 1e6",
    ),
    ("How many series does each collector give?", 'topk(5, count by (__name__) ({__name__=~"node_.+"}))'),
]
LIVE_QUESTIONS = [
    (
        "And this very process, right now: where does its memory go, in MB?",
        "topk(5, sum by (part) (metricsdb_memory_bytes)) / 1e6",
    ),
    (
        "How many cores did it keep busy in the last seconds?",
        'sum by (job) (deriv(process_cpu_seconds_total{job="metricsdb"}[30s]))',
    ),
]


@dataclass(frozen=True)
class Capture:
    """The packaged scrapes of one machine: label sets, and values [rows, series]."""

    labels: list[dict[str, str]]
    values: npt.NDArray[np.float64]


@dataclass
class Fleet:
    """Many machines made of the captured one."""

    capture: Capture
    instances: int
    steps: int
    start_ms: int

    @property
    def series(self) -> int:
        return self.instances * len(self.capture.labels)

    @property
    def samples(self) -> int:
        return self.series * self.steps

    def names(self) -> pl.DataFrame:
        """One row a machine, one column a label that all of its series get."""
        numbers = pl.Series("n", np.arange(self.instances))
        at = pl.col("n")
        places, stages = pl.Series(["fra", "iad", "sin", "gru"]), pl.Series(["prod", "prod", "prod", "staging"])
        return pl.DataFrame(numbers).select(
            pl.concat_str(pl.lit("node-"), at.cast(pl.String).str.zfill(5), pl.lit(":9100")).alias("instance"),
            pl.lit("node").alias("job"),
            places.gather(numbers % 4).alias("dc"),
            stages.gather(numbers // 4 % 4).alias("env"),
            pl.concat_str(pl.lit("r"), (at // 40).cast(pl.String)).alias("rack"),
        )

    def register(self, db: Database) -> Iterator[Refs]:
        """References of all series, a block of machines at a time: [instances of the block, series]."""
        rows = pl.DataFrame(self.capture.labels, infer_schema_length=None)
        machines = self.names()
        for first in range(0, self.instances, BLOCK_INSTANCES):
            block = machines.slice(first, BLOCK_INSTANCES)
            yield db.register(block.join(rows, how="cross")).reshape(len(block), -1)

    def batch(
        self, first: int, count: int, step: int, steps: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Times and values [instances, series, steps] of `count` machines from `first` on, from `step` on."""
        machines = np.arange(first, first + count)
        rows_free = len(self.capture.values) - (self.steps - 1) * STRIDE
        begin = machines * 37 % rows_free
        phase = machines * 7_919 % INTERVAL_MS
        at = np.arange(step, step + steps)
        values = self.capture.values[begin[:, None] + at * STRIDE].transpose(0, 2, 1)
        times = self.start_ms + phase[:, None, None] + (at * INTERVAL_MS)[None, None, :]
        return np.broadcast_to(times, values.shape), values


def read_capture() -> tuple[Capture, int]:
    """The capture, read by the database's own text parser; and how many bytes of text that was."""
    packed = resources.files("metricsdb").joinpath("data/node_capture.txt.xz").read_bytes()
    text = lzma.decompress(packed)
    scrapes = [part for part in re.split(rb"(?m)^# SCRAPE \d+\n", text) if part]
    with Database() as db:
        for row, body in enumerate(scrapes):
            db.ingest(body, "prometheus", time=np.datetime64(row, "ms"))
        found = db.raw('{__name__!=""}', np.datetime64(0, "ms"), np.datetime64(len(scrapes), "ms"))
        steady = [s for s in found if len(s.timestamps) == len(scrapes)]
        values = np.stack([s.values.astype(np.float64) for s in steady], axis=1)
    return Capture([s.labels for s in steady], np.ascontiguousarray(values)), len(text)


def default_series(steps: int, available_bytes: int) -> int:
    """A million, or as many as fit into 70 % of the memory that is free."""
    return min(SERIES_DEFAULT, int(available_bytes * 0.7) // (SERIES_BYTES + SAMPLE_BYTES * steps))


def available_bytes() -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def run(series: int | None, minutes: float, console: Console, clock: Clock | None = None) -> None:
    """The whole demo. Raises ConfigError for a fleet that cannot be."""
    clock = clock or SystemClock()
    capture, text_bytes = read_capture()
    steps = round(minutes * 60_000 / INTERVAL_MS)
    if not 1 <= steps <= len(capture.values) // STRIDE:
        longest = len(capture.values) * CAPTURE_INTERVAL_MS // 60_000
        raise ConfigError(f"minutes {minutes:g} is out of range; give 0.1 to {longest}")
    if series is None:
        series = default_series(steps, available_bytes())
    if series <= 0:
        raise ConfigError(f"series {series} must be positive")
    instances = max(1, round(series / len(capture.labels)))
    fleet = Fleet(capture, instances, steps, clock.now_ms() - steps * INTERVAL_MS)
    console.print(
        Panel(
            f"One real node_exporter ({len(capture.labels)} series, {text_bytes / 1e6:.0f} MB of text) becomes "
            f"[bold]{fleet.instances:,} machines, {fleet.series:,} series[/bold], a scrape each 5 s for "
            f"{minutes:g} minutes: [bold]{fleet.samples:,} samples[/bold].",
            title="MetricsDB",
        )
    )
    with Database(clock=clock) as db:
        live = _Live(db, clock)
        live.start()
        try:
            _stream(db, fleet, console, clock)
            _ask(db, QUESTIONS, console, clock)
            live.wait(rounds=5)
            _ask(db, LIVE_QUESTIONS, console, clock)
        finally:
            live.stop()
        _account(db, console)


def _stream(db: Database, fleet: Fleet, console: Console, clock: Clock) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        started = clock.monotonic()
        task = progress.add_task("series ", total=fleet.series, rate="")
        blocks = []
        for refs in fleet.register(db):
            blocks.append(refs)
            _advance(progress, task, refs.size, started, clock, "series")
        cpu, started = _cpu_s(), clock.monotonic()
        task = progress.add_task("samples", total=fleet.samples, rate="")
        stream_steps(db, fleet, blocks, lambda count: _advance(progress, task, count, started, clock, "samples"))
    # The kernel counts CPU time in ticks: a tiny fleet may take none.
    wall, cpu = clock.monotonic() - started, max(_cpu_s() - cpu, 0.01)
    console.print(
        f"[bold green]{fleet.samples / wall / 1e6:.1f} million samples/s[/bold green] "
        f"({wall:.1f} s; {fleet.samples / cpu / 1e6:.1f} million per CPU-second, making them in numpy included)\n"
    )


def stream_steps(db: Database, fleet: Fleet, blocks: list[Refs], done: Callable[[int], None]) -> None:
    """Writes all samples as a fleet sends them: step by step over all machines; `done` is told of each batch."""
    for step in range(0, fleet.steps, BATCH_STEPS):
        steps = min(BATCH_STEPS, fleet.steps - step)
        for number, refs in enumerate(blocks):
            times, values = fleet.batch(number * BLOCK_INSTANCES, len(refs), step, steps)
            ids = np.repeat(refs.reshape(-1), steps)
            db.append_batch(ids, times.reshape(-1).view("datetime64[ms]"), values.reshape(-1))
            done(ids.size)


def _advance(progress: Progress, task: TaskID, count: int, started: float, clock: Clock, unit: str) -> None:
    done = progress.tasks[task].completed + count
    rate = done / max(clock.monotonic() - started, 1e-9)
    progress.update(task, advance=count, rate=f"{done:>13,.0f} {unit}  {rate:>12,.0f} {unit}/s")


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _ask(db: Database, questions: list[tuple[str, str]], console: Console, clock: Clock) -> None:
    for question, expr in questions:
        started = clock.monotonic()
        frame = db.query(expr)
        took = clock.monotonic() - started
        console.print(f"[bold]{question}[/bold]  [green]{took * 1000:.1f} ms[/green]")
        console.print(f"  {expr}", style="cyan", markup=False, highlight=False, soft_wrap=True)
        with pl.Config(
            tbl_rows=8,
            tbl_hide_column_data_types=True,
            tbl_hide_dataframe_shape=True,
            float_precision=3,
            tbl_width_chars=120,
        ):
            console.print(str(frame), markup=False, highlight=False, soft_wrap=True)
        console.print()


def _account(db: Database, console: Console) -> None:
    """What it all costs, byte by byte."""
    memory = db.memory().sort("bytes", descending=True)
    stats = dict(db.stats().iter_rows())
    table = Table(title="Memory, by part", title_justify="left")
    for name in ("part", "MB", "items", "bytes/series"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, size, items, each in memory.select("part", "bytes", "items", "bytes_per_series").iter_rows():
        table.add_row(part, f"{size / 1e6:,.1f}", f"{items:,}", f"{each:,.1f}")
    console.print(table)
    total, samples = int(memory["bytes"].sum()), stats.get("samples", 0)
    console.print(
        f"{total / 1e6:,.0f} MB for {stats.get('series', 0):,} series and {samples:,} samples: "
        f"[bold]{total / max(samples, 1):.2f} bytes a sample[/bold], labels, index and freed memory included."
    )


class _Live:
    """Scrapes this process' own /metrics every second, in process, while the demo runs."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._rounds = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._scrape(),), daemon=True)
        self._stop = asyncio.Event()

    def start(self) -> None:
        self._thread.start()

    def wait(self, rounds: int) -> None:
        """Until that many scrapes were made since the start."""
        for _ in range(rounds):
            self._rounds.acquire()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _scrape(self) -> None:
        transport = httpx.ASGITransport(app=create_app(self._db))
        scraper = Scraper(self._db._store, self._clock, transport=transport)
        target = Target("http://demo/metrics", {"job": "metricsdb", "instance": "demo"}, 1_000, 10.0)
        task = asyncio.create_task(scraper.run([target], lambda _: self._rounds.release()))
        await self._stop.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await scraper.close()
