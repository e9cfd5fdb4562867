#![allow(clippy::unwrap_used, clippy::panic)]

use metricsdb_model::bounds::{BODY_BYTES_MAX, BODY_LABEL_BYTES_MAX};
use metricsdb_model::{Error, Histogram, LabelError, Labels, LabelsBuilder};
use proptest::prelude::*;

use super::*;
use crate::native_histogram::testing;
use crate::protobuf::{put_bytes, put_number, put_varint};
use crate::remote_write::{SeriesToSend, encode_message};

/// A series as a sender has it.
#[derive(Clone, Debug, Default)]
struct Sent {
    labels: Vec<(String, String)>,
    /// Time, value, start.
    samples: Vec<(i64, f64, i64)>,
    histograms: Vec<(i64, Histogram, i64)>,
    about: Option<(u64, &'static str, &'static str)>,
    exemplars: usize,
}

#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    fn number(&mut self, text: &str) -> u64 {
        let at = self.0.iter().position(|s| s == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        at as u64
    }
}

fn encode(all: &[Sent], packed: bool) -> Vec<u8> {
    let (mut table, mut out) = (Table(vec![String::new()]), Vec::new());
    for sent in all {
        let (mut series, mut refs) = (Vec::new(), Vec::new());
        for text in sent.labels.iter().flat_map(|(name, value)| [name, value]) {
            match packed {
                true => put_varint(&mut refs, table.number(text)),
                false => put_number(&mut series, 1, table.number(text)),
            }
        }
        if packed {
            put_bytes(&mut series, 1, &refs);
        }
        for (time, value, start) in &sent.samples {
            let mut one = vec![0x09];
            one.extend(value.to_bits().to_le_bytes());
            put_number(&mut one, 2, *time as u64);
            if *start != 0 {
                put_number(&mut one, 3, *start as u64);
            }
            put_bytes(&mut series, 2, &one);
        }
        for (time, h, start) in &sent.histograms {
            put_bytes(&mut series, 3, &testing::encode(h, *time, *start, packed));
        }
        (0..sent.exemplars).for_each(|_| put_bytes(&mut series, 4, b""));
        if let Some((kind, help, unit)) = sent.about {
            let mut about = Vec::new();
            put_number(&mut about, 1, kind);
            put_number(&mut about, 3, table.number(help));
            put_number(&mut about, 4, table.number(unit));
            put_bytes(&mut series, 5, &about);
        }
        put_bytes(&mut out, 5, &series);
    }
    let mut symbols = Vec::new();
    table.0.iter().for_each(|text| put_bytes(&mut symbols, 4, text.as_bytes()));
    [symbols, out].concat()
}

fn labels_of(batch: &Batch, i: usize) -> std::result::Result<Labels, LabelError> {
    let mut b = LabelsBuilder::default();
    (batch.decode)(&batch.series[i].raw, &mut b)?;
    b.finish()
}

/// Times, values and starts of one series.
fn samples_of(batch: &Batch, i: usize) -> Vec<(i64, u64, i64)> {
    let range = batch.series[i].samples.start as usize..batch.series[i].samples.end as usize;
    let start = |at: usize| batch.starts.get(at).copied().unwrap_or(0);
    range.map(|at| (batch.timestamps[at], batch.values[at].to_bits(), start(at))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn two_series() -> Vec<Sent> {
    let counter = Sent {
        labels: pairs(&[("__name__", "up_total"), ("job", "é")]),
        samples: vec![(1000, 1.0, 0), (2000, -0.0, 500), (i64::MAX, f64::NAN, -7)],
        about: Some((1, "How often.", "")),
        exemplars: 2,
        ..Sent::default()
    };
    let histograms = testing::histograms().into_iter().zip(1..).map(|(h, t)| (t, h, t * 3 - 9));
    let histogram = Sent {
        labels: pairs(&[("__name__", "latency_seconds"), ("job", "é")]),
        histograms: histograms.collect(),
        about: Some((3, "", "seconds")),
        ..Sent::default()
    };
    vec![counter, histogram]
}

#[test]
fn samples_starts_histograms_and_metadata_come_through() {
    for packed in [true, false] {
        let (sent, mut labels) = (two_series(), Vec::new());
        let body = encode(&sent, packed);
        let batch = decode_message(&body, &mut labels).unwrap();
        assert_eq!(labels_of(&batch, 0).unwrap(), Labels::from_pairs(sent[0].labels.clone()).unwrap());
        assert_eq!(
            samples_of(&batch, 0),
            sent[0].samples.iter().map(|(t, v, s)| (*t, v.to_bits(), *s)).collect::<Vec<_>>()
        );
        assert!(samples_of(&batch, 1).is_empty() && batch.histograms_of(0).is_empty());
        let found: Vec<_> =
            batch.histograms_of(1).iter().map(|h| (h.timestamp, h.histogram.clone(), h.start)).collect();
        assert_eq!(found, sent[1].histograms);
        let about = |metric: &str, kind, help: Option<&str>, unit: Option<&str>| Metadata {
            metric: metric.to_owned(),
            kind: Some(kind),
            help: help.map(str::to_owned),
            unit: unit.map(str::to_owned),
        };
        let counter = about("up_total", MetricType::Counter, Some("How often."), None);
        let histogram = about("latency_seconds", MetricType::Histogram, None, Some("seconds"));
        assert_eq!(batch.metadata, [counter, histogram]);
        assert_eq!(
            (batch.report.rejected[0].reason, batch.report.rejected[0].count),
            (Reason::Unsupported, 2)
        );
    }
}

#[test]
fn both_versions_know_a_series_by_the_same_bytes() {
    let long = "x".repeat(300);
    let set = pairs(&[("__name__", "up"), ("empty", ""), ("long", &long)]);
    let labels = Labels::from_pairs([("__name__", "up"), ("long", long.as_str())]).unwrap();
    let first =
        encode_message([SeriesToSend { labels: labels.as_ref(), timestamps: &[1], values: &[1.0] }], &[]);
    let mut buffer = Vec::new();
    let mut sent = Sent { labels: set, samples: vec![(1, 1.0, 0)], ..Sent::default() };
    sent.labels.remove(1);
    let second = encode(&[sent], true);
    let second = decode_message(&second, &mut buffer).unwrap();
    assert_eq!(super::super::decode_message(&first).unwrap().series[0].raw, second.series[0].raw);
}

#[test]
fn a_body_cut_at_any_byte_is_refused_or_holds_whole_series() {
    let whole = encode(&two_series(), true);
    for cut in 0..whole.len() {
        let mut labels = Vec::new();
        if let Ok(batch) = decode_message(&whole[..cut], &mut labels) {
            assert!(batch.series.len() < 2, "cut at {cut}");
            assert!(batch.series.is_empty() || samples_of(&batch, 0).len() == 3);
        }
    }
    let packed = snap::raw::Encoder::new().compress_vec(&whole).unwrap();
    for cut in 0..packed.len() {
        assert!(matches!(decode(&packed[..cut], &mut Scratch::default()), Err(Error::Input { .. })));
    }
    assert!(decode(&packed, &mut Scratch::default()).is_ok());
}

#[test]
fn series_whose_labels_cannot_be_read_cost_themselves() {
    let good = Sent { labels: pairs(&[("a", "b")]), samples: vec![(1, 1.0, 9)], ..Sent::default() };
    let mut body = encode(std::slice::from_ref(&good), true);
    for refs in [&[][..], &[1], &[1, 99], &[0xff, 0xff, 0xff, 0xff, 0x7f, 1]] {
        let mut series = Vec::new();
        put_bytes(&mut series, 1, refs);
        put_bytes(&mut series, 2, &[0x10, 5, 0x18, 4]);
        put_bytes(&mut series, 3, b"");
        put_bytes(&mut body, 5, &series);
    }
    let mut many = Vec::new();
    put_bytes(&mut many, 1, &[1; 600]);
    put_bytes(&mut body, 5, &many);
    let mut labels = Vec::new();
    let batch = decode_message(&body, &mut labels).unwrap();
    assert_eq!((batch.series.len(), samples_of(&batch, 0)), (1, vec![(1, 1f64.to_bits(), 9)]));
    assert!(batch.histograms.is_empty() && batch.starts.len() == 1);
    assert_eq!((batch.report.rejected[0].reason, batch.report.rejected[0].count), (Reason::InvalidLabels, 9));
}

#[test]
fn a_few_symbols_cannot_fill_the_memory() {
    let mut body = Vec::new();
    put_bytes(&mut body, 4, &vec![b'x'; 1 << 20]);
    let mut series = Vec::new();
    put_bytes(&mut series, 1, &[0; 512]);
    put_bytes(&mut series, 2, b"");
    for _ in 0..1000 {
        put_bytes(&mut body, 5, &series);
    }
    let mut labels = Vec::new();
    assert!(matches!(decode_message(&body, &mut labels), Err(Error::Limit { .. })));
    assert!(labels.capacity() <= 2 * BODY_LABEL_BYTES_MAX);
    let symbols: Vec<u8> = [0x22, 0].repeat(BODY_SYMBOLS_MAX + 1);
    assert!(symbols.len() < BODY_BYTES_MAX);
    assert!(matches!(decode_message(&symbols, &mut labels), Err(Error::Limit { .. })));
}

#[test]
fn the_parts_of_a_histogram_describe_their_family_once() {
    let part = |name: &str, le: &str| Sent {
        labels: pairs(&[("__name__", name), ("le", le)]),
        samples: vec![(1, 1.0, 0)],
        about: Some((3, "h", "")),
        ..Sent::default()
    };
    let sent = [part("x_bucket", "1"), part("x_bucket", "+Inf"), part("x_sum", ""), part("x_count", "")];
    let (body, mut labels) = (encode(&sent, true), Vec::new());
    let batch = decode_message(&body, &mut labels).unwrap();
    let named: Vec<&str> = batch.metadata.iter().map(|m| m.metric.as_str()).collect();
    assert_eq!(named, ["x"]);
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        all in prop::collection::vec(
            (prop::collection::btree_map("[a-cé]{1,3}", "[a-zé]{1,5}", 1..4),
             prop::collection::vec((any::<i64>(), any::<f64>(), prop_oneof![Just(0i64), any::<i64>()]), 1..5)),
            0..6),
        packed in any::<bool>(),
    ) {
        let sent: Vec<Sent> = all
            .into_iter()
            .map(|(labels, samples)| Sent { labels: labels.into_iter().collect(), samples, ..Sent::default() })
            .collect();
        let (body, mut labels) = (encode(&sent, packed), Vec::new());
        let batch = decode_message(&body, &mut labels).unwrap();
        prop_assert_eq!(batch.series.len(), sent.len());
        for (i, sent) in sent.iter().enumerate() {
            prop_assert_eq!(labels_of(&batch, i).unwrap(), Labels::from_pairs(sent.labels.clone()).unwrap());
            let wanted: Vec<_> = sent.samples.iter().map(|(t, v, s)| (*t, v.to_bits(), *s)).collect();
            prop_assert_eq!(samples_of(&batch, i), wanted);
        }
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_message(&body, &mut Vec::new());
        let _ = decode(&body, &mut Scratch::default());
    }

    #[test]
    fn flipped_bits_never_panic(at in 0..10_000usize, bit in 0..8u8) {
        let mut body = encode(&two_series(), true);
        let at = at % body.len();
        body[at] ^= 1 << bit;
        let mut labels = Vec::new();
        if let Ok(batch) = decode_message(&body, &mut labels) {
            prop_assert!(batch.starts.is_empty() || batch.starts.len() == batch.timestamps.len());
            for i in 0..batch.series.len() {
                let _ = (labels_of(&batch, i), samples_of(&batch, i));
            }
        }
    }
}
