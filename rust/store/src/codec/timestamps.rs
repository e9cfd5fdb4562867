//! The time column where it isn't regular: either packed integers, or a grid (multiples of one step with
//! gaps) and the packed distances from it. Jitter costs its own bits then, and a lost scrape two bytes.

use metricsdb_model::Result;

use super::cursor::{Cursor, put_signed, put_varint};
use super::integers;
use super::simd::{Kernel, Simd, dispatch};

const PACKED: u8 = 0;
const GRID: u8 = 1;

/// The one step of all, if there is one; 0 for a single sample.
pub fn regular(timestamps: &[i64]) -> Option<u64> {
    let [first, second, ..] = timestamps else { return Some(0) };
    let step = second.wrapping_sub(*first);
    timestamps.windows(2).all(|w| w[1].wrapping_sub(w[0]) == step).then_some(step as u64)
}

/// Appends a column of at least two; the first is not written.
pub fn encode(timestamps: &[i64], out: &mut Vec<u8>) {
    let mut grid = vec![GRID];
    let fits = encode_grid(timestamps, &mut grid);
    // Jitter of up to a byte a sample can't be packed better than on its grid.
    if fits && grid.len() <= timestamps.len() {
        return out.extend_from_slice(&grid);
    }
    let start = out.len();
    out.push(PACKED);
    integers::encode(timestamps, out);
    if fits && grid.len() < out.len() - start {
        out.truncate(start);
        out.extend_from_slice(&grid);
    }
}

/// The mean of the steps that are near the middle one: jitter cancels, gaps don't count.
fn grid_step(timestamps: &[i64]) -> Option<i64> {
    let steps: Vec<i64> = timestamps.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let mut sorted = steps.clone();
    let middle = *sorted.select_nth_unstable(steps.len() / 2).1;
    if !(2..=1 << 40).contains(&middle) {
        return None;
    }
    let usual = || steps.iter().filter(|&&s| s > middle / 2 && s < middle + middle / 2);
    let (count, sum) = (usual().count() as i64, usual().sum::<i64>());
    if count == 0 { None } else { Some((sum + count / 2) / count) }
}

/// False where no grid fits: some distance is more than half a step.
fn encode_grid(timestamps: &[i64], out: &mut Vec<u8>) -> bool {
    let Some(step) = grid_step(timestamps) else { return false };
    let first = timestamps[0];
    let mut distances = Vec::with_capacity(timestamps.len());
    let mut gaps = Vec::new();
    let mut tick = 0i64;
    let mut last_gap = 0;
    for (i, &t) in timestamps.iter().enumerate() {
        let Some(after) = t.checked_sub(first).filter(|&d| d < 1 << 56) else { return false };
        // Ticks follow one another unless the distance says otherwise, so drift needs no gaps.
        let expected = tick + i64::from(i > 0);
        let off = after - expected * step;
        let missed = if off > step / 2 { (off + step / 2) / step } else { 0 };
        tick = expected + missed;
        if missed > 0 {
            gaps.push((i - last_gap, missed));
            last_gap = i;
        }
        distances.push(after - tick * step);
    }
    if gaps.len() * 8 > timestamps.len() {
        return false;
    }
    put_varint(out, step as u64);
    put_varint(out, gaps.len() as u64);
    for (after, missed) in gaps {
        put_varint(out, after as u64);
        put_signed(out, missed);
    }
    integers::encode(&distances, out);
    true
}

/// Appends all `count` times. On an error `out` may hold a part of them.
pub fn decode(bytes: &[u8], first: i64, count: usize, out: &mut Vec<i64>) -> Result<()> {
    let mut cursor = Cursor::new(bytes);
    let from = out.len();
    match cursor.byte()? {
        PACKED => integers::decode(&mut cursor, first, count, out),
        GRID => decode_grid(&mut cursor, first, count, out),
        _ => Err(cursor.wrong("no such codec of times")),
    }?;
    match out.get(from) {
        Some(&made) if made != first => Err(cursor.wrong("a first time other than the one told")),
        _ => Ok(()),
    }
}

fn decode_grid(cursor: &mut Cursor, first: i64, count: usize, out: &mut Vec<i64>) -> Result<()> {
    let step = cursor.varint()?;
    let gaps = cursor.count()?;
    let mut list = *cursor;
    for _ in 0..gaps {
        cursor.varint()?;
        cursor.signed()?;
    }
    let from = out.len();
    integers::decode(cursor, 0, count, out)?;
    let mut rest = out.get_mut(from..).unwrap_or(&mut []);
    let mut tick = first as u64;
    for _ in 0..gaps {
        let (after, missed) = (list.varint()?, list.signed()?);
        let n = usize::try_from(after).unwrap_or(usize::MAX);
        if n == 0 || n > rest.len() {
            return Err(list.wrong("a gap that follows no sample, or the last"));
        }
        let (piece, more) = std::mem::take(&mut rest).split_at_mut(n);
        tick = add_ticks(piece, tick, step).wrapping_add(step.wrapping_mul(missed as u64));
        rest = more;
    }
    add_ticks(rest, tick, step);
    Ok(())
}

/// Adds `tick`, `tick + step`, … and returns the next.
fn add_ticks(piece: &mut [i64], tick: u64, step: u64) -> u64 {
    let next = tick.wrapping_add(step.wrapping_mul(piece.len() as u64));
    dispatch(Ticks { piece, tick, step });
    next
}

struct Ticks<'a> {
    piece: &'a mut [i64],
    tick: u64,
    step: u64,
}

impl Kernel for Ticks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (i, t) in self.piece.iter_mut().enumerate() {
            *t = t.wrapping_add(self.tick.wrapping_add(self.step.wrapping_mul(i as u64)) as i64);
        }
    }
}

/// Appends `count` times that are `step` apart.
pub fn extend_regular(first: i64, step: u64, count: usize, out: &mut Vec<i64>) {
    let start = out.len();
    out.resize(start + count, 0);
    add_ticks(out.get_mut(start..).unwrap_or(&mut []), first as u64, step);
}

/// The name of the codec of an encoded column.
pub fn name(bytes: &[u8]) -> &'static str {
    match bytes.first() {
        Some(&PACKED) => "packed",
        _ => "grid",
    }
}
