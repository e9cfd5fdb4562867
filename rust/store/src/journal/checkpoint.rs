//! A checkpoint: everything a database holds, in files of their own, so that the journal before it can go. Each shard
//! is locked while handles and open chunks are copied; chunks are written as they are in memory.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use metricsdb_model::{Error, Result, TimeRange};

use super::files::{Files, Sink};
use super::frame::{self, HEAD_BYTES, Head, Kind};
use super::record::{self, put_bytes, put_column};
use super::segment::{HEADER_BYTES, Header, Name};
use super::storage;
use crate::chunk::{Chunk, Shared};
use crate::codec::OpenState;
use crate::codec::cursor::{put_signed, put_varint};
use crate::database::Database;
use crate::histograms::HistogramSeries;
use crate::precision::PrecisionRules;
use crate::rollup::{Block, Packed, Step};
use crate::sealed::Sealed;
use crate::shard::{SHARDS, Shard};
use crate::starts::StartSeries;

/// A part that is as large ends with the shard; a reader holds one at a time.
const PART_BYTES: usize = if cfg!(test) { 2 << 10 } else { 64 << 20 };
/// Bytes that are written at once.
const WRITE_BYTES: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };
/// Rows whose labels are in one frame, and bytes after which a frame of chunks ends: what a bad one costs.
const LABEL_ROWS: usize = if cfg!(test) { 2 } else { 512 };
const FRAME_BYTES: usize = if cfg!(test) { 128 } else { 256 << 10 };

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub series: u64,
    pub bytes: u64,
    pub parts: u32,
}

/// One shard as it was while it was locked.
struct Copied {
    number: u8,
    seq: u64,
    rules: Arc<PrecisionRules>,
    marks: Vec<u8>,
    /// Symbols of all rows, one behind the other, and where each row's end.
    pairs: Vec<(u32, u32)>,
    pair_ends: Vec<usize>,
    sealed: Vec<Sealed>,
    /// States of open chunks, and where their bytes end in `open`; of closed ones nothing is added.
    heads: Vec<(OpenState, usize)>,
    open: Vec<u8>,
    histograms: Vec<(u32, HistogramSeries)>,
    starts: Vec<(u32, StartSeries)>,
    rollups: Vec<(u32, Arc<Packed>)>,
}

impl Copied {
    fn of(db: &Database, shard: &Shard) -> Copied {
        let rows = shard.series.len();
        let mut copied = Copied {
            number: shard.number,
            seq: shard.journal_seq,
            rules: shard.precision.clone(),
            marks: shard.series.precision.iter().copied().collect(),
            pairs: Vec::new(),
            pair_ends: Vec::with_capacity(rows),
            sealed: shard.series.sealed.iter().cloned().collect(),
            heads: Vec::with_capacity(rows),
            open: Vec::new(),
            histograms: shard.histograms.iter().map(|(r, s)| (r, s.capture(TimeRange::ALL))).collect(),
            starts: shard.starts.iter().map(|(row, series)| (row, series.clone())).collect(),
            rollups: shard.rollups.iter().map(|(row, series)| (row, series.clone())).collect(),
        };
        for head in shard.series.heads.iter() {
            let bytes = shard.open_bytes(head).get(..head.state.used_bytes()).unwrap_or(&[]);
            copied.open.extend_from_slice(bytes);
            copied.heads.push((head.state, copied.open.len()));
        }
        for (row, &handle) in (0u32..).zip(shard.series.labels.iter()) {
            // A row without a series has no pairs.
            if shard.series.has(row) {
                copied.pairs.extend(shard.label_sets.pairs(&db.shapes, handle));
            }
            copied.pair_ends.push(copied.pairs.len());
        }
        copied
    }

    fn len(&self) -> usize {
        self.sealed.len()
    }

    fn pairs(&self, row: usize) -> &[(u32, u32)] {
        let from = row.checked_sub(1).and_then(|before| self.pair_ends.get(before)).copied().unwrap_or(0);
        self.pair_ends.get(row).and_then(|&to| self.pairs.get(from..to)).unwrap_or(&[])
    }

    /// The open chunk of a row.
    fn open(&self, row: usize) -> Option<(&OpenState, &[u8])> {
        let (state, end) = self.heads.get(row).filter(|(state, _)| !state.is_empty())?;
        let from = row.checked_sub(1).and_then(|before| self.heads.get(before)).map_or(0, |head| head.1);
        Some((state, self.open.get(from..*end)?))
    }

    /// Samples and histograms of a row, and the times of the first and the last.
    fn extent(&self, row: usize, histograms: &HashMap<u32, &HistogramSeries>) -> (u64, i64, i64) {
        let (mut count, mut first, mut last) = (0, i64::MAX, i64::MIN);
        let mut add = |samples: usize, from: i64, to: i64| {
            count += samples as u64;
            (first, last) = (first.min(from), last.max(to));
        };
        for chunk in self.sealed.get(row).into_iter().flat_map(Sealed::iter) {
            add(chunk.count(), chunk.first(), chunk.last());
        }
        if let Some((state, bytes)) = self.open(row) {
            add(state.count(), state.first_time(bytes).unwrap_or(0), state.last_time());
        }
        if let Some(series) = histograms.get(&(row as u32)) {
            let held = series.count();
            let held = held.open_rows + held.sealed_rows;
            series.span().into_iter().for_each(|span| add(held, span.start, span.end));
        }
        (count, first, last)
    }
}

/// Writes the parts of one checkpoint, one after the other.
struct Parts<'a> {
    files: &'a Arc<dyn Files>,
    header: Header,
    number: u64,
    part: u32,
    sink: Option<Box<dyn Sink>>,
    buffer: Vec<u8>,
    part_bytes: usize,
    bytes: u64,
    /// Columns that were written already, by their address; held, so that no other gets it.
    columns: HashMap<usize, (u64, Arc<Shared>)>,
    /// Shards that have anything.
    present: Vec<u8>,
}

impl Parts<'_> {
    fn frame(&mut self, kind: Kind, shard: u8, seq: u64, payload: &[u8]) -> io::Result<()> {
        let head = Head { kind, shard, seq };
        frame::put(&mut self.buffer, self.header.salt, head, |out| out.extend_from_slice(payload));
        self.part_bytes += HEAD_BYTES + payload.len();
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => {
                let mut sink = self.files.create(&Name::Part(self.number, self.part).to_string())?;
                sink.write(&self.header.to_bytes())?;
                self.bytes += HEADER_BYTES as u64;
                self.part += 1;
                self.sink.insert(sink)
            }
        };
        sink.write(&self.buffer)?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends a part; its bytes are safe then.
    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.part_bytes = 0;
        self.sink.take().map_or(Ok(()), |mut sink| sink.sync())
    }

    /// The number by which a chunk names its columns: 0 for none.
    fn column(&mut self, shared: Option<Arc<Shared>>) -> io::Result<u64> {
        let Some(shared) = shared else { return Ok(0) };
        let address = Arc::as_ptr(&shared) as usize;
        if let Some((known, _)) = self.columns.get(&address) {
            return Ok(*known);
        }
        let (kind, bytes, times) = match &*shared {
            Shared::Times(bytes) => (Kind::Columns, bytes, None),
            Shared::Together(bytes, times) => (Kind::Columns, bytes, Some(times.clone())),
            Shared::Buckets(bytes) => (Kind::Buckets, bytes, None),
        };
        let below = match &times {
            Some(times) => self.column(times.clone())? + 1,
            None => 0,
        };
        let number = self.columns.len() as u64 + 1;
        let mut payload = Vec::with_capacity(bytes.len() + 20);
        put_varint(&mut payload, number);
        if kind == Kind::Columns {
            put_varint(&mut payload, below);
        }
        payload.extend_from_slice(bytes);
        self.columns.insert(address, (number, shared));
        self.frame(kind, 0, 0, &payload)?;
        Ok(number)
    }

    fn chunk(&mut self, chunk: &Chunk, out: &mut Vec<u8>) -> io::Result<()> {
        let column = self.column(chunk.shared())?;
        put_varint(out, column);
        put_bytes(out, chunk.memory_bytes());
        Ok(())
    }

    /// As a chunk: its columns' number, and its bytes.
    fn block(&mut self, block: &Block, out: &mut Vec<u8>) -> io::Result<()> {
        let (buckets, bytes) = block.parts();
        let column = self.column(buckets)?;
        put_varint(out, column);
        put_bytes(out, bytes);
        Ok(())
    }

    fn shard(&mut self, db: &Database, copied: &Copied) -> io::Result<()> {
        if copied.len() == 0 && copied.seq == 0 && copied.rules.is_empty() {
            return Ok(());
        }
        self.present.push(copied.number);
        let mut payload = Vec::new();
        record::put_rules(&mut payload, copied.rules.texts(), copied.marks.iter().copied());
        self.frame(Kind::Begin, copied.number, copied.seq, &payload)?;
        let histograms = copied.histograms.iter().map(|(row, series)| (*row, series)).collect();
        for from in (0..copied.len()).step_by(LABEL_ROWS) {
            let rows = from..copied.len().min(from + LABEL_ROWS);
            self.frame(Kind::Rows, copied.number, copied.seq, &labels(db, copied, rows, &histograms))?;
        }
        self.sealed(copied)?;
        self.open(copied)?;
        self.starts(copied)?;
        self.histograms(copied)?;
        self.rollups(copied)?;
        payload.clear();
        put_varint(&mut payload, copied.len() as u64);
        self.frame(Kind::End, copied.number, copied.seq, &payload)?;
        if self.part_bytes >= PART_BYTES { self.end() } else { Ok(()) }
    }

    /// Writes a frame of what `write` appends a thing, and another whenever one is long enough.
    fn pieces<T>(
        &mut self,
        copied: &Copied,
        kind: Kind,
        things: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, T, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut payload = Vec::new();
        for thing in things {
            write(self, thing, &mut payload)?;
            if payload.len() >= FRAME_BYTES {
                self.frame(kind, copied.number, copied.seq, &payload)?;
                payload.clear();
            }
        }
        if payload.is_empty() { Ok(()) } else { self.frame(kind, copied.number, copied.seq, &payload) }
    }

    fn sealed(&mut self, copied: &Copied) -> io::Result<()> {
        let rows = copied.sealed.iter().enumerate().filter(|(_, sealed)| !sealed.is_empty());
        self.pieces(copied, Kind::Chunks, rows, |parts, (row, sealed), out| {
            put_varint(out, row as u64);
            put_varint(out, sealed.iter().count() as u64);
            sealed.iter().try_for_each(|chunk| parts.chunk(chunk, out))
        })
    }

    fn open(&mut self, copied: &Copied) -> io::Result<()> {
        let rows = (0..copied.len()).filter_map(|row| Some((row, copied.open(row)?)));
        self.pieces(copied, Kind::Open, rows, |_, (row, (state, bytes)), out| {
            put_varint(out, row as u64);
            state.save(out);
            put_bytes(out, bytes);
            Ok(())
        })
    }

    fn starts(&mut self, copied: &Copied) -> io::Result<()> {
        self.pieces(copied, Kind::Starts, copied.starts.iter(), |parts, (row, series), out| {
            let (sealed, steps) = series.parts();
            put_varint(out, u64::from(*row));
            put_varint(out, sealed.len() as u64);
            sealed.iter().try_for_each(|chunk| parts.chunk(chunk, out))?;
            put_varint(out, steps.len() as u64);
            put_column(out, steps.iter().map(|step| step.0));
            put_column(out, steps.iter().map(|step| step.1));
            Ok(())
        })
    }

    fn rollups(&mut self, copied: &Copied) -> io::Result<()> {
        self.pieces(copied, Kind::Rollups, copied.rollups.iter(), |parts, (row, series), out| {
            // The policy, as a step of it is noted in the journal.
            let (mut policy, step) = (Vec::new(), Step::forced(series, i64::MIN));
            record::put_roll(&mut policy, &step, &[(*row, series.kind())]);
            let series = series.unpack();
            put_varint(out, u64::from(*row));
            put_signed(out, series.raw_from);
            put_bytes(out, &policy);
            put_varint(out, series.dirty.len() as u64);
            put_column(out, series.dirty.iter().copied());
            put_varint(out, series.levels.len() as u64);
            for level in &series.levels {
                put_signed(out, level.every);
                put_signed(out, level.until);
                put_signed(out, level.floor);
                put_varint(out, level.blocks.len() as u64);
                level.blocks.iter().try_for_each(|block| parts.block(block, out))?;
                let native = level.native.as_deref().map(|n| [n.points.sealed(), n.sums.sealed()]);
                out.push(u8::from(native.is_some()));
                for chunks in native.into_iter().flatten() {
                    put_varint(out, chunks.len() as u64);
                    chunks.iter().for_each(|chunk| put_bytes(out, chunk.to_bytes()));
                }
            }
            put_varint(out, series.kept.len() as u64);
            series.kept.iter().try_for_each(|chunk| parts.chunk(chunk, out))
        })
    }

    fn histograms(&mut self, copied: &Copied) -> io::Result<()> {
        let rows = copied.histograms.iter();
        self.pieces(copied, Kind::SealedHistograms, rows, |_, (row, series), out| {
            put_varint(out, u64::from(*row));
            put_varint(out, series.sealed().len() as u64);
            series.sealed().iter().for_each(|chunk| put_bytes(out, chunk.to_bytes()));
            let (times, open) = series.open();
            let points = times.iter().zip(open);
            let mut open = Vec::new();
            let entry = |(&time, histogram)| record::HistogramEntry { row: *row, time, start: 0, histogram };
            record::put_histograms(&mut open, points.map(entry));
            put_bytes(out, &open);
            Ok(())
        })
    }
}

/// Labels of rows, each text once; and what each row holds, so that a reader can tell what is missing.
fn labels(
    db: &Database,
    copied: &Copied,
    rows: std::ops::Range<usize>,
    histograms: &HashMap<u32, &HistogramSeries>,
) -> Vec<u8> {
    let (mut texts, mut known, mut ids) = (Vec::new(), HashMap::new(), Vec::new());
    for row in rows.clone() {
        let pairs = copied.pairs(row);
        put_varint(&mut ids, pairs.len() as u64);
        for symbol in pairs.iter().flat_map(|&(name, value)| [name, value]) {
            let next = known.len() as u64;
            let id = *known.entry(symbol).or_insert_with(|| {
                put_bytes(&mut texts, db.symbols.get(symbol).as_bytes());
                next
            });
            put_varint(&mut ids, id);
        }
    }
    let mut out = Vec::with_capacity(texts.len() + ids.len());
    put_varint(&mut out, rows.start as u64);
    put_varint(&mut out, rows.len() as u64);
    put_varint(&mut out, known.len() as u64);
    out.extend_from_slice(&texts);
    out.extend_from_slice(&ids);
    put_column(&mut out, rows.clone().map(|row| i64::from(copied.marks.get(row).copied().unwrap_or(0))));
    for row in rows {
        let (count, first, last) = copied.extent(row, histograms);
        put_varint(&mut out, count);
        if count > 0 {
            put_signed(&mut out, first);
            put_signed(&mut out, last.wrapping_sub(first));
        }
    }
    out
}

impl Database {
    /// Writes a checkpoint and lets the journal before it go. Writers go on meanwhile. One at a time. Errors:
    /// `Storage`; what was there stands then, and the next one tries again.
    pub fn checkpoint(&self) -> Result<Saved> {
        let Some(journal) = self.journal() else {
            let message = "a database without a directory has no checkpoints";
            return Err(Error::input("checkpoint", "", message, "write a snapshot"));
        };
        self.replayed()?;
        let mut newest = journal.checkpoint.lock();
        let files = journal.writer.files();
        let failed = |error: io::Error| storage(files, &Name::Checkpoint(*newest + 1), &error);
        let first = journal.writer.roll().map_err(failed)?;
        // A number is never used again: a list may stand although it could not be said to be safe.
        *newest += 1;
        let number = *newest;
        let (saved, awaiting) = self.write_checkpoint(files, journal.writer.salt, number, first)?;
        self.reuse_rows(&awaiting);
        journal.writer.checkpointed(saved.bytes);
        clean(files, number, first);
        Ok(saved)
    }

    /// Writes everything into another directory, which must be empty; it can be opened as a database. Writers go on
    /// meanwhile, and each shard is as it was at one moment. `salt` as in `Opening`. Errors: `Storage`, `Input`.
    pub fn snapshot(&self, files: &Arc<dyn Files>, salt: u32) -> Result<Saved> {
        self.replayed()?;
        let names = files.list().map_err(|e| storage(files, &"", &e))?;
        if names.iter().any(|name| Name::parse(name).is_some()) {
            let why = "there is a database already";
            return Err(Error::input("snapshot", &files.place(), why, "give an empty directory"));
        }
        Ok(self.write_checkpoint(files, salt, 1, 1)?.0)
    }

    /// Returns when all is there that a checkpoint is to hold. Errors: `Input`.
    fn replayed(&self) -> Result<()> {
        let why = "the database was closed before its journal was replayed";
        let never = || Error::input("checkpoint", "", why, "open the database again");
        self.await_replay().then_some(()).ok_or_else(never)
    }

    /// `first`: the segment from which on the journal goes on.
    /// Also says how many rows of each shard waited for a checkpoint without their series.
    fn write_checkpoint(
        &self,
        files: &Arc<dyn Files>,
        salt: u32,
        number: u64,
        first: u64,
    ) -> Result<(Saved, Vec<usize>)> {
        let header = Header { salt, duplicates: self.rules.duplicates, number, parts: 0 };
        let mut parts = Parts {
            files,
            header,
            number,
            part: 0,
            sink: None,
            buffer: Vec::new(),
            part_bytes: 0,
            bytes: 0,
            columns: HashMap::new(),
            present: Vec::new(),
        };
        let mut listed = false;
        let written = self.write_parts(&mut parts).and_then(|(saved, awaiting)| {
            let list = Header { number: first, parts: saved.parts, ..header };
            let (new, name) = (format!("checkpoint-{number}.new"), Name::Checkpoint(number).to_string());
            let mut sink = files.create(&new)?;
            sink.write(&list.to_bytes())?;
            sink.sync()?;
            // The parts' names before the list's, which says that they are there.
            files.sync_dir()?;
            listed = true;
            files.rename(&new, &name)?;
            files.sync_dir()?;
            Ok((saved, awaiting))
        });
        written.map_err(|error| {
            if !listed {
                let names = (0..=parts.part).map(|part| Name::Part(number, part).to_string());
                names.chain([format!("checkpoint-{number}.new")]).for_each(|name| drop(files.remove(&name)));
            }
            storage(files, &Name::Checkpoint(number), &error)
        })
    }

    fn write_parts(&self, parts: &mut Parts<'_>) -> io::Result<(Saved, Vec<usize>)> {
        let _inside = self.inside();
        let mut payload = Vec::new();
        let seq = {
            let order = self.journal().map(|journal| journal.metadata_seq.lock());
            record::put_metadata(&mut payload, self.metadata(None).iter());
            order.map_or(0, |seq| *seq)
        };
        parts.frame(Kind::Families, 0, seq, &payload)?;
        let mut series = 0;
        let mut awaiting = Vec::with_capacity(SHARDS);
        for number in 0..SHARDS {
            let copied = {
                let shard = self.shard(number);
                awaiting.push(shard.graves.awaiting.len());
                Copied::of(self, &shard)
            };
            series += (0..copied.len()).filter(|&row| !copied.pairs(row).is_empty()).count() as u64;
            parts.shard(self, &copied)?;
        }
        let present = std::mem::take(&mut parts.present);
        parts.frame(Kind::Whole, 0, 0, &present)?;
        parts.end()?;
        Ok((Saved { series, bytes: parts.bytes, parts: parts.part }, awaiting))
    }

    /// Lets other series have rows that a checkpoint has without one: the first so many of each shard that waited
    /// for it.
    fn reuse_rows(&self, awaiting: &[usize]) {
        for (number, &count) in awaiting.iter().enumerate() {
            let shard = &mut *self.shard(number);
            shard.graves.awaiting.drain(..count).for_each(|row| shard.series.reuse(row));
        }
    }
}

/// Removes what a checkpoint has made superfluous. What can't be removed now is at the next one.
pub(super) fn clean(files: &Arc<dyn Files>, checkpoint: u64, first: u64) {
    let superfluous = |text: &String| match Name::parse(text) {
        Some(Name::Segment(n)) => n < first,
        Some(Name::Checkpoint(n) | Name::Part(n, _)) => n != checkpoint,
        None => text.starts_with("checkpoint-") && text.ends_with(".new"),
    };
    let mut names: Vec<String> = files.list().unwrap_or_default().into_iter().filter(superfluous).collect();
    // A list goes before its parts: it says that they are there.
    names.sort_by_key(|text| (text.len(), text.clone()));
    names.iter().for_each(|name| drop(files.remove(name)));
}
