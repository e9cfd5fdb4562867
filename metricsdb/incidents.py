"""Old data brought back and held: read-only views, pins that no rule touches, and incidents as files."""

from __future__ import annotations

import io
import json
import secrets
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
import polars as pl

from metricsdb._native import NativeDatabase, Read
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, CorruptionError, FormatVersionError, MemoryLimit, ReadOnlyError
from metricsdb.frames import TIME, QueryWarning
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.fetch import Frames, Tiers, empty, load
from metricsdb.lifecycle.cold.memory import export_of
from metricsdb.lifecycle.cold.move import Export, Mover
from metricsdb.lifecycle.cold.objects import Missing, Objects
from metricsdb.times import DAY_MS

if TYPE_CHECKING:
    from metricsdb.database import Database

__all__ = ["Incident", "Pins", "export_incident", "open_incident", "recall"]

VERSION = 1
# A pin whose end lies ahead is copied on in pieces of this length, each once it is over and late samples have come.
TOP_UP_MS, LATE_MS = 900_000, 300_000
# Samples that a pin copies at once.
# Notes on pins, beside the folders of parts.
_NOTES = "pinned/"
# Bytes of an incident's file that are unpacked at most: it may come from anywhere.
_MEMBER_BYTES_MAX = 8 << 30
_FRAMES = ("labels", "samples", "histograms")
# Records of rollups, in files that have some.
_RECORDS = ("record_labels", "records")
_WRITES = [
    "append_columns",
    "append_histograms",
    "delete",
    "drop_copied",
    "drop_records",
    "end_alerts",
    "evaluate_alerts",
    "evaluate_record",
    "evict",
    "expire",
    "ingest",
    "ingest_scrape",
    "register",
    "register_frame",
    "restore",
    "restore_records",
    "rewrite_precision",
    "roll",
    "set_limits",
    "set_precision",
    "write_remote",
    "write_remote_v2",
]

DB = TypeVar("DB", bound="Database")


class _ReadOnly(NativeDatabase):
    """A store that was filled once."""


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_args: object, **_options: object) -> NoReturn:
        raise ReadOnlyError(
            f"{name}: this view of old samples is read-only; write to the database that it was taken from, "
            "or copy what you need: Database().write(view.select(selector, start, end))"
        )

    return refuse


for _name in _WRITES:
    setattr(_ReadOnly, _name, _refused(_name))


def pieces(native: NativeDatabase, tiers: Tiers, selector: str, start: int, end: int) -> Iterator[Frames]:
    """All samples of a selector in [start, end], part by part: what comes later stands where two have one time."""
    yield from tiers.pieces(selector, start, end)
    yield native.export(selector, start, end, rolled=True)[1:]


def _rolled(native: NativeDatabase, tiers: Tiers, selector: str, start: int, end: int) -> NativeDatabase:
    """A store of the records of rollups that stand for samples which are gone, of buckets that meet [start, end]."""
    held = empty()
    for every, labels, records in tiers.records(selector, start, end):
        held.restore_records(labels, every, records)
    _put_records(held, *native.export_records(selector, start, end)[1:])
    return held


def _put_records(native: NativeDatabase, labels: pl.DataFrame, records: pl.DataFrame) -> None:
    """Records of all widths."""
    for (every,), some in records.partition_by("every", maintain_order=True, as_dict=True).items():
        native.restore_records(labels, int(every), some)


def _tell_drawn(tiers: Tiers, selector: str, start: int, end: int) -> None:
    for text in tiers.drawn(selector, start, end):
        warnings.warn(
            f"of old samples of {selector} only a sample is left ({text}); what is brought back knows nothing of the "
            "others, and nothing that is asked of it is scaled",
            QueryWarning,
            stacklevel=4,
        )


def _filled(native: NativeDatabase, found: Iterator[Frames]) -> None:
    for frames in found:
        report = load(native, *frames)
        if report[4]:
            reason, count, example = report[4][0]
            raise MemoryLimit(
                f"{count} samples, such as {example}, do not fit ({reason}); "
                "recall fewer series or less time, or give a larger memory_limit"
            )


def _view(make: type[DB], found: Iterator[Frames], rolled: NativeDatabase | None, options: Mapping[str, Any]) -> DB:
    """A database in memory that has these samples, and records where samples are gone, and takes no others."""
    view = make(evict="never", idle_cpu=0.0, **options)
    native = _ReadOnly(*view._options, secrets.randbits(64), None, view._upkeep.relief.policy.native)
    _filled(native, found)
    view._store = native
    if rolled is not None and rolled.records_span() is not None:
        view._tiers.put_beside(rolled)
    return view


def recall(db: DB, selector: str, start: int, end: int, memory_limit: int | str | None) -> DB:
    """See ``Database.recall``."""
    _tell_drawn(db._tiers, selector, start, end)
    found = pieces(db._native, db._tiers, selector, start, end)
    options = {"memory_limit": memory_limit, "lookback": db._lookback_ms / 1000, "clock": db._clock}
    return _view(type(db), found, _rolled(db._native, db._tiers, selector, start, end), options)


class Pin(msgspec.Struct, frozen=True):
    """What is held. ``copied_ms``: everything up to that time has been copied."""

    name: str
    selector: str
    start_ms: int
    end_ms: int
    copied_ms: int


class Pins:
    """Copies of what incidents need, as parts of the cold store, or of one of their own in the database's directory or
    in memory; no rule touches them. Thread-safe.

    A directory that has a store of pins keeps to it, also where there is a cold store by now.
    """

    def __init__(self, db: Database, clock: Clock, directory: Path | None) -> None:
        self._db, self._clock = db, clock
        self._where = None if directory is None else directory / "pins"
        self._mover: Mover | None = None
        self._due_ms = 0
        self._lock = threading.RLock()
        if self._where is not None and self._where.is_dir():
            self._mover = self._own()
        elif db._cold is not None:
            # The same one: two movers over one store would not know of each other's steps.
            self._mover = db._cold.mover

    def _own(self) -> Mover:
        catalog, tiers = Catalog(Objects(self._where or "memory://")), self._db._tiers
        # Copies: whoever else has one of their times may have it later.
        tiers.catalogs = (catalog, *tiers.catalogs)
        return Mover(catalog, f"pin{secrets.token_hex(4)}", self._clock)

    def pin(self, name: str, selector: str, start: int, end: int) -> None:
        """See ``Database.pin``."""
        if end < start:
            raise ConfigError(f"pin {name!r} ends before it starts; give an end after {start}")
        Read(selector, start, end)
        with self._lock:
            if any(pin.name == name for pin in self._all()):
                raise ConfigError(f"pin {name!r} is there already; unpin it first, or choose another name")
            if self._mover is None:
                self._mover = self._own()
            self._copy(self._mover, Pin(name, selector, start, end, start - 1), self._clock.now_ms())

    def unpin(self, name: str) -> None:
        """See ``Database.unpin``."""
        with self._lock:
            mover = self._of(name)
            mover.unpin(name)
            mover.catalog.objects.delete([_note(name)])

    def _of(self, name: str) -> Mover:
        pins = [pin.name for pin in self._all()]
        if name not in pins or self._mover is None:
            raise ConfigError(f"no pin is called {name!r}; there are: {', '.join(sorted(pins)) or 'none'}")
        return self._mover

    def frame(self) -> pl.DataFrame:
        """See ``Database.pins``."""
        with self._lock:
            pins = self._all()
            parts = [] if self._mover is None else self._mover.catalog.state.parts
        held = {pin.name: [part for part in parts if part.pinned == pin.name] for pin in pins}
        rows = [
            (p.name, p.selector, p.start_ms, p.end_ms, p.copied_ms, sum(x.samples for x in held[p.name]),
             sum(x.bytes + x.series_bytes for x in held[p.name]))
            for p in pins
        ]  # fmt: skip
        times = dict.fromkeys(("start", "end", "copied_until"), pl.Int64)
        counts = {"samples": pl.UInt64, "bytes": pl.UInt64}
        frame = pl.DataFrame(rows, schema={"name": pl.String, "selector": pl.String, **times, **counts}, orient="row")
        return frame.with_columns(pl.col(*times).cast(TIME))

    def tick(self, now_ms: int) -> None:
        """Copies on what pins are to hold and had not come yet. Raises ``ColdStoreError``."""
        if now_ms < self._due_ms or self._mover is None:
            return
        self._due_ms = now_ms + TOP_UP_MS  # which pins there are is asked of the store
        with self._lock:
            for pin in self._all():
                if pin.copied_ms < min(pin.end_ms, now_ms - TOP_UP_MS):
                    self._copy(self._mover, pin, now_ms)
        if self.mover is not None:
            # Nobody else looks after a store of their own: what was let go of or deleted would stay there for good.
            self.mover.compact()
            self.mover.sweep()

    @property
    def mover(self) -> Mover | None:
        """Who changes the store of pins, where that is one of their own."""
        cold = None if self._db._cold is None else self._db._cold.mover
        return None if self._mover is cold else self._mover

    def _all(self) -> list[Pin]:
        if self._mover is None:
            return []
        objects = self._mover.catalog.objects
        found = []
        for stored in sorted(objects.list(_NOTES), key=lambda one: one.key):
            try:
                found.append(msgspec.json.decode(objects.get(stored.key), type=Pin))
            except Missing:
                continue
        return found

    def _copy(self, mover: Mover, pin: Pin, now_ms: int) -> None:
        """Day by day, so that no more than one stands in memory. Whoever ends on the way goes on from the last note."""
        last = min(pin.end_ms, now_ms)
        first = self._first(pin, last)
        while True:
            until = min(last, first + DAY_MS - 1 - first % DAY_MS)
            with mover.lock:
                # Else a deletion may come in between, and what it took from memory would come back.
                held = empty()
                _filled(held, pieces(self._db._native, self._db._tiers, pin.selector, first, until))
                rolled = _rolled(self._db._native, self._db._tiers, pin.selector, first, until)
                samples = Export(*held.export(pin.selector, first, until))
                for export in (samples, export_of(*rolled.export_records(pin.selector, first, until))):
                    if export.labels.height:
                        mover.add(export, pinned=pin.name)
            # What is near now may still come late: it is copied again.
            settled = until if until < now_ms - LATE_MS else max(first - 1, min(until, now_ms - LATE_MS))
            pin = msgspec.structs.replace(pin, copied_ms=settled)
            mover.catalog.objects.put(_note(pin.name), msgspec.json.encode(pin))
            first = until + 1
            if first > last:
                return

    def _first(self, pin: Pin, last: int) -> int:
        """Where there is anything at all: a pin may begin at the beginning of time."""
        begun = pin.copied_ms + 1
        parts = [p.start_ms for c in self._db._tiers.catalogs for p in c.parts(begun, last)]
        rolled = self._db._native.records_span()
        oldest: int = min([*parts, *(rolled or ())[:1], self._db._native.stats()["first_ms"]])
        return min(max(begun, oldest), last)


def _note(name: str) -> str:
    return f"{_NOTES}{name.encode().hex()}.json"


@dataclass(frozen=True, slots=True)
class Incident:
    """What an incident's file says beside its samples. ``transitions`` as ``db.alerts.history``; ``statements``: the
    texts of what was installed."""

    selector: str
    start_ms: int
    end_ms: int
    exported_ms: int
    transitions: pl.DataFrame
    statements: tuple[str, ...]


def export_incident(db: Database, path: Path, selector: str, start: int, end: int) -> None:
    """See ``Database.export_incident``."""
    _tell_drawn(db._tiers, selector, start, end)
    held = empty()
    _filled(held, pieces(db._native, db._tiers, selector, start, end))
    frames = dict(zip(_FRAMES, held.export(selector, start, end)[1:], strict=True))
    rolled = _rolled(db._native, db._tiers, selector, start, end).export_records(selector, start, end)
    frames |= dict(zip(_RECORDS, rolled[1:], strict=True)) if rolled[0].height else {}
    at = pl.col("timestamp").dt.timestamp("ms")
    frames["transitions"] = db.alerts.history().filter(at.is_between(start, end))
    said = {
        "version": VERSION,
        "selector": selector,
        "start_ms": start,
        "end_ms": end,
        "exported_ms": db.now_ms(),
        "statements": db.alerts.list()["text"].to_list(),
    }
    beside = path.with_name(path.name + ".part")
    with zipfile.ZipFile(beside, "w") as file:
        file.writestr("incident.json", json.dumps(said, indent=1))
        for name, frame in frames.items():
            body = io.BytesIO()
            frame.write_parquet(body)
            file.writestr(f"{name}.parquet", body.getvalue())
    beside.replace(path)


def open_incident(make: type[DB], path: Path, memory_limit: int | str | None) -> DB:
    """See ``Database.open_incident``."""
    try:
        with zipfile.ZipFile(path) as file:
            said = json.loads(_member(file, "incident.json"))
            if said["version"] != VERSION:
                raise FormatVersionError(
                    f"{path} has version {said['version']}, this program reads {VERSION}; use the one that wrote it"
                )
            rolled = _RECORDS if f"{_RECORDS[1]}.parquet" in file.namelist() else ()
            names = (*_FRAMES, *rolled, "transitions")
            frames = {name: pl.read_parquet(_member(file, f"{name}.parquet")) for name in names}
            times = (int(said["start_ms"]), int(said["end_ms"]), int(said["exported_ms"]))
            incident = Incident(said["selector"], *times, frames["transitions"], tuple(said["statements"]))
    except FileNotFoundError:
        raise ConfigError(f"{str(path)!r} is not there; give the path of a file that export_incident wrote") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise CorruptionError(f"{path} is no whole incident: {error}; export it again") from None
    found: Sequence[Frames] = [(frames["labels"], frames["samples"], frames["histograms"])]
    held = empty()
    if rolled:
        _put_records(held, frames["record_labels"], frames["records"])
    view = _view(make, iter(found), held, {"memory_limit": memory_limit})
    view.incident = incident
    return view


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    if file.getinfo(name).file_size > _MEMBER_BYTES_MAX:
        raise ValueError(f"{name} would take {file.getinfo(name).file_size} bytes")
    return file.read(name)
