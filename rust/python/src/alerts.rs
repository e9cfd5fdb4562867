//! Statements and alerts: texts to what Python reads, evaluations to transitions.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use metricsdb_model::sample::{Values, stale};
use metricsdb_model::{Budget, Columns, Error, Labels, Matrix, MetricType, Result, TimeRange, WriteReport};
use metricsdb_query::alert::backtest;
use metricsdb_query::alert::compile::Query;
use metricsdb_query::alert::identity;
use metricsdb_query::alert::{self, Change, Machine, Muting, Plan, Readings};
use metricsdb_query::exec::Params;
use metricsdb_query::plan;
use metricsdb_query::syntax::statement::{Alert, Map, Statement};
use metricsdb_query::syntax::{self, quote};
use metricsdb_store::Database;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::beside::Stores;
use crate::database::NativeDatabase;
use crate::queries::Class;
use crate::statements::{alert_dict, statement_dict};
use crate::{call, input};

pub type Pairs = BTreeMap<String, String>;
/// (from ms, until ms, labels, reason)
pub type NativeMuting = (i64, i64, Vec<(String, String)>, String);
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

/// (query, labels, values by evaluation)
type NativeRow = (usize, Pairs, Vec<Option<f64>>);
/// What queries came to, by their texts.
type Known<'q> = HashMap<&'q str, Result<Matrix>>;

/// One alert: its plan, and what its machine holds.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct AlertRule {
    pub plan: Arc<Plan>,
    text: String,
    /// With the labels of series that were written last, for the markers of those that end.
    held: Mutex<Held>,
    said: PyOnceLock<Py<PyDict>>,
}

#[derive(Default)]
struct Held {
    machine: Machine,
    written: Vec<Labels>,
    /// The last evaluations: time, and `Readings::digest`.
    seen: VecDeque<(i64, u64)>,
}

/// Evaluations that are remembered, to be compared with what late samples would have made of them.
const SEEN_MAX: usize = 64;

/// What the lints of an alert ask of the data.
struct Data<'d> {
    store: &'d Database,
    /// With what lies elsewhere.
    all: Stores<'d>,
    at: i64,
    lookback_ms: i64,
    recorded: &'d [String],
    budget: &'d Budget,
}

impl alert::Known for Data<'_> {
    fn is_counter(&self, metric: &str) -> bool {
        match self.store.kind_of(metric) {
            Some(kind) => kind == MetricType::Counter,
            None => metric.ends_with("_total"),
        }
    }

    fn series(&self, selector: &str) -> Option<u64> {
        if self.recorded.iter().any(|name| selector.contains(&quote(name))) {
            return None;
        }
        let predicate = syntax::selector(selector).ok()?;
        Some(self.all.bound(&predicate, TimeRange::ALL, self.budget).ok()??.series)
    }

    fn highest(&self, expr: &str) -> Option<f64> {
        let query = Query { expr: syntax::parse(expr).ok()?, text: expr.to_owned() };
        let found = backtest::at(&query, self.at, self.lookback_ms, &*self.all, self.budget).ok()?;
        found.values.into_iter().filter(|value| !value.is_nan()).reduce(f64::max)
    }

    fn samples(&self, expr: &str) -> Option<u64> {
        let params = Params { lookback_ms: self.lookback_ms, ..Params::instant(expr, self.at) };
        let bounds = plan::estimate(&syntax::parse(expr).ok()?, &params, &*self.all, self.budget).ok()?;
        Some(bounds.samples)
    }
}

pub fn mutings(given: Vec<NativeMuting>) -> Vec<Muting> {
    let muting = |(from_ms, until_ms, labels, reason): NativeMuting| Muting {
        from_ms,
        until_ms,
        labels,
        reason: reason.into(),
    };
    given.into_iter().map(muting).collect()
}

pub fn pairs(labels: &Labels) -> Pairs {
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
        *self.held.lock() = Held { machine, written, seen: VecDeque::new() };
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

    /// What is probably not meant: (check, message, line:column). `recorded`: metrics that rules will write.
    fn lint(
        &self,
        py: Python<'_>,
        database: &NativeDatabase,
        at: i64,
        lookback_ms: i64,
        recorded: Vec<String>,
    ) -> PyResult<Vec<(&'static str, String, String)>> {
        let what = format!("lint of {}", self.plan.name);
        database.run_as(py, Class::Query, "alerts", &what, database.limits, |budget| {
            // Spans of the printed text, whatever text the statement was read from.
            let alert = AlertRule::parsed(&self.text)?;
            let place = |lint: &alert::Lint| {
                let (line, column) = lint.span.line_column(&self.text);
                format!("{line}:{column}")
            };
            let (store, all) = (&database.store, database.stores());
            let known = Data { store, all, at, lookback_ms, recorded: &recorded, budget };
            let found = alert::lint(&alert, &known);
            Ok(found.into_iter().map(|lint| (lint.check, lint.message.clone(), place(&lint))).collect())
        })
    }

    /// Evaluations that are remembered: time (ms), and what the conditions came to.
    fn seen(&self) -> Vec<(i64, u64)> {
        self.held.lock().seen.iter().copied().collect()
    }

    /// Runs the machine over values that are given: rows of (query, labels, values by evaluation; None: no sample).
    /// Evaluations in `failed` fail. At the places in `cuts` the machine is written to bytes and read again.
    #[pyo3(signature = (times, rows, failed=Vec::new(), cuts=Vec::new(), mutings=Vec::new()))]
    fn simulate(
        &self,
        py: Python<'_>,
        times: Vec<i64>,
        rows: Vec<NativeRow>,
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
                let readings = Readings::new(&self.plan, &times[from..to], answers.iter().collect());
                changes.extend(machine.run(&self.plan, &readings, &mutings, fails));
                machine = Machine::from_bytes(&self.plan, &machine.to_bytes(&self.plan))?;
                from = to;
            }
            let written = machine.series(&self.plan).into_iter().map(|(labels, _)| labels).collect();
            *self.held.lock() = Held { machine, written, seen: VecDeque::new() };
            Ok(changes)
        })?;
        Ok(changes.iter().map(native).collect())
    }
}

/// Answers made of values that are given.
fn given(
    plan: &Plan,
    times: &[i64],
    rows: &[NativeRow],
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
    /// `render` gives labels that are templates: of their names and texts, the labels and value of a sample, and `at`.
    /// Where an alert has more than `limit` active instances, it fails and forgets all.
    /// Returns for each alert what happened, and why it failed: also where its series could not be written, which holds
    /// up no transition.
    #[pyo3(signature = (rules, mutings, at, offset_ms, lookback_ms, what, render=None, limit=None))]
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
        render: Option<Py<PyAny>>,
        limit: Option<usize>,
    ) -> PyResult<Vec<(Vec<NativeChange>, Option<String>)>> {
        let rules: Vec<&AlertRule> = rules.iter().map(|rule| &**rule).collect();
        let mutings: Vec<Vec<Muting>> = mutings.into_iter().map(self::mutings).collect();
        let known = self.run_as(py, Class::Alert, "alerts", what, self.limits, |budget| {
            let queries = rules.iter().flat_map(|rule| &rule.plan.queries);
            Ok(self.seen_at(queries, at, offset_ms, lookback_ms, budget))
        })?;
        // Templates may ask queries of their own, so they are rendered outside of the one above.
        let answers: Vec<Result<Answers<'_>>> =
            rules.iter().map(|rule| rule.answers(&known, render.as_ref())).collect();
        let done = call::short(py, || {
            let mut done = Vec::with_capacity(rules.len());
            let (mut samples, mut ended, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            for ((rule, mutings), answers) in rules.iter().zip(&mutings).zip(&answers) {
                done.push(rule.step(answers, mutings, at, limit, &mut samples, &mut ended));
                ends.push(samples.len());
            }
            let note = || {
                let mut from = 0;
                for (rule, to) in rules.iter().zip(ends) {
                    rule.held.lock().written = samples[from..to].iter().map(|(one, _)| one.clone()).collect();
                    from = to;
                }
            };
            if let Err(error) = self.write_alerts(&samples, &ended, at - offset_ms, note) {
                done.iter_mut().for_each(|(_, failed)| *failed = Some(error.clone()));
            }
            Ok(done)
        })?;
        let of = |(changes, failed): (Vec<Change>, Option<Error>)| {
            (changes.iter().map(native).collect(), failed.map(|error| error.to_string()))
        };
        Ok(done.into_iter().map(of).collect())
    }

    /// What the conditions of an alert come to now at an evaluation of the past, as `AlertRule.seen` has them.
    #[pyo3(signature = (rule, at, offset_ms, lookback_ms, render=None))]
    #[allow(clippy::too_many_arguments)] // an evaluation, one to one
    fn digest_alert(
        &self,
        py: Python<'_>,
        rule: PyRef<'_, AlertRule>,
        at: i64,
        offset_ms: i64,
        lookback_ms: i64,
        render: Option<Py<PyAny>>,
    ) -> PyResult<u64> {
        let rule = &*rule;
        let what = format!("late samples of {}", rule.plan.name);
        let known = self.run_as(py, Class::Batch, "alerts", &what, self.limits, |budget| {
            Ok(self.seen_at(&rule.plan.queries, at, offset_ms, lookback_ms, budget))
        })?;
        let answers = rule.answers(&known, render.as_ref());
        call::short(py, || Ok(rule.readings(&answers, &[at])?.digest(&rule.plan)))
    }

    /// Writes markers after all series of alerts that are evaluated no more.
    fn end_alerts(&self, py: Python<'_>, rules: Vec<PyRef<'_, AlertRule>>, at: i64) -> PyResult<()> {
        let rules: Vec<&AlertRule> = rules.iter().map(|rule| &**rule).collect();
        call::short(py, || {
            let written: Vec<Labels> =
                rules.iter().flat_map(|rule| rule.held.lock().written.clone()).collect();
            let note = || rules.iter().for_each(|rule| rule.held.lock().written.clear());
            self.write_alerts(&[], &written, at, note)
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

/// What the queries of a plan came to: as it was, or with rendered labels.
enum Answers<'m> {
    Plain(Vec<&'m Matrix>),
    Rendered(Vec<Matrix>),
}

impl AlertRule {
    /// The answers to its queries, with labels that are templates rendered.
    fn answers<'m>(&self, known: &'m Known<'_>, render: Option<&Py<PyAny>>) -> Result<Answers<'m>> {
        let mut answers = Vec::with_capacity(self.plan.queries.len());
        for query in &self.plan.queries {
            match known.get(&*query.text) {
                Some(found) => answers.push(found.as_ref().map_err(Error::clone)?),
                None => return Err(Error::execution(format!("{} was not evaluated", query.text))),
            }
        }
        match render.filter(|_| !self.plan.templates.is_empty()) {
            Some(render) => {
                Ok(Answers::Rendered(identity::rendered(&self.plan, &answers, &mut rendering(render))?))
            }
            None => Ok(Answers::Plain(answers)),
        }
    }

    /// Fails where the queries did, and where two samples are one alert.
    fn readings<'a>(&self, answers: &'a Result<Answers<'a>>, times: &'a [i64]) -> Result<Readings<'a>> {
        let answers = match answers.as_ref().map_err(Error::clone)? {
            Answers::Plain(answers) => answers.clone(),
            Answers::Rendered(own) => own.iter().collect(),
        };
        let readings = Readings::new(&self.plan, times, answers);
        identity::check(&self.plan, &readings).map(|()| readings)
    }

    /// The machine's next step, with the samples that say what came of it, and the series that ended.
    fn step(
        &self,
        answers: &Result<Answers<'_>>,
        mutings: &[Muting],
        at: i64,
        limit: Option<usize>,
        samples: &mut Vec<(Labels, f64)>,
        ended: &mut Vec<Labels>,
    ) -> (Vec<Change>, Option<Error>) {
        let times = [at];
        let readings = self.readings(answers, &times);
        let mut held = self.held.lock();
        let (changes, mut failed) = match readings {
            Ok(readings) => {
                held.seen.push_back((at, readings.digest(&self.plan)));
                if held.seen.len() > SEEN_MAX {
                    held.seen.pop_front();
                }
                (held.machine.run(&self.plan, &readings, mutings, false), None)
            }
            Err(error) => {
                let nothing = Matrix::default();
                let answers = self.plan.queries.iter().map(|_| &nothing).collect();
                let readings = Readings::new(&self.plan, &times, answers);
                (held.machine.run(&self.plan, &readings, mutings, true), Some(error))
            }
        };
        if let Some(error) = limit.and_then(|limit| held.machine.keep_to(limit).err()) {
            failed = Some(error);
        }
        let series = held.machine.series(&self.plan);
        let now: BTreeSet<&Labels> = series.iter().map(|(labels, _)| labels).collect();
        ended.extend(held.written.iter().filter(|labels| !now.contains(labels)).cloned());
        samples.extend(series);
        (changes, failed)
    }
}

/// Asks Python for labels.
pub fn rendering(render: &Py<PyAny>) -> impl FnMut(&Map, &Labels, f64, i64) -> Result<Map> + Send {
    |templates, labels, value, at| {
        let asked = Python::attach(|py| {
            let templates: Pairs = templates.iter().cloned().collect();
            let found = render.bind(py).call1((templates, pairs(labels), value, at))?;
            found.extract::<Pairs>()
        });
        let found = asked.map_err(|error| Error::execution(format!("templates of labels: {error}")))?;
        Ok(found.into_iter().collect())
    }
}

impl NativeDatabase {
    /// What queries that look `offset_ms` back come to at an evaluation, by their texts: each is evaluated once.
    fn seen_at<'q>(
        &self,
        queries: impl IntoIterator<Item = &'q Query>,
        at: i64,
        offset_ms: i64,
        lookback_ms: i64,
        budget: &Budget,
    ) -> Known<'q> {
        let stores = self.stores();
        let seen = |query: &Query| {
            let mut found = backtest::at(query, at - offset_ms, lookback_ms, &*stores, budget)?;
            found.timestamps.iter_mut().for_each(|t| *t = at);
            Ok(found)
        };
        let mut known = Known::new();
        for query in queries {
            known.entry(&query.text).or_insert_with(|| seen(query));
        }
        known
    }

    /// Writes samples, and markers after series that ended. `note` is called when memory has them, and before it is asked
    /// whether they are kept: what was written is known, and what could not be is not taken for written.
    pub fn write_alerts(
        &self,
        samples: &[(Labels, f64)],
        ended: &[Labels],
        at: i64,
        note: impl FnOnce(),
    ) -> Result<()> {
        let labels: Vec<Labels> = samples.iter().map(|(labels, _)| labels).chain(ended).cloned().collect();
        let (ids, _) = self.store.register(&labels)?;
        let mut values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
        values.resize(labels.len(), stale());
        let timestamps = vec![at; ids.len()];
        let columns = Columns { ids: &ids, timestamps: &timestamps, values: Values::Float(&values) };
        let report =
            if ids.is_empty() { WriteReport::default() } else { self.store.append_columns(columns)? };
        if report.accepted > 0 || report.rejected.is_empty() {
            note();
        }
        self.promised(report).map(|_| ())
    }
}
