"""Statements to Prometheus rules and Alertmanager configuration, and back where the rules were not edited.

A `Statement` is what this needs of an alert statement, in plain values; `Statement.of` reads it from a mapping.
`portable` uses standard keys alone and lists whatever has no exact form. `native` has each statement in a comment above
its rules, with a hash of each, so that `restore` finds it again, in its group.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from metricsdb.alerts.documents import to_yaml
from metricsdb.alerts.evaluate import hint
from metricsdb.alerts.groups import Group
from metricsdb.alerts.model import RouteHint
from metricsdb.alerts.rules import Group as RuleGroup
from metricsdb.alerts.rules import RuleFile, embedded, load, statement
from metricsdb.alerts.templates.values import go_float, quote
from metricsdb.errors import ConfigError
from metricsdb.times import duration_text

__all__ = [
    "Exported",
    "Level",
    "Recording",
    "Statement",
    "StatementGroup",
    "installed",
    "native",
    "portable",
    "restore",
]


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One condition. ``of``: k of n instead of ``for_ms``. ``name`` is empty for an alert without levels.

    ``clear_at`` needs ``expr``, ``op`` and ``threshold``, the parts of ``when``.
    """

    when: str
    name: str = ""
    expr: str | None = None
    op: str | None = None
    threshold: str | None = None
    for_ms: int = 0
    of: tuple[int, int] | None = None
    clear_when: str | None = None
    clear_at: float | None = None
    clear_for_ms: int = 0
    clear_of: tuple[int, int] | None = None
    keep_ms: int = 0
    hold_ms: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    route: RouteHint | None = None


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `ALERT`; ``text`` is the statement itself. ``levels``: lowest first."""

    name: str
    levels: list[Level]
    text: str = ""
    by: list[str] | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    keep_ms: int = 0
    hold_ms: int = 0
    cooldown_ms: int = 0
    flap: dict[str, Any] | None = None
    no_data: str = "CLEAR"
    error: str = "KEEP"
    inhibited_by: str | None = None
    inhibited_on: list[str] = []
    during: str | None = None
    not_during: str | None = None
    cap: int | None = None
    route: RouteHint | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Statement:
        """From plain values, as the parser prints them. Raises ``ConfigError``."""
        made: Statement = _converted(value, cls)
        return made


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `RECORD`."""

    record: str
    expr: str
    labels: dict[str, str] = {}
    text: str = ""
    backfill_ms: int = 0


class StatementGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `GROUP`."""

    name: str
    statements: list[Statement | Recording]
    interval_ms: int | None = None
    offset_ms: int = 0
    labels: dict[str, str] = {}
    limit: int | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> StatementGroup:
        """From plain values, as the parser prints them: an alert has ``name``, a recording ``record``."""
        given = dict(value)
        unknown = set(given) - set(cls.__struct_fields__)
        if unknown or not given.get("name"):
            said = f"has {sorted(unknown)}, which it knows not" if unknown else "has no name"
            raise ConfigError(f"group {given.get('name')!r} {said}; it has {', '.join(cls.__struct_fields__)}")
        kinds = [Recording if "record" in one else Statement for one in given.pop("statements", ())]
        statements = [_converted(one, kind) for one, kind in zip(value.get("statements", ()), kinds, strict=True)]
        return cls(statements=statements, **given)


# A comparison with a number, as the language prints it: the last operator is the topmost one.
_COMPARISON = re.compile(r"(?P<expr>.+) (?P<op>[<>]=?|==|!=) (?P<threshold>-?[0-9.][0-9.e+-]*)", re.DOTALL)


def installed(groups: Iterable[Group]) -> list[StatementGroup]:
    """What runs, as this module takes it. An SLO is its alerts."""
    made = []
    for group in groups:
        statements: list[Statement | Recording] = []
        for rule in group.rules:
            if rule.record is not None:
                statements.append(Recording(rule.name, rule.expr, dict(rule.labels), rule.text, rule.backfill_ms or 0))
            statements += [_described(alert.describe(), alert.text) for alert in rule.alerts]
        made.append(StatementGroup(group.name, statements, group.every_ms, group.offset_ms, limit=group.limit))
    return made


def _described(said: Mapping[str, Any], text: str) -> Statement:
    inhibited, flap = said["inhibited"], said["flap"]
    if len(inhibited) > 1:
        raise ConfigError(f"{said['name']}: more than one INHIBITED BY cannot be exported; leave one")
    during = dict(said["during"])
    return Statement(
        said["name"],
        [_level(level) for level in said["levels"]],
        text,
        said["by"],
        cooldown_ms=said["cooldown_ms"] or 0,
        flap=None if flap is None else dict(zip(("changes", "window_ms", "until_ms", "then"), flap, strict=True)),
        no_data=said["nodata"][0].upper() if said["nodata"] else "CLEAR",
        error=said["error"].upper() if said["error"] else "KEEP",
        inhibited_by=inhibited[0][0] if inhibited else None,
        inhibited_on=list(inhibited[0][1] or ()) if inhibited else [],
        during=during.get(False),
        not_during=during.get(True),
        cap=said["cap"],
    )


def _level(said: Mapping[str, Any]) -> Level:
    parts = _COMPARISON.fullmatch(said["expr"]) if said["clear_at"] is not None else None
    compared = parts.groupdict() if parts is not None else {}
    fire, clear = said["for"], said["clear_for"]
    return Level(
        said["expr"],
        said["name"] or "",
        for_ms=fire[0] if len(fire) == 1 else 0,
        of=tuple(fire) if len(fire) == 2 else None,
        clear_when=said["clear_when"],
        clear_at=said["clear_at"],
        clear_for_ms=clear[0] if len(clear) == 1 else 0,
        clear_of=tuple(clear) if len(clear) == 2 else None,
        keep_ms=said["keep_firing_ms"],
        hold_ms=said["hold_ms"],
        labels=dict(said["labels"]),
        annotations=dict(said["annotations"]),
        route=hint(said["route"]),
        **compared,
    )


def _converted(value: Mapping[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(dict(value), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"statement {value.get('name', dict(value))!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Exported:
    """``rules``: the rule file. ``alertmanager``: `inhibit_rules` and `routes` to put into its configuration.

    ``inexact``: what has no exact form there, a line each: the alert's name, the clause, what it became.
    """

    rules: RuleFile
    alertmanager: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    inexact: list[str] = field(default_factory=list)


def portable(groups: Iterable[StatementGroup], *, refuse: bool = False, step_ms: int = 60_000) -> Exported:
    """The rules that mean the same to Prometheus, or nearly so. ``step_ms``: interval of groups that name none.

    ``refuse``: raise ``ConfigError`` instead of listing what is not exact.
    """
    made = _Export()
    for group in groups:
        made.group(group, group.interval_ms or step_ms)
    if refuse and made.inexact:
        raise ConfigError("no exact form in Prometheus: " + "; ".join(made.inexact))
    alertmanager = {k: v for k, v in (("inhibit_rules", made.inhibit), ("routes", made.routes)) if v}
    return Exported(load(to_yaml({"groups": made.groups}), "export"), alertmanager, made.inexact)


class _Export:
    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []
        self.inhibit: list[dict[str, Any]] = []
        self.routes: list[dict[str, Any]] = []
        self.inexact: list[str] = []

    def group(self, group: StatementGroup, step_ms: int) -> None:
        rules: list[dict[str, Any]] = []
        for one in group.statements:
            rules += [_recorded(one)] if isinstance(one, Recording) else self.alert(one, step_ms)
            if isinstance(one, Recording) and one.backfill_ms:
                self.inexact.append(f"{one.record}: BACKFILL is left out")
        made: dict[str, Any] = {"name": group.name}
        made |= {"interval": duration_text(group.interval_ms)} if group.interval_ms else {}
        made |= {"query_offset": duration_text(group.offset_ms)} if group.offset_ms else {}
        if group.limit is not None:
            made["limit"] = group.limit
            levels = [one.name for one in group.statements if isinstance(one, Statement) and len(one.levels) > 1]
            self.inexact += [f"{name}: LIMIT counts each level for itself" for name in levels]
        if group.labels:
            # Older servers know no labels of a group: each rule gets them.
            for rule in rules:
                rule["labels"] = group.labels | rule.get("labels", {})
        self.groups.append(made | {"rules": rules})

    def alert(self, alert: Statement, step_ms: int) -> list[dict[str, Any]]:
        def note(clause: str, became: str = "is left out") -> None:
            self.inexact.append(f"{alert.name}: {clause} {became}")

        for clause, there in (
            ("COOLDOWN", alert.cooldown_ms), ("FLAP", alert.flap), ("CAP", alert.cap is not None),
            ("ON NODATA", alert.no_data != "CLEAR"), ("ON ERROR", alert.error != "KEEP"),
        ):  # fmt: skip
            if there:
                note(clause)
        rules = []
        for level in alert.levels:
            labels = alert.labels | ({"severity": level.name} if level.name else {}) | level.labels
            rule: dict[str, Any] = {"alert": alert.name, "expr": self.expr(alert, level, labels, step_ms, note)}
            if level.for_ms:
                rule["for"] = duration_text(level.for_ms)
            keep = self.keep(alert, level, note)
            if keep:
                rule["keep_firing_for"] = duration_text(keep)
            annotations = alert.annotations | level.annotations
            rule |= {"labels": labels} if labels else {}
            rule |= {"annotations": annotations} if annotations else {}
            rules.append(rule)
            self.routed(alert, level, level.route or alert.route)
        self.inhibited(alert, note)
        return rules

    def expr(self, alert: Statement, level: Level, labels: Mapping[str, str], step_ms: int, note: Any) -> str:
        fire = embedded(level.when)
        if level.of is not None:
            k, n = level.of
            window = f"[{duration_text(n * step_ms - 1)}:{duration_text(step_ms)}]"
            fire = f"count_over_time(({fire}){window}) >= {k}"
            note(f"FOR {k} OF {n}", "is a subquery: counted at multiples of the interval, and the value is the count")
        if level.clear_when is None and level.clear_at is None:
            return fire.rstrip("\n")
        own = {"alertname": alert.name, "alertstate": "firing"} | {k: v for k, v in labels.items() if "{{" not in v}
        firing = "ALERTS{" + ",".join(f"{k}={quote(v)}" for k, v in own.items()) + "}"
        static = ["alertname", "alertstate", *labels]
        match = f"on({', '.join(alert.by)})" if alert.by is not None else f"ignoring({', '.join(static)})"
        if level.clear_at is not None:
            if level.expr is None or level.op is None:
                raise ConfigError(f"{alert.name}: CLEAR AT needs a comparison; give the parts of WHEN")
            stays = f"({embedded(level.expr)}) {level.op} {go_float(float(level.clear_at), 'g', -1)}"
            return f"({fire}) or (({stays}) and {match} {firing})"
        note("CLEAR WHEN", "keeps an alert whose expression is gone with the value 1")
        kept = f"max by ({', '.join(alert.by)}) ({firing})" if alert.by is not None else firing
        back = f"{kept} unless {match} ({embedded(str(level.clear_when))})"
        if alert.by is None:
            back = f"max without ({', '.join(static)}) ({firing}) unless ({embedded(str(level.clear_when))})"
        joined = f"or {match}" if alert.by is not None else "or"
        return f"({fire}) {joined} ({back})"

    def keep(self, alert: Statement, level: Level, note: Any) -> int:
        """`keep_firing_for`: the damp of clearing, or what the statement keeps."""
        keep, hold = level.keep_ms or alert.keep_ms, level.hold_ms or alert.hold_ms
        if hold:
            note("HOLD")
        if level.clear_of is not None:
            note("CLEAR … FOR k OF n")
        if level.clear_for_ms and keep:
            note("KEEP FIRING FOR", "and the damp of CLEAR are one keep_firing_for, the longer one")
        return max(level.clear_for_ms, keep)

    def inhibited(self, alert: Statement, note: Any) -> None:
        named = f"alertname={quote(alert.name)}"
        for low, high in zip(alert.levels, alert.levels[1:], strict=False):
            if alert.by is None:
                note("LEVEL", f"{low.name} is not inhibited by {high.name}: BY names the labels that are equal")
                continue
            above = [above.name for above in alert.levels[alert.levels.index(high) :]]
            source = f"severity=~{quote('|'.join(map(re.escape, above)))}"
            self.inhibit.append(
                {
                    "source_matchers": [named, source],
                    "target_matchers": [named, f"severity={quote(low.name)}"],
                    "equal": list(alert.by),
                }
            )
        if alert.inhibited_by is not None:
            source = f"alertname={quote(alert.inhibited_by)}"
            rule = {"source_matchers": [source], "target_matchers": [named]}
            self.inhibit.append(rule | ({"equal": alert.inhibited_on} if alert.inhibited_on else {}))

    def routed(self, alert: Statement, level: Level, route: RouteHint | None) -> None:
        matchers = [f"alertname={quote(alert.name)}"]
        matchers += [f"severity={quote(level.name)}"] if level.name else []
        times = {"active_time_intervals": [alert.during]} if alert.during else {}
        times |= {"mute_time_intervals": [alert.not_during]} if alert.not_during else {}
        if route is None:
            if times:
                self.inexact.append(f"{alert.name}: DURING needs ROUTE TO, it is left out")
            return
        given: dict[str, Any] = {"group_by": list(route.group_by)} if route.group_by is not None else {}
        for key, ms in (("wait", route.wait_ms), ("interval", route.interval_ms)):
            given |= {f"group_{key}": duration_text(ms)} if ms is not None else {}
        given |= {"repeat_interval": duration_text(route.repeat_ms)} if route.repeat_ms is not None else {}
        for i, receiver in enumerate(route.receivers, 1):
            more = {"continue": True} if i < len(route.receivers) else {}
            self.routes.append({"matchers": matchers, "receiver": receiver} | given | times | more)


def _recorded(one: Recording) -> dict[str, Any]:
    return {"record": one.record, "expr": one.expr} | ({"labels": one.labels} if one.labels else {})


# --- native: the statements in comments -----------------------------------------------------------

_MARK = re.compile(r"^ *# metricsdb statement ((?:[0-9a-f]{16} ?)+)$", re.MULTILINE)
_LABELS = re.compile(r"^ *# metricsdb group (\[.*\])$", re.MULTILINE)
_LINE = re.compile(r"^ *# \| ?(.*)$")


def _hash(rule: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rule, sort_keys=True, default=str).encode()).hexdigest()[:16]


def native(groups: Sequence[StatementGroup], *, step_ms: int = 60_000) -> str:
    """The portable rules as YAML, each statement's ``text`` in a comment above its first rule, and a group's labels."""
    plain = portable(groups, step_ms=step_ms).rules.plain()
    lines = ["groups:"]
    for group, made in zip(groups, plain["groups"], strict=True):
        head = to_yaml([{k: v for k, v in made.items() if k != "rules"}])
        lines += [*head.rstrip("\n").split("\n"), "  rules:" if made["rules"] else "  rules: []"]
        lines += [f"    # metricsdb group {json.dumps([group.name, group.labels])}"] if group.labels else []
        rules = list(made["rules"])
        for one in group.statements:
            count = len(one.levels) if isinstance(one, Statement) else 1
            mine, rules = rules[:count], rules[count:]
            lines.append("    # metricsdb statement " + " ".join(map(_hash, mine)))
            lines += [f"    # | {line}".rstrip() for line in one.text.split("\n")]
            for rule in mine:
                lines += ["    " + line for line in to_yaml([rule]).rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n"


def _labels(file: str, mark: re.Match[str]) -> tuple[str, dict[str, str]]:
    """A group and its labels, as `native` notes them."""
    try:
        return msgspec.json.decode(mark[1], type=tuple[str, dict[str, str]])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file}: {mark[0].strip()!r}: {error}; take that comment out") from None


def restore(text: str, name: str = "rules") -> tuple[str, list[str]]:
    """The file as statements, in its groups, and what they leave out of it, as `RuleFile.to_statements`.

    Where the rules of a statement stand as they were written, it is that statement; a rule that was edited is taken as
    it is now, and its statement's other rules with it. Raises ``ConfigError``.
    """
    file = load(text, name)
    found: list[tuple[list[str], str]] = []
    lines = text.split("\n")
    for i, line in enumerate(lines):
        mark = _MARK.match(line)
        if mark is None:
            continue
        body = []
        for following in lines[i + 1 :]:
            inside = _LINE.match(following)
            if inside is None:
                break
            body.append(inside[1])
        found.append((mark[1].split(), "\n".join(body)))
    labels = dict(_labels(name, mark) for mark in _LABELS.finditer(text))
    left_out = [f"the file's {key!r}" for key in file.raw]
    blocks = []
    for group in file.groups:
        kept, statements, at = [], [], 0
        hashes = [_hash(rule.raw) for rule in group.rules]
        while at < len(hashes):
            match = next((one for one in found if hashes[at : at + len(one[0])] == one[0]), None)
            if match is None:
                kept.append(group.rules[at])
            statements.append(statement(group.rules[at]) if match is None else match[1])
            at += 1 if match is None else len(match[0])
        left_out += RuleGroup(group.raw, tuple(kept)).left_out()
        own = {"labels": labels[group.name]} if group.name in labels else {}
        blocks.append(RuleGroup({**group.raw, **own}, ()).block(statements))
    return "\n\n".join(blocks) + "\n", left_out
