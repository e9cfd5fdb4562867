//! What a histogram tells of its observations: quantiles, fractions, mean and variance.

use super::{Bucket, FloatHistogram, Remark};
use crate::function::compensated::Sum;

/// Whereabouts a value is in a bucket, from 0 at its lower to 1 at its upper bound, on a logarithmic scale.
pub(super) fn exponential_position(bucket: &Bucket, value: f64) -> f64 {
    let log = |x: f64| x.abs().log2();
    let (lower, upper, value_log) = (log(bucket.lower), log(bucket.upper), log(value));
    if value > 0.0 {
        (value_log - lower) / (upper - lower)
    } else {
        1.0 - (value_log - upper) / (lower - upper)
    }
}

impl FloatHistogram {
    /// The value below which a share `q` of the observations lies. NaN for no observations and for a NaN `q`,
    /// ±Inf for a `q` outside 0 to 1 (remark on those with `check_quantile`). Linear within the zero bucket and
    /// custom buckets, exponential elsewhere.
    pub fn quantile(&self, q: f64) -> (f64, Option<Remark>) {
        if q.is_nan() {
            return (f64::NAN, None);
        }
        if !(0.0..=1.0).contains(&q) {
            return (f64::INFINITY.copysign(q), None);
        }
        if self.count == 0.0 {
            return (f64::NAN, None);
        }
        // NaN observations count above all others, so there the way is upwards only.
        if self.sum.is_nan() || q < 0.5 {
            self.quantile_from(self.buckets(), q * self.count, true)
        } else {
            self.quantile_from(self.buckets().rev(), (1.0 - q) * self.count, false)
        }
    }

    fn quantile_from(
        &self,
        mut buckets: impl Iterator<Item = Bucket>,
        rank: f64,
        upwards: bool,
    ) -> (f64, Option<Remark>) {
        let mut count = 0.0;
        let mut bucket =
            Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
        for b in buckets.by_ref() {
            bucket = b;
            count += b.count;
            if b.count != 0.0 && count >= rank {
                break;
            }
        }
        if !self.is_custom() {
            self.cut_at_zero(&mut bucket, false);
        } else if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
        // Rounding may have made more of the buckets than there is.
        if count > self.count {
            count = self.count;
        }
        if count < rank {
            let nan = self.sum.is_nan();
            return if nan { (f64::NAN, Some(Remark::QuantileNan)) } else { (bucket.upper, None) };
        }
        let within = if upwards { rank - (count - bucket.count) } else { count - rank };
        let mut remark = None;
        if self.sum.is_nan() {
            count += buckets.map(|b| b.count).sum::<f64>();
            // Without a gap the sum is NaN because of -Inf beside +Inf.
            remark = (count < self.count).then_some(Remark::QuantileSkewed);
        }
        (self.interpolate(&bucket, within / bucket.count), remark)
    }

    /// The value at this part of a bucket's observations.
    fn interpolate(&self, bucket: &Bucket, part: f64) -> f64 {
        let &Bucket { lower, upper, .. } = bucket;
        if self.is_custom() || (lower <= 0.0 && upper >= 0.0) {
            return lower + (upper - lower) * part;
        }
        let (low, high) = (lower.abs().log2(), upper.abs().log2());
        if lower > 0.0 {
            (low + (high - low) * part).exp2()
        } else {
            -(high + (low - high) * (1.0 - part)).exp2()
        }
    }

    /// A zero bucket beside buckets of one sign alone is thought to hold observations of that sign. With
    /// `touching`, also a bucket that begins or ends at 0.
    fn cut_at_zero(&self, bucket: &mut Bucket, touching: bool) {
        let across = bucket.lower < 0.0 && bucket.upper > 0.0;
        if !(across || touching && bucket.lower <= 0.0 && bucket.upper >= 0.0) {
            return;
        }
        match (self.negative.is_empty(), self.positive.is_empty()) {
            (true, false) => bucket.lower = 0.0,
            (false, true) => bucket.upper = 0.0,
            _ => {}
        }
    }

    /// The share of observations between two values; NaN where there are none, or a bound is NaN. Interpolates as
    /// `quantile`.
    pub fn fraction(&self, lower: f64, upper: f64) -> (f64, Option<Remark>) {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return (f64::NAN, None);
        }
        if lower >= upper {
            return (0.0, None);
        }
        let (mut rank, mut low, mut high) = (0.0, None, None);
        for mut bucket in self.buckets() {
            let around_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
            self.cut_at_zero(&mut bucket, true);
            let linear = around_zero || self.is_custom();
            low = low.or_else(|| rank_at(lower, &bucket, rank, linear));
            high = high.or_else(|| rank_at(upper, &bucket, rank, linear));
            if low.is_some() && high.is_some() {
                break;
            }
            rank += bucket.count;
        }
        let (mut count, mut remark) = (self.count, None);
        if self.sum.is_nan() {
            count = self.buckets().fold(0.0, |sum, b| sum + b.count);
            remark = (count < self.count).then_some(Remark::FractionNan);
        }
        let within = |rank: Option<f64>| rank.map_or(count, |r| if r > count { count } else { r });
        ((within(high) - within(low)) / self.count, remark)
    }

    /// Sum by count; NaN without observations.
    pub fn average(&self) -> f64 {
        self.sum / self.count
    }

    /// Variance of the population, with each observation where its bucket has its middle.
    pub fn variance(&self) -> f64 {
        let mean = self.average();
        let mut squares = Sum::default();
        for bucket in self.buckets().filter(|b| b.count != 0.0) {
            let away = self.middle(&bucket) - mean;
            squares.add(bucket.count * away * away);
        }
        (squares.high + squares.low) / self.count
    }

    pub fn deviation(&self) -> f64 {
        self.variance().sqrt()
    }

    fn middle(&self, bucket: &Bucket) -> f64 {
        let &Bucket { lower, upper, .. } = bucket;
        if self.is_custom() {
            (upper + lower) / 2.0
        } else if lower <= 0.0 && upper >= 0.0 {
            0.0
        } else {
            (upper * lower).sqrt().copysign(upper)
        }
    }
}

/// How many observations lie below `value`, if that is in this bucket or below it; `rank` are those below the
/// bucket.
fn rank_at(value: f64, bucket: &Bucket, rank: f64, linear: bool) -> Option<f64> {
    if bucket.lower >= value {
        return Some(rank);
    }
    if bucket.upper <= value {
        return None;
    }
    Some(match (linear, bucket.lower == f64::NEG_INFINITY) {
        // Nothing can be said of where they are below a bound.
        (true, true) => bucket.count,
        (true, false) => rank + bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower),
        (false, _) => rank + bucket.count * exponential_position(bucket, value),
    })
}
