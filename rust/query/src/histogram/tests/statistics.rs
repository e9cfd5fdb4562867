//! Quantiles, fractions, variance, trimming.

use super::*;

const INF: f64 = f64::INFINITY;

fn quantile(text: &str, q: f64) -> f64 {
    h(text).quantile(q).0
}

#[test]
fn quantiles_are_interpolated_on_the_scale_of_their_bucket() {
    // Ten observations in (1, 4], on a logarithmic scale: half of them are below 2.
    assert!(close(quantile("schema:-1 count:10 offset:1 buckets:[10]", 0.5), 2.0));
    assert!(close(quantile("schema:-1 count:10 n_offset:1 n_buckets:[10]", 0.5), -2.0));
    assert!(close(quantile("schema:-1 count:10 n_offset:1 n_buckets:[10]", 0.25), -(2f64.powf(1.5))));
    // Custom buckets: linear, from 0 on if the first one is positive.
    let text = "schema:-53 count:10 custom_values:[4 8] buckets:[4 4 2]";
    assert!(close(quantile(text, 0.1), 1.0));
    assert!(close(quantile(text, 0.6), 6.0));
    assert_eq!(quantile(text, 0.9), 8.0);
    assert_eq!(quantile("schema:-53 count:2 custom_values:[-3 8] buckets:[1 1]", 0.2), -3.0);
    // A bucket without any bound: all that is known is that it begins at 0.
    assert_eq!(quantile("schema:-53 count:2 buckets:[2]", 0.2), INF);
}

#[test]
fn the_zero_bucket_leans_to_the_side_that_has_buckets() {
    let zero = "count:4 z_bucket:4 z_bucket_w:0.5";
    assert!(close(quantile(zero, 0.25), -0.25));
    assert!(close(quantile("count:8 z_bucket:4 z_bucket_w:0.5 buckets:[4]", 0.25), 0.25));
    assert!(close(quantile("count:8 z_bucket:4 z_bucket_w:0.5 n_buckets:[4]", 0.75), -0.25));
    let both = "count:8 z_bucket:4 z_bucket_w:0.5 buckets:[2] n_buckets:[2]";
    assert!(close(quantile(both, 0.5), 0.0));
    assert!(close(quantile(both, 0.625), 0.25));
}

#[test]
fn quantiles_without_an_answer() {
    assert!(quantile("", 0.5).is_nan());
    let some = "count:2 buckets:[2]";
    assert_eq!((quantile(some, -0.1), quantile(some, 1.1)), (-INF, INF));
    assert!(quantile(some, f64::NAN).is_nan());
    assert!(quantile("", 2.0) == INF);
    // More in the count than in the buckets, and no NaN to explain it.
    assert_eq!(quantile("count:9 sum:2 buckets:[2]", 0.4), 1.0);
}

#[test]
fn nan_observations_are_above_all_others() {
    let nan = h("count:10 sum:NaN offset:1 buckets:[4]");
    assert_eq!(nan.quantile(0.2), (2f64.sqrt(), Some(Remark::QuantileSkewed)));
    let (value, remark) = nan.quantile(0.7);
    assert!(value.is_nan() && remark == Some(Remark::QuantileNan));
    assert_eq!(nan.fraction(1.0, 2.0), (0.4, Some(Remark::FractionNan)));
    assert_eq!(nan.fraction(-INF, INF), (0.4, Some(Remark::FractionNan)));
    // -Inf and +Inf sum up to NaN too.
    let both = h("count:4 sum:NaN offset:1 buckets:[4]");
    assert_eq!(both.quantile(0.5), (2f64.sqrt(), None));
    assert_eq!(both.fraction(0.0, INF), (1.0, None));
}

#[test]
fn fractions_between_two_values() {
    let x = h("schema:-1 count:20 offset:1 buckets:[10] n_offset:1 n_buckets:[10]");
    assert!(close(x.fraction(1.0, 2.0).0, 0.25));
    assert!(close(x.fraction(-2.0, 2.0).0, 0.5));
    assert_eq!(x.fraction(2.0, 2.0).0, 0.0);
    assert_eq!(x.fraction(3.0, 1.0).0, 0.0);
    assert!(x.fraction(f64::NAN, 1.0).0.is_nan() && h("").fraction(0.0, 1.0).0.is_nan());
    let x = h("schema:-53 count:10 custom_values:[4 8] buckets:[4 4 2]");
    assert!(close(x.fraction(5.0, 7.0).0, 0.2));
    assert!(close(x.fraction(9.0, INF).0, 0.2));
}

#[test]
fn variance_takes_the_middle_of_each_bucket() {
    // Three times 2 (the middle of (1, 4]), once -2; their sum says 1 on average.
    let x = h("schema:-1 count:4 sum:4 offset:1 buckets:[3] n_offset:1 n_buckets:[1]");
    assert!(close(x.variance(), 3.0) && close(x.deviation(), 3f64.sqrt()) && close(x.average(), 1.0));
    // Custom: 2, 2, 6; on average 3.
    let x = h("schema:-53 count:3 sum:9 custom_values:[0 4 8] offset:1 buckets:[2 1]");
    assert!(close(x.variance(), 11.0 / 3.0));
    assert!(h("count:2 sum:NaN buckets:[1]").variance().is_nan());
    assert!(h("").variance().is_nan() && h("").average().is_nan());
}

#[test]
fn trimming_cuts_the_bucket_at_the_edge() {
    let x = h("schema:-1 count:11 sum:50 z_bucket:1 z_bucket_w:0.5 offset:1 buckets:[8 2]");
    // 2 halves (1, 4] on a logarithmic scale; the zero bucket leans to the right, its middle is 0.25.
    let low = h("schema:-1 count:5 sum:5.906854249492381 z_bucket:1 z_bucket_w:0.5 offset:1 buckets:[4]");
    assert_close(&x.trim(2.0, Keep::Below), &low);
    let high = h("schema:-1 count:6 sum:27.313708498984762 z_bucket_w:0.5 offset:1 buckets:[4 2]");
    assert_close(&x.trim(2.0, Keep::Above), &high);
    // Nothing cut off: the sum stays as it was observed.
    assert_close(&x.trim(INF, Keep::Below), &x);
    assert_close(&x.trim(0.0, Keep::Above), &x);
    assert_close(&x.trim(-INF, Keep::Below), &h("schema:-1 z_bucket_w:0.5"));
    let negative = h("schema:-1 count:8 sum:-20 n_offset:1 n_buckets:[8]");
    assert_close(
        &negative.trim(-2.0, Keep::Below),
        &h("schema:-1 count:4 sum:-11.313708498984761 n_offset:1 n_buckets:[4]"),
    );
}

#[test]
fn trimming_a_zero_bucket_is_linear() {
    let x = h("count:8 z_bucket:8 z_bucket_w:2");
    assert_close(&x.trim(1.0, Keep::Below), &h("count:6 sum:-3 z_bucket:6 z_bucket_w:2"));
    assert_close(&x.trim(1.0, Keep::Above), &h("count:2 sum:3 z_bucket:2 z_bucket_w:2"));
    let leaning = h("count:12 z_bucket:8 z_bucket_w:2 n_offset:4 n_buckets:[4] sum:-70");
    assert_close(&leaning.trim(-1.0, Keep::Above), &h("count:4 sum:-2 z_bucket:4 z_bucket_w:2"));
    assert_close(&leaning.trim(0.0, Keep::Below), &leaning);
}

#[test]
fn trimming_buckets_without_an_end() {
    let x = h("schema:-53 count:10 sum:99 custom_values:[4 8] buckets:[4 4 2]");
    let kept = |text: &str| h(&format!("schema:-53 custom_values:[4 8] {text}"));
    // The first bucket is thought to begin at 0, the last one is not known to have anything below 20.
    assert_close(&x.trim(1.0, Keep::Below), &kept("count:1 sum:0.5 buckets:[1]"));
    assert_close(&x.trim(1.0, Keep::Above), &kept("count:9 sum:47.5 buckets:[3 4 2]"));
    assert_close(&x.trim(20.0, Keep::Below), &kept("count:8 sum:32 buckets:[4 4]"));
    assert_close(&x.trim(20.0, Keep::Above), &kept("count:2 sum:40 offset:2 buckets:[2]"));
    let below = h("schema:-53 count:2 sum:-9 custom_values:[-4] buckets:[2]");
    assert_close(
        &below.trim(-6.0, Keep::Below),
        &h("schema:-53 count:2 sum:-9 custom_values:[-4] buckets:[2]"),
    );
    assert_eq!(below.trim(-6.0, Keep::Above).count, 0.0);
    let unknown = h("schema:-53 count:2 sum:-9 buckets:[2]");
    assert_eq!(unknown.trim(1.0, Keep::Below).count, 0.0);
    assert_eq!(unknown.trim(1.0, Keep::Above).count, 0.0);
    assert_eq!(unknown.trim(-INF, Keep::Above).sum, -9.0);
}

proptest! {
    #[test]
    fn a_quantile_is_the_inverse_of_a_fraction(all in observations(), (s, z) in layout(), q in 0.001f64..0.999) {
        prop_assume!(!all.is_empty());
        let x = of(&all, s, z);
        let (value, remark) = x.quantile(q);
        prop_assert_eq!(remark, None);
        let below = x.fraction(-INF, value).0;
        prop_assert!((below - q).abs() < 1e-9, "{} {} {}", value, below, q);
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_the_observation(all in observations(), (s, z) in layout(), q in 0.0f64..1.0) {
        prop_assume!(!all.is_empty());
        let x = of(&all, s, z);
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        // Between two observations either bucket is right.
        let rank = q * all.len() as f64;
        prop_assume!((rank - rank.round()).abs() > 1e-6);
        let observed = sorted[rank.floor() as usize];
        let value = x.quantile(q).0;
        let home = x.buckets().find(|b| b.count > 0.0 && b.lower <= observed && observed <= b.upper
            && (b.upper > observed || b.upper_inclusive) && (b.lower < observed || b.lower_inclusive));
        let home = home.unwrap_or_else(|| panic!("{observed} is in no bucket"));
        let slack = 1e-9 * value.abs();
        prop_assert!(home.lower - slack <= value && value <= home.upper + slack);
    }

    #[test]
    fn trimming_keeps_the_fraction_that_lies_there(all in observations(), (s, z) in layout(), at in -70.0f64..70.0) {
        prop_assume!(!all.is_empty());
        let x = of(&all, s, z);
        let (below, above) = (x.trim(at, Keep::Below), x.trim(at, Keep::Above));
        prop_assert!((below.count - x.fraction(-INF, at).0 * x.count).abs() < 1e-9 * x.count);
        prop_assert!((above.count - x.fraction(at, INF).0 * x.count).abs() < 1e-9 * x.count);
        prop_assert!((below.count + above.count - x.count).abs() < 1e-9 * x.count);
    }
}
