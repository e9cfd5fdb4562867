//! Aggregations of one series over a window. Windows are never empty.

use crate::function::Window;
use crate::function::compensated::{Variance, exact_sum, two_sum};
use crate::function::exact::{Exact, certain};
use crate::function::quantile;

/// The exact sum, rounded once: however the windows before were summed, it is the same bits.
pub fn sum(w: &Window<'_>) -> Option<f64> {
    Some(sum_of(w.values).unwrap_or_else(|| exact_of(w.values).value()))
}

/// The exact sum, rounded once, over the number of samples.
pub fn avg(w: &Window<'_>) -> Option<f64> {
    let mean = |sum: f64| sum / w.values.len() as f64;
    Some(sum_of(w.values).map(mean).unwrap_or_else(|| exact_of(w.values).mean()))
}

/// `None` where that takes more than doubles.
fn sum_of(values: &[f64]) -> Option<f64> {
    if let Some(sum) = exact_sum(values) {
        return Some(sum);
    }
    let (&first, rest) = values.split_first()?;
    let (mut high, mut low, mut lost) = (first, 0.0, 0.0);
    for &v in rest {
        let (sum, error) = two_sum(high, v);
        (high, low, lost) = (sum, low + error, lost + error.abs());
    }
    certain(high, low, lost, values.len() as f64)
}

#[cold]
fn exact_of(values: &[f64]) -> Exact {
    let mut sum = Exact::default();
    values.iter().for_each(|v| sum.add(*v));
    sum
}

pub fn count(w: &Window<'_>) -> Option<f64> {
    Some(w.values.len() as f64)
}

pub fn present(_: &Window<'_>) -> Option<f64> {
    Some(1.0)
}

pub fn first(w: &Window<'_>) -> Option<f64> {
    w.values.first().copied()
}

pub fn last(w: &Window<'_>) -> Option<f64> {
    w.values.last().copied()
}

/// True where `value` takes over from the best so far; a NaN only stays while nothing else came.
type Takes = fn(f64, f64) -> bool;

fn best(w: &Window<'_>, takes: Takes) -> Option<usize> {
    let (&first, _) = w.values.split_first()?;
    let mut best = (0, first);
    for (i, &v) in w.values.iter().enumerate().skip(1) {
        if takes(v, best.1) || best.1.is_nan() {
            best = (i, v);
        }
    }
    Some(best.0)
}

pub fn min(w: &Window<'_>) -> Option<f64> {
    best(w, |v, best| v < best).map(|i| w.values[i])
}

pub fn max(w: &Window<'_>) -> Option<f64> {
    best(w, |v, best| v > best).map(|i| w.values[i])
}

/// Population variance.
pub fn stdvar(w: &Window<'_>) -> Option<f64> {
    let mut variance = Variance::default();
    w.values.iter().for_each(|v| variance.add(*v));
    Some(variance.value())
}

pub fn stddev(w: &Window<'_>) -> Option<f64> {
    stdvar(w).map(f64::sqrt)
}

pub fn quantile(w: &Window<'_>) -> Option<f64> {
    let q = *w.args.first()?;
    Some(quantile::quantile(q, &mut w.values.to_vec()))
}

/// Median of the absolute deviations from the median.
pub fn mad(w: &Window<'_>) -> Option<f64> {
    let mut values = w.values.to_vec();
    let median = quantile::quantile(0.5, &mut values);
    values.iter_mut().for_each(|v| *v = (*v - median).abs());
    Some(quantile::quantile(0.5, &mut values))
}

fn seconds(w: &Window<'_>, i: usize) -> Option<f64> {
    w.timestamps.get(i).map(|t| *t as f64 / 1000.0)
}

pub fn ts_of_first(w: &Window<'_>) -> Option<f64> {
    seconds(w, 0)
}

pub fn ts_of_last(w: &Window<'_>) -> Option<f64> {
    w.timestamps.last().map(|t| *t as f64 / 1000.0)
}

/// The last time at which the maximum stood.
pub fn ts_of_max(w: &Window<'_>) -> Option<f64> {
    best(w, |v, best| v >= best).and_then(|i| seconds(w, i))
}

/// The last time at which the minimum stood.
pub fn ts_of_min(w: &Window<'_>) -> Option<f64> {
    best(w, |v, best| v <= best).and_then(|i| seconds(w, i))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::function::test::window;

    const NAN: f64 = f64::NAN;

    #[test]
    fn nan_gives_way_in_min_and_max_only() {
        let v = [NAN, 3.0, 1.0, NAN, 2.0];
        assert_eq!(min(&window(&v)), Some(1.0));
        assert_eq!(max(&window(&v)), Some(3.0));
        assert!(min(&window(&[NAN, NAN])).unwrap().is_nan());
        assert!(sum(&window(&v)).unwrap().is_nan());
        assert!(avg(&window(&v)).unwrap().is_nan());
        assert_eq!(last(&window(&v)), Some(2.0));
        assert_eq!(count(&window(&v)), Some(5.0));
    }

    #[test]
    fn a_mean_does_not_overflow() {
        assert_eq!(avg(&window(&[f64::MAX, f64::MAX, f64::MAX])), Some(f64::MAX));
        let mean = avg(&window(&[9.98e307, 9.97e307, -9.97e307, 9.96e307, 9.99e307])).unwrap();
        assert!((mean / 5.986e307 - 1.0).abs() < 1e-12);
        assert_eq!(avg(&window(&[1.0, f64::INFINITY, 3.0])), Some(f64::INFINITY));
        assert!(avg(&window(&[f64::INFINITY, f64::NEG_INFINITY])).unwrap().is_nan());
    }

    #[test]
    fn the_last_extreme_gives_the_time() {
        let v = [NAN, 3.0, 1.0, 3.0, 1.0, 2.0];
        assert_eq!(ts_of_max(&window(&v)), Some(40.0));
        assert_eq!(ts_of_min(&window(&v)), Some(50.0));
        assert_eq!(ts_of_first(&window(&v)), Some(10.0));
        assert_eq!(ts_of_last(&window(&v)), Some(60.0));
    }

    #[test]
    fn mad_is_the_median_of_deviations() {
        assert_eq!(mad(&window(&[4.0, 6.0, 2.0, 1.0, 999.0, 1.0, 2.0])), Some(1.0));
    }

    #[test]
    fn variance_of_a_known_list() {
        let v = [0.0, 8.0, 8.0, 2.0, 3.0];
        assert!((stdvar(&window(&v)).unwrap() / 10.56 - 1.0).abs() < 1e-15);
        assert!((stddev(&window(&v)).unwrap() / 10.56f64.sqrt() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn quantile_takes_its_rank_from_the_arguments() {
        let w = Window { args: &[0.75], ..window(&[1.0, 2.0, 4.0]) };
        assert_eq!(quantile(&w), Some(3.0));
    }
}
