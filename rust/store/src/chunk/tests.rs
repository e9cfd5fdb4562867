#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::codec::testing::{columns, kind};
use metricsdb_model::Wants;
use metricsdb_model::sample::STALE_NAN_BITS;

const START: i64 = 1_700_000_000_000;

fn regular(n: usize) -> Vec<i64> {
    (0..n as i64).map(|i| START + i * 15_000).collect()
}

fn floats(chunk: &Chunk) -> Vec<u64> {
    let (mut t, mut b) = (Vec::new(), Vec::new());
    chunk.decode_into(&mut t, &mut b).unwrap();
    b
}

fn seal(values: impl IntoIterator<Item = f64>) -> Chunk {
    let bits: Vec<u64> = values.into_iter().map(f64::to_bits).collect();
    let chunk = Chunk::seal(ValueKind::Float, &regular(bits.len()), &bits).unwrap();
    assert_eq!(floats(&chunk), bits);
    chunk
}

/// A header computed the slow way.
fn plain_statistics(kind: ValueKind, bits: &[u64]) -> Statistics {
    let all: Vec<f64> = bits.iter().map(|&b| kind.widen(b)).collect();
    let numbers: Vec<f64> = all.iter().copied().filter(|v| !v.is_nan()).collect();
    let stale = bits.iter().filter(|&&b| kind == ValueKind::Float && b == STALE_NAN_BITS).count() as u32;
    Statistics {
        first: all[0],
        last: all[all.len() - 1],
        min: numbers.iter().copied().fold(f64::NAN, f64::min),
        max: numbers.iter().copied().fold(f64::NAN, f64::max),
        resets: Some(match kind {
            ValueKind::Float => numbers.windows(2).filter(|w| w[1] < w[0]).count() as u32,
            ValueKind::Int => bits.windows(2).filter(|w| (w[1] as i64) < (w[0] as i64)).count() as u32,
            ValueKind::Uint => bits.windows(2).filter(|w| w[1] < w[0]).count() as u32,
        }),
        stale,
        nan: (all.len() - numbers.len()) as u32 - stale,
    }
}

/// Broken bytes with a checksum that holds, so that the decoders behind it are reached.
fn sealed_again(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(CHECKSUM_BYTES)];
    [body, &checksum(body)].concat()
}

/// The exact sum of integers; `None` where not all are.
fn whole_sum(values: &[f64]) -> Option<i128> {
    values.iter().map(|v| (v.fract() == 0.0).then_some(*v as i128)).sum()
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[test]
fn a_constant_costs_no_more_than_its_head() {
    assert!(seal(vec![42.0; 512]).to_bytes().len() <= 22);
    assert!(seal(vec![f64::from_bits(STALE_NAN_BITS); 2]).to_bytes().len() <= 29);
}

#[test]
fn each_kind_of_series_finds_its_codec() {
    let codec = |f: &dyn Fn(f64) -> f64| seal((0..500).map(|i| f(f64::from(i)))).codecs().1;
    assert_eq!(codec(&|_| 0.1), "constant");
    assert_eq!(codec(&|i| i * i), "integer");
    assert_eq!(codec(&|i| (i * 17.0 % 1000.0) / 100.0), "decimal");
    assert_eq!(codec(&|i| (i * 17.0 % 1000.0) * 0.001), "product");
    assert_eq!(codec(&|i| (i % 7.0) / 100.0 + 0.1 + 0.2), "near");
    assert_eq!(codec(&|i| (i + 2.0).sqrt()), "bits");
}

#[test]
fn a_marker_or_an_exception_does_not_change_the_codec() {
    for odd in [f64::from_bits(STALE_NAN_BITS), f64::NAN, f64::INFINITY, -0.0, 1e300] {
        let plain = seal((0..500).map(|i| f64::from(i % 50) / 100.0));
        for at in [0, 250, 499] {
            let chunk = seal((0..500).map(|i| if i == at { odd } else { f64::from(i % 50) / 100.0 }));
            assert_eq!(chunk.codecs().1, "decimal");
            assert!(chunk.bytes() <= plain.bytes() + 60, "{odd} {} {}", chunk.bytes(), plain.bytes());
        }
    }
}

#[test]
fn jitter_costs_bits_and_a_gap_bytes() {
    let n = 512;
    let ts: Vec<i64> = (0..n).map(|i| START + i * 15_000 + i * i * 7919 % 104_729 % 11 - 5).collect();
    let flat = vec![1.0f64.to_bits(); ts.len()];
    let jitter = Chunk::seal(ValueKind::Float, &ts, &flat).unwrap();
    assert!(jitter.bytes() + jitter.shared().unwrap().bytes() <= 420, "{}", jitter.bytes());
    let late: Vec<i64> = ts.iter().map(|&t| if t > START + 3_000_000 { t + 45_000 } else { t }).collect();
    let gap = Chunk::seal(ValueKind::Float, &late, &flat).unwrap();
    assert!(
        gap.bytes() <= jitter.bytes() + 8,
        "{:?} {:?}",
        (gap.bytes(), gap.codecs()),
        (jitter.bytes(), jitter.codecs())
    );
}

#[test]
fn wrong_columns_are_refused() {
    assert!(Chunk::seal(ValueKind::Float, &[], &[]).is_err());
    assert!(Chunk::seal(ValueKind::Float, &[1, 2], &[0]).is_err());
    assert!(Chunk::seal(ValueKind::Float, &[2, 2], &[0, 0]).is_err());
    let many = vec![0; CHUNK_SAMPLES_MAX + 1];
    assert!(Chunk::seal(ValueKind::Float, &(0..many.len() as i64).collect::<Vec<_>>(), &many).is_err());
}

proptest! {
    #[test]
    fn every_sample_comes_back_bit_for_bit((ts, bits) in columns(300), kind in kind()) {
        let chunk = Chunk::seal(kind, &ts, &bits).unwrap();
        prop_assert_eq!((chunk.kind(), chunk.count()), (kind, ts.len()));
        prop_assert_eq!((chunk.first(), chunk.last()), (ts[0], *ts.last().unwrap()));
        for chunk in [chunk.clone(), Chunk::from_bytes(&chunk.to_bytes()).unwrap()] {
            let (mut t, mut b) = (vec![7], vec![8]);
            chunk.decode_into(&mut t, &mut b).unwrap();
            prop_assert_eq!(&t[1..], &ts[..]);
            prop_assert_eq!(&b[1..], &bits[..]);
        }
    }

    #[test]
    fn a_range_gives_the_samples_within(
        (ts, bits) in columns(200), kind in kind(), a in 0usize..200, b in 0usize..200, off in -2i64..3,
    ) {
        let chunk = Chunk::seal(kind, &ts, &bits).unwrap();
        let at = |i: usize| ts[i.min(ts.len() - 1)].saturating_add(off);
        let range = TimeRange::new(at(a), at(b));
        let wanted: Vec<usize> = (0..ts.len()).filter(|&i| range.contains(ts[i])).collect();
        let (mut t, mut v) = (Vec::new(), Vec::new());
        chunk.decode_range(range, &mut t, &mut v).unwrap();
        prop_assert_eq!(t, wanted.iter().map(|&i| ts[i]).collect::<Vec<_>>());
        prop_assert_eq!(v, wanted.iter().map(|&i| bits[i]).collect::<Vec<_>>());
        let mut out = Samples::default();
        chunk.decode_f64(range, &mut out).unwrap();
        let values: Vec<u64> = out.values.iter().map(|v| v.to_bits()).collect();
        let mut alone = vec![1.0];
        chunk.decode_values(range, &mut alone).unwrap();
        prop_assert!(alone[1..].iter().map(|v| v.to_bits()).eq(values.iter().copied()));
        prop_assert_eq!(values, wanted.iter().map(|&i| kind.widen(bits[i]).to_bits()).collect::<Vec<_>>());
        prop_assert_eq!(chunk.count_within(range).unwrap(), wanted.len());
        if let Some((count, sum)) = chunk.integer_sum(range).unwrap() {
            prop_assert_eq!((count, i128::from(sum)), (wanted.len(), whole_sum(&out.values).unwrap()));
        }
    }

    #[test]
    fn the_header_knows_what_a_plain_loop_finds((ts, bits) in columns(200), kind in kind()) {
        let header = Chunk::seal(kind, &ts, &bits).unwrap().header().unwrap();
        let (found, wanted) = (header.values, plain_statistics(kind, &bits));
        prop_assert_eq!(header.count, ts.len());
        for (a, b) in [(found.first, wanted.first), (found.last, wanted.last)] {
            prop_assert_eq!(a.to_bits(), b.to_bits());
        }
        prop_assert!(same(found.min, wanted.min) && same(found.max, wanted.max), "{:?} {:?}", found, wanted);
        prop_assert_eq!((found.stale, found.nan), (wanted.stale, wanted.nan));
        prop_assert!(found.resets.is_none() || found.resets == wanted.resets, "{:?} {:?}", found, wanted);
    }

    #[test]
    fn broken_bytes_give_an_error_or_a_sound_chunk(
        (ts, bits) in columns(60), kind in kind(), at in 0usize..4000, flip in 1u8..=255, cut in 0usize..4000,
    ) {
        let mut bytes = Chunk::seal(kind, &ts, &bits).unwrap().to_bytes();
        let n = bytes.len();
        bytes[at % n] ^= flip;
        prop_assert!(Chunk::from_bytes(&bytes).is_err(), "the checksum is broken");
        for bytes in [sealed_again(&bytes), sealed_again(&bytes[..cut % n])] {
            let Ok(chunk) = Chunk::from_bytes(&bytes) else { continue };
            let (mut t, mut b) = (Vec::new(), Vec::new());
            chunk.decode_into(&mut t, &mut b).unwrap();
            chunk.header().unwrap();
            prop_assert!(t.windows(2).all(|w| w[0] < w[1]));
            prop_assert_eq!((t.len(), b.len()), (chunk.count(), chunk.count()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Samples that are added bit by bit make the same chunk as samples that come at once.
    #[test]
    fn a_chunk_that_grows_holds_what_it_was_given(
        (ts, bits) in columns(1500), kind in kind(), cuts in prop::collection::vec(1usize..600, 1..12),
    ) {
        let shared = SharedColumns::default();
        let mut chunks: Vec<Chunk> = Vec::new();
        let (mut rest_t, mut rest_b) = (&ts[..], &bits[..]);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let n = cut.min(rest_t.len());
            if n == 0 {
                break;
            }
            let (t, b);
            ((t, rest_t), (b, rest_b)) = (rest_t.split_at(n), rest_b.split_at(n));
            let larger = match chunks.last() {
                Some(last) => grown(last, kind, t, b, &shared).unwrap(),
                None => None,
            };
            match larger {
                Some(chunk) => *chunks.last_mut().unwrap() = chunk,
                None => chunks.extend(chunks_of(kind, t, b, &shared).unwrap()),
            }
        }
        let (mut t, mut b) = (Vec::new(), Vec::new());
        let mut last = None;
        for chunk in &chunks {
            prop_assert!(last.is_none_or(|l| l < chunk.first()));
            last = Some(chunk.last());
            let chunk = Chunk::from_bytes(&chunk.to_bytes()).unwrap();
            chunk.decode_into(&mut t, &mut b).unwrap();
        }
        prop_assert_eq!(t, ts);
        prop_assert_eq!(b, bits);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The heads of whole blocks say what their samples would.
    #[test]
    fn folding_agrees_with_adding_sample_by_sample(
        (ts, bits) in columns(1800), kind in kind(), a in 0usize..1800, b in 0usize..1800,
        wants in prop::sample::select(vec![Wants::Bounds, Wants::Sum, Wants::Resets]),
    ) {
        let chunk = Chunk::seal(kind, &ts, &bits).unwrap();
        let range = TimeRange::new(ts[a.min(ts.len() - 1)], ts[b.min(ts.len() - 1)]);
        let (mut folded, mut plain) = (Folded::default(), Folded::default());
        chunk.fold(range, wants, &mut folded).unwrap();
        let mut samples = Samples::default();
        chunk.decode_f64(range, &mut samples).unwrap();
        plain.append_samples(samples.timestamps.iter().copied(), &samples.values);
        let (Some(f), Some(p)) = (folded.summary, plain.summary) else {
            prop_assert_eq!(folded.summary.is_some(), plain.summary.is_some());
            return Ok(());
        };
        prop_assert_eq!((f.count, f.first.0, f.last.0), (p.count, p.first.0, p.last.0));
        prop_assert!(same(f.first.1, p.first.1) && same(f.last.1, p.last.1));
        prop_assert!(same(f.min, p.min) && same(f.max, p.max), "{:?} {:?}", f, p);
        let size: f64 = samples.values.iter().filter(|v| !v.is_nan()).map(|v| v.abs()).sum();
        if wants == Wants::Sum && size.is_finite() {
            prop_assert!(same(f.sum(), p.sum()) || (f.sum() - p.sum()).abs() <= size * 1e-13, "{:?} {:?}", f, p);
        }
        if wants == Wants::Resets {
            prop_assert_eq!(f.resets, p.resets);
        }
    }
}

#[test]
fn integers_are_added_up_as_they_are_packed_and_nothing_else_is() {
    let sum = |values: &[f64]| {
        let within = TimeRange::new(START + 15_000, START + (values.len() as i64 - 2) * 15_000);
        seal(values.iter().copied()).integer_sum(within).unwrap()
    };
    let with =
        |odd: f64| (0..300).map(|i| if i == 150 { odd } else { f64::from(i * 7 % 50) }).collect::<Vec<_>>();
    let plain = with(3.0);
    assert_eq!(sum(&plain), Some((298, whole_sum(&plain[1..299]).unwrap() as i64)));
    assert_eq!(sum(&[-7.0; 300]), Some((298, -7 * 298)));
    for odd in [0.5, f64::NAN, f64::from_bits(STALE_NAN_BITS), f64::INFINITY, 2f64.powi(60)] {
        assert_eq!(sum(&with(odd)), None, "{odd}");
        assert_eq!(sum(&[odd; 300]), None, "{odd}");
    }
    let of = |kind, bits: [u64; 3]| {
        let chunk = Chunk::seal(kind, &regular(3), &bits).unwrap();
        chunk.integer_sum(TimeRange::ALL).unwrap()
    };
    assert_eq!(of(ValueKind::Int, [-5i64 as u64, 7, -9i64 as u64]), Some((3, -7)));
    assert_eq!(of(ValueKind::Uint, [5, 7, 9]), Some((3, 21)));
    // Near its greatest number a kind without a sign is not near zero.
    assert_eq!(of(ValueKind::Uint, [u64::MAX, u64::MAX - 7, u64::MAX - 2]), None);
    assert_eq!(of(ValueKind::Uint, [3, u64::MAX, 4]), None);
}

#[test]
fn a_range_of_whole_blocks_is_folded_without_decoding() {
    let values: Vec<u64> = (0..2048).map(|i| f64::from(i * 7 % 1000).to_bits()).collect();
    let chunk = Chunk::seal(ValueKind::Float, &regular(2048), &values).unwrap();
    let decoded = |range, wants| {
        let mut folded = Folded::default();
        chunk.fold(range, wants, &mut folded).unwrap();
        folded.decoded
    };
    assert_eq!(decoded(TimeRange::ALL, Wants::Sum), 0);
    assert_eq!(decoded(TimeRange::ALL, Wants::Resets), 2048, "the values before resets are in no head");
    let inside = TimeRange::new(START + 100 * 15_000, START + 1900 * 15_000);
    assert_eq!(decoded(inside, Wants::Sum), (512 - 100) + (1901 - 1536));
}

#[test]
fn every_flip_and_every_cut_of_small_chunks_is_survived() {
    let columns: [Vec<f64>; 4] = [
        vec![1.5; 3],
        (0..70).map(|i| f64::from(i % 9) * 0.01).collect(),
        (0..70).map(|i| if i == 5 { f64::NAN } else { f64::from(i * i) }).collect(),
        (0..20).map(|i| f64::from(i).sqrt()).collect(),
    ];
    for values in columns {
        let irregular: Vec<i64> = regular(values.len()).iter().map(|t| t + t / 15_000 % 3).collect();
        let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
        let good = Chunk::seal(ValueKind::Float, &irregular, &bits).unwrap();
        for at in 0..good.to_bytes().len() {
            assert!(Chunk::from_bytes(&good.to_bytes()[..at]).is_err());
            for bit in 0..8 {
                let mut bytes = good.to_bytes();
                bytes[at] ^= 1 << bit;
                assert!(Chunk::from_bytes(&bytes).is_err());
                if let Ok(chunk) = Chunk::from_bytes(&sealed_again(&bytes)) {
                    assert_eq!(floats(&chunk).len(), chunk.count());
                }
            }
        }
    }
}

#[test]
fn a_short_chunk_is_written_anew_only_with_few_samples_behind_it() {
    let shared = SharedColumns::default();
    let column = |from: i64, count: i64| -> (Vec<i64>, Vec<u64>) {
        (from..from + count).map(|i| (i * 1000 + i * i % 7, (i as f64).to_bits())).unzip()
    };
    let short: Vec<i64> = (0..100).map(|i| i * 1000).collect();
    let bits: Vec<u64> = (0..100).map(|i| f64::from(i).to_bits()).collect();
    let last = chunks_of(ValueKind::Float, &short, &bits, &shared).unwrap().remove(0);
    for (count, is_one) in [(200, true), (1024, false)] {
        let (times, bits) = column(100, count);
        let grown = grown(&last, ValueKind::Float, &times, &bits, &shared).unwrap();
        assert_eq!(grown.map(|chunk| chunk.count()), is_one.then_some(100 + count as usize));
    }
    // A step that no regular chunk has.
    let far = grown(&last, ValueKind::Float, &[(1 << 62) + 99_000], &bits[..1], &shared).unwrap();
    assert_eq!(far.map(|chunk| (chunk.count(), chunk.last())), Some((101, (1 << 62) + 99_000)));
}
