//! StatsD: events are added as they come and flushed as Prometheus samples at times the caller chooses.
//!
//! What they become follows Prometheus' statsd_exporter:
//!
//! | type | becomes |
//! | --- | --- |
//! | `c` | a counter that only grows, under the metric's own name; `\|@rate` counts `1 / rate` |
//! | `g` | a gauge with the last value; `+n` and `-n` add to it |
//! | `ms` | a classic histogram in seconds: `_bucket{le}`, `_sum`, `_count` |
//! | `h`, `d` | the same in the unit that was sent |
//! | `s` | a gauge with the number of different values since the last flush |
//!
//! Characters that a name may not have become `_`. DogStatsD's tags are labels; a tag without a value is
//! `true`. The aggregator keeps no clock and no thread.

mod line;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{
    Batch, BatchSeries, Error, LabelError, Labels, LabelsBuilder, LabelsRef, Metadata, MetricType, Reason,
    Result, WriteReport,
};

use crate::dialect;
use crate::number::write_plain;
use line::{Event, Kind, LineReader};

const LE: &str = "le";

/// What an aggregator does with timings, and when it forgets.
#[derive(Clone, Debug)]
pub struct StatsdOptions {
    /// Upper bounds of the buckets of `ms` timings, in seconds, growing; `+Inf` is added.
    pub timing_bounds: Vec<f64>,
    /// Upper bounds of the buckets of `h` and `d` values.
    pub histogram_bounds: Vec<f64>,
    /// Different metrics (name, tags) that are kept at once.
    pub metrics_max: usize,
    /// Different values of one set between two flushes.
    pub set_values_max: usize,
    /// A metric that got no event during so many flushes is forgotten; 0 keeps it for good.
    pub idle_flushes_max: u64,
}

impl Default for StatsdOptions {
    fn default() -> StatsdOptions {
        StatsdOptions {
            // The default buckets of Prometheus' client libraries.
            timing_bounds: vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            histogram_bounds: vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0,
                100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
            ],
            metrics_max: 100_000,
            set_values_max: 10_000,
            idle_flushes_max: 0,
        }
    }
}

/// Holds counters, gauges, timings and sets between flushes.
pub struct StatsdAggregator {
    options: StatsdOptions,
    /// By the canonical form of the labels.
    metrics: HashMap<Box<[u8]>, Metric>,
    flushes: u64,
    builder: LabelsBuilder,
}

struct Metric {
    state: State,
    /// The flush before which the last event came.
    last_event: u64,
}

enum State {
    Counter(f64),
    Gauge(f64),
    Histogram(Box<Histogram>),
    /// The values, and the flush that they are counted for.
    Set(HashSet<Box<[u8]>>, u64),
}

struct Histogram {
    bounds: Vec<f64>,
    /// Per bucket, not cumulative; the last one is `+Inf`.
    counts: Vec<f64>,
    sum: f64,
    /// Canonical labels of each bucket, of `_sum` and of `_count`.
    series: Vec<Box<[u8]>>,
}

impl StatsdAggregator {
    /// # Errors
    /// `Error::Input` if bounds are not finite and growing.
    pub fn new(options: StatsdOptions) -> Result<StatsdAggregator> {
        for (name, bounds) in
            [("timing_bounds", &options.timing_bounds), ("histogram_bounds", &options.histogram_bounds)]
        {
            let growing = bounds.is_sorted_by(|a, b| a < b);
            if !growing || bounds.iter().any(|b| !b.is_finite()) {
                let value = format!("{bounds:?}");
                return Err(Error::input(
                    name,
                    &value,
                    "the bounds are not finite and growing",
                    "sort them and leave out NaN, infinities and doubles",
                ));
            }
        }
        Ok(StatsdAggregator {
            options,
            metrics: HashMap::new(),
            flushes: 0,
            builder: LabelsBuilder::default(),
        })
    }

    /// Metrics that are kept now.
    pub fn len(&self) -> usize {
        self.metrics.len()
    }

    /// True before the first event.
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// Adds the events of a packet or body: lines of `name:value|type|@rate|#tag:value,…`. A line that
    /// cannot be read costs no other; the report's `accepted` counts values.
    pub fn add(&mut self, body: &[u8]) -> WriteReport {
        let mut report = WriteReport::default();
        for (index, line) in body.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let mut reader = LineReader::new(line);
            while let Some(event) = reader.next() {
                let taken = event.and_then(|e| self.event(&e));
                match taken {
                    Ok(()) => report.accepted += 1,
                    Err((reason, what)) => report.reject(reason, 1, || {
                        let shown: String = String::from_utf8_lossy(line).chars().take(120).collect();
                        format!("line {}: {what}: {shown}", index + 1)
                    }),
                }
            }
        }
        report
    }

    fn event(&mut self, event: &Event) -> std::result::Result<(), (Reason, &'static str)> {
        self.builder.clear();
        event.labels(&mut self.builder);
        let labels = match self.builder.canonical() {
            Ok(labels) => labels,
            Err(_) => return Err((Reason::InvalidLabels, "a tag occurs twice or has no name")),
        };
        if !self.metrics.contains_key(labels.canonical()) {
            if self.metrics.len() >= self.options.metrics_max {
                return Err((Reason::LimitExceeded, "no more different metrics are kept"));
            }
            let state = new_state(event.kind, labels, &self.options);
            if clashes(&self.metrics, labels, &state) {
                return Err((
                    Reason::Malformed,
                    "a timing's _bucket, _sum or _count has the series of another metric",
                ));
            }
            self.metrics.insert(labels.canonical().into(), Metric { state, last_event: self.flushes });
        }
        let Some(metric) = self.metrics.get_mut(labels.canonical()) else { return Ok(()) };
        metric.last_event = self.flushes;
        match (&mut metric.state, event.kind) {
            (State::Counter(total), Kind::Counter) => *total += event.value / event.rate,
            (State::Gauge(value), Kind::Gauge) if event.relative => *value += event.value,
            (State::Gauge(value), Kind::Gauge) => *value = event.value,
            (State::Histogram(h), Kind::Timing) => h.observe(event.value / 1000.0, 1.0 / event.rate),
            (State::Histogram(h), Kind::Histogram) => h.observe(event.value, 1.0 / event.rate),
            (State::Set(values, flush), Kind::Set) => {
                if *flush != self.flushes {
                    values.clear();
                    *flush = self.flushes;
                }
                if values.len() >= self.options.set_values_max && !values.contains(event.text) {
                    return Err((Reason::LimitExceeded, "a set holds no more different values"));
                }
                values.insert(event.text.into());
            }
            _ => return Err((Reason::Malformed, "the metric has another type since its first event")),
        }
        Ok(())
    }

    /// Every metric's value as samples at `time_ms`, and the end of this interval: sets begin anew,
    /// idle metrics are forgotten before they are written.
    pub fn flush(&mut self, time_ms: i64) -> Batch<'_> {
        let idle_max = self.options.idle_flushes_max;
        if idle_max > 0 {
            let now = self.flushes;
            self.metrics.retain(|_, m| now - m.last_event < idle_max);
        }
        let mut out = Flush::default();
        for (labels, metric) in &self.metrics {
            out.metric(labels, &metric.state, self.flushes);
        }
        self.flushes += 1;
        out.metadata.sort_by(|a, b| a.metric.cmp(&b.metric));
        out.metadata.dedup();
        Batch {
            timestamps: vec![time_ms; out.values.len()],
            series: out.series,
            values: out.values,
            metadata: out.metadata,
            ..Batch::new(dialect::CANONICAL, decode_canonical)
        }
    }
}

/// Decodes labels in their canonical form, as `Batch::decode` of that dialect.
pub fn decode_canonical(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    for (name, value) in LabelsRef::from_canonical(raw).iter() {
        out.push(name, value);
    }
    Ok(())
}

/// Whether a new metric would write to a series of one that is there.
fn clashes(metrics: &HashMap<Box<[u8]>, Metric>, labels: LabelsRef, state: &State) -> bool {
    if let State::Histogram(h) = state {
        // Of two timings with `le` of their own the buckets would be the same.
        return labels.get(LE).is_some() || h.series.iter().any(|series| metrics.contains_key(series));
    }
    let of = |suffix| {
        let base = labels.metric_name().strip_suffix(suffix)?;
        let timing = labels.to_owned().with(METRIC_NAME, base).with(LE, "");
        match &metrics.get(timing.as_ref().canonical())?.state {
            State::Histogram(h) => Some(h.series.iter().any(|series| **series == *labels.canonical())),
            _ => None,
        }
    };
    ["_bucket", "_sum", "_count"].into_iter().any(|suffix| of(suffix).unwrap_or(false))
}

fn new_state(kind: Kind, labels: LabelsRef, options: &StatsdOptions) -> State {
    match kind {
        Kind::Counter => State::Counter(0.0),
        Kind::Gauge => State::Gauge(0.0),
        Kind::Timing => State::Histogram(Box::new(Histogram::new(labels, &options.timing_bounds))),
        Kind::Histogram => State::Histogram(Box::new(Histogram::new(labels, &options.histogram_bounds))),
        Kind::Set => State::Set(HashSet::new(), 0),
    }
}

impl Histogram {
    fn new(labels: LabelsRef, bounds: &[f64]) -> Histogram {
        let labels = labels.to_owned();
        let name = labels.metric_name();
        let named = |suffix: &str| labels.with(METRIC_NAME, &format!("{name}{suffix}"));
        let bucket = named("_bucket");
        let mut series: Vec<Box<[u8]>> = Vec::with_capacity(bounds.len() + 3);
        let canonical = |l: &Labels| Box::from(l.as_ref().canonical());
        for &bound in bounds.iter().chain([&f64::INFINITY]) {
            let mut le = Vec::new();
            write_plain(&mut le, bound);
            series.push(canonical(&bucket.with(LE, &String::from_utf8_lossy(&le))));
        }
        series.push(canonical(&named("_sum")));
        series.push(canonical(&named("_count")));
        Histogram { bounds: bounds.to_vec(), counts: vec![0.0; bounds.len() + 1], sum: 0.0, series }
    }

    fn observe(&mut self, value: f64, weight: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += weight;
        }
        self.sum += value * weight;
    }
}

#[derive(Default)]
struct Flush<'a> {
    series: Vec<BatchSeries<'a>>,
    values: Vec<f64>,
    metadata: Vec<Metadata>,
}

impl<'a> Flush<'a> {
    fn metric(&mut self, labels: &'a [u8], state: &'a State, flush: u64) {
        let kind = match state {
            State::Counter(total) => {
                self.sample(labels, *total);
                MetricType::Counter
            }
            State::Gauge(value) => {
                self.sample(labels, *value);
                MetricType::Gauge
            }
            State::Set(values, of) => {
                self.sample(labels, if *of == flush { values.len() as f64 } else { 0.0 });
                MetricType::Gauge
            }
            State::Histogram(h) => {
                let mut total = 0.0;
                let cumulative = h.counts.iter().map(|n| {
                    total += n;
                    total
                });
                let values: Vec<f64> = cumulative.collect();
                for (series, value) in h.series.iter().zip(values.into_iter().chain([h.sum, total])) {
                    self.sample(series, value);
                }
                MetricType::Histogram
            }
        };
        let metric = LabelsRef::from_canonical(labels).metric_name().to_owned();
        self.metadata.push(Metadata { metric, kind: Some(kind), help: None, unit: None });
    }

    fn sample(&mut self, labels: &'a [u8], value: f64) {
        let at = self.values.len() as u32;
        self.values.push(value);
        self.series.push(BatchSeries { raw: Cow::Borrowed(labels), samples: at..at + 1 });
    }
}

#[cfg(test)]
mod tests;
