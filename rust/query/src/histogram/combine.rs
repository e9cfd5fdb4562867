//! Sums and differences of histograms with unlike buckets: both are brought to the buckets that they have in
//! common.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use metricsdb_model::histogram::ResetHint;

use super::side::{Count, Side, upper_bound};
use super::{FloatHistogram, Histogram};

/// Exponential and custom buckets have no buckets in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incompatible;

/// What was done to make two histograms fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// One was marked as reset and the other as not reset.
    pub collision: bool,
    /// Custom bounds differed: only those in common are left.
    pub reconciled: bool,
}

impl FloatHistogram {
    /// Errors: `Incompatible`, and nothing is changed. Empty buckets stay: `compact` drops them.
    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, Incompatible> {
        self.combine(other, 1.0)
    }

    /// As `add`. The operator `-` makes a gauge of the result: set `reset` after it.
    pub fn sub(&mut self, other: &FloatHistogram) -> Result<Combined, Incompatible> {
        self.combine(other, -1.0)
    }
}

impl<T: Count> Histogram<T> {
    /// Adds `sign` times the other.
    pub(super) fn combine(&mut self, other: &FloatHistogram, sign: f64) -> Result<Combined, Incompatible> {
        if self.is_custom() != other.is_custom() {
            return Err(Incompatible);
        }
        let collision = self.settle_hint(other.reset);
        let mut reconciled = false;
        if self.is_custom() {
            reconciled = self.combine_custom(other, sign);
        } else {
            self.combine_exponential(other, sign);
        }
        self.count = self.count.plus(sign * other.count);
        self.sum = self.sum.plus(sign * other.sum);
        Ok(Combined { collision, reconciled })
    }

    /// A gauge makes a gauge, the unknown makes the rest unknown. True for "reset" beside "not reset".
    fn settle_hint(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, Unknown};
        let mine = self.reset;
        self.reset = match (mine, other) {
            _ if mine == other => mine,
            (Gauge, _) | (_, Gauge) => Gauge,
            _ => Unknown,
        };
        mine != other && self.reset == Unknown && mine != Unknown && other != Unknown
    }

    fn combine_exponential(&mut self, other: &FloatHistogram, sign: f64) {
        let zero = self.reconcile_zero(other);
        self.zero_count = self.zero_count.plus(sign * zero);
        let schema = self.schema.min(other.schema);
        self.reduce_resolution(schema);
        let (threshold, levels) = (self.zero_threshold, other.schema.abs_diff(schema));
        let sides = [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)];
        for (mine, theirs) in sides {
            let theirs = at_resolution(theirs, levels);
            let skip = inside_zero(&theirs, schema, threshold);
            mine.absorb(&theirs.indices[skip..], &theirs.counts[skip..], sign);
        }
    }

    /// Widens the zero bucket until it is at least as wide as the other's and no counting bucket of either lies
    /// across its edge. Returns what the other has within it.
    fn reconcile_zero(&mut self, other: &FloatHistogram) -> f64 {
        let (mut zero, mut threshold) = (other.zero_count, other.zero_threshold);
        loop {
            match threshold.partial_cmp(&self.zero_threshold) {
                Some(Ordering::Less) => (zero, threshold) = other.zero_within(self.zero_threshold),
                Some(Ordering::Greater) => self.widen_zero(threshold),
                _ => return zero,
            }
        }
    }

    fn widen_zero(&mut self, threshold: f64) {
        (self.zero_count, self.zero_threshold) = self.zero_within(threshold);
        let (schema, edge) = (self.schema, self.zero_threshold);
        for side in [&mut self.positive, &mut self.negative] {
            side.keep(|i, c| upper_bound(schema, i.saturating_sub(1)) >= edge && c.total() != 0.0);
        }
    }

    /// The count of a zero bucket with at least this threshold, and that threshold: it ends where the bucket ends
    /// in whose midst it would be, if that one counts something.
    pub(super) fn zero_within(&self, threshold: f64) -> (T, f64) {
        let mut edge = threshold;
        if edge <= self.zero_threshold {
            return (self.zero_count, edge);
        }
        loop {
            let mut count = self.zero_count;
            let before = edge;
            for side in [&self.positive, &self.negative] {
                for (index, c) in side.iter() {
                    if upper_bound(self.schema, index.saturating_sub(1)) >= edge {
                        break;
                    }
                    count = count.joined(c);
                    let upper = upper_bound(self.schema, index);
                    if upper > edge {
                        edge = if c.total() != 0.0 { upper } else { edge };
                        break;
                    }
                }
            }
            if edge > before {
                continue;
            }
            return (count, edge);
        }
    }

    /// True if the bounds differ.
    fn combine_custom(&mut self, other: &FloatHistogram, sign: f64) -> bool {
        if self.bounds == other.bounds {
            self.positive.absorb(&other.positive.indices, &other.positive.counts, sign);
            return false;
        }
        let common = common_bounds(&self.bounds, &other.bounds);
        let mut counts = vec![T::default(); common.len() + 1];
        for (index, c) in self.positive.iter() {
            let slot = slot(&self.bounds, &common, index);
            counts[slot] = counts[slot].joined(c);
        }
        for (index, c) in other.positive.iter() {
            let slot = slot(&other.bounds, &common, index);
            counts[slot] = counts[slot].plus(sign * c);
        }
        self.positive = Side { indices: (0..counts.len() as i32).collect(), counts };
        self.positive.keep(|_, c| c.total() != 0.0);
        self.bounds = common;
        true
    }
}

/// A side with each `2^levels` buckets as one.
pub(super) fn at_resolution(side: &Side, levels: u32) -> Cow<'_, Side> {
    if levels == 0 { Cow::Borrowed(side) } else { Cow::Owned(side.coarser(levels)) }
}

/// How many buckets end within the zero bucket.
pub(super) fn inside_zero(side: &Side, schema: i32, threshold: f64) -> usize {
    if threshold == 0.0 { 0 } else { side.indices.partition_point(|i| upper_bound(schema, *i) <= threshold) }
}

/// Bounds that both have; both ascending.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    let has = |x: &f64| b.get(b.partition_point(|y| y < x)) == Some(x);
    a.iter().copied().filter(has).collect()
}

/// Which bucket of the common bounds holds bucket `index` of `bounds`.
pub(super) fn slot(bounds: &[f64], common: &[f64], index: i32) -> usize {
    let bound = usize::try_from(index).ok().and_then(|i| bounds.get(i));
    bound.map_or(common.len(), |bound| common.partition_point(|c| c < bound))
}
