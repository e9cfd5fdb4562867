"""Cold storage: bytes a sample in Parquet beside polars' own, and samples a second of CPU out of memory and back."""

from __future__ import annotations

import io
import lzma
import re
import tempfile
from importlib import resources
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

import metricsdb as mdb
from benchmarks.rollups import cpu, lowest
from metricsdb.clock import SystemClock
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.fetch import part_frames
from metricsdb.lifecycle.cold.memory import NativeMemory
from metricsdb.lifecycle.cold.move import Moved, Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects

FAR = 2**62
SELECTIVE = 'm{service="00042"}'


def capture(every: int = 1) -> mdb.Database:
    """The node capture as it was scraped, once a second at the times that the scrapes had."""
    text = lzma.decompress(resources.files("metricsdb").joinpath("data/node_capture.txt.xz").read_bytes())
    parts = re.split(rb"(?m)^# SCRAPE (\d+)\n", text)[1:]
    db = mdb.Database()
    for at, body in list(zip(parts[::2], parts[1::2], strict=True))[::every]:
        db.ingest(body, "prometheus", time=np.datetime64(int(at), "ms"))
    return db


def fleet(services: int, hours: int) -> mdb.Database:
    """A counter and a gauge of each service, every 15 s at a phase of its own."""
    rng = np.random.default_rng(2)
    steps = hours * 240
    start = 1_780_012_800
    names = pl.DataFrame(
        {
            "__name__": ["m_total", "m"] * services,
            "service": np.repeat([f"{i:05}" for i in range(services)], 2),
            "zone": np.repeat(np.array(["a", "b", "c"])[np.arange(services) % 3], 2),
        }
    )
    db = mdb.Database(max_samples=10**12)
    refs = db.register(names)
    phase = np.repeat(rng.integers(0, 15_000, services), 2)
    for at in range(0, 2 * services, 200):
        some = refs[at : at + 200]
        counter = np.cumsum(rng.poisson(5, (len(some), steps)), axis=1).astype(float)
        gauge = np.round(20 + np.cumsum(rng.normal(0, 0.1, (len(some), steps)), axis=1), 2)
        values = np.where((np.arange(len(some)) % 2 == 0)[:, None], counter, gauge)
        times = (start * 1000 + phase[at : at + len(some), None] + 15_000 * np.arange(steps)).astype("datetime64[ms]")
        db.append_batch(np.repeat(some, steps), times.ravel(), values.ravel())
    return db


def moved(db: mdb.Database, folder: Path) -> tuple[Mover, Moved]:
    mover = Mover(Catalog(Objects(folder)), "bench", SystemClock())
    return mover, mover.move(NativeMemory(lambda: db._native), [Rule("", FAR)])


def sizes(name: str, db: mdb.Database, folder: Path) -> list[dict[str, object]]:
    """All objects of the layout, and what other ways to write the same samples take."""
    frame = db.scan('{__name__!=""}').collect()
    samples = frame.height
    labels = [c for c in frame.columns if c not in ("series", "timestamp", "value")]
    frame = frame.sort(*labels, "timestamp")
    mover, _ = moved(db, folder)
    mover.compact()
    state = mover.catalog.state
    held = {part.key: part.bytes for part in state.parts} | {part.series_key: part.series_bytes for part in state.parts}
    manifest = max(one.bytes for one in mover.catalog.objects.list("manifest/"))

    ours = sum(held.values()) + manifest

    def written(some: pl.DataFrame) -> float:
        sink = io.BytesIO()
        some.write_parquet(sink)
        return sink.tell() / samples

    duck = folder / "duck.parquet"
    duckdb.sql(f"COPY (SELECT * FROM frame) TO '{duck}' (FORMAT parquet, COMPRESSION zstd)")
    return [
        {"table": name, "written by": "metricsdb, all objects", "bytes/sample": ours / samples},
        {"table": name, "written by": "polars' default, labels beside each sample",
         "bytes/sample": written(frame.select(*labels, "timestamp", "value"))},
        {"table": name, "written by": "polars' default, series, time and value alone",
         "bytes/sample": written(frame.select("series", "timestamp", "value"))},
        {"table": name, "written by": "duckdb, zstd, labels beside each sample",
         "bytes/sample": duck.stat().st_size / samples},
    ]  # fmt: skip


def speeds(services: int, hours: int, folder: Path) -> list[dict[str, object]]:
    """Out of memory, with all that is between: export, Parquet, upload, read back, publish, drop; and back."""
    db = fleet(services, hours)
    begun = cpu()
    mover, done = moved(db, folder)
    rows: list[dict[str, object]] = [
        {"step": "move", "samples": done.samples, "M samples/CPU-s": done.samples / (cpu() - begun) / 1e6}
    ]
    catalog = mover.catalog

    def back() -> None:
        for part in catalog.parts(0, FAR):
            catalog.samples(part)

    rows.append(
        {"step": "read back to columns", "samples": done.samples, "M samples/CPU-s": done.samples / lowest(back) / 1e6}
    )

    def recalled() -> None:
        into = mdb.Database(max_samples=10**12)
        for part in catalog.parts(0, FAR):
            table, samples = catalog.series(part), catalog.samples(part)
            into._native.restore(*part_frames(table, samples))
        assert into.stats().filter(name="samples")["value"][0] == done.samples

    rows.append(
        {
            "step": "recall to memory",
            "samples": done.samples,
            "M samples/CPU-s": done.samples / lowest(recalled, 1) / 1e6,
        }
    )
    fresh = Catalog(catalog.objects)
    total = sum(part.bytes for part in fresh.state.parts)
    before = fresh.bytes_read
    for part in fresh.parts(0, FAR):
        fresh.samples(part, fresh.matching(part, [SELECTIVE]))
    rows.append({"step": f"one of {services:,} services: share of bytes read", "samples": None,
                 "M samples/CPU-s": None, "share": (fresh.bytes_read - before) / total})  # fmt: skip
    small, done = moved(fleet(services // 10, 12), folder / "compacted")
    begun = cpu()
    assert small.compact() == 6
    rows.append({"step": "compact", "samples": done.samples, "M samples/CPU-s": done.samples / (cpu() - begun) / 1e6})
    return [{"table": "speed", **row} for row in rows]


def main(quick: bool = False) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows += sizes("bytes: node capture, every second", capture(), Path(folder, "a"))
        rows += sizes("bytes: node capture, every 5th second", capture(5), Path(folder, "b"))
        services, hours = (200, 2) if quick else (4_000, 6)
        rows += sizes(
            f"bytes: fleet of {services:,} series, a phase each",
            fleet(services // 2, hours),
            Path(folder, "c"),
        )
        rows += speeds(services, hours, Path(folder, "d"))
    return rows
