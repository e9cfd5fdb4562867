mod layered;
mod metricsql;
mod twins;

use std::collections::BTreeMap;

use metricsdb_model::budget::Stop;
use metricsdb_model::sample::stale;
use metricsdb_model::{Answer, Budget, Error, Labels, Result};
use proptest::prelude::*;

use super::{Params, evaluate};
use crate::syntax::parse;
use crate::testing::{Plain, after_gaps};

fn ask(source: &Plain, text: &str, params: Params<'_>) -> Result<Answer> {
    evaluate(&parse(text).unwrap(), &params, source, &Budget::unlimited())
}

/// Points by series: what an answer says, without its order.
fn points(answer: &Answer) -> BTreeMap<String, BTreeMap<i64, u64>> {
    let row = |(l, t, v): (&Labels, &[i64], &[f64])| {
        (l.to_string(), t.iter().copied().zip(v.iter().map(|v| v.to_bits())).collect())
    };
    answer.matrix.rows().map(row).collect()
}

/// A few series of irregular samples, with gaps, markers, NaN and resets.
fn any_storage() -> impl Strategy<Value = Plain> {
    let value = prop_oneof![
        8 => (0..50i32).prop_map(f64::from),
        2 => -1e3..1e3f64,
        1 => Just(f64::NAN),
        1 => Just(stale()),
    ];
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

const QUESTIONS: &[&str] = &[
    "a_total",
    "a_total offset 1m",
    "rate(a_total[5m])",
    "increase(a_total[90s]) > 1",
    "avg_over_time(b_total[3m])",
    "max_over_time(rate(b_total[2m])[6m:45s])",
    "quantile_over_time(0.3, a_total[7m])",
    "sum by (g) (a_total)",
    "avg(b_total)",
    "stddev by (i) ({__name__=~\".+\"})",
    "topk(2, a_total)",
    "bottomk by (g) (1, {__name__=~\".+\"})",
    "quantile by (g) (0.7, a_total)",
    "count_values by (g) (\"v\", round(a_total, 10))",
    "a_total + on(i, g) b_total",
    "a_total > bool on(i, g) b_total",
    "a_total and on(i) b_total",
    "a_total or b_total",
    "a_total unless on(i) (b_total > 10)",
    "b_total / on(g) group_left sum by (g) (a_total)",
    "absent(a_total{i=\"0\"})",
    "scalar(a_total{i=\"0\"}) + vector(time())",
    "clamp(-a_total, -20, 5) % 7",
    "timestamp(b_total)",
    "label_replace(a_total, \"j\", \"x$1\", \"i\", \"(.*)\")",
    "changes(a_total[10m]) + ignoring(nothing) resets(a_total[10m])",
    "sum(rate(a_total[5m] @ 600)) by (g)",
    "a_total if on(i) b_total",
    "b_total ifnot (a_total > 10)",
    "b_total if (sum(a_total) > 20)",
    "rollup_rate(a_total[5m])",
    "rollup(a_total[3m], \"max\") keep_metric_names",
    "sum by (rollup) (rollup_candlestick(b_total[7m]))",
    "(a_total * on(i, g) b_total) keep_metric_names",
];

/// Whether a range query says at each step what the instant query at that time says; it fails if and only
/// if one of them does.
fn range_is_its_instants(source: &Plain, text: &str, step: i64) -> std::result::Result<(), String> {
    let (start, end) = (30_000, 30_000 + 12 * step);
    let mut together: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
    let mut failed = None;
    for at in (start..=end).step_by(step as usize) {
        match ask(source, text, Params::instant(text, at)) {
            Ok(answer) => {
                for (labels, samples) in points(&answer) {
                    together.entry(labels).or_default().extend(samples);
                }
            }
            Err(e) => failed = Some(e),
        }
    }
    let range = match (ask(source, text, Params::range(text, start, end, step)), failed) {
        (Ok(range), None) => points(&range),
        (Err(_), Some(_)) => return Ok(()),
        (Ok(_), Some(e)) => return Err(format!("{text}: a step fails alone: {e}")),
        (Err(e), None) => return Err(format!("{text}: fails only as a range: {e}")),
    };
    if !range.keys().eq(together.keys()) {
        return Err(format!("{text}: {:?} but alone {:?}", range.keys(), together.keys()));
    }
    for (labels, samples) in &range {
        let alone = &together[labels];
        let close = |(a, b): (&u64, &u64)| {
            let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
        };
        if !samples.keys().eq(alone.keys()) || !samples.values().zip(alone.values()).all(close) {
            return Err(format!("{text}: {labels}: {samples:?} alone {alone:?}"));
        }
    }
    Ok(())
}

/// Random expressions that are instant vectors.
fn any_vector() -> impl Strategy<Value = String> {
    let pick = |list: &'static [&'static str]| proptest::sample::select(list);
    let selector = pick(&[
        "a_total",
        "b_total",
        "{__name__=~\".+\"}",
        "a_total{i=\"0\"}",
        "a_total offset 2m",
        "b_total offset -1m",
        "b_total @ 400",
        "nothing",
    ]);
    let leaf = selector.prop_map(str::to_owned).boxed();
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let maps = pick(&[
            "abs(?)",
            "-?",
            "? * 2",
            "1 / ?",
            "? > 3",
            "10 < bool ?",
            "clamp(?, 1, 9)",
            "round(?)",
            "timestamp(?)",
            "vector(scalar(?))",
            "absent(?)",
            "label_replace(?, \"i\", \"$1\", \"g\", \"(.*)\")",
            "label_join(?, \"n\", \"-\", \"g\", \"__name__\")",
            "sort_desc(?)",
            "histogram_quantile(0.5, ?)",
            "minute(?)",
        ]);
        let windows = pick(&[
            "rate",
            "increase",
            "delta",
            "irate",
            "changes",
            "resets",
            "deriv",
            "sum_over_time",
            "avg_over_time",
            "min_over_time",
            "max_over_time",
            "count_over_time",
            "stddev_over_time",
            "last_over_time",
            "present_over_time",
            "absent_over_time",
        ]);
        let ranges = pick(&["[5m:1m]", "[3m:30s]", "[10m:2m] offset 1m", "[4m:1m] @ 500"]);
        let aggregations = pick(&[
            "sum by (g) (?)",
            "avg without (i) (?)",
            "count(?)",
            "min by (i) (?)",
            "max(?)",
            "stdvar by (g) (?)",
            "group by (__name__) (?)",
            "topk(2, ?)",
            "bottomk by (g) (1, ?)",
            "quantile by (i) (0.4, ?)",
            "limitk(2, ?)",
            "limit_ratio(0.5, ?)",
            "count_values(\"v\", ?)",
        ]);
        let operators = pick(&[
            "+",
            "-",
            "*",
            "/",
            "%",
            "==",
            "!=",
            ">",
            "<= bool",
            "and",
            "or",
            "unless",
            "+ on (i, g)",
            "* ignoring (g)",
            "/ on (g) group_left ()",
            "- on (i) group_right (g)",
            "and on (i)",
            "or on ()",
            "unless ignoring (i)",
            "> on (i, g)",
            "+ on (i, g) fill (0)",
            "- on (g) fill_left (1)",
        ]);
        let filled = |form: &str, inner: &str| format!("({})", form.replace('?', inner));
        prop_oneof![
            (maps, inner.clone()).prop_map(move |(form, v)| filled(form, &v)),
            (aggregations, inner.clone()).prop_map(move |(form, v)| filled(form, &v)),
            (windows, inner.clone(), ranges).prop_map(|(f, v, r)| format!("{f}(({v}){r})")),
            (inner.clone(), operators, inner).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_step_of_a_range_query_is_an_instant_query(source in any_storage(), step in 7_000..400_000i64) {
        for text in QUESTIONS {
            prop_assert_eq!(range_is_its_instants(&source, text, step), Ok(()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn so_it_is_for_random_expressions(
        source in any_storage(),
        text in any_vector(),
        step in 7_000..400_000i64,
    ) {
        prop_assert_eq!(range_is_its_instants(&source, &text, step), Ok(()));
    }
}

/// Many series, so that the work is really divided.
fn wide() -> Plain {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as f64 / 977.0
    };
    let series = |i: usize, samples| {
        let pairs = [("__name__", "m_total".to_owned()), ("i", i.to_string()), ("g", (i % 7).to_string())];
        (Labels::from_pairs(pairs).unwrap(), samples)
    };
    Plain((0..3000).map(|i| series(i, (1..20).map(|s| (s * 15_000, random())).collect())).collect())
}

#[test]
fn the_answer_does_not_depend_on_the_number_of_threads() {
    let source = wide();
    for text in [
        "sum by (g) (rate(m_total[1m]))",
        "avg(m_total)",
        "stddev by (g) (m_total)",
        "quantile by (g) (0.9, m_total)",
        "topk by (g) (3, m_total)",
        "m_total * on(g) group_left sum by (g) (m_total)",
    ] {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let params = Params::range(text, 60_000, 240_000, 20_000);
            points(&pool.install(|| ask(&source, text, params)).unwrap())
        };
        let one = with(1);
        assert!(!one.is_empty());
        assert_eq!(one, with(2), "{text}");
        assert_eq!(one, with(5), "{text}");
    }
}

#[test]
fn sums_are_those_of_a_plain_loop() {
    let source = wide();
    let answer = ask(&source, "sum by (g) (m_total)", Params::instant("", 150_000)).unwrap();
    for (labels, _, values) in answer.matrix.rows() {
        let of_group = source.0.iter().filter(|(l, _)| l.value("g") == labels.value("g"));
        let plain: f64 =
            of_group.map(|(_, s)| s.iter().rfind(|(t, _)| *t <= 150_000).map_or(0.0, |s| s.1)).sum();
        assert!((values[0] - plain).abs() <= 1e-9 * plain, "{labels}");
    }
    assert_eq!(answer.matrix.len(), 7);
}

#[test]
fn a_query_stops_at_its_limits() {
    let source = wide();
    let run = |text: &str, budget: &Budget| {
        let params = Params::range(text, 60_000, 240_000, 20_000);
        evaluate(&parse(text).unwrap(), &params, &source, budget)
    };
    for text in ["sum(rate(m_total[1m]))", "m_total", "max_over_time(m_total[1m:1s])", "absent(m_total)"] {
        let few = Budget::new(Stop::default(), 0, 1000);
        assert!(matches!(run(text, &few), Err(Error::Limit { .. })), "{text}");
        let stop = Stop::default();
        stop.cancel();
        assert_eq!(run(text, &Budget::new(stop, 0, u64::MAX)), Err(Error::Cancelled), "{text}");
        let stop = Stop::default();
        stop.time_out();
        let late = run(text, &Budget::new(stop, 5, u64::MAX));
        assert_eq!(late, Err(Error::Timeout { timeout_ms: 5 }), "{text}");
    }
    // Refused before anything is allocated for it.
    let many_steps = run("sum_over_time(vector(1)[100000d:1ms])", &Budget::unlimited());
    assert!(matches!(many_steps, Err(Error::Limit { .. })));
    let many_cells = Budget::new(Stop::default(), 0, 50_000_000);
    let wide_subquery = run("sum_over_time((m_total * 0 + time())[10h:1s])", &many_cells);
    assert!(matches!(wide_subquery, Err(Error::Limit { .. })));
}

#[test]
fn extreme_times_are_only_times() {
    let source = wide();
    for at in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
        for text in [
            "m_total",
            "rate(m_total[5m])",
            "m_total offset 100y",
            "m_total offset -100y",
            "max_over_time(m_total[5m:1m])",
            "absent_over_time(m_total[1m])",
        ] {
            // Nothing is there; what matters is that nothing overflows.
            let _ = ask(&source, text, Params::instant(text, at));
        }
    }
    assert!(ask(&source, "m_total", Params::range("", 0, 10, 0)).is_err());
    assert!(ask(&source, "m_total", Params::range("", 10, 0, 1)).is_err());
}
