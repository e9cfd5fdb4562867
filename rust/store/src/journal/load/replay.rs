//! Frames of the journal, applied to the shard that the checkpoint left.

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::{Result, TimeRange, ValueKind, WriteReport};

use super::{Gap, LOST, Reader, Stream, read_row, rules_of, unnamed, wrong};
use crate::codec::cursor::Cursor;
use crate::expire::Expired;
use crate::histograms::Target;
use crate::journal::frame::{Frame, Kind, Piece, Place, Scan};
use crate::journal::record;
use crate::journal::report::{Loss, Lost};
use crate::late::DuplicatePolicy;
use crate::rollup::Rolled;
use crate::shard::{Rules, Shard, Staged, id_of};

impl Stream {
    /// Takes a frame of the journal: once, and in its order. Errors: `Corruption`.
    pub fn replay(&mut self, reader: &Reader<'_>, shard: &mut Shard, frame: Frame<'_>) -> Result<()> {
        let seq = frame.head.seq;
        if seq <= self.seq {
            return Ok(());
        }
        if seq > self.seq + 1 {
            let told = self.told.iter().filter(|&&told| told > self.seq && told < seq).count() as u64;
            let none = Gap { records: 0, since: self.newest, from: self.place, to: self.place };
            let gap = self.gap.take().unwrap_or(none);
            let records = gap.records + (seq - self.seq - 1).saturating_sub(told);
            self.gap = Some(Gap { records, to: frame.place, ..gap }).filter(|gap| gap.records > 0);
        }
        self.seq = seq;
        self.place = frame.place;
        self.frames += 1;
        match frame.head.kind {
            Kind::Samples => self.replay_samples(&reader.rules, shard, frame.payload),
            Kind::Folded => {
                let rules = Rules { duplicates: DuplicatePolicy::Last, ..reader.rules };
                self.replay_samples(&rules, shard, frame.payload)
            }
            // `know` took them.
            Kind::Series | Kind::Gone => Ok(()),
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
            Kind::Expire => {
                let before = Cursor::new(frame.payload).signed()?;
                let rows: Vec<u32> = shard.series.rows().collect();
                let mut done = Expired::default();
                rows.into_iter().try_for_each(|row| shard.expire_row(row, before, &mut self.work, &mut done))
            }
            Kind::Cut => {
                let (range, taking, rows) = record::read_cut(frame.payload)?;
                let rows: Vec<u32> = rows.into_iter().filter_map(|row| self.row(row)).collect();
                let (mut done, work) = (Expired::default(), &mut self.work);
                let mut cut = |row| shard.cut_row(row, range, taking, &reader.rules, work, &mut done);
                rows.into_iter().try_for_each(&mut cut)
            }
            Kind::Roll => {
                let (step, rows) = record::read_roll(frame.payload)?;
                let mut done = Rolled::default();
                for (theirs, kind) in rows {
                    if let Some(row) = self.row(theirs) {
                        shard.roll_row(row, kind, &step, &mut self.work, &mut done)?;
                    }
                }
                Ok(())
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

    fn replay_samples(&mut self, rules: &Rules, shard: &mut Shard, payload: &[u8]) -> Result<()> {
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
                None if self.is_gone(s.row) => s.row = LOST,
                None => {
                    let (count, span) = orphans.entry(s.row).or_insert((0, TimeRange::new(s.time, s.time)));
                    *count += 1;
                    *span = TimeRange::new(span.start.min(s.time), span.end.max(s.time));
                    s.row = LOST;
                }
            }
        }
        if staged.iter().any(|s| s.row == LOST) {
            let keep: Vec<bool> = staged.iter().map(|s| s.row != LOST).collect();
            let mut kept = keep.iter();
            starts.retain(|_| kept.next() == Some(&true));
            staged.retain(|s| s.row != LOST);
            self.orphaned(shard, orphans);
        }
        self.append(rules, shard, kind, &staged, &starts)?;
        (self.staged, self.starts) = (staged, starts);
        Ok(())
    }

    fn append(
        &mut self,
        rules: &Rules,
        shard: &mut Shard,
        kind: ValueKind,
        staged: &[Staged],
        starts: &[i64],
    ) -> Result<()> {
        let mut report = WriteReport::default();
        shard.append(staged, starts, kind, rules, &mut self.work, &mut report)?;
        self.samples += report.accepted;
        Ok(())
    }

    /// Says what was in a record of samples whose values are bad, if the rest of it is right. Called behind all frames
    /// of its file, so it names rows by what they are then: a row never changes.
    pub fn outline(&mut self, reader: &Reader<'_>, shard: &Shard, at: Place, payload: &[u8]) {
        let mut spans = HashMap::<u32, (u64, TimeRange)>::new();
        for (row, time) in record::read_outline(payload).unwrap_or_default() {
            let span = spans.entry(row as u32).or_insert((0, TimeRange::new(time, time)));
            *span = (span.0 + 1, TimeRange::new(span.1.start.min(time), span.1.end.max(time)));
        }
        let mut text = Vec::new();
        for (theirs, (samples, span)) in spans {
            let series = self.row(theirs).map(|row| reader.db.labels_of(shard, row, &mut text).to_string());
            let lost = Lost {
                series,
                start: Some(span.start),
                end: Some(span.end),
                samples: Some(samples),
                ..unnamed(shard, "samples of the journal".to_owned())
            };
            self.lost.push(Loss { lost, from: at, to: Place { offset: at.offset + 1, ..at } });
        }
    }

    /// Whether `outline` will say what was in a record.
    pub fn tell(&mut self, frame: Frame<'_>) -> bool {
        let tells = matches!(frame.head.kind, Kind::Samples | Kind::Folded)
            && record::read_outline(frame.payload).is_ok();
        if tells {
            self.told.push(frame.head.seq);
        }
        tells
    }

    /// Samples whose series' labels are lost.
    fn orphaned(&mut self, shard: &Shard, orphans: HashMap<u32, (u64, TimeRange)>) {
        for (row, (count, span)) in orphans {
            let what = format!("samples of row {row}, whose labels are lost");
            match self.lost.iter_mut().map(|loss| &mut loss.lost).find(|lost| lost.what == what) {
                Some(known) => {
                    known.start = known.start.map(|start| start.min(span.start));
                    known.end = known.end.map(|end| end.max(span.end));
                    known.samples = known.samples.map(|samples| samples + count);
                }
                None => {
                    let (start, end, samples) = (Some(span.start), Some(span.end), Some(count));
                    let lost = Lost { start, end, samples, ..unnamed(shard, what) };
                    // The labels stood before the first of their samples.
                    self.lost.push(Loss { lost, from: Place::default(), to: self.place });
                }
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
        let Some(Gap { records, since, from, to }) = self.gap.take() else { return };
        let what = format!("{records} records of the journal");
        let lost = Lost { start: since, end: oldest, ..unnamed(shard, what) };
        self.lost.push(Loss { lost, from, to });
    }

    /// Called when the last frame of the files was applied: applies what came meanwhile, and the shard takes what comes from
    /// now on. Its frames are ours, and so are their rows.
    pub fn catch_up(&mut self, reader: &Reader<'_>, shard: &mut Shard, salt: u32) -> Result<()> {
        self.bridge(shard, None);
        let behind = shard.behind.take().unwrap_or_default();
        if !behind.is_empty() {
            self.rows = (0..shard.series.len() as u32).collect();
        }
        let (samples, frames) = (self.samples, self.frames);
        for frame in Scan::new(&behind, 0, salt, 0).filter_map(Piece::frame) {
            self.replay(reader, shard, frame)?;
        }
        (self.samples, self.frames) = (samples, frames);
        shard.journal_seq = shard.journal_seq.max(self.seq);
        Ok(())
    }
}
