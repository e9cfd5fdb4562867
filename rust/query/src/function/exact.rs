//! The sum of doubles without any rounding but the last one: whatever the order of the values, it is the same bits.

/// Bits of a limb; a limb counts in a signed 64-bit integer, so that carries can wait.
const LIMB_BITS: u32 = 32;
/// Limbs for every bit of a double, the smallest one first, and for 2^63 of the largest doubles.
const LIMBS: usize = 68;
/// Values that fit into a limb's 64 bits before carries must be settled.
const ADDS_MAX: u32 = 1 << 30;
/// What the lowest bit of the lowest limb is worth: 2 to this.
const LOWEST_EXPONENT: i32 = -1074;
/// A mean whose sum overflows is taken of a sum that is smaller by 2 to this.
const SMALLER: i32 = 100;
const FRACTION_BITS: u32 = 52;

/// A running sum in fixed point (U. Kulisch's long accumulator): 560 bytes, some 5 ns a value.
#[derive(Clone, Debug)]
pub struct Exact {
    limbs: [i64; LIMBS],
    /// Values since carries were settled.
    pending: u32,
    count: u64,
    /// What infinities and NaNs among the values come to; 0 where there are none.
    special: f64,
}

impl Default for Exact {
    fn default() -> Exact {
        Exact { limbs: [0; LIMBS], pending: 0, count: 0, special: 0.0 }
    }
}

impl Exact {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if !value.is_finite() {
            self.special += value;
            return;
        }
        let bits = value.to_bits();
        let exponent = (bits >> FRACTION_BITS) as u32 & 0x7ff;
        let fraction = bits & ((1 << FRACTION_BITS) - 1);
        // A subnormal has the exponent of the smallest normal number, and no bit before its fraction.
        let (fraction, shift) = match exponent {
            0 => (fraction, 0),
            _ => (fraction | 1 << FRACTION_BITS, exponent - 1),
        };
        let mut wide = u128::from(fraction) << (shift % LIMB_BITS);
        for limb in self.limbs.iter_mut().skip((shift / LIMB_BITS) as usize).take(3) {
            let part = i64::from(wide as u32);
            *limb += if value.is_sign_negative() { -part } else { part };
            wide >>= LIMB_BITS;
        }
        self.pending += 1;
        if self.pending == ADDS_MAX {
            settle(&mut self.limbs);
            self.pending = 0;
        }
    }

    /// The sum, rounded once, halves to even; a sum of nothing but zeros is 0.
    pub fn value(&self) -> f64 {
        if self.special != 0.0 { canonical(self.special) } else { self.rounded(0) }
    }

    /// The mean: the sum divided; where only the sum is too large for a double, the mean is none the less finite.
    pub fn mean(&self) -> f64 {
        let (sum, count) = (self.value(), self.count as f64);
        if sum.is_finite() || self.special != 0.0 {
            return sum / count;
        }
        self.rounded(SMALLER) / count * f64::from_bits(((1023 + SMALLER) as u64) << FRACTION_BITS)
    }

    /// The sum divided by 2 to `smaller`, which must not make it subnormal.
    fn rounded(&self, smaller: i32) -> f64 {
        let mut limbs = self.limbs;
        settle(&mut limbs);
        let negative = limbs.last().is_some_and(|&top| top < 0);
        if negative {
            limbs.iter_mut().for_each(|limb| *limb = -*limb);
            settle(&mut limbs);
        }
        let Some(top) = limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
        // The four highest limbs hold more bits than a double; all below them matter only as not being zero.
        let from = top.saturating_sub(3);
        let high = limbs[from..=top].iter().rev().fold(0u128, |sum, &l| sum << LIMB_BITS | l as u128);
        let below = limbs[..from].iter().any(|&limb| limb != 0);
        // A double holds the 53 highest bits, of a subnormal fewer: those from 2^-1074 on.
        let dropped = (128 - high.leading_zeros()).saturating_sub(FRACTION_BITS + 1);
        let kept = (high >> dropped) as u64;
        let rest = high & ((1u128 << dropped) - 1);
        let half = if dropped == 0 { 0 } else { 1u128 << (dropped - 1) };
        let up = dropped > 0 && (rest > half || (rest == half && (below || kept & 1 == 1)));
        // 2^53 at most, so that the conversion is exact, and the scaling too.
        let exponent = LOWEST_EXPONENT + (from as u32 * LIMB_BITS + dropped) as i32 - smaller;
        let size = scaled((kept + u64::from(up)) as f64, exponent);
        if negative { -size } else { size }
    }
}

/// Carries from limb to limb; all but the highest are then within 0 to 2^32.
fn settle(limbs: &mut [i64; LIMBS]) {
    let mut carry = 0;
    for (i, limb) in limbs.iter_mut().enumerate() {
        let all = *limb + carry;
        carry = all >> LIMB_BITS;
        *limb = if i + 1 == LIMBS { all } else { all & 0xffff_ffff };
    }
}

/// `value` times 2 to `exponent`, which is at least -1074; infinite where it is too large.
fn scaled(value: f64, exponent: i32) -> f64 {
    let power = |e: i32| f64::from_bits(((1023 + e) as u64) << FRACTION_BITS);
    match exponent {
        ..-1000 => value * power(exponent + 100) * power(-100),
        -1000..=1000 => value * power(exponent),
        _ => value * power(1000) * power((exponent - 1000).min(1000)),
    }
}

/// One NaN for all.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

/// The sum of `high` and what `adds` additions have lost, `low`, where that is sure to be the exact sum, rounded once;
/// `lost` is the sum of the magnitudes of all losses. Then it doesn't depend on the order of the additions.
#[inline]
pub fn certain(high: f64, low: f64, lost: f64, adds: f64) -> Option<f64> {
    let sum = high + low;
    if lost == 0.0 && high.is_finite() {
        return Some(sum);
    }
    // Losses are exact, their sum is off by `adds` roundings at most; four times that covers those made here.
    let off = 2.0 * f64::EPSILON * (lost * adds + low.abs());
    (high + (low - off) == high + (low + off) && high.is_finite() && off.is_finite()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::compensated::two_sum;
    use proptest::prelude::*;

    fn exact(values: &[f64]) -> Exact {
        let mut sum = Exact::default();
        values.iter().for_each(|v| sum.add(*v));
        sum
    }

    fn any_double() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-1000i32..1000).prop_map(f64::from),
            4 => -1e9..1e9f64,
            2 => any::<f64>().prop_filter("finite", |v| v.is_finite()),
            1 => prop_oneof![Just(f64::MAX), Just(-f64::MAX), Just(f64::MIN_POSITIVE), Just(5e-324), Just(-0.0)],
        ]
    }

    /// A list of doubles that do not overlap and whose exact sum is that of the values (J. Shewchuk), rounded by
    /// looking at every part.
    fn slow(values: &[f64]) -> f64 {
        let mut parts: Vec<f64> = Vec::new();
        for &value in values {
            let (mut rest, mut next) = (value, Vec::new());
            for part in parts {
                let (sum, error) = two_sum(rest, part);
                next.extend(Some(error).filter(|e| *e != 0.0));
                rest = sum;
            }
            next.push(rest);
            parts = next;
        }
        let Some((&last, parts)) = parts.split_last() else { return 0.0 };
        let (mut sum, mut rest, mut below) = (last, 0.0, 0.0);
        for &part in parts.iter().rev() {
            if rest == 0.0 {
                (sum, rest) = two_sum(sum, part);
            } else {
                below = part;
                break;
            }
        }
        // Half-way between two doubles: what lies below decides.
        if below != 0.0 && (below < 0.0) == (rest < 0.0) {
            let (other, error) = two_sum(sum, 2.0 * rest);
            if error == 0.0 && other - sum == 2.0 * rest {
                sum = other;
            }
        }
        sum + 0.0
    }

    proptest! {
        #[test]
        fn sums_are_rounded_once(values in prop::collection::vec(any_double(), 0..60)) {
            let wanted = slow(&values);
            if wanted.is_finite() {
                prop_assert_eq!(exact(&values).value().to_bits(), wanted.to_bits());
            }
            let mut back = values.clone();
            back.reverse();
            prop_assert_eq!(exact(&back).value().to_bits(), exact(&values).value().to_bits());
        }

        #[test]
        fn what_is_certain_is_exact(values in prop::collection::vec(any_double(), 1..60)) {
            let (mut high, mut low, mut lost) = (values[0], 0.0, 0.0);
            for v in &values[1..] {
                let (sum, error) = two_sum(high, *v);
                (high, low, lost) = (sum, low + error, lost + error.abs());
            }
            if let Some(sum) = certain(high, low, lost, values.len() as f64) {
                prop_assert_eq!(sum.to_bits(), exact(&values).value().to_bits());
            }
        }
    }

    #[test]
    fn integers_and_rates_are_certain() {
        for values in [vec![1.0, 2.0, 3.0, -6.0], (1..1000).map(|i| f64::from(i) / 7.0).collect::<Vec<_>>()] {
            let (mut high, mut low, mut lost) = (0.0, 0.0, 0.0);
            for v in &values {
                let (sum, error) = two_sum(high, *v);
                (high, low, lost) = (sum, low + error, lost + error.abs());
            }
            assert!(certain(high, low, lost, values.len() as f64).is_some());
        }
    }

    #[test]
    fn sums_and_means_at_the_edges() {
        let (max, inf) = (f64::MAX, f64::INFINITY);
        assert_eq!(exact(&[max, max, -max]).value(), max);
        assert_eq!(exact(&[max, max]).value(), inf);
        assert_eq!(exact(&[max, max]).mean(), max);
        assert_eq!(exact(&[-max, -max, -max]).mean(), -max);
        assert_eq!(exact(&[5e-324, 5e-324]).value(), 1e-323);
        assert_eq!(exact(&[inf, 1.0, max]).value(), inf);
        assert_eq!(exact(&[-inf, 1.0]).mean(), -inf);
        assert_eq!(exact(&[inf, -inf]).value().to_bits(), f64::NAN.to_bits());
        assert_eq!(exact(&[-f64::NAN, 1.0]).value().to_bits(), f64::NAN.to_bits());
        assert_eq!(exact(&[-0.0, -0.0]).value().to_bits(), 0);
        assert_eq!(exact(&[1.0, 1e100, 1.0, -1e100]).mean(), 0.5);
    }
}
