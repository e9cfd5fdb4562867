"""One evaluation of a group: mutings, native calls, and what is to be delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol
from urllib.parse import quote

from metricsdb._native import AlertRule, NativeDatabase
from metricsdb.alerts.groups import Group, Rule
from metricsdb.alerts.model import PostableAlert, RouteHint
from metricsdb.clock import Clock
from metricsdb.errors import MetricsDBError

__all__ = [
    "Deliver",
    "Interval",
    "Muting",
    "Render",
    "Sight",
    "evaluate",
    "folded",
    "hint",
    "named",
    "plain",
    "postable",
    "rendered",
]

Muting = tuple[int, int, list[tuple[str, str]], str]
# A text of a statement with what it may name: labels, value.
Render = Callable[[str, Mapping[str, str], float], str]
# The database that answers some expressions at some times: start, end, step (0: at one time) and lookback, ms.
Sight = Callable[[Sequence[str], tuple[int, int, int, int]], NativeDatabase]
# Alertmanager forgets an alert that nobody repeats: after this many intervals, as Prometheus says it.
REPEATS = 4
RESEND_MS = 60_000


class Interval(Protocol):
    """A named time interval, as `DURING` names it."""

    def __call__(self, at_ms: int) -> bool:
        """Whether a moment lies in it."""
        ...


class Deliver(Protocol):
    """Takes alerts that fire, again and again, and those that ended. Called before the state is saved: a process that
    is killed between the two calls it again with the same."""

    def __call__(self, alerts: Sequence[tuple[PostableAlert, RouteHint | None]], now_ms: int) -> None: ...


@dataclass(slots=True)
class Evaluation:
    """What one evaluation of a group came to."""

    changes: list[tuple[Rule, AlertRule, tuple[Any, ...]]] = field(default_factory=list)
    alerts: list[tuple[PostableAlert, RouteHint | None]] = field(default_factory=list)


def plain(text: str, _labels: Mapping[str, str], _value: float) -> str:
    """The text as it is: no templates."""
    return text


def evaluate(
    sight: Sight,
    group: Group,
    at_ms: int,
    lookback_ms: int,
    mutings: Callable[[AlertRule, int], list[Muting]],
    render: Render,
    clock: Clock,
) -> Evaluation:
    """Evaluates the rules of a group in their order; neighbours that are alerts in one native call."""
    done = Evaluation()
    for records, rules in groupby(group.rules, lambda rule: rule.kind == "record"):
        for batch in [[rule] for rule in rules] if records else _inhibitors_first(list(rules)):
            begun = clock.monotonic()
            if records:
                _record(sight, group, batch[0], at_ms, lookback_ms)
            else:
                _alerts(sight, group, batch, at_ms, lookback_ms, mutings, render, done)
            spent = clock.monotonic() - begun
            for rule in batch:
                rule.evaluated_ms, rule.seconds = at_ms, spent / len(batch)
    if _resends(group, at_ms):
        group.told_ms = at_ms
    return done


def _inhibitors_first(rules: list[Rule]) -> list[list[Rule]]:
    """The rules in batches, so that what inhibits has been evaluated before what it inhibits, where no circle is."""
    by = {rule.name: {name for alert in rule.alerts for name, _ in alert.describe()["inhibited"]} for rule in rules}
    batches: list[list[Rule]] = []
    waiting = rules
    while waiting:
        names = {rule.name for rule in waiting}
        ready = [rule for rule in waiting if not by[rule.name] & (names - {rule.name})] or waiting[:1]
        batches.append(ready)
        waiting = [rule for rule in waiting if rule not in ready]
    return batches


def _record(sight: Sight, group: Group, rule: Rule, at_ms: int, lookback_ms: int) -> None:
    assert rule.record is not None
    at = at_ms - group.offset_ms
    try:
        native = sight([rule.expr], (at, at, 0, lookback_ms))
        native.evaluate_record(rule.record, at_ms, group.offset_ms, lookback_ms, group.limit)
        rule.health, rule.error = "ok", ""
    except MetricsDBError as error:
        rule.health, rule.error = "err", str(error)


def _alerts(
    sight: Sight,
    group: Group,
    rules: list[Rule],
    at_ms: int,
    lookback_ms: int,
    mutings: Callable[[AlertRule, int], list[Muting]],
    render: Render,
    done: Evaluation,
) -> None:
    flat = [(rule, alert) for rule in rules for alert in rule.alerts]
    muted = [mutings(alert, at_ms) for _, alert in flat]
    what = f"GROUP {group.name}"
    at = at_ms - group.offset_ms
    seen = (at_ms, group.offset_ms, lookback_ms, what, rendered(render), group.limit)
    try:
        native = sight([expr for _, alert in flat for expr in alert.queries], (at, at, 0, lookback_ms))
        found = native.evaluate_alerts([alert for _, alert in flat], muted, *seen)
    except MetricsDBError as error:
        for rule in rules:
            rule.health, rule.error = "err", str(error)
        return
    for rule in rules:
        rule.health, rule.error = "ok", ""
    until = at_ms + REPEATS * max(group.every_ms, RESEND_MS)
    for (rule, alert), (changes, failed) in zip(flat, found, strict=True):
        if failed is not None:
            rule.health, rule.error = "err", failed
        done.changes += [(rule, alert, change) for change in changes]
        active = alert.active()
        told = [change for change in changes if change[8]]
        if told or (active and _resends(group, at_ms)):
            done.alerts += postable(alert, active, told, at_ms, until, render)


def rendered(render: Render) -> Callable[[dict[str, str], dict[str, str], float, int], dict[str, str]]:
    """Labels that are templates, as native evaluations ask for them."""
    return lambda texts, labels, value, _at_ms: {name: render(text, labels, value) for name, text in texts.items()}


def _resends(group: Group, at_ms: int) -> bool:
    """Whether a minute has begun since all that fires was delivered, or nobody of this process did it yet."""
    return group.told_ms is None or at_ms // RESEND_MS != group.told_ms // RESEND_MS


def postable(
    alert: AlertRule,
    active: Iterable[tuple[Any, ...]],
    told: Iterable[tuple[Any, ...]],
    at_ms: int,
    until_ms: int,
    render: Render,
) -> list[tuple[PostableAlert, RouteHint | None]]:
    """What fires and somebody was told of, and what ended now."""
    said = alert.describe()
    levels, name = said["levels"], said["name"]
    url = f"/graph?g0.expr={quote(levels[0]['expr'], safe='')}&g0.tab=1"
    found: list[tuple[PostableAlert, RouteHint | None]] = []

    def add(labels: Mapping[str, str], level: int, value: float, starts: int, ends: int) -> None:
        said = levels[level]
        whole = named(alert, level, labels, value, render)
        texts = annotated(alert, level, labels, value, render)
        found.append((PostableAlert(whole, texts, starts, ends, url), hint(said["route"])))

    for labels, level, _state, _pending, firing, value, _flapping, announced, _hidden in active:
        # A lower level goes on being said beneath a higher one: else it would count as over.
        if announced and firing is not None:
            add(labels, level, value, firing, until_ms)
    for _at, labels, level, _from, _to, value, fires, _flapping, _told, _why, since in told:
        since = at_ms if since is None else since
        if level is None:
            summary, texts = folded(name, value)
            found.append(
                (PostableAlert(summary, texts, since, until_ms if fires else at_ms, url), hint(levels[0]["route"]))
            )
        elif not fires:
            add(labels, level, value, since, at_ms)
    return found


def folded(name: str, count: float) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations of the one alert that stands for what is past `CAP`."""
    return {"alertname": name, "alertfolded": "true"}, {"summary": f"{count:.0f} more instances of {name} fire"}


def named(alert: AlertRule, level: int, labels: Mapping[str, str], value: float, render: Render) -> dict[str, str]:
    """The labels that a receiver sees of a level of an instance."""
    said = alert.describe()
    known, found = said["templates"], said["levels"][level]
    # Templates that make instances are in their labels already.
    own = {name: render(text, labels, value) for name, text in found["labels"].items() if name not in known}
    whole = {**labels, **own}
    if found["name"]:
        whole["severity"] = found["name"]
    whole["alertname"] = alert.name
    return {name: text for name, text in whole.items() if text}


def annotated(alert: AlertRule, level: int, labels: Mapping[str, str], value: float, render: Render) -> dict[str, str]:
    """The annotations of a level of an instance. `$labels` in them are those of the instance, as in Prometheus: the
    statement's own are not among them."""
    said = alert.describe()
    sample = {name: text for name, text in labels.items() if name not in said["templates"]}
    return {name: render(text, sample, value) for name, text in said["levels"][level]["annotations"].items()}


def hint(route: Mapping[str, Any] | None) -> RouteHint | None:
    """A statement's `ROUTE` clause."""
    if route is None:
        return None
    group_by = None if route["group_by"] is None else tuple(route["group_by"])
    waits = (route["wait_ms"], route["interval_ms"], route["repeat_ms"])
    return RouteHint(tuple(route["receivers"]), group_by, *waits)
