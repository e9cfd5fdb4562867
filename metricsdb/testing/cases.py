"""Unit-test files of rules: what stands in them, the samples that come in, and what is expected of alerts and samples.

The keys are promtool's; ``route``, ``transition_test`` and ``notification_test`` are ours (`timelines`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from metricsdb.alerts.templates import expand
from metricsdb.alerts.templates.values import go_float, quote
from metricsdb.database import Database
from metricsdb.errors import ConfigError, ExecutionError, MetricsDBError
from metricsdb.testing.notation import parse_labels, parse_series
from metricsdb.times import duration_ms, duration_text

__all__ = [
    "AlertTest",
    "Arrivals",
    "ExprTest",
    "File",
    "FileResult",
    "Labels",
    "Notification",
    "NotificationTest",
    "Test",
    "ToldAlert",
    "Transition",
    "TransitionTest",
    "Vector",
    "compared_alerts",
    "compared_samples",
    "length",
    "query",
    "texts",
]

Labels = dict[str, str]
Vector = list[tuple[Labels, float]]
_Told = tuple[list[tuple[str, str]], list[tuple[str, str]]]
_STRICT: dict[str, Any] = {"frozen": True, "forbid_unknown_fields": True}


class Series(msgspec.Struct, **_STRICT):
    series: str
    values: Any


class Sample(msgspec.Struct, **_STRICT):
    labels: str = ""
    value: Any = 0
    histogram: str = ""


class ExprTest(msgspec.Struct, **_STRICT):
    expr: Any
    eval_time: Any = 0
    exp_samples: list[Sample] | None = None


class Expected(msgspec.Struct, **_STRICT):
    exp_labels: dict[str, Any] | None = None
    exp_annotations: dict[str, Any] | None = None


class AlertTest(msgspec.Struct, **_STRICT):
    alertname: str = ""
    eval_time: Any = 0
    exp_alerts: list[Expected] | None = None


class Transition(msgspec.Struct, rename={"before": "from", "after": "to"}, **_STRICT):
    """One row of ``db.alerts.history()``; what is left out may be anything."""

    at: Any
    after: str
    before: str | UnsetType = UNSET
    labels: dict[str, Any] | UnsetType = UNSET
    level: str | UnsetType | None = UNSET
    notified: bool | UnsetType = UNSET
    flapping: bool | UnsetType = UNSET
    muted: str | UnsetType | None = UNSET


class TransitionTest(msgspec.Struct, **_STRICT):
    """All transitions of an alert until ``eval_time``."""

    alertname: str
    eval_time: Any
    exp_transitions: list[Transition] | None = None


class ToldAlert(Expected, **_STRICT):
    """``status``: where it is not that of the whole notification."""

    status: str | None = None


class Notification(msgspec.Struct, **_STRICT):
    at: Any
    status: str = "firing"
    exp_alerts: list[ToldAlert] | None = None


class NotificationTest(msgspec.Struct, **_STRICT):
    """All that a receiver is told until ``eval_time``."""

    receiver: str
    eval_time: Any
    exp_notifications: list[Notification] | None = None


class Test(msgspec.Struct, **_STRICT):
    interval: Any = None
    input_series: list[Series] | None = None
    alert_rule_test: list[AlertTest] | None = None
    promql_expr_test: list[ExprTest] | None = None
    transition_test: list[TransitionTest] | None = None
    notification_test: list[NotificationTest] | None = None
    external_labels: dict[str, Any] | None = None
    external_url: str = ""
    name: str = ""

    @property
    def title(self) -> str:
        """What promtool writes before a failure of it."""
        return f"    name: {self.name},\n" if self.name else ""

    @property
    def last_ms(self) -> int:
        """The latest time that anything is expected at."""
        tests = (self.alert_rule_test, self.promql_expr_test, self.transition_test, self.notification_test)
        return max([0, *(length(one.eval_time) for group in tests for one in group or ())])

    def unnamed(self) -> str | None:
        """The error of an alert test that names no alert."""
        for alert in sorted(self.alert_rule_test or (), key=lambda alert: length(alert.eval_time)):
            if not alert.alertname:
                of = f" (in TestGroup {self.name})" if self.name else ""
                missing = "an item under alert_rule_test misses required attribute alertname"
                return f"    {missing} at eval_time {duration_text(length(alert.eval_time))}{of}"
        return None


class File(msgspec.Struct, **_STRICT):
    rule_files: list[str] | None = None
    evaluation_interval: Any = None
    group_eval_order: list[str] | None = None
    fuzzy_compare: bool = False
    route: str | None = None
    """Ours: the Alertmanager configuration, beside the file, whose receivers are told."""
    tests: list[Test] | None = None


@dataclass(slots=True)
class FileResult:
    """The verdict on one file. ``errors``: what failed, as promtool words it."""

    path: Path
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.errors

    def __str__(self) -> str:
        lines = [f"Unit Testing:  {self.path}", *(f"  WARNING: {warning}" for warning in self.warnings)]
        lines += ["  SUCCESS"] if self.ok else ["  FAILED:", *(error + "\n" for error in self.errors)]
        return "\n".join(lines) + "\n"


def length(given: Any) -> int:
    """A duration of the file in milliseconds; 0 where there is none. Raises ``ConfigError``."""
    return 0 if given is None else duration_ms(str(given), "eval_time or interval")


def texts(given: dict[str, Any] | None) -> Labels:
    """Labels or annotations, whatever YAML took their values for."""
    return {str(name): str(text) for name, text in (given or {}).items()}


class Arrivals:
    """The input series, written as time comes to them: a rule that looks ahead finds nothing there."""

    def __init__(self, db: Database, test: Test, evaluation_ms: int) -> None:
        self.db = db
        step_ms = length(test.interval) or evaluation_ms
        parsed = [parse_series(f"{one.series} {one.values}") for one in test.input_series or ()]
        refs, times, values = [], [], []
        known = db.register([one.labels for one in parsed]) if parsed else np.empty(0, np.uint64)
        for ref, one in zip(known, parsed, strict=True):
            at, value = one.samples(step_ms)
            refs.append(np.full(len(at), ref, np.uint64))
            times.append(at)
            values.append(value)
        self.times = np.concatenate([np.empty(0, np.int64), *times])
        order = np.argsort(self.times, kind="stable")
        self.times = self.times[order]
        self.refs = np.concatenate([np.empty(0, np.uint64), *refs])[order]
        self.values = np.concatenate([np.empty(0, np.float64), *values])[order]
        self.done = 0

    def until(self, at_ms: int) -> None:
        end = int(np.searchsorted(self.times, at_ms, side="right"))
        if end > self.done:
            part = slice(self.done, end)
            self.db.append_batch(self.refs[part], self.times[part].view("datetime64[ms]"), self.values[part])
        self.done = end


def query(db: Database, expr: str, at_ms: int) -> Vector:
    """An instant query, as rules and templates ask it. Raises ``ExecutionError`` for an answer that is no vector."""
    frame = db.query(expr, at_ms / 1000, priority="alert")
    names = [name for name in frame.columns if name not in ("timestamp", "value", "histogram")]
    if frame["value"].dtype.is_numeric() and (frame["timestamp"].dt.timestamp("ms") == at_ms).all():
        return [
            ({name: row[name] for name in names if row[name] is not None}, row["value"])
            for row in frame.iter_rows(named=True)
        ]
    raise ExecutionError("rule result is not a vector or scalar")


# --- expectations, in promtool's words --------------------------------------------------------------


def compared_alerts(test: AlertTest, found: list[tuple[Labels, Labels]], title: str) -> list[str]:
    """What differs of alerts that fire, given as labels and annotations."""
    got = sorted(_told(*one) for one in found)
    expected = []
    for alert in test.exp_alerts or ():
        labels, annotations = texts(alert.exp_labels), texts(alert.exp_annotations)
        shown = {k: expand(v, labels, 0.0) if "{{" in v else v for k, v in annotations.items()}
        expected.append(_told(labels | {"alertname": test.alertname}, shown))
    if got == sorted(expected):
        return []
    where = f"alertname: {test.alertname}, time: {duration_text(length(test.eval_time))}"
    told = f"        exp:{_alert_text(sorted(expected))}, \n        got:{_alert_text(got)}"
    return [f"{title}    {where}, \n{told}"]


def compared_samples(db: Database, test: ExprTest, title: str, fuzzy: bool) -> list[str]:
    """What differs of a query's answer. ``fuzzy``: neighbouring doubles are the same."""
    expr = str(test.expr)
    where = f"{title}    expr: {quote(expr)}, time: {duration_text(length(test.eval_time))},"
    try:
        got = sorted(query(db, expr, length(test.eval_time)), key=lambda pair: sorted(pair[0].items()))
        expected = []
        for sample in test.exp_samples or ():
            if sample.histogram:
                raise ConfigError("native histograms are not compared; use histogram_count() or such")
            expected.append((parse_labels(sample.labels), _number(sample.value)))
    except (MetricsDBError, ValueError) as error:
        return [f"{where} err: {error}"]
    expected.sort(key=lambda pair: sorted(pair[0].items()))
    same = [a[0] for a in got] == [a[0] for a in expected]
    if same and all(_equal(a[1], b[1], fuzzy) for a, b in zip(got, expected, strict=True)):
        return []
    return [f"{where}\n        exp: {_sample_text(expected)}\n        got: {_sample_text(got)}"]


def _equal(one: float, other: float, fuzzy: bool) -> bool:
    if fuzzy and math.isfinite(one) and math.isfinite(other):
        return abs(one - other) <= math.ulp(max(abs(one), abs(other)))
    return one == other


def _number(given: Any) -> float:
    return float(str(given).replace("Inf", "inf").replace("NaN", "nan"))


def _told(labels: Labels, annotations: Labels) -> _Told:
    return sorted(labels.items()), sorted(annotations.items())


def _pairs(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in pairs) + "}"


def _alert_text(alerts: list[_Told]) -> str:
    if not alerts:
        return "[]"
    pad = " " * 12
    shown = [
        f"{pad}{i}:\n{pad}  Labels:{_pairs(labels)}\n{pad}  Annotations:{_pairs(annotations)}"
        for i, (labels, annotations) in enumerate(alerts)
    ]
    return "[\n" + ",\n".join(shown) + f"\n{pad}]"


def _sample_text(samples: Vector) -> str:
    shown = (f"{_pairs(sorted(labels.items()))} {go_float(value, 'E', -1)}" for labels, value in samples)
    return ", ".join(shown) or "nil"
