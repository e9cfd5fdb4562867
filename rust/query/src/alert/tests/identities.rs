//! Labels that are templates, labels that collide, and limits: as Prometheus has them.

use metricsdb_model::{Budget, Histogram, Result};

use super::*;
use crate::alert::backtest::{Times, backtest};
use crate::alert::identity::{check, rendered};
use crate::syntax::statement::Map;
use crate::testing::{Mixed, Plain, Sample};

/// `{{ v }}` is the value, `{{ i }}` the label.
pub(super) fn render(templates: &Map, labels: &Labels, value: f64, _at: i64) -> Result<Map> {
    let text = |text: &str| text.replace("{{ v }}", &value.to_string()).replace("{{ i }}", labels.value("i"));
    Ok(templates.iter().map(|(name, template)| (name.clone(), text(template))).collect())
}

fn broken(_: &Map, _: &Labels, _: f64, _: i64) -> Result<Map> {
    Err(metricsdb_model::Error::execution("no template"))
}

fn source(values: &[f64]) -> Plain {
    let samples = values.iter().enumerate().map(|(step, v)| (step as i64 * 1000, *v));
    Plain(vec![(labels(&[("__name__", "x"), ("i", "a")]), samples.collect())])
}

fn times(end: i64) -> Times {
    Times { start: 0, end, step: 1000, offset_ms: 0, lookback_ms: 1000 }
}

/// Instances, and when each began and ceased to fire (s).
fn fired(text: &str, values: &[f64]) -> Vec<(String, i64, bool)> {
    let plan = plan(text);
    let runs = vec![(&plan, Vec::new())];
    let end = times(values.len() as i64 * 1000 - 1000);
    let budget = Budget::unlimited();
    let found = backtest(runs, &[], end, &source(values), &budget, Some(&mut render)).unwrap().remove(0);
    found.iter().map(|c: &Change| (c.labels.to_string(), c.at / 1000, c.firing)).collect()
}

#[test]
fn a_rendered_label_tells_instances_apart() {
    let values = [7.0, 7.0, 8.0, 1.0];
    let found = fired("alert a when x > 5 labels { v=\"{{ v }}\", w=\"{{ i }}!\", s=\"s\" }", &values);
    let (seven, eight) = (r#"{i="a", v="7", w="a!"}"#.to_owned(), r#"{i="a", v="8", w="a!"}"#.to_owned());
    let rows = [(seven.clone(), 0, true), (seven, 2, false), (eight.clone(), 2, true), (eight, 3, false)];
    assert_eq!(found, rows);
    // With BY, the rendered ones are added to those that it names; a rendered one that is empty is none.
    let by = fired("alert a by (j) when x > 5 labels { v=\"{{ i }}\", w=\"{{ none\" }", &[7.0, 1.0]);
    assert_eq!(by[0].0, r#"{v="a", w="{{ none"}"#);
    // Levels have no part in it: what differs between them would make instances of its own.
    let levels = plan("alert a labels { v=\"{{ v }}\" } level l when x > 5");
    assert!(levels.templates.is_empty());
}

#[test]
fn what_does_not_fire_is_rendered_where_it_decides_when_it_ends() {
    let values = [7.0, 5.0, 3.0];
    let held = fired("alert a when x > 6 clear at 4 labels { w=\"{{ i }}\" }", &values);
    assert_eq!(
        held.iter().map(|(_, at, firing)| (*at, *firing)).collect::<Vec<_>>(),
        [(0, true), (2, false)]
    );
    // The other condition may look at something else; only what fires or stays is rendered by its value.
    let other = fired("alert a when x > 6 clear when abs(x) < 4 labels { w=\"{{ i }}\" }", &values);
    assert_eq!(
        other.iter().map(|(_, at, firing)| (*at, *firing)).collect::<Vec<_>>(),
        [(0, true), (2, false)]
    );
    let present = fired("alert a when abs(x) labels { w=\"{{ i }}\" }", &values);
    assert_eq!(present.len(), 1);
}

#[test]
fn errors_of_templates_end_a_rehearsal() {
    let plan = plan("alert a when x > 5 labels { v=\"{{ v }}\" }");
    let budget = Budget::unlimited();
    let run = || vec![(&plan, Vec::<Change>::new())];
    let found = backtest(run(), &[], times(0), &source(&[7.0]), &budget, Some(&mut broken));
    assert!(found.is_err_and(|error| error.to_string().contains("no template")));
    // So do two samples that are one alert.
    let both: Plain = Plain(vec![source(&[7.0]).0.remove(0), {
        let (_, samples) = source(&[9.0]).0.remove(0);
        (labels(&[("__name__", "x"), ("i", "b")]), samples)
    }]);
    let one = super::plan("alert a when x > 5 labels { i=\"one\" }");
    let found = backtest(vec![(&one, Vec::<Change>::new())], &[], times(0), &both, &budget, None);
    assert!(found.is_err_and(|error| error.to_string().contains("same labelset")));
    // Without anybody who renders, templates tell nothing apart.
    assert_eq!(backtest(run(), &[], times(0), &source(&[7.0]), &budget, None).unwrap()[0].len(), 1);
}

#[test]
fn histograms_go_through_templates() {
    let histogram = Histogram { sum: 1.0, ..Histogram::stale() };
    let samples = Mixed::from([(0, Sample::Histogram(histogram)), (1000, Sample::Number(1.0))]);
    let source = Plain(vec![(labels(&[("__name__", "x"), ("i", "a")]), samples)]);
    let plan = plan("alert a when x labels { w=\"{{ i }}\" }");
    let run = vec![(&plan, Vec::<Change>::new())];
    let found = backtest(run, &[], times(1000), &source, &Budget::unlimited(), Some(&mut render)).unwrap();
    assert_eq!(found[0].len(), 1);
    assert_eq!(found[0][0].value, 0.0);
}

/// Two series with a value a second.
fn two(first: (&str, &str), second: (&str, &str), values: [&[f64]; 2]) -> Matrix {
    let mut matrix = Matrix::default();
    for ((name, i), values) in [first, second].into_iter().zip(values) {
        for (step, value) in values.iter().enumerate() {
            matrix.timestamps.push(step as i64 * 1000);
            matrix.values.push(*value);
        }
        matrix.end_row(labels(&[("__name__", name), ("i", i)]));
    }
    matrix
}

#[test]
fn two_samples_that_become_one_alert_are_an_error() {
    let (x, y, b) = (("x", "a"), ("y", "a"), ("x", "b"));
    let (high, low) = (&[9.0, 1.0][..], &[1.0, 9.0][..]);
    let cases = [
        ("alert a when x > 5", x, y, [high, high], false),
        ("alert a when x > 5", x, y, [high, low], true), // not at one evaluation
        ("alert a when x > 5", x, b, [high, high], true),
        ("alert a by (i) when x > 5", x, y, [high, high], true),
        ("alert a when x > 5 labels { i=\"one\" }", x, b, [high, high], false),
        ("alert a when x > 5 labels { i=\"one\" }", x, b, [high, low], true),
        ("alert a when x > 5 labels { j=\"one\" }", x, b, [high, high], true),
        ("alert a when x labels { i=\"one\" }", x, b, [high, low], false),
        (
            "alert a when label_replace(x, \"alertname\", \"$1\", \"i\", \"(.*)\") > 5",
            x,
            b,
            [high, high],
            true,
        ),
    ];
    for (text, first, second, values, good) in cases {
        let (plan, answer) = (plan(text), two(first, second, values));
        let readings = Readings::new(&plan, &[0, 1000], vec![&answer]);
        let found = check(&plan, &readings);
        assert_eq!(found.is_ok(), good, "{text} {first:?} {second:?}");
        if let Err(error) = found {
            assert!(error.to_string().contains("same labelset"));
        }
    }
    for (text, values, good) in [
        ("alert a when x > 5 labels { i=\"{{ v }}\" }", [high, high], false),
        ("alert a by (i) when x > 5 labels { i=\"{{ v }}\" }", [high, high], true),
        ("alert a when x > 5 clear at 3 labels { i=\"one{{ none\" }", [high, high], false),
        ("alert a when x > 5 clear at 3 labels { i=\"one{{ none\" }", [high, low], true),
    ] {
        let (plan, answer) = (plan(text), two(x, b, values));
        let own = rendered(&plan, &[&answer], &mut render).unwrap();
        let readings = Readings::new(&plan, &[0, 1000], own.iter().collect());
        assert_eq!(check(&plan, &readings).is_ok(), good, "{text}");
    }
}

/// Of several instances one alone is made of two samples: it decides, wherever it stands.
#[test]
fn instances_of_one_sample_are_no_error_beside_one_of_two() {
    let plan = plan("alert a when x > 5");
    for (second, good) in [(1.0, true), (9.0, false)] {
        let mut answer = two(("x", "a"), ("x", "b"), [&[9.0], &[9.0]]);
        answer.timestamps.push(0);
        answer.values.push(second);
        answer.end_row(labels(&[("__name__", "y"), ("i", "b")]));
        let readings = Readings::new(&plan, &[0], vec![&answer]);
        assert_eq!(check(&plan, &readings).is_ok(), good);
    }
}

#[test]
fn a_sample_that_does_not_fire_hides_none_that_does() {
    let plan = plan("alert a by (i) when x > 5 clear at 3 labels { i=\"one{{ none\" }");
    for values in [[&[9.0][..], &[1.0]], [&[1.0], &[9.0]]] {
        let answer = two(("x", "a"), ("x", "b"), values);
        let own = rendered(&plan, &[&answer], &mut render).unwrap();
        let readings = Readings::new(&plan, &[0], own.iter().collect());
        let changes = Machine::default().run(&plan, &readings, &[], false);
        assert!(changes.iter().any(|change| change.firing), "{values:?}: {changes:?}");
    }
}

#[test]
fn past_a_limit_all_is_forgotten() {
    let plan = plan("alert a when x > 5");
    let answer = two(("x", "a"), ("x", "b"), [&[9.0], &[9.0]]);
    let readings = Readings::new(&plan, &[0], vec![&answer]);
    let mut machine = Machine::default();
    machine.run(&plan, &readings, &[], false);
    assert!(machine.keep_to(2).is_ok());
    let error = machine.keep_to(1).unwrap_err().to_string();
    assert!(error.contains("exceeded limit of 1 with 2 alerts"), "{error}");
    assert_eq!(machine.active().count(), 0);
}
