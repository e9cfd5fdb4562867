//! Columns of 64-bit integers. The residuals of order 0 (distance from the first), 1 (steps) or 2 (steps
//! of steps), freed of their common divisor, are packed in blocks of 64, each with its own width; the
//! few that are too wide keep their high bits in a list behind their block. This is the reader and the
//! shape of the bytes; `layout` writes them.

use metricsdb_model::Result;

use super::bits::{BLOCK, load64, mask, packed_bytes};
use super::cursor::Cursor;
use super::layout::Layout;
use super::simd::{Aligned, Kernel, Numbers, Simd, dispatch};

/// Control byte: order in bits 0 and 1, the form of residuals in bits 2 and 3, then these. The two
/// highest bits belong to whom the column belongs to.
pub(super) const DIVISOR: u8 = 16;
pub(super) const UNIFORM: u8 = 32;
pub(super) const CONTROL: u8 = 63;

/// How residuals become small unsigned numbers: what is added to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// The block's smallest residual.
    Block = 0,
    /// The column's smallest residual.
    Column = 1,
    /// A residual in the middle less half of what the block's width holds.
    Centre = 2,
}

pub(super) const FORMS: [Form; 3] = [Form::Block, Form::Column, Form::Centre];

/// What a column's control byte says of its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub order: u8,
    pub form: Form,
}

impl Shape {
    /// `None` for what no writer writes.
    pub fn of(control: u8) -> Option<Shape> {
        let form = *FORMS.get(usize::from(control >> 2 & 3))?;
        let order = control & 3;
        (order <= 2).then_some(Shape { order, form })
    }
}

/// The first of the two bytes before the tags: the least width, and whether some block has patches.
pub(super) const PATCHED: u8 = 128;

/// Widths of blocks differ by a number of this many bits at most.
pub(super) const TAG_BITS_MAX: u32 = 7;

/// Bits of a position within a block; of the number of patches - 1; of the width of a patch.
pub(super) const POSITION_BITS: u32 = 6;
pub(super) const PATCH_HEAD_BITS: u32 = 12;

/// The widest number that eight bytes hold wherever it begins in the first.
const ONE_LOAD_WIDTH: u32 = 57;

/// What a number in the middle of a block's width stands for, in form `Centre`.
#[inline(always)]
pub(super) fn bias(width: u32) -> u64 {
    if width == 0 { 0 } else { 1 << (width.min(64) - 1) }
}

/// Appends a column. Its first integer is not written: the decoder is told it.
pub fn encode(column: &[i64], out: &mut Vec<u8>) {
    let layout = Layout::find(column, None, 2);
    layout.write_head(0, out);
    layout.write_blocks(out);
}

/// What stands before the blocks of a column. Blocks are read beside it: it is large, and is never copied.
pub struct Head<'a> {
    shape: Shape,
    divisor: u64,
    base: u64,
    /// The step that leads to the second integer, divided.
    step: u64,
    /// Width of blocks, or the least of them.
    width: u32,
    /// What begins with the tags of blocks, and their bits without the one for patches.
    tags: &'a [u8],
    tag_bits: u32,
    patched: bool,
    count: usize,
}

impl<'a> Head<'a> {
    /// Takes what stands behind the control byte. Errors: `Corruption`.
    #[inline(always)]
    pub fn read(c: &mut Cursor<'a>, control: u8, count: usize) -> Result<Head<'a>> {
        let Some(shape) = Shape::of(control).filter(|_| control <= CONTROL && count > 0) else {
            return Err(c.wrong("no such order or form of integers"));
        };
        // Made at once behind all of it: what is read in a vector right after its parts were stored is late.
        let (mut divisor, mut step, mut base, mut width) = (1, 0, 0, 0);
        let (mut tags, mut tag_bits, mut patched): (&[u8], u32, bool) = (&[], 0, false);
        if count > 1 {
            if control & DIVISOR != 0 {
                divisor = c.varint()?;
            }
            if shape.order == 2 {
                step = c.signed()? as u64;
            }
            if shape.form != Form::Block {
                base = c.signed()? as u64;
            }
            let least = c.byte()?;
            width = u32::from(least & !PATCHED);
            patched = least & PATCHED != 0;
            if control & UNIFORM == 0 {
                tag_bits = u32::from(c.byte()?);
                if tag_bits > TAG_BITS_MAX {
                    return Err(c.wrong("widths differ by more than widths can"));
                }
                tags = c.pass(packed_bytes(count.div_ceil(BLOCK), tag_bits + u32::from(patched)))?;
            } else if patched {
                return Err(c.wrong("a uniform column has no patches"));
            }
        }
        Ok(Head { shape, divisor, base, step, width, tags, tag_bits, patched, count })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Width of block `i`, and whether it has patches.
    #[inline(always)]
    fn tag(&self, i: usize) -> (u32, bool) {
        let bit = i * (self.tag_bits + u32::from(self.patched)) as usize;
        let tag = (load64(self.tags, bit >> 3) >> (bit & 7)) as u32;
        let more = tag & mask(self.tag_bits) as u32;
        (self.width + more, self.patched && tag >> self.tag_bits & 1 != 0)
    }

    /// The blocks, from the first on; the column's first integer isn't written here.
    #[inline(always)]
    pub fn blocks(&self, first: i64) -> Blocks<'_, 'a> {
        Blocks { head: self, done: 0, last: first as u64, step: self.step.wrapping_mul(self.divisor) }
    }

    /// Shape, divisor and widths, for people; `c` stands at the first block.
    pub fn detail(&self, c: &mut Cursor<'a>) -> Result<String> {
        let (mut least, mut most, mut patches, mut done) = (64, 0, 0, 0);
        while self.count > 1 && done < self.count {
            let n = (self.count - done).min(BLOCK);
            let (width, patched) = self.tag(done / BLOCK);
            (least, most) = (width.min(least), width.max(most));
            if self.shape.form == Form::Block {
                c.signed()?;
            }
            c.pass(packed_bytes(n, width))?;
            if patched {
                patches += patches_of(c)?.0;
            }
            done += n;
        }
        let order = ["distances", "steps", "steps of steps"][usize::from(self.shape.order).min(2)];
        let form = match self.shape.form {
            Form::Block => " above each block's least",
            Form::Column => "",
            Form::Centre => " around a centre",
        };
        let divisor = if self.divisor == 1 { String::new() } else { format!(", divisor {}", self.divisor) };
        let widths =
            if least >= most { format!("width {most}") } else { format!("widths {least} to {most}") };
        let patches = match patches {
            0 => String::new(),
            1 => ", 1 patch".to_owned(),
            n => format!(", {n} patches"),
        };
        Ok(format!("{order}{form}{divisor}, {widths}{patches}"))
    }
}

/// A column that is decoded block by block.
pub struct Blocks<'h, 'a> {
    head: &'h Head<'a>,
    done: usize,
    last: u64,
    /// Times the divisor, as all that leaves this.
    step: u64,
}

impl<'a> Blocks<'_, 'a> {
    /// The next integers, in order; how many there are, 0 at the end. Those behind them are undefined.
    /// All come in blocks of 64 but the last.
    #[inline(always)]
    pub fn next<S: Simd>(&mut self, simd: S, c: &mut Cursor<'a>, block: &mut [u64; BLOCK]) -> Result<usize> {
        let n = self.next_size();
        if n == 0 {
            return Ok(0);
        }
        let (numbers, patched) = self.packed(c, n)?;
        if patched {
            self.read_patches(c, numbers.width, block)?;
            self.fill::<S, true>(simd, &numbers, block);
        } else {
            self.fill::<S, false>(simd, &numbers, block);
        }
        Ok(n)
    }

    /// How many integers `next` gives.
    #[inline(always)]
    pub fn next_size(&self) -> usize {
        (self.head.count - self.done).min(BLOCK)
    }

    /// As `next` where it gives 64, and appends what `of` makes of them; the block is undefined then.
    #[inline(always)]
    pub fn next_onto<S: Simd, T>(
        &mut self,
        simd: S,
        c: &mut Cursor<'a>,
        block: &mut [u64; BLOCK],
        of: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let (numbers, patched) = self.packed(c, BLOCK)?;
        if !patched {
            self.fill_onto::<S, false, T>(simd, &numbers, block, of, out);
        } else if self.head.shape.order == 0 && numbers.width <= ONE_LOAD_WIDTH {
            // Nothing hangs on an integer but what is made of it: the few with patches are made once more.
            simd.numbers_onto::<false, T>(&numbers, self.last, block, of, out);
            let made = out.last_chunk_mut::<BLOCK>();
            return self.patch(c, &numbers, of, made);
        } else {
            self.read_patches(c, numbers.width, block)?;
            self.fill_onto::<S, true, T>(simd, &numbers, block, of, out);
        }
        Ok(())
    }

    /// Moves behind a block of `n` integers: as it is packed, and whether patches follow.
    #[inline(always)]
    fn packed(&mut self, c: &mut Cursor<'a>, n: usize) -> Result<(Numbers<'a>, bool)> {
        let (width, patched) = self.head.tag(self.done / BLOCK);
        if width > 64 {
            return Err(c.wrong("a width over 64"));
        }
        let base = match self.head.shape.form {
            Form::Block => c.signed()? as u64,
            Form::Column => self.head.base,
            Form::Centre => self.head.base.wrapping_sub(bias(width)),
        };
        let plus = base.wrapping_mul(self.head.divisor);
        let bytes = c.pass(packed_bytes(n, width))?;
        if self.done == 0 {
            self.before_first(plus);
        }
        self.done += n;
        Ok((Numbers { bytes, width, factor: self.head.divisor, plus }, patched))
    }

    /// Reads the patches of a block whose numbers take `width` bits into it. They go first, so that no vector is
    /// loaded right after a part of it was stored.
    #[inline(always)]
    fn read_patches(&self, c: &mut Cursor<'a>, width: u32, block: &mut [u64; BLOCK]) -> Result<()> {
        *block = [0; BLOCK];
        each_patch(c, width, self.head.shape.form, |at, top| block[at] = top)
    }

    /// Reads the patches of a block of order 0, and makes what `of` makes of their integers.
    #[inline(always)]
    fn patch<T>(
        &self,
        c: &mut Cursor<'a>,
        numbers: &Numbers<'a>,
        of: impl Fn(u64) -> T,
        made: Option<&mut [T; BLOCK]>,
    ) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        let (keep, width) = (mask(numbers.width), numbers.width as usize);
        let plus = numbers.plus.wrapping_add(self.last);
        each_patch(c, numbers.width, self.head.shape.form, |at, top| {
            let low = (load64(numbers.bytes, (at * width) >> 3) >> ((at * width) & 7)) & keep;
            made[at] = of(low.wrapping_add(top).wrapping_mul(numbers.factor).wrapping_add(plus));
        })
    }

    /// Integers from packed numbers, with `ADD` from their patches too.
    #[inline(always)]
    fn fill<S: Simd, const ADD: bool>(&mut self, simd: S, numbers: &Numbers, block: &mut [u64; BLOCK]) {
        match self.head.shape.order {
            0 => simd.numbers::<ADD>(numbers, self.last, block),
            1 => self.last = simd.sums_of::<ADD>(numbers, self.last, block),
            _ => {
                self.step = simd.sums_of::<ADD>(numbers, self.step, block);
                self.last = simd.sums(block, 0, self.last);
            }
        }
    }

    #[inline(always)]
    fn fill_onto<S: Simd, const ADD: bool, T>(
        &mut self,
        simd: S,
        numbers: &Numbers,
        block: &mut [u64; BLOCK],
        of: impl Fn(u64) -> T + Copy,
        out: &mut Vec<T>,
    ) {
        match self.head.shape.order {
            0 => simd.numbers_onto::<ADD, T>(numbers, self.last, block, of, out),
            1 => self.last = simd.sums_onto::<ADD, T>(numbers, self.last, block, of, out),
            _ => {
                self.fill::<S, ADD>(simd, numbers, block);
                out.extend(block.iter().map(|&v| of(v)));
            }
        }
    }

    /// The numbers of integers that are known stand for nothing: what is before the first is such that the
    /// sums give those integers.
    #[inline(always)]
    fn before_first(&mut self, plus: u64) {
        match self.head.shape.order {
            0 => {}
            1 => self.last = self.last.wrapping_sub(plus),
            _ => {
                self.last = self.last.wrapping_sub(self.step).wrapping_add(plus);
                self.step = self.step.wrapping_sub(plus.wrapping_mul(2));
            }
        }
    }
}

/// Number and width of patches, and the bytes that begin with them, head included.
#[inline(always)]
fn patches_of<'a>(c: &mut Cursor<'a>) -> Result<(usize, u32, &'a [u8])> {
    let mut peek = *c;
    let head = load64(peek.rest(), 0);
    let (count, width) = ((head & 63) as usize + 1, (head >> 6 & 63) as u32);
    let bits = PATCH_HEAD_BITS as usize + count * (POSITION_BITS + width) as usize;
    Ok((count, width, c.pass(bits.div_ceil(8))?))
}

/// Hands out the patches of a block: a place, and what the number there gets on top.
#[inline(always)]
fn each_patch(c: &mut Cursor, width: u32, form: Form, put: impl FnMut(usize, u64)) -> Result<()> {
    let (count, patch_width, bytes) = patches_of(c)?;
    match form {
        Form::Centre => read_patches(count, patch_width, bytes, width, uncentre, put),
        _ => read_patches(count, patch_width, bytes, width, |code| code + 1, put),
    }
    Ok(())
}

#[inline(always)]
fn read_patches(
    count: usize,
    patch_width: u32,
    bytes: &[u8],
    width: u32,
    high: impl Fn(u64) -> u64,
    mut put: impl FnMut(usize, u64),
) {
    let keep = mask(patch_width);
    let each = POSITION_BITS + patch_width;
    let mut bit = PATCH_HEAD_BITS as usize;
    for _ in 0..count {
        let word = load64(bytes, bit >> 3) >> (bit & 7);
        let at = word as usize & (BLOCK - 1);
        let mut code = word >> POSITION_BITS;
        if each > 57 {
            // What the first eight bytes lack of it lies behind them.
            let there = 64 - POSITION_BITS - (bit as u32 & 7);
            code |= load64(bytes, (bit >> 3) + 8) << there;
        }
        put(at, high(code & keep) << (width & 63));
        bit += each as usize;
    }
}

/// Codes of patches above and below, in turn: none is 0.
#[inline(always)]
fn uncentre(code: u64) -> u64 {
    let size = (code >> 1) + 1;
    if code & 1 != 0 { size.wrapping_neg() } else { size }
}

#[inline(always)]
pub(super) fn centred(high: u64) -> u64 {
    let below = (high as i64) < 0;
    let size = (high as i64).unsigned_abs();
    (size.wrapping_sub(1) << 1) | u64::from(below)
}

/// Appends a whole column, and moves the cursor behind it. On an error `out` may hold a part of it.
pub fn decode<T: FromWord>(cursor: &mut Cursor, first: i64, count: usize, out: &mut Vec<T>) -> Result<()> {
    dispatch(Whole { cursor, first, count, out })
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

struct Whole<'c, 'a, 'o, T> {
    cursor: &'c mut Cursor<'a>,
    first: i64,
    count: usize,
    out: &'o mut Vec<T>,
}

impl<T: FromWord> Kernel for Whole<'_, '_, '_, T> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Result<()> {
        let control = self.cursor.byte()?;
        let head = Head::read(self.cursor, control, self.count)?;
        let mut blocks = head.blocks(self.first);
        let mut block = Aligned::zero();
        self.out.reserve(self.count);
        loop {
            let n = blocks.next(simd, self.cursor, &mut block.0)?;
            if n == 0 {
                return Ok(());
            }
            self.out.extend(block.0[..n].iter().map(|&v| T::from_word(v)));
        }
    }
}
