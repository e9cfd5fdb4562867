//! Rows of series that hold histograms: how they are read, looked up and cut into windows beside numbers.

use std::sync::Arc;

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Budget, HistogramSamples, ResetHint, Result, Samples, SeriesSet, TimeRange};

use super::block::{ABSENT, present};
use super::cells::{Cell, CellRow, bytes, cost};
use super::edges;
use super::grid::Looks;
use super::mixed::Remarks;
use super::places::Moving;
use super::profile::Probe;
use super::scan::{Leaf, Rows, Scratch, Shows, WindowLeaf, read};
use crate::annotations::Note;
use crate::function::Window;
use crate::histogram::{
    FloatHistogram, Outcome, Point, Points, Reader, ReadsRecords, Remark, StoodPoints, eval_edges,
    interpolate,
};

/// What histograms are told of counter resets before they are computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hints {
    /// What Prometheus' chunks know: behind another one that it continues, a counter was not reset. The first
    /// one after anything else is unknown.
    #[default]
    Stored,
    /// As `Stored`, whatever asks for less inside of the expression.
    Whole,
    /// Where only counts and sums are asked for, Prometheus compares the unknown ones too.
    Compared,
    /// As the histograms come: points of a subquery.
    AsTheyAre,
}

/// Histograms of one series; a cell without one is a staleness marker.
#[derive(Default)]
pub(crate) struct Histograms {
    times: Vec<i64>,
    cells: Vec<Cell>,
}

impl Histograms {
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes while they are read: as they are stored, and as they are computed with.
    pub fn bytes(&self) -> usize {
        2 * (size_of_val(&self.times[..]) + bytes(&self.cells))
    }

    /// What all cost of a budget.
    pub fn cost(&self) -> u64 {
        cost(&self.cells)
    }

    /// What those before each one cost, and at the end what all do.
    fn costs(&self) -> Vec<u64> {
        let mut sum = 0;
        let mut costs = vec![0];
        costs.extend(self.cells.chunks(1).filter(|cell| cell[0].is_some()).map(|cell| {
            sum += cost(cell);
            sum
        }));
        costs
    }

    /// Those that are no staleness markers.
    pub fn without_stale(self) -> (Vec<i64>, Vec<Arc<FloatHistogram>>) {
        self.times.into_iter().zip(self.cells).filter_map(|(t, cell)| Some((t, cell?))).unzip()
    }
}

/// Reads the histograms of a series, and what they cost of the budget; `numbers` are those of the same range.
pub(crate) fn read_histograms(
    set: &dyn SeriesSet,
    row: usize,
    range: TimeRange,
    hints: Hints,
    numbers: &Samples,
    budget: &Budget,
) -> Result<(Histograms, u64)> {
    let mut found = HistogramSamples::default();
    set.read_histograms(row, range, &mut found)?;
    let cost = found.cost(0);
    budget.take_samples(cost)?;
    if hints != Hints::AsTheyAre {
        mark_resets(set, row, &mut found, numbers)?;
    }
    let mut reader = Reader::default();
    let mut cells = Vec::with_capacity(found.len());
    let mut before: Cell = None;
    for stored in &found.histograms {
        if stored.is_stale() {
            cells.push(None);
            continue;
        }
        let mut histogram = reader.read(stored);
        if let (Hints::Compared, ResetHint::Unknown, Some(before)) = (hints, histogram.reset, &before) {
            let reset = histogram.is_reset_after(before);
            histogram.reset = if reset { ResetHint::Reset } else { ResetHint::NotReset };
        }
        let cell = Some(Arc::new(histogram));
        before.clone_from(&cell);
        cells.push(cell);
    }
    Ok((Histograms { times: found.timestamps, cells }, cost))
}

/// Sets what is known of resets. The sender's word alone is not taken for it: counts are compared.
fn mark_resets(
    set: &dyn SeriesSet,
    row: usize,
    found: &mut HistogramSamples,
    numbers: &Samples,
) -> Result<()> {
    let Some(&first) = found.timestamps.first() else { return Ok(()) };
    let mut before = set.histogram_before(row, first)?;
    if let Some((t, _)) = &before {
        let between = TimeRange::new(t.saturating_add(1), first.saturating_sub(1));
        if !between.is_empty() && set.newest(row, between)?.is_some() {
            before = None;
        }
    }
    let mut since = before.as_ref().map_or(first, |(t, _)| *t);
    let mut number = 0;
    for (i, &t) in found.timestamps.iter().enumerate() {
        let begun = number;
        while numbers.timestamps.get(number).is_some_and(|&n| n < t) {
            number += 1;
        }
        let (earlier, later) = found.histograms.split_at_mut(i);
        let (Some(histogram), interrupted) = (later.first_mut(), i > 0 && number > begun) else { break };
        let before = if i == 0 { before.as_ref().map(|(_, before)| before) } else { earlier.last() };
        let comparable = before.filter(|b| {
            !interrupted && !b.is_stale() && !histogram.is_stale() && b.reset != ResetHint::Gauge
        });
        let continues = match comparable {
            Some(before) if histogram.layout.schema > before.layout.schema => {
                // Finer buckets are a reset where a sender has them, but not behind those that a record has merged.
                set.quantile_error(row, TimeRange::new(since, since))?.is_some() && {
                    let mut lower = histogram.clone();
                    lower.lower(before.layout.schema);
                    !lower.resets_after(before)
                }
            }
            Some(before) => !histogram.resets_after(before),
            None => false,
        };
        histogram.reset = match histogram.reset {
            ResetHint::Gauge => ResetHint::Gauge,
            _ if continues => ResetHint::NotReset,
            _ => ResetHint::Unknown,
        };
        since = t;
    }
    Ok(())
}

impl<'a> Rows<'a> {
    /// What records tell of the windows of a row; a remark where that is not all that the function wants to know.
    fn stood_histograms(
        &self,
        row: usize,
        reach: TimeRange,
        budget: &Budget,
    ) -> Result<Option<Vec<StoodPoints>>> {
        let width = self.set.resolution(row, reach);
        if width == 0 {
            return Ok(None);
        }
        self.remarks.notes.note_rollups();
        if let Some(error) = self.set.quantile_error(row, reach)? {
            self.remarks.add(Note::WiderBuckets(error));
        }
        let (mut exact, mut points) = (false, None);
        if let Leaf::Window(window) = &self.leaf
            && window.edges.is_none()
            && budget.visits().is_none()
            && let Some(found) = self.set.stood_histograms(row, &window.windows(self.steps))?
        {
            let knows_starts = window.reads_starts && self.set.has_starts(row);
            let mut sums = found.windows.iter().flat_map(|of| &of.sums);
            let tells = match window.reads_records {
                ReadsRecords::OfNone => false,
                ReadsRecords::OfCounters => !sums.any(|h| h.reset == ResetHint::Gauge),
                ReadsRecords::OfAll => true,
            };
            exact = found.exact && tells && !knows_starts;
            let mut reader = Reader::default();
            let mut all = Vec::with_capacity(found.windows.len());
            for of in found.windows {
                budget.take_samples(of.sums.iter().map(|h| 1 + h.bucket_count() as u64).sum())?;
                let sums = of.sums.iter().map(|h| Arc::new(reader.read(h))).collect();
                all.push(StoodPoints { count: of.count as usize, sums });
            }
            points = Some(all);
        }
        if !exact {
            self.remarks.add(Note::Rollups(width));
        }
        Ok(points)
    }

    /// As `fill_numbers` for a series that may hold histograms.
    pub(super) fn fill_mixed(
        &self,
        row: usize,
        scratch: &mut Scratch<'_>,
        probe: Option<&Probe<'_>>,
        out: &mut [f64],
    ) -> Result<()> {
        let budget = scratch.budget;
        let reach = self.leaf.reach();
        let since = probe.map_or(0, Probe::now);
        read(&*self.set, row, reach, scratch, None)?;
        let samples = &scratch.samples;
        let (histograms, cost) = read_histograms(&*self.set, row, reach, self.hints, samples, budget)?;
        if let Some(probe) = probe {
            probe.read(&*self.set, row, reach, samples.len() + cost as usize, since);
        }
        scratch.account(histograms.bytes())?;
        if histograms.is_empty() && !matches!(self.leaf, Leaf::Instant { .. }) {
            self.compute_numbers(row, scratch, out)?;
            if let Leaf::Window(window) = &self.leaf {
                window.remark_on_name(out, || self.set.labels(row).metric_name().to_owned());
            }
            return Ok(());
        }
        let stood = self.stood_histograms(row, reach, budget)?;
        let Scratch { samples, starts, cells, .. } = scratch;
        cells.resize(self.steps, None);
        let metric = || self.set.labels(row).metric_name().to_owned();
        match &self.leaf {
            Leaf::Instant { looks, lookback, shows } => {
                let mut histogram_starts = Vec::new();
                if *shows == Shows::Start {
                    self.set.read_starts(row, &samples.timestamps, starts)?;
                    self.set.read_starts(row, &histograms.times, &mut histogram_starts)?;
                }
                let numbers = (&*samples, &starts[..]);
                newest(numbers, (&histograms, &histogram_starts), looks, *lookback, *shows, out, cells);
            }
            Leaf::Smoothed { looks, lookback, remarks } => {
                samples.drop_stale(0);
                edges::smooth(samples, looks, *lookback, out);
                let (times, histograms) = histograms.without_stale();
                let line = Line { times: &times, histograms: &histograms, starts: &[] };
                line.smooth(&samples.timestamps, looks, *lookback, remarks, metric, out, cells);
            }
            Leaf::Window(window) => {
                samples.drop_stale(0);
                let costs = budget.visits().map(|_| histograms.costs());
                let (times, histograms) = histograms.without_stale();
                if let (Some(visits), Some(costs)) = (budget.visits(), costs) {
                    window.count(&samples.timestamps, out.len(), visits, |seen| seen.len() as u64);
                    window.count(&times, out.len(), visits, |seen| costs[seen.end] - costs[seen.start]);
                }
                let mut histogram_starts = Vec::new();
                if window.reads_starts && self.set.has_starts(row) {
                    self.set.read_starts(row, &samples.timestamps, starts)?;
                    self.set.read_starts(row, &times, &mut histogram_starts)?;
                }
                let numbers = Numbers { samples, starts };
                let histograms = Line { times: &times, histograms: &histograms, starts: &histogram_starts };
                window.slide_mixed(numbers, histograms, stood.as_deref(), metric, budget, out, cells)?;
            }
        }
        Ok(())
    }
}

/// The newest sample of either kind in `(t - lookback, t]` of every look; a staleness marker ends the series.
fn newest(
    (samples, starts): (&Samples, &[i64]),
    (histograms, histogram_starts): (&Histograms, &[i64]),
    looks: &Looks,
    lookback: i64,
    shows: Shows,
    out: &mut [f64],
    cells: &mut CellRow,
) {
    let (ts, times) = (&samples.timestamps[..], &histograms.times[..]);
    let (mut number, mut histogram) = (0, 0);
    for (i, slot) in out.iter_mut().enumerate() {
        let t = looks.time(i);
        while number < ts.len() && ts[number] <= t {
            number += 1;
        }
        while histogram < times.len() && times[histogram] <= t {
            histogram += 1;
        }
        let within = |at: &i64| *at > t.saturating_sub(lookback);
        let newest_number = number.checked_sub(1).map(|n| ts[n]).filter(within);
        let newest_histogram = histogram.checked_sub(1).map(|h| times[h]).filter(within);
        *slot = ABSENT;
        match (newest_number, newest_histogram) {
            (number, Some(at)) if number.is_none_or(|number| number <= at) => {
                let cell = &histograms.cells[histogram - 1];
                match shows {
                    Shows::Value => cells[i].clone_from(cell),
                    _ if cell.is_none() => {}
                    _ => *slot = shows.of(at, ABSENT, histogram_starts.get(histogram - 1)),
                }
            }
            (Some(at), _) if !is_stale(samples.values[number - 1]) => {
                *slot = shows.of(at, samples.values[number - 1], starts.get(number - 1));
            }
            _ => {}
        }
    }
}

/// The numbers of a series without staleness markers, and their start timestamps where they are read.
#[derive(Clone, Copy)]
struct Numbers<'s> {
    samples: &'s Samples,
    starts: &'s [i64],
}

/// The same of its histograms.
#[derive(Clone, Copy)]
struct Line<'s> {
    times: &'s [i64],
    histograms: &'s [Arc<FloatHistogram>],
    starts: &'s [i64],
}

impl Line<'_> {
    /// As `edges::smooth` does for numbers, whose times are given: looks that see both kinds have no sample.
    #[allow(clippy::too_many_arguments)] // The looks, and where the results go.
    fn smooth(
        &self,
        numbers: &[i64],
        looks: &Looks,
        lookback: i64,
        remarks: &Remarks<'_>,
        metric: impl Fn() -> String,
        out: &mut [f64],
        cells: &mut CellRow,
    ) {
        for (i, slot) in out.iter_mut().enumerate() {
            let t = looks.time(i);
            let (start, end) = (t.saturating_sub(lookback), t.saturating_add(lookback));
            let seen = |times: &[i64]| {
                (times.partition_point(|at| *at <= start), times.partition_point(|at| *at <= end))
            };
            let (from, to) = seen(self.times);
            if from == to {
                continue;
            }
            *slot = ABSENT;
            let (first, last) = seen(numbers);
            if first < last {
                remarks.add(Remark::MixedTypes.note(&metric()));
                continue;
            }
            let next = self.times.partition_point(|at| *at <= t);
            let Some(before) = next.checked_sub(1).filter(|before| *before >= from) else { continue };
            let a = &self.histograms[before];
            if self.times[before] == t || next >= to {
                cells[i] = Some(a.clone());
                continue;
            }
            let b = &self.histograms[next];
            let counter = a.reset != ResetHint::Gauge && b.reset != ResetHint::Gauge;
            match interpolate((self.times[before], a), (self.times[next], b), t, counter) {
                Ok((between, found)) => {
                    remarks.all(found, &metric);
                    cells[i] = Some(Arc::new(between));
                }
                Err(_) => remarks.add(Remark::MixedSchemas.note(&metric())),
            }
        }
    }
}

impl WindowLeaf<'_> {
    /// As `slide`, with histograms in the windows.
    #[allow(clippy::too_many_arguments)] // what stands in the windows, and where the results go
    fn slide_mixed(
        &self,
        Numbers { samples, starts }: Numbers<'_>,
        line: Line<'_>,
        stood: Option<&[StoodPoints]>,
        metric: impl Fn() -> String,
        budget: &Budget,
        out: &mut [f64],
        cells: &mut CellRow,
    ) -> Result<()> {
        let (before, after) = self.edges.map_or((0, 0), |edges| (edges.lookback, edges.after()));
        let (mut numbers, mut found) = (Moving::default(), Moving::default());
        for (i, slot) in out.iter_mut().enumerate() {
            let end = self.looks.time(i);
            let start = end.saturating_sub(self.range);
            let (from, to) = (start.saturating_sub(before), end.saturating_add(after));
            numbers.advance(&samples.timestamps, from, to);
            found.advance(line.times, from, to);
            budget.check()?;
            *slot = ABSENT;
            if numbers.is_empty() && found.is_empty() {
                continue;
            }
            let floats = Window {
                timestamps: &samples.timestamps[numbers.low..numbers.high],
                values: &samples.values[numbers.low..numbers.high],
                starts: starts.get(numbers.low..numbers.high).unwrap_or(&[]),
                start,
                end,
                at: self.grid.time(i),
                args: self.args.at(i),
            };
            let outcome = self.eval_mixed(&Points {
                floats,
                times: &line.times[found.low..found.high],
                histograms: &line.histograms[found.low..found.high],
                starts: line.starts.get(found.low..found.high).unwrap_or(&[]),
                // A window that does not move is the same at all steps.
                stood: stood.and_then(|stood| stood.get(i).or(stood.last())),
            });
            match outcome.point {
                Some(Point::Float(value)) => *slot = value,
                Some(Point::Histogram(histogram)) => cells[i] = Some(histogram),
                None => {}
            }
            self.remarks.all(outcome.remarks, &metric);
        }
        self.remark_on_name(out, metric);
        Ok(())
    }

    /// Remarks on a metric of numbers that doesn't look like the counter that it is taken for.
    fn remark_on_name(&self, row: &[f64], metric: impl Fn() -> String) {
        if self.wants_counter && row.iter().any(|&v| present(v)) {
            self.remarks.notes.not_a_counter(&metric(), self.remarks.span);
        }
    }

    fn eval_mixed(&self, points: &Points<'_>) -> Outcome {
        match (self.edges, self.points) {
            (Some(edges), _) => eval_edges(points, edges.extension, self.sliding),
            (None, _) if points.histograms.is_empty() => Outcome::float((self.kernel)(&points.floats)),
            (None, Some(function)) => function(points),
            (None, None) => points.floats_alone(self.kernel),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
