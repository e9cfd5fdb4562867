"""Precision policies: how exactly the samples of which series are kept. docs/precision.md has the promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import polars as pl

from metricsdb._native import NativeDatabase
from metricsdb.errors import ConfigError, ParseError
from metricsdb.times import Time

__all__ = ["Counters", "PrecisionPolicies"]

Counters = Literal["exact", "rounded"]


class _Rule(NamedTuple):
    selector: str
    policy: str
    counters: Counters


_Rules = tuple[_Rule, ...]


class PrecisionPolicies:
    """The policies of one database, as ``db.precision``. The first whose selector matches a series wins."""

    def __init__(
        self,
        native: Callable[[], NativeDatabase],
        range_ms: Callable[[Time | None, Time | None], tuple[int, int]],
    ) -> None:
        self._native, self._range_ms = native, range_ms
        self._lock = threading.Lock()
        self._rules: _Rules = ()

    def set(
        self, selector: str, policy: str, *, counters: Counters = "exact", rewrite: bool = False
    ) -> pl.DataFrame | None:
        """Adds a policy behind all others, or replaces that of the same selector in its place.

        It applies to samples written from now on; with ``rewrite`` also to those that are stored, and the answer is
        the frame of ``apply``. ``counters="exact"`` keeps the integers of counters. Raises ``ParseError`` (selector),
        ``ConfigError`` (policy); nothing is changed then.
        """
        rule = _Rule(selector, policy, _checked(counters))
        with self._lock:
            known = [r.selector for r in self._rules]
            at = known.index(selector) if selector in known else len(known)
            self._use((*self._rules[:at], rule, *self._rules[at + 1 :]), selector)
        return self.apply(selector) if rewrite else None

    def remove(self, selector: str) -> None:
        """Takes the policy of a selector away: its series fall to the next policy that matches, or stay lossless."""
        with self._lock:
            rest = tuple(r for r in self._rules if r.selector != selector)
            if len(rest) == len(self._rules):
                known = ", ".join(repr(r.selector) for r in self._rules) or "none"
                raise ConfigError(f"precision: no policy has the selector {selector!r}; those that have one: {known}")
            self._use(rest, selector)

    def _use(self, rules: _Rules, selector: str) -> None:
        if rules == self._rules:
            return
        with _blamed(selector):
            _install(self._native(), rules)
        self._rules = rules

    def reinstall(self, native: NativeDatabase) -> None:
        """Gives a new native database the policies."""
        with self._lock:
            _install(native, self._rules)

    def adopt(self, native: NativeDatabase) -> None:
        """Takes over the policies that a directory was opened with."""
        found = [(s, p, "exact" if exact else "rounded") for s, p, exact in native.precision_rules()]
        with self._lock:
            self._rules = tuple(_Rule(s, p, _checked(c)) for s, p, c in found)  # type: ignore[arg-type]

    def preview(
        self,
        policy: str,
        selector: str,
        *,
        counters: Counters = "exact",
        start: Time | None = None,
        end: Time | None = None,
        max_samples: int = 10_000_000,
    ) -> pl.DataFrame:
        """What a policy would save on what is stored, and what it would cost; changes nothing.

        A row per metric, the largest saving first: ``metric``, ``series``, ``samples``, ``bytes_now``, ``bytes_then``,
        ``saved``, ``saved_ratio``, ``max_abs_error``, ``max_rel_error``, ``rms_error``. Decodes every sample and
        encodes it twice; ``QueryLimit`` if they are more than ``max_samples``.
        """
        if max_samples <= 0:
            raise ConfigError(f"max_samples {max_samples} must be positive")
        exact = _checked(counters) == "exact"
        with _blamed(selector):
            rows = self._native().preview_precision(selector, policy, exact, *self._range_ms(start, end), max_samples)
        frame = pl.DataFrame(rows, schema=_PREVIEW, orient="row")
        saved = pl.col("bytes_now").cast(pl.Int64) - pl.col("bytes_then").cast(pl.Int64)
        columns = ["metric", "series", "samples", "bytes_now", "bytes_then", "saved", "saved_ratio"]
        return (
            frame.with_columns(saved.alias("saved"), (saved / pl.col("bytes_now")).alias("saved_ratio"))
            .select(*columns, "max_abs_error", "max_rel_error", "rms_error")
            .sort("saved", descending=True, maintain_order=True)
        )

    def apply(self, selector: str) -> pl.DataFrame:
        """Rounds what is stored of the selected series by the policies that apply to them; cannot be undone.

        One row: ``series``, ``samples`` (of series that have a policy), ``changed``, ``bytes_before``, ``bytes_after``
        (of their chunks). Writers to a series wait while it is rewritten. Ctrl-C ends it between two series.
        """
        with _blamed(selector):
            row = self._native().rewrite_precision(selector)
        return pl.DataFrame([row], schema=_REWRITTEN, orient="row")

    def list(self) -> pl.DataFrame:
        """The policies in order: ``selector``, ``policy``, ``counters``, and to how many ``series`` each applies."""
        with self._lock:
            rows = [(*r, n) for r, n in zip(self._rules, self._native().precision_series(), strict=True)]
        return pl.DataFrame(rows, schema=_LIST, orient="row")


def _install(native: NativeDatabase, rules: _Rules) -> None:
    native.set_precision([(r.selector, r.policy, r.counters == "exact") for r in rules])


_PREVIEW = {
    "metric": pl.String,
    "series": pl.UInt64,
    "samples": pl.UInt64,
    "bytes_now": pl.UInt64,
    "bytes_then": pl.UInt64,
    "max_abs_error": pl.Float64,
    "max_rel_error": pl.Float64,
    "rms_error": pl.Float64,
}
_REWRITTEN = dict.fromkeys(("series", "samples", "changed", "bytes_before", "bytes_after"), pl.UInt64)
_LIST = {"selector": pl.String, "policy": pl.String, "counters": pl.String, "series": pl.UInt64}


def _checked(counters: Counters) -> Counters:
    if counters not in ("exact", "rounded"):
        raise ConfigError(f"counters {counters!r} is not known; write 'exact' or 'rounded'")
    return counters


@contextmanager
def _blamed(selector: str) -> Iterator[None]:
    """Native code does not say which of several selectors it means, nor what a selector looks like."""
    try:
        yield
    except ParseError as error:
        remedy = error.remedy or 'write a selector such as node_load1 or {job="node"}'
        told = "" if error.remedy else f"; {remedy}"
        raise ParseError(f"selector {selector!r}: {error}{told}", error.line, error.column, remedy) from None
    except ConfigError as error:
        raise ConfigError(f"policy of {selector!r}: {error}") from None
