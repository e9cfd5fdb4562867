#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn noise(points: usize) -> Vec<f64> {
    let mut state = 7u64;
    (0..points)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        })
        .collect()
}

/// The definition, slowly: the median and the spread looked up anew for each value.
fn slow_deviations(values: &[f64], window: usize) -> Vec<f64> {
    let n = values.len();
    let window = window.min((n - 1) / 2 * 2 + 1);
    let half = window / 2;
    let median = |from: usize, of: &[f64]| {
        let mut part = of[from..from + window].to_vec();
        part.sort_by(f64::total_cmp);
        part[half]
    };
    let distance: Vec<f64> =
        (0..n).map(|i| (values[i] - median(i.saturating_sub(half).min(n - window), values)).abs()).collect();
    let mean = values.iter().sum::<f64>() / n as f64;
    let sigma = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    (0..n)
        .map(|i| {
            let block = i / (half + 1) * (half + 1);
            let from = (block + half.div_ceil(2)).saturating_sub(half).min(n - window);
            let mean = distance[from..from + window].iter().sum::<f64>() / window as f64;
            let middle = median(from, &distance);
            let spread = if middle > 0.0 { MAD_TO_SIGMA * middle } else { MEAN_TO_SIGMA * mean };
            distance[i] / (spread + FLOOR * sigma).max(f64::MIN_POSITIVE)
        })
        .collect()
}

#[test]
fn a_spike_a_dip_and_a_short_burst_are_kept_among_noise() {
    let mut values = noise(5000);
    values[700] = 9.0;
    values[3000] = -7.0;
    values[4100..4104].copy_from_slice(&[6.0, 9.0, 8.0, 5.0]);
    let alone = Options { points_max: 50, ..Options::default() };
    assert_eq!(
        pick(&values, &alone),
        Ok(Picked { kept: vec![700, 3000, 4100, 4101, 4102, 4103], dropped: vec![] })
    );
    let narrow = Options { points_max: 4, ..alone };
    let few = pick(&values, &narrow).unwrap();
    assert_eq!(few, Picked { kept: vec![700, 3000, 4101, 4102], dropped: vec![4100, 4103] });
    let beside = pick(&values, &Options { neighbours: 1, ..alone }).unwrap();
    assert_eq!(beside.kept, [699, 700, 701, 2999, 3000, 3001, 4099, 4100, 4101, 4102, 4103, 4104]);
    let filled = pick(&values, &Options { fill: true, ..alone }).unwrap();
    assert_eq!(filled.kept.len(), 50);
    assert!([700, 3000, 4101].iter().all(|i| filled.kept.contains(i)));
}

#[test]
fn the_extreme_of_the_whole_is_kept_wherever_it_stands() {
    for at in [0, 1, 7, 250, 598, 599] {
        let mut values = noise(600);
        values[at] = 1.6;
        // A burst of others that are anomalies, too.
        (300..340).step_by(4).for_each(|i| values[i] = 1.4);
        let picked = pick(&values, &Options { points_max: 8, fill: true, ..Options::default() }).unwrap();
        assert!(picked.kept.contains(&(at as u32)), "{at} {:?}", picked.kept);
    }
}

#[test]
fn infinities_are_anomalies_and_markers_are_nothing() {
    let mut values = noise(300);
    values[100] = f64::INFINITY;
    values[200] = f64::NEG_INFINITY;
    values[50] = f64::NAN;
    assert_eq!(pick(&values, &Options::default()).unwrap().kept, [100, 200]);
    let found = deviations(&values, 61).unwrap();
    assert!(found[50].is_nan() && found[100].is_infinite() && found[200].is_infinite());
    assert!(found.iter().enumerate().all(|(i, d)| [50, 100, 200].contains(&i) || d.is_finite()));
    let huge: Vec<f64> = noise(300).iter().map(|v| v * 1.7e308).collect();
    assert!(deviations(&huge, 61).unwrap().iter().all(|d| d.is_finite()));
}

#[test]
fn flat_short_and_empty_series_have_no_anomalies() {
    for values in [vec![], vec![1.0], vec![1.0, 2.0], vec![3.0; 500], vec![f64::NAN; 9]] {
        assert_eq!(pick(&values, &Options::default()), Ok(Picked::default()));
    }
    let step: Vec<f64> = (0..400).map(|i| if i < 200 { 1.0 } else { 2.0 }).collect();
    assert_eq!(pick(&step, &Options::default()), Ok(Picked::default()), "a step is no spike");
    let two_states: Vec<f64> = (0..400).map(|i| if i % 5 == 0 { 2.0 } else { 1.0 }).collect();
    assert_eq!(pick(&two_states, &Options::default()), Ok(Picked::default()), "a state that is usual");
    let rare: Vec<f64> = (0..400).map(|i| if i == 222 { 2.0 } else { 1.0 }).collect();
    assert_eq!(pick(&rare, &Options::default()).unwrap().kept, [222]);
}

#[test]
fn options_that_mean_nothing_are_refused() {
    for window in [0, 1, 2, 60, WINDOW_MAX + 2] {
        assert!(matches!(deviations(&[1.0], window), Err(Error::Input { input, .. }) if input == "window"));
    }
    for threshold in [0.0, -1.0, f64::NAN] {
        let options = Options { threshold, ..Options::default() };
        assert!(matches!(pick(&[1.0], &options), Err(Error::Input { input, .. }) if input == "threshold"));
    }
}

proptest! {
    #[test]
    fn deviations_are_as_defined(values in prop::collection::vec(-5i32..20, 3..200), half in 1usize..40) {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let window = 2 * half + 1;
        for (got, want) in deviations(&values, window).unwrap().iter().zip(slow_deviations(&values, window)) {
            prop_assert!((got - want).abs() <= 1e-9 * want.abs(), "{} {}", got, want);
        }
    }

    #[test]
    fn no_anomaly_vanishes_unreported(
        spikes in prop::collection::btree_map(0usize..900, -1e3f64..1e3, 0..40),
        missing in prop::collection::btree_set(0usize..900, 0..30),
        points_max in 0usize..60, neighbours in 0usize..4, fill: bool,
    ) {
        let mut values = noise(900);
        for (at, height) in spikes {
            values[at] += height;
        }
        for at in missing {
            values[at] = f64::NAN;
        }
        let options = Options { points_max, neighbours, fill, threshold: 4.0, ..Options::default() };
        let picked = pick(&values, &options).unwrap();
        prop_assert!(picked.kept.len() <= points_max);
        prop_assert!(!fill || picked.kept.len() == points_max);
        prop_assert!(picked.kept.is_sorted_by(|a, b| a < b) && picked.dropped.is_sorted_by(|a, b| a < b));
        prop_assert!(picked.kept.iter().all(|&i| !values[i as usize].is_nan()));
        let found = deviations(&values, options.window).unwrap();
        for (at, _) in found.iter().enumerate().filter(|&(_, &d)| d > 4.0) {
            let at = at as u32;
            prop_assert!(picked.kept.contains(&at) != picked.dropped.contains(&at));
        }
    }
}
