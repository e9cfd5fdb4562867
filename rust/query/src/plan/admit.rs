//! Refusal by limit, before any work where that is certain, naming the part of the query that costs most.

use metricsdb_model::{Budget, Error, Result, Source};

use super::cost::{Estimate, estimate};
use super::nodes::nodes;
use crate::exec::Params;
use crate::function::Kernel;
use crate::syntax::tree::{Expr, ExprKind};

const REMEDY: &str =
    "narrow that selector or the time range, aggregate over a recorded series, or raise max_samples";

/// Refuses a query that is sure to load more samples than its budget allows. A query that might fit is let
/// through. Costs nothing where the store has fewer samples than the limit. Errors: `Costly`.
pub fn admit(expr: &Expr, params: &Params<'_>, source: &dyn Source, budget: &Budget) -> Result<()> {
    let limit = budget.samples_max();
    let Some(most) = source.samples_at_most() else { return Ok(()) };
    let selectors = count_selectors(expr);
    if most.saturating_mul(selectors) <= limit {
        return Ok(());
    }
    // Whatever is wrong with its times, the evaluation says so.
    let Ok(estimate) = estimate(expr, params, source, &budget.uncounted()) else { return budget.check() };
    match estimate.samples_min > limit {
        true => Err(Error::Costly {
            what: "samples loaded by one query",
            limit,
            needed: estimate.samples_min,
            part: costliest(expr, params, &estimate),
            remedy: REMEDY,
        }),
        false => Ok(()),
    }
}

/// An error of a limit on samples, with the part of the query that costs most; other errors as they are.
pub fn name_costly(
    error: Error,
    expr: &Expr,
    params: &Params<'_>,
    source: &dyn Source,
    budget: &Budget,
) -> Error {
    let Error::Limit { what, limit, needed, .. } = error else { return error };
    if !what.starts_with("samples") {
        return error;
    }
    match estimate(expr, params, source, &budget.uncounted()) {
        Ok(found) if found.bounded => {
            Error::Costly { what, limit, needed, part: costliest(expr, params, &found), remedy: REMEDY }
        }
        _ => error,
    }
}

/// Without a list of nodes: every query passes here.
fn count_selectors(expr: &Expr) -> u64 {
    let beneath = || expr.children().map(count_selectors).sum::<u64>();
    match &expr.kind {
        ExprKind::Selector(_) | ExprKind::Range { .. } => 1,
        // `info` reads series of its own, a rollup all of its argument for each of its parts.
        ExprKind::Call(call) => {
            let times = if let Kernel::Rollup(parts) = call.function.kernel { parts.len() as u64 } else { 1 };
            1 + times * beneath()
        }
        _ => beneath(),
    }
}

/// The selector with the most samples, or the node with the most values where that is more.
fn costliest(expr: &Expr, params: &Params<'_>, estimate: &Estimate) -> String {
    let all = nodes(expr);
    let weighed = all.iter().zip(&estimate.nodes);
    let Some((node, cost)) = weighed.max_by_key(|(_, cost)| cost.samples.max(cost.values)) else {
        return String::new();
    };
    let (line, column) = node.span().line_column(params.text);
    let (series, samples, values) = (grouped(cost.series), grouped(cost.samples), grouped(cost.values));
    let size = match cost.samples >= cost.values {
        true => format!("up to {samples} samples of {series} series"),
        false => format!("up to {values} values of {series} series"),
    };
    format!("the costliest part is {} at {line}:{column}, {size}", node.detail)
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
