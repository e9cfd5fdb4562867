//! Columns of 64-bit integers. The residuals of order 0 (distance from the first), 1 (steps) or 2 (steps
//! of steps), freed of their common divisor, are packed in blocks of 64, each with its own width; the
//! few that are too wide keep their high bits in a list behind their block.

use metricsdb_model::Result;

use super::bits::{BLOCK, BitReader, Kernel, dispatch, pack, packed_bytes, unpack, unzigzag, width, zigzag};
use super::cursor::{Cursor, put_signed, put_varint};

/// Control byte: order in bits 0 and 1, the form of residuals in bits 2 and 3, then these.
const DIVISOR: u8 = 16;
const UNIFORM: u8 = 32;

/// How residuals become small unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Form {
    /// Distance above the block's smallest.
    Block = 0,
    /// Distance above the column's smallest.
    Column = 1,
    /// Zigzag of the distance from a value in the middle.
    Centre = 2,
}

const FORMS: [Form; 3] = [Form::Block, Form::Column, Form::Centre];

/// A block's width byte: the width, and whether patches follow.
const PATCHED: u8 = 128;

/// An order is tried if its estimate is within this part of the best.
const NEAR_BEST: u64 = 16;

/// Bits of a position within a block.
const POSITION_BITS: u32 = 6;

/// Appends a column. Its first integer is not written: the decoder is told it.
pub fn encode(column: &[i64], out: &mut Vec<u8>) {
    let Some(&first) = column.first() else { return };
    let divisor = divisor(column, first);
    let scaled: Vec<i64> = column.iter().map(|&v| v.wrapping_sub(first)).collect();
    let scaled = if divisor > 1 { scaled.iter().map(|v| v / divisor as i64).collect() } else { scaled };
    // Orders are estimated; those that come near the best are tried in every form.
    let mut tried: Vec<(u64, u8, Vec<i64>)> = Vec::with_capacity(3);
    for order in 0..=2u8.min((column.len() - 1) as u8) {
        let rest = residuals(&scaled, order);
        tried.push((dispatch(Estimate { rest: &rest, centre: centre(&rest) }), order, rest));
    }
    let least = tried.iter().map(|t| t.0).min().unwrap_or(0);
    tried.retain(|t| t.0 <= least + least / NEAR_BEST + 8);
    let plans = tried.iter().flat_map(|(_, order, rest)| FORMS.map(|form| Plan::new(rest, *order, form)));
    let best = plans.min_by_key(|plan| plan.bits);
    let Some(plan) = best else { return };
    plan.write(&scaled, divisor, out);
}

/// The greatest common divisor of all distances; 1 where some distance overflows.
fn divisor(column: &[i64], first: i64) -> u64 {
    let mut d = 0u64;
    for &v in column {
        let Some(distance) = v.checked_sub(first) else { return 1 };
        d = gcd(distance.unsigned_abs(), d);
        if d == 1 {
            break;
        }
    }
    if d > i64::MAX as u64 { 1 } else { d.max(1) }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Residuals after the values that the decoder knows: the first, and for order 2 the second.
fn residuals(column: &[i64], order: u8) -> Vec<i64> {
    match order {
        0 => column[1..].to_vec(),
        1 => column.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect(),
        _ => {
            column.windows(3).map(|w| w[2].wrapping_sub(w[1]).wrapping_sub(w[1].wrapping_sub(w[0]))).collect()
        }
    }
}

/// About the bits that residuals take: each at its own width.
struct Estimate<'a> {
    rest: &'a [i64],
    centre: i64,
}

impl Kernel for Estimate<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        self.rest.iter().map(|r| u64::from(width(zigzag(r.wrapping_sub(self.centre))))).sum()
    }
}

/// Residuals as they are packed, and their widths.
struct Shrink<'a> {
    rest: &'a [i64],
    base: i64,
    form: Form,
    small: &'a mut [u64; BLOCK],
    widths: &'a mut [u8; BLOCK],
}

impl Kernel for Shrink<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        if self.form == Form::Centre {
            self.small.iter_mut().zip(self.rest).for_each(|(s, r)| *s = zigzag(r.wrapping_sub(self.base)));
        } else {
            self.small.iter_mut().zip(self.rest).for_each(|(s, r)| *s = r.wrapping_sub(self.base) as u64);
        }
        self.widths.iter_mut().zip(self.small.iter()).for_each(|(w, s)| *w = width(*s) as u8);
    }
}

/// One way to write a column, and what it costs.
struct Plan {
    order: u8,
    form: Form,
    /// The column's smallest or middle residual.
    base: i64,
    /// Width of all blocks, where they share one and none has patches.
    uniform: Option<u32>,
    blocks: Vec<Block>,
    bits: usize,
}

#[derive(Clone, Copy)]
struct Block {
    base: i64,
    width: u32,
    patches: u32,
    patch_width: u32,
}

impl Plan {
    fn new(rest: &[i64], order: u8, form: Form) -> Plan {
        let base = match form {
            Form::Block => 0,
            Form::Column => rest.iter().copied().min().unwrap_or(0),
            Form::Centre => centre(rest),
        };
        let mut blocks = Vec::with_capacity(rest.len().div_ceil(BLOCK));
        let mut bits = 8;
        let mut flat = 0;
        let mut flat_width = 0;
        let (mut small, mut widths) = ([0; BLOCK], [0; BLOCK]);
        for chunk in rest.chunks(BLOCK) {
            let base = if form == Form::Block { chunk.iter().copied().min().unwrap_or(0) } else { base };
            dispatch(Shrink { rest: chunk, base, form, small: &mut small, widths: &mut widths });
            let (block, cost, top) = plan_block(&widths[..chunk.len()], base);
            let base_bits = if form == Form::Block { 8 * varint_bytes(zigzag(base)) } else { 0 };
            bits += cost + base_bits;
            flat += base_bits;
            flat_width = flat_width.max(top);
            blocks.push(block);
        }
        flat += 16 + rest.chunks(BLOCK).map(|c| 8 * packed_bytes(c.len(), flat_width)).sum::<usize>();
        let uniform = (flat <= bits).then_some(flat_width);
        let column_bits = if form == Form::Block { 0 } else { 8 * varint_bytes(zigzag(base)) };
        Plan { order, form, base, uniform, blocks, bits: bits.min(flat) + column_bits }
    }

    fn write(&self, column: &[i64], divisor: u64, out: &mut Vec<u8>) {
        let flags = if divisor > 1 { DIVISOR } else { 0 } | if self.uniform.is_some() { UNIFORM } else { 0 };
        out.push(self.order | (self.form as u8) << 2 | flags);
        if divisor > 1 {
            put_varint(out, divisor);
        }
        if self.order == 2 {
            put_signed(out, column[1]);
        }
        if self.form != Form::Block {
            put_signed(out, self.base);
        }
        if let Some(w) = self.uniform {
            out.push(w as u8);
        }
        let rest = residuals(column, self.order);
        let (mut small, mut widths) = ([0; BLOCK], [0; BLOCK]);
        for (chunk, block) in rest.chunks(BLOCK).zip(&self.blocks) {
            let (base, form) = (block.base, self.form);
            dispatch(Shrink { rest: chunk, base, form, small: &mut small, widths: &mut widths });
            let small = &small[..chunk.len()];
            let block = match self.uniform {
                Some(width) => Block { width, patches: 0, ..*block },
                None => *block,
            };
            if self.uniform.is_none() {
                out.push(block.width as u8 | if block.patches > 0 { PATCHED } else { 0 });
            }
            if self.form == Form::Block {
                put_signed(out, block.base);
            }
            pack(small, block.width, out);
            if block.patches > 0 {
                write_patches(small, &block, out);
            }
        }
    }
}

fn write_patches(small: &[u64], block: &Block, out: &mut Vec<u8>) {
    let wide = || small.iter().enumerate().filter(|(_, z)| width(**z) > block.width);
    out.push(block.patches as u8);
    out.push(block.patch_width as u8);
    pack(&wide().map(|(i, _)| i as u64).collect::<Vec<_>>(), POSITION_BITS, out);
    pack(&wide().map(|(_, z)| z >> block.width).collect::<Vec<_>>(), block.patch_width, out);
}

fn varint_bytes(v: u64) -> usize {
    width(v | 1).div_ceil(7) as usize
}

/// The median of up to 33 residuals spread over the column.
fn centre(rest: &[i64]) -> i64 {
    let step = rest.len().div_ceil(33).max(1);
    let mut some: Vec<i64> = rest.iter().copied().step_by(step).collect();
    some.sort_unstable();
    some.get(some.len() / 2).copied().unwrap_or(0)
}

/// The width that makes a block smallest, its cost in bits, and the width that needs no patch.
fn plan_block(widths: &[u8], base: i64) -> (Block, usize, u32) {
    // Four tables, since the widths of neighbours are often equal and each count waits for the last.
    let mut tables = [[0u8; 128]; 4];
    for (i, &w) in widths.iter().enumerate() {
        tables[i % 4][usize::from(w & 127)] += 1;
    }
    let of_width = |w: u32| tables.iter().map(|t| u32::from(t[w as usize & 127])).sum::<u32>();
    let top = u32::from(widths.iter().copied().max().unwrap_or(0));
    let mut best = (Block { base, width: top, patches: 0, patch_width: 0 }, packed_bytes(widths.len(), top));
    let mut patches = 0;
    for w in (0..top).rev() {
        patches += of_width(w + 1);
        if patches as usize * 8 > widths.len() * 3 {
            break;
        }
        let patch_width = top - w;
        let bytes = 2
            + packed_bytes(widths.len(), w)
            + packed_bytes(patches as usize, POSITION_BITS)
            + packed_bytes(patches as usize, patch_width);
        if bytes < best.1 {
            best = (Block { base, width: w, patches, patch_width }, bytes);
        }
    }
    (best.0, 8 + 8 * best.1, top)
}

/// A column that is decoded block by block.
pub struct Blocks<'a> {
    head: Head,
    cursor: Cursor<'a>,
    count: usize,
    done: usize,
    last: u64,
    step: u64,
}

impl<'a> Blocks<'a> {
    /// `first` is the integer that isn't written; `count` at least one.
    pub fn new(cursor: Cursor<'a>, first: i64, count: usize) -> Result<Blocks<'a>> {
        let mut cursor = cursor;
        let head = Head::read(&mut cursor, count)?;
        let step = head.step;
        Ok(Blocks { head, cursor, count, done: 0, last: first as u64, step })
    }

    /// The next integers, in order; how many there are, 0 at the end. Those behind them are undefined.
    #[inline(always)]
    pub fn next(&mut self, block: &mut [u64; BLOCK]) -> Result<usize> {
        let n = (self.count - self.done).min(BLOCK);
        if n == 0 {
            return Ok(0);
        }
        if self.done == 0 {
            return Ok(self.start(n, block));
        }
        self.head.read_block(&mut self.cursor, n, block)?;
        match self.head.order {
            0 => block.iter_mut().for_each(|v| *v = v.wrapping_add(self.last)),
            1 => {
                for v in block.iter_mut() {
                    self.last = self.last.wrapping_add(*v);
                    *v = self.last;
                }
            }
            _ => {
                for v in block.iter_mut() {
                    self.step = self.step.wrapping_add(*v);
                    self.last = self.last.wrapping_add(self.step);
                    *v = self.last;
                }
            }
        }
        self.done += n;
        Ok(n)
    }

    /// The one or two integers before the blocks.
    #[inline(never)]
    fn start(&mut self, n: usize, block: &mut [u64; BLOCK]) -> usize {
        let n = n.min(if self.head.order == 2 { 2 } else { 1 });
        block[0] = self.last;
        if n == 2 {
            self.last = self.last.wrapping_add(self.step);
            block[1] = self.last;
        }
        self.done = n;
        n
    }

    /// Where the bytes go on behind the last block that was read.
    pub fn cursor(self) -> Cursor<'a> {
        self.cursor
    }
}

/// Appends a whole column, and moves the cursor behind it. On an error `out` may hold a part of it.
pub fn decode<T: FromWord>(cursor: &mut Cursor, first: i64, count: usize, out: &mut Vec<T>) -> Result<()> {
    *cursor = dispatch(Whole { cursor: *cursor, first, count, out })?;
    Ok(())
}

/// Both types of a column's integers.
pub trait FromWord {
    fn from_word(v: u64) -> Self;
}

impl FromWord for u64 {
    #[inline(always)]
    fn from_word(v: u64) -> u64 {
        v
    }
}

impl FromWord for i64 {
    #[inline(always)]
    fn from_word(v: u64) -> i64 {
        v as i64
    }
}

struct Whole<'a, 'o, T> {
    cursor: Cursor<'a>,
    first: i64,
    count: usize,
    out: &'o mut Vec<T>,
}

impl<'a, T: FromWord> Kernel for Whole<'a, '_, T> {
    type Output = Result<Cursor<'a>>;

    #[inline(always)]
    fn run(self) -> Result<Cursor<'a>> {
        let mut blocks = Blocks::new(self.cursor, self.first, self.count)?;
        let mut block = [0; BLOCK];
        self.out.reserve(self.count);
        loop {
            let n = blocks.next(&mut block)?;
            if n == 0 {
                return Ok(blocks.cursor());
            }
            self.out.extend(block[..n].iter().map(|&v| T::from_word(v)));
        }
    }
}

/// What stands before the blocks.
struct Head {
    order: u8,
    form: u8,
    uniform: Option<u32>,
    divisor: u64,
    /// Times the divisor, as all that leaves `read_block`.
    step: u64,
    base: i64,
}

impl Head {
    fn read(cursor: &mut Cursor, count: usize) -> Result<Head> {
        let control = cursor.byte()?;
        let (order, form) = (control & 3, control >> 2 & 3);
        if order > 2 || form > 2 || control >= 64 || count == 0 {
            return Err(cursor.wrong("no such order or form of integers"));
        }
        let divisor = if control & DIVISOR != 0 { cursor.varint()? } else { 1 };
        let step = if order == 2 { (cursor.signed()? as u64).wrapping_mul(divisor) } else { 0 };
        let base = if form != Form::Block as u8 { cursor.signed()? } else { 0 };
        let uniform = if control & UNIFORM != 0 { Some(u32::from(cursor.byte()?)) } else { None };
        if uniform.is_some_and(|w| w > 64) {
            return Err(cursor.wrong("a width over 64"));
        }
        Ok(Head { order, form, uniform, divisor, step, base })
    }

    /// Residuals of one block of `n`; what follows them in `block` is undefined.
    #[inline(always)]
    fn read_block(&self, cursor: &mut Cursor, n: usize, block: &mut [u64; BLOCK]) -> Result<()> {
        let tag = match self.uniform {
            Some(w) => w as u8,
            None => cursor.byte()?,
        };
        let width = u32::from(tag & !PATCHED);
        if width > 64 {
            return Err(cursor.wrong("a width over 64"));
        }
        let base = if self.form == Form::Block as u8 { cursor.signed()? } else { self.base } as u64;
        unpack(cursor.pass(packed_bytes(n, width))?, width, block);
        if tag & PATCHED != 0 {
            read_patches(cursor, width, block)?;
        }
        if self.form == Form::Centre as u8 {
            block.iter_mut().for_each(|v| *v = (unzigzag(*v) as u64).wrapping_add(base));
        } else {
            block.iter_mut().for_each(|v| *v = v.wrapping_add(base));
        }
        if self.divisor != 1 {
            block.iter_mut().for_each(|v| *v = v.wrapping_mul(self.divisor));
        }
        Ok(())
    }
}

#[inline(never)]
fn read_patches(cursor: &mut Cursor, width: u32, block: &mut [u64; BLOCK]) -> Result<()> {
    let count = usize::from(cursor.byte()?);
    let patch_width = u32::from(cursor.byte()?);
    if count > BLOCK || width + patch_width > 64 {
        return Err(cursor.wrong("patches that no block has"));
    }
    let mut at = BitReader::new(cursor.take(packed_bytes(count, POSITION_BITS))?);
    let mut high = BitReader::new(cursor.take(packed_bytes(count, patch_width))?);
    for _ in 0..count {
        let patch = high.take64(patch_width);
        block[at.take(POSITION_BITS) as usize & (BLOCK - 1)] |= patch.checked_shl(width).unwrap_or(0);
    }
    Ok(())
}
