//! Statements and alerts: texts to what Python reads, evaluations to transitions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use metricsdb_model::budget::{Limits, Stop};
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::sample::{Values, stale};
use metricsdb_model::{Budget, Columns, Error, Labels, Matrix, MetricType, Result};
use metricsdb_query::alert::backtest::{self, Times};
use metricsdb_query::alert::compile::Query;
use metricsdb_query::alert::{self, Change, Machine, Muting, Plan, Readings, Tally};
use metricsdb_query::syntax;
use metricsdb_query::syntax::statement::{
    Alert, Clauses, Clear, ClearWhen, Condition, Damp, Map, Route, Statement,
};
use parking_lot::Mutex;
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use pyo3_polars::PyDataFrame;

use crate::database::NativeDatabase;
use crate::queries::{Ask, Class};
use crate::{call, input, output};

type Pairs = BTreeMap<String, String>;
/// (from ms, until ms, labels, reason)
type NativeMuting = (i64, i64, Vec<(String, String)>, String);
/// (time ms, labels, level, from, to, value, firing, flapping, notify, muted, firing since ms)
type NativeChange = (
    i64,
    Pairs,
    Option<usize>,
    &'static str,
    &'static str,
    f64,
    bool,
    bool,
    bool,
    Option<String>,
    Option<i64>,
);
/// (labels, level, state, pending since, firing since, value, flapping, announced, hidden)
type NativeActive = (Pairs, usize, &'static str, i64, Option<i64>, f64, bool, bool, bool);

/// One alert: its plan, and what its machine holds.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct AlertRule {
    plan: Arc<Plan>,
    text: String,
    /// With the labels of series that were written last, for the markers of those that end.
    held: Mutex<Held>,
    said: PyOnceLock<Py<PyDict>>,
}

#[derive(Default)]
struct Held {
    machine: Machine,
    written: Vec<Labels>,
}

/// A recording rule, with the series that it wrote last.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct RecordRule {
    query: Query,
    labels: Labels,
    written: Mutex<BTreeSet<Labels>>,
}

#[pymethods]
impl RecordRule {
    #[new]
    fn new(py: Python<'_>, name: &str, expr: &str, labels: Pairs) -> PyResult<RecordRule> {
        call::short(py, || {
            let query = Query { expr: syntax::parse(expr)?, text: expr.to_owned() };
            let labels = input::label_map(&labels)?.with(METRIC_NAME, name);
            Ok(RecordRule { query, labels, written: Mutex::default() })
        })
    }
}

impl RecordRule {
    /// The samples of an answer under the rule's name and labels, and markers for series that ended.
    fn named(&self, found: Matrix) -> Result<Vec<(Labels, f64)>> {
        if !found.histograms.is_empty() {
            return Err(Error::execution("recorded histograms are not supported; record a number of them"));
        }
        let mut named = Vec::with_capacity(found.len());
        let mut now = BTreeSet::new();
        for (labels, value) in found.labels.iter().zip(found.values) {
            let mut labels = labels.clone();
            for (name, text) in self.labels.iter() {
                labels = labels.with(name, text);
            }
            if !now.insert(labels.clone()) {
                let message = "vector contains metrics with the same labelset after applying rule labels";
                return Err(Error::execution(message));
            }
            named.push((labels, value));
        }
        let before = std::mem::replace(&mut *self.written.lock(), now.clone());
        named.extend(before.difference(&now).map(|labels| (labels.clone(), stale())));
        Ok(named)
    }
}

fn mutings(given: Vec<NativeMuting>) -> Vec<Muting> {
    let muting = |(from_ms, until_ms, labels, reason): NativeMuting| Muting {
        from_ms,
        until_ms,
        labels,
        reason: reason.into(),
    };
    given.into_iter().map(muting).collect()
}

fn pairs(labels: &Labels) -> Pairs {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn native(change: &Change) -> NativeChange {
    let Change { at, labels, level, from, to, value, since, firing, flapping, notify, muted } = change;
    let muted = muted.as_deref().map(str::to_owned);
    (
        *at,
        pairs(labels),
        *level,
        from.as_str(),
        to.as_str(),
        *value,
        *firing,
        *flapping,
        *notify,
        muted,
        *since,
    )
}

impl AlertRule {
    fn of(plan: Plan) -> AlertRule {
        let text = plan.alert.to_string();
        AlertRule { plan: Arc::new(plan), text, held: Mutex::default(), said: PyOnceLock::new() }
    }

    fn parsed(text: &str) -> Result<Alert> {
        match syntax::program(text)?.statements.pop() {
            Some(Statement::Alert(alert)) => Ok(*alert),
            _ => {
                Err(Error::input("alert", text, "is no ALERT statement", "write ALERT name WHEN expression"))
            }
        }
    }
}

#[pymethods]
impl AlertRule {
    /// Of the text of one `ALERT`.
    #[new]
    fn new(py: Python<'_>, text: &str) -> PyResult<AlertRule> {
        call::short(py, || Ok(AlertRule::of(alert::compile(&AlertRule::parsed(text)?, text)?)))
    }

    #[getter]
    fn name(&self) -> &str {
        &self.plan.name
    }

    /// The statement as it is printed.
    #[getter]
    fn text(&self) -> &str {
        &self.text
    }

    /// What is evaluated.
    #[getter]
    fn queries(&self) -> Vec<&str> {
        self.plan.queries.iter().map(|query| &*query.text).collect()
    }

    /// The statement's clauses as dicts, lists and texts; milliseconds. One object, which nobody changes.
    fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let said = self.said.get_or_try_init(py, || alert_dict(py, &self.plan).map(Bound::unbind))?;
        Ok(said.bind(py).clone())
    }

    /// The same alert at rest, with other numbers at one level.
    #[pyo3(signature = (level, threshold=None, for_ms=None, clear=None))]
    fn variant(
        &self,
        py: Python<'_>,
        level: usize,
        threshold: Option<f64>,
        for_ms: Option<i64>,
        clear: Option<f64>,
    ) -> PyResult<AlertRule> {
        let plan = call::short(py, || self.plan.variant(level, threshold, for_ms, clear))?;
        Ok(AlertRule { text: self.text.clone(), ..AlertRule::of(plan) })
    }

    /// The machine's state.
    fn state(&self) -> Vec<u8> {
        self.held.lock().machine.to_bytes(&self.plan)
    }

    /// Goes on from such a state.
    fn restore(&self, py: Python<'_>, state: &[u8]) -> PyResult<()> {
        let machine = call::short(py, || Machine::from_bytes(&self.plan, state))?;
        let written = machine.series(&self.plan).into_iter().map(|(labels, _)| labels).collect();
        *self.held.lock() = Held { machine, written };
        Ok(())
    }

    /// What is not inactive.
    fn active(&self) -> Vec<NativeActive> {
        let held = self.held.lock();
        let one = |a: alert::Active<'_>| {
            let state = a.state.as_str();
            (
                pairs(a.labels),
                a.level,
                state,
                a.pending_at,
                a.firing_at,
                a.value,
                a.flapping,
                a.announced,
                a.hidden,
            )
        };
        held.machine.active().map(one).collect()
    }

    /// Since when (ms) instances are folded into a summary, and how many are.
    fn folded(&self) -> Option<(i64, usize)> {
        self.held.lock().machine.folded()
    }

    /// The series that say what the machine holds.
    fn series(&self) -> Vec<(Pairs, f64)> {
        let series = self.held.lock().machine.series(&self.plan);
        series.iter().map(|(labels, value)| (pairs(labels), *value)).collect()
    }

    /// What is probably not meant: (check, message, line:column).
    fn lint(&self, py: Python<'_>, database: &NativeDatabase) -> Vec<(&'static str, String, String)> {
        call::detached(py, || {
            let counter = |name: &str| match database.store.kind_of(name) {
                Some(kind) => kind == MetricType::Counter,
                None => name.ends_with("_total"),
            };
            // Spans of the printed text, whatever text the statement was read from.
            let Ok(alert) = AlertRule::parsed(&self.text) else { return Vec::new() };
            let place = |lint: &alert::Lint| {
                let (line, column) = lint.span.line_column(&self.text);
                format!("{line}:{column}")
            };
            let found = alert::lint(&alert, &counter);
            found.into_iter().map(|lint| (lint.check, lint.message.clone(), place(&lint))).collect()
        })
    }

    /// Runs the machine over values that are given: rows of (query, labels, values by evaluation; None: no sample).
    /// Evaluations in `failed` fail. At the places in `cuts` the machine is written to bytes and read again.
    #[pyo3(signature = (times, rows, failed=Vec::new(), cuts=Vec::new(), mutings=Vec::new()))]
    fn simulate(
        &self,
        py: Python<'_>,
        times: Vec<i64>,
        rows: Vec<(usize, Pairs, Vec<Option<f64>>)>,
        failed: Vec<usize>,
        cuts: Vec<usize>,
        mutings: Vec<NativeMuting>,
    ) -> PyResult<Vec<NativeChange>> {
        let mutings = self::mutings(mutings);
        let changes = call::short(py, || {
            let mut machine = Machine::default();
            let mut changes = Vec::new();
            let mut from = 0;
            while from < times.len() {
                let fails = failed.contains(&from);
                let ends = |at: &usize| failed.contains(at) != fails || cuts.contains(at);
                let to = (from + 1..times.len()).find(ends).unwrap_or(times.len());
                let answers = given(&self.plan, &times, &rows, from..to)?;
                let readings =
                    Readings::new(self.plan.by.as_deref(), &times[from..to], answers.iter().collect());
                changes.extend(machine.run(&self.plan, &readings, &mutings, fails));
                machine = Machine::from_bytes(&self.plan, &machine.to_bytes(&self.plan))?;
                from = to;
            }
            let written = machine.series(&self.plan).into_iter().map(|(labels, _)| labels).collect();
            *self.held.lock() = Held { machine, written };
            Ok(changes)
        })?;
        Ok(changes.iter().map(native).collect())
    }
}

/// Answers made of values that are given.
fn given(
    plan: &Plan,
    times: &[i64],
    rows: &[(usize, Pairs, Vec<Option<f64>>)],
    steps: std::ops::Range<usize>,
) -> Result<Vec<Matrix>> {
    let mut answers: Vec<Matrix> = plan.queries.iter().map(|_| Matrix::default()).collect();
    for (query, labels, values) in rows {
        let Some(matrix) = answers.get_mut(*query).filter(|_| values.len() == times.len()) else {
            return Err(Error::input(
                "rows",
                &query.to_string(),
                "has no query or not a value an evaluation",
                "",
            ));
        };
        let before = matrix.timestamps.len();
        for step in steps.clone() {
            if let Some(value) = values[step] {
                matrix.timestamps.push(times[step]);
                matrix.values.push(value);
            }
        }
        if matrix.timestamps.len() > before {
            matrix.end_row(input::label_map(labels)?);
        }
    }
    Ok(answers)
}

#[pymethods]
impl NativeDatabase {
    /// The statements of a text, as dicts with `kind`, `text` and what they say; milliseconds.
    #[staticmethod]
    fn statements<'py>(py: Python<'py>, text: &str) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let program = call::short(py, || syntax::program(text))?;
        program.statements.iter().map(|statement| statement_dict(py, statement, text)).collect()
    }

    /// One evaluation of alerts at `at`, whose queries look `offset_ms` back: those of equal text are evaluated once.
    /// The series of each alert are written at the time that its queries saw, and markers after those that ended.
    /// Returns for each alert what happened, or why its queries failed.
    #[allow(clippy::too_many_arguments)] // an evaluation, one to one
    fn evaluate_alerts(
        &self,
        py: Python<'_>,
        rules: Vec<PyRef<'_, AlertRule>>,
        mutings: Vec<Vec<NativeMuting>>,
        at: i64,
        offset_ms: i64,
        lookback_ms: i64,
        what: &str,
    ) -> PyResult<Vec<(Vec<NativeChange>, Option<String>)>> {
        let rules: Vec<&AlertRule> = rules.iter().map(|rule| &**rule).collect();
        let mutings: Vec<Vec<Muting>> = mutings.into_iter().map(self::mutings).collect();
        let (limits, stop) = (self.limits, Stop::default());
        let ask = Ask { class: Class::Alert, expr: what, source: "alerts", limits, stop, visits: None };
        let (done, _) = call::run(py, &self.queries, ask, |budget| {
            let stores = self.stores();
            let mut known: HashMap<&str, Result<Matrix>> = HashMap::new();
            let mut done = Vec::with_capacity(rules.len());
            let mut samples = Vec::new();
            for (rule, mutings) in rules.iter().zip(&mutings) {
                for query in &rule.plan.queries {
                    known.entry(&query.text).or_insert_with(|| {
                        let mut found = backtest::at(query, at - offset_ms, lookback_ms, &*stores, budget)?;
                        found.timestamps.iter_mut().for_each(|t| *t = at);
                        Ok(found)
                    });
                }
                done.push(rule.step(&known, mutings, at, &mut samples));
            }
            self.write_alerts(&samples, at - offset_ms)?;
            Ok(done)
        })?;
        let of = |(changes, failed): (Vec<Change>, Option<Error>)| {
            (changes.iter().map(native).collect(), failed.map(|error| error.to_string()))
        };
        Ok(done.into_iter().map(of).collect())
    }

    /// Writes markers after all series of alerts that are evaluated no more.
    fn end_alerts(&self, py: Python<'_>, rules: Vec<PyRef<'_, AlertRule>>, at: i64) -> PyResult<()> {
        let rules: Vec<&AlertRule> = rules.iter().map(|rule| &**rule).collect();
        call::short(py, || {
            let written = rules.iter().flat_map(|rule| std::mem::take(&mut rule.held.lock().written));
            let ended: Vec<(Labels, f64)> = written.map(|labels| (labels, stale())).collect();
            self.write_alerts(&ended, at)
        })
    }

    /// One evaluation of a recording rule at `at`, whose query looks `offset_ms` back: writes what came at the time that
    /// the query saw, and markers after series that ended. Returns how many series there are.
    fn evaluate_record(
        &self,
        py: Python<'_>,
        rule: PyRef<'_, RecordRule>,
        at: i64,
        offset_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<usize> {
        let rule = &*rule;
        let (limits, stop) = (self.limits, Stop::default());
        let ask =
            Ask { class: Class::Alert, expr: &rule.query.text, source: "alerts", limits, stop, visits: None };
        let (written, _) = call::run(py, &self.queries, ask, |budget| {
            let found = backtest::at(&rule.query, at - offset_ms, lookback_ms, &*self.stores(), budget)?;
            self.write_alerts(&rule.named(found)?, at - offset_ms)?;
            Ok(rule.written.lock().len())
        })?;
        Ok(written)
    }

    /// What each of some alerts would have done, from rest at `start` on: a frame with `timestamp`, a column a label,
    /// and `alert_level`, `alert_from`, `alert_to`, `value`, `alert_firing`, `alert_flapping`, `alert_notify`, `alert_muted`.
    #[allow(clippy::too_many_arguments)] // rules and times, one to one
    fn backtest_alerts(
        &self,
        py: Python<'_>,
        rules: Vec<PyRef<'_, AlertRule>>,
        mutings: Vec<NativeMuting>,
        start: i64,
        end: i64,
        step: i64,
        offset_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<Vec<PyDataFrame>> {
        let plans: Vec<Arc<Plan>> = rules.iter().map(|rule| rule.plan.clone()).collect();
        let mutings = self::mutings(mutings);
        let times = Times { start, end, step, offset_ms, lookback_ms };
        self.rehearse(py, &plans, |budget| {
            let all = plans.iter().map(|plan| (&**plan, Vec::new())).collect();
            let found = backtest::backtest(all, &mutings, times, &*self.stores(), budget)?;
            found.iter().zip(&plans).map(|(changes, plan)| change_frame(changes, plan, budget)).collect()
        })
    }

    /// The figures of such rehearsals, a row an alert; `incidents` are their first and last moments (ms).
    #[allow(clippy::too_many_arguments)] // rules and times, one to one
    fn sweep_alerts(
        &self,
        py: Python<'_>,
        rules: Vec<PyRef<'_, AlertRule>>,
        mutings: Vec<NativeMuting>,
        incidents: Vec<(i64, i64)>,
        start: i64,
        end: i64,
        step: i64,
        offset_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<PyDataFrame> {
        let plans: Vec<Arc<Plan>> = rules.iter().map(|rule| rule.plan.clone()).collect();
        let mutings = self::mutings(mutings);
        let times = Times { start, end, step, offset_ms, lookback_ms };
        self.rehearse(py, &plans, |budget| {
            let all = plans.iter().map(|plan| (&**plan, Tally::new(&incidents))).collect();
            let mut found = backtest::backtest(all, &mutings, times, &*self.stores(), budget)?;
            found.iter_mut().for_each(|tally| tally.finish(end));
            tally_frame(&found)
        })
    }

    /// The plain alerts that the burn rates of one `SLO` mean.
    #[staticmethod]
    fn slo_alerts(py: Python<'_>, text: &str) -> PyResult<Vec<AlertRule>> {
        call::short(py, || {
            let Some(Statement::Slo(slo)) = syntax::program(text)?.statements.pop() else {
                return Err(Error::input("slo", text, "is no SLO statement", "write SLO name TARGET …"));
            };
            let alerts = alert::burns(&slo)?;
            alerts.iter().map(|alert| Ok(AlertRule::of(alert::compile(alert, text)?))).collect()
        })
    }
}

impl AlertRule {
    /// The machine's next step, with the samples that say what came of it.
    fn step(
        &self,
        known: &HashMap<&str, Result<Matrix>>,
        mutings: &[Muting],
        at: i64,
        samples: &mut Vec<(Labels, f64)>,
    ) -> (Vec<Change>, Option<Error>) {
        let (nothing, mut failed) = (Matrix::default(), None);
        let mut answers = Vec::with_capacity(self.plan.queries.len());
        for query in &self.plan.queries {
            match known.get(&*query.text) {
                Some(Ok(matrix)) => answers.push(matrix),
                Some(Err(error)) => failed = Some(error.clone()),
                None => answers.push(&nothing),
            }
        }
        if failed.is_some() {
            answers = self.plan.queries.iter().map(|_| &nothing).collect();
        }
        let times = [at];
        let readings = Readings::new(self.plan.by.as_deref(), &times, answers);
        let mut held = self.held.lock();
        let changes = held.machine.run(&self.plan, &readings, mutings, failed.is_some());
        let series = held.machine.series(&self.plan);
        let now: BTreeSet<&Labels> = series.iter().map(|(labels, _)| labels).collect();
        let ended = held.written.iter().filter(|labels| !now.contains(labels));
        samples.extend(ended.map(|labels| (labels.clone(), stale())));
        held.written = series.iter().map(|(labels, _)| labels.clone()).collect();
        samples.extend(series);
        (changes, failed)
    }
}

impl NativeDatabase {
    fn rehearse<T: Send>(
        &self,
        py: Python<'_>,
        plans: &[Arc<Plan>],
        work: impl FnOnce(&Budget) -> Result<T> + Send,
    ) -> PyResult<T> {
        // Evaluations come in parts, of which memory alone needs a limit.
        let (limits, stop) = (Limits { samples_max: u64::MAX, ..self.limits }, Stop::default());
        let what = format!("backtest of {}", plans.first().map_or("nothing", |plan| &plan.name));
        let ask = Ask { class: Class::Batch, expr: &what, source: "alerts", limits, stop, visits: None };
        call::run(py, &self.queries, ask, work).map(|(found, _)| found)
    }

    fn write_alerts(&self, samples: &[(Labels, f64)], at: i64) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        let labels: Vec<Labels> = samples.iter().map(|(labels, _)| labels.clone()).collect();
        let (ids, _) = self.store.register(&labels)?;
        let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
        let timestamps = vec![at; ids.len()];
        let columns = Columns { ids: &ids, timestamps: &timestamps, values: Values::Float(&values) };
        self.promised(self.store.append_columns(columns)?).map(|_| ())
    }
}

/// Columns of a frame of transitions beside labels.
const COLUMNS: [&str; 7] = [
    "alert_level",
    "alert_from",
    "alert_to",
    "alert_firing",
    "alert_flapping",
    "alert_notify",
    "alert_muted",
];

fn change_frame(changes: &[Change], plan: &Plan, budget: &Budget) -> Result<PyDataFrame> {
    let sets: Vec<Labels> = changes.iter().map(|change| change.labels.clone()).collect();
    let names = output::label_names(sets.iter(), budget)?;
    let names: Vec<String> = names.into_iter().filter(|name| name != METRIC_NAME).collect();
    let mut columns =
        vec![Column::new("timestamp".into(), changes.iter().map(|c| c.at).collect::<Vec<i64>>())];
    let mut labels = output::label_columns(&sets, &names, budget)?;
    for column in &mut labels {
        if COLUMNS.contains(&column.name().as_str()) || column.name() == "alert" {
            column.rename(format!("label_{}", column.name()).into());
        }
    }
    columns.extend(labels);
    let level = |c: &Change| c.level.and_then(|l| plan.levels.get(l)?.name.clone());
    let flags = |of: fn(&Change) -> bool| changes.iter().map(of).collect::<Vec<bool>>();
    let [named, from, to, firing, flapping, notify, muted] = COLUMNS;
    columns.extend([
        Column::new(named.into(), changes.iter().map(level).collect::<Vec<Option<String>>>()),
        Column::new(from.into(), changes.iter().map(|c| c.from.as_str()).collect::<Vec<&str>>()),
        Column::new(to.into(), changes.iter().map(|c| c.to.as_str()).collect::<Vec<&str>>()),
        Column::new("value".into(), changes.iter().map(|c| c.value).collect::<Vec<f64>>()),
        Column::new(firing.into(), flags(|c| c.firing)),
        Column::new(flapping.into(), flags(|c| c.flapping)),
        Column::new(notify.into(), flags(|c| c.notify)),
        Column::new(muted.into(), changes.iter().map(|c| c.muted.as_deref()).collect::<Vec<Option<&str>>>()),
    ]);
    output::frame(columns)
}

fn tally_frame(found: &[Tally]) -> Result<PyDataFrame> {
    let counts = |name: &'static str, of: fn(&Tally) -> u64| {
        Column::new(name.into(), found.iter().map(of).collect::<Vec<u64>>())
    };
    let seconds = |name: &'static str, of: fn(&Tally) -> i64| {
        Column::new(name.into(), found.iter().map(|tally| of(tally) as f64 / 1e3).collect::<Vec<f64>>())
    };
    output::frame(vec![
        counts("firings", |tally| tally.firings),
        counts("instances", Tally::instances),
        counts("notifications", |tally| tally.notifications),
        counts("pages", |tally| tally.pages),
        counts("flaps", |tally| tally.flaps),
        seconds("firing_seconds", |tally| tally.firing_ms),
        seconds("longest_seconds", |tally| tally.longest_ms),
        counts("hits", Tally::hits),
        counts("misses", Tally::misses),
        counts("false_alarms", |tally| tally.false_alarms),
    ])
}

fn statement_dict<'py>(py: Python<'py>, statement: &Statement, text: &str) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("text", statement.to_string())?;
    let kind = match statement {
        Statement::Query(_) => "query",
        Statement::Explain(_) => "explain",
        Statement::Record(record) => {
            dict.set_item("name", &record.name)?;
            dict.set_item("expr", record.expr.to_string())?;
            dict.set_item("labels", map_dict(py, &record.labels)?)?;
            dict.set_item("backfill_ms", record.backfill_ms)?;
            "record"
        }
        Statement::Alert(found) => {
            let plan = call::short(py, || alert::compile(found, text))?;
            dict.set_item("name", &found.name)?;
            dict.set_item("alert", alert_dict(py, &plan)?)?;
            "alert"
        }
        Statement::Slo(slo) => {
            let alerts = call::short(py, || alert::burns(slo))?;
            dict.set_item("name", &slo.name)?;
            dict.set_item("alerts", alerts.iter().map(Alert::to_string).collect::<Vec<_>>())?;
            "slo"
        }
        Statement::Group(group) => {
            dict.set_item("name", &group.name)?;
            dict.set_item("every_ms", group.every_ms)?;
            dict.set_item("offset_ms", group.offset_ms)?;
            dict.set_item("labels", map_dict(py, &group.labels)?)?;
            let statements = group.labelled();
            let inner = statements.iter().map(|statement| statement_dict(py, statement, text));
            dict.set_item("statements", inner.collect::<PyResult<Vec<_>>>()?)?;
            "group"
        }
    };
    dict.set_item("kind", kind)?;
    Ok(dict)
}

fn map_dict<'py>(py: Python<'py>, map: &Map) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    map.iter().try_for_each(|(name, text)| dict.set_item(name, text))?;
    Ok(dict)
}

fn alert_dict<'py>(py: Python<'py>, plan: &Plan) -> PyResult<Bound<'py, PyDict>> {
    let Clauses { cooldown_ms, flap, nodata, error, inhibited, during, cap, .. } = &plan.alert.clauses;
    let word = |choice: &dyn std::fmt::Debug| format!("{choice:?}").to_ascii_lowercase();
    let dict = PyDict::new(py);
    dict.set_item("name", &plan.name)?;
    dict.set_item("by", &plan.by)?;
    dict.set_item("cooldown_ms", cooldown_ms)?;
    let flap = flap.map(|f| (f.changes, f.window_ms, f.quiet_ms, f.then.map(|then| word(&then))));
    dict.set_item("flap", flap)?;
    dict.set_item("nodata", nodata.map(|nodata| (word(&nodata.then), nodata.after_ms)))?;
    dict.set_item("error", error.map(|error| word(&error)))?;
    let inhibited: Vec<_> = inhibited.iter().map(|i| (&i.by, &i.on)).collect();
    dict.set_item("inhibited", inhibited)?;
    dict.set_item("during", during.iter().map(|d| (d.negated, &d.interval)).collect::<Vec<_>>())?;
    dict.set_item("cap", cap)?;
    let levels = plan.levels.iter().enumerate().map(|(l, level)| {
        let condition = match &plan.alert.body {
            syntax::statement::Body::Single(condition) => Some(&**condition),
            syntax::statement::Body::Levels(levels) => levels.get(l).map(|level| &level.condition),
        };
        let dict = PyDict::new(py);
        dict.set_item("name", &level.name)?;
        condition.into_iter().try_for_each(|condition| condition_into(&dict, condition))?;
        let timing = plan.rules.levels[l];
        dict.set_item("keep_firing_ms", timing.keep_firing_ms)?;
        dict.set_item("hold_ms", timing.hold_ms)?;
        dict.set_item("labels", map_dict(py, &level.labels)?)?;
        dict.set_item("annotations", map_dict(py, &level.annotations)?)?;
        dict.set_item("route", level.route.as_ref().map(|route| route_dict(py, route)).transpose()?)?;
        Ok(dict)
    });
    dict.set_item("levels", levels.collect::<PyResult<Vec<_>>>()?)?;
    Ok(dict)
}

/// Milliseconds, or (k, n).
fn damp_into(dict: &Bound<'_, PyDict>, key: &str, damp: Option<Damp>) -> PyResult<()> {
    match damp {
        None => dict.set_item(key, ()),
        Some(Damp::For(ms)) => dict.set_item(key, (ms,)),
        Some(Damp::Of { count, of }) => dict.set_item(key, (count, of)),
    }
}

fn condition_into(dict: &Bound<'_, PyDict>, condition: &Condition) -> PyResult<()> {
    dict.set_item("expr", condition.fire.to_string())?;
    damp_into(dict, "for", condition.damp)?;
    let clear = condition.clear.as_ref();
    let (when, at) = match clear.map(|Clear { when, .. }| when) {
        None => (None, None),
        Some(ClearWhen::When(expr)) => (Some(expr.to_string()), None),
        Some(ClearWhen::At(value)) => (None, Some(*value)),
    };
    dict.set_item("clear_when", when)?;
    dict.set_item("clear_at", at)?;
    damp_into(dict, "clear_for", clear.and_then(|clear| clear.damp))
}

fn route_dict<'py>(py: Python<'py>, route: &Route) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("receivers", &route.receivers)?;
    dict.set_item("group_by", &route.group_by)?;
    dict.set_item("wait_ms", route.wait_ms)?;
    dict.set_item("interval_ms", route.interval_ms)?;
    dict.set_item("repeat_ms", route.repeat_ms)?;
    Ok(dict)
}
