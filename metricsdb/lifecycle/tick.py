"""Work that is due now and then: `Upkeep.tick` does it, whoever calls, and keeps to its share of a core."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from metricsdb._native import NativeDatabase
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, MetricsDBError
from metricsdb.lifecycle.memory import MemoryPolicy, Relief
from metricsdb.lifecycle.retention import Aging
from metricsdb.lifecycle.rollups import NOTHING_ROLLED, Rolled, Roller

__all__ = ["Background", "Tick", "Upkeep"]

log = logging.getLogger("metricsdb.tick")

# Samples of one native call: some 10 ms of work, after which the budget is looked at.
STEP_SAMPLES = 100_000
# A pass over all series that found little to do is not repeated before this time is over.
PASS_INTERVAL_S = 30.0
# However long nobody called, one tick works no longer than this.
TICK_S_MAX = 1.0
# While memory is short, upkeep takes this share of a core at least, and chunks are old sooner.
SHORT_CPU = 0.5
SHORT_DENSE_AFTER_MS = 900_000
# Rollups take this share of a core at least while some are due: samples that wait for them can't leave.
ROLL_CPU = 0.1


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick did. Bytes are those of the chunks that were re-encoded, before and after."""

    samples: int = 0
    chunks_before: int = 0
    chunks_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    finished: bool = True
    """False when the budget ended before the work."""
    evicted_samples: int = 0
    """Samples that left since memory was short, and their bytes."""
    evicted_bytes: int = 0
    rolled: Rolled = NOTHING_ROLLED
    """What became records, and left since records stand for it."""

    def __add__(self, other: Tick) -> Tick:
        return Tick(
            self.samples + other.samples,
            self.chunks_before + other.chunks_before,
            self.chunks_after + other.chunks_after,
            self.bytes_before + other.bytes_before,
            self.bytes_after + other.bytes_after,
            other.finished,
            self.evicted_samples + other.evicted_samples,
            self.evicted_bytes + other.evicted_bytes,
            self.rolled + other.rolled,
        )


class Upkeep:
    """Re-encodes chunks whose samples are older than ``dense_after_ms``, with a ``cpu`` share of one core.

    Makes room when the store holds more than its soft limit: forgets answers, re-encodes with a larger share, evicts.
    """

    def __init__(self, clock: Clock, dense_after_ms: int, cpu: float, memory: MemoryPolicy) -> None:
        if not 0 <= cpu <= 1:
            raise ConfigError(f"idle_cpu {cpu} must be between 0 (off) and 1 (a whole core)")
        if dense_after_ms < 0:
            raise ConfigError("dense_after must not be negative")
        self._clock, self._dense_after_ms, self._cpu = clock, dense_after_ms, cpu
        self._lock = threading.Lock()
        self._last: float | None = None
        self._rest_until = float("-inf")
        self.relief = Relief(memory)
        self.roller = Roller()
        self.aging = Aging()

    def tick(self, native: NativeDatabase, now_ms: int) -> Tick:
        """Does what is due, within the share of the time since the last tick. One tick at a time."""
        native.limits_tick(now_ms)
        with self._lock:
            started = self._clock.monotonic()
            since = TICK_S_MAX if self._last is None else started - self._last
            self._last = started
            seconds = min(max(self._cpu, ROLL_CPU) * since, TICK_S_MAX)
            rolled = Tick(rolled=self.roller.step(native, now_ms, seconds, self._clock.monotonic))
            samples, series = self.aging.step(native, now_ms)
            self.relief.freed.expired_samples += samples
            self.relief.freed.expired_series += series
            if self.relief.is_short(native):
                return rolled + self._make_room(
                    native, now_ms, started, min(max(self._cpu, SHORT_CPU) * since, TICK_S_MAX)
                )
            self.relief.give_back(now_ms)
            if self._cpu == 0 or started < self._rest_until:
                return rolled
            before = now_ms - self._dense_after_ms
            return rolled + self._work(native, before, started, min(self._cpu * since, TICK_S_MAX))

    def _make_room(self, native: NativeDatabase, now_ms: int, started: float, seconds: float) -> Tick:
        done = Tick()
        if self._cpu > 0 and started >= self._rest_until:
            before = now_ms - min(self._dense_after_ms, SHORT_DENSE_AFTER_MS)
            done = self._work(native, before, started, seconds)
        # Not within the share of a core: what is refused meanwhile is worth more.
        while self.relief.is_short(native):
            samples, size, finished = self.relief.evict(native, self.aging, now_ms)
            done += Tick(finished=done.finished, evicted_samples=samples, evicted_bytes=size)
            if finished or self._clock.monotonic() - started >= TICK_S_MAX:
                break
        self.relief.give_back(now_ms, done.evicted_bytes + done.bytes_before - done.bytes_after)
        return done

    def _work(self, native: NativeDatabase, before_ms: int, started: float, seconds: float) -> Tick:
        done = Tick()
        while True:
            step = Tick(*native.densify(before_ms, STEP_SAMPLES))
            done += step
            if step.finished:
                self._rest_until = self._clock.monotonic() + PASS_INTERVAL_S
                return done
            if self._clock.monotonic() - started >= seconds:
                return done

    def all(self, native: NativeDatabase, before_ms: int) -> Tick:
        """Re-encodes everything before a time, however long it takes. Ctrl-C ends it between two steps."""
        with self._lock:
            # Where the last tick stopped is somewhere in the middle: the first pass only leads back to the start.
            done, passes = Tick(), 0
            while passes < 2:
                step = Tick(*native.densify(before_ms, STEP_SAMPLES))
                done, passes = done + step, passes + step.finished
            return done


class Background:
    """A thread that calls a method. Ends with ``stop``, with the method's owner, or with the process."""

    def __init__(self, tick: Callable[[], object], every_s: float) -> None:
        self._tick, self._every_s = weakref.WeakMethod(tick), every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metricsdb-tick", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            tick = self._tick()
            if tick is None:
                return
            try:
                tick()
            except MetricsDBError as error:  # a disk that fails must not end what keeps memory
                log.error("%s", error)
            del tick

    def stop(self) -> None:
        self._stopped.set()
        # The last who held the owner may have been this very thread.
        if self._thread is not threading.current_thread():
            self._thread.join()
