"""A forked child has its parent's memory and none of its threads: it works with databases of its own, and is told so at
once where it takes its parent's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import metricsdb as mdb

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], object], seconds: int = 60) -> None:
    """Runs ``work`` in a forked child; one that hangs is killed by its alarm, and fails the test."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"


def everything(path: Path | None) -> None:
    """A bit of all that needs threads: large writes, queries of each class, frames, upkeep."""
    with mdb.Database(path, durability=None if path is None else "batch") as db:
        refs = db.register([{"__name__": "m", "n": str(n)} for n in range(3000)])
        for step in range(100):
            db.append_batch(refs, np.full(3000, step * 1000).astype("datetime64[ms]"), np.arange(3000.0) + step)
        for priority in ("alert", "query", "batch"):
            answer = db.query("sum(avg_over_time(m[1m]))", time=99, priority=priority)
            assert answer.height == 1
        assert db.query_range("m", 0, 99, "10s").height == 30_000
        assert len(db.raw("m", 0, 100)) == 3000
        assert db.series("m").height == 3000
        db.reencode(50)
        if path is not None:
            db.checkpoint()
    if path is not None:
        with mdb.Database(path) as again:
            assert again.series("m").height == 3000


@pytest.mark.parametrize("directory", [False, True])
def test_a_child_works_with_a_database_of_its_own(tmp_path, directory):
    # The parent has its threads by now.
    everything(tmp_path / "parent" if directory else None)
    in_child(lambda: everything(tmp_path / "child" if directory else None))


def test_a_grandchild_and_a_child_of_a_thread_work_too():
    everything(None)
    in_child(lambda: in_child(lambda: everything(None)))
    thread = threading.Thread(target=in_child, args=(lambda: everything(None),))
    thread.start()
    thread.join()


def use(db: mdb.Database, work: Callable[[mdb.Database], object]) -> None:
    with pytest.raises(mdb.ForkedError, match="spawn"):
        work(db)


def test_a_parents_database_is_refused_in_a_child(tmp_path):
    for db in (mdb.Database(), mdb.Database(tmp_path / "db")):
        db.append({"__name__": "m"}, 1, 1)
        db.start("10ms")

        def child(db: mdb.Database = db) -> None:
            use(db, lambda db: db.append({"__name__": "m"}, 2, 2))
            use(db, lambda db: db.query("m"))
            use(db, lambda db: db.stats())
            db.stop()
            db.close()

        in_child(child)
        in_child(lambda db=db: in_child(lambda: use(db, lambda db: db.sync())))
        # The parent goes on.
        db.append({"__name__": "m"}, 3, 3)
        assert len(db.raw("m", 0, 10)[0].timestamps) == 2
        db.close()


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_child_never_writes_its_parents_directory(tmp_path):
    db = mdb.Database(tmp_path / "db", durability="interval", sync_interval="1h")
    db.append({"__name__": "m"}, 1, 1)
    native, before = db._native, files(tmp_path / "db")

    def child() -> None:
        # Even by what is behind the refusal.
        for work in (
            native.sync,
            native.checkpoint,
            native.close,
            lambda: native.ingest(b"m 1\n", "prometheus", 5, {}, False),
        ):
            with contextlib.suppress(mdb.MetricsDBError):
                work()
        assert files(tmp_path / "db") == before

    in_child(child)
    assert files(tmp_path / "db") == before
    with pytest.raises(mdb.DatabaseLocked):
        mdb.Database(tmp_path / "db")
    db.append({"__name__": "m"}, 2, 2)
    db.close()
    with mdb.Database(tmp_path / "db") as again:
        assert again.recovery is not None
        assert again.recovery.whole
        assert again.raw("m", 0, 10)[0].timestamps.tolist() == [1000, 2000]


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    ready, go = os.pipe(), os.pipe()

    def parent() -> None:
        db = mdb.Database(tmp_path / "db")
        db.append({"__name__": "m"}, 1, 1)
        if os.fork() == 0:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        parent()
    os.waitpid(pid, 0)
    try:
        with mdb.Database(tmp_path / "db") as db:
            assert db.series("m").height == 1
    finally:
        os.write(go[1], b"x")


def worker(n: int) -> float:
    with mdb.Database() as db:
        db.append({"__name__": "m"}, 1, n)
        return float(db.query("m + 1", time=1)["value"][0])


def test_workers_of_multiprocessing_have_databases_of_their_own():
    everything(None)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(worker, range(4)).get(120) == [1, 2, 3, 4]


def test_a_child_that_ends_as_python_does_leaves_its_parents_journal_alone(tmp_path):
    db = mdb.Database(tmp_path / "db", durability="interval", sync_interval="1h")
    db.append({"__name__": "m"}, 1, 1)
    before = files(tmp_path / "db")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=sys.exit, args=(0,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert files(tmp_path / "db") == before
    db.close()
