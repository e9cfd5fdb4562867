//! What is opened again is what was closed.

use super::*;

/// A bit of everything; `from` keeps calls apart.
pub fn everything(db: &Database, from: i64) {
    let mut made = batch(&[]);
    for (i, metric) in ["a_total", "b", "c_total", "rounded"].iter().enumerate() {
        let at = made.timestamps.len() as u32;
        for step in 0..150 {
            made.timestamps.push(from + step * 1000 + (step % 7) * i64::from(i == 1));
            made.values.push(step as f64 / 7.0 + i as f64);
            made.starts.push(if i == 1 { 0 } else { from - 5000 });
        }
        let raw = Cow::Owned(metric.as_bytes().to_vec());
        made.series.push(BatchSeries { raw, samples: at..made.timestamps.len() as u32 });
        let point = |n: i64| BatchHistogram {
            series: i as u32,
            timestamp: from + n * 500,
            start: from - 1,
            histogram: histogram(n as u64),
        };
        made.histograms.extend((0..40).filter(|_| i == 2).map(point));
    }
    let family = |metric: &str, kind, help: Option<&str>| Metadata {
        metric: metric.to_owned(),
        kind,
        help: help.map(str::to_owned),
        unit: None,
    };
    made.metadata.push(family("a", Some(MetricType::Counter), Some("help\u{ff}")));
    made.metadata.push(family("rounded", Some(MetricType::Counter), None));
    let report = db.write(&made);
    assert_eq!(report.not_durable, None);
    let labels = ["ints", "uints"].map(|m| Labels::from_pairs([("__name__", m), ("job", "test")]).unwrap());
    let (ids, _) = db.register(&labels).unwrap();
    let times = [from + 1, from + 2];
    let columns = Columns { ids: &[ids[0]; 2], timestamps: &times, values: Values::Int(&[i64::MIN, -1]) };
    db.append_columns(columns).unwrap();
    let columns =
        Columns { ids: &[ids[1], 1 << 31], timestamps: &times, values: Values::Uint(&[u64::MAX, 7]) };
    assert_eq!(db.append_columns(columns).unwrap().rejected_total(), 1);
    // Late ones, one of them at a time that is taken.
    db.write(&batch(&[("b".to_owned(), from + 10, 5.5), ("b".to_owned(), from - 77, 6.5)]));
}

pub fn rules(digits: u8) -> Vec<(String, Predicate, Policy)> {
    let policy = Policy::new(Precision::Digits(digits));
    vec![("rounded".to_owned(), selector("rounded").unwrap(), policy)]
}

/// Writes, with a checkpoint at will, opens again, and compares; twice.
fn survives(duplicates: DuplicatePolicy, durability: Durability, checkpoints: bool, clean: bool) {
    let disk = Disk::new(5);
    let options = Options { duplicates, ..Options::default() };
    let (db, recovery) = try_open(&disk, durability, options).unwrap();
    assert_eq!(recovery, Recovery::default());
    db.set_precision_rules(rules(3)).unwrap();
    everything(&db, 1_700_000_000_000);
    if checkpoints {
        let saved = db.checkpoint().unwrap();
        assert_eq!(saved.series, 6);
        db.densify(1_700_000_100_000, u64::MAX, &Budget::unlimited()).unwrap();
        db.checkpoint().unwrap();
    }
    everything(&db, 1_700_000_090_000);
    db.set_precision_rules(rules(2)).unwrap();
    db.rewrite_precision(&every(), &Budget::unlimited()).unwrap();
    let before = content(&db);
    if clean {
        db.close().unwrap();
    }
    drop(db);
    for _ in 0..2 {
        // A clean end and the end of the process alone leave all that was written.
        let (db, recovery) = try_open(&disk.copy(), durability, options).unwrap();
        db.check().unwrap();
        assert_eq!(content(&db), before);
        assert!(!recovery.is_damaged() && recovery.cut.is_empty(), "{recovery:?}");
        assert_eq!(recovery.checkpoint.is_some(), checkpoints);
        assert_eq!(db.stats().series, 6);
    }
    // What goes on after it goes on as it would have.
    let (db, _) = try_open(&disk, durability, options).unwrap();
    everything(&db, 1_700_000_200_000);
    let before = content(&db);
    drop(db);
    assert_eq!(content(&try_open(&disk, durability, options).unwrap().0), before);
}

#[test]
fn everything_comes_back_from_the_journal_and_from_checkpoints() {
    for checkpoints in [false, true] {
        for durability in [Durability::Batch, Durability::Interval, Durability::None] {
            survives(DuplicatePolicy::Last, durability, checkpoints, checkpoints);
        }
    }
}

#[test]
fn sums_and_other_policies_are_replayed_as_they_were() {
    use DuplicatePolicy::{Error, First, Max, Min, Sum};
    for policy in [Error, First, Max, Min, Sum] {
        survives(policy, Durability::Batch, true, false);
        survives(policy, Durability::Batch, false, false);
    }
}

#[test]
fn limits_hold_on_the_way_in_alone_and_a_replay_makes_what_they_let_in() {
    for duplicates in
        [DuplicatePolicy::Last, DuplicatePolicy::First, DuplicatePolicy::Sum, DuplicatePolicy::Error]
    {
        let disk = Disk::new(5);
        let options = Options { duplicates, ..Options::default() };
        let (db, _) = try_open(&disk, Durability::Batch, options).unwrap();
        let limit = |max| crate::Limit {
            name: "all".into(),
            selector: every(),
            bound: crate::Bound::Series { by: Vec::new(), max, folded_max: 1 },
            action: crate::Action::Overflow(Some("__name__x".into())),
        };
        let series =
            |i: usize| Labels::from_pairs([("__name__", "m"), ("__name__x", &i.to_string())]).unwrap();
        db.set_limits(vec![limit(2)]).unwrap();
        let (ids, _) = db.register(&(0..5).map(series).collect::<Vec<_>>()).unwrap();
        for (time, count) in [(1000, 5), (2000, 3), (2000, 5), (3000, 5)] {
            let values: Vec<f64> = (0..count).map(|i| f64::from(i) + 0.1).collect();
            let columns = Columns {
                ids: &ids[..count as usize],
                timestamps: &vec![time; count as usize],
                values: Values::Float(&values),
            };
            db.append_columns(columns).unwrap();
        }
        let before = content(&db);
        assert_eq!(before.samples.len(), 3);
        let folded = before.samples.iter().find(|s| s.0.contains("__overflow__")).unwrap().1;
        assert_eq!(f64::from_bits(folded[&1000].0), 2.1 + 3.1 + 4.1, "{duplicates:?}");
        if duplicates == DuplicatePolicy::First {
            db.checkpoint().unwrap();
        }
        drop(db);
        let (db, recovery) = try_open(&disk, Durability::Batch, options).unwrap();
        assert!(!recovery.is_damaged());
        assert_eq!(content(&db), before, "{duplicates:?}");
        // No limit holds until it is set; then what is there counts.
        db.set_limits(vec![limit(1)]).unwrap();
        assert_eq!(db.limit_status()[0].series, 3);
        assert_eq!(db.register(&(0..2).map(series).collect::<Vec<_>>()).unwrap().1, 0);
        db.check().unwrap();
    }
}

#[test]
fn another_policy_holds_from_now_on_and_not_for_what_was_written_before() {
    let disk = Disk::new(6);
    let sample = [("a".to_owned(), 1000, 1.0)];
    let sum = Options { duplicates: DuplicatePolicy::Sum, ..Options::default() };
    let (db, _) = try_open(&disk, Durability::Batch, sum).unwrap();
    (0..3).for_each(|_| drop(db.write(&batch(&sample))));
    drop(db);
    let (db, _) = open(&disk, Durability::Batch);
    assert_eq!(content(&db).samples[&series("a")][&1000].0, 3f64.to_bits());
    db.write(&batch(&sample));
    assert_eq!(content(&db).samples[&series("a")][&1000].0, 1f64.to_bits());
    drop(db);
    assert_eq!(content(&open(&disk, Durability::Batch).0).samples[&series("a")][&1000].0, 1f64.to_bits());
}

#[test]
fn a_snapshot_opens_as_a_database_of_its_own() {
    let (disk, other) = (Disk::new(7), Disk::new(8));
    let (db, _) = open(&disk, Durability::Batch);
    everything(&db, 0);
    db.snapshot(&other.files(), 3).unwrap();
    let before = content(&db);
    everything(&db, 1 << 40);
    assert_eq!(content(&open(&other, Durability::None).0), before);
    let error = db.snapshot(&other.files(), 3).unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error}");
    let memory = Database::new(Options::default());
    everything(&memory, 0);
    let third = Disk::new(9);
    memory.snapshot(&third.files(), 4).unwrap();
    assert_eq!(content(&open(&third, Durability::Batch).0).samples, before.samples);
    assert!(matches!(memory.checkpoint(), Err(Error::Input { .. })));
}

#[test]
fn the_journal_before_a_checkpoint_goes() {
    let disk = Disk::new(10);
    let (db, _) = open(&disk, Durability::Batch);
    for i in 0..200 {
        everything(&db, i * 1_000_000);
    }
    let full = disk.used();
    assert!(db.journal_status().unwrap().replay_bytes > 100_000);
    db.checkpoint().unwrap();
    assert!(db.journal_status().unwrap().replay_bytes < 1000);
    let names = disk.files().list().unwrap();
    assert_eq!(names.iter().filter(|n| n.starts_with("journal")).count(), 1, "{names:?}");
    assert!(names.iter().filter(|n| n.starts_with("checkpoint")).count() > 2, "{names:?}");
    assert!(disk.used() < full);
    db.checkpoint().unwrap();
    let (again, recovery) = open(&disk.copy(), Durability::Batch);
    assert_eq!((content(&again), recovery.checkpoint), (content(&db), Some(2)));
}

#[test]
fn a_family_that_declares_another_type_is_rounded_as_that_from_then_on() {
    let disk = Disk::new(11);
    let (db, _) = open(&disk, Durability::Batch);
    db.set_precision_rules(rules(2)).unwrap();
    let write = |kind, from: i64| {
        let mut made = batch(&[("rounded".to_owned(), from, 12345.678)]);
        let metric = "rounded".to_owned();
        made.metadata.push(Metadata { metric, kind: Some(kind), help: None, unit: None });
        assert_eq!(db.write(&made).rejected_total(), 0);
    };
    write(MetricType::Counter, 1000);
    write(MetricType::Gauge, 2000);
    let before = content(&db);
    let bits: BTreeSet<u64> = before.samples[&series("rounded")].values().map(|s| s.0).collect();
    assert_eq!(bits.len(), 2, "one is exact, one is rounded");
    assert_eq!(content(&open(&disk.copy(), Durability::Batch).0), before);
    db.checkpoint().unwrap();
    assert_eq!(content(&open(&disk, Durability::Batch).0), before);
}

#[test]
fn modes_go_by_their_names() {
    let modes = ["none", "interval", "batch"].map(|name| Durability::from_name(name).unwrap());
    assert_eq!(modes, [Durability::None, Durability::Interval, Durability::Batch]);
    assert!(matches!(Durability::from_name("fast"), Err(Error::Input { .. })));
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_changed() {
    let disk = Disk::new(12);
    let (db, _) = open(&disk, Durability::Batch);
    everything(&db, 0);
    db.checkpoint().unwrap();
    everything(&db, 1 << 40);
    drop(db);
    for name in disk.files().list().unwrap() {
        let (bad, operations) = (disk.copy(), disk.operations());
        bad.make_unreadable(&name);
        let error = try_open(&bad, Durability::Batch, Options::default()).err().unwrap();
        assert!(error.to_string().contains(&name), "{error}");
        assert_eq!((bad.operations(), disk.operations()), (0, operations));
    }
}

#[test]
fn a_family_of_another_type_that_no_rule_is_about_changes_no_mark() {
    let disk = Disk::new(11);
    let (db, _) = open(&disk, Durability::Batch);
    db.set_precision_rules(rules(2)).unwrap();
    let write = |kind, time: i64| {
        let mut made = batch(&[("b".to_owned(), time, 12345.678), ("rounded".to_owned(), time, 12345.678)]);
        made.metadata.push(Metadata { metric: "b".to_owned(), kind: Some(kind), help: None, unit: None });
        assert_eq!(db.write(&made).rejected_total(), 0);
    };
    write(MetricType::Counter, 1000);
    write(MetricType::Gauge, 2000);
    let before = content(&db);
    assert_eq!(before.samples[&series("b")].values().map(|s| s.0).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(content(&open(&disk, Durability::Batch).0), before);
}

#[test]
fn a_snapshot_of_an_empty_database_holds_its_rules() {
    let db = Database::new(Options::default());
    db.set_precision_rules(rules(2)).unwrap();
    let disk = Disk::new(8);
    db.snapshot(&disk.files(), 3).unwrap();
    let (again, recovery) = open(&disk, Durability::Batch);
    assert!(recovery.is_whole(), "{recovery:?}");
    assert_eq!(content(&again), content(&db));
    again.write(&batch(&[("rounded".to_owned(), 1, 12345.678)]));
    assert_eq!(content(&again).samples[&series("rounded")][&1].0, 12000f64.to_bits());
}

#[test]
fn a_directory_that_cannot_be_listed_is_neither_opened_nor_written() {
    let disk = Disk::new(12);
    disk.make_unreadable("");
    let error = try_open(&disk, Durability::Batch, Options::default()).err().unwrap();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    let error = Database::new(Options::default()).snapshot(&disk.files(), 3).unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    assert_eq!(disk.operations(), 0);
}

#[test]
fn rules_whose_selectors_are_read_no_more_hold_for_the_series_that_had_them() {
    let disk = Disk::new(12);
    let (db, _) = open(&disk, Durability::Batch);
    db.set_precision_rules(rules(2)).unwrap();
    db.write(&batch(&[("rounded".to_owned(), 1, 12345.678)]));
    drop(db);
    let selector =
        |text: &str| Err(Error::input("selector", text, "is no selector any more", "write another"));
    let opening = Opening { files: disk.files(), durability: Durability::Batch, salt: 99, selector };
    let (db, recovery) = Database::open(Options::default(), opening).unwrap();
    assert!(recovery.is_whole(), "{recovery:?}");
    assert_eq!(db.precision_rules()[0].selector, "rounded");
    db.write(&batch(&[("rounded".to_owned(), 2, 12345.678)]));
    let bits: BTreeSet<u64> = content(&db).samples[&series("rounded")].values().map(|s| s.0).collect();
    assert_eq!(bits, BTreeSet::from([12000f64.to_bits()]));
}

#[test]
fn samples_with_starts_of_series_that_are_gone_are_in_no_record() {
    let disk = Disk::new(12);
    let (db, _) = open(&disk, Durability::Batch);
    let labels = ["a", "b"].map(|m| Labels::from_pairs([("__name__", m), ("job", "test")]).unwrap());
    let ids = db.register(&labels).unwrap().0;
    let all = crate::Imported {
        ids: vec![ids[0] | 1 << 33, ids[0], ids[1] | 1 << 33, ids[1]],
        times: vec![1, 2, 3, 4],
        bits: vec![0; 4],
        kinds: vec![ValueKind::Float; 4],
        starts: vec![-1, -2, -3, -4],
        ..crate::Imported::default()
    };
    let report = db.import(&all).unwrap();
    assert_eq!((report.accepted, report.rejected_total()), (2, 2));
    let before = content(&db);
    assert_eq!(before.starts.values().flatten().copied().collect::<Vec<_>>(), [-2, -4]);
    assert_eq!(content(&open(&disk, Durability::Batch).0), before);
}
