"""Debian's amtool on our silences: what it adds, finds, changes and ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.peers.processes import free_port, need, running
from tests.server.serving import run, served

pytestmark = pytest.mark.peers

CONFIG = """
route: {receiver: nobody}
receivers: [{name: nobody}]
"""


class Amtool:
    def __init__(self, port: int, folder: Path) -> None:
        self._command = [need("amtool"), f"--alertmanager.url=http://127.0.0.1:{port}"]
        self._home = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "USER": "me"}

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False, env=self._home, timeout=60
        )
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        return done.stderr if fails else done.stdout

    def found(self, *arguments: str) -> dict[str, dict]:
        """The silences that a query finds, by their ids."""
        return {one["id"]: one for one in json.loads(self("silence", "query", "-o", "json", *arguments))}


def story(amtool: Amtool) -> None:
    add = ("silence", "add", "--author=me", "--comment=it is moved")
    first = amtool(*add, "--duration=2h", "HostDown", 'instance=~"db-.*"', "env!=dev").strip()
    second = amtool(*add, "--start=2999-01-01T00:00:00+00:00", "--end=2999-01-02T00:00:00+00:00", "team=web").strip()
    known = amtool.found()
    assert known.keys() == {first, second}
    matchers = {(m["name"], m["value"], m["isRegex"], m["isEqual"]) for m in known[first]["matchers"]}
    wanted = {("alertname", "HostDown", False, True), ("instance", "db-.*", True, True), ("env", "dev", False, False)}
    assert matchers == wanted
    assert (known[first]["createdBy"], known[first]["comment"]) == ("me", "it is moved")
    assert [known[one]["status"]["state"] for one in (first, second)] == ["active", "pending"]
    # Its own filters, by matchers, by author, and by when they end.
    assert amtool.found("HostDown").keys() == {first}
    assert amtool.found("team=web").keys() == {second}
    assert amtool.found("--created-by=else") == {}
    assert amtool.found("--within=3h").keys() == {first}
    assert amtool("silence", "query", "-q", "HostDown").split() == [first]
    for shape in ("simple", "extended"):
        assert "it is moved" in amtool("silence", "query", "-o", shape)
    amtool("silence", "update", "--duration=4h", "--comment=longer", first)
    longer = amtool.found("HostDown")
    assert {one: said["comment"] for one, said in longer.items()} == {first: "longer"}
    assert longer[first]["startsAt"] == known[first]["startsAt"]
    assert longer[first]["endsAt"] > known[first]["endsAt"]
    amtool("silence", "expire", first)
    assert amtool.found().keys() == {second}
    assert first in amtool.found("--expired")
    amtool(*add, "a=~.*", fails=True)
    amtool("silence", "expire", "00000000-0000-0000-0000-000000000000", fails=True)
    amtool("silence", "expire", second)
    assert amtool.found() == {}


def test_the_story_is_that_of_an_alertmanager(tmp_path):
    file, port = tmp_path / "am.yml", free_port()
    file.write_text(CONFIG)
    command = [need("prometheus-alertmanager"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
               "--cluster.listen-address=", f"--storage.path={tmp_path / 'data'}"]  # fmt: skip
    with running(command, f"http://127.0.0.1:{port}/-/ready", tmp_path / "log"):
        story(Amtool(port, tmp_path))


def test_amtool_adds_queries_changes_and_expires_silences(tmp_path):
    async def served_story() -> None:
        async with served() as on:
            on.db.alerts.route(CONFIG)
            await asyncio.to_thread(story, Amtool(on.server.port, tmp_path))

    run(served_story())


def test_amtool_moves_silences_from_one_database_to_another(tmp_path):
    async def served_story() -> None:
        async with served() as one, served() as other:
            for on in (one, other):
                on.db.alerts.route(CONFIG)
            here, there = (Amtool(on.server.port, tmp_path) for on in (one, other))
            await asyncio.to_thread(here, "silence", "add", "--author=me", "--comment=c", "a=b")
            text = await asyncio.to_thread(here, "silence", "query", "-o", "json")
            (tmp_path / "all.json").write_text(text)
            await asyncio.to_thread(there, "silence", "import", str(tmp_path / "all.json"))
            shown = [json.loads(await asyncio.to_thread(on, "silence", "query", "-o", "json")) for on in (here, there)]
            assert [(s["matchers"], s["endsAt"]) for s in shown[0]] == [(s["matchers"], s["endsAt"]) for s in shown[1]]

    run(served_story())


def test_amtool_shows_the_alerts_that_fire(tmp_path):
    async def served_story() -> None:
        async with served() as on:
            on.db.alerts.route(CONFIG)
            on.db.alerts.install('ALERT Always WHEN vector(1) > 0 LABELS { team="web" }')
            on.db.tick()
            amtool = Amtool(on.server.port, tmp_path)
            [alert] = json.loads(await asyncio.to_thread(amtool, "alert", "query", "-o", "json", "team=web"))
            assert alert["labels"] == {"alertname": "Always", "team": "web"}
            await asyncio.to_thread(amtool, "silence", "add", "--author=me", "--comment=c", "Always")
            assert json.loads(await asyncio.to_thread(amtool, "alert", "query", "-o", "json")) == []
            [hidden] = json.loads(await asyncio.to_thread(amtool, "alert", "query", "--silenced", "-o", "json"))
            assert hidden["status"]["state"] == "suppressed"

    run(served_story())
