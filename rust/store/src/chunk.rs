//! A sealed chunk: one immutable block of bytes, one allocation, cheap to share.

use std::fmt;
use std::sync::Arc;

use metricsdb_model::{Error, Result, Samples, TimeRange, ValueKind};

use crate::codec::integers;
use crate::codec::statistics::{Statistics, widen};

/// Samples that one chunk holds at most.
pub const CHUNK_SAMPLES_MAX: usize = 1 << 16;

/// Heap bytes around the block: the two counters of the `Arc`.
const ARC_BYTES: usize = 16;

/// An immutable block of samples of one series, strictly increasing in time.
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

impl Chunk {
    /// Encodes a column pair with the smallest codecs. Timestamps strictly increase; both columns have
    /// the same length, 1 to `CHUNK_SAMPLES_MAX`.
    pub fn seal(kind: ValueKind, timestamps: &[i64], bits: &[u64]) -> Result<Chunk> {
        if timestamps.is_empty() || timestamps.len() > CHUNK_SAMPLES_MAX || timestamps.len() != bits.len() {
            return Err(Error::input(
                "samples",
                &timestamps.len().to_string(),
                "a chunk holds 1 to 65536 samples",
                "split them",
            ));
        }
        let mut out = vec![kind as u8];
        out.extend((timestamps.len() as u32).to_le_bytes());
        out.extend(timestamps[0].to_le_bytes());
        out.extend(timestamps[timestamps.len() - 1].to_le_bytes());
        if let Some(s) = Statistics::of(kind, bits) {
            for v in [s.first, s.last, s.min, s.max, s.sum] {
                out.extend(v.to_le_bytes());
            }
            for v in [s.resets, s.stale, s.nan] {
                out.extend(v.to_le_bytes());
            }
        }
        integers::encode(timestamps, &mut out);
        integers::encode(&bits.iter().map(|&b| b as i64).collect::<Vec<_>>(), &mut out);
        Ok(Chunk { bytes: out.into() })
    }

    /// Takes bytes from outside: everything that a decoder relies on is checked, the columns when they
    /// are decoded. Errors: `Corruption`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Chunk> {
        if bytes.len() < 73 || bytes[0] > 1 {
            return Err(Error::corruption("chunk", 0, "no header"));
        }
        let chunk = Chunk { bytes: bytes.into() };
        if chunk.count() == 0 || chunk.count() > CHUNK_SAMPLES_MAX || chunk.first() > chunk.last() {
            return Err(Error::corruption("chunk", 1, "header out of bounds"));
        }
        Ok(chunk)
    }

    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All heap bytes of this chunk, shared or not.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + ARC_BYTES
    }

    pub fn kind(&self) -> ValueKind {
        if self.bytes[0] == 0 { ValueKind::Float } else { ValueKind::Int }
    }

    pub fn count(&self) -> usize {
        self.word(1) as u32 as usize
    }

    pub fn first(&self) -> i64 {
        self.word(5) as i64
    }

    pub fn last(&self) -> i64 {
        self.word(13) as i64
    }

    fn word(&self, at: usize) -> u64 {
        crate::codec::bits::load64(&self.bytes, at)
    }

    /// Names of the time and of the value codec.
    pub fn codecs(&self) -> (&'static str, &'static str) {
        ("packed", "packed")
    }

    pub fn header(&self) -> Header {
        let f = |i: usize| f64::from_bits(self.word(21 + 8 * i));
        let n = |i: usize| self.word(61 + 4 * i) as u32;
        let values = Statistics {
            first: f(0),
            last: f(1),
            min: f(2),
            max: f(3),
            sum: f(4),
            resets: n(0),
            stale: n(1),
            nan: n(2),
        };
        Header { kind: self.kind(), count: self.count(), first: self.first(), last: self.last(), values }
    }

    /// Appends all samples. Errors: `Corruption`; the columns are then as they were.
    pub fn decode_into(&self, timestamps: &mut Vec<i64>, bits: &mut Vec<u64>) -> Result<()> {
        self.decode_range(TimeRange::ALL, timestamps, bits)
    }

    /// Appends the samples in `range`. Errors: `Corruption`; the columns are then as they were.
    pub fn decode_range(
        &self,
        range: TimeRange,
        timestamps: &mut Vec<i64>,
        bits: &mut Vec<u64>,
    ) -> Result<()> {
        let (t, v) = self.columns()?;
        let from = t.partition_point(|&t| t < range.start);
        let to = t.partition_point(|&t| t <= range.end).max(from);
        timestamps.extend(&t[from..to]);
        bits.extend(v[from..to].iter().map(|&v| v as u64));
        Ok(())
    }

    /// Appends the samples in `range`, integers widened to `f64`.
    pub fn decode_f64(&self, range: TimeRange, out: &mut Samples) -> Result<()> {
        let mut bits = Vec::new();
        self.decode_range(range, &mut out.timestamps, &mut bits)?;
        let kind = self.kind();
        out.values.extend(bits.iter().map(|&b| widen(kind, b)));
        Ok(())
    }

    fn columns(&self) -> Result<(Vec<i64>, Vec<i64>)> {
        let (mut t, mut v) = (Vec::new(), Vec::new());
        let mut at = 73;
        integers::decode(&self.bytes, &mut at, self.count(), &mut t)?;
        integers::decode(&self.bytes, &mut at, self.count(), &mut v)?;
        Ok((t, v))
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("header", &self.header()).field("codecs", &self.codecs()).finish()
    }
}

#[cfg(test)]
mod tests;
