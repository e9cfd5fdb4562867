//! Binary operators on values, and between vectors and scalars.

use std::sync::Arc;

use metricsdb_model::{Budget, Result};

use super::block::{ABSENT, Block, Vector, present};
use super::cells::bytes;
use super::mixed::{Remarks, Sample, operate};
use super::scan::{DropName, RowMap};
use crate::syntax::tree::{Binary, BinaryOp};

/// The arithmetic of an operator; `None` for comparisons and set operators.
pub(crate) fn arithmetic(op: BinaryOp) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Mod => |a, b| a % b,
        BinaryOp::Pow => f64::powf,
        BinaryOp::Atan2 => f64::atan2,
        _ => return None,
    })
}

/// The test of a comparison.
pub(crate) fn comparison(op: BinaryOp) -> Option<fn(f64, f64) -> bool> {
    Some(match op {
        BinaryOp::Equal => |a, b| a == b,
        BinaryOp::NotEqual => |a, b| a != b,
        BinaryOp::Greater => |a, b| a > b,
        BinaryOp::GreaterEqual => |a, b| a >= b,
        BinaryOp::Less => |a, b| a < b,
        BinaryOp::LessEqual => |a, b| a <= b,
        _ => return None,
    })
}

/// One pair of present values; `ABSENT` where a comparison filters the pair out.
pub(crate) fn apply(op: BinaryOp, return_bool: bool, a: f64, b: f64) -> f64 {
    if let Some(f) = arithmetic(op) {
        return f(a, b);
    }
    match comparison(op) {
        Some(f) if return_bool => f64::from(f(a, b)),
        Some(f) if f(a, b) => a,
        _ => ABSENT,
    }
}

/// Two scalars, step by step.
pub(crate) fn scalars(op: BinaryOp, mut a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = apply(op, true, *a, b);
    }
    a
}

/// `vector op scalar`, or `scalar op vector` with `swapped`; a filter keeps the vector's value. The metric
/// name goes if the value becomes another, unless it is kept.
pub(crate) fn with_scalar<'a>(
    binary: &Binary,
    swapped: bool,
    vector: Vector<'a>,
    scalar: Vec<f64>,
    remarks: Remarks<'a>,
    budget: &Budget,
) -> Result<Vector<'a>> {
    let (op, return_bool) = (binary.op, binary.return_bool);
    let scalar = Arc::new(scalar);
    let numbers = scalar.clone();
    let drops = (arithmetic(op).is_some() || return_bool) && !binary.keep_name;
    let map: RowMap<'a> = match (arithmetic(op), comparison(op)) {
        (Some(f), _) if swapped => each(numbers, move |v, s| f(s, v)),
        // The commonest ones are spelt out, so that the loop over a row becomes vector instructions.
        (Some(_), _) if op == BinaryOp::Mul => each(numbers, |v, s| v * s),
        (Some(_), _) if op == BinaryOp::Div => each(numbers, |v, s| v / s),
        (Some(_), _) if op == BinaryOp::Add => each(numbers, |v, s| v + s),
        (Some(_), _) if op == BinaryOp::Sub => each(numbers, |v, s| v - s),
        (Some(f), _) => each(numbers, f),
        (None, Some(f)) if return_bool => {
            each(numbers, move |v, s| f64::from(if swapped { f(s, v) } else { f(v, s) }))
        }
        (None, Some(_)) => match (op, swapped) {
            (BinaryOp::Greater, false) | (BinaryOp::Less, true) => filter(numbers, |v, s| v > s),
            (BinaryOp::Less, false) | (BinaryOp::Greater, true) => filter(numbers, |v, s| v < s),
            (BinaryOp::GreaterEqual, false) | (BinaryOp::LessEqual, true) => filter(numbers, |v, s| v >= s),
            (BinaryOp::LessEqual, false) | (BinaryOp::GreaterEqual, true) => filter(numbers, |v, s| v <= s),
            (BinaryOp::Equal, _) => filter(numbers, |v, s| v == s),
            _ => filter(numbers, |v, s| v != s),
        },
        (None, None) => each(numbers, move |v, s| {
            operate(op, Sample::Number(v), Sample::Number(s), &remarks);
            ABSENT
        }),
    };
    let map = map.with_histograms(move |values, cells| {
        for (step, cell) in cells.iter_mut().enumerate() {
            let Some(histogram) = cell.take() else { continue };
            let (left, right) = (Sample::Histogram(&histogram), Sample::Number(scalar[step]));
            let (left, right) = if swapped { (right, left) } else { (left, right) };
            let result = operate(op, left, right, &remarks).finish(return_bool, left);
            (values[step], *cell) = result;
        }
    });
    map_rows(vector, map, drops, budget)
}

fn each<'a>(scalar: Arc<Vec<f64>>, f: impl Fn(f64, f64) -> f64 + Send + Sync + 'a) -> RowMap<'a> {
    RowMap::of_numbers(move |row| {
        for (v, &s) in row.iter_mut().zip(&*scalar) {
            if present(*v) {
                *v = f(*v, s);
            }
        }
    })
}

/// What is absent stays so whether it is kept or not.
fn filter<'a>(scalar: Arc<Vec<f64>>, keeps: impl Fn(f64, f64) -> bool + Send + Sync + 'a) -> RowMap<'a> {
    RowMap::of_numbers(move |row| {
        for (v, &s) in row.iter_mut().zip(&*scalar) {
            *v = if keeps(*v, s) { *v } else { ABSENT };
        }
    })
}

/// Applies `map` to every row: at once to a block, later to rows that are not read yet.
pub(crate) fn map_rows<'a>(
    vector: Vector<'a>,
    map: RowMap<'a>,
    drops_name: bool,
    budget: &Budget,
) -> Result<Vector<'a>> {
    Ok(match vector {
        Vector::Rows(mut rows) => {
            rows.maps.push(map);
            if drops_name {
                rows.drop_name = DropName::All(true);
            }
            Vector::Rows(rows)
        }
        Vector::Block(mut block) => {
            for (i, row) in block.values.chunks_mut(block.steps).enumerate() {
                budget.check()?;
                match block.cells.row_mut(i) {
                    Some(cells) => {
                        budget.hold(bytes(cells))?;
                        map.apply(row, cells);
                    }
                    None => (map.numbers)(row),
                }
            }
            if drops_name {
                block.drop_name.fill(true);
            }
            block.drop_empty(budget)?;
            Vector::Block(block)
        }
    })
}

/// Keeps the present values of `block` where `keep` holds; for the set operators.
pub(crate) fn blank(
    block: &mut Block<'_>,
    budget: &Budget,
    keep: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    let steps = block.steps;
    for row in 0..block.len() {
        budget.check()?;
        for step in 0..steps {
            if !keep(row, step) {
                block.values[row * steps + step] = ABSENT;
            }
        }
    }
    block.cells.retain(&keep);
    block.drop_empty(budget)
}
