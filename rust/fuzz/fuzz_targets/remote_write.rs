//! Any bytes: never a panic, samples inside the columns, and what was decoded encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Batch, Labels, LabelsBuilder};
use metricsdb_wire::remote_write::{self, SeriesToSend};

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
        {
            rows.push((labels, t, v));
        }
    }
    rows
}

fn bits(rows: &Plain) -> Vec<(&Labels, &[i64], Vec<u64>)> {
    rows.iter().map(|(l, t, v)| (l, &t[..], v.iter().map(|v| v.to_bits()).collect())).collect()
}

fuzz_target!(|body: &[u8]| {
    let _ = remote_write::decode(body, &mut Vec::new());
    let Ok(batch) = remote_write::decode_message(body) else { return };
    let rows = plain(&batch);
    let send = rows.iter().map(|(l, t, v)| SeriesToSend { labels: l.as_ref(), timestamps: t, values: v });
    let again = remote_write::encode(send, &batch.metadata).expect("a small body");
    let mut scratch = Vec::new();
    let second = remote_write::decode(&again, &mut scratch).expect("what was encoded decodes");
    assert_eq!(bits(&plain(&second)), bits(&rows));
});
