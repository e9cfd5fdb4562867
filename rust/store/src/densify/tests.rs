#![allow(clippy::unwrap_used)]

use metricsdb_model::{Columns, Labels, Predicate, Samples, SeriesSet, TimeRange, Values};

use super::*;
use crate::chunk::SharedColumns;
use crate::database::Options;

fn noise(i: i64) -> f64 {
    f64::from_bits((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2)
}

fn chunks(times: std::ops::Range<i64>, value: impl Fn(i64) -> f64) -> Vec<Chunk> {
    let bits: Vec<u64> = times.clone().map(|t| value(t).to_bits()).collect();
    let times: Vec<i64> = times.collect();
    chunks_of(ValueKind::Float, &times, &bits, &SharedColumns::default()).unwrap()
}

fn sealed(chunks: impl IntoIterator<Item = Chunk>) -> Sealed {
    let mut sealed = Sealed::default();
    chunks.into_iter().for_each(|chunk| sealed.push(chunk));
    sealed
}

/// Where each run begins, and how many chunks it has.
fn places(sealed: &Sealed, before: i64) -> Vec<(usize, usize)> {
    runs(sealed, before).iter().map(|run| (run.at, run.chunks.len())).collect()
}

#[test]
fn runs_are_of_neighbours_and_no_longer_than_a_chunk_may_be() {
    let whole = |from: i64| chunks(from..from + 600, |t| t as f64);
    let other: Vec<u64> = (0..600).collect();
    let times: Vec<i64> = (600..1200).collect();
    let other = chunks_of(ValueKind::Uint, &times, &other, &SharedColumns::default()).unwrap();
    let packed = dense(ValueKind::Float, &whole(600), &SharedColumns::default()).unwrap();
    let by_dense = sealed([whole(0), vec![packed], whole(1200)].concat());
    assert_eq!(places(&by_dense, i64::MAX), [(0, 1), (2, 1)], "what is dense stays");
    let by_kind = sealed([whole(0), other, whole(1200)].concat());
    assert_eq!(places(&by_kind, i64::MAX), [(0, 1), (1, 1), (2, 1)]);
    let count = 3 * CHUNK_SAMPLES_MAX as i64 / 2;
    let constant = sealed(chunks(0..count, |_| 7.0));
    let of_constant = runs(&constant, i64::MAX);
    assert!(of_constant.len() > 1 || constant.iter().count() == 1, "{}", of_constant.len());
    let samples = |run: &Run| run.chunks.iter().map(Chunk::count).sum::<usize>();
    assert!(of_constant.iter().all(|run| samples(run) <= CHUNK_SAMPLES_MAX));
    let large = sealed(chunks(0..20_000, noise));
    let of_large = runs(&large, i64::MAX);
    assert!(of_large.len() > 2, "{}", of_large.len());
    assert!(of_large.iter().all(|run| run.bytes() <= DENSE_BYTES || run.chunks.len() == 1));
    assert_eq!(runs(&large, 0).len(), 0, "all of it is young");
}

/// A database with one series, or with buckets of one histogram.
fn written(
    sets: &[Vec<(&str, &str)>],
    times: &[i64],
    value: impl Fn(usize, i64) -> f64,
) -> (Database, Vec<u64>) {
    let db = Database::new(Options::default());
    let sets: Vec<Labels> = sets.iter().map(|set| Labels::from_pairs(set.clone()).unwrap()).collect();
    let ids = db.register(&sets).unwrap().0;
    for (k, &id) in ids.iter().enumerate() {
        let values: Vec<f64> = (0..times.len() as i64).map(|i| value(k, i)).collect();
        let columns =
            Columns { ids: &vec![id; times.len()], timestamps: times, values: Values::Float(&values) };
        assert_eq!(db.append_columns(columns).unwrap().accepted as usize, times.len());
    }
    (db, ids)
}

fn content(db: &Database) -> Vec<(String, Vec<i64>, Vec<u64>)> {
    let view = db.select_exact(&Predicate::All(Vec::new()), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let read = |i: usize| {
        let mut samples = Samples::default();
        view.read(i, TimeRange::ALL, &mut samples).unwrap();
        let bits = samples.values.iter().map(|v| v.to_bits()).collect();
        (view.labels(i).to_string(), samples.timestamps, bits)
    };
    db.check().unwrap();
    (0..view.len()).map(read).collect()
}

fn all(db: &Database, before: i64) -> Densified {
    let mut done = Densified::default();
    loop {
        let step = db.densify(before, u64::MAX, &Budget::unlimited()).unwrap();
        done.merge(&step);
        if step.finished {
            return done;
        }
    }
}

#[test]
fn a_step_is_bounded_where_there_is_nothing_to_do() {
    let labels: Vec<Labels> =
        (0..300).map(|i| Labels::from_pairs([("__name__", &i.to_string())]).unwrap()).collect();
    let db = Database::new(Options::default());
    db.register(&labels).unwrap();
    let step = db.densify(i64::MAX, 100, &Budget::unlimited()).unwrap();
    assert!(!step.finished);
    assert_eq!(all(&db, i64::MAX), Densified { finished: false, ..Densified::default() });
}

#[test]
fn a_preview_says_what_would_be_saved_and_changes_nothing() {
    let times: Vec<i64> = (0..3000).map(|i| i * 1000).collect();
    let sets: Vec<Vec<(&str, &str)>> = ["a", "b", "c"].map(|name| vec![("__name__", name)]).into();
    let (db, _) = written(&sets, &times, |k, i| (i * 7919 % 1013 + k as i64) as f64 / 4.0);
    let before = content(&db);
    let (whole, seen, then) = db.preview_densify(u64::MAX, &Budget::unlimited()).unwrap();
    assert_eq!(whole, seen, "all were looked at");
    let some = db.preview_densify(3000, &Budget::unlimited()).unwrap();
    assert!(some.0 == whole && some.1 < whole && some.2 < some.1, "{some:?} of {whole}");
    assert_eq!(
        (content(&db), db.preview_densify(0, &Budget::unlimited()).unwrap().0),
        (before.clone(), whole)
    );
    let done = all(&db, i64::MAX);
    assert_eq!((done.bytes_before, done.bytes_after), (seen, then));
    assert_eq!((content(&db), db.preview_densify(u64::MAX, &Budget::unlimited()).unwrap().0), (before, 0));
}

#[test]
fn a_chunk_of_which_no_whole_block_is_old_stays_as_it_is() {
    // Old by its first sample alone: the others came long after.
    let mut times: Vec<i64> = (1_000_000..1_004_000).collect();
    times.insert(0, 0);
    let (db, _) = written(&[vec![("__name__", "m")]], &times, |_, i| noise(i));
    let before = content(&db);
    assert_eq!(all(&db, 999_999).samples, 0);
    assert_eq!(content(&db), before);
    assert!(all(&db, 1_003_000).samples > 0);
    assert_eq!(content(&db), before);
}

#[test]
fn chunks_that_changed_while_they_were_coded_are_left_to_the_next_pass() {
    let times: Vec<i64> = (0..2000).map(|i| i * 1000).collect();
    let (db, ids) = written(&[vec![("__name__", "m")]], &times, |_, i| (i % 97) as f64);
    let (number, row) = place_of(ids[0] as u32);
    let found = runs(&db.shard(number).series.sealed[row], i64::MAX);
    let late = Columns { ids: &ids, timestamps: &[500], values: Values::Float(&[0.5]) };
    db.append_columns(late).unwrap();
    let (before, mut done) = (content(&db), Densified::default());
    db.densify_run(ids[0] as u32, &found[0], &mut done).unwrap();
    assert_eq!((done, content(&db)), (Densified::default(), before.clone()));
    assert!(all(&db, i64::MAX).samples >= 2000);
    assert_eq!(content(&db), before);
}

fn buckets() -> Vec<Vec<(&'static str, &'static str)>> {
    ["0.1", "1", "10", "+Inf"].map(|le| vec![("__name__", "h_bucket"), ("le", le)]).into()
}

#[test]
fn buckets_that_rise_together_are_coded_together() {
    let times: Vec<i64> = (0..2000).map(|i| i * 1000 + i * 7919 % 13).collect();
    let rising = |k: usize, i: i64| (i * (20 + k as i64) + (i * 7919 + k as i64) % 3) as f64;
    let (db, ids) = written(&buckets(), &times, rising);
    let before = content(&db);
    let done = all(&db, i64::MAX);
    assert!(done.bytes_after < done.bytes_before, "{done:?}");
    assert_eq!(content(&db), before);
    let shared = |id: u64| {
        let (number, row) = place_of(id as u32);
        let shard = db.shard(number);
        shard.series.sealed[row].first().and_then(|chunk| chunk.shared().map(|s| s.bytes()))
    };
    assert!(ids.iter().all(|&id| shared(id) == shared(ids[0])) && shared(ids[0]) > Some(0));
}

#[test]
fn buckets_that_have_nothing_in_common_are_tried_once_and_coded_alone() {
    let times: Vec<i64> = (0..2000).map(|i| i * 1000).collect();
    // Nothing is smaller than a number that stands still.
    let (db, ids) = written(&buckets(), &times, |k, _| (5 * k) as f64);
    let before = content(&db);
    let (mut refused, mut done) = (HashSet::new(), Densified::default());
    let id = ids[0] as u32;
    let together = db.densify_together(id, i64::MAX, &Budget::unlimited(), &mut refused, &mut done).unwrap();
    assert_eq!((together, done), (false, Densified::default()));
    assert_eq!(refused.len(), 3, "its siblings need not be tried");
    assert!(all(&db, i64::MAX).samples >= 8000);
    assert_eq!(content(&db), before);
}
