//! The rules that the samples of one metric family must keep, by its type.

use std::collections::HashSet;

use metricsdb_model::{Metadata, MetricType};

use super::line::{Sample, SampleReader};
use super::{Judged, refuse};
use crate::number::parse_value;

/// What a sample is within its family, told by the suffix of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// No suffix: a gauge, an unknown value, a state, a quantile.
    Plain,
    Total,
    Created,
    Bucket,
    Count,
    Sum,
    GaugeCount,
    GaugeSum,
    Info,
}

/// Suffixes that the samples of a type may have.
fn parts(kind: MetricType) -> &'static [(&'static [u8], Part)] {
    match kind {
        MetricType::Counter => &[(b"_total", Part::Total), (b"_created", Part::Created)],
        MetricType::Histogram => &[
            (b"_bucket", Part::Bucket),
            (b"_count", Part::Count),
            (b"_sum", Part::Sum),
            (b"_created", Part::Created),
        ],
        MetricType::GaugeHistogram => {
            &[(b"_bucket", Part::Bucket), (b"_gcount", Part::GaugeCount), (b"_gsum", Part::GaugeSum)]
        }
        MetricType::Summary => &[
            (b"", Part::Plain),
            (b"_count", Part::Count),
            (b"_sum", Part::Sum),
            (b"_created", Part::Created),
        ],
        MetricType::Info => &[(b"_info", Part::Info)],
        MetricType::Gauge | MetricType::StateSet | MetricType::Unknown => &[(b"", Part::Plain)],
    }
}

pub struct Family {
    about: Metadata,
    /// Where the family began.
    line: usize,
    /// Hashes of the label sets (without `le`, `quantile`, the state) of all metrics so far.
    metrics: HashSet<u64>,
    /// The metric whose samples are being read.
    metric: Option<u64>,
    time: Option<f64>,
    /// Hashes of this metric's samples; kept while they have no timestamps.
    samples: HashSet<u64>,
    point: Point,
}

impl Family {
    pub fn new(name: &[u8], line: usize) -> Family {
        let metric = String::from_utf8_lossy(name).into_owned();
        Family {
            about: Metadata { metric, ..Metadata::default() },
            line,
            metrics: HashSet::new(),
            metric: None,
            time: None,
            samples: HashSet::new(),
            point: Point::default(),
        }
    }

    pub fn name(&self) -> &[u8] {
        self.about.metric.as_bytes()
    }

    pub fn line(&self) -> usize {
        self.line
    }

    pub fn about(&mut self) -> &mut Metadata {
        &mut self.about
    }

    pub fn has_samples(&self) -> bool {
        self.metric.is_some()
    }

    /// Tells apart the metrics of the family; that of the last sample.
    pub fn metric(&self) -> Option<u64> {
        self.metric
    }

    fn kind(&self) -> MetricType {
        self.about.kind.unwrap_or(MetricType::Unknown)
    }

    /// What a sample of this name is here; `None` if it is of another family.
    pub fn suffix_of(&self, sample: &[u8]) -> Option<Part> {
        let suffix = sample.strip_prefix(self.name())?;
        parts(self.kind()).iter().find(|(s, _)| *s == suffix).map(|&(_, part)| part)
    }

    /// Every name that no other family may have.
    pub fn names(&self, mut each: impl FnMut(Vec<u8>)) {
        each(self.name().to_vec());
        for (suffix, _) in parts(self.kind()).iter().filter(|(s, _)| !s.is_empty()) {
            each([self.name(), suffix].concat());
        }
    }

    /// Judges one sample, and says what it is here; `reader` has just read it.
    pub fn take(&mut self, sample: &Sample, reader: &SampleReader) -> Judged<Part> {
        let Some(part) = self.suffix_of(sample.name) else {
            return refuse(
                "the type of the family has no sample of this name",
                "use the suffixes of the type",
            );
        };
        let bound = match part {
            Part::Bucket => bucket_bound(reader.label(sample, b"le"))?,
            _ => f64::NAN,
        };
        let kind = self.kind();
        let state = kind == MetricType::StateSet;
        if state && reader.label(sample, self.name()).is_none() {
            return refuse(
                "a state has no label with the name of its family",
                "put the state into that label",
            );
        }
        if kind == MetricType::Summary {
            let text = reader.label(sample, b"quantile");
            if part == Part::Plain {
                quantile(text)?;
            } else if text.is_some() {
                return refuse("a count or a sum has a label quantile", "give it to quantiles alone");
            }
        }
        check_value(kind, part, sample.value)?;
        match sample.exemplar {
            Some(_) if !matches!(part, Part::Bucket | Part::Total) => {
                return refuse(
                    "this sample may not have an exemplar",
                    "give it to counters and buckets alone",
                );
            }
            Some(v) if part == Part::Bucket && (v.is_nan() || v > bound) => {
                return refuse("the exemplar lies outside its bucket", "put it into a bucket that covers it");
            }
            _ => (),
        }
        let apart: Option<&[u8]> = match (kind, part) {
            (_, Part::Bucket) => Some(b"le"),
            (MetricType::Summary, Part::Plain) => Some(b"quantile"),
            (MetricType::StateSet, _) => Some(self.name()),
            _ => None,
        };
        let (metric, series) = reader.labels_hash(sample, apart);
        // The labels of an info and those of its metric cannot be told apart: all are one metric.
        let metric = if kind == MetricType::Info { 0 } else { metric };
        let new_point = self.order(metric, sample.time, series.wrapping_add(part as u64))?;
        if new_point {
            self.point.end(kind)?;
        }
        self.point.take(part, bound, sample.value)?;
        Ok(part)
    }

    /// Metrics are not interleaved, times do not go back, no sample comes twice. True if a new point
    /// (another metric or another time) begins.
    fn order(&mut self, metric: u64, time: Option<f64>, series: u64) -> Judged<bool> {
        const TOGETHER: &str = "write all samples of one label set together";
        let same_metric = self.metric == Some(metric);
        if !same_metric && !self.metrics.insert(metric) {
            return refuse("samples of one metric are interleaved with another's", TOGETHER);
        }
        let new_point = !same_metric || self.time != time;
        if same_metric && self.kind() != MetricType::Info {
            match (self.time, time) {
                (Some(before), Some(now)) if now < before => {
                    return refuse("the timestamps of a metric go backwards", "sort its points by time");
                }
                (Some(_), None) | (None, Some(_)) => {
                    return refuse("only some samples of a metric have a timestamp", "write all or none");
                }
                _ => (),
            }
        }
        self.metric = Some(metric);
        self.time = time;
        if new_point && !self.samples.is_empty() {
            // Not cleared: clearing costs the capacity that a large metric left behind, every time.
            self.samples = HashSet::new();
        }
        if time.is_none() && !self.samples.insert(series) {
            return refuse("a sample without a timestamp occurs twice", "write each series once");
        }
        Ok(new_point)
    }

    /// Judges what only the whole family shows.
    pub fn end(&mut self) -> Judged<()> {
        let has_unit = self.about.unit.as_ref().is_some_and(|u| !u.is_empty());
        if has_unit && matches!(self.kind(), MetricType::Info | MetricType::StateSet) {
            return refuse("an info or a state set has a unit", "leave UNIT out");
        }
        self.point.end(self.kind())
    }
}

fn bucket_bound(le: Option<&[u8]>) -> Judged<f64> {
    const REMEDY: &str = "give every bucket le=\"a number\", the last one le=\"+Inf\"";
    match le.map(|text| (text, parse_value(text))) {
        None => refuse("a bucket has no label le", REMEDY),
        Some((b"+Inf", Some(bound))) => Ok(bound),
        Some((_, Some(bound))) if bound.is_nan() || bound == f64::INFINITY => {
            refuse("the bound of a bucket is NaN or an infinity that is not written +Inf", REMEDY)
        }
        Some((_, Some(bound))) => Ok(bound),
        Some((_, None)) => refuse("the bound of a bucket is not a number", REMEDY),
    }
}

fn quantile(text: Option<&[u8]>) -> Judged<()> {
    match text.and_then(parse_value) {
        Some(q) if (0.0..=1.0).contains(&q) => Ok(()),
        _ => refuse("a quantile has no label quantile between 0 and 1", "write quantile=\"0.99\""),
    }
}

fn check_value(kind: MetricType, part: Part, v: f64) -> Judged<()> {
    const COUNTS: &str = "counters, counts and sums start at 0 and are numbers";
    let counts = matches!(part, Part::Bucket | Part::Count | Part::GaugeCount);
    let counter = counts || matches!(part, Part::Total | Part::Sum);
    if (counter || part == Part::GaugeSum) && v.is_nan() {
        return refuse("a counter, a count or a sum is NaN", COUNTS);
    }
    if counter && v < 0.0 {
        return refuse("a counter, a count or a sum is negative", COUNTS);
    }
    if counts && v.fract() != 0.0 {
        return refuse("a count is not a whole number", COUNTS);
    }
    match (kind, part) {
        (MetricType::Info, _) if v != 1.0 => refuse("the value of an info is not 1", "write 1"),
        (MetricType::StateSet, _) if v != 0.0 && v != 1.0 => {
            refuse("a state is neither 0 nor 1", "write 0 or 1")
        }
        (MetricType::Summary, Part::Plain) if v < 0.0 => {
            refuse("a quantile is negative", "summaries observe values of 0 and more")
        }
        _ => Ok(()),
    }
}

/// The samples of one metric at one time.
#[derive(Default)]
struct Point {
    has_samples: bool,
    has_total: bool,
    /// Bound and value of the last bucket.
    bucket: Option<(f64, f64)>,
    count: Option<f64>,
    has_sum: bool,
    gauge_sum: Option<f64>,
    has_negative_bound: bool,
}

impl Point {
    fn take(&mut self, part: Part, bound: f64, v: f64) -> Judged<()> {
        self.has_samples = true;
        match part {
            Part::Total => self.has_total = true,
            Part::Bucket => {
                if self.bucket.is_some_and(|(b, _)| bound <= b) {
                    return refuse("the buckets are out of order", "sort them by le");
                }
                if self.bucket.is_some_and(|(_, before)| v < before) {
                    return refuse("a bucket counts less than the one before it", "buckets are cumulative");
                }
                self.has_negative_bound |= bound < 0.0;
                self.bucket = Some((bound, v));
            }
            Part::Count | Part::GaugeCount => self.count = Some(v),
            Part::Sum => self.has_sum = true,
            Part::GaugeSum => self.gauge_sum = Some(v),
            _ => (),
        }
        Ok(())
    }

    /// Judges the point and forgets it.
    fn end(&mut self, kind: MetricType) -> Judged<()> {
        let point = std::mem::take(self);
        match kind {
            _ if !point.has_samples => Ok(()),
            MetricType::Counter if !point.has_total => {
                refuse("a counter has no sample _total", "write its value, too")
            }
            MetricType::Histogram | MetricType::GaugeHistogram => point.check_histogram(),
            _ => Ok(()),
        }
    }

    fn check_histogram(&self) -> Judged<()> {
        let Some((_, total)) = self.bucket.filter(|(bound, _)| *bound == f64::INFINITY) else {
            return refuse("a histogram has no bucket le=\"+Inf\"", "write it as the last bucket");
        };
        let summed = self.has_sum || self.gauge_sum.is_some();
        if self.count.is_some_and(|c| c != total) {
            return refuse("the count differs from the bucket le=\"+Inf\"", "they count the same");
        }
        if self.count.is_some() != summed {
            return refuse("a histogram has only one of count and sum", "write both or neither");
        }
        if self.has_sum && self.has_negative_bound {
            return refuse("a histogram with negative bounds has a _sum", "leave _sum and _count out");
        }
        if self.gauge_sum.is_some_and(|s| s < 0.0) && !self.has_negative_bound {
            return refuse("a gauge histogram without negative bounds has a negative sum", "mend the sum");
        }
        Ok(())
    }
}
