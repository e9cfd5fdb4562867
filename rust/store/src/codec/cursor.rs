//! Reading bytes from outside: every step is checked, and says where it failed.

pub use metricsdb_model::varint::put_varint;
use metricsdb_model::varint::varint;
use metricsdb_model::{Error, Result};

use super::bits::{load64, unzigzag};

/// A position in bytes that only moves forward.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[cold]
    pub fn wrong(&self, message: &str) -> Error {
        Error::corruption("chunk", self.at, message)
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some(taken) = rest.get(..n) else { return Err(self.wrong("the bytes end too early")) };
        self.at += n;
        Ok(taken)
    }

    /// Moves past the next `n` bytes; all that were left, the `n` among them.
    #[inline(always)]
    pub fn pass(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        if n > rest.len() {
            return Err(self.wrong("the bytes end too early"));
        }
        self.at += n;
        Ok(rest)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        self.at = self.bytes.len();
        rest
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8> {
        let Some(&b) = self.bytes.get(self.at) else { return Err(self.wrong("the bytes end too early")) };
        self.at += 1;
        Ok(b)
    }

    /// Little endian, `n` bytes, 8 at most.
    #[inline]
    pub fn word(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |acc, &b| acc << 8 | u64::from(b)))
    }

    /// Seven bits a byte, the lowest first; the high bit says that more follow.
    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        // Without a branch that depends on the length, which is different for each number of a head.
        let word = load64(self.bytes, self.at);
        let ends = !word & 0x8080_8080_8080_8080;
        let length = (ends.trailing_zeros() / 8 + 1) as usize;
        if ends == 0 || self.at + length > self.bytes.len() {
            return self.long_varint();
        }
        self.at += length;
        let word = word & (ends ^ (ends - 1)) & 0x7f7f_7f7f_7f7f_7f7f;
        let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
        let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
        Ok(word & 0x0fff_ffff | (word >> 32) << 28)
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u64> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some((number, length)) = varint(rest) else {
            let cut = rest.len() < 10 && rest.iter().all(|b| b & 0x80 != 0);
            return Err(self.wrong(if cut { "the bytes end too early" } else { "a number doesn't end" }));
        };
        self.at += length;
        Ok(number)
    }

    #[inline]
    pub fn signed(&mut self) -> Result<i64> {
        self.varint().map(unzigzag)
    }

    /// A number of things of which each takes at least one of the bytes left.
    pub fn count(&mut self) -> Result<usize> {
        let n = self.varint()?;
        match usize::try_from(n) {
            Ok(n) if n <= self.left() => Ok(n),
            _ => Err(self.wrong("a count is larger than what follows")),
        }
    }
}

pub fn put_signed(out: &mut Vec<u8>, v: i64) {
    put_varint(out, super::bits::zigzag(v));
}
