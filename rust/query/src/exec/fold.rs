//! Histograms in aggregations that fold: sums and means of them, groups of numbers and histograms, and the
//! aggregations that leave them out.

use std::collections::BTreeMap;

use metricsdb_model::{Budget, Result};
use rayon::prelude::*;

use super::block::{ABSENT, present};
use super::cells::{CellRow, Cells};
use super::mixed::Remarks;
use crate::annotations::Note;
use crate::histogram::{Accumulator, Remark};
use crate::syntax::tree::AggregateOp;

/// What an aggregation does with a histogram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// As with any sample.
    Counted,
    Folded,
    Ignored,
}

impl Role {
    pub fn of(op: AggregateOp) -> Role {
        use AggregateOp::{Avg, Max, Min, Stddev, Stdvar, Sum};
        match op {
            Sum | Avg => Role::Folded,
            Min | Max | Stddev | Stdvar => Role::Ignored,
            _ => Role::Counted,
        }
    }
}

/// What the histograms of one group come to at one step.
enum State {
    Nothing,
    Sum(Accumulator),
    /// Exponential and custom buckets met: there is no result.
    Incompatible,
}

/// The histograms of all groups.
pub(crate) struct Histograms<'n> {
    op: AggregateOp,
    steps: usize,
    remarks: Remarks<'n>,
    met: bool,
    groups: BTreeMap<usize, Vec<State>>,
    /// Rows that wait to be folded, with their groups: in the order of both.
    waiting: Vec<(usize, u32, CellRow)>,
}

impl<'n> Histograms<'n> {
    pub fn new(op: AggregateOp, steps: usize, remarks: Remarks<'n>) -> Histograms<'n> {
        let (groups, waiting) = (BTreeMap::new(), Vec::new());
        Histograms { op, steps, remarks, met: false, groups, waiting }
    }

    /// Takes what one part of the rows held.
    pub fn take(&mut self, rows: Vec<(usize, u32, CellRow)>, met: bool) {
        self.waiting.extend(rows);
        self.met |= met;
    }

    /// Folds what waits: all steps of a group at once, rows in order. `metric` names that of a row.
    pub fn fold(&mut self, metric: impl Fn(u32) -> String + Sync, budget: &Budget) -> Result<()> {
        let (steps, mean, remarks) = (self.steps, self.op == AggregateOp::Avg, self.remarks);
        for rows in std::mem::take(&mut self.waiting).chunk_by(|a, b| a.0 == b.0) {
            let Some(&(group, ..)) = rows.first() else { continue };
            let states = self.groups.entry(group).or_default();
            budget.hold((steps - states.len()) * size_of::<State>())?;
            states.resize_with(steps, || State::Nothing);
            states.par_iter_mut().enumerate().with_min_len(4).try_for_each(|(step, state)| {
                budget.check()?;
                for (_, row, cells) in rows {
                    let Some(histogram) = cells.get(step).and_then(Option::as_ref) else { continue };
                    match state {
                        State::Nothing => {
                            let sum = match mean {
                                true => Accumulator::mean_of(histogram),
                                false => Accumulator::sum_of(histogram),
                            };
                            budget.hold(sum.bytes())?;
                            *state = State::Sum(sum);
                        }
                        State::Sum(sum) => {
                            if sum.add(histogram).is_err() {
                                remarks.add(Remark::MixedSchemas.note(&metric(*row)));
                                *state = State::Incompatible;
                            }
                        }
                        State::Incompatible => break,
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The histograms of the result. Where a group holds numbers too, there is no result: these go as well.
    pub fn finish(self, values: &mut [f64]) -> Cells {
        if self.met && Role::of(self.op) == Role::Ignored {
            self.remarks.add(Note::IgnoredInAggregation(self.op.as_str()));
        }
        let mut cells = Cells::default();
        for (group, states) in self.groups {
            let numbers = &mut values[group * self.steps..(group + 1) * self.steps];
            let row = states.into_iter().zip(numbers).map(|(state, number)| {
                if matches!(state, State::Nothing) {
                    return None;
                }
                if present(*number) {
                    self.remarks.add(Remark::MixedAggregation.note(""));
                    *number = ABSENT;
                    return None;
                }
                let State::Sum(sum) = state else { return None };
                self.remarks.all(sum.remarks(), String::new);
                let mut result = sum.finish();
                result.compact();
                Some(std::sync::Arc::new(result))
            });
            cells.put(group, row.collect());
        }
        cells
    }
}
