//! The two columns of a chunk as lists of blocks: how they are walked, and how a stretch is decoded.
//! A value block has its own codec; blocks of 512 are usual, a constant one goes on for as long as it can.

use metricsdb_model::{Error, Result, TimeRange, ValueKind};

use super::BLOCK_SAMPLES;
use crate::codec::cursor::{Cursor, put_varint};
use crate::codec::timestamps;
use crate::codec::values::Section;

/// Writes the head of a block: the bytes that follow it, and its number of samples.
pub fn put_head(out: &mut Vec<u8>, bytes: usize, count: usize) {
    let full = count == BLOCK_SAMPLES;
    put_varint(out, (bytes as u64) << 1 | u64::from(full));
    if !full {
        put_varint(out, count as u64 - 1);
    }
}

/// Bytes behind the head, and samples; `left` is how many samples the column still has.
fn take_head(c: &mut Cursor, left: usize) -> Result<(usize, usize)> {
    let word = c.varint()?;
    let count = if word & 1 != 0 { BLOCK_SAMPLES as u64 } else { c.varint()?.saturating_add(1) };
    match (usize::try_from(word >> 1), usize::try_from(count)) {
        (Ok(bytes), Ok(count)) if count <= left => Ok((bytes, count)),
        _ => Err(c.wrong("a block with more samples than its chunk")),
    }
}

/// One block of values.
#[derive(Clone, Copy)]
pub struct ValueBlock<'a> {
    pub kind: ValueKind,
    /// Position of the first sample in the chunk.
    pub from: usize,
    pub count: usize,
    /// Where the block's head begins in the column.
    pub at: usize,
    pub bytes: &'a [u8],
    columns: &'a [u8],
}

impl<'a> ValueBlock<'a> {
    pub fn section(&self) -> Result<Section<'a>> {
        Section::parse_beside(self.bytes, self.kind, self.count, self.columns)
    }
}

/// The blocks of a value column, in order; ends after an error.
pub struct ValueBlocks<'a> {
    cursor: Cursor<'a>,
    kind: ValueKind,
    from: usize,
    count: usize,
    columns: &'a [u8],
}

impl<'a> ValueBlocks<'a> {
    pub fn new(column: &'a [u8], kind: ValueKind, count: usize) -> ValueBlocks<'a> {
        ValueBlocks { cursor: Cursor::new(column), kind, from: 0, count, columns: &[] }
    }

    /// The same with columns that other chunks have a part in.
    pub fn with(self, columns: &'a [u8]) -> ValueBlocks<'a> {
        ValueBlocks { columns, ..self }
    }

    fn step(&mut self) -> Result<ValueBlock<'a>> {
        let at = self.cursor.position();
        let (bytes, count) = take_head(&mut self.cursor, self.count - self.from)?;
        let bytes = self.cursor.take(bytes)?;
        let block = ValueBlock { kind: self.kind, from: self.from, count, at, bytes, columns: self.columns };
        self.from += count;
        Ok(block)
    }

    /// Errors: `Corruption` where bytes are left behind the last block.
    pub fn finish(&mut self) -> Result<()> {
        if self.cursor.rest().is_empty() {
            Ok(())
        } else {
            Err(self.cursor.wrong("bytes behind the last block"))
        }
    }
}

impl<'a> Iterator for ValueBlocks<'a> {
    type Item = Result<ValueBlock<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.from >= self.count {
            return None;
        }
        let block = self.step();
        if block.is_err() {
            self.from = self.count;
        }
        Some(block)
    }
}

/// Appends the values at positions `from..to`, passed through `convert`.
pub fn decode_values<T: Copy>(
    blocks: ValueBlocks<'_>,
    from: usize,
    to: usize,
    convert: impl Fn(u64) -> T + Copy,
    out: &mut Vec<T>,
) -> Result<()> {
    for block in blocks {
        let block = block?;
        if block.from >= to {
            break;
        }
        if block.from + block.count > from {
            let first = from.saturating_sub(block.from);
            block.section()?.decode(first, to - block.from, convert, out)?;
        }
    }
    Ok(())
}

/// One block of times that are not regular over the whole chunk.
#[derive(Clone, Copy)]
pub struct TimeBlock<'a> {
    pub from: usize,
    pub count: usize,
    pub at: usize,
    pub first: i64,
    pub last: i64,
    /// Empty where the block is regular in itself.
    column: &'a [u8],
}

impl TimeBlock<'_> {
    /// Appends all times of the block. Errors: `Corruption`; also where they don't increase to the last.
    pub fn decode(&self, out: &mut Vec<i64>) -> Result<()> {
        let start = out.len();
        let span = self.last.wrapping_sub(self.first) as u64;
        let steps = self.count as u64 - 1;
        if self.column.is_empty() {
            let step = span.checked_div(steps).unwrap_or(0);
            if step * steps != span {
                return Err(Error::corruption("chunk", self.at, "a block of times without one step"));
            }
            timestamps::extend_regular(self.first, step, self.count, out);
            return Ok(());
        }
        out.reserve(self.count);
        timestamps::decode(self.column, self.first, self.count, out)?;
        if out.len() - start != self.count || out.last() != Some(&self.last) {
            return Err(Error::corruption("chunk", self.at, "times don't increase to the last"));
        }
        Ok(())
    }
}

/// The blocks of a time column, in order; ends after an error.
pub struct TimeBlocks<'a> {
    cursor: Cursor<'a>,
    from: usize,
    count: usize,
    /// The last time of the block before.
    last: i64,
    /// The first block begins at `last` itself.
    starts: bool,
}

impl<'a> TimeBlocks<'a> {
    /// The blocks of a whole column, whose first time is known.
    pub fn new(column: &'a [u8], first: i64, count: usize) -> TimeBlocks<'a> {
        TimeBlocks { cursor: Cursor::new(column), from: 0, count, last: first, starts: true }
    }

    /// Blocks that follow the time `before`, the first one too unless it `starts` the column there.
    pub fn after(column: &'a [u8], before: i64, count: usize, starts: bool) -> TimeBlocks<'a> {
        TimeBlocks { cursor: Cursor::new(column), from: 0, count, last: before, starts }
    }

    fn step(&mut self) -> Result<TimeBlock<'a>> {
        let at = self.cursor.position();
        let (bytes, count) = take_head(&mut self.cursor, self.count - self.from)?;
        let (gap, span) = (self.cursor.varint()?, self.cursor.varint()?);
        let first = self.last.checked_add_unsigned(gap);
        let Some((first, last)) = first.and_then(|f| Some((f, f.checked_add_unsigned(span)?))) else {
            return Err(self.cursor.wrong("times past the end of time"));
        };
        if (gap == 0) != std::mem::take(&mut self.starts) || (span == 0) != (count == 1) {
            return Err(self.cursor.wrong("times that don't increase"));
        }
        let column = self.cursor.take(bytes)?;
        let block = TimeBlock { from: self.from, count, at, first, last, column };
        (self.from, self.last) = (self.from + count, last);
        Ok(block)
    }

    pub fn finish(&mut self) -> Result<()> {
        if self.cursor.rest().is_empty() {
            Ok(())
        } else {
            Err(self.cursor.wrong("bytes behind the last block"))
        }
    }
}

impl<'a> Iterator for TimeBlocks<'a> {
    type Item = Result<TimeBlock<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.from >= self.count {
            return None;
        }
        let block = self.step();
        if block.is_err() {
            self.from = self.count;
        }
        Some(block)
    }
}

impl<'a> TimeBlocks<'a> {
    /// Those that may have times in `range`.
    fn within(self, range: TimeRange) -> impl Iterator<Item = Result<TimeBlock<'a>>> {
        self.filter(move |block| block.as_ref().map_or(true, |b| b.last >= range.start))
            .take_while(move |block| block.as_ref().map_or(true, |b| b.first <= range.end))
    }
}

/// The positions of the times in `range`; only blocks that it cuts are decoded.
pub fn places(blocks: TimeBlocks<'_>, range: TimeRange) -> Result<(usize, usize)> {
    let (mut found, mut times): (Option<(usize, usize)>, _) = (None, Vec::new());
    for block in blocks.within(range) {
        let block = block?;
        let (mut from, mut to) = (0, block.count);
        if !range.contains(block.first) || !range.contains(block.last) {
            times.clear();
            block.decode(&mut times)?;
            from = times.partition_point(|&t| t < range.start);
            to = times.partition_point(|&t| t <= range.end).max(from);
        }
        found = Some((found.map_or(block.from + from, |f| f.0), block.from + to));
    }
    Ok(found.unwrap_or((0, 0)))
}

/// Appends the times in `range`; their positions.
pub fn decode_times(blocks: TimeBlocks<'_>, range: TimeRange, out: &mut Vec<i64>) -> Result<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    for block in blocks.within(range) {
        let block = block?;
        let start = out.len();
        block.decode(out)?;
        let made = out.get(start..).unwrap_or(&[]);
        let from = made.partition_point(|&t| t < range.start);
        let to = made.partition_point(|&t| t <= range.end).max(from);
        out.truncate(start + to);
        out.drain(start..start + from);
        let first = found.map_or(block.from + from, |f| f.0);
        found = Some((first, block.from + to));
    }
    Ok(found.unwrap_or((0, 0)))
}
