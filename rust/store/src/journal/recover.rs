//! Opening a directory: the newest checkpoint, then the journal behind it; shards side by side. Nothing is written
//! before all is read, so that a recovery that is cut off leaves everything as it was.

use std::io;
use std::sync::Arc;

use metricsdb_model::{Predicate, Result};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::checkpoint::clean;
use super::files::Files;
use super::frame::{Frame, Head, Kind, Piece, Place, Scan};
use super::load::{ColumnsByNumber, Reader, Stream, load_buckets, load_columns, read_rules};
use super::record;
use super::report::{Doubts, Recovery, Skipped};
use super::segment::{FAILED, HEADER_BYTES, Header, NUMBER_MAX, Name, SYNCED};
use super::writer::{Durability, Writer};
use super::{Journal, storage};
use crate::database::{Database, Options};
use crate::shard::{Rules, SHARDS, Shard};

/// A directory and how to open it.
pub struct Opening<'a> {
    pub files: Arc<dyn Files>,
    pub durability: Durability,
    /// The secret of a new directory: what nobody can guess who sends labels. One that exists keeps its own.
    pub salt: u32,
    /// Reads the selector of a precision rule.
    pub selector: &'a (dyn Fn(&str) -> Result<Predicate> + Sync),
}

/// Where a file may have bytes that are no frame without being damaged: a segment was cut while it was written, or it
/// failed and the next holds what it lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bad {
    Nowhere,
    AtEnd,
    Anywhere,
}

/// What a directory has to be read.
#[derive(Default)]
struct Contents {
    /// Number of the newest list, what it says, and its parts that are there.
    checkpoint: Option<(u64, Option<Header>, Vec<u32>)>,
    /// Ascending.
    segments: Vec<u64>,
    salt: Option<u32>,
}

struct Recovering<'a> {
    db: &'a Database,
    files: &'a Arc<dyn Files>,
    selector: &'a (dyn Fn(&str) -> Result<Predicate> + Sync),
    salt: u32,
    streams: Vec<Stream>,
    metadata_seq: u64,
    /// The last record of metadata that the checkpoint holds.
    families_seq: u64,
    columns: ColumnsByNumber,
    /// Records of samples of a file, with their shards, whose values are bad.
    bad: Vec<(usize, Place, Vec<u8>)>,
    doubts: Doubts,
    /// The shards that the checkpoint says to hold.
    present: Option<Vec<u8>>,
    recovery: Recovery,
}

impl Database {
    /// Opens a directory: reads what is there, and keeps a journal of what is written from now on. `options` as for
    /// `new`. What is damaged is passed over and reported, and a checkpoint is written at once then. Errors:
    /// `Storage`, `Version`.
    pub fn open(options: Options, opening: Opening<'_>) -> Result<(Database, Recovery)> {
        let Opening { files, durability, salt, selector } = opening;
        let mut db = Database::new(options);
        let contents = Contents::of(&files)?;
        let salt = contents.salt.unwrap_or(salt);
        let mut recovering = Recovering {
            db: &db,
            files: &files,
            selector,
            salt,
            streams: (0..SHARDS).map(|_| Stream::default()).collect(),
            metadata_seq: 0,
            families_seq: 0,
            columns: ColumnsByNumber::new(),
            bad: Vec::new(),
            doubts: Doubts::default(),
            present: None,
            recovery: Recovery::default(),
        };
        recovering.load(&contents)?;
        recovering.replay(&contents)?;
        let (recovery, metadata_seq, keeps_rows) = recovering.finish();
        let last = contents.segments.last().copied().unwrap_or(0);
        let checkpoint = contents.checkpoint.as_ref().map_or(0, |c| c.0);
        let first = contents.checkpoint.as_ref().and_then(|c| c.1).map_or(0, |list| list.number);
        let number = last.max(first.saturating_sub(1));
        let header = Header { salt, duplicates: options.duplicates, number, parts: 0 };
        let writer = Writer::new(files.clone(), durability, header, &contents.segments, &recovery);
        let journal =
            Journal { writer, metadata_seq: Mutex::new(metadata_seq), checkpoint: Mutex::new(checkpoint) };
        db.journal = Some(journal);
        if db.has_mixed_rules() {
            // The process ended while it gave all shards their rules.
            db.set_precision_rules(read_rules(selector, db.precision_rules())?)?;
        }
        if !recovery.is_whole() || !keeps_rows {
            // Rows may have other numbers now, and what is lost should be found once.
            db.checkpoint()?;
        } else {
            clean(&files, checkpoint, first);
        }
        Ok((db, recovery))
    }
}

impl Database {
    fn has_mixed_rules(&self) -> bool {
        let first = self.precision_rules();
        (0..SHARDS).any(|number| self.shard(number).precision.texts() != first)
    }
}

impl Contents {
    fn of(files: &Arc<dyn Files>) -> Result<Contents> {
        let mut contents = Contents::default();
        let names = files.list().map_err(|e| storage(files, &"", &e))?;
        let mut names: Vec<Name> = names.iter().filter_map(|text| Name::parse(text)).collect();
        names.sort();
        for &name in &names {
            match name {
                Name::Segment(n) => contents.segments.push(n),
                Name::Checkpoint(n) => contents.checkpoint = Some((n, None, Vec::new())),
                Name::Part(..) => {}
            }
        }
        if let Some((number, list, parts)) = &mut contents.checkpoint {
            *list = header(files, Name::Checkpoint(*number))?.filter(|list| list.number <= NUMBER_MAX);
            // Where what the list said is lost: all parts that are there.
            let limit = list.map_or(u32::MAX, |list| list.parts);
            let there = names.iter().filter_map(|name| part_of(*name, *number));
            *parts = there.filter(|&part| part < limit).collect();
            let first = list.map_or(0, |list| list.number);
            contents.segments.retain(|&segment| segment >= first);
        }
        let known = contents.checkpoint.as_ref().and_then(|c| c.1).map(|list| list.salt);
        contents.salt = match known {
            Some(salt) => Some(salt),
            None => contents.salt_of_any(files)?,
        };
        Ok(contents)
    }

    fn salt_of_any(&self, files: &Arc<dyn Files>) -> Result<Option<u32>> {
        let parts = self.checkpoint.iter().flat_map(|(n, _, parts)| parts.iter().map(|&p| Name::Part(*n, p)));
        for name in self.segments.iter().map(|&n| Name::Segment(n)).chain(parts) {
            if let Some(header) = header(files, name)? {
                return Ok(Some(header.salt));
            }
        }
        Ok(None)
    }
}

fn part_of(name: Name, checkpoint: u64) -> Option<u32> {
    if let Name::Part(number, part) = name { (number == checkpoint).then_some(part) } else { None }
}

/// All bytes of a file; `None` where it does not exist.
fn read(files: &Arc<dyn Files>, name: Name) -> Result<Option<Vec<u8>>> {
    match files.read(&name.to_string()) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage(files, &name, &error)),
    }
}

fn header(files: &Arc<dyn Files>, name: Name) -> Result<Option<Header>> {
    let Some(bytes) = read(files, name)? else { return Ok(None) };
    Header::read(&name.to_string(), &bytes)
}

fn skipped(file: Name, offset: usize, bytes: usize, why: &str) -> Skipped {
    Skipped { file: file.to_string(), offset: offset as u64, bytes: bytes as u64, why: why.to_owned() }
}

impl Recovering<'_> {
    /// Notes bytes of a checkpoint that are not what was written.
    fn skip(&mut self, file: Name, offset: usize, bytes: usize, why: &str) {
        self.recovery.skipped.push(skipped(file, offset, bytes, why));
    }

    fn load(&mut self, contents: &Contents) -> Result<()> {
        let Some((number, list, parts)) = &contents.checkpoint else { return Ok(()) };
        self.recovery.checkpoint = Some(*number);
        if list.is_none() {
            self.skip(Name::Checkpoint(*number), 0, HEADER_BYTES, "the list of the checkpoint is lost");
        }
        let missing = list.map_or(0, |list| u64::from(list.parts).saturating_sub(parts.len() as u64));
        if missing > 0 {
            self.skip(
                Name::Checkpoint(*number),
                0,
                0,
                &format!("{missing} files of the checkpoint are missing"),
            );
        }
        for &part in parts {
            let name = Name::Part(*number, part);
            let Some(bytes) = read(self.files, name)? else { continue };
            Header::read(&name.to_string(), &bytes)?;
            self.recovery.checkpoint_bytes += bytes.len() as u64;
            let frames = self.sort(name, &bytes, Bad::Nowhere);
            self.apply(name, frames, self.db.rules, Stream::load);
        }
        if self.present.is_none() {
            self.skip(Name::Checkpoint(*number), HEADER_BYTES, 0, "the end of the checkpoint is lost");
        }
        let present = self.present.take().unwrap_or_default();
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.loaded(self.db, &self.db.shard(number), present.contains(&(number as u8)));
        }
        self.columns.clear();
        Ok(())
    }

    fn replay(&mut self, contents: &Contents) -> Result<()> {
        let mut run: Vec<(Name, Vec<u8>)> = Vec::new();
        let mut expected = contents.segments.first().copied().unwrap_or(0);
        for &number in &contents.segments {
            let name = Name::Segment(number);
            let Some(bytes) = read(self.files, name)? else { continue };
            let parts = Header::read(&name.to_string(), &bytes)?.map(|header| header.parts);
            self.recovery.segments += 1;
            self.recovery.journal_bytes += bytes.len() as u64;
            if parts.is_some_and(|parts| parts & FAILED == 0) {
                self.replay_run(std::mem::take(&mut run))?;
            }
            if parts.is_some_and(|parts| parts & SYNCED != 0) {
                self.doubts.synced(Place { segment: number, offset: 0 });
            }
            if expected < number && parts.is_none_or(|parts| parts & FAILED == 0) {
                let missing = skipped(Name::Segment(expected), 0, 0, "the file is missing");
                self.doubts.bad(Place { segment: expected, offset: 0 }, missing);
            }
            expected = number + 1;
            run.push((name, bytes));
        }
        self.replay_run(run)
    }

    /// Segments of which each but the last failed, and may lack what stands in the next.
    fn replay_run(&mut self, run: Vec<(Name, Vec<u8>)>) -> Result<()> {
        let Some(&(last, _)) = run.last() else { return Ok(()) };
        let mut duplicates = self.db.rules.duplicates;
        let mut frames: Vec<Vec<Frame<'_>>> = vec![Vec::new(); SHARDS];
        for (name, bytes) in &run {
            if let Some(header) = Header::read(&name.to_string(), bytes)? {
                duplicates = header.duplicates;
            }
            let may_be_bad = if *name == last { Bad::AtEnd } else { Bad::Anywhere };
            let found = self.sort(*name, bytes, may_be_bad);
            frames.iter_mut().zip(found).for_each(|(all, mut found)| all.append(&mut found));
        }
        if run.len() > 1 {
            frames.iter_mut().for_each(|frames| frames.sort_by_key(|frame| frame.head.seq));
        }
        self.apply(last, frames, Rules { duplicates, ..self.db.rules }, Stream::replay);
        Ok(())
    }

    /// The frames of a file by shard, in their order; what belongs to no shard is taken at once.
    fn sort<'b>(&mut self, name: Name, bytes: &'b [u8], may_be_bad: Bad) -> Vec<Vec<Frame<'b>>> {
        let mut frames: Vec<Vec<Frame<'b>>> = vec![Vec::new(); SHARDS];
        if bytes.len() < HEADER_BYTES && may_be_bad != Bad::Nowhere {
            let why = "the file was cut within its header";
            self.recovery.cut.push(skipped(name, 0, bytes.len(), why));
        }
        let segment = if let Name::Segment(number) = name { number } else { 0 };
        for piece in Scan::new(bytes, HEADER_BYTES, self.salt, segment) {
            match piece {
                Piece::Bad { at, len, frame } => {
                    let place = Place { segment, offset: at as u64 };
                    let bytes_bad = skipped(name, at, len, &bad(frame));
                    match may_be_bad {
                        Bad::Nowhere => self.recovery.skipped.push(bytes_bad),
                        Bad::AtEnd if at + len < bytes.len() => {
                            self.doubts.bad(place, bytes_bad);
                            frame.into_iter().for_each(|frame| self.tell(frame));
                        }
                        Bad::AtEnd | Bad::Anywhere => self.recovery.cut.push(bytes_bad),
                    }
                }
                Piece::Frame(frame) => match self.take(frame) {
                    None => frames[usize::from(frame.head.shard)].push(frame),
                    Some(Ok(())) => self.recovery.frames += 1,
                    Some(Err(error)) => {
                        let (at, len) = (frame.place.offset as usize, frame.payload.len());
                        self.skip(name, at, len, &error.to_string());
                    }
                },
            }
        }
        frames
    }

    /// Takes a frame that belongs to no shard; `None` for others.
    fn take(&mut self, frame: Frame<'_>) -> Option<Result<()>> {
        Some(match frame.head.kind {
            Kind::Columns => load_columns(self.db, frame.payload, &mut self.columns),
            Kind::Buckets => load_buckets(self.db, frame.payload, &mut self.columns),
            Kind::Families => self.learn(frame, true),
            Kind::Metadata => self.learn(frame, false),
            Kind::Synced => record::read_synced(frame.payload).map(|(segment, offset)| {
                self.doubts.synced(Place { segment, offset });
            }),
            Kind::Whole => {
                self.present = Some(frame.payload.to_vec());
                Ok(())
            }
            _ => return None,
        })
    }

    /// Keeps a bad frame whose rows and times are right, to say what it had.
    fn tell(&mut self, frame: Frame<'_>) {
        let number = usize::from(frame.head.shard);
        if self.streams[number].tell(frame) {
            self.bad.push((number, frame.place, frame.payload.to_vec()));
        }
    }

    fn learn(&mut self, frame: Frame<'_>, whole: bool) -> Result<()> {
        let seq = frame.head.seq;
        // What stands twice is learned twice, in its order.
        if !whole && seq <= self.families_seq {
            return Ok(());
        }
        self.families_seq = if whole { seq } else { self.families_seq };
        self.metadata_seq = self.metadata_seq.max(seq);
        self.db.metadata.learn(&record::read_metadata(frame.payload)?);
        Ok(())
    }

    fn apply(
        &mut self,
        name: Name,
        frames: Vec<Vec<Frame<'_>>>,
        rules: Rules,
        take: impl Fn(&mut Stream, &Reader<'_>, &mut Shard, Frame<'_>) -> Result<()> + Sync,
    ) {
        let reader = Reader { db: self.db, rules, columns: &self.columns, selector: self.selector };
        let of_shard = |(number, (stream, frames)): (usize, (&mut Stream, Vec<Frame<'_>>))| {
            let mut wrong = Vec::new();
            if frames.is_empty() {
                return wrong;
            }
            let mut shard = self.db.shard(number);
            for frame in frames {
                if let Err(error) = take(stream, &reader, &mut shard, frame) {
                    wrong.push((frame.payload.len() as u64, error.to_string()));
                }
            }
            wrong
        };
        let wrong: Vec<(u64, String)> =
            self.streams.par_iter_mut().zip(frames).enumerate().flat_map_iter(of_shard).collect();
        self.db.index.settle();
        for (number, place, payload) in std::mem::take(&mut self.bad) {
            self.streams[number].outline(&reader, &self.db.shard(number), place, &payload);
        }
        let file = name.to_string();
        let skipped =
            wrong.into_iter().map(|(bytes, why)| Skipped { file: file.clone(), offset: 0, bytes, why });
        self.recovery.skipped.extend(skipped);
    }

    /// The report, the last record of the metadata's stream, and whether all rows have the numbers they had.
    fn finish(mut self) -> (Recovery, u64, bool) {
        let (mut keeps_rows, mut losses) = (true, Vec::new());
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.finish(&mut self.db.shard(number));
            keeps_rows &= stream.keeps_rows();
            self.recovery.samples += stream.samples;
            self.recovery.frames += stream.frames;
            losses.append(&mut stream.lost);
        }
        self.doubts.settle(losses, &mut self.recovery);
        self.db.recovered(self.recovery.samples);
        self.recovery.series = self.db.series_count() as u64;
        let rules = self.db.shard(0).precision.clone();
        *self.db.precision.lock() = rules;
        (self.recovery, self.metadata_seq, keeps_rows)
    }
}

/// Why bytes are no frame.
fn bad(frame: Option<Frame<'_>>) -> String {
    match frame.map(|frame| frame.head) {
        Some(Head { kind, shard, seq }) => {
            format!("the checksum of a frame is another ({kind:?} {seq} of shard {shard})")
        }
        None => "no frame begins here".to_owned(),
    }
}
