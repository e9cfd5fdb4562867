//! The value column: its codec, what is needed for the header's statistics, and the packed integers.

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{Result, ValueKind};

use super::bits::{BLOCK, Kernel, dispatch, width};
use super::cursor::{Cursor, put_signed, put_varint};
use super::decimal::{self, Mantissas, Reading};
use super::integers::{self, Blocks};
use super::statistics::{Statistics, widen};

/// Codec bytes.
const CONSTANT: u8 = 0;
const QUOTIENT: u8 = 1;
const PRODUCT: u8 = 2;
const NEAR: u8 = 3;
const BITS: u8 = 4;

/// What stands in a section: statistics as doubles instead of mantissas, resets, exceptions.
const WIDE: u8 = 1;
const RESETS: u8 = 2;
const EXCEPTIONS: u8 = 4;

/// Mantissas whose range is below this have statistics as mantissas: no sum of a chunk overflows.
const RANGE_MAX: u64 = 1 << 46;

/// The same 64 bits over and over.
pub fn encode_constant(bits: u64, out: &mut Vec<u8>) {
    // Doubles have their zeros at the end, integers at the start.
    let (low, high) = (width(bits).div_ceil(8), 8 - bits.trailing_zeros().min(64) / 8);
    out.push(CONSTANT);
    if low <= high {
        out.push(low as u8);
        out.extend_from_slice(&bits.to_le_bytes()[..low as usize]);
    } else {
        out.push(high as u8 | 16);
        out.extend_from_slice(&bits.to_be_bytes()[..high as usize]);
    }
}

/// Exact integers.
pub fn encode_integers(bits: &[u64], out: &mut Vec<u8>) {
    let column: Vec<i64> = bits.iter().map(|&b| b as i64).collect();
    out.push(QUOTIENT);
    out.push(0);
    encode_section(ValueKind::Int, &column, &[], bits, true, out);
    integers::encode(&column, out);
}

/// Doubles as mantissas.
pub fn encode_decimals(found: &Mantissas, bits: &[u64], out: &mut Vec<u8>) {
    out.push(match found.reading {
        Reading::Quotient => QUOTIENT,
        Reading::Product => PRODUCT,
        Reading::Near => NEAR,
    });
    out.push(found.scale);
    let narrow = found.reading != Reading::Near;
    encode_section(ValueKind::Float, &found.column, &found.exceptions, bits, narrow, out);
    if let Some(&first) = found.away.first() {
        put_signed(out, first);
        integers::encode(&found.away, out);
    }
    integers::encode(&found.column, out);
}

/// Doubles as integers whose order is the order of the doubles: for those that are no decimals.
pub fn encode_bits(bits: &[u64], out: &mut Vec<u8>) {
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
    out.push(BITS);
    encode_section(ValueKind::Float, &column, &exceptions, bits, false, out);
    integers::encode(&column, out);
}

/// Neighbouring doubles are neighbouring integers; its own inverse.
#[inline(always)]
fn ordered(bits: u64) -> i64 {
    (bits ^ ((bits as i64 >> 63) as u64 >> 1)) as i64
}

/// First mantissa, statistics, exceptions. Where exceptions are NaNs, whose mantissas repeat the one
/// before them, the column's own statistics are those of the values.
fn encode_section(
    kind: ValueKind,
    column: &[i64],
    exceptions: &[u32],
    bits: &[u64],
    narrow: bool,
    out: &mut Vec<u8>,
) {
    let Some((&first, &last)) = column.first().zip(column.last()) else { return };
    let narrow = narrow && exceptions.iter().all(|&i| f64::from_bits(bits[i as usize]).is_nan());
    let own = dispatch(OwnStatistics { column });
    let range = own.high.wrapping_sub(own.low) as u64;
    let some = if exceptions.is_empty() { 0 } else { EXCEPTIONS };
    if narrow && range < RANGE_MAX {
        out.push(some | if own.resets > 0 { RESETS } else { 0 });
        put_signed(out, first);
        put_signed(out, last.wrapping_sub(first));
        put_varint(out, first.wrapping_sub(own.low) as u64);
        put_varint(out, range);
        let above_low = |m: i64| m.wrapping_sub(own.low) as u64;
        let excepted: u64 = exceptions.iter().map(|&i| above_low(column[i as usize])).sum();
        put_varint(out, own.above_low - excepted);
        if own.resets > 0 {
            put_varint(out, u64::from(own.resets));
        }
    } else if let Some(s) = Statistics::of(kind, bits) {
        out.push(WIDE | some | if s.resets > 0 { RESETS } else { 0 });
        put_signed(out, first);
        for v in [s.first, s.last, s.min, s.max, s.sum] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        put_varint(out, u64::from(s.stale));
        put_varint(out, u64::from(s.nan));
        if s.resets > 0 {
            put_varint(out, u64::from(s.resets));
        }
    }
    if !exceptions.is_empty() {
        encode_exceptions(exceptions, bits, out);
    }
}

/// What a column of mantissas says of itself; the sum may wrap if the range is `RANGE_MAX` or more.
struct Own {
    low: i64,
    high: i64,
    above_low: u64,
    resets: u32,
}

struct OwnStatistics<'a> {
    column: &'a [i64],
}

impl Kernel for OwnStatistics<'_> {
    type Output = Own;

    #[inline(always)]
    fn run(self) -> Own {
        let low = self.column.iter().copied().fold(i64::MAX, i64::min);
        let high = self.column.iter().copied().fold(i64::MIN, i64::max);
        let above_low = self.column.iter().fold(0u64, |sum, m| sum.wrapping_add(m.wrapping_sub(low) as u64));
        let resets = self.column.windows(2).fold(0, |n, w| n + u32::from(w[1] < w[0]));
        Own { low, high, above_low, resets }
    }
}

/// Positions of staleness markers, then positions and bits of all others.
fn encode_exceptions(exceptions: &[u32], bits: &[u64], out: &mut Vec<u8>) {
    for stale in [true, false] {
        let these = || exceptions.iter().filter(|&&i| (bits[i as usize] == STALE_NAN_BITS) == stale);
        put_varint(out, these().count() as u64);
        let mut before = 0;
        for &i in these() {
            put_varint(out, u64::from(i - before));
            before = i;
            if !stale {
                out.extend_from_slice(&bits[i as usize].to_le_bytes());
            }
        }
    }
}

/// A value column that was parsed as far as its packed integers.
pub struct Section<'a> {
    codec: u8,
    kind: ValueKind,
    scale: u8,
    count: usize,
    /// The first mantissa; all bits of a constant.
    first: i64,
    summary: Summary,
    resets: u32,
    exceptions: Option<Exceptions<'a>>,
    packed: Cursor<'a>,
}

/// Statistics as they are written.
enum Summary {
    Constant,
    Narrow { last: i64, low: i64, high: i64, above_low: u64 },
    Wide(Statistics),
}

/// The two lists of exceptions.
#[derive(Clone, Copy)]
struct Exceptions<'a> {
    stale: usize,
    other: usize,
    stale_list: Cursor<'a>,
    other_list: Cursor<'a>,
}

impl<'a> Section<'a> {
    /// Errors: `Corruption`. Reads nothing behind the statistics and exceptions.
    pub fn parse(bytes: &'a [u8], kind: ValueKind, count: usize) -> Result<Section<'a>> {
        let mut c = Cursor::new(bytes);
        let codec = c.byte()?;
        let mut section = Section {
            codec,
            kind,
            scale: 0,
            count,
            first: 0,
            summary: Summary::Constant,
            resets: 0,
            exceptions: None,
            packed: c,
        };
        match codec {
            CONSTANT => {
                let tag = c.byte()?;
                let n = usize::from(tag & 15);
                if n > 8 || tag > 31 {
                    return Err(c.wrong("a constant of more than 8 bytes"));
                }
                let word = c.word(n)?;
                let high = if n == 0 { 0 } else { word.swap_bytes() };
                section.first = if tag & 16 != 0 { high } else { word } as i64;
                return Ok(section);
            }
            QUOTIENT | PRODUCT | NEAR => section.scale = c.byte()?,
            BITS => {}
            _ => return Err(c.wrong("no such codec of values")),
        }
        let float = kind == ValueKind::Float;
        if section.scale > decimal::SCALE_MAX || (!float && (codec != QUOTIENT || section.scale > 0)) {
            return Err(c.wrong("no such scale"));
        }
        section.parse_summary(&mut c)?;
        section.packed = c;
        Ok(section)
    }

    fn parse_summary(&mut self, c: &mut Cursor<'a>) -> Result<()> {
        let flags = c.byte()?;
        self.first = c.signed()?;
        if flags & WIDE != 0 {
            let mut all = [0.0; 5];
            for v in &mut all {
                *v = f64::from_bits(c.word(8)?);
            }
            let [first, last, min, max, sum] = all;
            let (stale, nan) = (small(c.varint()?), small(c.varint()?));
            self.summary = Summary::Wide(Statistics { first, last, min, max, sum, resets: 0, stale, nan });
        } else {
            let last = self.first.wrapping_add(c.signed()?);
            let low = self.first.wrapping_sub(c.varint()? as i64);
            let high = low.wrapping_add(c.varint()? as i64);
            self.summary = Summary::Narrow { last, low, high, above_low: c.varint()? };
        }
        if flags & RESETS != 0 {
            self.resets = small(c.varint()?);
        }
        if flags & EXCEPTIONS != 0 {
            let stale = c.count()?;
            let stale_list = *c;
            for _ in 0..stale {
                c.varint()?;
            }
            let other = c.count()?;
            let other_list = *c;
            for _ in 0..other {
                c.varint()?;
                c.word(8)?;
            }
            if stale + other > self.count {
                return Err(c.wrong("more exceptions than samples"));
            }
            self.exceptions = Some(Exceptions { stale, other, stale_list, other_list });
        }
        Ok(())
    }

    /// The bits of all values, where they are the same.
    pub fn constant(&self) -> Option<u64> {
        (self.codec == CONSTANT).then_some(self.first as u64)
    }

    pub fn name(&self) -> &'static str {
        match (self.codec, self.kind, self.scale) {
            (CONSTANT, ..) => "constant",
            (QUOTIENT, ValueKind::Int, _) | (QUOTIENT, _, 0) => "integer",
            (QUOTIENT, ..) => "decimal",
            (PRODUCT, ..) => "product",
            (NEAR, ..) => "near",
            _ => "bits",
        }
    }

    /// What the header knows; no column is decoded.
    pub fn statistics(&self) -> Result<Statistics> {
        match self.summary {
            Summary::Constant => Ok(self.constant_statistics()),
            Summary::Wide(s) => Ok(Statistics { resets: self.resets, ..s }),
            Summary::Narrow { last, low, high, above_low } => {
                self.narrow_statistics(last, low, high, above_low)
            }
        }
    }

    fn narrow_statistics(&self, last: i64, low: i64, high: i64, above_low: u64) -> Result<Statistics> {
        let (mut stale, mut nan) = (0u32, 0u32);
        let (mut first, mut last) = (self.number(self.first), self.number(last));
        self.each_exception(|i, bits| {
            stale += u32::from(bits == STALE_NAN_BITS);
            nan += u32::from(bits != STALE_NAN_BITS);
            if i == 0 {
                first = f64::from_bits(bits);
            }
            if i + 1 == self.count {
                last = f64::from_bits(bits);
            }
        })?;
        let numbers = self.count as i128 - i128::from(stale) - i128::from(nan);
        let sum = (i128::from(low) * numbers + i128::from(above_low)) as f64;
        let sum = match self.codec {
            PRODUCT => sum * decimal::product(1, self.scale),
            _ => sum / decimal::power(self.scale),
        };
        let (min, max) = (self.number(low), self.number(high));
        Ok(Statistics { first, last, min, max, sum, resets: self.resets, stale, nan })
    }

    /// The value of a mantissa.
    fn number(&self, m: i64) -> f64 {
        match self.codec {
            PRODUCT => decimal::product(m, self.scale),
            _ => decimal::value(m, self.scale),
        }
    }

    /// Calls `f` with position and bits of each exception.
    fn each_exception(&self, mut f: impl FnMut(usize, u64)) -> Result<()> {
        let Some(mut e) = self.exceptions else { return Ok(()) };
        let mut at = 0u64;
        for _ in 0..e.stale {
            at = at.wrapping_add(e.stale_list.varint()?);
            f(usize::try_from(at).unwrap_or(usize::MAX), STALE_NAN_BITS);
        }
        at = 0;
        for _ in 0..e.other {
            at = at.wrapping_add(e.other_list.varint()?);
            let bits = e.other_list.word(8)?;
            f(usize::try_from(at).unwrap_or(usize::MAX), bits);
        }
        Ok(())
    }

    /// Appends the values at positions `from..to`, `to` at most the count, each passed through `convert`
    /// as bits. On an error `out` may hold a part of them.
    pub fn decode<T: Copy>(
        &self,
        from: usize,
        to: usize,
        convert: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let to = to.min(self.count);
        if from >= to {
            return Ok(());
        }
        if self.codec == CONSTANT {
            out.resize(out.len() + (to - from), convert(self.first as u64));
            return Ok(());
        }
        let start = out.len();
        dispatch(Decode { section: self, from, to, convert, out })?;
        let made = out.get_mut(start..).unwrap_or(&mut []);
        self.each_exception(|i, bits| {
            if let Some(slot) = i.checked_sub(from).and_then(|i| made.get_mut(i)) {
                *slot = convert(bits);
            }
        })
    }

    /// Mantissas become bits, in place.
    #[inline(always)]
    fn to_bits(&self, block: &mut [u64; BLOCK], away: &[u64]) {
        let power = decimal::power(self.scale);
        match self.codec {
            _ if self.kind == ValueKind::Int => {}
            QUOTIENT if self.scale == 0 => block.iter_mut().for_each(|v| *v = (*v as i64 as f64).to_bits()),
            QUOTIENT => block.iter_mut().for_each(|v| *v = (*v as i64 as f64 / power).to_bits()),
            PRODUCT => {
                let tenth = decimal::product(1, self.scale);
                block.iter_mut().for_each(|v| *v = (*v as i64 as f64 * tenth).to_bits());
            }
            NEAR => {
                for (v, away) in block.iter_mut().zip(away) {
                    *v = (*v as i64 as f64 / power).to_bits().wrapping_add(*away);
                }
            }
            _ => block.iter_mut().for_each(|v| *v = ordered(*v) as u64),
        }
    }

    fn constant_statistics(&self) -> Statistics {
        let bits = self.first as u64;
        let v = widen(self.kind, bits);
        let n = self.count as u32;
        let stale = if v.is_nan() && bits == STALE_NAN_BITS { n } else { 0 };
        let nan = if v.is_nan() { n - stale } else { 0 };
        let sum = if v.is_nan() { 0.0 } else { v * f64::from(n) };
        Statistics { first: v, last: v, min: v, max: v, sum, resets: 0, stale, nan }
    }
}

/// The loop over packed blocks, without exceptions.
struct Decode<'s, 'a, 'o, T, F> {
    section: &'s Section<'a>,
    from: usize,
    to: usize,
    convert: F,
    out: &'o mut Vec<T>,
}

impl<T: Copy, F: Fn(u64) -> T + Copy> Kernel for Decode<'_, '_, '_, T, F> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(self) -> Result<()> {
        let Decode { section, from, to, convert, out } = self;
        out.reserve(to - from);
        let mut cursor = section.packed;
        let mut away = Vec::new();
        if section.codec == NEAR {
            let first = cursor.signed()?;
            integers::decode(&mut cursor, first, section.count, &mut away)?;
        }
        let mut blocks = Blocks::new(cursor, section.first, section.count)?;
        let mut block = [0; BLOCK];
        let mut done = 0;
        while done < to {
            let n = blocks.next(&mut block)?;
            section.to_bits(&mut block, away.get(done..).unwrap_or(&[]));
            let (a, b) = (from.clamp(done, done + n) - done, to.min(done + n) - done);
            if let Some(piece) = block.get(a..b) {
                out.extend(piece.iter().map(|&v| convert(v)));
            }
            done += n;
        }
        Ok(())
    }
}

fn small(v: u64) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}
