//! Sorting that asks the budget: the standard library's cannot be stopped.

use std::cmp::Ordering;

use crate::budget::{Budget, ITEMS_PER_CHECK};
use crate::error::Result;

/// Items sorted at once by the standard library, between two checks.
const RUN: usize = ITEMS_PER_CHECK;

/// Sorts stably. `n log n` comparisons, `items` once more in memory.
pub fn sort_by<T: Copy>(
    items: &mut Vec<T>,
    budget: &Budget,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Result<()> {
    for run in items.chunks_mut(RUN) {
        budget.check()?;
        run.sort_by(&compare);
    }
    if items.len() <= RUN {
        return Ok(());
    }
    budget.hold(size_of_val(&items[..]))?;
    let mut from = std::mem::take(items);
    let mut into: Vec<T> = Vec::with_capacity(from.len());
    let mut width = RUN;
    while width < from.len() {
        into.clear();
        for pair in from.chunks(2 * width) {
            let (a, b) = pair.split_at(width.min(pair.len()));
            merge(a, b, budget, &compare, &mut into)?;
        }
        std::mem::swap(&mut from, &mut into);
        width *= 2;
    }
    budget.release(size_of_val(&from[..]));
    *items = from;
    Ok(())
}

/// As `sort_by` for items that are dear to copy: places are sorted, then each item moves once.
pub fn sort_owned<T>(
    items: &mut Vec<T>,
    budget: &Budget,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Result<()> {
    let mut places: Vec<u32> = (0..items.len() as u32).collect();
    sort_by(&mut places, budget, |&a, &b| compare(&items[a as usize], &items[b as usize]))?;
    let mut slots: Vec<Option<T>> = std::mem::take(items).into_iter().map(Some).collect();
    items.reserve_exact(slots.len());
    for (i, &place) in places.iter().enumerate() {
        budget.check_at(i)?;
        items.extend(slots[place as usize].take());
    }
    Ok(())
}

fn merge<T: Copy>(
    a: &[T],
    b: &[T],
    budget: &Budget,
    compare: impl Fn(&T, &T) -> Ordering,
    into: &mut Vec<T>,
) -> Result<()> {
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        budget.check_at(i + j)?;
        if compare(x, y) == Ordering::Greater {
            into.push(*y);
            j += 1;
        } else {
            into.push(*x);
            i += 1;
        }
    }
    into.extend_from_slice(&a[i..]);
    into.extend_from_slice(&b[j..]);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::budget::Stop;
    use crate::error::Error;

    #[test]
    fn agrees_with_the_stable_sort_at_every_length() {
        let budget = Budget::unlimited();
        for n in [0, 1, RUN - 1, RUN, RUN + 1, 2 * RUN, 3 * RUN + 17, 8 * RUN] {
            let mut items: Vec<(u32, u32)> =
                (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) % 1000, i)).collect();
            let mut owned: Vec<String> = items.iter().map(|(key, i)| format!("{key} {i}")).collect();
            let (mut expected, mut strings) = (items.clone(), owned.clone());
            expected.sort_by_key(|item| item.0);
            sort_by(&mut items, &budget, |a, b| a.0.cmp(&b.0)).unwrap();
            assert!(items == expected, "{n}");
            strings.sort();
            sort_owned(&mut owned, &budget, String::cmp).unwrap();
            assert!(owned == strings, "{n}");
        }
        assert_eq!(budget.bytes_held(), 0);
    }

    #[test]
    fn stops_when_it_is_told() {
        let stop = Stop::default();
        let budget = Budget::new(stop.clone(), 0, 0);
        let count = std::cell::Cell::new(0usize);
        let mut items: Vec<u64> = (0..1 << 18).map(|i| u64::wrapping_mul(i, 0x9e37_79b9_7f4a_7c15)).collect();
        let result = sort_by(&mut items, &budget, |a, b| {
            count.set(count.get() + 1);
            if count.get() == 3_500_000 {
                stop.cancel();
            }
            a.cmp(b)
        });
        assert_eq!(result, Err(Error::Cancelled));
        assert!(count.get() < 3_500_000 + 16 * RUN);
    }
}
