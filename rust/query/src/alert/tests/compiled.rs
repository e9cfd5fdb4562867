use super::*;
use crate::alert::compile::{ClearTest, Test, compares};
use crate::syntax::tree::BinaryOp;

fn refused(text: &str) -> String {
    compile(&alert(text), text).unwrap_err().to_string()
}

fn queries(plan: &Plan) -> Vec<&str> {
    plan.queries.iter().map(|query| &*query.text).collect()
}

#[test]
fn both_conditions_are_read_off_one_evaluation_of_what_they_compare() {
    let found = plan("alert a when (rate(x[5m])) > 2 * 40 clear when rate(x[5m]) < 60 for 1m");
    assert_eq!(queries(&found), ["rate(x[5m])"]);
    let level = &found.levels[0];
    assert_eq!(level.fire, Test::Compare { query: 0, op: BinaryOp::Greater, bound: 80.0 });
    assert_eq!(level.clear, ClearTest::When(Test::Compare { query: 0, op: BinaryOp::Less, bound: 60.0 }));
    assert_eq!(level.compared, [0]);
    // Levels share it too, and a number may stand on the left.
    let found = plan("alert a level low when 80 <= x clear at 70 level high when x > 90");
    assert_eq!(queries(&found), ["x"]);
    assert_eq!(found.levels[0].fire, Test::Compare { query: 0, op: BinaryOp::GreaterEqual, bound: 80.0 });
    let stay = Test::Compare { query: 0, op: BinaryOp::GreaterEqual, bound: 70.0 };
    assert_eq!(found.levels[0].clear, ClearTest::NotStay(stay));
    assert_eq!(found.levels[1].clear, ClearTest::NotFire);
}

#[test]
fn what_is_no_comparison_with_a_number_is_evaluated_whole_beside_what_it_compares() {
    let found = plan("alert a when (x > 0.5 and on() y > 10) clear when x < y");
    assert_eq!(queries(&found), ["x > 0.5 and on () y > 10", "x < y", "x", "y"]);
    assert_eq!(found.levels[0].fire, Test::Present { query: 0 });
    assert_eq!(found.levels[0].clear, ClearTest::When(Test::Present { query: 1 }));
    assert_eq!(found.levels[0].compared, [2, 3]);
    for (text, compared) in [
        ("x", 0),
        ("absent(x)", 0),
        ("x > bool 5", 0),
        ("1", 0),
        ("x == y", 2),
        ("x > scalar(y)", 1),
        ("x unless y < 3", 1),
        ("x > 5 default y", 1),
        ("+(x > 5)", 1),
        ("5 > y", 1),
        ("1 > bool 2", 0),
    ] {
        let found = plan(&format!("alert a when {text}"));
        assert_eq!(found.levels[0].compared.len(), compared, "{text}");
    }
}

#[test]
fn every_comparison_and_every_constant_is_understood() {
    for (text, op, bound) in [
        ("x == 1", BinaryOp::Equal, 1.0),
        ("1 == x", BinaryOp::Equal, 1.0),
        ("x != -1", BinaryOp::NotEqual, -1.0),
        ("3 > x", BinaryOp::Less, 3.0),
        ("3 >= x", BinaryOp::LessEqual, 3.0),
        ("3 < x", BinaryOp::Greater, 3.0),
        ("x <= (1 + 2 * 3 - 4 / 8)", BinaryOp::LessEqual, 6.5),
        ("x > +5m", BinaryOp::Greater, 300.0),
        ("x > 7 % 4 ^ 1", BinaryOp::Greater, 3.0),
        ("x > -(2 > bool 1)", BinaryOp::Greater, -1.0),
        (
            "x >= (1 == bool 2) + (1 != bool 2) + (1 < bool 2) + (1 <= bool 2) + (1 >= bool 2)",
            BinaryOp::GreaterEqual,
            3.0,
        ),
    ] {
        let found = plan(&format!("alert a when {text}"));
        assert_eq!(found.levels[0].fire, Test::Compare { query: 0, op, bound }, "{text}");
    }
    assert_eq!(plan("alert a when x > 1 atan2 2").levels[0].fire, Test::Present { query: 0 });
    assert!(!compares(BinaryOp::Add, 1.0, 1.0), "what is no comparison holds nowhere");
}

#[test]
fn what_cannot_be_meant_is_refused_where_it_stands() {
    assert_eq!(
        refused("alert a\n when x > 80 clear at 90"),
        "2:14: parse error: CLEAR AT 90 is above 80, where it fires (exchange the two numbers, or write the clear level on the quiet side)"
    );
    assert!(refused("alert a when x <= 80 clear at 70").contains("CLEAR AT 70 is below 80"));
    for (text, at, side) in [
        ("x > 80", 80.5, "above 80"),
        ("x >= 80", 81.0, "above 80"),
        ("x < 80", 79.0, "below 80"),
        ("x <= 80", 79.5, "below 80"),
    ] {
        let message = refused(&format!("alert a when {text} clear at {at}"));
        assert!(message.contains(&format!("CLEAR AT {at} is {side}")), "{message}");
        plan(&format!("alert a when {text} clear at {}", 160.0 - at));
    }
    assert!(refused("alert a when x == 80 clear at 80").contains("CLEAR AT has no side of =="));
    assert!(refused("alert a when x > y clear at 80").contains("CLEAR AT needs a comparison with a number"));
    for word in ["keep", "unknown", "fire"] {
        let message = refused(&format!("alert a when absent(x) on nodata {word}"));
        assert!(message.starts_with("1:14: parse error: nothing is compared here"), "{message}");
    }
    plan("alert a when absent(x) on nodata clear after 5m");
    plan("alert a when x clear when x < 3 on nodata keep");
    plan("alert a when x > 80 clear at 80");
}

#[test]
fn a_variant_has_other_numbers_and_the_same_queries() {
    let base = plan("alert a level low when x > 50 level high when x > 80 for 1m clear at 70");
    let other = base.variant(1, Some(90.0), Some(0), Some(60.0)).unwrap();
    assert_eq!(queries(&base), queries(&other));
    assert_eq!(other.levels[0].fire, base.levels[0].fire);
    assert_eq!(other.levels[1].fire, Test::Compare { query: 0, op: BinaryOp::Greater, bound: 90.0 });
    let stay = Test::Compare { query: 0, op: BinaryOp::Greater, bound: 60.0 };
    assert_eq!(other.levels[1].clear, ClearTest::NotStay(stay));
    assert_eq!(base.variant(0, None, None, None).unwrap().rules, base.rules);
    assert!(base.variant(2, None, None, None).unwrap_err().to_string().contains("no such level"));
    assert!(base.variant(1, Some(60.0), None, None).unwrap_err().to_string().contains("it fires there"));
    let present = plan("alert a when absent(x)");
    assert!(present.variant(0, None, Some(5), None).is_ok());
    assert!(
        present.variant(0, None, None, Some(5.0)).unwrap_err().to_string().contains("compares no expression")
    );
}

#[test]
fn burn_rates_are_plain_promql() {
    let text =
        "slo s target 99.9% over 30d bad sum(rate(b[$w] offset $w)) total max_over_time(t[$w + 1m:$w]) - -x
        burn 14.4 over 1h and 5m level page for 2m labels {window=\"w\"} burn 1 over 3d and 6h level ticket";
    let Some(Statement::Slo(slo)) = program(text).unwrap().statements.pop() else { panic!() };
    let found = burns(&slo).unwrap();
    assert_eq!(
        found[0].to_string(),
        "ALERT s\n  WHEN (sum(rate(b[1h] offset 1h))) / (max_over_time(t[1h + 1m:1h]) - -x) > 14.4 * (1 - 0.999) and \
         (sum(rate(b[5m] offset 5m))) / (max_over_time(t[5m + 1m:5m]) - -x) > 14.4 * (1 - 0.999) FOR 2m\n  \
         LABELS { window=\"w\", severity=\"page\" }"
    );
    assert!(found[1].to_string().ends_with("LABELS { severity=\"ticket\", window=\"3d\" }"));
    compile(&found[0], text).unwrap();
    let text = "slo s target 50% over 1d bad count(x offset $w > (1)) or topk(2, rate(y[-min_of($w, 5m) + (+$w) * 2])) or rate(y[90s]) total vector(1)
        burn 1 over 1h and 1m level page";
    let Some(Statement::Slo(slo)) = program(text).unwrap().statements.pop() else { panic!() };
    let found = burns(&slo).unwrap()[0].to_string();
    assert!(found.contains("count(x offset 1h > (1))"), "{found}");
    assert!(found.contains("topk(2, rate(y[-min_of(1h, 5m) + 1h * 2])) or rate(y[1m30s])"), "{found}");
}

#[test]
fn lints_say_what_is_probably_not_meant() {
    let checks = |text: &str| -> Vec<&'static str> {
        lint(&alert(text), &Nothing).iter().map(|found| found.check).collect()
    };
    for text in [
        "up",
        "sum(x)",
        "x > bool 5",
        "1",
        "-x",
        "rate(x[5m])",
        "abs(x)",
        "x + 5",
        "x * on (i) (y / 2)",
        "time() - 5",
        "(x)",
        "clamp(x, 0, 1)",
        "+x",
    ] {
        assert_eq!(checks(&format!("alert a when {text}")), ["always_fires"], "{text}");
    }
    for text in [
        "x > +Inf",
        "x < -Inf",
        "x > NaN",
        "x >= NaN",
        "x > 5 and x < 3",
        "x > 5 < 3",
        "x == 3 and x == 4",
        "x > 1 and on () (x > 5 and x <= 5)",
        "x > x",
        "x == 5 and x != 5",
    ] {
        assert_eq!(checks(&format!("alert a when {text}")), ["never_fires"], "{text}");
    }
    for text in [
        "x > 5",
        "x > 3 and x < 5",
        "x != NaN",
        "absent(x)",
        "x > 5 or x < 3",
        "x > y",
        "x >= 5 and x <= 5",
        "x == 0 unless y",
        "abs(absent(x))",
        "x > bool x > 0",
        "x < 3 and x > -1e300",
        "x + (y > 1)",
        "(x > 1) - 5",
        "x if y",
        "rate(x_total[5m]) > 1000",
    ] {
        assert_eq!(checks(&format!("alert a when {text}")), Vec::<&str>::new(), "{text}");
    }
    for text in [
        "x_total > 5",
        "(x_total) > 5",
        "y > 1 and 5 < x_total",
        "y > 1 or +(x_total == 3)",
        "x_total > 5 default y",
    ] {
        assert_eq!(checks(&format!("alert a when {text}")), ["counter_compared"], "{text}");
    }
    assert!(checks("alert a when rate(x_total[5m]) > 5 or x_total > y_total").is_empty());
    assert_eq!(checks("alert a when x > 5 clear when x > 3"), ["clear_while_firing"]);
    assert_eq!(checks("alert a when x > 5 clear when x < 6"), ["clear_while_firing"]);
    assert!(checks("alert a when x > 5 clear when x <= 5").is_empty());
    assert!(checks("alert a when x > 5 clear when y > 3").is_empty());
    assert!(checks("alert a when x > 5 clear when absent(y)").is_empty());
    assert!(checks("alert a when x > 5 clear at 3").is_empty());
    assert_eq!(checks("alert a level l when x > 5 level m when up"), ["always_fires"]);
}

/// Knows counters by their names, and no data.
struct Nothing;

impl Known for Nothing {
    fn is_counter(&self, metric: &str) -> bool {
        metric.ends_with("_total")
    }
    fn series(&self, _: &str) -> Option<u64> {
        None
    }
    fn highest(&self, _: &str) -> Option<f64> {
        None
    }
    fn samples(&self, _: &str) -> Option<u64> {
        None
    }
}

/// A store with the metrics `x` and `x_total`, which have the label `i`.
struct Some2;

impl Known for Some2 {
    fn is_counter(&self, metric: &str) -> bool {
        Nothing.is_counter(metric)
    }
    fn series(&self, selector: &str) -> Option<u64> {
        let there = selector.contains("\"x\"") || selector.contains("\"x_total\"");
        Some(u64::from(there && (!selector.contains("!=") || selector.contains("\"i\"!="))))
    }
    fn highest(&self, expr: &str) -> Option<f64> {
        Some(match expr {
            _ if expr.contains("irate") => 0.0,
            _ if expr.contains("rate") => 2.0,
            _ => 100_000.0,
        })
    }
    fn samples(&self, expr: &str) -> Option<u64> {
        Some(if expr.contains("1y") { 1 << 40 } else { 1 })
    }
}

#[test]
fn lints_know_the_data() {
    let checks = |text: &str| -> Vec<&'static str> {
        lint(&alert(&format!("alert a when {text}")), &Some2).iter().map(|found| found.check).collect()
    };
    for (text, wanted) in [
        ("x > 5", &[][..]),
        ("y > 5", &["unknown_metric"]),
        ("x > 5 clear when y < 3", &["unknown_metric"]),
        ("x{i=\"a\", j!=\"b\", k=~\".*\"} > 5", &[]),
        ("x{j=\"a\"} > 5", &["unknown_label"]),
        ("x{j=~\"a.*\"} > 5 and x{i in (\"a\")} > 3", &["unknown_label"]),
        ("{__name__=\"y\", j=\"a\"} > 5", &[]),
        ("sum by (i) (x) > 5", &[]),
        ("sum by (i, j) (rate(x_total[5m])) > 5", &["unknown_label"]),
        ("sum by (j) (-(x)) > 5", &["unknown_label"]),
        ("sum by (j) (label_replace(x, \"j\", \"\", \"\", \"\")) > 5", &[]),
        ("sum by (j) (label_join(x, \"j\", \"\", \"i\")) > 5", &[]),
        ("sum by (i) (y) > 5", &["unknown_metric"]),
        ("sum by (j) (x + x) > 5", &[]),
        ("sum by (j) (round(x, 5)) > 5", &[]),
        ("sum without (j) (x) > 5", &[]),
        ("firing(\"Other\") > 0", &[]),
        ("rate(x_total[5m]) > 100", &[]),
        ("rate(x_total[5m]) > 1000", &["counter_scale"]),
        ("rate(x_total[5m]) > 1000000", &[]),
        ("irate(x_total[5m]) > 1000", &[]),
        ("rate(x_total[5m]) < 1000", &[]),
        ("rate({__name__=\"x\"}[5m]) > 1000", &[]),
        ("delta(x[5m]) > 1000", &[]),
        ("sum(rate(x_total[5m])) > 1000", &[]),
        ("avg_over_time(x[1y]) > 1", &["costly"]),
    ] {
        assert_eq!(checks(text), wanted, "{text}");
    }
}

#[test]
fn a_digest_changes_with_what_the_machine_sees() {
    let digest = |text: &str, values: [f64; 2]| {
        let plan = plan(text);
        let answer = matrix(&[("a", &[values[0]]), ("b", &[values[1]])], 0, 1);
        Readings::new(&plan, &[0], vec![&answer]).digest(&plan)
    };
    for (text, same, other) in [
        ("alert a when x > 5", [4.0, 7.0], [4.0, 3.0]),
        ("alert a when x > 5 clear at 3", [0.0, 6.0], [4.0, 6.0]),
        ("alert a when x > 5 on nodata keep", [4.0, 8.0], [f64::NAN, 6.0]),
        ("alert a when x != 5", [4.0, 7.0], [5.0, 7.0]),
    ] {
        assert_eq!(digest(text, [1.0, 6.0]), digest(text, same), "{text}");
        assert_ne!(digest(text, [1.0, 6.0]), digest(text, other), "{text}");
    }
}
