//! Journal, checkpoints and snapshots as Python sees them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use metricsdb_model::{Error, Result, WriteReport};
use metricsdb_query::syntax;
use metricsdb_store::journal::{Durability, Files, Lost, Opening, Progress, Replay, Skipped};
use metricsdb_store::{Database, Options};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::call;
use crate::database::NativeDatabase;
use crate::directory::Directory;

/// A database's directory, and what is found there.
pub struct Home {
    directory: Arc<Directory>,
    replay: Mutex<Replay>,
}

/// file, offset, bytes, why
type SkippedRow = (String, u64, u64, String);
/// series, start, end, samples, what, cause
type LostRow = (Option<String>, Option<i64>, Option<i64>, Option<u64>, String, &'static str);

/// Opens a directory; `replay` brings the rest of what it holds. `salt` is for one that is new.
pub fn open(options: Options, path: &str, durability: &str, salt: u32) -> Result<(Database, Home)> {
    let durability = Durability::from_name(durability)?;
    let directory = Arc::new(Directory::open(&PathBuf::from(path))?);
    let files: Arc<dyn Files> = directory.clone();
    let opening = Opening { files, durability, salt, selector: syntax::selector };
    let (store, replay) = Database::begin(options, opening)?;
    Ok((store, Home { directory, replay: Mutex::new(replay) }))
}

impl NativeDatabase {
    /// The report of a write whose sender waits for what the mode promises. Errors: `NotDurable`, and `Memory` where
    /// nothing was taken, since the database is at its memory limit.
    pub fn promised(&self, mut report: WriteReport) -> Result<WriteReport> {
        match report.not_durable.take() {
            Some(message) if self.store.durability() == Some(Durability::Batch) => {
                Err(Error::NotDurable { message })
            }
            _ => match report.refused_at {
                Some(step) if report.accepted == 0 => Err(self.memory.refusal(step)),
                _ => Ok(report),
            },
        }
    }
}

#[pymethods]
impl NativeDatabase {
    /// One step of what a directory has to be replayed, half a second or so: whether it was the last. Until then only writes
    /// may be called, and what says how the journal does.
    fn replay(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(home) = &self.home else { return Ok(true) };
        call::short(py, || home.replay.lock().step(&self.store))
    }

    /// Returns when everything written so far survives a power cut.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        call::short(py, || self.store.sync())
    }

    /// (series, bytes)
    fn checkpoint(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let saved = call::short(py, || self.store.checkpoint())?;
        Ok((saved.series, saved.bytes))
    }

    fn checkpoint_due(&self) -> bool {
        self.store.checkpoint_due()
    }

    /// Writes everything into an empty directory: (series, bytes).
    fn snapshot(&self, py: Python<'_>, path: &str, salt: u32) -> PyResult<(u64, u64)> {
        let saved = call::short(py, || {
            let directory: Arc<dyn Files> = Arc::new(Directory::open(&PathBuf::from(path))?);
            self.store.snapshot(&directory, salt)
        })?;
        Ok((saved.series, saved.bytes))
    }

    /// Writes and syncs what waits, and lets another process open the directory.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        call::short(py, || {
            let closed = self.store.close();
            self.home.iter().for_each(|home| home.directory.release());
            closed
        })
    }

    /// For a forked child: lets go of the lock, which is its parent's.
    fn disown(&self) {
        self.home.iter().for_each(|home| home.directory.release());
    }

    /// What the disk said last while it fails, and counts by name; nothing without a directory.
    fn journal(&self) -> Option<(Option<String>, BTreeMap<&'static str, u64>)> {
        let status = self.store.journal_status()?;
        let replaying = self.store.replaying();
        let left = |progress: Progress| progress.bytes.saturating_sub(progress.done_bytes);
        let counts = BTreeMap::from([
            ("needs_checkpoint", u64::from(status.needs_checkpoint)),
            ("waiting_bytes", status.waiting_bytes),
            ("written_bytes", status.written_bytes),
            ("syncs", status.syncs),
            ("failures", status.failures),
            ("replay_bytes", status.replay_bytes),
            ("checkpoint_bytes", status.checkpoint_bytes),
            ("replaying", u64::from(replaying.is_some())),
            ("replay_left_bytes", replaying.map_or(0, left)),
        ]);
        Some((status.failing, counts))
    }

    /// Counts by name, rows of what was cut, unsynced and skipped, and of what was lost; nothing without a directory.
    #[allow(clippy::type_complexity)] // one tuple, unpacked at once in Python
    fn recovery(&self) -> Option<(BTreeMap<&'static str, u64>, [Vec<SkippedRow>; 3], Vec<LostRow>)> {
        let replay = self.home.as_ref()?.replay.lock();
        let found = replay.recovery();
        let counts = BTreeMap::from([
            ("checkpoint", found.checkpoint.unwrap_or(0)),
            ("segments", found.segments),
            ("series", found.series),
            ("samples", found.samples),
            ("frames", found.frames),
            ("checkpoint_bytes", found.checkpoint_bytes),
            ("journal_bytes", found.journal_bytes),
        ]);
        let skipped = |s: &Skipped| (s.file.clone(), s.offset, s.bytes, s.why.clone());
        let lost = |l: &Lost| (l.series.clone(), l.start, l.end, l.samples, l.what.clone(), l.cause.as_str());
        let places = [&found.cut, &found.unsynced, &found.skipped];
        let places = places.map(|all| all.iter().map(skipped).collect());
        Some((counts, places, found.lost.iter().map(lost).collect()))
    }

    /// (selector, policy, whether counters are exact)
    fn precision_rules(&self) -> Vec<(String, String, bool)> {
        let rules = self.store.precision_rules().into_iter();
        rules.map(|rule| (rule.selector, rule.policy, rule.counters_exact)).collect()
    }
}
