#![allow(clippy::unwrap_used)]
use super::*;
use metricsdb_model::{Matrix, Span};
use proptest::prelude::*;

fn row(labels: &[(&str, &str)], samples: &[(i64, f64)], m: &mut Matrix) {
    for &(t, v) in samples {
        m.timestamps.push(t);
        m.values.push(v);
    }
    m.end_row(Labels::from_pairs(labels.iter().copied()).unwrap());
}

fn write(kind: AnswerKind, matrix: Matrix, text: Option<&str>, annotations: Vec<Annotation>) -> String {
    let a = Answer {
        kind,
        matrix,
        string: text.map(str::to_owned),
        annotations,
        samples_loaded: 0,
        rolled: false,
    };
    let mut out = Vec::new();
    answer(&a, None, &mut out);
    String::from_utf8(out).unwrap()
}

// The expected texts below were answered by a running Prometheus.

#[test]
fn a_vector() {
    let mut m = Matrix::default();
    row(&[("a", "<é\n\t\u{1}>")], &[(1_700_000_000_500, 1.0)], &mut m);
    assert_eq!(
        write(AnswerKind::Vector, m, None, vec![]),
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"\u003cé\n\t\u0001\u003e"},"value":[1700000000.500,"1"]}]}}"#
    );
    assert_eq!(
        write(AnswerKind::Vector, Matrix::default(), None, vec![]),
        r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#
    );
}

fn histogram(count: f64) -> metricsdb_model::Histogram {
    use metricsdb_model::histogram::Span;
    use metricsdb_model::{Counts, Histogram, Layout, ResetHint, Tally};
    let layout = Layout {
        schema: 0,
        zero_threshold: 0.75,
        positive: vec![Span { offset: 0, length: 3 }],
        negative: vec![Span { offset: 1, length: 1 }],
        custom_bounds: Vec::new(),
    };
    let tally = Tally { count, zero: 2.0, buckets: vec![1.0, 0.0, 1e-7, 3.0] };
    Histogram {
        layout: layout.into(),
        reset: ResetHint::Gauge,
        sum: f64::INFINITY,
        counts: Counts::Float(tally),
    }
}

// The form is that of Prometheus' documentation: a rule, lower and upper bound, count; empty buckets left out.
const HISTOGRAM: &str = r#"{"count":"6","sum":"+Inf","buckets":[[1,"-2","-1","3"],[3,"-0.75","0.75","2"],[0,"0.75","1","1"],[0,"2","4","1e-07"]]}"#;

#[test]
fn histograms_stand_in_the_place_of_values() {
    let mut m = Matrix::default();
    m.push_histogram(1_000, histogram(6.0));
    m.end_row(Labels::empty());
    assert_eq!(
        write(AnswerKind::Vector, m.clone(), None, vec![]),
        format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"histogram":[1,{HISTOGRAM}]}}]}}}}"#
        )
    );
    row(&[("a", "b")], &[(1_000, 1.0)], &mut m);
    m.timestamps.push(1_000);
    m.values.push(5.0);
    m.push_histogram(2_000, histogram(6.0));
    m.end_row(Labels::from_pairs([("a", "c")]).unwrap());
    assert_eq!(
        write(AnswerKind::Matrix, m, None, vec![]),
        format!(
            r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"histograms":[[1,{HISTOGRAM}]]}},{{"metric":{{"a":"b"}},"values":[[1,"1"]]}},{{"metric":{{"a":"c"}},"values":[[1,"5"]],"histograms":[[2,{HISTOGRAM}]]}}]}}}}"#
        )
    );
}

#[test]
fn custom_buckets_have_the_bounds_of_their_own() {
    use metricsdb_model::histogram::{SCHEMA_CUSTOM, Span};
    use metricsdb_model::{Counts, Layout, Tally};
    let layout = Layout {
        schema: SCHEMA_CUSTOM,
        positive: vec![Span { offset: 0, length: 3 }],
        custom_bounds: vec![-1.0, 5.0],
        ..Layout::default()
    };
    let tally = Tally { count: 6, zero: 0, buckets: vec![1u64, 2, 3] };
    let custom = metricsdb_model::Histogram {
        layout: layout.into(),
        counts: Counts::Int(tally),
        sum: 0.5,
        ..histogram(0.0)
    };
    let mut m = Matrix::default();
    m.push_histogram(0, custom);
    m.end_row(Labels::empty());
    let text = write(AnswerKind::Vector, m, None, vec![]);
    assert!(
        text.contains(r#""buckets":[[3,"-Inf","-1","1"],[0,"-1","5","2"],[0,"5","+Inf","3"]]"#),
        "{text}"
    );
}

#[test]
fn a_matrix_with_remarks() {
    let mut m = Matrix::default();
    row(&[], &[(1_699_999_950_000, 123_456_789.123), (1_699_999_980_000, f64::INFINITY)], &mut m);
    row(&[("__name__", "up"), ("b", "\"\\")], &[(-1, 1e21)], &mut m);
    let note =
        |severity, message: &str| Annotation { severity, message: message.into(), span: Span::default() };
    let notes = vec![note(Severity::Info, "i"), note(Severity::Warning, "w"), note(Severity::Info, "j")];
    assert_eq!(
        write(AnswerKind::Matrix, m, None, notes),
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1699999950,"123456789.123"],[1699999980,"+Inf"]]},{"metric":{"__name__":"up","b":"\"\\"},"values":[[-0.001,"1e+21"]]}]},"warnings":["w"],"infos":["i","j"]}"#
    );
}

#[test]
fn scalars_and_strings() {
    let mut m = Matrix::default();
    row(&[], &[(1_700_000_000_500, 1e-7)], &mut m);
    assert_eq!(
        write(AnswerKind::Scalar, m.clone(), None, vec![]),
        r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000.5,"0.0000001"]}}"#
    );
    m.timestamps[0] = 1_010;
    assert_eq!(
        write(AnswerKind::String, m, Some("a<b>&\u{2028}"), vec![]),
        "{\"status\":\"success\",\"data\":{\"resultType\":\"string\",\"result\":[1.01,\"a\\u003cb\\u003e\\u0026\\u2028\"]}}"
    );
}

#[test]
fn lists_errors_and_metadata() {
    let text = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).unwrap()
    };
    let l = Labels::from_pairs([("a", "1")]).unwrap();
    assert_eq!(
        text(&|o| label_sets([&l, &l], o, |_| Ok(())).unwrap()),
        r#"{"status":"success","data":[{"a":"1"},{"a":"1"}]}"#
    );
    assert_eq!(text(&|o| strings([], o)), r#"{"status":"success","data":[]}"#);
    assert_eq!(text(&|o| strings(["a", "b"], o)), r#"{"status":"success","data":["a","b"]}"#);
    assert_eq!(
        text(&|o| error("bad_data", "no \"x\"", o)),
        r#"{"status":"error","errorType":"bad_data","error":"no \"x\""}"#
    );
    let m = |metric: &str, kind| Metadata { metric: metric.into(), kind, help: Some("h".into()), unit: None };
    let entries = [m("a", None), m("a", Some(MetricType::Counter)), m("b", Some(MetricType::Gauge))];
    assert_eq!(
        text(&|o| metadata(&entries, o)),
        r#"{"status":"success","data":{"a":[{"type":"unknown","help":"h","unit":""},{"type":"counter","help":"h","unit":""}],"b":[{"type":"gauge","help":"h","unit":""}]}}"#
    );
    assert_eq!(text(&|o| metadata([], o)), r#"{"status":"success","data":{}}"#);
}

/// Reads a JSON string the slow way.
fn unquote(json: &str) -> String {
    let inner = json.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        assert!(c >= ' ' && c != '"');
        out.push(match c {
            '\\' => match chars.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap()
                }
                c => c,
            },
            c => c,
        });
    }
    out
}

proptest! {
    #[test]
    fn any_string_survives(text in any::<String>()) {
        let mut out = Vec::new();
        string(&text, &mut out);
        prop_assert_eq!(unquote(std::str::from_utf8(&out).unwrap()), text);
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_add_up_to_the_whole(
        // A sample without a number is a histogram.
        rows in prop::collection::vec(prop::collection::vec((any::<i64>(), any::<Option<f64>>()), 0..20), 0..12),
        sizes in prop::collection::vec(1usize..600, 1..20),
        matrix in any::<bool>(),
    ) {
        let mut m = Matrix::default();
        for (i, samples) in rows.iter().enumerate() {
            let samples = if matrix { &samples[..] } else { samples.get(..1).unwrap_or(&[]) };
            for &(t, value) in samples {
                match value {
                    Some(value) => {
                        m.timestamps.push(t);
                        m.values.push(value);
                    }
                    None => m.push_histogram(t, Histogram::stale()),
                }
            }
            m.end_row(Labels::from_pairs([("i", i.to_string())]).unwrap());
        }
        let kind = if matrix { AnswerKind::Matrix } else { AnswerKind::Vector };
        let remark =
            Annotation { severity: Severity::Info, message: "m".to_owned(), span: Span::default() };
        let a = Answer { kind, matrix: m, string: None, annotations: vec![remark], samples_loaded: 0, rolled: false };
        let stats = QueryStats {
            timings: vec![("evalTotalTime", 0.25)], samples: 3, samples_peak: 2, per_step: vec![(1500, 3)],
        };
        let mut whole = Vec::new();
        answer(&a, Some(&stats), &mut whole);
        let (mut pieces, mut joined, mut sizes) = (Pieces::default(), Vec::new(), sizes.iter().cycle());
        while !pieces.is_done() {
            let (size, mut piece) = (*sizes.next().unwrap(), Vec::new());
            pieces.next(&a, Some(&stats), size, &mut piece);
            prop_assert!(piece.len() < size + 500 && !piece.is_empty());
            joined.append(&mut piece);
        }
        prop_assert_eq!(String::from_utf8(joined).unwrap(), String::from_utf8(whole).unwrap());
    }
}

#[test]
fn statistics_have_the_shape_of_prometheus() {
    let a = Answer {
        kind: AnswerKind::Vector,
        matrix: Matrix::default(),
        string: None,
        annotations: vec![],
        samples_loaded: 0,
        rolled: false,
    };
    let stats = QueryStats {
        timings: vec![("evalTotalTime", 0.25), ("execTotalTime", 0.000001)],
        samples: 3,
        samples_peak: 2,
        per_step: vec![(1500, 1), (2000, 2)],
    };
    let mut out = Vec::new();
    answer(&a, Some(&stats), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"status":"success","data":{"resultType":"vector","result":[],"stats":{"timings":{"evalTotalTime":0.25,"#,
            r#""execTotalTime":0.000001},"samples":{"totalQueryableSamplesPerStep":[[1.5,1],[2,2]],"#,
            r#""totalQueryableSamples":3,"peakSamples":2}}}}"#
        )
    );
}
