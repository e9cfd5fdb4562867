//! EXPLAIN: the plan with its bounds; with ANALYZE beside what an evaluation counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metricsdb_model::{Answer, Budget, Result, Source, Span};

use super::cost::{Estimate, NodeCost, estimate};
use super::nodes::{Node, nodes, twins};
use crate::exec::profile::{Clock, Counters, Profile};
use crate::exec::{Params, evaluate_on};
use crate::syntax::tree::Expr;

/// What one node did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    pub series: u64,
    pub samples: u64,
    /// Encoded bytes of the chunks that were looked into.
    pub bytes: u64,
    pub values: u64,
    /// Rows that were answered from heads of chunks.
    pub heads: u64,
    pub nanos: u64,
    /// Names of codecs, and `heads` where heads sufficed.
    pub codec: String,
}

/// One line of a plan.
#[derive(Clone, Debug)]
pub struct PlanRow {
    pub id: usize,
    pub parent: Option<usize>,
    pub depth: usize,
    pub node: &'static str,
    pub detail: String,
    pub span: Span,
    pub estimated: NodeCost,
    /// `None` without ANALYZE.
    pub actual: Option<Actual>,
}

/// A plan; with ANALYZE the answer too, and what the whole query used.
pub struct Explained {
    pub rows: Vec<PlanRow>,
    pub estimate: Estimate,
    pub answer: Option<Answer>,
    /// Samples loaded, and the most values that one block held.
    pub samples: u64,
    pub held: u64,
    pub nanos: u64,
}

/// Bounds an expression, and evaluates it where a clock is given. Errors: those of `estimate` and `evaluate`.
pub fn explain(
    expr: &Expr,
    params: &Params<'_>,
    source: &dyn Source,
    budget: &Budget,
    clock: Option<Clock<'_>>,
) -> Result<Explained> {
    let bounds = estimate(expr, params, source, &budget.uncounted())?;
    let all = nodes(expr);
    let twins = twins(expr);
    let detail = |n: &Node<'_>| match twins.get(&n.id) {
        Some(Some(same)) => format!("{} (as node {same})", n.detail),
        _ => n.detail.clone(),
    };
    let mut rows: Vec<PlanRow> = all
        .iter()
        .map(|n| PlanRow {
            id: n.id,
            parent: n.parent,
            depth: n.depth,
            node: n.kind,
            detail: detail(n),
            span: n.span(),
            estimated: bounds.nodes.get(n.id).copied().unwrap_or_default(),
            actual: None,
        })
        .collect();
    let Some(clock) = clock else {
        return Ok(Explained { rows, estimate: bounds, answer: None, samples: 0, held: 0, nanos: 0 });
    };
    let places: HashMap<usize, usize> = all.iter().map(|n| (n.address(), n.id)).collect();
    let profile = Profile::new(clock, all.len(), places);
    let since = clock();
    let answer = evaluate_on(expr, params, source, budget, None, Some(&profile))?;
    let nanos = clock().saturating_sub(since);
    for (row, counters) in rows.iter_mut().zip(profile.counters()) {
        row.actual = Some(actual(counters));
    }
    let (samples, held) = (budget.samples_used(), budget.samples_peak());
    Ok(Explained { rows, estimate: bounds, answer: Some(answer), samples, held, nanos })
}

fn actual(counters: &Counters) -> Actual {
    let of = |n: &AtomicU64| n.load(Relaxed);
    let mut codecs = counters.codecs();
    if of(&counters.heads) > 0 {
        codecs.push("heads");
    }
    Actual {
        series: of(&counters.series),
        samples: of(&counters.samples),
        bytes: of(&counters.bytes),
        values: of(&counters.values),
        heads: of(&counters.heads),
        nanos: of(&counters.nanos),
        codec: codecs.join(", "),
    }
}
