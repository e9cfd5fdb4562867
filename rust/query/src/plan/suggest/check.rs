//! A rewrite tried out: whether it answers the same, and what it saves.

use std::collections::HashMap;

use metricsdb_model::{Answer, Error, Labels, Result};

use super::look::Context;
use super::{Finding, Suggestion, spliced};
use crate::exec::Params;
use crate::plan::cost::estimate_with;
use crate::plan::explain::explain;
use crate::syntax::tree::Expr;

/// Values may differ by this share: sums are made in another order.
const TOLERANCE: f64 = 1e-9;

/// The query itself: its cost and its answer.
pub(super) struct Tried {
    bound: Option<u64>,
    measured: Option<(u64, Answer)>,
}

/// Samples loaded and values made, at most; `None` where storage can't bound it.
fn bounded(expr: &Expr, params: &Params<'_>, context: &Context<'_>) -> Option<u64> {
    let found = estimate_with(expr, params, context.source, &context.budget.fresh(), true).ok()?;
    let costs = found.nodes.iter().map(|n| n.samples.saturating_add(n.values));
    found.bounded.then(|| costs.fold(0, u64::saturating_add))
}

/// The same as it was counted, and the answer; `None` where there is none.
fn measured(expr: &Expr, params: &Params<'_>, context: &Context<'_>) -> Result<Option<(u64, Answer)>> {
    let still = || 0;
    match explain(expr, params, context.source, &context.budget.fresh(), Some(&still)) {
        Ok(explained) => {
            let actual = explained.rows.iter().filter_map(|r| r.actual.as_ref());
            let cost = actual.map(|a| a.samples + a.values).sum();
            Ok(explained.answer.map(|answer| (cost, answer)))
        }
        Err(
            error @ (Error::Cancelled | Error::Killed | Error::Timeout { .. } | Error::Corruption { .. }),
        ) => Err(error),
        Err(_) => Ok(None),
    }
}

fn saving(before: u64, after: u64) -> Option<f64> {
    (before > 0).then(|| 1.0 - after as f64 / before as f64)
}

impl Tried {
    pub fn new(expr: &Expr, context: &Context<'_>) -> Result<Tried> {
        let measured = if context.around.check { measured(expr, context.params, context)? } else { None };
        Ok(Tried { bound: bounded(expr, context.params, context), measured })
    }

    pub fn suggestion(&mut self, finding: Finding, context: &Context<'_>) -> Result<Suggestion> {
        let Finding { check, message, span, rewrite, meaning } = finding;
        let mut suggestion = Suggestion {
            check,
            message,
            span,
            rewrite: None,
            meaning,
            same_answer: None,
            predicted_saving: None,
            measured_saving: None,
        };
        let Some((text, expr)) = rewrite.and_then(|new| spliced(context.params.text, span, &new)) else {
            return Ok(suggestion);
        };
        let params = Params { text: &text, ..*context.params };
        suggestion.predicted_saving = bounded(&expr, &params, context)
            .zip(self.bound)
            .and_then(|(after, before)| saving(before, after));
        if let Some((before, answer)) = &self.measured
            && let Some((after, other)) = measured(&expr, &params, context)?
        {
            suggestion.same_answer = Some(is_same(answer, &other));
            suggestion.measured_saving = saving(*before, after);
        }
        suggestion.rewrite = Some(text);
        Ok(suggestion)
    }
}

/// Whether two answers say the same, whatever the order of their series.
fn is_same(a: &Answer, b: &Answer) -> bool {
    let known: HashMap<&Labels, (&[i64], &[f64])> =
        a.matrix.rows().map(|(labels, times, values)| (labels, (times, values))).collect();
    let close = |a: f64, b: f64| {
        a.to_bits() == b.to_bits()
            || (a.is_nan() && b.is_nan())
            || a == b
            || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
    };
    a.kind == b.kind
        && a.matrix.len() == b.matrix.len()
        && b.matrix.rows().all(|(labels, times, values)| {
            known.get(labels).is_some_and(|(other_times, others)| {
                *other_times == times && others.iter().zip(values).all(|(a, b)| close(*a, *b))
            })
        })
}
