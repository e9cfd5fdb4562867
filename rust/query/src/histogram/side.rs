//! The buckets of one side of zero, and where their bounds are.

use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use metricsdb_model::histogram::SCHEMA_MAX;

use crate::function::compensated::Sum;

/// What buckets count in: doubles, or doubles that remember what rounding took from them.
pub trait Count: Copy + Default + Debug {
    /// With a plain amount added.
    fn plus(self, amount: f64) -> Self;
    fn joined(self, other: Self) -> Self;
    fn total(self) -> f64;
}

impl Count for f64 {
    fn plus(self, amount: f64) -> f64 {
        self + amount
    }

    fn joined(self, other: f64) -> f64 {
        self + other
    }

    fn total(self) -> f64 {
        self
    }
}

impl Count for Sum {
    fn plus(mut self, amount: f64) -> Sum {
        self.add(amount);
        self
    }

    fn joined(mut self, other: Sum) -> Sum {
        self.add(other.high);
        self.add(other.low);
        self
    }

    fn total(self) -> f64 {
        self.value()
    }
}

/// Buckets by ascending index: on both sides of zero that is away from it. Empty ones may stand among them.
#[derive(Clone, Debug)]
pub struct Side<T = f64> {
    /// Strictly ascending; histograms of one layout share it.
    pub indices: Arc<[i32]>,
    /// As long as `indices`.
    pub counts: Vec<T>,
}

impl<T> Default for Side<T> {
    fn default() -> Side<T> {
        Side { indices: Arc::default(), counts: Vec::new() }
    }
}

impl<T: Count> Side<T> {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (i32, T)> + '_ {
        self.indices.iter().copied().zip(self.counts.iter().copied())
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn keep(&mut self, what: impl Fn(i32, T) -> bool) {
        if self.iter().all(|(i, c)| what(i, c)) {
            return;
        }
        let (indices, counts): (Vec<i32>, Vec<T>) = self.iter().filter(|(i, c)| what(*i, *c)).unzip();
        *self = Side { indices: indices.into(), counts };
    }

    /// Each `2^levels` neighbours as one bucket; `levels` > 0.
    pub(super) fn coarser(&self, levels: u32) -> Side<T> {
        let mut indices: Vec<i32> = Vec::with_capacity(self.counts.len());
        let mut counts: Vec<T> = Vec::with_capacity(self.counts.len());
        for (index, count) in self.iter() {
            let index = coarser_index(index, levels);
            match counts.last_mut() {
                Some(last) if indices.last() == Some(&index) => *last = last.joined(count),
                _ => {
                    indices.push(index);
                    counts.push(count);
                }
            }
        }
        Side { indices: indices.into(), counts }
    }

    /// Adds `sign` times each of these buckets, ascending by index.
    pub(super) fn absorb(&mut self, indices: &[i32], counts: &[f64], sign: f64) {
        if *self.indices == *indices {
            self.counts.iter_mut().zip(counts).for_each(|(c, x)| *c = c.plus(sign * x));
            return;
        }
        let mut merged: Vec<i32> = Vec::with_capacity(self.counts.len() + counts.len());
        let mut sums: Vec<T> = Vec::with_capacity(merged.capacity());
        let mut mine = self.iter().peekable();
        for (&index, &count) in indices.iter().zip(counts) {
            while let Some((i, c)) = mine.next_if(|(i, _)| *i < index) {
                merged.push(i);
                sums.push(c);
            }
            let before = mine.next_if(|(i, _)| *i == index).map_or_else(T::default, |(_, c)| c);
            merged.push(index);
            sums.push(before.plus(sign * count));
        }
        for (i, c) in mine {
            merged.push(i);
            sums.push(c);
        }
        *self = Side { indices: merged.into(), counts: sums };
    }

    pub(super) fn map<U>(&self, f: impl FnMut(T) -> U) -> Side<U> {
        Side { indices: Arc::clone(&self.indices), counts: self.counts.iter().copied().map(f).collect() }
    }
}

pub(super) fn coarser_index(index: i32, levels: u32) -> i32 {
    // From i32::MIN on there is no index before: it stays where it is.
    (index.saturating_sub(1) >> levels.min(31)) + 1
}

/// `2^(i/256)`, for the finest schema; coarser ones use each 2nd, 4th, … of it, so that equal bounds of two
/// schemas are equal to the bit.
static ROOTS: LazyLock<[f64; 256]> = LazyLock::new(|| std::array::from_fn(|i| (i as f64 / 256.0).exp2()));

/// The upper bound of an exponential bucket; infinite or 0 far outside the range of doubles, and the largest
/// double at its very end.
pub fn upper_bound(schema: i32, index: i32) -> f64 {
    let index = i64::from(index);
    let (exponent, root) = if schema <= 0 {
        (index << schema.unsigned_abs().min(31), 0)
    } else {
        let schema = schema.min(SCHEMA_MAX);
        let part = index & ((1 << schema) - 1);
        (index >> schema, part << (SCHEMA_MAX - schema))
    };
    if exponent == 1024 && root == 0 {
        return f64::MAX;
    }
    scaled(ROOTS[root as usize & 255], exponent)
}

/// `value * 2^exponent`, for values from 1 to 2.
fn scaled(value: f64, exponent: i64) -> f64 {
    match exponent {
        -1022..=1023 => value * f64::from_bits(((exponent + 1023) as u64) << 52),
        1024.. => f64::INFINITY,
        -1100..=-1023 => value * f64::MIN_POSITIVE * 0.5f64.powi((-1022 - exponent) as i32),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn side(buckets: &[(i32, f64)]) -> Side {
        let (indices, counts): (Vec<i32>, Vec<f64>) = buckets.iter().copied().unzip();
        Side { indices: indices.into(), counts }
    }

    #[test]
    fn bounds_are_powers_of_two_and_their_roots() {
        assert_eq!(upper_bound(0, 3), 8.0);
        assert_eq!(upper_bound(-1, 1), 4.0);
        assert_eq!(upper_bound(-4, -1), 2f64.powi(-16));
        assert_eq!(upper_bound(1, 1), 2f64.sqrt());
        assert_eq!(upper_bound(1, -1), 0.5f64.sqrt());
        assert_eq!(upper_bound(3, 17), upper_bound(8, 17 << 5));
        assert_eq!(upper_bound(0, 1024), f64::MAX);
        assert_eq!(upper_bound(2, 4096), f64::MAX);
        assert_eq!(upper_bound(0, 1025), f64::INFINITY);
        assert_eq!(upper_bound(0, -1074), f64::from_bits(1));
        assert_eq!(upper_bound(0, i32::MIN), 0.0);
        assert_eq!(upper_bound(-4, i32::MAX), f64::INFINITY);
    }

    #[test]
    fn a_coarser_bucket_holds_its_own_upper_bound() {
        // Of schema 1, the buckets up to 2 and up to 4; (2^0.5, 2] has index 2, (1, 2^0.5] index 1.
        let fine = side(&[(-1, 1.0), (0, 2.0), (1, 4.0), (2, 8.0), (3, 16.0)]);
        let coarse = fine.coarser(1);
        assert_eq!(coarse.iter().collect::<Vec<_>>(), [(0, 3.0), (1, 12.0), (2, 16.0)]);
    }

    proptest! {
        #[test]
        fn absorbing_adds_by_index(
            a in prop::collection::btree_map(-20i32..20, 0u8..9, 0..12),
            b in prop::collection::btree_map(-20i32..20, 0u8..9, 0..12),
            sign in prop_oneof![Just(1.0), Just(-1.0)],
        ) {
            let pairs = |m: &std::collections::BTreeMap<i32, u8>| -> Vec<(i32, f64)> {
                m.iter().map(|(i, c)| (*i, f64::from(*c))).collect()
            };
            let mut sum = side(&pairs(&a));
            let other = side(&pairs(&b));
            sum.absorb(&other.indices, &other.counts, sign);
            let keys: std::collections::BTreeSet<i32> = a.keys().chain(b.keys()).copied().collect();
            let count = |m: &std::collections::BTreeMap<i32, u8>, i: i32| m.get(&i).map_or(0.0, |c| f64::from(*c));
            let slow: Vec<(i32, f64)> = keys.into_iter().map(|i| (i, count(&a, i) + sign * count(&b, i))).collect();
            prop_assert_eq!(sum.iter().collect::<Vec<_>>(), slow);
        }

        #[test]
        fn an_observation_stays_within_its_bucket_when_buckets_grow(index in -2000i32..2000, levels in 1u32..12) {
            let schema = 8;
            let coarse = coarser_index(index, levels);
            let (low, high) = (upper_bound(schema, index - 1), upper_bound(schema, index));
            let to = schema - levels as i32;
            prop_assert!(upper_bound(to, coarse - 1) <= low && high <= upper_bound(to, coarse));
        }
    }
}
