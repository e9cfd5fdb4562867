//! A disk in memory that fails as disks do: it writes a part and stops, loses and reorders what was not synced, is
//! full, and says of a sync that it failed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::files::{Files, Sink};

/// What happens at one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: a part of a write may be done, and every later operation fails.
    Cut,
    /// The operation fails once; a write is done in part. A sync that fails loses what it should have kept.
    Fails,
}

/// Of what was not synced, the piece that survives or not as one.
const SECTOR: usize = 64;

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// Bytes that survive a power cut.
    safe: usize,
}

#[derive(Clone)]
enum Entry {
    Name(String, usize),
    Gone(String),
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    /// Changes of names since the last `sync_dir`.
    entries: Vec<Entry>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    out: bool,
    /// Bytes that all files may have together.
    space: Option<usize>,
    random: u64,
    unreadable: Option<String>,
}

impl State {
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    /// The fault of the next operation.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        if self.out {
            return Err(io::Error::other("the power is out"));
        }
        self.operations += 1;
        let fault = self.faults.get(&self.operations).copied();
        self.out |= fault == Some(Fault::Cut);
        Ok(fault)
    }

    fn plain_step(&mut self) -> io::Result<()> {
        self.step()?.map_or(Ok(()), |fault| Err(io::Error::other(format!("{fault:?}"))))
    }

    fn used(&self) -> usize {
        self.names.values().filter_map(|&file| self.files.get(file)).map(|file| file.bytes.len()).sum()
    }
}

/// Where syncs wait while it is shut, and how many do.
#[derive(Default)]
struct Gate {
    shut: Mutex<(bool, usize)>,
    turned: Condvar,
}

/// A handle on the disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

struct Open {
    disk: Disk,
    file: usize,
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        let disk = Disk::default();
        disk.state.lock().random = seed.wrapping_mul(2).wrapping_add(1);
        disk
    }

    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    /// Counts the operations that change something, from 1 on.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.state.lock().faults.insert(operation, fault);
    }

    /// Reading the file fails from now on; without a name, listing the files.
    pub fn make_unreadable(&self, name: &str) {
        self.state.lock().unreadable = Some(name.to_owned());
    }

    /// Lets syncs wait, or go on.
    pub fn shut(&self, shut: bool) {
        self.gate.shut.lock().0 = shut;
        self.gate.turned.notify_all();
    }

    /// Returns when a sync waits.
    pub fn await_sync(&self) {
        let mut gate = self.gate.shut.lock();
        self.gate.turned.wait_while(&mut gate, |gate| gate.1 == 0);
    }

    pub fn limit(&self, bytes: Option<usize>) {
        self.state.lock().space = bytes;
    }

    pub fn used(&self) -> usize {
        self.state.lock().used()
    }

    /// The disk as it may be after a power cut now: what was not synced is there, torn, in holes, or gone.
    pub fn after_cut(&self, seed: u64) -> Disk {
        let before = self.state.lock();
        let disk = Disk::new(seed);
        let mut state = disk.state.lock();
        state.names = before.safe_names.clone();
        let kept = state.below(before.entries.len() + 1);
        for entry in before.entries.iter().take(kept) {
            match entry {
                Entry::Name(name, file) => drop(state.names.insert(name.clone(), *file)),
                Entry::Gone(name) => drop(state.names.remove(name)),
            }
        }
        state.safe_names = state.names.clone();
        for file in &before.files {
            let mut bytes = file.bytes.clone();
            match state.below(4) {
                0 => bytes.truncate(file.safe),
                1 => {
                    let unsafe_bytes = bytes.len() - file.safe;
                    bytes.truncate(file.safe + state.below(unsafe_bytes + 1));
                }
                2 => {
                    // The length is there, and some sectors are not: nothing there, or what a file had before.
                    for at in (file.safe..bytes.len()).step_by(SECTOR) {
                        let end = bytes.len().min(at + SECTOR);
                        match state.below(4) {
                            0 => bytes[at..end].fill(0),
                            1 => bytes[at..end].fill_with(|| state.below(256) as u8),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            let safe = bytes.len();
            state.files.push(File { bytes, safe });
        }
        drop(state);
        disk
    }

    /// Another disk with the same bytes, all safe.
    pub fn copy(&self) -> Disk {
        let before = self.state.lock();
        let disk = Disk::new(1);
        let mut state = disk.state.lock();
        state.names = before.names.clone();
        state.safe_names = before.names.clone();
        state.files = before.files.clone();
        state.files.iter_mut().for_each(|file| file.safe = file.bytes.len());
        drop(state);
        disk
    }

    /// Changes the bytes of a file, as a bad disk does.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let file = state.names[name];
        change(&mut state.files[file].bytes);
        state.files[file].safe = state.files[file].bytes.len();
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        if self.state.lock().unreadable.as_deref() == Some("") {
            return Err(io::Error::other("input/output error"));
        }
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        if state.unreadable.as_deref() == Some(name) {
            return Err(io::Error::other("input/output error"));
        }
        let file = state.names.get(name).and_then(|&file| state.files.get(file));
        file.map(|file| file.bytes.clone()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        let mut state = self.state.lock();
        state.plain_step()?;
        state.files.push(File::default());
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.entries.push(Entry::Name(name.to_owned(), file));
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.plain_step()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        // One change: after a power cut there is one name or the other.
        state.entries.push(Entry::Name(to.to_owned(), file));
        state.entries.push(Entry::Gone(from.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.plain_step()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.entries.push(Entry::Gone(name.to_owned()));
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let file = self.state.lock().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Open { disk: self.clone(), file }.sync()
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.plain_step()?;
        state.safe_names = state.names.clone();
        state.entries.clear();
        Ok(())
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

impl Sink for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let fault = state.step()?;
        let used = state.used();
        let room = state.space.map_or(bytes.len(), |space| space.saturating_sub(used));
        let mut written = bytes.len().min(room);
        if fault.is_some() {
            written = state.below(written + 1);
        }
        state.files[self.file].bytes.extend_from_slice(&bytes[..written]);
        match (fault, written < bytes.len()) {
            (Some(fault), _) => Err(io::Error::other(format!("{fault:?}"))),
            (None, true) => Err(io::ErrorKind::StorageFull.into()),
            (None, false) => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut gate = self.disk.gate.shut.lock();
        gate.1 += 1;
        self.disk.gate.turned.notify_all();
        self.disk.gate.turned.wait_while(&mut gate, |gate| gate.0);
        gate.1 -= 1;
        drop(gate);
        let mut state = self.disk.state.lock();
        match state.step()? {
            None => {
                let file = &mut state.files[self.file];
                file.safe = file.bytes.len();
                Ok(())
            }
            Some(Fault::Cut) => Err(io::Error::other("Cut")),
            Some(Fault::Fails) => {
                // Linux throws dirty pages away then, and a second sync would succeed.
                let (safe, len) = (state.files[self.file].safe, state.files[self.file].bytes.len());
                let from = safe + state.below(len - safe + 1);
                state.files[self.file].bytes[from..].fill(0);
                Err(io::Error::other("input/output error"))
            }
        }
    }
}
