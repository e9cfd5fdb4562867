//! Columns of samples in time order, put together.

/// Times, ascending, and what stands at each.
pub trait Timed: Default {
    type Item;

    fn times(&self) -> &[i64];

    fn columns(&mut self) -> (&mut Vec<i64>, &mut Vec<Self::Item>);
}

/// Appends the samples of all, in time order, to `out`; at equal times the one with the lowest rank stands.
pub fn merged<T: Timed>(mut all: Vec<(u32, T)>, out: &mut T) {
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
            let all = parts.iter().map(column).enumerate().map(|(rank, one)| (rank as u32, one));
            let mut found = Samples::default();
            merged(all.filter(|(_, one)| !one.is_empty()).collect(), &mut found);
            let found: Vec<(i64, f64)> = found.timestamps.into_iter().zip(found.values).collect();
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
