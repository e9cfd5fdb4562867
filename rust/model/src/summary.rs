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
    /// The sum, and the squared distances from the mean: only records of rollups have them.
    Deviation,
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
    /// The sum of squared distances from the mean, where somebody counted it.
    pub deviation: Option<f64>,
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
            deviation: None,
        }
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
        if next.min < self.min || self.min.is_nan() {
            self.min = next.min;
        }
        if next.max > self.max || self.max.is_nan() {
            self.max = next.max;
        }
        let total = self.sum + next.sum;
        let kept_self = self.sum.abs() >= next.sum.abs();
        self.sum_rest += next.sum_rest
            + if kept_self { (self.sum - total) + next.sum } else { (next.sum - total) + self.sum };
        self.sum = total;
        self.deviation = None;
    }

    /// Numbers of which count and sum alone are known.
    pub fn of_sum(count: u64, sum: f64) -> Summary {
        Summary { count, sum, ..Summary::of(0, sum) }
    }

    /// A block of numbers of which just this is known: no NaN among them, resets left out.
    pub fn of_block(
        count: u64,
        first: (i64, f64),
        last: (i64, f64),
        (min, max): (f64, f64),
        sum: f64,
    ) -> Summary {
        Summary {
            count,
            first,
            last,
            min,
            max,
            sum,
            sum_rest: 0.0,
            resets: 0,
            reset_from: 0.0,
            deviation: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
