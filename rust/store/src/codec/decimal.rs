//! A double as `m / 10^e` with an integer mantissa `m`: most values of monitoring are short decimals.
//! The division of two exactly represented numbers is rounded once, so the nearest double of a short
//! decimal comes back bit for bit; every conversion is checked all the same.

/// Powers of ten that are exact in a double and useful as a scale.
pub const POW10: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Scales that are tried: 10^-9 is the finest that exporters print.
pub const SCALE_MAX: u8 = 9;

/// Mantissas of scaled values stay below this, so that a double that is no short decimal seldom passes
/// for one.
pub const MANTISSA_MAX: f64 = (1u64 << 47) as f64;

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

/// The value of a mantissa.
#[inline(always)]
pub fn value(m: i64, e: u8) -> f64 {
    if e == 0 { m as f64 } else { m as f64 / POW10[e as usize & 15] }
}

/// Whether `m / 10^e` gives the value bit for bit.
#[inline(always)]
pub fn exact(v: f64, e: u8) -> Option<i64> {
    let m = mantissa(v, e);
    (value(m, e).to_bits() == v.to_bits()).then_some(m)
}

/// The smallest scale from `from` on that holds the value exactly.
pub fn scale(v: f64, from: u8) -> Option<u8> {
    (from..=SCALE_MAX).find(|&e| exact(v, e).is_some())
}

/// Sums and averages of decimals lie a unit in the last place beside one: the smallest scale whose
/// decimal is at most one away, when the mantissa is short enough for that to be no accident.
pub fn scale_near(v: f64, from: u8) -> Option<u8> {
    (from.max(1)..=SCALE_MAX).find(|&e| near(v, e).is_some_and(|(m, _)| m.unsigned_abs() < 1 << 40))
}

/// Mantissa and distance in units of the last place (-1, 0 or 1).
#[inline(always)]
pub fn near(v: f64, e: u8) -> Option<(i64, i64)> {
    let m = mantissa(v, e);
    let away = v.to_bits().wrapping_sub(value(m, e).to_bits()) as i64;
    (-1..=1).contains(&away).then_some((m, away))
}
