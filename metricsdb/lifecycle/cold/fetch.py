"""What a query needs of cold stores, fetched into memory beside it and kept there while it is asked for."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial as later

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb._native import NativeDatabase, Read, Sampling
from metricsdb.clock import Clock
from metricsdb.errors import ColdStoreError, MetricsDBError, QueryLimit, QueryTimeout
from metricsdb.explain import ColdCost
from metricsdb.lifecycle.cold import layout
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.manifest import Part, Tombstone, weight_of
from metricsdb.lifecycle.cold.objects import Missing
from metricsdb.lifecycle.cold.parts import slices
from metricsdb.lifecycle.sampling import Keep
from metricsdb.times import DAY_MS

__all__ = ["Frames", "Rolled", "Tiers", "empty", "load", "part_frames"]

CACHE_BYTES = 512 << 20
# Samples that are decoded at once where a whole part is wanted: what is used again is in the processor's cache.
PIECE_SAMPLES = 2_000_000
# Hashes of series that selectors took, which are kept: 8 bytes each.
MATCHED_MAX = 4 << 20
# The newest histogram before a window tells whether its first one is a reset: it is looked for so far back.
HISTOGRAM_LOOK_BACK_MS = DAY_MS
_FIRST, _LAST = -(2**63), 2**63 - 1
# What a query asks for is refused before it is fetched where its bytes come to so many times what may be kept: memory
# takes about as many as Parquet, of some data less.
SURE = 2
# Of a store that is not asked by itself: what is asked of it counts where the question came in.
_LIMITS = (2**40, 2**40, 2**40)

Reads = Sequence[Read]
# Labels, samples and histograms, as ``NativeDatabase.export`` gives and ``restore`` takes them.
Frames = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
# Width of buckets (ms), labels, and records of rollups, as ``NativeDatabase.restore_records`` takes them.
Rolled = tuple[int, pl.DataFrame, pl.DataFrame]

# As `NativeDatabase.append_columns` gives it.
Report = tuple[int, int, int, int, list[tuple[str, int, str]]]
Hashes = npt.NDArray[np.uint64]
_Key = tuple[str, tuple[Tombstone, ...], bool]


@dataclass(frozen=True, slots=True)
class _Need:
    """What reads want of a part: ``series``, their hashes, sorted."""

    catalog: Catalog
    part: Part
    series: Hashes

    @property
    def share(self) -> float:
        """Bytes of the part that are these series', if all are alike."""
        return self.part.bytes * len(self.series) / max(self.part.series, 1)


# Times that could not be read, and why.
_Away = tuple[int, int, ColdStoreError]


@dataclass(slots=True)
class _Fetched:
    """Stores with what reads need, the one whose samples stand first."""

    stores: list[NativeDatabase] = field(default_factory=list)
    # Which of their series stand for others.
    samplings: list[Sampling | None] = field(default_factory=list)
    # Stores of records of rollups alone.
    records: list[NativeDatabase] = field(default_factory=list)
    away: list[_Away] = field(default_factory=list)

    def beside(self, native: NativeDatabase, apart: list[tuple[int, int, str]], texts: list[str]) -> NativeDatabase:
        """The database for queries that read it all; ``apart``: times that can't be read; ``texts``: remarks."""
        if not self.stores and not self.records and not self.away:
            return native
        return native.with_beside(self.stores, apart, texts, self.samplings, self.records)


@dataclass(slots=True)
class _Shadow:
    """Series of one part that were fetched, in a store of their own."""

    native: NativeDatabase
    loaded: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    bytes: int = 0
    # Which of its series stand for others, and until when and where that was known.
    sampling: tuple[tuple[object, ...], Sampling | None] = ((), None)
    # Held while samples are fetched: who needs the same waits, and finds them.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, catalog: Catalog, part: Part, wanted: Hashes, named: bool) -> None:
        """Fetches those of the series (sorted) that are not there yet; ``named``: their labels alone."""
        with self.lock:
            missing = np.setdiff1d(wanted, self.loaded, assume_unique=True)
            if not len(missing):
                return
            hashes = pl.Series("series", missing)
            samples = _marks(part, hashes) if named else catalog.samples(part, hashes)
            table = catalog.series(part)
            chosen = table.filter(pl.col("series").is_in(hashes.implode()))
            if samples.height and part.every_ms and not named:
                labels, records = _placed(chosen, samples)
                self.native.restore_records(labels, part.every_ms, records)
            elif samples.height:
                load(self.native, *part_frames(chosen, samples))
            self.loaded = np.union1d(self.loaded, missing)
            self.bytes = self.native.measure()

    def sampled(self, catalog: Catalog, part: Part, beside: bool) -> Sampling | None:
        """Which of its series stand for others; ``beside``: pinned ones stand beside them, so that none is scaled."""
        if not part.sampled:
            return None
        untils = tuple((draw.keep, catalog.sampled_until(draw.keep)) for draw in dict.fromkeys(part.sampled))
        if self.sampling[0] != (untils, beside):
            self.sampling = (untils, beside), _sampling(catalog.drawn(part), part, dict(untils), beside)
        return self.sampling[1]


def _sampling(drawn: pl.DataFrame, part: Part, untils: dict[str, int], beside: bool) -> Sampling:
    texts = drawn["sampled_by"].unique().sort().to_list()
    pinned = ", and pinned series stand beside it" if beside else ""
    draws = [
        (text + pinned, untils.get(text, part.end_ms), not beside and Keep.parse(text).kind == "series")
        for text in texts
    ]
    rows = drawn.select(
        "series",
        pl.col("sampled_by").replace_strict(texts, range(len(texts)), return_dtype=pl.UInt32).alias("draw"),
        pl.concat_str("sampled_by", "sampled_group", separator="\x1f").hash().alias("stratum"),
        pl.col("sampled_of").fill_null(1).alias("of"),
        pl.col("sampled_kept").fill_null(1).alias("kept"),
    )
    day = part.start_ms // DAY_MS * DAY_MS
    return Sampling(draws, (day, day + DAY_MS - 1), rows)


def part_frames(series: pl.DataFrame, samples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """A part's samples as ``NativeDatabase.restore`` takes them: labels, samples, histograms. ``series`` are theirs,
    with hashes and labels."""
    labels, placed = _placed(series, samples)
    if "encoded" in placed.columns:
        return labels, layout.NO_SAMPLES, placed
    return labels, placed.with_columns(pl.col("kind").cast(pl.UInt32)), layout.NO_HISTOGRAMS


def _placed(series: pl.DataFrame, samples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels, and the samples with the row of their series in place of its hash."""
    runs = samples.select(pl.col("series").rle()).unnest("series")
    rows = series.select(value="series").with_row_index("row")
    row = runs.join(rows, on="value", how="left", maintain_order="left")
    placed = samples.drop("series").with_columns(
        pl.Series("row", np.repeat(row["row"].to_numpy(), runs["len"].to_numpy()), dtype=pl.UInt32)
    )
    return series.drop("series"), placed


def load(native: NativeDatabase, labels: pl.DataFrame, samples: pl.DataFrame, histograms: pl.DataFrame) -> Report:
    """As ``NativeDatabase.restore``, past what read-only stores refuse; plain doubles go the shortest way."""
    plain = samples.height and not samples["kind"].max() and samples["start"].null_count() == samples.height
    # Labels with a name of the frames' own have a column of another name, which `restore` knows.
    if not plain or histograms.height or any(name.startswith("label_") for name in labels.columns):
        return NativeDatabase.restore(native, labels, samples, histograms)
    refs, _ = NativeDatabase.register_frame(native, labels, False)
    times, values = samples["timestamp"].to_numpy(), samples["value"].to_numpy()
    return NativeDatabase.append_columns(native, refs[samples["row"].to_numpy()], times, values)


def _marks(part: Part, series: pl.Series) -> pl.DataFrame:
    """A sample a series: what only asks which series there are finds it in the part's range."""
    empty = pl.lit(None, pl.Int64)
    return pl.DataFrame({"series": series}).select(
        "series",
        pl.lit(part.start_ms, pl.Int64).alias("timestamp"),
        pl.lit(0.0).alias("value"),
        empty.alias("integer"),
        pl.lit(0, pl.UInt32).alias("kind"),
        empty.alias("start"),
    )


def empty() -> NativeDatabase:
    """A store for what was fetched: the value written last stands."""
    return NativeDatabase("last", _LIMITS, ([20, 20, 2], 100, 10_000), 0, secrets.randbits(64), None, None)


class Tiers:
    """The database's own store, and what of cold ones its queries need beside it. Thread-safe.

    Fetched series are kept, the parts used last, up to ``cache_bytes``. A call that reads nothing cold costs a
    comparison where there is no cold store, and a look at its list of parts where there is one.
    """

    def __init__(
        self, native: Callable[[], NativeDatabase], clock: Clock, timeout_ms: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._native, self._clock, self._timeout_ms, self._limit = native, clock, timeout_ms, cache_bytes
        self.catalogs: tuple[Catalog, ...] = ()
        """In rising order: where two have one time, the later one has it."""
        self._matched: OrderedDict[tuple[str, str], Hashes] = OrderedDict()
        self._shadows: OrderedDict[_Key, _Shadow] = OrderedDict()
        self._lock = threading.Lock()

    def put_beside(self, store: NativeDatabase) -> None:
        """Lets every query read a store of records beside the database's own samples."""
        own = self._native
        self._native = lambda: own().with_beside([store], [], [], [None], [])

    @property
    def bytes_read(self) -> int:
        """Bytes that were read from cold stores so far."""
        return sum(catalog.bytes_read for catalog in self.catalogs)

    def query(
        self, expr: str, start: int, end: int, step: int, lookback: int, *, partial: bool = False
    ) -> NativeDatabase:
        """The database that answers this query. Times as ``NativeDatabase.query`` takes them.

        Raises ``ColdStoreError``, or with ``partial`` lets the answer say what is missing in it; ``QueryLimit`` where
        it needs more at once than is kept; ``QueryTimeout``.
        """
        if not self.catalogs:
            return self._native()
        try:
            reads = NativeDatabase.reads(expr, start, end, step, lookback)
        except MetricsDBError:
            return self._native()  # the evaluation says what is wrong
        return self._beside(reads, partial)

    def select(self, selectors: Sequence[str], start: int, end: int, *, partial: bool = False) -> NativeDatabase:
        """The database that knows these series and their samples; no selector: all series. Raises as ``query``."""
        if not self.catalogs:
            return self._native()
        try:
            reads = [Read(selector, start, end) for selector in selectors or [""]]
        except MetricsDBError:
            return self._native()
        return self._beside(reads, partial)

    def names(self, selectors: Sequence[str], start: int, end: int) -> NativeDatabase:
        """As ``select``, for who asks which series there are, and not for samples: of parts that lie in the range their
        tables of series are enough."""
        if not self.catalogs:
            return self._native()
        try:
            reads = [Read(selector, start, end) for selector in selectors or [""]]
        except MetricsDBError:
            return self._native()
        return self._beside(reads, False, named=True)

    def queries(self, exprs: Sequence[str], times: tuple[int, int, int, int]) -> NativeDatabase:
        """The database for several queries at once (start, end, step, lookback): those that look where nothing can be
        read fail, each for itself."""
        if not self.catalogs:
            return self._native()
        reads: list[Read] = []
        for expr in exprs:
            with suppress(MetricsDBError):  # the evaluation says what is wrong
                reads += NativeDatabase.reads(expr, *times)
        fetched = self._fetch(reads)
        apart = [(start, end, str(why)) for start, end, why in fetched.away]
        return fetched.beside(self._native(), apart, [])

    def needed(self, reads: Reads) -> Iterator[tuple[Catalog, Part, Read]]:
        """The parts that reads look into, one of which may come several times."""
        for catalog in self.catalogs:
            for read in reads:
                early = max(_FIRST, read.start - HISTOGRAM_LOOK_BACK_MS)
                histograms = (part for part in catalog.parts(early, read.end) if part.kind == "histograms")
                others = (part for part in catalog.parts(read.start, read.end) if part.kind != "histograms")
                for part in (*histograms, *others):
                    yield catalog, part, read

    def pieces(self, selector: str, start: int, end: int, unless: Sequence[str] = ()) -> Iterator[Frames]:
        """Samples that cold stores have of a selector's series in [start, end], but of those that ``unless`` take, part
        by part, and some ``PIECE_SAMPLES`` at a time: what comes later stands where two have one time. Raises
        ``ColdStoreError``, ``ParseError``."""
        for part, series, samples in self._pieces(selector, start, end, unless):
            if not part.every_ms:
                yield part_frames(series, samples())

    def records(self, selector: str, start: int, end: int) -> Iterator[Rolled]:
        """As ``pieces``, the records of rollups whose buckets meet [start, end]."""
        for part, series, samples in self._pieces(selector, start, end, ()):
            if part.every_ms:
                yield part.every_ms, *_placed(series, samples())

    def _pieces(
        self, selector: str, start: int, end: int, unless: Sequence[str]
    ) -> Iterator[tuple[Part, pl.DataFrame, Callable[[], pl.DataFrame]]]:
        """Parts with a table of some of their series, and what reads that these have."""
        for catalog, part, _ in self.needed([Read(selector, start, end)]):
            if part.overlaps(start, end):
                hashes = catalog.matching(part, (selector,), unless)
                chosen = catalog.series(part)["series"].is_in(hashes.implode())
                taken = catalog.series(part).filter(chosen)
                weights = catalog.weights(part)[chosen.to_numpy()] * weight_of(part.kind)
                for first, behind in slices(weights, PIECE_SAMPLES):
                    some = taken[first:behind]
                    yield part, some, later(catalog.samples, part, some["series"], start, end)

    def drawn(self, selector: str, start: int, end: int) -> list[str]:
        """How those of a selector's series were drawn that stand for others somewhere in [start, end]: as retention's
        lines say it, ``1 in 10 by job``. Raises ``ColdStoreError``, ``ParseError``."""
        found: set[str] = set()
        for catalog, part, _ in self.needed([Read(selector, start, end)]):
            if part.sampled and part.overlaps(start, end):
                hashes = catalog.matching(part, (selector,))
                drawn = catalog.drawn(part).filter(pl.col("series").is_in(hashes.implode()))
                found.update(drawn["sampled_by"])
        return sorted(found)

    def _beside(self, reads: Reads, partial: bool, named: bool = False) -> NativeDatabase:
        fetched = self._fetch(reads, named)
        if fetched.away and not partial:
            raise fetched.away[0][2]
        texts = sorted({f"the answer is partial: {why}" for *_, why in fetched.away})
        return fetched.beside(self._native(), [], texts)

    def cost(self, expr: str, start: int, end: int, step: int, lookback: int) -> ColdCost:
        """What this query would fetch, from manifests, tables of series and footers. Raises ``ColdStoreError``."""
        if not self.catalogs:
            return ColdCost()
        try:
            reads = NativeDatabase.reads(expr, start, end, step, lookback)
        except MetricsDBError:
            return ColdCost()  # the plan says what is wrong
        needs, away = self._needs(reads)
        if away:
            raise away[0][2]
        parts = samples = size = 0
        series = np.empty(0, dtype=np.uint64)
        for key, need in needs.items():
            shadow = self._shadows.get(key)
            missing = need.series if shadow is None else np.setdiff1d(need.series, shadow.loaded, assume_unique=True)
            if len(missing):
                rows, read = need.catalog.cost(need.part, pl.Series(missing))
                parts, samples, size = parts + 1, samples + rows, size + read
                series = np.union1d(series, missing)
        return ColdCost(parts, len(series), samples, size)

    def _needs(self, reads: Reads, named: bool = False) -> tuple[dict[_Key, _Need], list[_Away]]:
        """What reads want of each part, the one first whose samples stand; and times that could not be read."""
        wanted: dict[_Key, tuple[Catalog, Part, list[Read]]] = {}
        away: list[_Away] = []
        try:
            for catalog, part, read in self.needed(reads):
                of_labels = named and read.start <= part.start_ms and part.end_ms <= read.end
                wanted.setdefault(_key(part, of_labels), (catalog, part, []))[2].append(read)
        except ColdStoreError as error:
            away.append((_FIRST, _LAST, error))
        needs = {}
        rank = {id(catalog): at for at, catalog in enumerate(self.catalogs)}
        found = ((rank[id(of[0])], of[1].order, of[1].key, key) for key, of in wanted.items())
        for *_, key in sorted(found, reverse=True):
            catalog, part, of_part = wanted[key]
            series = np.empty(0, dtype=np.uint64)
            try:
                for takes, read in {read.takes(): read for read in of_part}.items():
                    series = np.union1d(series, self._matching(catalog, part, takes, read))
            except ColdStoreError as error:
                away.append((part.start_ms, part.end_ms, error))
                continue
            if len(series):
                needs[key] = _Need(catalog, part, series)
        return needs, away

    def _fetch(self, reads: Reads, named: bool = False, again: bool = True) -> _Fetched:
        """Stores with what the reads need, and times that could not be read."""
        needs, away = self._needs(reads, named)
        if not named:
            self._bearable(list(needs.values()))
        found: dict[_Key, _Shadow] = {}
        begun = self._clock.monotonic()
        for key, need in needs.items():
            if (self._clock.monotonic() - begun) * 1000 > self._timeout_ms:
                raise QueryTimeout(
                    f"cold samples took longer than {self._timeout_ms} ms to fetch; what came is kept: ask again, "
                    "or for fewer series or less time"
                )
            try:
                found[key] = self._load(key, need)
            except ColdStoreError as error:
                away.append((need.part.start_ms, need.part.end_ms, error))
                continue
            self._fits(found)
        self._evict(found)
        if again and any(isinstance(why, Missing) for *_, why in away):
            # Another process has put other parts in the place of those that this one knows of.
            for one in self.catalogs:
                with suppress(ColdStoreError):
                    one.refresh()
            return self._fetch(reads, named, again=False)
        pins = [needs[key].part for key in found if needs[key].part.pinned]
        all_of_them = _Fetched(away=away)
        for key, shadow in found.items():
            part = needs[key].part
            if part.every_ms and not key[2]:
                all_of_them.records.append(shadow.native)
                continue
            beside = any(part.overlaps(pin.start_ms, pin.end_ms) for pin in pins)
            all_of_them.stores.append(shadow.native)
            all_of_them.samplings.append(shadow.sampled(needs[key].catalog, part, beside))
        return all_of_them

    def _load(self, key: _Key, need: _Need) -> _Shadow:
        with self._lock:
            shadow = self._shadows.get(key)
            if shadow is None:
                shadow = self._shadows[key] = _Shadow(empty())
            self._shadows.move_to_end(key)
        shadow.load(need.catalog, need.part, need.series, key[2])
        return shadow

    def _matching(self, catalog: Catalog, part: Part, takes: str, read: Read) -> Hashes:
        """Hashes of the series of a part that a read takes, sorted; those asked for last are kept."""
        key = (part.series_key, takes)
        with self._lock:
            if key in self._matched:
                self._matched.move_to_end(key)
                return self._matched[key]
        table = catalog.series(part)
        taken = read.matches(table.drop("series"))["matches"]
        found: Hashes = np.sort(table["series"].filter(taken).to_numpy())
        with self._lock:
            self._matched[key] = found
            held = sum(len(hashes) + 64 for hashes in self._matched.values())
            while held > MATCHED_MAX:
                held -= len(self._matched.popitem(last=False)[1]) + 64
        return found

    def _bearable(self, needs: Sequence[_Need]) -> None:
        """Refuses what is sure to be too much before anything is fetched. Raises ``QueryLimit``."""
        total = sum(need.share for need in needs)
        if total > SURE * self._limit:
            worst = max(needs, key=lambda need: need.share)
            raise QueryLimit(
                f"the query asks for some {total:,.0f} bytes of {len(needs)} cold parts, and may hold {self._limit:,}; "
                f"the most, {worst.share:,.0f}, are of {len(worst.series):,} series in {worst.part.key}; "
                "ask for fewer series or less time, or give a larger cold_cache"
            )

    def _fits(self, found: dict[_Key, _Shadow]) -> None:
        held = sum(shadow.bytes for shadow in found.values())
        if held > self._limit:
            with self._lock:
                for key in found:
                    self._shadows.pop(key, None)
            raise QueryLimit(
                f"the query needs more than {self._limit} bytes of cold data at once; "
                "ask for fewer series or less time, or give a larger cold_cache"
            )

    def _evict(self, found: dict[_Key, _Shadow]) -> None:
        with self._lock:
            held = sum(shadow.bytes for shadow in self._shadows.values())
            for key in list(self._shadows):
                if held <= self._limit:
                    return
                if key not in found:
                    held -= self._shadows.pop(key).bytes


def _key(part: Part, named: bool) -> _Key:
    """A part is what it is named after, but for what was deleted of it since. ``named``: of its labels alone."""
    return part.key, part.tombstones, named and not part.tombstones
