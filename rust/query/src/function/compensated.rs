//! Neumaier's compensated summation, the one that Prometheus sums with (A. Neumaier, ZAMM 54, 1974).

/// A running sum and the rounding error that it has lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    pub high: f64,
    /// What `high` misses. An infinite `high` has lost nothing that matters: 0.
    pub low: f64,
}

impl Sum {
    pub fn new(value: f64) -> Sum {
        Sum { high: value, low: 0.0 }
    }

    #[inline]
    pub fn add(&mut self, value: f64) {
        let total = self.high + value;
        if total.is_infinite() {
            self.low = 0.0;
        } else if self.high.abs() >= value.abs() {
            self.low += (self.high - total) + value;
        } else {
            self.low += (value - total) + self.high;
        }
        self.high = total;
    }

    #[inline]
    pub fn value(self) -> f64 {
        if self.high.is_infinite() { self.high } else { self.high + self.low }
    }
}

impl Extend<f64> for Sum {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        for v in values {
            self.add(v);
        }
    }
}

/// Sum and its exact rounding error (D. Knuth, TAOCP 2, 4.2.2).
#[inline]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Integers that are summed without rounding stay below this, whatever their order.
const EXACT_MAX: f64 = (1u64 << 53) as f64;
/// Adding and taking it away again rounds what is well below 2^52 to an integer.
const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
const LANES: usize = 8;

/// The sum of integers that are small enough to lose nothing in any order, at a vector a step; `None` for others:
/// those are to be summed with compensation. Equals the compensated sum bit for bit but for the sign of zero.
pub fn exact_sum(values: &[f64]) -> Option<f64> {
    let (mut sums, mut sizes, mut off) = ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut take = |lane: usize, v: f64| {
        sums[lane] += v;
        sizes[lane] += v.abs();
        off[lane] += ((v + ROUND) - ROUND - v).abs();
    };
    lanes.iter().for_each(|chunk| chunk.iter().enumerate().for_each(|(lane, &v)| take(lane, v)));
    rest.iter().enumerate().for_each(|(lane, &v)| take(lane, v));
    // Not a number where any value isn't one, and infinite with any that is: then nothing is exact.
    let is_exact = off.iter().sum::<f64>() == 0.0 && sizes.iter().sum::<f64>() < EXACT_MAX / 4.0;
    is_exact.then(|| sums.iter().sum())
}

/// Welford's running variance with compensated mean and squares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Variance {
    count: f64,
    mean: Sum,
    squares: Sum,
}

impl Variance {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - (self.mean.high + self.mean.low);
        self.mean.add(delta / self.count);
        self.squares.add(delta * (value - (self.mean.high + self.mean.low)));
    }

    /// Population variance; NaN without values.
    pub fn value(self) -> f64 {
        (self.squares.high + self.squares.low) / self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> f64 {
        let mut s = Sum::default();
        s.extend(values.iter().copied());
        s.value()
    }

    #[test]
    fn small_terms_survive_beside_large_ones() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&[1e100, 1.0, -1e100, 1.0]), 2.0);
    }

    proptest! {
        #[test]
        fn exact_sums_are_the_compensated_ones(
            values in prop::collection::vec(
                prop_oneof![
                    8 => (-1000i32..1000).prop_map(f64::from),
                    1 => (-1i64 << 50..1 << 50).prop_map(|v| v as f64),
                    1 => prop_oneof![Just(0.5), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY), Just(1e300)],
                ],
                1..80,
            ),
        ) {
            let whole = values.iter().all(|v| v.fract() == 0.0 && v.abs() < (1u64 << 51) as f64);
            let size: f64 = values.iter().map(|v| v.abs()).sum();
            match exact_sum(&values) {
                Some(exact) => {
                    prop_assert!(whole);
                    prop_assert_eq!(exact.to_bits(), sum(&values).to_bits());
                }
                None => prop_assert!(!whole || size >= (1u64 << 50) as f64),
            }
        }
    }

    #[test]
    fn infinities_follow_ieee() {
        let inf = f64::INFINITY;
        assert_eq!(sum(&[inf, 1.0]), inf);
        assert_eq!(sum(&[-inf, 1.0, 2.0]), -inf);
        assert!(sum(&[inf, -inf]).is_nan());
        assert!(sum(&[f64::NAN, 1.0]).is_nan());
    }

    proptest! {
        /// Integers up to 2^52 sum exactly in i128.
        #[test]
        fn sums_of_integers_are_right_to_the_last_bit(v in prop::collection::vec(-(1i64 << 52)..(1i64 << 52), 1..200)) {
            let exact: i128 = v.iter().map(|x| i128::from(*x)).sum();
            let values: Vec<f64> = v.iter().map(|x| *x as f64).collect();
            prop_assert_eq!(sum(&values), exact as f64);
        }

        #[test]
        fn variance_agrees_with_two_passes(v in prop::collection::vec(-1e6..1e6f64, 1..200)) {
            let n = v.len() as f64;
            let m = v.iter().sum::<f64>() / n;
            let slow = v.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / n;
            let mut fast = Variance::default();
            v.iter().for_each(|x| fast.add(*x));
            prop_assert!((fast.value() - slow).abs() <= 1e-9 * slow.max(1e-3));
        }
    }
}
