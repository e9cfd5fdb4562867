//! Functions over windows: against sums over the histograms in them, and worked examples.

use super::*;
use crate::function::Window;
use crate::function::rate::Extrapolated;
use crate::function::sliding::Sliding;
use crate::function::table::lookup;
use crate::syntax::tree::Extension;

/// Points at 10, 20, … seconds; a float stands for itself.
#[derive(Default)]
struct Series {
    float_times: Vec<i64>,
    floats: Vec<f64>,
    times: Vec<i64>,
    histograms: Vec<Arc<FloatHistogram>>,
    starts: Vec<i64>,
}

impl Series {
    fn of(points: &[&str]) -> Series {
        let mut out = Series::default();
        for (i, text) in points.iter().enumerate() {
            let t = (i as i64 + 1) * 10_000;
            match text.parse() {
                Ok(value) => {
                    out.float_times.push(t);
                    out.floats.push(value);
                }
                Err(_) => {
                    out.times.push(t);
                    out.histograms.push(Arc::new(h(text)));
                }
            }
        }
        out
    }

    /// The window (start, end] in seconds, or all points for those that look around its edges.
    fn over<T>(&self, (start, end): (i64, i64), around: bool, f: impl FnOnce(&Points<'_>) -> T) -> T {
        let (start, end) = (start * 1000, end * 1000);
        let cut = |times: &[i64]| match around {
            true => 0..times.len(),
            false => times.partition_point(|t| *t <= start)..times.partition_point(|t| *t <= end),
        };
        let (a, b) = (cut(&self.float_times), cut(&self.times));
        let (timestamps, values) = (&self.float_times[a.clone()], &self.floats[a]);
        let starts = if self.starts.is_empty() { &[][..] } else { &self.starts[b.clone()] };
        f(&Points {
            stood: None,
            floats: Window { timestamps, values, starts: &[], start, end, at: end, args: &[] },
            times: &self.times[b.clone()],
            histograms: &self.histograms[b],
            starts,
        })
    }

    fn eval(&self, function: &str, window: (i64, i64)) -> Outcome {
        let function = lookup(function).unwrap();
        self.over(window, false, |p| p.eval(function))
    }

    fn edges(&self, function: &str, window: (i64, i64), extension: Extension) -> Outcome {
        let function = lookup(function).unwrap();
        self.over(window, true, |p| eval_edges(p, extension, function.sliding))
    }
}

#[track_caller]
fn is(outcome: &Outcome, expected: &str) {
    match &outcome.point {
        Some(Point::Histogram(x)) => assert_close(x, &h(expected)),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn number(outcome: &Outcome) -> f64 {
    match outcome.point {
        Some(Point::Float(x)) => x,
        ref other => panic!("{other:?}"),
    }
}

fn remarks(outcome: &Outcome) -> Vec<Remark> {
    outcome.remarks.iter().collect()
}

#[test]
fn increase_and_rate_stretch_all_counts_alike() {
    let s = Series::of(&[
        "count:10 sum:20 buckets:[6 4]",
        "count:13 sum:25 buckets:[7 6]",
        "count:16 sum:32 buckets:[8 8]",
    ]);
    // The window reaches 10 s farther on both sides, which is less than 1.1 intervals: twice the gain.
    let all = s.eval("increase", (0, 40));
    is(&all, "count:12 sum:24 buckets:[4 8]");
    assert!(matches!(&all.point, Some(Point::Histogram(x)) if x.reset == ResetHint::Gauge));
    assert!(all.remarks.is_empty());
    is(&s.eval("rate", (0, 40)), "count:0.3 sum:0.6 buckets:[0.1 0.2]");
    // Far from the edges half an interval is added.
    is(&s.eval("increase", (-100, 100)), "count:9 sum:18 buckets:[3 6]");
    assert!(s.eval("increase", (15, 25)).point.is_none());
}

#[test]
fn the_count_says_where_a_counter_was_zero() {
    let s = Series::of(&["count:3 buckets:[3]", "count:9 buckets:[9]", "count:15 buckets:[15]"]);
    // 12 in 20 s: 3 are reached in 5 s.
    is(&s.eval("increase", (0, 30)), "count:15 buckets:[15]");
    let gauges = s.eval("delta", (0, 30));
    is(&gauges, "count:18 buckets:[18]");
    assert_eq!(remarks(&gauges), [Remark::NotGauge]);
}

#[test]
fn a_reset_adds_what_was_reached() {
    let s = Series::of(&[
        "count:40 sum:4 buckets:[20 20]",
        "count:50 sum:5 buckets:[20 30]",
        "count:4 sum:1 buckets:[4]",
        "count:6 sum:2 buckets:[4 2]",
    ]);
    // 6 - 40 + 50, and as much again for 10 s of 30 before the first.
    is(&s.eval("increase", (0, 40)), "count:21.333333333333332 sum:4 buckets:[5.333333333333333 16]");
    // A reset after the first point: only what it had come to matters, not its buckets.
    let s = Series::of(&[
        "count:9 schema:-53 custom_values:[1] buckets:[9]",
        "count:2 buckets:[2]",
        "count:6 buckets:[6]",
    ]);
    is(&s.eval("increase", (10, 30)), "count:6 buckets:[6]");
    is(&s.eval("increase", (5, 30)), "count:7.5 buckets:[7.5]");
    assert_eq!(number(&s.eval("resets", (0, 30))), 1.0);
}

#[test]
fn unlike_histograms_in_one_window() {
    let mixed = Series::of(&[
        "count:1 buckets:[1]",
        "count:2 schema:-53 custom_values:[1] buckets:[2]",
        "count:3 buckets:[3]",
    ]);
    for f in ["rate", "sum_over_time", "avg_over_time"] {
        let got = mixed.eval(f, (0, 30));
        assert!(got.point.is_none());
        assert_eq!(remarks(&got), [Remark::MixedSchemas], "{f}");
    }
    let floats = Series::of(&["1", "count:2 buckets:[2]", "count:3 buckets:[3]"]);
    for f in ["rate", "increase", "delta", "sum_over_time", "avg_over_time"] {
        let got = floats.eval(f, (0, 30));
        assert!(got.point.is_none());
        assert_eq!(remarks(&got), [Remark::MixedTypes], "{f}");
    }
    let schemas = Series::of(&[
        "count:4 schema:1 buckets:[1 1 2]",
        "count:8 buckets:[3 5]",
        "count:12 schema:1 buckets:[4 4 4] hint:not_reset",
    ]);
    is(&schemas.eval("increase", (10, 30)), "count:8 buckets:[2 6]");
    is(&schemas.eval("increase", (5, 35)), "count:12 buckets:[4.5 7.5]");
    let bounds = Series::of(&[
        "count:4 schema:-53 custom_values:[1 2] buckets:[1 2 1]",
        "count:8 schema:-53 custom_values:[2 3] buckets:[5 2 1]",
    ]);
    let got = bounds.eval("increase", (0, 20));
    assert_eq!(remarks(&got), [Remark::ReconciledInSubtraction]);
    // 4 in 10 s, and 10 s more.
    is(&got, "count:8 schema:-53 custom_values:[2] buckets:[4 4]");
}

#[test]
fn gauges_and_counters_are_not_taken_for_each_other() {
    let s = Series::of(&["count:1 buckets:[1]", "count:2 buckets:[2] hint:gauge", "count:3 buckets:[3]"]);
    assert_eq!(remarks(&s.eval("rate", (0, 30))), [Remark::NotCounter]);
    assert_eq!(remarks(&s.eval("irate", (0, 30))), [Remark::NotCounter]);
    assert_eq!(remarks(&s.eval("idelta", (0, 30))), [Remark::NotGauge]);
    let s = Series::of(&["count:1 buckets:[1] hint:gauge", "count:2 buckets:[2] hint:gauge"]);
    assert!(s.eval("delta", (0, 20)).remarks.is_empty() && s.eval("idelta", (0, 20)).remarks.is_empty());
}

#[test]
fn the_instant_forms_look_at_two_points() {
    let s = Series::of(&["count:9 buckets:[9]", "count:2 sum:1 buckets:[2]", "count:7 sum:2 buckets:[3 4]"]);
    is(&s.eval("irate", (0, 30)), "count:0.5 sum:0.1 buckets:[0.1 0.4]");
    is(&s.eval("irate", (0, 20)), "count:0.2 sum:0.1 buckets:[0.2]");
    is(&s.eval("idelta", (0, 20)), "count:-7 sum:1 buckets:[-7]");
    let s = Series::of(&["count:9 buckets:[9]", "3", "5", "count:7 buckets:[3 4]"]);
    assert_eq!(number(&s.eval("irate", (0, 30))), 0.2);
    assert_eq!(remarks(&s.eval("irate", (0, 40))), [Remark::MixedTypes]);
    assert!(s.eval("idelta", (30, 40)).point.is_none());
}

#[test]
fn first_last_count_and_their_times_see_all_points() {
    let s = Series::of(&["count:1 buckets:[1]", "3", "count:2 buckets:[2]", "count:2 buckets:[2]", "4", "4"]);
    is(&s.eval("first_over_time", (0, 50)), "count:1 buckets:[1]");
    assert_eq!(number(&s.eval("first_over_time", (10, 50))), 3.0);
    is(&s.eval("last_over_time", (0, 40)), "count:2 buckets:[2]");
    assert_eq!(number(&s.eval("last_over_time", (0, 50))), 4.0);
    assert_eq!(number(&s.eval("ts_of_first_over_time", (5, 60))), 10.0);
    assert_eq!(number(&s.eval("ts_of_last_over_time", (5, 45))), 40.0);
    assert_eq!(number(&s.eval("count_over_time", (0, 60))), 6.0);
    assert_eq!(number(&s.eval("present_over_time", (0, 60))), 1.0);
    // Float and histogram in turn: each turn is a change and a reset.
    assert_eq!(number(&s.eval("changes", (0, 60))), 3.0);
    assert_eq!(number(&s.eval("resets", (0, 60))), 3.0);
    let max = s.eval("max_over_time", (0, 60));
    assert_eq!((number(&max), remarks(&max)), (4.0, vec![Remark::HistogramsIgnored]));
    let none = s.eval("max_over_time", (20, 40));
    assert!(none.point.is_none() && none.remarks.is_empty());
}

#[test]
fn start_timestamps_tell_of_resets() {
    // Deltas: each counts from the one before.
    let mut s = Series::of(&["count:6 buckets:[6]", "count:6 buckets:[6]", "count:6 buckets:[6]"]);
    s.starts = vec![1, 10_000, 20_000];
    assert_eq!(number(&s.eval("resets", (0, 30))), 2.0);
    // The first begins in the window: nothing is extrapolated to the left.
    is(&s.eval("increase", (0, 30)), "count:18 buckets:[18]");
    is(&s.eval("increase", (5, 30)), "count:15 buckets:[15]");
    is(&s.eval("irate", (0, 30)), "count:0.6 buckets:[0.6]");
    // One point is enough then.
    s.starts = vec![5_000, 0, 0];
    is(&s.eval("increase", (0, 10)), "count:6 buckets:[6]");
    assert!(s.eval("increase", (6, 10)).point.is_none());
    // The second one's start lies before the first point, and is not the first one's.
    s.starts = vec![1, 9_000, 9_000];
    assert_eq!(remarks(&s.eval("increase", (0, 30))), [Remark::StartOverlap]);
    // Unknown starts say nothing.
    s.starts = vec![0, 10_000, 0];
    assert_eq!(number(&s.eval("resets", (0, 30))), 0.0);
}

#[test]
fn anchored_windows_take_histograms_as_they_are() {
    let s = Series::of(&[
        "count:5 buckets:[5]",
        "count:9 buckets:[9]",
        "count:3 buckets:[3] hint:reset",
        "count:4 buckets:[4]",
    ]);
    is(&s.edges("increase", (12, 38), Extension::Anchored), "count:8 buckets:[8]");
    is(&s.edges("increase", (15, 45), Extension::Anchored), "count:8 buckets:[8]");
    is(&s.edges("rate", (20, 40), Extension::Anchored), "count:0.2 buckets:[0.2]");
    is(&s.edges("increase", (0, 5), Extension::Anchored), "count:8 buckets:[8]");
    assert!(s.edges("increase", (50, 60), Extension::Anchored).point.is_none());
    assert_eq!(number(&s.edges("resets", (12, 45), Extension::Anchored)), 1.0);
    assert_eq!(number(&s.edges("changes", (20, 45), Extension::Anchored)), 2.0);
    assert_eq!(remarks(&s.edges("delta", (10, 45), Extension::Anchored)), [Remark::NotGauge]);
    let mixed = Series::of(&["1", "count:9 buckets:[9]", "5"]);
    assert_eq!(remarks(&mixed.edges("rate", (10, 30), Extension::Anchored)), [Remark::MixedTypes]);
    assert_eq!(number(&mixed.edges("changes", (10, 30), Extension::Anchored)), 2.0);
}

#[test]
fn smoothed_windows_end_between_histograms() {
    let s = Series::of(&[
        "count:2 sum:1 buckets:[2]",
        "count:6 sum:3 buckets:[2 4]",
        "count:8 sum:7 buckets:[4 4]",
    ]);
    // From 4 (between 2 and 6) to 7.
    is(&s.edges("increase", (15, 25), Extension::Smoothed), "count:3 sum:3 buckets:[1 2]");
    is(&s.edges("rate", (15, 25), Extension::Smoothed), "count:0.3 sum:0.3 buckets:[0.1 0.2]");
    // A reset between the edges climbs from zero: at 12 s 20 % of 5, at 18 s 80 %.
    let s = Series::of(&["count:10 buckets:[10]", "count:5 buckets:[5]"]);
    is(&s.edges("increase", (12, 18), Extension::Smoothed), "count:3 buckets:[3]");
    // From 7.5 to 1.5, with 10 lost between.
    let s = Series::of(&["count:5 buckets:[5]", "count:10 buckets:[10]", "count:3 buckets:[3] hint:reset"]);
    is(&s.edges("increase", (15, 25), Extension::Smoothed), "count:4 buckets:[4]");
    let mixed = Series::of(&["count:1 buckets:[1]", "count:1 schema:-53 custom_values:[1] buckets:[1]"]);
    assert_eq!(remarks(&mixed.edges("rate", (5, 15), Extension::Smoothed)), [Remark::MixedSchemas]);
}

proptest! {
    /// Of a counter that is reset now and then, the increase is the sum of what was observed after the first point.
    #[test]
    fn an_increase_is_what_was_observed(
        parts in prop::collection::vec((observations(), layout(), prop::bool::weighted(0.2)), 2..8),
    ) {
        let (mut all, mut series, mut gained) = (Vec::new(), Series::default(), Vec::new());
        for (i, (more, (schema, zero), reset)) in parts.iter().enumerate() {
            let began = *reset && i > 0;
            if began {
                all.clear();
            }
            all.extend(more.iter().copied());
            let hint = if began { ResetHint::Reset } else { ResetHint::NotReset };
            let point = FloatHistogram { reset: hint, ..of(&all, *schema, *zero) };
            series.times.push((i as i64 + 1) * 10_000);
            series.histograms.push(Arc::new(point));
            if i > 0 {
                gained.extend(more.iter().copied());
            }
        }
        // Points at both ends: nothing is extrapolated.
        let got = series.over((9, 10 * parts.len() as i64), true, |p| {
            eval_edges(p, Extension::Anchored, Sliding::Extrapolated(Extrapolated::Increase))
        });
        let Some(Point::Histogram(got)) = got.point else { panic!("{got:?}") };
        assert_close(&got, &of(&gained, got.schema, got.zero_threshold));
    }
}
