"""What an alert generator owes its Alertmanager, along timelines, with Debian's Alertmanager as the receiver.

Our clock goes from some minutes ago to about now, as fast as it is called: what fires ends four minutes after it was
sent last, so it is active there, and what is over has an end in the past. Nothing hangs on how busy the machine is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

import metricsdb as mdb
from metricsdb.alerts.pipeline import Pipeline
from metricsdb.alerts.templates.gotime import GoTime
from metricsdb.testing import FakeClock
from tests.peers.processes import free_port, need, running, wait_for

pytestmark = pytest.mark.peers

STEP = 5_000
RESEND, VALID = 60_000, 240_000
# Name -> clauses, and whether each instance is above its bound at each evaluation.
TIMELINES: dict[str, tuple[str, dict[str, str]]] = {
    "AtOnce": ("", {"a": "..XXX...XX.................."}),
    "ZeroFor": ("FOR 0s", {"a": "...XXXX....................."}),
    "SmallFor": ("FOR 1s", {"a": "..XXXX.....X.XX............."}),
    "After": ("FOR 10s", {"a": "..XX...XXXXX..............XX"}),
    "Long": ("FOR 5s", {"a": "..XXX..........X..X........."}),
    "Kept": ("KEEP FIRING FOR 10s", {"a": "..XXX..........X..X........."}),
    "Ordered": ("", {"b": ".XXXXXXXX...................", "a": "..XXXXXXX...................",
                     "c": "......................XXXX..", "d": "......................XXXX.."}),
    "Restarted": ("FOR 20s", {"a": "............XXXXXXXX........", "b": "......XXXXXXXXXXXXXX........"}),
}  # fmt: skip
COUNT = 28
RESTARTS = (9, 15)
CONFIG = """
route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}/hook"}}]}}]
"""
Key = tuple[str, str]


@dataclass
class Model:
    """One instance of one alert, as Prometheus has it; ms."""

    hold: int
    keep: int
    pending: int | None = None
    firing: int | None = None
    gone: int | None = None

    def step(self, now: int, above: bool) -> str | None:
        """What there is to say: `firing`, `resolved`, or nothing."""
        if above:
            self.gone = None
            self.pending = now if self.pending is None else self.pending
            if self.firing is None and now - self.pending >= self.hold:
                self.firing = now
                return "firing"
            return None
        fired = self.firing is not None
        if fired and self.keep:
            self.gone = now if self.gone is None else self.gone
            if now - self.gone < self.keep:
                return None
        self.pending = self.firing = self.gone = None
        return "resolved" if fired else None


def models() -> dict[Key, Model]:
    def seconds(clauses: str, word: str) -> int:
        at = clauses.find(word)
        return 0 if at < 0 else int(clauses[at + len(word) :].split("s")[0]) * 1000

    found = {}
    for name, (clauses, instances) in TIMELINES.items():
        keep = seconds(clauses, "KEEP FIRING FOR ")
        hold = 0 if keep else seconds(clauses, "FOR ")
        found.update({(name, instance): Model(hold, keep) for instance in sorted(instances)})
    return found


class Between:
    """Hands on what we post to the Alertmanager and notes it; takes what that tells its receiver."""

    def __init__(self) -> None:
        self.target = ""
        self.posts: list[list[dict]] = []
        # Whom people were told of: the alert, its status, its start.
        self.told: set[tuple[Key, str, str]] = set()
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = 200
                if self.path == "/hook":
                    for alert in json.loads(body)["alerts"]:
                        key = (alert["labels"]["alertname"], alert["labels"]["instance"])
                        here.told.add((key, alert["status"], alert["startsAt"]))
                else:
                    status = httpx.post(here.target + self.path, content=body, headers=dict(self.headers)).status_code
                    here.posts.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self) -> list[dict]:
        """The alerts that were posted since the last call, in their order."""
        taken, self.posts = self.posts, []
        return [alert for post in taken for alert in post]


def stamp(ms: int) -> str:
    return GoTime(ms).format("2006-01-02T15:04:05Z")


def key(alert: dict) -> Key:
    return alert["labels"]["alertname"], alert["labels"]["instance"]


def active(url: str) -> dict[Key, tuple[str, ...]]:
    """What Alertmanager takes for active: since when, and until when if nobody says more."""
    found = httpx.get(f"{url}/api/v2/alerts").json()
    for alert in found:
        assert alert["annotations"] == {"text": f"{alert['labels']['instance']} is at 1"}
        assert alert["generatorURL"].startswith("http://ext/graph?g0.expr=level")
        assert alert["labels"].keys() == {"alertname", "instance", "dc"}
    times = ("startsAt", "endsAt")
    return {key(alert): tuple(alert[name].replace(".000Z", "Z") for name in times) for alert in found}


def opened(folder: Path, clock: FakeClock, url: str) -> tuple[mdb.Database, Pipeline]:
    db = mdb.Database(folder, clock=clock, durability="none")
    return db, db.alerts.route(alertmanagers=[url], external_url="http://ext", external_labels={"dc": "x"})


def statements() -> str:
    text = 'ANNOTATIONS {text="{{ $labels.instance }} is at {{ $value }}"}'
    alerts = (
        f'ALERT {name} BY (instance) WHEN level{{of="{name}"}} > 0 {more} {text}'
        for name, (more, _) in TIMELINES.items()
    )
    return "GROUP g EVERY 5s {\n" + "\n".join(alerts) + "\n}"


def fill(db: mdb.Database, start: int) -> None:
    for name, (_, instances) in TIMELINES.items():
        for instance, line in instances.items():
            times = [(start + i * STEP) / 1000 for i in range(COUNT)]
            values = [float(sign == "X") for sign in line]
            db.append({"__name__": "level", "of": name, "instance": instance}, times, values)


@pytest.fixture
def between() -> Iterator[Between]:
    made = Between()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_alertmanager_hears_what_it_must_and_when(tmp_path, between):
    file, port = tmp_path / "am.yml", free_port()
    file.write_text(CONFIG.format(url=between.url))
    between.target = f"http://127.0.0.1:{port}"
    command = [need("prometheus-alertmanager"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
               "--cluster.listen-address=", f"--storage.path={tmp_path / 'data'}"]  # fmt: skip
    known = models()
    sent: dict[Key, int] = {}
    resent = 0
    with running(command, f"{between.target}/-/ready", tmp_path / "log"):
        start = int(time.time() * 1000) // STEP * STEP - COUNT * STEP
        clock = FakeClock(start)
        db, _ = opened(tmp_path / "db", clock, between.url)
        fill(db, start)
        db.alerts.install(statements())
        for step in range(COUNT):
            now = start + step * STEP
            clock.move((now - clock.now_ms()) / 1000)
            if step in RESTARTS:
                db.close()
                db, _ = opened(tmp_path / "db", clock, between.url)
            since = {one: model.firing for one, model in known.items()}
            said = {
                one: word
                for one, model in known.items()
                if (word := model.step(now, TIMELINES[one[0]][1][one[1]][step] == "X"))
            }
            db.tick()
            while db.alerts.send():
                pass
            posts = between.take()
            # What changes is said at its evaluation, new ones in the order of the rules and of their instances.
            posted = {key(post): post for post in posts}
            assert len(posted) == len(posts)
            assert said.keys() <= posted.keys(), step
            fresh = [one for one in posted if said.get(one) == "firing"]
            assert fresh == [one for one in known if said.get(one) == "firing"], step
            for one, post in posted.items():
                firing = known[one].firing
                if firing is None:
                    assert post["endsAt"] <= stamp(now)
                else:
                    assert (post["startsAt"], post["endsAt"]) == (stamp(firing), stamp(now + VALID))
                if one not in said:
                    # Said again: not before its time, unless we had to begin anew.
                    assert now - sent[one] >= RESEND or any(sent[one] < start + at * STEP <= now for at in RESTARTS)
                    resent += 1
                sent[one] = now
            # What fires is never without a word for longer than a resend and an evaluation.
            fires = {one: model.firing for one, model in known.items() if model.firing is not None}
            assert all(now - sent[one] < RESEND + STEP for one in fires), step
            wanted = {one: (stamp(at), stamp(sent[one] + VALID)) for one, at in fires.items()}
            assert active(between.target) == wanted, step
            for one, word in said.items():
                begun = stamp(since[one] if word == "resolved" else known[one].firing)
                wait_for(f"{one} {word}", lambda heard=(one, word, begun): heard in between.told)
        db.close()
    assert resent >= 3
    # Each episode was told to people once by its beginning and once by its end, and nothing else.
    told = [one for (one, status, _) in between.told if status == "firing"]
    assert {one: told.count(one) for one in known} == {
        ("AtOnce", "a"): 2, ("ZeroFor", "a"): 1, ("SmallFor", "a"): 2, ("After", "a"): 1, ("Long", "a"): 1,
        ("Kept", "a"): 2, ("Ordered", "a"): 1, ("Ordered", "b"): 1, ("Ordered", "c"): 1, ("Ordered", "d"): 1,
        ("Restarted", "a"): 1, ("Restarted", "b"): 1,
    }  # fmt: skip
