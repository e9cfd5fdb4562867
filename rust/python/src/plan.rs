//! What queries cost and what they did: plans as frames.

use std::collections::BTreeMap;
use std::time::Instant;

use metricsdb_model::{Result, Span};
use metricsdb_query::plan::{self, Actual, Explained, NodeCost, PlanRow, Rule, Suggestion, Surroundings};
use metricsdb_query::syntax;
use metricsdb_query::syntax::statement::{Statement, Subject};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::call;
use crate::database::NativeDatabase;
use crate::output;
use crate::query::Times;

/// The rows of a plan, and figures of the whole query.
type Plan = (PyDataFrame, BTreeMap<&'static str, u64>);

#[pymethods]
impl NativeDatabase {
    /// A row a node with its bounds, and with `analyze` what an evaluation counted. `step_ms` 0: an instant query at
    /// `start`.
    #[allow(clippy::too_many_arguments)] // a query, its times, and one switch
    fn explain(
        &self,
        py: Python<'_>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
        analyze: bool,
    ) -> PyResult<Plan> {
        let times = Times { start, end, step_ms, lookback_ms };
        let begun = Instant::now();
        let clock = || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.run(py, &format!("EXPLAIN {expr}"), |budget| {
            let tree = syntax::parse(expr)?;
            let (params, stores) = (times.params(expr), self.stores());
            let store = &*stores;
            if analyze {
                plan::admit(&tree, &params, store, budget)?;
            }
            let explained = plan::explain(&tree, &params, store, budget, analyze.then_some(&clock))
                .map_err(|error| plan::name_costly(error, &tree, &params, store, budget))?;
            Ok((plan_frame(&explained.rows, expr)?, totals(&explained)))
        })
    }

    /// What could be better in a query; `rules` are recording rules: name and expression. With `check` the query and
    /// each rewrite are evaluated.
    #[allow(clippy::too_many_arguments)] // a query, its times, and what is known beside
    fn suggest(
        &self,
        py: Python<'_>,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
        rules: Vec<(String, String)>,
        check: bool,
    ) -> PyResult<PyDataFrame> {
        let times = Times { start, end, step_ms, lookback_ms };
        self.run(py, &format!("suggest: {expr}"), |budget| {
            let tree = syntax::parse(expr)?;
            let rule =
                |(name, text): &(String, String)| Ok(Rule { name: name.clone(), expr: syntax::parse(text)? });
            let rules: Vec<Rule> = rules.iter().map(rule).collect::<Result<_>>()?;
            let kind_of = |metric: &str| self.store.kind_of(metric);
            let around = Surroundings { kind_of: &kind_of, rules: &rules, check };
            let found = plan::suggest(&tree, &times.params(expr), &*self.stores(), budget, &around)?;
            suggestion_frame(&found, expr)
        })
    }

    /// Of `EXPLAIN [ANALYZE] expression`: whether to analyze, the expression in its place, and that it is no alert;
    /// `EXPLAIN [ANALYZE] ALERT …`, `ALERT …` and `SLO …` are alerts. Of all others nothing.
    #[staticmethod]
    fn statement(py: Python<'_>, text: &str) -> PyResult<Option<(bool, String, bool)>> {
        call::short(py, || {
            let program = syntax::program(text)?;
            Ok(match &program.statements[..] {
                [Statement::Explain(explain)] => match &explain.subject {
                    Subject::Query(_) => explain.query_text(text).map(|text| (explain.analyze, text, false)),
                    Subject::Alert(alert) => Some((explain.analyze, alert.to_string(), true)),
                },
                [statement @ (Statement::Alert(_) | Statement::Slo(_))] => {
                    Some((false, statement.to_string(), true))
                }
                _ => None,
            })
        })
    }
}

fn totals(explained: &Explained) -> BTreeMap<&'static str, u64> {
    let estimate = &explained.estimate;
    let mut totals = BTreeMap::from([
        ("estimated_series", estimate.series),
        ("estimated_samples", estimate.samples),
        ("estimated_samples_min", estimate.samples_min),
        ("estimated_bytes", estimate.bytes),
        ("estimated_values", estimate.held),
    ]);
    if let Some(answer) = &explained.answer {
        totals.extend([
            ("samples", explained.samples),
            ("values", explained.held),
            ("nanoseconds", explained.nanos),
            ("series", answer.matrix.len() as u64),
        ]);
    }
    totals
}

/// Line and column of a span's start.
fn position(span: Span, text: &str) -> String {
    let (line, column) = span.line_column(text);
    format!("{line}:{column}")
}

fn plan_frame(rows: &[PlanRow], text: &str) -> Result<PyDataFrame> {
    let estimated = |name: &'static str, of: fn(&NodeCost) -> u64| {
        Column::new(name.into(), rows.iter().map(|r| of(&r.estimated)).collect::<Vec<u64>>())
    };
    let actual = |name: &'static str, of: fn(&Actual) -> u64| {
        Column::new(name.into(), rows.iter().map(|r| r.actual.as_ref().map(of)).collect::<Vec<Option<u64>>>())
    };
    let ms = |row: &PlanRow| row.actual.as_ref().map(|a| a.nanos as f64 / 1e6);
    let position = |row: &PlanRow| position(row.span, text);
    let codec = |r: &PlanRow| r.actual.as_ref().map(|a| a.codec.clone());
    output::frame(vec![
        Column::new("id".into(), rows.iter().map(|r| r.id as u32).collect::<Vec<u32>>()),
        Column::new(
            "parent".into(),
            rows.iter().map(|r| r.parent.map(|p| p as u32)).collect::<Vec<Option<u32>>>(),
        ),
        Column::new("depth".into(), rows.iter().map(|r| r.depth as u32).collect::<Vec<u32>>()),
        Column::new("node".into(), rows.iter().map(|r| r.node).collect::<Vec<&str>>()),
        Column::new("detail".into(), rows.iter().map(|r| r.detail.as_str()).collect::<Vec<&str>>()),
        Column::new("position".into(), rows.iter().map(position).collect::<Vec<String>>()),
        estimated("estimated_series", |c| c.series),
        estimated("estimated_samples", |c| c.samples),
        estimated("estimated_bytes", |c| c.bytes),
        estimated("estimated_values", |c| c.values),
        actual("series", |a| a.series),
        actual("samples", |a| a.samples),
        actual("bytes", |a| a.bytes),
        actual("values", |a| a.values),
        Column::new("milliseconds".into(), rows.iter().map(ms).collect::<Vec<Option<f64>>>()),
        Column::new("codec".into(), rows.iter().map(codec).collect::<Vec<Option<String>>>()),
    ])
}

fn suggestion_frame(found: &[Suggestion], text: &str) -> Result<PyDataFrame> {
    let texts = |of: &dyn Fn(&Suggestion) -> String| found.iter().map(of).collect::<Vec<String>>();
    let shares = |of: fn(&Suggestion) -> Option<f64>| found.iter().map(of).collect::<Vec<Option<f64>>>();
    output::frame(vec![
        Column::new("check".into(), texts(&|s| s.check.to_owned())),
        Column::new("message".into(), texts(&|s| s.message.clone())),
        Column::new("position".into(), texts(&|s| position(s.span, text))),
        Column::new(
            "rewrite".into(),
            found.iter().map(|s| s.rewrite.clone()).collect::<Vec<Option<String>>>(),
        ),
        Column::new("meaning".into(), texts(&|s| s.meaning.as_str().to_owned())),
        Column::new("same_answer".into(), found.iter().map(|s| s.same_answer).collect::<Vec<Option<bool>>>()),
        Column::new("predicted_saving".into(), shares(|s| s.predicted_saving)),
        Column::new("measured_saving".into(), shares(|s| s.measured_saving)),
    ])
}
