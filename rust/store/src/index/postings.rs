//! Posting lists: the sorted series ids of one label value.
//!
//! One id stands in the entry itself. Up to `LIST_IDS_MAX` lie sorted in an arena, in runs of a few
//! sizes; beyond that they are a roaring bitmap. Measured with ids spread over a million: 256 of them take
//! 1.0 kB as a list and 1.5 kB as a bitmap, and the two meet at 450 (over 100,000 ids, at 110).

use metricsdb_model::Result;
use roaring::RoaringBitmap;

use crate::arena::Arena;
use crate::heap;

/// Capacities of runs. Steps of a third to a half: little copying, little room unused.
const RUN_IDS: [u16; 14] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 160, 256];
pub(super) const LIST_IDS_MAX: usize = 256;

const _: () = assert!(RUN_IDS[RUN_IDS.len() - 1] as usize == LIST_IDS_MAX);

/// Where the ids of one value are.
#[derive(Clone, Copy, Default)]
pub(super) struct Posting {
    pub len: u32,
    /// The id itself, an address in the arena, or a number of a bitmap: `len` says which.
    at: u32,
}

/// The ids of one value, sorted.
#[derive(Clone, Copy)]
pub(super) enum Ids<'a> {
    List(&'a [u32]),
    Bitmap(&'a RoaringBitmap),
}

/// The posting lists of one label.
#[derive(Default)]
pub(super) struct Lists {
    arena: Arena,
    /// Runs that outgrew their size, to be used again.
    free: [Vec<u32>; RUN_IDS.len()],
    bitmaps: Vec<RoaringBitmap>,
    /// Numbers of bitmaps that became lists again.
    unused: Vec<u32>,
}

fn size_class(len: usize) -> usize {
    RUN_IDS.partition_point(|&capacity| usize::from(capacity) < len)
}

impl Lists {
    pub(super) fn ids<'a>(&'a self, posting: &'a Posting) -> Ids<'a> {
        match posting.len as usize {
            0 => Ids::List(&[]),
            1 => Ids::List(std::slice::from_ref(&posting.at)),
            len @ ..=LIST_IDS_MAX => Ids::List(self.arena.slice(posting.at, len)),
            _ => self.bitmaps.get(posting.at as usize).map_or(Ids::List(&[]), Ids::Bitmap),
        }
    }

    /// Adds `id` unless it is there.
    pub(super) fn insert(&mut self, posting: &mut Posting, id: u32) -> Result<()> {
        let len = posting.len as usize;
        if len > LIST_IDS_MAX {
            if let Some(bitmap) = self.bitmaps.get_mut(posting.at as usize) {
                posting.len += u32::from(bitmap.insert(id));
            }
            return Ok(());
        }
        let Ids::List(ids) = self.ids(posting) else { return Ok(()) };
        let Err(place) = ids.binary_search(&id) else { return Ok(()) };
        match len {
            0 => posting.at = id,
            LIST_IDS_MAX => {
                let mut bitmap: RoaringBitmap = ids.iter().copied().collect();
                bitmap.insert(id);
                self.free[size_class(len)].push(posting.at);
                posting.at = self.unused.pop().unwrap_or(self.bitmaps.len() as u32);
                match self.bitmaps.get_mut(posting.at as usize) {
                    Some(place) => *place = bitmap,
                    None => self.bitmaps.push(bitmap),
                }
            }
            _ => {
                self.make_room(posting)?;
                let ids = self.arena.slice_mut(posting.at, len + 1);
                ids.copy_within(place..len, place + 1);
                ids[place] = id;
            }
        }
        posting.len += 1;
        Ok(())
    }

    /// Takes `id` out if it is there. Fails with `Error::Limit` where a bitmap that became short finds no room as a
    /// list; nothing is changed then.
    pub(super) fn remove(&mut self, posting: &mut Posting, id: u32) -> Result<()> {
        let len = posting.len as usize;
        if len > LIST_IDS_MAX {
            return self.remove_from_bitmap(posting, id);
        }
        let Ids::List(ids) = self.ids(posting) else { return Ok(()) };
        let Ok(place) = ids.binary_search(&id) else { return Ok(()) };
        posting.len -= 1;
        if len == 1 {
            return Ok(());
        }
        self.arena.slice_mut(posting.at, len).copy_within(place + 1.., place);
        self.shrink(posting, len);
        Ok(())
    }

    fn remove_from_bitmap(&mut self, posting: &mut Posting, id: u32) -> Result<()> {
        let Some(bitmap) = self.bitmaps.get_mut(posting.at as usize).filter(|ids| ids.contains(id)) else {
            return Ok(());
        };
        if posting.len as usize > LIST_IDS_MAX + 1 {
            bitmap.remove(id);
            posting.len -= 1;
            return Ok(());
        }
        let mut ids = std::mem::take(bitmap);
        let class = size_class(LIST_IDS_MAX);
        let run = match self.free[class].pop() {
            Some(run) => Ok(run),
            None => self.arena.take(LIST_IDS_MAX),
        };
        let run = match run {
            Ok(run) => run,
            Err(full) => {
                self.bitmaps[posting.at as usize] = ids;
                return Err(full);
            }
        };
        ids.remove(id);
        let list = self.arena.slice_mut(run, LIST_IDS_MAX);
        list.iter_mut().zip(&ids).for_each(|(to, id)| *to = id);
        self.unused.push(posting.at);
        *posting = Posting { len: LIST_IDS_MAX as u32, at: run };
        Ok(())
    }

    /// Moves a list that had `before` ids, two or more, and has one less now, to a smaller run where its length asks
    /// for one. A list for which there is no room stays: its run is larger than it need be, then.
    fn shrink(&mut self, posting: &mut Posting, before: usize) {
        let len = posting.len as usize;
        let old = size_class(before);
        if len == 1 {
            let at = self.arena.slice(posting.at, 1).first().copied().unwrap_or(0);
            self.free[old].push(posting.at);
            posting.at = at;
            return;
        }
        let class = size_class(len);
        if class == old {
            return;
        }
        let Some(to) = self.free[class].pop().or_else(|| self.arena.take(RUN_IDS[class].into()).ok()) else {
            return;
        };
        let mut ids = [0; LIST_IDS_MAX];
        ids[..len].copy_from_slice(self.arena.slice(posting.at, len));
        self.arena.slice_mut(to, len).copy_from_slice(&ids[..len]);
        self.free[old].push(posting.at);
        posting.at = to;
    }

    /// Moves a list of at least one id to a larger run if its own is full.
    fn make_room(&mut self, posting: &mut Posting) -> Result<()> {
        let len = posting.len as usize;
        let class = size_class(len + 1);
        let old = if len == 1 { None } else { Some(size_class(len)) };
        if old == Some(class) {
            return Ok(());
        }
        let to = match self.free[class].pop() {
            Some(run) => run,
            None => self.arena.take(RUN_IDS[class].into())?,
        };
        match old {
            None => self.arena.slice_mut(to, 1).fill(posting.at),
            Some(class) => {
                let mut ids = [0; LIST_IDS_MAX];
                ids[..len].copy_from_slice(self.arena.slice(posting.at, len));
                self.arena.slice_mut(to, len).copy_from_slice(&ids[..len]);
                self.free[class].push(posting.at);
            }
        }
        posting.at = to;
        Ok(())
    }

    pub(super) fn list_bytes(&self) -> usize {
        self.arena.bytes() + self.free.iter().map(heap::vector).sum::<usize>()
    }

    /// Linear in the number of bitmaps' containers.
    pub(super) fn bitmap_bytes(&self) -> usize {
        let bitmaps: usize = self.bitmaps.iter().map(bitmap_bytes).sum();
        bitmaps + heap::vector(&self.bitmaps) + heap::vector(&self.unused)
    }
}

/// Bytes that a bitmap holds outside of its struct: its containers (a key and a store of 32 bytes each) and
/// what they own.
pub(super) fn bitmap_bytes(bitmap: &RoaringBitmap) -> usize {
    let s = bitmap.statistics();
    // `statistics` counts 4 bytes for each 16-bit place of an array container.
    let small = (s.n_bytes_array_containers / 2 + s.n_bytes_run_containers) as usize;
    let small_count = (s.n_array_containers + s.n_run_containers) as usize;
    // The containers' sizes are not told one by one: each takes what the mean one does.
    let small = small_count * heap::allocated(small / small_count.max(1));
    let bitsets = s.n_bitset_containers as usize * heap::allocated(8192);
    // The list of containers grows by doubling.
    let list = (s.n_containers as usize).next_power_of_two().max(4) * 32;
    if s.n_containers == 0 { 0 } else { heap::allocated(list) + small + bitsets }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lists_of_every_length_hold_what_was_inserted_in_any_order() {
        let mut lists = Lists::default();
        let mut postings = [Posting::default(); 7];
        let mut expected: [BTreeSet<u32>; 7] = Default::default();
        let (mut x, mut longest) = (1u32, 0);
        for step in 0..24_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The first grows to a bitmap, the last stays short; ids repeat.
            let which = (x >> 20) as usize % (1 + step % 7);
            let id = (x >> 8) % 1500;
            // It grows, and then it shrinks again through every size.
            if step > 6000 && x >> 30 > 0 {
                let gone = expected[which].iter().nth((x >> 8) as usize % 40).copied().unwrap_or(id);
                lists.remove(&mut postings[which], gone).unwrap();
                expected[which].remove(&gone);
            } else if step < 6000 {
                lists.insert(&mut postings[which], id).unwrap();
                expected[which].insert(id);
            }
            longest = longest.max(postings[0].len as usize);
            if step % 500 == 0 {
                same(&lists, &postings, &expected);
            }
        }
        same(&lists, &postings, &expected);
        assert!(longest > LIST_IDS_MAX && (postings[0].len as usize) < LIST_IDS_MAX / 2);
    }

    fn same(lists: &Lists, postings: &[Posting], expected: &[BTreeSet<u32>]) {
        for (posting, expected) in postings.iter().zip(expected) {
            let got: Vec<u32> = match lists.ids(posting) {
                Ids::List(ids) => ids.to_vec(),
                Ids::Bitmap(ids) => ids.iter().collect(),
            };
            assert_eq!(got, expected.iter().copied().collect::<Vec<_>>());
            assert_eq!(posting.len as usize, expected.len());
        }
    }
}
