//! Sums, differences, resets: against histograms of the observations taken together.

use super::*;

#[track_caller]
fn sum(a: &FloatHistogram, b: &FloatHistogram) -> (FloatHistogram, Combined) {
    let mut sum = a.clone();
    let done = sum.add(b).unwrap();
    (sum, done)
}

#[test]
fn hints_of_a_sum() {
    use ResetHint::{Gauge, NotReset, Reset, Unknown};
    let cases = [
        (NotReset, NotReset, NotReset, false),
        (Reset, Reset, Reset, false),
        (Gauge, Reset, Gauge, false),
        (Unknown, Gauge, Gauge, false),
        (Reset, Unknown, Unknown, false),
        (Unknown, NotReset, Unknown, false),
        (Reset, NotReset, Unknown, true),
        (NotReset, Reset, Unknown, true),
    ];
    for (a, b, reset, collision) in cases {
        let with = |reset| FloatHistogram { reset, ..h("count:1 buckets:[1]") };
        let (sum, done) = sum(&with(a), &with(b));
        assert_eq!((sum.reset, done.collision), (reset, collision), "{a:?} {b:?}");
    }
}

#[test]
fn custom_buckets_keep_the_bounds_in_common() {
    let (a, b) = ([1.0, 2.5, 7.0, 30.0], [2.0, 3.0, 11.0]);
    let (x, done) = sum(&custom(&a, &[2.0, 5.0, 10.0]), &custom(&b, &[1.0, 2.0, 10.0]));
    assert!(done.reconciled);
    assert_close(&x, &custom(&[&a[..], &b].concat(), &[2.0, 10.0]));
    let (x, done) = sum(&custom(&a, &[2.0]), &custom(&b, &[3.0]));
    assert!(done.reconciled && x.bounds.is_empty());
    assert_eq!(x.positive.iter().collect::<Vec<_>>(), [(0, 7.0)]);
    let (_, done) = sum(&custom(&a, &[2.0]), &custom(&b, &[2.0]));
    assert!(!done.reconciled);
    let mut exponential = of(&a, 0, 0.0);
    assert_eq!(exponential.add(&custom(&b, &[2.0])), Err(Incompatible));
    assert_close(&exponential, &of(&a, 0, 0.0));
}

#[test]
fn a_zero_bucket_grows_over_the_bucket_that_it_would_cut() {
    // 0.3 cuts the bucket (0.25, 0.5] of the other, so both zero buckets end at 0.5.
    let narrow = of(&[0.1, 0.4, 3.0], 0, 0.0);
    let wide = of(&[0.2, 0.45, -3.0], 0, 0.3);
    let (x, _) = sum(&narrow, &wide);
    assert_close(&x, &of(&[0.1, 0.4, 3.0, 0.2, 0.45, -3.0], 0, 0.5));
    let (x, _) = sum(&wide, &narrow);
    assert_close(&x, &of(&[0.1, 0.4, 3.0, 0.2, 0.45, -3.0], 0, 0.5));
    // An empty bucket is no reason to grow.
    let (x, _) = sum(&h("count:1 offset:-1 buckets:[0 1]"), &h("count:1 z_bucket:1 z_bucket_w:0.3"));
    assert_eq!((x.zero_threshold, x.zero_count), (0.3, 1.0));
}

#[test]
fn resets_are_seen_in_any_bucket() {
    let before = h("count:6 sum:9 z_bucket:1 z_bucket_w:0.01 buckets:[1 2] n_buckets:[2]");
    let reset = |text: &str| h(text).is_reset_after(&before);
    assert!(!reset("count:6 sum:1 z_bucket:1 z_bucket_w:0.01 buckets:[1 2] n_buckets:[2]"));
    assert!(reset("count:7 sum:9 z_bucket:0 z_bucket_w:0.01 buckets:[2 2] n_buckets:[3]"));
    assert!(reset("count:7 sum:9 z_bucket:2 z_bucket_w:0.01 buckets:[0 3] n_buckets:[2]"));
    assert!(reset("count:7 sum:9 z_bucket:2 z_bucket_w:0.01 buckets:[1 2] n_offset:1 n_buckets:[2]"));
    assert!(reset("count:9 schema:1 z_bucket:9 z_bucket_w:0.01 buckets:[9 9 9 9] n_buckets:[9 9]"));
    assert!(reset("count:9 z_bucket:9 z_bucket_w:0.001 buckets:[9 9 9 9] n_buckets:[9 9]"));
    // The zero bucket now cuts (0.5, 1], which is not empty.
    assert!(reset("count:9 z_bucket:9 z_bucket_w:0.7 buckets:[9 9] n_buckets:[9]"));
    assert!(!reset("count:9 z_bucket:4 z_bucket_w:1 offset:1 buckets:[2]"));
    assert!(reset("count:9 z_bucket:3 z_bucket_w:1 offset:1 buckets:[2]"));
    assert!(reset("count:9 schema:-53 custom_values:[1] buckets:[9]"));
    // Hints know better.
    assert!(reset("count:9 z_bucket:9 z_bucket_w:0.01 buckets:[9 9] n_buckets:[9] hint:reset"));
    assert!(!reset("count:1 hint:not_reset"));
    assert!(reset("count:1 hint:gauge"));
}

#[test]
fn resets_of_custom_buckets_are_seen_between_bounds_in_common() {
    let before = custom(&[1.0, 4.0, 6.0, 9.0], &[2.0, 5.0, 8.0]);
    let more = custom(&[1.0, 4.0, 6.0, 9.0, 1.5], &[2.0, 3.0, 8.0]);
    assert!(!more.is_reset_after(&before));
    let moved = custom(&[1.0, 1.0, 1.0, 1.0, 6.0], &[2.0, 3.0, 8.0]);
    assert!(moved.is_reset_after(&before));
    assert!(!custom(&[7.0; 4], &[3.0]).is_reset_after(&before));
}

proptest! {
    #[test]
    fn a_sum_is_of_all_observations(
        a in observations(), b in observations(), (s, z) in layout(), (t, y) in layout(),
    ) {
        let all = [&a[..], &b].concat();
        let (x, done) = sum(&of(&a, s, z), &of(&b, t, y));
        assert_close(&x, &of(&all, s.min(t), x.zero_threshold));
        prop_assert!(x.zero_threshold >= z.max(y));
        prop_assert_eq!(done, Combined::default());
        // What was added can be taken away again.
        let mut back = x.clone();
        prop_assert!(back.sub(&of(&b, t, y)).is_ok());
        assert_close(&back, &of(&a, s.min(t), x.zero_threshold));
    }

    #[test]
    fn a_counter_that_goes_on_is_no_reset(
        a in observations(), b in observations(), (s, z) in layout(), fewer in 0i32..3, wider in any::<bool>(),
    ) {
        let all = [&a[..], &b].concat();
        let later = of(&all, (s - fewer).max(-1), if wider { 4.0 } else { z });
        prop_assert!(!later.is_reset_after(&of(&a, s, z)));
    }

    #[test]
    fn a_counter_that_lost_an_observation_is_reset(a in observations(), at in any::<prop::sample::Index>()) {
        prop_assume!(!a.is_empty());
        let mut later = a.clone();
        let lost = later.remove(at.index(a.len()));
        // As many others in a bucket of their own: only one bucket tells.
        later.extend([100.0 * lost.abs() + 1e6; 3]);
        prop_assert!(of(&later, 2, 0.25).is_reset_after(&of(&a, 2, 0.25)));
    }

    #[test]
    fn custom_sums_are_of_all_observations(
        a in observations(), b in observations(),
        bounds in prop::collection::btree_set(-60i32..60, 0..8), others in prop::collection::btree_set(-60i32..60, 0..8),
    ) {
        let floats = |s: &std::collections::BTreeSet<i32>| s.iter().map(|b| f64::from(*b)).collect::<Vec<f64>>();
        let common: Vec<f64> = floats(&bounds).into_iter().filter(|x| others.contains(&(*x as i32))).collect();
        let (x, done) = sum(&custom(&a, &floats(&bounds)), &custom(&b, &floats(&others)));
        prop_assert_eq!(done.reconciled, bounds != others);
        assert_close(&x, &custom(&[&a[..], &b].concat(), &common));
        let grown = custom(&[&a[..], &b].concat(), &floats(&others));
        prop_assert!(!grown.is_reset_after(&custom(&a, &floats(&bounds))));
    }

    #[test]
    fn sums_and_means_of_many_are_those_of_their_parts(
        parts in prop::collection::vec((observations(), layout()), 1..8),
    ) {
        let histograms: Vec<FloatHistogram> = parts.iter().map(|(all, (s, z))| of(all, *s, *z)).collect();
        let (first, others) = histograms.split_first().unwrap();
        let (mut total, mut mean) = (Accumulator::sum_of(first), Accumulator::mean_of(first));
        for x in others {
            prop_assert!(total.add(x).is_ok() && mean.add(x).is_ok());
        }
        let total = total.finish();
        let all: Vec<f64> = parts.iter().flat_map(|(all, _)| all.clone()).collect();
        assert_close(&total, &of(&all, total.schema, total.zero_threshold));
        let mut expected = total;
        expected.divide(histograms.len() as f64);
        assert_close(&mean.finish(), &expected);
    }
}

#[test]
fn small_counts_survive_beside_large_ones() {
    let with = |x: f64| FloatHistogram { sum: x, ..h(&format!("count:1 z_bucket:{x} buckets:[{x}]")) };
    let mut total = Accumulator::sum_of(&with(1.0));
    [1e100, 1.0, -1e100].iter().for_each(|x| assert!(total.add(&with(*x)).is_ok()));
    assert_close(&total.finish(), &FloatHistogram { sum: 2.0, ..h("count:4 z_bucket:2 buckets:[2]") });
}

#[test]
fn a_mean_does_not_overflow() {
    let large = h("count:1.5e308 sum:8 z_bucket_w:0.5 z_bucket:1.5e308 offset:3 buckets:[1e308]");
    let small = h("count:4 sum:2 z_bucket_w:0.5 z_bucket:4 offset:4 buckets:[4]");
    let mut mean = Accumulator::mean_of(&large);
    let mut total = Accumulator::sum_of(&large);
    for x in [&large, &small, &large] {
        assert!(mean.add(x).is_ok() && total.add(x).is_ok());
    }
    let expected =
        h("count:1.125e308 sum:6.5 z_bucket_w:0.5 z_bucket:1.125e308 offset:3 buckets:[0.75e308 1]");
    assert_close(&mean.finish(), &expected);
    let total = total.finish();
    assert_eq!((total.count, total.sum), (f64::INFINITY, 26.0));
}

#[test]
fn aggregations_remark_on_what_did_not_fit() {
    let counter = |hint: &str| h(&format!("count:1 buckets:[1] hint:{hint}"));
    let mut total = Accumulator::sum_of(&counter("reset"));
    assert!(total.add(&counter("gauge")).is_ok());
    assert!(total.remarks().is_empty());
    assert!(total.add(&counter("not_reset")).is_ok());
    assert_eq!(total.remarks(), Remark::CollisionInAggregation.into());
    assert_eq!(total.finish().reset, ResetHint::Gauge);
    let mut mean = Accumulator::mean_of(&custom(&[1.0], &[1.0, 2.0]));
    assert!(mean.add(&custom(&[1.0], &[2.0])).is_ok());
    assert_eq!(mean.remarks(), Remark::ReconciledInAggregation.into());
    assert_eq!(mean.add(&counter("gauge")), Err(Incompatible));
}
