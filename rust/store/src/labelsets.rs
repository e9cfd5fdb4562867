//! Label sets without a heap object each: a shape (the names, shared by all series that have the same)
//! and one value symbol per name, side by side in an arena. 11 labels cost 48 bytes.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use metricsdb_model::bounds::LABELS_PER_SERIES_MAX;
use metricsdb_model::{Error, Result};
use parking_lot::RwLock;

use crate::arena::{Arena, PAGE_WORDS};
use crate::grow::Grow;
use crate::heap;

// A set lies within one page.
const _: () = assert!(LABELS_PER_SERIES_MAX < PAGE_WORDS);

/// The sequences of label names that occur, each once. One for all shards; reading takes no lock.
#[derive(Default)]
pub struct Shapes {
    names: Grow<Box<[u32]>>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    count: u32,
    words: usize,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Shapes {
    /// The number of this sequence of name symbols.
    fn intern(&self, pairs: &[(u32, u32)]) -> Result<u32> {
        let names = || pairs.iter().map(|p| p.0);
        let same = |&shape: &u32| self.names(shape).iter().copied().eq(names());
        let hash = {
            let known = self.known.read();
            let hash = hash_names(&known.hasher, names());
            if let Some(&shape) = known.table.find(hash, same) {
                return Ok(shape);
            }
            hash
        };
        let mut known = self.known.write();
        if let Some(&shape) = known.table.find(hash, same) {
            return Ok(shape);
        }
        let shape = known.count;
        self.names.get_or_make(shape, || names().collect()).ok_or(Error::Limit {
            what: "distinct sets of label names",
            limit: u64::from(u32::MAX),
            needed: u64::from(u32::MAX) + 1,
            remedy: "send fewer kinds of label names",
        })?;
        let Known { count, words, table, hasher } = &mut *known;
        *count += 1;
        *words += pairs.len();
        table.insert_unique(hash, shape, |&s| hash_names(hasher, self.names(s).iter().copied()));
        Ok(shape)
    }

    /// The name symbols of a shape, in name order; none for a number that was never given out.
    pub fn names(&self, shape: u32) -> &[u32] {
        self.names.get(shape).map_or(&[], |names| names)
    }

    pub fn len(&self) -> usize {
        self.known.read().count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        let known = self.known.read();
        // Shapes are of like length: each takes about what the mean one does.
        let names = known.count as usize * heap::allocated(known.words * 4 / (known.count as usize).max(1));
        self.names.bytes() + names + heap::table(&known.table)
    }
}

fn hash_names(hasher: &RandomState, names: impl Iterator<Item = u32>) -> u64 {
    let mut h = hasher.build_hasher();
    names.for_each(|n| std::hash::Hasher::write_u32(&mut h, n));
    std::hash::Hasher::finish(&h)
}

/// The label sets of one shard; a handle stays valid for the lifetime of the arena.
#[derive(Default)]
pub struct LabelSets {
    /// For each set: its shape, then its values in the shape's order.
    arena: Arena,
    /// Sets that were given back, by their number of words: where the next of that size go.
    free: Vec<Vec<u32>>,
}

impl LabelSets {
    /// Keeps `pairs` (name and value symbols, in name order). Fails with `Error::Limit` when there are
    /// more labels than a series may have, or when the arena's 2^32 words are used up.
    pub fn push(&mut self, shapes: &Shapes, pairs: &[(u32, u32)]) -> Result<u32> {
        if pairs.len() > LABELS_PER_SERIES_MAX {
            return Err(Error::Limit {
                what: "labels of a series",
                limit: LABELS_PER_SERIES_MAX as u64,
                needed: pairs.len() as u64,
                remedy: "send fewer labels",
            });
        }
        let shape = shapes.intern(pairs)?;
        let len = pairs.len() + 1;
        let handle = match self.free.get_mut(len).and_then(Vec::pop) {
            Some(handle) => handle,
            None => self.arena.take(len)?,
        };
        let words = self.arena.slice_mut(handle, pairs.len() + 1);
        for (word, value) in words.iter_mut().zip(std::iter::once(shape).chain(pairs.iter().map(|p| p.1))) {
            *word = value;
        }
        Ok(handle)
    }

    /// Takes a set back.
    pub fn free(&mut self, shapes: &Shapes, handle: u32) {
        let len = shapes.names(self.shape(handle)).len() + 1;
        if self.free.len() <= len {
            self.free.resize_with(len + 1, Vec::new);
        }
        if let Some(free) = self.free.get_mut(len) {
            free.push(handle);
        }
    }

    fn parts<'a>(&'a self, shapes: &'a Shapes, handle: u32) -> (&'a [u32], &'a [u32]) {
        let (shape, values) = self.values(shapes, handle);
        (shapes.names(shape), values)
    }

    /// The shape of a set: series with equal shapes have the same label names.
    pub fn shape(&self, handle: u32) -> u32 {
        self.arena.slice(handle, 1).first().copied().unwrap_or(u32::MAX)
    }

    /// The shape of a set, and its value symbols in the order of the shape's names.
    pub fn values(&self, shapes: &Shapes, handle: u32) -> (u32, &[u32]) {
        let shape = self.shape(handle);
        let words = self.arena.slice(handle, shapes.names(shape).len() + 1);
        (shape, words.get(1..).unwrap_or(&[]))
    }

    /// Name and value symbols in name order.
    pub fn pairs<'a>(
        &'a self,
        shapes: &'a Shapes,
        handle: u32,
    ) -> impl ExactSizeIterator<Item = (u32, u32)> + 'a {
        let (names, values) = self.parts(shapes, handle);
        names.iter().copied().zip(values.iter().copied())
    }

    /// The value symbol of one label; `None` where the set lacks it.
    pub fn value(&self, shapes: &Shapes, handle: u32, name: u32) -> Option<u32> {
        let (names, values) = self.parts(shapes, handle);
        values.get(names.iter().position(|&n| n == name)?).copied()
    }

    /// All bytes held outside of this struct, spare capacity included.
    pub fn bytes(&self) -> usize {
        self.arena.bytes() + heap::vector(&self.free) + self.free.iter().map(heap::vector).sum::<usize>()
    }

    /// Bytes of one set.
    pub fn bytes_of(&self, shapes: &Shapes, handle: u32) -> usize {
        (shapes.names(self.shape(handle)).len() + 1) * size_of::<u32>()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sets_come_back_as_they_were_pushed() {
        let shapes = Shapes::default();
        let mut sets = LabelSets::default();
        let set = |i: u32| -> Vec<(u32, u32)> { (0..i % 13).map(|n| (n * 3, i * 100 + n)).collect() };
        let handles: Vec<u32> = (0..5000).map(|i| sets.push(&shapes, &set(i)).unwrap()).collect();
        for (i, &handle) in handles.iter().enumerate() {
            let expected = set(i as u32);
            assert!(sets.pairs(&shapes, handle).eq(expected.iter().copied()));
            for name in 0..40 {
                let value = expected.iter().find(|p| p.0 == name).map(|p| p.1);
                assert_eq!(sets.value(&shapes, handle, name), value);
            }
        }
        assert_eq!(shapes.len(), 13);
    }

    #[test]
    fn eleven_labels_cost_at_most_50_bytes() {
        let shapes = Shapes::default();
        let mut sets = LabelSets::default();
        let pairs: Vec<(u32, u32)> = (0..11).map(|n| (n, n)).collect();
        for _ in 0..4000 {
            sets.push(&shapes, &pairs).unwrap();
        }
        assert!(sets.bytes() <= 50 * 4000, "{}", sets.bytes());
    }

    #[test]
    fn too_many_labels_are_refused() {
        let pairs: Vec<(u32, u32)> = (0..=LABELS_PER_SERIES_MAX as u32).map(|n| (n, n)).collect();
        let result = LabelSets::default().push(&Shapes::default(), &pairs);
        assert!(matches!(result, Err(Error::Limit { .. })));
    }
}
