//! A sealed chunk: an immutable block of bytes, one allocation, cheap to share. FORMAT.md describes the
//! bytes: a head with the times' bounds, the blocks of values, and, unless times are regular, a column of
//! them that chunks share.

mod block;
mod bound;
mod build;
mod column;
mod grow;
mod shared;
mod summary;
mod together;

use std::fmt;
use std::sync::Arc;

use metricsdb_model::{Error, Result, Samples, TimeRange, ValueKind};

pub use build::Builder;
pub use column::ValueBlock;
pub use grow::{chunks_behind, chunks_of, dense, grown};
pub use shared::{Shared, SharedColumns};
pub use summary::Folded;
pub(crate) use together::whole_together;
pub use together::{TOGETHER_MAX, TOGETHER_SAMPLES_MAX, chunks_together};

use crate::codec::bits::load64;
use crate::codec::cursor::{Cursor, put_varint};
use crate::codec::statistics::Statistics;
use crate::codec::timestamps;
use crate::heap;
use block::Block;
pub(crate) use block::{BYTES_MAX, Block as Bytes};
use column::{TimeBlocks, ValueBlocks};

/// Samples that one chunk holds at most.
pub const CHUNK_SAMPLES_MAX: usize = 1 << 16;
/// Samples of a full block of times or values.
pub const BLOCK_SAMPLES: usize = 512;
/// Samples of a block of a dense chunk.
pub const DENSE_BLOCK_SAMPLES: usize = 4096;
/// A chunk of this many bytes or value blocks gets no more samples: a late one writes all of them anew.
pub const CHUNK_BYTES: usize = 16 << 10;
pub const CHUNK_BLOCKS: usize = 16;

/// The upper two bits of the first byte.
const VERSION: u8 = 3;
const VERSION_SHIFT: u32 = 6;

/// Flags in the first byte.
const INT: u8 = 1;
/// Beside `INT`: the integers have no sign.
const UNSIGNED: u8 = 16;
const REGULAR: u8 = 2;
/// The first time takes 8 bytes instead of 5.
const LONG_TIME: u8 = 4;
/// Its blocks are long and coded by their surprise; it takes no more samples.
const DENSE: u8 = 8;

/// Chunks of other series may be this one; in memory only.
const COMMON: u8 = 32;

/// Where the first time stands: after the flags and the count.
const FIRST_AT: usize = 3;
const LONG_BYTES: usize = 8;
const SHORT_BYTES: usize = 5;
/// What short first times count from: 2020-01-01, in the middle of what 40 bits of milliseconds reach.
const SHORT_EPOCH: i64 = 1_577_836_800_000;
/// Times that are farther apart than this are a column, however regular.
const STEP_MAX: u64 = 1 << 62;
/// The checksum at the end of a chunk outside of memory.
const CHECKSUM_BYTES: usize = 4;

/// An immutable block of samples of one series, strictly increasing in time. A clone shares the bytes.
#[derive(Clone)]
pub struct Chunk {
    block: Block,
}

const _: () = assert!(size_of::<Option<Chunk>>() == 8, "a series without sealed samples pays 8 bytes");

/// What a chunk knows without decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    pub kind: ValueKind,
    pub count: usize,
    pub first: i64,
    pub last: i64,
    pub values: Statistics,
}

/// The head, and the columns behind it.
struct Parts<'a> {
    kind: ValueKind,
    count: usize,
    first: i64,
    last: i64,
    /// The step of regular times; other times are a column.
    step: Option<u64>,
    times: &'a [u8],
    values: &'a [u8],
    /// Columns that other chunks have a part in.
    columns: &'a [u8],
}

impl<'a> Parts<'a> {
    fn parse(chunk: &'a Chunk) -> Result<Parts<'a>> {
        let mut parts = Parts::head(chunk.block.bytes())?;
        if let Some(shared) = chunk.block.shared() {
            (parts.times, parts.columns) = (shared.times(), shared.columns());
        }
        Ok(parts)
    }

    /// All but the times.
    fn head(bytes: &'a [u8]) -> Result<Parts<'a>> {
        let mut c = Cursor::new(bytes);
        let flags = c.byte()?;
        if flags >> VERSION_SHIFT != VERSION {
            return Err(c.wrong("no such version of chunks"));
        }
        let count = c.word(2)? as usize + 1;
        let first =
            if flags & LONG_TIME != 0 { c.word(LONG_BYTES)? as i64 } else { short(c.word(SHORT_BYTES)?) };
        let number = c.varint()?;
        let regular = flags & REGULAR != 0;
        let number = if regular { step_of(number) } else { number };
        let span = if regular { number.checked_mul(count as u64 - 1) } else { Some(number) };
        let Some(last) = span.and_then(|s| first.checked_add_unsigned(s)) else {
            return Err(c.wrong("times past the end of time"));
        };
        if (count > 1) != (last > first) {
            return Err(c.wrong("times that don't increase"));
        }
        let Some(kind) = kind_of(flags) else { return Err(c.wrong("no such kind of values")) };
        Ok(Parts {
            kind,
            count,
            first,
            last,
            step: regular.then_some(number),
            times: &[],
            values: c.rest(),
            columns: &[],
        })
    }

    fn value_blocks(&self) -> ValueBlocks<'a> {
        ValueBlocks::new(self.values, self.kind, self.count).with(self.columns)
    }

    /// Appends the times in `range`; their positions.
    fn decode_times(&self, range: TimeRange, out: &mut Vec<i64>) -> Result<(usize, usize)> {
        if range.is_empty() || range.start > self.last || range.end < self.first {
            return Ok((0, 0));
        }
        let Some((step, from, to)) = self.positions(range) else {
            return column::decode_times(TimeBlocks::new(self.times, self.first, self.count), range, out);
        };
        let start = self.first.wrapping_add(step.wrapping_mul(from as u64) as i64);
        timestamps::extend_regular(start, step, to - from, out);
        Ok((from, to))
    }

    /// The positions of the samples in `range`.
    fn places(&self, range: TimeRange) -> Result<(usize, usize)> {
        match self.positions(range) {
            Some((_, from, to)) => Ok((from, to)),
            None => column::places(TimeBlocks::new(self.times, self.first, self.count), range),
        }
    }

    /// Regular times: the step, and the positions that lie in `range`.
    fn positions(&self, range: TimeRange) -> Option<(u64, usize, usize)> {
        let step = self.step?;
        if range.is_empty() || range.start > self.last || range.end < self.first {
            return Some((step, 0, 0));
        }
        let position = |t: i64| t.wrapping_sub(self.first) as u64;
        let from = if range.start <= self.first { 0 } else { position(range.start).div_ceil(step.max(1)) };
        let to =
            if range.end >= self.last { self.count as u64 - 1 } else { position(range.end) / step.max(1) };
        Some((step, from as usize, (to + 1).max(from) as usize))
    }
}

/// The flags of a kind.
fn flags_of(kind: ValueKind) -> u8 {
    match kind {
        ValueKind::Float => 0,
        ValueKind::Int => INT,
        ValueKind::Uint => INT | UNSIGNED,
    }
}

fn kind_of(flags: u8) -> Option<ValueKind> {
    ValueKind::ALL.into_iter().find(|&kind| flags_of(kind) == flags & (INT | UNSIGNED))
}

/// A step as it is written: whole seconds are shorter.
fn step_word(step: u64) -> u64 {
    if step.is_multiple_of(1000) { (step / 1000) << 1 } else { (step << 1) | 1 }
}

fn step_of(word: u64) -> u64 {
    if word & 1 == 0 { (word >> 1).saturating_mul(1000) } else { word >> 1 }
}

/// The time of 40 bits with their sign.
fn short(word: u64) -> i64 {
    ((word << 24) as i64 >> 24).wrapping_add(SHORT_EPOCH)
}

impl Chunk {
    /// Encodes a pair of columns with the smallest codecs; times are not shared with other chunks. Errors:
    /// `Input` when the columns are of different lengths, empty, longer than `CHUNK_SAMPLES_MAX`, or times
    /// don't strictly increase.
    pub fn seal(kind: ValueKind, timestamps: &[i64], bits: &[u64]) -> Result<Chunk> {
        let count = timestamps.len();
        if count == 0 {
            return Err(refused(count, "a chunk has at least one sample"));
        }
        if count > CHUNK_SAMPLES_MAX || bits.len() != count {
            return Err(refused(count, "a chunk has at most 65536 samples, and a value for each time"));
        }
        if timestamps.windows(2).any(|w| w[0] >= w[1]) {
            return Err(refused(count, "times must increase"));
        }
        Ok(Builder::new(kind, timestamps, bits).finish(&SharedColumns::default()))
    }

    /// Takes bytes from outside. The checksum must hold, and both columns are decoded once, so that no later
    /// call fails and times are sure to increase. Errors: `Corruption`. Allocates at most 16 bytes for each
    /// sample of a full chunk.
    pub fn from_bytes(bytes: &[u8]) -> Result<Chunk> {
        let body_len = bytes.len().saturating_sub(CHECKSUM_BYTES);
        let (body, sum) = bytes.split_at(body_len);
        if sum != checksum(body) {
            return Err(Error::corruption("chunk", body_len, "the checksum is another"));
        }
        let mut c = Cursor::new(body);
        let times_len = c.count()?;
        let times = c.take(times_len)?;
        let body = c.rest();
        let parts = Parts::head(body)?;
        if parts.step.is_some() != times.is_empty() || body.first().is_some_and(|flags| flags & COMMON != 0) {
            return Err(c.wrong("regular times and a column of times, or a chunk in common"));
        }
        let times = (!times.is_empty()).then(|| Arc::new(Shared::Times(times.into())));
        if body.len() > BYTES_MAX {
            return Err(c.wrong("a chunk of two gigabytes"));
        }
        let chunk = Chunk { block: Block::new(times, [body, &[]]) };
        chunk.validate()?;
        Ok(chunk)
    }

    fn validate(&self) -> Result<()> {
        let parts = Parts::parse(self)?;
        let (mut times, mut values) = (Vec::new(), Vec::new());
        let mut blocks = parts.value_blocks();
        for block in blocks.by_ref() {
            let block = block?;
            values.clear();
            let section = block.section()?;
            section.statistics()?;
            section.decode(0, block.count, |b| b, &mut values)?;
        }
        blocks.finish()?;
        let mut last = parts.first;
        if parts.step.is_none() {
            let mut blocks = TimeBlocks::new(parts.times, parts.first, parts.count);
            for block in blocks.by_ref() {
                let block = block?;
                times.clear();
                block.decode(&mut times)?;
                last = block.last;
                if times.first() != Some(&block.first) || times.windows(2).any(|w| w[0] >= w[1]) {
                    return Err(Error::corruption("chunk", block.at, "times that don't increase"));
                }
            }
            blocks.finish()?;
            if last != parts.last {
                return Err(Error::corruption("chunk", 0, "times don't increase to the last"));
            }
        }
        Ok(())
    }

    /// The bytes that `from_bytes` takes: the time column, the block and a checksum. A chunk whose values are
    /// coded together with others' comes out as one of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let shared = self.block.shared();
        if shared.is_some_and(|s| !s.columns().is_empty())
            && let Ok(own) = dense(self.kind(), std::slice::from_ref(self), &SharedColumns::default())
        {
            return own.to_bytes();
        }
        let times = shared.map_or(&[][..], |shared| shared.times());
        let bytes = self.block.bytes();
        let mut out = Vec::with_capacity(bytes.len() + times.len() + 8);
        put_varint(&mut out, times.len() as u64);
        out.extend_from_slice(times);
        out.push(self.flags() & !COMMON);
        out.extend_from_slice(bytes.get(1..).unwrap_or(&[]));
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }

    /// The bytes as they are in memory; what they share with others is in `shared`.
    pub(crate) fn memory_bytes(&self) -> &[u8] {
        self.block.bytes()
    }

    /// The chunk of `memory_bytes` and `shared`, whose columns are not decoded: a checksum must have said that they
    /// are what was written. Errors: `Corruption`.
    pub(crate) fn from_memory(
        bytes: &[u8],
        shared: Option<Arc<Shared>>,
        columns: &SharedColumns,
    ) -> Result<Chunk> {
        if bytes.len() > BYTES_MAX {
            return Err(Error::corruption("chunk", 0, "a chunk of two gigabytes"));
        }
        let regular = Parts::head(bytes)?.step.is_some();
        if !regular && shared.as_ref().is_none_or(|shared| shared.times().is_empty()) {
            return Err(Error::corruption("chunk", 0, "irregular times without a column of them"));
        }
        let chunk = Chunk { block: Block::new(shared, [bytes, &[]]) };
        Ok(if chunk.is_common() { columns.in_common(chunk) } else { chunk })
    }

    /// Heap bytes of this chunk, without its times where they are shared; none where the whole chunk is.
    pub fn bytes(&self) -> usize {
        if self.is_common() { 0 } else { self.heap_bytes() }
    }

    /// Heap bytes of this chunk, whoever holds it.
    pub fn heap_bytes(&self) -> usize {
        heap::allocated(self.block.size())
    }

    /// Bytes of the encoded chunk alone: head and values, no allocator, no counter.
    pub fn encoded_bytes(&self) -> usize {
        self.block.bytes().len()
    }

    /// The encoded bytes, the counter before them, and the pointer to shared times.
    pub fn framed_bytes(&self) -> usize {
        self.block.size()
    }

    /// The columns that other chunks may hold too.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.block.shared_arc()
    }

    /// Whether its times are one step apart.
    pub fn is_regular(&self) -> bool {
        self.flags() & REGULAR != 0
    }

    /// Whether it is kept in `SharedColumns`, whose bytes it is then among.
    pub fn is_common(&self) -> bool {
        self.flags() & COMMON != 0
    }

    fn flags(&self) -> u8 {
        self.block.bytes().first().copied().unwrap_or(0)
    }

    /// The same, kept in common with others.
    fn to_common(&self) -> Chunk {
        let rest = self.block.bytes().get(1..).unwrap_or(&[]);
        Chunk { block: Block::new(self.shared(), [&[self.flags() | COMMON], rest]) }
    }

    /// Chunks of several series whose bytes are one.
    pub fn shares_bytes_with(&self, other: &Chunk) -> bool {
        self.block.is(&other.block)
    }

    pub fn kind(&self) -> ValueKind {
        kind_of(self.flags()).unwrap_or(ValueKind::Float)
    }

    /// Whether it was made by `densify`.
    pub fn is_dense(&self) -> bool {
        self.flags() & DENSE != 0
    }

    pub fn count(&self) -> usize {
        (load64(self.block.bytes(), 1) & 0xffff) as usize + 1
    }

    pub fn first(&self) -> i64 {
        let word = load64(self.block.bytes(), FIRST_AT);
        if self.flags() & LONG_TIME != 0 { word as i64 } else { short(word) }
    }

    pub fn last(&self) -> i64 {
        Parts::head(self.block.bytes()).map_or(i64::MIN, |p| p.last)
    }

    /// Names of the time codec and of the first block's value codec.
    pub fn codecs(&self) -> (&'static str, &'static str) {
        let Ok(parts) = Parts::parse(self) else { return ("", "") };
        let times = if parts.step.is_some() { "regular" } else { "column" };
        let first = parts.value_blocks().next().and_then(Result::ok).and_then(|b| b.section().ok());
        (times, first.map_or("", |s| s.name()))
    }

    /// The blocks of values, in order.
    pub fn blocks(&self) -> Result<ValueBlocks<'_>> {
        Ok(Parts::parse(self)?.value_blocks())
    }

    /// What is known without decoding a column. Errors: `Corruption`, never for a chunk that was sealed
    /// here or came through `from_bytes`.
    pub fn header(&self) -> Result<Header> {
        let p = Parts::parse(self)?;
        let mut all: Option<Statistics> = None;
        for block in p.value_blocks() {
            let next = block?.section()?.statistics()?;
            match &mut all {
                Some(all) => all.merge(&next),
                None => all = Some(next),
            }
        }
        let values = all.ok_or_else(|| Error::corruption("chunk", 0, "a chunk without samples"))?;
        Ok(Header { kind: p.kind, count: p.count, first: p.first, last: p.last, values })
    }

    /// Appends all samples. Errors: `Corruption`; both columns are then as they were.
    pub fn decode_into(&self, timestamps: &mut Vec<i64>, bits: &mut Vec<u64>) -> Result<()> {
        self.decode_range(TimeRange::ALL, timestamps, bits)
    }

    /// Appends the samples in `range`. Errors: `Corruption`; both columns are then as they were.
    pub fn decode_range(
        &self,
        range: TimeRange,
        timestamps: &mut Vec<i64>,
        bits: &mut Vec<u64>,
    ) -> Result<()> {
        self.decode(range, timestamps, bits, |b| b)
    }

    /// Appends the samples in `range`, integers widened to `f64`. Errors: `Corruption`; `out` is then as
    /// it was.
    pub fn decode_f64(&self, range: TimeRange, out: &mut Samples) -> Result<()> {
        match self.kind() {
            ValueKind::Float => self.decode(range, &mut out.timestamps, &mut out.values, f64::from_bits),
            ValueKind::Int => {
                self.decode(range, &mut out.timestamps, &mut out.values, |b| ValueKind::Int.widen(b))
            }
            ValueKind::Uint => {
                self.decode(range, &mut out.timestamps, &mut out.values, |b| ValueKind::Uint.widen(b))
            }
        }
    }

    /// As `decode_f64`, the values alone: of times only blocks that the range cuts are decoded. Errors: `Corruption`;
    /// `out` is then as it was.
    pub fn decode_values(&self, range: TimeRange, out: &mut Vec<f64>) -> Result<()> {
        let before = out.len();
        let mut run = || -> Result<()> {
            let parts = Parts::parse(self)?;
            let (from, to) = parts.places(range)?;
            match self.kind() {
                ValueKind::Float => {
                    column::decode_values(parts.value_blocks(), from, to, f64::from_bits, out)
                }
                kind => column::decode_values(parts.value_blocks(), from, to, |b| kind.widen(b), out),
            }
        };
        run().inspect_err(|_| out.truncate(before))
    }

    fn decode<T: Copy>(
        &self,
        range: TimeRange,
        timestamps: &mut Vec<i64>,
        values: &mut Vec<T>,
        convert: impl Fn(u64) -> T + Copy,
    ) -> Result<()> {
        let (times_before, values_before) = (timestamps.len(), values.len());
        let mut run = || -> Result<()> {
            let parts = Parts::parse(self)?;
            let (from, to) = parts.decode_times(range, timestamps)?;
            column::decode_values(parts.value_blocks(), from, to, convert, values)
        };
        let result = run();
        if result.is_err() {
            timestamps.truncate(times_before);
            values.truncate(values_before);
        }
        result
    }
}

/// CRC-32 of a chunk outside of memory.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32fast::hash(bytes).to_le_bytes()
}

fn refused(count: usize, message: &str) -> Error {
    Error::input("samples of a chunk", &count.to_string(), message, "split the columns")
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("codecs", &self.codecs()).field("header", &self.header()).finish()
    }
}

#[cfg(test)]
mod tests;
