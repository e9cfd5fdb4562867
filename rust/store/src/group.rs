//! Sorts series into groups by their labels' symbols: only the groups' label sets are built.

use hashbrown::HashTable;
use metricsdb_model::source::Groups;
use metricsdb_model::{Budget, Grouping, Labels, Result};

use crate::database::Database;
use crate::shard::place_of;

/// Groups found so far: the kept pairs of each, one group after the other.
struct Found {
    keys: Vec<(u32, u32)>,
    starts: Vec<usize>,
    /// Of each group, so that a table that grows hashes none again.
    hashes: Vec<u64>,
    table: HashTable<u32>,
}

impl Found {
    fn key(&self, group: u32) -> &[(u32, u32)] {
        &self.keys[self.starts[group as usize]..self.starts[group as usize + 1]]
    }

    /// The group with this key; a new one where there is none.
    fn group(&mut self, key: &[(u32, u32)]) -> u32 {
        let hash = hash_pairs(key.iter().copied());
        if let Some(&known) = self.table.find(hash, |&g| self.key(g) == key) {
            return known;
        }
        let group = self.starts.len() as u32 - 1;
        self.keys.extend_from_slice(key);
        self.starts.push(self.keys.len());
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(hash, group, |&g| hashes[g as usize]);
        group
    }

    /// Bytes of the columns and the table, which double as they grow.
    fn bytes(&self) -> usize {
        2 * (self.keys.len() * size_of::<(u32, u32)>() + self.starts.len() * size_of::<[usize; 3]>())
    }
}

impl Database {
    /// The groups of series; neighbours in one shard take its lock once. Errors: the budget's.
    pub(crate) fn group(
        &self,
        ids: impl Iterator<Item = u32>,
        grouping: &Grouping,
        budget: &Budget,
    ) -> Result<Groups> {
        let (names, keep) = match grouping {
            Grouping::By(names) => (names, true),
            Grouping::Without(names) => (names, false),
        };
        let listed: Vec<u32> = names.iter().filter_map(|n| self.symbols.lookup(n)).collect();
        budget.hold(ids.size_hint().0 * size_of::<u32>())?;
        let mut of = Vec::with_capacity(ids.size_hint().0);
        if keep && listed.is_empty() {
            of.extend(ids.map(|_| 0));
            let labels = if of.is_empty() { Vec::new() } else { vec![Labels::empty()] };
            return Ok(Groups { of, labels });
        }
        let mut found =
            Found { keys: Vec::new(), starts: vec![0], hashes: Vec::new(), table: HashTable::new() };
        let mut key: Vec<(u32, u32)> = Vec::new();
        // Of the shape seen last: the places and names of the labels that are kept.
        let (mut shape, mut kept) = (u32::MAX, Vec::new());
        let mut ids = ids.peekable();
        while let Some(&first) = ids.peek() {
            budget.check()?;
            let before = found.bytes();
            let number = place_of(first).0;
            let shard = self.shard(number);
            while let Some(id) = ids.next_if(|&id| place_of(id).0 == number) {
                let handle = shard.series.labels[place_of(id).1];
                let (its, values) = shard.label_sets.values(&self.shapes, handle);
                if its != shape || kept.is_empty() {
                    let names = self.shapes.names(its).iter().copied().enumerate();
                    shape = its;
                    kept = names.filter(|(_, name)| listed.contains(name) == keep).collect();
                }
                key.clear();
                key.extend(kept.iter().filter_map(|&(at, name)| Some((name, *values.get(at)?))));
                of.push(found.group(&key));
            }
            drop(shard);
            budget.hold(found.bytes() - before)?;
        }
        Ok(Groups { of, labels: self.labels_of_groups(&found, budget)? })
    }

    fn labels_of_groups(&self, found: &Found, budget: &Budget) -> Result<Vec<Labels>> {
        let mut text = Vec::new();
        budget.hold((found.starts.len() - 1) * size_of::<Labels>())?;
        let mut all = Vec::with_capacity(found.starts.len() - 1);
        for range in found.starts.windows(2) {
            budget.check()?;
            let labels = self.labels_from(found.keys[range[0]..range[1]].iter().copied(), &mut text);
            budget.hold(labels.heap_bytes())?;
            all.push(labels);
        }
        Ok(all)
    }
}

pub(crate) fn hash_pairs(pairs: impl Iterator<Item = (u32, u32)>) -> u64 {
    // Multiply and fold: symbols are dense numbers that no sender chooses freely.
    pairs.fold(0x9e37_79b9_7f4a_7c15, |h: u64, (n, v)| {
        let m = u128::from(h ^ (u64::from(n) << 32 | u64::from(v))) * 0x2d35_8dcc_aa6c_78a5;
        (m as u64) ^ (m >> 64) as u64
    })
}
