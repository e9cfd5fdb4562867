#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TARGET: u32 = 7;

/// What each source sent, as a person would write it down.
#[derive(Default)]
struct Model {
    sent: BTreeMap<u8, BTreeMap<i64, f64>>,
}

impl Model {
    fn has(&self, time: i64) -> bool {
        self.sent.values().any(|samples| samples.contains_key(&time))
    }

    /// The sum of the newest sample of each source, `None` where none counts.
    fn sum(&self, at: i64) -> Option<f64> {
        let newest = |samples: &BTreeMap<i64, f64>| {
            let (&time, &value) = samples.range(..=at).next_back()?;
            (at < time + LOOKBACK_MS && !is_stale(value)).then_some(value)
        };
        let values: Vec<f64> = self.sent.values().filter_map(newest).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// What stands in the target's series.
#[derive(Default)]
struct Written(BTreeMap<i64, f64>);

impl Written {
    fn take(&mut self, folds: &mut Folds) {
        for sum in folds.changed() {
            assert_eq!(sum.target, TARGET);
            self.0.insert(sum.time, sum.value);
        }
    }

    fn at(&self, time: i64) -> Option<f64> {
        let (_, &value) = self.0.range(..=time).next_back()?;
        (!is_stale(value)).then_some(value)
    }
}

fn id(folds: &mut Folds, source: u8) -> u64 {
    let hash = folds.hash(&[source]);
    folds.add(hash, TARGET).unwrap()
}

/// Sends samples in batches of three, each `pace_ms` after the other, sweeps now and then, and compares with the model
/// at all times.
fn compare(samples: &[(u8, i64, f64)], sweep_every: usize, pace_ms: i64) {
    let mut now = 50;
    let (mut folds, mut model, mut written) = (Folds::new(1), Model::default(), Written::default());
    let mut times: Vec<i64> = Vec::new();
    for (i, &(source, time, value)) in samples.iter().enumerate() {
        let id = id(&mut folds, source);
        match folds.write(id, time, value, DuplicatePolicy::Last) {
            Taken::New | Taken::Duplicate => {
                model.sent.entry(source).or_default().insert(time, value);
                times.extend([time, time + LOOKBACK_MS]);
            }
            Taken::TooOld => {}
            other => panic!("{other:?}"),
        }
        if i % 3 == 2 {
            written.take(&mut folds);
            // Nobody waits for a sweep: up to the newest sample, unless that is ahead of the clock, all is as it will be.
            let until = folds.swept.map_or(i64::MAX, |swept| swept + SWEEP_MS);
            let newest = times.iter().copied().filter(|t| model.has(*t)).max();
            for &at in times.iter().filter(|&&at| Some(at) <= newest && at <= until) {
                assert_eq!(written.at(at), model.sum(at), "at {at} before a sweep, of {:?}", written.0);
            }
        }
        now += pace_ms;
        if i % sweep_every == sweep_every - 1 {
            folds.sweep(now);
        }
    }
    written.take(&mut folds);
    for _ in 0..2 {
        now += LOOKBACK_MS;
        folds.sweep(now);
        written.take(&mut folds);
    }
    let around = times.iter().flat_map(|&t| [t - 1, t, t + 1]);
    for at in around {
        assert_eq!(written.at(at), model.sum(at), "at {at} of {:?}", written.0);
    }
    folds.sweep(now + FORGET_MS);
    assert_eq!((folds.len().0, folds.cells), (0, 0));
}

fn samples() -> impl Strategy<Value = Vec<(u8, i64, f64)>> {
    let value = prop_oneof![8 => (-4000i32..4000).prop_map(|v| f64::from(v) / 8.0), 1 => Just(stale())];
    prop::collection::vec((0u8..5, 0i64..900, value).prop_map(|(s, t, v)| (s, t * 1000, v)), 1..60)
}

#[test]
fn a_source_that_is_forgotten_leaves_the_ends_of_others_at_their_time() {
    // The source 0 goes on meanwhile, so that 1 or 4 is forgotten between two of its samples.
    let repeated = |count: usize| std::iter::repeat_n((0, 0, 0.0), count);
    let mut samples: Vec<_> = repeated(42).collect();
    (samples[7], samples[14], samples[40]) = ((0, 841_000, 0.0), (1, 0, 0.0), (1, 0, 0.0));
    compare(&samples, 2, 100_000);
    let mut samples: Vec<_> = repeated(31).collect();
    (samples[17], samples[26]) = ((4, 796_000, stale()), (4, 666_000, 0.0));
    compare(&samples, 5, 100_000);
}

proptest! {
    /// Sources in any order, duplicates, markers and silences: at each time as `sum()` over them would say.
    #[test]
    fn a_target_is_the_sum_of_what_its_sources_last_sent(
        samples in samples(),
        sweep_every in 2usize..80,
        pace_ms in prop::sample::select(vec![1, 10_000, 100_000, 500_000]),
    ) {
        compare(&samples, sweep_every, pace_ms);
        let mut sorted = samples;
        sorted.sort_by_key(|sample| sample.1);
        compare(&sorted, sweep_every, pace_ms);
    }
}

#[test]
fn values_at_one_time_add_up_within_a_batch_and_across_batches() {
    let (mut folds, mut written) = (Folds::new(1), Written::default());
    let mut send = |source: u8, time: i64, value: f64, batch_ends: bool| {
        let id = id(&mut folds, source);
        assert_ne!(folds.write(id, time, value, DuplicatePolicy::Last), Taken::TooOld);
        if batch_ends {
            written.take(&mut folds);
        }
        written.0.clone()
    };
    send(0, 1000, 1.0, false);
    assert_eq!(send(1, 1000, 2.0, true), BTreeMap::from([(1000, 3.0)]));
    assert_eq!(send(2, 1000, 4.0, true), BTreeMap::from([(1000, 7.0)]));
    // The same once more, and another value in its place: a sender that repeats itself is not added twice.
    assert_eq!(send(2, 1000, 4.0, true), BTreeMap::from([(1000, 7.0)]));
    assert_eq!(send(2, 1000, 5.0, true), BTreeMap::from([(1000, 8.0)]));
    // One goes on, then another that comes from behind it.
    assert_eq!(send(0, 2000, 10.0, true)[&2000], 17.0);
    let all = send(1, 1500, 20.0, true);
    assert_eq!(all, BTreeMap::from([(1000, 8.0), (1500, 26.0), (2000, 35.0)]));
}

#[test]
fn a_silent_source_ends_in_the_sums_of_others_before_the_next_sweep() {
    let (mut folds, mut written) = (Folds::new(1), Written::default());
    folds.sweep(304_000);
    for (source, time, value) in [(0, 5_000, 1.0), (1, 305_000, 0.0)] {
        let id = id(&mut folds, source);
        folds.write(id, time, value, DuplicatePolicy::Last);
        written.take(&mut folds);
    }
    assert_eq!((written.at(304_999), written.at(305_000)), (Some(1.0), Some(0.0)));
}

#[test]
fn a_sender_whose_clock_is_fast_ends_nobody() {
    let (mut folds, mut written) = (Folds::new(1), Written::default());
    folds.sweep(10_000);
    let (fast, other) = (id(&mut folds, 0), id(&mut folds, 1));
    for step in 0..100 {
        folds.write(other, 10_000 + step, 1.0, DuplicatePolicy::Last);
        folds.write(fast, 3_600_000 + step, 2.0, DuplicatePolicy::Last);
        written.take(&mut folds);
    }
    // A cell for each sample, and none for ends that were taken back.
    assert_eq!((folds.cells, written.at(10_099)), (200, Some(1.0)));
}

#[test]
fn ends_are_no_more_than_the_sources_that_are_there() {
    let mut folds = Folds::new(1);
    for round in 0..20i64 {
        let now = round * 2 * FORGET_MS;
        folds.sweep(now);
        folds.changed();
        folds.sweep(now + FORGET_MS);
        let id = id(&mut folds, round as u8);
        // All at one time, so that nothing ends by the time of a later one.
        folds.write(id, now.min(1000) + round, 1.0, DuplicatePolicy::Last);
        folds.changed();
        assert!(folds.targets[&TARGET].ends.len() <= 2, "{round}");
    }
    folds.release();
    assert!(folds.targets[&TARGET].ends.is_empty());
}

#[test]
fn an_older_sample_of_a_source_and_one_behind_the_window_are_refused() {
    let mut folds = Folds::new(1);
    let one = id(&mut folds, 0);
    assert_eq!(folds.write(one, 5000, 1.0, DuplicatePolicy::Last), Taken::New);
    assert_eq!(folds.write(one, 4999, 1.0, DuplicatePolicy::Last), Taken::TooOld);
    assert_eq!(folds.write(one, 5000, 1.0, DuplicatePolicy::Error), Taken::Twice);
    for time in 0..3000 {
        folds.write(one, 6000 + time, 1.0, DuplicatePolicy::Last);
        folds.changed();
    }
    let two = id(&mut folds, 1);
    assert_eq!(folds.write(two, 6000, 1.0, DuplicatePolicy::Last), Taken::TooOld);
    assert_eq!(folds.write(two, 9000, 1.0, DuplicatePolicy::Last), Taken::New);
    assert!(folds.cells <= TARGET_CELLS[1] + 1);
}

#[test]
fn a_place_that_was_given_on_is_not_written_by_its_old_id() {
    let mut folds = Folds::new(1);
    let old = id(&mut folds, 0);
    folds.write(old, 1000, 1.0, DuplicatePolicy::Last);
    for now in [1000, 2 * LOOKBACK_MS, 4 * LOOKBACK_MS + FORGET_MS] {
        folds.sweep(now);
        folds.changed();
    }
    let new = id(&mut folds, 1);
    assert_eq!(new as u32, old as u32);
    assert_eq!(folds.write(old, 5 * LOOKBACK_MS, 1.0, DuplicatePolicy::Last), Taken::Unknown);
    assert_eq!(folds.write(new, 5 * LOOKBACK_MS, 1.0, DuplicatePolicy::Last), Taken::New);
}

#[test]
fn released_sources_leave_nothing_behind() {
    let (mut folds, mut written) = (Folds::new(1), Written::default());
    for source in 0..10 {
        let id = id(&mut folds, source);
        folds.write(id, 1000, 0.1, DuplicatePolicy::Last);
    }
    written.take(&mut folds);
    assert_eq!(written.at(1000), Some(1.0));
    folds.release();
    written.take(&mut folds);
    assert_eq!((written.at(1000), written.at(1001)), (Some(1.0), None));
    assert_eq!(folds.len().0, 0);
}
