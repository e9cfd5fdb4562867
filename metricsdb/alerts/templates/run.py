"""Runs a template's tree over data, as Go's text/template does, within limits of steps and of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metricsdb.alerts.templates.parse import (
    Action,
    Call,
    Chain,
    Command,
    Control,
    Expr,
    Literal,
    Node,
    Pipeline,
    Text,
    parse,
)
from metricsdb.alerts.templates.values import KV, Record, Slice, go_type, sprint, truth
from metricsdb.errors import MetricsDBError, TemplateError

__all__ = ["Function", "Limits", "Template"]

_MISSING = object()
_CALLS_MAX = 60


@dataclass(frozen=True, slots=True)
class Function:
    """What a name in a template calls. ``params``: Go's types, the last one for all that follow if ``variadic``."""

    call: Callable[..., Any]
    params: tuple[str, ...] = ()
    variadic: bool = False

    @classmethod
    def of(cls, params: str, call: Callable[..., Any]) -> Function:
        """``params`` as words, with ``...`` after the last where more may come: ``"string any..."``."""
        return cls(call, tuple(params.removesuffix("...").split()), params.endswith("..."))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may take: nodes and calls, and characters of what it writes (and of any text on the way)."""

    steps: int = 200_000
    text: int = 1 << 20


class Template:
    """A parsed template with all that it defines; ``others`` are templates that it may call by name.

    Raises ``TemplateError``, with line and column, on what cannot be read. O(text).
    """

    def __init__(
        self,
        text: str,
        functions: Mapping[str, Function],
        variables: Iterable[str] = (),
        others: Mapping[str, Template] | None = None,
    ) -> None:
        self.source = text
        self.variables = tuple(variables)
        self._functions = functions
        self._trees = {name: (self, tree) for name, tree in parse(text, functions, self.variables).items()}
        for name, other in (others or {}).items():
            self._trees.setdefault(name, other._trees[name])

    def defined(self) -> dict[str, Template]:
        """What other templates may call."""
        return {name: owner for name, (owner, _) in self._trees.items() if name}

    def render(
        self,
        data: Any,
        variables: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        functions: Mapping[str, Function] | None = None,
    ) -> str:
        """The text for this data; ``variables`` has a value for each that was named. Raises ``TemplateError``.

        ``functions``: others of the same names for this run.
        """
        run = _Run(functions or self._functions, self._trees, limits or Limits())
        given = variables or {}
        run.body("", data, [["$", data], *([name, given.get(name)] for name in self.variables)], 0)
        return "".join(run.out)


class _Leave(Exception):  # a way out of a loop, no error
    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    def __init__(
        self,
        functions: Mapping[str, Function],
        trees: Mapping[str, tuple[Template, list[Node]]],
        limits: Limits,
    ) -> None:
        self.functions, self.trees, self.limits = functions, trees, limits
        self.out: list[str] = []
        self.size = self.steps = self.calls = 0
        self.source = ""
        self.vars: list[list[Any]] = []

    def fail(self, at: int, message: str) -> TemplateError:
        before = self.source[:at]
        return TemplateError(message, before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1)

    def step(self, at: int) -> None:
        self.steps += 1
        if self.steps > self.limits.steps:
            raise self.fail(at, f"runs for more than {self.limits.steps} steps")

    def pay(self, at: int, *values: Any) -> None:
        """Long texts cost steps: a call walks over what it is given and what it makes."""
        self.steps += sum(len(value) for value in values if isinstance(value, (str, list))) >> 8
        self.step(at)

    def write(self, at: int, text: str) -> None:
        self.size += len(text)
        if self.size > self.limits.text:
            raise self.fail(at, f"writes more than {self.limits.text} characters")
        self.out.append(text)

    # --- nodes ------------------------------------------------------------------------------------

    def body(self, name: str, dot: Any, variables: list[list[Any]], at: int) -> None:
        found = self.trees.get(name)
        if found is None:
            raise self.fail(at, f"template {name!r} not defined")
        self.calls += 1
        if self.calls > _CALLS_MAX:
            raise self.fail(at, f"templates call each other more than {_CALLS_MAX} deep")
        kept, self.source = (self.source, self.vars), found[0].source
        self.vars = variables
        self.walk(found[1], dot)
        self.source, self.vars = kept
        self.calls -= 1

    def walk(self, nodes: list[Node], dot: Any) -> None:
        known = len(self.vars)
        for node in nodes:
            self.step(node.at)
            match node:
                case Text(at, text):
                    self.write(at, text)
                case Action(at, pipeline):
                    value = self.pipeline(pipeline, dot)
                    if not pipeline.names:
                        self.write(at, sprint(value, "<no value>"))
                case Control(_, kind):
                    before = len(self.vars)
                    try:
                        self.range(node, dot) if kind == "range" else self.branch(node, dot)
                    finally:
                        del self.vars[before:]
                case Call(at, name, given):
                    data = None if given is None else self.pipeline(given, dot)
                    self.body(name, data, [["$", data]], at)
                case _:
                    raise _Leave(node.kind)
        del self.vars[known:]

    def branch(self, node: Control, dot: Any) -> None:
        value = self.pipeline(node.pipeline, dot)
        if truth(value):
            self.walk(node.body, value if node.kind == "with" else dot)
        else:
            self.walk(node.orelse, dot)

    def range(self, node: Control, dot: Any) -> None:
        names, declares = node.pipeline.names, node.pipeline.declares
        pipeline = Pipeline(node.pipeline.at, node.pipeline.commands)
        value = self.pipeline(pipeline, dot)
        if isinstance(value, int) and not isinstance(value, bool):
            items: Iterable[tuple[Any, Any]] = ((i, i) for i in range(value))
        elif isinstance(value, dict):
            items = sorted(value.items())
        elif isinstance(value, list):
            items = enumerate(value)
        elif value is None:
            items = ()
        else:
            raise self.fail(node.at, f"range can't iterate over {sprint(value)}")
        ran = False
        known = len(self.vars)
        for key, item in items:
            ran = True
            self.step(node.at)
            for name, bound in zip(names, (item,) if len(names) == 1 else (key, item), strict=False):
                self.bind(node.at, name, bound, declares)
            try:
                self.walk(node.body, item)
            except _Leave as leave:
                if leave.kind == "break":
                    break
            finally:
                del self.vars[known:]
        if not ran:
            self.walk(node.orelse, dot)

    # --- values -----------------------------------------------------------------------------------

    def bind(self, at: int, name: str, value: Any, declares: bool) -> None:
        if declares:
            self.vars.append([name, value])
            return
        for slot in reversed(self.vars):
            if slot[0] == name:
                slot[1] = value
                return
        raise self.fail(at, f"undefined variable: {name}")

    def variable(self, at: int, name: str) -> Any:
        for known, value in reversed(self.vars):
            if known == name:
                return value
        # Declared in a branch that did not run.
        raise self.fail(at, f"undefined variable: {name}")

    def pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        value: Any = _MISSING
        for command in pipeline.commands:
            value = self.command(command, dot, value)
        for name in pipeline.names:
            self.bind(pipeline.at, name, value, pipeline.declares)
        return value

    def command(self, command: Command, dot: Any, final: Any) -> Any:
        self.step(command.at)
        head, rest = command.args[0], command.args[1:]
        if isinstance(head, Chain) and head.function:
            return self.call(head, rest, dot, final)
        if isinstance(head, Chain) and head.fields:
            base = self.base(head, dot)
            for name in head.fields[:-1]:
                base = self.field(head.at, base, name, [])
            given = [self.value(arg, dot) for arg in rest]
            given += [] if final is _MISSING else [final]
            return self.field(head.at, base, head.fields[-1], given)
        if rest or final is not _MISSING:
            raise self.fail(command.at, "can't give argument to non-function")
        if isinstance(head, Literal) and head.value is None:
            raise self.fail(command.at, "nil is not a command")
        return self.value(head, dot)

    def base(self, chain: Chain, dot: Any) -> Any:
        if chain.base is None:
            return dot
        if isinstance(chain.base, str):
            return self.variable(chain.at, chain.base)
        return self.pipeline(chain.base, dot)

    def value(self, expr: Expr, dot: Any) -> Any:
        if isinstance(expr, Literal):
            return expr.value
        if isinstance(expr, Pipeline):
            return self.pipeline(expr, dot)
        if expr.function:
            return self.call(expr, [], dot, _MISSING)
        value = self.base(expr, dot)
        for name in expr.fields:
            value = self.field(expr.at, value, name, [])
        return value

    def field(self, at: int, value: Any, name: str, given: list[Any]) -> Any:
        self.step(at)
        method = value.methods.get(name) if isinstance(value, (Record, KV, Slice)) else None
        if method is not None:
            wanted = method.__code__.co_argcount - 1
            if len(given) != wanted:
                raise self.fail(at, f"wrong number of args for {name}: want {wanted} got {len(given)}")
            try:
                return method(value, *given)
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                raise self.fail(at, f"error calling {name}: {error}") from None
        if given:
            raise self.fail(at, f"{name} has arguments but cannot be invoked as function")
        if value is None:
            return None
        if isinstance(value, Record):
            if name not in value.fields:
                raise self.fail(at, f"can't evaluate field {name} in type {value.name}")
            return value.fields[name]
        if isinstance(value, KV):
            return value.get(name, "")
        if isinstance(value, dict):
            return value.get(name)
        raise self.fail(at, f"can't evaluate field {name} in type {go_type(value)}")

    # --- calls ------------------------------------------------------------------------------------

    def call(self, head: Chain, args: list[Expr], dot: Any, final: Any) -> Any:
        name = str(head.base)
        function = self.functions[name]
        if name in ("and", "or"):
            return self.logic(head, args, dot, final)
        count, fixed = len(args) + (final is not _MISSING), len(function.params) - function.variadic
        if count < fixed or (count > fixed and not function.variadic):
            least = "at least " if function.variadic else ""
            raise self.fail(head.at, f"wrong number of args for {name}: want {least}{fixed} got {count}")
        given: list[Any] = []
        for i, arg in enumerate(args):
            kind = function.params[min(i, len(function.params) - 1)]
            given.append(self.argument(head, kind, self.value(arg, dot)))
        if final is not _MISSING:
            kind = function.params[min(len(args), len(function.params) - 1)]
            given.append(self.argument(head, kind, final))
        self.pay(head.at, *given)
        try:
            result = function.call(*given)
        except (ValueError, OverflowError, TypeError, MetricsDBError) as error:
            raise self.fail(head.at, f"error calling {name}: {error}") from None
        if isinstance(result, str) and len(result) > self.limits.text:
            raise self.fail(head.at, f"{name} makes more than {self.limits.text} characters")
        self.pay(head.at, result)
        return result

    def argument(self, head: Chain, kind: str, value: Any) -> Any:
        if kind == "any":
            return value
        actual = go_type(value)
        if actual == kind or (kind == "[]string" and value == []):
            return value
        raise self.fail(head.at, f"wrong type for value; expected {kind}; got {actual}")

    def logic(self, head: Chain, args: list[Expr], dot: Any, final: Any) -> Any:
        """`and` and `or` look at no more than they must."""
        if not args and final is _MISSING:
            raise self.fail(head.at, f"wrong number of args for {head.base}: want at least 1 got 0")
        stop, value = head.base == "or", _MISSING
        for arg in args:
            value = self.value(arg, dot)
            if truth(value) is stop:
                return value
        return value if final is _MISSING else final
