//! Reading an open chunk, a frame of samples at once.

use metricsdb_model::sample::STALE_NAN_BITS;
use metricsdb_model::{Error, Result};

use super::super::bits::{BitReader, load64, mask, unzigzag};
use super::super::decimal;
use super::parameters::Parameters;
use super::{
    AWAY_LONG_BITS, FRAME, LATE, LOST, LOST_BITS, NEAR, NUMBER, OpenState, PARAMETERS, RAW, REGULAR, RUN,
    RUN_BITS, SINGLE, STALE, UNCHANGED, away_bits, is_integer, last_number,
};

/// Samples that follow each other; those of a run are handed out in several.
pub struct Block {
    times: [i64; FRAME],
    bits: [u64; FRAME],
    len: usize,
    pub mode: u8,
}

impl Block {
    #[inline(always)]
    pub fn times(&self) -> &[i64] {
        &self.times[..self.len]
    }

    #[inline(always)]
    pub fn bits(&self) -> &[u64] {
        &self.bits[..self.len]
    }
}

pub struct Reader<'a> {
    buf: &'a [u8],
    r: BitReader<'a>,
    /// Bits that were written.
    used: usize,
    /// Samples to come, and those among them that belong to a run which is begun.
    left: usize,
    run: usize,
    parameters: Parameters,
    last_time: i64,
    last_bits: u64,
    /// The integer that stands for the last value: going back to it through a division would take long.
    m: i64,
    pub block: Block,
}

#[cold]
fn broken(what: &str) -> Error {
    Error::corruption("open chunk", 0, what.to_owned())
}

impl<'a> Reader<'a> {
    /// Stands at the first sample; `None` where there is none.
    pub fn new(state: &OpenState, buf: &'a [u8]) -> Result<Option<Reader<'a>>> {
        if state.is_empty() {
            return Ok(None);
        }
        let used = usize::from(state.used_bits);
        if used > buf.len() * 8 {
            return Err(broken("the bytes end before the state says"));
        }
        let mut r = BitReader::new(buf);
        let first = first_time(&mut r);
        let mut mode = state.mode;
        if !is_integer(mode) {
            mode = checked_mode(r.take(6) as u8)?;
        }
        let bits = read_first(&mut r, mode)?;
        let mut reader = Reader {
            buf,
            r,
            used,
            left: usize::from(state.count.saturating_sub(state.run)),
            run: 0,
            parameters: Parameters::default(),
            last_time: first,
            last_bits: bits,
            m: last_number(mode, bits),
            block: Block { times: [first; FRAME], bits: [bits; FRAME], len: 0, mode },
        };
        reader.hand_out(1)?;
        Ok(Some(reader))
    }

    /// Goes on to the samples that follow; false behind the last.
    #[inline(always)]
    pub fn advance(&mut self) -> Result<bool> {
        self.block.len = 0;
        while self.left > 0 && self.block.len == 0 {
            if self.run > 0 {
                let n = self.run.min(FRAME);
                self.run -= n;
                self.block.bits[..n].fill(self.last_bits);
                self.regular_times(n);
                self.hand_out(n)?;
                continue;
            }
            if self.r.position() >= self.used {
                return Err(broken("a sample runs past the end"));
            }
            if self.r.take(1) == 0 {
                self.read_frame()?;
                continue;
            }
            match self.r.take(2) {
                PARAMETERS => {
                    let limit = 64 - away_bits(self.block.mode);
                    let read = self.parameters.read(&mut self.r, limit);
                    read.ok_or_else(|| broken("a code has more than 64 bits"))?;
                }
                RUN => self.run = (self.r.take(RUN_BITS) as usize + 1).min(self.left),
                SINGLE => self.read_single()?,
                _ => return Err(broken("a record of a kind that does not exist")),
            }
        }
        Ok(self.block.len > 0)
    }

    /// Whether a state is that behind all samples read, whose run, if it has one, begins at a time.
    pub fn ends_as(&mut self, state: &OpenState, run_start: i64) -> bool {
        // Parameters for samples to come may be the last that was written.
        if self.r.position() < self.used && self.r.take(3) == 1 | PARAMETERS << 1 {
            let limit = 64 - away_bits(self.block.mode);
            if self.parameters.read(&mut self.r, limit).is_none() {
                return false;
            }
        }
        let time = match state.run {
            0 => state.last_time,
            _ => run_start.wrapping_sub(state.parameters.step() as i64),
        };
        self.parameters == state.parameters
            && self.block.mode == state.mode
            && self.r.position() == self.used
            && (self.last_time, self.last_bits) == (time, state.last_bits)
    }

    /// So many samples stand in the block.
    #[inline(always)]
    fn hand_out(&mut self, n: usize) -> Result<()> {
        if self.r.position() > self.used {
            return Err(broken("a sample runs past the end"));
        }
        self.block.len = n.min(self.left);
        self.left -= self.block.len;
        if let Some(last) = self.block.len.checked_sub(1) {
            (self.last_time, self.last_bits) = (self.block.times[last], self.block.bits[last]);
        }
        Ok(())
    }

    #[inline(always)]
    fn regular_times(&mut self, n: usize) {
        let (mut t, step) = (self.last_time, self.parameters.step() as i64);
        for time in &mut self.block.times[..n] {
            t = t.wrapping_add(step);
            *time = t;
        }
    }

    #[inline(always)]
    fn read_frame(&mut self) -> Result<()> {
        let mode = self.block.mode;
        let (w, away, late) =
            (u32::from(self.parameters.width), away_bits(mode), u32::from(self.parameters.time_width));
        let total = w + away + late;
        let mut codes = [0; FRAME];
        let codes = codes_at(self.buf, self.r.position(), total, FRAME.min(self.left), &mut codes);
        let escape = mask(w);
        let is_escape = |code: &u64| code & escape == escape;
        let n = match codes.iter().fold(false, |any, code| any | is_escape(code)) {
            true => codes.iter().position(is_escape).unwrap_or(codes.len()),
            false => codes.len(),
        };
        self.r.skip(n as u32 * total + if n < codes.len() { w } else { 0 });
        let codes = &codes[..n];
        for (bits, code) in self.block.bits.iter_mut().zip(codes) {
            *bits = self.parameters.delta_of(code & escape) as u64;
        }
        let mut m = self.m as u64;
        for bits in &mut self.block.bits[..n] {
            m = m.wrapping_add(*bits);
            *bits = m;
        }
        self.m = m as i64;
        if mode < RAW {
            let power = decimal::power(mode & 15);
            let bits = &mut self.block.bits[..n];
            match mode {
                0 => bits.iter_mut().for_each(|b| *b = (*b as i64 as f64).to_bits()),
                _ => bits.iter_mut().for_each(|b| *b = (*b as i64 as f64 / power).to_bits()),
            }
        }
        if away > 0 {
            for (bits, code) in self.block.bits.iter_mut().zip(codes) {
                *bits = bits.wrapping_add(unzigzag(code.checked_shr(w).unwrap_or(0) & mask(away)) as u64);
            }
        }
        if late == 0 {
            self.regular_times(n);
        } else {
            let mut t = self.last_time;
            for (time, code) in self.block.times.iter_mut().zip(codes) {
                let late = unzigzag(code.checked_shr(w + away).unwrap_or(0));
                t = t.wrapping_add(self.parameters.step() as i64).wrapping_add(late);
                *time = t;
            }
        }
        self.hand_out(n)
    }

    #[inline(never)]
    fn read_single(&mut self) -> Result<()> {
        let too_long = || broken("a number has more than 64 bits");
        let r = &mut self.r;
        let mut delta = self.parameters.step();
        match r.take(2) {
            REGULAR => {}
            LOST => delta *= r.take(LOST_BITS) + 2,
            LATE => {
                delta = delta.wrapping_add(unzigzag(sized(r).ok_or_else(too_long)?) as u64);
                self.parameters.learn_step(delta);
            }
            _ => return Err(broken("a time of a kind that does not exist")),
        }
        let mode = self.block.mode;
        let mut bits = self.last_bits;
        match r.take(2) {
            NUMBER => {
                self.m = self.m.wrapping_add(unzigzag(sized(r).ok_or_else(too_long)?));
                bits = if mode >= RAW { self.m as u64 } else { decimal::value(self.m, mode & 15).to_bits() };
                if mode & NEAR != 0 && mode < RAW {
                    bits = bits.wrapping_add(unzigzag(r.take(AWAY_LONG_BITS)) as u64);
                }
            }
            UNCHANGED => {}
            _ if is_integer(mode) => return Err(broken("an integer that is none")),
            STALE => {
                bits = STALE_NAN_BITS;
                self.m = last_number(mode, bits);
            }
            _ => {
                let other = checked_mode(r.take(6) as u8)?;
                if other != mode {
                    self.parameters.forget_values();
                }
                bits = read_first(r, other)?;
                self.block.mode = other;
                self.m = last_number(other, bits);
            }
        }
        self.block.times[0] = self.last_time.wrapping_add(delta as i64);
        self.block.bits[0] = bits;
        self.hand_out(1)
    }
}

/// `n` codes of `total` bits, 64 at most, that begin at a bit; zeros past the end of the bytes.
#[inline(always)]
pub fn codes_at<'a>(
    buf: &[u8],
    start: usize,
    total: u32,
    n: usize,
    codes: &'a mut [u64; FRAME],
) -> &'a [u64] {
    let codes = &mut codes[..n];
    // 57 of the bits that are loaded at once are sure, wherever in a byte the first one is.
    match total {
        0..=7 => unpack::<8>(buf, start, total, codes),
        8..=14 => unpack::<4>(buf, start, total, codes),
        15..=28 => unpack::<2>(buf, start, total, codes),
        29..=57 => unpack::<1>(buf, start, total, codes),
        _ => {
            for (i, code) in codes.iter_mut().enumerate() {
                let at = start + i * total as usize;
                let (low, high) = (load64(buf, at >> 3), load64(buf, (at >> 3) + 8));
                let word = u128::from(low) | u128::from(high) << 64;
                *code = word.wrapping_shr(at as u32 & 7) as u64 & mask(total);
            }
        }
    }
    codes
}

/// Codes of which 57 bits have `AT_ONCE`.
#[inline(always)]
fn unpack<const AT_ONCE: usize>(buf: &[u8], start: usize, total: u32, codes: &mut [u64]) {
    let (keep, mut at) = (mask(total), start);
    let (all, rest) = codes.as_chunks_mut::<AT_ONCE>();
    for codes in all {
        let word = load64(buf, at >> 3) >> (at & 7);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = word >> (i as u32 * total) & keep;
        }
        at += AT_ONCE * total as usize;
    }
    let word = load64(buf, at >> 3) >> (at & 7);
    for (i, code) in rest.iter_mut().enumerate() {
        *code = word >> (i as u32 * total) & keep;
    }
}

/// A number behind its width; `None` for one of more than 64 bits.
pub fn sized(r: &mut BitReader) -> Option<u64> {
    let n = r.take(7) as u32;
    (n <= 64).then(|| r.take64(n))
}

fn checked_mode(mode: u8) -> Result<u8> {
    if mode <= RAW { Ok(mode) } else { Err(broken("a value mode that does not exist")) }
}

pub fn first_time(r: &mut BitReader) -> i64 {
    let long = r.take(1) == 1;
    r.take64(if long { 64 } else { 44 }) as i64
}

fn read_first(r: &mut BitReader, mode: u8) -> Result<u64> {
    if r.take(1) == 1 {
        return Ok(r.take64(64));
    }
    let m = unzigzag(sized(r).ok_or_else(|| broken("a number has more than 64 bits"))?);
    Ok(if mode >= RAW { m as u64 } else { decimal::value(m, mode & 15).to_bits() })
}
