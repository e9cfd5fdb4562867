"""Messages on their way out, on disk until a receiver has taken them: at least once, in order for each target.

The file is lines of a checksum and JSON, appended and synced before `put` returns; what is done is appended, too, and
the file is written anew when most of it is done. A torn last line is what a crash leaves, and is dropped; a damaged one
among others is skipped and counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from metricsdb.errors import DatabaseLocked, StorageError
from metricsdb.files import sync_folder

__all__ = ["Message", "Outbox"]

P = ParamSpec("P")
T = TypeVar("T")
BACKOFF_MS, BACKOFF_MAX_MS = 1_000, 300_000
_COMPACT_BYTES = 1 << 20


def _alone(method: Callable[Concatenate[Outbox, P], T]) -> Callable[Concatenate[Outbox, P], T]:
    """One thread at a time: alerts are put by the one that evaluates, and taken by the one that delivers."""

    @wraps(method)
    def held(self: Outbox, /, *args: P.args, **options: P.kwargs) -> T:
        with self._mutex:
            return method(self, *args, **options)

    return held


@dataclass(frozen=True, slots=True)
class Message:
    """``target`` names the channel, ``key`` tells the message from others, ``body`` is what is sent."""

    target: str
    key: str
    body: str = field(repr=False)
    at_ms: int = 0


@dataclass(slots=True)
class _Target:
    # Its first entry is found at once, however many before it were taken out.
    waiting: OrderedDict[str, Message] = field(default_factory=OrderedDict)
    failures: int = 0
    next_ms: int = 0


class Outbox:
    """Kept in ``directory``, or in memory alone without one. ``chance`` spreads the retries. Thread-safe.

    Raises ``DatabaseLocked`` where another process has the directory, ``StorageError``.
    """

    def __init__(self, directory: str | Path | None = None, chance: random.Random | None = None) -> None:
        self._mutex = threading.RLock()
        self._chance = chance or random.Random()
        self._targets: dict[str, _Target] = {}
        self._file: FileIO | None = None
        self._lock: BinaryIO | None = None
        self._bytes = self._whole = self._live = self._state_bytes = 0
        self._torn = False
        self.damaged = 0
        self.state: Any = None
        self.path = None if directory is None else Path(directory) / "outbox.log"
        if self.path is not None:
            try:
                self._open(self.path)
            except OSError as error:
                raise StorageError(f"{self.path}: cannot be opened: {error}") from None

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = (path.parent / "outbox.lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DatabaseLocked(f"{path.parent}: another process has this outbox") from None
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        # What follows the last end of a line is a torn write, never a message that was promised.
        for line in lines[:-1]:
            record = _decoded(line)
            if not line:
                continue  # set apart from a write that failed
            if record is None:
                self.damaged += 1
            else:
                self._apply(record)
        self._rewrite()

    def _apply(self, record: Mapping[str, Any]) -> None:
        if "put" in record:
            message = Message(*record["put"])
            waiting = self._targets.setdefault(message.target, _Target()).waiting
            self._live += len(message.body) if message.key not in waiting else 0
            waiting[message.key] = message
        elif "done" in record:
            target, key = record["done"]
            if target in self._targets:
                self._taken(self._targets[target], key)
        elif "change" in record:
            _apply_change(self.state, record["change"])
        else:
            self.state = record["state"]

    def _taken(self, target: _Target, key: str) -> None:
        message = target.waiting.pop(key, None)
        self._live -= len(message.body) if message is not None else 0

    # --- in ---------------------------------------------------------------------------------------

    @_alone
    def put(self, messages: Iterable[Message], state: dict[str, dict[str, Any]] | None = None) -> None:
        """Takes messages, and what the router must know of having made them, all or nothing with one sync.

        ``state``: sections of entries by name; of one that follows another only the entries that differ are written.
        A message whose key its target already waits for is the same message. Raises ``StorageError``; then nothing
        was taken.
        """
        new = list(messages)
        records = [{"put": [m.target, m.key, m.body, m.at_ms]} for m in new]
        # The state goes last: one that stands there says that the messages before it do.
        records += [] if state is None else [_told(self.state, state)]
        self._append(records, sync=True)
        for record in records:
            self._apply(record)
        self._compact()

    # --- out --------------------------------------------------------------------------------------

    @_alone
    def due(self, now_ms: int) -> list[Message]:
        """The oldest message of each target that may be tried now."""
        ready = (t for t in self._targets.values() if t.waiting and t.next_ms <= now_ms)
        return [next(iter(target.waiting.values())) for target in ready]

    @_alone
    def next_due(self) -> int | None:
        """When `due` has something; None: nothing waits."""
        return min((t.next_ms for t in self._targets.values() if t.waiting), default=None)

    @_alone
    def done(self, message: Message, not_before_ms: int = 0) -> None:
        """The receiver has it, or never will; its target's next one may be tried from ``not_before_ms`` on.

        Not synced: a crash may send it once more, with the same key.
        """
        target = self._targets[message.target]
        self._taken(target, message.key)
        target.failures, target.next_ms = 0, not_before_ms
        self._append([{"done": [message.target, message.key]}], sync=False)
        self._compact()

    @_alone
    def failed(self, message: Message, now_ms: int, retry_after_ms: int = 0) -> int:
        """The target did not take it: nothing is tried there until the time that is returned."""
        target = self._targets[message.target]
        wait = min(BACKOFF_MS * 2 ** min(target.failures, 20), BACKOFF_MAX_MS)
        target.failures += 1
        target.next_ms = now_ms + max(retry_after_ms, round(wait * self._chance.uniform(0.5, 1.0)))
        return target.next_ms

    @_alone
    def waiting(self, target: str | None = None) -> list[Message]:
        """What was not taken yet, oldest first within a target."""
        chosen = self._targets.values() if target is None else [self._targets.get(target, _Target())]
        return [message for one in chosen for message in one.waiting.values()]

    @_alone
    def close(self) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    # --- the file ---------------------------------------------------------------------------------

    def _append(self, records: list[dict[str, Any]], sync: bool) -> None:
        if self.path is None or not records:
            return
        if self._file is None:
            raise StorageError(f"{self.path}: the outbox is closed")
        lines = [*map(_encoded, records)]
        if "state" in records[-1]:
            self._state_bytes = len(lines[-1])
        data = (b"\n" if self._torn else b"") + b"".join(lines)
        try:
            _write(self._file, data)
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            # Part of it may stand there: the next line must not be glued to it.
            self._torn = True
            self._rewrite()
            raise StorageError(f"{self.path}: cannot be written: {error}") from None
        self._bytes += len(data)

    def _compact(self) -> None:
        """When most is of no use, and so much came since the last time that it costs a share of that writing."""
        used = 2 * (self._live + self._state_bytes)
        if self.path is not None and self._bytes > max(used, self._whole) + _COMPACT_BYTES:
            self._rewrite()

    def _rewrite(self) -> None:
        """What still waits, in a new file that takes the old one's place in one step."""
        assert self.path is not None
        records: list[dict[str, Any]] = [{"put": [m.target, m.key, m.body, m.at_ms]} for m in self.waiting()]
        records += [] if self.state is None else [{"state": self.state}]
        data = b"".join(map(_encoded, records))
        fresh = self.path.with_suffix(".new")
        try:
            file = fresh.open("wb", buffering=0)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error}") from None
        try:
            _write(file, data)
            os.fsync(file.fileno())
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            file.close()
            raise StorageError(f"{self.path}: cannot be written: {error}") from None
        if self._file is not None:
            self._file.close()
        self._file, self._torn = file, False
        self._bytes = self._whole = len(data)


def _told(before: Any, state: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record that makes ``state`` of what stood before: the whole, or the entries that changed (None: is gone)."""
    if before is None or before.keys() != state.keys():
        return {"state": state}
    change: dict[str, dict[str, Any]] = {}
    for section, entries in state.items():
        old = before[section]
        fresh = {name: value for name, value in entries.items() if name not in old or old[name] != value}
        gone = dict.fromkeys(old.keys() - entries.keys())
        if fresh or gone:
            change[section] = {**gone, **fresh}
    return {"change": change}


def _apply_change(state: dict[str, dict[str, Any]], change: Mapping[str, Mapping[str, Any]]) -> None:
    for section, entries in change.items():
        for name, value in entries.items():
            if value is None:
                state[section].pop(name, None)
            else:
                state[section][name] = value


def _write(file: FileIO, data: bytes) -> None:
    """All of it: a raw file may take less at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _encoded(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decoded(line: bytes) -> Any:
    try:
        if int(line[:8], 16) == zlib.crc32(line[9:]):
            return json.loads(line[9:])
    except ValueError:
        pass
    return None
