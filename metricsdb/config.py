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
from metricsdb.times import Duration, duration_ms
from metricsdb.web import Secret, Web

__all__ = [
    "Alerts",
    "Authorization",
    "BasicAuth",
    "Config",
    "Limit",
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
    "load_web",
    "parse",
]

T = TypeVar("T")

# Native code takes no larger body (BODY_BYTES_MAX of rust/model/src/bounds.rs).
BODY_BYTES_MAX = 64 << 20


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


class BasicAuth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name and password that a target asks for. The file is read at each scrape."""

    username: str
    password_file: str


class Authorization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that a target asks for. The file is read at each scrape."""

    credentials_file: str
    type: str = "Bearer"


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
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None

    def __post_init__(self) -> None:
        if not self.job_name:
            raise ValueError("`job_name` is empty; name the job")
        _check_body_bytes_max(self.body_bytes_max)
        if not self.targets:
            raise ValueError(f"job {self.job_name!r} has no targets; list host:port of each")
        for target in self.targets:
            if "@" in target:
                raise ValueError("a target has a name or password; give basic_auth: {username: …, password_file: …}")
            if "/" in target or not urlsplit(f"//{target}").hostname:
                raise ValueError(f"target {target!r} is not host:port; path and scheme are fields of the job")
        if self.basic_auth is not None and self.authorization is not None:
            raise ValueError(f"job {self.job_name!r} has basic_auth and authorization; keep one of them")
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
    queue_bytes_max: int = 32 << 20
    connections_max: int = 1024
    flush_interval: Duration = msgspec.field(default_factory=lambda: Duration("1s"))
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        for text in (self.udp, self.tcp):
            if text is not None:
                _as_value_error(address, text)
        for name in ("queue_messages_max", "connections_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a number above zero")
        most = BODY_BYTES_MAX - self.queue_messages_max
        if not 1 << 20 <= self.queue_bytes_max <= most:
            raise ValueError(f"`queue_bytes_max` is {self.queue_bytes_max}; give 1048576 to {most}")


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


# What `by` may say instead of label names.
GROUPS = {"metric": ["__name__"], "source": ["job", "instance"]}


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many series there may be, or how many new ones, and what becomes of one too many. docs/cardinality.md.

    ``max_series``: live series for each combination of values of the labels ``by`` (``"metric"``, ``"source"`` for job
    and instance, a label, or a list of them; none: in all). ``max_new``: new series of one metric in a ``window``. Both
    among those that ``selector`` takes. ``at_limit``: ``"reject"``; ``"drop_label"``: samples go to the series without
    ``label``; ``"overflow"``: they are added up in the series whose ``label`` is ``__overflow__``. ``max_folded``
    series more are allowed for these (default: as many again). With ``max_new`` the label is found, where it is not
    given."""

    max_series: int | None = None
    max_new: int | None = None
    window: str | float = "10s"
    by: str | list[str] = []
    selector: str = ""
    at_limit: Literal["reject", "drop_label", "overflow"] = "reject"
    label: str | None = None
    max_folded: int | None = None
    name: str = ""

    @property
    def labels(self) -> list[str]:
        """The label names that `by` means."""
        if isinstance(self.by, str):
            return GROUPS.get(self.by, [self.by] if self.by else [])
        return list(self.by)

    @property
    def title(self) -> str:
        """The name, or one made of what it limits."""
        by = f" by {', '.join(self.labels)}" if self.labels else ""
        return self.name or f"{'series' if self.max_new is None else 'new series'}{by}" + (
            f" of {self.selector}" if self.selector else ""
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with it, and what to do; None if it may be set."""
        if (self.max_series is None) == (self.max_new is None):
            return "give either max_series or max_new"
        for name in ("max_series", "max_new", "max_folded"):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
                return f"{name} is {count!r}; give a whole number, 0 or more"
        if self.at_limit not in ("reject", "drop_label", "overflow"):
            return f"at_limit is {self.at_limit!r}; give reject, drop_label or overflow"
        if self.at_limit == "reject" and (self.label is not None or self.max_folded is not None):
            return "label and max_folded mean nothing with at_limit reject; leave them out, or give another at_limit"
        if self.at_limit != "reject" and self.max_series is not None and not self.label:
            return f"at_limit {self.at_limit} needs a label; name the one that makes too many series"
        if self.label == "__name__":
            return "the label cannot be __name__; name the one that makes too many series"
        if self.max_new is not None and (self.labels or self.max_folded is not None):
            return "max_new counts metric by metric; leave by and max_folded out"
        if self.max_new is not None and self.max_new < 10:
            return f"max_new is {self.max_new}; give 10 or more, or every deployment would meet it"
        try:
            window = duration_ms(self.window, "window")
        except ConfigError as error:
            return str(error)
        return None if window >= 1000 else f"window is {self.window!r}; give a second or more"


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


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is evaluated, and who is told. Paths are relative to the configuration file."""

    rules: list[str] = []
    every: Duration = msgspec.field(default_factory=lambda: Duration("1m"))
    route: str | None = None
    alertmanagers: list[str] = []
    external_url: str | None = None
    external_labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        for url in (*self.alertmanagers, *filter(None, [self.external_url])):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address of `alerts` is not http(s)://host[:port][/path]; write it so")

    def relative_to(self, folder: Path) -> Alerts:
        route = None if self.route is None else str(folder / self.route)
        return msgspec.structs.replace(self, rules=[str(folder / rule) for rule in self.rules], route=route)

    def files(self) -> list[Path]:
        """The files that `rules` names, patterns filled in."""
        found: list[Path] = []
        for rule in self.rules:
            path = Path(rule)
            start, pattern = Path(path.anchor or "."), str(path.relative_to(path.anchor))
            found += sorted(start.glob(pattern)) if re.search(r"[*?\[]", rule) else [path]
        return found


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
    retention: str | float | dict[str, Any] | list[dict[str, Any]] | None = None
    disk: str | None = None
    """Directory of older samples, between memory and `cold`."""
    cold: str | None = None
    """Object store of older samples: `s3://bucket/prefix`, `gs://…`, `az://…`, or a directory."""
    precision: list[PrecisionPolicy] = []
    rollups: dict[str, str] = {}
    web: Web = msgspec.field(default_factory=Web)
    series_limits: list[Limit] = []
    alerts: Alerts = msgspec.field(default_factory=Alerts)

    def __post_init__(self) -> None:
        # Lines and rules are read where they are used; a length of time is one at once.
        if isinstance(self.retention, float) or (isinstance(self.retention, str) and self.retention[:1].isdigit()):
            _as_value_error(Duration, self.retention)
        _as_value_error(address, self.listen)
        names = [job.job_name for job in self.scrape]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two jobs are called {name!r}; give each its own name")
        if self.web.write_bytes_max < 2 * self.limits.body_bytes_max:
            raise ValueError(
                f"`web.write_bytes_max` is {self.web.write_bytes_max}; give twice `limits.body_bytes_max` or more, "
                "as one sender alone gets half of it"
            )
        selectors = [p.selector for p in self.precision]
        for selector in selectors:
            if selectors.count(selector) > 1:
                raise ValueError(f"two precision policies have the selector {selector!r}; keep one of them")
        titles = [limit.title for limit in self.series_limits]
        for limit in self.series_limits:
            if limit.problem is not None:
                raise ValueError(f"series limit {limit.title!r}: {limit.problem}")
            if titles.count(limit.title) > 1:
                raise ValueError(f"two series limits are called {limit.title!r}; give each its own name")


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
    """Reads a configuration file; paths in it are relative to the file. Raises ConfigError."""
    chosen = parse(_read(path), str(path))
    jobs = [_job_relative_to(job, path.parent) for job in chosen.scrape]
    web, alerts = chosen.web.relative_to(path.parent), chosen.alerts.relative_to(path.parent)
    return msgspec.structs.replace(chosen, web=web, scrape=jobs, alerts=alerts)


def _job_relative_to(job: ScrapeJob, folder: Path) -> ScrapeJob:
    basic, token = job.basic_auth, job.authorization
    if basic is not None:
        basic = msgspec.structs.replace(basic, password_file=str(folder / basic.password_file))
    if token is not None:
        token = msgspec.structs.replace(token, credentials_file=str(folder / token.credentials_file))
    return msgspec.structs.replace(job, basic_auth=basic, authorization=token)


def load_web(path: Path) -> Web:
    """Reads a file that is a `web` section, or a web configuration of Prometheus. Raises ConfigError."""
    return _convert(_read(path), Web, str(path)).relative_to(path.parent)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check the path and its rights") from None


def parse(text: bytes, name: str = "configuration") -> Config:
    """As `load`, from the text of a file; `name` is what errors call it."""
    return _convert(text, Config, name)


def _convert(text: bytes, kind: type[T], name: str) -> T:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: is not YAML: {_without_text(error)}") from None
    tree = {} if tree is None else tree
    try:
        return msgspec.convert(tree, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_blame(str(error), tree, kind)}") from None


def _without_text(error: Exception) -> str:
    """What is wrong and where, without the line itself: it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem or error.context} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def dump(config: Config) -> str:
    """The configuration as YAML, defaults included."""
    return msgspec.yaml.encode(config, enc_hook=str).decode()


def _decode(kind: type, value: Any) -> Any:
    """Types of ours that msgspec does not know; it adds the path to the error."""
    if kind is Secret:
        if isinstance(value, str):
            return Secret(value)
        raise ValueError("is not text; put it in quotes")
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


def _blame(message: str, tree: Any, kind: type[Any]) -> str:
    """`field: value: what is wrong`, from msgspec's `what - at `$.field``; never a value where secrets stand."""
    what, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if not field:
        known = ", ".join(kind.__struct_fields__)
        return f"{what}; the fields are {known}" if "unknown field" in what else what
    if kind is Web or field.startswith("web"):
        return f"{field}: {what}"
    value = tree
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            return f"{field}: {what}"
    shown = repr(value)
    return f"{field}: {what} (it is {shown if len(shown) <= 80 else shown[:79] + '…'})"
