//! Frames: what files of the journal and of checkpoints consist of, each with its length, its place in its stream
//! and a checksum, so that a reader finds the next good one behind a bad one.

use crc32fast::Hasher;

/// Bytes before the payload: mark, kind, shard, length, sequence number, check of these, checksum of all.
pub const HEAD_BYTES: usize = 22;
/// No stream is as long: so there is always a next number.
const SEQ_MAX: u64 = 1 << 62;
/// No text is UTF-8 that holds these two, so that none looks like a frame.
const MARK: [u8; 2] = [0xff, 0xfe];
/// Where the header's own check stands, and the checksum behind it.
const CHECK_AT: usize = 16;
const SUM_AT: usize = 18;

/// What a payload is; `record` and `checkpoint` say how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Series = 1,
    Samples = 2,
    Histograms = 3,
    /// Of the stream that belongs to no shard.
    Metadata = 4,
    Rules = 5,
    Marks = 6,
    Rewrite = 7,
    Expire = 8,
    Gone = 9,
    /// Sums of folded series: samples that replace whatever stands at their times.
    Folded = 10,
    /// Of no stream: up to where the journal was safe from a power cut when this was written.
    Synced = 11,
    /// Samples of some rows became records.
    Roll = 12,
    /// What some rows had in a range was dropped.
    Cut = 13,
    /// From here on: parts of a checkpoint.
    Begin = 16,
    Columns = 17,
    Rows = 18,
    Chunks = 19,
    Open = 20,
    Starts = 21,
    SealedHistograms = 22,
    Families = 23,
    End = 24,
    /// The last of all parts: which shards are in them.
    Whole = 25,
    /// Buckets that blocks of records share.
    Buckets = 27,
    /// Records of a shard's rows. 26 was a chunk a column.
    Rollups = 28,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::{
            Begin, Buckets, Chunks, Columns, Cut, End, Expire, Families, Folded, Gone, Histograms, Marks,
            Metadata, Open, Rewrite, Roll, Rollups, Rows, Rules, Samples, SealedHistograms, Series, Starts,
            Synced, Whole,
        };
        let all = [
            Series,
            Samples,
            Histograms,
            Metadata,
            Rules,
            Marks,
            Rewrite,
            Expire,
            Gone,
            Folded,
            Synced,
            Roll,
            Cut,
            Begin,
            Columns,
            Rows,
            Chunks,
            Open,
            Starts,
            SealedHistograms,
            Families,
            End,
            Whole,
            Rollups,
            Buckets,
        ];
        all.into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub shard: u8,
    /// Counted from 1 in each shard's stream.
    pub seq: u64,
}

/// Where a frame stands: a segment's number (0 for parts of a checkpoint), and a byte of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u64,
    pub offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub head: Head,
    pub place: Place,
    pub payload: &'a [u8],
}

/// What a scan finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Frame(Frame<'a>),
    /// Bytes that are no frame; `frame` where its head is right, and the payload is there, but is another.
    Bad {
        at: usize,
        len: usize,
        frame: Option<Frame<'a>>,
    },
}

impl<'a> Piece<'a> {
    /// What is whole.
    pub fn frame(self) -> Option<Frame<'a>> {
        match self {
            Piece::Frame(frame) => Some(frame),
            Piece::Bad { .. } => None,
        }
    }
}

/// Appends a frame whose payload `write` appends. `salt` is the secret of the directory: bytes from outside that
/// look like a frame don't have its checksum.
pub fn put(out: &mut Vec<u8>, salt: u32, head: Head, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    write(out);
    let payload = out.get(at + HEAD_BYTES..).unwrap_or(&[]);
    let len = payload.len() as u32;
    let numbers = len.to_le_bytes().into_iter().chain(head.seq.to_le_bytes());
    let fields = MARK.into_iter().chain([head.kind as u8, head.shard]).chain(numbers);
    let mut header = [0; HEAD_BYTES];
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(header.get(2..CHECK_AT).unwrap_or(&[]));
    let check = (hasher.clone().finalize() as u16).to_le_bytes();
    hasher.update(payload);
    let sum = hasher.finalize().to_le_bytes();
    header.iter_mut().skip(CHECK_AT).zip(check.into_iter().chain(sum)).for_each(|(to, from)| *to = from);
    out.iter_mut().skip(at).zip(header).for_each(|(to, from)| *to = from);
}

/// The frame that begins the bytes; what it would be where only its head is right.
fn read(bytes: &[u8], salt: u32, place: Place) -> Result<Frame<'_>, Option<Frame<'_>>> {
    let Some((header, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Err(None) };
    let word = |at: usize, n: usize| {
        header.get(at..at + n).unwrap_or(&[]).iter().rev().fold(0u64, |all, &b| all << 8 | u64::from(b))
    };
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(header.get(2..CHECK_AT).unwrap_or(&[]));
    let kind = Kind::from_byte(word(2, 1) as u8);
    if !header.starts_with(&MARK) || word(CHECK_AT, 2) as u16 != hasher.clone().finalize() as u16 {
        return Err(None);
    }
    let Some(kind) = kind else { return Err(None) };
    let head = Head { kind, shard: word(3, 1) as u8, seq: word(8, 8) };
    if head.seq > SEQ_MAX {
        return Err(None);
    }
    let Some(payload) = rest.get(..word(4, 4) as usize) else {
        return Err(Some(Frame { head, place, payload: rest }));
    };
    hasher.update(payload);
    let frame = Frame { head, place, payload };
    if word(SUM_AT, 4) as u32 == hasher.finalize() { Ok(frame) } else { Err(Some(frame)) }
}

/// The frames of a file behind its header, and what lies between them.
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    salt: u32,
    segment: u64,
}

impl<'a> Scan<'a> {
    /// `segment`: what the frames' places say.
    pub fn new(bytes: &'a [u8], from: usize, salt: u32, segment: u64) -> Scan<'a> {
        Scan { bytes, at: from.min(bytes.len()), salt, segment }
    }

    fn read(&self) -> Result<Frame<'a>, Option<Frame<'a>>> {
        read(self.rest(), self.salt, Place { segment: self.segment, offset: self.at as u64 })
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.rest().is_empty() {
            return None;
        }
        let from = self.at;
        match self.read() {
            Ok(frame) => {
                self.at += HEAD_BYTES + frame.payload.len();
                Some(Piece::Frame(frame))
            }
            Err(frame) => {
                self.at += 1;
                while !self.rest().is_empty() && self.read().is_err() {
                    let next = self.rest().iter().skip(1).position(|&b| b == MARK[0]);
                    self.at = next.map_or(self.bytes.len(), |n| self.at + 1 + n);
                }
                Some(Piece::Bad { at: from, len: self.at - from, frame })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(seq: u64) -> Head {
        Head { kind: Kind::Samples, shard: 7, seq }
    }

    fn three() -> (Vec<u8>, [usize; 4]) {
        let (mut bytes, mut ends) = (Vec::new(), [0; 4]);
        for (i, payload) in [&b"one"[..], b"", &[0xff; 40]].iter().enumerate() {
            put(&mut bytes, 5, head(i as u64 + 1), |out| out.extend_from_slice(payload));
            ends[i + 1] = bytes.len();
        }
        (bytes, ends)
    }

    fn seqs(bytes: &[u8], salt: u32) -> Vec<u64> {
        Scan::new(bytes, 0, salt, 3).filter_map(Piece::frame).map(|frame| frame.head.seq).collect()
    }

    #[test]
    fn frames_come_back_and_only_under_their_salt() {
        let (bytes, _) = three();
        assert_eq!(seqs(&bytes, 5), [1, 2, 3]);
        assert_eq!(seqs(&bytes, 6), []);
        let frames: Vec<Piece<'_>> = Scan::new(&bytes, 0, 5, 3).collect();
        assert_eq!(
            frames[0],
            Piece::Frame(Frame { head: head(1), place: Place { segment: 3, offset: 0 }, payload: b"one" })
        );
    }

    #[test]
    fn every_flipped_bit_costs_one_frame_and_no_other() {
        let (bytes, ends) = three();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let hit = (ends.partition_point(|&end| end <= bit / 8)) as u64;
            let left: Vec<u64> = (1..=3).filter(|&seq| seq != hit).collect();
            assert_eq!(seqs(&bad, 5), left, "bit {bit}");
        }
    }

    #[test]
    fn a_cut_at_every_byte_keeps_the_frames_before_it() {
        let (bytes, ends) = three();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|&&end| end > 0 && end <= cut).count() as u64;
            assert_eq!(seqs(&bytes[..cut], 5), (1..=whole).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_header_that_is_right_names_what_was_lost() {
        let (mut bytes, ends) = three();
        bytes[ends[1] - 1] ^= 1;
        let frame = Some(Frame { head: head(1), place: Place { segment: 3, offset: 0 }, payload: b"ond" });
        assert_eq!(Scan::new(&bytes, 0, 5, 3).next(), Some(Piece::Bad { at: 0, len: ends[1], frame }));
    }
}
