"""Aggregations, over numbers and histograms alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.twins.histograms import Histogram, added
from tests.twins.numbers import AGGREGATES, Open
from tests.twins.promql import Data, Labels, Node, Value, Vector, drop_name, pick
from tests.twins.remarks import MIXED_AGGREGATION, MIXED_SCHEMAS, RECONCILED, perhaps, remark


def aggregated(op: str, values: list[Value]) -> Value | None:
    numbers = [v for v in values if not isinstance(v, Histogram)]
    histograms = [v for v in values if isinstance(v, Histogram)]
    if op in ("count", "group"):
        return AGGREGATES[op]([0.0] * len(values))
    if op not in ("sum", "avg") or not histograms:
        if histograms:
            remark(f"PromQL info: ignored histogram in {op} aggregation")
        return AGGREGATES[op](numbers) if numbers else None
    several = len({h.custom for h in histograms}) > 1
    if numbers or several:
        # Which is seen first, nobody says.
        perhaps(f"{RECONCILED} aggregation")
        perhaps(MIXED_SCHEMAS)
        remark(MIXED_AGGREGATION if numbers else MIXED_SCHEMAS)
        return None
    return added(histograms, "aggregation").times(1 if op == "sum" else 1 / len(histograms))


def grouping(labels: tuple[str, ...], without: bool) -> str:
    return f"{'without' if without else 'by'} ({', '.join(labels)})"


@dataclass(frozen=True)
class Aggregate(Node):
    op: str
    without: bool
    labels: tuple[str, ...]
    of: Node

    def text(self) -> str:
        clause = grouping(self.labels, self.without)
        param = {"quantile": "0.3, ", "topk": "2, ", "bottomk": "2, "}.get(self.op, "")
        return f"{self.op} {clause} ({param}{self.of.text()})"

    def vector(self, data: Data, t: int) -> Vector:
        groups: dict[Labels, Vector] = {}
        for labels, value in self.of.vector(data, t).items():
            groups.setdefault(pick(drop_name(labels), self.labels, not self.without), {})[labels] = value
        if self.op in ("topk", "bottomk"):
            return {labels: v for members in groups.values() for labels, v in self.two(members).items()}
        found = {labels: aggregated(self.op, list(members.values())) for labels, members in groups.items()}
        return {labels: v for labels, v in found.items() if v is not None}

    def two(self, members: Vector) -> Vector:
        """The two largest or smallest numbers; which of equal ones, nobody says."""
        sign = 1 if self.op == "bottomk" else -1
        if any(isinstance(v, Histogram) for v in members.values()):
            remark(f"PromQL info: ignored histogram in {self.op} aggregation")
        numbers = [(v, labels) for labels, v in members.items() if not isinstance(v, Histogram)]
        ranked = sorted(numbers, key=lambda p: (math.isnan(p[0]), p[0] * sign))
        if len(ranked) > 2 and (
            ranked[1][0] == ranked[2][0] or (math.isnan(ranked[1][0]) and math.isnan(ranked[2][0]))
        ):
            raise Open
        return {labels: v for v, labels in ranked[:2]}
