//! Power that goes while not all is synced: what is kept then, and what the recovery says of the rest.

use super::*;
use crate::journal::{Cause, Lost};

const MODES: [Durability; 3] = [Durability::None, Durability::Interval, Durability::Batch];

fn sample(metric: usize, time: i64) -> (String, i64, f64) {
    (format!("metric_{metric}"), time, time as f64 / 8.0 + metric as f64)
}

#[test]
fn what_a_killed_process_left_is_safe_with_the_next_promise() {
    for (before, after) in MODES.iter().flat_map(|&b| MODES.map(|a| (b, a))) {
        for seed in 0..20 {
            let disk = Disk::new(seed);
            let mut promises = Promises::default();
            let (db, _) = open(&disk, before);
            (0..9).for_each(|m| assert!(promises.write(&db, &[sample(m, 1000)])));
            drop(db);
            // Their labels stand in the segment before.
            let (db, _) = open(&disk, after);
            (0..9).for_each(|m| assert!(promises.write(&db, &[sample(m, 2000)])));
            if after != Durability::Batch {
                db.sync().unwrap();
            }
            let (again, recovery) = open(&disk.after_cut(seed), after);
            promises.check(&again, &format!("{before:?}, {after:?}, seed {seed}"));
            assert!(recovery.is_whole(), "{recovery:?}");
        }
    }
}

#[test]
fn a_sync_reaches_all_segments_in_every_mode() {
    for mode in MODES {
        for seed in 0..20 {
            let disk = Disk::new(seed);
            let (db, _) = open(&disk, mode);
            let mut promises = Promises::default();
            (0..600).for_each(|i| assert!(promises.write(&db, &[sample(i as usize % 7, i * 1000)])));
            assert!(disk.files().list().unwrap().len() > 2);
            db.sync().unwrap();
            let all = content(&db);
            promises.write(&db, &[sample(8, 1)]);
            let (again, _) = open(&disk.after_cut(seed), mode);
            promises.acknowledged.remove(&(series("metric_8"), 1));
            promises.check(&again, &format!("{mode:?}, seed {seed}"));
            assert!(content(&again).samples.len() >= all.samples.len());
        }
    }
}

#[test]
fn a_sync_that_failed_once_is_made_up_for_before_another_succeeds() {
    for (mode, operation) in MODES.iter().flat_map(|&mode| (1..50).map(move |operation| (mode, operation))) {
        let disk = Disk::new(operation);
        let (db, _) = open(&disk, Durability::None);
        let mut promises = Promises::default();
        (0..5).for_each(|m| assert!(promises.write(&db, &[sample(m, 1000)])));
        drop(db);
        disk.fault_at(disk.operations() + operation, Fault::Fails);
        let Ok((db, _)) = try_open(&disk, mode, Options::default()) else { continue };
        for step in 2..30 {
            // Twice a segment, and syncs between.
            promises.write(&db, &(0..40).map(|m| sample(m, step * 1000)).collect::<Vec<_>>());
            if step % 7 == 0 {
                let _ = db.sync();
            }
        }
        for _ in 0..3 {
            if db.checkpoint_due() {
                let _ = db.checkpoint();
            }
            if db.sync().is_ok() {
                break;
            }
        }
        db.sync().unwrap();
        let case = format!("{mode:?}, failure at {operation}");
        let (again, recovery) = open(&disk.after_cut(operation), mode);
        assert!(recovery.is_whole(), "{case}: {recovery:?}");
        assert_eq!(content(&again).samples, content(&db).samples, "{case}");
    }
}

/// Whether a report covers a sample.
fn covers(lost: &Lost, metric: &str, time: i64) -> bool {
    let here = lost.shard == (labels(metric).as_ref().hash64() >> 56) as u8
        && lost.series.as_ref().is_none_or(|s| *s == series(metric));
    here && lost.start.is_none_or(|start| start <= time) && lost.end.is_none_or(|end| time <= end)
}

fn labels(metric: &str) -> Labels {
    Labels::from_pairs([("__name__", metric), ("job", "test")]).unwrap()
}

#[test]
fn a_hole_of_what_was_not_synced_is_no_damage_and_is_listed() {
    let (mut holes, mut named) = (0, 0);
    for (mode, seed) in MODES.iter().flat_map(|&mode| (0..100).map(move |seed| (mode, seed))) {
        let disk = Disk::new(seed);
        disk.fault_at(30 + seed % 50, Fault::Cut);
        let (db, _) = open(&disk, mode);
        let (mut safe, mut all) = (Promises::default(), Promises::default());
        let mut written = Vec::new();
        for step in 0..60i64 {
            let metrics = [step as usize % 3, 3 + step as usize % 2, 3 + step as usize % 2];
            let samples: Vec<_> = metrics.iter().zip(0..).map(|(&m, i)| sample(m, step * 1000 + i)).collect();
            all.write(&db, &samples);
            written.extend(samples);
            if step % 17 == 9 && db.sync().is_ok() {
                safe.acknowledged = all.acknowledged.clone();
            }
        }
        safe.sent = all.sent.clone();
        drop(db);
        let (left, case) = (disk.after_cut(seed), format!("{mode:?}, seed {seed}"));
        let (db, recovery) = open(&left, mode);
        safe.check(&db, &case);
        assert!(!recovery.is_damaged(), "{case}: {recovery:?}");
        assert!(recovery.lost.iter().all(|lost| lost.cause == Cause::Unsynced));
        holes += recovery.unsynced.len();
        named += recovery.lost.iter().filter(|lost| lost.series.is_some()).count();
        let found = content(&db).samples;
        let there = |(metric, time, _): &(String, i64, f64)| {
            found.get(&series(metric)).is_some_and(|samples| samples.contains_key(time))
        };
        for (i, one) in written.iter().enumerate().filter(|(_, one)| !there(one)) {
            // What nothing follows in its stream may have been cut off.
            let follows = written.iter().skip(i).any(|later| later.0 == one.0 && there(later));
            let listed = recovery.lost.iter().any(|lost| covers(lost, &one.0, one.1));
            assert!(listed || !follows, "{case}: {one:?} is not listed: {recovery:?}");
        }
        drop(db);
        assert!(open(&left, mode).1.is_whole(), "{case}");
    }
    assert!(holes > 20 && named > 0, "{holes} holes, {named} named losses");
}

#[test]
fn bad_bytes_before_the_last_sync_are_damage_and_behind_it_are_not_known_to_be() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Interval);
    let name = "journal-0000000001";
    let len = || disk.files().read(name).unwrap().len();
    let write = |times: std::ops::Range<i64>| times.for_each(|t| drop(db.write(&batch(&[sample(1, t)]))));
    write(0..5);
    db.sync().unwrap();
    write(5..10);
    db.sync().unwrap();
    let safe = len();
    write(10..15);
    let end = len();
    for at in 64..end {
        let bad = disk.copy();
        bad.damage(name, |bytes| bytes[at] ^= 1 << (at % 8));
        let (_, recovery) = open(&bad, Durability::Interval);
        let case = format!("byte {at}, synced to {safe}: {recovery:?}");
        assert_eq!(recovery.is_damaged(), at < safe, "{case}");
        let cause = if at < safe { "damaged" } else { "unsynced" };
        assert!(recovery.lost.iter().all(|lost| lost.cause.as_str() == cause), "{case}");
        assert!(!recovery.is_whole() || !recovery.cut.is_empty(), "{case}");
        assert!(open(&bad, Durability::Interval).1.is_whole(), "{case}");
    }
}

#[test]
fn all_of_a_closed_journal_is_known_to_be_synced() {
    for mode in MODES {
        let disk = Disk::new(1);
        let (db, _) = open(&disk, mode);
        (0..9).for_each(|t| drop(db.write(&batch(&[sample(1, t)]))));
        db.sync().unwrap();
        let synced = disk.files().read("journal-0000000001").unwrap().len();
        db.close().unwrap();
        for at in 64..synced {
            let bad = disk.copy();
            bad.damage("journal-0000000001", |bytes| bytes[at] ^= 4);
            assert!(open(&bad, mode).1.is_damaged(), "byte {at}");
        }
        assert!(open(&disk.after_cut(3), mode).1.is_whole());
    }
}

#[test]
fn a_segment_that_is_missing_is_damage_where_it_was_synced() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    (0..400).for_each(|t| drop(db.write(&batch(&[sample(1, t)]))));
    drop(db);
    disk.files().remove("journal-0000000002").unwrap();
    let (_, recovery) = open(&disk, Durability::Batch);
    assert_eq!((&recovery.skipped[0].file[..], recovery.unsynced.len()), ("journal-0000000002", 0));
    assert_eq!(recovery.lost.len(), 1, "{recovery:?}");
    assert!(open(&disk, Durability::Batch).1.is_whole());
}
