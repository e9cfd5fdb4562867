//! Which raw points survive a reduction at their own time and value: those that somebody will ask about.
//!
//! A point's deviation is Hampel's: its distance to the median of the window around it, by the spread there. Points
//! above a threshold are kept first, one peak for each run of them; what a budget has left goes to the points that
//! are the most deviant, from their window or from the whole, of most stretches of time (`windows`).

mod median;
mod windows;

use metricsdb_model::{Error, Result};

pub use median::WINDOW_MAX;

/// A normal distribution's standard deviation by its median absolute deviation.
const MAD_TO_SIGMA: f64 = 1.4826;
/// A normal distribution's standard deviation by its mean absolute deviation.
const MEAN_TO_SIGMA: f64 = 1.2533;
/// Share of the whole's standard deviation that counts as spread anywhere, so that the first step of a flat line isn't
/// infinitely deviant.
const FLOOR: f64 = 0.05;
/// Values whose median stands for the whole's.
const LEVEL_SAMPLES: usize = 4096;
/// Worths that tell which are among the best.
const WORTH_SAMPLES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Samples of the median's window: odd, from 3 to `WINDOW_MAX`.
    pub window: usize,
    /// Deviation, in standard deviations of the noise, above which a point is an anomaly.
    pub threshold: f64,
    /// Points kept on either side of an anomaly.
    pub neighbours: usize,
    /// Points kept at most.
    pub points_max: usize,
    /// Whether what anomalies leave of `points_max` is filled; then their first half at most is for anomalies alone.
    pub fill: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { window: 61, threshold: 5.0, neighbours: 0, points_max: usize::MAX, fill: false }
    }
}

impl Options {
    pub fn check(&self) -> Result<()> {
        if self.window.is_multiple_of(2) || !(3..=WINDOW_MAX).contains(&self.window) {
            let message = format!("a window has an odd number of samples from 3 to {WINDOW_MAX}");
            return Err(Error::input("window", &self.window.to_string(), &message, "use 61, say"));
        }
        if self.threshold.is_nan() || self.threshold <= 0.0 {
            let message = "a threshold is a positive number of standard deviations";
            return Err(Error::input("threshold", &self.threshold.to_string(), message, "use 5, say"));
        }
        Ok(())
    }
}

/// Indices into the values, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    pub kept: Vec<u32>,
    /// Points above the threshold that the budget could not keep.
    pub dropped: Vec<u32>,
}

/// Chooses points of a series in time order. NaN (staleness markers too) is never chosen. Deterministic; O(n log n)
/// with a small factor: 20 million and more a second of CPU.
pub fn pick(values: &[f64], options: &Options) -> Result<Picked> {
    options.check()?;
    if !values.iter().any(|v| v.is_nan()) {
        return Ok(pick_numbers(values, options));
    }
    let places: Vec<u32> = (0u32..).zip(values).filter(|(_, v)| !v.is_nan()).map(|(i, _)| i).collect();
    let numbers: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    let mut picked = pick_numbers(&numbers, options);
    for index in picked.kept.iter_mut().chain(&mut picked.dropped) {
        *index = places[*index as usize];
    }
    Ok(picked)
}

/// Each value's distance to the median of the `window` values around it, in standard deviations of the noise there: by the median
/// of these distances, or by their mean where the median is 0. The noise is measured anew every half window. NaN where the value is. Fewer values than `window` are one window.
pub fn deviations(values: &[f64], window: usize) -> Result<Vec<f64>> {
    Options { window, ..Options::default() }.check()?;
    if !values.iter().any(|v| v.is_nan()) {
        return Ok(deviations_of_numbers(values, window));
    }
    let numbers: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    let mut found = deviations_of_numbers(&numbers, window).into_iter();
    Ok(values.iter().map(|v| if v.is_nan() { f64::NAN } else { found.next().unwrap_or(f64::NAN) }).collect())
}

fn deviations_of_numbers(values: &[f64], window: usize) -> Vec<f64> {
    let points = values.len();
    let mut out = vec![0.0; points];
    if points < 3 {
        return out;
    }
    let window = window.min((points - 1) / 2 * 2 + 1);
    median::rolling(values, window, &mut out);
    for (slot, value) in out.iter_mut().zip(values) {
        let distance = (value - *slot).abs();
        // Infinity beside a median of infinity.
        *slot = if distance.is_nan() { 0.0 } else { distance };
    }
    let floor = (FLOOR * standard_deviation(values)).max(f64::MIN_POSITIVE);
    let half = window / 2;
    let mut spreads = Vec::with_capacity(points / (half + 1) + 1);
    let mut buffer = Vec::with_capacity(window);
    for from in (0..points).step_by(half + 1) {
        let start = (from + half.div_ceil(2)).saturating_sub(half).min(points - window);
        buffer.clear();
        // Distances are not negative: their bits sort as they do.
        buffer.extend(out[start..start + window].iter().map(|d| d.to_bits()));
        let (_, middle, _) = buffer.select_nth_unstable(half);
        let median = f64::from_bits(*middle);
        // Where most values are one, the others may still be usual (Iglewicz and Hoaglin).
        spreads.push(if median > 0.0 {
            MAD_TO_SIGMA * median
        } else {
            let mean = out[start..start + window].iter().sum::<f64>() / window as f64;
            MEAN_TO_SIGMA * mean
        });
    }
    for (block, spread) in out.chunks_mut(half + 1).zip(spreads) {
        let noise = (spread + floor).min(f64::MAX);
        block.iter_mut().for_each(|d| *d /= noise);
    }
    out
}

/// Of the finite values; finite itself.
fn standard_deviation(values: &[f64]) -> f64 {
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    let largest = fold_lanes(values, |m: f64, v| m.max(finite(v).abs()), f64::max);
    let unit = 1.0 / largest.max(f64::MIN_POSITIVE);
    let count = values.len().max(1) as f64;
    // Divided by the largest, nothing overflows.
    let mean = fold_lanes(values, |s, v| s + finite(v) * unit, |a, b| a + b) / count;
    let square = |s: f64, v: f64| {
        let d = finite(v) * unit - mean;
        s + d * d
    };
    ((fold_lanes(values, square, |a, b| a + b) / count).sqrt() * largest).min(f64::MAX)
}

/// A fold in eight lanes, which the compiler can make vectors of.
fn fold_lanes(values: &[f64], step: impl Fn(f64, f64) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, value);
    }
    lanes.into_iter().reduce(join).unwrap_or(0.0)
}

/// About the median of the whole: of evenly spaced values.
fn level(values: &[f64]) -> f64 {
    let step = values.len().div_ceil(LEVEL_SAMPLES).max(1);
    let mut some: Vec<f64> = values.iter().copied().step_by(step).collect();
    let middle = some.len() / 2;
    if some.is_empty() { 0.0 } else { *some.select_nth_unstable_by(middle, f64::total_cmp).1 }
}

fn pick_numbers(values: &[f64], options: &Options) -> Picked {
    let points = values.len();
    let scores = deviations_of_numbers(values, options.window);
    let hot: Vec<u32> =
        (0u32..).zip(&scores).filter(|&(_, &s)| s > options.threshold).map(|(i, _)| i).collect();
    if points <= options.points_max && options.fill {
        return Picked { kept: (0..points as u32).collect(), dropped: Vec::new() };
    }
    let mut worth = vec![0f32; points];
    if options.fill || hot.len().saturating_mul(1 + 2 * options.neighbours) > options.points_max {
        windows::add_worth(|i| scores[i], &mut worth);
    }
    if options.fill {
        let level = level(values);
        windows::add_worth(|i| (values[i] - level).abs(), &mut worth);
    }
    let mut taken = Taken { marks: vec![false; points], left: options.points_max.min(points) };
    keep_anomalies(&hot, &scores, &worth, options, &mut taken);
    if options.fill {
        fill(&scores, &worth, &mut taken);
    }
    let dropped = hot.into_iter().filter(|&i| !taken.marks[i as usize]).collect();
    let kept = (0u32..).zip(&taken.marks).filter(|&(_, &mark)| mark).map(|(i, _)| i).collect();
    Picked { kept, dropped }
}

struct Taken {
    marks: Vec<bool>,
    left: usize,
}

impl Taken {
    fn take(&mut self, index: usize) {
        if self.left > 0 && !self.marks[index] {
            self.marks[index] = true;
            self.left -= 1;
        }
    }
}

/// The peak of each run of anomalies first, the most worthy ahead; then, unless the rest is filled by worth, the others by their
/// deviation; then the neighbours of what was kept.
fn keep_anomalies(hot: &[u32], scores: &[f64], worth: &[f32], options: &Options, taken: &mut Taken) {
    let score = |i: &u32| scores[*i as usize];
    let mut peaks: Vec<u32> = hot
        .chunk_by(|a, b| a + 1 == *b)
        .filter_map(|run| {
            run.iter().copied().reduce(|best, i| if score(&i) > score(&best) { i } else { best })
        })
        .collect();
    let room = if options.fill { taken.left / 2 } else { taken.left };
    peaks.sort_by(|&a, &b| worth[b as usize].total_cmp(&worth[a as usize]).then(a.cmp(&b)));
    let mut order = peaks;
    if !options.fill {
        let mut others = hot.to_vec();
        others.sort_by(|a, b| score(b).total_cmp(&score(a)));
        order.extend(others);
    }
    let end = taken.left - room;
    for &index in &order {
        if taken.left > end {
            taken.take(index as usize);
        }
    }
    for &index in &order {
        let index = index as usize;
        let last = index.saturating_add(options.neighbours).min(scores.len() - 1);
        for beside in index.saturating_sub(options.neighbours)..=last {
            if taken.left > end && taken.marks[index] {
                taken.take(beside);
            }
        }
    }
}

/// What is worth most of what is not yet taken; where nothing is worth anything, what deviates most.
fn fill(scores: &[f64], worth: &[f32], taken: &mut Taken) {
    // Rank above, index below: one word is chosen from at twice the speed of a pair.
    let packed = |rank: u32, index: u32| u64::from(!rank) << 32 | u64::from(index);
    let open = |marks: &[bool], wanted: &dyn Fn(f32) -> bool| -> Vec<u32> {
        let all = (0u32..).zip(worth);
        all.filter(|&(i, &w)| wanted(w) && !marks[i as usize]).map(|(i, _)| i).collect()
    };
    let word = |i: u32| packed(worth[i as usize].to_bits(), i);
    let least = likely_least(worth, taken.left);
    let mut best = open(&taken.marks, &|w| w >= least);
    if best.len() < taken.left {
        best = open(&taken.marks, &|w| w > 0.0);
    }
    let mut best: Vec<u64> = best.into_iter().map(word).collect();
    let mut rest: Vec<u64> = Vec::new();
    if best.len() < taken.left {
        let worthless = open(&taken.marks, &|w| w <= 0.0);
        rest = worthless.into_iter().map(|i| packed((scores[i as usize] as f32).to_bits(), i)).collect();
    }
    for list in [&mut best, &mut rest] {
        if taken.left < list.len() && taken.left > 0 {
            list.select_nth_unstable(taken.left - 1);
        }
        for &word in list.iter().take(taken.left) {
            taken.take(word as u32 as usize);
        }
    }
}

/// A worth that more points than `wanted` are likely to have, and not many more: so the choice is among few. Above 0.
fn likely_least(worth: &[f32], wanted: usize) -> f32 {
    let step = worth.len().div_ceil(WORTH_SAMPLES).max(1);
    let mut some: Vec<f32> = worth.iter().copied().step_by(step).collect();
    // A quarter more, and what chance may take.
    let place = wanted / step * 5 / 4 + 16;
    match some.len().checked_sub(place + 1) {
        Some(from_below) => some.select_nth_unstable_by(from_below, f32::total_cmp).1.max(f32::MIN_POSITIVE),
        None => f32::MIN_POSITIVE,
    }
}

#[cfg(test)]
mod tests;
