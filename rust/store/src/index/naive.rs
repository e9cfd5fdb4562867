//! The slow twin: every label set, one by one, against the selector's own definition.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use metricsdb_model::{Budget, Error, Labels, MatchOp, Matcher, NumOp, Predicate};
use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::{Forward, Index};
use crate::symbols::Symbols;

/// Series with their ids, and the index of them.
pub(super) struct Twin {
    pub series: Vec<(u32, Labels)>,
    pub symbols: Arc<Symbols>,
    pub index: Index,
}

impl Twin {
    pub(super) fn new(series: Vec<(u32, Labels)>) -> Twin {
        let symbols = Arc::new(Symbols::new());
        let index = Index::new(symbols.clone());
        for (i, (id, labels)) in series.iter().enumerate() {
            index.add(*id, &pairs(&symbols, labels)).unwrap();
            if i % 700 == 0 {
                index.settle();
            }
        }
        Twin { series, symbols, index }
    }

    fn select(&self, predicate: &Predicate) -> Vec<u32> {
        self.series.iter().filter(|s| predicate.matches(s.1.as_ref())).map(|s| s.0).collect()
    }

    fn values(&self, name: &str, ids: Option<&RoaringBitmap>) -> Vec<String> {
        let some = self.series.iter().filter(|s| ids.is_none_or(|ids| ids.contains(s.0)));
        let values: BTreeSet<String> = some.filter_map(|s| s.1.get(name)).map(str::to_owned).collect();
        values.into_iter().collect()
    }

    fn names(&self, ids: Option<&RoaringBitmap>) -> Vec<String> {
        let some = self.series.iter().filter(|s| ids.is_none_or(|ids| ids.contains(s.0)));
        let names: BTreeSet<String> = some.flat_map(|s| s.1.iter().map(|p| p.0.to_owned())).collect();
        names.into_iter().collect()
    }

    fn agree(&self, predicate: &Predicate) -> std::result::Result<(), TestCaseError> {
        let got = self.index.select(predicate, self, &Budget::unlimited()).unwrap();
        prop_assert_eq!(got.iter().collect::<Vec<_>>(), self.select(predicate), "{:?}", predicate);
        Ok(())
    }
}

impl Forward for Twin {
    fn value(&self, id: u32, name: u32) -> Option<u32> {
        let at = self.series.binary_search_by_key(&id, |s| s.0).ok()?;
        let value = self.series.get(at)?.1.get(&self.symbols.get(name))?;
        self.symbols.lookup(value)
    }
}

pub(super) fn pairs(symbols: &Symbols, labels: &Labels) -> Vec<(u32, u32)> {
    labels.iter().map(|(n, v)| (symbols.intern(n).unwrap(), symbols.intern(v).unwrap())).collect()
}

const NAMES: [&str; 5] = ["__name__", "env", "code", "pod", "absent"];
const VALUES: [&str; 12] =
    ["", "prod", "prod-eu", "prod\nx", "staging", "200", "404", "5e2", "-0.5", "NaN", "pröd", "pod-7"];
const PATTERNS: [&str; 24] = [
    "",
    ".*",
    ".+",
    "prod",
    "prod.*",
    "prod.+",
    ".*7",
    ".*o.*",
    "prod|200",
    "prod|",
    "(prod|stag).*",
    "[0-9]+",
    "4..",
    "(?i)PROD",
    "p.+d",
    ".*-.*-.*",
    "x|.*",
    "^prod$",
    "pr(o|ö)d",
    "(prod)?",
    "[^p].*",
    ".",
    "(a|b)",
    r"\w+",
];

fn leaf() -> impl Strategy<Value = Predicate> {
    let name = || proptest::sample::select(&NAMES[..]);
    let value = || proptest::sample::select(&VALUES[..]);
    let word = (name(), any::<bool>(), value()).prop_map(|(n, negative, v)| {
        let op = if negative { MatchOp::NotEqual } else { MatchOp::Equal };
        Predicate::Match(Matcher::new(n, op, v).unwrap())
    });
    let regexes: Vec<(Matcher, Matcher)> = PATTERNS
        .iter()
        .map(|p| {
            (Matcher::new("", MatchOp::Regex, p).unwrap(), Matcher::new("", MatchOp::NotRegex, p).unwrap())
        })
        .collect();
    let regex = (name(), any::<bool>(), proptest::sample::select(regexes)).prop_map(|(n, negative, both)| {
        let matcher = if negative { both.1 } else { both.0 };
        Predicate::Match(Matcher { name: n.to_owned(), ..matcher })
    });
    let one_of = (name(), proptest::collection::vec(value(), 0..4)).prop_map(|(n, v)| Predicate::OneOf {
        name: n.to_owned(),
        values: v.into_iter().map(str::to_owned).collect(),
    });
    let op = prop_oneof![
        Just(NumOp::Greater),
        Just(NumOp::GreaterEqual),
        Just(NumOp::Less),
        Just(NumOp::LessEqual),
        Just(NumOp::Equal)
    ];
    let num = (name(), op, proptest::sample::select(vec![0.0, 200.0, 500.0, f64::NAN]))
        .prop_map(|(n, op, value)| Predicate::Num { name: n.to_owned(), op, value });
    prop_oneof![3 => word, 4 => regex, 1 => one_of, 1 => num]
}

fn selector() -> impl Strategy<Value = Predicate> {
    leaf().prop_recursive(3, 10, 4, |inner| {
        prop_oneof![
            4 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Predicate::All),
            2 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Predicate::Any),
            1 => inner.prop_map(|p| Predicate::Not(Box::new(p))),
        ]
    })
}

/// Series over few names and values, so that every value has several and labels are often absent.
fn universe(most: usize) -> impl Strategy<Value = Vec<(u32, Labels)>> {
    let value = proptest::sample::select(&VALUES[..]);
    let set = proptest::collection::vec(value, 4)
        .prop_map(|v| Labels::from_pairs(NAMES.into_iter().zip(v)).unwrap());
    proptest::collection::btree_map(0u32..200_000, set, 0..most).prop_map(|m| m.into_iter().collect())
}

proptest! {
    // The default generator alone would take half of the time.
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_algorithm: proptest::test_runner::RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })]

    /// 100,000 selectors in all.
    #[test]
    fn selectors_take_what_brute_force_takes(
        series in universe(16),
        selectors in proptest::collection::vec(selector(), 500),
    ) {
        let twin = Twin::new(series);
        for predicate in &selectors {
            twin.agree(predicate)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn names_and_values_are_those_of_the_series(series in universe(40), predicate in selector()) {
        let twin = Twin::new(series);
        let ids: RoaringBitmap = twin.select(&predicate).into_iter().collect();
        for some in [None, Some(&ids)] {
            prop_assert_eq!(twin.index.label_names(some, &Budget::unlimited()).unwrap(), twin.names(some));
            for name in NAMES {
                prop_assert_eq!(twin.index.label_values(name, some, &twin, &Budget::unlimited()).unwrap(), twin.values(name, some));
            }
        }
    }
}

/// Enough series and values for bitmaps, sorted runs, tails and the way back through the labels.
fn large() -> Twin {
    let series = (0..6000u32).map(|i| {
        let pairs = [
            ("__name__", ["up", "http_requests_total"][i as usize % 2].to_owned()),
            ("pod", format!("pod-{}", i * 7919 % 6000 / 2)),
            ("env", VALUES[i as usize / 500].to_owned()),
            ("code", (100 + i % 500).to_string()),
        ];
        (i * 3, Labels::from_pairs(pairs).unwrap())
    });
    Twin::new(series.collect())
}

#[test]
fn large_labels_are_answered_as_small_ones() {
    let twin = large();
    let is = |name, op, value| Predicate::Match(Matcher::new(name, op, value).unwrap());
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let single = [
        is("__name__", Equal, "up"),
        is("__name__", Regex, "up|http.*"),
        is("pod", Regex, "pod-1.*"),
        is("pod", Regex, "pod-12[0-9]"),
        is("pod", Regex, ".*7"),
        is("pod", Regex, "pod-.*"),
        is("pod", NotRegex, ".*7.*"),
        is("pod", Regex, "pod-(1|2|300)|"),
        is("env", Equal, ""),
        is("env", NotEqual, "prod"),
        is("env", NotRegex, ".+"),
        is("code", Regex, "4.."),
        is("code", Equal, "404"),
        Predicate::Num { name: "code".into(), op: NumOp::GreaterEqual, value: 590.0 },
    ];
    for a in &single {
        twin.agree(a).unwrap();
        for b in &single {
            twin.agree(&Predicate::All(vec![a.clone(), b.clone()])).unwrap();
            let either = Predicate::Any(vec![a.clone(), Predicate::Not(Box::new(b.clone()))]);
            twin.agree(&Predicate::All(vec![is("code", Equal, "404"), either])).unwrap();
        }
    }
    let ids: RoaringBitmap = (0..300).collect();
    for some in [None, Some(&ids)] {
        assert_eq!(
            twin.index.label_values("pod", some, &twin, &Budget::unlimited()).unwrap(),
            twin.values("pod", some)
        );
    }
}

#[test]
fn values_that_come_after_a_test_was_remembered_are_tested_too() {
    let mut twin = large();
    let is = |op, value| Predicate::Match(Matcher::new("pod", op, value).unwrap());
    let predicates =
        [is(MatchOp::Regex, ".*7"), is(MatchOp::Regex, "pod-29.*"), is(MatchOp::NotRegex, "pod-.*8")];
    for round in 0..4u32 {
        for predicate in &predicates {
            twin.agree(predicate).unwrap();
        }
        for i in 0..300 {
            let id = 100_000 * (round + 1) + i;
            let labels = Labels::from_pairs([("pod", format!("pod-29x{round}{i}"))]).unwrap();
            twin.index.add(id, &pairs(&twin.symbols, &labels)).unwrap();
            twin.series.push((id, labels));
        }
    }
    assert!(twin.index.bytes().iter().any(|part| part.0 == "remembered tests" && part.1 > 0));
}

#[test]
fn figures_are_counted_as_prometheus_counts_them() {
    let figures = large().index.cardinality(2);
    assert_eq!(figures.series, 6000);
    assert_eq!(figures.label_pairs, 2 + 3000 + 11 + 500);
    assert_eq!(figures.values_by_label, [("pod".into(), 3000), ("code".into(), 500)]);
    assert_eq!(figures.series_by_metric, [("up".into(), 3000), ("http_requests_total".into(), 3000)]);
    assert_eq!(figures.series_by_pair[0], ("__name__=up".into(), 3000));
    assert_eq!(figures.bytes_by_label[0], ("__name__".into(), 3000 * (2 + 19)));
}

#[test]
fn a_selection_obeys_its_budget() {
    let twin = large();
    let stop = metricsdb_model::budget::Stop::default();
    stop.time_out();
    let predicate = Predicate::Match(Matcher::new("pod", MatchOp::Regex, ".*7").unwrap());
    let result = twin.index.select(&predicate, &twin, &Budget::new(stop, 5, u64::MAX));
    assert_eq!(result.unwrap_err(), Error::Timeout { timeout_ms: 5 });
}

#[test]
fn a_series_is_never_judged_by_half_of_its_labels() {
    let symbols = Arc::new(Symbols::new());
    let index = Index::new(symbols.clone());
    let sets: Vec<_> = (0..2000)
        .map(|i| {
            Labels::from_pairs([("a", "x".to_owned()), ("b", "y".into()), ("c", i.to_string())]).unwrap()
        })
        .map(|l| pairs(&symbols, &l))
        .collect();
    struct Nowhere;
    impl Forward for Nowhere {
        fn value(&self, _: u32, _: u32) -> Option<u32> {
            None
        }
    }
    let is = |name, op, value| Predicate::Match(Matcher::new(name, op, value).unwrap());
    let torn = Predicate::All(vec![is("a", MatchOp::Equal, "x"), is("b", MatchOp::NotEqual, "y")]);
    let whole = Predicate::All(vec![is("a", MatchOp::Equal, "x"), is("b", MatchOp::Equal, "y")]);
    std::thread::scope(|s| {
        s.spawn(|| {
            for (id, set) in sets.iter().enumerate() {
                index.add(id as u32, set).unwrap();
            }
        });
        while index.all().len() < 2000 {
            let before = index.all().len();
            let found = index.select(&torn, &Nowhere, &Budget::unlimited()).unwrap();
            assert!(found.is_empty());
            assert!(index.select(&whole, &Nowhere, &Budget::unlimited()).unwrap().len() >= before);
        }
    });
}
