//! Strategies for columns as monitoring makes them, and as it never should.

use proptest::collection::vec;
use proptest::prelude::*;

use metricsdb_model::ValueKind;
use metricsdb_model::sample::{NORMAL_NAN_BITS, STALE_NAN_BITS};

pub fn kind() -> impl Strategy<Value = ValueKind> {
    proptest::sample::select(&ValueKind::ALL[..])
}

/// Strictly increasing times and as many values: 1 to `n`.
pub fn columns(n: usize) -> impl Strategy<Value = (Vec<i64>, Vec<u64>)> {
    (1..=n).prop_flat_map(|n| (timestamps(n), values(n))).prop_map(|(t, mut v)| {
        v.truncate(t.len());
        (t, v)
    })
}

/// At least one; fewer than `n` where the times would pass the end of `i64`.
pub fn timestamps(n: usize) -> impl Strategy<Value = Vec<i64>> {
    let start = prop_oneof![
        Just(1_700_000_000_000i64),
        Just(0),
        Just(i64::MIN),
        Just(i64::MAX - 20_000_000),
        any::<i64>()
    ];
    let steps = prop_oneof![
        4 => Just(15_000u64).prop_map(move |s| vec![s; n]),
        3 => vec(14_995u64..15_005, n),
        2 => vec(prop_oneof![20 => Just(10_000u64), 1 => Just(30_000u64), 1 => 1u64..1_000_000], n),
        1 => vec(prop_oneof![1u64..10, any::<u64>().prop_map(|s| s.max(1)), Just(1 << 32)], n),
    ];
    (start, steps).prop_map(|(start, steps)| {
        let mut out = vec![start];
        let mut t = i128::from(start);
        for s in &steps[1..] {
            t += i128::from(*s);
            match i64::try_from(t) {
                Ok(t) => out.push(t),
                Err(_) => break,
            }
        }
        out
    })
}

fn walk(
    n: usize,
    start: i64,
    low: i64,
    high: i64,
    value: impl Fn(i64) -> f64 + Copy + 'static,
) -> BoxedStrategy<Vec<u64>> {
    vec(low..=high, n)
        .prop_map(move |steps| {
            let sums = steps.iter().scan(start, |m, s| {
                *m += s;
                Some(*m)
            });
            sums.map(|m| value(m).to_bits()).collect()
        })
        .boxed()
}

/// A boolean that changes wherever there is a 1.
fn flips(changes: Vec<i64>) -> Vec<u64> {
    let state = changes.iter().scan(0, |on, change| {
        *on ^= change;
        Some(*on)
    });
    state.map(|on| (on as f64).to_bits()).collect()
}

/// `n` values, as bits.
pub fn values(n: usize) -> BoxedStrategy<Vec<u64>> {
    let special = prop_oneof![
        Just(STALE_NAN_BITS),
        Just(NORMAL_NAN_BITS),
        Just((-0.0f64).to_bits()),
        Just(f64::INFINITY.to_bits()),
        Just(f64::NEG_INFINITY.to_bits()),
        Just(1u64),
        Just(i64::MAX as u64),
        Just(i64::MIN as u64),
        Just(f64::MAX.to_bits()),
        Just((1u64 << 53 | 1) as f64 as u64),
        any::<u64>(),
    ];
    let plain = prop_oneof![
        walk(n, 7, 0, 0, |m| m as f64),
        walk(n, 1000, -3, 3, |m| m as f64),
        walk(n, 1 << 40, 0, 100_000, |m| m as f64),
        walk(n, 5000, -20, 20, |m| m as f64 / 100.0),
        walk(n, 5000, -20, 20, |m| m as f64 * 0.001),
        walk(n, 5000, 0, 50, |m| m as f64 / 1000.0 + 0.1 + 0.2),
        walk(n, 1000, -5, 5, |m| (m as f64).sqrt()),
        walk(n, 1 << 53, -3, 3, |m| m as f64),
        walk(n, 5000, -20, 20, |m| f64::from((m as f64 / 100.0) as f32)),
        walk(n, 1 << 20, -9, 9, |m| (m * 4096) as f64),
        vec(prop_oneof![30 => Just(0i64), 1 => Just(1)], n).prop_map(flips).boxed(),
        vec(0usize..5, n)
            .prop_map(|v| v
                .into_iter()
                .map(|i| [0.1, 1e9, 17.25, 1.0 / 3.0, f64::NAN][i].to_bits())
                .collect())
            .boxed(),
        vec(0u64..4, n).boxed(),
        vec(any::<u64>(), n).boxed(),
    ];
    let mixed = (
        plain,
        vec((any::<bool>(), special), n),
        prop_oneof![3 => Just(0usize), 2 => Just(20), 1 => Just(2)],
    );
    mixed
        .prop_map(|(mut plain, special, every)| {
            for (i, (keep, bits)) in special.into_iter().enumerate() {
                if every > 0 && i % every == every - 1 && keep {
                    plain[i] = bits;
                }
            }
            plain
        })
        .boxed()
}
