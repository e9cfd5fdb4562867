//! Checks of how a query is put together: aggregations, operators, functions over whole vectors.

use metricsdb_model::{Grouping, MatchOp, Result};

use super::look::Context;
use super::{Finding, Meaning};
use crate::function::{Kernel, Special};
use crate::plan::nodes::{bare, only_selector};
use crate::syntax::Aggregation;
use crate::syntax::tree::{
    Aggregate, AggregateOp, Binary, BinaryOp, Call, Cardinality, Expr, ExprKind, Filter, Selector,
};

/// An aggregation that leaves more than this share of its series does not aggregate.
const KEPT_SHARE: f64 = 0.5;
/// Fewer series are never many.
const SERIES_MIN: usize = 20;

type Found = Result<Option<Finding>>;

fn same(check: &'static str, expr: &Expr, message: impl Into<String>, rewrite: String) -> Found {
    let (message, span) = (message.into(), expr.span);
    Ok(Some(Finding { check, message, span, rewrite: Some(rewrite), meaning: Meaning::Same }))
}

fn different(check: &'static str, expr: &Expr, message: impl Into<String>, rewrite: String) -> Found {
    let (message, span) = (message.into(), expr.span);
    Ok(Some(Finding { check, message, span, rewrite: Some(rewrite), meaning: Meaning::Different }))
}

fn aggregate(expr: &Expr) -> Option<&Aggregate> {
    match &bare(expr).kind {
        ExprKind::Aggregate(aggregate) => Some(aggregate),
        _ => None,
    }
}

fn call(expr: &Expr) -> Option<&Call> {
    match &bare(expr).kind {
        ExprKind::Call(call) => Some(call),
        _ => None,
    }
}

fn number(expr: &Expr) -> Option<f64> {
    match &bare(expr).kind {
        ExprKind::Number(value) => Some(*value),
        _ => None,
    }
}

/// `op by (labels) (inner)`.
fn written(op: AggregateOp, grouping: &Grouping, inner: &Expr) -> String {
    let shell = Aggregate { op, expr: inner.clone(), param: None, grouping: grouping.clone() };
    format!("{}({})", Aggregation(&shell), bare(inner))
}

/// `((x))`, `(sum(x))`.
pub(super) fn redundant_parentheses(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Paren(inner) = &expr.kind else { return Ok(None) };
    let closed = matches!(
        inner.kind,
        ExprKind::Paren(_)
            | ExprKind::Selector(_)
            | ExprKind::Range { .. }
            | ExprKind::Call(_)
            | ExprKind::Aggregate(_)
    );
    if !closed {
        return Ok(None);
    }
    same("redundant-parentheses", expr, "these parentheses hold nothing together", inner.to_string())
}

/// `sum by (a) (x) / count by (a) (x)`.
pub(super) fn join_is_aggregation(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Binary(binary) = &expr.kind else { return Ok(None) };
    let Binary { op: BinaryOp::Div, left, right, matching, .. } = &**binary else { return Ok(None) };
    let (Some(sum), Some(count)) = (aggregate(left), aggregate(right)) else { return Ok(None) };
    let plain = matching.card == Cardinality::OneToOne
        && matching.fill_left.is_none()
        && matching.fill_right.is_none()
        && match (&matching.on, &sum.grouping) {
            (None, _) => true,
            (Some(Grouping::By(on)), Grouping::By(by)) => {
                by.iter().all(|l| on.contains(l)) && on.iter().all(|l| by.contains(l))
            }
            (Some(Grouping::Without(ignored)), _) => ignored.is_empty(),
            _ => false,
        };
    let parts =
        sum.op == AggregateOp::Sum && count.op == AggregateOp::Count && sum.grouping == count.grouping;
    if !plain || !parts || bare(&sum.expr).to_string() != bare(&count.expr).to_string() {
        return Ok(None);
    }
    let rewrite = written(AggregateOp::Avg, &sum.grouping, &sum.expr);
    same("join-is-aggregation", expr, "a sum by its count is an average: the series are read twice", rewrite)
}

/// Whether every label of `few` is among `many`.
fn coarser(few: &Grouping, many: &Grouping) -> bool {
    match (few, many) {
        (Grouping::By(few), Grouping::By(many)) => few.iter().all(|l| many.contains(l)),
        _ => false,
    }
}

/// `sum(sum by (a) (x))`.
pub(super) fn nested_aggregation(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Aggregate(outer) = &expr.kind else { return Ok(None) };
    let Some(inner) = aggregate(&outer.expr) else { return Ok(None) };
    let folds =
        matches!(outer.op, AggregateOp::Sum | AggregateOp::Min | AggregateOp::Max | AggregateOp::Group);
    if !folds || outer.op != inner.op || !coarser(&outer.grouping, &inner.grouping) {
        return Ok(None);
    }
    let op = outer.op.as_str();
    let rewrite = written(outer.op, &outer.grouping, &inner.expr);
    same("nested-aggregation", expr, format!("{op} of {op} is one {op}"), rewrite)
}

/// `count(count by (l) (x))`: how many groups there are; what is in them does not matter.
pub(super) fn count_of_aggregation(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Aggregate(outer) = &expr.kind else { return Ok(None) };
    let Some(inner) = aggregate(&outer.expr).filter(|_| outer.op == AggregateOp::Count) else {
        return Ok(None);
    };
    let counted = matches!(
        inner.op,
        AggregateOp::Count | AggregateOp::Sum | AggregateOp::Min | AggregateOp::Max | AggregateOp::Avg
    );
    if !counted {
        return Ok(None);
    }
    let groups = written(AggregateOp::Group, &inner.grouping, &inner.expr);
    let shell = Aggregate { expr: outer.expr.clone(), ..(**outer).clone() };
    let rewrite = format!("{}({groups})", Aggregation(&shell));
    let message = format!("only the number of groups counts: group is cheaper than {}", inner.op.as_str());
    same("count-of-aggregation", expr, message, rewrite)
}

/// `x{a="1"} or x{a="2"}`.
pub(super) fn or_is_set(_: &Context<'_>, expr: &Expr, above: Option<&Expr>) -> Found {
    let is_or = |e: &Expr| matches!(&e.kind, ExprKind::Binary(b) if b.op == BinaryOp::Or);
    if !is_or(expr) || above.is_some_and(is_or) {
        return Ok(None);
    }
    let (mut selectors, mut rest): (Vec<&Selector>, &Expr) = (Vec::new(), expr);
    loop {
        let next = match &rest.kind {
            ExprKind::Binary(b) if b.op == BinaryOp::Or && b.matching.on.is_none() => {
                let ExprKind::Selector(right) = &bare(&b.right).kind else { return Ok(None) };
                selectors.push(right);
                &b.left
            }
            ExprKind::Selector(last) => {
                selectors.push(last);
                break;
            }
            _ => return Ok(None),
        };
        rest = bare(next);
    }
    selectors.reverse();
    let Some((set, label)) = joined(&selectors) else { return Ok(None) };
    let message = format!("{} selectors that differ in {label} alone are one", selectors.len());
    same("or-is-set", expr, message, Expr { kind: ExprKind::Selector(set), span: expr.span }.to_string())
}

/// Selectors that differ in one `=` as one with a set, and the label.
fn joined(selectors: &[&Selector]) -> Option<(Selector, String)> {
    let (first, rest) = selectors.split_first()?;
    let Filter::All(parts) = &first.filter else { return None };
    let mut place: Option<usize> = None;
    let mut texts = Vec::new();
    for other in rest {
        let Filter::All(others) = &other.filter else { return None };
        let alike = Selector { filter: first.filter.clone(), ..(*other).clone() } == **first;
        let apart: Vec<usize> =
            (0..parts.len().min(others.len())).filter(|&i| parts[i] != others[i]).collect();
        let [at] = apart[..] else { return None };
        if !alike || parts.len() != others.len() || place.is_some_and(|p| p != at) {
            return None;
        }
        place = Some(at);
        let Filter::Match(m) = &others[at] else { return None };
        texts.push(m);
    }
    let at = place?;
    let Filter::Match(m) = &parts[at] else { return None };
    let same_label = |o: &&metricsdb_model::Matcher| o.name == m.name && o.op == MatchOp::Equal;
    if m.op != MatchOp::Equal || !texts.iter().all(same_label) {
        return None;
    }
    let values = std::iter::once(m).chain(texts).map(|m| m.value.clone()).collect();
    let mut parts = parts.clone();
    parts[at] = Filter::In { label: m.name.clone(), negated: false, values };
    Some((Selector { filter: Filter::All(parts), ..(**first).clone() }, m.name.clone()))
}

fn is_absent(expr: &Expr) -> bool {
    call(expr).is_some_and(|c| {
        matches!(c.function.kernel, Kernel::Special(Special::Absent | Special::AbsentOverTime))
    })
}

/// `absent(x) > 0`: it is 1 or it is not there.
pub(super) fn absent_compared(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Binary(binary) = &expr.kind else { return Ok(None) };
    let Some(than) = number(&binary.right).filter(|_| is_absent(&binary.left)) else { return Ok(None) };
    let holds = match binary.op {
        BinaryOp::Equal => than == 1.0,
        BinaryOp::NotEqual => than != 1.0,
        BinaryOp::Greater => than < 1.0,
        BinaryOp::GreaterEqual => than <= 1.0,
        _ => false,
    };
    if !holds || binary.return_bool {
        return Ok(None);
    }
    same(
        "absent-compared",
        expr,
        "absent is 1, or is not there: there is nothing to compare",
        bare(&binary.left).to_string(),
    )
}

/// `absent(sum(x))`: the labels that the selector asks for are lost.
pub(super) fn absent_of_aggregation(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some(absent) = call(expr).filter(|_| is_absent(expr)) else { return Ok(None) };
    let Some(inner) = absent.args.first().and_then(aggregate) else { return Ok(None) };
    let ExprKind::Selector(_) = &bare(&inner.expr).kind else { return Ok(None) };
    let rewrite = format!("{}({})", absent.function.name, bare(&inner.expr));
    let message = "an aggregation hides which labels are asked for: absent of the selector answers with them";
    different("absent-of-aggregation", expr, message, rewrite)
}

/// The least value that an expression can have, where that is plain.
fn least(expr: &Expr) -> Option<f64> {
    match &bare(expr).kind {
        ExprKind::Aggregate(a) => match a.op {
            AggregateOp::Count | AggregateOp::Group => Some(1.0),
            AggregateOp::Stddev | AggregateOp::Stdvar => Some(0.0),
            AggregateOp::Sum | AggregateOp::Min | AggregateOp::Max | AggregateOp::Avg => {
                least(&a.expr).map(|v| v.min(0.0))
            }
            _ => None,
        },
        ExprKind::Call(c) => match c.function.name {
            "count_over_time" | "present_over_time" => Some(1.0),
            "rate" | "irate" | "increase" | "abs" | "sqrt" | "changes" | "resets" | "stddev_over_time"
            | "stdvar_over_time" | "exp" => Some(0.0),
            _ => None,
        },
        _ => None,
    }
}

/// `rate(x[5m]) >= 0`.
pub(super) fn filter_without_effect(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Binary(binary) = &expr.kind else { return Ok(None) };
    let (Some(least), Some(than)) = (least(&binary.left), number(&binary.right)) else { return Ok(None) };
    let holds = match binary.op {
        BinaryOp::GreaterEqual => least >= than,
        BinaryOp::Greater => least > than,
        _ => false,
    };
    if !holds || binary.return_bool {
        return Ok(None);
    }
    let message = format!("no value here is below {least}: the comparison filters nothing");
    same("filter-without-effect", expr, message, bare(&binary.left).to_string())
}

/// Sorting what is sorted again, or not at all.
pub(super) fn sort_without_effect(context: &Context<'_>, expr: &Expr, above: Option<&Expr>) -> Found {
    let ExprKind::Call(call) = &expr.kind else { return Ok(None) };
    let sorts = matches!(
        call.function.kernel,
        Kernel::Special(Special::Sort | Special::SortDesc | Special::SortByLabel | Special::SortByLabelDesc)
    );
    let Some(inner) = call.args.first().filter(|_| sorts) else { return Ok(None) };
    let message = match above {
        Some(_) => "only the order of the whole answer is seen",
        None if context.params.step.is_some() => "a range query orders its series by labels",
        None => return Ok(None),
    };
    same("sort-without-effect", expr, message, inner.to_string())
}

/// `by` a label that nearly every series has a value of its own for.
pub(super) fn high_cardinality_by(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Aggregate(outer) = &expr.kind else { return Ok(None) };
    let (Grouping::By(labels), None) = (&outer.grouping, &outer.param) else { return Ok(None) };
    let Some(selector) = only_selector(&outer.expr).filter(|_| !labels.is_empty()) else { return Ok(None) };
    let set = context.set(selector)?;
    let groups = context.grouped(&*set, &outer.grouping)?.len();
    if set.len() < SERIES_MIN || (groups as f64) < KEPT_SHARE * set.len() as f64 {
        return Ok(None);
    }
    let mut largest: Option<(usize, &String)> = None;
    for label in labels {
        let values = context.grouped(&*set, &Grouping::By(vec![label.clone()]))?.len();
        largest = largest.max(Some((values, label)));
    }
    let Some((values, label)) = largest else { return Ok(None) };
    let message =
        format!("by {label} leaves {groups} groups of {} series: it has {values} values", set.len());
    let fewer = Grouping::By(labels.iter().filter(|l| *l != label).cloned().collect());
    different("high-cardinality-by", expr, message, written(outer.op, &fewer, &outer.expr))
}

/// `histogram_quantile(0.9, sum by (job) (…))`: the buckets are gone.
pub(super) fn quantile_without_le(_: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Call(call) = &expr.kind else { return Ok(None) };
    let at = match call.function.name {
        "histogram_quantile" => 1,
        "histogram_fraction" => 2,
        _ => return Ok(None),
    };
    let Some(inner) = call.args.get(at).and_then(aggregate) else { return Ok(None) };
    let grouping = match &inner.grouping {
        Grouping::By(labels) if !labels.iter().any(|l| l == "le") => {
            Grouping::By(labels.iter().cloned().chain(["le".to_owned()]).collect())
        }
        Grouping::Without(labels) if labels.iter().any(|l| l == "le") => {
            Grouping::Without(labels.iter().filter(|l| *l != "le").cloned().collect())
        }
        _ => return Ok(None),
    };
    let args =
        call.args.iter().enumerate().map(|(i, arg)| {
            if i == at { written(inner.op, &grouping, &inner.expr) } else { arg.to_string() }
        });
    let rewrite = format!("{}({})", call.function.name, args.collect::<Vec<_>>().join(", "));
    different("quantile-without-le", expr, "the aggregation drops le, so there are no buckets", rewrite)
}

/// A part of the query that a recording rule computes.
pub(super) fn recorded(context: &Context<'_>, expr: &Expr, above: Option<&Expr>) -> Found {
    let inner = bare(expr);
    if context.around.rules.is_empty() || above.is_some_and(|e| std::ptr::eq(bare(e), inner)) {
        return Ok(None);
    }
    let text = inner.to_string();
    let answers = |rule: &&super::Rule| bare(&rule.expr).to_string() == text;
    if let Some(rule) = context.around.rules.iter().find(answers) {
        let message = format!("the recording rule {} has this already", rule.name);
        return same("recorded", inner, message, rule.name.clone());
    }
    let Some(outer) = aggregate(inner).filter(|a| a.param.is_none()) else { return Ok(None) };
    let folds = matches!(outer.op, AggregateOp::Sum | AggregateOp::Min | AggregateOp::Max);
    let finer = context.around.rules.iter().find(|rule| {
        aggregate(&rule.expr).is_some_and(|a| {
            a.op == outer.op
                && coarser(&outer.grouping, &a.grouping)
                && bare(&a.expr).to_string() == bare(&outer.expr).to_string()
        })
    });
    let Some(rule) = finer.filter(|_| folds) else { return Ok(None) };
    let shell = Aggregation(outer).to_string();
    let message = format!("the recording rule {} has finer groups of this", rule.name);
    same("recorded", inner, message, format!("{shell}({})", rule.name))
}
