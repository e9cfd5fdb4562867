#![allow(clippy::unwrap_used, clippy::panic)]

use metricsdb_model::{BatchSeries, Counts, Error, LabelsBuilder, ResetHint};
use proptest::prelude::*;

use super::*;
use crate::protobuf::{put_bytes, put_double, put_number, put_varint};

/// A message from what writes its fields.
fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn timestamp(seconds: u64, nanos: u64) -> Vec<u8> {
    message(|m| {
        put_number(m, 1, seconds);
        put_number(m, 2, nanos);
    })
}

/// A family of one metric whose value is field `number`, behind its length.
fn family(name: &str, kind: u64, number: u32, value: &[u8]) -> Vec<u8> {
    let label = message(|m| {
        put_bytes(m, 1, b"job");
        put_bytes(m, 2, "é".as_bytes());
    });
    let metric = message(|m| {
        put_bytes(m, 1, &label);
        put_bytes(m, number, value);
    });
    let family = message(|m| {
        put_bytes(m, 1, name.as_bytes());
        put_bytes(m, 2, b"help");
        put_number(m, 3, kind);
        put_bytes(m, 4, &metric);
        put_bytes(m, 5, b"seconds");
    });
    message(|m| {
        put_varint(m, family.len() as u64);
        m.extend(&family);
    })
}

/// Label set, time, value and start of each sample.
fn read(body: &[u8]) -> Vec<(String, i64, f64, i64)> {
    let mut labels = Vec::new();
    let batch = parse(body, 42, &mut labels).unwrap();
    assert!(batch.report.rejected.is_empty(), "{:?}", batch.report);
    let row = |s: &BatchSeries| {
        let at = s.samples.start as usize;
        (
            name_of(&batch, s),
            batch.timestamps[at],
            batch.values[at],
            batch.starts.get(at).copied().unwrap_or(0),
        )
    };
    batch.series.iter().filter(|s| !s.samples.is_empty()).map(row).collect()
}

fn name_of(batch: &Batch, series: &BatchSeries) -> String {
    let mut b = LabelsBuilder::default();
    (batch.decode)(&series.raw, &mut b).unwrap();
    b.finish().unwrap().to_string()
}

fn counter() -> Vec<u8> {
    let value = message(|m| {
        put_double(m, 1, 17.5);
        put_bytes(m, 3, &timestamp(1_700_000_000, 250_999_999));
    });
    family("hits_total", COUNTER, 3, &value)
}

fn native(float: bool) -> Vec<u8> {
    let span = message(|m| {
        put_number(m, 1, 3);
        put_number(m, 2, 2);
    });
    let value = message(|m| {
        if float {
            put_double(m, 4, 4.5);
            put_bytes(m, 14, &[1.5f64, 3.0].map(|v| v.to_bits().to_le_bytes()).concat());
        } else {
            put_number(m, 1, 4);
            put_double(m, 4, 0.0);
            put_bytes(m, 13, &[2, 4]);
        }
        put_double(m, 2, 9.0);
        put_bytes(m, 3, &message(|m| put_double(m, 2, 1.0)));
        put_number(m, 5, 6);
        put_double(m, 6, 0.5);
        put_bytes(m, 12, &span);
        put_bytes(m, 15, &timestamp(3, 0));
    });
    family("latency_seconds", if float { GAUGE_HISTOGRAM } else { HISTOGRAM }, 7, &value)
}

#[test]
fn a_counter_has_its_start_and_its_metadata() {
    let body = counter();
    let expected = ("hits_total{job=\"é\"}".to_owned(), 42, 17.5, 1_700_000_000_250);
    assert_eq!(read(&body), [expected]);
    let mut labels = Vec::new();
    let about = &parse(&body, 0, &mut labels).unwrap().metadata[0];
    let texts = (about.help.as_deref(), about.unit.as_deref());
    assert_eq!(
        (about.metric.as_str(), about.kind, texts),
        ("hits_total", Some(MetricType::Counter), (Some("help"), Some("seconds")))
    );
}

#[test]
fn a_classic_histogram_becomes_its_series() {
    let bucket = |count: u64, bound: f64| {
        message(|m| {
            put_number(m, 1, count);
            put_double(m, 2, bound);
        })
    };
    let value = message(|m| {
        put_number(m, 1, 5);
        put_double(m, 2, 2.5);
        put_bytes(m, 3, &bucket(1, 0.005));
        put_bytes(m, 3, &bucket(3, 1.0));
        put_bytes(m, 3, &bucket(4, 1e6));
        put_bytes(m, 15, &timestamp(7, 0));
    });
    let of = |suffix: &str, le: &str| format!("h{suffix}{{job=\"é\"{le}}}").replace(",le", ", le");
    let sample = |name: String, value: f64| (name, 42, value, 7000);
    // Without an infinite bucket the count stands for it.
    assert_eq!(
        read(&family("h", HISTOGRAM, 7, &value)),
        [
            sample(of("_bucket", ",le=\"0.005\""), 1.0),
            sample(of("_bucket", ",le=\"1\""), 3.0),
            sample(of("_bucket", ",le=\"1e+06\""), 4.0),
            sample(of("_bucket", ",le=\"+Inf\""), 5.0),
            sample(of("_count", ""), 5.0),
            sample(of("_sum", ""), 2.5),
        ]
    );
}

#[test]
fn a_summary_becomes_its_series() {
    let quantile = message(|m| {
        put_double(m, 1, 0.99);
        put_double(m, 2, f64::NAN);
    });
    let value = message(|m| {
        put_bytes(m, 3, &quantile);
        put_number(m, 1, 3);
        put_double(m, 2, -1.0);
        put_bytes(m, 4, &timestamp(2, 0));
    });
    let found = read(&family("s", SUMMARY, 4, &value));
    assert_eq!(found[0].0, "s{job=\"é\", quantile=\"0.99\"}");
    assert!(found[0].2.is_nan() && found[0].3 == 0);
    assert_eq!((found[1].0.as_str(), found[1].2, found[1].3), ("s_count{job=\"é\"}", 3.0, 2000));
    assert_eq!((found[2].0.as_str(), found[2].2, found[2].3), ("s_sum{job=\"é\"}", -1.0, 2000));
}

#[test]
fn native_histograms_come_instead_of_classic_ones() {
    for float in [false, true] {
        let (body, mut labels) = (native(float), Vec::new());
        let batch = parse(&body, 42, &mut labels).unwrap();
        assert!(batch.timestamps.is_empty() && batch.series.len() == 1);
        assert_eq!(name_of(&batch, &batch.series[0]), "latency_seconds{job=\"é\"}");
        let found = &batch.histograms[0];
        assert_eq!((found.series, found.timestamp, found.start), (0, 42, 3000));
        found.histogram.validate().unwrap();
        let hint = if float { ResetHint::Gauge } else { ResetHint::Unknown };
        assert_eq!((found.histogram.reset, found.histogram.layout.schema), (hint, 3));
        match &found.histogram.counts {
            Counts::Int(tally) => assert_eq!((tally.count, &tally.buckets[..]), (4, &[1, 3][..])),
            Counts::Float(tally) => assert_eq!((tally.count, &tally.buckets[..]), (4.5, &[1.5, 3.0][..])),
        }
        assert_eq!(found.histogram.is_float(), float);
    }
}

#[test]
fn a_metric_without_a_value_of_its_type_is_counted() {
    let mut labels = Vec::new();
    for (kind, number) in [(SUMMARY, 7), (HISTOGRAM, 4), (COUNTER, 8)] {
        let body = family("x", kind, number, b"");
        let batch = parse(&body, 0, &mut labels).unwrap();
        assert_eq!((batch.series.len(), batch.report.rejected[0].reason), (0, Reason::Malformed));
    }
}

#[test]
fn a_body_cut_at_any_byte_is_refused_or_holds_whole_families() {
    let whole = [counter(), native(false), native(true)].concat();
    let ends = [0, counter().len(), counter().len() + native(false).len()];
    let mut labels = Vec::new();
    for cut in 0..whole.len() {
        let parsed = parse(&whole[..cut], 0, &mut labels);
        assert_eq!(parsed.is_ok(), ends.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn one_long_label_cannot_fill_the_memory() {
    let label = message(|m| {
        put_bytes(m, 1, b"a");
        put_bytes(m, 2, &vec![b'x'; 1 << 20]);
    });
    let value = message(|m| (0..1000).for_each(|_| put_bytes(m, 3, b"")));
    let metric = message(|m| {
        put_bytes(m, 1, &label);
        put_bytes(m, 7, &value);
    });
    let family = message(|m| {
        put_number(m, 3, HISTOGRAM);
        put_bytes(m, 4, &metric);
    });
    let body = message(|m| {
        put_varint(m, family.len() as u64);
        m.extend(&family);
    });
    assert!(matches!(parse(&body, 0, &mut Vec::new()), Err(Error::Limit { .. })));
}

#[test]
fn too_many_histograms_are_refused_by_their_name() {
    let value = message(|m| put_double(m, 6, 0.5));
    let metric = message(|m| put_bytes(m, 7, &value));
    let family = message(|m| {
        put_number(m, 3, HISTOGRAM);
        (0..=BODY_HISTOGRAMS_MAX).for_each(|_| put_bytes(m, 4, &metric));
    });
    let body = message(|m| {
        put_varint(m, family.len() as u64);
        m.extend(&family);
    });
    let mut labels = Vec::new();
    let refused = parse(&body, 0, &mut labels);
    assert!(matches!(refused, Err(Error::Limit { what: "native histograms of a request body", .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&body, 0, &mut Vec::new());
    }

    #[test]
    fn flipped_bits_never_panic(at in 0..10_000usize, bit in 0..8u8) {
        let mut body = [counter(), native(false), native(true)].concat();
        let at = at % body.len();
        body[at] ^= 1 << bit;
        let mut labels = Vec::new();
        if let Ok(batch) = parse(&body, 0, &mut labels) {
            prop_assert!(batch.starts.is_empty() || batch.starts.len() == batch.timestamps.len());
            prop_assert!(batch.histograms.iter().all(|h| (h.series as usize) < batch.series.len()));
        }
    }
}
