//! The database's way in and its way out for histograms.

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Error, Histogram, Labels, Predicate, Reason, Result, TimeRange, WriteReport};
use rayon::prelude::*;

use super::{HistogramSeries, Target};
use crate::database::Database;
use crate::shard::{SHARDS, Shard, id_of, place_of};
use crate::view::ByShard;

/// Histograms of many series as compressed rows: series `i` has those at `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramRows {
    pub labels: Vec<Labels>,
    pub offsets: Vec<usize>,
    pub timestamps: Vec<i64>,
    pub histograms: Vec<Histogram>,
}

/// One series as it was while its shard was locked.
struct Captured {
    labels: Labels,
    series: HistogramSeries,
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
        let mut order = Vec::with_capacity(ids.len());
        for (at, &id) in ids.iter().enumerate() {
            match u32::try_from(id) {
                Ok(id) => order.push((place_of(id), at)),
                Err(_) => report.reject(Reason::UnknownSeries, 1, || format!("no series has the id {id}")),
            }
        }
        order.sort_unstable();
        for of_shard in order.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let Some(&((number, _), _)) = of_shard.first() else { continue };
            let mut shard = self.shard(number);
            for of_row in of_shard.chunk_by(|(a, _), (b, _)| a == b) {
                let Some(&((_, row), _)) = of_row.first() else { continue };
                let points = of_row.iter().map(|&(_, at)| (times[at], &histograms[at]));
                self.append_row(&mut shard, row, points, &mut report);
            }
        }
        Ok(report)
    }

    fn append_row<'a>(
        &self,
        shard: &mut Shard,
        row: u32,
        points: impl ExactSizeIterator<Item = (i64, &'a Histogram)>,
        report: &mut WriteReport,
    ) {
        let (id, len) = (id_of(shard.number, row), points.len() as u64);
        if row as usize >= shard.series.len() {
            report.reject(Reason::UnknownSeries, len, || format!("no series has the id {id}"));
            return;
        }
        let target = Target { id, duplicates: self.rules.duplicates };
        if let Err(error) = shard.histograms.append(row, points, target, report) {
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
                series.read_range(range, &mut times, &mut rows)?;
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
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let (mut captured, mut text) = (Vec::new(), Vec::new());
        for number in (0..SHARDS).filter(|&number| !by_shard.rows(number).is_empty()) {
            budget.check()?;
            let shard = self.shard(number);
            for &row in by_shard.rows(number) {
                let Some(series) = shard.histograms.get(row) else { continue };
                if series.span().is_some_and(|span| span.overlaps(range)) {
                    let labels = self.labels_of(&shard, row, &mut text);
                    captured.push(Captured { labels, series: series.capture(range) });
                }
            }
        }
        Ok(captured)
    }
}

#[cfg(test)]
mod tests;
