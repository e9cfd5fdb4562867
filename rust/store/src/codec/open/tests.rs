#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::codec::testing::{columns, kind};

/// Appends everything, growing the slice whenever it is full; bytes past the prefix are dirt.
fn write(kind: ValueKind, ts: &[i64], bits: &[u64]) -> (OpenState, Vec<u8>) {
    let (mut state, mut buf) = (OpenState::new(kind), vec![0xa5; 8]);
    for (&t, &b) in ts.iter().zip(bits) {
        loop {
            let before = state;
            match append(&mut state, &mut buf, t, b) {
                Ok(()) => break,
                Err(Full) => {
                    assert_eq!(before, state);
                    buf.truncate(state.used_bytes());
                    let larger = buf.len() + SAMPLE_BYTES_MAX;
                    buf.resize(larger, 0xa5);
                }
            }
        }
    }
    (state, buf)
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<OpenState>() <= 40);
}

#[test]
fn a_regular_unchanged_sample_costs_one_bit() {
    let ts: Vec<i64> = (0..1000).map(|i| 1_700_000_000_000 + i * 15_000).collect();
    let (state, _) = write(ValueKind::Float, &ts, &vec![42.5f64.to_bits(); 1000]);
    assert!(state.used_bytes() <= 998 / 8 + 20, "{}", state.used_bytes());
}

#[test]
fn values_a_few_units_beside_a_decimal_stay_cheap() {
    let bits: Vec<u64> =
        (0..190).map(|i| (f64::from(1000 + i % 7) / 100.0).to_bits() + i as u64 % 19 - 9).collect();
    let ts: Vec<i64> = (0..190).map(|i| 1_700_000_000_000 + i * 15_000).collect();
    let (state, buf) = write(ValueKind::Float, &ts, &bits);
    let (mut t, mut b) = (Vec::new(), Vec::new());
    decode(&state, &buf, &mut t, &mut b).unwrap();
    assert_eq!(b, bits);
    assert_eq!(state.codec(), "decimal+ulp");
    assert!(state.used_bytes() < 190 * 9 / 4, "{}", state.used_bytes());
}

#[test]
fn integers_of_a_range_are_added_up_and_nothing_else_is() {
    let ts: Vec<i64> = (0..100).map(|i| i * 15_000).collect();
    let sum = |odd: f64, at: usize| {
        let value = |i: usize| {
            if i == at {
                odd
            } else if i < 90 {
                (i % 7) as f64 - 3.0
            } else {
                5.0
            }
        };
        let bits: Vec<u64> = (0..100).map(|i| value(i).to_bits()).collect();
        let (state, buf) = write(ValueKind::Float, &ts, &bits);
        let within = TimeRange::new(ts[10], ts[97]);
        let plain = (10..=97).map(|i| i128::from(value(i) as i64)).sum::<i128>() as i64;
        (integer_sum(&state, &buf, within).unwrap(), plain)
    };
    let (found, plain) = sum(2.0, 40);
    assert_eq!(found, Some((88, plain)));
    for odd in [0.5, f64::NAN, f64::from_bits(STALE_NAN_BITS), f64::NEG_INFINITY, 2f64.powi(40)] {
        for at in [12, 40, 97] {
            assert_eq!(sum(odd, at).0, None, "{odd} at {at}");
        }
    }
}

proptest! {
    #[test]
    fn every_sample_comes_back_bit_for_bit((ts, bits) in columns(200), kind in kind()) {
        let (state, buf) = write(kind, &ts, &bits);
        prop_assert_eq!(state.count(), ts.len());
        prop_assert_eq!(state.first_time(&buf), ts.first().copied());
        prop_assert_eq!(state.kind(), kind);
        let mut saved = Vec::new();
        state.save(&mut saved);
        prop_assert_eq!(saved.len(), STATE_BYTES);
        prop_assert_eq!(OpenState::restore(&saved, &buf[..state.used_bytes()]).unwrap(), state);
        let (mut t, mut b) = (Vec::new(), Vec::new());
        decode(&state, &buf[..state.used_bytes()], &mut t, &mut b).unwrap();
        prop_assert_eq!(t, ts);
        prop_assert_eq!(b, bits);
    }

    #[test]
    fn a_range_gives_the_samples_within((ts, bits) in columns(50), kind in kind(), a in 0usize..50, b in 0usize..50) {
        let (state, buf) = write(kind, &ts, &bits);
        let range = TimeRange::new(ts[a.min(ts.len() - 1)], ts[b.min(ts.len() - 1)].saturating_add(1));
        let mut out = Samples::default();
        decode_f64(&state, &buf, range, &mut out).unwrap();
        let wanted: Vec<i64> = ts.iter().copied().filter(|&t| range.contains(t)).collect();
        prop_assert_eq!(&out.timestamps, &wanted);
        let mut alone = vec![1.0];
        decode_values(&state, &buf, range, &mut alone).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&alone[1..]), bits(&out.values));
        if let Some((count, sum)) = integer_sum(&state, &buf, range).unwrap() {
            prop_assert_eq!(count, wanted.len());
            prop_assert!(out.values.iter().all(|v| v.fract() == 0.0));
            prop_assert_eq!(i128::from(sum), out.values.iter().map(|v| *v as i128).sum::<i128>());
        }
    }

    #[test]
    fn broken_bytes_never_panic((ts, bits) in columns(20), kind in kind(), at in 0usize..200, flip in 1u8..=255, cut in 0usize..200) {
        let (state, mut buf) = write(kind, &ts, &bits);
        let n = buf.len();
        buf[at % n] ^= flip;
        buf.truncate(n - cut % n);
        let (mut t, mut b) = (Vec::new(), Vec::new());
        let _ = decode(&state, &buf, &mut t, &mut b);
        prop_assert!(t.len() <= ts.len());
    }
}
