//! MetricsQL's `outliers_iqr`, `outliers_mad`, `outliersk`: whole series that stray from the others of their
//! group at some step of the grid. A NaN is a gap here, and so is a histogram.

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Grouping, Labels, Result};

use super::aggregate::groups_of;
use super::block::{ABSENT, Block, Vector};
use super::pick::members;
use crate::function::quantile::quantile;
use crate::syntax::tree::AggregateOp;

/// Reach of `outliers_iqr` beyond the quartiles, in distances between them.
const REACH: f64 = 1.5;

/// The series that stray. `parameter` is the tolerance or k at each step; unused without one.
pub(crate) fn outliers<'a>(
    op: AggregateOp,
    input: Vector<'a>,
    grouping: &Grouping,
    parameter: &[f64],
    budget: &Budget,
) -> Result<Block<'a>> {
    let input = Vector::Block(input.into_block(budget)?);
    let groups = groups_of(&input, grouping, budget)?;
    let mut block = input.into_block(budget)?;
    block.cells.clear();
    let members = members(&groups, budget)?;
    budget.hold(block.len())?;
    let mut kept = vec![true; block.len()];
    for rows in &members {
        budget.check()?;
        match op {
            AggregateOp::Outliersk => keep_farthest(&mut block, rows, parameter, budget)?,
            _ => {
                let bounds = bounds(op, &block, rows, parameter, budget)?;
                for row in rows.iter().map(|&row| row as usize) {
                    let mut values = block.row(row).iter().zip(&bounds);
                    kept[row] = values.any(|(v, (low, high))| v < low || v > high);
                }
            }
        }
    }
    block.retain(budget, |row| kept[row])?;
    block.drop_empty(budget)?;
    block.ordered = false;
    Ok(block)
}

/// The values of the rows at a step, without gaps.
fn column(block: &Block<'_>, rows: &[u32], step: usize) -> Vec<f64> {
    rows.iter().map(|&row| block.row(row as usize)[step]).filter(|v| !v.is_nan()).collect()
}

/// What is no outlier, at each step; NaN bounds make none of anything.
fn bounds(
    op: AggregateOp,
    block: &Block<'_>,
    rows: &[u32],
    tolerance: &[f64],
    budget: &Budget,
) -> Result<Vec<(f64, f64)>> {
    let at = |step: usize| {
        budget.check()?;
        let mut values = column(block, rows, step);
        if op == AggregateOp::OutliersIqr {
            let (low, high) = (quantile(0.25, &mut values), quantile(0.75, &mut values));
            let reach = REACH * (high - low);
            return Ok((low - reach, high + reach));
        }
        let median = quantile(0.5, &mut values);
        values.iter_mut().for_each(|v| *v = (*v - median).abs());
        let reach = tolerance[step] * quantile(0.5, &mut values);
        Ok((median - reach, median + reach))
    };
    (0..block.steps).map(at).collect()
}

/// Blanks all but the k series that are farthest from the medians, by the sum of squares over all steps.
fn keep_farthest(block: &mut Block<'_>, rows: &[u32], k: &[f64], budget: &Budget) -> Result<()> {
    let mut medians = Vec::with_capacity(block.steps);
    for step in 0..block.steps {
        budget.check()?;
        medians.push(quantile(0.5, &mut column(block, rows, step)));
    }
    budget.hold(rows.len() * size_of::<(f64, Labels, usize)>())?;
    let mut ranked: Vec<(f64, Labels, usize)> = Vec::with_capacity(rows.len());
    for row in rows.iter().map(|&row| row as usize) {
        budget.check()?;
        let apart = block.row(row).iter().zip(&medians).map(|(v, m)| v - m).filter(|d| !d.is_nan());
        ranked.push((apart.map(|d| d * d).sum(), block.labels.get(row), row));
    }
    sort_owned(&mut ranked, budget, |a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)))?;
    for (rank, (_, _, row)) in ranked.into_iter().enumerate() {
        budget.check()?;
        for (v, k) in block.row_mut(row).iter_mut().zip(k) {
            if rank as f64 + 1.0 > k.trunc() {
                *v = ABSENT;
            }
        }
    }
    Ok(())
}
