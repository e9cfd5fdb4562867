//! The one trait through which the store reaches files: a flat directory. The real one is the binding's; tests have
//! one in memory that fails, tears and forgets.

use std::io;

/// A flat directory of files that are written once, front to back. All methods may be called from many threads.
pub trait Files: Send + Sync {
    /// Names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// All bytes of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// An empty file of this name, whatever stood there. It may be gone after a power cut until `sync_dir`.
    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>>;

    /// Takes the place of `to`, if that exists; at once or not at all.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when all bytes of a file that nobody writes any more are safe from a power cut.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Returns when names that were created, renamed and removed before are safe from a power cut.
    fn sync_dir(&self) -> io::Result<()>;

    /// The directory, for messages.
    fn place(&self) -> String;
}

/// A file that is being written.
pub trait Sink: Send {
    /// Appends all bytes, or fails; any part of them may have been written then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all bytes written before are safe from a power cut. After an error nobody knows which are.
    fn sync(&mut self) -> io::Result<()>;
}
