//! Precision policies as Python sees them: selectors and policies are text.

use metricsdb_model::budget::Limits;
use metricsdb_model::{Policy, Precision, Predicate, Result, TimeRange};
use metricsdb_query::syntax;
use pyo3::prelude::*;

use crate::call;
use crate::database::NativeDatabase;

/// metric, series, samples, bytes now and then, largest errors (absolute, relative), root mean square error
type Preview = (String, u64, u64, u64, u64, f64, f64, f64);

fn rule(selector: &str, policy: &str, counters_exact: bool) -> Result<(Predicate, Policy)> {
    Ok((syntax::selector(selector)?, Policy { precision: Precision::parse(policy)?, counters_exact }))
}

#[pymethods]
impl NativeDatabase {
    /// Replaces all policies: (selector, policy, whether counters are exact), the first that matches wins.
    fn set_precision(&self, py: Python<'_>, rules: Vec<(String, String, bool)>) -> PyResult<()> {
        call::short(py, || {
            let named = |(selector, policy, exact): &(String, String, bool)| {
                let (predicate, policy) = rule(selector, policy, *exact)?;
                Ok((selector.clone(), predicate, policy))
            };
            self.store.set_precision_rules(rules.iter().map(named).collect::<Result<_>>()?)
        })
    }

    /// How many series each policy applies to.
    fn precision_series(&self, py: Python<'_>) -> Vec<u64> {
        call::detached(py, || self.store.precision_series())
    }

    /// A row a metric. `samples_max` stands in for the limit of queries.
    #[allow(clippy::too_many_arguments)] // a policy, what it is tried on, and a limit
    fn preview_precision(
        &self,
        py: Python<'_>,
        selector: &str,
        policy: &str,
        counters_exact: bool,
        start: i64,
        end: i64,
        samples_max: u64,
    ) -> PyResult<Vec<Preview>> {
        let limits = Limits { samples_max, ..self.limits };
        let rows = self.run_within(py, selector, limits, |budget| {
            let (predicate, policy) = rule(selector, policy, counters_exact)?;
            self.store.preview_precision(&predicate, policy, TimeRange::new(start, end), budget)
        })?;
        let row = |r: metricsdb_store::PreviewRow| {
            let (now, then) = (r.bytes_now, r.bytes_then);
            (r.metric, r.series, r.samples, now, then, r.abs_error_max, r.rel_error_max, r.rms_error)
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// (series, samples, samples that changed, bytes before, after); takes as long as it takes.
    fn rewrite_precision(&self, py: Python<'_>, selector: &str) -> PyResult<(u64, u64, u64, u64, u64)> {
        let limits = Limits { timeout_ms: u64::MAX, samples_max: u64::MAX, bytes_max: u64::MAX };
        let done = self.run_within(py, selector, limits, |budget| {
            self.store.rewrite_precision(&syntax::selector(selector)?, budget)
        })?;
        Ok((done.series, done.samples, done.changed, done.bytes_before, done.bytes_after))
    }
}
