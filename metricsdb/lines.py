"""The last rows of a record for people: in memory, and in a file of JSON lines that grows until it is written anew."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["ROWS_MAX", "Lines"]

Row = TypeVar("Row")
ROWS_MAX = 10_000


class Lines(Generic[Row]):
    """Without a path they are in memory alone. ``row`` makes a row of what stands in a line, and raises ``TypeError``
    or ``ValueError`` for what is none.

    What stands in the file decides nothing: it is not synced, a line that cannot be read is passed over, and a disk
    that fails is named in the log ``log``.
    """

    def __init__(
        self, path: Path | None, row: Callable[[Any], Row], log: logging.Logger, rows_max: int = ROWS_MAX
    ) -> None:
        self.rows: deque[Row] = deque(maxlen=rows_max)
        self._path, self._log, self._rows_max = path, log, rows_max
        body = path.read_bytes() if path is not None and path.is_file() else b""
        lines = body.splitlines()
        self._count = len(lines)
        # The last line of a process that was killed ends here.
        self._end = b"" if body.endswith(b"\n") or not body else b"\n"
        for line in lines:
            with suppress(ValueError, TypeError, msgspec.MsgspecError):
                self.rows.append(row(msgspec.json.decode(line)))

    def add(self, rows: Iterable[Row]) -> None:
        """Takes rows; O(rows), now and then O(``rows_max``)."""
        fresh = list(rows)
        self.rows.extend(fresh)
        if fresh:
            self._write(fresh)

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Forgets the other rows."""
        kept = [row for row in self.rows if wanted(row)]
        if len(kept) < len(self.rows):
            self.rows = deque(kept, maxlen=self._rows_max)
            self._write(None)

    def _write(self, fresh: list[Row] | None) -> None:
        """Writes rows behind those of the file; all of them anew where there are None, or too many lines."""
        if self._path is None:
            return
        anew = fresh is None or self._count + len(fresh) > 2 * self._rows_max
        written = self.rows if fresh is None or anew else fresh
        body = b"".join(msgspec.json.encode(row) + b"\n" for row in written)
        try:
            if anew:
                beside = self._path.with_name(self._path.name + ".new")
                beside.write_bytes(body)
                beside.replace(self._path)
            else:
                with self._path.open("ab") as file:
                    file.write(self._end + body)
        except OSError as error:
            self._log.error("%s cannot be written: %s; its lines are kept in memory", self._path, error.strerror)
            return
        self._count = len(written) + (0 if anew else self._count)
        self._end = b""
