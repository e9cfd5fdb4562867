//! What several chunks hold together. The series of one scrape have the same times: where these are not
//! regular, they are one column that the chunks of all of them point to. And old buckets of one classic histogram
//! are coded together.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::Mutex;

use super::Chunk;
use crate::heap;

/// Stripes of the table, so that shards that seal at once seldom wait for each other.
const STRIPES: usize = 16;

/// Columns of one or of many chunks.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Shared {
    /// Blocks of times, one after the other.
    Times(Box<[u8]>),
    /// The values of all chunks as `codec::together` writes them, and their times unless these are regular.
    Together(Box<[u8]>, Option<Arc<Shared>>),
    /// The buckets of a block of rollup records.
    Buckets(Box<[u8]>),
}

impl Shared {
    /// The blocks of times; none where these are regular.
    pub(super) fn times(&self) -> &[u8] {
        match self {
            Shared::Times(blocks) => blocks,
            Shared::Together(_, times) => times.as_ref().map_or(&[], |times| times.times()),
            Shared::Buckets(_) => &[],
        }
    }

    /// Of rollup records; none of other columns.
    pub(crate) fn buckets(&self) -> &[u8] {
        if let Shared::Buckets(bytes) = self { bytes } else { &[] }
    }

    /// Values that were coded together; none where each chunk has its own.
    pub(super) fn columns(&self) -> &[u8] {
        if let Shared::Together(columns, _) = self { columns } else { &[] }
    }

    pub fn holds_times(&self) -> bool {
        matches!(self, Shared::Times(_))
    }

    /// Heap bytes: the column, and the counters of the `Arc`.
    pub fn bytes(&self) -> usize {
        let (Shared::Times(column) | Shared::Together(column, _) | Shared::Buckets(column)) = self;
        heap::slice(column) + heap::shared::<Shared>()
    }
}

/// Finds the same column again for as long as a chunk holds it.
#[derive(Default)]
pub struct SharedColumns {
    hasher: DefaultHashBuilder,
    stripes: [Mutex<Stripe>; STRIPES],
    common: Mutex<Common>,
    /// The stripe that is looked through next.
    look: AtomicUsize,
}

/// Small chunks that several series may have: the same constant at the same times.
#[derive(Default)]
struct Common {
    known: HashTable<(u64, Chunk)>,
    sweep_at: usize,
    /// Of the chunks.
    bytes: usize,
}

/// A constant takes less; larger chunks are seldom equal, and an entry of the table is not free.
const COMMON_BYTES: usize = 24;

#[derive(Default)]
struct Stripe {
    known: HashTable<(u64, Weak<Shared>)>,
    /// Entries after which the dead ones are swept out.
    sweep_at: usize,
    /// Of all entries when they came or were last looked at: the dead ones may be among them.
    bytes: usize,
}

impl Stripe {
    /// Looks which entries are alive: those, and bytes of all.
    fn count(&mut self) -> usize {
        let (mut columns, mut bytes) = (0, 0);
        for (_, weak) in &self.known {
            let shared = weak.upgrade();
            columns += usize::from(shared.is_some());
            // An entry that is not swept out yet keeps its counters.
            bytes += shared.map_or(heap::shared::<Shared>(), |shared| shared.bytes());
        }
        self.bytes = bytes;
        columns
    }
}

/// Stripes with no more columns are looked through by every `bytes`; of others one a call.
const LOOK_COLUMNS: usize = 1024;
/// Columns below this number are not worth a sweep.
const SWEEP_MIN: usize = 64;

impl SharedColumns {
    /// These columns, shared with all that have the same.
    pub(crate) fn intern(&self, shared: Shared) -> Arc<Shared> {
        let hash = self.hasher.hash_one(&shared);
        let mut stripe = self.stripes[hash as usize % STRIPES].lock();
        let same =
            |(h, weak): &(u64, Weak<Shared>)| *h == hash && weak.upgrade().is_some_and(|s| *s == shared);
        if let Some((_, weak)) = stripe.known.find(hash, same)
            && let Some(shared) = weak.upgrade()
        {
            return shared;
        }
        if stripe.known.len() >= stripe.sweep_at {
            stripe.known.retain(|(_, weak)| weak.strong_count() > 0);
            stripe.sweep_at = (stripe.known.len() * 2).max(SWEEP_MIN);
            stripe.count();
        }
        stripe.bytes += shared.bytes();
        let shared = Arc::new(shared);
        stripe.known.insert_unique(hash, (hash, Arc::downgrade(&shared)), |(h, _)| *h);
        shared
    }

    /// A chunk that is equal to this one, if it is small: all series that have the same point to one.
    pub fn in_common(&self, chunk: Chunk) -> Chunk {
        if chunk.encoded_bytes() > COMMON_BYTES {
            return chunk;
        }
        let chunk = chunk.to_common();
        let hash = self.hasher.hash_one(chunk.block.bytes());
        let mut common = self.common.lock();
        let times = chunk.block.shared().map(std::ptr::from_ref);
        let same = |(h, other): &(u64, Chunk)| {
            *h == hash
                && other.block.bytes() == chunk.block.bytes()
                && other.block.shared().map(std::ptr::from_ref) == times
        };
        if let Some((_, known)) = common.known.find(hash, same) {
            return known.clone();
        }
        if common.known.len() >= common.sweep_at {
            common.known.retain(|(_, chunk)| chunk.block.holders() > 1);
            common.sweep_at = (common.known.len() * 2).max(SWEEP_MIN);
            common.bytes = common.known.iter().map(|(_, chunk)| chunk.heap_bytes()).sum();
        }
        common.bytes += chunk.heap_bytes();
        common.known.insert_unique(hash, (hash, chunk.clone()), |(h, _)| *h);
        chunk
    }

    /// The columns that are in use.
    pub fn columns(&self) -> impl Iterator<Item = Arc<Shared>> {
        let alive = |stripe: &Mutex<Stripe>| -> Vec<Arc<Shared>> {
            stripe.lock().known.iter().filter_map(|(_, weak)| weak.upgrade()).collect()
        };
        self.stripes.iter().flat_map(alive)
    }

    /// Columns that are in use, and the bytes of all of them and of the table.
    pub fn size(&self) -> (usize, usize) {
        let (mut columns, mut bytes) = (0, 0);
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            columns += stripe.count();
            bytes += heap::table(&stripe.known) + stripe.bytes;
        }
        let common = self.common.lock();
        (columns, bytes + heap::table(&common.known) + common.bytes)
    }

    /// The bytes of `size`, where columns that died lately may still count. Looks at a few columns alone.
    pub fn bytes(&self) -> usize {
        let look = self.look.fetch_add(1, Relaxed) % STRIPES;
        let of_stripe = |(i, stripe): (usize, &Mutex<Stripe>)| {
            let mut stripe = stripe.lock();
            if i == look || stripe.known.len() <= LOOK_COLUMNS {
                stripe.count();
            }
            heap::table(&stripe.known) + stripe.bytes
        };
        let stripes: usize = self.stripes.iter().enumerate().map(of_stripe).sum();
        let common = self.common.lock();
        stripes + heap::table(&common.known) + common.bytes
    }
}

#[cfg(test)]
mod tests {
    use metricsdb_model::ValueKind;

    use super::super::Builder;
    use super::*;

    #[test]
    fn equal_small_chunks_are_one() {
        let table = SharedColumns::default();
        let seal = |value: f64, step: i64| {
            let times: Vec<i64> = (0..600).map(|i| i * step).collect();
            let bits = vec![value.to_bits(); 600];
            Builder::dense(ValueKind::Float, &times, &bits).finish(&table)
        };
        let (a, b, c, d) = (seal(1.0, 10), seal(1.0, 10), seal(2.0, 10), seal(1.0, 11));
        let (a, b, c, d) = (table.in_common(a), table.in_common(b), table.in_common(c), table.in_common(d));
        assert!(a.shares_bytes_with(&b) && !a.shares_bytes_with(&c) && !a.shares_bytes_with(&d));
        assert_eq!((a.bytes(), a.count(), a.last(), a.is_common()), (0, 600, 5990, true));
        let outside = Chunk::from_bytes(&a.to_bytes());
        assert!(outside.is_ok_and(|chunk| chunk.bytes() > 0 && chunk.count() == 600));
        drop((a, b, c, d));
        (0..1000).for_each(|i| drop(table.in_common(seal(f64::from(i), 7))));
        assert!(table.size().1 < 40_000, "those that nobody holds are swept out: {}", table.size().1);
    }

    #[test]
    fn equal_columns_are_one_as_long_as_somebody_holds_them() {
        let table = SharedColumns::default();
        let a = table.intern(Shared::Times([1, 2, 3].into()));
        let b = table.intern(Shared::Times([1, 2, 3].into()));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &table.intern(Shared::Times([1, 2].into()))));
        assert_eq!(table.size().0, 1);
        drop((a, b));
        assert_eq!(table.size().0, 0);
        (0..10_000u32).for_each(|i| drop(table.intern(Shared::Times(i.to_le_bytes().into()))));
        assert!(table.size().1 < 100_000, "dead entries are swept out");
    }
}
