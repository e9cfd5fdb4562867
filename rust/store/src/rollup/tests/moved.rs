//! Records that left for other stores: answers are those of a store that keeps them all.

use super::*;

/// A day of the test: what leaves together. All widths divide it.
const DAY: i64 = 3_600;

/// Moves what of some days may leave, each level to a store of its own, as a cold store's parts are; how many series dropped it.
fn move_days(db: &Database, days: std::ops::Range<i64>, parts: &mut Vec<Arc<Database>>) -> usize {
    let (budget, mut dropped) = (Budget::unlimited(), 0);
    for day in days {
        let range = TimeRange::new(day * DAY, (day + 1) * DAY - 1);
        let most: u64 = db.leaving_records(&[every()], range, &budget).unwrap().iter().sum();
        let all = db.export_records(&[every()], range, true, 0..SHARDS, &budget).unwrap();
        let count: usize = all.iter().flat_map(|one| &one.levels).map(|level| level.records.len()).sum();
        assert!(count as u64 <= most && (count == 0) == all.is_empty());
        for width in LEVELS {
            let part = Database::new(Options::default());
            let mut some = Vec::new();
            for one in &all {
                let id = part.register(std::slice::from_ref(&one.labels)).unwrap().0[0];
                let level = one.levels.iter().find(|level| level.every == width).cloned();
                some.extend(level.map(|level| SeriesRecords { id, kind: one.kind, level }));
            }
            if !some.is_empty() {
                part.import_records(some).unwrap();
                part.check().unwrap();
                parts.push(Arc::new(part));
            }
        }
        let series: Vec<(u64, u64)> = all.iter().map(|one| (one.id, one.digest)).collect();
        let (gone, _) = db.drop_records(&series, range, &budget).unwrap();
        assert!(gone.iter().all(|&gone| gone));
        dropped += gone.len();
        assert!(db.export_records(&[every()], range, true, 0..SHARDS, &budget).unwrap().is_empty());
    }
    dropped
}

/// All that can be asked of records: labels, points, windows, quantiles, states, survivors, levels.
fn told(source: &Chosen, range: TimeRange, windows: &[TimeRange]) -> Vec<String> {
    let view = source.view(&every(), range, &Budget::unlimited()).unwrap();
    let one = |i: usize| {
        let mut samples = Samples::default();
        view.read(i, range, &mut samples).unwrap();
        let points: Vec<(i64, u64)> =
            samples.timestamps.iter().copied().zip(samples.values.iter().map(|v| v.to_bits())).collect();
        let levels: Vec<_> = LEVELS.iter().map(|&w| view.records(i, w, range).unwrap()).collect();
        let states: Vec<_> = LEVELS.iter().map(|&w| view.states(i, w, range).unwrap()).collect();
        let quantiles = view.quantiles(i, windows).unwrap();
        let quantiles =
            quantiles.map(|q| q.windows.iter().map(|w| w.as_ref().map(Sketch::encode)).collect::<Vec<_>>());
        format!(
            "{} {points:?} {:?} {quantiles:?} {levels:?} {states:?} {:?} {:?}",
            view.labels(i),
            view.summaries(i, windows).unwrap().map(|s| (s.windows, s.exact, s.resets)),
            // Where there is nothing, which level would stand is known in memory alone.
            (!points.is_empty()).then(|| view.resolution(i, range) > 0),
            view.newest(i, range).unwrap(),
        )
    };
    let mut all: Vec<String> = (0..view.len()).map(one).collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 600 }))]
    #[test]
    fn answers_are_those_of_a_store_that_keeps_its_records(
        samples in prop::collection::btree_map(0i64..40_000, (0i32..40).prop_map(f64::from), 1..400),
        counter in any::<bool>(),
        keeps in any::<bool>(),
        first in -1i64..9,
        then in 0i64..9,
        asked in (0i64..40_000, 1i64..20_000),
        level in prop::option::of(0usize..3),
        ends in any::<bool>(),
        reopen in any::<bool>(),
    ) {
        let disk = Disk::default();
        let (whole, mut db) = (Database::new(Options::default()), opened(&disk));
        let all: Vec<(i64, f64)> = samples.iter().map(|(&t, &v)| (t, v)).collect();
        let keeping = keeps.then_some(Keeping { share: 0.1, threshold: 3.0, neighbours: 1 });
        let kind = if counter { Kind::Counter } else { Kind::Gauge };
        // The finest level goes before the others; a series that gets no samples any more goes as a whole.
        let rule = Rule {
            kind: Some(kind), keeping,
            beside: Beside { sketches: true, states: !counter, buckets_max: None },
            ..rule(Some(5_000), [Some(25_000), None, None])
        };
        let now = if ends { 60_000 } else { 40_000 };
        for db in [&whole, &db] {
            write(db, series(db), &all);
            roll(db, &rule, now);
        }
        let mut parts = Vec::new();
        move_days(&db, -1..first, &mut parts);
        if reopen {
            db = reopened(db, &disk);
        }
        move_days(&db, first..first + then, &mut parts);
        db.check().unwrap();
        if reopen {
            db.checkpoint().unwrap();
            db = reopened(db, &disk);
        }
        let level = level.map(|at| LEVELS[at]);
        let one = Chosen { store: Arc::new(whole), level, fetched: Vec::new() };
        parts.reverse();
        let several = Chosen { store: Arc::new(db), level, fetched: parts };
        let (start, length) = asked;
        let range = TimeRange::new(start, start + length);
        let whole_buckets = (start / 1_800..(start + length) / 1_800).map(|i| TimeRange::new(i * 1_800 + 1, (i + 1) * 1_800));
        let windows: Vec<TimeRange> = whole_buckets.filter(|w| w.start >= range.start).collect();
        prop_assert_eq!(told(&one, range, &windows), told(&several, range, &windows));
        let cut: Vec<TimeRange> = (0..4).map(|i| TimeRange::new(start + i * length / 5, start + (i + 1) * length / 5)).collect();
        prop_assert_eq!(told(&one, range, &cut), told(&several, range, &cut));
        prop_assert_eq!(told(&one, TimeRange::ALL, &cut), told(&several, TimeRange::ALL, &cut));
    }
}

#[test]
fn records_wait_for_samples_beside_them_and_for_wider_levels() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..2_000).map(|i| (i * 15, i as f64)).collect();
    write(&db, id, &all);
    roll(&db, &rule(None, [None; 3]), 30_000);
    let day = TimeRange::new(0, DAY - 1);
    let leaves =
        || -> u64 { db.leaving_records(&[every()], day, &Budget::unlimited()).unwrap().iter().sum() };
    assert_eq!(leaves(), 0);
    assert!(db.export_records(&[every()], day, true, 0..SHARDS, &Budget::unlimited()).unwrap().is_empty());
    roll(&db, &rule(Some(5_000), [None; 3]), 60_000);
    assert!(leaves() >= 60 + 12 + 2);
    // The last minutes of this time are needed for the record of half an hour around them.
    let odd = TimeRange::new(0, 2_000);
    let out = db.export_records(&[every()], odd, true, 0..SHARDS, &Budget::unlimited()).unwrap();
    let ends: Vec<i64> = out[0].levels.iter().map(|l| l.records.last().unwrap().end).collect();
    assert_eq!(ends, [1_800, 1_800, 1_800]);
}

#[test]
fn what_changed_since_it_was_handed_out_stays() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let all: Vec<(i64, f64)> = (0..2_000).map(|i| (i * 15, i as f64)).collect();
    write(&db, id, &all);
    roll(&db, &rule(Some(5_000), [None; 3]), 30_000);
    let (day, budget) = (TimeRange::new(0, DAY - 1), Budget::unlimited());
    let out = db.export_records(&[every()], day, true, 0..SHARDS, &budget).unwrap();
    let pairs = [(out[0].id, out[0].digest)];
    db.delete(&[every()], TimeRange::new(100, 200), &budget).unwrap();
    assert_eq!(db.drop_records(&pairs, day, &budget).unwrap().0, [false]);
    let out = db.export_records(&[every()], day, true, 0..SHARDS, &budget).unwrap();
    let pairs = [(out[0].id, out[0].digest), (out[0].id, out[0].digest), (u64::MAX, 0)];
    // A record ends with the day before, which has to leave first.
    assert_eq!(db.drop_records(&pairs, day, &budget).unwrap().0, [false; 3]);
    let before = TimeRange::new(-DAY, -1);
    let first = db.export_records(&[every()], before, true, 0..SHARDS, &budget).unwrap();
    assert_eq!(db.drop_records(&[(first[0].id, first[0].digest)], before, &budget).unwrap().0, [true]);
    let (gone, done) = db.drop_records(&pairs, day, &budget).unwrap();
    assert_eq!(gone, [true, false, false]);
    assert!(done.touched == 1 && db.records_span().unwrap().start > 0);
}

#[test]
fn bytes_from_outside_that_are_no_records_are_refused() {
    let db = Database::new(Options::default());
    let id = series(&db);
    let record = Record { end: 60, count: 1, first: (7, 1.0), last: (7, 1.0), ..Record::ZERO };
    let level = |every, records: Vec<Record>| LevelRecords { every, records, ..LevelRecords::default() };
    let refused =
        |id, level| db.import_records(vec![SeriesRecords { id, kind: Kind::Gauge, level }]).is_err();
    assert!(!refused(id, level(60, vec![record])));
    assert!(refused(u64::MAX, level(60, vec![record])));
    assert!(refused(id + (1 << 8), level(60, vec![record])));
    assert!(refused(id, level(0, vec![record])));
    assert!(refused(id, level(7, vec![record])));
    assert!(refused(id, level(60, vec![record, record])));
    assert!(refused(id, level(60, vec![Record { count: 0, ..record }])));
    assert!(refused(id, level(60, vec![Record { last: (61, 1.0), ..record }])));
    assert!(refused(id, LevelRecords { kept: vec![(7, 1.0), (7, 1.0)], ..level(60, vec![record]) }));
    assert!(refused(
        id,
        LevelRecords { sketches: vec![(60, vec![]), (60, vec![])], ..level(60, vec![record]) }
    ));
}

/// Two places may have the same days while readers are at the old one, or after a crash.
#[test]
fn what_is_in_two_places_counts_once() {
    let samples: BTreeMap<i64, f64> = (0..2_000).map(|i| (i * 15, (i % 37) as f64)).collect();
    let all: Vec<(i64, f64)> = samples.into_iter().collect();
    let db = Database::new(Options::default());
    let id = series(&db);
    write(&db, id, &all);
    roll(&db, &rule(Some(5_000), [None; 3]), 30_000);
    let (budget, range) = (Budget::unlimited(), TimeRange::new(0, DAY - 1));
    let out = db.export_records(&[every()], range, true, 0..SHARDS, &budget).unwrap();
    let part = |width: i64| {
        let part = Database::new(Options::default());
        let level = out[0].levels.iter().find(|l| l.every == width).unwrap().clone();
        let id = series(&part);
        part.import_records(vec![SeriesRecords { id, kind: out[0].kind, level }]).unwrap();
        Arc::new(part)
    };
    let store = Arc::new(db);
    let own = Chosen { store: store.clone(), level: None, fetched: Vec::new() };
    let fetched = LEVELS.iter().chain(&LEVELS).map(|&width| part(width)).collect();
    let twice = Chosen { fetched, ..own.clone() };
    let windows = [TimeRange::new(1, 1_800), TimeRange::new(1_801, 5_400)];
    assert_eq!(told(&own, TimeRange::ALL, &windows), told(&twice, TimeRange::ALL, &windows));
}
