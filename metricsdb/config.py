"""The configuration file: YAML, checked field by field; every refusal names file, field, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from metricsdb.errors import ConfigError
from metricsdb.sizes import size_bytes, size_text
from metricsdb.times import duration_ms

__all__ = [
    "Config",
    "Duration",
    "Limits",
    "Memory",
    "PrecisionPolicy",
    "ScrapeJob",
    "Size",
    "StatsdListener",
    "Storage",
    "Upkeep",
    "address",
    "dump",
    "load",
    "parse",
]

T = TypeVar("T")

# Native code takes no larger body (BODY_BYTES_MAX of rust/model/src/bounds.rs).
BODY_BYTES_MAX = 64 << 20


class Duration:
    """A length of time in a configuration file: ``15s``, ``1m30s``, or a number of seconds."""

    __slots__ = ("ms",)

    def __init__(self, text: str | float) -> None:
        self.ms = duration_ms(text)
        if self.ms <= 0:
            raise ConfigError(f"{text!r} must be longer than zero; write it as '15s' or '1m'")

    @property
    def seconds(self) -> float:
        return self.ms / 1000

    def __str__(self) -> str:
        return f"{self.ms // 1000}s" if self.ms % 1000 == 0 else f"{self.ms}ms"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.ms == other.ms

    def __hash__(self) -> int:
        return hash(self.ms)


class Size:
    """Bytes in a configuration file: ``4GiB``, ``512MiB``, or a number."""

    __slots__ = ("bytes",)

    def __init__(self, text: str | int) -> None:
        self.bytes = size_bytes(text)

    def __str__(self) -> str:
        return size_text(self.bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.bytes == other.bytes

    def __hash__(self) -> int:
        return hash(self.bytes)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request may ask for."""

    body_bytes_max: int = BODY_BYTES_MAX
    query_concurrency: int = 20
    query_timeout: Duration = msgspec.field(default_factory=lambda: Duration("2m"))
    query_samples_max: int = 50_000_000
    query_memory_max: int = 2 << 30
    cache_memory: int = 64 << 20
    alert_concurrency: int = 20
    batch_concurrency: int = 2
    queries_waiting_max: int = 100
    query_wait: Duration = msgspec.field(default_factory=lambda: Duration("10s"))
    lookback: Duration = msgspec.field(default_factory=lambda: Duration("5m"))

    def __post_init__(self) -> None:
        positive = ("query_samples_max", "query_memory_max")
        for name in (*positive, "alert_concurrency", "query_concurrency", "batch_concurrency"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a number above zero")
        if self.queries_waiting_max < 0:
            raise ValueError(f"`queries_waiting_max` is {self.queries_waiting_max}; give 0 or more")
        if self.cache_memory < 0:
            raise ValueError(f"`cache_memory` is {self.cache_memory}; give 0 or more")
        _check_body_bytes_max(self.body_bytes_max)


class ScrapeJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Targets that are asked for their metrics every interval. Field names are Prometheus'."""

    job_name: str
    targets: list[str]
    scrape_interval: Duration = msgspec.field(default_factory=lambda: Duration("15s"))
    scrape_timeout: Duration | None = None
    metrics_path: str = "/metrics"
    scheme: Literal["http", "https"] = "http"
    labels: dict[str, str] = {}
    honor_labels: bool = False
    body_bytes_max: int = BODY_BYTES_MAX

    def __post_init__(self) -> None:
        if not self.job_name:
            raise ValueError("`job_name` is empty; name the job")
        _check_body_bytes_max(self.body_bytes_max)
        if not self.targets:
            raise ValueError(f"job {self.job_name!r} has no targets; list host:port of each")
        for target in self.targets:
            if "/" in target or not urlsplit(f"//{target}").hostname:
                raise ValueError(f"target {target!r} is not host:port; path and scheme are fields of the job")
        if self.scrape_timeout is not None and self.scrape_timeout.ms > self.scrape_interval.ms:
            raise ValueError(
                f"scrape_timeout {self.scrape_timeout} exceeds the interval of {self.scrape_interval}; shorten it"
            )

    @property
    def timeout(self) -> Duration:
        """The timeout that holds: ten seconds, or the interval if that is shorter."""
        return self.scrape_timeout or Duration(min(10_000, self.scrape_interval.ms) / 1000)

    def url(self, target: str) -> str:
        return f"{self.scheme}://{target}{self.metrics_path}"


class StatsdListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where StatsD lines come in; an address that is left out is not listened on."""

    udp: str | None = None
    tcp: str | None = None
    queue_messages_max: int = 100_000
    flush_interval: Duration = msgspec.field(default_factory=lambda: Duration("1s"))
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        for text in (self.udp, self.tcp):
            if text is not None:
                _as_value_error(address, text)
        if self.queue_messages_max <= 0:
            raise ValueError(f"`queue_messages_max` is {self.queue_messages_max}; give a number above zero")


class Upkeep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How old chunks are re-encoded, and how much of one core that may take."""

    dense_after: Duration = msgspec.field(default_factory=lambda: Duration("2h"))
    idle_cpu: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.idle_cpu <= 1:
            raise ValueError(f"`idle_cpu` is {self.idle_cpu}; give 0 (off) to 1 (a whole core)")


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the database may hold, and what leaves when that is too much."""

    limit: Size | None = None
    soft: float = 0.85
    evict: Literal["oldest", "never"] = "oldest"
    evict_keep: Duration = msgspec.field(default_factory=lambda: Duration("10m"))

    def __post_init__(self) -> None:
        if not 0 < self.soft <= 1:
            raise ValueError(f"`soft` is {self.soft}; give a share of the limit, above 0 and at most 1")


class PrecisionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How exactly the samples of some series are kept; the first policy that matches a series wins."""

    selector: str
    policy: str
    counters: Literal["exact", "rounded"] = "exact"


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The directory that keeps the data, and what an answered write survives. Without one, all is in memory."""

    data: str | None = None
    durability: Literal["batch", "interval", "none"] = "batch"
    sync_interval: Duration = msgspec.field(default_factory=lambda: Duration("1s"))

    def __post_init__(self) -> None:
        if self.data == "":
            raise ValueError("`data` is empty; name a directory, or leave it out")
        if self.sync_interval.ms < 10:
            raise ValueError(f"`sync_interval` is {self.sync_interval}; give 10ms or more, or durability `batch`")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. An empty one is valid: every field has a default."""

    listen: str = "127.0.0.1:9090"
    duplicates: Literal["last", "first", "min", "max", "sum", "error"] = "last"
    limits: Limits = msgspec.field(default_factory=Limits)
    scrape: list[ScrapeJob] = []
    statsd: StatsdListener | None = None
    upkeep: Upkeep = msgspec.field(default_factory=Upkeep)
    storage: Storage = msgspec.field(default_factory=Storage)
    memory: Memory = msgspec.field(default_factory=Memory)
    retention: Duration | None = None
    precision: list[PrecisionPolicy] = []

    def __post_init__(self) -> None:
        _as_value_error(address, self.listen)
        names = [job.job_name for job in self.scrape]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two jobs are called {name!r}; give each its own name")
        selectors = [p.selector for p in self.precision]
        for selector in selectors:
            if selectors.count(selector) > 1:
                raise ValueError(f"two precision policies have the selector {selector!r}; keep one of them")


def _check_body_bytes_max(value: int) -> None:
    if not 0 < value <= BODY_BYTES_MAX:
        raise ValueError(f"`body_bytes_max` is {value}; give a number above zero, at most {BODY_BYTES_MAX} (64 MiB)")


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[v6]:port`` or ``:port`` (all interfaces). Raises ConfigError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):(\d{1,5})", text, re.ASCII)
    if match is None or int(match[2]) > 65_535:
        raise ConfigError(f"address {text!r} is not HOST:PORT; write for example 127.0.0.1:9090")
    return match[1].strip("[]") or "0.0.0.0", int(match[2])


def load(path: Path) -> Config:
    """Reads a configuration file. Raises ConfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check the path and its rights") from None
    return parse(text, str(path))


def parse(text: bytes, name: str = "configuration") -> Config:
    """As `load`, from the text of a file; `name` is what errors call it."""
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: is not YAML: {' '.join(str(error).split())}") from None
    tree = {} if tree is None else tree
    try:
        return msgspec.convert(tree, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_blame(str(error), tree)}") from None


def dump(config: Config) -> str:
    """The configuration as YAML, defaults included."""
    return msgspec.yaml.encode(config, enc_hook=str).decode()


def _decode(kind: type, value: Any) -> Any:
    """Types of ours that msgspec does not know; it adds the path to the error."""
    if kind is Duration and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return _as_value_error(Duration, value)
    if kind is Size and isinstance(value, (str, int)) and not isinstance(value, bool):
        return _as_value_error(Size, value)
    if kind is Size:
        raise ValueError(f"{value!r} is not a size; write it as '4GiB', '512MiB', or bytes")
    raise ValueError(f"{value!r} is not a {kind.__name__.lower()}; write it as '15s', '1m30s', or seconds")


def _as_value_error(check: Callable[[Any], T], value: Any) -> T:
    """msgspec adds the field's path to a ValueError, and to nothing else."""
    try:
        return check(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _blame(message: str, tree: Any) -> str:
    """`field: value: what is wrong`, from msgspec's `what - at `$.field``."""
    what, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if not field:
        known = ", ".join(Config.__struct_fields__)
        return f"{what}; the fields are {known}" if "unknown field" in what else what
    value = tree
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            return f"{field}: {what}"
    shown = repr(value)
    return f"{field}: {what} (it is {shown if len(shown) <= 80 else shown[:79] + '…'})"
