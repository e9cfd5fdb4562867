"""Prometheus' rule files, in and out without loss, and as text of the statement language.

What was read is kept as it was read (`raw`), so unknown keys, empty maps and the way a duration was written come back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metricsdb._native import NativeDatabase
from metricsdb.alerts.documents import read_yaml, to_yaml
from metricsdb.alerts.templates import check
from metricsdb.alerts.templates.values import quote
from metricsdb.errors import ConfigError, ParseError, TemplateError
from metricsdb.times import duration_ms, duration_text

__all__ = [
    "Group",
    "Rule",
    "RuleFile",
    "embedded",
    "label_map",
    "load",
    "read",
    "statement",
    "statements",
    "word",
]

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_WORD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_ALERT_KEYS = {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
_RECORD_KEYS = {"record", "expr", "labels"}
_GROUP_KEYS = {"name", "interval", "query_offset", "limit", "labels", "rules"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a file; ``raw`` is the mapping as it stood there."""

    raw: Mapping[str, Any]
    where: str = ""

    @property
    def alert(self) -> str | None:
        return None if self.raw.get("alert") is None else str(self.raw["alert"])

    @property
    def record(self) -> str | None:
        return None if self.raw.get("record") is None else str(self.raw["record"])

    @property
    def name(self) -> str:
        return self.alert or self.record or ""

    @property
    def expr(self) -> str:
        return _scalar(self.raw["expr"])

    @property
    def for_ms(self) -> int:
        return _duration(self.raw.get("for"), f"{self.where}: for")

    @property
    def keep_firing_for_ms(self) -> int:
        return _duration(self.raw.get("keep_firing_for"), f"{self.where}: keep_firing_for")

    @property
    def labels(self) -> dict[str, str]:
        return _texts(self.raw.get("labels"))

    @property
    def annotations(self) -> dict[str, str]:
        return _texts(self.raw.get("annotations"))


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other at one time. ``interval_ms`` None: as all others."""

    raw: Mapping[str, Any]
    rules: tuple[Rule, ...]

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    @property
    def interval_ms(self) -> int | None:
        given = self.raw.get("interval")
        return None if given is None else _duration(given, f"group {self.name!r}: interval")

    @property
    def query_offset_ms(self) -> int:
        return _duration(self.raw.get("query_offset"), f"group {self.name!r}: query_offset")

    @property
    def limit(self) -> int:
        return int(self.raw.get("limit") or 0)

    @property
    def labels(self) -> dict[str, str]:
        return _texts(self.raw.get("labels"))

    def left_out(self) -> list[str]:
        """What the statement language has no word for: a line each, naming where."""
        found = [f"group {self.name!r}: {key!r}" for key in self.raw if key not in _GROUP_KEYS]
        for rule in self.rules:
            known = _ALERT_KEYS if rule.alert is not None else _RECORD_KEYS
            found += [f"{rule.where}: {key!r}" for key in rule.raw if key not in known]
        return found

    def block(self, statements: Iterable[str]) -> str:
        """A `GROUP` of this name and these times, around statements."""
        head = f"GROUP {word(self.name)}"
        head += f" EVERY {duration_text(self.interval_ms)}" if self.interval_ms is not None else ""
        head += f" OFFSET {duration_text(self.query_offset_ms)}" if self.query_offset_ms else ""
        head += f" LIMIT {self.limit}" if self.limit > 0 else ""
        head += f" LABELS {label_map(self.labels)}" if self.labels else ""
        # A line that a text in backquotes goes on in would change with an indent.
        lines = ("  " + (text if "`" in text else text.replace("\n", "\n  ")) for text in statements)
        return "\n".join([head + " {", *lines, "}"])


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file of rule groups; ``raw`` has what else stood at its top."""

    groups: tuple[Group, ...]
    raw: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """What a YAML reader makes of the file."""
        groups = []
        for group in self.groups:
            rules = {"rules": [dict(rule.raw) for rule in group.rules]} if group.rules or "rules" in group.raw else {}
            groups.append(dict(group.raw) | rules)
        return dict(self.raw) | {"groups": groups}

    def to_yaml(self) -> str:
        """The file as text; comments of the one that was read are not in it."""
        return to_yaml(self.plain())

    def to_statements(self) -> tuple[str, list[str]]:
        """The groups in the statement language, and what that has no word for: a line each, naming where."""
        left_out = [f"the file's {key!r}" for key in self.raw]
        blocks = []
        for group in self.groups:
            left_out += group.left_out()
            blocks.append(group.block(map(statement, group.rules)))
        return "\n\n".join(blocks) + "\n", left_out


def read(path: str | Path) -> RuleFile:
    """The rule file at ``path``. Raises ``ConfigError``, which names file, group, rule and remedy."""
    try:
        return load(Path(path).read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def load(text: str, name: str = "rules") -> RuleFile:
    """The rule file in ``text``. Expressions are not parsed here; templates are. Raises ``ConfigError``."""
    raw = read_yaml(text, name)
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: holds a {type(raw).__name__}; a rule file is a mapping with `groups`")
    groups, seen = [], set[str]()
    for number, given in enumerate(_list(raw.get("groups"), f"{name}: groups"), 1):
        where = f"{name}: group {number}"
        if not isinstance(given, dict) or not given.get("name"):
            raise ConfigError(f"{where} has no name; give `name`")
        if str(given["name"]) in seen:
            raise ConfigError(f"{name}: group {given['name']!r} stands there twice; names are unique in a file")
        seen.add(str(given["name"]))
        groups.append(_group(given, f"{name}: group {str(given['name'])!r}"))
    return RuleFile(tuple(groups), {key: value for key, value in raw.items() if key != "groups"})


def statements(source: str | Path) -> tuple[str, list[str]]:
    """Statements from a path or a text of either kind (a rule file has `groups:`), and what they leave out of it.

    A `str` without white space is a path. Raises ``ConfigError``.
    """
    path = source if isinstance(source, Path) else None if re.search(r"\s", source) else Path(source)
    if path is None:
        text, name = str(source), "rules"
    else:
        name = str(path)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}; give a file of rules or statements") from None
    if not is_rule_file(name, text):
        return text, []
    file = load(text, name)
    for rule in (rule for group in file.groups for rule in group.rules):
        try:
            NativeDatabase.statements(rule.expr)
        except ParseError as error:
            raise ConfigError(f"{rule.where}: could not parse expression: {error}") from None
    return file.to_statements()


def is_rule_file(name: str | Path, text: str) -> bool:
    """Whether it is a rule file of Prometheus, and no statements: by its name, or by `groups:` in it."""
    yaml = str(name).endswith((".yml", ".yaml"))
    return yaml or re.search(r"^groups[ ]*:[ ]*(?:$|\[|#)", text, re.MULTILINE) is not None


def _group(given: dict[str, Any], where: str) -> Group:
    rules = []
    for number, raw in enumerate(_list(given.get("rules"), f"{where}: rules"), 1):
        rules.append(_rule(raw, f"{where}, rule {number}"))
    group = Group(given, tuple(rules))
    _ = group.interval_ms, group.query_offset_ms, group.labels
    if not isinstance(given.get("limit") or 0, int):
        raise ConfigError(f"{where}: limit {given['limit']!r} is no number")
    return group


def _rule(raw: Any, where: str) -> Rule:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is a {type(raw).__name__}; write a mapping")
    rule = Rule(raw, where)
    if (rule.alert is None) == (rule.record is None):
        raise ConfigError(f"{where} needs one of `record` and `alert`")
    rule = Rule(raw, f"{where}, {rule.name!r}")
    if raw.get("expr") in (None, ""):
        raise ConfigError(f"{rule.where}: `expr` is missing")
    if rule.record is not None and any(raw.get(key) for key in ("for", "keep_firing_for", "annotations")):
        raise ConfigError(f"{rule.where}: a recording rule has no `for`, `keep_firing_for` or `annotations`")
    _ = rule.for_ms, rule.keep_firing_for_ms
    for kind, texts in (("label", rule.labels), ("annotation", rule.annotations)):
        for key, text in texts.items():
            if kind == "label" and key == "__name__":
                raise ConfigError(f"{rule.where}: label {key!r} cannot be set")
            try:
                if rule.alert is not None:
                    check(text)
            except TemplateError as error:
                raise ConfigError(f"{rule.where}: {kind} {key!r}: {error}") from None
    return rule


def statement(rule: Rule) -> str:
    """A rule as text of the statement language."""
    if rule.record is not None:
        labels = f" LABELS {label_map(rule.labels)}" if rule.labels else ""
        return f"RECORD {word(rule.record)} = {embedded(rule.expr)}{labels}"
    lines = [f"ALERT {word(rule.name)}", f"  WHEN {embedded(rule.expr)}"]
    if rule.for_ms:
        lines[1] += f" FOR {duration_text(rule.for_ms)}"
    if rule.keep_firing_for_ms:
        lines.append(f"  KEEP FIRING FOR {duration_text(rule.keep_firing_for_ms)}")
    lines += [f"  LABELS {label_map(rule.labels)}"] if rule.labels else []
    lines += [f"  ANNOTATIONS {label_map(rule.annotations)}"] if rule.annotations else []
    return "\n".join(lines)


def embedded(expr: str) -> str:
    """An expression to go on after: what ends in a comment would hide the rest of its line."""
    text = expr.strip()
    return text + "\n" if "#" in text.rpartition("\n")[2] else text


def word(name: str) -> str:
    """A name as the statement language writes it: bare where it can be, which a word of the language cannot."""
    if not _METRIC.fullmatch(name):
        return quote(name)
    printed: str = NativeDatabase.statements(f'GROUP "{name}" {{}}')[0]["text"]
    return printed.removeprefix("GROUP ").partition(" {")[0]


def label_map(labels: Mapping[str, str]) -> str:
    """Labels as the statement language writes them."""
    pairs = (f"{name if _WORD.fullmatch(name) else quote(name)}={quote(text)}" for name, text in labels.items())
    return "{" + ", ".join(pairs) + "}"


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _texts(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or any(isinstance(v, (dict, list)) for v in given.values()):
        raise ConfigError(f"{given!r} is no mapping of names to text")
    return {_scalar(key): _scalar(value) for key, value in given.items()}


def _list(given: Any, where: str) -> Sequence[Any]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ConfigError(f"{where} is a {type(given).__name__}; write a list")
    return given


def _duration(given: Any, where: str) -> int:
    if given is None or given == "":
        return 0
    if isinstance(given, str) and given != "0" and not re.search(r"[a-z]", given):
        raise ConfigError(f"{where} {given!r} has no unit; write it as '5m'")
    if not isinstance(given, str) and given != 0:
        raise ConfigError(f"{where} {given!r} has no unit; write it as '5m'")
    return duration_ms(given, where)
