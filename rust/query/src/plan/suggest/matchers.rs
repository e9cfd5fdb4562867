//! Checks of selectors: matchers that say too much, too little or nothing.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{MatchOp, Matcher, Result};

use super::look::Context;
use super::{Finding, Meaning};
use crate::plan::nodes::selector;
use crate::syntax::predicate;
use crate::syntax::tree::{Expr, ExprKind, Filter, Selector};

/// Values that a set is written out for.
const SET_MAX: usize = 64;
/// Values, and metric names, that are few enough to be named one by one.
const NAMED_MAX: usize = 8;

type Found = Result<Option<Finding>>;

fn parts(selector: &Selector) -> &[Filter] {
    match &selector.filter {
        Filter::All(parts) => parts,
        _ => &[],
    }
}

/// The expression with another selector.
fn with(expr: &Expr, changed: Selector) -> String {
    let kind = match &expr.kind {
        ExprKind::Range { range, .. } => ExprKind::Range { selector: changed, range: range.clone() },
        _ => ExprKind::Selector(changed),
    };
    Expr { kind, span: expr.span }.to_string()
}

fn with_parts(expr: &Expr, selector: &Selector, parts: Vec<Filter>) -> String {
    with(expr, Selector { filter: Filter::All(parts), ..selector.clone() })
}

/// The parts with the one at `at` replaced, or left out.
fn changed(parts: &[Filter], at: usize, by: Option<Filter>) -> Vec<Filter> {
    let mut out = parts.to_vec();
    out.splice(at..=at, by);
    out
}

fn finding(check: &'static str, expr: &Expr, message: String, rewrite: Option<String>) -> Option<Finding> {
    Some(Finding { check, message, span: expr.span, rewrite, meaning: Meaning::Same })
}

fn plain(label: &str, op: MatchOp, value: &str) -> Filter {
    Filter::Match(Matcher { name: label.to_owned(), op, value: value.to_owned(), regex: None })
}

/// The regex matchers of a selector that stand for some texts: which, and these.
fn literal_regexes(expr: &Expr) -> impl Iterator<Item = (usize, &Matcher, &[String])> {
    let all = selector(expr).map_or(&[][..], parts).iter().enumerate();
    all.filter_map(|(at, part)| match part {
        Filter::Match(m) => Some((at, m, m.regex.as_ref()?.literals()?)),
        _ => None,
    })
}

/// `a=~"x"` is `a="x"`.
pub(super) fn regex_literal(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let Some((at, m, [text])) = literal_regexes(expr).find(|(_, _, texts)| texts.len() == 1) else {
        return Ok(None);
    };
    let op = if m.op.is_negative() { MatchOp::NotEqual } else { MatchOp::Equal };
    let message =
        format!("{}{}\"{}\" is a plain text; write {}", m.name, m.op.as_str(), m.value, op.as_str());
    let parts = changed(parts(selector), at, Some(plain(&m.name, op, text)));
    Ok(finding("regex-literal", expr, message, Some(with_parts(expr, selector, parts))))
}

/// `a=~"x|y"` is `a in ("x", "y")`.
pub(super) fn regex_set(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let set = literal_regexes(expr).find(|(_, _, texts)| (2..=SET_MAX).contains(&texts.len()));
    let Some((at, m, texts)) = set else { return Ok(None) };
    let message = format!("{}{}\"{}\" is a set of {} texts", m.name, m.op.as_str(), m.value, texts.len());
    let set = Filter::In { label: m.name.clone(), negated: m.op.is_negative(), values: texts.to_vec() };
    let parts = changed(parts(selector), at, Some(set));
    Ok(finding("regex-set", expr, message, Some(with_parts(expr, selector, parts))))
}

/// Whether a part on this label takes the value; `None`: it is about something else.
fn takes(part: &Filter, label: &str, value: &str) -> Option<bool> {
    match part {
        Filter::Match(m) if m.name == label => Some(m.matches(value)),
        Filter::In { label: l, negated, values } if l == label => {
            Some(values.iter().any(|v| v == value) != *negated)
        }
        Filter::Has(l) if l == label => Some(!value.is_empty()),
        _ => None,
    }
}

/// Pairs of an equality and another part on the same label, with what the part says of the value.
fn with_equality(parts: &[Filter]) -> impl Iterator<Item = (&Matcher, usize, bool)> {
    let equal = parts.iter().enumerate().filter_map(|(at, part)| match part {
        Filter::Match(m) if m.op == MatchOp::Equal => Some((at, m)),
        _ => None,
    });
    equal.flat_map(move |(at, m)| {
        let others = parts.iter().enumerate().filter(move |(other, _)| *other != at);
        others.filter_map(move |(other, part)| Some((m, other, takes(part, &m.name, &m.value)?)))
    })
}

/// A matcher that another one implies, or repeats.
pub(super) fn matcher_implied(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let parts = parts(selector);
    let twice = (1..parts.len()).find(|&at| parts[..at].contains(&parts[at]));
    let implied = with_equality(parts).find(|(_, _, takes)| *takes).map(|(_, at, _)| at);
    let Some(at) = twice.or(implied) else { return Ok(None) };
    let message = format!("{} says nothing that another matcher does not say", parts[at]);
    Ok(finding("matcher-implied", expr, message, Some(with_parts(expr, selector, changed(parts, at, None)))))
}

/// Matchers that no value satisfies together.
pub(super) fn matcher_contradiction(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let parts = selector(expr).map_or(&[][..], parts);
    let Some((m, at, _)) = with_equality(parts).find(|(_, _, takes)| !*takes) else { return Ok(None) };
    let message = format!("no series can have {}=\"{}\" and {}", m.name, m.value, parts[at]);
    Ok(finding("matcher-contradiction", expr, message, None))
}

/// A matcher without which the same series are selected.
pub(super) fn matcher_excludes_nothing(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let parts = parts(selector);
    let weak = |part: &Filter| match part {
        Filter::Match(m) => m.name != METRIC_NAME && m.op != MatchOp::Equal,
        Filter::In { negated, .. } => *negated,
        Filter::Has(_) => true,
        _ => false,
    };
    for at in (0..parts.len()).filter(|&at| weak(&parts[at])) {
        let without = Selector { filter: Filter::All(changed(parts, at, None)), ..selector.clone() };
        if predicate(&without).matches_empty() {
            continue;
        }
        let reach = context.reach(selector);
        let counts =
            (context.count(&predicate(selector), reach)?, context.count(&predicate(&without), reach)?);
        if let (Some(with_it), Some(without_it)) = counts
            && with_it == without_it
            && with_it > 0
        {
            let message = format!("{} excludes none of {with_it} series", parts[at]);
            return Ok(finding("matcher-excludes-nothing", expr, message, Some(with(expr, without))));
        }
    }
    Ok(None)
}

/// A selector that does not say which metric.
pub(super) fn missing_name(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    if selector.name.is_some() || selector.filter.to_string().contains(METRIC_NAME) {
        return Ok(None);
    }
    if parts(selector).is_empty() {
        return Ok(None);
    }
    let names = context.names(selector)?;
    let rewrite = match names.as_slice() {
        [] => return Ok(None),
        [one] if is_word(one) => Some(with(expr, Selector { name: Some(one.clone()), ..selector.clone() })),
        few if few.len() <= NAMED_MAX => {
            let set = Filter::In { label: METRIC_NAME.to_owned(), negated: false, values: few.to_vec() };
            let mut parts = parts(selector).to_vec();
            parts.insert(0, set);
            Some(with_parts(expr, selector, parts))
        }
        _ => None,
    };
    let message = format!("no metric name: series of {} metrics are selected", names.len());
    Ok(finding("missing-metric-name", expr, message, rewrite))
}

fn is_word(name: &str) -> bool {
    let letter = |c: char| c == '_' || c == ':' || c.is_ascii_alphabetic();
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// A selector that takes no series at all.
pub(super) fn selects_nothing(context: &Context<'_>, expr: &Expr, above: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let asks = |e: &Expr| matches!(&e.kind, ExprKind::Call(c) if c.function.name.starts_with("absent"));
    if above.is_some_and(asks) || context.count(&predicate(selector), context.reach(selector))? != Some(0) {
        return Ok(None);
    }
    let message = format!("{expr} selects no series in the time of the query");
    Ok(finding("selects-nothing", expr, message, None))
}

/// `a=~".*x.*"` where the values that it takes begin, or end, with x, or are few.
pub(super) fn unanchored(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(selector) = selector(expr) else { return Ok(None) };
    let parts = parts(selector);
    let open = parts.iter().enumerate().find_map(|(at, part)| match part {
        Filter::Match(m) if m.op == MatchOp::Regex => {
            let core = m.value.trim_start_matches(".*");
            (core.len() < m.value.len() && !m.regex.as_ref()?.takes_any()).then_some((at, m, core))
        }
        _ => None,
    });
    let Some((at, m, core)) = open else { return Ok(None) };
    let groups = context.groups(selector, &[&m.name])?;
    let mut values: Vec<String> = groups.iter().map(|l| l.value(&m.name).to_owned()).collect();
    values.sort_unstable();
    let inner = core.trim_end_matches(".*");
    let literal = !inner.contains(|c: char| "\\.+*?()|[]{}^$".contains(c)) && !inner.is_empty();
    let regex = |pattern: String| Matcher::new(&m.name, MatchOp::Regex, &pattern).ok().map(Filter::Match);
    let new = match values.as_slice() {
        [] => return Ok(None),
        [one] => Some(plain(&m.name, MatchOp::Equal, one)),
        few if few.len() <= NAMED_MAX => {
            Some(Filter::In { label: m.name.clone(), negated: false, values: few.to_vec() })
        }
        all if literal && core != inner && all.iter().all(|v| v.starts_with(inner)) => {
            regex(format!("{inner}.*"))
        }
        all if literal && core != inner && all.iter().all(|v| v.ends_with(inner)) => {
            regex(format!(".*{inner}"))
        }
        _ => None,
    };
    let Some(new) = new else { return Ok(None) };
    let message = format!(
        "{}=~\"{}\" tests every value of {}; the {} that it takes are {new}",
        m.name,
        m.value,
        m.name,
        values.len()
    );
    let parts = changed(parts, at, Some(new));
    Ok(finding("unanchored-regex", expr, message, Some(with_parts(expr, selector, parts))))
}
