//! Interned strings: every label name and value once, known by a dense number.
//!
//! Text lies in blocks of 1,024 symbols. A full block is sealed and read without any lock; only the
//! newest block is read under a lock that is held for one copy. Cost of a symbol besides its text: an
//! end offset (4 bytes) and a slot of the lookup table (6 to 12). Texts that nobody uses any more are taken out of
//! the lookup (`unlist`) and then out of their block (`free`); their numbers are not given out again.

use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwapOption, Guard};
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

/// A concurrent interner. A number means one string for good; it is gone once it was freed.
pub struct Symbols {
    blocks: Grow<Block>,
    /// The next free number. Whoever holds it may append.
    next: Mutex<u32>,
    /// Text to number; the top bits of the hash choose the stripe.
    stripes: Box<[RwLock<HashTable<u32>>]>,
    /// Keyed, so that a sender cannot choose strings that collide.
    seed: u64,
    /// How often symbols were unlisted.
    unlisted: AtomicU64,
}

#[derive(Default)]
struct Block {
    sealed: ArcSwapOption<Texts>,
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
pub struct Text<'a>(Held<'a>);

enum Held<'a> {
    Sealed(Guard<Option<Arc<Texts>>>, usize),
    Open(MappedRwLockReadGuard<'a, str>),
    Nothing,
}

impl Deref for Text<'_> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match &self.0 {
            Held::Sealed(texts, at) => texts.as_ref().map_or("", |texts| texts.get(*at)),
            Held::Open(text) => text,
            Held::Nothing => "",
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
            unlisted: AtomicU64::new(0),
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
            // Once only: `next` has left this block for good.
            block.sealed.store(Some(Arc::new(full)));
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
        let Some(block) = self.blocks.get(symbol / BLOCK_SYMBOLS) else { return Text(Held::Nothing) };
        let at = (symbol % BLOCK_SYMBOLS) as usize;
        let sealed = block.sealed.load();
        if sealed.is_some() { Text(Held::Sealed(sealed, at)) } else { Self::get_open(block, at) }
    }

    /// Appends the texts of `symbols`, each with `end` behind it. Neighbours mostly stand in one block, which is loaded
    /// once for them.
    pub fn write(&self, symbols: impl IntoIterator<Item = u32>, end: u8, out: &mut Vec<u8>) {
        let mut loaded: Option<(u32, Guard<Option<Arc<Texts>>>)> = None;
        for symbol in symbols {
            let number = symbol / BLOCK_SYMBOLS;
            if loaded.as_ref().is_none_or(|(of, _)| *of != number) {
                loaded = self.blocks.get(number).map(|block| (number, block.sealed.load()));
            }
            match loaded.as_ref().and_then(|(_, texts)| texts.as_ref()) {
                Some(texts) => out.extend_from_slice(texts.get((symbol % BLOCK_SYMBOLS) as usize).as_bytes()),
                None => out.extend_from_slice(self.get(symbol).as_bytes()),
            }
            out.push(end);
        }
    }

    #[cold]
    fn get_open(block: &Block, at: usize) -> Text<'_> {
        // Recursive: a thread may hold the texts of two symbols at once.
        let open = block.open.read_recursive();
        let sealed = block.sealed.load();
        if sealed.is_some() {
            return Text(Held::Sealed(sealed, at));
        }
        Text(Held::Open(RwLockReadGuard::map(open, |texts| texts.get(at))))
    }

    /// How often symbols were unlisted: who remembers symbols of texts forgets them when it changes.
    pub fn unlisted(&self) -> u64 {
        self.unlisted.load(Relaxed)
    }

    /// Takes symbols out of the lookup: the next who interns their texts gets others. No one may be about to use
    /// what `intern` gave it. Their texts can be read until `free`.
    pub fn unlist(&self, symbols: &[u32]) {
        for &symbol in symbols {
            let hash = self.hash(&self.get(symbol));
            if let Ok(found) = self.stripe(hash).write().find_entry(hash, |&s| s == symbol) {
                found.remove();
            }
        }
        self.unlisted.fetch_add(1, Relaxed);
    }

    /// Frees the texts of unlisted symbols that nobody reads any more, as far as their block is full: returns the
    /// others. For one caller at a time.
    pub fn free(&self, mut symbols: Vec<u32>) -> Vec<u32> {
        symbols.sort_unstable();
        let mut left = Vec::new();
        for of_block in symbols.chunk_by(|a, b| a / BLOCK_SYMBOLS == b / BLOCK_SYMBOLS) {
            let number = of_block.first().map_or(0, |symbol| symbol / BLOCK_SYMBOLS);
            let Some(block) = self.blocks.get(number) else { continue };
            let Some(old) = block.sealed.load_full() else {
                left.extend_from_slice(of_block);
                continue;
            };
            let mut gone = of_block.iter().map(|symbol| (symbol % BLOCK_SYMBOLS) as usize).peekable();
            let mut texts = Texts { text: String::new(), ends: Vec::with_capacity(old.ends.len()) };
            for at in 0..old.ends.len() {
                if gone.next_if_eq(&at).is_none() {
                    texts.text.push_str(old.get(at));
                }
                texts.ends.push(texts.text.len() as u32);
            }
            texts.text.shrink_to_fit();
            // Without any text there need be no ends.
            let texts = if texts.text.is_empty() { Texts::default() } else { texts };
            block.sealed.store(Some(Arc::new(texts)));
        }
        left
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
            .map(|b| {
                let sealed = |texts: &Arc<Texts>| texts.bytes() + heap::shared::<Texts>();
                b.sealed.load().as_ref().map_or(0, sealed) + b.open.read().bytes()
            })
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
    fn unlisted_texts_get_other_numbers_and_freed_ones_take_no_room() {
        let symbols = Symbols::new();
        let text = |i: u32| format!("a rather long value number {i}");
        (0..5000).for_each(|i| assert_eq!(symbols.intern(&text(i)).unwrap(), i));
        let gone: Vec<u32> = (0..5000).filter(|i| i % 10 > 0).collect();
        let (bytes, read) = (symbols.bytes(), symbols.get(11));
        symbols.unlist(&gone);
        assert_eq!((symbols.lookup(&text(11)), &*symbols.get(11)), (None, text(11).as_str()));
        assert_eq!(symbols.intern(&text(11)).unwrap(), 5000);
        // The last block is still open.
        let left = symbols.free(gone);
        assert!(left.iter().all(|&s| s >= 4096) && left.len() > 700);
        assert_eq!(
            (&*read, &*symbols.get(11), &*symbols.get(20)),
            (text(11).as_str(), "", text(20).as_str())
        );
        assert_eq!(symbols.lookup(&text(20)), Some(20));
        assert!(symbols.bytes() < bytes / 2, "{} of {bytes}", symbols.bytes());
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
