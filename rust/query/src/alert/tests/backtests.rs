use metricsdb_model::{Budget, Histogram, Source};
use proptest::prelude::*;

use super::*;
use crate::alert::backtest::{Times, at, backtest};
use crate::alert::identity::Render;
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

const STATEMENTS: [&str; 24] = [
    "alert a when x > 5 cooldown 9s flap 1 changes in 3s",
    "alert a cooldown 9s level l when x > 4 level m when x > 6 for 2s",
    "alert a when x > 5 for 3s",
    "alert a when x > 5 for 2s on nodata keep",
    "alert a when x > 5 for 3s on nodata clear after 2s",
    "alert a flap 2 changes in 6s until 3s quiet then hold level l when x > 5 for 2s level m when x > 6 for 1s clear at 3",
    "alert a when x < 4 for 3s clear at 6 cooldown 4s flap 1 changes in 12s then mute",
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
    "alert a when x > 5 clear at 2 keep firing for 3s",
    "alert a when x > 6 cooldown 5s flap 1 changes in 9s on error fire",
    "alert a when x{i=\"0\"} > 5 or absent(x{i=\"0\"}) on nodata keep",
    "alert a on nodata keep level l when x > 4 clear when max by (i) (x) < 2 level m when sum by (i) (x) > 6",
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
        let tallies = plans.iter().map(|plan| (plan, Tally::new(&INCIDENTS))).collect();
        let tallies = backtest(tallies, &[], times, &source, &Budget::unlimited(), None).unwrap();
        for (((plan, found), tally), text) in plans.iter().zip(found).zip(tallies).zip(STATEMENTS) {
            let wanted = live(plan, times, &source);
            prop_assert_eq!(&found, &wanted, "{}", text);
            prop_assert_eq!(figures(&tally), counted(&wanted, times.end), "{}", text);
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
    let tallies = plans.iter().map(|plan| (plan, Tally::new(&INCIDENTS))).collect();
    let tallies = backtest(tallies, &[], times(1_199_000), &held, &Budget::unlimited(), None).unwrap();
    for ((plan, found), tally) in plans.iter().zip(found).zip(tallies) {
        assert_eq!(found, live(plan, times(1_199_000), &held));
        assert_eq!(figures(&tally), counted(&found, 1_199_000));
    }
    let wrong = backtest(all(), &[], Times { step: 0, ..times(1) }, &held, &Budget::unlimited(), None);
    assert!(wrong.unwrap_err().to_string().contains("are no evaluations"));
    let turned = backtest(all(), &[], Times { start: 2, ..times(1) }, &held, &Budget::unlimited(), None);
    assert!(turned.unwrap_err().to_string().contains("an end after the start"));
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
    let tally = Tally::new(&INCIDENTS);
    let run = vec![(&plan, tally)];
    let tally = backtest(run, &[], times(299_000), &held, &Budget::unlimited(), None).unwrap().remove(0);
    assert_eq!(figures(&tally), counted(&changes, 299_000));
    assert!(tally.pages > 0 && tally.flaps > 0);
    assert_eq!((tally.hits(), tally.misses()), (1, 2));
    assert_eq!((Tally::default().hits(), Tally::join(Vec::new()).instances()), (0, 0));
}

/// What fires goes on by its clear level where nothing could begin to fire; what is at rest beside it stays there.
#[test]
fn a_part_without_fire_ends_what_fires_alone() {
    let values = (0..2500).map(|step| {
        Some(if step < 1000 {
            6.0
        } else if step < 2400 {
            4.0
        } else {
            1.0
        })
    });
    let held = source(&[values.collect()]);
    let base = plan("alert a when x > 5 clear at 3");
    let plans: Vec<Plan> =
        [0, 5_000_000, 900_000].map(|ms| base.variant(0, None, Some(ms), None).unwrap()).into();
    let all = plans.iter().map(|plan| (plan, Tally::new(&INCIDENTS))).collect();
    let found = backtest(all, &[], times(2_499_000), &held, &Budget::unlimited(), None).unwrap();
    for (plan, tally) in plans.iter().zip(found) {
        assert_eq!(figures(&tally), counted(&live(plan, times(2_499_000), &held), 2_499_000));
    }
}

/// What a sweep counts of a variant is what it counts of it alone, whatever runs beside it.
#[test]
fn variants_that_run_together_are_each_what_they_are_alone() {
    let rows: Vec<Vec<Option<f64>>> = (0..3)
        .map(|i| (0..2100).map(|step| Some(f64::from((step * (i + 1) / 7 + step % 5) % 9))).collect())
        .collect();
    let held = source(&rows);
    let when = Times { offset_ms: 3000, ..times(2_099_000) };
    for text in [
        "alert a when x > 5 clear at 3",
        "alert a cap 2 instances flap 3 changes in 60s when x > 5 for 1s clear at 3",
        "alert a when x > 5 clear at 3 labels { w=\"{{ i }}\" }",
        "alert a labels { team=\"t\" } level l when x > 5 level m when sum(x) > 9",
    ] {
        let base = plan(text);
        let mut plans = vec![base.clone()];
        for (threshold, ms) in [(5.0, 0), (5.0, 2000), (7.0, 0), (7.0, 4000), (5.0, 9000)] {
            plans.push(base.variant(0, Some(threshold), Some(ms), None).unwrap());
        }
        // More of them than go through readings at once.
        plans.extend((0..18).map(|i| base.variant(0, None, Some(i * 1000), None).unwrap()));
        let ran = |plans: &[Plan], with: bool| -> Vec<Tally> {
            let mut render = super::identities::render;
            let all = plans.iter().map(|plan| (plan, Tally::new(&[(9000, 60_000)]))).collect();
            let render: Option<&mut Render<'_>> = if with { Some(&mut render) } else { None };
            backtest(all, &[], when, &held, &Budget::unlimited(), render).unwrap()
        };
        for with in [false, true] {
            let together = ran(&plans, with);
            assert!(together.iter().any(|tally| tally.pages > 0), "{text}");
            for (plan, tally) in plans.iter().zip(together) {
                let alone = ran(std::slice::from_ref(plan), with).remove(0);
                assert_eq!(format!("{:?}", figures(&tally)), format!("{:?}", figures(&alone)), "{text}");
            }
        }
    }
    // Nor does it matter which other statements there are.
    let texts = [
        "alert a when x > 5 clear at 3",
        "alert b when x > 5 clear at 3 labels { w=\"{{ i }}\" }",
        "alert c when x > 5 clear at 3 labels { w=\"w\" }",
        "alert d by (i) when x > 5 clear at 3",
        "alert e when x > 5 clear at 3 for 1s",
        "alert f when x > 6 for 1s",
    ];
    let plans: Vec<Plan> = texts.iter().map(|text| plan(text)).collect();
    let ran = |plans: Vec<&Plan>| -> Vec<Vec<Change>> {
        let all = plans.into_iter().map(|plan| (plan, Vec::new())).collect();
        let mut render = super::identities::render;
        backtest(all, &[], when, &held, &Budget::unlimited(), Some(&mut render)).unwrap()
    };
    let alone: Vec<Vec<Change>> = plans.iter().map(|plan| ran(vec![plan]).remove(0)).collect();
    assert_eq!(ran(plans.iter().collect()), alone);
    assert_eq!(ran(plans.iter().rev().collect()), alone.into_iter().rev().collect::<Vec<_>>());
    let wrong = Times { step: -1, ..when };
    let run = plan(STATEMENTS[0]);
    assert!(backtest(vec![(&run, Tally::default())], &[], wrong, &held, &Budget::unlimited(), None).is_err());
}

const INCIDENTS: [(i64, i64); 3] = [(0, 10_000), (50_000, 60_000), (400_000, 500_000)];

/// The figures that transitions come to, found the slow way.
fn counted(changes: &[Change], end: i64) -> [i64; 9] {
    let mut episodes = Vec::new();
    let (mut flaps, mut fired) = (0, Vec::new());
    for (i, change) in changes.iter().enumerate() {
        let same = |other: &&Change| (&other.labels, other.level) == (&change.labels, change.level);
        let before = changes[..i].iter().rfind(same);
        flaps += i64::from(change.flapping && !before.is_some_and(|before| before.flapping));
        if change.firing && !before.is_some_and(|before| before.firing) {
            let over = changes[i..].iter().filter(same).find(|other| !other.firing);
            episodes.push((change.at, over.map_or(end, |other| other.at)));
            if !fired.contains(&&change.labels) {
                fired.push(&change.labels);
            }
        }
    }
    let meet = |(start, end): &(i64, i64), (from, to): &(i64, i64)| start <= to && end >= from;
    let hits = INCIDENTS.iter().filter(|known| episodes.iter().any(|episode| meet(episode, known))).count();
    let alone = episodes.iter().filter(|episode| !INCIDENTS.iter().any(|known| meet(episode, known))).count();
    let lengths = || episodes.iter().map(|(start, end)| end - start);
    let told = changes.iter().filter(|change| change.notify).count();
    let pages = changes.iter().filter(|change| change.notify && change.firing).count();
    let [firings, told, pages, alone, instances, hits] =
        [episodes.len(), told, pages, alone, fired.len(), hits].map(|count| count as i64);
    [firings, told, pages, flaps, alone, lengths().sum(), lengths().max().unwrap_or(0), instances, hits]
}

fn figures(tally: &Tally) -> [i64; 9] {
    let counts = [tally.firings, tally.notifications, tally.pages, tally.flaps, tally.false_alarms];
    let [a, b, c, d, e] = counts.map(|count| count as i64);
    [a, b, c, d, e, tally.firing_ms, tally.longest_ms, tally.instances() as i64, tally.hits() as i64]
}

/// Starts to flap while it fires, and is told of what it was already: neither begins nor ends anything.
#[test]
fn a_tally_takes_what_changes_nothing_but_flapping() {
    let mut tally = Tally::default();
    let mut take = |at: i64, from: (bool, bool), to: (bool, bool)| {
        let shown = |(firing, flapping)| Shown { state: State::Firing, firing, flapping, firing_at: 0 };
        let (labels, notify) = (&labels(&[("i", "a")]), at == 0);
        let (level, value, muted, instance) = (Some(0), 1.0, None, 70);
        let (from, to) = (shown(from), shown(to));
        tally.take(Event { at, instance, labels, level, from, to, value, notify, muted });
    };
    take(0, (false, false), (true, false));
    take(5, (true, false), (true, true));
    take(9, (true, true), (true, false));
    take(20, (true, false), (false, false));
    take(30, (false, false), (false, true));
    take(40, (false, true), (false, false));
    assert_eq!(figures(&tally), [1, 1, 1, 2, 1, 20, 20, 1, 0]);
}
