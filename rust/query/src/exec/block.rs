//! Instant vectors over many steps: a dense block of values, one row per series.

use std::sync::Arc;

use metricsdb_model::sample::{STALE_NAN_BITS, is_stale};
use metricsdb_model::{
    Budget, Error, Freed, Grouping, Groups, HistogramSamples, Labels, ResetHint, Result, Samples, SeriesSet,
    TimeRange,
};
use rayon::prelude::*;

use super::cells::{Cell, CellRow, Cells};
use super::grid::{Grid, reserve};
use super::scan::Rows;

/// Rows whose label sets are built between two looks at the budget.
const ROWS_PER_CHECK: usize = 256;
/// What a row takes beside its values where rows are sorted or put into a table: places, flags, handles.
pub(crate) const ROW_BYTES: usize = 64;

/// "No sample at this step". Arithmetic never makes it: the hardware quiets a signalling NaN.
pub(crate) const ABSENT: f64 = f64::from_bits(STALE_NAN_BITS);

#[inline]
pub(crate) fn present(value: f64) -> bool {
    !is_stale(value)
}

/// Two samples would stand in one series at one step.
pub(crate) fn duplicate_labelset() -> Error {
    Error::execution("vector cannot contain metrics with the same labelset")
}

/// The label sets of rows: built, or still in the store.
#[derive(Clone)]
pub(crate) enum LabelColumn<'a> {
    Ready(Vec<Labels>),
    /// Row `i` is series `index[i]` of `set`.
    Stored {
        set: Arc<dyn SeriesSet + 'a>,
        index: Vec<u32>,
    },
}

impl Drop for LabelColumn<'_> {
    fn drop(&mut self) {
        if let LabelColumn::Ready(labels) = self {
            drop(Freed(std::mem::take(labels)));
        }
    }
}

impl LabelColumn<'_> {
    pub fn get(&self, row: usize) -> Labels {
        match self {
            LabelColumn::Ready(labels) => labels[row].clone(),
            LabelColumn::Stored { set, index } => set.labels(index[row] as usize),
        }
    }

    pub fn build(mut self, budget: &Budget) -> Result<Vec<Labels>> {
        match &mut self {
            LabelColumn::Ready(labels) => Ok(std::mem::take(labels)),
            LabelColumn::Stored { set, index } => {
                budget.hold(index.len() * size_of::<Labels>())?;
                let parts = index.par_chunks(ROWS_PER_CHECK).map(|rows| {
                    budget.check()?;
                    let part: Vec<Labels> = rows.iter().map(|&i| set.labels(i as usize)).collect();
                    budget.hold(text_bytes(&part))?;
                    Ok(part)
                });
                let parts: Vec<Result<Vec<Labels>>> = parts.collect();
                let mut all = Freed(Vec::with_capacity(index.len()));
                let mut whole = Ok(());
                for part in parts {
                    match part {
                        Ok(part) => all.0.extend(part),
                        Err(error) => whole = Err(error),
                    }
                }
                whole.map(|()| std::mem::take(&mut all.0))
            }
        }
    }

    /// Sorts the rows into groups.
    pub fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        let (set, index) = match self {
            LabelColumn::Stored { set, index } => (set, index),
            LabelColumn::Ready(labels) => {
                return Groups::of(labels.len(), |row| grouping.apply(&labels[row]), budget);
            }
        };
        let whole = set.group(grouping, budget)?;
        budget.hold((whole.labels.len() + index.len()) * size_of::<u32>())?;
        let mut number = vec![u32::MAX; whole.labels.len()];
        let mut groups = Groups::default();
        for &i in index {
            let g = whole.of[i as usize] as usize;
            if number[g] == u32::MAX {
                number[g] = groups.labels.len() as u32;
                groups.labels.push(whole.labels[g].clone());
            }
            groups.of.push(number[g]);
        }
        Ok(groups)
    }

    fn bytes(&self) -> usize {
        match self {
            LabelColumn::Ready(labels) => size_of_val(&labels[..]) + text_bytes(labels),
            LabelColumn::Stored { set, index } => set.bytes() + size_of_val(&index[..]),
        }
    }
}

/// Bytes of the sets' texts. Sets that share one text are counted each on their own.
pub(crate) fn text_bytes(labels: &[Labels]) -> usize {
    labels.iter().map(Labels::heap_bytes).sum()
}

/// Rows of values at every step of a grid.
#[derive(Clone)]
pub(crate) struct Block<'a> {
    pub steps: usize,
    /// `rows x steps`, `ABSENT` where a row has no number.
    pub values: Vec<f64>,
    /// Where a row has a histogram, it has no number.
    pub cells: Cells,
    pub labels: LabelColumn<'a>,
    /// Rows whose metric name goes when the query ends.
    pub drop_name: Vec<bool>,
    /// The order of the rows is part of the answer (`sort`, `topk`).
    pub ordered: bool,
}

impl<'a> Block<'a> {
    pub fn empty(steps: usize) -> Block<'a> {
        Block {
            steps,
            values: Vec::new(),
            cells: Cells::default(),
            labels: LabelColumn::Ready(Vec::new()),
            drop_name: Vec::new(),
            ordered: false,
        }
    }

    /// One row without labels.
    pub fn unlabelled(values: Vec<f64>) -> Block<'a> {
        Block {
            steps: values.len(),
            values,
            cells: Cells::default(),
            labels: LabelColumn::Ready(vec![Labels::empty()]),
            drop_name: vec![false],
            ordered: false,
        }
    }

    pub fn len(&self) -> usize {
        self.drop_name.len()
    }

    /// What stands in memory, as a budget counts it.
    pub fn cost(&self) -> u64 {
        self.values.len() as u64 + self.cells.cost()
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.steps..(i + 1) * self.steps]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.values[i * self.steps..(i + 1) * self.steps]
    }

    /// Whether there is a sample, number or histogram.
    #[inline]
    pub fn has(&self, row: usize, step: usize) -> bool {
        present(self.values[row * self.steps + step]) || self.cells.get(row, step).is_some()
    }

    fn has_any(&self, row: usize) -> bool {
        self.row(row).iter().any(|&v| present(v)) || self.cells.row(row).iter().any(Option::is_some)
    }

    /// As `push`, with histograms.
    pub fn push_mixed(&mut self, labels: Labels, drop_name: bool, values: &[f64], cells: CellRow) {
        self.cells.put(self.len(), cells);
        self.push(labels, drop_name, values);
    }

    /// Sets the sample of a row at one step: a histogram, or the number where there is none.
    pub fn put(&mut self, row: usize, step: usize, value: f64, cell: Cell) {
        self.values[row * self.steps + step] = if cell.is_some() { ABSENT } else { value };
        self.cells.set(row, step, self.steps, cell);
    }

    /// Adds a row; the labels must be `Ready`, as in a block that is being built.
    pub fn push(&mut self, labels: Labels, drop_name: bool, values: &[f64]) {
        debug_assert_eq!(values.len(), self.steps);
        self.values.extend_from_slice(values);
        self.drop_name.push(drop_name);
        if let LabelColumn::Ready(column) = &mut self.labels {
            column.push(labels);
        }
    }

    /// Keeps the rows for which `keep(row)` holds, in order.
    pub fn retain(&mut self, budget: &Budget, keep: impl Fn(usize) -> bool) -> Result<()> {
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep(i)).collect();
        if kept.len() == self.len() { Ok(()) } else { self.reorder(&kept, budget) }
    }

    /// Drops the rows without any sample.
    pub fn drop_empty(&mut self, budget: &Budget) -> Result<()> {
        let full = |i: usize| {
            budget.check()?;
            Ok(self.has_any(i))
        };
        let full: Vec<bool> = (0..self.len()).map(full).collect::<Result<_>>()?;
        self.retain(budget, |i| full[i])
    }

    /// Bytes of this block, what its label sets hold included.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.values[..]) + self.cells.bytes() + self.drop_name.len() + self.labels.bytes()
    }

    /// The rows `order[0]`, `order[1]`, …: each at most once.
    pub fn reorder(&mut self, order: &[usize], budget: &Budget) -> Result<()> {
        budget.hold(order.len() * (self.steps * size_of::<f64>() + ROW_BYTES))?;
        let mut values = Vec::with_capacity(order.len() * self.steps);
        for &i in order {
            budget.check()?;
            values.extend_from_slice(self.row(i));
        }
        self.values = values;
        self.cells.reorder(order);
        self.drop_name = order.iter().map(|&i| self.drop_name[i]).collect();
        match &mut self.labels {
            LabelColumn::Ready(labels) => {
                let mut sorted = Freed(Vec::with_capacity(order.len()));
                for (at, &i) in order.iter().enumerate() {
                    budget.check_at(at)?;
                    sorted.0.push(std::mem::take(&mut labels[i]));
                }
                *labels = std::mem::take(&mut sorted.0);
            }
            LabelColumn::Stored { index, .. } => {
                *index = order.iter().map(|&i| index[i]).collect();
            }
        }
        Ok(())
    }

    /// Builds the labels, if they are not built yet.
    pub fn labels_ready(&mut self, budget: &Budget) -> Result<&mut Vec<Labels>> {
        if let LabelColumn::Stored { .. } = self.labels {
            let column = std::mem::replace(&mut self.labels, LabelColumn::Ready(Vec::new()));
            self.labels = LabelColumn::Ready(column.build(budget)?);
        }
        match &mut self.labels {
            LabelColumn::Ready(labels) => Ok(labels),
            LabelColumn::Stored { .. } => unreachable!("the column was built just above"),
        }
    }

    /// Repeats the single step of this block, for what does not depend on the step.
    pub fn spread(self, steps: usize, budget: &Budget) -> Result<Block<'a>> {
        debug_assert_eq!(self.steps, 1);
        let mut values = Vec::with_capacity(reserve(budget, self.values.len(), steps)?);
        for &v in &self.values {
            budget.check()?;
            values.resize(values.len() + steps, v);
        }
        budget.hold(self.cells.len() * steps * size_of::<Cell>())?;
        Ok(Block { steps, values, cells: self.cells.spread(steps), ..self })
    }

    /// Joins rows of equal labels that never meet at one step; fails where two do. Where only one of them
    /// is to lose its name, they meet no more than others, but stay two.
    pub fn merge_equal(mut self, budget: &Budget) -> Result<Block<'a>> {
        let column = LabelColumn::Ready(std::mem::take(self.labels_ready(budget)?));
        let LabelColumn::Ready(labels) = &column else { return Ok(self) };
        budget.hold(labels.len() * 2 * ROW_BYTES)?;
        let mut first = std::collections::HashMap::with_capacity(labels.len());
        let mut kept = Vec::with_capacity(labels.len());
        for (i, l) in labels.iter().enumerate() {
            budget.check()?;
            let drops = self.drop_name[i];
            let known: &mut [Option<usize>; 2] = first.entry(l).or_default();
            if known.iter().flatten().any(|&to| self.meet(to, i)) {
                return Err(duplicate_labelset());
            }
            match known[usize::from(drops)] {
                None => {
                    known[usize::from(drops)] = Some(i);
                    kept.push(i);
                }
                Some(to) => self.pour(i, to),
            }
        }
        let whole = kept.len() == labels.len();
        self.labels = column;
        if !whole {
            self.reorder(&kept, budget)?;
        }
        Ok(self)
    }

    /// Whether both rows have a sample at some step.
    fn meet(&self, a: usize, b: usize) -> bool {
        if self.cells.is_empty() {
            return self.row(a).iter().zip(self.row(b)).any(|(&a, &b)| present(a) && present(b));
        }
        (0..self.steps).any(|step| self.has(a, step) && self.has(b, step))
    }

    /// Adds the samples of a row to an earlier one that it does not meet.
    fn pour(&mut self, from: usize, to: usize) {
        let (head, tail) = self.values.split_at_mut(from * self.steps);
        let into = head[to * self.steps..(to + 1) * self.steps].iter_mut();
        into.zip(&tail[..self.steps]).filter(|(_, v)| present(**v)).for_each(|(into, &v)| *into = v);
        for (step, cell) in self.cells.take(from).into_iter().enumerate().filter(|(_, cell)| cell.is_some()) {
            self.cells.set(to, step, self.steps, cell);
        }
    }
}

/// An instant vector: still to be read, or read.
pub(crate) enum Vector<'a> {
    Rows(Rows<'a>),
    Block(Block<'a>),
}

impl<'a> Vector<'a> {
    pub fn into_block(self, budget: &Budget) -> Result<Block<'a>> {
        match self {
            Vector::Rows(rows) => rows.into_block(budget),
            Vector::Block(block) => Ok(block),
        }
    }

    /// Bytes held, for the account.
    pub fn bytes(&self) -> usize {
        match self {
            Vector::Rows(rows) => rows.bytes(),
            Vector::Block(block) => block.bytes(),
        }
    }
}

/// A block seen as stored series, so that windows slide over a subquery as over anything else.
pub(crate) struct GridSeries<'a> {
    block: Block<'a>,
    grid: Grid,
}

impl<'a> GridSeries<'a> {
    pub fn new(block: Block<'a>, grid: Grid) -> GridSeries<'a> {
        GridSeries { block, grid }
    }
}

impl SeriesSet for GridSeries<'_> {
    fn len(&self) -> usize {
        self.block.len()
    }

    fn labels(&self, index: usize) -> Labels {
        self.block.labels.get(index)
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        for (i, &v) in self.block.row(index).iter().enumerate() {
            let t = self.grid.time(i);
            if present(v) && range.contains(t) {
                out.push(t, v);
            }
        }
        Ok(())
    }

    fn read_values(&self, index: usize, range: TimeRange, out: &mut Vec<f64>) -> Result<()> {
        let row = self.block.row(index).iter().enumerate();
        out.extend(row.filter(|&(i, &v)| present(v) && range.contains(self.grid.time(i))).map(|(_, &v)| v));
        Ok(())
    }

    fn has_histograms(&self, index: usize) -> bool {
        !self.block.cells.row(index).is_empty()
    }

    fn any_histograms(&self) -> bool {
        !self.block.cells.is_empty()
    }

    /// Steps skip what was in between: whether a counter was reset since the one before is not known.
    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        for (i, cell) in self.block.cells.row(index).iter().enumerate() {
            let t = self.grid.time(i);
            if let Some(found) = cell.as_ref().filter(|_| range.contains(t)) {
                let mut histogram = found.to_model();
                if histogram.reset != ResetHint::Gauge {
                    histogram.reset = ResetHint::Unknown;
                }
                out.push(t, histogram);
            }
        }
        Ok(())
    }

    fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        self.block.labels.group(grouping, budget)
    }

    fn bytes(&self) -> usize {
        self.block.bytes()
    }
}
