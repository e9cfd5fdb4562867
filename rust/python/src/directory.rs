//! A directory of the file system as the store's files, with a lock against a second writer.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use metricsdb_model::{Error, Result};
use metricsdb_store::journal::{Files, Sink};

const LOCK: &str = "LOCK";

/// A directory that this process alone writes, until it is dropped or released.
pub struct Directory {
    path: PathBuf,
    lock: File,
}

struct Appended {
    file: File,
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
        Ok(Directory { path: path.to_owned(), lock })
    }

    /// Lets another process open it. Also for children of a fork, which have the same lock.
    pub fn release(&self) {
        let _ = self.lock.unlock();
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
        Ok(Box::new(Appended { file: File::create(self.path.join(name))? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
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
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
