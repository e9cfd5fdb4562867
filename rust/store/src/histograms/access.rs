//! The database's way in and its way out for histograms.

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Error, Histogram, Labels, Predicate, Reason, Result, TimeRange, WriteReport};
use rayon::prelude::*;

use super::{HistogramSeries, Target, is_valid};
use crate::database::{Database, IntoId};
use crate::journal::Journal;
use crate::journal::record::HistogramEntry;
use crate::shard::{Shard, place_of};
use crate::view::ByShard;

/// Histograms of many series as compressed rows: series `i` has those at `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramRows {
    pub labels: Vec<Labels>,
    pub offsets: Vec<usize>,
    pub timestamps: Vec<i64>,
    pub histograms: Vec<Histogram>,
}

/// One histogram on its way into the store.
pub(crate) struct HistogramPoint<'a> {
    pub id: u32,
    /// Of the id's row, when it was given out.
    pub generation: u16,
    pub time: i64,
    /// 0 where it is not known.
    pub start: i64,
    pub histogram: &'a Histogram,
}

/// One series as it was while its shard was locked.
struct Captured {
    labels: Labels,
    series: HistogramSeries,
}

impl Shard {
    /// Appends histograms of one row, each with its time and start, and notes their starts.
    pub(crate) fn append_histograms<'a>(
        &mut self,
        row: u32,
        points: impl IntoIterator<Item = (i64, i64, &'a Histogram)>,
        target: Target,
        report: &mut WriteReport,
    ) -> Result<()> {
        if self.behind.is_some() {
            // Their frames wait behind a journal that is still being replayed.
            let valid = points.into_iter().filter(|&(time, _, h)| is_valid(time, h, target, report)).count();
            report.accepted += valid as u64;
            return Ok(());
        }
        let newest = self.span(row).map(|span| span.end);
        let mut late = 0;
        let points = points.into_iter().filter(|&(time, ..)| {
            let taken = self.rollups.late(row, time);
            if !taken {
                late += 1;
            }
            taken
        });
        let mut stand = Vec::new();
        self.histograms.append(row, points, target, &mut stand, report)?;
        report.reject(Reason::OutOfRetention, late, || {
            format!("of series {} only rollups are left at that time", target.id)
        });
        self.note_histogram_starts(row, newest, stand)
    }

    /// Notes times and starts of histograms that stand since now; `newest` is what the row's newest sample or
    /// histogram was before.
    fn note_histogram_starts(
        &mut self,
        row: u32,
        newest: Option<i64>,
        mut stand: Vec<(i64, i64)>,
    ) -> Result<()> {
        if self.starts.is_empty() && stand.iter().all(|(_, start)| *start == 0) {
            return Ok(());
        }
        // Of two at one time the one that was merged last stands.
        stand.sort_by_key(|(time, _)| *time);
        stand.reverse();
        stand.dedup_by_key(|(time, _)| *time);
        stand.reverse();
        let late = stand.partition_point(|(time, _)| newest.is_some_and(|newest| *time <= newest));
        let (late, new) = stand.split_at(late);
        self.starts.patch(row, late, &self.shared_columns)?;
        new.iter().try_for_each(|&(time, start)| self.starts.append(row, time, start, &self.shared_columns))
    }
}

/// Notes those of the points, all of one shard, that will be taken.
fn journal_points(journal: &Journal, shard: &mut Shard, points: &[HistogramPoint<'_>]) {
    let known = |p: &&HistogramPoint<'_>| {
        shard.series.has_of(place_of(p.id).1, p.generation) && p.histogram.validate().is_ok()
    };
    let entries = points.iter().filter(known).map(|p| HistogramEntry {
        row: place_of(p.id).1,
        time: p.time,
        start: p.start,
        histogram: p.histogram,
    });
    let entries: Vec<HistogramEntry<'_>> = entries.collect();
    journal.histograms(shard, entries.into_iter());
}

impl Database {
    /// Appends histograms in any order, each shard locked once. Unknown ids and histograms that are not valid
    /// are rejected in the report. A plain sample at the time of a histogram is no duplicate: both stay.
    /// Errors: `Input` when the columns differ in length; nothing is written then.
    pub fn append_histograms(
        &self,
        ids: &[u64],
        times: &[i64],
        histograms: &[Histogram],
    ) -> Result<WriteReport> {
        if ids.len() != times.len() || ids.len() != histograms.len() {
            return Err(Error::input(
                "columns",
                &format!("{}, {}, {}", ids.len(), times.len(), histograms.len()),
                "ids, timestamps and histograms differ in length",
                "give columns of one length",
            ));
        }
        let mut report = WriteReport::default();
        self.append_started(ids, times, &[], histograms, &mut report);
        report.not_durable = self.committed();
        Ok(report)
    }

    /// As `append_histograms`, of columns of one length; `starts` is as long, or empty.
    pub(crate) fn append_started(
        &self,
        ids: &[u64],
        times: &[i64],
        starts: &[i64],
        histograms: &[Histogram],
        report: &mut WriteReport,
    ) {
        let _inside = self.inside();
        let mut points = Vec::with_capacity(ids.len());
        for (at, ((&id, &time), histogram)) in ids.iter().zip(times).zip(histograms).enumerate() {
            match (&id).known() {
                Some(known) => {
                    let (generation, start) = ((&id).generation(), starts.get(at).copied().unwrap_or(0));
                    points.push(HistogramPoint { id: known, generation, time, start, histogram });
                }
                None => match self.no_histogram(id) {
                    Some(why) => report.reject(Reason::CardinalityLimit, 1, || why),
                    None => report.reject(Reason::UnknownSeries, 1, || format!("no series has the id {id}")),
                },
            }
        }
        self.append_histogram_points(points, report);
    }

    /// Appends histograms in any order, each shard locked once.
    pub(crate) fn append_histogram_points(
        &self,
        mut points: Vec<HistogramPoint<'_>>,
        report: &mut WriteReport,
    ) {
        if let Some(low) = self.refused_low(points.len()) {
            let sent = points.len();
            points.retain(|point| !low.contains(point.id));
            self.refuse_low((sent - points.len()) as u64, report);
        }
        if points.is_empty() || !self.admit_samples(points.len(), report) {
            return;
        }
        let accepted = report.accepted;
        points.sort_by_key(|p| (place_of(p.id), p.generation));
        self.appended_histograms.add(points.iter().map(|p| p.histogram));
        for of_shard in points.chunk_by(|a, b| place_of(a.id).0 == place_of(b.id).0) {
            let Some(first) = of_shard.first() else { continue };
            let mut shard = self.shard(place_of(first.id).0);
            if let Some(journal) = self.journal() {
                journal_points(journal, &mut shard, of_shard);
            }
            for of_row in of_shard.chunk_by(|a, b| (a.id, a.generation) == (b.id, b.generation)) {
                self.append_row(&mut shard, of_row, report);
            }
        }
        self.written.note(points.iter().map(|p| p.time).min().unwrap_or(i64::MAX));
        report.histograms += report.accepted - accepted;
    }

    /// All points are of one series.
    fn append_row(&self, shard: &mut Shard, points: &[HistogramPoint<'_>], report: &mut WriteReport) {
        let Some(&HistogramPoint { id, generation, .. }) = points.first() else { return };
        let ((_, row), len) = (place_of(id), points.len() as u64);
        if !shard.series.has_of(row, generation) {
            report.reject(Reason::UnknownSeries, len, || format!("no series has the id {id}"));
            return;
        }
        let target = Target { id, duplicates: self.rules.duplicates };
        let timed = points.iter().map(|p| (p.time, p.start, p.histogram));
        if let Err(error) = shard.append_histograms(row, timed, target, report) {
            report.reject(Reason::Malformed, len, || error.to_string());
        }
    }

    /// The histograms of the selected series in the range, stale ones among them; series sorted by labels,
    /// those without histograms left out. Captured under the shards' locks, decoded without. The budget counts
    /// each histogram as one sample and one more a bucket.
    pub fn histograms(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<HistogramRows> {
        let mut captured = self.capture_histograms(predicate, range, budget)?;
        sort_owned(&mut captured, budget, |a, b| a.labels.cmp(&b.labels))?;
        let decoded: Result<Vec<_>> = captured
            .into_par_iter()
            .map(|Captured { labels, series }| {
                budget.check()?;
                let (mut times, mut rows) = (Vec::new(), Vec::new());
                series.read_range(range, budget, &mut times, &mut rows)?;
                budget
                    .keep(times.len() * size_of::<i64>() + rows.iter().map(|h| h.bytes()).sum::<usize>())?;
                budget.take_samples(rows.iter().map(|h| 1 + h.bucket_count() as u64).sum())?;
                Ok((labels, times, rows))
            })
            .collect();
        let mut out = HistogramRows { offsets: vec![0], ..HistogramRows::default() };
        for (labels, mut times, mut rows) in decoded?.into_iter().filter(|(_, times, _)| !times.is_empty()) {
            out.labels.push(labels);
            out.timestamps.append(&mut times);
            out.histograms.append(&mut rows);
            out.offsets.push(out.timestamps.len());
        }
        Ok(out)
    }

    fn capture_histograms(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<Captured>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let (mut captured, mut text) = (Vec::new(), Vec::new());
        by_shard.each(self, budget, |shard, rows| {
            for &row in rows {
                let Some(series) = shard.histograms.get(row) else { continue };
                if series.span().is_some_and(|span| span.overlaps(range)) {
                    let labels = self.labels_of(shard, row, &mut text);
                    captured.push(Captured { labels, series: series.capture(range) });
                }
            }
            Ok(())
        })?;
        Ok(captured)
    }
}

#[cfg(test)]
mod tests;
