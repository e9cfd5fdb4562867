//! What ingest costs: bytes per series at a million series, and samples per CPU-second, each beside a
//! `HashMap<String, Vec<(i64, f64)>>` that does the same work.
//!
//! `cargo bench -p metricsdb-store --bench ingest [-- card | known | limited | one | columns]`
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::HashMap;

use metricsdb_model::{
    Batch, BatchSeries, Budget, Columns, Grouping, LabelError, LabelsBuilder, Predicate, Samples, Source,
    TimeRange, Values,
};
use metricsdb_store::{Action, Bound, Database, Limit, Options};

const START: i64 = 1_700_006_400_000;
const STEP_MS: i64 = 10_000;
const CPU: [&str; 10] =
    ["user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];

/// Time that all threads of this process have computed, in seconds; ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn rss_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// A small generator: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Eleven labels as TSBS' devops hosts have them, in the wire form of `decode`.
fn hosts(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let regions = ["us-east-1", "us-west-1", "us-west-2", "eu-west-1", "eu-central-1", "sa-east-1"];
    let mut out = Vec::with_capacity(count * CPU.len());
    for host in 0..count {
        let region = regions[random.below(6) as usize];
        let zone = ["a", "b", "c"][random.below(3) as usize];
        let tags = [
            ("arch", ["x64", "x86"][random.below(2) as usize].to_owned()),
            ("datacenter", format!("{region}{zone}")),
            ("hostname", format!("host_{host}")),
            ("os", ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][random.below(3) as usize].to_owned()),
            ("rack", random.below(100).to_string()),
            ("region", region.to_owned()),
            ("service", random.below(20).to_string()),
            ("service_environment", ["production", "staging", "test"][random.below(3) as usize].to_owned()),
            ("service_version", random.below(2).to_string()),
            ("team", ["SF", "NYC", "LON", "CHI"][random.below(4) as usize].to_owned()),
        ];
        for metric in CPU {
            let mut raw = Vec::with_capacity(220);
            push_label(&mut raw, "__name__", &format!("cpu_usage_{metric}"));
            tags.iter().for_each(|(n, v)| push_label(&mut raw, n, v));
            out.push(raw);
        }
    }
    out
}

/// Lengths before texts and tags between, about as long as protobuf writes them.
fn push_label(raw: &mut Vec<u8>, name: &str, value: &str) {
    raw.extend([0x0a, name.len() as u8, value.len() as u8, 0x12]);
    raw.extend(name.as_bytes());
    raw.extend(value.as_bytes());
}

fn decode(mut raw: &[u8], out: &mut LabelsBuilder) -> Result<(), LabelError> {
    while let Some((head, rest)) = raw.split_first_chunk::<4>() {
        let (name, rest) = rest.split_at(head[1] as usize);
        let (value, rest) = rest.split_at(head[2] as usize);
        out.push_bytes(name, value)?;
        raw = rest;
    }
    Ok(())
}

/// Decimals that walk between 0 and 100, as gen.py makes them.
struct Walk {
    random: Random,
    state: Vec<f64>,
}

impl Walk {
    fn new(series: usize) -> Walk {
        let mut random = Random(3);
        let state = (0..series).map(|_| random.below(10_000) as f64 / 100.0).collect();
        Walk { random, state }
    }

    fn step(&mut self, out: &mut Vec<f64>) {
        for s in &mut self.state {
            let noise = (0..4).map(|_| self.random.below(2001) as f64 / 1000.0 - 1.0).sum::<f64>();
            *s = (*s + noise * 0.87).clamp(0.0, 100.0);
        }
        out.extend(self.state.iter().map(|s| (s * 100.0).round() / 100.0));
    }
}

fn report(what: &str, samples: usize, cpu: f64, baseline: f64) {
    println!(
        "{what}: {:.1} M samples per CPU-second; map of vectors {:.1} M",
        samples as f64 / cpu / 1e6,
        samples as f64 / baseline / 1e6
    );
}

/// Writes one step of all series in requests of 10,000.
fn write_step(db: &Database, raws: &[Vec<u8>], time: i64, values: &[f64]) {
    for (raws, values) in raws.chunks(10_000).zip(values.chunks(10_000)) {
        let batch = Batch {
            series: (0u32..)
                .zip(raws)
                .map(|(i, raw)| BatchSeries { raw: Cow::Borrowed(raw), samples: i..i + 1 })
                .collect(),
            timestamps: vec![time; raws.len()],
            values: values.to_vec(),
            ..Batch::new(1, decode)
        };
        assert_eq!(db.write(&batch).accepted, raws.len() as u64);
    }
}

/// A million series with eleven labels and three samples: bytes of RSS for each.
fn card() {
    let raws = hosts(100_000);
    let mut walk = Walk::new(raws.len());
    let mut values = Vec::with_capacity(raws.len());
    let before = rss_bytes();
    let start = cpu_seconds();
    let db = Database::new(Options::default());
    for step in 0..3 {
        values.clear();
        walk.step(&mut values);
        let start = cpu_seconds();
        write_step(&db, &raws, START + step * STEP_MS, &values);
        println!("card: step {step}: {:.2} CPU-seconds", cpu_seconds() - start);
    }
    println!("card: {:.2} CPU-seconds in all", cpu_seconds() - start);
    println!("card: {:.0} bytes of RSS per series", (rss_bytes() - before) / raws.len() as f64);
    let mut sum = 0;
    for part in db.memory() {
        sum += part.bytes;
        println!("  {:32} {:7.1} B/series  {:9} items", part.name, part.bytes as f64 / 1e6, part.items);
    }
    println!("  {:32} {:7.1} B/series", "all parts", sum as f64 / 1e6);
    let keys: Vec<String> = raws.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
    drop(db);
    let before = rss_bytes();
    let mut map: HashMap<String, Vec<(i64, f64)>> = HashMap::new();
    for step in 0..3 {
        for (key, &value) in keys.iter().zip(&values) {
            map.entry(key.clone()).or_default().push((START + step * STEP_MS, value));
        }
    }
    println!("card: {:.0} bytes per series in a map of vectors", (rss_bytes() - before) / raws.len() as f64);
}

/// One sample each to a million series whose labels come as bytes that are known.
fn known() {
    let raws = hosts(100_000);
    let db = Database::new(Options::default());
    let values = vec![1.5; raws.len()];
    write_step(&db, &raws, START, &values);
    let start = cpu_seconds();
    for step in 1..6 {
        write_step(&db, &raws, START + step * STEP_MS, &values);
    }
    let cpu = cpu_seconds() - start;
    let mut map: HashMap<&[u8], Vec<(i64, f64)>> = HashMap::new();
    raws.iter().for_each(|r| map.entry(r).or_default().push((START, 1.5)));
    let start = cpu_seconds();
    for step in 1..6 {
        for raw in &raws {
            map.entry(raw).or_default().push((START + step * STEP_MS, 1.5));
        }
    }
    report(
        "known: one sample each by raw labels, 1,000,000 series",
        raws.len() * 5,
        cpu,
        cpu_seconds() - start,
    );
}

/// A million new series past four limits that none of them meets.
fn limited() {
    let raws = hosts(100_000);
    let values = vec![1.5; raws.len()];
    let named = |name: &str, by: &[&str]| Limit {
        name: name.to_owned(),
        selector: Predicate::All(Vec::new()),
        bound: Bound::Series {
            by: by.iter().map(|label| (*label).to_owned()).collect(),
            max: 10_000_000,
            folded_max: 0,
        },
        action: Action::Reject,
    };
    let churn = Limit { bound: Bound::Churn { new_max: 1 << 40, window_ms: 10_000 }, ..named("churn", &[]) };
    let limits = [named("all", &[]), named("metric", &["__name__"]), named("host", &["hostname"]), churn];
    for count in [0, 1, 4] {
        let db = Database::new(Options::default());
        db.set_limits(limits[..count].to_vec()).unwrap();
        db.limits_tick(START);
        let start = cpu_seconds();
        write_step(&db, &raws, START, &values);
        println!(
            "limited: 1,000,000 new series past {count} limits: {:.2} CPU-seconds",
            cpu_seconds() - start
        );
        let start = cpu_seconds();
        write_step(&db, &raws, START + STEP_MS, &values);
        println!("limited: the same once more, known now: {:.3} CPU-seconds", cpu_seconds() - start);
    }
    let full = Limit {
        bound: Bound::Series { by: Vec::new(), max: 1, folded_max: 1 << 20 },
        action: Action::Overflow(Some("hostname".to_owned())),
        ..named("full", &[])
    };
    let db = Database::new(Options::default());
    db.set_limits(vec![full]).unwrap();
    let one = |host: usize| {
        let mut raw = Vec::new();
        push_label(&mut raw, "__name__", &format!("requests_{}_total", host % 100));
        push_label(&mut raw, "hostname", &format!("host_{host}"));
        raw
    };
    let raws: Vec<Vec<u8>> = (0..raws.len()).map(one).collect();
    for step in 0..2 {
        let start = cpu_seconds();
        write_step(&db, &raws, START + step * STEP_MS, &values);
        println!("limited: 1,000,000 folded series, step {step}: {:.2} CPU-seconds", cpu_seconds() - start);
    }
    let (sources, targets, _) = db.folded();
    let bytes: usize = db.memory().iter().filter(|part| part.name == "limits").map(|part| part.bytes).sum();
    println!("limited: {sources} folded into {targets}, {:.0} bytes each", bytes as f64 / sources as f64);
}

fn registered(hosts_count: usize) -> (Database, Vec<u64>, Vec<String>) {
    let db = Database::new(Options::default());
    let raws = hosts(hosts_count);
    let mut builder = LabelsBuilder::default();
    let mut sets = Vec::new();
    for raw in &raws {
        decode(raw, &mut builder).unwrap();
        sets.push(builder.finish().unwrap());
    }
    let ids = db.register(&sets).unwrap().0;
    (db, ids, sets.iter().map(|s| s.to_string()).collect())
}

/// One sample each to a million series by `append_columns`.
fn one() {
    let (db, ids, keys) = registered(100_000);
    let mut walk = Walk::new(ids.len());
    let mut map: HashMap<&str, Vec<(i64, f64)>> = keys.iter().map(|k| (k.as_str(), Vec::new())).collect();
    let (mut cpu, mut baseline) = (0.0, 0.0);
    let steps = 5;
    for step in 0..steps {
        let mut values = Vec::with_capacity(ids.len());
        walk.step(&mut values);
        let times = vec![START + step * STEP_MS; ids.len()];
        let start = cpu_seconds();
        let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
        assert_eq!(db.append_columns(columns).unwrap().accepted, ids.len() as u64);
        cpu += cpu_seconds() - start;
        let start = cpu_seconds();
        for ((key, &t), &v) in keys.iter().zip(&times).zip(&values) {
            map.entry(key).or_default().push((t, v));
        }
        baseline += cpu_seconds() - start;
    }
    report("one: one sample each to 1,000,000 series", ids.len() * steps as usize, cpu, baseline);
    let start = cpu_seconds();
    let view = db.select(&Predicate::All(Vec::new()), TimeRange::ALL, &Budget::unlimited()).unwrap();
    println!("one: {:.0} ms of CPU to select 1,000,000 series", (cpu_seconds() - start) * 1e3);
    let start = cpu_seconds();
    let groups = view
        .group(&Grouping::By(vec!["datacenter".to_owned(), "service".to_owned()]), &Budget::unlimited())
        .unwrap();
    let took = cpu_seconds() - start;
    println!("one: {:.0} ms of CPU to sort them into {} groups", took * 1e3, groups.labels.len());
    let start = cpu_seconds();
    let bytes: usize = (0..view.len()).map(|i| view.labels(i).as_ref().canonical().len()).sum();
    let took = cpu_seconds() - start;
    println!("one: {:.0} ms of CPU to build their label sets, {bytes} bytes", took * 1e3);
}

/// 40,000 series x 361 steps in batches of ten steps, compressed into chunks.
fn columns() {
    let (db, ids, keys) = registered(4_000);
    let mut walk = Walk::new(ids.len());
    let mut map: HashMap<&str, Vec<(i64, f64)>> = keys.iter().map(|k| (k.as_str(), Vec::new())).collect();
    let (mut cpu, mut baseline, mut samples) = (0.0, 0.0, 0);
    for from in (0..361).step_by(10) {
        let steps = 10.min(361 - from);
        let mut values = Vec::with_capacity(ids.len() * steps);
        (0..steps).for_each(|_| walk.step(&mut values));
        let all: Vec<u64> = ids.iter().copied().cycle().take(values.len()).collect();
        let times: Vec<i64> =
            (0..values.len()).map(|i| START + (from + i / ids.len()) as i64 * STEP_MS).collect();
        samples += values.len();
        let start = cpu_seconds();
        let columns = Columns { ids: &all, timestamps: &times, values: Values::Float(&values) };
        assert_eq!(db.append_columns(columns).unwrap().accepted, values.len() as u64);
        cpu += cpu_seconds() - start;
        let start = cpu_seconds();
        for (i, &v) in values.iter().enumerate() {
            map.entry(&keys[i % keys.len()]).or_default().push((times[i], v));
        }
        baseline += cpu_seconds() - start;
    }
    report("columns: 40,000 series x 361 steps in ten-step batches", samples, cpu, baseline);
    let parts = db.memory();
    let bytes: usize = parts.iter().filter(|p| p.name.contains("chunk")).map(|p| p.bytes).sum();
    println!("columns: {:.2} bytes per sample in open and sealed chunks", bytes as f64 / samples as f64);
    read(&db, &map, samples);
}

/// Selects and decodes what `columns` wrote.
fn read(db: &Database, map: &HashMap<&str, Vec<(i64, f64)>>, samples: usize) {
    let start = cpu_seconds();
    let mut read = Samples::default();
    let (mut series, mut sum) = (0, 0.0);
    for _ in 0..5 {
        let view = db.select(&Predicate::All(Vec::new()), TimeRange::ALL, &Budget::unlimited()).unwrap();
        for i in 0..view.len() {
            read.clear();
            view.read(i, TimeRange::ALL, &mut read).unwrap();
            sum += read.values.iter().sum::<f64>();
        }
        series += view.len();
    }
    let cpu = cpu_seconds() - start;
    let start = cpu_seconds();
    let other: f64 = (0..5).map(|_| map.values().flatten().map(|s| s.1).sum::<f64>()).sum();
    assert!((sum - other).abs() < 1e-6 * sum.abs());
    report(
        "read: all samples of 40,000 series, selected and summed",
        samples * 5,
        cpu,
        cpu_seconds() - start,
    );

    let start = cpu_seconds();
    let range = TimeRange::new(START + 300 * STEP_MS, START + 330 * STEP_MS);
    for _ in 0..5 {
        let view = db.select(&Predicate::All(Vec::new()), range, &Budget::unlimited()).unwrap();
        let groups = view.group(&Grouping::By(vec!["datacenter".to_owned()]), &Budget::unlimited()).unwrap();
        assert_eq!(groups.labels.len(), 18);
        for i in 0..view.len() {
            read.clear();
            view.read(i, range, &mut read).unwrap();
            assert_eq!(read.len(), 31);
        }
    }
    let cpu = cpu_seconds() - start;
    println!(
        "read: {:.2} µs of CPU to select, group and read 5 minutes of a series",
        cpu / series as f64 * 1e6
    );
}

fn main() {
    let all: [(&str, fn()); 5] =
        [("card", card), ("known", known), ("limited", limited), ("one", one), ("columns", columns)];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, run) in all {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run();
        }
    }
}
