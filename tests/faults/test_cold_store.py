"""A cold store over HTTP that fails: what was moved is all there, once, and what can't be read says so."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.s3_proxy import Proxy
from twins.cold import ListMemory, Rows, cold_rows, labels, number

from metricsdb.errors import ColdStoreError
from metricsdb.lifecycle.cold import objects as cold_objects
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects, Taken
from metricsdb.testing import FakeClock

moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
HOUR = 3_600_000
NOON = 494_400 * HOUR
ALL = '{__name__!=""}'
FAST = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=20), "base": 2},
}


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture
def bucket(server: int, request: pytest.FixtureRequest) -> str:
    import http.client
    import re

    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    connection = http.client.HTTPConnection("127.0.0.1", server)
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=, Signature="
    }
    connection.request("PUT", f"/{name}", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()
    return name


def opened(bucket: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Objects:
    monkeypatch.setattr(cold_objects, "RETRIES", FAST)
    options = {"access_key_id": "a-key", "secret_access_key": "a-secret", "endpoint": url, "region": "us-east-1"}
    return Objects(f"s3://{bucket}/prefix", {**options, "allow_http": "true"})


def some(hours: int) -> Rows:
    return {
        (labels(__name__="m", job=job), NOON + i * HOUR // 4): number(i / 8 + len(job))
        for job in "abc"
        for i in range(hours * 4)
    }


def test_a_store_over_http_takes_all_verbs(server: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = opened(bucket, f"http://127.0.0.1:{server}", monkeypatch)
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
def test_a_store_that_fails_now_and_then_loses_nothing(
    server: int, bucket: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(server, share=0.25, seed=seed)
    clock = FakeClock(NOON + 1000 * HOUR)
    catalog = Catalog(opened(bucket, proxy.url, monkeypatch))
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
    fresh = Catalog(opened(bucket, f"http://127.0.0.1:{server}", monkeypatch))
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
    catalog = Catalog(opened(bucket, proxy.url, monkeypatch))
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
    mover = Mover(Catalog(opened(bucket, proxy.url, monkeypatch)), "me", FakeClock(NOON))
    memory = ListMemory(some(2))
    with pytest.raises(
        ColdStoreError, match=f"cold store s3://{bucket}/prefix: cannot list manifest/.*try again"
    ) as caught:
        mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert caught.value.store == f"s3://{bucket}/prefix"
    assert memory.rows == some(2)
    proxy.close()
