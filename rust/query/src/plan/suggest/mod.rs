//! What is wasteful or wrong in a query, each with a text that is better, tried on the live data.
//!
//! A check looks at one node of the tree and writes down what it found; the rewrite replaces a stretch of the
//! query's text. Whether both answer the same, and what the rewrite saves, is found by evaluating them.

mod check;
mod look;
mod matchers;
mod shape;
mod time;

use metricsdb_model::{Budget, MetricType, Result, Source, Span};

use crate::exec::Params;
use crate::syntax::parse;
use crate::syntax::tree::Expr;
use look::{Context, every};

/// Whether a rewrite is to answer the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Same,
    /// It asks for something else, which is more likely what was meant.
    Different,
}

impl Meaning {
    pub fn as_str(self) -> &'static str {
        match self {
            Meaning::Same => "same",
            Meaning::Different => "different",
        }
    }
}

/// A recording rule: the expression that a series of this name holds.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub expr: Expr,
}

/// What is known beside the samples.
pub struct Surroundings<'s> {
    /// The declared type of a metric.
    pub kind_of: &'s (dyn Fn(&str) -> Option<MetricType> + Sync),
    pub rules: &'s [Rule],
    /// Whether to evaluate query and rewrites; else only bounds say what is saved.
    pub check: bool,
}

/// One thing that could be better.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    pub check: &'static str,
    pub message: String,
    /// The part of the text that it is about.
    pub span: Span,
    /// The whole query, rewritten; `None` where there is nothing better to write.
    pub rewrite: Option<String>,
    pub meaning: Meaning,
    /// Whether both answered the same; `None`: not tried, or one of them has no answer.
    pub same_answer: Option<bool>,
    /// The share of samples loaded and values made that the rewrite saves, from bounds; negative where it costs more.
    pub predicted_saving: Option<f64>,
    pub measured_saving: Option<f64>,
}

/// What a check wrote down.
pub(super) struct Finding {
    pub check: &'static str,
    pub message: String,
    pub span: Span,
    /// The text that takes the place of the one at `span`.
    pub rewrite: Option<String>,
    pub meaning: Meaning,
}

type Check = fn(&Context<'_>, &Expr, Option<&Expr>) -> Result<Option<Finding>>;

/// Every check; each looks at one node and at the one above it.
const CHECKS: &[Check] = &[
    matchers::regex_literal,
    matchers::regex_set,
    matchers::matcher_implied,
    matchers::matcher_contradiction,
    matchers::matcher_excludes_nothing,
    matchers::missing_name,
    matchers::selects_nothing,
    matchers::unanchored,
    shape::redundant_parentheses,
    shape::join_is_aggregation,
    shape::nested_aggregation,
    shape::count_of_aggregation,
    shape::or_is_set,
    shape::absent_compared,
    shape::absent_of_aggregation,
    shape::filter_without_effect,
    shape::sort_without_effect,
    shape::high_cardinality_by,
    shape::quantile_without_le,
    shape::recorded,
    time::rate_over_gauge,
    time::delta_over_counter,
    time::sum_inside_rate,
    time::range_too_short,
    time::subquery_too_fine,
    time::subquery_of_selector,
    time::topk_over_range,
    time::irate_in_long_steps,
];

/// Looks a query through. Reads some samples of the selected series; with `check` evaluates the query, and each
/// rewrite, once. Errors: the budget's, and storage's.
pub fn suggest(
    expr: &Expr,
    params: &Params<'_>,
    source: &dyn Source,
    budget: &Budget,
    around: &Surroundings<'_>,
) -> Result<Vec<Suggestion>> {
    let context = Context::new(expr, params, source, budget, around);
    let mut found: Vec<Finding> = Vec::new();
    for (expr, above) in every(expr) {
        budget.check()?;
        for check in CHECKS {
            let Some(finding) = check(&context, expr, above)? else { continue };
            if !found.iter().any(|f| f.check == finding.check && f.span == finding.span) {
                found.push(finding);
            }
        }
    }
    found.sort_by_key(|f| (f.span.start, f.span.end));
    let mut tried = check::Tried::new(expr, &context)?;
    found.into_iter().map(|finding| tried.suggestion(finding, &context)).collect()
}

/// The query with another text at `span`; `None` where that is no query.
fn spliced(text: &str, span: Span, new: &str) -> Option<(String, Expr)> {
    let before = text.get(..span.start as usize)?;
    let behind = text.get(span.end as usize..)?;
    // What stands in the place of the whole needs no blanks around it.
    let whole = format!("{before}{new}{behind}");
    let whole = whole.trim().to_owned();
    let expr = parse(&whole).ok()?;
    Some((whole, expr))
}
