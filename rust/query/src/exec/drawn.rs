//! Sums, counts and means of series that stand for others: scaled, and how far off that may be.
//!
//! Strata were drawn from each by itself, without replacement: what a stratum comes to is its weight times what its drawn
//! series come to, and series that a query leaves out count as zeros in its variance. Of a stratum of one drawn series no
//! variance can be seen: what it would be if each series had been drawn by itself stands for it, which is more.

use std::collections::BTreeMap;

use metricsdb_model::{Budget, Drawn, Result, TimeRange};
use rayon::prelude::*;

use super::aggregate::Order;
use super::block::{Vector, present};
use super::scan::{Rows, Scratch};
use crate::annotations::{Note, Scaling};
use crate::syntax::tree::AggregateOp;

/// The rows of which an aggregation scales what they come to.
pub(crate) fn scaled<'v, 'a>(op: AggregateOp, input: &'v Vector<'a>) -> Option<&'v Rows<'a>> {
    let Vector::Rows(rows) = input else { return None };
    let draws = rows.set.draws();
    let all = !draws.is_empty() && draws.iter().all(|draw| draw.scales) && !rows.set.any_histograms();
    let scales = matches!(op, AggregateOp::Sum | AggregateOp::Count | AggregateOp::Avg);
    (all && scales).then_some(rows)
}

/// What the drawn series of a stratum come to at one step.
#[derive(Clone, Copy, Default)]
struct Stratum {
    of: f64,
    kept: f64,
    count: f64,
    sum: f64,
    squares: f64,
}

impl Stratum {
    fn add(&mut self, drawn: Drawn, value: f64) {
        self.of = self.of.max(f64::from(drawn.of));
        self.kept = self.kept.max(f64::from(drawn.kept));
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    fn weight(&self) -> f64 {
        self.of / self.kept
    }

    /// The variance of `weight * sum` of the values less `centre`.
    fn variance(&self, centre: f64) -> f64 {
        let sum = self.sum - self.count * centre;
        let squares = self.squares - 2.0 * centre * self.sum + self.count * centre * centre;
        if self.kept < 2.0 {
            return self.weight() * (self.weight() - 1.0) * squares;
        }
        let spread = (squares - sum * sum / self.kept) / (self.kept - 1.0);
        self.of * self.of * (1.0 - self.kept / self.of) * spread.max(0.0) / self.kept
    }
}

/// What a group comes to at one step.
#[derive(Clone, Default)]
struct Tally {
    /// Of series that stand for themselves.
    count: f64,
    sum: f64,
    /// In an order, so that sums are the same each time.
    strata: BTreeMap<u64, Stratum>,
}

impl Tally {
    /// The value, and its standard error.
    fn value(&self, op: AggregateOp, plain: f64) -> (f64, f64) {
        let (mut total, mut number) = (self.sum, self.count);
        for stratum in self.strata.values() {
            total += stratum.weight() * stratum.sum;
            number += stratum.weight() * stratum.count;
        }
        let error = |centre: f64| self.strata.values().map(|s| s.variance(centre)).sum::<f64>().sqrt();
        if op != AggregateOp::Avg {
            return (total, error(0.0));
        }
        let first = self.strata.values().next().map_or(1.0, Stratum::weight);
        let even = self.count == 0.0 && self.strata.values().all(|s| s.weight() == first);
        let mean = if even { plain } else { total / number };
        (mean, error(mean) / number)
    }
}

/// Puts what scaled rows come to in the place of what they come to by themselves, group by group in `values`.
pub(crate) fn scale(
    op: AggregateOp,
    rows: &Rows<'_>,
    order: &Order,
    steps: usize,
    values: &mut [f64],
    budget: &Budget,
) -> Result<()> {
    let draws = rows.set.draws();
    let sees: Vec<TimeRange> = (0..steps).map(|step| rows.leaf.sees(step)).collect();
    let both = |seen: &TimeRange| draws.iter().any(|d| seen.start <= d.until && d.until < seen.end);
    let edges: Vec<bool> = sees.iter().map(both).collect();
    let groups: Vec<&[u32]> = order.rows.chunk_by(|a, b| order.group(*a) == order.group(*b)).collect();
    budget.hold(groups.len() * steps * size_of::<f64>())?;
    let place = |of: &[u32]| of.first().map_or(0, |&row| order.group(row)) * steps;
    let plain: &[f64] = values;
    let of_group = |of: &&[u32]| -> Result<(Vec<(usize, f64)>, Scaling)> {
        let tallies = tally(op, rows, of, &sees, budget)?;
        let (mut found, mut scaling) = (Vec::new(), Scaling::default());
        for (step, tally) in tallies.iter().enumerate().filter(|(_, tally)| !tally.strata.is_empty()) {
            if edges[step] {
                scaling.edge = true;
                continue;
            }
            let at = place(of) + step;
            let (value, error) = tally.value(op, plain[at]);
            found.push((at, value));
            scaling.add(tally.strata.values().map(Stratum::weight).fold(1.0, f64::max), value, error);
        }
        Ok((found, scaling))
    };
    let all: Vec<(Vec<(usize, f64)>, Scaling)> = groups.par_iter().map(of_group).collect::<Result<_>>()?;
    let mut whole = Scaling::default();
    for (found, scaling) in all {
        found.into_iter().for_each(|(at, value)| values[at] = value);
        whole.merge(&scaling);
    }
    let texts: Vec<&str> = draws.iter().map(|draw| &*draw.text).collect();
    let of = rows.remarks.notes.text(rows.remarks.span);
    rows.remarks.add(Note::Scaled { of, draw: texts.join(", "), scaling: whole });
    Ok(())
}

fn tally(
    op: AggregateOp,
    rows: &Rows<'_>,
    of: &[u32],
    sees: &[TimeRange],
    budget: &Budget,
) -> Result<Vec<Tally>> {
    let uncounted = budget.uncounted();
    let bytes = sees.len() * (size_of::<Tally>() + size_of::<(u64, Stratum)>());
    budget.hold(bytes)?;
    let (mut scratch, mut buffer) = (Scratch::new(&uncounted), vec![super::block::ABSENT; sees.len()]);
    let mut tallies = vec![Tally::default(); sees.len()];
    for &row in of {
        budget.check()?;
        rows.fill(row as usize, &mut scratch, &mut buffer)?;
        let seen = buffer.iter().zip(sees).zip(&mut tallies).filter(|((value, _), _)| present(**value));
        for ((&value, &range), tally) in seen {
            let value = if op == AggregateOp::Count { 1.0 } else { value };
            match rows.set.drawn(row as usize, range) {
                Some(drawn) => tally.strata.entry(drawn.stratum).or_default().add(drawn, value),
                None => {
                    tally.count += 1.0;
                    tally.sum += value;
                }
            }
        }
    }
    drop(scratch);
    budget.release(bytes);
    Ok(tallies)
}
