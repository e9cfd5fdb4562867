//! An SLO as the alerts that it means: nothing but PromQL.

use metricsdb_model::Result;

use crate::syntax::literal::format_duration;
use crate::syntax::parse;
use crate::syntax::statement::{Alert, Body, Burn, Condition, Slo};
use crate::syntax::tree::{Duration, DurationExpr, Expr, ExprKind};

/// An alert a burn rate, called as the SLO, with the labels `severity` and `window`. Both windows must burn faster
/// than `rate` times what would spend the budget at the end of the SLO's time.
pub fn burns(slo: &Slo) -> Result<Vec<Alert>> {
    slo.burns.iter().map(|burn| alert(slo, burn)).collect()
}

fn alert(slo: &Slo, burn: &Burn) -> Result<Alert> {
    // In decimals, so that 99.9 % is 0.999 and not a neighbour.
    let target: f64 = format!("{}e-2", slo.target).parse().unwrap_or(slo.target / 100.0);
    let side = |window_ms| {
        let (bad, total) = (in_window(&slo.bad, window_ms), in_window(&slo.total, window_ms));
        format!("({bad}) / ({total}) > {} * (1 - {target})", burn.rate)
    };
    let fire = parse(&format!("{} and {}", side(burn.long_ms), side(burn.short_ms)))?;
    let mut clauses = burn.clauses.clone();
    let labels = clauses.own.labels.get_or_insert_default();
    for (name, text) in [("severity", burn.level.clone()), ("window", format_duration(burn.long_ms))] {
        if labels.iter().all(|(known, _)| known != name) {
            labels.push((name.to_owned(), text));
        }
    }
    let body = Body::Single(Box::new(Condition { fire, damp: burn.damp, clear: None }));
    Ok(Alert { name: slo.name.clone(), by: None, clauses, body, span: burn.span })
}

/// The expression with `$w` known.
fn in_window(expr: &Expr, ms: i64) -> Expr {
    let mut expr = expr.clone();
    replace(&mut expr, ms);
    expr
}

fn replace(expr: &mut Expr, ms: i64) {
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => {}
        ExprKind::Selector(selector) => selector.offset.iter_mut().for_each(|d| known(d, ms)),
        ExprKind::Range { selector, range } => {
            known(range, ms);
            selector.offset.iter_mut().for_each(|d| known(d, ms));
        }
        ExprKind::Subquery { expr, range, step, offset, .. } => {
            replace(expr, ms);
            known(range, ms);
            step.iter_mut().chain(offset).for_each(|d| known(d, ms));
        }
        ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => replace(inner, ms),
        ExprKind::Binary(binary) => {
            replace(&mut binary.left, ms);
            replace(&mut binary.right, ms);
        }
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.iter_mut().for_each(|param| replace(param, ms));
            replace(&mut aggregate.expr, ms);
        }
        ExprKind::Call(call) => call.args.iter_mut().for_each(|arg| replace(arg, ms)),
    }
}

fn known(duration: &mut Duration, ms: i64) {
    if let Duration::Expr(expr) = duration {
        match **expr {
            DurationExpr::Window => *duration = Duration::Ms(ms),
            _ => put(expr, ms),
        }
    }
}

fn put(expr: &mut DurationExpr, ms: i64) {
    match expr {
        DurationExpr::Window => *expr = DurationExpr::Seconds(ms as f64 / 1e3),
        DurationExpr::Negate(inner) | DurationExpr::Plus(inner) | DurationExpr::Paren(inner) => {
            put(inner, ms)
        }
        DurationExpr::Min(a, b) | DurationExpr::Max(a, b) => {
            put(a, ms);
            put(b, ms);
        }
        DurationExpr::Binary { left, right, .. } => {
            put(left, ms);
            put(right, ms);
        }
        DurationExpr::Seconds(_) | DurationExpr::Number(_) | DurationExpr::Step | DurationExpr::Range => {}
    }
}
