"""Go's template syntax, from text to a tree. Variables and functions are resolved here, as Go does: a template that
names one that is not there is refused before it runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from metricsdb.alerts.templates.values import unquote
from metricsdb.errors import TemplateError

__all__ = ["Action", "Chain", "Command", "Control", "Expr", "Jump", "Literal", "Node", "Pipeline", "Text", "parse"]

DEPTH_MAX = 100
_KEYWORDS = frozenset(["define", "block", "template", "if", "else", "end", "range", "with", "break", "continue"])
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.[^']*)+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.]))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=|(),.])""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Token:
    kind: str
    text: str
    at: int
    spaced: bool  # a blank stands before it


@dataclass(slots=True)
class Literal:
    """A constant."""

    at: int
    value: object


@dataclass(slots=True)
class Chain:
    """Fields of a base: ``.A.B`` (base None: the dot), ``$x.A``, ``(pipeline).A``, or a function's name alone."""

    at: int
    base: str | Pipeline | None
    fields: list[str]
    function: bool = False


@dataclass(slots=True)
class Command:
    at: int
    args: list[Expr]


@dataclass(slots=True)
class Pipeline:
    at: int
    commands: list[Command]
    names: list[str] = field(default_factory=list)
    declares: bool = False


Expr = Literal | Chain | Pipeline


@dataclass(slots=True)
class Text:
    at: int
    text: str


@dataclass(slots=True)
class Action:
    at: int
    pipeline: Pipeline


@dataclass(slots=True)
class Control:
    """``if``, ``with``, ``range``: a pipeline, what follows, and what else."""

    at: int
    kind: str
    pipeline: Pipeline
    body: list[Node]
    orelse: list[Node]


@dataclass(slots=True)
class Call:
    at: int
    name: str
    pipeline: Pipeline | None


@dataclass(slots=True)
class Jump:
    at: int
    kind: str


Node = Text | Action | Control | Call | Jump


def parse(text: str, functions: Collection[str], variables: Collection[str] = ()) -> dict[str, list[Node]]:
    """The trees of ``text`` by name; its own is that of ``""``. Raises ``TemplateError`` with line and column."""
    return _Parser(text, functions, variables).top()


class _Parser:
    def __init__(self, text: str, functions: Collection[str], variables: Collection[str]) -> None:
        self.text = text
        self.functions = functions
        self.names = ["$", *variables]
        self.trees: dict[str, list[Node]] = {}
        self.pieces = self._pieces()
        self.tokens: list[Token] = []
        self.next = 0
        self.depth = 0
        self.ranges = 0
        self.end_at = 0

    def top(self) -> dict[str, list[Node]]:
        nodes, closing = self._list(top=True)
        if closing is not None:
            raise self._fail(closing.at, f"unexpected {{{{{closing.text}}}}}: nothing is open")
        self.trees[""] = nodes
        return self.trees

    def _fail(self, at: int, message: str) -> TemplateError:
        before = self.text[:at]
        return TemplateError(message, before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1)

    # --- pieces: text, and the tokens of an action ------------------------------------------------

    def _pieces(self) -> Iterator[Text | list[Token]]:
        text, at, trim = self.text, 0, False
        while True:
            opened = text.find("{{", at)
            chunk = text[at:] if opened < 0 else text[at:opened]
            inner = opened + 2
            trims_left = opened >= 0 and text[inner : inner + 1] == "-" and text[inner + 1 : inner + 2] in _BLANKS
            shown = chunk.lstrip(" \t\r\n") if trim else chunk
            shown = shown.rstrip(" \t\r\n") if trims_left else shown
            if shown:
                yield Text(at, shown)
            if opened < 0:
                return
            inner += 2 if trims_left else 0
            if text.startswith("/*", inner):
                close = text.find("*/", inner + 2)
                if close < 0:
                    raise self._fail(opened, "unclosed comment")
                tail = re.compile(r"( -)?\}\}").match(text, close + 2)
                if tail is None:
                    raise self._fail(close, "comment ends before closing delimiter")
                at, trim = tail.end(), tail[1] is not None
                continue
            tokens, at, trim = self._action(opened, inner)
            yield tokens

    def _action(self, opened: int, at: int) -> tuple[list[Token], int, bool]:
        tokens: list[Token] = []
        spaced = True
        while True:
            if self.text.startswith("}}", at):
                tokens.append(Token("end", "}}", at, spaced))
                return tokens, at + 2, False
            if spaced and self.text.startswith("-}}", at) and self.text[at - 1 : at] in _BLANKS:
                tokens.append(Token("end", "}}", at, spaced))
                return tokens, at + 3, True
            found = _TOKEN.match(self.text, at)
            if found is None:
                if at >= len(self.text):
                    raise self._fail(opened, "unclosed action")
                raise self._fail(at, f"unexpected {self.text[at]!r} in action")
            kind = str(found.lastgroup)
            if kind != "space":
                tokens.append(Token(kind, found[0], at, spaced))
            spaced = kind == "space"
            at = found.end()

    # --- lists of nodes ---------------------------------------------------------------------------

    def _list(self, top: bool = False) -> tuple[list[Node], Token | None]:
        """Nodes up to ``end`` or ``else``, whose token is the second; None at the end of the text."""
        nodes: list[Node] = []
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self._fail(self.end_at, f"nested more than {DEPTH_MAX} deep")
        for piece in self.pieces:
            if isinstance(piece, Text):
                nodes.append(piece)
                continue
            self.tokens, self.next = piece, 0
            first = self._peek()
            self.end_at = first.at
            if first.kind == "word" and first.text in _KEYWORDS:
                self._take()
                if first.text in ("end", "else"):
                    if first.text == "end":
                        self._close()
                    self.depth -= 1
                    return nodes, first
                nodes += self._keyword(first, top)
            elif first.kind == "end":
                raise self._fail(first.at, "missing value for command")
            else:
                pipeline = self._pipeline("command")
                self._close()
                nodes.append(Action(first.at, pipeline))
        self.depth -= 1
        return nodes, None

    def _body(self, what: Token) -> tuple[list[Node], Token]:
        nodes, closing = self._list()
        if closing is None:
            raise self._fail(what.at, f"{{{{{what.text}}}}} has no {{{{end}}}}")
        return nodes, closing

    def _keyword(self, word: Token, top: bool) -> list[Node]:
        if word.text in ("if", "with", "range"):
            return [self._control(word)]
        if word.text in ("break", "continue"):
            if not self.ranges:
                raise self._fail(word.at, f"{{{{{word.text}}}}} outside {{{{range}}}}")
            self._close()
            return [Jump(word.at, word.text)]
        if word.text == "template":
            name = self._name(word)
            pipeline = None if self._peek().kind == "end" else self._pipeline("template clause")
            self._close()
            return [Call(word.at, name, pipeline)]
        if word.text == "define" and not top:
            raise self._fail(word.at, "unexpected {{define}}: templates are defined at the top only")
        name = self._name(word)
        given = self._pipeline("block clause") if word.text == "block" else None
        self._close()
        names, ranges, self.names, self.ranges = self.names, self.ranges, ["$"], 0
        body, closing = self._body(word)
        self.names, self.ranges = names, ranges
        if closing.text != "end":
            raise self._fail(closing.at, f"unexpected {{{{else}}}} in {word.text} clause")
        self.trees[name] = body
        return [] if given is None else [Call(word.at, name, given)]

    def _control(self, word: Token) -> Control:
        known = len(self.names)
        pipeline = self._pipeline(word.text, of_range=word.text == "range")
        self._close()
        self.ranges += word.text == "range"
        body, closing = self._body(word)
        self.ranges -= word.text == "range"
        orelse: list[Node] = []
        if closing.text == "else":
            after = self._peek()
            if after.kind == "word" and after.text in ("if", "with") and word.text != "range":
                # `else if` is an `if` in the else branch that takes the same `end`.
                self._take()
                orelse = [self._nested(after)]
            else:
                self._close()
                orelse, closing = self._body(word)
                if closing.text != "end":
                    raise self._fail(closing.at, "expected end; found {{else}}")
        del self.names[known:]
        return Control(word.at, word.text, pipeline, body, orelse)

    def _nested(self, word: Token) -> Control:
        self.depth += 1  # its bodies ask whether that is too deep
        control = self._control(word)
        self.depth -= 1
        return control

    def _name(self, word: Token) -> str:
        token = self._take()
        if token.kind != "string":
            raise self._fail(token.at, f"unexpected {token.text!r} in {word.text} clause: a name in quotes comes first")
        return self._unquoted(token)

    # --- pipelines --------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.next + ahead, len(self.tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        self.next += 1
        return token

    def _close(self) -> None:
        token = self._take()
        if token.kind != "end":
            raise self._fail(token.at, f"unexpected {token.text!r} in action")

    def _pipeline(self, what: str, of_range: bool = False, closing: str = "}}") -> Pipeline:
        pipeline = Pipeline(self._peek().at, [])
        self._declaration(pipeline, of_range)
        while True:
            token = self._peek()
            if token.text == closing and token.kind in ("end", "sign"):
                break
            pipeline.commands.append(self._command(closing))
        if not pipeline.commands:
            raise self._fail(pipeline.at, f"missing value for {what}")
        for stage, command in enumerate(pipeline.commands[1:], 2):
            head = command.args[0]
            if isinstance(head, Literal) or (isinstance(head, Chain) and head.base is None and not head.fields):
                raise self._fail(command.at, f"non executable command in pipeline stage {stage}")
        if pipeline.declares:
            self.names += pipeline.names
        return pipeline

    def _declaration(self, pipeline: Pipeline, of_range: bool) -> None:
        first, second = self._peek(), self._peek(1)
        if first.kind != "variable":
            return
        if second.text in (":=", "="):
            pipeline.names, pipeline.declares = [first.text], second.text == ":="
            self.next += 2
        elif of_range and second.text == "," and self._peek(2).kind == "variable":
            third, sign = self._peek(2), self._peek(3)
            if sign.text not in (":=", "="):
                raise self._fail(sign.at, f"unexpected {sign.text!r} in range: expected :=")
            pipeline.names, pipeline.declares = [first.text, third.text], sign.text == ":="
            self.next += 4
        if not pipeline.declares:
            for name in pipeline.names:
                self._known(first.at, name)

    def _known(self, at: int, name: str) -> None:
        if name not in self.names:
            raise self._fail(at, f"undefined variable {name!r}")

    def _command(self, closing: str) -> Command:
        command = Command(self._peek().at, [])
        while True:
            token = self._peek()
            if token.text == "|" and token.kind == "sign":
                self._take()
                if self._peek().text in (closing, "|"):
                    raise self._fail(token.at, "missing command after |")
                break
            if token.text == closing and token.kind in ("end", "sign"):
                break
            if command.args and not token.spaced:
                raise self._fail(token.at, f"unexpected {token.text!r} in operand")
            command.args.append(self._operand())
        if not command.args:
            raise self._fail(command.at, "empty command")
        return command

    def _operand(self) -> Expr:
        token = self._take()
        fields: list[str] = []
        made: Expr
        if token.kind == "field":
            made = Chain(token.at, None, [token.text[1:]])
        elif token.kind == "variable":
            self._known(token.at, token.text)
            made = Chain(token.at, token.text, [])
        elif token.kind == "sign" and token.text == "(":
            self.depth += 1
            if self.depth > DEPTH_MAX:
                raise self._fail(token.at, f"nested more than {DEPTH_MAX} deep")
            made = self._pipeline("parenthesized pipeline", closing=")")
            self._take()
            self.depth -= 1
        elif token.kind == "word" and token.text not in ("true", "false", "nil"):
            if token.text not in self.functions or token.text in _KEYWORDS:
                raise self._fail(token.at, f"function {token.text!r} not defined")
            made = Chain(token.at, token.text, [], function=True)
        else:
            made = self._constant(token)
        while self._peek().kind == "field" and not self._peek().spaced:
            following = self._take()
            if isinstance(made, Literal) or (isinstance(made, Chain) and made.base is None and token.text == "."):
                raise self._fail(following.at, f"unexpected {following.text!r} after term {token.text!r}")
            fields.append(following.text[1:])
        if fields:
            if isinstance(made, Chain) and not made.function:
                made.fields += fields
            else:
                base = made if isinstance(made, Pipeline) else Pipeline(token.at, [Command(token.at, [made])])
                made = Chain(token.at, base, fields)
        return made

    def _constant(self, token: Token) -> Expr:
        if token.kind == "string":
            return Literal(token.at, self._unquoted(token))
        if token.kind == "char":
            text = self._unquoted(token)
            if len(text) != 1:
                raise self._fail(token.at, f"malformed character constant: {token.text}")
            return Literal(token.at, ord(text))
        if token.kind == "number":
            return Literal(token.at, self._number(token))
        if token.kind == "word":
            return Literal(token.at, {"true": True, "false": False, "nil": None}[token.text])
        if token.text == ".":
            return Chain(token.at, None, [])
        raise self._fail(token.at, f"unexpected {token.text!r} in operand")

    def _number(self, token: Token) -> int | float:
        text = token.text
        try:
            if re.fullmatch(r"[+-]?0[0-7_]+", text):
                return int(text.replace("_", ""), 8)
            if re.fullmatch(r"[+-]?(?:\d[\d_]*|0[xX].*|0[bB].*|0[oO].*)", text):
                value = int(text, 0)
                if not -(2**63) <= value < 2**63:
                    raise self._fail(token.at, f"integer overflow: {text}")
                return value
            return float(text)
        except ValueError:
            raise self._fail(token.at, f"bad number syntax: {text!r}") from None

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            raise self._fail(token.at, str(error)) from None


_BLANKS = (" ", "\t", "\r", "\n")
