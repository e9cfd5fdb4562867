//! What is written while a journal is still being replayed.

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use proptest::prelude::*;

use super::roundtrip::{everything, rules};
use super::*;
use crate::journal::{Files, Sink};

const START: i64 = 1_700_000_000_000;

fn sample(metric: usize, time: i64) -> (String, i64, f64) {
    (format!("metric_{metric}"), time, time as f64 / 8.0 + metric as f64)
}

/// A checkpoint, and behind it a journal with a bit of everything: late samples, other rules, and series that are gone.
fn filled(options: Options) -> Disk {
    let disk = Disk::new(3);
    let (db, _) = try_open(&disk, Durability::Batch, options).unwrap();
    db.set_precision_rules(rules(3)).unwrap();
    everything(&db, START);
    db.write(&batch(&[sample(1, 1000), sample(2, 1000), sample(3, START)]));
    db.checkpoint().unwrap();
    everything(&db, START + 90_000);
    db.write(&batch(&[sample(1, 1500), sample(4, 1000), sample(3, START + 5)]));
    db.evict_before(5000, &Budget::unlimited()).unwrap();
    db.write(&batch(&[sample(2, START + 7), sample(5, START + 7)]));
    db.set_precision_rules(rules(2)).unwrap();
    everything(&db, START + 200_000);
    disk
}

/// The steps of a replay of the disk.
fn steps(disk: &Disk, options: Options) -> usize {
    let (db, mut replay) = begin(&disk.copy(), Durability::Batch, options);
    (1..).find(|_| replay.step(&db).unwrap()).unwrap()
}

#[test]
fn five_kills_at_any_step_of_a_recovery_keep_what_was_written_between_them() {
    use DuplicatePolicy::{Error, First, Last, Sum};
    for duplicates in [Last, Sum, First, Error] {
        let options = Options { duplicates, ..Options::default() };
        let base = filled(options);
        let total = steps(&base, options);
        assert!(total > 5, "{total} steps");
        // The policies differ at no step; where a kill falls does.
        for killed_at in (0..=total).filter(|at| duplicates == Last || at % 5 == 2) {
            let (disk, model) = (base.copy(), base.copy());
            let (expected, _) = try_open(&model, Durability::Batch, options).unwrap();
            for round in 0..5i64 {
                let (db, mut replay) = begin(&disk, Durability::Batch, options);
                assert!(db.replaying().is_some());
                let from = START + round * 50_000 + 400_000;
                let mixed =
                    [sample(2, from), sample(70 + round as usize, from), sample(3, START + 1 + round)];
                for db in [&db, &expected] {
                    assert_eq!(db.write(&batch(&mixed)).not_durable, None);
                    everything(db, from);
                }
                let ended = (0..killed_at).any(|_| replay.step(&db).unwrap());
                let late = [sample(1, START + round), sample(80 + round as usize, START)];
                [&db, &expected].into_iter().for_each(|db| drop(db.write(&batch(&late))));
                assert_eq!(db.replaying().is_none(), ended);
            }
            let (db, recovery) = try_open(&disk, Durability::Batch, options).unwrap();
            db.check().unwrap();
            assert!(recovery.is_whole(), "{recovery:?}");
            let (found, expected) = (content(&db), content(&expected));
            assert_eq!(found, expected, "{duplicates:?}, killed at step {killed_at}");
        }
    }
}

#[test]
fn a_replay_that_ends_leaves_what_a_recovery_before_the_writes_would_have() {
    let options = Options::default();
    let base = filled(options);
    let (expected, found) = try_open(&base.copy(), Durability::Batch, options).unwrap();
    let disk = base.copy();
    let (db, mut replay) = begin(&disk, Durability::Batch, options);
    let mut done = Vec::new();
    for step in 0.. {
        [&db, &expected].into_iter().for_each(|db| everything(db, START + 300_000 + step * 1000));
        done.extend(db.replaying().map(|progress| progress.done_bytes));
        assert!(!db.checkpoint_due());
        if replay.step(&db).unwrap() {
            break;
        }
    }
    assert!(done.is_sorted() && done.first() < done.last(), "{done:?}");
    assert_eq!((db.replaying(), replay.recovery()), (None, &found), "what came meanwhile is not counted");
    assert!(replay.step(&db).unwrap(), "there is nothing more to do");
    db.check().unwrap();
    [&db, &expected].into_iter().for_each(|db| everything(db, START + 900_000));
    assert_eq!(content(&db), content(&expected));
    db.checkpoint().unwrap();
    assert_eq!(content(&open(&disk, Durability::Batch).0), content(&expected));
}

#[test]
fn a_report_says_what_waits_and_what_is_refused() {
    let options = Options::default();
    let (db, mut replay) = begin(&filled(options), Durability::Batch, options);
    let report = db.write(&batch(&[sample(2, 1), sample(90, 1)]));
    assert_eq!((report.accepted, report.series_created, report.rejected_total()), (2, 1, 0));
    let labels = |metric: &str| Labels::from_pairs([("__name__", metric), ("job", "test")]).unwrap();
    let (ids, created) = db.register(&[labels("metric_2")]).unwrap();
    assert_eq!(created, 0, "its series is known, whatever it holds");
    let columns =
        Columns { ids: &[ids[0], ids[0] | 1 << 33], timestamps: &[2, 2], values: Values::Int(&[1, 2]) };
    let report = db.append_columns(columns).unwrap();
    assert_eq!((report.accepted, report.rejected_total()), (1, 1));
    let report = db.append_histograms(&[ids[0]; 2], &[3, 4], &[histogram(1), invalid()]).unwrap();
    assert_eq!((report.accepted, report.rejected_total()), (1, 1));
    while !replay.step(&db).unwrap() {}
    let found = content(&db);
    let of = &found.samples[&series("metric_2")];
    assert!(of.contains_key(&1) && of.contains_key(&2));
    assert_eq!(found.histograms[&series("metric_2")], [(3, histogram(1))]);
}

fn invalid() -> Histogram {
    let counts = Counts::Int(Tally { count: 1, zero: 7, buckets: Vec::new() });
    Histogram { counts, ..histogram(1) }
}

#[test]
fn what_needs_all_of_it_waits_for_the_end() {
    let options = Options::default();
    let disk = filled(options);
    let (db, mut replay) = begin(&disk, Durability::Batch, options);
    let other = Disk::new(9);
    let retyped = || {
        let mut made = batch(&[("rounded".to_owned(), START + 1, 12345.678)]);
        let metric = "rounded".to_owned();
        made.metadata.push(Metadata { metric, kind: Some(MetricType::Gauge), help: None, unit: None });
        made
    };
    // More than may wait in memory.
    let many: Vec<_> = (0..4000).map(|i| sample(i % 9, START + 1_000_000 + i as i64 * 977)).collect();
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| db.checkpoint().unwrap());
        let snapshot = scope.spawn(|| db.snapshot(&other.files(), 3).unwrap());
        let marks = scope.spawn(|| db.write(&retyped()));
        let flood = scope.spawn(|| (0..20).for_each(|_| assert_eq!(db.write(&batch(&many)).accepted, 4000)));
        (0..1000).for_each(|_| std::thread::yield_now());
        while !replay.step(&db).unwrap() {}
        checkpoint.join().unwrap();
        snapshot.join().unwrap();
        marks.join().unwrap();
        flood.join().unwrap();
    });
    db.check().unwrap();
    let (expected, _) = open(&filled(options), Durability::Batch);
    expected.write(&retyped());
    expected.write(&batch(&many));
    assert_eq!(content(&db), content(&expected));
    assert_eq!(content(&open(&disk, Durability::Batch).0), content(&expected));
}

/// Files that are removed only while a replay goes on.
struct Watched(Arc<dyn Files>, OnceLock<Weak<Database>>);

impl Files for Watched {
    fn remove(&self, name: &str) -> io::Result<()> {
        let db = self.1.get().and_then(Weak::upgrade).unwrap();
        assert!(db.replaying().is_some(), "{name} is removed while a checkpoint may be written");
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        self.0.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.0.sync(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

#[test]
fn what_is_left_over_goes_before_a_checkpoint_may_begin() {
    let options = Options::default();
    let disk = filled(options);
    drop(disk.files().create("checkpoint-9.new").unwrap());
    let files = Arc::new(Watched(disk.files(), OnceLock::new()));
    let opening = Opening { files: files.clone(), durability: Durability::Batch, salt: 99, selector };
    let (db, mut replay) = Database::begin(options, opening).unwrap();
    let db = Arc::new(db);
    files.1.set(Arc::downgrade(&db)).unwrap();
    while !replay.step(&db).unwrap() {}
    assert!(!disk.files().list().unwrap().contains(&"checkpoint-9.new".to_owned()));
}

#[test]
fn a_database_that_is_closed_first_is_replayed_by_the_next_opening() {
    let options = Options::default();
    let disk = filled(options);
    let (expected, _) = open(&disk.copy(), Durability::Batch);
    let (db, mut replay) = begin(&disk, Durability::Batch, options);
    replay.step(&db).unwrap();
    [&db, &expected].into_iter().for_each(|db| everything(db, START + 300_000));
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| db.checkpoint());
        (0..1000).for_each(|_| std::thread::yield_now());
        db.close().unwrap();
        let error = checkpoint.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("closed before its journal was replayed"), "{error}");
    });
    let (again, recovery) = open(&disk, Durability::Batch);
    assert!(recovery.is_whole() && recovery.checkpoint == Some(1), "{recovery:?}");
    assert_eq!(content(&again), content(&expected));
}

#[test]
fn files_that_are_not_sound_are_read_to_the_end_first() {
    let options = Options::default();
    let base = filled(options);
    let names = base.files().list().unwrap();
    for name in &names {
        let disk = base.copy();
        disk.damage(name, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let (db, mut replay) = begin(&disk, Durability::Batch, options);
        // A list has a second copy.
        let whole = *name == "checkpoint-0000000001";
        assert_eq!((db.replaying().is_some(), replay.recovery().is_whole()), (whole, whole), "{name}");
        while !replay.step(&db).unwrap() {}
    }
    for name in &names {
        let disk = base.copy();
        disk.files().remove(name).unwrap();
        let (db, replay) = begin(&disk, Durability::Batch, options);
        let last = names.iter().rfind(|name| name.starts_with("journal"));
        assert_eq!(db.replaying().is_some(), Some(name) == last, "{name}: {:?}", replay.recovery());
    }
}

#[test]
fn a_file_that_turns_bad_while_it_is_replayed_is_said() {
    let options = Options::default();
    let base = filled(options);
    let names = base.files().list().unwrap();
    for name in names.iter().filter(|name| *name != "checkpoint-0000000001") {
        let disk = base.copy();
        let (db, mut replay) = begin(&disk, Durability::Batch, options);
        disk.make_unreadable(name);
        let error = (0..100).find_map(|_| replay.step(&db).err()).unwrap();
        assert!(error.to_string().contains(name), "{error}");
        assert!(db.replaying().is_some(), "writes are taken still");
        assert_eq!(db.write(&batch(&[sample(2, START + 9)])).not_durable, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Kills and power cuts at random steps of recoveries, with writes between them: nothing that was acknowledged is lost,
    /// and where no power went, all is as if there had been no kill.
    #[test]
    fn whatever_ends_a_recovery_costs_nothing(
        rounds in prop::collection::vec((0usize..12, 0usize..9, any::<bool>(), any::<u64>(), any::<bool>()), 1..8),
        sums in any::<bool>(),
    ) {
        let duplicates = if sums { DuplicatePolicy::Sum } else { DuplicatePolicy::Last };
        let options = Options { duplicates, ..Options::default() };
        let mut disk = Disk::new(3);
        let expected = Database::new(options);
        let mut promises = Promises::default();
        let (mut time, mut cuts) = (START, false);
        for (steps, metrics, power, seed, checkpoint) in rounds {
            let (db, mut replay) = begin(&disk, Durability::Batch, options);
            for step in 0..=steps {
                time += 1000;
                let mut samples: Vec<_> = (0..metrics).map(|m| sample(m * (1 + step % 3), time)).collect();
                samples.push(sample(1, time - 2500));
                prop_assert!(promises.write(&db, &samples));
                expected.write(&batch(&samples));
                if step > 0 && replay.step(&db).unwrap() && checkpoint {
                    db.checkpoint().unwrap();
                }
            }
            drop(db);
            (disk, cuts) = if power { (disk.after_cut(seed), true) } else { (disk.copy(), cuts) };
        }
        let (db, recovery) = try_open(&disk, Durability::Batch, options).unwrap();
        db.check().unwrap();
        prop_assert!(!recovery.is_damaged(), "{recovery:?}");
        if !sums {
            promises.check(&db, "after it all");
        }
        prop_assert_eq!(content(&db), content(&expected), "cuts: {}", cuts);
    }
}

#[test]
fn a_write_waits_for_the_end_where_too_much_waits_already() {
    const ENOUGH: usize = 512 << 10;
    let options = Options::default();
    let (db, mut replay) = begin(&filled(options), Durability::Batch, options);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let from = |i: i64| START + 1_000_000 + i * 200_000;
            // As many as it takes, and one that waits.
            let mut i = 0;
            while db.replaying().is_some() {
                everything(&db, from(i));
                i += 1;
            }
            i
        });
        while db.journal().unwrap().gate.bytes() <= ENOUGH {
            std::thread::yield_now();
        }
        assert!(!writer.is_finished());
        while !replay.step(&db).unwrap() {}
        assert!(writer.join().unwrap() > 1);
    });
    db.check().unwrap();
}
