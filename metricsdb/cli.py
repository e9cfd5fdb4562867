"""The command line: serve, scrape, test-rules, demo."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args
from urllib.parse import urlsplit

import msgspec
import polars as pl
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metricsdb import __version__
from metricsdb.adapters.scrape import Scraper, ScrapeResult, Target
from metricsdb.clock import SystemClock
from metricsdb.config import Config, Size, address, load, load_web
from metricsdb.database import Database
from metricsdb.demo import run as run_demo
from metricsdb.durability import Mode
from metricsdb.errors import ConfigError, MetricsDBError
from metricsdb.logs import OneLine, printable
from metricsdb.server.run import check_exposure
from metricsdb.server.run import serve as run_server
from metricsdb.sizes import size_bytes
from metricsdb.testing.rules import run as run_rule_tests
from metricsdb.times import Duration, duration_ms
from metricsdb.web import hash_password as hash_of

__all__ = ["main"]

T = TypeVar("T")

app = typer.Typer(add_completion=False, no_args_is_help=True, help="MetricsDB: metrics in memory, PromQL over them.")
out = Console()
err = Console(stderr=True)


def main() -> None:
    """The console script: a refusal is one line and status 2, never a traceback."""
    try:
        app()
    except MetricsDBError as error:
        err.print(f"metricsdb: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"metricsdb {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def serve(
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the HTTP API.")] = None,
    data: Annotated[Path | None, typer.Option(help="Directory that keeps the data.")] = None,
    durability: Annotated[
        str | None, typer.Option(help="What an answered write survives: batch, interval or none.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file: listen, limits, scrape, statsd.")] = None,
    query_memory: Annotated[int | None, typer.Option(help="Bytes that one query may hold.")] = None,
    web_config: Annotated[Path | None, typer.Option(help="YAML file: TLS, credentials, limits of clients.")] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Let other machines in without credentials.")
    ] = False,
    memory_limit: Annotated[str | None, typer.Option(help="What all data and queries may hold, such as 4GiB.")] = None,
    retention: Annotated[str | None, typer.Option(help="How long samples are kept: 15d, or a line.")] = None,
    disk: Annotated[str | None, typer.Option(help="Directory of older samples, before the object store.")] = None,
    cold: Annotated[
        str | None, typer.Option(help="Object store of older samples: s3://bucket/prefix, or a path.")
    ] = None,
) -> None:
    """Serve Prometheus' HTTP API: remote write in, PromQL out."""
    chosen = Config() if config is None else load(config)
    if listen is not None:
        address(listen)
        chosen = msgspec.structs.replace(chosen, listen=listen)
    if query_memory is not None:
        if query_memory <= 0:
            raise ConfigError(f"query-memory {query_memory} must be positive")
        limits = msgspec.structs.replace(chosen.limits, query_memory_max=query_memory)
        chosen = msgspec.structs.replace(chosen, limits=limits)
    chosen = _with_web(_with_storage(chosen, data, durability), web_config, allow_unauthenticated)
    chosen = _with_memory(chosen, memory_limit, retention)
    chosen = msgspec.structs.replace(chosen, disk=disk or chosen.disk, cold=cold or chosen.cold)
    home = chosen.storage
    _log_to_stderr()
    check_exposure(chosen)  # before a directory is opened and read
    db = _opened(chosen)
    flags = {
        "listen": chosen.listen,
        "data": str(home.data or ""),
        "durability": db.durability.mode,
        "config": str(config or ""),
        "memory-limit": str(chosen.memory.limit or ""),
        "retention": str(chosen.retention or ""),
    }
    with db:
        _run(run_server(db, chosen, flags=flags))


def _opened(chosen: Config) -> Database:
    """The database that a configuration describes."""
    home = chosen.storage
    limits, memory = chosen.limits, chosen.memory
    db = Database(
        home.data,
        durability=home.durability if home.data is not None else None,
        sync_interval=home.sync_interval.seconds,
        duplicates=chosen.duplicates,
        lookback=limits.lookback.seconds,
        query_timeout=limits.query_timeout.seconds,
        max_samples=limits.query_samples_max,
        max_query_memory=limits.query_memory_max,
        cache_memory=limits.cache_memory,
        alert_concurrency=limits.alert_concurrency,
        query_concurrency=limits.query_concurrency,
        batch_concurrency=limits.batch_concurrency,
        queries_waiting_max=limits.queries_waiting_max,
        query_wait=limits.query_wait.seconds,
        dense_after=chosen.upkeep.dense_after.seconds,
        idle_cpu=chosen.upkeep.idle_cpu,
        memory_limit=None if memory.limit is None else memory.limit.bytes,
        memory_soft=memory.soft,
        evict=memory.evict,
        evict_keep=memory.evict_keep.seconds,
        retention=chosen.retention,
        disk=chosen.disk,
        cold=chosen.cold,
        rollups=chosen.rollups,
        alerts_every=chosen.alerts.every.seconds,
    )
    for chosen_policy in chosen.precision:
        db.precision.set(chosen_policy.selector, chosen_policy.policy, counters=chosen_policy.counters)
    db.limits.set(*chosen.series_limits)
    return db


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Below errors it has a line for each malformed request; those are counted.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _with_web(chosen: Config, path: Path | None, allow_unauthenticated: bool) -> Config:
    web = chosen.web if path is None else load_web(path)
    if allow_unauthenticated:
        web = msgspec.structs.replace(web, allow_unauthenticated=True)
    return msgspec.structs.replace(chosen, web=web)


def _with_memory(chosen: Config, limit: str | None, retention: str | None) -> Config:
    if limit is not None:
        size = Size(size_bytes(limit, "memory-limit"))
        chosen = msgspec.structs.replace(chosen, memory=msgspec.structs.replace(chosen.memory, limit=size))
    if retention is not None:
        if " " not in retention:  # else a line, which the database reads
            Duration(duration_ms(retention, "retention") / 1000)
        chosen = msgspec.structs.replace(chosen, retention=retention)
    return chosen


def _with_storage(chosen: Config, data: Path | None, durability: str | None) -> Config:
    storage = chosen.storage
    if data is not None:
        storage = msgspec.structs.replace(storage, data=str(data))
    if durability is not None:
        if durability not in get_args(Mode):
            raise ConfigError(f"durability {durability!r} is not known; give batch, interval or none")
        storage = msgspec.structs.replace(storage, durability=cast(Mode, durability))
        if durability != "none" and storage.data is None:
            raise ConfigError(f"durability {durability!r} needs a directory; give --data DIR")
    return msgspec.structs.replace(chosen, storage=storage)


@app.command()
def scrape(
    urls: Annotated[list[str], typer.Argument(help="Addresses of metrics, such as http://localhost:9100/metrics.")],
    every: Annotated[str | None, typer.Option(help="Scrape again each interval, such as 5s; Ctrl-C ends.")] = None,
    query: Annotated[list[str] | None, typer.Option(help="PromQL to answer after each round.")] = None,
    timeout: Annotated[str, typer.Option(help="How long to wait for a target.")] = "10s",
) -> None:
    """Scrape targets once, or every so often, and show what came and what PromQL says of it."""
    interval = None if every is None else duration_ms(every, "every")
    if interval is not None and interval <= 0:
        raise ConfigError(f"every {every!r} must be longer than zero")
    wait = duration_ms(timeout, "timeout") / 1000
    chosen = [_target(url, interval or 60_000, wait) for url in urls]
    with Database() as db:
        failed = _run(_scrape_rounds(db, chosen, interval, query or []))
    if failed:
        raise typer.Exit(1)


@app.command("test-rules")
def check_rules(
    files: Annotated[list[Path], typer.Argument(help="Unit-test files of rules, as promtool takes them.")],
) -> None:
    """Run unit tests of alerting and recording rules: promtool's files, promtool's verdict; status 1 if one fails."""
    results = [run_rule_tests(path) for path in files]
    for result in results:
        out.print(Text("\n".join(map(printable, str(result).split("\n")))), soft_wrap=True)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


@app.command()
def hash_password() -> None:
    """Read a password, and print the hash that `password_hash` and `basic_auth_users` take."""
    if sys.stdin.isatty():
        password = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigError("the password is empty; give one on the first line")
    out.print(hash_of(password.encode()), markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    series: Annotated[int | None, typer.Option(help="Active series; by default a million, or what fits.")] = None,
    minutes: Annotated[float, typer.Option(help="How much history to stream in, at a scrape each 5 s (up to 10).")] = 6,
) -> None:
    """A fleet of real node_exporter data streams in, and answers what an operator would ask."""
    run_demo(series, minutes, out)


def _target(url: str, interval_ms: int, timeout_s: float) -> Target:
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"url {url!r} is not http(s)://host[:port]/path")
    url = url if parts.path else f"{url}/metrics"
    # A name and password stay in the request: labels are for everybody.
    return Target(url, {"job": "scrape", "instance": parts.netloc.rpartition("@")[2]}, interval_ms, timeout_s)


async def _scrape_rounds(db: Database, chosen: list[Target], interval: int | None, queries: list[str]) -> bool:
    """True if a target failed in the last round."""
    clock = SystemClock()
    scraper = Scraper(db._store, clock)
    try:
        while True:
            at = clock.now_ms()
            results = await asyncio.gather(*(scraper.scrape(target, at) for target in chosen))
            _show(results)
            for expr in queries:
                out.print(Text(expr, style="bold"))
                with pl.Config(tbl_rows=20, tbl_hide_dataframe_shape=True):
                    lines = str(db.query(expr, at / 1000)).split("\n")
                out.print(Text("\n".join(map(printable, lines))), soft_wrap=True)
            if interval is None:
                return any(r.error is not None for r in results)
            await clock.sleep(max(0, at + interval - clock.now_ms()) / 1000)
    finally:
        await scraper.close()


def _show(results: list[ScrapeResult]) -> None:
    table = Table("target", "up", "ms", "samples", "new series", "rejected")
    for r in results:
        # What a target sends is shown as text: no markup, no escapes of the terminal.
        rejected = Text(printable("; ".join(f"{reason} {count}: {example}" for reason, count, example in r.rejected)))
        up = Text("yes") if r.error is None else Text(printable(f"no: {r.error}"), style="red")
        ms, samples, created = f"{r.duration_s * 1000:.1f}", str(r.samples), str(r.series_created)
        table.add_row(Text(printable(r.target.shown)), up, ms, samples, created, rejected)
    out.print(table)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end on uvloop; Ctrl-C is an ordinary end."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit from None
