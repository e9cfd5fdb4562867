//! Bad bytes at every place of a small store.

use super::*;

/// A checkpoint and a journal behind it, of a few series.
fn small() -> (Disk, Content) {
    let disk = Disk::new(21);
    let (db, _) = open(&disk, Durability::Batch);
    let write = |db: &Database, from: i64| {
        for step in 0..4i64 {
            let one = |m: usize| (format!("m{m}"), from + step * 1000, (step * 10) as f64 + m as f64 / 8.0);
            db.write(&batch(&(0..3).map(one).collect::<Vec<_>>()));
        }
    };
    write(&db, 0);
    db.checkpoint().unwrap();
    write(&db, 100_000);
    db.write(&batch(&[("new".to_owned(), 1, 0.5)]));
    db.write(&batch(&[("new".to_owned(), 2, 0.25)]));
    let all = content(&db);
    (disk, all)
}

/// Samples of `all` that are missing; that none is another is asserted.
pub fn missing(found: &Content, all: &Content, case: &str) -> usize {
    for (series, samples) in &found.samples {
        for (time, value) in samples {
            assert_eq!(all.samples.get(series).and_then(|s| s.get(time)), Some(value), "{case}: {series}");
        }
    }
    let count = |content: &Content| content.samples.values().map(BTreeMap::len).sum::<usize>();
    count(all) - count(found)
}

fn check(disk: &Disk, all: &Content, case: &str, lost_max: usize) {
    let (db, recovery) = open(disk, Durability::Batch);
    let lost = missing(&content(&db), all, case);
    // A journal that ends with a whole frame is one that ended there.
    let told = !recovery.is_whole() || !recovery.cut.is_empty() || case.starts_with("journal");
    assert!(lost == 0 || told, "{case}: {lost} samples are gone, and nobody says so");
    assert!(lost <= lost_max, "{case}: {lost} samples are gone: {recovery:?}");
    let after = content(&db);
    db.write(&batch(&[("after".to_owned(), 1, 1.0)]));
    drop(db);
    let (db, again) = open(disk, Durability::Batch);
    assert!(again.is_whole(), "{case}: {again:?}");
    let mut found = content(&db);
    assert_eq!(found.samples.remove(&series("after")).map(|s| s.len()), Some(1));
    assert_eq!(found.samples, after.samples, "{case}");
}

#[test]
fn a_bad_byte_anywhere_costs_its_frame_and_makes_nothing_wrong() {
    let (disk, all) = small();
    let mut free = 0;
    for name in disk.files().list().unwrap() {
        for at in 0..disk.files().read(&name).unwrap().len() {
            let bad = disk.copy();
            bad.damage(&name, |bytes| bytes[at] ^= 1 << (at % 8));
            // A frame of labels in the checkpoint is two series of eight samples; one in the journal at most two samples.
            check(&bad, &all, &format!("byte {at} of {name}"), 16);
            free += 1;
        }
    }
    assert!(free > 500, "{free} bytes");
}

#[test]
fn a_cut_at_any_byte_keeps_what_is_before_it() {
    let (disk, all) = small();
    for name in disk.files().list().unwrap() {
        let len = disk.files().read(&name).unwrap().len();
        let mut before = usize::MAX;
        for at in 0..len {
            let bad = disk.copy();
            bad.damage(&name, |bytes| bytes.truncate(at));
            let (db, _) = open(&bad.copy(), Durability::Batch);
            let lost = missing(&content(&db), &all, &format!("{name}, cut at {at}"));
            assert!(lost <= before, "{name}: a longer file has less");
            before = lost;
            check(&bad, &all, &format!("{name}, cut at {at}"), usize::MAX);
        }
        assert!(before <= 1, "{name}");
    }
}

#[test]
fn the_report_names_what_a_checkpoint_lost() {
    let (disk, all) = small();
    let parts = disk.files().list().unwrap().into_iter().filter(|n| n.matches('-').count() == 2);
    let places =
        parts.flat_map(|n| (64..disk.files().read(&n).unwrap().len()).map(move |at| (n.clone(), at)));
    let (mut named, mut unnamed) = (0, 0);
    for (part, at) in places.collect::<Vec<_>>() {
        let bad = disk.copy();
        bad.damage(&part, |bytes| bytes[at] ^= 0x10);
        let (db, recovery) = open(&bad, Durability::Batch);
        let lost = missing(&content(&db), &all, "bad part");
        for one in recovery.lost.iter().filter(|one| one.series.is_some()) {
            assert_eq!((one.start, one.end, one.samples), (Some(0), Some(3000), Some(4)), "{one:?}");
            assert!(all.samples.contains_key(one.series.as_ref().unwrap()));
            named += 1;
        }
        unnamed += usize::from(lost > 0 && recovery.lost.is_empty());
    }
    assert!(named > 0);
    assert_eq!(unnamed, 0, "something was lost and nothing listed");
}

#[test]
fn the_report_names_the_samples_of_a_journal_whose_values_are_bad() {
    let (disk, all) = small();
    let name = disk.files().list().unwrap().into_iter().rfind(|n| n.starts_with("journal")).unwrap();
    let mut named = 0;
    for at in 64..disk.files().read(&name).unwrap().len() {
        let bad = disk.copy();
        bad.damage(&name, |bytes| bytes[at] ^= 0x10);
        let (db, recovery) = open(&bad, Durability::Batch);
        let found = content(&db);
        for one in recovery.lost.iter().filter(|one| one.what == "samples of the journal") {
            let series = one.series.as_ref().unwrap();
            assert_eq!((one.start, one.samples), (one.end, Some(1)));
            assert!(all.samples[series].contains_key(&one.start.unwrap()));
            assert!(!found.samples[series].contains_key(&one.start.unwrap()));
            assert_eq!((recovery.lost.len(), missing(&found, &all, "bad values")), (1, 1));
            named += 1;
        }
    }
    assert!(named > 12, "{named}");
}

#[test]
fn a_file_that_is_gone_is_said_and_the_others_are_kept() {
    let (disk, all) = small();
    for name in disk.files().list().unwrap() {
        let bad = disk.copy();
        bad.files().remove(&name).unwrap();
        let (db, _) = open(&bad, Durability::Batch);
        missing(&content(&db), &all, &name);
    }
}

#[test]
fn another_version_is_refused_and_left_as_it_is() {
    let (disk, _) = small();
    let names = disk.files().list().unwrap();
    let journal = names.iter().rfind(|n| n.starts_with("journal")).unwrap();
    disk.damage(journal, |bytes| {
        for copy in [0, 32] {
            bytes[copy + 8] = 2;
            let sum = crc32fast::hash(&bytes[copy..copy + 28]).to_le_bytes();
            bytes[copy + 28..copy + 32].copy_from_slice(&sum);
        }
    });
    let operations = disk.operations();
    let error = try_open(&disk, Durability::Batch, Options::default()).err().unwrap();
    assert!(matches!(error, Error::Version { found: 2, known: 1, .. }), "{error}");
    assert_eq!(disk.operations(), operations);
}
