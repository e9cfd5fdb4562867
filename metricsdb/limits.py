"""Limits on series, and what makes them many. docs/cardinality.md has the promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import polars as pl

from metricsdb import frames
from metricsdb._native import NativeDatabase
from metricsdb.config import GROUPS, Limit
from metricsdb.errors import ConfigError
from metricsdb.times import duration_ms

__all__ = ["CardinalityBy", "SeriesLimits", "cardinality", "counters"]

CardinalityBy = Literal["metric", "label", "value", "source"]


class SeriesLimits:
    """The limits of one database, as ``db.limits``. All of them hold; they are asked in order."""

    def __init__(self, native: Callable[[], NativeDatabase]) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._limits: tuple[Limit, ...] = ()

    def set(self, *limits: Limit) -> None:
        """Adds limits behind all others; one of the same name is replaced in its place.

        Series that are there stay, however many. Raises ``ConfigError`` or ``ParseError`` (selector), naming the limit
        and the remedy; nothing is changed then.
        """
        with self._lock:
            after = {limit.title: limit for limit in self._limits}
            names = [limit.title for limit in limits]
            for limit in limits:
                if names.count(limit.title) > 1:
                    raise ConfigError(f"two limits are called {limit.title!r}; give each its own name")
                if limit.problem is not None:
                    raise ConfigError(f"limit {limit.title!r}: {limit.problem}")
                after[limit.title] = limit
            self._use(tuple(after.values()))

    def remove(self, name: str) -> None:
        """Takes a limit away; what it folded is counted until then, and comes back as series with its next samples."""
        with self._lock:
            rest = tuple(limit for limit in self._limits if limit.title != name)
            if len(rest) == len(self._limits):
                known = ", ".join(repr(limit.title) for limit in self._limits) or "none"
                raise ConfigError(f"limits: none is called {name!r}; there are: {known}")
            self._use(rest)

    def _use(self, limits: tuple[Limit, ...]) -> None:
        if limits or self._limits:
            _install(self._native(), limits)
        self._limits = limits

    def reinstall(self, native: NativeDatabase) -> None:
        """Gives a new native database the limits."""
        with self._lock:
            _install(native, self._limits)

    def list(self) -> pl.DataFrame:
        """The limits in order, and where they stand.

        ``name``, ``selector``, ``by``, ``max_series``, ``max_new``, ``at_limit``, ``label``; live ``series`` that it
        counts, in how many ``groups``, those of the ``largest``; how often a series that was not there was
        ``rejected``, ``dropped`` (sent to the series without its label) or ``folded``.
        """
        with self._lock:
            rows = [
                (n.title, n.selector, n.labels, n.max_series, n.max_new, n.at_limit, n.label, *status[1:])
                for n, status in zip(self._limits, self._native().limit_status(), strict=True)
            ]
        return pl.DataFrame(rows, schema=_LIST, orient="row")

    def churning(self) -> pl.DataFrame:
        """What limits with ``max_new`` hold back now.

        ``name``, ``metric``, the guilty ``labels``, ``since`` (Datetime), ``new_series`` of the window.
        """
        found = pl.DataFrame(self._native().churning(), schema=_CHURNING, orient="row")
        return found.with_columns(pl.col("since").cast(frames.TIME))


def cardinality(native: NativeDatabase, by: CardinalityBy | Sequence[str], limit: int) -> pl.DataFrame:
    """The frame of ``Database.cardinality``."""
    if limit <= 0:
        raise ConfigError(f"limit {limit} must be positive")
    if by == "label":
        return _frame(native.growth_by_label(limit), "label", "values", "series", "ever", "recent")
    total = pl.col("series") / max(native.stats()["series"], 1)
    if by == "metric":
        columns = ("metric", "series", "ever", "recent", "label", "series_without")
        found = _frame(native.growth_by_metric(limit), *columns)
        return found.select("metric", "series", total.alias("share"), *columns[2:])
    if by == "value":
        found = _frame(native.series_by_value(limit), "label", "value", "series")
        return found.with_columns(total.alias("share"))
    if isinstance(by, str) and by not in GROUPS:
        known = ", ".join(get_args(CardinalityBy))
        raise ConfigError(f"by {by!r} is not known; use {known}, or a list of labels")
    labels = GROUPS[by] if isinstance(by, str) else list(by)
    rows = [(*values, series, metrics) for values, series, metrics in native.series_by(labels, limit)]
    found = _frame(rows, *labels, "series", "metrics")
    return found.select(*labels, "series", total.alias("share"), "metrics")


def counters(native: NativeDatabase) -> list[tuple[str, int]]:
    """What ``Database.stats`` says of the limits."""
    names = ("series", "groups", "largest_group", "rejected", "dropped", "folded")
    rows = [
        (f"limit_{name}{{{rule!r}}}", count)
        for rule, *counts in native.limit_status()
        for name, count in zip(names, counts, strict=True)
    ]
    return [*rows, *zip(("folded_series", "overflow_series", "folded_samples"), native.folded(), strict=True)]


_LIST: dict[str, Any] = {
    "name": pl.String,
    "selector": pl.String,
    "by": pl.List(pl.String),
    "max_series": pl.UInt64,
    "max_new": pl.UInt64,
    "at_limit": pl.String,
    "label": pl.String,
    **dict.fromkeys(("series", "groups", "largest", "rejected", "dropped", "folded"), pl.UInt64),
}
_CHURNING: dict[str, Any] = {
    "name": pl.String,
    "metric": pl.String,
    "labels": pl.List(pl.String),
    "since": pl.Int64,
    "new_series": pl.UInt64,
}


def _frame(rows: list[Any], *columns: str) -> pl.DataFrame:
    numbers = {"series", "values", "ever", "recent", "series_without", "metrics"}
    schema = {name: pl.UInt64 if name in numbers else pl.String for name in columns}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _install(native: NativeDatabase, limits: tuple[Limit, ...]) -> None:
    native.set_limits([_rule(limit) for limit in limits])


def _rule(limit: Limit) -> Any:
    at_limit = (limit.at_limit, limit.label)
    if limit.max_series is None:
        churn = (limit.title, limit.selector, limit.max_new or 0, duration_ms(limit.window, "window"))
        return None, churn, at_limit
    folded = limit.max_series if limit.max_folded is None else limit.max_folded
    return (limit.title, limit.selector, limit.labels, limit.max_series, folded), None, at_limit
