//! Where the bytes are: part by part, and by whatever a person can do something about.
//!
//! One walk (`walk`) says what each series holds; `account` folds that by a key, `explain` lists chunks,
//! `advice` finds out what could go. Every table adds up to the same total.

mod account;
mod advice;
mod explain;
mod governed;
mod held;
mod importance;
mod limit;
mod walk;

pub use account::{By, Row, Weight};
pub use advice::{LabelEffect, MetricFacts};
pub use explain::ChunkRow;
pub use governed::{Governed, GovernedSeries};
pub(crate) use held::Walked;
pub(crate) use importance::Importance;
pub use importance::ImportanceRule;
pub use limit::Evicted;
pub(crate) use limit::Meter;

use crate::chunk::SharedColumns;
use crate::database::Database;
use crate::heap;
use crate::histograms::HistogramCount;
use crate::journal::Journal;
use crate::shard::{SHARDS, Shard};
use walk::Held;

/// One part of the store's memory. Parts don't overlap; spare capacity is included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    pub bytes: usize,
    /// How many things share these bytes; 0 where nothing is counted.
    pub items: usize,
}

/// Counts of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub series: u64,
    pub samples: u64,
    pub open_chunks: u64,
    pub open_samples: u64,
    pub sealed_chunks: u64,
    pub sealed_samples: u64,
    /// Histograms, which are not among `samples`, and their sealed chunks.
    pub histogram_samples: u64,
    pub histogram_chunks: u64,
    pub symbols: u64,
    /// Samples that queries have decoded so far; answers from headers decode none.
    pub decoded_samples: u64,
    /// Times of the oldest and the newest sample; `None` while there is none.
    pub oldest: Option<i64>,
    pub newest: Option<i64>,
}

/// What belongs to no shard.
struct Common {
    symbols: usize,
    shapes: usize,
    raw: usize,
    columns: usize,
    metadata: usize,
    /// The store itself and its shards, without what these own.
    fixed: usize,
    buffers: usize,
    limits: usize,
    index: Vec<(&'static str, usize)>,
}

impl Common {
    fn index_bytes(&self) -> usize {
        self.index.iter().map(|part| part.1).sum()
    }
}

impl Database {
    fn common(&self) -> Common {
        Common {
            symbols: self.symbols.bytes(),
            shapes: self.shapes.bytes(),
            raw: self.raw.size().1,
            columns: heap::shared::<SharedColumns>() + self.shared_columns.size().1 + self.rolled.bytes(),
            metadata: self.metadata.size().1,
            fixed: self.fixed_bytes(),
            buffers: self.buffer_bytes(),
            limits: self.limits.bytes() + self.importance.bytes(),
            index: self.index.bytes(),
        }
    }

    /// The store itself and its shards, without what these own.
    fn fixed_bytes(&self) -> usize {
        heap::allocated(SHARDS * size_of::<parking_lot::Mutex<Shard>>()) + size_of::<Database>()
    }

    /// What writers and the journal keep between calls.
    fn buffer_bytes(&self) -> usize {
        let scratch = self.scratch.lock();
        let buffers = heap::vector(&scratch) + scratch.iter().map(|s| s.bytes()).sum::<usize>();
        buffers + self.journal().map_or(0, Journal::bytes)
    }

    /// The whole memory by part. Walks every series: some 50 ms for a million.
    pub fn memory(&self) -> Vec<Part> {
        let (mut all, mut open_chunks) = (Held::default(), 0);
        let (mut columns, mut label_sets, mut pages) = (0, 0, 0);
        let (mut start_table, mut started) = (0, 0);
        let (mut rollup_table, mut rolled) = (0, 0);
        let mut histograms = HistogramCount::default();
        self.each_shard(|shard, held, rest| {
            held.iter().for_each(|h| all.add(h));
            columns += rest.columns;
            label_sets += rest.label_sets;
            pages += rest.pages;
            start_table += rest.starts;
            started += shard.starts.iter().count();
            rollup_table += rest.rollups;
            rolled += shard.rollups.iter().count();
            open_chunks += shard.arena.len();
            histograms += shard.histograms.count();
        });
        let common = self.common();
        let series = self.series_count();
        let part = |name, bytes, items| Part { name, bytes, items };
        let mut parts = vec![
            part("symbols", common.symbols, self.symbols.len()),
            part("label sets", all.labels + label_sets + common.shapes, series),
            part("raw label hashes", common.raw, self.raw.size().0),
            part("series columns", all.columns + columns, series),
            part("open chunks: written", all.open_used, open_chunks),
            part("open chunks: slack in slabs", all.open_slack, open_chunks),
            part("open chunks: free slabs and pages", pages, 0),
            part("sealed chunks", all.sealed, all.chunks),
            part("sealed chunk lists", all.lists, all.chunks),
            part("histograms: open", histograms.open_bytes + histograms.table_bytes, histograms.open_rows),
            part(
                "histograms: sealed",
                histograms.sealed_bytes + histograms.list_bytes,
                histograms.sealed_rows,
            ),
            part("start timestamps", all.starts + start_table, started),
            part("rollups", all.rollups + rollup_table, rolled),
            part("shared columns", common.columns, self.shared_columns.size().0),
            part("metadata", common.metadata, self.metadata.size().0),
            part("shards", common.fixed, SHARDS),
            part("write buffers", common.buffers, self.scratch.lock().len()),
            part("limits", common.limits, self.folded().0),
        ];
        parts.extend(common.index.into_iter().map(|(name, bytes)| part(name, bytes, series)));
        parts
    }

    /// Counts of series, samples and chunks. Walks every series.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            symbols: self.symbols.len() as u64,
            decoded_samples: self.decoded.total(),
            ..Stats::default()
        };
        for number in 0..SHARDS {
            let shard = self.shard(number);
            let rows = shard.series.len();
            stats.series += shard.series.rows().count() as u64;
            stats.open_chunks += shard.arena.len() as u64;
            stats.open_samples += shard.open_samples() as u64;
            stats.sealed_chunks += shard.sealed_count.chunks as u64;
            stats.sealed_samples += shard.sealed_count.samples as u64;
            for row in 0..rows as u32 {
                let Some(span) = shard.span(row) else { continue };
                stats.oldest = stats.oldest.into_iter().chain([span.start]).min();
                stats.newest = stats.newest.into_iter().chain([span.end]).max();
            }
            let histograms = shard.histograms.count();
            stats.histogram_samples += (histograms.open_rows + histograms.sealed_rows) as u64;
            stats.histogram_chunks += histograms.sealed_chunks as u64;
        }
        stats.samples = stats.open_samples + stats.sealed_samples;
        stats
    }
}

#[cfg(test)]
mod tests;
