//! Boolean selectors: what they mean, and that they leave PromQL's alone.

use metricsdb_model::{Labels, MatchOp, Matcher};
use proptest::prelude::*;

use crate::syntax::tree::{ExprKind, Filter, Selector};
use crate::syntax::{parse, predicate};

fn selector(text: &str) -> Selector {
    match parse(text) {
        Ok(expr) => match expr.kind {
            ExprKind::Selector(selector) => selector,
            other => panic!("{text}: {other:?}"),
        },
        Err(error) => panic!("{text}: {error}"),
    }
}

/// The names of the series that a selector takes, of a small fixed world.
fn taken(text: &str) -> String {
    let world = [
        ("a", [("env", "prod"), ("service", "api"), ("region", "eu"), ("code", "200")]),
        ("b", [("env", "prod"), ("service", "web"), ("region", "us"), ("code", "503")]),
        ("c", [("env", "dev"), ("service", "api"), ("region", ""), ("code", "5e2")]),
        ("d", [("env", ""), ("service", "batch"), ("region", "ap"), ("code", "none")]),
    ];
    let predicate = predicate(&selector(text));
    let matches = |(id, pairs): &&(&str, [(&str, &str); 4])| {
        let labels = pairs.iter().copied().chain([("__name__", "m"), ("id", *id)]);
        predicate.matches(Labels::from_pairs(labels).unwrap().as_ref())
    };
    world.iter().filter(matches).map(|(id, _)| *id).collect()
}

#[test]
fn words_join_matchers() {
    let cases = [
        ("m", "abcd"),
        ("{\"m\"}", "abcd"),
        ("n", ""),
        ("m{env=\"prod\",service=\"api\"}", "a"),
        ("m{env=\"prod\" and service=\"api\"}", "a"),
        ("m{env=\"prod\" or service=\"api\"}", "abc"),
        ("m{env=\"prod\" and (service=\"api\" or region=~\"u.*\")}", "ab"),
        ("m{env=\"prod\" and service=\"api\" or region=\"ap\"}", "ad"),
        ("m{not env=\"prod\"}", "cd"),
        ("m{not (env=\"prod\" or region=\"ap\")}", "c"),
        ("m{not region in (\"eu\", \"ap\",)}", "bc"),
        ("m{region not in (\"eu\",\"ap\")}", "bc"),
        ("m{region in (\"eu\")}", "a"),
        ("m{has(region)}", "abd"),
        ("m{not has(region)}", "c"),
        ("m{num(code) >= 500}", "bc"),
        ("m{num(code) == 2e2}", "a"),
        ("m{num(code) < inf}", "abc"),
        ("m{num(code) > -Inf and not num(code) > 400}", "a"),
        ("{\"m\" and env=\"dev\"}", "c"),
        ("m{env=\"prod\",service=\"web\",}", "b"),
        ("m{env=\"dev\", or env=\"\"}", "cd"),
        ("m{ENV=\"x\" OR NOT env=\"prod\" AND has(region)}", "d"),
    ];
    for (text, ids) in cases {
        assert_eq!(taken(text), ids, "{text}");
        assert_eq!(taken(&parse(text).unwrap().to_string()), ids, "{text}");
    }
}

#[test]
fn a_selector_that_takes_everything_is_refused() {
    for text in ["{not a=\"b\"}", "{a not in (\"x\")}", "{a=\"b\" or c=\"\"}", "{not has(a)}"] {
        assert!(parse(text).is_err(), "{text}");
    }
    for text in ["{has(a)}", "{a in (\"x\")}", "{a=\"b\" or c=\"d\"}", "{num(a) > 0}"] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn words_are_labels_where_an_operator_follows() {
    let label = |text: &str| match selector(text).filter {
        Filter::All(parts) => parts,
        other => panic!("{text}: {other:?}"),
    };
    let plain = |name: &str| Filter::Match(Matcher::new(name, MatchOp::Equal, "1").unwrap());
    let not = |filter: Filter| Filter::Not(Box::new(filter));
    let within = |name: &str, negated| Filter::In { label: name.into(), negated, values: vec!["1".into()] };
    assert_eq!(label("m{or=\"1\",and=\"1\",not=\"1\",in=\"1\"}"), ["or", "and", "not", "in"].map(plain));
    assert_eq!(label("m{not not=\"1\"}"), [not(plain("not"))]);
    assert_eq!(label("m{not in=\"1\"}"), [not(plain("in"))]);
    assert_eq!(label("m{not in (\"1\")}"), [within("not", false)]);
    assert_eq!(label("m{not not in (\"1\")}"), [within("not", true)]);
    assert_eq!(label("m{not in in (\"1\")}"), [not(within("in", false))]);
    assert_eq!(label("m{in not in (\"1\")}"), [within("in", true)]);
    assert_eq!(label("m{has in (\"1\") and and=\"1\"}"), [within("has", false), plain("and")]);
    assert_eq!(label("m{has(has), num=\"1\"}"), [Filter::Has("has".into()), plain("num")]);
}

proptest! {
    /// Rule zero: a list of matchers is the list of matchers, whatever the labels are called.
    #[test]
    fn plain_selectors_mean_what_prometheus_means(
        matchers in prop::collection::vec(
            (
                prop::sample::select(vec!["or", "and", "not", "in", "has", "num", "OR", "job", "__x__", "sum", "inf"]),
                prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]),
                prop::sample::select(vec!["", "a", "or", "in (", "x.*"]),
            ),
            0..6,
        ),
        blanks in prop::sample::select(vec!["", " ", "\n", " # }\n "]),
        comma in any::<bool>(),
    ) {
        prop_assume!(matchers.iter().all(|(_, op, value)| {
            !matches!(op, MatchOp::Regex | MatchOp::NotRegex) || *value != "in ("
        }));
        let mut text = format!("m{{{blanks}");
        for (i, (label, op, value)) in matchers.iter().enumerate() {
            let separator = if i > 0 { "," } else { "" };
            text.push_str(&format!("{separator}{blanks}{label}{blanks}{}{blanks}{value:?}", op.as_str()));
        }
        text.push_str(if comma && !matchers.is_empty() { ",}" } else { "}" });
        let expected: Vec<Filter> = matchers
            .iter()
            .map(|(label, op, value)| Filter::Match(Matcher::new(label, *op, value).unwrap()))
            .collect();
        prop_assert_eq!(selector(&text).filter, Filter::All(expected));
        let found = predicate(&selector(&text));
        let series = Labels::from_pairs([("__name__", "m"), ("or", "a"), ("job", "or")]).unwrap();
        let obvious = matchers
            .iter()
            .all(|(label, op, value)| Matcher::new(label, *op, value).unwrap().matches(series.value(label)));
        prop_assert_eq!(found.matches(series.as_ref()), obvious);
    }
}
