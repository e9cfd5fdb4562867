//! Bits in bytes, least significant first. Reads past the end see zeros: decoders check their end once per
//! block instead of once per read.

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
    // The last eight bytes are there at once; what lies before `at` is shifted out.
    if let Some(last) = bytes.last_chunk() {
        let over = at.saturating_sub(bytes.len() - 8).min(8) as u32;
        return u64::from_le_bytes(*last).checked_shr(8 * over).unwrap_or(0);
    }
    let tail = bytes.get(at..).unwrap_or(&[]);
    tail.iter().rev().fold(0, |acc, &b| acc << 8 | u64::from(b))
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
    pub fn bits(&self) -> u32 {
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

/// Integers of one block.
pub const BLOCK: usize = 64;

/// Bytes that hold `count` integers of `width` bits.
#[inline(always)]
pub fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Appends the low `width` bits of each of the first `n` values.
#[inline(always)]
pub fn pack(values: &[u64; BLOCK], n: usize, width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let mut words = [0u64; BLOCK];
    let keep = mask(width);
    words.iter_mut().zip(values).for_each(|(w, v)| *w = v & keep);
    // Neighbours are joined while two fit into a word; few words are left for the loop below.
    let (mut left, mut wide) = (BLOCK, width);
    while wide <= 32 {
        for i in 0..left / 2 {
            words[i] = words[2 * i] | words[2 * i + 1] << wide;
        }
        left /= 2;
        wide *= 2;
    }
    let mut bytes = [0u8; BLOCK * 8 + 8];
    let (mut held, mut filled, mut at) = (0u64, 0u32, 0);
    for &v in &words[..left] {
        held |= v << filled;
        filled += wide;
        if filled >= 64 {
            bytes[at..at + 8].copy_from_slice(&held.to_le_bytes());
            at += 8;
            filled -= 64;
            held = if filled == 0 { 0 } else { v >> (wide - filled) };
        }
    }
    bytes[at..at + 8].copy_from_slice(&held.to_le_bytes());
    out.extend_from_slice(&bytes[..packed_bytes(n.min(BLOCK), width)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_keeps_what_stands_before_it() {
        for position in 0..70 {
            for len in [1u32, 13, 56, 57, 64] {
                let mut buf = [0xff; 24];
                let mut code = Code::default();
                code.push(0x5555_5555_5555_5555 & mask(len), len);
                code.push(1, 1);
                code.write(&mut buf, position);
                let mut r = BitReader::new(&buf);
                r.skip(position as u32);
                assert_eq!(r.take64(len), 0x5555_5555_5555_5555 & mask(len));
                assert_eq!(r.take(1), 1);
                let mut before = BitReader::new(&buf);
                assert!((0..position).all(|_| before.take(1) == 1), "at {position}");
            }
        }
    }

    #[test]
    fn reads_past_the_end_see_zeros() {
        assert_eq!(load64(&[1, 2, 3], 1), 0x0302);
        assert_eq!(load64(&[1, 2, 3], 7), 0);
        assert_eq!(load64(&[1], usize::MAX), 0);
        assert_eq!(load64(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 2), 0x0009_0807_0605_0403);
        assert_eq!(load64(&[1, 2, 3, 4, 5, 6, 7, 8, 9], usize::MAX), 0);
    }
}
