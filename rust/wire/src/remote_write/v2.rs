//! Prometheus remote write 2.0: `io.prometheus.write.v2.Request` in a snappy block.
//!
//! Strings stand once in a table and are referred to by number. The labels of a series are written out as remote
//! write 1.0 has them, so that the store knows a series by the same bytes whichever version it came in. Source:
//! the remote write specification 2.0 and `prompb/io/prometheus/write/v2/types.proto`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use metricsdb_model::batch::Extra;
use metricsdb_model::bounds::{
    BODY_LABEL_BYTES_MAX, BODY_SAMPLES_MAX, BODY_SYMBOLS_MAX, LABELS_PER_SERIES_MAX,
};
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Batch, BatchSeries, Error, Metadata, MetricType, Reason, Result, WriteReport};

use super::{BODY, check_counts, check_size, decode_labels, metric_type, put_label, unpack};
use crate::dialect;
use crate::native_histogram::{self, Histograms};
use crate::protobuf::{Read, Reader};

/// Buffers that keep their capacity from call to call; the batch borrows them.
#[derive(Default)]
pub struct Scratch {
    pub message: Vec<u8>,
    pub labels: Vec<u8>,
}

/// Decodes a compressed body. A body that is cut off or lies about a length is refused as a whole; a series with
/// a reference to no string, or with an odd number of them, is counted as [`Reason::InvalidLabels`]. Exemplars
/// are counted as [`Reason::Unsupported`].
pub fn decode<'a>(body: &[u8], scratch: &'a mut Scratch) -> Result<Batch<'a>> {
    decode_message(unpack(body, &mut scratch.message)?, &mut scratch.labels)
}

/// Decodes an uncompressed `Request`; `labels` is a buffer.
pub fn decode_message<'a>(message: &'a [u8], labels: &'a mut Vec<u8>) -> Result<Batch<'a>> {
    check_size(message)?;
    labels.clear();
    let mut walk = Walk::new(labels);
    let walked = walk.symbols(Reader::new(message)).and_then(|()| walk.request(Reader::new(message)));
    let remedy = "send an io.prometheus.write.v2.Request of remote write 2.0";
    walked.map_err(|broken| broken.refuse(BODY, message, remedy))?;
    check_counts(walk.timestamps.len(), walk.histograms.points.len(), walk.symbols.len())?;
    if walk.labels_needed > BODY_LABEL_BYTES_MAX {
        return Err(Error::Limit {
            what: "bytes of the labels of a request body, written out",
            limit: BODY_LABEL_BYTES_MAX as u64,
            needed: walk.labels_needed as u64,
            remedy: "send fewer series per request",
        });
    }
    Ok(walk.finish())
}

struct Walk<'a> {
    symbols: Vec<&'a [u8]>,
    /// Label fields of remote write 1.0, one series after the other.
    labels: &'a mut Vec<u8>,
    /// Bytes that `labels` has, or would have had to.
    labels_needed: usize,
    /// Labels and samples of each series.
    series: Vec<(Range<usize>, Range<u32>)>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    /// Empty until the first start is found.
    starts: Vec<i64>,
    histograms: Histograms,
    metadata: Vec<Metadata>,
    /// Metrics, types and references to texts that are among `metadata`.
    described: HashSet<(&'a [u8], u64, u32, u32)>,
    refs: Vec<u32>,
    report: WriteReport,
}

/// What a series says of its metric.
#[derive(Default)]
struct About {
    kind: u64,
    help: u32,
    unit: u32,
}

impl<'a> Walk<'a> {
    fn new(labels: &'a mut Vec<u8>) -> Walk<'a> {
        Walk {
            symbols: Vec::new(),
            labels,
            labels_needed: 0,
            series: Vec::new(),
            timestamps: Vec::new(),
            values: Vec::new(),
            starts: Vec::new(),
            histograms: Histograms::default(),
            metadata: Vec::new(),
            described: HashSet::new(),
            refs: Vec::new(),
            report: WriteReport::default(),
        }
    }

    /// The strings, wherever they stand.
    fn symbols(&mut self, mut r: Reader<'a>) -> Read<()> {
        while !r.is_done() && self.symbols.len() <= BODY_SYMBOLS_MAX {
            match r.field()? {
                (4, wire) => self.symbols.push(r.bytes_in(wire)?),
                (_, wire) => r.skip(wire)?,
            }
        }
        Ok(())
    }

    fn request(&mut self, mut r: Reader<'a>) -> Read<()> {
        while !r.is_done() && !self.is_too_much() {
            match r.field()? {
                (5, wire) => self.time_series(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        Ok(())
    }

    /// One over a limit is enough to refuse the body.
    fn is_too_much(&self) -> bool {
        self.timestamps.len() > BODY_SAMPLES_MAX
            || self.histograms.are_too_many()
            || self.symbols.len() > BODY_SYMBOLS_MAX
            || self.labels_needed > BODY_LABEL_BYTES_MAX
    }

    fn time_series(&mut self, mut r: Reader<'a>) -> Read<()> {
        let (first, first_histogram) = (self.timestamps.len(), self.histograms.points.len());
        let series = self.series.len() as u32;
        let (mut about, mut exemplars) = (About::default(), 0);
        self.refs.clear();
        while !r.is_done() {
            match r.field()? {
                (1, wire) => r.numbers(wire, 2 * LABELS_PER_SERIES_MAX, &mut self.refs, reference)?,
                (2, wire) => self.sample(r.message_in(wire)?)?,
                (3, wire) => {
                    self.histograms.take(r.message_in(wire)?, native_histogram::REMOTE_WRITE, series)?;
                }
                (4, wire) => {
                    r.message_in(wire)?;
                    exemplars += 1;
                }
                (5, wire) => about = metadata(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        self.report.reject(Reason::Unsupported, exemplars, || "an exemplar (not stored)".into());
        let count = self.timestamps.len() - first;
        let histograms = self.histograms.points.len() - first_histogram;
        match self.write_labels() {
            Ok((labels, metric)) => {
                self.describe(metric, &about);
                if count + histograms > 0 {
                    // A body has at most BODY_SAMPLES_MAX samples, which fits.
                    self.series.push((labels, first as u32..(first + count) as u32));
                }
            }
            Err(what) => {
                self.timestamps.truncate(first);
                self.values.truncate(first);
                self.starts.truncate(first);
                self.histograms.points.truncate(first_histogram);
                let lost = (count + histograms).max(1) as u64;
                self.report.reject(Reason::InvalidLabels, lost, || what.to_owned());
            }
        }
        Ok(())
    }

    fn sample(&mut self, mut r: Reader<'a>) -> Read<()> {
        // Fields with their default value are not sent.
        let (mut value, mut timestamp, mut start) = (0.0, 0i64, 0i64);
        while !r.is_done() {
            match r.field()? {
                (1, wire) => value = r.double(wire)?,
                (2, wire) => timestamp = r.number(wire)? as i64,
                (3, wire) => start = r.number(wire)? as i64,
                (_, wire) => r.skip(wire)?,
            }
        }
        if start != 0 || !self.starts.is_empty() {
            self.starts.resize(self.timestamps.len(), 0);
            self.starts.push(start);
        }
        self.timestamps.push(timestamp);
        self.values.push(value);
        Ok(())
    }

    /// Writes the labels of the series out; where they stand, and the metric's name.
    fn write_labels(&mut self) -> std::result::Result<(Range<usize>, &'a [u8]), &'static str> {
        if self.refs.is_empty() {
            return Err("a series without labels");
        }
        if !self.refs.len().is_multiple_of(2) {
            return Err("a series has a label name without a value");
        }
        if self.refs.len() > 2 * LABELS_PER_SERIES_MAX {
            return Err("a series has more than 256 labels");
        }
        let start = self.labels.len();
        let mut metric: &[u8] = &[];
        for pair in self.refs.chunks_exact(2) {
            let symbol = |i: usize| pair.get(i).and_then(|&r| self.symbols.get(r as usize).copied());
            let (Some(name), Some(value)) = (symbol(0), symbol(1)) else {
                self.labels.truncate(start);
                return Err("a label refers to a string that is not among the symbols");
            };
            // Tags and lengths of both take 24 bytes at most.
            self.labels_needed += name.len() + value.len() + 24;
            if self.labels_needed > BODY_LABEL_BYTES_MAX {
                continue;
            }
            put_label(self.labels, name, value);
            if name == METRIC_NAME.as_bytes() {
                metric = value;
            }
        }
        Ok((start..self.labels.len(), metric))
    }

    /// Keeps what a series says of its metric's family, once a metric.
    fn describe(&mut self, metric: &'a [u8], about: &About) {
        let &About { kind, help, unit } = about;
        let text = |at: u32| {
            let found = self.symbols.get(at as usize).filter(|text| !text.is_empty());
            found.map(|text| String::from_utf8_lossy(text).into_owned())
        };
        if metric.is_empty() || (kind == 0 && text(help).is_none() && text(unit).is_none()) {
            return;
        }
        if self.described.insert((metric, kind, help, unit)) {
            let family = family_of(metric, metric_type(kind));
            let metric = String::from_utf8_lossy(family).into_owned();
            let kind = Some(metric_type(kind)).filter(|_| kind != 0);
            let entry = Metadata { metric, kind, help: text(help), unit: text(unit) };
            // The series of a histogram say the same three times.
            if self.metadata.last() != Some(&entry) {
                self.metadata.push(entry);
            }
        }
    }

    fn finish(mut self) -> Batch<'a> {
        if !self.starts.is_empty() {
            self.starts.resize(self.timestamps.len(), 0);
        }
        self.report.merge(self.histograms.report);
        let labels: &'a [u8] = self.labels;
        let series = self
            .series
            .into_iter()
            .map(|(at, samples)| BatchSeries { raw: Cow::Borrowed(labels.get(at).unwrap_or(&[])), samples });
        Batch {
            series: series.collect(),
            timestamps: self.timestamps,
            values: self.values,
            starts: self.starts,
            histograms: self.histograms.points,
            metadata: self.metadata,
            dialect: dialect::REMOTE_WRITE,
            decode: decode_labels,
            extra: Extra::default(),
            report: self.report,
        }
    }
}

/// A place among the strings; one outside of 32 bits is none.
fn reference(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn metadata(mut r: Reader<'_>) -> Read<About> {
    let mut about = About::default();
    while !r.is_done() {
        match r.field()? {
            (1, wire) => about.kind = r.number(wire)?,
            (3, wire) => about.help = reference(r.number(wire)?),
            (4, wire) => about.unit = reference(r.number(wire)?),
            (_, wire) => r.skip(wire)?,
        }
    }
    Ok(about)
}

/// The family that a series of a type belongs to: its name without the suffix of its part.
fn family_of(metric: &[u8], kind: MetricType) -> &[u8] {
    let suffixes: &[&[u8]] = match kind {
        MetricType::Histogram => &[b"_bucket", b"_count", b"_sum"],
        MetricType::GaugeHistogram => &[b"_bucket", b"_gcount", b"_gsum"],
        MetricType::Summary => &[b"_count", b"_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|suffix| metric.strip_suffix(*suffix)).unwrap_or(metric)
}

#[cfg(test)]
mod tests;
