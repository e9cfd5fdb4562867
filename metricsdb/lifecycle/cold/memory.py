"""The native store as what a move needs of a memory: its samples, and its records of rollups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.lifecycle.cold.layout import NO_HISTOGRAMS, NO_SAMPLES
from metricsdb.lifecycle.cold.manifest import ROLLED_WEIGHT
from metricsdb.lifecycle.cold.move import ALL_SHARDS, Export, Rule, Shards

__all__ = ["NativeMemory", "NativeRecords", "export_of"]


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
