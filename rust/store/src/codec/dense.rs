//! The dense form of a value column: the same readings of a double as `values` knows, and their integers coded
//! by their surprise (`entropy`) instead of packed. For blocks that are seldom read.

use metricsdb_model::{Result, ValueKind};

use super::bounds::{Bounds, Told};
use super::choose;
use super::cursor::{Cursor, put_signed};
use super::decimal::{self, Mantissas, Reading};
use super::entropy;
use super::exceptions::{self, Exceptions};
use super::together;
use super::values::{
    BITS, Codec, DENSE, EXCEPTIONS, NEAR, PRODUCT, QUOTIENT, SINGLE, TOGETHER, head, ordered,
};

/// Mantissas of more bytes a value than this may be larger than the doubles' own bits: both are tried.
const LONG_BYTES: usize = 4;

/// What the byte behind the head says of the summary that follows.
const RISES: u8 = 1;
const BARE: u8 = 2;

/// Appends the smallest section there is for at least one value: the dense form, or what `choose` makes of
/// it. Slow: some 50 to 100 ns a value.
pub fn encode(kind: ValueKind, bits: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    choose::encode(kind, bits, None, out);
    // Constants and short runs are as small as can be.
    let packed = out.len() - start;
    if packed <= 16 || bits.len() < 16 {
        return;
    }
    let mut best = Vec::with_capacity(packed);
    if kind.is_integer() {
        let column: Vec<i64> = bits.iter().map(|&b| kind.ordered(b)).collect();
        Dense::plain(QUOTIENT, 0, &column, &[]).write(kind, bits, &mut best);
    } else {
        match choose::mantissas(bits) {
            Some(found) => Dense::of(&found).write(kind, bits, &mut best),
            None => best = doubles(bits),
        }
        if best.len() > LONG_BYTES * bits.len() {
            let other = doubles(bits);
            if other.len() < best.len() {
                best = other;
            }
        }
    }
    if best.len() < packed {
        out.truncate(start);
        out.extend_from_slice(&best);
    }
}

/// The bits of the doubles in their order.
fn doubles(bits: &[u64]) -> Vec<u8> {
    let column: Vec<i64> = bits.iter().map(|&b| ordered(b)).collect();
    let mut out = Vec::new();
    Dense::plain(BITS, 0, &column, &[]).write(ValueKind::Float, bits, &mut out);
    out
}

/// A column that is to be written.
struct Dense<'a> {
    codec: Codec,
    scale: u8,
    column: &'a [i64],
    away: &'a [i64],
    exceptions: &'a [u32],
}

impl<'a> Dense<'a> {
    fn plain(codec: Codec, scale: u8, column: &'a [i64], exceptions: &'a [u32]) -> Dense<'a> {
        Dense { codec, scale, column, away: &[], exceptions }
    }

    fn of(found: &'a Mantissas) -> Dense<'a> {
        let codec = match found.reading {
            Reading::Quotient => QUOTIENT,
            Reading::Product => PRODUCT,
            Reading::Near => NEAR,
            Reading::Single => SINGLE,
        };
        Dense { away: &found.away, ..Dense::plain(codec, found.scale, &found.column, &found.exceptions) }
    }

    fn write(&self, kind: ValueKind, bits: &[u64], out: &mut Vec<u8>) {
        self.write_head(DENSE, kind, bits, out);
        if let Some(&away) = self.away.first() {
            put_signed(out, away);
            entropy::encode(self.away, out);
        }
        entropy::encode(self.column, out);
    }

    fn write_head(&self, prefix: u8, kind: ValueKind, bits: &[u64], out: &mut Vec<u8>) {
        let Some((bounds, rises)) = Bounds::of(self.column) else { return };
        // Units beside a mantissa are in no summary, nor is a NaN among ordered bits.
        let nan = |b: u64| !kind.is_integer() && f64::from_bits(b).is_nan();
        let told = self.codec != NEAR && !(self.codec == BITS && bits.iter().any(|&b| nan(b)));
        let only_nans = self.exceptions.iter().all(|&i| bits.get(i as usize).is_some_and(|&b| nan(b)));
        let (summary, flag) = match told {
            true if rises && only_nans => (Told::Rises, RISES),
            true if !bounds.are_long() => (Told::All, 0),
            _ => (Told::Bare, BARE),
        };
        let some = if self.exceptions.is_empty() { 0 } else { EXCEPTIONS };
        out.extend_from_slice(&[prefix, head(self.codec, self.scale) | some]);
        out.push(flag);
        bounds.put(summary, out);
        if !self.exceptions.is_empty() {
            exceptions::write(self.exceptions, bits, out);
        }
    }
}

/// The integers that doubles or integers are, all of them; `None` where one is none or is too large.
pub fn whole(kind: ValueKind, bits: &[u64]) -> Option<Vec<i64>> {
    if kind.is_integer() {
        return Some(bits.iter().map(|&b| kind.ordered(b)).collect());
    }
    bits.iter().map(|&b| decimal::exact(f64::from_bits(b), 0)).collect()
}

/// Appends the section of a member of columns that were coded together: `column` is what `whole` made of it.
pub fn member(kind: ValueKind, bits: &[u64], column: &[i64], member: u8, out: &mut Vec<u8>) {
    Dense::plain(QUOTIENT, 0, column, &[]).write_head(TOGETHER, kind, bits, out);
    out.push(member);
}

/// A dense section that was parsed as far as its integers.
#[derive(Clone)]
pub struct Parsed<'a> {
    pub codec: Codec,
    pub scale: u8,
    pub bounds: Bounds,
    pub told: Told,
    pub exceptions: Exceptions<'a>,
    count: usize,
    integers: Integers<'a>,
}

/// Where the integers are.
#[derive(Clone, Copy)]
enum Integers<'a> {
    Own(Cursor<'a>),
    /// A member of columns that were coded together.
    Member(&'a [u8], usize),
}

impl<'a> Parsed<'a> {
    /// Takes what follows the prefix; `columns` where the integers are in there. Errors: `Corruption`.
    pub fn read(
        c: &mut Cursor<'a>,
        kind: ValueKind,
        count: usize,
        columns: Option<&'a [u8]>,
    ) -> Result<Parsed<'a>> {
        let byte = c.byte()?;
        let (codec, scale) = (byte & 7, byte >> 3 & 15);
        let scaled = !kind.is_integer() && codec != BITS;
        if codec < QUOTIENT
            || scale > if scaled { decimal::SCALE_MAX } else { 0 }
            || (kind.is_integer() && codec != QUOTIENT)
        {
            return Err(c.wrong("no such dense column"));
        }
        let flags = c.byte()?;
        let told = match flags {
            0 => Told::All,
            RISES => Told::Rises,
            BARE => Told::Bare,
            _ => return Err(c.wrong("no such summary")),
        };
        let bounds = Bounds::read(c, told)?;
        let exceptions = match byte & EXCEPTIONS {
            0 => Exceptions::none(),
            _ => Exceptions::read(c, count)?,
        };
        let integers = match columns {
            None => Integers::Own(*c),
            Some(columns) => {
                let member = usize::from(c.byte()?);
                let block = together::Block::parse(columns)?;
                if codec != QUOTIENT || member >= block.members() || block.count() != count {
                    return Err(c.wrong("no such member of columns together"));
                }
                Integers::Member(columns, member)
            }
        };
        Ok(Parsed { codec, scale, bounds, told, exceptions, count, integers })
    }

    pub fn name(&self) -> &'static str {
        match self.integers {
            Integers::Own(_) => "dense",
            Integers::Member(..) => "together",
        }
    }

    /// For people: "integer", "decimal, scale 2, 1 exception".
    pub fn detail(&self, kind: ValueKind) -> String {
        let reading = match self.codec {
            PRODUCT => "product",
            NEAR => "near",
            SINGLE => "single",
            BITS => "bits",
            _ if self.scale == 0 || kind.is_integer() => "integer",
            _ => "decimal",
        };
        let scale = if self.scale > 0 { format!(", scale {}", self.scale) } else { String::new() };
        let exceptions = match self.exceptions.number() {
            0 => String::new(),
            n => format!(", {n} exceptions"),
        };
        format!("{reading}{scale}{exceptions}")
    }

    /// Appends the values at positions `from..to`, passed through `convert` as bits.
    pub fn decode<T: Copy>(
        &self,
        kind: ValueKind,
        from: usize,
        to: usize,
        convert: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let (mut integers, mut away) = (Vec::new(), Vec::new());
        match self.integers {
            Integers::Member(columns, member) => {
                together::decode(columns, member, from, to, &mut integers)?;
            }
            Integers::Own(mut cursor) => {
                if self.codec == NEAR {
                    let first = cursor.signed()?;
                    entropy::decode(&mut cursor, first, self.count, from, to, &mut away)?;
                }
                entropy::decode(&mut cursor, self.bounds.first, self.count, from, to, &mut integers)?;
            }
        }
        let start = out.len();
        if self.codec == NEAR {
            out.extend(integers.iter().zip(&away).map(|(&v, &a)| convert(self.to_bits(kind, v, a))));
        } else {
            out.extend(integers.iter().map(|&v| convert(self.to_bits(kind, v, 0))));
        }
        let made = out.get_mut(start..).unwrap_or(&mut []);
        self.exceptions.each(|i, bits| {
            if let Some(slot) = i.checked_sub(from).and_then(|i| made.get_mut(i)) {
                *slot = convert(bits);
            }
        })
    }

    /// The bits of an integer's value.
    #[inline(always)]
    pub fn to_bits(&self, kind: ValueKind, v: u64, away: u64) -> u64 {
        let m = v as i64;
        match self.codec {
            _ if kind.is_integer() => kind.unordered(m),
            PRODUCT => decimal::number(m, Reading::Product, self.scale).to_bits(),
            SINGLE => decimal::number(m, Reading::Single, self.scale).to_bits(),
            BITS => ordered(v) as u64,
            NEAR => decimal::number(m, Reading::Near, self.scale).to_bits().wrapping_add(away),
            _ => decimal::number(m, Reading::Quotient, self.scale).to_bits(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::statistics::Statistics;
    use crate::codec::testing::{kind, values};
    use crate::codec::values::Section;

    fn sealed(kind: ValueKind, bits: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(kind, bits, &mut out);
        out
    }

    fn same(a: f64, b: f64) -> bool {
        a == b || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn what_is_noise_of_few_bits_becomes_smaller() {
        let walk: Vec<u64> = (0..4096u64)
            .scan(1000i64, |m, i| {
                let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
                *m += (0..6).map(|k| (z >> (7 * k) & 1) as i64).sum::<i64>() - 3;
                Some((*m as f64 / 10.0).to_bits())
            })
            .collect();
        let bytes = sealed(ValueKind::Float, &walk);
        let section = Section::parse(&bytes, ValueKind::Float, walk.len()).unwrap();
        assert_eq!(section.detail(), "dense, decimal, scale 1");
        let mut packed = Vec::new();
        choose::encode(ValueKind::Float, &walk, None, &mut packed);
        assert!(bytes.len() * 10 < packed.len() * 9, "{} {}", bytes.len(), packed.len());
    }

    proptest! {
        #[test]
        fn every_stretch_comes_back_bit_for_bit(
            (bits, kind) in ((1usize..1500).prop_flat_map(values), kind()), a in 0usize..1500, b in 0usize..1500,
        ) {
            let bytes = sealed(kind, &bits);
            let section = Section::parse(&bytes, kind, bits.len()).unwrap();
            for (from, to) in [(0, bits.len()), (a.min(bits.len()), b.min(bits.len()))] {
                let mut out = vec![7];
                section.decode(from, to, |b| b, &mut out).unwrap();
                prop_assert_eq!(&out[1..], bits.get(from..to).unwrap_or(&[]));
            }
            let (found, wanted) = (section.statistics().unwrap(), Statistics::of(kind, &bits).unwrap());
            prop_assert!(same(found.min, wanted.min) && same(found.max, wanted.max), "{:?} {:?}", found, wanted);
            prop_assert_eq!((found.first.to_bits(), found.last.to_bits()), (wanted.first.to_bits(), wanted.last.to_bits()));
            prop_assert_eq!((found.stale, found.nan), (wanted.stale, wanted.nan));
            prop_assert!(found.resets.is_none_or(|r| Some(r) == wanted.resets));
        }

        #[test]
        fn broken_bytes_never_panic(
            (bits, kind) in ((16usize..200).prop_flat_map(values), kind()), at in 0usize..4000, flip in 1u8..=255, cut in 0usize..4000,
        ) {
            let mut bytes = sealed(kind, &bits);
            let n = bytes.len();
            bytes[at % n] ^= flip;
            for bytes in [&bytes[..], &bytes[..cut % n]] {
                let Ok(section) = Section::parse(bytes, kind, bits.len()) else { continue };
                let mut out = Vec::new();
                if section.decode(0, bits.len(), |b| b, &mut out).is_ok() {
                    prop_assert_eq!(out.len(), bits.len());
                }
                let _ = section.statistics();
            }
        }
    }
}
