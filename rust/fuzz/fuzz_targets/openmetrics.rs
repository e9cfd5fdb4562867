//! Any text: never a panic; what the strict parser takes, the tolerant one reads alike (but for times,
//! which are seconds here and milliseconds there, and for exemplars).
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::LabelsBuilder;
use metricsdb_wire::{exposition, openmetrics};

fuzz_target!(|text: &[u8]| {
    let text = [text, b"\n# EOF\n"].concat();
    let Ok(strict) = openmetrics::parse(&text, 42) else { return };
    let mut builder = LabelsBuilder::default();
    for s in &strict.series {
        builder.clear();
        (strict.decode)(&s.raw, &mut builder).expect("a series that was taken decodes");
    }
    let tolerant = exposition::parse(&text, 42);
    if strict.timestamps.iter().all(|&t| t == 42) && strict.report.rejected.is_empty() {
        let raws = |b: &metricsdb_model::Batch| b.series.iter().map(|s| s.raw.to_vec()).collect::<Vec<_>>();
        assert_eq!(raws(&strict), raws(&tolerant));
    }
});
