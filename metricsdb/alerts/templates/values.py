"""The values that templates see, as Go sees them: what a type is called, what is true, how fmt prints it.

Python's str, int, float, bool, None, list and dict stand for Go's; a `Record` for a struct. What a template may reach
of a value is listed by its class (`Record.fields`, `methods`), so no name in a template ever reaches Python's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

__all__ = ["KV", "Record", "Slice", "go_float", "go_type", "quote", "sprint", "sprintf", "truth", "unquote"]

_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_WIDTH_MAX = 10_000
TEXT_MAX = 1 << 20


class Record:
    """A struct: ``fields`` by name in the order in which Go prints them, and what ``methods`` of its class can do."""

    name: ClassVar[str] = "struct"
    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    fields: Mapping[str, Any] = {}

    def text(self) -> str | None:
        """What its ``String`` method says; None: it has none."""
        return None

    def plain(self) -> Any:
        """What JSON has of it."""
        return self.text() or dict(self.fields)


class KV(dict[str, str]):
    """A map of strings, in which a key that is not there is the empty string."""

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    name: ClassVar[str] = "map[string]string"

    def text(self) -> str | None:
        return None


class Slice(list[Any]):
    """A list of one type, or with methods."""

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    name: ClassVar[str] = "[]interface {}"

    def text(self) -> str | None:
        return None


def unquote(text: str) -> str:
    """The string that a Go literal means. Raises ValueError."""
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    inside, out, at = text[1:-1], bytearray(), 0
    for match in _ESCAPE.finditer(inside):
        out += inside[at : match.start()].encode()
        at = match.end()
        byte_hex, byte_octal, short, long, simple = match.groups()
        if simple is not None:
            if simple not in _SIMPLE or simple == ("'" if text[0] == '"' else '"'):
                raise ValueError(f"unknown escape \\{simple} in {text}")
            out.append(_SIMPLE[simple])
        elif byte_hex or byte_octal:
            value = int(byte_hex, 16) if byte_hex else int(byte_octal, 8)
            if value > 255:
                raise ValueError(f"{match[0]} is no byte, in {text}")
            out.append(value)
        else:
            code = int(short or long, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise ValueError(f"{match[0]} is no character, in {text}")
            out += chr(code).encode()
    return (out + inside[at:].encode()).decode("utf-8", "replace")


def quote(text: str, ascii_only: bool = False) -> str:
    """A Go string literal in double quotes."""
    names = {7: "a", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t", 11: "v", 92: "\\", 34: '"'}
    out = []
    for char in text:
        code = ord(char)
        if code in names:
            out.append("\\" + names[code])
        elif char.isprintable() and (code < 0x80 or not ascii_only):
            out.append(char)
        else:
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def go_type(value: Any) -> str:
    """What Go's %T says."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (Record, KV, Slice)):
        return value.name
    for kind, name in ((str, "string"), (int, "int"), (float, "float64"), (dict, "map[string]interface {}")):
        if isinstance(value, kind):
            return name
    if isinstance(value, list):
        same = {go_type(item) for item in value}
        return f"[]{same.pop()}" if len(same) == 1 else "[]interface {}"
    return "<nil>"


def truth(value: Any) -> bool:
    """Whether `if` takes it: not empty, not zero, not nil; a struct always."""
    return True if isinstance(value, Record) else bool(value)


def sprint(value: Any, nil: str = "<nil>") -> str:
    """The value as Go's %v."""
    if value is None:
        return nil
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, (Record, KV, Slice)) and (text := value.text()) is not None:
        return text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return go_float(value, "g", -1)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{sprint(k)}:{sprint(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(sprint, value)) + "]"
    return "{" + " ".join(map(sprint, value.fields.values())) + "}"


def go_float(value: float, verb: str, precision: int) -> str:
    """A float as strconv writes it; precision -1: as few digits as tell it apart. Infinities have their sign."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if precision >= 0:
        return f"{value:.{precision}{verb}}"
    if verb in "fF":
        return format(Decimal(repr(value)).normalize(), "f") if value else f"{value:.0f}"
    digits = Decimal(repr(value)).normalize().as_tuple()
    exponent = len(digits.digits) - 1 + int(digits.exponent) if value else 0
    if verb in "eE" or exponent < -4 or exponent >= 6:
        return f"{value:.{len(digits.digits) - 1}{'e' if verb in 'eg' else 'E'}}"
    return go_float(value, "f", -1)


_VERB = re.compile(
    r"(?P<flags>[-+# 0]*)(?:(?P<width_at>\[\d+\])?(?P<star>\*)|(?P<width>\d+))?"
    r"(?:\.(?:(?P<precision_at>\[\d+\])?(?P<precision_star>\*)|(?P<precision>\d*)))?(?P<index>\[\d+\])?(?P<verb>.)?",
    re.DOTALL,
)


def sprintf(pattern: str, *args: Any) -> str:
    """Go's Sprintf. What doesn't fit stands in the result, as there: ``%!d(string=x)``. ValueError: too long."""
    out, at, used, reordered, size = [], 0, 0, False, 0

    def taken() -> tuple[bool, Any]:
        nonlocal used
        used += 1
        return (True, args[used - 1]) if 0 < used <= len(args) else (False, None)

    while (found := pattern.find("%", at)) >= 0:
        out.append(pattern[at:found])
        match = _VERB.match(pattern, found + 1)
        assert match is not None
        at = match.end()
        numbers: dict[str, int | None] = {}
        note = ""
        for what in ("width", "precision"):
            numbers[what] = int(match[what]) if match[what] else None
            star = match["star" if what == "width" else "precision_star"]
            if match[f"{what}_at"]:
                used, reordered = int(match[f"{what}_at"][1:-1]) - 1, True
            if star:
                there, value = taken()
                if there and isinstance(value, int) and abs(value) <= 1_000_000:
                    numbers[what] = value
                else:
                    note += "%!(BADWIDTH)" if what == "width" else "%!(BADPREC)"
            elif what == "precision" and match["precision"] == "":
                numbers[what] = 0
        if match["index"]:
            used, reordered = int(match["index"][1:-1]) - 1, True
        out.append(note)
        verb = match["verb"]
        if verb is None:
            out.append("%!(NOVERB)")
        elif verb == "%":
            out.append("%")
        else:
            bad_index = match["index"] is not None and not 0 <= used < len(args)
            there, value = taken()
            if there:
                out.append(_formatted(_spec(match["flags"], numbers["width"], numbers["precision"], verb), verb, value))
            else:
                out.append(f"%!{verb}(BADINDEX)" if bad_index else f"%!{verb}(MISSING)")
        size += len(out[-1])
        if size > TEXT_MAX:
            raise ValueError(f"printf makes more than {TEXT_MAX} characters")
    out.append(pattern[at:])
    if not reordered and used < len(args):
        extra = (f"{go_type(a)}={sprint(a)}" if a is not None else "<nil>" for a in args[used:])
        out.append(f"%!(EXTRA {', '.join(extra)})")
    return "".join(out)


@dataclass(frozen=True, slots=True)
class _Spec:
    """Flags, width and precision of one verb."""

    flags: str
    width: int
    precision: int | None
    names: bool = False

    def padded(self, text: str, number: bool = False, zeros: bool = True) -> str:
        missing = self.width - len(text)
        if missing <= 0:
            return text
        if "-" in self.flags:
            return text + " " * missing
        if "0" not in self.flags or not zeros:
            return " " * missing + text
        sign = len(text) - len(text.lstrip("+- ")) if number else 0
        return text[:sign] + "0" * missing + text[sign:]

    def signed(self, text: str) -> str:
        if text[0] in "+-":
            return text
        return "+" + text if "+" in self.flags else " " + text if " " in self.flags else text


def _spec(flags: str, width: int | None, precision: int | None, verb: str) -> _Spec:
    if width is not None and width < 0:
        flags, width = flags + "-", -width
    if precision is not None and precision < 0:
        precision = None
    if max(width or 0, precision or 0) > _WIDTH_MAX:
        raise ValueError(f"printf: width or precision beyond {_WIDTH_MAX}")
    names = verb == "v" and "+" in flags
    return _Spec(flags.replace("+", "") if names else flags, width or 0, precision, names)


def _formatted(spec: _Spec, verb: str, value: Any) -> str:
    """The value by its verb; where they don't fit, so does the text say, as in Go."""
    if verb == "T":
        return spec.padded("<nil>" if value is None else go_type(value)[: spec.precision])
    text: str | None = None
    if value is None:
        return spec.padded("<nil>") if verb == "v" else f"%!{verb}(<nil>)"
    if isinstance(value, bool):
        text = spec.padded(sprint(value)) if verb in "tv" else None
    elif isinstance(value, int):
        text = _integer(spec, verb, value)
    elif isinstance(value, float):
        text = _float(spec, verb, value)
    elif isinstance(value, str):
        text = _string(spec, verb, value)
    elif isinstance(value, (Record, KV, Slice)) and value.text() is not None and verb in "vsxXq":
        text = _string(spec, verb, sprint(value))
    else:
        return _composed(spec, verb, value)
    return f"%!{verb}({go_type(value)}={_formatted(spec, 'v', value)})" if text is None else text


def _composed(spec: _Spec, verb: str, value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{_formatted(spec, verb, k)}:{_formatted(spec, verb, value[k])}" for k in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list):
        return f"[{' '.join(_formatted(spec, verb, item) for item in value)}]"
    named = ((f"{name}:" if spec.names else "") + _formatted(spec, verb, item) for name, item in value.fields.items())
    return "{" + " ".join(named) + "}"


def _string(spec: _Spec, verb: str, text: str) -> str | None:
    if verb in "xX":
        raw = text.encode() if spec.precision is None else text.encode()[: spec.precision]
        digits = raw.hex(" ") if " " in spec.flags else raw.hex()
        return spec.padded(digits.upper() if verb == "X" else digits)
    if verb not in "sqv":
        return None
    text = text[: spec.precision]
    if verb == "q" or (verb == "v" and "#" in spec.flags):
        bare = verb == "q" and "#" in spec.flags and "`" not in text and text.isprintable()
        quoted = f"`{text}`" if bare else quote(text, ascii_only="+" in spec.flags)
        return spec.padded(quoted)
    return spec.padded(text)


def _integer(spec: _Spec, verb: str, value: int) -> str | None:
    if verb in "cqU":
        code = value if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else 0xFFFD
        if verb == "U":
            return spec.padded(f"U+{value & 0xFFFFFFFFFFFFFFFF:0{max(spec.precision or 0, 4)}X}", zeros=False)
        inside = quote(chr(code), ascii_only="+" in spec.flags)[1:-1].replace('\\"', '"').replace("'", "\\'")
        return spec.padded(chr(code) if verb == "c" else f"'{inside}'")
    base = {"d": "d", "v": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}.get(verb)
    if base is None:
        return None
    digits = format(abs(value), base).rjust(spec.precision or 0, "0")
    if spec.precision == 0 and value == 0:
        return " " * spec.width
    prefix = "0o" if verb == "O" else ""
    if "#" in spec.flags:
        prefix = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}.get(verb, prefix)
    if "0" in spec.flags and "-" not in spec.flags and spec.precision is None:
        sign = "-" if value < 0 else spec.signed("0")[:-1]
        digits = digits.rjust(spec.width - len(sign), "0")
        return sign + prefix + digits
    return spec.padded(spec.signed(("-" if value < 0 else "") + prefix + digits), zeros=False)


def _float(spec: _Spec, verb: str, value: float) -> str | None:
    if verb not in "veEfFgGxXb":
        return None
    if not math.isfinite(value):
        text = go_float(value, "g", -1)
        if text == "+Inf" and " " in spec.flags and "+" not in spec.flags:
            text = " Inf"
        return spec.padded(text if text != "NaN" else spec.signed(text), zeros=False)
    precision = spec.precision if spec.precision is not None else 6 if verb in "eEfF" else -1
    if verb in "xXb":
        text = _binary(value, verb, precision)
    else:
        text = go_float(value, "g" if verb == "v" else verb, precision)
    return spec.padded(spec.signed(text), number=True)


def _binary(value: float, verb: str, precision: int) -> str:
    """A float's bits: mantissa and power of two, in decimals (b) or hexadecimals (x)."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    fraction, exponent = math.frexp(abs(value))
    mantissa = int(fraction * 2**53)
    exponent -= 53
    if verb == "b":
        return f"{sign}{mantissa}p{exponent if mantissa else -1074:+d}"
    power = exponent + 52 if mantissa else 0
    if 0 <= precision < 13:
        unit = 16 ** (13 - precision)
        whole, rest = divmod(mantissa, unit)
        whole += rest * 2 > unit or (rest * 2 == unit and whole % 2)
        mantissa = whole * unit
        if mantissa >= 1 << 53:
            mantissa, power = mantissa >> 1, power + 1
    digits = f"{mantissa & ((1 << 52) - 1):013x}"
    digits = digits.rstrip("0") if precision < 0 else digits[:precision].ljust(precision, "0")
    text = f"{sign}0x{1 if mantissa else 0}{'.' if digits else ''}{digits}p{power:+03d}"
    return text.upper() if verb == "X" else text
