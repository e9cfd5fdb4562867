//! What several chunks hold together. The series of one scrape have the same times: where these are not
//! regular, they are one column that the chunks of all of them point to.

use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::Mutex;

use crate::heap;

/// Stripes of the table, so that shards that seal at once seldom wait for each other.
const STRIPES: usize = 16;

/// The times of one or of many chunks: time blocks, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Times {
    pub(super) blocks: Box<[u8]>,
}

impl Times {
    /// Heap bytes: the column, and the counters of its `Arc`.
    pub fn bytes(&self) -> usize {
        heap::slice(&self.blocks) + heap::shared::<Times>()
    }
}

/// Finds the same column again for as long as a chunk holds it.
#[derive(Default)]
pub struct SharedTimes {
    hasher: DefaultHashBuilder,
    stripes: [Mutex<Stripe>; STRIPES],
}

#[derive(Default)]
struct Stripe {
    known: HashTable<(u64, Weak<Times>)>,
    /// Entries after which the dead ones are swept out.
    sweep_at: usize,
}

/// Columns below this number are not worth a sweep.
const SWEEP_MIN: usize = 64;

impl SharedTimes {
    /// The column with these blocks, shared with all that have the same.
    pub(super) fn intern(&self, blocks: Vec<u8>) -> Arc<Times> {
        let hash = self.hasher.hash_one(&blocks);
        let mut stripe = self.stripes[hash as usize % STRIPES].lock();
        let same = |(h, weak): &(u64, Weak<Times>)| {
            *h == hash && weak.upgrade().is_some_and(|t| *t.blocks == *blocks)
        };
        if let Some((_, weak)) = stripe.known.find(hash, same)
            && let Some(times) = weak.upgrade()
        {
            return times;
        }
        if stripe.known.len() >= stripe.sweep_at {
            stripe.known.retain(|(_, weak)| weak.strong_count() > 0);
            stripe.sweep_at = (stripe.known.len() * 2).max(SWEEP_MIN);
        }
        let times = Arc::new(Times { blocks: blocks.into_boxed_slice() });
        stripe.known.insert_unique(hash, (hash, Arc::downgrade(&times)), |(h, _)| *h);
        times
    }

    /// Columns that are in use, and the bytes of all of them and of the table. An entry that is not swept out yet
    /// keeps its counters.
    pub fn size(&self) -> (usize, usize) {
        let (mut columns, mut bytes) = (0, 0);
        for stripe in &self.stripes {
            let stripe = stripe.lock();
            bytes += heap::table(&stripe.known);
            for (_, weak) in &stripe.known {
                let times = weak.upgrade();
                columns += usize::from(times.is_some());
                bytes += times.map_or(heap::shared::<Times>(), |times| times.bytes());
            }
        }
        (columns, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_columns_are_one_as_long_as_somebody_holds_them() {
        let table = SharedTimes::default();
        let a = table.intern(vec![1, 2, 3]);
        let b = table.intern(vec![1, 2, 3]);
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &table.intern(vec![1, 2])));
        assert_eq!(table.size().0, 1);
        drop((a, b));
        assert_eq!(table.size().0, 0);
        (0..10_000u32).for_each(|i| drop(table.intern(i.to_le_bytes().to_vec())));
        assert!(table.size().1 < 100_000, "dead entries are swept out");
    }
}
