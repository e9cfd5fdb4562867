//! Frames to files: group commit, and what happens when a disk says no.
//!
//! Whoever wants its frames to be safe and finds nobody at the file takes all that wait there, writes and syncs them;
//! the others wait. A file that failed once is never trusted again: the frames that were not known to be safe go into
//! a new one, from memory. When more of them wait than `WAITING_BYTES_MAX`, or when a sync fails of what is no more
//! in memory, they are given up, and only a checkpoint makes the directory whole again.
//!
//! The first frames behind a sync say how far it went, so that a recovery tells damage from what was never synced.

use std::io;
use std::sync::Arc;

use metricsdb_model::{Error, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::files::{Files, Sink};
use super::frame::{self, Head, Kind};
use super::record;
use super::report::Recovery;
use super::segment::{FAILED, HEADER_BYTES, Header, Name, SYNCED};
use crate::heap;
use crate::late::DuplicatePolicy;

/// Tests meet every limit with little data.
const MIB: usize = if cfg!(test) { 256 } else { 1 << 20 };
/// A segment that is as large gets no more frames.
const SEGMENT_BYTES: usize = 32 * MIB;
/// Frames that were written and not synced: as many are kept in memory, in case that the sync fails.
const UNSYNCED_BYTES_MAX: usize = 32 * MIB;
/// Frames that a failing disk makes wait.
const WAITING_BYTES_MAX: usize = 64 * MIB;
/// A call that made as many frames writes them before it goes on.
const PENDING_BYTES: usize = 4 * MIB;
const _: () = assert!(UNSYNCED_BYTES_MAX + PENDING_BYTES < WAITING_BYTES_MAX);

/// What a write that has returned survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process.
    None,
    /// A power cut, once `sync` was called after it.
    Interval,
    /// A power cut.
    Batch,
}

impl Durability {
    /// The mode of this name. Errors: `Input`.
    pub fn from_name(name: &str) -> Result<Durability> {
        match name {
            "none" => Ok(Durability::None),
            "interval" => Ok(Durability::Interval),
            "batch" => Ok(Durability::Batch),
            _ => Err(Error::input("durability", name, "no such mode", "give batch, interval or none")),
        }
    }
}

/// How the journal does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What the disk said last, while it fails; frames wait in memory then.
    pub failing: Option<String>,
    /// Frames were given up: only a checkpoint makes new writes durable again.
    pub needs_checkpoint: bool,
    /// Bytes of frames that wait for a sync, or to be written.
    pub waiting_bytes: u64,
    /// Since the database was opened.
    pub written_bytes: u64,
    pub syncs: u64,
    pub failures: u64,
    /// What a recovery would replay.
    pub replay_bytes: u64,
    pub checkpoint_bytes: u64,
}

#[derive(Default)]
struct Segment {
    sink: Option<Box<dyn Sink>>,
    /// Of the open one, or of the last.
    number: u64,
    bytes: usize,
    /// How many of them are safe, and how many a frame says to be.
    safe: usize,
    marked: usize,
    /// Whether its name is safe.
    entered: bool,
    /// Whether it failed: the next one begins with frames that it may hold, too.
    failed: bool,
    /// Segments before it that may not be safe: those that were found, and in mode `None` those that were left.
    behind: Vec<u64>,
    /// A sync failed of frames that are not in memory any more.
    torn: bool,
}

#[derive(Default)]
struct State {
    /// Frames that no file has.
    pending: Vec<u8>,
    /// Frames that a file has, but may lose.
    unsynced: Vec<u8>,
    /// Bytes of frames so far: made, written, and safe.
    made: u64,
    written: u64,
    safe: u64,
    segment: Segment,
    /// Somebody is at the file.
    busy: bool,
    /// Frames are given up until a checkpoint begins, or until it has ended well.
    dropping: bool,
    gap: bool,
    /// A file lost frames since a checkpoint began.
    torn: bool,
    closed: bool,
    status: Status,
}

/// What a leader is to do with the frames beside writing them.
#[derive(Clone, Copy)]
struct How {
    sync: bool,
    /// Into a new segment.
    roll: bool,
    /// What was written before may lack frames.
    gap: bool,
}

pub struct Writer {
    files: Arc<dyn Files>,
    pub durability: Durability,
    pub salt: u32,
    duplicates: DuplicatePolicy,
    state: Mutex<State>,
    turned: Condvar,
}

impl Writer {
    /// `number`: behind which the next segment comes; `found`: those that are there.
    pub fn new(
        files: Arc<dyn Files>,
        durability: Durability,
        header: Header,
        found: &[u64],
        recovery: &Recovery,
    ) -> Writer {
        let Header { salt, duplicates, number, .. } = header;
        let segment = Segment { number, behind: found.to_vec(), ..Segment::default() };
        let status = Status {
            replay_bytes: recovery.journal_bytes,
            checkpoint_bytes: recovery.checkpoint_bytes,
            ..Status::default()
        };
        let state = Mutex::new(State { segment, status, ..State::default() });
        Writer { files, durability, salt, duplicates, state, turned: Condvar::new() }
    }

    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Takes finished frames; they go to a file with the next `commit`, `relieve` or `sync`.
    pub fn append(&self, frames: &[u8]) {
        let mut state = self.state.lock();
        if state.dropping || state.closed {
            return;
        }
        if state.pending.len() + state.unsynced.len() + frames.len() > WAITING_BYTES_MAX
            && state.status.failing.is_some()
        {
            (state.dropping, state.gap) = (true, true);
            (state.pending, state.unsynced) = (Vec::new(), Vec::new());
            return;
        }
        state.pending.extend_from_slice(frames);
        state.made += frames.len() as u64;
    }

    /// Returns when all frames so far are as safe as the mode promises. Errors: why they are not.
    pub fn commit(&self) -> std::result::Result<(), String> {
        let (made, closed) = {
            let state = self.state.lock();
            (state.made, state.closed)
        };
        if closed {
            return Err("the database is closed".to_owned());
        }
        self.settle(self.durability == Durability::Batch, made)
    }

    /// Writes what waits, if it is much. A failure shows in the next `commit`.
    pub fn relieve(&self) {
        let state = self.state.lock();
        if state.pending.len() > PENDING_BYTES && !state.busy && state.status.failing.is_none() {
            let goal = state.made;
            drop(state);
            let _ = self.settle(false, goal);
        }
    }

    /// Returns when all frames so far are safe from a power cut. Errors: why they are not.
    pub fn sync(&self) -> std::result::Result<(), String> {
        let made = self.state.lock().made;
        self.settle(true, made)
    }

    fn settle(&self, sync: bool, goal: u64) -> std::result::Result<(), String> {
        let mut state = self.state.lock();
        loop {
            let done = (if sync { state.safe } else { state.written }) >= goal;
            if state.gap && (done || state.dropping) {
                let why =
                    state.status.failing.as_deref().unwrap_or("frames were given up while the disk failed");
                return Err(format!("{why}; the next checkpoint makes new writes durable"));
            }
            if done {
                return Ok(());
            }
            if state.closed {
                return Err("the database is closed".to_owned());
            }
            if state.busy {
                self.turned.wait(&mut state);
                continue;
            }
            self.lead(&mut state, sync, false).map_err(|e| e.to_string())?;
        }
    }

    /// Takes what waits to the file, with the lock open meanwhile. Nobody else may be at it.
    fn lead(&self, state: &mut MutexGuard<'_, State>, sync: bool, roll: bool) -> io::Result<()> {
        state.busy = true;
        let mut segment = std::mem::take(&mut state.segment);
        let mut pending = std::mem::take(&mut state.pending);
        let mut unsynced = std::mem::take(&mut state.unsynced);
        let (goal, bytes, gap) = (state.made, pending.len() as u64, state.gap);
        let result = MutexGuard::unlocked(state, || {
            if !gap {
                self.mark(&mut segment, &mut pending);
            }
            let how = How { sync, roll, gap };
            let result = self.put(&mut segment, &mut pending, &mut unsynced, how);
            if result.is_err() {
                self.leave(&mut segment);
                segment.failed = true;
            }
            result
        });
        state.busy = false;
        if std::mem::take(&mut segment.torn) {
            (state.gap, state.torn) = (true, true);
        }
        state.segment = segment;
        if state.dropping {
            (pending, unsynced) = (Vec::new(), Vec::new());
        }
        pending.append(&mut state.pending);
        (state.pending, state.unsynced) = (pending, unsynced);
        self.turned.notify_all();
        match result {
            Ok(synced) => {
                state.written = goal;
                state.status.written_bytes += bytes;
                state.status.replay_bytes += bytes;
                state.status.failing = None;
                if synced {
                    state.safe = goal;
                    state.status.syncs += 1;
                }
                Ok(())
            }
            Err(error) => {
                state.status.failures += 1;
                state.status.failing = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Whether frames are in memory until they are safe.
    fn keeps(&self) -> bool {
        self.durability != Durability::None
    }

    /// Appends a frame that says how far the segment is safe, if none did yet.
    fn mark(&self, segment: &mut Segment, pending: &mut Vec<u8>) {
        if segment.safe > segment.marked {
            let head = Head { kind: Kind::Synced, shard: 0, seq: 0 };
            let (number, safe) = (segment.number, segment.safe as u64);
            frame::put(pending, self.salt, head, |out| record::put_synced(out, number, safe));
            segment.marked = segment.safe;
        }
    }

    /// Lets go of the segment; what it holds may not be safe.
    fn leave(&self, segment: &mut Segment) {
        segment.sink = None;
        if !self.keeps() && segment.behind.last() != Some(&segment.number) {
            segment.behind.push(segment.number);
        }
    }

    /// Whether the frames are safe now. After an error those in `unsynced` and `pending` are in doubt, and no other
    /// unless the segment says to be torn.
    fn put(
        &self,
        segment: &mut Segment,
        pending: &mut Vec<u8>,
        unsynced: &mut Vec<u8>,
        how: How,
    ) -> io::Result<bool> {
        let How { sync, roll, gap } = how;
        let keeps = self.keeps();
        if segment.sink.is_some() && (roll || segment.bytes >= SEGMENT_BYTES) {
            // Only the newest file may ever be in doubt.
            if keeps {
                self.sync_segment(segment)?;
                unsynced.clear();
            }
            self.leave(segment);
        }
        if segment.sink.is_none() {
            self.open(segment, unsynced, gap)?;
        }
        segment.sink.as_mut().map_or(Ok(()), |sink| sink.write(pending))?;
        segment.bytes += pending.len();
        if keeps && unsynced.is_empty() {
            std::mem::swap(pending, unsynced);
        } else if keeps {
            unsynced.extend_from_slice(pending);
        }
        pending.clear();
        if sync || (keeps && (roll || unsynced.len() > UNSYNCED_BYTES_MAX)) {
            self.sync_segment(segment)?;
            unsynced.clear();
            return Ok(true);
        }
        Ok(false)
    }

    fn sync_segment(&self, segment: &mut Segment) -> io::Result<()> {
        let synced = self.sync_behind(&std::mem::take(&mut segment.behind));
        segment.torn |= synced.is_err();
        synced?;
        let synced = segment.sink.as_mut().map_or(Ok(()), |sink| sink.sync());
        segment.torn |= synced.is_err() && !self.keeps();
        synced?;
        if !segment.entered {
            self.files.sync_dir()?;
            segment.entered = true;
        }
        segment.safe = segment.bytes;
        Ok(())
    }

    fn sync_behind(&self, segments: &[u64]) -> io::Result<()> {
        let names = segments.iter().map(|&number| Name::Segment(number).to_string());
        names.map(|name| self.files.sync(&name)).try_for_each(|synced| match synced {
            // A checkpoint has made it superfluous.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        })
    }

    /// Begins the next segment with the frames that the last one may have lost.
    fn open(&self, segment: &mut Segment, unsynced: &[u8], gap: bool) -> io::Result<()> {
        let number = segment.number + 1;
        let name = Name::Segment(number).to_string();
        let failed = if segment.failed { FAILED } else { 0 };
        let synced = if segment.behind.is_empty() && !gap { SYNCED } else { 0 };
        let parts = failed | synced;
        let header = Header { salt: self.salt, duplicates: self.duplicates, number, parts };
        let begun = self.files.create(&name).and_then(|mut sink| {
            sink.write(&header.to_bytes())?;
            sink.write(unsynced)?;
            Ok(sink)
        });
        match begun {
            Ok(sink) => {
                let bytes = HEADER_BYTES + unsynced.len();
                let behind = std::mem::take(&mut segment.behind);
                *segment = Segment { sink: Some(sink), number, bytes, behind, ..Segment::default() };
                Ok(())
            }
            Err(error) => {
                // All that it holds is still in memory; what is left of it is no worse than a cut tail.
                let _ = self.files.remove(&name);
                Err(error)
            }
        }
    }

    /// Ends the segment: frames that are appended after this call go into the one whose number it gives.
    /// Frames that were given up are in no segment; those appended before are what a checkpoint holds that begins now.
    pub fn roll(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        while state.busy {
            self.turned.wait(&mut state);
        }
        if state.closed {
            return Err(io::Error::other("the database is closed"));
        }
        if state.dropping {
            state.dropping = false;
            (state.pending, state.unsynced) = (Vec::new(), Vec::new());
        }
        state.torn = false;
        self.lead(&mut state, false, true)?;
        Ok(state.segment.number)
    }

    /// A checkpoint is safe that holds everything before the segment of this number.
    pub fn checkpointed(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.gap = state.dropping || state.torn;
        state.status.checkpoint_bytes = bytes;
        state.status.replay_bytes = state.segment.bytes as u64;
    }

    /// Heap bytes of frames that wait.
    pub fn bytes(&self) -> usize {
        let state = self.state.lock();
        heap::vector(&state.pending) + heap::vector(&state.unsynced)
    }

    pub fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            needs_checkpoint: state.gap,
            waiting_bytes: (state.pending.len() + state.unsynced.len()) as u64,
            ..state.status.clone()
        }
    }

    /// Writes and syncs what waits, and takes no frames any more. Errors: why some are not safe.
    pub fn close(&self) -> std::result::Result<(), String> {
        let outcome = self.sync();
        let mut state = self.state.lock();
        while state.busy {
            self.turned.wait(&mut state);
        }
        state.closed = true;
        let mut segment = std::mem::take(&mut state.segment);
        let mut mark = Vec::new();
        if !state.gap {
            self.mark(&mut segment, &mut mark);
        }
        // Whether it gets there or not, everything is safe.
        let _ = segment.sink.map_or(Ok(()), |mut sink| sink.write(&mark));
        outcome
    }
}
