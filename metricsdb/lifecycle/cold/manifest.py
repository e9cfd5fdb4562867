"""What counts in a cold store: numbered manifests, each the whole state, published by creating the next number once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from metricsdb.errors import FormatVersionError
from metricsdb.lifecycle.cold.objects import Missing, Objects, Taken

__all__ = [
    "ALL_SHARDS",
    "ALWAYS",
    "ROLLED_WEIGHT",
    "Draw",
    "Gone",
    "Manifest",
    "Part",
    "Shards",
    "Tombstone",
    "load",
    "publish",
    "sweep",
    "weight_of",
]

VERSION = 1
FOLDER = "manifest/"
# Older manifests stay for so long after the newest: a publisher that loaded one of them may still be about to write.
KEEP, KEEP_MS = 16, 3_600_000
TRIES = 200

Kind = Literal["samples", "histograms", "rollups"]
# From the first shard to before the second: which series are of a shard never changes.
Shards = tuple[int, int]
ALL_SHARDS: Shards = (0, 256)
ALWAYS = -(2**63)
# A record of a rollup takes as many bytes as so many samples, in memory and on the way.
ROLLED_WEIGHT = 16


def weight_of(kind: Kind) -> int:
    """As how many samples a row counts."""
    return ROLLED_WEIGHT if kind == "rollups" else 1


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Samples in [start, end] of the series that ``selectors`` take, and ``unless`` don't, are not there any more.

    ``moved``: since they are in the next tier; only those of such shards (by hash), and of records whose last
    millisecond before their end is in the range.
    """

    selectors: tuple[str, ...]
    start_ms: int
    end_ms: int
    unless: tuple[str, ...] = ()
    moved: Shards | None = None

    @property
    def by_rule(self) -> bool:
        """Whether a rule let them go, which is from the beginning of time on; a deletion begins 1 ms later at least."""
        return self.start_ms == ALWAYS


@dataclass(frozen=True, slots=True)
class Draw:
    """Of the series that ``selector`` takes only a sample is left: ``keep`` says how, as in ``1 in 10 by job``."""

    selector: str
    keep: str


@dataclass(frozen=True, slots=True)
class Part:
    """One object of samples, or of records of rollups, with the table of its series.

    ``start_ms`` and ``end_ms`` are the times of its first and last sample. Of two parts with a sample of one series
    at one time, that with the higher ``order`` has it. ``footer_bytes``: length of the end of the object, which says
    where all stands. ``every_ms``: width of the records' buckets, 0 for samples.
    """

    key: str
    series_key: str
    start_ms: int
    end_ms: int
    series: int
    samples: int
    bytes: int
    kind: Kind
    order: int
    sha256: str
    series_sha256: str
    series_bytes: int
    footer_bytes: int
    pinned: str | None = None
    tombstones: tuple[Tombstone, ...] = ()
    sampled: tuple[Draw, ...] = ()
    every_ms: int = 0

    @property
    def weight(self) -> int:
        """What it has, as so many samples."""
        return self.samples * weight_of(self.kind)

    @property
    def moves_ms(self) -> tuple[int, int]:
        """The times by which its first and its last row move: of a record the last millisecond before its end."""
        if not self.every_ms:
            return self.start_ms, self.end_ms
        return self.start_ms + self.every_ms - 2, self.end_ms - 1

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        return self.start_ms <= end_ms and start_ms <= self.end_ms

    @property
    def day(self) -> str:
        """``2026-01-31``: the folder of the object."""
        return self.key.rpartition("day=")[2].partition("/")[0]


@dataclass(frozen=True, slots=True)
class Gone:
    """An object that no part needs from then on; readers of an older manifest may still be at it."""

    key: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Manifest:
    number: int = 0
    version: int = VERSION
    writer: str = ""
    parts: tuple[Part, ...] = ()
    gone: tuple[Gone, ...] = ()

    def keys(self) -> set[str]:
        """All objects that the parts are made of."""
        return {part.key for part in self.parts} | {part.series_key for part in self.parts}

    def exchange(self, old: Iterable[str], new: Iterable[Part], now_ms: int) -> Manifest:
        """Without the parts of these keys and with new ones. What no part needs any more is gone from now on."""
        leaving, coming = set(old), {part.key: part for part in new}
        stay = tuple(part for part in self.parts if part.key not in leaving and part.key not in coming)
        changed = replace(self, parts=(*stay, *coming.values()))
        keys = changed.keys()
        gone = {g.key: g for g in self.gone if g.key not in keys}
        gone |= {key: Gone(key, now_ms) for key in self.keys() - keys if key not in gone}
        return replace(changed, gone=tuple(gone.values()))


def load(objects: Objects) -> Manifest:
    """The newest manifest. Raises ``ColdStoreError``, ``FormatVersionError``."""
    for _ in range(TRIES):
        numbers = _numbers(objects)
        if not numbers:
            return Manifest()
        try:
            return _read(objects, max(numbers))
        except Missing:
            continue  # another one was published, and the one that was listed swept, in between
    raise objects.error("its manifest changes all the time", "look who else writes there")


def publish(objects: Objects, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Makes a change count, applied to whatever state is the newest by then; one that changes nothing is not written.

    ``change`` may run several times. Raises ``ColdStoreError``: whether the change counts is unknown then, and trying
    again is safe where ``change`` is idempotent.
    """
    for _ in range(TRIES):
        current = load(objects)
        changed = change(current)
        if changed == current:
            return current
        new = replace(changed, number=current.number + 1, writer=secrets.token_hex(8))
        try:
            objects.create(_key(new.number), msgspec.json.format(msgspec.json.encode(new), indent=1))
        except Taken:
            # It may be ours: an answer that was lost makes the store client send it once more.
            if _writer(objects, new.number) != new.writer:
                continue
        return new
    raise objects.error("others publish all the time", "let fewer processes write to one prefix")


def sweep(objects: Objects, newest: int) -> None:
    """Deletes manifests that nobody builds on any more."""
    found = {number: at for number, at in _numbers(objects).items() if number <= newest}
    if newest in found:
        old = [n for n, at in found.items() if n <= newest - KEEP and at < found[newest] - KEEP_MS]
        objects.delete(_key(number) for number in old)


def _numbers(objects: Objects) -> dict[int, int]:
    """Numbers of the manifests, and when each was written, by the store's clock."""
    names = ((s.key.rpartition("/")[2].removesuffix(".json"), s.modified_ms) for s in objects.list(FOLDER))
    return {int(name): at for name, at in names if name.isdecimal()}


def _key(number: int) -> str:
    return f"{FOLDER}{number:020}.json"


def _writer(objects: Objects, number: int) -> str:
    try:
        return _read(objects, number).writer
    except Missing:
        return ""


def _read(objects: Objects, number: int) -> Manifest:
    body = objects.get(_key(number))
    try:
        version = msgspec.json.decode(body, type=dict[str, object]).get("version")
        if version != VERSION:
            raise FormatVersionError(
                f"cold store {objects.name}: manifest {number} has version {version}, this program reads {VERSION}; "
                "use the program that wrote it"
            )
        found = msgspec.json.decode(body, type=Manifest)
    except msgspec.MsgspecError as error:
        raise objects.error(
            f"manifest {number} cannot be read: {error}", "restore it, or delete it to use the one before"
        ) from None
    return found
