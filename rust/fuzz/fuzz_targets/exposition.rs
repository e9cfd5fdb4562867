//! Any text, and any protobuf: never a panic; what the tolerant parser takes, the writer writes and the parser reads again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Batch, Labels, LabelsBuilder};
use metricsdb_wire::{exposition, exposition_protobuf, exposition_writer};

fn rows(batch: &Batch) -> Vec<(Labels, i64, u64)> {
    let mut builder = LabelsBuilder::default();
    let mut rows = Vec::new();
    for s in &batch.series {
        let at = s.samples.start as usize;
        builder.clear();
        (batch.decode)(&s.raw, &mut builder).expect("a series that was taken decodes");
        // An escape may make two names equal, or a label may be called __name__.
        if let Ok(labels) = builder.finish() {
            rows.push((labels, batch.timestamps[at], batch.values[at].to_bits()));
        }
    }
    rows
}

fuzz_target!(|text: &[u8]| {
    let _ = exposition_protobuf::parse(text, 42, &mut Vec::new());
    let first = rows(&exposition::parse(text, 42));
    let mut written = Vec::new();
    for (labels, t, v) in &first {
        if !labels.metric_name().is_empty() {
            exposition_writer::sample(labels, f64::from_bits(*v), Some(*t), &mut written);
        }
    }
    let batch = exposition::parse(&written, 0);
    assert!(batch.report.rejected.is_empty(), "{:?}", batch.report.rejected);
    let named: Vec<_> = first.into_iter().filter(|(l, _, _)| !l.metric_name().is_empty()).collect();
    assert_eq!(rows(&batch), named);
});
