//! Doubles as integers: most values of monitoring are short decimals with an integer mantissa `m`. There
//! are four readings of a double. `Quotient`: `m / 10^e`, what a parser makes of decimal text; the
//! division of two exact numbers is rounded once, so it comes back bit for bit. `Product`: `m * 10^-e`
//! with the inexact constant, what an exporter makes that multiplies by 0.001. `Near`: a quotient and a few
//! units in the last place, what sums and averages make. `Single`: a quotient rounded to a float of 32
//! bits, what a sensor makes. Every conversion is checked all the same.

use super::bits::{width, zigzag};
use super::simd::{Kernel, Simd, dispatch};

/// Powers of ten that are exact in a double.
const POW10: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The doubles nearest to negative powers of ten.
const TENTH: [f64; 16] =
    [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15];

/// Scales that are tried: quotients of small numbers are often printed with twelve or so digits.
pub const SCALE_MAX: u8 = 14;

/// Mantissas of scaled values stay below this, so that a double that is no short decimal seldom passes
/// for one.
const MANTISSA_MAX: f64 = (1u64 << 47) as f64;

/// The mantissa of a double that is a unit in the last place off is shorter still.
const NEAR_MAX: u64 = 1 << 40;

/// A decimal of a 32-bit float has fewer digits than the float.
const SINGLE_MAX: u64 = 1 << 23;

/// Units in the last place that a sum or an average of decimals may be away from one.
pub const AWAY_MAX: i64 = 9;

/// Distances of four values, and the head of a column of them.
const AWAY_HEAD_BYTES: usize = 8;

/// 2^52 + 2^51: adding and subtracting it rounds to the nearest integer; exact below 2^51.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Bits of a mantissa in a reading with a scale. Writers need fewer; what any bytes say beyond is cut off, so
/// that no reader meets a number that the quick ways don't hold.
const SHORT_BITS: u32 = 52;

/// What `widen_short` wants to be added to a mantissa.
pub const SHORT_BIAS: u64 = 1 << (SHORT_BITS - 1);

/// The mantissa nearest to a value at scale `e`; 0 where there is none within reach.
#[inline(always)]
pub fn mantissa(value: f64, e: u8) -> i64 {
    if e == 0 {
        return value as i64;
    }
    let x = value * POW10[e as usize & 15];
    if x.abs() < MANTISSA_MAX { (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i64 } else { 0 }
}

/// 10^e.
pub fn power(e: u8) -> f64 {
    POW10[e as usize & 15]
}

/// The value of a mantissa, read as a quotient.
#[inline(always)]
pub fn value(m: i64, e: u8) -> f64 {
    if e == 0 { m as f64 } else { m as f64 / POW10[e as usize & 15] }
}

/// As `m as f64`, in steps that every vector has: both halves as doubles, put together with one rounding.
#[inline(always)]
pub fn widen_integer<S: Simd>(m: i64) -> f64 {
    if S::CONVERTS {
        return m as f64;
    }
    const LOW: u64 = 0x4330_0000_0000_0000; // 2^52
    const HIGH: u64 = 0x4530_0000_8000_0000; // 2^84 + 2^63
    const BOTH: f64 = f64::from_bits(0x4530_0000_8010_0000); // 2^84 + 2^63 + 2^52
    let low = f64::from_bits(m as u64 & 0xffff_ffff | LOW);
    let high = f64::from_bits(m as u64 >> 32 ^ HIGH);
    (high - BOTH) + low
}

/// The double of a mantissa of `SHORT_BITS` bits from its sum with `SHORT_BIAS`; higher bits are cut off.
#[inline(always)]
pub fn widen_short(biased: u64) -> f64 {
    const ONE: u64 = 1 << SHORT_BITS; // as a double: 2^52 + its low bits
    f64::from_bits(biased & (ONE - 1) | (ONE as f64).to_bits()) - ROUND
}

/// `m / 10^e`, by way of the reciprocal. The first quotient is off by two units at most, its rest is exact,
/// and no such fraction is near enough to the middle of two doubles for the second rounding to go wrong.
#[inline(always)]
pub fn quotient<S: Simd>(m: f64, power: f64, reciprocal: f64) -> f64 {
    if !S::FUSED {
        return m / power;
    }
    let q = m * reciprocal;
    (-q).mul_add(power, m).mul_add(reciprocal, q)
}

/// The value of a mantissa, read as a product.
#[inline(always)]
pub fn product(m: i64, e: u8) -> f64 {
    m as f64 * TENTH[e as usize & 15]
}

/// Whether `m / 10^e` gives the value bit for bit.
#[inline(always)]
pub fn exact(v: f64, e: u8) -> Option<i64> {
    let m = mantissa(v, e);
    (value(m, e).to_bits() == v.to_bits()).then_some(m)
}

/// Whether `m * 10^-e` gives the value bit for bit.
#[inline(always)]
pub fn exact_product(v: f64, e: u8) -> Option<i64> {
    let m = mantissa(v, e);
    (product(m, e).to_bits() == v.to_bits()).then_some(m)
}

/// Whether `m / 10^e`, rounded to 32 bits, gives the value bit for bit.
#[inline(always)]
pub fn exact_single(v: f64, e: u8) -> Option<i64> {
    let m = mantissa(v, e);
    (single(value(m, e)).to_bits() == v.to_bits()).then_some(m)
}

/// The nearest float of 32 bits.
#[inline(always)]
pub fn single(v: f64) -> f64 {
    f64::from(v as f32)
}

/// Mantissa and distance in units of the last place, at most `AWAY_MAX`.
#[inline(always)]
pub fn near(v: f64, e: u8) -> Option<(i64, i64)> {
    let m = mantissa(v, e);
    let away = v.to_bits().wrapping_sub(value(m, e).to_bits()) as i64;
    (-AWAY_MAX..=AWAY_MAX).contains(&away).then_some((m, away))
}

/// The smallest scale from `from` on that holds the value exactly.
pub fn scale(v: f64, from: u8) -> Option<u8> {
    (from..=SCALE_MAX).find(|&e| exact(v, e).is_some())
}

/// The smallest scale from `from` on whose product is the value.
pub fn scale_product(v: f64, from: u8) -> Option<u8> {
    (from.max(1)..=SCALE_MAX).find(|&e| exact_product(v, e).is_some())
}

/// The smallest scale from `from` on whose decimal is the value in 32 bits, when the mantissa is shorter
/// than the 24 bits of such a float.
pub fn scale_single(v: f64, from: u8) -> Option<u8> {
    (from.max(1)..=SCALE_MAX).find(|&e| exact_single(v, e).is_some_and(|m| m.unsigned_abs() < SINGLE_MAX))
}

/// The smallest scale whose decimal is a few units in the last place away, when the mantissa is
/// short enough for that to be no accident.
pub fn scale_near(v: f64, from: u8) -> Option<u8> {
    (from.max(1)..=SCALE_MAX).find(|&e| near(v, e).is_some_and(|(m, _)| m.unsigned_abs() < NEAR_MAX))
}

/// How mantissas and doubles belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reading {
    Quotient = 0,
    Product = 1,
    Near = 2,
    Single = 3,
}

/// A column of doubles as mantissas of one scale. Exceptions stand at their positions with the mantissa
/// before them, so that they disturb no step.
#[derive(Clone, Debug)]
pub struct Mantissas {
    pub reading: Reading,
    pub scale: u8,
    pub column: Vec<i64>,
    /// Units in the last place to add; empty but for `Near`.
    pub away: Vec<i64>,
    /// Positions of values that are not of this form.
    pub exceptions: Vec<u32>,
}

/// NaNs, infinities and -0.0 have no mantissa in any reading.
pub fn is_special(bits: u64) -> bool {
    !f64::from_bits(bits).is_finite() || bits == 1 << 63
}

/// Values of a column that are looked at first.
const FEW: usize = 16;

/// The column in one reading; `None` if more than every eighth value is an exception.
pub fn read(column: &[u64], reading: Reading) -> Option<Mantissas> {
    let spread = column.len().div_ceil(FEW).max(1);
    // The scale of a few values is mostly that of all; only if it isn't all are asked. When most of the
    // few have none, no reading holds seven eighths of all.
    let mut few = [0; FEW];
    let n = few.iter_mut().zip(column.iter().step_by(spread)).map(|(f, c)| *f = *c).count();
    let guess = common_scale(&few[..n], reading, 2)?;
    let found = read_at(column, reading, guess);
    if found.is_plain(column) {
        return found.finish();
    }
    let scale = common_scale(column, reading, 8)?;
    if scale == guess { found.finish() } else { read_at(column, reading, scale).finish() }
}

/// The column in a reading and a scale that held an earlier one; `None` if they don't hold all of it.
pub fn read_again(column: &[u64], reading: Reading, scale: u8) -> Option<Mantissas> {
    let found = read_at(column, reading, scale);
    if found.is_plain(column) { found.finish() } else { None }
}

/// The column at one scale; exceptions still have mantissas of their own.
fn read_at(column: &[u64], reading: Reading, scale: u8) -> Mantissas {
    let n = column.len();
    let mut found =
        Mantissas { reading, scale, column: vec![0; n], away: Vec::new(), exceptions: Vec::new() };
    if dispatch(Convert { bits: column, reading, scale, mantissas: &mut found.column }) {
        if reading == Reading::Near {
            found.reading = Reading::Quotient;
        }
        return found;
    }
    let mut offs = vec![0; n];
    if scale == 0 {
        // Integers of more than 47 bits among them.
        let columns = column.iter().zip(&mut found.column).zip(&mut offs);
        columns.for_each(|((&bits, m), off)| {
            *m = mantissa(f64::from_bits(bits), 0);
            *off = bits.wrapping_sub((*m as f64).to_bits()) as i64;
        });
    } else {
        dispatch(Offs { bits: column, reading, scale, mantissas: &found.column, offs: &mut offs });
    }
    let limit = if reading == Reading::Near { AWAY_MAX as u64 } else { 0 };
    // The bits of some NaNs are a few units below those of 0.
    let far = |off: i64, bits: u64| off.unsigned_abs() > limit || is_special(bits);
    let columns = (0..).zip(offs.iter().zip(column));
    found.exceptions = columns.filter(|(_, (off, bits))| far(**off, **bits)).map(|(i, _)| i).collect();
    if reading == Reading::Near {
        found.exceptions.iter().for_each(|&i| offs[i as usize] = 0);
        found.away = offs;
    }
    found
}

/// The value of a mantissa in a sealed chunk; a near one is a few units in the last place away.
#[inline(always)]
pub fn number(m: i64, reading: Reading, scale: u8) -> f64 {
    const CUT: u32 = 64 - SHORT_BITS;
    let short = m << CUT >> CUT;
    match reading {
        Reading::Quotient if scale == 0 => m as f64,
        Reading::Product => product(short, scale),
        Reading::Single => single(value(short, scale)),
        Reading::Quotient | Reading::Near => value(short, scale),
    }
}

impl Mantissas {
    /// Whether all exceptions are values that no reading holds.
    pub fn is_plain(&self, bits: &[u64]) -> bool {
        self.exceptions.iter().all(|&i| is_special(bits[i as usize]))
    }

    /// About what distances in units of the last place take.
    pub fn away_bytes(&self) -> usize {
        let most = self.away.iter().fold(0, |most, away| most | zigzag(*away));
        let head = if self.away.is_empty() { 0 } else { AWAY_HEAD_BYTES };
        head + self.away.len() * width(most) as usize / 8
    }

    /// Exceptions repeat the mantissa before them, those at the start the first real one.
    fn finish(mut self) -> Option<Mantissas> {
        if self.exceptions.is_empty() {
            return Some(self);
        }
        if self.exceptions.len() * 8 > self.column.len() {
            return None;
        }
        let lead = self.exceptions.iter().zip(0..).take_while(|(e, i)| *e == i).count();
        let first = *self.column.get(lead)?;
        self.column.iter_mut().take(lead).for_each(|m| *m = first);
        for &i in self.exceptions.iter().skip(lead) {
            self.column[i as usize] = self.column[i as usize - 1];
        }
        Some(self)
    }
}

/// Mantissas of a column without exceptions; false if there are some, or some integer is long.
struct Convert<'a> {
    bits: &'a [u64],
    reading: Reading,
    scale: u8,
    mantissas: &'a mut [i64],
}

impl Kernel for Convert<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let (power, tenth) = (power(self.scale), product(1, self.scale));
        match self.reading {
            _ if self.scale == 0 => self.check(power, |m| m),
            Reading::Product => self.check(power, |m| m * tenth),
            Reading::Single => self.check(power, |m| single(quotient::<S>(m, power, tenth))),
            Reading::Quotient | Reading::Near => self.check(power, |m| quotient::<S>(m, power, tenth)),
        }
    }
}

impl Convert<'_> {
    #[inline(always)]
    fn check(self, power: f64, back: impl Fn(f64) -> f64) -> bool {
        let mut off = 0;
        for (&bits, m) in self.bits.iter().zip(self.mantissas) {
            let x = f64::from_bits(bits) * power;
            let near = if x.abs() < MANTISSA_MAX { x } else { 0.0 };
            let rounded = near + ROUND;
            *m = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i64;
            off |= bits ^ back(rounded - ROUND).to_bits();
        }
        off == 0
    }
}

/// How far each value's bits are from its mantissa's, at a scale that isn't 0.
struct Offs<'a> {
    bits: &'a [u64],
    reading: Reading,
    scale: u8,
    mantissas: &'a [i64],
    offs: &'a mut [i64],
}

impl Kernel for Offs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (power, tenth) = (power(self.scale), product(1, self.scale));
        match self.reading {
            Reading::Product => self.each(|m| m * tenth),
            Reading::Single => self.each(|m| single(quotient::<S>(m, power, tenth))),
            Reading::Quotient | Reading::Near => self.each(|m| quotient::<S>(m, power, tenth)),
        }
    }
}

impl Offs<'_> {
    #[inline(always)]
    fn each(self, back: impl Fn(f64) -> f64) {
        let columns = self.bits.iter().zip(self.mantissas).zip(self.offs);
        columns.for_each(|((&bits, &m), off)| {
            let m = widen_short((m as u64).wrapping_add(SHORT_BIAS));
            *off = bits.wrapping_sub(back(m).to_bits()) as i64;
        });
    }
}

/// Whether any of three values of a column is a decimal in some reading.
pub fn looks_decimal(column: &[u64]) -> bool {
    let n = column.len();
    [n / 4, n / 2, n * 3 / 4].iter().filter_map(|&i| column.get(i)).any(|&bits| {
        let v = f64::from_bits(bits);
        let scaled =
            [scale, scale_product, scale_near, scale_single].iter().any(|scale| scale(v, 0).is_some());
        scaled || is_special(bits)
    })
}

/// The scale that all values share; `None` once more than one in `few` have none.
fn common_scale(column: &[u64], reading: Reading, few: usize) -> Option<u8> {
    let mut e = if reading == Reading::Quotient { 0 } else { 1 };
    let mut without = 0;
    for &bits in column {
        let v = f64::from_bits(bits);
        let found = match reading {
            Reading::Quotient if exact(v, e).is_some() => continue,
            Reading::Product if exact_product(v, e).is_some() => continue,
            Reading::Near if near(v, e).is_some() => continue,
            Reading::Single if exact_single(v, e).is_some() => continue,
            _ if is_special(bits) => None,
            Reading::Quotient => scale(v, e),
            Reading::Product => scale_product(v, e),
            Reading::Near => scale_near(v, e),
            Reading::Single => scale_single(v, e),
        };
        match found {
            Some(larger) => e = larger,
            None => without += 1,
        }
        if without * few > column.len() {
            return None;
        }
    }
    Some(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Quotients<'a>(&'a [i64], u8);

    impl Kernel for Quotients<'_> {
        type Output = (Vec<f64>, Vec<f64>);

        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> (Vec<f64>, Vec<f64>) {
            let (power, tenth) = (power(self.1), product(1, self.1));
            let short = |m: i64| widen_short((m as u64).wrapping_add(SHORT_BIAS));
            let quotients = self.0.iter().map(|&m| quotient::<S>(short(m), power, tenth)).collect();
            (quotients, self.0.iter().map(|&m| widen_integer::<S>(m)).collect())
        }
    }

    #[test]
    fn a_quotient_by_way_of_the_reciprocal_is_the_quotient() {
        let mut x = 1u64;
        for e in 0..=SCALE_MAX {
            let some: Vec<i64> = (0..20_000)
                .map(|i| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    x as i64 >> (i % 63)
                })
                .chain([-1 << 51, (1 << 51) - 1, 1 << 51, i64::MIN, i64::MAX])
                .collect();
            let (quotients, wide) = dispatch(Quotients(&some, e));
            for ((m, q), w) in some.iter().zip(quotients).zip(wide) {
                assert_eq!(q.to_bits(), number(*m, Reading::Near, e).to_bits(), "{m} / 10^{e}");
                assert_eq!(w, *m as f64);
                if m.unsigned_abs() < 1 << 51 {
                    assert_eq!(q, *m as f64 / power(e));
                }
            }
        }
    }
}
