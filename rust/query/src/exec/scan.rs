//! Rows that are still in the store: what to read of each series, the window function over it, and the
//! functions over the result, applied row by row when somebody asks for the row.
//!
//! An aggregation folds such rows one after the other and never holds them all.

use std::sync::Arc;

use metricsdb_model::budget::Visits;
use metricsdb_model::sample::is_stale;
use metricsdb_model::{Budget, Grouping, Groups, Result, Samples, SeriesSet, TimeRange, Wants};
use rayon::prelude::*;

use super::block::{ABSENT, Block, LabelColumn, present};
use super::edges::{self, Edges};
use super::grid::{Grid, Looks, filled};
use crate::function::sliding::{Sliding, Windows};
use crate::function::summary::OfSummary;
use crate::function::{Window, WindowFn};

/// Work of one row between two looks at the budget: a window counts for its samples, and for this many more.
const WORK_PER_CHECK: usize = 1 << 18;
const WORK_OF_WINDOW: usize = 1 << 8;

/// Changes one row in place; leaves `ABSENT` as it is.
pub(crate) type RowMap<'a> = Box<dyn Fn(&mut [f64]) + Send + Sync + 'a>;

/// Scalar arguments of a call, step after step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    /// `steps x count`.
    values: Vec<f64>,
    count: usize,
}

impl Args {
    /// From one column of `steps` values per argument.
    pub fn new(columns: &[Vec<f64>]) -> Args {
        let count = columns.len();
        let steps = columns.first().map_or(0, Vec::len);
        let values = (0..steps).flat_map(|s| columns.iter().map(move |c| c[s])).collect();
        Args { values, count }
    }

    pub fn at(&self, step: usize) -> &[f64] {
        &self.values[step * self.count..(step + 1) * self.count]
    }
}

/// How a row comes out of the samples of its series.
pub(crate) enum Leaf {
    /// The newest sample within the lookback, or its time.
    Instant { looks: Looks, lookback: i64, times: bool },
    /// The line between the samples around each time.
    Smoothed { looks: Looks, lookback: i64 },
    /// A function of the samples in `(t - range, t]`.
    Window(WindowLeaf),
}

pub(crate) struct WindowLeaf {
    pub looks: Looks,
    pub range: i64,
    pub kernel: WindowFn,
    pub sliding: Sliding,
    pub edges: Option<Edges>,
    pub args: Args,
    pub grid: Grid,
    /// The function as one of what the samples come to, where there is such a form.
    pub of_summary: Option<OfSummary>,
}

/// Whose metric name goes at the end of the query.
#[derive(Clone)]
pub(crate) enum DropName {
    All(bool),
    Each(Vec<bool>),
}

pub(crate) struct Rows<'a> {
    pub set: Arc<dyn SeriesSet + 'a>,
    pub leaf: Leaf,
    pub maps: Vec<RowMap<'a>>,
    pub drop_name: DropName,
    pub steps: usize,
}

/// Buffers of one thread, told to the account of memory.
pub(crate) struct Scratch<'b> {
    samples: Samples,
    budget: &'b Budget,
    held: usize,
}

impl<'b> Scratch<'b> {
    pub fn new(budget: &'b Budget) -> Scratch<'b> {
        Scratch { samples: Samples::default(), budget, held: 0 }
    }

    fn account(&mut self) -> Result<()> {
        let bytes = self.samples.timestamps.capacity() * size_of::<i64>()
            + self.samples.values.capacity() * size_of::<f64>();
        let more = bytes.saturating_sub(self.held);
        self.held += more;
        if more == 0 { Ok(()) } else { self.budget.hold(more) }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.budget.release(self.held);
    }
}

impl<'a> Rows<'a> {
    pub fn len(&self) -> usize {
        self.set.len()
    }

    pub fn drops_name(&self, row: usize) -> bool {
        match &self.drop_name {
            DropName::All(all) => *all,
            DropName::Each(each) => each[row],
        }
    }

    pub fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        self.set.group(grouping, budget)
    }

    /// Bytes held by the set, beyond what its selection has told, and by what there is a step of.
    pub fn bytes(&self) -> usize {
        let args = match &self.leaf {
            Leaf::Window(window) => window.args.values.len(),
            _ => 0,
        };
        self.set.bytes() + size_of::<f64>() * (args + self.maps.len() * self.steps)
    }

    /// Reads and computes one row into `out`, which holds one value per step.
    pub fn fill(&self, row: usize, scratch: &mut Scratch<'_>, out: &mut [f64]) -> Result<()> {
        self.fill_leaf(row, scratch, out)?;
        if let (Some(visits), Leaf::Instant { .. } | Leaf::Smoothed { .. }) =
            (scratch.budget.visits(), &self.leaf)
        {
            let seen = out.iter().enumerate().filter(|(_, v)| present(**v));
            seen.for_each(|(step, _)| visits.add(step, 1));
        }
        for map in &self.maps {
            map(out);
        }
        Ok(())
    }

    fn fill_leaf(&self, row: usize, scratch: &mut Scratch<'_>, out: &mut [f64]) -> Result<()> {
        let budget = scratch.budget;
        match &self.leaf {
            Leaf::Instant { looks, lookback, times } if looks.count == 1 => {
                let found = self.set.newest(row, looks.reach(*lookback))?;
                budget.take_samples(u64::from(found.is_some()))?;
                out.fill(match found {
                    Some((t, v)) if !is_stale(v) => instant_value(t, v, *times),
                    _ => ABSENT,
                });
            }
            Leaf::Instant { looks, lookback, times } => {
                let samples = read(&*self.set, row, looks.reach(*lookback), scratch)?;
                newest(samples, looks, *lookback, *times, out);
            }
            Leaf::Smoothed { looks, lookback } => {
                let samples = read(&*self.set, row, looks.around(*lookback, *lookback), scratch)?;
                samples.drop_stale(0);
                edges::smooth(samples, looks, *lookback, out);
            }
            Leaf::Window(window)
                if budget.visits().is_none()
                    && window.fill_from_summaries(&*self.set, row, budget, out)? => {}
            Leaf::Window(window) => {
                let samples = read(&*self.set, row, window.reach(), scratch)?;
                samples.drop_stale(0);
                if let Some(visits) = budget.visits() {
                    window.count(samples, out.len(), visits);
                }
                match window.edges {
                    Some(edges) => edges.slide(window, samples, out),
                    None => window.slide(samples, budget, out)?,
                }
            }
        }
        Ok(())
    }

    /// Reads every row; those without any sample are left out.
    pub fn into_block(self, budget: &Budget) -> Result<Block<'a>> {
        let (rows, steps) = (self.len(), self.steps);
        let mut values = filled(budget, rows, steps, ABSENT)?;
        budget.hold(rows * (size_of::<u32>() + 2))?;
        let full: Vec<bool> = values
            .par_chunks_mut(steps)
            .enumerate()
            .with_min_len(16)
            .map_init(
                || Scratch::new(budget),
                |scratch, (i, out)| {
                    self.fill(i, scratch, out)?;
                    Ok(out.iter().any(|&v| present(v)))
                },
            )
            .collect::<Result<_>>()?;
        let drop_name = (0..rows).map(|i| self.drops_name(i)).collect();
        let labels = LabelColumn::Stored { set: self.set, index: (0..rows as u32).collect() };
        let mut block = Block { steps, values, labels, drop_name, ordered: false };
        block.retain(budget, |i| full[i])?;
        Ok(block)
    }
}

fn read<'s>(
    set: &dyn SeriesSet,
    row: usize,
    range: TimeRange,
    scratch: &'s mut Scratch<'_>,
) -> Result<&'s mut Samples> {
    scratch.samples.clear();
    set.read(row, range, &mut scratch.samples)?;
    scratch.account()?;
    scratch.budget.take_samples(scratch.samples.len() as u64)?;
    Ok(&mut scratch.samples)
}

fn instant_value(t: i64, value: f64, times: bool) -> f64 {
    if times { t as f64 / 1000.0 } else { value }
}

/// The newest sample in `(t - lookback, t]` of every look; a staleness marker ends the series.
fn newest(samples: &Samples, looks: &Looks, lookback: i64, times: bool, out: &mut [f64]) {
    let (ts, values) = (&samples.timestamps[..], &samples.values[..]);
    let mut next = 0;
    let mut look = |t: i64| {
        while next < ts.len() && ts[next] <= t {
            next += 1;
        }
        match next.checked_sub(1) {
            Some(i) if ts[i] > t.saturating_sub(lookback) && !is_stale(values[i]) => {
                instant_value(ts[i], values[i], times)
            }
            _ => ABSENT,
        }
    };
    for (i, slot) in out.iter_mut().enumerate() {
        *slot = look(looks.time(i));
    }
}

impl WindowLeaf {
    fn reach(&self) -> TimeRange {
        match self.edges {
            Some(edges) => edges.reach(&self.looks, self.range),
            None => self.looks.reach(self.range),
        }
    }

    /// The samples in the window of each step.
    fn count(&self, samples: &Samples, steps: usize, visits: &Visits) {
        let ts = &samples.timestamps[..];
        let looks = self.looks;
        let within = |t: i64| {
            let after = ts.partition_point(|&x| x <= t.saturating_sub(self.range));
            (ts.partition_point(|&x| x <= t) - after) as u64
        };
        (0..steps).for_each(|step| visits.add(step, within(looks.time(step))));
    }

    /// Fills the row from what storage knows of whole blocks; false, and the row is undefined, where it
    /// doesn't know enough. Worth a try where windows don't overlap.
    fn fill_from_summaries(
        &self,
        set: &dyn SeriesSet,
        row: usize,
        budget: &Budget,
        out: &mut [f64],
    ) -> Result<bool> {
        let Some(function) = self.of_summary.filter(|_| self.edges.is_none()) else { return Ok(false) };
        if self.looks.count > 1 && self.looks.step < self.range {
            return Ok(false);
        }
        for i in 0..self.looks.count.min(out.len()) {
            let end = self.looks.time(i);
            let start = end.saturating_sub(self.range);
            let range = TimeRange::new(start.saturating_add(1), end);
            let Some(summary) = set.summary(row, range, function.wants)? else { return Ok(false) };
            // An infinite sum: a mean that is taken step by step may still be finite.
            if function.wants == Wants::Sum && !summary.sum().is_finite() {
                return Ok(false);
            }
            budget.check()?;
            out[i] = (function.eval)(&summary, start, end).unwrap_or(ABSENT);
        }
        if self.looks.count == 1
            && let Some((first, rest)) = out.split_first_mut()
        {
            rest.fill(*first);
        }
        Ok(true)
    }

    /// Two edges move over the samples, step by step.
    fn slide(&self, samples: &Samples, budget: &Budget, out: &mut [f64]) -> Result<()> {
        if samples.is_empty() {
            out.fill(ABSENT);
            return Ok(());
        }
        let ts = &samples.timestamps[..];
        let mut windows = Windows::new(self.kernel, self.sliding, ts, &samples.values);
        let (mut low, mut high, mut work) = (0, 0, 0);
        for (i, slot) in out.iter_mut().enumerate() {
            let end = self.looks.time(i);
            let start = end.saturating_sub(self.range);
            while high < ts.len() && ts[high] <= end {
                high += 1;
            }
            while low < high && ts[low] <= start {
                low += 1;
            }
            // A window may hold years: a row of them can take long.
            work += high - low + WORK_OF_WINDOW;
            if work >= WORK_PER_CHECK {
                budget.check()?;
                work = 0;
            }
            *slot = ABSENT;
            if low < high {
                let (at, args) = (self.grid.time(i), self.args.at(i));
                let bounds = Window { timestamps: &[], values: &[], start, end, at, args };
                if let Some(value) = windows.eval(low..high, &bounds) {
                    *slot = value;
                }
            }
        }
        Ok(())
    }
}
