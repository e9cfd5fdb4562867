//! Native histograms, as Prometheus has them: counts of observations in buckets that need no list of
//! bounds. Bucket `i` of schema `s` holds what is above `2^((i - 1) / 2^s)` and not above `2^(i / 2^s)`; spans
//! say which buckets are there. Counts are absolute, never differences between neighbours.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::bounds::{HISTOGRAM_BUCKETS_MAX, HISTOGRAM_SPANS_MAX};
use crate::error::{Error, Result};
use crate::sample::{is_stale, stale};

/// Schemas whose buckets grow by a factor of `2^(2^-schema)`.
pub const SCHEMA_MIN: i32 = -4;
pub const SCHEMA_MAX: i32 = 8;
/// The schema of buckets between bounds of their own.
pub const SCHEMA_CUSTOM: i32 = -53;

/// What the sender knows of a reset between the histogram before and this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResetHint {
    #[default]
    Unknown = 0,
    Reset = 1,
    NotReset = 2,
    /// Counts go up and down: there are no resets.
    Gauge = 3,
}

/// Neighbouring buckets: `offset` is the index of the first one in the first span of a side, and how many
/// buckets are left out before it in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub offset: i32,
    pub length: u32,
}

/// Where a histogram's buckets are. Histograms of one series share it for long.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub schema: i32,
    /// The zero bucket holds what is not farther from zero than this.
    pub zero_threshold: f64,
    pub positive: Vec<Span>,
    pub negative: Vec<Span>,
    /// Upper bounds of the buckets from index 0 on, for `SCHEMA_CUSTOM` alone; the last bucket is above all.
    pub custom_bounds: Vec<f64>,
}

/// Layouts are equal bit for bit: `0.0` and `-0.0` are two thresholds.
impl PartialEq for Layout {
    fn eq(&self, other: &Layout) -> bool {
        self.same_buckets(other) && self.positive == other.positive && self.negative == other.negative
    }
}

impl Eq for Layout {}

impl Hash for Layout {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.schema, self.zero_threshold.to_bits(), &self.positive, &self.negative).hash(state);
        self.custom_bounds.iter().for_each(|b| b.to_bits().hash(state));
    }
}

impl Layout {
    /// Whether a bucket index means the same in both: they may differ in which buckets are there.
    pub fn same_buckets(&self, other: &Layout) -> bool {
        let bits = |l: &Layout| (l.schema, l.zero_threshold.to_bits(), l.custom_bounds.len());
        let mut bounds = self.custom_bounds.iter().zip(&other.custom_bounds);
        bits(self) == bits(other) && bounds.all(|(a, b)| a.to_bits() == b.to_bits())
    }

    /// How many buckets there are, the positive ones first.
    pub fn bucket_counts(&self) -> (u64, u64) {
        let count = |spans: &[Span]| spans.iter().map(|s| u64::from(s.length)).sum();
        (count(&self.positive), count(&self.negative))
    }

    /// Heap bytes, the shared block itself among them.
    pub fn bytes(&self) -> usize {
        let spans = self.positive.capacity() + self.negative.capacity();
        size_of::<Layout>() + 16 + spans * size_of::<Span>() + self.custom_bounds.capacity() * 8
    }

    /// Errors: `Input` or `Limit`, with what is wrong and what to do.
    pub fn validate(&self) -> Result<()> {
        let spans = self.positive.len() + self.negative.len();
        if spans > HISTOGRAM_SPANS_MAX {
            return Err(limit("spans of a histogram", HISTOGRAM_SPANS_MAX, spans as u64));
        }
        let (positive, negative) = self.bucket_counts();
        let most = (positive + negative).max(self.custom_bounds.len() as u64);
        if most > HISTOGRAM_BUCKETS_MAX as u64 {
            return Err(limit("buckets of a histogram", HISTOGRAM_BUCKETS_MAX, most));
        }
        check_spans("positive spans", &self.positive)?;
        check_spans("negative spans", &self.negative)?;
        match self.schema {
            SCHEMA_MIN..=SCHEMA_MAX => self.check_exponential(),
            SCHEMA_CUSTOM => self.check_custom(),
            other => Err(Error::input(
                "histogram schema",
                &other.to_string(),
                "no such schema",
                "give -4 to 8, or -53 for custom buckets",
            )),
        }
    }

    fn check_exponential(&self) -> Result<()> {
        let width = self.zero_threshold;
        if !(width >= 0.0 && width.is_finite()) {
            let message = "the zero bucket's width is not a finite number from 0 on";
            return Err(refused("zero threshold", width, message, "give 0 or a small number"));
        }
        match self.custom_bounds.len() {
            0 => Ok(()),
            n => Err(refused(
                "custom bounds",
                n,
                "an exponential schema has none",
                "give schema -53, or no bounds",
            )),
        }
    }

    fn check_custom(&self) -> Result<()> {
        let bounds = &self.custom_bounds;
        if self.zero_threshold != 0.0 || !self.negative.is_empty() {
            let message = "custom buckets have no zero bucket and no negative side";
            return Err(refused(
                "zero threshold",
                self.zero_threshold,
                message,
                "give 0 and positive spans alone",
            ));
        }
        if let Some(bound) = bounds.iter().find(|b| !b.is_finite()) {
            return Err(refused("custom bounds", bound, "a bound is not finite", "leave out the last, +Inf"));
        }
        if let Some(w) = bounds.windows(2).find(|w| w[0] >= w[1]) {
            return Err(refused("custom bounds", w[1], "bounds don't increase", "sort them, each once"));
        }
        let indices = (indices(&self.positive).next(), indices(&self.positive).last());
        let (Some(first), Some(last)) = indices else { return Ok(()) };
        if first < 0 || last as usize > bounds.len() {
            let message = format!("bucket {} has no bound among {}", first.min(last), bounds.len());
            return Err(refused(
                "positive spans",
                last,
                message,
                "give a bound for each bucket but the last",
            ));
        }
        Ok(())
    }
}

fn check_spans(side: &str, spans: &[Span]) -> Result<()> {
    let mut next = 0i64;
    for (i, span) in spans.iter().enumerate() {
        if i > 0 && span.offset < 0 {
            return Err(refused(side, span.offset, "a span overlaps the one before", "give spans in order"));
        }
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        if start < i64::from(i32::MIN) || next > i64::from(i32::MAX) {
            return Err(refused(side, next, "a bucket's index does not fit 32 bits", "give real indices"));
        }
    }
    Ok(())
}

/// The indices of all buckets of a side whose spans passed `Layout::validate`.
pub fn indices(spans: &[Span]) -> impl Iterator<Item = i32> {
    let starts = spans.iter().scan(0i32, |next, span| {
        let start = next.wrapping_add(span.offset);
        *next = start.wrapping_add_unsigned(span.length);
        Some(start..*next)
    });
    starts.flatten()
}

/// What counts are made of: `u64` where observations were counted, `f64` where they were computed.
pub trait CountNumber: Copy + PartialOrd + Default {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
    /// Integers wrap.
    fn plus(self, other: Self) -> Self;
    fn widen(self) -> f64;
}

impl CountNumber for u64 {
    fn to_word(self) -> u64 {
        self
    }

    fn from_word(word: u64) -> u64 {
        word
    }

    fn plus(self, other: u64) -> u64 {
        self.wrapping_add(other)
    }

    fn widen(self) -> f64 {
        self as f64
    }
}

impl CountNumber for f64 {
    fn to_word(self) -> u64 {
        self.to_bits()
    }

    fn from_word(word: u64) -> f64 {
        f64::from_bits(word)
    }

    fn plus(self, other: f64) -> f64 {
        self + other
    }

    fn widen(self) -> f64 {
        self
    }
}

/// Counts of observations: all, those in the zero bucket, those in the buckets of `Layout::positive` and
/// after them those of `Layout::negative`.
#[derive(Clone, Debug, Default)]
pub struct Tally<T> {
    pub count: T,
    pub zero: T,
    pub buckets: Vec<T>,
}

impl<T: CountNumber> Tally<T> {
    /// The zero bucket and all others, added in their order.
    pub fn total(&self) -> T {
        self.buckets.iter().fold(self.zero, |sum, &b| sum.plus(b))
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        [self.count, self.zero].into_iter().chain(self.buckets.iter().copied()).map(T::to_word)
    }
}

#[derive(Clone, Debug)]
pub enum Counts {
    Int(Tally<u64>),
    Float(Tally<f64>),
}

/// One histogram. Equality is bit for bit, so that NaNs are equal to themselves.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub layout: Arc<Layout>,
    pub reset: ResetHint,
    /// Sum of observations; NaN once one of them was. The staleness marker here makes a stale histogram.
    pub sum: f64,
    pub counts: Counts,
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Histogram) -> bool {
        let same_counts = match (&self.counts, &other.counts) {
            (Counts::Int(a), Counts::Int(b)) => a.words().eq(b.words()),
            (Counts::Float(a), Counts::Float(b)) => a.words().eq(b.words()),
            _ => false,
        };
        same_counts
            && self.reset == other.reset
            && self.sum.to_bits() == other.sum.to_bits()
            && (Arc::ptr_eq(&self.layout, &other.layout) || self.layout == other.layout)
    }
}

/// Histograms of one series in time order; stale ones are included. A reusable buffer, as `Samples` is.
#[derive(Clone, Debug, Default)]
pub struct HistogramSamples {
    pub timestamps: Vec<i64>,
    pub histograms: Vec<Histogram>,
}

impl HistogramSamples {
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.histograms.clear();
    }

    pub fn push(&mut self, timestamp: i64, histogram: Histogram) {
        self.timestamps.push(timestamp);
        self.histograms.push(histogram);
    }

    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// What the histograms from `from` on cost of a budget: one sample each, and one a bucket.
    pub fn cost(&self, from: usize) -> u64 {
        self.histograms.iter().skip(from).map(|h| 1 + h.bucket_count() as u64).sum()
    }
}

impl Histogram {
    /// "This series has ended here."
    pub fn stale() -> Histogram {
        Histogram {
            layout: Arc::default(),
            reset: ResetHint::Unknown,
            sum: stale(),
            counts: Counts::Int(Tally::default()),
        }
    }

    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    pub fn is_float(&self) -> bool {
        matches!(self.counts, Counts::Float(_))
    }

    /// The count of all observations.
    pub fn count(&self) -> f64 {
        match &self.counts {
            Counts::Int(tally) => tally.count.widen(),
            Counts::Float(tally) => tally.count,
        }
    }

    /// How many buckets have a count, the zero bucket not among them.
    pub fn bucket_count(&self) -> usize {
        match &self.counts {
            Counts::Int(tally) => tally.buckets.len(),
            Counts::Float(tally) => tally.buckets.len(),
        }
    }

    /// Heap bytes of this histogram but its layout, which others may share.
    pub fn bytes(&self) -> usize {
        8 * match &self.counts {
            Counts::Int(tally) => tally.buckets.capacity(),
            Counts::Float(tally) => tally.buckets.capacity(),
        }
    }

    /// Errors: `Input` or `Limit`, with what is wrong and what to do. Walks all buckets.
    pub fn validate(&self) -> Result<()> {
        self.layout.validate()?;
        self.validate_counts()
    }

    /// As `validate`, for a histogram whose layout is known to be sound.
    pub fn validate_counts(&self) -> Result<()> {
        match &self.counts {
            Counts::Int(tally) => {
                self.check_buckets(tally)?;
                self.check_total(tally)
            }
            // Sums of doubles are rounded, so count and buckets need not agree.
            Counts::Float(tally) => {
                self.check_buckets(tally)?;
                let all = [tally.count, tally.zero].into_iter().chain(tally.buckets.iter().copied());
                match all.into_iter().find(|&c| c < 0.0) {
                    Some(c) => Err(refused("histogram counts", c, "a count is negative", "give 0 or more")),
                    None => Ok(()),
                }
            }
        }
    }

    fn check_buckets<T: CountNumber>(&self, tally: &Tally<T>) -> Result<()> {
        let (positive, negative) = self.layout.bucket_counts();
        if positive + negative != tally.buckets.len() as u64 {
            let message = format!("spans stand for {} buckets", positive + negative);
            let given = tally.buckets.len();
            return Err(refused(
                "histogram buckets",
                given,
                message,
                "give a count for each bucket of a span",
            ));
        }
        if self.layout.schema == SCHEMA_CUSTOM && tally.zero != T::default() {
            let message = "custom buckets have no zero bucket";
            return Err(refused("zero count", tally.zero.widen(), message, "give 0"));
        }
        Ok(())
    }

    /// NaNs are observed, but stand in no bucket.
    fn check_total(&self, tally: &Tally<u64>) -> Result<()> {
        let buckets = tally.buckets.iter().fold(u128::from(tally.zero), |sum, &b| sum + u128::from(b));
        let count = u128::from(tally.count);
        if buckets == count || (self.sum.is_nan() && buckets < count) {
            return Ok(());
        }
        let remedy = "give the sum of all buckets, or more when NaNs were observed and the sum is NaN";
        Err(refused("histogram count", count, format!("the buckets hold {buckets} observations"), remedy))
    }

    /// Whether a counter was reset between `before` and this: its hint says so, a count is smaller, or the
    /// buckets can't be compared. False for gauges, and where either is stale.
    pub fn resets_after(&self, before: &Histogram) -> bool {
        if self.is_stale() || before.is_stale() {
            return false;
        }
        match (self.reset, &self.counts, &before.counts) {
            (ResetHint::Gauge, ..) => false,
            (ResetHint::Reset, ..) => true,
            _ if !Arc::ptr_eq(&self.layout, &before.layout) && !self.layout.same_buckets(&before.layout) => {
                true
            }
            (_, Counts::Int(now), Counts::Int(old)) => fell(&self.layout, now, &before.layout, old),
            (_, Counts::Float(now), Counts::Float(old)) => fell(&self.layout, now, &before.layout, old),
            _ => true,
        }
    }
}

fn fell<T: CountNumber>(layout: &Layout, now: &Tally<T>, old_layout: &Layout, old: &Tally<T>) -> bool {
    let (now_positive, now_negative) = now.buckets.split_at(split(layout, now.buckets.len()));
    let (old_positive, old_negative) = old.buckets.split_at(split(old_layout, old.buckets.len()));
    now.count < old.count
        || now.zero < old.zero
        || side_fell(&layout.positive, now_positive, &old_layout.positive, old_positive)
        || side_fell(&layout.negative, now_negative, &old_layout.negative, old_negative)
}

/// Where the negative buckets begin.
fn split(layout: &Layout, buckets: usize) -> usize {
    (layout.bucket_counts().0 as usize).min(buckets)
}

/// A bucket that isn't there any more fell to 0.
fn side_fell<T: CountNumber>(spans: &[Span], now: &[T], old_spans: &[Span], old: &[T]) -> bool {
    let mut now = indices(spans).zip(now).peekable();
    indices(old_spans).zip(old).any(|(index, old)| {
        while now.next_if(|(i, _)| *i < index).is_some() {}
        let new = now.next_if(|(i, _)| *i == index).map_or(T::default(), |(_, count)| *count);
        new < *old
    })
}

fn refused(input: &str, value: impl std::fmt::Display, message: impl Into<String>, remedy: &str) -> Error {
    Error::input(input, &value.to_string(), message, remedy)
}

fn limit(what: &'static str, limit: usize, needed: u64) -> Error {
    Error::Limit { what, limit: limit as u64, needed, remedy: "use a lower schema" }
}

mod buckets;
mod merge;
#[cfg(test)]
mod tests;

pub use buckets::Bucket;
