//! A selector's filter as the predicate that a source answers.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{MatchOp, Matcher, Predicate};

use crate::syntax::tree::{Filter, Selector};

/// The name and the filter of a selector, the name as a matcher on `__name__`. Compiles nothing: the
/// regexes are shared with the tree.
pub fn predicate(selector: &Selector) -> Predicate {
    let name = selector.name.iter().map(|name| plain(METRIC_NAME, MatchOp::Equal, name));
    let parts = match &selector.filter {
        Filter::All(parts) => parts.as_slice(),
        other => std::slice::from_ref(other),
    };
    Predicate::All(name.chain(parts.iter().map(lower)).collect())
}

fn plain(label: &str, op: MatchOp, value: &str) -> Predicate {
    Predicate::Match(Matcher { name: label.to_owned(), op, value: value.to_owned(), regex: None })
}

fn lower(filter: &Filter) -> Predicate {
    match filter {
        Filter::All(parts) => Predicate::All(parts.iter().map(lower).collect()),
        Filter::Any(parts) => Predicate::Any(parts.iter().map(lower).collect()),
        Filter::Not(part) => Predicate::Not(Box::new(lower(part))),
        Filter::Match(matcher) => Predicate::Match(matcher.clone()),
        Filter::In { label, negated, values } => {
            let one_of = Predicate::OneOf { name: label.clone(), values: values.clone() };
            if *negated { Predicate::Not(Box::new(one_of)) } else { one_of }
        }
        Filter::Has(label) => plain(label, MatchOp::NotEqual, ""),
        Filter::Num { label, op, value } => Predicate::Num { name: label.clone(), op: *op, value: *value },
    }
}
