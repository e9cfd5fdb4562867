"""The configuration file: what is taken, and that every refusal names field, value and remedy."""

from pathlib import Path

import pytest

import metricsdb as mdb
from metricsdb import config
from metricsdb.cli import _opened
from metricsdb.errors import ConfigError, MetricsDBError


def test_an_empty_file_gives_the_defaults():
    assert config.parse(b"") == config.Config()


def test_a_full_file_is_read_field_by_field():
    text = b"""
listen: 0.0.0.0:9999
duplicates: first
limits: {body_bytes_max: 1000, query_timeout: 30s}
scrape:
  - job_name: node
    targets: [localhost:9100, '[::1]:9100']
    scrape_interval: 1m30s
    labels: {team: core}
statsd: {udp: '127.0.0.1:8125'}
"""
    got = config.parse(text)
    assert got.listen == "0.0.0.0:9999"
    assert got.limits.body_bytes_max == 1000
    assert got.limits.query_timeout.ms == 30_000
    job = got.scrape[0]
    assert job.scrape_interval.ms == 90_000
    assert job.timeout.ms == 10_000
    assert job.url("localhost:9100") == "http://localhost:9100/metrics"
    assert got.statsd is not None
    assert got.statsd.udp == "127.0.0.1:8125"


def test_what_is_dumped_is_read_back():
    text = b"scrape: [{job_name: a, targets: ['b:1'], scrape_interval: 500ms}]"
    once = config.parse(text)
    assert config.parse(config.dump(once).encode()) == once


def test_tiers_of_older_samples_are_opened_as_the_file_says(tmp_path):
    text = f"{{disk: {tmp_path}/near, cold: {tmp_path}/far, retention: 'memory 1d -> disk 2d -> cold'}}"
    db = _opened(config.parse(text.encode()))
    assert repr(db.disk) == f"Cold('file://{tmp_path}/near')"
    assert repr(db.cold) == f"Cold('file://{tmp_path}/far')"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"listn: 1", ["x.yml", "listn", "listen"]),
        (b"listen: 80", ["listen", "80"]),
        (b"listen: nowhere", ["nowhere", "HOST:PORT"]),
        (b"limits: {query_timeout: soon}", ["limits.query_timeout", "soon", "30s"]),
        (b"limits: {query_timeout: 0}", ["limits.query_timeout", "zero"]),
        (b"limits: {query_timeout: [1]}", ["limits.query_timeout", "[1]"]),
        (b"limits: {query_concurrency: -1}", ["query_concurrency", "-1", "above zero"]),
        (b"limits: {body_bytes: 1}", ["limits", "body_bytes"]),
        (b"limits: {body_bytes_max: 0}", ["limits", "`body_bytes_max` is 0", "above zero"]),
        (b"limits: {body_bytes_max: 67108865}", ["limits", "`body_bytes_max` is 67108865", "at most 67108864"]),
        (
            b"scrape: [{job_name: a, targets: ['b:1'], body_bytes_max: 67108865}]",
            ["scrape[0]", "`body_bytes_max` is 67108865", "at most 67108864"],
        ),
        (b"scrape: [{job_name: a}]", ["scrape[0]", "targets"]),
        (b"scrape: [{job_name: a, targets: []}]", ["a", "host:port"]),
        (b"scrape: [{job_name: a, targets: ['http://b/']}]", ["http://b/", "host:port"]),
        (b"scrape: [{job_name: '', targets: ['b:1']}]", ["job_name"]),
        (b"scrape: [{job_name: a, targets: ['b:1'], scrape_timeout: 1m}]", ["scrape_timeout", "60s", "15s"]),
        (b"scrape: [{job_name: a, targets: ['b:1']}, {job_name: a, targets: ['b:1']}]", ["'a'", "own name"]),
        (b"statsd: {udp: '8125'}", ["8125", "HOST:PORT"]),
        (b"scrape: [{job_name: a, targets: ['u:p@b:1']}]", ["password_file"]),
        (
            b"scrape: [{job_name: a, targets: ['b:1'], basic_auth: {username: u, password_file: f}, "
            b"authorization: {credentials_file: f}}]",
            ["basic_auth and authorization", "keep one"],
        ),
        (b"statsd: {queue_messages_max: 0}", ["queue_messages_max", "0"]),
        (b"statsd: {queue_bytes_max: 100}", ["queue_bytes_max", "1048576"]),
        (b"statsd: {queue_bytes_max: 67108864}", ["queue_bytes_max", "67008864"]),
        (b"web: {write_bytes_max: 100}", ["write_bytes_max", "twice"]),
        (b"duplicates: maybe", ["duplicates", "maybe"]),
        (b"- a", ["object", "array"]),
        (b"a: [", ["YAML"]),
        (b"\xff", ["YAML"]),
    ],
)
def test_a_refusal_says_what_where_and_how(text, words):
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "x.yml")
    for word in ["x.yml", *words]:
        assert word in str(caught.value)


def test_the_largest_body_of_a_configuration_is_the_largest_that_is_taken():
    config.parse(b"limits: {body_bytes_max: %d}" % config.BODY_BYTES_MAX)
    with mdb.Database() as db:
        db.ingest(b"\n" * config.BODY_BYTES_MAX, "prometheus")
        with pytest.raises(MetricsDBError, match=str(config.BODY_BYTES_MAX)):
            db.ingest(b"\n" * (config.BODY_BYTES_MAX + 1), "prometheus")


def test_a_file_that_is_not_there_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"missing\.yml: cannot be read"):
        config.load(tmp_path / "missing.yml")


def test_a_file_is_loaded(tmp_path: Path):
    path = tmp_path / "a.yml"
    path.write_text("listen: ':7'")
    assert config.load(path).listen == ":7"
    assert config.address(":7") == ("0.0.0.0", 7)
    assert config.address("[::1]:80") == ("::1", 80)
