"""Who can reach the server at all: loopback, TLS, and what is said when strangers can."""

from __future__ import annotations

import asyncio
import logging
import resource
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import metricsdb as mdb
from metricsdb import cli, config, web
from metricsdb.errors import ConfigError
from metricsdb.server import run as running
from metricsdb.server.run import check_exposure, is_loopback, tls_context
from metricsdb.times import Duration
from metricsdb.web import Tls, Web
from tests.server.serving import read_answer, run, served, until

CREDENTIALS = "basic_auth_users: {a: '$2b$10$" + "a" * 53 + "'}"


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        ("127.0.0.1:9090", True),
        ("127.8.9.1:0", True),
        ("localhost:9090", True),
        ("[::1]:9090", True),
        ("[::ffff:127.0.0.1]:9090", True),
        (":9090", False),
        ("0.0.0.0:9090", False),
        ("[::]:9090", False),
        ("10.0.0.1:9090", False),
        ("[::ffff:10.0.0.1]:9090", False),
        ("localhost.example.org:9090", False),
        ("metrics:9090", False),
    ],
)
def test_what_is_reached_from_other_machines(listen, loopback):
    assert is_loopback(listen) == loopback
    if loopback:
        check_exposure(config.Config(listen=listen))
        return
    with pytest.raises(ConfigError, match="--allow-unauthenticated") as caught:
        check_exposure(config.Config(listen=listen))
    assert listen in str(caught.value)


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("allow_unauthenticated: true", "no credentials are asked for"),
        (CREDENTIALS, "sent in clear"),
        (CREDENTIALS + "\n  tls_server_config: {cert_file: a, key_file: b}", ""),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c, "
            "client_auth_type: RequireAndVerifyClientCert}",
            "",
        ),
    ],
)
def test_strangers_are_let_in_only_where_somebody_said_so(text, warns, caplog):
    chosen = config.parse(f"listen: 0.0.0.0:9090\nweb:\n  {text}".encode())
    check_exposure(chosen)
    running._warn_of_exposure(chosen)
    assert (warns in caplog.text) if warns else caplog.text == ""


def test_a_certificate_that_may_be_left_out_is_no_authentication():
    text = (
        b"listen: ':9090'\nweb: {tls_server_config: {cert_file: a, key_file: b, client_ca_file: c, "
        b"client_auth_type: VerifyClientCertIfGiven}}"
    )
    with pytest.raises(ConfigError, match="credentials"):
        check_exposure(config.parse(text))


def test_statsd_for_everybody_is_said(caplog):
    running._warn_of_exposure(config.parse(b"statsd: {udp: ':8125', tcp: '127.0.0.1:8125'}"))
    assert [record.getMessage() for record in caplog.records] == [
        "StatsD knows no credentials: whoever reaches :8125 can write"
    ]


def test_the_command_line_refuses_before_it_opens_anything(tmp_path):
    result = CliRunner().invoke(cli.app, ["serve", "--listen", ":0", "--data", str(tmp_path / "data")])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "data").exists()


def test_flags_win_over_the_section(tmp_path):
    (tmp_path / "web.yml").write_text("headers_max: 7")
    chosen = cli._with_web(config.Config(web=Web(headers_max=9)), tmp_path / "web.yml", True)
    assert (chosen.web.headers_max, chosen.web.allow_unauthenticated) == (7, True)
    assert cli._with_web(config.Config(web=Web(headers_max=9)), None, False).web.headers_max == 9


def test_a_web_configuration_of_prometheus_is_taken_as_it_is(tmp_path):
    (tmp_path / "web.yml").write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        "basic_auth_users:\n  alice: $2y$10$" + "a" * 53 + "\n"
    )
    chosen = config.load_web(tmp_path / "web.yml")
    assert chosen.tls_server_config == Tls(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    assert list(chosen.basic_auth_users) == ["alice"]
    assert chosen.authenticates


def test_a_password_is_hashed_on_the_command_line(monkeypatch):
    monkeypatch.setattr(web, "_LOG_N", 4)
    result = CliRunner().invoke(cli.app, ["hash-password"], input="correct horse\n")
    assert web.password_check(result.stdout.strip(), "a")(b"correct horse")
    assert isinstance(CliRunner().invoke(cli.app, ["hash-password"], input="\n").exception, ConfigError)


@pytest.mark.parametrize(
    "text",
    [
        "connections_max: 0",
        "header_bytes_max: -1",
        "write_bytes_max: 100000000",
        "body_timeout: 0",
        "tls_server_config: {cert_file: a}",
        "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
        "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}",
        "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}",
        "credentials: [{name: 'a b', scopes: [read], token_env: T}]",
        "credentials: [{name: a, scopes: [], token_env: T}]",
        "credentials: [{name: a, scopes: [read]}]",
        "credentials: [{name: a, scopes: [root], token_env: T}]",
        "credentials: [{name: a, scopes: [read], token_env: T}, {name: a, scopes: [read], token_env: U}]",
    ],
)
def test_a_web_section_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ConfigError, match="x.yml"):
        config.parse(f"web: {{{text}}}".encode(), "x.yml")


# --- TLS ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A certificate of 127.0.0.1 that is its own authority, and one for a client."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "30", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def tls_of(folder: Path, **changes) -> Tls:
    return Tls(str(folder / "server.crt"), str(folder / "server.key"), **changes)


def client_of(folder: Path, certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "server.crt"))
    if certificate is not None:
        context.load_cert_chain(str(folder / f"{certificate}.crt"), str(folder / f"{certificate}.key"))
    return context


async def ready(on, context: ssl.SSLContext) -> int:
    reader, writer = await on.connect(ssl=context)
    writer.write(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    return (await read_answer(reader))[0]


def test_the_server_speaks_tls_and_nothing_else(certificates):
    async def story():
        async with served(Web(tls_server_config=tls_of(certificates))) as on:
            assert await ready(on, client_of(certificates)) == 200
            assert (await on.talk(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 0
            old = client_of(certificates)
            old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ready(on, old)

    with pytest.warns(DeprecationWarning, match="TLSv1_1"):  # of the client that asks for it
        run(story())


def test_a_client_shows_its_certificate_where_it_must(certificates):
    tls = tls_of(
        certificates,
        client_ca_file=str(certificates / "client.crt"),
        client_auth_type="RequireAndVerifyClientCert",
    )

    async def story():
        async with served(Web(tls_server_config=tls)) as on:
            assert await ready(on, client_of(certificates, "client")) == 200
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                assert await ready(on, client_of(certificates)) == 200

    run(story())


def test_a_handshake_that_does_not_come_is_ended(certificates):
    async def story():
        async with served(Web(tls_server_config=tls_of(certificates), header_timeout=Duration("50ms"))) as on:
            reader, _ = await on.connect()
            async with asyncio.timeout(10):
                assert await reader.read() == b""

    run(story())


def test_files_that_are_no_certificate_are_named(tmp_path, certificates):
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for cert, key in ((bad, bad), (tmp_path / "none", bad), (certificates / "server.crt", certificates / "client.key")):
        with pytest.raises(ConfigError, match="as PEM, without a password"):
            tls_context(Tls(str(cert), str(key)))
    with pytest.raises(ConfigError, match="client_ca_file"):
        tls_context(tls_of(certificates, client_ca_file=str(bad), client_auth_type="VerifyClientCertIfGiven"))


def test_sighup_reads_certificate_and_secrets_again(certificates, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in ("server.crt", "server.key"):
        shutil.copy(certificates / name, tmp_path / name)
    (tmp_path / "token").write_text("first-0123456789ab")
    chosen = config._convert(
        b"{tls_server_config: {cert_file: server.crt, key_file: server.key},"
        b" credentials: [{name: a, scopes: [read], token_file: token}]}",
        Web,
        "x",
    ).relative_to(tmp_path)

    async def ask(on, context, token: str) -> int:
        reader, writer = await on.connect(ssl=context)
        writer.write(f"GET /api/v1/labels HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return (await read_answer(reader))[0]

    async def story():
        async with served(chosen) as on:
            assert await ask(on, client_of(certificates), "first-0123456789ab") == 200
            (tmp_path / "token").write_text("second-0123456789ab")
            for name in ("crt", "key"):
                shutil.copy(certificates / f"client.{name}", tmp_path / f"server.{name}")
            on.server._reload()
            renewed = ssl.create_default_context(cafile=str(certificates / "client.crt"))
            assert await ask(on, renewed, "second-0123456789ab") == 200
            assert await ask(on, renewed, "first-0123456789ab") == 401
            (tmp_path / "server.key").write_text("broken")
            on.server._reload()
            assert await ask(on, renewed, "second-0123456789ab") == 200

    run(story())
    assert "were read again" in caplog.text
    assert "nothing has changed" in caplog.text


# --- the socket ---


def test_an_address_that_is_taken_is_one_line():
    async def story():
        async with served() as on:
            other = running._Server(on.server._app, ("127.0.0.1", on.server.port), Web(), on.counts, None)
            with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{on.server.port}"):
                await other.serve()

    run(story())


@pytest.mark.parametrize("name", ["udp", "tcp"])
def test_an_address_of_statsd_that_is_taken_is_one_line(name):
    kind = socket.SOCK_DGRAM if name == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if name == "tcp":
            other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        chosen = config.Config(listen="127.0.0.1:0", statsd=config.StatsdListener(**{name: taken}))
        with mdb.Database() as db, pytest.raises(ConfigError, match="StatsD cannot listen: .*in use"):
            run(running.serve(db, chosen, flags={}))


def test_the_limit_of_connections_fits_into_that_of_open_files(monkeypatch, caplog):
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    assert running._within_descriptors(Web()).connections_max == 4096
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 3000))
    assert running._within_descriptors(Web()).connections_max == 1976
    assert "3000 files may be open" in caplog.text


def test_a_header_that_claims_another_address_is_not_believed():
    async def story():
        async with served() as on:
            head = b"GET /api/v1/labels HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\n"
            seen = []
            gate = on.server._app.middleware_stack.app
            inner = gate._app

            async def spy(scope, receive, send):
                seen.append(scope["client"][0])
                await inner(scope, receive, send)

            gate._app = spy
            assert (await on.talk(head + b"\r\n"))[0] == 200
            await until(lambda: seen)
            assert seen == ["127.0.0.1"]

    run(story())


def test_the_section_comes_back_from_a_dump():
    once = config.parse(b"web: {headers_max: 50, body_timeout: 5s}")
    assert msgspec.structs.asdict(config.parse(config.dump(once).encode()).web) == msgspec.structs.asdict(once.web)
