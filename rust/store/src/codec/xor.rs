//! XOR of a double with the one before (Pelkonen et al., Gorilla, 2015): its significant bits within the
//! last window, or with a new one. The window is `leading zeros | length << 8`.

use super::bits::{BitReader, Code};

/// Writes `x`, which isn't 0.
#[inline(always)]
pub fn push(code: &mut Code, x: u64, window: &mut i64) {
    let (lead, tail) = (x.leading_zeros(), x.trailing_zeros());
    let (old_lead, old_len) = parts(*window);
    let len = 64 - lead - tail;
    // A window much wider than needed is given up: a new one costs 12 bits.
    if lead >= old_lead && 64 - tail <= old_lead + old_len && old_len < len + 12 {
        code.push(0, 1);
        code.push(x >> (64 - old_lead - old_len), old_len);
    } else {
        code.push(1, 1);
        code.push(u64::from(lead), 6);
        code.push(u64::from(len - 1), 6);
        code.push(x >> tail, len);
        *window = i64::from(lead | len << 8);
    }
}

#[inline(always)]
pub fn read(r: &mut BitReader, window: &mut i64) -> u64 {
    if r.take(1) == 1 {
        let lead = r.take(6) as u32;
        let len = (r.take(6) as u32 + 1).min(64 - lead);
        *window = i64::from(lead | len << 8);
    }
    let (lead, len) = parts(*window);
    r.take64(len).checked_shl(64 - lead - len).unwrap_or(0)
}

#[inline(always)]
fn parts(window: i64) -> (u32, u32) {
    (window as u32 & 255, (window >> 8) as u32 & 255)
}
