"""What a query will cost, what it did, and what could be better: plans as text and as frames."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from metricsdb._native import AlertRule, NativeDatabase

__all__ = ["ColdCost", "Estimate", "Plan", "estimate", "explain", "statement"]

# Start, end, step (0: an instant query) and lookback, in milliseconds.
Times = tuple[int, int, int, int]
ESTIMATED = ["estimated_series", "estimated_samples", "estimated_bytes", "estimated_values"]
ACTUAL = ["series", "samples", "bytes", "values"]
_COLD = ["parts", "series", "samples", "bytes"]
_STATEMENT = re.compile(r"(?:\s|#[^\n]*\n)*explain\b", re.IGNORECASE)
_STATEMENTS = re.compile(r"(?:\s|#[^\n]*\n)*(?:explain|alert|slo)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ColdCost:
    """What a query would fetch from cold stores, that is not kept from an earlier one.

    ``parts``; ``series``: of all parts together, each once; ``samples`` and ``bytes``: of the row groups that hold
    them, so of neighbours, too.
    """

    parts: int = 0
    series: int = 0
    samples: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds of a query's cost on the data as they are now.

    ``frame``: a row a node, as in ``Plan``, with the estimated columns alone. ``series``: of all selectors.
    ``samples``: loaded from storage. ``bytes``: encoded, of the chunks looked into. ``values``: held in memory at the
    worst moment, 8 bytes each. ``samples_min``: a lower bound; a query for which it is above ``max_samples`` is
    refused before it starts. All of these are of memory alone. ``cold_parts``, ``cold_series``, ``cold_samples``,
    ``cold_bytes``: what would be fetched from cold stores (``ColdCost``), and kept for the next query.
    """

    frame: pl.DataFrame = field(repr=False)
    series: int
    samples: int
    samples_min: int
    bytes: int
    values: int
    cold_parts: int = 0
    cold_series: int = 0
    cold_samples: int = 0
    cold_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a query.

    ``frame``: a row a node: ``id``, ``parent`` (null: the root), ``depth``, ``node``, ``detail``, ``position``,
    ``estimated_series``, ``estimated_samples``, ``estimated_bytes``, ``estimated_values`` (upper bounds); with
    ``analyze`` also ``series``, ``samples`` (loaded), ``bytes`` (encoded, of the chunks looked into), ``values``
    (made), ``milliseconds``, ``codec``, else null. ``totals``: the same figures of the whole query, and
    of cold stores what would be fetched, ``estimated_cold_parts``, ``…_series``, ``…_samples`` and ``…_bytes``; with
    ``analyze`` instead ``cold_bytes``: what was read for it. ``suggestions``: as ``Database.suggest`` gives them.
    ``level``: the rollups that were asked for, as ``"10m"``.
    """

    query: str
    frame: pl.DataFrame
    totals: dict[str, int]
    suggestions: pl.DataFrame
    level: str | None = None

    @property
    def analyzed(self) -> bool:
        return "nanoseconds" in self.totals

    @property
    def text(self) -> str:
        """A line a node, indented; then totals and suggestions."""
        table = [["", "at most", "counted", "codec"]] if self.analyzed else [["", "at most"]]
        table += [self._cells(row) for row in self.frame.iter_rows(named=True)]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        chosen = [f"From records of {self.level} where a series has some."] if self.level else []
        return "\n".join([*lines, "", *chosen, self._summary(), *self._advice()])

    def _cells(self, row: dict[str, object]) -> list[str]:
        cells = ["  " * int(str(row["depth"])) + str(row["detail"]), _figures([row[name] for name in ESTIMATED])]
        if self.analyzed:
            counted = [_figures([row[name] for name in ACTUAL]), f"{row['milliseconds']:.3f} ms"]
            cells += [", ".join(c for c in counted if c), str(row["codec"])]
        return cells

    def _summary(self) -> str:
        totals = self.totals
        text = f"At most {totals['estimated_samples']:,} samples loaded and {totals['estimated_values']:,} values held"
        if not self.analyzed:
            return f"{text}.{self._cold()}"
        took = f"{totals['nanoseconds'] / 1e6:.3f} ms"
        cold = f" {totals['cold_bytes']:,} bytes read from cold storage." if totals.get("cold_bytes") else ""
        return f"{text}; {totals['samples']:,} loaded, {totals['series']:,} series answered, {took}.{cold}"

    def _cold(self) -> str:
        parts, series, samples, size = (self.totals.get(f"estimated_cold_{name}", 0) for name in _COLD)
        if not parts:
            return ""
        return f" From cold storage {size:,} bytes of {parts:,} parts: {series:,} series, at most {samples:,} samples."

    def _advice(self) -> list[str]:
        lines = []
        for row in self.suggestions.iter_rows(named=True):
            lines.append(f"{row['position']} {row['check']}: {row['message']}")
            if row["rewrite"] is not None:
                lines.append(f"    {row['rewrite']}{_verdict(row)}")
        return ["", "Suggestions", *lines] if lines else []

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


def _figures(figures: list[object]) -> str:
    named = zip(("series", "samples", "bytes", "values"), figures, strict=True)
    return ", ".join(f"{_short(int(str(n)))} {name}" for name, n in named if n)


def _short(number: int) -> str:
    """Exact up to five digits, then with a unit of thousands; unbounded is said so."""
    if number >= 2**63:
        return "unbounded"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 100_000 and number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,}"


def _verdict(row: dict[str, object]) -> str:
    said = []
    if row["meaning"] == "different":
        said.append("means something else")
    elif row["same_answer"] is not None:
        said.append("same answer" if row["same_answer"] else "another answer on these data")
    saving = row["measured_saving"] if row["measured_saving"] is not None else row["predicted_saving"]
    if isinstance(saving, float) and saving >= 0.01:
        said.append(f"saves {saving:.0%}")
    return f"   ({', '.join(said)})" if said else ""


def estimate(native: NativeDatabase, expr: str, times: Times, cold: ColdCost) -> Estimate:
    """See ``Database.estimate``."""
    frame, totals = native.explain(expr, *times, False)
    return Estimate(
        frame.select("id", "parent", "depth", "node", "detail", "position", *ESTIMATED),
        totals["estimated_series"],
        totals["estimated_samples"],
        totals["estimated_samples_min"],
        totals["estimated_bytes"],
        totals["estimated_values"],
        *(getattr(cold, name) for name in _COLD),
    )


def explain(
    native: NativeDatabase, expr: str, times: Times, analyze: bool, rules: dict[str, str], cold: ColdCost | int = 0
) -> Plan:
    """See ``Database.explain``. ``cold``: what would be fetched, or the bytes that were."""
    found = native.statement(expr) if _STATEMENTS.match(expr) else None
    if found is not None and found[2]:
        return explain_alert(native, found[1], times, analyze or found[0], rules)
    if found is not None:
        analyze, expr = analyze or found[0], found[1]
    frame, totals = native.explain(expr, *times, analyze)
    if isinstance(cold, ColdCost):
        totals |= {f"estimated_cold_{name}": getattr(cold, name) for name in _COLD}
    else:
        totals["cold_bytes"] = cold
    return Plan(expr, frame, totals, native.suggest(expr, *times, list(rules.items()), analyze))


def explain_alert(native: NativeDatabase, text: str, times: Times, analyze: bool, rules: dict[str, str]) -> Plan:
    """The plan of an `ALERT` or `SLO`: a node an alert, a node a level that says how fire and clear follow, and beneath
    the alert the plan of each query, which is evaluated once whatever number of levels compare it."""
    alerts = native.slo_alerts(text) if text.startswith("SLO") else [AlertRule(text)]
    frames: list[pl.DataFrame] = []
    advice: list[pl.DataFrame] = []
    totals: dict[str, int] = {}
    count = 0
    for alert in alerts:
        root = count
        lines: list[tuple[str, str, int | None, int]] = [("alert", f"ALERT {alert.name}", None, 0)]
        lines += [("level", _level(level), root, 1) for level in alert.describe()["levels"]]
        schema = {"node": pl.String, "detail": pl.String, "parent": pl.UInt32, "depth": pl.UInt32}
        own = pl.DataFrame(lines, schema=schema, orient="row")
        frames.append(own.select(pl.int_range(root, root + pl.len(), dtype=pl.UInt32).alias("id"), *schema))
        count += own.height
        for query in alert.queries:
            frame, figures = native.explain(query, *times, analyze)
            parent = (pl.col("parent") + count).fill_null(root).cast(pl.UInt32)
            moved = (pl.col("id") + count).cast(pl.UInt32)
            frames.append(frame.with_columns(moved, parent, pl.col("depth") + 1))
            advice.append(native.suggest(query, *times, list(rules.items()), analyze))
            count += frame.height
            totals = {name: totals.get(name, 0) + figure for name, figure in figures.items()}
    whole = pl.concat(frames, how="diagonal")
    zeros = [pl.col(name).fill_null(0) for name in ESTIMATED]
    if analyze:
        zeros += [pl.col(name).fill_null(0) for name in (*ACTUAL, "milliseconds")] + [pl.col("codec").fill_null("")]
    whole = whole.with_columns(*zeros, pl.col("position").fill_null("1:1"))
    return Plan(text, whole.select(frames[-1].columns), totals, pl.concat(advice))


def _level(level: dict[str, Any]) -> str:
    """How a level fires and clears, in a line."""
    name = f"level {level['name']}: " if level["name"] else ""
    clear = level["clear_when"] or (None if level["clear_at"] is None else f"at {level['clear_at']:g}")
    clears = f"clears when {clear}" if level["clear_when"] else f"clears {clear}" if clear else "clears when that ends"
    return f"{name}fires when {level['expr']}{_damp(level['for'])}; {clears}{_damp(level['clear_for'])}"


def _damp(damp: tuple[int, ...]) -> str:
    if not damp:
        return ""
    return f" for {damp[0] / 1000:g} s" if len(damp) == 1 else f" at {damp[0]} of {damp[1]} evaluations"


def statement(native: NativeDatabase, text: str) -> tuple[bool, str, bool] | None:
    """Of ``EXPLAIN [ANALYZE] …``: whether to analyze, the text, and whether it is an alert; None for a plain query."""
    return native.statement(text) if _STATEMENT.match(text) else None
