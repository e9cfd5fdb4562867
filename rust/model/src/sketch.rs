//! Quantiles of many numbers in a few bytes, mergeable in any order: counts in buckets that grow geometrically, as
//! DDSketch has them (Masson, Rim and Lee 2019). Where that takes too many bytes, neighbours are joined pair by pair
//! (UDDSketch, Epicoco et al. 2020), and the sketch says what its error is then.
//!
//! Bytes: a head (bits 0-4 the resolution, bits 5 and 6 whether zeros and infinities follow), their counts, then the positive and
//! the negative side. A side is the number of its buckets, the zigzag index of the first, and a token a bucket: the
//! upper four bits how many indices it skips, the lower four its count less one; 15 in either says that the rest follows. All numbers are
//! LEB128.

use crate::error::{Error, Result};
use crate::varint::{put_varint, varint};

/// The natural logarithm of a bucket's upper bound by its lower bound, at resolution 0.
const WIDTH: f64 = 0.02;
/// At the coarsest resolution one bucket spans more than all doubles.
const RESOLUTION_MAX: u8 = 17;
/// No double has an index beyond, at any resolution.
const INDEX_MAX: u64 = 40_000;
const ZEROS: u8 = 1 << 5;
const INFINITIES: u8 = 1 << 6;
const REST: u64 = 15;

/// NaN is not counted. Numbers nearer to zero than any normal double are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// How often neighbours were joined.
    resolution: u8,
    positive: Vec<Bucket>,
    /// Of the numbers with their sign turned.
    negative: Vec<Bucket>,
    zeros: u64,
    /// Of negative and of positive infinity.
    infinities: [u64; 2],
}

/// Numbers whose logarithm, divided by the width and rounded up, is `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    index: i32,
    count: u64,
}

impl Sketch {
    pub fn add(&mut self, value: f64) {
        self.add_all(&[value]);
    }

    /// O(n log n) in the numbers and O(buckets): far less a number than adding them one by one.
    pub fn add_all(&mut self, values: &[f64]) {
        let mut indices = [Vec::new(), Vec::new()];
        let by_width = 1.0 / self.width();
        for &value in values {
            let size = value.abs();
            if size < f64::MIN_POSITIVE {
                self.zeros = self.zeros.saturating_add(1);
            } else if size.is_finite() {
                indices[usize::from(value < 0.0)].push((size.ln() * by_width).ceil() as i32);
            } else if size.is_infinite() {
                let count = &mut self.infinities[usize::from(value > 0.0)];
                *count = count.saturating_add(1);
            }
        }
        for (side, mut indices) in [&mut self.positive, &mut self.negative].into_iter().zip(indices) {
            indices.sort_unstable();
            let runs = indices.chunk_by(|a, b| a == b);
            let more: Vec<Bucket> = runs.map(|r| Bucket { index: r[0], count: r.len() as u64 }).collect();
            *side = joined(side, &more);
        }
    }

    /// Takes in what another has counted: the same result in any order of merges. The coarser resolution stays.
    pub fn merge(&mut self, other: &Sketch) {
        let mut other = other.clone();
        while self.resolution < other.resolution {
            self.coarsen();
        }
        while other.resolution < self.resolution {
            other.coarsen();
        }
        self.positive = joined(&self.positive, &other.positive);
        self.negative = joined(&self.negative, &other.negative);
        self.zeros = self.zeros.saturating_add(other.zeros);
        for (count, more) in self.infinities.iter_mut().zip(other.infinities) {
            *count = count.saturating_add(more);
        }
    }

    /// Joins neighbours until `encode` gives no more bytes than this, or nothing is left to join.
    pub fn fit(&mut self, bytes_max: usize) {
        while self.resolution < RESOLUTION_MAX && self.encode().len() > bytes_max {
            self.coarsen();
        }
    }

    /// Numbers counted.
    pub fn count(&self) -> u64 {
        let sides = self.positive.iter().chain(&self.negative).map(|b| b.count);
        sides.chain(self.infinities).fold(self.zeros, u64::saturating_add)
    }

    /// Largest relative error of a quantile: 0.01 unless the sketch had to fit.
    pub fn error(&self) -> f64 {
        (self.width() / 2.0).tanh()
    }

    /// The `q`-quantile as PromQL defines it: between two numbers it interpolates, and `error` holds for each of the two. NaN where
    /// nothing is counted or `q` is NaN, -Inf and +Inf where it lies beyond 0 and 1.
    pub fn quantile(&self, q: f64) -> f64 {
        let count = self.count();
        if count == 0 || q.is_nan() {
            return f64::NAN;
        }
        if !(0.0..=1.0).contains(&q) {
            return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
        }
        let rank = q * (count - 1) as f64;
        let (below, above) = (rank.floor(), rank.ceil());
        let low = self.at_rank(below as u64);
        if above == below {
            return low;
        }
        let high = self.at_rank(above as u64);
        if low == high { low } else { low * (above - rank) + high * (rank - below) }
    }

    fn at_rank(&self, rank: u64) -> f64 {
        let negative = self.negative.iter().rev().map(|b| (-self.value(b.index), b.count));
        let positive = self.positive.iter().map(|b| (self.value(b.index), b.count));
        let [lowest, highest] = self.infinities;
        let all = std::iter::once((f64::NEG_INFINITY, lowest))
            .chain(negative)
            .chain([(0.0, self.zeros)])
            .chain(positive)
            .chain([(f64::INFINITY, highest)]);
        let mut left = rank;
        let mut last = f64::NAN;
        for (value, count) in all.filter(|&(_, count)| count > 0) {
            last = value;
            if left < count {
                return value;
            }
            left -= count;
        }
        last
    }

    fn width(&self) -> f64 {
        WIDTH * f64::from(1u32 << self.resolution.min(RESOLUTION_MAX))
    }

    /// What stands for a bucket: as far from its lower bound as from its upper, relatively.
    fn value(&self, index: i32) -> f64 {
        let width = self.width();
        let logarithm = f64::from(index) * width - (width / 2.0).cosh().ln() - width / 2.0;
        // The bounds of the outermost buckets lie beyond the doubles.
        (logarithm.exp()).clamp(f64::MIN_POSITIVE, f64::MAX)
    }

    fn coarsen(&mut self) {
        self.resolution = (self.resolution + 1).min(RESOLUTION_MAX);
        for side in [&mut self.positive, &mut self.negative] {
            for bucket in side.iter_mut() {
                bucket.index = (bucket.index + 1) >> 1;
            }
            side.dedup_by(|next, kept| {
                let same = next.index == kept.index;
                if same {
                    kept.count = kept.count.saturating_add(next.count);
                }
                same
            });
        }
    }

    /// The bytes described above.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.resolution];
        if self.zeros > 0 {
            out[0] |= ZEROS;
            put_varint(&mut out, self.zeros);
        }
        if self.infinities != [0, 0] {
            out[0] |= INFINITIES;
            self.infinities.iter().for_each(|&count| put_varint(&mut out, count));
        }
        for side in [&self.positive, &self.negative] {
            put_varint(&mut out, side.len() as u64);
            let Some(first) = side.first() else { continue };
            put_varint(&mut out, u64::from(((first.index << 1) ^ (first.index >> 31)) as u32));
            let mut next = first.index;
            for bucket in side {
                let (skipped, more) = ((bucket.index - next) as u64, bucket.count - 1);
                out.push((skipped.min(REST) << 4 | more.min(REST)) as u8);
                for number in [skipped, more] {
                    if number >= REST {
                        put_varint(&mut out, number - REST);
                    }
                }
                next = bucket.index + 1;
            }
        }
        out
    }

    /// Raises Corruption for bytes that `encode` never gave.
    pub fn decode(bytes: &[u8]) -> Result<Sketch> {
        let mut input = Input { bytes, at: 0 };
        let head = input.byte()?;
        let mut sketch = Sketch { resolution: head & 31, ..Sketch::default() };
        if head & !(31 | ZEROS | INFINITIES) != 0 || sketch.resolution > RESOLUTION_MAX {
            return Err(input.wrong("the head has bits that mean nothing"));
        }
        let mut total = 0;
        if head & ZEROS != 0 {
            sketch.zeros = input.count(&mut total)?;
        }
        if head & INFINITIES != 0 {
            sketch.infinities = [input.count(&mut total)?, input.count(&mut total)?];
        }
        sketch.positive = input.side(&mut total)?;
        sketch.negative = input.side(&mut total)?;
        if input.at != bytes.len() {
            return Err(input.wrong("bytes follow its end"));
        }
        // One way to write each: what stands twice is no sketch of ours.
        if sketch.encode() != bytes {
            return Err(input.wrong("it is not written as sketches are"));
        }
        Ok(sketch)
    }
}

/// Both ascending by index.
fn joined(a: &[Bucket], b: &[Bucket]) -> Vec<Bucket> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.index.min(y.index),
            (Some(x), None) | (None, Some(x)) => x.index,
            (None, None) => break,
        };
        let parts = [a.next_if(|x| x.index == next), b.next_if(|x| x.index == next)];
        let count = parts.iter().flatten().map(|x| x.count).fold(0, u64::saturating_add);
        out.push(Bucket { index: next, count });
    }
    out
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn wrong(&self, message: &str) -> Error {
        Error::corruption("sketch", self.at, message)
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| self.wrong("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let (number, length) =
            varint(rest).ok_or_else(|| self.wrong("a number doesn't end, or has more than 64 bits"))?;
        self.at += length;
        Ok(number)
    }

    /// A count; all together fit into 64 bits.
    fn count(&mut self, total: &mut u64) -> Result<u64> {
        let count = self.number()?;
        *total = total.checked_add(count).ok_or_else(|| self.wrong("it counts more than there can be"))?;
        Ok(count)
    }

    fn side(&mut self, total: &mut u64) -> Result<Vec<Bucket>> {
        let buckets = self.number()?;
        if buckets == 0 {
            return Ok(Vec::new());
        }
        if buckets > (self.bytes.len() - self.at) as u64 {
            return Err(self.wrong("it has more buckets than bytes"));
        }
        let first = self.number()?;
        let mut next = (first >> 1) as i64 ^ -((first & 1) as i64);
        let mut side = Vec::with_capacity(buckets as usize);
        for _ in 0..buckets {
            let token = self.byte()?;
            let mut rest = |part: u8| match u64::from(part) {
                REST => self.number().map(|n| n.saturating_add(REST)),
                part => Ok(part),
            };
            let (skipped, more) = (rest(token >> 4)?, rest(token & 15)?);
            let index = next.saturating_add_unsigned(skipped);
            if index.unsigned_abs() > INDEX_MAX {
                return Err(self.wrong("a bucket is beyond all numbers"));
            }
            let count = more.checked_add(1).filter(|&count| total.checked_add(count).is_some());
            let count = count.ok_or_else(|| self.wrong("it counts more than there can be"))?;
            *total += count;
            side.push(Bucket { index: index as i32, count });
            next = index + 1;
        }
        Ok(side)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        sketch.add_all(values);
        sketch
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => -100.0f64..100.0,
            3 => (-300.0f64..300.0, any::<bool>()).prop_map(|(e, s)| if s { 10f64.powf(e) } else { -10f64.powf(e) }),
            2 => 20.0f64..30.0,
            1 => prop::sample::select(vec![
                0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1.0, 5e-324,
            ]),
        ]
    }

    /// The two numbers around a rank, and the weight of the second.
    fn around(sorted: &[f64], q: f64) -> (f64, f64, f64) {
        let rank = q * (sorted.len() - 1) as f64;
        (sorted[rank.floor() as usize], sorted[rank.ceil() as usize], rank - rank.floor())
    }

    fn check(sketch: &Sketch, values: &[f64], error: f64) {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        assert_eq!(sketch.count(), sorted.len() as u64);
        if sorted.is_empty() {
            assert!(sketch.quantile(0.5).is_nan());
            return;
        }
        for q in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let (low, high, weight) = around(&sorted, q);
            let got = sketch.quantile(q);
            if low.is_infinite() || high.is_infinite() {
                let exact =
                    if low == high || weight == 0.0 { low } else { low * (1.0 - weight) + high * weight };
                assert!(got == exact || got.is_nan() && exact.is_nan(), "{q} {got} {exact}");
                continue;
            }
            let exact = low * (1.0 - weight) + high * weight;
            let bound = error * (low.abs() * (1.0 - weight) + high.abs() * weight);
            assert!((got - exact).abs() <= bound * (1.0 + 1e-9) + f64::MIN_POSITIVE, "{q} {got} {exact}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Bytes from outside, and ours with some of them changed: refused, or a sketch whose bytes they are and that all works
        /// with.
        #[test]
        fn hostile_bytes_are_refused_or_a_sketch(
            noise in prop::collection::vec(any::<u8>(), 0..40),
            values in prop::collection::vec(number(), 0..30),
            joins in 0u8..20,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            ours in any::<bool>(),
        ) {
            let mut sketch = of(&values);
            (0..joins).for_each(|_| sketch.coarsen());
            let mut bytes = if ours { sketch.encode() } else { noise };
            if !bytes.is_empty() {
                changes.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len() + 1)]] {
                let Ok(mut found) = Sketch::decode(bytes) else { continue };
                prop_assert_eq!(found.encode(), bytes);
                prop_assert!(found.quantile(0.5).is_nan() == (found.count() == 0) || found.infinities != [0, 0]);
                found.merge(&sketch);
                found.fit(16);
                prop_assert_eq!(Sketch::decode(&found.encode()).is_ok(), true);
            }
        }

        #[test]
        fn the_largest_index_of_a_side_is_refused(first in prop::sample::select(vec![u64::MAX, u64::MAX - 1, 80_001, 80_002])) {
            let mut bytes = vec![0, 1];
            put_varint(&mut bytes, first);
            bytes.extend([0, 0]);
            prop_assert!(Sketch::decode(&bytes).is_err());
        }

        #[test]
        fn quantiles_are_within_one_percent_after_any_tree_of_merges(
            parts in prop::collection::vec(prop::collection::vec(number(), 0..40), 1..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            let values: Vec<f64> = parts.iter().flatten().copied().collect();
            let mut sketches: Vec<Sketch> = parts.iter().map(|p| of(p)).collect();
            let mut order = order.iter();
            while sketches.len() > 1 {
                let last = order.next().unwrap().index(sketches.len());
                let other = sketches.swap_remove(last);
                let into = order.next().unwrap().index(sketches.len());
                sketches[into].merge(&other);
            }
            prop_assert!(sketches[0].error() <= 0.01);
            prop_assert_eq!(&sketches[0], &of(&values));
            let mut one_by_one = Sketch::default();
            values.iter().for_each(|&v| one_by_one.add(v));
            prop_assert_eq!(&one_by_one, &sketches[0]);
            check(&sketches[0], &values, 0.01);
            prop_assert_eq!(Sketch::decode(&sketches[0].encode()), Ok(sketches[0].clone()));
        }

        #[test]
        fn a_sketch_that_fits_says_how_wrong_it_may_be(
            a in prop::collection::vec(number(), 0..200), b in prop::collection::vec(number(), 0..200), bytes in 60usize..200,
        ) {
            let (mut first, mut second) = (of(&a), of(&b));
            first.fit(bytes);
            second.fit(2 * bytes);
            first.merge(&second);
            first.fit(bytes);
            prop_assert!(first.encode().len() <= bytes);
            let all: Vec<f64> = a.iter().chain(&b).copied().collect();
            check(&first, &all, first.error());
            prop_assert_eq!(Sketch::decode(&first.encode()), Ok(first));
        }

        #[test]
        fn no_bytes_do_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..60), values in prop::collection::vec(number(), 0..60), flip: prop::sample::Index) {
            for bytes in [&mut bytes, &mut of(&values).encode()] {
                if !bytes.is_empty() {
                    let at = flip.index(bytes.len());
                    bytes[at] ^= 1 << (at % 8);
                }
                match Sketch::decode(bytes) {
                    Ok(sketch) => prop_assert_eq!(&sketch.encode(), &*bytes),
                    Err(error) => prop_assert!(matches!(error, Error::Corruption { .. }), "{}", error),
                }
            }
        }
    }

    #[test]
    fn an_hour_of_a_gauge_takes_less_than_64_bytes() {
        let samples: Vec<f64> =
            (0..240).map(|i| 55.0 + 8.0 * (f64::from(i) / 17.0).sin() + f64::from(i % 7)).collect();
        assert!(of(&samples).encode().len() <= 64);
    }

    #[test]
    fn quantiles_beyond_the_ends_are_infinite_as_in_promql() {
        let sketch = of(&[1.0, 2.0]);
        assert_eq!((sketch.quantile(-0.1), sketch.quantile(1.1)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(sketch.quantile(f64::NAN).is_nan());
    }
}
