//! The first look at a directory: series, rules and families of all files, how long each stream is, and whether the files are
//! as sound as writes need them that do not wait for the rest.

use std::sync::Arc;

use metricsdb_model::Result;
use rayon::prelude::*;

use super::{Replay, read, skipped};
use crate::database::Database;
use crate::journal::files::Files;
use crate::journal::frame::{Frame, Head, Kind, Piece, Place, Scan};
use crate::journal::load::{ColumnsByNumber, Reader, Stream};
use crate::journal::record;
use crate::journal::segment::{FAILED, HEADER_BYTES, Header, Name, SYNCED};
use crate::shard::SHARDS;

/// What is known before anything is replayed.
pub struct Ahead {
    /// The last record of the metadata's stream.
    pub metadata_seq: u64,
    /// Whether each row has the number it had, and nothing is missing that could have said otherwise.
    pub is_sound: bool,
}

/// A frame that is kept while others are read.
struct Kept {
    file: Name,
    head: Head,
    place: Place,
    payload: Vec<u8>,
}

impl Kept {
    fn frame(&self) -> Frame<'_> {
        Frame { head: self.head, place: self.place, payload: &self.payload }
    }
}

/// What a file says of series.
struct Seen {
    name: Name,
    header: Option<Header>,
    bytes: u64,
    kept: Vec<Kept>,
    /// Of each shard the numbers of the first frame and of the last.
    spans: Vec<Option<(u64, u64)>>,
    is_sound: bool,
}

impl Seen {
    /// Errors: `Storage`, `Version`.
    fn of(files: &Arc<dyn Files>, name: Name, salt: u32) -> Result<Seen> {
        let bytes = read(files, name)?;
        let header = Header::read(&name.to_string(), &bytes)?;
        let segment = if let Name::Segment(number) = name { number } else { 0 };
        // A segment that was cut within its header was never used.
        let is_sound = header.is_some() || (segment > 0 && bytes.len() < HEADER_BYTES);
        let (kept, spans) = (Vec::new(), vec![None; SHARDS]);
        let mut seen = Seen { name, header, bytes: bytes.len() as u64, kept, spans, is_sound };
        for piece in Scan::new(&bytes, HEADER_BYTES, salt, segment) {
            match piece {
                // The last bytes of a segment were being written.
                Piece::Bad { at, len, .. } => seen.is_sound &= segment > 0 && at + len == bytes.len(),
                Piece::Frame(frame) => seen.note(frame),
            }
        }
        Ok(seen)
    }

    fn note(&mut self, Frame { head, place, payload }: Frame<'_>) {
        if Stream::wants(head.kind) || matches!(head.kind, Kind::Families | Kind::Metadata | Kind::Whole) {
            self.kept.push(Kept { file: self.name, head, place, payload: payload.to_vec() });
        }
        let of_shard = match place.segment {
            0 => Stream::wants(head.kind),
            _ => !matches!(head.kind, Kind::Metadata | Kind::Synced),
        };
        if of_shard {
            let span = &mut self.spans[usize::from(head.shard)];
            let (first, last) = span.unwrap_or((head.seq, head.seq));
            self.is_sound &= head.seq <= last.saturating_add(1);
            *span = Some((first, last.max(head.seq)));
        }
    }
}

impl Replay {
    /// Reads all files, and makes their series. Errors: `Storage`, `Version`; nothing was written then.
    pub(super) fn look_ahead(&mut self, db: &Database) -> Result<Ahead> {
        let parts = (0..).map_while(|at| self.contents.part(at));
        let segments = self.contents.segments.iter().map(|&number| Name::Segment(number));
        let names: Vec<Name> = parts.chain(segments).collect();
        let seen: Result<Vec<Seen>> =
            names.into_par_iter().map(|name| Seen::of(&self.files, name, self.salt)).collect();
        let mut seen = seen?;
        let mut is_sound = self.count(&seen) && seen.iter().all(|file| file.is_sound);
        let mut metadata_seq = 0;
        let mut frames: Vec<Vec<Kept>> = (0..SHARDS).map(|_| Vec::new()).collect();
        for kept in seen.iter_mut().flat_map(|file| std::mem::take(&mut file.kept)) {
            if Stream::wants(kept.head.kind) {
                frames[usize::from(kept.head.shard)].push(kept);
            } else if let Err(error) = self.learn(db, &kept, &mut metadata_seq) {
                let (at, bytes) = (kept.place.offset as usize, kept.payload.len());
                self.skip(kept.file, at, bytes, &error.to_string());
            }
        }
        if let (Some((number, ..)), None) = (&self.contents.checkpoint, &self.present) {
            let list = Name::Checkpoint(*number);
            self.skip(list, HEADER_BYTES, 0, "the end of the checkpoint is lost");
        }
        self.know(db, frames);
        is_sound &= self.reaches_all(&seen) && self.recovery.skipped.is_empty();
        Ok(Ahead { metadata_seq, is_sound })
    }

    /// Counts files, and finds those that are missing, and segments that are to be read together: whether there are none.
    fn count(&mut self, seen: &[Seen]) -> bool {
        if let Some((number, list, parts)) = &self.contents.checkpoint {
            self.recovery.checkpoint = Some(*number);
            let (there, name) = (parts.len() as u64, Name::Checkpoint(*number));
            let missing = list.map_or(0, |list| u64::from(list.parts).saturating_sub(there));
            if list.is_none() {
                self.skip(name, 0, HEADER_BYTES, "the list of the checkpoint is lost");
            }
            if missing > 0 {
                self.skip(name, 0, 0, &format!("{missing} files of the checkpoint are missing"));
            }
        }
        let mut expected = self.contents.segments.first().copied().unwrap_or(0);
        let mut is_sound = true;
        for file in seen {
            let Name::Segment(number) = file.name else {
                self.recovery.checkpoint_bytes += file.bytes;
                continue;
            };
            self.recovery.segments += 1;
            self.recovery.journal_bytes += file.bytes;
            let begins = |flag| file.header.is_some_and(|header| header.parts & flag != 0);
            if begins(SYNCED) {
                self.doubts.synced(Place { segment: number, offset: 0 });
            }
            if expected < number && !begins(FAILED) {
                let missing = skipped(Name::Segment(expected), 0, 0, "the file is missing");
                self.doubts.bad(Place { segment: expected, offset: 0 }, missing);
                is_sound = false;
            }
            expected = number + 1;
            let goes_on = file.header.is_none() || begins(FAILED);
            match self.runs.last_mut().filter(|_| goes_on) {
                Some(run) => {
                    run.push(number);
                    is_sound = false;
                }
                None => self.runs.push(vec![number]),
            }
        }
        is_sound
    }

    /// Takes a frame that belongs to no shard. Those of the journal are learned once, in their order.
    fn learn(&mut self, db: &Database, kept: &Kept, metadata_seq: &mut u64) -> Result<()> {
        let (kind, seq) = (kept.head.kind, kept.head.seq);
        if kind == Kind::Whole {
            self.present = Some(kept.payload.clone());
        } else if kind == Kind::Families || seq > *metadata_seq {
            *metadata_seq = seq.max(*metadata_seq);
            db.metadata.learn(&record::read_metadata(&kept.payload)?);
        }
        Ok(())
    }

    /// Makes the series of all shards, side by side.
    fn know(&mut self, db: &Database, frames: Vec<Vec<Kept>>) {
        let columns = ColumnsByNumber::new();
        let reader = Reader { db, rules: db.rules, columns: &columns, selector: self.selector };
        let of_shard = |(number, (stream, mut frames)): (usize, (&mut Stream, Vec<Kept>))| {
            // Those of the checkpoint first; a segment that failed is read together with the next.
            frames.sort_by_key(|kept| (kept.place.segment > 0).then_some(kept.head.seq));
            let mut shard = db.shard(number);
            let mut wrong = Vec::new();
            for kept in frames {
                if let Err(error) = stream.know(&reader, &mut shard, kept.frame()) {
                    wrong.push((kept.file, kept.payload.len(), error.to_string()));
                }
            }
            wrong
        };
        let wrong: Vec<(Name, usize, String)> =
            self.streams.par_iter_mut().zip(frames).enumerate().flat_map_iter(of_shard).collect();
        db.index.settle();
        wrong.into_iter().for_each(|(name, bytes, why)| self.skip(name, 0, bytes, &why));
    }

    /// Finds the end of each stream: whether none has a gap, and every row its number.
    fn reaches_all(&mut self, seen: &[Seen]) -> bool {
        let mut is_whole = true;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            let mut end = 0;
            for file in seen {
                let Some(&Some((first, last))) = file.spans.get(number) else { continue };
                is_whole &= first <= end + 1 || matches!(file.name, Name::Part(..));
                end = end.max(last);
            }
            stream.known = end;
            is_whole &= stream.keeps_rows();
        }
        is_whole
    }
}
