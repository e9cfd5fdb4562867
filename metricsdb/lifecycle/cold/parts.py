"""Making parts: frames to objects that are uploaded, read back and compared before any manifest names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb.lifecycle.cold import layout
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.layout import Ints
from metricsdb.lifecycle.cold.manifest import Kind, Manifest, Part, weight_of
from metricsdb.lifecycle.cold.objects import SCRATCH, Missing, Objects
from metricsdb.lifecycle.sampling import COLUMNS
from metricsdb.times import DAY_MS

__all__ = ["FOLDERS", "Cut", "compacted", "cut", "day_of", "merge", "ordered", "split", "store"]

# Samples that a compaction merges at once, but for a series that has more, and stretches on which it tries encodings.
SLICE_SAMPLES, TRIALS = 1_000_000, 4
# Uploads at once.
UPLOADS = 4
# Where objects of parts stand; manifests have a folder of their own.
FOLDERS = ("samples/", "histograms/", "rollups/", "pins/", "series/", SCRATCH)


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cut:
    """A part that is not published, and the objects that it is made of."""

    part: Part
    bodies: dict[str, bytes] = field(repr=False)


def day_of(ms: int) -> str:
    """``2026-01-31``."""
    return str(np.datetime64(ms // DAY_MS, "D"))


def cut(
    series: pl.DataFrame,
    samples: pl.DataFrame,
    name: Callable[[], str],
    known: Manifest,
    *,
    kind: Kind = "samples",
    pinned: str | None = None,
    every_ms: int = 0,
) -> Cut:
    """Objects of samples of one day (of a pin: of any time), ordered as ``ordered`` does.

    ``series``: ``series`` (UInt64) and labels, each with a sample; ``samples``: ``row`` of the series frame,
    ``timestamp`` and the columns of a value. ``name`` gives names that nothing had before. A table of series that a
    known part has is not written again. ``every_ms``: of records.
    """
    writer = layout.Writer(series, samples, samples.height, weight_of(kind))
    writer.write(series, samples)
    return _cut(series, writer, name, known, kind, pinned, every_ms)


def _cut(
    series: pl.DataFrame,
    writer: layout.Writer,
    name: Callable[[], str],
    known: Manifest,
    kind: Kind,
    pinned: str | None,
    every_ms: int,
) -> Cut:
    series_body = layout.encode_series(series)
    series_hash = layout.sha256(series_body)
    shared = next((p.series_key for p in known.parts if p.series_sha256 == series_hash), None)
    series_key = shared or f"series/{name()}.parquet"
    body = writer.finish(series_key)
    # A record stands for what lies between its bucket's begin and its end.
    start_ms = writer.start_ms - every_ms + 1 if every_ms else writer.start_ms
    folder = kind if pinned is None else "pins"
    width = f"/every={every_ms}" if every_ms else ""
    part = Part(
        key=f"{folder}{width}/day={day_of(start_ms)}/{name()}.parquet",
        series_key=series_key,
        start_ms=start_ms,
        end_ms=writer.end_ms,
        series=series.height,
        samples=writer.rows,
        bytes=len(body),
        kind=kind,
        order=0,
        sha256=layout.sha256(body),
        series_sha256=series_hash,
        series_bytes=len(series_body),
        footer_bytes=layout.footer_bytes(body),
        pinned=pinned,
        every_ms=every_ms,
    )
    bodies = {part.key: body} if shared else {series_key: series_body, part.key: body}
    return Cut(part, bodies)


def compacted(catalog: Catalog, group: Sequence[Part], name: Callable[[], str], known: Manifest) -> Cut | None:
    """The samples of several parts as one; where two have one time, the later part has it. None: none are left.

    Some ``SLICE_SAMPLES`` at a time are read, merged and written, and neighbours that share their row groups: that and
    the tables of series are all that it holds, beside the new object. Raises ``ColdStoreError``.
    """
    tables = [catalog.table(part) for part in group]
    union = pl.concat(tables, how="diagonal").unique("series", keep="first", maintain_order=True)
    union = in_order(union)
    place = union.select("series").with_row_index("place")
    weight = np.zeros(union.height)
    for part, table in zip(group, tables, strict=True):
        at = table.select("series").join(place, on="series", how="left", maintain_order="left")["place"].to_numpy()
        weight[at] += catalog.weights(part)

    def merged(first: int, end: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        wanted = union["series"][first:end]
        return merge([(union[first:end], catalog.samples(part, wanted)) for part in group])

    trial, writer, kept = _trial(merged, weight), None, []
    for first, end in slices(weight, SLICE_SAMPLES // weight_of(group[0].kind)):
        series, samples = merged(first, end)
        if samples.is_empty():
            continue
        if writer is None:
            rows = sum(part.samples for part in group)
            writer = layout.Writer(*(trial or (series, samples)), rows, weight_of(group[0].kind))
        writer.write(series, samples)
        kept.append(series["series"])
    if writer is None:
        return None
    series = union.filter(pl.col("series").is_in(pl.concat(kept).implode()))
    told = [name for name in COLUMNS if name in series.columns]
    series = series.select("series", *label_order(series), *told)
    made = _cut(series, writer, name, known, group[0].kind, group[0].pinned, group[0].every_ms)
    return replace(made, part=replace(made.part, sampled=group[0].sampled))


def _trial(
    merged: Callable[[int, int], tuple[pl.DataFrame, pl.DataFrame]], weight: Floats
) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """Series from everywhere, with as many samples as encodings are tried on; None where these have none left."""
    tables, samples, behind = [], [], 0
    for number in range(TRIALS):
        first = number * len(weight) // TRIALS
        _, end = next(slices(weight[first:], layout.TRIAL_ROWS))
        table, some = merged(first, first + end)
        tables.append(table)
        samples.append(some.with_columns(pl.col("row") + pl.lit(behind, pl.UInt32)))
        behind += table.height
    all_samples = pl.concat(samples)
    return None if all_samples.is_empty() else (pl.concat(tables, how="diagonal"), all_samples)


def slices(weight: Floats, samples_max: int) -> Iterator[tuple[int, int]]:
    """Neighbours with some ``samples_max`` samples, or one series with more: first, and behind the last."""
    ends = np.cumsum(weight)
    first = 0
    while first < len(weight):
        begun = ends[first] - weight[first]
        end = max(int(np.searchsorted(ends, begun + samples_max, side="right")), first + 1)
        yield first, end
        first = end


def store(objects: Objects, cuts: Sequence[Cut]) -> None:
    """Uploads all objects, reads them back and compares. Raises ``ColdStoreError``."""
    bodies = {key: body for made in cuts for key, body in made.bodies.items()}
    with ThreadPoolExecutor(UPLOADS, "cold-upload") as pool:
        # Exceptions come out here, once those under way have ended.
        list(pool.map(lambda item: _put(objects, *item), bodies.items()))


def _put(objects: Objects, key: str, body: bytes) -> None:
    objects.put(key, body)
    try:
        same = objects.get(key) == body
    except Missing:
        same = False
    if not same:
        raise objects.error(f"{key} reads back as other bytes than were written", "look for what stands in between")


def ordered(series: pl.DataFrame, samples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Series sorted by labels, the metric's name first, those without a sample left out; and their samples in that
    order.

    ``row`` of the samples must not fall; each series has them in time order.
    """
    if samples.is_empty():
        return series.clear(), samples.clear()
    rows = samples["row"].to_numpy()
    begins = layout.begins_of(rows)
    lengths = np.diff(begins, append=len(rows))
    there = series[rows[begins]]
    used = label_order(there)
    told = [name for name in COLUMNS if name in there.columns]
    order = _order(there)
    begins, lengths = begins[order], lengths[order]
    new_begins = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(begins), dtype=np.uint32), lengths)
    if not np.array_equal(begins, new_begins):
        # Differences modulo 2**32: half of the memory, and no frame has as many rows.
        take = np.arange(len(rows), dtype=np.uint32)
        take += np.repeat((begins - new_begins).astype(np.uint32), lengths)
        varying = [name for name in samples.columns if name != "row" and not _is_constant(samples[name])]
        samples = samples.with_columns(pl.col(varying).gather(pl.Series(take)))
    return there[order].select("series", *used, *told), samples.with_columns(pl.Series("row", row))


def label_order(series: pl.DataFrame) -> list[str]:
    """The labels that some of the series have, as tables of series order them."""
    labels = [name for name in series.columns if name != "series" and name not in COLUMNS]
    used = [name for name in labels if series[name].null_count() < series.height]
    return sorted(used, key=lambda name: (name != "__name__", name))


def in_order(series: pl.DataFrame) -> pl.DataFrame:
    """A table's rows as parts have them."""
    return series[_order(series)]


def _order(series: pl.DataFrame) -> Ints:
    by = pl.arg_sort_by([*label_order(series), "series"], nulls_last=False)
    return series.select(by).to_series().to_numpy().astype(np.int64)


def _is_constant(column: pl.Series) -> bool:
    """Whether its rows may change places: kinds and starts are the same everywhere, mostly."""
    if column.null_count() == len(column):
        return True
    return column.dtype == pl.UInt32 and column.null_count() == 0 and column.min() == column.max()


def split(series: pl.DataFrame, samples: pl.DataFrame, samples_max: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Ordered series and samples in pieces of whole series with some ``samples_max`` samples."""
    rows = samples["row"].to_numpy()
    at = 0
    while at < len(rows):
        last = int(rows[min(at + samples_max, len(rows)) - 1])
        end = int(np.searchsorted(rows, last, side="right"))
        first = int(rows[at])
        yield series[first : last + 1], samples[at:end].with_columns(pl.col("row") - pl.lit(first, pl.UInt32))
        at = end


def merge(pieces: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Series and samples (with ``series``) of several parts as one; where two have one time, the later piece has it."""
    series = pl.concat([table for table, _ in pieces], how="diagonal").unique(
        "series", keep="first", maintain_order=True
    )
    numbered = series.select("series").with_row_index("row")
    samples = pl.concat([frame for _, frame in pieces], how="diagonal").join(numbered, on="series", how="left")
    samples = samples.sort("row", "timestamp", maintain_order=True)
    same = (pl.col("row") == pl.col("row").shift(-1)) & (pl.col("timestamp") == pl.col("timestamp").shift(-1))
    samples = samples.filter(~same.fill_null(value=False)).drop("series")
    return ordered(series, samples)
