//! Known series are found by a keyed 128-bit hash of the label bytes as their sender wrote them.
//!
//! A cache, not an authority: losing an entry costs one parse. 4096 small tables, each grown by a
//! quarter when it is four fifths full, so that no insert ever stalls and little space stands empty.

use parking_lot::RwLock;
use roaring::RoaringBitmap;
use xxhash_rust::xxh3;

use crate::heap;

/// Tables are locked in banks; a hash's top bits name its bank and its table in there.
const BANKS: usize = 64;
const TABLES_PER_BANK: usize = 64;
/// No series has this id.
pub const FREE: u32 = u32::MAX;
/// Entries one table may hold beside its share of `entries_max`, so that small stores never evict.
const TABLE_ENTRIES_MIN: usize = 64;

#[derive(Clone, Copy)]
struct Slot {
    /// The 128-bit hash in quarters: 20 bytes a slot instead of 32.
    hash: [u32; 4],
    id: u32,
}

const _: () = assert!(size_of::<Slot>() == 20);

#[derive(Default)]
struct Table {
    slots: Box<[Slot]>,
    used: u32,
}

#[derive(Default)]
struct Bank {
    tables: Vec<Table>,
}

/// From raw hash to series id.
pub struct RawTable {
    banks: Vec<RwLock<Bank>>,
}

/// Hashes raw label bytes under one key.
pub struct RawHasher {
    secret: [u8; 192],
}

impl RawHasher {
    /// The secret is stretched once per batch, not once per series.
    pub fn new(key: u64, dialect: u8, extra: &[u8], honor: bool) -> RawHasher {
        let mut text = Vec::with_capacity(extra.len() + 10);
        text.extend_from_slice(&key.to_le_bytes());
        text.extend_from_slice(&[dialect, u8::from(honor)]);
        text.extend_from_slice(extra);
        let mut secret = [0u8; 192];
        for (i, part) in secret.chunks_exact_mut(16).enumerate() {
            part.copy_from_slice(&xxh3::xxh3_128_with_seed(&text, i as u64).to_le_bytes());
        }
        RawHasher { secret }
    }

    #[inline]
    pub fn hash(&self, raw: &[u8]) -> u128 {
        xxh3::xxh3_128_with_secret(raw, &self.secret)
    }
}

fn quarters(hash: u128) -> [u32; 4] {
    [hash as u32, (hash >> 32) as u32, (hash >> 64) as u32, (hash >> 96) as u32]
}

/// Bank, and table in the bank, of a hash.
#[inline]
fn place(hash: u128) -> (usize, usize) {
    ((hash >> 122) as usize, (hash >> 116) as usize % TABLES_PER_BANK)
}

impl Table {
    #[inline]
    fn start(&self, hash: &[u32; 4]) -> usize {
        let low = u64::from(hash[0]) | u64::from(hash[1]) << 32;
        ((u128::from(low) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn get(&self, hash: u128) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = quarters(hash);
        let mut i = self.start(&hash);
        loop {
            let slot = &self.slots[i];
            if slot.id == FREE {
                return None;
            }
            if slot.hash == hash {
                return Some(slot.id);
            }
            i = if i + 1 == self.slots.len() { 0 } else { i + 1 };
        }
    }

    fn insert(&mut self, hash: u128, id: u32, entries_max: usize) {
        if self.used as usize >= entries_max {
            *self = Table::default();
        }
        if (self.used as usize + 1) * 5 > self.slots.len() * 4 {
            let len = self.slots.len() * 5 / 4 + 8;
            let empty = vec![Slot { hash: [0; 4], id: FREE }; len].into_boxed_slice();
            let old = std::mem::replace(&mut self.slots, empty);
            self.used = 0;
            for slot in old.iter().filter(|s| s.id != FREE) {
                self.place(*slot);
            }
        }
        self.place(Slot { hash: quarters(hash), id });
    }

    fn forget(&mut self, ids: &RoaringBitmap) {
        if !self.slots.iter().any(|slot| slot.id != FREE && ids.contains(slot.id)) {
            return;
        }
        let empty = vec![Slot { hash: [0; 4], id: FREE }; self.slots.len()].into_boxed_slice();
        let old = std::mem::replace(&mut self.slots, empty);
        self.used = 0;
        for slot in old.iter().filter(|slot| slot.id != FREE && !ids.contains(slot.id)) {
            self.place(*slot);
        }
    }

    /// Needs a free slot.
    fn place(&mut self, new: Slot) {
        let mut i = self.start(&new.hash);
        loop {
            let slot = &mut self.slots[i];
            if slot.id == FREE {
                self.used += 1;
                *slot = new;
                return;
            }
            if slot.hash == new.hash {
                slot.id = new.id;
                return;
            }
            i = if i + 1 == self.slots.len() { 0 } else { i + 1 };
        }
    }
}

impl Default for RawTable {
    fn default() -> RawTable {
        RawTable { banks: (0..BANKS).map(|_| RwLock::default()).collect() }
    }
}

impl RawTable {
    /// The id of each hash, `FREE` where it is unknown. `order` is a buffer.
    ///
    /// Hashes are looked up bank by bank: one lock for many look-ups, whose cache misses then overlap.
    /// A lock for each of a million known series cost half of a write.
    pub fn get_all(&self, hashes: &[u128], ids: &mut Vec<u32>, order: &mut Vec<u32>) {
        let mut starts = [0usize; BANKS + 1];
        for &hash in hashes {
            starts[place(hash).0 + 1] += 1;
        }
        for bank in 0..BANKS {
            starts[bank + 1] += starts[bank];
        }
        let mut next = starts;
        order.clear();
        order.resize(hashes.len(), 0);
        for (i, &hash) in (0u32..).zip(hashes) {
            let bank = place(hash).0;
            order[next[bank]] = i;
            next[bank] += 1;
        }
        ids.clear();
        ids.resize(hashes.len(), FREE);
        for bank in 0..BANKS {
            let members = &order[starts[bank]..starts[bank + 1]];
            if members.is_empty() {
                continue;
            }
            let tables = &self.banks[bank].read().tables;
            if tables.is_empty() {
                continue;
            }
            for &i in members {
                let hash = hashes[i as usize];
                ids[i as usize] = tables[place(hash).1].get(hash).unwrap_or(FREE);
            }
        }
    }

    /// `series` is the number of series of the store: senders that write the labels of one series in
    /// ever new ways start tables anew instead of filling the memory.
    pub fn insert(&self, hash: u128, id: u32, series: usize) {
        let (bank, table) = place(hash);
        let entries_max = TABLE_ENTRIES_MIN + series * 4 / (BANKS * TABLES_PER_BANK);
        let mut bank = self.banks[bank].write();
        if bank.tables.is_empty() {
            bank.tables.resize_with(TABLES_PER_BANK, Table::default);
        }
        bank.tables[table].insert(hash, id, entries_max);
    }

    /// Forgets every hash that leads to one of these series. Linear in the size of the table.
    pub fn forget(&self, ids: &RoaringBitmap) {
        for bank in &self.banks {
            for table in &mut bank.write().tables {
                table.forget(ids);
            }
        }
    }

    /// Entries and bytes.
    pub fn size(&self) -> (usize, usize) {
        let (mut entries, mut bytes) = (0, heap::vector(&self.banks));
        for bank in &self.banks {
            let bank = bank.read();
            bytes += heap::vector(&bank.tables);
            for table in &bank.tables {
                entries += table.used as usize;
                bytes += heap::slice(&table.slots);
            }
        }
        (entries, bytes)
    }

    /// Calls `f` with every id that some hash leads to.
    pub fn for_each_id(&self, mut f: impl FnMut(u32)) {
        for bank in &self.banks {
            for table in &bank.read().tables {
                table.slots.iter().filter(|s| s.id != FREE).for_each(|s| f(s.id));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_table_agrees_with_a_hash_map() {
        let table = RawTable::default();
        let hasher = RawHasher::new(7, 1, b"job\xffx\xff", false);
        let mut model = HashMap::new();
        for i in 0u32..200_000 {
            let hash = hasher.hash(&(i % 150_000).to_le_bytes());
            table.insert(hash, i, 200_000);
            model.insert(hash, i);
        }
        let (mut hashes, expected): (Vec<u128>, Vec<u32>) = model.iter().unzip();
        hashes.push(hasher.hash(b"unknown"));
        let (mut ids, mut order) = (Vec::new(), Vec::new());
        table.get_all(&hashes, &mut ids, &mut order);
        assert_eq!(ids.pop(), Some(FREE));
        assert_eq!(ids, expected);
        let (entries, bytes) = table.size();
        assert_eq!(entries, model.len());
        assert!(bytes < 32 * entries, "{bytes} bytes for {entries} entries");
    }

    #[test]
    fn dialects_extra_labels_and_keys_never_share_hashes() {
        let hash = |key, dialect, extra: &[u8], honor| RawHasher::new(key, dialect, extra, honor).hash(b"up");
        let all = [
            hash(1, 1, b"", false),
            hash(2, 1, b"", false),
            hash(1, 2, b"", false),
            hash(1, 1, b"a", false),
            hash(1, 1, b"", true),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn endless_spellings_of_few_series_do_not_fill_the_memory() {
        let table = RawTable::default();
        let hasher = RawHasher::new(7, 1, b"", false);
        for i in 0u64..1_000_000 {
            table.insert(hasher.hash(&i.to_le_bytes()), 3, 10);
        }
        assert!(table.size().0 <= BANKS * TABLES_PER_BANK * TABLE_ENTRIES_MIN);
    }
}
