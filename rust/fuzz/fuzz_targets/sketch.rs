//! Any bytes are refused or are the one way to write a sketch, and that answers, merges and shrinks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::Sketch;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut sketch) = Sketch::decode(bytes) else { return };
    assert_eq!(sketch.encode(), bytes);
    let answers = [0.0, 0.01, 0.5, 0.99, 1.0].map(|q| sketch.quantile(q));
    assert!(answers.is_sorted_by(|a, b| a <= b) || answers.iter().any(|a| a.is_nan()), "{answers:?}");
    let other = sketch.clone();
    sketch.merge(&other);
    assert_eq!(sketch.count(), other.count().saturating_mul(2));
    sketch.fit(64);
    // Counts that come to more than 64 bits hold are refused, as those of any bytes are.
    let fits = other.count() <= u64::MAX / 2;
    assert!(!fits || Sketch::decode(&sketch.encode()).is_ok());
});
