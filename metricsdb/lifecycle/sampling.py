"""Which of old series, or of their hours, stay to stand for the others: the same in every run and every process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import polars as pl

from metricsdb._native import Sampling
from metricsdb.errors import ConfigError

__all__ = ["COLUMNS", "Keep", "SampleRule", "choose", "kept_hours", "share"]

HOUR_MS = 3_600_000
# What a table of series says of those that were drawn.
COLUMNS = {"sampled_by": pl.String, "sampled_group": pl.String, "sampled_of": pl.UInt32, "sampled_kept": pl.UInt32}
# Labels that tell apart what belongs to one thing that is measured: of it all stays, or nothing.
_PARTS = ("le", "quantile")
_LINE = re.compile(r"(top\s+)?1\s+in\s+(\d+)(?:\s+(hours)|\s+by\s+([^\s,]+(?:\s*,\s*[^\s,]+)*))?$")


@dataclass(frozen=True, slots=True)
class Keep:
    """Of ``n`` one stays: of the series of a metric with the same ``by`` labels, drawn at random or those that most
    installed queries read (``top``); or of hours."""

    n: int
    kind: Literal["series", "top", "hours"] = "series"
    by: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Keep:
        """``1 in 10``, ``1 in 10 by job``, ``top 1 in 10 by job, env``, ``1 in 4 hours``. Raises ``ConfigError``."""
        found = _LINE.match(text.strip())
        if not found or int(found[2]) < 2 or (found[1] and found[3]):
            raise ConfigError(
                f"sample {text.strip()!r} is not known; write '1 in 10', '1 in 10 by job', 'top 1 in 10 by job' or "
                "'1 in 4 hours', of two or more"
            )
        by = tuple(name.strip() for name in found[4].split(",")) if found[4] else ()
        return cls(int(found[2]), "top" if found[1] else "hours" if found[3] else "series", by)

    def __str__(self) -> str:
        by = f" by {', '.join(self.by)}" if self.by else ""
        return f"{'top ' if self.kind == 'top' else ''}1 in {self.n}{' hours' if self.kind == 'hours' else by}"


@dataclass(frozen=True, slots=True)
class SampleRule:
    """What stays of the series of a selector that no rule before it takes, before ``before_ms`` (None: all)."""

    selector: str
    before_ms: int | None
    keep: Keep | None


def kept_hours(keep: Keep, time: pl.Expr) -> pl.Expr:
    """Whether times (ms) lie in hours that stay: one of ``n``, another hour of the day each day."""
    hour, day = time.floordiv(HOUR_MS), time.floordiv(24 * HOUR_MS)
    return (hour + day) % keep.n == 0


def choose(
    table: pl.DataFrame, keep: Keep, known: pl.DataFrame | None = None, used: pl.Series | None = None
) -> pl.DataFrame:
    """The series of a table (``series`` and labels) that stay, with ``COLUMNS``.

    Of each metric and ``by`` labels the least by a hash of the other labels stay, and one at least: those of one target
    stay for all metrics that have the same labels, and of a day those that stayed the day before, as long as they are
    there. ``known``: what was chosen of the day before, whose groups stay as they are. ``used``: how many queries read
    each series of the table, for ``top``.
    """
    labels = table.drop("series")
    made = table.select(
        "series",
        _joined(labels, ("__name__", *keep.by)).alias("group"),
        _joined(labels, _PARTS).alias("part"),
        Sampling.units(labels)["unit"] if labels.width else pl.lit(0, pl.UInt64).alias("unit"),
        pl.lit(0, pl.UInt32).alias("used") if used is None else used.alias("used"),
    )
    if keep.kind == "hours":
        return _columns(made, keep, pl.lit(None), pl.lit(None))
    told = pl.concat_str("group", "part", separator="\x1f")
    again = made.clear().select("series", *[pl.lit(None, dtype).alias(name) for name, dtype in COLUMNS.items()])
    if known is not None and known.height:
        again = made.select("series").join(known.select("series", *COLUMNS), on="series", how="inner")
        made = made.filter(~told.is_in(known["sampled_group"].implode()))
    units = made.group_by("group", "unit").agg(pl.col("used").max())
    units = units.sort("group", "used", "unit", descending=[False, True, False])
    units = units.with_columns(
        pl.int_range(pl.len()).over("group").alias("rank"),
        ((pl.len().over("group") + (keep.n - 1)) // keep.n).alias("most"),
    )
    chosen = made.join(
        units.filter(pl.col("rank") < pl.col("most")).select("group", "unit"), on=["group", "unit"], how="semi"
    )
    sizes = made.group_by("group", "part").agg(pl.len().alias("of"))
    chosen = chosen.join(sizes, on=["group", "part"]).with_columns(pl.len().over("group", "part").alias("kept"))
    random = keep.kind == "series"
    fresh = _columns(chosen, keep, pl.col("of") if random else pl.lit(None), pl.col("kept") if random else pl.lit(None))
    return pl.concat([again, fresh])


def _columns(made: pl.DataFrame, keep: Keep, of: pl.Expr, kept: pl.Expr) -> pl.DataFrame:
    return made.select(
        "series",
        pl.lit(str(keep)).alias("sampled_by"),
        pl.concat_str("group", "part", separator="\x1f").alias("sampled_group"),
        of.cast(pl.UInt32).alias("sampled_of"),
        kept.cast(pl.UInt32).alias("sampled_kept"),
    )


def _joined(labels: pl.DataFrame, names: tuple[str, ...]) -> pl.Expr:
    """The values of some labels as one text; a series that lacks one has nothing there."""
    values = [pl.col(name).fill_null("") if name in labels.columns else pl.lit("") for name in names]
    return pl.concat_str(values, separator="\x1e")


def share(labels: pl.DataFrame, keep: Keep) -> float:
    """Which share of series (a String column a label) stays; of hours, which share of these."""
    if keep.kind == "hours" or labels.is_empty():
        return 1 / keep.n
    table = labels.select(pl.int_range(pl.len(), dtype=pl.UInt64).alias("series"), *labels.columns)
    return choose(table, keep).height / labels.height
