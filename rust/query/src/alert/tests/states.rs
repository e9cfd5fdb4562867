use std::collections::BTreeSet;

use super::*;

const GONE: f64 = f64::NAN;

/// Runs values of `x` a second apart; each part of `cuts` in a run of its own, with the state as bytes between.
fn ran(
    text: &str,
    rows: &[(&str, &[f64])],
    failed: &[usize],
    cuts: &[usize],
    mutings: &[Muting],
) -> (Vec<Change>, Machine) {
    let plan = plan(text);
    let steps = rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let mut ends: BTreeSet<usize> =
        failed.iter().flat_map(|at| [*at, at + 1]).chain(cuts.iter().copied()).collect();
    ends.insert(steps);
    let (mut machine, mut changes, mut from) = (Machine::default(), Vec::new(), 0);
    for to in ends.into_iter().filter(|to| *to <= steps) {
        let times: Vec<i64> = (from..to).map(|step| step as i64 * 1000).collect();
        let matrix = matrix(rows, from, to);
        let readings = Readings::new(&plan, &times, plan.queries.iter().map(|_| &matrix).collect());
        assert_eq!(readings.is_empty(), rows.is_empty());
        changes.extend(machine.run(&plan, &readings, mutings, failed.contains(&from) && from < to));
        machine = Machine::from_bytes(&plan, &machine.to_bytes(&plan)).unwrap();
        from = to;
    }
    (changes, machine)
}

/// `second instance level from>to`, with `!` where somebody is told, `~` where it flaps, and why not.
fn told(changes: &[Change]) -> Vec<String> {
    let one = |c: &Change| {
        let level = c.level.map_or("all".to_owned(), |l| l.to_string());
        let muted = c.muted.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let (flag, flap) = (if c.notify { "!" } else { "" }, if c.flapping { "~" } else { "" });
        let (from, to) = (c.from.as_str(), c.to.as_str());
        format!("{} {}{level} {from}>{to}{flag}{flap}{muted}", c.at / 1000, c.labels.value("i"))
    };
    changes.iter().map(one).collect()
}

/// Of one series, whose cuts anywhere make no difference.
fn alone(text: &str, values: &[f64]) -> Vec<String> {
    let (changes, machine) = ran(text, &[("", values)], &[], &[], &[]);
    for cut in 1..values.len() {
        let (again, other) = ran(text, &[("", values)], &[], &[cut], &[]);
        assert_eq!((&again, &other), (&changes, &machine), "{text}: cut at {cut}");
    }
    told(&changes)
}

#[test]
fn inactive_pending_firing_and_back_as_prometheus_does() {
    assert_eq!(
        alone("alert a when x > 5", &[1., 6., 7., 5., 6., GONE]),
        ["1 0 inactive>firing!", "3 0 firing>inactive!", "4 0 inactive>firing!", "5 0 firing>inactive!",]
    );
    assert_eq!(
        alone("alert a when x > 5 for 2s", &[6., 6., 1., 6., 6., 6., GONE]),
        [
            "0 0 inactive>pending",
            "2 0 pending>inactive",
            "3 0 inactive>pending",
            "5 0 pending>firing!",
            "6 0 firing>inactive!",
        ]
    );
    assert_eq!(
        alone("alert a when x > 5 for 0s", &[6., 1.]),
        ["0 0 inactive>firing!", "1 0 firing>inactive!"]
    );
    // From the first evaluation without fire on, as Prometheus counts.
    assert_eq!(
        alone("alert a when x > 5 keep firing for 2s", &[6., 1., 1., 6., 1., 1., GONE, 1.]),
        [
            "0 0 inactive>firing!",
            "1 0 firing>clearing",
            "3 0 clearing>firing",
            "4 0 firing>clearing",
            "6 0 clearing>inactive!",
        ]
    );
}

#[test]
fn k_of_n_waits_as_long_as_it_can_be_reached() {
    let text = "alert a when x > 5 for 2 of 3";
    assert_eq!(
        alone(text, &[6., 1., 6., 1.]),
        ["0 0 inactive>pending", "2 0 pending>firing!", "3 0 firing>inactive!"]
    );
    assert_eq!(
        alone(text, &[6., 1., 1., 6., 6.]),
        ["0 0 inactive>pending", "2 0 pending>inactive", "3 0 inactive>pending", "4 0 pending>firing!",]
    );
    // The window slides: two trues that are left may reach three with what follows.
    assert_eq!(
        alone("alert a when x > 5 for 3 of 5", &[6., 1., 6., 1., 1., 6., 6.]),
        ["0 0 inactive>pending", "6 0 pending>firing!",]
    );
    assert_eq!(
        alone("alert a when x > 5 for 1 of 4", &[6., 1.]),
        ["0 0 inactive>firing!", "1 0 firing>inactive!"]
    );
    let long = [6.; 64];
    assert_eq!(
        alone("alert a when x > 5 for 64 of 64", &long),
        ["0 0 inactive>pending", "63 0 pending>firing!"]
    );
}

#[test]
fn clearing_needs_its_level_its_damp_and_hold() {
    let text = "alert a when x > 5 clear at 3 for 2s";
    assert_eq!(
        alone(text, &[6., 4., 3., 4., 2., 2., 6., 2., 2., 2.]),
        [
            "0 0 inactive>firing!",
            "2 0 firing>clearing",
            "3 0 clearing>firing",
            "4 0 firing>clearing",
            "6 0 clearing>firing",
            "7 0 firing>clearing",
            "9 0 clearing>inactive!",
        ]
    );
    assert_eq!(
        alone("alert a when x > 5 clear when x < 3 for 2 of 3", &[6., 2., 4., 2., 6.]),
        [
            "0 0 inactive>firing!",
            "1 0 firing>clearing",
            "2 0 clearing>firing",
            "3 0 firing>inactive!",
            "4 0 inactive>firing!",
        ]
    );
    assert_eq!(
        alone("alert a when x > 5 hold 3s", &[6., 1., 1., 1.]),
        ["0 0 inactive>firing!", "1 0 firing>clearing", "3 0 clearing>inactive!",]
    );
    // Where both are true, fire wins.
    assert_eq!(
        alone("alert a when x > 5 clear when x > 3", &[6., 7., 2., 4.]),
        ["0 0 inactive>firing!", "3 0 firing>inactive!",]
    );
}

#[test]
fn cool_down_holds_the_next_one_back() {
    assert_eq!(
        alone("alert a when x > 5 cooldown 3s", &[6., 1., 6., 6., 6., 1., 1., 1., 1., 6.]),
        [
            "0 0 inactive>firing!",
            "1 0 firing>inactive!",
            "4 0 inactive>firing!",
            "5 0 firing>inactive!",
            "9 0 inactive>firing!",
        ]
    );
    // What cools down is looked at where something else has to be counted, and does not fire then either.
    assert_eq!(
        alone("alert a when x > 5 cooldown 3s flap 9 changes in 1m", &[6., 1., 6., 6., 6., 1.]),
        ["0 0 inactive>firing!", "1 0 firing>inactive!", "4 0 inactive>firing!", "5 0 firing>inactive!",]
    );
    // Nor does an error make it fire: only what is active stays so.
    let values: &[f64] = &[6., 1., 6., 6., 6., 6.];
    let (changes, machine) =
        ran("alert a when x > 5 cooldown 4s on error fire", &[("", values)], &[2, 3], &[], &[]);
    assert_eq!(told(&changes), ["0 0 inactive>firing!", "1 0 firing>inactive!", "5 0 inactive>firing!"]);
    assert_eq!(machine.active().count(), 1);
    // Only what fired cools down.
    assert_eq!(
        alone("alert a when x > 5 for 1s cooldown 3s", &[6., 1., 6., 6.]),
        ["0 0 inactive>pending", "1 0 pending>inactive", "2 0 inactive>pending", "3 0 pending>firing!",]
    );
}

#[test]
fn no_data_is_told_from_false() {
    let run = |word: &str, values: &[f64]| alone(&format!("alert a when x > 5 clear at 3 {word}"), values);
    assert_eq!(run("", &[6., GONE]), ["0 0 inactive>firing!", "1 0 firing>inactive!"]);
    assert_eq!(run("", &[6., 4., 4.]), ["0 0 inactive>firing!"]);
    assert_eq!(
        run("on nodata keep", &[6., GONE, GONE, 2.]),
        ["0 0 inactive>firing!", "3 0 firing>inactive!"]
    );
    assert_eq!(
        run("on nodata unknown", &[6., GONE, GONE, 6., GONE, 2.]),
        [
            "0 0 inactive>firing!",
            "1 0 firing>unknown",
            "3 0 unknown>firing",
            "4 0 firing>unknown",
            "5 0 unknown>inactive!",
        ]
    );
    assert_eq!(
        run("on nodata unknown after 2s", &[6., GONE, GONE, GONE, 4., GONE]),
        ["0 0 inactive>firing!", "3 0 firing>unknown", "4 0 unknown>firing",]
    );
    assert_eq!(
        run("on nodata clear after 1s", &[6., GONE, GONE]),
        ["0 0 inactive>firing!", "2 0 firing>inactive!"]
    );
    assert_eq!(run("on nodata fire", &[GONE]).len(), 0);
    assert_eq!(
        alone("alert a when x > 5 for 2s on nodata fire", &[GONE, 6., GONE, GONE, 1.]),
        ["1 0 inactive>pending", "3 0 pending>firing!", "4 0 firing>inactive!",]
    );
    // What compares nothing has data whatever comes.
    assert_eq!(
        alone("alert a when x clear when x on nodata clear after 5s", &[6., GONE, GONE]),
        ["0 0 inactive>firing!"]
    );
    assert_eq!(alone("alert a when x", &[6., GONE]), ["0 0 inactive>firing!", "1 0 firing>inactive!"]);
}

#[test]
fn errors_leave_it_as_it_is_or_do_what_is_said() {
    let run = |word: &str, values: &[f64], failed: &[usize]| {
        told(&ran(&format!("alert a when x > 5 for 1s {word}"), &[("", values)], failed, &[], &[]).0)
    };
    assert_eq!(
        run("", &[6., 1., 6., 1.], &[1]),
        ["0 0 inactive>pending", "2 0 pending>firing!", "3 0 firing>inactive!"]
    );
    assert_eq!(run("on error unknown", &[6., 1., 6.], &[0, 1]), ["2 0 inactive>pending"]);
    assert_eq!(
        run("on error unknown", &[6., 1., 6.], &[1]),
        ["0 0 inactive>pending", "1 0 pending>unknown", "2 0 unknown>firing!",]
    );
    assert_eq!(
        run("on error fire", &[1., 6., 1., 1.], &[0, 2]),
        ["1 0 inactive>pending", "2 0 pending>firing!", "3 0 firing>inactive!",]
    );
}

#[test]
fn flapping_is_marked_held_or_muted_until_it_is_quiet() {
    let values = [6., 1., 6., 1., 6., 1., 1., 1., 1., 6.];
    assert_eq!(
        alone("alert a when x > 5 flap 2 changes in 10s until 3s quiet", &values),
        [
            "0 0 inactive>firing!",
            "1 0 firing>inactive!",
            "2 0 inactive>firing!~",
            "3 0 firing>inactive!~",
            "4 0 inactive>firing!~",
            "5 0 firing>inactive!~",
            "8 0 inactive>inactive",
            "9 0 inactive>firing!~",
        ]
    );
    assert_eq!(
        alone("alert a when x > 5 flap 2 changes in 10s until 3s quiet then hold", &values),
        [
            "0 0 inactive>firing!",
            "1 0 firing>inactive!",
            "2 0 inactive>firing!~",
            "3 0 firing>clearing~",
            "4 0 clearing>firing~",
            "5 0 firing>clearing~",
            "8 0 clearing>inactive!~",
            "9 0 inactive>firing!~",
        ]
    );
    assert_eq!(
        alone("alert a when x > 5 flap 2 changes in 10s until 3s quiet then mute", &values),
        [
            "0 0 inactive>firing!",
            "1 0 firing>inactive!",
            "2 0 inactive>firing~ (flap)",
            "3 0 firing>inactive~",
            "4 0 inactive>firing~ (flap)",
            "5 0 firing>inactive~",
            "8 0 inactive>inactive",
            "9 0 inactive>firing~ (flap)",
        ]
    );
    // Without a quiet time of its own, the window is it; what fires when it ends is told late.
    assert_eq!(
        alone("alert a when x > 5 flap 1 changes in 2s then mute", &[6., 1., 6., 6., 6.]),
        [
            "0 0 inactive>firing!",
            "1 0 firing>inactive!~",
            "2 0 inactive>firing~ (flap)",
            "4 0 firing>firing!",
        ]
    );
    // Changes that are too far apart do not add up.
    assert_eq!(
        alone("alert a when x > 5 flap 1 changes in 2s", &[6., 6., 6., 1., 1., 1.]),
        ["0 0 inactive>firing!", "3 0 firing>inactive!",]
    );
}

#[test]
fn the_highest_level_that_fires_is_told() {
    let text = "alert a level low when x > 5 level high when x > 8 for 1s";
    assert_eq!(
        alone(text, &[6., 9., 9., 6., 1.]),
        [
            "0 0 inactive>firing!",
            "1 1 inactive>pending",
            "2 1 pending>firing!",
            "3 1 firing>inactive!",
            "4 0 firing>inactive!",
        ]
    );
    // A lower one that fired beneath a higher one is told when that is over.
    assert_eq!(
        alone("alert a level low when x > 5 for 1s level high when x > 8", &[9., 9., 6., 6., 1.]),
        [
            "0 0 inactive>pending",
            "0 1 inactive>firing!",
            "1 0 pending>firing (level)",
            "2 0 firing>firing!",
            "2 1 firing>inactive!",
            "4 0 firing>inactive!",
        ]
    );
}

#[test]
fn mutings_hold_back_who_is_told_while_the_state_goes_on() {
    let muting = |from_s: i64, until_s: i64, labels: &[(&str, &str)], reason: &str| Muting {
        from_ms: from_s * 1000,
        until_ms: until_s * 1000,
        labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        reason: reason.into(),
    };
    let mutings = [muting(0, 2, &[], "night"), muting(2, 3, &[("i", "a"), ("team", "t")], "inhibited")];
    let text = "alert a when x > 5 labels {team=\"t\"}";
    let rows: [(&str, &[f64]); 2] = [("a", &[6., 6., 6., 6., 1.]), ("b", &[1., 1., 6., 1., 1.])];
    let (changes, _) = ran(text, &rows, &[], &[], &mutings);
    assert_eq!(
        told(&changes),
        [
            "0 a0 inactive>firing (night)",
            "2 b0 inactive>firing!",
            "3 a0 firing>firing!",
            "3 b0 firing>inactive!",
            "4 a0 firing>inactive!",
        ]
    );
    // What nobody was told of is not resolved to anybody.
    let (changes, _) = ran(text, &[("a", &[6., 1.])], &[], &[], &mutings);
    assert_eq!(told(&changes), ["0 a0 inactive>firing (night)", "1 a0 firing>inactive"]);
}

#[test]
fn past_the_cap_new_instances_are_one_alert_with_their_count() {
    let text = "alert a when x > 5 cap 1 instances";
    let rows: [(&str, &[f64]); 3] =
        [("a", &[1., 6., 6., 1., 1.]), ("b", &[6., 6., 6., 6., 1.]), ("c", &[1., 6., 1., 6., 1.])];
    let (changes, machine) = ran(text, &rows, &[], &[], &[]);
    assert_eq!(
        told(&changes),
        [
            "0 b0 inactive>firing!",
            "1 a0 inactive>firing (cap)",
            "1 c0 inactive>firing (cap)",
            "1 all inactive>firing!",
            "2 c0 firing>inactive",
            "3 a0 firing>inactive",
            "3 c0 inactive>firing (cap)",
            "4 b0 firing>inactive!",
            "4 c0 firing>inactive",
            "4 all firing>inactive!",
        ]
    );
    assert_eq!((machine.folded(), changes[3].value), (None, 2.0));
    for cut in 1..5 {
        assert_eq!(ran(text, &rows, &[], &[cut], &[]), (changes.clone(), machine.clone()));
    }
    let (_, machine) = ran(text, &rows, &[], &[], &[]);
    assert_eq!(machine, Machine::default());
    let plan = super::plan(text);
    let (_, machine) = ran(text, &[("a", &[6.]), ("b", &[6.])], &[], &[], &[]);
    assert_eq!(machine.folded(), Some((0, 1)));
    assert!(
        machine.series(&plan).contains(&(labels(&[("__name__", "ALERTS_FOLDED"), ("alertname", "a")]), 1.0))
    );
    assert!(machine.active().any(|active| active.hidden));
}

#[test]
fn series_of_one_instance_are_one_by_its_labels() {
    let text = "alert a by (job) when x > 5 clear at 3";
    let plan = plan(text);
    let mut matrix = Matrix::default();
    for (instance, values) in [("a", [4.0, 7.0, 4.0]), ("b", [9.0, 1.0, 2.0])] {
        for (step, value) in values.into_iter().enumerate() {
            matrix.timestamps.push(step as i64);
            matrix.values.push(value);
        }
        matrix.end_row(labels(&[("i", instance), ("job", "j")]));
    }
    let times = [0, 1, 2];
    let readings = Readings::new(&plan, &times, vec![&matrix]);
    assert_eq!(readings.len(), 1);
    let mut machine = Machine::default();
    let changes = machine.run(&plan, &readings, &[], false);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].value, &changes[0].labels), (9.0, &labels(&[("job", "j")])));
    // One of the two still stands above the clear level, and shows.
    let active: Vec<_> = machine.active().map(|a| (a.state, a.value)).collect();
    assert_eq!(active, [(State::Firing, 4.0)]);
}

#[test]
fn series_say_what_the_machine_holds() {
    let text = "alert a level low when x > 5 for 1s labels {team=\"t\", late=\"{{ $value }}\"} level high when x > 8 flap 1 changes in 1m";
    let text = text.replace(" flap 1 changes in 1m", "").replace("alert a", "alert a flap 1 changes in 1m");
    let plan = plan(&text);
    let series = |values: &[f64]| -> Vec<String> {
        let (_, machine) = ran(&text, &[("", values)], &[], &[], &[]);
        machine.series(&plan).iter().map(|(labels, value)| format!("{labels} {value}")).collect()
    };
    assert_eq!(
        series(&[6.]),
        [
            "ALERTS_FOR_STATE{alertname=\"a\", severity=\"low\", team=\"t\"} 0",
            "ALERTS{alertname=\"a\", alertstate=\"pending\", severity=\"low\", team=\"t\"} 1",
        ]
    );
    assert_eq!(
        series(&[9., 9.]),
        [
            "ALERTS_FOR_STATE{alertname=\"a\", severity=\"low\", team=\"t\"} 0",
            "ALERTS_FOR_STATE{alertname=\"a\", severity=\"high\"} 0",
            "ALERTS{alertname=\"a\", alertstate=\"firing\", severity=\"high\"} 1",
            "ALERTS_LEVEL{alertname=\"a\"} 2",
        ]
    );
    assert_eq!(series(&[9., 1.]), ["ALERTS_FLAPPING{alertname=\"a\", severity=\"high\"} 1"]);
    let (_, machine) = ran("alert a when x > 5 hold 1h", &[("", &[6., 1.])], &[], &[], &[]);
    let found = machine.series(&super::plan("alert a when x > 5"));
    assert_eq!(found[1].0.get("alertstate"), Some("firing"));
}

#[test]
fn what_is_behind_a_higher_level_or_past_the_cap_is_hidden() {
    let hidden = |text: &str, rows: &[(&str, &[f64])]| -> Vec<(usize, bool)> {
        let (_, machine) = ran(text, rows, &[], &[], &[]);
        machine.active().map(|active| (active.level, active.hidden)).collect()
    };
    let levels = "alert a level low when x > 5 level middle when x > 7 for 1h level high when x > 8";
    assert_eq!(hidden(levels, &[("", &[9.])]), [(0, true), (1, true), (2, false)]);
    assert_eq!(hidden(levels, &[("", &[8.])]), [(0, false), (1, false)]);
    let capped = "alert a when x > 5 cap 1 instances";
    assert_eq!(hidden(capped, &[("a", &[9.]), ("b", &[9.])]), [(0, false), (0, true)]);
}

#[test]
fn no_evaluation_changes_nothing() {
    let (changes, machine) = ran("alert a when x > 5", &[("", &[6.])], &[], &[0], &[]);
    assert_eq!((changes.len(), machine.active().count()), (1, 1));
}

#[test]
fn bytes_that_are_no_state_are_refused() {
    let text = "alert a when x > 5 clear at 3 flap 1 changes in 1h cooldown 1h on nodata unknown";
    let plan = plan(text);
    let rows: [(&str, &[f64]); 3] = [("a", &[6., 1., 1.]), ("b", &[6., 6., GONE]), ("c", &[1., 6., 3.])];
    let (_, machine) = ran(text, &rows, &[], &[], &[]);
    let bytes = machine.to_bytes(&plan);
    assert_eq!(Machine::from_bytes(&plan, &bytes).unwrap(), machine);
    for end in 0..bytes.len() {
        assert!(Machine::from_bytes(&plan, &bytes[..end]).is_err(), "cut at {end}");
    }
    let whole = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        Machine::from_bytes(&plan, &bytes).map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(whole(&|b| b.push(0)).unwrap_err().contains("something follows"));
    assert!(whole(&|b| b[0] = 2).unwrap_err().contains("version 2"));
    assert!(whole(&|b| b[1] = 2).unwrap_err().contains("other levels"));
    assert!(whole(&|b| b[2] = 7).unwrap_err().contains("neither 0 nor 1"));
    // Whatever one byte becomes, it is refused or read, and what is read can be written.
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            if let Ok(machine) = Machine::from_bytes(&plan, &bytes) {
                let _ = machine.to_bytes(&plan);
            }
        }
    }
    let twice = [&[1, 1, 0, 1, 2][..], b"\x01a\x01x\x01a\x01y"].concat();
    assert!(Machine::from_bytes(&plan, &twice).unwrap_err().to_string().contains("these are no labels"));
    let long = [vec![1, 1, 0], vec![0xff; 11]].concat();
    assert!(Machine::from_bytes(&plan, &long).unwrap_err().to_string().contains("a number is too long"));
}
