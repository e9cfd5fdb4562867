//! A directory of the file system as the store's files, with a lock against a second writer.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use metricsdb_model::{Error, Result};
use metricsdb_store::journal::{Files, Sink};
use parking_lot::Mutex;

const LOCK: &str = "LOCK";

/// A directory that this process alone writes, until it is dropped or released. A forked child may only read.
pub struct Directory {
    path: PathBuf,
    owner: Owner,
    lock: Mutex<Option<File>>,
}

struct Appended {
    owner: Owner,
    file: File,
}

/// The process that may write.
#[derive(Clone, Copy)]
struct Owner(u32);

impl Owner {
    fn is_here(self) -> bool {
        self.0 == std::process::id()
    }

    fn check(self) -> io::Result<()> {
        let forked = "this process was forked from the one that opened the directory, and must not write it";
        if self.is_here() { Ok(()) } else { Err(io::Error::other(forked)) }
    }
}

impl Directory {
    /// Makes the directory where it is missing, and locks it. Errors: `Locked`, `Storage`.
    pub fn open(path: &Path) -> Result<Directory> {
        let failed = |error: io::Error| Error::Storage {
            file: path.display().to_string(),
            message: error.to_string(),
            remedy: "give a directory that can be written",
        };
        fs::create_dir_all(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                return Err(Error::Locked { path: path.display().to_string(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // A full disk is no reason not to open: the number is for messages.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| write!(lock, "{}", std::process::id()));
        let owner = Owner(std::process::id());
        Ok(Directory { path: path.to_owned(), owner, lock: Mutex::new(Some(lock)) })
    }

    /// Lets others open it, also where forked children have the same lock. A child lets go of its own part alone.
    pub fn release(&self) {
        let lock = self.lock.lock().take().filter(|_| self.owner.is_here());
        let _ = lock.map_or(Ok(()), |lock| lock.unlock());
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().into_string().unwrap_or_default())
        };
        fs::read_dir(&self.path)?.map(name).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        self.owner.check()?;
        Ok(Box::new(Appended { owner: self.owner, file: File::create(self.path.join(name))? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.owner.check()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.owner.check()?;
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.path.join(name))?.sync_data()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

impl Sink for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.owner.check()?;
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
