//! Bits in bytes, least significant first, and the kernels that pack and unpack blocks of 64 integers.
//! Reads past the end see zeros: decoders check their end once per block instead of once per read.

/// Eight bytes from `at`, little endian; zeros past the end.
#[inline(always)]
pub fn load64(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at.wrapping_add(8)) {
        Some(b) => u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        None => load_tail(bytes, at),
    }
}

#[cold]
fn load_tail(bytes: &[u8], at: usize) -> u64 {
    let tail = bytes.get(at..).unwrap_or(&[]);
    tail.iter().take(8).rev().fold(0, |acc, &b| acc << 8 | u64::from(b))
}

/// The low `width` bits set; `width` up to 64.
#[inline(always)]
pub fn mask(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1u64 << width) - 1 }
}

#[inline(always)]
pub fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

#[inline(always)]
pub fn unzigzag(z: u64) -> i64 {
    (z >> 1) as i64 ^ -((z & 1) as i64)
}

/// Bits needed to write `v`: 0 for 0, 64 at most.
#[inline(always)]
pub fn width(v: u64) -> u32 {
    64 - v.leading_zeros()
}

/// A cursor over bits. Never fails: `position` tells whether it ran past the end.
#[derive(Clone, Copy)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, position: 0 }
    }

    /// Bits consumed so far.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.position
    }

    /// At least 57 bits from here on.
    #[inline(always)]
    pub fn peek(&self) -> u64 {
        load64(self.bytes, self.position >> 3) >> (self.position & 7)
    }

    #[inline(always)]
    pub fn skip(&mut self, width: u32) {
        self.position += width as usize;
    }

    /// `width` bits, 57 at most.
    #[inline(always)]
    pub fn take(&mut self, width: u32) -> u64 {
        let v = self.peek() & mask(width);
        self.skip(width);
        v
    }

    /// `width` bits, 64 at most.
    #[inline(always)]
    pub fn take64(&mut self, width: u32) -> u64 {
        if width <= 57 {
            return self.take(width);
        }
        let low = self.take(32);
        low | self.take(width - 32) << 32
    }
}

/// Up to 121 bits that are collected before they are written at once.
#[derive(Clone, Copy, Default)]
pub struct Code {
    bits: u128,
    len: u32,
}

impl Code {
    /// `bits` must fit in `len` bits.
    #[inline(always)]
    pub fn push(&mut self, bits: u64, len: u32) {
        debug_assert!(len == 64 || bits >> len == 0);
        self.bits |= u128::from(bits) << self.len;
        self.len += len;
        debug_assert!(self.len <= 121);
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Writes at bit `position`; bits before it are kept, bits after the code are undefined. The caller
    /// has checked that the code ends within `buf`.
    #[inline(always)]
    pub fn write(&self, buf: &mut [u8], position: usize) {
        let (at, shift) = (position >> 3, position as u32 & 7);
        let total = shift + self.len;
        if total <= 64
            && let Some(b) = buf.get_mut(at..at + 8)
        {
            let kept = u64::from(b[0]) & mask(shift);
            b.copy_from_slice(&((self.bits as u64) << shift | kept).to_le_bytes());
            return;
        }
        let Some(tail) = buf.get_mut(at..) else { return };
        let kept = tail.first().map_or(0, |&b| u64::from(b) & mask(shift));
        let word = (self.bits << shift | u128::from(kept)).to_le_bytes();
        let n = (total as usize).div_ceil(8).min(tail.len());
        tail[..n].copy_from_slice(&word[..n]);
    }
}
