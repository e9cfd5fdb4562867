"""What a forked child does with its parent's databases: it has their memory, but none of their threads and locks."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["watch"]


class Forked(Protocol):
    def _forked(self) -> None: ...


_living: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(database: Forked) -> None:
    """Calls ``_forked`` of it in every child that is forked while it lives."""
    _living.add(database)


def _in_child() -> None:
    for database in list(_living):
        database._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
