//! Writing value columns whose values are packed as integers: mantissas, or the bits of doubles in their
//! order. `values` reads them.

use metricsdb_model::ValueKind;

use super::bits::width;
use super::cursor::{put_signed, put_varint};
use super::decimal::{Mantissas, Reading};
use super::exceptions;
use super::integers::Shape;
use super::layout::Layout;
use super::simd::{Kernel, Simd, dispatch};
use super::values::{
    BARE, BITS, Codec, EXCEPTIONS, MONOTONE, NEAR, PRODUCT, QUOTIENT, SINGLE, head, ordered,
};

/// Exact integers.
pub fn integers(kind: ValueKind, bits: &[u64], last: Option<Shape>, out: &mut Vec<u8>) {
    let column: Vec<i64> = bits.iter().map(|&b| kind.ordered(b)).collect();
    let packed = Packed { codec: QUOTIENT, scale: 0, column: &column, exceptions: &[], kind };
    packed.write(bits, last, out);
}

/// Doubles as mantissas.
pub fn decimals(found: &Mantissas, bits: &[u64], last: Option<Shape>, out: &mut Vec<u8>) {
    let codec = match found.reading {
        Reading::Quotient => QUOTIENT,
        Reading::Product => PRODUCT,
        Reading::Near => return near(found, bits, last, out),
        Reading::Single => SINGLE,
    };
    let packed = Packed {
        codec,
        scale: found.scale,
        column: &found.column,
        exceptions: &found.exceptions,
        kind: ValueKind::Float,
    };
    packed.write(bits, last, out);
}

/// Doubles as integers whose order is the order of the doubles: for those that are no decimals.
pub fn ordered_bits(bits: &[u64], last: Option<Shape>, out: &mut Vec<u8>) {
    let mut column: Vec<i64> = bits.iter().map(|&b| ordered(b)).collect();
    let nans = (0..).zip(bits).filter(|(_, b)| f64::from_bits(**b).is_nan()).map(|(i, _)| i);
    let mut exceptions: Vec<u32> = nans.collect();
    if exceptions.len() * 8 > bits.len() {
        exceptions.clear();
    }
    for &i in &exceptions {
        let i = i as usize;
        column[i] = if i > 0 { column[i - 1] } else { 0 };
    }
    if exceptions.first() == Some(&0) {
        // Those at the start repeat the first number, so that they are no extreme.
        let lead = exceptions.iter().zip(0..).take_while(|(e, i)| *e == i).count();
        let first = column.get(lead).copied().unwrap_or(0);
        column.iter_mut().take(lead).for_each(|v| *v = first);
    }
    let packed =
        Packed { codec: BITS, scale: 0, column: &column, exceptions: &exceptions, kind: ValueKind::Float };
    packed.write(bits, last, out);
}

/// Extremes of more bits in all tell little, and cost a byte and more in a hundred of a chunk.
const BARE_BITS: u32 = 100;

struct Packed<'a> {
    codec: Codec,
    scale: u8,
    column: &'a [i64],
    exceptions: &'a [u32],
    kind: ValueKind,
}

impl Packed<'_> {
    fn write(&self, bits: &[u64], last: Option<Shape>, out: &mut Vec<u8>) {
        let layout = Layout::find(self.column, last, 2);
        self.write_summary(&layout, bits, &[], out);
        layout.write_blocks(out);
    }

    /// All before the blocks: codec, head of the integers, first, last, extremes, exceptions. `more` stands
    /// before the exceptions.
    fn write_summary(&self, layout: &Layout, bits: &[u64], more: &[i64], out: &mut Vec<u8>) {
        let Some((&first, &last)) = self.column.first().zip(self.column.last()) else { return };
        let bounds = dispatch(Bounding { column: self.column });
        // A NaN has no place in the order of numbers; other exceptions may, but the column doesn't know it.
        let number = |i: u32| self.kind.is_integer() || !f64::from_bits(bits[i as usize]).is_nan();
        let rises = bounds.rises && self.codec != NEAR && !self.exceptions.iter().any(|&i| number(i));
        let some = if self.exceptions.is_empty() { 0 } else { EXCEPTIONS };
        out.push(head(self.codec, self.scale) | some);
        let lower = first.min(last).wrapping_sub(bounds.low) as u64;
        let higher = bounds.high.wrapping_sub(first.max(last)) as u64;
        let bare = !rises && self.codec != NEAR && width(lower) + width(higher) > BARE_BITS;
        layout.write_head(if rises { MONOTONE } else { 0 } | if bare { BARE } else { 0 }, out);
        put_signed(out, first);
        if rises {
            put_varint(out, last.wrapping_sub(first) as u64);
        } else if !bare {
            put_signed(out, last.wrapping_sub(first));
            put_varint(out, lower);
            put_varint(out, higher);
        }
        more.iter().for_each(|&v| put_signed(out, v));
        if !self.exceptions.is_empty() {
            exceptions::write(self.exceptions, bits, out);
        }
    }
}

/// Mantissas, and how many units in the last place away from them each value is. Blocks of both alternate.
fn near(found: &Mantissas, bits: &[u64], last: Option<Shape>, out: &mut Vec<u8>) {
    let packed = Packed {
        codec: NEAR,
        scale: found.scale,
        column: &found.column,
        exceptions: &found.exceptions,
        kind: ValueKind::Float,
    };
    let layout = Layout::find(&found.column, last, 2);
    let away = Layout::find(&found.away, None, 0);
    let excepted = |i: usize| found.exceptions.binary_search(&(i as u32)).is_ok();
    let numbers = bits.iter().enumerate().filter(|(i, _)| !excepted(*i)).map(|(_, &b)| ordered(b));
    let (low, high) = numbers.fold((i64::MAX, i64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let bounds = dispatch(Bounding { column: &found.column });
    let off = |v: i64, m: i64| {
        let whole = super::decimal::value(m, found.scale).to_bits();
        (ordered(v as u64) as u64).wrapping_sub(whole) as i64
    };
    let ends = [found.away.first(), found.away.last()].map(|away| away.copied().unwrap_or(0));
    let more = [ends[0], ends[1], off(low, bounds.low), off(high, bounds.high)];
    packed.write_summary(&layout, bits, &more, out);
    away.write_head(0, out);
    for i in 0..layout.blocks() {
        layout.write_block(i, out);
        away.write_block(i, out);
    }
}

/// What a column says of itself.
struct Bounds {
    low: i64,
    high: i64,
    /// No integer is smaller than the one before it.
    rises: bool,
}

struct Bounding<'a> {
    column: &'a [i64],
}

impl Kernel for Bounding<'_> {
    type Output = Bounds;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Bounds {
        let low = self.column.iter().copied().fold(i64::MAX, i64::min);
        let high = self.column.iter().copied().fold(i64::MIN, i64::max);
        let after = self.column.get(1..).unwrap_or(&[]);
        let falls = self.column.iter().zip(after).fold(0, |n, (a, b)| n | u64::from(b < a));
        Bounds { low, high, rises: falls == 0 }
    }
}
