"""A real Prometheus scrapes a real node_exporter and remote-writes it into `metricsdb serve`; both answer alike."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.peers.processes import free_port, need, running, wait_for

pytestmark = pytest.mark.peers

# How long Prometheus scrapes, at one scrape a second, before the questions are asked.
SECONDS = int(os.environ.get("METRICSDB_PEER_SECONDS", "120"))

QUERIES = [
    "up",
    'up{job="node"} == 1',
    "node_load1",
    "node_cpu_seconds_total",
    'node_cpu_seconds_total{mode!="idle",cpu=~"0|1"}',
    "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
    "rate(node_cpu_seconds_total[30s])",
    "irate(node_cpu_seconds_total[30s])",
    "increase(node_context_switches_total[20s])",
    "sum by (mode) (rate(node_cpu_seconds_total[30s]))",
    'avg without (cpu) (rate(node_cpu_seconds_total{mode=~"user|system"}[30s]))',
    "topk(3, rate(node_interrupts_total[30s]))",
    "bottomk(2, node_cpu_seconds_total)",
    'count by (__name__) ({__name__=~"node_memory_.+"})',
    'count({__name__=~".+"})',
    "max by (device) (node_network_receive_bytes_total)",
    "min(node_filesystem_avail_bytes)",
    "stddev by (mode) (node_cpu_seconds_total)",
    "stdvar(node_cpu_seconds_total)",
    "quantile by (mode) (0.9, rate(node_cpu_seconds_total[30s]))",
    'count_values("value", up)',
    "group by (job) (up)",
    "avg_over_time(node_load1[30s])",
    "min_over_time(node_memory_MemFree_bytes[30s])",
    "max_over_time(node_memory_MemFree_bytes[30s])",
    "sum_over_time(node_load5[20s])",
    "count_over_time(up[17s])",
    "stddev_over_time(node_memory_MemFree_bytes[30s])",
    "quantile_over_time(0.75, node_memory_MemFree_bytes[30s])",
    "last_over_time(node_load15[10s])",
    "present_over_time(up[10s])",
    "changes(node_memory_MemFree_bytes[30s])",
    "resets(node_context_switches_total[30s])",
    "delta(node_memory_MemFree_bytes[30s])",
    "idelta(node_memory_MemFree_bytes[30s])",
    "deriv(node_memory_MemFree_bytes[30s])",
    "predict_linear(node_memory_MemFree_bytes[30s], 600)",
    "absent(nothing_of_this_name)",
    "absent(up)",
    'label_replace(up, "host", "$1", "instance", "(.*):.*")',
    'label_join(up, "both", "-", "job", "instance")',
    "clamp(node_load1, 0.1, 0.2)",
    "round(node_load1 * 100, 5)",
    "abs(ln(node_load1 + 1)) ^ 2 % 3",
    "node_load1 offset 10s",
    "max_over_time(rate(node_cpu_seconds_total[10s])[30s:5s])",
    "histogram_quantile(0.9, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket[30s])))",
    "node_network_receive_bytes_total * on (device) group_left (operstate) node_network_info",
    'up{job="node"} or node_load1 and on (instance) up unless up{job="prometheus"}',
    "node_time_seconds - timestamp(node_time_seconds) > bool 0",
    "sort_desc(sum by (job) (scrape_samples_scraped))",
    "vector(scalar(count(up))) + time() - minute() + hour()",
]


@dataclass(frozen=True)
class Pair:
    """The two servers, and a moment of which both have everything."""

    ours: str
    theirs: str
    at: float

    def ask(self, server: str, path: str, **parameters: object) -> dict:
        answer = httpx.get(f"{server}/api/v1/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def config(node: int, prometheus: int, ours: int) -> str:
    return f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - {{job_name: node, static_configs: [{{targets: ['127.0.0.1:{node}']}}]}}
  - {{job_name: prometheus, static_configs: [{{targets: ['127.0.0.1:{prometheus}']}}]}}
remote_write:
  - url: http://127.0.0.1:{ours}/api/v1/write
    queue_config: {{batch_send_deadline: 1s}}
    metadata_config: {{send_interval: 5s}}
"""


def newest(server: str) -> dict[str, float]:
    """For each job the time of its newest sample, as far as the server knows."""
    answer = httpx.get(f"{server}/api/v1/query", params={"query": "up[10m]"}).json()
    return {row["metric"]["job"]: row["values"][-1][0] for row in answer["data"]["result"]}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    prometheus, exporter = need("prometheus"), need("prometheus-node-exporter")
    folder = tmp_path_factory.mktemp("peers")
    node, theirs, ours = free_port(), free_port(), free_port()
    (folder / "prometheus.yml").write_text(config(node, theirs, ours))
    serve = [sys.executable, "-m", "metricsdb", "serve", "--listen", f"127.0.0.1:{ours}"]
    scraper = [
        prometheus,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{theirs}",
    ]
    with (
        running([exporter, f"--web.listen-address=127.0.0.1:{node}"], f"http://127.0.0.1:{node}/", folder / "node.log"),
        running(serve, f"http://127.0.0.1:{ours}/-/ready", folder / "ours.log"),
        running(scraper, f"http://127.0.0.1:{theirs}/-/ready", folder / "prometheus.log"),
    ):
        yield scraped(f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{theirs}")


def scraped(ours: str, theirs: str) -> Pair:
    """Waits until enough was scraped, and until what was scraped has also arrived."""
    wait_for("the first scrapes", lambda: len(newest(theirs)) == 2)
    first = max(newest(theirs).values())
    wait_for(f"{SECONDS} s of scrapes", lambda: max(newest(theirs).values()) >= first + SECONDS, SECONDS + 60, 1)
    last = min(newest(theirs).values())
    wait_for("remote write to catch up", lambda: min(newest(ours).values(), default=0) >= last + 4, 60, 1)
    # Between the scrapes of both jobs: no sample stands on the left edge of a range, where 2.42 still counts it.
    moments = sorted(t % 1 for t in newest(theirs).values())
    gaps = [(moments[1] - moments[0], moments[0]), (1 + moments[0] - moments[1], moments[1])]
    width, begin = max(gaps)
    return Pair(ours, theirs, round(math.floor(last - 2) + begin + width / 2, 3))


def same_number(a: str, b: str) -> bool:
    x, y = float(a), float(b)
    return a == b or math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(x) and math.isnan(y))


def rows(data: dict) -> dict[tuple, list]:
    """Label set -> samples, whatever the order."""
    if data["resultType"] in ("scalar", "string"):
        return {(): [data["result"]]}
    return {
        tuple(sorted(row["metric"].items())): row["values"] if "values" in row else [row["value"]]
        for row in data["result"]
    }


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours["resultType"] == theirs["resultType"]
    a, b = rows(ours), rows(theirs)
    assert set(a) == set(b)
    for labels, samples in a.items():
        assert [t for t, _ in samples] == [t for t, _ in b[labels]], labels
        for (_, x), (_, y) in zip(samples, b[labels], strict=True):
            assert same_number(x, y), (labels, x, y)


@pytest.mark.parametrize("expr", QUERIES)
def test_both_answer_alike(pair: Pair, expr: str) -> None:
    instant = {"query": expr, "time": pair.at}
    assert_same(pair.ask(pair.ours, "query", **instant), pair.ask(pair.theirs, "query", **instant))
    over = {"query": expr, "start": pair.at - 60, "end": pair.at, "step": 5}
    assert_same(pair.ask(pair.ours, "query_range", **over), pair.ask(pair.theirs, "query_range", **over))


def test_at_least_fifty_queries_are_asked() -> None:
    assert len(set(QUERIES)) >= 50


def test_the_left_edge_of_a_range_is_the_one_known_difference(pair: Pair) -> None:
    """Prometheus 2.42 counts a sample that stands exactly on the left edge of a range; since 3.0 it does not."""
    stood = pair.ask(pair.theirs, "query", query='timestamp(up{job="node"})', time=pair.at)["result"][0]["value"][1]
    parameters = {"query": 'count_over_time(up{job="node"}[10s])', "time": stood}
    raw = pair.ask(pair.theirs, "query", query='up{job="node"}[10s]', time=stood)["result"][0]["values"]
    on_the_edge = sum(1 for t, _ in raw if round(t * 1000) == round(float(stood) * 1000) - 10_000)
    theirs = pair.ask(pair.theirs, "query", **parameters)["result"][0]["value"][1]
    ours = pair.ask(pair.ours, "query", **parameters)["result"][0]["value"][1]
    assert int(theirs) - int(ours) == on_the_edge


# Path and parameters of requests that are refused; both say so in the same words, but for the text of parse errors.
REFUSED: list[tuple[str, dict[str, str], bool]] = [
    ("query", {"query": "up", "time": "soon"}, True),
    ("query", {"query": "up", "timeout": "soon"}, True),
    ("query", {"query": "sum("}, False),
    ("query", {"query": ""}, False),
    ("query", {"query": "rate(up)"}, False),
    ("query", {"query": "up + on (x) group_left () up offset 1h or vector(1) and up{"}, False),
    ("query", {"query": 'label_replace(up, "~", "", "", "(")'}, False),
    ("query", {"query": "prometheus_http_requests_total + on (job) prometheus_http_requests_total"}, False),
    ("query_range", {"query": "up"}, True),
    ("query_range", {"query": "up", "start": "0", "end": "x"}, True),
    ("query_range", {"query": "up", "start": "0", "end": "1"}, True),
    ("query_range", {"query": "up", "start": "2", "end": "1", "step": "1"}, True),
    ("query_range", {"query": "up", "start": "0", "end": "1", "step": "0"}, True),
    ("query_range", {"query": "up", "start": "0", "end": "1", "step": "1h1d"}, True),
    ("query_range", {"query": "up", "start": "0", "end": "11001", "step": "1"}, True),
    ("query_range", {"query": "up[1m]", "start": "0", "end": "1", "step": "1"}, False),
    ("series", {}, True),
    ("series", {"match[]": "{"}, False),
    ("series", {"match[]": "up", "start": "2020-01-01"}, True),
    ("labels", {"match[]": "{}"}, False),
    ("label/job/values", {"end": "x"}, True),
    ("format_query", {"query": "sum("}, False),
]


@pytest.mark.parametrize(("path", "parameters", "same_words"), REFUSED)
def test_both_refuse_alike(pair: Pair, path: str, parameters: dict[str, str], same_words: bool) -> None:
    ours = httpx.get(f"{pair.ours}/api/v1/{path}", params=parameters)
    theirs = httpx.get(f"{pair.theirs}/api/v1/{path}", params=parameters)
    assert ours.status_code == theirs.status_code
    assert ours.json()["errorType"] == theirs.json()["errorType"]
    if same_words:
        assert ours.json() == theirs.json()


def test_labels_series_and_metadata_are_the_same(pair: Pair) -> None:
    for path in ("labels", "label/job/values", "label/__name__/values"):
        ours, theirs = pair.ask(pair.ours, path), pair.ask(pair.theirs, path)
        assert ours == theirs
    match = {"match[]": "node_cpu_seconds_total"}
    ours, theirs = pair.ask(pair.ours, "series", **match), pair.ask(pair.theirs, "series", **match)
    assert {tuple(sorted(labels.items())) for labels in ours} == {tuple(sorted(labels.items())) for labels in theirs}
    assert len(ours) == len(theirs)
    metadata = pair.ask(pair.ours, "metadata", metric="node_cpu_seconds_total")
    assert metadata == pair.ask(pair.theirs, "metadata", metric="node_cpu_seconds_total")


@pytest.mark.parametrize(
    "arguments",
    [
        ["instant", "--time={at}", "{server}", "sum by (mode) (node_cpu_seconds_total)"],
        ["range", "--start={start}", "--end={at}", "--step=10s", "{server}", "node_load1"],
        ["series", "--match=node_cpu_seconds_total", "{server}"],
        ["labels", "{server}", "mode"],
    ],
    ids=lambda a: a[0],
)
def test_promtool_reads_both_alike(pair: Pair, arguments: list[str]) -> None:
    promtool = need("promtool")

    def output(server: str) -> list[str]:
        words = [a.format(server=server, at=pair.at, start=pair.at - 60) for a in arguments]
        done = subprocess.run([promtool, "query", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    ours = output(pair.ours)
    assert ours
    assert ours == output(pair.theirs)


def test_nothing_was_refused(pair: Pair) -> None:
    lines = httpx.get(f"{pair.ours}/metrics").text.splitlines()
    refused = [line for line in lines if line.startswith("metricsdb_rejected_samples_total{")]
    assert refused == []
    assert any(line.startswith('metricsdb_ingested_samples_total{source="remote_write"}') for line in lines)


def test_a_stop_is_orderly(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "metricsdb", "serve", "--listen", f"127.0.0.1:{port}"]
    with running(command, f"http://127.0.0.1:{port}/-/ready", tmp_path / "log") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
