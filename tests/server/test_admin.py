"""Prometheus' admin API: deletions and snapshots, behind their own right."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

import metricsdb as mdb
from metricsdb import config
from metricsdb.server import app, create_app
from metricsdb.testing.clock import FakeClock

T0 = 1_700_000_000
PAGES = "/api/v1/admin/tsdb"


def filled(path=None):
    db = mdb.Database(path, clock=FakeClock(T0 * 1000))
    for i in "ab":
        db.append({"__name__": "m", "i": i}, np.arange(T0, T0 + 100), np.ones(100))
    return db


def asked(db, method, path, chosen=None, headers=None, **arguments):
    async def once():
        served = create_app(db, config=chosen, environ={"ADMIN": "a" * 20, "READER": "r" * 20})
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(once())


def count(db):
    return sum(len(s.timestamps) for s in db.raw("m", 0, T0 * 2))


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_series_are_deleted_as_prometheus_does_it(method):
    db = filled()
    query = {"match[]": 'm{i="a"}', "start": str(T0 + 10), "end": str(T0 + 19)}
    answer = asked(db, method, f"{PAGES}/delete_series", params=query)
    assert (answer.status_code, answer.content, count(db)) == (204, b"", 190)
    answer = asked(db, method, f"{PAGES}/delete_series", data={"match[]": ['m{i="a"}', "nothing"]})
    assert (answer.status_code, count(db)) == (204, 100)
    assert asked(db, method, f"{PAGES}/clean_tombstones").status_code == 204


def test_a_deletion_with_an_undo_says_how_to_take_it_back():
    db = filled()
    answer = asked(db, "POST", f"{PAGES}/delete_series", params={"match[]": "m", "undo": "1h"})
    assert answer.json()["data"]["samples"] == 200
    assert db.undelete(answer.json()["data"]["id"]) == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, "no match[] parameter provided"),
        ({"match[]": "m{"}, 'invalid parameter "match[]"'),
        ({"match[]": "m", "start": "soon"}, "Invalid time value for 'start'"),
        ({"match[]": "m", "start": "2", "end": "1"}, "end timestamp must not be before start time"),
        ({"match[]": "m", "undo": "soon"}, "undo"),
    ],
)
def test_what_cannot_be_read_deletes_nothing(query, words):
    db = filled()
    answer = asked(db, "POST", f"{PAGES}/delete_series", params=query)
    assert (answer.status_code, answer.json()["errorType"], count(db)) == (400, "bad_data", 200)
    assert words in answer.json()["error"]


def test_a_snapshot_opens_as_a_database(tmp_path):
    db = filled(tmp_path / "data")
    answer = asked(db, "POST", f"{PAGES}/snapshot", params={"skip_head": "true"})
    name = answer.json()["data"]["name"]
    assert name.startswith("20231114T221320Z-")
    with mdb.Database(tmp_path / "data" / "snapshots" / name) as copy:
        assert count(copy) == 200
    assert asked(db, "PUT", f"{PAGES}/snapshot").status_code == 200
    db.close()
    with mdb.Database(tmp_path / "data") as again:
        assert count(again) == 200


def test_a_snapshot_needs_a_directory_and_a_flag_that_is_one():
    db = filled()
    answer = asked(db, "POST", f"{PAGES}/snapshot")
    assert (answer.status_code, "give it a path" in answer.json()["error"]) == (422, True)
    answer = asked(db, "POST", f"{PAGES}/snapshot", params={"skip_head": "maybe"})
    assert (answer.status_code, "skip_head" in answer.json()["error"]) == (400, True)


def test_it_takes_the_right_of_an_administrator():
    chosen = config.parse(
        b"web: {credentials: [{name: root, token_env: ADMIN, scopes: [admin]},"
        b" {name: eve, token_env: READER, scopes: [read, write]}]}"
    )
    for page in ("delete_series", "clean_tombstones", "snapshot"):
        for token, status in (("r" * 20, 403), ("x" * 20, 401)):
            headers = {"authorization": f"Bearer {token}"}
            db = filled()
            answer = asked(db, "POST", f"{PAGES}/{page}", chosen, headers, params={"match[]": "m"})
            assert (answer.status_code, count(db)) == (status, 200)
    db = filled()
    headers = {"authorization": f"Bearer {'a' * 20}"}
    answer = asked(db, "POST", f"{PAGES}/delete_series", chosen, headers, params={"match[]": "m"})
    assert answer.status_code == 204


def test_where_no_room_is_left_for_forms_it_says_when_to_come_again(monkeypatch):
    monkeypatch.setattr(app, "FORMS_BYTES_MAX", 1)
    answer = asked(filled(), "POST", f"{PAGES}/delete_series", data={"match[]": "m"})
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


def test_a_body_that_is_too_large_is_refused():
    db = filled()
    answer = asked(db, "POST", f"{PAGES}/delete_series", data={"match[]": "m" * (11 << 20)})
    assert answer.status_code in (400, 413)
    assert count(db) == 200
