"""Statements as other systems provision alerts: Grafana's YAML, and monitors as Datadog's API takes them.

Neither has all clauses; what has no counterpart is listed, as in `metricsdb.alerts.export.portable`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from metricsdb.alerts.documents import to_yaml
from metricsdb.alerts.export import Level, Recording, Statement, StatementGroup
from metricsdb.times import duration_text

__all__ = ["Provisioned", "datadog", "grafana"]

_EVALUATORS = {">": "gt", "<": "lt", ">=": "gte", "<=": "lte", "==": "eq", "!=": "ne"}
_OPPOSITES = {">": "lte", "<": "gte", ">=": "lt", "<=": "gt", "==": "ne", "!=": "eq"}
_NO_DATA = {"CLEAR": "OK", "KEEP": "KeepLast", "UNKNOWN": "NoData", "FIRE": "Alerting"}
_ERROR = {"KEEP": "KeepLast", "UNKNOWN": "Error", "FIRE": "Alerting"}
_MISSING = {"CLEAR": "resolve", "KEEP": "default", "UNKNOWN": "show_no_data", "FIRE": "show_and_notify_no_data"}


@dataclass(frozen=True, slots=True)
class Provisioned:
    """``value``: plain values, as YAML or JSON has them. ``inexact``: a line for each clause that it cannot say."""

    value: Any
    inexact: list[str] = field(default_factory=list)

    def to_yaml(self) -> str:
        return to_yaml(self.value)


def grafana(
    groups: Iterable[StatementGroup],
    *,
    folder: str = "MetricsDB",
    datasource: str = "metricsdb",
    org: int = 1,
    step_ms: int = 60_000,
) -> Provisioned:
    """Grafana's alert rule provisioning file. ``datasource``: the uid of the one that asks this database.

    A level becomes a rule: its query A, and C, a threshold with recovery where the condition is a comparison, else
    whether A answers at all.
    """
    inexact: list[str] = []
    made = []
    for group in groups:
        rules = []
        for one in group.statements:
            if isinstance(one, Recording):
                inexact.append(f"{one.record}: RECORD is left out; keep it in a Prometheus rule file")
                continue
            rules += [_grafana_rule(one, level, group, datasource, inexact) for level in one.levels]
            _common(one, inexact, ("COOLDOWN", "FLAP", "CAP", "INHIBITED BY", "HOLD", "DURING"))
        inexact += _limited(group)
        head = {"orgId": org, "name": group.name, "folder": folder}
        made.append(head | {"interval": duration_text(group.interval_ms or step_ms), "rules": rules})
    return Provisioned({"apiVersion": 1, "groups": made}, inexact)


def _grafana_rule(
    alert: Statement, level: Level, group: StatementGroup, datasource: str, inexact: list[str]
) -> dict[str, Any]:
    name = f"{alert.name} ({level.name})" if level.name else alert.name
    compared = level.expr is not None and level.op in _EVALUATORS and _is_number(level.threshold)
    expr = str(level.expr) if compared else level.when
    condition: dict[str, Any]
    if compared:
        evaluator = {"type": _EVALUATORS[str(level.op)], "params": [float(str(level.threshold))]}
        condition = {"evaluator": evaluator}
        if level.clear_at is not None:
            condition["unloadEvaluator"] = {"type": _OPPOSITES[str(level.op)], "params": [level.clear_at]}
        model: dict[str, Any] = {"type": "threshold", "expression": "A", "conditions": [condition]}
    else:
        model = {"type": "math", "expression": "is_number($A) || is_inf($A)"}
    if level.clear_when is not None or (level.clear_at is not None and not compared):
        inexact.append(f"{name}: CLEAR is left out")
    if level.of is not None:
        inexact.append(f"{name}: FOR {level.of[0]} OF {level.of[1]} is left out")
    annotations, labels = alert.annotations | level.annotations, group.labels | alert.labels | level.labels
    if any("$value" in text for text in annotations.values()):
        inexact.append(f"{name}: $value in annotations is a sentence in Grafana; write $values.A.Value there")
    query = {"refId": "A", "expr": expr, "instant": True, "range": False}
    rule: dict[str, Any] = {
        "uid": hashlib.sha256(f"{group.name}\0{name}".encode()).hexdigest()[:32],
        "title": name,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": datasource,
                "model": query,
            },
            {"refId": "C", "datasourceUid": "__expr__", "model": model | {"refId": "C"}},
        ],
        "noDataState": _NO_DATA[alert.no_data],
        "execErrState": _ERROR[alert.error],
        "for": duration_text(level.for_ms),
        "annotations": annotations,
        "labels": ({"severity": level.name} if level.name else {}) | labels,
        "isPaused": False,
    }
    keep = max(level.keep_ms or alert.keep_ms, level.clear_for_ms)
    return rule | ({"keepFiringFor": duration_text(keep)} if keep else {})


def datadog(groups: Iterable[StatementGroup], *, step_ms: int = 60_000) -> Provisioned:
    """Monitors in the form of Datadog's API: a list, one for each alert.

    Levels that compare one expression become its thresholds (the highest ``critical``, the one below ``warning``), with
    their recovery. The query stays PromQL: it is listed, for Datadog has a language of its own.
    """
    inexact: list[str] = []
    made = []
    for group in groups:
        inexact += _limited(group)
        for one in group.statements:
            if isinstance(one, Recording):
                inexact.append(f"{one.record}: RECORD is left out")
            else:
                made.append(_monitor(one, group, inexact, group.interval_ms or step_ms))
                _common(one, inexact, ("COOLDOWN", "FLAP", "CAP", "INHIBITED BY", "HOLD", "DURING", "KEEP FIRING FOR"))
    return Provisioned(made, inexact)


def _monitor(alert: Statement, group: StatementGroup, inexact: list[str], step_ms: int) -> dict[str, Any]:
    levels = list(reversed(alert.levels[-2:]))
    top = levels[0]
    if len(alert.levels) > 2:
        inexact.append(f"{alert.name}: levels below {levels[1].name} are left out; a monitor has two")
    alike = all(level.expr == top.expr and level.op == top.op and _is_number(level.threshold) for level in levels)
    thresholds: dict[str, float] = {}
    if alike and top.expr is not None:
        for level, name in zip(levels, ("critical", "warning"), strict=False):
            thresholds[name] = float(str(level.threshold))
            if level.clear_at is not None:
                thresholds[f"{name}_recovery"] = level.clear_at
        query = f"{top.expr} {top.op} {thresholds['critical']:g}"
    else:
        query, thresholds["critical"] = top.when, 0.0
        inexact.append(f"{alert.name}: its conditions are no thresholds of one expression; critical alone is told")
    inexact.append(f"{alert.name}: the query is PromQL; write it in Datadog's language")
    if any(level.clear_when or level.of for level in levels):
        inexact.append(f"{alert.name}: CLEAR WHEN and k OF n are left out")
    labels = group.labels | alert.labels | top.labels
    texts = [*(alert.annotations | top.annotations).values()]
    route = top.route or alert.route
    texts += [] if route is None else [f"@{receiver}" for receiver in route.receivers]
    options: dict[str, Any] = {
        "thresholds": thresholds,
        "on_missing_data": _MISSING[alert.no_data],
        "require_full_window": False,
        "include_tags": True,
        "min_failure_duration": max(top.for_ms, step_ms) // 1000,
    }
    if route is not None and route.repeat_ms:
        options["renotify_interval"] = max(1, route.repeat_ms // 60_000)
    return {
        "name": alert.name,
        "type": "query alert",
        "query": query,
        "message": "\n".join(texts),
        "tags": [f"{name}:{value}" for name, value in labels.items()],
        "options": options,
    }


def _common(alert: Statement, inexact: list[str], clauses: Iterable[str]) -> None:
    there = {
        "COOLDOWN": alert.cooldown_ms,
        "FLAP": alert.flap,
        "CAP": alert.cap is not None,
        "INHIBITED BY": alert.inhibited_by,
        "HOLD": alert.hold_ms or any(level.hold_ms for level in alert.levels),
        "DURING": alert.during or alert.not_during,
        "KEEP FIRING FOR": alert.keep_ms or any(level.keep_ms for level in alert.levels),
    }
    inexact += [f"{alert.name}: {clause} is left out" for clause in clauses if there[clause]]


def _limited(group: StatementGroup) -> list[str]:
    return [] if group.limit is None else [f"group {group.name}: LIMIT is left out"]


def _is_number(text: str | None) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
