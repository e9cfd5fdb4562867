"""A memory for moves that is a list of rows, and what a cold store must then have."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import polars as pl

from metricsdb.lifecycle.cold.catalog import Catalog, select
from metricsdb.lifecycle.cold.manifest import ALL_SHARDS, Shards
from metricsdb.lifecycle.cold.move import Export, Rule

Labels = tuple[tuple[str, str], ...]
# What tells two values apart: kind, 64 bits.
Value = tuple[int, int]
Rows = dict[tuple[Labels, int], Value]


def labels(**pairs: str) -> Labels:
    return tuple(sorted(pairs.items()))


def number(value: float | int, kind: int = 0) -> Value:
    if kind == 0:
        return 0, struct.unpack("<q", struct.pack("<d", value))[0]
    return kind, value if value < 2**63 else value - 2**64


def quarters(start: int, hours: int, jobs: Sequence[str]) -> Rows:
    """A sample each quarter of an hour of one series a job."""
    return {
        (labels(__name__="m", job=job), start + i * 900_000): number(i / 8 + len(job))
        for job in jobs
        for i in range(hours * 4)
    }


def hash_of(series: Labels) -> int:
    return int.from_bytes(hashlib.blake2b(repr(series).encode(), digest_size=8).digest(), "little")


def shard_of(series: Labels) -> int:
    return hash_of(series) % ALL_SHARDS[1]


def series_frame(found: Sequence[Labels]) -> pl.DataFrame:
    names = sorted({name for series in found for name, _ in series})
    columns: dict[str, pl.Series] = {"series": pl.Series([hash_of(s) for s in found], dtype=pl.UInt64)}
    columns |= {name: pl.Series([dict(s).get(name) for s in found], dtype=pl.String) for name in names}
    return pl.DataFrame(columns)


def samples_frame(rows: list[tuple[int, int, Value]]) -> pl.DataFrame:
    values = [struct.unpack("<d", struct.pack("<q", v))[0] if k == 0 else float(v % 2**64 if k == 2 else v)
              for _, _, (k, v) in rows]  # fmt: skip
    return pl.DataFrame(
        {
            "row": pl.Series([row for row, _, _ in rows], dtype=pl.UInt32),
            "timestamp": pl.Series([at for _, at, _ in rows], dtype=pl.Int64),
            "value": pl.Series(values, dtype=pl.Float64),
            "integer": pl.Series([v if k else None for _, _, (k, v) in rows], dtype=pl.Int64),
            "kind": pl.Series([k for _, _, (k, _) in rows], dtype=pl.UInt32),
        }
    )


class ListMemory:
    """``rows`` are all that there is; ``late`` are written between an export and the drop."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.late: Rows = {}
        self.exported: Rows = {}

    def span_ms(self) -> tuple[int, int] | None:
        times = [at for _, at in self.rows]
        return (min(times), max(times)) if times else None

    def has(self, start_ms: int, end_ms: int) -> bool:
        return any(start_ms <= at <= end_ms for _, at in self.rows)

    def governed(self, rules: Sequence[Rule], at: int) -> set[int]:
        frame = series_frame(sorted({series for series, _ in self.rows}))
        taken = set(select(frame, [rules[at].selector]))
        before = [rule.selector for rule in rules[:at]]
        return taken - set(select(frame, before)) if before else taken

    def samples(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int) -> list[int]:
        mine, counts = self.governed(rules, at), [0] * ALL_SHARDS[1]
        for series, t in self.rows:
            counts[shard_of(series)] += start_ms <= t <= end_ms and hash_of(series) in mine
        return counts

    def export(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int, shards: Shards = ALL_SHARDS) -> Export:
        mine = self.governed(rules, at)
        self.exported = {
            (series, t): value
            for (series, t), value in self.rows.items()
            if start_ms <= t <= end_ms and hash_of(series) in mine and shards[0] <= shard_of(series) < shards[1]
        }
        found = sorted({series for series, _ in self.exported}, key=hash_of)
        row = {series: i for i, series in enumerate(found)}
        rows = sorted((row[series], t, value) for (series, t), value in self.exported.items())
        frame = series_frame(found)
        handle = frame["series"].alias("handle")
        digests = pl.Series("digest", [self._digest(h, start_ms, end_ms) for h in handle], dtype=pl.UInt64)
        ids = pl.DataFrame([handle, digests, frame["series"]])
        samples = samples_frame(rows)
        self.rows |= self.late
        self.late = {}
        return Export(ids, frame.drop("series"), samples, samples.clear())

    def _digest(self, handle: int, start_ms: int, end_ms: int) -> int:
        mine = sorted((t, v) for (s, t), v in self.rows.items() if hash_of(s) == handle and start_ms <= t <= end_ms)
        return int.from_bytes(hashlib.blake2b(repr(mine).encode(), digest_size=8).digest(), "little")

    def drop(self, series: pl.DataFrame, start_ms: int, end_ms: int) -> int:
        asked = dict(zip(series["handle"], series["digest"], strict=True))
        same = {h for h, digest in asked.items() if self._digest(h, start_ms, end_ms) == digest}
        self.rows = {
            (s, t): v for (s, t), v in self.rows.items() if hash_of(s) not in same or not start_ms <= t <= end_ms
        }
        return len(same)


def cold_rows(catalog: Catalog, start_ms: int = -(2**63), end_ms: int = 2**63 - 1) -> Rows:
    """All samples that the cold store has of a range: later parts over earlier ones."""
    found: Rows = {}
    for part in (part for part in catalog.parts(start_ms, end_ms) if not part.every_ms):
        table = catalog.series(part)
        names = [c for c in table.columns if c != "series"]
        known = {
            row["series"]: tuple(sorted((n, row[n]) for n in names if row[n] is not None))
            for row in table.iter_rows(named=True)
        }
        for row in catalog.samples(part, None, start_ms, end_ms).iter_rows(named=True):
            value = (row["kind"], row["integer"]) if row["kind"] else number(row["value"])
            found[known[row["series"]], row["timestamp"]] = value
    return found
