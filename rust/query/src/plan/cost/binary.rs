//! Bounds of operators between two operands.

use metricsdb_model::Result;

use super::{Out, Walk};
use crate::exec::grid::Grid;
use crate::plan::nodes::bare;
use crate::syntax::tree::{Binary, BinaryOp, Cardinality, Expr, ExprKind};

impl Walk<'_> {
    pub(super) fn binary(&mut self, binary: &Binary, grid: &Grid) -> Result<Out> {
        let steps = grid.steps as u64;
        let literal = Out { scalar: true, held: steps, peak: steps, ..Out::default() };
        let side = |walk: &mut Self, expr: &Expr| match &bare(expr).kind {
            ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => Ok(literal),
            _ => walk.node(expr, grid),
        };
        let mut left = side(self, &binary.left)?;
        let mut right = side(self, &binary.right)?;
        let apart = left.peak.max(left.held.saturating_add(right.peak));
        if binary.op.is_gap() {
            return Ok(self.gap(binary, left, right, grid.steps));
        }
        match (left.scalar, right.scalar) {
            (true, true) => Ok(Out { peak: apart, ..literal }),
            // The maps run in place.
            (false, true) => Ok(Out { peak: apart, ..left }),
            (true, false) => Ok(Out { peak: apart, ..right }),
            (false, false) => {
                self.hold(&mut left, grid.steps);
                self.hold(&mut right, grid.steps);
                let mut out = paired(binary, &left, &right);
                out.held = out.size(steps);
                let both = left.held.saturating_add(right.held).saturating_add(out.held);
                out.peak = apart.max(both);
                Ok(out)
            }
        }
    }

    /// `default`, `if` and `ifnot`: the left rows; for `default` the right ones where there are none on the left.
    fn gap(&mut self, binary: &Binary, mut left: Out, mut right: Out, steps: usize) -> Out {
        let apart = left.peak.max(left.held.saturating_add(right.peak));
        let column = right.scalar;
        if left.scalar && column {
            return Out { peak: apart, ..left };
        }
        let fills = binary.op == BinaryOp::Default;
        if column && !fills {
            return Out { peak: apart, ..left };
        }
        for side in [&mut left, &mut right] {
            if side.scalar {
                (side.series, side.scalar) = (1, false);
            }
            self.hold(side, steps);
        }
        let mut out = Out { series: left.series, width: left.width, ..Out::default() };
        if fills {
            out.series = left.series.max(right.series);
            out.width = left.width.saturating_add(right.width.saturating_mul(left.series.max(1)));
        }
        out.held = out.size(steps as u64);
        out.peak = apart.max(left.held.saturating_add(right.held).saturating_add(out.held));
        out
    }
}

/// Rows of an operator between two vectors, and their histograms.
fn paired(binary: &Binary, left: &Out, right: &Out) -> Out {
    use crate::syntax::tree::BinaryOp::{And, Or, Unless};
    match binary.op {
        And | Unless => return Out { series: left.series, width: left.width, ..Out::default() },
        Or => {
            let width = left.width.saturating_add(right.width);
            return Out { series: left.series.saturating_add(right.series), width, ..Out::default() };
        }
        _ => {}
    }
    let matching = &binary.matching;
    let (many, one) = if matching.card == Cardinality::OneToMany { (right, left) } else { (left, right) };
    let mut series =
        if matching.include.is_empty() { many.series } else { many.series.saturating_mul(one.series) };
    if matching.fill_right.is_some() {
        series = series.saturating_add(many.series);
    }
    if matching.fill_left.is_some() {
        series = series.saturating_add(one.series);
    }
    let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
    if one.series == 0 && !filled {
        return Out::default();
    }
    // Where rows of one match keep apart, each may meet all rows of the other side, one after the other.
    let apart = matching.card != Cardinality::OneToOne || binary.keep_name;
    let times = if apart { many.series.max(1) } else { 1 };
    let width = many.width.saturating_add(one.width.saturating_mul(times));
    Out { series, width, ..Out::default() }
}
