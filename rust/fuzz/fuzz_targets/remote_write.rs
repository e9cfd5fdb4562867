//! Any bytes, as either version: never a panic, samples inside the columns, histograms of series that are there,
//! and what was decoded of the first version encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Batch, Labels, LabelsBuilder};
use metricsdb_store::{Database, Options};
use metricsdb_wire::remote_write::{self, SeriesToSend, v2};

type Plain = Vec<(Labels, Vec<i64>, Vec<f64>)>;

fn plain(batch: &Batch) -> Plain {
    assert_eq!(batch.timestamps.len(), batch.values.len());
    let mut builder = LabelsBuilder::default();
    let mut rows = Vec::new();
    for s in &batch.series {
        let r = s.samples.start as usize..s.samples.end as usize;
        let (t, v) = (batch.timestamps[r.clone()].to_vec(), batch.values[r].to_vec());
        builder.clear();
        if (batch.decode)(&s.raw, &mut builder).is_ok()
            && let Ok(labels) = builder.finish()
            && !labels.is_empty()
            // Histograms alone are not encoded, and a series without anything is not decoded.
            && !t.is_empty()
        {
            rows.push((labels, t, v));
        }
    }
    rows
}

fn bits(rows: &Plain) -> Vec<(&Labels, &[i64], Vec<u64>)> {
    rows.iter().map(|(l, t, v)| (l, &t[..], v.iter().map(|v| v.to_bits()).collect())).collect()
}

fn check_columns(batch: &Batch) {
    assert_eq!(batch.timestamps.len(), batch.values.len());
    assert!(batch.starts.is_empty() || batch.starts.len() == batch.timestamps.len());
    assert!(batch.series.iter().all(|s| s.samples.end as usize <= batch.timestamps.len()));
    assert!(batch.histograms.is_sorted_by_key(|h| h.series));
    for h in &batch.histograms {
        assert!((h.series as usize) < batch.series.len());
        let _ = h.histogram.validate();
    }
    Database::new(Options::default()).write(batch);
}

fuzz_target!(|body: &[u8]| {
    let _ = remote_write::decode(body, &mut Vec::new());
    let _ = v2::decode(body, &mut v2::Scratch::default());
    let mut labels = Vec::new();
    if let Ok(batch) = v2::decode_message(body, &mut labels) {
        check_columns(&batch);
    }
    let Ok(batch) = remote_write::decode_message(body) else { return };
    check_columns(&batch);
    let rows = plain(&batch);
    let send = rows.iter().map(|(l, t, v)| SeriesToSend { labels: l.as_ref(), timestamps: t, values: v });
    let again = remote_write::encode(send, &batch.metadata).expect("a small body");
    let mut scratch = Vec::new();
    let second = remote_write::decode(&again, &mut scratch).expect("what was encoded decodes");
    assert_eq!(bits(&plain(&second)), bits(&rows));
});
