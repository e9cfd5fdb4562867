"""Expressions evaluated as time goes on: every step once, when it is final."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import polars as pl

from metricsdb import frames
from metricsdb._native import NativeDatabase, StreamState
from metricsdb.errors import ConfigError
from metricsdb.histograms import with_histogram
from metricsdb.times import DurationLike, Time, duration_ms, time_ms

if TYPE_CHECKING:
    from metricsdb.clock import Clock

__all__ = ["Subscription"]

Warn = Callable[[list[tuple[str, str]]], None]


class Subscription:
    """The steps of an expression, each given once by ``poll``; made by ``Database.subscribe``.

    Steps are multiples of ``step`` (as Prometheus' rules evaluate), the first one not before ``start``. A step is given
    when ``delay`` has passed since the newest time that it can see: its own, or later with a negative offset,
    ``smoothed`` or ``@``. Samples that arrive within the delay therefore count, and all polls together equal one
    ``query_range`` over the same steps. What arrives later changes no step that was given, and may be missed by the
    windows of subqueries, which are kept from poll to poll: memory for a number a series and step of such a window.

    ``backlog`` bounds what one poll evaluates after a long pause: it gives that many steps at most, ``behind`` says
    whether there are more. Thread-safe: one poll at a time.
    """

    def __init__(
        self,
        native: Callable[[], NativeDatabase],
        sight: Callable[[str, int, int, int, int], NativeDatabase],
        clock: Clock,
        warn: Warn,
        expr: str,
        *,
        step: DurationLike,
        start: Time | None,
        delay: DurationLike,
        backlog: int,
        lookback_ms: int,
    ) -> None:
        self.expr = expr
        self.step_ms = duration_ms(step, "step")
        self.delay_ms = duration_ms(delay, "delay")
        if self.step_ms <= 0:
            raise ConfigError(f"step {step!r} must be longer than zero")
        if self.delay_ms < 0:
            raise ConfigError(f"delay {delay!r} must not be negative")
        if backlog < 1:
            raise ConfigError(f"backlog {backlog} must be 1 step or more")
        self._backlog, self._lookback_ms = backlog, lookback_ms
        self._native, self._sight, self._clock, self._warn = native, sight, clock, warn
        self._ahead_ms, self._pinned_ms = NativeDatabase.stream_waits(expr, self.step_ms, lookback_ms)
        now = clock.now_ms()
        first = now if start is None else time_ms(start, now, "start")
        # The first step not given yet: a multiple of the step.
        self._next_ms = -(-first // self.step_ms) * self.step_ms
        self._state, self._of = StreamState(), native()
        self._lock = threading.Lock()
        self.behind = False

    @property
    def next_ms(self) -> int:
        """Time of the first step that was not given yet, in milliseconds."""
        return self._next_ms

    def ready_at_ms(self) -> int:
        """When that step will be final, in milliseconds: polls before that give nothing."""
        newest = self._next_ms + self._ahead_ms
        return (newest if self._pinned_ms is None else max(newest, self._pinned_ms)) + self.delay_ms

    def poll(self, now: Time | None = None) -> pl.DataFrame:
        """The steps that have become final since the last poll, as ``query_range`` gives them; often none.

        ``now``: default the database's clock. Raises what ``query_range`` raises; the same steps come again then.
        """
        with self._lock:
            at = self._clock.now_ms() if now is None else time_ms(now, self._clock.now_ms(), "now")
            late = at - self.ready_at_ms()
            if late < 0:
                self.behind = False
                return pl.DataFrame(schema={"timestamp": frames.TIME, "value": pl.Float64})
            count = late // self.step_ms + 1
            end = self._next_ms + (min(count, self._backlog) - 1) * self.step_ms
            native = self._native()
            if native is not self._of:
                # The database was closed: nothing of it is worth keeping.
                self._state, self._of = StreamState(), native
            times = (self._next_ms, end, self.step_ms, self._lookback_ms)
            frame, notes, fields = self._sight(self.expr, *times).query_next(self._state, self.expr, *times)
            self._next_ms = end + self.step_ms
            self.behind = count > self._backlog
        self._warn(notes)
        return with_histogram(frames.finish(frame), fields)

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Frames as steps become final, without end; sleeps by the database's clock and works beside the event loop."""
        while True:
            wait = self.ready_at_ms() - self._clock.now_ms()
            if wait > 0:
                await self._clock.sleep(wait / 1000)
                continue
            yield await asyncio.to_thread(self.poll)

    def held(self) -> int:
        """Numbers kept for the windows of subqueries, 8 bytes each."""
        return self._state.held()
