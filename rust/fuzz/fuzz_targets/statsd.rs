//! Any packets: never a panic, every sample has a valid name, and counters never go down.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Labels, LabelsBuilder, MetricType};
use metricsdb_wire::statsd::{StatsdAggregator, StatsdOptions};

fuzz_target!(|body: &[u8]| {
    let mut aggregator = StatsdAggregator::new(StatsdOptions::default()).expect("the defaults are valid");
    let mut counters: HashMap<Labels, f64> = HashMap::new();
    // A NUL ends a packet and flushes.
    for (i, packet) in body.split(|&b| b == 0).enumerate() {
        aggregator.add(packet);
        let batch = aggregator.flush(i as i64);
        let mut builder = LabelsBuilder::default();
        for s in &batch.series {
            builder.clear();
            (batch.decode)(&s.raw, &mut builder).expect("its own labels decode");
            let labels = builder.finish().expect("its own labels are a label set");
            assert!(!labels.metric_name().is_empty());
            let value = batch.values[s.samples.start as usize];
            let counter = |m: &metricsdb_model::Metadata| {
                m.metric == labels.metric_name() && m.kind == Some(MetricType::Counter)
            };
            if batch.metadata.iter().any(counter)
                && !batch
                    .metadata
                    .iter()
                    .any(|m| m.metric == labels.metric_name() && m.kind != Some(MetricType::Counter))
            {
                let before = counters.insert(labels, value).unwrap_or(0.0);
                assert!(value >= before || value.is_nan());
            }
        }
    }
});
