//! What a series is: as its policy says, else its type, its name, or its samples.

use metricsdb_model::{Budget, Labels, MetricType, Predicate, Result, Samples, TimeRange};

use super::roll::Rule;
use crate::database::Database;
use crate::shard::Shard;
use crate::view::ByShard;

/// Rises of a series that never falls, from which on it is taken for a counter.
const RISES: usize = 8;
/// A series of so few values, whole numbers all, is taken for states once it has so many samples.
const STATES: usize = 8;
const STATE_SAMPLES: usize = 16;

/// What the values of a series are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    #[default]
    Gauge,
    Counter,
    /// A gauge of few values: for how long it had each is kept.
    States,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Counter, Kind::Gauge, Kind::States];

    pub fn is_counter(self) -> bool {
        self == Kind::Counter
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::States => "states",
        }
    }
}

/// Whether values are few, and whole numbers.
fn are_states(values: &[f64]) -> bool {
    let mut known: Vec<f64> = Vec::with_capacity(STATES);
    values.iter().all(|&value| {
        if known.contains(&value) {
            return true;
        }
        known.push(value);
        value.trunc() == value && known.len() <= STATES
    })
}

impl Shard {
    /// What a row's samples look like.
    fn behaviour(&self, row: u32) -> Result<Kind> {
        let mut samples = Samples::default();
        self.read_raw(row, TimeRange::ALL, &mut samples)?;
        samples.drop_stale(0);
        let steps = || samples.values.windows(2);
        let is_rise = |pair: &&[f64]| pair[1] > pair[0];
        if steps().all(|pair| pair[1] >= pair[0]) && steps().filter(is_rise).count() >= RISES {
            return Ok(Kind::Counter);
        }
        let are_states = samples.len() >= STATE_SAMPLES && are_states(&samples.values);
        Ok(if are_states { Kind::States } else { Kind::Gauge })
    }
}

impl Database {
    /// As the rule says, else as its type does, its name, or its samples. A series that has records stays a counter, or
    /// what is none.
    pub(super) fn kind_of_row(&self, shard: &Shard, row: u32, rule: &Rule) -> Result<Kind> {
        if let Some(series) = shard.rollups.get(row) {
            let wanted = rule.kind.filter(|kind| kind.is_counter() == series.kind().is_counter());
            return Ok(wanted.unwrap_or(series.kind()));
        }
        if let Some(kind) = rule.kind {
            return Ok(kind);
        }
        let labels = self.labels_of(shard, row, &mut Vec::new());
        let metric = labels.get("__name__").unwrap_or("");
        let declared = self.kind_of(metric);
        match declared {
            Some(MetricType::Counter) => return Ok(Kind::Counter),
            Some(MetricType::StateSet | MetricType::Info) => return Ok(Kind::States),
            // Parts of histograms and summaries go by their names.
            None | Some(MetricType::Unknown | MetricType::Histogram | MetricType::Summary) => {
                if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| metric.ends_with(end)) {
                    return Ok(Kind::Counter);
                }
            }
            Some(MetricType::Gauge | MetricType::GaugeHistogram) => {}
        }
        let kind = shard.behaviour(row)?;
        // What is declared a gauge may rise for long.
        let is_gauge = matches!(declared, Some(MetricType::Gauge | MetricType::GaugeHistogram));
        Ok(if is_gauge && kind.is_counter() { Kind::Gauge } else { kind })
    }

    /// What the series with records that satisfy the predicate are taken for.
    pub fn rollup_kinds(
        &self,
        predicate: &Predicate,
        budget: &Budget,
    ) -> Result<Vec<(Labels, &'static str)>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let (mut all, mut text) = (Vec::new(), Vec::new());
        by_shard.each(self, budget, |shard, rows| {
            for &row in rows {
                let Some(series) = shard.rollups.get(row) else { continue };
                let kind = if series.is_native() { "histogram" } else { series.kind().as_str() };
                all.push((self.labels_of(shard, row, &mut text), kind));
            }
            Ok(())
        })?;
        budget.keep(all.len() * size_of::<(Labels, &str)>())?;
        Ok(all)
    }
}
