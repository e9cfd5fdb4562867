"""The database's kernels as Polars expressions, for frames from anywhere: ``pl.col("value").metricsdb``.

Importing ``metricsdb`` registers them. All work in eager and lazy frames, in ``group_by(...).agg`` and, where they
give a row for a row, with ``.over(...)``. Timestamps are a Datetime column of any unit or Int64 milliseconds, and
ascend within a group. A null value is no sample. Wrong options raise ``polars.exceptions.ComputeError`` when the
frame is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from polars.plugins import register_plugin_function

from metricsdb import _native
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.times import DurationLike, duration_ms

__all__ = ["Decimation", "Expressions"]

Decimation = Literal["m4", "minmax", "lttb", "minmax_lttb"]

_PLUGIN = Path(_native.__file__)
_RECORD = pl.Struct(
    {
        "time": TIME,
        "count": pl.UInt64,
        **dict.fromkeys(("sum", "min", "max", "first", "last"), pl.Float64),
        "first_time": TIME,
        "last_time": TIME,
        "stddev": pl.Float64,
        "increase": pl.Float64,
    }
)


@pl.api.register_expr_namespace("metricsdb")
class Expressions:
    """What ``pl.Expr.metricsdb`` offers; the expression is the column of values, unless said otherwise."""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def rollup(self, timestamp: str | pl.Expr, every: DurationLike, offset: DurationLike = "0s") -> pl.Expr:
        """One struct a bucket that has samples: ``time``, ``count``, ``sum``, ``min``, ``max``, ``first``, ``last``,
        ``first_time``, ``last_time``, ``stddev`` (of the population) and ``increase`` (last minus first, and what a
        counter had reached before each reset).

        A bucket is ``(time - every, time]``, as a range of PromQL that ends at ``time``. Staleness markers are left
        out; another NaN is a value, as in PromQL. Its struct's fields: ``.struct.unnest()``.
        """
        length = duration_ms(every, "every")
        if length <= 0:
            raise ConfigError(f"every={every!r}: a bucket must be longer than zero")
        arguments = [_ms(timestamp), _whole(length), _whole(duration_ms(offset, "offset"))]
        return self._call("rollup", arguments, changes_length=True).cast(_RECORD)

    def deviations(self, window: int = 61) -> pl.Expr:
        """Each value's distance to the median of the ``window`` rows around it, in standard deviations of the noise
        there (Hampel). NaN for a null or NaN."""
        return self._call("deviations", [_whole(window)])

    def anomalies(self, window: int = 61, threshold: float = 5.0) -> pl.Expr:
        """True where ``deviations(window)`` is above ``threshold``."""
        return self._call("anomalies", [_whole(window), pl.lit(float(threshold))])

    def keep(
        self, points: int, *, window: int = 61, threshold: float = 5.0, neighbours: int = 0, fill: bool = True
    ) -> pl.Expr:
        """True for at most ``points`` rows that somebody will ask about: the peaks of anomalies, ``neighbours`` rows on
        either side of them, and (``fill``) what is the most deviant of most stretches of time.

        Without ``fill`` anomalies alone are kept; with it they get the first half of ``points`` at most.
        """
        numbers = [_whole(window), pl.lit(float(threshold)), _whole(neighbours), _whole(points), pl.lit(fill)]
        return self._call("keep", numbers)

    def m4(self, timestamp: str | pl.Expr, points: int) -> pl.Expr:
        """True for the first, last, smallest and largest of each of ``points // 4`` columns of equal time: a line
        through them sets the same pixels as one through all rows in a plot as many pixels wide."""
        return self._thin("m4", timestamp, points)

    def minmax(self, timestamp: str | pl.Expr, points: int) -> pl.Expr:
        """True for the smallest and the largest of each of ``points // 2`` columns of equal time."""
        return self._thin("minmax", timestamp, points)

    def lttb(self, timestamp: str | pl.Expr, points: int) -> pl.Expr:
        """True for the rows that largest triangle three buckets chooses."""
        return self._thin("lttb", timestamp, points)

    def minmax_lttb(self, timestamp: str | pl.Expr, points: int) -> pl.Expr:
        """True for the rows that LTTB chooses among those that MinMax leaves of four times as many."""
        return self._thin("minmax_lttb", timestamp, points)

    def rate(self, timestamp: str | pl.Expr, range: DurationLike) -> pl.Expr:
        """PromQL's ``rate(x[range])`` at each row's own time: per second, resets taken out, extrapolated to the range's
        ends. Null where the range holds fewer than two samples. Costs the samples of a range a row."""
        length = duration_ms(range, "range")
        if length <= 0:
            raise ConfigError(f"range={range!r} must be longer than zero")
        return self._call("rate", [_ms(timestamp), _whole(length)])

    def sketch(self, bytes_max: int | None = None) -> pl.Expr:
        """One Binary: a sketch whose quantiles are within 1 % of the value. With ``bytes_max`` it is made to fit by
        joining buckets, and the error doubles with each time. NaN and null are not counted."""
        return self._call("sketch", [_whole(bytes_max or 0)], returns_scalar=True)

    def merge_sketches(self, bytes_max: int | None = None) -> pl.Expr:
        """One sketch of a column of them, in any order the same."""
        return self._sketches("merge_sketches", [_whole(bytes_max or 0)], scalar=True)

    def sketch_quantile(self, q: float) -> pl.Expr:
        """The quantile of each sketch of a column of them, as ``quantile_over_time``. Null where none was counted."""
        return self._sketches("sketch_quantile", [pl.lit(float(q))], scalar=False)

    def quantile_sketch(self, q: float) -> pl.Expr:
        """The quantile of the values by a sketch of them: within 1 %, in one pass, without sorting."""
        return Expressions(self.sketch()).sketch_quantile(q)

    def _thin(self, method: Decimation, timestamp: str | pl.Expr, points: int) -> pl.Expr:
        return self._call("thin", [_ms(timestamp), pl.lit(method), _whole(points)])

    def _call(
        self, name: str, arguments: list[pl.Expr], *, changes_length: bool = False, returns_scalar: bool = False
    ) -> pl.Expr:
        return register_plugin_function(
            plugin_path=_PLUGIN,
            function_name=name,
            args=[self._expr.cast(pl.Float64), *arguments],
            changes_length=changes_length,
            returns_scalar=returns_scalar,
        )

    def _sketches(self, name: str, arguments: list[pl.Expr], *, scalar: bool) -> pl.Expr:
        return register_plugin_function(
            plugin_path=_PLUGIN, function_name=name, args=[self._expr, *arguments], returns_scalar=scalar,
            is_elementwise=not scalar,
        )  # fmt: skip


def _ms(timestamp: str | pl.Expr) -> pl.Expr:
    column = pl.col(timestamp) if isinstance(timestamp, str) else timestamp
    return column.cast(TIME).cast(pl.Int64)


def _whole(number: int) -> pl.Expr:
    return pl.lit(number, pl.Int64)
