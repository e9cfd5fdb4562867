#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What is written to one series, and a map as its oracle.
#[derive(Default)]
struct Twin {
    starts: Starts,
    shared: SharedColumns,
    model: BTreeMap<i64, i64>,
}

impl Twin {
    fn write(&mut self, time: i64, start: i64) {
        match self.model.last_key_value().is_none_or(|(newest, _)| time > *newest) {
            true => self.starts.append(0, time, start, &self.shared).unwrap(),
            false => self.starts.patch(0, &[(time, start)], &self.shared).unwrap(),
        }
        self.model.insert(time, start);
    }

    fn check(&self) {
        let (times, wanted): (Vec<i64>, Vec<i64>) = self.model.iter().unzip();
        let Some(series) = self.starts.get(0) else {
            assert!(wanted.iter().all(|start| *start == 0));
            return;
        };
        series.check().unwrap();
        let mut found = Vec::new();
        series.read(&times, &mut found).unwrap();
        assert_eq!(found, wanted);
        for from in [times.len() / 3, times.len() / 2] {
            found.clear();
            series.read(&times[from..times.len().min(from + 20)], &mut found).unwrap();
            assert_eq!(found, wanted[from..times.len().min(from + 20)]);
        }
    }

    fn steps(&self) -> usize {
        let earlier = self.starts.get(0).unwrap().earlier.as_deref();
        1 + earlier.map_or(0, |e| e.open.len() + e.sealed.iter().map(Chunk::count).sum::<usize>())
    }
}

fn started(points: impl IntoIterator<Item = (i64, i64)>) -> Twin {
    let mut twin = Twin::default();
    points.into_iter().for_each(|(time, start)| twin.write(time, start));
    twin.check();
    twin
}

#[test]
fn a_counter_that_is_seldom_reset_takes_a_step_a_reset() {
    let twin = started((0..10_000).map(|i| (1_000_000 + i * 15_000, 999_000 + i / 1000 * 15_000_007)));
    assert_eq!(twin.steps(), 10);
    assert!(twin.starts.get(0).unwrap().bytes() < 400);
}

#[test]
fn regular_deltas_take_two_steps() {
    for distance in [0, 1, 59_999, 60_000] {
        assert!(started((1..1000).map(|i| (i * 60_000, i * 60_000 - distance))).steps() <= 2);
    }
}

#[test]
fn irregular_deltas_are_compressed() {
    let time = |i: i64| i * 60_000 + (i * 7919) % 13;
    let twin = started((1..5000).map(|i| (time(i), time(i - 1))));
    let bytes = twin.starts.get(0).unwrap().bytes();
    assert!(bytes < 5000, "{bytes}");
}

#[test]
fn a_sample_right_behind_one_that_was_replaced_has_its_own_start() {
    let mut twin = started([(88, 1), (89, 1), (90, 5)]);
    twin.write(90, 2);
    twin.write(91, 0);
    twin.check();
}

#[test]
fn starts_that_no_clock_shows_are_not_known() {
    let mut twin = Twin::default();
    twin.starts.append(0, 5, i64::MIN, &twin.shared).unwrap();
    assert!(twin.starts.is_empty());
    twin.starts.append(0, 6, 3, &twin.shared).unwrap();
    twin.starts.append(0, i64::MAX, i64::MAX / 3, &twin.shared).unwrap();
    twin.starts.patch(0, &[(i64::MIN, -1), (i64::MAX, 0)], &twin.shared).unwrap();
    let mut found = Vec::new();
    twin.starts.get(0).unwrap().read(&[i64::MIN, 5, 6, 7, i64::MAX], &mut found).unwrap();
    assert_eq!(found, [-1, 0, 3, 3, 0]);
}

fn start() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 6 => 1..4i64, 2 => -3..1000i64]
}

proptest! {
    // Each late point writes a sealed chunk anew, which takes long without optimization.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_comes_in_whatever_order_is_read_back(
        points in prop::collection::vec((0..400i64, start(), any::<bool>()), 1..250),
        shift in -3..3i64,
        spacing in prop_oneof![Just(1i64), Just(10)],
    ) {
        let mut twin = Twin::default();
        for (time, start, behind) in points {
            // Deltas, cumulative starts and none at all, mixed.
            let time = time * spacing;
            twin.write(time, if behind { time - start - shift } else { start });
        }
        twin.check();
    }

    #[test]
    fn late_groups_are_merged_into_sealed_steps(
        late in prop::collection::vec((0..2000i64, start()), 1..50),
    ) {
        let mut twin = started((1..1000).map(|i| (i * 2, i * 2 - (i * 7) % 5)));
        let group: BTreeMap<i64, i64> = late.into_iter().collect();
        let points: Vec<(i64, i64)> = group.iter().map(|(time, start)| (*time, *start)).collect();
        twin.starts.patch(0, &points, &twin.shared).unwrap();
        twin.model.extend(group);
        twin.check();
    }
}
