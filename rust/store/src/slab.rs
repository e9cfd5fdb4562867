//! The bytes of open chunks: slots of a few sizes, cut from pages of 4 KiB.
//!
//! Each shard owns one arena. A page holds slots of one class; a page whose last slot is given back
//! serves any class again, so series that grow through the classes together leave no holes behind.

use crate::heap;

/// Bytes of one page: the largest slot.
pub const PAGE_BYTES: usize = 4096;

/// Sizes of slots. Steps of 1.25 to 1.5: little slack, and few copies until a chunk is full.
pub const CLASSES: [u16; 17] =
    [16, 24, 32, 40, 48, 64, 80, 112, 144, 200, 272, 368, 512, 816, 1360, 2048, PAGE_BYTES as u16];

const _: () = assert!(PAGE_BYTES / CLASSES[0] as usize <= 256, "a slot number is one byte");

/// Empty pages kept for the next slot of any class; more than these go back to the allocator.
const EMPTY_PAGES_KEPT: usize = 1;
/// A class with few slots gets small pages: of a quarter of its slots, but not below this number.
const PAGE_SLOTS_MIN: usize = 4;
const NONE: u16 = u16::MAX;

/// A slot: page << 8 | slot number. Meaningless without the arena and the class it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Slab(u32);

struct Page {
    /// `PAGE_BYTES` or fewer, or nothing while the page is given back.
    bytes: Box<[u8]>,
    /// Where this page stands in `Arena::roomy[class]`, while it has room.
    at: u32,
    class: u8,
    used: u16,
    /// Slots below were handed out at least once.
    fresh: u16,
    /// Head of the list of slots that were given back; each holds the next one in its first two bytes.
    free: u16,
}

/// All open bytes of one shard.
#[derive(Default)]
pub struct Arena {
    pages: Vec<Page>,
    /// Whole pages without a slot in use that still hold their bytes.
    empty: Vec<u32>,
    /// Page numbers whose bytes were given back.
    gone: Vec<u32>,
    /// Per class: pages with room.
    roomy: [Vec<u32>; CLASSES.len()],
    slots: [u32; CLASSES.len()],
}

impl Arena {
    /// A slot with whatever bytes its last owner left.
    pub fn take(&mut self, class: u8) -> Slab {
        let c = class as usize;
        let size = CLASSES[c] as usize;
        let p = match self.roomy[c].last() {
            Some(&p) => p,
            None => self.open_page(class),
        };
        let page = &mut self.pages[p as usize];
        let slot = if page.free == NONE {
            page.fresh += 1;
            page.fresh - 1
        } else {
            let slot = page.free;
            let start = slot as usize * size;
            page.free = u16::from_le_bytes([page.bytes[start], page.bytes[start + 1]]);
            slot
        };
        page.used += 1;
        self.slots[c] += 1;
        if page.used as usize == page.bytes.len() / size {
            self.roomy[c].pop();
        }
        Slab(p << 8 | u32::from(slot))
    }

    /// Takes a slot back.
    pub fn give(&mut self, slab: Slab, class: u8) {
        let c = class as usize;
        let size = CLASSES[c] as usize;
        let (p, slot) = (slab.0 >> 8, (slab.0 & 0xff) as u16);
        let page = &mut self.pages[p as usize];
        let start = slot as usize * size;
        page.bytes[start..start + 2].copy_from_slice(&page.free.to_le_bytes());
        page.free = slot;
        let was_full = page.used as usize == page.bytes.len() / size;
        page.used -= 1;
        self.slots[c] -= 1;
        let is_empty = page.used == 0;
        if was_full {
            page.at = self.roomy[c].len() as u32;
            self.roomy[c].push(p);
        }
        if is_empty {
            self.close_page(p, c);
        }
    }

    /// The bytes of a slot.
    #[inline]
    pub fn bytes(&self, slab: Slab, class: u8) -> &[u8] {
        let size = CLASSES[class as usize] as usize;
        &self.pages[(slab.0 >> 8) as usize].bytes[(slab.0 & 0xff) as usize * size..][..size]
    }

    #[inline]
    pub fn bytes_mut(&mut self, slab: Slab, class: u8) -> &mut [u8] {
        let size = CLASSES[class as usize] as usize;
        &mut self.pages[(slab.0 >> 8) as usize].bytes[(slab.0 & 0xff) as usize * size..][..size]
    }

    /// Moves a slot's bytes to the start of one of another, larger class.
    pub fn grow(&mut self, slab: Slab, from: u8, to: u8) -> Slab {
        let new = self.take(to);
        let len = CLASSES[from as usize] as usize;
        let (old_page, old_slot) = ((slab.0 >> 8) as usize, (slab.0 & 0xff) as usize);
        let (new_page, new_slot) = ((new.0 >> 8) as usize, (new.0 & 0xff) as usize);
        // Slots of two classes never share a page.
        if let Ok([source, target]) = self.pages.get_disjoint_mut([old_page, new_page]) {
            target.bytes[new_slot * CLASSES[to as usize] as usize..][..len]
                .copy_from_slice(&source.bytes[old_slot * len..][..len]);
        }
        self.give(slab, from);
        new
    }

    /// Bytes of slots in use, slack inside them included.
    pub fn bytes_used(&self) -> usize {
        CLASSES.iter().zip(&self.slots).map(|(&c, &n)| c as usize * n as usize).sum()
    }

    /// Bytes held: pages and their administration.
    pub fn bytes_held(&self) -> usize {
        self.pages.iter().map(|page| heap::slice(&page.bytes)).sum::<usize>()
            + heap::vector(&self.pages)
            + heap::vector(&self.empty)
            + heap::vector(&self.gone)
            + self.roomy.iter().map(heap::vector).sum::<usize>()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.slots.iter().map(|&n| n as usize).sum()
    }

    fn open_page(&mut self, class: u8) -> u32 {
        let size = CLASSES[class as usize] as usize;
        let slots = (self.slots[class as usize] as usize / 4).max(PAGE_SLOTS_MIN).min(PAGE_BYTES / size);
        let bytes = if slots == PAGE_BYTES / size { PAGE_BYTES } else { slots * size };
        let whole = if bytes == PAGE_BYTES { self.empty.pop() } else { None };
        let p = match whole.or_else(|| self.gone.pop()) {
            Some(p) => p,
            None => {
                self.pages.push(Page { bytes: Box::default(), at: 0, class, used: 0, fresh: 0, free: NONE });
                self.pages.len() as u32 - 1
            }
        };
        let page = &mut self.pages[p as usize];
        if page.bytes.is_empty() {
            page.bytes = vec![0; bytes].into_boxed_slice();
        }
        (page.class, page.used, page.fresh, page.free) = (class, 0, 0, NONE);
        page.at = self.roomy[class as usize].len() as u32;
        self.roomy[class as usize].push(p);
        p
    }

    /// Takes an empty page out of its class.
    fn close_page(&mut self, p: u32, class: usize) {
        let at = self.pages[p as usize].at as usize;
        self.roomy[class].swap_remove(at);
        if let Some(&moved) = self.roomy[class].get(at) {
            self.pages[moved as usize].at = at as u32;
        }
        if self.empty.len() < EMPTY_PAGES_KEPT && self.pages[p as usize].bytes.len() == PAGE_BYTES {
            self.empty.push(p);
        } else {
            self.pages[p as usize].bytes = Box::default();
            self.gone.push(p);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_rise_to_a_page() {
        assert!(CLASSES.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(CLASSES[CLASSES.len() - 1] as usize, PAGE_BYTES);
    }

    proptest! {
        /// Against a plain vector of byte vectors: no slot ever shows another's bytes.
        #[test]
        fn slots_never_share_bytes(steps in prop::collection::vec((0u8..3, 0u8..17, any::<u16>(), any::<u8>()), 1..600)) {
            let mut arena = Arena::default();
            let mut model: Vec<(Slab, u8, Vec<u8>)> = Vec::new();
            for (what, class, pick, fill) in steps {
                if what == 0 || model.is_empty() {
                    let slab = arena.take(class);
                    arena.bytes_mut(slab, class).fill(fill);
                    model.push((slab, class, vec![fill; CLASSES[class as usize] as usize]));
                } else {
                    let i = pick as usize % model.len();
                    let (slab, old, bytes) = model.swap_remove(i);
                    if what == 1 || class <= old {
                        arena.give(slab, old);
                    } else {
                        let slab = arena.grow(slab, old, class);
                        let rest = &mut arena.bytes_mut(slab, class)[bytes.len()..];
                        rest.fill(fill);
                        let mut grown = bytes;
                        grown.resize(CLASSES[class as usize] as usize, fill);
                        model.push((slab, class, grown));
                    }
                }
                prop_assert_eq!(arena.len(), model.len());
                for (slab, class, bytes) in &model {
                    prop_assert_eq!(arena.bytes(*slab, *class), &bytes[..]);
                }
            }
            let used: usize = model.iter().map(|m| m.2.len()).sum();
            prop_assert_eq!(arena.bytes_used(), used);
            for (slab, class, _) in model {
                arena.give(slab, class);
            }
            prop_assert!(arena.bytes_held() <= (EMPTY_PAGES_KEPT + 20) * PAGE_BYTES);
        }
    }
}
