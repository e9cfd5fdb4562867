"""What others make of a data set, in Python: Parquet files, zstd over raw doubles, and the disks of servers."""

from __future__ import annotations

import io
import json
import pathlib
import time
from collections.abc import Callable

import cramjam
import numpy as np
import polars as pl

from benchmarks import workloads
from benchmarks.datasets import Dataset
from benchmarks.process import Server

# Every series ends here: far enough back for any server's clock.
END_MS = workloads.START_MS
# A body holds so much of every series: a server wants samples more or less in the order of time.
WINDOW_MS = 30 * 60_000
# Or else chunks end every two hours, which is after two samples in some sets.
PROMETHEUS_BLOCKS = ("--storage.tsdb.min-block-duration=10y", "--storage.tsdb.max-block-duration=10y")


def parquet(data: Dataset, dtype: type[pl.DataType] = pl.Float64) -> float:
    """Bytes a sample of one file through Polars: series, time, value; sorted, zstd, statistics on."""
    lengths = [len(times) for times, _ in data.series]
    frame = pl.DataFrame(
        {
            "series": np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths),
            "time": np.concatenate([times for times, _ in data.series]),
            "value": np.concatenate([values for _, values in data.series]),
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("ms")), pl.col("value").cast(dtype))
    file = io.BytesIO()
    frame.write_parquet(file, compression="zstd", statistics=True)
    return file.tell() / data.samples


def zstd(data: Dataset, per_block: int, runs: int) -> dict:
    """Level 3 over the raw doubles of whole blocks, as the Rust program cuts them; the calls' cost is counted."""
    blocks = []
    for _, values in data.series:
        size = min(per_block, len(values))
        whole = values[: len(values) // size * size].astype("<f8").tobytes()
        blocks += [whole[i : i + size * 8] for i in range(0, len(whole), size * 8)]
    samples = sum(map(len, blocks)) / 8
    packed, encode_s = _fastest(lambda block: cramjam.zstd.compress(block, level=3), blocks, runs)
    back, decode_s = _fastest(cramjam.zstd.decompress, packed, runs)
    assert all(bytes(a) == b for a, b in zip(back, blocks, strict=True)), data.name
    return {
        "codec": "zstd3",
        "total": sum(map(len, packed)) / samples,
        "encode_mps": samples / encode_s / 1e6,
        "decode_mps": samples / decode_s / 1e6,
    }


def _fastest(run: Callable, blocks: list, runs: int) -> tuple[list, float]:
    """Results, and seconds of all batches, each at its fastest: see `examples/codec/measure.rs`."""
    batches = [blocks[i : i + 16] for i in range(0, len(blocks), 16)]
    best, results = np.full(len(batches), np.inf), []
    for _ in range(runs):
        results = []
        for i, batch in enumerate(batches):
            start = time.perf_counter()
            done = [run(block) for block in batch]
            best[i] = min(best[i], time.perf_counter() - start)
            results += done
    return results, float(best.sum())


def disk(engine: str, data: Dataset) -> float:
    """Bytes a sample on the disk of a server, without its index of labels and its log; all samples are there."""
    arguments, measure = ((), _victoria_metrics) if engine == "victoria-metrics" else (PROMETHEUS_BLOCKS, _prometheus)
    with Server(engine, *arguments) as server:
        server.send(_bodies(data))
        stored, size = measure(server)
    if stored != data.samples:
        raise RuntimeError(f"{engine} has {stored} of the {data.samples} samples of {data.name}")
    return size / data.samples


def _prometheus(server: Server) -> tuple[int, int]:
    """Samples, and bytes of the chunk files, of a snapshot with the head."""
    status, body = server.request("POST", "/api/v1/admin/tsdb/snapshot")
    if status != 200:
        raise RuntimeError(f"prometheus answered {status}: {body[:200]!r}")
    folder = pathlib.Path(server.data, "tsdb", "snapshots", json.loads(body)["data"]["name"])
    samples = sum(json.loads(m.read_text())["stats"]["numSamples"] for m in folder.glob("*/meta.json"))
    return samples, sum(f.stat().st_size for f in folder.glob("*/chunks/*"))


def _victoria_metrics(server: Server) -> tuple[int, int]:
    """Samples, and bytes of the data parts (headers of blocks included) after a merge."""
    server.request("GET", "/internal/force_flush")
    server.request("GET", "/internal/force_merge")
    server.settle()
    lines = server.request("GET", "/metrics")[1].decode().splitlines()
    samples = sum(int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith('vm_rows{type="storage/'))
    return samples, sum(f.stat().st_size for f in pathlib.Path(server.data, "data").rglob("*") if f.is_file())


def _bodies(data: Dataset):
    """Remote-write bodies of half an hour of all series, in order of time: (body, samples, 0)."""
    labels = [workloads.label_bytes({"__name__": "sample", "n": str(i)}) for i in range(len(data.series))]
    series = [(times + END_MS - times[-1], values) for times, values in data.series]
    start = min(int(times[0]) for times, _ in series)
    edges = np.arange(start, END_MS + WINDOW_MS + 1, WINDOW_MS)
    cuts = [np.searchsorted(times, edges) for times, _ in series]
    for w in range(len(edges) - 1):
        blocks, samples = [], 0
        for name, (times, values), cut in zip(labels, series, cuts, strict=True):
            part = slice(cut[w], cut[w + 1])
            if part.stop > part.start:
                blocks.append(workloads.series_block(name, times[part], values[part]))
                samples += part.stop - part.start
        if blocks:
            yield bytes(cramjam.snappy.compress_raw(b"".join(blocks))), samples, 0
