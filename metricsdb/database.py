"""The one public face: samples in, PromQL out, as Polars frames.

It is long, since every public method stands here; most are a call.
"""

from __future__ import annotations

import gc
import secrets
import shutil
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb import durability as durable
from metricsdb import explain as explaining
from metricsdb import frames, incidents, storage, writes
from metricsdb import scan as scan_source
from metricsdb._native import NativeDatabase
from metricsdb.alerts.manager import Alerts
from metricsdb.clock import Clock, SystemClock
from metricsdb.cold import Cold, open_tiers
from metricsdb.config import Limit
from metricsdb.errors import ConfigError, DatabaseLocked, WriteError
from metricsdb.explain import ColdCost, Estimate, Plan
from metricsdb.expressions import Decimation
from metricsdb.frames import QueryInfo, QueryWarning
from metricsdb.heap import keep_little_freed
from metricsdb.histograms import Histogram, as_list, with_histogram
from metricsdb.lifecycle import forks
from metricsdb.lifecycle.cold.fetch import Tiers
from metricsdb.lifecycle.cold.move import Mover
from metricsdb.lifecycle.deletions import Deleted, Trash
from metricsdb.lifecycle.memory import Evict, MemoryPolicy
from metricsdb.lifecycle.retention import RetentionLike, departures
from metricsdb.lifecycle.rollups import RollupPolicy, at_level
from metricsdb.lifecycle.tick import Background, Tick, Upkeep
from metricsdb.limits import CardinalityBy, SeriesLimits, cardinality, counters
from metricsdb.precision import PrecisionPolicies
from metricsdb.retention import Retention
from metricsdb.rollups import Rollups
from metricsdb.sizes import SizeLike, size_bytes
from metricsdb.subscribe import Subscription
from metricsdb.times import DurationLike, Time, duration_ms, duration_text, time_column_ms, time_ms
from metricsdb.values import column as value_column
from metricsdb.writes import WriteReport

Labels = Mapping[str, str]
Refs = npt.NDArray[np.uint64]
Format = Literal["prometheus", "openmetrics", "protobuf", "remote_write", "remote_write_v2", "statsd"]
Priority = Literal["alert", "query", "batch"]
DuplicatePolicy = Literal["last", "first", "min", "max", "sum", "error"]


_QUERIES: dict[str, Any] = {
    "id": pl.UInt64,
    "class": pl.String,
    "expr": pl.String,
    "source": pl.String,
    "state": pl.String,
    "seconds": pl.Float64,
    "samples": pl.UInt64,
    "bytes": pl.UInt64,
    "bytes_peak": pl.UInt64,
}


def _positive(**counts: int) -> None:
    for name, count in counts.items():
        if count <= 0:
            raise ConfigError(f"{name} {count} must be positive")


@dataclass(frozen=True, slots=True)
class RawSeries:
    """Raw samples of one series: ``timestamps`` int64 ms, ``values`` int64 or uint64 where all are that, or float64."""

    labels: dict[str, str]
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.uint64]


class Database:
    """A time-series database in memory. Thread-safe; every call releases the GIL while it works.

    With a ``path`` it keeps a journal and checkpoints in that directory, and opens with what is there; ``durability``
    says what a write that has returned survives (``"batch"``, the default: a power cut; ``"interval"``: a power cut
    ``sync_interval`` later; ``"none"``: the end of the process). Where there is much, a thread reads it: writes are
    taken at once, and other calls wait for it (``db.durability.replaying``). Raises ``DatabaseLocked`` where another
    process has the directory, ``StorageError``, ``FormatVersionError``. docs/durability.md has the promises.

    ``duplicates`` says which value stays when a sample comes twice for one time. ``lookback``, ``query_timeout``
    and ``max_samples`` are the defaults of every query, which holds ``max_query_memory`` bytes at most. So many queries
    of each class run at once; ``queries_waiting_max`` more of it wait, for ``query_wait`` at most. Answers of range
    queries are kept in ``cache_memory`` bytes (0: none), and served where they are sure to be the same. Chunks whose
    samples are older than ``dense_after`` are re-encoded denser by ``tick``, which takes at most the share ``idle_cpu``
    of one core (0: off).

    ``memory_limit`` (``"4GiB"``, bytes; None: none) bounds what the database holds: data, index, queries, answers that
    are kept, bodies on their way in. Beyond ``memory_soft`` of it, ``tick`` makes room: ``evict="oldest"`` drops the
    oldest samples, but none of the last ``evict_keep``; ``"never"`` drops none. What is too much then is refused by
    steps (docs/operations.md). ``retention`` says how long samples stay, where: ``"15d"``, rules (docs/retention.md).

    ``disk`` is a directory with older samples, and ``cold`` an object store with still older ones (a URL, a path, or an
    obstore store): queries read there what they need to; ``cold_cache`` bytes of it stay in memory (docs/tiers.md).

    ``precision`` maps selectors to policies such as ``"digits(4)"``, which ``db.precision`` shows and changes.
    ``rollups`` maps selectors to lines such as ``"raw 6h -> 1m 7d -> 1h"``: records of minutes and hours stand for
    older samples (``db.rollups``, docs/downsampling.md).
    ``alerts`` installs, evaluates and rehearses alerting statements; every ``alerts_every`` where a group says no more.
    ``limits`` are those on series, which ``db.limits`` shows and changes. ``clock`` tells what ``"now"`` is.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        durability: durable.Mode | None = None,
        sync_interval: DurationLike = "1s",
        duplicates: DuplicatePolicy = "last",
        lookback: DurationLike = "5m",
        query_timeout: DurationLike = "2m",
        max_samples: int = 50_000_000,
        max_query_memory: int = 2 << 30,
        cache_memory: int = 64 << 20,
        alert_concurrency: int = 20,
        query_concurrency: int = 20,
        batch_concurrency: int = 2,
        queries_waiting_max: int = 100,
        query_wait: DurationLike = "10s",
        dense_after: DurationLike = "2h",
        idle_cpu: float = 0.1,
        memory_limit: SizeLike | None = None,
        memory_soft: float = 0.85,
        evict: Evict = "oldest",
        evict_keep: DurationLike = "10m",
        retention: RetentionLike = None,
        alerts_every: DurationLike = "1m",
        precision: Mapping[str, str] | None = None,
        limits: Sequence[Limit] = (),
        rollups: Mapping[str, str] | Sequence[RollupPolicy] = (),
        disk: str | Path | None = None,
        cold: Any = None,
        cold_cache: SizeLike = "512MiB",
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._lookback_ms = duration_ms(lookback, "lookback")
        self._timeout_ms = duration_ms(query_timeout, "query_timeout")
        if self._lookback_ms <= 0 or self._timeout_ms <= 0:
            raise ConfigError("lookback and query_timeout must be longer than zero")
        _positive(max_samples=max_samples, max_query_memory=max_query_memory, alert_concurrency=alert_concurrency)
        _positive(query_concurrency=query_concurrency, batch_concurrency=batch_concurrency)
        wait_ms = duration_ms(query_wait, "query_wait")
        if queries_waiting_max < 0 or wait_ms < 0 or cache_memory < 0:
            raise ConfigError("queries_waiting_max, query_wait and cache_memory must not be negative")
        classes = {"alert": alert_concurrency, "query": query_concurrency, "batch": batch_concurrency}
        self.concurrency: dict[str, int] = classes
        self.queries_waiting_max = queries_waiting_max
        memory = MemoryPolicy.of(memory_limit, memory_soft, evict, evict_keep)
        if memory.limit is not None:
            keep_little_freed()
        self._upkeep = Upkeep(self._clock, duration_ms(dense_after, "dense_after"), idle_cpu, memory)
        self._background: tuple[Background, ...] = ()
        of_queries = (self._timeout_ms, max_samples, memory.query_memory(max_query_memory))
        admission = ([*self.concurrency.values()], queries_waiting_max, wait_ms)
        self._options = (duplicates, of_queries, admission, memory.cache_memory(cache_memory))
        self.precision = PrecisionPolicies(lambda: self._native, self._range)
        self.limits = SeriesLimits(lambda: self._store)
        self.rollups = Rollups(self, self._upkeep.roller, self._clock)
        self._home = durable.Home.of(path, durability, duration_ms(sync_interval, "sync_interval"))
        self._keeper: durable.Keeper | None = None
        self._replay: durable.Replay | None = None
        self._release: weakref.finalize[..., Database] | None = None
        self._store = self._empty() if self._home is None else self._open(self._home)
        self._compose(alerts_every, disk, cold, size_bytes(cold_cache, "cold_cache"), retention)
        forks.watch(self)
        for selector, policy in (precision or {}).items():
            self.precision.set(selector, policy)
        self.limits.set(*limits)
        self.rollups.use(rollups)

    def _compose(
        self, alerts_every: DurationLike, disk: str | Path | None, cold: Any, kept: int, retention: RetentionLike
    ) -> None:
        """What stands on the store: tiers, alerts, pins, retention."""
        self._tiers = Tiers(lambda: self._native, self._clock, self._timeout_ms, kept)
        self._disk, self._cold = open_tiers(self, disk, cold)
        self._tiers.catalogs = tuple(tier.catalog for tier in (self._cold, self._disk) if tier is not None)
        directory, sync = (None, False) if self._home is None else (self._home.path, self._home.mode != "none")
        self.alerts = Alerts(
            lambda: self._native, self._clock, self._lookback_ms, alerts_every, directory, sync, self._tiers.queries,
            lambda: self._store if self._hindrance() else None,
        )  # fmt: skip
        self.incident: incidents.Incident | None = None
        self._pins = incidents.Pins(self, self._clock, directory)
        self._upkeep.aging.log = departures(directory)
        self.retention = Retention(self, self._upkeep.aging, Trash(directory, lambda: self._native))
        self.retention.use(retention)

    @property
    def disk(self) -> Cold:
        """The disk tier: as ``cold``. Raises ``ConfigError``."""
        if self._disk is None:
            raise ConfigError("this database has no disk tier; open it with Database(disk='/var/lib/metrics')")
        return self._disk

    @property
    def cold(self) -> Cold:
        """The cold store: what it has, and moving there by hand. docs/cold-storage.md. Raises ``ConfigError``."""
        if self._cold is None:
            raise ConfigError("this database has no cold store; open it with Database(cold='s3://bucket/prefix')")
        return self._cold

    def _movers(self) -> list[Mover]:
        """Who changes what lies outside of memory, in the order in which their locks are taken."""
        tiers = (self._cold, self._disk, self._pins)
        return [tier.mover for tier in tiers if tier is not None and tier.mover is not None]

    def _carry(self, now_ms: int | None = None) -> None:
        """What is due between memory, disk, and stores of cold and pinned samples: no alert waits for their network."""
        if self._hindrance() is not None:
            return
        at = self.now_ms() if now_ms is None else now_ms
        for tier in (self._disk, self._cold):
            if tier is not None:
                tier.step(at)
        self._pins.tick(at)

    def _empty(self) -> NativeDatabase:
        # The hash of raw label bytes is keyed at random, so that no sender can make series collide.
        native = NativeDatabase(*self._options, secrets.randbits(64), None, self._upkeep.relief.policy.native)
        self.precision.reinstall(native)
        self.limits.reinstall(native)
        native.set_importance(self._upkeep.aging.low)
        return native

    def _open(self, home: durable.Home) -> NativeDatabase:
        begun = self._clock.monotonic()
        directory = (str(home.path), home.mode, secrets.randbits(32))
        memory = self._upkeep.relief.policy.native
        try:
            native = NativeDatabase(*self._options, secrets.randbits(64), directory, memory)
        except DatabaseLocked:
            # It may be one of our own that was dropped and not collected yet.
            gc.collect()
            native = NativeDatabase(*self._options, secrets.randbits(64), directory, memory)
        self.precision.adopt(native)
        self._replay = durable.Replay(native, self._clock, begun)
        self._keeper = durable.Keeper(native, home)
        self._release = weakref.finalize(self, durable.release, self._replay, self._keeper, native, home)
        return native

    @property
    def _native(self) -> NativeDatabase:
        """The store, once all that its directory holds is there; ``_store`` takes writes before."""
        if self._replay is not None:
            self._replay.wait()
        return self._store

    def _hindrance(self) -> str | None:
        """Why only writes are taken now; None: everything is."""
        return None if self._replay is None else self._replay.hindrance()

    def _forked(self) -> None:
        """In a forked child: what it has of its parent's database is of no use."""
        self._keeper, self._replay, self._background = None, None, ()
        self.alerts.pipeline = self.alerts.deliver = None
        if self._release is not None:
            self._release.detach()
        if not isinstance(self._store, durable.Gone):
            self._store = durable.forked(self._store, self._home)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads and frees all samples and series.

        In memory, the database is empty, and usable, afterwards; options and precision policies stay. One with a
        directory syncs what waits first, and raises ``NotDurable`` where the disk fails; it cannot be used any more.
        """
        if self._replay is not None:
            self._replay.stop()
        self.stop()
        self.alerts.close()
        if self._home is None:
            self._store = self._empty()
        elif self._keeper is not None:
            if self._release is not None:
                self._release.detach()
            self._keeper.stop()
            native, self._keeper, self._store = self._store, None, durable.closed(self._home)
            native.close()

    # --- durability -----------------------------------------------------------------------------

    @property
    def durability(self) -> durable.Durability:
        """The mode, what it may lose, and whether the disk fails now."""
        return durable.durability(self._store, self._home)

    @property
    def recovery(self) -> durable.Recovery | None:
        """What opening the directory found, and what was lost, once all is read; None for one in memory alone."""
        return None if self._replay is None else self._replay.wait()

    def sync(self) -> None:
        """Returns when everything written so far survives a power cut, whatever the mode. Raises ``NotDurable``."""
        self._store.sync()

    def checkpoint(self) -> None:
        """Writes everything into a checkpoint, so that the journal before it goes and opening is quick.

        Happens by itself when the journal is long. Writes and queries go on. Raises ``StorageError``.
        """
        self._native.checkpoint()

    def snapshot(self, path: str | Path) -> None:
        """Writes everything into an empty directory, which opens as a database: ``Database(path)``, or ``restore``.

        Writes and queries go on; each series is as it was at one moment. Raises ``StorageError``, ``ConfigError``.
        """
        self._native.snapshot(str(Path(path).absolute()), secrets.randbits(32))

    @classmethod
    def restore(cls, snapshot: str | Path, path: str | Path, **options: Any) -> Self:
        """Copies a snapshot into a new directory and opens that. ``options`` as for ``Database``."""
        source, target = Path(snapshot), Path(path)
        if not source.is_dir():
            raise ConfigError(f"snapshot {str(source)!r} is no directory")
        if target.exists() and any(target.iterdir()):
            raise ConfigError(f"path {str(target)!r} is not empty; restore into a new directory")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("LOCK"))
        return cls(target, **options)

    def now_ms(self) -> int:
        """The clock's time, in milliseconds since the epoch."""
        return self._clock.now_ms()

    # --- upkeep ---------------------------------------------------------------------------------

    def tick(self, now: Time | None = None) -> Tick:
        """Does whatever is due (alerts; upkeep, within its share of a core); says what the upkeep did. Call it every
        second or so, or let ``start`` do that; ``alerts.send`` hands over what alerts have to say. A write waits for it
        no longer than a pointer is swapped. Does nothing while the directory is still being read."""
        if self._hindrance() is not None:
            return Tick(finished=False)
        now_ms = self.now_ms() if now is None else time_ms(now, self.now_ms())
        self.alerts.tick(now_ms)
        self.retention.tick(now_ms)
        done = self._upkeep.tick(self._native, now_ms)
        if not self._background:
            self._carry(now_ms)
        return done

    def delete(
        self,
        selector: str | Sequence[str],
        start: Time | None = None,
        end: Time | None = None,
        undo: DurationLike | None = None,
    ) -> Deleted:
        """Deletes the samples of a selector's series in [start, end] (None: since ever, for ever), exactly.

        They are in no answer once this returns, and their memory is free. ``undo``: so long ``undelete`` brings them
        back; they wait in the data directory, or in memory. docs/deletes.md. Raises ``ParseError``, ``NotDurable``,
        ``ColdStoreError`` (memory's may be gone then, cold ones not: call it again, or ``undelete``).
        """
        return self.retention.delete([selector] if isinstance(selector, str) else selector, start, end, undo)

    def undelete(self, deletion: str) -> int:
        """Takes a deletion back, by its ``id``; how many samples came back. Raises ``ConfigError``."""
        return self.retention.undelete(deletion)

    def deletions(self) -> pl.DataFrame:
        """What ``undelete`` can take back: ``id``, ``selectors``, ``start``, ``end``, ``deleted``, ``until``, …"""
        return self.retention.deletions()

    def start(self, every: DurationLike = "1s") -> None:
        """Starts threads that call ``tick`` and ``alerts.send`` every so often, until ``stop`` or ``close``."""
        seconds = duration_ms(every, "every") / 1000
        if seconds <= 0:
            raise ConfigError(f"every {every!r} must be longer than zero")
        self.stop()
        # Receivers and stores may be slow: who waits for them holds up no evaluation.
        works: tuple[Callable[[], object], ...] = (self.tick, self.alerts.send, self._carry)
        self._background = tuple(Background(work, seconds) for work in works)

    def stop(self) -> None:
        """Ends the threads of ``start``, if there are any; a message on its way may arrive."""
        for thread in self._background:
            thread.stop()
        self._background = ()

    def reencode(self, before: Time = "now") -> Tick:
        """Re-encodes all sealed chunks whose samples are before a time, at once and with a whole core."""
        return self._upkeep.all(self._native, time_ms(before, self.now_ms(), "before"))

    # --- in -------------------------------------------------------------------------------------

    def append(self, labels: Labels, timestamps: Any, values: Any) -> WriteReport:
        """Appends samples of one series, in any order.

        ``timestamps``: one time or a column of them (datetimes, ``datetime64``, or seconds). ``values``: one number
        or a column; uint64 stays, other integers and booleans are kept as int64, floats and decimals as float64.
        """
        times = time_column_ms(timestamps, self.now_ms())
        column = value_column(values)
        if len(times) != len(column):
            raise WriteError(f"{len(times)} timestamps but {len(column)} values; give one value a timestamp")
        refs, created = self._register([labels], strict=False)
        ids = np.full(len(times), refs[0], dtype=np.uint64)
        return writes.report(self._store.append_columns(ids, times, column), created)

    def append_histograms(
        self, labels: Labels, timestamps: Any, histograms: Histogram | Sequence[Histogram]
    ) -> WriteReport:
        """Appends native histograms of one series, in any order; ``timestamps`` as in ``append``.

        A float sample at the same time in the same series is no duplicate: both stay. Raises ``WriteError``, naming the
        series and what is wrong with which histogram; then none is written.
        """
        times, rows = time_column_ms(timestamps, self.now_ms()), as_list(histograms)
        if len(times) != len(rows):
            raise WriteError(f"{len(times)} timestamps but {len(rows)} histograms; give one histogram a timestamp")
        return writes.report(self._store.append_histograms(dict(labels), times, rows))

    def register(self, series: Sequence[Labels] | pl.DataFrame) -> Refs:
        """Makes series known and returns their references, stable as long as this process and the series.

        A series that retention or eviction takes its last sample from is gone: its reference leads nowhere then
        (``unknown_series``), and never to another series. One that was never written to stays.

        ``series``: label dicts, or a frame with one String column a label (null: label absent). O(labels). Raises
        ``CardinalityLimit`` where a limit refuses one; those before it stay. The reference of a series that is folded
        into another holds while it sends.
        """
        return self._register(series)[0]

    def _register(self, series: Sequence[Labels] | pl.DataFrame, strict: bool = True) -> tuple[Refs, int]:
        """References, and how many of the series are new. Unless strict, samples of those refused are reported."""
        if isinstance(series, pl.DataFrame):
            wrong = [f"{n}: {t}" for n, t in series.schema.items() if t not in (pl.String, pl.Categorical, pl.Enum)]
            if wrong:
                raise WriteError(f"label columns must be String, not {', '.join(wrong)}; cast or drop them")
            return self._store.register_frame(series.with_columns(pl.all().cast(pl.String)), strict)
        return self._store.register([dict(labels) for labels in series], strict)

    def append_batch(self, refs: Refs, timestamps: Any, values: Any) -> WriteReport:
        """Appends columns of samples: ``refs[i]`` gets ``values[i]`` at ``timestamps[i]``; any order.

        ``refs`` is uint64 from ``register``; ``timestamps`` may be one time for all. The fastest way in:
        no copy of float64, int64 and uint64 values and ``datetime64[ms]`` times.
        """
        ids = np.atleast_1d(np.asarray(refs))
        if ids.dtype.kind not in "ui" or (ids.dtype.kind == "i" and ids.size and ids.min() < 0):
            raise WriteError(f"refs have dtype {ids.dtype}; pass the uint64 array that register returned")
        return self._append_batch(np.ascontiguousarray(ids, dtype=np.uint64), timestamps, values, 0)

    def _append_batch(self, ids: Refs, timestamps: Any, values: Any, created: int) -> WriteReport:
        times = time_column_ms(timestamps, self.now_ms())
        if len(times) == 1 and len(ids) != 1:
            times = np.full(len(ids), times[0], dtype=np.int64)
        column = value_column(values)
        if not len(ids) == len(times) == len(column):
            raise WriteError(
                f"columns differ in length: {len(ids)} refs, {len(times)} timestamps, {len(column)} values"
            )
        return writes.report(self._store.append_columns(ids, times, column), created)

    def write(
        self, frame: Any, *, value: str = "value", timestamp: str = "timestamp", name: str | None = None
    ) -> WriteReport:
        """Writes a long frame: a value column, a timestamp column, every other column a label.

        ``frame``: Polars, or anything with ``__arrow_c_stream__`` (pandas, pyarrow, DuckDB). ``name`` gives the
        metric name where no ``__name__`` column does. Rows without a value are left out.
        """
        table, keys = writes.by_series(frame, value, timestamp, name)
        refs, created = self._register(keys, strict=False)
        return self._append_batch(refs[table["§row"].to_numpy()], table[timestamp], table[value], created)

    def ingest(
        self,
        body: bytes,
        format: Format,
        *,
        time: Time | None = None,
        labels: Labels | None = None,
        honor_labels: bool = False,
    ) -> WriteReport:
        """Takes a request body as a sender of the protocol writes it.

        ``time`` stands in for samples without a timestamp (default: now). ``labels`` are added to every series; on a
        clash the sender's label is renamed ``exported_<name>``, or kept with ``honor_labels``. Malformed lines are
        reported and do not drop their neighbours where the format allows that; otherwise ``WriteError``.
        """
        if not isinstance(body, bytes):
            raise WriteError(f"body is {type(body).__name__}; give bytes (text is UTF-8: body.encode())")
        at = self.now_ms() if time is None else time_ms(time, self.now_ms())
        return writes.report(self._store.ingest(body, format, at, dict(labels or {}), honor_labels))

    # --- out ------------------------------------------------------------------------------------

    def query(
        self,
        expr: str,
        time: Time | None = None,
        *,
        wide: bool = False,
        priority: Priority = "query",
        partial: bool = False,
        level: DurationLike | None = None,
    ) -> pl.DataFrame:
        """Evaluates PromQL at one time (default: now).

        Returns label columns (String), ``timestamp`` (Datetime ms UTC), ``value`` (Float64), a row a series; a range
        selector gives its raw samples. Where a sample is a native histogram, its ``value`` is null and a column
        ``histogram`` (Struct, as ``histograms`` gives it) holds it. Annotations become ``QueryWarning`` and
        ``QueryInfo`` warnings. ``EXPLAIN [ANALYZE] expr`` answers the frame of ``explain``. Work of class ``"batch"``
        gives way to ``"query"``, and both to ``"alert"``. Where a cold store that the query needs is away, it raises
        ``ColdStoreError``; with ``partial`` it answers with what there is, and a ``QueryWarning`` says so. With a
        ``level`` such as ``"10m"`` records of this width answer wherever they are made, though finer ones or samples
        are there; ``ConfigError`` names the levels that there are.
        """
        now = self.now_ms()
        at = now if time is None else time_ms(time, now)
        return self._evaluate(expr, at, at, 0, wide, priority, partial=partial, level=level)

    def query_range(
        self,
        expr: str,
        start: Time,
        end: Time,
        step: DurationLike,
        *,
        wide: bool = False,
        priority: Priority = "query",
        cache: bool = True,
        points: int | None = None,
        method: Decimation = "m4",
        partial: bool = False,
        level: DurationLike | None = None,
    ) -> pl.DataFrame:
        """Evaluates PromQL at start, start + step, … up to end; the shape is that of ``query``.

        ``wide=True`` gives one row a step and one column a series; histograms are left out. Steps that an earlier
        query came to, and that nothing written since can have changed, are not evaluated again; ``cache=False``
        evaluates them all. The answer is the same. ``points`` leaves so many of a series at most, those that
        ``method`` says a plot needs; not of a wide frame, whose rows are all series' at one time. ``partial`` and
        ``level`` as in ``query``.
        """
        now = self.now_ms()
        step_ms = duration_ms(step, "step")
        if step_ms <= 0:
            raise ConfigError(f"step {step!r} must be longer than zero")
        if points is not None and (wide or points < 1):
            why = "a wide frame has one row for all series: leave wide out" if wide else "it must be 4 or more"
            raise ConfigError(f"points={points!r}: {why}")
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        return self._evaluate(expr, first, last, step_ms, wide, priority, cache, points or 0, method, partial, level)

    def _evaluate(
        self, expr: str, start: int, end: int, step: int, wide: bool, priority: str,
        cache: bool = False, points: int = 0, method: str = "", partial: bool = False,
        level: DurationLike | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        lookback = self._lookback_ms
        statement = explaining.statement(self._native, expr)
        if statement is not None:
            analyze, inner, is_alert = statement
            times = (start, end, step, lookback)
            if is_alert:
                return explaining.explain_alert(self._native, inner, times, analyze, {}).frame
            asked = self._tiers.query(inner, *times) if analyze else self._native
            return at_level(asked, level).explain(inner, *times, analyze)[0]
        native = at_level(self._tiers.query(expr, start, end, step, lookback, partial=partial), level)
        frame, notes, fields = native.query(expr, start, end, step, lookback, wide, priority, cache, points, method)
        _warn(notes, stacklevel=4)
        return with_histogram(frames.finish(frame), fields)

    def subscribe(
        self,
        expr: str,
        *,
        step: DurationLike = "15s",
        start: Time | None = None,
        delay: DurationLike = "0s",
        backlog: int = 1_000,
    ) -> Subscription:
        """An expression evaluated as time goes on: ``poll`` gives every step once, when it is final.

        Steps are multiples of ``step`` from ``start`` (default: now) on; samples may arrive ``delay`` late. A poll
        gives ``backlog`` steps at most. All polls together equal ``query_range`` over the same steps. Raises
        ``ParseError``, also for ``@ start()``, ``@ end()`` and ``range()``, and ``ConfigError``.
        """
        return Subscription(
            lambda: self._native, self._tiers.query, self._clock, _warn, expr,
            step=step, start=start, delay=delay, backlog=backlog, lookback_ms=self._lookback_ms,
        )  # fmt: skip

    def estimate(
        self, expr: str, start: Time | None = None, end: Time | None = None, step: DurationLike | None = None
    ) -> Estimate:
        """What a query would cost at most, without running it: series, samples, bytes, values held in memory.

        An instant query at ``start`` (default: now), or a range query with ``end`` and ``step``. See
        ``metricsdb.explain.Estimate``. Raises ``ColdStoreError`` where a cold store that would be read can't be asked.
        """
        times = self._query_times(start, end, step)
        return explaining.estimate(self._native, expr, times, self._tiers.cost(expr, *times))

    def explain(
        self,
        expr: str,
        start: Time | None = None,
        end: Time | None = None,
        step: DurationLike | None = None,
        *,
        analyze: bool = False,
        rules: Mapping[str, str] | None = None,
        level: DurationLike | None = None,
    ) -> Plan:
        """The plan of a query: a row a node with its bounds, and with ``analyze`` what running it took.

        Of an `ALERT` or `SLO` (with or without `EXPLAIN` before it): a node a level, and the plans of its queries.

        Times as in ``estimate``. ``str()`` of it is the plan as text, ``.frame`` the rows, ``.suggestions`` what
        ``suggest`` finds. ``level`` as in ``query``.
        """
        times = self._query_times(start, end, step)
        found = explaining.statement(self._native, expr)
        analyze, asked = (analyze, expr) if found is None else (analyze or found[0], found[1])
        native = self._native
        cold: ColdCost | int
        if analyze:
            before = self._tiers.bytes_read
            native = self._tiers.query(asked, *times)
            cold = self._tiers.bytes_read - before
        else:
            cold = self._tiers.cost(asked, *times)
        plan = explaining.explain(at_level(native, level), expr, times, analyze, dict(rules or {}), cold)
        return plan if level is None else replace(plan, level=duration_text(duration_ms(level, "level")))

    def suggest(
        self,
        expr: str,
        start: Time | None = None,
        end: Time | None = None,
        step: DurationLike | None = None,
        *,
        rules: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> pl.DataFrame:
        """What in a query is wasteful or wrong, each with a rewrite that is tried on the data.

        Times as in ``estimate``; ``rules`` maps names of recorded series to their expressions. Columns: ``check``,
        ``message``, ``position``, ``rewrite``, ``meaning`` (``same`` or ``different``), ``same_answer`` (null: not
        tried), ``predicted_saving``, ``measured_saving`` (shares of samples loaded and values made).
        """
        times = self._query_times(start, end, step)
        return self._native.suggest(expr, *times, list((rules or {}).items()), check)

    def _query_times(
        self, start: Time | None, end: Time | None, step: DurationLike | None
    ) -> tuple[int, int, int, int]:
        """Start, end, step (0: instant) and lookback, in milliseconds."""
        now = self.now_ms()
        first = now if start is None else time_ms(start, now, "start")
        if step is None:
            if end is not None and time_ms(end, now, "end") != first:
                raise ConfigError("a range query needs a step; leave end out for an instant query")
            return first, first, 0, self._lookback_ms
        step_ms = duration_ms(step, "step")
        if step_ms <= 0:
            raise ConfigError(f"step {step!r} must be longer than zero")
        return first, now if end is None else time_ms(end, now, "end"), step_ms, self._lookback_ms

    def select(self, selector: str, start: Time, end: Time) -> pl.DataFrame:
        """Raw samples of the selected series in start..end, both included.

        Columns: ``series`` (UInt64, as ``register`` returns it), labels, ``timestamp``, ``value`` (Float64). Staleness
        markers are left out. ``series`` is null where a series is in cold storage alone.
        """
        now = self.now_ms()
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        native = self._tiers.select([selector], first, last)
        if native is not self._native:
            return frames.finish(native.select(selector, first, last))
        chosen = native.series_frame([selector], first, last)
        labels = [c for c in chosen.columns if c != "series"]
        return self._read_series(chosen, labels, first, last)

    def _read_series(self, series: pl.DataFrame, labels: list[str], start: int, end: int) -> pl.DataFrame:
        return frames.finish(self._native.read(series.select("series", *labels), start, end))

    def scan(self, selector: str, level: DurationLike | None = None) -> pl.LazyFrame:
        """The raw samples of a selector as a ``LazyFrame``; see ``metricsdb.scan.scan`` for what is pushed down.

        With a ``level`` such as ``"10m"``: records instead, a row a bucket, as of ``db.rollups.records``.
        """
        if level is not None:
            return self.rollups.records(selector, level).lazy()
        return scan_source.scan(self, selector)

    def raw(self, selector: str, start: Time, end: Time) -> list[RawSeries]:
        """Raw samples as numpy arrays, exact integers as int64 or uint64; staleness markers are included."""
        now = self.now_ms()
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        rows = self._tiers.select([selector], first, last).raw(selector, first, last)
        return [RawSeries(*row) for row in rows]

    def histograms(self, selector: str, start: Time, end: Time) -> pl.DataFrame:
        """The native histograms of the selected series in start..end, both included; stale ones among them.

        Columns: labels, ``timestamp``, ``histogram`` (Struct with the fields of ``Histogram``; counts are UInt64 where
        all rows were counted in integers, else Float64). Sorted by labels and time.
        """
        now = self.now_ms()
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        found = self._tiers.select([selector], first, last).histograms(selector, first, last)
        return with_histogram(frames.finish(found[0]), found[1])

    def series(self, *selectors: str, start: Time | None = None, end: Time | None = None) -> pl.DataFrame:
        """The series that any of the selectors takes and that have samples in the range: ``series`` and labels."""
        chosen = list(selectors)
        return self._tiers.names(chosen, *(times := self._range(start, end))).series_frame(chosen, *times)

    def label_names(self, *selectors: str, start: Time | None = None, end: Time | None = None) -> list[str]:
        """Sorted names of the labels that the selected series have (no selector: all series)."""
        chosen = list(selectors)
        return self._tiers.names(chosen, *(times := self._range(start, end))).label_names(chosen, *times)

    def label_values(
        self, label: str, *selectors: str, start: Time | None = None, end: Time | None = None
    ) -> list[str]:
        """Sorted values of one label among the selected series (no selector: all series)."""
        chosen = list(selectors)
        return self._tiers.names(chosen, *(times := self._range(start, end))).label_values(label, chosen, *times)

    # --- post-mortem ----------------------------------------------------------------------------

    def recall(
        self, selector: str, start: Time, end: Time = "now", *, memory_limit: SizeLike | None = "4GiB"
    ) -> Database:
        """Old samples in a database of their own, read-only and in memory, exact, wherever they lie now.

        It has all queries, and a memory limit of its own; records of rollups stand for samples that are gone. Raises
        ``MemoryLimit`` where the samples don't fit, ``ColdStoreError``, ``ParseError``.
        """
        now = self.now_ms()
        return incidents.recall(self, selector, time_ms(start, now, "start"), time_ms(end, now, "end"), memory_limit)

    def pin(self, name: str, selector: str, start: Time, end: Time = "now") -> None:
        """Holds samples in start..end against every rule until ``unpin``: copies them, from memory and cold storage.

        The copies lie in the cold store, else in the database's directory, else in memory; queries find them there. An
        end that lies ahead is copied on by ``tick``. Raises ``ConfigError``, ``ColdStoreError``.
        """
        now = self.now_ms()
        self._pins.pin(name, selector, time_ms(start, now, "start"), time_ms(end, now, "end"))

    def pins(self) -> pl.DataFrame:
        """What is held: ``name``, ``selector``, ``start``, ``end``, ``copied_until``, ``samples``, ``bytes``."""
        return self._pins.frame()

    def unpin(self, name: str) -> None:
        """Lets go of a pin: rules hold again for its samples. Raises ``ConfigError`` where there is none."""
        self._pins.unpin(name)

    def export_incident(self, path: str | Path, selector: str, start: Time, end: Time = "now") -> None:
        """Writes one file with samples and labels of the selected series, the transitions of alerts in that time, and
        the statements that are installed; ``open_incident`` opens it anywhere. docs/post-mortem.md has the format."""
        now = self.now_ms()
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        incidents.export_incident(self, Path(path), selector, first, last)

    @classmethod
    def open_incident(cls, path: str | Path, *, memory_limit: SizeLike | None = "4GiB") -> Self:
        """A file of ``export_incident`` as a read-only database in memory; ``incident`` says what else it holds.

        Raises ``CorruptionError`` where the file is no whole incident, ``FormatVersionError``, ``MemoryLimit``.
        """
        return incidents.open_incident(cls, Path(path), memory_limit)

    def metadata(self, metric: str | None = None) -> pl.DataFrame:
        """Columns ``metric``, ``type``, ``help``, ``unit`` as senders declared them."""
        rows = self._native.metadata(metric)
        schema = {"metric": pl.String, "type": pl.String, "help": pl.String, "unit": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def format_query(self, expr: str) -> str:
        """The expression laid out as Prometheus' formatter does."""
        return self._native.format_query(expr)

    def memory(self, by: storage.By = "part") -> pl.DataFrame:
        """Every byte the database holds, by a key; each table adds up to the same total but for the row ``(freed)``.

        That is what the process, whoever in it, freed and the C library keeps for later: with it the total grows as the
        process does.

        ``by="part"``: ``part``, ``bytes``, ``items``, ``bytes_per_series``. ``"metric"``, ``"label"``, ``"codec"``,
        ``"tier"``, ``"shard"``: the key, ``bytes``, ``series``, ``samples``, ``bytes_per_series``,
        ``bytes_per_sample``, ``share``, largest first; what belongs to no key is named in parentheses.
        """
        return storage.memory(self._native, by)

    def cardinality(self, by: CardinalityBy | Sequence[str] = "metric", limit: int = 20) -> pl.DataFrame:
        """What makes the series, most first: exact counts of live ones, estimates (about 3 %) of what came.

        ``by="metric"``: ``metric``, ``series``, ``share``, ``ever`` (series since the process began), ``recent`` (new
        ones in the last 10 to 20 minutes), ``label`` (that without which it would have fewest), ``series_without`` it.
        ``"label"``: ``label``, ``values``, ``series``, ``ever``, ``recent`` (values). ``"value"``: ``label``,
        ``value``, ``series``, ``share``. ``"source"`` (job and instance), or a list of labels: these, ``series``,
        ``share``, ``metrics``.
        """
        return cardinality(self._native, by, limit)

    def explain_storage(self, selector: str, limit: int = 1000) -> pl.DataFrame:
        """How the chunks of the selected series are stored, a row a chunk.

        Columns: ``series``, ``tier``, ``first``, ``last`` (Datetime), ``samples``, ``bytes``, ``bytes_per_sample``,
        ``time_codec``, ``value_codec``, ``detail``.
        """
        return storage.explain_storage(self._native, selector, limit)

    def compare_storage(self, selector: str | None = None) -> pl.DataFrame:
        """What the selected samples (default: all) would take in other forms; Parquet is really written, to memory.

        Columns: ``form``, ``bytes``, ``bytes_per_sample``, ``ratio_to_pairs``, ``measured_samples``.
        """
        return storage.compare_storage(self._native, selector)

    def advise(self, limit: int = 20) -> pl.DataFrame:
        """What could be dropped, by what that would save: tried out, not guessed.

        Columns: ``kind``, ``subject``, ``action``, ``bytes_now``, ``bytes_saved``, ``share`` (of all bytes). Savings
        don't add up: what two rows have in common is in both.
        """
        return storage.advise(self._native, limit)

    def queries(self) -> pl.DataFrame:
        """What runs and waits now, a row a query, oldest first.

        Columns: ``id`` (UInt64), ``class``, ``expr``, ``source``, ``state`` (``waiting``, ``running``, or ``writing``
        its answer), ``started`` (Datetime), ``seconds`` so far, ``samples`` loaded, ``bytes`` held now, ``bytes_peak``.
        """
        rows = pl.DataFrame(self._native.queries(), schema=_QUERIES, orient="row")
        started = (pl.lit(self.now_ms()) - (pl.col("seconds") * 1000).cast(pl.Int64)).cast(frames.TIME)
        before = ("id", "class", "expr", "source", "state")
        return rows.select(*before, started.alias("started"), pl.exclude(before))

    def kill(self, id: int) -> bool:
        """Ends a query of ``queries()``: its caller gets ``QueryKilled``. False where none has this id."""
        return self._native.kill(id)

    def stats(self) -> pl.DataFrame:
        """Counters of the database: ``name``, ``value`` (series, samples, chunks, bytes, …)."""
        rows = [*self._store.stats().items(), *self._upkeep.relief.counts().items(), *counters(self._store)]
        rows += [row for tier in (self._disk, self._cold) if tier is not None for row in tier.counts.items()]
        return pl.DataFrame(rows, schema={"name": pl.String, "value": pl.Int64}, orient="row")

    def _range(self, start: Time | None, end: Time | None) -> tuple[int, int]:
        now = self.now_ms()
        first = -(2**63) if start is None else time_ms(start, now, "start")
        last = 2**63 - 1 if end is None else time_ms(end, now, "end")
        return first, last


def _warn(notes: list[tuple[str, str]], stacklevel: int = 3) -> None:
    for severity, message in notes:
        warnings.warn(message, QueryWarning if severity == "warning" else QueryInfo, stacklevel=stacklevel)
