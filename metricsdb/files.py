"""Files that are whole and on the disk, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_folder", "write_whole"]


def write_whole(path: Path, body: bytes, *, sync: bool = True) -> None:
    """Writes a file beside, and renames it into place; ``sync``: a power cut leaves the old one or the new one, too.
    Raises ``OSError``."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(body)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    fresh.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder survive a power cut. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
