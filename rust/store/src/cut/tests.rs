//! Cuts, exports and drops against plain maps.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use metricsdb_model::{
    Batch, BatchHistogram, BatchSeries, Columns, Counts, Histogram, LabelError, Labels, LabelsBuilder,
    MatchOp, Matcher, SeriesSet, Tally, ValueKind, Values,
};
use proptest::prelude::*;

use super::*;
use crate::database::Options;
use crate::export::Exported;
use crate::journal::testing::Disk;
use crate::journal::{Durability, Opening};

const PODS: usize = 5;

fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    out.push("__name__", "m");
    out.push("pod", std::str::from_utf8(raw).map_err(|e| LabelError::NotUtf8(e.to_string()))?);
    Ok(())
}

fn pod(of: usize) -> String {
    format!("p{of}")
}

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn only(of: usize) -> Predicate {
    Predicate::Match(Matcher::new("pod", MatchOp::Equal, &pod(of)).unwrap())
}

fn histogram(of: i64) -> Histogram {
    let n = of.unsigned_abs();
    Histogram {
        sum: of as f64,
        counts: Counts::Int(Tally { count: n, zero: n, buckets: Vec::new() }),
        ..Histogram::stale()
    }
}

/// What stands at each time of each pod.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    samples: BTreeMap<(usize, i64), (ValueKind, u64)>,
    histograms: BTreeMap<(usize, i64), i64>,
    starts: BTreeMap<(usize, i64), i64>,
}

impl Model {
    fn cut(&mut self, takes: impl Fn(usize, i64) -> bool) {
        self.samples.retain(|&(pod, time), _| !takes(pod, time));
        self.histograms.retain(|&(pod, time), _| !takes(pod, time));
        self.starts.retain(|&(pod, time), _| !takes(pod, time));
    }

    fn series(&self) -> usize {
        let pods = self.samples.keys().chain(self.histograms.keys()).map(|key| key.0);
        pods.collect::<BTreeSet<usize>>().len()
    }

    fn len(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }

    fn start(&self, at: (usize, i64)) -> i64 {
        self.starts.get(&at).copied().unwrap_or(0)
    }

    /// Floats and histograms, each at its time, with the start that a counter may have.
    fn write(&mut self, db: &Database, of: usize, times: &[i64], start: i64, histograms: bool) {
        let name = pod(of);
        let mut batch = Batch::new(1, decode);
        let samples: Vec<i64> = if histograms { Vec::new() } else { times.to_vec() };
        batch.values = samples.iter().map(|&t| (t % 97) as f64 / 8.0).collect();
        batch.starts = samples.iter().map(|_| start).collect();
        batch
            .series
            .push(BatchSeries { raw: Cow::Borrowed(name.as_bytes()), samples: 0..samples.len() as u32 });
        batch.timestamps = samples;
        if histograms {
            let point =
                |&t: &i64| BatchHistogram { series: 0, timestamp: t, start, histogram: histogram(t % 89) };
            batch.histograms = times.iter().map(point).collect();
        }
        db.write(&batch);
        for &time in times {
            if histograms {
                self.histograms.insert((of, time), time % 89);
            } else {
                let value = (ValueKind::Float, ((time % 97) as f64 / 8.0).to_bits());
                self.samples.insert((of, time), value);
            }
            self.starts.insert((of, time), start);
        }
    }

    fn write_wide(&mut self, db: &Database, of: usize, times: &[i64]) {
        let labels = Labels::from_pairs([("__name__", "m"), ("pod", &*pod(of))]).unwrap();
        let ids = vec![db.register(&[labels]).unwrap().0[0]; times.len()];
        let wide = |t: &i64| (1u64 << 60) + *t as u64;
        let values: Vec<u64> = times.iter().map(wide).collect();
        db.append_columns(Columns { ids: &ids, timestamps: times, values: Values::Uint(&values) }).unwrap();
        for time in times {
            self.samples.insert((of, *time), (ValueKind::Uint, wide(time)));
            self.starts.insert((of, *time), 0);
        }
    }
}

fn export(db: &Database, predicate: Predicate, range: TimeRange) -> Vec<Exported> {
    let mut all = db.export(&[predicate], range, false, 0..SHARDS, &Budget::unlimited()).unwrap();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    all
}

/// What a store holds, by its export and by a plain reader.
fn content(db: &Database) -> Model {
    let mut model = Model::default();
    for one in export(db, every(), TimeRange::ALL) {
        let of: usize = one.labels.get("pod").unwrap()[1..].parse().unwrap();
        let kinds = one.columns.runs.iter().flat_map(|run| std::iter::repeat_n(run.kind, run.len));
        for (i, kind) in kinds.enumerate() {
            let at = (of, one.columns.times[i]);
            model.samples.insert(at, (kind, one.columns.bits[i]));
            model.starts.insert(at, one.columns.starts.get(i).copied().unwrap_or(0));
        }
        for (i, h) in one.columns.histograms.iter().enumerate() {
            let at = (of, one.columns.histogram_times[i]);
            let n = h.sum as i64;
            assert_eq!(*h, histogram(n));
            model.histograms.insert(at, n);
            model.starts.insert(at, one.columns.histogram_starts.get(i).copied().unwrap_or(0));
        }
    }
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut read = 0;
    for i in 0..view.len() {
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        view.read_exact(i, TimeRange::ALL, &mut times, &mut bits).unwrap();
        read += times.len();
    }
    assert_eq!(read, model.samples.len());
    model
}

fn same(db: &Database, model: &Model) {
    db.check().unwrap();
    let found = content(db);
    assert_eq!((&found.samples, &found.histograms), (&model.samples, &model.histograms));
    found.starts.iter().for_each(|(&at, &start)| assert_eq!(start, model.start(at), "start at {at:?}"));
    assert_eq!(db.series_count(), model.series());
}

fn opened(disk: &Disk, samples_per_chunk: usize) -> Database {
    let selector = |_: &str| Ok(every());
    let opening = Opening { files: disk.files(), durability: Durability::Batch, salt: 7, selector };
    Database::open(Options { samples_per_chunk, ..Options::default() }, opening).unwrap().0
}

fn delete(db: &Database, predicates: &[Predicate], range: TimeRange) -> Expired {
    db.delete(predicates, range, &Budget::unlimited()).unwrap()
}

#[test]
fn a_deletion_is_exact_and_gives_memory_and_series_back() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    let times: Vec<i64> = (0..3000).collect();
    (0..3).for_each(|of| model.write(&db, of, &times, 0, false));
    db.take_lowest_written();
    let bytes = || (0..SHARDS).map(|n| db.shard(n).sealed_count.bytes).sum::<usize>();
    let before = bytes();
    let done = delete(&db, &[only(1)], TimeRange::new(700, 1800));
    assert_eq!((done.samples, done.touched, done.series), (1101, 1, 0), "{done:?}");
    assert_eq!(db.take_lowest_written(), 700);
    model.cut(|of, time| of == 1 && (700..=1800).contains(&time));
    same(&db, &model);
    assert_eq!(delete(&db, &[only(1)], TimeRange::new(700, 1800)), Expired::default());
    assert_eq!(db.take_lowest_written(), i64::MAX);
    let done = delete(&db, &[only(1), only(2)], TimeRange::ALL);
    assert_eq!((done.samples, done.series), (4899, 2));
    model.cut(|of, _| of > 0);
    same(&db, &model);
    assert!(bytes() * 2 < before, "{before} bytes became {}", bytes());
    assert!(done.bytes as usize * 2 > bytes());
}

#[test]
fn a_series_is_dropped_only_as_it_was_exported() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    let times: Vec<i64> = (0..1000).collect();
    (0..4).for_each(|of| model.write(&db, of, &times, 5, false));
    let range = TimeRange::new(0, 499);
    let out = export(&db, every(), range);
    let handles: Vec<(u64, u64)> = out.iter().map(|one| (one.id, one.digest)).collect();
    // A late sample; one outside of the range; the same value once more; and another start.
    model.write_wide(&db, 0, &[250]);
    model.write(&db, 1, &[600, 1001], 5, false);
    model.write(&db, 2, &[250], 5, false);
    model.write(&db, 3, &[250], 6, false);
    let (gone, done) = db.drop_copied(&handles, range, false, &Budget::unlimited()).unwrap();
    assert_eq!((gone, done.samples), (vec![false, true, true, false], 1000));
    model.cut(|of, time| (1..3).contains(&of) && time < 500);
    same(&db, &model);
    // Of one that is named twice the second finds nothing; ids of what is gone are nobody's.
    let out = export(&db, only(1), TimeRange::ALL);
    let twice = [(out[0].id, out[0].digest); 2];
    let (gone, _) = db.drop_copied(&twice, TimeRange::ALL, false, &Budget::unlimited()).unwrap();
    assert_eq!(gone, [true, false]);
    model.cut(|of, _| of == 1);
    same(&db, &model);
    // Ids of nobody, and of what is gone, are nobody's.
    let (gone, _) = db.drop_copied(&[(u64::MAX, 1), handles[1]], range, false, &Budget::unlimited()).unwrap();
    assert_eq!(gone, [false, false]);
}

#[test]
fn exports_of_slices_of_shards_are_together_the_export_of_all() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    let times: Vec<i64> = (0..1000).map(|i| i * 7 + i % 3).collect();
    (0..60).for_each(|of| model.write(&db, of, &times[..times.len() - of], 5, of % 5 == 4));
    for range in
        [TimeRange::ALL, TimeRange::new(100, 4321), TimeRange::new(6990, 9000), TimeRange::new(-9, -1)]
    {
        let all = db.export(&[every()], range, false, 0..SHARDS, &Budget::unlimited()).unwrap();
        let counts = db.export_samples(&[every()], range, &Budget::unlimited()).unwrap();
        for width in [1, 16, 100, SHARDS] {
            let mut together = Vec::new();
            for first in (0..SHARDS).step_by(width) {
                let shards = first..first + width;
                let some = db.export(&[every()], range, false, shards.clone(), &Budget::unlimited()).unwrap();
                let counted: u64 = counts[first..shards.end.min(SHARDS)].iter().sum();
                let samples: usize = some.iter().map(|one| one.columns.times.len()).sum();
                let histograms: usize = some.iter().map(|one| one.columns.histograms.len()).sum();
                assert!((samples + histograms) as u64 <= counted);
                together.extend(some);
            }
            assert_eq!(together, all);
        }
        let plain = db.export_samples(&[only(0)], range, &Budget::unlimited()).unwrap();
        let inside = times.iter().filter(|&&t| range.contains(t)).count() as u64;
        assert_eq!(plain.iter().sum::<u64>(), inside);
    }
}

#[test]
fn the_first_rule_that_takes_a_series_governs_it() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    let times: Vec<i64> = (0..1000).collect();
    (0..4).for_each(|of| model.write(&db, of, &times, 0, of == 3));
    let rule = |predicate, before| AgeRule { predicate, before };
    let rules = [rule(only(0), None), rule(only(1), Some(900)), rule(every(), Some(333))];
    let (each, done) = db.expire(&rules, &Budget::unlimited()).unwrap();
    assert_eq!((done.samples, done.touched), (900 + 333 + 333, 3));
    assert_eq!(each.iter().map(|e| e.samples).collect::<Vec<_>>(), [0, 900, 666]);
    model.cut(|of, time| time < [0, 900, 333, 333][of]);
    same(&db, &model);
    assert_eq!(db.expire(&rules, &Budget::unlimited()).unwrap().1, Expired::default());
}

#[test]
fn ends_of_time_are_no_trouble() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    model.write(&db, 0, &[i64::MIN, 0, i64::MAX], 0, false);
    delete(&db, &[every()], TimeRange::new(1, 0));
    db.expire(&[AgeRule { predicate: every(), before: Some(i64::MIN) }], &Budget::unlimited()).unwrap();
    same(&db, &model);
    delete(&db, &[every()], TimeRange::new(i64::MIN, -1));
    model.cut(|_, time| time < 0);
    same(&db, &model);
    db.expire(&[AgeRule { predicate: every(), before: Some(i64::MAX) }], &Budget::unlimited()).unwrap();
    model.cut(|_, time| time < i64::MAX);
    same(&db, &model);
}

#[derive(Clone, Debug)]
enum Step {
    Write { of: usize, from: i64, count: i64, step: i64, start: i64, what: u8 },
    Delete { of: usize, all: bool, range: (i64, i64) },
    Expire { of: usize, first: i64, rest: i64 },
    Move { range: (i64, i64), late: Option<(usize, i64)> },
    Densify,
    Checkpoint,
    Reopen,
}

fn steps() -> impl Strategy<Value = Step> {
    let range = || (0i64..600, 0i64..300).prop_map(|(from, len)| (from, from + len));
    let write = (0..PODS, 0i64..500, 1i64..200, 1i64..4, 0i64..4, 0u8..5)
        .prop_map(|(of, from, count, step, start, what)| Step::Write { of, from, count, step, start, what });
    prop_oneof![
        6 => write,
        3 => (0..PODS, any::<bool>(), range()).prop_map(|(of, all, range)| Step::Delete { of, all, range }),
        1 => (0..PODS, 0i64..600, 0i64..600).prop_map(|(of, first, rest)| Step::Expire { of, first, rest }),
        2 => (range(), proptest::option::of((0..PODS, 0i64..600)))
            .prop_map(|(range, late)| Step::Move { range, late }),
        1 => Just(Step::Densify),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

fn step(db: &Database, model: &mut Model, step: &Step) {
    let budget = Budget::unlimited();
    match *step {
        Step::Write { of, from, count, step, start, what } => {
            let times: Vec<i64> = (0..count).map(|i| from + i * step).collect();
            match what {
                0 => model.write_wide(db, of, &times),
                1 => model.write(db, of, &times, start, true),
                _ => model.write(db, of, &times, start, false),
            }
        }
        Step::Delete { of, all, range: (start, end) } => {
            let before = model.len();
            let done = delete(db, &[if all { every() } else { only(of) }], TimeRange::new(start, end));
            model.cut(|pod, time| (all || pod == of) && (start..=end).contains(&time));
            assert_eq!(done.samples as usize, before - model.len());
        }
        Step::Expire { of, first, rest } => {
            let rule = |predicate, before| AgeRule { predicate, before: Some(before) };
            db.expire(&[rule(only(of), first), rule(every(), rest)], &budget).unwrap();
            model.cut(|pod, time| time < if pod == of { first } else { rest });
        }
        Step::Move { range: (start, end), late } => {
            let range = TimeRange::new(start, end);
            let out = export(db, every(), range);
            if let Some((of, time)) = late {
                model.write(db, of, &[time], 9, false);
            }
            let handles: Vec<(u64, u64)> = out.iter().map(|one| (one.id, one.digest)).collect();
            let now = export(db, every(), range);
            let (gone, _) = db.drop_copied(&handles, range, false, &budget).unwrap();
            for (one, gone) in out.iter().zip(gone) {
                let unchanged = now.iter().any(|n| n.id == one.id && n.columns == one.columns);
                assert_eq!(gone, unchanged);
                let pod: usize = one.labels.get("pod").unwrap()[1..].parse().unwrap();
                model.cut(|of, time| gone && of == pod && range.contains(time));
            }
        }
        Step::Densify => drop(db.densify(400, u64::MAX, &budget).unwrap()),
        Step::Checkpoint | Step::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What is deleted, expired or moved is gone to the sample, all else stays, also after a kill.
    #[test]
    fn a_store_that_is_cut_is_what_a_map_would_be(
        all in prop::collection::vec(steps(), 1..40),
        samples_per_chunk in prop_oneof![Just(4usize), Just(128)],
    ) {
        let (disk, mut model) = (Disk::default(), Model::default());
        let mut db = opened(&disk, samples_per_chunk);
        for one in &all {
            match one {
                Step::Checkpoint => drop(db.checkpoint().unwrap()),
                Step::Reopen => db = opened(&disk, samples_per_chunk),
                _ => step(&db, &mut model, one),
            }
            same(&db, &model);
        }
        db = opened(&disk.copy(), samples_per_chunk);
        same(&db, &model);
    }
}

#[test]
fn writers_beside_moves_and_deletions_lose_nothing() {
    let db = Database::new(Options { samples_per_chunk: 8, ..Options::default() });
    let moved = std::sync::Mutex::new(Model::default());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..3000i64 {
                // In order, and some late by up to 40.
                let time = if round % 5 == 4 { round - round % 41 } else { round };
                Model::default().write(&db, (round % 3) as usize, &[time], 0, false);
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let newest = db.stats().newest.unwrap_or(0);
                let range = TimeRange::new(0, newest - 3);
                let out = db.export(&[every()], range, false, 0..SHARDS, &Budget::unlimited()).unwrap();
                let handles: Vec<(u64, u64)> = out.iter().map(|one| (one.id, one.digest)).collect();
                let (gone, _) = db.drop_copied(&handles, range, false, &Budget::unlimited()).unwrap();
                let mut moved = moved.lock().unwrap();
                for (one, _) in out.iter().zip(gone).filter(|(_, gone)| *gone) {
                    let of: usize = one.labels.get("pod").unwrap()[1..].parse().unwrap();
                    let value = |i: usize| (ValueKind::Float, one.columns.bits[i]);
                    moved
                        .samples
                        .extend((0..one.columns.times.len()).map(|i| ((of, one.columns.times[i]), value(i))));
                }
            }
        });
    });
    let mut all = moved.into_inner().unwrap().samples;
    all.extend(content(&db).samples);
    for round in 0..3000i64 {
        let time = if round % 5 == 4 { round - round % 41 } else { round };
        assert!(all.contains_key(&((round % 3) as usize, time)), "{round}");
    }
    db.check().unwrap();
}

/// A rule by which samples older than `raw` leave once records of a minute stand for them.
fn rolled(db: &Database, raw: Option<i64>, now: i64) {
    use crate::rollup::{Beside, Level, Pass, Progress, Rule};
    let rule = Rule {
        predicate: every(),
        raw,
        levels: vec![Level { every: 60_000, keep: None }],
        kind: None,
        keeping: None,
        beside: Beside::default(),
    };
    let pass = Pass { now, delay: 0, batch: 1 };
    let mut progress = Progress::default();
    let done = db.roll(std::slice::from_ref(&rule), pass, &mut progress, u64::MAX, &Budget::unlimited());
    assert!(done.as_ref().unwrap().records > 0, "{done:?}");
}

#[test]
fn of_a_series_with_records_ages_take_what_these_stand_for() {
    let budget = Budget::unlimited();
    let aged = |db: &Database, before: i64| {
        let rule = AgeRule { predicate: every(), before: Some(before) };
        db.expire(&[rule], &budget).unwrap().1
    };
    let db = Database::new(Options::default());
    let times: Vec<i64> = (0..2000).map(|i| i * 1000).collect();
    Model::default().write(&db, 0, &times, 0, false);
    // Records stand for the first half.
    rolled(&db, None, 1_000_000);
    let seen = || export_all(&db).into_iter().min().unwrap();
    let mut gone = aged(&db, 600_000).samples;
    assert_eq!(seen(), 601_000, "a bucket ends with its last sample");
    gone += aged(&db, 600_000).samples;
    // What has no records yet gets them first; so it does where memory is short.
    gone += aged(&db, 1_500_000).samples;
    assert_eq!(seen(), 1_501_000);
    gone += db.evict_before(1_900_000, &budget).unwrap().samples;
    assert_eq!(seen(), 1_861_000);
    assert_eq!(db.stats().samples + gone, 2000);
    assert!(gone > 1000, "{gone}");
    db.check().unwrap();
}

/// Times of all raw samples.
fn export_all(db: &Database) -> Vec<i64> {
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut times = Vec::new();
    (0..view.len())
        .for_each(|i| drop(view.read_exact(i, TimeRange::ALL, &mut times, &mut Vec::new()).unwrap()));
    times
}

#[test]
fn what_is_next_to_go_of_a_long_dense_chunk_stands_apart() {
    let (db, mut model) = (Database::new(Options::default()), Model::default());
    let times: Vec<i64> = (0..6000).collect();
    model.write(&db, 0, &times, 0, false);
    while !db.densify(i64::MAX, u64::MAX, &Budget::unlimited()).unwrap().finished {}
    let counts = || -> Vec<usize> {
        let shard = (0..SHARDS).map(|n| db.shard(n)).find(|shard| shard.series.len() > 0).unwrap();
        shard.series.sealed[0].iter().map(Chunk::count).collect()
    };
    let before = counts();
    let rule = AgeRule { predicate: every(), before: Some(100) };
    assert_eq!(db.expire(&[rule], &Budget::unlimited()).unwrap().1.samples, 100);
    model.cut(|_, time| time < 100);
    same(&db, &model);
    assert_eq!(counts()[..2], [DENSE_NEXT, before[0] - 100 - DENSE_NEXT]);
    // Not so where the middle of one goes.
    assert_eq!(delete(&db, &[every()], TimeRange::new(3000, 3099)).samples, 100);
    model.cut(|_, time| (3000..3100).contains(&time));
    same(&db, &model);
}
