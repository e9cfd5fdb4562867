//! Columns of 64-bit integers: the residuals of order 0 (values), 1 (steps) or 2 (steps of steps), in
//! blocks of 64, each with its own base and width.

use super::bits::{load64, mask, unzigzag, width, zigzag};
use metricsdb_model::{Error, Result};

pub const BLOCK: usize = 64;

pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads at `*at` and moves it on.
pub fn take_varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let Some(&b) = bytes.get(*at) else { break };
        *at += 1;
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Ok(v);
        }
    }
    Err(Error::corruption("chunk", *at, "a number doesn't end"))
}

/// Appends a column of at least one integer.
pub fn encode(column: &[i64], out: &mut Vec<u8>) {
    let best = (0..3u8).min_by_key(|&k| cost(&residuals(column, k))).unwrap_or(0);
    let rest = residuals(column, best);
    out.push(best);
    for block in rest.chunks(BLOCK) {
        let (base, w) = frame(block);
        out.push(w as u8);
        put_varint(out, zigzag(base));
        pack(block, base, w, out);
    }
}

fn residuals(column: &[i64], order: u8) -> Vec<i64> {
    let mut rest = column.to_vec();
    for k in 0..order {
        for i in (usize::from(k) + 1..rest.len()).rev() {
            rest[i] = rest[i].wrapping_sub(rest[i - 1]);
        }
    }
    rest
}

fn frame(block: &[i64]) -> (i64, u32) {
    let base = block.iter().copied().min().unwrap_or(0);
    let top = block.iter().map(|&v| v.wrapping_sub(base) as u64).max().unwrap_or(0);
    (base, width(top))
}

fn cost(rest: &[i64]) -> usize {
    rest.chunks(BLOCK)
        .map(|b| {
            let (base, w) = frame(b);
            16 + width(zigzag(base)) as usize + b.len() * w as usize
        })
        .sum()
}

fn pack(block: &[i64], base: i64, w: u32, out: &mut Vec<u8>) {
    let mut held = 0u128;
    let mut n = 0;
    for &v in block {
        held |= u128::from(v.wrapping_sub(base) as u64) << n;
        n += w;
        while n >= 8 {
            out.push(held as u8);
            held >>= 8;
            n -= 8;
        }
    }
    if n > 0 {
        out.push(held as u8);
    }
}

/// Appends `count` integers that begin at `*at`, and moves it past them.
pub fn decode(bytes: &[u8], at: &mut usize, count: usize, out: &mut Vec<i64>) -> Result<()> {
    let start = out.len();
    let order = *bytes.get(*at).ok_or_else(|| Error::corruption("chunk", *at, "no order"))?;
    if order > 2 {
        return Err(Error::corruption("chunk", *at, "order over 2"));
    }
    *at += 1;
    let mut left = count;
    while left > 0 {
        let n = left.min(BLOCK);
        let w = u32::from(*bytes.get(*at).ok_or_else(|| Error::corruption("chunk", *at, "no width"))?);
        *at += 1;
        let base = unzigzag(take_varint(bytes, at)?);
        let end = *at + (n * w as usize).div_ceil(8);
        if w > 64 || end > bytes.len() {
            return Err(Error::corruption("chunk", *at, "a block runs past the end"));
        }
        for i in 0..n {
            let bit = i * w as usize;
            let low = load64(bytes, *at + bit / 8) >> (bit % 8);
            let high = if bit % 8 > 0 { load64(bytes, *at + bit / 8 + 8) << (64 - bit % 8) } else { 0 };
            out.push(base.wrapping_add(((low | high) & mask(w)) as i64));
        }
        *at = end;
        left -= n;
    }
    for k in (0..usize::from(order)).rev() {
        for i in start + k + 1..out.len() {
            out[i] = out[i].wrapping_add(out[i - 1]);
        }
    }
    Ok(())
}
