#![allow(clippy::unwrap_used)]

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{
    Batch, Columns, LabelError, Labels, LabelsBuilder, MatchOp, Matcher, Metadata, MetricType, Precision,
    Values,
};
use proptest::prelude::*;

use super::*;
use crate::{DuplicatePolicy, Options};

fn policy(text: &str) -> Policy {
    Policy::new(Precision::parse(text).unwrap())
}

fn named(pattern: &str) -> Predicate {
    Predicate::Match(Matcher::new(METRIC_NAME, MatchOp::Regex, pattern).unwrap())
}

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn labels(metric: &str) -> Labels {
    Labels::from_pairs([(METRIC_NAME, metric)]).unwrap()
}

fn store(duplicates: DuplicatePolicy) -> Database {
    Database::new(Options { duplicates, samples_per_chunk: 20, ..Options::default() })
}

type Sample = (i64, u64, ValueKind);

/// Writes samples one by one: some in order, some late.
fn write(db: &Database, metric: &str, samples: &[Sample]) {
    let (ids, _) = db.register(&[labels(metric)]).unwrap();
    for &(time, bits, kind) in samples {
        let (float, int, uint) = ([f64::from_bits(bits)], [bits as i64], [bits]);
        let values = match kind {
            ValueKind::Float => Values::Float(&float),
            ValueKind::Int => Values::Int(&int),
            ValueKind::Uint => Values::Uint(&uint),
        };
        let report = db.append_columns(Columns { ids: &ids, timestamps: &[time], values }).unwrap();
        assert_eq!(report.accepted, 1);
    }
}

fn write_floats(db: &Database, metric: &str, from: i64, values: &[f64]) {
    let samples: Vec<Sample> =
        values.iter().zip(from..).map(|(v, t)| (t * 1000, v.to_bits(), ValueKind::Float)).collect();
    write(db, metric, &samples);
}

fn read(db: &Database, metric: &str) -> Vec<Sample> {
    let view = db.select_exact(&named(metric), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    let mut kinds = Vec::new();
    for i in 0..view.len() {
        for run in view.read_exact(i, TimeRange::ALL, &mut times, &mut bits).unwrap() {
            kinds.extend(std::iter::repeat_n(run.kind, run.len));
        }
    }
    times.into_iter().zip(bits).zip(kinds).map(|((t, b), k)| (t, b, k)).collect()
}

fn floats(db: &Database, metric: &str) -> Vec<f64> {
    read(db, metric).iter().map(|s| f64::from_bits(s.1)).collect()
}

/// A message that only says what a family is.
fn declare(db: &Database, metric: &str, kind: MetricType) {
    fn decode(_: &[u8], _: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
        Ok(())
    }
    let said = Metadata { metric: metric.to_owned(), kind: Some(kind), help: None, unit: None };
    db.write(&Batch { metadata: vec![said], ..Batch::new(1, decode) });
}

fn precisions() -> impl Strategy<Value = Policy> {
    let texts = vec![
        "lossless",
        "bits(8)",
        "digits(3)",
        "digits(15)",
        "decimals(1)",
        "decimals(-2)",
        "relative(0.01)",
        "absolute(0.3)",
    ];
    (prop::sample::select(texts), any::<bool>())
        .prop_map(|(text, counters_exact)| Policy { counters_exact, ..policy(text) })
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let bits = prop_oneof![
        4 => (-1e4..1e4).prop_map(|v: f64| (v.to_bits(), ValueKind::Float)),
        2 => (-100_000i64..100_000).prop_map(|v| ((v as f64 / 100.0).to_bits(), ValueKind::Float)),
        2 => any::<i64>().prop_map(|v| (v as u64, ValueKind::Int)),
        2 => any::<u64>().prop_map(|v| (v >> (v % 64), ValueKind::Uint)),
        1 => prop::sample::select(vec![
            STALE_NAN_BITS, f64::NAN.to_bits(), 0x7ff8_0000_dead_beef, f64::INFINITY.to_bits(), (-0.0f64).to_bits(),
        ]).prop_map(|b| (b, ValueKind::Float)),
    ];
    prop::collection::vec((0i64..120, bits).prop_map(|(t, (b, k))| (t * 1000, b, k)), 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// In order, late and duplicate samples: as if the sender had rounded each of them.
    #[test]
    fn a_store_keeps_what_the_quantizer_makes_of_every_sample(
        policy in precisions(),
        samples in samples(),
        duplicates in prop::sample::select(vec![
            DuplicatePolicy::Last, DuplicatePolicy::First, DuplicatePolicy::Min, DuplicatePolicy::Max,
        ]),
    ) {
        let quantizer = Quantizer::new(policy).unwrap();
        let (rounding, plain) = (store(duplicates), store(duplicates));
        rounding.set_precision(vec![(named("a|b_total"), policy)]).unwrap();
        for (metric, counter) in [("a", false), ("b_total", true), ("other", false)] {
            write(&rounding, metric, &samples);
            let apply = |&(t, b, k): &Sample| match metric {
                "other" => (t, b, k),
                _ => (t, quantizer.apply(k, counter, b), k),
            };
            write(&plain, metric, &samples.iter().map(apply).collect::<Vec<_>>());
            prop_assert_eq!(read(&rounding, metric), read(&plain, metric));
        }
        rounding.check().unwrap();
    }

    /// Writing first and rewriting then leads to the same samples, and says how many changed.
    #[test]
    fn rewriting_equals_writing_under_the_policy(policy in precisions(), samples in samples(), dense in any::<bool>()) {
        let (late, early) = (store(DuplicatePolicy::Last), store(DuplicatePolicy::Last));
        early.set_precision(vec![(every(), policy)]).unwrap();
        let metrics = ["a", "b_total"];
        metrics.iter().for_each(|metric| write(&early, metric, &samples));
        metrics.iter().for_each(|metric| write(&late, metric, &samples));
        if dense {
            late.densify(100_000, u64::MAX, &Budget::unlimited()).unwrap();
        }
        let before: Vec<Vec<Sample>> = metrics.iter().map(|m| read(&late, m)).collect();
        late.set_precision(vec![(every(), policy)]).unwrap();
        let done = late.rewrite_precision(&every(), &Budget::unlimited()).unwrap();
        let mut changed = 0;
        for (metric, before) in metrics.iter().zip(before) {
            let after = read(&late, metric);
            prop_assert_eq!(&after, &read(&early, metric));
            changed += after.iter().zip(&before).filter(|(a, b)| a != b).count() as u64;
        }
        prop_assert_eq!((done.changed, done.series), (changed, 2));
        prop_assert_eq!(done.samples, late.stats().samples);
        let again = late.rewrite_precision(&every(), &Budget::unlimited()).unwrap();
        prop_assert_eq!((again.changed, again.bytes_before), (0, done.bytes_after));
        late.check().unwrap();
    }
}

#[test]
fn the_first_rule_that_matches_is_that_of_known_and_of_new_series() {
    let db = store(DuplicatePolicy::Last);
    write_floats(&db, "a", 0, &[1.2345]);
    db.set_precision(vec![(named("a"), policy("decimals(1)")), (every(), policy("decimals(2)"))]).unwrap();
    write_floats(&db, "a", 1, &[1.2345]);
    write_floats(&db, "b", 0, &[1.2345]);
    assert_eq!((floats(&db, "a"), floats(&db, "b")), (vec![1.2345, 1.2], vec![1.23]));
    assert_eq!(db.precision_series(), [1, 1]);
    db.set_precision(vec![(every(), policy("decimals(2)"))]).unwrap();
    write_floats(&db, "a", 2, &[1.2345]);
    assert_eq!(db.precision_series(), [2]);
    db.set_precision(Vec::new()).unwrap();
    write_floats(&db, "a", 3, &[1.2345]);
    write_floats(&db, "c", 0, &[1.2345]);
    assert_eq!(floats(&db, "a"), [1.2345, 1.2, 1.23, 1.2345]);
    assert_eq!((floats(&db, "c"), db.precision_series()), (vec![1.2345], Vec::new()));
    db.check().unwrap();
}

#[test]
fn a_type_that_is_declared_later_makes_a_series_a_counter_or_none() {
    let db = store(DuplicatePolicy::Last);
    db.set_precision(vec![(every(), policy("digits(2)"))]).unwrap();
    for metric in ["requests", "x_total", "latency_bucket"] {
        write_floats(&db, metric, 0, &[1234.0]);
    }
    assert_eq!(
        ["requests", "x_total", "latency_bucket"].map(|m| floats(&db, m)),
        [[1200.0], [1234.0], [1234.0]]
    );
    declare(&db, "requests", MetricType::Counter);
    declare(&db, "x_total", MetricType::Gauge);
    declare(&db, "latency", MetricType::GaugeHistogram);
    for metric in ["requests", "x_total", "latency_bucket"] {
        write_floats(&db, metric, 1, &[1234.0]);
    }
    assert_eq!(
        ["requests", "x_total", "latency_bucket"].map(|m| floats(&db, m)[1]),
        [1234.0, 1200.0, 1200.0]
    );
    db.check().unwrap();
}

#[test]
fn a_sum_of_two_samples_is_rounded_once_more() {
    let db = store(DuplicatePolicy::Sum);
    db.set_precision(vec![(every(), policy("decimals(1)"))]).unwrap();
    write_floats(&db, "a", 0, &[0.12]);
    write_floats(&db, "a", 0, &[0.24]);
    assert_eq!(floats(&db, "a"), [0.3]);
}

#[test]
fn a_preview_changes_nothing_and_foretells_the_bytes_of_a_rewrite() {
    let db = Database::new(Options::default());
    let noise = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / 1e4;
    for metric in ["a", "b"] {
        write_floats(&db, metric, 0, &(0..1024).map(noise).collect::<Vec<_>>());
    }
    let before = (read(&db, "a"), db.stats());
    let all = TimeRange::ALL;
    let rows = db.preview_precision(&every(), policy("decimals(0)"), all, &Budget::unlimited()).unwrap();
    assert_eq!(before.0, read(&db, "a"));
    assert_eq!(
        rows.iter().map(|r| (r.metric.as_str(), r.series, r.samples)).collect::<Vec<_>>(),
        [("a", 1, 1024), ("b", 1, 1024)]
    );
    let values: Vec<f64> = (0..1024).map(noise).collect();
    let errors = || values.iter().map(|x| (x - x.round_ties_even()).abs());
    let row = &rows[0];
    assert_eq!(row.abs_error_max, errors().fold(0.0, f64::max));
    assert!((row.rms_error - (errors().map(|e| e * e).sum::<f64>() / 1024.0).sqrt()).abs() < 1e-12);
    assert!(row.rel_error_max <= 1.0 && row.bytes_then * 3 < row.bytes_now * 2, "{row:?}");

    db.set_precision(vec![(every(), policy("decimals(0)"))]).unwrap();
    let done = db.rewrite_precision(&named("a"), &Budget::unlimited()).unwrap();
    assert_eq!((done.series, done.samples), (1, 1024));
    assert!(done.bytes_after.abs_diff(row.bytes_then) * 50 <= row.bytes_then, "{done:?} {row:?}");
    assert!(floats(&db, "b").iter().any(|v| v.fract() != 0.0), "b was not selected");
}

#[test]
fn what_cannot_be_a_rule_is_refused_and_leaves_the_rules_as_they_were() {
    let db = store(DuplicatePolicy::Last);
    db.set_precision(vec![(every(), policy("decimals(0)"))]).unwrap();
    let many = (0..128).map(|_| (every(), policy("decimals(1)"))).collect();
    assert!(matches!(db.set_precision(many), Err(Error::Input { .. })));
    let wrong = Policy::new(Precision::Digits(90));
    assert!(matches!(db.set_precision(vec![(every(), wrong)]), Err(Error::Input { .. })));
    write_floats(&db, "a", 0, &[1.6]);
    assert_eq!(floats(&db, "a"), [2.0]);
    let budget = Budget::new(Default::default(), 0, 0);
    assert!(db.preview_precision(&every(), policy("bits(3)"), TimeRange::ALL, &budget).is_err());
}

#[test]
fn series_that_come_while_rules_change_have_the_rule_that_stands_at_the_end() {
    let db = Database::new(Options::default());
    std::thread::scope(|scope| {
        let db = &db;
        for thread in 0..2 {
            scope.spawn(move || {
                for i in 0..500 {
                    db.register(&[labels(&format!("m{thread}_{i}"))]).unwrap();
                }
            });
        }
        for i in 0..50 {
            let digits = format!("m._[0-9]*{}", i % 10);
            db.set_precision(vec![(named(&digits), policy("digits(3)")), (every(), policy("bits(9)"))])
                .unwrap();
        }
    });
    db.check().unwrap();
    assert_eq!(db.precision_series().iter().sum::<u64>(), 1000);
}
