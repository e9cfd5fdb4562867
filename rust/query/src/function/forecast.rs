//! Trends of one series over a window.

use crate::function::Window;
use crate::function::compensated::Sum;

/// Least squares through the samples: slope per second, and the value at `origin` (ms). `None` under two
/// samples. A constant series has slope 0 whatever rounding says; an infinite one has none (NaN).
fn regression(w: &Window<'_>, origin: i64) -> Option<(f64, f64)> {
    let (&first, rest) = w.values.split_first()?;
    if rest.is_empty() {
        return None;
    }
    if rest.iter().all(|v| *v == first) {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) });
    }
    let n = w.values.len() as f64;
    let (mut x, mut y, mut xy, mut xx) = (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for (t, v) in w.timestamps.iter().zip(w.values) {
        let at = (t - origin) as f64 / 1000.0;
        x.add(at);
        y.add(*v);
        xy.add(at * v);
        xx.add(at * at);
    }
    let [x, y, xy, xx] = [x, y, xy, xx].map(|s| s.high + s.low);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    Some((slope, y / n - slope * x / n))
}

/// Slope per second. Times count from the first sample: small numbers lose nothing.
pub fn deriv(w: &Window<'_>) -> Option<f64> {
    regression(w, *w.timestamps.first()?).map(|(slope, _)| slope)
}

/// The regression's value `args[0]` seconds after the evaluation time.
pub fn predict_linear(w: &Window<'_>) -> Option<f64> {
    let ahead = *w.args.first()?;
    regression(w, w.at).map(|(slope, value)| slope * ahead + value)
}

/// What is wrong with smoothing factors, in Prometheus' words.
pub fn check_smoothing(args: &[f64]) -> Result<(), String> {
    for (factor, what) in args.iter().zip(["smoothing", "trend"]) {
        if *factor <= 0.0 || *factor >= 1.0 {
            return Err(format!(
                "invalid {what} factor. Expected: 0 < {}f < 1, got: {factor:.6}",
                &what[..1]
            ));
        }
    }
    Ok(())
}

/// Holt's linear smoothing with the factors of level and trend; `None` under two samples.
pub fn double_exponential_smoothing(w: &Window<'_>) -> Option<f64> {
    let (&[level_factor, trend_factor], &[first, second, ..]) = (w.args, w.values) else { return None };
    let (mut before, mut level, mut trend) = (0.0, first, second - first);
    for (i, v) in w.values.iter().enumerate().skip(1) {
        if i > 1 {
            trend = trend_factor * (level - before) + (1.0 - trend_factor) * trend;
        }
        let next = level_factor * v + (1.0 - level_factor) * (level + trend);
        (before, level) = (level, next);
    }
    Some(level)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::function::test::window;
    use proptest::prelude::*;

    #[test]
    fn a_straight_line_is_found_exactly() {
        let values: Vec<f64> = (0..11).map(|i| f64::from(i) * 80.0).collect();
        assert_eq!(deriv(&window(&values)), Some(8.0));
        let w = Window { args: &[3600.0], at: 110_000, ..window(&values) };
        assert!((predict_linear(&w).unwrap() - (800.0 + 3600.0 * 8.0)).abs() < 1e-9);
    }

    #[test]
    fn constants_infinities_and_single_samples() {
        assert_eq!(deriv(&window(&[493.1, 493.1, 493.1])), Some(0.0));
        assert!(deriv(&window(&[f64::INFINITY, f64::INFINITY])).unwrap().is_nan());
        assert!(deriv(&window(&[1.0, f64::INFINITY])).unwrap().is_nan());
        assert_eq!(deriv(&window(&[1.0])), None);
        assert_eq!(double_exponential_smoothing(&Window { args: &[0.5, 0.5], ..window(&[1.0]) }), None);
    }

    #[test]
    fn smoothing_by_hand() {
        // Level 1, trend 1; then 0.5*2 + 0.5*(1+1) = 2; trend 0.5*1 + 0.5*1 = 1; 0.5*5 + 0.5*3 = 4.
        let w = window(&[1.0, 2.0, 5.0]);
        assert_eq!(double_exponential_smoothing(&Window { args: &[0.5, 0.5], ..w }), Some(4.0));
    }

    #[test]
    fn factors_outside_the_open_unit_interval_are_refused() {
        assert!(check_smoothing(&[0.1, 0.9]).is_ok());
        assert_eq!(
            check_smoothing(&[0.1, 1.0]).unwrap_err(),
            "invalid trend factor. Expected: 0 < tf < 1, got: 1.000000"
        );
        assert_eq!(
            check_smoothing(&[0.0, 0.5]).unwrap_err(),
            "invalid smoothing factor. Expected: 0 < sf < 1, got: 0.000000"
        );
    }

    proptest! {
        /// Deviations from the means: another formula for the same slope.
        #[test]
        fn regression_agrees_with_centred_sums(values in prop::collection::vec(-1e4..1e4f64, 2..80)) {
            let n = values.len() as f64;
            let xs: Vec<f64> = (0..values.len()).map(|i| i as f64 * 10.0).collect();
            let (mx, my) = (xs.iter().sum::<f64>() / n, values.iter().sum::<f64>() / n);
            let num: f64 = xs.iter().zip(&values).map(|(x, y)| (x - mx) * (y - my)).sum();
            let den: f64 = xs.iter().map(|x| (x - mx) * (x - mx)).sum();
            let slope = deriv(&window(&values)).unwrap();
            prop_assert!((slope - num / den).abs() < 1e-7, "{} {}", slope, num / den);
        }
    }
}
