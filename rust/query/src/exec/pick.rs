//! Aggregations that need all values of a group at once: topk, bottomk, limitk, limit_ratio, quantile,
//! count_values.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::order::{sort_by, sort_owned};
use metricsdb_model::{Budget, Error, Grouping, Groups, Labels, Result};
use rayon::prelude::*;

use super::aggregate::{dropped_names, groups_of};
use super::block::{ABSENT, Block, LabelColumn, Vector, present};
use super::cells::Cells;
use super::grid::filled;
use super::mixed::Remarks;
use crate::annotations::Note;
use crate::function::quantile::quantile;
use crate::histogram::FloatHistogram;
use crate::number::Shortest;

/// Labels that count_values makes of one row between two looks at the budget.
const STEPS_PER_CHECK: usize = 256;

/// Rows among which the best are found, between two looks at the budget.
const ROWS_PER_CHECK: usize = 1 << 16;

/// Which rows of a group stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    Largest,
    Smallest,
    /// Any k, by label order.
    Any,
    /// A share of them, by the hash of the labels.
    Share,
}

/// Rows of each group, in the order of the groups.
pub(super) fn members(groups: &Groups, budget: &Budget) -> Result<Vec<Vec<u32>>> {
    budget.hold(groups.labels.len() * size_of::<Vec<u32>>() + groups.of.len() * 2 * size_of::<u32>())?;
    let mut members = vec![Vec::new(); groups.labels.len()];
    for (row, &g) in groups.of.iter().enumerate() {
        budget.check_at(row)?;
        members[g as usize].push(row as u32);
    }
    Ok(members)
}

/// NaN comes last, whichever end is asked for.
fn better(pick: Pick, a: f64, b: f64) -> Ordering {
    let natural = match pick {
        Pick::Smallest => a.partial_cmp(&b),
        _ => b.partial_cmp(&a),
    };
    natural.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// topk, bottomk, limitk, limit_ratio: blanks what is not picked. `parameter` is k, or the ratio, at
/// each step. With one step the rows come in the order of their values.
pub(crate) fn pick<'a>(
    pick: Pick,
    input: Vector<'a>,
    grouping: &Grouping,
    parameter: &[f64],
    budget: &Budget,
    remarks: Remarks<'_>,
) -> Result<Block<'a>> {
    let input = Vector::Block(input.into_block(budget)?);
    let members = members(&groups_of(&input, grouping, budget)?, budget)?;
    budget.check()?;
    let mut block = input.into_block(budget)?;
    let steps = block.steps;
    let mut order: Vec<usize> = Vec::new();
    // The flags, the rows found at a step, and their order.
    budget.hold(block.values.len() + block.len() * (size_of::<usize>() + size_of::<u32>()))?;
    let mut keep = vec![false; block.values.len()];
    if matches!(pick, Pick::Any | Pick::Share) {
        block.labels_ready(budget)?;
    } else if !block.cells.is_empty() {
        let asked = |step: usize| parameter[step] >= 1.0;
        if (0..block.len()).any(|r| (0..steps).any(|s| asked(s) && block.cells.get(r, s).is_some())) {
            remarks.add(Note::IgnoredInAggregation(if pick == Pick::Largest { "topk" } else { "bottomk" }));
        }
        block.cells.clear();
    }
    for rows in members {
        let mut found: Vec<u32> = Vec::with_capacity(rows.len());
        for step in 0..steps {
            budget.check()?;
            found.clear();
            for rows in rows.chunks(ROWS_PER_CHECK) {
                budget.check()?;
                found.extend(rows.iter().filter(|&&r| block.has(r as usize, step)));
            }
            match pick {
                Pick::Share => {
                    found.retain(|&r| in_share(&block.labels.get(r as usize), parameter[step]));
                }
                Pick::Any => {
                    by_labels(&block, &mut found, budget)?;
                    found.truncate(count(parameter[step]));
                }
                Pick::Largest | Pick::Smallest => {
                    best(&block, pick, step, count(parameter[step]), &mut found, budget)?;
                }
            }
            for &r in &found {
                keep[r as usize * steps + step] = true;
            }
            if steps == 1 {
                order.extend(found.iter().map(|&r| r as usize));
            }
        }
    }
    for (values, keep) in block.values.chunks_mut(ROWS_PER_CHECK).zip(keep.chunks(ROWS_PER_CHECK)) {
        budget.check()?;
        values.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(v, _)| *v = ABSENT);
    }
    block.cells.retain(|row, step| keep[row * steps + step]);
    if steps == 1 {
        block.reorder(&order, budget)?;
        block.ordered = matches!(pick, Pick::Largest | Pick::Smallest);
    } else {
        block.drop_empty(budget)?;
        block.ordered = false;
    }
    Ok(block)
}

fn count(k: f64) -> usize {
    if k < 1.0 { 0 } else { k as usize }
}

/// Leaves the k best rows in `found`, best first; equal values go by labels.
fn best(
    block: &Block<'_>,
    pick: Pick,
    step: usize,
    k: usize,
    found: &mut Vec<u32>,
    budget: &Budget,
) -> Result<()> {
    let value = |r: &u32| block.row(*r as usize)[step];
    let by_value = |a: &u32, b: &u32| better(pick, value(a), value(b));
    if k == 0 {
        found.clear();
        return Ok(());
    }
    if k < found.len() {
        let last = kth(found, k, budget, by_value)?;
        let (mut sure, mut tied) = (Vec::new(), Vec::new());
        for (i, r) in found.iter().enumerate() {
            budget.check_at(i)?;
            match by_value(r, &last) {
                Ordering::Less => sure.push(*r),
                Ordering::Equal => tied.push(*r),
                Ordering::Greater => {}
            }
        }
        // Rows as good as the last one taken compete by their labels.
        if sure.len() + tied.len() > k {
            by_labels(block, &mut tied, budget)?;
            tied.truncate(k - sure.len());
        }
        *found = sure;
        found.extend(tied);
    }
    by_labels(block, found, budget)?;
    sort_by(found, budget, by_value)
}

/// One of the rows with the `k`-th best value; there are more than `k` of them, and `k` is not 0.
fn kth(rows: &[u32], k: usize, budget: &Budget, compare: impl Fn(&u32, &u32) -> Ordering) -> Result<u32> {
    let mut best: Vec<u32> = Vec::new();
    let bytes = size_of::<u32>() * if k > ROWS_PER_CHECK { rows.len() } else { ROWS_PER_CHECK + k };
    budget.hold(bytes)?;
    if k > ROWS_PER_CHECK {
        best.extend_from_slice(rows);
        sort_by(&mut best, budget, &compare)?;
    } else {
        // The standard library's selection cannot be stopped: it sees a few rows at once.
        for piece in rows.chunks(ROWS_PER_CHECK) {
            budget.check()?;
            best.extend_from_slice(piece);
            if best.len() > k {
                best.select_nth_unstable_by(k - 1, &compare);
                best.truncate(k);
            }
        }
    }
    budget.release(bytes);
    best.get(k - 1).copied().ok_or_else(|| Error::execution("fewer rows than are to be picked"))
}

/// Sorts rows by their labels.
fn by_labels(block: &Block<'_>, rows: &mut Vec<u32>, budget: &Budget) -> Result<()> {
    if let LabelColumn::Ready(labels) = &block.labels {
        return sort_by(rows, budget, |&a, &b| labels[a as usize].cmp(&labels[b as usize]));
    }
    let mut keyed: Vec<(Labels, u32)> = Vec::with_capacity(rows.len());
    for &row in rows.iter() {
        budget.check()?;
        let labels = block.labels.get(row as usize);
        budget.hold(2 * size_of::<(Labels, u32)>() + labels.heap_bytes())?;
        keyed.push((labels, row));
    }
    sort_owned(&mut keyed, budget, |a, b| a.0.cmp(&b.0))?;
    rows.clear();
    rows.extend(keyed.iter().map(|k| k.1));
    Ok(())
}

/// Positive ratios take the hashes below, negative ones the complement: together they are everything.
fn in_share(labels: &Labels, ratio: f64) -> bool {
    let place = labels.hash64() as f64 / u64::MAX as f64;
    if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio }
}

/// quantile: one row per group.
pub(crate) fn quantiles<'a>(
    input: Vector<'a>,
    grouping: &Grouping,
    phi: &[f64],
    budget: &Budget,
    remarks: Remarks<'_>,
) -> Result<Block<'a>> {
    let input = Vector::Block(input.into_block(budget)?);
    let groups = groups_of(&input, grouping, budget)?;
    let drop_name = dropped_names(&input, &groups);
    let block = input.into_block(budget)?;
    if !block.cells.is_empty() {
        remarks.add(Note::IgnoredInAggregation("quantile"));
    }
    let steps = block.steps;
    let members = members(&groups, budget)?;
    let mut values = filled(budget, members.len(), steps, ABSENT)?;
    values.par_chunks_mut(steps).zip(&members).try_for_each_init(Vec::new, |found, (out, rows)| {
        for (step, slot) in out.iter_mut().enumerate() {
            budget.check()?;
            found.clear();
            found.extend(rows.iter().map(|&r| block.row(r as usize)[step]).filter(|&v| present(v)));
            if !found.is_empty() {
                *slot = quantile(phi[step], found);
            }
        }
        Ok::<(), Error>(())
    })?;
    let (labels, cells) = (LabelColumn::Ready(groups.labels), Cells::default());
    let mut result = Block { steps, values, cells, labels, drop_name, ordered: false };
    result.drop_empty(budget)?;
    Ok(result)
}

/// A value as Prometheus writes it into a label: shortest digits, no exponent.
pub(crate) fn plain_number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{value}")
}

/// A histogram as Prometheus writes it into a label: buckets that hold something, ascending.
fn histogram_text(histogram: &FloatHistogram) -> String {
    let mut text = format!("{{count:{}, sum:{}", Shortest(histogram.count), Shortest(histogram.sum));
    for b in histogram.to_model().filled_buckets() {
        let (open, close) =
            (if b.lower_inclusive { '[' } else { '(' }, if b.upper_inclusive { ']' } else { ')' });
        let [lower, upper, count] = [b.lower, b.upper, b.count].map(Shortest);
        text += &format!(", {open}{lower},{upper}{close}:{count}");
    }
    text + "}"
}

/// count_values: one row per group and distinct value, which becomes the label `label`.
pub(crate) fn count_values<'a>(
    input: Vector<'a>,
    grouping: &Grouping,
    label: &str,
    budget: &Budget,
) -> Result<Block<'a>> {
    if label.is_empty() {
        return Err(Error::execution(format!("invalid label name {label:?}")));
    }
    let block = input.into_block(budget)?;
    let steps = block.steps;
    let mut rows: HashMap<Labels, usize> = HashMap::new();
    let mut result = Block::empty(steps);
    let blank = vec![ABSENT; steps];
    for row in 0..block.len() {
        budget.check()?;
        let kept = match grouping {
            Grouping::By(_) => grouping.apply(&block.labels.get(row)),
            Grouping::Without(_) => grouping.apply(&block.labels.get(row)).retain(|name| name != METRIC_NAME),
        };
        let mut last: Option<(u64, usize)> = None;
        for step in 0..steps {
            if step % STEPS_PER_CHECK == 0 {
                budget.check()?;
            }
            let value = block.row(row)[step];
            let cell = block.cells.get(row, step);
            if !present(value) && cell.is_none() {
                continue;
            }
            let to = match last {
                Some((bits, to)) if bits == value.to_bits() && cell.is_none() => to,
                _ => {
                    let text = cell.map_or_else(|| plain_number(value), |h| histogram_text(h));
                    let labels = kept.with(label, &text);
                    let next = rows.len();
                    match rows.entry(labels) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            budget.hold(2 * (steps * size_of::<f64>() + new.key().heap_bytes() + 64))?;
                            result.push(new.key().clone(), false, &blank);
                            *new.insert(next)
                        }
                    }
                }
            };
            last = cell.is_none().then_some((value.to_bits(), to));
            let slot = &mut result.row_mut(to)[step];
            *slot = if present(*slot) { *slot + 1.0 } else { 1.0 };
        }
    }
    Ok(result)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use metricsdb_model::budget::{Gate, Limits, Stop};

    use super::*;

    /// Comparisons since the last look at the budget, and the most there were between two.
    #[derive(Default)]
    struct Compared {
        since: AtomicUsize,
        most: AtomicUsize,
    }

    impl Gate for Compared {
        fn pass(&self) {
            self.most.fetch_max(self.since.swap(0, Relaxed), Relaxed);
        }
    }

    #[test]
    fn the_best_are_found_with_a_look_at_the_budget_every_few_rows() {
        let rows: Vec<u32> = (0..8 * ROWS_PER_CHECK as u32).collect();
        let value = |row: u32| row.wrapping_mul(2_654_435_761) % 100_003;
        let mut sorted: Vec<u32> = rows.iter().map(|row| value(*row)).collect();
        sorted.sort_unstable();
        for k in [1, 10, ROWS_PER_CHECK, ROWS_PER_CHECK + 1, rows.len() - 1] {
            let (stop, compared) = (Stop::default(), Arc::new(Compared::default()));
            let limits = Limits { timeout_ms: 0, samples_max: u64::MAX, bytes_max: u64::MAX };
            let budget = Budget::with(stop.clone(), limits, Some(compared.clone()), None);
            // Every look passes the gate then.
            stop.pause(true);
            let found = kth(&rows, k, &budget, |a, b| {
                compared.since.fetch_add(1, Relaxed);
                value(*a).cmp(&value(*b))
            });
            compared.pass();
            assert_eq!(value(found.unwrap()), sorted[k - 1], "{k}");
            let most = compared.most.load(Relaxed);
            assert!(most <= 8 * ROWS_PER_CHECK, "{k}: {most} comparisons without a look");
            assert_eq!(budget.bytes_held(), 0);
        }
    }
}
