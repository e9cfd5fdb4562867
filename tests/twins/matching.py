"""Two vectors: one to one, many to one, filled, and set operations."""

from __future__ import annotations

from dataclasses import dataclass

from tests.twins.histograms import Incompatible
from tests.twins.numbers import COMPARISONS, Refused
from tests.twins.promql import Data, Labels, Node, Value, Vector, drop_name, insert, pick, result_of

SETS = ("and", "or", "unless")


@dataclass(frozen=True)
class Match(Node):
    op: str
    left: Node
    right: Node
    on: bool
    labels: tuple[str, ...]
    returns_bool: bool = False
    many: str = ""  # "left" or "right": the side of which several series may match one
    fill: tuple[float | None, float | None] = (None, None)

    def text(self) -> str:
        word = f"{self.op} bool" if self.returns_bool else self.op
        clause = f"{'on' if self.on else 'ignoring'} ({', '.join(self.labels)})"
        group = f" group_{self.many} ()" if self.many else ""
        names = ("fill_left", "fill_right")
        fills = "".join(f" {name} ({v})" for name, v in zip(names, self.fill, strict=True) if v is not None)
        return f"({self.left.text()}) {word} {clause}{group}{fills} ({self.right.text()})"

    def key(self, labels: Labels) -> Labels:
        return pick(drop_name(labels), self.labels, self.on)

    def vector(self, data: Data, t: int) -> Vector:
        left, right = self.left.vector(data, t), self.right.vector(data, t)
        if self.op in SETS:
            return self.combine(left, right)
        if self.many == "right":
            return self.joined(right, left, swapped=True)
        return self.joined(left, right, swapped=False)

    def joined(self, many: Vector, one: Vector, swapped: bool) -> Vector:
        """Of each sample of the many side with its partner, which is alone on the one side.

        As in Prometheus, the left fill is for the many side and the right fill for the one side, also when swapped;
        and who matched is known before anything is filtered.
        """
        fill_many, fill_one = self.fill
        if not (many or one) or (not (many and one) and self.fill == (None, None)):
            return {}
        by_key: Vector = {}
        for labels, value in one.items():
            insert(by_key, self.key(labels), value)
        pairs = [(labels, v, by_key.get(self.key(labels), fill_one)) for labels, v in many.items()]
        result: Vector = {}
        matched: set[Labels] = set()
        for labels, value, other in pairs:
            if other is not None:
                self.put(result, matched, labels, (other, value) if swapped else (value, other))
        for key, other in by_key.items():
            if fill_many is not None and key not in matched:
                self.put(result, matched, key, (other, fill_many) if swapped else (fill_many, other))
        return result

    def put(self, result: Vector, matched: set[Labels], labels: Labels, sides: tuple[Value, Value]) -> None:
        try:
            found = result_of(self.op, *sides, self.returns_bool, sides[0])
        except Incompatible:
            return
        key = self.key(labels)
        if key in matched and not self.many:
            raise Refused("several series on both sides")
        matched.add(key)
        keeps_name = self.op in COMPARISONS and not self.returns_bool
        labels = labels if keeps_name else drop_name(labels)
        if found is not None:
            insert(result, labels if self.many else pick(labels, self.labels, self.on), found)

    def combine(self, left: Vector, right: Vector) -> Vector:
        if self.op == "or":
            known = {self.key(labels) for labels in left}
            return left | {labels: v for labels, v in right.items() if self.key(labels) not in known}
        known = {self.key(labels) for labels in right}
        return {labels: v for labels, v in left.items() if (self.key(labels) in known) == (self.op == "and")}
