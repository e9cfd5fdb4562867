"""Our router beside Debian's Alertmanager: the same configuration, the same alerts."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from metricsdb import Database
from metricsdb.alerts import PostableAlert
from metricsdb.alerts.amconfig import load
from metricsdb.alerts.export import portable
from metricsdb.alerts.notify import AlertmanagerFeed, Delivery, HttpChannel, alertmanager_body, webhook_body
from metricsdb.alerts.outbox import Outbox
from metricsdb.alerts.routing import Router
from metricsdb.clock import SystemClock
from metricsdb.testing import FakeClock
from tests.peers.processes import free_port, need, running
from tests.unit.alerts.amfiles import config

pytestmark = pytest.mark.peers

VALUES = {
    "alertname": ["HostDown", "DiskFull", "Slow"], "team": ["db", "web", None], "severity": ["page", "ticket", "info", None],
    "job": ["postgres", "node", None], "env": ["prod", "dev", None], "zone": ["a", "c", None],
    "cluster": ["x", "y", None], "instance": ["1", "2"], "night": ["1", None],
}  # fmt: skip


def random_labels(chance: random.Random) -> dict[str, str]:
    chosen = {name: chance.choice(values) for name, values in VALUES.items()}
    return {name: value for name, value in chosen.items() if value is not None}


def test_our_export_is_accepted(tmp_path):
    file = tmp_path / "am.yml"
    file.write_text(load(config()).to_yaml())
    done = subprocess.run([need("amtool"), "check-config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load(file.read_text()) == load(config())


def test_statements_export_to_a_configuration_that_is_accepted(tmp_path):
    from tests.unit.alerts.statements import groups

    made = portable(groups()).alertmanager
    base = load(
        "route: {receiver: chat}\nreceivers: [{name: chat}, {name: mail}, {name: pager}]\n"
        "time_intervals: [{name: office, time_intervals: [{months: ['1']}]},"
        " {name: night, time_intervals: [{months: ['2']}]}]"
    )
    file = tmp_path / "am.yml"
    file.write_text(base.with_rules(made).to_yaml())
    done = subprocess.run([need("amtool"), "check-config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_route_to_is_followed_by_an_alertmanager_with_the_exported_routes(tmp_path):
    """What is posted to an Alertmanager says nothing of `ROUTE TO`: its own routes find the alert by its labels."""
    base = "route: {receiver: all}\nreceivers: [{name: all}, {name: chat}, {name: mail}, {name: pager}]"
    told = []
    with Database(clock=FakeClock(1_700_000_040_000)) as db:
        db.append({"__name__": "x", "i": "a"}, [1_700_000_039], [9.0])
        db.alerts.deliver = lambda alerts, _now_ms: told.extend(alerts)
        db.alerts.install("""
          ALERT Plain WHEN x > 5
          ALERT One WHEN x > 5 LABELS { team="db" } ROUTE TO "chat"
          ALERT Two WHEN x > 5 ROUTE TO "chat", "mail" GROUP BY (i) REPEAT 4h
          ALERT Deep ROUTE TO "mail" LEVEL low WHEN x > 5 LEVEL high WHEN x > 50 ROUTE TO "pager"
          ALERT High ROUTE TO "mail" LEVEL low WHEN x > 5 LEVEL high WHEN x > 7 ROUTE TO "pager"
          GROUP g LABELS { region="eu" } { ALERT Inside WHEN x > 5 ROUTE TO "pager" }
        """)
        db.tick()
        made = portable(db.alerts.export()).alertmanager
    file = tmp_path / "am.yml"
    file.write_text(load(base).with_rules(made).to_yaml())
    found = {}
    for alert, hint in told:
        pairs = [f"{name}={value}" for name, value in alert.labels.items()]
        done = subprocess.run(
            [need("amtool"), "config", "routes", "test", f"--config.file={file}", *pairs],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[alert.labels["alertname"]] = done.stdout.strip().split(",")
        assert found[alert.labels["alertname"]] == (["all"] if hint is None else list(hint.receivers)), alert.labels
    wanted = {"Plain": ["all"], "One": ["chat"], "Two": ["chat", "mail"], "Deep": ["mail"], "High": ["pager"]}
    assert found == wanted | {"Inside": ["pager"]}


def test_alerts_take_the_same_routes(tmp_path):
    file = tmp_path / "am.yml"
    file.write_text(config())
    tree = load(config()).route
    chance = random.Random(5)
    for _ in range(150):
        labels = random_labels(chance)
        pairs = [f"{name}={value}" for name, value in labels.items()]
        done = subprocess.run(
            [need("amtool"), "config", "routes", "test", f"--config.file={file}", *pairs],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip().split(",") == [route.receiver for route in tree.match(labels)], labels


class Hook:
    """Takes webhooks and notes when what came."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, dict]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.seen.append((time.time(), self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


# When the peer is ended; ms after the start.
END = 12_600
# Timers that are late by less (s) change no flush of the stories below.
LATE_MAX = 0.3


def story(start: int) -> list[tuple[int, list[PostableAlert]]]:
    """(milliseconds from the start, what is posted then).

    Groups are flushed a second after their first alert (at once where that began longer ago), and each two seconds from
    then on. Nothing that a group takes is posted, nothing ends, and the peer is not ended within 300 ms of its flush:
    which flush takes it must not hang on how busy the machine is.
    """

    def alert(ends: int | None = None, **labels: str) -> PostableAlert:
        return PostableAlert(
            labels, {"summary": labels["alertname"]}, start, ends and start + ends, "http://g/x?a=1&b=2"
        )

    disk = {"alertname": "DiskFull", "severity": "page", "job": "node", "instance": "1"}
    slow = {
        "alertname": "Slow",
        "team": "db",
        "severity": "ticket",
        "job": "postgres",
        "cluster": "x",
        "zone": "c",
        "env": "prod",
    }
    return [
        (0, [alert(**disk), alert(**slow), alert(alertname="Slow", severity="info", instance="1")]),
        (500, [alert(**disk | {"instance": "2"})]),
        (2_300, [alert(alertname="Slow", severity="info", instance="2"), alert(alertname="Night", night="1")]),
        (4_300, [alert(4_250, **disk), alert(4_250, **slow)]),
        (6_300, [alert(alertname="HostDown", instance="2")]),
        (8_200, [alert(8_150, **disk | {"instance": "2"}), alert(8_150, alertname="Slow", severity="info", instance="1")]),
    ]  # fmt: skip


def plainly(path: str, payload: dict) -> tuple:
    """What must be the same, without times of delivery and names of hosts."""
    payload = json.loads(json.dumps(payload))
    alerts = []
    for alert in payload["alerts"]:
        alerts.append((alert["status"], sorted(alert["labels"].items()), sorted(alert["annotations"].items()),
                       alert["startsAt"], alert["endsAt"], alert["generatorURL"], alert["fingerprint"]))  # fmt: skip
    names = ("receiver", "status", "groupKey", "version", "truncatedAlerts")
    rest = [payload[name] for name in names] + [sorted(payload[n].items()) for n in ("groupLabels", "commonLabels", "commonAnnotations")]  # fmt: skip
    return path, rest, alerts


def random_story(start: int, seed: int) -> list[tuple[int, list[PostableAlert]]]:
    """Alerts of random labels, sent again, and some of them resolved: always a second away from every flush."""
    chance, events = random.Random(seed), []
    known = [random_labels(chance) for _ in range(12)]
    for at in range(200, 10_000, 2_000):
        alerts = [
            PostableAlert(labels, {}, start + at - 40, start + at - 20 if chance.random() < 0.3 else None)
            for labels in chance.sample(known, chance.randrange(2, 8))
        ]
        events.append((at, alerts))
    return events


class Pace:
    """How late this machine wakes who sleeps, at worst (s): whoever measures another program's timers has to know."""

    def __init__(self) -> None:
        self.late = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Pace:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + 0.02
            self._over.wait(0.02)
            self.note(time.monotonic() - due)

    def note(self, late: float) -> None:
        self.late = max(self.late, late)


def told_by_alertmanager(folder: Path, hook: Hook, seed: int | None) -> tuple[int, list[tuple[int, list]], float]:
    """Runs a story through Debian's Alertmanager: its start (ms), when what was posted, and how late it all was (s)."""
    file, port = folder / "am.yml", free_port()
    file.write_text(config(hook.url))
    command = [need("prometheus-alertmanager"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
               "--cluster.listen-address=", f"--storage.path={folder / 'data'}", "--web.external-url=http://am"]  # fmt: skip
    posted = []
    with running(command, f"http://127.0.0.1:{port}/-/ready", folder / "log"), Pace() as pace:
        start = time.time()
        start_ms = int(start * 1000)
        for offset, alerts in story(start_ms) if seed is None else random_story(start_ms, seed):
            time.sleep(max(0.0, start + offset / 1000 - time.time()))
            body = [alertmanager_body(alert) for alert in alerts]
            posted.append((int(time.time() * 1000), alerts))
            httpx.post(f"http://127.0.0.1:{port}/api/v2/alerts", json=body, timeout=60).raise_for_status()
            pace.note(time.time() - start - offset / 1000)
        time.sleep(max(0.0, start + END / 1000 - time.time()))
        pace.note(time.time() - start - END / 1000)
    hook.server.shutdown()
    hook.server.server_close()
    return start_ms, posted, pace.late


def told_by_us(url: str, start_ms: int, posted: list[tuple[int, list]]) -> list[tuple[float, tuple]]:
    """What our router says of the same, which hears of alerts when the peer really did."""
    router, ours, waiting = Router(load(config(url))), [], list(posted)
    for now in range(start_ms, start_ms + END, 100):
        while waiting and waiting[0][0] <= now:
            at, alerts = waiting.pop(0)
            router.receive(alerts, at)
        for notification in router.tick(now):
            path = notification.integration.raw["url"].removeprefix(url)
            body = json.loads(
                webhook_body(notification, "http://am", notification.integration.raw.get("max_alerts", 0))
            )
            ours.append(((now - start_ms) / 1000, plainly(path, body)))
    return ours


def by_path(rows: list[tuple[float, tuple]]) -> dict[tuple, list]:
    found: dict[tuple, list] = {}
    for at, row in rows:
        found.setdefault((row[0], row[1][2]), []).append((round(at, 1), row))
    return found


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_notifications_are_those_of_alertmanager(tmp_path, seed):
    late = []
    for attempt in range(3):
        hook, folder = Hook(), tmp_path / str(attempt)
        folder.mkdir()
        start_ms, posted, was_late = told_by_alertmanager(folder, hook, seed)
        mine = by_path(told_by_us(hook.url, start_ms, posted))
        peers = by_path([(at - start_ms / 1000, plainly(path, payload)) for at, path, payload in hook.seen])
        late.append(was_late)
        # Whether it came to the same with timers that were late tells nothing of either; when they were in time, all.
        if was_late < LATE_MAX or not differences(mine, peers):
            break
    else:
        pytest.skip(f"this machine is too busy for another program's timers: late by {late} s, not under {LATE_MAX}")
    assert peers
    assert differences(mine, peers) == []


def differences(mine: dict[tuple, list], peers: dict[tuple, list]) -> list[tuple]:
    """What one said and the other did not, or at another flush (half of the group interval apart)."""
    found = [(key, "one alone") for key in mine.keys() ^ peers.keys()]
    for key in mine.keys() & peers.keys():
        told, heard = ([row for _, row in rows[key]] for rows in (mine, peers))
        apart = [abs(a - b) for (a, _), (b, _) in zip(mine[key], peers[key], strict=False)]
        if told != heard or max(apart) >= 1.0:
            found.append((key, told, heard, apart))
    return found


def test_an_alertmanager_takes_what_we_feed_it(tmp_path):
    file, port = tmp_path / "am.yml", free_port()
    file.write_text(config())
    url = f"http://127.0.0.1:{port}"
    command = [need("prometheus-alertmanager"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
               "--cluster.listen-address=", f"--storage.path={tmp_path / 'data'}"]  # fmt: skip
    now = int(time.time() * 1000)
    firing = PostableAlert({"alertname": "Fed", "i": "1"}, {"s": "x"}, now - 60_000, None, "http://g")
    over = PostableAlert({"alertname": "Fed", "i": "2"}, {}, now - 60_000, now - 1_000)
    feed, outbox = AlertmanagerFeed(), Outbox(tmp_path / "box")
    delivery = Delivery(outbox, {"alertmanager": HttpChannel(url + "/api/v2/alerts")}, SystemClock())
    with running(command, url + "/-/ready", tmp_path / "log"):
        outbox.put(feed.messages([firing, over], now))
        assert asyncio.run(delivery.deliver()).sent == 1
        there = {a["labels"]["i"]: a for a in httpx.get(url + "/api/v2/alerts").json()}
        assert there.keys() == {"1"}
        assert there["1"]["fingerprint"] == firing.fingerprint
        assert there["1"]["annotations"] == {"s": "x"}
        done = PostableAlert(firing.labels, firing.annotations, now - 60_000, now)
        outbox.put(feed.messages([done], now + 1_000))
        assert asyncio.run(delivery.deliver()).sent == 1
        assert httpx.get(url + "/api/v2/alerts").json() == []
    outbox.close()
