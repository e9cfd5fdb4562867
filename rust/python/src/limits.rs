//! Limits on series as Python sees them, and what makes the database large.

use metricsdb_model::{Error, Predicate, Result};
use metricsdb_query::syntax;
use metricsdb_store::{Action, Bound, Limit, LimitStatus};
use pyo3::prelude::*;

use crate::call;
use crate::database::NativeDatabase;

/// name, selector or "", labels, most series, folded ones beside them
type SeriesRule = (String, String, Vec<String>, u64, u64);
/// name, selector or "", most new series, window in ms
type ChurnRule = (String, String, u64, i64);
/// `reject`, `drop_label` or `overflow`, and the label
type AtLimit = (String, Option<String>);
/// name, series, groups, series of the largest, times that a new one was rejected, dropped, folded
type Status = (String, u64, u64, u64, u64, u64, u64);

/// The selector of a limit; an error says of which.
fn selector(text: &str, name: &str) -> Result<Predicate> {
    if text.is_empty() {
        return Ok(Predicate::All(Vec::new()));
    }
    syntax::selector(text).map_err(|mut error| {
        if let Error::Parse { message, remedy, .. } = &mut error {
            *message = format!("limit {name:?}: selector {text:?}: {message}");
            remedy.get_or_insert_with(|| "write a selector such as node_load1 or {job=\"node\"}".to_owned());
        }
        error
    })
}

fn action((name, label): AtLimit) -> Result<Action> {
    match name.as_str() {
        "reject" => Ok(Action::Reject),
        "drop_label" => Ok(Action::Drop(label)),
        "overflow" => Ok(Action::Overflow(label)),
        other => Err(Error::input("at_limit", other, "is not known", "use reject, drop_label or overflow")),
    }
}

#[pymethods]
impl NativeDatabase {
    /// Replaces all limits; each is one of series or one of churn.
    fn set_limits(
        &self,
        py: Python<'_>,
        rules: Vec<(Option<SeriesRule>, Option<ChurnRule>, AtLimit)>,
    ) -> PyResult<()> {
        call::short(py, || {
            let mut limits = Vec::with_capacity(rules.len());
            for (series, churn, at_limit) in rules {
                let action = action(at_limit)?;
                if let Some((name, text, by, max, folded_max)) = series {
                    let bound = Bound::Series { by, max, folded_max };
                    limits.push(Limit { selector: selector(&text, &name)?, name, bound, action });
                } else if let Some((name, text, new_max, window_ms)) = churn {
                    let bound = Bound::Churn { new_max, window_ms };
                    limits.push(Limit { selector: selector(&text, &name)?, name, bound, action });
                }
            }
            self.store.set_limits(limits)
        })
    }

    fn limit_status(&self, py: Python<'_>) -> Vec<Status> {
        let row = |s: LimitStatus| (s.name, s.series, s.groups, s.largest, s.rejected, s.dropped, s.folded);
        call::detached(py, || self.store.limit_status()).into_iter().map(row).collect()
    }

    /// (rule, metric, labels, since in ms, new series)
    fn churning(&self, py: Python<'_>) -> Vec<(String, String, Vec<String>, i64, u64)> {
        let rows = call::detached(py, || self.store.churning()).into_iter();
        rows.map(|(rule, row)| (rule, row.metric, row.labels, row.since, row.new_series)).collect()
    }

    /// folded series, the series they go to, their samples so far
    fn folded(&self) -> (usize, usize, u64) {
        self.store.folded()
    }

    fn limits_tick(&self, py: Python<'_>, now_ms: i64) {
        call::detached(py, || self.store.limits_tick(now_ms));
    }

    /// (metric, series, ever, recent, label, series without it)
    fn growth_by_metric(
        &self,
        py: Python<'_>,
        limit: usize,
    ) -> PyResult<Vec<(String, u64, u64, u64, String, u64)>> {
        let rows =
            self.run(py, "cardinality by metric", |budget| self.store.growth_by_metric(limit, budget))?;
        let row = |r: metricsdb_store::limits::MetricGrowth| {
            let growth = r.growth;
            (growth.name, growth.series, growth.ever, growth.recent, r.label, r.series_without)
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// (label, values, series, values ever, values lately)
    fn growth_by_label(&self, py: Python<'_>, limit: usize) -> Vec<(String, u64, u64, u64, u64)> {
        let rows = call::detached(py, || self.store.growth_by_label(limit));
        rows.into_iter().map(|r| (r.name, r.live, r.series, r.ever, r.recent)).collect()
    }

    /// (label, value, series)
    fn series_by_value(&self, py: Python<'_>, limit: usize) -> Vec<(String, String, u64)> {
        let pairs = call::detached(py, || self.store.cardinality(limit)).series_by_pair;
        let split = |(pair, series): (String, u64)| {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            (name.to_owned(), value.to_owned(), series)
        };
        pairs.into_iter().map(split).collect()
    }

    /// (values of the labels, series, metrics)
    fn series_by(
        &self,
        py: Python<'_>,
        labels: Vec<String>,
        limit: usize,
    ) -> PyResult<Vec<(Vec<String>, u64, u64)>> {
        let names: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.run(py, "cardinality", |budget| self.store.series_by(&names, limit, budget))
    }
}
