//! A directory with bad bytes opens, gives no sample that was not written, and comes to rest: what is opened once more is
//! whole and the same. One whose frames say anything at all under good checksums opens, twice, or is refused.
#![no_main]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use crc32fast::Hasher;
use libfuzzer_sys::fuzz_target;
use metricsdb_model::{
    Batch, BatchHistogram, BatchSeries, Budget, Counts, Histogram, LabelError, LabelsBuilder, Metadata,
    MetricType, Policy, Precision, Predicate, Result, SeriesSet, Tally, TimeRange,
};
use metricsdb_store::journal::{Durability, Files, Opening, Sink};
use metricsdb_store::{Database, Options};

const SALT: u32 = 99;
const FILE_HEADER: usize = 64;
const FRAME_HEADER: usize = 22;

type Directory = BTreeMap<String, Vec<u8>>;
/// Series, time, and bits of the value; histograms by their sum.
type Content = BTreeMap<(String, i64, bool), u64>;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Directory>>);

struct Open(Memory, String);

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap().get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        self.0.lock().unwrap().insert(name.to_owned(), Vec::new());
        Ok(Box::new(Open(self.clone(), name.to_owned())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        let bytes = all.remove(from).ok_or(io::ErrorKind::NotFound)?;
        all.insert(to.to_owned(), bytes);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
    fn place(&self) -> String {
        "memory".to_owned()
    }
}

impl Sink for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.0.0.lock().unwrap();
        all.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn everything(_: &str) -> Result<Predicate> {
    Ok(Predicate::All(Vec::new()))
}

fn open(files: &Memory) -> Result<(Database, bool)> {
    let opening = Opening {
        files: Arc::new(files.clone()),
        durability: Durability::Batch,
        salt: SALT,
        selector: everything,
    };
    let (db, recovery) = Database::open(Options::default(), opening)?;
    Ok((db, recovery.is_whole()))
}

fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    out.push("__name__", std::str::from_utf8(raw).map_err(|e| LabelError::NotUtf8(e.to_string()))?);
    out.push("job", "fuzz");
    Ok(())
}

/// A bit of everything that a record can say.
fn write(db: &Database, from: i64, samples: i64) {
    let mut batch = Batch::new(1, decode);
    for (i, metric) in ["a_total", "b", "c", "rounded"].iter().enumerate() {
        let at = batch.timestamps.len() as u32;
        for step in 0..samples {
            batch.timestamps.push(from + step * 1000 + (step % 7) * i64::from(i == 1));
            batch.values.push(step as f64 / [7.0, 1.0, 8.0, 3.0][i] + i as f64);
            batch.starts.push(if i == 1 { 0 } else { from - 5000 });
        }
        let raw = Cow::Owned(metric.as_bytes().to_vec());
        batch.series.push(BatchSeries { raw, samples: at..batch.timestamps.len() as u32 });
        let point = |n: i64| {
            let counts = Counts::Int(Tally { count: n as u64, zero: n as u64, buckets: Vec::new() });
            let histogram = Histogram { sum: n as f64, counts, ..Histogram::stale() };
            BatchHistogram { series: i as u32, timestamp: from + n * 500, start: from - 1, histogram }
        };
        batch.histograms.extend((0..samples / 4).filter(|_| i == 2).map(point));
    }
    let help = Some("helps".to_owned());
    batch.metadata.push(Metadata {
        metric: "a".to_owned(),
        kind: Some(MetricType::Counter),
        help,
        unit: None,
    });
    assert_eq!(db.write(&batch).rejected_total(), 0);
}

fn rule(digits: u8) -> Vec<(String, Predicate, Policy)> {
    vec![("rounded".to_owned(), everything("").unwrap(), Policy::new(Precision::Digits(digits)))]
}

/// With the first rule and the second, or without.
fn directory(first: bool, second: bool) -> Directory {
    let files = Memory::default();
    let (db, _) = open(&files).unwrap();
    if first {
        db.set_precision_rules(rule(3)).unwrap();
    }
    write(&db, 1_000_000, 150);
    db.densify(1_100_000, u64::MAX, &Budget::unlimited()).unwrap();
    db.checkpoint().unwrap();
    write(&db, 2_000_000, 9);
    write(&db, 900_000, 3);
    if second {
        db.set_precision_rules(rule(2)).unwrap();
    }
    db.close().unwrap();
    let (db, _) = open(&files).unwrap();
    write(&db, 3_000_000, 4);
    write(&db, 4_000_000, 2);
    drop(db);
    let all = files.0.lock().unwrap().clone();
    all
}

/// The directory, and what its samples may be: rounded by the rules that were not lost.
fn base() -> &'static (Directory, Vec<Content>) {
    static BASE: OnceLock<(Directory, Vec<Content>)> = OnceLock::new();
    BASE.get_or_init(|| {
        let kinds = [(true, true), (true, false), (false, true), (false, false)];
        let directories = kinds.map(|(first, second)| directory(first, second));
        let content = |d: &Directory| content(&open(&Memory(Arc::new(Mutex::new(d.clone())))).unwrap().0);
        (directories[0].clone(), directories.iter().map(content).collect())
    })
}

fn content(db: &Database) -> Content {
    let (budget, mut out, every) = (Budget::unlimited(), Content::new(), everything("").unwrap());
    let view = db.select_exact(&every, TimeRange::ALL, &budget).unwrap();
    for i in 0..view.len() {
        let (mut times, mut bits, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let Ok(_) = view.read_exact(i, TimeRange::ALL, &mut times, &mut bits) else { continue };
        let _ = view.read_starts(i, &times, &mut starts);
        let labels = view.labels(i).to_string();
        out.extend(times.into_iter().zip(bits).map(|(time, bits)| ((labels.clone(), time, false), bits)));
    }
    if let Ok(rows) = db.histograms(&every, TimeRange::ALL, &budget) {
        for (i, labels) in rows.labels.iter().enumerate() {
            for at in rows.offsets[i]..rows.offsets[i + 1] {
                out.insert(
                    (labels.to_string(), rows.timestamps[at], true),
                    rows.histograms[at].sum.to_bits(),
                );
            }
        }
    }
    out
}

/// Words of the input; zeros when it ends.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }
    fn word(&mut self, n: usize) -> usize {
        self.take(n).iter().fold(0, |all, &b| all << 8 | usize::from(b))
    }
    fn below(&mut self, n: usize) -> usize {
        self.word(2) % n.max(1)
    }
}

fn file<'d>(directory: &'d mut Directory, input: &mut Input<'_>) -> Option<&'d mut Vec<u8>> {
    let at = input.word(1) % directory.len().max(1);
    directory.values_mut().nth(at)
}

/// What a bad disk does: too little in one place for a checksum to miss it.
fn damage(directory: &mut Directory, input: &mut Input<'_>) {
    let what = input.word(1);
    let Some(bytes) = file(directory, input) else { return };
    let at = input.below(bytes.len());
    let to = (at + input.below(1500)).min(bytes.len());
    match what % 8 {
        0 | 1 => bytes.iter_mut().skip(at).take(2).for_each(|b| *b ^= input.word(1) as u8),
        2 => bytes[at..to].fill(0),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..to)),
        5 => {
            let copy = bytes[at..to].to_vec();
            let into = input.below(bytes.len());
            drop(bytes.splice(into..into, copy));
        }
        6 => {
            let rest = input.take(200).to_vec();
            drop(bytes.splice(at..at, rest));
        }
        _ => {
            let (from, rest) = (input.word(1) % directory.len(), input.word(1));
            let Some(name) = directory.keys().nth(from).cloned() else { return };
            let Some(bytes) = directory.remove(&name) else { return };
            if rest & 1 == 1 {
                let number = rest >> 1 & 7;
                directory.insert(
                    [format!("journal-{number:010}"), format!("checkpoint-{number:010}")][rest >> 4 & 1]
                        .clone(),
                    bytes,
                );
            }
        }
    }
}

/// Frames of a file behind its header: header and payload of each.
fn frames(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut rest, mut out) = (bytes.get(FILE_HEADER..).unwrap_or(&[]), Vec::new());
    while rest.len() >= FRAME_HEADER {
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        let end = (FRAME_HEADER + len).min(rest.len());
        out.push((rest[..FRAME_HEADER].to_vec(), rest[FRAME_HEADER..end].to_vec()));
        rest = &rest[end..];
    }
    out
}

fn mended(mut header: Vec<u8>, payload: &[u8], out: &mut Vec<u8>) {
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let mut hasher = Hasher::new_with_initial(SALT);
    hasher.update(&header[2..16]);
    header[16..18].copy_from_slice(&(hasher.clone().finalize() as u16).to_le_bytes());
    hasher.update(payload);
    header[18..22].copy_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

/// What a mad writer does: anything, under good checksums.
fn edit(directory: &mut Directory, input: &mut Input<'_>) {
    let Some(bytes) = file(directory, input) else { return };
    let mut all = frames(bytes);
    let (what, at) = (input.word(1), input.below(all.len()));
    let Some((header, payload)) = all.get_mut(at) else {
        // The list of a checkpoint: its first copy.
        if bytes.len() < FILE_HEADER {
            return;
        }
        let place = 8 + input.below(20);
        bytes[place] = input.word(1) as u8;
        let sum = crc32fast::hash(&bytes[..28]).to_le_bytes();
        bytes[28..32].copy_from_slice(&sum);
        return;
    };
    let place = input.below(payload.len() + 1);
    let to = (place + input.below(30)).min(payload.len());
    match what % 8 {
        0 | 1 => {
            payload.iter_mut().skip(place).take(1 + (what >> 3) % 9).for_each(|b| *b = input.word(1) as u8)
        }
        2 => drop(payload.splice(place..to, input.take(1 + (what >> 3)).to_vec())),
        3 => payload.truncate(place),
        4 => header[2] = input.word(1) as u8 % 26,
        5 => header[3] = input.word(1) as u8,
        6 => header[8..16].copy_from_slice(&(input.word(8) as u64).to_le_bytes()),
        _ => {
            let copy = all[at].clone();
            let into = input.below(all.len());
            match what >> 3 & 1 {
                0 => drop(all.remove(at)),
                _ => all.insert(into, copy),
            }
        }
    }
    bytes.truncate(FILE_HEADER);
    all.into_iter().for_each(|(header, payload)| mended(header, &payload, bytes));
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, rest)) = data.split_first() else { return };
    let (directory, known) = base();
    let mut directory = directory.clone();
    let mut input = Input(rest);
    for _ in 0..=mode >> 2 & 7 {
        match mode & 3 {
            0 | 1 => damage(&mut directory, &mut input),
            2 => edit(&mut directory, &mut input),
            _ => {
                edit(&mut directory, &mut input);
                damage(&mut directory, &mut input);
            }
        }
    }
    let files = Memory(Arc::new(Mutex::new(directory)));
    let Ok((db, _)) = open(&files) else { return };
    let found = content(&db);
    if mode & 3 < 2 {
        db.check().unwrap();
        for (sample, bits) in &found {
            assert!(known.iter().any(|known| known.get(sample) == Some(bits)), "{sample:?} is {bits:x}");
        }
    }
    drop(db);
    // What a mad writer said may be of a kind that no checkpoint keeps.
    let (db, whole) = open(&files).unwrap();
    if mode & 3 < 2 {
        assert!(whole);
        assert_eq!(content(&db), found);
    }
});
