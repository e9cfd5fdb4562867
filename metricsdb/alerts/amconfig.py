"""Alertmanager's configuration file, in and out without loss: what the router needs is typed, the rest carried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metricsdb.alerts.documents import read_yaml, to_yaml
from metricsdb.alerts.intervals import TimeInterval
from metricsdb.alerts.matchers import Matcher, matches, of_route, shown
from metricsdb.errors import ConfigError
from metricsdb.times import duration_ms

__all__ = ["Config", "InhibitRule", "Integration", "Receiver", "Route", "load"]

# Whether a receiver of this kind is told of what is over, unless it says so itself.
_SEND_RESOLVED = {"email": False, "wechat": False, "slack": False, "msteams": True, "telegram": True, "sns": True}


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, with what it inherits filled in. ``group_by`` None: by all labels (``...``).

    ``id`` is its path of places in the tree, ``key`` that of matchers, which two routes may have alike.
    """

    id: str
    key: str
    receiver: str
    matchers: tuple[Matcher, ...]
    group_by: tuple[str, ...] | None
    group_wait_ms: int
    group_interval_ms: int
    repeat_interval_ms: int
    goes_on: bool = False
    mute: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()

    def match(self, labels: Mapping[str, str]) -> list[Route]:
        """The routes that take an alert, in the tree's order; none where this one doesn't."""
        if not matches(self.matchers, labels):
            return []
        found: list[Route] = []
        for child in self.routes:
            taken = child.match(labels)
            found += taken
            if taken and not child.goes_on:
                break
        return found or [self]

    def walk(self) -> Iterator[Route]:
        yield self
        for child in self.routes:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Integration:
    """One way of a receiver: ``kind`` as ``webhook``, its place among those of its kind, its own configuration."""

    kind: str
    index: int
    send_resolved: bool
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Receiver:
    name: str
    integrations: tuple[Integration, ...]


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """Alerts that ``target`` takes are held back while one that ``source`` takes fires, if ``equal`` are the same."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """``raw`` is the file as it was read; secrets stand in it, so it is not shown."""

    route: Route
    receivers: Mapping[str, Receiver]
    inhibit_rules: tuple[InhibitRule, ...] = ()
    intervals: Mapping[str, tuple[TimeInterval, ...]] = field(default_factory=dict)
    resolve_timeout_ms: int = 300_000
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_yaml(self, *, ours: bool = False) -> str:
        """The file as Alertmanager reads it, or with what only we know (``ours``). Secrets are in it as given."""
        if ours:
            return to_yaml(self.raw)
        receivers = [_theirs(one) for one in self.raw.get("receivers") or ()]
        return to_yaml(dict(self.raw) | {"receivers": receivers})

    def with_rules(self, made: Mapping[str, Iterable[Mapping[str, Any]]]) -> Config:
        """With the ``inhibit_rules`` and ``routes`` of an export put in, the routes before those that stand there."""
        raw = dict(self.raw)
        raw["inhibit_rules"] = [*(raw.get("inhibit_rules") or ()), *made.get("inhibit_rules", ())]
        root = dict(raw["route"])
        root["routes"] = [*made.get("routes", ()), *(root.get("routes") or ())]
        return _config(raw | {"route": root}, "export")


def load(text: str, name: str = "alertmanager.yml") -> Config:
    """The configuration in ``text``. Raises ``ConfigError``, which names the place and the remedy."""
    raw = read_yaml(text, name)
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: no mapping; it has route and receivers")
    return _config(raw, name)


def _config(raw: dict[str, Any], name: str) -> Config:
    if not isinstance(raw.get("route"), dict):
        raise ConfigError(f"{name}: has no route")
    receivers: dict[str, Receiver] = {}
    for given in raw.get("receivers") or ():
        if not isinstance(given, dict) or not given.get("name"):
            raise ConfigError(f"{name}: a receiver has no name")
        if str(given["name"]) in receivers:
            raise ConfigError(f"{name}: receiver {given['name']!r} stands there twice")
        receivers[str(given["name"])] = _receiver(given)
    intervals: dict[str, tuple[TimeInterval, ...]] = {}
    for given in [*(raw.get("mute_time_intervals") or ()), *(raw.get("time_intervals") or ())]:
        if not isinstance(given, dict) or not given.get("name"):
            raise ConfigError(f"{name}: a time interval has no name")
        if given["name"] in intervals:
            raise ConfigError(f"{name}: time interval {given['name']!r} stands there twice")
        where = f"{name}: time interval {given['name']!r}"
        intervals[given["name"]] = tuple(TimeInterval.of(one, where) for one in given.get("time_intervals") or ())
    root = raw["route"]
    for key in ("match", "match_re", "matchers", "mute_time_intervals", "active_time_intervals"):
        if root.get(key):
            raise ConfigError(f"{name}: the root route takes all alerts, always; it has no {key}")
    above = Route("", "", "", (), (), 30_000, 300_000, 14_400_000)
    route = _route(root, above, f"{name}: route")
    for one in route.walk():
        if one.receiver not in receivers:
            raise ConfigError(f"{name}: receiver {one.receiver!r} of route {one.key} is not among receivers")
        for interval in (*one.mute, *one.active):
            if interval not in intervals:
                raise ConfigError(f"{name}: time interval {interval!r} of route {one.key} is not defined")
    inhibit = []
    for number, given in enumerate(raw.get("inhibit_rules") or (), 1):
        where = f"{name}: inhibit rule {number}"
        equal = tuple(map(str, given.get("equal") or ()))
        inhibit.append(InhibitRule(of_route(given, where, "source_"), of_route(given, where, "target_"), equal))
    timeout = _length(raw.get("global") or {}, "resolve_timeout", 300_000, f"{name}: global")
    return Config(route, receivers, tuple(inhibit), intervals, timeout, raw)


def _route(raw: dict[str, Any], above: Route, where: str, id_: str = "0") -> Route:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: {raw!r} is no route")
    matchers = of_route(raw, where)
    key = f"{above.key}/{shown(matchers)}" if above.key else shown(matchers)
    group_by = above.group_by
    given = raw.get("group_by")
    if given is not None:
        names = tuple(map(str, given))
        if "..." in names and len(names) > 1:
            raise ConfigError(f"{where}: group_by has '...' beside labels; give one or the other")
        if len(set(names)) < len(names):
            raise ConfigError(f"{where}: group_by names a label twice")
        group_by = None if names == ("...",) else names
    interval = _length(raw, "group_interval", above.group_interval_ms, where)
    repeat = _length(raw, "repeat_interval", above.repeat_interval_ms, where)
    if interval <= 0 or repeat <= 0:
        raise ConfigError(f"{where}: group_interval and repeat_interval must be longer than zero")
    made = Route(
        id_,
        key,
        str(raw.get("receiver") or above.receiver),
        matchers,
        group_by,
        _length(raw, "group_wait", above.group_wait_ms, where),
        interval,
        repeat,
        bool(raw.get("continue")),
        tuple(raw.get("mute_time_intervals") or ()),
        tuple(raw.get("active_time_intervals") or ()),
    )
    routes = tuple(
        _route(child, made, f"{where}.routes[{i}]", f"{id_}/{i}") for i, child in enumerate(raw.get("routes") or ())
    )
    return replace(made, routes=routes)


def _theirs(receiver: Mapping[str, Any]) -> dict[str, Any]:
    """A receiver without what Alertmanager has no word for."""
    made = {key: value for key, value in receiver.items() if key != "apprise_configs"}
    if "webhook_configs" in made:
        hooks = made["webhook_configs"] or ()
        made["webhook_configs"] = [{key: value for key, value in one.items() if key != "rate"} for one in hooks]
    return made


def _length(raw: Mapping[str, Any], key: str, default: int, where: str) -> int:
    return default if raw.get(key) is None else duration_ms(raw[key], f"{where}: {key}")


def _receiver(raw: Mapping[str, Any]) -> Receiver:
    found = []
    for key, configs in raw.items():
        if not key.endswith("_configs"):
            continue
        kind = key.removesuffix("_configs")
        for index, config in enumerate(configs or ()):
            told = config.get("send_resolved", _SEND_RESOLVED.get(kind, True))
            found.append(Integration(kind, index, bool(told), config))
    return Receiver(str(raw["name"]), tuple(found))
