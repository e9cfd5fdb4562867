#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metricsdb_model::{
    Batch, BatchHistogram, BatchSeries, Budget, Columns, Counts, Error, Histogram, LabelError, Labels,
    LabelsBuilder, MatchOp, Matcher, Metadata, MetricType, Policy, Precision, Predicate, Result, SeriesSet,
    Tally, TimeRange, ValueKind, Values,
};

use super::testing::{Disk, Fault};
use super::{Durability, Opening, Recovery, Replay};
use crate::database::{Database, Options};
use crate::late::DuplicatePolicy;

mod damage;
mod faults;
mod forged;
mod lost;
mod power;
mod replaying;
mod roundtrip;
mod waiting;

pub fn every() -> Predicate {
    Predicate::All(Vec::new())
}

/// Selectors of these tests are names of metrics.
pub fn selector(text: &str) -> Result<Predicate> {
    Ok(Predicate::Match(Matcher::new("__name__", MatchOp::Equal, text)?))
}

pub fn try_open(disk: &Disk, durability: Durability, options: Options) -> Result<(Database, Recovery)> {
    Database::open(options, Opening { files: disk.files(), durability, salt: 99, selector })
}

pub fn begin(disk: &Disk, durability: Durability, options: Options) -> (Database, Replay) {
    Database::begin(options, Opening { files: disk.files(), durability, salt: 99, selector }).unwrap()
}

pub fn open(disk: &Disk, durability: Durability) -> (Database, Recovery) {
    let (db, recovery) = try_open(disk, durability, Options::default()).unwrap();
    db.check().unwrap();
    (db, recovery)
}

fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    out.push("__name__", std::str::from_utf8(raw).map_err(|e| LabelError::NotUtf8(e.to_string()))?);
    out.push("job", "test");
    Ok(())
}

pub fn empty<'a>() -> Batch<'a> {
    Batch::new(1, decode)
}

/// Samples of metrics: each of (metric, time, value).
pub fn batch<'a>(samples: &[(String, i64, f64)]) -> Batch<'a> {
    let mut batch = empty();
    for (metric, time, value) in samples {
        let at = batch.timestamps.len() as u32;
        batch.timestamps.push(*time);
        batch.values.push(*value);
        let raw = Cow::Owned(metric.clone().into_bytes());
        batch.series.push(BatchSeries { raw, samples: at..at + 1 });
    }
    batch
}

pub fn histogram(count: u64) -> Histogram {
    let counts = Counts::Int(Tally { count, zero: count, buckets: Vec::new() });
    Histogram { sum: count as f64, counts, ..Histogram::stale() }
}

/// Everything that can be read of a database, exactly.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    pub samples: BTreeMap<String, BTreeMap<i64, (u64, ValueKind)>>,
    pub starts: BTreeMap<String, Vec<i64>>,
    pub histograms: BTreeMap<String, Vec<(i64, Histogram)>>,
    pub metadata: Vec<Metadata>,
    pub rules: Vec<(String, String, bool)>,
    pub rounded: Vec<u64>,
}

pub fn content(db: &Database) -> Content {
    let budget = Budget::unlimited();
    let view = db.select_exact(&every(), TimeRange::ALL, &budget).unwrap();
    let mut out =
        Content { metadata: db.metadata(None), rounded: db.precision_series(), ..Content::default() };
    for i in 0..view.len() {
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        let runs = view.read_exact(i, TimeRange::ALL, &mut times, &mut bits).unwrap();
        let kinds = runs.iter().flat_map(|r| std::iter::repeat_n(r.kind, r.len));
        let samples = times.iter().zip(&bits).zip(kinds).map(|((&t, &b), k)| (t, (b, k))).collect();
        let mut starts = Vec::new();
        view.read_starts(i, &times, &mut starts).unwrap();
        if !times.is_empty() {
            out.samples.insert(view.labels(i).to_string(), samples);
        }
        if starts.iter().any(|&start| start != 0) {
            out.starts.insert(view.labels(i).to_string(), starts);
        }
    }
    let rows = db.histograms(&every(), TimeRange::ALL, &budget).unwrap();
    for (i, labels) in rows.labels.iter().enumerate() {
        let range = rows.offsets[i]..rows.offsets[i + 1];
        let points =
            rows.timestamps[range.clone()].iter().copied().zip(rows.histograms[range].iter().cloned());
        out.histograms.insert(labels.to_string(), points.collect());
    }
    let rule = |rule: crate::RuleText| (rule.selector, rule.policy, rule.counters_exact);
    out.rules = db.precision_rules().into_iter().map(rule).collect();
    out
}

pub fn series(metric: &str) -> String {
    Labels::from_pairs([("__name__", metric), ("job", "test")]).unwrap().to_string()
}

/// What a power cut may leave: the samples that were acknowledged, and those that were sent.
#[derive(Default)]
pub struct Promises {
    acknowledged: BTreeMap<(String, i64), f64>,
    sent: BTreeSet<(String, i64, u64)>,
}

impl Promises {
    /// Writes, and remembers what was promised; whether it was.
    pub fn write(&mut self, db: &Database, samples: &[(String, i64, f64)]) -> bool {
        let sent = |(m, t, v): &(String, i64, f64)| (series(m), *t, v.to_bits());
        self.sent.extend(samples.iter().map(sent));
        let report = db.write(&batch(samples));
        assert_eq!(report.rejected_total(), 0);
        if report.not_durable.is_none() {
            self.acknowledged.extend(samples.iter().map(|(m, t, v)| ((series(m), *t), *v)));
        }
        report.not_durable.is_none()
    }

    /// Every acknowledged sample is there, and nothing that was never sent.
    pub fn check(&self, db: &Database, case: &str) {
        let found = content(db);
        for ((metric, time), value) in &self.acknowledged {
            let there = found.samples.get(metric).and_then(|samples| samples.get(time));
            assert!(there.is_some(), "{case}: {metric} at {time} is lost");
            let bits = there.unwrap().0;
            let later = self.sent.contains(&(metric.clone(), *time, bits));
            assert!(bits == value.to_bits() || later, "{case}: {metric} at {time} is another");
        }
        for (metric, samples) in &found.samples {
            for (time, (bits, _)) in samples {
                assert!(self.sent.contains(&(metric.clone(), *time, *bits)), "{case}: {metric} at {time}");
            }
        }
    }
}
