"""What is installed: groups of statements, each with what its native rule holds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metricsdb._native import AlertRule, NativeDatabase, RecordRule
from metricsdb.alerts.templates import check
from metricsdb.errors import ConfigError, TemplateError

__all__ = [
    "Group",
    "Installed",
    "Lint",
    "Rule",
    "check_names",
    "check_texts",
    "difference",
    "groups_of",
    "keys",
    "merge",
]

Kind = Literal["alert", "record", "slo"]
# Where a statement outside of every group belongs.
DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True)
class Lint:
    """What is probably not meant. ``place`` is line:column of the statement as it is printed."""

    statement: str
    check: str
    message: str
    place: str


@dataclass(slots=True, eq=False)
class Rule:
    """One statement. An SLO has an alert a burn rate."""

    kind: Kind
    name: str
    text: str
    labels: dict[str, str] = field(default_factory=dict)
    alerts: list[AlertRule] = field(default_factory=list)
    record: RecordRule | None = None
    expr: str = ""
    backfill_ms: int | None = None
    health: str = "unknown"
    error: str = ""
    evaluated_ms: int | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Group:
    """Rules that are evaluated one after another, at multiples of ``every_ms`` since the epoch."""

    name: str
    every_ms: int
    offset_ms: int = 0
    limit: int | None = None
    """The most alerts or series of one rule."""
    rules: list[Rule] = field(default_factory=list)
    evaluated_ms: int | None = None
    """The last evaluation."""
    evaluations: int = 0
    missed: int = 0
    """Evaluations that were due while nobody called."""
    seconds: float = 0.0
    """Of the last evaluation."""
    seconds_total: float = 0.0
    failures: int = 0
    """Evaluations of one rule that failed, since the database was opened; as ``seconds_total``."""
    told_ms: int | None = None
    """The last evaluation that delivered all that fires; None: none since the database was opened."""

    def due(self, now_ms: int) -> int | None:
        """The evaluation that is due, if one is: the latest; those before it are missed."""
        latest = now_ms - now_ms % self.every_ms
        return latest if self.evaluated_ms is None or latest > self.evaluated_ms else None

    def begin(self, at_ms: int) -> None:
        """Counts an evaluation."""
        if self.evaluated_ms is not None:
            self.missed += (at_ms - self.evaluated_ms - 1) // self.every_ms
        self.evaluated_ms = at_ms
        self.evaluations += 1


@dataclass(frozen=True, slots=True)
class Installed:
    """What ``install`` did: names by what became of them, remarks, and the difference as text.

    ``left_out``: what a file says that statements have no word for, a line each.
    """

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    lints: tuple[Lint, ...]
    diff: str
    left_out: tuple[str, ...] = ()


def _alert_rule(text: str) -> AlertRule:
    return AlertRule(text)


def _rule(statement: Mapping[str, Any]) -> Rule:
    kind, name, text = statement["kind"], statement["name"], statement["text"]
    if kind == "record":
        record = RecordRule(name, statement["expr"], statement["labels"])
        rule = Rule("record", name, text, dict(statement["labels"]), record=record, expr=statement["expr"])
        rule.backfill_ms = statement["backfill_ms"]
        return rule
    alerts = NativeDatabase.slo_alerts(text) if kind == "slo" else [_alert_rule(text)]
    return Rule(kind, name, text, alerts=alerts)


def groups_of(text: str, every_ms: int) -> list[Group]:
    """The groups of a program; statements outside of groups are one that is called ``default``.

    Raises ``ParseError``, and ``ConfigError`` for what cannot be installed: queries, and one name twice in a group.
    """
    found: dict[str, Group] = {}
    for statement in NativeDatabase.statements(text):
        kind = statement["kind"]
        if kind == "group":
            if statement["name"] in found:
                raise ConfigError(f"group {statement['name']!r} stands twice; write its statements together")
            group = Group(statement["name"], statement["every_ms"] or every_ms, statement["offset_ms"] or 0)
            group.limit = statement["limit"]
            group.rules = [_rule(inner) for inner in statement["statements"]]
            found[group.name] = group
        elif kind in ("alert", "record", "slo"):
            found.setdefault(DEFAULT_GROUP, Group(DEFAULT_GROUP, every_ms)).rules.append(_rule(statement))
        else:
            raise ConfigError(f"{statement['text']!r} is a query; install ALERT, RECORD, SLO or GROUP")
    return list(found.values())


def keys(group: Group) -> Iterator[tuple[tuple[str, str, int], Rule]]:
    """What names a rule in a group: kind, name, and which of those of one name it is."""
    seen: dict[tuple[str, str], int] = {}
    for rule in group.rules:
        count = seen.get((rule.kind, rule.name), 0)
        seen[rule.kind, rule.name] = count + 1
        yield (rule.kind, rule.name, count), rule


def merge(known: Mapping[tuple[str, str, int], Rule], group: Group, whole: bool) -> Group:
    """The group as it will be: what has the text that it had is what it was. ``whole``: what is not in it is gone."""
    fresh = dict(keys(group))
    kept = {key: known[key] if key in known and known[key].text == rule.text else rule for key, rule in fresh.items()}
    rest = {} if whole else {key: rule for key, rule in known.items() if key not in fresh}
    order = {**({} if whole else known), **kept, **rest}
    rules = [kept.get(key, rest.get(key, order[key])) for key in order]
    return Group(group.name, group.every_ms, group.offset_ms, group.limit, rules)


def check_names(
    known: Mapping[str, Group],
    fresh: Sequence[Group],
    intervals: Collection[str],
    receivers: Collection[str] | None,
) -> None:
    """Raises ``ConfigError`` where `INHIBITED BY`, `DURING` or `ROUTE TO` name what is not there. ``receivers`` None:
    they are somebody else's."""
    groups = {**known, **{group.name: group for group in fresh}}
    names = {rule.name for group in groups.values() for rule in group.rules if rule.kind != "record"}
    for rule in (rule for group in fresh for rule in group.rules):
        for said in (alert.describe() for alert in rule.alerts):
            for by, _ in said["inhibited"]:
                if by not in names:
                    there = _joined(names - {rule.name})
                    raise ConfigError(f"{rule.name} is INHIBITED BY {by!r}, which is no alert; there are: {there}")
            for to in (to for level in said["levels"] if level["route"] for to in level["route"]["receivers"]):
                if receivers is not None and to not in receivers:
                    there = _joined(receivers)
                    raise ConfigError(f"{rule.name} has ROUTE TO {to!r}, which is no receiver; there are: {there}")
            for _, interval in said["during"]:
                if interval not in intervals:
                    message = f"{rule.name} names the interval {interval!r}, which is not known; there are: "
                    message += _joined(intervals)
                    raise ConfigError(f"{message}; put it into db.alerts.intervals first")


def check_texts(fresh: Sequence[Group]) -> None:
    """Raises ``ConfigError`` for a label or an annotation that is no template: nobody would be told what it says."""
    levels = ((rule, level) for group in fresh for rule in group.rules for alert in rule.alerts
              for level in alert.describe()["levels"])  # fmt: skip
    known: set[str] = set()
    for rule, level in levels:
        for kind in ("labels", "annotations"):
            for name, text in level[kind].items():
                if "{{" in text and text not in known:
                    known.add(text)
                    try:
                        check(text)
                    except TemplateError as error:
                        raise ConfigError(f"{rule.name}: {kind[:-1]} {name!r}: {error}") from None


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def difference(before: Group | None, after: Group) -> str:
    """The lines that change, as a unified diff; empty where none does."""
    old = [] if before is None else "\n".join(rule.text for rule in before.rules).splitlines()
    new = "\n".join(rule.text for rule in after.rules).splitlines()
    return "\n".join(difflib.unified_diff(old, new, f"{after.name} (runs)", f"{after.name} (new)", lineterm="", n=1))
