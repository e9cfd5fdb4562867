//! What a query's own times decide: durations, `@`, and which parts are the same at every step.

use metricsdb_model::Result;

use crate::function::{Kernel, Special};
use crate::syntax::tree::{AggregateOp, At, BinaryOp, Call, Duration, Expr, ExprKind};

/// The times that were asked for, in milliseconds; they hold for subqueries too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryTimes {
    pub start: i64,
    pub end: i64,
    /// 0 for an instant query.
    pub step: i64,
}

impl QueryTimes {
    pub fn at(&self, at: &At) -> i64 {
        match at {
            At::Time(t) => *t,
            At::Start => self.start,
            At::End => self.end,
        }
    }

    /// Milliseconds of an offset: any sign.
    pub fn offset(&self, offset: &Option<Duration>) -> Result<i64> {
        offset.as_ref().map_or(Ok(0), |duration| duration.resolve(self.step, self.range()))
    }

    /// Milliseconds of a range or a step: more than none.
    pub fn positive(&self, duration: &Duration) -> Result<i64> {
        duration.resolve_positive(self.step, self.range())
    }

    pub fn range(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }
}

/// True when the value is the same at every step, because `@` pins all that is read, and one step is enough
/// to know it.
pub(crate) fn is_step_invariant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => selector.at.is_some(),
        ExprKind::Subquery { at, .. } => at.is_some(),
        ExprKind::Call(call) if reads_steps(call) => false,
        _ => expr.children().all(is_step_invariant),
    }
}

/// Whether the value of this node at one step depends on what other steps there are.
pub(crate) fn reads_whole_grid(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Call(call) => matches!(call.function.kernel, Kernel::Grid(_)),
        ExprKind::Binary(binary) => binary.op == BinaryOp::Default,
        ExprKind::Aggregate(aggregate) => {
            use AggregateOp::{OutliersIqr, OutliersMad, Outliersk};
            matches!(aggregate.op, OutliersIqr | OutliersMad | Outliersk)
        }
        _ => false,
    }
}

/// The same of this node, or of any below it outside of subqueries.
pub(crate) fn holds_whole_grid(expr: &Expr) -> bool {
    let subquery = matches!(expr.kind, ExprKind::Subquery { .. });
    reads_whole_grid(expr) || (!subquery && expr.children().any(holds_whole_grid))
}

/// Functions whose value depends on the evaluation time, or on how many steps there are, even when their
/// arguments do not.
fn reads_steps(call: &Call) -> bool {
    match call.function.kernel {
        Kernel::Special(Special::Time | Special::Timestamp | Special::StartTimestamp) => true,
        // A date function without its argument is one of the evaluation time.
        Kernel::Map(_) => call.function.args.len() > call.args.len() && call.args.is_empty(),
        Kernel::Window(_) => call.function.name == "predict_linear",
        // A sum over the range grows with its steps.
        Kernel::Grid(_) => true,
        Kernel::Special(_) | Kernel::Rollup(_) => false,
    }
}
