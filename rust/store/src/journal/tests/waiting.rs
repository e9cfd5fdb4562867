//! Calls that come while another is at the file.

use super::*;
use crate::journal::frame;

fn sample(metric: &str, time: i64) -> (String, i64, f64) {
    (metric.to_owned(), time, time as f64)
}

/// Gives others time to get to where they wait; what is asserted holds also for those who have not.
fn give_way() {
    (0..10_000).for_each(|_| std::thread::yield_now());
}

#[test]
fn all_that_wait_for_one_sync_are_safe_with_the_next() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    disk.shut(true);
    std::thread::scope(|scope| {
        let write = |time| {
            let db = &db;
            scope.spawn(move || assert_eq!(db.write(&batch(&[sample("m", time)])).not_durable, None))
        };
        let first = write(1);
        disk.await_sync();
        let others: Vec<_> = (2..6).map(write).collect();
        give_way();
        let checkpoint = scope.spawn(|| assert!(db.checkpoint().is_ok()));
        give_way();
        disk.shut(false);
        others.into_iter().chain([first, checkpoint]).for_each(|thread| thread.join().unwrap());
    });
    assert!(db.journal_status().unwrap().syncs <= 6, "{:?}", db.journal_status());
    assert_eq!(content(&open(&disk.after_cut(1), Durability::Batch).0), content(&db));
}

#[test]
fn who_closes_waits_for_who_writes() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    disk.shut(true);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| db.write(&batch(&[sample("m", 1)])).not_durable);
        disk.await_sync();
        let close = scope.spawn(|| db.close());
        give_way();
        disk.shut(false);
        assert_eq!(first.join().unwrap(), None);
        close.join().unwrap().unwrap();
    });
    assert!(db.write(&batch(&[sample("m", 2)])).not_durable.is_some());
    let (again, recovery) = open(&disk.after_cut(1), Durability::Batch);
    assert!(recovery.is_whole());
    assert_eq!(content(&again).samples[&series("m")].len(), 1);
}

#[test]
fn frames_that_are_given_up_while_a_sync_runs_are_not_taken_for_safe() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    let mut promises = Promises::default();
    promises.write(&db, &[sample("m", 1)]);
    disk.fault_at(disk.operations() + 2, Fault::Fails);
    assert!(!promises.write(&db, &[sample("m", 2)]), "its sync fails");
    disk.shut(true);
    std::thread::scope(|scope| {
        let retry = scope.spawn(|| db.sync());
        disk.await_sync();
        // More than may wait, in one call that is not committed before.
        let many: Vec<_> = (0..900).map(|i| sample(&format!("other_{i}"), 3)).collect();
        let writer = scope.spawn({
            let db = &db;
            move || db.write(&batch(&many)).not_durable
        });
        give_way();
        disk.shut(false);
        let _ = writer.join().unwrap();
        let _ = retry.join().unwrap();
    });
    db.checkpoint().unwrap();
    assert!(promises.write(&db, &[sample("m", 5)]));
    let (again, _) = open(&disk.after_cut(1), Durability::Batch);
    assert_eq!(content(&again), content(&db));
}

#[test]
fn who_closes_waits_for_a_checkpoint_that_ends_a_segment() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    db.write(&batch(&[sample("m", 1)]));
    disk.shut(true);
    std::thread::scope(|scope| {
        // Nothing waits for a sync: the segment alone does.
        let checkpoint = scope.spawn(|| db.checkpoint());
        disk.await_sync();
        let close = scope.spawn(|| db.close());
        give_way();
        disk.shut(false);
        close.join().unwrap().unwrap();
        // Before the end of the database, or behind it.
        let _ = checkpoint.join().unwrap();
    });
    assert_eq!(content(&open(&disk.after_cut(1), Durability::Batch).0).samples[&series("m")].len(), 1);
}

#[test]
fn much_that_waits_is_left_to_who_is_at_the_file() {
    let disk = Disk::new(1);
    let (db, _) = open(&disk, Durability::Batch);
    let writer = &db.journal().unwrap().writer;
    disk.shut(true);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| db.write(&batch(&[sample("m", 1)])).not_durable);
        disk.await_sync();
        let mut frames = Vec::new();
        let head = frame::Head { kind: frame::Kind::Rewrite, shard: 255, seq: 1 };
        while frames.len() < 4 << 10 {
            frame::put(&mut frames, writer.salt, head, |out| out.push(0));
        }
        writer.append(&frames);
        writer.relieve();
        assert!(writer.status().waiting_bytes >= frames.len() as u64);
        assert!(db.memory().iter().any(|part| part.name == "write buffers" && part.bytes >= frames.len()));
        disk.shut(false);
        assert_eq!(first.join().unwrap(), None);
    });
    db.sync().unwrap();
    assert_eq!(db.journal_status().unwrap().waiting_bytes, 0);
}
