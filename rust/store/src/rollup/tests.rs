#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use metricsdb_model::batch::Columns;
use metricsdb_model::{Budget, Labels, Predicate, SeriesSet, Source, Values};
use proptest::prelude::*;

use super::record::{coarser, end_of, floor_of, records_of};
use super::*;
use crate::database::{Database, Options};
use crate::journal::testing::Disk;
use crate::journal::{Durability, Opening};
use crate::shard::{SHARDS, Shard};

mod kind;
mod moved;
mod native;

const LEVELS: [i64; 3] = [60, 300, 1800];

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn rule(raw: Option<i64>, keeps: [Option<i64>; 3]) -> Rule {
    let levels = LEVELS.iter().zip(keeps).map(|(&every, keep)| Level { every, keep }).collect();
    Rule {
        predicate: every(),
        raw,
        levels,
        kind: Some(Kind::Counter),
        keeping: None,
        beside: Beside { sketches: true, states: true, buckets_max: None },
    }
}

fn write(db: &Database, id: u64, samples: &[(i64, f64)]) -> u64 {
    let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
    let ids = vec![id; times.len()];
    let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
    db.append_columns(columns).unwrap().accepted
}

fn opened(disk: &Disk) -> Database {
    let selector = |_: &str| Ok(every());
    let opening = Opening { files: disk.files(), durability: Durability::Batch, salt: 7, selector };
    Database::open(Options::default(), opening).unwrap().0
}

fn reopened(db: Database, disk: &Disk) -> Database {
    db.close().unwrap();
    drop(db);
    opened(disk)
}

fn series(db: &Database) -> u64 {
    db.register(&[Labels::from_pairs([("__name__", "x")]).unwrap()]).unwrap().0[0]
}

fn roll(db: &Database, rule: &Rule, now: i64) -> Rolled {
    let mut progress = Progress::default();
    db.roll(
        std::slice::from_ref(rule),
        Pass { now, delay: 0, batch: 64 },
        &mut progress,
        u64::MAX,
        &Budget::unlimited(),
    )
    .unwrap()
}

/// The shard of the one series.
fn shard(db: &Database) -> parking_lot::MutexGuard<'_, Shard> {
    (0..SHARDS).map(|n| db.shard(n)).find(|shard| shard.series.len() > 0).unwrap()
}

/// Up to where its samples are gone for good.
fn raw_from(db: &Database) -> i64 {
    shard(db).rollups.iter().map(|(_, series)| series.raw_from()).max().unwrap_or(i64::MIN)
}

/// Passes at the end of time, until nothing is left of the one series.
fn all_leaves(db: &Database, rule: &Rule) {
    for _ in 0..4 {
        roll(db, rule, 600_000);
        db.expire(&[], &Budget::unlimited()).unwrap();
    }
    assert_eq!(db.series_count(), 0);
    db.check().unwrap();
}

/// A step that makes all there is to make, however little it is.
fn roll_all(db: &Database, counter: bool, before: i64) {
    let mut shard = shard(db);
    let levels = LEVELS.iter().map(|&every| (every, i64::MIN)).collect();
    let keeping = Some(Keeping { share: 0.05, threshold: 4.0, neighbours: 1 });
    let beside = Beside { sketches: true, states: true, buckets_max: None };
    let step = Step { horizon: before, raw_before: i64::MIN, levels, keeping, beside };
    let kind = if counter { Kind::Counter } else { Kind::Gauge };
    shard.roll_row(0, kind, &step, &mut Default::default(), &mut Rolled::default()).unwrap();
}

fn records(db: &Database, every_ms: i64) -> Vec<Record> {
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    if view.is_empty() {
        Vec::new()
    } else {
        view.records(0, every_ms, TimeRange::new(-1_000_000, 1_000_000)).unwrap()
    }
}

fn model(samples: &BTreeMap<i64, f64>, every: i64) -> Vec<Record> {
    let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().map(|(&t, &v)| (t, v)).unzip();
    let (mut fine, mut all) = (Vec::new(), Vec::new());
    records_of(&times, &values, LEVELS[0], i64::MAX, &mut fine);
    // Level by level, as they are made, so that sums are rounded alike.
    for &level in LEVELS.iter().filter(|&&level| level <= every) {
        all.clear();
        coarser(&fine, level, i64::MAX, &mut all);
        fine.clone_from(&all);
    }
    for r in &mut all {
        r.deviation = block::rounded(r.deviation);
    }
    all
}

fn rounded(mut records: Vec<Record>) -> Vec<Record> {
    records.iter_mut().for_each(|r| r.deviation = block::rounded(r.deviation));
    records
}

fn near(a: &[Record], b: &[Record]) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * (1.0 + a.abs().max(b.abs()));
    let plain = |r: &Record| Record { deviation: 0.0, ..*r };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| plain(a) == plain(b) && close(a.deviation, b.deviation))
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(i64, f64)>),
    Roll(i64),
    Forget(i64),
    Reopen,
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    let sample = (0i64..40_000, (0i32..9).prop_map(f64::from));
    prop_oneof![
        6 => prop::collection::vec(sample, 1..60).prop_map(Op::Write),
        4 => (0i64..45_000).prop_map(Op::Roll),
        2 => (0i64..30_000).prop_map(Op::Forget),
        1 => Just(Op::Reopen),
        1 => Just(Op::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 1000 }))]
    /// Whatever comes late, is rolled, forgotten, replayed or read from a checkpoint: records are those of all samples.
    #[test]
    fn records_are_those_of_all_samples(ops in prop::collection::vec(op(), 1..16)) {
        let disk = Disk::default();
        let mut db = opened(&disk);
        let id = series(&db);
        let (mut id, mut samples, mut gone) = (id, BTreeMap::new(), i64::MIN);
        for op in ops {
            match op {
                Op::Write(batch) => {
                    let young: Vec<(i64, f64)> = batch.iter().copied().filter(|s| s.0 > gone).collect();
                    prop_assert_eq!(write(&db, id, &batch), young.len() as u64);
                    samples.extend(young);
                }
                Op::Roll(now) => { roll(&db, &rule(None, [None; 3]), now); }
                Op::Forget(before) => {
                    // Only of a series that has records its samples leave for good.
                    let now = before + 10_000;
                    roll(&db, &rule(Some(10_000), [None; 3]), now);
                    gone = raw_from(&db);
                }
                Op::Checkpoint => { db.checkpoint().unwrap(); }
                Op::Reopen => {
                    db = reopened(db, &disk);
                    id = series(&db);
                }
            }
            db.check().unwrap();
            for level in LEVELS {
                let (found, wanted) = (rounded(records(&db, level)), model(&samples, level));
                prop_assert!(near(&found, &wanted), "{level} {gone}\n{found:?}\n{wanted:?}");
            }
        }
    }

    /// The bytes of blocks hang on the samples alone, not on the order in which they came.
    #[test]
    fn late_samples_come_to_the_same_bytes(
        samples in prop::collection::btree_map(0i64..60_000, (0i32..9).prop_map(f64::from), 1..300),
        late in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        first_pass in 0i64..60_000,
        counter in any::<bool>(),
    ) {
        let all: Vec<(i64, f64)> = samples.iter().map(|(&t, &v)| (t, v)).collect();
        let late: std::collections::BTreeSet<usize> = late.iter().map(|i| i.index(all.len())).collect();
        let (a, b) = (Database::new(Options::default()), Database::new(Options::default()));
        let (in_order, out_of_order) = (series(&a), series(&b));
        write(&a, in_order, &all);
        let early: Vec<(i64, f64)> =
            all.iter().enumerate().filter(|(i, _)| !late.contains(i)).map(|(_, s)| *s).collect();
        write(&b, out_of_order, &early);
        roll_all(&b, counter, floor_of(first_pass, 60));
        for &i in &late {
            write(&b, out_of_order, &all[i..=i]);
        }
        for db in [&a, &b] {
            roll_all(db, counter, floor_of(all.last().unwrap().0, 60));
        }
        let bytes = |db: &Database| -> Vec<Vec<u8>> {
            let shard = shard(db);
            let series = shard.rollups.get(0).map(|s| s.unpack()).unwrap_or_default();
            let blocks = series.levels.into_iter().flat_map(|l| l.blocks);
            let both = |b: Block| {
                let (buckets, own) = b.parts();
                [buckets.unwrap().buckets().to_vec(), own.to_vec()]
            };
            let kept = series.kept.iter().map(Chunk::to_bytes);
            blocks.flat_map(both).chain(kept).collect()
        };
        for level in LEVELS {
            prop_assert_eq!(records(&a, level), records(&b, level));
        }
        prop_assert!(bytes(&a) == bytes(&b));
    }
}

#[test]
fn records_stand_for_samples_that_are_gone() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..2_000).map(|i| (i * 15, (i % 700) as f64)).collect();
    write(&db, id, &all);
    let done = roll(&db, &rule(Some(5_000), [None; 3]), 30_000);
    assert!(done.records > 400 && done.raw.samples > 1_000, "{done:?}");
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    assert_eq!(view.len(), 1);
    let old = TimeRange::new(301, 600);
    assert_eq!((view.resolution(0, old), view.resolution(0, TimeRange::new(26_000, 27_000))), (60, 0));
    let stood = view.summaries(0, &[old, TimeRange::new(24_601, 27_000)]).unwrap().unwrap();
    assert!(stood.exact && stood.resets);
    for (window, found) in [old, TimeRange::new(24_601, 27_000)].iter().zip(&stood.windows) {
        let inside: Vec<f64> = all.iter().filter(|s| window.contains(s.0)).map(|s| s.1).collect();
        let found = found.unwrap();
        assert_eq!((found.count, found.sum()), (inside.len() as u64, inside.iter().sum()));
        assert_eq!(found.max, inside.iter().copied().fold(f64::MIN, f64::max));
    }
    assert!(!view.summaries(0, &[TimeRange::new(310, 600)]).unwrap().unwrap().exact);
    let mut samples = metricsdb_model::Samples::default();
    view.read(0, TimeRange::ALL, &mut samples).unwrap();
    assert!(samples.timestamps.windows(2).all(|w| w[0] < w[1]));
    // Late samples of that time have no bucket that they could change exactly.
    let report =
        db.append_columns(Columns { ids: &[id], timestamps: &[400], values: Values::Float(&[1.0]) }).unwrap();
    assert_eq!((report.accepted, report.rejected[0].reason), (0, metricsdb_model::Reason::OutOfRetention));
}

#[test]
fn levels_take_over_from_each_other_and_an_empty_series_goes() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..4_000).map(|i| (i * 15, i as f64)).collect();
    write(&db, id, &all);
    let mut keeps = rule(Some(5_000), [Some(10_000), Some(20_000), Some(40_000)]);
    roll(&db, &keeps, 60_000);
    {
        let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
        let widths = [30_000, 45_000, 52_000, 58_000].map(|t| view.resolution(0, TimeRange::new(t, t + 400)));
        assert_eq!(widths, [1800, 300, 60, 0]);
        let windows: Vec<TimeRange> =
            (15..33).map(|i| TimeRange::new(i * 1800 + 1, (i + 1) * 1800)).collect();
        let stood = view.summaries(0, &windows).unwrap().unwrap();
        assert!(stood.exact);
        assert!(stood.windows.iter().all(|w| w.unwrap().count == 120), "{stood:?}");
    }
    keeps.levels.iter_mut().for_each(|l| l.keep = Some(1_000));
    keeps.raw = Some(1_000);
    all_leaves(&db, &keeps);
}

#[test]
fn what_strays_survives_and_is_seen() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let noise = |i: i64| ((i * 7919) % 13) as f64 / 10.0;
    let all: Vec<(i64, f64)> =
        (0..4_000).map(|i| (i * 15, if i % 997 == 500 { 90.0 } else { 20.0 + noise(i) })).collect();
    write(&db, id, &all);
    let keeping = Some(Keeping { share: 0.01, threshold: 5.0, neighbours: 1 });
    let gauge = Rule { kind: Some(Kind::Gauge), keeping, ..rule(Some(5_000), [None; 3]) };
    let done = roll(&db, &gauge, 60_000);
    let peaks: Vec<i64> = all.iter().filter(|s| s.1 == 90.0 && s.0 < 55_000).map(|s| s.0).collect();
    assert!(done.kept >= 3 * peaks.len() as u64, "{done:?}");
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    for peak in peaks {
        let mut found = metricsdb_model::Samples::default();
        view.read(0, TimeRange::new(peak, peak), &mut found).unwrap();
        assert_eq!((found.timestamps, found.values), (vec![peak], vec![90.0]));
        // A window that cuts the bucket knows on which side the peak is.
        let stood = view.summaries(0, &[TimeRange::new(peak - 20, peak + 1)]).unwrap().unwrap();
        assert_eq!(stood.windows[0].unwrap().max, 90.0);
    }
}

#[test]
fn quantiles_of_whole_buckets_are_within_one_percent() {
    let db = Database::new(Options::default());
    let id = series(&db);
    // In the middle a stretch of one value, which needs no sketch.
    let value = |i: i64| match i {
        1_000..2_000 => 7.5,
        _ => ((i * 7919 % 9973) as f64).powi(2) / 1e3 - 500.0,
    };
    let all: Vec<(i64, f64)> = (0..4_000).map(|i| (i * 15, value(i))).collect();
    write(&db, id, &all);
    let gauge = Rule { kind: Some(Kind::Gauge), ..rule(Some(5_000), [Some(20_000), None, None]) };
    roll(&db, &gauge, 60_000);
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let windows: Vec<TimeRange> = (1..31).map(|i| TimeRange::new(i * 1800 + 1, (i + 2) * 1800)).collect();
    let found = view.quantiles(0, &windows).unwrap().unwrap();
    assert!(found.exact);
    for (window, sketch) in windows.iter().zip(&found.windows) {
        let mut inside: Vec<f64> = all.iter().filter(|s| window.contains(s.0)).map(|s| s.1).collect();
        inside.sort_by(f64::total_cmp);
        for q in [0.0, 0.25, 0.5, 0.9, 0.99, 1.0] {
            let rank = q * (inside.len() - 1) as f64;
            let (low, high) = (inside[rank.floor() as usize], inside[rank.ceil() as usize]);
            let found = sketch.as_ref().unwrap().quantile(q);
            let (low, high) = (low - 0.0101 * low.abs(), high + 0.0101 * high.abs());
            assert!(found >= low && found <= high, "{q} {found} {low} {high}");
        }
    }
    assert!(!view.quantiles(0, &[TimeRange::new(1_000, 7_000)]).unwrap().unwrap().exact);
}

#[test]
fn a_pass_that_finds_nothing_new_does_nothing() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..4_000).map(|i| (i * 15, (i % 700) as f64)).collect();
    write(&db, id, &all);
    let three = rule(Some(5_000), [None; 3]);
    assert_eq!(roll(&db, &three, 60_000).series, 1);
    assert_eq!(roll(&db, &three, 60_015).series, 0);
    // A level less: what it has stays, and is nothing that is still to be done.
    let two = Rule { levels: three.levels[..2].to_vec(), ..three.clone() };
    roll(&db, &two, 60_015);
    assert_eq!(roll(&db, &two, 60_015).series, 0);
    // Widths that make no chain with those that stand are not taken, once and for all.
    let odd = Rule { levels: vec![Level { every: 420, keep: None }], ..three.clone() };
    roll(&db, &odd, 60_015);
    assert_eq!(roll(&db, &odd, 60_015).series, 0);
    // A chunk whose last samples lie in a bucket that is not old as a whole waits for it.
    let hours = Rule { levels: three.levels[2..].to_vec(), ..three };
    let db = Database::new(Options::default());
    write(&db, series(&db), &all);
    roll(&db, &hours, 60_000);
    assert_eq!(roll(&db, &hours, 60_700).series, 0);
}

#[test]
fn a_series_that_has_ended_leaves_when_its_last_record_is_old() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..4_000).map(|i| (i * 15 + 7, i as f64)).collect();
    write(&db, id, &all);
    // Nothing is said of samples: they stay no longer than the finest records.
    let keeps = rule(None, [Some(10_000), Some(20_000), Some(40_000)]);
    for now in [60_000, 75_000, 90_000, 105_000, 120_000] {
        roll(&db, &keeps, now);
    }
    all_leaves(&db, &keeps);
}

#[test]
fn times_at_the_ends_of_time_are_left_alone() {
    let db = Database::new(Options::default());
    let id = series(&db);
    write(&db, id, &[(i64::MIN, 1.0), (i64::MIN + 5, 2.0), (0, 3.0), (90, 4.0), (i64::MAX, 5.0)]);
    let keeping = Some(Keeping { share: 1.0, threshold: 1.0, neighbours: 1 });
    let all = Rule { keeping, ..rule(Some(10), [None; 3]) };
    roll(&db, &all, 1_000);
    write(&db, id, &[(i64::MIN + 9, 6.0)]);
    roll(&db, &all, 2_000);
    db.check().unwrap();
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut samples = metricsdb_model::Samples::default();
    view.read(0, TimeRange::ALL, &mut samples).unwrap();
    assert!(samples.timestamps.contains(&i64::MAX) && samples.timestamps.contains(&90));
}

fn delete(db: &Database, (start, end): (i64, i64)) -> crate::expire::Expired {
    db.delete(&[every()], TimeRange::new(start, end), &Budget::unlimited()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// While samples are there, records are those of the samples that a deletion left.
    #[test]
    fn records_without_a_range_are_those_of_the_samples_left(
        times in prop::collection::btree_set(1i64..6000, 1..400),
        late in prop::collection::btree_set(1i64..6000, 0..20),
        range in (0i64..6000, 0i64..4000),
        reopens: bool,
    ) {
        let disk = Disk::default();
        let mut db = opened(&disk);
        let id = series(&db);
        let mut samples: BTreeMap<i64, f64> = times.iter().map(|&t| (t, (t * 7 % 31) as f64)).collect();
        write(&db, id, &samples.clone().into_iter().collect::<Vec<_>>());
        roll(&db, &rule(None, [None; 3]), 6000);
        let late: Vec<(i64, f64)> = late.iter().map(|&t| (t, (t * 5 % 29) as f64)).collect();
        write(&db, id, &late);
        samples.extend(late);
        let range = (range.0, range.0 + range.1);
        let done = delete(&db, range);
        let before = samples.len();
        samples.retain(|&t, _| !(range.0..=range.1).contains(&t));
        prop_assert_eq!((done.samples as usize, done.buckets), (before - samples.len(), 0));
        if reopens {
            db = opened(&disk);
        }
        db.check().unwrap();
        for every in LEVELS {
            // Wider records are made of packed ones, whose deviations are rounded, or of samples.
            let (found, wanted) = (records(&db, every), model(&samples, every));
            prop_assert!(near(&found, &wanted), "level {}: {:?}, not {:?}", every, found, wanted);
        }
    }

    /// Where samples are gone, a bucket that a deletion cuts goes whole, and wider ones are made of those that are left.
    #[test]
    fn of_records_alone_whole_buckets_go(
        times in prop::collection::btree_set(1i64..6000, 1..400),
        range in (0i64..6000, 0i64..4000),
        reopens: bool,
    ) {
        let disk = Disk::default();
        let mut db = opened(&disk);
        let id = series(&db);
        let samples: BTreeMap<i64, f64> = times.iter().map(|&t| (t, (t * 7 % 31) as f64)).collect();
        write(&db, id, &samples.clone().into_iter().collect::<Vec<_>>());
        // Behind all ranges: its own bucket can be made anew.
        write(&db, id, &[(90_000, 1.0)]);
        roll(&db, &rule(Some(0), [None; 3]), 6000);
        let all = records(&db, LEVELS[0]);
        let range = (range.0, range.0 + range.1);
        let meets = |r: &&Record| r.end >= range.0 && r.end - LEVELS[0] < range.1;
        let cut = |r: &&Record| meets(r) && (r.end > range.1 || r.end - LEVELS[0] + 1 < range.0);
        let done = delete(&db, range);
        prop_assert!(done.buckets as usize == all.iter().filter(cut).count(), "{:?}", done);
        if reopens {
            db = opened(&disk);
        }
        db.check().unwrap();
        let left: Vec<Record> = all.iter().filter(|r| !meets(r)).copied().collect();
        prop_assert_eq!(rounded(records(&db, LEVELS[0])), rounded(left.clone()));
        let mut wide = Vec::new();
        coarser(&left, LEVELS[1], 6000, &mut wide);
        let found: Vec<Record> = records(&db, LEVELS[1]).into_iter().filter(|r| r.end <= 6000).collect();
        prop_assert!(near(&found, &wide), "{:?}, not {:?}", found, wide);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 128 } else { 2000 }))]
    /// Blocks give back what they were made of; sketches too, whether stored or read off their records.
    #[test]
    fn a_block_gives_back_its_records_and_sketches(
        buckets in prop::collection::vec((1i64..4, prop::collection::vec(-40i32..40, 1..6), prop::bool::ANY), 1..60),
        scale in prop_oneof![Just(1.0), Just(0.1), Just(1e-3), Just(1e300)],
        counter in prop::bool::ANY,
    ) {
        let shared = SharedColumns::default();
        let (mut records, mut sketched, mut end) = (Vec::new(), Vec::new(), 0);
        for (gap, values, wants) in buckets {
            end += 60 * gap;
            if number_of(end, 60) > 0 {
                break;
            }
            let values: Vec<f64> = values.iter().map(|&v| f64::from(v) * scale).collect();
            let times: Vec<i64> = (0..values.len() as i64).map(|i| end - 50 + 9 * i).collect();
            let mut record = Record::of(end, &times, &values).unwrap();
            record.deviation = block::rounded(record.deviation);
            if !counter {
                (record.resets, record.reset_from) = (0, 0.0);
            }
            if wants && record.min != record.max {
                sketched.push((end, sketches::sketch(&values).encode()));
            }
            records.push(record);
        }
        let block = Block::new(&records, &sketched, 60, counter, &shared).unwrap();
        let again = Block::restore(block.parts().0.unwrap(), block.parts().1).unwrap();
        for block in [block, again] {
            let (mut found, mut sketches) = (Vec::new(), Vec::new());
            block.decode_with_sketches(&mut found, &mut sketches).unwrap();
            prop_assert_eq!(&found, &records);
            prop_assert_eq!(&sketches, &sketched);
            let ends = (block.first(), block.last(), block.count(), block.every());
            prop_assert_eq!(ends, (records[0].end, records[records.len() - 1].end, records.len(), 60));
        }
    }

    /// Bytes from outside are refused or read, and never more than a block's.
    #[test]
    fn a_block_of_any_bytes_is_read_or_refused(
        buckets in prop::collection::vec(any::<u8>(), 0..40),
        own in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        use crate::chunk::Shared;
        let shared = SharedColumns::default().intern(Shared::Buckets(buckets.into()));
        if let Ok(block) = Block::restore(shared, &own) {
            let (mut records, mut sketches) = (Vec::new(), Vec::new());
            if block.decode_with_sketches(&mut records, &mut sketches).is_ok() {
                prop_assert!(records.len() == block.count() && records.len() <= block::BLOCK_BUCKETS as usize);
            }
        }
    }
}

/// Buckets of 1 ms from 0 on with one in the last place of 121: only a gap before it could bring it there.
#[test]
fn a_first_bucket_other_than_the_one_told_is_refused() {
    use crate::chunk::Shared;
    // One on a grid, by a gap that follows no sample; two that are packed, of 5 and 6 where 0 and 6 are told.
    let (gap, packed) = ([1, 1, 1, 0, 242, 1, 0, 0], [0, 0, 1, 0, 10, 2]);
    for (count, last, column) in [(1, 121, &gap[..]), (2, 6, &packed)] {
        let buckets = [&[1, 0, last, count - 1, column.len() as u8][..], column, &[0, 0, 0]].concat();
        let shared = SharedColumns::default().intern(Shared::Buckets(buckets.into()));
        let block = Block::restore(shared, &[0]).unwrap();
        assert_eq!((block.first(), block.last(), block.count()), (0, last.into(), count.into()));
        assert!(block.decode(&mut Vec::new()).is_err(), "{column:?}");
    }
}

#[test]
fn series_that_never_change_share_all_they_have() {
    let db = Database::new(Options::default());
    let labels: Vec<Labels> =
        (0..500).map(|i| Labels::from_pairs([("__name__", "x"), ("i", &format!("{i}"))]).unwrap()).collect();
    let ids = db.register(&labels).unwrap().0;
    let samples: Vec<(i64, f64)> = (0..1000).map(|i| (i * 15, 3.0)).collect();
    ids.iter().for_each(|&id| assert_eq!(write(&db, id, &samples), 1000));
    roll(&db, &rule(None, [None; 3]), 20_000);
    let rollups = |db: &Database| db.memory().into_iter().find(|p| p.name == "rollups").unwrap();
    let part = rollups(&db);
    assert_eq!(part.items, 500);
    assert!(part.bytes < 500 * 60, "only the table: {}", part.bytes);
    assert_eq!(db.rollup_levels()[0].records, 500 * 250);
    // One that changes has its own, and the others stay.
    write(&db, ids[7], &[(7, 4.0)]);
    roll(&db, &rule(None, [None; 3]), 20_000);
    assert!(rollups(&db).bytes > part.bytes);
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let range = TimeRange::new(-1_000_000, 1_000_000);
    let firsts = (0..view.len()).map(|i| view.records(i, 60, range).unwrap()[1]);
    assert_eq!(firsts.clone().filter(|r| r.max == 4.0 && r.count == 5).count(), 1);
    assert_eq!(firsts.filter(|r| r.max == 3.0 && r.count == 4).count(), 499);
    db.check().unwrap();
}

#[test]
fn wider_records_know_what_a_choice_anew_did_to_their_samples() {
    let db = Database::new(Options::default());
    let id = series(&db);
    // More samples stray than may survive, and the choice is another once the second half is there.
    let value = |i: i64| if i % 8 == 5 { (100 + 10 * i) as f64 } else { ((i * 7919) % 13) as f64 };
    let all: Vec<(i64, f64)> = (1..240).map(|i| (i * 15, value(i))).collect();
    let unkept = |level: &LevelSeries| {
        let mut records = Vec::new();
        level.records(i64::MIN, 1800, &mut records).unwrap();
        records.iter().map(|r| r.unkept).sum::<u64>()
    };
    let mut found = Vec::new();
    for (samples, until) in [(&all[..120], 1800), (&all[120..], 3540)] {
        write(&db, id, samples);
        roll_all(&db, false, until);
        let series = shard(&db).rollups.get(0).unwrap().unpack();
        found.push(series.levels.iter().map(unkept).collect::<Vec<u64>>());
    }
    assert!(found.iter().all(|levels| levels.iter().all(|&n| n > 0 && n == levels[0])), "{found:?}");
    assert_ne!(found[1][0], found[0][0]);
}

#[test]
fn records_of_samples_that_were_rewritten_wait_for_the_next_pass() {
    use metricsdb_model::{Policy, Precision};
    let disk = Disk::default();
    let mut db = opened(&disk);
    let id = series(&db);
    let mut samples: BTreeMap<i64, f64> = (0..4_000).map(|i| (i * 15, (i % 70) as f64 + 10.125)).collect();
    write(&db, id, &samples.clone().into_iter().collect::<Vec<_>>());
    roll(&db, &rule(Some(20_000), [None; 3]), 60_000);
    let gone = raw_from(&db);
    assert!(gone > 30_000);
    let policy = Policy::new(Precision::Digits(2));
    db.set_precision_rules(vec![("{}".to_owned(), every(), policy)]).unwrap();
    assert!(db.rewrite_precision(&every(), &Budget::unlimited()).unwrap().changed > 100);
    let mut left = metricsdb_model::Samples::default();
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    view.read(0, TimeRange::new(gone + 1, i64::MAX), &mut left).unwrap();
    drop(view);
    samples.extend(left.timestamps.into_iter().zip(left.values));
    for step in 0..3 {
        db.check().unwrap();
        for level in LEVELS {
            let (found, wanted) = (rounded(records(&db, level)), model(&samples, level));
            assert!(near(&found, &wanted), "{step} {level}\n{found:?}\n{wanted:?}");
        }
        if step == 0 {
            db.checkpoint().unwrap();
            drop(db);
            db = opened(&disk);
        }
        roll_all(&db, true, 60_000);
    }
}

proptest! {
    /// What a query that chooses a level sees is what stands once finer records and samples are gone; behind the level, and where late
    /// samples came, the rest answers.
    #[test]
    fn a_chosen_level_answers_as_if_all_else_were_gone(
        steps in prop::collection::vec((1i64..40, -50i64..50), 50..400),
        late in prop::option::of(1i64..6_000),
        at in 0usize..3,
    ) {
        let mut time = 0;
        let mut all: BTreeMap<i64, f64> = BTreeMap::new();
        for (step, value) in steps {
            time += step;
            all.insert(time, value as f64);
        }
        let samples: Vec<(i64, f64)> = all.iter().map(|(&t, &v)| (t, v)).collect();
        let every_ms = LEVELS[at];
        let (here, gone) = (Arc::new(Database::new(Options::default())), Database::new(Options::default()));
        for db in [&*here, &gone] {
            let id = series(db);
            write(db, id, &samples);
            roll_all(db, false, i64::MAX);
        }
        let levels = LEVELS[at..].iter().map(|&every| (every, i64::MIN)).collect();
        let (raw_before, beside) = (floor_of(time, every_ms), Beside { sketches: true, states: true, buckets_max: None });
        let only = Step { horizon: i64::MAX, raw_before, levels, keeping: None, beside };
        shard(&gone).roll_row(0, Kind::Gauge, &only, &mut Default::default(), &mut Rolled::default()).unwrap();
        if let Some(at) = late {
            all.insert(at, 99.0);
            write(&here, series(&here), &[(at, 99.0)]);
        }
        let chosen = Chosen { store: here.clone(), level: Some(every_ms), fetched: Vec::new() };
        let budget = Budget::unlimited();
        let view = chosen.select(&every(), TimeRange::ALL, &budget).unwrap();
        let other = gone.select(&every(), TimeRange::ALL, &budget).unwrap();
        let windows: Vec<TimeRange> =
            (0..time / every_ms + 2).map(|i| TimeRange::new(i * every_ms + 1, (i + 1) * every_ms)).collect();
        let counted: Vec<u64> = windows.iter().map(|w| all.range(w.start..=w.end).count() as u64).collect();
        let standing = view.resolution(0, TimeRange::ALL) > 0;
        let found = match standing {
            true => view.summaries(0, &windows).unwrap().unwrap(),
            false => {
                // No bucket is whole yet, or a late sample came to the first one.
                prop_assert!(floor_of(time, every_ms) <= 0 || late.is_some());
                return Ok(());
            }
        };
        prop_assert!(found.exact || late.is_some());
        let counts: Vec<u64> = found.windows.iter().map(|w| w.map_or(0, |w| w.count)).collect();
        prop_assert_eq!(counts, counted);
        if late.is_none() {
            prop_assert_eq!(view.resolution(0, TimeRange::ALL), every_ms);
            let there = other.summaries(0, &windows).unwrap().unwrap();
            prop_assert_eq!(format!("{:?}", found.windows), format!("{:?}", there.windows));
            let (mut a, mut b) = (Samples::default(), Samples::default());
            view.read(0, TimeRange::ALL, &mut a).unwrap();
            other.read(0, TimeRange::ALL, &mut b).unwrap();
            prop_assert_eq!((a.timestamps, a.values), (b.timestamps, b.values));
        }
    }
}
