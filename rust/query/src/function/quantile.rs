//! Quantiles of plain values.

use std::cmp::Ordering;

/// NaN before every number, as Prometheus sorts values for quantiles. Total, so that the order in which values come
/// makes no difference.
fn nan_first(a: &f64, b: &f64) -> Ordering {
    b.is_nan().cmp(&a.is_nan()).then_with(|| a.total_cmp(b))
}

/// The q-quantile with linear interpolation between the two nearest ranks. NaN without values or for a NaN
/// q, ∓Inf for a q below 0 or above 1. Reorders `values`; linear time.
pub fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let weight = rank - rank.floor();
    let (_, &mut below, rest) = values.select_nth_unstable_by(lower, nan_first);
    let above = rest.iter().copied().min_by(nan_first).unwrap_or(below);
    below * (1.0 - weight) + above * weight
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_quantiles() {
        assert!(quantile(0.5, &mut []).is_nan());
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan());
        assert_eq!(quantile(-0.1, &mut [1.0]), f64::NEG_INFINITY);
        assert_eq!(quantile(1.1, &mut [1.0]), f64::INFINITY);
        assert_eq!(quantile(f64::INFINITY, &mut [1.0]), f64::INFINITY);
        assert_eq!(quantile(0.3, &mut [7.0]), 7.0);
    }

    #[test]
    fn nan_counts_as_the_smallest_value() {
        assert!(quantile(0.0, &mut [2.0, f64::NAN, 1.0]).is_nan());
        assert_eq!(quantile(1.0, &mut [2.0, f64::NAN, 1.0]), 2.0);
        assert_eq!(quantile(0.5, &mut [2.0, f64::NAN, 1.0]), 1.0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(v in prop::collection::vec(-1e9..1e9f64, 1..60), q in 0.0..=1.0f64) {
            let mut sorted = v.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = q * (v.len() - 1) as f64;
            let (low, high) = (rank.floor() as usize, (rank.floor() as usize + 1).min(v.len() - 1));
            let w = rank - rank.floor();
            prop_assert_eq!(quantile(q, &mut v.clone()), sorted[low] * (1.0 - w) + sorted[high] * w);
        }
    }
}
