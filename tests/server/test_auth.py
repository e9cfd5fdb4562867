"""Who is let in, and to what; and that no secret is ever shown."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import json
import logging
import threading

import httpx
import pytest

import metricsdb as mdb
from metricsdb import config, web
from metricsdb.errors import ConfigError
from metricsdb.server import auth, create_app
from metricsdb.server.state import Counts
from metricsdb.testing import FakeClock
from tests.server.conftest import T0
from tests.server.serving import OPERATIONS, until

TOKENS = {right: f"{right}-0123456789abcdef" for right in ("read", "write", "admin")}


def plain_b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


# As another program would write it, with parameters that cost little.
HASH = "$scrypt$ln=4,r=8,p=1${}${}".format(
    plain_b64(b"some salt"),
    plain_b64(hashlib.scrypt(b"correct horse", salt=b"some salt", n=16, r=8, p=1, dklen=32)),
)
# The form alone counts here.
BCRYPT = "$2b$04$abcdefghijklmnopqrstuuxwjTlVzUVVuTWuTbGHQmWcnmVB0kOXa"


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def cheap(monkeypatch, request):
    """A check of a stranger's name costs what a hash of ours costs."""
    if "scrypt" not in request.node.name:
        monkeypatch.setattr(web, "_LOG_N", 4)


class Api:
    """An app with credentials, called in one loop; `counts.refused` says what was refused."""

    def __init__(self, text: str, environ: dict[str, str] | None = None) -> None:
        chosen = config.parse(f"web: {text}".encode())
        self.counts = Counts(0)
        self.db = mdb.Database(clock=FakeClock(T0 * 1000))
        self.app = create_app(self.db, config=chosen, counts=self.counts, environ=environ or {})

    def ask(self, path: str = "/api/v1/labels", headers=None, method: str = "GET", **arguments) -> httpx.Response:
        return self.all((method, path, headers, arguments))[0]

    def all(self, *requests) -> list[httpx.Response]:
        async def story() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://x") as client:
                return await asyncio.gather(*(client.request(m, p, headers=h, **a) for m, p, h, a in requests))

        return asyncio.run(story())


@pytest.fixture
def api() -> Api:
    credentials = "".join(f"{{name: {r}er, scopes: [{r}], token_env: T_{r.upper()}}}, " for r in TOKENS)
    return Api(
        f"{{credentials: [{credentials} {{name: anna, scopes: [read], password_env: ANNA}},"
        f" {{name: bob, scopes: [read, write], password_hash: '{HASH}'}}], basic_auth_users: {{carla: '{HASH}'}}}}",
        {"ANNA": "per:fect", **{f"T_{right.upper()}": token for right, token in TOKENS.items()}},
    )


def test_each_endpoint_takes_its_scope_and_no_other(api):
    paths = {place: place[0].replace("{name}", "job").replace("{id}", "7") for place in OPERATIONS}
    for (path, method), operation in OPERATIONS.items():
        right = operation["x-scope"]
        asked = [(method, paths[path, method], bearer(token), {}) for token in TOKENS.values()]
        asked.append((method, paths[path, method], None, {}))
        *answers, stranger = (answer.status_code for answer in api.all(*asked))
        if right is None:
            assert stranger == 200
            continue
        assert stranger == 401, path
        for own, status in zip(TOKENS, answers, strict=True):
            assert (status not in (401, 403)) if own == right else status == 403, (path, own)


def test_a_refusal_is_typed_challenges_and_is_counted(api):
    answer = api.ask()
    assert answer.status_code == 401
    assert answer.json()["errorType"] == "unauthorized"
    assert answer.headers.get_list("www-authenticate") == [
        'Basic realm="MetricsDB", charset="UTF-8"',
        'Bearer realm="MetricsDB"',
    ]
    answer = api.ask("/api/v1/write", bearer(TOKENS["read"]), "POST")
    assert (answer.status_code, answer.json()["errorType"]) == (403, "forbidden")
    assert "'reader' lacks the scope 'write'" in answer.json()["error"]
    assert api.counts.refused == {"unauthorized": 1, "forbidden": 1}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(TOKENS["read"]), 200),
        ({"Authorization": f"bEARER   {TOKENS['read']} "}, 200),
        (basic("anna", "per:fect"), 200),
        (basic("bob", "correct horse"), 200),
        (basic("carla", "correct horse"), 200),
        (bearer(TOKENS["read"][:-1]), 401),
        (bearer(TOKENS["read"] + "x"), 401),
        (bearer(""), 401),
        (bearer("x" * 100_000), 431),
        (basic("anna", "per:fec"), 401),
        (basic("anna", ""), 401),
        (basic("", "per:fect"), 401),
        (basic("nobody", "correct horse"), 401),
        (basic("bob", "wrong"), 401),
        (basic("bob", "x" * 3000), 401),
        (basic("reader", TOKENS["read"]), 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"no colon").decode()}, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"\xff:x").decode()}, 401),
        ({"Authorization": "Digest x"}, 401),
        ({"Authorization": ""}, 401),
    ],
)
def test_what_opens_and_what_does_not(api, headers, status):
    assert api.ask(headers=headers).status_code == status


def test_two_credentials_in_one_request_are_none(api):
    headers = [("Authorization", f"Bearer {TOKENS['read']}")] * 2
    assert api.ask(headers=headers).status_code == 401


def test_a_hashed_password_is_checked_slowly_once(api, monkeypatch):
    asked = []
    for user in api.app.state.auth._users.values():
        slow = user.check
        user.check = slow and (lambda password, slow=slow: asked.append(password) or slow(password))
    for password in ("correct horse", "correct horse", "wrong", "wrong", "correct horse"):
        api.ask(headers=basic("bob", password))
    assert asked == [b"correct horse", b"wrong", b"wrong"]


def test_a_stranger_s_name_costs_what_a_wrong_password_costs(api):
    asked = []
    api.app.state.auth._nobody = lambda password: bool(asked.append(password))
    assert api.ask(headers=basic("nobody", "x")).status_code == 401
    assert asked == [b"x"]


def test_passwords_that_wait_for_their_check_are_bounded(api):
    go = threading.Event()
    api.app.state.auth._nobody = lambda _: not go.wait(20)
    many = auth.CHECKS_WAITING_MAX + 5

    async def story() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api.app), base_url="http://x") as client:
            tasks = [
                asyncio.create_task(client.get("/api/v1/labels", headers=basic("nobody", str(n)))) for n in range(many)
            ]
            await until(lambda: sum(task.done() for task in tasks) >= 5)
            known = await client.get("/api/v1/labels", headers=basic("anna", "per:fect"))
            assert known.status_code == 200, "who is known does not wait behind who is not"
            go.set()
            return [await task for task in tasks]

    answers = asyncio.run(story())
    busy = [answer for answer in answers if answer.status_code == 429]
    assert len(busy) == 5
    assert {answer.headers["retry-after"] for answer in busy} == {"1"}
    assert api.counts.refused == {"passwords": 5, "unauthorized": auth.CHECKS_WAITING_MAX}


def test_a_page_of_another_site_may_not_write(call):
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = call("POST", "/api/v1/import/prometheus", content=b"a 1\n", headers=headers)
    assert (answer.status_code, answer.json()["errorType"]) == (403, "forbidden")
    assert call("POST", "/api/v1/import/prometheus", content=b"a 1\n").status_code == 204
    assert call("GET", "/api/v1/labels", headers=headers).status_code == 200


# --- secrets ---


def test_no_page_log_or_error_shows_a_secret(api, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = [*TOKENS.values(), "per:fect", "correct horse", HASH, HASH.rpartition("$")[2]]
    everywhere = [bearer(TOKENS[right]) for right in TOKENS]
    texts = [
        answer.text + repr(answer.headers)
        for (path, method) in OPERATIONS
        for answer in api.all(*((method, path.replace("{id}", "7"), headers, {}) for headers in everywhere))
    ]
    for password in ("per:fec", "correct hors"):
        texts.append(api.ask(headers=basic("bob", password)).text)
    texts.append(caplog.text)
    known = api.app.state.auth
    texts.append(repr((known, known._tokens, known._users, known._web)))
    assert "<secret>" in "".join(texts), "the configuration shows that there is one"
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: {a: hunter2-secret}",
        "basic_auth_users: {a: [hunter2-secret]}",
        "basic_auth_users: {a: {hunter2-secret: 1}}",
        "basic_auth_users: {a: '$2b$31$hunter2-secretaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}",
        "credentials: [{name: a, scopes: [read], password_hash: hunter2-secret}]",
        "credentials: [{name: a, scopes: [read], token: hunter2-secret}]",
        "credentials: [{name: a, scopes: [read], password: hunter2-secret}]",
        "credentials: [{name: a, scopes: read, token_env: hunter2-secret}]",
        "credentials: [{name: a, scopes: [read], token_env: T, password_env: hunter2-secret}]",
        "basic_auth_users: {a: 'hunter2-secret\n  b: [",
        "basic_auth_users: {a: *hunter2}",
    ],
)
@pytest.mark.parametrize("section", [True, False])
def test_a_configuration_that_is_refused_does_not_show_its_secret(text, section, tmp_path):
    path = tmp_path / "web.yml"
    path.write_text(f"web: {{{text}}}" if section else text)
    with pytest.raises(ConfigError) as caught:
        (config.load if section else config.load_web)(path)
    assert "hunter2-secret" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "one line of 1 to 4096 bytes"),
        (b"x" * 5000, "one line of 1 to 4096 bytes"),
        (b"one\ntwo-secret-secret", "one line"),
        (b"short", "has 5 characters; use 16 or more"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_by_the_name_of_its_file(tmp_path, content, words):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Api(f"{{credentials: [{{name: a, scopes: [read], token_file: {path}}}]}}")
    assert words in str(caught.value)
    assert "'a'" in str(caught.value)
    assert content is None or not content or content.decode() not in str(caught.value)


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(ConfigError, match="the environment has no NOT_THERE"):
        Api("{credentials: [{name: a, scopes: [read], token_env: NOT_THERE}]}")


def test_two_credentials_do_not_share_a_token():
    with pytest.raises(ConfigError, match="another credential's"):
        Api(
            "{credentials: [{name: a, scopes: [read], token_env: T}, {name: b, scopes: [write], token_env: T}]}",
            {"T": "x" * 20},
        )


def test_files_are_relative_to_the_configuration_and_read_again_on_demand(tmp_path):
    (tmp_path / "token").write_text("first-0123456789ab\n")
    (tmp_path / "web.yml").write_text("credentials: [{name: a, scopes: [read], token_file: token}]")
    chosen = config.Config(web=config.load_web(tmp_path / "web.yml"))
    known = auth.Auth(chosen.web, {})

    def who(token: str) -> str | None:
        found = asyncio.run(known.identify(f"Bearer {token}".encode()))
        return found and found.name

    assert (who("first-0123456789ab"), who("second-0123456789ab")) == ("a", None)
    (tmp_path / "token").write_text("second-0123456789ab\n")
    known.load()
    assert (who("first-0123456789ab"), who("second-0123456789ab")) == (None, "a")
    (tmp_path / "token").write_text("bad")
    with pytest.raises(ConfigError):
        known.load()
    assert who("second-0123456789ab") == "a"
    known.close()


# --- hashes ---


def test_scrypt_is_that_of_its_parameters():
    assert web.password_check(HASH, "a")(b"correct horse")
    assert not web.password_check(HASH, "a")(b"correct hors")
    ours = web.hash_password(b"x")
    assert ours.startswith("$scrypt$ln=15,r=8,p=3$"), "what OWASP asks for"
    assert web.password_check(ours, "a")(b"x")
    assert ours != web.hash_password(b"x")


@pytest.mark.parametrize(
    "text", ["$scrypt$ln=30,r=8,p=1$aa$aa", "$scrypt$ln=4,r=8,p=99$aaaa$aaaa", "$2b$31$" + "a" * 53]
)
def test_a_hash_that_would_take_memory_or_time_without_end_is_refused(text):
    with pytest.raises(ConfigError, match=r"at most|more than"):
        config.parse(f"web: {{basic_auth_users: {{a: '{text}'}}}}".encode())


def test_a_hash_of_bcrypt_works_or_says_what_is_missing():
    if importlib.util.find_spec("bcrypt") is None:
        with pytest.raises(ConfigError, match=r"pip install 'metricsdb\[bcrypt\]'.*hash-password"):
            web.password_check(BCRYPT, "a")
        return
    import bcrypt

    check = web.password_check(bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode(), "a")
    assert check(b"correct horse")
    assert not check(b"wrong")
    assert not check(b"x" * 100)


def test_json_of_the_status_page_has_the_names_alone(api):
    shown = json.loads(api.ask("/api/v1/status/config", bearer(TOKENS["admin"])).text)["data"]["yaml"]
    assert "name: anna" in shown
    assert "carla: <secret>" in shown
