"""What is installed and what is active, as Prometheus answers `/api/v1/rules` and `/api/v1/alerts`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from metricsdb._native import AlertRule
from metricsdb.alerts.evaluate import annotated, named
from metricsdb.alerts.groups import Group, Rule
from metricsdb.alerts.manager import Alerts
from metricsdb.server.params import BadParameter, url_form
from metricsdb.server.reply import refusal, success

__all__ = ["Rules"]

# A state that Prometheus has no word for is told by its nearest.
_STATES = {"clearing": "firing", "unknown": "firing"}


class Rules:
    """The two handlers. They look at what is active, never at samples."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    async def rules(self, request: Request) -> Response:
        """Filters: ``type`` (alert, record), ``rule_name[]``, ``rule_group[]``, ``exclude_alerts``."""
        try:
            form = url_form(request)
        except BadParameter as error:
            return refusal("bad_data", str(error), 400)
        kind = form.text("type")
        if kind not in ("", "alert", "record"):
            return refusal("bad_data", f"not supported value {kind!r}", 400)
        names, groups = set(form.all("rule_name[]")), set(form.all("rule_group[]"))
        alone = form.text("exclude_alerts") in ("1", "true")
        found = []
        for group in self._alerts.groups():
            if groups and group.name not in groups:
                continue
            rules = [
                said
                for rule in group.rules
                if not names or rule.name in names
                for said in self._said(rule, alone)
                if not kind or said["type"] == f"{kind}ing"
            ]
            if rules or not (kind or names):
                found.append(_group(group, rules))
        return success({"groups": found})

    async def alerts(self, _request: Request) -> Response:
        found = [
            instance
            for group in self._alerts.groups()
            for rule in group.rules
            for alert in rule.alerts
            for level in range(len(alert.describe()["levels"]))
            for instance in self._instances(alert, level)
        ]
        return success({"alerts": found})

    def _said(self, rule: Rule, alone: bool) -> Iterator[dict[str, Any]]:
        last = {
            "health": rule.health,
            "lastError": rule.error,
            "evaluationTime": rule.seconds,
            "lastEvaluation": _time(rule.evaluated_ms),
        }
        if rule.kind == "record":
            yield {"type": "recording", "name": rule.name, "query": rule.expr, "labels": rule.labels, **last}
        for alert in rule.alerts:
            for place, level in enumerate(alert.describe()["levels"]):
                instances = self._instances(alert, place)
                states = {instance["state"] for instance in instances}
                damp = level["for"]
                severity = {"severity": level["name"]} if level["name"] else {}
                yield {
                    "type": "alerting",
                    "name": rule.name,
                    "query": level["expr"],
                    "duration": damp[0] / 1000 if len(damp) == 1 else 0,
                    "keepFiringFor": level["keep_firing_ms"] / 1000,
                    "labels": {**level["labels"], **severity},
                    "annotations": level["annotations"],
                    "alerts": [] if alone else instances,
                    "state": "firing" if "firing" in states else "pending" if "pending" in states else "inactive",
                    **last,
                }

    def _instances(self, alert: AlertRule, level: int) -> list[dict[str, Any]]:
        found = []
        for labels, at, state, pending, firing, value, *_ in alert.active():
            if at != level:
                continue
            whole = named(alert, level, labels, value, self._alerts.render)
            texts = annotated(alert, level, labels, value, self._alerts.render)
            shown = "pending" if firing is None else _STATES.get(state, state)
            found.append(
                {
                    "labels": whole,
                    "annotations": texts,
                    "state": shown,
                    "activeAt": _time(pending),
                    "value": _number(value),
                }
            )
        return found


def _group(group: Group, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": group.name,
        "file": "",
        "interval": group.every_ms / 1000,
        "limit": 0,
        "rules": rules,
        "evaluationTime": group.seconds,
        "lastEvaluation": _time(group.evaluated_ms),
    }


def _time(ms: int | None) -> str:
    """RFC 3339, as Go writes it; the year 1 for never."""
    if ms is None:
        return "0001-01-01T00:00:00Z"
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z").replace(".000Z", "Z")


def _number(value: float) -> str:
    """As Go's `%e` with the fewest digits that read back: Prometheus' form of an alert's value."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    # 17 digits always read back.
    precision = next(p for p in range(17) if p == 16 or float(f"{value:.{p}e}") == value)
    return f"{value:.{precision}e}"
