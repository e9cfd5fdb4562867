//! The sealed chunks of one series: in time order, disjoint, shared with readers, copied on write.

use std::sync::Arc;

use metricsdb_model::TimeRange;

use crate::chunk::Chunk;
use crate::heap;

/// Most series have one chunk that grows; what came before stands in a list. 16 bytes when empty.
#[derive(Clone, Default)]
pub struct Sealed {
    tail: Option<Chunk>,
    older: Option<Arc<Vec<Chunk>>>,
}

fn meets(chunk: &Chunk, range: TimeRange) -> bool {
    chunk.first() <= range.end && chunk.last() >= range.start
}

impl Sealed {
    fn older(&self) -> &[Chunk] {
        self.older.as_deref().map_or(&[], |list| list)
    }

    pub fn is_empty(&self) -> bool {
        self.tail.is_none()
    }

    pub fn get(&self, at: usize) -> Option<&Chunk> {
        let older = self.older();
        if at < older.len() { older.get(at) } else { self.tail.as_ref().filter(|_| at == older.len()) }
    }

    pub fn first(&self) -> Option<&Chunk> {
        self.older().first().or(self.tail.as_ref())
    }

    pub fn last(&self) -> Option<&Chunk> {
        self.tail.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.older().iter().chain(&self.tail)
    }

    /// The chunks that overlap the range.
    pub fn overlapping(&self, range: TimeRange) -> impl Iterator<Item = &Chunk> {
        let older = self.older();
        let from = older.partition_point(|c| c.last() < range.start);
        let to = older.partition_point(|c| c.first() <= range.end).max(from);
        let tail = self.tail.as_ref().filter(|c| meets(c, range));
        older.get(from..to).unwrap_or(&[]).iter().chain(tail)
    }

    pub fn overlaps(&self, range: TimeRange) -> bool {
        // The newest mostly answers for all; the others lie elsewhere in memory.
        self.last().is_some_and(|c| meets(c, range)) || self.overlapping(range).next().is_some()
    }

    /// Chunks that begin at or before a time.
    pub fn begun(&self, time: i64) -> usize {
        let older = self.older().partition_point(|c| c.first() <= time);
        older + usize::from(self.tail.as_ref().is_some_and(|c| c.first() <= time))
    }

    /// Adds a chunk behind all others.
    pub fn push(&mut self, chunk: Chunk) {
        if let Some(old) = self.tail.replace(chunk) {
            let list = Arc::make_mut(self.older.get_or_insert_default());
            if list.len() == list.capacity() {
                list.reserve_exact(1 + list.len() / 4);
            }
            list.push(old);
        }
    }

    /// Puts another chunk in the place of the last; returns what stood there.
    pub fn replace_last(&mut self, chunk: Chunk) -> Option<Chunk> {
        self.tail.replace(chunk)
    }

    /// Puts chunks in the place of the `count` from `at` on; returns what stood there.
    pub fn splice(&mut self, at: usize, count: usize, chunks: Vec<Chunk>) -> Vec<Chunk> {
        let mut all: Vec<Chunk> = self.iter().cloned().collect();
        let end = (at + count).min(all.len());
        let old = all.splice(at.min(end)..end, chunks).collect();
        self.tail = all.pop();
        all.shrink_to_fit();
        self.older = (!all.is_empty()).then(|| Arc::new(all));
        old
    }

    /// Heap bytes of the list, without the chunks.
    pub fn list_bytes(&self) -> usize {
        self.older.as_ref().map_or(0, |list| heap::shared::<Vec<Chunk>>() + heap::vector(list))
    }
}
