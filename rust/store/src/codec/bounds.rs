//! First, last, lowest and highest integer of a column: what a value column says before its integers.

use metricsdb_model::Result;

use super::bits::width;
use super::cursor::{Cursor, put_signed, put_varint};
use super::simd::{Kernel, Simd, dispatch};

/// Extremes of more bits in all tell little, and cost a byte and more in a hundred of a chunk.
const BARE_BITS: u32 = 100;

/// What there is of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// No integer is smaller than the one before it: first and last are the extremes.
    Rises,
    All,
    /// The first alone: what is read for the others means nothing.
    Bare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub first: i64,
    pub last: i64,
    pub low: i64,
    pub high: i64,
}

impl Bounds {
    /// Those of a column, and whether no integer is smaller than the one before it; `None` if it is empty.
    pub fn of(column: &[i64]) -> Option<(Bounds, bool)> {
        let (&first, &last) = column.first().zip(column.last())?;
        let (low, high, rises) = dispatch(Extremes { column });
        Some((Bounds { first, last, low, high }, rises))
    }

    /// How far the lowest is below first and last, and the highest above them.
    fn beyond(&self) -> (u64, u64) {
        let lower = self.first.min(self.last).wrapping_sub(self.low);
        (lower as u64, self.high.wrapping_sub(self.first.max(self.last)) as u64)
    }

    /// Whether the extremes take too many bits.
    pub fn are_long(&self) -> bool {
        let (lower, higher) = self.beyond();
        width(lower) + width(higher) > BARE_BITS
    }

    pub fn put(&self, told: Told, out: &mut Vec<u8>) {
        put_signed(out, self.first);
        let more = self.last.wrapping_sub(self.first);
        match told {
            Told::Rises => put_varint(out, more as u64),
            Told::All => {
                put_signed(out, more);
                let (lower, higher) = self.beyond();
                put_varint(out, lower);
                put_varint(out, higher);
            }
            Told::Bare => {}
        }
    }

    /// Errors: `Corruption`.
    #[inline(always)]
    pub fn read(c: &mut Cursor<'_>, told: Told) -> Result<Bounds> {
        let first = c.signed()?;
        let (mut last, mut low, mut high) = (first, first, first);
        match told {
            Told::Rises => {
                last = first.wrapping_add(c.varint()? as i64);
                high = last;
            }
            Told::All => {
                last = first.wrapping_add(c.signed()?);
                low = first.min(last).wrapping_sub(c.varint()? as i64);
                high = first.max(last).wrapping_add(c.varint()? as i64);
            }
            Told::Bare => {}
        }
        Ok(Bounds { first, last, low, high })
    }
}

/// Lowest, highest, and whether the column rises.
struct Extremes<'a> {
    column: &'a [i64],
}

impl Kernel for Extremes<'_> {
    type Output = (i64, i64, bool);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (i64, i64, bool) {
        let low = self.column.iter().copied().fold(i64::MAX, i64::min);
        let high = self.column.iter().copied().fold(i64::MIN, i64::max);
        let after = self.column.get(1..).unwrap_or(&[]);
        let falls = self.column.iter().zip(after).fold(0, |n, (a, b)| n | u64::from(b < a));
        (low, high, falls == 0)
    }
}
