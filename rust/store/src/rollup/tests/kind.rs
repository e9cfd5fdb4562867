//! What series are taken for.

use metricsdb_model::{Metadata, MetricType};

use super::*;

fn kind_of(values: &[f64], kind: Option<Kind>) -> Kind {
    let db = Database::new(Options::default());
    let id = series(&db);
    let samples: Vec<(i64, f64)> = values.iter().zip(1i64..).map(|(&v, i)| (i * 15, v)).collect();
    write(&db, id, &samples);
    let policy = Rule { kind, beside: Beside::default(), ..rule(None, [None; 3]) };
    roll_with(&db, &policy);
    let found = shard(&db).rollups.iter().next().map(|(_, series)| series.kind());
    found.unwrap()
}

fn roll_with(db: &Database, rule: &Rule) {
    let pass = Pass { now: 1_000_000, delay: 0, batch: 1 };
    let rules = std::slice::from_ref(rule);
    db.roll(rules, pass, &mut Progress::default(), u64::MAX, &Budget::unlimited()).unwrap();
}

#[test]
fn few_whole_numbers_are_states_and_many_are_not() {
    let cycle = |states: usize| -> Vec<f64> { (0..200).map(|i| ((i * 7) % states) as f64).collect() };
    assert_eq!(kind_of(&cycle(2), None), Kind::States);
    assert_eq!(kind_of(&cycle(8), None), Kind::States);
    assert_eq!(kind_of(&cycle(9), None), Kind::Gauge);
    assert_eq!(kind_of(&[1.0; 64], None), Kind::States, "what is up all the time");
    assert_eq!(kind_of(&[0.5, 1.0].repeat(40), None), Kind::Gauge);
    assert_eq!(kind_of(&[f64::NAN, 1.0].repeat(40), None), Kind::Gauge);
    assert_eq!(kind_of(&[0.0, 1.0].repeat(7), None), Kind::Gauge, "too few samples to tell");
    let rising: Vec<f64> = (0..200).map(|i| f64::from(i / 20)).collect();
    assert_eq!(kind_of(&rising, None), Kind::Counter);
    assert_eq!(kind_of(&cycle(2), Some(Kind::Gauge)), Kind::Gauge);
    assert_eq!(kind_of(&cycle(9), Some(Kind::States)), Kind::States);
}

#[test]
fn states_come_back_from_journal_and_checkpoint_and_can_be_overruled_later() {
    let disk = Disk::default();
    let mut db = opened(&disk);
    let id = series(&db);
    let samples: Vec<(i64, f64)> = (1..400).map(|i| (i * 15, f64::from(u8::from(i % 50 < 3)))).collect();
    write(&db, id, &samples);
    let policy = Rule { kind: None, beside: Beside::default(), ..rule(None, [None; 3]) };
    roll_with(&db, &policy);
    let states = |db: &Database| {
        let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
        view.states(0, 60, TimeRange::ALL).unwrap()
    };
    let wanted = states(&db);
    assert!(wanted.iter().any(|(_, states)| states.len() == 2));
    for checkpoint in [false, true] {
        if checkpoint {
            db.checkpoint().unwrap();
        }
        db = reopened(db, &disk);
        assert_eq!(states(&db), wanted);
        assert_eq!(db.rollup_kinds(&every(), &Budget::unlimited()).unwrap()[0].1, "states");
    }
    // A gauge from here on; what is made stays.
    write(&db, series(&db), &(400..800).map(|i| (i * 15, (i % 2) as f64)).collect::<Vec<_>>());
    roll_with(&db, &Rule { kind: Some(Kind::Counter), ..policy.clone() });
    assert_eq!(
        db.rollup_kinds(&every(), &Budget::unlimited()).unwrap()[0].1,
        "states",
        "records of counters differ"
    );
    write(&db, series(&db), &(800..1200).map(|i| (i * 15, (i % 2) as f64)).collect::<Vec<_>>());
    roll_with(&db, &Rule { kind: Some(Kind::Gauge), ..policy });
    assert_eq!(db.rollup_kinds(&every(), &Budget::unlimited()).unwrap()[0].1, "gauge");
}

#[test]
fn declared_gauges_are_gauges_or_states_and_state_sets_are_states() {
    let rising: Vec<(i64, f64)> = (1..400).map(|i| (i * 15, i as f64)).collect();
    let flipping: Vec<(i64, f64)> = (1..400).map(|i| (i * 15, (i % 2) as f64)).collect();
    let found = |declared: MetricType, samples: &[(i64, f64)]| {
        let db = Database::new(Options::default());
        let metadata = Metadata { metric: "x".into(), kind: Some(declared), help: None, unit: None };
        db.learn(&[metadata]);
        write(&db, series(&db), samples);
        roll_with(&db, &Rule { kind: None, beside: Beside::default(), ..rule(None, [None; 3]) });
        db.rollup_kinds(&every(), &Budget::unlimited()).unwrap()[0].1
    };
    assert_eq!(found(MetricType::Gauge, &rising), "gauge");
    assert_eq!(found(MetricType::Gauge, &flipping), "states");
    assert_eq!(found(MetricType::StateSet, &rising), "states");
    assert_eq!(found(MetricType::Counter, &flipping), "counter");
    assert_eq!(found(MetricType::Unknown, &rising), "counter");
}
