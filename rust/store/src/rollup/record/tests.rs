#![allow(clippy::unwrap_used)]

use metricsdb_model::sample::stale;
use proptest::prelude::*;

use super::*;

fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-9)
}

fn same(a: &Record, b: &Record) -> bool {
    (a.end, a.count, a.first.0, a.last.0, a.resets) == (b.end, b.count, b.first.0, b.last.0, b.resets)
        && [(a.first.1, b.first.1), (a.last.1, b.last.1), (a.min, b.min), (a.max, b.max)]
            .iter()
            .all(|(a, b)| a.to_bits() == b.to_bits() || a == b)
        && near(a.sum, b.sum)
        && near(a.reset_from, b.reset_from)
        && (a.deviation - b.deviation).abs() <= 1e-6 * (1.0 + a.deviation.abs())
}

#[test]
fn a_bucket_ends_where_a_window_does() {
    assert_eq!([-61, -60, -1, 0, 1, 59, 60, 61].map(|t| end_of(t, 60)), [-60, -60, 0, 0, 60, 60, 60, 120]);
    assert_eq!([-61, -60, -1, 0, 59, 60].map(|t| floor_of(t, 60)), [-120, -60, -60, 0, 0, 60]);
    assert_eq!((end_of(i64::MAX, 60), floor_of(i64::MIN, 60)), (i64::MAX, i64::MIN));
}

#[test]
fn markers_are_no_samples_and_nan_is_one() {
    let record = Record::of(60, &[10, 20, 30], &[stale(), f64::NAN, 3.0]).unwrap();
    assert_eq!((record.count, record.first.0, record.min, record.max), (2, 20, 3.0, 3.0));
    assert!(record.sum.is_nan());
    assert_eq!(Record::of(60, &[10], &[stale()]), None);
}

fn samples() -> impl Strategy<Value = (Vec<i64>, Vec<f64>)> {
    let value = prop_oneof![8 => (0i32..50).prop_map(f64::from), 2 => -1e3..1e3f64, 1 => Just(f64::NAN)];
    prop::collection::btree_map(-2_000i64..2_000, value, 1..120).prop_map(|all| all.into_iter().unzip())
}

proptest! {
    #[test]
    fn records_of_records_are_those_of_samples((times, values) in samples(), every in 1i64..60, factor in 1i64..20) {
        let (mut fine, mut wide, mut direct) = (Vec::new(), Vec::new(), Vec::new());
        records_of(&times, &values, every, i64::MAX, &mut fine);
        coarser(&fine, every * factor, i64::MAX, &mut wide);
        records_of(&times, &values, every * factor, i64::MAX, &mut direct);
        prop_assert_eq!(wide.len(), direct.len());
        for (a, b) in wide.iter().zip(&direct) {
            let nan = a.sum.is_nan() && b.sum.is_nan();
            prop_assert!(same(&Record { deviation: 0.0, ..*a }, &Record { deviation: 0.0, ..*b }), "{a:?} {b:?}");
            prop_assert!(nan || near(a.deviation + 1.0, b.deviation + 1.0), "{a:?} {b:?}");
        }
        let count: u64 = fine.iter().map(|r| r.count).sum();
        prop_assert_eq!(count, times.len() as u64);
    }

    #[test]
    fn points_keep_what_records_know((times, values) in samples(), every in 1i64..2_000, counter: bool) {
        let mut records = Vec::new();
        records_of(&times, &values, every, i64::MAX, &mut records);
        for record in &records {
            let mut points = Vec::new();
            expand(record, every, counter, |t, v| points.push((t, v)));
            prop_assert!(points.windows(2).all(|p| p[0].0 <= p[1].0));
            prop_assert_eq!(points.len() as u64, points_of(record, every));
            let (first, last) = (points.first().unwrap(), points.last().unwrap());
            prop_assert_eq!(last.0, record.last.0);
            prop_assert!(points.len() == 1 || first.0 == record.first.0);
            prop_assert!(last.1.to_bits() == record.last.1.to_bits());
        }
    }
}

#[test]
fn counts_of_bytes_from_outside_end_at_the_largest() {
    let mut all = Record { count: u64::MAX, resets: u64::MAX, unkept: u64::MAX, ..Record::ZERO };
    all.append(&Record { count: 2, resets: 3, unkept: 1, ..Record::ZERO });
    assert_eq!((all.count, all.resets, all.unkept), (u64::MAX, u64::MAX, u64::MAX));
}
