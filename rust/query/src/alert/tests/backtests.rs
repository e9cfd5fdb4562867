use metricsdb_model::{Budget, Histogram, Source};
use proptest::prelude::*;

use super::*;
use crate::alert::backtest::Sink;
use crate::alert::backtest::{Times, at, backtest};
use crate::testing::{Mixed, Numbers, Plain, Sample};

fn source(rows: &[Vec<Option<f64>>]) -> Plain {
    let samples = |row: &[Option<f64>]| -> Numbers {
        row.iter().enumerate().filter_map(|(step, v)| v.map(|v| (step as i64 * 1000, v))).collect()
    };
    let named = rows
        .iter()
        .enumerate()
        .map(|(i, row)| (labels(&[("__name__", "x"), ("i", &i.to_string())]), samples(row)));
    Plain(named.collect())
}

fn times(end: i64) -> Times {
    Times { start: 0, end, step: 1000, offset_ms: 0, lookback_ms: 1000 }
}

/// Evaluation by evaluation, as it is done live.
fn live(plan: &Plan, times: Times, source: &dyn Source) -> Vec<Change> {
    let budget = Budget::unlimited();
    let mut machine = Machine::default();
    let mut changes = Vec::new();
    let mut now = times.start;
    while now <= times.end {
        let answers: Vec<Matrix> = plan
            .queries
            .iter()
            .map(|query| {
                let mut found = at(query, now - times.offset_ms, times.lookback_ms, source, &budget).unwrap();
                found.timestamps.iter_mut().for_each(|t| *t = now);
                found
            })
            .collect();
        let evaluations = [now];
        let readings = Readings::new(plan, &evaluations, answers.iter().collect());
        changes.extend(machine.run(plan, &readings, &[], false));
        machine = Machine::from_bytes(plan, &machine.to_bytes(plan)).unwrap();
        now += times.step;
    }
    changes
}

const STATEMENTS: [&str; 13] = [
    "alert a when x <= 3",
    "alert a when x > 5",
    "alert a when x > 5 for 3s clear at 3 for 2s hold 5s",
    "alert a when x > 5 and x < 8 on nodata unknown after 2s",
    "alert a by (j) when x > 5 clear when x < 2 cooldown 4s",
    "alert a when absent(x{i=\"0\"}) for 2s",
    "alert a when sum(x) > 9 flap 1 changes in 9s until 4s quiet then hold",
    "alert a when stddev(x) > 1 for 2 of 3",
    "alert a when count_over_time(x[3s]) < 3 keep firing for 3s",
    "alert a level l when x > 4 for 2s level m when x > 6 clear at 5 level n when x == 8",
    "alert a when x > 3 cap 2 instances flap 2 changes in 9s then mute",
    "alert a when max_over_time(x[4s:2s]) >= 7 on nodata fire",
    "alert a when 5 < x or x == 0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The whole of the promise: what a rehearsal says is what happens live, restarts between all evaluations included.
    #[test]
    fn a_backtest_is_what_happens_live(
        rows in prop::collection::vec(prop::collection::vec(prop::option::weighted(0.9, (0u8..9).prop_map(f64::from)), 30), 1..4),
        offset_ms in prop::sample::select(vec![0i64, 2000]),
    ) {
        let source = source(&rows);
        let plans: Vec<Plan> = STATEMENTS.iter().map(|text| plan(text)).collect();
        let all = || plans.iter().map(|plan| (plan, Vec::new())).collect();
        let times = Times { offset_ms, ..times(29_000) };
        let found = backtest(all(), &[], times, &source, &Budget::unlimited(), None).unwrap();
        for ((plan, found), text) in plans.iter().zip(found).zip(STATEMENTS) {
            prop_assert_eq!(&found, &live(plan, times, &source), "{}", text);
        }
    }
}

#[test]
fn parts_of_a_long_time_are_one_rehearsal() {
    let rows: Vec<Vec<Option<f64>>> =
        (0..3).map(|i| (0..1200).map(|step| Some(f64::from((step * (i + 1) / 7) % 9))).collect()).collect();
    let held = source(&rows);
    let plans: Vec<Plan> = STATEMENTS.iter().map(|text| plan(text)).collect();
    let all = || plans.iter().map(|plan| (plan, Vec::new())).collect();
    let found = backtest(all(), &[], times(1_199_000), &held, &Budget::unlimited(), None).unwrap();
    for (plan, found) in plans.iter().zip(found) {
        assert_eq!(found, live(plan, times(1_199_000), &held));
    }
    let wrong = backtest(all(), &[], Times { step: 0, ..times(1) }, &held, &Budget::unlimited(), None);
    assert!(wrong.unwrap_err().to_string().contains("are no evaluations"));
    let last = Times { start: i64::MAX - 1, end: i64::MAX, ..times(0) };
    assert!(backtest(all(), &[], last, &source(&[]), &Budget::unlimited(), None).is_ok());
}

#[test]
fn histograms_are_present_and_compare_with_nothing() {
    let sample = |step: i64| match step % 3 {
        0 => Sample::Number(9.0),
        // Empty, and none of those that mark an end.
        _ => Sample::Histogram(Histogram { sum: 1.0, ..Histogram::stale() }),
    };
    let line: Mixed = (0..20).filter(|step| step % 7 != 0).map(|step| (step * 1000, sample(step))).collect();
    let held = Plain(vec![(labels(&[("__name__", "x")]), line)]);
    for text in
        ["alert a when x", "alert a when x > 5", "alert a when x != 5", "alert a when x default x for 1s"]
    {
        let plan = plan(text);
        let mut found =
            backtest(vec![(&plan, Vec::new())], &[], times(19_000), &held, &Budget::unlimited(), None)
                .unwrap();
        let (found, wanted) = (found.remove(0), live(&plan, times(19_000), &held));
        assert_eq!(format!("{found:?}"), format!("{wanted:?}"), "{text}");
        assert!(!found.is_empty(), "{text}");
        assert!(found.iter().all(|change| !change.value.is_nan()), "{text}");
    }
}

#[test]
fn a_tally_counts_what_the_transitions_say() {
    let rows: Vec<Vec<Option<f64>>> =
        (0..3).map(|i| (0..300).map(|step| Some(f64::from((step * (i + 1) / 7) % 9))).collect()).collect();
    let held = source(&rows);
    let plan = plan("alert a flap 2 changes in 90s level l when x > 5 level m when x > 7");
    let run = (&plan, Vec::new());
    let changes =
        backtest(vec![run], &[], times(299_000), &held, &Budget::unlimited(), None).unwrap().remove(0);
    let incidents = [(0, 10_000), (50_000, 60_000), (400_000, 500_000)];
    let tallies = backtest(
        vec![(&plan, Tally::new(&incidents))],
        &[],
        times(299_000),
        &held,
        &Budget::unlimited(),
        None,
    );
    let mut tally = tallies.unwrap().remove(0);
    tally.finish(299_000);
    let mut episodes = Vec::new();
    for (i, change) in changes.iter().enumerate() {
        let same = |other: &&Change| (&other.labels, other.level) == (&change.labels, change.level);
        let before = changes[..i].iter().rfind(same).is_some_and(|before| before.firing);
        if change.firing && !before {
            let end = changes[i..]
                .iter()
                .filter(same)
                .find(|other| !other.firing)
                .map_or(299_000, |other| other.at);
            episodes.push((change.at, end));
        }
    }
    let overlap = |(start, end): &(i64, i64), (from, to): &(i64, i64)| start <= to && end >= from;
    let hits =
        incidents.iter().filter(|incident| episodes.iter().any(|episode| overlap(episode, incident))).count();
    let alone = episodes
        .iter()
        .filter(|episode| !incidents.iter().any(|incident| overlap(episode, incident)))
        .count();
    assert_eq!(tally.firings, episodes.len() as u64);
    assert_eq!(tally.firing_ms, episodes.iter().map(|(start, end)| end - start).sum::<i64>());
    assert_eq!(Some(tally.longest_ms), episodes.iter().map(|(start, end)| end - start).max());
    assert_eq!((tally.hits(), tally.misses()), (hits as u64, 3 - hits as u64));
    assert_eq!((tally.false_alarms, tally.instances()), (alone as u64, 3));
    assert_eq!(tally.notifications, changes.iter().filter(|change| change.notify).count() as u64);
    assert!(tally.pages > 0 && tally.flaps > 0);
    let mut nothing: Vec<Change> = Vec::new();
    nothing.take(Vec::new());
    assert_eq!((nothing.len(), Tally::default().hits()), (0, 0));
}
