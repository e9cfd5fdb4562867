//! What the codes of an open chunk mean, and which parameters suit the samples that came last.

use metricsdb_model::{Error, Result};

use super::super::bits::{BitReader, mask, unzigzag, width, zigzag};
use super::super::cursor::Cursor;
use super::read::Block;
use super::{FRAME, Writer, number};

/// What a single sample costs beside its number, about, and one with a time of its own.
const SINGLE_BITS: usize = 14;
const LATE_BITS: usize = 18;
/// A short shift of fewer samples is an accident, and so are their times.
const FEW: usize = 4;
/// Below so many samples a code is made a bit wider than they need.
const YOUNG: usize = 8;
/// Codes of a young chunk.
const WIDTH: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// What a number is expected to be more than the last one.
    slope: i64,
    /// The distance of times, milliseconds; 0 while there is none, or if it doesn't fit.
    step: u32,
    /// Bits of a number's distance from what is expected, 1 to 64; all ones are no number.
    pub width: u8,
    /// Bits of a time's distance from what is expected, 0 to 63.
    pub time_width: u8,
    /// Zeros at the end of each distance, which are not written.
    shift: u8,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { slope: 0, step: 0, width: WIDTH, time_width: 0, shift: 0 }
    }
}

impl Parameters {
    pub fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slope.to_le_bytes());
        out.extend_from_slice(&self.step.to_le_bytes());
        out.extend_from_slice(&[self.width, self.time_width, self.shift]);
    }

    pub fn restore(c: &mut Cursor<'_>) -> Result<Parameters> {
        let slope = c.word(8)? as i64;
        let step = c.word(4)? as u32;
        let (width, time_width, shift) = (c.byte()?, c.byte()?, c.byte()?);
        if !(1..=64).contains(&width) || width + time_width.min(64) > 64 || shift > 63 {
            return Err(Error::corruption("open chunk", 0, "parameters that no chunk has"));
        }
        Ok(Parameters { slope, step, width, time_width, shift })
    }

    #[inline(always)]
    pub fn step(&self) -> u64 {
        u64::from(self.step)
    }

    #[inline(always)]
    pub fn is_regular(&self, delta: u64) -> bool {
        delta == u64::from(self.step) && self.step != 0
    }

    /// How many steps a distance of times is, up to 17; `None` where it is none, or no whole one.
    pub fn steps_in(&self, delta: u64) -> Option<u64> {
        let steps = delta.checked_div(self.step())?;
        ((1..=17).contains(&steps) && steps * self.step() == delta).then_some(steps)
    }

    /// The code of a number that is `delta` more than the last.
    #[inline(always)]
    pub fn code_of(&self, delta: i64) -> Option<u64> {
        let rest = delta.wrapping_sub(self.slope);
        let z = zigzag(rest >> self.shift);
        (z < mask(u32::from(self.width)) && rest as u64 & mask(u32::from(self.shift)) == 0).then_some(z)
    }

    /// What a code of a number says it is more than the last.
    #[inline(always)]
    pub fn delta_of(&self, z: u64) -> i64 {
        (unzigzag(z) << self.shift).wrapping_add(self.slope)
    }

    #[inline(always)]
    pub fn time_code_of(&self, delta: u64) -> Option<u64> {
        let z = zigzag(delta.wrapping_sub(self.step()) as i64);
        (z <= mask(u32::from(self.time_width)) && self.step != 0).then_some(z)
    }

    /// The first distance of times becomes the expected one.
    #[inline(always)]
    pub fn learn_step(&mut self, delta: u64) {
        if self.step == 0 {
            self.step = u32::try_from(delta).unwrap_or(0);
        }
    }

    /// Numbers of another mode are about to come.
    pub fn forget_values(&mut self) {
        *self = Parameters { slope: 0, width: WIDTH, shift: 0, ..*self };
    }

    /// Whether a whole frame of codes gives no reason to look for better parameters. `away` is the width between
    /// number and time.
    pub fn suit(&self, codes: &[u64], away: u32) -> bool {
        let w = u32::from(self.width);
        let wide = mask(w - 1).max(1);
        let late = (u64::from(self.time_width > 0)) << (self.time_width.max(1) - 1);
        let (mut widest, mut wider, mut latest, mut sum) = (0, 0, 0, 0i64);
        for &code in codes {
            let z = code & mask(w);
            widest += usize::from(z >= wide);
            wider += usize::from(z >= wide >> 1);
            latest += usize::from(code.checked_shr(w + away).unwrap_or(0) >= late);
            sum = sum.wrapping_add(unzigzag(z));
        }
        let n = codes.len();
        let centred = sum.unsigned_abs() <= (n as u64) << w.saturating_sub(2).min(50);
        (w == 1 || widest > 0 && wider * 8 >= n) && centred && latest * 4 >= n
    }

    /// The parameters that suit recent samples better by more than it costs to write them, or the same. Number and
    /// time have `limit` bits at most.
    pub fn better(&self, recent: &Recent, limit: u32) -> Parameters {
        let n = recent.len();
        if n < 2 {
            return *self;
        }
        let (mut steps, mut deltas) = (recent.steps, recent.deltas);
        let (steps, deltas) = (&mut steps[..n], &mut deltas[..n]);
        let mut found = *self;
        let old = values_cost(deltas, self).saturating_add(times_cost(steps, self));
        let median = *steps.select_nth_unstable(n / 2).1;
        let mut best = usize::MAX;
        for step in [self.step, u32::try_from(median).unwrap_or(0)] {
            if step != 0 && n >= FEW {
                let widths = steps.iter().map(|s| width(zigzag(s.wrapping_sub(u64::from(step)) as i64)));
                let (cost, w) = cheapest(widths, 0, LATE_BITS);
                if cost < best {
                    (best, found.step, found.time_width) = (cost, step, w.min(32) as u8);
                }
            }
        }
        let ends = deltas.iter().fold(0, |all, d| all | d).trailing_zeros();
        let accident = if n >= FEW { 2 } else { 12 };
        found.shift = if ends > accident && ends < 64 { ends as u8 } else { 0 };
        let median = *deltas.select_nth_unstable(n / 2).1;
        let widest = limit - u32::from(found.time_width);
        best = usize::MAX;
        for slope in [self.slope, 0, median] {
            if slope as u64 & mask(u32::from(found.shift)) == 0 {
                let rest = |d: &i64| zigzag(d.wrapping_sub(slope) >> found.shift);
                let widths = deltas.iter().map(|d| width(rest(d).saturating_add(1)));
                let (cost, w) = cheapest(widths, 1, SINGLE_BITS);
                if cost < best {
                    best = cost;
                    found.slope = slope;
                    found.width = (w + u32::from(n < YOUNG)).min(widest) as u8;
                }
            }
        }
        let new = values_cost(deltas, &found).saturating_add(times_cost(steps, &found));
        let written = 25 + width(zigzag(found.slope)) as usize + if found.step == self.step { 0 } else { 21 };
        // As if there were a frame of such samples to come.
        let gain = old.saturating_sub(new).saturating_mul(FRAME) / n;
        if gain > written { found } else { *self }
    }

    /// Writes what is not as it was: three bits that say which, then width, shift and slope, the times' width, the step.
    pub fn write(&self, old: &Parameters, out: &mut Writer<'_>) {
        let values = (self.width, self.shift, self.slope) != (old.width, old.shift, old.slope);
        let (late, step) = (self.time_width != old.time_width, self.step != old.step);
        out.put(u64::from(values) | u64::from(late) << 1 | u64::from(step) << 2, 3);
        if values {
            out.put(u64::from(self.width - 1), 6);
            out.put(u64::from(self.shift), 6);
            out.put_sized(zigzag(self.slope));
        }
        if late {
            out.put(u64::from(self.time_width), 6);
        }
        if step {
            out.put_sized(self.step());
        }
    }

    /// `None` where the bytes say what can't be: codes of more than `limit` bits, or a step of more than 32.
    pub fn read(&mut self, r: &mut BitReader, limit: u32) -> Option<()> {
        let said = r.take(3);
        if said & 1 != 0 {
            self.width = r.take(6) as u8 + 1;
            self.shift = r.take(6) as u8;
            self.slope = unzigzag(super::read::sized(r)?);
        }
        if said & 2 != 0 {
            self.time_width = r.take(6) as u8;
        }
        if said & 4 != 0 {
            self.step = u32::try_from(super::read::sized(r)?).ok()?;
        }
        (u32::from(self.width) + u32::from(self.time_width) <= limit).then_some(())
    }
}

/// Bits that such samples take, about: their numbers, and their times.
fn values_cost(deltas: &[i64], with: &Parameters) -> usize {
    let w = usize::from(with.width);
    let cost = |d: &i64| match with.code_of(*d) {
        Some(_) => w,
        None => w + SINGLE_BITS + width(zigzag(*d)) as usize,
    };
    deltas.iter().map(cost).sum()
}

fn times_cost(steps: &[u64], with: &Parameters) -> usize {
    let w = usize::from(with.time_width);
    let cost = |s: &u64| match with.time_code_of(*s) {
        Some(_) => w,
        None if with.steps_in(*s).is_some() => w + 2 * SINGLE_BITS,
        None => w + LATE_BITS + width(zigzag(s.wrapping_sub(with.step()) as i64)) as usize,
    };
    steps.iter().map(cost).sum()
}

/// The width from `least` on at which numbers of such widths take the fewest bits, and how many: one that doesn't
/// fit takes `odd` bits more.
fn cheapest(widths: impl Iterator<Item = u32>, least: u32, odd: usize) -> (usize, u32) {
    let mut counts = [0usize; 65];
    let (mut n, mut outside) = (0, 0);
    for w in widths {
        counts[w as usize] += 1;
        n += 1;
        outside += w as usize + odd;
    }
    let mut best = (usize::MAX, least);
    for (w, &count) in counts.iter().enumerate() {
        outside -= count * (w + odd);
        if w >= least as usize && n * w + outside < best.0 {
            best = (n * w + outside, w as u32);
        }
    }
    best
}

/// How the last samples of a chunk followed each other.
#[derive(Default)]
pub struct Recent {
    /// Samples that are left out, since so many others follow.
    old: usize,
    last: Option<(i64, i64)>,
    seen: usize,
    steps: [u64; FRAME],
    deltas: [i64; FRAME],
}

impl Recent {
    fn len(&self) -> usize {
        self.seen.min(FRAME)
    }

    /// Of a chunk that has so many samples.
    pub fn of(count: usize) -> Recent {
        Recent { old: count.saturating_sub(FRAME + 1), ..Recent::default() }
    }

    /// Of a frame, as its codes say; `away` is the width between number and time.
    pub fn of_codes(codes: &[u64], with: &Parameters, away: u32) -> Recent {
        let mut recent = Recent { seen: codes.len().min(FRAME), ..Recent::default() };
        let w = u32::from(with.width);
        let places = recent.steps.iter_mut().zip(&mut recent.deltas);
        for (&code, (step, delta)) in codes.iter().zip(places) {
            *delta = with.delta_of(code & mask(w));
            let late = unzigzag(code.checked_shr(w + away).unwrap_or(0));
            *step = with.step().wrapping_add(late as u64);
        }
        recent
    }

    pub fn add(&mut self, block: &Block, mode: u8) {
        let n = block.bits().len();
        if n <= self.old || block.mode != mode {
            *self = Recent { old: self.old.saturating_sub(n), ..Recent::default() };
            return;
        }
        for (&t, &bits) in block.times().iter().zip(block.bits()) {
            if let Some((m, _)) = number(mode, bits) {
                self.push(t, m);
            }
        }
    }

    pub fn push(&mut self, t: i64, m: i64) {
        if let Some((last_time, last)) = self.last {
            let at = self.seen % FRAME;
            self.steps[at] = t.wrapping_sub(last_time) as u64;
            self.deltas[at] = m.wrapping_sub(last);
            self.seen += 1;
        }
        self.last = Some((t, m));
    }
}
