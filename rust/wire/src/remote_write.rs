//! Prometheus remote write 1.0: `prometheus.WriteRequest` in a snappy block.
//!
//! The body is walked once. Labels are not looked into: the span of their fields is the series' key,
//! and [`decode_labels`] reads it only when the store has never seen it. Source: the remote write
//! specification 1.0 and `prompb/{remote,types}.proto`.

pub mod v2;

use std::borrow::Cow;

use metricsdb_model::bounds::{BODY_BYTES_MAX, BODY_HISTOGRAMS_MAX, BODY_SAMPLES_MAX, BODY_SYMBOLS_MAX};
use metricsdb_model::{
    Batch, BatchSeries, Error, LabelError, LabelsBuilder, LabelsRef, Metadata, MetricType, Reason, Result,
};

use crate::dialect;
use crate::draft::within;
use crate::native_histogram::{self, Histograms};
use crate::protobuf::{Broken, Read, Reader, put_bytes, put_double, put_number, put_varint};

const BODY: &str = "remote write body";
/// Tag byte of `TimeSeries.labels` and of `WriteRequest.timeseries`: field 1, length-delimited.
const FIELD_1_BYTES: u8 = 0x0a;
/// Tag byte of `TimeSeries.samples`: field 2, length-delimited.
const FIELD_2_BYTES: u8 = 0x12;
/// Tag bytes of `Sample.value` and `Sample.timestamp`.
const FIELD_1_FIXED64: u8 = 0x09;
const FIELD_2_VARINT: u8 = 0x10;
/// A snappy element of three bytes yields at most 64: a body that claims more lies.
const SNAPPY_RATIO_MAX: usize = 32;

/// Decodes a compressed body. `scratch` receives the decompressed bytes, which the batch borrows; it
/// keeps its capacity from call to call.
///
/// A body that is cut off or lies about a length is refused as a whole. Exemplars are counted as
/// [`Reason::Unsupported`]; labels are checked when the store decodes them, histograms when it takes them.
pub fn decode<'a>(body: &[u8], scratch: &'a mut Vec<u8>) -> Result<Batch<'a>> {
    decode_message(unpack(body, scratch)?)
}

/// The message in a snappy block; only growth of `scratch` is zeroed, what earlier calls left is overwritten.
fn unpack<'a>(body: &[u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let size = snap::raw::decompress_len(body).map_err(|e| not_snappy(body, &e))?;
    let what = "bytes of a request body after decompression";
    within(what, BODY_BYTES_MAX, size, "send fewer series per request")?;
    if size / SNAPPY_RATIO_MAX > body.len() {
        let message = format!("{} bytes cannot decompress to the {size} bytes they claim", body.len());
        return Err(Error::input(BODY, "", message, "send the whole body"));
    }
    if scratch.len() < size {
        scratch.resize(size, 0);
    }
    let n = snap::raw::Decoder::new().decompress(body, scratch).map_err(|e| not_snappy(body, &e))?;
    Ok(scratch.get(..n).unwrap_or(&[]))
}

/// Fails for a message that is larger than a body may be.
fn check_size(message: &[u8]) -> Result<()> {
    within("bytes of a request body", BODY_BYTES_MAX, message.len(), "send fewer series per request")
}

/// Fails for more samples, histograms or strings than a body may hold.
fn check_counts(samples: usize, histograms: usize, symbols: usize) -> Result<()> {
    let remedy = "send fewer samples per request";
    within("samples of a request body", BODY_SAMPLES_MAX, samples, remedy)?;
    within("native histograms of a request body", BODY_HISTOGRAMS_MAX, histograms, remedy)?;
    within("symbols of a request body", BODY_SYMBOLS_MAX, symbols, remedy)
}

/// Decodes an uncompressed `WriteRequest`.
pub fn decode_message(message: &[u8]) -> Result<Batch<'_>> {
    check_size(message)?;
    let mut walk = Walk::new(message.len());
    walk.request(Reader::new(message))
        .map_err(|broken| broken.refuse(BODY, message, "send a WriteRequest of remote write 1.0"))?;
    check_counts(walk.timestamps.len(), walk.histograms.points.len(), 0)?;
    let mut report = walk.histograms.report;
    report.reject(Reason::Unsupported, walk.exemplars, || "an exemplar (not stored)".into());
    report.reject(Reason::InvalidLabels, walk.unlabelled, || "a series without labels".into());
    Ok(Batch {
        series: walk.series,
        timestamps: walk.timestamps,
        values: walk.values,
        histograms: walk.histograms.points,
        metadata: walk.metadata,
        report,
        ..Batch::new(dialect::REMOTE_WRITE, decode_labels)
    })
}

fn not_snappy(body: &[u8], error: &snap::Error) -> Error {
    let value = format!("{} bytes", body.len());
    Error::input(BODY, &value, format!("not a snappy block: {error}"), "compress with snappy's block format")
}

#[derive(Default)]
struct Walk<'a> {
    series: Vec<BatchSeries<'a>>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    metadata: Vec<Metadata>,
    exemplars: u64,
    histograms: Histograms,
    /// Samples of series without any label.
    unlabelled: u64,
}

impl<'a> Walk<'a> {
    /// Reserves at most as much as the body itself takes: a sample is seldom below 32 bytes with its
    /// share of the labels, a series seldom below 128.
    fn new(bytes: usize) -> Walk<'a> {
        Walk {
            series: Vec::with_capacity(bytes / 128),
            timestamps: Vec::with_capacity(bytes / 32),
            values: Vec::with_capacity(bytes / 32),
            ..Walk::default()
        }
    }

    fn request(&mut self, mut r: Reader<'a>) -> Read<()> {
        while !r.is_done() {
            if r.take(FIELD_1_BYTES) {
                self.time_series(r.message()?)?;
                // One over the limit is enough to refuse the body.
                if self.timestamps.len() > BODY_SAMPLES_MAX {
                    return Ok(());
                }
                continue;
            }
            match r.field()? {
                (1, wire) => self.time_series(r.message_in(wire)?)?,
                (3, wire) => self.metadata(r.message_in(wire)?)?,
                (_, wire) => r.skip(wire)?,
            }
        }
        Ok(())
    }

    fn time_series(&mut self, mut r: Reader<'a>) -> Read<()> {
        let first = self.timestamps.len();
        let first_histogram = self.histograms.points.len();
        let labels_start = r.at();
        r.skip_all(FIELD_1_BYTES)?;
        let mut raw = Cow::Borrowed(r.span(labels_start, r.at()));
        while !r.is_done() {
            if r.take(FIELD_2_BYTES) {
                self.sample(r.message()?)?;
                continue;
            }
            let start = r.at();
            match r.field()? {
                (1, wire) => {
                    r.bytes_in(wire)?;
                    append_label(&mut raw, r.span(start, r.at()));
                }
                (2, wire) => self.sample(r.message_in(wire)?)?,
                (3, wire) => {
                    r.message_in(wire)?;
                    self.exemplars += 1;
                }
                (4, wire) => {
                    let series = self.series.len() as u32;
                    self.histograms.take(r.message_in(wire)?, native_histogram::REMOTE_WRITE, series)?;
                }
                (_, wire) => r.skip(wire)?,
            }
        }
        let count = self.timestamps.len() - first;
        let histograms = self.histograms.points.len() - first_histogram;
        if raw.is_empty() {
            self.unlabelled += (count + histograms) as u64;
            self.timestamps.truncate(first);
            self.values.truncate(first);
            self.histograms.points.truncate(first_histogram);
        } else if count + histograms > 0 {
            // A body has at most BODY_BYTES_MAX / 2 samples, which fits.
            self.series.push(BatchSeries { raw, samples: first as u32..(first + count) as u32 });
        }
        Ok(())
    }

    #[inline(always)]
    fn sample(&mut self, mut r: Reader<'a>) -> Read<()> {
        // Fields with their default value are not sent.
        let (mut value, mut timestamp) = (0.0, 0i64);
        // The two fields in their order, as every known sender writes them; then whatever else there is.
        if r.take(FIELD_1_FIXED64) {
            value = f64::from_bits(r.fixed64()?);
        }
        if r.take(FIELD_2_VARINT) {
            timestamp = r.varint()? as i64;
        }
        while !r.is_done() {
            match r.field()? {
                (1, wire) => value = r.double(wire)?,
                (2, wire) => timestamp = r.number(wire)? as i64,
                (_, wire) => r.skip(wire)?,
            }
        }
        self.timestamps.push(timestamp);
        self.values.push(value);
        Ok(())
    }

    fn metadata(&mut self, mut r: Reader<'a>) -> Read<()> {
        let mut entry = Metadata::default();
        while !r.is_done() {
            match r.field()? {
                (1, wire) => entry.kind = Some(metric_type(r.number(wire)?)),
                (2, wire) => entry.metric = r.text_in(wire)?,
                (4, wire) => entry.help = Some(r.text_in(wire)?),
                (5, wire) => entry.unit = Some(r.text_in(wire)?),
                (_, wire) => r.skip(wire)?,
            }
        }
        if !entry.metric.is_empty() {
            self.metadata.push(entry);
        }
        Ok(())
    }
}

/// `MetricMetadata.MetricType`; a number from a newer sender is an unknown type.
fn metric_type(number: u64) -> MetricType {
    match number {
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => MetricType::Unknown,
    }
}

/// Adds a label field that does not follow the others: the key becomes a copy with all of them in order.
fn append_label<'a>(raw: &mut Cow<'a, [u8]>, field: &'a [u8]) {
    if raw.is_empty() {
        *raw = Cow::Borrowed(field);
    } else {
        raw.to_mut().extend_from_slice(field);
    }
}

/// Appends a label as a field of `TimeSeries`.
pub(crate) fn put_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let length = 2 + varint_bytes(name.len()) + name.len() + varint_bytes(value.len()) + value.len();
    out.push(FIELD_1_BYTES);
    put_varint(out, length as u64);
    put_bytes(out, 1, name);
    put_bytes(out, 2, value);
}

/// Bytes that a length takes.
fn varint_bytes(length: usize) -> usize {
    (64 - (length as u64 | 1).leading_zeros() as usize).div_ceil(7)
}

/// Decodes the label fields of one series, as [`Batch::decode`] of this dialect.
pub fn decode_labels(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    let malformed = |b: Broken| LabelError::Malformed(format!("{} (byte {} of the labels)", b.what, b.at));
    let mut r = Reader::new(raw);
    while !r.is_done() {
        let (name, value) = label_field(&mut r).map_err(malformed)?;
        out.push_bytes(name, value)?;
    }
    Ok(())
}

fn label_field<'a>(r: &mut Reader<'a>) -> Read<(&'a [u8], &'a [u8])> {
    let (_, wire) = r.field()?;
    label(r.message_in(wire)?)
}

/// Name and value of a label: `prometheus.Label`, and `LabelPair` of the exposition format.
pub(crate) fn label<'a>(mut r: Reader<'a>) -> Read<(&'a [u8], &'a [u8])> {
    let (mut name, mut value) = (&[][..], &[][..]);
    while !r.is_done() {
        match r.field()? {
            (1, wire) => name = r.bytes_in(wire)?,
            (2, wire) => value = r.bytes_in(wire)?,
            (_, wire) => r.skip(wire)?,
        }
    }
    Ok((name, value))
}

/// One series to send: its labels and its columns, which are equally long.
#[derive(Clone, Copy, Debug)]
pub struct SeriesToSend<'a> {
    /// The metric name among them.
    pub labels: LabelsRef<'a>,
    /// Milliseconds.
    pub timestamps: &'a [i64],
    /// One a timestamp.
    pub values: &'a [f64],
}

/// Encodes a `WriteRequest` and compresses it as a snappy block.
///
/// # Errors
/// `Error::Limit` if the message is larger than a snappy block may be.
pub fn encode<'a>(
    series: impl IntoIterator<Item = SeriesToSend<'a>>,
    metadata: &[Metadata],
) -> Result<Vec<u8>> {
    let message = encode_message(series, metadata);
    snap::raw::Encoder::new().compress_vec(&message).map_err(|_| Error::Limit {
        what: "bytes of a snappy block",
        limit: u64::from(u32::MAX),
        needed: message.len() as u64,
        remedy: "send fewer series per request",
    })
}

/// As [`encode`], not compressed.
pub fn encode_message<'a>(
    series: impl IntoIterator<Item = SeriesToSend<'a>>,
    metadata: &[Metadata],
) -> Vec<u8> {
    let (mut out, mut one, mut part) = (Vec::new(), Vec::new(), Vec::new());
    for s in series {
        one.clear();
        for (name, value) in s.labels.iter() {
            put_label(&mut one, name.as_bytes(), value.as_bytes());
        }
        for (&t, &v) in s.timestamps.iter().zip(s.values) {
            part.clear();
            put_double(&mut part, 1, v);
            put_number(&mut part, 2, t as u64);
            put_bytes(&mut one, 2, &part);
        }
        put_bytes(&mut out, 1, &one);
    }
    for m in metadata {
        one.clear();
        put_number(&mut one, 1, type_number(m.kind.unwrap_or_default()));
        put_bytes(&mut one, 2, m.metric.as_bytes());
        put_bytes(&mut one, 4, m.help.as_deref().unwrap_or("").as_bytes());
        put_bytes(&mut one, 5, m.unit.as_deref().unwrap_or("").as_bytes());
        put_bytes(&mut out, 3, &one);
    }
    out
}

fn type_number(kind: MetricType) -> u64 {
    match kind {
        MetricType::Unknown => 0,
        MetricType::Counter => 1,
        MetricType::Gauge => 2,
        MetricType::Histogram => 3,
        MetricType::GaugeHistogram => 4,
        MetricType::Summary => 5,
        MetricType::Info => 6,
        MetricType::StateSet => 7,
    }
}

#[cfg(test)]
mod tests;
