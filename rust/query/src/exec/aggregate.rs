//! Aggregations that fold: sum, avg, min, max, count, group, stddev, stdvar.
//!
//! Rows are sorted by group and cut into segments of a fixed length; each segment is folded by one
//! thread into accumulators of its own, and these are merged in the order of the segments. So an
//! answer does not depend on the number of threads, bit by bit. Sums, means, extremes and counts do not depend on the
//! order of the rows either: what a step comes to is the same whatever else the query's range holds.

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Grouping, Groups, Labels, Result};
use rayon::prelude::*;

use super::block::{ABSENT, Block, LabelColumn, Vector, present};
use super::cells::{Cell, CellRow, bytes};
use super::drawn;
use super::fold::{Histograms, Role};
use super::grid::filled;
use super::labels::meant;
use super::mixed::Remarks;
use super::native::Hints;
use super::scan::Scratch;
use crate::function::compensated::two_sum;
use crate::function::exact::{Exact, certain};
use crate::syntax::tree::AggregateOp;

/// Rows folded by one task: enough to hide the cost of the task, few enough to share a large group.
const SEGMENT_ROWS: usize = 128;
/// Segments whose results wait to be merged: what they take together is bounded by it.
const SEGMENTS_HELD: usize = 512;
pub(crate) const ROWS_HELD: usize = SEGMENT_ROWS * SEGMENTS_HELD;
/// The same where histograms wait to be folded: so many rows a task, and so many histograms a batch.
const MIXED_SEGMENT_ROWS: usize = 16;
const HISTOGRAMS_HELD: usize = 1 << 16;

/// Adds `value` to a sum, and what that loses to the losses and to their magnitudes.
#[inline]
fn add(value: f64, sum: &mut f64, low: &mut f64, lost: &mut f64) {
    let (total, error) = two_sum(*sum, value);
    *sum = total;
    *low += error;
    *lost += error.abs();
}

/// Accumulators of consecutive groups, `groups x steps` each; `main` is `ABSENT` until a sample came.
struct Partial {
    first: usize,
    main: Vec<f64>,
    /// What rounding took from a sum, or the squared deviations.
    side: Vec<f64>,
    /// The magnitudes of all that rounding took from a sum.
    lost: Vec<f64>,
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
            lost: filled(budget, if is_sum(op) { groups } else { 0 }, steps, 0.0)?,
            count: filled(budget, if has_count { groups } else { 0 }, steps, 0.0)?,
            histograms: Vec::new(),
            waiting: 0,
            met: false,
        })
    }

    /// Bytes of the accumulators.
    fn bytes(&self) -> usize {
        size_of::<f64>() * (self.main.len() + self.side.len() + self.lost.len() + self.count.len())
    }

    /// Folds one row into the accumulators that begin at `at`.
    fn fold(&mut self, op: AggregateOp, at: usize, row: &[f64]) {
        let cells = at..at + row.len();
        let main = &mut self.main[cells.clone()];
        match op {
            AggregateOp::Sum | AggregateOp::Avg => {
                if op == AggregateOp::Avg {
                    let counted = self.count[cells.clone()].iter_mut().zip(row);
                    counted.for_each(|(n, v)| *n += if present(*v) { 1.0 } else { 0.0 });
                }
                fold_sum(main, &mut self.side[cells.clone()], &mut self.lost[cells], row);
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                fold_deviation(main, &mut self.side[cells.clone()], &mut self.count[cells], row);
            }
            AggregateOp::Min => fold_extreme(main, row, smaller),
            AggregateOp::Max => fold_extreme(main, row, larger),
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
        self.fold(op, at, numbers);
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
                if let Some(lost) = other.lost.get(i) {
                    self.lost[at] = *lost;
                }
                if let Some(count) = other.count.get(i) {
                    self.count[at] = *count;
                }
                continue;
            }
            match op {
                AggregateOp::Sum | AggregateOp::Avg => {
                    add(main, ours, &mut self.side[at], &mut self.lost[at]);
                    self.side[at] += other.side[i];
                    self.lost[at] += other.lost[i];
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
                AggregateOp::Min if takes(main, *ours, smaller) => *ours = main,
                AggregateOp::Max if takes(main, *ours, larger) => *ours = main,
                AggregateOp::Min | AggregateOp::Max | AggregateOp::Group => {}
                _ => *ours += main,
            }
        }
    }

    /// The values of the cells; of a sum or a mean of `rows` rows at most also those that are not certain to the last
    /// bit.
    fn finish(mut self, op: AggregateOp, rows: usize, budget: &Budget) -> Result<(Vec<f64>, Vec<usize>)> {
        let (mut doubtful, adds) = (Vec::new(), 2.0 * rows as f64 + 2.0);
        for (i, m) in self.main.iter_mut().enumerate() {
            budget.check_at(i)?;
            if !present(*m) {
                continue;
            }
            match op {
                AggregateOp::Sum | AggregateOp::Avg => match certain(*m, self.side[i], self.lost[i], adds) {
                    Some(sum) => *m = if op == AggregateOp::Avg { sum / self.count[i] } else { sum },
                    None => doubtful.push(i),
                },
                AggregateOp::Stdvar => *m = self.side[i] / self.count[i],
                AggregateOp::Stddev => *m = (self.side[i] / self.count[i]).sqrt(),
                _ => {}
            }
        }
        Ok((self.main, doubtful))
    }
}

fn is_sum(op: AggregateOp) -> bool {
    matches!(op, AggregateOp::Sum | AggregateOp::Avg)
}

fn fold_sum(sum: &mut [f64], low: &mut [f64], lost: &mut [f64], row: &[f64]) {
    // Without a gap, as most rows are, it runs in vector registers.
    let gaps = |cells: &[f64]| cells.iter().fold(false, |gap, v| gap | !present(*v));
    let whole = !gaps(row) && !gaps(sum);
    let cells = sum.iter_mut().zip(low).zip(lost).zip(row);
    if whole {
        return cells.for_each(|(((s, low), lost), &v)| add(v, s, low, lost));
    }
    for (((s, low), lost), &v) in cells {
        if !present(v) {
        } else if present(*s) {
            add(v, s, low, lost);
        } else {
            *s = v;
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

/// Of two zeros -0 is the smaller one.
fn smaller(new: f64, old: f64) -> bool {
    new < old || (new == old && old.is_sign_positive())
}

fn larger(new: f64, old: f64) -> bool {
    new > old || (new == old && old.is_sign_negative())
}

/// A NaN only stays where nothing else is, and of several always the same; "absent" is a NaN too.
#[inline]
fn takes(new: f64, old: f64, better: impl Fn(f64, f64) -> bool) -> bool {
    let gives_way = || !present(old) || !new.is_nan() || new.to_bits() > old.to_bits();
    better(new, old) || (old.is_nan() && gives_way())
}

fn fold_extreme(best: &mut [f64], row: &[f64], better: impl Fn(f64, f64) -> bool) {
    for (b, &v) in best.iter_mut().zip(row) {
        if present(v) && takes(v, *b, &better) {
            *b = v;
        }
    }
}

/// Where only presence counts, any number stands for a histogram.
fn count_in(numbers: &mut [f64], cells: &[Cell]) {
    numbers.iter_mut().zip(cells).filter(|(_, cell)| cell.is_some()).for_each(|(v, _)| *v = 1.0);
}

fn labels_of(input: &Vector<'_>, row: u32) -> Labels {
    match input {
        Vector::Rows(rows) => rows.set.labels(row as usize),
        Vector::Block(block) => block.labels.get(row as usize),
    }
}

fn has_histograms(input: &Vector<'_>) -> bool {
    match input {
        Vector::Rows(rows) => rows.set.any_histograms(),
        Vector::Block(block) => !block.cells.is_empty(),
    }
}

/// Whether rows come right from storage.
fn is_stored(input: &Vector<'_>) -> bool {
    matches!(input, Vector::Rows(rows) if rows.hints != Hints::AsTheyAre)
}

/// Rows sorted by group.
pub(super) struct Order {
    pub rows: Vec<u32>,
    groups: Groups,
}

impl Order {
    fn new(groups: Groups, budget: &Budget) -> Result<Order> {
        let mut next = vec![0u32; groups.labels.len() + 1];
        for (row, &g) in groups.of.iter().enumerate() {
            budget.check_at(row)?;
            next[g as usize + 1] += 1;
        }
        for i in 1..next.len() {
            next[i] += next[i - 1];
        }
        let mut rows = vec![0u32; groups.of.len()];
        for (row, &g) in groups.of.iter().enumerate() {
            budget.check_at(row)?;
            rows[next[g as usize] as usize] = row as u32;
            next[g as usize] += 1;
        }
        Ok(Order { rows, groups })
    }

    pub fn group(&self, row: u32) -> usize {
        self.groups.of[row as usize] as usize
    }

    /// Sorts the rows of each group by their labels.
    fn by_labels(&mut self, labels: impl Fn(u32) -> Labels, budget: &Budget) -> Result<()> {
        let mut keyed = Vec::with_capacity(self.rows.len());
        for &row in &self.rows {
            budget.check()?;
            let labels = labels(row);
            budget.hold(size_of::<(usize, Labels, u32)>() + labels.heap_bytes())?;
            keyed.push((self.group(row), labels, row));
        }
        sort_owned(&mut keyed, budget, |a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))?;
        self.rows = keyed.into_iter().map(|key| key.2).collect();
        Ok(())
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
    let groups = groups_of(input, grouping, budget)?;
    budget.check()?;
    let mut order = Order::new(groups, budget)?;
    budget.check()?;
    if Role::of(op) == Role::Folded && has_histograms(input) && !is_stored(input) {
        // Histograms are added in the order of their rows: that of stored series never changes.
        order.by_labels(|row| labels_of(input, row), budget)?;
    }
    let drop_name = dropped_names(input, &order.groups);
    let mut histograms = Histograms::new(op, steps, remarks);
    let (mut values, doubtful) = fold_groups(op, input, &order, steps, &mut histograms, budget)?;
    // The rows in order, their groups, and the flags of the groups.
    budget.hold(order.rows.len() * size_of::<u32>() + order.groups.labels.len())?;
    sum_exactly(op, input, &order, &doubtful, &mut values, &budget.uncounted())?;
    if let Some(rows) = drawn::scaled(op, input) {
        drawn::scale(op, rows, &order, steps, &mut values, budget)?;
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
    histograms: &mut Histograms<'_>,
    budget: &Budget,
) -> Result<(Vec<f64>, Vec<usize>)> {
    let mut whole = Partial::new(op, 0, order.groups.labels.len(), steps, budget)?;
    let mixed = Role::of(op) == Role::Folded && has_histograms(input);
    let (segment, batch) = match mixed {
        true => (MIXED_SEGMENT_ROWS, (HISTOGRAMS_HELD / steps).next_multiple_of(MIXED_SEGMENT_ROWS)),
        false => (SEGMENT_ROWS, ROWS_HELD),
    };
    for batch in order.rows.chunks(batch.max(segment)) {
        let partials: Vec<Partial> = batch
            .par_chunks(segment)
            .map_init(
                || (Scratch::new(budget), vec![ABSENT; steps]),
                |(scratch, buffer), rows| fold_segment(op, input, order, rows, budget, scratch, buffer),
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
        histograms.fold(|row| labels_of(input, row).metric_name().to_owned(), budget)?;
        budget.release(waiting);
    }
    whole.finish(op, order.rows.len(), budget)
}

/// Takes sums and means anew, at the ascending places in `values` where that is needed. Rare: infinities, NaNs, what
/// all but cancels out, and sums that lie as near to the middle of two doubles as roundings add up to.
fn sum_exactly(
    op: AggregateOp,
    input: &Vector<'_>,
    order: &Order,
    doubtful: &[usize],
    values: &mut [f64],
    budget: &Budget,
) -> Result<()> {
    if doubtful.is_empty() {
        return Ok(());
    }
    let steps = values.len() / order.groups.labels.len().max(1);
    let groups: Vec<&[u32]> = order.rows.chunk_by(|a, b| order.group(*a) == order.group(*b)).collect();
    let of_group = |rows: &[u32]| {
        let group = rows.first().map_or(0, |&row| order.group(row));
        let from = doubtful.partition_point(|&at| at < group * steps);
        let cells = &doubtful[from..doubtful.partition_point(|&at| at < (group + 1) * steps)];
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        budget.hold(size_of_val(cells) * (size_of::<Exact>() / size_of::<usize>()))?;
        let (mut sums, mut scratch) = (vec![Exact::default(); cells.len()], Scratch::new(budget));
        let mut buffer = vec![ABSENT; steps];
        for &row in rows {
            budget.check()?;
            let row = match input {
                Vector::Block(block) => block.row(row as usize),
                Vector::Rows(lazy) => {
                    lazy.fill(row as usize, &mut scratch, &mut buffer)?;
                    &buffer[..]
                }
            };
            let seen = cells.iter().map(|at| row[at - group * steps]).zip(&mut sums);
            seen.filter(|(v, _)| present(*v)).for_each(|(v, sum)| sum.add(v));
        }
        let value = |sum: &Exact| if op == AggregateOp::Avg { sum.mean() } else { sum.value() };
        Ok(cells.iter().copied().zip(sums.iter().map(value)).collect())
    };
    let found: Vec<Vec<(usize, f64)>> = groups.into_par_iter().map(of_group).collect::<Result<_>>()?;
    found.into_iter().flatten().for_each(|(at, sum)| values[at] = sum);
    Ok(())
}

#[allow(clippy::too_many_arguments)] // The task of one thread: its rows and its buffers.
fn fold_segment(
    op: AggregateOp,
    input: &Vector<'_>,
    order: &Order,
    rows: &[u32],
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
                partial.fold_mixed(op, at, row, order.group(row), buffer, cells);
            }
            Vector::Block(block) => {
                let cells = block.cells.row(row as usize);
                if cells.is_empty() {
                    partial.fold(op, at, block.row(row as usize));
                } else {
                    buffer.copy_from_slice(block.row(row as usize));
                    partial.fold_mixed(op, at, row, order.group(row), buffer, cells.to_vec());
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
