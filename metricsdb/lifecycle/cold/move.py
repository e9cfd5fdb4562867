"""From memory to the cold store and on: copy, verify, publish, and only then drop; compact, delete, expire, sweep.

Whatever moment a process ends at, the manifest names whole objects that were read back, and memory has what it does
not name.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import polars as pl

from metricsdb.clock import Clock
from metricsdb.lifecycle.cold import manifest
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.manifest import (
    ALL_SHARDS,
    ALWAYS,
    Draw,
    Kind,
    Manifest,
    Part,
    Shards,
    Tombstone,
    weight_of,
)
from metricsdb.lifecycle.cold.objects import Missing
from metricsdb.lifecycle.cold.parts import FOLDERS, Cut, compacted, cut, ordered, split, store

__all__ = [
    "BUCKET_MS",
    "COMPACT_SAMPLES",
    "GONE_GRACE_MS",
    "Changed",
    "Export",
    "Levels",
    "Memory",
    "Moved",
    "Mover",
    "Progress",
    "Rule",
    "rules_at",
]

BUCKET_MS = 7_200_000
# Samples of one part at most, but for a series that has more by itself, and of one export, but for a shard that has
# more: bounds the memory of a move.
PART_SAMPLES = 8_000_000
# So many parts of a day become one; fewer, once later days have parts, and all but the largest come to a share of it.
COMPACT_PARTS, COMPACT_SHARE = 6, 0.1
# Samples that are compacted into one part at most.
COMPACT_SAMPLES = 32_000_000
# Objects that no part needs any more stay so long for readers that are at them.
GONE_GRACE_MS = 15_000
# Objects of other processes that no manifest names may be a move under way.
ORPHAN_GRACE_MS = 3_600_000
_TRIES = 20
# Lists of selectors of which is remembered how many series each takes: of rules, and of each width of records.
RULE_SETS_MAX = 32


@dataclass(frozen=True, slots=True)
class Rule:
    """What the series of a selector that no rule before it takes: samples before ``before_ms`` (None: nothing)."""

    selector: str
    before_ms: int | None


def rules_at(at: Iterable[tuple[str, int | None]]) -> list[Rule]:
    """Rules of selectors with their times."""
    return [Rule(*one) for one in at]


@dataclass(frozen=True, slots=True)
class Export:
    """What memory has of a range.

    ``series``: ``handle`` and ``digest`` for ``drop``, ``series`` (hash of the labels), all UInt64. ``labels``: those
    of the series, a String column each. ``samples`` and ``histograms``: ``row`` of the series (UInt32, not falling),
    ``timestamp``
    (Int64 ms, rising), and the columns that the layout knows. ``records`` of rollups, where memory has such, stand by
    series and width (``every``, Int64 ms), and have their buckets' ends as times.
    """

    series: pl.DataFrame
    labels: pl.DataFrame
    samples: pl.DataFrame
    histograms: pl.DataFrame
    records: pl.DataFrame | None = None

    @property
    def height(self) -> int:
        return self.samples.height + self.histograms.height + (0 if self.records is None else self.records.height)


class Memory(Protocol):
    """What a move needs of the database."""

    def span_ms(self) -> tuple[int, int] | None:
        """Times between which all samples lie."""
        ...

    def has(self, start_ms: int, end_ms: int) -> bool:
        """Whether there may be samples in [start, end]."""
        ...

    def samples(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int) -> Sequence[int]:
        """How many samples ``export`` gives of each shard; of histograms it may be fewer."""
        ...

    def export(self, rules: Sequence[Rule], at: int, start_ms: int, end_ms: int, shards: Shards = ALL_SHARDS) -> Export:
        """Samples in [start, end] of the series of some shards that rule ``at`` governs."""
        ...

    def drop(self, series: pl.DataFrame, start_ms: int, end_ms: int) -> int:
        """Deletes what was exported of these series; a series that got samples in the range meanwhile stays.
        Series dropped.
        """
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What a run did. ``samples``: and records; ``bytes``: uploaded; ``stayed``: series that got late samples
    while they were copied."""

    series: int = 0
    samples: int = 0
    parts: int = 0
    bytes: int = 0
    stayed: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.series + other.series,
            self.samples + other.samples,
            self.parts + other.parts,
            self.bytes + other.bytes,
            self.stayed + other.stayed,
        )


Progress = Callable[[float, Moved], None]
Note = Callable[[Rule, Moved], None]
# By width of records (ms) what lets go of them.
Levels = Mapping[int, Sequence[Rule]]


@dataclass(frozen=True, slots=True)
class _Published:
    """Samples that are in both places until ``at_ms``. ``series``: handles and digests."""

    at_ms: int
    selector: str
    start_ms: int
    end_ms: int
    shards: Shards
    series: pl.DataFrame
    memory: Memory

    def holds(self, memory: Memory, selector: str, start_ms: int, shards: Shards) -> bool:
        """Whether some of these shards' samples in the bucket are in both places."""
        of_bucket = self.memory is memory and (self.selector, self.start_ms) == (selector, start_ms)
        return of_bucket and self.shards[0] < shards[1] and shards[0] < self.shards[1]


class Changed(Exception):
    """Parts that a step builds on are not there any more."""


class Mover:
    """Everything that changes a cold store. Thread-safe: steps run one after another, each seconds at most.

    ``owner`` names who writes: the same after a crash, and of one process at a time, so that what a run left behind is
    known as its own.
    """

    def __init__(self, catalog: Catalog, owner: str, clock: Clock, bucket_ms: int = BUCKET_MS) -> None:
        self.catalog, self.owner, self.bucket_ms = catalog, owner, bucket_ms
        self.lock = threading.RLock()
        """Held by each step.
        Who deletes from memory and cold store holds it over both, or a move may come in between.
        """
        self._clock = clock
        catalog.objects.owner = owner
        self._run, self._names = secrets.token_hex(4), itertools.count()
        self._pause = threading.Event()
        self._counts: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self.grace_ms = 0
        """How long memory keeps what was published.
        A query that looked for parts before that may still be at work: it has to find the samples in memory.
        """
        self._waiting: list[_Published] = []

    def move(
        self,
        memory: Memory,
        rules: Sequence[Rule],
        samples_per_second: float | None = None,
        progress: Progress | None = None,
        note: Note | None = None,
        bucket_ms: int | None = None,
        behind: Memory | None = None,
    ) -> Moved:
        """Moves whole buckets that are older than their rule says, the oldest first, those of many samples in slices;
        ``note`` is told of each. ``bucket_ms``: None for the mover's own. ``behind``: what has older values of the same
        samples, if any; what it has of a bucket and a rule goes first.

        Raises ``ColdStoreError``: what was published by then is moved, the rest is in memory.
        """
        total, span = self.drop(memory), memory.span_ms()
        befores = [rule.before_ms for rule in rules if rule.before_ms is not None]
        if span is None or not befores:
            return total
        width = bucket_ms or self.bucket_ms
        low, high = span[0] // width, min(max(befores), span[1] + width) // width
        bucket = low
        while bucket < high:
            if step := _empty(memory, width, bucket, high):
                bucket += step
            else:
                between = bucket * width, (bucket + 1) * width - 1
                for rule, share, moved in self._due(memory, rules, between, samples_per_second, behind):
                    total += moved
                    if note is not None and moved.samples:
                        note(rule, moved)
                    if progress is not None and share < 1:
                        progress((bucket - low + share) / (high - low), total)
                bucket += 1
            if progress is not None:
                progress((bucket - low) / (high - low), total)
        return total

    def drop(self, memory: Memory) -> Moved:
        """Lets memory go of what was published long enough ago, but of series that got late samples meanwhile."""
        total, now = Moved(), self._clock.now_ms()
        with self.lock:
            due = [one for one in self._waiting if one.memory is memory and one.at_ms <= now]
            for one in due:
                self._waiting.remove(one)
                dropped = memory.drop(one.series, one.start_ms, one.end_ms)
                total += Moved(series=dropped, stayed=one.series.height - dropped)
        return total

    def is_in_both(self, start_ms: int, end_ms: int) -> bool:
        """Whether memory still has samples in [start, end] that were published."""
        return any(one.start_ms <= end_ms and start_ms <= one.end_ms for one in self._waiting)

    def _due(
        self,
        memory: Memory,
        rules: Sequence[Rule],
        between_ms: tuple[int, int],
        samples_per_second: float | None,
        behind: Memory | None,
    ) -> Iterator[tuple[Rule, float, Moved]]:
        """Moves the slices of a bucket; each with the share of the bucket that is done."""
        start, end = between_ms
        for at, rule in enumerate(rules):
            if rule.before_ms is None or rule.before_ms <= end:
                continue
            if behind is not None and any(behind.samples(rules, at, start, end)):
                continue
            for shards in _slices(memory.samples(rules, at, start, end), ALL_SHARDS):
                begun = self._clock.monotonic()
                moved = self._slice(memory, rules, at, (start, end), shards)
                yield rule, (at + shards[1] / ALL_SHARDS[1]) / len(rules), moved
                if samples_per_second:
                    wait = moved.samples / samples_per_second - (self._clock.monotonic() - begun)
                    self._pause.wait(max(0.0, wait))

    def _slice(
        self, memory: Memory, rules: Sequence[Rule], at: int, between_ms: tuple[int, int], shards: Shards
    ) -> Moved:
        start_ms, end_ms = between_ms
        with self.lock:
            if any(one.holds(memory, rules[at].selector, start_ms, shards) for one in self._waiting):
                return Moved()
            export = memory.export(rules, at, start_ms, end_ms, shards)
            made = self.add(export)
            if export.series.height:
                series = export.series.select("handle", "digest")
                due = self._clock.now_ms() + self.grace_ms
                self._waiting.append(_Published(due, rules[at].selector, start_ms, end_ms, shards, series, memory))
            return made + (Moved() if self.grace_ms else self.drop(memory))

    def add(self, export: Export, pinned: str | None = None) -> Moved:
        """Publishes an export, as the newest.
        What is there already and still the newest, as after a crash before the drop, stays as it is.
        """
        made: list[Cut] = []

        def attempt(state: Manifest) -> None:
            nonlocal made
            # A part that hides some of its samples does not stand for them, should they be written again.
            there = {part.sha256: part for part in state.parts if part.pinned == pinned and not part.tombstones}
            cuts = self._cuts(export, state, pinned)
            made = [one for one in cuts if not self._stands(there.get(one.part.sha256), state)]
            self.publish(made, ())

        self._attempt(attempt)
        size = sum(len(body) for one in made for body in one.bodies.values())
        return Moved(0, export.height, len(made), size)

    def _stands(self, part: Part | None, state: Manifest) -> bool:
        """Whether no later part may have other values of its samples."""
        if part is None:
            return False
        series = self.catalog.series(part)["series"].implode()
        return not any(
            later.order > part.order
            and (later.kind, later.every_ms, later.pinned) == (part.kind, part.every_ms, part.pinned)
            and later.overlaps(part.start_ms, part.end_ms)
            and self.catalog.series(later)["series"].is_in(series).any()
            for later in state.parts
        )

    def unpin(self, name: str) -> int:
        """Lets go of the parts of a pin; how many there were."""
        return self._drop(lambda part: part.pinned == name)

    def delete(self, selectors: Sequence[str], start_ms: int, end_ms: int) -> int:
        """Hides samples in [start, end] of the series that a selector takes, at once, pinned ones too; ``compact``
        rewrites.

        How many parts have such series. Raises ``ParseError``.
        """
        dead, hidden = Tombstone(tuple(selectors), max(start_ms, ALWAYS + 1), end_ms), 0

        def bury(part: Part) -> Part:
            nonlocal hidden
            if not part.overlaps(start_ms, end_ms) or not len(self.catalog.matching(part, selectors)):
                return part
            hidden += 1
            return part if dead in part.tombstones else replace(part, tombstones=(*part.tombstones, dead))

        def change(state: Manifest) -> Manifest:
            nonlocal hidden
            hidden = 0
            return replace(state, parts=tuple(bury(part) for part in state.parts))

        with self.lock:
            self.catalog.publish(change)
            if hidden:
                # Memory may get the same samples again, and must not let go of those.
                self._waiting = [one for one in self._waiting if one.end_ms < start_ms or one.start_ms > end_ms]
        return hidden

    def hide(self, keys: Collection[str], moved: Tombstone) -> bool:
        """Hides in parts what is in the next tier by now, and drops those that have nothing else; whether it did: not
        where one of them was replaced meanwhile, since what stands in its place may be another value.
        """
        hidden = False

        def change(state: Manifest) -> Manifest:
            nonlocal hidden
            hidden = set(keys) <= {part.key for part in state.parts}
            if not hidden:
                return state
            parts = {part.key: part for part in state.parts}
            parts |= {key: replace(parts[key], tombstones=(*parts[key].tombstones, moved)) for key in keys}
            empty = [key for key in keys if self._is_empty(parts[key])]
            return replace(state, parts=tuple(parts.values())).exchange(empty, (), self._clock.now_ms())

        with self.lock:
            self.catalog.publish(change)
        return hidden

    def _is_empty(self, part: Part) -> bool:
        """Whether all that a part has moved on."""
        first, last = part.moves_ms
        moved = [
            self.catalog.buried(part, dead)
            for dead in part.tombstones
            if dead.moved is not None and dead.start_ms <= first and last <= dead.end_ms
        ]
        return bool(moved) and pl.concat(moved).n_unique() == part.series

    def expire(self, rules: Sequence[Rule], levels: Levels | None = None) -> int:
        """Lets go of samples before the time of the first rule that takes their series; pinned parts stay.

        ``levels``: by width of records, rules that let go of these beside the others. Parts with nothing younger are
        dropped, others hide what is old. How many parts were dropped.
        """
        dropped = 0

        def of(part: Part) -> list[Sequence[Rule]]:
            own = [rules, (levels or {}).get(part.every_ms, ())]
            return [some for some in own if not part.pinned and part.start_ms < _latest(some)]

        def change(state: Manifest) -> Manifest:
            nonlocal dropped
            old = [p.key for p in state.parts if any(self._is_old(p, some) for some in of(p))]
            dropped = len(old)
            rest = state.exchange(old, (), self._clock.now_ms()) if old else state
            parts = tuple(self._aged(p, due) if (due := of(p)) else p for p in rest.parts)
            return replace(rest, parts=parts)

        with self.lock:
            self.catalog.publish(change)
        return dropped

    def _drop(self, leaves: Callable[[Part], bool]) -> int:
        dropped = 0

        def change(state: Manifest) -> Manifest:
            nonlocal dropped
            old = [part.key for part in state.parts if leaves(part)]
            dropped = len(old)
            return state.exchange(old, (), self._clock.now_ms()) if old else state

        with self.lock:
            self.catalog.publish(change)
        return dropped

    def _governed(self, part: Part, rules: Sequence[Rule]) -> list[tuple[Rule, tuple[str, ...], int]]:
        """Rules that govern series of a part, the selectors before each, and how many series."""
        selectors = tuple(rule.selector for rule in rules)
        # A table of series never changes: it is asked once by the same rules.
        if selectors not in self._counts and len(self._counts) >= RULE_SETS_MAX:
            self._counts.clear()
        known = self._counts.setdefault(selectors, {})
        counts = known.get(part.series_key)
        if counts is None:
            counts = [len(self.catalog.matching(part, (one,), selectors[:at])) for at, one in enumerate(selectors)]
            known[part.series_key] = counts
        return [(rule, selectors[:at], n) for at, (rule, n) in enumerate(zip(rules, counts, strict=True)) if n]

    def _is_old(self, part: Part, rules: Sequence[Rule]) -> bool:
        old = [
            n
            for rule, _, n in self._governed(part, rules)
            if rule.before_ms is not None and part.end_ms < rule.before_ms
        ]
        return sum(old) == part.series

    def _aged(self, part: Part, due: Sequence[Sequence[Rule]]) -> Part:
        """The part with tombstones for what rules let go, in place of those that rules put there before."""
        kept = [dead for dead in part.tombstones if not dead.by_rule]
        for rule, before, _ in (one for rules in due for one in self._governed(part, rules)):
            if rule.before_ms is not None and part.start_ms < rule.before_ms:
                kept.append(Tombstone((rule.selector,), ALWAYS, min(rule.before_ms - 1, part.end_ms), before))
        return replace(part, tombstones=tuple(kept))

    def compact(self, progress: Callable[[float, int], None] | None = None) -> int:
        """Makes one part of small ones of a day, and rewrites parts without what was deleted. How many parts became
        fewer.

        A step at a time holds the lock; readers see the old parts or the new one.
        """
        groups = compactable(self.catalog.state)
        done = 0
        for at, group in enumerate(groups):
            with self.lock:
                done += self._merge(group)
            if progress is not None:
                progress((at + 1) / len(groups), done)
        return done

    def _merge(self, group: Sequence[Part]) -> int:
        try:
            made = compacted(self.catalog, group, self.name, self.catalog.state)
            cuts = [] if made is None else [made]
            self.publish(cuts, group)
        except (Changed, Missing):
            # Somebody else deleted or compacted: the next run sees what is left to do.
            self.catalog.refresh()
            return 0
        return len(group)

    def sweep(self) -> int:
        """Deletes objects that no part needs any more, those that runs of this owner left behind, and others' old ones.

        How many. Lists all objects.
        """
        with self.lock:
            state, now = self.catalog.refresh(), self._clock.now_ms()
            named = state.keys()
            late = {one.key for one in state.gone if one.since_ms <= now - GONE_GRACE_MS}
            waiting = {one.key for one in state.gone} - late
            orphans = [
                one.key
                for folder in FOLDERS
                for one in self.catalog.objects.list(folder)
                if one.key not in named and one.key not in waiting and one.key not in late
                if self._is_own(one.key) or one.modified_ms < now - ORPHAN_GRACE_MS
            ]
            self.catalog.objects.delete([*late, *orphans])
            self.catalog.publish(lambda s: replace(s, gone=tuple(one for one in s.gone if one.key not in late)))
            manifest.sweep(self.catalog.objects, self.catalog.state.number)
            return len(late) + len(orphans)

    def _is_own(self, key: str) -> bool:
        return key.rpartition("/")[2].startswith(f"{self.owner}-")

    def name(self) -> str:
        """A name for an object that none had before, so that nothing that may be deleted comes back."""
        return f"{self.owner}-{self._run}-{next(self._names)}"

    def _cuts(self, export: Export, known: Manifest, pinned: str | None) -> list[Cut]:
        made = []
        table = export.labels.with_columns(export.series["series"])
        for kind, every_ms, frame in _kinds(export):
            series, samples = ordered(table, frame)
            for some_series, some in split(series, samples, PART_SAMPLES // weight_of(kind)):
                made.append(cut(some_series, some, self.name, known, kind=kind, pinned=pinned, every_ms=every_ms))
        return made

    def publish(self, cuts: Sequence[Cut], old: Sequence[Part]) -> None:
        """Uploads, verifies, and puts parts in the place of old ones: as old as they say, else as the youngest of
        these, or as the newest. Raises ``ColdStoreError``, ``Changed``.
        """
        if not cuts and not old:
            return
        store(self.catalog.objects, cuts)
        order = max((part.order for part in old), default=None)
        stored = {key for one in cuts for key in one.bodies}

        def change(state: Manifest) -> Manifest:
            keys = state.keys() | stored
            if not all(part in state.parts for part in old) or not all(one.part.series_key in keys for one in cuts):
                raise Changed
            youngest = state.number + 1 if order is None else order
            new = [replace(one.part, order=one.part.order or youngest) for one in cuts]
            return state.exchange([part.key for part in old], new, self._clock.now_ms())

        try:
            self.catalog.publish(change)
        except Changed:
            self.catalog.objects.delete(stored)
            raise

    def _attempt(self, attempt: Callable[[Manifest], None]) -> None:
        with self.lock:
            for _ in range(_TRIES):
                try:
                    return attempt(self.catalog.state)
                except Changed:
                    self.catalog.refresh()
        raise self.catalog.objects.error("others replace what is built on", "let fewer processes write to one prefix")


def _latest(rules: Sequence[Rule]) -> int:
    """The time before which some rule lets go."""
    return max((rule.before_ms for rule in rules if rule.before_ms is not None), default=ALWAYS)


def _kinds(export: Export) -> Iterator[tuple[Kind, int, pl.DataFrame]]:
    """What makes parts of their own, with the width of records."""
    yield "samples", 0, export.samples
    yield "histograms", 0, export.histograms
    if export.records is not None:
        for (every,), frame in export.records.partition_by("every", maintain_order=True, as_dict=True).items():
            yield "rollups", int(every), frame


def _empty(memory: Memory, bucket_ms: int, bucket: int, high: int) -> int:
    """How many buckets from this one on are known to hold nothing: years are skipped in few steps."""
    empty, width = 0, 1
    while bucket + empty < high:
        start, end = bucket + empty, min(bucket + empty + width, high)
        if memory.has(start * bucket_ms, end * bucket_ms - 1):
            break
        empty, width = end - bucket, width * 2
    return empty


def _slices(samples: Sequence[int], shards: Shards) -> Iterator[Shards]:
    """Halves of halves, until none has more samples than a part.

    Where some of them have moved, the others are the same as before, or what has moved beside one: a run after a crash
    makes the parts that are there already.
    """
    first, end = shards
    if sum(samples[first:end]) <= PART_SAMPLES or end - first == 1:
        yield shards
        return
    middle = (first + end) // 2
    yield from _slices(samples, (first, middle))
    yield from _slices(samples, (middle, end))


def compactable(state: Manifest) -> list[list[Part]]:
    """Parts that should become one, as groups of neighbours in the order that decides between them, or be rewritten."""
    folders: dict[tuple[str, str, str | None, tuple[Draw, ...], int], list[Part]] = {}
    for part in sorted(state.parts, key=lambda part: (part.order, part.key)):
        folders.setdefault((part.kind, part.day, part.pinned, part.sampled, part.every_ms), []).append(part)
    newest = max((part.day for part in state.parts), default="")
    groups = []
    for (_, day, pinned, *_), parts in folders.items():
        for run in _runs(parts):
            small = sum(part.samples for part in run) - max(part.samples for part in run)
            over = day < newest and small >= COMPACT_SHARE * max(part.samples for part in run)
            many = len(run) >= COMPACT_PARTS or (len(run) > 1 and over)
            if (many and pinned is None) or any(_is_due(part) for part in run):
                groups.append(run)
    return groups


def _runs(parts: Sequence[Part]) -> list[list[Part]]:
    """Neighbours that fit into one part together."""
    runs: list[list[Part]] = []
    held = 0
    for part in parts:
        if not runs or held + part.weight > COMPACT_SAMPLES:
            runs.append([])
            held = 0
        runs[-1].append(part)
        held += part.weight
    return runs


def _is_due(part: Part) -> bool:
    """Whether something was deleted for good; what a rule lets go hour by hour waits until the rule is through."""
    return any(not dead.by_rule or dead.end_ms >= part.end_ms for dead in part.tombstones)
