//! Label sets, numbered in the order in which they come.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::{Freed, Labels};

/// Each label set once. What stands in it is freed as `Freed` is, and a table that grows hashes no text again.
pub struct Numbered {
    /// Hash and number.
    table: HashTable<(u64, u32)>,
    sets: Freed<Labels>,
    /// Keyed, so that a sender cannot choose sets that collide.
    seed: u64,
}

impl Numbered {
    pub fn with_capacity(sets: usize) -> Numbered {
        Numbered {
            table: HashTable::with_capacity(sets),
            sets: Freed(Vec::new()),
            seed: RandomState::new().hash_one(0u8),
        }
    }

    /// The number of a set: that of an equal one, or the next.
    pub fn number(&mut self, labels: Labels) -> u32 {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(labels.as_ref().canonical(), self.seed);
        let sets = &mut self.sets.0;
        let known =
            |&(other, number): &(u64, u32)| other == hash && sets.get(number as usize) == Some(&labels);
        if let Some(&(_, number)) = self.table.find(hash, known) {
            return number;
        }
        let number = sets.len() as u32;
        self.table.insert_unique(hash, (hash, number), |&(hash, _)| hash);
        sets.push(labels);
        number
    }

    pub fn len(&self) -> usize {
        self.sets.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sets.0.is_empty()
    }

    /// The sets by their numbers.
    pub fn into_sets(mut self) -> Vec<Labels> {
        std::mem::take(&mut self.sets.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_one_number() {
        let set =
            |i: u32| Labels::from_pairs([("__name__", "x".to_owned()), ("i", (i % 50).to_string())]).ok();
        let mut numbered = Numbered::with_capacity(2);
        assert!(numbered.is_empty());
        let numbers: Vec<u32> = (0..120).filter_map(set).map(|labels| numbered.number(labels)).collect();
        assert!(numbers.iter().enumerate().all(|(i, &number)| number as usize == i % 50));
        assert_eq!(numbered.len(), 50);
        let sets = numbered.into_sets();
        assert!(sets.iter().enumerate().all(|(i, labels)| labels.value("i") == i.to_string()));
    }
}
