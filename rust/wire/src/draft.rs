//! A batch in the making, for decoders that write labels out themselves: as remote write 1.0 has them, so that the
//! store knows a series by the same bytes whichever of these ways it came in.

use std::borrow::Cow;
use std::ops::Range;

use metricsdb_model::bounds::{BODY_LABEL_BYTES_MAX, BODY_SAMPLES_MAX};
use metricsdb_model::{Batch, BatchSeries, Error, Metadata, Result, WriteReport};

use crate::dialect;
use crate::native_histogram::Histograms;
use crate::remote_write::decode_labels;

/// Fails for more than a request body may hold.
#[inline]
pub fn within(what: &'static str, limit: usize, needed: usize, remedy: &'static str) -> Result<()> {
    if needed <= limit {
        return Ok(());
    }
    Err(Error::Limit { what, limit: limit as u64, needed: needed as u64, remedy })
}

/// Bytes of a label that is written out, its tags and lengths at their longest.
pub fn label_bytes(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 24
}

pub struct Draft<'a> {
    /// Label fields of remote write 1.0, one series after the other.
    pub labels: &'a mut Vec<u8>,
    /// Bytes that `labels` has, or would have had to.
    labels_needed: usize,
    /// Labels and samples of each series.
    pub series: Vec<(Range<usize>, Range<u32>)>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    /// Empty until the first start is found.
    starts: Vec<i64>,
    pub histograms: Histograms,
    pub metadata: Vec<Metadata>,
    pub report: WriteReport,
}

impl<'a> Draft<'a> {
    /// `labels` is a buffer, which the batch borrows.
    pub fn new(labels: &'a mut Vec<u8>) -> Draft<'a> {
        labels.clear();
        Draft {
            labels,
            labels_needed: 0,
            series: Vec::new(),
            timestamps: Vec::new(),
            values: Vec::new(),
            starts: Vec::new(),
            histograms: Histograms::default(),
            metadata: Vec::new(),
            report: WriteReport::default(),
        }
    }

    /// One over a limit is enough to refuse the body.
    pub fn is_full(&self) -> bool {
        self.timestamps.len() > BODY_SAMPLES_MAX
            || self.labels_needed > BODY_LABEL_BYTES_MAX
            || self.histograms.are_too_many()
    }

    /// Counts bytes of labels before they are written; says whether they may be.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        self.labels_needed += bytes;
        self.labels_needed <= BODY_LABEL_BYTES_MAX
    }

    /// Fails where the labels would have taken more than they may.
    pub fn check_labels(&self, remedy: &'static str) -> Result<()> {
        let what = "bytes of the labels of a request body, written out";
        within(what, BODY_LABEL_BYTES_MAX, self.labels_needed, remedy)
    }

    pub fn samples(&self) -> usize {
        self.timestamps.len()
    }

    /// Appends a sample; a `start` of 0 is not known.
    pub fn push(&mut self, timestamp: i64, value: f64, start: i64) {
        if start != 0 || !self.starts.is_empty() {
            self.starts.resize(self.timestamps.len(), 0);
            self.starts.push(start);
        }
        self.timestamps.push(timestamp);
        self.values.push(value);
    }

    /// Takes back what came after so many samples and histograms.
    pub fn truncate(&mut self, samples: usize, histograms: usize) {
        self.timestamps.truncate(samples);
        self.values.truncate(samples);
        self.starts.truncate(samples);
        self.histograms.points.truncate(histograms);
    }

    pub fn finish(mut self) -> Batch<'a> {
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
            report: self.report,
            ..Batch::new(dialect::REMOTE_WRITE, decode_labels)
        }
    }
}
