//! The way back of one shard: frames of a checkpoint, then those of the journal, in the order of its stream. What does
//! not fit is noted and passed over.

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::{
    Error, LabelsBuilder, LabelsRef, Policy, Precision, Predicate, Result, TimeRange, ValueKind, WriteReport,
};

use super::frame::{Frame, Kind};
use super::record::{self, read_bytes, read_column, read_row};
use super::recover::Lost;
use crate::chunk::{Chunk, Shared, SharedColumns};
use crate::codec::OpenState;
use crate::codec::cursor::Cursor;
use crate::codec::histogram::HistogramChunk;
use crate::codec::open::STATE_BYTES;
use crate::database::Database;
use crate::histograms::{HistogramSeries, Target};
use crate::precision::{PrecisionRules, RuleText};
use crate::resolve::Interned;
use crate::series::{Head, ROWS_MAX};
use crate::shard::{Rules, Shard, Staged, Work, id_of};
use crate::slab::CLASSES;

/// A row of the writer whose labels are lost.
pub const LOST: u32 = u32::MAX;

/// Columns of a checkpoint by their number.
pub type ColumnsByNumber = HashMap<u64, Arc<Shared>>;

/// What all shards are read with.
pub struct Reader<'a> {
    pub db: &'a Database,
    pub rules: Rules,
    pub columns: &'a ColumnsByNumber,
    /// Reads a selector, as users write them.
    pub selector: &'a (dyn Fn(&str) -> Result<Predicate> + Sync),
}

/// What a checkpoint says that a row holds.
#[derive(Clone, Copy)]
struct Extent {
    row: u32,
    samples: u64,
    span: TimeRange,
}

/// A stream on its way back, and what was missing in it.
#[derive(Default)]
pub struct Stream {
    /// The last record that was applied.
    pub seq: u64,
    /// Our row of each of the writer's.
    rows: Vec<u32>,
    extents: Vec<Extent>,
    begun: bool,
    /// How many rows the checkpoint has.
    checkpoint_rows: Option<u64>,
    /// The newest time of the last record of samples.
    newest: Option<i64>,
    /// Records before `seq` that never came, behind this time.
    gap: Option<(u64, Option<i64>)>,
    /// Records that never came, and whose samples are in `lost` one by one.
    told: Vec<u64>,
    pub lost: Vec<Lost>,
    pub samples: u64,
    pub frames: u64,
    work: Work,
    staged: Vec<Staged>,
    starts: Vec<i64>,
    interned: Interned,
    builder: LabelsBuilder,
}

impl Stream {
    /// Whether each of the writer's rows is ours of the same number.
    pub fn keeps_rows(&self) -> bool {
        self.rows.iter().enumerate().all(|(theirs, &ours)| theirs as u32 == ours)
    }

    fn row(&self, theirs: u32) -> Option<u32> {
        self.rows.get(theirs as usize).copied().filter(|&row| row != LOST)
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

    /// Takes a frame of a checkpoint. Errors: `Corruption`, where the frame is not what it should be.
    pub fn load(&mut self, reader: &Reader<'_>, shard: &mut Shard, frame: Frame<'_>) -> Result<()> {
        let mut c = Cursor::new(frame.payload);
        self.frames += 1;
        self.seq = self.seq.max(frame.head.seq);
        match frame.head.kind {
            Kind::Begin => {
                let (rules, marks) = record::read_rules(frame.payload)?;
                shard.precision = Arc::new(rules_of(reader, rules)?);
                self.begun = true;
                self.checkpoint_rows = Some(marks.len() as u64);
            }
            Kind::Rows => self.load_rows(reader, shard, &mut c)?,
            Kind::Chunks => {
                while !c.is_empty() {
                    self.load_chunks(reader, shard, &mut c)?;
                }
            }
            Kind::Open => {
                while !c.is_empty() {
                    self.load_open(shard, &mut c)?;
                }
            }
            Kind::Starts => {
                while !c.is_empty() {
                    self.load_starts(reader, shard, &mut c)?;
                }
            }
            Kind::SealedHistograms => {
                while !c.is_empty() {
                    self.load_histograms(reader, shard, &mut c)?;
                }
            }
            Kind::End => {
                self.begun = true;
                self.checkpoint_rows = Some(c.varint()?);
            }
            _ => return Err(wrong("a frame that is no part of a checkpoint")),
        }
        Ok(())
    }

    fn load_rows(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (first, count) = (read_row(c)?, c.count()?);
        let mut texts = Vec::new();
        for _ in 0..c.count()? {
            let text = std::str::from_utf8(read_bytes(c)?).map_err(|_| wrong("a label that is not UTF-8"))?;
            texts.push((reader.db.symbols.intern(text)?, text));
        }
        let (mut pairs, mut canonical) = (Vec::new(), Vec::new());
        for theirs in first..first.saturating_add(count as u32) {
            pairs.clear();
            canonical.clear();
            for _ in 0..c.count()? {
                let mut next = || -> Result<u32> {
                    let Some(&(symbol, text)) = texts.get(c.varint()? as usize) else {
                        return Err(wrong("no such text"));
                    };
                    canonical.extend_from_slice(text.as_bytes());
                    canonical.push(0xff);
                    Ok(symbol)
                };
                pairs.push((next()?, next()?));
            }
            let ours = find_or_make(reader.db, shard, LabelsRef::from_canonical(&canonical), &pairs, 0)?;
            self.place(theirs, ours)?;
        }
        let mut marks = Vec::new();
        read_column(c, count, &mut marks)?;
        for (theirs, mark) in (first..).zip(marks) {
            if let Some(row) = self.row(theirs) {
                shard.series.precision[row] = mark as u8;
            }
            let samples = c.varint()?;
            if samples > 0 {
                let (start, length) = (c.signed()?, c.signed()?);
                let span = TimeRange::new(start, start.wrapping_add(length));
                self.extents.push(Extent { row: theirs, samples, span });
            }
        }
        Ok(())
    }

    fn load_chunks(&mut self, reader: &Reader<'_>, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
        let (theirs, count) = (read_row(c)?, c.count()?);
        let mut newest = i64::MIN;
        for i in 0..count {
            // One whose column is lost takes no neighbour with it.
            let Ok(chunk) = read_chunk(reader.columns, &reader.db.shared_columns, c)? else { continue };
            let Some(row) = self.row(theirs) else { continue };
            if i > 0 && chunk.first() <= newest {
                return Err(wrong("chunks overlap"));
            }
            newest = chunk.last();
            self.samples += chunk.count() as u64;
            shard.sealed_count.add(&chunk);
            shard.series.sealed[row].push(chunk);
        }
        Ok(())
    }

    fn load_open(&mut self, shard: &mut Shard, c: &mut Cursor<'_>) -> Result<()> {
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
        shard.series.heads[row] = Head { state, slab, class };
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
        let count = c.count()?;
        let (mut froms, mut rules) = (Vec::new(), Vec::new());
        read_column(c, count, &mut froms)?;
        read_column(c, count, &mut rules)?;
        let steps: Vec<(i64, i64)> = froms.into_iter().zip(rules).collect();
        if let Some(row) = self.row(theirs).filter(|_| whole) {
            shard.starts.restore(row, sealed, &steps);
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
    pub fn loaded(&mut self, db: &Database, shard: &Shard, expected: bool) {
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
            self.lost.push(Lost {
                shard: shard.number,
                series: Some(db.labels_of(shard, ours, &mut text).to_string()),
                start: Some(range.start),
                end: Some(range.end),
                samples: Some(samples - held),
                what: "samples of a checkpoint".to_owned(),
            });
        }
        let known = self.rows.iter().filter(|&&row| row != LOST).count() as u64;
        let unknown = self.checkpoint_rows.map_or(0, |rows| rows.saturating_sub(known));
        if unknown > 0 {
            self.lose(shard, format!("{unknown} series of a checkpoint, with their labels"));
        }
        if expected && !self.begun {
            self.lose(shard, "beginning and end of the shard in a checkpoint".to_owned());
        }
    }

    fn lose(&mut self, shard: &Shard, what: String) {
        self.lost.push(Lost {
            shard: shard.number,
            series: None,
            start: None,
            end: None,
            samples: None,
            what,
        });
    }

    /// Takes a frame of the journal: once, and in its order. Errors: `Corruption`.
    pub fn replay(&mut self, reader: &Reader<'_>, shard: &mut Shard, frame: Frame<'_>) -> Result<()> {
        let seq = frame.head.seq;
        if seq <= self.seq {
            return Ok(());
        }
        if seq > self.seq + 1 {
            let told = self.told.iter().filter(|&&told| told > self.seq && told < seq).count() as u64;
            let (before, since) = self.gap.unwrap_or((0, self.newest));
            self.gap = Some((before + seq - self.seq - 1 - told, since)).filter(|gap| gap.0 > 0);
        }
        self.seq = seq;
        self.frames += 1;
        match frame.head.kind {
            Kind::Samples => self.replay_samples(reader, shard, frame.payload),
            Kind::Series => self.replay_series(reader, shard, frame.payload),
            Kind::Histograms => self.replay_histograms(reader, shard, frame.payload),
            Kind::Rules => {
                let (rules, marks) = record::read_rules(frame.payload)?;
                shard.precision = Arc::new(rules_of(reader, rules)?);
                self.mark(shard, (0..).zip(marks));
                Ok(())
            }
            Kind::Marks => {
                let marks = record::read_marks(frame.payload)?;
                self.mark(shard, marks.into_iter());
                Ok(())
            }
            Kind::Rewrite => {
                let Some(row) = self.row(read_row(&mut Cursor::new(frame.payload))?) else { return Ok(()) };
                shard.rewrite(row, &reader.rules, &mut self.work, &mut Default::default())
            }
            _ => Err(wrong("a frame that is no part of a journal")),
        }
    }

    fn mark(&self, shard: &mut Shard, marks: impl Iterator<Item = (u32, u8)>) {
        for (theirs, mark) in marks {
            if let Some(row) = self.row(theirs) {
                shard.series.precision[row] = mark;
            }
        }
    }

    fn replay_series(&mut self, reader: &Reader<'_>, shard: &mut Shard, payload: &[u8]) -> Result<()> {
        let (theirs, mark, bytes) = record::read_series(payload)?;
        self.builder.clear();
        for (name, value) in LabelsRef::from_canonical(bytes).iter() {
            self.builder.push(name, value);
        }
        let labels = self.builder.canonical().map_err(|e| wrong(&e.to_string()))?;
        if labels.canonical() != bytes {
            return Err(wrong("labels that are not in canonical form"));
        }
        let pairs = self.interned.intern(labels, &reader.db.symbols).map_err(|r| wrong(&r.message))?;
        let ours = find_or_make(reader.db, shard, labels, pairs, mark)?;
        self.place(theirs, ours)
    }

    fn replay_samples(&mut self, reader: &Reader<'_>, shard: &mut Shard, payload: &[u8]) -> Result<()> {
        let (mut staged, mut starts) = (std::mem::take(&mut self.staged), std::mem::take(&mut self.starts));
        staged.clear();
        starts.clear();
        let kind = record::read_samples(payload, &mut staged, &mut starts)?;
        let times = staged.iter().map(|s| s.time);
        self.bridge(shard, times.clone().min());
        self.newest = times.max();
        let mut orphans = HashMap::<u32, (u64, TimeRange)>::new();
        for s in &mut staged {
            match self.row(s.row) {
                Some(row) => s.row = row,
                None => {
                    let (count, span) = orphans.entry(s.row).or_insert((0, TimeRange::new(s.time, s.time)));
                    *count += 1;
                    *span = TimeRange::new(span.start.min(s.time), span.end.max(s.time));
                    s.row = LOST;
                }
            }
        }
        if !orphans.is_empty() {
            let keep: Vec<bool> = staged.iter().map(|s| s.row != LOST).collect();
            let mut kept = keep.iter();
            starts.retain(|_| kept.next() == Some(&true));
            staged.retain(|s| s.row != LOST);
            self.orphaned(shard, orphans);
        }
        self.append(reader, shard, kind, &staged, &starts)?;
        (self.staged, self.starts) = (staged, starts);
        Ok(())
    }

    fn append(
        &mut self,
        reader: &Reader<'_>,
        shard: &mut Shard,
        kind: ValueKind,
        staged: &[Staged],
        starts: &[i64],
    ) -> Result<()> {
        let mut report = WriteReport::default();
        shard.append(staged, starts, kind, &reader.rules, &mut self.work, &mut report)?;
        self.samples += report.accepted;
        Ok(())
    }

    /// Says what was in a record of samples whose values are bad, if the rest of it is right. Called behind all frames
    /// of its file, so it names rows by what they are then: a row never changes.
    pub fn outline(&mut self, reader: &Reader<'_>, shard: &Shard, payload: &[u8]) {
        let mut spans = HashMap::<u32, (u64, TimeRange)>::new();
        for (row, time) in record::read_outline(payload).unwrap_or_default() {
            let span = spans.entry(row as u32).or_insert((0, TimeRange::new(time, time)));
            *span = (span.0 + 1, TimeRange::new(span.1.start.min(time), span.1.end.max(time)));
        }
        let mut text = Vec::new();
        for (theirs, (samples, span)) in spans {
            let series = self.row(theirs).map(|row| reader.db.labels_of(shard, row, &mut text).to_string());
            self.lost.push(Lost {
                shard: shard.number,
                series,
                start: Some(span.start),
                end: Some(span.end),
                samples: Some(samples),
                what: "samples of the journal".to_owned(),
            });
        }
    }

    /// Whether `outline` will say what was in a record.
    pub fn tell(&mut self, frame: Frame<'_>) -> bool {
        let tells = frame.head.kind == Kind::Samples && record::read_outline(frame.payload).is_ok();
        if tells {
            self.told.push(frame.head.seq);
        }
        tells
    }

    /// Samples whose series' labels are lost.
    fn orphaned(&mut self, shard: &Shard, orphans: HashMap<u32, (u64, TimeRange)>) {
        for (row, (count, span)) in orphans {
            let what = format!("samples of row {row}, whose labels are lost");
            match self.lost.iter_mut().find(|lost| lost.what == what) {
                Some(known) => {
                    known.start = known.start.map(|start| start.min(span.start));
                    known.end = known.end.map(|end| end.max(span.end));
                    known.samples = known.samples.map(|samples| samples + count);
                }
                None => self.lost.push(Lost {
                    shard: shard.number,
                    series: None,
                    start: Some(span.start),
                    end: Some(span.end),
                    samples: Some(count),
                    what,
                }),
            }
        }
    }

    fn replay_histograms(&mut self, reader: &Reader<'_>, shard: &mut Shard, payload: &[u8]) -> Result<()> {
        let mut points = Vec::new();
        record::read_histograms(payload, |row, time, start, histogram| {
            points.push((row, time, start, histogram));
        })?;
        self.bridge(shard, points.iter().map(|p| p.1).min());
        for of_row in points.chunk_by(|a, b| a.0 == b.0) {
            let Some(row) = of_row.first().and_then(|p| self.row(p.0)) else { continue };
            let target = Target { id: id_of(shard.number, row), duplicates: reader.rules.duplicates };
            let points = of_row.iter().map(|(_, time, start, histogram)| (*time, *start, histogram));
            let mut report = WriteReport::default();
            reader.db.appended_histograms.add(of_row.iter().map(|p| &p.3));
            shard.append_histograms(row, points, target, &mut report)?;
            self.samples += report.accepted;
        }
        Ok(())
    }

    /// Says between which times the records lie that a gap swallowed.
    fn bridge(&mut self, shard: &Shard, oldest: Option<i64>) {
        let Some((records, since)) = self.gap.take() else { return };
        self.lost.push(Lost {
            shard: shard.number,
            series: None,
            start: since,
            end: oldest,
            samples: None,
            what: format!("{records} records of the journal"),
        });
    }

    /// Called when the last frame was applied.
    pub fn finish(&mut self, shard: &mut Shard) {
        self.bridge(shard, None);
        shard.journal_seq = self.seq;
    }
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

fn find_or_make(
    db: &Database,
    shard: &mut Shard,
    labels: LabelsRef<'_>,
    pairs: &[(u32, u32)],
    mark: u8,
) -> Result<u32> {
    let hash = labels.hash64();
    if (hash >> 56) as u8 != shard.number {
        return Err(wrong("a series of another shard"));
    }
    let same = |handle| shard.label_sets.pairs(&db.shapes, handle).eq(pairs.iter().copied());
    if let Some(row) = shard.series.find(hash, same) {
        return Ok(row);
    }
    if shard.series.len() >= ROWS_MAX {
        return Err(wrong("more series than a shard holds"));
    }
    db.make(shard, hash, pairs, mark)
}

fn rules_of(reader: &Reader<'_>, texts: Vec<RuleText>) -> Result<PrecisionRules> {
    PrecisionRules::new(read_rules(reader.selector, texts)?)
}

/// Rules from their texts. A selector that cannot be read any more chooses nothing: the marks say whose rule it was.
pub fn read_rules(
    selector: &dyn Fn(&str) -> Result<Predicate>,
    texts: Vec<RuleText>,
) -> Result<Vec<(String, Predicate, Policy)>> {
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
