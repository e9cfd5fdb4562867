//! Chunks from arbitrary bytes are refused or sound; arbitrary columns come back bit for bit, sealed and
//! open; a broken open chunk never gives more samples than its state says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Samples, TimeRange, ValueKind};
use metricsdb_store::chunk::{CHUNK_SAMPLES_MAX, Chunk};
use metricsdb_store::codec::open::{self, OpenState};

fuzz_target!(|data: &[u8]| {
    let Some((&what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 | 1 => parse(rest),
        2 => round_trip(rest, None),
        _ => {
            let Some((&at, rest)) = rest.split_first() else { return };
            round_trip(rest, Some(at));
        }
    }
});

fn parse(bytes: &[u8]) {
    let Ok(chunk) = Chunk::from_bytes(bytes) else { return };
    let header = chunk.header().unwrap();
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    chunk.decode_into(&mut times, &mut bits).unwrap();
    assert_eq!((times.len(), bits.len()), (header.count, header.count));
    assert!(header.count <= CHUNK_SAMPLES_MAX);
    assert_eq!((times[0], times[times.len() - 1]), (chunk.first(), chunk.last()));
    let middle = times[times.len() / 2];
    let mut out = Samples::default();
    chunk.decode_f64(TimeRange::new(middle, i64::MAX), &mut out).unwrap();
    assert_eq!(out.timestamps, times[times.len() / 2..]);
    check(chunk.kind(), &times, &bits);
}

/// One byte says how a step of time and a value are made of the bytes that follow.
fn round_trip(mut data: &[u8], breaks: Option<u8>) {
    let mut word = |n: usize| {
        let n = n.min(data.len());
        let (head, tail) = data.split_at(n);
        data = tail;
        (head.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b)), data.is_empty())
    };
    let kind = ValueKind::ALL[word(1).0 as usize % 3];
    let (mut time, mut value) = (word(8).0 as i64, 0i64);
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    loop {
        let (how, end) = word(1);
        if end || times.len() >= 2000 {
            break;
        }
        let step = if how & 1 == 0 { 15_000 } else { word(if how & 2 == 0 { 2 } else { 8 }).0.max(1) };
        let Some(next) = time.checked_add_unsigned(step) else { break };
        time = next;
        let made = match how >> 2 & 7 {
            0 => bits.last().copied().unwrap_or(0),
            1 => word(8).0,
            2 => 0x7ff0_0000_0000_0002,
            scale => {
                value = value.wrapping_add(word(2).0 as i16 as i64);
                match (kind, scale) {
                    (ValueKind::Int | ValueKind::Uint, _) => value as u64,
                    (_, 3) => (value as f64).to_bits(),
                    (_, 4) => (value as f64 / 100.0).to_bits(),
                    (_, 5) => (value as f64 * 0.001).to_bits(),
                    (_, 6) => (value as f64 / 10.0 + 0.1 + 0.2).to_bits(),
                    _ => (value as f64).sqrt().to_bits(),
                }
            }
        };
        times.push(time);
        bits.push(made);
    }
    if times.is_empty() {
        return;
    }
    check(kind, &times, &bits);
    check_open(kind, &times, &bits, breaks);
}

fn check(kind: ValueKind, times: &[i64], bits: &[u64]) {
    let chunk = Chunk::seal(kind, times, bits).unwrap();
    let chunk = Chunk::from_bytes(chunk.to_bytes()).unwrap();
    let (mut t, mut b) = (Vec::new(), Vec::new());
    chunk.decode_into(&mut t, &mut b).unwrap();
    assert_eq!((&t[..], &b[..]), (times, bits));
}

fn check_open(kind: ValueKind, times: &[i64], bits: &[u64], breaks: Option<u8>) {
    let mut state = OpenState::new(kind);
    let mut buf = vec![0xff; times.len() * open::SAMPLE_BYTES_MAX];
    for (&t, &b) in times.iter().zip(bits) {
        open::append(&mut state, &mut buf, t, b).unwrap();
    }
    let used = state.used_bytes();
    if let Some(at) = breaks {
        buf[usize::from(at) % used] ^= at | 1;
    }
    let (mut t, mut b) = (Vec::new(), Vec::new());
    let result = open::decode(&state, &buf[..used], &mut t, &mut b);
    if breaks.is_none() {
        result.unwrap();
        assert_eq!((&t[..], &b[..]), (times, bits));
    }
    assert!(t.len() <= times.len());
}
