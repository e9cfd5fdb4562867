#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use metricsdb_model::{Columns, HistogramSamples, MatchOp, Matcher, Source, Values};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::histogram::testing::rows;
use crate::late::DuplicatePolicy;
use crate::{Options, Stats};

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn database(series: usize, options: Options) -> (Database, Vec<Labels>, Vec<u64>) {
    let db = Database::new(options);
    let set = |i: usize| Labels::from_pairs([("__name__", "latency"), ("i", &i.to_string())]).unwrap();
    let sets: Vec<Labels> = (0..series).map(set).collect();
    let ids = db.register(&sets).unwrap().0;
    (db, sets, ids)
}

fn read(db: &Database, range: TimeRange) -> BTreeMap<String, Vec<(i64, Histogram)>> {
    let found = db.histograms(&every(), range, &Budget::unlimited()).unwrap();
    let row = |(i, labels): (usize, &Labels)| {
        let of = found.offsets[i]..found.offsets[i + 1];
        let times = found.timestamps[of.clone()].iter().copied();
        (labels.to_string(), times.zip(found.histograms[of].iter().cloned()).collect())
    };
    assert!(found.labels.is_sorted() && found.offsets.len() == found.labels.len() + 1);
    found.labels.iter().enumerate().map(row).collect()
}

fn one(pool: usize) -> Vec<Histogram> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut made = rows(pool).new_tree(&mut runner).unwrap().current();
    made.truncate(1);
    made
}

#[test]
fn a_series_with_histograms_alone_is_found() {
    let (db, _, ids) = database(3, Options::default());
    let h = one(10);
    assert_eq!(db.append_histograms(&ids[..1], &[1000], &h).unwrap().accepted, 1);
    let budget = Budget::unlimited();
    let within = TimeRange::new(1000, 2000);
    assert_eq!(db.series(&[], within, &budget).unwrap().0, ids[..1]);
    assert_eq!(db.label_values("i", &[], within, &budget).unwrap(), ["0"]);
    assert!(db.series(&[], TimeRange::new(0, 999), &budget).unwrap().0.is_empty());
    // Readers of plain samples see none.
    assert!(db.read_many(&ids, TimeRange::ALL, &budget).unwrap().values.is_empty());
    let stats = db.stats();
    assert_eq!((stats.samples, stats.histogram_samples, stats.histogram_chunks), (0, 1, 0));
    assert_eq!((stats.oldest, stats.newest), (Some(1000), Some(1000)));
    db.check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Against a plain list, over open and sealed histograms.
    #[test]
    fn a_query_reads_the_histograms_of_its_range_and_the_one_before(
        pool in rows(40), count in 1usize..300, (from, len) in (0i64..3000, 0i64..3000), cut in 0i64..4000
    ) {
        let (db, sets, ids) = database(2, Options::default());
        let stored: Vec<(i64, Histogram)> =
            (0..count).map(|i| (10 * i as i64, pool[i % pool.len()].clone())).collect();
        let (times, rows): (Vec<i64>, Vec<Histogram>) = stored.iter().cloned().unzip();
        db.append_histograms(&vec![ids[0]; count], &times, &rows).unwrap();
        let values = Values::Float(&[1.0]);
        db.append_columns(Columns { ids: &ids[1..], timestamps: &[from], values }).unwrap();
        let range = TimeRange::new(from, from + len);
        let view = db.select(&every(), range, &Budget::unlimited()).unwrap();
        let bound = db.bound_of(&every(), range, &Budget::unlimited()).unwrap();
        let (mut seen, mut cost, mut bytes) = (0, 0, 0);
        for i in 0..view.len() {
            let mut found = HistogramSamples::default();
            bytes += view.encoded_bytes(i, range);
            view.read_histograms(i, range, &mut found).unwrap();
            if view.labels(i) == sets[1] {
                prop_assert!(!view.has_histograms(i) && found.is_empty());
                continue;
            }
            seen += found.len();
            cost += found.cost(0);
            prop_assert!(view.has_histograms(i));
            let widest = found.histograms.iter().map(|h| 1 + h.bucket_count() as u64).max();
            prop_assert!(bound.width >= widest.unwrap_or(0));
            let within = stored.iter().filter(|(t, _)| range.contains(*t)).cloned();
            let read = found.timestamps.iter().copied().zip(found.histograms.iter().cloned());
            prop_assert!(read.eq(within));
            let before = stored.iter().rev().find(|(t, _)| *t < cut.min(range.end)).cloned();
            prop_assert_eq!(view.histogram_before(i, cut.min(range.end)).unwrap(), before);
        }
        prop_assert_eq!((bound.series, bound.series_min), (view.len() as u64, view.len() as u64));
        prop_assert_eq!((bound.samples, bound.samples_min, bound.mixed), (cost + 1, cost + 1, cost));
        prop_assert_eq!(bound.bytes, bytes);
        let every = db.bound_ever(2);
        prop_assert!(every.samples > cost && every.mixed >= cost && every.width >= bound.width);
        prop_assert!(every.bytes >= bytes && db.samples_ever() > cost);
        prop_assert_eq!(seen, stored.iter().filter(|(t, _)| range.contains(*t)).count());
    }
}

#[test]
fn a_sample_and_a_histogram_at_one_time_both_stay() {
    let (db, _, ids) = database(1, Options { duplicates: DuplicatePolicy::Error, ..Options::default() });
    let h = one(10);
    let write = |time: i64| {
        let values = Values::Float(&[1.5]);
        db.append_columns(Columns { ids: &ids, timestamps: &[time], values }).unwrap()
    };
    assert_eq!(db.append_histograms(&ids, &[5000], &h).unwrap().accepted, 1);
    for time in [5000, 4000, 6000] {
        assert_eq!(write(time).rejected_total(), 0);
    }
    assert_eq!(db.append_histograms(&ids, &[5500], &h).unwrap().out_of_order, 0);
    assert_eq!(db.read_many(&ids, TimeRange::ALL, &Budget::unlimited()).unwrap().timestamps.len(), 3);
    assert_eq!(read(&db, TimeRange::ALL).values().next().unwrap().len(), 2);
    assert_eq!((db.stats().oldest, db.stats().newest), (Some(4000), Some(6000)));
    db.check().unwrap();
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let (db, _, ids) = database(1, Options::default());
    let h = one(10);
    let unknown = [ids[0], ids[0] + 256, u64::MAX, u64::from(u32::MAX)];
    let four: Vec<Histogram> = vec![h[0].clone(); 4];
    let report = db.append_histograms(&unknown, &[1; 4], &four).unwrap();
    assert_eq!((report.accepted, report.rejected_total()), (1, 3));
    assert!(report.rejected.iter().all(|r| r.reason == Reason::UnknownSeries));
    assert!(matches!(db.append_histograms(&ids, &[1, 2], &h), Err(Error::Input { .. })));
    let few = Budget::new(Default::default(), 0, 0);
    assert!(matches!(db.histograms(&every(), TimeRange::ALL, &few), Err(Error::Limit { .. })));
}

#[test]
fn neighbours_share_a_layout_whoever_made_it() {
    let (db, _, ids) = database(1, Options::default());
    let mut h = one(10);
    let part = |name: &str| db.memory().iter().find(|p| p.name == name).map(|p| (p.bytes, p.items)).unwrap();
    let empty = part("histograms: open").0;
    for time in 0..20 {
        h[0].layout = std::sync::Arc::new((*h[0].layout).clone());
        db.append_histograms(&ids, &[time], &h).unwrap();
    }
    let grown = part("histograms: open").0 - empty;
    let without_layouts = 32 * (8 + size_of::<Histogram>()) + 20 * h[0].bytes() + 1000;
    assert!(grown < without_layouts + 2 * h[0].layout.bytes(), "{grown}");
    assert_eq!(part("histograms: open").1, 20);
    for time in 20..600 {
        db.append_histograms(&ids, &[time], &h).unwrap();
    }
    assert_eq!(part("histograms: sealed").1 + part("histograms: open").1, 600);
    assert!(part("histograms: sealed").0 > 0);
}

type Content = BTreeMap<String, BTreeMap<i64, Histogram>>;

fn expected(model: &Content, range: TimeRange) -> BTreeMap<String, Vec<(i64, Histogram)>> {
    let within = |m: &BTreeMap<i64, Histogram>| {
        m.iter().filter(|(t, _)| range.contains(**t)).map(|(t, h)| (*t, h.clone())).collect::<Vec<_>>()
    };
    model.iter().map(|(l, m)| (l.clone(), within(m))).filter(|(_, rows)| !rows.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn histograms_of_many_series_are_maps_from_time(
        pool in rows(20),
        calls in vec(vec((0usize..5, 0..400i64, any::<prop::sample::Index>()), 1..90), 1..8),
        (from, to) in (0..400i64, 0..400i64),
    ) {
        let (db, sets, ids) = database(5, Options::default());
        let mut model = Content::new();
        for call in calls {
            let of: Vec<u64> = call.iter().map(|c| ids[c.0]).collect();
            let times: Vec<i64> = call.iter().map(|c| c.1).collect();
            let histograms: Vec<Histogram> = call.iter().map(|c| c.2.get(&pool).clone()).collect();
            let report = db.append_histograms(&of, &times, &histograms).unwrap();
            prop_assert_eq!((report.accepted as usize, report.rejected_total()), (call.len(), 0));
            for ((series, time, _), h) in call.into_iter().zip(histograms) {
                model.entry(sets[series].to_string()).or_default().insert(time, h);
            }
            // Beside them a plain sample, which changes nothing.
            let values = Values::Int(&[7]);
            db.append_columns(Columns { ids: &ids[..1], timestamps: &times[..1], values }).unwrap();
            db.check().unwrap();
            prop_assert_eq!(read(&db, TimeRange::ALL), expected(&model, TimeRange::ALL));
        }
        let range = TimeRange::new(from.min(to), from.max(to));
        prop_assert_eq!(read(&db, range), expected(&model, range));
        let budget = Budget::unlimited();
        let others = Predicate::Match(Matcher::new("i", MatchOp::NotEqual, "0").unwrap());
        let found = db.series(&[others], range, &budget).unwrap().1;
        let mut found: Vec<String> = found.iter().map(|l| l.to_string()).collect();
        found.sort();
        let zero = sets[0].to_string();
        let wanted: Vec<String> = expected(&model, range).into_keys().filter(|l| *l != zero).collect();
        prop_assert_eq!(found, wanted);
        let Stats { histogram_samples, .. } = db.stats();
        prop_assert_eq!(histogram_samples as usize, model.values().map(|m| m.len()).sum::<usize>());
    }
}

#[test]
fn a_metric_with_histograms_is_neither_constant_nor_a_copy() {
    let db = Database::new(Options::default());
    let set = |name: &str| Labels::from_pairs([("__name__", name)]).unwrap();
    let ids = db.register(&["a", "b", "c"].map(set)).unwrap().0;
    for time in 0..5 {
        for &id in &ids {
            let values = Values::Float(&[1.5]);
            db.append_columns(Columns { ids: &[id], timestamps: &[time], values }).unwrap();
        }
    }
    for (id, h) in ids.iter().zip(one(10).iter().cycle()).take(2) {
        db.append_histograms(&[*id], &[0], std::slice::from_ref(h)).unwrap();
    }
    let mut facts = db.metric_facts(&Budget::unlimited()).unwrap();
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    let told = |i: usize| (facts[i].name.as_str(), facts[i].constant, facts[i].copy_of.is_some());
    assert_eq!([0, 1, 2].map(told), [("a", 0, false), ("b", 0, false), ("c", 1, false)]);
}
