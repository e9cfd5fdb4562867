//! A sum of doubles that is never rounded, so that what was added can be taken away again and leaves nothing behind.

/// The small part counts in units of 2^-56; it takes values below 2^47 that are multiples of that, so the sum of 2^24 of
/// them fits. Nearly all counters, bytes and decimals above 0.06 are among them.
const SMALL_UNIT: i32 = 56;
const SMALL_SHIFT_MAX: i32 = 50;
/// The large part counts in units of 2^-1074, in two's complement: all doubles, and room for 2^64 of the largest.
const LIMBS: usize = 34;
/// Where the unit of the small part stands in the large one.
const SMALL_AT: usize = 1074 - SMALL_UNIT as usize;
const MANTISSA_BITS: usize = 53;

/// Holds the sum of up to 2^24 doubles exactly. Infinities and NaNs are counted beside it.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    small: i128,
    large: Option<Box<[u64; LIMBS]>>,
    nan: i64,
    infinite: [i64; 2],
}

impl ExactSum {
    pub fn add(&mut self, value: f64) {
        self.put(value, false);
    }

    /// Takes away what was added before.
    pub fn take(&mut self, value: f64) {
        self.put(value, true);
    }

    fn put(&mut self, value: f64, away: bool) {
        let one = if away { -1 } else { 1 };
        if value.is_nan() {
            self.nan += one;
            return;
        }
        if value.is_infinite() {
            self.infinite[usize::from(value < 0.0)] += one;
            return;
        }
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let (mantissa, at) = match exponent {
            0 => (fraction, 0),
            e => (fraction | 1 << 52, e - 1),
        };
        if mantissa == 0 {
            return;
        }
        let negative = (value < 0.0) != away;
        let shift = at - SMALL_AT as i32;
        let fits = shift <= SMALL_SHIFT_MAX && (shift >= 0 || mantissa.trailing_zeros() as i32 >= -shift);
        if fits {
            let units =
                if shift >= 0 { i128::from(mantissa) << shift } else { i128::from(mantissa >> -shift) };
            self.small += if negative { -units } else { units };
            return;
        }
        let limbs = self.large.get_or_insert_with(|| Box::new([0; LIMBS]));
        put_at(&mut limbs[..], i128::from(mantissa), at as usize, negative);
    }

    /// Takes away all that was added to another.
    pub fn take_sum(&mut self, other: &ExactSum) {
        self.small -= other.small;
        self.nan -= other.nan;
        self.infinite[0] -= other.infinite[0];
        self.infinite[1] -= other.infinite[1];
        let Some(theirs) = &other.large else { return };
        let limbs = self.large.get_or_insert_with(|| Box::new([0; LIMBS]));
        let mut borrow = false;
        for (limb, &their) in limbs.iter_mut().zip(theirs.iter()) {
            let (left, first) = limb.overflowing_sub(their);
            let (left, second) = left.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (left, first || second);
        }
        if limbs.iter().all(|&limb| limb == 0) {
            self.large = None;
        }
    }

    /// The double nearest to the sum, ties to even; as IEEE 754 says where infinities or NaNs are in it.
    pub fn value(&self) -> f64 {
        match (self.nan > 0, self.infinite[0] > 0, self.infinite[1] > 0) {
            (true, ..) | (_, true, true) => return f64::NAN,
            (_, true, _) => return f64::INFINITY,
            (_, _, true) => return f64::NEG_INFINITY,
            _ => {}
        }
        let Some(large) = &self.large else { return self.small as f64 * power_of_two(-SMALL_UNIT) };
        let mut limbs = **large;
        put_at(&mut limbs, self.small.saturating_abs(), SMALL_AT, self.small < 0);
        let negative = limbs[LIMBS - 1] >> 63 == 1;
        if negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let size = rounded(&limbs);
        if negative { -size } else { size }
    }

    pub fn bytes(&self) -> usize {
        if self.large.is_some() { size_of::<[u64; LIMBS]>() } else { 0 }
    }
}

/// Adds `units << at`, or takes it away.
fn put_at(limbs: &mut [u64], units: i128, at: usize, negative: bool) {
    let (units, shift) = (units.unsigned_abs(), at % 64);
    let low = (units as u64) << shift;
    let wide = units >> (64 - shift).min(127);
    let middle = if shift == 0 { (units >> 64) as u64 } else { wide as u64 };
    let high = if shift == 0 { 0 } else { (wide >> 64) as u64 };
    let mut carry = false;
    for (i, limb) in limbs.iter_mut().skip(at / 64).enumerate() {
        let part = [low, middle, high].get(i).copied().unwrap_or(0);
        if i > 2 && !carry {
            break;
        }
        let (sum, first, second);
        if negative {
            (sum, first) = limb.overflowing_sub(part);
            (*limb, second) = sum.overflowing_sub(u64::from(carry));
        } else {
            (sum, first) = limb.overflowing_add(part);
            (*limb, second) = sum.overflowing_add(u64::from(carry));
        }
        carry = first || second;
    }
}

/// The double nearest to a number of units of 2^-1074 that is not negative.
fn rounded(limbs: &[u64; LIMBS]) -> f64 {
    let Some(top) = limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
    let highest = top * 64 + 63 - limbs[top].leading_zeros() as usize;
    if highest < MANTISSA_BITS {
        return limbs[0] as f64 * power_of_two(-1074);
    }
    // The 64 highest bits, and whether any is set below them.
    let from = highest.saturating_sub(63);
    let (limb, shift) = (from / 64, from % 64);
    let above = limbs.get(limb + 1).copied().unwrap_or(0);
    let mut bits = if shift == 0 { limbs[limb] } else { limbs[limb] >> shift | above << (64 - shift) };
    let mut sticky = limbs[..limb].iter().any(|&l| l != 0) || limbs[limb] & ((1u64 << shift) - 1) != 0;
    let mut exponent = from as i32;
    let spare = 64 - bits.leading_zeros() as usize - MANTISSA_BITS;
    let rest = bits & ((1u64 << spare) - 1);
    let half = (1u64 << spare) >> 1;
    bits >>= spare;
    exponent += spare as i32;
    sticky |= rest & half.saturating_sub(1) != 0;
    if spare > 0 && rest & half != 0 && (sticky || bits & 1 == 1) {
        bits += 1;
    }
    bits as f64 * power_of_two(exponent - 1074)
}

/// `exponent` from -1074 to 1023.
fn power_of_two(exponent: i32) -> f64 {
    if exponent < -1022 {
        return f64::from_bits(1 << (exponent + 1074));
    }
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        values.iter().for_each(|&v| sum.add(v));
        sum.value()
    }

    fn doubles() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |v| v.is_finite()),
            (-1_000_000i64..1_000_000).prop_map(|v| v as f64 / 100.0),
            any::<i32>().prop_map(f64::from),
            (-1e15..1e15f64),
        ]
    }

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e300, 1.0, -1e300]), 1.0);
        assert_eq!(sum(&[1e16, 1.0, 1e-300]), 1e16 + 2.0);
        assert_eq!(sum(&[1e16, 1.0]), 1e16);
        assert_eq!(sum(&[f64::from_bits(1), f64::from_bits(3)]), f64::from_bits(4));
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan() && sum(&[f64::NAN]).is_nan());
    }

    proptest! {
        /// Two doubles have a sum that the machine rounds once, too.
        #[test]
        fn the_sum_of_two_is_that_of_the_machine(a in doubles(), b in doubles()) {
            prop_assert_eq!(sum(&[a, b]), a + b);
        }

        #[test]
        fn what_is_taken_away_leaves_nothing(
            a in prop::collection::vec(doubles(), 1..20),
            b in prop::collection::vec(doubles(), 1..20),
        ) {
            let (mut one, mut other) = (ExactSum::default(), ExactSum::default());
            a.iter().for_each(|&v| one.add(v));
            b.iter().for_each(|&v| other.add(v));
            let before = one.value();
            b.iter().for_each(|&v| one.add(v));
            let both: Vec<f64> = b.iter().rev().chain(&a).copied().collect();
            prop_assert_eq!(one.value(), sum(&both));
            one.take_sum(&other);
            prop_assert_eq!(one.value(), before);
            a.iter().for_each(|&v| one.take(v));
            prop_assert_eq!(one.value(), 0.0);
        }
    }
}
