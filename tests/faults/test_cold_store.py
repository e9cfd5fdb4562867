"""A cold store over HTTP that fails: what was moved is all there, once, and what can't be read says so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.s3_proxy import FAST, Proxy, make_bucket, s3_objects, s3_server
from twins.cold import ListMemory, Rows, cold_rows, labels, number

from metricsdb.errors import ColdStoreError
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Taken
from metricsdb.testing import FakeClock

pytest.importorskip("moto.server", reason="moto[server] is not installed")
HOUR = 3_600_000
NOON = 494_400 * HOUR
ALL = '{__name__!=""}'


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(server: int, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    make_bucket(server, name)
    return name


def some(hours: int) -> Rows:
    return {
        (labels(__name__="m", job=job), NOON + i * HOUR // 4): number(i / 8 + len(job))
        for job in "abc"
        for i in range(hours * 4)
    }


def test_a_store_over_http_takes_all_verbs(server: int, bucket: str) -> None:
    objects = s3_objects(f"http://127.0.0.1:{server}", bucket)
    objects.put("a/day=1/x", b"0123456789")
    assert objects.ranges("a/day=1/x", [(1, 3), (7, 9)]) == [b"12", b"78"]
    objects.create("m/1", b"one")
    with pytest.raises(Taken):
        objects.create("m/1", b"two")
    assert sorted(one.key for one in objects.list("")) == ["a/day=1/x", "m/1"]
    objects.delete(["a/day=1/x", "m/1", "m/2"])
    assert list(objects.list("")) == []
    assert objects.name == f"s3://{bucket}/prefix"


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_fails_now_and_then_loses_nothing(server: int, bucket: str, seed: int) -> None:
    proxy = Proxy(server, share=0.25, seed=seed)
    clock = FakeClock(NOON + 1000 * HOUR)
    catalog = Catalog(s3_objects(proxy.url, bucket))
    mover = Mover(catalog, "me", clock)
    rows = some(14)
    memory = ListMemory(dict(rows))
    for _ in range(10):
        try:
            mover.move(memory, [Rule(ALL, NOON + 14 * HOUR)])
            mover.compact()
            clock.move(16)
            mover.sweep()
            break
        except ColdStoreError:
            continue
    proxy.share = 0.0
    assert proxy.seen.total() - proxy.seen[""] > 5
    fresh = Catalog(s3_objects(f"http://127.0.0.1:{server}", bucket))
    assert memory.rows == {}
    assert cold_rows(fresh) == rows
    clock.move(16)
    Mover(fresh, "me", clock).sweep()
    kept = {one.key for one in fresh.objects.list("") if not one.key.startswith("manifest/")}
    assert kept == fresh.state.keys()
    # Nothing twice: parts hold each sample once.
    assert sum(part.samples for part in fresh.state.parts) == len(rows)
    proxy.close()


def test_a_publication_whose_answer_is_lost_counts_once(
    server: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(server)
    catalog = Catalog(s3_objects(proxy.url, bucket))
    mover = Mover(catalog, "me", FakeClock(NOON))
    create = catalog.objects.create

    def losing(key: str, body: bytes) -> None:
        proxy.draw = lambda: answers.pop() if answers else ""  # type: ignore[method-assign]
        answers = ["lost"]
        create(key, body)

    monkeypatch.setattr(catalog.objects, "create", losing)
    mover.move(ListMemory(some(2)), [Rule(ALL, NOON + 2 * HOUR)])
    assert catalog.refresh().number == 1
    assert len(catalog.state.parts) == 1
    proxy.close()


def test_a_store_that_is_away_says_which_and_keeps_memory(
    server: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(server, share=1.0, faults=("503",))
    monkeypatch.setitem(FAST, "max_retries", 2)
    mover = Mover(Catalog(s3_objects(proxy.url, bucket)), "me", FakeClock(NOON))
    memory = ListMemory(some(2))
    with pytest.raises(
        ColdStoreError, match=f"cold store s3://{bucket}/prefix: cannot list manifest/.*try again"
    ) as caught:
        mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert caught.value.store == f"s3://{bucket}/prefix"
    assert memory.rows == some(2)
    proxy.close()
