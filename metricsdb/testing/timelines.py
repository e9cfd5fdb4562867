"""Unit tests of statements: a database whose clock is the test's runs them live, from time 0 on.

Groups are evaluated at multiples of their `EVERY` (else of the file's `evaluation_interval`), alerts go through the
router to the receivers of the file's ``route``, and what happened is what ``db.alerts`` says. Nothing leaves the
process. Without ``route`` there are the receivers that `ROUTE TO` names.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET

from metricsdb.alerts import amconfig, pipeline, rules
from metricsdb.alerts.amconfig import Config
from metricsdb.alerts.documents import to_yaml
from metricsdb.alerts.evaluate import named
from metricsdb.alerts.groups import groups_of
from metricsdb.alerts.shown import label_text
from metricsdb.database import Database
from metricsdb.errors import ConfigError
from metricsdb.lines import ROWS_MAX
from metricsdb.testing.cases import (
    AlertTest,
    Arrivals,
    File,
    Labels,
    Notification,
    NotificationTest,
    Test,
    ToldAlert,
    Transition,
    TransitionTest,
    compared_alerts,
    compared_samples,
    length,
    texts,
)
from metricsdb.testing.clock import FakeClock
from metricsdb.times import duration_text

__all__ = ["needed", "run"]

# Status, labels, annotations.
_Said = tuple[str, Labels, Labels]


def needed(file: File, paths: Iterable[Path]) -> bool:
    """Whether a file has anything that promtool does not know: statements, or keys of ours."""
    ours = any(test.transition_test or test.notification_test for test in file.tests or ())
    return ours or file.route is not None or any(not rules.is_rule_file(path, path.read_text()) for path in paths)


def run(file: File, test: Test, paths: Sequence[Path], folder: Path, step_ms: int) -> list[str]:
    """What one test group of a file finds wrong. Raises ``MetricsDBError`` for what cannot be run."""
    if file.group_eval_order:
        raise ConfigError("group_eval_order is for rule files alone; beside statements, order rule_files")
    unnamed = test.unnamed()
    if unnamed is not None:
        return [unnamed]
    clock = FakeClock(0)
    with Database(clock=clock, duplicates="first", alerts_every=f"{step_ms}ms") as db, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of queries; promtool says nothing of them either
        return _Timeline(db, clock, file, test, paths, folder, step_ms).run()


class _Timeline:
    def __init__(
        self,
        db: Database,
        clock: FakeClock,
        file: File,
        test: Test,
        paths: Sequence[Path],
        folder: Path,
        step_ms: int,
    ) -> None:
        self.db, self.clock, self.test, self.fuzzy = db, clock, test, file.fuzzy_compare
        statements = [rules.statements(path)[0] for path in paths]
        config = _receivers(folder, file.route, statements, step_ms)
        self.receivers = set(config.receivers)
        self.pipeline = db.alerts.route(
            config, external_url=test.external_url, external_labels=texts(test.external_labels)
        )
        for path in paths:
            db.alerts.load(path)
        self.arrivals = Arrivals(db, test, step_ms)
        # What receivers were told: when, whom, the webhook's payload.
        self.told: list[tuple[int, str, dict[str, Any]]] = []

    def run(self) -> list[str]:
        failed: list[str] = []
        alerts = sorted(self.test.alert_rule_test or (), key=lambda alert: length(alert.eval_time))
        now: int | None = 0
        while now is not None:
            while alerts and length(alerts[0].eval_time) < now:
                failed += self._alerts(alerts.pop(0))
            self.clock.move((now - self.clock.now_ms()) / 1000)
            self.arrivals.until(now)
            self.db.alerts.tick(now)
            self._hear(now)
            broken = self._broken(now)
            if broken:
                return failed + broken
            now = self._next(now)
        self.arrivals.until(self.test.last_ms)
        for alert in alerts:
            failed += self._alerts(alert)
        for expr in self.test.promql_expr_test or ():
            failed += compared_samples(self.db, expr, self.test.title, self.fuzzy)
        for moves in self.test.transition_test or ():
            failed += self._transitions(moves)
        for told in self.test.notification_test or ():
            failed += self._notifications(told)
        return failed

    def _broken(self, now: int) -> list[str]:
        """Rules that fail, but for alerts that say what they do `ON ERROR`."""
        at = duration_text(now)
        return [
            f"    rule: {rule.name}, time: {at}, err: {rule.error}"
            for group in self.db.alerts.groups()
            for rule in group.rules
            if rule.health == "err" and not any(alert.describe()["error"] for alert in rule.alerts)
        ]

    def _next(self, now: int) -> int | None:
        """The next moment at which anything happens; None: the test is over."""
        moments = [now - now % group.every_ms + group.every_ms for group in self.db.alerts.groups()]
        flush = self.pipeline.next_due()
        # A group that was just flushed is due later.
        following = min([*moments, *([] if flush is None else [max(flush, now + 1)])], default=None)
        return None if following is None or following > self.test.last_ms else following

    def _hear(self, now: int) -> None:
        outbox = self.pipeline.outbox
        while due := outbox.due(now):
            for message in due:
                self.told.append((now, message.target.split("/webhook/")[0], json.loads(message.body)))
                outbox.done(message)

    # --- expectations -----------------------------------------------------------------------------

    def _alerts(self, test: AlertTest) -> list[str]:
        found: list[tuple[Labels, Labels]] = []
        for group in self.db.alerts.groups():
            render = self.db.alerts.render_at(group.evaluated_ms or 0)
            rules = (rule for rule in group.rules if rule.name == test.alertname)
            for alert in (alert for rule in rules for alert in rule.alerts):
                levels = alert.describe()["levels"]
                for labels, level, _state, _since, firing, value, *_ in alert.active():
                    if firing is not None:
                        whole = named(alert, level, labels, value, render)
                        said = levels[level]["annotations"].items()
                        found.append((whole, {name: render(text, whole, value) for name, text in said}))
        return compared_alerts(test, found, self.test.title)

    def _transitions(self, test: TransitionTest) -> list[str]:
        until = length(test.eval_time)
        history = self.db.alerts.history()
        if history.height >= ROWS_MAX:
            raise ConfigError(f"the test has more than {ROWS_MAX} transitions; make it shorter")
        names = [name for name in history.columns if name not in ("timestamp", "alert", "value")]
        got = [
            {"at": at, **{name: row[name] for name in names}}
            for row in history.iter_rows(named=True)
            if row["alert"] == test.alertname and (at := round(row["timestamp"].timestamp() * 1000)) <= until
        ]
        expected = [_wanted(one) for one in test.exp_transitions or ()]
        if len(got) == len(expected) and all(
            one.items() <= row.items() for one, row in zip(expected, got, strict=True)
        ):
            return []
        where = f"transitions of {test.alertname}, time: {duration_text(until)}"
        return [_difference(self.test.title, where, expected, got)]

    def _notifications(self, test: NotificationTest) -> list[str]:
        until = length(test.eval_time)
        if test.receiver not in self.receivers:
            there = ", ".join(sorted(self.receivers))
            raise ConfigError(f"notification_test names the receiver {test.receiver!r}; there are: {there}")
        got = [
            {"at": at, "status": body["status"], "alerts": sorted(map(_said, body["alerts"]), key=repr)}
            for at, receiver, body in self.told
            if receiver == test.receiver and at <= until
        ]
        expected = [_message(one) for one in test.exp_notifications or ()]
        if got == expected:
            return []
        where = f"notifications of {test.receiver}, time: {duration_text(until)}"
        return [_difference(self.test.title, where, expected, got)]


def _receivers(folder: Path, route: str | None, statements: Sequence[str], step_ms: int) -> Config:
    """The routes, with one way a receiver: a webhook that is told of what is over where its first way is."""
    if route is None:
        groups = [group for text in statements for group in groups_of(text, step_ms)]
        levels = [
            level
            for group in groups
            for rule in group.rules
            for alert in rule.alerts
            for level in alert.describe()["levels"]
        ]
        names = {name for level in levels if level["route"] for name in level["route"]["receivers"]}
        resolved = dict.fromkeys(["default", *sorted(names)], True)
        raw: dict[str, Any] = {"route": {"receiver": "default"}}
    else:
        config, _ = pipeline.read(folder / route)
        raw = dict(config.raw)
        resolved = {
            one.name: all(way.send_resolved for way in one.integrations[:1]) for one in config.receivers.values()
        }
    nowhere = "http://nowhere.invalid"
    raw["receivers"] = [
        {"name": name, "webhook_configs": [{"url": nowhere, "send_resolved": told}]} for name, told in resolved.items()
    ]
    return amconfig.load(to_yaml(raw), route or "route")


def _wanted(one: Transition) -> dict[str, Any]:
    given = {
        "from": one.before, "to": one.after, "level": one.level, "notified": one.notified, "flapping": one.flapping,
        "muted": one.muted, "labels": one.labels if one.labels is UNSET else label_text(texts(one.labels)),
    }  # fmt: skip
    return {"at": length(one.at), **{name: value for name, value in given.items() if value is not UNSET}}


def _message(one: Notification) -> dict[str, Any]:
    alerts = [_told(alert, one.status) for alert in one.exp_alerts or ()]
    return {"at": length(one.at), "status": one.status, "alerts": sorted(alerts, key=repr)}


def _told(alert: ToldAlert, status: str) -> _Said:
    return alert.status or status, _sorted(texts(alert.exp_labels)), _sorted(texts(alert.exp_annotations))


def _said(alert: dict[str, Any]) -> _Said:
    return alert["status"], _sorted(alert["labels"]), _sorted(alert["annotations"])


def _sorted(pairs: Labels) -> Labels:
    return dict(sorted(pairs.items()))


def _difference(title: str, where: str, expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> str:
    def lines(rows: list[dict[str, Any]]) -> str:
        pad = "\n" + " " * 12
        return "".join(pad + _shown(row) for row in rows) or " none"

    return f"{title}    {where},\n        exp:{lines(expected)}\n        got:{lines(got)}"


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {duration_text(value) if name == 'at' else value}" for name, value in row.items())
