//! The trim operators: `</` keeps what is below a value, `>/` what is above. The sum is estimated anew from the
//! middles of what is left of the buckets.

use super::quantile::exponential_position;
use super::{Bucket, FloatHistogram};

/// Which observations stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Below,
    Above,
}

/// What stays of a bucket, and where that has its middle.
type Rest = (f64, f64);

impl FloatHistogram {
    /// The observations on one side of `at`. Count and sum are those of the buckets, unless nothing was cut off.
    pub fn trim(&self, at: f64, keep: Keep) -> FloatHistogram {
        let mut out = self.clone();
        let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
        let sides = [(&self.positive, &mut out.positive, false), (&self.negative, &mut out.negative, true)];
        let mut counts_anything = [false; 2];
        for ((from, to, negative), counts_anything) in sides.into_iter().zip(&mut counts_anything) {
            for ((index, before), slot) in from.iter().zip(&mut to.counts).filter(|((_, c), _)| *c != 0.0) {
                *counts_anything = true;
                let bucket = self.bucket(index, before, negative);
                let (left, middle) = rest(&bucket, at, keep, negative, self.is_custom());
                count += left;
                sum += middle * left;
                cut |= left != before;
                *slot = left;
            }
        }
        if self.zero_count > 0.0 {
            let edges = zero_edges(self.zero_threshold, counts_anything);
            let (left, middle) = rest_of_zero(self.zero_count, edges, at, keep);
            count += left;
            sum += middle * left;
            cut |= left != self.zero_count;
            out.zero_count = left;
        }
        if cut {
            (out.count, out.sum) = (count, sum);
            out.compact();
        }
        out
    }
}

/// Whether any part of a bucket is on the side that stays.
fn reaches(bucket: &Bucket, at: f64, keep: Keep) -> bool {
    match keep {
        Keep::Below => bucket.upper <= at || bucket.lower < at,
        Keep::Above => bucket.lower >= at || bucket.upper > at,
    }
}

fn rest(bucket: &Bucket, at: f64, keep: Keep, negative: bool, linear: bool) -> Rest {
    let &Bucket { lower, upper, count, .. } = bucket;
    if !reaches(bucket, at, keep) {
        return (0.0, 0.0);
    }
    let whole = if keep == Keep::Below { upper <= at } else { lower >= at };
    if whole {
        return (count, middle(lower, upper, negative, linear));
    }
    if lower.is_infinite() || upper.is_infinite() {
        return rest_of_endless(bucket, at, keep);
    }
    let part = if linear { (at - lower) / (upper - lower) } else { exponential_position(bucket, at) };
    let below = count * part;
    match keep {
        Keep::Below => (below, middle(lower, at, negative, linear)),
        Keep::Above => (count - below, middle(at, upper, negative, linear)),
    }
}

/// `at` lies within a bucket that ends nowhere: where its observations are is not known. Those below a positive
/// bound are thought to be positive; otherwise the bucket goes, or stays as a whole.
fn rest_of_endless(bucket: &Bucket, at: f64, keep: Keep) -> Rest {
    let &Bucket { lower, upper, count, .. } = bucket;
    if lower == f64::NEG_INFINITY {
        let ends = upper < f64::INFINITY;
        return match keep {
            Keep::Below if at > 0.0 && upper > 0.0 && ends => (count * at / upper, at / 2.0),
            Keep::Below if upper <= 0.0 => (count, at),
            Keep::Above if at >= 0.0 && ends => (count * (1.0 - at / upper), (at + upper) / 2.0),
            _ => (0.0, 0.0),
        };
    }
    match keep {
        Keep::Below => (0.0, 0.0),
        Keep::Above => (count, at),
    }
}

/// Where observations between two bounds are on average: halfway for linear buckets, else the geometric mean.
fn middle(lower: f64, upper: f64, negative: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if linear => (lower + upper) / 2.0,
        (false, false) => {
            let mean = (lower * upper).abs().sqrt();
            if negative { -mean } else { mean }
        }
    }
}

/// The zero bucket ends at 0 where observations of one sign alone are in the other buckets.
fn zero_edges(threshold: f64, [positive, negative]: [bool; 2]) -> (f64, f64) {
    let lower = if positive && !negative { 0.0 } else { -threshold };
    let upper = if negative && !positive { 0.0 } else { threshold };
    (lower, upper)
}

fn rest_of_zero(count: f64, (lower, upper): (f64, f64), at: f64, keep: Keep) -> Rest {
    let whole = (count, (lower + upper) / 2.0);
    match keep {
        Keep::Below if at <= lower => (0.0, 0.0),
        Keep::Below if at >= upper => whole,
        Keep::Below => (count * ((at - lower) / (upper - lower)), (lower + at) / 2.0),
        Keep::Above if at <= lower => whole,
        Keep::Above if at >= upper => (0.0, 0.0),
        Keep::Above => (count * ((upper - at) / (upper - lower)), (at + upper) / 2.0),
    }
}
