//! The chunk that is being written: a bit stream that grows by a few bits a sample, and a small state that says
//! where it stands. Most samples are codes of one width, which a reader takes out of the stream without waiting
//! for the one before; what doesn't fit a code is a record of its own, and so are new parameters. FORMAT.md
//! has the layout.

mod saved;

pub use saved::STATE_BYTES;

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{Result, Samples, TimeRange, ValueKind};

use super::bits::{BitReader, Code, mask, width, zigzag};
use super::decimal;
use super::simd::{Kernel, Simd, dispatch};
use super::timestamps::extend_regular;
use parameters::{Parameters, Recent};
use read::{Block, Reader};

mod parameters;
mod read;

/// The slab slice is too small for one more sample; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Samples that one open chunk holds at most: a late sample among them writes all of them anew.
pub const OPEN_SAMPLES_MAX: usize = 4096;

/// A run of regular, unchanged samples up to this length is written out when it ends; after a longer one
/// another chunk begins.
const RUN_MAX: u16 = 1 << RUN_BITS;
const RUN_BITS: u32 = 9;

/// Bytes that are enough for one more sample, whatever it is.
pub const SAMPLE_BYTES_MAX: usize = 48;

/// Value modes: 0..=14 decimals of that scale, the same plus `NEAR` when units in the last place follow.
const NEAR: u8 = 16;
/// The bits of a double, read as an integer.
const RAW: u8 = 32;
const INT: u8 = 40;
const UINT: u8 = 41;

/// Codes of a frame.
const FRAME: usize = 32;
/// Codes after a record before which one that doesn't fit asks for other parameters.
const YOUNG: u8 = 8;
/// A code holds as many bits of a `NEAR` value's distance.
const AWAY_BITS: u32 = 3;
/// A single sample as many.
const AWAY_LONG_BITS: u32 = 5;

/// What follows the bit 1, in two bits; the bit 0 begins a frame.
const PARAMETERS: u64 = 0;
const RUN: u64 = 1;
const SINGLE: u64 = 2;

/// What a single sample says of its time, in two bits: the distance is the step; or as many steps as follow, less
/// two, in four bits; or any.
const REGULAR: u64 = 0;
const LOST: u64 = 1;
const LOST_BITS: u32 = 4;
const LATE: u64 = 2;

/// What it says of its value, in two bits.
const UNCHANGED: u64 = 0;
const NUMBER: u64 = 1;
const STALE: u64 = 2;
const OTHER: u64 = 3;

/// Where an open chunk stands. Together with the written bytes it is the whole chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenState {
    last_time: i64,
    last_bits: u64,
    parameters: Parameters,
    used_bits: u16,
    count: u16,
    /// How many of the last samples are regular, unchanged and not written yet: they cost nothing.
    run: u16,
    mode: u8,
    /// Codes since the last record, up to 64, where they go on at 32. A multiple of 32: no frame is begun.
    codes: u8,
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
            parameters: Parameters::default(),
            used_bits: 0,
            count: 0,
            run: 0,
            mode,
            codes: 0,
        }
    }

    /// A new chunk behind another one of the series, which begins with its parameters.
    pub fn behind(last: &OpenState, kind: ValueKind) -> OpenState {
        let fresh = OpenState::new(kind);
        if last.kind() != kind {
            fresh
        } else {
            OpenState { mode: last.mode, parameters: last.parameters, ..fresh }
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
        (self.count > 0).then(|| read::first_time(&mut BitReader::new(buf)))
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
        usize::from(self.used_bits).div_ceil(8)
    }

    /// The name of the value codec in use.
    pub fn codec(&self) -> &'static str {
        match self.mode {
            INT | UINT | 0 => "integer",
            RAW => "bits",
            m if m & NEAR != 0 => "decimal+ulp",
            _ => "decimal",
        }
    }
}

/// Appends one sample; `t` must be greater than `last_time`. `buf` is the chunk's whole slice; bytes
/// past `used_bytes` may hold anything. On `Full` nothing has changed but those: call again with a larger slice
/// that has the same prefix, or with a new chunk where the old one `holds_long_run` or has 8 KiB. Constant time on
/// average, no allocation.
#[inline]
pub fn append(state: &mut OpenState, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<(), Full> {
    if state.count == u16::MAX {
        return Err(Full);
    }
    let delta = t.wrapping_sub(state.last_time) as u64;
    if bits == state.last_bits && state.parameters.is_regular(delta) && state.count > 0 {
        state.last_time = t;
        state.count += 1;
        state.run += 1;
        return Ok(());
    }
    // In place: it changes nothing where it doesn't write.
    if state.run == 0 && state.write_code(buf, delta, bits) {
        state.last_time = t;
        state.last_bits = bits;
        state.count += 1;
        if usize::from(state.codes) % FRAME == 0 {
            state.end_frame(buf);
        }
        return Ok(());
    }
    let mut next = *state;
    next.write_slowly(buf, t, bits)?;
    *state = next;
    Ok(())
}

/// Appends all samples to both columns. Errors: `Corruption` when the bytes don't belong to the state.
pub fn decode(state: &OpenState, buf: &[u8], timestamps: &mut Vec<i64>, bits: &mut Vec<u64>) -> Result<()> {
    timestamps.reserve(state.count());
    bits.reserve(state.count());
    each(state, buf, |block| {
        timestamps.extend_from_slice(block.times());
        bits.extend_from_slice(block.bits());
        true
    })?;
    extend_regular(state.run_start(), state.parameters.step(), usize::from(state.run), timestamps);
    bits.resize(bits.len() + usize::from(state.run), state.last_bits);
    Ok(())
}

/// Appends the samples in `range`, integers widened to `f64`. Stops at the end of the range.
pub fn decode_f64(state: &OpenState, buf: &[u8], range: TimeRange, out: &mut Samples) -> Result<()> {
    let Samples { timestamps, values } = out;
    timestamps.reserve(state.count());
    values.reserve(state.count());
    let (first, n) = within(state, buf, range, |block, from, to| {
        timestamps.extend_from_slice(&block.times()[from..to]);
        widen(state.kind(), &block.bits()[from..to], values);
    })?;
    extend_regular(first, state.parameters.step().max(1), n, timestamps);
    values.resize(values.len() + n, state.kind().widen(state.last_bits));
    Ok(())
}

/// As `decode_f64`, the values alone.
pub fn decode_values(state: &OpenState, buf: &[u8], range: TimeRange, values: &mut Vec<f64>) -> Result<()> {
    values.reserve(state.count());
    let (_, n) = within(state, buf, range, |block, from, to| {
        widen(state.kind(), &block.bits()[from..to], values);
    })?;
    values.resize(values.len() + n, state.kind().widen(state.last_bits));
    Ok(())
}

/// How many samples lie in `range`, and their exact sum, where all are known to be small integers; else `None`.
pub fn integer_sum(state: &OpenState, buf: &[u8], range: TimeRange) -> Result<Option<(usize, i64)>> {
    let kind = state.kind();
    let (mut count, mut sums) = (0, Sums::default());
    let (_, n) = within(state, buf, range, |block, from, to| {
        let bits = &block.bits()[from..to];
        count += bits.len();
        sums.is_whole &= block.mode == 0 || is_integer(block.mode);
        match kind {
            ValueKind::Float => sums.add(bits, f64::from_bits),
            _ => sums.add(bits, |b| kind.widen(b)),
        }
    })?;
    let last = kind.widen(state.last_bits);
    let mut run = Sums::default();
    if n > 0 {
        run.add(&[state.last_bits], |b| kind.widen(b));
        run.is_whole &= last.fract() == 0.0;
    }
    let whole = sums.total().zip(run.total());
    Ok(whole.map(|(sum, last)| (count + n, sum + last * n as i64)))
}

/// Sums of integers: exact in any order, as long as there are no more than an open chunk holds.
struct Sums {
    lanes: [f64; LANES],
    is_whole: bool,
}

const LANES: usize = 8;
/// Integers below, as many as an open chunk holds, add up without rounding.
const SUMMED_MAX: f64 = (1u64 << 36) as f64;

impl Default for Sums {
    fn default() -> Sums {
        Sums { lanes: [0.0; LANES], is_whole: true }
    }
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, bits: &[u64], widen: impl Fn(u64) -> f64) {
        let (lanes, rest) = bits.as_chunks::<LANES>();
        let mut is_small = [true; LANES];
        for chunk in lanes {
            for (lane, &b) in chunk.iter().enumerate() {
                let v = widen(b);
                self.lanes[lane] += v;
                is_small[lane] &= v.abs() < SUMMED_MAX;
            }
        }
        for (lane, &b) in rest.iter().enumerate() {
            let v = widen(b);
            self.lanes[lane] += v;
            is_small[lane] &= v.abs() < SUMMED_MAX;
        }
        self.is_whole &= is_small.iter().all(|small| *small);
    }

    fn total(&self) -> Option<i64> {
        self.is_whole.then(|| self.lanes.iter().sum::<f64>() as i64)
    }
}

fn widen(kind: ValueKind, bits: &[u64], values: &mut Vec<f64>) {
    match kind {
        ValueKind::Float => values.extend(bits.iter().map(|&b| f64::from_bits(b))),
        _ => values.extend(bits.iter().map(|&b| kind.widen(b))),
    }
}

/// Hands the samples in `range` that are written to `sink`, as stretches of blocks; those that are not are a run: the
/// time of its first one in `range`, and how many there are.
#[inline(always)]
fn within(
    state: &OpenState,
    buf: &[u8],
    range: TimeRange,
    sink: impl FnMut(&Block, usize, usize),
) -> Result<(i64, usize)> {
    if range.is_empty() || state.is_empty() || range.start > state.last_time {
        return Ok((0, 0));
    }
    dispatch(Within { state, buf, range, sink })?;
    let (start, step) = (state.run_start(), state.parameters.step().max(1));
    if state.run == 0 || start > range.end {
        return Ok((0, 0));
    }
    let after = |t: i64| t.wrapping_sub(start) as u64;
    let from = if range.start <= start { 0 } else { after(range.start).div_ceil(step) };
    let to = (after(range.end.min(state.last_time)) / step + 1).max(from);
    Ok((start.wrapping_add(step.wrapping_mul(from) as i64), (to - from) as usize))
}

struct Within<'a, F> {
    state: &'a OpenState,
    buf: &'a [u8],
    range: TimeRange,
    sink: F,
}

impl<F: FnMut(&Block, usize, usize)> Kernel for Within<'_, F> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) -> Result<()> {
        let range = self.range;
        each(self.state, self.buf, |block| {
            let times = block.times();
            let is_within = |time: Option<&i64>| time.is_some_and(|&t| range.contains(t));
            if is_within(times.first()) && is_within(times.last()) {
                (self.sink)(block, 0, times.len());
                return true;
            }
            let from = times.partition_point(|&t| t < range.start);
            let to = times.partition_point(|&t| t <= range.end);
            (self.sink)(block, from, to.max(from));
            to == times.len()
        })
    }
}

/// Hands the samples that are written to `sink`, a few at once, until it says false.
#[inline(always)]
fn each(state: &OpenState, buf: &[u8], mut sink: impl FnMut(&Block) -> bool) -> Result<()> {
    let Some(mut reader) = Reader::new(state, buf)? else { return Ok(()) };
    while sink(&reader.block) && reader.advance()? {}
    Ok(())
}

/// Deltas of integers wrap, so that those without a sign are written as those with one.
#[inline(always)]
fn is_integer(mode: u8) -> bool {
    mode >= INT
}

#[inline(always)]
fn is_near(mode: u8) -> bool {
    mode & NEAR != 0 && mode < RAW
}

/// Bits of a code that say how far from its decimal a value is.
#[inline(always)]
fn away_bits(mode: u8) -> u32 {
    if is_near(mode) { AWAY_BITS } else { 0 }
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
        None => decimal::scale_near(v, from).map_or(RAW, |e| e | NEAR),
    }
}

/// The integer that stands for a value in a mode, and what is away from it; `None` where the mode can't hold it.
#[inline(always)]
fn number(mode: u8, bits: u64) -> Option<(i64, i64)> {
    if mode >= RAW {
        return Some((bits as i64, 0));
    }
    let v = f64::from_bits(bits);
    if mode & NEAR == 0 { Some((decimal::exact(v, mode)?, 0)) } else { decimal::near(v, mode & 15) }
}

/// The integer that the next number is told from.
#[inline(always)]
fn last_number(mode: u8, bits: u64) -> i64 {
    if mode >= RAW { bits as i64 } else { decimal::mantissa(f64::from_bits(bits), mode & 15) }
}

/// What there is to write, piece by piece, into a slice that may be too short for it.
struct Writer<'a> {
    buf: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline(always)]
    fn push(&mut self, code: &Code) {
        // Checked once behind the last piece: what lies past the end is not written.
        if self.at + code.bits() as usize <= self.buf.len() * 8 {
            code.write(self.buf, self.at);
        }
        self.at += code.bits() as usize;
    }

    fn put(&mut self, bits: u64, len: u32) {
        let mut code = Code::default();
        code.push(bits, len);
        self.push(&code);
    }

    /// A number by its width, in seven bits, and its bits.
    fn put_sized(&mut self, z: u64) {
        let n = width(z);
        self.put(u64::from(n), 7);
        self.put(z, n);
    }

    fn end(&self) -> std::result::Result<u16, Full> {
        if self.at > self.buf.len() * 8 { Err(Full) } else { u16::try_from(self.at).map_err(|_| Full) }
    }
}

impl OpenState {
    /// Time of the first sample of the run.
    fn run_start(&self) -> i64 {
        let back = self.parameters.step().wrapping_mul(u64::from(self.run.saturating_sub(1)));
        self.last_time.wrapping_sub(back as i64)
    }

    /// Whether a frame is begun.
    #[inline(always)]
    fn in_frame(&self) -> bool {
        usize::from(self.codes) % FRAME != 0
    }

    /// The code of a sample behind the last one; `None` where it has none.
    #[inline(always)]
    fn code(&self, delta: u64, bits: u64) -> Option<u64> {
        let p = &self.parameters;
        let (m, away) = number(self.mode, bits)?;
        let z = p.code_of(m.wrapping_sub(last_number(self.mode, self.last_bits)))?;
        let late = p.time_code_of(delta)?;
        let mut code = z;
        let mut at = u32::from(p.width);
        if is_near(self.mode) {
            let away = zigzag(away);
            if away > mask(AWAY_BITS) {
                return None;
            }
            code |= away << at;
            at += AWAY_BITS;
        }
        Some(if p.time_width == 0 { code } else { code | late << at })
    }

    /// Bits of a code.
    #[inline(always)]
    fn code_bits(&self) -> u32 {
        u32::from(self.parameters.width) + u32::from(self.parameters.time_width) + away_bits(self.mode)
    }

    /// Writes a sample as a code; false, and nothing written, where it has none or there is no room.
    #[inline(always)]
    fn write_code(&mut self, buf: &mut [u8], delta: u64, bits: u64) -> bool {
        if self.count == 0 {
            return false;
        }
        let Some(found) = self.code(delta, bits) else { return false };
        let mut code = Code::default();
        if !self.in_frame() {
            code.push(0, 1);
        }
        code.push(found, self.code_bits());
        let at = usize::from(self.used_bits);
        let end = at + code.bits() as usize;
        if end > buf.len() * 8 || end > usize::from(u16::MAX) {
            return false;
        }
        code.write(buf, at);
        self.used_bits = end as u16;
        self.codes = if self.codes == 63 { 32 } else { self.codes + 1 };
        true
    }

    /// Anything but a code behind a code.
    #[cold]
    #[inline(never)]
    fn write_slowly(&mut self, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<(), Full> {
        let delta = t.wrapping_sub(self.last_time) as u64;
        // Where no run came in between, the sample was found to have no code.
        let mut written = false;
        if self.run > 0 {
            self.write_run(buf)?;
            written = self.write_code(buf, delta, bits);
        }
        // To look for others takes as long as to write some ten samples: not each time where nothing suits.
        if !written
            && self.codes < YOUNG
            && self.count > 1
            && (self.count < 5 || self.count.is_multiple_of(4))
            && self.choose(buf, t, bits)?
        {
            written = self.write_code(buf, delta, bits);
        }
        if !written {
            self.write_single(buf, t, bits)?;
        }
        self.last_time = t;
        self.last_bits = bits;
        self.count += 1;
        Ok(())
    }

    /// Writes the run out; it is over then.
    fn write_run(&mut self, buf: &mut [u8]) -> std::result::Result<(), Full> {
        if self.run > RUN_MAX {
            return Err(Full);
        }
        let codes = u32::from(self.run) * self.code_bits();
        let mut left = self.run;
        if codes <= self.leave_bits() + 3 + RUN_BITS {
            while left > 0 && self.write_code(buf, self.parameters.step(), self.last_bits) {
                left -= 1;
            }
        }
        if left > 0 {
            let mut out = self.leave(buf, RUN);
            out.put(u64::from(left - 1), RUN_BITS);
            self.used_bits = out.end()?;
        }
        self.run = 0;
        Ok(())
    }

    /// Bits of the escape that ends a frame.
    fn leave_bits(&self) -> u32 {
        if self.in_frame() { u32::from(self.parameters.width) } else { 0 }
    }

    /// Ends the frame and begins a record.
    fn leave<'a>(&mut self, buf: &'a mut [u8], kind: u64) -> Writer<'a> {
        let mut out = Writer { buf, at: usize::from(self.used_bits) };
        let n = self.leave_bits();
        out.put(mask(n), n);
        out.put(1 | kind << 1, 3);
        // A run says nothing against the parameters.
        self.codes = if kind == RUN && self.codes >= YOUNG { FRAME as u8 } else { 0 };
        out
    }

    fn write_single(&mut self, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<(), Full> {
        if self.count == 0 {
            return self.write_first(buf, t, bits);
        }
        let was = *self;
        let mut out = self.leave(buf, SINGLE);
        let delta = t.wrapping_sub(self.last_time) as u64;
        match self.parameters.steps_in(delta) {
            Some(1) => out.put(REGULAR, 2),
            Some(steps) => out.put(LOST | (steps - 2) << 2, 2 + LOST_BITS),
            None => {
                out.put(LATE, 2);
                out.put_sized(zigzag(delta.wrapping_sub(self.parameters.step()) as i64));
                self.parameters.learn_step(delta);
            }
        }
        // A time says nothing against the parameters of numbers.
        if was.codes >= YOUNG && was.code(self.parameters.step(), bits).is_some() {
            self.codes = FRAME as u8;
        }
        if bits == self.last_bits {
            out.put(UNCHANGED, 2);
        } else if bits == STALE_NAN_BITS && !is_integer(self.mode) {
            out.put(STALE, 2);
        } else if let Some((m, away)) = number(self.mode, bits) {
            out.put(NUMBER, 2);
            out.put_sized(zigzag(m.wrapping_sub(last_number(self.mode, self.last_bits))));
            if is_near(self.mode) {
                out.put(zigzag(away), AWAY_LONG_BITS);
            }
        } else {
            out.put(OTHER, 2);
            if !decimal::is_special(bits) {
                self.mode = mode_for(bits, self.mode & 15);
                self.parameters.forget_values();
            }
            out.put(u64::from(self.mode), 6);
            push_first(&mut out, self.mode, bits);
        }
        self.used_bits = out.end()?;
        Ok(())
    }

    fn write_first(&mut self, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<(), Full> {
        let mut out = Writer { buf, at: 0 };
        // 44 bits hold the milliseconds of five centuries.
        let short = (0..1 << 44).contains(&t);
        out.put(u64::from(!short), 1);
        out.put(t as u64, if short { 44 } else { 64 });
        if !is_integer(self.mode) {
            if number(self.mode, bits).is_none() {
                self.mode = mode_for(bits, 0);
                self.parameters.forget_values();
            }
            out.put(u64::from(self.mode), 6);
        }
        push_first(&mut out, self.mode, bits);
        if self.parameters != Parameters::default() {
            out.put(1 | PARAMETERS << 1, 3);
            self.parameters.write(&Parameters::default(), &mut out);
        }
        self.used_bits = out.end()?;
        Ok(())
    }

    /// Behind the last code of a frame: others, where the parameters no longer suit. Nothing happens without room.
    #[cold]
    #[inline(never)]
    fn end_frame(&mut self, buf: &mut [u8]) {
        let bits = self.code_bits();
        let start = usize::from(self.used_bits) - FRAME * bits as usize;
        let mut codes = [0; FRAME];
        let codes = read::codes_at(buf, start, bits, FRAME, &mut codes);
        let away = away_bits(self.mode);
        if self.parameters.suit(codes, away) {
            return;
        }
        let mut next = *self;
        if next.change(buf, &Recent::of_codes(codes, &self.parameters, away)).is_ok() {
            *self = next;
        }
    }

    /// Changes to parameters that suit the last samples and the one to come; whether these are others.
    fn choose(&mut self, buf: &mut [u8], t: i64, bits: u64) -> std::result::Result<bool, Full> {
        let mut recent = Recent::of(self.count());
        let read = each(self, buf, |block| {
            recent.add(block, self.mode);
            true
        });
        if read.is_err() {
            return Ok(false);
        }
        let Some((m, _)) = number(self.mode, bits) else { return Ok(false) };
        recent.push(t, m);
        self.change(buf, &recent)
    }

    /// Writes the parameters that suit recent samples, where they are others; whether they are.
    fn change(&mut self, buf: &mut [u8], recent: &Recent) -> std::result::Result<bool, Full> {
        let found = self.parameters.better(recent, 64 - away_bits(self.mode));
        if found == self.parameters {
            return Ok(false);
        }
        let mut out = self.leave(buf, PARAMETERS);
        found.write(&self.parameters, &mut out);
        self.used_bits = out.end()?;
        self.parameters = found;
        Ok(true)
    }
}

/// One bit: the integer by its width, or all 64 bits.
fn push_first(out: &mut Writer<'_>, mode: u8, bits: u64) {
    let m = if decimal::is_special(bits) && !is_integer(mode) { None } else { number(mode, bits) };
    match m {
        Some((m, 0)) if mode != RAW && width(zigzag(m)) < 56 => {
            out.put(0, 1);
            out.put_sized(zigzag(m));
        }
        _ => {
            out.put(1, 1);
            out.put(bits, 64);
        }
    }
}

#[cfg(test)]
mod tests;
