//! Columns of samples in time order, put together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::labels::Labels;

/// Times, ascending, and what stands at each.
pub trait Timed: Default {
    type Item;

    fn times(&self) -> &[i64];

    fn columns(&mut self) -> (&mut Vec<i64>, &mut Vec<Self::Item>);
}

/// What several sources have of series, which are one by their labels.
#[derive(Default)]
pub struct BySeries<T> {
    found: Vec<(Labels, Vec<(u32, T)>)>,
    places: HashMap<Labels, usize>,
}

impl<T: Timed> BySeries<T> {
    /// What the source of this rank has of a series.
    pub fn push(&mut self, labels: Labels, rank: u32, one: T) {
        match self.places.entry(labels) {
            Entry::Occupied(known) => self.found[*known.get()].1.push((rank, one)),
            Entry::Vacant(new) => {
                self.found.push((new.key().clone(), vec![(rank, one)]));
                new.insert(self.found.len() - 1);
            }
        }
    }

    /// Each series with its samples as `merged` puts them together, in the order in which series came first.
    pub fn merged(self) -> impl Iterator<Item = (Labels, T)> {
        self.found.into_iter().map(|(labels, parts)| {
            let mut whole = T::default();
            merged(parts, &mut whole);
            (labels, whole)
        })
    }
}

/// Appends the samples of all, in time order, to `out`; at equal times the one with the lowest rank stands.
pub fn merged<T: Timed>(mut all: Vec<(u32, T)>, out: &mut T) {
    all.retain(|(_, one)| !one.times().is_empty());
    all.sort_by_key(|(rank, one)| (one.times().first().copied(), *rank));
    let apart = all.windows(2).all(|two| two[0].1.times().last() < two[1].1.times().first());
    if !apart {
        return interleaved(all, out);
    }
    let (times, items) = out.columns();
    for (_, mut one) in all {
        let (more_times, more_items) = one.columns();
        times.append(more_times);
        items.append(more_items);
    }
}

/// The same where they overlap: by sorting, since overlaps are few.
fn interleaved<T: Timed>(all: Vec<(u32, T)>, out: &mut T) {
    let mut rows = Vec::with_capacity(all.iter().map(|(_, one)| one.times().len()).sum());
    for (rank, mut one) in all {
        let (times, items) = one.columns();
        rows.extend(times.drain(..).zip(items.drain(..)).map(|(t, item)| (t, rank, item)));
    }
    rows.sort_by_key(|(t, rank, _)| (*t, *rank));
    rows.dedup_by_key(|(t, ..)| *t);
    let (times, items) = out.columns();
    for (t, _, item) in rows {
        times.push(t);
        items.push(item);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::sample::Samples;

    proptest! {
        #[test]
        fn merging_keeps_all_times_and_the_first_of_each(
            parts in prop::collection::vec(prop::collection::btree_map(0..60i64, 0..9u8, 0..12), 0..5),
        ) {
            let mut wanted: BTreeMap<i64, f64> = BTreeMap::new();
            for (t, value) in parts.iter().rev().flatten() {
                wanted.insert(*t, f64::from(*value));
            }
            let column = |part: &BTreeMap<i64, u8>| Samples {
                timestamps: part.keys().copied().collect(),
                values: part.values().map(|&v| f64::from(v)).collect(),
            };
            let mut found = BySeries::default();
            for (rank, one) in parts.iter().map(column).enumerate() {
                found.push(Labels::empty(), rank as u32, one);
            }
            let found = found.merged().next().map(|(_, one)| one).unwrap_or_default();
            let found: Vec<(i64, f64)> = found.timestamps.into_iter().zip(found.values).collect();
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
