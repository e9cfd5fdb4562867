"""The C library's heap: what the process freed and glibc keeps for later, and how to keep less. Nothing elsewhere."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["freed_bytes", "keep_little_freed", "return_freed_memory"]

# glibc's numbers of settings, in malloc.h. Each arena keeps pages that were freed, so a limited process has few; and
# blocks of this size go back to the system as soon as they are freed, whatever stands above them.
_M_ARENA_MAX, _ARENAS_MAX = -8, 8
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 256 << 10

# Bytes that are free and whose pages the system has back, about: glibc counts them among the free ones.
_returned = 0


class _Mallinfo2(ctypes.Structure):
    """Ten words; the ninth is what is free, in all arenas."""

    _fields_ = [("before", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def freed_bytes() -> int:
    """Bytes that the process, whoever in it, has freed and that it holds all the same. 0 where nobody says.

    Looks at each free block, and nobody gets memory meanwhile: some milliseconds for 100,000 of them.
    """
    global _returned
    try:
        read = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    read.restype = _Mallinfo2
    free = int(read().fordblks)
    _returned = min(_returned, free)
    return free - _returned


def keep_little_freed() -> None:
    """Tells glibc, for the whole process, to keep few arenas and no large blocks that are free."""
    _libc("mallopt", _M_MMAP_THRESHOLD, _MMAP_BYTES)
    _libc("mallopt", _M_ARENA_MAX, min(max(os.cpu_count() or 2, 2), _ARENAS_MAX))


def return_freed_memory() -> None:
    """Gives pages that were freed back to the system."""
    global _returned
    before = _resident()
    _libc("malloc_trim", 0)
    _returned += max(0, before - _resident())


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _libc(name: str, *arguments: int) -> None:
    try:
        call = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    call(*arguments)
