//! Histograms in the notation of promtool's unit tests, histograms of known observations, and what both share.

use std::sync::Arc;

use metricsdb_model::histogram::{ResetHint, SCHEMA_CUSTOM, indices};
use proptest::prelude::*;

use super::*;

mod combined;
mod statistics;
mod windows;

/// `schema:0 count:4 sum:5 buckets:[1 2 1]`, as between `{{` and `}}`.
fn h(text: &str) -> FloatHistogram {
    let like = FloatHistogram::from_model(&Stored::stale());
    let mut out = FloatHistogram { sum: 0.0, ..FloatHistogram::empty(&like) };
    let mut offsets = [0i32; 2];
    let (mut rest, mut sides) = (text.trim(), [Vec::new(), Vec::new()]);
    while let Some((key, after)) = rest.split_once(':') {
        let value;
        (value, rest) = match after.strip_prefix('[') {
            Some(list) => list.split_once(']').expect("a list ends"),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        rest = rest.trim_start();
        let number = || value.parse::<f64>().expect("a number");
        let list = || value.split_whitespace().map(|v| v.parse().expect("a number")).collect::<Vec<f64>>();
        match key {
            "schema" => out.schema = number() as i32,
            "count" => out.count = number(),
            "sum" => out.sum = number(),
            "z_bucket" => out.zero_count = number(),
            "z_bucket_w" => out.zero_threshold = number(),
            "offset" => offsets[0] = number() as i32,
            "n_offset" => offsets[1] = number() as i32,
            "buckets" => sides[0] = list(),
            "n_buckets" => sides[1] = list(),
            "custom_values" => out.bounds = list().into(),
            "hint" => {
                out.reset = match value {
                    "reset" => ResetHint::Reset,
                    "not_reset" => ResetHint::NotReset,
                    "gauge" => ResetHint::Gauge,
                    _ => ResetHint::Unknown,
                }
            }
            other => panic!("no such key: {other}"),
        }
    }
    let side = |counts: &[f64], offset: i32| Side {
        indices: (offset..offset + counts.len() as i32).collect(),
        counts: counts.to_vec(),
    };
    out.positive = side(&sides[0], offsets[0]);
    out.negative = side(&sides[1], offsets[1]);
    out
}

/// Of these observations.
fn of(observations: &[f64], schema: i32, zero_threshold: f64) -> FloatHistogram {
    let mut out = h("");
    (out.schema, out.zero_threshold) = (schema, zero_threshold);
    let mut sides = [std::collections::BTreeMap::new(), std::collections::BTreeMap::new()];
    for &x in observations {
        out.count += 1.0;
        out.sum += x;
        if x.abs() <= zero_threshold {
            out.zero_count += 1.0;
        } else if !x.is_nan() {
            let mut index = (x.abs().log2() * f64::from(schema).exp2()).ceil() as i32;
            while upper_bound(schema, index) < x.abs() {
                index += 1;
            }
            while upper_bound(schema, index - 1) >= x.abs() {
                index -= 1;
            }
            *sides[usize::from(x < 0.0)].entry(index).or_insert(0.0) += 1.0;
        }
    }
    let [positive, negative] = sides.map(|side| {
        let (indices, counts): (Vec<i32>, Vec<f64>) = side.into_iter().unzip();
        Side { indices: indices.into(), counts }
    });
    FloatHistogram { positive, negative, ..out }
}

fn custom(observations: &[f64], bounds: &[f64]) -> FloatHistogram {
    let mut counts = vec![0.0; bounds.len() + 1];
    observations.iter().for_each(|x| counts[bounds.partition_point(|b| b < x)] += 1.0);
    let mut out = FloatHistogram {
        schema: SCHEMA_CUSTOM,
        count: observations.len() as f64,
        sum: observations.iter().sum(),
        bounds: bounds.into(),
        positive: Side { indices: (0..counts.len() as i32).collect(), counts },
        ..h("")
    };
    out.compact();
    out
}

fn close(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits()
        || a == b
        || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
        || a.is_nan() && b.is_nan()
}

/// Panics with both where counts that are not 0 differ.
#[track_caller]
fn assert_close(a: &FloatHistogram, b: &FloatHistogram) {
    let (mut x, mut y) = (a.clone(), b.clone());
    x.compact();
    y.compact();
    let counts = |h: &FloatHistogram| {
        let sides = h.positive.counts.iter().chain(&h.negative.counts).copied();
        [h.count, h.sum, h.zero_count, h.zero_threshold].into_iter().chain(sides).collect::<Vec<_>>()
    };
    let same = x.schema == y.schema
        && x.bounds == y.bounds
        && x.positive.indices == y.positive.indices
        && x.negative.indices == y.negative.indices
        && counts(&x).iter().zip(counts(&y)).all(|(a, b)| close(*a, b));
    assert!(same, "{a:?}\n{b:?}");
}

/// Observations with a sum that stays exact.
fn observations() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((-4096i32..4096).prop_map(|i| f64::from(i) / 64.0), 0..40)
}

/// A schema and a zero threshold on a bound of all of these schemas.
fn layout() -> impl Strategy<Value = (i32, f64)> {
    (-1i32..6, prop_oneof![Just(0.0), Just(0.0625), Just(0.25), Just(4.0)])
}

#[test]
fn buckets_ascend_and_end_at_the_zero_bucket() {
    let x = h("schema:0 count:9 z_bucket:1 z_bucket_w:1.5 offset:1 buckets:[2 3] n_offset:1 n_buckets:[1 2]");
    let bounds: Vec<(f64, f64, f64)> = x.buckets().map(|b| (b.lower, b.upper, b.count)).collect();
    let up = [(-4.0, -2.0, 2.0), (-2.0, -1.5, 1.0), (-1.5, 1.5, 1.0), (1.5, 2.0, 2.0), (2.0, 4.0, 3.0)];
    assert_eq!(bounds, up);
    let down: Vec<f64> = x.buckets().rev().map(|b| b.lower).collect();
    assert_eq!(down, [2.0, 1.5, -1.5, -2.0, -4.0]);
    let closed: Vec<(bool, bool)> = x.buckets().map(|b| (b.lower_inclusive, b.upper_inclusive)).collect();
    assert_eq!(closed, [(true, false), (true, false), (true, true), (false, true), (false, true)]);
    let x = h("schema:-53 count:3 custom_values:[-1 4] buckets:[1 1 1]");
    let bounds: Vec<(f64, f64)> = x.buckets().map(|b| (b.lower, b.upper)).collect();
    assert_eq!(bounds, [(f64::NEG_INFINITY, -1.0), (-1.0, 4.0), (4.0, f64::INFINITY)]);
}

#[test]
fn scaling_by_a_negative_number_makes_a_gauge() {
    let mut x = h("count:4 sum:6 z_bucket:1 buckets:[1 2] hint:not_reset");
    x.scale(0.5);
    assert_close(&x, &h("count:2 sum:3 z_bucket:0.5 buckets:[0.5 1]"));
    assert_eq!(x.reset, ResetHint::NotReset);
    x.negate();
    assert_close(&x, &h("count:-2 sum:-3 z_bucket:-0.5 buckets:[-0.5 -1]"));
    assert_eq!(x.reset, ResetHint::Gauge);
    x.divide(0.0);
    assert!(x.positive.is_empty() && x.count == f64::NEG_INFINITY);
}

#[test]
fn equality_minds_empty_buckets_but_not_the_hint() {
    let x = h("count:4 sum:NaN buckets:[1 0 3]");
    assert!(x.same(&h("count:4 sum:NaN buckets:[1 0 3] hint:reset")));
    assert!(!x.same(&h("count:4 sum:NaN buckets:[1 0 3 0]")));
    assert!(!x.same(&h("count:4 sum:NaN schema:1 buckets:[1 0 3]")));
    let mut compact = x.clone();
    compact.compact();
    assert_eq!(*compact.positive.indices, [0, 2]);
    assert!(!x.same(&compact));
}

/// Whatever a sender may call a histogram, with indices and numbers at the ends of their ranges.
fn anything() -> impl Strategy<Value = FloatHistogram> {
    let index = prop_oneof![-40i32..40, Just(i32::MIN), Just(i32::MAX), any::<i32>()];
    let count = prop_oneof![0.0f64..9.0, any::<f64>(), Just(f64::NAN), Just(f64::INFINITY)];
    let side = prop::collection::btree_map(index, count.clone(), 0..6);
    let bounds = prop::collection::btree_set(-9i32..9, 0..4);
    let schema = prop_oneof![-4i32..9, Just(SCHEMA_CUSTOM)];
    (schema, prop::array::uniform4(count), side.clone(), side, bounds).prop_map(
        |(schema, head, p, n, bounds)| {
            let side = |s: std::collections::BTreeMap<i32, f64>| Side {
                indices: s.keys().copied().collect(),
                counts: s.into_values().collect(),
            };
            let [zero_threshold, zero_count, count, sum] = head;
            let bounds = if schema == SCHEMA_CUSTOM {
                bounds.into_iter().map(f64::from).collect()
            } else {
                Arc::default()
            };
            let (positive, negative) = (side(p), side(n));
            FloatHistogram {
                schema,
                zero_threshold,
                zero_count,
                count,
                sum,
                positive,
                negative,
                bounds,
                ..h("")
            }
        },
    )
}

proptest! {
    #[test]
    fn no_histogram_is_too_strange(a in anything(), b in anything(), q in -0.5f64..1.5, at in any::<f64>()) {
        for x in [&a, &b] {
            let _ = (x.quantile(q), x.fraction(q, at), x.variance(), x.to_model());
            let _ = (x.trim(at, Keep::Below), x.trim(at, Keep::Above), x.same(&a));
        }
        let _ = (a.is_reset_after(&b), b.is_reset_after(&a));
        let mut mean = Accumulator::mean_of(&a);
        let fits = mean.add(&b).is_ok();
        let _ = mean.finish();
        prop_assert_eq!(a.clone().sub(&b).is_ok(), fits);
        prop_assert_eq!(interpolate((0, &a), (9, &b), 3, true).is_ok(), fits);
    }

    #[test]
    fn stored_histograms_come_back(all in observations(), (schema, zero) in layout()) {
        let x = of(&all, schema, zero);
        let stored = x.to_model();
        prop_assert!(stored.validate().is_ok());
        prop_assert!(indices(&stored.layout.positive).eq(x.positive.indices.iter().copied()));
        let mut reader = Reader::default();
        let (a, b) = (reader.read(&stored), reader.read(&stored));
        prop_assert!(a.same(&x) && b.same(&x));
        prop_assert!(Arc::ptr_eq(&a.positive.indices, &b.positive.indices));
    }
}
