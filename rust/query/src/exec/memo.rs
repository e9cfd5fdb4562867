//! What subqueries came to, kept from one evaluation of a stream to the next: a window of a day that moves on by a
//! minute then asks for one new step of it, not for 1,440.

use std::collections::HashMap;

use metricsdb_model::{Labels, Result};

use super::Evaluator;
use super::block::{ABSENT, Block, LabelColumn, ROW_BYTES, text_bytes};
use super::cells::Cells;
use super::grid::{Grid, filled};
use super::times::holds_whole_grid;
use crate::syntax::tree::Expr;

/// Subqueries of one expression, at the steps that the last evaluation looked at. Holds a number a series and step of
/// each subquery's window, and no more. Equal to evaluating anew only while samples that such a step could see stay as
/// they were: the caller evaluates steps when they are final.
#[derive(Default)]
pub struct Memo {
    /// By the place of the repeated expression in the text.
    kept: HashMap<(u32, u32), Kept>,
}

struct Kept {
    grid: Grid,
    labels: Vec<Labels>,
    drop_name: Vec<bool>,
    /// `rows x grid.steps`
    values: Vec<f64>,
}

impl Memo {
    /// Bytes held, for the account of memory.
    pub(super) fn bytes(&self) -> usize {
        self.kept.values().map(Kept::bytes).sum()
    }

    /// Numbers held.
    pub fn len(&self) -> usize {
        self.kept.values().map(|kept| kept.values.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Evaluator<'a> {
    /// What a subquery repeats, over the subquery's own grid.
    pub(super) fn repeated(&self, expr: &Expr, grid: &Grid) -> Result<Block<'a>> {
        if self.memo.borrow().is_none() || holds_whole_grid(expr) {
            return self.vector_or_scalar(expr, grid);
        }
        let place = (expr.span.start, expr.span.end);
        let kept = self.memo.borrow_mut().as_mut().and_then(|memo| memo.kept.remove(&place));
        let mut block = match kept.and_then(|kept| kept.from(grid).map(|known| (kept, known))) {
            None => self.vector_or_scalar(expr, grid)?,
            Some((kept, known)) => self.go_on(expr, grid, &kept, known)?,
        };
        // Histograms are not kept: a stream of them is evaluated anew.
        if !block.cells.is_empty() {
            return Ok(block);
        }
        let labels = block.labels_ready(self.budget)?.clone();
        self.budget.keep(block.bytes())?;
        let (drop_name, values) = (block.drop_name.clone(), block.values.clone());
        let kept = Kept { grid: *grid, labels, drop_name, values };
        if let Some(memo) = self.memo.borrow_mut().as_mut() {
            memo.kept.insert(place, kept);
        }
        Ok(block)
    }

    /// The first `known` steps from what was kept, the others evaluated.
    fn go_on(&self, expr: &Expr, grid: &Grid, kept: &Kept, known: usize) -> Result<Block<'a>> {
        let mut fresh = match grid.steps - known {
            0 => Block::empty(0),
            steps => {
                self.vector_or_scalar(expr, &Grid { start: grid.time(known), step: grid.step, steps })?
            }
        };
        if !fresh.cells.is_empty() {
            return self.vector_or_scalar(expr, grid);
        }
        let labels = fresh.labels_ready(self.budget)?.clone();
        self.budget.hold((kept.labels.len() + labels.len()) * 2 * ROW_BYTES)?;
        let mut rows: HashMap<(&Labels, bool), usize> = HashMap::with_capacity(kept.labels.len());
        let old = kept.labels.iter().zip(kept.drop_name.iter().copied());
        for (row, key) in old.clone().enumerate() {
            self.budget.check_at(row)?;
            rows.insert(key, row);
        }
        let count = kept.labels.len();
        for key in labels.iter().zip(fresh.drop_name.iter().copied()) {
            let next = rows.len();
            rows.entry(key).or_insert(next);
        }
        // Rows that nothing tells apart can't be continued.
        if rows.len() < count || !all_different(&labels, &fresh.drop_name) {
            return self.vector_or_scalar(expr, grid);
        }
        let mut values = filled(self.budget, rows.len(), grid.steps, ABSENT)?;
        for (row, out) in values.chunks_mut(grid.steps).take(count).enumerate() {
            self.budget.check()?;
            let (from, to) = ((row + 1) * kept.grid.steps - known, (row + 1) * kept.grid.steps);
            out[..known].copy_from_slice(&kept.values[from..to]);
        }
        let mut keys: Vec<(Labels, bool)> = old.map(|(labels, drops)| (labels.clone(), drops)).collect();
        for (i, key) in labels.iter().zip(fresh.drop_name.iter().copied()).enumerate() {
            let row = rows.get(&key).copied().unwrap_or_default();
            if row >= keys.len() {
                keys.push((key.0.clone(), key.1));
            }
            values[row * grid.steps + known..(row + 1) * grid.steps].copy_from_slice(fresh.row(i));
        }
        let (labels, drop_name) = keys.into_iter().unzip();
        let labels = LabelColumn::Ready(labels);
        let cells = Cells::default();
        let mut block = Block { steps: grid.steps, values, cells, labels, drop_name, ordered: false };
        block.drop_empty(self.budget)?;
        Ok(block)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        size_of_val(&self.values[..])
            + text_bytes(&self.labels)
            + size_of_val(&self.labels[..])
            + self.labels.len()
    }

    /// How many of the grid's first steps are the last ones that were kept; `None` for none.
    fn from(&self, grid: &Grid) -> Option<usize> {
        let ahead = grid.start.checked_sub(self.grid.start)?;
        if self.grid.step != grid.step || ahead < 0 || ahead % grid.step != 0 {
            return None;
        }
        let known = self.grid.steps.checked_sub(usize::try_from(ahead / grid.step).ok()?)?;
        (known > 0 && known <= grid.steps).then_some(known)
    }
}

fn all_different(labels: &[Labels], drop_name: &[bool]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(labels.len());
    labels.iter().zip(drop_name).all(|key| seen.insert(key))
}
