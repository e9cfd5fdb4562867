"""An in-process router with Alertmanager's meaning, as a chain of stages that ends in notifications.

`receive` puts alerts into groups of the routes that take them. `tick` flushes the groups that are due: each group's
alerts pass inhibition, time intervals and silences, and what the receiver was not told yet becomes a `Notification`.
Time comes from the caller alone, nothing runs by itself, and all state is plain data (`state`, `restore`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cmp_to_key
from itertools import chain
from typing import Any

import polars as pl

from metricsdb.alerts.amconfig import Config, InhibitRule, Integration, Route
from metricsdb.alerts.matchers import Matcher, matches, shown
from metricsdb.alerts.model import PostableAlert, RouteHint
from metricsdb.alerts.silences import Silence, Silences
from metricsdb.alerts.templates.values import quote
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME

__all__ = ["Held", "Notification", "Router"]

# How long after a group lost its last alert another one finds it as it is, as Alertmanager's sweep each 30 s.
_EMPTY_KEPT_MS = 30_000
_LOG_KEPT_MS = 120 * 3_600_000
# Values of the equal labels -> sources that are no targets, sources that are.
_Sources = dict[tuple[str, ...], tuple[list[PostableAlert], list[PostableAlert]]]


@dataclass(frozen=True, slots=True)
class Notification:
    """What one integration of one receiver is to be told.

    ``key``: the same for the same message, another for any other; receivers may use it to drop repeats.
    """

    receiver: str
    integration: Integration
    group_key: str
    group_labels: Mapping[str, str]
    alerts: tuple[PostableAlert, ...]
    at_ms: int
    key: str

    @property
    def status(self) -> str:
        return "resolved" if all(alert.resolved(self.at_ms) for alert in self.alerts) else "firing"


@dataclass(frozen=True, slots=True)
class Held:
    """An alert that fires. ``silenced_by``: ids of silences; ``inhibited_by``: fingerprints of alerts."""

    alert: PostableAlert
    receivers: tuple[str, ...]
    silenced_by: tuple[str, ...]
    inhibited_by: tuple[str, ...]


@dataclass(slots=True)
class _Entry:
    """What a receiver was told of a group last: fingerprints by state."""

    at_ms: int
    firing: set[str]
    resolved: set[str]
    forget_ms: int


@dataclass(slots=True)
class _Group:
    route: Route
    labels: dict[str, str]
    key: str
    next_ms: int
    flushed: bool = False
    alerts: dict[str, PostableAlert] = field(default_factory=dict)
    empty_ms: int | None = None


class Router:
    """See the module. ``max_groups``: beyond it, new groups are refused (`refused` counts them). Not for threads."""

    def __init__(self, config: Config, *, max_groups: int = 100_000) -> None:
        self.config = config
        self.silences = Silences()
        self.max_groups = max_groups
        self.refused = 0
        # Alerts that did not pass a flush: `inhibited`, `interval`, `silenced`.
        self.muted: Counter[str] = Counter()
        self._alerts: dict[str, PostableAlert] = {}
        self._timeouts: dict[str, bool] = {}
        self._groups: dict[tuple[str, tuple[tuple[str, str], ...]], _Group] = {}
        self._log: dict[str, _Entry] = {}
        self._sources: list[_Sources] | None = None

    # --- in ---------------------------------------------------------------------------------------

    def receive(
        self, alerts: Iterable[PostableAlert], now_ms: int, hints: Mapping[str, RouteHint] | None = None
    ) -> None:
        """Takes alerts as a sender posts them, again and again while they fire. O(alerts x routes).

        ``hints``, by fingerprint, take the place of the tree where it knows one of their receivers.

        One without an end counts as resolved ``resolve_timeout`` after it was last sent. Raises ``ConfigError`` for an
        alert without labels or that ends before it starts; those before it are taken.
        """
        hints = hints or {}
        for posted in alerts:
            alert, timeout = self._completed(posted, now_ms)
            known = self._alerts.get(alert.fingerprint)
            if known is not None and _overlap(alert, known):
                alert = _merged(alert, known, self._timeouts[alert.fingerprint], now_ms)
            self._alerts[alert.fingerprint], self._timeouts[alert.fingerprint] = alert, timeout
            self._sources = None
            for route in self._routes(alert, hints.get(posted.fingerprint)):
                self._insert(route, alert, now_ms)

    def _routes(self, alert: PostableAlert, hint: RouteHint | None) -> list[Route]:
        name, known = alert.labels.get("alertname", ""), self.config.receivers
        made = [] if hint is None else [_made(self.config, name, one, hint) for one in hint.receivers if one in known]
        return made or self.config.route.match(alert.labels)

    def _completed(self, alert: PostableAlert, now_ms: int) -> tuple[PostableAlert, bool]:
        labels = {name: value for name, value in alert.labels.items() if value}
        if not labels:
            raise ConfigError(f"alert {alert!r} has no labels; give at least alertname")
        starts, ends, timeout = alert.starts_at_ms, alert.ends_at_ms, alert.ends_at_ms is None
        if ends is None:
            starts, ends = starts or now_ms, now_ms + self.config.resolve_timeout_ms
        starts = starts or ends
        if ends < starts:
            raise ConfigError(f"alert {labels} ends before it starts")
        print_ = alert.fingerprint if len(labels) == len(alert.labels) else ""
        made = replace(alert, labels=labels, starts_at_ms=starts, ends_at_ms=ends, fingerprint=print_)
        return made, timeout

    def _insert(self, route: Route, alert: PostableAlert, now_ms: int) -> None:
        labels = _group_labels(route, alert.labels)
        at = (route.id, tuple(sorted(labels.items())))
        group = self._groups.get(at)
        if group is not None and group.empty_ms is not None and now_ms >= group.empty_ms + _EMPTY_KEPT_MS:
            group = None
        if group is None:
            if at not in self._groups and len(self._groups) >= self.max_groups:
                self.refused += 1
                return
            due_ms = now_ms + route.group_wait_ms
            group = self._groups[at] = _Group(route, labels, _group_key(route, labels), due_ms)
        group.alerts[alert.fingerprint] = alert
        group.empty_ms = None
        if not group.flushed and alert.starts_at_ms + route.group_wait_ms < now_ms:
            group.next_ms = now_ms

    # --- out --------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        """When `tick` has something to look at; None: nothing is there."""
        return min((group.next_ms for group in self._groups.values()), default=None)

    def tick(self, now_ms: int) -> list[Notification]:
        """Flushes each group that is due, once, and returns what is to be sent. O(groups + alerts that are due)."""
        due = sorted((g for g in self._groups.values() if g.next_ms <= now_ms), key=lambda g: (g.next_ms, g.key))
        made: list[Notification] = []
        for group in due:
            made += self._flush(group, now_ms)
        self._sweep(now_ms)
        return made

    def _flush(self, group: _Group, now_ms: int) -> list[Notification]:
        step = group.route.group_interval_ms
        group.next_ms += step * ((now_ms - group.next_ms) // step + 1)
        group.flushed = True
        # What fires has no end in a notification: who reads it later must not take it for resolved.
        alerts = [a if a.resolved(now_ms) else replace(a, ends_at_ms=None) for a in group.alerts.values()]
        alerts.sort(key=cmp_to_key(lambda a, b: _compared(a.labels, b.labels)))
        reasons = [self._muted(group.route, alert, now_ms) for alert in alerts]
        self.muted.update(_kind(reason) for reason in reasons if reason is not None)
        passed = [alert for alert, reason in zip(alerts, reasons, strict=True) if reason is None]
        made: list[Notification] = []
        if passed:
            for integration in self.config.receivers[group.route.receiver].integrations:
                made += self._notify(group, integration, passed, now_ms)
        for alert in alerts:
            if alert.resolved(now_ms):
                del group.alerts[alert.fingerprint]
        if not group.alerts and group.empty_ms is None:
            group.empty_ms = now_ms
        return made

    def _notify(
        self, group: _Group, integration: Integration, alerts: list[PostableAlert], now_ms: int
    ) -> list[Notification]:
        """The last stages: nothing that the receiver knows already, unless it is time to repeat it."""
        name = f"{group.route.receiver}/{integration.kind}/{integration.index} {group.key}"
        firing = {a.fingerprint for a in alerts if not a.resolved(now_ms)}
        resolved = {a.fingerprint for a in alerts} - firing
        entry = self._log.get(name)
        if not _needs_update(entry, firing, resolved, integration, now_ms - group.route.repeat_interval_ms):
            return []
        sent = [a for a in alerts if integration.send_resolved or not a.resolved(now_ms)]
        kept = min(_LOG_KEPT_MS, 2 * group.route.repeat_interval_ms)
        self._log[name] = _Entry(now_ms, firing, resolved, now_ms + kept)
        if not sent:
            return []
        said = repr((name, now_ms, [(a.fingerprint, a.starts_at_ms, a.resolved(now_ms)) for a in sent]))
        key = hashlib.sha256(said.encode()).hexdigest()[:32]
        receiver = group.route.receiver
        return [Notification(receiver, integration, group.key, dict(group.labels), tuple(sent), now_ms, key)]

    def _sweep(self, now_ms: int) -> None:
        gone = [k for k, g in self._groups.items() if g.empty_ms is not None and now_ms >= g.empty_ms + _EMPTY_KEPT_MS]
        for key in gone:
            del self._groups[key]
        used = {print_ for group in self._groups.values() for print_ in group.alerts}
        for print_ in [p for p, a in self._alerts.items() if a.resolved(now_ms) and p not in used]:
            del self._alerts[print_], self._timeouts[print_]
            self._sources = None
        self._log = {name: entry for name, entry in self._log.items() if entry.forget_ms > now_ms}
        self.silences.forget(now_ms)

    # --- muting -----------------------------------------------------------------------------------

    def _muted(self, route: Route, alert: PostableAlert, now_ms: int) -> str | None:
        """Why an alert does not pass; the order is that of Alertmanager's stages."""
        by = self._inhibitor(alert.labels, now_ms)
        if by is not None:
            return f"inhibited by {dict(by.labels)}"
        contained = {n: any(i.contains(now_ms) for i in self.config.intervals[n]) for n in (*route.active, *route.mute)}
        if route.active and not any(contained[name] for name in route.active):
            return f"outside of {', '.join(route.active)}"
        muting = [name for name in route.mute if contained[name]]
        if muting:
            return f"muted during {', '.join(muting)}"
        silences = self.silences.muting(alert.labels, now_ms)
        return f"silenced by {', '.join(one.id for one in silences)}" if silences else None

    def _inhibitor(self, labels: Mapping[str, str], now_ms: int) -> PostableAlert | None:
        if self._sources is None:
            self._sources = [_sources(rule, self._alerts.values()) for rule in self.config.inhibit_rules]
        for rule, sources in zip(self.config.inhibit_rules, self._sources, strict=True):
            if matches(rule.target, labels):
                alone, both = sources.get(tuple(labels.get(name, "") for name in rule.equal), ((), ()))
                # One that is source and target at once never inhibits another of that kind.
                others = () if matches(rule.source, labels) else both
                found = next((one for one in chain(alone, others) if not one.resolved(now_ms)), None)
                if found is not None:
                    return found
        return None

    # --- looking at it ----------------------------------------------------------------------------

    def explain(self, alert: PostableAlert, now_ms: int, hint: RouteHint | None = None) -> pl.DataFrame:
        """Where an alert would go and why it may not: nothing is changed or sent.

        A row a route: ``route``, ``receiver``, ``integrations`` (list), ``group`` (its key), ``muted`` (null: it
        passes), ``flush`` (Datetime: when its group is looked at next), ``told`` (whether the receiver knows already).
        """
        rows = []
        alert, _ = self._completed(alert, now_ms)
        for route in self._routes(alert, hint):
            labels = _group_labels(route, alert.labels)
            group = self._groups.get((route.id, tuple(sorted(labels.items()))))
            key = _group_key(route, labels)
            late = alert.starts_at_ms + route.group_wait_ms < now_ms
            flush = group.next_ms if group else now_ms if late else now_ms + route.group_wait_ms
            integrations = self.config.receivers[route.receiver].integrations
            names = [f"{route.receiver}/{one.kind}/{one.index} {key}" for one in integrations]
            told = any(name in self._log and alert.fingerprint in self._log[name].firing for name in names)
            kinds = [f"{one.kind}[{one.index}]" for one in integrations]
            muted = self._muted(route, alert, now_ms)
            rows.append((route.key, route.receiver, kinds, key, muted, flush, told))
        schema: dict[str, Any] = {
            "route": pl.String, "receiver": pl.String, "integrations": pl.List(pl.String), "group": pl.String,
            "muted": pl.String, "flush": pl.Int64, "told": pl.Boolean,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("flush").cast(TIME))

    def held(self, now_ms: int) -> list[Held]:
        """The alerts that fire, oldest first, with where they go and what holds them back."""
        receivers: dict[str, list[str]] = {}
        for group in self._groups.values():
            for print_ in group.alerts:
                receivers.setdefault(print_, []).append(group.route.receiver)
        found = []
        for alert in self._alerts.values():
            if not alert.resolved(now_ms):
                by = self._inhibitor(alert.labels, now_ms)
                silences = tuple(one.id for one in self.silences.muting(alert.labels, now_ms))
                names = tuple(sorted(set(receivers.get(alert.fingerprint, ()))))
                found.append(Held(alert, names, silences, () if by is None else (by.fingerprint,)))
        return sorted(found, key=lambda one: (one.alert.starts_at_ms, one.alert.fingerprint))

    # --- state ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What was said to whom, silences, alerts and groups, as plain values for JSON: sections of entries by name, so
        that an outbox can write those alone that changed."""
        alerts = {p: [_plain(a), self._timeouts[p]] for p, a in self._alerts.items()}
        log = {n: [e.at_ms, sorted(e.firing), sorted(e.resolved), e.forget_ms] for n, e in self._log.items()}
        groups = {
            json.dumps(key): [*key, g.next_ms, g.flushed, list(g.alerts), g.empty_ms] for key, g in self._groups.items()
        }
        silences = {one.id: one.plain() for one in self.silences.list()}
        return {"alerts": alerts, "log": log, "groups": groups, "silences": silences}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`. Groups of routes that are no more are left out; their alerts come again."""
        self.silences = Silences(map(Silence.of, state["silences"].values()))
        self._log = {n: _Entry(at, set(f), set(r), until) for n, (at, f, r, until) in state["log"].items()}
        self._alerts, self._timeouts, self._groups, self._sources = {}, {}, {}, None
        for plain, timeout in state["alerts"].values():
            alert = PostableAlert(**plain)
            self._alerts[alert.fingerprint], self._timeouts[alert.fingerprint] = alert, timeout
        routes = {route.id: route for route in self.config.route.walk()}
        for id_, pairs, next_ms, flushed, alerts, empty_ms in state["groups"].values():
            route = routes.get(id_) or _made_again(self.config, id_)
            if route is None:
                continue
            labels = dict(pairs)
            held = {print_: self._alerts[print_] for print_ in alerts}
            group = _Group(route, labels, _group_key(route, labels), next_ms, flushed, held, empty_ms)
            self._groups[id_, tuple(sorted(labels.items()))] = group


def _made(config: Config, alertname: str, receiver: str, hint: RouteHint) -> Route:
    """The route that a statement's `ROUTE` stands for: what it does not say is the root's. Its id says all of it."""
    root, matchers = config.route, (Matcher("alertname", alertname),)
    given = (hint.group_by, hint.wait_ms, hint.interval_ms, hint.repeat_ms)
    # Levels of one alert may have different ones: what a receiver was told of is kept by this key.
    key = " ".join([f"{root.key}/{shown(matchers)}", *(str(one) for one in given if one is not None)])
    return Route(
        json.dumps([alertname, receiver, *given]),
        key,
        receiver,
        matchers,
        root.group_by if hint.group_by is None else hint.group_by,
        root.group_wait_ms if hint.wait_ms is None else hint.wait_ms,
        hint.interval_ms or root.group_interval_ms,
        hint.repeat_ms or root.repeat_interval_ms,
    )


def _made_again(config: Config, id_: str) -> Route | None:
    if not id_.startswith("["):
        return None
    alertname, receiver, group_by, *waits = json.loads(id_)
    hint = RouteHint((receiver,), None if group_by is None else tuple(group_by), *waits)
    return _made(config, alertname, receiver, hint) if receiver in config.receivers else None


def _group_labels(route: Route, labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if route.group_by is None or name in route.group_by}


def _group_key(route: Route, labels: Mapping[str, str]) -> str:
    return f"{route.key}:{{{', '.join(f'{name}={quote(labels[name])}' for name in sorted(labels))}}}"


def _kind(reason: str) -> str:
    word = reason.partition(" ")[0]
    return word if word in ("inhibited", "silenced") else "interval"


def _needs_update(
    entry: _Entry | None, firing: set[str], resolved: set[str], integration: Integration, repeat_before_ms: int
) -> bool:
    if entry is None:
        return bool(firing)
    if not firing <= entry.firing:
        return True
    if not firing:
        return bool(entry.firing)
    if integration.send_resolved and not resolved <= entry.resolved:
        return True
    return entry.at_ms < repeat_before_ms


def _overlap(new: PostableAlert, old: PostableAlert) -> bool:
    return _between(new.ends_at_ms or 0, old) or _between(new.starts_at_ms, old)


def _between(at_ms: int, alert: PostableAlert) -> bool:
    return alert.starts_at_ms < at_ms < (alert.ends_at_ms or 0)


def _merged(new: PostableAlert, old: PostableAlert, old_timeout: bool, now_ms: int) -> PostableAlert:
    """Two sendings of one alert that overlap: the earlier start; an end that a sender gave before one that we set."""
    ends, old_ends = new.ends_at_ms or 0, old.ends_at_ms or 0
    if new.resolved(now_ms):
        ends = max(ends, old_ends) if old.resolved(now_ms) else ends
    elif old_ends > ends and not old_timeout:
        ends = old_ends
    return replace(new, starts_at_ms=min(new.starts_at_ms, old.starts_at_ms), ends_at_ms=ends)


def _sources(rule: InhibitRule, alerts: Iterable[PostableAlert]) -> _Sources:
    """The alerts that may inhibit by a rule, by their equal labels: those that are no targets, and those that are."""
    found: _Sources = {}
    for alert in alerts:
        if matches(rule.source, alert.labels):
            at = tuple(alert.labels.get(name, "") for name in rule.equal)
            found.setdefault(at, ([], []))[matches(rule.target, alert.labels)].append(alert)
    return found


def _plain(alert: PostableAlert) -> dict[str, Any]:
    names = ("labels", "annotations", "starts_at_ms", "ends_at_ms", "generator_url", "fingerprint")
    return {name: getattr(alert, name) for name in names}


def _compared(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """Alertmanager's order of alerts in a message: by job and instance, those without them last; then those with fewer
    labels first, and by the first label that differs, those without it first."""
    for name in ("job", "instance"):
        a, b = ((name not in labels, labels.get(name, "")) for labels in (one, other))
        if a != b:
            return -1 if a < b else 1
    if len(one) != len(other):
        return len(one) - len(other)
    for name in sorted(one.keys() | other.keys()):
        a, b = ((name in labels, labels.get(name, "")) for labels in (one, other))
        if a != b:
            return -1 if a < b else 1
    return 0
