//! Writing value columns whose values are packed as integers: mantissas, or the bits of doubles in their
//! order. `values` reads them.

use metricsdb_model::ValueKind;

use super::bounds::{Bounds, Told};
use super::cursor::put_signed;
use super::decimal::{Mantissas, Reading};
use super::exceptions;
use super::integers::Shape;
use super::layout::Layout;
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
        let Some((bounds, rises)) = Bounds::of(self.column) else { return };
        // A NaN has no place in the order of numbers; other exceptions may, but the column doesn't know it.
        let number = |i: u32| self.kind.is_integer() || !f64::from_bits(bits[i as usize]).is_nan();
        let rises = rises && self.codec != NEAR && !self.exceptions.iter().any(|&i| number(i));
        let some = if self.exceptions.is_empty() { 0 } else { EXCEPTIONS };
        out.push(head(self.codec, self.scale) | some);
        let (told, flag) = match rises {
            true => (Told::Rises, MONOTONE),
            false if self.codec != NEAR && bounds.are_long() => (Told::Bare, BARE),
            false => (Told::All, 0),
        };
        layout.write_head(flag, out);
        bounds.put(told, out);
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
    let Some((bounds, _)) = Bounds::of(&found.column) else { return };
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
