//! MetricsQL's `range_*`: functions of all values that one series has over the query's steps.
//!
//! A NaN is a gap here, as it is in MetricsQL. A row without any value stays as it is.

use metricsdb_model::sample::stale;

use crate::function::{Window, WindowFn, forecast, over_time};

/// The row's values without gaps, and their times.
fn values_of(times: &[i64], row: &[f64]) -> (Vec<i64>, Vec<f64>) {
    times.iter().zip(row).filter(|(_, v)| !v.is_nan()).map(|(t, v)| (*t, *v)).unzip()
}

fn window<'w>(times: &'w [i64], values: &'w [f64], args: &'w [f64]) -> Window<'w> {
    let first = times.first().copied().unwrap_or(0);
    Window {
        timestamps: times,
        values,
        starts: &[],
        start: first,
        end: times.last().copied().unwrap_or(0),
        at: first,
        args,
    }
}

/// One number for the whole row, at every step of it.
fn fill(times: &[i64], row: &mut [f64], args: &[f64], function: WindowFn) {
    let (times, values) = values_of(times, row);
    if !values.is_empty()
        && let Some(value) = function(&window(&times, &values, args))
    {
        row.fill(value);
    }
}

/// Takes out the values for which `strays` holds.
fn trim(row: &mut [f64], strays: impl Fn(f64) -> bool) {
    row.iter_mut().filter(|v| strays(**v)).for_each(|v| *v = stale());
}

/// Changes every value.
fn change(row: &mut [f64], to: impl Fn(f64) -> f64) {
    row.iter_mut().filter(|v| !v.is_nan()).for_each(|v| *v = to(*v));
}

pub fn avg(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::avg);
}

pub fn first(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::first);
}

pub fn last(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::last);
}

pub fn mad(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::mad);
}

pub fn max(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::max);
}

pub fn median(times: &[i64], row: &mut [f64], _: &[f64]) {
    fill(times, row, &[0.5], over_time::quantile);
}

pub fn min(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::min);
}

pub fn quantile(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::quantile);
}

/// Of the population.
pub fn stddev(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::stddev);
}

/// Of the population.
pub fn stdvar(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::stdvar);
}

pub fn sum(times: &[i64], row: &mut [f64], args: &[f64]) {
    fill(times, row, args, over_time::sum);
}

/// The least squares line, at every step; through one value a level line.
pub fn linear_regression(times: &[i64], row: &mut [f64], _: &[f64]) {
    let (at, values) = values_of(times, row);
    let (Some(&origin), Some(&only)) = (at.first(), values.first()) else { return };
    let w = window(&at, &values, &[0.0]);
    let line = forecast::deriv(&w).zip(forecast::predict_linear(&w));
    let (slope, level) = line.unwrap_or((0.0, only));
    for (v, t) in row.iter_mut().zip(times) {
        *v = level + slope * ((t - origin) as f64 / 1000.0);
    }
}

/// The smallest value becomes 0, the largest 1; a constant 0.
pub fn normalize(times: &[i64], row: &mut [f64], args: &[f64]) {
    let (times, values) = values_of(times, row);
    let w = window(&times, &values, args);
    let (Some(min), Some(max)) = (over_time::min(&w), over_time::max(&w)) else { return };
    let width = max - min;
    change(row, |v| if width == 0.0 { 0.0 } else { (v - min) / width });
}

/// Distance from the mean in standard deviations: of a constant NaN.
pub fn zscore(times: &[i64], row: &mut [f64], args: &[f64]) {
    let (times, values) = values_of(times, row);
    let w = window(&times, &values, args);
    let (Some(mean), Some(deviation)) = (over_time::avg(&w), over_time::stddev(&w)) else { return };
    change(row, |v| (v - mean) / deviation);
}

/// Without what lies more than `args[0]` standard deviations from the mean.
pub fn trim_zscore(times: &[i64], row: &mut [f64], args: &[f64]) {
    let (times, values) = values_of(times, row);
    let w = window(&times, &values, args);
    let (Some(mean), Some(deviation)) = (over_time::avg(&w), over_time::stddev(&w)) else { return };
    let most = args.first().copied().unwrap_or(f64::NAN) * deviation;
    trim(row, |v| (v - mean).abs() > most);
}

/// Without what lies more than `args[0]` median absolute deviations from the median.
pub fn trim_outliers(times: &[i64], row: &mut [f64], args: &[f64]) {
    let (times, values) = values_of(times, row);
    let w = window(&times, &values, &[0.5]);
    let (Some(median), Some(deviation)) = (over_time::quantile(&w), over_time::mad(&w)) else { return };
    if values.is_empty() {
        return;
    }
    let most = args.first().copied().unwrap_or(f64::NAN) * deviation;
    trim(row, |v| (v - median).abs() > most);
}

/// Without the share `args[0]` of the values: half of it from each end.
pub fn trim_spikes(times: &[i64], row: &mut [f64], args: &[f64]) {
    let half = args.first().copied().unwrap_or(0.0) / 2.0;
    let (times, values) = values_of(times, row);
    let bound = |q: f64| over_time::quantile(&window(&times, &values, &[q])).unwrap_or(f64::NAN);
    let (low, high) = (bound(half), bound(1.0 - half));
    trim(row, |v| v < low || v > high);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAN: f64 = f64::NAN;

    fn of(kernel: crate::function::GridFn, row: &[f64], args: &[f64]) -> Vec<Option<f64>> {
        let times: Vec<i64> = (0..row.len() as i64).map(|i| i * 10_000).collect();
        let mut row = row.to_vec();
        kernel(&times, &mut row, args);
        row.into_iter().map(|v| (!v.is_nan()).then_some(v)).collect()
    }

    #[test]
    fn a_number_of_the_row_stands_at_every_step() {
        let row = [stale(), 4.0, NAN, 2.0, 9.0, stale()];
        for (kernel, value) in [
            (avg as crate::function::GridFn, 5.0),
            (first, 4.0),
            (last, 9.0),
            (mad, 2.0),
            (max, 9.0),
            (median, 4.0),
            (min, 2.0),
            (sum, 15.0),
        ] {
            assert_eq!(of(kernel, &row, &[]), vec![Some(value); 6]);
        }
        assert_eq!(of(quantile, &row, &[0.75]), vec![Some(6.5); 6]);
        assert_eq!(of(avg, &[stale(), NAN], &[]), vec![None; 2]);
    }

    #[test]
    fn a_line_goes_through_gaps() {
        let row = [stale(), 1.0, stale(), 5.0, stale()];
        let found: Vec<f64> = of(linear_regression, &row, &[]).into_iter().flatten().collect();
        for (value, wanted) in found.iter().zip([-1.0, 1.0, 3.0, 5.0, 7.0]) {
            assert!((value - wanted).abs() < 1e-12, "{found:?}");
        }
        assert_eq!(of(linear_regression, &[stale(), 3.0], &[]), [Some(3.0), Some(3.0)]);
        assert_eq!(of(linear_regression, &[stale(), NAN], &[]), [None, None]);
    }

    #[test]
    fn what_strays_is_trimmed() {
        let row = [1.0, 2.0, 3.0, stale(), 2.0, 90.0];
        let kept = [Some(1.0), Some(2.0), Some(3.0), None, Some(2.0), None];
        assert_eq!(of(trim_outliers, &row, &[5.0]), kept);
        assert_eq!(of(trim_zscore, &row, &[1.5]), kept);
        assert_eq!(of(trim_spikes, &row, &[0.4]), [None, Some(2.0), Some(3.0), None, Some(2.0), None]);
        assert_eq!(of(trim_spikes, &row, &[0.0]).iter().flatten().count(), 5);
        assert_eq!(of(trim_zscore, &row, &[NAN]).iter().flatten().count(), 5);
    }

    #[test]
    fn values_are_scaled_to_the_row() {
        assert_eq!(of(normalize, &[2.0, stale(), 6.0, 3.0], &[]), [Some(0.0), None, Some(1.0), Some(0.25)]);
        assert_eq!(of(normalize, &[2.0, 2.0], &[]), [Some(0.0), Some(0.0)]);
        assert_eq!(of(zscore, &[1.0, stale(), 3.0], &[]), [Some(-1.0), None, Some(1.0)]);
    }

    proptest! {
        /// Sorted lists and plain sums instead of the kernels.
        #[test]
        fn rows_agree_with_slow_ones(row in prop::collection::vec(prop_oneof![4 => -1e3..1e3f64, 1 => Just(NAN)], 0..30)) {
            let values: Vec<f64> = row.iter().copied().filter(|v| !v.is_nan()).collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
            let close = |found: Vec<Option<f64>>, wanted: f64| {
                found.len() == row.len() && found.iter().all(|v| match v {
                    Some(v) => (v - wanted).abs() <= 1e-6,
                    None => values.is_empty(),
                })
            };
            prop_assert!(close(of(avg, &row, &[]), mean));
            prop_assert!(close(of(stdvar, &row, &[]), variance));
            prop_assert!(close(of(stddev, &row, &[]), variance.sqrt()));
            prop_assert!(close(of(sum, &row, &[]), values.iter().sum()));
        }
    }
}
