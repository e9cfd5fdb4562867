//! Where the bytes are, part by part, and how many things there are.

use std::sync::atomic::Ordering::Relaxed;

use crate::database::Database;
use crate::histograms::HistogramCount;
use crate::shard::{SHARDS, Shard};

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

#[derive(Default)]
struct Bytes {
    series: usize,
    label_sets: usize,
    open_used: usize,
    open_slack: usize,
    open_pages: usize,
    open_chunks: usize,
    sealed: usize,
    sealed_chunks: usize,
    lists: usize,
    histograms: HistogramCount,
}

impl Bytes {
    fn add(&mut self, shard: &Shard) {
        let (_, used) = shard.open_count();
        self.series += shard.series.bytes();
        self.label_sets += shard.label_sets.bytes();
        self.open_used += used;
        self.open_slack += shard.slab_slack();
        self.open_pages += shard.arena.bytes_held() - shard.arena.bytes_used();
        self.open_chunks += shard.arena.len();
        self.sealed += shard.sealed_count.bytes;
        self.sealed_chunks += shard.sealed_count.chunks;
        self.lists += shard.sealed_list_bytes();
        self.histograms += shard.histograms.count();
    }
}

impl Database {
    /// The whole memory by part. Walks every series: some 50 ms for a million.
    pub fn memory(&self) -> Vec<Part> {
        let mut bytes = Bytes::default();
        (0..SHARDS).for_each(|number| bytes.add(&self.shard(number)));
        let (series, histograms) = (self.series_count(), bytes.histograms);
        let (raw, raw_bytes) = self.raw.size();
        let (times, times_bytes) = self.shared_columns.size();
        let (families, metadata) = self.metadata.size();
        let part = |name, bytes, items| Part { name, bytes, items };
        let mut parts = vec![
            part("symbols", self.symbols.bytes(), self.symbols.len()),
            part("label sets", bytes.label_sets + self.shapes.bytes(), series),
            part("raw label hashes", raw_bytes, raw),
            part("series columns", bytes.series, series),
            part("open chunks: written", bytes.open_used, bytes.open_chunks),
            part("open chunks: slack in slabs", bytes.open_slack, bytes.open_chunks),
            part("open chunks: free slabs and pages", bytes.open_pages, 0),
            part("sealed chunks", bytes.sealed, bytes.sealed_chunks),
            part("sealed chunk lists", bytes.lists, bytes.sealed_chunks),
            part("histograms: open", histograms.open_bytes + histograms.table_bytes, histograms.open_rows),
            part(
                "histograms: sealed",
                histograms.sealed_bytes + histograms.list_bytes,
                histograms.sealed_rows,
            ),
            part("shared times", times_bytes, times),
            part("metadata", metadata, families),
            part("shards", SHARDS * size_of::<parking_lot::Mutex<Shard>>() + size_of::<Database>(), SHARDS),
        ];
        let scratch = self.scratch.lock();
        parts.push(part("write buffers", scratch.iter().map(|s| s.bytes()).sum(), scratch.len()));
        parts.extend(self.index.bytes().into_iter().map(|(name, bytes)| part(name, bytes, series)));
        parts
    }

    /// Counts of series, samples and chunks. Walks every series.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            symbols: self.symbols.len() as u64,
            decoded_samples: self.decoded.load(Relaxed),
            ..Stats::default()
        };
        for number in 0..SHARDS {
            let shard = self.shard(number);
            let rows = shard.series.len();
            stats.series += rows as u64;
            stats.open_chunks += shard.arena.len() as u64;
            stats.open_samples += shard.open_count().0 as u64;
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
