//! Values that a column's reading doesn't hold: positions, and the bits of those that are no staleness
//! markers.

use metricsdb_model::Result;
use metricsdb_model::sample::STALE_NAN_BITS;

use super::cursor::{Cursor, put_varint};

/// Positions of staleness markers, then positions and bits of all others.
pub fn write(exceptions: &[u32], bits: &[u64], out: &mut Vec<u8>) {
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

/// Both lists, where they lie.
#[derive(Clone, Copy)]
pub struct Exceptions<'a> {
    number: usize,
    lists: Cursor<'a>,
}

impl<'a> Exceptions<'a> {
    /// None at all.
    pub fn none() -> Exceptions<'a> {
        Exceptions { number: 0, lists: Cursor::new(&[]) }
    }

    /// Moves behind both lists of a column of `count` values. Errors: `Corruption`.
    pub fn read(c: &mut Cursor<'a>, count: usize) -> Result<Exceptions<'a>> {
        let lists = *c;
        let stale = c.count()?;
        for _ in 0..stale {
            c.varint()?;
        }
        let other = c.count()?;
        for _ in 0..other {
            c.varint()?;
            c.word(8)?;
        }
        if stale + other > count {
            return Err(c.wrong("more exceptions than samples"));
        }
        Ok(Exceptions { number: stale + other, lists })
    }

    /// How many there are.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Calls `f` with position and bits of each.
    #[inline]
    pub fn each(&self, mut f: impl FnMut(usize, u64)) -> Result<()> {
        if self.number == 0 {
            return Ok(());
        }
        let mut c = self.lists;
        for stale in [true, false] {
            let mut at = 0u64;
            for _ in 0..c.count()? {
                at = at.wrapping_add(c.varint()?);
                let bits = if stale { STALE_NAN_BITS } else { c.word(8)? };
                f(usize::try_from(at).unwrap_or(usize::MAX), bits);
            }
        }
        Ok(())
    }
}
