//! One of 256 slices of the store, by canonical hash: the unit of locking. It owns its series, their
//! label sets and their samples; symbols, postings and the raw table are shared by all shards.

use std::sync::Arc;

use metricsdb_model::{Result, TimeRange};

use crate::chunk::{Chunk, SharedColumns};
use crate::codec::{self, OpenState};
use crate::expire::Graves;
use crate::heap;
use crate::histograms::{HistogramSeries, Histograms};
use crate::labelsets::LabelSets;
use crate::late::DuplicatePolicy;
use crate::precision::PrecisionRules;
use crate::rollup::{Commons, Rollups};
use crate::series::{Head, SeriesTable};
use crate::slab::Arena;
use crate::starts::Starts;

/// Shards of a store.
pub const SHARDS: usize = 256;

/// How samples become chunks.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub duplicates: DuplicatePolicy,
    pub samples_per_chunk: usize,
}

/// A sample on its way into its shard.
#[derive(Clone, Copy, Debug)]
pub struct Staged {
    pub row: u32,
    /// Of the row, when its number was given out.
    pub generation: u16,
    pub time: i64,
    pub bits: u64,
}

/// What is in the sealed chunks of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealedCount {
    pub chunks: usize,
    pub bytes: usize,
    pub samples: usize,
}

impl SealedCount {
    pub fn add(&mut self, chunk: &Chunk) {
        self.chunks += 1;
        self.bytes += chunk.bytes();
        self.samples += chunk.count();
    }

    pub fn remove(&mut self, chunk: &Chunk) {
        self.chunks -= 1;
        self.bytes -= chunk.bytes();
        self.samples -= chunk.count();
    }
}

pub struct Shard {
    pub number: u8,
    pub series: SeriesTable,
    pub label_sets: LabelSets,
    pub arena: Arena,
    pub sealed_count: SealedCount,
    pub histograms: Histograms,
    /// Of samples and histograms alike.
    pub starts: Starts,
    pub rollups: Rollups,
    /// What sealed chunks hold together: one table for all shards.
    pub shared_columns: Arc<SharedColumns>,
    /// Those of the whole store; `series.precision` says which one is a row's.
    pub precision: Arc<PrecisionRules>,
    /// The last record of its stream in the journal.
    pub journal_seq: u64,
    /// While its journal is replayed, the frames of what comes meanwhile: applied behind it. Else `None`.
    pub behind: Option<Vec<u8>>,
    pub graves: Graves,
}

/// The id by which the outside and the postings know a series.
#[inline]
pub fn id_of(shard: u8, row: u32) -> u32 {
    row << 8 | u32::from(shard)
}

/// Shard and row of an id.
#[inline]
pub fn place_of(id: u32) -> (usize, u32) {
    ((id & 0xff) as usize, id >> 8)
}

/// Buffers that a writer reuses from series to series.
#[derive(Default)]
pub struct Work {
    pub times: Vec<i64>,
    pub bits: Vec<u64>,
    pub late: Vec<crate::late::Late>,
    pub merged: Vec<crate::late::Merged>,
}

impl Work {
    pub fn bytes(&self) -> usize {
        heap::vector(&self.times)
            + heap::vector(&self.bits)
            + heap::vector(&self.late)
            + heap::vector(&self.merged)
    }
}

impl Shard {
    pub fn new(number: u8, shared_columns: Arc<SharedColumns>, rolled: Arc<Commons>) -> Shard {
        Shard {
            number,
            series: SeriesTable::default(),
            label_sets: LabelSets::default(),
            arena: Arena::default(),
            sealed_count: SealedCount::default(),
            histograms: Histograms::default(),
            starts: Starts::default(),
            rollups: Rollups::new(rolled),
            shared_columns,
            precision: Arc::default(),
            journal_seq: 0,
            behind: None,
            graves: Graves::default(),
        }
    }

    /// The id of a row's series as callers get it: with the row's generation, so that it never means a later series.
    pub fn public_id(&self, row: u32) -> u64 {
        let generation = self.series.heads.get(row).map_or(0, |head| head.generation);
        u64::from(generation) << 32 | u64::from(id_of(self.number, row))
    }

    /// The bytes of a row's open chunk; empty while none is open.
    #[inline]
    pub fn open_bytes(&self, head: &Head) -> &[u8] {
        if head.is_open() { self.arena.bytes(head.slab, head.class) } else { &[] }
    }

    /// The span of the open chunk's times; `None` while none is open.
    pub fn open_span(&self, head: &Head) -> Option<TimeRange> {
        let first = head.state.first_time(self.open_bytes(head))?;
        Some(TimeRange::new(first, head.state.last_time()))
    }

    /// Whether the open chunk's span meets the range; its bytes are looked at only where the newest sample can't tell.
    #[inline]
    pub fn open_overlaps(&self, head: &Head, range: TimeRange) -> bool {
        let last = head.state.last_time();
        !head.state.is_empty()
            && last >= range.start
            && (last <= range.end
                || head.state.first_time(self.open_bytes(head)).is_some_and(|first| first <= range.end))
    }

    /// Time of the newest plain sample of a row: what makes the next one late.
    pub fn newest(&self, row: u32) -> Option<i64> {
        let head = &self.series.heads[row];
        if head.is_open() {
            return Some(head.state.last_time());
        }
        Some(self.series.sealed[row].last()?.last())
    }

    /// Times of the oldest and the newest sample of a row, histograms and what records stand for among them.
    pub fn span(&self, row: u32) -> Option<TimeRange> {
        let head = &self.series.heads[row];
        let sealed = self.series.sealed[row].first().map(|chunk| chunk.first());
        let oldest = sealed.or_else(|| head.state.first_time(self.open_bytes(head)));
        let plain = oldest.zip(self.newest(row)).map(|(oldest, newest)| TimeRange::new(oldest, newest));
        let histograms = self.histograms.get(row).and_then(HistogramSeries::span);
        let both = |a: TimeRange, b: TimeRange| TimeRange::new(a.start.min(b.start), a.end.max(b.end));
        let rolled = self.rollups.get(row).and_then(|series| series.span());
        [plain, histograms, rolled].into_iter().flatten().reduce(both)
    }

    /// Whether the row has a sample or a histogram in the range; decodes only where headers can't tell.
    pub fn has_sample(&self, row: u32, range: TimeRange, work: &mut Work) -> Result<bool> {
        match self.histograms.get(row) {
            Some(histograms) if histograms.has_any(range)? => Ok(true),
            _ if self.rollups.get(row).is_some_and(|series| range.start <= series.raw_from()) => {
                self.has_rolled_sample(row, range, work)
            }
            _ => self.has_plain_sample(row, range, work),
        }
    }

    fn has_rolled_sample(&self, row: u32, range: TimeRange, work: &mut Work) -> Result<bool> {
        let Some(series) = self.rollups.get(row).map(|series| series.unpack()) else { return Ok(false) };
        Ok(series.has_any(range)? || self.has_plain_sample(row, series.raw_part(range), work)?)
    }

    fn has_plain_sample(&self, row: u32, range: TimeRange, work: &mut Work) -> Result<bool> {
        let head = &self.series.heads[row];
        let certain = |span: TimeRange| range.contains(span.start) || range.contains(span.end);
        let open = self.open_span(head).filter(|span| span.overlaps(range));
        if open.is_some_and(certain) {
            return Ok(true);
        }
        for chunk in self.series.sealed[row].overlapping(range) {
            if certain(TimeRange::new(chunk.first(), chunk.last())) {
                return Ok(true);
            }
            work.times.clear();
            work.bits.clear();
            chunk.decode_range(range, &mut work.times, &mut work.bits)?;
            if !work.times.is_empty() {
                return Ok(true);
            }
        }
        if open.is_none() {
            return Ok(false);
        }
        self.decode_open(&head.state, self.open_bytes(head), work)?;
        Ok(work.times.iter().any(|&t| range.contains(t)))
    }

    /// Notes when the counter of a sample began that is newer than all plain ones of its row.
    pub fn note_start(&mut self, row: u32, time: i64, start: i64) -> Result<()> {
        if self.histograms.get(row).and_then(HistogramSeries::newest).is_some_and(|newest| newest >= time) {
            return self.starts.patch(row, &[(time, start)], &self.shared_columns);
        }
        self.starts.append(row, time, start, &self.shared_columns)
    }

    /// Puts chunks in the place of `count` sealed ones of a row from `at` on.
    pub fn swap_sealed(&mut self, row: u32, at: usize, count: usize, chunks: Vec<Chunk>) {
        chunks.iter().for_each(|chunk| self.sealed_count.add(chunk));
        for old in self.series.sealed[row].splice(at, count, chunks) {
            self.sealed_count.remove(&old);
        }
    }

    /// Decodes an open chunk into the buffers, which are cleared first.
    pub fn decode_open(&self, state: &OpenState, bytes: &[u8], work: &mut Work) -> Result<()> {
        work.times.clear();
        work.bits.clear();
        codec::open::decode(state, bytes, &mut work.times, &mut work.bits)
    }

    /// Samples in open chunks.
    pub fn open_samples(&self) -> usize {
        self.series.heads.iter().filter(|h| h.is_open()).map(|h| h.state.count()).sum()
    }
}
