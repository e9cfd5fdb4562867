//! Doubles as integers: most values of monitoring are short decimals with an integer mantissa `m`. There
//! are three readings of a double. `Quotient`: `m / 10^e`, what a parser makes of decimal text; the
//! division of two exact numbers is rounded once, so it comes back bit for bit. `Product`: `m * 10^-e`
//! with the inexact constant, what an exporter makes that multiplies by 0.001. `Near`: a quotient and up
//! to one unit in the last place, what sums and averages make. Every conversion is checked all the same.

use super::bits::{Kernel, dispatch};

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

/// Units in the last place that a sum or an average of decimals may be away from one.
pub const AWAY_MAX: i64 = 9;

/// Adding and subtracting it rounds to the nearest integer; exact below 2^51.
const ROUND: f64 = 6_755_399_441_055_744.0;

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

/// The column in one reading; `None` if more than every eighth value is an exception.
pub fn read(column: &[u64], reading: Reading) -> Option<Mantissas> {
    let spread = column.len().div_ceil(16).max(1);
    // The scale of a few values is mostly that of all; only if it isn't all are asked. When most of the
    // few have none, no reading holds seven eighths of all.
    let few: Vec<u64> = column.iter().copied().step_by(spread).collect();
    let guess = common_scale(&few, reading, 2)?;
    let mut found = read_at(column, reading, guess);
    let special = found.exceptions.iter().all(|&i| is_special(column[i as usize]));
    if !special {
        let scale = common_scale(column, reading, 8)?;
        if scale != guess {
            found = read_at(column, reading, scale);
        }
    }
    if found.exceptions.len() * 8 > column.len() {
        return None;
    }
    // Exceptions repeat the mantissa before them, those at the start the first real one.
    let lead = found.exceptions.iter().zip(0..).take_while(|(e, i)| *e == i).count();
    let first = *found.column.get(lead)?;
    found.column.iter_mut().take(lead).for_each(|m| *m = first);
    for &i in found.exceptions.iter().skip(lead) {
        found.column[i as usize] = found.column[i as usize - 1];
    }
    Some(found)
}

/// The column at one scale; exceptions still have mantissas of their own.
fn read_at(column: &[u64], reading: Reading, scale: u8) -> Mantissas {
    let n = column.len();
    let mut found =
        Mantissas { reading, scale, column: vec![0; n], away: Vec::new(), exceptions: Vec::new() };
    let mut offs = vec![0; n];
    dispatch(Convert { bits: column, reading, scale, mantissas: &mut found.column, offs: &mut offs });
    let limit = if reading == Reading::Near { AWAY_MAX as u64 } else { 0 };
    let far = |off: i64| off.unsigned_abs() > limit;
    if offs.iter().any(|&off| far(off)) {
        found.exceptions = (0..).zip(&offs).filter(|(_, off)| far(**off)).map(|(i, _)| i).collect();
    }
    if reading == Reading::Near {
        found.exceptions.iter().for_each(|&i| offs[i as usize] = 0);
        found.away = offs;
    }
    found
}

/// Mantissas, and how far each value's bits are from the mantissa's.
struct Convert<'a> {
    bits: &'a [u64],
    reading: Reading,
    scale: u8,
    mantissas: &'a mut [i64],
    offs: &'a mut [i64],
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let e = self.scale;
        let columns = || self.bits.iter().zip(self.mantissas).zip(self.offs);
        if self.reading == Reading::Product {
            columns().for_each(|((bits, m), off)| {
                *m = mantissa(f64::from_bits(*bits), e);
                *off = bits.wrapping_sub(product(*m, e).to_bits()) as i64;
            });
        } else if e == 0 {
            columns().for_each(|((bits, m), off)| {
                *m = f64::from_bits(*bits) as i64;
                *off = bits.wrapping_sub((*m as f64).to_bits()) as i64;
            });
        } else {
            let power = power(e);
            columns().for_each(|((bits, m), off)| {
                *m = mantissa(f64::from_bits(*bits), e);
                *off = bits.wrapping_sub((*m as f64 / power).to_bits()) as i64;
            });
        }
    }
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
            _ if is_special(bits) => None,
            Reading::Quotient => scale(v, e),
            Reading::Product => scale_product(v, e),
            Reading::Near => scale_near(v, e),
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
