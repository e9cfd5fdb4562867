#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use metricsdb_model::{
    Batch, BatchHistogram, BatchSeries, Columns, Histogram, LabelError, Labels, LabelsBuilder, MatchOp,
    Matcher, MemoryLimit, Reason, Samples, SeriesSet, TimeRange, ValueKind, Values,
};

use super::*;
use crate::{Imported, Options};

const PODS: usize = 300;

fn pod(class: &str, i: usize) -> Labels {
    let name = format!("pod-{i}");
    Labels::from_pairs(vec![("__name__", "up"), ("class", class), ("pod", name.as_str())]).unwrap()
}

fn pods(class: &str) -> Vec<Labels> {
    (0..PODS).map(|i| pod(class, i)).collect()
}

fn of(class: &str, is_low: bool) -> ImportanceRule {
    let predicate = Predicate::Match(Matcher::new("class", MatchOp::Equal, class).unwrap());
    ImportanceRule { predicate, is_low }
}

fn every(is_low: bool) -> ImportanceRule {
    ImportanceRule { predicate: Predicate::All(Vec::new()), is_low }
}

/// A database whose soft limit is at 80 %, holding about so much of the limit; new series are refused from 95 % on,
/// samples of low importance from 97.5 %.
fn limited(db: &mut Database, percent: f64) -> Arc<MemoryLimit> {
    let limit = (db.held() as f64 * 100.0 / percent) as u64;
    let memory = Arc::new(MemoryLimit::new(limit, limit / 100 * 80));
    db.limit_memory(memory.clone());
    memory
}

fn write(db: &Database, ids: &[u64], time: i64) -> WriteReport {
    let (timestamps, values) = (vec![time; ids.len()], vec![1.0; ids.len()]);
    db.append_columns(Columns { ids, timestamps: &timestamps, values: Values::Float(&values) }).unwrap()
}

/// Accepted, refused, and the step.
fn outcome(report: &WriteReport) -> (u64, u64, Option<Step>) {
    assert!(report.rejected.iter().all(|r| r.reason == Reason::MemoryLimit && r.example.contains("in 5 s")));
    (report.accepted, report.rejected_total(), report.refused_at)
}

fn refused(memory: &MemoryLimit, step: Step) -> u64 {
    memory.refused().find(|r| r.0 == step).unwrap().1
}

/// Times and starts of all samples, by labels.
fn samples(db: &Database) -> BTreeMap<String, Vec<(i64, i64)>> {
    let view = db.select_exact(&Predicate::All(Vec::new()), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let read = |i: usize| {
        let (mut samples, mut starts) = (Samples::default(), Vec::new());
        view.read(i, TimeRange::ALL, &mut samples).unwrap();
        view.read_starts(i, &samples.timestamps, &mut starts).unwrap();
        (view.labels(i).to_string(), samples.timestamps.into_iter().zip(starts).collect())
    };
    (0..view.len()).map(read).collect()
}

/// Series of two classes, one of them low.
fn database() -> (Database, Vec<u64>, Vec<u64>) {
    let db = Database::new(Options::default());
    let (api, batch) = (db.register(&pods("api")).unwrap().0, db.register(&pods("batch")).unwrap().0);
    db.set_importance(vec![of("batch", true), every(false)]).unwrap();
    (db, api, batch)
}

#[test]
fn samples_of_low_importance_are_refused_before_those_of_others() {
    let (mut db, api, batch) = database();
    let all: Vec<u64> = api.iter().zip(&batch).flat_map(|(a, b)| [*a, *b]).collect();
    let memory = limited(&mut db, 96.0);
    let low = Some(Step::LowSamples);
    assert!(db.register(&[pod("api", PODS)]).is_err(), "new series are refused before");
    assert_eq!(outcome(&write(&db, &all, 1000)), (2 * PODS as u64, 0, None));
    let memory_before = refused(&memory, Step::LowSamples);
    drop(memory);
    let memory = limited(&mut db, 98.5);
    assert_eq!(outcome(&write(&db, &all, 2000)), (PODS as u64, PODS as u64, low));
    assert_eq!(outcome(&write(&db, &batch, 2001)), (0, PODS as u64, low));
    assert_eq!(outcome(&write(&db, &api, 2002)), (PODS as u64, 0, None));
    assert_eq!((memory_before, refused(&memory, Step::LowSamples)), (0, 2 * PODS as u64));
    let unknown = write(&db, &[batch[0], u64::from(u32::MAX), api[0]], 2003);
    assert_eq!((unknown.accepted, unknown.rejected_total()), (1, 2));
    assert_eq!(unknown.rejected.iter().filter(|r| r.reason == Reason::UnknownSeries).count(), 1);
    let memory = limited(&mut db, 101.0);
    let all_refused = outcome(&write(&db, &all, 3000));
    assert_eq!(all_refused, (0, 2 * PODS as u64, Some(Step::Samples)));
    assert_eq!([Step::LowSamples, Step::Samples].map(|step| refused(&memory, step)), [PODS as u64; 2]);
    limited(&mut db, 90.0);
    assert_eq!(outcome(&write(&db, &all, 4000)), (2 * PODS as u64, 0, None), "all are taken again");
    for (labels, found) in samples(&db) {
        let times: Vec<i64> = found.iter().map(|sample| sample.0).filter(|time| time % 1000 == 0).collect();
        let expected: &[i64] = if labels.contains("batch") { &[1000, 4000] } else { &[1000, 2000, 4000] };
        assert_eq!(times, expected, "{labels}");
    }
    db.check().unwrap();
}

#[test]
fn every_way_in_refuses_them_and_keeps_the_others_whole() {
    fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
        LabelsRef::from_canonical(raw).iter().for_each(|(name, value)| out.push(name, value));
        Ok(())
    }
    let (mut db, api, batch) = database();
    let memory = limited(&mut db, 98.0);
    let sets = [pod("batch", 1), pod("api", 1), pod("batch", 2), pod("api", 2), pod("api", PODS)];
    let mut request = Batch::new(1, decode);
    for (i, labels) in sets.iter().enumerate() {
        request
            .series
            .push(BatchSeries { raw: labels.as_ref().canonical().into(), samples: i as u32..i as u32 + 1 });
        request.timestamps.push(i as i64);
        request.values.push(1.0);
        request.starts.push(-(i as i64) - 10);
        let histogram = Histogram::stale();
        request.histograms.push(BatchHistogram { series: i as u32, timestamp: 9, start: 0, histogram });
    }
    let report = db.write(&request);
    assert_eq!((report.accepted, report.histograms, report.rejected_total()), (4, 2, 6));
    assert_eq!(report.refused_at, Some(Step::LowSamples));
    assert_eq!((refused(&memory, Step::NewSeries), refused(&memory, Step::LowSamples)), (1, 4));

    let all = Imported {
        ids: vec![batch[3], api[3], batch[4], api[4]],
        times: vec![1, 2, 3, 4],
        bits: vec![0; 4],
        kinds: vec![ValueKind::Float; 4],
        starts: vec![-1, -2, -3, -4],
        ..Imported::default()
    };
    let report = db.import(&all).unwrap();
    assert_eq!((report.accepted, report.rejected_total()), (2, 2));
    let found = samples(&db);
    let sample = |i: usize| found[&pod("api", i).to_string()].clone();
    assert_eq!(
        [1, 2, 3, 4].map(sample),
        [[(1, -11)], [(3, -13)], [(2, -2)], [(4, -4)]],
        "starts stay with theirs"
    );
    assert_eq!(found.len(), 4);
    let low = db
        .append_histograms(&[batch[5], api[5]], &[1, 1], &[Histogram::stale(), Histogram::stale()])
        .unwrap();
    assert_eq!((low.accepted, low.rejected_total()), (1, 1));
    db.check().unwrap();
}

#[test]
fn the_first_rule_holds_for_series_of_before_and_after() {
    let (mut db, api, batch) = database();
    let rare = |is_low| ImportanceRule {
        predicate: Predicate::Match(Matcher::new("pod", MatchOp::Regex, "pod-.*7").unwrap()),
        is_low,
    };
    db.set_importance(vec![rare(false), of("batch", true), of("api", false), every(true)]).unwrap();
    let late: Vec<Labels> = (PODS..2 * PODS).map(|i| pod("batch", i)).chain(pods("cron")).collect();
    let late = db.register(&late).unwrap().0;
    limited(&mut db, 98.5);
    let normal = |report: &WriteReport| report.accepted;
    let sevens = (PODS / 10) as u64;
    assert_eq!(normal(&write(&db, &api, 1)), PODS as u64);
    assert_eq!(normal(&write(&db, &batch, 1)), sevens);
    assert_eq!(normal(&write(&db, &late, 1)), 2 * sevens);
    db.set_importance(vec![of("api", false)]).unwrap();
    assert_eq!(normal(&write(&db, &late, 2)), late.len() as u64, "without a low rule all are alike");
    assert!(db.importance.low.read().is_empty() && db.importance.rules.read().is_empty());
}

#[test]
fn a_series_in_the_row_of_one_that_is_gone_has_its_own_importance() {
    let (mut db, _, batch) = database();
    write(&db, &batch, 1000);
    while db.evict_before(5000, &Budget::unlimited()).unwrap().series > 0 {}
    let rows: Vec<u64> = batch.iter().map(|id| id & 0xffff_ffff).collect();
    let api = db.register(&(PODS..20 * PODS).map(|i| pod("api", i)).collect::<Vec<_>>()).unwrap().0;
    let again: Vec<u64> = api.into_iter().filter(|id| rows.contains(&(id & 0xffff_ffff))).collect();
    assert!(again.len() > PODS / 2, "{}", again.len());
    limited(&mut db, 98.5);
    assert_eq!(outcome(&write(&db, &again, 6000)), (again.len() as u64, 0, None));
    assert_eq!(write(&db, &batch, 6000).accepted, 0, "the old ones are gone");
}
