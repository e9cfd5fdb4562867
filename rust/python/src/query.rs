//! Questions: PromQL as frames for people, as Prometheus' JSON for the server.

use std::time::Instant;

use metricsdb_model::budget::{Limits, Visits};
use metricsdb_model::order::sort_owned;
use metricsdb_model::sample::is_stale;
use metricsdb_model::{
    Answer, Budget, Error, Freed, Labels, Predicate, QueryStats, Result, Samples, TimeRange, bounds,
};
use metricsdb_query::decimate::{Method, Thinning};
use metricsdb_query::exec::{self, Params};
use metricsdb_query::plan;
use metricsdb_query::syntax;
use metricsdb_query::syntax::tree::{Expr, ValueType};
use metricsdb_wire::{exposition_writer, prom_json};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_polars::PyDataFrame;

use crate::body::{Body, StopSwitch, Unsent};
use crate::database::{NativeDatabase, predicates};
use crate::queries::{Ask, Class};
use crate::{call, error, output};

/// Rows written as text between two looks at the budget.
const ROWS_PER_CHECK: usize = 1024;

/// (severity, message)
type Notes = Vec<(&'static str, String)>;

/// The frame of an answer, the annotations, and the fields of histograms where a long frame has some.
pub type Found = (PyDataFrame, Notes, Option<PyDataFrame>);

pub fn found(answer: Answer, wide: bool, budget: &Budget) -> Result<Found> {
    let notes = answer.annotations.iter().map(|a| (a.severity.as_str(), a.message.clone())).collect();
    let fields = if wide { None } else { output::histogram_fields(&answer.matrix, budget)? };
    Ok((output::answer_frame(answer, wide, budget)?, notes, fields))
}

/// How series are thinned; 0 points: not at all.
fn thinning(points: usize, method: &str) -> Result<Option<Thinning>> {
    (points > 0).then(|| Thinning::new(Method::from_name(method)?, points)).transpose()
}

#[pymethods]
impl NativeDatabase {
    /// A frame (labels, `timestamp` Int64 ms, `value`; `wide`: a column a series), the annotations, and the fields of
    /// histograms where a long frame has some. `step_ms` 0: an instant query at `start`. `cache`: steps that are known
    /// need not be evaluated. `points`, unless 0: so many of a series at most, chosen by `method`.
    #[allow(clippy::too_many_arguments)] // the parameters of a query, one to one
    fn query(
        &self,
        py: Python<'_>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
        wide: bool,
        priority: &str,
        cache: bool,
        points: usize,
        method: &str,
    ) -> PyResult<Found> {
        let thinning = thinning(points, method).map_err(|e| error::to_python(py, e))?;
        let times = Times { start, end, step_ms, lookback_ms };
        let class = Class::from_name(priority).map_err(|e| error::to_python(py, e))?;
        self.run_as(py, class, "python", expr, self.limits, |budget| {
            let mut answer = times.evaluate(self, &syntax::parse(expr)?, expr, cache, budget)?;
            if let Some(thinning) = thinning {
                answer.matrix = thinning.matrix(answer.matrix, budget)?;
            }
            found(answer, wide, budget)
        })
    }

    /// The body of `/api/v1/query` and, with a step, `/api/v1/query_range`: its first piece, and the rest if there is
    /// more. `limit` 0: all series; `stats`: "", "all" (step by step), or anything else; `cache`: steps that are known
    /// need not be evaluated, where nobody asks for stats; `points` and `method` as in `query`.
    #[allow(clippy::too_many_arguments)] // the parameters of the HTTP API, one to one
    #[pyo3(signature = (expr, start, end, step_ms, lookback_ms, timeout_ms, limit, stats, priority, source, stop, cache=true, points=0, method=""))]
    fn api_query<'py>(
        &self,
        py: Python<'py>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
        timeout_ms: u64,
        limit: usize,
        stats: &str,
        priority: &str,
        source: &str,
        stop: PyRef<'py, StopSwitch>,
        cache: bool,
        points: usize,
        method: &str,
    ) -> PyResult<(Bound<'py, PyBytes>, Option<Body>)> {
        let thinning = thinning(points, method).map_err(|e| error::to_python(py, e))?;
        let times = Times { start, end, step_ms, lookback_ms };
        let limits = Limits { timeout_ms: timeout_ms.min(self.limits.timeout_ms), ..self.limits };
        let class = Class::from_name(priority).map_err(|e| error::to_python(py, e))?;
        let visits = (!stats.is_empty()).then(|| Visits::new(times.steps()));
        let ask = Ask { class, expr, source, limits, stop: stop.0.clone(), visits };
        let asked = Instant::now();
        let ((answer, stats), ticket) = call::run(py, &self.queries, ask, |budget| {
            let queued = asked.elapsed();
            times.check_steps()?;
            let tree = syntax::parse(expr)?;
            times.check_type(&tree, expr)?;
            let prepared = asked.elapsed();
            let mut answer = times.evaluate(self, &tree, expr, cache, budget)?;
            let stats = (!stats.is_empty()).then(|| {
                let seconds =
                    [queued, prepared - queued, asked.elapsed() - prepared].map(|d| d.as_secs_f64());
                times.stats(seconds, stats == "all", &answer, budget)
            });
            if limit > 0 {
                drop(Freed(answer.truncate(limit)));
            }
            if let Some(thinning) = thinning {
                answer.matrix = thinning.matrix(answer.matrix, budget)?;
            }
            Ok((answer, stats))
        })?;
        let deadline = call::deadline(ticket.begun, limits.timeout_ms);
        let (piece, rest) = call::detached(py, || {
            let mut unsent = Unsent::new(answer, stats, ticket, deadline);
            let piece = unsent.next()?;
            Ok((piece, (!unsent.is_done()).then(|| Body::new(unsent))))
        })
        .map_err(|e| error::to_python(py, e))?;
        Ok((PyBytes::new(py, &piece), rest))
    }

    /// The body of `/api/v1/series`.
    fn api_series<'py>(
        &self,
        py: Python<'py>,
        selectors: Vec<String>,
        start: i64,
        end: i64,
        limit: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let what = format!("series({})", selectors.join(", "));
        let body = self.run(py, &what, |budget| {
            let (_, mut sets) = self.series(&predicates(&selectors)?, TimeRange::new(start, end), budget)?;
            sort_owned(&mut sets, budget, Labels::cmp)?;
            if limit > 0 {
                sets.truncate(limit);
            }
            let mut body = Vec::new();
            prom_json::label_sets(&sets, &mut body, |body| {
                budget.fits(2 * body.capacity())?;
                budget.check()
            })?;
            Ok(body)
        })?;
        Ok(PyBytes::new(py, &body))
    }

    /// The newest sample of each selected series at `at`, as text exposition: `/federate`.
    fn federate<'py>(
        &self,
        py: Python<'py>,
        selectors: Vec<String>,
        at: i64,
        lookback_ms: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let what = format!("federate({})", selectors.join(", "));
        let body = self.run(py, &what, |budget| {
            let predicate = Predicate::Any(predicates(&selectors)?);
            let range = TimeRange::new(at.saturating_sub(lookback_ms) + 1, at);
            let stores = self.stores();
            let set = stores.select(&predicate, range, budget)?;
            let mut newest = Vec::with_capacity(set.len());
            let mut samples = Samples::default();
            for i in 0..set.len() {
                samples.clear();
                set.read(i, range, &mut samples)?;
                budget.take_samples(samples.len() as u64)?;
                if let (Some(&t), Some(&v)) = (samples.timestamps.last(), samples.values.last())
                    && !is_stale(v)
                {
                    newest.push((set.labels(i), t, v));
                    budget.keep(64 + newest.last().map_or(0, |n| n.0.heap_bytes()))?;
                }
            }
            sort_owned(&mut newest, budget, |a, b| a.0.cmp(&b.0))?;
            self.exposition(&newest, budget)
        })?;
        Ok(PyBytes::new(py, &body))
    }

    fn label_names(
        &self,
        py: Python<'_>,
        selectors: Vec<String>,
        start: i64,
        end: i64,
    ) -> PyResult<Vec<String>> {
        self.run(py, &format!("label_names({})", selectors.join(", ")), |budget| {
            let (predicates, range) = (predicates(&selectors)?, TimeRange::new(start, end));
            self.texts(|store| store.label_names(&predicates, range, budget))
        })
    }

    fn label_values(
        &self,
        py: Python<'_>,
        label: &str,
        selectors: Vec<String>,
        start: i64,
        end: i64,
    ) -> PyResult<Vec<String>> {
        self.run(py, &format!("label_values({label}, {})", selectors.join(", ")), |budget| {
            let (predicates, range) = (predicates(&selectors)?, TimeRange::new(start, end));
            self.texts(|store| store.label_values(label, &predicates, range, budget))
        })
    }

    /// The expression as Prometheus' formatter lays it out.
    #[staticmethod]
    fn format_query(py: Python<'_>, expr: &str) -> PyResult<String> {
        call::short(py, || Ok(syntax::pretty(&syntax::parse(expr)?)))
    }

    /// The JSON tree of `/api/v1/parse_query`.
    #[staticmethod]
    fn parse_query(py: Python<'_>, expr: &str) -> PyResult<String> {
        call::short(py, || Ok(syntax::to_json(&syntax::parse(expr)?)))
    }
}

impl NativeDatabase {
    /// Families in the order of their names, each under its type.
    fn exposition(&self, newest: &[(Labels, i64, f64)], budget: &Budget) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut family = None;
        for (i, (labels, at, value)) in newest.iter().enumerate() {
            if i % ROWS_PER_CHECK == 0 {
                budget.fits(2 * body.capacity())?;
                budget.check()?;
            }
            let name = labels.metric_name();
            if family != Some(name) {
                let kind = self.store.metadata(Some(name)).pop().and_then(|m| m.kind);
                exposition_writer::type_line(name, kind.unwrap_or_default(), &mut body);
                family = Some(name);
            }
            exposition_writer::sample(labels, *value, Some(*at), &mut body);
        }
        Ok(body)
    }
}

pub(crate) struct Times {
    pub start: i64,
    pub end: i64,
    pub step_ms: i64,
    pub lookback_ms: i64,
}

impl Times {
    pub fn params<'t>(&self, text: &'t str) -> Params<'t> {
        Params {
            end: self.end,
            step: (self.step_ms > 0).then_some(self.step_ms),
            lookback_ms: self.lookback_ms,
            ..Params::instant(text, self.start)
        }
    }

    fn steps(&self) -> usize {
        let steps = if self.step_ms > 0 { (self.end - self.start) / self.step_ms } else { 0 };
        steps.clamp(0, bounds::STEPS_MAX as i64) as usize + 1
    }

    /// `seconds`: in the queue, preparing, evaluating.
    fn stats(&self, seconds: [f64; 3], per_step: bool, answer: &Answer, budget: &Budget) -> QueryStats {
        let [queued, prepared, evaluated] = seconds;
        let counts: Vec<u64> = budget.visits().map(|v| v.steps().collect()).unwrap_or_default();
        let samples = counts.iter().sum();
        let times = (0..).map(|i: i64| self.start.saturating_add(self.step_ms.saturating_mul(i)));
        QueryStats {
            timings: vec![
                ("evalTotalTime", prepared + evaluated),
                ("resultSortTime", 0.0),
                ("queryPreparationTime", prepared),
                ("innerEvalTime", evaluated),
                ("execQueueTime", queued),
                ("execTotalTime", queued + prepared + evaluated),
            ],
            samples,
            samples_peak: budget.samples_peak().max(answer.matrix.values.len() as u64),
            per_step: if per_step { times.zip(counts).collect() } else { Vec::new() },
        }
    }

    fn evaluate(
        &self,
        database: &NativeDatabase,
        expr: &Expr,
        text: &str,
        cache: bool,
        budget: &Budget,
    ) -> Result<Answer> {
        let stores = database.stores();
        let evaluate = |params: &Params<'_>| {
            plan::admit(expr, params, &*stores, budget)?;
            exec::evaluate(expr, params, &*stores, budget)
                .map_err(|error| plan::name_costly(error, expr, params, &*stores, budget))
        };
        // The cache knows what is written to the store, not what comes and goes beside it.
        match cache && database.beside.is_empty() {
            true => {
                let written = || database.store.take_lowest_written();
                let answer = database.cache.answer(expr, &self.params(text), budget, &written, &evaluate);
                if self.step_ms > 0 {
                    database.memory.set_kept(database.cache.counts().bytes as u64);
                }
                answer
            }
            false => {
                let mut answer = evaluate(&self.params(text))?;
                database.beside.warn(&mut answer);
                Ok(answer)
            }
        }
    }

    /// Over HTTP a range query of a range vector or string is bad data (400), before it is an evaluation that failed.
    fn check_type(&self, expr: &Expr, text: &str) -> Result<()> {
        let found = expr.value_type();
        if self.step_ms == 0 || matches!(found, ValueType::Scalar | ValueType::Vector) {
            return Ok(());
        }
        let found = found.as_str();
        let message =
            format!("invalid expression type \"{found}\" for range query, must be Scalar or instant Vector");
        Err(Error::parse(text, expr.span, message))
    }

    /// Prometheus' guard of the HTTP API: 11,000 points a series.
    fn check_steps(&self) -> Result<()> {
        if self.step_ms > 0 && (self.end - self.start) / self.step_ms > bounds::STEPS_MAX as i64 {
            return Err(Error::input(
                "step",
                &format!("{} ms", self.step_ms),
                "exceeded maximum resolution of 11,000 points per timeseries",
                "Try decreasing the query resolution (?step=XX)",
            ));
        }
        Ok(())
    }
}
