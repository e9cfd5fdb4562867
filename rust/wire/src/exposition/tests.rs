#![allow(clippy::unwrap_used)]
use super::*;
use metricsdb_model::sample::NORMAL_NAN_BITS;
use metricsdb_model::{Labels, LabelsBuilder};
use proptest::prelude::*;

fn series(batch: &Batch) -> Vec<(String, i64, u64)> {
    let mut b = LabelsBuilder::default();
    let mut row = |s: &BatchSeries| {
        (batch.decode)(&s.raw, &mut b).unwrap();
        let at = s.samples.start as usize;
        (b.finish().unwrap().to_string(), batch.timestamps[at], batch.values[at].to_bits())
    };
    batch.series.iter().map(&mut row).collect()
}

fn read(text: &str) -> Vec<(String, i64, u64)> {
    let batch = parse(text.as_bytes(), 42);
    assert_eq!(batch.report.rejected, [], "{text}");
    series(&batch)
}

#[test]
fn the_liberties_of_the_format_are_taken() {
    let text = "# HELP a one\\ntwo \\\\ \\\"\n# TYPE a counter\n# any other comment\n#\n\na 1\n  a{b=\"1\"} 2 7\r\n\
                a{b=\"1\",}\t3\t-8  \na { b = \"1\" } NaN\n{\"my.metric\",a=\"b\"}1 1\na +Inf";
    let nan = f64::from_bits(NORMAL_NAN_BITS);
    let expected = [
        ("a{}", 42, 1.0),
        ("a{b=\"1\"}", 7, 2.0),
        ("a{b=\"1\"}", -8, 3.0),
        ("a{b=\"1\"}", 42, nan),
        ("my.metric{a=\"b\"}", 1, 1.0),
        ("a{}", 42, f64::INFINITY),
    ];
    assert_eq!(read(text), expected.map(|(l, t, v)| (l.to_owned(), t, v.to_bits())));
    let meta = parse(text.as_bytes(), 0).metadata;
    let help = Some("one\ntwo \\ \\\"".to_owned());
    assert_eq!(meta, [Metadata { metric: "a".into(), kind: Some(MetricType::Counter), help, unit: None }]);
}

#[test]
fn quoted_names_may_stand_in_comments() {
    let meta = parse(b"# TYPE \"my.metric\" gauge\n# HELP \"my.metric\" x y\n", 0).metadata;
    let expected = Metadata {
        metric: "my.metric".into(),
        kind: Some(MetricType::Gauge),
        help: Some("x y".into()),
        unit: None,
    };
    assert_eq!(meta, [expected]);
}

#[test]
fn a_bad_line_is_told_with_its_number_and_costs_no_neighbour() {
    for bad in [
        "a",
        "a ",
        "a b",
        "a 1 x",
        "a 1 1.5",
        "a 1 1 1",
        "a{ 1",
        "a{b=1} 1",
        "a.b 1",
        "0a 1",
        "a{b=\"1\"b=\"2\"} 1",
        "a{b=\"1\",b=\"1\"} 1",
        "a 0x1p3",
        "a 1_0",
        "a 1 # {} 1",
        "# TYPE a",
        "# TYPE a meh",
        "# HELP",
        "é 1",
        "# TYPE a gauge x",
        "a{b=\"\\\"} 1",
        "a 1e999",
        "a 1 99999999999999999999",
    ] {
        let text = format!("first 1\n{bad}\nlast 2\n");
        let batch = parse(text.as_bytes(), 0);
        assert_eq!(series(&batch).len(), 2, "{bad}");
        assert_eq!(batch.report.rejected.len(), 1, "{bad}");
        let r = &batch.report.rejected[0];
        assert_eq!((r.reason, r.count), (Reason::Malformed, 1), "{bad}");
        assert!(r.example.starts_with("line 2: ") && r.example.ends_with(bad), "{}", r.example);
    }
}

#[test]
fn invalid_utf8_costs_its_line_alone() {
    let batch = parse(b"a 1\nb{c=\"\xff\"} 1\nc{d=\"\xc3\xa9\"} 1\n", 0);
    assert_eq!(series(&batch).len(), 2);
    assert_eq!(batch.report.rejected[0].count, 1);
}

#[test]
fn a_text_cut_at_any_byte_keeps_its_whole_lines() {
    let text = "# TYPE up gauge\nup{job=\"a\\\"b\",x=\"é\"} 17 1000\nup{job=\"c\"} 1.5e3 -2\n";
    let all = read(text);
    for cut in 0..text.len() {
        let batch = parse(&text.as_bytes()[..cut], 42);
        let whole = text.as_bytes()[..cut].iter().filter(|&&b| b == b'\n').count().saturating_sub(1);
        let got = series(&batch);
        assert_eq!(got[..whole], all[..whole], "cut at {cut}");
        assert!(got.len() <= whole + 1);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let batch = parse(&text, 0);
        for s in &batch.series {
            let _ = (batch.decode)(&s.raw, &mut LabelsBuilder::default());
        }
    }

    #[test]
    fn near_misses_never_panic_and_every_series_decodes(text in r#"([a{}="\\\n, 1#é]|TYPE|HELP| ){0,60}"#) {
        let batch = parse(text.as_bytes(), 0);
        for s in &batch.series {
            let mut b = LabelsBuilder::default();
            prop_assert!((batch.decode)(&s.raw, &mut b).is_ok(), "{:?}", s.raw);
        }
    }

    #[test]
    fn any_label_set_survives(
        pairs in prop::collection::btree_map("[a-z_][a-z0-9_]{0,5}", "\\PC{1,9}|[\"\\\\\n]{1,4}", 0..4),
        name in "[a-z:_]{1,5}|.{1,6}",
        t in any::<i64>(),
        v in any::<f64>(),
    ) {
        let mut text = Vec::new();
        let mut labels = Labels::from_pairs(pairs.iter()).unwrap();
        labels = labels.with("__name__", &name);
        crate::exposition_writer::sample(&labels, v, Some(t), &mut text);
        let batch = parse(&text, 0);
        prop_assert_eq!(&batch.report.rejected, &[]);
        let got = series(&batch);
        let value = if v.is_nan() { f64::from_bits(NORMAL_NAN_BITS) } else { v };
        prop_assert_eq!(got, vec![(labels.to_string(), t, value.to_bits())]);
    }
}
