#![allow(clippy::unwrap_used, clippy::panic)]

use metricsdb_model::{Budget, Columns, Labels, MatchOp, Matcher, Predicate, Values};
use proptest::prelude::*;

use super::*;
use crate::Options;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.to_vec()).unwrap()
}

/// Three metrics over some hosts: counters, constants and small decimals, with or without jitter.
fn filled(hosts: u32, steps: i64, jitter: i64) -> Database {
    let db = Database::new(Options::default());
    let sets: Vec<Labels> = (0..hosts * 3)
        .map(|i| {
            let (host, parity) = (format!("host-{}", i / 3), format!("{}", i / 3 % 2));
            let name = ["requests_total", "up", "load"][i as usize % 3];
            labels(&[("__name__", name), ("host", &host), ("parity", &parity), ("also", &host)])
        })
        .collect();
    let ids = db.register(&sets).unwrap().0;
    for t in 0..steps {
        let times = vec![t * 15_000 + t * 7919 % (jitter + 1); ids.len()];
        let values: Vec<f64> = (0..ids.len() as i64)
            .map(|i| match i % 3 {
                0 => (t * 10 + i * t % 7) as f64,
                1 => 1.0,
                _ => (t * 7919 % 1000) as f64 / 100.0,
            })
            .collect();
        let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
        db.append_columns(columns).unwrap();
    }
    db
}

fn total(db: &Database) -> usize {
    db.memory().iter().map(|p| p.bytes).sum()
}

fn of<'a>(rows: &'a [Row], key: &str) -> &'a Row {
    rows.iter().find(|r| r.key == key).unwrap_or_else(|| panic!("no row {key} in {rows:?}"))
}

/// How far the quick total is off, as a share.
fn quick_is_off_by(db: &Database) -> f64 {
    (db.held() as f64 / total(db) as f64 - 1.0).abs()
}

#[test]
fn the_quick_total_follows_series_that_grow() {
    let db = Database::new(Options::default());
    for block in 0..20u32 {
        let sets: Vec<Labels> = (0..3000)
            .map(|i| {
                let (id, few) = (format!("{block}-{i}"), format!("{}", i % 7));
                labels(&[("__name__", "m"), ("id", &id), ("few", &few)])
            })
            .collect();
        let ids = db.register(&sets).unwrap().0;
        for t in 0..3i64 {
            let columns =
                Columns { ids: &ids, timestamps: &vec![t * 1000; 3000], values: Values::Int(&vec![t; 3000]) };
            db.append_columns(columns).unwrap();
        }
        let off = quick_is_off_by(&db);
        assert!(off < 0.02, "{block}: {off}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn every_table_adds_up_to_the_same_total(hosts in 0u32..400, steps in 0i64..1300, jitter in 0i64..20) {
        let db = filled(hosts, steps / (1 + i64::from(hosts) / 40), jitter);
        prop_assert_eq!(db.held(), total(&db), "what is small is exact");
        for by in By::ALL {
            let rows = db.account(by);
            let sum: usize = rows.iter().map(|r| r.bytes).sum();
            prop_assert_eq!(sum, total(&db), "{:?}", by);
            let keys: std::collections::HashSet<&str> = rows.iter().map(|r| r.key.as_str()).collect();
            prop_assert_eq!(keys.len(), rows.len(), "{:?}", by);
        }
    }
}

#[test]
fn metrics_and_tiers_and_shards_count_each_series_and_sample_once() {
    let db = filled(100, 700, 5);
    let stats = db.stats();
    for by in [By::Metric, By::Shard] {
        let rows = db.account(by);
        assert_eq!(rows.iter().map(|r| r.series).sum::<u64>(), 300);
        assert_eq!(rows.iter().map(|r| r.samples).sum::<u64>(), stats.samples);
    }
    let metrics = db.account(By::Metric);
    assert_eq!((of(&metrics, "up").series, of(&metrics, "up").samples), (100, 70_000));
    assert!(of(&metrics, "requests_total").bytes > of(&metrics, "up").bytes);
    let tiers = db.account(By::Tier);
    assert_eq!(of(&tiers, "open").samples, stats.open_samples);
    assert_eq!(of(&tiers, "sealed").samples, stats.sealed_samples);
    assert_eq!(of(&tiers, "open").series, stats.open_chunks);
}

#[test]
fn labels_are_charged_for_their_values() {
    let db = filled(500, 1, 0);
    let rows = db.account(By::Label);
    assert_eq!((of(&rows, "host").series, of(&rows, "host").samples), (1500, 1500));
    assert!(of(&rows, "host").bytes > 10 * of(&rows, "parity").bytes.min(2000), "{rows:?}");
    // The same texts, paid for by halves.
    let (host, also) = (of(&rows, "host").bytes, of(&rows, "also").bytes);
    assert!(host.abs_diff(also) < 100, "{host} {also}");
}

#[test]
fn codecs_are_counted_by_block() {
    let db = filled(20, 1200, 0);
    let rows = db.account(By::Codec);
    let stats = db.stats();
    let sum = |test: &dyn Fn(&str) -> bool| -> u64 {
        rows.iter().filter(|r| test(&r.key)).map(|r| r.samples).sum()
    };
    assert_eq!(sum(&|k| k.starts_with("open ")), stats.open_samples);
    assert_eq!(sum(&|k| k.starts_with("times: ")), stats.sealed_samples);
    assert_eq!(sum(&|k| !k.contains(' ')), stats.sealed_samples);
    assert_eq!(of(&rows, "times: regular").bytes, 0);
}

#[test]
fn a_wrong_key_is_refused_with_those_there_are() {
    assert_eq!(By::from_name("codec").unwrap(), By::Codec);
    assert!(By::from_name("colour").unwrap_err().to_string().contains("metric, label, codec, tier, shard"));
}

#[test]
fn chunks_are_explained_one_by_one() {
    let db = filled(4, 1200, 5);
    let budget = Budget::unlimited();
    let load = Predicate::Match(Matcher::new("__name__", MatchOp::Equal, "load").unwrap());
    let rows = db.explain_storage(&load, 1000, &budget).unwrap();
    assert_eq!(rows.iter().map(|r| r.samples).sum::<usize>(), 4 * 1200);
    assert!(rows.iter().all(|r| r.labels.get("__name__") == Some("load") && r.bytes > 0 && r.first < r.last));
    let sealed = rows.iter().find(|r| r.tier == "sealed").unwrap();
    assert_eq!((sealed.time_codec, sealed.value_codec.as_str()), ("column", "decimal"));
    let open = rows.iter().find(|r| r.tier == "open").unwrap();
    assert!(open.detail.contains("slack"), "{}", open.detail);
    assert_eq!(db.explain_storage(&load, 3, &budget).unwrap().len(), 3);
    let all = db.explain_storage(&Predicate::All(Vec::new()), 1000, &budget).unwrap();
    assert_eq!(all.iter().map(|r| r.samples as u64).sum::<u64>(), db.stats().samples);
}

/// Requests of some services, each with an id of its own; with or without that label. Requests of one service
/// write at the same times, or some milliseconds apart.
fn with_ids(requests: u32, steps: i64, apart_ms: i64, keep_id: bool) -> Database {
    let db = Database::new(Options::default());
    for step in 0..steps {
        for start in (0..requests).step_by(1000) {
            let range = start..requests.min(start + 1000);
            let sets: Vec<Labels> = range
                .clone()
                .map(|i| {
                    let (service, id) = (format!("service-{}", i % 300), format!("id-{i:012}"));
                    let mut pairs = vec![("__name__", "seconds"), ("service", service.as_str())];
                    pairs.extend(keep_id.then_some(("id", id.as_str())));
                    labels(&pairs)
                })
                .collect();
            let ids = db.register(&sets).unwrap().0;
            let times: Vec<i64> =
                range.clone().map(|i| step * 15_000 + i64::from(i / 300) * apart_ms).collect();
            let values: Vec<f64> = range.map(|i| f64::from(i / 300) + (step * 7919 % 1000) as f64).collect();
            let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
            db.append_columns(columns).unwrap();
        }
    }
    db
}

#[test]
fn a_label_saves_what_dropping_it_saves() {
    for (requests, steps, apart_ms) in [(6000, 3, 0), (3000, 40, 7), (30_000, 1, 1)] {
        let db = with_ids(requests, steps, apart_ms, true);
        let effects = db.label_effects(&Budget::unlimited()).unwrap();
        let effect = effects.iter().find(|e| e.name == "id").unwrap();
        assert_eq!(
            (effect.values, effect.series_now, effect.series_left),
            (requests as usize, requests.into(), 300)
        );
        let bytes = |db: &Database| {
            db.memory().iter().filter(|p| p.name != "write buffers").map(|p| p.bytes).sum::<usize>() as f64
        };
        let saved = bytes(&db) - bytes(&with_ids(requests, steps, apart_ms, false));
        let off = effect.bytes_saved / saved - 1.0;
        assert!(off.abs() < 0.1, "{requests} {steps}: {} predicted, {saved} saved", effect.bytes_saved);
    }
}

#[test]
fn metrics_that_never_change_and_copies_are_found() {
    let db = Database::new(Options::default());
    let names = ["a_total", "b_total", "c", "flat"];
    for t in 0..1100i64 {
        for host in ["x", "y"] {
            let sets: Vec<Labels> =
                names.iter().map(|n| labels(&[("__name__", n), ("host", host)])).collect();
            let ids = db.register(&sets).unwrap().0;
            let n = (t * t + host.len() as i64) as f64;
            let values = [n, n, n + f64::from(u8::from(host == "x" && t == 900)), 7.0];
            let columns = Columns { ids: &ids, timestamps: &[t * 1000; 4], values: Values::Float(&values) };
            db.append_columns(columns).unwrap();
        }
    }
    let facts = db.metric_facts(&Budget::unlimited()).unwrap();
    let copies: Vec<Option<&str>> = facts.iter().map(|f| f.copy_of.as_deref()).collect();
    assert_eq!(copies, [None, Some("a_total"), None, None]);
    assert_eq!(facts.iter().map(|f| f.constant).collect::<Vec<_>>(), [0, 0, 0, 2]);
    assert!(facts.iter().all(|f| f.samples == 2200 && f.bytes > 0));
}
