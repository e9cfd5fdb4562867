//! What a selection would come to, before it is made: series from the index, samples and bytes from the heads
//! of chunks.
//!
//! Where counting exactly would itself cost much, a coarser bound that is as certain takes its place.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;
use metricsdb_model::source::Bound;
use metricsdb_model::{Budget, Histogram, Predicate, Result, TimeRange};

use crate::codec;
use crate::database::Database;
use crate::histograms::HistogramSeries;
use crate::shard::{SHARDS, Shard, Work};
use crate::view::ByShard;

/// Label values that are tested for one bound: some 50 ns each.
const VALUES_TESTED_MAX: u64 = 8192;
/// Series whose heads are read for one bound: some 100 ns each.
const SERIES_WALKED_MAX: u64 = 1 << 14;
/// Open chunks that the range cuts and that are decoded to count them: a microsecond each.
const OPEN_DECODED_MAX: usize = 512;
/// Sealed chunks of histograms whose layouts are decoded for one bound: some microseconds each.
const HISTOGRAM_CHUNKS_MAX: usize = 2048;
/// Encoded bytes of a sample, and of a chunk's head, at most.
const SAMPLE_BYTES_MAX: u64 = 24;
const HEAD_BYTES_MAX: u64 = 64;

/// What is known while the heads of one selection are walked.
struct Walk {
    range: TimeRange,
    bound: Bound,
    /// Samples in the range by column of times, which the series of a scrape point share.
    columns: HashMap<(usize, i64, usize), u64>,
    open_left: usize,
    histogram_chunks_left: usize,
    /// Some series with histograms were too many to look at.
    histograms_skipped: bool,
    work: Work,
}

/// All histograms that ever came to a shard: not fewer than there are.
#[derive(Default)]
pub(crate) struct HistogramsEver {
    cost: AtomicU64,
    /// Encoded bytes at most.
    bytes: AtomicU64,
}

impl HistogramsEver {
    pub fn add<'h>(&self, histograms: impl Iterator<Item = &'h Histogram>) {
        let (mut cost, mut bytes) = (0, 0);
        for histogram in histograms {
            let one = 1 + histogram.bucket_count() as u64;
            cost += one;
            bytes += one * SAMPLE_BYTES_MAX + 2 * HEAD_BYTES_MAX + histogram.layout.bytes() as u64;
        }
        self.cost.fetch_add(cost, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Encoded bytes at most, of all that ever came.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Database {
    /// See `Source::bound`. Some 100 ns a series up to 16,384 series, constant time beyond. Errors: the budget's,
    /// `Corruption`.
    pub fn bound_of(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Bound> {
        let _inside = self.inside();
        let (ids, exact) = self.index.select_cheaply(predicate, self, budget, VALUES_TESTED_MAX)?;
        let Some(ids) = ids.filter(|ids| ids.len() <= SERIES_WALKED_MAX) else {
            return self.coarse_bound(exact, range, budget);
        };
        let by_shard = ByShard::new(&ids, budget)?;
        let mut walk = Walk {
            range,
            bound: Bound::default(),
            columns: HashMap::new(),
            open_left: OPEN_DECODED_MAX,
            histogram_chunks_left: HISTOGRAM_CHUNKS_MAX,
            histograms_skipped: false,
            work: Work::default(),
        };
        for number in 0..SHARDS {
            let rows = by_shard.rows(number);
            if rows.is_empty() {
                continue;
            }
            budget.check()?;
            let shard = self.shard(number);
            rows.iter().try_for_each(|&row| walk.add(&shard, row))?;
        }
        if walk.histograms_skipped {
            self.add_histograms_ever(&mut walk.bound);
        }
        let Bound { series_min, samples_min, .. } = walk.bound;
        let sure = matches!(exact, Counted::Exactly(_));
        Ok(Bound {
            series_min: if sure { series_min } else { 0 },
            samples_min: if sure { samples_min } else { 0 },
            ..walk.bound
        })
    }

    /// From counts alone: any of the store's samples may belong to the selected series.
    fn coarse_bound(&self, counted: Counted, range: TimeRange, budget: &Budget) -> Result<Bound> {
        budget.check()?;
        let series = counted.at_most();
        Ok(if range.is_empty() { Bound { series, ..Bound::default() } } else { self.bound_ever(series) })
    }

    /// Of so many series, which may be any.
    pub(crate) fn bound_ever(&self, series: u64) -> Bound {
        let samples = self.appended.load(Relaxed);
        let bytes =
            samples.saturating_mul(SAMPLE_BYTES_MAX).saturating_add(series.saturating_mul(HEAD_BYTES_MAX));
        let mut bound = Bound { series, samples, bytes, ..Bound::default() };
        if self.appended_histograms.cost.load(Relaxed) > 0 {
            bound.mixed = samples;
            self.add_histograms_ever(&mut bound);
        }
        bound
    }

    fn add_histograms_ever(&self, bound: &mut Bound) {
        let cost = self.appended_histograms.cost.load(Relaxed);
        bound.samples = bound.samples.saturating_add(cost);
        bound.mixed = bound.mixed.saturating_add(cost);
        bound.width = bound.width.saturating_add(cost);
        bound.bytes = bound.bytes.saturating_add(self.appended_histograms.bytes.load(Relaxed));
    }

    /// Not fewer samples than there are, histograms as they count in a bound.
    pub fn samples_ever(&self) -> u64 {
        self.appended.load(Relaxed).saturating_add(self.appended_histograms.cost.load(Relaxed))
    }
}

/// The number of series of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Exactly(u64),
    AtMost(u64),
}

impl Counted {
    pub fn at_most(self) -> u64 {
        match self {
            Counted::Exactly(n) | Counted::AtMost(n) => n,
        }
    }
}

impl Walk {
    fn add(&mut self, shard: &Shard, row: u32) -> Result<()> {
        let head = &shard.series.heads[row];
        let mut seen = false;
        let (before, samples_min) = (self.bound.samples, self.bound.samples_min);
        if let Some(span) = shard.open_span(head).filter(|span| span.overlaps(self.range)) {
            seen = true;
            let count = head.state.count() as u64;
            let whole = self.range.contains(span.start) && self.range.contains(span.end);
            let (low, high) = match whole {
                true => (count, count),
                false => self.cut_open(shard, row, count)?,
            };
            self.bound.samples_min += low;
            self.bound.samples += high;
            self.bound.bytes += head.state.used_bytes() as u64;
        }
        for chunk in shard.series.sealed[row].overlapping(self.range) {
            seen = true;
            let count = match chunk.times_key() {
                None => chunk.count_within(self.range)? as u64,
                Some(key) => match self.columns.get(&key) {
                    Some(count) => *count,
                    None => {
                        let count = chunk.count_within(self.range)? as u64;
                        self.columns.insert(key, count);
                        count
                    }
                },
            };
            self.bound.samples_min += count;
            self.bound.samples += count;
            self.bound.bytes += chunk.encoded_bytes() as u64;
        }
        if let Some(series) = shard.rollups.get(row).filter(|series| series.stands_in(self.range)) {
            seen = true;
            let series = series.unpack();
            // Samples that are left of a time for which records stand are not read.
            self.bound.samples_min = samples_min;
            self.bound.samples += series.points_at_most(self.range);
            self.bound.bytes += series.encoded_bytes(self.range);
        }
        let histograms = shard.histograms.get(row);
        if let Some(found) = histograms.filter(|h| h.span().is_some_and(|span| span.overlaps(self.range))) {
            seen = true;
            self.add_histograms(found)?;
            self.bound.mixed += self.bound.samples - before;
        }
        self.bound.series_min += u64::from(seen);
        self.bound.series += u64::from(seen);
        Ok(())
    }

    fn add_histograms(&mut self, series: &HistogramSeries) -> Result<()> {
        let chunks = series.chunks_within(self.range);
        let Some(left) = self.histogram_chunks_left.checked_sub(chunks) else {
            self.histograms_skipped = true;
            return Ok(());
        };
        self.histogram_chunks_left = left;
        let cost = series.cost_within(self.range)?;
        self.bound.samples_min += cost.samples;
        self.bound.samples += cost.samples;
        self.bound.width += cost.width;
        self.bound.bytes += series.encoded_bytes(self.range);
        Ok(())
    }

    /// Samples of an open chunk that lies partly in the range: at least, at most.
    fn cut_open(&mut self, shard: &Shard, row: u32, count: u64) -> Result<(u64, u64)> {
        if self.open_left == 0 {
            return Ok((0, count));
        }
        self.open_left -= 1;
        let head = &shard.series.heads[row];
        self.work.times.clear();
        self.work.bits.clear();
        codec::open::decode(&head.state, shard.open_bytes(head), &mut self.work.times, &mut self.work.bits)?;
        let inside = self.work.times.iter().filter(|&&t| self.range.contains(t)).count() as u64;
        Ok((inside, inside))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
