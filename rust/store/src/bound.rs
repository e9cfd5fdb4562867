//! What a selection would come to, before it is made: series from the index, samples and bytes from the heads
//! of chunks.
//!
//! Where counting exactly would itself cost much, a coarser bound that is as certain takes its place.

use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;
use metricsdb_model::source::Bound;
use metricsdb_model::{Budget, Predicate, Result, TimeRange};

use crate::codec;
use crate::database::Database;
use crate::shard::{SHARDS, Shard, Work};
use crate::view::ByShard;

/// Label values that are tested for one bound: some 50 ns each.
const VALUES_TESTED_MAX: u64 = 8192;
/// Series whose heads are read for one bound: some 100 ns each.
const SERIES_WALKED_MAX: u64 = 1 << 14;
/// Open chunks that the range cuts and that are decoded to count them: a microsecond each.
const OPEN_DECODED_MAX: usize = 512;
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
    work: Work,
}

impl Database {
    /// See `Source::bound`. Some 100 ns a series up to 16,384 series, constant time beyond. Errors: the budget's,
    /// `Corruption`.
    pub fn bound_of(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Bound> {
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
        let samples = if range.is_empty() { 0 } else { self.samples_ever() };
        let bytes =
            samples.saturating_mul(SAMPLE_BYTES_MAX).saturating_add(series.saturating_mul(HEAD_BYTES_MAX));
        Ok(Bound { series_min: 0, series, samples_min: 0, samples, bytes })
    }

    /// Not fewer samples than there are.
    pub fn samples_ever(&self) -> u64 {
        self.appended.load(Relaxed)
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
        self.bound.series_min += u64::from(seen);
        self.bound.series += u64::from(seen);
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
