//! A selector's filter as the predicate that a source answers.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{MatchOp, Matcher, Predicate, Result};

use crate::syntax::tree::{Filter, Selector};

/// The name and the filter of a selector, the name as a matcher on `__name__`. Fails with `Error::Input`
/// where a regex does not compile.
pub fn predicate(selector: &Selector) -> Result<Predicate> {
    let mut parts = match &selector.filter {
        Filter::All(parts) => parts.iter().map(lower).collect::<Result<Vec<_>>>()?,
        other => vec![lower(other)?],
    };
    if let Some(name) = &selector.name {
        let matcher = Matcher::new(METRIC_NAME, MatchOp::Equal, name)?;
        parts.insert(0, Predicate::Match(matcher));
    }
    Ok(Predicate::All(parts))
}

fn lower(filter: &Filter) -> Result<Predicate> {
    let all = |parts: &[Filter]| parts.iter().map(lower).collect::<Result<Vec<_>>>();
    Ok(match filter {
        Filter::All(parts) => Predicate::All(all(parts)?),
        Filter::Any(parts) => Predicate::Any(all(parts)?),
        Filter::Not(part) => Predicate::Not(Box::new(lower(part)?)),
        Filter::Match { label, op, value } => Predicate::Match(Matcher::new(label, *op, value)?),
        Filter::In { label, negated, values } => {
            let one_of = Predicate::OneOf { name: label.clone(), values: values.clone() };
            if *negated { Predicate::Not(Box::new(one_of)) } else { one_of }
        }
        Filter::Has(label) => Predicate::Match(Matcher::new(label, MatchOp::NotEqual, "")?),
        Filter::Num { label, op, value } => Predicate::Num { name: label.clone(), op: *op, value: *value },
    })
}
