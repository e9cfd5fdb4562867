"""What alerts would have done over stored history: transitions, episodes, figures, and the same for variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from metricsdb._native import AlertRule, NativeDatabase
from metricsdb.alerts.evaluate import annotated, folded, named
from metricsdb.alerts.groups import Group, groups_of
from metricsdb.alerts.shown import label_text
from metricsdb.errors import ConfigError
from metricsdb.frames import TIME
from metricsdb.times import DAY_MS, DurationLike, duration_ms

if TYPE_CHECKING:
    import altair as alt

    from metricsdb._native import RenderLabels
    from metricsdb.alerts.evaluate import Interval, Muting, Render, Sight

__all__ = ["Backtest", "Times", "past_mutings", "preview"]

# Columns of transitions that are no labels.
_OWN = ("alert", "timestamp", "value", "alert_level", "alert_from", "alert_to", "alert_firing", "alert_flapping",
        "alert_notify", "alert_muted")  # fmt: skip


# From the lowest level to the highest of seven.
_COLOURS = ("#f2a93b", "#ee8a2f", "#e5682b", "#d62728", "#ac1a35", "#7d1138", "#4b0a30")


class Times(NamedTuple):
    """Evaluations at ``start``, ``start + step``, …, not after ``end``; queries look ``offset`` back. Milliseconds."""

    start: int
    end: int
    step: int
    offset: int
    lookback: int


def alerts_of(statement: str) -> list[AlertRule]:
    """The alerts of one `ALERT` or `SLO`. Raises ``ConfigError`` for anything else."""
    rules = [rule for group in groups_of(statement, 1) for rule in group.rules]
    if len(rules) != 1 or not rules[0].alerts:
        raise ConfigError(f"{statement!r} is not one ALERT or SLO; rehearse statements one by one")
    return rules[0].alerts


def changes(
    sight: Sight,
    alerts: Sequence[AlertRule],
    mutings: Sequence[Muting],
    at_ms: int,
    lookback_ms: int,
    render: RenderLabels,
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """What one evaluation from rest changes: the labels of each instance, and the row of its transition."""
    native = sight([expr for alert in alerts for expr in alert.queries], (at_ms, at_ms, 0, lookback_ms))
    for frame in native.backtest_alerts(list(alerts), list(mutings), at_ms, at_ms, 1, 0, lookback_ms, render):
        labels = [name for name in frame.columns if name not in _OWN]
        for row in frame.iter_rows(named=True):
            yield {name: row[name] for name in labels if row[name] is not None}, row


def preview(
    sight: Sight,
    statement: str,
    mutings: Callable[[AlertRule], Sequence[Muting]],
    render: Render,
    at_ms: int,
    lookback_ms: int,
    labels_of: RenderLabels,
) -> pl.DataFrame:
    """See ``Alerts.preview``."""
    rows = []
    for alert in alerts_of(statement):
        said = alert.describe()
        for labels, row in changes(sight, [alert], mutings(alert), at_ms, lookback_ms, labels_of):
            _, text, route = _told_of(alert, said, labels, row, render)
            told = (row["alert_to"], row["value"], row["alert_notify"], row["alert_muted"])
            rows.append((alert.name, label_text(labels), row["alert_level"], *told, text, route))
    names = dict.fromkeys(("alert", "labels", "level", "state"), pl.String)
    told_of = {"value": pl.Float64, "notified": pl.Boolean, "muted": pl.String, "text": pl.String}
    return pl.DataFrame(rows, schema={**names, **told_of, "route": pl.String}, orient="row")


def past_mutings(
    sight: Sight,
    alert: AlertRule,
    groups: Sequence[Group],
    intervals: Mapping[str, Interval],
    times: Times,
    labels_of: RenderLabels,
) -> list[Muting]:
    """Why nobody would have been told, over a time: intervals, and what installed alerts would have inhibited."""
    said = alert.describe()
    found: list[Muting] = []
    for negated, name in said["during"]:
        if name not in intervals:
            raise ConfigError(f"{alert.name} names the interval {name!r}; put it into db.alerts.intervals first")
        why = f"{'' if negated else 'not '}during {name}"
        for at in range(times.start, times.end + 1, times.step):
            if intervals[name](at) == negated:
                if found and found[-1][1] == at and found[-1][3] == why:
                    found[-1] = (found[-1][0], at + times.step, [], why)
                else:
                    found.append((at, at + times.step, [], why))
    for by, on in said["inhibited"]:
        rules = [rule for group in groups for rule in group.rules if rule.name == by]
        for other in (other for rule in rules for other in rule.alerts):
            done = Backtest.run(sight, [other], {}, times, None, labels_of)
            found += done.as_mutings(on or (), f"inhibited by {by}")
    return found


def _transitions(alert: AlertRule, frame: pl.DataFrame, apart: bool) -> pl.DataFrame:
    """``apart``: with what tells the alerts of an SLO apart (`severity`, `window`) among the labels."""
    own = alert.describe()["levels"][0]["labels"] if apart else {}
    frame = frame.with_columns(pl.lit(text).alias(name) for name, text in own.items())
    labels = [name for name in frame.columns if name not in _OWN]
    whole = frame.with_columns(pl.lit(alert.name).alias("alert"), pl.col("timestamp").cast(TIME))
    return whole.select("alert", *labels, *(name for name in _OWN if name != "alert"))


@dataclass(frozen=True)
class Backtest:
    """One rehearsal. Frames have a column a label of instances (`label_x` where `x` is a column's name).

    ``transitions``: ``alert``, labels, ``timestamp``, ``value``, ``alert_level``, ``alert_from``, ``alert_to``,
    ``alert_firing`` (it fires after this), ``alert_flapping``, ``alert_notify`` (somebody is told), ``alert_muted``.
    """

    transitions: pl.DataFrame
    times: Times
    incidents: pl.DataFrame | None
    _native: NativeDatabase
    # Each with its part of the transitions.
    _alerts: tuple[tuple[AlertRule, pl.DataFrame], ...]
    _mutings: Mapping[str, Sequence[Muting]]
    _render: RenderLabels

    @classmethod
    def run(
        cls,
        sight: Sight,
        alerts: Sequence[AlertRule],
        mutings: Mapping[str, Sequence[Muting]],
        times: Times,
        incidents: pl.DataFrame | None,
        render: RenderLabels,
    ) -> Backtest:
        known = {"start": TIME, "end": TIME} if incidents is None else incidents.schema
        for name in ("start", "end"):
            if not isinstance(known.get(name), pl.Datetime):
                raise ConfigError(f"incidents have no times {name!r}; give a column {name} of the type Datetime")
        start, end, step, offset, lookback = times
        exprs = [expr for alert in alerts for expr in alert.queries]
        native = sight(exprs, (start - offset, end - offset, step, lookback))
        parts = []
        for alert in alerts:
            (frame,) = native.backtest_alerts([alert], list(mutings.get(alert.text, ())), *times, render)
            parts.append((alert, _transitions(alert, frame, len(alerts) > 1)))
        frames = [frame for _, frame in parts]
        whole = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
        return cls(whole, times, incidents, native, tuple(parts), dict(mutings), render)

    @property
    def labels(self) -> list[str]:
        """The labels that tell instances apart."""
        return [name for name in self.transitions.columns if name not in _OWN]

    @cached_property
    def episodes(self) -> pl.DataFrame:
        """A row each time that a level of an instance fired: ``alert``, labels, ``alert_level``, ``start``, ``end``
        (null: it still fires), ``seconds`` (until the rehearsal's end where it still fires), ``value`` (at the start),
        ``notified``."""
        key = ["alert", *self.labels, "alert_level"]
        end = pl.lit(self.times.end).cast(TIME)
        rows = self.transitions.with_columns(
            pl.col("alert_firing").shift(1).over(key).fill_null(value=False).alias("was"),
        )
        # Each row belongs to the episode that began last.
        starts = pl.col("alert_firing") & ~pl.col("was")
        ends = ~pl.col("alert_firing") & pl.col("was")
        rows = rows.with_columns(starts.cum_sum().over(key).alias("episode"))
        rows = rows.filter(pl.col("alert_firing") | ends)
        episodes = rows.group_by([*key, "episode"], maintain_order=True).agg(
            pl.col("timestamp").first().alias("start"),
            pl.col("timestamp").filter(~pl.col("alert_firing")).first().alias("end"),
            pl.col("value").first(),
            pl.col("alert_notify").any().alias("notified"),
        )
        seconds = (pl.coalesce("end", end) - pl.col("start")).dt.total_milliseconds() / 1000
        return episodes.select(*key, "start", "end", seconds.alias("seconds"), "value", "notified").sort("start")

    @cached_property
    def summary(self) -> dict[str, float]:
        """Figures: ``evaluations``, ``firings`` (episodes), ``instances`` (that fired), ``notifications``, ``pages``
        (those that say that it fires), ``pages_per_day``, ``flaps`` (times marked as flapping), ``firing_seconds``,
        ``longest_seconds``; with incidents also ``hits``, ``misses``, ``false_alarms`` (episodes in no incident)."""
        return _summary(self)

    @cached_property
    def notifications(self) -> pl.DataFrame:
        """What somebody would have been told: ``timestamp``, ``alert``, ``labels`` (as receivers see them), ``status``
        (``firing``, ``resolved``), ``value``, ``text`` (annotations, rendered as of then: what `query` in them asks is
        asked of the stored history at that time), ``route``. Renders each of them."""
        rows = [row for alert, part in self._alerts for row in self._notified(alert, part)]
        names = dict.fromkeys(("alert", "labels", "status"), pl.String)
        schema: dict[str, Any] = {
            "timestamp": TIME,
            **names,
            "value": pl.Float64,
            "text": pl.String,
            "route": pl.String,
        }
        return pl.DataFrame(rows, schema=schema, orient="row").sort("timestamp", maintain_order=True)

    def _notified(self, alert: AlertRule, part: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
        columns = {name: _label(name) for name in part.columns if name not in _OWN}
        said = alert.describe()
        for row in part.filter("alert_notify").iter_rows(named=True):
            labels = {label: row[name] for name, label in columns.items() if row[name] is not None}

            def render(text: str, labels: Mapping[str, str], value: float, at: Any = row["timestamp"]) -> str:
                return self._render({"": text}, dict(labels), value, _ms(at))[""]

            whole, text, route = _told_of(alert, said, labels, row, render)
            status = "firing" if row["alert_firing"] else "resolved"
            yield row["timestamp"], alert.name, label_text(whole), status, row["value"], text, route

    def compare(self, other: Backtest) -> pl.DataFrame:
        """The figures of two rehearsals side by side: ``figure``, ``this``, ``other``, ``change``."""
        mine, theirs = self.summary, other.summary
        rows = [(name, mine[name], theirs[name], theirs[name] - mine[name]) for name in mine if name in theirs]
        columns = {"figure": pl.String, "this": pl.Float64, "other": pl.Float64, "change": pl.Float64}
        return pl.DataFrame(rows, schema=columns, orient="row")

    def sweep(
        self,
        threshold: Sequence[float] | None = None,
        for_: Sequence[DurationLike] | None = None,
        clear: Sequence[float] | None = None,
        level: int = 0,
    ) -> pl.DataFrame:
        """The figures of every combination, from one scan: ``threshold``, ``for``, ``clear`` (null: as it is written)
        and those of ``summary``. Combinations whose clear level lies where it fires are left out. ``level``: which one
        is varied, from 0 on."""
        if len(self._alerts) != 1:
            raise ConfigError("an SLO has several alerts; sweep over one of them")
        ((alert, _),) = self._alerts
        variants: list[tuple[float | None, str | None, float | None, AlertRule]] = []
        last: ConfigError | None = None
        bounds: Sequence[float | None] = _numbers("threshold", threshold) or [None]
        lengths: Sequence[DurationLike | None] = _several("for_", for_) or [None]
        stays: Sequence[float | None] = _numbers("clear", clear) or [None]
        levels = len(alert.describe()["levels"])
        if level not in range(levels):
            raise ConfigError(f"level {level!r}: there is no such level; {alert.name} has {levels}, from 0 on")
        for bound, length, stay in product(bounds, lengths, stays):
            for_ms = None if length is None else duration_ms(length, "for_")
            try:
                variants.append(
                    (bound, None if length is None else str(length), stay, alert.variant(level, bound, for_ms, stay))
                )
            except ConfigError as error:
                last = error
        if not variants:
            raise last or ConfigError("there is nothing to vary; give threshold, for_ or clear")
        muted = list(self._mutings.get(alert.text, ()))
        known = [] if self.incidents is None else self.incidents.select(pl.col("start", "end").cast(TIME)).rows()
        incidents = [(_ms(start), _ms(end)) for start, end in known]
        figures = self._native.sweep_alerts(
            [rule for *_, rule in variants], muted, incidents, *self.times, self._render
        )
        columns = {"threshold": pl.Float64, "for": pl.String, "clear": pl.Float64}
        varied = pl.DataFrame([variant[:3] for variant in variants], schema=columns, orient="row")
        days = max(self.times.end - self.times.start, self.times.step) / DAY_MS
        figures = figures.with_columns((pl.col("pages") / days).alias("pages_per_day"))
        evaluations = pl.lit(int(self.summary["evaluations"]), pl.Int64).alias("evaluations")
        # The figures of `summary`, in its order.
        names = [name for name in self.summary if name != "evaluations"]
        return pl.concat([varied, figures.select(evaluations, *names)], how="horizontal")

    def plot(self, *, width: int = 800, title: str | None = None) -> alt.Chart:
        """Bars over time (UTC), one row an instance, coloured by level; incidents behind them. Needs Altair."""
        try:
            import altair
        except ImportError:
            raise ConfigError("Altair is not installed; pip install 'metricsdb[charts]' has it") from None
        instance = pl.concat_str([pl.col("alert"), *(pl.col(n).fill_null("") for n in self.labels)], separator=" ")
        end = pl.lit(self.times.end).cast(TIME)
        bars = self.episodes.select(
            instance.alias("instance"), pl.col("alert_level").fill_null("firing").alias("level"), "start",
            pl.coalesce("end", end).alias("end"), "seconds", "value", "notified",
        )  # fmt: skip
        edge = [pl.Series([t]).cast(TIME).dt.to_string("iso")[0] for t in (self.times.start, self.times.end)]
        scale = altair.Scale(type="utc", domain=edge)
        chart = altair.Chart(altair.InlineData(values=_plain(bars)), width=width, height=altair.Step(24)).mark_bar(
            height=14
        )
        layers = chart.encode(
            x=altair.X("start:T", title=None, scale=scale),
            x2="end:T",
            y=altair.Y("instance:N", title=None),
            color=self._colours(altair),
            opacity=altair.condition("datum.notified", altair.value(1.0), altair.value(0.45)),
            tooltip=["instance:N", "level:N", "start:T", "end:T", "seconds:Q", "value:Q", "notified:N"],
        )
        if self.incidents is not None:
            known = altair.Chart(altair.InlineData(values=_plain(self.incidents.select("start", "end"))))
            layers = (
                known.mark_rect(opacity=0.2, color="grey").encode(x=altair.X("start:T", scale=scale), x2="end:T")
                + layers
            )
        drawn: alt.Chart = layers if title is None else layers.properties(title=title)
        return drawn

    def _colours(self, altair: Any) -> Any:
        """The higher a level, the darker; no legend where there are none."""
        names = [level["name"] for alert, _ in self._alerts for level in alert.describe()["levels"]]
        levels = list(dict.fromkeys(name for name in names if name is not None))
        last = len(_COLOURS) - 1 if len(levels) > 3 else 3
        chosen = [_COLOURS[i * last // max(len(levels) - 1, 1)] for i in range(len(levels))] or _COLOURS[:1]
        scale = altair.Scale(domain=levels or ["firing"], range=chosen)
        return altair.Color("level:N", title="level", scale=scale, legend=altair.Legend() if levels else None)

    def as_mutings(self, on: Sequence[str], reason: str) -> list[Muting]:
        """The episodes as reasons not to tell of instances with equal labels."""
        rows = self.episodes.iter_rows(named=True)
        last = self.times.end + 1
        ends = ((row, last if row["end"] is None else _ms(row["end"])) for row in rows)
        return [(_ms(row["start"]), end, [(name, row.get(name) or "") for name in on], reason) for row, end in ends]


def _told_of(
    alert: AlertRule, said: Mapping[str, Any], labels: Mapping[str, str], row: Mapping[str, Any], render: Render
) -> tuple[dict[str, str], str, str | None]:
    """What receivers see of a transition: labels, annotations as a text; and which receivers its statement names.
    ``said``: how the alert describes itself."""
    value = row["value"]
    levels = {level["name"]: place for place, level in enumerate(said["levels"])}
    place = levels.get(row["alert_level"])
    # What stands for those past the cap has no labels and no level.
    if place is None or (said["cap"] is not None and not labels):
        place, (whole, texts) = 0, folded(alert.name, value)
    else:
        whole = named(alert, place, labels, value, render)
        texts = annotated(alert, place, labels, value, render)
    route = said["levels"][place]["route"]
    text = "; ".join(f"{name}: {text}" for name, text in texts.items())
    return whole, text, ", ".join(route["receivers"]) if route else None


def _several(name: str, given: Sequence[Any] | None) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, (Sequence, pl.Series, type(None))):
        raise ConfigError(f"{name} {given!r} is one value; give a list of those to try")
    return list(given or ())


def _numbers(name: str, given: Sequence[float] | None) -> list[float]:
    for one in _several(name, given):
        if isinstance(one, bool) or not isinstance(one, (int, float)):
            raise ConfigError(f"{name} {one!r} is no number")
    return _several(name, given)


def _label(column: str) -> str:
    """The label that a column stands for: one that has a column's name is called `label_…`."""
    bare = column.removeprefix("label_")
    return bare if bare in _OWN else column


def _ms(time: Any) -> int:
    ms: int = round(time.timestamp() * 1000)
    return ms


def _plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(times).dt.to_string("iso")).to_dicts()


def _summary(done: Backtest) -> dict[str, float]:
    episodes, rows = done.episodes, done.transitions
    days = max(done.times.end - done.times.start, done.times.step) / DAY_MS
    pages = rows.filter(pl.col("alert_notify") & pl.col("alert_firing")).height
    key = ["alert", *done.labels, "alert_level"]
    flaps = rows.select(
        (pl.col("alert_flapping") & ~pl.col("alert_flapping").shift(1).over(key).fill_null(value=False)).sum()
    )
    found: dict[str, float] = {
        "evaluations": (done.times.end - done.times.start) // done.times.step + 1,
        "firings": episodes.height,
        "instances": episodes.select(["alert", *done.labels]).unique().height,
        "notifications": float(rows["alert_notify"].sum()),
        "pages": pages,
        "pages_per_day": pages / days,
        "flaps": flaps.item(),
        "firing_seconds": float(episodes["seconds"].sum()),
        "longest_seconds": max(episodes["seconds"].to_list(), default=0.0),
    }
    if done.incidents is not None:
        found.update(_judged(episodes, done.incidents, done.times.end))
    return found


def _judged(episodes: pl.DataFrame, incidents: pl.DataFrame, end_ms: int) -> dict[str, float]:
    """Incidents during which something fired, those that nothing noticed, and episodes in none."""
    fired = episodes.select(pl.col("start"), pl.coalesce("end", pl.lit(end_ms).cast(TIME)).alias("end")).with_row_index(
        "episode"
    )
    known = incidents.select(pl.col("start").cast(TIME).alias("from"), pl.col("end").cast(TIME).alias("to"))
    known = known.with_row_index("incident")
    both = known.join(fired, how="cross").filter((pl.col("start") <= pl.col("to")) & (pl.col("end") >= pl.col("from")))
    hits = both["incident"].n_unique()
    false_alarms = fired.height - both["episode"].n_unique()
    return {"hits": hits, "misses": known.height - hits, "false_alarms": false_alarms}
