#![allow(clippy::unwrap_used)]

use super::*;

fn spans(list: &[(i32, u32)]) -> Vec<Span> {
    list.iter().map(|&(offset, length)| Span { offset, length }).collect()
}

fn tally<T: CountNumber>(zero: T, buckets: &[T]) -> Tally<T> {
    let mut tally = Tally { count: zero, zero, buckets: buckets.to_vec() };
    tally.count = tally.total();
    tally
}

fn histogram(layout: Layout, zero: u64, buckets: &[u64]) -> Histogram {
    Histogram {
        layout: layout.into(),
        reset: ResetHint::Unknown,
        sum: 1.0,
        counts: Counts::Int(tally(zero, buckets)),
    }
}

fn sides(positive: &[(i32, u32)], negative: &[(i32, u32)]) -> Layout {
    Layout { positive: spans(positive), negative: spans(negative), ..Layout::default() }
}

fn custom(bounds: &[f64], positive: &[(i32, u32)]) -> Layout {
    Layout { schema: SCHEMA_CUSTOM, custom_bounds: bounds.to_vec(), ..sides(positive, &[]) }
}

#[track_caller]
fn refusal(result: Result<()>, wanted: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn spans_count_buckets_from_the_first_index_on() {
    let all: Vec<i32> = indices(&spans(&[(-2, 2), (1, 1), (0, 0), (3, 2)])).collect();
    assert_eq!(all, [-2, -1, 1, 5, 6]);
}

#[test]
fn sound_histograms_pass() {
    histogram(sides(&[(-2, 2), (3, 1)], &[(0, 1)]), 5, &[1, 2, 3, 4]).validate().unwrap();
    histogram(custom(&[0.1, 1.0], &[(0, 3)]), 0, &[1, 2, 3]).validate().unwrap();
    histogram(custom(&[], &[(0, 1)]), 0, &[7]).validate().unwrap();
    Histogram::stale().validate().unwrap();
    for schema in SCHEMA_MIN..=SCHEMA_MAX {
        histogram(Layout { schema, ..sides(&[(0, 1)], &[]) }, 0, &[u64::MAX]).validate().unwrap();
    }
    let mut nans = histogram(sides(&[(0, 1)], &[]), 0, &[3]);
    nans.sum = f64::NAN;
    nans.counts = Counts::Int(Tally { count: 5, zero: 0, buckets: vec![3] });
    nans.validate().unwrap();
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    refusal(histogram(sides(&[(0, 2)], &[]), 0, &[1]).validate(), "spans stand for 2 buckets");
    refusal(histogram(sides(&[(0, 1), (-1, 1)], &[]), 0, &[1, 2]).validate(), "overlaps the one before");
    refusal(histogram(sides(&[], &[(i32::MAX, 1)]), 0, &[1]).validate(), "does not fit 32 bits");
    refusal(Layout { schema: 9, ..Layout::default() }.validate(), "give -4 to 8, or -53");
    refusal(Layout { zero_threshold: f64::NAN, ..Layout::default() }.validate(), "the zero bucket's width");
    refusal(Layout { custom_bounds: vec![1.0], ..Layout::default() }.validate(), "give schema -53");
    refusal(custom(&[1.0, 1.0], &[]).validate(), "bounds don't increase");
    refusal(custom(&[1.0, f64::INFINITY], &[]).validate(), "leave out the last, +Inf");
    refusal(custom(&[1.0], &[(0, 3)]).validate(), "has no bound among 1");
    refusal(custom(&[1.0], &[(-1, 1)]).validate(), "has no bound among 1");
    refusal(histogram(custom(&[1.0], &[(0, 1)]), 1, &[1]).validate(), "no zero bucket");
    refusal(Layout { zero_threshold: 1.0, ..custom(&[], &[]) }.validate(), "no zero bucket");
    refusal(sides(&[(0, 65_537)], &[]).validate(), "65537 needed, 65536 allowed");
    refusal(sides(&vec![(1, 1); 4097], &[]).validate(), "4097 needed, 4096 allowed");
    let mut wrong = histogram(sides(&[(0, 1)], &[]), 0, &[3]);
    wrong.counts = Counts::Int(Tally { count: 4, zero: 0, buckets: vec![3] });
    refusal(wrong.validate(), "the buckets hold 3 observations");
    wrong.counts = Counts::Float(Tally { count: 4.0, zero: 0.0, buckets: vec![-3.0] });
    refusal(wrong.validate(), "a count is negative");
    wrong.counts = Counts::Float(Tally { count: f64::NAN, zero: -0.0, buckets: vec![3.0] });
    wrong.validate().unwrap();
    let max = histogram(sides(&[(0, 2)], &[]), 0, &[u64::MAX, 1]);
    refusal(max.validate(), "the buckets hold 18446744073709551616 observations");
}

#[test]
fn a_reset_is_a_count_that_falls_wherever_its_bucket_stands() {
    let old = histogram(sides(&[(1, 2)], &[(0, 1)]), 1, &[5, 0, 3]);
    let grown = histogram(sides(&[(0, 2)], &[(0, 2)]), 1, &[9, 5, 3, 1]);
    assert!(!grown.resets_after(&old) && !old.resets_after(&old));
    assert!(old.resets_after(&grown));
    let moved = histogram(sides(&[(1, 1)], &[(1, 1)]), 1, &[50, 3]);
    assert!(moved.resets_after(&old));
    let other = histogram(Layout { schema: 1, ..sides(&[(1, 2)], &[(0, 1)]) }, 9, &[9, 9, 9]);
    assert!(other.resets_after(&old));
    let gauge = Histogram { reset: ResetHint::Gauge, ..moved.clone() };
    assert!(!gauge.resets_after(&old) && gauge.clone() != moved);
    assert!(Histogram { reset: ResetHint::Reset, ..grown }.resets_after(&old));
    assert!(!Histogram::stale().resets_after(&old) && !old.resets_after(&Histogram::stale()));
}

#[test]
fn filled_buckets_ascend_and_know_their_bounds() {
    let layout = Layout {
        schema: 1,
        zero_threshold: 0.5,
        positive: vec![Span { offset: 2, length: 2 }],
        negative: vec![Span { offset: 0, length: 1 }, Span { offset: 1, length: 1 }],
        custom_bounds: Vec::new(),
    };
    let tally = Tally { count: 10, zero: 1, buckets: vec![2u64, 0, 3, 4] };
    let h = Histogram {
        layout: Arc::new(layout),
        reset: ResetHint::Unknown,
        sum: 0.0,
        counts: Counts::Int(tally),
    };
    let found = h.filled_buckets();
    let bounds: Vec<(f64, f64, f64)> = found.iter().map(|b| (b.lower, b.upper, b.count)).collect();
    let root = 0.5f64.exp2();
    let expected = [(-2.0, -root, 4.0), (-1.0, -1.0 / root, 3.0), (-0.5, 0.5, 1.0), (root, 2.0, 2.0)];
    for (found, expected) in bounds.iter().zip(expected) {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(
            close(found.0, expected.0) && close(found.1, expected.1) && found.2 == expected.2,
            "{found:?}"
        );
    }
    assert_eq!(bounds.len(), expected.len());
    let highest = Layout { schema: 0, ..Layout::default() };
    assert_eq!((highest.upper_bound(1024), highest.upper_bound(1025)), (f64::MAX, f64::INFINITY));
}
