"""Everything that `metricsdb serve` runs in one process: HTTP, scraping, listeners; and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from metricsdb.adapters.listen import Statsd
from metricsdb.adapters.scrape import Scraper, targets
from metricsdb.clock import Clock, SystemClock
from metricsdb.config import Config, address
from metricsdb.database import Database
from metricsdb.server.app import create_app
from metricsdb.server.state import Counts

__all__ = ["serve"]

log = logging.getLogger("metricsdb.server")

# How long a stop waits for requests that still run.
GRACE_S = 10


async def serve(db: Database, config: Config, *, clock: Clock | None = None, flags: Mapping[str, str]) -> None:
    """Serves `db` until SIGINT or SIGTERM; requests in flight may end, queues are flushed."""
    clock = clock or SystemClock()
    counts = Counts(clock.now_ms() / 1000)
    host, port = address(config.listen)
    app = create_app(db, config=config, counts=counts, flags=flags)
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http="httptools",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
    )
    statsd = None
    if config.statsd is not None:
        statsd = Statsd(db._native, clock, config.statsd, written=counts.write, dropped=counts.drop)
        await statsd.start()
    scraper = Scraper(db._native, clock, written=counts.write)
    beside = [asyncio.create_task(scraper.run(targets(config.scrape)))] if config.scrape else []
    if statsd is not None:
        beside.append(asyncio.create_task(statsd.run()))
    db.start()
    try:
        log.info("listening on http://%s:%d", host, port)
        await server.serve()
    finally:
        await asyncio.to_thread(db.stop)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await scraper.close()


class _Server(uvicorn.Server):
    """Ends on a signal without raising it once more: what runs beside the server ends in order, too."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
