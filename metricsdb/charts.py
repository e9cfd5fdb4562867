"""Answers as pictures, by Altair where it is installed: every line as true as the pixels allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.times import DAY_MS

if TYPE_CHECKING:
    import altair as alt

__all__ = ["plot", "preview"]

Unit = Literal["number", "bytes", "seconds", "ratio"]

# A line is broken where samples are further apart than this many of their usual distances, and than a pixel.
_GAP = 2.5
_TICKS = 5
_SI = "abs(datum.value) >= 1000 ? format(datum.value, '~s') : format(datum.value, '~g')"
_LABELS: dict[str, str] = {"number": _SI, "ratio": "format(datum.value * 100, '~g') + ' %'"}
_SIZES = {
    "bytes": [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")],
    "seconds": [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
}


def plot(
    frame: pl.DataFrame,
    *,
    title: str | None = None,
    unit: Unit = "number",
    width: int = 800,
    height: int = 300,
    series_max: int = 50,
) -> alt.Chart:
    """A chart of a frame that ``query``, ``query_range`` or ``select`` returned, long or wide.

    Lines over time (UTC); bars where all samples are of one time. Of each series no more than the first, smallest,
    largest and last sample a pixel column are drawn, which gives the same picture as all of them. A line is broken
    where samples are missing. The legend names series by the fewest labels that tell them apart. ``unit`` says what
    values are, for the axis: ``number``, ``bytes`` (powers of 1024), ``seconds``, ``ratio`` (as per cent).

    Returns an ``altair.Chart``, to be changed, shown or saved. Raises ``ConfigError`` without Altair, for a frame that
    is no such answer, for no samples, and for more series than ``series_max``.
    """
    library = _altair()
    if unit not in (*_LABELS, *_SIZES):
        raise ConfigError(f"unit {unit!r} is not known; use number, bytes, seconds or ratio")
    if width < 1 or height < 1:
        raise ConfigError(f"a picture of {width} by {height} pixels has no room; make both 1 or more")
    samples, legend = _samples(frame, series_max)
    if samples["timestamp"].n_unique() == 1:
        bars: alt.Chart = _titled(_bars(library, samples, legend, unit, width), title)
        return bars
    drawn = pl.concat([thin(samples, width), _gaps(samples, width)]).sort("series", "timestamp")
    alone = samples["series"].n_unique() == 1
    chart = library.Chart(_inline(library, drawn), width=width, height=height).mark_line(strokeWidth=1.5)
    encoded = chart.encode(
        x=library.X(
            "timestamp:T", title=None, scale=library.Scale(type="utc"), axis=library.Axis(format=_time_format(samples))
        ),
        y=library.Y("value:Q", title=None, scale=library.Scale(zero=False), axis=_axis(library, samples, unit)),
        color=library.Undefined if alone else library.Color("series:N", title=legend, sort=None),
        tooltip=[
            library.Tooltip("series:N", title=legend or "series"),
            library.Tooltip("utcyearmonthdatehoursminutesseconds(timestamp):T", title="time (UTC)"),
            "value:Q",
        ],
    )
    lines: alt.Chart = _titled(encoded, title)
    return lines


def thin(samples: pl.DataFrame, columns: int) -> pl.DataFrame:
    """Of ``series``, ``timestamp``, ``value`` the first, smallest, largest and last row of each series a pixel column.

    Lines through those cover the same pixels as lines through all. Sorted by series and time.
    """
    first, span = _extent(samples)
    at = pl.col("timestamp").cast(pl.Int64) - first
    column = (at * columns // (span + 1)).alias("column")
    rows = samples.with_columns(column).with_row_index("row")
    kept = rows.group_by("series", "column").agg(
        pl.col("row").sort_by("timestamp").first().alias("first"),
        pl.col("row").sort_by("timestamp").last().alias("last"),
        pl.col("row").sort_by("value").first().alias("least"),
        pl.col("row").sort_by("value").last().alias("most"),
    )
    chosen = pl.concat([kept[name] for name in ("first", "last", "least", "most")]).unique()
    return samples[chosen.sort()].sort("series", "timestamp", maintain_order=True)


def distinguishing(series: pl.DataFrame) -> list[str]:
    """The fewest labels that tell the rows of a frame of labels apart, as far as a greedy choice finds them."""
    chosen: list[str] = []
    while series.height > (series.n_unique(chosen) if chosen else 1):
        told = {c: series.n_unique([*chosen, c]) for c in series.columns if c not in chosen}
        chosen.append(max(told, key=lambda c: told[c]))
    return chosen


def _altair() -> Any:
    try:
        import altair
    except ImportError:
        raise ConfigError("plot needs Altair, which is not installed: pip install altair") from None
    return altair


def _samples(frame: pl.DataFrame, series_max: int) -> tuple[pl.DataFrame, str | None]:
    """``series`` (text for the legend), ``timestamp``, ``value``, without nulls; and the legend's title."""
    if "timestamp" not in frame.columns:
        raise ConfigError(f"the frame has no column 'timestamp', only {frame.columns}; pass what query_range returned")
    if "value" not in frame.columns:
        frame = frame.unpivot(index="timestamp", variable_name="wide")
    if not frame["value"].dtype.is_numeric() and not frame.is_empty():
        raise ConfigError(f"values are {frame['value'].dtype}; only numbers can be drawn")
    frame = frame.with_columns(pl.col("value").cast(pl.Float64), pl.col("timestamp").cast(TIME))
    frame = frame.filter(pl.col("value").is_finite())
    if frame.is_empty():
        raise ConfigError("the frame holds no number to draw; widen the time range or the selector")
    labels = [c for c in frame.columns if c not in ("timestamp", "value", "series", "histogram")]
    if not labels:
        return frame.select(pl.lit("value").alias("series"), "timestamp", "value"), None
    series = frame.select(labels).unique(maintain_order=True)
    if series.height > series_max:
        raise ConfigError(
            f"{series.height} series are more than series_max = {series_max} lines; choose with topk(10, …), "
            "aggregate with sum by (…), or raise series_max"
        )
    chosen = distinguishing(series) or labels[:1]
    named = pl.concat_str([pl.col(c).fill_null("-") for c in chosen], separator=", ").alias("series")
    title = "series" if chosen == ["wide"] else ", ".join(chosen)
    return frame.select(named, "timestamp", "value"), title


def _extent(samples: pl.DataFrame) -> tuple[int, int]:
    """The first time, and how long after it the last one is, in ms."""
    times = samples["timestamp"].to_numpy().astype("int64")
    return int(times.min()), int(times.max() - times.min())


def _gaps(samples: pl.DataFrame, columns: int) -> pl.DataFrame:
    """A row without a value behind each sample that the next one follows late: there the line breaks."""
    apart = pl.col("timestamp").diff().over("series", order_by="timestamp").cast(pl.Int64)
    visible = max(_extent(samples)[1] // columns, 1)
    late = samples.filter(apart > pl.max_horizontal(apart.median().over("series") * _GAP, visible))
    return late.with_columns(pl.col("timestamp") - pl.duration(milliseconds=1), pl.lit(None, pl.Float64).alias("value"))


def _bars(alt: Any, samples: pl.DataFrame, legend: str | None, unit: Unit, width: int) -> Any:
    chart = alt.Chart(_inline(alt, samples), width=width).mark_bar()
    return chart.encode(
        x=alt.X("value:Q", title=None, axis=_axis(alt, samples, unit)),
        y=alt.Y("series:N", title=legend, sort=None),
        tooltip=["series:N", "value:Q"],
    )


def preview(sizes: pl.DataFrame, errors: pl.DataFrame, title: str) -> alt.VConcatChart:
    """What a policy saves and costs: bytes of samples and of each level; below them the worst and the p99 error of each
    function, each kind of window in a column of its own. Raises ``ConfigError`` without Altair."""
    library = _altair()
    size = library.Chart(_rows(library, sizes.with_columns((pl.col("share_of_raw") * 100).alias("percent"))))
    bytes_of = size.mark_bar().encode(
        x=library.X("bytes:Q", title="bytes", axis=library.Axis(format="~s")),
        y=library.Y("level:N", title=None, sort=None),
        tooltip=["level:N", "rows:Q", "bytes:Q", library.Tooltip("percent:Q", title="% of samples", format=".3~f")],
    )
    long = errors.unpivot(
        on=["p99_error", "worst_error"],
        index=["level", "function", "windows"],
        variable_name="which",
        value_name="error",
    ).with_columns((pl.col("error") * 100).alias("error"), pl.col("which").str.strip_suffix("_error"))
    # An error of nothing has no place on a logarithmic axis: the smallest that is drawn stands for it.
    drawn = long.with_columns(pl.max_horizontal("error", pl.lit(1e-6)).alias("drawn"))
    points = (
        library.Chart(_rows(library, drawn))
        .mark_point(filled=True, size=60)
        .encode(
            x=library.X("drawn:Q", title="error, %", scale=library.Scale(type="log", domainMin=1e-6)),
            y=library.Y("function:N", title=None, sort=None),
            color=library.Color("level:N", title="level", sort=None),
            shape=library.Shape("which:N", title="error"),
            column=library.Column("windows:N", title="windows"),
            tooltip=[
                "level:N",
                "function:N",
                "windows:N",
                "which:N",
                library.Tooltip("error:Q", title="error, %", format=".3~g"),
            ],
        )
    )
    both: alt.VConcatChart = library.vconcat(bytes_of.properties(title=title), points.properties(width=300))
    return both


def _rows(alt: Any, frame: pl.DataFrame) -> Any:
    numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    format_ = alt.CsvDataFormat(type="csv", parse=dict.fromkeys(numbers, "number"))
    return alt.InlineData(values=frame.write_csv(), format=format_)


def _titled(chart: Any, title: str | None) -> Any:
    return chart if title is None else chart.properties(title=title)


def _inline(alt: Any, drawn: pl.DataFrame) -> Any:
    """The rows as CSV text inside the chart: Polars writes it, and Altair's limit of 5,000 rows is not for it."""
    text = drawn.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
    parse = {"timestamp": "date", "value": "number", "series": "string"}
    return alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv", parse=parse))


def _time_format(samples: pl.DataFrame) -> str:
    span = _extent(samples)[1]
    if span < DAY_MS // 24:
        return "%H:%M:%S"
    return "%H:%M" if span <= DAY_MS else "%d %b %H:%M"


def _axis(alt: Any, samples: pl.DataFrame, unit: Unit) -> Any:
    if unit in _LABELS:
        return alt.Axis(labelExpr=_LABELS[unit])
    low, high = samples["value"].to_numpy().min(), samples["value"].to_numpy().max()
    largest = max(abs(low), abs(high))
    size, name = next(((s, n) for s, n in _SIZES[unit] if s <= largest), _SIZES[unit][-1])
    # Round in that unit: a power of ten times 1, 2 or 5.
    rough = (max(high - low, largest / 100) or 1.0) / _TICKS / size
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
    first = math.floor(min(low, high) / size / step)
    values = [i * step * size for i in range(first, math.ceil(high / size / step) + 1)]
    return alt.Axis(values=values, labelExpr=f"format(datum.value / {size!r}, '~g') + ' {name}'")
