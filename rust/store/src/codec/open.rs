//! The chunk that is being written: a bit stream that grows by a few bits a sample, and a small state
//! that says where it stands. One prefix bit says "the same kind of step as before" for time and value
//! together. Integers and short decimals are coded as adaptive Rice codes of what their mean step leaves
//! over, true doubles by XOR with the value before.

mod saved;

pub use saved::STATE_BYTES;

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{Error, Result, Samples, TimeRange, ValueKind};

use super::bits::{BitReader, Code, unzigzag, width, zigzag};
use super::decimal;
use super::rice::{self, Rice};
use super::timestamps::extend_regular;
use super::xor;

/// The slab slice is too small for one more sample; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Samples that one open chunk holds at most: a late sample among them writes all of them anew.
pub const OPEN_SAMPLES_MAX: usize = 4096;

/// A run of regular, unchanged samples up to this length is written out when it ends; after a longer one
/// another chunk begins.
const RUN_MAX: u16 = 512;

/// Bytes that are enough for one more sample, whatever it is.
pub const SAMPLE_BYTES_MAX: usize = 24;

/// Value modes: 0..=14 decimals of that scale, the same plus `NEAR` when units in the last place follow.
const NEAR: u8 = 16;
const XOR: u8 = 32;
const INT: u8 = 40;
const UINT: u8 = 41;

/// Kinds of steps, in the order of their codes.
const SAME: u8 = 0;
const CHANGED: u8 = 1;
const IRREGULAR: u8 = 2;

/// What an escape means when it isn't a number.
const ESCAPE_STALE: u64 = 65;
const ESCAPE_RAW: u64 = 66;
const ESCAPE_MODE: u64 = 67;

/// The mean step has this many binary places.
const SLOPE_SHIFT: u32 = 4;
const SLOPE_MAX: i64 = 1 << 50;

/// Where an open chunk stands. Together with the written bytes it is the whole chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenState {
    last_time: i64,
    last_bits: u64,
    /// Decimal and integer modes: the mean step. XOR mode: leading zeros, and length << 8, of the window.
    slope: i64,
    /// The last step of time; 0 if it doesn't fit.
    step: u32,
    used_bits: u32,
    count: u16,
    /// How many of the last samples are regular, unchanged and not written yet: they cost nothing.
    run: u16,
    mode: u8,
    class: u8,
    value_rice: u8,
    time_rice: u8,
}

impl OpenState {
    pub fn new(kind: ValueKind) -> OpenState {
        let mode = match kind {
            ValueKind::Float => 0,
            ValueKind::Int => INT,
            ValueKind::Uint => UINT,
        };
        OpenState {
            last_time: 0,
            last_bits: 0,
            slope: 0,
            step: 0,
            used_bits: 0,
            count: 0,
            run: 0,
            mode,
            class: SAME,
            value_rice: 3,
            time_rice: 3,
        }
    }

    pub fn kind(&self) -> ValueKind {
        match self.mode {
            INT => ValueKind::Int,
            UINT => ValueKind::Uint,
            _ => ValueKind::Float,
        }
    }

    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Meaningless while empty.
    pub fn last_time(&self) -> i64 {
        self.last_time
    }

    /// Meaningless while empty.
    pub fn last_bits(&self) -> u64 {
        self.last_bits
    }

    /// Time of the first sample, from the written bytes; `None` while empty.
    pub fn first_time(&self, buf: &[u8]) -> Option<i64> {
        (self.count > 0).then(|| read_first_time(&mut BitReader::new(buf)))
    }

    /// Whether the chunk has `samples` samples and should be sealed. One that holds a single value is
    /// cheapest as it is, so it goes on.
    #[inline]
    pub fn is_due(&self, samples: usize) -> bool {
        let count = self.count();
        count >= samples && (usize::from(self.run) + 2 < count || count >= OPEN_SAMPLES_MAX.max(samples))
    }

    /// Whether the last samples are a run that is too long to be written out.
    pub fn holds_long_run(&self) -> bool {
        self.run > RUN_MAX
    }

    /// Bytes of the buffer that are in use: the prefix to keep when the slice moves.
    pub fn used_bytes(&self) -> usize {
        (self.used_bits as usize).div_ceil(8)
    }

    /// The name of the value codec in use.
    pub fn codec(&self) -> &'static str {
        match self.mode {
            INT | UINT | 0 => "integer",
            XOR => "xor",
            m if m & NEAR != 0 => "decimal+ulp",
            _ => "decimal",
        }
    }
}

/// Appends one sample; `t` must be greater than `last_time`. `buf` is the chunk's whole slice; bytes
/// past `used_bytes` may hold anything. On `Full` nothing has changed: call again with a larger slice
/// that has the same prefix, or with a new chunk where the old one `holds_long_run`. Constant time, no
/// allocation.
#[inline]
pub fn append(state: &mut OpenState, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<(), Full> {
    if state.count == u16::MAX {
        return Err(Full);
    }
    let delta = t.wrapping_sub(state.last_time) as u64;
    if bits == state.last_bits && delta == u64::from(state.step) && state.step != 0 {
        state.last_time = t;
        state.count += 1;
        state.run += 1;
        return Ok(());
    }
    let mut next = *state;
    if state.run > 0 && !next.write_run(buf) {
        return Err(Full);
    }
    let mut time = Code::default();
    let mut value = Code::default();
    if state.count == 0 {
        write_first_time(&mut time, t);
        if !is_integer(next.mode) {
            next.mode = mode_for(bits, 0);
            value.push(u64::from(next.mode), 6);
        }
        push_first(&mut value, next.mode, bits);
        next.reset_window();
    } else {
        next.step_time(&mut time, t, bits != state.last_bits);
        if bits != state.last_bits {
            next.step_value(&mut value, bits);
        }
    }
    let start = next.used_bits;
    let end = start + time.bits() + value.bits();
    if end as usize > buf.len() * 8 {
        return Err(Full);
    }
    time.write(buf, start as usize);
    if value.bits() > 0 {
        value.write(buf, (start + time.bits()) as usize);
    }
    next.last_time = t;
    next.last_bits = bits;
    next.count += 1;
    next.used_bits = end;
    *state = next;
    Ok(())
}

/// Appends all samples to both columns. Errors: `Corruption` when the bytes don't belong to the state.
pub fn decode(state: &OpenState, buf: &[u8], timestamps: &mut Vec<i64>, bits: &mut Vec<u64>) -> Result<()> {
    timestamps.reserve(state.count());
    bits.reserve(state.count());
    each(state, buf, |t, b| {
        timestamps.push(t);
        bits.push(b);
        true
    })?;
    extend_regular(state.run_start(), u64::from(state.step), usize::from(state.run), timestamps);
    bits.resize(bits.len() + usize::from(state.run), state.last_bits);
    Ok(())
}

/// Appends the samples in `range`, integers widened to `f64`. Stops at the end of the range.
pub fn decode_f64(state: &OpenState, buf: &[u8], range: TimeRange, out: &mut Samples) -> Result<()> {
    if range.is_empty() || state.is_empty() || range.start > state.last_time {
        return Ok(());
    }
    let kind = state.kind();
    let Samples { timestamps, values } = out;
    timestamps.reserve(state.count());
    values.reserve(state.count());
    each(state, buf, |t, b| {
        if t > range.end {
            return false;
        }
        if t >= range.start {
            timestamps.push(t);
            values.push(kind.widen(b));
        }
        true
    })?;
    let (start, step) = (state.run_start(), u64::from(state.step).max(1));
    if state.run > 0 && start <= range.end {
        let after = |t: i64| t.wrapping_sub(start) as u64;
        let from = if range.start <= start { 0 } else { after(range.start).div_ceil(step) };
        let to = (after(range.end.min(state.last_time)) / step + 1).max(from);
        let first = start.wrapping_add(step.wrapping_mul(from) as i64);
        extend_regular(first, step, (to - from) as usize, timestamps);
        values.resize(values.len() + (to - from) as usize, kind.widen(state.last_bits));
    }
    Ok(())
}

/// The decoder proper, for the samples that are written: calls `sink` until it says false.
#[inline(always)]
fn each(state: &OpenState, buf: &[u8], mut sink: impl FnMut(i64, u64) -> bool) -> Result<()> {
    if state.is_empty() {
        return Ok(());
    }
    let used = state.used_bits as usize;
    if used > buf.len() * 8 {
        return Err(Error::corruption("open chunk", buf.len(), "the bytes end before the state says"));
    }
    let mut r = BitReader::new(buf);
    let mut now = OpenState::new(state.kind());
    now.last_time = read_first_time(&mut r);
    if !is_integer(now.mode) {
        now.mode = checked_mode(r.take(6) as u8)?;
    }
    now.last_bits = read_first(&mut r, now.mode);
    now.reset_window();
    if !sink(now.last_time, now.last_bits) {
        return Ok(());
    }
    // The mantissa is carried along: going back to it through a division would be the longest chain.
    let mut m = now.last_mantissa();
    let mut left = state.count - state.run - 1;
    while left > 0 {
        let word = r.peek();
        // A run of samples that are regular and unchanged.
        if now.class == SAME && word & 1 == 0 {
            let run = word.trailing_zeros().min(56).min(u32::from(left));
            r.skip(run);
            left -= run as u16;
            if r.position() > used {
                return Err(Error::corruption("open chunk", used / 8, "a sample runs past the end"));
            }
            for _ in 0..run {
                now.last_time = now.last_time.wrapping_add(i64::from(now.step));
                if !sink(now.last_time, now.last_bits) {
                    return Ok(());
                }
            }
            continue;
        }
        left -= 1;
        let prefix = now.read_class(word);
        if now.class != IRREGULAR {
            now.last_time = now.last_time.wrapping_add(i64::from(now.step));
            if now.class == CHANGED && !now.read_short(&mut r, word >> prefix, prefix, &mut m) {
                r.skip(prefix);
                now.read_value(&mut r, &mut m)?;
            } else if now.class == SAME {
                r.skip(prefix);
            }
        } else {
            r.skip(prefix);
            if now.read_irregular(&mut r) {
                now.read_value(&mut r, &mut m)?;
            }
        }
        if r.position() > used {
            return Err(Error::corruption("open chunk", used / 8, "a sample runs past the end"));
        }
        if !sink(now.last_time, now.last_bits) {
            return Ok(());
        }
    }
    Ok(())
}

/// Deltas of integers wrap, so that those without a sign are written as those with one.
#[inline(always)]
fn is_integer(mode: u8) -> bool {
    mode >= INT
}

fn checked_mode(mode: u8) -> Result<u8> {
    if mode <= XOR {
        Ok(mode)
    } else {
        Err(Error::corruption("open chunk", 0, format!("value mode {mode} does not exist")))
    }
}

/// The mode for a value that no scale below `from` holds.
#[cold]
#[inline(never)]
fn mode_for(bits: u64, from: u8) -> u8 {
    let v = f64::from_bits(bits);
    if decimal::is_special(bits) {
        return 0;
    }
    match decimal::scale(v, from) {
        Some(e) => e,
        None => decimal::scale_near(v, from).map_or(XOR, |e| e | NEAR),
    }
}

/// 44 bits hold the milliseconds of five centuries.
fn write_first_time(code: &mut Code, t: i64) {
    if (0..1 << 44).contains(&t) {
        code.push(0, 1);
        code.push(t as u64, 44);
    } else {
        code.push(1, 1);
        code.push(t as u64, 64);
    }
}

fn read_first_time(r: &mut BitReader) -> i64 {
    let long = r.take(1) == 1;
    r.take64(if long { 64 } else { 44 }) as i64
}

/// One bit: mantissa by its width, or all 64 bits.
fn push_first(code: &mut Code, mode: u8, bits: u64) {
    let m = match mode {
        mode if is_integer(mode) => Some(bits as i64),
        m if m < NEAR => decimal::exact(f64::from_bits(bits), m),
        _ => None,
    };
    match m.map(zigzag).map(|z| (z, width(z))) {
        Some((z, n)) if n < 56 => {
            code.push(0, 1);
            code.push(u64::from(n), 6);
            code.push(z, n);
        }
        _ => {
            code.push(1, 1);
            code.push(bits, 64);
        }
    }
}

fn read_first(r: &mut BitReader, mode: u8) -> u64 {
    if r.take(1) == 1 {
        return r.take64(64);
    }
    let n = r.take(6) as u32;
    let m = unzigzag(r.take64(n));
    if is_integer(mode) { m as u64 } else { decimal::value(m, mode & 15).to_bits() }
}

/// Two bits for 0, 1 and -1; 3 and four bits more, the lowest of them the sign, for 2 to 9.
fn push_away(code: &mut Code, away: i64) {
    match away {
        0 | 1 => code.push(away as u64, 2),
        -1 => code.push(2, 2),
        _ => code.push(3 | (away.unsigned_abs() - 2) << 3 | u64::from(away < 0) << 2, 6),
    }
}

fn read_away(r: &mut BitReader) -> i64 {
    match r.take(2) {
        2 => -1,
        3 => {
            let (negative, size) = (r.take(1) == 1, r.take(3) as i64 + 2);
            if negative { -size } else { size }
        }
        small => small as i64,
    }
}

/// A value that the mode can't hold: a marker, a single exception, or a new mode, which is returned.
#[cold]
#[inline(never)]
fn escape_value(mode: u8, bits: u64) -> (Code, u8) {
    let mut code = Code::default();
    let mut next = mode;
    if bits == STALE_NAN_BITS {
        rice::push_escape(&mut code, ESCAPE_STALE);
    } else if decimal::is_special(bits) {
        rice::push_escape(&mut code, ESCAPE_RAW);
        code.push(bits, 64);
    } else {
        next = mode_for(bits, mode & 15);
        rice::push_escape(&mut code, ESCAPE_MODE);
        code.push(u64::from(next), 6);
        push_first(&mut code, next, bits);
    }
    (code, next)
}

/// What follows an escape that is no number: the reader behind it, the mode from now on, the value.
#[cold]
#[inline(never)]
fn read_other(mut r: BitReader, what: u64, mut mode: u8) -> Result<(BitReader, u8, u64)> {
    let bits = match what {
        ESCAPE_STALE => STALE_NAN_BITS,
        ESCAPE_RAW => r.take64(64),
        ESCAPE_MODE if !is_integer(mode) => {
            mode = checked_mode(r.take(6) as u8)?;
            read_first(&mut r, mode)
        }
        _ => {
            let at = r.position() / 8;
            return Err(Error::corruption("open chunk", at, format!("escape {what} does not exist")));
        }
    };
    Ok((r, mode, bits))
}

impl OpenState {
    /// Time of the first sample of the run.
    fn run_start(&self) -> i64 {
        let back = u64::from(self.step).wrapping_mul(u64::from(self.run.saturating_sub(1)));
        self.last_time.wrapping_sub(back as i64)
    }

    /// Writes the run out as it would stand there had each sample been written by itself; false where
    /// there is no room or the run is too long. Bytes past `used_bits` may then hold anything.
    #[cold]
    #[inline(never)]
    fn write_run(&mut self, buf: &mut [u8]) -> bool {
        let (code, mut zeros) = if self.class == SAME { (None, self.run) } else { (Some(1), self.run - 1) };
        let bits = u32::from(zeros) + if code.is_some() { 2 } else { 0 };
        if self.run > RUN_MAX || (self.used_bits + bits) as usize > buf.len() * 8 {
            return false;
        }
        let mut put = |bits: u64, len: u32| {
            let mut piece = Code::default();
            piece.push(bits, len);
            piece.write(buf, self.used_bits as usize);
            self.used_bits += len;
        };
        if let Some(code) = code {
            put(code, 2);
        }
        while zeros > 0 {
            let len = zeros.min(64);
            put(0, u32::from(len));
            zeros -= len;
        }
        (self.class, self.run) = (SAME, 0);
        true
    }

    fn reset_window(&mut self) {
        self.slope = 0;
        self.value_rice = 3;
    }

    /// The code of a class: `0` the same as before, `10` and `11` the other two in their order.
    #[inline(always)]
    fn step_time(&mut self, code: &mut Code, t: i64, changed: bool) {
        let delta = t.wrapping_sub(self.last_time) as u64;
        let regular = delta == u64::from(self.step) && self.step != 0;
        let class = if regular { u8::from(changed) } else { IRREGULAR };
        if class == self.class {
            code.push(0, 1);
        } else {
            let second = class == IRREGULAR || (class == CHANGED && self.class == IRREGULAR);
            code.push(1 | u64::from(second) << 1, 2);
        }
        self.class = class;
        if !regular {
            rice::push(code, zigzag(delta.wrapping_sub(u64::from(self.step)) as i64), &mut self.time_rice);
            code.push(u64::from(changed), 1);
            self.step = u32::try_from(delta).unwrap_or(0);
        }
    }

    /// Reads the class; the bits that its code takes.
    #[inline(always)]
    fn read_class(&mut self, word: u64) -> u32 {
        if word & 1 == 0 {
            return 1;
        }
        self.class = match (self.class, word & 2 != 0) {
            (SAME, false) => CHANGED,
            (SAME | CHANGED, true) => IRREGULAR,
            (IRREGULAR, true) => CHANGED,
            _ => SAME,
        };
        2
    }

    /// Reads a changed value when its code lies within a word that was already read, `used` bits behind
    /// the reader. False, and nothing read, for escapes and modes that need more.
    #[inline(always)]
    fn read_short(&mut self, r: &mut BitReader, word: u64, used: u32, m: &mut i64) -> bool {
        let k = u32::from(self.value_rice);
        let q = word.trailing_ones();
        // Escapes have no end within the limit; 57 bits of a word are sure to be there.
        if q >= rice::QUOTIENT_MAX || used + q + 1 + k > 57 || self.mode & NEAR != 0 || self.mode == XOR {
            return false;
        }
        let z = (word >> (q + 1) & ((1 << k) - 1)) | u64::from(q) << k;
        r.skip(used + q + 1 + k);
        rice::adapt(&mut self.value_rice, z);
        let delta = unzigzag(z).wrapping_add(self.slope >> SLOPE_SHIFT);
        *m = m.wrapping_add(delta);
        self.learn(delta);
        self.last_bits =
            if is_integer(self.mode) { *m as u64 } else { decimal::value(*m, self.mode).to_bits() };
        true
    }

    #[inline(always)]
    fn read_irregular(&mut self, r: &mut BitReader) -> bool {
        let z = match rice::read(r, &mut self.time_rice) {
            Rice::Number(z) | Rice::Other(z) => z,
        };
        let delta = u64::from(self.step).wrapping_add(unzigzag(z) as u64);
        self.last_time = self.last_time.wrapping_add(delta as i64);
        self.step = u32::try_from(delta).unwrap_or(0);
        r.take(1) == 1
    }

    /// Codes a value that differs from the last.
    #[inline(always)]
    fn step_value(&mut self, code: &mut Code, bits: u64) {
        if self.mode == XOR {
            xor::push(code, bits ^ self.last_bits, &mut self.slope);
            return;
        }
        let v = f64::from_bits(bits);
        let e = self.mode & 15;
        let (m, away) = if is_integer(self.mode) {
            (bits as i64, 0)
        } else if self.mode & NEAR == 0 {
            match decimal::exact(v, e) {
                Some(m) => (m, 0),
                None => return self.escape(code, bits),
            }
        } else {
            match decimal::near(v, e) {
                Some(found) => found,
                None => return self.escape(code, bits),
            }
        };
        let delta = m.wrapping_sub(self.last_mantissa());
        let rest = delta.wrapping_sub(self.slope >> SLOPE_SHIFT);
        rice::push(code, zigzag(rest), &mut self.value_rice);
        self.learn(delta);
        if self.mode & NEAR != 0 && self.mode < XOR {
            push_away(code, away);
        }
    }

    #[inline(always)]
    fn last_mantissa(&self) -> i64 {
        if is_integer(self.mode) {
            self.last_bits as i64
        } else {
            decimal::mantissa(f64::from_bits(self.last_bits), self.mode & 15)
        }
    }

    #[inline(always)]
    fn learn(&mut self, delta: i64) {
        let target = delta.clamp(-SLOPE_MAX, SLOPE_MAX) << SLOPE_SHIFT;
        self.slope += (target - self.slope) >> 3;
    }

    #[inline(always)]
    fn escape(&mut self, code: &mut Code, bits: u64) {
        let mode;
        (*code, mode) = escape_value(self.mode, bits);
        if mode != self.mode {
            self.mode = mode;
            self.reset_window();
        }
    }

    #[inline(always)]
    fn read_value(&mut self, r: &mut BitReader, m: &mut i64) -> Result<()> {
        if self.mode == XOR {
            self.last_bits ^= xor::read(r, &mut self.slope);
            return Ok(());
        }
        let z = match rice::read(r, &mut self.value_rice) {
            Rice::Number(z) => z,
            Rice::Other(what) => {
                let found = read_other(*r, what, self.mode)?;
                (*r, self.last_bits) = (found.0, found.2);
                if found.1 != self.mode {
                    self.mode = found.1;
                    self.reset_window();
                }
                *m = self.last_mantissa();
                return Ok(());
            }
        };
        let delta = unzigzag(z).wrapping_add(self.slope >> SLOPE_SHIFT);
        *m = m.wrapping_add(delta);
        self.learn(delta);
        self.last_bits = if is_integer(self.mode) {
            *m as u64
        } else if self.mode & NEAR == 0 {
            decimal::value(*m, self.mode).to_bits()
        } else {
            let away = read_away(r);
            decimal::value(*m, self.mode & 15).to_bits().wrapping_add(away as u64)
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
