"""Go's regular expressions, matched in linear time whatever the pattern: on Polars' engine, which is as RE2 is."""

from __future__ import annotations

import re
from functools import lru_cache

import polars as pl

from metricsdb.errors import ConfigError

__all__ = ["fullmatch", "replace_all", "search", "translate"]

# Go's classes are of ASCII alone, those of the engine of all of Unicode.
_CLASSES = {
    "d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]",
    "s": r"[\t\n\f\r ]", "S": r"[^\t\n\f\r ]", "b": r"(?-u:\b)", "B": r"(?-u:\B)",
}  # fmt: skip
_BYTES_MAX = 64 << 20


def translate(pattern: str) -> str:
    """The pattern in the engine's dialect: ASCII classes, `\\Q…\\E`, signs that it alone knows in a class."""
    out: list[str] = []
    at, inside = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            following = pattern[at + 1]
            if following == "Q":
                end = pattern.find("\\E", at + 2)
                literal = pattern[at + 2 :] if end < 0 else pattern[at + 2 : end]
                out.append(re.sub(r"([^0-9A-Za-z_\s])", r"\\\1", literal, flags=re.ASCII))
                at = len(pattern) if end < 0 else end + 2
                continue
            out.append(_CLASSES.get(following, char + following))
            at += 2
            continue
        if inside and char == "[" and pattern.startswith("[:", at):
            end = pattern.find(":]", at)
            if end > 0:
                out.append(pattern[at : end + 2])
                at = end + 2
                continue
        if inside and char in "[&~":
            char = "\\" + char
        elif not inside and char == "[":
            inside = True
            while pattern[at + 1 : at + 2] == "^" or pattern[at + 1 : at + 2] == "]":
                # `]` is literal where it stands first.
                at += 1
                char += "\\]" if pattern[at] == "]" else "^"
                if pattern[at] == "]":
                    break
        elif inside and char == "]":
            inside = False
        out.append(char)
        at += 1
    return "".join(out)


def _engine(pattern: str, subject: str, replacement: str | None) -> str | bool:
    series = pl.Series([subject], dtype=pl.String)
    try:
        if replacement is None:
            return bool(series.str.contains(translate(pattern)).item())
        return str(series.str.replace_all(translate(pattern), replacement).item())
    except pl.exceptions.ComputeError as error:
        detail = str(error).strip().splitlines()
        raise ConfigError(f"regex {pattern!r} cannot be read: {detail[-1] if detail else ''}") from None


@lru_cache(maxsize=65_536)
def fullmatch(pattern: str, subject: str) -> bool:
    """Whether the whole of ``subject`` matches, as Alertmanager's matchers ask. Raises ``ConfigError``."""
    return bool(_engine(f"^(?:{pattern})$", subject, None))


def search(pattern: str, subject: str) -> bool:
    """Whether it matches anywhere. Raises ``ConfigError``."""
    return bool(_engine(pattern, subject, None))


def replace_all(pattern: str, replacement: str, subject: str) -> str:
    """Each match replaced; ``$1`` and ``${name}`` are groups. Raises ``ConfigError``, also where it might get long."""
    longest = (len(subject) + 1) * (len(replacement) + 1 + len(subject) * replacement.count("$"))
    if longest > _BYTES_MAX:
        raise ConfigError(f"a replacement in {len(subject)} characters may take {longest} bytes; shorten the text")
    return str(_engine(pattern, subject, replacement))
