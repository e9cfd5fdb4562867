"""Everything that `metricsdb serve` runs in one process: HTTP, scraping, listeners, alerts; and its orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import signal
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import msgspec
import uvicorn
from starlette.applications import Starlette

from metricsdb.adapters.listen import Statsd
from metricsdb.adapters.scrape import Scraper, targets
from metricsdb.clock import Clock, SystemClock
from metricsdb.config import Config, address
from metricsdb.database import Database
from metricsdb.errors import ConfigError
from metricsdb.server.app import create_app
from metricsdb.server.connection import Connection
from metricsdb.server.state import Counts
from metricsdb.web import Tls, Web

__all__ = ["check_exposure", "install_alerts", "is_loopback", "serve", "tls_context"]

log = logging.getLogger("metricsdb.server")

# How long a stop waits for requests that still run.
GRACE_S = 10
# Descriptors that are not for clients of HTTP: the journal, targets, StatsD.
DESCRIPTORS_KEPT = 1024


async def serve(db: Database, config: Config, *, clock: Clock | None = None, flags: Mapping[str, str]) -> None:
    """Serves `db` until SIGINT or SIGTERM; requests in flight may end, queues are flushed.

    SIGHUP reads certificate and secrets again. Raises ConfigError if the address is taken, or a file cannot be read.
    """
    check_exposure(config)
    _warn_of_exposure(config)
    clock = clock or SystemClock()
    install_alerts(db, config)
    counts = Counts(clock.now_ms() / 1000)
    web = _within_descriptors(config.web)
    tls = None if web.tls_server_config is None else tls_context(web.tls_server_config)
    app = create_app(db, config=msgspec.structs.replace(config, web=web), counts=counts, flags=flags)
    server = _Server(app, address(config.listen), web, counts, tls)
    statsd = None
    if config.statsd is not None:
        statsd = Statsd(db._store, clock, config.statsd, written=counts.write, dropped=counts.drop)
        await _started(statsd)
    scraper = Scraper(db._store, clock, written=counts.write)
    beside = [asyncio.create_task(scraper.run(targets(config.scrape)))] if config.scrape else []
    if statsd is not None:
        beside.append(asyncio.create_task(statsd.run()))
    db.start()
    try:
        await server.serve()
    finally:
        await asyncio.to_thread(db.stop)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await scraper.close()


def install_alerts(db: Database, config: Config) -> None:
    """Routes and installs what the section `alerts` says; rules that its files do not have any more are removed.

    Raises ConfigError, which names the file; StorageError where the outbox cannot be kept.
    """
    chosen = config.alerts
    scheme = "http" if config.web.tls_server_config is None else "https"
    url = chosen.external_url or f"{scheme}://{config.listen}"
    # Before the rules, which name its receivers and intervals.
    if chosen.route is not None or chosen.alertmanagers:
        labels, route = chosen.external_labels, None if chosen.route is None else Path(chosen.route)
        db.alerts.route(route, alertmanagers=chosen.alertmanagers, external_url=url, external_labels=labels)
    elif chosen.rules:
        log.warning("alerts are evaluated and nobody is told: give alerts.route or alerts.alertmanagers")
    if not chosen.rules:
        return
    files = chosen.files()
    for path, done in zip(files, db.alerts.load_all(files), strict=True):
        for one in done.left_out:
            log.warning("%s: %s has no meaning here and is left out", path, one)
        for lint in done.lints:
            log.warning("%s: %s at %s: %s", path, lint.statement, lint.place, lint.message)
    log.info("%d rules run", db.alerts.list().height)


async def _started(statsd: Statsd) -> None:
    try:
        await statsd.start()
    except OSError as error:
        statsd.close()
        raise ConfigError(f"StatsD cannot listen: {error.strerror or error}; give another address") from None


def is_loopback(listen: str) -> bool:
    """Whether an address is for programs of this machine alone; a name other than localhost counts as not."""
    host = address(listen)[0]
    if host == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def check_exposure(config: Config) -> None:
    """Refuses to let other machines in where nobody is asked for credentials. Raises ConfigError."""
    web = config.web
    if not (is_loopback(config.listen) or web.authenticates or web.allow_unauthenticated):
        raise ConfigError(
            f"listen: {config.listen!r} is reached from other machines, and nobody is asked for credentials; give "
            "credentials (web.credentials, web.basic_auth_users, or --web-config FILE), listen on 127.0.0.1, or allow "
            "it with --allow-unauthenticated (web.allow_unauthenticated)"
        )


def _warn_of_exposure(config: Config) -> None:
    statsd, web = config.statsd, config.web
    for listen in (statsd and statsd.udp, statsd and statsd.tcp):
        if listen and not is_loopback(listen):
            log.warning("StatsD knows no credentials: whoever reaches %s can write", listen)
    if is_loopback(config.listen):
        return
    if not web.authenticates:
        log.warning("whoever reaches %s can read, write and end queries: no credentials are asked for", config.listen)
    elif web.tls_server_config is None:
        log.warning("credentials and data are sent in clear on %s; give web.tls_server_config", config.listen)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises ConfigError, naming the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}[tls.min_version]
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, tls)
    if tls.client_ca_file is not None:
        try:
            context.load_verify_locations(tls.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"client_ca_file {tls.client_ca_file!r} cannot be read: {error.strerror}") from None
        required = tls.client_auth_type == "RequireAndVerifyClientCert"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _load_chain(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        # An empty password, or a key that needs one would be asked for on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cert_file {tls.cert_file!r} and key_file {tls.key_file!r} cannot be used: {error.strerror or error}; "
            "give a certificate and its key as PEM, without a password"
        ) from None


def _within_descriptors(web: Web) -> Web:
    """The limit of connections that this process' limit of open files allows, after raising that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or web.connections_max + DESCRIPTORS_KEPT <= hard:
        return web
    fits = max(hard - DESCRIPTORS_KEPT, hard // 2, 1)
    log.warning("connections_max is %d, but %d files may be open: %d are taken", web.connections_max, hard, fits)
    return msgspec.structs.replace(web, connections_max=fits)


class _Server(uvicorn.Server):
    """Ends on a signal without raising it once more: what runs beside the server ends in order, too."""

    def __init__(
        self, app: Starlette, listen: tuple[str, int], web: Web, counts: Counts, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=GRACE_S,
                server_header=False,
                proxy_headers=False,  # anybody could say that they are somebody else
            )
        )
        self._app, self._listen, self._web, self._counts, self._tls = app, listen, web, counts, tls
        self.port = listen[1]

    async def startup(self, sockets: list[socket] | None = None) -> None:  # noqa: ARG002 uvicorn's signature
        await self.lifespan.startup()
        loop, (host, port) = asyncio.get_running_loop(), self._listen

        def connection() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state, self._web, self._counts, loop)

        try:
            server = await loop.create_server(
                connection,
                host,
                port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self._web.header_timeout.seconds,
                backlog=self.config.backlog,
            )
        except OSError as error:
            await self.lifespan.shutdown()
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; give another address") from None
        self.servers = [server]
        self.port = server.sockets[0].getsockname()[1]
        log.info("listening on %s://%s:%d", "https" if self._tls else "http", host, self.port)
        self.started = True

    def _reload(self) -> None:
        """What was valid stays so where a file cannot be read."""
        try:
            self._app.state.auth.load()
            if self._tls is not None and self._web.tls_server_config is not None:
                _load_chain(self._tls, self._web.tls_server_config)
            log.info("certificate and secrets were read again")
        except ConfigError as error:
            log.error("nothing has changed: %s", error)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGINT: lambda: self.handle_exit(signal.SIGINT, None),
            signal.SIGTERM: lambda: self.handle_exit(signal.SIGTERM, None),
            signal.SIGHUP: self._reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
