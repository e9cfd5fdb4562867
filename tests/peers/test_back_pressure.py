"""A real Prometheus that writes to a server without room, with a token: it waits, comes again, and loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from metricsdb.web import Credential, Web
from tests.peers.processes import free_port, need, running, wait_for
from tests.server.serving import Served, run, served

pytestmark = pytest.mark.peers

TOKEN = "writer-0123456789abcdef"
REFUSALS = 3
SCRAPES = 8


def configuration(folder: Path, port: int, ours: int) -> Path:
    (folder / "token").write_text(TOKEN)
    path = folder / "prometheus.yml"
    path.write_text(f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - {{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}
remote_write:
  - url: http://127.0.0.1:{ours}/api/v1/write
    authorization: {{credentials_file: {folder}/token}}
    queue_config: {{batch_send_deadline: 1s, min_shards: 2}}
""")
    return path


def story_of_prometheus(on: Served, folder: Path) -> tuple[dict[str, str], list[float]]:
    """In a thread beside the server: holds the room, lets it go; what Prometheus counted, and when it scraped."""
    port = free_port()
    command = [
        need("prometheus"),
        f"--config.file={configuration(folder, port, on.server.port)}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    intake = next(r.endpoint._app._intake for r in on.server._app.routes if r.path == "/api/v1/write")
    assert intake.room.take("writer@127.0.0.1", intake.room.size // 2)
    with running(command, f"http://127.0.0.1:{port}/-/ready", folder / "log"):
        wait_for("refusals", lambda: on.counts.refused["write_bytes"] >= REFUSALS)
        assert on.db.query("up").is_empty()
        intake.room.give("writer@127.0.0.1", intake.room.size // 2)
        wait_for("samples", lambda: sum(len(s.values) for s in on.db.raw("up", "-1h", "now")) >= SCRAPES)
        server = f"http://127.0.0.1:{port}"
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        [row] = httpx.get(f"{server}/api/v1/query", params={"query": "up[10m]"}).json()["data"]["result"]
    counted = dict(line.rpartition(" ")[::2] for line in lines if line.startswith("prometheus_remote_storage_samples"))
    return counted, [at for at, _ in row["values"]]


def test_prometheus_waits_for_room_and_loses_nothing(tmp_path):
    web = Web(credentials=[Credential("writer", ["write"], token_env="TOKEN")])

    async def story() -> None:
        async with served(web, environ={"TOKEN": TOKEN}) as on:
            counted, scraped = await asyncio.to_thread(story_of_prometheus, on, tmp_path)
            [series] = on.db.raw("up", "-1h", "now")
            came = [at / 1000 for at in series.timestamps.astype("int64").tolist()]
            assert [at for at in scraped if at <= came[-1]] == [at for at in came if at <= scraped[-1]]
            assert len(came) >= SCRAPES
            assert set(on.counts.refused) == {"write_bytes"}
            for name, value in counted.items():
                if name.startswith(
                    ("prometheus_remote_storage_samples_failed", "prometheus_remote_storage_samples_drop")
                ):
                    assert float(value) == 0, name
                if name.startswith("prometheus_remote_storage_samples_retried"):
                    assert float(value) > 0

    run(story())
