//! Disks that fail and power that goes, at every operation of a scripted workload.

use super::roundtrip::rules;
use super::*;

fn sample(metric: usize, time: i64) -> (String, i64, f64) {
    (format!("metric_{metric}"), time, time as f64 / 8.0 + metric as f64)
}

/// Writes, checkpoints and syncs until the power goes, if it does.
fn work(db: &Database, promises: &mut Promises) {
    for step in 0..12i64 {
        let count = 1 + (step as usize * 5) % 9;
        let mut samples: Vec<_> = (0..count).map(|m| sample(m, 1_000_000 + step * 1000)).collect();
        if step % 3 == 2 {
            samples.push(sample(0, 500_000 + step * 1000));
        }
        promises.write(db, &samples);
        if step % 4 == 3 {
            let _ = db.checkpoint();
        }
        if step % 5 == 4 {
            let _ = db.sync();
        }
    }
}

/// The operations of the workload without faults.
fn operations(durability: Durability) -> u64 {
    let disk = Disk::new(1);
    work(&open(&disk, durability).0, &mut Promises::default());
    disk.operations()
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_that_was_acknowledged() {
    let total = operations(Durability::Batch);
    assert!(total > 60, "{total} operations");
    for operation in 1..=total + 1 {
        for seed in 0..6 {
            let disk = Disk::new(seed);
            disk.fault_at(operation, Fault::Cut);
            let (db, _) = open(&disk, Durability::Batch);
            let mut promises = Promises::default();
            work(&db, &mut promises);
            drop(db);
            let left = disk.after_cut(seed * 31 + operation);
            let case = format!("cut at {operation}, seed {seed}");
            let (db, recovery) = open(&left, Durability::Batch);
            promises.check(&db, &case);
            // Once more, after it went on and was cut again at once.
            promises.write(&db, &[sample(3, 9_000_000), sample(77, 9_000_000)]);
            drop(db);
            let (db, again) = open(&left.after_cut(seed), Durability::Batch);
            promises.check(&db, &case);
            assert!(!again.is_damaged(), "{case}: {recovery:?}\n{again:?}");
        }
    }
}

#[test]
fn an_operation_that_fails_loses_nothing_and_is_made_up_for() {
    let total = operations(Durability::Batch);
    for operation in 1..=total {
        for seed in 0..3 {
            let disk = Disk::new(seed);
            disk.fault_at(operation, Fault::Fails);
            let (db, _) = open(&disk, Durability::Batch);
            let mut promises = Promises::default();
            work(&db, &mut promises);
            let case = format!("failure at {operation}, seed {seed}");
            assert!(promises.write(&db, &[sample(1, 8_000_000)]), "{case}: it did not resume");
            assert_eq!(db.journal_status().unwrap().failing, None);
            // With that all that stands in memory is safe, also what was refused to be promised.
            let all = content(&db);
            drop(db);
            let (db, _) = open(&disk.after_cut(seed + operation), Durability::Batch);
            promises.check(&db, &case);
            assert_eq!(content(&db), all, "{case}");
        }
    }
}

#[test]
fn two_failures_in_a_row_and_a_cut_after_them_keep_the_promise() {
    let total = operations(Durability::Batch);
    for operation in 1..=total {
        let disk = Disk::new(operation);
        disk.fault_at(operation, Fault::Fails);
        disk.fault_at(operation + 1, Fault::Fails);
        disk.fault_at(operation + 4, Fault::Cut);
        let (db, _) = open(&disk, Durability::Batch);
        let mut promises = Promises::default();
        work(&db, &mut promises);
        let left = disk.after_cut(operation);
        promises.check(&open(&left, Durability::Batch).0, &format!("failures from {operation} on"));
    }
}

#[test]
fn between_two_syncs_a_power_cut_costs_what_came_since_the_last_and_no_more() {
    for seed in 0..200 {
        let disk = Disk::new(seed);
        let (db, _) = open(&disk, Durability::Interval);
        let (mut safe, mut open_ones) = (Promises::default(), Promises::default());
        for step in 0..20i64 {
            open_ones.write(&db, &[sample(step as usize % 3, step * 1000)]);
            if step as u64 == seed % 20 {
                db.sync().unwrap();
                safe.acknowledged = open_ones.acknowledged.clone();
            }
            safe.sent = open_ones.sent.clone();
        }
        drop(db);
        safe.check(&open(&disk.after_cut(seed), Durability::Interval).0, &format!("seed {seed}"));
        // The end of the process alone costs nothing.
        open_ones.check(&open(&disk.copy(), Durability::Interval).0, &format!("seed {seed}"));
    }
}

#[test]
fn a_full_disk_refuses_the_promise_and_resumes_when_there_is_room() {
    let disk = Disk::new(3);
    let (db, _) = open(&disk, Durability::Batch);
    let mut promises = Promises::default();
    assert!(promises.write(&db, &[sample(0, 1000)]));
    disk.limit(Some(disk.used() + 150));
    let mut refused = 0;
    for step in 2..40i64 {
        refused += usize::from(!promises.write(&db, &[sample(0, step * 1000), sample(1, step * 1000)]));
    }
    assert!(refused > 30);
    let status = db.journal_status().unwrap();
    assert!(status.failing.is_some() && !status.needs_checkpoint && status.failures > 30, "{status:?}");
    // It is all there to be read.
    assert_eq!(content(&db).samples[&series("metric_0")].len(), 39);
    promises.check(&open(&disk.after_cut(9), Durability::Batch).0, "cut while the disk is full");
    disk.limit(None);
    assert!(promises.write(&db, &[sample(2, 1)]));
    assert_eq!(db.journal_status().unwrap().failing, None);
    let all = content(&db);
    assert_eq!(content(&open(&disk.after_cut(10), Durability::Batch).0), all);
}

#[test]
fn frames_that_do_not_fit_memory_are_made_up_for_by_a_checkpoint() {
    for mode in [Durability::Batch, Durability::Interval, Durability::None] {
        let disk = Disk::new(3);
        let (db, _) = open(&disk, mode);
        let mut promises = Promises::default();
        assert!(promises.write(&db, &[sample(0, 1000)]));
        db.sync().unwrap();
        disk.limit(Some(disk.used()));
        for step in 2..900i64 {
            assert!(!promises.write(&db, &[sample(0, step * 1000), sample(step as usize, step * 1000)]));
        }
        assert!(db.journal_status().unwrap().needs_checkpoint && db.checkpoint_due());
        assert!(db.checkpoint().is_err());
        promises.check(&open(&disk.after_cut(1), mode).0, "cut while full");
        disk.limit(None);
        // Room alone is not enough: the frames are gone.
        assert!(!promises.write(&db, &[sample(5, 7)]));
        promises.check(&open(&disk.after_cut(2), mode).0, "cut before the checkpoint");
        db.checkpoint().unwrap();
        assert!(promises.write(&db, &[sample(5, 8)]));
        db.sync().unwrap();
        let all = content(&db);
        let (again, recovery) = open(&disk.after_cut(3), mode);
        assert!(!recovery.is_damaged(), "{recovery:?}");
        assert_eq!(content(&again), all);
    }
}

#[test]
fn writers_share_syncs_and_checkpoints_run_beside_them() {
    let disk = Disk::new(4);
    let (db, _) = open(&disk, Durability::Batch);
    let db = Arc::new(db);
    let all: Vec<Promises> = std::thread::scope(|scope| {
        let write = |thread: usize| {
            let db = db.clone();
            scope.spawn(move || {
                let mut promises = Promises::default();
                for step in 0..200 {
                    assert!(promises.write(&db, &[sample(thread * 100 + step % 7, step as i64)]));
                }
                promises
            })
        };
        let writers: Vec<_> = (0..4).map(write).collect();
        (0..20).for_each(|_| assert!(db.checkpoint().is_ok()));
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let status = db.journal_status().unwrap();
    assert!(status.syncs <= 840 && status.failures == 0, "{status:?}");
    let (again, recovery) = open(&disk.after_cut(11), Durability::Batch);
    assert!(!recovery.is_damaged(), "{recovery:?}");
    let found = content(&again);
    for promises in all {
        for ((metric, time), value) in promises.acknowledged {
            assert_eq!(found.samples[&metric][&time].0, value.to_bits());
        }
    }
    assert_eq!(found, content(&db));
}

#[test]
fn a_recovery_that_is_cut_off_again_and_again_comes_to_the_same_end() {
    let disk = Disk::new(5);
    let (db, _) = open(&disk, Durability::Batch);
    let mut promises = Promises::default();
    work(&db, &mut promises);
    drop(db);
    // A bad frame in the middle: the recovery writes a checkpoint.
    let (db, _) = open(&disk, Durability::Batch);
    (0..5).for_each(|i| assert!(promises.write(&db, &[sample(0, 7_000_000 + i)])));
    drop(db);
    let names = disk.files().list().unwrap();
    let journal = names.iter().rfind(|n| n.starts_with("journal")).unwrap();
    disk.damage(journal, |bytes| bytes[100] ^= 4);
    let (whole, first) = open(&disk.copy(), Durability::Batch);
    assert!(first.is_damaged());
    let expected = content(&whole);
    let mut left = disk.copy();
    for operation in 1..=5 {
        left.fault_at(operation, Fault::Cut);
        let opened = try_open(&left, Durability::Batch, Options::default());
        assert!(opened.is_err(), "the checkpoint could not be written at {operation}");
        left = left.after_cut(operation);
    }
    let (db, _) = open(&left, Durability::Batch);
    assert_eq!(content(&db), expected);
    assert!(!open(&left, Durability::Batch).1.is_damaged());
}

#[test]
fn rules_that_half_of_the_shards_had_are_those_of_all_or_none() {
    let rule = |digits| vec![("metric_1".to_owned(), selector("metric_1").unwrap(), precision(digits))];
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let disk = Disk::new(seed);
        let (db, _) = open(&disk, Durability::Interval);
        db.write(&batch(&(0..40).map(|m| sample(m, 1000)).collect::<Vec<_>>()));
        db.set_precision_rules(rule(5)).unwrap();
        db.sync().unwrap();
        disk.fault_at(disk.operations() + 1 + seed % 7, Fault::Cut);
        db.set_precision_rules(rule(2)).unwrap();
        drop(db);
        // `open` compares the mark of every series with the rules.
        let (db, _) = open(&disk.after_cut(seed), Durability::Interval);
        let found = content(&db);
        assert_eq!(found.rounded, [1]);
        seen.insert(found.rules[0].1.clone());
        assert_eq!(content(&open(&disk.after_cut(seed), Durability::Interval).0), found);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["digits(2)", "digits(5)"]);
}

fn precision(digits: u8) -> Policy {
    Policy::new(Precision::Digits(digits))
}

#[test]
fn a_closed_database_promises_nothing_more() {
    let disk = Disk::new(2);
    let (db, _) = open(&disk, Durability::Interval);
    let mut promises = Promises::default();
    assert!(promises.write(&db, &[sample(0, 1)]));
    db.close().unwrap();
    assert!(!promises.write(&db, &[sample(0, 2)]));
    assert!(matches!(db.sync(), Ok(()) | Err(Error::NotDurable { .. })));
    assert!(matches!(db.checkpoint(), Err(Error::Storage { .. })));
    promises.check(&open(&disk.after_cut(3), Durability::Batch).0, "closed");
}

#[test]
fn random_work_on_random_disks_keeps_its_promises() {
    for seed in 1..300u64 {
        let disk = Disk::new(seed);
        let mut random = seed * 7919;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let (db, _) = open(&disk, Durability::Batch);
        let base = disk.operations();
        (0..below(4)).for_each(|_| disk.fault_at(base + 1 + below(60), Fault::Fails));
        disk.fault_at(base + 30 + below(80), Fault::Cut);
        let mut promises = Promises::default();
        for step in 0..60 {
            let count = 1 + below(30);
            let one =
                |_| sample(below(40) as usize, (step * 10 + below(5)) as i64 * 100 - below(50) as i64 * 1000);
            promises.write(&db, &(0..count).map(one).collect::<Vec<_>>());
            match below(12) {
                0 => drop(db.checkpoint()),
                1 => drop(db.sync()),
                2 => drop(db.densify(i64::MAX, u64::MAX, &Budget::unlimited())),
                _ => {}
            }
        }
        drop(db);
        let mut left = disk.after_cut(seed);
        for round in 0..3 {
            let (db, _) = open(&left, Durability::Batch);
            promises.check(&db, &format!("seed {seed}, round {round}"));
            promises.write(&db, &[sample(50 + round, 1)]);
            drop(db);
            left = left.after_cut(seed + round as u64);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_in_any_mode_once_the_disk_works_again() {
    for mode in [Durability::None, Durability::Interval, Durability::Batch] {
        let total = operations(mode);
        for operation in 1..=total {
            let disk = Disk::new(operation);
            disk.fault_at(operation, Fault::Fails);
            disk.fault_at(operation + 2, Fault::Fails);
            let (db, _) = open(&disk, mode);
            let mut promises = Promises::default();
            work(&db, &mut promises);
            let case = format!("{mode:?}, failure at {operation}");
            // A sync that fails may take what was written with it; it stands in memory until the disk works again.
            if db.journal_status().unwrap().failing.is_none() {
                promises.check(&open(&disk.copy(), mode).0, &case);
            }
            // The second failure may be still to come.
            assert!((0..3).any(|i| promises.write(&db, &[sample(0, 6_000_000 + i)])), "{case}");
            let all = content(&db);
            assert_eq!(content(&open(&disk.copy(), mode).0), all, "{case}");
        }
    }
}

#[test]
fn a_database_that_was_closed_while_the_disk_failed_says_so_from_then_on() {
    for gives_up in [false, true] {
        let disk = Disk::new(3);
        let (db, _) = open(&disk, Durability::Batch);
        let mut promises = Promises::default();
        assert!(promises.write(&db, &[sample(0, 1000)]));
        disk.limit(Some(disk.used()));
        for step in 2..if gives_up { 900 } else { 4 } {
            assert!(!promises.write(&db, &[sample(step as usize, step * 1000)]));
        }
        assert_eq!(db.journal_status().unwrap().needs_checkpoint, gives_up);
        let writer = &db.journal().unwrap().writer;
        // A checkpoint that began before frames were given up doesn't hold them.
        writer.checkpointed(0);
        assert_eq!(writer.status().needs_checkpoint, gives_up);
        assert!(matches!(db.set_precision_rules(rules(3)), Err(Error::NotDurable { .. })));
        assert!(matches!(db.close(), Err(Error::NotDurable { .. })));
        let error = db.sync().unwrap_err().to_string();
        assert!(error.contains(if gives_up { "checkpoint" } else { "closed" }), "{error}");
        assert!(!promises.write(&db, &[sample(0, 2000)]));
        promises.check(&open(&disk.after_cut(1), Durability::Batch).0, "closed while full");
    }
}
