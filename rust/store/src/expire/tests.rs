use std::borrow::Cow;
use std::collections::BTreeMap;

use metricsdb_model::{
    Batch, BatchSeries, Budget, Columns, Counts, Histogram, LabelError, Labels, LabelsBuilder, MatchOp,
    Matcher, Predicate, Reason, SeriesSet, Source, Tally, TimeRange, Values,
};
use proptest::prelude::*;

use super::*;
use crate::cut::AgeRule;
use crate::database::Options;
use crate::journal::testing::Disk;
use crate::journal::{Durability, Opening};

fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    out.push("__name__", "m");
    out.push("pod", std::str::from_utf8(raw).map_err(|e| LabelError::NotUtf8(e.to_string()))?);
    Ok(())
}

fn batch(samples: &[(String, i64)]) -> Batch<'_> {
    let mut batch = Batch::new(1, decode);
    for (pod, time) in samples {
        let at = batch.timestamps.len() as u32;
        batch.timestamps.push(*time);
        batch.values.push((*time % 97) as f64);
        batch.series.push(BatchSeries { raw: Cow::Borrowed(pod.as_bytes()), samples: at..at + 1 });
    }
    batch
}

fn write(db: &Database, pod: &str, times: impl Iterator<Item = i64>) {
    let samples: Vec<(String, i64)> = times.map(|t| (pod.to_owned(), t)).collect();
    let report = db.write(&batch(&samples));
    assert_eq!(report.accepted, samples.len() as u64, "{report:?}");
}

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn labels(pod: &str) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("pod", pod)]).unwrap()
}

/// Times by pod.
fn content(db: &Database) -> BTreeMap<String, Vec<i64>> {
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut out = BTreeMap::new();
    for i in 0..view.len() {
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        view.read_exact(i, TimeRange::ALL, &mut times, &mut bits).unwrap();
        assert!(bits.iter().zip(&times).all(|(&b, &t)| f64::from_bits(b) == (t % 97) as f64));
        out.insert(view.labels(i).value("pod").to_owned(), times);
    }
    out
}

fn expire(db: &Database, before: i64) -> Expired {
    let rule = AgeRule { predicate: every(), before: Some(before) };
    db.expire(&[rule], &Budget::unlimited()).unwrap().1
}

#[test]
fn old_chunks_go_and_series_without_samples_leave_the_index() {
    let db = Database::new(Options::default());
    write(&db, "old", 0..1000);
    write(&db, "both", 0..2000);
    write(&db, "new", 1500..1600);
    let done = expire(&db, 1000);
    assert_eq!((done.samples, done.series, done.cut), (2000, 1, 1), "{done:?}");
    assert!(done.bytes > 0 && done.chunks > 0);
    let left = content(&db);
    assert_eq!(left.keys().collect::<Vec<_>>(), ["both", "new"]);
    assert!(left["both"].iter().copied().eq(1000..2000));
    db.check().unwrap();
    let budget = Budget::unlimited();
    assert_eq!(db.label_values("pod", &[], TimeRange::ALL, &budget).unwrap(), ["both", "new"]);
    assert_eq!((db.series_count(), db.stats().series), (2, 2));
    assert_eq!(db.series(&[], TimeRange::ALL, &budget).unwrap().0.len(), 2);
    // Nothing is left to do.
    assert_eq!(expire(&db, 1000), Expired::default());
    assert_eq!(expire(&db, 10_000).series, 2);
    assert_eq!(db.series_count(), 0);
    assert!(db.label_names(&[], TimeRange::ALL, &budget).unwrap().is_empty());
    db.check().unwrap();
    write(&db, "old", 5..6);
    assert_eq!(content(&db), BTreeMap::from([("old".to_owned(), vec![5])]));
    db.check().unwrap();
}

#[test]
fn the_cache_hears_how_far_back_samples_went() {
    let db = Database::new(Options::default());
    write(&db, "a", 100..2000);
    db.take_lowest_written();
    expire(&db, 50);
    assert_eq!(db.take_lowest_written(), i64::MAX);
    expire(&db, 3000);
    assert_eq!(db.take_lowest_written(), 100);
}

#[test]
fn an_id_of_a_series_that_went_leads_nowhere_even_where_another_has_its_row() {
    let db = Database::new(Options::default());
    let (old, _) = db.register(&[labels("a")]).unwrap();
    let append = |id: u64, time: i64| {
        let columns =
            Columns { ids: &[id], timestamps: &[time], values: Values::Float(&[(time % 97) as f64]) };
        db.append_columns(columns).unwrap()
    };
    assert_eq!(append(old[0], 1).accepted, 1);
    // Registered, and never written: it stays.
    db.register(&[labels("b")]).unwrap();
    assert_eq!(expire(&db, 10).series, 1);
    assert_eq!(db.series_count(), 1);
    let refused = append(old[0], 11);
    assert_eq!((refused.accepted, refused.rejected[0].reason), (0, Reason::UnknownSeries));
    let (again, created) = db.register(&[labels("a")]).unwrap();
    assert_eq!((created, again[0] as u32), (1, old[0] as u32), "the same row");
    assert_ne!(again, old);
    assert_eq!((append(old[0], 12).accepted, append(again[0], 12).accepted), (0, 1));
    let histogram = Histogram {
        sum: 1.0,
        counts: Counts::Int(Tally { count: 1, zero: 1, buckets: Vec::new() }),
        ..Histogram::stale()
    };
    let add = |id| db.append_histograms(&[id], &[13], std::slice::from_ref(&histogram)).unwrap().accepted;
    assert_eq!((add(old[0]), add(again[0])), (0, 1));
    let budget = Budget::unlimited();
    assert!(db.read_many(&old, TimeRange::ALL, &budget).is_err());
    assert_eq!(db.read_many(&again, TimeRange::ALL, &budget).unwrap().timestamps, [12]);
    assert_eq!(db.series(&[], TimeRange::new(12, 13), &budget).unwrap().0, again);
    db.check().unwrap();
    // Histograms expire, too.
    assert_eq!(expire(&db, 20).samples, 2);
    assert_eq!(db.stats().histogram_samples, 0);
    db.check().unwrap();
}

#[test]
fn what_a_reader_chose_keeps_its_labels_while_series_go_and_come() {
    let db = Database::new(Options::default());
    (0..600).for_each(|i| write(&db, &format!("old-{i}"), i..i + 1));
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    expire(&db, 10_000);
    (0..600).for_each(|i| write(&db, &format!("new-{i}"), 20_000..20_001));
    expire(&db, 10_000);
    for i in 0..view.len() {
        let mut samples = metricsdb_model::Samples::default();
        view.read(i, TimeRange::ALL, &mut samples).unwrap();
        assert_eq!(view.labels(i), labels(&format!("old-{}", samples.timestamps[0])));
    }
    drop(view);
    // The steps that the reader was in the way of.
    expire(&db, 10_000);
    assert_eq!((db.series_count(), content(&db).len()), (600, 600));
    db.check().unwrap();
}

#[test]
fn a_dying_series_that_is_found_again_lives() {
    let db = Database::new(Options::default());
    write(&db, "a", 0..10);
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    // The reader holds it on its way out.
    assert_eq!(expire(&db, 100).series, 0);
    write(&db, "a", 200..210);
    drop(view);
    assert_eq!(expire(&db, 100).series, 0);
    assert!(content(&db)["a"].iter().copied().eq(200..210));
    db.check().unwrap();
}

#[test]
fn a_series_that_died_twice_waits_for_those_who_came_between() {
    let db = Database::new(Options::default());
    let reader = || db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    write(&db, "a", 0..10);
    let first = reader();
    assert_eq!(expire(&db, 100).series, 0);
    // Each reader lets the one before it go, so that the first burial comes one step on with each.
    let second = reader();
    drop(first);
    expire(&db, 0);
    let third = reader();
    drop(second);
    expire(&db, 0);
    write(&db, "a", 200..210);
    // Who came before it died again may have found it by its labels, and holds its row.
    let between = reader();
    drop(third);
    assert_eq!(expire(&db, 300).series, 0);
    assert_eq!(db.series_count(), 1);
    drop(between);
    assert_eq!(expire(&db, 300).series, 1);
    db.check().unwrap();
}

#[test]
fn rows_and_postings_of_churned_series_are_used_again() {
    let db = Database::new(Options::default());
    let parts = |db: &Database| -> usize { db.memory().iter().map(|p| p.bytes).sum() };
    let mut sizes = Vec::new();
    for round in 0..12i64 {
        for i in 0..3000 {
            write(&db, &format!("{round}-{i}"), round * 100..round * 100 + 2);
        }
        expire(&db, round * 100 - 50 - 100);
        assert_eq!(db.series_count(), if round == 0 { 3000 } else { 6000 }, "round {round}");
        sizes.push(parts(&db));
        db.check().unwrap();
    }
    assert!(sizes[11] <= sizes[5] * 11 / 10, "{sizes:?}");
}

#[test]
fn writers_and_readers_beside_expiry_lose_nothing_young() {
    let db = Database::new(Options { samples_per_chunk: 8, ..Options::default() });
    std::thread::scope(|scope| {
        for writer in 0..2i64 {
            let db = &db;
            scope.spawn(move || {
                for round in 0..400i64 {
                    // Short lives: each pod is written in three rounds, and some come back.
                    for age in 0..3 {
                        let pod = format!("{writer}-{}", (round - age).rem_euclid(60));
                        write(db, &pod, [round * 10 + age * 2 + writer].into_iter());
                    }
                }
            });
        }
        scope.spawn(|| {
            for before in 0..300i64 {
                expire(&db, before * 10 - 200);
                let matcher = Matcher::new("pod", MatchOp::Regex, "0-.*").unwrap();
                let view =
                    db.select(&Predicate::Match(matcher), TimeRange::ALL, &Budget::unlimited()).unwrap();
                for i in 0..view.len() {
                    assert!(view.labels(i).value("pod").starts_with("0-"));
                }
            }
        });
    });
    db.check().unwrap();
    let left = content(&db);
    for (writer, round, age) in
        (0..2i64).flat_map(|w| (280..400i64).flat_map(move |r| (0..3).map(move |a| (w, r, a))))
    {
        let pod = format!("{writer}-{}", (round - age).rem_euclid(60));
        let time = round * 10 + age * 2 + writer;
        assert!(time < 2800 || left[&pod].contains(&time), "{pod} {time}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No sample that is young enough is evicted, none appears, and a series stays just as long as it has samples.
    #[test]
    fn what_stays_is_young_or_in_a_chunk_that_is(
        steps in prop::collection::vec((0u8..4, 0usize..6, 0i64..400, 1i64..120), 1..60),
        samples_per_chunk in prop_oneof![Just(4usize), Just(128)],
        durable in any::<bool>(),
    ) {
        let options = Options { samples_per_chunk, ..Options::default() };
        let disk = Disk::default();
        let selector = |_: &str| Ok(every());
        let open = || {
            let opening = Opening { files: disk.files(), durability: Durability::Batch, salt: 7, selector };
            Database::open(options, opening).unwrap().0
        };
        let mut db = if durable { open() } else { Database::new(options) };
        let mut model: BTreeMap<String, std::collections::BTreeSet<i64>> = BTreeMap::new();
        let mut floor = i64::MIN;
        for (what, pod, time, count) in steps {
            match what {
                0 | 1 => {
                    let pod = format!("p{pod}");
                    write(&db, &pod, time..time + count);
                    model.entry(pod).or_default().extend(time..time + count);
                }
                2 => {
                    db.evict_before(time, &Budget::unlimited()).unwrap();
                    floor = floor.max(time);
                    let left = content(&db);
                    model.retain(|pod, times| {
                        let found = left.get(pod).cloned().unwrap_or_default();
                        assert!(times.iter().filter(|&&t| t >= time).all(|t| found.contains(t)), "{pod}");
                        assert!(found.iter().all(|t| times.contains(t)), "{pod}");
                        *times = found.into_iter().collect();
                        !times.is_empty()
                    });
                    prop_assert_eq!(db.series_count(), model.len());
                }
                _ if durable => {
                    if time % 2 == 0 {
                        db.checkpoint().unwrap();
                    } else {
                        db = open();
                    }
                }
                _ => {}
            }
            let left = content(&db);
            if what == 3 {
                // A replay makes other chunks, so that it may drop others of the samples that may go.
                model.retain(|pod, times| {
                    let found = left.get(pod).cloned().unwrap_or_default();
                    assert!(times.iter().filter(|&&t| t >= floor).all(|t| found.contains(t)), "{pod}");
                    assert!(found.iter().all(|&t| times.contains(&t) || t < floor), "{pod}");
                    *times = found.into_iter().collect();
                    !times.is_empty()
                });
            }
            prop_assert_eq!(left.len(), model.len());
            for (pod, times) in &model {
                prop_assert!(left[pod].iter().eq(times), "{}", pod);
            }
            db.check().unwrap();
        }
    }
}
