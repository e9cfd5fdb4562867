"""Data sets for codecs: real captures and seeded generators, each a list of series of int64 ms and float64.

node     the packaged scrapes of a node_exporter, taken as 15 s apart (wall clock: as they were, about 1 s)
nab      the Numenta Anomaly Benchmark from `../shared/data/nab`, left out where it isn't there
devops, card, svc   the fleets of `workloads`
others   one kind of series each: 60 series of 4,096 samples
"""

from __future__ import annotations

import csv
import dataclasses
import lzma
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from benchmarks import workloads

ROOT = pathlib.Path(__file__).parents[1]
CAPTURE = ROOT / "metricsdb" / "data" / "node_capture.txt.xz"
NAB = ROOT.parent / "shared" / "data" / "nab" / "data"
STEP_MS = 15_000
BUCKETS = 12
PER_HOST = len(workloads.CPU_METRICS)


@dataclass
class Dataset:
    name: str
    series: list[tuple[np.ndarray, np.ndarray]]  # times int64 ms, values float64
    disk: bool = False  # whether servers are asked to store it, too
    together: bool = False  # buckets of classic histograms, `BUCKETS` series each: old ones are coded together

    @property
    def samples(self) -> int:
        return sum(len(times) for times, _ in self.series)

    def write(self, file: BinaryIO) -> None:
        """Count, times, values of each series, 8 little-endian bytes a number: what `examples/codec` reads."""
        for times, values in self.series:
            file.write(np.array([len(times)], "<u8").tobytes())
            file.write(times.astype("<i8").tobytes() + values.astype("<f8").tobytes())


def every(quick: bool = False) -> Iterator[Dataset]:
    yield from node()
    yield from nab()
    yield from fleets(quick)
    yield from generated(*(6, 1_024) if quick else (60, 4_096))


def _regular(count: int, step_ms: int = STEP_MS) -> np.ndarray:
    return workloads.START_MS + np.arange(count, dtype=np.int64) * step_ms


def _columns(matrix: np.ndarray, times: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Series of a [steps, series] matrix, at the same times."""
    times = _regular(len(matrix)) if times is None else times
    return [(times, column) for column in np.ascontiguousarray(matrix.T)]


def read_capture() -> tuple[np.ndarray, np.ndarray]:
    """Wall-clock ms of the scrapes, and [scrapes, series] of the series that are in all of them."""
    times, found = [], dict[str, list[float]]()
    for line in lzma.decompress(CAPTURE.read_bytes()).decode().splitlines():
        if line.startswith("# SCRAPE"):
            times.append(int(line.split()[2]))
        elif line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found.setdefault(name, []).append(float(value))
    steady = [values for values in found.values() if len(values) == len(times)]
    return np.array(times, dtype=np.int64), np.array(steady).T


def node() -> Iterator[Dataset]:
    wall, every_one = read_capture()
    changing = every_one[:, (every_one != every_one[0]).any(axis=0)]
    for kind, matrix in (("all", every_one), ("changing", changing)):
        yield Dataset(f"node {kind}", _columns(matrix), disk=kind == "all")
        yield Dataset(f"node {kind}, every 5th", _columns(matrix[::5]))
        yield Dataset(f"node {kind}, wall clock", _columns(matrix, wall))


def nab() -> Iterator[Dataset]:
    if not NAB.is_dir():
        print(f"nab is left out: no folder {NAB}")
        return
    files = {path: _read_nab(path) for path in sorted(NAB.glob("*/*.csv"))}
    yield Dataset("NAB real", [s for path, s in files.items() if path.parent.name.startswith("real")], disk=True)
    for path, series in files.items():
        yield Dataset(path.stem, [series])


def _read_nab(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(newline="") as file:
        rows = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
    times = np.array([t for t, _ in rows], dtype="datetime64[ms]").astype(np.int64)
    times, first = np.unique(times, return_index=True)  # one file repeats some
    return times, np.array([v for _, v in rows])[first]


def fleets(quick: bool) -> Iterator[Dataset]:
    hosts, steps = (1, 1_024) if quick else (6, 4_096)
    times = _regular(steps, 10_000)
    for kind in ("int", "dec2", "float"):
        matrix = workloads.devops(hosts, steps, kind).values
        yield Dataset(f"devops {kind}", _columns(matrix, times), disk=True)
    card = workloads.card(10 * hosts, 240).values
    yield Dataset("card", _columns(card, times[:240]))
    yield Dataset("svc", _columns(workloads.svc(4 * hosts, steps).values), disk=True)
    yield from _irregular(_columns(workloads.devops(hosts, steps).values, times))


def _irregular(regular: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Dataset]:
    """Integers of devops, whose scrapes get lost or come early or late: for a host together, or each alone."""
    rng = np.random.default_rng(7)
    steps = len(regular[0][0])
    hosts = range(0, len(regular), PER_HOST)
    kept = np.repeat([rng.random(steps) >= 0.05 for _ in hosts], PER_HOST, axis=0)
    shared = np.repeat([rng.integers(-5, 6, steps) for _ in hosts], PER_HOST, axis=0)
    apart = rng.integers(-5, 6, (len(regular), steps))
    yield Dataset("int, 5 % lost", [(t[k], v[k]) for (t, v), k in zip(regular, kept, strict=True)])
    yield Dataset("int, +-5 ms a host", [(t + j, v) for (t, v), j in zip(regular, shared, strict=True)])
    yield Dataset("int, +-5 ms a series", [(t + j, v) for (t, v), j in zip(regular, apart, strict=True)])


def generated(series: int, steps: int) -> Iterator[Dataset]:
    def named(name: str, matrix: np.ndarray) -> Dataset:
        return Dataset(name, _columns(matrix))

    rng = np.random.default_rng(11)
    shape = (steps, series)
    for rate in (5, 1_000):
        yield named(f"poisson {rate}", rng.poisson(rate, shape).cumsum(axis=0).astype(float))
    buckets = named("histogram buckets", _histograms(rng, max(1, series // BUCKETS), steps))
    yield dataclasses.replace(buckets, together=True)
    yield named("walk int", (1_000 + rng.integers(-3, 4, shape).cumsum(axis=0)).astype(float))
    walk = rng.uniform(0, 100, series) + rng.standard_normal(shape).cumsum(axis=0)
    yield named("walk dec2", walk.round(2))
    yield named("walk float", walk)
    yield named("averages", _averages(rng, shape))
    yield named("float32 readings", (20 + rng.normal(0, 0.1, shape).cumsum(axis=0)).astype(np.float32).astype(float))
    yield named("rare booleans", ((rng.random(shape) < 1 / 200).cumsum(axis=0) % 2).astype(float))
    # Three days: a constant goes on in place.
    long = (4 * steps, series)
    yield named("constants", np.broadcast_to(np.resize([0, 1, 42, 0.25, 16_777_216_000, 1.7e9 + 0.123], series), long))
    yield named("random doubles", rng.random(shape))
    bits = rng.integers(0, 1 << 64, shape, dtype=np.uint64).view(np.float64)
    yield named("random bits", np.where(np.isfinite(bits), bits, 0.5))


def _histograms(rng: np.random.Generator, histograms: int, steps: int) -> np.ndarray:
    """Cumulative buckets side by side: 300 observations a step, log-normal over bounds that double."""
    spread = np.exp(-0.5 * ((np.arange(BUCKETS) - 4.5) / 2.5) ** 2)
    own = rng.poisson(300 * spread / spread.sum(), (steps, histograms, BUCKETS)).cumsum(axis=0)
    return own.cumsum(axis=2).reshape(steps, -1).astype(float)


def _averages(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Means of five readings with two decimals, summed as a program does: decimals and a few ulps."""
    total = np.zeros(shape)
    for _ in range(5):
        total = total + (50_000 + rng.integers(-100, 101, shape).cumsum(axis=0)) / 100
    return total / 5
