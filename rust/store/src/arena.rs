//! Runs of 32-bit words in pages: no heap object per run, and no doubling of a large buffer.

use metricsdb_model::{Error, Result};

use crate::heap;

const PAGE_BITS: u32 = 12;
/// Words of a page; a run lies within one.
pub(crate) const PAGE_WORDS: usize = 1 << PAGE_BITS;
/// The first pages are small, so that an arena with little in it costs little.
const FIRST_PAGE_WORDS: usize = 16;

#[derive(Default)]
pub(crate) struct Arena {
    pages: Vec<Box<[u32]>>,
    /// Words given out of the last page.
    used: usize,
}

impl Arena {
    /// A run of `len` words, zeroed if it is new; `len <= PAGE_WORDS`. Returns its address.
    pub(crate) fn take(&mut self, len: usize) -> Result<u32> {
        debug_assert!(len <= PAGE_WORDS);
        if self.pages.last().is_none_or(|page| page.len() - self.used < len) {
            let grown = FIRST_PAGE_WORDS << self.pages.len().min(PAGE_BITS as usize);
            self.pages.push(vec![0; grown.min(PAGE_WORDS).max(len)].into_boxed_slice());
            self.used = 0;
        }
        let page = u32::try_from(self.pages.len() - 1).ok().filter(|&p| p < 1 << (32 - PAGE_BITS));
        let address = page.ok_or(Error::Limit {
            what: "words of an arena",
            limit: 1 << 32,
            needed: (1 << 32) + len as u64,
            remedy: "spread the series over more stores",
        })? << PAGE_BITS
            | self.used as u32;
        self.used += len;
        Ok(address)
    }

    /// The run at `address`; empty where there is none.
    #[inline]
    pub(crate) fn slice(&self, address: u32, len: usize) -> &[u32] {
        let at = address as usize % PAGE_WORDS;
        self.pages.get((address >> PAGE_BITS) as usize).and_then(|p| p.get(at..at + len)).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn slice_mut(&mut self, address: u32, len: usize) -> &mut [u32] {
        let at = address as usize % PAGE_WORDS;
        match self.pages.get_mut((address >> PAGE_BITS) as usize).and_then(|p| p.get_mut(at..at + len)) {
            Some(words) => words,
            None => &mut [],
        }
    }

    /// Bytes outside of this struct, spare capacity included.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|p| heap::slice(p)).sum::<usize>() + heap::vector(&self.pages)
    }
}
