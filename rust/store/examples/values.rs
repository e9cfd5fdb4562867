//! Bytes per value and million values a second of the sealed value column, per set and per tier of vectors.
//!
//! `cargo run --release -p metricsdb-store --example values -- [capture.txt [set [runs]]]`, where capture.txt is
//! the unpacked capture: expositions, each after a line `# SCRAPE <ms>`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use metricsdb_model::ValueKind;
use metricsdb_store::codec::choose::{self, Plan};
use metricsdb_store::codec::simd::Tier;
use metricsdb_store::codec::values::Section;

const BLOCK: usize = 512;

fn main() {
    println!("{BLOCK} values a block; bytes a value; M values/s on one core, best of the runs");
    println!("encode cold and with the last block's plan; decode portable, with AVX2 and with AVX-512");
    println!(
        "{:24} {:>8} {:>7} | {:>6} {:>6} | {:>6} {:>6} {:>6}",
        "set", "values", "bytes", "cold", "plan", "plain", "avx2", "avx512"
    );
    let mut args = std::env::args().skip(1);
    let path = args.next();
    let only = args.next();
    let runs = args.next().map_or(9, |s| s.parse().unwrap());
    for (name, set) in sets(path.as_deref()) {
        if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            report(&name, &set, runs);
        }
    }
}

fn sets(path: Option<&str>) -> Vec<(String, Vec<Vec<u64>>)> {
    let mut out = Vec::new();
    if let Some(path) = path {
        let node = capture(path);
        let changing = node.iter().filter(|v| v.iter().any(|b| *b != v[0])).cloned().collect();
        out.push(("node all".to_owned(), node));
        out.push(("node changing".to_owned(), changing));
    }
    let mut made = |name: &str, f: &mut dyn FnMut(&mut Random) -> f64| {
        let series = (0..50).map(|seed| {
            let mut random = Random(seed * 77 + 1);
            (0..2048).map(|_| f(&mut random).to_bits()).collect()
        });
        out.push((name.to_owned(), series.collect()));
    };
    let (mut int, mut two, mut real, mut counter, mut on) = (1000i64, 50_000i64, 50.0f64, 0i64, false);
    made("constant", &mut |_| 1.0);
    made("rare boolean", &mut |r| {
        on ^= r.below(200) == 0;
        f64::from(u8::from(on))
    });
    made("counter, Poisson 5", &mut |r| {
        counter += r.poisson(5.0);
        counter as f64
    });
    made("counter, Poisson 1000", &mut |r| {
        counter += (1000.0 + r.normal() * 1000f64.sqrt()).round() as i64;
        counter as f64
    });
    made("walk, integer", &mut |r| {
        int += r.below(7) - 3;
        int as f64
    });
    made("walk, 2 decimals", &mut |r| {
        two += r.below(201) - 100;
        two as f64 / 100.0
    });
    made("walk, float32", &mut |r| {
        two += r.below(201) - 100;
        f64::from((two as f64 / 100.0) as f32)
    });
    made("averages (ulps)", &mut |r| {
        two += r.below(201) - 100;
        (0..5).map(|i| (two + i) as f64 / 100.0).sum::<f64>() / 5.0
    });
    made("walk, full double", &mut |r| {
        real += r.normal();
        real
    });
    made("random double", &mut |r| r.unit());
    made("random bits", &mut |r| f64::from_bits(r.next()));
    made("few states", &mut |r| [0.1, 1e9, 17.25, 1.0 / 3.0, -5.0][r.below(5) as usize]);
    out
}

/// Series that are in every scrape.
fn capture(path: &str) -> Vec<Vec<u64>> {
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
    series.into_values().filter(|v| v.len() == scrapes).collect()
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

    fn poisson(&mut self, mean: f64) -> i64 {
        let (mut n, mut p) = (0, self.unit());
        while p > (-mean).exp() {
            p *= self.unit();
            n += 1;
        }
        n
    }
}

fn report(name: &str, set: &[Vec<u64>], runs: usize) {
    let blocks: Vec<&[u64]> = set.iter().flat_map(|v| v.chunks_exact(BLOCK)).collect();
    let count = blocks.len() * BLOCK;
    let rate = |seconds: f64| count as f64 / seconds / 1e6;
    let mut out = Vec::with_capacity(1 << 16);
    let mut encode = |bits: &[u64], plan: Option<Plan>| {
        out.clear();
        choose::encode(ValueKind::Float, bits, plan, &mut out);
        black_box(&out).clone()
    };
    let sections: Vec<Vec<u8>> = blocks.iter().map(|b| encode(b, None)).collect();
    let plan = |s: &[u8]| Section::parse(s, ValueKind::Float, BLOCK).unwrap().plan();
    let plans: Vec<Option<Plan>> = sections.iter().map(|s| plan(s)).collect();
    let cold = timed(runs, || blocks.iter().for_each(|b| _ = encode(b, None)));
    let warm = timed(runs, || blocks.iter().zip(&plans).for_each(|(b, p)| _ = encode(b, *p)));
    let mut back: Vec<f64> = Vec::with_capacity(BLOCK);
    let decode = Tier::ALL.map(|tier| {
        tier.limit();
        rate(timed(runs, || {
            for s in &sections {
                back.clear();
                let section = Section::parse(s, ValueKind::Float, BLOCK).unwrap();
                section.decode(0, BLOCK, f64::from_bits, &mut back).unwrap();
                black_box(&back);
            }
        }))
    });
    let bytes: usize = sections.iter().map(Vec::len).sum();
    println!(
        "{name:24} {count:>8} {:>7.4} | {:>6.0} {:>6.0} | {:>6.0} {:>6.0} {:>6.0}",
        bytes as f64 / count as f64,
        rate(cold),
        rate(warm),
        decode[0],
        decode[1],
        decode[2]
    );
}

/// Seconds of the fastest run.
fn timed(runs: usize, mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
