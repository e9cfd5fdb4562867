#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn encoded(column: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(column, &mut out);
    out
}

fn decoded(bytes: &[u8], first: i64, count: usize, from: usize, to: usize) -> Result<(Vec<u64>, usize)> {
    let mut out = Vec::new();
    let mut cursor = Cursor::new(bytes);
    decode(&mut cursor, first, count, from, to, &mut out)?;
    Ok((out, cursor.position()))
}

/// Encodes, decodes the whole and some windows; how many bytes the column takes.
fn round_trip(column: &[i64], windows: &[(usize, usize)]) -> usize {
    let mut bytes = encoded(column);
    let size = bytes.len();
    bytes.extend([0xa5; 3]);
    let words: Vec<u64> = column.iter().map(|&v| v as u64).collect();
    let n = column.len();
    let (all, at) = decoded(&bytes, column[0], n, 0, n).unwrap();
    assert!(all == words, "{n} integers come back as others");
    assert_eq!(at, size);
    for &(from, to) in windows {
        let (from, to) = (from % (n + 1), to % (n + 2));
        let (some, at) = decoded(&bytes, column[0], n, from, to).unwrap();
        assert_eq!(some, words[from.min(to.min(n))..to.min(n)], "{from}..{to} of {n}");
        assert_eq!(at, size);
    }
    size
}

fn column() -> impl Strategy<Value = Vec<i64>> {
    let any_size = (any::<i64>(), 0u32..64).prop_map(|(v, shift)| v >> shift);
    let spiky = prop_oneof![30 => Just(0i64), 2 => -3i64..4, 1 => any::<i64>()];
    let steps = |low: i64, high: i64| vec(low..high, 1..2500).prop_map(summed);
    prop_oneof![
        vec(any::<i64>(), 1..700),
        vec(any_size, 1..1500),
        vec(spiky, 1..2500),
        vec(-3i64..4, 1..2500),
        vec(prop_oneof![200 => Just(0i64), 1 => Just(1i64)], 1..5000),
        (any::<i64>(), any::<i64>(), 1usize..3000)
            .prop_map(|(a, b, n)| (0..n as i64).map(|i| a.wrapping_add(b.wrapping_mul(i))).collect()),
        steps(-3, 4),
        steps(900, 1100),
        steps(-1_000_000, 1_000_000),
        steps(0, 2).prop_map(summed),
        (steps(-5, 6), 1i64..10_000).prop_map(|(c, d)| c.iter().map(|v| v.wrapping_mul(d)).collect()),
        steps(i64::MIN / 4, i64::MAX / 4),
        steps(-3, 4).prop_map(noisy),
    ]
}

fn summed(steps: Vec<i64>) -> Vec<i64> {
    let sums = steps.iter().scan(-7i64, |sum, s| {
        *sum = sum.wrapping_add(*s);
        Some(*sum)
    });
    sums.collect()
}

/// What varies about a level, which drifts.
fn noisy(level: Vec<i64>) -> Vec<i64> {
    level
        .iter()
        .zip(0..)
        .map(|(v, i)| v * 7 + (0..8).map(|k| (noise(8 * i + k) % 30) as i64).sum::<i64>())
        .collect()
}

/// The same numbers in every run.
fn noise(i: u64) -> u64 {
    let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ z >> 27
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn columns_come_back_and_windows_are_slices_of_them(
        column in column(),
        windows in vec((any::<usize>(), any::<usize>()), 6),
    ) {
        round_trip(&column, &windows);
    }

    #[test]
    fn bytes_of_no_column_are_refused_or_give_some_integers(
        bytes in vec(any::<u8>(), 0..300),
        count in 1usize..3000,
    ) {
        if let Ok((all, _)) = decoded(&bytes, 5, count, 0, count) {
            prop_assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn a_changed_column_is_refused_or_gives_as_many_integers(
        column in column(),
        places in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&column);
        let n = bytes.len();
        places.iter().filter(|_| n > 0).for_each(|(at, byte)| bytes[at % n] ^= byte);
        if let Ok((all, _)) = decoded(&bytes, column[0], column.len(), 0, column.len()) {
            prop_assert_eq!(all.len(), column.len());
        }
    }
}

fn small_columns() -> Vec<Vec<i64>> {
    let walk = |n: u64, m: u64| summed((0..n).map(|i| (noise(i) % m) as i64 - 3).collect());
    vec![
        vec![5, 6],
        vec![1; 40],
        (0..40).map(|i| i % 2).collect(),
        walk(60, 7),
        walk(90, 1 << 40),
        (0..30).map(|i| noise(i) as i64).collect(),
        (0..600).map(|i| i64::from(noise(i).is_multiple_of(50))).collect(),
        summed(walk(200, 7)),
    ]
}

#[test]
fn a_column_that_was_cut_is_refused() {
    for column in small_columns() {
        let bytes = encoded(&column);
        for n in 0..bytes.len() {
            assert!(decoded(&bytes[..n], column[0], column.len(), 0, column.len()).is_err(), "{n}");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_gives_as_many_integers() {
    for column in small_columns() {
        let bytes = encoded(&column);
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let n = column.len();
            for (from, to) in [(0, n), (n / 2, n / 2 + 1)] {
                if let Ok((some, _)) = decoded(&bytes, column[0], n, from, to) {
                    assert_eq!(some.len(), to.min(n) - from.min(n));
                }
            }
        }
    }
}

#[test]
fn every_window_of_a_column_of_some_stretches_is_a_slice_of_it() {
    for column in [
        summed((0..1700).map(|i| (noise(i) % (1 << 20)) as i64).collect()),
        summed(summed((0..1700).map(|i| (noise(i) % 1_000_000) as i64).collect())),
        (0..1700).map(|i| (noise(i) % 100_000) as i64).collect(),
        level(),
        level().iter().map(|v| v * 1000).collect(),
    ] {
        let edges = [0, 1, 2, 3, 127, 128, 129, 511, 512, 513, 514, 515, 1023, 1024, 1026, 1537, 1699, 1700];
        let windows: Vec<_> = edges.iter().flat_map(|&from| edges.map(|to| (from, to))).collect();
        round_trip(&column, &windows);
    }
}

fn level() -> Vec<i64> {
    noisy(summed((0..1700).map(|i| (noise(i + 99) % 7) as i64 - 3).collect()))
}

#[test]
fn noise_about_a_level_is_coded_from_the_mean() {
    assert_eq!(encoded(&level())[0] & 3, MEAN);
}

#[test]
fn long_and_short_columns_come_back() {
    for n in [1, 2, 3, 4, 5, 511, 512, 513, 514, 1025, 65_536] {
        for m in [1, 2, 7, 1000, 1 << 50, u64::MAX] {
            let column: Vec<i64> = (0..n).map(|i| (noise(i) % m) as i64).collect();
            round_trip(&column, &[(0, 1), (1, 2), (n as usize - 1, n as usize)]);
            round_trip(&summed(column.clone()), &[(n as usize / 2, n as usize)]);
            round_trip(&summed(summed(column)), &[(n as usize / 2, n as usize)]);
        }
    }
}

#[test]
fn a_constant_or_steady_column_takes_a_few_bytes() {
    assert!(round_trip(&[7; 2048], &[]) <= 10);
    assert!(round_trip(&(0..2048).map(|i| 1000 * i).collect::<Vec<_>>(), &[]) <= 12);
}

#[test]
fn columns_take_little_more_than_their_entropy() {
    let walk = summed((0..2048).map(|i| (noise(i) % 7) as i64 - 3).collect());
    assert!(round_trip(&walk, &[]) <= 2048 * 362 / 1000);
    let rare: Vec<i64> = (0..2048).map(|i| i64::from(noise(i).is_multiple_of(200))).collect();
    assert!(round_trip(&rare, &[]) <= 2048 * 12 / 1000);
}
