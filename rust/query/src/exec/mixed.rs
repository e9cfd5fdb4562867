//! Binary operators where a side is a histogram.

use std::sync::Arc;

use metricsdb_model::{ResetHint, Span};

use super::block::ABSENT;
use super::cells::Cell;
use crate::annotations::{Note, Notes};
use crate::histogram::{Combined, FloatHistogram, Incompatible, Keep, Remark};
use crate::syntax::tree::BinaryOp;

/// Where the remarks of one expression go.
#[derive(Clone, Copy)]
pub(crate) struct Remarks<'a> {
    pub notes: &'a Notes<'a>,
    pub span: Span,
}

impl Remarks<'_> {
    pub fn add(&self, note: Note) {
        self.notes.add(note, self.span);
    }

    /// Of a metric, which may be "".
    pub fn all(&self, remarks: crate::histogram::Remarks, metric: impl Fn() -> String) {
        if !remarks.is_empty() {
            let metric = metric();
            remarks.iter().for_each(|remark| self.add(remark.note(&metric)));
        }
    }
}

/// What stands on one side of an operator.
#[derive(Clone, Copy)]
pub(crate) enum Sample<'s> {
    Number(f64),
    Histogram(&'s Arc<FloatHistogram>),
}

impl Sample<'_> {
    fn kind(self) -> &'static str {
        match self {
            Sample::Number(_) => "float",
            Sample::Histogram(_) => "histogram",
        }
    }
}

/// What an operator makes of two samples of which one at least is a histogram.
pub(crate) enum Outcome {
    /// The operator has no meaning for them.
    Undefined,
    /// A comparison.
    Test(bool),
    Histogram(FloatHistogram),
}

impl Outcome {
    /// The sample of the result: a comparison gives 1 or 0 with `bool`, and else filters the left side.
    pub fn finish(self, return_bool: bool, left: Sample<'_>) -> (f64, Cell) {
        match self {
            Outcome::Undefined => (ABSENT, None),
            Outcome::Test(holds) if return_bool => (f64::from(holds), None),
            Outcome::Test(false) => (ABSENT, None),
            Outcome::Test(true) => match left {
                Sample::Number(value) => (value, None),
                Sample::Histogram(histogram) => (ABSENT, Some(histogram.clone())),
            },
            Outcome::Histogram(histogram) => (ABSENT, Some(Arc::new(histogram))),
        }
    }
}

/// Applies an operator; what it has no meaning for is remarked on. Two numbers only come here to be trimmed.
pub(crate) fn operate(op: BinaryOp, left: Sample<'_>, right: Sample<'_>, remarks: &Remarks<'_>) -> Outcome {
    use Sample::{Histogram, Number};
    match (left, right, op) {
        (Histogram(h), Number(factor), BinaryOp::Mul) | (Number(factor), Histogram(h), BinaryOp::Mul) => {
            changed(h, |h| h.scale(factor))
        }
        (Histogram(h), Number(divisor), BinaryOp::Div) => changed(h, |h| h.divide(divisor)),
        (Histogram(h), Number(bound), BinaryOp::TrimUpper) => Outcome::Histogram(h.trim(bound, Keep::Below)),
        (Histogram(h), Number(bound), BinaryOp::TrimLower) => Outcome::Histogram(h.trim(bound, Keep::Above)),
        (Histogram(a), Histogram(b), BinaryOp::Add) => {
            let notes = [Remark::CollisionInAddition, Remark::ReconciledInAddition];
            combined(op, a, |sum| sum.add(b), notes, remarks)
        }
        (Histogram(a), Histogram(b), BinaryOp::Sub) => {
            let notes = [Remark::CollisionInSubtraction, Remark::ReconciledInSubtraction];
            let difference = |h: &mut FloatHistogram| {
                let combined = h.sub(b);
                h.reset = ResetHint::Gauge;
                combined
            };
            combined(op, a, difference, notes, remarks)
        }
        (Histogram(a), Histogram(b), BinaryOp::Equal) => Outcome::Test(a.same(b)),
        (Histogram(a), Histogram(b), BinaryOp::NotEqual) => Outcome::Test(!a.same(b)),
        _ => {
            let (left, operator, right) = (left.kind(), op.as_str(), right.kind());
            remarks.add(Note::IncompatibleTypes { left, operator, right });
            Outcome::Undefined
        }
    }
}

/// Whether the operator has an answer for these two. A pair without one counts as no match.
pub(crate) fn has_answer(op: BinaryOp, left: Sample<'_>, right: Sample<'_>) -> bool {
    use Sample::{Histogram, Number};
    let trims = matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
    match (left, right) {
        (Number(_), Number(_)) => !trims,
        (Histogram(_), Number(_)) => trims || matches!(op, BinaryOp::Mul | BinaryOp::Div),
        (Number(_), Histogram(_)) => op == BinaryOp::Mul,
        (Histogram(a), Histogram(b)) => match op {
            BinaryOp::Add | BinaryOp::Sub => a.is_custom() == b.is_custom(),
            _ => matches!(op, BinaryOp::Equal | BinaryOp::NotEqual),
        },
    }
}

fn changed(of: &FloatHistogram, change: impl Fn(&mut FloatHistogram)) -> Outcome {
    let mut changed = of.clone();
    change(&mut changed);
    changed.compact();
    Outcome::Histogram(changed)
}

fn combined(
    op: BinaryOp,
    left: &FloatHistogram,
    combine: impl Fn(&mut FloatHistogram) -> Result<Combined, Incompatible>,
    [collision, reconciled]: [Remark; 2],
    remarks: &Remarks<'_>,
) -> Outcome {
    let mut result = left.clone();
    let Ok(found) = combine(&mut result) else {
        remarks.add(Note::IncompatibleLayouts(op.as_str()));
        return Outcome::Undefined;
    };
    // As in Prometheus, these give nothing.
    if found.collision {
        remarks.add(collision.note(""));
        return Outcome::Undefined;
    }
    if found.reconciled {
        remarks.add(reconciled.note(""));
    }
    result.compact();
    Outcome::Histogram(result)
}
