//! Bytes per sample and million samples a second of the open and the sealed chunk, beside 16-byte pairs
//! and Gorilla's XOR chunk, on node_exporter scrapes and on generated series.
//!
//! `cargo run --release -p metricsdb-store --example codec -- capture.txt [samples per chunk]`, where
//! capture.txt is the unpacked capture: expositions, each after a line `# SCRAPE <ms>`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use metricsdb_model::{Samples, TimeRange, ValueKind};
use metricsdb_store::chunk::Chunk;
use metricsdb_store::codec::open::{self, OpenState};

type Series = (Vec<i64>, Vec<u64>);

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next();
    let per_chunk: usize = args.next().map_or(120, |s| s.parse().unwrap());
    println!("{per_chunk} samples per chunk; B/sample with headers; M samples/s on one core");
    println!(
        "{:24} {:>9} | {:>7} {:>6} {:>6} | {:>7} {:>6} {:>6} | {:>7} {:>6} {:>6}",
        "set", "samples", "gorilla", "enc", "dec", "open", "enc", "dec", "sealed", "enc", "dec"
    );
    for (name, set) in sets(path.as_deref()) {
        report(&name, &set, per_chunk);
    }
}

fn sets(path: Option<&str>) -> Vec<(String, Vec<Series>)> {
    let mut out = Vec::new();
    if let Some(path) = path {
        let node = capture(path);
        let changing: Vec<Series> =
            node.iter().filter(|(_, v)| v.iter().any(|b| *b != v[0])).cloned().collect();
        let wall: Vec<Series> = changing.iter().map(|(_, v)| (jitter(v.len()), v.clone())).collect();
        let fifth = node.iter().map(|(t, v)| {
            let picked: Vec<u64> = v.iter().copied().step_by(5).collect();
            (t[..picked.len()].to_vec(), picked)
        });
        let fifth: Vec<Series> = fifth.collect();
        out.push(("node all".to_owned(), node));
        out.push(("node changing".to_owned(), changing));
        out.push(("node changing, +-5 ms".to_owned(), wall));
        out.push(("node all, every 5th".to_owned(), fifth));
    }
    let mut made = |name: &str, f: &mut dyn FnMut(&mut Random) -> f64| {
        let series = (0..50).map(|seed| {
            let mut random = Random(seed * 77 + 1);
            let values = (0..2048).map(|_| f(&mut random).to_bits()).collect();
            ((0..2048).map(|i| START + i * STEP).collect(), values)
        });
        out.push((name.to_owned(), series.collect()));
    };
    let (mut int, mut two, mut real, mut counter) = (1000i64, 50_000i64, 50.0f64, 0i64);
    made("constant", &mut |_| 1.0);
    made("walk, integer", &mut |r| {
        int += r.below(7) - 3;
        int as f64
    });
    made("walk, 2 decimals", &mut |r| {
        two += r.below(201) - 100;
        two as f64 / 100.0
    });
    made("walk, full double", &mut |r| {
        real += r.unit() - 0.5;
        real
    });
    made("counter, ~1000 a step", &mut |r| {
        counter += 1000 + (0..12).map(|_| r.below(31) - 15).sum::<i64>() / 2;
        counter as f64
    });
    made("averages (ulps)", &mut |r| {
        two += r.below(201) - 100;
        (0..5).map(|i| (two + i) as f64 / 100.0).sum::<f64>() / 5.0
    });
    made("rare boolean", &mut |r| f64::from(u8::from(r.below(200) == 0)));
    out
}

const START: i64 = 1_700_000_000_000;
const STEP: i64 = 15_000;

fn jitter(n: usize) -> Vec<i64> {
    let mut random = Random(9);
    (0..n as i64).map(|i| START + i * STEP + random.below(11) - 5).collect()
}

/// Series that are in every scrape; scrape `i` becomes the time `START + i * STEP`.
fn capture(path: &str) -> Vec<Series> {
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
    let whole = series.into_values().filter(|v| v.len() == scrapes);
    whole.map(|v| ((0..v.len() as i64).map(|i| START + i * STEP).collect(), v)).collect()
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
}

fn report(name: &str, set: &[Series], per_chunk: usize) {
    let pieces: Vec<Series> = set
        .iter()
        .flat_map(|(t, v)| {
            t.chunks(per_chunk).zip(v.chunks(per_chunk)).map(|(t, v)| (t.to_vec(), v.to_vec()))
        })
        .collect();
    let samples: usize = pieces.iter().map(|(t, _)| t.len()).sum();
    let rate = |seconds: f64| samples as f64 / seconds / 1e6;

    let mut gorillas = Vec::new();
    let gorilla_in = timed(|| gorillas = pieces.iter().map(|(t, v)| gorilla::encode(t, v)).collect());
    let gorilla_bytes: usize = gorillas.iter().map(|g: &Vec<u8>| g.len() + 16).sum();
    let (mut ts, mut bits) = (Vec::new(), Vec::new());
    let gorilla_out = timed(|| {
        for (g, (t, v)) in gorillas.iter().zip(&pieces) {
            ts.clear();
            bits.clear();
            gorilla::decode(g, t.len(), &mut ts, &mut bits);
            debug_assert!(ts == *t && bits == *v);
            black_box((&ts, &bits));
        }
    });

    let mut opened: Vec<(OpenState, Vec<u8>)> = Vec::new();
    let mut slab = vec![0u8; per_chunk * 12 + 64];
    let open_in = timed(|| {
        opened.clear();
        for (t, v) in &pieces {
            let mut state = OpenState::new(ValueKind::Float);
            for (&t, &b) in t.iter().zip(v) {
                open::append(&mut state, &mut slab, t, b).unwrap();
            }
            opened.push((state, slab[..state.used_bytes()].to_vec()));
        }
    });
    let open_bytes: usize = opened.iter().map(|(_, b)| b.len() + size_of::<OpenState>()).sum();
    let mut out = Samples::default();
    let open_out = timed(|| {
        for (state, buf) in &opened {
            out.clear();
            open::decode_f64(state, buf, TimeRange::ALL, &mut out).unwrap();
            black_box(&out);
        }
    });

    let mut chunks: Vec<Chunk> = Vec::new();
    let sealed_in = timed(|| {
        chunks = pieces.iter().map(|(t, v)| Chunk::seal(ValueKind::Float, t, v).unwrap()).collect();
    });
    let sealed_bytes: usize = chunks.iter().map(Chunk::bytes).sum();
    let sealed_out = timed(|| {
        for chunk in &chunks {
            out.clear();
            chunk.decode_f64(TimeRange::ALL, &mut out).unwrap();
            black_box(&out);
        }
    });
    for ((state, buf), (chunk, (t, v))) in opened.iter().zip(chunks.iter().zip(&pieces)) {
        ts.clear();
        bits.clear();
        open::decode(state, buf, &mut ts, &mut bits).unwrap();
        chunk.decode_into(&mut ts, &mut bits).unwrap();
        let n = t.len();
        assert!(ts[..n] == *t && ts[n..] == *t && bits[..n] == *v && bits[n..] == *v, "{name}");
    }

    let each = |bytes: usize| bytes as f64 / samples as f64;
    println!(
        "{name:24} {samples:>9} | {:>7.3} {:>6.0} {:>6.0} | {:>7.3} {:>6.0} {:>6.0} | {:>7.3} {:>6.0} {:>6.0}",
        each(gorilla_bytes),
        rate(gorilla_in),
        rate(gorilla_out),
        each(open_bytes),
        rate(open_in),
        rate(open_out),
        each(sealed_bytes),
        rate(sealed_in),
        rate(sealed_out)
    );
    let mut codecs: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for chunk in &chunks {
        let entry = codecs.entry(chunk.codecs()).or_default();
        *entry = (entry.0 + chunk.bytes(), entry.1 + chunk.count());
    }
    let list = codecs.iter().map(|(n, (b, c))| {
        format!("{}/{} {:.0} % at {:.2}", n.0, n.1, *c as f64 / samples as f64 * 100.0, *b as f64 / *c as f64)
    });
    println!("    {}", list.collect::<Vec<_>>().join(", "));
}

/// Seconds of the fastest of nine runs.
fn timed(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..9 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// The published scheme of Gorilla with the time buckets of Prometheus, written plainly.
mod gorilla {
    use metricsdb_store::codec::bits::{BitReader, Code};

    const DOD: [(u32, u64, u32); 3] = [(14, 0b01, 2), (17, 0b011, 3), (20, 0b0111, 4)];

    pub fn encode(ts: &[i64], bits: &[u64]) -> Vec<u8> {
        let mut buf = vec![0u8; ts.len() * 20 + 32];
        let mut at = 0;
        let mut put = |bits: u64, len: u32| {
            let mut code = Code::default();
            code.push(bits, len);
            code.write(&mut buf, at);
            at += len as usize;
        };
        put(ts[0] as u64, 64);
        put(bits[0], 64);
        let (mut step, mut lead, mut len) = (0i64, 64u32, 0u32);
        for i in 1..ts.len() {
            let delta = ts[i] - ts[i - 1];
            let dod = delta - step;
            step = delta;
            match DOD.iter().find(|(w, _, _)| dod >> (w - 1) == 0 || dod >> (w - 1) == -1) {
                _ if dod == 0 => put(0, 1),
                Some(&(w, prefix, n)) => {
                    put(prefix, n);
                    put(dod as u64 & ((1 << w) - 1), w);
                }
                None => {
                    put(0b1111, 4);
                    put(dod as u64, 64);
                }
            }
            let x = bits[i] ^ bits[i - 1];
            if x == 0 {
                put(0, 1);
                continue;
            }
            let (l, t) = (x.leading_zeros().min(31), x.trailing_zeros());
            if l >= lead && 64 - t <= lead + len {
                put(0b01, 2);
                put(x >> (64 - lead - len), len);
            } else {
                (lead, len) = (l, 64 - l - t);
                put(0b11, 2);
                put(u64::from(lead), 5);
                put(u64::from(len - 1), 6);
                put(x >> t, len);
            }
        }
        buf.truncate(at.div_ceil(8));
        buf
    }

    pub fn decode(buf: &[u8], count: usize, ts: &mut Vec<i64>, bits: &mut Vec<u64>) {
        let mut r = BitReader::new(buf);
        let (mut t, mut v, mut step) = (r.take64(64) as i64, r.take64(64), 0i64);
        let (mut lead, mut len) = (0, 0);
        ts.push(t);
        bits.push(v);
        for _ in 1..count {
            let ones = r.peek().trailing_ones().min(4);
            r.skip((ones + 1).min(4));
            step += match ones {
                0 => 0,
                4 => r.take64(64) as i64,
                n => {
                    let w = DOD[n as usize - 1].0;
                    (r.take(w) << (64 - w)) as i64 >> (64 - w)
                }
            };
            t += step;
            if r.take(1) == 1 {
                if r.take(1) == 1 {
                    lead = r.take(5) as u32;
                    len = r.take(6) as u32 + 1;
                }
                v ^= r.take64(len) << (64 - lead - len);
            }
            ts.push(t);
            bits.push(v);
        }
    }
}
