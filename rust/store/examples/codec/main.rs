//! Bytes a sample and million samples a second, on one core, of our chunks and of their rivals on one data set.
//!
//! `cargo run --release -p metricsdb-store --example codec -- SET [samples a block] [runs]`, where SET is a
//! file as `data.rs` describes it; `python -m benchmarks codecs` writes such files and lays out the tables.
//! Prints one JSON object a codec. Every codec sees the same blocks and gives back every bit; batches are timed,
//! each by the fastest of the runs. Rivals without a codec for times get them for nothing: `times` says so.
#![allow(clippy::unwrap_used)]

mod alp;
mod bits;
mod data;
mod gorilla;
mod measure;
mod ours;
mod pcodec;

use alp::Alp;
use gorilla::Gorilla;
use measure::measure;
use pcodec::Pco;

/// Samples that Prometheus puts into a chunk.
const PROMETHEUS: usize = 120;

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap();
    let mut number = |default: usize| args.next().map_or(default, |s| s.parse().unwrap());
    let (samples, runs) = (number(512), number(9));
    let set = data::read(&std::fs::read(path).unwrap());

    let blocks = data::blocks(&set, samples);
    for row in ours::ours(&set, samples, runs) {
        println!("{}", row.json());
    }
    println!("{}", measure(&Gorilla(PROMETHEUS), &data::blocks(&set, PROMETHEUS), runs).json());
    println!("{}", measure(&Gorilla(samples), &blocks, runs).json());
    println!("{}", measure(&Alp, &blocks, runs).json());
    for level in [0, 4, 8] {
        println!("{}", measure(&Pco::new(level), &blocks, runs).json());
    }
}
