//! Questions: PromQL as frames for people, as Prometheus' JSON for the server.

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Answer, Error, Labels, Predicate, Result, Samples, Source, TimeRange, bounds};
use metricsdb_query::exec::{self, Params};
use metricsdb_query::plan;
use metricsdb_query::syntax;
use metricsdb_query::syntax::tree::{Expr, ValueType};
use metricsdb_wire::{exposition_writer, prom_json};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_polars::PyDataFrame;

use crate::call::{self, Limits};
use crate::database::{NativeDatabase, predicates};
use crate::output;

/// (severity, message)
pub type Notes = Vec<(&'static str, String)>;

pub fn notes(answer: &Answer) -> Notes {
    answer.annotations.iter().map(|a| (a.severity.as_str(), a.message.clone())).collect()
}

#[pymethods]
impl NativeDatabase {
    /// A frame (labels, `timestamp` Int64 ms, `value`; `wide`: a column a series), the annotations, and the fields of
    /// histograms where a long frame has some. `step_ms` 0: an instant query at `start`.
    #[allow(clippy::too_many_arguments)] // times and shape, one to one
    fn query(
        &self,
        py: Python<'_>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
        wide: bool,
    ) -> PyResult<(PyDataFrame, Notes, Option<PyDataFrame>)> {
        let times = Times { start, end, step_ms, lookback_ms };
        let (frame, notes, fields) = call::run(py, self.limits, |budget| {
            let answer = times.evaluate(self, &syntax::parse(expr)?, expr, budget)?;
            let notes = notes(&answer);
            let fields = if wide { Ok(None) } else { output::histogram_fields(&answer.matrix) };
            Ok((output::answer_frame(answer, wide, budget)?, notes, fields))
        })?;
        let fields = fields.map_err(output::frame_error)?.map(PyDataFrame);
        Ok((PyDataFrame(frame), notes, fields))
    }

    /// The body of `/api/v1/query` and, with a step, `/api/v1/query_range`. `limit` 0: all series.
    #[allow(clippy::too_many_arguments)] // the parameters of the HTTP API, one to one
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
    ) -> PyResult<Bound<'py, PyBytes>> {
        let times = Times { start, end, step_ms, lookback_ms };
        let limits = Limits { timeout_ms: timeout_ms.min(self.limits.timeout_ms), ..self.limits };
        let body = call::run(py, limits, |budget| {
            times.check_steps()?;
            let tree = syntax::parse(expr)?;
            times.check_type(&tree, expr)?;
            let mut answer = times.evaluate(self, &tree, expr, budget)?;
            if limit > 0 {
                answer.truncate(limit);
            }
            let mut body = Vec::new();
            prom_json::answer(&answer, &mut body);
            Ok(body)
        })?;
        Ok(PyBytes::new(py, &body))
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
        let body = call::run(py, self.limits, |budget| {
            let (_, mut sets) =
                self.store.series(&predicates(&selectors)?, TimeRange::new(start, end), budget)?;
            sets.sort_unstable();
            if limit > 0 {
                sets.truncate(limit);
            }
            let mut body = Vec::new();
            prom_json::label_sets(&sets, &mut body);
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
        let body = call::run(py, self.limits, |budget| {
            let predicate = Predicate::Any(predicates(&selectors)?);
            let range = TimeRange::new(at.saturating_sub(lookback_ms) + 1, at);
            let set = self.store.select(&predicate, range, budget)?;
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
                }
            }
            newest.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Ok(self.exposition(&newest))
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
        call::run(py, self.limits, |budget| {
            self.store.label_names(&predicates(&selectors)?, TimeRange::new(start, end), budget)
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
        call::run(py, self.limits, |budget| {
            self.store.label_values(label, &predicates(&selectors)?, TimeRange::new(start, end), budget)
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
    fn exposition(&self, newest: &[(Labels, i64, f64)]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut family = None;
        for (labels, at, value) in newest {
            let name = labels.metric_name();
            if family != Some(name) {
                let kind = self.store.metadata(Some(name)).pop().and_then(|m| m.kind);
                exposition_writer::type_line(name, kind.unwrap_or_default(), &mut body);
                family = Some(name);
            }
            exposition_writer::sample(labels, *value, Some(*at), &mut body);
        }
        body
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

    fn evaluate(
        &self,
        database: &NativeDatabase,
        expr: &Expr,
        text: &str,
        budget: &metricsdb_model::Budget,
    ) -> Result<Answer> {
        let (params, store) = (self.params(text), &database.store);
        plan::admit(expr, &params, store, budget)?;
        exec::evaluate(expr, &params, store, budget)
            .map_err(|error| plan::name_costly(error, expr, &params, store, budget))
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
