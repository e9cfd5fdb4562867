//! A sealed chunk: one immutable block of bytes, one allocation, cheap to share. FORMAT.md describes the
//! bytes: a head with the times' bounds, the time column unless it is regular, and the value column with
//! what the statistics need.

use std::fmt;
use std::sync::Arc;

use metricsdb_model::{Error, Result, Samples, TimeRange, ValueKind};

use crate::codec::bits::load64;
use crate::codec::choose;
use crate::codec::cursor::{Cursor, put_varint};
use crate::codec::statistics::{Statistics, widen};
use crate::codec::timestamps;
use crate::codec::values::Section;

/// Samples that one chunk holds at most.
pub const CHUNK_SAMPLES_MAX: usize = 1 << 16;

/// Heap bytes around the block: the two counters of the `Arc`.
const ARC_BYTES: usize = 16;

/// The high half of the first byte.
const VERSION: u8 = 1;

/// Flags in the first byte.
const INT: u8 = 1;
const REGULAR: u8 = 2;
/// The first time takes 8 bytes instead of 6.
const LONG_TIME: u8 = 4;

/// Where the first time stands: after the flags and the count.
const FIRST_AT: usize = 3;
const LONG_BYTES: usize = 8;
const SHORT_BYTES: usize = 6;

/// An immutable block of samples of one series, strictly increasing in time. A clone shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: Arc<[u8]>,
}

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
}

impl<'a> Parts<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Parts<'a>> {
        let mut c = Cursor::new(bytes);
        let flags = c.byte()?;
        if flags >> 4 != VERSION || flags & 8 != 0 {
            return Err(c.wrong("no such version of chunks"));
        }
        let count = c.word(2)? as usize + 1;
        let first =
            if flags & LONG_TIME != 0 { c.word(LONG_BYTES)? as i64 } else { short(c.word(SHORT_BYTES)?) };
        let number = c.varint()?;
        let regular = flags & REGULAR != 0;
        let span = if regular { number.checked_mul(count as u64 - 1) } else { Some(number) };
        let Some(last) = span.and_then(|s| first.checked_add_unsigned(s)) else {
            return Err(c.wrong("times past the end of time"));
        };
        if count > 1 && last <= first {
            return Err(c.wrong("times that don't increase"));
        }
        let times = if regular {
            &[]
        } else {
            let n = c.count()?;
            c.take(n)?
        };
        let kind = if flags & INT != 0 { ValueKind::Int } else { ValueKind::Float };
        Ok(Parts { kind, count, first, last, step: regular.then_some(number), times, values: c.rest() })
    }

    fn section(&self) -> Result<Section<'a>> {
        Section::parse(self.values, self.kind, self.count)
    }

    /// Appends the times in `range`; their positions.
    fn decode_times(&self, range: TimeRange, out: &mut Vec<i64>) -> Result<(usize, usize)> {
        if range.is_empty() || range.start > self.last || range.end < self.first {
            return Ok((0, 0));
        }
        let Some(step) = self.step else { return self.decode_irregular(range, out) };
        let position = |t: i64| t.wrapping_sub(self.first) as u64;
        let from = if range.start <= self.first { 0 } else { position(range.start).div_ceil(step.max(1)) };
        let to =
            if range.end >= self.last { self.count as u64 - 1 } else { position(range.end) / step.max(1) };
        let start = self.first.wrapping_add(step.wrapping_mul(from) as i64);
        timestamps::extend_regular(start, step, (to + 1 - from) as usize, out);
        Ok((from as usize, to as usize + 1))
    }

    fn decode_irregular(&self, range: TimeRange, out: &mut Vec<i64>) -> Result<(usize, usize)> {
        let start = out.len();
        out.reserve(self.count);
        timestamps::decode(self.times, self.first, self.count, out)?;
        let made = out.get(start..).unwrap_or(&[]);
        let from = made.partition_point(|&t| t < range.start);
        let to = made.partition_point(|&t| t <= range.end).max(from);
        out.truncate(start + to);
        out.drain(start..start + from);
        Ok((from, to))
    }
}

/// 48 bits with their sign.
fn short(word: u64) -> i64 {
    (word << 16) as i64 >> 16
}

impl Chunk {
    /// Encodes a pair of columns with the smallest codecs. Errors: `Input` when the columns are of
    /// different lengths, empty, longer than `CHUNK_SAMPLES_MAX`, or times don't strictly increase.
    pub fn seal(kind: ValueKind, timestamps: &[i64], bits: &[u64]) -> Result<Chunk> {
        let count = timestamps.len();
        let (Some(&first), Some(&last)) = (timestamps.first(), timestamps.last()) else {
            return Err(refused(count, "a chunk has at least one sample"));
        };
        if count > CHUNK_SAMPLES_MAX || bits.len() != count {
            return Err(refused(count, "a chunk has at most 65536 samples, and a value for each time"));
        }
        if timestamps.windows(2).any(|w| w[0] >= w[1]) {
            return Err(refused(count, "times must increase"));
        }
        let mut out = Vec::with_capacity(64 + count * 2);
        let regular = timestamps::regular(timestamps);
        let long = short(first as u64) != first;
        out.push(
            VERSION << 4
                | if kind == ValueKind::Int { INT } else { 0 }
                | if regular.is_some() { REGULAR } else { 0 }
                | if long { LONG_TIME } else { 0 },
        );
        out.extend_from_slice(&((count - 1) as u16).to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes()[..if long { LONG_BYTES } else { SHORT_BYTES }]);
        match regular {
            Some(step) => put_varint(&mut out, step),
            None => {
                put_varint(&mut out, last.wrapping_sub(first) as u64);
                let mut column = Vec::with_capacity(count);
                timestamps::encode(timestamps, &mut column);
                put_varint(&mut out, column.len() as u64);
                out.extend_from_slice(&column);
            }
        }
        choose::encode(kind, bits, None, &mut out);
        Ok(Chunk { bytes: out.into() })
    }

    /// Takes bytes from outside. Both columns are decoded once, so that no later call fails and times are
    /// sure to increase. Errors: `Corruption`. Allocates at most 16 bytes for each sample of a full chunk.
    pub fn from_bytes(bytes: &[u8]) -> Result<Chunk> {
        let chunk = Chunk { bytes: bytes.into() };
        let parts = Parts::parse(bytes)?;
        let (mut times, mut values) = (Vec::new(), Vec::new());
        parts.section()?.statistics()?;
        chunk.decode_into(&mut times, &mut values)?;
        if times.last() != Some(&parts.last) || times.windows(2).any(|w| w[0] >= w[1]) {
            return Err(Error::corruption("chunk", 0, "times don't increase to the last"));
        }
        Ok(chunk)
    }

    /// The bytes that `from_bytes` takes.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All heap bytes of this chunk, whoever shares them.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + ARC_BYTES
    }

    pub fn kind(&self) -> ValueKind {
        if self.bytes.first().is_some_and(|b| b & INT != 0) { ValueKind::Int } else { ValueKind::Float }
    }

    pub fn count(&self) -> usize {
        (load64(&self.bytes, 1) & 0xffff) as usize + 1
    }

    pub fn first(&self) -> i64 {
        let word = load64(&self.bytes, FIRST_AT);
        if self.bytes.first().is_some_and(|b| b & LONG_TIME != 0) { word as i64 } else { short(word) }
    }

    pub fn last(&self) -> i64 {
        Parts::parse(&self.bytes).map_or(i64::MIN, |p| p.last)
    }

    /// Names of the time and of the value codec.
    pub fn codecs(&self) -> (&'static str, &'static str) {
        let Ok(parts) = Parts::parse(&self.bytes) else { return ("", "") };
        let times = if parts.step.is_some() { "regular" } else { timestamps::name(parts.times) };
        (times, parts.section().map_or("", |s| s.name()))
    }

    /// What is known without decoding a column. Errors: `Corruption`, never for a chunk that was sealed
    /// here or came through `from_bytes`.
    pub fn header(&self) -> Result<Header> {
        let p = Parts::parse(&self.bytes)?;
        Ok(Header {
            kind: p.kind,
            count: p.count,
            first: p.first,
            last: p.last,
            values: p.section()?.statistics()?,
        })
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
                self.decode(range, &mut out.timestamps, &mut out.values, |b| widen(ValueKind::Int, b))
            }
        }
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
            let parts = Parts::parse(&self.bytes)?;
            let (from, to) = parts.decode_times(range, timestamps)?;
            parts.section()?.decode(from, to, convert, values)
        };
        let result = run();
        if result.is_err() {
            timestamps.truncate(times_before);
            values.truncate(values_before);
        }
        result
    }
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
