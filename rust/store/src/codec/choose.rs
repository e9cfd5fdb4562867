//! Which codec a chunk's values get. Decimals first, since they are smallest whenever they fit; then the
//! readings for products, sums and averages; bits of doubles when no reading fits or mantissas are long.
//! What repeats itself is written as runs or a dictionary where that is smaller.

use metricsdb_model::ValueKind;

use super::decimal::{self, Mantissas, Reading};
use super::integers::Shape;
use super::repeats;
use super::simd::{Kernel, Simd, dispatch};
use super::values::{BITS, Codec, NEAR, PRODUCT, QUOTIENT, SINGLE};
use super::write;

/// Mantissas of as many bytes a value may be larger than the doubles' own bits: both are tried.
const LONG_BYTES: usize = 4;

/// Position and bits.
const EXCEPTION_BYTES: usize = 10;

/// Runs are tried if so many values or more are alike on average, a dictionary if a value takes more than
/// a byte.
const RUN: usize = 6;

/// What was decided for a block. The next one of the series mostly wants the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) codec: Codec,
    pub(super) scale: u8,
    pub(super) shape: Shape,
}

/// Appends the value section of a chunk with at least one value. With the plan of the block before it
/// looks for another one only if that doesn't fit any more, which takes a quarter of the time.
pub fn encode(kind: ValueKind, bits: &[u64], last: Option<Plan>, out: &mut Vec<u8>) {
    let Some(&first) = bits.first() else { return };
    let changes = dispatch(Changes { bits });
    if changes == 0 {
        return repeats::write_constant(kind, first, out);
    }
    let start = out.len();
    let mut least = usize::MAX;
    if changes * RUN <= bits.len() {
        repeats::write_runs(kind, bits, out);
        least = out.len() - start;
        // No block of integers is that small.
        if least <= 4 + 2 * changes && least * 64 <= bits.len() {
            return;
        }
    }
    smaller(start, least, out, |out| packed(kind, bits, last, out));
    least = out.len() - start;
    // A block after one that was packed seldom holds few values.
    if least > bits.len() * if last.is_some() { 2 } else { 1 }
        && let Some(values) = repeats::distinct(bits)
    {
        smaller(start, least, out, |out| repeats::write_dictionary(kind, bits, &values, out));
    }
}

/// Keeps what `write` appends instead of the `least` bytes behind `start`, if it is shorter.
fn smaller(start: usize, least: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let before = out.len();
    write(out);
    if out.len() - before < least {
        out.drain(start..before);
    } else {
        out.truncate(before);
    }
}

/// Appends a section of packed integers of at least two values.
pub(super) fn packed(kind: ValueKind, bits: &[u64], last: Option<Plan>, out: &mut Vec<u8>) {
    let shape = last.map(|l| l.shape);
    if kind.is_integer() {
        return write::integers(kind, bits, shape, out);
    }
    let start = out.len();
    let bits_again = last.is_some_and(|l| l.codec == BITS);
    if bits_again && !decimal::looks_decimal(bits) {
        return write::ordered_bits(bits, shape, out);
    }
    if let Some(plan) = last
        && let Some(found) = again(bits, plan)
    {
        write::decimals(&found, bits, shape, out);
    } else {
        match mantissas(bits) {
            Some(found) => write::decimals(&found, bits, None, out),
            None => return write::ordered_bits(bits, shape.filter(|_| bits_again), out),
        }
    }
    let least = out.len() - start;
    if least > LONG_BYTES * bits.len() {
        smaller(start, least, out, |out| write::ordered_bits(bits, None, out));
    }
}

/// The column in the reading and the scale of a plan, if they hold it.
fn again(bits: &[u64], plan: Plan) -> Option<Mantissas> {
    let reading = match plan.codec {
        QUOTIENT => Reading::Quotient,
        PRODUCT => Reading::Product,
        NEAR => Reading::Near,
        SINGLE => Reading::Single,
        _ => return None,
    };
    decimal::read_again(bits, reading, plan.scale)
}

/// The reading whose exceptions and distances take the least; the plainer one of two that are equal.
pub(super) fn mantissas(bits: &[u64]) -> Option<Mantissas> {
    let mut best: Option<(usize, Mantissas)> = None;
    for reading in [Reading::Quotient, Reading::Product, Reading::Near, Reading::Single] {
        let Some(found) = decimal::read(bits, reading) else { continue };
        let plain = found.is_plain(bits);
        let cost = found.exceptions.len() * EXCEPTION_BYTES + found.away_bytes();
        if best.as_ref().is_none_or(|b| cost < b.0) {
            best = Some((cost, found));
        }
        if plain {
            break;
        }
    }
    best.map(|(_, found)| found)
}

/// How often a value isn't the one before it.
struct Changes<'a> {
    bits: &'a [u64],
}

impl Kernel for Changes<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        let after = self.bits.get(1..).unwrap_or(&[]);
        self.bits.iter().zip(after).map(|(a, b)| u64::from(a != b)).sum::<u64>() as usize
    }
}
