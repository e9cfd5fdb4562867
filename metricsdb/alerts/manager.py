"""`db.alerts`: what is installed, its evaluations when they are due, what is active, what happened."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from metricsdb._native import AlertRule, NativeDatabase
from metricsdb.alerts import export, pipeline, rehearse, rules, shown, state
from metricsdb.alerts.amconfig import Config
from metricsdb.alerts.evaluate import Deliver, Evaluation, Interval, Muting, Render, Sight, evaluate, named, plain
from metricsdb.alerts.groups import (
    Group,
    Installed,
    Lint,
    Rule,
    check_names,
    check_texts,
    difference,
    groups_of,
    keys,
    merge,
)
from metricsdb.alerts.notify import Channel
from metricsdb.alerts.pipeline import Pipeline
from metricsdb.alerts.policy import Policy
from metricsdb.alerts.shown import label_text
from metricsdb.alerts.templates import expand
from metricsdb.clock import Clock
from metricsdb.errors import ConfigError, MetricsDBError, StorageError
from metricsdb.lines import Lines
from metricsdb.times import DurationLike, Time, duration_ms, time_ms

__all__ = ["Alerts"]

log = logging.getLogger("metricsdb.alerts")

# Lints that nobody can mean: `install` refuses them.
REFUSED = frozenset({"never_fires"})
# Those that look at the statement alone.
OF_TEXT = frozenset({"never_fires", "always_fires", "clear_while_firing"})
# `Alerts.list` hides the type of this name.
Names = list[str]
Mutings = list[Muting]
Lints = list[Lint]
Groups = list[Group]


class Alerts:
    """Alerting and recording statements of one database. Thread-safe.

    ``tick`` evaluates what is due; ``Database.tick`` calls it. ``route`` says where alerts go; ``pipeline`` is what it
    made. ``deliver``, ``render`` and ``intervals`` may be set instead: who takes alerts that fire and end, who renders
    templates, and what `DURING` names.
    """

    def __init__(
        self,
        native: Callable[[], NativeDatabase],
        clock: Clock,
        lookback_ms: int,
        every: DurationLike = "1m",
        directory: Path | None = None,
        sync: bool = True,
        sight: Sight | None = None,
        early: Callable[[], NativeDatabase | None] = lambda: None,
    ) -> None:
        """``early``: the store while its directory is still read, which takes writes by then; None: it answers, too."""
        self._early = early
        self._unfilled: list[tuple[Group, Rule]] = []
        self._sight: Sight = sight or (lambda _exprs, _times: native())
        self._native, self._clock, self._lookback_ms = native, clock, lookback_ms
        self._every_ms = duration_ms(every, "every")
        self._directory, self._sync = directory, sync
        self._lock = threading.RLock()
        path = None if directory is None else directory / "alerts-history.jsonl"
        self._history = Lines(path, shown.change, log)
        self.deliver: Deliver | None = None
        self.pipeline: Pipeline | None = None
        self.render: Render = self._expanded
        self._at_ms: int | None = None
        self.intervals: dict[str, Interval] = {}
        self._groups: dict[str, Group] = {}
        self._acknowledged: dict[str, Any] = {}
        if directory is not None:
            groups, self._acknowledged = state.load(directory)
            self._groups = {group.name: group for group in groups}
            last: dict[str, int] = {}
            for group in groups:
                for rule in group.rules:
                    last[rule.name] = max(last.get(rule.name, 0), group.evaluated_ms or 0)
            # What is later than the last evaluation that was saved happens again.
            self._history.keep(lambda row: row[0] <= last.get(row[1], row[0]))
        self._resumed = not self._groups

    # --- what is installed ----------------------------------------------------------------------

    def install(self, statements: str) -> Installed:
        """Installs `ALERT`, `RECORD`, `SLO` and `GROUP` statements; those of one kind and name replace what runs.

        A `GROUP` replaces the whole group; statements outside of groups join the group ``default``, which is evaluated
        every minute unless the manager was made otherwise. A statement whose text is as it was keeps its state. Raises
        ``ParseError``; ``ConfigError`` for one that can never fire, and for an unknown interval or alert of `DURING`
        and `INHIBITED BY`, and for a template that is none. Nothing is installed then. While the directory is still
        being read, nothing waits for it: only remarks on the statements themselves are given, and `BACKFILL` is done
        before the first evaluation.
        """
        with self._lock:
            fresh = groups_of(statements, self._every_ms)
            lints = self._lints(fresh)
            for lint in lints:
                if lint.check in REFUSED:
                    raise ConfigError(f"{lint.statement} at {lint.place}: {lint.message}")
            config = None if self.pipeline is None else self.pipeline.config
            check_texts(fresh)
            check_names(self._groups, fresh, self.intervals, None if config is None else config.receivers)
            added: Names = []
            replaced: Names = []
            unchanged: Names = []
            diffs: Names = []
            for group in fresh:
                whole = group.name != "default"
                before = self._groups.get(group.name)
                known = {} if before is None else dict(keys(before))
                merged = merge(known, group, whole)
                for key, rule in keys(group):
                    old = known.get(key)
                    same = old is not None and old.text == rule.text
                    (added if old is None else unchanged if same else replaced).append(rule.name)
                diffs.append(difference(before, merged))
                for rule in [] if before is None else before.rules:
                    if not any(rule is kept for kept in merged.rules):
                        self._end(rule, merged)
                if before is not None and before.every_ms == merged.every_ms:
                    merged.evaluated_ms, merged.evaluations = before.evaluated_ms, before.evaluations
                    merged.missed = before.missed
                self._groups[group.name] = merged
                self._backfill(merged, [rule for key, rule in keys(group) if key not in known])
            self._save()
            diff = "\n".join(filter(None, diffs))
            return Installed(tuple(added), tuple(replaced), tuple(unchanged), tuple(lints), diff)

    def load(self, source: str | Path) -> Installed:
        """Installs a file of statements or of Prometheus rules (YAML), given by path, or its text.

        A rule file's groups replace those of the same names; ``left_out`` of the answer says what of it has no word
        here. Raises what ``install`` does, a ``ConfigError`` that names the file where there is one.
        """
        text, left_out = rules.statements(source)
        try:
            return replace(self.install(text), left_out=tuple(left_out))
        except MetricsDBError as error:
            if "\n" in str(source):
                raise
            raise ConfigError(f"{source}: {error}") from None

    def load_all(self, sources: Sequence[str | Path]) -> tuple[Installed, ...]:
        """Loads files, and removes every group that stands in none of them. Raises ``ConfigError``, also where a group
        stands in two."""
        named: dict[str, str | Path] = {}
        for source in sources:
            for name in {group.name for group in self._groups_in(source)}:
                if name in named:
                    raise ConfigError(f"{source}: group {name!r} stands in {named[name]}, too; rename one of them")
                named[name] = source
        done = tuple(self.load(source) for source in sources)
        for group in self.groups():
            if group.name not in named:
                self.remove("*", group.name)
        return done

    def _groups_in(self, source: str | Path) -> Groups:
        try:
            return groups_of(rules.statements(source)[0], self._every_ms)
        except MetricsDBError as error:
            raise error if isinstance(error, ConfigError) else ConfigError(f"{source}: {error}") from None

    def export(self) -> list[export.StatementGroup]:
        """What is installed, as `metricsdb.alerts.export` (``portable``, ``native``) and ``foreign`` take it."""
        return export.installed(self.groups())

    def _backfill(self, group: Group, rules: Sequence[Rule]) -> None:
        if self._early() is not None:
            self._unfilled += [(group, rule) for rule in rules]
            return
        now_ms = self._clock.now_ms()
        for rule in rules:
            if rule.record is None or rule.backfill_ms is None:
                continue
            first = now_ms - rule.backfill_ms
            for at in range(first + -first % group.every_ms, now_ms, group.every_ms):
                looks = at - group.offset_ms
                native = self._sight([rule.expr], (looks, looks, 0, self._lookback_ms))
                native.evaluate_record(rule.record, at, group.offset_ms, self._lookback_ms)

    def lint(self, statements: str) -> Lints:
        """Remarks on statements; installs nothing. Raises ``ParseError`` for what cannot be installed."""
        return self._lints(groups_of(statements, self._every_ms))

    def _lints(self, fresh: Sequence[Group]) -> Lints:
        now_ms = self._clock.now_ms()
        times = (now_ms, now_ms, 0, self._lookback_ms)
        rules = [rule for group in (*self._groups.values(), *fresh) for rule in group.rules]
        recorded = [rule.name for rule in rules if rule.kind == "record"]
        early = self._early()
        return [
            Lint(rule.name, *found)
            for group in fresh
            for rule in group.rules
            for alert in rule.alerts
            for found in alert.lint(early or self._sight(alert.queries, times), now_ms, self._lookback_ms, recorded)
            if early is None or found[0] in OF_TEXT
        ]

    def remove(self, name: str, group: str | None = None) -> None:
        """Removes what has this name, or a whole group: ``remove("*", group="g")``. Raises ``ConfigError``.

        What fired is not resolved to anybody, as in Prometheus; its series end.
        """
        with self._lock:
            places = [found for found in self._groups.values() if group in (None, found.name)]
            gone = [(place, rule) for place in places for rule in place.rules if name in ("*", rule.name)]
            if not gone or (name == "*" and group is None):
                known = ", ".join(sorted({rule.name for place in places for rule in place.rules})) or "none"
                raise ConfigError(f"{name!r} is not installed; there are: {known}")
            for place, rule in gone:
                self._end(rule, place)
                place.rules.remove(rule)
                if not place.rules:
                    del self._groups[place.name]
            self._save()

    def _end(self, rule: Rule, group: Group) -> None:
        """The series of a rule that is no more end at the evaluation after its last."""
        last = group.evaluated_ms if rule.evaluated_ms is None else rule.evaluated_ms
        if last is not None:
            (self._early() or self._native()).end_alerts(rule.alerts, last + group.every_ms - group.offset_ms)

    def groups(self) -> Groups:
        """What is installed, to be read."""
        with self._lock:
            return list(self._groups.values())

    def list(self) -> pl.DataFrame:
        """A row a statement: ``group``, ``kind``, ``name``, ``state`` (the highest of its instances), ``pending``,
        ``firing`` (instances), ``health``, ``error``, ``evaluated``, ``missed`` (evaluations), ``text``."""
        return shown.listed(self.groups())

    def active(self) -> pl.DataFrame:
        """A row an instance that is not inactive: ``alert``, ``labels`` (as `{a="b"}`), ``level``, ``state``,
        ``since``, ``firing_since``, ``value``, ``flapping``, ``notified``, ``hidden`` (behind a higher level, or past
        `CAP`), ``acknowledged`` (by whom)."""
        return shown.active(self.groups(), self._acknowledged)

    def history(self) -> pl.DataFrame:
        """The last 10,000 transitions, also those before a restart where there is a directory: ``timestamp``,
        ``alert``, ``labels``, ``level``, ``from``, ``to``, ``value``, ``notified``, ``flapping``, ``muted`` (why nobody
        was told). `ALERTS` has the rest."""
        with self._lock:
            return shown.changes(list(self._history.rows))

    def late(self) -> pl.DataFrame:
        """What late samples would have changed: a row an alert with ``group``, ``name``, ``offset`` (s),
        ``evaluations`` (its last 64 since the database was opened), ``changed`` (those whose conditions come out
        otherwise on the data as they are now). Where it is not 0, give the group a longer ``OFFSET``. Evaluates each
        of them again."""
        rows = []
        with self._lock:
            for group in self._groups.values():
                for rule in group.rules:
                    seen = [(alert, at, was) for alert in rule.alerts for at, was in alert.seen()]
                    changed = sum(self._digest(group, alert, at) != was for alert, at, was in seen)
                    if rule.alerts:
                        rows.append((group.name, rule.name, group.offset_ms / 1000, len(seen), changed))
        schema: dict[str, Any] = {"group": pl.String, "name": pl.String, "offset": pl.Float64}
        counts = {"evaluations": pl.Int64, "changed": pl.Int64}
        return pl.DataFrame(rows, schema={**schema, **counts}, orient="row")

    def _digest(self, group: Group, alert: AlertRule, at_ms: int) -> int:
        """What an evaluation comes to on the data as they are now, wherever they have gone."""
        looks = at_ms - group.offset_ms
        native = self._sight(alert.queries, (looks, looks, 0, self._lookback_ms))
        return native.digest_alert(alert, at_ms, group.offset_ms, self._lookback_ms, self._labels)

    def acknowledge(self, name: str, labels: Mapping[str, str] | None = None, *, by: str, comment: str = "") -> int:
        """Notes that somebody takes care of what is active of an alert (of instances that have these labels), until it
        is inactive; ``active()`` shows it. Returns how many instances. Raises ``ConfigError`` where none is active."""
        with self._lock:
            rules = [rule for group in self._groups.values() for rule in group.rules if rule.name == name]
            found = {
                f"{name}{label_text(active[0])}"
                for rule in rules
                for alert in rule.alerts
                for active in alert.active()
                if (labels or {}).items() <= active[0].items()
            }
            if not found:
                raise ConfigError(f"no instance of {name!r} with these labels is active; see db.alerts.active()")
            note = {"by": by, "comment": comment, "at_ms": self._clock.now_ms()}
            self._acknowledged.update(dict.fromkeys(found, note))
            self._save()
            return len(found)

    # --- evaluation -----------------------------------------------------------------------------

    def tick(self, now_ms: int) -> int:
        """Evaluates the groups that are due, once each, and delivers; evaluations that nobody called for are counted as
        missed. Returns how many groups were due."""
        with self._lock:
            while self._unfilled:
                group, rule = self._unfilled.pop(0)
                if any(rule is kept for kept in self._groups.get(group.name, group).rules):
                    self._backfill(group, [rule])
            due = [(group, at) for group in self._groups.values() if (at := group.due(now_ms)) is not None]
            if due and not self._resumed:
                self._resume()
            for group, at in due:
                begun = self._clock.monotonic()
                self._at_ms = at
                done = evaluate(self._sight, group, at, self._lookback_ms, self._mutings, self.render, self._clock)
                group.begin(at)
                group.seconds = self._clock.monotonic() - begun
                group.seconds_total += group.seconds
                group.failures += sum(rule.health == "err" for rule in group.rules)
                self._note(done)
                if self.deliver is not None and done.alerts:
                    self.deliver(done.alerts, at)
            self._at_ms = None
            # Before the state: who is killed in between evaluates again, and receives the same.
            if self.pipeline is not None:
                self.pipeline.tick(now_ms)
            if due:
                self._forget_acknowledged()
                self._save()
        return len(due)

    def _resume(self) -> None:
        """After a restart: what recording rules wrote last is what stands at their last evaluation. Rules that share a
        name can't be told apart there; theirs end as series do that nobody writes any more."""
        rules = [(group, rule) for group in self._groups.values() for rule in group.rules if rule.record is not None]
        names = Counter(rule.name for _, rule in rules)
        for group, rule in rules:
            if rule.record is not None and group.evaluated_ms is not None and names[rule.name] == 1:
                self._native().resume_record(rule.record, group.evaluated_ms - group.offset_ms)
        self._resumed = True

    def _note(self, done: Evaluation) -> None:
        rows = []
        for rule, alert, change in done.changes:
            at, labels, level, before, after, value, _fires, flapping, told, muted, _since = change
            name = None if level is None else alert.describe()["levels"][level]["name"]
            rows.append((at, rule.name, label_text(labels), name, before, after, value, told, flapping, muted))
        self._history.add(rows)

    def _forget_acknowledged(self) -> None:
        if self._acknowledged:
            rules = [rule for group in self._groups.values() for rule in group.rules]
            active = {
                f"{rule.name}{label_text(found[0])}"
                for rule in rules
                for alert in rule.alerts
                for found in alert.active()
            }
            self._acknowledged = {key: note for key, note in self._acknowledged.items() if key in active}

    def _mutings(self, alert: AlertRule, at_ms: int) -> Mutings:
        """Why nobody is to be told of an alert at an evaluation."""
        said = alert.describe()
        found: Mutings = []
        for negated, name in said["during"]:
            # One that is not known (any more) mutes nothing: better told of than not.
            if name in self.intervals and self.intervals[name](at_ms) == negated:
                found.append((at_ms, at_ms + 1, [], f"{'' if negated else 'not '}during {name}"))
        for by, on in said["inhibited"]:
            rules = [rule for group in self._groups.values() for rule in group.rules if rule.name == by]
            alerts = [found for rule in rules for found in rule.alerts]
            for other, active in ((source, one) for source in alerts for one in source.active()):
                if active[4] is not None:
                    whole = named(other, active[1], active[0], active[5], plain)
                    wanted = [(label, whole.get(label, "")) for label in on or ()]
                    found.append((at_ms, at_ms + 1, wanted, f"inhibited by {by}"))
        return found

    def _save(self) -> None:
        if self._directory is not None:
            try:
                state.save(self._directory, list(self._groups.values()), self._acknowledged, self._sync)
            except StorageError as error:
                log.error("%s", error)

    # --- where alerts go ------------------------------------------------------------------------

    def route(
        self,
        config: Config | str | Path | None = None,
        *,
        alertmanagers: Sequence[str] = (),
        external_url: str = "",
        external_labels: Mapping[str, str] | None = None,
        directory: str | Path | None = None,
        policy: Policy | None = None,
        channels: Mapping[str, Channel] | None = None,
    ) -> Pipeline:
        """Sends alerts where an Alertmanager configuration (path, text, or loaded) says, and to ``alertmanagers``.

        Its time intervals are what `DURING` names. ``directory`` keeps what is on its way (the database's own, if it
        has one; else memory). ``external_labels`` go to every alert, ``external_url`` into links. ``policy`` and
        ``channels`` as for `Pipeline`. A second call replaces the first. Raises ``ConfigError``, ``StorageError``.
        """
        loaded, templates = (None, []) if config is None else pipeline.read(config)
        home = self._directory if directory is None else Path(directory)
        with self._lock:
            if self.pipeline is not None:
                self.close()
            made = Pipeline(
                loaded,
                self._clock,
                alertmanagers=alertmanagers,
                directory=home,
                external_url=external_url,
                external_labels=external_labels,
                templates=templates,
                policy=policy,
                channels=channels,
            )
            for name, ranges in (loaded.intervals if loaded is not None else {}).items():
                self.intervals[name] = lambda at_ms, ranges=ranges: any(one.contains(at_ms) for one in ranges)
            self.pipeline, self.deliver = made, made.receive
        return made

    def silence(self, matchers: str, start: Time = "now", end: Time = "+1h", *, by: str = "", comment: str = "") -> str:
        """Tells nobody of what ``matchers`` (``team="db", instance=~"db-.*"``) take, for a time; returns the id, which
        ``unsilence`` takes. ``pipeline.silences()`` shows them. Raises ``ConfigError``, also before ``route``."""
        return self._routed().silence(matchers, start, end, by, comment)

    def unsilence(self, id: str) -> None:
        """Ends a silence now. Raises ``ConfigError`` where none has this id."""
        self._routed().unsilence(id)

    def _routed(self) -> Pipeline:
        if self.pipeline is None:
            raise ConfigError("nothing is routed, so nobody is told of anything; call db.alerts.route first")
        return self.pipeline

    def send(self) -> int:
        """Hands over what waits for its receivers, a hundred messages to each at most; returns how many were taken.

        ``Database.start`` calls it, beside evaluations. Not for a thread whose event loop runs: await
        ``pipeline.deliver()`` there.
        """
        made = self.pipeline
        return asyncio.run(made.deliver(100)).sent if made is not None and made.waits() else 0

    def close(self) -> None:
        """Ends what ``route`` made; what waits in a directory is handed over by who routes next."""
        with self._lock:
            if self.pipeline is not None:
                self.pipeline.close()
                self.pipeline = self.deliver = None

    def _labels(self, texts: dict[str, str], labels: dict[str, str], value: float, at_ms: int) -> dict[str, str]:
        """Labels that are templates, for rehearsals."""
        return {name: self._expanded(text, labels, value, at_ms) for name, text in texts.items()}

    def _expanded(self, text: str, labels: Mapping[str, str], value: float, at_ms: int | None = None) -> str:
        """A text of a statement as Prometheus expands it; `query` asks this database, at the evaluation's time."""
        if "{{" not in text:
            return text
        if at_ms is None:
            at_ms = self._clock.now_ms() if self._at_ms is None else self._at_ms
        made = self.pipeline
        return expand(
            text,
            labels,
            value,
            query=lambda expr: self._samples(expr, at_ms),
            now_ms=at_ms,
            external_labels={} if made is None else made.external_labels,
            external_url="" if made is None else made.external_url,
        )

    def render_at(self, at_ms: int) -> Render:
        """What renders texts as of a time: `query` in them is asked of what was stored then. ``render`` where that was
        set to something else."""
        own = self.render
        if own != self._expanded:
            return own
        return lambda text, labels, value: self._expanded(text, labels, value, at_ms)

    def _samples(self, expr: str, at_ms: int) -> Iterator[tuple[dict[str, str], float]]:
        native = self._sight([expr], (at_ms, at_ms, 0, self._lookback_ms))
        frame, _, _ = native.query(expr, at_ms, at_ms, 0, self._lookback_ms, False, "alert", False, 0, "")
        for row in frame.drop("timestamp", strict=False).iter_rows(named=True):
            value = row.pop("value")
            yield {name: text for name, text in row.items() if text}, value

    # --- rehearsal ------------------------------------------------------------------------------

    def preview(self, statement: str, at: Time = "now") -> pl.DataFrame:
        """What an alert would be at one time, from rest; sends nothing. A row a level of an instance: ``alert``,
        ``labels``, ``level``, ``state``, ``value``, ``notified``, ``muted`` (why not), ``text`` (annotations,
        rendered), ``route``."""
        at_ms = time_ms(at, self._clock.now_ms(), "at")
        one = (self.render_at(at_ms), at_ms, self._lookback_ms, self._labels)
        return rehearse.preview(self._sight, statement, lambda alert: self._mutings(alert, at_ms), *one)

    def backtest(
        self,
        statement: str,
        start: Time,
        end: Time = "now",
        *,
        every: DurationLike | None = None,
        offset: DurationLike = 0,
        incidents: pl.DataFrame | None = None,
    ) -> rehearse.Backtest:
        """What an alert would have done over stored history, from rest at ``start`` on, through the machine that runs
        live. Evaluations are at multiples of ``every`` since the epoch, as they are live (the manager's, a minute, if
        not given). ``incidents``: a frame of known ones with ``start`` and ``end``, for hits and misses.
        """
        now = self._clock.now_ms()
        every_ms = self._every_ms if every is None else duration_ms(every, "every")
        if every_ms <= 0:
            raise ConfigError(f"every {every!r} must be longer than zero")
        first, last = time_ms(start, now, "start"), time_ms(end, now, "end")
        first += -first % every_ms
        if first > last:
            raise ConfigError(
                f"there is no evaluation between start {start!r} and end {end!r}; make it longer than every"
            )
        times = rehearse.Times(first, last, every_ms, duration_ms(offset, "offset"), self._lookback_ms)
        alerts = rehearse.alerts_of(statement)
        groups = self.groups()
        mutings = {
            alert.text: rehearse.past_mutings(self._sight, alert, groups, self.intervals, times, self._labels)
            for alert in alerts
        }
        return rehearse.Backtest.run(self._sight, alerts, mutings, times, incidents, self._labels)
