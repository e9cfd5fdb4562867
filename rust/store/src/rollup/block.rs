//! A block of records: a chunk a column, and none where a column follows from the others. Blocks begin at fixed times,
//! so that records come to the same bytes in whatever order their samples came.

use std::ops::Range;

use metricsdb_model::{Result, ValueKind};

use super::record::Record;
use super::roll::TIME_MIN;
use crate::chunk::{Builder, Chunk, SharedColumns};

/// Buckets that one block spans.
pub const BLOCK_BUCKETS: i64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Count,
    /// Milliseconds from the bucket's begin to the first sample, and from the last to its end.
    FirstAfter,
    LastBefore,
    First,
    Last,
    Min,
    Max,
    Sum,
    Deviation,
    Resets,
    ResetFrom,
    Unkept,
}

const COLUMNS: [Column; 12] = [
    Column::Count,
    Column::FirstAfter,
    Column::LastBefore,
    Column::First,
    Column::Last,
    Column::Min,
    Column::Max,
    Column::Sum,
    Column::Deviation,
    Column::Resets,
    Column::ResetFrom,
    Column::Unkept,
];

impl Column {
    fn kind(self) -> ValueKind {
        match self {
            Column::Count | Column::FirstAfter | Column::LastBefore | Column::Resets | Column::Unkept => {
                ValueKind::Int
            }
            _ => ValueKind::Float,
        }
    }

    fn get(self, r: &Record, every: i64) -> u64 {
        match self {
            Column::Count => r.count,
            Column::FirstAfter => r.first.0.wrapping_sub(r.end.wrapping_sub(every)) as u64,
            Column::LastBefore => r.end.wrapping_sub(r.last.0) as u64,
            Column::First => r.first.1.to_bits(),
            Column::Last => r.last.1.to_bits(),
            Column::Min => r.min.to_bits(),
            Column::Max => r.max.to_bits(),
            Column::Sum => r.sum.to_bits(),
            Column::Deviation => rounded(r.deviation).to_bits(),
            Column::Resets => r.resets,
            Column::ResetFrom => r.reset_from.to_bits(),
            Column::Unkept => r.unkept,
        }
    }

    fn set(self, r: &mut Record, every: i64, bits: u64) {
        let number = f64::from_bits(bits);
        match self {
            Column::Count => r.count = bits,
            Column::FirstAfter => r.first.0 = r.end.wrapping_sub(every).wrapping_add(bits as i64),
            Column::LastBefore => r.last.0 = r.end.wrapping_sub(bits as i64),
            Column::First => r.first.1 = number,
            Column::Last => r.last.1 = number,
            Column::Min => r.min = number,
            Column::Max => r.max = number,
            Column::Sum => r.sum = number,
            Column::Deviation => r.deviation = number,
            Column::Resets => r.resets = bits,
            Column::ResetFrom => r.reset_from = number,
            Column::Unkept => r.unkept = bits,
        }
    }

    /// What a column that is not there says, of those before it.
    fn absent(self, r: &Record) -> u64 {
        match self {
            Column::Count => 1,
            Column::FirstAfter | Column::LastBefore | Column::First | Column::Deviation => 0,
            Column::Last | Column::Min => r.first.1.to_bits(),
            Column::Max => r.last.1.to_bits(),
            Column::Sum => (r.first.1 * r.count as f64).to_bits(),
            Column::Resets | Column::ResetFrom | Column::Unkept => 0,
        }
    }
}

/// Bits that a squared distance keeps behind its first: of a standard deviation that is one part in 260,000.
const DEVIATION_BITS: u32 = 16;

/// The nearest number of so many bits.
pub fn rounded(value: f64) -> f64 {
    let dropped = f64::MANTISSA_DIGITS - 1 - DEVIATION_BITS;
    let bits = value.to_bits().wrapping_add(1 << (dropped - 1)) >> dropped << dropped;
    if value.is_finite() { f64::from_bits(bits) } else { value }
}

/// An immutable run of records in time order; a clone shares the bytes.
#[derive(Clone)]
pub struct Block {
    first: i64,
    last: i64,
    count: u32,
    /// A bit for each column that has a chunk.
    present: u16,
    chunks: Box<[Chunk]>,
}

/// Of blocks with these first ends, those that the buckets that end in `(after, until]` belong to.
pub fn blocks_of<B>(
    blocks: &[B],
    first: impl Fn(&B) -> i64,
    every: i64,
    (after, until): (i64, i64),
) -> Range<usize> {
    let number = |b: &B| number_of(first(b), every);
    let lowest = after.checked_add(every).map_or(i64::MIN, |end| number_of(end, every));
    let from = blocks.partition_point(|b| number(b) < lowest);
    let to = blocks.partition_point(|b| number(b) <= number_of(until, every)).max(from);
    from..to
}

/// The number of the block that the bucket with this end belongs to.
pub fn number_of(end: i64, every: i64) -> i64 {
    (end / every).wrapping_sub(1).div_euclid(BLOCK_BUCKETS)
}

impl Block {
    /// Of records of one block, at least one. A gauge's resets mean nothing, and are not kept.
    pub fn new(records: &[Record], every: i64, counter: bool, shared: &SharedColumns) -> Option<Block> {
        let (first, last) = (records.first()?.end, records.last()?.end);
        let ends: Vec<i64> = records.iter().map(|r| r.end).collect();
        let (mut present, mut chunks, mut bits) = (0, Vec::new(), Vec::with_capacity(records.len()));
        for (at, column) in COLUMNS.into_iter().enumerate() {
            if !counter && matches!(column, Column::Resets | Column::ResetFrom) {
                continue;
            }
            bits.clear();
            bits.extend(records.iter().map(|r| column.get(r, every)));
            let follows = records.iter().zip(&bits).all(|(r, &bits)| column.absent(r) == bits);
            // The first column holds the times.
            if follows && at > 0 {
                continue;
            }
            present |= 1 << at;
            chunks.push(shared.in_common(Builder::new(column.kind(), &ends, &bits).finish(shared)));
        }
        Some(Block { first, last, count: records.len() as u32, present, chunks: chunks.into() })
    }

    /// Of what `parts` said. Errors: `Corruption`.
    pub fn restore(present: u16, chunks: Vec<Chunk>) -> Result<Block> {
        let wrong = |why| metricsdb_model::Error::corruption("rollup", 0, why);
        let Some(base) = chunks.first() else { return Err(wrong("a block of records without columns")) };
        let (first, last, count) = (base.first(), base.last(), base.count());
        let same = |c: &Chunk| (c.first(), c.last(), c.count()) == (first, last, count);
        let columns = (present.count_ones() as usize, present & 1, present >> COLUMNS.len());
        if columns != (chunks.len(), 1, 0) || !chunks.iter().all(same) || first < TIME_MIN || last > -TIME_MIN
        {
            return Err(wrong("columns of records that don't belong together"));
        }
        Ok(Block { first, last, count: count as u32, present, chunks: chunks.into() })
    }

    pub fn parts(&self) -> (u16, &[Chunk]) {
        (self.present, &self.chunks)
    }

    pub fn first(&self) -> i64 {
        self.first
    }

    pub fn last(&self) -> i64 {
        self.last
    }

    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Appends all records. Errors: `Corruption`, never for a block that was made here.
    pub fn decode(&self, every: i64, out: &mut Vec<Record>) -> Result<()> {
        let (from, mut times, mut bits) = (out.len(), Vec::new(), Vec::new());
        let mut chunks = self.chunks.iter();
        for (at, column) in COLUMNS.into_iter().enumerate() {
            let chunk = if self.present & (1 << at) != 0 { chunks.next() } else { None };
            times.clear();
            bits.clear();
            if let Some(chunk) = chunk {
                chunk.decode_into(&mut times, &mut bits)?;
            }
            if at == 0 {
                out.extend(times.iter().map(|&end| Record { end, ..Record::ZERO }));
            }
            let records = out.get_mut(from..).unwrap_or(&mut []);
            match chunk {
                Some(_) => records.iter_mut().zip(&bits).for_each(|(r, &bits)| column.set(r, every, bits)),
                None => records.iter_mut().for_each(|r| column.set(r, every, column.absent(r))),
            }
        }
        Ok(())
    }

    /// Heap bytes, without what chunks share with others.
    pub fn bytes(&self) -> usize {
        let own: usize = self.chunks.iter().map(Chunk::bytes).sum();
        own + crate::heap::allocated(self.chunks.len() * size_of::<Chunk>())
    }

    pub fn encoded_bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::encoded_bytes).sum()
    }

    /// Bytes of each column, by its name.
    pub fn columns(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let names = (0..COLUMNS.len()).filter(|at| self.present & (1 << at) != 0).map(|at| NAMES[at]);
        names.zip(self.chunks.iter().map(Chunk::encoded_bytes))
    }
}

const NAMES: [&str; COLUMNS.len()] = [
    "count",
    "first_time",
    "last_time",
    "first",
    "last",
    "min",
    "max",
    "sum",
    "deviation",
    "resets",
    "reset_from",
    "unkept",
];
