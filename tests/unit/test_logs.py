"""Lines of the log, of the terminal and of answers: what others send cannot make one look like two, or like another."""

from __future__ import annotations

import asyncio
import io
import logging
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import metricsdb as mdb
from metricsdb import cli
from metricsdb.adapters.listen import Statsd
from metricsdb.adapters.scrape import Scraper, ScrapeResult, Target
from metricsdb.config import StatsdListener
from metricsdb.logs import OneLine, Seldom, printable
from metricsdb.server import create_app
from metricsdb.testing import FakeClock

T0 = 1_700_000_000
EVIL = "x\n2026-01-01 00:00:00,000 INFO metricsdb: all is well\r\x1b[2K\x1b]0;title\x07\u202egnp.exe\x85\u2028"


def lines_of(log: str, message: str, *arguments: object, exc_info=None) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    handler.emit(logging.LogRecord(log, logging.INFO, "", 0, message, arguments, exc_info))
    return out.getvalue().removesuffix("\n").split("\n")


def test_a_record_is_one_line():
    [line] = lines_of("x", "from %s", EVIL)
    assert line.startswith("INFO x: from x\\n2026-01-01")
    assert line.isprintable()


@given(st.text())
def test_whatever_a_message_holds_is_one_printable_line(text):
    [line] = lines_of("x", "%s", text)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line)
    assert len(line.splitlines()) <= 1 or text == ""
    line.encode()


def test_a_traceback_looks_like_no_record():
    try:
        raise ValueError(EVIL)
    except ValueError:
        first, *rest = lines_of("x", "failed", exc_info=sys.exc_info())
    assert first == "INFO x: failed"
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_what_others_cause_is_said_seldom():
    seldom = Seldom(60)
    assert [seldom.due(now) for now in (5, 6, 64, 65, 66, 200)] == [True, False, False, True, False, True]


def test_the_terminal_is_not_told_what_to_do_by_a_target(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(cli, "out", Console(file=out, width=400, force_terminal=False))
    target = Target("http://user:hunter2@host/metrics", {}, 1000, 1.0)
    cli._show([ScrapeResult(target, 0, 0.1, 1, 1, [("malformed", 1, EVIL)], f"[bold]{EVIL}[/bold]")])
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "[bold]x\\n2026" in shown
    assert "hunter2" not in shown


def test_a_password_in_a_url_stays_in_the_request():
    target = cli._target("http://user:hunter2@host:9100/metrics", 1000, 1.0)
    assert target.labels["instance"] == "host:9100"
    assert target.shown == "http://host:9100/metrics"
    assert target.url == "http://user:hunter2@host:9100/metrics"


def test_lines_about_targets_and_senders_are_printable(caplog):
    db, clock = mdb.Database(), FakeClock(T0 * 1000)

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(500, extensions={"reason_phrase": EVIL.encode("latin-1", "replace")})

    async def story() -> None:
        scraper = Scraper(db._native, clock, transport=httpx.MockTransport(answer))
        task = asyncio.create_task(scraper.run([Target("http://u:hunter2@h/metrics", {"job": "a"}, 1000, 0.5)]))
        await clock.advance(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await scraper.close()

    asyncio.run(story())
    statsd = Statsd(db._native, clock, StatsdListener(labels={"": "b"}))
    statsd.push(EVIL.encode())
    statsd.flush()
    assert "server returned HTTP status 500" in caplog.text
    assert "StatsD were refused" in caplog.text
    assert "hunter2" not in caplog.text
    for record in caplog.records:
        if record.name.startswith("metricsdb"):
            assert record.getMessage().isprintable(), record.getMessage()


_OPENED: list[object] = []


@pytest.fixture(scope="module")
def opened_files() -> list[object]:
    """What this process opens from now on; a hook of audits stays to the end."""
    sys.addaudithook(lambda event, given: _OPENED.append(given[0]) if event == "open" else None)
    return _OPENED


@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/label/..%2f..%2fetc%2fpasswd/values",
        "/api/v1/label/%00/values",
        "/api/v1/label/a%0ab/values",
        "/api/v1/status/active_queries/..%2f1",
        "/federate?match[]=../../etc/passwd",
        '/api/v1/query?query=x{a%3D"../../../../etc/passwd%0a"}',
    ],
)
def test_no_path_or_parameter_opens_a_file(path, opened_files):
    opened = opened_files

    async def story() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            await client.get("/-/ready")
            opened.clear()
            return await client.get(path)

    app = create_app(mdb.Database())
    answer = asyncio.run(story())
    found = list(opened)
    assert answer.status_code in (200, 400, 404, 405)
    assert "root:" not in answer.text
    assert found == []


def test_no_label_becomes_a_file_name(tmp_path):
    home = tmp_path / "data"
    names = ["../../escape", "/tmp/escape", "a\nb", "a\x00b", "..", "x" * 300, "C:\\x", "evil.tmp"]
    with mdb.Database(home) as db:
        for name in names:
            db.append({"__name__": name, "label": name, "../x": name}, [T0], [1.0])
        db.checkpoint()
        db.append({"__name__": "after"}, [T0], [1.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    stored = [path.name for path in home.rglob("*")]
    assert stored
    assert not [name for name in stored if "escape" in name or "evil" in name or "x" * 20 in name or not name.isascii()]
    with mdb.Database(home) as db:
        assert set(db.label_values("label")) == set(names)


def test_printable_leaves_text_as_it_is():
    assert printable("häßlich 指标 🙂 \\n") == "häßlich 指标 🙂 \\n"
