//! Statements: what they mean as trees, what is refused how, and that printing and parsing undo each other.

use metricsdb_model::Span;
use proptest::prelude::*;

use super::generate::{promql, vector};
use super::properties::bare;
use crate::syntax::statement::*;
use crate::syntax::tree::{Expr, ExprKind};
use crate::syntax::{parse, program};

fn printed(text: &str) -> String {
    match program(text) {
        Ok(program) => program.to_string(),
        Err(error) => panic!("{text}: {error}"),
    }
}

const EXAMPLES: &str = r#"
ALERT DiskFilling BY (instance, mountpoint)
  HOLD 15m
  FLAP 6 CHANGES IN 1h UNTIL 30m QUIET THEN HOLD
  ON NODATA UNKNOWN AFTER 5m
  INHIBITED BY HostDown ON (instance)
  CAP 200 INSTANCES
  LABELS { team="storage" }
  ANNOTATIONS { summary="{{ $labels.instance }} at {{ $value | humanizePercentage }}" }
  ROUTE TO "storage-chat" GROUP BY (cluster) REPEAT 4h
  LEVEL warning  WHEN 1 - node_filesystem_avail_bytes / node_filesystem_size_bytes > 0.80 FOR 10m    CLEAR AT 0.75 FOR 10m
  LEVEL critical WHEN 1 - node_filesystem_avail_bytes / node_filesystem_size_bytes > 0.92 FOR 2 OF 3 CLEAR AT 0.88 ROUTE TO "pager"

ALERT CheckoutDegraded
  WHEN (job:latency:p99{job="checkout"} > 0.5 and on() rate(orders_total[5m]) > 10) FOR 5m
  CLEAR WHEN job:latency:p99{job="checkout"} < 0.35 FOR 10m

SLO CheckoutAvailability TARGET 99.9% OVER 30d
  BAD   sum by (service) (rate(http_requests_total{job="checkout",code=~"5.."}[$w]))
  TOTAL sum by (service) (rate(http_requests_total{job="checkout"}[$w]))
  BURN 14.4 OVER 1h AND 5m  LEVEL page   FOR 2m
  BURN 6    OVER 6h AND 30m LEVEL page   FOR 15m
  BURN 1    OVER 3d AND 6h  LEVEL ticket
"#;

#[test]
fn the_examples_of_the_language_are_read_and_print_to_themselves() {
    let program = program(EXAMPLES).unwrap();
    let [Statement::Alert(disk), Statement::Alert(checkout), Statement::Slo(slo)] = &program.statements[..]
    else {
        panic!("{program:?}")
    };
    let Body::Levels(levels) = &disk.body else { panic!("{disk:?}") };
    assert_eq!(levels[1].condition.damp, Some(Damp::Of { count: 2, of: 3 }));
    assert_eq!(disk.clauses.flap.unwrap().quiet_ms, Some(1_800_000));
    let own = levels[1].with(&disk.clauses.own);
    assert_eq!((own.hold_ms, own.route.unwrap().receivers), (Some(900_000), vec!["pager".to_owned()]));
    assert!(matches!(&checkout.body, Body::Single(c) if c.clear.is_some()));
    assert_eq!((slo.target, slo.burns.len()), (99.9, 3));
    let line = program.to_string();
    assert_eq!(printed(&line), line);
    assert_eq!(unspanned(super::super::program(&line).unwrap()), unspanned(program));
}

#[test]
fn whatever_is_an_expression_stays_one() {
    for text in [
        "alert",
        "alert{a=\"b\"}",
        "alert - 1",
        "alert[5m]",
        "alert offset 5m",
        "alert and record",
        "record or slo",
        "group",
        "group(x)",
        "group by (a) (x)",
        "group {a=\"b\"}",
        "GROUP BY (a) (x)",
        "alert default 0",
        "slo if alert",
        "sum(alert)",
        "explain",
        "explain{a=\"b\"}",
        "EXPLAIN - 1",
        "explain offset 5m",
        "sum(explain)",
        "explain or analyze",
        "record @ 5",
        "alert == on (a) record",
    ] {
        assert_eq!(
            unspanned(program(text).unwrap()),
            Program { statements: vec![Statement::Query(bare(parse(text).unwrap()))] }
        );
    }
}

#[test]
fn explain_is_a_word_only_where_no_expression_stands() {
    for (text, wanted) in [
        ("EXPLAIN up", "EXPLAIN up"),
        ("# why\n explain analyze sum(up)", "EXPLAIN ANALYZE sum(up)"),
        ("EXPLAIN analyze", "EXPLAIN analyze"),
        ("EXPLAIN analyze{a=\"b\"}", "EXPLAIN analyze{a=\"b\"}"),
        ("explain (a + b)", "EXPLAIN (a + b)"),
        ("explain explain; up", "EXPLAIN explain;\nup"),
        ("explain offset", "EXPLAIN offset"),
        ("explain - 1; explain - 2", "explain - 1;\nexplain - 2"),
        ("explain analyze alert a when x > 1", "EXPLAIN ANALYZE ALERT a\n  WHEN x > 1"),
        ("explain with (a = x) a", "EXPLAIN x"),
    ] {
        assert_eq!(printed(text), wanted);
    }
    let wrong = program("EXPLAIN sum(").unwrap_err().to_string();
    assert!(wrong.starts_with("1:13"), "{wrong}");
}

#[test]
fn programs_read_statements_one_after_another() {
    let cases = [
        ("a; b", "a;\nb"),
        ("record a:b = sum(x) alert c when a:b > 1", "RECORD a:b = sum(x);\nALERT c\n  WHEN a:b > 1"),
        (
            "RECORD group:x = group by (a) (x) labels {b=\"c\",} backfill 1d;",
            "RECORD group:x = group by (a) (x) LABELS { b=\"c\" } BACKFILL 1d",
        ),
        ("record a = group labels {x=\"y\"}", "RECORD a = group LABELS { x=\"y\" }"),
        (
            "group g every 30s offset 1m labels {a=\"b\"} { record x = group{a=\"c\"} alert y when x{a=\"b\"} > 1 labels {} }",
            "GROUP g EVERY 30s OFFSET 1m LABELS { a=\"b\" } {\n  RECORD x = group{a=\"c\"}\n  ALERT y\n    WHEN x{a=\"b\"} > 1\n    LABELS {}\n}",
        ),
        ("GROUP \"no word\" {}", "GROUP \"no word\" {\n}"),
        ("alert \"default\" when sum > 1", "ALERT \"default\"\n  WHEN sum > 1"),
        (
            "alert a when b > 1 on nodata fire on error unknown not during night during day",
            "ALERT a\n  WHEN b > 1\n  ON NODATA FIRE\n  ON ERROR UNKNOWN\n  NOT DURING night\n  DURING day",
        ),
        (
            "alert a when b flap 1 changes in 1m then mute cooldown 0s route to \"x\", \"y\" wait 1s interval 2s inhibited by z keep firing for 1m",
            "ALERT a\n  WHEN b\n  COOLDOWN 0s\n  FLAP 1 CHANGES IN 1m THEN MUTE\n  INHIBITED BY z\n  KEEP FIRING FOR 1m\n  ROUTE TO \"x\", \"y\" WAIT 1s INTERVAL 2s",
        ),
        (
            "alert a when with (t = 5) b > t clear when b < 1 for 1 of 1",
            "ALERT a\n  WHEN b > 5 CLEAR WHEN b < 1 FOR 1 OF 1",
        ),
        ("alert a when 1 clear at -.5 for 1m", "ALERT a\n  WHEN 1 CLEAR AT -0.5 FOR 1m"),
        (
            "slo s target 99.9% over 30d bad b total t burn 1 over 1h and 5m level x cooldown 1m",
            "SLO s TARGET 99.9% OVER 30d\n  BAD b\n  TOTAL t\n  BURN 1 OVER 1h AND 5m LEVEL x\n  COOLDOWN 1m",
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(printed(text), wanted);
        assert_eq!(printed(wanted), wanted);
    }
}

#[test]
fn what_is_explained_stays_at_its_place() {
    let text = "# é\n EXPLAIN ANALYZE sum(up) # why";
    let [Statement::Explain(explain)] = &program(text).unwrap().statements[..] else { panic!() };
    assert_eq!(explain.query_text(text).unwrap(), "   \n                 sum(up)");
    let alert = "EXPLAIN ALERT a WHEN x > 1";
    let [Statement::Explain(explain)] = &program(alert).unwrap().statements[..] else { panic!() };
    assert_eq!(explain.query_text(alert), None);
}

#[test]
fn labels_of_a_group_stand_beneath_those_of_its_statements() {
    let text = "group g labels {a=\"1\", b=\"1\"} { record r = x labels {a=\"2\"} alert s when x > 1 alert t when x > 1 labels {c=\"3\"}
        slo u target 9% over 1d bad x total y burn 1 over 1h and 1m level p }";
    let [Statement::Group(group)] = &program(text).unwrap().statements[..] else { panic!() };
    let found: Vec<String> = group.labelled().iter().map(|statement| statement.to_string()).collect();
    assert_eq!(found[0], "RECORD r = x LABELS { b=\"1\", a=\"2\" }");
    assert!(found[1].ends_with("LABELS { a=\"1\", b=\"1\" }"));
    assert!(found[2].ends_with("LABELS { a=\"1\", b=\"1\", c=\"3\" }"));
    assert!(found[3].ends_with("LABELS { a=\"1\", b=\"1\" }"));
    let mut plain = Group { labels: Vec::new(), ..group.clone() };
    plain.statements.push(Statement::Query(parse("x").unwrap()));
    assert!(plain.labelled()[1].to_string().ends_with("> 1"));
}

#[test]
fn errors_say_where_and_what_to_do() {
    let cases = [
        (
            "alert a",
            "1:8: parse error: unexpected end of input in ALERT, expected WHEN, LEVEL or another clause (an alert is ALERT name WHEN expression)",
        ),
        (
            "alert a\n when x > 1 for 5",
            "2:17: parse error: unexpected number \"5\" in FOR, expected a duration (durations carry a unit here: 90s, 10m, 1h30m)",
        ),
        (
            "alert a when x > 1 for 3 of 2",
            "1:24: parse error: 3 of 2 evaluations can never be true (exchange them)",
        ),
        ("alert a when x > 1 for 2 of 65", "1:29: parse error: OF takes a whole number from 1 to 64"),
        (
            "alert a when x > 1 for x",
            "1:24: parse error: unexpected identifier \"x\" in FOR, expected a duration",
        ),
        ("alert a when x > 1 hold 1m hold 2m", "1:28: parse error: HOLD stands twice"),
        ("alert a cooldown 1m cooldown 2m when x", "1:21: parse error: COOLDOWN stands twice"),
        ("alert a flap 1 changes in 1m flap 2 changes in 1m when x", "1:30: parse error: FLAP stands twice"),
        ("alert a cap 1 instances cap 2 instances when x", "1:25: parse error: CAP stands twice"),
        ("alert a on error keep on error fire when x", "1:23: parse error: ON ERROR stands twice"),
        ("alert a on nodata keep on nodata clear when x", "1:24: parse error: ON NODATA stands twice"),
        (
            "alert a when x keep firing for 1m keep firing for 2m",
            "1:35: parse error: KEEP FIRING FOR stands twice",
        ),
        ("alert a when x annotations {} annotations {}", "1:31: parse error: ANNOTATIONS stands twice"),
        ("alert a when x labels {} labels {}", "1:26: parse error: LABELS stands twice"),
        ("alert a when x route to \"a\" route to \"b\"", "1:29: parse error: ROUTE stands twice"),
        ("alert a when x labels {\"\"=\"x\"}", "1:24: parse error: this cannot be the name of a label"),
        (
            "alert a cap 1.5 instances when x",
            "1:13: parse error: CAP takes a whole number from 1 to 4294967295",
        ),
        ("slo s target -1% over 30d bad x total y", "1:14: parse error: a target lies between 0% and 100%"),
        (
            "slo s target 9% over 30d bad x total y burn 0 over 1h and 5m level page",
            "1:45: parse error: a burn rate is more than 0",
        ),
        (
            "slo s target 9% over 30d bad x total y burn +Inf over 1h and 5m level page",
            "1:45: parse error: a burn rate is more than 0",
        ),
        (
            "alert a not hold 1m when x",
            "1:9: parse error: unexpected identifier \"not\" in ALERT, expected WHEN, LEVEL or another clause (an alert is ALERT name WHEN expression)",
        ),
        ("alert a when x > 1 flap 1 changes in 0s", "1:38: parse error: duration must be greater than 0"),
        (
            "alert a when x > 1 on nodata sleep",
            "1:30: parse error: unexpected identifier \"sleep\" in ON NODATA, expected CLEAR or KEEP or UNKNOWN or FIRE",
        ),
        (
            "alert a when x > 1 on x",
            "1:23: parse error: unexpected identifier \"x\" in ON, expected NODATA or ERROR",
        ),
        (
            "alert a when x > 1 clear x",
            "1:26: parse error: unexpected identifier \"x\" in CLEAR, expected WHEN or AT",
        ),
        ("alert a when x > 1 clear at NaN", "1:29: parse error: NaN is no bound"),
        (
            "alert a when x > 1 route to x",
            "1:29: parse error: unexpected identifier \"x\" in ROUTE TO, expected the name of a receiver in quotes",
        ),
        (
            "alert a when x > 1 labels {__name__=\"x\"}",
            "1:28: parse error: this cannot be the name of a label",
        ),
        ("alert a when x > 1 labels {a=\"x\",a=\"y\"}", "1:34: parse error: a stands twice"),
        (
            "alert a when x > 1 labels {a=1}",
            "1:30: parse error: unexpected number \"1\" in LABELS, expected a text in quotes",
        ),
        (
            "alert a when x > 1 labels {a b}",
            "1:30: parse error: unexpected identifier \"b\" in LABELS, expected \"=\"",
        ),
        (
            "alert a when x[5m]",
            "1:14: parse error: WHEN takes an instant vector or a scalar, got range vector",
        ),
        ("alert a level w when x > 1 level w when x > 2", "1:34: parse error: level w stands twice"),
        (
            "alert a level w when x > 1 cap 5 instances",
            "1:34: parse error: this clause holds for the whole alert (write it before the first LEVEL)",
        ),
        ("alert \"\" when x > 1", "1:7: parse error: a name must not be empty"),
        ("alert a when x > 1 )", "1:20: parse error: unexpected right parenthesis ')'"),
        (
            "alert a when x > 1 5",
            "1:20: parse error: unexpected number \"5\", expected \";\", a statement or the end (separate statements by \";\")",
        ),
        (
            "alert a when x > 1 inhibited by sum",
            "1:33: parse error: unexpected <aggr:sum> in INHIBITED BY, expected a name (write a name that is a keyword in quotes)",
        ),
        (
            "alert a when x > 1 cap 5 things",
            "1:26: parse error: unexpected identifier \"things\" in CAP, expected INSTANCES",
        ),
        ("record a sum(x)", "1:10: parse error: unexpected <aggr:sum> in RECORD, expected \"=\""),
        ("record a = x labels {} labels {}", "1:24: parse error: LABELS stands twice"),
        ("record a = x backfill 1d backfill 1d", "1:26: parse error: BACKFILL stands twice"),
        ("record a = \"x\"", "1:12: parse error: RECORD takes an instant vector or a scalar, got string"),
        ("group g every 1m {", "1:19: parse error: unclosed group (add } for the { at 1:18)"),
        (
            "group g { x }",
            "1:11: parse error: unexpected identifier \"x\" in GROUP, expected RECORD, ALERT, SLO or \"}\" (write the name after the word, in quotes where it is no plain word)",
        ),
        (
            "group g offset 1m every 1m {}",
            "1:19: parse error: unexpected identifier \"every\" in GROUP, expected EVERY, OFFSET, LIMIT, LABELS in this order, or \"{\"",
        ),
        ("slo s target 100% over 30d bad b total t", "1:14: parse error: a target lies between 0% and 100%"),
        (
            "slo s target 99.9 over 30d bad b total t",
            "1:19: parse error: unexpected identifier \"over\" in TARGET, expected \"%\"",
        ),
        (
            "slo s target 99% over 30d bad b total t burn 0 over 1h and 5m level x",
            "1:46: parse error: a burn rate is more than 0",
        ),
        (
            "slo s target 99% over 30d bad b total t burn 1 over 1h or 5m level x",
            "1:56: parse error: unexpected <op:or> in BURN, expected AND",
        ),
        (
            "alert a when rate(x[$w]) > 1",
            "1:21: parse error: unexpected \"$w\" in duration expression, expected number, duration, step(), or range()",
        ),
        (
            "alert a when x inhibited by 5",
            "1:29: parse error: unexpected number \"5\" in INHIBITED BY, expected a name",
        ),
        (
            "alert a when x labels {(",
            "1:24: parse error: unexpected \"(\" in LABELS, expected a name or \"}\"",
        ),
        (
            "alert a when x cap x instances",
            "1:20: parse error: unexpected identifier \"x\" in CAP, expected a whole number",
        ),
        ("; x", "1:1: parse error: unexpected \";\""),
    ];
    for (text, message) in cases {
        match program(text) {
            Ok(program) => panic!("{text}: {program}"),
            Err(error) => assert_eq!(error.to_string(), message, "{text}"),
        }
    }
    let endless = program("alert a when x hold 99999999999999y").unwrap_err().to_string();
    assert!(endless.starts_with("1:21: parse error: "), "{endless}");
    let many: String = (0..8).map(|i| format!(" level l{i} when x > {i}")).collect();
    assert!(program(&format!("alert a{many}")).unwrap_err().to_string().contains("more than 7 levels"));
    assert!(program(&"x;".repeat(1 << 20)).unwrap_err().to_string().starts_with("limit reached"));
}

// --- generated statements ---------------------------------------------------------------------------

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z_][a-zA-Z0-9_:]{0,6}",
        1 => prop::sample::select(vec!["sum", "default", "labels", "inf", "when", "on", "GROUP", "a b", "ä\"", "5"])
            .prop_map(String::from),
    ]
}

fn ms() -> impl Strategy<Value = i64> {
    1i64..100_000_000_000
}

fn map() -> impl Strategy<Value = Map> {
    prop::collection::btree_map(name(), any::<String>(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(name(), 0..3)
}

fn maybe<T: Clone + std::fmt::Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![2 => Just(None), 1 => some.prop_map(Some)].boxed()
}

fn expr() -> BoxedStrategy<Expr> {
    vector(1)
}

fn damp() -> impl Strategy<Value = Option<Damp>> {
    maybe(prop_oneof![
        (0..OF_MAX, 1..=OF_MAX).prop_map(|(a, of)| Damp::Of { count: a % of + 1, of }),
        (0i64..10_000_000).prop_map(Damp::For),
    ])
}

fn route() -> impl Strategy<Value = Route> {
    let receivers = prop::collection::vec(any::<String>(), 1..3);
    (receivers, maybe(labels()), maybe(ms()), maybe(ms()), maybe(ms())).prop_map(
        |(receivers, group_by, wait_ms, interval_ms, repeat_ms)| Route {
            receivers,
            group_by,
            wait_ms,
            interval_ms,
            repeat_ms,
        },
    )
}

fn own() -> impl Strategy<Value = Own> {
    (maybe(ms()), maybe(ms()), maybe(map()), maybe(map()), maybe(route())).prop_map(
        |(keep_firing_ms, hold_ms, labels, annotations, route)| Own {
            keep_firing_ms,
            hold_ms,
            labels,
            annotations,
            route,
        },
    )
}

fn flap() -> impl Strategy<Value = Flap> {
    let then = prop::sample::select(vec![None, Some(FlapAction::Hold), Some(FlapAction::Mute)]);
    (1u32..100, ms(), maybe(ms()), then).prop_map(|(changes, window_ms, quiet_ms, then)| Flap {
        changes,
        window_ms,
        quiet_ms,
        then,
    })
}

fn clauses() -> impl Strategy<Value = Clauses> {
    use OnNoData as N;
    let nodata = (prop::sample::select(vec![N::Clear, N::Keep, N::Unknown, N::Fire]), maybe(ms()))
        .prop_map(|(then, after_ms)| NoData { then, after_ms });
    let error = prop::sample::select(vec![OnError::Keep, OnError::Unknown, OnError::Fire]);
    let inhibited = (name(), maybe(labels())).prop_map(|(by, on)| Inhibited { by, on });
    let during = (any::<bool>(), name()).prop_map(|(negated, interval)| During { negated, interval });
    let lists = (prop::collection::vec(inhibited, 0..2), prop::collection::vec(during, 0..2));
    (own(), maybe(ms()), maybe(flap()), maybe(nodata), maybe(error), lists, maybe(1u32..1000)).prop_map(
        |(own, cooldown_ms, flap, nodata, error, (inhibited, during), cap)| Clauses {
            own,
            cooldown_ms,
            flap,
            nodata,
            error,
            inhibited,
            during,
            cap,
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    let at = any::<f64>().prop_filter("a bound", |v| !v.is_nan()).prop_map(ClearWhen::At);
    let when = prop_oneof![expr().prop_map(ClearWhen::When), at];
    let clear = (when, damp()).prop_map(|(when, damp)| Clear { when, damp, span: Span::default() });
    (expr(), damp(), maybe(clear)).prop_map(|(fire, damp, clear)| Condition { fire, damp, clear })
}

fn alert() -> impl Strategy<Value = Statement> {
    let level = (name(), condition(), own()).prop_map(|(name, condition, own)| Level {
        name,
        condition,
        own,
        span: Span::default(),
    });
    let levels = prop::collection::vec(level, 1..4).prop_map(|mut levels| {
        levels.iter_mut().enumerate().for_each(|(i, level)| level.name.push_str(&i.to_string()));
        Body::Levels(levels)
    });
    let body = prop_oneof![condition().prop_map(|c| Body::Single(Box::new(c))), levels];
    (name(), maybe(labels()), clauses(), body).prop_map(|(name, by, clauses, body)| {
        Statement::Alert(Box::new(Alert { name, by, clauses, body, span: Span::default() }))
    })
}

fn record() -> impl Strategy<Value = Statement> {
    (name(), expr(), map(), maybe(ms())).prop_map(|(name, expr, labels, backfill_ms)| {
        Statement::Record(Record { name, expr, labels, backfill_ms, span: Span::default() })
    })
}

fn slo() -> impl Strategy<Value = Statement> {
    let burn = (0.1f64..100.0, ms(), ms(), name(), damp(), clauses()).prop_map(
        |(rate, long_ms, short_ms, level, damp, clauses)| Burn {
            rate,
            long_ms,
            short_ms,
            level,
            damp,
            clauses,
            span: Span::default(),
        },
    );
    let burns = prop::collection::vec(burn, 0..3);
    (name(), 0.01f64..99.99, ms(), expr(), expr(), burns).prop_map(
        |(name, target, over_ms, bad, total, burns)| {
            Statement::Slo(Slo { name, target, over_ms, bad, total, burns, span: Span::default() })
        },
    )
}

#[test]
fn firing_is_the_series_that_an_alert_writes() {
    let spelled = "group without (alertname, alertstate, severity) \
                   (ALERTS{alertname=\"Host \\\"Down\\\"\", alertstate=\"firing\"})";
    let found = parse("x and on (a) firing('Host \"Down\"')").unwrap();
    assert_eq!(found.to_string(), parse(&format!("x and on (a) {spelled}")).unwrap().to_string());
    for text in ["firing()", "firing(x)", "firing(\"a\", \"b\")", "firing(5)", "firing(\"a\""] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(crate::syntax::parse_without_metricsql("firing(\"a\")").is_err());
    // A metric may be called so.
    assert!(matches!(parse("firing{a=\"b\"} > firing").unwrap().kind, ExprKind::Binary(_)));
}

fn statement() -> impl Strategy<Value = Statement> {
    let inner = prop_oneof![alert(), record(), slo()];
    let offset = maybe(0i64..1_000_000);
    let statements = prop::collection::vec(inner, 0..3);
    let group = (name(), maybe(ms()), offset, maybe(1u32..=u32::MAX), map(), statements).prop_map(
        |(name, every_ms, offset_ms, limit, labels, statements)| {
            let span = Span::default();
            Statement::Group(Group { name, every_ms, offset_ms, limit, labels, statements, span })
        },
    );
    prop_oneof![
        2 => alert(),
        1 => record(),
        1 => slo(),
        1 => group,
        1 => expr().prop_map(|e| Statement::Query(with_a_last_word(e))),
        1 => (any::<bool>(), expr()).prop_map(|(analyze, e)| {
            Statement::Explain(Explain { analyze, subject: Subject::Query(in_parentheses(e)) })
        }),
    ]
}

/// Printed first in a text, it is no statement.
fn with_a_last_word(expr: Expr) -> Expr {
    in_parentheses(expr)
}

fn in_parentheses(expr: Expr) -> Expr {
    Expr { kind: ExprKind::Paren(Box::new(expr)), span: Span::default() }
}

fn unspanned_condition(condition: Condition) -> Condition {
    Condition {
        fire: bare(condition.fire),
        damp: condition.damp,
        clear: condition.clear.map(|clear| Clear {
            when: match clear.when {
                ClearWhen::When(expr) => ClearWhen::When(bare(expr)),
                at => at,
            },
            damp: clear.damp,
            span: Span::default(),
        }),
    }
}

fn unspanned_alert(alert: Alert) -> Alert {
    let span = Span::default();
    let body = match alert.body {
        Body::Single(condition) => Body::Single(Box::new(unspanned_condition(*condition))),
        Body::Levels(levels) => Body::Levels(
            levels
                .into_iter()
                .map(|level| Level { condition: unspanned_condition(level.condition), span, ..level })
                .collect(),
        ),
    };
    Alert { body, span, ..alert }
}

fn unspanned(program: Program) -> Program {
    Program { statements: program.statements.into_iter().map(unspanned_statement).collect() }
}

fn unspanned_statement(statement: Statement) -> Statement {
    let span = Span::default();
    match statement {
        Statement::Query(expr) => Statement::Query(bare(expr)),
        Statement::Explain(Explain { analyze, subject }) => Statement::Explain(Explain {
            analyze,
            subject: match subject {
                Subject::Query(expr) => Subject::Query(bare(expr)),
                Subject::Alert(alert) => Subject::Alert(Box::new(unspanned_alert(*alert))),
            },
        }),
        Statement::Record(record) => Statement::Record(Record { expr: bare(record.expr), span, ..record }),
        Statement::Alert(alert) => Statement::Alert(Box::new(unspanned_alert(*alert))),
        Statement::Slo(slo) => Statement::Slo(Slo {
            bad: bare(slo.bad),
            total: bare(slo.total),
            burns: slo.burns.into_iter().map(|burn| Burn { span, ..burn }).collect(),
            span,
            ..slo
        }),
        Statement::Group(group) => {
            let statements = group.statements.into_iter().map(unspanned_statement).collect();
            Statement::Group(Group { statements, span, ..group })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn printed_statements_parse_to_themselves(statements in prop::collection::vec(statement(), 1..3)) {
        let wanted = Program { statements };
        let text = wanted.to_string();
        let found = program(&text);
        prop_assert!(found.is_ok(), "{}\n{}", text, found.unwrap_err());
        let found = found.unwrap();
        prop_assert_eq!(found.to_string(), text.clone());
        prop_assert_eq!(format!("{:?}", unspanned(found)), format!("{:?}", unspanned(wanted)), "{}", text);
    }

    /// Rule zero: no expression is taken for a statement, whatever its metrics are called.
    #[test]
    fn promql_is_never_a_statement(
        tree in promql(),
        word in prop::sample::select(vec!["alert", "record", "slo", "group", "explain", "ALERT"]),
        blank in prop::sample::select(vec!["", " ", "\n"]),
    ) {
        let line = tree.to_string();
        // Metrics of generated trees get the names of statements, and go first.
        let renamed = line.replace("with", word);
        for text in [line, renamed.clone(), format!("{word}{blank}- {renamed}"), format!("{word}{blank}{{a=\"b\"}} or ({renamed})")] {
            let Ok(expr) = parse(&text) else { continue };
            let found = program(&text);
            prop_assert_eq!(format!("{:?}", found), format!("{:?}", Ok::<_, metricsdb_model::Error>(Program { statements: vec![Statement::Query(expr)] })));
        }
    }

    #[test]
    fn any_pieces_get_statements_or_an_error(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "alert", "a", "x", "when", "for", "5m", "2", "of", "clear", "at", "level", "hold", "labels", "{", "}",
                "=", "\"s\"", ",", ";", "group", "every", "offset", "record", "slo", "target", "%", "over", "bad",
                "total", "burn", "and", "explain", "analyze", "on", "nodata", "(", ")", ">", "$w", "[", "]", "by", "cap", "instances", "flap", "changes", "in", "with", "sum",
            ]),
            0..24,
        ),
    ) {
        let text = pieces.join(" ");
        if let Ok(found) = program(&text) {
            let line = found.to_string();
            prop_assert_eq!(program(&line).map(|p| p.to_string()), Ok(line.clone()), "{}", text);
        }
    }
}
