#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::native_histogram::testing;
use metricsdb_model::Labels;
use proptest::prelude::*;

type Plain = Vec<(Labels, Vec<(i64, u64)>)>;

fn message(series: &[(Labels, Vec<i64>, Vec<f64>)]) -> Vec<u8> {
    encode_message(
        series.iter().map(|(l, t, v)| SeriesToSend { labels: l.as_ref(), timestamps: t, values: v }),
        &[],
    )
}

fn labels_of(batch: &Batch, i: usize) -> std::result::Result<Labels, LabelError> {
    let mut b = LabelsBuilder::default();
    (batch.decode)(&batch.series[i].raw, &mut b)?;
    b.finish()
}

fn plain(batch: &Batch) -> Plain {
    let row = |i: usize| {
        let r = batch.series[i].samples.start as usize..batch.series[i].samples.end as usize;
        let values = batch.values[r.clone()].iter().map(|v| v.to_bits());
        (labels_of(batch, i).unwrap(), batch.timestamps[r].iter().copied().zip(values).collect())
    };
    (0..batch.series.len()).map(row).collect()
}

fn two_series() -> Vec<(Labels, Vec<i64>, Vec<f64>)> {
    let l = |m: &str| Labels::from_pairs([("__name__", m), ("job", "node"), ("é", "ü")]).unwrap();
    vec![(l("up"), vec![-5, 0, i64::MAX], vec![1.0, f64::NAN, -0.0]), (l("down"), vec![7], vec![0.5])]
}

#[test]
fn a_body_cut_at_any_byte_is_refused_or_holds_whole_series() {
    let whole = message(&two_series());
    let all = plain(&decode_message(&whole).unwrap());
    for cut in 0..whole.len() {
        if let Ok(batch) = decode_message(&whole[..cut]) {
            assert_eq!(plain(&batch)[..], all[..batch.series.len()], "cut at {cut}");
        }
    }
    let packed = snap::raw::Encoder::new().compress_vec(&whole).unwrap();
    for cut in 0..packed.len() {
        assert!(matches!(decode(&packed[..cut], &mut Vec::new()), Err(Error::Input { .. })), "cut at {cut}");
    }
}

#[test]
fn a_block_that_claims_too_much_is_refused_before_memory_is_taken() {
    let mut scratch = Vec::new();
    let claim = |n: u64| {
        let mut b = Vec::new();
        put_varint(&mut b, n);
        b.extend([0; 8]);
        b
    };
    assert!(matches!(decode(&claim(u64::from(u32::MAX)), &mut scratch), Err(Error::Limit { .. })));
    assert!(matches!(decode(&claim(60 << 20), &mut scratch), Err(Error::Input { .. })));
    assert_eq!(scratch.capacity(), 0);
}

#[test]
fn a_body_of_too_many_samples_is_refused() {
    let mut one = Vec::new();
    put_bytes(&mut one, 1, &[]);
    for _ in 0..=BODY_SAMPLES_MAX {
        put_bytes(&mut one, 2, &[]);
    }
    let mut body = Vec::new();
    put_bytes(&mut body, 1, &one);
    assert!(matches!(decode_message(&body), Err(Error::Limit { .. })));
}

#[test]
fn labels_that_are_not_contiguous_still_make_one_key() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    put_bytes(&mut a, 1, b"a");
    put_bytes(&mut a, 2, b"1");
    put_bytes(&mut b, 1, b"b");
    put_bytes(&mut b, 2, b"2");
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    put_bytes(&mut together, 1, &a);
    put_bytes(&mut together, 1, &b);
    put_bytes(&mut together, 2, &[]);
    put_bytes(&mut apart, 1, &a);
    put_bytes(&mut apart, 2, &[]);
    put_bytes(&mut apart, 1, &b);
    let mut body = Vec::new();
    put_bytes(&mut body, 1, &together);
    put_bytes(&mut body, 1, &apart);
    let batch = decode_message(&body).unwrap();
    assert_eq!(batch.series[0].raw, batch.series[1].raw);
    assert_eq!(labels_of(&batch, 1).unwrap(), Labels::from_pairs([("a", "1"), ("b", "2")]).unwrap());
}

#[test]
fn native_histograms_come_through() {
    let made = testing::histograms();
    let mut body = Vec::new();
    for (at, h) in made.iter().enumerate() {
        let (mut label, mut series) = (Vec::new(), Vec::new());
        put_bytes(&mut label, 1, b"n");
        put_bytes(&mut label, 2, at.to_string().as_bytes());
        put_bytes(&mut series, 1, &label);
        put_bytes(&mut series, 4, &testing::encode(h, 7 + at as i64, 0, at % 2 == 0));
        put_bytes(&mut body, 1, &series);
    }
    let batch = decode_message(&body).unwrap();
    assert!(batch.report.rejected.is_empty() && batch.series.len() == made.len());
    for (at, (found, wanted)) in batch.histograms.iter().zip(&made).enumerate() {
        assert_eq!((&found.histogram, found.timestamp, found.start), (wanted, 7 + at as i64, 0));
        assert_eq!(found.series as usize, at);
        found.histogram.validate().unwrap();
    }
    for cut in 0..body.len() {
        if let Ok(batch) = decode_message(&body[..cut]) {
            assert_eq!(batch.histograms.len(), batch.series.len());
        }
    }
}

#[test]
fn a_histogram_whose_counts_fall_below_zero_costs_itself() {
    let (mut series, mut body) = (Vec::new(), Vec::new());
    put_bytes(&mut series, 1, &[0x0a, 1, b'a', 0x12, 1, b'b']);
    // Deltas 1 and -2, packed.
    put_bytes(&mut series, 4, &[0x62, 2, 2, 3]);
    put_bytes(&mut series, 4, &[0x08, 0, 0x78, 5]);
    put_bytes(&mut body, 1, &series);
    let batch = decode_message(&body).unwrap();
    assert_eq!((batch.histograms.len(), batch.histograms[0].timestamp), (1, 5));
    assert_eq!((batch.report.rejected[0].reason, batch.report.rejected[0].count), (Reason::Malformed, 1));
}

#[test]
fn a_body_of_too_many_histograms_is_refused() {
    let mut one = Vec::new();
    put_bytes(&mut one, 1, &[0x0a, 1, b'a']);
    for _ in 0..=BODY_HISTOGRAMS_MAX {
        put_bytes(&mut one, 4, &[]);
    }
    let mut body = Vec::new();
    put_bytes(&mut body, 1, &one);
    assert!(matches!(decode_message(&body), Err(Error::Limit { .. })));
}

#[test]
fn what_is_not_stored_is_counted_and_unknown_fields_are_passed_over() {
    let (mut label, mut series) = (Vec::new(), Vec::new());
    put_bytes(&mut label, 1, b"a");
    put_bytes(&mut label, 2, b"1");
    put_bytes(&mut label, 9, b"new");
    series.extend([0x50, 0x01, 0x5d, 1, 2, 3, 4]);
    put_bytes(&mut series, 1, &label);
    put_bytes(&mut series, 2, &[0x10, 0x05, 0x18, 0x01]);
    put_bytes(&mut series, 3, b"\xff");
    let mut body = Vec::new();
    put_bytes(&mut body, 1, &series);
    put_bytes(&mut body, 7, b"later");
    let batch = decode_message(&body).unwrap();
    assert_eq!(batch.timestamps, [5]);
    assert_eq!(labels_of(&batch, 0).unwrap(), Labels::from_pairs([("a", "1")]).unwrap());
    assert_eq!(batch.report.rejected.len(), 1);
    assert_eq!((batch.report.rejected[0].reason, batch.report.rejected[0].count), (Reason::Unsupported, 1));
}

#[test]
fn bad_labels_cost_their_series_alone() {
    let put = |name: &[u8], value: &[u8], out: &mut Vec<u8>| {
        let mut label = Vec::new();
        put_bytes(&mut label, 1, name);
        put_bytes(&mut label, 2, value);
        put_bytes(out, 1, &label);
    };
    let mut sets: [Vec<u8>; 5] = Default::default();
    put(b"a", b"\xff", &mut sets[0]);
    put(b"a", b"1", &mut sets[1]);
    put(b"a", b"1", &mut sets[1]);
    put(b"", b"1", &mut sets[2]);
    put_bytes(&mut sets[3], 1, &[0x0a, 0x05, b'a']);
    put(b"a", b"1", &mut sets[4]);
    let mut body = Vec::new();
    for set in &mut sets {
        put_bytes(set, 2, &[0x10, 0x01]);
        put_bytes(&mut body, 1, set);
    }
    put_bytes(&mut body, 1, &[0x12, 0x00]);
    let batch = decode_message(&body).unwrap();
    assert!(matches!(labels_of(&batch, 0), Err(LabelError::NotUtf8(_))));
    assert!(matches!(labels_of(&batch, 1), Err(LabelError::DuplicateName(_))));
    assert!(matches!(labels_of(&batch, 2), Err(LabelError::EmptyName)));
    assert!(matches!(labels_of(&batch, 3), Err(LabelError::Malformed(_))));
    assert!(labels_of(&batch, 4).is_ok());
    assert_eq!(batch.report.rejected[0].reason, Reason::InvalidLabels);
}

#[test]
fn a_field_of_the_wrong_type_refuses_the_body() {
    for body in
        [&[0x08, 0x01][..], &[0x0a, 0x02, 0x10, 0x01], &[0x0a, 0x04, 0x12, 0x02, 0x08, 0x01], &[0x18, 0]]
    {
        match decode_message(body) {
            Err(Error::Input { value, .. }) => assert!(value.starts_with("byte "), "{value}"),
            _ => panic!("{body:?} was taken"),
        }
    }
}

#[test]
fn metadata_survives() {
    let entries: Vec<Metadata> = (0..8)
        .map(|n| Metadata {
            metric: format!("m{n}"),
            kind: Some(metric_type(n)),
            help: Some("h".into()),
            unit: Some("s".into()),
        })
        .collect();
    assert_eq!(decode_message(&encode_message([], &entries)).unwrap().metadata, entries);
}

fn any_series() -> impl Strategy<Value = Vec<(Labels, Vec<i64>, Vec<f64>)>> {
    let labels = prop::collection::btree_map("[a-z_é]{1,9}", ".{1,20}", 1..6)
        .prop_map(|m| Labels::from_pairs(m).unwrap());
    let samples = prop::collection::vec((any::<i64>(), any::<u64>()), 1..9);
    let one = (labels, samples).prop_map(|(l, s)| {
        let (t, v) = s.into_iter().map(|(t, v)| (t, f64::from_bits(v))).unzip();
        (l, t, v)
    });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(series in any_series()) {
        let sent: Plain = series.iter().map(|(l, t, v)|
            (l.clone(), t.iter().copied().zip(v.iter().map(|v| v.to_bits())).collect())).collect();
        let iter = series.iter().map(|(l, t, v)| SeriesToSend { labels: l.as_ref(), timestamps: t, values: v });
        let body = encode(iter, &[]).unwrap();
        let mut scratch = vec![7; 3];
        prop_assert_eq!(plain(&decode(&body, &mut scratch).unwrap()), sent);
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&body, &mut Vec::new());
        if let Ok(batch) = decode_message(&body) {
            for i in 0..batch.series.len() {
                let _ = labels_of(&batch, i);
            }
        }
    }

    #[test]
    fn one_changed_byte_never_panics(series in any_series(), at in any::<prop::sample::Index>(), new in any::<u8>()) {
        let mut body = message(&series);
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = new;
            if let Ok(batch) = decode_message(&body) {
                prop_assert_eq!(batch.timestamps.len(), batch.values.len());
                for (i, s) in batch.series.iter().enumerate() {
                    prop_assert!(s.samples.end as usize <= batch.values.len());
                    let _ = labels_of(&batch, i);
                }
            }
        }
    }
}
