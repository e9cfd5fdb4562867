//! The union of many posting lists.

use roaring::{MultiOps, RoaringBitmap};

use super::postings::Ids;

/// One id in so many of the id space: denser, and marking bits beats sorting ids.
const SPARSE: usize = 512;

/// Collects posting lists; the union of the short ones is made once, at the end.
#[derive(Default)]
pub(super) struct Gather {
    ids: Vec<u32>,
    bitmap: RoaringBitmap,
}

impl Gather {
    pub(super) fn add<'a>(&mut self, lists: impl Iterator<Item = Ids<'a>>) {
        let mut bitmaps: Vec<&RoaringBitmap> = Vec::new();
        for list in lists {
            match list {
                Ids::List(ids) => self.ids.extend_from_slice(ids),
                Ids::Bitmap(ids) => bitmaps.push(ids),
            }
        }
        match bitmaps.as_slice() {
            [] => {}
            [one] if self.bitmap.is_empty() => self.bitmap = (*one).clone(),
            _ => self.bitmap |= bitmaps.union(),
        }
    }

    pub(super) fn finish(self) -> RoaringBitmap {
        let Gather { ids, bitmap } = self;
        let small = union(ids);
        if bitmap.is_empty() { small } else { bitmap | small }
    }
}

/// The set of `ids`, which come in any order.
pub(super) fn union(mut ids: Vec<u32>) -> RoaringBitmap {
    let top = ids.iter().copied().max().unwrap_or(0) as usize;
    if ids.len() > 64 && ids.len() > top / SPARSE {
        let mut bits = vec![0u8; top / 8 + 1];
        for id in ids {
            bits[id as usize / 8] |= 1 << (id % 8);
        }
        return RoaringBitmap::from_lsb0_bytes(0, &bits);
    }
    if !ids.is_sorted() {
        ids.sort_unstable();
    }
    ids.dedup();
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_sparse_ids_make_the_same_set() {
        for (count, step) in [(0u32, 1), (1, 9), (5000, 3), (5000, 100_003), (300, 64), (70, 1)] {
            let ids: Vec<u32> = (0..count).map(|i| (i * 7919 % count.max(1)) * step).collect();
            let expected: RoaringBitmap = ids.iter().copied().collect();
            assert_eq!(union(ids), expected);
        }
    }
}
