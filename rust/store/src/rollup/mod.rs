//! Rollups: records of what the samples of each bucket come to (`record`), kept per series and level in blocks of the
//! same chunks as samples (`block`), made of raw samples by `roll`, and read in their place (`read`) once these are gone.
//!
//! A level goes on from the one below it. Samples at or before `raw_from` are in records alone; records before the
//! `floor` of a level are in the next level alone.

mod block;
mod chosen;
mod cut;
mod estimate;
mod export;
mod fetched;
pub mod kept;
mod kind;
mod native;
mod packed;
mod read;
pub mod record;
mod roll;
mod sketches;
pub mod states;

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::{Error, Result, Samples, Sketch, TimeRange, ValueKind};

pub use block::Block;
pub use chosen::Chosen;
pub(crate) use chosen::Elsewhere;
pub use estimate::Estimate;
pub use export::{ExportedRecords, LevelRecords, SeriesRecords};
pub use kind::Kind;
pub use native::Native;
pub use packed::{Commons, Packed};
pub use record::Record;
pub use roll::{EVERY_MAX, Keeping, Level, LevelStats, Pass, Progress, Rolled, Rule, Step};

use crate::chunk::{Chunk, SharedColumns, chunks_of};
use crate::heap;
use block::{blocks_of, number_of};
use record::{end_of, floor_of};
use roll::TIME_MIN;
pub use sketches::Beside;
use sketches::Sketched;

/// Buckets of the finest level whose samples that survive are in chunks of their own.
const KEPT_TOGETHER: i64 = 4096;

/// The series of a shard that have records, by row.
#[derive(Default)]
pub struct Rollups {
    rows: HashMap<u32, Arc<Packed>>,
    /// One for all shards.
    common: Arc<Commons>,
}

/// All records of one series, as they are worked on; `Packed` is what a shard holds.
#[derive(Clone)]
pub struct RolledSeries {
    /// Samples at or before this time are in records alone; `i64::MIN` while all are there.
    pub raw_from: i64,
    pub kind: Kind,
    /// What the last step of a policy said of samples that survive, and of what stands beside records.
    pub keeping: Option<Keeping>,
    pub beside: Beside,
    /// Ends of the finest level's buckets that late samples came to: sorted, to be made anew.
    pub dirty: Vec<i64>,
    /// The finest first.
    pub levels: Vec<LevelSeries>,
    /// Samples that survive at their own time and value, as chunks of floats.
    pub kept: Vec<Chunk>,
}

/// Records of one width.
#[derive(Clone)]
pub struct LevelSeries {
    pub every: i64,
    /// Buckets that end at or before it have their records.
    pub until: i64,
    /// Records that end at or before it are gone.
    pub floor: i64,
    pub blocks: Vec<Block>,
    /// Of a series of native histograms; what its records say of values means nothing.
    pub native: Option<Box<Native>>,
}

/// A level as it lies in a series, packed or not.
#[derive(Clone, Copy)]
pub struct LevelRef<'a> {
    pub every: i64,
    pub until: i64,
    pub floor: i64,
    pub blocks: &'a [Block],
    pub native: Option<&'a Native>,
}

impl LevelSeries {
    pub fn new(every: i64) -> LevelSeries {
        let (until, floor) = (i64::MIN, i64::MIN);
        LevelSeries { every, until, floor, blocks: Vec::new(), native: None }
    }

    fn as_ref(&self) -> LevelRef<'_> {
        let LevelSeries { every, until, floor, ref blocks, ref native } = *self;
        LevelRef { every, until, floor, blocks, native: native.as_deref() }
    }
}

/// The times of the oldest and the newest sample that records of some levels stand for.
fn span_of<'a>(levels: impl Iterator<Item = LevelRef<'a>>) -> Option<TimeRange> {
    let spans = levels.filter_map(|l| {
        let (first, last) = l.blocks.first().zip(l.blocks.last())?;
        Some(TimeRange::new(first.first() - l.every + 1, last.last()))
    });
    spans.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)))
}

/// Whether records of some levels stand for samples of a range.
fn stand_in<'a>(levels: impl Iterator<Item = LevelRef<'a>>, raw_from: i64, range: TimeRange) -> bool {
    raw_from > i64::MIN && range.start <= raw_from && span_of(levels).is_some_and(|span| span.overlaps(range))
}

impl Rollups {
    pub fn new(common: Arc<Commons>) -> Rollups {
        Rollups { rows: HashMap::new(), common }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn get(&self, row: u32) -> Option<&Arc<Packed>> {
        self.rows.get(&row)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Packed>)> {
        self.rows.iter().map(|(&row, series)| (row, series))
    }

    pub(crate) fn remove(&mut self, row: u32) {
        self.rows.remove(&row);
    }

    pub(crate) fn put(&mut self, row: u32, series: RolledSeries) {
        self.rows.insert(row, self.common.pack(series));
    }

    /// Numbers of a row have other values now: their records go, and the next pass makes them anew. Errors: `Corruption`.
    pub(crate) fn remake(&mut self, row: u32, shared: &SharedColumns) -> Result<()> {
        let Some(packed) = self.rows.get(&row).filter(|series| !series.is_native()) else { return Ok(()) };
        let mut series = packed.unpack();
        let (raw_from, counter) = (series.raw_from, series.kind.is_counter());
        for level in &mut series.levels {
            level.until = level.until.min(floor_of(raw_from, level.every));
            level.replace((level.until, i64::MAX), &[], &[], counter, shared)?;
        }
        series.dirty.clear();
        self.put(row, series);
        Ok(())
    }

    /// Bytes of the table that leads to the series.
    pub fn table_bytes(&self) -> usize {
        heap::map::<u32, Arc<Packed>>(self.rows.capacity())
    }

    /// Whether a sample at this time still has a bucket that it can change.
    pub(crate) fn takes(&self, row: u32, time: i64) -> bool {
        self.rows.get(&row).is_none_or(|series| time > series.raw_from())
    }

    /// Notes samples that came behind newer ones. Whether one at this time can still be taken: its bucket has all its samples.
    pub(crate) fn late(&mut self, row: u32, time: i64) -> bool {
        let Some(series) = self.rows.get_mut(&row) else { return true };
        if time <= series.raw_from() {
            return false;
        }
        if let Some((every, until)) = series.finest()
            && time > TIME_MIN
            && time <= until
            && !series.is_dirty(end_of(time, every))
        {
            Arc::make_mut(series).soil(end_of(time, every));
        }
        true
    }
}

impl Default for RolledSeries {
    fn default() -> RolledSeries {
        RolledSeries::new(&[], Kind::Gauge)
    }
}

impl RolledSeries {
    fn new(levels: &[Level], kind: Kind) -> RolledSeries {
        let levels = levels.iter().map(|l| LevelSeries::new(l.every)).collect();
        let (keeping, beside, raw_from) = (None, Beside::default(), i64::MIN);
        RolledSeries { raw_from, kind, keeping, beside, dirty: Vec::new(), levels, kept: Vec::new() }
    }

    /// Puts kept samples in the place of those in `(after, until]`. Errors: `Corruption`.
    fn replace_kept(
        &mut self,
        (after, until): (i64, i64),
        new: &[(i64, f64)],
        shared: &SharedColumns,
    ) -> Result<()> {
        let width = self.levels.first().map_or(1, |l| l.every).saturating_mul(KEPT_TOGETHER);
        let (lowest, highest) = (floor_of(after.max(TIME_MIN), width), end_of(until, width));
        let from = self.kept.partition_point(|c| c.last() <= lowest);
        let to = self.kept.partition_point(|c| c.first() <= highest).max(from);
        if new.is_empty() && from == to {
            return Ok(());
        }
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        for chunk in self.kept.get(from..to).unwrap_or(&[]) {
            chunk.decode_into(&mut times, &mut bits)?;
        }
        let begin = times.partition_point(|&t| t <= after);
        let end = times.partition_point(|&t| t <= until);
        times.splice(begin..end, new.iter().map(|s| s.0));
        bits.splice(begin..end, new.iter().map(|s| s.1.to_bits()));
        let (mut chunks, mut from_sample) = (Vec::new(), 0);
        for part in times.chunk_by(|a, b| (a - 1).div_euclid(width) == (b - 1).div_euclid(width)) {
            let bits = bits.get(from_sample..from_sample + part.len()).unwrap_or(&[]);
            chunks.extend(chunks_of(ValueKind::Float, part, bits, shared)?);
            from_sample += part.len();
        }
        self.kept.splice(from..to, chunks);
        Ok(())
    }

    /// Appends the kept samples of a range.
    pub fn read_kept(&self, range: TimeRange, out: &mut Samples) -> Result<()> {
        let from = self.kept.partition_point(|c| c.last() < range.start);
        let chunks = self.kept.iter().skip(from).take_while(|c| c.first() <= range.end);
        chunks.into_iter().try_for_each(|chunk| chunk.decode_f64(range, out))
    }

    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| level.blocks.is_empty())
    }

    /// Decodes every block. Errors: `Corruption`, where records don't rise in time or stand in the wrong block.
    pub fn check(&self) -> Result<()> {
        let wrong = |why| Err(Error::corruption("rollup", 0, why));
        let mut below = 1;
        for level in &self.levels {
            if !(1..=EVERY_MAX).contains(&level.every) || level.every % below != 0 {
                return wrong("a level that does not follow from the one below it");
            }
            below = level.every;
            let (mut records, mut sketches) = (Vec::new(), Vec::new());
            for block in &level.blocks {
                block.decode_with_sketches(&mut records, &mut sketches)?;
                let number = |end| number_of(end, level.every);
                if block.every() != level.every || number(block.first()) != number(block.last()) {
                    return wrong("a record in the wrong block");
                }
            }
            if let Some(native) = &level.native {
                native.points.check()?;
                native.sums.check()?;
            }
            for (_, sketch) in &sketches {
                match states::is_states(sketch) {
                    true => states::decode(sketch).map(|_| ())?,
                    false => Sketch::decode(sketch).map(|_| ())?,
                }
            }
            if records.windows(2).any(|pair| pair[0].end >= pair[1].end)
                || records.iter().any(|r| r.end > level.until || r.end % level.every != 0 || r.count == 0)
            {
                return wrong("records that don't rise in time");
            }
        }
        Ok(())
    }
}

impl LevelRef<'_> {
    /// Appends the records whose buckets end in `(after, until]`. Errors: `Corruption`.
    fn records(&self, after: i64, until: i64, out: &mut Vec<Record>) -> Result<()> {
        let after = after.max(self.floor);
        let from = self.blocks.partition_point(|b| b.last() <= after);
        for block in self.blocks.iter().skip(from).take_while(|b| b.first() <= until) {
            let at = out.len();
            block.decode(out)?;
            let inside = |r: &Record| r.end > after && r.end <= until;
            if !(block.first() > after && block.last() <= until) {
                let kept: Vec<Record> = out.drain(at..).filter(inside).collect();
                out.extend(kept);
            }
        }
        Ok(())
    }
}

impl LevelSeries {
    /// Puts records and sketches in the place of those in `(after, until]`, both ends of buckets (`after` may be `i64::MIN`): all
    /// of that time, in order. Errors: `Corruption`.
    fn replace(
        &mut self,
        (after, until): (i64, i64),
        new: &[Record],
        sketches: &[Sketched],
        counter: bool,
        shared: &SharedColumns,
    ) -> Result<()> {
        let every = self.every;
        let touched = blocks_of(&self.blocks, Block::first, every, (after, until));
        let (mut all, mut sketched) = (Vec::new(), Vec::new());
        let (mut new, mut rest) = (new, sketches);
        if !touched.is_empty() {
            for block in self.blocks.get(touched.clone()).unwrap_or(&[]) {
                block.decode_with_sketches(&mut all, &mut sketched)?;
            }
            let begin = all.partition_point(|r: &Record| r.end <= after);
            let end = all.partition_point(|r| r.end <= until);
            all.splice(begin..end, new.iter().copied());
            let begin = sketched.partition_point(|s: &Sketched| s.0 <= after);
            let end = sketched.partition_point(|s| s.0 <= until);
            sketched.splice(begin..end, rest.iter().cloned());
            (new, rest) = (&all, &sketched);
        }
        let blocks = new.chunk_by(|a, b| number_of(a.end, every) == number_of(b.end, every));
        let make = |records: &[Record]| {
            let last = records.last()?.end;
            let (own, later) = rest.split_at(rest.partition_point(|s| s.0 <= last));
            rest = later;
            Block::new(records, own, every, counter, shared)
        };
        let blocks: Vec<Block> = blocks.filter_map(make).collect();
        self.blocks.splice(touched, blocks);
        Ok(())
    }

    /// Appends the records whose buckets end in `(after, until]`. Errors: `Corruption`.
    fn records(&self, after: i64, until: i64, out: &mut Vec<Record>) -> Result<()> {
        self.as_ref().records(after, until, out)
    }

    /// Appends the sketches of these buckets. Errors: `Corruption`.
    fn sketches(&self, after: i64, until: i64, out: &mut Vec<Sketched>) -> Result<()> {
        let after = after.max(self.floor);
        let from = self.blocks.partition_point(|b| b.last() <= after);
        let (mut records, mut all) = (Vec::new(), Vec::new());
        for block in self.blocks.iter().skip(from).take_while(|b| b.first() <= until) {
            records.clear();
            block.decode_with_sketches(&mut records, &mut all)?;
        }
        out.extend(all.into_iter().filter(|s| s.0 > after && s.0 <= until));
        Ok(())
    }

    /// Drops what ends at or before a time.
    fn expire(&mut self, floor: i64) -> usize {
        self.floor = self.floor.max(floor);
        self.expire_native();
        let gone = self.blocks.partition_point(|b| b.last() <= self.floor);
        self.blocks.drain(..gone).map(|b| b.count()).sum()
    }
}

#[cfg(test)]
mod tests;
