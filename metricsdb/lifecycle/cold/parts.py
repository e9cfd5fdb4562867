"""Making parts: frames to objects that are uploaded, read back and compared before any manifest names them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from metricsdb.lifecycle.cold import layout
from metricsdb.lifecycle.cold.manifest import Kind, Part
from metricsdb.lifecycle.cold.objects import Missing, Objects

__all__ = ["Cut", "cut", "day_of", "store"]

DAY_MS = 86_400_000
# Uploads at once.
UPLOADS = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """A part, and the objects it is made of."""

    part: Part
    bodies: dict[str, bytes] = field(repr=False)


def day_of(ms: int) -> str:
    return datetime.fromtimestamp(ms // DAY_MS * 86_400, UTC).strftime("%Y-%m-%d")


def cut(
    series: pl.DataFrame,
    samples: pl.DataFrame,
    owner: str,
    order: int,
    kind: Kind = "samples",
    pinned: str | None = None,
) -> Cut:
    """Objects of samples of one day (of a pin: of any time).

    ``series``: ``series`` (UInt64) and labels, sorted by labels, each with a sample. ``samples``: ``row`` of the
    series frame, ``timestamp`` and the columns of a value, sorted by row and timestamp. Names are made of content:
    the same frames make the same objects.
    """
    series_body = layout.encode_series(series)
    series_hash = layout.sha256(series_body)
    series_key = f"series/{owner}-{series_hash[:24]}.parquet"
    body = layout.encode(series, samples, series_key)
    sha256 = layout.sha256(body)
    start, end = samples["timestamp"].min(), samples["timestamp"].max()
    assert isinstance(start, int)
    assert isinstance(end, int)
    folder = f"{kind}/day={day_of(start)}" if pinned is None else f"pins/{sha256[:2]}/day={day_of(start)}"
    part = Part(
        key=f"{folder}/{owner}-{sha256[:24]}.parquet",
        series_key=series_key,
        start_ms=start,
        end_ms=end,
        series=series.height,
        samples=samples.height,
        bytes=len(body),
        kind=kind,
        order=order,
        sha256=sha256,
        series_sha256=series_hash,
        series_bytes=len(series_body),
        footer_bytes=layout.footer_bytes(body),
        pinned=pinned,
    )
    return Cut(part, {series_key: series_body, part.key: body})


def store(objects: Objects, cuts: Iterable[Cut], known: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Uploads what is not known to be there, reads it back and compares. Raises ``ColdStoreError``."""
    bodies = {key: body for cut in cuts for key, body in cut.bodies.items() if key not in known}
    with ThreadPoolExecutor(UPLOADS, "cold-upload") as pool:
        for _ in pool.map(lambda item: _put(objects, *item), bodies.items()):
            pass


def _put(objects: Objects, key: str, body: bytes) -> None:
    objects.put(key, body)
    try:
        same = layout.sha256(objects.get(key)) == layout.sha256(body)
    except Missing:
        same = False
    if not same:
        raise objects.error(f"{key} reads back as other bytes than were written", "look for what stands in between")
