//! What every way in becomes, and what every way in reports.

use std::borrow::Cow;

use crate::histogram::Histogram;
use crate::labels::{LabelError, Labels, LabelsBuilder};
use crate::memory::Step;
use crate::sample::Values;

/// The samples of one request. Labels stay in the bytes that the sender wrote: a known series is found
/// by the hash of those bytes, only an unknown one is decoded.
pub struct Batch<'a> {
    pub series: Vec<BatchSeries<'a>>,
    /// Columns that `BatchSeries::samples` points into; the same length.
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
    /// When the counter of each sample began, in milliseconds, 0 where that is not known. As long as
    /// `timestamps`, or empty where no sample has any.
    pub starts: Vec<i64>,
    /// Ascending by series.
    pub histograms: Vec<BatchHistogram>,
    pub metadata: Vec<Metadata>,
    /// Tells apart how senders write labels; two dialects never share raw hashes.
    pub dialect: u8,
    /// Decodes `BatchSeries::raw` of this dialect.
    pub decode: fn(&[u8], &mut LabelsBuilder) -> Result<(), LabelError>,
    /// Added to every series (a scrape's `job` and `instance`, say).
    pub extra: Extra,
    /// What the decoder itself refused, and why.
    pub report: WriteReport,
}

/// Labels that the receiver adds to what the sender wrote.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub labels: Labels,
    /// On a clash: true keeps the sender's label; false renames it to `exported_<name>`.
    pub honor: bool,
}

pub struct BatchSeries<'a> {
    pub raw: Cow<'a, [u8]>,
    /// First and one past the last sample.
    pub samples: std::ops::Range<u32>,
}

/// A native histogram of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchHistogram {
    /// Place of its series in `Batch::series`.
    pub series: u32,
    /// Milliseconds, both; a `start` of 0 is not known.
    pub timestamp: i64,
    pub start: i64,
    pub histogram: Histogram,
}

impl Batch<'_> {
    /// One without any series.
    pub fn new(dialect: u8, decode: fn(&[u8], &mut LabelsBuilder) -> Result<(), LabelError>) -> Self {
        Batch {
            series: Vec::new(),
            timestamps: Vec::new(),
            values: Vec::new(),
            starts: Vec::new(),
            histograms: Vec::new(),
            metadata: Vec::new(),
            dialect,
            decode,
            extra: Extra::default(),
            report: WriteReport::default(),
        }
    }

    /// The histograms of one series.
    pub fn histograms_of(&self, series: usize) -> &[BatchHistogram] {
        let from = self.histograms.partition_point(|h| (h.series as usize) < series);
        let to = self.histograms.partition_point(|h| h.series as usize <= series);
        self.histograms.get(from..to).unwrap_or(&[])
    }
}

/// Samples as columns, addressed by series id; any order.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    pub ids: &'a [u64],
    pub timestamps: &'a [i64],
    pub values: Values<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MetricType {
    #[default]
    Unknown,
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
}

impl MetricType {
    /// As the HTTP API and the exposition formats write it.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Unknown => "unknown",
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::GaugeHistogram => "gaugehistogram",
            MetricType::Summary => "summary",
            MetricType::Info => "info",
            MetricType::StateSet => "stateset",
        }
    }
}

/// What a metric family says of itself; `None` where this message said nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Metadata {
    pub metric: String,
    pub kind: Option<MetricType>,
    pub help: Option<String>,
    pub unit: Option<String>,
}

/// Whether the series of a metric count up: by what its family declared, and where that says nothing by the
/// ending of its name. A histogram and a summary count in their buckets, counts and sums.
pub fn looks_like_counter(name: &str, kind: Option<MetricType>) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|end| name.ends_with(end));
    match kind.unwrap_or_default() {
        MetricType::Counter => true,
        MetricType::Histogram | MetricType::Summary => ends(&["_bucket", "_count", "_sum"]),
        MetricType::Gauge | MetricType::GaugeHistogram | MetricType::Info | MetricType::StateSet => false,
        MetricType::Unknown => ends(&["_total", "_count", "_bucket", "_sum"]),
    }
}

/// Why a sample, a series or a line was not taken as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The line or message cannot be read.
    Malformed,
    InvalidLabels,
    UnknownSeries,
    /// A sample at this time exists, and the policy refuses another.
    DuplicateSample,
    /// Part of the protocol that is not stored (exemplars, native histograms).
    Unsupported,
    LimitExceeded,
    /// A new series that a limit on series refused, or a sample that comes too late for the sum of folded ones.
    CardinalityLimit,
    /// The database is at its memory limit.
    MemoryLimit,
    /// So old that only rollups are left of its time.
    OutOfRetention,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::InvalidLabels => "invalid_labels",
            Reason::UnknownSeries => "unknown_series",
            Reason::DuplicateSample => "duplicate_sample",
            Reason::Unsupported => "unsupported",
            Reason::LimitExceeded => "limit_exceeded",
            Reason::CardinalityLimit => "cardinality_limit",
            Reason::MemoryLimit => "memory_limit",
            Reason::OutOfRetention => "out_of_retention",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub reason: Reason,
    pub count: u64,
    /// The first offender: its text (shortened) and what is wrong with it.
    pub example: String,
}

/// What became of one call's samples. `accepted + rejected` is what came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteReport {
    pub accepted: u64,
    /// Among `accepted`: native histograms.
    pub histograms: u64,
    /// Among `accepted`: samples whose time existed already (kept or replaced by the policy).
    pub duplicates: u64,
    /// Among `accepted`: samples older than the newest of their series.
    pub out_of_order: u64,
    pub series_created: u64,
    pub rejected: Vec<Rejected>,
    /// Why what was accepted is not as durable as the mode of the database promises; `None` where it is.
    pub not_durable: Option<String>,
    /// The last step of the memory limit that refused something; `None` where none did.
    pub refused_at: Option<Step>,
}

impl WriteReport {
    /// Counts `count` offenders; `example` is only called for the first of its reason.
    pub fn reject(&mut self, reason: Reason, count: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        match self.rejected.iter_mut().find(|r| r.reason == reason) {
            Some(r) => r.count += count,
            None => {
                let example = example().chars().take(300).collect();
                self.rejected.push(Rejected { reason, count, example });
            }
        }
    }

    /// As `reject`, of samples for which memory is short.
    pub fn refuse(&mut self, step: Step, count: u64, example: impl FnOnce() -> String) {
        if count > 0 {
            self.refused_at = self.refused_at.max(Some(step));
        }
        self.reject(Reason::MemoryLimit, count, example);
    }

    pub fn rejected_total(&self) -> u64 {
        self.rejected.iter().map(|r| r.count).sum()
    }

    pub fn merge(&mut self, other: WriteReport) {
        self.accepted += other.accepted;
        self.histograms += other.histograms;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.series_created += other.series_created;
        self.not_durable = self.not_durable.take().or(other.not_durable);
        self.refused_at = self.refused_at.max(other.refused_at);
        for r in other.rejected {
            self.reject(r.reason, r.count, || r.example);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_type_outweighs_the_name() {
        let counter = |name, kind| looks_like_counter(name, Some(kind));
        assert!(counter("requests", MetricType::Counter));
        assert!(
            !counter("tickets_total", MetricType::Gauge) && !counter("x_bucket", MetricType::GaugeHistogram)
        );
        assert!(
            counter("latency_bucket", MetricType::Histogram) && counter("latency_sum", MetricType::Summary)
        );
        // The quantiles of a summary carry its bare name.
        assert!(!counter("latency", MetricType::Summary));
        assert!(counter("requests_total", MetricType::Unknown));
    }

    #[test]
    fn without_a_type_the_ending_decides() {
        let counters = ["a_total", "a_count", "a_bucket", "a_sum"];
        assert!(counters.iter().all(|name| looks_like_counter(name, None)));
        assert!(!["total", "temperature", "a_totals", ""].iter().any(|name| looks_like_counter(name, None)));
    }
}
