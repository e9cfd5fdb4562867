"""Random queries of a random store, from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tests.twins.aggregates import Aggregate
from tests.twins.classic import CLASSIC_FUNCTIONS, OfClassic, Quantiles
from tests.twins.labels import CountOfLimit, CountValues, Info, Join, Replace, Shares
from tests.twins.matching import SETS, Match
from tests.twins.metricsql import EACH, EVERYWHERE, ROLLUPS, Gap, Outliers, Rollup, Template, WholeRange
from tests.twins.numbers import AGGREGATES, COMPARISONS, MAPS
from tests.twins.promql import (
    HISTOGRAM_FUNCTIONS,
    Clock,
    Edged,
    Map,
    Node,
    OfHistogram,
    Over,
    Range,
    Said,
    Selector,
    Subquery,
    Timestamp,
    WithNumber,
)
from tests.twins.starts import STARTED as OF_STARTS
from tests.twins.starts import OverStarts, StartTimestamp
from tests.twins.stores import CLASSIC, HISTOGRAMS, INFO, LABELS, NUMBERS, STARTED
from tests.twins.trims import TRIMS
from tests.twins.windows import EDGED, WINDOW_FUNCTIONS

REGEXES = ["(.*)", "a|b", "([0-9])", "(.)(.*)", "(?P<word>[a-z]?).*", "x?", "nothing"]
TEMPLATES = ["$1", "", "x", "${1}x", "$1x", "$2-$1", "$word", "a$0"]
DATA_MATCHERS = [
    (("version", "=~", "1|2"),),
    (("version", "!=", "1"),),
    (("version", "=", "2"), ("zone", "=", "x")),
    (("zone", "=~", "|x"),),
]
DURATIONS = [15_000, 45_000, 60_000, 100_000, 300_000]


@dataclass(frozen=True)
class Dialect:
    """What may stand in a query; the stable one is what Prometheus 2.42 knows."""

    names: tuple[str, ...] = (*NUMBERS, *HISTOGRAMS)
    classic: str = CLASSIC
    stable: bool = False
    pins: tuple[int, ...] = (0, 300_000, 420_500)  # of `@`, in milliseconds

    @property
    def stored(self) -> list[str]:
        """The metrics of a store."""
        return [*self.names, self.classic, *([] if self.stable else [INFO, STARTED])]

    @property
    def window_functions(self) -> list[str]:
        new = {"mad_over_time", "first_over_time"} | {f for f in WINDOW_FUNCTIONS if f.startswith("ts_of_")}
        return [f for f in WINDOW_FUNCTIONS if not (self.stable and f in new)]

    @property
    def exact_functions(self) -> list[str]:
        """Right to the last bit, so that a threshold may be put on them."""
        return [f for f in self.window_functions if WINDOW_FUNCTIONS[f][1]]


class Queries:
    """Draws queries. What a comparison, a rank or a step looks at is exact; what only adds up may be close."""

    def __init__(self, rng: Random, dialect: Dialect) -> None:
        self.rng, self.dialect, self.names = rng, dialect, dialect.names

    def about(self, names: list[str], draw: Callable[[], Node]) -> Node:
        """Mostly of these metrics: a function of numbers says nothing of histograms."""
        before = self.names
        if self.rng.random() < 0.85:
            self.names = tuple(n for n in names if n in before) or before
        try:
            return draw()
        finally:
            self.names = before

    def labels(self) -> tuple[str, ...]:
        return tuple(self.rng.sample(sorted(LABELS), self.rng.choice([0, 1, 1, 2])))

    def branch(self) -> tuple[tuple[str, str, str], ...]:
        words = ["", "a", "0", "x", "b"]

        def matcher() -> tuple[str, str, str]:
            op = self.rng.choice(["=", "!=", "=~", "!~"])
            return self.rng.choice(sorted(LABELS)), op, "|".join(self.rng.sample(words, 2 if "~" in op else 1))

        return tuple(matcher() for _ in range(self.rng.choice([0, 0, 0, 0, 1, 1, 2])))

    def offset(self) -> int:
        return self.said(self.rng.choice([*[0] * 8, -60_000, 7_000, 30_000, 120_000]))

    def said(self, duration: int) -> int:
        """Now and then in words: queries here have steps of 7 to 60 seconds, and five of them."""
        rng, more = self.rng, self.rng.choice([5, 90])
        if self.dialect.stable or duration == 0 or rng.random() > 0.08:
            return duration
        ways = [
            f"{duration - more * 1000}ms + {more}s",
            f"{more}s - {more * 1000 - duration}ms",
            f"{2 * duration}ms / 2",
        ]
        ways += [
            f"max({duration}ms, -{more}h)",
            f"min({more}h, {duration}ms)",
            f"-(-1 * {duration}ms)",
            f"{duration / 1000} ^ 1",
        ]
        if duration > 0:
            ways.append(f"{duration}ms % {more}h")
        if duration >= 60_000:
            ways += [f"max(step(), {duration}ms)", f"step() * 0 + {duration}ms"]
        if 0 < duration <= 7_000:
            ways.append(f"min({duration}ms, step())")
        if duration >= 300_000:
            ways.append(f"max(range(), {duration}ms)")
        return Said(duration, rng.choice(ways))

    def at(self) -> int | None:
        return self.rng.choice(self.dialect.pins) if self.rng.random() < 0.25 else None

    def number(self) -> float:
        return self.rng.choice([0, 2, -0.5, 3.25])

    def selector(self) -> Selector:
        several = not self.dialect.stable and self.rng.random() < 0.1
        branches = tuple(self.branch() for _ in range(2 if several else 1))
        if several and () in branches:
            branches = ((),)
        return Selector(self.rng.choice(self.names), branches, self.offset(), self.at())

    def timed_selector(self) -> Selector:
        """2.42 takes a pinned time for the step's."""
        selector = self.selector()
        return replace(selector, at=None) if self.dialect.stable else selector

    def range(self) -> Range:
        return Range(self.selector(), self.said(self.rng.choice(DURATIONS)))

    def exact(self, depth: int = 2) -> Node:
        """Values that may meet a threshold: right to the last bit."""
        kind = self.rng.random()
        if depth == 0 or kind < 0.4:
            return self.selector()
        if kind < 0.45:
            return self.relabelled(self.exact(depth - 1))
        if kind < 0.7:
            return Over(self.rng.choice(self.dialect.exact_functions), self.range())
        op = self.rng.choice(["sum", "min", "max", "count", "group"])
        return Aggregate(op, self.rng.random() < 0.5, self.labels(), self.exact(depth - 1))

    def window(self) -> Range | Subquery:
        if self.rng.random() < 0.7:
            return self.range()
        step = self.said(self.rng.choice([10_000, 30_000]))
        return Subquery(self.exact(1), self.said(self.rng.choice(DURATIONS)), step, self.offset(), self.at())

    def over(self) -> Node:
        if not self.dialect.stable and self.rng.random() < 0.15:
            extension = self.rng.choice(sorted(EDGED))
            selector = replace(self.selector(), name=self.rng.choice(NUMBERS))
            over = Range(selector, self.said(self.rng.choice(DURATIONS)))
            return Edged(self.rng.choice(EDGED[extension]), over, extension)
        return Over(self.rng.choice(self.dialect.window_functions), self.window())

    def match(self, ops: list[str], left: Node, right: Node) -> Node:
        op = self.rng.choice(ops)
        on, labels = self.rng.random() < 0.5, self.labels()
        if op in SETS:
            return Match(op, left, right, on, labels)
        returns_bool = op in COMPARISONS and self.rng.random() < 0.3
        many = self.rng.choice(["", "", "left", "right"])
        fill: tuple[float | None, float | None] = (None, None)
        if not self.dialect.stable and self.rng.random() < 0.3:
            fill = self.rng.choice([(0, None), (None, 2), (1, 3)])
        return Match(op, left, right, on, labels, returns_bool, many, fill)

    def filtered(self) -> Node:
        rng = self.rng
        powers = ["%", "^"] if self.dialect.stable else ["%", "^", "atan2"]  # 2.42 keeps the name after atan2
        ways = [
            lambda: Map(rng.choice(sorted(MAPS)), self.exact()),
            lambda: WithNumber(rng.choice(powers), self.exact(), self.number(), False, rng.random() < 0.5),
            lambda: WithNumber(rng.choice(sorted(COMPARISONS)), self.exact(), self.number(), rng.random() < 0.5),
            lambda: self.match([*COMPARISONS, "==", "!="], *self.pair(self.exact)),
            lambda: Aggregate(rng.choice(["topk", "bottomk"]), rng.random() < 0.5, self.labels(), self.exact()),
            lambda: Timestamp(self.timed_selector()),
            lambda: CountValues(rng.choice(["v", "job"]), rng.random() < 0.5, self.labels_but("job"), self.exact()),
        ]
        if not self.dialect.stable:
            ways += [
                lambda: CountOfLimit(rng.choice([0, 1, 2, 3.7]), rng.random() < 0.5, self.labels(), self.exact()),
                lambda: Shares(rng.choice([0, 0.25, 0.5, 1]), rng.random() < 0.3, self.exact()),
                lambda: Info(self.exact(1), rng.choice([(), (), *DATA_MATCHERS])),
            ]
        return rng.choice(ways)()

    def labels_but(self, label: str) -> tuple[str, ...]:
        return tuple(name for name in self.labels() if name != label)

    def relabelled(self, of: Node) -> Node:
        rng, names = self.rng, [*sorted(LABELS), "new"]
        if rng.random() < 0.3:
            return Join(
                of, rng.choice(names), rng.choice(["", "-"]), tuple(rng.sample(names, rng.choice([0, 1, 2, 3])))
            )
        return Replace(of, rng.choice(names), rng.choice(TEMPLATES), rng.choice(names), rng.choice(REGEXES))

    def buckets(self) -> Node:
        """A function of classic histograms; rarely of something else."""
        rng, names = self.rng, self.names
        self.names = (self.dialect.classic,) if rng.random() < 0.95 else names
        over = [f for f in self.dialect.exact_functions if f.split("_")[0] in ("sum", "max", "last", "min")]
        ways: list[Callable[[], Node]] = [
            self.selector,
            self.selector,
            lambda: Over(rng.choice(over), self.range()),
            lambda: Aggregate("sum", False, (*self.labels(), "le"), self.selector()),
            lambda: Aggregate(rng.choice(["sum", "max"]), True, self.labels(), self.selector()),
        ]
        of = rng.choice(ways)()
        self.names = names
        if self.dialect.stable:
            return OfClassic(rng.choice([f for f in sorted(CLASSIC_FUNCTIONS) if "quantile" in f]), of)
        if rng.random() < 0.2:
            return Quantiles(
                rng.choice(["q", "job"]), tuple(rng.sample([0, 0.25, 0.5, 1, 1.5], rng.choice([1, 2]))), of
            )
        return OfClassic(rng.choice(sorted(CLASSIC_FUNCTIONS)), of)

    def pair(self, draw: Callable[[], Node]) -> tuple[Node, Node]:
        """Two sides; often alike, so that something matches."""
        first = draw()
        return (first, first) if self.rng.random() < 0.4 else (first, draw())

    def node(self, depth: int) -> Node:
        rng = self.rng
        if depth == 0:
            ways = [self.selector, self.over, self.over, lambda: self.about(NUMBERS, self.filtered)]
            return rng.choice(ways)()

        def below() -> Node:
            return self.node(depth - 1)

        ways = [
            lambda: Aggregate(rng.choice(sorted(AGGREGATES)), rng.random() < 0.5, self.labels(), below()),
            lambda: WithNumber(rng.choice("+-*/"), below(), self.number(), False, rng.random() < 0.3),
            lambda: self.match(["+", "-", "*", "/", *SETS], *self.pair(below)),
            self.adding,
            below,
            lambda: self.relabelled(below()),
            self.buckets,
        ]
        if not self.dialect.stable:
            ways += [
                lambda: OfHistogram(rng.choice(sorted(HISTOGRAM_FUNCTIONS)), self.about(HISTOGRAMS, self.adding)),
                self.started,
            ]
        return rng.choice(ways)()

    def adding(self) -> Node:
        """What may give histograms."""
        rng = self.rng
        functions = ["rate", "increase", "delta", "irate", "idelta", "sum_over_time", "avg_over_time", "last_over_time"]
        ways: list[Callable[[], Node]] = [
            self.selector,
            lambda: Over(rng.choice(functions), self.window()),
            lambda: Aggregate(rng.choice(["sum", "avg"]), rng.random() < 0.5, self.labels(), self.adding()),
            lambda: self.match(["+", "-", "and", "or", "unless"], *self.pair(self.selector)),
            lambda: WithNumber(rng.choice("*/"), self.adding(), self.number()),
            *([] if self.dialect.stable else [self.trimmed]),
        ]
        return rng.choice(ways)()

    def started(self) -> Node:
        rng, names = self.rng, self.names
        self.names = (STARTED,)
        ways: list[Callable[[], Node]] = [
            lambda: OverStarts(rng.choice(sorted(OF_STARTS)), self.range()),
            lambda: OverStarts(rng.choice(sorted(OF_STARTS)), Subquery(self.selector(), rng.choice(DURATIONS), 10_000)),
            lambda: StartTimestamp(self.selector()),
            lambda: Over(rng.choice(["delta", "idelta", "changes", "max_over_time"]), self.range()),
        ]
        of = rng.choice([*ways[:1] * 3, *ways])()
        self.names = names
        return of if rng.random() < 0.8 else Aggregate("sum", rng.random() < 0.5, self.labels(), of)

    def trimmed(self) -> Node:
        at = self.rng.choice([0, 1, -0.5, 3.25, 0.1, -7, math.inf, -math.inf])
        of = self.about(HISTOGRAMS, self.adding)
        return WithNumber(self.rng.choice(TRIMS), of, at, False, self.rng.random() < 0.05)

    def metricsql(self) -> Node:
        rng = self.rng
        ways = [
            lambda: Rollup(rng.choice(sorted(set(ROLLUPS) - {"rollup_candlestick"})), self.window(),
                           rng.choice(["", "min", "avg"])),
            lambda: Rollup("rollup_candlestick", self.window(), rng.choice(["", "low", "close"])),
            lambda: Gap(rng.choice(["default", "if", "ifnot"]), *self.pair(self.exact), self.labels()),
            lambda: Gap(rng.choice(["default", "if", "ifnot"]), self.exact(), self.number(), self.labels()),
            lambda: WholeRange(rng.choice([*EVERYWHERE, *EACH]), self.exact()),
            lambda: Outliers(rng.choice(["outliers_iqr", "outliers_mad"]), self.labels(), self.exact()),
            lambda: Template(self.node(1)),
            lambda: WithNumber(rng.choice("+-*/"), self.exact(), self.number(), False, False, True),
        ]  # fmt: skip
        return rng.choice(ways)()

    def query(self) -> Node:
        kind = self.rng.random()
        if kind < 0.02:
            return Clock()
        if not self.dialect.stable and kind < 0.25:
            return self.about(NUMBERS, self.metricsql)
        return self.node(self.rng.choice([0, 0, 1, 1, 2]))
