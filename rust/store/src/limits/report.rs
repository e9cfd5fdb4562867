//! What makes the store large, and what it grows by: exact counts of live series from the index, estimates of what came
//! before and lately from sketches.

use std::cmp::Reverse;

use hashbrown::{HashMap, HashSet};
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, MatchOp, Matcher, Predicate, Result};

use super::sketch::{Growth, Sketch};
use crate::database::Database;
use crate::shard::SHARDS;
use crate::view::ByShard;

/// A metric, or a label: what lives, and about how much came since the process began and in the last 10 to 20 minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrowthOf {
    pub name: String,
    /// Of a label: its values, and the series that have it. Of a metric: its series, twice.
    pub live: u64,
    pub series: u64,
    pub ever: u64,
    pub recent: u64,
}

/// A metric, and the label without which it would have fewest series; "" where no label makes any difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricGrowth {
    pub growth: GrowthOf,
    pub label: String,
    pub series_without: u64,
}

/// Series of one metric: a hash of each, and per label what a value adds to it.
#[derive(Default)]
struct LabelSum {
    values: HashSet<u32>,
    /// Per series the hash of its labels without this one.
    rest: Vec<u64>,
}

impl Database {
    /// The metrics with most series, `limit` of them, largest first. Exact but for chance in 64 bits; takes some 0.2 µs for
    /// each label of each series of these metrics, and 8 bytes. Errors: what `budget` says.
    pub fn growth_by_metric(&self, limit: usize, budget: &Budget) -> Result<Vec<MetricGrowth>> {
        let metrics = self.index.cardinality(limit).series_by_metric;
        metrics.into_iter().map(|(name, _)| self.metric_growth(name, budget)).collect()
    }

    fn metric_growth(&self, name: String, budget: &Budget) -> Result<MetricGrowth> {
        let named = Predicate::Match(Matcher::new(METRIC_NAME, MatchOp::Equal, &name)?);
        let ids = ByShard::new(&self.index.select(&named, self, budget)?, budget)?;
        let growth = self.limits.sketches.lock().metric(&name);
        let (mut ever, mut series, mut labels) = (growth.ever.clone(), 0, HashMap::<u32, LabelSum>::new());
        let mut pairs = Vec::new();
        for number in 0..SHARDS {
            let rows = ids.rows(number);
            budget.check()?;
            budget.keep(rows.len() * 8 * labels.len())?;
            let shard = self.shard(number);
            for &row in rows {
                let Some(&handle) = shard.series.labels.get(row) else { continue };
                pairs.clear();
                pairs.extend(shard.label_sets.pairs(&self.shapes, handle));
                let whole = pairs.iter().fold(0u64, |sum, &pair| sum.wrapping_add(mixed(pair)));
                for &(name, value) in &pairs {
                    let label = labels.entry(name).or_default();
                    label.values.insert(value);
                    label.rest.push(whole.wrapping_sub(mixed((name, value))));
                }
                ever.insert(shard.series.hashes[row]);
                series += 1;
            }
        }
        let mut without =
            labels.into_iter().filter(|(_, label)| label.values.len() > 1).map(|(name, label)| {
                // Series that lack the label stay what they are.
                let (lacking, mut rest) = (series - label.rest.len() as u64, label.rest);
                rest.sort_unstable();
                rest.dedup();
                (rest.len() as u64 + lacking, Reverse(label.values.len()), self.symbols.get(name).to_owned())
            });
        let least = without.by_ref().min().filter(|least| least.0 < series);
        let (series_without, _, label) = least.unwrap_or((series, Reverse(0), String::new()));
        let growth = GrowthOf { live: series, series, ever: ever.estimate(), recent: growth.recent(), name };
        Ok(MetricGrowth { growth, label, series_without })
    }

    /// The labels with most values, `limit` of them. Linear in the number of values.
    pub fn growth_by_label(&self, limit: usize) -> Vec<GrowthOf> {
        let mut live: HashMap<u32, Sketch> = HashMap::new();
        let mut values: HashMap<u32, u64> = HashMap::new();
        self.index.each_value(|name, value| {
            *values.entry(name).or_default() += 1;
            let text = self.symbols.get(value);
            live.entry(name).or_default().insert(xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        });
        let sizes = self.index.bytes_by_label();
        let row = |label: crate::index::LabelBytes| {
            let name = self.symbols.get(label.name).to_owned();
            let growth: Growth = self.limits.sketches.lock().label(&name);
            let mut ever = growth.ever.clone();
            live.get(&label.name).into_iter().for_each(|live| ever.merge(live));
            let live = values.get(&label.name).copied().unwrap_or(0);
            GrowthOf { live, series: label.series, ever: ever.estimate(), recent: growth.recent(), name }
        };
        let mut rows: Vec<GrowthOf> = sizes.into_iter().map(row).collect();
        rows.sort_unstable_by(|a, b| b.live.cmp(&a.live).then_with(|| a.name.cmp(&b.name)));
        rows.truncate(limit);
        rows
    }

    /// Series by the values of some labels, most first: values, series, metrics. Walks every series.
    pub fn series_by(
        &self,
        labels: &[&str],
        limit: usize,
        budget: &Budget,
    ) -> Result<Vec<(Vec<String>, u64, u64)>> {
        let names: Vec<Option<u32>> = labels.iter().map(|name| self.symbols.lookup(name)).collect();
        let metric = self.symbols.lookup(METRIC_NAME);
        let mut found = HashMap::<Box<[u32]>, (u64, HashSet<u32>)>::new();
        let mut values = Vec::new();
        for number in 0..SHARDS {
            budget.check()?;
            let shard = self.shard(number);
            for &handle in shard.series.labels.iter() {
                let value = |name: Option<u32>| shard.label_sets.value(&self.shapes, handle, name?);
                values.clear();
                values.extend(names.iter().map(|&name| value(name).unwrap_or(u32::MAX)));
                if !found.contains_key(&values[..]) {
                    found.insert(values.as_slice().into(), Default::default());
                }
                let Some(group) = found.get_mut(&values[..]) else { continue };
                group.0 += 1;
                group.1.extend(value(metric));
            }
        }
        let text = |(values, (series, metrics)): (Box<[u32]>, (u64, HashSet<u32>))| {
            let texts = values.iter().map(|&value| self.symbols.get(value).to_owned()).collect();
            (texts, series, metrics.len() as u64)
        };
        let mut rows: Vec<(Vec<String>, u64, u64)> = found.into_iter().map(text).collect();
        rows.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        rows.truncate(limit);
        Ok(rows)
    }
}

/// A hash of a label and its value, that may be added to others and taken away again.
fn mixed((name, value): (u32, u32)) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&(u64::from(name) << 32 | u64::from(value)).to_le_bytes())
}
