"""How long samples stay where: ordered rules, what they come to at one time, and the passes that carry them out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from metricsdb._native import NativeDatabase, Read
from metricsdb.errors import ConfigError
from metricsdb.lifecycle.sampling import Keep, SampleRule
from metricsdb.lines import Lines
from metricsdb.sizes import SizeLike, size_bytes
from metricsdb.times import DurationLike, duration_ms, duration_text

__all__ = [
    "Aging",
    "Departure",
    "Importance",
    "Place",
    "RetentionLike",
    "RetentionRule",
    "Stay",
    "departures",
    "rules_of",
]

log = logging.getLogger("metricsdb.retention")

Place = Literal["memory", "disk", "cold"]
Importance = Literal["low", "normal", "high"]

# A pass is made this often, or when a fiftieth of the shortest stay is over: what is cut is written anew.
PASS_MS_MAX = 1_800_000
PASS_PART = 50
# Steps in which a rule is brought below its limit of bytes, in one pass.
LIMIT_STEPS = 4
# Of what may go, a step of eviction takes this part at least.
EVICT_STEPS = 20
# A sample, and until which age it stays: a word behind it that begins with a digit.
_SAMPLED = re.compile(r"((?:top\s+)?\d+\s+in\s+.*?)(?:\s+(\d[0-9a-z.]*))?$")
_ORDER: tuple[Place, ...] = get_args(Place)
_FIELDS = ("selector", "keep", "name", "importance", "max_bytes", "max_share")


@dataclass(frozen=True, slots=True)
class Stay:
    """Where samples are until they have this age; None: for good. ``keep``: of them only a sample is left there."""

    place: Place
    until_ms: int | None = None
    keep: Keep | None = None

    def __str__(self) -> str:
        what = self.place if self.keep is None else str(self.keep)
        return what if self.until_ms is None else f"{what} {duration_text(self.until_ms)}"


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How long the samples of a selector's series stay where; the first rule that takes a series governs it.

    ``max_bytes`` and ``max_share`` (of what all series hold) bound what its series hold in memory: the oldest samples
    leave sooner then. Where memory is short, series of ``low`` ``importance`` lose their oldest samples first, those of
    ``high`` last; where that is not enough, new samples of ``low`` ones are refused before all others.
    """

    selector: str
    stays: tuple[Stay, ...]
    name: str = ""
    importance: Importance = "normal"
    max_bytes: int | None = None
    max_share: float | None = None

    @classmethod
    def of(
        cls,
        selector: str,
        keep: DurationLike,
        *,
        name: str = "",
        importance: Importance = "normal",
        max_bytes: SizeLike | None = None,
        max_share: float | None = None,
    ) -> RetentionRule:
        """From a line such as ``"memory 2d -> disk 14d -> cold 90d"``, or a duration. Raises ``ConfigError``,
        ``ParseError``."""
        size = None if max_bytes is None else size_bytes(max_bytes, f"retention rule {name or selector!r}: max_bytes")
        rule = cls(selector, (), name, importance, size, max_share)
        rule = replace(rule, stays=_stays(rule.title, keep))
        rule.check()
        return rule

    def __str__(self) -> str:
        return " -> ".join(str(stay) for stay in self.stays)

    @property
    def title(self) -> str:
        return self.name or self.selector or "everything"

    @property
    def memory_ms(self) -> int | None:
        return self.stays[0].until_ms

    @property
    def kept_ms(self) -> int | None:
        """The age at which a sample is gone everywhere."""
        return self.stays[-1].until_ms

    @property
    def local_ms(self) -> int | None:
        """The age at which a sample is neither in memory nor on disk."""
        return next((stay.until_ms for stay in self.stays if stay.place == "disk"), self.memory_ms)

    @property
    def places(self) -> tuple[Place, ...]:
        """In order, where samples are."""
        return tuple(stay.place for stay in self.stays if stay.keep is None)

    @property
    def is_moved(self) -> bool:
        """Whether samples leave memory for another place."""
        return len(self.stays) > 1

    @property
    def is_cold(self) -> bool:
        """Whether samples are in the cold store at last."""
        return "cold" in self.places

    def goes(self, of: Place, to: Place) -> bool:
        """Whether samples go from one place to another: from where they are by another rule to where this one ends."""
        if of == "memory":
            return self.places[1:2] == (to,)
        return of != to and to == self.places[-1]

    @property
    def sampled(self) -> Stay | None:
        """The last stay, where only a sample is left by then."""
        return self.stays[-1] if self.stays[-1].keep else None

    @property
    def whole_ms(self) -> int | None:
        """The age at which samples are gone, or only a sample of them is left."""
        return self.stays[-2].until_ms if self.sampled else self.kept_ms

    def check(self) -> None:
        """Raises ``ConfigError`` or, of the selector, ``ParseError``, naming the rule and the remedy."""
        if self.selector:
            Read(self.selector, 0, 0)
        if self.importance not in get_args(Importance):
            raise _wrong(self, f"importance {self.importance!r} is not known; give low, normal or high")
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise _wrong(
                self, f"max_bytes {self.max_bytes} bounds to nothing; give a size, or let samples leave by age"
            )
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise _wrong(self, f"max_share {self.max_share!r} is no share; give a number above 0 and at most 1")
        places = list(self.places)
        sampled = [stay for stay in self.stays if stay.keep]
        if sampled and ("cold" not in places or sampled != [self.stays[-1]]):
            raise _wrong(
                self, f"{sampled[0].keep} stands where no sample can be left; write it once, last, behind a cold part"
            )
        if places != [place for place in _ORDER if place in places] or places[:1] != ["memory"]:
            went = " -> ".join(places) or "nowhere"
            raise _wrong(self, f"samples cannot go {went}; write memory first, then disk, then cold, each once")
        before = 0
        for at, stay in enumerate(self.stays):
            if stay.until_ms is None and at + 1 < len(self.stays):
                raise _wrong(self, f"samples never leave {stay.place}; give it an age, as in '{stay.place} 2d -> …'")
            if stay.until_ms is not None and stay.until_ms <= before:
                raise _wrong(
                    self,
                    f"{stay.place} ends at {duration_text(stay.until_ms)}, not after {duration_text(before)}; "
                    "ages count from the sample's time, so let them rise",
                )
            before = stay.until_ms or before


# A duration, a line, selectors with their lines (or fields), or rules.
RetentionLike = DurationLike | Mapping[str, Any] | Sequence[RetentionRule | Mapping[str, Any]] | None


def _wrong(rule: RetentionRule, why: str) -> ConfigError:
    return ConfigError(f"retention rule {rule.title!r}: {why}")


def _stays(title: str, keep: DurationLike) -> tuple[Stay, ...]:
    if not isinstance(keep, str):
        return (Stay("memory", duration_ms(keep, f"retention rule {title!r}")),)
    stays = []
    for part in keep.split("->"):
        if sampled := _SAMPLED.match(part.strip()):
            until = None if sampled[2] is None else duration_ms(sampled[2], f"retention rule {title!r}: {sampled[1]}")
            try:
                stays.append(Stay("cold", until, Keep.parse(sampled[1])))
            except ConfigError as error:
                raise ConfigError(f"retention rule {title!r}: {error}") from None
            continue
        words = part.split()
        if len(words) == 1 and words[0] not in _ORDER and "->" not in keep:
            words = ["memory", *words]
        if not words or words[0] not in _ORDER or len(words) > 2:
            raise ConfigError(
                f"retention rule {title!r}: {part.strip()!r} is no place with an age; write a line such as "
                "'memory 2d -> disk 14d -> cold 90d', and '-> 1 in 10 by job 400d' behind it to leave a sample"
            )
        until = duration_ms(words[1], f"retention rule {title!r}: {words[0]}") if len(words) == 2 else None
        stays.append(Stay(words[0], until))
    return tuple(stays)


def rules_of(value: RetentionLike) -> tuple[RetentionRule, ...]:
    """The rules that a person gave, checked one by one and together. Raises ``ConfigError``, ``ParseError``."""
    if value is None:
        return ()
    if isinstance(value, (str, int, float, timedelta)):
        if not isinstance(value, str) or (" " not in value.strip() and value.strip() not in _ORDER):
            length = duration_ms(value, "retention")
            if length <= 0:
                raise ConfigError(f"retention {value!r} must be longer than zero; write it as '15d'")
        value = [RetentionRule.of("", value)]
    elif isinstance(value, Mapping):
        value = [
            _fields({"selector": key, **of}) if isinstance(of, Mapping) else RetentionRule.of(key, of)
            for key, of in value.items()
        ]
    rules = tuple(_fields(rule) if isinstance(rule, Mapping) else rule for rule in value)
    titles: set[str] = set()
    for at, rule in enumerate(rules):
        if not isinstance(rule, RetentionRule):
            raise ConfigError(f"retention rule {at + 1} is {rule!r}; give a RetentionRule, or a mapping of its fields")
        rule.check()
        if rule.title in titles:
            raise _wrong(rule, "another rule has this name or selector; give each its own")
        titles.add(rule.title)
        if not rule.selector and at + 1 < len(rules):
            raise _wrong(rule, f"takes every series, so {rules[at + 1].title!r} behind it governs none; put it last")
    return rules


def _fields(fields: Mapping[str, Any]) -> RetentionRule:
    title = fields.get("name") or fields.get("selector") or "everything"
    unknown = [name for name in fields if name not in _FIELDS]
    if unknown or "keep" not in fields:
        what = f"{unknown[0]!r} is no field" if unknown else "`keep` is missing"
        raise ConfigError(f"retention rule {title!r}: {what}; it has {', '.join(_FIELDS)}")
    rest = {name: of for name, of in fields.items() if name not in ("selector", "keep")}
    return RetentionRule.of(fields.get("selector", ""), fields["keep"], **rest)


@dataclass(frozen=True, slots=True)
class Departure:
    """What left at one time by one rule. ``what``: expired, moved (``to`` where), sampled, evicted, deleted or
    undeleted."""

    time_ms: int
    what: str
    rule: str
    before_ms: int | None = None
    samples: int = 0
    series: int = 0
    bytes: int = 0
    to: Place | None = None


class Counted(Protocol):
    """How many samples, and their bytes in the store."""

    @property
    def samples(self) -> int: ...
    @property
    def bytes(self) -> int: ...


def departures(directory: Path | None) -> Lines[Departure]:
    """What went when by which rule: the last, also in a file of the data directory."""
    path = None if directory is None else directory / "retention.log"
    return Lines(path, lambda found: Departure(**found), log)


@dataclass(slots=True)
class Aging:
    """Carries rules out, pass by pass: called by a tick, which owns the time."""

    rules: tuple[RetentionRule, ...] = ()
    log: Lines[Departure] = field(default_factory=lambda: departures(None))
    _pass_at: int = -(2**63)
    # The time before which samples leave memory since a rule is above its limit of bytes.
    _pressed: dict[str, int] = field(default_factory=dict)

    def use(self, rules: tuple[RetentionRule, ...]) -> None:
        self.rules = rules
        self._pass_at, self._pressed = -(2**63), {}

    @property
    def low(self) -> list[tuple[str, bool]]:
        """Selectors in order, and whether samples of their series are refused first where memory is short."""
        return [(rule.selector, rule.importance == "low") for rule in self.rules]

    def moving(self, now_ms: int, of: Place, to: Place) -> list[tuple[str, int | None]]:
        """Selectors, and the time before which their samples go from one place to another (None: they don't)."""
        return [(rule.selector, self._leaves(rule, now_ms, of) if rule.goes(of, to) else None) for rule in self.rules]

    def expiring(self, now_ms: int) -> list[tuple[str, int | None]]:
        """Selectors, and the time before which their samples are gone everywhere (None: they stay)."""
        return [(rule.selector, None if rule.kept_ms is None else now_ms - rule.kept_ms) for rule in self.rules]

    def sampling(self, now_ms: int) -> list[SampleRule]:
        """Selectors, and the time before which only a sample is left of what they take."""
        return [
            SampleRule(
                rule.selector,
                None if rule.sampled is None or rule.whole_ms is None else now_ms - rule.whole_ms,
                None if rule.sampled is None else rule.sampled.keep,
            )
            for rule in self.rules
        ]

    def note_sampled(self, now_ms: int, rule: SampleRule, gone: Counted, series: int) -> None:
        """Notes what a sample was left of."""
        title = next((one.title for one in self.rules if one.selector == rule.selector), rule.selector)
        self.log.add([Departure(now_ms, "sampled", title, rule.before_ms, gone.samples, series, gone.bytes)])

    def note_moved(self, now_ms: int, to: Place, selector: str, before_ms: int | None, moved: Counted) -> None:
        """Notes what went to disk or to the cold store."""
        title = next((rule.title for rule in self.rules if rule.selector == selector), selector)
        self.log.add([Departure(now_ms, "moved", title, before_ms, moved.samples, 0, moved.bytes, to)])

    def _leaves(self, rule: RetentionRule, now_ms: int, of: Place = "memory") -> int | None:
        if of == "disk" and "disk" in rule.places:
            return None if rule.local_ms is None else now_ms - rule.local_ms
        times = [] if rule.memory_ms is None else [now_ms - rule.memory_ms]
        times += [self._pressed[rule.title]] if rule.title in self._pressed else []
        return max(times, default=None)

    def _dropped(self, now_ms: int) -> list[tuple[str, int | None]]:
        """What goes from memory alone: of series that move on only what would be gone there, too."""
        gone = self.expiring(now_ms)
        return [
            (rule.selector, before if rule.is_moved else self._leaves(rule, now_ms))
            for rule, (_, before) in zip(self.rules, gone, strict=True)
        ]

    def step(self, native: NativeDatabase, now_ms: int) -> tuple[int, int]:
        """A pass, if it is time; samples and series that left. Raises ``NotDurable``."""
        if not self.rules or now_ms < self._pass_at:
            return 0, 0
        ages = [age for rule in self.rules for age in (rule.memory_ms, rule.kept_ms) if age is not None]
        self._pass_at = now_ms + max(min([PASS_MS_MAX, *(age // PASS_PART for age in ages)]), 1)
        samples, series = self._expire(native, now_ms)
        for _ in range(LIMIT_STEPS):
            if not self._press(native):
                break
            more, gone = self._expire(native, now_ms)
            samples, series = samples + more, series + gone
        return samples, series

    def _expire(self, native: NativeDatabase, now_ms: int) -> tuple[int, int]:
        rules = self._dropped(now_ms)
        if all(before is None for _, before in rules):
            return 0, 0
        each, total = native.expire(rules)
        self._note(now_ms, "expired", rules, each)
        return total[0], total[1]

    def _note(
        self,
        now_ms: int,
        what: str,
        rules: list[tuple[str, int | None]],
        each: list[tuple[int, int, int, int, int, int]],
    ) -> None:
        self.log.add(
            Departure(now_ms, what, rule.title, before, samples, touched, size)
            for rule, (_, before), (samples, _, size, touched, *_) in zip(self.rules, rules, each, strict=True)
            if samples
        )

    def _press(self, native: NativeDatabase) -> bool:
        """Lets samples leave sooner where a rule is above its limit of bytes; whether one is whose samples stay."""
        if all(rule.max_bytes is None and rule.max_share is None for rule in self.rules):
            return False
        held = native.governed([rule.selector for rule in self.rules], [])
        total, pressed = sum(row[3] for row in held), False
        for rule, (_, _, _, size, first, last, _) in zip(self.rules, held, strict=False):
            most = min(rule.max_bytes or size, int((rule.max_share or 1.0) * total))
            if size <= most or first is None or last is None:
                continue
            step = (last - first) * (size - most) // size + 1
            self._pressed[rule.title] = min(first + step, last)
            pressed = pressed or not rule.is_moved
        return pressed

    @property
    def has_classes(self) -> bool:
        """Whether some series are to lose samples before others."""
        return any(rule.importance != "normal" for rule in self.rules)

    def evict(self, native: NativeDatabase, goal: int, now_ms: int, keep_from: int) -> tuple[int, int, int, bool]:
        """Drops the oldest samples of the least important series: samples, series, bytes, and whether that is all."""
        stored = native.measure()
        selectors = [rule.selector for rule in self.rules]
        held = native.governed(selectors, [])
        # Series of no rule are as important as most.
        ranks = [*(get_args(Importance).index(rule.importance) for rule in self.rules), 1]
        for rank in range(3):
            firsts = [row[4] for of, row in zip(ranks, held, strict=True) if of == rank]
            first = min((time for time in firsts if time is not None), default=keep_from)
            if stored <= goal or first >= keep_from:
                continue
            span = keep_from - first
            before = first + max(int(span * (stored - goal) / stored), span // EVICT_STEPS, 1)
            rules = [(sel, before if of == rank else None) for sel, of in zip([*selectors, ""], ranks, strict=True)]
            each, total = native.expire(rules)
            self._note(now_ms, "evicted", rules[:-1], each[:-1])
            return total[0], total[1], total[2], native.measure() <= goal
        return 0, 0, 0, True
