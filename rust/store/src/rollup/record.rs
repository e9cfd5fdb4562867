//! Records: what the samples of a bucket come to, so that windows over whole buckets need no sample.
//!
//! A bucket of width `w` that ends at `e`, a multiple of `w`, holds the samples in `(e - w, e]`, as the window of a
//! range selector at `e` does. A record stands for itself: what happens between two buckets (an increase, a reset) is
//! told by the last value of one and the first of the next, so that a late sample changes one bucket alone.

use metricsdb_model::Summary;
use metricsdb_model::sample::is_stale;

/// At least one sample, none a staleness marker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// The end of the bucket, in milliseconds.
    pub end: i64,
    pub count: u64,
    /// Time in milliseconds, and value.
    pub first: (i64, f64),
    pub last: (i64, f64),
    /// NaN only where nothing else came.
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    /// The sum of squared distances from the mean: the sum of squares without what cancels out.
    pub deviation: f64,
    /// How often a value is smaller than the one before, and the sum of those before.
    pub resets: u64,
    pub reset_from: f64,
    /// Anomalies that no budget was left for.
    pub unkept: u64,
}

/// The end of the bucket that a time lies in; `i64::MAX` for times behind the last whole bucket.
#[inline]
pub fn end_of(time: i64, every: i64) -> i64 {
    time.checked_add((-time.rem_euclid(every)).rem_euclid(every)).unwrap_or(i64::MAX)
}

/// The last end of a bucket that is not after a time; `i64::MIN` before the first.
#[inline]
pub fn floor_of(time: i64, every: i64) -> i64 {
    time.checked_sub(time.rem_euclid(every)).unwrap_or(i64::MIN)
}

impl Record {
    /// To be filled in.
    pub(super) const ZERO: Record = Record {
        end: 0,
        count: 0,
        first: (0, 0.0),
        last: (0, 0.0),
        min: 0.0,
        max: 0.0,
        sum: 0.0,
        deviation: 0.0,
        resets: 0,
        reset_from: 0.0,
        unkept: 0,
    };

    /// Of samples of one bucket, in time order; `None` where all are staleness markers.
    pub fn of(end: i64, times: &[i64], values: &[f64]) -> Option<Record> {
        let plain = |end, times: &[i64], values: &[f64]| {
            let first = (*times.first()?, *values.first()?);
            let last = (*times.last()?, *values.last()?);
            let count = values.len() as u64;
            Some(Record { end, count, first, last, ..Record::ZERO }.of_values(values))
        };
        if values.iter().any(|&v| is_stale(v)) {
            let kept = times.iter().copied().zip(values.iter().copied()).filter(|(_, v)| !is_stale(*v));
            let (times, values): (Vec<i64>, Vec<f64>) = kept.unzip();
            return plain(end, &times, &values);
        }
        plain(end, times, values)
    }

    /// Fills in what values come to. Lanes don't wait for each other: some two nanoseconds a value.
    fn of_values(mut self, values: &[f64]) -> Record {
        let mut lanes = Lanes::new(self.first.1);
        let pieces = values.chunks_exact(LANES);
        let rest = pieces.remainder();
        pieces.for_each(|piece| lanes.add(piece));
        lanes.add(rest);
        (self.min, self.max) = lanes.extremes();
        self.sum = lanes.sum();
        if !self.sum.is_finite() {
            // What is infinite has no rest, and a NaN gives way to whatever else is an extreme.
            self.sum = values.iter().sum();
            self.min = values.iter().copied().fold(f64::NAN, f64::min);
            self.max = values.iter().copied().fold(f64::NAN, f64::max);
        }
        let mean = self.sum / values.len() as f64;
        let mut squares = [0.0; LANES];
        for piece in values.chunks(LANES) {
            for (lane, v) in squares.iter_mut().zip(piece) {
                *lane += (v - mean) * (v - mean);
            }
        }
        self.deviation = squares.iter().sum();
        let pairs = || values.iter().zip(values.get(1..).unwrap_or(&[]));
        self.resets = pairs().map(|(before, v)| u64::from(v < before)).sum();
        if self.resets > 0 {
            self.reset_from = pairs().filter(|(before, v)| v < before).map(|(before, _)| before).sum();
        }
        self
    }

    /// Adds a record of samples that are all behind those of this one.
    pub fn append(&mut self, next: &Record) {
        let crossing = next.first.1 < self.last.1;
        // Bytes from outside may say any number.
        self.resets = self.resets.saturating_add(next.resets).saturating_add(u64::from(crossing));
        self.reset_from += next.reset_from + if crossing { self.last.1 } else { 0.0 };
        let (n, m) = (self.count as f64, next.count as f64);
        let apart = next.sum / m - self.sum / n;
        self.deviation += next.deviation + apart * apart * (n * m / (n + m));
        self.count = self.count.saturating_add(next.count);
        self.last = next.last;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.sum += next.sum;
        self.unkept = self.unkept.saturating_add(next.unkept);
        self.end = next.end;
    }

    /// A record of points each of which stands for so many samples.
    pub(super) fn standing_for(self, samples: f64) -> Record {
        let count = (self.count as f64 * samples).round().max(1.0);
        let scale = count / self.count as f64;
        Record { count: count as u64, sum: self.sum * scale, deviation: self.deviation * scale, ..self }
    }

    /// The sum of squared distances from the mean as it would be if the values that no other field tells were evenly spread.
    pub(super) fn likely_deviation(&self) -> f64 {
        let (first, last) = (self.first.1, self.last.1);
        let lone = if self.count == 1 { f64::NAN } else { last };
        let below = if self.min < first.min(last) { self.min } else { f64::NAN };
        let above = if self.max > first.max(last) { self.max } else { f64::NAN };
        let (count, mean) = (self.count as f64, self.sum / self.count as f64);
        let (mut known, mut sum, mut likely) = (0.0, 0.0, 0.0);
        for value in [first, lone, below, above].into_iter().filter(|v| !v.is_nan()) {
            (known, sum) = (known + 1.0, sum + value);
            likely += (value - mean) * (value - mean);
        }
        let others = count - known;
        if others > 0.0 {
            let middle = (self.sum - sum) / others;
            let step = (self.max - self.min) / (others + 1.0);
            likely += others * (middle - mean) * (middle - mean);
            likely += step * step * others * (others * others - 1.0) / 12.0;
        }
        // What is no number has other bits on other machines.
        if likely.is_finite() { likely } else { 0.0 }
    }

    pub fn summary(&self) -> Summary {
        let ends = (self.min, self.max);
        let mut all = Summary::of_block(self.count, self.first, self.last, ends, self.sum);
        (all.resets, all.reset_from) = (self.resets, self.reset_from);
        all.deviation = Some(self.deviation);
        all
    }
}

const LANES: usize = 4;

/// Sums and extremes of every fourth value; each sum with what rounding took from it (Knuth's exact addition).
struct Lanes {
    sum: [f64; LANES],
    rest: [f64; LANES],
    min: [f64; LANES],
    max: [f64; LANES],
}

impl Lanes {
    fn new(first: f64) -> Lanes {
        Lanes { sum: [0.0; LANES], rest: [0.0; LANES], min: [first; LANES], max: [first; LANES] }
    }

    #[inline(always)]
    fn add(&mut self, piece: &[f64]) {
        for (i, &v) in piece.iter().enumerate().take(LANES) {
            let total = self.sum[i] + v;
            let back = total - self.sum[i];
            self.rest[i] += (self.sum[i] - (total - back)) + (v - back);
            self.sum[i] = total;
            self.min[i] = if v < self.min[i] { v } else { self.min[i] };
            self.max[i] = if v > self.max[i] { v } else { self.max[i] };
        }
    }

    fn extremes(&self) -> (f64, f64) {
        let least = self.min.iter().copied().fold(f64::INFINITY, |a, b| if b < a { b } else { a });
        let most = self.max.iter().copied().fold(f64::NEG_INFINITY, |a, b| if b > a { b } else { a });
        (least, most)
    }

    fn sum(&self) -> f64 {
        let mut all = Lanes::new(0.0);
        for &sum in &self.sum {
            all.add(&[sum]);
        }
        all.sum[0] + (all.rest[0] + self.rest.iter().sum::<f64>())
    }
}

/// Appends the records of samples in time order, those in buckets that end at or before `until`; linear.
pub fn records_of(times: &[i64], values: &[f64], every: i64, until: i64, out: &mut Vec<Record>) {
    let (mut from, mut before, mut width) = (0, i64::MIN, 0);
    while let Some(&time) = times.get(from) {
        // Mostly the next bucket, with as many samples.
        let next = before.saturating_add(every);
        let end = if before > i64::MIN && time > before && time <= next { next } else { end_of(time, every) };
        if end > until {
            return;
        }
        let guess = from + width;
        let fits = width > 0
            && times.get(guess - 1).is_some_and(|&t| t <= end)
            && times.get(guess).is_none_or(|&t| t > end);
        let rest = times.get(from..).unwrap_or(&[]);
        let to = if fits { guess } else { from + rest.partition_point(|&t| t <= end) };
        let (times, values) = (times.get(from..to), values.get(from..to));
        out.extend(times.zip(values).and_then(|(times, values)| Record::of(end, times, values)));
        (width, from, before) = (to - from, to, end);
    }
}

/// Appends the records of wider buckets, from those of narrower ones that divide them.
pub fn coarser(fine: &[Record], every: i64, until: i64, out: &mut Vec<Record>) {
    for bucket in fine.chunk_by(|a, b| end_of(a.end, every) == end_of(b.end, every)) {
        let Some((first, rest)) = bucket.split_first() else { continue };
        let end = end_of(first.end, every);
        if end > until {
            return;
        }
        let mut all = *first;
        rest.iter().for_each(|next| all.append(next));
        out.push(Record { end, ..all });
    }
}

/// Samples that stand for those of a record where a function needs single ones: so many, evenly spread, that no lookback
/// of some minutes falls between two. Ends are true; of a counter the way between them is straight, with its resets
/// where they may have been; of anything else smallest, largest and mean are true.
pub fn expand(record: &Record, every: i64, counter: bool, mut push: impl FnMut(i64, f64)) {
    let points = points_of(record, every);
    let span = (record.last.0 - record.first.0) as f64;
    let at = |i: u64| match i {
        0 => record.first.0,
        _ if i + 1 == points => record.last.0,
        _ => record.first.0 + (span * i as f64 / (points - 1) as f64) as i64,
    };
    if points == 1 {
        return push(record.last.0, record.last.1);
    }
    if counter {
        let peak = if record.resets > 0 { record.reset_from } else { record.last.1 };
        let half = if record.resets > 0 { points / 2 } else { points };
        for i in 0..points {
            let value = match i {
                _ if i + 1 == points => record.last.1,
                _ if i < half => {
                    record.first.1 + (peak - record.first.1) * i as f64 / (half.max(2) - 1) as f64
                }
                _ => record.min + (record.last.1 - record.min) * (i - half) as f64 / (points - half) as f64,
            };
            push(at(i), value);
        }
        return;
    }
    let known = record.first.1 + record.last.1;
    let extremes = if points >= 4 { record.min + record.max } else { 0.0 };
    let others = points as i64 - if points >= 4 { 4 } else { 2 };
    let mean = record.sum / record.count as f64;
    let filler = (mean * points as f64 - known - extremes) / others.max(1) as f64;
    let filler = filler.max(record.min).min(record.max);
    for i in 0..points {
        let value = match i {
            0 => record.first.1,
            _ if i + 1 == points => record.last.1,
            1 if points >= 4 => record.min,
            2 if points >= 4 => record.max,
            _ => filler,
        };
        push(at(i), value);
    }
}

/// Space between the points of `expand`: two of them are never farther apart than a usual lookback.
const POINT_MS: i64 = 120_000;

/// How many points stand for a record.
pub fn points_of(record: &Record, every: i64) -> u64 {
    let most = (every / POINT_MS + 1).max(4) as u64;
    record.count.clamp(1, most)
}

#[cfg(test)]
mod tests;
