//! Columns of counts. Buckets that never change take two bytes or three, empty ones one; a count that is the
//! sum of its buckets is no column at all.

use metricsdb_model::histogram::{CountNumber, Tally};
use metricsdb_model::{Result, ValueKind};

use crate::codec::cursor::{Cursor, put_varint};
use crate::codec::values::Section;
use crate::codec::{choose, entropy, integers};

/// Forms of a column of integers.
const ZERO: u8 = 0;
const CONSTANT: u8 = 1;
const PACKED: u8 = 2;
const DENSE: u8 = 3;

/// A dense column is taken where it saves this part of the packed one: it is read at a third of the speed.
const DENSE_PART: usize = 16;
/// Shorter columns gain a fiftieth from it, and take four times as long to write.
const DENSE_ROWS_MIN: usize = 256;

/// Forms of a column of counts.
const DISTANCE: u8 = 0;
const VALUE: u8 = 1;

/// Appends a column of integers or doubles of at least one row.
pub fn write(float: bool, column: &[u64], out: &mut Vec<u8>) {
    if float { write_doubles(column, out) } else { write_integers(column, out) }
}

/// Appends `count` words to `out`. Errors: `Corruption`; `out` may then hold a part of them.
pub fn read(float: bool, cursor: &mut Cursor, count: usize, out: &mut Vec<u64>) -> Result<()> {
    if float { read_doubles(cursor, count, out) } else { read_integers(cursor, count, out) }
}

fn write_integers(column: &[u64], out: &mut Vec<u8>) {
    let Some(&first) = column.first() else { return };
    let constant = column.iter().all(|&v| v == first);
    if constant && first == 0 {
        return out.push(ZERO);
    }
    if constant {
        out.push(CONSTANT);
        return put_varint(out, first);
    }
    let column: Vec<i64> = column.iter().map(|&v| v as i64).collect();
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    integers::encode(&column, &mut packed);
    if column.len() >= DENSE_ROWS_MIN {
        entropy::encode(&column, &mut dense);
    }
    let saves = !dense.is_empty() && dense.len() + packed.len() / DENSE_PART < packed.len();
    out.push(if saves { DENSE } else { PACKED });
    put_varint(out, first);
    out.extend_from_slice(if saves { &dense } else { &packed });
}

fn read_integers(cursor: &mut Cursor, count: usize, out: &mut Vec<u64>) -> Result<()> {
    let form = cursor.byte()?;
    if form == PACKED || form == DENSE {
        let first = cursor.varint()? as i64;
        return match form {
            PACKED => integers::decode(cursor, first, count, out),
            _ => entropy::decode(cursor, first, count, 0, count, out),
        };
    }
    let value = match form {
        ZERO => 0,
        CONSTANT => cursor.varint()?,
        _ => return Err(cursor.wrong("no such form of counts")),
    };
    out.resize(out.len() + count, value);
    Ok(())
}

/// A value column behind its length; none where all are 0.0.
fn write_doubles(column: &[u64], out: &mut Vec<u8>) {
    let mut section = Vec::new();
    if column.iter().any(|&bits| bits != 0) {
        choose::encode(ValueKind::Float, column, None, &mut section);
    }
    put_varint(out, section.len() as u64);
    out.extend_from_slice(&section);
}

fn read_doubles(cursor: &mut Cursor, count: usize, out: &mut Vec<u64>) -> Result<()> {
    let n = cursor.count()?;
    if n == 0 {
        out.resize(out.len() + count, 0);
        return Ok(());
    }
    Section::parse(cursor.take(n)?, ValueKind::Float, count)?.decode(0, count, |bits| bits, out)
}

/// What a count is measured from: the sum of its buckets. No NaN, whose bits no sum is sure to give again.
fn base<T: CountNumber>(tally: &Tally<T>) -> u64 {
    let total = tally.total();
    if total.widen().is_nan() { 0 } else { total.to_word() }
}

/// The count of one row as it stands in a column of distances.
pub fn distance<T: CountNumber>(tally: &Tally<T>) -> u64 {
    tally.count.to_word().wrapping_sub(base(tally))
}

/// Appends a column of counts, given as they are and as distances from the sums of their buckets.
pub fn write_counts(float: bool, counts: &[u64], distances: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    out.push(DISTANCE);
    write_integers(distances, out);
    if !float || out.len() - start <= 2 {
        return;
    }
    let mut other = vec![VALUE];
    write_doubles(counts, &mut other);
    if other.len() < out.len() - start {
        out.truncate(start);
        out.extend_from_slice(&other);
    }
}

/// A column of counts that was read.
pub struct ReadCounts {
    distances: bool,
    words: Vec<u64>,
}

impl ReadCounts {
    /// Errors: `Corruption`.
    pub fn read(cursor: &mut Cursor, count: usize) -> Result<ReadCounts> {
        let form = cursor.byte()?;
        if form > VALUE {
            return Err(cursor.wrong("no such form of counts"));
        }
        let mut words = Vec::new();
        read(form == VALUE, cursor, count, &mut words)?;
        Ok(ReadCounts { distances: form == DISTANCE, words })
    }

    /// Sets the count of a tally whose buckets are there.
    pub fn complete<T: CountNumber>(&self, row: usize, tally: &mut Tally<T>) {
        let word = self.words.get(row).copied().unwrap_or(0);
        let base = if self.distances { base(tally) } else { 0 };
        tally.count = T::from_word(word.wrapping_add(base));
    }
}
