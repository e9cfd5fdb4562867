//! From the last value to the answer: metric names dropped, rows in order, gaps left out.

use std::iter;
use std::sync::Arc;

use metricsdb_model::order::{sort_by, sort_owned};
use metricsdb_model::{AnswerKind, Budget, Error, Freed, Histogram, Labels, Layout, Matrix, Result, Samples};

use super::block::{Block, present};
use super::cells::Cell;
use super::grid::{CELLS_PER_CHECK, Grid};
use super::labels::drop_metadata;
use super::native::{Histograms, read_histograms};
use super::profile::Probe;
use super::{Evaluator, Ranges, Value, refuse_range_query};
use crate::histogram::FloatHistogram;
use crate::syntax::tree::{Expr, ValueType};

/// A histogram in an answer, its place and its layout: all but its buckets.
const MODEL_BYTES: usize = size_of::<(usize, Histogram)>() + size_of::<Layout>() + 64;

/// So many label sets are sorted by comparing them.
const FEW_SETS: usize = 16;

type Parts = (AnswerKind, Matrix, Option<String>);
/// A series in a range: its numbers, and its histograms with their times.
type Window = (Labels, Samples, Vec<i64>, Vec<Arc<FloatHistogram>>);

impl<'a> Evaluator<'a> {
    pub(super) fn answer(&self, expr: &Expr) -> Result<Parts> {
        match self.params.step {
            None => self.answer_instant(expr),
            Some(step) => self.answer_range(expr, step),
        }
    }

    fn answer_instant(&self, expr: &Expr) -> Result<Parts> {
        let grid = Grid::instant(self.params.start);
        if expr.value_type() == ValueType::Matrix {
            let matrix = self.windows(self.ranges(expr, &grid)?)?;
            return Ok((AnswerKind::Matrix, matrix, None));
        }
        match self.eval(expr, &grid)? {
            Value::String(text) => {
                let mut matrix = Matrix::default();
                push_row(&mut matrix, Labels::empty(), &grid, &[f64::NAN], &[]);
                Ok((AnswerKind::String, matrix, Some(text)))
            }
            Value::Scalar(values) => {
                let mut matrix = Matrix::default();
                push_row(&mut matrix, Labels::empty(), &grid, &values, &[]);
                Ok((AnswerKind::Scalar, matrix, None))
            }
            Value::Vector(vector) => {
                let matrix = self.finish(vector.into_block(self.budget)?, &grid)?;
                Ok((AnswerKind::Vector, matrix, None))
            }
        }
    }

    fn answer_range(&self, expr: &Expr, step: i64) -> Result<Parts> {
        let found = expr.value_type();
        if matches!(found, ValueType::Matrix | ValueType::String) {
            return Err(refuse_range_query(found));
        }
        let Some(grid) = Grid::new(self.params.start, self.params.end, step)? else {
            return Err(Error::input(
                "end",
                &self.params.end.to_string(),
                "lies before the start",
                "swap start and end",
            ));
        };
        let block = match self.eval(expr, &grid)? {
            Value::Scalar(values) => Block::unlabelled(values),
            Value::Vector(vector) => vector.into_block(self.budget)?,
            Value::String(_) => return Err(refuse_range_query(ValueType::String)),
        };
        Ok((AnswerKind::Matrix, self.finish(block, &grid)?, None))
    }

    /// The samples of a range vector at one step, as they are.
    fn windows(&self, ranges: Ranges<'a>) -> Result<Matrix> {
        let mut found: Vec<Window> = Vec::new();
        let reach = ranges.looks.reach(ranges.range);
        for row in 0..ranges.set.len() {
            let mut samples = Samples::default();
            let since = ranges.probe.as_deref().map_or(0, Probe::now);
            ranges.set.read(row, reach, &mut samples)?;
            self.budget.take_samples(samples.len() as u64)?;
            let (mut native, mut cost) = (Histograms::default(), 0);
            if ranges.set.has_histograms(row) {
                (native, cost) =
                    read_histograms(&*ranges.set, row, reach, ranges.hints, &samples, self.budget)?;
            }
            if let Some(probe) = &ranges.probe {
                probe.read(&*ranges.set, row, reach, samples.len() + cost as usize, since);
            }
            samples.drop_stale(0);
            let seen = samples.len() as u64 + native.cost();
            self.budget.visits().iter().for_each(|visits| visits.add(0, seen));
            let held = size_of::<Window>() + 16 * 2 * samples.len() + native.bytes();
            let (times, histograms) = native.without_stale();
            if samples.is_empty() && histograms.is_empty() {
                continue;
            }
            let labels = ranges.set.labels(row);
            let drops = ranges.drop_name.of(row);
            self.budget.hold(held + labels.heap_bytes())?;
            found.push((if drops { drop_metadata(&labels) } else { labels }, samples, times, histograms));
        }
        sort_owned(&mut found, self.budget, |a, b| a.0.cmp(&b.0))?;
        let total: usize = found.iter().map(|(_, samples, times, _)| samples.len() + times.len()).sum();
        let mut matrix = self.matrix(found.len(), total)?;
        for (labels, samples, times, histograms) in found {
            self.budget.check()?;
            let mut numbers = samples.timestamps.into_iter().zip(samples.values).peekable();
            for (t, histogram) in times.into_iter().zip(histograms) {
                while let Some((at, value)) = numbers.next_if(|(at, _)| *at < t) {
                    matrix.timestamps.push(at);
                    matrix.values.push(value);
                }
                matrix.push_histogram(t, histogram.to_model());
            }
            for (at, value) in numbers {
                matrix.timestamps.push(at);
                matrix.values.push(value);
            }
            matrix.end_row(labels);
        }
        Ok(matrix)
    }
}

impl<'a> Evaluator<'a> {
    fn finish(&self, mut block: Block<'a>, grid: &Grid) -> Result<Matrix> {
        let budget = self.budget;
        if block.drop_name.iter().any(|&drops| drops) {
            let drops = std::mem::take(&mut block.drop_name);
            for (labels, _) in block.labels_ready(budget)?.iter_mut().zip(&drops).filter(|(_, drops)| **drops)
            {
                budget.check()?;
                *labels = drop_metadata(labels);
            }
            block.drop_name = vec![false; drops.len()];
        }
        let labels = block.labels_ready(budget)?;
        let mut order = order_by_labels(labels, budget)?;
        if has_equal(labels, &order, budget)? {
            block = block.merge_equal(budget)?;
            order = order_by_labels(block.labels_ready(budget)?, budget)?;
        }
        if block.ordered && grid.steps == 1 {
            order.sort_unstable();
        }
        let mut labels = Freed(std::mem::take(block.labels_ready(budget)?));
        let mut samples = 0;
        for row in block.values.chunks(CELLS_PER_CHECK) {
            budget.check()?;
            samples += row.iter().filter(|v| present(**v)).count();
        }
        let histograms = block.cells.count();
        samples += histograms;
        // Each as the model has it, and its place.
        budget.hold(block.cells.bytes() + histograms * MODEL_BYTES)?;
        let mut matrix = self.matrix(order.len(), samples)?;
        matrix.histograms.reserve_exact(histograms);
        for row in order {
            if let Err(ended) = budget.check() {
                drop(Freed(matrix.labels));
                return Err(ended);
            }
            let at = row as usize;
            let its = std::mem::take(&mut labels.0[at]);
            push_row(&mut matrix, its, grid, block.row(at), block.cells.row(at));
        }
        Ok(matrix)
    }

    /// An empty matrix with room for so much.
    fn matrix(&self, rows: usize, samples: usize) -> Result<Matrix> {
        let row = size_of::<Labels>() + size_of::<usize>();
        self.budget.hold(rows * row + samples * (size_of::<i64>() + size_of::<f64>()))?;
        let mut matrix = Matrix::default();
        matrix.labels.reserve_exact(rows);
        matrix.offsets.reserve_exact(rows);
        matrix.timestamps.reserve_exact(samples);
        matrix.values.reserve_exact(samples);
        Ok(matrix)
    }
}

/// Rows in the order of their labels, eight bytes at a time: by those behind what all sets begin with, and where they
/// are the same, by those behind what these few begin with.
fn order_by_labels(labels: &[Labels], budget: &Budget) -> Result<Vec<u32>> {
    budget.hold(labels.len() * (2 * size_of::<(u64, u32)>() + size_of::<u32>()))?;
    let mut order: Vec<(u64, u32)> = (0..labels.len() as u32).map(|row| (0, row)).collect();
    let mut runs: Vec<_> = iter::once(0..order.len()).collect();
    let mut keyed = Vec::new();
    while let Some(run) = runs.pop() {
        let common = common(labels, &order[run.clone()], budget)?;
        keyed.clear();
        for (i, &(_, row)) in order[run.clone()].iter().enumerate() {
            budget.check_at(i)?;
            keyed.push((labels[row as usize].order_key(common), row));
        }
        sort_by(&mut keyed, budget, |a, b| a.0.cmp(&b.0))?;
        let mut from = run.start;
        order[run].copy_from_slice(&keyed);
        for alike in keyed.chunk_by(|a, b| a.0 == b.0) {
            let run = from..from + alike.len();
            from = run.end;
            match alike.len() {
                1 => {}
                2..=FEW_SETS => order[run].sort_by(|a, b| labels[a.1 as usize].cmp(&labels[b.1 as usize])),
                // What is alike behind all that is common is the same.
                many if many == keyed.len() => {}
                _ => runs.push(run),
            }
        }
    }
    Ok(order.into_iter().map(|(_, row)| row).collect())
}

/// How many bytes the label sets of some rows begin with alike.
fn common(labels: &[Labels], rows: &[(u64, u32)], budget: &Budget) -> Result<usize> {
    let Some((first, others)) = rows.split_first().map(|((_, row), rest)| (&labels[*row as usize], rest))
    else {
        return Ok(0);
    };
    let mut shared = first.as_ref().canonical();
    for (i, &(_, row)) in others.iter().enumerate() {
        budget.check_at(i)?;
        let other = &labels[row as usize];
        if !other.as_ref().canonical().starts_with(shared) {
            shared = &shared[..first.common(other)];
        }
    }
    Ok(shared.len())
}

/// Whether two rows that follow each other in `order` have the same labels.
fn has_equal(labels: &[Labels], order: &[u32], budget: &Budget) -> Result<bool> {
    for (i, pair) in order.windows(2).enumerate() {
        budget.check_at(i)?;
        if labels[pair[0] as usize] == labels[pair[1] as usize] {
            return Ok(true);
        }
    }
    Ok(false)
}

fn push_row(matrix: &mut Matrix, labels: Labels, grid: &Grid, values: &[f64], cells: &[Cell]) {
    for (step, &v) in values.iter().enumerate().filter(|(_, v)| cells.is_empty() && present(**v)) {
        matrix.timestamps.push(grid.time(step));
        matrix.values.push(v);
    }
    for (step, (cell, &v)) in cells.iter().zip(values).enumerate() {
        if let Some(histogram) = cell {
            matrix.push_histogram(grid.time(step), histogram.to_model());
        } else if present(v) {
            matrix.timestamps.push(grid.time(step));
            matrix.values.push(v);
        }
    }
    matrix.end_row(labels);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_stand_in_the_order_of_their_labels(
            sets in prop::collection::vec(prop::collection::btree_map("[ab]{1,9}", "[01\u{e9}]{1,20}", 0..4), 0..300),
            name in "[a-z]{0,30}",
        ) {
            let labels: Vec<Labels> = sets
                .iter()
                .map(|set| {
                    let pairs = set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                    Labels::from_pairs(pairs.chain([("__name__", name.as_str())])).unwrap()
                })
                .collect();
            let order = order_by_labels(&labels, &Budget::unlimited()).unwrap();
            let mut sorted: Vec<u32> = (0..labels.len() as u32).collect();
            sorted.sort_by(|&a, &b| labels[a as usize].cmp(&labels[b as usize]));
            prop_assert_eq!(order, sorted);
        }
    }
}
