"""How often alerts page on NAB's series, and how many labelled windows they meet.

plain        fires beyond 2.5 standard deviations of what came first (15 % of the series), on either side
statement    the same, with a clear level nearer the middle that must hold for a time, and FLAP
pages        times that somebody is told that it fires; windows: labelled ones during which it fired
firing       share of the time, %: what is held fires longer, and so meets more

36 settings (clear level, its FOR, FLAP) are tried on every second file by name, which chooses the one that pages least
and misses no window that plain meets. The other files, which took no part in that, judge it. One statement for all.
"""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass
from itertools import product

import polars as pl

import metricsdb as mdb
from benchmarks import datasets
from benchmarks.downsampling import Labelled, labelled
from metricsdb.testing import FakeClock

SHARED = pathlib.Path(os.environ.get("METRICSDB_SHARED", datasets.ROOT.parent / "shared"))
# Of the mean of the first part, where NAB's own detectors learn.
LEARNT = 0.15
SIGMAS = 2.5


@dataclass(frozen=True)
class Told:
    """What one statement did on one file."""

    pages: int
    windows: frozenset[int]
    firing: float


@dataclass(frozen=True)
class Setting:
    """What a statement has that the plain threshold has not. ``back``: its clear level, in standard deviations."""

    back: float
    clear_for: str
    flap: str

    def __str__(self) -> str:
        return f"clear at {self.back:g} sd FOR {self.clear_for}, {self.flap or 'no FLAP'}"


FLAPS = ("", "FLAP 4 CHANGES IN 6h UNTIL 6h QUIET THEN HOLD", "FLAP 2 CHANGES IN 1d UNTIL 1d QUIET THEN HOLD")
SETTINGS = [Setting(*one) for one in product((0.5, 1.0, 1.5, 2.0), ("10m", "1h", "4h"), FLAPS)]


def statements(file: Labelled, settings: list[Setting]) -> list[str]:
    """The plain threshold, and the statement in some settings; bounds from what came first."""
    first = file.frame.head(max(2, round(LEARNT * file.frame.height)))["value"]
    middle, spread = float(first.median()), float(first.std() or 1.0)  # type: ignore[arg-type]
    fires = f"WHEN v > {middle + SIGMAS * spread!r} or v < {middle - SIGMAS * spread!r}"
    found = [f"ALERT Plain {fires}"]
    for one in settings:
        over, under = middle + one.back * spread, middle - one.back * spread
        clear = f"CLEAR WHEN v < {over!r} and v > {under!r} FOR {one.clear_for}"
        found.append(f"ALERT Better {one.flap} {fires} {clear}")
    return found


def rehearsed(file: Labelled, settings: list[Setting]) -> list[Told]:
    """The plain threshold over the file, at its own interval, and the settings after it."""
    times = file.frame["timestamp"].dt.epoch("ms")
    step = int(times.diff().drop_nulls().mode()[0])
    start, end = int(times[0]) // 1000, int(times[-1]) // 1000 + step // 1000
    with mdb.Database(clock=FakeClock(end * 1000)) as db:
        db.append({"__name__": "v"}, file.frame["timestamp"], file.frame["value"])
        told = []
        for statement in statements(file, settings):
            done = db.alerts.backtest(statement, start, end, every=f"{step}ms")
            fired = done.episodes.select("start", pl.coalesce("end", pl.lit(end * 1000).cast(pl.Datetime("ms", "UTC"))))
            met = frozenset(
                i
                for i, (first, last) in enumerate(file.windows)
                for a, b in fired.rows()
                if a.timestamp() * 1000 <= times[last - 1] and b.timestamp() * 1000 >= times[first]
            )
            share = 100 * done.summary["firing_seconds"] / (end - start)
            told.append(Told(int(done.summary["pages"]), met, share))
    return told


def chosen(files: list[Labelled]) -> Setting:
    """The setting that pages least on some files, of those that miss fewest windows that the plain threshold meets."""
    missed, pages = [0] * len(SETTINGS), [0] * len(SETTINGS)
    for file in files:
        plain, *better = rehearsed(file, SETTINGS)
        for i, told in enumerate(better):
            missed[i] += len(plain.windows - told.windows)
            pages[i] += told.pages
    return SETTINGS[min(range(len(SETTINGS)), key=lambda i: (missed[i], pages[i]))]


def judged(files: list[Labelled], setting: Setting, table: str) -> list[dict[str, object]]:
    """A row a file where the plain threshold ever fires, and their sum."""
    rows: list[dict[str, object]] = []
    for file in files:
        plain, better = rehearsed(file, [setting])
        if plain.pages:
            rows.append(
                {
                    "table": table, "file": file.name, "plain pages": plain.pages, "pages": better.pages,
                    "windows": len(file.windows), "plain meets": len(plain.windows), "meets": len(better.windows),
                    "missed": len(plain.windows - better.windows),
                    "plain firing": round(plain.firing, 1), "firing": round(better.firing, 1),
                }
            )  # fmt: skip
    counts = ("plain pages", "pages", "windows", "plain meets", "meets", "missed")
    total = {name: sum(int(str(row[name])) for row in rows) for name in counts}
    means = {
        name: round(sum(float(str(row[name])) for row in rows) / max(len(rows), 1), 1)
        for name in ("plain firing", "firing")
    }
    return [*rows, {"table": table, "file": "all", **total, **means}]


def main(quick: bool = False) -> list[dict[str, object]]:
    folder = SHARED / "data" / "nab"
    if not folder.is_dir():
        return [{"file": f"NAB is not here: no folder {folder}"}]
    files = sorted(labelled(folder), key=lambda file: file.name)[: 10 if quick else None]
    setting = chosen(files[::2])
    return [
        *judged(files[::2], setting, f"chose {setting}"),
        *judged(files[1::2], setting, f"took no part in choosing {setting}"),
    ]
