//! Histograms for tests, and how others write them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use metricsdb_model::histogram::{SCHEMA_CUSTOM, Span};
use metricsdb_model::{Counts, Histogram, Layout, ResetHint, Tally};

use crate::protobuf::{put_bytes, put_double, put_number, put_varint};

/// One of each kind: integers, doubles, custom buckets, stale, empty.
pub fn histograms() -> Vec<Histogram> {
    let layout = Arc::new(Layout {
        schema: 3,
        zero_threshold: 0.001,
        positive: vec![Span { offset: -2, length: 3 }, Span { offset: 4, length: 1 }],
        negative: vec![Span { offset: 1, length: 2 }],
        custom_bounds: Vec::new(),
    });
    let custom = Arc::new(Layout {
        schema: SCHEMA_CUSTOM,
        positive: vec![Span { offset: 0, length: 3 }],
        custom_bounds: vec![-1.5, 10.0],
        ..Layout::default()
    });
    let int = Counts::Int(Tally { count: 22, zero: 2, buckets: vec![1, 5, 0, 9, 3, 2] });
    let float = Counts::Float(Tally { count: 11.5, zero: 0.5, buckets: vec![1.0, 0.0, 5.5, 2.0, 2.5, 0.0] });
    let few = Counts::Int(Tally { count: 300, zero: 0, buckets: vec![100, 0, 200] });
    let with =
        |layout: &Arc<Layout>, reset, sum, counts| Histogram { layout: layout.clone(), reset, sum, counts };
    vec![
        with(&layout, ResetHint::Reset, -7.5, int.clone()),
        with(&layout, ResetHint::NotReset, f64::NAN, int),
        with(&layout, ResetHint::Gauge, 3.0, float),
        with(&custom, ResetHint::Unknown, 1e300, few),
        Histogram::stale(),
        with(&Arc::default(), ResetHint::Unknown, 0.0, Counts::Int(Tally::default())),
    ]
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn put_list(out: &mut Vec<u8>, field: u32, packed: bool, numbers: &[u64]) {
    if !packed {
        numbers.iter().for_each(|n| put_number(out, field, *n));
    } else if !numbers.is_empty() {
        let mut list = Vec::new();
        numbers.iter().for_each(|n| put_varint(&mut list, *n));
        put_bytes(out, field, &list);
    }
}

fn put_doubles(out: &mut Vec<u8>, field: u32, packed: bool, numbers: &[f64]) {
    if !packed {
        numbers.iter().for_each(|n| put_double(out, field, *n));
    } else if !numbers.is_empty() {
        put_bytes(out, field, &numbers.iter().flat_map(|n| n.to_bits().to_le_bytes()).collect::<Vec<u8>>());
    }
}

fn put_spans(out: &mut Vec<u8>, field: u32, spans: &[Span]) {
    for span in spans {
        let mut one = Vec::new();
        put_number(&mut one, 1, zigzag(i64::from(span.offset)));
        put_number(&mut one, 2, u64::from(span.length));
        put_bytes(out, field, &one);
    }
}

fn deltas(counts: &[u64]) -> Vec<u64> {
    let before = [0].into_iter().chain(counts.iter().copied());
    counts.iter().zip(before).map(|(now, before)| zigzag(*now as i64 - before as i64)).collect()
}

/// As a message of either version of remote write.
pub fn encode(h: &Histogram, timestamp: i64, start: i64, packed: bool) -> Vec<u8> {
    let (mut out, layout) = (Vec::new(), &h.layout);
    let positive = layout.bucket_counts().0 as usize;
    put_double(&mut out, 3, h.sum);
    put_number(&mut out, 4, zigzag(i64::from(layout.schema)));
    put_double(&mut out, 5, layout.zero_threshold);
    put_spans(&mut out, 8, &layout.negative);
    put_spans(&mut out, 11, &layout.positive);
    match &h.counts {
        Counts::Int(tally) => {
            put_number(&mut out, 1, tally.count);
            put_number(&mut out, 6, tally.zero);
            put_list(&mut out, 12, packed, &deltas(&tally.buckets[..positive]));
            put_list(&mut out, 9, packed, &deltas(&tally.buckets[positive..]));
        }
        Counts::Float(tally) => {
            put_double(&mut out, 2, tally.count);
            put_double(&mut out, 7, tally.zero);
            put_doubles(&mut out, 13, packed, &tally.buckets[..positive]);
            put_doubles(&mut out, 10, packed, &tally.buckets[positive..]);
        }
    }
    put_number(&mut out, 14, h.reset as u64);
    put_number(&mut out, 15, timestamp as u64);
    put_doubles(&mut out, 16, packed, &layout.custom_bounds);
    if start != 0 {
        put_number(&mut out, 17, start as u64);
    }
    out
}
