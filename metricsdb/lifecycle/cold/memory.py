"""What moves take from: samples and records of rollups of the native store, and of a store on the way to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.lifecycle.cold.catalog import moves, shard_of
from metricsdb.lifecycle.cold.layout import NO_HISTOGRAMS, NO_SAMPLES
from metricsdb.lifecycle.cold.manifest import ALL_SHARDS, ROLLED_WEIGHT, Kind, Part, Shards, Tombstone
from metricsdb.lifecycle.cold.move import Export, Mover, Rule
from metricsdb.lifecycle.cold.parts import merge

__all__ = ["NativeMemory", "NativeRecords", "StoreMemory", "export_of"]

_NO_SERIES = pl.DataFrame(schema={"series": pl.UInt64})


class NativeMemory:
    """Samples of one native store: exported with digests, and dropped where these still hold."""

    def __init__(self, native: Callable[[], NativeDatabase]) -> None:
        self._native = native

    def span_ms(self) -> tuple[int, int] | None:
        stats = self._native().stats()
        held = stats["samples"] + stats["histogram_samples"]
        return (stats["first_ms"], stats["last_ms"]) if held else None

    def has(self, start_ms: int, end_ms: int) -> bool:
        return self._native().series_frame([], start_ms, end_ms).height > 0

    def samples(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int) -> Sequence[int]:
        others = [rule.selector for rule in rules[:at]]
        return self._native().export_samples(rules[at].selector, start_ms, end_ms, others)

    def export(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int, shards: Shards = ALL_SHARDS) -> Export:
        others = [rule.selector for rule in rules[:at]]
        frames = self._native().export(rules[at].selector, start_ms, end_ms, others, shards=shards)
        return Export(*frames)

    def drop(self, series: pl.DataFrame, start_ms: int, end_ms: int) -> int:
        handles, digests = series["handle"].to_numpy(), series["digest"].to_numpy()
        gone, _ = self._native().drop_copied(handles, digests, start_ms, end_ms)
        return int(gone.sum())


class NativeRecords:
    """Records of rollups of one native store, once no sample is left that they stand for: those of native histograms
    stay."""

    def __init__(self, native: Callable[[], NativeDatabase]) -> None:
        self._native = native

    def span_ms(self) -> tuple[int, int] | None:
        return self._native().records_span()

    def has(self, start_ms: int, end_ms: int) -> bool:
        return any(self._native().leaving_records("", start_ms, end_ms, []))

    def samples(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int) -> Sequence[int]:
        others = [rule.selector for rule in rules[:at]]
        records = self._native().leaving_records(rules[at].selector, start_ms, end_ms, others)
        return [count * ROLLED_WEIGHT for count in records]

    def export(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int, shards: Shards = ALL_SHARDS) -> Export:
        others = [rule.selector for rule in rules[:at]]
        frames = self._native().export_records(
            rules[at].selector, start_ms, end_ms, others, leaving=True, shards=shards
        )
        return export_of(*frames)

    def drop(self, series: pl.DataFrame, start_ms: int, end_ms: int) -> int:
        handles, digests = series["handle"].to_numpy(), series["digest"].to_numpy()
        gone, _ = self._native().drop_records(handles, digests, start_ms, end_ms)
        return int(gone.sum())


def export_of(series: pl.DataFrame, labels: pl.DataFrame, records: pl.DataFrame) -> Export:
    """Records alone."""
    return Export(series, labels, NO_SAMPLES, NO_HISTOGRAMS, records)


class StoreMemory:
    """Samples of a store of parts, or its records of rollups, for the store behind it. Pins stay, and so do days of
    which only a sample is left.

    What was exported together is hidden together, if none of its parts was replaced meanwhile. What came late is in a
    part of its own, which stays, and moves next time. Methods raise ``ColdStoreError``.
    """

    def __init__(self, mover: Mover, *, records: bool = False) -> None:
        self._mover, self._catalog, self._records = mover, mover.catalog, records
        # By digest what was exported: how it is hidden, and in which parts.
        self._exported: dict[int, tuple[Tombstone, tuple[str, ...]]] = {}

    def _parts(self, start_ms: int, end_ms: int) -> list[Part]:
        return [
            part
            for part in self._catalog.parts(start_ms, end_ms)
            if part.overlaps(start_ms, end_ms) and bool(part.every_ms) == self._records
            if part.pinned is None and not part.sampled
        ]

    def span_ms(self) -> tuple[int, int] | None:
        parts = self._parts(-(2**63), 2**63 - 1)
        return (min(part.start_ms for part in parts), max(part.end_ms for part in parts)) if parts else None

    def has(self, start_ms: int, end_ms: int) -> bool:
        return bool(self._parts(start_ms, end_ms))

    def samples(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int) -> Sequence[int]:
        counts = np.zeros(ALL_SHARDS[1])
        for part in self._parts(start_ms, end_ms):
            taken = self._catalog.matching(part, (rules[at].selector,), [rule.selector for rule in rules[:at]])
            shards = shard_of(taken).to_numpy().astype(np.int64)
            counts += np.bincount(shards, minlength=ALL_SHARDS[1]) * (part.weight / part.series)
        return [int(count) for count in np.ceil(counts)]

    def export(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int, shards: Shards = ALL_SHARDS) -> Export:
        others = tuple(rule.selector for rule in rules[:at])
        moved = Tombstone((rules[at].selector,), start_ms, end_ms, others, shards)
        groups: dict[tuple[Kind, int], list[tuple[pl.DataFrame, pl.DataFrame]]] = {}
        keys = []
        for part in self._parts(start_ms, end_ms):
            taken = self._catalog.buried(part, moved)
            if taken.is_empty():
                continue
            samples = self._catalog.samples(part, taken, start_ms, end_ms).filter(moves(part, start_ms, end_ms))
            if samples.height:
                groups.setdefault((part.kind, part.every_ms), []).append((self._catalog.series(part), samples))
                keys.append(part.key)
        tables, placed, records, height = [], {"samples": NO_SAMPLES, "histograms": NO_HISTOGRAMS}, [], 0
        for (kind, every_ms), pieces in groups.items():
            series, rows = merge(pieces)
            rows = rows.with_columns(pl.col("row") + pl.lit(height, pl.UInt32))
            height += series.height
            tables.append(series)
            if every_ms:
                records.append(rows.with_columns(pl.lit(every_ms, pl.Int64).alias("every")))
            else:
                placed[kind] = rows
        digest = int.from_bytes(hashlib.sha256(repr((moved, keys)).encode()).digest()[:8])
        # What failed, or was deleted, is exported again, and of no use by then.
        self._exported = {of: one for of, one in self._exported.items() if one[0] != moved}
        self._exported[digest] = moved, tuple(keys)
        table = pl.concat(tables, how="diagonal") if tables else _NO_SERIES
        ids = table.select("series", handle="series", digest=pl.lit(digest, pl.UInt64))
        found = pl.concat(records, how="diagonal") if records else None
        return Export(ids, table.drop("series"), placed["samples"], placed["histograms"], found)

    def drop(self, series: pl.DataFrame, start_ms: int, end_ms: int) -> int:
        moved, keys = self._exported.pop(series["digest"][0])
        assert (moved.start_ms, moved.end_ms) == (start_ms, end_ms)
        return series.height if self._mover.hide(keys, moved) else 0
