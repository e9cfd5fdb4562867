//! A sealed chunk of histograms: one immutable block of bytes. Layouts stand once, then every part of the
//! histograms is a column: FORMAT.md describes the bytes.

mod columns;
mod families;
mod repeats;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use metricsdb_model::histogram::{CountNumber, Layout, Tally};
use metricsdb_model::{Counts, Error, Histogram, Result, TimeRange, ValueKind};

use self::columns::ReadCounts;
pub use self::families::CHUNK_CELLS_MAX;
use self::families::{Family, Place, Plan};
use self::repeats::Repeats;
use super::cursor::{Cursor, put_varint};
use super::values::Section;
use super::{choose, timestamps};

/// Histograms that one chunk holds at most.
pub const CHUNK_ROWS_MAX: usize = 1 << 16;

/// Heap bytes around the block: the two counters of the `Arc`.
const ARC_BYTES: usize = 16;

/// The high half of the first byte; flags in the low one.
const VERSION: u8 = 1;
const REGULAR: u8 = 1;
const REPEATS: u8 = 2;

/// Histograms of one series, strictly increasing in time. A clone shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct HistogramChunk {
    bytes: Arc<[u8]>,
}

/// What a chunk of histograms knows without decoding a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HistogramHeader {
    pub count: usize,
    pub first: i64,
    pub last: i64,
    /// Observations of the first and of the last histogram.
    pub first_count: f64,
    pub last_count: f64,
    /// Their sums of observations.
    pub first_sum: f64,
    pub last_sum: f64,
    /// Stale histograms.
    pub stale: u64,
    /// Histograms that `Histogram::resets_after` the newest before them that is not stale.
    pub resets: u64,
}

/// The head, and what stands behind it.
struct Head<'a> {
    count: usize,
    first: i64,
    last: i64,
    step: Option<u64>,
    resets: u64,
    stale: u64,
    first_count: f64,
    last_count: f64,
    repeats: Repeats<'a>,
    /// Of the histograms that are written.
    sums: Section<'a>,
    times: &'a [u8],
    /// Families and their columns.
    rest: Cursor<'a>,
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Head<'a>> {
        let mut c = Cursor::new(bytes);
        let flags = c.byte()?;
        if flags & !(REGULAR | REPEATS) != VERSION << 4 {
            return Err(c.wrong("no such version of chunks of histograms"));
        }
        let count = c.word(2)? as usize + 1;
        let first = c.word(8)? as i64;
        let number = c.varint()?;
        let step = (flags & REGULAR != 0).then_some(number);
        let span = if step.is_some() { number.checked_mul(count as u64 - 1) } else { Some(number) };
        let Some(last) = span.and_then(|s| first.checked_add_unsigned(s)) else {
            return Err(c.wrong("times past the end of time"));
        };
        if count > 1 && last <= first {
            return Err(c.wrong("times that don't increase"));
        }
        let (resets, stale) = (c.varint()?, c.varint()?);
        let (first_count, last_count) = (f64::from_bits(c.word(8)?), f64::from_bits(c.word(8)?));
        let repeats =
            if flags & REPEATS != 0 { Repeats::parse(&mut c, count)? } else { Repeats::none(count) };
        let n = c.count()?;
        let sums = Section::parse(c.take(n)?, ValueKind::Float, repeats.kept)?;
        let n = if step.is_some() { 0 } else { c.count()? };
        let times = c.take(n)?;
        Ok(Head {
            count,
            first,
            last,
            step,
            resets,
            stale,
            first_count,
            last_count,
            repeats,
            sums,
            times,
            rest: c,
        })
    }

    /// Appends the times in `range`; their positions.
    fn decode_times(&self, range: TimeRange, out: &mut Vec<i64>) -> Result<(usize, usize)> {
        if range.is_empty() || range.start > self.last || range.end < self.first {
            return Ok((0, 0));
        }
        let start = out.len();
        match self.step {
            Some(step) => timestamps::extend_regular(self.first, step, self.count, out),
            None => timestamps::decode(self.times, self.first, self.count, out)?,
        }
        let made = out.get(start..).unwrap_or(&[]);
        let from = made.partition_point(|&t| t < range.start);
        let to = made.partition_point(|&t| t <= range.end).max(from);
        out.truncate(start + to);
        out.drain(start..start + from);
        Ok((from, to))
    }

    /// Appends the histograms at positions `from..to`.
    fn decode_rows(&self, from: usize, to: usize, out: &mut Vec<Histogram>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let sources = self.repeats.sources(self.count)?;
        let mut cursor = self.rest;
        let plan = Plan::read(&mut cursor, self.repeats.kept)?;
        let buckets = sources.iter().map(|&source| plan.buckets(source as usize) + 1).sum::<usize>();
        if buckets > CHUNK_CELLS_MAX {
            return Err(cursor.wrong("more buckets than a chunk may have"));
        }
        let columns = plan.families.iter().map(|family| Columns::read(family, &mut cursor));
        let columns = columns.collect::<Result<Vec<Columns>>>()?;
        let mut sums = Vec::new();
        self.sums.decode(0, self.repeats.kept, f64::from_bits, &mut sums)?;
        out.reserve(to - from);
        for &source in sources.get(from..to).unwrap_or(&[]) {
            let place = plan.places.get(source as usize).zip(sums.get(source as usize));
            let made = place.and_then(|(place, &sum)| columns.get(place.family)?.histogram(place, sum));
            out.extend(made);
        }
        Ok(())
    }
}

/// The decoded columns of a family.
struct Columns<'a> {
    family: &'a Family,
    /// The column of zero counts, and one for each bucket.
    cells: Vec<u64>,
    counts: ReadCounts,
}

impl<'a> Columns<'a> {
    fn read(family: &'a Family, cursor: &mut Cursor) -> Result<Columns<'a>> {
        // Each column takes a byte at least.
        let columns = cursor.left().min(family.width + 1);
        let mut cells = Vec::with_capacity(columns * family.rows);
        for _ in 0..=family.width {
            columns::read(family.float, cursor, family.rows, &mut cells)?;
        }
        Ok(Columns { family, cells, counts: ReadCounts::read(cursor, family.rows)? })
    }

    fn histogram(&self, place: &Place, sum: f64) -> Option<Histogram> {
        let (layout, slots) = (self.family.layouts.get(place.layout)?, self.family.slots.get(place.layout)?);
        let counts = match self.family.float {
            true => Counts::Float(self.tally(place.row, slots)),
            false => Counts::Int(self.tally(place.row, slots)),
        };
        Some(Histogram { layout: layout.clone(), reset: place.reset, sum, counts })
    }

    fn tally<T: CountNumber>(&self, row: usize, slots: &[u32]) -> Tally<T> {
        let cell = |column: usize| {
            let word = self.cells.get(column * self.family.rows + row);
            T::from_word(word.copied().unwrap_or(0))
        };
        let buckets = slots.iter().map(|&slot| cell(slot as usize + 1)).collect();
        let mut tally = Tally { count: T::default(), zero: cell(0), buckets };
        self.counts.complete(row, &mut tally);
        tally
    }
}

/// Appends the columns of one family.
fn write_columns(number: usize, plan: &Plan, rows: &[&Histogram], out: &mut Vec<u8>) {
    let Some(family) = plan.families.get(number) else { return };
    let mut cells = vec![0; family.rows * (family.width + 1)];
    let (mut counts, mut distances) = (Vec::new(), Vec::new());
    for (place, h) in plan.places.iter().zip(rows).filter(|(place, _)| place.family == number) {
        let slots = &family.slots[place.layout];
        let cells = &mut cells[place.row..];
        let (count, distance) = match &h.counts {
            Counts::Int(tally) => spread(tally, slots, family.rows, cells),
            Counts::Float(tally) => spread(tally, slots, family.rows, cells),
        };
        counts.push(count);
        distances.push(distance);
    }
    cells.chunks(family.rows).for_each(|column| columns::write(family.float, column, out));
    columns::write_counts(family.float, &counts, &distances, out);
}

/// Puts zero count and buckets into their columns, `rows` apart; the count, and its distance from their sum.
fn spread<T: CountNumber>(tally: &Tally<T>, slots: &[u32], rows: usize, cells: &mut [u64]) -> (u64, u64) {
    cells[0] = tally.zero.to_word();
    for (bucket, &slot) in tally.buckets.iter().zip(slots) {
        cells[(slot as usize + 1) * rows] = bucket.to_word();
    }
    (tally.count.to_word(), columns::distance(tally))
}

/// How often a histogram resets after the newest before it that is not stale.
fn count_resets(rows: &[Histogram]) -> u64 {
    let mut known = rows.iter().filter(|h| !h.is_stale());
    let Some(mut before) = known.next() else { return 0 };
    known.fold(0, |n, h| n + u64::from(h.resets_after(std::mem::replace(&mut before, h))))
}

fn count_stale(rows: &[Histogram]) -> u64 {
    rows.iter().filter(|h| h.is_stale()).count() as u64
}

impl HistogramChunk {
    /// Errors: `Input` when the columns are of different lengths, empty, longer than `CHUNK_ROWS_MAX`, times
    /// don't strictly increase or a histogram is not valid; `Limit` above `CHUNK_CELLS_MAX`.
    pub fn seal(times: &[i64], rows: &[Histogram]) -> Result<HistogramChunk> {
        let ends = (times.first().zip(times.last()), rows.first().zip(rows.last()));
        let (Some((first, last)), Some((first_row, last_row))) = ends else {
            return Err(refused(rows.len(), "a chunk has at least one histogram"));
        };
        if rows.len() > CHUNK_ROWS_MAX || times.len() != rows.len() {
            return Err(refused(rows.len(), "a chunk has at most 65536 histograms, and each a time"));
        }
        if times.windows(2).any(|w| w[0] >= w[1]) {
            return Err(refused(rows.len(), "times must increase"));
        }
        rows.iter().try_for_each(Histogram::validate)?;
        let (new, positions) = repeats::distinct(rows);
        let plan = Plan::of(&new, rows)?;
        let mut out = Vec::with_capacity(256);
        let step = timestamps::regular(times);
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let repeats = new.len() < rows.len();
        out.push(VERSION << 4 | flag(step.is_some(), REGULAR) | flag(repeats, REPEATS));
        out.extend_from_slice(&((rows.len() - 1) as u16).to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        put_varint(&mut out, step.unwrap_or(last.wrapping_sub(*first) as u64));
        put_varint(&mut out, count_resets(rows));
        put_varint(&mut out, count_stale(rows));
        out.extend_from_slice(&first_row.count().to_le_bytes());
        out.extend_from_slice(&last_row.count().to_le_bytes());
        if repeats {
            repeats::write(&positions, &mut out);
        }
        let mut column = Vec::new();
        let sums: Vec<u64> = new.iter().map(|h| h.sum.to_bits()).collect();
        choose::encode(ValueKind::Float, &sums, None, &mut column);
        put_sized(&column, &mut out);
        if step.is_none() {
            column.clear();
            timestamps::encode(times, &mut column);
            put_sized(&column, &mut out);
        }
        plan.write(&mut out);
        (0..plan.families.len()).for_each(|family| write_columns(family, &plan, &new, &mut out));
        Ok(HistogramChunk { bytes: out.into() })
    }

    /// Takes bytes from outside. All columns are decoded once, so that no later call fails, times are sure to
    /// increase and histograms are valid. Errors: `Corruption`. Allocates some 32 bytes for each of
    /// `CHUNK_CELLS_MAX` words and 100 for each histogram at most.
    pub fn from_bytes(bytes: &[u8]) -> Result<HistogramChunk> {
        let chunk = HistogramChunk { bytes: bytes.into() };
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        let header = chunk.header()?;
        chunk.decode_range(TimeRange::ALL, &mut times, &mut rows)?;
        let wrong = |message: String| Error::corruption("chunk of histograms", 0, message);
        if times.last() != Some(&header.last) || times.windows(2).any(|w| w[0] >= w[1]) {
            return Err(wrong("times don't increase to the last".to_owned()));
        }
        rows.iter().try_for_each(Histogram::validate_counts).map_err(|e| wrong(e.to_string()))?;
        let ends = rows.first().zip(rows.last()).is_some_and(|(first, last)| {
            let [counts, sums] = [[first.count(), last.count()], [first.sum, last.sum]];
            same(counts, [header.first_count, header.last_count])
                && same(sums, [header.first_sum, header.last_sum])
        });
        let told = (count_resets(&rows), count_stale(&rows)) == (header.resets, header.stale);
        if !ends || !told || rows.len() != header.count {
            return Err(wrong("the head does not describe the histograms".to_owned()));
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

    pub fn count(&self) -> usize {
        Head::parse(&self.bytes).map_or(0, |h| h.count)
    }

    pub fn first(&self) -> i64 {
        Head::parse(&self.bytes).map_or(i64::MIN, |h| h.first)
    }

    pub fn last(&self) -> i64 {
        Head::parse(&self.bytes).map_or(i64::MIN, |h| h.last)
    }

    /// What is known without decoding a column. Errors: `Corruption`, never for a chunk that was sealed
    /// here or came through `from_bytes`.
    pub fn header(&self) -> Result<HistogramHeader> {
        let head = Head::parse(&self.bytes)?;
        let sums = head.sums.statistics()?;
        Ok(HistogramHeader {
            count: head.count,
            first: head.first,
            last: head.last,
            first_count: head.first_count,
            last_count: head.last_count,
            first_sum: sums.first,
            last_sum: sums.last,
            stale: head.stale,
            resets: head.resets,
        })
    }

    /// How many histograms and buckets are in `range`, from times and layouts alone, which are added to `layouts`.
    /// Errors: `Corruption`, as `header`.
    pub fn cost_within(&self, range: TimeRange, layouts: &mut HashSet<Arc<Layout>>) -> Result<u64> {
        let head = Head::parse(&self.bytes)?;
        let (from, to) = head.decode_times(range, &mut Vec::new())?;
        if from >= to {
            return Ok(0);
        }
        let sources = head.repeats.sources(head.count)?;
        let plan = Plan::read(&mut { head.rest }, head.repeats.kept)?;
        let within = sources.get(from..to).unwrap_or(&[]);
        layouts.extend(plan.families.iter().flat_map(|family| &family.layouts).cloned());
        Ok(within.iter().map(|&source| 1 + plan.buckets(source as usize) as u64).sum())
    }

    /// Appends the histograms in `range`. Those of one layout share it. Decodes every column as a whole.
    /// Errors: `Corruption`; both columns are then as they were.
    pub fn decode_range(
        &self,
        range: TimeRange,
        times: &mut Vec<i64>,
        rows: &mut Vec<Histogram>,
    ) -> Result<()> {
        let before = (times.len(), rows.len());
        let mut run = || {
            let head = Head::parse(&self.bytes)?;
            let (from, to) = head.decode_times(range, times)?;
            head.decode_rows(from, to, rows)
        };
        let result = run();
        if result.is_err() {
            times.truncate(before.0);
            rows.truncate(before.1);
        }
        result
    }
}

fn same(a: [f64; 2], b: [f64; 2]) -> bool {
    a.map(f64::to_bits) == b.map(f64::to_bits)
}

fn put_sized(column: &[u8], out: &mut Vec<u8>) {
    put_varint(out, column.len() as u64);
    out.extend_from_slice(column);
}

fn refused(count: usize, message: &str) -> Error {
    Error::input("histograms of a chunk", &count.to_string(), message, "split the columns")
}

impl fmt::Debug for HistogramChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistogramChunk").field("header", &self.header()).finish()
    }
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
