//! Names and headers of the files of a directory.

use crc32fast::hash;
use metricsdb_model::{Error, Result};

use crate::codec::cursor::Cursor;
use crate::late::DuplicatePolicy;

/// What this program writes, and the only version that it reads.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"MDBfile\0";
/// One copy of a header; files begin with two, so that no bad byte makes one unreadable.
const COPY_BYTES: usize = 32;
pub const HEADER_BYTES: usize = 2 * COPY_BYTES;

/// Files of higher numbers are none of ours: so there is always a next one.
pub const NUMBER_MAX: u64 = 1 << 62;

const POLICIES: [DuplicatePolicy; 6] = [
    DuplicatePolicy::Last,
    DuplicatePolicy::First,
    DuplicatePolicy::Min,
    DuplicatePolicy::Max,
    DuplicatePolicy::Sum,
    DuplicatePolicy::Error,
];

/// What the first bytes of every file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The secret of the directory: part of every checksum.
    pub salt: u32,
    /// What became of two samples at one time when the frames were written.
    pub duplicates: DuplicatePolicy,
    /// The file's own number; of a checkpoint's list, the first segment that it does not hold.
    pub number: u64,
    /// Of a checkpoint's list: its parts. Of a segment: `FAILED` and `SYNCED`.
    pub parts: u32,
}

/// In a segment's header: it begins with frames that the one before, which failed, may hold.
pub const FAILED: u32 = 1;
/// In a segment's header: all that the journal needs of the segments before was safe when this one began.
pub const SYNCED: u32 = 2;

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let policy = POLICIES.iter().position(|&p| p == self.duplicates).unwrap_or(0) as u16;
        let mut copy = [&MAGIC[..], &VERSION.to_le_bytes(), &policy.to_le_bytes()].concat();
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&self.number.to_le_bytes());
        copy.extend_from_slice(&self.parts.to_le_bytes());
        copy.extend_from_slice(&hash(&copy).to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(copy.iter().chain(&copy)).for_each(|(to, &from)| *to = from);
        bytes
    }

    /// The header of a file, from the copy that is right; `None` where neither is. Errors: `Version`.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Option<Header>> {
        for copy in bytes.chunks_exact(COPY_BYTES).take(2) {
            let (body, sum) = copy.split_at(COPY_BYTES - 4);
            if !body.starts_with(&MAGIC) || sum != hash(body).to_le_bytes() {
                continue;
            }
            let mut c = Cursor::new(body.get(MAGIC.len()..).unwrap_or(&[]));
            let version = c.word(2)?;
            if version != u64::from(VERSION) {
                return Err(Error::Version {
                    file: file.to_owned(),
                    found: version,
                    known: u64::from(VERSION),
                });
            }
            let policy = c.word(2)? as usize;
            let duplicates = POLICIES.get(policy).copied().unwrap_or_default();
            let (salt, number, parts) = (c.word(4)? as u32, c.word(8)?, c.word(4)? as u32);
            return Ok(Some(Header { salt, duplicates, number, parts }));
        }
        Ok(None)
    }
}

/// A file of the directory, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Segment(u64),
    /// The list of a checkpoint: it exists when all parts are safe.
    Checkpoint(u64),
    Part(u64, u32),
}

impl Name {
    pub fn parse(text: &str) -> Option<Name> {
        let (word, numbers) = text.split_once('-')?;
        let number = |text: &str| text.parse().ok().filter(|&number| number <= NUMBER_MAX);
        let name = match (word, numbers.split_once('-')) {
            ("journal", None) => Name::Segment(number(numbers)?),
            ("checkpoint", None) => Name::Checkpoint(number(numbers)?),
            ("checkpoint", Some((first, part))) => Name::Part(number(first)?, part.parse().ok()?),
            _ => return None,
        };
        // Another way to write the number is another file.
        (name.to_string() == text).then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Segment(n) => write!(f, "journal-{n:010}"),
            Name::Checkpoint(n) => write!(f, "checkpoint-{n:010}"),
            Name::Part(n, part) => write!(f, "checkpoint-{n:010}-{part:05}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HEADER: Header = Header { salt: 77, duplicates: DuplicatePolicy::Sum, number: 1 << 40, parts: 3 };

    #[test]
    fn a_header_survives_every_bad_byte() {
        let bytes = HEADER.to_bytes();
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 0x55;
            assert_eq!(Header::read("f", &bad).unwrap(), Some(HEADER), "byte {at}");
        }
        assert_eq!(Header::read("f", &bytes[..31]).unwrap(), None);
        assert_eq!(Header::read("f", &bytes[..40]).unwrap(), Some(HEADER));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut copy = HEADER.to_bytes()[..28].to_vec();
        copy[8] = 9;
        copy.extend_from_slice(&hash(&copy).to_le_bytes());
        let error = Header::read("journal-0000000001", &copy).unwrap_err();
        assert_eq!(error, Error::Version { file: "journal-0000000001".to_owned(), found: 9, known: 1 });
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [Name::Segment(1), Name::Checkpoint(99), Name::Part(99, 12)] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        let none =
            ["LOCK", "journal-x", "checkpoint-1.new", "other-1", "journal-1", "journal-18446744073709551615"];
        assert!(none.iter().all(|text| Name::parse(text).is_none()));
    }
}
