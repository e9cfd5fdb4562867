"""Delivery: what is posted where, what is tried again, what is never asked, and that secrets stay secret."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from metricsdb.alerts import PostableAlert, notify
from metricsdb.alerts.amconfig import Integration, load
from metricsdb.alerts.notify import (
    AlertmanagerFeed,
    AppriseChannel,
    Delivery,
    HttpChannel,
    channels,
    secret,
    webhook_body,
)
from metricsdb.alerts.outbox import Message, Outbox
from metricsdb.alerts.policy import Policy, resolve, shown
from metricsdb.alerts.routing import Notification
from metricsdb.errors import ConfigError, DeliveryError
from metricsdb.testing import FakeClock
from metricsdb.web import Secret

NOW = 1_700_000_000_000
MESSAGE = Message("t", "key-1", '{"a":1}', NOW)


def notification(count: int = 1, kind: str = "webhook", **raw) -> Notification:
    alerts = tuple(PostableAlert({"alertname": "A", "i": str(i)}, {"s": "x"}, NOW - 1000) for i in range(count))
    return Notification("team", Integration(kind, 0, True, raw), "{}:{}", {"alertname": "A"}, alerts, NOW, "key-1")


async def to(*addresses: str):
    return list(addresses)


def channel(answers, url="http://hook.example/p?token=hunter2", addresses=("192.0.2.7",), **options):
    """A channel whose receiver gives these answers; `asked` has the requests."""
    asked: list[httpx.Request] = []
    given = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        one = next(given)
        if isinstance(one, Exception):
            raise one
        return one

    async def find(host, port):
        if isinstance(addresses, dict):
            return addresses[host]
        if isinstance(addresses, Exception):
            raise addresses
        return list(addresses)

    made = HttpChannel(url, resolve=find, transport=httpx.MockTransport(answer), **options)
    return made, asked


def test_a_webhook_gets_alertmanagers_payload():
    payload = json.loads(webhook_body(notification(3), "http://am", max_alerts=2))
    assert payload["version"] == "4"
    assert payload["truncatedAlerts"] == 1
    assert payload["status"] == "firing"
    assert payload["groupKey"] == "{}:{}"
    assert payload["externalURL"] == "http://am"
    assert payload["receiver"] == "team"
    assert payload["alerts"][0] == {
        "status": "firing", "labels": {"alertname": "A", "i": "0"}, "annotations": {"s": "x"},
        "startsAt": "2023-11-14T22:13:19Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "",
        "fingerprint": payload["alerts"][0]["fingerprint"],
    }  # fmt: skip
    assert payload["commonLabels"] == {"alertname": "A"}


def test_a_post_goes_to_the_address_that_was_checked():
    hook, asked = channel([httpx.Response(200)])
    asyncio.run(hook.send(MESSAGE))
    assert str(asked[0].url) == "http://192.0.2.7/p?token=hunter2"
    assert asked[0].headers["host"] == "hook.example"
    assert asked[0].headers["idempotency-key"] == "key-1"
    assert asked[0].content == b'{"a":1}'


def test_an_address_of_six_with_port_and_user():
    hook, asked = channel([httpx.Response(204)], "https://u:p@hook.example:8443", ["2001:db8::1"])
    asyncio.run(hook.send(MESSAGE))
    assert str(asked[0].url) == "https://[2001:db8::1]:8443/"
    assert asked[0].headers["host"] == "hook.example:8443"
    assert asked[0].extensions["sni_hostname"] == "hook.example"
    assert asked[0].headers["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "0.0.0.0",
     "224.0.0.1", "100.100.100.200", "fd00:ec2::254", "nonsense"],
)  # fmt: skip
def test_metadata_is_never_asked(address):
    hook, asked = channel([], addresses=["192.0.2.7", address])
    with pytest.raises(DeliveryError) as error:
        asyncio.run(hook.send(MESSAGE))
    assert not error.value.retry
    assert not asked


def test_private_and_loopback_by_policy():
    strict = Policy(private=False, loopback=False)
    for address in ("10.0.0.1", "127.0.0.1", "::1", "fd00::1"):
        with pytest.raises(DeliveryError):
            strict.check_address(address)
        Policy().check_address(address)
    strict.check_address("93.184.216.34")


@pytest.mark.parametrize("url", ["ftp://x/", "http:///x", "nothing", "http://[::1", "http://x:port/"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError):
        Policy().check_url(url)
    hook, _ = channel([], url)
    with pytest.raises(DeliveryError):
        asyncio.run(hook.send(MESSAGE))
    assert "hunter2" not in shown("http://u:hunter2@h/hunter2?hunter2")


def test_only_hosts_that_are_allowed():
    policy = Policy(hosts=frozenset({"good"}), schemes=frozenset({"https"}))
    assert policy.check_url("https://good/x") == ("good", 443)
    for url in ("https://bad/x", "http://good/x"):
        with pytest.raises(ConfigError):
            policy.check_url(url)
    assert Policy().check_url("http://[2001:db8::1]:9/") == ("2001:db8::1", 9)
    assert shown("http://[2001:db8::1]:9/") == "http://[2001:db8::1]:9/…"
    assert shown("http://[") == "(address)"


def test_names_that_lead_nowhere_are_tried_again():
    for addresses in ([], OSError("no such name")):
        hook, _ = channel([], addresses=addresses)
        with pytest.raises(DeliveryError) as error:
            asyncio.run(hook.send(MESSAGE))
        assert error.value.retry
        assert "hunter2" not in str(error.value)
    assert "127.0.0.1" in asyncio.run(resolve("127.0.0.1", 80))


def test_redirects_are_checked_and_take_no_secrets_along():
    away = httpx.Response(307, headers={"location": "http://other.example/x"})
    near = httpx.Response(308, headers={"location": "/next"})
    places = {"hook.example": ["192.0.2.7"], "other.example": ["192.0.2.8"]}
    hook, asked = channel([near, away, httpx.Response(200)], addresses=places, headers={"authorization": "Bearer s"})
    asyncio.run(hook.send(MESSAGE))
    assert [r.url.path for r in asked] == ["/p", "/next", "/x"]
    assert ["authorization" in r.headers for r in asked] == [True, True, False]
    places["other.example"] = ["169.254.169.254"]
    hook, asked = channel([away], addresses=places)
    with pytest.raises(DeliveryError, match="metadata"):
        asyncio.run(hook.send(MESSAGE))
    hook, asked = channel([near] * 9)
    with pytest.raises(DeliveryError, match="redirects"):
        asyncio.run(hook.send(MESSAGE))
    assert len(asked) == 4
    hook, _ = channel([httpx.Response(302, headers={"location": "http://other.example/x"})])
    with pytest.raises(DeliveryError, match="HTTP 302"):
        asyncio.run(hook.send(MESSAGE))


@pytest.mark.parametrize(
    ("answer", "retry", "after"),
    [
        (httpx.Response(500), True, None),
        (httpx.Response(429, headers={"retry-after": "7"}), True, 7.0),
        (httpx.Response(503, headers={"retry-after": "Tue"}), True, None),
        (httpx.Response(408), True, None),
        (httpx.Response(400), False, None),
        (httpx.ConnectError("http://hook.example/p?token=hunter2"), True, None),
    ],
)
def test_what_is_tried_again(answer, retry, after):
    hook, _ = channel([answer])
    with pytest.raises(DeliveryError) as error:
        asyncio.run(hook.send(MESSAGE))
    assert (error.value.retry, error.value.retry_after) == (retry, after)
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(hook)


def test_secrets_come_from_files_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK", "hunter2")
    (tmp_path / "s").write_text("hunter3\n")
    assert secret("env:HOOK")() == "hunter2"
    assert secret(f"file:{tmp_path}/s")() == "hunter3"
    assert secret(Secret("https://x"))() == "https://x"
    for missing in ("env:NOWHERE", f"file:{tmp_path}/none"):
        with pytest.raises(ConfigError):
            secret(missing)()
    hook, _ = channel([], url="env:NOWHERE")
    with pytest.raises(DeliveryError) as error:
        asyncio.run(hook.send(MESSAGE))
    assert error.value.retry


CONFIG = """
route: {receiver: team}
receivers:
  - name: team
    webhook_configs:
      - {url: "http://h/1", rate: 2}
      - {url: "env:HOOK", http_config: {basic_auth: {username: me, password_file: FILE}}}
      - {url_file: URLFILE, http_config: {authorization: {credentials: hunter2}}}
    slack_configs: [{channel: x}]
    apprise_configs: [{urls: ["json://h"], title: "{{ .Status }}"}]
"""


class FakeApprise(types.ModuleType):
    def __init__(self, taken=True, sent=True):
        super().__init__("apprise")
        self.sent = []
        outer = self

        class Apprise:
            def add(self, url):
                return taken

            async def async_notify(self, title, body):
                outer.sent.append((title, body))
                return sent

        self.Apprise = Apprise


def test_a_configuration_gives_channels(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", FakeApprise())
    monkeypatch.setenv("HOOK", "http://h/2")
    (tmp_path / "p").write_text("hunter2")
    (tmp_path / "u").write_text("http://h/3")
    config = load(CONFIG.replace("URLFILE", str(tmp_path / "u")).replace("FILE", str(tmp_path / "p")))
    asked = []

    def answer(request):
        asked.append((request.url.path, request.headers.get("authorization")))
        return httpx.Response(200)

    made, missing = channels(config, resolve=lambda host, port: to("192.0.2.1"), transport=httpx.MockTransport(answer))
    assert missing == ["team/slack/0"]
    assert [made[f"team/webhook/{i}"].interval_ms for i in range(3)] == [500, 0, 0]
    for i in range(3):
        asyncio.run(made[f"team/webhook/{i}"].send(MESSAGE))
    assert asked == [
        ("/1", None), ("/2", "Basic " + base64.b64encode(b"me:hunter2").decode()), ("/3", "Bearer hunter2"),
    ]  # fmt: skip
    assert "hunter2" not in repr(config) + repr(made) + repr(vars(made["team/webhook/2"]))
    assert "apprise" not in config.to_yaml()
    assert "rate" not in config.to_yaml()
    assert load(config.to_yaml(ours=True)) == config


def test_a_webhook_needs_an_address():
    for text in ("{}", "{url: 5}", "{url: 'ftp://x'}"):
        with pytest.raises(ConfigError):
            channels(load(f"route: {{receiver: a}}\nreceivers: [{{name: a, webhook_configs: [{text}]}}]"))


def test_apprise_says_what_it_is_told(monkeypatch):
    fake = FakeApprise()
    monkeypatch.setitem(sys.modules, "apprise", fake)
    clock = FakeClock(NOW)
    one = AppriseChannel(["json://u:hunter2@h"], rate=1)
    delivery = Delivery(Outbox(), {"team/apprise/0": one}, clock)
    delivery.put([notification(2, "apprise")])
    assert asyncio.run(delivery.deliver()).sent == 1
    title, body = fake.sent[0]
    assert title == "[FIRING:2] A"
    assert body.startswith("firing: A\ns: x\n- alertname = A\n- i = 0\n")
    assert "hunter2" not in repr(one)


def test_apprise_that_fails(monkeypatch):
    told = Message("t", "k", '{"title":"t","body":"b"}')
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match="metricsdb"):
        AppriseChannel(["x"])
    for fake, urls, retry in (
        (FakeApprise(taken=False), ["x://hunter2"], False),
        (FakeApprise(sent=False), ["x://hunter2"], True),
        (FakeApprise(), ["env:NOWHERE"], True),
    ):
        monkeypatch.setitem(sys.modules, "apprise", fake)
        with pytest.raises(DeliveryError) as error:
            asyncio.run(AppriseChannel(urls).send(told))
        assert error.value.retry is retry
        assert "hunter2" not in str(error.value)


class Script:
    """A channel that answers by a list: None takes it."""

    def __init__(self, answers, interval_ms=0):
        self.answers, self.interval_ms, self.seen = list(answers), interval_ms, []

    async def send(self, message):
        self.seen.append(message.key)
        error = self.answers.pop(0) if self.answers else None
        if error is not None:
            raise error


def test_delivery_tries_again_until_it_is_taken():
    clock, hook = FakeClock(NOW), Script([DeliveryError("x", True), DeliveryError("y", True, 50.0), None])
    delivery = Delivery(Outbox(), {"team/webhook/0": hook}, clock)
    assert delivery.put([notification(), notification(kind="email")]) == ["team/email/0"]
    assert asyncio.run(delivery.deliver()).failed == 1
    assert asyncio.run(delivery.deliver()) == notify.Delivered()
    clock.move(1.0)
    assert asyncio.run(delivery.deliver()).failed == 1
    clock.move(49.0)
    assert asyncio.run(delivery.deliver()).sent == 0
    clock.move(1.0)
    assert asyncio.run(delivery.deliver()).sent == 1
    assert hook.seen == ["key-1"] * 3
    assert not delivery.outbox.waiting()


def test_what_cannot_be_delivered_is_told():
    clock = FakeClock(NOW)
    hook = Script([DeliveryError("no", False), DeliveryError("late", True)])
    delivery = Delivery(Outbox(), {"team/webhook/0": hook, "gone": hook}, clock, keep_ms=1000)
    delivery.put([notification()])
    assert asyncio.run(delivery.deliver()).lost == ["team/webhook/0: no"]
    delivery.put([notification()])
    clock.move(2.0)
    assert asyncio.run(delivery.deliver()).lost == ["team/webhook/0: late"]
    delivery.put([notification()])
    del delivery.channels["team/webhook/0"]
    assert asyncio.run(delivery.deliver()).lost == ["team/webhook/0: no such channel any more"]


def test_a_receiver_is_not_asked_more_often_than_it_bears():
    clock, hook = FakeClock(NOW), Script([], interval_ms=500)
    delivery = Delivery(Outbox(), {"t": hook}, clock)
    delivery.outbox.put([Message("t", f"k{i}", "") for i in range(3)])
    for expected in (1, 0, 1, 0, 1):
        assert asyncio.run(delivery.deliver()).sent == expected
        clock.move(0.25)


def test_an_alertmanager_is_fed_as_prometheus_does():
    feed = AlertmanagerFeed(resend_ms=60_000)
    alert = PostableAlert({"alertname": "A"}, {}, NOW)
    over = PostableAlert({"alertname": "A"}, {}, NOW, NOW + 130_000)

    def sent(alerts, at):
        made = feed.messages(alerts, NOW + at)
        return [json.loads(m.body)[0].get("endsAt") for m in made]

    assert sent([alert], 0) == ["2023-11-14T22:17:20Z"]
    assert sent([alert], 30_000) == []
    assert sent([alert], 60_000) == ["2023-11-14T22:18:20Z"]
    assert sent([over], 130_000) == ["2023-11-14T22:15:30Z"]
    assert sent([over], 150_000) == []
    assert sent([over], 190_000) == ["2023-11-14T22:15:30Z"]
    assert sent([over], 130_000 + 900_001) == []
    assert sent([], 0) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # apprise imports what Python will drop
def test_apprise_itself_is_driven(tmp_path):
    apprise = pytest.importorskip("apprise", reason="apprise is not installed")
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one = AppriseChannel([f"json://127.0.0.1:{server.server_address[1]}/"])
        asyncio.run(one.send(Message("t", "k", '{"title":"T","body":"B"}')))
        server.shutdown()
    told = json.loads(seen[0])
    assert (told["title"], told["message"]) == ("T", "B")
    with pytest.raises(DeliveryError, match="does not know"):
        asyncio.run(AppriseChannel(["nonsense://x"]).send(Message("t", "k", '{"title":"T","body":"B"}')))
    assert apprise.__version__


def test_a_text_whose_template_fails_goes_out_and_says_so(monkeypatch):
    fake = FakeApprise()
    monkeypatch.setitem(sys.modules, "apprise", fake)
    delivery = Delivery(Outbox(), {"team/apprise/0": AppriseChannel(["json://h"])}, FakeClock(NOW))
    delivery.put([notification(1, "apprise", body='{{ template "none" . }}', title="{{ .Status }}")])
    assert asyncio.run(delivery.deliver()).sent == 1
    ((title, body),) = fake.sent
    assert title == "firing"
    assert body.startswith("<error expanding template: ")
