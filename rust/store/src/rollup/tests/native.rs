//! Records of native histograms.

use std::sync::Arc;

use metricsdb_model::histogram::{Counts, Layout, Span, Tally};
use metricsdb_model::{Histogram, HistogramSamples, ResetHint};

use super::*;

fn histogram(first: i32, counts: &[u64], gauge: bool) -> Histogram {
    let spans = vec![Span { offset: first, length: counts.len() as u32 }];
    let count = counts.iter().sum();
    Histogram {
        layout: Arc::new(Layout { schema: 2, positive: spans, ..Layout::default() }),
        reset: if gauge { ResetHint::Gauge } else { ResetHint::Unknown },
        sum: count as f64 / 2.0,
        counts: Counts::Int(Tally { count, zero: 0, buckets: counts.to_vec() }),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(i64, i32, Vec<u64>, bool)>),
    Roll(i64),
    Forget(i64),
    Delete(i64, i64),
    Reopen,
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    let sample = (0i64..30_000, 0i32..3, prop::collection::vec(0u64..5, 1..4), prop::bool::weighted(0.1));
    prop_oneof![
        6 => prop::collection::vec(sample, 1..40).prop_map(Op::Write),
        4 => (0i64..35_000).prop_map(Op::Roll),
        2 => (0i64..20_000).prop_map(Op::Forget),
        2 => (0i64..30_000, 0i64..3_000).prop_map(|(start, length)| Op::Delete(start, start + length)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Checkpoint),
    ]
}

/// Counts of observations by gauge, bounds and index, of all histograms.
fn total<'a>(all: impl Iterator<Item = &'a Histogram>) -> BTreeMap<(bool, i32), f64> {
    let mut total = BTreeMap::new();
    for h in all {
        let indices = metricsdb_model::histogram::indices(&h.layout.positive);
        let Counts::Int(tally) = &h.counts else { return Default::default() };
        for (index, &count) in indices.zip(&tally.buckets) {
            *total.entry((h.reset == ResetHint::Gauge, index)).or_default() += count as f64;
        }
    }
    total.retain(|_, count| *count > 0.0);
    total
}

/// Last minus first, and what was reached before each reset, of the count: what functions of counters come to.
fn gain<'a>(all: impl Iterator<Item = &'a Histogram>) -> (f64, u64) {
    let (mut before, mut gain, mut resets): (Option<&Histogram>, f64, u64) = (None, 0.0, 0);
    for h in all {
        if let Some(before) = before {
            let reset = h.resets_after(before);
            gain += h.count() - if reset { 0.0 } else { before.count() };
            resets += u64::from(reset);
        }
        before = Some(h);
    }
    (gain, resets)
}

fn check(db: &Database, samples: &BTreeMap<i64, Histogram>) -> std::result::Result<(), TestCaseError> {
    let set = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    if set.is_empty() {
        prop_assert!(samples.is_empty());
        return Ok(());
    }
    let width = set.resolution(0, TimeRange::ALL).max(60);
    let windows: Vec<TimeRange> =
        (0..30_000 / width + 1).map(|i| TimeRange::new(i * width - width + 1, i * width)).collect();
    let mut points = HistogramSamples::default();
    set.read_histograms(0, TimeRange::ALL, &mut points).unwrap();
    let stood = set.stood_histograms(0, &windows).unwrap();
    prop_assert!(stood.as_ref().is_none_or(|s| s.exact));
    for (i, window) in windows.iter().enumerate() {
        let raw = || samples.range(window.start..=window.end).map(|s| s.1);
        let near = || {
            let both = points.timestamps.iter().zip(&points.histograms);
            both.filter(|(t, _)| window.contains(**t)).map(|p| p.1)
        };
        prop_assert_eq!(gain(near()), gain(raw()), "{:?}", window);
        prop_assert_eq!(near().next(), raw().next());
        prop_assert_eq!(near().next_back(), raw().next_back());
        if let Some(stood) = &stood {
            prop_assert_eq!(stood.windows[i].count, raw().count() as u64);
            prop_assert_eq!(total(stood.windows[i].sums.iter()), total(raw()));
        }
    }
    db.check().unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 1000 }))]
    /// Records tell counts, sums and gains of all histograms, whatever came late, was forgotten or replayed.
    #[test]
    fn records_tell_what_histograms_came_to(ops in prop::collection::vec(op(), 1..14)) {
        let disk = Disk::default();
        let mut db = opened(&disk);
        let (mut id, mut samples, mut gone) = (series(&db), BTreeMap::new(), i64::MIN);
        for op in ops {
            match op {
                Op::Write(batch) => {
                    for (time, first, counts, gauge) in batch {
                        let h = histogram(first, &counts, gauge);
                        let report = db.append_histograms(&[id], &[time], std::slice::from_ref(&h)).unwrap();
                        prop_assert_eq!(report.accepted, u64::from(time > gone));
                        if time > gone {
                            samples.insert(time, h);
                        }
                    }
                }
                Op::Roll(now) => { roll(&db, &rule(None, [None; 3]), now); }
                Op::Forget(before) => {
                    roll(&db, &rule(Some(10_000), [None, Some(20_000), None]), before + 10_000);
                    gone = raw_from(&db);
                }
                Op::Delete(start, end) => {
                    delete(&db, (start, end));
                    let range = TimeRange::new(start, end);
                    // Of records alone whole buckets go; the finest stay for good.
                    samples.retain(|&time, _: &mut Histogram| {
                        let bucket = end_of(time, LEVELS[0]);
                        let all = TimeRange::new(bucket - LEVELS[0] + 1, bucket);
                        if time > gone { !range.contains(time) } else { !range.overlaps(all) }
                    });
                    // A series that has lost all begins anew.
                    id = series(&db);
                    gone = raw_from(&db);
                }
                Op::Checkpoint => { db.checkpoint().unwrap(); }
                Op::Reopen => {
                    db = reopened(db, &disk);
                    id = series(&db);
                }
            }
        }
        check(&db, &samples)?;
    }
}

#[test]
fn an_estimate_counts_the_histograms_that_are_due() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let write = |from: i64, to: i64| {
        for i in from..to {
            db.append_histograms(&[id], &[i * 15], &[histogram(0, &[i as u64], false)]).unwrap();
        }
    };
    let rules = [rule(None, [None; 3])];
    let due = |now| {
        let pass = Pass { now, delay: 0, batch: 1 };
        db.roll_estimate(&rules, pass, 0, &Budget::unlimited()).unwrap().samples
    };
    write(0, 2000);
    assert_eq!(due(30_000), 2000);
    roll(&db, &rules[0], 30_000);
    write(2000, 2100);
    // Those of a chunk that is due in part are all counted.
    assert!((100..1000).contains(&due(31_500)), "{}", due(31_500));
}

#[test]
fn numbers_behind_records_of_histograms_stay() {
    let db = Database::new(Options::default());
    let id = series(&db);
    for i in 0..100 {
        db.append_histograms(&[id], &[i * 15], &[histogram(0, &[i as u64], false)]).unwrap();
    }
    // All histograms are in records alone, and then the sender sends numbers.
    let short = rule(Some(1_000), [None; 3]);
    roll(&db, &short, 60_000);
    let numbers: Vec<(i64, f64)> = (0..100).map(|i| (60_000 + i * 15, i as f64)).collect();
    assert_eq!(write(&db, id, &numbers), 100);
    roll(&db, &short, 150_000);
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut found = metricsdb_model::Samples::default();
    view.read(0, TimeRange::ALL, &mut found).unwrap();
    assert_eq!(found.len(), 100, "they have no records that stand for them");
}

/// A cap of buckets for gauges and counters together.
fn capped(buckets_max: u32, raw: Option<i64>) -> Rule {
    Rule { beside: Beside { buckets_max: Some(buckets_max), ..Beside::default() }, ..rule(raw, [None; 3]) }
}

/// The highest schema at which all counts of a bucket stand in so many buckets, and these.
fn fitted(all: &[&Histogram], buckets_max: usize) -> (i32, BTreeMap<(bool, i32), f64>) {
    let at = |schema: i32| {
        let mut counts: BTreeMap<(bool, i32), f64> = BTreeMap::new();
        for h in all {
            let indices = metricsdb_model::histogram::indices(&h.layout.positive);
            let Counts::Int(tally) = &h.counts else { return Default::default() };
            for (index, &count) in indices.zip(&tally.buckets) {
                let end = (f64::from(index) / 2f64.powi(2 - schema)).ceil() as i32;
                *counts.entry((h.reset == ResetHint::Gauge, end)).or_default() += count as f64;
            }
        }
        counts
    };
    let fits = |schema: &i32| *schema == -4 || at(*schema).len() <= buckets_max;
    let schema = (-4..=2).rev().find(fits).unwrap();
    (schema, at(schema))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 1000 }))]
    /// Above the cap a record goes to the highest schema at which it fits, says so, and is the same over any chain of levels
    /// and in any order; below it stays exact.
    #[test]
    fn records_above_a_cap_go_to_the_schema_at_which_they_fit(
        batch in prop::collection::vec(
            (0i64..6_000, -3i32..6, prop::collection::vec(0u64..5, 1..9), prop::bool::weighted(0.1)), 1..60),
        buckets_max in 1u32..14,
        middle in 0i64..6_000,
        reopens: bool,
    ) {
        let (disk, mut samples) = (Disk::default(), BTreeMap::new());
        let mut db = opened(&disk);
        let id = series(&db);
        let half = batch.len() / 2;
        for (at, (time, first, counts, gauge)) in batch.into_iter().enumerate() {
            if at == half {
                roll(&db, &capped(buckets_max, None), middle);
            }
            let h = histogram(first, &counts, gauge);
            db.append_histograms(&[id], &[time], std::slice::from_ref(&h)).unwrap();
            samples.insert(time, h);
        }
        let last = histogram(0, &[1], false);
        db.append_histograms(&[id], &[7_200], &[last]).unwrap();
        roll(&db, &capped(buckets_max, None), 10_000);
        if reopens {
            db = reopened(db, &disk);
        }
        db.check().unwrap();
        let rolled = shard(&db).rollups.iter().next().map(|(_, series)| series.unpack());
        // Of too few buckets nothing is due.
        let Some(rolled) = rolled else { return Ok(()) };
        for level in &rolled.levels {
            let mut records = Vec::new();
            level.records(i64::MIN, 7_199, &mut records).unwrap();
            for record in records {
                let range = TimeRange::new(record.end - level.every + 1, record.end);
                let rows: Vec<&Histogram> = samples.range(range.start..=range.end).map(|s| s.1).collect();
                let (schema, wanted) = fitted(&rows, buckets_max as usize);
                let read = |of: &crate::histograms::HistogramSeries| {
                    let (mut times, mut rows) = (Vec::new(), Vec::new());
                    of.read_range(range, &Budget::unlimited(), &mut times, &mut rows).unwrap();
                    rows
                };
                let native = level.native.as_ref().unwrap();
                let sums = read(&native.sums);
                let wanted: BTreeMap<_, _> = wanted.into_iter().filter(|(_, count)| *count > 0.0).collect();
                prop_assert_eq!(total(sums.iter()), wanted);
                let mut near: Vec<Histogram> = rows.iter().map(|h| (*h).clone()).collect();
                near.iter_mut().for_each(|h| h.lower(schema));
                let points = read(&native.points);
                prop_assert!(sums.iter().chain(&points).all(|h| h.layout.schema == schema));
                prop_assert_eq!(gain(points.iter()), gain(near.iter()));
                let width = if schema < 2 { 2f64.powf(2f64.powi(-schema)) - 1.0 } else { 0.0 };
                prop_assert_eq!(record.max, width);
                let stood = if schema == -4 { u32::MAX } else { buckets_max };
                prop_assert!(sums.iter().map(Histogram::bucket_count).sum::<usize>() <= stood as usize);
            }
        }
    }
}

#[test]
fn a_range_tells_by_how_much_its_quantiles_may_be_off() {
    let db = Database::new(Options::default());
    let id = series(&db);
    for i in 0..80 {
        // Wide in the first record alone.
        let first = if i < 20 { (i % 20) as i32 } else { 0 };
        db.append_histograms(&[id], &[i * 30], &[histogram(first, &[1], true)]).unwrap();
    }
    let levels = vec![Level { every: 1_800, keep: None }];
    db.roll(
        &[Rule { levels, ..capped(10, Some(1_000)) }],
        Pass { now: 5_000, delay: 0, batch: 1 },
        &mut Progress::default(),
        u64::MAX,
        &Budget::unlimited(),
    )
    .unwrap();
    let set = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    assert_eq!(set.resolution(0, TimeRange::ALL), 1_800);
    // 20 buckets, 11 of the next schema, 6 of schema 0.
    assert_eq!(set.quantile_error(0, TimeRange::new(1, 1_800)).unwrap(), Some(1.0));
    assert_eq!(set.quantile_error(0, TimeRange::new(1_801, 3_600)).unwrap(), None);
}
