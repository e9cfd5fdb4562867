"""What is installed, active and past, as frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from metricsdb.alerts.groups import Group
from metricsdb.frames import TIME

__all__ = ["CHANGES", "active", "change", "changes", "label_text", "listed"]

CHANGES = {
    "timestamp": pl.Int64,
    "alert": pl.String,
    "labels": pl.String,
    "level": pl.String,
    "from": pl.String,
    "to": pl.String,
    "value": pl.Float64,
    "notified": pl.Boolean,
    "flapping": pl.Boolean,
    "muted": pl.String,
}


def label_text(labels: Mapping[str, str]) -> str:
    """Labels as PromQL writes them: `{a="b", c="d"}`."""
    pairs = (f'{name}="{value}"'.replace("\\", "\\\\").replace("\n", "\\n") for name, value in sorted(labels.items()))
    return "{" + ", ".join(pairs) + "}"


def listed(groups: Iterable[Group]) -> pl.DataFrame:
    """See ``Alerts.list``."""
    rows = []
    for group in groups:
        for rule in group.rules:
            states = [active[2] for alert in rule.alerts for active in alert.active()]
            firing = sum(state in ("firing", "clearing") for state in states)
            pending = states.count("pending")
            shown = "firing" if firing else "pending" if pending else "inactive"
            counts = (shown, pending, firing)
            last = (rule.health, rule.error, rule.evaluated_ms, group.missed, rule.text)
            rows.append((group.name, rule.kind, rule.name, *counts, *last))
    schema = dict.fromkeys(("group", "kind", "name", "state"), pl.String)
    numbers = {"pending": pl.Int64, "firing": pl.Int64}
    rest = {"health": pl.String, "error": pl.String, "evaluated": pl.Int64, "missed": pl.Int64, "text": pl.String}
    frame = pl.DataFrame(rows, schema={**schema, **numbers, **rest}, orient="row")
    return frame.with_columns(pl.col("evaluated").cast(TIME))


def active(groups: Iterable[Group], acknowledged: Mapping[str, Any]) -> pl.DataFrame:
    """See ``Alerts.active``."""
    rows = []
    for rule in (rule for group in groups for rule in group.rules):
        for alert in rule.alerts:
            levels = alert.describe()["levels"]
            for labels, level, shown, since, firing, value, flapping, told, hidden in alert.active():
                name, text = levels[level]["name"], label_text(labels)
                by = acknowledged.get(f"{rule.name}{text}", {}).get("by")
                rows.append((rule.name, text, name, shown, since, firing, value, flapping, told, hidden, by))
    texts = dict.fromkeys(("alert", "labels", "level", "state"), pl.String)
    numbers = {"since": pl.Int64, "firing_since": pl.Int64, "value": pl.Float64}
    flags = dict.fromkeys(("flapping", "notified", "hidden"), pl.Boolean)
    frame = pl.DataFrame(rows, schema={**texts, **numbers, **flags, "acknowledged": pl.String}, orient="row")
    return frame.with_columns(pl.col("since", "firing_since").cast(TIME))


def change(line: Any) -> tuple[Any, ...]:
    """A row of ``changes`` from a line of JSON. Raises ``TypeError``, ``ValueError``."""
    row = tuple(line)
    if len(row) != len(CHANGES) or not isinstance(row[0], int):
        raise ValueError("a line of transitions has other parts")
    return row


def changes(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """See ``Alerts.history``."""
    return pl.DataFrame(rows, schema=CHANGES, orient="row").with_columns(pl.col("timestamp").cast(TIME))
