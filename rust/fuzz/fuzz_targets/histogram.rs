//! Chunks of histograms from arbitrary bytes are refused or sound; arbitrary valid histograms come back bit
//! for bit, and a series that takes them in any order keeps what a map would.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use metricsdb_model::histogram::{Span, Tally};
use metricsdb_model::{Budget, Counts, Histogram, Layout, ResetHint, TimeRange, WriteReport};
use metricsdb_store::DuplicatePolicy;
use metricsdb_store::codec::histogram::{CHUNK_ROWS_MAX, HistogramChunk};
use metricsdb_store::histograms::{HistogramSeries, Target};

fuzz_target!(|data: &[u8]| {
    let Some((&what, rest)) = data.split_first() else { return };
    if what & 1 == 0 { parse(rest) } else { round_trip(Bytes(rest)) }
});

fn parse(bytes: &[u8]) {
    let Ok(chunk) = HistogramChunk::from_bytes(bytes) else { return };
    let header = chunk.header().unwrap();
    let (times, rows) = all(&chunk);
    assert_eq!((times.len(), rows.len()), (header.count, header.count));
    assert!(header.count <= CHUNK_ROWS_MAX);
    assert_eq!((times[0], times[times.len() - 1]), (chunk.first(), chunk.last()));
    rows.iter().for_each(|h| h.validate().unwrap());
    // The writer may need more words than a smaller form that it would not have chosen.
    if let Ok(again) = HistogramChunk::seal(&times, &rows) {
        assert_eq!(all(&again), (times, rows));
        assert_eq!(again.header().unwrap().resets, header.resets);
    }
}

fn all(chunk: &HistogramChunk) -> (Vec<i64>, Vec<Histogram>) {
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    chunk.decode_range(TimeRange::ALL, &mut times, &mut rows).unwrap();
    (times, rows)
}

/// Bytes that numbers are made of; zeros at their end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn word(&mut self, n: usize) -> u64 {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head.iter().fold(0, |acc, &b| acc << 8 | u64::from(b))
    }

    fn spans(&mut self) -> Vec<Span> {
        let count = self.word(1) % 4;
        let span = |i| {
            let offset = self.word(1) as i32;
            Span { offset: if i == 0 { offset - 128 } else { offset }, length: self.word(1) as u32 % 20 }
        };
        (0..count).map(span).collect()
    }

    fn layout(&mut self) -> Layout {
        let schema = self.word(1) as i32 % 14 - 4;
        let mut layout = Layout { schema, positive: self.spans(), ..Layout::default() };
        if schema > 8 {
            layout.schema = -53;
            let bounds = (0..self.word(1) % 30).scan(-10.0, |at, _| {
                *at += self.word(1) as f64 / 8.0;
                Some(*at)
            });
            layout.custom_bounds = bounds.collect();
        } else {
            layout.negative = self.spans();
            layout.zero_threshold = self.word(1) as f64 / 1024.0;
        }
        layout
    }

    fn histogram(&mut self, layout: &Arc<Layout>, last: &[u64]) -> Histogram {
        let how = self.word(1);
        let (above, below) = layout.bucket_counts();
        let mut bucket = |i: usize| match how & 3 {
            0 => last.get(i).copied().unwrap_or(0),
            1 => last.get(i).copied().unwrap_or(0).wrapping_add(self.word(1)),
            2 => self.word(2),
            _ => self.word(8),
        };
        let buckets: Vec<u64> = (0..(above + below) as usize).map(&mut bucket).collect();
        let zero = if layout.schema == -53 { 0 } else { self.word(1) };
        let sum = if how & 4 == 0 { self.word(2) as f64 / 100.0 } else { f64::from_bits(self.word(8)) };
        let counts = if how & 8 == 0 {
            let mut tally = Tally { count: 0, zero, buckets };
            tally.count = tally.total().wrapping_add(if sum.is_nan() { self.word(1) } else { 0 });
            Counts::Int(tally)
        } else {
            let double = |v: u64| if how & 16 == 0 { v as f64 / 8.0 } else { f64::from_bits(v) };
            let buckets = buckets.into_iter().map(double).collect();
            let mut tally = Tally { count: 0.0, zero: zero as f64, buckets };
            tally.count = if how & 32 == 0 { tally.total() } else { double(self.word(8)) };
            Counts::Float(tally)
        };
        let hints = [ResetHint::Unknown, ResetHint::Reset, ResetHint::NotReset, ResetHint::Gauge];
        Histogram { layout: layout.clone(), reset: hints[(how >> 6) as usize], sum, counts }
    }
}

fn round_trip(mut bytes: Bytes) {
    let count = bytes.word(1) % 4 + 1;
    let layouts: Vec<Arc<Layout>> = (0..count).map(|_| Arc::new(bytes.layout())).collect();
    let (mut time, mut last) = (bytes.word(8) as i64 >> 1, Vec::new());
    let (mut model, mut written) = (BTreeMap::new(), Vec::new());
    while !bytes.0.is_empty() && written.len() < 600 {
        let how = bytes.word(1);
        time = time.wrapping_add(if how & 1 == 0 { 15_000 } else { bytes.word(2) as i16 as i64 });
        let histogram = bytes.histogram(&layouts[(how >> 1) as usize % layouts.len()], &last);
        if histogram.validate().is_err() {
            continue;
        }
        if let Counts::Int(tally) = &histogram.counts {
            last.clone_from(&tally.buckets);
        }
        model.insert(time, histogram.clone());
        written.push((time, histogram));
    }
    if written.is_empty() {
        return;
    }
    let (times, rows): (Vec<i64>, Vec<Histogram>) = model.into_iter().unzip();
    let chunk = HistogramChunk::seal(&times, &rows).unwrap();
    let chunk = HistogramChunk::from_bytes(chunk.to_bytes()).unwrap();
    assert_eq!(all(&chunk), (times.clone(), rows.clone()));
    let mut series = HistogramSeries::default();
    let mut report = WriteReport::default();
    for piece in written.chunks(50) {
        let points = piece.iter().map(|(time, h)| (*time, 0, h));
        let target = Target { id: 0, duplicates: DuplicatePolicy::First };
        series.append(points, target, &mut Vec::new(), &mut report).unwrap();
    }
    series.check().unwrap();
    let mut kept = Vec::new();
    series.read_range(TimeRange::ALL, &Budget::unlimited(), &mut kept, &mut Vec::new()).unwrap();
    assert_eq!((report.accepted, kept), (written.len() as u64, times));
}
