"""A clock that only moves when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

__all__ = ["FakeClock"]


class FakeClock:
    """Starts at `now_ms`, and stands there until `advance`."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = float(now_ms)
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_ms(self) -> int:
        return int(self._now_ms)

    def monotonic(self) -> float:
        return self._monotonic

    def move(self, seconds: float) -> None:
        """Moves the time; whoever sleeps goes on sleeping until `advance`."""
        self._now_ms += seconds * 1000
        self._monotonic += seconds

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + max(seconds, 0.0), next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves the time and wakes sleepers, each at its own moment and in order; lets them run till they wait."""
        end = self._monotonic + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self.move(max(due - self._monotonic, 0.0))
            if not future.done():
                future.set_result(None)
            await self._settle()
        self.move(end - self._monotonic)

    @staticmethod
    async def _settle() -> None:
        """Enough turns of the loop for tasks in the same process to come to their next wait."""
        for _ in range(50):
            await asyncio.sleep(0)
