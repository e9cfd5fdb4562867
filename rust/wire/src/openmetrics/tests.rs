#![allow(clippy::unwrap_used)]
use super::*;
use metricsdb_model::LabelsBuilder;
use proptest::prelude::*;

fn read(body: &str) -> Result<Vec<(String, i64, f64)>> {
    let text = format!("{body}# EOF\n");
    let batch = parse(text.as_bytes(), 42)?;
    let mut b = LabelsBuilder::default();
    let mut row = |s: &BatchSeries| {
        (batch.decode)(&s.raw, &mut b).unwrap();
        let at = s.samples.start as usize;
        (b.finish().unwrap().to_string(), batch.timestamps[at], batch.values[at])
    };
    Ok(batch.series.iter().map(&mut row).collect())
}

fn refused_at(body: &str) -> usize {
    match read(body) {
        Err(Error::Input { message, remedy, .. }) => {
            assert!(!remedy.is_empty(), "{body}");
            message.strip_prefix("line ").unwrap().split(':').next().unwrap().parse().unwrap()
        }
        other => unreachable!("{body:?} gave {other:?}"),
    }
}

#[test]
fn samples_times_and_metadata_come_through() {
    let text = "# TYPE req_seconds counter\n# UNIT req_seconds seconds\n# HELP req_seconds a\\n\\\"b\\\\\n\
        req_seconds_total{p=\"/\\\"\"} 17 1.2345 # {id=\"x\"} 0.5 1\nreq_seconds_created{p=\"/\\\"\"} 5.5 1.2345\n\
        # HELP empty \nempty -Inf\n# EOF\n";
    let batch = parse(text.as_bytes(), 42).unwrap();
    assert_eq!(batch.timestamps, [1235, 42]);
    assert_eq!(batch.values, [17.0, f64::NEG_INFINITY]);
    assert_eq!(batch.starts, [5500, 0]);
    let expected = Metadata {
        metric: "req_seconds".into(),
        kind: Some(MetricType::Counter),
        help: Some("a\n\"b\\".into()),
        unit: Some("seconds".into()),
    };
    assert_eq!(batch.metadata, [expected]);
    assert_eq!((batch.report.rejected[0].reason, batch.report.rejected[0].count), (Reason::Unsupported, 1));
}

#[test]
fn created_lines_are_the_starts_of_their_metric() {
    let text = "# TYPE h histogram\nh_bucket{a=\"1\",le=\"+Inf\"} 2\nh_count{a=\"1\"} 2\nh_sum{a=\"1\"} 1\n\
        h_created{a=\"1\"} 1.5\nh_bucket{a=\"2\",le=\"+Inf\"} 2\nh_created{a=\"3\"} 9\n\
        h_bucket{a=\"3\",le=\"+Inf\"} 0\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_created 2\ns_count 4\n\
        # TYPE x_created gauge\nx_created 7\n# EOF\n";
    let batch = parse(text.as_bytes(), 42).unwrap();
    assert_eq!(batch.starts, [1500, 1500, 1500, 0, 9000, 0, 2000, 0]);
    // The name alone makes no start.
    assert_eq!((batch.values.last(), batch.series.len()), (Some(&7.0), 8));
}

#[test]
fn a_time_that_milliseconds_cannot_hold_costs_its_sample() {
    let batch = parse(b"a 1 1e300\nb 1 1\n# EOF", 0).unwrap();
    assert_eq!(batch.timestamps, [1000]);
    assert_eq!(batch.report.rejected[0].reason, Reason::LimitExceeded);
}

#[test]
fn what_the_specification_allows_is_taken() {
    for body in [
        "",
        "m 1\n",
        "m{} nan\n",
        "m +INFINITY -3.5e-2\n",
        "m 00.5E+1\n",
        "m{x=\"\"} 1\nm{x=\"y\"} 1\n",
        "m{x=\"\\q\\\\\\n\"} .5\n",
        "# TYPE m gauge\n",
        "# UNIT m \n# TYPE m info\nm_info{v=\"1\"} 1\nm_info{v=\"2\"} 1\n",
        "# TYPE m stateset\nm{m=\"a\"} 1\nm{m=\"b\"} 0\nm{e=\"x\",m=\"a\"} 1\n",
        "# TYPE m summary\nm_count{a=\"1\"} 0 1\nm_sum{a=\"1\"} 0 1\nm_count{a=\"1\"} 0 2\nm_sum{a=\"1\"} 0 2\n",
        "# TYPE m summary\nm{quantile=\"0.9\"} NaN\nm{quantile=\"0.5\"} 1\nm_created 1\n",
        "# TYPE m histogram\nm_count 4\nm_sum 1\nm_bucket{le=\"1e-9\"} 1\nm_bucket{le=\"7\"} 4\nm_bucket{le=\"+Inf\"} 4\n",
        "# TYPE m histogram\nm_bucket{le=\"-1\"} 1 # {} -3\nm_bucket{le=\"+Inf\"} 4 # {a=\"b\"} 9 1.5\nm_created 3\n",
        "# TYPE m gaugehistogram\nm_bucket{le=\"+Inf\"} 4\nm_gcount 4\nm_gsum 3\n",
        "# TYPE m gaugehistogram\nm_bucket{le=\"-2\"} 4\nm_bucket{le=\"+Inf\"} 4\nm_gcount 4\nm_gsum -9\n",
        "# TYPE m counter\nm_total 1 5\nm_total 2 5.0001\nm_total{a=\"b\"} 1 1\n",
        "# TYPE m unknown\nm -1\n",
        "# HELP m \u{0}\"quotes\" need no escape here\n",
    ] {
        assert!(read(body).is_ok(), "{body:?}: {:?}", read(body));
    }
}

#[test]
fn what_the_grammar_forbids_is_refused_with_its_line() {
    for (line, body) in [
        (1, "\n"),
        (2, "m 1\n\nn 1\n"),
        (1, "m 1\r\n"),
        (1, "\u{feff}m 1\n"),
        (1, "#\n"),
        (1, "# a comment\n"),
        (2, "m 1\n# EOF\n"),
        (1, "# TYPE m  gauge\n"),
        (1, "#  TYPE m gauge\n"),
        (1, "# TYPE 1m gauge\n"),
        (1, "# TYPE m Gauge\n"),
        (1, "# type m gauge\n"),
        (1, "# HELP m\n"),
        (1, "# UNIT m_s s \n"),
        (1, "# UNIT s s\n"),
        (1, "# UNIT ms s\n"),
        (1, " m 1\n"),
        (1, "m  1\n"),
        (1, "m 1  1\n"),
        (1, "m 1 1 1\n"),
        (1, "m 1 \n"),
        (1, "m 1e400\n"),
        (1, "m -nan\n"),
        (1, "m 1 nan\n"),
        (1, "m 1 0x1\n"),
        (1, "m{a=\"b\",} 1\n"),
        (1, "m{a=\"b\" } 1\n"),
        (1, "m{a:b=\"c\"} 1\n"),
        (1, "m {a=\"b\"} 1\n"),
        (1, "m{a=\"b\"}  1\n"),
        (1, "{\"m\"} 1\n"),
        (1, "m.n 1\n"),
        (2, "# TYPE m counter\nm_total 1 #{} 1\n"),
        (2, "# TYPE m counter\nm_total 1 # {}\n"),
        (2, "# TYPE m counter\nm_total 1 # {}  1\n"),
        (2, "# TYPE m counter\nm_total 1 # {} 1 1 1\n"),
        (2, "# TYPE m counter\nm_total 1 # {a=\"1\",a=\"2\"} 1\n"),
        (2, "# TYPE m counter\nm_total 1 1 # {} 1 +Inf\n"),
    ] {
        assert_eq!(refused_at(body), line, "{body:?}");
    }
}

#[test]
fn what_the_rules_of_types_forbid_is_refused_with_its_line() {
    for (line, body) in [
        (2, "# TYPE m gauge\n# TYPE m gauge\n"),
        (3, "# TYPE m gauge\nm 1\n# HELP m late\n"),
        (3, "m 1\nn 1\nm 2\n"),
        (3, "# TYPE m gauge\n# TYPE n gauge\n# HELP m again\n"),
        (2, "# TYPE m counter\nm 1\n"),
        (2, "# TYPE m info\n# TYPE m_info gauge\n"),
        (2, "# TYPE m_sum gauge\n# TYPE m summary\nm_count 1\n"),
        (2, "# TYPE m counter\nm_total -1\n"),
        (1, "# TYPE m counter\nm_created 1\n"),
        (3, "# TYPE m gauge\nm 1\nm 1\n"),
        (3, "# TYPE m gauge\nm 1 2\nm 1 1\n"),
        (3, "# TYPE m gauge\nm 1 2\nm 1\n"),
        (4, "# TYPE m gauge\nm{a=\"1\"} 1\nm{a=\"2\"} 1\nm{a=\"1\"} 1\n"),
        (2, "# TYPE m gauge\nm 1 # {} 1\n"),
        (2, "# TYPE m histogram\nm_bucket{le=\"one\"} 1\n"),
        (2, "# TYPE m histogram\nm_bucket{le=\"inf\"} 1\n"),
        (2, "# TYPE m histogram\nm_bucket{le=\"+Inf\"} 1.5\n"),
        (2, "# TYPE m histogram\nm_bucket{le=\"1\"} 1 # {} 1.5\n"),
        (3, "# TYPE m histogram\nm_bucket{le=\"2\"} 1\nm_bucket{le=\"2.0\"} 1\n"),
        (3, "# TYPE m histogram\nm_bucket{le=\"2\"} 2\nm_bucket{le=\"+Inf\"} 1\n"),
        (1, "# TYPE m histogram\nm_bucket{le=\"2\"} 2\n"),
        (1, "# TYPE m histogram\nm_bucket{le=\"-2\"} 2\nm_bucket{le=\"+Inf\"} 2\nm_sum 1\nm_count 2\n"),
        (1, "# TYPE m gaugehistogram\nm_bucket{le=\"+Inf\"} 2\nm_gsum 1\n"),
        (4, "# TYPE m histogram\nm_bucket{le=\"+Inf\"} 2\nm_count 3\nm_bucket{a=\"b\",le=\"+Inf\"} 2\n"),
        (2, "# TYPE m summary\nm_sum{quantile=\"0.5\"} 1\n"),
        (2, "# TYPE m summary\nm{quantile=\"2\"} 1\n"),
        (2, "# TYPE m summary\nm_count 0.5\n"),
        (2, "# TYPE m stateset\nm{n=\"a\"} 1\n"),
        (2, "# TYPE m info\nm_info 0\n"),
        (1, "# TYPE m_s info\n# UNIT m_s s\n"),
    ] {
        assert_eq!(refused_at(body), line, "{body:?}");
    }
}

#[test]
fn the_128_characters_of_an_exemplar_are_characters() {
    let with = |n: usize| format!("# TYPE m counter\nm_total 1 # {{a=\"{}\\\\\"}} 1\n", "é".repeat(n));
    assert!(read(&with(126)).is_ok());
    assert_eq!(refused_at(&with(127)), 2);
}

#[test]
fn a_text_cut_at_any_byte_is_refused() {
    let text = "# TYPE m counter\nm_total{a=\"é\\\"\"} 17 1.5 # {id=\"x\"} 1\n# EOF\n";
    assert!(parse(text.as_bytes(), 0).is_ok());
    for cut in 0..text.len() - 1 {
        assert!(parse(&text.as_bytes()[..cut], 0).is_err(), "cut at {cut}");
    }
    assert!(parse(&text.as_bytes()[..text.len() - 1], 0).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&[&text[..], b"\n# EOF"].concat(), 0);
    }

    #[test]
    fn near_misses_never_panic_and_every_series_decodes(
        text in "((# (TYPE|HELP|UNIT) m )?(gauge|counter|histogram|summary|x)?|m(_total|_bucket|_sum)?(\\{(le|a)=\"[1é\\\\]?\"\\})?( [01.Na]{0,3}){0,2}( # \\{\\} 1)?\n){0,12}"
    ) {
        if let Ok(batch) = parse(format!("{text}# EOF\n").as_bytes(), 0) {
            for s in &batch.series {
                prop_assert!((batch.decode)(&s.raw, &mut LabelsBuilder::default()).is_ok());
            }
        }
    }

    /// The tolerant parser agrees on everything that the strict one takes and has the same syntax.
    #[test]
    fn both_text_parsers_read_the_same(values in prop::collection::vec(("[a-z]{1,3}", any::<f64>()), 0..9)) {
        let mut seen = std::collections::HashSet::new();
        let mut text = String::new();
        for (name, v) in values.iter().filter(|(n, _)| seen.insert(n.clone())) {
            text += &format!("{name}{{x=\"{name}\"}} {v}\n");
        }
        text += "# EOF\n";
        let strict = parse(text.as_bytes(), 7).unwrap();
        let tolerant = crate::exposition::parse(text.as_bytes(), 7);
        prop_assert_eq!(&strict.timestamps, &tolerant.timestamps);
        let bits = |b: &Batch| b.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&strict), bits(&tolerant));
    }
}
