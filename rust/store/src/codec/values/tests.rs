#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestCaseResult;

use metricsdb_model::sample::{NORMAL_NAN_BITS, STALE_NAN_BITS};

use super::*;
use crate::codec::choose;
use crate::codec::simd::Tier;
use crate::codec::testing::{kind, values};

fn sealed(kind: ValueKind, bits: &[u64], last: Option<Plan>) -> Vec<u8> {
    let mut out = vec![9];
    choose::encode(kind, bits, last, &mut out);
    assert_eq!(out.remove(0), 9, "what stands before is left alone");
    out
}

fn opened(kind: ValueKind, bytes: &[u8], count: usize) -> Vec<u64> {
    Section::parse(bytes, kind, count).unwrap().all().unwrap()
}

fn floats(f: impl Fn(i64) -> f64) -> Vec<u64> {
    (0..512).map(|i| f(i).to_bits()).collect()
}

/// Name, bytes and detail, after the values came back.
fn floats_sealed(f: impl Fn(i64) -> f64) -> (&'static str, usize, String) {
    let bits = floats(f);
    let bytes = sealed(ValueKind::Float, &bits, None);
    assert_eq!(opened(ValueKind::Float, &bytes, 512), bits);
    let section = Section::parse(&bytes, ValueKind::Float, 512).unwrap();
    (section.name(), bytes.len(), section.detail())
}

/// A number that looks like chance.
fn chance(i: i64, below: i64) -> i64 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33)
        as i64
        % below
}

#[test]
fn each_kind_of_column_finds_its_codec() {
    let walk = |i: i64| (0..=i).map(|i| chance(i, 201) - 100).sum::<i64>();
    let found = |f: &dyn Fn(i64) -> f64| floats_sealed(f);
    assert_eq!(found(&|_| 12.5), ("constant", 3, "constant".into()));
    assert_eq!(found(&|i| f64::from(u8::from(i % 97 > 90))).0, "runs");
    assert_eq!(found(&|i| [0.1, 1e9, 17.25, 1.0 / 3.0, -5.0][chance(i, 5) as usize]).0, "dictionary");
    let (name, bytes, detail) = found(&|i| walk(i) as f64);
    assert_eq!((name, detail.as_str()), ("integer", "integer, steps around a centre, width 8"));
    assert!(bytes <= 524, "{bytes}");
    assert_eq!(found(&|i| walk(i) as f64 / 100.0).0, "decimal");
    assert_eq!(found(&|i| walk(i) as f64 * 0.001).0, "product");
    assert_eq!(found(&|i| walk(i) as f64 / 1000.0 + 0.1 + 0.2).0, "near");
    assert_eq!(found(&|i| f64::from((walk(i) as f64 / 100.0) as f32)).0, "single");
    assert_eq!(found(&|i| (i as f64).sqrt()).0, "bits");
}

#[test]
fn small_columns_are_as_small_as_they_should_be() {
    assert_eq!(floats_sealed(|_| f64::from_bits(STALE_NAN_BITS)).1, 9);
    assert_eq!(floats_sealed(|_| -0.0).1, 2);
    assert_eq!(floats_sealed(|i| f64::from(u8::from(i == 300))).1, 6);
    assert!(floats_sealed(|i| i as f64 * 15.0).1 <= 10);
    assert!(
        floats_sealed(|i| f64::from_bits((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))).1 <= 8 * 512 + 24
    );
}

#[test]
fn a_plan_that_fits_gives_what_was_there_and_one_that_does_not_is_dropped() {
    let counter = floats(|i| (1000 + i * 7 + chance(i, 50)) as f64);
    let decimals = floats(|i| chance(i, 100_000) as f64 / 100.0);
    let plan = |bits: &[u64]| {
        let bytes = sealed(ValueKind::Float, bits, None);
        Section::parse(&bytes, ValueKind::Float, bits.len()).unwrap().plan()
    };
    for bits in [&counter, &decimals] {
        let cold = sealed(ValueKind::Float, bits, None);
        assert_eq!(sealed(ValueKind::Float, bits, plan(bits)), cold);
    }
    for (bits, other) in [(&counter, &decimals), (&decimals, &counter)] {
        let (cold, warm) =
            (sealed(ValueKind::Float, bits, None), sealed(ValueKind::Float, bits, plan(other)));
        assert!(warm.len() * 100 <= cold.len() * 103, "{} {}", warm.len(), cold.len());
    }
}

/// The least that any reading and any shape takes, from what is chosen.
fn least(kind: ValueKind, bits: &[u64]) -> usize {
    use crate::codec::layout::tests::chosen_and_least;
    use crate::codec::{decimal, write};
    let section = |column: &[i64], write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        let (chosen, least) = chosen_and_least(column);
        out.len().saturating_sub((chosen - least) / 8)
    };
    if kind.is_integer() {
        let column: Vec<i64> = bits.iter().map(|&b| kind.ordered(b)).collect();
        return section(&column, &|out| write::integers(kind, bits, None, out));
    }
    let column: Vec<i64> = bits.iter().map(|&b| ordered(b)).collect();
    let mut best = section(&column, &|out| write::ordered_bits(bits, None, out));
    for reading in [Reading::Quotient, Reading::Product, Reading::Near, Reading::Single] {
        if let Some(found) = decimal::read(bits, reading) {
            best = best.min(section(&found.column, &|out| write::decimals(&found, bits, None, out)));
        }
    }
    best
}

#[test]
fn the_choice_is_within_a_twentieth_of_the_best_for_nearly_all_columns() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (kind(), values(512));
    let (mut all, mut cold, mut warm) = (0, 0, 0);
    while all < 400 {
        let (kind, bits) = strategy.new_tree(&mut runner).unwrap().current();
        let (a, b) = bits.split_at(256);
        if a.iter().all(|x| x == &a[0]) || b.iter().all(|x| x == &b[0]) {
            continue;
        }
        all += 1;
        let near = |found: usize, bits: &[u64]| usize::from(found * 100 <= least(kind, bits) * 105 + 100);
        cold += near(sealed(kind, &bits, None).len(), &bits);
        let before = sealed(kind, a, None);
        let plan = Section::parse(&before, kind, a.len()).unwrap().plan();
        warm += near(sealed(kind, b, plan).len(), b);
    }
    assert!(cold * 100 >= all * 95, "{cold} of {all} without a plan");
    assert!(warm * 100 >= all * 95, "{warm} of {all} with the plan of the half before");
}

#[test]
fn bytes_that_ask_for_much_get_little() {
    for kind in [ValueKind::Float, ValueKind::Int] {
        for count in [1usize, 2, 512, 1 << 16] {
            for head in (0..=255u8).step_by(if count > 512 { 9 } else { 1 }) {
                for tail in
                    [&[][..], &[0; 3], &[0xff; 40], &[0x21, 0, 0, 0, 0, 0], &[2, 0x7f, 0xff, 0, 4, 0, 1]]
                {
                    let bytes: Vec<u8> = std::iter::once(head).chain(tail.iter().copied()).collect();
                    let Ok(section) = Section::parse(&bytes, kind, count) else { continue };
                    let mut out: Vec<u64> = Vec::new();
                    if section.decode(0, count, |b| b, &mut out).is_ok() {
                        assert_eq!(out.len(), count);
                    }
                    assert!(out.capacity() <= (2 * count).max(8));
                    _ = (section.statistics(), section.sum(), section.detail(), section.plan());
                }
            }
        }
    }
}

#[test]
fn all_tiers_read_the_same() {
    let sets: Vec<Vec<u64>> = vec![
        floats(|i| (i * i * 1000 + chance(i, 1000)) as f64),
        floats(|i| chance(i, 1 << 40) as f64 / 1e6),
        floats(|i| chance(i, 1 << 20) as f64 * 0.001),
        floats(|i| f64::from((chance(i, 1 << 20) as f64 / 100.0) as f32)),
        floats(|i| chance(i, 1 << 20) as f64 / 1000.0 + 0.1 + 0.2),
        floats(|i| (i as f64).sqrt() * if i % 50 == 7 { 1e9 } else { 1.0 }),
        floats(|i| ((1i64 << 53) - chance(i, 1 << 30)) as f64),
    ];
    for tier in Tier::ALL {
        tier.limit();
        for bits in &sets {
            assert_eq!(
                opened(ValueKind::Float, &sealed(ValueKind::Float, bits, None), 512),
                *bits,
                "{tier:?}"
            );
        }
    }
    Tier::Avx512.limit();
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

fn check(kind: ValueKind, bits: &[u64], bytes: &[u8], from: usize, to: usize) -> TestCaseResult {
    let n = bits.len();
    let section = Section::parse(bytes, kind, n).unwrap();
    prop_assert_eq!(section.all().unwrap(), bits);
    let (from, to) = (from.min(to) % (n + 1), from.max(to) % (n + 2));
    let mut part = vec![1, 2];
    section.decode(from, to, |b| b, &mut part).unwrap();
    prop_assert_eq!(&part[2..], bits.get(from..to.min(n)).unwrap_or(&[]));
    let (found, wanted) = (section.statistics().unwrap(), Statistics::of(kind, bits).unwrap());
    for (a, b) in [(found.first, wanted.first), (found.last, wanted.last)] {
        prop_assert_eq!(a.to_bits(), b.to_bits());
    }
    prop_assert!(same(found.min, wanted.min) && same(found.max, wanted.max), "{:?} {:?}", found, wanted);
    prop_assert_eq!((found.stale, found.nan), (wanted.stale, wanted.nan));
    prop_assert!(found.resets.is_none() || found.resets == wanted.resets, "{:?} {:?}", found, wanted);
    let numbers = bits.iter().map(|&b| kind.widen(b)).filter(|v| !v.is_nan());
    let (size, plain): (f64, f64) = (numbers.clone().map(f64::abs).sum(), numbers.sum());
    if size.is_finite() {
        let sum = section.sum().unwrap();
        prop_assert!((sum - plain).abs() <= size * 1e-13, "{} {}", sum, plain);
    }
    prop_assert!(!section.detail().is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn every_column_comes_back_and_is_known_without_reading_it(
        bits in (1usize..700).prop_flat_map(values), kind in kind(), from in 0usize..800, to in 0usize..800,
    ) {
        check(kind, &bits, &sealed(kind, &bits, None), from, to)?;
    }

    #[test]
    fn a_plan_of_another_block_changes_no_value(
        bits in (2usize..300).prop_flat_map(values), other in (2usize..300).prop_flat_map(values), kind in kind(),
    ) {
        let before = sealed(kind, &other, None);
        let plan = Section::parse(&before, kind, other.len()).unwrap().plan();
        check(kind, &bits, &sealed(kind, &bits, plan), 0, bits.len())?;
    }

    #[test]
    fn every_codec_holds_every_column_that_it_takes(
        bits in (2usize..300).prop_flat_map(values), kind in kind(),
    ) {
        use crate::codec::{decimal, repeats, write};
        let mut sections: Vec<Vec<u8>> = Vec::new();
        let mut with = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            f(&mut out);
            if !out.is_empty() {
                sections.push(out);
            }
        };
        with(&|out| repeats::write_runs(kind, &bits, out));
        if let Some(values) = repeats::distinct(&bits).filter(|v| v.len() > 1) {
            with(&|out| repeats::write_dictionary(kind, &bits, &values, out));
        }
        if kind.is_integer() {
            with(&|out| write::integers(kind, &bits, None, out));
        } else {
            with(&|out| write::ordered_bits(&bits, None, out));
            for reading in [Reading::Quotient, Reading::Product, Reading::Near, Reading::Single] {
                if let Some(found) = decimal::read(&bits, reading) {
                    with(&|out| write::decimals(&found, &bits, None, out));
                }
            }
        }
        for bytes in sections {
            check(kind, &bits, &bytes, 1, 99)?;
        }
    }

    #[test]
    fn broken_bytes_give_an_error_or_as_many_values(
        bits in (1usize..200).prop_flat_map(values), kind in kind(), at in 0usize..4000, flip in 1u8..=255,
    ) {
        let whole = sealed(kind, &bits, None);
        let mut flipped = whole.clone();
        flipped[at % whole.len()] ^= flip;
        for bytes in [&flipped[..], &whole[..at % whole.len()]] {
            let Ok(section) = Section::parse(bytes, kind, bits.len()) else { continue };
            let mut out: Vec<u64> = Vec::new();
            if section.decode(0, bits.len(), |b| b, &mut out).is_ok() {
                prop_assert_eq!(out.len(), bits.len());
            }
            _ = (section.statistics(), section.sum(), section.detail(), section.plan());
        }
    }

    #[test]
    fn specials_stay_what_they_are(at in 0usize..64, special in 0usize..4, codec in 0usize..3) {
        let special = [NORMAL_NAN_BITS, STALE_NAN_BITS, 1 << 63, u64::MAX][special];
        let mut bits = floats(|i| match codec {
            0 => i as f64 / 10.0,
            1 => i as f64 / 1000.0 + 0.1 + 0.2,
            _ => (i as f64).sqrt(),
        });
        bits.truncate(64);
        bits[at] = special;
        check(ValueKind::Float, &bits, &sealed(ValueKind::Float, &bits, None), 0, 64)?;
    }
}

#[test]
fn an_exception_at_no_place_is_no_overflow() {
    // Found by fuzzing: a distance to the exception that leaves the address space.
    let mut bytes = vec![head(QUOTIENT, 0) | EXCEPTIONS];
    let good =
        sealed(ValueKind::Float, &floats(|i| if i == 5 { f64::NAN } else { (i * i % 77) as f64 }), None);
    let at = good.windows(3).position(|w| w == [0, 1, 5]).unwrap();
    bytes.extend_from_slice(&good[1..at + 2]);
    bytes.extend([0xff; 9]);
    bytes.push(1);
    bytes.extend_from_slice(&good[at + 3..]);
    let section = Section::parse(&bytes, ValueKind::Float, 512).unwrap();
    section.statistics().unwrap();
    assert_eq!(section.all().unwrap().len(), 512);
}

/// Mantissas of any size: longer ones than any writer makes among them.
fn any_mantissas() -> impl Strategy<Value = Vec<i64>> {
    proptest::collection::vec((any::<i64>(), 0..64u32).prop_map(|(m, less)| m >> less), 2..200)
}

proptest! {
    // Found by fuzzing: NaNs from mantissas that are too long, whose sign hung on where the block was cut.
    #[test]
    fn mantissas_that_nobody_writes_mean_the_same_to_each_reader(
        column in any_mantissas(), codec in QUOTIENT..BITS, scale in 0..=14u8, cut in 0usize..200,
    ) {
        use crate::codec::{decimal::Mantissas, write};
        let reading = [Reading::Quotient, Reading::Product, Reading::Near, Reading::Single][usize::from(codec - QUOTIENT)];
        let n = column.len();
        let away = if reading == Reading::Near { vec![1; n] } else { vec![] };
        let found = Mantissas { reading, scale, column, away, exceptions: vec![] };
        let mut bytes = Vec::new();
        write::decimals(&found, &vec![0; n], None, &mut bytes);
        let power: f64 = format!("1e{scale}").parse().unwrap();
        let wanted: Vec<u64> = found.column.iter().map(|&m| match reading {
            Reading::Quotient if scale == 0 => (m as f64).to_bits(),
            Reading::Quotient => ((m << 12 >> 12) as f64 / power).to_bits(),
            Reading::Product => ((m << 12 >> 12) as f64 * format!("1e-{scale}").parse::<f64>().unwrap()).to_bits(),
            Reading::Near => ((m << 12 >> 12) as f64 / power).to_bits().wrapping_add(1),
            Reading::Single => f64::from(((m << 12 >> 12) as f64 / power) as f32).to_bits(),
        }).collect();
        for tier in Tier::ALL {
            tier.limit();
            let section = Section::parse(&bytes, ValueKind::Float, n).unwrap();
            let mut parts = Vec::new();
            section.decode(0, cut.min(n), |b| b, &mut parts).unwrap();
            section.decode(cut.min(n), n, |b| b, &mut parts).unwrap();
            prop_assert_eq!(&section.all().unwrap(), &wanted, "{:?}", tier);
            prop_assert_eq!(&parts, &wanted, "{:?}", tier);
        }
    }
}
