//! Any text gets a tree or an error; a tree prints to a text that parses to what prints the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_query::syntax::{parse, pretty, to_json};

fuzz_target!(|text: &str| {
    let Ok(expr) = parse(text) else { return };
    let line = expr.to_string();
    for printed in [line.clone(), pretty(&expr)] {
        match parse(&printed) {
            Ok(again) => assert_eq!(again.to_string(), line, "{text:?}"),
            Err(error) => panic!("{text:?} prints as {printed:?}: {error}"),
        }
    }
    assert!(to_json(&expr).starts_with('{'));
});
