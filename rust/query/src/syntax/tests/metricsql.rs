//! MetricsQL's forms: what they are read as, how they print, what is refused.

use super::{grouped, line};
use crate::syntax::{parse, parse_without_metricsql, pretty, to_json};

fn error(text: &str) -> String {
    parse(text).map(|e| e.to_string()).expect_err(text).to_string()
}

#[test]
fn each_form_is_an_error_to_promql_and_prints_as_it_is_read() {
    let cases = [
        ("a default 0", "a default 0"),
        ("a DEFAULT on(x) b", "a default on (x) b"),
        ("a if b", "a if b"),
        ("1 ifnot ignoring(x) b", "1 ifnot ignoring (x) b"),
        ("rate(x[5m]) keep_metric_names", "rate(x[5m]) keep_metric_names"),
        ("(a / 10) KEEP_METRIC_NAMES", "(a / 10) keep_metric_names"),
        ("sum(abs(x) keep_metric_names) by (__name__)", "sum by (__name__) (abs(x) keep_metric_names)"),
        ("abs(x) keep_metric_names[5m:]", "abs(x) keep_metric_names[5m:]"),
        ("1Ki + 2Mi", "1024 + 2.097152e+06"),
        ("1.5K", "1500"),
        ("x > 1Gi", "x > 1.073741824e+09"),
        ("-2Ti", "-2.199023255552e+12"),
        ("3M / 1G / 1T", "3e+06 / 1e+09 / 1e+12"),
        ("x{a=\"b\" or num(c) > 2K}", "x{a=\"b\" or num(c) > 2000}"),
        ("x[1K]", "x[16m40s]"),
        ("rollup_rate(x[5m], 'max')", "rollup_rate(x[5m], \"max\")"),
        ("range_quantile(0.5, x)", "range_quantile(0.5, x)"),
        ("range_normalize(a, b, c)", "range_normalize(a, b, c)"),
        ("outliersk(3, x)", "outliersk(3, x)"),
        ("outliers_mad by (a) (3, x)", "outliers_mad by (a) (3, x)"),
        ("Outliers_IQR(x) without (a)", "outliers_iqr without (a) (x)"),
        ("WITH (a = 1) a", "1"),
    ];
    for (text, printed) in cases {
        assert!(parse_without_metricsql(text).is_err(), "{text}");
        assert_eq!(line(text), printed, "{text}");
        assert_eq!(line(printed), printed);
        assert!(to_json(&parse(text).unwrap()).len() > 2);
    }
}

#[test]
fn words_and_numbers_keep_their_promql_meaning() {
    for text in [
        "default + if + ifnot + keep_metric_names + with + outliersk + rollup + range_sum",
        "if{default=\"if\"} unless on(if, default) ifnot",
        "sum by (default, keep_metric_names) (with)",
        "rate(outliersk[5m] offset 1m)",
        "5m + 1h - 0x1F",
    ] {
        let alone = parse_without_metricsql(text).unwrap();
        assert_eq!(parse(text).unwrap(), alone, "{text}");
    }
    for text in ["1k", "1Kb", "0x1K", "1KK", "1Kim", "1e400K", "5mK", "1_K"] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_three_operators_bind_least() {
    for (text, tree) in [
        ("a default b if c or d", "[a default [b if [c or d]]]"),
        ("a if b default c", "[[a if b] default c]"),
        ("a or b ifnot c if d", "[[[a or b] ifnot c] if d]"),
        ("a + b default c * d", "[[a + b] default [c * d]]"),
        ("default default default", "[default default default]"),
        ("if if if ifnot ifnot", "[[if if if] ifnot ifnot]"),
    ] {
        assert_eq!(grouped(text), tree);
    }
}

#[test]
fn kept_names_survive_line_breaks_and_json() {
    let long = "y".repeat(80);
    for text in [
        format!("({long} / {long}) keep_metric_names"),
        format!("clamp({long}, 0, {}) keep_metric_names", "1".repeat(60)),
    ] {
        let expr = parse(&text).unwrap();
        assert_eq!(line(&pretty(&expr)), expr.to_string());
        assert!(to_json(&expr).contains("\"keepMetricNames\":true"));
    }
    assert!(!to_json(&parse("abs(x) + (a / b)").unwrap()).contains("keepMetricNames"));
}

#[test]
fn templates_are_expanded() {
    for (text, printed) in [
        ("WITH (a = x + y) a * 2", "(x + y) * 2"),
        ("with (a = x + y,) a", "(x + y)"),
        ("sum(WITH (a = x + y) a)", "sum((x + y))"),
        ("2 * WITH (a = x) a + 1", "2 * (x + 1)"),
        ("WITH (f(q, w) = rate(q[w])) f(x{a=\"b\"}, 5m) / f(y, 1h,)", "rate(x{a=\"b\"}[5m]) / rate(y[1h])"),
        ("WITH (x = x{a=\"b\"}) x", "x{a=\"b\"}"),
        ("WITH (a = x, b = a + a, a = y) a / b", "y / (x + x)"),
        ("WITH (f(a) = WITH (b = a * 2) b + b) f(x - 1)", "(((x - 1) * 2) + ((x - 1) * 2))"),
        ("WITH (f(a) = a, g(a) = f(a + 1)) g(x)", "(x + 1)"),
        (
            "WITH (c = {job=\"a\",env!=\"b\"}) x{c, d=\"e\"} / y{c}",
            "x{d=\"e\",env!=\"b\",job=\"a\"} / y{env!=\"b\",job=\"a\"}",
        ),
        ("WITH (c = {job=\"a\" or job=\"b\"}) x{not c}", "x{not (job=\"a\" or job=\"b\")}"),
        ("WITH (s = x{a=\"b\"}) s{c=\"d\"}[5m]", "x{a=\"b\",c=\"d\"}[5m]"),
        ("WITH (j = 'api') x{job=j,app in (j, 'b')}", "x{job=\"api\",app in (\"api\", \"b\")}"),
        (
            "WITH (w = 5m) rate(x[w] offset w) + avg_over_time(y[w * 2:w])",
            "rate(x[5m] offset 5m) + avg_over_time(y[5m * 2:5m])",
        ),
        ("WITH (n = -3) x ^ n", "x ^ (-3)"),
        ("WITH (rate(m) = m * 2) rate(x)", "(x * 2)"),
        ("WITH (f() = x) f() + 1", "x + 1"),
        ("WITH () x", "x"),
        ("WITH (k = 1Ki) x > k default k", "x > 1024 default 1024"),
        ("WITH (f(x) = abs(x) keep_metric_names) f(y)", "abs(y) keep_metric_names"),
    ] {
        assert_eq!(line(text), printed, "{text}");
        assert_eq!(line(printed), printed);
    }
}

#[test]
fn templates_are_refused_in_clear_words() {
    for (text, words) in [
        ("WITH (a = x", "unclosed left parenthesis"),
        ("WITH x", "unexpected identifier \"x\""),
        ("WITH (sum = x) sum", "unexpected <aggr:sum> in WITH, expected a name that is no keyword"),
        ("WITH (a x) a", "expected \"=\""),
        ("WITH (a = ) a", "unexpected \")\" in WITH, expected an expression"),
        ("WITH (a = x y) a", "unexpected identifier \"y\" in the template"),
        ("WITH (f(a) = a) f", "template \"f\" takes 1 argument(s), got 0"),
        ("WITH (f(a) = a) f(x, y)", "template \"f\" takes 1 argument(s), got 2"),
        ("WITH (a = x) a(1)", "template \"a\" takes no arguments (leave the parentheses out)"),
        ("WITH (f(a, a) = a) f(1, 2)", "parameter \"a\" stands twice"),
        ("WITH (a = 1) x{a}", "template \"a\" is not a plain selector"),
        ("WITH (a = 1) x{b=a}", "template \"a\" is not a string"),
        ("WITH (a = x[5m]) a{b=\"c\"}", "only a template that is a plain selector takes matchers"),
        ("WITH (f(a) = f(a)) f(x)", "unknown function with name \"f\""),
        ("rate(x[w])", "unexpected identifier \"w\""),
        ("x keep_metric_names", "keep_metric_names cannot follow this"),
        ("absent(x) keep_metric_names", "keep_metric_names cannot follow absent"),
        ("abs(x) keep_metric_names keep_metric_names", "keep_metric_names stands twice"),
        ("x default bool y", "bool modifier can only be used on comparison operators"),
        ("x if on(a) group_left y", "no grouping allowed for \"if\" operation"),
        ("x default fill(0) y", "not allowed for set operators"),
        ("x default x[5m]", "must contain only scalar and instant vector types"),
        ("outliersk(x)", "expected 2, got 1"),
    ] {
        let found = error(text);
        assert!(found.contains(words), "{text}: {found}");
    }
}

#[test]
fn templates_that_blow_up_are_refused() {
    let doubling = |levels: usize| {
        let mut text = "WITH (a0 = x".to_owned();
        for i in 1..=levels {
            text.push_str(&format!(", a{i} = a{} + a{}", i - 1, i - 1));
        }
        text + &format!(") a{levels}")
    };
    assert_eq!(line(&doubling(4)).matches('x').count(), 16);
    let found = error(&doubling(40));
    assert!(
        found.contains("the templates expand to more than 1048576 bytes (name fewer templates"),
        "{found}"
    );
    let chain = |levels: usize| {
        let mut text = "WITH (a0 = x".to_owned();
        for i in 1..levels {
            text.push_str(&format!(", a{i} = a{}", i - 1));
        }
        text + &format!(") a{}", levels - 1)
    };
    assert_eq!(line(&chain(250)), "x");
    assert!(error(&chain(300)).contains("more than 256 templates and parameters at one place"));
    let wide = format!("WITH (f(a) = sum(a)) {}x{}", "f(".repeat(200), ")".repeat(200));
    assert!(error(&wide).contains("nested deeper than 256 levels"));
}
