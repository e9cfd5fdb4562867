//! MetricsQL's `default`, `if` and `ifnot`: gaps filled, and gaps made.
//!
//! A NaN is a gap here, as it is in MetricsQL, a histogram is none. What is one series without labels on the right holds for every
//! series on the left.

use std::sync::Arc;

use metricsdb_model::order::sort_by;
use metricsdb_model::{Budget, Error, Result};

use super::binary::map_rows;
use super::block::{ABSENT, Block, Vector};
use super::matching::{Matches, set_operator};
use super::scan::RowMap;
use super::{Evaluator, Value};
use crate::syntax::tree::{Binary, BinaryOp, Matching};

/// The right operand: one row for every series on the left, or series to be matched.
enum Right<'a> {
    One(Block<'a>),
    Series(Block<'a>),
}

impl<'a> Evaluator<'a> {
    #[inline(never)]
    pub(super) fn gap_operator(
        &self,
        binary: &Binary,
        left: Value<'a>,
        right: Value<'a>,
    ) -> Result<Value<'a>> {
        let op = binary.op;
        let strings = || Error::execution("operators do not take strings");
        let left = match (left, &right) {
            (Value::Scalar(a), Value::Scalar(b)) => {
                let values = a.iter().zip(b).map(|(&a, &b)| scalar(op, a, b));
                return Ok(Value::Scalar(values.collect()));
            }
            (Value::Scalar(a), _) => Vector::Block(Block::unlabelled(a)),
            (Value::Vector(vector), _) => vector,
            (Value::String(_), _) => return Err(strings()),
        };
        let right = match right {
            Value::Scalar(column) => Right::One(Block::unlabelled(column)),
            Value::Vector(vector) => right_side(vector.into_block(self.budget)?),
            Value::String(_) => return Err(strings()),
        };
        Ok(Value::Vector(match (op, right) {
            (BinaryOp::Default, right) => {
                Vector::Block(self.filled(left.into_block(self.budget)?, right, &binary.matching)?)
            }
            (_, Right::One(right)) => blanked(left, &right, op == BinaryOp::If, self.budget)?,
            (_, Right::Series(mut right)) => {
                for row in right.values.chunks_mut(right.steps) {
                    self.budget.check()?;
                    row.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = ABSENT);
                }
                right.drop_empty(self.budget)?;
                let as_set = if op == BinaryOp::If { BinaryOp::And } else { BinaryOp::Unless };
                let left = left.into_block(self.budget)?;
                Vector::Block(set_operator(as_set, left, right, &binary.matching, self.budget)?)
            }
        }))
    }

    /// The left series, their gaps filled from the right; if there is none at all, the right ones.
    fn filled(&self, mut left: Block<'a>, right: Right<'a>, matching: &Matching) -> Result<Block<'a>> {
        left.drop_empty(self.budget)?;
        let mut right = match (left.len(), right) {
            (0, Right::One(block) | Right::Series(block)) => return Ok(block),
            (_, Right::One(block)) => {
                for row in 0..left.len() {
                    self.budget.check()?;
                    fill(&mut left, row, &block, 0);
                }
                return Ok(left);
            }
            (_, Right::Series(block)) => block,
        };
        // Of several values the first in the order of the labels.
        let labels = right.labels_ready(self.budget)?.clone();
        let (matches, mut theirs) = (Matches::new(&left, &right, matching, self.budget)?, Vec::new());
        for found in matches.iter() {
            theirs.clear();
            theirs.extend_from_slice(found.right);
            sort_by(&mut theirs, self.budget, |&a, &b| labels[a as usize].cmp(&labels[b as usize]))?;
            for &l in found.left {
                for &r in &theirs {
                    self.budget.check()?;
                    fill(&mut left, l as usize, &right, r as usize);
                }
            }
        }
        Ok(left)
    }
}

fn scalar(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Default if left.is_nan() => right,
        BinaryOp::If if right.is_nan() => f64::NAN,
        BinaryOp::IfNot if !right.is_nan() => f64::NAN,
        _ => left,
    }
}

/// A single series whose labels are none, or go with its name at the end, holds for every other.
fn right_side(block: Block<'_>) -> Right<'_> {
    let bare = block.len() == 1 && {
        let labels = block.labels.get(0);
        let labels = if block.drop_name[0] { super::labels::drop_metadata(&labels) } else { labels };
        labels.iter().next().is_none()
    };
    if bare { Right::One(block) } else { Right::Series(block) }
}

fn is_gap(block: &Block<'_>, row: usize, step: usize) -> bool {
    block.row(row)[step].is_nan() && block.cells.get(row, step).is_none()
}

/// Puts what `from` has at row `of` where row `to` has a gap.
fn fill(block: &mut Block<'_>, to: usize, from: &Block<'_>, of: usize) {
    for step in 0..block.steps {
        if is_gap(block, to, step) && from.has(of, step) {
            block.put(to, step, from.row(of)[step], from.cells.get(of, step).cloned());
        }
    }
}

/// Keeps the steps at which the one row has a sample, or those at which it has a gap.
fn blanked<'a>(left: Vector<'a>, one: &Block<'_>, wanted: bool, budget: &Budget) -> Result<Vector<'a>> {
    let goes: Arc<[bool]> = (0..one.steps).map(|step| is_gap(one, 0, step) == wanted).collect();
    let of_numbers = goes.clone();
    let numbers = move |row: &mut [f64]| {
        row.iter_mut().zip(&of_numbers[..]).filter(|(_, goes)| **goes).for_each(|(v, _)| *v = ABSENT);
    };
    let map = RowMap::of_numbers(numbers).with_histograms(move |_, cells| {
        cells.iter_mut().zip(&goes[..]).filter(|(_, goes)| **goes).for_each(|(cell, _)| *cell = None);
    });
    map_rows(left, map, false, budget)
}
