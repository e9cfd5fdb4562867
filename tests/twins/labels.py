"""What looks at labels: label_replace, label_join, count_values, limitk, limit_ratio, info."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from tests.twins.aggregates import grouping
from tests.twins.histograms import Histogram
from tests.twins.numbers import Open
from tests.twins.promql import MATCHES, Data, Labels, Node, Range, Selector, Vector, drop_name, insert, pick


def with_label(labels: Labels, name: str, value: str) -> Labels:
    """An empty value is none."""
    others = [p for p in labels if p[0] != name]
    return tuple(sorted([*others, (name, value)] if value else others))


def filled_in(template: str, found: re.Match[str]) -> str:
    """`$1`, `$name` (the longest word) and `${name}`; what is no group is empty."""

    def group(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name.isdigit():
            return found[int(name)] or "" if int(name) <= (found.re.groups) else ""
        return found.groupdict().get(name) or ""

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", group, template)


@dataclass(frozen=True)
class Replace(Node):
    of: Node
    target: str
    template: str
    source: str
    regex: str

    def text(self) -> str:
        words = ", ".join(f'"{w}"' for w in (self.target, self.template, self.source, self.regex))
        return f"label_replace({self.of.text()}, {words})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            found = re.fullmatch(self.regex, dict(labels).get(self.source, ""))
            told = with_label(labels, self.target, filled_in(self.template, found)) if found else labels
            insert(result, told, value)
        return result


@dataclass(frozen=True)
class Join(Node):
    of: Node
    target: str
    separator: str
    sources: tuple[str, ...]

    def text(self) -> str:
        words = ", ".join(f'"{w}"' for w in (self.target, self.separator, *self.sources))
        return f"label_join({self.of.text()}, {words})"

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            joined = self.separator.join(dict(labels).get(name, "") for name in self.sources)
            insert(result, with_label(labels, self.target, joined), value)
        return result


def shortest(value: float) -> str:
    """The decimal of as few digits as tell it apart, without an exponent."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
    found = f"{value:.60f}" if float(f"{value:.60f}") == value else repr(value)
    for digits in range(60):
        if float(f"{value:.{digits}f}") == value:
            found = f"{value:.{digits}f}"
            break
    return found


@dataclass(frozen=True)
class CountValues(Node):
    """The label is never among those that `without` takes away."""

    label: str
    without: bool
    labels: tuple[str, ...]
    of: Node

    def text(self) -> str:
        clause = grouping(self.labels, self.without)
        return f'count_values {clause} ("{self.label}", {self.of.text()})'

    def vector(self, data: Data, t: int) -> Vector:
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            if isinstance(value, Histogram):
                raise Open  # the text of a histogram is nobody's business
            group = pick(drop_name(labels), self.labels, not self.without)
            key = with_label(group, self.label, shortest(value))
            result[key] = result.get(key, 0.0) + 1
        return result


@dataclass(frozen=True)
class CountOfLimit(Node):
    """Which k series `limitk` takes is its own affair: how many of each group is not."""

    k: float
    without: bool
    labels: tuple[str, ...]
    of: Node

    def text(self) -> str:
        clause = grouping(self.labels, self.without)
        of = self.of.text()
        return f"count {clause} (limitk {clause} ({self.k}, {of}) and ({of}))"

    def vector(self, data: Data, t: int) -> Vector:
        sizes: Vector = {}
        for labels in self.of.vector(data, t):
            group = pick(drop_name(labels), self.labels, not self.without)
            sizes[group] = sizes.get(group, 0.0) + 1
        return {group: float(min(n, int(self.k))) for group, n in sizes.items() if self.k >= 1}


@dataclass(frozen=True)
class Shares(Node):
    """`limit_ratio(r)` and `limit_ratio(r - 1)` divide the series between them: together all, in common none."""

    ratio: float
    common: bool
    of: Node

    def text(self) -> str:
        of = self.of.text()
        op = "and" if self.common else "or"
        return f"limit_ratio({self.ratio}, {of}) {op} limit_ratio({self.ratio - 1}, {of})"

    def vector(self, data: Data, t: int) -> Vector:
        all_of_them = self.of.vector(data, t)
        return {} if self.common else all_of_them


# --- info -----------------------------------------------------------------------------------------------------------

IDENTIFYING = ("instance", "job")


def first_selector(node: Node | Range) -> Selector:
    parts = (getattr(node, f.name) for f in fields(node))
    return (
        node if isinstance(node, Selector) else next(first_selector(p) for p in parts if isinstance(p, (Node, Range)))
    )


@dataclass(frozen=True)
class Info(Node):
    """The data labels of `target_info` for series of the same instance and job, at the time at which the first selector
    looks; `only` are matchers of data labels."""

    of: Node
    only: tuple[tuple[str, str, str], ...] = ()

    def text(self) -> str:
        inner = ",".join(f'{n}{op}"{v}"' for n, op, v in self.only)
        return f"info({self.of.text()}, {{{inner}}})" if self.only else f"info({self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        first = first_selector(self.of)
        infos = Selector("target_info", (self.only,), first.offset, first.at).newest(data, t)
        found: dict[Labels, Labels] = {}
        newest: dict[Labels, int] = {}
        for labels, at, _ in infos:
            key = pick(labels, IDENTIFYING, True)
            if key in newest and newest[key] == at:
                raise Open  # two of one time
            if key not in newest or newest[key] < at:
                found[key], newest[key] = labels, at
        wanted = {n for n, _, _ in self.only}
        needs = any(not MATCHES[op]("", v) for _, op, v in self.only)
        result: Vector = {}
        for labels, value in self.of.vector(data, t).items():
            info = found.get(pick(labels, IDENTIFYING, True), ())
            if needs and not info:
                continue
            have = {n for n, _ in labels}
            more = [p for p in drop_name(info) if p[0] not in have and (not wanted or p[0] in wanted)]
            insert(result, tuple(sorted([*labels, *more])), value)
        return result
