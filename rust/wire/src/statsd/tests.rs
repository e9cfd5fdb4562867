#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn aggregator() -> StatsdAggregator {
    let options = StatsdOptions {
        timing_bounds: vec![0.1, 1.0],
        histogram_bounds: vec![10.0],
        ..StatsdOptions::default()
    };
    StatsdAggregator::new(options).unwrap()
}

fn flushed(a: &mut StatsdAggregator) -> BTreeMap<String, f64> {
    let batch = a.flush(1000);
    assert!(batch.timestamps.iter().all(|&t| t == 1000));
    let mut b = LabelsBuilder::default();
    let mut row = |s: &BatchSeries| {
        (batch.decode)(&s.raw, &mut b).unwrap();
        (b.finish().unwrap().to_string(), batch.values[s.samples.start as usize])
    };
    batch.series.iter().map(&mut row).collect()
}

fn after(text: &str) -> BTreeMap<String, f64> {
    let mut a = aggregator();
    assert_eq!(a.add(text.as_bytes()).rejected, [], "{text}");
    flushed(&mut a)
}

fn expected(rows: &[(&str, f64)]) -> BTreeMap<String, f64> {
    rows.iter().map(|&(l, v)| (l.to_owned(), v)).collect()
}

#[test]
fn counters_grow_over_flushes() {
    let mut a = aggregator();
    a.add(b"hits:1|c\nhits:2|c|@0.5\nhits:1:2|c");
    assert_eq!(flushed(&mut a), expected(&[("hits{}", 8.0)]));
    a.add(b"hits:1|c");
    assert_eq!(flushed(&mut a), expected(&[("hits{}", 9.0)]));
    assert_eq!(flushed(&mut a), expected(&[("hits{}", 9.0)]));
}

#[test]
fn a_metric_that_would_write_to_a_series_of_another_is_refused() {
    let first_refuses_second = [
        ("t:5|ms", "t_count:1|c"),
        ("t_sum:1|c", "t:5|ms"),
        ("t:5|ms", "t_bucket:5|g|#le:0.1"),
        ("t_bucket:5|g|#le:10", "t:5|h"),
        ("t:5|ms|#job:a", "t_sum:1|g|#job:a"),
        ("x:1|c", "t:5|ms|#le:7"),
    ];
    for (first, second) in first_refuses_second {
        let mut a = aggregator();
        assert_eq!(a.add(first.as_bytes()).accepted, 1);
        let before = flushed(&mut a);
        let report = a.add(second.as_bytes());
        assert_eq!((report.accepted, report.rejected_total()), (0, 1), "{first}, {second}");
        assert_eq!(flushed(&mut a), before, "{first}, {second}");
    }
    for (first, second) in
        [("t:5|ms", "t_bucket:5|g|#le:9"), ("t:5|ms|#job:a", "t_sum:1|g"), ("t:5|ms", "t_count:1|ms")]
    {
        assert_eq!(
            aggregator().add(format!("{first}\n{second}").as_bytes()).accepted,
            2,
            "{first}, {second}"
        );
    }
}

#[test]
fn gauges_keep_the_last_value_and_add_signed_ones() {
    let mut a = aggregator();
    a.add(b"g:5|g\ng:+3|g\ng:-10|g");
    assert_eq!(flushed(&mut a), expected(&[("g{}", -2.0)]));
    a.add(b"g:7|g");
    assert_eq!(flushed(&mut a), expected(&[("g{}", 7.0)]));
}

#[test]
fn timings_become_classic_histograms_in_seconds() {
    let rows = after("t:50|ms\nt:100:500|ms\nt:2000|ms|@0.5");
    let wanted = expected(&[
        ("t_bucket{le=\"0.1\"}", 2.0),
        ("t_bucket{le=\"1\"}", 3.0),
        ("t_bucket{le=\"+Inf\"}", 5.0),
        ("t_count{}", 5.0),
        ("t_sum{}", 0.05 + 0.1 + 0.5 + 4.0),
    ]);
    assert_eq!(rows.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (k, v) in &wanted {
        assert!((rows[k] - v).abs() < 1e-12, "{k}: {} is not {v}", rows[k]);
    }
    let rows = after("size:10|h\nsize:11|h");
    assert_eq!((rows["size_bucket{le=\"10\"}"], rows["size_sum{}"]), (1.0, 21.0));
}

#[test]
fn sets_count_what_differs_in_one_interval() {
    let mut a = aggregator();
    a.add(b"users:ann|s\nusers:bob|s\nusers:ann|s");
    assert_eq!(flushed(&mut a), expected(&[("users{}", 2.0)]));
    assert_eq!(flushed(&mut a), expected(&[("users{}", 0.0)]));
    a.add(b"users:ann|s");
    assert_eq!(flushed(&mut a), expected(&[("users{}", 1.0)]));
}

#[test]
fn names_and_tags_become_valid() {
    assert_eq!(
        after("web.req-time/é:1|c|@1|#env:prod,9path:/a:b,flag,env:test|c:container\n9x:1|g"),
        expected(&[("web_req_time__{_9path=\"/a:b\", env=\"test\", flag=\"true\"}", 1.0), ("_9x{}", 1.0)])
    );
}

#[test]
fn one_line_may_hold_events_of_several_types() {
    assert_eq!(after("a:1|c:2|c|@0.1:3|c"), expected(&[("a{}", 24.0)]));
    let mut a = aggregator();
    let report = a.add(b"a:1|c:2|g");
    assert_eq!((report.accepted, report.rejected_total()), (1, 1));
}

#[test]
fn bad_lines_cost_no_other() {
    for bad in [
        "a",
        ":1|c",
        "a:1",
        "a:|c",
        "a:x|c",
        "a:nan|g",
        "a:inf|g",
        "a:-1|c",
        "a:1|z",
        "a:1|c|@0",
        "a:1|c|@2",
        "a:1|c|@x",
        "a:1|c|%",
        "_e{1,1}:a|b",
        "_sc|a|0",
        "a:1|c|T1700000000",
        "a:|s",
        "last:1|g|#x\u{ff}:1|q",
    ] {
        let mut a = aggregator();
        let report = a.add(format!("first:1|c\r\n{bad}\n\nlast:2|c\n").as_bytes());
        assert_eq!((report.accepted, report.rejected_total()), (2, 1), "{bad}");
        assert!(report.rejected[0].example.starts_with("line 2: "), "{}", report.rejected[0].example);
        let rows = flushed(&mut a);
        assert_eq!((rows["first{}"], rows["last{}"]), (1.0, 2.0), "{bad}");
    }
    assert_eq!(aggregator().add(b"a:1|c|#x:\xff\nb:1|c").accepted, 1);
}

#[test]
fn limits_hold() {
    let options =
        StatsdOptions { metrics_max: 1, set_values_max: 2, idle_flushes_max: 2, ..Default::default() };
    let mut a = StatsdAggregator::new(options).unwrap();
    let report = a.add(b"s:1|s\ns:2|s\ns:2|s\ns:3|s\nb:1|c");
    assert_eq!((report.accepted, report.rejected[0].reason), (3, Reason::LimitExceeded));
    assert_eq!(report.rejected[0].count, 2);
    for left in [1, 1, 0] {
        assert_eq!(flushed(&mut a).len(), left);
    }
    assert!(a.is_empty());
    let bounds = StatsdOptions { timing_bounds: vec![1.0, 1.0], ..Default::default() };
    assert!(StatsdAggregator::new(bounds).is_err());
}

#[test]
fn metadata_names_each_metric_once() {
    let mut a = aggregator();
    a.add(b"b:1|c|#x:1\nb:1|c|#x:2\na:1|ms");
    let m = |metric: &str, kind| Metadata { metric: metric.into(), kind: Some(kind), help: None, unit: None };
    assert_eq!(a.flush(0).metadata, [m("a", MetricType::Histogram), m("b", MetricType::Counter)]);
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut a = aggregator();
        a.add(&body);
        flushed(&mut a);
    }

    #[test]
    fn near_misses_never_panic_and_are_all_accounted_for(body in "([ab.]:[+-]?[0-9:]{1,3}\\|(c|g|ms|h|s|x)(\\|@0.5|\\|#a:b,c|:1\\|c)?\n){0,9}") {
        let mut a = aggregator();
        let report = a.add(body.as_bytes());
        prop_assert!(report.accepted + report.rejected_total() >= body.lines().count() as u64);
        flushed(&mut a);
    }
}
