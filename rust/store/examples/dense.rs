//! Bytes a value and million values a second of packed, of dense and of pco's columns of integers.
//!
//! `cargo run --release -p metricsdb-store --example dense -- capture.txt nab/data`, where capture.txt is the
//! unpacked capture (expositions, each after a line `# SCRAPE <ms>`) and nab/data the folder of the Numenta
//! Anomaly Benchmark's series.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use metricsdb_store::codec::cursor::Cursor;
use metricsdb_store::codec::decimal::{self, Reading};
use metricsdb_store::codec::{entropy, integers, together};

/// Values that are timed at once.
const GROUP_VALUES: usize = 16_384;

type Set = (String, Vec<Vec<i64>>);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    println!("B/value, M values/s in and out, on one core; dense / packed - 1");
    println!(
        "{:20} {:>5} {:>7} | {:>6} {:>5} {:>5} | {:>6} {:>5} {:>5} {:>7} | {:>6} {:>5} {:>5}",
        "set", "block", "values", "packed", "in", "out", "dense", "in", "out", "", "pco 8", "in", "out"
    );
    let mut sets = made();
    if let Some(path) = args.first() {
        sets.push(("node".to_owned(), capture(path)));
    }
    if let Some(path) = args.get(1) {
        sets.push(("nab".to_owned(), numenta(Path::new(path))));
    }
    histogram();
    for (name, set) in sets {
        let blocks: &[usize] = if name == "node" { &[120, 512, 600] } else { &[120, 512, 2048] };
        for &block in blocks {
            report(&name, &set, block);
        }
    }
}

fn report(name: &str, set: &[Vec<i64>], block: usize) {
    let pieces: Vec<&[i64]> =
        set.iter().flat_map(|s| s.chunks(block)).filter(|p| p.len() * 4 > block * 3).collect();
    let values: usize = pieces.iter().map(|p| p.len()).sum();
    if values == 0 {
        return;
    }
    let rate = |seconds: f64| values as f64 / seconds / 1e6;
    let size = |all: &[Vec<u8>]| all.iter().map(Vec::len).sum::<usize>() as f64 / values as f64;
    // Each group is timed alone: what takes less than a slice of the processor is often left alone.
    let group = (GROUP_VALUES / block).max(1);
    let whole = |encode: fn(&[i64], &mut Vec<u8>)| {
        let one = |piece: &&[i64]| {
            let mut out = Vec::new();
            encode(piece, &mut out);
            out
        };
        let (mut all, mut seconds): (Vec<Vec<u8>>, f64) = (Vec::new(), 0.0);
        for pieces in pieces.chunks(group) {
            let mut some = Vec::new();
            seconds += timed(|| some = pieces.iter().map(one).collect());
            all.extend(some);
        }
        (all, seconds)
    };
    let (packed, packed_in) = whole(integers::encode);
    let (dense, dense_in) = whole(entropy::encode);
    let mut out: Vec<u64> = Vec::new();
    let mut back = |all: &[Vec<u8>], decode: fn(&[u8], &[i64], &mut Vec<u64>)| {
        let groups = all.chunks(group).zip(pieces.chunks(group));
        let seconds = groups.map(|(all, pieces)| {
            timed(|| {
                for (bytes, piece) in all.iter().zip(pieces) {
                    out.clear();
                    decode(bytes, piece, &mut out);
                    black_box(&out);
                }
            })
        });
        seconds.sum::<f64>()
    };
    let packed_out = back(&packed, |bytes, piece, out| {
        integers::decode(&mut Cursor::new(bytes), piece[0], piece.len(), out).unwrap();
    });
    let dense_out = back(&dense, |bytes, piece, out| {
        entropy::decode(&mut Cursor::new(bytes), piece[0], piece.len(), 0, piece.len(), out).unwrap();
    });
    for (bytes, piece) in dense.iter().zip(&pieces) {
        out.clear();
        entropy::decode(&mut Cursor::new(bytes), piece[0], piece.len(), 0, piece.len(), &mut out).unwrap();
        assert!(out.iter().zip(*piece).all(|(a, b)| *a as i64 == *b), "{name}");
    }
    let pco = pco_of(&pieces);
    println!(
        "{name:20} {block:>5} {values:>7} | {:6.4} {:5.0} {:5.0} | {:6.4} {:5.0} {:5.0} {:+6.1}% | {:6.4} {:5.0} {:5.0}",
        size(&packed),
        rate(packed_in),
        rate(packed_out),
        size(&dense),
        rate(dense_in),
        rate(dense_out),
        100.0 * (size(&dense) / size(&packed) - 1.0),
        pco.0,
        rate(pco.1),
        rate(pco.2),
    );
}

/// Twelve cumulative buckets of a histogram with 50 arrivals a step, in blocks of 512.
fn histogram() {
    let mut random = Random(5);
    let weights: Vec<f64> = (0..12).map(|i| (-((f64::from(i) - 5.0) / 2.5).powi(2) / 2.0).exp()).collect();
    let total: f64 = weights.iter().sum();
    let (mut counts, mut blocks) = (vec![0i64; 12], Vec::new());
    for _ in 0..20 {
        let mut columns = vec![Vec::new(); 12];
        for _ in 0..512 {
            let mut sum = 0;
            for ((count, weight), column) in counts.iter_mut().zip(&weights).zip(&mut columns) {
                *count += random.poisson(50.0 * weight / total);
                sum += *count;
                column.push(sum);
            }
        }
        blocks.push(columns);
    }
    let all = |encode: &dyn Fn(&[&[i64]]) -> usize| {
        let bytes = blocks.iter().map(|b| encode(&b.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        bytes.sum::<usize>() as f64 / (20 * 12 * 512) as f64
    };
    let each = |encode: fn(&[i64], &mut Vec<u8>)| {
        all(&|columns| {
            let mut out = Vec::new();
            columns.iter().for_each(|c| encode(c, &mut out));
            out.len()
        })
    };
    let block = all(&|columns| {
        let mut out = Vec::new();
        together::encode(columns, &mut out);
        out.len()
    });
    println!(
        "12 buckets, 512: packed {:.4}, dense {:.4}, together {block:.4} B/sample",
        each(integers::encode),
        each(entropy::encode)
    );
}

/// Bytes a value, and the seconds of encoding and decoding.
fn pco_of(pieces: &[&[i64]]) -> (f64, f64, f64) {
    if std::env::var("NOPCO").is_ok() {
        return (0.0, 1.0, 1.0);
    }
    let config = pco::ChunkConfig::default().with_compression_level(8);
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let before = Instant::now();
    for piece in pieces {
        let chunk = pco::wrapped::FileCompressor::default().chunk_compressor(piece, &config).unwrap();
        let mut chunk = chunk;
        let (mut meta, mut page) = (Vec::new(), Vec::new());
        chunk.write_meta(&mut meta).unwrap();
        chunk.write_page(0, &mut page).unwrap();
        all.push((meta, page));
    }
    let inward = before.elapsed().as_secs_f64();
    let file = {
        let mut header = Vec::new();
        pco::wrapped::FileCompressor::default().write_header(&mut header).unwrap();
        pco::wrapped::FileDecompressor::new(&header[..]).unwrap().0
    };
    let mut out = vec![0i64; 1 << 16];
    let outward = timed(|| {
        for ((meta, page), piece) in all.iter().zip(pieces) {
            let (mut chunk, _) = file.chunk_decompressor::<i64, _>(&meta[..]).unwrap();
            let mut pages = chunk.page_decompressor(&page[..], piece.len()).unwrap();
            let n = piece.len().div_ceil(256) * 256;
            pages.read(&mut out[..n]).unwrap();
            black_box(&out);
        }
    });
    let bytes: usize = all.iter().map(|(m, p)| m.len() + p.len()).sum();
    let values: usize = pieces.iter().map(|p| p.len()).sum();
    (bytes as f64 / values as f64, inward, outward)
}

/// The best of several runs, in seconds.
fn timed(mut f: impl FnMut()) -> f64 {
    let run = |f: &mut dyn FnMut()| {
        let before = Instant::now();
        f();
        before.elapsed().as_secs_f64()
    };
    (0..9).map(|_| run(&mut f)).fold(f64::INFINITY, f64::min)
}

fn made() -> Vec<Set> {
    let mut out = Vec::new();
    let mut make = |name: &str, f: &mut dyn FnMut(&mut Random) -> i64| {
        let series = (0..50).map(|seed| {
            let mut random = Random(seed * 77 + 1);
            (0..2048).map(|_| f(&mut random)).collect()
        });
        out.push((name.to_owned(), series.collect()));
    };
    let (mut walk, mut real, mut two, mut few, mut many) = (1000i64, 50.0f64, 50.0f64, 0i64, 0i64);
    make("walk -3..3", &mut |r| {
        walk += r.below(7) - 3;
        walk
    });
    make("walk, floor", &mut |r| {
        real += r.normal();
        real.floor() as i64
    });
    make("walk, 2 decimals", &mut |r| {
        two += r.normal();
        (two * 100.0).round() as i64
    });
    make("counter, 5", &mut |r| {
        few += r.poisson(5.0);
        few
    });
    make("counter, 1000", &mut |r| {
        many += r.poisson(1000.0);
        many
    });
    make("rare boolean", &mut |r| i64::from(r.below(200) == 0));
    make("noise, 64 bits", &mut |r| r.next() as i64);
    out
}

/// Mantissas of the changing series that are in every scrape.
fn capture(path: &str) -> Vec<Vec<i64>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut series: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut scrapes = 0;
    for line in text.lines() {
        scrapes += usize::from(line.starts_with("# SCRAPE"));
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        series.entry(name).or_default().push(value.to_bits());
    }
    let whole = series.into_values().filter(|v| v.len() == scrapes && v.iter().any(|b| *b != v[0]));
    whole.filter_map(|v| mantissas(&v)).collect()
}

fn mantissas(bits: &[u64]) -> Option<Vec<i64>> {
    decimal::read(bits, Reading::Quotient).filter(|m| m.exceptions.is_empty()).map(|m| m.column)
}

/// Mantissas of the benchmark's real series.
fn numenta(folder: &Path) -> Vec<Vec<i64>> {
    let mut out = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if !path.to_string_lossy().contains("artificial") {
                out.extend(numenta(&path));
            }
        } else if path.extension().is_some_and(|e| e == "csv") {
            let text = std::fs::read_to_string(&path).unwrap();
            let values = text.lines().skip(1).filter_map(|l| l.rsplit_once(',')?.1.parse::<f64>().ok());
            out.extend(mantissas(&values.map(f64::to_bits).collect::<Vec<_>>()));
        }
    }
    out
}

/// A small multiplicative generator: the sets are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: i64) -> i64 {
        (self.next() >> 33) as i64 % n
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// How many arrivals there are in a time of `mean`.
    fn poisson(&mut self, mean: f64) -> i64 {
        let (mut time, mut n) = (0.0, -1);
        while time < mean {
            time -= (1.0 - self.unit()).ln();
            n += 1;
        }
        n
    }
}
