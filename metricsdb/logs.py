"""Lines of the log: one for each record, whatever a message holds."""

from __future__ import annotations

import logging
import re

__all__ = ["OneLine", "Seldom", "printable"]

# Control characters (newlines, escapes of terminals), their 8-bit forms, separators of lines and paragraphs, and
# marks that turn the direction of writing: what makes a line look like two, or like another.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with everything escaped that a terminal or a reader of lines would obey."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


class OneLine(logging.Formatter):
    """Escapes messages; a traceback follows on lines that begin with a bar, as no record does."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = printable(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    | {printable(part)}" for part in trace.split("\n"))
        return line


class Seldom:
    """Says when a line may be written again: what others can cause without end must not fill the disk."""

    def __init__(self, every_s: float = 60) -> None:
        self._every_s = every_s
        self._after: float | None = None

    def due(self, now_s: float) -> bool:
        """True at most once in that time."""
        if self._after is not None and now_s < self._after:
            return False
        self._after = now_s + self._every_s
        return True
