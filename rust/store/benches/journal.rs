//! What durability costs: ingest with and without a journal, bytes of it a sample, checkpoints, and recoveries.
//!
//! `cargo bench -p metricsdb-store --bench journal [-- SERIES SCRAPES DIR [recovery | worst | open]]`: `recovery` leaves ingest
//! out; `worst` leaves in DIR a checkpoint and as long a journal as may be behind it; `open` times what is there, and writes meanwhile.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metricsdb_model::{Columns, Labels, Predicate, Result, Values};
use metricsdb_store::journal::{Durability, Files, Opening, Recovery, Replay, Sink};
use metricsdb_store::{Database, Options};

struct Folder(PathBuf);
struct Appended(File);

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.0)?.map(|e| Ok(e?.file_name().into_string().unwrap_or_default())).collect()
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(Appended(File::create(self.0.join(name))?)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.0.join(name))?.sync_data()
    }
    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
    fn place(&self) -> String {
        self.0.display().to_string()
    }
}

impl Sink for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Time that all threads of this process have computed, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Resident bytes now, and at most so far.
fn memory() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn all(_: &str) -> Result<Predicate> {
    Ok(Predicate::All(Vec::new()))
}

fn opening(folder: &Path, durability: Durability) -> Opening {
    Opening { files: Arc::new(Folder(folder.to_owned())), durability, salt: 5, selector: all }
}

fn open(folder: &Path, durability: Durability) -> (Database, Recovery) {
    Database::open(Options::default(), opening(folder, durability)).unwrap()
}

fn begin(folder: &Path, durability: Durability) -> (Database, Replay) {
    Database::begin(Options::default(), opening(folder, durability)).unwrap()
}

/// Writes a scrape of 1,000 known series every 10 ms until all is replayed; the seconds that the slowest took.
fn write_meanwhile(db: &Database, begun: Instant) -> f64 {
    let (ids, _) = db.register(&label_sets(1000)).unwrap();
    let (mut slowest, values) = (0.0f64, vec![1.5; ids.len()]);
    for scrape in 0.. {
        let asked = Instant::now();
        let times = vec![1_800_000_000_000 + scrape * 10; ids.len()];
        let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
        let report = db.append_columns(columns).unwrap();
        assert_eq!((report.accepted, report.not_durable), (1000, None));
        if scrape == 0 {
            println!("first write durable: {:.2} s", begun.elapsed().as_secs_f64());
        }
        slowest = slowest.max(asked.elapsed().as_secs_f64());
        if db.replaying().is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    slowest
}

fn label_sets(series: usize) -> Vec<Labels> {
    let one = |i: usize| {
        let (host, metric) = ((i / 100).to_string(), format!("node_metric_{}_total", i % 100));
        let pairs = [
            ("__name__", metric.as_str()),
            ("instance", host.as_str()),
            ("job", "node"),
            ("region", ["eu", "us"][i / 100 % 2]),
            ("team", ["a", "b", "c"][i / 300 % 3]),
        ];
        Labels::from_pairs(pairs).unwrap()
    };
    (0..series).map(one).collect()
}

/// A third counters, a third gauges with one decimal, the rest floats or constant.
fn value(i: usize, scrape: usize) -> f64 {
    let noise = ((i * 2_654_435_761) ^ (scrape * 40_503)) as u32;
    match i % 6 {
        0 | 1 => (scrape * (i % 50) * 3) as f64 + f64::from(noise % 8),
        2 | 3 => f64::from(noise % 1000) / 10.0,
        4 => f64::from(noise) / 977.0,
        _ => (i % 7) as f64,
    }
}

fn fill(db: &Database, labels: &[Labels], scrapes: usize) {
    let (ids, _) = db.register(labels).unwrap();
    let mut values = vec![0.0; ids.len()];
    for scrape in 0..scrapes {
        let time = 1_700_000_000_000 + scrape as i64 * 15_000;
        values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i, scrape));
        let report = db
            .append_columns(Columns {
                ids: &ids,
                timestamps: &vec![time; ids.len()],
                values: Values::Float(&values),
            })
            .unwrap();
        assert_eq!((report.rejected_total(), report.not_durable), (0, None));
    }
}

/// A snapshot of a full store, and what comes back of it.
fn recover(folder: &Path, labels: &[Labels], scrapes: usize) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    let files: Arc<dyn Files> = Arc::new(Folder(folder.to_owned()));
    let bytes = |db: &Database| db.memory().iter().map(|part| part.bytes).sum::<usize>() as f64 / 1e6;
    let db = Database::new(Options::default());
    fill(&db, labels, scrapes);
    println!("filled: {:.0} MB by its account, resident {:.0} MB", bytes(&db), memory().0);
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    let saved = db.snapshot(&files, 5).unwrap();
    let (cpu, wall) = (cpu_seconds() - cpu, begun.elapsed().as_secs_f64());
    println!("snapshot: {wall:.1} s, {cpu:.1} s of CPU, {:.0} MB", saved.bytes as f64 / 1e6);
    drop(db);
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    let (db, recovery) = open(folder, Durability::Batch);
    let (cpu, wall) = (cpu_seconds() - cpu, begun.elapsed().as_secs_f64());
    assert_eq!((recovery.samples, recovery.is_damaged()), ((labels.len() * scrapes) as u64, false));
    println!("recovery: {wall:.1} s, {cpu:.1} s of CPU, {:.0} MB by its account", bytes(&db));
    println!("resident {:.0} MB, at most {:.0} MB", memory().0, memory().1);
    fs::remove_dir_all(folder).unwrap();
}

/// A checkpoint of a full store, and behind it the longest journal that is not yet worth another.
fn worst(folder: &Path, labels: &[Labels], scrapes: usize) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    let db = Database::new(Options::default());
    fill(&db, labels, scrapes);
    let saved = db.snapshot(&(Arc::new(Folder(folder.to_owned())) as Arc<dyn Files>), 5).unwrap();
    println!("checkpoint {:.0} MB, resident {:.0} MB", saved.bytes as f64 / 1e6, memory().0);
    drop(db);
    let (db, _) = open(folder, Durability::None);
    let (ids, _) = db.register(labels).unwrap();
    let mut scrape = scrapes;
    while !db.checkpoint_due() {
        let times = vec![1_700_000_000_000 + scrape as i64 * 15_000; ids.len()];
        let values: Vec<f64> = (0..ids.len()).map(|i| value(i, scrape)).collect();
        let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
        db.append_columns(columns).unwrap();
        scrape += 1;
    }
    let replay = db.journal_status().unwrap().replay_bytes as f64 / 1e6;
    println!("journal {replay:.0} MB, {} scrapes, resident {:.0} MB", scrape - scrapes, memory().0);
    db.close().unwrap();
}

fn open_timed(folder: &Path) {
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    let (db, mut replay) = begin(folder, Durability::Batch);
    println!("series known: {:.2} s, {} of them", begun.elapsed().as_secs_f64(), db.series_count());
    let slowest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_meanwhile(&db, begun));
        while !replay.step(&db).unwrap() {}
        writer.join().unwrap()
    });
    let (cpu, wall) = (cpu_seconds() - cpu, begun.elapsed().as_secs_f64());
    println!("the slowest write while it was replayed: {:.0} ms", slowest * 1e3);
    let recovery = replay.recovery();
    let samples = recovery.samples as f64 / 1e6;
    println!("open: {wall:.2} s, {cpu:.2} s of CPU, {samples:.0} M samples, whole: {}", recovery.is_whole());
    let account = db.memory().iter().map(|part| part.bytes).sum::<usize>() as f64 / 1e6;
    println!("{account:.0} MB by its account, resident {:.0} MB, at most {:.0} MB", memory().0, memory().1);
}

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|a| a != "--bench").skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(default, |a| a.parse().unwrap());
    let (series, scrapes) = (number(0, 100_000), number(1, 100));
    let folder = PathBuf::from(arguments.get(2).map_or("target/bench-journal", String::as_str));
    match arguments.get(3).map(String::as_str) {
        Some("worst") => return worst(&folder, &label_sets(series), scrapes),
        Some("open") => return open_timed(&folder),
        _ => {}
    }
    let labels = label_sets(series);
    let samples = (series * scrapes) as f64;
    let told = |what: &str, cpu: f64, wall: f64| {
        let rate = samples / cpu / 1e6;
        println!("{what:28} {wall:7.2} s  {cpu:7.2} s of CPU  {rate:6.2} M samples a CPU-second");
    };
    let timed = |what: &str, work: &dyn Fn()| {
        let (cpu, begun) = (cpu_seconds(), Instant::now());
        work();
        told(what, cpu_seconds() - cpu, begun.elapsed().as_secs_f64());
    };
    println!("{series} series, {scrapes} scrapes, {samples} samples");
    if arguments.get(3).is_some_and(|a| a == "recovery") {
        return recover(&folder, &labels, scrapes);
    }
    timed("values alone", &|| {
        let all = (0..scrapes).map(|s| (0..series).map(|i| value(i, s)).sum::<f64>()).sum::<f64>();
        std::hint::black_box(all);
    });
    timed("memory", &|| fill(&Database::new(Options::default()), &labels, scrapes));
    for mode in [Durability::None, Durability::Interval, Durability::Batch] {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        timed(&format!("{mode:?}"), &|| {
            let (db, _) = open(&folder, mode);
            fill(&db, &labels, scrapes);
            let status = db.journal_status().unwrap();
            let (written, syncs) = (status.written_bytes as f64, status.syncs);
            println!("  {:.2} bytes a sample, {syncs} syncs", written / samples);
            if mode == Durability::Batch {
                println!("  resident: {:.0} MB, at most {:.0}", memory().0, memory().1);
            }
        });
    }
    timed("recovery from the journal", &|| {
        let (db, recovery) = open(&folder, Durability::Batch);
        assert_eq!((recovery.samples as f64, recovery.is_damaged()), (samples, false));
        let begun = Instant::now();
        let saved = db.checkpoint().unwrap();
        let (seconds, bytes) = (begun.elapsed().as_secs_f64(), saved.bytes as f64 / samples);
        println!(
            "  checkpoint: {seconds:.2} s, {:.1} MB, {bytes:.2} bytes a sample",
            saved.bytes as f64 / 1e6
        );
    });
    println!("  resident: {:.0} MB", memory().0);
    timed("recovery from a checkpoint", &|| {
        let (_db, recovery) = open(&folder, Durability::Batch);
        assert_eq!((recovery.samples as f64, recovery.is_damaged()), (samples, false));
        println!("  resident: {:.0} MB", memory().0);
    });
    fs::remove_dir_all(&folder).unwrap();
}
