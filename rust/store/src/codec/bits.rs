//! Bits in bytes, least significant first, and the kernels that pack and unpack blocks of 64 integers.
//! Reads past the end see zeros: decoders check their end once per block instead of once per read.
//!
//! The one file with `unsafe`: calling code that was compiled for AVX-512 after asking the processor.
//! On the changing node series that decodes 2.5 times as many samples a second as the portable build.

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

/// Appends the low `width` bits of each value.
pub fn pack(values: &[u64], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let m = mask(width);
    let mut held = 0u64;
    let mut n = 0u32;
    for &v in values {
        let v = v & m;
        held |= v << n;
        n += width;
        if n >= 64 {
            out.extend_from_slice(&held.to_le_bytes());
            n -= 64;
            held = if n == 0 { 0 } else { v >> (width - n) };
        }
    }
    out.extend_from_slice(&held.to_le_bytes()[..(n as usize).div_ceil(8)]);
}

/// A block's bytes with room for whole-word reads past its end.
type Padded = [u8; BLOCK * 8 + 8];

/// Unpacks 64 integers of `width` bits (64 at most) that begin with `bytes`. What lies behind a shorter
/// block may be there too; integers that aren't wholly within `bytes` are undefined.
#[inline]
pub fn unpack(bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
    #[cfg(target_arch = "x86_64")]
    if width <= LANE_WIDTH_MAX && wide::available() {
        if bytes.len() >= 7 * width as usize + 64 {
            return wide::unpack(bytes, width, block);
        }
        return wide::unpack(&padded(bytes), width, block);
    }
    match bytes.first_chunk() {
        Some(whole) => unpack_portable(whole, width, block),
        None => unpack_portable(&padded(bytes), width, block),
    }
}

#[inline(always)]
fn padded(bytes: &[u8]) -> Padded {
    let mut padded: Padded = [0; BLOCK * 8 + 8];
    let n = bytes.len().min(BLOCK * 8);
    padded[..n].copy_from_slice(&bytes[..n]);
    padded
}

#[inline(always)]
fn word(bytes: &Padded, at: usize) -> u64 {
    let b = &bytes[at..at + 8];
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

/// One width, known when compiled: a straight line of loads, shifts and masks.
#[inline(always)]
fn unpack_width<const W: usize>(bytes: &Padded, block: &mut [u64; BLOCK]) {
    for (i, slot) in block.iter_mut().enumerate() {
        let bit = i * W;
        let (at, shift) = (bit / 8, bit % 8);
        let low = word(bytes, at) >> shift;
        let high = if shift + W > 64 { u64::from(bytes[at + 8]) << (64 - shift) } else { 0 };
        *slot = (low | high) & mask(W as u32);
    }
}

macro_rules! widths {
    ($width:expr, $bytes:expr, $block:expr, $($w:literal)*) => {
        match $width {
            $($w => unpack_width::<$w>($bytes, $block),)*
            _ => unpack_width::<64>($bytes, $block),
        }
    };
}

/// The widest values that eight loaded bytes hold wherever they begin.
#[cfg(target_arch = "x86_64")]
const LANE_WIDTH_MAX: u32 = 57;

fn unpack_portable(bytes: &Padded, width: u32, block: &mut [u64; BLOCK]) {
    widths!(width, bytes, block, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
        28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
        61 62 63);
}

/// A loop over columns that gains from wide vectors. `run` and all that it calls must be
/// `inline(always)`, so that it is compiled once for every kind of processor.
pub trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

/// Runs a kernel with the widest vectors of this processor.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if wide::available() {
        return wide::run(kernel);
    }
    kernel.run()
}

/// What needs AVX-512 with byte permutation (Ice Lake, Zen 4 and later).
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod wide {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_mullo_epi64, _mm512_permutexvar_epi8,
        _mm512_set1_epi64, _mm512_setr_epi64, _mm512_srli_epi64, _mm512_srlv_epi64,
    };

    use super::{BLOCK, Kernel, mask};

    #[inline(always)]
    pub fn available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
    }

    /// The caller has seen `available`.
    #[inline]
    pub fn run<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the processor has every feature that `run_wide` was compiled with.
        unsafe { run_wide(kernel) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi")]
    fn run_wide<K: Kernel>(kernel: K) -> K::Output {
        kernel.run()
    }

    /// The caller has seen `available`; `width` is 57 at most, and there are `7 * width + 64` bytes.
    #[inline]
    pub fn unpack(bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
        // SAFETY: the processor has every feature that `unpack_wide` was compiled with.
        unsafe { unpack_wide(bytes, width, block) }
    }

    /// Eight values take exactly `width` bytes: one load, one permutation that brings to each lane the
    /// eight bytes in which its value begins, one shift by lane, one mask.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi")]
    fn unpack_wide(bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
        let ones = _mm512_set1_epi64(0x0101_0101_0101_0101);
        let lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        let bits = _mm512_mullo_epi64(lanes, _mm512_set1_epi64(i64::from(width)));
        let starts = _mm512_mullo_epi64(_mm512_srli_epi64::<3>(bits), ones);
        let which = _mm512_add_epi64(starts, _mm512_set1_epi64(0x0706_0504_0302_0100));
        let shifts = _mm512_and_si512(bits, _mm512_set1_epi64(7));
        let keep = _mm512_set1_epi64(mask(width) as i64);
        let (groups, _) = block.as_chunks_mut::<8>();
        for (i, group) in groups.iter_mut().enumerate() {
            let Some(from) = bytes.get(i * width as usize..).and_then(|b| b.first_chunk::<64>()) else {
                return;
            };
            // SAFETY: both are 64 plain bytes; any bits are a value of either.
            let word: __m512i = unsafe { std::mem::transmute::<[u8; 64], __m512i>(*from) };
            let lane = _mm512_srlv_epi64(_mm512_permutexvar_epi8(which, word), shifts);
            // SAFETY: as above.
            *group = unsafe { std::mem::transmute::<__m512i, [u64; 8]>(_mm512_and_si512(lane, keep)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of all sizes, the same in every run.
    fn numbers(seed: u64) -> [u64; BLOCK] {
        let mut x = seed | 1;
        std::array::from_fn(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x.rotate_left(i as u32)
        })
    }

    #[test]
    fn what_is_packed_comes_back_at_every_width_on_every_processor() {
        for width in 0..=64 {
            for n in [1, 7, 63, BLOCK] {
                let wanted: Vec<u64> =
                    numbers(u64::from(width))[..n].iter().map(|v| v & mask(width)).collect();
                let mut bytes = Vec::new();
                pack(&wanted, width, &mut bytes);
                assert_eq!(bytes.len(), packed_bytes(n, width));
                let mut block = [1; BLOCK];
                unpack(&bytes, width, &mut block);
                assert_eq!(block[..n], wanted, "width {width}");
                let mut padded: Padded = [0; BLOCK * 8 + 8];
                padded[..bytes.len()].copy_from_slice(&bytes);
                let mut portable = [1; BLOCK];
                unpack_portable(&padded, width, &mut portable);
                assert_eq!(portable, block, "width {width}");
            }
        }
    }

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
    }
}
