"""Memory for what has come in and is not stored yet, shared so that no source takes it all."""

from __future__ import annotations

__all__ = ["Room"]


class Room:
    """So many units for all sources together; a source may hold at most as many as are free.

    One source alone gets half, n greedy ones 1/(n+1) each, and a newcomer always finds some. Not for several threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._held: dict[str, int] = {}

    def fits(self, source: str, count: int) -> bool:
        return self._held.get(source, 0) + count <= self.free - count

    def take(self, source: str, count: int) -> bool:
        """False if it does not fit: then nothing is taken."""
        if not self.fits(source, count):
            return False
        self._held[source] = self._held.get(source, 0) + count
        self.free -= count
        return True

    def give(self, source: str, count: int) -> None:
        """Gives back what was taken."""
        left = self._held.pop(source, 0) - count
        if left > 0:
            self._held[source] = left
        self.free += count

    def clear(self) -> None:
        self._held.clear()
        self.free = self.size
