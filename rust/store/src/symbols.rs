//! Interned strings: every label name and value once, known by a dense number.
//!
//! Text lies in blocks of 1,024 symbols. A full block is sealed and read without any lock; only the
//! newest block is read under a lock that is held for one copy. Cost of a symbol besides its text: an
//! end offset (4 bytes) and a slot of the lookup table (6 to 12).

use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::OnceLock;

use hashbrown::HashTable;
use metricsdb_model::bounds::LABEL_VALUE_BYTES_MAX;
use metricsdb_model::{Error, Result};
use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};

use crate::grow::Grow;
use crate::heap;

const BLOCK_SYMBOLS: u32 = 1024;
const STRIPES: usize = 64;
const SYMBOLS_MAX: u32 = u32::MAX;

// The end offsets of a block are 32 bits wide.
const _: () = assert!((BLOCK_SYMBOLS as u64) * (LABEL_VALUE_BYTES_MAX as u64) < u32::MAX as u64);

/// A concurrent interner. Symbols are never removed: a number means the same string for its lifetime.
pub struct Symbols {
    blocks: Grow<Block>,
    /// The next free number. Whoever holds it may append.
    next: Mutex<u32>,
    /// Text to number; the top bits of the hash choose the stripe.
    stripes: Box<[RwLock<HashTable<u32>>]>,
    /// Keyed, so that a sender cannot choose strings that collide.
    seed: u64,
}

#[derive(Default)]
struct Block {
    sealed: OnceLock<Texts>,
    open: RwLock<Texts>,
}

#[derive(Default)]
struct Texts {
    text: String,
    ends: Vec<u32>,
}

impl Texts {
    fn get(&self, at: usize) -> &str {
        let start = match at.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.text.get(start as usize..end as usize).unwrap_or("")
    }

    fn bytes(&self) -> usize {
        heap::allocated(self.text.capacity()) + heap::vector(&self.ends)
    }
}

/// The text of a symbol. It may hold the newest block's read lock: drop it before interning.
pub enum Text<'a> {
    Sealed(&'a str),
    Open(MappedRwLockReadGuard<'a, str>),
}

impl Deref for Text<'_> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match self {
            Text::Sealed(text) => text,
            Text::Open(text) => text,
        }
    }
}

impl Default for Symbols {
    fn default() -> Symbols {
        Symbols {
            blocks: Grow::default(),
            next: Mutex::new(0),
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            seed: std::hash::RandomState::new().hash_one(0u8),
        }
    }
}

impl Symbols {
    pub fn new() -> Symbols {
        Symbols::default()
    }

    fn hash(&self, text: &str) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), self.seed)
    }

    fn stripe(&self, hash: u64) -> &RwLock<HashTable<u32>> {
        // Bits 52..58: the table itself uses the lowest and the highest seven.
        &self.stripes[(hash >> 52) as usize % STRIPES]
    }

    /// The number of `text`, given out now if it is new. Fails with `Error::Limit` when the text is
    /// longer than any label value may be, or when all 2^32 numbers are gone.
    pub fn intern(&self, text: &str) -> Result<u32> {
        let hash = self.hash(text);
        let stripe = self.stripe(hash);
        if let Some(&symbol) = stripe.read().find(hash, |&s| &*self.get(s) == text) {
            return Ok(symbol);
        }
        let mut table = stripe.write();
        if let Some(&symbol) = table.find(hash, |&s| &*self.get(s) == text) {
            return Ok(symbol);
        }
        let symbol = self.append(text)?;
        table.insert_unique(hash, symbol, |&s| self.hash(&self.get(s)));
        Ok(symbol)
    }

    fn append(&self, text: &str) -> Result<u32> {
        if text.len() > LABEL_VALUE_BYTES_MAX {
            return Err(Error::Limit {
                what: "bytes of a label value",
                limit: LABEL_VALUE_BYTES_MAX as u64,
                needed: text.len() as u64,
                remedy: "shorten the label",
            });
        }
        let full = || Error::Limit {
            what: "distinct label names and values",
            limit: u64::from(SYMBOLS_MAX),
            needed: u64::from(SYMBOLS_MAX) + 1,
            remedy: "drop labels with unbounded values",
        };
        let mut next = self.next.lock();
        let symbol = *next;
        let block = self.blocks.get_or_make(symbol / BLOCK_SYMBOLS, Block::default).ok_or_else(full)?;
        *next = symbol.checked_add(1).ok_or_else(full)?;
        let mut open = block.open.write();
        open.text.push_str(text);
        let end = open.text.len() as u32;
        open.ends.push(end);
        if open.ends.len() == BLOCK_SYMBOLS as usize {
            let mut full = std::mem::take(&mut *open);
            full.text.shrink_to_fit();
            full.ends.shrink_to_fit();
            // Set once only: `next` has left this block for good.
            let _ = block.sealed.set(full);
        }
        Ok(symbol)
    }

    /// The number of `text` if it was interned.
    pub fn lookup(&self, text: &str) -> Option<u32> {
        let hash = self.hash(text);
        self.stripe(hash).read().find(hash, |&s| &*self.get(s) == text).copied()
    }

    /// The text of a symbol; "" for a number that was never given out.
    #[inline]
    pub fn get(&self, symbol: u32) -> Text<'_> {
        let Some(block) = self.blocks.get(symbol / BLOCK_SYMBOLS) else { return Text::Sealed("") };
        let at = (symbol % BLOCK_SYMBOLS) as usize;
        match block.sealed.get() {
            Some(texts) => Text::Sealed(texts.get(at)),
            None => Self::get_open(block, at),
        }
    }

    #[cold]
    fn get_open(block: &Block, at: usize) -> Text<'_> {
        // Recursive: a thread may hold the texts of two symbols at once.
        let open = block.open.read_recursive();
        match block.sealed.get() {
            Some(texts) => Text::Sealed(texts.get(at)),
            None => Text::Open(RwLockReadGuard::map(open, |texts| texts.get(at))),
        }
    }

    pub fn len(&self) -> usize {
        *self.next.lock() as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes held, spare capacity included.
    pub fn bytes(&self) -> usize {
        let blocks = self.len().div_ceil(BLOCK_SYMBOLS as usize) as u32;
        let texts: usize = (0..blocks)
            .filter_map(|i| self.blocks.get(i))
            .map(|b| b.sealed.get().map_or(0, Texts::bytes) + b.open.read().bytes())
            .sum();
        let tables: usize = self.stripes.iter().map(|s| heap::table(&s.read())).sum();
        heap::shared::<Symbols>() + heap::slice(&self.stripes) + self.blocks.bytes() + texts + tables
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_string_keeps_its_number_across_blocks_and_growth() {
        let symbols = Symbols::new();
        let text = |i: u32| format!("value-{i}");
        for i in 0..5000 {
            assert_eq!(symbols.intern(&text(i)).unwrap(), i);
        }
        for i in 0..5000 {
            assert_eq!(symbols.intern(&text(i)).unwrap(), i);
            assert_eq!(symbols.lookup(&text(i)), Some(i));
            assert_eq!(&*symbols.get(i), text(i));
        }
        assert_eq!(symbols.lookup("value-5000"), None);
        assert_eq!(&*symbols.get(5000), "");
        assert_eq!(&*symbols.get(u32::MAX), "");
        assert_eq!(symbols.len(), 5000);
    }

    #[test]
    fn threads_that_intern_the_same_strings_agree() {
        let symbols = Symbols::new();
        let work = |offset: u32| -> Vec<(String, u32)> {
            (0..4000)
                .map(|i| {
                    let text = format!("v{}", (i + offset) % 4000);
                    let symbol = symbols.intern(&text).unwrap();
                    assert_eq!(&*symbols.get(symbol), text);
                    (text, symbol)
                })
                .collect()
        };
        let all: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|t| s.spawn(move || work(t * 1000))).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(symbols.len(), 4000);
        assert!(all.iter().all(|(text, symbol)| symbols.lookup(text) == Some(*symbol)));
    }

    #[test]
    fn a_text_longer_than_any_label_is_refused() {
        let symbols = Symbols::new();
        let long = "x".repeat(LABEL_VALUE_BYTES_MAX + 1);
        assert!(matches!(symbols.intern(&long), Err(Error::Limit { .. })));
        assert!(symbols.is_empty());
        assert!(symbols.intern(&long[1..]).is_ok());
    }

    #[test]
    fn a_million_short_strings_cost_at_most_40_bytes_each() {
        let symbols = Symbols::new();
        for i in 0..1_000_000 {
            symbols.intern(&format!("node-{i:015}")).unwrap();
        }
        assert!(symbols.bytes() <= 40_000_000, "{}", symbols.bytes());
    }
}
