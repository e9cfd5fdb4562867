//! What makes a database survive its process: a journal of what was written (`record` in `frame`s, which the `writer`
//! takes to the `files`), checkpoints of everything (`checkpoint`), and the way back (`recover`, `load`), behind which
//! what is written meanwhile waits (`gate`).
//!
//! Each shard has a stream of its own, numbered from 1, and a record enters it under the shard's lock, before what it
//! says is done: so the order of a stream is the order in memory. Metadata are one stream more.

mod checkpoint;
mod files;
mod frame;
mod gate;
mod load;
pub(crate) mod record;
mod recover;
mod report;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::sync::Arc;

use metricsdb_model::{Error, Metadata, Result, TimeRange, ValueKind};
use parking_lot::{Mutex, MutexGuard};

pub use checkpoint::Saved;
pub use files::{Files, Sink};
pub use gate::Progress;
pub use recover::{Opening, Replay, Selector};
pub use report::{Cause, Lost, Recovery, Skipped};
pub use writer::{Durability, Status};

use crate::cut::Taking;
use crate::database::Database;
use crate::precision::RuleText;
use crate::rollup::{self, Step};
use crate::shard::{Shard, Staged};
use frame::{Head, Kind};
use gate::Gate;
use record::{HistogramEntry, RECORD_SAMPLES_MAX};
use writer::Writer;

/// Below so many bytes of frames, a checkpoint is not worth its while.
const CHECKPOINT_BYTES_MIN: u64 = 64 << 20;

pub struct Journal {
    writer: Writer,
    /// The last record of the stream of metadata.
    metadata_seq: Mutex<u64>,
    /// The number of the newest checkpoint; whoever makes one holds it meanwhile.
    checkpoint: Mutex<u64>,
    gate: Gate,
}

impl Journal {
    /// Takes finished frames of a shard, also behind those that are still to be replayed.
    fn enter(&self, shard: &mut Shard, frames: &[u8]) {
        self.writer.append(frames);
        if let Some(behind) = &mut shard.behind {
            behind.extend_from_slice(frames);
            self.gate.came(frames.len());
        }
    }

    fn frame(&self, shard: &mut Shard, kind: Kind, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        shard.journal_seq += 1;
        frame::put(out, self.writer.salt, Head { kind, shard: shard.number, seq: shard.journal_seq }, write);
    }

    fn one(&self, shard: &mut Shard, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        self.frame(shard, kind, &mut out, write);
        self.enter(shard, &out);
    }

    /// Bytes of frames that wait, spare capacity included.
    pub(crate) fn bytes(&self) -> usize {
        self.writer.bytes() + self.gate.bytes()
    }

    /// Notes samples that are about to be appended to a shard; those of rows that it doesn't have are left out.
    pub(crate) fn samples(&self, shard: &mut Shard, samples: &[Staged], starts: &[i64], kind: ValueKind) {
        let known = |s: &Staged| shard.series.has_of(s.row, s.generation);
        if samples.iter().all(known) {
            return self.known_samples(shard, samples, starts, kind, Kind::Samples);
        }
        let kept: Vec<Staged> = samples.iter().copied().filter(known).collect();
        let kept_starts: Vec<i64> =
            samples.iter().zip(starts).filter(|(s, _)| known(s)).map(|(_, &start)| start).collect();
        self.known_samples(shard, &kept, &kept_starts, kind, Kind::Samples);
    }

    /// Notes sums of folded series that are about to be written, all of rows that the shard has.
    pub(crate) fn folded(&self, shard: &mut Shard, samples: &[Staged]) {
        self.known_samples(shard, samples, &[], ValueKind::Float, Kind::Folded);
    }

    fn known_samples(
        &self,
        shard: &mut Shard,
        samples: &[Staged],
        starts: &[i64],
        kind: ValueKind,
        frame: Kind,
    ) {
        let mut out = Vec::new();
        for (i, samples) in samples.chunks(RECORD_SAMPLES_MAX).enumerate() {
            let at = i * RECORD_SAMPLES_MAX;
            let starts = starts.get(at..at + samples.len()).unwrap_or(&[]);
            self.frame(shard, frame, &mut out, |out| record::put_samples(out, kind, samples, starts));
        }
        self.enter(shard, &out);
    }

    /// Notes a series that stands since now.
    pub(crate) fn series(&self, shard: &mut Shard, row: u32, mark: u8, canonical: &[u8]) {
        self.one(shard, Kind::Series, |out| record::put_series(out, row, mark, canonical));
    }

    /// Notes histograms, all of one shard, that are about to be appended.
    pub(crate) fn histograms<'a>(
        &self,
        shard: &mut Shard,
        entries: impl Iterator<Item = HistogramEntry<'a>>,
    ) {
        self.one(shard, Kind::Histograms, |out| record::put_histograms(out, entries));
    }

    /// Notes the rules that a shard has since now, and the marks of its rows.
    pub(crate) fn rules(&self, shard: &mut Shard, rules: &[RuleText]) {
        let marks: Vec<u8> = shard.series.precision.iter().copied().collect();
        self.one(shard, Kind::Rules, |out| record::put_rules(out, rules, marks.iter().copied()));
    }

    pub(crate) fn marks(&self, shard: &mut Shard, marks: &[(u32, u8)]) {
        if !marks.is_empty() {
            self.one(shard, Kind::Marks, |out| record::put_marks(out, marks));
        }
    }

    /// Notes that what is stored of a row is about to be rounded by its rule.
    pub(crate) fn rewrite(&self, shard: &mut Shard, row: u32) {
        self.one(shard, Kind::Rewrite, |out| crate::codec::cursor::put_varint(out, u64::from(row)));
    }

    /// Notes that samples before a time are about to be dropped, as far as they are dropped by chunks.
    pub(crate) fn expire(&self, shard: &mut Shard, before: i64) {
        self.one(shard, Kind::Expire, |out| crate::codec::cursor::put_signed(out, before));
    }

    /// Notes that what rows have in a range is about to be dropped, to the sample.
    pub(crate) fn cut(&self, shard: &mut Shard, range: TimeRange, taking: Taking, rows: &[u32]) {
        self.one(shard, Kind::Cut, |out| record::put_cut(out, range, taking, rows));
    }

    /// Notes that the series of these rows are about to go.
    pub(crate) fn gone(&self, shard: &mut Shard, rows: &[u32]) {
        self.one(shard, Kind::Gone, |out| record::put_rows(out, rows));
    }

    /// Notes that samples of some rows are about to become records.
    pub(crate) fn roll(&self, shard: &mut Shard, step: &Step, rows: &[(u32, rollup::Kind)]) {
        self.one(shard, Kind::Roll, |out| record::put_roll(out, step, rows));
    }

    /// Notes what families say; it must be learned before the guard goes.
    pub(crate) fn metadata<'a>(&self, families: impl Iterator<Item = &'a Metadata>) -> MutexGuard<'_, u64> {
        let mut seq = self.metadata_seq.lock();
        *seq += 1;
        let mut out = Vec::new();
        let head = Head { kind: Kind::Metadata, shard: 0, seq: *seq };
        frame::put(&mut out, self.writer.salt, head, |out| record::put_metadata(out, families));
        self.writer.append(&out);
        seq
    }
}

impl Database {
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Writes frames that a long call has made, so that they don't pile up.
    pub(crate) fn relieve(&self) {
        if let Some(journal) = &self.journal {
            journal.writer.relieve();
        }
    }

    /// As `committed`, for calls that have no report: an error where the mode promises more than there is.
    pub(crate) fn durably(&self) -> Result<()> {
        match self.committed() {
            Some(message) if self.durability() == Some(Durability::Batch) => {
                Err(Error::NotDurable { message })
            }
            _ => Ok(()),
        }
    }

    /// Waits until what was written is as safe as the mode promises; else says why it is not.
    pub(crate) fn committed(&self) -> Option<String> {
        let journal = self.journal()?;
        let committed = journal.writer.commit().err();
        journal.gate.make_room();
        committed
    }

    /// How far the replay of the journal has come; `None` when it has ended. Only writes and what says how the journal does
    /// may be called before: everything else would see a part.
    pub fn replaying(&self) -> Option<Progress> {
        self.journal()?.gate.progress()
    }

    /// Returns when the replay has ended, or the database is closed: whether everything was replayed.
    pub(crate) fn await_replay(&self) -> bool {
        self.journal().is_none_or(|journal| journal.gate.wait())
    }

    /// The mode; `None` without a directory.
    pub fn durability(&self) -> Option<Durability> {
        self.journal().map(|journal| journal.writer.durability)
    }

    pub fn journal_status(&self) -> Option<Status> {
        self.journal().map(|journal| journal.writer.status())
    }

    /// Returns when everything written so far survives a power cut. Nothing to do without a directory.
    /// Errors: `NotDurable`.
    pub fn sync(&self) -> Result<()> {
        let synced = self.journal().map_or(Ok(()), |journal| journal.writer.sync());
        synced.map_err(|message| Error::NotDurable { message })
    }

    /// Whether a recovery would have so much to replay that a checkpoint pays, or new writes need one to be durable.
    pub fn checkpoint_due(&self) -> bool {
        self.replaying().is_none()
            && self.journal_status().is_some_and(|status| {
                let worth = CHECKPOINT_BYTES_MIN.max(status.checkpoint_bytes / 2);
                status.needs_checkpoint || status.replay_bytes >= worth
            })
    }

    /// Writes and syncs what waits; what is written from now on is not durable. Errors: `NotDurable`.
    pub fn close(&self) -> Result<()> {
        self.journal().iter().for_each(|journal| journal.gate.give_up());
        let closed = self.journal().map_or(Ok(()), |journal| journal.writer.close());
        closed.map_err(|message| Error::NotDurable { message })
    }
}

/// A file that could not be read or written.
fn storage(files: &Arc<dyn Files>, name: &dyn std::fmt::Display, error: &std::io::Error) -> Error {
    Error::Storage {
        file: format!("{}/{name}", files.place()),
        message: error.to_string(),
        remedy: "make room or repair the disk, and try again",
    }
}

#[cfg(test)]
mod tests;
