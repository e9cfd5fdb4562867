use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metricsdb_model::budget::Stop;
use metricsdb_model::{Budget, Error, Labels, MetricType};
use proptest::prelude::*;

use super::{Meaning, Rule, Suggestion, Surroundings, admit, estimate, explain, name_costly, nodes, suggest};
use crate::exec::{Params, evaluate};
use crate::syntax::parse;
use crate::testing::{Plain, after_gaps};

const STEP: i64 = 15_000;
const END: i64 = 3_600_000;

fn series(pairs: &[(&str, &str)], value: impl Fn(i64) -> f64) -> (Labels, Vec<(i64, f64)>) {
    let labels = Labels::from_pairs(pairs.iter().copied()).unwrap();
    (labels, (0..=END / STEP).map(|i| (i * STEP, value(i))).collect())
}

/// A small fleet: counters, gauges, buckets.
fn fleet() -> Plain {
    let mut all = Vec::new();
    for (i, job) in ["api", "web"].into_iter().enumerate() {
        for instance in 0..12 {
            let instance = format!("host-{instance}.example:9100");
            for code in ["200", "500"] {
                let rate = 1.0 + i as f64;
                let labels =
                    [("__name__", "requests_total"), ("job", job), ("instance", &instance), ("code", code)];
                all.push(series(&labels, |t| (t % 200) as f64 * rate));
            }
            all.push(series(&[("__name__", "up"), ("job", job), ("instance", &instance)], |_| 1.0));
        }
        for le in ["0.1", "1", "+Inf"] {
            all.push(series(&[("__name__", "latency_bucket"), ("job", job), ("le", le)], |t| t as f64));
        }
    }
    for room in ["attic", "cellar", "hall"] {
        all.push(series(&[("__name__", "temperature"), ("room", room)], |t| (t as f64 / 3.0).sin() * 9.0));
    }
    all.push(series(&[("__name__", "job:requests"), ("job", "api")], |t| t as f64));
    all.push(series(&[("__name__", "flapping_total"), ("unit", "a")], |t| (t % 60_000) as f64));
    all.push(series(&[("__name__", "lonely"), ("only", "here")], |t| t as f64));
    Plain(all)
}

fn hour(text: &str) -> Params<'_> {
    Params::range(text, END / 2, END, 60_000)
}

fn looked_through(text: &str, params: &Params<'_>, rules: &[(&str, &str)]) -> Vec<Suggestion> {
    let kind_of = |name: &str| match name {
        "temperature" => Some(MetricType::Gauge),
        "requests_total" => Some(MetricType::Counter),
        _ => None,
    };
    let rule = |(name, expr): &(&str, &str)| Rule { name: (*name).to_owned(), expr: parse(expr).unwrap() };
    let rules: Vec<Rule> = rules.iter().map(rule).collect();
    let around = Surroundings { kind_of: &kind_of, rules: &rules, check: true };
    suggest(&parse(text).unwrap(), params, &fleet(), &Budget::unlimited(), &around).unwrap()
}

/// What is found, what is to be written instead (none: nothing better), and what it means.
const FOUND: &[(&str, &str, Option<&str>, Meaning)] = &[
    ("regex-literal", r#"up{job=~"api"}"#, Some(r#"up{job="api"}"#), Meaning::Same),
    ("regex-literal", r#"sum(up{job!~"api"})"#, Some(r#"sum(up{job!="api"})"#), Meaning::Same),
    ("regex-set", r#"up{job=~"api|web|db"}"#, Some(r#"up{job in ("api", "db", "web")}"#), Meaning::Same),
    ("regex-set", r#"up{job!~"db|web"} * 2"#, Some(r#"up{job not in ("db", "web")} * 2"#), Meaning::Same),
    ("matcher-implied", r#"up{job="api",job!="web"}"#, Some(r#"up{job="api"}"#), Meaning::Same),
    ("matcher-implied", r#"up{job=~"a.+",job=~"a.+"}"#, Some(r#"up{job=~"a.+"}"#), Meaning::Same),
    ("matcher-contradiction", r#"up{job="api",job=~"w.*"}"#, None, Meaning::Same),
    ("matcher-excludes-nothing", r#"up{job="api",instance!=""}"#, Some(r#"up{job="api"}"#), Meaning::Same),
    ("matcher-excludes-nothing", r#"up{instance=~".*"}"#, Some("up"), Meaning::Same),
    ("missing-metric-name", r#"{only="here"}"#, Some(r#"lonely{only="here"}"#), Meaning::Same),
    (
        "missing-metric-name",
        r#"count({instance=~"host-1.+",job="api"})"#,
        Some(r#"count({__name__ in ("requests_total", "up"),instance=~"host-1.+",job="api"})"#),
        Meaning::Same,
    ),
    ("selects-nothing", "rate(requests_totl[5m])", None, Meaning::Same),
    (
        "unanchored-regex",
        r#"temperature{room=~".*ttic"}"#,
        Some(r#"temperature{room="attic"}"#),
        Meaning::Same,
    ),
    (
        "unanchored-regex",
        r#"up{job="web",instance=~".*host-1.*"}"#,
        Some(
            r#"up{job="web",instance in ("host-1.example:9100", "host-10.example:9100", "host-11.example:9100")}"#,
        ),
        Meaning::Same,
    ),
    ("unanchored-regex", r#"up{instance=~".*host.*"}"#, Some(r#"up{instance=~"host.*"}"#), Meaning::Same),
    ("redundant-parentheses", "sum((up))", Some("sum(up)"), Meaning::Same),
    (
        "join-is-aggregation",
        "sum by (job) (up) / on (job) count by (job) (up)",
        Some("avg by (job) (up)"),
        Meaning::Same,
    ),
    (
        "join-is-aggregation",
        "sum(rate(requests_total[5m])) / count(rate(requests_total[5m]))",
        Some("avg(rate(requests_total[5m]))"),
        Meaning::Same,
    ),
    ("nested-aggregation", "sum(sum by (instance) (up))", Some("sum(up)"), Meaning::Same),
    (
        "nested-aggregation",
        "max by (job) (max by (job, code) (requests_total))",
        Some("max by (job) (requests_total)"),
        Meaning::Same,
    ),
    ("count-of-aggregation", "count(count by (job) (up))", Some("count(group by (job) (up))"), Meaning::Same),
    ("or-is-set", r#"up{job="api"} or up{job="web"}"#, Some(r#"up{job in ("api", "web")}"#), Meaning::Same),
    (
        "or-is-set",
        r#"up{job="api"} or up{job="web"} or up{job="db"}"#,
        Some(r#"up{job in ("api", "web", "db")}"#),
        Meaning::Same,
    ),
    ("absent-compared", "absent(nothing) == 1", Some("absent(nothing)"), Meaning::Same),
    (
        "absent-of-aggregation",
        r#"absent(sum(nothing{a="b"}))"#,
        Some(r#"absent(nothing{a="b"})"#),
        Meaning::Different,
    ),
    (
        "filter-without-effect",
        "rate(requests_total[5m]) >= 0",
        Some("rate(requests_total[5m])"),
        Meaning::Same,
    ),
    ("filter-without-effect", "count by (job) (up) > 0", Some("count by (job) (up)"), Meaning::Same),
    ("sort-without-effect", "sum(sort(up))", Some("sum(up)"), Meaning::Same),
    ("sort-without-effect", "sort_desc(up)", Some("up"), Meaning::Same),
    (
        "high-cardinality-by",
        "sum by (job, instance) (rate(requests_total[5m]))",
        Some("sum by (job) (rate(requests_total[5m]))"),
        Meaning::Different,
    ),
    (
        "quantile-without-le",
        "histogram_quantile(0.9, sum by (job) (rate(latency_bucket[5m])))",
        Some("histogram_quantile(0.9, sum by (job, le) (rate(latency_bucket[5m])))"),
        Meaning::Different,
    ),
    ("recorded", "sum by (job) (rate(requests_total[5m])) > 1", Some("job:requests > 1"), Meaning::Same),
    ("recorded", "sum(rate(requests_total[5m]))", Some("sum(job:requests)"), Meaning::Same),
    ("rate-over-gauge", "rate(temperature[5m])", Some("deriv(temperature[5m])"), Meaning::Different),
    (
        "rate-over-gauge",
        r#"increase({__name__="temperature"}[5m])"#,
        Some(r#"delta({__name__="temperature"}[5m])"#),
        Meaning::Different,
    ),
    (
        "delta-over-counter",
        "delta(requests_total[5m])",
        Some("increase(requests_total[5m])"),
        Meaning::Different,
    ),
    (
        "sum-inside-rate",
        "rate(sum by (job) (requests_total)[10m:])",
        Some("sum by (job) (rate(requests_total[10m]))"),
        Meaning::Different,
    ),
    (
        "sum-inside-rate",
        "irate(sum(requests_total)[10m:])",
        Some("sum(irate(requests_total[10m]))"),
        Meaning::Different,
    ),
    ("range-too-short", "rate(requests_total[20s])", Some("rate(requests_total[1m])"), Meaning::Different),
    (
        "subquery-too-fine",
        "max_over_time(rate(requests_total[5m])[10m:1s])",
        Some("max_over_time(rate(requests_total[5m])[10m:15s])"),
        Meaning::Different,
    ),
    (
        "subquery-of-selector",
        "max_over_time(temperature[10m:15s])",
        Some("max_over_time(temperature[10m])"),
        Meaning::Different,
    ),
    (
        "topk-over-range",
        "topk(2, temperature)",
        Some("temperature and topk(2, avg_over_time(temperature[30m] @ end()))"),
        Meaning::Different,
    ),
    (
        "topk-over-range",
        "topk(2, temperature offset 1m)",
        Some("temperature offset 1m and topk(2, avg_over_time(temperature offset 1m[30m:1m] @ end()))"),
        Meaning::Different,
    ),
    (
        "topk-over-range",
        "bottomk(2, temperature * 2)",
        Some("(temperature * 2) and bottomk(2, avg_over_time((temperature * 2)[30m:1m] @ end()))"),
        Meaning::Different,
    ),
    (
        "irate-in-long-steps",
        "irate(requests_total[30s])",
        Some("rate(requests_total[1m])"),
        Meaning::Different,
    ),
];

#[test]
fn each_check_finds_what_it_is_for_and_its_rewrite_answers_the_same() {
    let rules = [("job:requests", "sum by (job) (rate(requests_total[5m]))")];
    for (check, text, rewrite, meaning) in FOUND {
        let used = if *check == "recorded" { &rules[..] } else { &[] };
        let all = looked_through(text, &hour(text), used);
        let mut found = all.iter().filter(|s| s.check == *check);
        let (Some(found), None) = (found.next(), found.next()) else {
            panic!("{check} does not find {text} once: {all:?}")
        };
        assert_eq!(found.rewrite.as_deref(), *rewrite, "{check}: {text}");
        assert_eq!(found.meaning, *meaning, "{check}: {text}");
        // What is recorded here is made up, so it answers otherwise, and that is said.
        let same = rewrite.map(|_| *check != "recorded");
        if *meaning == Meaning::Same {
            assert_eq!(found.same_answer, same, "{check}: {text}");
        }
    }
}

#[test]
fn predicted_savings_are_within_a_factor_of_two_of_the_measured_ones() {
    let mut saved = 0;
    for (_, text, ..) in FOUND {
        for found in looked_through(text, &hour(text), &[]) {
            let (Some(p), Some(m)) = (found.predicted_saving, found.measured_saving) else { continue };
            if p.abs() < 0.02 && m.abs() < 0.02 {
                continue;
            }
            saved += usize::from(m > 0.0);
            assert!(p * m > 0.0 && p / m < 2.0 && m / p < 2.0, "{}: {text}: {p} {m}", found.check);
        }
    }
    assert!(saved >= 8, "{saved}");
    let text = "sum by (job) (up) / on (job) count by (job) (up)";
    let found = looked_through(text, &hour(text), &[]);
    let halves = [found[0].predicted_saving, found[0].measured_saving];
    assert!(halves.iter().all(|saving| saving.is_some_and(|s| (0.45..0.55).contains(&s))), "{halves:?}");
}

#[test]
fn good_queries_are_left_alone() {
    for text in [
        "up",
        "sum by (job) (rate(requests_total[5m]))",
        "temperature > 5",
        r#"count(up{job="api"} == 1)"#,
        "histogram_quantile(0.9, sum by (le) (rate(latency_bucket[5m])))",
        "max_over_time(temperature[10m])",
        "sum(rate(requests_total{code=\"500\"}[5m])) / sum(rate(requests_total[5m]))",
        "absent(up{job=\"db\"})",
        "(temperature + 1) * 2",
        "1 + 2",
    ] {
        let found = looked_through(text, &hour(text), &[]);
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

/// What each check must not take for what it is for; a step of 0 stands for an instant query.
const NEAR_MISSES: &[(&str, i64, &[&str])] = &[
    ("regex-literal", 60_000, &[r#"up{job=~"ap."}"#, r#"up{job=~"api|web"}"#]),
    ("regex-set", 60_000, &[r#"up{job=~"api"}"#, r#"up{job=~"(api|web).+"}"#]),
    (
        "matcher-implied",
        60_000,
        &[r#"up{job="api",job=~"w.+"}"#, r#"up{job=~"a.+",job=~"ap.+"}"#, r#"up{job="api",instance!="web"}"#],
    ),
    ("matcher-contradiction", 60_000, &[r#"up{job="api",job=~"a.+"}"#, r#"up{job="api",instance="x"}"#]),
    (
        "matcher-excludes-nothing",
        60_000,
        &[
            r#"up{job!="api"}"#,
            r#"up{job="api"}"#,
            r#"{instance=~".+"}"#,
            r#"lonely{only="here"}"#,
            r#"nothing{job!="api"}"#,
        ],
    ),
    ("missing-metric-name", 60_000, &[r#"{__name__=~"u.+"}"#, r#"{__name__="up"}"#, r#"{nothing="here"}"#]),
    ("selects-nothing", 60_000, &["up", r#"absent(up{job="db"})"#]),
    (
        "unanchored-regex",
        60_000,
        &[
            r#"up{instance=~"host-1.*"}"#,
            r#"up{instance=~".*"}"#,
            r#"up{instance=~".*ost.*"}"#,
            r#"temperature{room=~".*"}"#,
        ],
    ),
    ("redundant-parentheses", 60_000, &["(up + 1) * 2", "2 * (-up)"]),
    (
        "join-is-aggregation",
        60_000,
        &[
            "sum by (job) (up) / on (job) count by (instance) (up)",
            "sum(up) / count(temperature)",
            "count(up) / sum(up)",
            "sum(up) * count(up)",
            "max(up) / count(up)",
            "sum(up) / max(up)",
            "sum by (job) (up) / on (job) group_left count by (job) (up)",
            "sum by (job) (up) / ignoring (job) count by (job) (up)",
            "sum by (job, room) (up) / on (job) count by (job, room) (up)",
            "sum by (job) (up) / on (job, room) count by (job) (up)",
            "sum by (job) (up) / fill_left (0) count by (job) (up)",
            "sum by (job) (up) / fill_right (1) count by (job) (up)",
        ],
    ),
    (
        "nested-aggregation",
        60_000,
        &["sum(max by (job) (up))", "avg(avg by (job) (up))", "sum by (job) (sum by (le) (latency_bucket))"],
    ),
    ("count-of-aggregation", 60_000, &["sum(count by (job) (up))", "count(quantile by (job) (2, up))"]),
    (
        "or-is-set",
        60_000,
        &[
            r#"up{job="api"} or temperature{room="hall"}"#,
            r#"up{job="api"} or on (job) up{job="web"}"#,
            r#"up{job="api"} or up{job!="web"}"#,
            r#"up{job="api"} or up{instance="web"}"#,
            r#"up{job="api"} and up{job="web"}"#,
            r#"up{job="api"} or up{job="web"} offset 1m"#,
            r#"up{job="api"} or up{job="web",instance="x"}"#,
            r#"up{job!="api"} or up{job="web"}"#,
            r#"up{job="api",job="api"} or up{job="web",job="api"} or up{job="api",job="web"}"#,
        ],
    ),
    (
        "absent-compared",
        60_000,
        &["absent(nothing) == 0", "absent(nothing) == bool 1", "absent(nothing) > 1", "count(up) == 1"],
    ),
    (
        "absent-of-aggregation",
        60_000,
        &["absent(rate(nothing[5m]))", "absent(sum(rate(nothing[5m])))", "scalar(sum(up))"],
    ),
    (
        "filter-without-effect",
        60_000,
        &[
            "rate(requests_total[5m]) > 0",
            "rate(requests_total[5m]) >= 0.5",
            "rate(requests_total[5m]) <= 0",
            "rate(requests_total[5m]) >= bool 0",
            "temperature >= 0",
            "sum(temperature) >= 0",
            "count by (job) (up) > 1",
            "delta(temperature[5m]) >= 0",
        ],
    ),
    ("sort-without-effect", 60_000, &["topk(2, temperature)", "abs(up)"]),
    ("sort-without-effect", 0, &["sort(up)", "sort_desc(sum by (job) (up))"]),
    (
        "high-cardinality-by",
        60_000,
        &[
            "sum by (job) (up)",
            "sum by (room) (temperature)",
            "sum by (nothing) (up)",
            "sum(up)",
            "topk by (instance) (2, up)",
        ],
    ),
    (
        "quantile-without-le",
        60_000,
        &[
            "histogram_quantile(0.9, sum without (job) (rate(latency_bucket[5m])))",
            "histogram_quantile(0.9, sum by (le) (rate(latency_bucket[5m])))",
            "clamp_max(sum(rate(latency_bucket[5m])), 3)",
        ],
    ),
    (
        "recorded",
        60_000,
        &[
            "max by (job) (rate(requests_total[5m]))",
            "sum by (job) (rate(requests_total[6m]))",
            "sum by (code) (rate(requests_total[5m]))",
            "avg(up)",
        ],
    ),
    (
        "rate-over-gauge",
        60_000,
        &[
            "rate(requests_total[5m])",
            "rate(lonely[5m])",
            "deriv(temperature[5m])",
            "rate(flapping_total[5m])",
        ],
    ),
    (
        "delta-over-counter",
        60_000,
        &["delta(temperature[5m])", "deriv(lonely[5m])", "rate(requests_total[5m])"],
    ),
    (
        "sum-inside-rate",
        60_000,
        &[
            "max_over_time(sum by (job) (requests_total)[10m:1m])",
            "rate(max by (job) (requests_total)[10m:1m])",
            "rate(sum(requests_total)[10m:1m] offset 1m)",
            "rate(sum(requests_total)[10m:1m] @ end())",
        ],
    ),
    ("range-too-short", 60_000, &["rate(requests_total[30s])", "max_over_time(requests_total[20s])"]),
    (
        "subquery-too-fine",
        60_000,
        &[
            "max_over_time(rate(requests_total[5m])[10m:15s])",
            "max_over_time(rate(requests_total[5m])[10m:14s])",
            "max_over_time(rate(requests_total[5m])[10m:])",
        ],
    ),
    (
        "subquery-of-selector",
        60_000,
        &[
            "stddev_over_time(temperature[10m:15s])",
            "max_over_time(temperature[10m:15s] offset 1m)",
            "max_over_time(temperature[10m:15s] @ end())",
            "max_over_time((temperature smoothed)[10m:15s])",
            "max_over_time(abs(temperature)[10m:15s])",
        ],
    ),
    ("topk-over-range", 60_000, &["max(temperature)", "sum(topk(2, temperature))"]),
    ("topk-over-range", 0, &["topk(2, temperature)"]),
    ("irate-in-long-steps", 0, &["irate(requests_total[1m])"]),
    ("irate-in-long-steps", 45_000, &["irate(requests_total[1m])"]),
    ("irate-in-long-steps", 60_000, &["rate(requests_total[1m])"]),
];

#[test]
fn a_check_leaves_alone_what_only_looks_like_what_it_is_for() {
    let rules =
        [("job:requests", "sum by (job) (rate(requests_total[5m]))"), ("job:up", "avg by (job) (up)")];
    let mut mistaken = Vec::new();
    for (check, step, texts) in NEAR_MISSES {
        for text in *texts {
            let params = match step {
                0 => Params::instant(text, END),
                step => Params::range(text, END / 2, END, *step),
            };
            let found = looked_through(text, &params, if *check == "recorded" { &rules } else { &[] });
            mistaken.extend(found.iter().filter(|s| s.check == *check).map(|_| (*check, *text)));
        }
    }
    assert!(mistaken.is_empty(), "{mistaken:#?}");
    let tested = |check: &str| NEAR_MISSES.iter().any(|(name, ..)| *name == check);
    let untested: Vec<&str> = FOUND.iter().map(|(check, ..)| *check).filter(|check| !tested(check)).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn the_last_matcher_that_asks_for_something_stays() {
    let source = Plain(vec![series(&[("job", "api")], |_| 1.0), series(&[("job", "web")], |_| 1.0)]);
    let around = Surroundings { kind_of: &|_| None, rules: &[], check: false };
    let text = r#"{job=~".+"}"#;
    let found = suggest(&parse(text).unwrap(), &hour(text), &source, &Budget::unlimited(), &around).unwrap();
    assert!(found.iter().all(|s| s.check != "matcher-excludes-nothing"), "{found:?}");
}

#[test]
fn a_rewrite_that_answers_otherwise_is_said_to() {
    let text = r#"sum by (job) (rate(requests_total[5m]))"#;
    let all = looked_through(text, &hour(text), &[("job:requests", text)]);
    assert_eq!(all[0].same_answer, Some(false));
}

/// What was loaded, and each node, stays within its bound.
fn within_bounds(source: &Plain, text: &str, params: &Params<'_>) -> std::result::Result<(), String> {
    let expr = parse(text).map_err(|e| e.to_string())?;
    let bounds = estimate(&expr, params, source, &Budget::unlimited()).map_err(|e| format!("{text}: {e}"))?;
    if bounds.nodes.len() != nodes(&expr).len() {
        return Err(format!("{text}: {} bounds, {} nodes", bounds.nodes.len(), nodes(&expr).len()));
    }
    let budget = Budget::unlimited();
    let clock = AtomicU64::new(0);
    let tick = || clock.fetch_add(1, Relaxed);
    let Ok(explained) = explain(&expr, params, source, &budget, Some(&tick)) else { return Ok(()) };
    if explained.samples > bounds.samples || explained.held > bounds.held {
        let (samples, held) = (explained.samples, explained.held);
        return Err(format!("{text}: {samples} samples, {held} held; {bounds:?}"));
    }
    for row in &explained.rows {
        let (most, actual) = (row.estimated, row.actual.clone().unwrap_or_default());
        let fits = actual.series <= most.series
            && actual.samples <= most.samples
            && actual.bytes <= most.bytes
            && actual.values <= most.values;
        if !fits {
            return Err(format!("{text}: {}: {actual:?} over {most:?}", row.detail));
        }
    }
    if bounds.samples_min > explained.samples {
        return Err(format!("{text}: at least {} but {}", bounds.samples_min, explained.samples));
    }
    Ok(())
}

const QUESTIONS: &[&str] = &[
    "a_total",
    "a_total offset 1m",
    "a_total[5m]",
    "a_total @ 600",
    "rate(a_total[5m])",
    "sum(rate(a_total[5m] smoothed))",
    "rate(a_total[5m] anchored)",
    "avg_over_time(b_total[3m])",
    "max_over_time(rate(b_total[2m])[6m:45s])",
    "sum_over_time((sum by (g) (a_total))[5m:30s])",
    "quantile_over_time(scalar(b_total{i=\"0\"}), a_total[7m])",
    "sum by (g) (a_total)",
    "avg(a_total)",
    "avg(b_total * 1e308)",
    "stddev by (i) ({__name__=~\".+\"})",
    "topk(2, a_total)",
    "bottomk by (g) (1, {__name__=~\".+\"})",
    "quantile by (g) (0.7, a_total)",
    "count_values by (g) (\"v\", round(a_total, 10))",
    "a_total + on(i, g) b_total",
    "a_total + on(i, g) fill(0) b_total",
    "b_total + on(i, g) fill_left(0) a_total",
    "b_total * on(g) group_left(v) count_values by (g) (\"v\", sum by (g) (round(a_total, 10)))",
    "b_total * on(g) group_left(v) fill_right(0) count_values by (g) (\"v\", sum by (g) (a_total))",
    "a_total and on(i) b_total",
    "a_total or b_total",
    "a_total unless on(i) (b_total > 10)",
    "b_total / on(g) group_left sum by (g) (a_total)",
    "absent(a_total{i=\"0\"})",
    "absent_over_time(a_total[1m])",
    "scalar(a_total{i=\"0\"}) + vector(time())",
    "clamp(-a_total, -20, 5) % 7 > 2",
    "timestamp(b_total)",
    "label_replace(a_total, \"j\", \"x$1\", \"i\", \"(.*)\")",
    "sum(rate(a_total[5m] @ 600)) by (g) + 1",
    "sort_desc(sum by (g) (a_total)) or vector(3)",
    "limitk(1, a_total) + limit_ratio(0.5, a_total)",
    "histogram_quantile(0.5, label_replace(a_total, \"le\", \"$1\", \"i\", \"(.*)\"))",
    "info(a_total)",
    "-(-a_total) + -1",
    "hour() + minute(a_total)",
    "max_over_time(vector(1)[5m:1m])",
    "1 + 2",
    "time()",
    "abs(rate(a_total[5m] @ 600)) * 2",
    "-(max_over_time(a_total[5m:1m] @ 600))",
    "sum by (i) (label_replace(a_total, \"i\", \"$1\", \"g\", \"(.*)\"))",
    "count by (v) (count_values by (g) (\"v\", a_total))",
    "rollup_rate(a_total[5m])",
    "sum by (rollup) (rollup_candlestick(a_total[3m]))",
    "rollup_delta(b_total[4m:30s], \"max\") * 2",
    "max_over_time(rollup(a_total[2m] @ 300)[4m:30s])",
    "range_normalize(a_total, rate(b_total[5m]), a_total)",
    "range_trim_zscore(2, b_total) + range_sum(sum(a_total))",
    "a_total default 7",
    "a_total{i=\"9\"} default b_total",
    "1 default a_total",
    "(a_total default on(i) b_total) ifnot b_total > 10",
    "sum(a_total if 1) + (scalar(a_total{i=\"0\"}) ifnot vector(1))",
    "abs(a_total if sum(b_total)) or (a_total @ 600 if 2)",
    "outliers_iqr by (g) (a_total)",
    "outliers_mad(1, rate({__name__=~\".+\"}[5m])) + 1",
    "outliersk(2, a_total) default 0",
    "start_timestamp(rate(a_total[5m])) or start_timestamp(b_total)",
];

fn any_storage() -> impl Strategy<Value = Plain> {
    let value = prop_oneof![8 => (0..50i32).prop_map(f64::from), 1 => Just(f64::NAN), 1 => Just(metricsdb_model::sample::stale())];
    let samples = proptest::collection::vec((1..200_000i64, value), 0..40);
    proptest::collection::vec(samples, 1..9).prop_map(|series| {
        let labels = |i: usize| {
            let name = if i.is_multiple_of(2) { "a_total" } else { "b_total" };
            Labels::from_pairs([("__name__", name), ("i", &(i / 2).to_string()), ("g", &(i % 3).to_string())])
                .unwrap()
        };
        Plain(
            series.into_iter().enumerate().map(|(i, gaps)| (labels(i), after_gaps(gaps).collect())).collect(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_query_costs_more_than_its_bound(
        source in any_storage(),
        step in prop_oneof![Just(None), (1_000..400_000i64).prop_map(Some)],
    ) {
        for text in QUESTIONS {
            let params = match step {
                Some(step) => Params::range(text, 30_000, 30_000 + 12 * step, step),
                None => Params::instant(text, 300_000),
            };
            let checked = within_bounds(&source, text, &params);
            prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
        }
    }
}

#[test]
fn info_series_that_follow_each_other_are_bounded() {
    let base = [("__name__", "x"), ("job", "j"), ("instance", "i")];
    let mut all = vec![series(&base, |t| t as f64)];
    for version in 0..4 {
        let number = version.to_string();
        let info = [("__name__", "target_info"), ("job", "j"), ("instance", "i"), ("v", &number)];
        let (labels, mut samples) = series(&info, |_| 1.0);
        let until = END / 2 + (version + 1) * END / 8;
        samples.retain(|(t, _)| (until - END / 8..until).contains(t));
        samples.push((until, metricsdb_model::sample::stale()));
        all.push((labels, samples));
    }
    within_bounds(&Plain(all), "info(x)", &hour("info(x)")).unwrap();
}

#[test]
fn a_rollup_is_as_many_reads_as_it_has_parts() {
    let db = metricsdb_store::Database::new(metricsdb_store::Options::default());
    let (labels, samples) = series(&[("__name__", "x")], |t| t as f64);
    let (ids, _) = db.register(&[labels]).unwrap();
    for (time, value) in &samples {
        let values = metricsdb_model::Values::Float(std::slice::from_ref(value));
        let timestamps = std::slice::from_ref(time);
        db.append_columns(metricsdb_model::batch::Columns { ids: &ids, timestamps, values }).unwrap();
    }
    let text = "rollup_rate(x[2h])";
    let expr = parse(text).unwrap();
    let admitted = |limit: u64| {
        admit(&expr, &Params::instant(text, END), &db, &Budget::new(Stop::default(), 0, limit)).is_ok()
    };
    let one = samples.len() as u64;
    assert!(!admitted(one * 5 / 2) && admitted(one * 3));
}

#[test]
fn a_query_that_is_sure_not_to_fit_is_refused_before_it_reads_and_others_run() {
    let source = fleet();
    let ask = |text: &str, limit: u64| {
        let expr = parse(text).unwrap();
        let params = hour(text);
        let budget = Budget::new(Stop::default(), 0, limit);
        let admitted = admit(&expr, &params, &source, &budget);
        let answered = evaluate(&expr, &params, &source, &Budget::new(Stop::default(), 0, limit));
        (admitted, answered, budget.samples_used(), expr)
    };
    let text = "sum(up) + sum by (code) (rate(requests_total[5m]))";
    let needed = ask(text, u64::MAX).1.unwrap().samples_loaded;
    for limit in [1000, needed - 1] {
        let (admitted, answered, used, _) = ask(text, limit);
        let error = admitted.unwrap_err().to_string();
        assert!(error.contains("requests_total[5m] at 1:31"), "{error}");
        assert!(error.contains("raise max_samples") && matches!(answered, Err(Error::Limit { .. })));
        assert_eq!(used, 0);
    }
    assert!(ask(text, needed).0.is_ok());
    // Windows that heads of chunks may answer are not sure to load anything.
    assert!(ask("sum(max_over_time(up[1m]))", 10).0.is_ok());
    let (_, answered, _, expr) = ask(text, 1000);
    let params = hour(text);
    let named = name_costly(answered.unwrap_err(), &expr, &params, &source, &Budget::unlimited());
    assert!(matches!(&named, Error::Costly { part, .. } if part.contains("requests_total[5m]")), "{named}");
}

#[test]
fn what_is_counted_is_what_happened() {
    let source = fleet();
    let text = "sum by (job) (rate(requests_total[5m])) > 0.5";
    let tick = AtomicU64::new(0);
    let clock = || tick.fetch_add(1000, Relaxed);
    let budget = Budget::unlimited();
    let explained = explain(&parse(text).unwrap(), &hour(text), &source, &budget, Some(&clock)).unwrap();
    let rows: Vec<_> = explained.rows.iter().map(|r| (r.depth, r.detail.as_str())).collect();
    assert_eq!(rows, [(0, "> 0.5"), (1, "sum by (job)"), (2, "rate"), (3, "requests_total[5m]")]);
    let actual: Vec<_> = explained.rows.iter().map(|r| r.actual.clone().unwrap()).collect();
    assert_eq!(actual.iter().map(|a| a.series).collect::<Vec<_>>(), [2, 2, 48, 48]);
    assert_eq!(actual[3].samples, explained.samples);
    assert_eq!(actual[3].samples, explained.rows[3].estimated.samples);
    assert_eq!((actual[3].codec.as_str(), actual[1].values), ("plain", 2 * 31));
    assert!(actual.iter().all(|a| a.nanos > 0) && actual[0].nanos >= actual[1].nanos);
}

#[test]
fn parts_that_are_evaluated_once_are_shown_and_promise_no_samples() {
    let text = "sum(rate(requests_total[5m])) / (sum(rate(requests_total[5m])) + 1)";
    let (source, clock) = (fleet(), || 0);
    let budget = Budget::unlimited();
    let explained = explain(&parse(text).unwrap(), &hour(text), &source, &budget, Some(&clock)).unwrap();
    let shown: Vec<&str> = explained.rows.iter().map(|row| row.detail.as_str()).collect();
    assert_eq!(shown.iter().filter(|detail| **detail == "sum (as node 1)").count(), 1, "{shown:?}");
    assert!(
        explained.estimate.samples_min <= explained.samples,
        "{explained:?}",
        explained = explained.estimate
    );
    within_bounds(&source, text, &hour(text)).unwrap();
}
