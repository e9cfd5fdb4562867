//! Columns that repeat themselves: constants, runs of equal values, and few values in any order. They
//! work for any 64 bits.

use std::cmp::Ordering;
use std::convert::identity;

use metricsdb_model::{Result, ValueKind};

use super::bits::BLOCK;
use super::choose;
use super::cursor::{Cursor, put_signed, put_varint};
use super::decimal::{self, Reading};
use super::integers::{self, Head};
use super::layout::Layout;
use super::simd::{Aligned, Kernel, Simd, dispatch, repeat};
use super::statistics::Statistics;
use super::values::{CONSTANT, DICTIONARY, EXCEPTIONS, NO_SCALE, RUNS, Section, head, ordered};

/// In the first byte of constants: the mantissa is read as a product. Of runs: there are two values.
const PRODUCT: u8 = EXCEPTIONS;
const TWO: u8 = EXCEPTIONS;

/// Values of a dictionary: its positions are a block of integers.
pub const DICTIONARY_MAX: usize = BLOCK;

/// The same 64 bits over and over: a mantissa, or the highest bytes that aren't zero.
pub fn write_constant(kind: ValueKind, bits: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let v = f64::from_bits(bits);
    let product =
        || decimal::scale_product(v, 1).and_then(|e| Some((e, decimal::exact_product(v, e)?, PRODUCT)));
    let quotient = || decimal::scale(v, 0).and_then(|e| Some((e, decimal::exact(v, e)?, 0)));
    let found = match kind {
        ValueKind::Int | ValueKind::Uint => Some((0, kind.ordered(bits), 0)),
        ValueKind::Float => quotient().or_else(product),
    };
    if let Some((scale, m, flag)) = found {
        out.push(head(CONSTANT, scale) | flag);
        put_signed(out, m);
    }
    let raw = 8 - bits.trailing_zeros().min(64) as usize / 8;
    if !kind.is_integer() && (found.is_none() || out.len() - start > raw + 1) {
        out.truncate(start);
        out.push(head(CONSTANT, NO_SCALE));
        out.extend_from_slice(&bits.to_be_bytes()[..raw]);
    }
}

pub(super) fn read_constant(c: &mut Cursor, kind: ValueKind, scale: u8, product: bool) -> Result<u64> {
    match kind {
        ValueKind::Int | ValueKind::Uint if scale == 0 && !product => Ok(kind.unordered(c.signed()?)),
        ValueKind::Int | ValueKind::Uint => Err(c.wrong("integers have no scale")),
        ValueKind::Float if scale == NO_SCALE => {
            let bytes = c.rest();
            let mut all = [0; 8];
            match all.get_mut(..bytes.len()) {
                Some(most) => most.copy_from_slice(bytes),
                None => return Err(c.wrong("a constant of more than 8 bytes")),
            }
            Ok(u64::from_be_bytes(all))
        }
        ValueKind::Float => {
            let reading = if product { Reading::Product } else { Reading::Quotient };
            Ok(decimal::number(c.signed()?, reading, scale).to_bits())
        }
    }
}

/// Runs of equal values: two that alternate, or a section of one value for each run.
pub fn write_runs(kind: ValueKind, bits: &[u64], out: &mut Vec<u8>) {
    let mut runs = bits.chunk_by(|a, b| a == b);
    let values: Vec<u64> = runs.clone().filter_map(|r| r.first().copied()).collect();
    let [a, b, ..] = values[..] else { return };
    runs.next_back();
    let lengths = runs.map(|r| r.len() as u64 - 1);
    if values.iter().skip(2).zip(&values).all(|(c, a)| c == a) {
        write_pair(kind, a, b, out);
        return lengths.for_each(|n| put_varint(out, n));
    }
    out.push(head(RUNS, 0));
    put_varint(out, values.len() as u64);
    lengths.for_each(|n| put_varint(out, n));
    choose::packed(kind, &values, None, out);
}

/// Both values: mantissas of one scale, or all their bits.
fn write_pair(kind: ValueKind, a: u64, b: u64, out: &mut Vec<u8>) {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let scale = match kind {
        ValueKind::Int | ValueKind::Uint => Some(0),
        ValueKind::Float => decimal::scale(x, 0).and_then(|e| decimal::scale(y, e)),
    };
    let mantissa = |bits: u64, e: u8| match kind {
        ValueKind::Int | ValueKind::Uint => Some(kind.ordered(bits)),
        ValueKind::Float => decimal::exact(f64::from_bits(bits), e),
    };
    let both = scale.and_then(|e| Some((e, mantissa(a, e)?, mantissa(b, e)?)));
    match both {
        Some((e, m, n)) => {
            out.push(head(RUNS, e) | TWO);
            put_signed(out, m);
            put_signed(out, n.wrapping_sub(m));
        }
        None => {
            out.push(head(RUNS, NO_SCALE) | TWO);
            out.extend_from_slice(&a.to_le_bytes());
            out.extend_from_slice(&b.to_le_bytes());
        }
    }
}

/// Where runs lie.
pub(super) struct Runs<'a> {
    kind: ValueKind,
    count: usize,
    values: RunValues<'a>,
    /// One less than each length but the last.
    lengths: &'a [u8],
}

enum RunValues<'a> {
    Two([u64; 2]),
    Many { section: &'a [u8], runs: usize },
}

impl<'a> Runs<'a> {
    pub fn read(c: &mut Cursor<'a>, kind: ValueKind, scale: u8, two: bool, count: usize) -> Result<Runs<'a>> {
        if !two {
            let runs = c.count()?;
            if runs < 2 || runs > count || scale != 0 {
                return Err(c.wrong("more runs than samples"));
            }
            let mut after = *c;
            for _ in 1..runs {
                after.varint()?;
            }
            let lengths = c.take(after.position() - c.position())?;
            let values = RunValues::Many { section: c.rest(), runs };
            return Ok(Runs { kind, count, values, lengths });
        }
        let pair = match kind {
            ValueKind::Float if scale == NO_SCALE => [c.word(8)?, c.word(8)?],
            _ => {
                let m = c.signed()?;
                let n = m.wrapping_add(c.signed()?);
                match kind {
                    ValueKind::Float => {
                        [m, n].map(|m| decimal::number(m, Reading::Quotient, scale).to_bits())
                    }
                    _ if scale > 0 => return Err(c.wrong("integers have no scale")),
                    ValueKind::Int | ValueKind::Uint => [m, n].map(|m| kind.unordered(m)),
                }
            }
        };
        Ok(Runs { kind, count, values: RunValues::Two(pair), lengths: c.rest() })
    }

    pub fn detail(&self) -> String {
        match self.values {
            RunValues::Two(_) => "two values".to_owned(),
            RunValues::Many { runs, .. } => format!("{runs} of them"),
        }
    }

    /// `None` where NaNs must be counted.
    pub fn statistics(&self) -> Result<Option<Statistics>> {
        let pair = match &self.values {
            RunValues::Two(pair) => *pair,
            &RunValues::Many { section, runs } => {
                let inner = Section::parse_inner(section, self.kind, runs)?.statistics()?;
                return Ok(Some(inner).filter(|s| s.stale + s.nan == 0));
            }
        };
        let [a, b] = pair.map(|bits| self.kind.widen(bits));
        if a.is_nan() || b.is_nan() {
            return Ok(None);
        }
        // Each byte without its highest bit ends a length, and a length ends a run.
        let changes = self.lengths.iter().filter(|b| **b < 128).count() as u32;
        let falls = match self.kind.order(pair[0], pair[1]) {
            Some(Ordering::Less) => changes / 2,
            Some(Ordering::Greater) => changes.div_ceil(2),
            Some(Ordering::Equal) | None => 0,
        };
        let last = if changes.is_multiple_of(2) { a } else { b };
        let (min, max) = (a.min(b), a.max(b));
        Ok(Some(Statistics { first: a, last, min, max, resets: Some(falls), stale: 0, nan: 0 }))
    }

    /// Appends the values at `from..to`.
    pub fn decode<T: Copy>(
        &self,
        from: usize,
        to: usize,
        convert: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let mut many: Vec<u64> = Vec::new();
        let values: &[u64] = match &self.values {
            RunValues::Two(pair) => pair,
            &RunValues::Many { section, runs } => {
                Section::parse_inner(section, self.kind, runs)?.decode(0, runs, identity, &mut many)?;
                &many
            }
        };
        let mut lengths = Cursor::new(self.lengths);
        out.reserve(to - from);
        let mut at = 0;
        // A pair goes round; others have a value for each run.
        for &bits in values.iter().cycle() {
            let left = self.count - at;
            let n = if lengths.is_empty() { left } else { small(lengths.varint()?).saturating_add(1) };
            if n > left || (n == left && !lengths.is_empty()) {
                return Err(lengths.wrong("runs of more samples than there are"));
            }
            let end = at + n;
            let piece = end.min(to).saturating_sub(at.max(from));
            repeat(convert(bits), piece, out);
            at = end;
            if at >= to {
                break;
            }
        }
        Ok(())
    }
}

fn small(v: u64) -> usize {
    usize::try_from(v).unwrap_or(usize::MAX)
}

/// The values of a column, in their order, if there are few.
pub fn distinct(bits: &[u64]) -> Option<Vec<u64>> {
    const SLOTS: usize = 256;
    let mut table = [None; SLOTS];
    let mut found = Vec::new();
    for &b in bits {
        let mut slot = (b.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        while table[slot].is_some_and(|other| other != b) {
            slot = (slot + 1) % SLOTS;
        }
        if table[slot].is_none() {
            if found.len() == DICTIONARY_MAX {
                return None;
            }
            table[slot] = Some(b);
            found.push(b);
        }
    }
    found.sort_unstable_by_key(|&b| ordered(b));
    Some(found)
}

/// A section of the values, and their positions in it. There are at least two.
pub fn write_dictionary(kind: ValueKind, bits: &[u64], values: &[u64], out: &mut Vec<u8>) {
    let at = |b: u64| values.binary_search_by_key(&ordered(b), |&v| ordered(v)).unwrap_or(0) as i64;
    let column: Vec<i64> = bits.iter().map(|&b| at(b)).collect();
    let Some((first, last)) = column.first().zip(column.last()) else { return };
    let mut inner = Vec::new();
    choose::packed(kind, values, None, &mut inner);
    out.push(head(DICTIONARY, 0));
    out.extend_from_slice(&[values.len() as u8, *first as u8, *last as u8]);
    put_varint(out, inner.len() as u64);
    out.extend_from_slice(&inner);
    let layout = Layout::find(&column, None, 2);
    layout.write_head(0, out);
    layout.write_blocks(out);
}

/// Where a dictionary and its positions lie.
pub(super) struct Dictionary<'a> {
    count: usize,
    len: usize,
    ends: [u8; 2],
    section: &'a [u8],
    positions: Cursor<'a>,
}

impl<'a> Dictionary<'a> {
    pub fn read(c: &mut Cursor<'a>, count: usize) -> Result<Dictionary<'a>> {
        let len = usize::from(c.byte()?);
        let ends = [c.byte()?, c.byte()?];
        if len == 0 || len > DICTIONARY_MAX || ends.iter().any(|&e| usize::from(e) >= len) {
            return Err(c.wrong("no such dictionary"));
        }
        let n = c.count()?;
        let section = c.take(n)?;
        Ok(Dictionary { count, len, ends, section, positions: *c })
    }

    /// How many values it has.
    pub fn size(&self) -> usize {
        self.len
    }

    fn values(&self, kind: ValueKind) -> Result<[u64; DICTIONARY_MAX]> {
        let mut values = Vec::new();
        Section::parse_inner(self.section, kind, self.len)?.decode(0, self.len, identity, &mut values)?;
        let mut all = [0; DICTIONARY_MAX];
        all.iter_mut().zip(values).for_each(|(a, v)| *a = v);
        Ok(all)
    }

    /// `None` where NaNs must be counted.
    pub fn statistics(&self, kind: ValueKind) -> Result<Option<Statistics>> {
        let all = self.values(kind)?;
        let Some(mut s) = Statistics::of(kind, all.get(..self.len).unwrap_or(&[])) else { return Ok(None) };
        if s.stale + s.nan > 0 {
            return Ok(None);
        }
        let [first, last] = self.ends.map(|i| kind.widen(all[usize::from(i) % DICTIONARY_MAX]));
        (s.first, s.last, s.resets) = (first, last, None);
        Ok(Some(s))
    }

    /// Appends the values at `from..to`.
    pub fn decode<T: Copy>(
        &self,
        kind: ValueKind,
        from: usize,
        to: usize,
        convert: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let values = self.values(kind)?.map(convert);
        dispatch(LookingUp { dictionary: self, values: &values, from, to, out })
    }
}

struct LookingUp<'s, 'a, 'o, T> {
    dictionary: &'s Dictionary<'a>,
    values: &'s [T; DICTIONARY_MAX],
    from: usize,
    to: usize,
    out: &'o mut Vec<T>,
}

impl<T: Copy> Kernel for LookingUp<'_, '_, '_, T> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Result<()> {
        let LookingUp { dictionary, values, from, to, out } = self;
        out.reserve(to - from);
        let mut cursor = dictionary.positions;
        let control = cursor.byte()?;
        if control > integers::CONTROL {
            return Err(cursor.wrong("no such order or form of integers"));
        }
        let head = Head::read(&mut cursor, control, dictionary.count)?;
        let mut blocks = head.blocks(i64::from(dictionary.ends[0]));
        let mut block = Aligned::zero();
        let mut done = 0;
        while done < to {
            let n = blocks.next(simd, &mut cursor, &mut block.0)?;
            let (a, b) = (from.clamp(done, done + n) - done, to.min(done + n) - done);
            let piece = block.0.get(a..b).unwrap_or(&[]);
            out.extend(piece.iter().map(|&i| values[i as usize % DICTIONARY_MAX]));
            done += n;
        }
        Ok(())
    }
}
