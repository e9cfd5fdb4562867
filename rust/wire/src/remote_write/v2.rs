//! Prometheus remote write 2.0: `io.prometheus.write.v2.Request` in a snappy block.
//!
//! Strings stand once in a table and are referred to by number. The labels of a series are written out as remote
//! write 1.0 has them, so that the store knows a series by the same bytes whichever version it came in. Source:
//! the remote write specification 2.0 and `prompb/io/prometheus/write/v2/types.proto`.

use std::collections::HashSet;
use std::ops::Range;

use metricsdb_model::bounds::{BODY_SYMBOLS_MAX, LABELS_PER_SERIES_MAX};
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Batch, Metadata, MetricType, Reason, Result};

use super::{BODY, check_counts, check_size, metric_type, put_label, unpack};
use crate::draft::{Draft, label_bytes};
use crate::native_histogram;
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
    let mut walk = Walk::new(labels);
    let walked = walk.symbols(Reader::new(message)).and_then(|()| walk.request(Reader::new(message)));
    let remedy = "send an io.prometheus.write.v2.Request of remote write 2.0";
    walked.map_err(|broken| broken.refuse(BODY, message, remedy))?;
    let draft = walk.draft;
    check_counts(draft.samples(), draft.histograms.points.len(), walk.symbols.len())?;
    draft.check_labels("send fewer series per request")?;
    Ok(draft.finish())
}

struct Walk<'a> {
    symbols: Vec<&'a [u8]>,
    draft: Draft<'a>,
    /// Metrics, types and references to texts that are among the draft's metadata.
    described: HashSet<(&'a [u8], u64, u32, u32)>,
    refs: Vec<u32>,
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
        Walk { symbols: Vec::new(), draft: Draft::new(labels), described: HashSet::new(), refs: Vec::new() }
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
        self.draft.is_full() || self.symbols.len() > BODY_SYMBOLS_MAX
    }

    fn time_series(&mut self, mut r: Reader<'a>) -> Read<()> {
        let (first, first_histogram) = (self.draft.samples(), self.draft.histograms.points.len());
        let series = self.draft.series.len() as u32;
        let (mut about, mut exemplars) = (About::default(), 0);
        self.refs.clear();
        while !r.is_done() {
            match r.field()? {
                (1, wire) => r.numbers(wire, 2 * LABELS_PER_SERIES_MAX, &mut self.refs, reference)?,
                (2, wire) => self.sample(r.message_in(wire)?)?,
                (3, wire) => {
                    let (message, fields) = (r.message_in(wire)?, native_histogram::REMOTE_WRITE);
                    self.draft.histograms.take(message, fields, series)?;
                }
                (4, wire) => {
                    r.message_in(wire)?;
                    exemplars += 1;
                }
                (5, wire) => about = metadata(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        self.draft.report.reject(Reason::Unsupported, exemplars, || "an exemplar (not stored)".into());
        let count = self.draft.samples() - first;
        let histograms = self.draft.histograms.points.len() - first_histogram;
        match self.write_labels() {
            Ok((labels, metric)) => {
                self.describe(metric, &about);
                if count + histograms > 0 {
                    // A body has at most BODY_SAMPLES_MAX samples, which fits.
                    self.draft.series.push((labels, first as u32..(first + count) as u32));
                }
            }
            Err(what) => {
                self.draft.truncate(first, first_histogram);
                let lost = (count + histograms).max(1) as u64;
                self.draft.report.reject(Reason::InvalidLabels, lost, || what.to_owned());
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
        self.draft.push(timestamp, value, start);
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
        let start = self.draft.labels.len();
        let mut metric: &[u8] = &[];
        for pair in self.refs.chunks_exact(2) {
            let symbol = |i: usize| pair.get(i).and_then(|&r| self.symbols.get(r as usize).copied());
            let (Some(name), Some(value)) = (symbol(0), symbol(1)) else {
                self.draft.labels.truncate(start);
                return Err("a label refers to a string that is not among the symbols");
            };
            if !self.draft.has_room(label_bytes(name, value)) {
                continue;
            }
            put_label(self.draft.labels, name, value);
            if name == METRIC_NAME.as_bytes() {
                metric = value;
            }
        }
        Ok((start..self.draft.labels.len(), metric))
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
            if self.draft.metadata.last() != Some(&entry) {
                self.draft.metadata.push(entry);
            }
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
