//! The value column: its codec, what is needed for the header's statistics, and the packed integers.
//! `write` and `repeats` write it, `choose` picks among them.

use std::convert::identity;
use std::fmt::Write as _;

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{Result, ValueKind};

use super::bits::BLOCK;
use super::bounds::{Bounds, Told};
use super::choose::Plan;
use super::cursor::Cursor;
use super::decimal::{self, Reading, SHORT_BIAS};
use super::dense;
use super::exceptions::Exceptions;
use super::integers::{Blocks, CONTROL, Head};
use super::repeats::{self, Dictionary, Runs};
use super::simd::{Aligned, Kernel, Simd, dispatch, repeat};
use super::statistics::{self, Statistics};

/// Integers below are added up in 64 bits, however many a chunk holds, and each is exact in a double.
pub(super) const INTEGER_MAX: u64 = 1 << 45;

/// The low three bits of the first byte.
pub(super) type Codec = u8;
pub(super) const CONSTANT: Codec = 0;
pub(super) const RUNS: Codec = 1;
pub(super) const DICTIONARY: Codec = 2;
pub(super) const QUOTIENT: Codec = 3;
pub(super) const PRODUCT: Codec = 4;
pub(super) const NEAR: Codec = 5;
pub(super) const SINGLE: Codec = 6;
pub(super) const BITS: Codec = 7;

/// A first byte that is followed by a dense column: a dictionary has no scale.
pub(super) const DENSE: u8 = DICTIONARY | 1 << 3;
/// A first byte that is followed by a member of columns that were coded together.
pub(super) const TOGETHER: u8 = DICTIONARY | 2 << 3;

/// The scale takes the next four bits; 15 is none.
pub(super) const NO_SCALE: u8 = 15;

/// The highest bit of the first byte.
pub(super) const EXCEPTIONS: u8 = 128;

/// In the control byte of the integers: no number is smaller than the one before it.
pub(super) const MONOTONE: u8 = 64;

/// In the control byte of the integers: last, lowest and highest would take too many bytes, and are not
/// written.
pub(super) const BARE: u8 = 128;

/// The first byte without its highest bit.
pub(super) fn head(codec: Codec, scale: u8) -> u8 {
    codec | scale << 3
}

/// Neighbouring doubles are neighbouring integers; its own inverse.
#[inline(always)]
pub(super) fn ordered(bits: u64) -> i64 {
    ValueKind::Float.ordered(bits)
}

/// A value column that was parsed as far as its packed integers.
pub struct Section<'a> {
    kind: ValueKind,
    count: usize,
    body: Body<'a>,
}

// One section is alive at a time, on the stack; a box for the largest would be what most of them pay for.
#[allow(clippy::large_enum_variant)]
enum Body<'a> {
    Constant(u64),
    Runs(Runs<'a>),
    Dictionary(Dictionary<'a>),
    Packed(Packed<'a>),
    Dense(dense::Parsed<'a>),
}

/// Integers and what they stand for.
struct Packed<'a> {
    kind: ValueKind,
    codec: Codec,
    scale: u8,
    bounds: Bounds,
    told: Told,
    /// Units in the last place that the first, the last, the lowest and the highest value are away from
    /// their mantissas; for `NEAR`.
    away: [i64; 4],
    exceptions: Exceptions<'a>,
    integers: Head<'a>,
    /// At the first block; for `NEAR` at the head of the distances before it.
    cursor: Cursor<'a>,
}

impl<'a> Section<'a> {
    /// Takes exactly the bytes of a section. Errors: `Corruption`. Reads nothing behind the statistics and
    /// exceptions.
    pub fn parse(bytes: &'a [u8], kind: ValueKind, count: usize) -> Result<Section<'a>> {
        Section::parse_beside(bytes, kind, count, &[])
    }

    /// As `parse`, for a section that may have its integers among `columns`, coded together with others'.
    pub fn parse_beside(
        bytes: &'a [u8],
        kind: ValueKind,
        count: usize,
        columns: &'a [u8],
    ) -> Result<Section<'a>> {
        let mut c = Cursor::new(bytes);
        let first = c.byte()?;
        let (codec, scale, flag) = (first & 7, first >> 3 & 15, first & EXCEPTIONS != 0);
        // Each is made where it is to be: a section is large, and copying it takes as long as reading a short one.
        match codec {
            CONSTANT => {
                let bits = repeats::read_constant(&mut c, kind, scale, flag)?;
                Ok(Section { kind, count, body: Body::Constant(bits) })
            }
            RUNS => {
                let runs = Runs::read(&mut c, kind, scale, flag, count)?;
                Ok(Section { kind, count, body: Body::Runs(runs) })
            }
            DICTIONARY if first == DENSE || first == TOGETHER => {
                let beside = if first == TOGETHER { Some(columns) } else { None };
                let dense = dense::Parsed::read(&mut c, kind, count, beside)?;
                Ok(Section { kind, count, body: Body::Dense(dense) })
            }
            DICTIONARY if first == DICTIONARY => {
                let dictionary = Dictionary::read(&mut c, count)?;
                Ok(Section { kind, count, body: Body::Dictionary(dictionary) })
            }
            DICTIONARY => Err(c.wrong("a dictionary has no scale")),
            _ => Packed::read(&mut c, kind, first, count),
        }
    }

    /// As `parse`, for the values of runs and dictionaries, which are no such themselves.
    pub(super) fn parse_inner(bytes: &'a [u8], kind: ValueKind, count: usize) -> Result<Section<'a>> {
        let codec = bytes.first().map_or(CONSTANT, |b| b & 7);
        if codec == RUNS || codec == DICTIONARY {
            return Err(Cursor::new(bytes).wrong("repeated values that repeat"));
        }
        Section::parse(bytes, kind, count)
    }

    /// The bits of all values, where they are the same.
    pub fn constant(&self) -> Option<u64> {
        if let Body::Constant(bits) = self.body { Some(bits) } else { None }
    }

    pub fn name(&self) -> &'static str {
        match &self.body {
            Body::Constant(_) => "constant",
            Body::Runs(_) => "runs",
            Body::Dictionary(_) => "dictionary",
            Body::Packed(p) => p.name(),
            Body::Dense(d) => d.name(),
        }
    }

    /// The shape of the section, for people, as "decimal, scale 2, steps, widths 3 to 7, 4 patches".
    /// Reads a byte or two of each block.
    pub fn detail(&self) -> String {
        let name = self.name();
        match &self.body {
            Body::Constant(_) => name.to_owned(),
            Body::Runs(runs) => format!("{name}, {}", runs.detail()),
            Body::Dictionary(d) => format!("{name}, {} values", d.size()),
            Body::Dense(d) => format!("{name}, {}", d.detail(self.kind)),
            Body::Packed(p) => {
                let mut text = name.to_owned();
                if p.scale > 0 {
                    _ = write!(text, ", scale {}", p.scale);
                }
                // Blocks of near mantissas alternate with others, so that their widths can't be listed.
                if p.codec != NEAR
                    && let Ok(integers) = p.integers.detail(&mut p.cursor.clone())
                {
                    _ = write!(text, ", {integers}");
                }
                match p.exceptions.number() {
                    0 => {}
                    1 => text.push_str(", 1 exception"),
                    n => _ = write!(text, ", {n} exceptions"),
                }
                text
            }
        }
    }

    /// What an encoder may decide again for the next block of the series.
    pub fn plan(&self) -> Option<Plan> {
        match &self.body {
            Body::Packed(p) => Some(Plan { codec: p.codec, scale: p.scale, shape: p.integers.shape() }),
            _ => None,
        }
    }

    /// What is known without the column; those that repeat values, or have many NaNs, are decoded for it.
    /// Errors: `Corruption`.
    pub fn statistics(&self) -> Result<Statistics> {
        let known = match &self.body {
            Body::Constant(bits) => Some(self.constant_statistics(*bits)),
            Body::Runs(runs) => runs.statistics()?,
            Body::Dictionary(d) => d.statistics(self.kind)?,
            Body::Packed(p) => p.statistics(self.count)?,
            Body::Dense(d) if d.told == Told::Bare => None,
            Body::Dense(d) => Some(self.dense_statistics(d)?),
        };
        match known {
            Some(statistics) => Ok(statistics),
            None => Ok(Statistics::of(self.kind, &self.all()?).unwrap_or(self.constant_statistics(0))),
        }
    }

    /// The sum of all numbers; 0 if there is none. Exact and rounded twice where values are decimals of one
    /// scale, else compensated. Decodes the column. Errors: `Corruption`.
    pub fn sum(&self) -> Result<f64> {
        if let Body::Packed(p) = &self.body
            && let Some(sum) = p.sum(self.count)?
        {
            return Ok(sum);
        }
        Ok(statistics::sum(self.kind, &self.all()?))
    }

    /// The exact sum of the values at positions `from..to`, where all are integers that a double holds; `None` for others,
    /// and where that takes more than the packed integers. Errors: `Corruption`.
    pub fn integer_sum(&self, from: usize, to: usize) -> Result<Option<i64>> {
        let to = to.min(self.count);
        match &self.body {
            Body::Constant(bits) => {
                let v = self.kind.widen(*bits);
                let is_small = v.fract() == 0.0 && v.abs() < INTEGER_MAX as f64;
                Ok(is_small.then(|| (v as i64).wrapping_mul(to.saturating_sub(from) as i64)))
            }
            Body::Packed(p) => p.integer_sum(from, to),
            Body::Runs(_) | Body::Dictionary(_) | Body::Dense(_) => Ok(None),
        }
    }

    fn all(&self) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        self.decode(0, self.count, identity, &mut all)?;
        Ok(all)
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
        match &self.body {
            Body::Constant(bits) => repeat(convert(*bits), to - from, out),
            Body::Runs(runs) => return runs.decode(from, to, convert, out),
            Body::Dictionary(d) => return d.decode(self.kind, from, to, convert, out),
            Body::Dense(d) => return d.decode(self.kind, from, to, convert, out),
            Body::Packed(p) => {
                let start = out.len();
                dispatch(Decode { packed: p, from, to, convert, out })?;
                let made = out.get_mut(start..).unwrap_or(&mut []);
                return p.exceptions.each(|i, bits| {
                    if let Some(slot) = i.checked_sub(from).and_then(|i| made.get_mut(i)) {
                        *slot = convert(bits);
                    }
                });
            }
        }
        Ok(())
    }

    fn dense_statistics(&self, d: &dense::Parsed<'_>) -> Result<Statistics> {
        let number = |m: i64| self.kind.widen(d.to_bits(self.kind, m as u64, 0));
        let known = Statistics {
            first: number(d.bounds.first),
            last: number(d.bounds.last),
            min: number(d.bounds.low),
            max: number(d.bounds.high),
            resets: (d.told == Told::Rises).then_some(0),
            stale: 0,
            nan: 0,
        };
        excepted(known, &d.exceptions, self.count)
    }

    fn constant_statistics(&self, bits: u64) -> Statistics {
        let v = self.kind.widen(bits);
        let n = self.count as u32;
        let stale = if v.is_nan() && bits == STALE_NAN_BITS { n } else { 0 };
        let nan = if v.is_nan() { n - stale } else { 0 };
        Statistics { first: v, last: v, min: v, max: v, resets: Some(0), stale, nan }
    }
}

/// What the mantissas say, and what the exceptions say beside them.
fn excepted(mut s: Statistics, exceptions: &Exceptions<'_>, count: usize) -> Result<Statistics> {
    exceptions.each(|i, bits| {
        let v = f64::from_bits(bits);
        s.stale += u32::from(bits == STALE_NAN_BITS);
        s.nan += u32::from(v.is_nan() && bits != STALE_NAN_BITS);
        (s.min, s.max) = (s.min.min(v), s.max.max(v));
        if i == 0 {
            s.first = v;
        }
        if Some(i) == count.checked_sub(1) {
            s.last = v;
        }
    })?;
    Ok(s)
}

impl<'a> Packed<'a> {
    /// The whole section.
    #[inline(always)]
    fn read(c: &mut Cursor<'a>, kind: ValueKind, head: u8, count: usize) -> Result<Section<'a>> {
        let (codec, scale) = (head & 7, head >> 3 & 15);
        let float = !kind.is_integer();
        let scaled = float && codec != BITS;
        if scale > if scaled { decimal::SCALE_MAX } else { 0 } || (!float && codec != QUOTIENT) {
            return Err(c.wrong("no such scale"));
        }
        let control = c.byte()?;
        let told = match control & (MONOTONE | BARE) {
            0 => Told::All,
            BARE => Told::Bare,
            _ => Told::Rises,
        };
        let integers = Head::read(c, control & CONTROL, count)?;
        let bounds = Bounds::read(c, told)?;
        let near = codec == NEAR;
        let away = if near { [c.signed()?, c.signed()?, c.signed()?, c.signed()?] } else { [0; 4] };
        let excepted = head & EXCEPTIONS != 0;
        let exceptions = if excepted { Exceptions::read(c, count)? } else { Exceptions::none() };
        let packed = Packed { kind, codec, scale, bounds, told, away, exceptions, integers, cursor: *c };
        Ok(Section { kind, count, body: Body::Packed(packed) })
    }

    /// The integers, each with `bias` added.
    #[inline(always)]
    fn blocks(&self, bias: u64) -> Blocks<'_, 'a> {
        self.integers.blocks(self.bounds.first.wrapping_add(bias as i64))
    }

    fn name(&self) -> &'static str {
        match (self.codec, self.kind, self.scale) {
            (QUOTIENT, ValueKind::Int | ValueKind::Uint, _) | (QUOTIENT, _, 0) => "integer",
            (QUOTIENT, ..) => "decimal",
            (PRODUCT, ..) => "product",
            (NEAR, ..) => "near",
            (SINGLE, ..) => "single",
            _ => "bits",
        }
    }

    /// `None` if they weren't written, or there are NaNs among the packed integers.
    fn statistics(&self, count: usize) -> Result<Option<Statistics>> {
        if self.told == Told::Bare {
            return Ok(None);
        }
        let number = |m: i64, away: i64| match (self.codec, self.kind) {
            (_, kind) if kind.is_integer() => kind.widen(kind.unordered(m)),
            (PRODUCT, _) => decimal::number(m, Reading::Product, self.scale),
            (SINGLE, _) => decimal::number(m, Reading::Single, self.scale),
            (BITS, _) => f64::from_bits(ordered(m as u64) as u64),
            (NEAR, _) => {
                let whole = decimal::number(m, Reading::Near, self.scale);
                f64::from_bits(whole.to_bits().wrapping_add(away as u64))
            }
            _ => decimal::number(m, Reading::Quotient, self.scale),
        };
        let (min, max) = (number(self.bounds.low, self.away[2]), number(self.bounds.high, self.away[3]));
        let (first, last) = (number(self.bounds.first, self.away[0]), number(self.bounds.last, self.away[1]));
        if self.codec == BITS && (min.is_nan() || max.is_nan()) {
            return Ok(None);
        }
        let resets = (self.told == Told::Rises).then_some(0);
        let known = Statistics { first, last, min, max, resets, stale: 0, nan: 0 };
        excepted(known, &self.exceptions, count).map(Some)
    }

    /// `None` where integers don't tell the sum exactly.
    fn sum(&self, count: usize) -> Result<Option<f64>> {
        let range = self.bounds.high.wrapping_sub(self.bounds.low) as u64;
        if !self.is_decimal() || range >= 1 << 46 {
            return Ok(None);
        }
        let above = dispatch(Summing { packed: self, from: 0, to: count })?;
        let low = i128::from(self.bounds.low) - i128::from(self.kind.zero());
        let sum = (low * count as i128 + i128::from(above)) as f64;
        Ok(Some(match self.codec {
            PRODUCT => sum * decimal::product(1, self.scale),
            _ => sum / decimal::power(self.scale),
        }))
    }

    /// Whether bounds are known, and all values lie between them on one scale.
    fn is_decimal(&self) -> bool {
        let decimals = self.codec == QUOTIENT || self.codec == PRODUCT;
        decimals && self.told != Told::Bare && self.exceptions.number() == 0
    }

    fn integer_sum(&self, from: usize, to: usize) -> Result<Option<i64>> {
        let (low, high) = (self.bounds.low, self.bounds.high);
        // Those without a sign wrap to their own bits.
        let (low, high) = (low.wrapping_sub(self.kind.zero()), high.wrapping_sub(self.kind.zero()));
        let is_small = |v: i64| match self.kind {
            ValueKind::Uint => (v as u64) < INTEGER_MAX,
            ValueKind::Int | ValueKind::Float => v.unsigned_abs() < INTEGER_MAX,
        };
        if !self.is_decimal() || self.scale > 0 || !is_small(low) || !is_small(high) {
            return Ok(None);
        }
        let above = dispatch(Summing { packed: self, from, to })?;
        Ok(Some(low.wrapping_mul(to.saturating_sub(from) as i64).wrapping_add(above as i64)))
    }
}

/// The loop over packed blocks, without exceptions.
struct Decode<'s, 'a, 'o, T, F> {
    packed: &'s Packed<'a>,
    from: usize,
    to: usize,
    convert: F,
    out: &'o mut Vec<T>,
}

impl<T: Copy, F: Fn(u64) -> T + Copy> Kernel for Decode<'_, '_, '_, T, F> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Result<()> {
        let (p, convert) = (self.packed, self.convert);
        let (power, tenth) = (decimal::power(p.scale), decimal::product(1, p.scale));
        let quotient = move |v| decimal::quotient::<S>(decimal::widen_short(v), power, tenth);
        match p.codec {
            _ if p.kind == ValueKind::Int => self.each(simd, 0, convert),
            _ if p.kind == ValueKind::Uint => {
                self.each(simd, 0, move |v| convert(ValueKind::Uint.unordered(v as i64)))
            }
            NEAR => self.each_near(simd),
            QUOTIENT if p.scale == 0 => {
                self.each(simd, 0, move |v| convert(decimal::widen_integer::<S>(v as i64).to_bits()))
            }
            QUOTIENT => self.each(simd, SHORT_BIAS, move |v| convert(quotient(v).to_bits())),
            PRODUCT => {
                self.each(simd, SHORT_BIAS, move |v| convert((decimal::widen_short(v) * tenth).to_bits()))
            }
            SINGLE => self.each(simd, SHORT_BIAS, move |v| convert(decimal::single(quotient(v)).to_bits())),
            _ => self.each(simd, 0, move |v| convert(ordered(v) as u64)),
        }
    }
}

impl<T: Copy, F: Fn(u64) -> T + Copy> Decode<'_, '_, '_, T, F> {
    /// What `of` makes of each integer plus `bias`, which costs nothing: the first alone is moved.
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, bias: u64, of: impl Fn(u64) -> T + Copy) -> Result<()> {
        let Decode { packed, from, to, out, .. } = self;
        out.reserve(to - from);
        let (mut cursor, mut blocks) = (packed.cursor, packed.blocks(bias));
        let mut block = Aligned::zero();
        let mut done = 0;
        while done < to {
            let n = blocks.next_size();
            if n == BLOCK && from <= done && done + n <= to {
                blocks.next_onto(simd, &mut cursor, &mut block.0, of, out)?;
            } else {
                blocks.next(simd, &mut cursor, &mut block.0)?;
                append(&block, done, n, from, to, of, out);
            }
            done += n;
        }
        Ok(())
    }

    /// Blocks of mantissas and of distances from them alternate.
    #[inline(always)]
    fn each_near<S: Simd>(self, simd: S) -> Result<()> {
        let Decode { packed, from, to, out, convert } = self;
        let (power, tenth) = (decimal::power(packed.scale), decimal::product(1, packed.scale));
        out.reserve(to - from);
        let (mut cursor, mut blocks) = (packed.cursor, packed.blocks(SHORT_BIAS));
        let control = cursor.byte()?;
        let of_away = Head::read(&mut cursor, control, packed.integers.count())?;
        let mut of_away = of_away.blocks(packed.away[0]);
        let (mut block, mut away) = (Aligned::zero(), Aligned::zero());
        let mut done = 0;
        while done < to {
            let n = blocks.next(simd, &mut cursor, &mut block.0)?;
            of_away.next(simd, &mut cursor, &mut away.0)?;
            for (v, away) in block.0.iter_mut().zip(&away.0) {
                let whole = decimal::quotient::<S>(decimal::widen_short(*v), power, tenth);
                *v = whole.to_bits().wrapping_add(*away);
            }
            append(&block, done, n, from, to, convert, out);
            done += n;
        }
        Ok(())
    }
}

/// Appends those of `n` values from position `done` on that lie within `from..to`.
#[inline(always)]
fn append<T>(
    block: &Aligned,
    done: usize,
    n: usize,
    from: usize,
    to: usize,
    of: impl Fn(u64) -> T,
    out: &mut Vec<T>,
) {
    if n == BLOCK && from <= done && done + n <= to {
        // A length that is known when compiled.
        return out.extend(block.0.iter().map(|&v| of(v)));
    }
    let (a, b) = (from.clamp(done, done + n) - done, to.min(done + n) - done);
    let piece = block.0.get(a..b).unwrap_or(&[]);
    out.extend(piece.iter().map(|&v| of(v)));
}

/// The sum of how far integers at positions `from..to` are above the lowest; it may wrap in bytes that no writer wrote.
struct Summing<'s, 'a> {
    packed: &'s Packed<'a>,
    from: usize,
    to: usize,
}

impl Kernel for Summing<'_, '_> {
    type Output = Result<u64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Result<u64> {
        let Summing { packed, from, to } = self;
        let (mut cursor, mut blocks) = (packed.cursor, packed.blocks(0));
        let low = packed.bounds.low as u64;
        let (mut block, mut sum, mut done) = (Aligned::zero(), 0u64, 0);
        while done < to {
            let n = blocks.next(simd, &mut cursor, &mut block.0)?;
            if n == 0 {
                break;
            }
            if n == BLOCK && from <= done && done + n <= to {
                // A length that is known when compiled.
                sum = block.0.iter().fold(sum, |sum, v| sum.wrapping_add(v.wrapping_sub(low)));
            } else {
                let (a, b) = (from.clamp(done, done + n) - done, to.min(done + n) - done);
                let piece = block.0.get(a..b).unwrap_or(&[]);
                sum = piece.iter().fold(sum, |sum, v| sum.wrapping_add(v.wrapping_sub(low)));
            }
            done += n;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
