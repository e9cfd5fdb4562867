#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use metricsdb_model::memory::Step;
use metricsdb_model::{
    Budget, Columns, Error, Labels, MatchOp, Matcher, MemoryLimit, Predicate, Reason, SeriesSet, TimeRange,
    Values, WriteReport,
};

use crate::{Database, Options};

fn set(i: u64) -> Labels {
    let id = format!("id-{i:06}");
    Labels::from_pairs(vec![("__name__", "requests_total"), ("id", id.as_str()), ("job", "api")]).unwrap()
}

/// A database that holds about `percent` of its limit; the soft limit is at 80 %.
fn limited(db: &mut Database, percent: u64) -> Arc<MemoryLimit> {
    let limit = db.held() as u64 * 100 / percent;
    let memory = Arc::new(MemoryLimit::new(limit, limit / 100 * 80));
    db.limit_memory(memory.clone());
    memory
}

fn write(db: &Database, ids: &[u64], time: i64, value: f64) -> WriteReport {
    let (times, values) = (vec![time; ids.len()], vec![value; ids.len()]);
    let columns = Columns { ids, timestamps: &times, values: Values::Float(&values) };
    db.append_columns(columns).unwrap()
}

/// A sample a second of each series, one series after the other.
fn fill(db: &Database, ids: &[u64], from: i64, steps: i64) {
    let times: Vec<i64> = (0..steps).map(|step| from + step * 1000).collect();
    let values: Vec<f64> = (0..steps).map(|step| (step * 7919 % 1000) as f64 / 7.0).collect();
    for &id in ids {
        let columns =
            Columns { ids: &vec![id; times.len()], timestamps: &times, values: Values::Float(&values) };
        db.append_columns(columns).unwrap();
    }
}

fn refused(memory: &MemoryLimit, step: Step) -> u64 {
    memory.refused().find(|r| r.0 == step).unwrap().1
}

/// Times of all samples of all series.
fn times(db: &Database) -> Vec<i64> {
    let all = Predicate::Match(Matcher::new("job", MatchOp::Equal, "api").unwrap());
    let range = TimeRange::new(i64::MIN, i64::MAX);
    let view = db.select_exact(&all, range, &Budget::unlimited()).unwrap();
    let mut out = Vec::new();
    for i in 0..view.len() {
        view.read_exact(i, range, &mut out, &mut Vec::new()).unwrap();
    }
    out.sort_unstable();
    out
}

#[test]
fn new_series_are_refused_first_and_leave_nothing_behind() {
    let mut db = Database::new(Options::default());
    let sets: Vec<Labels> = (0..2000).map(set).collect();
    let ids = db.register(&sets).unwrap().0;
    let memory = limited(&mut db, 96);
    let (held, symbols) = (db.held(), db.stats().symbols);
    for i in 0..100 {
        let error = db.register(&[set(5000 + i)]).unwrap_err();
        assert!(matches!(error, Error::Memory { step: Step::NewSeries, .. }), "{error}");
    }
    assert_eq!((db.held(), db.stats().symbols, db.stats().series), (held, symbols, 2000));
    assert_eq!(refused(&memory, Step::NewSeries), 100);
    assert_eq!(db.register(&sets).unwrap(), (ids.clone(), 0), "known series are found");
    assert_eq!(write(&db, &ids, 1000, 7.0).accepted, 2000, "and written");
    assert_eq!(refused(&memory, Step::Samples), 0);
}

#[test]
fn samples_are_refused_at_the_limit_and_none_is_lost_silently() {
    let mut db = Database::new(Options::default());
    let ids = db.register(&(0..500).map(set).collect::<Vec<_>>()).unwrap().0;
    let mut x = 1u64;
    // Series of one length would all need a larger slab at one time.
    for step in 0..100 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write(&db, &ids[step * 5..], step as i64 - 200, x as f64 / 7.0);
    }
    let (memory, before) = (limited(&mut db, 50), db.stats().samples);
    let (mut accepted, mut rejected) = (0, 0);
    for step in 0..1500 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let report = write(&db, &ids, step * 1000, x as f64 / 7.0);
        assert_eq!(report.accepted + report.rejected_total(), 500);
        assert!(report.rejected.iter().all(|r| r.reason == Reason::MemoryLimit));
        accepted += report.accepted;
        rejected += report.rejected_total();
    }
    assert!(accepted > 0 && rejected > 0, "{accepted} {rejected}");
    assert_eq!((db.stats().samples - before, refused(&memory, Step::Samples)), (accepted, rejected));
    let limit = memory.limit().unwrap();
    assert!(db.held() as u64 <= limit + limit / 20, "{} of {limit}", db.held());
    db.check().unwrap();
}

#[test]
fn eviction_takes_the_oldest_and_only_as_much_as_is_needed() {
    let mut db = Database::new(Options::default());
    let ids = db.register(&(0..50).map(set).collect::<Vec<_>>()).unwrap().0;
    fill(&db, &ids, 0, 12_000);
    let (before, all) = (db.held() as u64, times(&db));
    limited(&mut db, 90);
    let goal = before / 4 * 3;
    let (mut from, mut samples) = (i64::MIN, 0);
    loop {
        let step = db.evict(goal, from, i64::MAX, &Budget::unlimited()).unwrap();
        samples += step.expired.samples;
        from = step.before;
        if step.finished {
            break;
        }
    }
    let left = times(&db);
    assert_eq!((left.len() as u64 + samples) as usize, all.len());
    assert!(db.held() as u64 <= goal && db.held() as u64 > goal / 10 * 8, "{} for {goal}", db.held());
    assert!(left.iter().filter(|t| **t >= from).eq(all.iter().filter(|t| **t >= from)), "the young stay");
    let nothing = db.evict(0, i64::MIN, left[0], &Budget::unlimited()).unwrap();
    assert!(nothing.finished && nothing.expired.samples == 0, "what must be kept is kept");
    assert_eq!(times(&db), left);
}

#[test]
fn an_outlier_in_time_does_not_cost_the_rest() {
    let mut db = Database::new(Options::default());
    let ids = db.register(&(0..50).map(set).collect::<Vec<_>>()).unwrap().0;
    let (now, year) = (1_700_000_000_000, 365 * 86_400_000);
    for step in 0..600 {
        write(&db, &ids[..1], now - 40 * year + step, 1.0);
    }
    fill(&db, &ids, now - 5_000_000, 5000);
    let held = limited(&mut db, 90).shares().stored;
    let (mut from, mut steps) = (i64::MIN, 0);
    loop {
        let step = db.evict(held / 10 * 9, from, now, &Budget::unlimited()).unwrap();
        (from, steps) = (step.before, steps + 1);
        if step.finished {
            break;
        }
    }
    assert!(steps < 60, "{steps}");
    assert!(times(&db).len() > 50 * 5000 / 2);
}

#[test]
fn what_is_not_too_much_or_not_there_is_not_evicted() {
    let mut db = Database::new(Options::default());
    let ids = db.register(&(0..50).map(set).collect::<Vec<_>>()).unwrap().0;
    limited(&mut db, 90);
    let nothing = db.evict(0, i64::MIN, i64::MAX, &Budget::unlimited()).unwrap();
    assert!(nothing.finished && nothing.expired.samples == 0, "there are series, and no samples");
    fill(&db, &ids[..2], 0, 100);
    let enough = db.evict(u64::MAX, i64::MIN, i64::MAX, &Budget::unlimited()).unwrap();
    assert!(enough.finished && enough.expired.samples == 0 && times(&db).len() == 200);
}

#[test]
fn one_thread_at_a_time_measures() {
    let mut db = Database::new(Options::default());
    let ids = db.register(&(0..50).map(set).collect::<Vec<_>>()).unwrap().0;
    let memory = limited(&mut db, 10);
    let before = memory.shares().stored;
    let measuring = db.meter.walked.lock();
    fill(&db, &ids, 0, 3000);
    assert_eq!(memory.shares().stored, before, "somebody is at it");
    drop(measuring);
    write(&db, &ids, 4_000_000, 1.0);
    assert!(memory.shares().stored > before);
}
