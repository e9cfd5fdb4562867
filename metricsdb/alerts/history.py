"""The last transitions, in memory and in a file that only grows until it is written anew."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from metricsdb.alerts.shown import CHANGES

__all__ = ["HISTORY_MAX", "History"]

log = logging.getLogger("metricsdb.alerts")

HISTORY_MAX = 10_000
FILE = "alerts-history.jsonl"


class History:
    """A row is a tuple as `shown.CHANGES` names its parts. Without a directory it is in memory alone.

    What stands in the file is a record for people and decides nothing: it is not synced, and a line that cannot be read
    is passed over.
    """

    def __init__(self, directory: Path | None, max_rows: int = HISTORY_MAX) -> None:
        self._rows: deque[tuple[Any, ...]] = deque(maxlen=max_rows)
        self._path = None if directory is None else directory / FILE
        self._lines = 0
        if self._path is not None and self._path.exists():
            for line in self._path.read_bytes().splitlines():
                self._lines += 1
                row = _row(line)
                if row is not None:
                    self._rows.append(row)

    def rows(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def forget_after(self, known: dict[str, int]) -> None:
        """Forgets what is later than the last evaluation (ms) of its alert that was saved: it happens again."""
        kept = [row for row in self._rows if row[0] <= known.get(row[1], row[0])]
        if len(kept) < len(self._rows):
            self._rows = deque(kept, maxlen=self._rows.maxlen)
            self._rewrite()

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Takes rows; O(rows), now and then O(``max_rows``). A disk that fails is named in the log."""
        fresh = list(rows)
        self._rows.extend(fresh)
        if self._path is None or not fresh:
            return
        self._lines += len(fresh)
        if self._lines > 2 * (self._rows.maxlen or HISTORY_MAX):
            self._rewrite()
            return
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in fresh))
        except OSError as error:
            log.error("%s: %s; transitions are kept in memory", self._path, error.strerror)

    def _rewrite(self) -> None:
        assert self._path is not None
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in self._rows))
            fresh.replace(self._path)
            self._lines = len(self._rows)
        except OSError as error:
            log.error("%s: %s; transitions are kept in memory", self._path, error.strerror)


def _row(line: bytes) -> tuple[Any, ...] | None:
    try:
        found = tuple(msgspec.json.decode(line))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return None
    return found if len(found) == len(CHANGES) and isinstance(found[0], int) else None
