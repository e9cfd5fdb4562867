//! The allocation behind a chunk: bytes, and at will the columns that it shares with others, behind one counter.
//!
//! `unsafe`, since no library's shared slice has less than 24 bytes of counters, lengths and pointers; here it is
//! 8, which is 3 % of a chunk of 512 samples. Tests below count what is freed, also across threads.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::{NonNull, copy_nonoverlapping};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::shared::Shared;

/// In `Head::len`: a pointer to shared columns stands between the head and the bytes.
const WITH_SHARED: u32 = 1 << 31;

#[repr(C)]
struct Head {
    holders: AtomicU32,
    /// Bytes, and `WITH_SHARED`.
    len: u32,
}

/// A block holds no more bytes; chunks are far smaller.
pub const BYTES_MAX: usize = (WITH_SHARED - 1) as usize;
/// Far from where the counter ends, whatever other threads add meanwhile.
const HOLDERS_MAX: u32 = 1 << 31;
/// What stands before the bytes.
const HEAD_BYTES: usize = size_of::<Head>();
const SHARED_BYTES: usize = size_of::<*const Shared>();

/// Immutable bytes that are freed with their last holder. A clone shares them.
pub struct Block {
    /// Points to a `Head`, behind which stand the pointer to shared columns, if any, and `len` bytes.
    head: NonNull<Head>,
}

// SAFETY: the bytes never change, the counter is atomic, and `Shared` may go to and be seen by any thread.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

const fn assert_send_sync<T: Send + Sync>() {}
const _: () = assert_send_sync::<Shared>();
const _: () = assert!(align_of::<Head>() <= 8 && HEAD_BYTES == 8 && SHARED_BYTES <= 8);

fn layout(len: usize, shared: bool) -> Layout {
    let size = HEAD_BYTES + if shared { SHARED_BYTES } else { 0 } + len;
    // 31 bits of length and 16 more fit `isize` on every machine with 64 bits.
    Layout::from_size_align(size, 8).unwrap_or(Layout::new::<Head>())
}

impl Block {
    /// Copies the bytes of both pieces, one behind the other; `BYTES_MAX` at most.
    pub fn new(shared: Option<Arc<Shared>>, pieces: [&[u8]; 2]) -> Block {
        let bytes = pieces[0].len() + pieces[1].len();
        assert!(bytes <= BYTES_MAX, "who makes chunks has looked at their length");
        let len = bytes as u32;
        let layout = layout(bytes, shared.is_some());
        // SAFETY: the layout has at least the size of a head.
        let Some(head) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let head = head.cast::<Head>();
        let flag = if shared.is_some() { WITH_SHARED } else { 0 };
        // SAFETY: fresh memory of `layout`: head, pointer if anything is shared, then room for the bytes of both pieces.
        unsafe {
            head.write(Head { holders: AtomicU32::new(1), len: len | flag });
            let mut at = head.add(1).cast::<u8>();
            if let Some(shared) = shared {
                at.cast::<*const Shared>().write(Arc::into_raw(shared));
                at = at.add(SHARED_BYTES);
            }
            copy_nonoverlapping(pieces[0].as_ptr(), at.as_ptr(), pieces[0].len());
            copy_nonoverlapping(pieces[1].as_ptr(), at.add(pieces[0].len()).as_ptr(), pieces[1].len());
        }
        Block { head }
    }

    fn head(&self) -> &Head {
        // SAFETY: written by `new`, and alive as long as a holder is.
        unsafe { self.head.as_ref() }
    }

    fn has_shared(&self) -> bool {
        self.head().len & WITH_SHARED != 0
    }

    fn len(&self) -> usize {
        (self.head().len & !WITH_SHARED) as usize
    }

    fn shared_raw(&self) -> Option<*const Shared> {
        // SAFETY: `new` has written a pointer behind the head of a block that shares.
        self.has_shared().then(|| unsafe { self.head.add(1).cast::<*const Shared>().read() })
    }

    /// The columns that this block shares.
    pub fn shared(&self) -> Option<&Shared> {
        // SAFETY: the pointer came from an `Arc` that this block holds one count of.
        self.shared_raw().map(|shared| unsafe { &*shared })
    }

    pub fn shared_arc(&self) -> Option<Arc<Shared>> {
        let shared = self.shared_raw()?;
        // SAFETY: as above; the count is raised for the `Arc` that is given out.
        unsafe {
            Arc::increment_strong_count(shared);
            Some(Arc::from_raw(shared))
        }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let before = if self.has_shared() { SHARED_BYTES } else { 0 };
        // SAFETY: `new` has written as many bytes there, and nobody changes them.
        unsafe { std::slice::from_raw_parts(self.head.add(1).cast::<u8>().add(before).as_ptr(), self.len()) }
    }

    /// Bytes that were asked of the allocator.
    pub fn size(&self) -> usize {
        layout(self.len(), self.has_shared()).size()
    }

    pub fn holders(&self) -> usize {
        self.head().holders.load(Ordering::Relaxed) as usize
    }

    pub fn is(&self, other: &Block) -> bool {
        self.head == other.head
    }
}

impl Clone for Block {
    #[inline]
    fn clone(&self) -> Block {
        // Whoever clones holds one, so nothing has to be ordered. Two billion holders are a leak gone wild: the
        // count must not come round to zero.
        let holders = self.head().holders.fetch_add(1, Ordering::Relaxed);
        if holders >= HOLDERS_MAX {
            self.head().holders.fetch_sub(1, Ordering::Relaxed);
        }
        assert!(holders < HOLDERS_MAX, "a chunk has two billion holders");
        Block { head: self.head }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        if self.head().holders.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What other holders did with the bytes happens before they are freed.
        fence(Ordering::Acquire);
        let layout = layout(self.len(), self.has_shared());
        if let Some(shared) = self.shared_raw() {
            // SAFETY: gives back the count that `new` took.
            drop(unsafe { Arc::from_raw(shared) });
        }
        // SAFETY: the last holder; allocated with the same layout, which follows from the head.
        unsafe { dealloc(self.head.cast::<u8>().as_ptr(), layout) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn times(n: u8) -> Arc<Shared> {
        Arc::new(Shared::Times(vec![n; n as usize].into()))
    }

    #[test]
    fn bytes_and_times_come_back_and_are_freed_with_the_last_holder() {
        for len in [0usize, 1, 7, 8, 9, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let shared = times(5);
            let block = Block::new(Some(shared.clone()), [&bytes[..len / 2], &bytes[len / 2..]]);
            let plain = Block::new(None, [&bytes, &[]]);
            assert_eq!((block.bytes(), plain.bytes()), (&bytes[..], &bytes[..]));
            assert_eq!((block.size(), plain.size()), (16 + len, 8 + len));
            assert_eq!((block.shared(), plain.shared()), (Some(&*shared), None));
            let other = block.clone();
            assert!(block.is(&other) && !block.is(&plain) && block.holders() == 2);
            drop(block);
            assert_eq!((other.bytes(), Arc::strong_count(&shared)), (&bytes[..], 2));
            let third = other.shared_arc().unwrap();
            assert_eq!(Arc::strong_count(&shared), 3);
            drop((other, third));
            assert_eq!(Arc::strong_count(&shared), 1);
        }
    }

    #[test]
    fn holders_in_many_threads_free_it_once() {
        for _ in 0..50 {
            let shared = times(9);
            let block = Block::new(Some(shared.clone()), [b"some ", b"bytes"]);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let mine = block.clone();
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let again = mine.clone();
                            assert_eq!(again.bytes(), b"some bytes");
                            assert_eq!(again.shared().unwrap().times().len(), 9);
                        }
                    });
                }
                drop(block);
            });
            assert_eq!(Arc::strong_count(&shared), 1);
        }
    }
}
