"""What is cold, and reading it: parts that overlap a range, their series, and the samples of some of these."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb._native import Read
from metricsdb.lifecycle.cold import layout, manifest
from metricsdb.lifecycle.cold.manifest import ALL_SHARDS, Manifest, Part, Tombstone
from metricsdb.lifecycle.cold.objects import Objects, library
from metricsdb.lifecycle.sampling import COLUMNS
from metricsdb.times import DAY_MS

__all__ = ["Catalog", "moves", "select", "shard_of"]

CACHE_BYTES = 64 << 20
# Bytes of Python's objects around a cached value, roughly.
_OVERHEAD = 512
_ALL_TIME = (-(2**63), 2**63 - 1)

Value = TypeVar("Value")


class Catalog:
    """The parts of one cold store. Thread-safe; every method but ``known`` may ask the store, and raise
    ``ColdStoreError``.

    Tables of series, footers and selections are kept, the newest used, up to ``cache_bytes``.
    """

    def __init__(self, objects: Objects, cache_bytes: int = CACHE_BYTES) -> None:
        self.objects = objects
        self._cache = _Cache(cache_bytes)
        self._state: Manifest | None = None
        self._lock = threading.Lock()

    @property
    def bytes_read(self) -> int:
        """Bytes that were read from the store since it was opened."""
        return self.objects.bytes_read

    @property
    def state(self) -> Manifest:
        """The newest manifest that this process knows of; the first time it is loaded."""
        with self._lock:
            if self._state is None:
                self._state = manifest.load(self.objects)
            return self._state

    def refresh(self) -> Manifest:
        """Learns what others published meanwhile."""
        return self._learn(manifest.load(self.objects))

    def publish(self, change: Callable[[Manifest], Manifest]) -> Manifest:
        return self._learn(manifest.publish(self.objects, change))

    def _learn(self, state: Manifest) -> Manifest:
        with self._lock:
            if self._state is None or state.number >= self._state.number:
                self._state = state
            return self._state

    def parts(self, start_ms: int, end_ms: int) -> list[Part]:
        """Parts with samples in [start, end], pinned ones too, in rising order: where two have one time, the later
        one has it. Of records those of whole buckets of all widths: which level is whole is seen by the wider one.
        """
        known = self.state.parts
        # Buckets that are of several days.
        more = max((part.every_ms for part in known if part.every_ms and DAY_MS % part.every_ms), default=0)
        wide = max(start_ms - more, _ALL_TIME[0]), min(end_ms + more, _ALL_TIME[1])
        found = [part for part in known if part.overlaps(*(wide if part.every_ms else (start_ms, end_ms)))]
        return sorted(found, key=lambda part: (part.order, part.key))

    def series(self, part: Part) -> pl.DataFrame:
        """``series`` (UInt64: hash of the labels) and a String column a label, sorted by labels, as the part's
        samples are.
        """
        table = self.table(part)
        return table.drop(COLUMNS, strict=False) if part.sampled else table

    def drawn(self, part: Part) -> pl.DataFrame:
        """Of a sampled part's series those that were drawn from others: ``series`` and ``sampling.COLUMNS``."""
        return self.table(part).select("series", *COLUMNS).filter(pl.col("sampled_by").is_not_null())

    def sampled_until(self, keep: str) -> int:
        """The last time (ms) of the days of which such a sample was drawn."""
        ends = (part.start_ms for part in self.state.parts if any(draw.keep == keep for draw in part.sampled))
        return (max(ends, default=-1) // DAY_MS + 1) * DAY_MS - 1

    def table(self, part: Part) -> pl.DataFrame:
        """As ``series``, with ``sampling.COLUMNS`` where series were drawn."""

        def load() -> tuple[pl.DataFrame, int]:
            body = self.objects.get(part.series_key)
            if layout.sha256(body) != part.series_sha256:
                raise self.objects.error(f"{part.series_key} is not what was stored", "restore it from a copy")
            with self._readable(part.series_key):
                frame = layout.read_series(body)
            return frame, int(frame.estimated_size())

        return self._cache.get(("series", part.series_key), load)

    def matching(self, part: Part, selectors: Sequence[str], unless: Sequence[str] = ()) -> pl.Series:
        """``series`` of the part that any of the selectors takes and none of ``unless``. Raises ``ParseError``."""

        def load() -> tuple[pl.Series, int]:
            found = select(self.series(part), selectors)
            return found, int(found.estimated_size())

        taken = self._cache.get(("matching", part.series_key, *selectors), load)
        return taken.filter(~taken.is_in(self.matching(part, unless).implode())) if unless else taken

    def samples(
        self, part: Part, series: pl.Series | None = None, start_ms: int = _ALL_TIME[0], end_ms: int = _ALL_TIME[1]
    ) -> pl.DataFrame:
        """Samples of these series (UInt64; None: all) in [start, end], sorted as stored: by series, each by time.

        ``series`` UInt64, ``timestamp`` Int64 ms, ``value`` Float64, ``integer`` Int64 or null, ``kind`` UInt32 (0:
        double; 1: int64; 2: uint64, whose 64 bits are ``integer``), ``start`` Int64 ms or null. Of a part of
        histograms, and of records of rollups, fields in place of the three columns of the value; of records those
        whose buckets meet the range, ``timestamp`` being their end. What was deleted is left out. Reads the row
        groups that hold any of the series.
        """
        known = self._footer(part)
        rows = None if series is None else self._rows(part, series)
        with self._readable(part.key):
            frame = layout.decode(self.objects, part.key, known, known.groups(rows))
        if part.start_ms < start_ms or part.end_ms > end_ms:
            frame = frame.filter(_meets(part, start_ms, end_ms))
        if series is not None:
            frame = frame.filter(pl.col("series").is_in(series.implode()))
        for dead in part.tombstones:
            taken = pl.col("series").is_in(self.buried(part, dead).implode())
            # What rules let go is whole buckets; a deletion takes those that it cuts, too.
            inside = pl.col("timestamp") <= dead.end_ms if dead.by_rule else _meets(part, dead.start_ms, dead.end_ms)
            if dead.moved is not None:
                inside = moves(part, dead.start_ms, dead.end_ms)
            frame = frame.filter(~(taken & inside))
        return frame

    def buried(self, part: Part, dead: Tombstone) -> pl.Series:
        """``series`` of the part that have lost samples by a tombstone."""
        taken = self.matching(part, dead.selectors, dead.unless)
        if dead.moved is None or dead.moved == ALL_SHARDS:
            return taken
        return taken.filter(shard_of(taken).is_between(dead.moved[0], dead.moved[1], closed="left"))

    def cost(self, part: Part, series: pl.Series) -> tuple[int, int]:
        """Rows and bytes of the row groups that ``samples`` would read for these series."""
        known = self._footer(part)
        groups = known.groups(self._rows(part, series))
        rows = sum(known.metadata.row_group(at).num_rows for at in groups)
        return rows, sum(end - start for start, end in known.ranges(groups))

    def weights(self, part: Part) -> npt.NDArray[np.float64]:
        """How many samples each series of the part has, its neighbours in a row group with it on an average."""
        known = self._footer(part)
        groups = [known.metadata.row_group(at).num_rows for at in range(known.metadata.num_row_groups)]
        begins = np.concatenate([[0], np.cumsum(groups)]).astype(np.float64)
        first = np.append(known.first, part.series)
        # Several groups may begin with one series: before it, there is what the first of them follows; it has the rest.
        last = np.append(first[1:] != first[:-1], True)
        before = np.interp(np.arange(part.series + 1), first[last], begins[last])
        starts, at = np.unique(first, return_index=True)
        before[starts] = begins[at]
        return np.diff(before)

    def counts(self, part: Part) -> layout.Ints:
        """How many rows each series of the part has, what was deleted among them. Reads one column."""

        def load() -> tuple[layout.Ints, int]:
            known = self._footer(part)
            with self._readable(part.key):
                found = layout.hashes(self.objects, part.key, known).rename("series").value_counts(name="rows")
            rows = self.series(part).select("series").join(found, on="series", how="left", maintain_order="left")
            counted = rows["rows"].fill_null(0).to_numpy().astype(np.int64)
            return counted, int(counted.nbytes)

        return self._cache.get(("counts", part.key), load)

    def _rows(self, part: Part, series: pl.Series) -> layout.Ints:
        return self.series(part)["series"].is_in(series.implode()).arg_true().to_numpy().astype(np.int64)

    def _footer(self, part: Part) -> layout.Footer:
        def load() -> tuple[layout.Footer, int]:
            with self._readable(part.key):
                known = layout.footer(self.objects, part.key, part.bytes, part.footer_bytes)
            return known, 4 * part.footer_bytes

        return self._cache.get(("footer", part.key), load)

    @contextmanager
    def _readable(self, key: str) -> Iterator[None]:
        """Bytes that are no Parquet of ours, or fail their checksums, are the store's fault."""
        try:
            yield
        except (library("pyarrow").ArrowException, OSError, ValueError, KeyError) as error:
            raise self.objects.error(f"{key} is not what was stored: {error}", "restore it from a copy") from None


def shard_of(series: pl.Series) -> pl.Series:
    """Shards of series by their hashes."""
    return series % ALL_SHARDS[1]


def moves(part: Part, start_ms: int, end_ms: int) -> pl.Expr:
    """Whether a row moves with a range to the next tier: see ``Part.moves_ms``."""
    return (pl.col("timestamp") - (1 if part.every_ms else 0)).is_between(start_ms, end_ms)


def _meets(part: Part, start_ms: int, end_ms: int) -> pl.Expr:
    """Whether a row's time, or the time that a record stands for, is in [start, end]."""
    time = pl.col("timestamp")
    return (time >= start_ms) & (time - part.every_ms < end_ms if part.every_ms else time <= end_ms)


def select(series: pl.DataFrame, selectors: Sequence[str]) -> pl.Series:
    """Hashes of the series that any selector takes (an empty one: all). Raises ``ParseError``."""
    if "" in selectors:
        return series["series"]
    labels = series.drop("series")
    taken = pl.repeat(False, series.height, eager=True)
    for selector in selectors:
        taken |= Read(selector, *_ALL_TIME).matches(labels)["matches"]
    return series["series"].filter(taken)


class _Cache:
    """What was loaded last, up to so many bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._items: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], load: Callable[[], tuple[Value, int]]) -> Value:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                found: Value = self._items[key][0]
                return found
        # Not under the lock: two that ask at once may both load.
        value, size = load()
        with self._lock:
            if key not in self._items:
                self._items[key] = value, size + _OVERHEAD
                self._held += size + _OVERHEAD
            while self._held > self._limit:
                self._held -= self._items.popitem(last=False)[1][1]
        return value
