//! What a stretch of samples comes to: enough for the functions of a window that need no single sample.

/// What of a summary is needed; the rest may be wrong, where that saves work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Count, ends, smallest and largest value.
    Bounds,
    /// The sum too.
    Sum,
    /// The resets, but not the sum.
    Resets,
}

/// At least one sample, in time order, none a staleness marker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: u64,
    /// Time in milliseconds, and value.
    pub first: (i64, f64),
    pub last: (i64, f64),
    /// NaN only where nothing else came.
    pub min: f64,
    pub max: f64,
    sum: f64,
    /// What rounding took from `sum` (Neumaier).
    sum_rest: f64,
    /// How often a value is smaller than the one before, and the sum of those before.
    pub resets: u64,
    pub reset_from: f64,
}

impl Summary {
    pub fn of(time: i64, value: f64) -> Summary {
        Summary {
            count: 1,
            first: (time, value),
            last: (time, value),
            min: value,
            max: value,
            sum: value,
            sum_rest: 0.0,
            resets: 0,
            reset_from: 0.0,
        }
    }

    /// Of columns of one length: what appending sample by sample comes to, at several times the speed. `None` for no sample.
    pub fn of_columns(times: &[i64], values: &[f64]) -> Option<Summary> {
        const LANES: usize = 4;
        let first = (*times.first()?, *values.first()?);
        let last = (*times.last()?, *values.last()?);
        let (mut min, mut max) = ([f64::NAN; LANES], [f64::NAN; LANES]);
        let (mut sum, mut rest) = ([0.0; LANES], [0.0; LANES]);
        for chunk in values.chunks(LANES) {
            for (lane, &value) in chunk.iter().enumerate() {
                // Written so that NaN stays only where nothing else comes.
                min[lane] = if min[lane] <= value { min[lane] } else { unless_nan(value, min[lane]) };
                max[lane] = if max[lane] >= value { max[lane] } else { unless_nan(value, max[lane]) };
                let total = sum[lane] + value;
                let of_value = total - sum[lane];
                rest[lane] += (sum[lane] - (total - of_value)) + (value - of_value);
                sum[lane] = total;
            }
        }
        let mut all = Summary { count: values.len() as u64, first, last, ..Summary::of(first.0, f64::NAN) };
        (all.sum, all.sum_rest) = (sum[0], rest[0]);
        (all.min, all.max) = (min[0], max[0]);
        for lane in 1..LANES {
            all.join(min[lane], max[lane], sum[lane], rest[lane]);
        }
        for pair in values.windows(2) {
            if pair[1] < pair[0] {
                all.resets += 1;
                all.reset_from += pair[0];
            }
        }
        Some(all)
    }

    /// The sum of all values.
    pub fn sum(&self) -> f64 {
        let sum = self.sum + self.sum_rest;
        if self.sum.is_finite() && sum.is_finite() { sum } else { self.sum }
    }

    /// Adds what comes behind.
    pub fn append(&mut self, next: &Summary) {
        if next.first.1 < self.last.1 {
            self.resets += 1;
            self.reset_from += self.last.1;
        }
        self.resets += next.resets;
        self.reset_from += next.reset_from;
        self.count += next.count;
        self.last = next.last;
        self.join(next.min, next.max, next.sum, next.sum_rest);
    }

    fn join(&mut self, min: f64, max: f64, sum: f64, rest: f64) {
        if min < self.min || self.min.is_nan() {
            self.min = min;
        }
        if max > self.max || self.max.is_nan() {
            self.max = max;
        }
        let total = self.sum + sum;
        let kept_self = self.sum.abs() >= sum.abs();
        self.sum_rest += rest + if kept_self { (self.sum - total) + sum } else { (sum - total) + self.sum };
        self.sum = total;
    }

    /// A block of numbers of which just this is known: no NaN among them, resets left out.
    pub fn of_block(
        count: u64,
        first: (i64, f64),
        last: (i64, f64),
        (min, max): (f64, f64),
        sum: f64,
    ) -> Summary {
        Summary { count, first, last, min, max, sum, sum_rest: 0.0, resets: 0, reset_from: 0.0 }
    }
}

/// The value, unless it is NaN.
#[inline]
fn unless_nan(value: f64, before: f64) -> f64 {
    if value.is_nan() { before } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_to_what_their_samples_come_to() {
        let numbers = [5.0, -2.5, 1e300, 0.0, 7.25, -1e300, 3.0, 3.0, 0.1, f64::NAN, 4.0];
        for length in 1..numbers.len() {
            for from in 0..numbers.len() - length {
                let values = &numbers[from..from + length];
                let times: Vec<i64> = (0..length as i64).collect();
                let (all, one) = (Summary::of_columns(&times, values), fold(0, values));
                let plain = |s: Option<Summary>| {
                    s.map(|s| {
                        (
                            s.count,
                            s.first.0,
                            s.last.0,
                            s.min.to_bits(),
                            s.max.to_bits(),
                            s.resets,
                            s.reset_from,
                        )
                    })
                };
                assert_eq!(plain(all), plain(one), "{values:?}");
                let sums = all.zip(one).map(|(a, b)| (a.sum(), b.sum()));
                assert!(sums.is_some_and(|(a, b)| a == b || a.is_nan() && b.is_nan()), "{values:?}");
            }
        }
        assert_eq!(Summary::of_columns(&[], &[]), None);
        let infinite = Summary::of_columns(&[1, 2], &[f64::INFINITY, 1.0]);
        assert_eq!(infinite.map(|s| s.sum()), Some(f64::INFINITY));
    }

    fn fold(from: i64, values: &[f64]) -> Option<Summary> {
        let each = values.iter().zip(from..).map(|(&v, t)| Summary::of(t, v));
        each.reduce(|mut all, next| {
            all.append(&next);
            all
        })
    }

    #[test]
    fn a_stretch_is_what_its_parts_come_to_wherever_it_is_cut() {
        let values = [3.0, 5.0, f64::NAN, 2.0, 1e300, -1e300, 0.5, 9.0, 1.0];
        let whole = fold(0, &values);
        for cut in 1..values.len() {
            let (a, b) = values.split_at(cut);
            let parts = fold(0, a).zip(fold(cut as i64, b)).map(|(mut a, b)| {
                a.append(&b);
                a
            });
            let plain = |s: Option<Summary>| {
                s.map(|s| (s.count, s.first, s.last, s.min, s.max, s.resets, s.reset_from))
            };
            assert_eq!(plain(parts), plain(whole));
            assert!(parts.is_some_and(|s| s.sum().is_nan()));
        }
        assert_eq!(fold(0, &[1.0, 1e100, 1.0, -1e100]).map(|s| s.sum()), Some(2.0));
        assert_eq!(fold(0, &[f64::INFINITY, 1.0]).map(|s| s.sum()), Some(f64::INFINITY));
    }
}
