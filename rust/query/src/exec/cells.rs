//! Histograms of an instant vector over many steps, beside its numbers. Rows of numbers have none of this.

use std::sync::Arc;

use metricsdb_model::{Budget, Result};

use crate::histogram::FloatHistogram;

/// The histogram of a row at one step, if it is one.
pub(crate) type Cell = Option<Arc<FloatHistogram>>;
/// A cell per step, or none where the row holds numbers alone.
pub(crate) type CellRow = Vec<Cell>;

/// What cells cost of a budget: a sample a histogram, and one more a bucket.
pub(crate) fn cost(cells: &[Cell]) -> u64 {
    let buckets = |h: &Arc<FloatHistogram>| h.positive.counts.len() + h.negative.counts.len();
    cells.iter().flatten().map(|histogram| 1 + buckets(histogram) as u64).sum()
}

/// Bytes of cells, for the account of memory. A histogram that stands in several places counts once for all of them.
pub(crate) fn bytes(cells: &[Cell]) -> usize {
    let share = |h: &Arc<FloatHistogram>| h.bytes() / Arc::strong_count(h);
    size_of_val(cells) + cells.iter().flatten().map(share).sum::<usize>()
}

/// The cells of a block's rows. Rows behind the last one that has any are left out.
#[derive(Clone, Default)]
pub(crate) struct Cells {
    rows: Vec<CellRow>,
}

impl Cells {
    /// From rows by their number, in any order, of `rows` at most.
    pub fn new(found: Vec<(usize, CellRow)>, rows: usize, budget: &Budget) -> Result<Cells> {
        let mut cells = Cells::default();
        if !found.is_empty() {
            budget.hold(rows * size_of::<CellRow>())?;
            cells.rows.reserve_exact(rows);
        }
        found.into_iter().for_each(|(row, of)| cells.put(row, of));
        Ok(cells)
    }

    /// Rows, those without any in between included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Histograms.
    pub fn count(&self) -> usize {
        self.rows.iter().map(|row| row.iter().flatten().count()).sum()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.rows[..]) + self.rows.iter().map(|row| bytes(row)).sum::<usize>()
    }

    /// Whether no row has any; rows that had some may be left, without.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().flatten().all(Option::is_none)
    }

    /// See `cost`.
    pub fn cost(&self) -> u64 {
        self.rows.iter().map(|row| cost(row)).sum()
    }

    pub fn row(&self, row: usize) -> &[Cell] {
        self.rows.get(row).map_or(&[], |cells| &cells[..])
    }

    pub fn row_mut(&mut self, row: usize) -> Option<&mut CellRow> {
        self.rows.get_mut(row)
    }

    #[inline]
    pub fn get(&self, row: usize, step: usize) -> Option<&Arc<FloatHistogram>> {
        self.rows.get(row)?.get(step)?.as_ref()
    }

    /// Puts all cells of a row.
    pub fn put(&mut self, row: usize, cells: CellRow) {
        if !cells.is_empty() {
            if self.rows.len() <= row {
                self.rows.resize_with(row + 1, Vec::new);
            }
            self.rows[row] = cells;
        }
    }

    /// Puts one cell of a row of `steps` steps.
    pub fn set(&mut self, row: usize, step: usize, steps: usize, cell: Cell) {
        if self.row(row).is_empty() {
            if cell.is_none() {
                return;
            }
            self.put(row, vec![None; steps]);
        }
        self.rows[row][step] = cell;
    }

    /// Takes the cells of a row out.
    pub fn take(&mut self, row: usize) -> CellRow {
        self.rows.get_mut(row).map_or(Vec::new(), std::mem::take)
    }

    /// Adds the rows of another block behind the first `rows` ones.
    pub fn append(&mut self, rows: usize, other: Cells) {
        other.rows.into_iter().enumerate().for_each(|(i, cells)| self.put(rows + i, cells));
    }

    /// The rows `order[0]`, `order[1]`, …: each at most once.
    pub fn reorder(&mut self, order: &[usize]) {
        if !self.is_empty() {
            let mut cells = Cells::default();
            order.iter().enumerate().for_each(|(to, &from)| cells.put(to, self.take(from)));
            *self = cells;
        }
    }

    /// Repeats the single step of each row.
    pub fn spread(self, steps: usize) -> Cells {
        let repeat = |row: CellRow| match row.into_iter().next() {
            Some(cell) => vec![cell; steps],
            None => Vec::new(),
        };
        Cells { rows: self.rows.into_iter().map(repeat).collect() }
    }

    /// Drops the cells for which `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(usize, usize) -> bool) {
        for (row, cells) in self.rows.iter_mut().enumerate() {
            for (step, cell) in cells.iter_mut().enumerate() {
                if cell.is_some() && !keep(row, step) {
                    *cell = None;
                }
            }
        }
    }

    /// Drops every histogram.
    pub fn clear(&mut self) {
        self.rows.clear();
    }
}
