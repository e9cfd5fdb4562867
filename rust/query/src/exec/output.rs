//! From the last value to the answer: metric names dropped, rows in order, gaps left out.

use metricsdb_model::{AnswerKind, Error, Labels, Matrix, Result, Samples};

use super::block::{Block, present};
use super::cells::Cell;
use super::grid::Grid;
use super::labels::drop_metadata;
use super::native::{Histograms, read_histograms};
use super::profile::Probe;
use super::scan::DropName;
use super::{Evaluator, Ranges, Value, refuse_range_query};
use crate::syntax::tree::{Expr, ValueType};

type Parts = (AnswerKind, Matrix, Option<String>);

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
                let matrix = finish(vector.into_block(self.budget)?, &grid)?;
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
        Ok((AnswerKind::Matrix, finish(block, &grid)?, None))
    }

    /// The samples of a range vector at one step, as they are.
    fn windows(&self, ranges: Ranges<'a>) -> Result<Matrix> {
        let mut found = Vec::new();
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
            let (times, histograms) = native.without_stale();
            if samples.is_empty() && histograms.is_empty() {
                continue;
            }
            let labels = ranges.set.labels(row);
            let drops = match &ranges.drop_name {
                DropName::All(all) => *all,
                DropName::Each(each) => each[row],
            };
            found.push((if drops { drop_metadata(&labels) } else { labels }, samples, times, histograms));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut matrix = Matrix::default();
        for (labels, samples, times, histograms) in found {
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

fn finish(mut block: Block<'_>, grid: &Grid) -> Result<Matrix> {
    if block.drop_name.iter().any(|&drops| drops) {
        let drops = std::mem::take(&mut block.drop_name);
        for (labels, _) in block.labels_ready().iter_mut().zip(&drops).filter(|(_, drops)| **drops) {
            *labels = drop_metadata(labels);
        }
        block.drop_name = vec![false; drops.len()];
    }
    let mut order = order_by_labels(&mut block);
    let labels = block.labels_ready();
    if order.windows(2).any(|pair| labels[pair[0]] == labels[pair[1]]) {
        block = block.merge_equal()?;
        order = order_by_labels(&mut block);
    }
    if block.ordered && grid.steps == 1 {
        order.sort_unstable();
    }
    let labels = std::mem::take(block.labels_ready());
    let mut matrix = Matrix::default();
    for row in order {
        push_row(&mut matrix, labels[row].clone(), grid, block.row(row), block.cells.row(row));
    }
    Ok(matrix)
}

fn order_by_labels(block: &mut Block<'_>) -> Vec<usize> {
    let labels = block.labels_ready();
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_unstable_by(|&a, &b| labels[a].cmp(&labels[b]));
    order
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
