//! Histograms added up where a bucket's index means the same in both, and in wider buckets.

use std::borrow::Cow;
use std::sync::Arc;

use super::{
    CountNumber, Counts, Histogram, Layout, ResetHint, SCHEMA_CUSTOM, SCHEMA_MIN, Span, Tally, indices, split,
};

impl Histogram {
    /// Whether `merge` takes the other one: bucket indices mean the same, and both are of counters or of gauges.
    pub fn merges(&self, other: &Histogram) -> bool {
        let same = Arc::ptr_eq(&self.layout, &other.layout) || self.layout.same_buckets(&other.layout);
        let gauge = |h: &Histogram| h.reset == ResetHint::Gauge;
        same && gauge(self) == gauge(other) && !self.is_stale() && !other.is_stale()
    }

    /// Adds counts and sum of one that `merges` says yes to, bucket by bucket. Counts become doubles where those of either
    /// are, or where they no longer fit 64 bits. Linear in the buckets of both.
    pub fn merge(&mut self, other: &Histogram) {
        self.sum += other.sum;
        let both = if self.layout == other.layout {
            self.layout.clone()
        } else {
            Arc::new(union(&self.layout, &other.layout))
        };
        let whole = match (&self.counts, &other.counts) {
            (Counts::Int(a), Counts::Int(b)) => {
                sum_of(&spread(a, &self.layout, &both), &spread(b, &other.layout, &both)).map(Counts::Int)
            }
            _ => None,
        };
        self.counts = whole.unwrap_or_else(|| {
            let (a, b) = (widened(&self.counts), widened(&other.counts));
            let (a, b) = (spread(&a, &self.layout, &both), spread(&b, &other.layout, &both));
            let buckets = a.buckets.iter().zip(&b.buckets).map(|(a, b)| a + b).collect();
            Counts::Float(Tally { count: a.count + b.count, zero: a.zero + b.zero, buckets })
        });
        self.layout = both;
    }

    /// Merges buckets into those of a lower schema, each of which is made of whole ones; those of that schema, of a lower one
    /// or of custom bounds stay. Linear in the buckets.
    pub fn lower(&mut self, schema: i32) {
        let layout = &self.layout;
        if layout.schema <= schema || layout.schema == SCHEMA_CUSTOM || schema < SCHEMA_MIN {
            return;
        }
        let steps = layout.schema.abs_diff(schema).min(u32::BITS - 1);
        let wider = |i: i32| (i.wrapping_sub(1) >> steps).wrapping_add(1);
        let (positive, negative) = (layout.positive.as_slice(), layout.negative.as_slice());
        let spans = |of: &[Span]| spans_at(indices(of).map(wider).collect());
        match &mut self.counts {
            Counts::Int(tally) => join(tally, layout, wider),
            Counts::Float(tally) => join(tally, layout, wider),
        }
        let (positive, negative) = (spans(positive), spans(negative));
        let (zero_threshold, custom_bounds) = (layout.zero_threshold, Vec::new());
        self.layout = Arc::new(Layout { schema, zero_threshold, positive, negative, custom_bounds });
    }
}

/// Adds up the counts of neighbours whose wider bucket is one.
fn join<T: CountNumber>(tally: &mut Tally<T>, layout: &Layout, wider: impl Fn(i32) -> i32) {
    let (positive, negative) = tally.buckets.split_at(split(layout, tally.buckets.len()));
    let mut joined: Vec<T> = Vec::with_capacity(tally.buckets.len());
    for (spans, counts) in [(&layout.positive, positive), (&layout.negative, negative)] {
        let mut open = None;
        for (index, &count) in indices(spans).map(&wider).zip(counts) {
            match joined.last_mut() {
                Some(last) if open == Some(index) => *last = last.plus(count),
                _ => joined.push(count),
            }
            open = Some(index);
        }
    }
    tally.buckets = joined;
}

/// The sum of two tallies of one layout, if all of it fits.
fn sum_of(a: &Tally<u64>, b: &Tally<u64>) -> Option<Tally<u64>> {
    let buckets: Option<Vec<u64>> =
        a.buckets.iter().zip(&b.buckets).map(|(a, b)| a.checked_add(*b)).collect();
    Some(Tally { count: a.count.checked_add(b.count)?, zero: a.zero.checked_add(b.zero)?, buckets: buckets? })
}

fn widened(counts: &Counts) -> Tally<f64> {
    match counts {
        Counts::Float(tally) => tally.clone(),
        Counts::Int(tally) => Tally {
            count: tally.count.widen(),
            zero: tally.zero.widen(),
            buckets: tally.buckets.iter().map(|b| b.widen()).collect(),
        },
    }
}

/// The buckets of both.
fn union(a: &Layout, b: &Layout) -> Layout {
    let positive = spans_of(&a.positive, &b.positive);
    let negative = spans_of(&a.negative, &b.negative);
    Layout { positive, negative, ..a.clone() }
}

fn spans_of(a: &[Span], b: &[Span]) -> Vec<Span> {
    let mut all: Vec<i32> = indices(a).chain(indices(b)).collect();
    all.sort_unstable();
    spans_at(all)
}

/// Of indices in order.
fn spans_at(mut all: Vec<i32>) -> Vec<Span> {
    all.dedup();
    let (mut spans, mut next) = (Vec::<Span>::new(), 0);
    for index in all {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: index.wrapping_sub(next), length: 1 }),
        }
        next = index.wrapping_add(1);
    }
    spans
}

/// Counts as a layout has them that has all of their buckets, too.
fn spread<'t, T: CountNumber>(tally: &'t Tally<T>, from: &Layout, to: &Layout) -> Cow<'t, Tally<T>> {
    if from == to {
        return Cow::Borrowed(tally);
    }
    let (positive, negative) = tally.buckets.split_at(split(from, tally.buckets.len()));
    let mut buckets = Vec::new();
    for (from, to, counts) in
        [(&from.positive, &to.positive, positive), (&from.negative, &to.negative, negative)]
    {
        let mut known = indices(from).zip(counts).peekable();
        buckets.extend(
            indices(to).map(|index| known.next_if(|(i, _)| *i == index).map_or(T::default(), |(_, &c)| c)),
        );
    }
    Cow::Owned(Tally { count: tally.count, zero: tally.zero, buckets })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = (u64, BTreeMap<(bool, i32), u64>);

    /// Counts by side and index.
    fn model(h: &Histogram) -> Model {
        let Counts::Int(tally) = &h.counts else { return Default::default() };
        let sides = indices(&h.layout.positive)
            .map(|i| (true, i))
            .chain(indices(&h.layout.negative).map(|i| (false, i)));
        let all = sides.zip(tally.buckets.iter().copied()).filter(|(_, c)| *c > 0);
        (tally.zero, all.collect())
    }

    fn histogram() -> impl Strategy<Value = Histogram> {
        let side = || prop::collection::btree_map(-5i32..9, 0u64..100, 0..6);
        (side(), side(), 0u64..9).prop_map(|(positive, negative, zero)| {
            let spans = |side: &BTreeMap<i32, u64>| {
                let keys: Vec<Span> = side.keys().map(|&k| Span { offset: k, length: 1 }).collect();
                keys.iter().fold(Vec::new(), |all, span| spans_of(&all, std::slice::from_ref(span)))
            };
            let buckets: Vec<u64> = positive.values().chain(negative.values()).copied().collect();
            let layout = Layout {
                positive: spans(&positive),
                negative: spans(&negative),
                schema: 1,
                ..Layout::default()
            };
            let count = zero + buckets.iter().sum::<u64>();
            let counts = Counts::Int(Tally { count, zero, buckets });
            Histogram { layout: Arc::new(layout), reset: ResetHint::Unknown, sum: count as f64, counts }
        })
    }

    proptest! {
        #[test]
        fn buckets_are_added_by_their_index(a in histogram(), b in histogram()) {
            a.validate().unwrap();
            prop_assert!(a.merges(&b));
            let mut sum = a.clone();
            sum.merge(&b);
            sum.validate().unwrap();
            let (mut zero, mut all) = model(&a);
            zero += model(&b).0;
            model(&b).1.into_iter().for_each(|(k, c)| *all.entry(k).or_default() += c);
            prop_assert_eq!(model(&sum), (zero, all));
            prop_assert_eq!(sum.sum, a.sum + b.sum);
            prop_assert_eq!(sum.count(), a.count() + b.count());
        }
    }

    proptest! {
        #[test]
        fn lower_buckets_hold_what_the_finer_ones_did(h in histogram(), schema in -4i32..4, float: bool) {
            let mut low = h.clone();
            if float {
                low.counts = Counts::Float(widened(&low.counts));
            }
            low.lower(schema);
            low.validate().unwrap();
            if let Counts::Float(tally) = &low.counts {
                let whole = |&b: &f64| b as u64;
                let buckets = tally.buckets.iter().map(whole).collect();
                low.counts = Counts::Int(Tally { count: tally.count as u64, zero: tally.zero as u64, buckets });
            }
            let steps = (1 - schema).max(0);
            let mut wanted = BTreeMap::new();
            for ((side, index), count) in model(&h).1 {
                // The upper bound 2^(i / 2^s) lies in the bucket that ends at the next bound of the lower schema.
                let end = (f64::from(index) / 2f64.powi(steps)).ceil() as i32;
                *wanted.entry((side, end)).or_default() += count;
            }
            prop_assert_eq!(model(&low), (model(&h).0, wanted));
            prop_assert_eq!(low.layout.schema, schema.min(1));
        }
    }

    #[test]
    fn what_does_not_fit_64_bits_becomes_doubles() {
        let with = |count| Histogram {
            layout: Arc::default(),
            reset: ResetHint::Unknown,
            sum: 1.0,
            counts: Counts::Int(Tally { count, zero: count, buckets: vec![] }),
        };
        let mut sum = with(u64::MAX);
        sum.merge(&with(1));
        assert!(sum.is_float() && sum.count() == u64::MAX as f64);
        let gauge = Histogram { reset: ResetHint::Gauge, ..with(1) };
        assert!(!sum.merges(&gauge) && !sum.merges(&Histogram::stale()) && gauge.merges(&gauge));
    }
}
