//! ALP as published (Afroozeh, Kuffo, Boncz 2023), written plainly: decimals by a pair of exponents found on
//! a sample, integers above a base in as many bits as they need, exceptions apart; and ALP-RD, which cuts
//! true doubles into a few common fronts and raw rests. Its authors' own code unpacks with SIMD and is faster.

use metricsdb_model::Samples;

use crate::bits::{PADDING, Reader, Writer};
use crate::data::Block;
use crate::measure::{Codec, Size};

const EXPONENT_MAX: usize = 18;
const TENS: [f64; 19] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];
const TENTHS: [f64; 19] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15,
    1e-16, 1e-17, 1e-18,
];
/// Adding and subtracting it rounds what is smaller than 2^51.
const ROUND: f64 = 6_755_399_441_055_744.0;
const SAMPLED: usize = 32;
const POSITION_BITS: u32 = 16;
/// Above this many bits a value, decimals have failed and ALP-RD is tried.
const DECIMAL_BITS_MAX: usize = 48;
/// First byte of a block of ALP-RD; no exponent.
const RD: u64 = 255;
const FRONT_BITS: u32 = 16;
const FRONTS_MAX: usize = 8;

pub struct Alp;

impl Codec for Alp {
    type Coded = Vec<u8>;
    const TIMES: bool = false;

    fn name(&self) -> String {
        "alp".to_owned()
    }

    fn encode(&self, block: Block) -> Vec<u8> {
        let decimal = put_decimals(block.bits);
        if (decimal.len() - PADDING) * 8 <= DECIMAL_BITS_MAX * block.bits.len() {
            return decimal;
        }
        let fronts = put_fronts(block.bits);
        if fronts.len() < decimal.len() { fronts } else { decimal }
    }

    fn decode(&self, bytes: &Vec<u8>, count: usize, out: &mut Samples) {
        let mut r = Reader::new(bytes);
        match r.take(8) {
            RD => take_fronts(&mut r, count, &mut out.values),
            exponent => take_decimals(&mut r, exponent as usize, count, &mut out.values),
        }
    }

    fn size(&self, bytes: &Vec<u8>, _: Block) -> Size {
        Size { values: (bytes.len() - PADDING) as f64, ..Size::default() }
    }
}

/// The integer of a double at a pair of exponents, if it leads back to the same bits.
#[inline]
fn integer(bits: u64, e: usize, f: usize) -> Option<i64> {
    let scaled = f64::from_bits(bits) * TENS[e] * TENTHS[f];
    let whole = (scaled + ROUND - ROUND) as i64;
    (double(whole, e, f).to_bits() == bits).then_some(whole)
}

#[inline]
fn double(whole: i64, e: usize, f: usize) -> f64 {
    whole as f64 * TENS[f] * TENTHS[e]
}

fn width(span: u64) -> u32 {
    64 - span.leading_zeros()
}

/// The pair that makes a sample of the block smallest.
fn exponents(bits: &[u64]) -> (usize, usize) {
    let sample: Vec<u64> = bits.iter().copied().step_by(bits.len().div_ceil(SAMPLED)).collect();
    let (mut best, mut least) = ((0, 0), usize::MAX);
    for pair in (0..=EXPONENT_MAX).flat_map(|e| (0..=e).map(move |f| (e, f))) {
        let cost = sample_bits(&sample, pair, least);
        if cost < least {
            (best, least) = (pair, cost);
        }
    }
    best
}

/// Bits of a sample, or more than `enough`.
fn sample_bits(sample: &[u64], (e, f): (usize, usize), enough: usize) -> usize {
    let (mut low, mut high, mut lost) = (i64::MAX, i64::MIN, 0);
    for &b in sample {
        match integer(b, e, f) {
            Some(whole) => (low, high) = (low.min(whole), high.max(whole)),
            None => lost += 64 + POSITION_BITS as usize,
        }
        if lost > enough {
            return lost;
        }
    }
    let width = if low > high { 0 } else { width(high.wrapping_sub(low) as u64) };
    sample.len() * width as usize + lost
}

/// Exponents (2 bytes), number of exceptions (2), base (8), width (1), integers, exceptions.
fn put_decimals(bits: &[u64]) -> Vec<u8> {
    let (e, f) = exponents(bits);
    let wholes: Vec<Option<i64>> = bits.iter().map(|&b| integer(b, e, f)).collect();
    let base = wholes.iter().copied().flatten().min().unwrap_or(0);
    let high = wholes.iter().copied().flatten().max().unwrap_or(0);
    let width = width(high.wrapping_sub(base) as u64);
    let lost = wholes.iter().filter(|w| w.is_none()).count();
    let mut w = Writer::default();
    for (value, n) in [(e as u64, 8), (f as u64, 8), (lost as u64, 16), (base as u64, 64), (width.into(), 8)]
    {
        w.put(value, n);
    }
    for whole in &wholes {
        w.put(whole.unwrap_or(base).wrapping_sub(base) as u64, width);
    }
    for (i, _) in wholes.iter().enumerate().filter(|(_, whole)| whole.is_none()) {
        w.put(i as u64, POSITION_BITS);
        w.put(bits[i], 64);
    }
    w.finish()
}

fn take_decimals(r: &mut Reader, e: usize, count: usize, out: &mut Vec<f64>) {
    let (f, lost) = (r.take(8) as usize, r.take(16));
    let (base, width) = (r.take(64) as i64, r.take(8) as u32);
    let start = out.len();
    out.resize(start + count, 0.0);
    let (tens, tenths) = (TENS[f], TENTHS[e]);
    r.fold(width, &mut out[start..], |_, above| base.wrapping_add(above as i64) as f64 * tens * tenths);
    for _ in 0..lost {
        let i = r.take(POSITION_BITS) as usize;
        out[start + i] = f64::from_bits(r.take(64));
    }
}

/// The fronts of values that are `rest` bits shorter, commonest first, and how many values have others.
fn common_fronts(bits: impl Iterator<Item = u64>, rest: u32) -> (Vec<u64>, usize) {
    let mut fronts: Vec<u64> = bits.map(|b| b >> rest).collect();
    fronts.sort_unstable();
    let mut runs: Vec<(usize, u64)> = fronts.chunk_by(|a, b| a == b).map(|r| (r.len(), r[0])).collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let others = runs.iter().skip(FRONTS_MAX).map(|r| r.0).sum();
    (runs.into_iter().take(FRONTS_MAX).map(|r| r.1).collect(), others)
}

fn index_bits(fronts: usize) -> u32 {
    width(fronts as u64 - 1)
}

/// RD, bits of a rest (1), number of fronts (1), number of exceptions (2), fronts (2 each), indexes, rests,
/// exceptions (position and front, 2 each).
fn put_fronts(bits: &[u64]) -> Vec<u8> {
    let cost = |rest: u32| {
        let sample = bits.iter().copied().step_by(bits.len().div_ceil(4 * SAMPLED));
        let n = sample.len();
        let (fronts, others) = common_fronts(sample, rest);
        n * (index_bits(fronts.len()) + rest) as usize + others * (POSITION_BITS + FRONT_BITS) as usize
    };
    let rest = (64 - FRONT_BITS..64).min_by_key(|&rest| cost(rest)).unwrap_or(63);
    let (fronts, others) = common_fronts(bits.iter().copied(), rest);
    let index = |b: u64| fronts.iter().position(|&front| front == b >> rest);
    let mut w = Writer::default();
    for (value, n) in [(RD, 8), (rest.into(), 8), (fronts.len() as u64, 8), (others as u64, 16)] {
        w.put(value, n);
    }
    fronts.iter().for_each(|&front| w.put(front, FRONT_BITS));
    bits.iter().for_each(|&b| w.put(index(b).unwrap_or(0) as u64, index_bits(fronts.len())));
    bits.iter().for_each(|&b| w.put(b & ((1 << rest) - 1), rest));
    for (i, &b) in bits.iter().enumerate().filter(|(_, b)| index(**b).is_none()) {
        w.put(i as u64, POSITION_BITS);
        w.put(b >> rest, FRONT_BITS);
    }
    w.finish()
}

fn take_fronts(r: &mut Reader, count: usize, out: &mut Vec<f64>) {
    let (rest, number, others) = (r.take(8) as u32, r.take(8) as usize, r.take(16));
    let mut fronts = [0u64; FRONTS_MAX];
    fronts[..number].iter_mut().for_each(|front| *front = r.take(FRONT_BITS) << rest);
    let start = out.len();
    out.resize(start + count, 0.0);
    r.fold(index_bits(number), &mut out[start..], |_, index| f64::from_bits(fronts[index as usize & 7]));
    r.fold(rest, &mut out[start..], |front, low| f64::from_bits(front.to_bits() | low));
    for _ in 0..others {
        let (i, front) = (r.take(POSITION_BITS) as usize, r.take(FRONT_BITS));
        let low = out[start + i].to_bits() & ((1 << rest) - 1);
        out[start + i] = f64::from_bits(front << rest | low);
    }
}
