//! Chunks from arbitrary bytes are refused or sound, whatever their checksum says; arbitrary columns come back bit
//! for bit from the open chunk, from sealed ones that grow and from dense ones; a broken open chunk never gives
//! more samples than its state says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Samples, TimeRange, ValueKind, Wants};
use metricsdb_store::chunk::{
    CHUNK_SAMPLES_MAX, Chunk, Folded, SharedColumns, chunks_of, chunks_together, dense, grown,
};
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
    assert!(
        Chunk::from_bytes(bytes).is_err()
            || bytes.ends_with(&crc32fast::hash(&bytes[..bytes.len() - 4]).to_le_bytes())
    );
    let sealed = [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
    let Ok(chunk) = Chunk::from_bytes(&sealed) else { return };
    let header = chunk.header().unwrap();
    let mut folded = Folded::default();
    chunk.fold(TimeRange::ALL, Wants::Sum, &mut folded).unwrap();
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    chunk.decode_into(&mut times, &mut bits).unwrap();
    assert_eq!((times.len(), bits.len()), (header.count, header.count));
    assert!(header.count <= CHUNK_SAMPLES_MAX);
    assert_eq!((times[0], times[times.len() - 1]), (chunk.first(), chunk.last()));
    let middle = times[times.len() / 2];
    let mut out = Samples::default();
    let late = TimeRange::new(middle, i64::MAX);
    chunk.decode_f64(late, &mut out).unwrap();
    assert_eq!(out.timestamps, times[times.len() / 2..]);
    let mut alone = Vec::new();
    chunk.decode_values(late, &mut alone).unwrap();
    assert!(alone.iter().map(|v| v.to_bits()).eq(out.values.iter().map(|v| v.to_bits())));
    let sum = chunk.integer_sum(late).unwrap();
    assert!(sum.is_none_or(|(count, _)| count == out.len()));
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
    let shared = SharedColumns::default();
    let chunk = Chunk::seal(kind, times, bits).unwrap();
    same(&chunk, times, bits);
    same(&dense(kind, std::slice::from_ref(&chunk), &shared).unwrap(), times, bits);
    // The same in two pieces, the second behind the first.
    let (a, b) = (times.split_at(times.len() / 3), bits.split_at(times.len() / 3));
    if !a.0.is_empty() {
        let first = chunks_of(kind, a.0, b.0, &shared).unwrap();
        if let [first] = &first[..]
            && let Some(whole) = grown(first, kind, a.1, b.1, &shared).unwrap()
        {
            same(&whole, times, bits);
        }
    }
    if times.len() >= 4 {
        let other: Vec<u64> = bits.iter().map(|b| b.wrapping_add(1 << 52)).collect();
        for chunk in
            chunks_together(kind, times, &[bits, &other, bits], &shared).unwrap_or_default().iter().step_by(2)
        {
            same(chunk, times, bits);
        }
    }
}

fn same(chunk: &Chunk, times: &[i64], bits: &[u64]) {
    for chunk in [chunk.clone(), Chunk::from_bytes(&chunk.to_bytes()).unwrap()] {
        let (mut t, mut b) = (Vec::new(), Vec::new());
        chunk.decode_into(&mut t, &mut b).unwrap();
        assert_eq!((&t[..], &b[..]), (times, bits));
        whole_sum(chunk.kind(), bits, chunk.integer_sum(TimeRange::ALL).unwrap());
    }
}

fn check_open(kind: ValueKind, times: &[i64], bits: &[u64], breaks: Option<u8>) {
    let mut state = OpenState::new(kind);
    let mut buf = vec![0xff; times.len() * open::SAMPLE_BYTES_MAX];
    let mut taken = 0;
    for (&t, &b) in times.iter().zip(bits) {
        // A run that is too long to be written out ends a chunk.
        if open::append(&mut state, &mut buf, t, b).is_err() {
            assert!(state.holds_long_run() || state.used_bytes() + open::SAMPLE_BYTES_MAX > 1 << 13);
            break;
        }
        taken += 1;
    }
    let (times, bits) = (&times[..taken], &bits[..taken]);
    let used = state.used_bytes();
    if let Some(at) = breaks {
        buf[usize::from(at) % used.max(1)] ^= at | 1;
    }
    let (mut t, mut b) = (Vec::new(), Vec::new());
    let result = open::decode(&state, &buf[..used], &mut t, &mut b);
    if breaks.is_none() {
        result.unwrap();
        assert_eq!((&t[..], &b[..]), (times, bits));
    }
    assert!(t.len() <= times.len());
    let sum = open::integer_sum(&state, &buf[..used], TimeRange::ALL);
    match (sum, breaks) {
        (sum, Some(_)) => assert!(sum.ok().flatten().is_none_or(|(count, _)| count <= times.len())),
        (sum, None) => whole_sum(kind, bits, sum.unwrap()),
    }
}

/// A sum that is known is the exact one.
fn whole_sum(kind: ValueKind, bits: &[u64], sum: Option<(usize, i64)>) {
    let Some((count, sum)) = sum else { return };
    let exact: i128 = bits.iter().map(|&b| kind.widen(b) as i128).sum();
    assert_eq!((count, i128::from(sum)), (bits.len(), exact));
}
