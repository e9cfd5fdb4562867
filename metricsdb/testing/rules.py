"""promtool's unit tests of rules: the same files, the same verdicts, the same words.

    result = run("tests.yml")
    result.ok, result.errors

Rules are evaluated at each `evaluation_interval` from time 0, in the order of the file and of `group_eval_order`, by
the machine that runs live, on a database of their own that holds no sample of a later time than the evaluation's.
"""

from __future__ import annotations

import glob
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from metricsdb._native import AlertRule, RecordRule
from metricsdb.alerts import rules as files
from metricsdb.alerts.documents import read_yaml
from metricsdb.alerts.templates import expand
from metricsdb.alerts.templates.gotime import GoDuration
from metricsdb.alerts.templates.values import go_float, quote
from metricsdb.database import Database
from metricsdb.errors import ConfigError, ExecutionError, MetricsDBError
from metricsdb.testing.notation import STALE, parse_labels, parse_series
from metricsdb.times import duration_ms, duration_text

__all__ = ["FileResult", "run"]

# Prometheus' own.
LOOKBACK_MS = 300_000
Labels = dict[str, str]
Key = tuple[tuple[str, str], ...]
Vector = list[tuple[Labels, float]]
_STRICT: dict[str, Any] = {"frozen": True, "forbid_unknown_fields": True}


class _Series(msgspec.Struct, **_STRICT):
    series: str
    values: Any


class _Sample(msgspec.Struct, **_STRICT):
    labels: str = ""
    value: Any = 0
    histogram: str = ""


class _Expr(msgspec.Struct, **_STRICT):
    expr: Any
    eval_time: Any = 0
    exp_samples: list[_Sample] | None = None


class _Expected(msgspec.Struct, **_STRICT):
    exp_labels: dict[str, Any] | None = None
    exp_annotations: dict[str, Any] | None = None


class _Alert(msgspec.Struct, **_STRICT):
    alertname: str = ""
    eval_time: Any = 0
    exp_alerts: list[_Expected] | None = None


class _Test(msgspec.Struct, **_STRICT):
    interval: Any = None
    input_series: list[_Series] | None = None
    alert_rule_test: list[_Alert] | None = None
    promql_expr_test: list[_Expr] | None = None
    external_labels: dict[str, Any] | None = None
    external_url: str = ""
    name: str = ""


class _File(msgspec.Struct, **_STRICT):
    rule_files: list[str] | None = None
    evaluation_interval: Any = None
    group_eval_order: list[str] | None = None
    fuzzy_compare: bool = False
    tests: list[_Test] | None = None


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


def run(path: str | Path) -> FileResult:
    """Runs the tests of one file. What is wrong with the file is an error of the result, and raises nothing."""
    result = FileResult(Path(path))
    try:
        raw = read_yaml(result.path.read_text(), str(path))
        file = msgspec.convert({} if raw is None else raw, _File)
        order = file.group_eval_order or []
        if len(set(order)) < len(order):
            raise ConfigError("group name repeated in evaluation order")
        step_ms = _length(file.evaluation_interval) or 60_000
        groups = _groups(file, result)
        for test in file.tests or ():
            result.errors += _Run(test, groups, step_ms, file.fuzzy_compare).errors()
    except (OSError, UnicodeDecodeError, msgspec.ValidationError, MetricsDBError, ValueError) as error:
        result.errors.append(f"    {error}")
    return result


def _groups(file: _File, result: FileResult) -> list[files.Group]:
    found: list[files.Group] = []
    for pattern in file.rule_files or ():
        paths = sorted(glob.glob(str(result.path.parent / pattern)))  # patterns may be absolute
        if not paths:
            result.warnings.append(f"no file match pattern {result.path.parent / pattern}")
        for path in paths:
            found += files.read(path).groups
    rank = {name: i for i, name in enumerate(file.group_eval_order or ())}
    return sorted(found, key=lambda group: rank.get(group.name, 0))


def _length(given: Any) -> int:
    return 0 if given is None else duration_ms(str(given), "eval_time or interval")


@dataclass(slots=True)
class _Evaluated:
    """A rule on its way through a test: the native one, and the series that it wrote last."""

    rule: files.Rule
    group: files.Group
    native: AlertRule | RecordRule | MetricsDBError
    written: dict[Key, float] = field(default_factory=dict)
    annotations: dict[Key, Labels] = field(default_factory=dict)
    """Of each instance, when its expression last had it."""

    @property
    def labels(self) -> Labels:
        """Those that the rule adds."""
        return self.group.labels | self.rule.labels


def _evaluated(rule: files.Rule, group: files.Group) -> _Evaluated:
    """The rule as it runs live; one that is no vector fails when it is evaluated, as in Prometheus."""
    try:
        if rule.record is not None:
            return _Evaluated(rule, group, RecordRule(rule.record, rule.expr, group.labels | rule.labels))
        whole = files.Rule({**rule.raw, "labels": group.labels | rule.labels}, rule.where)
        return _Evaluated(rule, group, AlertRule(files.statement(whole)))
    except MetricsDBError as error:
        return _Evaluated(rule, group, error)


class _Run:
    """One test group of a file."""

    def __init__(self, test: _Test, groups: list[files.Group], step_ms: int, fuzzy: bool) -> None:
        self.test, self.step_ms, self.fuzzy = test, step_ms, fuzzy
        self.external = {str(k): str(v) for k, v in (test.external_labels or {}).items()}
        self.rules = [_evaluated(rule, group) for group in groups for rule in group.rules]
        # What rules wrote at this evaluation: a second one may write the same again, and nothing else.
        self.stands: dict[tuple[Key, int], float] = {}
        self.title = f"    name: {test.name},\n" if test.name else ""

    def errors(self) -> list[str]:
        with Database(duplicates="first") as db, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of queries; promtool says nothing of them either
            for one in self.rules:
                try:
                    db.format_query(one.rule.expr)
                except MetricsDBError as error:
                    raise ConfigError(f"{one.rule.where}: could not parse expression: {error}") from None
            arrivals = _Arrivals(db, self.test.input_series or [], _length(self.test.interval) or self.step_ms)
            return self._run(db, arrivals)

    def _run(self, db: Database, arrivals: _Arrivals) -> list[str]:
        failed: list[str] = []
        alerts = sorted(self.test.alert_rule_test or (), key=lambda alert: _length(alert.eval_time))
        for alert in alerts:
            if not alert.alertname:
                of = f" (in TestGroup {self.test.name})" if self.test.name else ""
                missing = "an item under alert_rule_test misses required attribute alertname"
                return [f"    {missing} at eval_time {_shown(_length(alert.eval_time))}{of}"]
        exprs = self.test.promql_expr_test or []
        last = max([0, *(_length(a.eval_time) for a in alerts), *(_length(e.eval_time) for e in exprs)])
        for at in range(0, last + 1, self.step_ms):
            arrivals.until(at)
            self.stands.clear()
            broken = [error for one in self.rules if (error := self._evaluate(db, one, at)) is not None]
            if broken:
                return failed + broken
            while alerts and _length(alerts[0].eval_time) < at + self.step_ms:
                failed += self._compare_alerts(alerts.pop(0))
        for expr in exprs:
            failed += self._compare_samples(db, expr)
        return failed

    # --- rules ------------------------------------------------------------------------------------

    def _evaluate(self, db: Database, one: _Evaluated, at_ms: int) -> str | None:
        try:
            self._step(db, one, at_ms)
            self._check(one, at_ms - one.group.query_offset_ms)
        except MetricsDBError as error:
            return f"    rule: {one.rule.name}, time: {GoDuration(at_ms * 1_000_000).text()}, err: {error}"
        return None

    def _step(self, db: Database, one: _Evaluated, at_ms: int) -> None:
        """One evaluation, as it is live."""
        native, offset_ms, limit = one.native, one.group.query_offset_ms, one.group.limit or None
        if isinstance(native, MetricsDBError):
            raise native
        if isinstance(native, RecordRule):
            db._native.evaluate_record(native, at_ms, offset_ms, LOOKBACK_MS, limit)
            return
        for labels, value in _query(db, one.rule.expr, at_ms - offset_ms):
            made = self._rendered(db, one.labels, labels, value, at_ms)
            key = _key({k: v for k, v in labels.items() if k != "__name__"} | made | {"alertname": one.rule.name})
            one.annotations[key] = self._rendered(db, one.rule.annotations, labels, value, at_ms)
        done = db._native.evaluate_alerts(
            [native], [[]], at_ms, offset_ms, LOOKBACK_MS, one.rule.name,
            lambda texts, labels, value, at: self._rendered(db, texts, labels, value, at), limit,
        )  # fmt: skip
        if done[0][1] is not None:
            raise ExecutionError(done[0][1])

    def _rendered(self, db: Database, texts: Labels, labels: Labels, value: float, at_ms: int) -> Labels:
        context: dict[str, Any] = {
            "query": lambda expr: _query(db, expr, at_ms),
            "now_ms": at_ms,
            "external_labels": self.external,
            "external_url": self.test.external_url,
        }
        return {name: expand(text, labels, value, **context) for name, text in texts.items()}

    def _check(self, one: _Evaluated, at_ms: int) -> None:
        """What the rule wrote, beside what others did at that time: of these a sample stands already, or a marker."""
        assert not isinstance(one.native, MetricsDBError)
        before, one.written = one.written, {_key(labels): value for labels, value in one.native.series()}
        ended = {key: STALE for key in before if key not in one.written}
        twice = [key for key, value in one.written.items() if not _alike(value, self.stands.get((key, at_ms), value))]
        for key, value in {**ended, **one.written}.items():
            self.stands.setdefault((key, at_ms), value)
        if twice:
            raise ExecutionError("duplicate sample for timestamp")

    # --- expectations -----------------------------------------------------------------------------

    def _compare_alerts(self, test: _Alert) -> list[str]:
        got = sorted(
            _told(labels, one.annotations[_key(labels)])
            for one in self.rules
            if one.rule.alert == test.alertname
            for labels in _firing(one)
        )
        expected = []
        for alert in test.exp_alerts or ():
            labels = {str(k): str(v) for k, v in (alert.exp_labels or {}).items()}
            annotations = {str(k): str(v) for k, v in (alert.exp_annotations or {}).items()}
            shown = {k: expand(v, labels, 0.0) if "{{" in v else v for k, v in annotations.items()}
            expected.append(_told(labels | {"alertname": test.alertname}, shown))
        if got == sorted(expected):
            return []
        where = f"alertname: {test.alertname}, time: {_shown(_length(test.eval_time))}"
        told = f"        exp:{_alert_text(sorted(expected))}, \n        got:{_alert_text(got)}"
        return [f"{self.title}    {where}, \n{told}"]

    def _compare_samples(self, db: Database, test: _Expr) -> list[str]:
        expr = str(test.expr)
        where = f"{self.title}    expr: {quote(expr)}, time: {_shown(_length(test.eval_time))},"
        try:
            got = sorted(_query(db, expr, _length(test.eval_time)), key=lambda pair: sorted(pair[0].items()))
            expected = []
            for sample in test.exp_samples or ():
                if sample.histogram:
                    raise ConfigError("native histograms are not compared; use histogram_count() or such")
                expected.append((parse_labels(sample.labels), _number(sample.value)))
        except (MetricsDBError, ValueError) as error:
            return [f"{where} err: {error}"]
        expected.sort(key=lambda pair: sorted(pair[0].items()))
        same = [a[0] for a in got] == [a[0] for a in expected]
        if same and all(self._equal(a[1], b[1]) for a, b in zip(got, expected, strict=True)):
            return []
        return [f"{where}\n        exp: {_sample_text(expected)}\n        got: {_sample_text(got)}"]

    def _equal(self, one: float, other: float) -> bool:
        if self.fuzzy and math.isfinite(one) and math.isfinite(other):
            return abs(one - other) <= math.ulp(max(abs(one), abs(other)))
        return one == other


class _Arrivals:
    """The input series, written as time comes to them: a rule that looks ahead finds nothing there."""

    def __init__(self, db: Database, series: list[_Series], step_ms: int) -> None:
        self.db = db
        parsed = [parse_series(f"{one.series} {one.values}") for one in series]
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


def _query(db: Database, expr: str, at_ms: int) -> Vector:
    frame = db.query(expr, at_ms / 1000, priority="alert")
    names = [name for name in frame.columns if name not in ("timestamp", "value", "histogram")]
    if frame["value"].dtype.is_numeric() and (frame["timestamp"].dt.timestamp("ms") == at_ms).all():
        return [
            ({name: row[name] for name in names if row[name] is not None}, row["value"])
            for row in frame.iter_rows(named=True)
        ]
    raise ExecutionError("rule result is not a vector or scalar")


def _key(labels: Labels) -> Key:
    return tuple(sorted((name, text) for name, text in labels.items() if text))


def _firing(one: _Evaluated) -> Iterator[Labels]:
    """The labels of each instance that fires, as receivers see them."""
    if isinstance(one.native, AlertRule):
        templates = one.native.describe()["templates"]
        own = {name: text for name, text in one.labels.items() if name not in templates}
        for labels, _level, _state, _since, firing, *_ in one.native.active():
            if firing is not None:
                yield {k: v for k, v in (labels | own | {"alertname": one.rule.name}).items() if v}


def _alike(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other) and (one is STALE) == (other is STALE))


def _number(given: Any) -> float:
    return float(str(given).replace("Inf", "inf").replace("NaN", "nan"))


# --- promtool's words -----------------------------------------------------------------------------


def _told(labels: Labels, annotations: Labels) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return sorted(labels.items()), sorted(annotations.items())


def _pairs(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in pairs) + "}"


def _alert_text(alerts: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]]) -> str:
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


def _shown(ms: int) -> str:
    return duration_text(ms)
