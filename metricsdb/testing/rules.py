"""promtool's unit tests of rules: the same files, the same verdicts, the same words.

    result = run("tests.yml")
    result.ok, result.errors

Rules are evaluated at each `evaluation_interval` from time 0, in the order of the file and of `group_eval_order`, by
the machine that runs live, on a database of their own that holds no sample of a later time than the evaluation's. A
file that has anything of ours in it (statements, transitions, notifications) runs through ``db.alerts``: `timelines`.
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

from metricsdb._native import AlertRule, RecordRule
from metricsdb.alerts import rules as files
from metricsdb.alerts.documents import read_yaml
from metricsdb.alerts.templates import expand
from metricsdb.alerts.templates.gotime import GoDuration
from metricsdb.database import Database
from metricsdb.errors import ConfigError, ExecutionError, MetricsDBError
from metricsdb.testing import timelines
from metricsdb.testing.cases import (
    Arrivals,
    File,
    FileResult,
    Labels,
    Test,
    compared_alerts,
    compared_samples,
    length,
    query,
    texts,
)
from metricsdb.testing.notation import STALE

__all__ = ["FileResult", "run"]

# Prometheus' own.
LOOKBACK_MS = 300_000
Key = tuple[tuple[str, str], ...]


def run(path: str | Path) -> FileResult:
    """Runs the tests of one file. What is wrong with the file is an error of the result, and raises nothing."""
    result = FileResult(Path(path))
    try:
        raw = read_yaml(result.path.read_text(), str(path))
        file = msgspec.convert({} if raw is None else raw, File)
        order = file.group_eval_order or []
        if len(set(order)) < len(order):
            raise ConfigError("group name repeated in evaluation order")
        step_ms = length(file.evaluation_interval) or 60_000
        paths = _paths(file, result)
        if timelines.needed(file, paths):
            for test in file.tests or ():
                result.errors += timelines.run(file, test, paths, result.path.parent, step_ms)
            return result
        groups = _groups(file, paths)
        for test in file.tests or ():
            result.errors += _Run(test, groups, step_ms, file.fuzzy_compare).errors()
    except (OSError, UnicodeDecodeError, msgspec.ValidationError, MetricsDBError, ValueError) as error:
        result.errors.append(f"    {error}")
    return result


def _paths(file: File, result: FileResult) -> list[Path]:
    """The rule files, in the order of the patterns that name them."""
    found: list[Path] = []
    for pattern in file.rule_files or ():
        paths = sorted(glob.glob(str(result.path.parent / pattern)))  # patterns may be absolute
        if not paths:
            result.warnings.append(f"no file match pattern {result.path.parent / pattern}")
        found += map(Path, paths)
    return found


def _groups(file: File, paths: list[Path]) -> list[files.Group]:
    found = [group for path in paths for group in files.read(path).groups]
    rank = {name: i for i, name in enumerate(file.group_eval_order or ())}
    return sorted(found, key=lambda group: rank.get(group.name, 0))


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

    def __init__(self, test: Test, groups: list[files.Group], step_ms: int, fuzzy: bool) -> None:
        self.test, self.step_ms, self.fuzzy = test, step_ms, fuzzy
        self.external = texts(test.external_labels)
        self.rules = [_evaluated(rule, group) for group in groups for rule in group.rules]
        # What rules wrote at this evaluation: a second one may write the same again, and nothing else.
        self.stands: dict[tuple[Key, int], float] = {}

    def errors(self) -> list[str]:
        with Database(duplicates="first") as db, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of queries; promtool says nothing of them either
            for one in self.rules:
                try:
                    db.format_query(one.rule.expr)
                except MetricsDBError as error:
                    raise ConfigError(f"{one.rule.where}: could not parse expression: {error}") from None
            return self._run(db, Arrivals(db, self.test, self.step_ms))

    def _run(self, db: Database, arrivals: Arrivals) -> list[str]:
        unnamed = self.test.unnamed()
        if unnamed is not None:
            return [unnamed]
        failed: list[str] = []
        alerts = sorted(self.test.alert_rule_test or (), key=lambda alert: length(alert.eval_time))
        for at in range(0, self.test.last_ms + 1, self.step_ms):
            arrivals.until(at)
            self.stands.clear()
            broken = [error for one in self.rules if (error := self._evaluate(db, one, at)) is not None]
            if broken:
                return failed + broken
            while alerts and length(alerts[0].eval_time) < at + self.step_ms:
                test = alerts.pop(0)
                failed += compared_alerts(test, self._firing(test.alertname), self.test.title)
        for expr in self.test.promql_expr_test or ():
            failed += compared_samples(db, expr, self.test.title, self.fuzzy)
        return failed

    def _firing(self, name: str) -> list[tuple[Labels, Labels]]:
        return [
            (labels, one.annotations[_key(labels)])
            for one in self.rules
            if one.rule.alert == name
            for labels in _firing(one)
        ]

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
        for labels, value in query(db, one.rule.expr, at_ms - offset_ms):
            made = self._rendered(db, one.labels, labels, value, at_ms)
            key = _key({k: v for k, v in labels.items() if k != "__name__"} | made | {"alertname": one.rule.name})
            one.annotations[key] = self._rendered(db, one.rule.annotations, labels, value, at_ms)
        done = db._native.evaluate_alerts(
            [native], [[]], at_ms, offset_ms, LOOKBACK_MS, one.rule.name,
            lambda wanted, labels, value, at: self._rendered(db, wanted, labels, value, at), limit,
        )  # fmt: skip
        if done[0][1] is not None:
            raise ExecutionError(done[0][1])

    def _rendered(self, db: Database, wanted: Labels, labels: Labels, value: float, at_ms: int) -> Labels:
        context: dict[str, Any] = {
            "query": lambda expr: query(db, expr, at_ms),
            "now_ms": at_ms,
            "external_labels": self.external,
            "external_url": self.test.external_url,
        }
        return {name: expand(text, labels, value, **context) for name, text in wanted.items()}

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


def _key(labels: Labels) -> Key:
    return tuple(sorted((name, text) for name, text in labels.items() if text))


def _firing(one: _Evaluated) -> Iterator[Labels]:
    """The labels of each instance that fires, as receivers see them."""
    assert isinstance(one.native, AlertRule)
    templates = one.native.describe()["templates"]
    own = {name: text for name, text in one.labels.items() if name not in templates}
    for labels, _level, _state, _since, firing, *_ in one.native.active():
        if firing is not None:
            yield {k: v for k, v in (labels | own | {"alertname": one.rule.name}).items() if v}


def _alike(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other) and (one is STALE) == (other is STALE))
