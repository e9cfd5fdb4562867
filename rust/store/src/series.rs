//! The series of one shard as columns: no heap object per series, and what an append touches lies
//! together in one row of `heads`.

use std::collections::BTreeSet;

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
/// What a row takes in the set of free ones: nodes of eleven are half full.
const FREE_ROW_BYTES: usize = 10;

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
    /// How many series had the row before: a number that was given out for one of them leads nowhere.
    pub generation: u16,
    /// Size class of `slab`, `NO_SLAB` while no chunk is open, or `NO_SERIES` in a row without series.
    pub class: u8,
}

const _: () = assert!(size_of::<Head>() <= 48, "a head and its slab's first bytes are two cache lines");

/// `Head::class` of a series without an open chunk.
pub const NO_SLAB: u8 = u8::MAX;
/// `Head::class` of a row that no series has.
const NO_SERIES: u8 = NO_SLAB - 1;
/// Stands for whatever generation a row has: of numbers that were just found under its labels.
pub const ANY_GENERATION: u16 = u16::MAX;

impl Head {
    pub fn closed() -> Head {
        let state = OpenState::new(ValueKind::Float);
        Head { state, slab: Slab::default(), generation: 0, class: NO_SLAB }
    }

    /// Of a row whose series is gone.
    fn gone(&self) -> Head {
        Head { generation: self.generation, class: NO_SERIES, ..Head::closed() }
    }

    /// Without a chunk; the next one begins with the parameters of this one.
    pub fn closed_again(&self) -> Head {
        let state = OpenState::behind(&self.state, self.state.kind());
        Head { state, generation: self.generation, ..Head::closed() }
    }

    pub fn is_open(&self) -> bool {
        self.class < NO_SERIES
    }

    /// Whether no series has the row.
    pub fn is_gone(&self) -> bool {
        self.class == NO_SERIES
    }
}

/// The table of series of one shard. A row whose series is gone is used again once nobody can mean the old one.
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
    /// Rows for the next series, lowest first.
    free: BTreeSet<u32>,
}

impl SeriesTable {
    /// Rows, those without series among them.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// The rows that have a series.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(self.heads.iter()).filter(|(_, head)| !head.is_gone()).map(|(row, _)| row)
    }

    pub fn has(&self, row: u32) -> bool {
        self.heads.get(row).is_some_and(|head| !head.is_gone())
    }

    /// Whether the row has a series, and the one that had it in that generation.
    #[inline]
    pub fn has_of(&self, row: u32, generation: u16) -> bool {
        let same = |head: &Head| generation == ANY_GENERATION || head.generation == generation;
        self.heads.get(row).is_some_and(|head| !head.is_gone() && same(head))
    }

    /// The row that the next series gets: `wanted` if it can have that. `None` when the shard is full.
    pub fn next_row(&self, wanted: Option<u32>) -> Option<u32> {
        let behind = self.len() as u32;
        let lowest = match wanted {
            Some(row) => self.free.get(&row),
            None => self.free.first(),
        };
        lowest.copied().or_else(|| (self.len() < ROWS_MAX).then_some(behind))
    }

    /// The row with this hash whose label set `is_same` (told the handle) confirms.
    pub fn find(&self, hash: u64, mut is_same: impl FnMut(u32) -> bool) -> Option<u32> {
        let same = |&row: &u32| self.hashes[row] == hash && is_same(self.labels[row]);
        self.by_hash.find(hash, same).copied()
    }

    /// Adds a series in a row of `next_row`.
    pub fn put(&mut self, row: u32, hash: u64, labels: u32) {
        if !self.free.remove(&row) {
            self.push_row();
        }
        let head = &mut self.heads[row];
        *head = Head { generation: head.generation, ..Head::closed() };
        self.labels[row] = labels;
        self.hashes[row] = hash;
        let hashes = &self.hashes;
        self.by_hash.insert_unique(hash, row, |&r| hashes[r]);
    }

    fn push_row(&mut self) {
        self.heads.push(Head::closed().gone());
        self.sealed.push(Sealed::default());
        self.labels.push(u32::MAX);
        self.precision.push(0);
        self.hashes.push(0);
    }

    /// Adds a row that had a series once.
    pub fn push_gone(&mut self) {
        self.free.insert(self.len() as u32);
        self.push_row();
    }

    /// Takes a series out of its row; its label set is still there for those who read it.
    pub fn remove(&mut self, row: u32) {
        if let Ok(found) = self.by_hash.find_entry(self.hashes[row], |&r| r == row) {
            found.remove();
        }
        self.heads[row] = self.heads[row].gone();
        self.sealed[row] = Sealed::default();
        self.precision[row] = 0;
    }

    /// Ends a generation: nobody reads the row any more. Returns the handle of its label set.
    pub fn clear(&mut self, row: u32) -> u32 {
        let head = &mut self.heads[row];
        head.generation = head.generation.wrapping_add(1) % ANY_GENERATION;
        std::mem::replace(&mut self.labels[row], u32::MAX)
    }

    /// Lets another series have a row that was cleared.
    pub fn reuse(&mut self, row: u32) {
        self.free.insert(row);
    }

    /// Bytes of all columns and of the hash table.
    pub fn bytes(&self) -> usize {
        self.heads.bytes()
            + self.sealed.bytes()
            + self.labels.bytes()
            + self.precision.bytes()
            + self.hashes.bytes()
            + heap::table(&self.by_hash)
            + self.free.len() * FREE_ROW_BYTES
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn series_with_the_same_hash_are_told_apart_by_their_labels() {
        let mut table = SeriesTable::default();
        for i in 0..1000u32 {
            assert_eq!(table.next_row(None), Some(i));
            table.put(i, u64::from(i / 2), i);
        }
        for i in 0..1000u32 {
            assert_eq!(table.find(u64::from(i / 2), |handle| handle == i), Some(i));
        }
        assert_eq!(table.find(3, |_| false), None);
        assert_eq!(table.len(), 1000);
    }

    #[test]
    fn a_row_gets_another_series_once_it_is_free_and_another_generation() {
        let mut table = SeriesTable::default();
        (0..3).for_each(|row| table.put(row, 7, row));
        table.remove(1);
        assert_eq!((table.find(7, |handle| handle == 1), table.next_row(None)), (None, Some(3)));
        assert!(!table.has(1) && table.has(2) && table.rows().eq([0, 2]));
        assert_eq!(table.clear(1), 1);
        table.reuse(1);
        assert_eq!(
            (table.next_row(None), table.next_row(Some(2)), table.next_row(Some(1))),
            (Some(1), Some(3), Some(1))
        );
        table.put(1, 9, 40);
        assert_eq!(table.find(9, |handle| handle == 40), Some(1));
        assert!(table.has_of(1, 1) && !table.has_of(1, 0) && table.has_of(1, ANY_GENERATION));
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
