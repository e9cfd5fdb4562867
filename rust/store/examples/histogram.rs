//! Bytes and speed of chunks of histograms beside the same observations as classic series: 40 buckets with
//! Poisson increments.
//!
//! `cargo run --release -p metricsdb-store --example histogram`; pin it to one core for steady figures.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use metricsdb_model::histogram::{Span, Tally};
use metricsdb_model::{Counts, Histogram, Layout, ResetHint, TimeRange, ValueKind, WriteReport};
use metricsdb_store::DuplicatePolicy;
use metricsdb_store::chunk::Chunk;
use metricsdb_store::codec::histogram::HistogramChunk;
use metricsdb_store::histograms::{HistogramSeries, Target};

const BUCKETS: usize = 40;
const ROWS: [usize; 3] = [32, 128, 512];
const TIMED: usize = 9;

/// A small multiplicative generator: the sets are the same in every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        let (mut n, mut product, end) = (0, self.unit(), (-mean).exp());
        while product > end {
            n += 1;
            product *= self.unit();
        }
        n
    }
}

/// Scrapes of buckets that fill up as a latency does, `total` observations a scrape.
fn latencies(rows: usize, total: f64) -> Vec<Histogram> {
    let mut random = Random(7);
    let weights: Vec<f64> = (0..BUCKETS).map(|i| (-(i as f64 - 18.0).powi(2) / 72.0).exp()).collect();
    let all: f64 = weights.iter().sum();
    let positive = vec![Span { offset: -20, length: BUCKETS as u32 }];
    let layout = Arc::new(Layout { schema: 3, positive, ..Layout::default() });
    let (mut buckets, mut sum) = (vec![0u64; BUCKETS], 0.0);
    let row = |_| {
        for (i, (bucket, weight)) in buckets.iter_mut().zip(&weights).enumerate() {
            let add = random.poisson(total * weight / all);
            *bucket += add;
            sum += add as f64 * ((i as f64 - 20.0) / 8.0).exp2() * (0.95 + 0.1 * random.unit());
        }
        let mut tally = Tally { count: 0, zero: 0, buckets: buckets.clone() };
        tally.count = tally.total();
        Histogram { layout: layout.clone(), reset: ResetHint::Unknown, sum, counts: Counts::Int(tally) }
    };
    (0..rows).map(row).collect()
}

/// Cumulative buckets, count and sum, each a series of its own.
fn classic(rows: &[Histogram]) -> Vec<Vec<u64>> {
    let mut columns = vec![Vec::new(); BUCKETS + 2];
    for h in rows {
        let Counts::Int(tally) = &h.counts else { continue };
        let mut below = 0;
        for (column, bucket) in columns.iter_mut().zip(&tally.buckets) {
            below += bucket;
            column.push((below as f64).to_bits());
        }
        columns[BUCKETS].push(h.count().to_bits());
        columns[BUCKETS + 1].push(h.sum.to_bits());
    }
    columns
}

/// The shortest of `TIMED` runs, in seconds.
fn best<T>(mut f: impl FnMut() -> T) -> f64 {
    let run = |_| {
        let start = Instant::now();
        std::hint::black_box(f());
        start.elapsed().as_secs_f64()
    };
    (0..TIMED).map(run).fold(f64::INFINITY, f64::min)
}

fn main() {
    println!(
        "observations a scrape, rows | bytes a row: native, classic, ratio | us a row: seal, decode | classic"
    );
    for total in [0.4, 4.0, 40.0, 400.0] {
        for n in ROWS {
            let times: Vec<i64> = (0..n as i64).map(|i| 1_700_000_000_000 + i * 15_000).collect();
            let rows = latencies(n, total);
            let chunk = HistogramChunk::seal(&times, &rows).unwrap();
            let columns = classic(&rows);
            let seal = |column: &Vec<u64>| Chunk::seal(ValueKind::Float, &times, column).unwrap();
            let parts: Vec<Chunk> = columns.iter().map(seal).collect();
            let bytes: usize = parts.iter().map(Chunk::bytes).sum();
            let sealing = best(|| HistogramChunk::seal(&times, &rows).unwrap());
            let decoding = best(|| {
                let (mut t, mut h) = (Vec::new(), Vec::new());
                chunk.decode_range(TimeRange::ALL, &mut t, &mut h).unwrap();
                h
            });
            let appending = best(|| {
                let mut series = HistogramSeries::default();
                let target = Target { id: 0, duplicates: DuplicatePolicy::Last };
                let mut report = WriteReport::default();
                for (&time, h) in times.iter().zip(&rows) {
                    series.append([(time, 0, h)], target, &mut Vec::new(), &mut report).unwrap();
                }
                series
            });
            let classic_sealing = best(|| columns.iter().map(seal).collect::<Vec<_>>());
            let classic_decoding = best(|| {
                let (mut t, mut b) = (Vec::new(), Vec::new());
                parts.iter().for_each(|c| c.decode_into(&mut t, &mut b).unwrap());
                b
            });
            let us = |seconds: f64| seconds * 1e6 / n as f64;
            println!(
                "{total:>5} {n:>4} | {:6.2} {:6.2} {:3} % | {:5.2} {:5.2} {:5.2} | {:5.2} {:5.2}",
                chunk.bytes() as f64 / n as f64,
                bytes as f64 / n as f64,
                chunk.bytes() * 100 / bytes,
                us(sealing),
                us(decoding),
                us(appending),
                us(classic_sealing),
                us(classic_decoding),
            );
        }
    }
}
