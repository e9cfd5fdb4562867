"""Templates of notifications, as Alertmanager runs them: its functions, and the data of a group of alerts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote_plus

from metricsdb.alerts.model import PostableAlert
from metricsdb.alerts.patterns import replace_all, search
from metricsdb.alerts.templates.builtins import BUILTINS, to_json
from metricsdb.alerts.templates.gotime import GoTime, in_zone
from metricsdb.alerts.templates.prometheus import humanize_duration
from metricsdb.alerts.templates.run import Function, Limits, Template
from metricsdb.alerts.templates.values import KV, Record, Slice

__all__ = ["Data", "NotificationTemplates"]


class _Pair(Record):
    name: ClassVar[str] = "template.Pair"

    def __init__(self, name: str, value: str) -> None:
        self.fields = {"Name": name, "Value": value}


class _Pairs(Slice):
    name: ClassVar[str] = "template.Pairs"
    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "Names": lambda pairs: [pair.fields["Name"] for pair in pairs],
        "Values": lambda pairs: [pair.fields["Value"] for pair in pairs],
        "String": lambda pairs: pairs.text(),
    }

    def text(self) -> str:
        return ", ".join(f"{pair.fields['Name']}={pair.fields['Value']}" for pair in self)


class _Labels(KV):
    """Alertmanager's KV; sorted by name, the alert's name first."""

    name: ClassVar[str] = "template.KV"

    def pairs(self) -> _Pairs:
        ordered = sorted(self.items(), key=lambda pair: (pair[0] != "alertname", pair[0]))
        return _Pairs(_Pair(*pair) for pair in ordered)

    def text(self) -> str:
        return self.pairs().text()

    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "SortedPairs": lambda kv: kv.pairs(),
        "Names": lambda kv: [pair.fields["Name"] for pair in kv.pairs()],
        "Values": lambda kv: [pair.fields["Value"] for pair in kv.pairs()],
        "Remove": lambda kv, names: _Labels({k: v for k, v in kv.items() if k not in names}),
        "String": lambda kv: kv.text(),
    }


class _Alert(Record):
    name: ClassVar[str] = "template.Alert"

    def __init__(self, alert: PostableAlert, now_ms: int) -> None:
        resolved = alert.resolved(now_ms)
        self.fields = {
            "Status": "resolved" if resolved else "firing",
            "Labels": _Labels(alert.labels),
            "Annotations": _Labels(alert.annotations),
            "StartsAt": GoTime(alert.starts_at_ms),
            # One that fires has no end, whatever its sender expects.
            "EndsAt": GoTime(alert.ends_at_ms if resolved else None),
            "GeneratorURL": alert.generator_url,
            "Fingerprint": alert.fingerprint,
        }

    def plain(self) -> Any:
        return _camel(self.fields) | {
            name: self.fields[key].format("2006-01-02T15:04:05.999999999Z07:00")
            for name, key in (("startsAt", "StartsAt"), ("endsAt", "EndsAt"))
        }


class _Alerts(Slice):
    name: ClassVar[str] = "template.Alerts"
    methods: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "Firing": lambda alerts: _Alerts(a for a in alerts if a.fields["Status"] == "firing"),
        "Resolved": lambda alerts: _Alerts(a for a in alerts if a.fields["Status"] == "resolved"),
    }


class Data(Record):
    """What a notification's template sees as the dot. O(alerts x labels)."""

    name: ClassVar[str] = "template.Data"

    def __init__(
        self,
        receiver: str,
        group_labels: Mapping[str, str],
        alerts: Sequence[PostableAlert],
        now_ms: int,
        external_url: str = "",
    ) -> None:
        shown = _Alerts(_Alert(alert, now_ms) for alert in alerts)
        self.fields = {
            "Receiver": re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", receiver),
            "Status": "firing" if shown.methods["Firing"](shown) else "resolved",
            "Alerts": shown,
            "GroupLabels": _Labels(group_labels),
            "CommonLabels": _common(alert.labels for alert in alerts),
            "CommonAnnotations": _common(alert.annotations for alert in alerts),
            "ExternalURL": external_url,
        }

    def plain(self) -> Any:
        return _camel(self.fields)


def _camel(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {("generatorURL" if k == "GeneratorURL" else k[0].lower() + k[1:]): v for k, v in fields.items()}


def _common(of: Iterable[Mapping[str, str]]) -> _Labels:
    common: set[tuple[str, str]] | None = None
    for labels in of:
        common = set(labels.items()) if common is None else common & labels.items()
    return _Labels(common or ())


def _strings(*args: str) -> list[str]:
    return list(args)


_of = Function.of
_FUNCTIONS: dict[str, Function] = {
    **BUILTINS,
    "toUpper": _of("string", str.upper),
    "toLower": _of("string", str.lower),
    "title": _of("string", lambda text: re.sub(r"\w[\w']*", lambda found: found[0].capitalize(), text)),
    "trimSpace": _of("string", str.strip),
    "join": _of("string []string", lambda sep, items: sep.join(items)),
    "match": _of("string string", search),
    "safeHtml": _of("string", str),
    "safeUrl": _of("string", str),
    "urlUnescape": _of("string", unquote_plus),
    "reReplaceAll": _of("string string string", replace_all),
    "stringSlice": _of("string...", _strings),
    "list": _of("any...", lambda *args: list(args)),
    "date": _of("string time.Time", lambda layout, time: time.format(layout)),
    "tz": _of("string time.Time", lambda name, time: in_zone(time, name)),
    "since": _of("time.Time", GoTime(0).since),
    "now": _of("", lambda: GoTime(0)),
    "humanizeDuration": _of("any", humanize_duration),
    "toJson": _of("any", to_json),
}


class NotificationTemplates:
    """The templates that notifications may call by name, as Alertmanager's ``templates:`` files define them.

    ``files``: their texts. Raises ``TemplateError``.
    """

    def __init__(self, files: Iterable[str] = (), external_url: str = "") -> None:
        self.external_url = external_url
        self._defined: dict[str, Template] = {}
        for text in files:
            self._defined |= Template(text, _FUNCTIONS, (), self._defined).defined()

    def check(self, text: str) -> None:
        """Raises ``TemplateError`` for a text that cannot be read."""
        Template(text, _FUNCTIONS, (), self._defined)

    def render(self, text: str, data: Data, now_ms: int, limits: Limits | None = None) -> str:
        """The text for a group of alerts. Raises ``TemplateError``."""
        if "{{" not in text:
            return text
        now = GoTime(now_ms)
        functions = _FUNCTIONS | {
            "since": _of("time.Time", now.since),
            "now": _of("", lambda: now),
        }
        return Template(text, _FUNCTIONS, (), self._defined).render(data, None, limits, functions)
