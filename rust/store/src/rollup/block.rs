//! A block of records: one allocation of columns, none where a column follows from the others. Blocks begin at fixed times,
//! so that records come to the same bytes in whatever order their samples came. Which buckets there are, how many samples
//! they have and where these begin and end is alike for the series of a scrape, and stands in a part that they share.

use std::ops::Range;
use std::sync::Arc;

use metricsdb_model::{Error, Result, ValueKind};

use super::record::Record;
use super::roll::{EVERY_MAX, TIME_MIN};
use super::sketches::{self, Sketched};
use crate::chunk::{BYTES_MAX, Bytes, Shared, SharedColumns};
use crate::codec::choose;
use crate::codec::cursor::{Cursor, put_signed, put_varint};
use crate::codec::timestamps;
use crate::codec::values::Section;
use crate::heap;

/// Buckets that one block spans.
pub const BLOCK_BUCKETS: i64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Count,
    // `Deviation` says how far off the likely one is.
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

/// Those of the part that series share; the first columns.
const SHARED_COLUMNS: usize = 3;

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
            Column::First | Column::Last | Column::Min | Column::Max | Column::Sum | Column::ResetFrom => {
                ValueKind::Float
            }
            _ => ValueKind::Int,
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
            Column::Deviation => shortened(r.deviation).wrapping_sub(shortened(r.likely_deviation())),
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
            Column::Deviation => {
                let short = shortened(r.likely_deviation()).wrapping_add(bits);
                r.deviation = f64::from_bits(short << DROPPED_BITS);
            }
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

const DROPPED_BITS: u32 = f64::MANTISSA_DIGITS - 1 - DEVIATION_BITS;

/// The nearest number of so many bits, without the others.
fn shortened(value: f64) -> u64 {
    let half = if value.is_finite() { 1 << (DROPPED_BITS - 1) } else { 0 };
    value.to_bits().wrapping_add(half) >> DROPPED_BITS
}

/// The nearest number of so many bits.
pub fn rounded(value: f64) -> f64 {
    f64::from_bits(shortened(value) << DROPPED_BITS)
}

/// An immutable run of records in time order, and the sketches that are kept beside them; a clone shares the bytes.
#[derive(Clone)]
pub struct Block {
    bytes: Bytes,
}

/// What the shared part says before its columns.
struct Buckets<'a> {
    every: i64,
    first: i64,
    last: i64,
    count: usize,
    rest: Cursor<'a>,
}

impl<'a> Buckets<'a> {
    /// Errors: `Corruption`, for what can't be buckets of one block.
    fn parse(bytes: &'a [u8]) -> Result<Buckets<'a>> {
        let mut c = Cursor::new(bytes);
        let (every, first, span, count) = (c.varint()?, c.signed()?, c.varint()?, c.varint()?);
        if every == 0 || every > EVERY_MAX as u64 || span >= BLOCK_BUCKETS as u64 || count > span {
            return Err(c.wrong("buckets that are none of one block"));
        }
        let (every, count) = (every as i64, count as usize + 1);
        let first = first.checked_mul(every);
        let last = first.and_then(|first| first.checked_add(every * span as i64));
        match first.zip(last) {
            Some((first, last)) if first >= TIME_MIN && last <= -TIME_MIN => {
                Ok(Buckets { every, first, last, count, rest: c })
            }
            _ => Err(c.wrong("buckets at no time that there is")),
        }
    }
}

/// The next column: how many bytes, and these; empty for one that follows.
fn take_column<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8]> {
    let length = c.count()?;
    c.take(length)
}

fn put_column(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
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
    /// Of records of one block, at least one, and of sketches of some of them. A gauge's resets mean nothing, and are not kept.
    pub fn new(
        records: &[Record],
        sketches: &[Sketched],
        every: i64,
        counter: bool,
        shared: &SharedColumns,
    ) -> Option<Block> {
        let (first, last) = (records.first()?.end, records.last()?.end);
        let mut buckets = Vec::with_capacity(32);
        put_varint(&mut buckets, every as u64);
        put_signed(&mut buckets, first / every);
        put_varint(&mut buckets, ((last - first) / every) as u64);
        put_varint(&mut buckets, records.len() as u64 - 1);
        let mut column = Vec::new();
        let numbers: Vec<i64> = records.iter().map(|r| r.end / every).collect();
        if numbers.len() > 1 && timestamps::regular(&numbers) != Some(1) {
            timestamps::encode(&numbers, &mut column);
        }
        put_column(&mut buckets, &column);
        let (mut present, mut values) = (0u64, Vec::new());
        let mut bits = Vec::with_capacity(records.len());
        for (at, kind) in COLUMNS.into_iter().enumerate() {
            column.clear();
            if counter || !matches!(kind, Column::Resets | Column::ResetFrom) {
                bits.clear();
                bits.extend(records.iter().map(|r| kind.get(r, every)));
                if records.iter().zip(&bits).any(|(r, &bits)| kind.absent(r) != bits) {
                    choose::encode(kind.kind(), &bits, None, &mut column);
                }
            }
            if at < SHARED_COLUMNS {
                put_column(&mut buckets, &column);
            } else if !column.is_empty() {
                present |= 1 << at;
                put_column(&mut values, &column);
            }
        }
        let sketched = sketches::encode(records, sketches);
        present |= u64::from(!sketched.is_empty()) << COLUMNS.len();
        values.extend_from_slice(&sketched);
        let mut head = Vec::with_capacity(2);
        put_varint(&mut head, present);
        let buckets = shared.intern(Shared::Buckets(buckets.into()));
        (head.len() + values.len() <= BYTES_MAX)
            .then(|| Block { bytes: Bytes::new(Some(buckets), [&head, &values]) })
    }

    /// Of what `parts` said. Errors: `Corruption`; `decode` looks into the columns.
    pub fn restore(buckets: Arc<Shared>, bytes: &[u8]) -> Result<Block> {
        Buckets::parse(buckets.buckets())?;
        if bytes.len() > BYTES_MAX {
            return Err(Error::corruption("rollup", 0, "a block of two gigabytes"));
        }
        Ok(Block { bytes: Bytes::new(Some(buckets), [bytes, &[]]) })
    }

    /// What it shares with other series, and its own bytes.
    pub fn parts(&self) -> (Option<Arc<Shared>>, &[u8]) {
        (self.bytes.shared_arc(), self.bytes.bytes())
    }

    fn buckets(&self) -> Result<Buckets<'_>> {
        Buckets::parse(self.bytes.shared().map_or(&[], Shared::buckets))
    }

    /// The width of its buckets.
    pub fn every(&self) -> i64 {
        self.buckets().map_or(1, |b| b.every)
    }

    pub fn first(&self) -> i64 {
        self.buckets().map_or(i64::MIN, |b| b.first)
    }

    pub fn last(&self) -> i64 {
        self.buckets().map_or(i64::MIN, |b| b.last)
    }

    pub fn count(&self) -> usize {
        self.buckets().map_or(0, |b| b.count)
    }

    /// Appends all records. Errors: `Corruption`, never for a block that was made here.
    pub fn decode(&self, out: &mut Vec<Record>) -> Result<()> {
        self.decode_columns(out).map(|_| ())
    }

    /// Appends all records, and the sketches of those that have one.
    pub fn decode_with_sketches(&self, out: &mut Vec<Record>, sketched: &mut Vec<Sketched>) -> Result<()> {
        let from = out.len();
        let mut c = self.decode_columns(out)?;
        sketches::decode(&mut c, out.get(from..).unwrap_or(&[]), sketched)
    }

    /// Appends all records; what is behind their columns.
    fn decode_columns(&self, out: &mut Vec<Record>) -> Result<Cursor<'_>> {
        let Buckets { every, first, last, count, mut rest } = self.buckets()?;
        let (from, mut numbers, mut bits) = (out.len(), Vec::new(), Vec::new());
        match take_column(&mut rest)? {
            [] => timestamps::extend_regular(first / every, 1, count, &mut numbers),
            column => timestamps::decode(column, first / every, count, &mut numbers)?,
        }
        let rises = numbers.windows(2).all(|w| w[0] < w[1]);
        if numbers.len() != count || !rises || numbers.last() != Some(&(last / every)) {
            return Err(rest.wrong("buckets that don't rise in time"));
        }
        out.extend(numbers.iter().map(|n| Record { end: n * every, ..Record::ZERO }));
        let records = out.get_mut(from..).unwrap_or(&mut []);
        let mut own = Cursor::new(self.bytes.bytes());
        let present = own.varint()?;
        for (at, kind) in COLUMNS.into_iter().enumerate() {
            let column = match at {
                0..SHARED_COLUMNS => take_column(&mut rest)?,
                _ if present & (1 << at) != 0 => take_column(&mut own)?,
                _ => &[],
            };
            if column.is_empty() {
                records.iter_mut().for_each(|r| kind.set(r, every, kind.absent(r)));
                continue;
            }
            bits.clear();
            Section::parse(column, kind.kind(), count)?.decode(0, count, |b| b, &mut bits)?;
            records.iter_mut().zip(&bits).for_each(|(r, &bits)| kind.set(r, every, bits));
        }
        if present & (1 << COLUMNS.len()) == 0 { Ok(Cursor::new(&[])) } else { Ok(own) }
    }

    /// Heap bytes, without what it shares with other series.
    pub fn bytes(&self) -> usize {
        heap::allocated(self.bytes.size())
    }

    pub fn encoded_bytes(&self) -> usize {
        self.bytes.bytes().len()
    }

    /// Whether nobody could tell the two apart.
    pub fn is_same(&self, other: &Block) -> bool {
        self.address() == other.address() && self.bytes.bytes() == other.bytes.bytes()
    }

    /// Where the part that it shares stands.
    pub fn address(&self) -> usize {
        self.bytes.shared().map_or(0, |shared| std::ptr::from_ref(shared) as usize)
    }

    /// Bytes of each column of its own, by its name. Errors: `Corruption`.
    pub fn columns(&self) -> Result<Vec<(&'static str, usize)>> {
        let (mut c, mut out) = (Cursor::new(self.bytes.bytes()), Vec::new());
        let present = c.varint()?;
        for (at, name) in NAMES.into_iter().enumerate().filter(|(at, _)| present & (1 << at) != 0) {
            let bytes = if at < COLUMNS.len() { take_column(&mut c)?.len() } else { c.rest().len() };
            out.push((name, bytes));
        }
        Ok(out)
    }
}

const NAMES: [&str; COLUMNS.len() + 1] = [
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
    "sketch",
];
