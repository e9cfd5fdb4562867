"""Bytes a sample and speed of our chunks beside their rivals, on real and on generated sets.

xor120, xor512   Prometheus' chunk (Gorilla) of so many samples, with times and the framing it has in a file
alp, pco*, zstd3   values alone, in blocks of 512: no times, no index of blocks (regular times would add nothing)
parquet, parquet32   Polars with zstd and statistics: series, time, value as float64 or (lossy) float32
prometheus   chunk files of a snapshot with the head, without index and log; blocks of ten years, lest chunks end early
victoria   data parts after a merge, no index of labels; lossy: long doubles come back changed by up to 1e-12
open, sealed, dense   ours, in blocks of 512, with times, headers, allocation and the handle of each block
goal, met   bytes a sample of sealed / dense

Codecs see whole blocks: what a series has beyond its last one is left out. Files and servers get all of it.
Speeds are of one core, each 16 blocks at their fastest of nine runs, built for any x86-64 as the wheels are: with AVX2
and BMI, as its authors advise, pco decodes 3 to 50 % faster.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile

import polars as pl

from benchmarks import datasets, rivals
from benchmarks.process import available

PER_BLOCK = 512
RUNS = 9
OURS = ("open", "sealed", "dense")
SERVERS = {"prometheus": "prometheus", "victoria-metrics": "victoria"}

# Bytes a sample (sealed, dense).
GOALS = {
    "node all": (0.48, 0.42),
    "node changing": (1.22, 1.12),
    "NAB real": (1.47, 1.32),
    "devops int": (0.42, 0.40),
    "devops dec2": (1.19, 1.16),
    "devops float": (6.4, 6.4),
    "poisson 5": (0.53, 0.46),
    "poisson 1000": (1.03, 0.95),
    "histogram buckets": (4.0, 0.60),  # coded together, as old ones are
    "walk float": (6.4, 6.4),
    "rare booleans": (0.03, 0.03),
    "constants": (0.005, 0.005),
    "random doubles": (8.1, 8.1),
    "random bits": (8.1, 8.1),
}
GOAL_ELSE = (4.0, 4.0)  # a quarter of 16 bytes


def main(quick: bool = False) -> list[dict]:
    runs = 1 if quick else RUNS
    servers = [] if quick else [name for name in SERVERS if available(name)]
    for name in SERVERS.keys() - servers:
        print(f"{name} is left out: {'not when quick' if quick else 'no such program'}")
    sizes, parts, speeds = [], [], []
    for data in datasets.every(quick):
        measured = [*_measure(data, runs), rivals.zstd(data, PER_BLOCK, runs)]
        codecs = {m["codec"]: m for m in measured}
        if data.together:
            codecs["dense"] = codecs["together"]
        sizes.append(_size_row(data, codecs, {SERVERS[s]: rivals.disk(s, data) for s in servers if data.disk}))
        if len(data.series) > 1:  # one alone is over too soon to be timed
            parts.append(_part_row(data, codecs))
            speeds += [_speed_row(data, codecs, way) for way in ("encode", "decode")]
    return sizes + parts + speeds


def _measure(data: datasets.Dataset, runs: int) -> list[dict]:
    """What the Rust program says of the set: a row a codec."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "set")
        with path.open("wb") as file:
            data.write(file)
        command = ["cargo", "run", "--quiet", "--release", "--package", "metricsdb-store", "--example", "codec", "--"]
        done = subprocess.run(
            [*command, path, str(PER_BLOCK), str(runs)], cwd=datasets.ROOT, stdout=subprocess.PIPE, check=True
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _size_row(data: datasets.Dataset, codecs: dict[str, dict], disks: dict[str, float]) -> dict:
    goals = GOALS.get(data.name, GOAL_ELSE)
    return {
        "table": "bytes a sample",
        "set": data.name,
        "pairs16": 16.0,
        **{name: codecs[name]["total"] for name in ("xor120", "xor512", "alp", "pco0", "pco4", "pco8", "zstd3")},
        "parquet": rivals.parquet(data),
        "parquet32": rivals.parquet(data, pl.Float32),
        **{name: disks.get(name) for name in SERVERS.values()},
        **{name: codecs[name]["total"] if name in codecs else None for name in OURS},
        "goal": "{}/{}".format(*goals),
        "met": "/".join(_met(codecs.get(name), goal) for name, goal in zip(("sealed", "dense"), goals, strict=True)),
    }


def _met(measured: dict | None, goal: float) -> str:
    return "-" if measured is None else "yes" if measured["total"] <= goal else "no"


def _part_row(data: datasets.Dataset, codecs: dict[str, dict]) -> dict:
    """Where the bytes of the codecs with times go."""
    row: dict = {"table": "bytes a sample, by part", "set": data.name}
    for name in ("xor512", *OURS):
        for part in ("values", "timestamps", "headers"):
            row[f"{name} {part}"] = codecs[name][part] if name in codecs else None
    return row


def _speed_row(data: datasets.Dataset, codecs: dict[str, dict], way: str) -> dict:
    return {"table": "M values a second", "set": data.name, "way": way,
            **{name: m[f"{way}_mps"] for name, m in codecs.items()}}  # fmt: skip
