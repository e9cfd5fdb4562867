//! Opening a directory. Its series come first (`ahead`), and then, in steps, what they hold: the newest checkpoint, then the
//! journal behind it, shards side by side. Where the files are sound, writes are taken between the two: they know their series,
//! and their frames are applied behind those of the files. Else nothing is written before all is read.

mod ahead;

use std::sync::Arc;

use metricsdb_model::{Predicate, Result};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::checkpoint::clean;
use super::files::Files;
use super::frame::{Frame, Head, Kind, Piece, Place, Scan};
use super::gate::Gate;
use super::load::{ColumnsByNumber, Reader, Stream, load_buckets, load_columns, read_rules};
use super::record;
use super::report::{Doubts, Recovery, Skipped};
use super::segment::{HEADER_BYTES, Header, NUMBER_MAX, Name};
use super::writer::{Durability, Writer};
use super::{Journal, storage};
use crate::database::{Database, Options};
use crate::shard::{Rules, SHARDS, Shard};

/// Reads the selector of a precision rule.
pub type Selector = fn(&str) -> Result<Predicate>;

/// What a directory holds is replayed before it is opened, where that is no more than this.
const AT_ONCE_BYTES: u64 = if cfg!(test) { 0 } else { 16 << 20 };

/// A directory and how to open it.
pub struct Opening {
    pub files: Arc<dyn Files>,
    pub durability: Durability,
    /// The secret of a new directory: what nobody can guess who sends labels. One that exists keeps its own.
    pub salt: u32,
    pub selector: Selector,
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

/// What comes next.
enum Stage {
    /// A part of the checkpoint.
    Part(usize),
    /// Some segments.
    Run(usize),
    /// What was written meanwhile.
    Behind,
    Ended,
}

/// A recovery whose database knows its series, and not yet what they hold.
pub struct Replay {
    files: Arc<dyn Files>,
    selector: Selector,
    salt: u32,
    contents: Contents,
    /// Segments of which each but the last failed, and may lack what stands in the next.
    runs: Vec<Vec<u64>>,
    next: Stage,
    /// Whether writes come in meanwhile.
    takes_writes: bool,
    streams: Vec<Stream>,
    columns: ColumnsByNumber,
    /// Records of samples of a file, with their shards, whose values are bad.
    bad: Vec<(usize, Place, Vec<u8>)>,
    doubts: Doubts,
    /// The shards that the checkpoint says to hold.
    present: Option<Vec<u8>>,
    recovery: Recovery,
}

impl Database {
    /// As `begin`, and all of the replay. Errors: `Storage`, `Version`.
    pub fn open(options: Options, opening: Opening) -> Result<(Database, Recovery)> {
        let (db, mut replay) = Database::begin(options, opening)?;
        while !replay.step(&db)? {}
        Ok((db, replay.recovery))
    }

    /// Opens a directory: reads which series there are, and keeps a journal of what is written from now on. Until the steps
    /// of the replay have ended, only writes may be called. `options` as for `new`. What is damaged is passed over and
    /// reported; there the replay has ended when this returns, and a checkpoint was written. Errors: `Storage`, `Version`.
    pub fn begin(options: Options, opening: Opening) -> Result<(Database, Replay)> {
        let Opening { files, durability, salt, selector } = opening;
        let mut db = Database::new(options);
        let contents = Contents::of(&files)?;
        let salt = contents.salt.unwrap_or(salt);
        let last = contents.segments.last().copied().unwrap_or(0);
        let checkpoint = contents.checkpoint.as_ref().map_or(0, |c| c.0);
        let number = last.max(contents.first().saturating_sub(1));
        let mut replay = Replay {
            files: files.clone(),
            selector,
            salt,
            contents,
            runs: Vec::new(),
            next: Stage::Part(0),
            takes_writes: false,
            streams: (0..SHARDS).map(|_| Stream::default()).collect(),
            columns: ColumnsByNumber::new(),
            bad: Vec::new(),
            doubts: Doubts::default(),
            present: None,
            recovery: Recovery::default(),
        };
        let ahead = replay.look_ahead(&db)?;
        let header = Header { salt, duplicates: options.duplicates, number, parts: 0 };
        let writer = Writer::new(files, durability, header, &replay.contents.segments, &replay.recovery);
        db.journal = Some(Journal {
            writer,
            metadata_seq: Mutex::new(ahead.metadata_seq),
            checkpoint: Mutex::new(checkpoint),
            gate: Gate::default(),
        });
        *db.precision.lock() = db.shard(0).precision.clone();
        let bytes = replay.recovery.checkpoint_bytes + replay.recovery.journal_bytes;
        replay.takes_writes = ahead.is_sound && bytes > AT_ONCE_BYTES && !db.has_mixed_rules();
        if replay.takes_writes {
            replay.let_writes_in(&db, bytes);
        } else {
            while !replay.step(&db)? {}
        }
        Ok((db, replay))
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

    /// The first segment that the checkpoint does not hold.
    fn first(&self) -> u64 {
        self.checkpoint.as_ref().and_then(|c| c.1).map_or(0, |list| list.number)
    }

    fn part(&self, at: usize) -> Option<Name> {
        let (number, _, parts) = self.checkpoint.as_ref()?;
        parts.get(at).map(|&part| Name::Part(*number, part))
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

/// All bytes of a file that the directory lists.
fn read(files: &Arc<dyn Files>, name: Name) -> Result<Vec<u8>> {
    files.read(&name.to_string()).map_err(|error| storage(files, &name, &error))
}

fn header(files: &Arc<dyn Files>, name: Name) -> Result<Option<Header>> {
    Header::read(&name.to_string(), &read(files, name)?)
}

fn skipped(file: Name, offset: usize, bytes: usize, why: &str) -> Skipped {
    Skipped { file: file.to_string(), offset: offset as u64, bytes: bytes as u64, why: why.to_owned() }
}

impl Replay {
    /// Takes the next step: a file of the checkpoint or some of the journal. Whether it was the last. Errors: `Storage`, `Version`.
    pub fn step(&mut self, db: &Database) -> Result<bool> {
        self.next = match self.next {
            Stage::Part(at) => match self.contents.part(at) {
                Some(name) => {
                    self.load_part(db, name)?;
                    Stage::Part(at + 1)
                }
                None => {
                    self.end_load(db);
                    Stage::Run(0)
                }
            },
            Stage::Run(at) => match self.runs.get(at).cloned() {
                Some(run) => {
                    self.replay_run(db, &run)?;
                    Stage::Run(at + 1)
                }
                None => Stage::Behind,
            },
            Stage::Behind => {
                self.end(db)?;
                Stage::Ended
            }
            Stage::Ended => Stage::Ended,
        };
        Ok(matches!(self.next, Stage::Ended))
    }

    /// What the recovery did and found; all of it behind the last step.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// From now on the frames of writes wait behind those of the files.
    fn let_writes_in(&self, db: &Database, bytes: u64) {
        db.journal().iter().for_each(|journal| journal.gate.shut(bytes));
        for (number, stream) in self.streams.iter().enumerate() {
            let mut shard = db.shard(number);
            shard.journal_seq = stream.known;
            shard.behind = Some(Vec::new());
        }
    }

    /// Notes bytes of a checkpoint that are not what was written.
    fn skip(&mut self, file: Name, offset: usize, bytes: usize, why: &str) {
        self.recovery.skipped.push(skipped(file, offset, bytes, why));
    }

    fn load_part(&mut self, db: &Database, name: Name) -> Result<()> {
        let bytes = read(&self.files, name)?;
        let frames = self.sort(db, name, &bytes, Bad::Nowhere);
        self.apply(db, name, frames, db.rules, Stream::load);
        self.note_done(db, bytes.len());
        Ok(())
    }

    fn end_load(&mut self, db: &Database) {
        self.columns.clear();
        if self.contents.checkpoint.is_none() {
            return;
        }
        let present = self.present.take().unwrap_or_default();
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.loaded(db, &mut db.shard(number), present.contains(&(number as u8)));
        }
    }

    fn replay_run(&mut self, db: &Database, run: &[u64]) -> Result<()> {
        let names = run.iter().map(|&number| Name::Segment(number));
        let files = names.map(|name| Ok((name, read(&self.files, name)?)));
        let files: Vec<(Name, Vec<u8>)> = files.collect::<Result<_>>()?;
        let last = Name::Segment(run.last().copied().unwrap_or(0));
        let mut duplicates = db.rules.duplicates;
        let mut frames: Vec<Vec<Frame<'_>>> = vec![Vec::new(); SHARDS];
        for (name, bytes) in &files {
            if let Some(header) = Header::read(&name.to_string(), bytes)? {
                duplicates = header.duplicates;
            }
            let may_be_bad = if *name == last { Bad::AtEnd } else { Bad::Anywhere };
            let found = self.sort(db, *name, bytes, may_be_bad);
            frames.iter_mut().zip(found).for_each(|(all, mut found)| all.append(&mut found));
        }
        if files.len() > 1 {
            frames.iter_mut().for_each(|frames| frames.sort_by_key(|frame| frame.head.seq));
        }
        self.apply(db, last, frames, Rules { duplicates, ..db.rules }, Stream::replay);
        self.note_done(db, files.iter().map(|(_, bytes)| bytes.len()).sum());
        Ok(())
    }

    fn note_done(&self, db: &Database, bytes: usize) {
        db.journal().iter().for_each(|journal| journal.gate.done(bytes as u64));
    }

    /// The frames of a file by shard, in their order; what belongs to no shard is taken at once.
    fn sort<'b>(
        &mut self,
        db: &Database,
        name: Name,
        bytes: &'b [u8],
        may_be_bad: Bad,
    ) -> Vec<Vec<Frame<'b>>> {
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
                Piece::Frame(frame) => match self.take(db, frame) {
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
    fn take(&mut self, db: &Database, frame: Frame<'_>) -> Option<Result<()>> {
        Some(match frame.head.kind {
            Kind::Columns => load_columns(db, frame.payload, &mut self.columns),
            Kind::Buckets => load_buckets(db, frame.payload, &mut self.columns),
            Kind::Synced => record::read_synced(frame.payload).map(|(segment, offset)| {
                self.doubts.synced(Place { segment, offset });
            }),
            // `look_ahead` took them.
            Kind::Families | Kind::Metadata | Kind::Whole => Ok(()),
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

    fn apply(
        &mut self,
        db: &Database,
        name: Name,
        frames: Vec<Vec<Frame<'_>>>,
        rules: Rules,
        take: impl Fn(&mut Stream, &Reader<'_>, &mut Shard, Frame<'_>) -> Result<()> + Sync,
    ) {
        let reader = Reader { db, rules, columns: &self.columns, selector: self.selector };
        let of_shard = |(number, (stream, frames)): (usize, (&mut Stream, Vec<Frame<'_>>))| {
            let mut wrong = Vec::new();
            if frames.is_empty() {
                return wrong;
            }
            stream.back_then(&mut db.shard(number), |stream, shard| {
                for frame in frames {
                    if let Err(error) = take(stream, &reader, shard, frame) {
                        wrong.push((frame.payload.len(), error.to_string()));
                    }
                }
            });
            wrong
        };
        let wrong: Vec<(usize, String)> =
            self.streams.par_iter_mut().zip(frames).enumerate().flat_map_iter(of_shard).collect();
        db.index.settle();
        for (number, place, payload) in std::mem::take(&mut self.bad) {
            self.streams[number].outline(&reader, &db.shard(number), place, &payload);
        }
        wrong.into_iter().for_each(|(bytes, why)| self.skip(name, 0, bytes, &why));
    }

    /// Applies what came meanwhile, and settles what is known to be lost.
    fn end(&mut self, db: &Database) -> Result<()> {
        let (columns, salt) = (ColumnsByNumber::new(), self.salt);
        let reader = Reader { db, rules: db.rules, columns: &columns, selector: self.selector };
        let of_shard = self.streams.par_iter_mut().enumerate();
        of_shard.try_for_each(|(number, stream)| stream.catch_up(&reader, &mut db.shard(number), salt))?;
        let (mut keeps_rows, mut losses) = (true, Vec::new());
        // A replay outlives its last step, for what it found: the rows of a million series need not.
        for mut stream in std::mem::take(&mut self.streams) {
            keeps_rows &= stream.keeps_rows();
            self.recovery.samples += stream.samples;
            self.recovery.frames += stream.frames;
            losses.append(&mut stream.lost);
        }
        std::mem::take(&mut self.doubts).settle(losses, &mut self.recovery);
        db.recovered(self.recovery.samples);
        self.recovery.series = db.series_count() as u64;
        let whole = self.recovery.is_whole() && keeps_rows;
        if whole {
            // Before a checkpoint that waits for the end begins: what it writes is none of what is removed.
            clean(&self.files, self.contents.checkpoint.as_ref().map_or(0, |c| c.0), self.contents.first());
        }
        db.journal().iter().for_each(|journal| journal.gate.open());
        if db.has_mixed_rules() {
            // The process ended while it gave all shards their rules.
            db.set_precision_rules(read_rules(self.selector, db.precision_rules())?)?;
        }
        if whole {
            return Ok(());
        }
        // Rows may have other numbers now, and what is lost should be found once.
        let saved = db.checkpoint();
        // Behind writes they have not: what is lost is found again by the next opening, if there is no room now.
        if self.takes_writes { Ok(()) } else { saved.map(drop) }
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
