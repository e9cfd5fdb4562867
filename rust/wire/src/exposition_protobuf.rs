//! The Prometheus protobuf exposition format: `io.prometheus.client.MetricFamily` messages, each behind its
//! length. It alone brings native histograms and, without a line for each, start timestamps.
//!
//! Labels are written out as remote write has them. Source: `io/prometheus/client/metrics.proto`.

use std::ops::Range;

use metricsdb_model::bounds::{BODY_BYTES_MAX, BODY_HISTOGRAMS_MAX, BODY_SAMPLES_MAX};
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Batch, Metadata, MetricType, Reason, ResetHint, Result};

use crate::draft::{Draft, label_bytes, within};
use crate::native_histogram::{self, EXPOSITION, Raw};
use crate::number::write_general;
use crate::protobuf::{Read, Reader, WireType};
use crate::remote_write::{label, put_label};

const BODY: &str = "protobuf exposition";
const FEWER: &str = "send fewer metrics per request";
const COUNTER: u64 = 0;
const SUMMARY: u64 = 2;
const UNTYPED: u64 = 3;
const HISTOGRAM: u64 = 4;
const GAUGE_HISTOGRAM: u64 = 5;

/// Parses a whole exposition; `labels` is a buffer, which the batch borrows. Samples without a timestamp get
/// `default_time_ms`. A histogram with native buckets gives these alone, another one its classic series.
///
/// A body that is cut off, lies about a length or is no such message is refused as a whole. Exemplars are counted
/// as [`Reason::Unsupported`].
pub fn parse<'a>(body: &[u8], default_time_ms: i64, labels: &'a mut Vec<u8>) -> Result<Batch<'a>> {
    within("bytes of a request body", BODY_BYTES_MAX, body.len(), FEWER)?;
    let mut parser = Parser { default_time_ms, draft: Draft::new(labels) };
    let mut r = Reader::new(body);
    while !r.is_done() {
        let read = r.message().and_then(|family| parser.family(family));
        let remedy = "send io.prometheus.client.MetricFamily messages, delimited";
        read.map_err(|broken| broken.refuse(BODY, body, remedy))?;
        parser.check()?;
    }
    Ok(parser.draft.finish())
}

struct Parser<'a> {
    default_time_ms: i64,
    draft: Draft<'a>,
}

/// The family of the metrics being read.
#[derive(Clone, Copy)]
struct Family<'b> {
    name: &'b [u8],
    kind: u64,
}

/// What the series of one metric share.
#[derive(Default)]
struct Metric<'b> {
    pairs: Vec<(&'b [u8], &'b [u8])>,
    timestamp: i64,
}

/// The label that tells apart the series of one metric, with a number as its value.
type Apart = Option<(&'static str, f64)>;

impl<'a> Parser<'a> {
    fn check(&self) -> Result<()> {
        self.draft.check_labels(FEWER)?;
        let (samples, histograms) = (self.draft.samples(), self.draft.histograms.points.len());
        within("samples of a request body", BODY_SAMPLES_MAX, samples, FEWER)?;
        within("native histograms of a request body", BODY_HISTOGRAMS_MAX, histograms, FEWER)
    }

    /// What is said of a family may stand behind its metrics.
    fn family(&mut self, whole: Reader<'_>) -> Read<()> {
        let (mut about, mut name, mut kind) = (Metadata::default(), &b""[..], COUNTER);
        let mut r = whole;
        while !r.is_done() {
            match r.field()? {
                (1, wire) => name = r.bytes_in(wire)?,
                (2, wire) => about.help = Some(r.text_in(wire)?).filter(|help| !help.is_empty()),
                (3, wire) => kind = r.number(wire)?,
                (5, wire) => about.unit = Some(r.text_in(wire)?).filter(|unit| !unit.is_empty()),
                (_, wire) => r.skip(wire)?,
            }
        }
        let family = Family { name, kind };
        let mut r = whole;
        while !r.is_done() && !self.draft.is_full() {
            match r.field()? {
                (4, wire) => self.metric(r.message_in(wire)?, family)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        if !name.is_empty() {
            about.metric = String::from_utf8_lossy(name).into_owned();
            about.kind = Some(metric_type(kind));
            self.draft.metadata.push(about);
        }
        Ok(())
    }

    fn metric(&mut self, whole: Reader<'_>, family: Family<'_>) -> Read<()> {
        let mut metric = Metric { timestamp: self.default_time_ms, ..Metric::default() };
        let (mut r, mut value) = (whole, None);
        while !r.is_done() {
            match r.field()? {
                (1, wire) => metric.pairs.push(label(r.message_in(wire)?)?),
                (6, wire) => metric.timestamp = r.number(wire)? as i64,
                (number @ (2..=5 | 7), wire) => value = Some((number, r.message_in(wire)?)),
                (_, wire) => r.skip(wire)?,
            }
        }
        match value {
            Some((4, r)) if family.kind == SUMMARY => self.summary(r, family, &metric),
            Some((7, r)) if matches!(family.kind, HISTOGRAM | GAUGE_HISTOGRAM) => {
                self.histogram(r, family, &metric)
            }
            Some((2 | 3 | 5, r)) => self.number(r, family, &metric),
            _ => {
                let name = String::from_utf8_lossy(family.name);
                self.draft
                    .report
                    .reject(Reason::Malformed, 1, || format!("a metric of {name} has no value of its type"));
                Ok(())
            }
        }
    }

    /// A counter, a gauge or an untyped value: messages with the same fields.
    fn number(&mut self, mut r: Reader<'_>, family: Family<'_>, metric: &Metric<'_>) -> Read<()> {
        let (mut value, mut start) = (0.0, 0);
        while !r.is_done() {
            match r.field()? {
                (1, wire) => value = r.double(wire)?,
                (2, wire) => self.exemplar(&mut r, wire)?,
                (3, wire) => start = time(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        self.sample(family.name, "", metric, None, value, start);
        Ok(())
    }

    fn summary(&mut self, mut r: Reader<'_>, family: Family<'_>, metric: &Metric<'_>) -> Read<()> {
        let (mut count, mut sum, mut start) = (0u64, 0.0, 0);
        while !r.is_done() {
            match r.field()? {
                (1, wire) => count = r.number(wire)?,
                (2, wire) => sum = r.double(wire)?,
                (3, wire) => {
                    let (quantile, value) = two_doubles(r.message_in(wire)?)?;
                    self.sample(family.name, "", metric, Some(("quantile", quantile)), value, 0);
                }
                (4, wire) => start = time(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        self.sample(family.name, "_count", metric, None, count as f64, start);
        self.sample(family.name, "_sum", metric, None, sum, start);
        Ok(())
    }

    fn histogram(&mut self, whole: Reader<'_>, family: Family<'_>, metric: &Metric<'_>) -> Read<()> {
        let (mut raw, mut r) = (Raw::default(), whole);
        while !r.is_done() {
            let (number, wire) = r.field()?;
            match number {
                15 => raw.start = time(r.message_in(wire)?)?,
                16 => self.exemplar(&mut r, wire)?,
                _ => raw.field(native_histogram::part(EXPOSITION, number), wire, &mut r)?,
            }
        }
        if !raw.is_native() {
            return self.classic(whole, family, metric, &raw);
        }
        raw.timestamp = metric.timestamp;
        if family.kind == GAUGE_HISTOGRAM {
            raw.reset = ResetHint::Gauge;
        }
        raw.prefer_integers();
        let series = self.draft.series.len() as u32;
        let at = self.draft.samples();
        let before = self.draft.histograms.points.len();
        self.draft.histograms.push(raw, series);
        if self.draft.histograms.points.len() > before {
            match self.write_labels(family.name, "", metric, None) {
                Some(labels) => self.draft.series.push((labels, at as u32..at as u32)),
                None => self.draft.truncate(at, before),
            }
        }
        Ok(())
    }

    /// The series of a histogram without native buckets.
    fn classic(&mut self, mut r: Reader<'_>, family: Family<'_>, metric: &Metric<'_>, raw: &Raw) -> Read<()> {
        let mut has_infinite = false;
        // Those of a gauge have names that say so, and go up and down.
        let (count, sum, start) = match family.kind {
            GAUGE_HISTOGRAM => ("_gcount", "_gsum", 0),
            _ => ("_count", "_sum", raw.start),
        };
        while !r.is_done() && !self.draft.is_full() {
            match r.field()? {
                (3, wire) => {
                    let (mut bucket, mut exact, mut float, mut bound) = (r.message_in(wire)?, 0, 0.0, 0.0);
                    while !bucket.is_done() {
                        match bucket.field()? {
                            (1, wire) => exact = bucket.number(wire)?,
                            (2, wire) => bound = bucket.double(wire)?,
                            (3, wire) => self.exemplar(&mut bucket, wire)?,
                            (4, wire) => float = bucket.double(wire)?,
                            (_, wire) => bucket.skip(wire)?,
                        }
                    }
                    has_infinite |= bound == f64::INFINITY;
                    let value = if float > 0.0 { float } else { exact as f64 };
                    self.sample(family.name, "_bucket", metric, Some(("le", bound)), value, start);
                }
                (_, wire) => r.skip(wire)?,
            }
        }
        let total = raw.total();
        if !has_infinite {
            self.sample(family.name, "_bucket", metric, Some(("le", f64::INFINITY)), total, start);
        }
        self.sample(family.name, count, metric, None, total, start);
        self.sample(family.name, sum, metric, None, raw.sum, start);
        Ok(())
    }

    fn exemplar(&mut self, r: &mut Reader<'_>, wire: WireType) -> Read<()> {
        r.message_in(wire)?;
        self.draft.report.reject(Reason::Unsupported, 1, || "an exemplar (not stored)".into());
        Ok(())
    }

    fn sample(&mut self, name: &[u8], suffix: &str, of: &Metric<'_>, apart: Apart, value: f64, start: i64) {
        let Some(labels) = self.write_labels(name, suffix, of, apart) else { return };
        let at = self.draft.samples();
        self.draft.push(of.timestamp, value, start);
        // A body has at most BODY_SAMPLES_MAX samples, which fits.
        self.draft.series.push((labels, at as u32..at as u32 + 1));
    }

    /// Writes the labels of a series out; where they stand, unless that would be too much.
    fn write_labels(
        &mut self,
        name: &[u8],
        suffix: &str,
        of: &Metric<'_>,
        apart: Apart,
    ) -> Option<Range<usize>> {
        let texts: usize = of.pairs.iter().map(|(name, value)| label_bytes(name, value)).sum();
        if !self.draft.has_room(texts + name.len() + suffix.len() + 64) {
            return None;
        }
        let start = self.draft.labels.len();
        put_label(self.draft.labels, METRIC_NAME.as_bytes(), &[name, suffix.as_bytes()].concat());
        of.pairs.iter().for_each(|(name, value)| put_label(self.draft.labels, name, value));
        if let Some((name, number)) = apart {
            let mut text = Vec::new();
            write_general(&mut text, number);
            put_label(self.draft.labels, name.as_bytes(), &text);
        }
        Some(start..self.draft.labels.len())
    }
}

/// `Quantile`.
fn two_doubles(mut r: Reader<'_>) -> Read<(f64, f64)> {
    let (mut first, mut second) = (0.0, 0.0);
    while !r.is_done() {
        match r.field()? {
            (1, wire) => first = r.double(wire)?,
            (2, wire) => second = r.double(wire)?,
            (_, wire) => r.skip(wire)?,
        }
    }
    Ok((first, second))
}

/// `google.protobuf.Timestamp` in milliseconds; 0, which is not known, where they don't fit.
fn time(mut r: Reader<'_>) -> Read<i64> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    while !r.is_done() {
        match r.field()? {
            (1, wire) => seconds = r.number(wire)? as i64,
            (2, wire) => nanos = r.number(wire)? as i64,
            (_, wire) => r.skip(wire)?,
        }
    }
    Ok(seconds.checked_mul(1000).and_then(|ms| ms.checked_add(nanos / 1_000_000)).unwrap_or(0))
}

fn metric_type(kind: u64) -> MetricType {
    match kind {
        COUNTER => MetricType::Counter,
        1 => MetricType::Gauge,
        SUMMARY => MetricType::Summary,
        HISTOGRAM => MetricType::Histogram,
        GAUGE_HISTOGRAM => MetricType::GaugeHistogram,
        UNTYPED.. => MetricType::Unknown,
    }
}

#[cfg(test)]
mod tests;
