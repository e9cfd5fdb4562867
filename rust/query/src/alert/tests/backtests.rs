use metricsdb_model::Budget;
use proptest::prelude::*;

use super::*;
use crate::alert::backtest::{Times, at, backtest};
use crate::testing::{Numbers, Plain};

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
fn live(plan: &Plan, times: Times, source: &Plain) -> Vec<Change> {
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
        let readings = Readings::new(plan.by.as_deref(), &evaluations, answers.iter().collect());
        changes.extend(machine.run(plan, &readings, &[], false));
        machine = Machine::from_bytes(plan, &machine.to_bytes(plan)).unwrap();
        now += times.step;
    }
    changes
}

const STATEMENTS: [&str; 12] = [
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
        let found = backtest(all(), &[], times, &source, &Budget::unlimited()).unwrap();
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
    let found = backtest(all(), &[], times(1_199_000), &held, &Budget::unlimited()).unwrap();
    for (plan, found) in plans.iter().zip(found) {
        assert_eq!(found, live(plan, times(1_199_000), &held));
    }
    let wrong = backtest(all(), &[], Times { step: 0, ..times(1) }, &held, &Budget::unlimited());
    assert!(wrong.unwrap_err().to_string().contains("are no evaluations"));
    let last = Times { start: i64::MAX - 1, end: i64::MAX, ..times(0) };
    assert!(backtest(all(), &[], last, &source(&[]), &Budget::unlimited()).is_ok());
}
