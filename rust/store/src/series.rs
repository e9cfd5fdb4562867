//! The series of one shard as columns: no heap object per series, and what an append touches lies
//! together in one row of `heads`.

use hashbrown::HashTable;
use metricsdb_model::ValueKind;

use crate::codec::OpenState;
use crate::heap;
use crate::sealed::Sealed;
use crate::slab::Slab;

/// Rows of one segment of a column.
const SEGMENT_ROWS: usize = 128;
/// Rows that a segment has room for at first, or a quarter of all: it doubles until it is full, so that a small
/// store stays small, and a large one leaves no holes behind.
const SEGMENT_ROWS_MIN: usize = 8;
/// Rows one shard can hold: an id is `row << 8 | shard` in 32 bits, and the last row is never used so
/// that `u32::MAX` is no id.
pub const ROWS_MAX: usize = (1 << 24) - 1;

/// A column that grows segment by segment: nothing is copied, and no growth holds twice the memory.
pub struct Segments<T> {
    segments: Vec<Vec<T>>,
}

impl<T> Default for Segments<T> {
    fn default() -> Segments<T> {
        Segments { segments: Vec::new() }
    }
}

impl<T> Segments<T> {
    pub fn len(&self) -> usize {
        match self.segments.last() {
            Some(last) => (self.segments.len() - 1) * SEGMENT_ROWS + last.len(),
            None => 0,
        }
    }

    pub fn push(&mut self, value: T) {
        match self.segments.last_mut() {
            Some(last) if last.len() < SEGMENT_ROWS => last.push(value),
            _ => {
                let room = (self.len() / 4).clamp(SEGMENT_ROWS_MIN, SEGMENT_ROWS);
                let mut segment = Vec::with_capacity(room);
                segment.push(value);
                self.segments.push(segment);
            }
        }
    }

    #[inline]
    pub fn get(&self, row: u32) -> Option<&T> {
        self.segments.get(row as usize / SEGMENT_ROWS)?.get(row as usize % SEGMENT_ROWS)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }

    pub fn bytes(&self) -> usize {
        heap::vector(&self.segments) + self.segments.iter().map(heap::vector).sum::<usize>()
    }
}

impl<T> std::ops::Index<u32> for Segments<T> {
    type Output = T;

    #[inline]
    fn index(&self, row: u32) -> &T {
        &self.segments[row as usize / SEGMENT_ROWS][row as usize % SEGMENT_ROWS]
    }
}

impl<T> std::ops::IndexMut<u32> for Segments<T> {
    #[inline]
    fn index_mut(&mut self, row: u32) -> &mut T {
        &mut self.segments[row as usize / SEGMENT_ROWS][row as usize % SEGMENT_ROWS]
    }
}

/// The open chunk of a series: all that an append in order reads and writes, but for the slab's bytes.
#[derive(Clone, Copy)]
pub struct Head {
    pub state: OpenState,
    pub slab: Slab,
    /// Size class of `slab`, or `NO_SLAB` while no chunk is open.
    pub class: u8,
}

const _: () = assert!(size_of::<Head>() <= 48, "a head and its slab's first bytes are two cache lines");

/// `Head::class` of a series without an open chunk.
pub const NO_SLAB: u8 = u8::MAX;

impl Head {
    pub fn closed() -> Head {
        Head { state: OpenState::new(ValueKind::Float), slab: Slab::default(), class: NO_SLAB }
    }

    /// Without a chunk; the next one begins with the parameters of this one.
    pub fn closed_again(&self) -> Head {
        Head { state: OpenState::behind(&self.state, self.state.kind()), ..Head::closed() }
    }

    pub fn is_open(&self) -> bool {
        self.class != NO_SLAB
    }
}

/// The table of series of one shard. Row numbers are dense and never reused.
#[derive(Default)]
pub struct SeriesTable {
    pub heads: Segments<Head>,
    pub sealed: Segments<Sealed>,
    /// Handles of `LabelSets`.
    pub labels: Segments<u32>,
    /// Which rule of the shard's `precision` rounds a row, and whether it is a counter; 0 for none.
    pub precision: Segments<u8>,
    /// Canonical hashes: the identity of a series across processes.
    pub hashes: Segments<u64>,
    /// Rows by canonical hash.
    by_hash: HashTable<u32>,
}

impl SeriesTable {
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// The row with this hash whose label set `is_same` (told the handle) confirms.
    pub fn find(&self, hash: u64, mut is_same: impl FnMut(u32) -> bool) -> Option<u32> {
        let same = |&row: &u32| self.hashes[row] == hash && is_same(self.labels[row]);
        self.by_hash.find(hash, same).copied()
    }

    /// Adds a series; `None` when the shard is full.
    pub fn push(&mut self, hash: u64, labels: u32) -> Option<u32> {
        let row = self.len();
        if row >= ROWS_MAX {
            return None;
        }
        let row = row as u32;
        self.heads.push(Head::closed());
        self.sealed.push(Sealed::default());
        self.labels.push(labels);
        self.precision.push(0);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.by_hash.insert_unique(hash, row, |&r| hashes[r]);
        Some(row)
    }

    /// Bytes of all columns and of the hash table.
    pub fn bytes(&self) -> usize {
        self.heads.bytes()
            + self.sealed.bytes()
            + self.labels.bytes()
            + self.precision.bytes()
            + self.hashes.bytes()
            + heap::table(&self.by_hash)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn series_with_the_same_hash_are_told_apart_by_their_labels() {
        let mut table = SeriesTable::default();
        let rows: Vec<u32> = (0..1000).map(|i| table.push(u64::from(i / 2), i).unwrap()).collect();
        assert_eq!(rows, (0..1000).collect::<Vec<u32>>());
        for i in 0..1000u32 {
            assert_eq!(table.find(u64::from(i / 2), |handle| handle == i), Some(i));
        }
        assert_eq!(table.find(3, |_| false), None);
        assert_eq!(table.len(), 1000);
    }

    #[test]
    fn a_column_keeps_its_rows_over_segments() {
        let mut column = Segments::default();
        for i in 0..1000u32 {
            column.push(i);
        }
        assert!((0..1000).all(|i| column[i] == i && column.get(i) == Some(&i)));
        assert_eq!((column.get(1000), column.len()), (None, 1000));
        assert!(column.bytes() < 1000 * 4 + SEGMENT_ROWS * 4 + 1000);
    }
}
