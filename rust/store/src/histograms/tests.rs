#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use metricsdb_model::histogram::{Span, Tally};
use metricsdb_model::{Counts, Layout, ResetHint};

use super::*;
use crate::codec::histogram::testing::rows;

const START: i64 = 1_700_000_000_000;

/// Points without a start.
fn timed<'a>(
    points: impl IntoIterator<Item = (i64, &'a Histogram)>,
) -> impl Iterator<Item = (i64, i64, &'a Histogram)> {
    points.into_iter().map(|(time, h)| (time, 0, h))
}

fn target(duplicates: DuplicatePolicy) -> Target {
    Target { id: 7, duplicates }
}

fn counter(layout: &Arc<Layout>, n: u64) -> Histogram {
    let (above, below) = layout.bucket_counts();
    let buckets = vec![n; (above + below) as usize];
    let mut tally = Tally { count: 0, zero: 0, buckets };
    tally.count = tally.total();
    Histogram { layout: layout.clone(), reset: ResetHint::Unknown, sum: n as f64, counts: Counts::Int(tally) }
}

fn layout(length: u32) -> Arc<Layout> {
    Arc::new(Layout { positive: vec![Span { offset: 0, length }], ..Layout::default() })
}

fn read(series: &HistogramSeries, range: TimeRange) -> Vec<(i64, Histogram)> {
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    series.read_range(range, &Budget::unlimited(), &mut times, &mut rows).unwrap();
    times.into_iter().zip(rows).collect()
}

fn chunk_rows(series: &HistogramSeries) -> Vec<usize> {
    series.sealed().iter().map(HistogramChunk::count).collect()
}

#[test]
fn chunks_grow_as_histograms_come() {
    let mut series = HistogramSeries::default();
    let mut report = WriteReport::default();
    let layout = layout(5);
    let mut sizes = Vec::new();
    for i in 0..700 {
        let h = counter(&layout, i as u64);
        series
            .append(
                timed([(START + i * 15_000, &h)]),
                target(DuplicatePolicy::Last),
                &mut Vec::new(),
                &mut report,
            )
            .unwrap();
        series.check().unwrap();
        sizes.push(chunk_rows(&series));
    }
    assert_eq!(sizes[30], [0usize; 0]);
    assert_eq!(sizes[126], [32, 32, 32]);
    assert_eq!(sizes[127], [128]);
    assert_eq!(sizes[510], [128, 128, 128, 32, 32, 32]);
    assert_eq!(sizes[511], [512]);
    assert_eq!(sizes[699], [512, 128, 32]);
    assert_eq!((report.accepted, series.count().open_rows), (700, 28));
    assert_eq!((series.oldest(), series.newest()), (Some(START), Some(START + 699 * 15_000)));
}

#[test]
fn wide_histograms_make_short_chunks() {
    let mut series = HistogramSeries::default();
    let mut report = WriteReport::default();
    let wide = counter(&layout(40_000), 3);
    let points: Vec<(i64, &Histogram)> = (0..64).map(|t| (t, &wide)).collect();
    series.append(timed(points), target(DuplicatePolicy::Last), &mut Vec::new(), &mut report).unwrap();
    series.check().unwrap();
    assert_eq!(chunk_rows(&series), [16; 4]);
}

#[test]
fn min_max_and_sum_refuse_a_second_histogram_and_say_what_to_use() {
    for policy in [DuplicatePolicy::Min, DuplicatePolicy::Max, DuplicatePolicy::Sum] {
        let mut series = HistogramSeries::default();
        let mut report = WriteReport::default();
        let h = counter(&layout(2), 3);
        series
            .append(timed([(START, &h), (START, &h)]), target(policy), &mut Vec::new(), &mut report)
            .unwrap();
        assert_eq!((report.accepted, report.rejected[0].reason), (1, Reason::Unsupported));
        assert!(
            report.rejected[0].example.contains("series 7")
                && report.rejected[0].example.contains("use last")
        );
    }
}

#[test]
fn a_wrong_histogram_is_refused_alone() {
    let mut table = Histograms::default();
    let mut report = WriteReport::default();
    let good = counter(&layout(2), 3);
    let mut wrong = good.clone();
    wrong.counts = Counts::Int(Tally::default());
    table
        .append(3, timed([(START, &wrong)]), target(DuplicatePolicy::Last), &mut Vec::new(), &mut report)
        .unwrap();
    assert!(table.get(3).is_none());
    let points = [(START, &good), (START + 1, &wrong), (START + 2, &good)];
    table.append(3, timed(points), target(DuplicatePolicy::Last), &mut Vec::new(), &mut report).unwrap();
    assert_eq!((report.accepted, report.rejected[0].count), (2, 2));
    assert_eq!(report.rejected[0].reason, Reason::Malformed);
    assert!(report.rejected[0].example.contains("spans stand for 2 buckets"));
    assert_eq!(read(table.get(3).unwrap(), TimeRange::ALL).len(), 2);
}

#[test]
fn a_captured_series_stays_as_it_was() {
    let mut series = HistogramSeries::default();
    let mut report = WriteReport::default();
    let layout = layout(5);
    let made: Vec<Histogram> = (0..200).map(|i| counter(&layout, i)).collect();
    let points = |from: usize| (from..from + 100).map(|i| (i as i64, &made[i])).collect::<Vec<_>>();
    series.append(timed(points(0)), target(DuplicatePolicy::Last), &mut Vec::new(), &mut report).unwrap();
    let captured = series.capture(TimeRange::new(0, 97));
    series.append(timed(points(100)), target(DuplicatePolicy::Last), &mut Vec::new(), &mut report).unwrap();
    let last = TimeRange::new(90, 1000);
    assert_eq!(read(&captured, last).len(), 8);
    assert_eq!(read(&series, last).len(), 110);
}

/// The obvious way: a map from time to histogram.
#[derive(Default)]
struct Model {
    rows: BTreeMap<i64, Histogram>,
}

impl Model {
    fn append(&mut self, points: &[(i64, &Histogram)], policy: DuplicatePolicy, report: &mut WriteReport) {
        // As the store: what is not newer than the newest comes after all that is.
        let (mut late, mut newest) = (Vec::new(), self.rows.keys().last().copied());
        for &(time, h) in points {
            if newest.is_some_and(|n| time <= n) {
                late.push((time, h, newest > Some(time)));
            } else {
                newest = Some(time);
                self.rows.insert(time, h.clone());
                report.accepted += 1;
            }
        }
        for (time, h, older) in late {
            let taken = self.rows.contains_key(&time);
            let refused = !matches!(policy, DuplicatePolicy::Last | DuplicatePolicy::First);
            if taken && refused {
                let error = policy == DuplicatePolicy::Error;
                let reason = if error { Reason::DuplicateSample } else { Reason::Unsupported };
                report.reject(reason, 1, String::new);
                continue;
            }
            if !taken || policy == DuplicatePolicy::Last {
                self.rows.insert(time, h.clone());
            }
            report.accepted += 1;
            report.duplicates += u64::from(taken);
            report.out_of_order += u64::from(older);
        }
    }
}

fn policy() -> impl Strategy<Value = DuplicatePolicy> {
    prop_oneof![
        4 => Just(DuplicatePolicy::Last),
        2 => Just(DuplicatePolicy::First),
        1 => Just(DuplicatePolicy::Error),
        1 => Just(DuplicatePolicy::Sum),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// So many milliseconds after the last.
    On(i64),
    /// Anywhere.
    At(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![8 => (1..50i64).prop_map(Step::On), 1 => (0..6000i64).prop_map(Step::At), 1 => Just(Step::On(0))]
}

fn counts(report: &WriteReport) -> (u64, u64, u64, Vec<(Reason, u64)>) {
    let mut rejected: Vec<_> = report.rejected.iter().map(|r| (r.reason, r.count)).collect();
    rejected.sort();
    (report.accepted, report.duplicates, report.out_of_order, rejected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_series_is_a_map_from_time_to_histogram(
        pool in rows(20),
        calls in vec((policy(), vec((step(), any::<prop::sample::Index>()), 1..60), 0..6000i64, 0..6000i64), 1..12),
    ) {
        let (mut series, mut model) = (HistogramSeries::default(), Model::default());
        let mut newest = 0;
        for (policy, points, from, to) in calls {
            let mut at = |step: &Step| match *step {
                Step::On(step) => {
                    newest += step;
                    newest
                }
                Step::At(time) => time,
            };
            let points: Vec<(i64, &Histogram)> = points.iter().map(|(s, h)| (at(s), h.get(&pool))).collect();
            let (mut found, mut wanted) = (WriteReport::default(), WriteReport::default());
            series.append(timed(points.iter().copied()), target(policy), &mut Vec::new(), &mut found).unwrap();
            model.append(&points, policy, &mut wanted);
            prop_assert_eq!(counts(&found), counts(&wanted));
            series.check().unwrap();
            let range = TimeRange::new(from, to);
            let all: Vec<(i64, Histogram)> = model.rows.iter().map(|(t, h)| (*t, h.clone())).collect();
            let within: Vec<_> = all.iter().filter(|(t, _)| range.contains(*t)).cloned().collect();
            prop_assert_eq!(series.has_any(range).unwrap(), !within.is_empty());
            let narrow = TimeRange::new(from, from + 3);
            let any = all.iter().any(|(t, _)| narrow.contains(*t));
            prop_assert_eq!(series.has_any(narrow).unwrap(), any);
            prop_assert_eq!(read(&series, TimeRange::ALL), all);
            prop_assert_eq!(read(&series.capture(range), range), within);
            prop_assert_eq!(series.newest(), model.rows.keys().last().copied());
            prop_assert_eq!(series.oldest(), model.rows.keys().next().copied());
            let count = series.count();
            prop_assert_eq!(count.open_rows + count.sealed_rows, model.rows.len());
        }
    }
}
