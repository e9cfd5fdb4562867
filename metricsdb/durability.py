"""What survives what: modes, the threads that keep a directory safe, and the report of a recovery."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, cast, get_args

import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, ForkedError, MetricsDBError, StorageError
from metricsdb.lifecycle.tick import Background

__all__ = ["Durability", "Home", "Keeper", "Mode", "Recovery", "Replay"]

log = logging.getLogger("metricsdb.durability")

Mode = Literal["batch", "interval", "none"]

# How often it is looked whether the journal is long enough for a checkpoint.
CHECKPOINT_EVERY_S = 5.0

_TIME = pl.Datetime("ms", "UTC")
_SKIPPED = {"file": pl.String, "offset": pl.UInt64, "bytes": pl.UInt64, "why": pl.String}
_LOST: dict[str, pl.DataType | type[pl.DataType]] = {
    "series": pl.String,
    "start": _TIME,
    "end": _TIME,
    "samples": pl.UInt64,
    "what": pl.String,
    "cause": pl.String,
}


@dataclass(frozen=True, slots=True)
class Durability:
    """What a database promises of a write that has returned, and whether it can keep that now."""

    mode: Mode
    path: str | None
    """The directory; None for a database in memory alone."""
    loss: str
    """What a killed process and what a power cut may cost, in a sentence."""
    sync_interval_s: float | None
    failing: str | None
    """What the disk said last, while it fails: samples stand in memory and are not durable. None: all is well."""
    waiting_bytes: int
    """Bytes of the journal that are not known to be safe from a power cut."""
    replay_bytes: int
    """Bytes that an opening would replay; a checkpoint makes them few."""
    checkpoint_bytes: int
    replaying: bool
    """Whether the directory is still being read: writes are taken and as durable as ever, everything else waits."""
    replay_left_bytes: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a directory found. ``samples`` counts those of the journal beside those of the checkpoint."""

    series: int
    samples: int
    frames: int
    segments: int
    checkpoint_bytes: int
    journal_bytes: int
    seconds: float
    cut: pl.DataFrame
    """Ends of files that were being written: ``file``, ``offset``, ``bytes``, ``why``. No write that they held was
    acknowledged in mode ``batch``."""
    unsynced: pl.DataFrame
    """Bad bytes in a part of the journal of which nothing shows that it was synced: a power cut took them, or damage
    did. The same columns."""
    skipped: pl.DataFrame
    """Bad bytes of what was synced once, which is damage: the same columns."""
    lost: pl.DataFrame
    """What is known to be gone: ``series`` (null: unknown), ``start``, ``end`` (Datetime; null: open), ``samples``
    (null: unknown), ``what``, ``cause`` (``damaged`` or ``unsynced``)."""

    @property
    def damaged(self) -> bool:
        """Whether something is gone that was synced once."""
        return self.skipped.height > 0 or "damaged" in self.lost["cause"].to_list()

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be gone."""
        return self.skipped.height + self.unsynced.height + self.lost.height == 0


@dataclass(frozen=True, slots=True)
class Home:
    """Where a database lives, and how safely."""

    path: Path
    mode: Mode
    interval_ms: int

    @classmethod
    def of(cls, path: str | Path | None, mode: Mode | None, interval_ms: int) -> Home | None:
        """None for a database in memory alone. Raises ConfigError."""
        if mode is not None and mode not in get_args(Mode):
            raise ConfigError(f"durability {mode!r} is not known; give batch, interval or none")
        if interval_ms < 10:
            raise ConfigError(f"sync_interval of {interval_ms} ms is too short; give 10 ms or more, or mode 'batch'")
        if path is None:
            if mode not in (None, "none"):
                raise ConfigError(f"durability {mode!r} needs a directory: Database(path, durability={mode!r})")
            return None
        if not str(path):
            raise ConfigError("the path of the database is empty; give a directory")
        return cls(Path(path).absolute(), mode or "batch", interval_ms)

    @property
    def loss(self) -> str:
        if self.mode == "batch":
            return "nothing: a write returns when it is on disk; a power cut costs no acknowledged sample"
        if self.mode == "interval":
            return (
                f"a power cut costs at most what was acknowledged in the last {self.interval_ms / 1000:g} s before it; "
                "the end of the process alone costs nothing"
            )
        return (
            "a power cut costs what the system had not written, without a bound; the end of the process costs nothing"
        )


MEMORY_LOSS = "everything with the end of the process: there is no directory"


def durability(native: NativeDatabase, home: Home | None) -> Durability:
    status = native.journal()
    if home is None or status is None:
        return Durability("none", None, MEMORY_LOSS, None, None, 0, 0, 0, False, 0)
    failing, counts = status
    if counts["needs_checkpoint"] and failing is None:
        failing = "frames were given up while the disk failed; the next checkpoint makes new writes durable"
    interval = home.interval_ms / 1000 if home.mode == "interval" else None
    sizes = (counts["waiting_bytes"], counts["replay_bytes"], counts["checkpoint_bytes"])
    replay = (bool(counts["replaying"]), counts["replay_left_bytes"])
    return Durability(home.mode, str(home.path), home.loss, interval, failing, *sizes, *replay)


def recovery(native: NativeDatabase, seconds: float) -> Recovery | None:
    found = native.recovery()
    if found is None:
        return None
    counts, (cut, unsynced, skipped), lost = found
    # Column by column: expressions run on Polars' own threads, which a forked child does not have.
    columns = list(zip(*lost, strict=True)) or [()] * len(_LOST)
    lost_frame = pl.DataFrame(
        [pl.Series(name, column, kind) for (name, kind), column in zip(_LOST.items(), columns, strict=True)]
    )
    report = Recovery(
        counts["series"],
        counts["samples"],
        counts["frames"],
        counts["segments"],
        counts["checkpoint_bytes"],
        counts["journal_bytes"],
        seconds,
        pl.DataFrame(cut, schema=_SKIPPED, orient="row"),
        pl.DataFrame(unsynced, schema=_SKIPPED, orient="row"),
        pl.DataFrame(skipped, schema=_SKIPPED, orient="row"),
        lost_frame,
    )
    if report.damaged:
        log.error("the directory was damaged: %d places skipped, %d losses known", len(skipped), len(lost))
    elif not report.whole:
        log.warning("%d places of the journal were not synced, or damaged: %d losses known", len(unsynced), len(lost))
    return report


class Replay:
    """Reads what a directory holds, in a thread where that is much: writes are taken meanwhile, all else waits."""

    def __init__(self, native: NativeDatabase, clock: Clock, begun: float) -> None:
        """``begun``: when the opening began, by ``clock``."""
        self._native, self._clock, self._begun = native, clock, begun
        self._found: Recovery | None = None
        self._error: MetricsDBError | None = None
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        status = native.journal()
        if status is not None and status[1]["replaying"]:
            self._thread = threading.Thread(target=self._run, name="metricsdb-replay", daemon=True)
            self._thread.start()
        else:
            self._run()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def hindrance(self) -> str | None:
        """Why only writes are taken now; None: everything is."""
        if self.ended:
            return None if self._error is None else str(self._error)
        status = self._native.journal()
        left = 0 if status is None else status[1]["replay_left_bytes"]
        return f"what the directory holds is being read, {left / 1e6:.0f} MB are left; only writes are taken meanwhile"

    def wait(self) -> Recovery | None:
        """What was found, once all is read. Raises ``StorageError``, and ``ConfigError`` where it was stopped."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._found

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._native.replay():
                if self._stopped.is_set():
                    raise ConfigError("the database was closed before its journal was replayed; open it again")
            self._found = recovery(self._native, self._clock.monotonic() - self._begun)
        except MetricsDBError as error:
            self._error = error
            if not self._stopped.is_set():
                log.error("what the directory holds cannot be read: %s", error)
        except BaseException as error:  # a panic of the store is none of `Exception`
            # Nobody may take a part for all of it.
            self._error = StorageError(f"what the directory holds was not read to its end: {error!r}; open it again")
            log.exception("%s", self._error)
        finally:
            self._ended.set()


class Keeper:
    """The threads of one directory: one syncs, or tries a failing disk again, one writes checkpoints that are due."""

    def __init__(self, native: NativeDatabase, home: Home) -> None:
        self._native, self._home = native, home
        self._said: str | None = None
        # Twice an interval: what is acknowledged right behind a sync is safe before the interval is over.
        self._sync = Background(self.sync, home.interval_ms / 2000)
        self._checkpoint = Background(self.checkpoint, CHECKPOINT_EVERY_S)

    def sync(self) -> None:
        """What the first thread does each time: never raises, says a failure once."""
        status = self._native.journal()
        if status is None:
            return
        failing, counts = status
        if failing is not None or (self._home.mode == "interval" and counts["waiting_bytes"]):
            self._try("sync", self._native.sync)
        if counts["needs_checkpoint"] and not counts["replaying"]:
            self._try("checkpoint", self._native.checkpoint)

    def checkpoint(self) -> None:
        """What the second thread does each time."""
        if self._native.checkpoint_due():
            self._try("checkpoint", self._native.checkpoint)

    def _try(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except MetricsDBError as error:
            if self._said != str(error):
                log.error("%s of %s: %s", what, self._home.path, error)
            self._said = str(error)
        else:
            if self._said is not None:
                log.warning("%s of %s: the disk works again", what, self._home.path)
            self._said = None

    def stop(self) -> None:
        self._sync.stop()
        self._checkpoint.stop()


def release(replay: Replay, keeper: Keeper, native: NativeDatabase, home: Home) -> None:
    """What becomes of a database that nobody closed, when it is collected or the process ends: never raises."""
    replay.stop()
    keeper.stop()
    try:
        native.close()
    except MetricsDBError as error:
        log.error("%s was not closed, and some of it is not durable: %s", home.path, error)


class Gone:
    """Stands for the native part of a database that cannot be used any more: every use raises."""

    def __init__(self, error: type[MetricsDBError], message: str, kept: object = None) -> None:
        self._error, self._message, self._kept = error, message, kept

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error(self._message)


def closed(home: Home) -> NativeDatabase:
    message = f"the database in {str(home.path)!r} is closed; open it again with Database(path)"
    return cast(NativeDatabase, Gone(ConfigError, message))


def forked(native: NativeDatabase, home: Home | None) -> NativeDatabase:
    """What a forked child has instead of its parent's database, whose locks nobody may ever open there."""
    native.disown()
    place = "the database in memory" if home is None else f"the database in {str(home.path)!r}"
    message = (
        f"{place} belongs to the process that this one (pid {os.getpid()}) was forked from; open another database "
        "here, or start workers with multiprocessing.get_context('spawn')"
    )
    # Freeing it would copy every page that it shares with the parent.
    return cast(NativeDatabase, Gone(ForkedError, message, native))
