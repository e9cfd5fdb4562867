//! Differences over a window: with counter resets taken out, and extrapolated to the window's ends by
//! Prometheus' rules.

use crate::function::{Window, starts};

/// The three that extrapolate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extrapolated {
    /// Of a counter, per second.
    Rate,
    /// Of a counter.
    Increase,
    /// Of a gauge.
    Delta,
}

/// A gap to the window's end wider than this many average intervals: the series began or ended inside.
const GAP_INTERVALS_MAX: f64 = 1.1;

/// The samples at both ends of a window, and the window; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub first: i64,
    pub last: i64,
    pub count: usize,
    /// The first sample's value.
    pub value: f64,
    /// When the first sample's counter began; 0 where that is not known.
    pub since: i64,
    /// Exclusive.
    pub start: i64,
    pub end: i64,
}

impl Ends {
    pub fn of(w: &Window<'_>) -> Option<Ends> {
        Some(Ends {
            first: *w.timestamps.first()?,
            last: *w.timestamps.last()?,
            count: w.timestamps.len(),
            value: *w.values.first()?,
            since: w.starts.first().copied().unwrap_or(0),
            start: w.start,
            end: w.end,
        })
    }
}

/// Stretches `gain` (last minus first sample, resets added) over the window. A series that begins or ends
/// inside is thought to go on for half an interval; a counter never to below zero. One that is known to have
/// begun inside counts from zero then. `None` under two samples otherwise. Divisions are what this costs: one in
/// the common case.
#[inline]
pub fn extrapolate(w: &Ends, kind: Extrapolated, gain: f64) -> Option<f64> {
    let &Ends { first, last, value, .. } = w;
    if w.since != 0 && w.since > w.start && w.since < first && kind != Extrapolated::Delta {
        return Some(from_zero(w, kind, gain + value));
    }
    if w.count < 2 {
        return None;
    }
    let sampled = (last - first) as f64;
    let intervals = (w.count - 1) as f64;
    let gap = |ms: i64| gap(ms, sampled, intervals);
    let mut before = gap(first - w.start);
    // A gap is at most 1.1 times `sampled`: zero can only lie in it under a gain as large as the value.
    if kind != Extrapolated::Delta && gain > 0.0 && value >= 0.0 && value < 2.0 * gain {
        before = before.min(sampled * (value / gain));
    }
    let stretched = sampled + before + gap(w.end - last);
    Some(match kind {
        Extrapolated::Rate => gain * (stretched * 1000.0 / (sampled * (w.end - w.start) as f64)),
        Extrapolated::Increase | Extrapolated::Delta => gain * (stretched / sampled),
    })
}

/// How many of the milliseconds between a window's end and the sample next to it the series is thought to go on.
#[inline]
fn gap(ms: i64, sampled: f64, intervals: f64) -> f64 {
    let (gap, border) = (ms as f64 * intervals, sampled * GAP_INTERVALS_MAX);
    let wide = if (gap - border).abs() > border * 1e-9 {
        gap > border
    } else {
        // On the border Prometheus' own rounding decides.
        ms as f64 / 1000.0 >= sampled / 1000.0 / intervals * GAP_INTERVALS_MAX
    };
    if wide { sampled / intervals / 2.0 } else { ms as f64 }
}

/// `gain` counts from zero at the start of the first sample's counter, inside the window. After a single sample
/// nothing says how long the series goes on.
fn from_zero(w: &Ends, kind: Extrapolated, gain: f64) -> f64 {
    let after = match w.count {
        0 | 1 => 0.0,
        n => gap(w.end - w.last, (w.last - w.first) as f64, (n - 1) as f64),
    };
    let sampled = (w.last - w.since) as f64;
    let increase = gain * ((sampled + after) / sampled);
    match kind {
        Extrapolated::Rate => increase * 1000.0 / (w.end - w.start) as f64,
        Extrapolated::Increase | Extrapolated::Delta => increase,
    }
}

fn difference(w: &Window<'_>) -> Option<f64> {
    Some(w.values.last()? - w.values.first()?)
}

/// Last minus first, plus the value before each reset, in this order.
fn counter_gain(w: &Window<'_>) -> Option<f64> {
    let resets = (1..w.values.len()).filter(|&i| starts::is_reset(w.timestamps, w.values, w.starts, i));
    Some(resets.fold(difference(w)?, |gain, i| gain + w.values[i - 1]))
}

pub fn rate(w: &Window<'_>) -> Option<f64> {
    extrapolate(&Ends::of(w)?, Extrapolated::Rate, counter_gain(w)?)
}

pub fn increase(w: &Window<'_>) -> Option<f64> {
    extrapolate(&Ends::of(w)?, Extrapolated::Increase, counter_gain(w)?)
}

pub fn delta(w: &Window<'_>) -> Option<f64> {
    extrapolate(&Ends::of(w)?, Extrapolated::Delta, difference(w)?)
}

/// The last two samples and the seconds between them.
fn last_two(w: &Window<'_>) -> Option<(f64, f64, f64)> {
    let (&[.., t0, t1], &[.., v0, v1]) = (w.timestamps, w.values) else { return None };
    (t1 > t0).then(|| (v0, v1, (t1 - t0) as f64 / 1000.0))
}

/// Per second, from the last two samples; after a reset the counter counts from zero.
pub fn irate(w: &Window<'_>) -> Option<f64> {
    let (before, last, seconds) = last_two(w)?;
    let newest = w.values.len() - 1;
    let gain = match starts::is_reset(w.timestamps, w.values, w.starts, newest) {
        true => last,
        false => last - before,
    };
    Some(gain / seconds)
}

pub fn idelta(w: &Window<'_>) -> Option<f64> {
    last_two(w).map(|(before, last, _)| last - before)
}

/// Whether the counter started again between these two samples.
#[inline]
pub fn is_reset(before: f64, after: f64) -> bool {
    after < before
}

/// Whether the value changed; from NaN to NaN it did not.
pub fn is_change(before: f64, after: f64) -> bool {
    after != before && !(after.is_nan() && before.is_nan())
}

pub fn resets(w: &Window<'_>) -> Option<f64> {
    let is_reset = |&i: &usize| starts::is_reset(w.timestamps, w.values, w.starts, i);
    Some((1..w.values.len()).filter(is_reset).count() as f64)
}

pub fn changes(w: &Window<'_>) -> Option<f64> {
    Some(w.values.windows(2).filter(|pair| is_change(pair[0], pair[1])).count() as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::function::test::window;

    fn close(a: Option<f64>, b: f64) {
        let a = a.unwrap();
        assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} {b}");
    }

    #[test]
    fn a_window_full_of_samples_is_stretched_to_its_ends() {
        // Samples at 10..50 s in (0, 60]: both gaps are 10 s, within 1.1 intervals.
        let w = Window { end: 60_000, ..window(&[100.0, 110.0, 120.0, 130.0, 140.0]) };
        close(increase(&w), 60.0);
        close(rate(&w), 1.0);
        close(delta(&w), 60.0);
    }

    #[test]
    fn a_series_that_began_or_ended_inside_gets_half_an_interval() {
        let w = Window { start: -100_000, end: 100_000, ..window(&[100.0, 110.0, 120.0]) };
        close(increase(&w), 30.0);
        close(rate(&w), 30.0 / 200.0);
    }

    #[test]
    fn a_gap_of_exactly_the_threshold_counts_as_wide() {
        let w = Window { start: -1000, ..window(&[100.0, 110.0, 120.0]) };
        close(delta(&w), 25.0);
        let w = Window { start: -999, ..w };
        close(delta(&w), 20.0 + 10.999);
    }

    #[test]
    fn counters_are_not_extrapolated_below_zero() {
        let w = window(&[2.0, 12.0, 22.0]);
        close(increase(&w), 22.0);
        close(delta(&w), 30.0);
        // A negative first value is no counter: the rule is off.
        close(increase(&window(&[-2.0, 8.0, 18.0])), 30.0);
    }

    #[test]
    fn resets_add_what_the_counter_had_reached() {
        let w = window(&[100.0, 110.0, 5.0, 15.0, 3.0]);
        close(increase(&w), (3.0 - 100.0 + 110.0 + 15.0) * 50.0 / 40.0);
        assert_eq!(resets(&w), Some(2.0));
        close(delta(&w), -97.0 * 50.0 / 40.0);
    }

    #[test]
    fn the_instant_forms_look_at_two_samples() {
        let w = window(&[0.0, 100.0, 50.0]);
        assert_eq!(irate(&w), Some(5.0));
        assert_eq!(idelta(&w), Some(-50.0));
        assert_eq!(irate(&window(&[1.0])), None);
        assert_eq!(rate(&window(&[1.0])), None);
    }

    #[test]
    fn a_counter_that_began_inside_counts_from_zero() {
        // Samples at 10, 20 and 30 s in (0, 30]; the counter began at 5 s.
        let w = Window { starts: &[5000; 3], ..window(&[4.0, 6.0, 9.0]) };
        close(increase(&w), 9.0);
        close(rate(&w), 0.3);
        close(delta(&w), 5.0 * 30.0 / 20.0);
        // One sample is enough then, and nothing is added to its right.
        let one = Window { starts: &[5000], end: 12_000, ..window(&[4.0]) };
        close(increase(&one), 4.0);
        // Where it began at the window's edge, or not before the sample, nothing is known.
        for since in [0, 10_000] {
            assert_eq!(increase(&Window { starts: &[since], ..one }), None);
            let known = Window { starts: &[since, since, since], ..w };
            close(increase(&known), increase(&Window { starts: &[], ..w }).unwrap());
        }
    }

    #[test]
    fn a_reset_that_ends_higher_is_seen_by_its_start() {
        let w = Window { starts: &[-500, -500, 25_000], ..window(&[100.0, 110.0, 120.0]) };
        close(increase(&w), 130.0 * 30.0 / 20.0);
        assert_eq!((irate(&w), resets(&w), idelta(&w)), (Some(12.0), Some(1.0), Some(10.0)));
    }

    #[test]
    fn nan_changes_once() {
        let nan = f64::NAN;
        assert_eq!(changes(&window(&[1.0, nan, nan, 1.0, 1.0])), Some(2.0));
        assert_eq!(resets(&window(&[1.0, nan, 0.0])), Some(0.0));
        assert_eq!(changes(&window(&[1.0])), Some(0.0));
    }
}
