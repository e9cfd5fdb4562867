"""Reading what is cold: little for a little question, and nothing that is not what was stored."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from twins.cold import Rows, hash_of, labels, number, samples_frame, series_frame

from metricsdb.errors import ColdStoreError, ConfigError, FormatVersionError, ParseError
from metricsdb.lifecycle.cold import layout, manifest, parts
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.manifest import Manifest, Part, Tombstone
from metricsdb.lifecycle.cold.objects import Missing, Objects, Taken

DAY = 86_400_000


def part_of(rows: Rows, catalog: Catalog, number: int = 1) -> Part:
    found = sorted({series for series, _ in rows})
    at = {series: row for row, series in enumerate(found)}
    samples = samples_frame(sorted((at[series], t, value) for (series, t), value in rows.items()))
    names = (f"n{number}-{i}" for i in range(9))
    made = parts.cut(*parts.ordered(series_frame(found), samples), names.__next__, catalog.state)
    parts.store(catalog.objects, [made])
    catalog.publish(lambda state: state.exchange([], [made.part], 0))
    return made.part


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(Objects("memory:///"))


def test_parts_that_overlap_a_range_come_in_the_order_that_decides(catalog: Catalog) -> None:
    series = labels(__name__="m")
    for day in (3, 1, 2):
        part_of({(series, day * DAY): number(1.0), (series, day * DAY + 5): number(1.0)}, catalog, day)
    assert [part.day for part in catalog.parts(0, 9 * DAY)] == ["1970-01-02", "1970-01-03", "1970-01-04"]
    assert [part.start_ms for part in catalog.parts(DAY + 5, 2 * DAY)] == [DAY, 2 * DAY]
    assert catalog.parts(DAY + 6, 2 * DAY - 1) == []


def test_a_question_for_few_series_reads_few_bytes_and_tables_once(catalog: Catalog) -> None:
    rng = np.random.default_rng(1)
    found = [labels(__name__="m", service=f"{i:05}") for i in range(1000)]
    count = 1500
    samples = pl.DataFrame(
        {
            "row": np.repeat(np.arange(1000, dtype=np.uint32), count),
            "timestamp": np.tile(np.arange(count) * 15_000, 1000),
            "value": np.round(rng.normal(0, 10, 1000 * count), 2),
        }
    )
    made = parts.cut(*parts.ordered(series_frame(found), samples), iter("ab").__next__, Manifest())
    parts.store(catalog.objects, [made])
    catalog.publish(lambda state: state.exchange([], [made.part], 0))
    (part,) = catalog.parts(0, DAY)
    before = catalog.bytes_read
    hashes = catalog.matching(part, ['m{service="00500"}'])
    assert hashes.to_list() == [hash_of(found[500])]
    mine = catalog.samples(part, hashes)
    assert mine["value"].to_list() == samples.filter(pl.col("row") == 500)["value"].to_list()
    read = catalog.bytes_read - before
    assert (
        read < part.series_bytes + part.footer_bytes + 2 * part.bytes * layout.group_rows(part.samples) / part.samples
    )
    far = catalog.matching(part, ['m{service=~"00100|00900"}'])
    assert catalog.samples(part, far)["value"].to_list() == [
        *samples.filter(pl.col("row") == 100)["value"],
        *samples.filter(pl.col("row") == 900)["value"],
    ]
    assert catalog.samples(part)["value"].equals(samples["value"])
    before = catalog.bytes_read
    catalog.matching(part, ['m{service="00500"}'])
    catalog.samples(part, hashes, 0, 60_000)
    assert catalog.bytes_read - before == read - part.series_bytes - part.footer_bytes


def test_the_cache_lets_go_of_what_was_used_first() -> None:
    catalog = Catalog(Objects("memory:///"), cache_bytes=3000)
    series = labels(__name__="m")
    made = [part_of({(labels(__name__="m", d=str(day)), day * DAY): number(1.0)}, catalog, day) for day in range(9)]
    for part in made:
        catalog.series(part)
    before = catalog.bytes_read
    catalog.series(made[-1])
    assert catalog.bytes_read == before
    catalog.series(made[0])
    assert catalog.bytes_read == before + made[0].series_bytes
    assert catalog._cache._held <= 3000
    assert series


def test_what_two_load_at_once_is_kept_once(catalog: Catalog) -> None:
    part = part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    get = catalog.objects.get
    catalog.objects.get = lambda key: (setattr(catalog.objects, "get", get), catalog.series(part), get(key))[2]  # type: ignore[method-assign]
    catalog.series(part)
    assert len(catalog._cache._items) == 1


def test_tombstones_hide_what_they_name(catalog: Catalog) -> None:
    rows = {(labels(__name__=name), at): number(1.0) for name in "abc" for at in range(5)}
    part = part_of(rows, catalog)
    dead = Tombstone(('{__name__=~"a|b"}',), 1, 3, unless=("b",))
    part = Part(**{name: getattr(part, name) for name in Part.__slots__} | {"tombstones": (dead,)})
    left = catalog.samples(part)
    assert left.group_by("series").len().sort("len")["len"].to_list() == [2, 5, 5]
    assert left.filter(series=hash_of(labels(__name__="a")))["timestamp"].to_list() == [0, 4]


def test_bytes_that_are_not_what_was_stored_are_refused(catalog: Catalog) -> None:
    rows = {(labels(__name__="m", job=job), at): number(at / 7) for job in "ab" for at in range(500)}
    part = part_of(rows, catalog)
    body = catalog.objects.get(part.key)
    for place in (100, len(body) // 2, len(body) - part.footer_bytes + 20, len(body) - 3):
        bad = bytearray(body)
        bad[place] ^= 0xFF
        catalog.objects.put(part.key, bytes(bad))
        fresh = Catalog(catalog.objects)
        # Some bits no checksum covers and nobody reads: names of metrics, versions.
        with contextlib.suppress(ColdStoreError):
            assert fresh.samples(part)["value"].to_list() == catalog_values(rows, fresh, part)
    catalog.objects.put(part.key, body[: len(body) // 2])
    with pytest.raises(ColdStoreError, match=part.key):
        Catalog(catalog.objects).samples(part)
    catalog.objects.put(part.series_key, b"PAR1")
    with pytest.raises(ColdStoreError, match=r"series/.* is not what was stored; restore it from a copy"):
        Catalog(catalog.objects).series(part)
    catalog.objects.delete([part.series_key])
    with pytest.raises(Missing, match="ask again"):
        Catalog(catalog.objects).series(part)


def catalog_values(rows: Rows, catalog: Catalog, part: Part) -> list[float]:
    order = {h: i for i, h in enumerate(catalog.series(part)["series"])}
    keyed = sorted((order[hash_of(series)], at, at / 7) for series, at in rows)
    return [value for _, _, value in keyed]


def test_a_selector_that_is_none_is_refused(catalog: Catalog) -> None:
    part = part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    with pytest.raises(ParseError):
        catalog.matching(part, ["m{"])


def test_an_upload_that_reads_back_otherwise_is_never_named(catalog: Catalog) -> None:
    get = catalog.objects.get
    catalog.objects.get = lambda key: get(key)[:-1]  # type: ignore[method-assign]
    with pytest.raises(ColdStoreError, match="reads back as other bytes than were written"):
        part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    assert list(catalog.objects.list("manifest/")) == []

    def missing(key: str) -> bytes:
        raise Missing("x", key, "y")

    catalog.objects.get = missing  # type: ignore[method-assign]
    with pytest.raises(ColdStoreError, match="reads back as other bytes"):
        part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)


def test_a_manifest_of_another_version_or_of_nonsense_is_refused(catalog: Catalog) -> None:
    catalog.objects.put("manifest/00000000000000000001.json", b'{"version": 2}')
    with pytest.raises(FormatVersionError, match="manifest 1 has version 2, this program reads 1"):
        Catalog(catalog.objects).parts(0, 1)
    catalog.objects.put("manifest/00000000000000000002.json", b'{"version": 1, "number": "x"}')
    with pytest.raises(ColdStoreError, match="manifest 2 cannot be read"):
        Catalog(catalog.objects).parts(0, 1)


def test_a_manifest_that_was_swept_while_it_was_read_is_looked_for_again(catalog: Catalog) -> None:
    part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    get, failures = catalog.objects.get, [1, 1]

    def swept(key: str) -> bytes:
        if failures and failures.pop():
            raise Missing("x", key, "y")
        return get(key)

    catalog.objects.get = swept  # type: ignore[method-assign]
    assert Catalog(catalog.objects).state.number == 1
    catalog.objects.get = lambda key: swept(failures.append(1) or key)  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(ColdStoreError, match="changes all the time"):
        manifest.load(catalog.objects)


def test_who_never_gets_to_publish_says_so(catalog: Catalog) -> None:
    def taken(key: str, body: bytes) -> None:
        raise Taken("x", key, "y")

    catalog.objects.create = taken  # type: ignore[method-assign]
    with pytest.raises(ColdStoreError, match="others publish all the time"):
        part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)


def test_a_publication_whose_answer_was_lost_counts_once(catalog: Catalog) -> None:
    create = catalog.objects.create

    def twice(key: str, body: bytes) -> None:
        create(key, body)
        create(key, body)

    catalog.objects.create = twice  # type: ignore[method-assign]
    part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    assert catalog.refresh().number == 1


def test_old_manifests_go_once_nobody_can_build_on_them(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(20):
        part_of({(labels(__name__="m"), at * DAY): number(1.0)}, catalog, at)
    manifest.sweep(catalog.objects, 20)
    assert len(list(catalog.objects.list("manifest/"))) == 20
    monkeypatch.setattr(manifest, "KEEP_MS", -1000)
    manifest.sweep(catalog.objects, 20)
    assert [int(one.key[9:29]) for one in catalog.objects.list("manifest/")] == list(range(5, 21))
    manifest.sweep(catalog.objects, 99)
    assert len(list(catalog.objects.list("manifest/"))) == 16
    assert len(Catalog(catalog.objects).state.parts) == 20


def test_an_older_state_does_not_replace_a_newer_one(catalog: Catalog) -> None:
    part_of({(labels(__name__="m"), 0): number(1.0)}, catalog)
    assert catalog._learn(Manifest()).number == 1


def test_start_timestamps_and_histograms_come_back(catalog: Catalog) -> None:
    table = series_frame([labels(__name__="h", job="a"), labels(job="b")])
    fields = pl.DataFrame(
        {
            "row": pl.Series([0, 0, 1], dtype=pl.UInt32),
            "timestamp": [1, 2, 1],
            "start": [None, 1, -5],
            "count": [1.5, 2.0, 3.0],
            "sum": [float("nan"), -0.0, 1.0],
            "encoded": [b"\x00\xff", b"", b"abc"],
        }
    )
    made = parts.cut(*parts.ordered(table, fields), iter("ab").__next__, Manifest(), kind="histograms")
    parts.store(catalog.objects, [made])
    catalog.publish(lambda state: state.exchange([], [made.part], 0))
    (part,) = catalog.parts(0, 9)
    assert (part.kind, part.key[:11]) == ("histograms", "histograms/")
    back = catalog.samples(part)
    # A series without a name comes first.
    assert back["series"].to_list() == [hash_of(labels(job="b"))] + [hash_of(labels(__name__="h", job="a"))] * 2
    assert back["start"].to_list() == [-5, None, 1]
    assert back["encoded"].to_list() == [b"abc", b"\x00\xff", b""]
    assert np.signbit(back["sum"][2])
    assert catalog.samples(part, pl.Series([], dtype=pl.UInt64)).schema == back.schema


def test_the_face_refuses_a_bucket_that_does_not_divide_a_day() -> None:
    from metricsdb.cold import Cold
    from metricsdb.testing import FakeClock

    with pytest.raises(ConfigError, match="cold bucket '7h' does not divide a day; give one that does, as 2h"):
        Cold("memory:///", [], owner="me", clock=FakeClock(), expiring=list, time=int, bucket="7h")
