//! The quick total of all bytes: what a limit on memory is held against, in some hundred microseconds.
//!
//! Most of it is known by counters, or by looks at pages. What only a walk over series or columns tells (lists of
//! sealed chunks, histograms, start timestamps) is walked in turn: some of it a call, the rest as it was.

use crate::chunk::SharedColumns;
use crate::database::Database;
use crate::heap;
use crate::shard::{SHARDS, Shard};
use crate::starts::StartSeries;

/// Rows that one call walks at least: a store with no more is exact.
const WALK_ROWS: usize = 1 << 14;

/// What the last walks found.
#[derive(Default)]
pub(crate) struct Walked {
    next: usize,
    /// By shard; empty before the first walk.
    shards: Vec<usize>,
}

impl Walked {
    fn bytes(&self) -> usize {
        self.shards.iter().sum()
    }
}

/// Bytes of a shard that no counter tells.
fn walk(shard: &Shard) -> usize {
    let lists: usize = shard.series.sealed.iter().map(|sealed| sealed.list_bytes()).sum();
    let histograms = shard.histograms.count();
    let starts: usize = shard.starts.iter().map(|(_, series)| StartSeries::bytes(series)).sum();
    let rollups: usize = shard.rollups.iter().map(|(_, series)| series.bytes()).sum();
    lists + rollups + histograms.sealed_bytes + histograms.list_bytes + histograms.open_bytes + starts
}

/// Bytes of a shard that its counters tell.
fn counted(shard: &Shard) -> usize {
    shard.series.bytes()
        + shard.graves.bytes()
        + shard.label_sets.bytes()
        + shard.arena.bytes_held()
        + shard.sealed_count.bytes
        + shard.histograms.table_bytes()
        + shard.starts.table_bytes()
        + shard.rollups.table_bytes()
}

impl Database {
    /// All bytes, as `memory` adds them up, within some per cent: what was walked long ago may have grown since.
    /// Cost: shards, segments, labels; half a millisecond at a million series.
    pub fn held(&self) -> usize {
        self.held_after(&mut self.meter.walked.lock())
    }

    pub(crate) fn held_after(&self, walked: &mut Walked) -> usize {
        let first = walked.shards.is_empty();
        walked.shards.resize(SHARDS, 0);
        let (from, mut rows, mut bytes) = (walked.next, 0, 0);
        for number in (0..SHARDS).map(|i| (from + i) % SHARDS) {
            let shard = self.shard(number);
            bytes += counted(&shard);
            if first || rows < WALK_ROWS {
                rows += shard.series.len();
                walked.shards[number] = walk(&shard);
                walked.next = (number + 1) % SHARDS;
            }
        }
        bytes + walked.bytes() + self.held_in_common()
    }

    /// What belongs to no shard; see `common`.
    fn held_in_common(&self) -> usize {
        self.symbols.bytes()
            + self.shapes.bytes()
            + self.raw.size().1
            + heap::shared::<SharedColumns>()
            + self.shared_columns.bytes()
            + self.rolled.bytes()
            + self.metadata.size().1
            + self.fixed_bytes()
            + self.buffer_bytes()
            + self.limits.bytes()
            + self.importance.bytes()
            + self.index.quick_bytes()
    }
}
