//! What each series holds, and what its shard holds for none in particular.

use std::sync::Arc;

use metricsdb_model::{Budget, Predicate, Result};

use crate::chunk::{Chunk, Shared};
use crate::database::Database;
use crate::series::Head;
use crate::shard::{SHARDS, Shard};
use crate::slab::CLASSES;
use crate::starts::StartSeries;
use crate::view::ByShard;

/// Bytes of one series, its even share of common ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its row in the columns of its shard and in the table of hashes.
    pub columns: usize,
    pub labels: usize,
    pub open_used: usize,
    pub open_slack: usize,
    pub sealed: usize,
    pub lists: usize,
    /// Its part of what its chunks hold together with others: times, and values coded together.
    pub shared: usize,
    pub histograms: usize,
    /// Start timestamps.
    pub starts: usize,
    pub rollups: usize,
    pub chunks: usize,
    pub samples: u64,
}

impl Held {
    /// Open and sealed chunks, their lists and what they share, histograms and start timestamps.
    pub fn sample_bytes(&self) -> usize {
        let plain = self.open_used + self.open_slack + self.sealed + self.lists + self.shared;
        plain + self.histograms + self.starts + self.rollups
    }

    pub fn bytes(&self) -> usize {
        self.columns + self.labels + self.sample_bytes()
    }

    pub fn add(&mut self, other: &Held) {
        self.columns += other.columns;
        self.labels += other.labels;
        self.open_used += other.open_used;
        self.open_slack += other.open_slack;
        self.sealed += other.sealed;
        self.lists += other.lists;
        self.shared += other.shared;
        self.histograms += other.histograms;
        self.starts += other.starts;
        self.rollups += other.rollups;
        self.chunks += other.chunks;
        self.samples += other.samples;
    }
}

/// Bytes of a shard that no series holds: spare room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    pub columns: usize,
    pub label_sets: usize,
    /// Free slabs, pages and their administration.
    pub pages: usize,
    /// The table that leads to the histograms.
    pub histograms: usize,
    /// The tables that lead to start timestamps, and to rollups.
    pub starts: usize,
    pub rollups: usize,
}

impl Rest {
    pub fn bytes(&self) -> usize {
        self.columns + self.label_sets + self.pages + self.histograms + self.starts + self.rollups
    }
}

/// Bytes of an open chunk's slab: written, and slack.
pub fn open_bytes(head: &Head) -> (usize, usize) {
    let slab = CLASSES.get(usize::from(head.class)).copied().map_or(0, usize::from);
    let used = if head.is_open() { head.state.used_bytes() } else { 0 };
    (used, slab.saturating_sub(used))
}

/// A chunk's part of the times that it shares with others, and of values that are coded together.
pub fn shared_bytes(chunk: &Chunk) -> (usize, usize) {
    let Some(shared) = chunk.shared() else { return (0, 0) };
    // One of the holders is this function.
    let holders = Arc::strong_count(&shared).saturating_sub(1).max(1);
    match &*shared {
        Shared::Times(_) | Shared::Buckets(_) => (shared.bytes() / holders, 0),
        Shared::Together(_, times) => {
            let times = times.as_ref().map_or(0, |t| t.bytes() / Arc::strong_count(t).max(1));
            (times / holders, shared.bytes() / holders)
        }
    }
}

/// Where a sealed chunk is kept.
pub fn tier_of(chunk: &Chunk) -> &'static str {
    if chunk.is_dense() { "dense" } else { "sealed" }
}

impl Shard {
    /// Bytes of samples alone: the columns and the label set are the caller's to add.
    fn held(&self, row: u32) -> Held {
        let head = &self.series.heads[row];
        let sealed = &self.series.sealed[row];
        let (open_used, open_slack) = open_bytes(head);
        let mut held = Held { open_used, open_slack, lists: sealed.list_bytes(), ..Held::default() };
        held.samples = if head.is_open() { head.state.count() as u64 } else { 0 };
        for chunk in sealed.iter() {
            held.sealed += chunk.bytes();
            let (times, values) = shared_bytes(chunk);
            held.shared += times + values;
            held.chunks += 1;
            held.samples += chunk.count() as u64;
        }
        if let Some(histograms) = self.histograms.get(row) {
            let count = histograms.count();
            held.histograms = count.sealed_bytes + count.list_bytes + count.open_bytes;
        }
        held.rollups = self.rollups.get(row).map_or(0, |series| series.bytes());
        held.starts = self.starts.get(row).map_or(0, StartSeries::bytes);
        held
    }
}

impl Database {
    /// Appends what the series of these rows hold.
    fn held_of(&self, shard: &Shard, rows: impl Iterator<Item = u32>, out: &mut Vec<Held>) {
        let columns = shard.series.bytes() / shard.series.len().max(1);
        out.extend(rows.map(|row| {
            if !shard.series.has(row) {
                // Spare room.
                return Held::default();
            }
            let labels = shard.label_sets.bytes_of(&self.shapes, shard.series.labels[row]);
            Held { columns, labels, ..shard.held(row) }
        }));
    }

    /// What the series that satisfy the predicate hold, and how many they are. Errors: the budget's.
    pub(super) fn held_by(&self, predicate: &Predicate, budget: &Budget) -> Result<(u64, Held)> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        let by_shard = ByShard::new(&ids, budget)?;
        let (mut all, mut sum) = (Vec::new(), Held::default());
        for number in 0..SHARDS {
            budget.check()?;
            all.clear();
            let shard = self.shard(number);
            self.held_of(&shard, by_shard.rows(number).iter().copied(), &mut all);
            all.iter().for_each(|h| sum.add(h));
        }
        Ok((ids.len(), sum))
    }

    /// Calls `f` for each shard with what its series hold, row by row. A shard is locked while `f` looks at it.
    pub(super) fn each_shard(&self, mut f: impl FnMut(&Shard, &[Held], Rest)) {
        let mut all: Vec<Held> = Vec::new();
        for number in 0..SHARDS {
            let shard = self.shard(number);
            let rows = shard.series.len();
            all.clear();
            self.held_of(&shard, 0..rows as u32, &mut all);
            let rest = Rest {
                columns: shard.series.bytes() + shard.graves.bytes()
                    - all.iter().map(|h| h.columns).sum::<usize>(),
                label_sets: shard.label_sets.bytes() - all.iter().map(|h| h.labels).sum::<usize>(),
                pages: shard.arena.bytes_held() - shard.arena.bytes_used(),
                histograms: shard.histograms.count().table_bytes,
                starts: shard.starts.table_bytes(),
                rollups: shard.rollups.table_bytes(),
            };
            f(&shard, &all, rest);
        }
    }
}
