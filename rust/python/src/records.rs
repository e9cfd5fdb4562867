//! Recording rules: answers to series under the rule's name and labels.

use std::collections::BTreeMap;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Error, Histogram, Labels, Matrix, Result};
use metricsdb_query::alert::backtest;
use metricsdb_query::alert::compile::Query;
use metricsdb_query::syntax::statement::Map;
use metricsdb_query::syntax::{self, quote};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::alerts::{Pairs, pairs};
use crate::call;
use crate::database::NativeDatabase;
use crate::queries::Class;

/// A recording rule, with the series that it wrote last, and their values.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct RecordRule {
    query: Query,
    /// With the name; an empty text takes a label away.
    labels: Map,
    written: Mutex<BTreeMap<Labels, f64>>,
}

#[pymethods]
impl RecordRule {
    #[new]
    fn new(py: Python<'_>, name: &str, expr: &str, labels: Pairs) -> PyResult<RecordRule> {
        call::short(py, || {
            let query = Query { expr: syntax::parse(expr)?, text: expr.to_owned() };
            let named = (METRIC_NAME.to_owned(), name.to_owned());
            let labels = labels.into_iter().chain([named]).collect();
            Ok(RecordRule { query, labels, written: Mutex::default() })
        })
    }

    /// The series that it wrote last, and their values; a histogram's value is NaN.
    fn series(&self) -> Vec<(Pairs, f64)> {
        self.written.lock().iter().map(|(labels, value)| (pairs(labels), *value)).collect()
    }
}

/// What one evaluation writes.
#[derive(Default)]
struct Recorded {
    /// All series with their values; a histogram's is NaN.
    all: BTreeMap<Labels, f64>,
    values: Vec<(Labels, f64)>,
    histograms: Vec<(Labels, Histogram)>,
}

impl RecordRule {
    /// The samples of an answer under the rule's name and labels.
    fn named(&self, found: Matrix, limit: Option<usize>) -> Result<Recorded> {
        if let Some(limit) = limit.filter(|limit| found.len() > *limit) {
            let message = format!("exceeded limit of {limit} with {} series", found.len());
            return Err(Error::execution(message));
        }
        let mut recorded = Recorded::default();
        let mut histograms = found.histograms.into_iter().peekable();
        for (place, (labels, value)) in found.labels.into_iter().zip(found.values).enumerate() {
            let labels = self.labels.iter().fold(labels, |all, (name, text)| all.with(name, text));
            let histogram = histograms.next_if(|(at, _)| *at == place).map(|(_, histogram)| histogram);
            let shown = if histogram.is_some() { f64::NAN } else { value };
            if recorded.all.insert(labels.clone(), shown).is_some() {
                let message = "vector contains metrics with the same labelset after applying rule labels";
                return Err(Error::execution(message));
            }
            match histogram {
                Some(histogram) => recorded.histograms.push((labels, histogram)),
                None => recorded.values.push((labels, value)),
            }
        }
        Ok(recorded)
    }

    /// The series that it wrote last, and that this evaluation does not write.
    fn ended(&self, all: &BTreeMap<Labels, f64>) -> Vec<Labels> {
        self.written.lock().keys().filter(|labels| !all.contains_key(labels)).cloned().collect()
    }
}

#[pymethods]
impl NativeDatabase {
    /// What was written at `at` is what the rule wrote last, as after a restart: then markers follow what ends.
    fn resume_record(&self, py: Python<'_>, rule: PyRef<'_, RecordRule>, at: i64) -> PyResult<()> {
        let rule = &*rule;
        let text = rule.selector();
        self.run_as(py, Class::Alert, "alerts", &text, self.limits, |budget| {
            let query = Query { expr: syntax::parse(&text)?, text: text.clone() };
            let found = backtest::at(&query, at, 1, &*self.store, budget)?;
            *rule.written.lock() = found.labels.into_iter().zip(found.values).collect();
            Ok(())
        })
    }

    /// One evaluation of a recording rule at `at`, whose query looks `offset_ms` back: writes what came at the time that
    /// the query saw, and markers after series that ended. Returns how many series there are. Fails, and writes nothing,
    /// where they are more than `limit`, or two are the same.
    #[pyo3(signature = (rule, at, offset_ms, lookback_ms, limit=None))]
    #[allow(clippy::too_many_arguments)] // an evaluation, one to one
    fn evaluate_record(
        &self,
        py: Python<'_>,
        rule: PyRef<'_, RecordRule>,
        at: i64,
        offset_ms: i64,
        lookback_ms: i64,
        limit: Option<usize>,
    ) -> PyResult<usize> {
        let rule = &*rule;
        self.run_as(py, Class::Alert, "alerts", &rule.query.text, self.limits, |budget| {
            let found = backtest::at(&rule.query, at - offset_ms, lookback_ms, &*self.stores(), budget)?;
            let Recorded { all, values, histograms } = rule.named(found, limit)?;
            let count = all.len();
            let ended = rule.ended(&all);
            self.write_alerts(&values, &ended, at - offset_ms, || {
                // What is no more got its marker, whatever becomes of histograms.
                let mut written = rule.written.lock();
                written.retain(|labels, _| all.contains_key(labels));
                written.extend(values.iter().cloned());
            })?;
            self.write_histograms(histograms, at - offset_ms)?;
            *rule.written.lock() = all;
            Ok(count)
        })
    }
}

impl RecordRule {
    /// All that the rule may have written.
    fn selector(&self) -> String {
        let pairs = self.labels.iter().map(|(name, value)| format!("{}={}", quote(name), quote(value)));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
    }
}

impl NativeDatabase {
    fn write_histograms(&self, recorded: Vec<(Labels, Histogram)>, at: i64) -> Result<()> {
        if recorded.is_empty() {
            return Ok(());
        }
        let (labels, histograms): (Vec<Labels>, Vec<Histogram>) = recorded.into_iter().unzip();
        let (ids, _) = self.store.register(&labels)?;
        let written = self.store.append_histograms(&ids, &vec![at; ids.len()], &histograms)?;
        self.promised(written).map(|_| ())
    }
}
