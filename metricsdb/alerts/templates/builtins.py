"""Go's own functions of templates, but `and` and `or`, which the runner has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from metricsdb.alerts.templates.run import Function
from metricsdb.alerts.templates.values import KV, TEXT_MAX, Record, go_type, sprint, sprintf, truth

__all__ = ["BUILTINS"]

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"})
_JS = {c: f"\\u{ord(c):04X}" for c in "<>&="} | {"\\": "\\\\", "'": "\\'", '"': '\\"'}


def _kind(value: Any) -> str:
    for types, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, types):
            return name
    if isinstance(value, (dict, list)):
        raise ValueError(f"non-comparable type {sprint(value)}: {go_type(value)}")
    return "nil" if value is None else go_type(value)


def _same(one: Any, other: Any) -> bool:
    kinds = {_kind(one), _kind(other)}
    if "nil" in kinds:
        return kinds == {"nil"}
    if len(kinds) > 1:
        raise ValueError("incompatible types for comparison")
    return bool(one == other)


def _equal(one: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same(one, other) for other in others)


def _less(one: Any, other: Any) -> bool:
    kinds = {_kind(one), _kind(other)}
    if not kinds <= {"int", "float", "string"}:
        raise ValueError("invalid type for comparison")
    if len(kinds) > 1:
        raise ValueError("incompatible types for comparison")
    return bool(one < other)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    raise ValueError(f"len of type {go_type(value)}" if value is not None else "len of nil pointer")


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"cannot index slice/array with type {go_type(value)}")
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, KV):
            if not isinstance(key, str):
                raise ValueError(f"value has type {go_type(key)}; should be string")
            value = value.get(key, "")
        elif isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, (list, str)):
            items = value.encode() if isinstance(value, str) else value
            at = _number(key)
            if not 0 <= at < len(items):
                raise ValueError(f"index out of range: {at}")
            value = items[at]
        else:
            raise ValueError("index of untyped nil" if value is None else f"can't index item of type {go_type(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if len(bounds) > (2 if isinstance(value, str) else 3):
        raise ValueError(f"too many slice indexes: {len(bounds)}")
    if not isinstance(value, (str, list)):
        raise ValueError(f"can't slice item of type {go_type(value)}")
    items = value.encode() if isinstance(value, str) else value
    low, high = (*map(_number, bounds), *(0, len(items))[len(bounds) :])[:2]
    if not 0 <= low <= high <= len(items):
        raise ValueError(f"slice bounds out of range: {low} to {high}")
    part = items[low:high]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


def _print(*args: Any) -> str:
    out: list[str] = []
    for i, arg in enumerate(args):
        if i and not isinstance(arg, str) and not isinstance(args[i - 1], str):
            out.append(" ")
        out.append(sprint(arg))
    return _bounded(out)


def _println(*args: Any) -> str:
    return _bounded([" ".join(map(sprint, args)), "\n"])


def _bounded(parts: list[str]) -> str:
    if sum(map(len, parts)) > TEXT_MAX:
        raise ValueError(f"text of more than {TEXT_MAX} characters")
    return "".join(parts)


def _js(*args: Any) -> str:
    out = []
    for char in _print(*args):
        known = _JS.get(char)
        plain = char.isprintable() and known is None
        out.append(char if plain else known or f"\\u{ord(char):04X}")
    return _bounded(out)


def _call(value: Any, *_: Any) -> Any:
    raise ValueError(f"non-function of type {go_type(value)}")


def to_json(value: Any) -> str:
    """JSON as Go's encoder writes it, with keys sorted and HTML's signs escaped."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        value = value.plain()
        return value if isinstance(value, str) else {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return {key: _plain(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


_of: Callable[[str, Callable[..., Any]], Function] = Function.of
BUILTINS: dict[str, Function] = {
    "and": _of("any...", truth),
    "or": _of("any...", truth),
    "not": _of("any", lambda value: not truth(value)),
    "call": _of("any any...", _call),
    "eq": _of("any any...", _equal),
    "ne": _of("any any", lambda a, b: not _same(a, b)),
    "lt": _of("any any", _less),
    "le": _of("any any", lambda a, b: _less(a, b) or _same(a, b)),
    "gt": _of("any any", lambda a, b: not (_less(a, b) or _same(a, b))),
    "ge": _of("any any", lambda a, b: not _less(a, b)),
    "len": _of("any", _length),
    "index": _of("any any...", _index),
    "slice": _of("any any...", _slice),
    "print": _of("any...", _print),
    "println": _of("any...", _println),
    "printf": _of("string any...", sprintf),
    "html": _of("any...", lambda *args: _bounded([_print(*args).translate(_HTML)])),
    "js": _of("any...", _js),
    "urlquery": _of("any...", lambda *args: quote_plus(_print(*args), safe="-_.~")),
}
