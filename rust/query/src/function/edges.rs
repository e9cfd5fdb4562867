//! `anchored` and `smoothed` range vectors: the value at a window's edges comes from the samples around
//! them, and nothing is extrapolated (Prometheus' proposal 52).

use crate::function::rate::{Extrapolated, is_change, is_reset};
use crate::function::sliding::Sliding;
use crate::function::{Window, starts};
use crate::syntax::tree::Extension;

/// Functions that know the edges, as the refusal of the others names them.
const ANCHORED: &str = "changes, delta, increase, rate, resets";
const SMOOTHED: &str = "delta, increase, rate";

/// Fails, in Prometheus' words, where a function does not take such a range vector.
pub fn check(extension: Extension, function: &str, sliding: Sliding) -> Result<(), String> {
    let (word, known, fits) = match extension {
        Extension::Anchored => {
            let counts = matches!(sliding, Sliding::Resets | Sliding::Changes);
            ("anchored", ANCHORED, counts || matches!(sliding, Sliding::Extrapolated(_)))
        }
        Extension::Smoothed => ("smoothed", SMOOTHED, matches!(sliding, Sliding::Extrapolated(_))),
    };
    if fits {
        return Ok(());
    }
    Err(format!("{word} modifier can only be used with: {known} - not with {function}"))
}

/// The function over `(start, end]`. The window's columns hold the samples of the lookback before `start`
/// too, and when smoothed those of the lookback after `end`. An anchored window begins with the last
/// sample at or before its start; a smoothed one begins and ends on the line between the samples around
/// its edges. Where there is none, the nearest sample inside stands in. `None` without samples to go by.
pub fn eval(w: &Window<'_>, extension: Extension, sliding: Sliding) -> Option<f64> {
    let first = w.timestamps.partition_point(|t| *t <= w.start).saturating_sub(1);
    let newest = w.timestamps.len().checked_sub(1)?;
    let last = match extension {
        Extension::Anchored => newest,
        Extension::Smoothed => w.timestamps.partition_point(|t| *t < w.end).min(newest),
    };
    if w.timestamps[last] <= w.start || w.timestamps[first] > w.end {
        return None;
    }
    let count = |what: &dyn Fn(usize) -> bool| (first + 1..=last).filter(|&i| what(i)).count() as f64;
    let kind = match sliding {
        Sliding::Resets => {
            return Some(count(&|i| starts::is_reset(w.timestamps, w.values, w.starts, i)));
        }
        Sliding::Changes => return Some(count(&|i| is_change(w.values[i - 1], w.values[i]))),
        Sliding::Extrapolated(kind) => kind,
        _ => return None,
    };
    let counter = kind != Extrapolated::Delta;
    let left = match extension {
        Extension::Smoothed if w.timestamps[first] < w.start => between(w, first, w.start, counter),
        _ => w.values[first],
    };
    let right = match extension {
        Extension::Smoothed if w.timestamps[last] > w.end => between(w, last - 1, w.end, counter),
        _ => w.values[last],
    };
    let mut gain = right - left;
    if counter {
        let inner = w.values.get(first + 1..last).unwrap_or(&[]);
        let mut before = left;
        for &v in inner.iter().chain([&right]) {
            if is_reset(before, v) {
                gain += before;
            }
            before = v;
        }
    }
    Some(if kind == Extrapolated::Rate { gain / ((w.end - w.start) as f64 / 1000.0) } else { gain })
}

/// The value at time `t` on the line between sample `i` and the next one. A counter that was reset in
/// between is thought to have climbed from zero all the way.
fn between(w: &Window<'_>, i: usize, t: i64, counter: bool) -> f64 {
    let (Some(&[t0, t1]), Some(&[v0, v1])) = (w.timestamps.get(i..i + 2), w.values.get(i..i + 2)) else {
        return w.values[i];
    };
    let from = if counter && is_reset(v0, v1) { 0.0 } else { v0 };
    interpolate((t0, from), (t1, v1), t)
}

/// The value at time `t` on the line through two samples of different times.
pub fn interpolate((t0, v0): (i64, f64), (t1, v1): (i64, f64), t: i64) -> f64 {
    v0 + (v1 - v0) * ((t - t0) as f64 / (t1 - t0) as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use Extension::{Anchored, Smoothed};

    const INCREASE: Sliding = Sliding::Extrapolated(Extrapolated::Increase);
    const DELTA: Sliding = Sliding::Extrapolated(Extrapolated::Delta);

    /// Samples 15 s apart from 0 on; the window in seconds.
    fn over(values: &[f64], (start, end): (i64, i64), extension: Extension, what: Sliding) -> Option<f64> {
        let timestamps: Vec<i64> = (0..values.len() as i64).map(|i| i * 15_000).collect();
        let after = if extension == Smoothed { 300_000 } else { 0 };
        let high = timestamps.partition_point(|t| *t <= end * 1000 + after);
        let (start, end) = (start * 1000, end * 1000);
        let (timestamps, values) = (&timestamps[..high], &values[..high]);
        eval(&Window { timestamps, values, starts: &[], start, end, at: end, args: &[] }, extension, what)
    }

    const CLIMB: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 11.0, 12.0, 13.0];

    #[test]
    fn anchored_windows_take_samples_as_they_are() {
        assert_eq!(over(&CLIMB, (-55, 5), Anchored, INCREASE), Some(0.0));
        assert_eq!(over(&CLIMB, (5, 65), Anchored, INCREASE), Some(4.0));
        assert_eq!(over(&CLIMB, (20, 80), Anchored, INCREASE), Some(7.0));
        assert_eq!(over(&CLIMB, (15, 75), Anchored, Sliding::Changes), Some(4.0));
        assert_eq!(over(&CLIMB, (140, 150), Anchored, INCREASE), None);
        assert_eq!(over(&[3.0, 2.0, 1.0], (0, 30), Anchored, Sliding::Resets), Some(2.0));
    }

    #[test]
    fn smoothed_windows_end_on_the_line_between_samples() {
        let smoothed = |window| over(&CLIMB, window, Smoothed, INCREASE).unwrap();
        assert!((smoothed((-25, 35)) - (3.0 + 1.0 / 3.0 - 1.0)).abs() < 1e-12);
        assert!((smoothed((35, 95)) - 7.0).abs() < 1e-12);
        // Past the last sample nothing is known: it stands for the edge.
        assert_eq!(smoothed((120, 180)), 1.0);
        assert_eq!(over(&CLIMB, (-10, -5), Smoothed, INCREASE), None);
    }

    #[test]
    fn a_reset_at_an_edge_climbs_from_zero() {
        // 100 falls to 10 within 15 s: at 2 s it is taken for 10 * 2/15, at 12 s for 10 * 12/15.
        let gain = over(&[100.0, 10.0], (2, 12), Smoothed, INCREASE).unwrap();
        assert!((gain - 100.0 / 15.0).abs() < 1e-12);
        let fall = over(&[100.0, 10.0], (0, 15), Smoothed, DELTA).unwrap();
        assert_eq!(fall, -90.0);
        // A reset inside adds what was reached before.
        assert_eq!(over(&[8.0, 9.0, 2.0], (0, 30), Smoothed, INCREASE), Some(3.0));
    }

    #[test]
    fn other_functions_are_refused() {
        assert!(check(Anchored, "resets", Sliding::Resets).is_ok());
        assert_eq!(
            check(Smoothed, "resets", Sliding::Resets).unwrap_err(),
            "smoothed modifier can only be used with: delta, increase, rate - not with resets"
        );
        assert_eq!(
            check(Anchored, "max_over_time", Sliding::Max).unwrap_err(),
            "anchored modifier can only be used with: changes, delta, increase, rate, resets - not with \
             max_over_time"
        );
    }
}
