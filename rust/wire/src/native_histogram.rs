//! Native histograms in protobuf: those of both versions of remote write and of the exposition format hold the
//! same under other field numbers. Source: `prompb/types.proto`, `io/prometheus/write/v2/types.proto`,
//! `io/prometheus/client/metrics.proto`.

use std::sync::Arc;

use metricsdb_model::bounds::{BODY_HISTOGRAMS_MAX, HISTOGRAM_BUCKETS_MAX, HISTOGRAM_SPANS_MAX};
use metricsdb_model::histogram::{SCHEMA_CUSTOM, Span};
use metricsdb_model::{BatchHistogram, Counts, Histogram, Layout, Reason, ResetHint, Tally, WriteReport};

use crate::protobuf::{Read, Reader, WireType, unzigzag};

/// What a field of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Count,
    CountFloat,
    Sum,
    Schema,
    ZeroThreshold,
    Zero,
    ZeroFloat,
    NegativeSpan,
    NegativeDelta,
    NegativeCount,
    PositiveSpan,
    PositiveDelta,
    PositiveCount,
    Reset,
    Timestamp,
    CustomBound,
    Start,
    Unknown,
}

/// The parts of a message by field number, from 1 on.
pub type Fields = &'static [Part];

/// `prometheus.Histogram` and `io.prometheus.write.v2.Histogram`; only the latter has a start.
pub const REMOTE_WRITE: Fields = &[
    Part::Count,
    Part::CountFloat,
    Part::Sum,
    Part::Schema,
    Part::ZeroThreshold,
    Part::Zero,
    Part::ZeroFloat,
    Part::NegativeSpan,
    Part::NegativeDelta,
    Part::NegativeCount,
    Part::PositiveSpan,
    Part::PositiveDelta,
    Part::PositiveCount,
    Part::Reset,
    Part::Timestamp,
    Part::CustomBound,
    Part::Start,
];

/// `io.prometheus.client.Histogram`: the fields that make it a native one; the others are read beside them.
pub const EXPOSITION: Fields = &[
    Part::Count,
    Part::Sum,
    Part::Unknown,
    Part::CountFloat,
    Part::Schema,
    Part::ZeroThreshold,
    Part::Zero,
    Part::ZeroFloat,
    Part::NegativeSpan,
    Part::NegativeDelta,
    Part::NegativeCount,
    Part::PositiveSpan,
    Part::PositiveDelta,
    Part::PositiveCount,
];

/// What the field with this number is; numbers begin at 1.
pub fn part(fields: Fields, number: u32) -> Part {
    fields.get(number as usize - 1).copied().unwrap_or(Part::Unknown)
}

/// One side of a histogram as it was sent.
#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// A histogram as it was sent: fields that did not come have their default.
#[derive(Default)]
pub struct Raw {
    count: u64,
    count_float: Option<f64>,
    pub sum: f64,
    schema: i32,
    zero_threshold: f64,
    zero: u64,
    zero_float: Option<f64>,
    negative: Side,
    positive: Side,
    pub reset: ResetHint,
    custom_bounds: Vec<f64>,
    pub timestamp: i64,
    pub start: i64,
}

impl Raw {
    pub fn read(mut r: Reader<'_>, fields: Fields) -> Read<Raw> {
        let mut raw = Raw::default();
        while !r.is_done() {
            let (number, wire) = r.field()?;
            raw.field(part(fields, number), wire, &mut r)?;
        }
        Ok(raw)
    }

    /// Takes the value of one field.
    pub fn field(&mut self, part: Part, wire: WireType, r: &mut Reader<'_>) -> Read<()> {
        match part {
            Part::Count => self.count = r.number(wire)?,
            Part::CountFloat => self.count_float = Some(r.double(wire)?),
            Part::Sum => self.sum = r.double(wire)?,
            Part::Schema => self.schema = narrow(unzigzag(r.number(wire)?)),
            Part::ZeroThreshold => self.zero_threshold = r.double(wire)?,
            Part::Zero => self.zero = r.number(wire)?,
            Part::ZeroFloat => self.zero_float = Some(r.double(wire)?),
            Part::NegativeSpan => self.negative.span(r.message_in(wire)?)?,
            Part::NegativeDelta => {
                r.numbers(wire, HISTOGRAM_BUCKETS_MAX, &mut self.negative.deltas, unzigzag)?
            }
            Part::NegativeCount => r.doubles(wire, &mut self.negative.counts)?,
            Part::PositiveSpan => self.positive.span(r.message_in(wire)?)?,
            Part::PositiveDelta => {
                r.numbers(wire, HISTOGRAM_BUCKETS_MAX, &mut self.positive.deltas, unzigzag)?
            }
            Part::PositiveCount => r.doubles(wire, &mut self.positive.counts)?,
            Part::Reset => {
                self.reset = match r.number(wire)? {
                    1 => ResetHint::Reset,
                    2 => ResetHint::NotReset,
                    3 => ResetHint::Gauge,
                    _ => ResetHint::Unknown,
                };
            }
            Part::Timestamp => self.timestamp = r.number(wire)? as i64,
            Part::CustomBound => r.doubles(wire, &mut self.custom_bounds)?,
            Part::Start => self.start = r.number(wire)? as i64,
            Part::Unknown => r.skip(wire)?,
        }
        Ok(())
    }

    /// Whether any bucket or the width of the zero bucket is given: in the exposition format what tells a native
    /// histogram from a classic one.
    pub fn is_native(&self) -> bool {
        !self.positive.spans.is_empty()
            || !self.negative.spans.is_empty()
            || self.zero_threshold > 0.0
            || self.zero > 0
            || self.zero_float.is_some_and(|zero| zero > 0.0)
    }

    /// The count of observations.
    pub fn total(&self) -> f64 {
        self.count_float.filter(|count| *count > 0.0).unwrap_or(self.count as f64)
    }

    /// The exposition format has doubles override integers only where they are above zero.
    pub fn prefer_integers(&mut self) {
        let is_float = [self.count_float, self.zero_float].iter().flatten().any(|count| *count > 0.0);
        self.count_float = is_float.then(|| self.total());
    }

    /// The histogram, its buckets not compared with its spans. Fails where a count is below zero.
    fn build(self, last: &mut Arc<Layout>) -> Result<Histogram, &'static str> {
        let counts = match self.count_float {
            Some(count) => {
                let buckets = [self.positive.counts, self.negative.counts].concat();
                Counts::Float(Tally { count, zero: self.zero_float.unwrap_or(self.zero as f64), buckets })
            }
            None => {
                let mut buckets = Vec::with_capacity(self.positive.deltas.len() + self.negative.deltas.len());
                add_up(&self.positive.deltas, &mut buckets)?;
                add_up(&self.negative.deltas, &mut buckets)?;
                Counts::Int(Tally { count: self.count, zero: self.zero, buckets })
            }
        };
        let layout = Layout {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive: self.positive.spans,
            negative: self.negative.spans,
            custom_bounds: if self.schema == SCHEMA_CUSTOM { self.custom_bounds } else { Vec::new() },
        };
        // Histograms of one series follow each other, and mostly have one layout.
        if **last != layout {
            *last = Arc::new(layout);
        }
        Ok(Histogram { layout: last.clone(), reset: self.reset, sum: self.sum, counts })
    }
}

/// A number outside of 32 bits is no schema, and no offset that a layout could have.
fn narrow(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Side {
    /// Those past the limit are passed over: what stays is too many as well.
    fn span(&mut self, mut r: Reader<'_>) -> Read<()> {
        let mut span = Span { offset: 0, length: 0 };
        while !r.is_done() {
            match r.field()? {
                (1, wire) => span.offset = narrow(unzigzag(r.number(wire)?)),
                (2, wire) => span.length = u32::try_from(r.number(wire)?).unwrap_or(u32::MAX),
                (_, wire) => r.skip(wire)?,
            }
        }
        if self.spans.len() <= HISTOGRAM_SPANS_MAX {
            self.spans.push(span);
        }
        Ok(())
    }
}

/// Counts from their differences.
fn add_up(deltas: &[i64], out: &mut Vec<u64>) -> Result<(), &'static str> {
    let mut count = 0i64;
    for delta in deltas {
        count = count.checked_add(*delta).ok_or("a bucket's count does not fit 64 bits")?;
        out.push(u64::try_from(count).map_err(|_| "a bucket's count is below zero")?);
    }
    Ok(())
}

/// The histograms of a body, and what was wrong with some.
#[derive(Default)]
pub struct Histograms {
    pub points: Vec<BatchHistogram>,
    pub report: WriteReport,
    last: Arc<Layout>,
}

impl Histograms {
    /// One over the limit is enough to refuse the body.
    pub fn are_too_many(&self) -> bool {
        self.points.len() > BODY_HISTOGRAMS_MAX
    }

    /// Reads a message; one that stands for no histogram is counted as malformed. Past the limit nothing is read.
    pub fn take(&mut self, r: Reader<'_>, fields: Fields, series: u32) -> Read<()> {
        if !self.are_too_many() {
            self.push(Raw::read(r, fields)?, series);
        }
        Ok(())
    }

    pub fn push(&mut self, raw: Raw, series: u32) {
        let (timestamp, start) = (raw.timestamp, raw.start);
        match raw.build(&mut self.last) {
            Ok(histogram) => self.points.push(BatchHistogram { series, timestamp, start, histogram }),
            Err(what) => self
                .report
                .reject(Reason::Malformed, 1, || format!("a native histogram at {timestamp} ms: {what}")),
        }
    }
}

#[cfg(test)]
pub mod testing;
