//! Rows that are still in the store: what to read of each series, the window function over it, and the
//! functions over the result, applied row by row when somebody asks for the row.
//!
//! An aggregation folds such rows one after the other and never holds them all.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use metricsdb_model::budget::Visits;
use metricsdb_model::sample::{drop_stale, is_stale};
use metricsdb_model::{Budget, Grouping, Groups, Result, Samples, SeriesSet, Summary, TimeRange, Wants};
use rayon::prelude::*;

use super::block::{ABSENT, Block, LabelColumn, present};
use super::cells::{CellRow, Cells, bytes, cost};
use super::edges::{self, Edges};
use super::grid::{Grid, Looks, filled};
use super::mixed::Remarks;
use super::native::Hints;
use super::places::Places;
use super::profile::Probe;
use crate::annotations::Note;
use crate::function::sliding::{Sliding, Windows};
use crate::function::summary::OfSummary;
use crate::function::{Window, WindowFn};
use crate::histogram::{PointsFn, ReadsRecords};

/// Work of one row between two looks at the budget: a window counts for its samples, and for this many more.
const WORK_PER_CHECK: usize = 1 << 18;
const WORK_OF_WINDOW: usize = 1 << 8;
/// Windows without common samples between two looks at the budget.
const WINDOWS_APART: usize = 1 << 10;

/// Changes the numbers of a row in place; leaves `ABSENT` as it is.
pub(crate) type NumberMap<'a> = Box<dyn Fn(&mut [f64]) + Send + Sync + 'a>;
/// Changes the histograms of a row in place; what becomes a number goes to the numbers, which stand first.
pub(crate) type HistogramMap<'a> = Box<dyn Fn(&mut [f64], &mut CellRow) + Send + Sync + 'a>;

/// A function over a row: of its numbers, and of its histograms where it has some.
pub(crate) struct RowMap<'a> {
    pub numbers: NumberMap<'a>,
    /// `None`: histograms are left out.
    pub histograms: Option<HistogramMap<'a>>,
}

impl<'a> RowMap<'a> {
    /// Of numbers; leaves histograms out.
    pub fn of_numbers(numbers: impl Fn(&mut [f64]) + Send + Sync + 'a) -> RowMap<'a> {
        RowMap { numbers: Box::new(numbers), histograms: None }
    }

    pub fn with_histograms(
        mut self,
        map: impl Fn(&mut [f64], &mut CellRow) + Send + Sync + 'a,
    ) -> RowMap<'a> {
        self.histograms = Some(Box::new(map));
        self
    }

    pub fn apply(&self, values: &mut [f64], cells: &mut CellRow) {
        (self.numbers)(values);
        if !cells.is_empty() {
            match &self.histograms {
                Some(map) => map(values, cells),
                None => cells.clear(),
            }
        }
    }
}

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
pub(crate) enum Leaf<'a> {
    /// The newest sample within the lookback.
    Instant { looks: Looks, lookback: i64, shows: Shows },
    /// The line between the samples around each time.
    Smoothed { looks: Looks, lookback: i64, remarks: Remarks<'a> },
    /// A function of the samples in `(t - range, t]`.
    Window(Box<WindowLeaf<'a>>),
}

impl Leaf<'_> {
    /// All sample times that some step can see.
    pub(super) fn reach(&self) -> TimeRange {
        match self {
            Leaf::Instant { looks, lookback, .. } => looks.reach(*lookback),
            Leaf::Smoothed { looks, lookback, .. } => looks.around(*lookback, *lookback),
            Leaf::Window(window) => match window.edges {
                Some(edges) => edges.reach(&window.looks, window.range),
                None => window.looks.reach(window.range),
            },
        }
    }
}

impl Leaf<'_> {
    /// The sample times that one step can see.
    pub(super) fn sees(&self, step: usize) -> TimeRange {
        let one = |looks: &Looks| Looks {
            first: looks.time(step.min(looks.count.saturating_sub(1))),
            step: 0,
            count: 1,
        };
        match self {
            Leaf::Instant { looks, lookback, .. } => one(looks).reach(*lookback),
            Leaf::Smoothed { looks, lookback, .. } => one(looks).around(*lookback, *lookback),
            Leaf::Window(window) => match window.edges {
                Some(edges) => edges.reach(&one(&window.looks), window.range),
                None => one(&window.looks).reach(window.range),
            },
        }
    }
}

/// What stands for a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Value,
    /// Its time in seconds.
    Time,
    /// When its counter began, in seconds; 0 where that is not known.
    Start,
}

pub(crate) struct WindowLeaf<'a> {
    pub looks: Looks,
    pub range: i64,
    pub kernel: WindowFn,
    pub sliding: Sliding,
    pub edges: Option<Edges>,
    pub args: Args,
    pub grid: Grid,
    /// The function looks at start timestamps.
    pub reads_starts: bool,
    /// It looks at no times.
    pub of_values: bool,
    /// The function as one of what the samples come to, where there is such a form.
    pub of_summary: Option<OfSummary>,
    /// The function is `quantile_over_time`, which sketches answer where samples are gone.
    pub is_quantile: bool,
    /// The function where histograms are in the window; `None`: it leaves them out.
    pub points: Option<PointsFn>,
    pub reads_records: ReadsRecords,
    /// The function is one of counters.
    pub wants_counter: bool,
    pub remarks: Remarks<'a>,
}

/// Whose metric name goes at the end of the query.
#[derive(Clone)]
pub(crate) enum DropName {
    All(bool),
    Each(Vec<bool>),
}

impl DropName {
    pub fn of(&self, row: usize) -> bool {
        match self {
            DropName::All(all) => *all,
            DropName::Each(each) => each[row],
        }
    }
}

pub(crate) struct Rows<'a> {
    pub set: Arc<dyn SeriesSet + 'a>,
    pub leaf: Leaf<'a>,
    pub maps: Vec<RowMap<'a>>,
    pub drop_name: DropName,
    pub steps: usize,
    /// What histograms are told of counter resets.
    pub hints: Hints,
    pub probe: Option<Box<Probe<'a>>>,
    /// Where it is said that rollups stand for samples.
    pub remarks: Remarks<'a>,
}

/// Buffers of one thread, told to the account of memory.
pub(crate) struct Scratch<'b> {
    pub(super) samples: Samples,
    pub(super) starts: Vec<i64>,
    /// The histograms of the row that was filled last.
    pub cells: CellRow,
    pub(super) budget: &'b Budget,
    places: Places,
    held: usize,
}

impl<'b> Scratch<'b> {
    pub fn new(budget: &'b Budget) -> Scratch<'b> {
        Scratch {
            samples: Samples::default(),
            starts: Vec::new(),
            cells: Vec::new(),
            budget,
            places: Places::default(),
            held: 0,
        }
    }

    /// Holds what the buffers have grown to, and so much beside them.
    pub(super) fn account(&mut self, beside: usize) -> Result<()> {
        let bytes = self.samples.timestamps.capacity() * size_of::<i64>()
            + self.samples.values.capacity() * size_of::<f64>()
            + self.starts.capacity() * size_of::<i64>()
            + self.places.bytes()
            + beside;
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
        self.drop_name.of(row)
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

    /// Reads and computes one row into `out`, which holds one number per step, and into the cells of `scratch`.
    pub fn fill(&self, row: usize, scratch: &mut Scratch<'_>, out: &mut [f64]) -> Result<()> {
        // Work that is done over again is not profiled once more.
        let probe = self.probe.as_deref().filter(|_| scratch.budget.counts());
        let since = probe.map_or(0, Probe::now);
        scratch.cells.clear();
        if self.set.has_histograms(row) {
            self.fill_mixed(row, scratch, probe, out)?;
        } else {
            self.fill_numbers(row, scratch, probe, out)?;
        }
        if let (Some(visits), Leaf::Instant { .. } | Leaf::Smoothed { .. }) =
            (scratch.budget.visits(), &self.leaf)
        {
            let seen = out.iter().enumerate().filter(|(_, v)| present(**v));
            seen.for_each(|(step, _)| visits.add(step, 1));
            let cells = scratch.cells.chunks(1).enumerate();
            cells.for_each(|(step, cell)| visits.add(step, cost(cell)));
        }
        probe.iter().for_each(|probe| probe.mapped(0, out, &scratch.cells));
        for (i, map) in self.maps.iter().enumerate() {
            map.apply(out, &mut scratch.cells);
            probe.iter().for_each(|probe| probe.mapped(i + 1, out, &scratch.cells));
        }
        probe.iter().for_each(|probe| probe.filled(since));
        Ok(())
    }

    pub(super) fn fill_numbers(
        &self,
        row: usize,
        scratch: &mut Scratch<'_>,
        probe: Option<&Probe<'_>>,
        out: &mut [f64],
    ) -> Result<()> {
        let budget = scratch.budget;
        let (since, reach) = (probe.map_or(0, Probe::now), self.leaf.reach());
        let width = self.set.resolution(row, reach);
        if width > 0 && self.fill_from_records(row, width, budget, out)? {
            return Ok(());
        }
        match &self.leaf {
            Leaf::Instant { looks, shows, .. } if looks.count == 1 => {
                let found = self.set.newest(row, reach)?;
                if let Some(probe) = probe {
                    probe.read(&*self.set, row, reach, usize::from(found.is_some()), since);
                }
                budget.take_samples(u64::from(found.is_some()))?;
                out.fill(match found {
                    Some((t, v)) if !is_stale(v) => {
                        scratch.starts.clear();
                        if *shows == Shows::Start {
                            self.set.read_starts(row, &[t], &mut scratch.starts)?;
                        }
                        shows.of(t, v, scratch.starts.first())
                    }
                    _ => ABSENT,
                });
            }
            Leaf::Instant { looks, lookback, shows } => {
                read(&*self.set, row, reach, scratch, probe)?;
                let Scratch { samples, starts, places, .. } = scratch;
                if *shows == Shows::Start {
                    self.set.read_starts(row, &samples.timestamps, starts)?;
                }
                let (values, times) = (&samples.values, &samples.timestamps);
                let seen = places.find(times, looks, *lookback, out.len());
                // A staleness marker ends the series, and means that nothing is there.
                for (slot, seen) in out.iter_mut().zip(seen) {
                    let newest = seen.newest().and_then(|i| Some((i, *values.get(i)?)));
                    *slot = match newest {
                        Some((_, v)) if *shows == Shows::Value => v,
                        Some((i, v)) if !is_stale(v) => shows.of(times[i], v, starts.get(i)),
                        _ => ABSENT,
                    };
                }
            }
            Leaf::Window(window)
                if budget.visits().is_none() && window.fill_from_levels(&*self.set, row, budget, out)? =>
            {
                probe.iter().for_each(|probe| probe.heads());
            }
            Leaf::Window(window)
                if budget.visits().is_none()
                    && window.fill_from_summaries(&*self.set, row, budget, out)? =>
            {
                probe.iter().for_each(|probe| probe.heads());
            }
            Leaf::Window(window) if window.is_of_values(out.len(), budget) => {
                window.fill_from_values(&*self.set, row, scratch, probe, out)?;
            }
            Leaf::Smoothed { .. } | Leaf::Window(_) => {
                read(&*self.set, row, reach, scratch, probe)?;
                self.compute_numbers(row, scratch, out)?;
            }
        }
        Ok(())
    }

    /// A row of whose samples some are left as records of `width` ms alone: `false` where points must stand for them.
    fn fill_from_records(&self, row: usize, width: i64, budget: &Budget, out: &mut [f64]) -> Result<bool> {
        self.remarks.notes.note_rollups();
        let exact = match &self.leaf {
            Leaf::Window(window) if window.edges.is_none() && budget.visits().is_none() => {
                budget.check()?;
                let windows = window.windows(out.len());
                let exact = if window.is_quantile {
                    self.fill_from_sketches(window, &windows, row, budget, out)?
                } else {
                    self.fill_from_stood(window, &windows, row, budget, out)?
                };
                exact.inspect(|_| window.repeat_single(out))
            }
            _ => None,
        };
        if exact != Some(true) {
            self.remarks.add(Note::Rollups(width));
        }
        Ok(exact.is_some())
    }

    /// A function of what windows come to: whether it is exact, `None` where records don't tell it.
    fn fill_from_stood(
        &self,
        window: &WindowLeaf<'a>,
        windows: &[TimeRange],
        row: usize,
        budget: &Budget,
        out: &mut [f64],
    ) -> Result<Option<bool>> {
        let Some(function) = window.of_summary else { return Ok(None) };
        if window.reads_starts && self.set.has_starts(row) {
            return Ok(None);
        }
        let Some(stood) = self.set.summaries(row, windows)? else { return Ok(None) };
        if function.wants == Wants::Resets && !stood.resets {
            return Ok(None);
        }
        budget.take_samples(stood.samples)?;
        for ((slot, window), summary) in out.iter_mut().zip(windows).zip(&stood.windows) {
            let value = summary.and_then(|s| (function.eval)(&s, window.start.saturating_sub(1), window.end));
            *slot = value.unwrap_or(ABSENT);
        }
        Ok(Some(stood.exact))
    }

    /// Quantiles of windows, within one percent: whether no window cuts a bucket, `None` where there are no sketches.
    fn fill_from_sketches(
        &self,
        window: &WindowLeaf<'a>,
        windows: &[TimeRange],
        row: usize,
        budget: &Budget,
        out: &mut [f64],
    ) -> Result<Option<bool>> {
        let Some(found) = self.set.quantiles(row, windows)? else { return Ok(None) };
        budget.take_samples(found.samples)?;
        for (i, (slot, sketch)) in out.iter_mut().zip(&found.windows).enumerate() {
            let q = window.args.at(i).first().copied().unwrap_or(f64::NAN);
            *slot = sketch.as_ref().map_or(ABSENT, |sketch| sketch.quantile(q));
        }
        Ok(Some(found.exact))
    }

    /// What a window, or a line between samples, makes of the numbers that were read.
    pub(super) fn compute_numbers(
        &self,
        row: usize,
        scratch: &mut Scratch<'_>,
        out: &mut [f64],
    ) -> Result<()> {
        let Scratch { samples, starts, budget, places, .. } = scratch;
        samples.drop_stale(0);
        match &self.leaf {
            Leaf::Instant { .. } => {}
            Leaf::Smoothed { looks, lookback, .. } => edges::smooth(samples, looks, *lookback, out),
            Leaf::Window(window) => {
                if let Some(visits) = budget.visits() {
                    window.count(&samples.timestamps, out.len(), visits, |seen| seen.len() as u64);
                }
                if window.reads_starts && self.set.has_starts(row) {
                    self.set.read_starts(row, &samples.timestamps, starts)?;
                }
                match window.edges {
                    Some(edges) => edges.slide(window, samples, starts, out),
                    None => window.slide(samples, starts, places, budget, out)?,
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
        let found: Mutex<Vec<(usize, CellRow)>> = Mutex::default();
        let held = AtomicU64::new((rows * steps) as u64);
        let full: Vec<bool> = values
            .par_chunks_mut(steps)
            .enumerate()
            .with_min_len(16)
            .map_init(
                || Scratch::new(budget),
                |scratch, (i, out)| {
                    self.fill(i, scratch, out)?;
                    if scratch.cells.iter().any(Option::is_some) {
                        let cells = std::mem::take(&mut scratch.cells);
                        let cost = cost(&cells);
                        budget.hold_samples(held.fetch_add(cost, Relaxed) + cost)?;
                        budget.hold(bytes(&cells) + 2 * size_of::<(usize, CellRow)>())?;
                        found.lock().unwrap_or_else(PoisonError::into_inner).push((i, cells));
                        return Ok(true);
                    }
                    Ok(out.iter().any(|&v| present(v)))
                },
            )
            .collect::<Result<_>>()?;
        self.probe.iter().for_each(|probe| probe.held(held.load(Relaxed)));
        let drop_name = (0..rows).map(|i| self.drops_name(i)).collect();
        let labels = LabelColumn::Stored { set: self.set, index: (0..rows as u32).collect() };
        let cells = Cells::new(found.into_inner().unwrap_or_else(PoisonError::into_inner), rows, budget)?;
        let mut block = Block { steps, values, cells, labels, drop_name, ordered: false };
        block.retain(budget, |i| full[i])?;
        Ok(block)
    }
}

/// Reads the numbers of a series into the buffers of `scratch`; the starts are left to the caller.
pub(super) fn read<'s>(
    set: &dyn SeriesSet,
    row: usize,
    range: TimeRange,
    scratch: &'s mut Scratch<'_>,
    probe: Option<&Probe<'_>>,
) -> Result<(&'s mut Samples, &'s mut Vec<i64>)> {
    let since = probe.map_or(0, Probe::now);
    scratch.samples.clear();
    scratch.starts.clear();
    set.read(row, range, &mut scratch.samples)?;
    if let Some(probe) = probe {
        probe.read(set, row, range, scratch.samples.len(), since);
    }
    scratch.account(0)?;
    scratch.budget.take_samples(scratch.samples.len() as u64)?;
    Ok((&mut scratch.samples, &mut scratch.starts))
}

impl Shows {
    pub fn of(self, time: i64, value: f64, start: Option<&i64>) -> f64 {
        match self {
            Shows::Value => value,
            Shows::Time => time as f64 / 1000.0,
            Shows::Start => start.map_or(0.0, |start| *start as f64 / 1000.0),
        }
    }
}

impl WindowLeaf<'_> {
    /// What the samples in the window of each step cost.
    pub(super) fn count(
        &self,
        ts: &[i64],
        steps: usize,
        visits: &Visits,
        cost: impl Fn(Range<usize>) -> u64,
    ) {
        let looks = self.looks;
        let within = |t: i64| {
            let after = ts.partition_point(|&x| x <= t.saturating_sub(self.range));
            cost(after..ts.partition_point(|&x| x <= t))
        };
        (0..steps).for_each(|step| visits.add(step, within(looks.time(step))));
    }

    /// Fills the row from records that say the same as the samples, bit by bit; false, and the row is undefined, where there
    /// are none.
    fn fill_from_levels(
        &self,
        set: &dyn SeriesSet,
        row: usize,
        budget: &Budget,
        out: &mut [f64],
    ) -> Result<bool> {
        let Some(function) = self.of_summary.filter(|_| self.edges.is_none()) else { return Ok(false) };
        if !matches!(function.wants, Wants::Bounds | Wants::Resets)
            || self.reads_starts && set.has_starts(row)
        {
            return Ok(false);
        }
        let windows = self.windows(out.len());
        let Some(stood) = set.whole_windows(row, &windows)? else { return Ok(false) };
        if function.wants == Wants::Resets && !stood.resets {
            return Ok(false);
        }
        budget.take_samples(stood.samples)?;
        budget.check()?;
        for ((slot, window), summary) in out.iter_mut().zip(&windows).zip(&stood.windows) {
            let start = window.start.saturating_sub(1);
            *slot = match summary.map(|s| function.exactly(&s, start, window.end)) {
                None => ABSENT,
                Some(Some(value)) => value.unwrap_or(ABSENT),
                Some(None) => return Ok(false),
            };
        }
        self.repeat_single(out);
        Ok(true)
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
        let knows_starts = self.reads_starts && set.has_starts(row);
        if knows_starts || (self.looks.count > 1 && self.looks.step < self.range) {
            return Ok(false);
        }
        for i in 0..self.looks.count.min(out.len()) {
            let end = self.looks.time(i);
            let start = end.saturating_sub(self.range);
            let range = TimeRange::new(start.saturating_add(1), end);
            let Some(summary) = set.summary(row, range, function.wants)? else { return Ok(false) };
            if summary.resets > function.resets_max {
                return Ok(false);
            }
            // An infinite sum: a mean that is taken step by step may still be finite.
            if function.wants == Wants::Sum && !summary.sum().is_finite() {
                return Ok(false);
            }
            budget.check()?;
            out[i] = (function.eval)(&summary, start, end).unwrap_or(ABSENT);
        }
        self.repeat_single(out);
        Ok(true)
    }

    /// Whether values are all that there is to read: the function looks at nothing else, and there is one window and one
    /// list of arguments.
    fn is_of_values(&self, steps: usize, budget: &Budget) -> bool {
        let is_one = self.looks.count == 1 && (steps == 1 || self.args.count == 0);
        self.of_values && is_one && self.edges.is_none() && budget.visits().is_none()
    }

    /// Fills the row from the values in its only window.
    fn fill_from_values(
        &self,
        set: &dyn SeriesSet,
        row: usize,
        scratch: &mut Scratch<'_>,
        probe: Option<&Probe<'_>>,
        out: &mut [f64],
    ) -> Result<()> {
        let since = probe.map_or(0, Probe::now);
        let end = self.looks.time(0);
        let start = end.saturating_sub(self.range);
        let range = TimeRange::new(start.saturating_add(1), end);
        let value;
        let read = if let Some(sums) = self.sums()
            && let Some((count, sum)) = set.integer_sum(row, range)?
        {
            value = (sums.eval)(&Summary::of_sum(count, sum as f64), start, end).filter(|_| count > 0);
            count
        } else {
            scratch.samples.clear();
            let values = &mut scratch.samples.values;
            set.read_values(row, range, values)?;
            let read = values.len() as u64;
            drop_stale(values);
            let (at, args) = (self.grid.time(0), self.args.at(0));
            let window = Window { timestamps: &[], values, starts: &[], start, end, at, args };
            value = if values.is_empty() { None } else { (self.kernel)(&window) };
            scratch.account(0)?;
            read
        };
        out.fill(value.unwrap_or(ABSENT));
        if let Some(probe) = probe {
            probe.read(set, row, range, read as usize, since);
        }
        scratch.budget.take_samples(read)
    }

    /// The function as one of count and sum.
    fn sums(&self) -> Option<OfSummary> {
        self.of_summary.filter(|function| function.wants == Wants::Sum)
    }

    /// The windows of the steps, at most so many.
    pub(super) fn windows(&self, steps: usize) -> Vec<TimeRange> {
        let ends = (0..self.looks.count.min(steps)).map(|i| self.looks.time(i));
        ends.map(|end| TimeRange::new(end.saturating_sub(self.range).saturating_add(1), end)).collect()
    }

    /// A window that does not move is the same at all steps.
    fn repeat_single(&self, out: &mut [f64]) {
        if self.looks.count == 1
            && let Some((first, rest)) = out.split_first_mut()
        {
            rest.fill(*first);
        }
    }

    /// Two edges move over the samples, step by step.
    fn slide(
        &self,
        samples: &Samples,
        starts: &[i64],
        places: &mut Places,
        budget: &Budget,
        out: &mut [f64],
    ) -> Result<()> {
        if samples.is_empty() {
            out.fill(ABSENT);
            return Ok(());
        }
        let ts = &samples.timestamps[..];
        let seen = places.find(ts, &self.looks, self.range, out.len());
        if self.looks.step >= self.range && self.sliding.is_extreme() {
            for (seen, out) in seen.chunks(WINDOWS_APART).zip(out.chunks_mut(WINDOWS_APART)) {
                budget.check()?;
                let windows = seen.iter().map(|seen| seen.low..seen.high);
                self.sliding.fill_extremes(&samples.values, windows, ABSENT, out);
            }
            return Ok(());
        }
        let mut windows = Windows::new(self.kernel, self.sliding, ts, &samples.values, starts);
        let mut work = 0;
        for (i, (slot, seen)) in out.iter_mut().zip(seen).enumerate() {
            // A window may hold years: a row of them can take long.
            work += seen.len() + WORK_OF_WINDOW;
            if work >= WORK_PER_CHECK {
                budget.check()?;
                work = 0;
            }
            *slot = ABSENT;
            if !seen.is_empty() {
                let end = self.looks.time(i);
                let start = end.saturating_sub(self.range);
                let (at, args) = (self.grid.time(i), self.args.at(i));
                let bounds = Window { timestamps: &[], values: &[], starts: &[], start, end, at, args };
                if let Some(value) = windows.eval(seen.low..seen.high, &bounds) {
                    *slot = value;
                }
            }
        }
        Ok(())
    }
}
