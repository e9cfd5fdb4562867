//! How a column of integers is laid out: which order and form of residuals, which width for each block of
//! 64, and which numbers are patched. Orders are estimated first; those near the best are planned in every
//! form, and the smallest plan is written.

use super::bits::{BLOCK, mask, pack, packed_bytes, width, zigzag};
use super::cursor::{put_signed, put_varint};
use super::integers::{
    DIVISOR, FORMS, Form, PATCH_HEAD_BITS, PATCHED, POSITION_BITS, Shape, UNIFORM, bias, centred,
};
use super::simd::{Kernel, Simd, dispatch};

/// An order is tried if its estimate is within this part of the best; the shape of the block before is
/// kept within this one.
const NEAR_BEST: u64 = 2;
const KEPT: u64 = 48;

/// Residuals that the middle one is taken of. With 15 a walk of 512 is two bytes longer; with all of them it
/// is 0.1 % shorter, and sealed at two thirds of the speed.
const MIDDLE: usize = 63;

/// Distances below this have steps of steps that don't overflow.
const RANGE_MAX: u64 = 1 << 61;

/// A column that is ready to be written.
pub struct Layout {
    /// Residuals, as they are packed.
    rest: Vec<[i64; BLOCK]>,
    divisor: u64,
    /// The second integer's step, for order 2.
    step: i64,
    count: usize,
    plan: Plan,
}

/// One way to write a column, and what it costs.
struct Plan {
    shape: Shape,
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
}

impl Layout {
    /// The smallest of the orders up to `order_max`; the shape of an earlier column is kept if no other
    /// order looks clearly better.
    pub fn find(column: &[i64], last: Option<Shape>, order_max: u8) -> Layout {
        let divisor = divisor(column);
        if divisor > 1 {
            let divided = divide(column, divisor);
            return Layout::of(&divided, divisor, last, order_max);
        }
        Layout::of(column, 1, last, order_max)
    }

    fn of(column: &[i64], divisor: u64, last: Option<Shape>, order_max: u8) -> Layout {
        let order_max = order_max.min(column.len().saturating_sub(1).min(2) as u8);
        let sizes = estimates(column);
        let sizes = &sizes[..=usize::from(order_max)];
        let least = sizes.iter().copied().min().unwrap_or(0);
        let near = |size: u64, part: u64| size <= least + least / part + 8;
        let last = last.filter(|l| sizes.get(usize::from(l.order)).is_some_and(|&s| near(s, KEPT)));
        let mut best: Option<(Plan, Vec<[i64; BLOCK]>)> = None;
        for order in 0..=order_max {
            if last.map_or(!near(sizes[usize::from(order)], NEAR_BEST), |l| l.order != order) {
                continue;
            }
            let rest = residuals(column, order);
            let plan =
                |form| dispatch(Planning { rest: &rest, count: column.len(), shape: Shape { order, form } });
            // The form that is kept must not be far above the residuals' own widths.
            let enough = sizes[usize::from(order)] * 5 / 4 + 2 * column.len() as u64;
            // Most columns are smallest around a centre, so that it is tried beside what is kept.
            let again = |form| match form {
                Form::Centre => plan(form),
                _ => smaller(plan(form), plan(Form::Centre)),
            };
            let kept = last.map(|l| again(l.form)).filter(|plan| plan.bits as u64 <= enough);
            let smallest = || FORMS.map(plan).into_iter().min_by_key(|plan| plan.bits);
            if let Some(plan) = kept.or_else(smallest)
                && best.as_ref().is_none_or(|b| plan.bits < b.0.bits)
            {
                best = Some((plan, rest));
            }
        }
        let empty = || {
            let shape = Shape { order: 0, form: Form::Column };
            (Plan { shape, base: 0, uniform: Some(0), blocks: Vec::new(), bits: 0 }, Vec::new())
        };
        let (plan, rest) = best.unwrap_or_else(empty);
        let step = match column {
            [first, second, ..] => second.wrapping_sub(*first),
            _ => 0,
        };
        Layout { rest, divisor, step, count: column.len(), plan }
    }

    /// All that stands before the blocks; `extra` are the highest two bits of the control byte.
    pub fn write_head(&self, extra: u8, out: &mut Vec<u8>) {
        let Plan { shape, base, uniform, ref blocks, .. } = self.plan;
        let divisor = if self.divisor > 1 { DIVISOR } else { 0 };
        let flags = divisor | if uniform.is_some() { UNIFORM } else { 0 };
        out.push(shape.order | (shape.form as u8) << 2 | flags | extra);
        if self.count <= 1 {
            return;
        }
        if self.divisor > 1 {
            put_varint(out, self.divisor);
        }
        if shape.order == 2 {
            put_signed(out, self.step);
        }
        if shape.form != Form::Block {
            put_signed(out, base);
        }
        if let Some(w) = uniform {
            return out.push(w as u8);
        }
        let (least, bits, patched) = tags(blocks);
        out.push(least as u8 | if patched { PATCHED } else { 0 });
        out.push(bits as u8);
        for some in blocks.chunks(BLOCK) {
            let mut list = [0; BLOCK];
            for (tag, b) in list.iter_mut().zip(some) {
                *tag = u64::from(b.width - least) | u64::from(b.patches > 0) << bits;
            }
            pack(&list, some.len(), bits + u32::from(patched), out);
        }
    }

    /// Blocks that there are to write.
    pub fn blocks(&self) -> usize {
        self.plan.blocks.len()
    }

    /// All blocks.
    pub fn write_blocks(&self, out: &mut Vec<u8>) {
        dispatch(Writing { layout: self, blocks: 0..self.blocks(), out });
    }

    /// One block.
    pub fn write_block(&self, i: usize, out: &mut Vec<u8>) {
        dispatch(Writing { layout: self, blocks: i..i + 1, out });
    }
}

fn smaller(one: Plan, other: Plan) -> Plan {
    if other.bits < one.bits { other } else { one }
}

/// Least width, bits of the differences from it, whether there are patches.
fn tags(blocks: &[Block]) -> (u32, u32, bool) {
    let least = blocks.iter().map(|b| b.width).min().unwrap_or(0);
    let most = blocks.iter().map(|b| b.width).max().unwrap_or(0);
    (least, width(u64::from(most - least)), blocks.iter().any(|b| b.patches > 0))
}

/// The greatest common divisor of all distances; 1 where distances are too long.
pub(super) fn divisor(column: &[i64]) -> u64 {
    let Some(&first) = column.first() else { return 1 };
    let mut d = Divisor::new(0);
    for &v in column {
        match v.checked_sub(first).map(i64::unsigned_abs) {
            Some(distance) if distance < RANGE_MAX => {
                if !d.divides(distance) {
                    d = Divisor::new(gcd(distance, d.divisor));
                    if d.divisor == 1 {
                        break;
                    }
                }
            }
            _ => return 1,
        }
    }
    d.divisor.max(1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Exact division: a shift, and a product with the inverse of the odd part modulo 2^64.
struct Divisor {
    divisor: u64,
    shift: u32,
    inverse: u64,
    most: u64,
}

impl Divisor {
    fn new(divisor: u64) -> Divisor {
        let shift = divisor.trailing_zeros() & 63;
        // 0 divides nothing but 0.
        let odd = (divisor >> shift).max(1);
        let inverse = (0..6).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))));
        let most = if divisor == 0 { 0 } else { u64::MAX / odd };
        Divisor { divisor, shift, inverse, most }
    }

    /// Products of multiples with the inverse are quotients; those of others are larger than any.
    #[inline(always)]
    fn divides(&self, v: u64) -> bool {
        v.trailing_zeros() >= self.shift && (v >> self.shift).wrapping_mul(self.inverse) <= self.most
    }

    /// A multiple, divided.
    #[inline(always)]
    fn divide(&self, v: i64) -> i64 {
        (v >> self.shift).wrapping_mul(self.inverse as i64)
    }
}

/// Distances from the first, divided.
fn divide(column: &[i64], divisor: u64) -> Vec<i64> {
    let first = column.first().copied().unwrap_or(0);
    let divisor = Divisor::new(divisor);
    column.iter().map(|v| divisor.divide(v.wrapping_sub(first))).collect()
}

/// Residuals in blocks. The places of the values that the decoder knows, one or two for orders 1 and 2,
/// and of those behind the end are filled with a residual beside them, which changes no plan.
fn residuals(column: &[i64], order: u8) -> Vec<[i64; BLOCK]> {
    let mut blocks = vec![[0; BLOCK]; column.len().div_ceil(BLOCK)];
    let rest = blocks.as_flattened_mut();
    let (first, known) = (column.first().copied().unwrap_or(0), usize::from(order));
    let step = |a: i64, b: i64| b.wrapping_sub(a);
    let (one, two) = (column.get(1..).unwrap_or(&[]), column.get(2..).unwrap_or(&[]));
    let places = rest.iter_mut().skip(known);
    match order {
        0 => places.zip(column).for_each(|(r, &v)| *r = step(first, v)),
        1 => places.zip(column.iter().zip(one)).for_each(|(r, (&a, &b))| *r = step(a, b)),
        _ => {
            let all = column.iter().zip(one).zip(two);
            places.zip(all).for_each(|(r, ((&a, &b), &c))| *r = step(step(a, b), step(b, c)));
        }
    }
    let (after, end) = (rest.get(known).copied(), column.len());
    rest.iter_mut().take(known).for_each(|r| *r = after.unwrap_or(0));
    let before = end.checked_sub(1).and_then(|i| rest.get(i)).copied();
    rest.iter_mut().skip(end).for_each(|r| *r = before.unwrap_or(0));
    blocks
}

/// About the bits that the three orders take.
fn estimates(column: &[i64]) -> [u64; 3] {
    let step = |i: usize| column[i].wrapping_sub(column[i - 1]);
    let n = column.len();
    if n < 3 {
        return [0; 3];
    }
    let centres = [ninther(|i| column[i * (n - 1) / 8]), ninther(|i| step(1 + i * (n - 2) / 8))];
    dispatch(Estimate { column, centres })
}

/// The median of the medians of three times three: near the middle, and quick.
#[inline(always)]
fn ninther(at: impl Fn(usize) -> i64) -> i64 {
    let median = |a: i64, b: i64, c: i64| a.min(b).max(a.max(b).min(c));
    let of = |i: usize| median(at(i), at(i + 3), at(i + 6));
    median(of(0), of(1), of(2))
}

/// The median of some spread over `0..n`.
fn middle(n: usize, at: impl Fn(usize) -> i64) -> i64 {
    if n < 2 {
        return 0;
    }
    let mut some: [i64; MIDDLE] = std::array::from_fn(|i| at((2 * i + 1) * n / (2 * MIDDLE)));
    *some.select_nth_unstable(MIDDLE / 2).1
}

/// Each residual at its own width, around a centre.
struct Estimate<'a> {
    column: &'a [i64],
    centres: [i64; 2],
}

impl Kernel for Estimate<'_> {
    type Output = [u64; 3];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [u64; 3] {
        let bits = |v: i64| u64::from(width(zigzag(v)));
        let mut sums = [0; 3];
        let (Some(one), Some(two)) = (self.column.get(1..), self.column.get(2..)) else { return sums };
        for ((&a, &b), &c) in self.column.iter().zip(one).zip(two) {
            let (first, second) = (b.wrapping_sub(a), c.wrapping_sub(b));
            sums[0] += bits(c.wrapping_sub(self.centres[0]));
            sums[1] += bits(second.wrapping_sub(self.centres[1]));
            sums[2] += bits(second.wrapping_sub(first));
        }
        sums
    }
}

/// Makes the plan of one shape.
struct Planning<'a> {
    rest: &'a [[i64; BLOCK]],
    count: usize,
    shape: Shape,
}

impl Kernel for Planning<'_> {
    type Output = Plan;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Plan {
        let Planning { rest, count, shape } = self;
        let least = |real: &[i64]| real.iter().copied().fold(i64::MAX, i64::min);
        let most = |real: &[i64]| real.iter().copied().fold(i64::MIN, i64::max);
        let flat = rest.as_flattened();
        let base = match shape.form {
            Form::Block => 0,
            // A base takes nothing off numbers as long as this.
            Form::Column if most(flat).wrapping_sub(least(flat)) < 0 => 0,
            Form::Column => least(flat),
            Form::Centre => middle(count, |i| flat[i]),
        };
        let mut blocks = Vec::with_capacity(rest.len());
        let (mut patched, mut bases, mut most) = (0, 0, 0);
        let mut widths = [0; BLOCK];
        for (i, block) in rest.iter().enumerate() {
            let base = if shape.form == Form::Block { least(block) } else { base };
            if shape.form == Form::Block {
                bases += 8 * varint_bytes(zigzag(base));
            }
            let distances = widths.iter_mut().zip(block);
            if shape.form == Form::Centre {
                distances.for_each(|(w, r)| *w = width(zigzag(r.wrapping_sub(base))) as u8);
            } else {
                distances.for_each(|(w, r)| *w = width(r.wrapping_sub(base) as u64) as u8);
            }
            let (block, bytes, top) = plan_block(&widths, (count - i * BLOCK).min(BLOCK), base, shape.form);
            patched += bytes * 8;
            most = most.max(top);
            blocks.push(block);
        }
        let (_, tag_bits, some) = tags(&blocks);
        patched += 16 + 8 * packed_bytes(blocks.len(), tag_bits + u32::from(some));
        let uniform = 8 + 8 * (count / BLOCK * packed_bytes(BLOCK, most) + packed_bytes(count % BLOCK, most));
        let flat = uniform <= patched;
        if flat {
            blocks.iter_mut().for_each(|b| (b.width, b.patches) = (most, 0));
        }
        let base_bits = if shape.form == Form::Block { bases } else { 8 * varint_bytes(zigzag(base)) };
        let bits = patched.min(uniform) + base_bits;
        Plan { shape, base, uniform: flat.then_some(most), blocks, bits }
    }
}

fn varint_bytes(v: u64) -> usize {
    width(v | 1).div_ceil(7) as usize
}

/// The width that makes a block of `n` smallest, its bytes, and the width that needs no patch.
#[inline(always)]
fn plan_block(widths: &[u8; BLOCK], n: usize, base: i64, form: Form) -> (Block, usize, u32) {
    let top = u32::from(widths.iter().fold(0, |most, w| most.max(*w)));
    let mut best = (Block { base, width: top, patches: 0 }, packed_bytes(n, top));
    // A patch of 64 bits has no code, so that a width of 0 under one of 64 is not tried.
    for w in (top / 64..top).rev() {
        let patches = usize::from(widths.iter().fold(0u8, |n, x| n + u8::from(u32::from(*x) > w)));
        if patches * 8 > n * 3 {
            break;
        }
        let each = POSITION_BITS + patch_bits(top - w, form);
        let bits = PATCH_HEAD_BITS as usize + patches * each as usize;
        let bytes = packed_bytes(n, w) + bits.div_ceil(8);
        if bytes < best.1 {
            best = (Block { base, width: w, patches: patches as u32 }, bytes);
        }
    }
    (best.0, best.1, top)
}

/// Bits of the codes of patches that are `high` bits wide: none is 0.
fn patch_bits(high: u32, form: Form) -> u32 {
    if high == 1 && form != Form::Centre { 0 } else { high }
}

/// Writes some blocks.
struct Writing<'a, 'o> {
    layout: &'a Layout,
    blocks: std::ops::Range<usize>,
    out: &'o mut Vec<u8>,
}

impl Kernel for Writing<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Plan { shape, ref blocks, .. } = self.layout.plan;
        let mut numbers = [0; BLOCK];
        for i in self.blocks {
            let (Some(block), Some(rest)) = (blocks.get(i), self.layout.rest.get(i)) else { return };
            let from = block.base as u64;
            let from = if shape.form == Form::Centre { from.wrapping_sub(bias(block.width)) } else { from };
            numbers.iter_mut().zip(rest).for_each(|(n, r)| *n = (*r as u64).wrapping_sub(from));
            if i == 0 {
                numbers[..usize::from(shape.order)].fill(0);
            }
            if shape.form == Form::Block {
                put_signed(self.out, block.base);
            }
            let n = (self.layout.count - i * BLOCK).min(BLOCK);
            pack(&numbers, n, block.width, self.out);
            if block.patches > 0 {
                write_patches(&numbers, n, block.width, shape.form, self.out);
            }
        }
    }
}

/// Those of the first `n` numbers that are above what the block keeps: a head, then position and code of each.
#[inline(always)]
fn write_patches(numbers: &[u64; BLOCK], n: usize, kept: u32, form: Form, out: &mut Vec<u8>) {
    let keep = mask(kept);
    let wide = |i: usize| u64::from(numbers[i] > keep) << i;
    let wide = (0..BLOCK).fold(0, |all, i| all | wide(i)) & mask(n as u32);
    let places = || {
        let mut left = wide;
        std::iter::from_fn(move || {
            let at = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (at < 64).then_some(at as usize)
        })
    };
    let code = |at: usize| match form {
        Form::Centre => centred((numbers[at] as i64 >> kept) as u64),
        _ => (numbers[at] >> kept).wrapping_sub(1),
    };
    let most = places().fold(0, |most, at| most | code(at));
    let bits = width(most).min(63);
    let mut held = u128::from(wide.count_ones().wrapping_sub(1) & 63) | u128::from(bits) << 6;
    let mut filled = PATCH_HEAD_BITS;
    for at in places() {
        // Less than 32 bits are held from before, and one patch takes no more than 69.
        held |= u128::from(at as u64) << filled;
        held |= u128::from(code(at)) << (filled + POSITION_BITS);
        filled += POSITION_BITS + bits;
        while filled >= 32 {
            out.extend_from_slice(&(held as u32).to_le_bytes());
            held >>= 32;
            filled -= 32;
        }
    }
    out.extend_from_slice(&held.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Bits of the shape that is chosen, and of the smallest of all.
    pub fn chosen_and_least(column: &[i64]) -> (usize, usize) {
        let divisor = divisor(column);
        let divided = divide(column, divisor);
        let orders = 0..=2.min(column.len() - 1) as u8;
        let shapes = orders.flat_map(|order| FORMS.map(|form| Shape { order, form }));
        let bits = shapes.map(|shape| {
            let rest = residuals(&divided, shape.order);
            dispatch(Planning { rest: &rest, count: column.len(), shape }).bits
        });
        (Layout::find(column, None, 2).plan.bits, bits.min().unwrap_or(0))
    }
}
