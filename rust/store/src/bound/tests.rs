use metricsdb_model::{
    Budget, Columns, Labels, MatchOp, Matcher, Predicate, Samples, Source, TimeRange, Values,
};
use proptest::prelude::*;

use super::{SERIES_WALKED_MAX, VALUES_TESTED_MAX};
use crate::database::{Database, Options};

fn labels(i: usize) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("i", &i.to_string()), ("g", &(i % 3).to_string())]).unwrap()
}

fn filled(series: &[(Vec<i64>, Vec<f64>)]) -> Database {
    let db = Database::new(Options::default());
    let sets: Vec<Labels> = (0..series.len()).map(labels).collect();
    let (ids, _) = db.register(&sets).unwrap();
    for (id, (times, values)) in ids.iter().zip(series) {
        let ids = vec![*id; times.len()];
        let values = Values::Float(values);
        db.append_columns(Columns { ids: &ids, timestamps: times, values }).unwrap();
    }
    db
}

fn on(name: &str, op: MatchOp, value: &str) -> Predicate {
    Predicate::Match(Matcher::new(name, op, value).unwrap())
}

/// Series, samples and bytes that a selection really comes to.
fn counted(db: &Database, predicate: &Predicate, range: TimeRange) -> (u64, u64, u64) {
    let set = db.select(predicate, range, &Budget::unlimited()).unwrap();
    let (mut samples, mut bytes) = (Samples::default(), 0);
    for i in 0..set.len() {
        set.read(i, range, &mut samples).unwrap();
        bytes += set.encoded_bytes(i, range);
    }
    (set.len() as u64, samples.len() as u64, bytes)
}

/// Regular, irregular (some with the same times), and constant series of up to 1,500 samples.
fn any_series() -> impl Strategy<Value = Vec<(Vec<i64>, Vec<f64>)>> {
    let shape = (0..4u8, 1..1500usize, 1..20_000i64);
    proptest::collection::vec(shape, 1..12).prop_map(|shapes| {
        let one = |(kind, count, step): (u8, usize, i64)| {
            let jitter = |i: i64| if kind == 1 { i * i % 7 } else { i * 31 % 997 };
            let times = (0..count as i64).map(|i| match kind {
                0 | 3 => i * step,
                1 => i * 15_000 + jitter(i),
                _ => i * 1000 + jitter(i).min(999),
            });
            let value = |i: usize| if kind == 3 { 4.0 } else { (i * 7 % 13) as f64 };
            (times.collect(), (0..count).map(value).collect())
        };
        shapes.into_iter().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_bound_is_what_is_read_or_more(
        series in any_series(),
        start in -1000..2_000_000i64,
        length in prop_oneof![0..100_000i64, 0..20_000_000i64],
        group in 0..4u8,
    ) {
        let db = filled(&series);
        let range = TimeRange::new(start, start + length);
        let predicate = on("g", MatchOp::Equal, &group.to_string());
        for predicate in [predicate, on("i", MatchOp::NotEqual, "1"), Predicate::All(vec![])] {
            let bound = db.bound_of(&predicate, range, &Budget::unlimited()).unwrap();
            let (series, samples, bytes) = counted(&db, &predicate, range);
            // Few series: everything is counted.
            prop_assert_eq!((bound.series_min, bound.series), (series, series));
            prop_assert_eq!((bound.samples_min, bound.samples), (samples, samples));
            prop_assert_eq!(bound.bytes, bytes);
        }
    }
}

#[test]
fn what_is_too_much_to_count_is_bounded_all_the_same() {
    let count = SERIES_WALKED_MAX as usize + 1000;
    let series: Vec<_> =
        (0..count).map(|i| (vec![0, 1000 + (i % 2) as i64 * 1_000_000], vec![1.0, 2.0])).collect();
    let db = filled(&series);
    let range = TimeRange::new(0, 100_000);
    let dear = on("i", MatchOp::Regex, ".*[13579].*");
    let narrowed = Predicate::All(vec![dear.clone(), on("g", MatchOp::Equal, "0")]);
    let few = Predicate::All(vec![dear.clone(), on("i", MatchOp::Equal, "15")]);
    // The dear part alone comes late: its outcome is remembered, which makes it cheap.
    for predicate in [Predicate::All(vec![]), narrowed, dear, on("g", MatchOp::NotEqual, "9")] {
        let bound = db.bound_of(&predicate, range, &Budget::unlimited()).unwrap();
        let (series, samples, bytes) = counted(&db, &predicate, range);
        assert!(bound.series >= series && bound.samples >= samples && bound.bytes >= bytes, "{predicate:?}");
        assert!(bound.series_min <= series && bound.samples_min <= samples, "{predicate:?}");
        assert!(bound.series <= count as u64);
    }
    assert!(count as u64 > VALUES_TESTED_MAX);
    let bound = db.bound_of(&few, range, &Budget::unlimited()).unwrap();
    assert_eq!((bound.series_min, bound.series, bound.samples), (1, 1, 1));
}

#[test]
fn open_chunks_that_are_cut_are_counted_until_they_are_too_many() {
    let count = super::OPEN_DECODED_MAX + 100;
    let series: Vec<_> = (0..count).map(|_| ((0..20).map(|i| i * 1000).collect(), vec![1.5; 20])).collect();
    let db = filled(&series);
    let range = TimeRange::new(0, 4_000);
    let bound = db.bound_of(&Predicate::All(vec![]), range, &Budget::unlimited()).unwrap();
    let (_, samples, _) = counted(&db, &Predicate::All(vec![]), range);
    assert_eq!(samples, 5 * count as u64);
    assert_eq!(bound.samples_min, 5 * super::OPEN_DECODED_MAX as u64);
    assert_eq!(bound.samples, bound.samples_min + 100 * 20);
}
