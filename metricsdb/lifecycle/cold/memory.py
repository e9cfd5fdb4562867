"""The native store as what a move needs of a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.lifecycle.cold.move import ALL_SHARDS, Export, Rule, Shards

__all__ = ["NativeMemory"]


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
