//! Entropy coding with tables (asymmetric numeral systems, as in FSE): a symbol of probability `p` takes
//! about `-log2(p)` bits, and is decoded by one look at a table. Tables are small in bytes: each symbol's
//! weight stands as a step of a logarithmic scale, and both sides make the same counts of the weights.

use super::bits::{BitReader, mask, unzigzag, zigzag};

/// Symbols are bytes.
pub const SYMBOLS_MAX: usize = 256;

/// States of a table: 2^LOG_MAX at most.
pub const LOG_MAX: u32 = 12;

/// A level takes so many bits, and as many as make it fine.
const LEVEL_BITS: u32 = 4;

/// From this quotient on a Rice code is followed by the plain level.
const ESCAPE: u32 = 12;

/// How often levels are made smoother.
const SWEEPS: u32 = 2;

/// 2^(k/8) with 12 fractional bits.
const EIGHTHS: [u32; 8] = [4096, 4467, 4871, 5312, 5793, 6317, 6889, 7512];

/// Near enough for comparing costs, and the same on every machine.
#[inline(always)]
pub fn log2(v: f64) -> f64 {
    let bits = v.to_bits();
    let m = f64::from_bits(bits & mask(52) | 1023 << 52);
    let t = (m - 1.0) / (m + 1.0);
    let s = t * t;
    let exponent = (bits >> 52) as f64 - 1023.0;
    exponent + t * (2.0 + s * (2.0 / 3.0 + s * (2.0 / 5.0))) * std::f64::consts::LOG2_E
}

/// Bits that are written one number after the other, the lowest first.
#[derive(Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    filled: u32,
}

impl BitWriter {
    /// `v` fits in `width` bits, 56 at most.
    #[inline(always)]
    pub fn push(&mut self, v: u64, width: u32) {
        debug_assert!(width <= 56 && v >> width == 0);
        self.held |= v << self.filled;
        self.filled += width;
        let whole = self.filled / 8;
        self.bytes.extend_from_slice(&self.held.to_le_bytes());
        self.bytes.truncate(self.bytes.len() - 8 + whole as usize);
        self.held = self.held.checked_shr(8 * whole).unwrap_or(0);
        self.filled %= 8;
    }

    /// `v` fits in `width` bits, 64 at most.
    #[inline(always)]
    pub fn push64(&mut self, v: u64, width: u32) {
        if width > 32 {
            self.push(v & mask(32), 32);
            self.push(v >> 32, width - 32);
        } else {
            self.push(v, width);
        }
    }

    /// All bytes, the last one filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes.push(self.held as u8);
        }
        self.bytes
    }
}

/// How symbols share the states of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    log: u32,
    counts: Vec<u16>,
}

impl Counts {
    /// In proportion to weights, at least one for each weight above zero. `None` if there are none, or
    /// more than states.
    pub fn new(weights: &[u32], log: u32) -> Option<Counts> {
        let size = 1u64 << log;
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        let used = weights.iter().filter(|&&w| w > 0).count() as u64;
        if used == 0 || used > size || log > LOG_MAX {
            return None;
        }
        let share = |w: u32| if w == 0 { 0 } else { ((u64::from(w) * size + total / 2) / total).max(1) };
        let mut counts: Vec<u16> = weights.iter().map(|&w| share(w) as u16).collect();
        let mut left = size as i64 - counts.iter().map(|&n| i64::from(n)).sum::<i64>();
        // What rounding gave or took is settled with the largest counts, where it costs least.
        while left != 0 {
            let most = counts.iter_mut().max_by_key(|n| **n)?;
            if left > 0 {
                *most += left as u16;
                left = 0;
            } else {
                let taken = (-left).min(i64::from(*most / 8).max(1));
                *most -= taken as u16;
                left += taken;
            }
        }
        Some(Counts { log, counts })
    }

    /// One state for the last of so many symbols.
    pub fn one(symbols: usize) -> Counts {
        let mut counts = vec![0; symbols];
        counts.iter_mut().rev().take(1).for_each(|n| *n = 1);
        Counts { log: 0, counts }
    }

    /// The logarithm of the number of states.
    pub fn log(&self) -> u32 {
        self.log
    }

    /// Bits that symbols of these frequencies take; infinite if one has no state.
    pub fn cost(&self, frequencies: &[u32]) -> f64 {
        let bits = |(&f, &n): (&u32, &u16)| {
            if f == 0 { 0.0 } else { f64::from(f) * (f64::from(self.log) - log2(f64::from(n))) }
        };
        frequencies.iter().zip(&self.counts).map(bits).sum()
    }

    /// The symbol of each state: those of one symbol lie far apart.
    fn spread(&self) -> Vec<u8> {
        let size = 1usize << self.log;
        let step = (size >> 1) + (size >> 3) + 3;
        let mut symbols = vec![0; size];
        let mut at = 0;
        for (symbol, &n) in self.counts.iter().enumerate() {
            for _ in 0..n {
                symbols[at] = symbol as u8;
                at = (at + step) & (size - 1);
            }
        }
        symbols
    }

    /// The states of a decoder.
    pub fn decoder(&self) -> Vec<State> {
        let size = 1u32 << self.log;
        let mut counts = [0u16; SYMBOLS_MAX];
        counts.iter_mut().zip(&self.counts).for_each(|(all, n)| *all = *n);
        let state = |symbol: u8| {
            let x = u32::from(counts[usize::from(symbol)]);
            counts[usize::from(symbol)] += 1;
            let bits = self.log - x.ilog2();
            State { next: ((x << bits) - size) as u16, mask: mask(bits) as u16, bits: bits as u8, symbol }
        };
        self.spread().into_iter().map(state).collect()
    }
}

/// A state of a decoder: the symbol, how many bits follow and their mask, and where they are added. Fields
/// of their own, so that no shift stands between one state and the next.
#[derive(Clone, Copy, Default)]
pub struct State {
    pub next: u16,
    pub mask: u16,
    pub bits: u8,
    pub symbol: u8,
}

impl State {
    /// The next state, of which `word` begins with the bits.
    #[inline(always)]
    pub fn after(self, word: u64) -> usize {
        usize::from(self.next) + (word & u64::from(self.mask)) as usize
    }
}

/// The other way round: from a symbol and the state after it to the state before it.
pub struct Encoder {
    log: u32,
    counts: Vec<u16>,
    starts: Vec<u16>,
    states: Vec<u16>,
}

impl Encoder {
    pub fn new(counts: &Counts) -> Encoder {
        let mut starts = Vec::with_capacity(counts.counts.len());
        let mut at = 0;
        for n in &counts.counts {
            starts.push(at);
            at += n;
        }
        let mut ends = starts.clone();
        let mut states = vec![0; 1 << counts.log];
        for (state, symbol) in (0..).zip(counts.spread()) {
            let end = &mut ends[usize::from(symbol)];
            states[usize::from(*end)] = state;
            *end += 1;
        }
        Encoder { log: counts.log, counts: counts.counts.clone(), starts, states }
    }

    /// A state that decodes to the symbol.
    pub fn last(&self, symbol: u8) -> u16 {
        self.states[usize::from(self.starts[usize::from(symbol)])]
    }

    /// The state that decodes to the symbol and goes on to `after` by the bits and their number.
    #[inline(always)]
    pub fn step(&self, symbol: u8, after: u16) -> (u16, u16, u32) {
        let n = u32::from(self.counts[usize::from(symbol)]);
        let x = u32::from(after) | 1 << self.log;
        let high = self.log - n.ilog2();
        let bits = if x >> high >= n { high } else { high - 1 };
        let place = u32::from(self.starts[usize::from(symbol)]) + (x >> bits) - n;
        (self.states[place as usize], (x & ((1 << bits) - 1)) as u16, bits)
    }
}

/// Weights as steps of a logarithmic scale, 0 for none.
#[derive(Clone, Debug)]
pub struct Levels {
    /// Levels an octave: 2^fine.
    fine: u32,
    rice: u32,
    levels: Vec<u8>,
}

impl Levels {
    /// The levels nearest to frequencies in a table of 2^log states, of which the first level is one.
    pub fn of(frequencies: &[u32], log: u32, fine: u32) -> Levels {
        let total: u32 = frequencies.iter().sum();
        let top = f64::from(log << fine);
        let level = |&f: &u32| {
            if f == 0 {
                return 0;
            }
            let octaves = log2(f64::from(total)) - log2(f64::from(f));
            (top - octaves * f64::from(1u32 << fine)).round().max(0.0) as u8 + 1
        };
        let mut levels = Levels { fine, rice: 0, levels: frequencies.iter().map(level).collect() };
        levels.choose_rice();
        levels
    }

    fn choose_rice(&mut self) {
        self.rice = (0..4).min_by_key(|&rice| self.bits_with(rice)).unwrap_or(0);
    }

    /// Moves levels to where they and the symbols together take fewer bits.
    pub fn smooth(&mut self, frequencies: &[u32], log: u32) {
        for _ in 0..SWEEPS {
            self.sweep(frequencies, log);
            self.choose_rice();
        }
    }

    fn sweep(&mut self, frequencies: &[u32], log: u32) {
        let total: u32 = frequencies.iter().sum();
        let top = (log << self.fine) as u8 + 1;
        let octave = f64::from(1u32 << self.fine);
        let probabilities: Vec<f64> =
            (0..=top).map(|l| (f64::from(l) - f64::from(top)) / octave).map(f64::exp2).collect();
        for (i, &f) in frequencies.iter().enumerate() {
            let f = f64::from(f);
            let before = i.checked_sub(1).map(|i| self.levels[i]);
            let after = self.levels.get(i + 1).copied();
            let cost = |&level: &u8| {
                let codes = before.map_or(0, |b| self.code_bits(b, level, self.rice))
                    + after.map_or(0, |a| self.code_bits(level, a, self.rice));
                if level == 0 {
                    return if f == 0.0 { f64::from(codes) } else { f64::INFINITY };
                }
                // States that a symbol takes are lost to all others.
                let taken = f64::from(total) * probabilities[usize::from(level)] * std::f64::consts::LOG2_E;
                f * f64::from(top - level) / octave + taken + f64::from(codes)
            };
            let now = self.levels[i];
            let near = [before.unwrap_or(now), after.unwrap_or(now), now.saturating_sub(1), now + 1];
            let others = near.into_iter().filter(|&l| l <= top);
            self.levels[i] =
                [now].into_iter().chain(others).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(now);
        }
    }

    pub fn weights(&self) -> Vec<u32> {
        let weight = |&level: &u8| {
            let Some(level) = level.checked_sub(1) else { return 0 };
            let eighths = u32::from(level) << (3 - self.fine);
            EIGHTHS[eighths as usize & 7] << (eighths >> 3).min(LOG_MAX + 3)
        };
        self.levels.iter().map(weight).collect()
    }

    pub fn bits(&self) -> u32 {
        self.bits_with(self.rice)
    }

    fn bits_with(&self, rice: u32) -> u32 {
        let codes = self.levels.windows(2).map(|w| self.code_bits(w[0], w[1], rice));
        4 + LEVEL_BITS + self.fine + codes.sum::<u32>()
    }

    /// Bits of a level after another one.
    fn code_bits(&self, before: u8, level: u8, rice: u32) -> u32 {
        let q = zigzag(i64::from(level) - i64::from(before)) as u32 >> rice;
        if q >= ESCAPE { ESCAPE + LEVEL_BITS + self.fine } else { q + 1 + rice }
    }

    pub fn write(&self, out: &mut BitWriter) {
        let Some(&first) = self.levels.first() else { return };
        out.push(u64::from(self.fine | self.rice << 2), 4);
        out.push(u64::from(first), LEVEL_BITS + self.fine);
        for w in self.levels.windows(2) {
            let z = zigzag(i64::from(w[1]) - i64::from(w[0]));
            let q = z as u32 >> self.rice;
            if q >= ESCAPE {
                out.push(mask(ESCAPE), ESCAPE);
                out.push(u64::from(w[1]), LEVEL_BITS + self.fine);
            } else {
                out.push(mask(q), q + 1);
                out.push(z & mask(self.rice), self.rice);
            }
        }
    }

    /// Levels of `count` symbols. Past the end of the bytes everything is zero.
    pub fn read(bits: &mut BitReader, count: usize) -> Levels {
        let (fine, rice) = (bits.take(2) as u32, bits.take(2) as u32);
        let mut level = bits.take(LEVEL_BITS + fine) as i64;
        let mut levels = Vec::with_capacity(count);
        levels.push(level as u8);
        for _ in 1..count {
            let q = bits.peek().trailing_ones().min(ESCAPE);
            bits.skip(q);
            if q == ESCAPE {
                level = bits.take(LEVEL_BITS + fine) as i64;
            } else {
                bits.skip(1);
                let z = u64::from(q) << rice | bits.take(rice);
                level = (level + unzigzag(z)).clamp(0, 127);
            }
            levels.push(level as u8);
        }
        Levels { fine, rice, levels }
    }
}
