//! What each series holds, and what its shard holds for none in particular.

use std::sync::Arc;

use metricsdb_model::{Budget, Predicate, Result};

use crate::chunk::Chunk;
use crate::database::Database;
use crate::series::Head;
use crate::shard::{SHARDS, Shard};
use crate::slab::CLASSES;
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
    /// Its part of the times that its chunks share with others.
    pub times: usize,
    pub chunks: usize,
    pub samples: u64,
}

impl Held {
    /// Open and sealed chunks, their lists and times.
    pub fn sample_bytes(&self) -> usize {
        self.open_used + self.open_slack + self.sealed + self.lists + self.times
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
        self.times += other.times;
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
}

impl Rest {
    pub fn bytes(&self) -> usize {
        self.columns + self.label_sets + self.pages
    }
}

/// Bytes of an open chunk's slab: written, and slack.
pub fn open_bytes(head: &Head) -> (usize, usize) {
    let slab = CLASSES.get(usize::from(head.class)).copied().map_or(0, usize::from);
    let used = if head.is_open() { head.state.used_bytes() } else { 0 };
    (used, slab.saturating_sub(used))
}

/// A chunk's part of its times, which it may share with chunks of other series.
pub fn times_bytes(chunk: &Chunk) -> usize {
    chunk.times().map_or(0, |times| times.bytes() / Arc::strong_count(times).max(1))
}

/// Where a sealed chunk is kept.
pub fn tier_of(_chunk: &Chunk) -> &'static str {
    "sealed"
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
            held.times += times_bytes(chunk);
            held.chunks += 1;
            held.samples += chunk.count() as u64;
        }
        held
    }
}

impl Database {
    /// Appends what the series of these rows hold.
    fn held_of(&self, shard: &Shard, rows: impl Iterator<Item = u32>, out: &mut Vec<Held>) {
        let columns = shard.series.bytes() / shard.series.len().max(1);
        out.extend(rows.map(|row| {
            let labels = shard.label_sets.bytes_of(&self.shapes, shard.series.labels[row]);
            Held { columns, labels, ..shard.held(row) }
        }));
    }

    /// What the series that satisfy the predicate hold, and how many they are. Errors: the budget's.
    pub(super) fn held_by(&self, predicate: &Predicate, budget: &Budget) -> Result<(u64, Held)> {
        let ids = self.index.select(predicate, self, budget)?;
        let by_shard = ByShard::new(&ids);
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
                columns: shard.series.bytes() - all.iter().map(|h| h.columns).sum::<usize>(),
                label_sets: shard.label_sets.bytes() - all.iter().map(|h| h.labels).sum::<usize>(),
                pages: shard.arena.bytes_held() - shard.arena.bytes_used(),
            };
            f(&shard, &all, rest);
        }
    }
}
