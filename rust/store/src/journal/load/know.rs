//! The series of a shard: which there are, in which rows, and by which rules new ones are marked. Read ahead of everything else,
//! so that what is written meanwhile finds its series.

use std::sync::Arc;

use metricsdb_model::{LabelsRef, Result, TimeRange};

use super::{Extent, GONE, Reader, Stream, rules_of, wrong};
use crate::codec::cursor::Cursor;
use crate::database::Database;
use crate::journal::frame::{Frame, Kind};
use crate::journal::record::{self, read_bytes, read_column, read_row};
use crate::resolve::Refusal;
use crate::shard::Shard;

impl Stream {
    /// Whether `know` is to see a frame of this kind.
    pub fn wants(kind: Kind) -> bool {
        matches!(kind, Kind::Begin | Kind::Rows | Kind::End | Kind::Series | Kind::Gone | Kind::Rules)
    }

    /// Takes a frame that says which series there are: once, those of the checkpoint first. Errors: `Corruption`.
    pub fn know(&mut self, reader: &Reader<'_>, shard: &mut Shard, frame: Frame<'_>) -> Result<()> {
        let mut c = Cursor::new(frame.payload);
        let seq = frame.head.seq;
        match frame.head.kind {
            Kind::Begin => {
                let (rules, marks) = record::read_rules(frame.payload)?;
                shard.precision = Arc::new(rules_of(reader, rules)?);
                self.rules = shard.precision.clone();
                self.begun = true;
                self.checkpoint_rows = Some(marks.len() as u64);
            }
            Kind::Rows => self.load_rows(reader, shard, &mut c)?,
            Kind::End => {
                self.begun = true;
                self.checkpoint_rows = Some(c.varint()?);
            }
            _ if seq <= self.known => return Ok(()),
            Kind::Series => self.make_series(reader, shard, frame.payload)?,
            Kind::Gone => self.bury_series(reader, shard, frame.payload)?,
            _ => shard.precision = Arc::new(rules_of(reader, record::read_rules(frame.payload)?.0)?),
        }
        self.known = self.known.max(seq);
        Ok(())
    }

    /// Whether the row's series is gone by the end of the journal.
    pub(super) fn is_gone(&self, theirs: u32) -> bool {
        self.rows.get(theirs as usize) == Some(&GONE)
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
            if pairs.is_empty() {
                if theirs as usize == shard.series.len() {
                    shard.series.push_gone();
                }
                self.place(theirs, GONE)?;
                continue;
            }
            let labels = LabelsRef::from_canonical(&canonical);
            let ours = find_or_make(reader.db, shard, labels, &pairs, 0, theirs)?;
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

    fn make_series(&mut self, reader: &Reader<'_>, shard: &mut Shard, payload: &[u8]) -> Result<()> {
        let (theirs, mark, bytes) = record::read_series(payload)?;
        self.builder.clear();
        for (name, value) in LabelsRef::from_canonical(bytes).iter() {
            self.builder.push(name, value);
        }
        let labels = self.builder.canonical().map_err(|e| wrong(&e.to_string()))?;
        if labels.canonical() != bytes {
            return Err(wrong("labels that are not in canonical form"));
        }
        let pairs = self.interned.intern(labels, &reader.db.symbols).map_err(Refusal::into_error)?;
        let ours = find_or_make(reader.db, shard, labels, pairs, mark, theirs)?;
        self.place(theirs, ours)
    }

    /// What is left of the series goes with them: the writer had dropped it.
    fn bury_series(&mut self, reader: &Reader<'_>, shard: &mut Shard, payload: &[u8]) -> Result<()> {
        let theirs = record::read_rows(payload)?;
        let ours: Vec<u32> = theirs.iter().filter_map(|&row| self.row(row)).collect();
        reader.db.bury_rows(shard, &ours)?;
        ours.iter().for_each(|&row| shard.release(&reader.db.shapes, row, true));
        theirs.into_iter().try_for_each(|row| self.place(row, GONE))
    }
}

fn find_or_make(
    db: &Database,
    shard: &mut Shard,
    labels: LabelsRef<'_>,
    pairs: &[(u32, u32)],
    mark: u8,
    theirs: u32,
) -> Result<u32> {
    let hash = labels.hash64();
    if (hash >> 56) as u8 != shard.number {
        return Err(wrong("a series of another shard"));
    }
    let same = |handle| shard.label_sets.pairs(&db.shapes, handle).eq(pairs.iter().copied());
    if let Some(row) = shard.series.find(hash, same) {
        return Ok(row);
    }
    db.make(shard, hash, pairs, mark, Some(theirs))
}
