//! The way back of one shard: its series (`know`), then the other frames of a checkpoint, then those of the journal (`replay`),
//! in the order of its stream. What does not fit is noted and passed over.

mod know;
mod replay;

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::{Error, LabelsBuilder, Policy, Precision, Predicate, Result, TimeRange};

use super::frame::{Frame, Kind, Place};
use super::record::{self, read_bytes, read_column, read_row};
use super::recover::Selector;
use super::report::{Cause, Loss, Lost};
use crate::chunk::{Chunk, Shared, SharedColumns};
use crate::codec::OpenState;
use crate::codec::cursor::Cursor;
use crate::codec::histogram::HistogramChunk;
use crate::codec::open::STATE_BYTES;
use crate::database::Database;
use crate::histograms::HistogramSeries;
use crate::precision::{PrecisionRules, RuleText};
use crate::resolve::Interned;
use crate::rollup::{self, Block, EVERY_MAX, LevelSeries, Native, RolledSeries};
use crate::series::{Head, ROWS_MAX};
use crate::shard::{Rules, Shard, Staged, Work};
use crate::slab::CLASSES;

/// A row of the writer whose labels are lost.
pub const LOST: u32 = u32::MAX;
/// One whose series is gone.
const GONE: u32 = u32::MAX - 1;

/// Columns of a checkpoint by their number.
pub type ColumnsByNumber = HashMap<u64, Arc<Shared>>;

/// What all shards are read with.
pub struct Reader<'a> {
    pub db: &'a Database,
    pub rules: Rules,
    pub columns: &'a ColumnsByNumber,
    /// Reads a selector, as users write them.
    pub selector: Selector,
}

/// What a checkpoint says that a row holds.
#[derive(Clone, Copy)]
struct Extent {
    row: u32,
    samples: u64,
    span: TimeRange,
}

/// Records that never came: behind which time, and between which places of the journal.
struct Gap {
    records: u64,
    since: Option<i64>,
    from: Place,
    to: Place,
}

/// A stream on its way back, and what was missing in it.
#[derive(Default)]
pub struct Stream {
    /// The last record that was applied.
    seq: u64,
    /// The last record that says which series there are; behind the first look, the last of all.
    pub known: u64,
    /// Those that hold where the replay is; the shard has those that hold behind all of it.
    rules: Arc<PrecisionRules>,
    /// Our row of each of the writer's.
    rows: Vec<u32>,
    extents: Vec<Extent>,
    begun: bool,
    /// How many rows the checkpoint has.
    checkpoint_rows: Option<u64>,
    /// The newest time of the last record of samples.
    newest: Option<i64>,
    /// Where the last record of the journal stood that was looked at.
    place: Place,
    gap: Option<Gap>,
    /// Records that never came, and whose samples are in `lost` one by one.
    told: Vec<u64>,
    pub lost: Vec<Loss>,
    pub samples: u64,
    pub frames: u64,
    work: Work,
    staged: Vec<Staged>,
    starts: Vec<i64>,
    interned: Interned,
    builder: LabelsBuilder,
}

/// The length of a column, which may be shorter in bytes.
fn read_count(c: &mut Cursor<'_>) -> Result<usize> {
    let count = c.varint()? as usize;
    if count <= ROWS_MAX { Ok(count) } else { Err(wrong("a column longer than any")) }
}

impl Stream {
    /// Whether each of the writer's rows is ours of the same number.
    pub fn keeps_rows(&self) -> bool {
        self.rows.iter().enumerate().all(|(theirs, &ours)| ours == GONE || theirs as u32 == ours)
    }

    fn row(&self, theirs: u32) -> Option<u32> {
        self.rows.get(theirs as usize).copied().filter(|&row| row < GONE)
    }

    fn place(&mut self, theirs: u32, ours: u32) -> Result<()> {
        let at = theirs as usize;
        if at >= ROWS_MAX {
            return Err(wrong("a row past the last"));
        }
        if self.rows.len() <= at {
            self.rows.resize(at + 1, LOST);
        }
        self.rows[at] = ours;
        Ok(())
    }

    /// Applies what `f` does to the shard as it was when that was written, with the rules of then and nothing behind it.
    pub fn back_then<T>(&mut self, shard: &mut Shard, f: impl FnOnce(&mut Stream, &mut Shard) -> T) -> T {
        let behind = shard.behind.take();
        let now = std::mem::replace(&mut shard.precision, self.rules.clone());
        let out = f(self, shard);
        self.rules = std::mem::replace(&mut shard.precision, now);
        shard.behind = behind;
        out
    }

    /// Takes a frame of a checkpoint. Errors: `Corruption`, where the frame is not what it should be.
    pub fn load(&mut self, reader: &Reader<'_>, shard: &mut Shard, frame: Frame<'_>) -> Result<()> {
        let mut c = Cursor::new(frame.payload);
        self.frames += 1;
        self.seq = self.seq.max(frame.head.seq);
        let take = match frame.head.kind {
            // `know` took them.
            Kind::Begin | Kind::Rows | Kind::End => return Ok(()),
            Kind::Chunks => Stream::load_chunks,
            Kind::Open => Stream::load_open,
            Kind::Starts => Stream::load_starts,
            Kind::SealedHistograms => Stream::load_histograms,
            Kind::Rollups => Stream::load_rollups,
            _ => return Err(wrong("a frame that is no part of a checkpoint")),
        };
        while !c.is_empty() {
            take(self, reader, shard, &mut c)?;
        }
        Ok(())
    }

    fn load_chunks(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, count) = (read_row(c)?, c.count()?);
        for _ in 0..count {
            // One whose column is lost takes no neighbour with it.
            let Ok(chunk) = read_chunk(reader.columns, &reader.db.shared_columns, c)? else { continue };
            let Some(row) = self.row(theirs) else { continue };
            if shard.newest(row).is_some_and(|newest| chunk.first() <= newest) {
                return Err(wrong("chunks overlap"));
            }
            self.samples += chunk.count() as u64;
            shard.sealed_count.add(&chunk);
            shard.series.sealed[row].push(chunk);
        }
        Ok(())
    }

    fn load_open(&mut self, _: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, state, bytes) = (read_row(c)?, c.take(STATE_BYTES)?, read_bytes(c)?);
        let state = OpenState::restore(state, bytes)?;
        let class = CLASSES.iter().position(|&size| bytes.len() <= usize::from(size));
        let Some(class) = class else { return Err(wrong("an open chunk larger than a page")) };
        let Some(row) = self.row(theirs) else { return Ok(()) };
        if shard.newest(row).is_some_and(|newest| state.first_time(bytes).is_none_or(|t| t <= newest)) {
            return Err(wrong("an open chunk that is not behind the sealed ones"));
        }
        let class = class as u8;
        let slab = shard.arena.take(class);
        shard.arena.bytes_mut(slab, class).iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        let head = &mut shard.series.heads[row];
        *head = Head { state, slab, class, ..*head };
        self.samples += state.count() as u64;
        Ok(())
    }

    fn load_starts(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, count) = (read_row(c)?, c.count()?);
        let (mut sealed, mut whole) = (Vec::new(), true);
        for _ in 0..count {
            match read_chunk(reader.columns, &reader.db.shared_columns, c)? {
                Ok(chunk) => sealed.push(chunk),
                Err(_) => whole = false,
            }
        }
        let count = read_count(c)?;
        let (mut froms, mut rules) = (Vec::new(), Vec::new());
        read_column(c, count, &mut froms)?;
        read_column(c, count, &mut rules)?;
        let steps: Vec<(i64, i64)> = froms.into_iter().zip(rules).collect();
        let Some(row) = self.row(theirs) else { return Ok(()) };
        match whole {
            true => shard.starts.restore(row, sealed, &steps),
            false => self.lose_of(reader, shard, row, "start times"),
        }
        Ok(())
    }

    fn load_rollups(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, raw_from) = (read_row(c)?, c.signed()?);
        let (step, of) = record::read_roll(read_bytes(c)?)?;
        let kind = of.first().map_or(rollup::Kind::Gauge, |&(_, kind)| kind);
        let (mut dirty, mut levels, mut whole) = (Vec::new(), Vec::new(), true);
        let count = read_count(c)?;
        read_column(c, count, &mut dirty)?;
        for _ in 0..c.count()? {
            let (every, until, floor) = (c.signed()?, c.signed()?, c.signed()?);
            if !(1..=EVERY_MAX).contains(&every) {
                return Err(wrong("a level of no width that there is"));
            }
            let mut blocks = Vec::new();
            for _ in 0..c.count()? {
                let (buckets, bytes) = (c.varint()?, read_bytes(c)?);
                match reader.columns.get(&buckets) {
                    Some(buckets) => blocks.push(Block::restore(buckets.clone(), bytes)?),
                    None => whole = false,
                }
            }
            let native = match c.byte()? {
                0 => None,
                _ => Some(Box::new(Native::restored(read_histogram_chunks(c)?, read_histogram_chunks(c)?))),
            };
            levels.push(LevelSeries { every, until, floor, blocks, native });
        }
        let mut kept = Vec::new();
        for _ in 0..c.count()? {
            match read_chunk(reader.columns, &reader.db.shared_columns, c)? {
                Ok(chunk) => kept.push(chunk),
                Err(_) => whole = false,
            }
        }
        let (keeping, beside) = (step.keeping, step.beside);
        let series = RolledSeries { raw_from, kind, keeping, beside, dirty, levels, kept };
        series.check()?;
        if let Some(row) = self.row(theirs) {
            if !whole {
                self.lose_of(reader, shard, row, "rollups");
            }
            shard.rollups.put(row, series);
        }
        Ok(())
    }

    fn load_histograms(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, count) = (read_row(c)?, c.count()?);
        let mut sealed = Vec::new();
        for _ in 0..count {
            let chunk = HistogramChunk::from_bytes(read_bytes(c)?)?;
            let (mut times, mut rows) = (Vec::new(), Vec::new());
            chunk.decode_range(TimeRange::ALL, &mut times, &mut rows)?;
            reader.db.appended_histograms.add(rows.iter());
            self.samples += rows.len() as u64;
            sealed.push(chunk);
        }
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        record::read_histograms(read_bytes(c)?, |_, time, _, histogram| {
            times.push(time);
            rows.push(histogram);
        })?;
        reader.db.appended_histograms.add(rows.iter());
        self.samples += rows.len() as u64;
        if let Some(row) = self.row(theirs) {
            shard.histograms.restore(row, HistogramSeries::restored(sealed, times, rows));
        }
        Ok(())
    }

    /// Says what a checkpoint had that did not come. Called when all its frames have been looked at; `expected`:
    /// whether it says that the shard is in it.
    pub fn loaded(&mut self, db: &Database, shard: &mut Shard, expected: bool) {
        // Samples that come later may be older than those that are lost.
        let rows: Vec<u32> = shard.starts.iter().map(|(row, _)| row).collect();
        for row in rows {
            shard.end_starts(row).unwrap_or_else(|_| shard.starts.remove(row));
        }
        let missing = |ours: u32| {
            let head = &shard.series.heads[ours];
            let sealed: usize = shard.series.sealed[ours].iter().map(Chunk::count).sum();
            let histograms = shard.histograms.get(ours).map_or(0, |series| {
                let held = series.count();
                held.open_rows + held.sealed_rows
            });
            (sealed + if head.is_open() { head.state.count() } else { 0 } + histograms) as u64
        };
        let mut text = Vec::new();
        for Extent { row, samples, span } in std::mem::take(&mut self.extents) {
            let Some(ours) = self.row(row) else { continue };
            let held = missing(ours);
            if held >= samples {
                continue;
            }
            let range = match shard.span(ours) {
                Some(left) if left.start > span.start => TimeRange::new(span.start, left.start - 1),
                Some(left) if left.end < span.end => TimeRange::new(left.end + 1, span.end),
                _ => span,
            };
            let series = db.labels_of(shard, ours, &mut text).to_string();
            let what = "samples of a checkpoint".to_owned();
            self.lost.push(of_checkpoint(Lost {
                series: Some(series),
                start: Some(range.start),
                end: Some(range.end),
                samples: Some(samples - held),
                ..unnamed(shard, what)
            }));
        }
        let rows = self.checkpoint_rows.unwrap_or(0);
        let known = self.rows.iter().take(rows as usize).filter(|&&row| row != LOST).count() as u64;
        let unknown = rows.saturating_sub(known);
        if unknown > 0 {
            self.lose(shard, format!("{unknown} series of a checkpoint, with their labels"));
        }
        if expected && !self.begun {
            self.lose(shard, "beginning and end of the shard in a checkpoint".to_owned());
        }
    }

    /// Something of a series that is not known by its times.
    fn lose_of(&mut self, reader: &Reader<'_>, shard: &Shard, row: u32, what: &str) {
        let labels = reader.db.labels_of(shard, row, &mut Vec::new()).to_string();
        self.lose(shard, format!("{what} of {labels}"));
    }

    fn lose(&mut self, shard: &Shard, what: String) {
        self.lost.push(of_checkpoint(unnamed(shard, what)));
    }
}

/// A loss of which neither series nor times are known. The cause is found out later.
fn unnamed(shard: &Shard, what: String) -> Lost {
    let shard = shard.number;
    Lost { shard, series: None, start: None, end: None, samples: None, what, cause: Cause::Unsynced }
}

fn of_checkpoint(lost: Lost) -> Loss {
    Loss { lost, from: Place::default(), to: Place::default() }
}

fn read_histogram_chunks(c: &mut Cursor<'_>) -> Result<Vec<HistogramChunk>> {
    (0..c.count()?).map(|_| HistogramChunk::from_bytes(read_bytes(c)?)).collect()
}

/// A chunk; the inner error is that its columns are lost.
fn read_chunk(
    columns: &ColumnsByNumber,
    shared: &SharedColumns,
    c: &mut Cursor<'_>,
) -> Result<Result<Chunk>> {
    let (column, bytes) = (c.varint()?, read_bytes(c)?);
    let column = match column {
        0 => None,
        number => match columns.get(&number) {
            Some(column) => Some(column.clone()),
            None => return Ok(Err(wrong("columns that are lost"))),
        },
    };
    Chunk::from_memory(bytes, column, shared).map(Ok)
}

/// The columns of a frame, interned: those that are in use already are the same.
pub fn load_columns(db: &Database, payload: &[u8], known: &mut ColumnsByNumber) -> Result<()> {
    let mut c = Cursor::new(payload);
    let (number, below) = (c.varint()?, c.varint()?);
    let bytes = c.rest().into();
    let shared = match below.checked_sub(1) {
        None => Shared::Times(bytes),
        Some(0) => Shared::Together(bytes, None),
        Some(times) => match known.get(&times) {
            Some(times) => Shared::Together(bytes, Some(times.clone())),
            None => return Err(wrong("columns whose times are lost")),
        },
    };
    known.insert(number, db.shared_columns.intern(shared));
    Ok(())
}

/// The buckets of a frame, likewise.
pub fn load_buckets(db: &Database, payload: &[u8], known: &mut ColumnsByNumber) -> Result<()> {
    let mut c = Cursor::new(payload);
    let number = c.varint()?;
    known.insert(number, db.shared_columns.intern(Shared::Buckets(c.rest().into())));
    Ok(())
}

fn rules_of(reader: &Reader<'_>, texts: Vec<RuleText>) -> Result<PrecisionRules> {
    PrecisionRules::new(read_rules(reader.selector, texts)?)
}

/// Rules from their texts. A selector that cannot be read any more chooses nothing: the marks say whose rule it was.
pub fn read_rules(selector: Selector, texts: Vec<RuleText>) -> Result<Vec<(String, Predicate, Policy)>> {
    let rule = |text: RuleText| {
        let nothing = || Predicate::Any(Vec::new());
        let predicate = match text.selector.is_empty() {
            true => nothing(),
            false => selector(&text.selector).unwrap_or_else(|_| nothing()),
        };
        let policy =
            Policy { precision: Precision::parse(&text.policy)?, counters_exact: text.counters_exact };
        Ok((text.selector, predicate, policy))
    };
    texts.into_iter().map(rule).collect()
}

fn wrong(message: &str) -> Error {
    Error::corruption("frame", 0, message)
}
