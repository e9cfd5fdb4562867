#![allow(clippy::unwrap_used)]

use metricsdb_model::{Budget, Columns, Labels, Predicate, Samples, SeriesSet, TimeRange, Values};

use super::*;
use crate::database::{Database, Options};
use crate::export::Imported;
use crate::rollup::{Beside, Level, Pass, Progress, Rule};

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

/// A database and so many series, all in one shard.
fn database(options: Options, count: usize) -> (Database, Vec<u64>) {
    let db = Database::new(options);
    let set = |i: usize| Labels::from_pairs([("__name__", "m"), ("i", &*i.to_string())]).unwrap();
    let of_one = |labels: &Labels| labels.as_ref().hash64() >> 56 == 7;
    let sets: Vec<Labels> = (0..).map(set).filter(of_one).take(count).collect();
    let ids = db.register(&sets).unwrap().0;
    (db, ids)
}

fn import(db: &Database, id: u64, samples: &[(i64, f64)], start: Option<i64>) -> WriteReport {
    db.import(&Imported {
        ids: vec![id; samples.len()],
        times: samples.iter().map(|s| s.0).collect(),
        bits: samples.iter().map(|s| s.1.to_bits()).collect(),
        kinds: vec![ValueKind::Float; samples.len()],
        starts: start.map_or(Vec::new(), |start| vec![start; samples.len()]),
        ..Imported::default()
    })
    .unwrap()
}

fn append(db: &Database, id: u64, times: &[i64], values: Values<'_>) -> WriteReport {
    db.append_columns(Columns { ids: &vec![id; times.len()], timestamps: times, values }).unwrap()
}

/// Times, values and starts of all series.
fn content(db: &Database) -> Vec<Vec<(i64, f64, i64)>> {
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let read = |i: usize| {
        let (mut samples, mut starts) = (Samples::default(), Vec::new());
        view.read(i, TimeRange::ALL, &mut samples).unwrap();
        view.read_starts(i, &samples.timestamps, &mut starts).unwrap();
        let values = samples.timestamps.iter().zip(&samples.values);
        values.zip(starts).map(|((&time, &value), start)| (time, value, start)).collect()
    };
    db.check().unwrap();
    (0..view.len()).map(read).collect()
}

fn column(from: i64, count: i64) -> Vec<(i64, f64)> {
    (from..from + count).map(|i| (i * 1000, (i * 7919 % 1013) as f64 / 7.0)).collect()
}

#[test]
fn the_newest_sample_once_more_with_another_start_changes_the_start() {
    let (db, ids) = database(Options::default(), 1);
    for (start, repeated) in [(-5, 0), (-5, 1), (-6, 1), (-6, 1)] {
        let report = import(&db, ids[0], &[(1000, 2.0)], Some(start));
        assert_eq!((report.accepted, report.duplicates), (1, repeated));
        assert_eq!(content(&db), [[(1000, 2.0, start)]]);
    }
}

#[test]
fn a_column_that_is_sealed_at_once_is_what_its_samples_would_be() {
    let long = column(0, 1200);
    let with = |starts: bool| -> Vec<(i64, f64, i64)> {
        long.iter().map(|&(time, value)| (time, value, if starts { -5 } else { 0 })).collect()
    };
    // Beside a series that has starts, with starts of its own, and without.
    let (db, ids) = database(Options::default(), 3);
    import(&db, ids[0], &[(1, 1.0)], Some(-1));
    assert_eq!(import(&db, ids[1], &long, None).accepted, 1200);
    assert_eq!(import(&db, ids[2], &long, Some(-5)).accepted, 1200);
    let mut found = content(&db);
    found.sort_by(|a, b| a[0].2.cmp(&b[0].2).then(a.len().cmp(&b.len())));
    assert_eq!(found, [with(true), vec![(1, 1.0, -1)], with(false)]);
    // Behind an open chunk of another kind; and of an id that was another series'.
    let (db, ids) = database(Options::default(), 1);
    append(&db, ids[0], &[-2, -1], Values::Int(&[3, 4]));
    import(&db, ids[0], &long, None);
    let expected = [vec![(-2, 3.0, 0), (-1, 4.0, 0)], with(false)].concat();
    assert_eq!(content(&db), [expected]);
    let report = import(&db, ids[0] | 1 << 33, &column(5000, 600), None);
    assert_eq!((report.accepted, report.rejected_total()), (0, 600));
}

#[test]
fn a_series_whose_samples_are_records_takes_none_of_their_time() {
    let (db, ids) = database(Options::default(), 2);
    let long = column(0, 1200);
    import(&db, ids[0], &long, None);
    let rule = Rule {
        predicate: every(),
        raw: Some(0),
        levels: vec![Level { every: 60_000, keep: None }],
        kind: None,
        keeping: None,
        beside: Beside::default(),
    };
    let pass = Pass { now: 3_600_000, delay: 0, batch: 1 };
    let rolled =
        db.roll(std::slice::from_ref(&rule), pass, &mut Progress::default(), u64::MAX, &Budget::unlimited());
    assert!(rolled.unwrap().raw.samples >= 1000);
    let report = import(&db, ids[0], &[(5000, 1.0)], None);
    assert_eq!((report.accepted, report.rejected[0].reason), (0, Reason::OutOfRetention));
    // Columns of other series go on, and so does this one behind its records.
    assert_eq!(import(&db, ids[1], &long, None).accepted, 1200);
    assert_eq!(import(&db, ids[0], &[(3_700_000, 1.0)], None).accepted, 1);
    db.check().unwrap();
}

#[test]
fn an_open_chunk_that_fills_the_largest_slab_is_sealed() {
    let (db, ids) = database(Options { samples_per_chunk: 4096, ..Options::default() }, 1);
    let noisy: Vec<(i64, f64)> = (0..1500u64)
        .map(|i| (i as i64, f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2)))
        .collect();
    noisy.chunks(100).for_each(|some| assert_eq!(import(&db, ids[0], some, None).accepted, 100));
    let expected: Vec<(i64, f64, i64)> = noisy.iter().map(|&(time, value)| (time, value, 0)).collect();
    assert_eq!(content(&db), [expected]);
    let stats = db.stats();
    assert!(stats.sealed_samples > 500 && stats.open_samples > 0, "{stats:?}");
}

#[test]
fn the_newest_sample_once_more_is_a_duplicate_where_its_chunk_is_sealed() {
    let (db, ids) = database(Options::default(), 1);
    let all = column(0, 128);
    assert_eq!(import(&db, ids[0], &all, None).accepted, 128);
    assert_eq!(db.stats().open_samples, 0);
    let report = import(&db, ids[0], &all[127..], None);
    assert_eq!((report.accepted, report.duplicates), (1, 1));
    assert_eq!(content(&db)[0].len(), 128);
}
