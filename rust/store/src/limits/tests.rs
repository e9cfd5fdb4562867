#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use metricsdb_model::{
    Batch, BatchSeries, Columns, LabelError, LabelsBuilder, Source, TimeRange, Values, WriteReport,
};
use proptest::prelude::*;

use super::*;
use crate::Options;

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn matching(name: &str, value: &str) -> Predicate {
    use metricsdb_model::{MatchOp, Matcher};
    Predicate::Match(Matcher::new(name, MatchOp::Equal, value).unwrap())
}

fn limit(name: &str, by: &[&str], max: u64, folded_max: u64, action: Action) -> Limit {
    let by = by.iter().map(|label| (*label).to_owned()).collect();
    Limit { name: name.to_owned(), selector: every(), bound: Bound::Series { by, max, folded_max }, action }
}

fn overflow(label: &str) -> Action {
    Action::Overflow(Some(label.to_owned()))
}

fn series(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

fn pod(metric: &str, pod: usize) -> Labels {
    series(&[(METRIC_NAME, metric), ("pod", &format!("pod-{pod}"))])
}

fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    LabelsRef::from_canonical(raw).iter().for_each(|(name, value)| out.push(name, value));
    Ok(())
}

/// Writes one sample each as a sender does.
fn write(db: &Database, samples: &[(Labels, i64, f64)]) -> WriteReport {
    let mut batch = Batch::new(1, decode);
    for (i, (labels, time, value)) in samples.iter().enumerate() {
        let raw = labels.as_ref().canonical().into();
        batch.series.push(BatchSeries { raw, samples: i as u32..i as u32 + 1 });
        batch.timestamps.push(*time);
        batch.values.push(*value);
    }
    db.write(&batch)
}

fn all(db: &Database) -> BTreeMap<Labels, Vec<(i64, f64)>> {
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    (0..view.len())
        .map(|i| {
            let mut samples = metricsdb_model::Samples::default();
            view.read(i, TimeRange::ALL, &mut samples).unwrap();
            (view.labels(i), samples.timestamps.iter().copied().zip(samples.values.iter().copied()).collect())
        })
        .collect()
}

fn refused(report: &WriteReport) -> u64 {
    report.rejected.iter().filter(|r| r.reason == Reason::CardinalityLimit).map(|r| r.count).sum()
}

#[test]
fn starts_stay_with_their_samples_where_some_before_them_are_refused() {
    let db = Database::new(Options::default());
    db.set_limits(vec![limit("all", &[], 1, 0, Action::Reject)]).unwrap();
    let (ids, _) = db.register_or_refuse(&[pod("m", 0), pod("m", 1)]).unwrap();
    let all = crate::Imported {
        ids: vec![ids[1], ids[0], ids[1], ids[0]],
        times: vec![1, 2, 3, 4],
        bits: vec![0; 4],
        kinds: vec![metricsdb_model::ValueKind::Float; 4],
        starts: vec![-1, -2, -3, -4],
        ..crate::Imported::default()
    };
    let report = db.import(&all).unwrap();
    assert_eq!((report.accepted, refused(&report)), (2, 2));
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut starts = Vec::new();
    metricsdb_model::SeriesSet::read_starts(&view, 0, &[2, 4], &mut starts).unwrap();
    assert_eq!(starts, [-2, -4]);
}

#[test]
fn a_full_limit_refuses_new_series_and_leaves_the_others_alone() {
    let db = Database::new(Options::default());
    write(&db, &[(pod("m", 0), 0, 1.0), (pod("m", 1), 0, 1.0), (pod("other", 0), 0, 1.0)]);
    db.set_limits(vec![limit("per metric", &[METRIC_NAME], 2, 0, Action::Reject)]).unwrap();
    let symbols = db.symbols.len();
    let report = write(&db, &[(pod("m", 0), 1, 2.0), (pod("m", 2), 1, 2.0), (pod("other", 1), 1, 2.0)]);
    assert_eq!((report.accepted, refused(&report)), (2, 1));
    let example = &report.rejected[0].example;
    assert!(example.contains("\"per metric\": 2 series, 2 allowed: m{pod=\"pod-2\"}"), "{example}");
    assert_eq!(all(&db)[&pod("m", 0)], [(0, 1.0), (1, 2.0)]);
    assert_eq!((db.series_count(), db.symbols.len()), (4, symbols), "a refused series left its text");
    assert_eq!(db.limit_status()[0].rejected, 1);
    db.check().unwrap();
    // With room again, the series comes in as if nothing had been.
    db.set_limits(vec![limit("per metric", &[METRIC_NAME], 3, 0, Action::Reject)]).unwrap();
    assert_eq!(write(&db, &[(pod("m", 2), 2, 3.0)]).series_created, 1);
    db.check().unwrap();
}

#[test]
fn a_series_that_goes_makes_room_for_another() {
    let db = Database::new(Options::default());
    db.set_limits(vec![limit("all", &[], 1, 0, Action::Reject)]).unwrap();
    assert_eq!(write(&db, &[(pod("m", 0), 10, 1.0)]).series_created, 1);
    assert!(matches!(db.register(&[pod("m", 1)]), Err(Error::Cardinality { .. })));
    assert_eq!(db.evict_before(11, &Budget::unlimited()).unwrap().series, 1);
    assert_eq!(db.register(&[pod("m", 1)]).unwrap().1, 1);
    db.check().unwrap();
}

#[test]
fn a_series_that_others_are_folded_into_stays_as_long_as_they() {
    let db = Database::new(Options::default());
    db.set_limits(vec![limit("all", &[], 1, 1, Action::Overflow(Some("pod".to_owned())))]).unwrap();
    write(&db, &[(pod("m", 0), 10, 1.0), (pod("m", 1), 10, 2.0), (pod("m", 2), 10, 3.0)]);
    // All samples go, and the series that was none's own with them.
    assert_eq!(db.evict_before(1000, &Budget::unlimited()).unwrap().series, 1);
    assert_eq!(write(&db, &[(pod("m", 1), 2000, 5.0)]).accepted, 1);
    let folded = series(&[(METRIC_NAME, "m"), ("pod", super::OVERFLOW)]);
    assert_eq!(all(&db)[&folded], [(2000, 8.0)]);
    // Silent for long enough, the sources are forgotten, and then it may go.
    (0..3).for_each(|hour| db.limits_tick(hour * 7_200_000));
    assert_eq!(db.evict_before(1_000_000, &Budget::unlimited()).unwrap().series, 1);
    assert_eq!(db.series_count(), 0);
    db.check().unwrap();
}

#[test]
fn a_dropped_label_sends_samples_to_the_series_without_it() {
    let db = Database::new(Options::default());
    db.set_limits(vec![limit("all", &[], 2, 1, Action::Drop(Some("pod".to_owned())))]).unwrap();
    let report = write(&db, &(0..5).map(|i| (pod("m", i), 10 + i as i64, i as f64)).collect::<Vec<_>>());
    assert_eq!((report.accepted, report.series_created), (5, 3));
    assert_eq!(all(&db)[&series(&[(METRIC_NAME, "m")])], [(12, 2.0), (13, 3.0), (14, 4.0)]);
    // Room for folded ones is another's, and it is full.
    let report = write(&db, &[(pod("n", 0), 10, 1.0), (series(&[(METRIC_NAME, "n")]), 10, 1.0)]);
    assert_eq!((report.accepted, refused(&report)), (0, 2));
    db.check().unwrap();
}

#[test]
fn an_overflow_series_adds_up_also_by_registered_references() {
    let db = Database::new(Options::default());
    db.set_limits(vec![limit("all", &[], 2, 1, overflow("pod"))]).unwrap();
    let (ids, created) = db.register(&(0..6).map(|i| pod("m", i)).collect::<Vec<_>>()).unwrap();
    assert_eq!((created, db.folded().0), (2, 4));
    for time in [1000, 2000] {
        let values: Vec<i64> = (0..6).map(|i| 10 * i + time).collect();
        let columns = Columns { ids: &ids, timestamps: &[time; 6], values: Values::Int(&values) };
        assert_eq!(db.append_columns(columns).unwrap().accepted, 6);
    }
    let folded = series(&[(METRIC_NAME, "m"), ("pod", OVERFLOW)]);
    assert_eq!(all(&db)[&folded], [(1000, 4140.0), (2000, 8140.0)]);
    let lenient = db.register_or_refuse(&[series(&[(METRIC_NAME, "n")])]).unwrap().0;
    let columns = Columns { ids: &lenient, timestamps: &[1], values: Values::Float(&[1.0]) };
    let report = db.append_columns(columns).unwrap();
    assert_eq!((report.accepted, refused(&report)), (0, 1));
    db.check().unwrap();
}

#[test]
fn churn_names_the_label_and_holds_back_its_new_values_alone() {
    let db = Database::new(Options::default());
    let bound = Bound::Churn { new_max: 100, window_ms: 10_000 };
    let churn = Limit { name: "churn".into(), selector: every(), bound, action: Action::Overflow(None) };
    db.set_limits(vec![churn]).unwrap();
    db.limits_tick(0);
    let web = |pod: usize, path: usize| {
        let (pod, path) = (format!("pod-{pod}"), format!("/{path}"));
        series(&[(METRIC_NAME, "requests_total"), ("job", "web"), ("path", &path), ("pod", &pod)])
    };
    write(&db, &(0..50).map(|i| (web(i, 0), 0, 1.0)).collect::<Vec<_>>());
    for second in 1..=9 {
        db.limits_tick(second * 1000);
        let new: Vec<_> =
            (0..100).map(|i| (web(1000 * second as usize + i, i % 3), second * 1000, 1.0)).collect();
        assert_eq!(write(&db, &new).accepted, 100);
    }
    let (rule, churning) = db.churning().remove(0);
    assert_eq!((rule.as_str(), churning.metric.as_str(), churning.since), ("churn", "requests_total", 1000));
    assert_eq!(churning.labels, ["pod"]);
    // 100 of their own, and one for each path.
    assert_eq!(db.series_count(), 103);
    // Another path of a pod that is there is none of the pod's fault; nor is another metric.
    let report = write(&db, &[(web(1, 77), 9000, 1.0), (pod("other", 12_345), 9000, 1.0)]);
    assert_eq!(report.series_created, 2);
    let total: f64 = all(&db).values().filter_map(|s| s.last()).map(|s| s.1).sum();
    assert_eq!(total, 50.0 + 900.0 + 2.0);
    db.limits_tick(30_000);
    assert_eq!(db.churning(), []);
    assert_eq!(write(&db, &[(web(99_999, 0), 30_000, 1.0)]).series_created, 1);
    db.check().unwrap();
}

#[test]
fn wrong_limits_are_refused_and_change_nothing() {
    let db = Database::new(Options::default());
    let good = limit("good", &[], 1, 0, Action::Reject);
    db.set_limits(vec![good.clone()]).unwrap();
    let named = |action| limit("bad", &[], 1, 0, action);
    let churn =
        |new_max, window_ms| Limit { bound: Bound::Churn { new_max, window_ms }, ..named(Action::Reject) };
    let wrong = [
        vec![named(Action::Overflow(None))],
        vec![named(Action::Drop(Some(METRIC_NAME.to_owned())))],
        vec![churn(1, 10_000)],
        vec![churn(100, 10)],
        vec![good.clone(), good],
        (0..65).map(|i| limit(&i.to_string(), &[], 1, 0, Action::Reject)).collect(),
    ];
    for limits in wrong {
        assert!(matches!(db.set_limits(limits), Err(Error::Input { .. })));
        assert_eq!(db.limit_status()[0].name, "good");
    }
}

#[test]
fn the_label_that_multiplies_is_found_and_growth_is_counted() {
    let db = Database::new(Options::default());
    db.limits_tick(0);
    let rows = (0..300).map(|i| {
        let (user, code) = (format!("u{}", i / 3), format!("{}", 200 + i % 3));
        (series(&[(METRIC_NAME, "hits"), ("user", &user), ("code", &code), ("job", "a")]), 0, 1.0)
    });
    write(&db, &rows.collect::<Vec<_>>());
    write(&db, &[(pod("m", 1), 0, 1.0)]);
    let budget = Budget::unlimited();
    let metrics = db.growth_by_metric(10, &budget).unwrap();
    assert_eq!(metrics.len(), 2);
    let hits = &metrics[0];
    assert_eq!((hits.growth.name.as_str(), hits.growth.series), ("hits", 300));
    assert_eq!((hits.label.as_str(), hits.series_without), ("user", 3));
    assert!(hits.growth.ever.abs_diff(300) < 30 && hits.growth.recent.abs_diff(300) < 30);
    assert_eq!((metrics[1].label.as_str(), metrics[1].series_without), ("", 1));
    let labels = db.growth_by_label(2);
    assert_eq!((labels[0].name.as_str(), labels[0].live, labels[0].series), ("user", 100, 300));
    assert!(labels[0].ever.abs_diff(100) < 10);
    let by_job = db.series_by(&["job"], 10, &budget).unwrap();
    assert_eq!(by_job, [(vec!["a".to_owned()], 300, 1), (vec![String::new()], 1, 1)]);
    db.limits_tick(10 * sketch::PERIOD_MS);
    assert_eq!(db.growth_by_metric(1, &budget).unwrap()[0].growth.recent, 0);
}

/// Threads that make the same series, others that change the rules meanwhile: no series is counted twice or never.
#[test]
fn counts_stay_exact_while_threads_make_series_and_rules_change() {
    let db = Database::new(Options::default());
    let limits =
        |max| vec![limit("all", &[], max, 5, overflow("pod")), limit("pod", &["pod"], 3, 0, Action::Reject)];
    db.set_limits(limits(400)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let db = &db;
            scope.spawn(move || {
                for i in 0..600 {
                    let labels = pod(["a", "b"][i % 2], (i + thread * 50) / 2);
                    let (ids, _) = db.register_or_refuse(&[labels]).unwrap();
                    let columns =
                        Columns { ids: &ids, timestamps: &[i as i64], values: Values::Float(&[1.0]) };
                    db.append_columns(columns).unwrap();
                }
            });
        }
        for round in 0..20 {
            db.set_limits(if round % 5 == 4 { Vec::new() } else { limits(400) }).unwrap();
            db.limits_tick(round * 1000);
            std::thread::yield_now();
        }
    });
    db.set_limits(limits(400)).unwrap();
    db.check().unwrap();
    let before = db.series_count() as u64;
    let more: Vec<Labels> = (0..2000).map(|i| pod("c", i)).collect();
    db.register_or_refuse(&more).unwrap();
    let expected = before.max(400) + u64::from(before <= 400);
    assert!(db.series_count() as u64 <= expected + 1, "{before} {}", db.series_count());
    db.check().unwrap();
}

/// Which series there are under rules, by counting.
#[derive(Default)]
struct Model {
    series: BTreeSet<Labels>,
    folded: BTreeMap<Labels, Labels>,
    newest: BTreeMap<Labels, f64>,
}

impl Model {
    fn full(&self, rule: &Limit, labels: &Labels, extra: bool) -> bool {
        let Bound::Series { by, max, folded_max } = &rule.bound else { return false };
        let key = |labels: &Labels| by.iter().map(|l| labels.value(l).to_owned()).collect::<Vec<_>>();
        let alike = |other: &&Labels| rule.selector.matches(other.as_ref()) && key(other) == key(labels);
        rule.selector.matches(labels.as_ref())
            && self.series.iter().filter(alike).count() as u64 >= max + if extra { *folded_max } else { 0 }
    }

    /// Whether the sample is taken.
    fn write(&mut self, rules: &[Limit], labels: &Labels, value: f64) -> bool {
        if !self.series.contains(labels) && !self.folded.contains_key(labels) {
            let (mut now, mut turned_by) = (labels.clone(), BTreeSet::new());
            while !self.series.contains(&now) {
                let full = rules.iter().find(|r| self.full(r, &now, turned_by.contains(&r.name)));
                let Some(rule) = full else {
                    self.series.insert(now.clone());
                    break;
                };
                let (label, value) = match &rule.action {
                    Action::Reject => return false,
                    Action::Drop(label) => (label.clone().unwrap(), ""),
                    Action::Overflow(label) => (label.clone().unwrap(), OVERFLOW),
                };
                let other = now.with(&label, value);
                if now.get(&label).is_none() || other == now || !turned_by.insert(rule.name.clone()) {
                    return false;
                }
                now = other;
            }
            if now.iter().any(|(_, value)| value == OVERFLOW) {
                self.folded.insert(labels.clone(), now);
            } else if now != *labels {
                self.newest.insert(now, value);
                return true;
            }
        }
        self.newest.insert(labels.clone(), value);
        true
    }

    /// The newest value of each series that there is.
    fn values(&self) -> BTreeMap<Labels, f64> {
        let mut out = BTreeMap::new();
        for (labels, value) in &self.newest {
            match self.folded.get(labels) {
                Some(target) => *out.entry(target.clone()).or_insert(0.0) += value,
                None => _ = out.insert(labels.clone(), *value),
            }
        }
        out
    }
}

fn rules() -> impl Strategy<Value = Vec<Limit>> {
    let label = || prop::sample::select(vec!["pod", "path"]);
    let action = prop_oneof![
        Just(Action::Reject),
        label().prop_map(|l| Action::Drop(Some(l.to_owned()))),
        label().prop_map(overflow),
        label().prop_map(overflow),
    ];
    let by = prop::sample::select(vec![vec![], vec![METRIC_NAME], vec!["path"], vec!["job", "pod"]]);
    let selector = prop_oneof![Just(every()), Just(matching(METRIC_NAME, "a")), Just(matching("job", "x"))];
    let rule =
        (selector, by, 1u64..12, 0u64..6, action).prop_map(|(selector, by, max, folded_max, action)| Limit {
            selector,
            ..limit("", &by, max, folded_max, action)
        });
    prop::collection::vec(rule, 0..4).prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(i, rule)| rule.name = i.to_string());
        rules
    })
}

fn label_sets() -> impl Strategy<Value = Labels> {
    let any = |values: &[&'static str]| prop::sample::select(values.to_vec());
    (any(&["a", "b"]), any(&["", "1", "2", "3", "4", "5"]), any(&["", "/", "/x", "/y"]), any(&["", "x"]))
        .prop_map(|(metric, pod, path, job)| {
            series(&[(METRIC_NAME, metric), ("pod", pod), ("path", path), ("job", job)])
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Batches of series under rules: which series there are, what each has last, and what was refused.
    #[test]
    fn series_and_sums_are_those_of_a_slow_model(
        rules in rules(),
        batches in prop::collection::vec(prop::collection::vec((label_sets(), -50i32..50), 1..12), 1..12),
        registers in any::<bool>(),
    ) {
        let (db, mut model) = (Database::new(Options::default()), Model::default());
        db.set_limits(rules.clone()).unwrap();
        for (time, batch) in batches.iter().enumerate() {
            let mut samples = BTreeMap::new();
            samples.extend(batch.iter().map(|(labels, value)| (labels.clone(), f64::from(*value))));
            let samples: Vec<_> =
                samples.into_iter().map(|(labels, v)| (labels, time as i64 * 1000, v)).collect();
            let taken = samples.iter().filter(|(l, _, v)| model.write(&rules, l, *v)).count() as u64;
            let report = if registers {
                let labels: Vec<Labels> = samples.iter().map(|s| s.0.clone()).collect();
                let (ids, _) = db.register_or_refuse(&labels).unwrap();
                let times = vec![time as i64 * 1000; ids.len()];
                let values: Vec<f64> = samples.iter().map(|s| s.2).collect();
                db.append_columns(Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) }).unwrap()
            } else {
                write(&db, &samples)
            };
            prop_assert_eq!((report.accepted, refused(&report)), (taken, samples.len() as u64 - taken));
        }
        let stored = all(&db);
        prop_assert_eq!(stored.keys().cloned().collect::<BTreeSet<_>>(), model.series.clone());
        // A series without its label is written by several: what was written last at the newest time stands.
        let newest: BTreeMap<Labels, f64> = stored.into_iter().map(|(l, s)| (l, s.last().unwrap().1)).collect();
        prop_assert_eq!(newest, model.values());
        db.check().unwrap();
        // Once more over what is there: the counts follow from the index alone.
        db.set_limits(rules).unwrap();
        db.check().unwrap();
    }
}
