//! Quantiles and fractions of classic histograms: cumulative counts under upper bounds.

/// One bucket at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Upper bound, inclusive: the label `le`.
    pub upper: f64,
    /// Observations up to it.
    pub count: f64,
}

/// What had to be done to make buckets cumulative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repair {
    /// Lowest and highest upper bound of a bucket that was raised.
    pub lowest: f64,
    pub highest: f64,
    /// By how much a bucket stood under the one before, at most.
    pub largest_drop: f64,
}

impl Repair {
    pub fn merge(&mut self, other: Repair) {
        self.lowest = self.lowest.min(other.lowest);
        self.highest = self.highest.max(other.highest);
        self.largest_drop = self.largest_drop.max(other.largest_drop);
    }
}

/// Relative difference of neighbours that is taken for rounding.
const ROUNDING: f64 = 1e-12;

/// The upper bound that a label `le` writes; `None` if it writes none.
pub fn parse_le(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// The q-quantile by linear interpolation within a bucket; 0 is the lower end of a lowest bucket that ends
/// above it. NaN without a +Inf bucket, with fewer than two, without observations or for a NaN q; ∓Inf
/// for q out of range. Buckets may come in any order; they are sorted, merged and made cumulative in place.
pub fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Repair>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if !arrange(buckets) {
        return (f64::NAN, None);
    }
    let repair = make_cumulative(buckets);
    (quantile_of_cumulative(q, buckets), repair)
}

fn quantile_of_cumulative(q: f64, buckets: &[Bucket]) -> f64 {
    let [below @ .., last] = buckets else { return f64::NAN };
    let Some(highest) = below.last() else { return f64::NAN };
    if last.count == 0.0 {
        return f64::NAN;
    }
    let rank = q * last.count;
    let reaches = |b: &Bucket| b.count >= rank;
    let place = below.partition_point(|b| !reaches(b));
    let Some(bucket) = below.get(place) else { return highest.upper };
    match place.checked_sub(1).and_then(|i| below.get(i)) {
        Some(lower) => {
            let share = (rank - lower.count) / (bucket.count - lower.count);
            lower.upper + (bucket.upper - lower.upper) * share
        }
        None if bucket.upper <= 0.0 => bucket.upper,
        None => bucket.upper * (rank / bucket.count),
    }
}

/// The share of observations in (lower, upper], by linear interpolation. NaN without a +Inf bucket, without
/// observations and for NaN bounds; 0 for bounds that don't ascend.
pub fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !arrange(buckets) || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    let total = buckets.last().map_or(0.0, |b| b.count);
    if total == 0.0 {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (observations_up_to(upper, total, buckets) - observations_up_to(lower, total, buckets)) / total
}

/// Observations at or below `value`. In a bucket without a finite end nothing can be interpolated: all of
/// the lowest one lies below any value inside, none of the highest one.
fn observations_up_to(value: f64, total: f64, buckets: &[Bucket]) -> f64 {
    let mut below = 0.0f64;
    let mut start = match buckets.first() {
        Some(b) if b.upper > 0.0 => 0.0,
        _ => f64::NEG_INFINITY,
    };
    for b in buckets {
        if start >= value {
            return below.min(total);
        }
        if b.upper > value {
            if start == f64::NEG_INFINITY {
                return b.count.min(total);
            }
            return (below + (b.count - below) * (value - start) / (b.upper - start)).min(total);
        }
        (below, start) = (b.count, b.upper);
    }
    total
}

/// Sorts and merges buckets of one bound; false if the highest is not +Inf.
fn arrange(buckets: &mut Vec<Bucket>) -> bool {
    // By count too: three of one bound are added in an order that is always the same.
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper).then_with(|| a.count.total_cmp(&b.count)));
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
    buckets.last().is_some_and(|b| b.upper == f64::INFINITY)
}

/// Raises buckets that stand below the one before; tiny differences in either direction are rounding, and
/// levelled without a word.
fn make_cumulative(buckets: &mut [Bucket]) -> Option<Repair> {
    let (first, rest) = buckets.split_first_mut()?;
    let mut before = first.count;
    let mut repair: Option<Repair> = None;
    for b in rest {
        let drop = before - b.count;
        if almost_equal(before, b.count) {
            b.count = before;
        } else if drop > 0.0 {
            b.count = before;
            let this = Repair { lowest: b.upper, highest: b.upper, largest_drop: drop };
            repair.get_or_insert(this).merge(this);
        } else {
            before = b.count;
        }
    }
    repair
}

fn almost_equal(a: f64, b: f64) -> bool {
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == b || (a.is_nan() && b.is_nan()) {
        true
    } else if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        difference < ROUNDING * f64::MIN_POSITIVE
    } else {
        difference / sum.min(f64::MAX) < ROUNDING
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INF: f64 = f64::INFINITY;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|&(upper, count)| Bucket { upper, count }).collect()
    }

    fn q(q: f64, pairs: &[(f64, f64)]) -> f64 {
        quantile(q, &mut buckets(pairs)).0
    }

    #[test]
    fn quantiles_interpolate_within_their_bucket() {
        let h = [(0.1, 2.0), (1.0, 4.0), (10.0, 8.0), (INF, 8.0)];
        assert_eq!(q(0.25, &h), 0.1);
        assert_eq!(q(0.125, &h), 0.05);
        assert_eq!(q(0.375, &h), 0.55);
        assert_eq!(q(1.0, &h), 10.0);
        assert_eq!(q(0.0, &h), 0.0);
    }

    #[test]
    fn the_open_ends_have_no_middle() {
        assert_eq!(q(0.99, &[(1.0, 1.0), (INF, 100.0)]), 1.0);
        assert_eq!(q(0.1, &[(-5.0, 10.0), (0.0, 20.0), (INF, 20.0)]), -5.0);
    }

    #[test]
    fn what_is_no_histogram_has_no_quantile() {
        assert!(q(0.5, &[]).is_nan());
        assert!(q(0.5, &[(INF, 3.0)]).is_nan());
        assert!(q(0.5, &[(1.0, 3.0), (2.0, 4.0)]).is_nan());
        assert!(q(0.5, &[(1.0, 0.0), (INF, 0.0)]).is_nan());
        assert!(q(f64::NAN, &[(1.0, 1.0), (INF, 2.0)]).is_nan());
        assert_eq!(q(-0.1, &[]), -INF);
        assert_eq!(q(1.1, &[]), INF);
    }

    #[test]
    fn order_and_doubled_bounds_do_not_matter() {
        let h = [(INF, 8.0), (1.0, 1.0), (0.1, 2.0), (1.0, 3.0)];
        assert_eq!(q(0.375, &h), q(0.375, &[(0.1, 2.0), (1.0, 4.0), (INF, 8.0)]));
    }

    #[test]
    fn sinking_buckets_are_raised_and_told_of() {
        let mut h = buckets(&[(0.1, 2.0), (1.0, 1.0), (10.0, 5.0), (100.0, 4.5), (INF, 9.0)]);
        let (value, repair) = quantile(0.5, &mut h);
        assert_eq!(repair, Some(Repair { lowest: 1.0, highest: 100.0, largest_drop: 1.0 }));
        assert_eq!(value, 1.0 + 9.0 * (2.5 / 3.0));
    }

    #[test]
    fn rounding_is_levelled_in_silence() {
        let mut h = buckets(&[(1.0, 100.0), (2.0, 100.0 - 1e-11), (3.0, 100.0 + 1e-11), (INF, 200.0)]);
        assert_eq!(quantile(0.5, &mut h), (1.0, None));
        assert_eq!((h[1].count, h[2].count), (100.0, 100.0));
    }

    #[test]
    fn fractions_by_hand() {
        let f = |lower, upper, pairs: &[(f64, f64)]| fraction(lower, upper, &mut buckets(pairs));
        let positive = [(1.0, 1.0), (2.0, 3.0), (3.0, 6.0), (4.0, 100.0), (INF, 100.0)];
        assert_eq!(f(0.5, 2.0, &positive), 0.025);
        assert_eq!(f(-INF, INF, &positive), 1.0);
        assert_eq!(f(-7.0, 2.0, &positive), 0.03);
        assert_eq!(f(5.0, 6.0, &positive), 0.0);
        assert_eq!((f(2.0, 2.0, &positive), f(3.0, 2.0, &positive)), (0.0, 0.0));
        let negative = [(-3.0, 10.0), (-2.0, 12.0), (-1.0, 15.0), (INF, 100.0)];
        assert_eq!(f(-4.0, -2.0, &negative), 0.02);
        assert_eq!(f(-INF, -1.5, &negative), 0.135);
        assert_eq!(f(400.0, INF, &negative), 0.85);
        assert!(f(0.0, 1.0, &[(1.0, 5.0)]).is_nan());
        assert!(f(0.0, f64::NAN, &positive).is_nan());
        assert!(f(0.0, 5.0, &[(1.0, 0.0), (INF, 0.0)]).is_nan());
    }

    #[test]
    fn bounds_are_read_as_numbers() {
        assert_eq!(parse_le("+Inf"), Some(INF));
        assert_eq!(parse_le("5e-1"), Some(0.5));
        assert_eq!(parse_le(""), None);
        assert_eq!(parse_le("Hello World"), None);
    }

    proptest! {
        /// The fraction up to a quantile is the quantile's rank.
        #[test]
        fn quantile_and_fraction_are_inverse(
            counts in prop::collection::vec(1..1000u32, 2..12),
            rank in 0.01..0.99f64,
        ) {
            let mut total = 0.0;
            let mut h: Vec<Bucket> = counts.iter().enumerate().map(|(i, c)| {
                total += f64::from(*c);
                Bucket { upper: (i + 1) as f64, count: total }
            }).collect();
            h.push(Bucket { upper: INF, count: total });
            let (value, repair) = quantile(rank, &mut h.clone());
            prop_assert_eq!(repair, None);
            prop_assert!((fraction(-INF, value, &mut h) - rank).abs() < 1e-9);
        }
    }
}
