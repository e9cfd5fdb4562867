//! What holds while a journal is replayed: writes come in behind it, and everything else waits for its end.

use parking_lot::{Condvar, Mutex};

/// Frames that may wait behind a replay: whoever writes more waits until it has ended.
const BEHIND_BYTES_MAX: usize = if cfg!(test) { 512 << 10 } else { 256 << 20 };

/// How far a replay has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files that were applied, of those there are.
    pub done_bytes: u64,
    pub bytes: u64,
    /// Frames that came meanwhile and wait.
    pub behind_bytes: u64,
}

#[derive(Default)]
struct State {
    /// `None`: nothing is replayed.
    progress: Option<Progress>,
    /// Nobody goes on with the replay.
    given_up: bool,
}

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    turned: Condvar,
}

impl Gate {
    pub fn shut(&self, bytes: u64) {
        self.state.lock().progress = Some(Progress { bytes, ..Progress::default() });
    }

    pub fn open(&self) {
        self.state.lock().progress = None;
        self.turned.notify_all();
    }

    /// The database is closed: a replay that has not ended never does.
    pub fn give_up(&self) {
        self.state.lock().given_up = true;
        self.turned.notify_all();
    }

    pub fn progress(&self) -> Option<Progress> {
        self.state.lock().progress
    }

    pub fn done(&self, bytes: u64) {
        self.state.lock().progress.iter_mut().for_each(|progress| progress.done_bytes += bytes);
    }

    pub fn came(&self, bytes: usize) {
        self.state.lock().progress.iter_mut().for_each(|progress| progress.behind_bytes += bytes as u64);
    }

    pub fn bytes(&self) -> usize {
        self.progress().map_or(0, |progress| progress.behind_bytes as usize)
    }

    /// Returns when nothing is replayed any more: whether all of it was.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        self.turned.wait_while(&mut state, |state| state.progress.is_some() && !state.given_up);
        state.progress.is_none()
    }

    /// Waits for the end if too much waits for it. To be called without a lock.
    pub fn make_room(&self) {
        if self.bytes() > BEHIND_BYTES_MAX {
            self.wait();
        }
    }
}
