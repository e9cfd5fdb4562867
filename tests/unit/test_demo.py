"""The demo: what it replays is the capture, and each of its questions has an answer."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

import metricsdb as mdb
from metricsdb import demo
from metricsdb.testing import FakeClock


@pytest.fixture(scope="module")
def capture() -> demo.Capture:
    return demo.read_capture()[0]


def test_the_capture_is_whole(capture):
    assert capture.values.shape == (600, 586)
    assert np.isfinite(capture.values).all()
    assert len({tuple(sorted(labels.items())) for labels in capture.labels}) == 586


def test_a_batch_is_what_one_would_copy_row_by_row(capture):
    fleet = demo.Fleet(capture, instances=5, steps=20, start_ms=1_000_000)
    times, values = fleet.batch(first=3, count=2, step=10, steps=4)
    assert times.shape == values.shape == (2, 586, 4)
    begin = 4 * 37 % (600 - 19 * demo.STRIDE)
    for step in range(4):
        row = capture.values[begin + (10 + step) * demo.STRIDE]
        assert (values[1, :, step] == row).all()
        assert (times[1, :, step] == 1_000_000 + 4 * 7_919 % demo.INTERVAL_MS + (10 + step) * demo.INTERVAL_MS).all()


def test_every_question_has_an_answer(capture):
    fleet = demo.Fleet(capture, instances=12, steps=72, start_ms=0)
    with mdb.Database(clock=FakeClock(fleet.steps * demo.INTERVAL_MS)) as db:
        blocks = list(fleet.register(db))
        demo.stream_steps(db, fleet, blocks, lambda count: None)
        assert dict(db.stats().iter_rows())["samples"] == fleet.samples
        for question, expr in demo.QUESTIONS:
            assert len(db.query(expr)) > 0, question


def test_the_size_follows_the_memory():
    assert demo.default_series(72, 64 << 30) == demo.SERIES_DEFAULT
    assert 0 < demo.default_series(72, 1 << 28) < demo.SERIES_DEFAULT


def test_the_demo_runs_from_end_to_end():
    out = StringIO()
    demo.run(2_000, 2.0, Console(file=out, width=120))
    text = out.getvalue()
    for question, _ in [*demo.QUESTIONS, *demo.LIVE_QUESTIONS]:
        assert question in text
    assert "bytes a sample" in text
