//! Dense columns of 64-bit integers, for chunks that are seldom read: residuals as in `integers` (or from a
//! running mean), but each takes as many bits as it is surprising. A column is cut into stretches that are decoded on their own,
//! so that a window costs no more than its own stretches.

use metricsdb_model::Result;

use super::bits::{mask, unzigzag, zigzag};
use super::cursor::{Cursor, put_signed, put_varint};
use super::layout::divisor;
use super::model::{LANES, Model, Symbol};
use super::simd::{Kernel, Simd, dispatch};
use super::tans::{BitWriter, Encoder, State};

/// Control byte: order in bits 0 and 1, then these, and how long stretches are.
const MEAN: u8 = 3;
const ABOVE: u8 = 4;
const DIVISOR: u8 = 8;
const STRETCH_SHIFT: u32 = 4;

/// Residuals of the shortest stretches; the longest are four times as long.
const STRETCH: usize = 512;

/// Stretches are made longer while they would have fewer bytes, up to 4 times `STRETCH`.
const STRETCH_BYTES: f64 = 640.0;
const LONGER_MAX: u8 = 2;

/// Residuals that are decoded at once.
const BLOCK: usize = 128;

/// Bits that one load of the bits of large numbers gives.
const LOAD_BITS: u32 = 57;

/// Appends a column. Its first integer is not written: the decoder is told it.
pub fn encode(column: &[i64], out: &mut Vec<u8>) {
    let Some(&first) = column.first() else { return };
    let divisor = divisor(column);
    let scaled: Vec<i64> = column.iter().map(|&v| v.wrapping_sub(first) / divisor as i64).collect();
    let orders = [0, 1, 2, MEAN].into_iter().filter(|&order| lead(order) < column.len().max(2));
    let plans = orders.flat_map(|order| {
        let rest = residuals(&scaled, order);
        [false, true].map(|above| Plan::new(&rest, order, above))
    });
    let Some(plan) = plans.min_by(|a, b| a.estimate.total_cmp(&b.estimate)) else { return };
    plan.write(&scaled, divisor, out);
}

/// Residuals after the values that the decoder knows: the first, and for order 2 the second.
fn residuals(column: &[i64], order: u8) -> Vec<i64> {
    match order {
        0 => column[1..].to_vec(),
        MEAN => {
            let mut mean = Mean::default();
            let rest = |&v: &i64| {
                let rest = v.wrapping_sub(mean.expected());
                mean.follow(rest);
                rest
            };
            column[1..].iter().map(rest).collect()
        }
        1 => column.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect(),
        _ => {
            column.windows(3).map(|w| w[2].wrapping_sub(w[1]).wrapping_sub(w[1].wrapping_sub(w[0]))).collect()
        }
    }
}

/// A mean of what was there, the recent more than the old: it foretells values that vary about a level
/// which drifts. Kept with four fractional bits.
#[derive(Clone, Copy, Default)]
struct Mean(i64);

impl Mean {
    #[inline(always)]
    fn expected(self) -> i64 {
        self.0 >> 4
    }

    /// Takes in the integer that is `rest` above the expected one: `mean += (16 * integer - mean) >> 2`,
    /// with a short way from one mean to the next.
    #[inline(always)]
    fn follow(&mut self, rest: i64) {
        self.0 = self.0.wrapping_add((rest << 4).wrapping_sub(self.0 & 15) >> 2);
    }
}

/// One way to make numbers of a column.
struct Plan {
    order: u8,
    /// Numbers are distances above `base`, the smallest; else zigzags of distances from it.
    above: bool,
    base: i64,
    numbers: Vec<u64>,
    /// About the bits of all numbers.
    estimate: f64,
}

impl Plan {
    fn new(rest: &[i64], order: u8, above: bool) -> Plan {
        let base = if above { rest.iter().copied().min().unwrap_or(0) } else { centre(rest) };
        let numbers: Vec<u64> = if above {
            rest.iter().map(|r| r.wrapping_sub(base) as u64).collect()
        } else {
            rest.iter().map(|r| zigzag(r.wrapping_sub(base))).collect()
        };
        let estimate = super::model::estimate(&numbers);
        Plan { order, above, base, numbers, estimate }
    }

    fn write(&self, scaled: &[i64], divisor: u64, out: &mut Vec<u8>) {
        let n = self.numbers.len();
        if n == 0 {
            return;
        }
        let mut longer = 0;
        let mut length = STRETCH;
        let few = |length: usize| self.estimate / 8.0 / n as f64 * (length as f64) < STRETCH_BYTES;
        // Nor is it worth it to cut off a short rest.
        while longer < LONGER_MAX && n > length && (few(length) || n < length + length / 2) {
            longer += 1;
            length *= 2;
        }
        let model = Model::fit(&self.numbers, n.div_ceil(length));
        let flags = if self.above { ABOVE } else { 0 } | if divisor > 1 { DIVISOR } else { 0 };
        out.push(self.order | flags | longer << STRETCH_SHIFT);
        if divisor > 1 {
            put_varint(out, divisor);
        }
        if self.order == 2 {
            put_signed(out, scaled[1]);
        }
        put_signed(out, self.base);
        model.write(out);
        let encoder = Encoder::new(&model.counts);
        let mut stretches = Vec::new();
        let (mut value, mut step, mut mean) = (0i64, 0i64, Mean::default());
        for (i, numbers) in self.numbers.chunks(length).enumerate() {
            let at = i * length + lead(self.order);
            if i > 0 && self.order > 0 {
                let last = if self.order == MEAN { mean.0 } else { scaled[at - 1] };
                put_signed(out, last.wrapping_sub(value));
                value = last;
                if self.order == 2 {
                    let s = last.wrapping_sub(scaled[at - 2]);
                    put_signed(out, s.wrapping_sub(step));
                    step = s;
                }
            }
            scaled.iter().skip(at).take(length).for_each(|&v| mean.follow(v.wrapping_sub(mean.expected())));
            let bytes = write_stretch(&model, &encoder, numbers);
            put_varint(out, bytes.len() as u64);
            stretches.extend(bytes);
        }
        out.extend(stretches);
    }
}

/// Integers before the residuals.
fn lead(order: u8) -> usize {
    if order == 2 { 2 } else { 1 }
}

/// The median of up to 513 residuals spread over the column.
fn centre(rest: &[i64]) -> i64 {
    let step = rest.len().div_ceil(513).max(1);
    let mut some: Vec<i64> = rest.iter().copied().step_by(step).collect();
    let middle = some.len() / 2;
    if some.is_empty() { 0 } else { *some.select_nth_unstable(middle).1 }
}

/// Two states, the bits between states, and from the end backwards the low bits of large numbers.
fn write_stretch(model: &Model, encoder: &Encoder, numbers: &[u64]) -> Vec<u8> {
    let symbols: Vec<u8> = numbers.iter().map(|&z| model.grid().symbol(z) as u8).collect();
    let known = model.symbols();
    // Backwards: the state that decodes each symbol, from the state behind it.
    let mut states = [0; LANES];
    let mut codes = vec![(0u16, 0u32); numbers.len()];
    for (i, &symbol) in symbols.iter().enumerate().rev() {
        let state = &mut states[i % LANES];
        if i + LANES >= numbers.len() {
            *state = encoder.last(symbol);
        } else {
            let (before, bits, width) = encoder.step(symbol, *state);
            *state = before;
            codes[i] = (bits, width);
        }
    }
    let mut out = BitWriter::default();
    states.iter().for_each(|&s| out.push(u64::from(s), model.counts.log()));
    codes.iter().for_each(|&(bits, width)| out.push(u64::from(bits), width));
    let low: usize = symbols.iter().map(|&s| known[usize::from(s)].extra as usize).sum();
    let high: usize = codes.iter().map(|c| c.1 as usize).sum::<usize>() + LANES * model.counts.log() as usize;
    out.push(0, ((8 - (low + high) % 8) % 8) as u32);
    for (&z, &s) in numbers.iter().zip(&symbols).rev() {
        let symbol = known[usize::from(s)];
        out.push64(z - symbol.low, symbol.extra);
    }
    out.finish()
}

/// Appends the integers at positions `from..to` of `count`, and moves the cursor behind the column.
/// Errors: `Corruption`; then `out` may hold a part of them.
pub fn decode(
    cursor: &mut Cursor,
    first: i64,
    count: usize,
    from: usize,
    to: usize,
    out: &mut Vec<u64>,
) -> Result<()> {
    let to = to.min(count);
    if count < 2 {
        out.extend((from < to).then_some(first as u64));
        return Ok(());
    }
    let column = Column::read(cursor, first as u64, count)?;
    if from >= to {
        return Ok(());
    }
    dispatch(Window { column, from, to, out })
}

/// A column whose head was read.
struct Column<'a> {
    control: u8,
    count: usize,
    divisor: u64,
    base: u64,
    first: u64,
    model: Model,
    stretches: Vec<Stretch<'a>>,
}

/// A stretch, and the sums (for `MEAN` the mean) that stand before it, not yet multiplied by the divisor.
struct Stretch<'a> {
    bytes: &'a [u8],
    start: Cursor<'a>,
    value: u64,
    step: u64,
}

impl<'a> Column<'a> {
    fn read(cursor: &mut Cursor<'a>, first: u64, count: usize) -> Result<Column<'a>> {
        let control = cursor.byte()?;
        let order = control & 3;
        if control >> STRETCH_SHIFT > LONGER_MAX {
            return Err(cursor.wrong("no such stretches"));
        }
        let divisor = if control & DIVISOR != 0 { cursor.varint()? } else { 1 };
        let second = if order == 2 { cursor.signed()? } else { 0 };
        let base = cursor.signed()? as u64;
        let model = Model::read(cursor)?;
        let length = STRETCH << (control >> STRETCH_SHIFT);
        let n = (count - lead(order).min(count)).div_ceil(length);
        let mut sizes = Vec::with_capacity(n);
        let (mut value, mut step) = (0u64, 0u64);
        for i in 0..n {
            if i > 0 && order > 0 {
                value = value.wrapping_add(cursor.signed()? as u64);
                if order == 2 {
                    step = step.wrapping_add(cursor.signed()? as u64);
                }
            }
            let before = if i == 0 && order == 2 { (second as u64, second as u64) } else { (value, step) };
            sizes.push((cursor.count()?, before));
        }
        let mut stretches = Vec::with_capacity(n);
        for (size, (value, step)) in sizes {
            let start = *cursor;
            stretches.push(Stretch { bytes: cursor.take(size)?, start, value, step });
        }
        Ok(Column { control, count, divisor, base, first, model, stretches })
    }
}

struct Window<'a, 'o> {
    column: Column<'a>,
    from: usize,
    to: usize,
    out: &'o mut Vec<u64>,
}

impl Kernel for Window<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Result<()> {
        let Window { column, from, to, out } = self;
        out.reserve(to - from);
        let order = column.control & 3;
        let lead = lead(order);
        if from == 0 {
            out.push(column.first);
        }
        if order == 2 && from < 2 && to > 1 {
            let second = column.stretches.first().map_or(0, |s| s.step);
            out.push(column.first.wrapping_add(second.wrapping_mul(column.divisor)));
        }
        let length = STRETCH << (column.control >> STRETCH_SHIFT);
        let states = column.model.counts.decoder();
        let symbols = column.model.symbols();
        let widest = symbols.iter().map(|s| s.extra).max().unwrap_or(0);
        let mut padded = Vec::new();
        let (from, to) = (from.saturating_sub(lead), to.saturating_sub(lead));
        for (i, stretch) in column.stretches.iter().enumerate() {
            let (begin, end) = (i * length, ((i + 1) * length).min(column.count - lead));
            if end <= from || begin >= to {
                continue;
            }
            padded.clear();
            padded.extend_from_slice(stretch.bytes);
            padded.extend_from_slice(&[0; 8]);
            let mut reader =
                Reader::new(&padded, stretch.bytes.len(), (&states, &symbols), column.model.counts.log());
            let mut sums = (stretch.value, stretch.step);
            if order != MEAN {
                sums = (sums.0.wrapping_mul(column.divisor), sums.1.wrapping_mul(column.divisor));
                sums.0 = sums.0.wrapping_add(column.first);
            }
            let mut done = begin;
            while done < end.min(to) {
                let n = BLOCK.min(end - done);
                let mut block = [0; BLOCK];
                match widest {
                    0 => reader.numbers::<0>(&mut block, n, end - done),
                    1..=LOAD_BITS => reader.numbers::<1>(&mut block, n, end - done),
                    _ => reader.numbers::<2>(&mut block, n, end - done),
                }
                integrate(&column, &mut sums, &mut block);
                let (a, b) = (from.clamp(done, done + n) - done, to.min(done + n) - done);
                if let Some(piece) = block.get(a..b) {
                    out.extend_from_slice(piece);
                }
                done += n;
            }
            if reader.above > reader.below || reader.below > 8 * stretch.bytes.len() {
                return Err(stretch.start.wrong("a stretch is too short"));
            }
        }
        Ok(())
    }
}

/// Numbers become integers, in place.
#[inline(always)]
fn integrate(column: &Column, sums: &mut (u64, u64), block: &mut [u64; BLOCK]) {
    let base = column.base;
    if column.control & ABOVE != 0 {
        block.iter_mut().for_each(|v| *v = v.wrapping_add(base));
    } else {
        block.iter_mut().for_each(|v| *v = (unzigzag(*v) as u64).wrapping_add(base));
    }
    let order = column.control & 3;
    if column.divisor != 1 && order != MEAN {
        block.iter_mut().for_each(|v| *v = v.wrapping_mul(column.divisor));
    }
    match order {
        0 => block.iter_mut().for_each(|v| *v = v.wrapping_add(column.first)),
        1 => {
            for v in block.iter_mut() {
                sums.0 = sums.0.wrapping_add(*v);
                *v = sums.0;
            }
        }
        MEAN => {
            let mut mean = Mean(sums.0 as i64);
            for v in block.iter_mut() {
                let c = mean.expected().wrapping_add(*v as i64);
                mean.follow(*v as i64);
                *v = (c as u64).wrapping_mul(column.divisor).wrapping_add(column.first);
            }
            sums.0 = mean.0 as u64;
        }
        _ => {
            for v in block.iter_mut() {
                sums.1 = sums.1.wrapping_add(*v);
                sums.0 = sums.0.wrapping_add(sums.1);
                *v = sums.0;
            }
        }
    }
}

/// The two ends of a stretch that is decoded.
struct Reader<'a> {
    /// Eight bytes longer than the stretch.
    bytes: &'a [u8],
    states: &'a [State],
    symbols: &'a [Symbol],
    lanes: [usize; LANES],
    /// Bits read from the start.
    above: usize,
    /// Where the bits that were read from the end begin.
    below: usize,
}

impl<'a> Reader<'a> {
    #[inline(always)]
    fn new(bytes: &'a [u8], size: usize, tables: (&'a [State], &'a [Symbol]), log: u32) -> Reader<'a> {
        let (states, symbols) = tables;
        let word = word_at(bytes, 0);
        let lanes = [(word & mask(log)) as usize, (word >> log & mask(log)) as usize];
        Reader { bytes, states, symbols, lanes, above: LANES * log as usize, below: 8 * size }
    }

    /// The next `n` numbers of a stretch that has `left`.
    #[inline(always)]
    fn numbers<const LOADS: usize>(&mut self, block: &mut [u64; BLOCK], n: usize, left: usize) {
        let state = |i: usize| self.states.get(i).copied().unwrap_or_default();
        let [mut a, mut b] = self.lanes;
        let (mut at, mut below) = (self.above, self.below);
        // The last symbol of each lane has no bits behind it.
        let live = n.min(left.saturating_sub(LANES));
        let (quads, _) = block.as_chunks_mut::<4>();
        let whole = live / 4;
        for quad in quads.iter_mut().take(whole) {
            let mut word = word_at(self.bytes, at);
            for pair in [0, 2] {
                let (x, y) = (state(a), state(b));
                a = x.after(word);
                word >>= x.bits & 15;
                b = y.after(word);
                word >>= y.bits & 15;
                at += usize::from(x.bits) + usize::from(y.bits);
                quad[pair] = number::<LOADS>(self.bytes, &mut below, x.symbol, self.symbols);
                quad[pair + 1] = number::<LOADS>(self.bytes, &mut below, y.symbol, self.symbols);
            }
        }
        for (i, slot) in block.iter_mut().enumerate().take(n).skip(whole * 4) {
            let x = state(a);
            *slot = number::<LOADS>(self.bytes, &mut below, x.symbol, self.symbols);
            if i < live {
                let word = word_at(self.bytes, at);
                a = x.after(word);
                at += usize::from(x.bits);
            }
            (a, b) = (b, a);
        }
        if (n - whole * 4) % 2 == 1 {
            (a, b) = (b, a);
        }
        (self.lanes, self.above, self.below) = ([a, b], at, below);
    }
}

/// At least 57 bits from a bit on. The stretch is padded, so only a corrupt one reads past the end.
#[inline(always)]
fn word_at(bytes: &[u8], bit: usize) -> u64 {
    let word = bytes.get(bit >> 3..).and_then(|b| b.first_chunk());
    word.map_or(0, |b| u64::from_le_bytes(*b)) >> (bit & 7)
}

/// The number of a symbol, whose low bits end at `below` and take so many loads; without any it's the
/// symbol itself.
#[inline(always)]
fn number<const LOADS: usize>(bytes: &[u8], below: &mut usize, symbol: u8, symbols: &[Symbol]) -> u64 {
    if LOADS == 0 {
        return u64::from(symbol);
    }
    let symbol = symbols.get(usize::from(symbol)).copied().unwrap_or_default();
    *below = below.wrapping_sub(symbol.extra as usize);
    let mut word = word_at(bytes, *below);
    if LOADS == 2 {
        word = word & mask(32) | word_at(bytes, below.wrapping_add(32)) << 32;
    }
    symbol.low.wrapping_add(word & mask(symbol.extra & 63))
}

#[cfg(test)]
mod tests;
