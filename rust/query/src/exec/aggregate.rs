//! Aggregations that fold: sum, avg, min, max, count, group, stddev, stdvar.
//!
//! Rows are sorted by group and cut into segments of a fixed length; each segment is folded by one
//! thread into accumulators of its own, and these are merged in the order of the segments. So an
//! answer does not depend on the number of threads, bit by bit.

use metricsdb_model::{Budget, Grouping, Groups, Result};
use rayon::prelude::*;

use super::block::{ABSENT, Block, LabelColumn, Vector, present};
use super::cells::{Cell, CellRow, bytes};
use super::fold::{Histograms, Role};
use super::grid::filled;
use super::labels::meant;
use super::mixed::Remarks;
use super::scan::Scratch;
use crate::function::compensated::Sum;
use crate::syntax::tree::AggregateOp;

/// Rows folded by one task: enough to hide the cost of the task, few enough to share a large group.
const SEGMENT_ROWS: usize = 128;
/// Segments whose results wait to be merged: what they take together is bounded by it.
const SEGMENTS_HELD: usize = 512;
pub(crate) const ROWS_HELD: usize = SEGMENT_ROWS * SEGMENTS_HELD;
/// The same where histograms wait to be folded: so many rows a task, and so many histograms a batch.
const MIXED_SEGMENT_ROWS: usize = 16;
const HISTOGRAMS_HELD: usize = 1 << 16;
/// An average whose sum overflows is taken again of values made smaller by this power of two.
const SMALLER: f64 = 1.0 / (1u128 << 100) as f64;

/// Adds `value` to a compensated sum that is kept in two columns.
#[inline]
fn compensated_add(value: f64, high: &mut f64, low: &mut f64) {
    let mut sum = Sum { high: *high, low: *low };
    sum.add(value);
    (*high, *low) = (sum.high, sum.low);
}

/// Accumulators of consecutive groups, `groups x steps` each; `main` is `ABSENT` until a sample came.
struct Partial {
    first: usize,
    main: Vec<f64>,
    /// The lost part of a sum, or the squared deviations.
    side: Vec<f64>,
    count: Vec<f64>,
    /// Rows of histograms that are to be folded, and their groups.
    histograms: Vec<(usize, u32, CellRow)>,
    /// Their bytes, as they were held.
    waiting: usize,
    /// Whether a histogram was met.
    met: bool,
}

impl Partial {
    fn new(op: AggregateOp, first: usize, groups: usize, steps: usize, budget: &Budget) -> Result<Partial> {
        use AggregateOp::{Avg, Stddev, Stdvar};
        let has_side = matches!(op, AggregateOp::Sum | Avg | Stddev | Stdvar);
        let has_count = matches!(op, Avg | Stddev | Stdvar);
        Ok(Partial {
            first,
            main: filled(budget, groups, steps, ABSENT)?,
            side: filled(budget, if has_side { groups } else { 0 }, steps, 0.0)?,
            count: filled(budget, if has_count { groups } else { 0 }, steps, 0.0)?,
            histograms: Vec::new(),
            waiting: 0,
            met: false,
        })
    }

    /// Bytes of the accumulators.
    fn bytes(&self) -> usize {
        size_of::<f64>() * (self.main.len() + self.side.len() + self.count.len())
    }

    /// Folds one row into the accumulators that begin at `at`.
    fn fold(&mut self, op: AggregateOp, at: usize, row: &[f64], scale: f64) {
        let cells = at..at + row.len();
        let main = &mut self.main[cells.clone()];
        match op {
            AggregateOp::Sum => fold_sum(main, &mut self.side[cells], row),
            AggregateOp::Avg => {
                fold_avg(main, &mut self.side[cells.clone()], &mut self.count[cells], row, scale);
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                fold_deviation(main, &mut self.side[cells.clone()], &mut self.count[cells], row);
            }
            AggregateOp::Min => fold_extreme(main, row, |new, old| new < old),
            AggregateOp::Max => fold_extreme(main, row, |new, old| new > old),
            AggregateOp::Group => {
                for (m, _) in main.iter_mut().zip(row).filter(|(_, v)| present(**v)) {
                    *m = 1.0;
                }
            }
            _ => {
                for (m, _) in main.iter_mut().zip(row).filter(|(_, v)| present(**v)) {
                    *m = if present(*m) { *m + 1.0 } else { 1.0 };
                }
            }
        }
    }

    /// As `fold` for a row that may hold histograms.
    #[allow(clippy::too_many_arguments)] // A row with its place, beside the fold's own.
    fn fold_mixed(
        &mut self,
        op: AggregateOp,
        at: usize,
        row: u32,
        group: usize,
        numbers: &mut [f64],
        cells: CellRow,
        scale: f64,
    ) {
        if cells.iter().any(Option::is_some) {
            self.met = true;
            match Role::of(op) {
                Role::Counted => count_in(numbers, &cells),
                Role::Folded => {
                    self.waiting += bytes(&cells);
                    self.histograms.push((group, row, cells));
                }
                Role::Ignored => {}
            }
        }
        self.fold(op, at, numbers, scale);
    }

    /// Merges another partial result whose groups lie within this one's.
    fn merge(&mut self, op: AggregateOp, other: &Partial, steps: usize) {
        let base = (other.first - self.first) * steps;
        for (i, &main) in other.main.iter().enumerate().filter(|(_, m)| present(**m)) {
            let at = base + i;
            let ours = &mut self.main[at];
            if !present(*ours) {
                *ours = main;
                if let Some(side) = other.side.get(i) {
                    self.side[at] = *side;
                }
                if let Some(count) = other.count.get(i) {
                    self.count[at] = *count;
                }
                continue;
            }
            match op {
                AggregateOp::Sum | AggregateOp::Avg => {
                    compensated_add(main, ours, &mut self.side[at]);
                    self.side[at] += other.side[i];
                    if op == AggregateOp::Avg {
                        self.count[at] += other.count[i];
                    }
                }
                AggregateOp::Stddev | AggregateOp::Stdvar => {
                    // Chan, Golub, LeVeque: variances of two parts make that of the whole.
                    let (n, m) = (self.count[at], other.count[i]);
                    let apart = main - *ours;
                    *ours += apart * m / (n + m);
                    self.side[at] += other.side[i] + apart * apart * n * m / (n + m);
                    self.count[at] = n + m;
                }
                AggregateOp::Min if main < *ours || ours.is_nan() => *ours = main,
                AggregateOp::Max if main > *ours || ours.is_nan() => *ours = main,
                AggregateOp::Min | AggregateOp::Max | AggregateOp::Group => {}
                _ => *ours += main,
            }
        }
    }

    fn finish(mut self, op: AggregateOp, budget: &Budget) -> Result<Vec<f64>> {
        for (i, m) in self.main.iter_mut().enumerate() {
            budget.check_at(i)?;
            if !present(*m) {
                continue;
            }
            match op {
                AggregateOp::Sum => *m = Sum { high: *m, low: self.side[i] }.value(),
                AggregateOp::Avg => *m = *m / self.count[i] + self.side[i] / self.count[i],
                AggregateOp::Stdvar => *m = self.side[i] / self.count[i],
                AggregateOp::Stddev => *m = (self.side[i] / self.count[i]).sqrt(),
                _ => {}
            }
        }
        Ok(self.main)
    }
}

fn fold_sum(sum: &mut [f64], lost: &mut [f64], row: &[f64]) {
    for ((s, l), &v) in sum.iter_mut().zip(lost).zip(row) {
        if !present(v) {
        } else if present(*s) {
            compensated_add(v, s, l);
        } else {
            *s = v;
        }
    }
}

fn fold_avg(sum: &mut [f64], lost: &mut [f64], count: &mut [f64], row: &[f64], scale: f64) {
    for (((s, l), n), &v) in sum.iter_mut().zip(lost).zip(count).zip(row) {
        if !present(v) {
            continue;
        }
        *n += 1.0;
        if present(*s) {
            compensated_add(v * scale, s, l);
        } else {
            *s = v * scale;
        }
    }
}

/// Welford's running mean and squared deviations.
fn fold_deviation(mean: &mut [f64], squares: &mut [f64], count: &mut [f64], row: &[f64]) {
    for (((m, q), n), &v) in mean.iter_mut().zip(squares).zip(count).zip(row) {
        if !present(v) {
            continue;
        }
        *n += 1.0;
        if present(*m) {
            let apart = v - *m;
            *m += apart / *n;
            *q += apart * (v - *m);
        } else {
            *m = v;
            *q = if v.is_finite() { 0.0 } else { f64::NAN };
        }
    }
}

/// A NaN only stays where nothing else is; "absent" is a NaN too.
fn fold_extreme(best: &mut [f64], row: &[f64], better: impl Fn(f64, f64) -> bool) {
    for (b, &v) in best.iter_mut().zip(row) {
        if present(v) && (better(v, *b) || b.is_nan()) {
            *b = v;
        }
    }
}

/// Where only presence counts, any number stands for a histogram.
fn count_in(numbers: &mut [f64], cells: &[Cell]) {
    numbers.iter_mut().zip(cells).filter(|(_, cell)| cell.is_some()).for_each(|(v, _)| *v = 1.0);
}

/// The metric name of a row, or "".
fn metric_of(input: &Vector<'_>, row: u32) -> String {
    let labels = match input {
        Vector::Rows(rows) => rows.set.labels(row as usize),
        Vector::Block(block) => block.labels.get(row as usize),
    };
    labels.metric_name().to_owned()
}

/// Rows sorted by group.
struct Order {
    rows: Vec<u32>,
    groups: Groups,
}

impl Order {
    fn new(groups: Groups) -> Order {
        let mut next = vec![0u32; groups.labels.len() + 1];
        for &g in &groups.of {
            next[g as usize + 1] += 1;
        }
        for i in 1..next.len() {
            next[i] += next[i - 1];
        }
        let mut rows = vec![0u32; groups.of.len()];
        for (row, &g) in groups.of.iter().enumerate() {
            rows[next[g as usize] as usize] = row as u32;
            next[g as usize] += 1;
        }
        Order { rows, groups }
    }

    fn group(&self, row: u32) -> usize {
        self.groups.of[row as usize] as usize
    }
}

/// The groups of `by` or `without`; `without` drops the metric name as well.
pub(crate) fn groups_of(input: &Vector<'_>, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
    let grouping = meant(grouping);
    match input {
        Vector::Rows(rows) => rows.group(&grouping, budget),
        Vector::Block(block) => block.labels.group(&grouping, budget),
    }
}

/// Whether the metric name of each group goes: it does if that of any of its rows does.
pub(crate) fn dropped_names(input: &Vector<'_>, groups: &Groups) -> Vec<bool> {
    let mut dropped = vec![false; groups.labels.len()];
    for (row, &g) in groups.of.iter().enumerate() {
        dropped[g as usize] |= match input {
            Vector::Rows(rows) => rows.drops_name(row),
            Vector::Block(block) => block.drop_name[row],
        };
    }
    dropped
}

/// Folds rows group by group; a group without any sample is left out.
pub(crate) fn fold<'a>(
    op: AggregateOp,
    input: &Vector<'a>,
    grouping: &Grouping,
    steps: usize,
    budget: &Budget,
    remarks: Remarks<'_>,
) -> Result<Block<'a>> {
    let order = Order::new(groups_of(input, grouping, budget)?);
    let drop_name = dropped_names(input, &order.groups);
    let mut histograms = Histograms::new(op, steps, remarks);
    let mut values = fold_groups(op, input, &order, steps, 1.0, &mut histograms, budget)?;
    // The rows in order, their groups, and the flags of the groups.
    budget.hold(order.rows.len() * size_of::<u32>() + order.groups.labels.len())?;
    if op == AggregateOp::Avg && values.iter().any(|v| present(*v) && !v.is_finite()) {
        let mut known = Histograms::new(op, steps, remarks).silent();
        let again = budget.uncounted();
        let smaller = fold_groups(op, input, &order, steps, SMALLER, &mut known, &again)?;
        for (v, s) in values.iter_mut().zip(smaller).filter(|(v, _)| present(**v) && !v.is_finite()) {
            *v = s / SMALLER;
        }
    }
    let cells = histograms.finish(&mut values);
    let labels = LabelColumn::Ready(order.groups.labels);
    let mut block = Block { steps, values, cells, labels, drop_name, ordered: false };
    block.drop_empty(budget)?;
    Ok(block)
}

fn fold_groups(
    op: AggregateOp,
    input: &Vector<'_>,
    order: &Order,
    steps: usize,
    scale: f64,
    histograms: &mut Histograms<'_>,
    budget: &Budget,
) -> Result<Vec<f64>> {
    let mut whole = Partial::new(op, 0, order.groups.labels.len(), steps, budget)?;
    let mixed = Role::of(op) == Role::Folded
        && match input {
            Vector::Rows(rows) => rows.set.any_histograms(),
            Vector::Block(block) => !block.cells.is_empty(),
        };
    let (segment, batch) = match mixed {
        true => (MIXED_SEGMENT_ROWS, (HISTOGRAMS_HELD / steps).next_multiple_of(MIXED_SEGMENT_ROWS)),
        false => (SEGMENT_ROWS, ROWS_HELD),
    };
    for batch in order.rows.chunks(batch.max(segment)) {
        let partials: Vec<Partial> = batch
            .par_chunks(segment)
            .map_init(
                || (Scratch::new(budget), vec![ABSENT; steps]),
                |(scratch, buffer), rows| {
                    fold_segment(op, input, order, rows, scale, budget, scratch, buffer)
                },
            )
            .collect::<Result<_>>()?;
        let mut waiting = 0;
        for partial in partials {
            budget.check()?;
            whole.merge(op, &partial, steps);
            budget.release(partial.bytes());
            waiting += partial.waiting;
            histograms.take(partial.histograms, partial.met);
        }
        histograms.fold(|row| metric_of(input, row), budget)?;
        budget.release(waiting);
    }
    whole.finish(op, budget)
}

#[allow(clippy::too_many_arguments)] // The task of one thread: its rows and its buffers.
fn fold_segment(
    op: AggregateOp,
    input: &Vector<'_>,
    order: &Order,
    rows: &[u32],
    scale: f64,
    budget: &Budget,
    scratch: &mut Scratch<'_>,
    buffer: &mut [f64],
) -> Result<Partial> {
    budget.check()?;
    let steps = buffer.len();
    let group = |row: Option<&u32>| row.map_or(0, |&row| order.group(row));
    let (first, last) = (group(rows.first()), group(rows.last()));
    let mut partial = Partial::new(op, first, last - first + 1, steps, budget)?;
    for &row in rows {
        let at = (order.group(row) - first) * steps;
        match input {
            Vector::Rows(lazy) => {
                lazy.fill(row as usize, scratch, buffer)?;
                let cells = std::mem::take(&mut scratch.cells);
                partial.fold_mixed(op, at, row, order.group(row), buffer, cells, scale);
            }
            Vector::Block(block) => {
                let cells = block.cells.row(row as usize);
                if cells.is_empty() {
                    partial.fold(op, at, block.row(row as usize), scale);
                } else {
                    buffer.copy_from_slice(block.row(row as usize));
                    partial.fold_mixed(op, at, row, order.group(row), buffer, cells.to_vec(), scale);
                }
            }
        }
    }
    budget.hold(partial.waiting)?;
    Ok(partial)
}

/// At which steps the vector has any sample.
pub(crate) fn presence(
    input: &Vector<'_>,
    steps: usize,
    budget: &Budget,
    remarks: Remarks<'_>,
) -> Result<Vec<bool>> {
    let all = Grouping::By(Vec::new());
    let block = fold(AggregateOp::Group, input, &all, steps, budget, remarks)?;
    Ok((0..steps).map(|s| block.len() > 0 && present(block.row(0)[s])).collect())
}
