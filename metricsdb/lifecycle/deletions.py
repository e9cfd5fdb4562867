"""Deletions that can be taken back for a while: what was deleted waits in memory, or in the data directory."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError, MetricsDBError, StorageError
from metricsdb.files import sync_folder, write_whole

__all__ = ["Deleted", "Deletion", "Trash"]

# Series that get samples while they are deleted are looked at again, so often.
TRIES = 8
NOTE = "deletion.json"
_FRAMES = ("labels", "samples", "histograms")
# Labels, samples, histograms, as `NativeDatabase.restore` takes them.
Frames = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did. ``series`` lost samples; ``gone`` of them have none left, and are forgotten.

    ``buckets``: records of rollups that went whole although the range took a part of their time, as no samples were
    left to make them anew. ``id`` takes it back (``Database.undelete``); None without ``undo``. Records and their
    buckets do not come back. ``cold_parts``: parts of cold stores that had such samples; ``samples`` counts those in
    memory.
    """

    samples: int
    series: int
    gone: int
    bytes: int
    records: int
    buckets: int
    id: str | None = None
    cold_parts: int = 0


class Deletion(msgspec.Struct, frozen=True):
    """A deletion that can be taken back until ``until_ms``."""

    id: str
    selectors: list[str]
    start_ms: int
    end_ms: int
    deleted_ms: int
    until_ms: int
    samples: int = 0
    series: int = 0
    pieces: int = 0
    dropping: bool = False
    """Whether some of the last piece may not have left memory."""


class Trash:
    """What was deleted with a time in which that can be taken back. Thread-safe.

    With a directory, each deletion is a folder of Parquet files there. A piece is written and noted before it is
    dropped: whatever moment a process ends at, what left memory can be taken back, and a piece that is half written
    counts for nothing.
    """

    def __init__(self, directory: Path | None, native: Callable[[], NativeDatabase]) -> None:
        self._root = None if directory is None else directory / "trash"
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Deletion, list[Frames]]] = {}
        self._number = 0
        if self._root is not None and self._root.is_dir():
            self._load(self._root, native)

    def _load(self, root: Path, native: Callable[[], NativeDatabase]) -> None:
        for folder in sorted(root.iterdir()):
            try:
                note = msgspec.json.decode((folder / NOTE).read_bytes(), type=Deletion)
            except (OSError, msgspec.MsgspecError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self._kept[note.id] = (note, [])
            if note.dropping:
                self._settle(note, native())

    def _settle(self, note: Deletion, native: NativeDatabase) -> None:
        """Keeps of the last piece what left memory before the process ended: what is there has the digest it had."""
        pieces = [self._piece(note, at) for at in range(note.pieces)]
        handed = pl.read_parquet(self._file(note, note.pieces - 1, "digests"))
        there = pl.concat(
            native.export(selector, note.start_ms, note.end_ms, list(note.selectors[:at]), True)[0]
            for at, selector in enumerate(note.selectors)
        )
        left = handed.join(there, on=["series", "digest"], how="left", maintain_order="left")["handle"].is_null()
        pieces[-1] = _rows(pieces[-1], left.to_numpy())
        self._write(note.id, len(pieces) - 1, pieces[-1], handed.filter(left))
        settled = _counted(msgspec.structs.replace(note, dropping=False), pieces)
        if settled.samples:
            self._keep(settled, pieces)
        else:
            self._discard(note.id)

    def delete(
        self,
        native: NativeDatabase,
        selectors: Sequence[str],
        start_ms: int,
        end_ms: int,
        now_ms: int,
        undo_ms: int,
        cold: Iterable[Frames] = (),
    ) -> Deleted:
        """Deletes samples in [start, end] from memory; they wait ``undo_ms`` long (0: they don't), and so do ``cold``
        ones. Raises ``StorageError``, ``ColdStoreError``."""
        if undo_ms == 0:
            return _deleted(native.delete(list(selectors), start_ms, end_ms))
        with self._lock:
            name, total = self._name(now_ms), np.zeros(6, dtype=np.int64)
            note = Deletion(name, list(selectors), start_ms, end_ms, now_ms, now_ms + undo_ms)
            pieces: list[Frames] = []
            try:
                for frames in cold:
                    self._write(name, len(pieces), frames)
                    pieces.append(frames)
                for left in self._take(native, note, pieces):
                    total += left
                # Records of rollups, and what came in all the time.
                total += native.delete(list(selectors), start_ms, end_ms)
            except MetricsDBError:
                # What left memory before that is noted, and can be taken back all the same.
                if name not in self._kept:
                    self._discard(name)
                raise
            note = _counted(note, pieces)
            if not note.samples:
                self._discard(name)
                return _deleted(tuple(total))
            self._keep(note, pieces)
            return replace(_deleted(tuple(total)), id=name)

    def _name(self, now_ms: int) -> str:
        self._number += 1
        return f"{now_ms:013d}-{self._number:04d}"

    def _take(self, native: NativeDatabase, note: Deletion, pieces: list[Frames]) -> Iterator[tuple[int, ...]]:
        """Makes ``pieces`` more, each safe and noted before it is dropped; what left memory with each."""
        for number, selector in enumerate(note.selectors):
            for _ in range(TRIES):
                series, *frames = native.export(selector, note.start_ms, note.end_ms, note.selectors[:number], True)
                if series.is_empty():
                    break
                at = len(pieces)
                pieces.append((frames[0], frames[1], frames[2]))
                digests = series.select("series", "digest")
                try:
                    self._write(note.id, at, pieces[at], digests)
                    self._keep(_counted(msgspec.structs.replace(note, dropping=True), pieces), pieces)
                except StorageError:
                    pieces.pop()
                    raise
                gone, left = native.drop_copied(
                    series["handle"].to_numpy(), series["digest"].to_numpy(), note.start_ms, note.end_ms, True
                )
                if not gone.all():
                    pieces[at] = _rows(pieces[at], gone)
                    self._write(note.id, at, pieces[at], digests.filter(pl.Series(gone)))
                yield left

    def _write(self, name: str, at: int, frames: Frames, digests: pl.DataFrame | None = None) -> None:
        if self._root is None:
            return
        folder = self._root / name
        named = dict(zip(_FRAMES, frames, strict=True))
        if digests is not None:
            named["digests"] = digests
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for kind, frame in named.items():
                body = io.BytesIO()
                frame.write_parquet(body)
                write_whole(folder / f"{at}.{kind}.parquet", body.getvalue())
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror}; nothing more was deleted") from error

    def _keep(self, note: Deletion, pieces: list[Frames]) -> None:
        if self._root is not None:
            folder = self._root / note.id
            try:
                write_whole(folder / NOTE, msgspec.json.encode(note))
                sync_folder(folder.parent)
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be written: {error.strerror}; nothing more was deleted, "
                    f"and deletions() says whether some can be taken back"
                ) from error
        self._kept[note.id] = (note, pieces if self._root is None else [])

    def _discard(self, name: str) -> None:
        self._kept.pop(name, None)
        if self._root is not None:
            shutil.rmtree(self._root / name, ignore_errors=True)

    def undelete(self, native: NativeDatabase, name: str) -> tuple[Deletion, int]:
        """Writes what was deleted again; the deletion, and how many samples were taken. Raises ``ConfigError``."""
        with self._lock:
            if name not in self._kept:
                known = ", ".join(map(repr, self._kept)) or "none"
                raise ConfigError(f"deletion {name!r} cannot be taken back; those that can: {known}")
            note, pieces = self._kept[name]
            taken = sum(native.restore(*piece)[0] for piece in pieces or self._read(note))
            self._discard(name)
            return note, taken

    def _read(self, note: Deletion) -> Iterator[Frames]:
        return (self._piece(note, at) for at in range(note.pieces))

    def _file(self, note: Deletion, at: int, kind: str) -> Path:
        assert self._root is not None
        return self._root / note.id / f"{at}.{kind}.parquet"

    def _piece(self, note: Deletion, at: int) -> Frames:
        labels, samples, histograms = (pl.read_parquet(self._file(note, at, kind)) for kind in _FRAMES)
        return labels, samples, histograms

    def deletions(self) -> list[Deletion]:
        """Those that can be taken back, the oldest first."""
        with self._lock:
            return [note for note, _ in self._kept.values()]

    def tick(self, now_ms: int) -> list[Deletion]:
        """Frees what can be taken back no more; what that was."""
        if not self._kept:
            return []
        with self._lock:
            over = [note for note, _ in self._kept.values() if note.until_ms <= now_ms]
            for note in over:
                self._discard(note.id)
            return over


def _counted(note: Deletion, pieces: Sequence[Frames]) -> Deletion:
    samples = sum(piece[1].height + piece[2].height for piece in pieces)
    series = sum(piece[0].height for piece in pieces)
    return msgspec.structs.replace(note, samples=samples, series=series, pieces=len(pieces))


def _rows(frames: Frames, gone: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Frames:
    """What belongs to the series that are gone; rows are theirs then."""
    labels, samples, histograms = frames
    place = pl.Series(np.maximum(np.cumsum(gone) - 1, 0)).cast(pl.UInt32)
    kept = pl.Series(gone)

    def of(frame: pl.DataFrame) -> pl.DataFrame:
        rows = frame["row"]
        return frame.with_columns(place.gather(rows).alias("row")).filter(kept.gather(rows))

    return labels.filter(kept), of(samples), of(histograms)


def _deleted(left: Sequence[int]) -> Deleted:
    samples, gone, size, touched, records, buckets = map(int, left)
    return Deleted(samples, touched, gone, size, records, buckets)
