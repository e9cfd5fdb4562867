//! Adaptive Rice codes: the parameter follows the sizes seen, up and down by one, so that no state but
//! the parameter itself is needed. For geometric sizes that settles near the best parameter.

use super::bits::{BitReader, Code, width};

/// A Rice quotient of this many ones is an escape.
pub const QUOTIENT_MAX: u32 = 10;
/// Bits after an escape: the width of a number, up to 64, or a larger one that says something else.
const ESCAPE_BITS: u32 = 7;

/// Moves a Rice parameter towards the sizes seen: up after a long quotient, down after a short rest.
#[inline(always)]
pub fn adapt(k: &mut u8, z: u64) {
    let q = z >> *k;
    if q >= 2 {
        *k = (*k + 1 + u8::from(q >= 8)).min(40);
    } else if q == 0 && *k > 0 && z >> (*k - 1) == 0 {
        *k -= 1;
    }
}

/// Writes `z` and adapts the parameter.
#[inline(always)]
pub fn push(code: &mut Code, z: u64, k: &mut u8) {
    let q = z >> *k;
    if q < u64::from(QUOTIENT_MAX) {
        code.push((1 << q) - 1, q as u32 + 1);
        code.push(z & ((1 << *k) - 1), u32::from(*k));
    } else {
        let n = width(z);
        code.push((1 << QUOTIENT_MAX) - 1, QUOTIENT_MAX);
        code.push(u64::from(n), ESCAPE_BITS);
        code.push(z, n);
    }
    adapt(k, z);
}

/// Writes an escape that is no number: 65 to 127.
pub fn push_escape(code: &mut Code, what: u64) {
    code.push((1 << QUOTIENT_MAX) - 1, QUOTIENT_MAX);
    code.push(what, ESCAPE_BITS);
}

/// A number, or what else an escape says.
pub enum Rice {
    Number(u64),
    Other(u64),
}

/// Reads a number and adapts the parameter, or what else there is.
#[inline(always)]
pub fn read(r: &mut BitReader, k: &mut u8) -> Rice {
    let word = r.peek();
    let q = word.trailing_ones();
    if q < QUOTIENT_MAX {
        let z = (word >> (q + 1) & ((1 << *k) - 1)) | u64::from(q) << *k;
        r.skip(q + 1 + u32::from(*k));
        adapt(k, z);
        return Rice::Number(z);
    }
    let (after, number) = read_escape(*r);
    *r = after;
    if let Rice::Number(z) = number {
        adapt(k, z);
    }
    number
}

/// By value, so that the reader of the fast path stays in registers.
#[cold]
#[inline(never)]
fn read_escape(mut r: BitReader) -> (BitReader, Rice) {
    r.skip(QUOTIENT_MAX);
    let n = r.take(ESCAPE_BITS);
    let found = if n > 64 { Rice::Other(n) } else { Rice::Number(r.take64(n as u32)) };
    (r, found)
}
