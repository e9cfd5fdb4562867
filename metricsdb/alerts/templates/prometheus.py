"""Templates of labels and annotations, as Prometheus expands them: its functions, its data, its words for errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote_plus, urlsplit

from metricsdb.alerts.patterns import replace_all, search
from metricsdb.alerts.templates.builtins import BUILTINS
from metricsdb.alerts.templates.gotime import GoDuration, GoTime
from metricsdb.alerts.templates.run import Function, Limits, Template
from metricsdb.alerts.templates.values import KV, Record, Slice, go_float, go_type
from metricsdb.errors import TemplateError
from metricsdb.times import duration_ms

__all__ = ["PROMETHEUS", "Query", "check", "expand", "humanize_duration", "render"]

# PromQL at the evaluation's time -> label set and value of each sample.
Query = Callable[[str], Iterable[tuple[Mapping[str, str], float]]]
VARIABLES = ("$labels", "$externalLabels", "$externalURL", "$value")
_UP, _DOWN = ("", "k", "M", "G", "T", "P", "E", "Z", "Y"), ("", "m", "u", "n", "p", "f", "a", "z", "y")
_UP_1024 = ("", "ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi")


class Sample(Record):
    """One sample of a query: `.Labels`, `.Value`."""

    name: ClassVar[str] = "*template.sample"

    def __init__(self, labels: Mapping[str, str], value: float) -> None:
        self.fields = {"Labels": KV(labels), "Value": value}


class Samples(Slice):
    name: ClassVar[str] = "[]*template.sample"


class _Data(Record):
    def __init__(self, labels: Mapping[str, str], external: Mapping[str, str], url: str, value: float) -> None:
        self.fields = {"Labels": KV(labels), "ExternalLabels": KV(external), "ExternalURL": url, "Value": value}


def _float(value: Any) -> float:
    if isinstance(value, GoDuration):
        return value.nanoseconds / 1e9
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"can't convert {go_type(value)} to float")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{value}": invalid syntax') from None


def _short(value: float) -> str:
    return go_float(value, "g", 4)


def _scaled(value: float, prefixes: tuple[str, ...], base: float) -> str:
    """By as many steps of ``base`` as bring it to 1 or above (below: beneath one step)."""
    step = 0
    if prefixes is _DOWN:
        while abs(value) < 1 and step < len(prefixes) - 1:
            value, step = value * base, step + 1
    else:
        while abs(value) >= base and step < len(prefixes) - 1:
            value, step = value / base, step + 1
    return _short(value) + prefixes[step]


def humanize(given: Any) -> str:
    value = _float(given)
    if value == 0 or not math.isfinite(value):
        return _short(value)
    return _scaled(value, _UP if abs(value) >= 1 else _DOWN, 1000)


def humanize_1024(given: Any) -> str:
    value = _float(given)
    if abs(value) <= 1 or not math.isfinite(value):
        return _short(value)
    return _scaled(value, _UP_1024, 1024)


def humanize_duration(given: Any) -> str:
    """Seconds as days, hours, minutes and seconds, or with a prefix where it is less than one."""
    value = _float(given)
    if not math.isfinite(value):
        return _short(value)
    if value == 0:
        return _short(value) + "s"
    if abs(value) < 1:
        return _scaled(value, _DOWN, 1000) + "s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    return f"{sign}{minutes}m {seconds}s" if minutes else f"{sign}{_short(value)}s"


def _time(value: float) -> GoTime:
    if not math.isfinite(value):
        raise ValueError("value is NaN or Inf")
    if abs(value) * 1e9 > 2**63 - 1:
        raise ValueError(f"{value} cannot be represented as a nanoseconds timestamp since it overflows int64")
    return GoTime(math.trunc(value * 1000))


def _humanize_timestamp(given: Any) -> str:
    value = _float(given)
    return _time(value).text() if math.isfinite(value) else _short(value)


def _title(text: str) -> str:
    return re.sub(r"(?<![\w'])\w", lambda found: found[0].title(), text)


def _host(text: str) -> tuple[str, str]:
    """Host and port, the port with its colon; as it stands where there is none."""
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:\[\]]*)", text)
    if match is None:
        return text, ""
    return match["six"] if match["six"] is not None else match["host"], ":" + match["port"]


def _strip_domain(text: str) -> str:
    host, port = _host(text)
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        return text
    return host.partition(".")[0] + port


def _first(samples: list[Any]) -> Any:
    if not samples:
        raise ValueError("first() called on vector with no elements")
    return samples[0]


def _sorted(label: str, samples: Samples) -> Samples:
    return Samples(sorted(samples, key=lambda sample: sample.fields["Labels"].get(label, "")))


def _link(tab: int) -> Callable[[str], str]:
    return lambda expr: f"/graph?g0.expr={quote_plus(expr)}&g0.tab={tab}"


def _parse_duration(text: str) -> float:
    return duration_ms(text, "parseDuration:") / 1000


def _unavailable(_: str) -> Any:
    raise ValueError("no query can be run here")


_S = Sample.name
_of = Function.of
PROMETHEUS: dict[str, Function] = {
    **BUILTINS,
    "query": _of("string", _unavailable),
    "first": _of(f"[]{_S}", _first),
    "label": _of(f"string {_S}", lambda label, sample: sample.fields["Labels"].get(label, "")),
    "value": _of(_S, lambda sample: sample.fields["Value"]),
    "strvalue": _of(_S, lambda sample: sample.fields["Labels"].get("__value__", "")),
    "sortByLabel": _of(f"string []{_S}", _sorted),
    "args": _of("any...", lambda *args: {f"arg{i}": arg for i, arg in enumerate(args)}),
    "reReplaceAll": _of("string string string", replace_all),
    "match": _of("string string", search),
    "safeHtml": _of("string", str),
    "title": _of("string", _title),
    "toUpper": _of("string", str.upper),
    "toLower": _of("string", str.lower),
    "graphLink": _of("string", _link(0)),
    "tableLink": _of("string", _link(1)),
    "stripPort": _of("string", lambda text: _host(text)[0]),
    "stripDomain": _of("string", _strip_domain),
    "urlQueryEscape": _of("string", lambda text: quote_plus(text, safe="-_.~")),
    "humanize": _of("any", humanize),
    "humanize1024": _of("any", humanize_1024),
    "humanizeDuration": _of("any", humanize_duration),
    "humanizePercentage": _of("any", lambda given: _short(_float(given) * 100) + "%"),
    "humanizeTimestamp": _of("any", _humanize_timestamp),
    "toTime": _of("any", lambda given: _time(_float(given))),
    "toDuration": _of("any", lambda given: GoDuration(round(_float(given) * 1e9))),
    "parseDuration": _of("string", _parse_duration),
    "parseDurationTime": _of("string", lambda text: GoDuration(round(_parse_duration(text) * 1e9))),
    "now": _of("", lambda: 0.0),
    "externalURL": _of("", str),
    "pathPrefix": _of("", str),
}


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Template:
    return Template(text, PROMETHEUS, VARIABLES)


def check(text: str) -> None:
    """Raises ``TemplateError`` where Prometheus would refuse to load a rule with this label or annotation."""
    _parsed(text)


def render(
    text: str,
    labels: Mapping[str, str],
    value: float,
    *,
    query: Query | None = None,
    now_ms: int = 0,
    external_labels: Mapping[str, str] | None = None,
    external_url: str = "",
    limits: Limits | None = None,
) -> str:
    """The text for one alert instance: ``labels`` and ``value`` are those of the expression's sample.

    ``query`` answers `query "…"` at the evaluation's time. Raises ``TemplateError`` with line and column.
    """
    if "{{" not in text:
        return text
    functions = dict(PROMETHEUS)
    if query is not None:
        functions["query"] = _of("string", lambda expr: Samples(Sample(of, value) for of, value in query(expr)))
    functions["now"] = _of("", lambda: now_ms / 1000)
    functions["externalURL"] = _of("", lambda: external_url)
    functions["pathPrefix"] = _of("", lambda: urlsplit(external_url).path)
    data = _Data(labels, external_labels or {}, external_url, value)
    named = dict(zip(VARIABLES, data.fields.values(), strict=True))
    return _parsed(text).render(data, named, limits, functions)


def expand(text: str, labels: Mapping[str, str], value: float, **context: Any) -> str:
    """As ``render``, but an error becomes the text that Prometheus sends then, so that the alert goes out."""
    try:
        return render(text, labels, value, **context)
    except TemplateError as error:
        return f"<error expanding template: {error}>"
