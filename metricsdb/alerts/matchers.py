"""Matchers of labels as Alertmanager writes them: classic and UTF-8 syntax, and the old maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metricsdb.alerts.patterns import fullmatch
from metricsdb.alerts.templates.values import quote, unquote
from metricsdb.errors import ConfigError

__all__ = ["Matcher", "matches", "of_route", "parse", "shown"]

_MATCHER = re.compile(
    r'\s*(?P<name>"(?:[^"\\]|\\.)*"|[^\s"{}!=~,\\\'`]+)\s*(?P<op>=~|!~|!=|=)\s*(?P<value>.*?)\s*', re.DOTALL
)
# Other escapes stay as they are: they are a regex's.
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_NEXT = re.compile(r'(?:[^",\\]|\\.|"(?:[^"\\]|\\.)*")*')


@dataclass(frozen=True, slots=True, order=True)
class Matcher:
    """``op``: ``=``, ``!=``, ``=~``, ``!~``; regexes match the whole value. A label that is missing is empty."""

    name: str
    value: str
    op: str = "="

    def __post_init__(self) -> None:
        if self.op in ("=~", "!~"):
            fullmatch(self.value, "")  # refuses what cannot be read

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.name, "")
        if self.op in ("=", "!="):
            return (value == self.value) == (self.op == "=")
        return fullmatch(self.value, value) == (self.op == "=~")

    def __str__(self) -> str:
        name = self.name if re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", self.name, re.ASCII) else quote(self.name)
        return f"{name}{self.op}{quote(self.value)}"


def parse(text: str) -> list[Matcher]:
    """``a="b"``, ``{a="b",c=~"d.*"}``; values may be bare. Raises ``ConfigError``."""
    inside = text.strip()
    if inside.startswith("{"):
        if not inside.endswith("}"):
            raise ConfigError(f"matcher {text!r} has no closing brace")
        inside = inside[1:-1]
    elif inside.endswith("}") and '"' not in inside[-2:]:
        raise ConfigError(f"matcher {text!r} has no opening brace")
    found: list[Matcher] = []
    at = 0
    while at < len(inside):
        part = _NEXT.match(inside, at)
        assert part is not None
        if part.end() < len(inside) and inside[part.end()] != ",":
            raise ConfigError(f"matcher {text!r}: a quote is not closed")
        if part[0].strip() or not found:
            found.append(_one(part[0], text))
        at = part.end() + 1
    if not found and not text.strip().startswith("{"):
        raise ConfigError(f'matcher {text!r} is empty; write name="value"')
    return found


def _one(part: str, text: str) -> Matcher:
    match = _MATCHER.fullmatch(part)
    if match is None:
        raise ConfigError(f'matcher {text!r} cannot be read; write name="value", with =, !=, =~ or !~')
    name, value = match["name"], match["value"]
    try:
        name = unquote(name) if name.startswith('"') else name
        if value.startswith('"'):
            if len(value) < 2 or not value.endswith('"'):
                raise ValueError("a quote is not closed")
            value = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), value[1:-1], flags=re.DOTALL)
        elif '"' in value:
            raise ValueError("a quote stands inside a bare value")
    except ValueError as error:
        raise ConfigError(f"matcher {text!r}: {error}") from None
    return Matcher(name, value, match["op"])


def of_route(raw: Mapping[str, Any], where: str, prefix: str = "") -> tuple[Matcher, ...]:
    """The matchers of a route or (with a prefix) of one side of an inhibition, from the list and the old maps."""
    found: list[Matcher] = []
    for key, op in ((f"{prefix}match", "="), (f"{prefix}match_re", "=~")):
        given = raw.get(key) or {}
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: {key} is no mapping")
        # Alertmanager anchors the old ones in their text, which its group keys show.
        shape = "^(?:{})$" if op == "=~" else "{}"
        found += [Matcher(str(name), shape.format(value), op) for name, value in given.items()]
    for text in raw.get(f"{prefix}matchers") or ():
        if not isinstance(text, str):
            raise ConfigError(f'{where}: matcher {text!r} is no text; write name="value"')
        found += parse(text)
    return tuple(sorted(found))


def matches(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether all of them do."""
    return all(matcher.matches(labels) for matcher in matchers)


def shown(matchers: Iterable[Matcher]) -> str:
    return "{" + ",".join(map(str, matchers)) + "}"
