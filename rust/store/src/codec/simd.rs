//! Loops over columns, compiled once for every kind of processor, and the kernels that differ by hand:
//! unpacking 64 integers, and running sums.
//!
//! The one file with `unsafe`: calling code that was compiled for vectors after asking the processor.
//! On the changing node series AVX-512 decodes more than twice as fast as the portable build.

use std::sync::atomic::{AtomicU8, Ordering};

use super::bits::{BLOCK, mask};

/// Kinds of processors, the plainest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    Portable = 1,
    /// With BMI and FMA: Haswell, Zen and later.
    Avx2 = 2,
    /// With byte permutation: Ice Lake, Zen 4 and later.
    Avx512 = 3,
}

/// 0 until the processor was asked.
static TIER: AtomicU8 = AtomicU8::new(0);

impl Tier {
    pub const ALL: [Tier; 3] = [Tier::Portable, Tier::Avx2, Tier::Avx512];

    /// The best of this processor.
    pub fn best() -> Tier {
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512() {
                return Tier::Avx512;
            }
            if x86::has_avx2() {
                return Tier::Avx2;
            }
        }
        Tier::Portable
    }

    /// For tests and benchmarks: no better tier than this is used from now on, by all threads.
    #[doc(hidden)]
    pub fn limit(self) {
        TIER.store(self.min(Tier::best()) as u8, Ordering::Relaxed);
    }
}

#[inline(always)]
fn tier() -> u8 {
    let tier = TIER.load(Ordering::Relaxed);
    if tier != 0 { tier } else { ask() }
}

#[cold]
fn ask() -> u8 {
    Tier::best().limit();
    TIER.load(Ordering::Relaxed)
}

/// A loop over columns that gains from wide vectors. `run` and all that it calls must be
/// `inline(always)`, so that it is compiled once for every kind of processor.
pub trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the widest vectors of this processor.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match tier() {
        3 => return x86::run_avx512(kernel),
        2 => return x86::run_avx2(kernel),
        _ => {}
    }
    kernel.run(Portable)
}

/// Appends the same value `count` times.
#[inline]
pub fn repeat<T: Copy>(value: T, count: usize, out: &mut Vec<T>) {
    dispatch(Repeat { value, count, out });
}

struct Repeat<'o, T> {
    value: T,
    count: usize,
    out: &'o mut Vec<T>,
}

impl<T: Copy> Kernel for Repeat<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.out.extend(std::iter::repeat_n(self.value, self.count));
    }
}

/// Integers of a block where vectors don't straddle two lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Aligned(pub [u64; BLOCK]);

impl Aligned {
    #[inline(always)]
    pub fn zero() -> Aligned {
        Aligned([0; BLOCK])
    }
}

/// The kernels that are written by hand for each tier. A value of such a type exists only where the
/// processor has what it needs.
pub trait Simd: Copy {
    /// Whether a product and a sum with one rounding are one instruction.
    const FUSED: bool;
    /// Whether vectors of 64-bit integers become doubles in one instruction.
    const CONVERTS: bool;

    /// Unpacks 64 integers of `width` bits (64 at most) that begin with `bytes`; with `ADD` each is added to
    /// what the block holds. What lies behind a shorter block may be there too; integers that aren't wholly
    /// within `bytes` are undefined.
    fn unpack<const ADD: bool>(self, bytes: &[u8], width: u32, block: &mut [u64; BLOCK]);

    /// Each becomes `carry` and the sum of all up to it, with `plus` added to each; the last one is returned.
    fn sums(self, block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64;

    /// Makes a block of integers, `first` added to each; with `ADD` the block holds what numbers get on top.
    #[inline(always)]
    fn numbers<const ADD: bool>(self, numbers: &Numbers, first: u64, block: &mut [u64; BLOCK]) {
        unpack_scaled::<Self, ADD>(self, numbers, block);
        let plus = numbers.plus.wrapping_add(first);
        block.iter_mut().for_each(|v| *v = v.wrapping_add(plus));
    }

    /// Makes their running sums from `carry` on; the last one is returned.
    #[inline(always)]
    fn sums_of<const ADD: bool>(self, numbers: &Numbers, carry: u64, block: &mut [u64; BLOCK]) -> u64 {
        unpack_scaled::<Self, ADD>(self, numbers, block);
        self.sums(block, numbers.plus, carry)
    }

    /// As `numbers`, and appends what `of` makes of each; the block is undefined then.
    #[inline(always)]
    fn numbers_onto<const ADD: bool, T>(
        self,
        numbers: &Numbers,
        first: u64,
        block: &mut [u64; BLOCK],
        of: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) {
        self.numbers::<ADD>(numbers, first, block);
        out.extend(block.iter().map(|&v| of(v)));
    }

    /// As `sums_of`, and appends what `of` makes of each; the block is undefined then.
    #[inline(always)]
    fn sums_onto<const ADD: bool, T>(
        self,
        numbers: &Numbers,
        carry: u64,
        block: &mut [u64; BLOCK],
        of: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> u64 {
        let last = self.sums_of::<ADD>(numbers, carry, block);
        out.extend(block.iter().map(|&v| of(v)));
        last
    }
}

/// A block as it is packed. Each integer is `(number + what it gets on top) * factor + plus`; those that
/// aren't wholly within `bytes` are undefined.
#[derive(Clone, Copy)]
pub struct Numbers<'a> {
    /// What begins with the packed numbers.
    pub bytes: &'a [u8],
    /// 64 at most.
    pub width: u32,
    pub factor: u64,
    pub plus: u64,
}

/// All but `plus`.
#[inline(always)]
fn unpack_scaled<S: Simd, const ADD: bool>(simd: S, numbers: &Numbers, block: &mut [u64; BLOCK]) {
    simd.unpack::<ADD>(numbers.bytes, numbers.width, block);
    if numbers.factor != 1 {
        block.iter_mut().for_each(|v| *v = v.wrapping_mul(numbers.factor));
    }
}

/// What every processor can do.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    const FUSED: bool = false;
    const CONVERTS: bool = false;

    #[inline(always)]
    fn unpack<const ADD: bool>(self, bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
        unpack_portable::<ADD>(bytes, width, block);
    }

    #[inline(always)]
    fn sums(self, block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64 {
        let mut last = carry;
        for v in block.iter_mut() {
            last = last.wrapping_add(v.wrapping_add(plus));
            *v = last;
        }
        last
    }
}

/// A block's bytes with room for whole-word reads past its end.
type Padded = [u8; BLOCK * 8 + 16];

#[inline]
fn padded(bytes: &[u8], width: u32) -> Padded {
    let mut padded: Padded = [0; BLOCK * 8 + 16];
    let n = bytes.len().min(BLOCK / 8 * width.min(64) as usize);
    padded[..n].copy_from_slice(&bytes[..n]);
    padded
}

#[inline(never)]
fn unpack_portable<const ADD: bool>(bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
    if ADD {
        let mut more = Aligned::zero();
        unpack_portable::<false>(bytes, width, &mut more.0);
        return block.iter_mut().zip(&more.0).for_each(|(v, m)| *v = v.wrapping_add(*m));
    }
    match bytes.first_chunk() {
        Some(whole) => unpack_any(whole, width, block),
        None => unpack_any(&padded(bytes, width), width, block),
    }
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

fn unpack_any(bytes: &Padded, width: u32, block: &mut [u64; BLOCK]) {
    widths!(width, bytes, block, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
        28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
        61 62 63);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;
    use std::convert::identity;

    use super::{BLOCK, Kernel, Numbers, Padded, Simd, mask, padded, unpack_portable};

    /// The widest values that eight loaded bytes hold wherever they begin.
    const LANE_WIDTH_MAX: u32 = 57;

    pub fn has_avx512() -> bool {
        has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
    }

    pub fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
    }

    /// Proof that the processor has AVX-512 with byte permutation: made by `run_avx512` alone.
    #[derive(Clone, Copy)]
    pub struct Avx512(());

    /// Proof that the processor has AVX2 and what came with it: made by `run_avx2` alone.
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    /// The tier was asked for and is there.
    #[inline]
    pub fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: `Tier::limit` stores no tier that the processor doesn't have.
        unsafe { inside_avx512(kernel) }
    }

    /// The tier was asked for and is there.
    #[inline]
    pub fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: `Tier::limit` stores no tier that the processor doesn't have.
        unsafe { inside_avx2(kernel) }
    }

    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi"
    )]
    fn inside_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
    fn inside_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    impl Simd for Avx512 {
        const FUSED: bool = true;
        const CONVERTS: bool = true;

        #[inline(always)]
        fn unpack<const ADD: bool>(self, bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
            self.numbers::<ADD>(&Numbers { bytes, width, factor: 1, plus: 0 }, 0, block);
        }

        #[inline(always)]
        fn sums(self, block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64 {
            // SAFETY: the processor has every feature, or there were no `self`.
            unsafe { sums_avx512(block, plus, carry) }
        }

        #[inline(always)]
        fn numbers<const ADD: bool>(self, numbers: &Numbers, first: u64, block: &mut [u64; BLOCK]) {
            if numbers.width > LANE_WIDTH_MAX {
                return Avx2(()).numbers::<ADD>(numbers, first, block);
            }
            let block = block.as_mut_ptr().cast();
            // SAFETY: the processor has every feature, or there were no `self`; the block is both places.
            unsafe { made_avx512::<ADD, false, _>(numbers, first, block, identity, block) };
        }

        #[inline(always)]
        fn sums_of<const ADD: bool>(self, numbers: &Numbers, carry: u64, block: &mut [u64; BLOCK]) -> u64 {
            if numbers.width > LANE_WIDTH_MAX {
                return Avx2(()).sums_of::<ADD>(numbers, carry, block);
            }
            let block = block.as_mut_ptr().cast();
            // SAFETY: as above.
            unsafe { made_avx512::<ADD, true, _>(numbers, carry, block, identity, block) }
        }

        #[inline(always)]
        fn numbers_onto<const ADD: bool, T>(
            self,
            numbers: &Numbers,
            first: u64,
            block: &mut [u64; BLOCK],
            of: impl Fn(u64) -> T + Copy,
            out: &mut Vec<T>,
        ) {
            if numbers.width > LANE_WIDTH_MAX {
                return Avx2(()).numbers_onto::<ADD, T>(numbers, first, block, of, out);
            }
            out.reserve(BLOCK);
            // SAFETY: the processor has every feature, or there were no `self`; there is room for a block, all
            // of which is written.
            unsafe {
                let end = out.as_mut_ptr().add(out.len()).cast();
                made_avx512::<ADD, false, _>(numbers, first, block.as_ptr().cast(), of, end);
                out.set_len(out.len() + BLOCK);
            }
        }

        #[inline(always)]
        fn sums_onto<const ADD: bool, T>(
            self,
            numbers: &Numbers,
            carry: u64,
            block: &mut [u64; BLOCK],
            of: impl Fn(u64) -> T + Copy,
            out: &mut Vec<T>,
        ) -> u64 {
            if numbers.width > LANE_WIDTH_MAX {
                return Avx2(()).sums_onto::<ADD, T>(numbers, carry, block, of, out);
            }
            out.reserve(BLOCK);
            // SAFETY: as above.
            unsafe {
                let end = out.as_mut_ptr().add(out.len()).cast();
                let last = made_avx512::<ADD, true, _>(numbers, carry, block.as_ptr().cast(), of, end);
                out.set_len(out.len() + BLOCK);
                last
            }
        }
    }

    /// Picks what is compiled for a factor.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi"
    )]
    unsafe fn made_avx512<const ADD: bool, const SUMS: bool, T>(
        numbers: &Numbers,
        carry: u64,
        tops: *const [u64; 8],
        of: impl Fn(u64) -> T + Copy,
        to: *mut [T; 8],
    ) -> u64 {
        // SAFETY: the caller's word.
        unsafe {
            match numbers.factor {
                1 => unpack_avx512::<ADD, SUMS, false, T>(numbers, carry, tops, of, to),
                _ => unpack_avx512::<ADD, SUMS, true, T>(numbers, carry, tops, of, to),
            }
        }
    }

    /// Eight values take exactly `width` bytes: one load, one permutation that brings to each lane the
    /// eight bytes in which its value begins, one shift by lane, one mask. `width` is 57 at most. With `ADD`
    /// what `tops` hold is added, with `SCALED` that is multiplied by `factor`; `plus` always is added. What
    /// `of` makes of them and `carry`, or with `SUMS` of their sums from `carry` on, is written without a way
    /// through memory. Returns the last sum.
    ///
    /// The caller owes 64 values to read at `tops` with `ADD`, and room to write 64 at `to`, which may be the
    /// same place.
    #[inline(never)]
    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi"
    )]
    unsafe fn unpack_avx512<const ADD: bool, const SUMS: bool, const SCALED: bool, T>(
        numbers: &Numbers,
        carry: u64,
        tops: *const [u64; 8],
        of: impl Fn(u64) -> T + Copy,
        to: *mut [T; 8],
    ) -> u64 {
        let Numbers { bytes, width, factor, plus } = *numbers;
        let ones = _mm512_set1_epi64(0x0101_0101_0101_0101);
        let lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        let bits = _mm512_mullo_epi64(lanes, _mm512_set1_epi64(i64::from(width)));
        let starts = _mm512_mullo_epi64(_mm512_srli_epi64::<3>(bits), ones);
        let which = _mm512_add_epi64(starts, _mm512_set1_epi64(0x0706_0504_0302_0100));
        let shifts = _mm512_and_si512(bits, _mm512_set1_epi64(7));
        let keep = _mm512_set1_epi64(mask(width) as i64);
        let factor = _mm512_set1_epi64(factor as i64);
        let plus = _mm512_set1_epi64(if SUMS { plus } else { plus.wrapping_add(carry) } as i64);
        let mut last = _mm512_set1_epi64(carry as i64);
        let width = width as usize;
        let whole = bytes.len() >= 7 * width + 64;
        for i in 0..BLOCK / 8 {
            let word = if whole {
                // SAFETY: each of eight steps of `width` has 64 bytes behind it.
                unsafe { _mm512_loadu_si512(bytes.as_ptr().add(i * width).cast()) }
            } else {
                let there = _bzhi_u64(u64::MAX, bytes.len().saturating_sub(i * width).min(64) as u32);
                // SAFETY: the mask loads no byte behind the end.
                unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().wrapping_add(i * width).cast()) }
            };
            let lane = _mm512_srlv_epi64(_mm512_permutexvar_epi8(which, word), shifts);
            let mut lane = _mm512_and_si512(lane, keep);
            if ADD {
                // SAFETY: the caller's word.
                lane = _mm512_add_epi64(lane, unsafe { _mm512_loadu_si512(tops.add(i).cast()) });
            }
            if SCALED {
                lane = _mm512_mullo_epi64(lane, factor);
            }
            lane = _mm512_add_epi64(lane, plus);
            if SUMS {
                (lane, last) = scan(lane, last);
            }
            // SAFETY: both are 64 plain bytes; any bits are a value of either. The caller's word.
            unsafe {
                let lane = std::mem::transmute::<__m512i, [u64; 8]>(lane);
                let to = to.add(i).cast::<T>();
                for (k, v) in lane.into_iter().enumerate() {
                    to.add(k).write(of(v));
                }
            }
        }
        _mm_cvtsi128_si64(_mm512_castsi512_si128(last)) as u64
    }

    /// Running sums of eight lanes above `last`, and the whole sum in all lanes.
    #[inline]
    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi"
    )]
    fn scan(x: __m512i, last: __m512i) -> (__m512i, __m512i) {
        let zero = _mm512_setzero_si512();
        let x = _mm512_add_epi64(x, _mm512_alignr_epi64::<7>(x, zero));
        let x = _mm512_add_epi64(x, _mm512_alignr_epi64::<6>(x, zero));
        let x = _mm512_add_epi64(x, _mm512_alignr_epi64::<4>(x, zero));
        let whole = _mm512_permutexvar_epi64(_mm512_set1_epi64(7), x);
        (_mm512_add_epi64(x, last), _mm512_add_epi64(whole, last))
    }

    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi"
    )]
    fn sums_avx512(block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64 {
        let plus = _mm512_set1_epi64(plus as i64);
        let mut last = _mm512_set1_epi64(carry as i64);
        let (groups, _) = block.as_chunks_mut::<8>();
        for group in groups {
            // SAFETY: both are 64 plain bytes; any bits are a value of either.
            let x = unsafe { std::mem::transmute::<[u64; 8], __m512i>(*group) };
            let sums;
            (sums, last) = scan(_mm512_add_epi64(x, plus), last);
            // SAFETY: as above.
            *group = unsafe { std::mem::transmute::<__m512i, [u64; 8]>(sums) };
        }
        block[BLOCK - 1]
    }

    impl Simd for Avx2 {
        const FUSED: bool = true;
        const CONVERTS: bool = false;

        #[inline(always)]
        fn unpack<const ADD: bool>(self, bytes: &[u8], width: u32, block: &mut [u64; BLOCK]) {
            if width > LANE_WIDTH_MAX {
                return unpack_portable::<ADD>(bytes, width, block);
            }
            let filled;
            let bytes = match bytes.first_chunk() {
                Some(whole) => whole,
                None => {
                    filled = padded(bytes, width);
                    &filled
                }
            };
            // SAFETY: the processor has every feature, or there were no `self`.
            unsafe { unpack_avx2::<ADD>(bytes, width, block) }
        }

        #[inline(always)]
        fn sums(self, block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64 {
            // SAFETY: the processor has every feature, or there were no `self`.
            unsafe { sums_avx2(block, plus, carry) }
        }
    }

    /// Two values lie within 16 bytes: a load for each pair, then as above with four lanes. Groups of four
    /// begin at a byte or in the middle of one, in turn. `width` is 57 at most.
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
    fn unpack_avx2<const ADD: bool>(bytes: &Padded, width: u32, block: &mut [u64; BLOCK]) {
        let keep = _mm256_set1_epi64x(mask(width) as i64);
        let w = width as usize;
        // Which bytes, and how far to shift, for both values of a pair that begins at a bit.
        let pair = |bit: usize| {
            let (first, second) = (bit % 8, bit % 8 + w);
            let bytes_from =
                |at: usize| (0x0706_0504_0302_0100 + 0x0101_0101_0101_0101 * (at / 8) as u64) as i64;
            (bytes_from(first), bytes_from(second), (first % 8) as i64, (second % 8) as i64)
        };
        let pattern = |bit: usize| {
            let (a, b) = (pair(bit), pair(bit + 2 * w));
            (_mm256_setr_epi64x(a.0, a.1, b.0, b.1), _mm256_setr_epi64x(a.2, a.3, b.2, b.3))
        };
        let patterns = [pattern(0), pattern(4 * w)];
        let (groups, _) = block.as_chunks_mut::<4>();
        for (i, group) in groups.iter_mut().enumerate() {
            let (low, high) = (i * 4 * w / 8, (i * 4 + 2) * w / 8);
            let (low, high) = (&bytes[low..low + 16], &bytes[high..high + 16]);
            // SAFETY: both slices have 16 bytes.
            let word = unsafe { _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()) };
            let (which, shifts) = patterns[i % 2];
            let lane = _mm256_srlv_epi64(_mm256_shuffle_epi8(word, which), shifts);
            let mut lane = _mm256_and_si256(lane, keep);
            if ADD {
                // SAFETY: both are 32 plain bytes; any bits are a value of either.
                lane = _mm256_add_epi64(lane, unsafe { std::mem::transmute::<[u64; 4], __m256i>(*group) });
            }
            // SAFETY: as above.
            *group = unsafe { std::mem::transmute::<__m256i, [u64; 4]>(lane) };
        }
    }

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
    fn sums_avx2(block: &mut [u64; BLOCK], plus: u64, carry: u64) -> u64 {
        let zero = _mm256_setzero_si256();
        let plus = _mm256_set1_epi64x(plus as i64);
        let mut last = _mm256_set1_epi64x(carry as i64);
        let (groups, _) = block.as_chunks_mut::<4>();
        for group in groups {
            // SAFETY: both are 32 plain bytes; any bits are a value of either.
            let x = unsafe { std::mem::transmute::<[u64; 4], __m256i>(*group) };
            let x = _mm256_add_epi64(x, plus);
            let x = _mm256_add_epi64(x, _mm256_slli_si256::<8>(x));
            let low_sum = _mm256_permute4x64_epi64::<0b01_01_01_01>(x);
            let x = _mm256_add_epi64(x, _mm256_blend_epi32::<0b1111_0000>(zero, low_sum));
            let whole = _mm256_permute4x64_epi64::<0b11_11_11_11>(x);
            // SAFETY: as above.
            *group = unsafe { std::mem::transmute::<__m256i, [u64; 4]>(_mm256_add_epi64(x, last)) };
            last = _mm256_add_epi64(whole, last);
        }
        block[BLOCK - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::bits::{pack, packed_bytes};

    /// Numbers of all sizes, the same in every run.
    fn numbers(seed: u64) -> [u64; BLOCK] {
        let mut x = seed | 1;
        std::array::from_fn(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x.rotate_left(i as u32)
        })
    }

    /// Packed bytes, their width, and a factor.
    #[derive(Clone, Copy)]
    struct Unpack<'a>(&'a [u8], u32, u64);

    impl Kernel for Unpack<'_> {
        type Output = [[u64; BLOCK]; 5];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let Unpack(bytes, width, factor) = self;
            let numbers = Numbers { bytes, width, factor, plus: 7 };
            let [mut plain, mut added] = [[1; BLOCK]; 2];
            let [mut all, mut all_added] = [[1; BLOCK]; 2];
            simd.numbers::<false>(&numbers, 9, &mut plain);
            simd.numbers::<true>(&numbers, 9, &mut added);
            simd.sums_of::<false>(&numbers, 1 << 60, &mut all);
            let last = simd.sums_of::<true>(&numbers, 1 << 60, &mut all_added);
            assert_eq!(last, all_added[BLOCK - 1]);
            let mut apart = added.map(|v| v.wrapping_sub(9));
            simd.sums(&mut apart, 0, 1 << 60);
            [plain, added, all, all_added, apart]
        }
    }

    /// Runs on every tier that this processor has.
    fn on_all<K: Kernel + Clone>(kernel: K) -> Vec<K::Output> {
        let mut all = vec![kernel.clone().run(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if Tier::best() >= Tier::Avx2 {
                all.push(x86::run_avx2(kernel.clone()));
            }
            if Tier::best() >= Tier::Avx512 {
                all.push(x86::run_avx512(kernel));
            }
        }
        all
    }

    #[test]
    fn what_is_packed_comes_back_at_every_width_on_every_processor() {
        for width in 0..=64 {
            for n in [1, 7, 63, BLOCK] {
                let all = numbers(u64::from(width)).map(|v| v & mask(width));
                let mut bytes = Vec::new();
                pack(&all, n, width, &mut bytes);
                let wanted = &all[..n];
                assert_eq!(bytes.len(), packed_bytes(n, width));
                for (more, factor) in [(0, 1), (9, 1), (600, 1), (0, 1000), (600, 1 << 40)] {
                    bytes.resize(packed_bytes(n, width) + more, 0xa5);
                    let each = |top: u64, v: u64| v.wrapping_add(top).wrapping_mul(factor).wrapping_add(7);
                    let single = |top: u64| -> Vec<u64> {
                        wanted.iter().map(|&v| each(top, v).wrapping_add(9)).collect()
                    };
                    let running = |top: u64| -> Vec<u64> {
                        let mut sum = 1u64 << 60;
                        let next = |&v: &u64| {
                            sum = sum.wrapping_add(each(top, v));
                            sum
                        };
                        wanted.iter().map(next).collect()
                    };
                    for [plain, added, all, all_added, apart] in on_all(Unpack(&bytes, width, factor)) {
                        assert_eq!(plain[..n], single(0), "width {width}");
                        assert_eq!(added[..n], single(1), "width {width}");
                        assert_eq!(all[..n], running(0), "width {width}");
                        assert_eq!(all_added[..n], running(1), "width {width}");
                        assert_eq!(apart[..n], running(1), "width {width}");
                    }
                }
            }
        }
    }
}
