//! The parser against tables of what Prometheus does, and against slower ways to the same tree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod errors;
mod generate;
mod metricsql;
mod properties;
mod selectors;
mod statements;

use super::tree::*;
use super::*;
use metricsdb_model::bounds::{NESTING_MAX, QUERY_BYTES_MAX, TREE_HEIGHT_MAX};

/// One line back, as Prometheus prints it.
fn line(text: &str) -> String {
    match parse(text) {
        Ok(expr) => expr.to_string(),
        Err(error) => panic!("{text}: {error}"),
    }
}

/// What the text is printed as, with each binary operation in square brackets: shows the tree.
fn grouped(text: &str) -> String {
    fn show(expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Binary(b) => format!("[{} {} {}]", show(&b.left), b.op.as_str(), show(&b.right)),
            ExprKind::Negate(inner) => format!("-[{}]", show(inner)),
            ExprKind::Plus(inner) => format!("+[{}]", show(inner)),
            _ => expr.to_string(),
        }
    }
    show(&parse(text).unwrap())
}

#[test]
fn operators_bind_as_in_prometheus() {
    let cases = [
        ("a + b * c", "[a + [b * c]]"),
        ("a * b + c", "[[a * b] + c]"),
        ("a - b - c", "[[a - b] - c]"),
        ("a ^ b ^ c", "[a ^ [b ^ c]]"),
        ("-a ^ b", "-[[a ^ b]]"),
        ("-a * b", "[-[a] * b]"),
        ("a ^ -b * c", "[[a ^ -[b]] * c]"),
        ("a ^ -b ^ c", "[a ^ -[[b ^ c]]]"),
        ("-2 ^ 2", "-[[2 ^ 2]]"),
        ("-2 * 2", "[-2 * 2]"),
        ("+-2", "-2"),
        ("a or b and c", "[a or [b and c]]"),
        ("a unless b and c", "[[a unless b] and c]"),
        ("a == b + c", "[a == [b + c]]"),
        ("a > b == c", "[[a > b] == c]"),
        ("a atan2 b % c", "[[a atan2 b] % c]"),
        ("a </ 2 + 1", "[a </ [2 + 1]]"),
        ("-a offset 5m", "-[a offset 5m]"),
        ("a offset 5m + b", "[a offset 5m + b]"),
        ("a offset -2 * 2", "[a offset -2s * 2]"),
        ("a offset step() * 0", "[a offset step() * 0]"),
        ("a offset -min_of(step(), 1s) ^ 0", "[a offset -min_of(step(), 1s) ^ 0]"),
        ("a offset -(step() - 5) + 8000", "[a offset -(step() - 5) + 8000]"),
    ];
    for (text, tree) in cases {
        assert_eq!(grouped(text), tree, "{text}");
    }
}

#[test]
fn expressions_print_in_prometheus_form() {
    let cases = [
        (
            "sum(rate(http_requests_total{job='api'}[5m])) by(job,)",
            "sum by (job) (rate(http_requests_total{job=\"api\"}[5m]))",
        ),
        ("SUM Without() (x)", "sum without () (x)"),
        ("sum by () (x)", "sum(x)"),
        ("topk by (a) (5, x)", "topk by (a) (5, x)"),
        ("count_values('v', x)", "count_values(\"v\", x)"),
        ("x{b=\"1\",a=\"2\"}[300] offset 1d @ 3", "x{a=\"2\",b=\"1\"}[5m] @ 3.000 offset 1d"),
        ("x @ END() offset -90m", "x @ end() offset -1h30m"),
        ("x @ -0.0005", "x @ -0.001"),
        ("x offset 0s", "x"),
        ("x @ start()[5m]", "x[5m] @ start()"),
        ("x offset step()[5m:]", "x offset step()[5m:]"),
        ("x smoothed[5m]", "x[5m] smoothed"),
        ("x[1h:] @ start()", "x[1h:] @ start()"),
        ("x[1h:5m] offset 1w", "x[1h:5m] offset 1w"),
        ("a - on(b) group_left c", "a - on (b) group_left () c"),
        ("a - ignoring(b) group_right(x, y,) c", "a - ignoring (b) group_right (x, y) c"),
        ("a * ignoring() b", "a * b"),
        ("a * on() b", "a * on () b"),
        ("a > bool 5", "a > bool 5"),
        ("1 + on() x", "1 + x"),
        ("a + fill(0) b", "a + fill (0) b"),
        ("a + on(x) fill_right(-1) fill_left(Inf) b", "a + on (x) fill_left (+Inf) fill_right (-1) b"),
        ("rate(x[5m] ANCHORED)", "rate(x[5m] anchored)"),
        ("x smoothed @ 5 offset 1m", "x smoothed @ 5.000 offset 1m"),
        ("x[5m * 2 + step()]", "x[5m * 2 + step()]"),
        ("x[(5m)]", "x[5m]"),
        ("x[max(5m, 1) : RANGE() / 2]", "x[max_of(5m, 1):range() / 2]"),
        ("x offset (-2 ^ 2)", "x offset (-2 ^ 2)"),
        ("5m + 90s", "5m + 1m30s"),
        ("-5m", "-5m"),
        ("1 / -0s", "1 / -0s"),
        ("0x10 + 017", "16 + 15"),
        ("-INF", "-Inf"),
        ("inf ^ x", "Inf ^ x"),
        ("a + inf", "a + +Inf"),
        ("`a\\b`", "\"a\\\\b\""),
        ("{\"my.metric\", \"a b\"='x'}", "{\"a b\"=\"x\",__name__=\"my.metric\"}"),
        ("sum by (\"a b\", c) (x)", "sum by (\"a b\", c) (x)"),
        ("Start() + END()", "start() + end()"),
        ("min_of(1, 2)", "min_of(1, 2)"),
        ("a # comment\n + # more\n b", "a + b"),
        (":a:b{c=\"d\"}", ":a:b{c=\"d\"}"),
        ("info(x, {})", "info(x, {})"),
    ];
    for (text, printed) in cases {
        assert_eq!(line(text), printed, "{text}");
        assert_eq!(line(printed), printed);
    }
}

#[test]
fn keywords_are_metrics_and_labels_where_prometheus_lets_them() {
    let metrics = [
        "and",
        "or",
        "unless",
        "sum",
        "topk",
        "count_values",
        "limitk",
        "by",
        "without",
        "offset",
        "start",
        "end",
        "step",
        "range",
        "fill",
        "fill_left",
        "fill_right",
        "anchored",
        "smoothed",
        "min_of",
        "max_of",
        "group",
        "BY",
    ];
    for word in metrics {
        for text in [
            word.to_owned(),
            format!("{word}{{a=\"b\"}}"),
            format!("-{word} + {word}"),
            format!("abs({word})"),
        ] {
            assert_eq!(line(&text), text);
        }
    }
    for word in ["bool", "on", "ignoring", "group_left", "group_right", "atan2"] {
        assert!(parse(word).is_err(), "{word}");
    }
    for word in
        metrics.iter().chain(&["bool", "on", "ignoring", "group_left", "group_right", "atan2", "inf", "nan"])
    {
        for text in
            [format!("x{{{word}=\"1\"}}"), format!("sum by ({word}) (x)"), format!("a + on ({word}) b")]
        {
            assert_eq!(line(&text), text);
        }
    }
    assert_eq!(grouped("and and and"), "[and and and]");
    assert_eq!(line("offset offset 5m"), "offset offset 5m");
    assert_eq!(line("other + fill(0) fill"), "other + fill (0) fill");
    assert_eq!(line("x + fill"), "x + fill");
}

#[test]
fn spans_hold_the_text_of_their_node() {
    let text = " sum by (a) ( rate(x{b=\"c\"}[5m] offset 1m) ) + -y[1h:] ";
    let text = text.replace("-y[1h:]", "abs( y )");
    let expr = parse(&text).unwrap();
    let slice = |e: &Expr| text[e.span.start as usize..e.span.end as usize].to_owned();
    let ExprKind::Binary(binary) = &expr.kind else { panic!("binary") };
    assert_eq!(slice(&expr), text.trim());
    assert_eq!(slice(&binary.left), "sum by (a) ( rate(x{b=\"c\"}[5m] offset 1m) )");
    assert_eq!(slice(&binary.right), "abs( y )");
    let ExprKind::Aggregate(sum) = &binary.left.kind else { panic!("aggregate") };
    assert_eq!(slice(&sum.expr), "rate(x{b=\"c\"}[5m] offset 1m)");
    let ExprKind::Call(rate) = &sum.expr.kind else { panic!("call") };
    assert_eq!(slice(&rate.args[0]), "x{b=\"c\"}[5m] offset 1m");
    assert_eq!(rate.name_span.start as usize, text.find("rate").unwrap());
}

#[test]
fn durations_resolve_with_the_times_of_the_query() {
    let range = |text: &str| match parse(&format!("x[{text}]")).unwrap().kind {
        ExprKind::Range { range, .. } => range,
        other => panic!("{other:?}"),
    };
    let cases = [
        ("1.5", 1_500),
        ("0.0015", 1),
        ("100y1ms", 3_153_600_000_001),
        ("5m * 2", 600_000),
        ("step() + 1", 16_000),
        ("range() / 2", 30_000),
        ("max_of(step(), 1m) % 7", 4_000),
        ("2 ^ 3 ^ 1 - -1", 9_000),
        ("-5m + 10m", 300_000),
        ("min_of(2 * (3 + 4), range())", 14_000),
    ];
    for (text, ms) in cases {
        assert_eq!(range(text).resolve(15_000, 60_000), Ok(ms), "{text}");
    }
    assert!(range("5m / step()").resolve(0, 0).is_err());
    assert!(range("5m % range()").resolve(0, 0).is_err());
    assert!(range("10 ^ 30 * 1").resolve(1, 1).is_err());
    assert!(range("step() - 1").resolve_positive(1_000, 0).is_err());
    assert_eq!(range("step() - 1").resolve(1_000, 0), Ok(0));
}

#[test]
fn long_lines_break_like_prometheus_prettifier() {
    let long = "sum by (job, instance) (rate(http_requests_total{job=\"api-server\"}[5m])) / on (job) group_left (team) \
                topk(3, label_replace(long_build_info{job=~\"api-.*|web-.*|worker-.*\"}, \"the_team\", \"$1\", \"owner\", \"(.*)\"))";
    let expected = "  sum by (job, instance) (rate(http_requests_total{job=\"api-server\"}[5m]))
/ on (job) group_left (team)
  topk(
    3,
    label_replace(long_build_info{job=~\"api-.*|web-.*|worker-.*\"}, \"the_team\", \"$1\", \"owner\", \"(.*)\")
  )";
    assert_eq!(pretty(&parse(long).unwrap()), expected);
    assert_eq!(pretty(&parse("sum(x)").unwrap()), "sum(x)");
}

#[test]
fn trees_answer_as_json_like_parse_query() {
    let json = |text: &str| to_json(&parse(text).unwrap());
    assert_eq!(json("1e3"), r#"{"type":"numberLiteral","val":"1000"}"#);
    assert_eq!(json("\"a\\n\\\"\""), r#"{"type":"stringLiteral","val":"a\n\""}"#);
    assert_eq!(
        json("x{a!=\"b\"} offset 1s"),
        concat!(
            r#"{"anchored":false,"matchers":[{"name":"a","type":"!=","value":"b"},"#,
            r#"{"name":"__name__","type":"=","value":"x"}],"name":"x","offset":1000,"smoothed":false,"#,
            r#""startOrEnd":null,"timestamp":null,"type":"vectorSelector"}"#
        )
    );
    assert_eq!(
        json("-(1 > bool 2)"),
        concat!(
            r#"{"expr":{"expr":{"bool":true,"lhs":{"type":"numberLiteral","val":"1"},"matching":null,"#,
            r#""op":">","rhs":{"type":"numberLiteral","val":"2"},"type":"binaryExpr"},"type":"parenExpr"},"#,
            r#""op":"-","type":"unaryExpr"}"#
        )
    );
    let call = json("rate(x[5m] @ start())");
    assert!(
        call.contains(r#""func":{"argTypes":["matrix"],"name":"rate","returnType":"vector","variadic":0}"#)
    );
    assert!(call.contains(r#""range":300000"#) && call.contains(r#""startOrEnd":"start""#), "{call}");
    assert!(json("x or y").contains(r#""matching":{"card":"many-to-many""#));
    assert!(json("sum without (a) (x)").contains(r#""grouping":["a"],"op":"sum","param":null"#));
}

/// Parses, copies, compares, prints and drops on a thread with as little stack as any has.
fn survives(text: String) -> Result<Expr> {
    let run = move || {
        let expr = parse(&text)?;
        assert_eq!(expr, expr.clone());
        let _ = (expr.to_string(), to_json(&expr), format!("{expr:?}"), expr.value_type());
        Ok(expr)
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn depth_is_limited_before_the_stack_is() {
    let nested = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    let deepest = NESTING_MAX - 1;
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("abs(", "x", ")"),
        ("sum(", "x", ")"),
        ("-", "x", ""),
        ("1 ^ ", "1", ""),
        ("1 + (", "1", ")"),
    ] {
        // An operand in parentheses is two levels.
        let levels = if open == "1 + (" { deepest / 2 } else { deepest };
        survives(nested(open, inner, close, levels)).unwrap();
        for n in [NESTING_MAX, 10_000, 100_000] {
            let error = survives(nested(open, inner, close, n)).unwrap_err().to_string();
            assert!(error.contains("nested deeper than 256 levels"), "{error}");
        }
    }
    survives(format!("x{{{}}}", nested("(", "a=\"b\"", ")", deepest - 1))).unwrap();
    assert!(survives(format!("x{{{}}}", nested("(", "a=\"b\"", ")", 10_000))).is_err());
    survives(format!("x[{}]", nested("(", "1 + 1", ")", deepest - 2))).unwrap();
    assert!(survives(format!("x[{}]", nested("(", "1 + 1", ")", 10_000))).is_err());
}

#[test]
fn chains_are_limited_before_the_stack_is() {
    for (first, link) in [("1", " + 1"), ("x", " or x"), ("x", "[5m:]"), ("y offset -(1", " + 1")] {
        let close = if first.ends_with("(1") { ")" } else { "" };
        let chain = |n: usize| format!("{first}{}{close}", link.repeat(n));
        if link != "[5m:]" {
            survives(chain(TREE_HEIGHT_MAX - 2)).unwrap();
        }
        for n in [TREE_HEIGHT_MAX, 20_000, 100_000] {
            assert!(survives(chain(n)).is_err());
        }
    }
    let wide = format!("x{{{}}}", vec!["a=\"b\""; 20_000].join(" or "));
    survives(wide).unwrap();
    let text = "x".repeat(QUERY_BYTES_MAX + 1);
    assert!(matches!(parse(&text), Err(Error::Limit { .. })));
}
