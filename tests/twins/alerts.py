"""The alert machine as its table says it: one level of one instance, one evaluation at a time, and nothing clever.

Written from `docs/alerts.md` alone (section "What it does"). Times are milliseconds. ``None`` is no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Change = tuple[int, int, str, str, bool, bool, str | None]
Test = Callable[[float], bool]


@dataclass
class Level:
    """A level of a statement. ``damp`` and ``clear_damp``: None, ("for", ms) or ("of", k, n)."""

    fire: Test
    clear: Test | None = None  # CLEAR WHEN
    stay: Test | None = None  # CLEAR AT: stays while this holds
    damp: tuple[str, int] | tuple[str, int, int] | None = None
    clear_damp: tuple[str, int] | tuple[str, int, int] | None = None
    keep_firing: int = 0
    hold: int = 0


@dataclass
class Statement:
    levels: list[Level]
    cooldown: int = 0
    flap: tuple[int, int, int, str | None] | None = None  # changes, window, quiet, "hold" | "mute"
    nodata: tuple[str, int] = ("clear", 0)
    error: str = "keep"


@dataclass
class State:
    phase: str = "inactive"
    pending_since: int = 0
    firing_since: int = 0
    clearing_since: int = 0
    no_fire_since: int | None = None
    fired: list[bool] = field(default_factory=list)
    cleared: list[bool] = field(default_factory=list)
    no_data_since: int | None = None
    unknown: bool = False
    told: bool = False
    resolved_at: int | None = None
    changes: list[int] = field(default_factory=list)
    moved_at: int = 0
    flapping: bool = False

    @property
    def shown(self) -> str:
        return "unknown" if self.unknown and self.phase != "inactive" else self.phase

    @property
    def fires(self) -> bool:
        return self.phase in ("firing", "clearing")


def conditions(statement: Statement, level: Level, state: State, now: int, value: float | None, failed: bool):
    """(fire, clear) of an evaluation, or None: it stays as it is."""
    active = state.phase != "inactive"
    if failed:
        if active and statement.error == "unknown":
            state.unknown = True
        return (True, False) if active and statement.error == "fire" else None
    if value is not None:
        state.no_data_since = None
        fire = level.fire(value)
        if level.clear is not None:
            clear = level.clear(value)
        elif level.stay is not None:
            clear = not level.stay(value)
        else:
            clear = not fire
        return fire, clear and not fire
    if not active:
        return False, True
    what, after = statement.nodata
    if state.no_data_since is None:
        state.no_data_since = now
    if now - state.no_data_since < after or what == "keep":
        return None
    if what == "unknown":
        state.unknown = True
        return None
    return (True, False) if what == "fire" else (False, True)


def reachable(fired: Sequence[bool], k: int, n: int) -> bool:
    """Whether some window of n evaluations that holds one of these trues can still have k."""
    newest = len(fired) - 1
    for first, was in enumerate(fired):
        to_come = n - (newest - first + 1)
        if was and to_come >= 0 and sum(fired[first:]) + to_come >= k:
            return True
    return False


def held(damp, since: int, now: int, history: Sequence[bool]) -> bool:
    if damp is None:
        return True
    if damp[0] == "for":
        return now - since >= damp[1]
    return sum(history[-damp[2] :]) >= damp[1]


def note_change(statement: Statement, state: State, now: int) -> None:
    if statement.flap is None:
        return
    count, window, _, _ = statement.flap
    state.moved_at = now
    state.changes.append(now)
    if sum(now - window < t <= now for t in state.changes) > count:
        state.flapping = True


def pending(statement: Statement, level: Level, state: State, now: int, fire: bool) -> None:
    state.fired.append(fire)
    damp = level.damp
    if damp is not None and damp[0] == "of":
        ready = held(damp, 0, now, state.fired)
        gives_up = not reachable(state.fired, damp[1], damp[2])
    else:
        ready = fire and held(damp, state.pending_since, now, [])
        gives_up = not fire
    if ready:
        state.phase, state.firing_since, state.no_fire_since, state.cleared = "firing", now, None, []
        note_change(statement, state, now)
    elif gives_up:
        state.phase = "inactive"


def firing(statement: Statement, level: Level, state: State, now: int, fire: bool, clear: bool) -> None:
    if fire:
        state.no_fire_since = None
    elif state.no_fire_since is None:
        state.no_fire_since = now
    state.cleared.append(clear)
    if state.phase == "firing" and clear:
        state.phase, state.clearing_since, state.moved_at = "clearing", now, now
    elif state.phase == "clearing" and not clear:
        state.phase, state.moved_at = "firing", now
    if state.phase != "clearing":
        return
    over = held(level.clear_damp, state.clearing_since, now, state.cleared)
    over = over and now - state.firing_since >= level.hold
    over = over and state.no_fire_since is not None and now - state.no_fire_since >= level.keep_firing
    if over and not (state.flapping and statement.flap is not None and statement.flap[3] == "hold"):
        state.phase, state.resolved_at = "inactive", now
        note_change(statement, state, now)


def step(statement: Statement, level: Level, state: State, now: int, value: float | None, failed: bool) -> None:
    if statement.flap is not None and state.flapping and now - state.moved_at >= statement.flap[2]:
        state.flapping = False
    found = conditions(statement, level, state, now, value, failed)
    if found is None:
        return
    fire, clear = found
    state.unknown = False
    if state.phase == "inactive":
        cooling = state.resolved_at is not None and now - state.resolved_at < statement.cooldown
        if not fire or cooling:
            return
        state.phase, state.pending_since, state.fired, state.no_data_since = "pending", now, [], None
    if state.phase == "pending":
        pending(statement, level, state, now, fire)
    else:
        firing(statement, level, state, now, fire, clear)
    if state.phase == "inactive":
        state.no_data_since = None


def run(
    statement: Statement,
    times: Sequence[int],
    values: Sequence[float | None],
    failed: Sequence[int] = (),
    muted: Callable[[int], str | None] = lambda now: None,
) -> tuple[list[Change], list[State]]:
    """All that happens to one instance: (time, level, from, to, told, flapping, why not told), and the last states."""
    states, changes = [State() for _ in statement.levels], []
    for i, (now, value) in enumerate(zip(times, values, strict=True)):
        before = [(state.shown, state.flapping) for state in states]
        for level, state in zip(statement.levels, states, strict=True):
            step(statement, level, state, now, value, i in failed)
        highest = max((i for i, state in enumerate(states) if state.fires), default=None)
        for place, (state, (shown, flapped)) in enumerate(zip(states, before, strict=True)):
            reason, told = None, False
            if state.fires and not state.told:
                if place != highest:
                    reason = "level"
                elif state.flapping and statement.flap is not None and statement.flap[3] == "mute":
                    reason = "flap"
                else:
                    reason = muted(now)
                told = state.told = reason is None
            elif not state.fires:
                told, state.told = state.told, False
            if told or (shown, flapped) != (state.shown, state.flapping):
                changes.append((now, place, shown, state.shown, told, state.flapping, reason))
    return changes, states
