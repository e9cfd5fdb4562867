"""What an object of the cold store holds: frames to Parquet and back, exact to the bit. `docs/formats/cold.md`."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb.lifecycle.cold.objects import Objects, library

__all__ = [
    "NO_HISTOGRAMS",
    "NO_SAMPLES",
    "SAMPLES",
    "Footer",
    "Writer",
    "begins_of",
    "decode",
    "encode_series",
    "footer",
    "read_series",
    "sha256",
]

VERSION = "1"
# Rows of a row group, the least that a selective read fetches: as many as make a group and all groups' entries in the
# footer, of some 400 bytes, least together, at 0.9 bytes a row. Objects that are small compress better as few groups.
ROWS_MAX, SMALL = 1 << 17, 1 << 20
ROWS_SQUARED = 400 / 0.9
PAGE_BYTES = 1 << 20
# Rows of the stretches on which encodings are tried.
TRIAL_ROWS = ROWS_MAX // 8
# zstd levels: of numbers, where a higher one pays; of other columns; of tables of series.
NUMBER_LEVEL, LEVEL, SERIES_LEVEL = 6, 3, 9
# A double is written as `number / 10**scale` where that gives its very bits; nine digits are nanoseconds.
SCALES = range(10)
_POWERS = 10.0 ** np.arange(10)
# Values of a series that are looked at to find its scale, and the share of them that must be decimals.
SCREEN, SCREEN_SHARE = 32, 0.5
# `scale` of numbers that were written as integers, which doubles would round.
INT64, UINT64 = -1, -2
# What samples are in memory. `kind`: 0 double, 1 int64, 2 uint64, whose 64 bits are `integer`; `value` is the double
# nearest.
SAMPLES: dict[str, pl.DataType] = {
    "series": pl.UInt64(),
    "timestamp": pl.Int64(),
    "value": pl.Float64(),
    "integer": pl.Int64(),
    "kind": pl.UInt32(),
    "start": pl.Int64(),
}
# None of them, placed by rows of a table of series, as a native store gives and takes them.
_PLACE: dict[str, pl.DataType] = {"row": pl.UInt32(), "timestamp": pl.Int64(), "start": pl.Int64()}
NO_SAMPLES = pl.DataFrame(schema={**_PLACE, "value": pl.Float64, "integer": pl.Int64, "kind": pl.UInt32})
NO_HISTOGRAMS = pl.DataFrame(schema={**_PLACE, "encoded": pl.Binary})
_RUNS = ["series", "metric", "scale", "start", "kind"]
# Times of records, beside that of their bucket's end.
_RECORD_TIMES = pl.col("first_time", "last_time")
_TIME = pl.Datetime("ms", "UTC")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def encode_series(series: pl.DataFrame) -> bytes:
    """``series`` (UInt64) and a String column a label, in the order of the samples."""
    sink = io.BytesIO()
    parquet = library("pyarrow.parquet")
    parquet.write_table(
        _strings(series.to_arrow()),
        sink,
        compression="zstd",
        compression_level=SERIES_LEVEL,
        use_dictionary=False,
        write_statistics=["__name__"],
        write_page_checksum=True,
        store_schema=False,
    )
    return sink.getvalue()


def read_series(body: bytes) -> pl.DataFrame:
    frame = pl.from_arrow(library("pyarrow.parquet").read_table(io.BytesIO(body), page_checksum_verification=True))
    assert isinstance(frame, pl.DataFrame)
    return frame


class Writer:
    """An object of samples, or histograms, made piece by piece: it holds a row group, and the object's bytes.

    ``trial``: samples by which encodings are chosen, of series with ``trial_series`` (as ``write`` takes them).
    ``rows``: how many come, which says how long row groups are, each as large as so many samples (``weight``).
    """

    def __init__(self, trial_series: pl.DataFrame, trial: pl.DataFrame, rows: int, weight: int = 1) -> None:
        arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
        table = _columns(trial_series, trial)
        encodings = {"timestamp": _smallest(table["timestamp"], "PLAIN", "DELTA_BINARY_PACKED")}
        if "number" in table.column_names:
            encodings["number"] = _smallest(table["number"], "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED")
            encodings["value"] = _smallest(table["value"], "PLAIN", "BYTE_STREAM_SPLIT")
        else:
            encodings |= _encodings(table)
        self._schema = table.schema.set(1, arrow.field("metric", arrow.dictionary(arrow.int32(), arrow.string())))
        self._count = max(group_rows(rows * weight) // weight, 1)
        self._waiting: list[Any] = []
        self._first: list[int] = []
        self._held = self._series = 0
        self.rows = 0
        self.start_ms, self.end_ms = 2**63 - 1, -(2**63)
        """Times of the first and the last sample so far."""
        self._sink = io.BytesIO()
        self._writer = parquet.ParquetWriter(
            self._sink,
            self._schema,
            compression="zstd",
            compression_level={n: NUMBER_LEVEL if n == "number" else LEVEL for n in self._schema.names},
            use_dictionary=_RUNS,
            column_encoding=encodings,
            data_page_size=PAGE_BYTES,
            max_rows_per_page=ROWS_MAX,
            write_statistics=["metric", "timestamp"],
            write_page_checksum=True,
            store_schema=False,
        )

    def write(self, series: pl.DataFrame, samples: pl.DataFrame) -> None:
        """Samples, or histograms, of the next series, all that come of each and at least one, sorted by ``row`` (of
        ``series``, UInt32) and ``timestamp`` (Int64 ms). The other columns are those of ``SAMPLES``, or of histograms
        whatever their fields are. Some 20 million samples per second of CPU.
        """
        table, rows, names = _columns(series, samples), samples["row"].to_numpy(), _names(series)
        times = samples["timestamp"].to_numpy()
        self.start_ms, self.end_ms = min(self.start_ms, int(times.min())), max(self.end_ms, int(times.max()))
        at = 0
        while at < len(rows):
            if not self._held:
                self._first.append(self._series + int(rows[at]))
            end = min(at + self._count - self._held, len(rows))
            metric = _metrics(names, rows[at:end])
            self._waiting.append(table.slice(at, end - at).set_column(1, self._schema.field(1), metric))
            self._held += end - at
            at = end
            if self._held == self._count:
                self._flush()
        self._series += series.height
        self.rows += len(rows)

    def _flush(self) -> None:
        arrow = library("pyarrow")
        group = self._waiting[0]
        if len(self._waiting) > 1:
            group = arrow.concat_tables(self._waiting).unify_dictionaries().combine_chunks()
        self._writer.write_table(group)
        self._waiting, self._held = [], 0

    def finish(self, series_key: str) -> bytes:
        """The object. ``series_key``: of the table of all series that were written, in their order."""
        if self._held:
            self._flush()
        notes = {"version": VERSION, "series": series_key, "rows": json.dumps(self._first)}
        self._writer.add_key_value_metadata({f"metricsdb.{name}": text for name, text in notes.items()})
        self._writer.close()
        return self._sink.getvalue()


def _columns(series: pl.DataFrame, samples: pl.DataFrame) -> Any:
    """All columns but the names of metrics, in whose place nulls stand."""
    arrow = library("pyarrow")
    rows = samples["row"].to_numpy()
    hashes = series["series"].to_numpy()
    start = (
        samples["start"] if "start" in samples.columns else pl.repeat(None, samples.height, dtype=pl.Int64, eager=True)
    )
    columns: dict[str, Any] = {
        "series": arrow.array(hashes[rows]),
        "metric": arrow.nulls(len(rows), arrow.string()),
        "timestamp": samples["timestamp"].cast(_TIME).to_arrow(),
        "start": start.cast(_TIME).to_arrow(),
    }
    if "value" in samples.columns:
        columns |= {name: column.to_arrow() for name, column in _numbers(samples, rows).items()}
    else:
        rest = _stamped(samples.drop("row", "timestamp", "start", "every", strict=False))
        columns |= dict(zip(rest.columns, rest.to_arrow().columns, strict=True))
    return _strings(arrow.table(columns))


@dataclass(frozen=True, slots=True)
class Footer:
    """Where the columns of an object stand. ``first``: the row of the series table that each row group begins with."""

    metadata: Any
    first: Ints
    size: int

    def groups(self, rows: Ints | None) -> list[int]:
        """The row groups that hold samples of these rows of the series table (None: all)."""
        count = self.metadata.num_row_groups
        if rows is None:
            return list(range(count))
        # A series may begin in the group before the one that its row is the first of.
        low = np.maximum(np.searchsorted(self.first, rows, side="left") - 1, 0)
        high = np.searchsorted(self.first, rows, side="right") - 1
        wanted = np.zeros(count + 1, dtype=np.int64)
        np.add.at(wanted, low, 1)
        np.add.at(wanted, np.maximum(high, low) + 1, -1)
        return np.flatnonzero(np.cumsum(wanted)[:count]).tolist()

    @property
    def has_values(self) -> bool:
        return "number" in self.metadata.schema.to_arrow_schema().names

    def ranges(self, groups: list[int], column: str | None = None) -> list[tuple[int, int]]:
        """Bytes of the row groups, from the first column's pages to the last one's, or those of one column; neighbours
        as one."""
        found: list[tuple[int, int]] = []
        for at in groups:
            group = self.metadata.row_group(at)
            columns = [group.column(i) for i in range(group.num_columns)]
            columns = [c for c in columns if column in (None, c.path_in_schema)]
            starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
            ends = [start + c.total_compressed_size for start, c in zip(starts, columns, strict=True)]
            if found and found[-1][1] == min(starts):
                found[-1] = (found[-1][0], max(ends))
            else:
                found.append((min(starts), max(ends)))
        return found


def begins_of(rows: Ints) -> Ints:
    """Where runs of one row of the table of series begin."""
    return np.concatenate([[0], np.flatnonzero(rows[1:] != rows[:-1]) + 1])


def footer(objects: Objects, key: str, size: int, footer_bytes: int) -> Footer:
    (tail,) = objects.ranges(key, [(size - footer_bytes, size)])
    metadata = library("pyarrow.parquet").read_metadata(io.BytesIO(tail))
    first = json.loads(metadata.metadata[b"metricsdb.rows"])
    return Footer(metadata, np.array(first, dtype=np.int64), size)


def footer_bytes(body: bytes) -> int:
    """Length of a Parquet file's footer with its frame."""
    return int.from_bytes(body[-8:-4], "little") + 8


def decode(objects: Objects, key: str, known: Footer, groups: list[int]) -> pl.DataFrame:
    """The rows of these row groups, in the columns of ``SAMPLES`` (or those of histograms)."""
    columns = [name for name in known.metadata.schema.to_arrow_schema().names if name != "metric"]
    frame = _read(objects, key, known, groups, known.ranges(groups), columns)
    frame = frame.with_columns(pl.col("timestamp", "start").cast(pl.Int64))
    return _samples(frame) if known.has_values else _unstamped(frame)


def hashes(objects: Objects, key: str, known: Footer) -> pl.Series:
    """Of each row the hash of its series. Reads that column alone, some bytes a series."""
    groups = known.groups(None)
    return _read(objects, key, known, groups, known.ranges(groups, "series"), ["series"]).to_series()


def _read(
    objects: Objects, key: str, known: Footer, groups: list[int], ranges: list[tuple[int, int]], columns: list[str]
) -> pl.DataFrame:
    bodies = objects.ranges(key, ranges)
    source = _Sparse(known.size, {start: body for (start, _), body in zip(ranges, bodies, strict=True)})
    parquet = library("pyarrow.parquet")
    file = parquet.ParquetFile(source, metadata=known.metadata, page_checksum_verification=True, pre_buffer=False)
    frame = pl.from_arrow(file.read_row_groups(groups, columns=columns, use_threads=False))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _stamped(records: pl.DataFrame) -> pl.DataFrame:
    """Times as every reader knows them, where there are some."""
    if "first_time" not in records.columns:
        return records
    return records.with_columns(_RECORD_TIMES.cast(_TIME), pl.col("kept_times").cast(pl.List(_TIME)))


def _unstamped(records: pl.DataFrame) -> pl.DataFrame:
    if "first_time" not in records.columns:
        return records
    return records.with_columns(_RECORD_TIMES.cast(pl.Int64), pl.col("kept_times").cast(pl.List(pl.Int64)))


class _Sparse(io.RawIOBase):
    """A file of which only some stretches are there."""

    def __init__(self, size: int, stretches: dict[int, bytes]) -> None:
        super().__init__()
        self._size, self._stretches, self._at = size, stretches, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Short where the bytes are not there, which the reader takes for a damaged file."""
        start = max(at for at in self._stretches if at <= self._at)
        found = self._stretches[start][self._at - start :][:count]
        self._at += len(found)
        return found


def _numbers(samples: pl.DataFrame, rows: Ints) -> dict[str, pl.Series]:
    """``number``, ``scale`` and ``value`` of doubles and integers: one of number and value is null in each row."""
    value = samples["value"].to_numpy()
    begins = begins_of(rows)
    scales, lengths = _scales(value, begins), np.diff(begins, append=len(rows))
    scale, power = np.repeat(scales, lengths), np.repeat(_POWERS[np.maximum(scales, 0)], lengths)
    with np.errstate(all="ignore"):
        scaled = np.rint(value * power) + 0.0  # -0.0 becomes 0.0, which is not what it was
        # A whole number below 2**53 and a power of ten below 10**23 are doubles: their quotient is rounded once,
        # everywhere.
        exact = (scale >= 0) & (np.abs(scaled) < 2.0**53) & ((scaled / power).view(np.int64) == value.view(np.int64))
        number = np.where(exact, scaled, 0.0).astype(np.int64)
    scale = np.where(exact, scale, 0).astype(np.int8)
    if "kind" in samples.columns and samples["kind"].max():
        kind = samples["kind"].to_numpy()
        integer = samples["integer"].fill_null(0).to_numpy()
        number = np.where(kind > 0, integer, number)
        scale = np.where(kind > 0, -kind.astype(np.int8), scale)
        exact |= kind > 0
    frame = pl.DataFrame({"there": exact, "number": number, "scale": scale, "value": value}).select(
        pl.when("there").then("number").alias("number"), "scale", pl.when(~pl.col("there")).then("value").alias("value")
    )
    return {name: frame[name] for name in ("number", "scale", "value")}


def _scales(value: Floats, begins: Ints) -> npt.NDArray[np.int8]:
    """For each series the least scale that most of its values have, found on some of them; -1 where no one serves."""
    lengths = np.diff(begins, append=len(value))
    picks = begins[:, None] + (np.arange(SCREEN) * lengths[:, None]) // SCREEN
    seen = value[picks]
    best = np.full(len(begins), -1, dtype=np.int8)
    share = np.full(len(begins), SCREEN_SHARE * SCREEN)
    todo = np.arange(len(begins))
    with np.errstate(all="ignore"):
        for scale in SCALES:
            some = seen[todo]
            scaled = np.rint(some * 10.0**scale)
            exact = (np.abs(scaled) < 2.0**53) & ((scaled / 10.0**scale).view(np.int64) == some.view(np.int64))
            fits = exact.sum(axis=1)
            better = fits > share[todo]
            best[todo[better]], share[todo[better]] = scale, fits[better]
            todo = todo[share[todo] < SCREEN]
            if not len(todo):
                break
    return best


def _samples(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows as they are in memory: the value of each, and the bits of integers."""
    number, scale = frame["number"].fill_null(0).to_numpy(), frame["scale"].to_numpy()
    floats = not len(scale) or scale.min() >= 0
    value = number / _POWERS[scale if floats else np.maximum(scale, 0)]
    if not floats:
        value = np.where(scale == UINT64, number.view(np.uint64).astype(np.float64), value)
    integer = pl.lit(None, pl.Int64) if floats else pl.when(pl.col("scale") < 0).then("number")
    kind = pl.lit(0, pl.UInt32) if floats else (-pl.min_horizontal("scale", 0)).cast(pl.UInt32)
    return frame.with_columns(pl.Series("widened", value)).select(
        "series",
        "timestamp",
        pl.coalesce("value", "widened").alias("value"),
        integer.alias("integer"),
        kind.alias("kind"),
        "start",
    )


def group_rows(samples: int) -> int:
    """Rows of a row group of an object with so many."""
    return ROWS_MAX if samples <= SMALL else min(ROWS_MAX, math.isqrt(int(samples * ROWS_SQUARED)))


def _names(series: pl.DataFrame) -> tuple[Ints, Any]:
    """The name of each series' metric as its place in a column of names."""
    arrow = library("pyarrow")
    names = (
        series["__name__"].fill_null("") if "__name__" in series.columns else pl.repeat("", series.height, eager=True)
    )
    code = names.rle_id().to_numpy()
    texts = names.gather(np.flatnonzero(np.diff(code.astype(np.int64), prepend=-1))).to_arrow().cast(arrow.string())
    return code.astype(np.int64), texts


def _metrics(names: tuple[Ints, Any], rows: Ints) -> Any:
    """The names of the metrics of rows, with a dictionary of those names alone."""
    arrow = library("pyarrow")
    code, texts = names
    some = code[rows].astype(np.int32)
    used = texts.slice(some[0], some[-1] - some[0] + 1)
    return arrow.DictionaryArray.from_arrays(arrow.array(some - some[0]), used)


def _encodings(table: Any) -> dict[str, str]:
    """Those of the columns that are neither samples' nor runs."""
    arrow = library("pyarrow")
    found = {}
    for field in table.schema:
        if field.name in (*_RUNS, "timestamp"):
            continue
        if arrow.types.is_floating(field.type):
            found[field.name] = _smallest(table[field.name], "PLAIN", "BYTE_STREAM_SPLIT")
        elif arrow.types.is_integer(field.type) or arrow.types.is_timestamp(field.type):
            found[field.name] = _smallest(table[field.name], "PLAIN", "DELTA_BINARY_PACKED")
    return found


def _smallest(column: Any, *encodings: str) -> str:
    """The encoding that makes the column smallest, tried on stretches of it."""
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    stretch = TRIAL_ROWS
    starts = range(0, len(column), max(stretch, len(column) // 4))
    chunks = [chunk for at in starts for chunk in column.slice(at, stretch).chunks]
    part = arrow.table({"c": arrow.chunked_array(chunks).combine_chunks()})
    sizes = {}
    for encoding in encodings:
        sink = io.BytesIO()
        parquet.write_table(
            part,
            sink,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"c": encoding},
            max_rows_per_page=ROWS_MAX,
        )
        sizes[encoding] = sink.tell()
    return min(sizes, key=lambda encoding: sizes[encoding])


def _strings(table: Any) -> Any:
    """Strings as every reader knows them; polars hands out views."""
    arrow = library("pyarrow")
    types = [
        (
            f.name,
            arrow.string() if arrow.types.is_string_view(f.type) or arrow.types.is_large_string(f.type) else f.type,
        )
        for f in table.schema
    ]
    return table.cast(arrow.schema(types))
