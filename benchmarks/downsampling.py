"""What reductions keep of labelled anomalies, and how fast they are.

A, B         share of NAB's labelled windows whose most deviant point is among the points kept, at 1, 2, 5 and 10 % of
             all points (at least 8). A: farthest from the rolling median of 101, by rolling MAD and 5 % of the
             standard deviation; B: farthest from the median of the series
rmse         root mean square error at 5 % by the standard deviation, mean of all files: lines between the points;
             means beside: a mean for each of as many groups as points, and the points themselves
M/s          million samples a second of CPU, all threads together, the best of some runs; at 5 % of the points

stride, means, tsdownsample's four, and ours: the picker is not told the judges' windows.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

import metricsdb  # noqa: F401  (registers the expressions)
from benchmarks import datasets

SHARED = pathlib.Path(os.environ.get("METRICSDB_SHARED", datasets.ROOT.parent / "shared"))
SHARES = (1, 2, 5, 10)
WINDOW_OF_A = 101
RUNS = 5

Picker = Callable[[pl.DataFrame, int], np.ndarray]


@dataclass
class Labelled:
    name: str
    frame: pl.DataFrame  # timestamp, value
    windows: list[tuple[int, int]]  # of rows, the end exclusive

    @property
    def values(self) -> np.ndarray:
        return self.frame["value"].to_numpy()


def labelled(folder: pathlib.Path) -> Iterator[Labelled]:
    """The files of NAB with their windows. Timestamps may repeat or step back once; then they are sorted."""
    for name, spans in json.loads((folder / "labels" / "combined_windows.json").read_text()).items():
        frame = pl.read_csv(folder / "data" / name).select(
            pl.col("timestamp").str.to_datetime(time_unit="ms"), pl.col("value").cast(pl.Float64)
        )
        frame = frame.sort("timestamp", maintain_order=True)
        edges = [pl.Series(span).str.slice(0, 19).str.to_datetime(time_unit="ms") for span in spans]
        times = frame["timestamp"]
        windows = [(int((times < e[0]).sum()), int((times <= e[1]).sum())) for e in edges]
        yield Labelled(name, frame, windows)


def judge_a(values: np.ndarray) -> np.ndarray:
    distance = np.abs(values - rolling_median(values, WINDOW_OF_A))
    noise = 1.4826 * rolling_median(distance, WINDOW_OF_A) + 0.05 * values.std()
    return distance / np.maximum(noise, 1e-300)


def judge_b(values: np.ndarray) -> np.ndarray:
    return np.abs(values - np.median(values))


def rolling_median(values: np.ndarray, window: int) -> np.ndarray:
    """Centred; at the ends of what there is."""
    half, count = window // 2, len(values)
    out = np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(count) if i < half or i >= count - half]
    )
    middle = np.median(sliding_window_view(values, window), axis=1)
    return np.concatenate([out[:half], middle, out[half:]])


def kept(score: np.ndarray, window: tuple[int, int], picked: np.ndarray) -> bool:
    """Whether the window's most deviant point, or one as deviant, is there."""
    part = score[window[0] : window[1]]
    return bool(np.isin(np.flatnonzero(part == part.max()) + window[0], picked).any())


def stride(frame: pl.DataFrame, points: int) -> np.ndarray:
    return np.linspace(0, frame.height - 1, points).astype(int)


def ours(frame: pl.DataFrame, points: int) -> np.ndarray:
    return _rows(frame, pl.col("value").metricsdb.keep(points))


def _rows(frame: pl.DataFrame, mask: pl.Expr) -> np.ndarray:
    return frame.select(mask.arg_true()).to_series().to_numpy()


def _expression(method: str) -> Picker:
    return lambda frame, points: _rows(frame, getattr(pl.col("value").metricsdb, method)("timestamp", points))


def pickers() -> dict[str, Picker]:
    found: dict[str, Picker] = {"stride": stride}
    try:
        import tsdownsample
    except ImportError:
        print("tsdownsample is left out: not installed (pip install tsdownsample)")
    else:
        for name, kind, multiple in (
            ("LTTB", "LTTB", 1),
            ("MinMax", "MinMax", 2),
            ("M4", "M4", 4),
            ("MinMaxLTTB", "MinMaxLTTB", 1),
        ):
            sampler = getattr(tsdownsample, f"{kind}Downsampler")()
            found[f"tsdownsample {name}"] = lambda frame, points, s=sampler, m=multiple: s.downsample(
                frame["value"].to_numpy(), n_out=points // m * m
            )
    for name in ("lttb", "minmax", "m4", "minmax_lttb"):
        found[f"ours {name}"] = _expression(name)
    found["ours keep"] = ours
    return found


def main(quick: bool = False) -> list[dict]:
    return [*_quality(), *_speeds(200_000 if quick else 4_000_000, 1 if quick else RUNS)]


def _quality() -> list[dict]:
    folder = SHARED / "data" / "nab"
    if not folder.is_dir():
        print(f"NAB is left out: no folder {folder}")
        return []
    files = list(labelled(folder))
    judges = {"A": [judge_a(f.values) for f in files], "B": [judge_b(f.values) for f in files]}
    rows = []
    for name, pick in pickers().items():
        row: dict = {"table": "NAB: % of windows whose most deviant point is kept", "method": name}
        picked = {share: [pick(f.frame, points_of(f, share)) for f in files] for share in SHARES}
        for judge, scores in judges.items():
            for share in SHARES:
                row[f"{judge} {share} %"] = 100 * share_kept(files, scores, picked[share])
        row["rmse 5 %"] = mean_error(files, picked[5], lines)
        row["means beside"] = mean_error(files, picked[5], means_beside)
        rows.append(row)
    no_points = [np.array([], int) for _ in files]
    means = {"table": rows[0]["table"], "method": "means", "rmse 5 %": mean_error(files, no_points, means_beside)}
    return [rows[0], means, *rows[1:]]


def points_of(file: Labelled, share: float) -> int:
    return max(8, round(file.frame.height * share / 100))


def share_kept(files: list[Labelled], scores: list[np.ndarray], picked: list[np.ndarray]) -> float:
    marks = [kept(s, w, p) for f, s, p in zip(files, scores, picked, strict=True) for w in f.windows]
    return sum(marks) / len(marks)


def mean_error(
    files: list[Labelled], picked: list[np.ndarray], rebuild: Callable[[Labelled, np.ndarray], np.ndarray]
) -> float:
    """Of the files that are not flat."""
    pairs = [(f, p) for f, p in zip(files, picked, strict=True) if f.values.std() > 0]
    return float(np.mean([np.sqrt(np.mean((rebuild(f, p) - f.values) ** 2)) / f.values.std() for f, p in pairs]))


def lines(file: Labelled, picked: np.ndarray) -> np.ndarray:
    return np.interp(np.arange(file.frame.height), picked, file.values[picked])


def means_beside(file: Labelled, picked: np.ndarray) -> np.ndarray:
    rebuilt = np.concatenate(
        [np.full(len(part), part.mean()) for part in np.array_split(file.values, points_of(file, 5))]
    )
    rebuilt[picked] = file.values[picked]
    return rebuilt


def _speeds(samples: int, runs: int) -> list[dict]:
    """A hundred gauges every 15 s, a walk with noise each; and a series alone."""
    per_series = samples // 100
    rng = np.random.default_rng(7)
    values = np.cumsum(rng.normal(size=(100, per_series)), axis=1) + 5 * rng.normal(size=(100, per_series))
    times = 1_700_000_000_000 + 15_000 * np.arange(per_series, dtype=np.int64)
    frame = pl.DataFrame(
        {
            "series": np.repeat(np.arange(100, dtype=np.uint32), per_series),
            "timestamp": np.tile(times, 100).view("datetime64[ms]"),
            "value": values.ravel(),
        }
    )
    alone = frame.filter(pl.col("series") == 0).drop("series")
    alone = pl.concat([alone.with_columns(pl.col("timestamp") + pl.duration(days=4000 * i)) for i in range(20)])
    value = pl.col("value")
    fixed = [value.count().alias("count"), value.sum().alias("sum"), value.min().alias("min"), value.max().alias("max"),
             value.first().alias("first"), value.last().alias("last")]  # fmt: skip
    dynamic = {"index_column": "timestamp", "every": "10m", "closed": "right", "label": "right", "group_by": "series"}
    works: dict[str, Callable[[], object]] = {
        "polars group_by_dynamic, 6 aggregates": lambda: frame.group_by_dynamic(**dynamic).agg(fixed),
        "rollup, 11 aggregates": lambda: frame.group_by("series").agg(value.metricsdb.rollup("timestamp", "10m")),
        "polars group_by_dynamic, p99": lambda: frame.group_by_dynamic(**dynamic).agg(value.quantile(0.99)),
        "group_by_dynamic, sketch": lambda: frame.group_by_dynamic(**dynamic).agg(value.metricsdb.sketch()),
        "rate[5m]": lambda: frame.select(value.metricsdb.rate("timestamp", "5m").over("series")),
        "anomalies": lambda: frame.group_by("series").agg(value.metricsdb.anomalies()),
        "keep, anomalies alone": lambda: frame.group_by("series").agg(
            value.metricsdb.keep(per_series // 20, neighbours=1, fill=False)
        ),
        "keep": lambda: frame.group_by("series").agg(value.metricsdb.keep(per_series // 20)),
    }
    table = [
        {"table": f"{samples:,} samples, 100 series", "what": name, "M/s": samples / _cpu(work, runs) / 1e6}
        for name, work in works.items()
    ]
    points = alone.height // 20
    table += [
        {
            "table": f"{alone.height:,} samples, one series",
            "what": name,
            "M/s": alone.height / _cpu(lambda pick=pick: pick(alone, points), runs) / 1e6,
        }
        for name, pick in pickers().items()
    ]
    return table


def _cpu(work: Callable[[], object], runs: int) -> float:
    work()
    taken = []
    for _ in range(runs):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken)
