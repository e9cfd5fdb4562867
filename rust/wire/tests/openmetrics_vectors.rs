//! Every shared OpenMetrics vector is judged as its `test.json` says. Skipped where the vectors are not
//! there: they are not part of this repository.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn vectors() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/conformance/openmetrics"))
        .find(|dir| dir.is_dir());
    if shared.is_none() {
        eprintln!("skipped: there is no ../shared/conformance/openmetrics");
    }
    shared
}

#[test]
fn every_vector_is_judged_rightly() {
    let Some(folder) = vectors() else { return };
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for case in std::fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let (Ok(text), Ok(test)) =
            (std::fs::read(case.join("metrics")), std::fs::read_to_string(case.join("test.json")))
        else {
            continue;
        };
        let test: String = test.split_whitespace().collect();
        let should_parse = test.contains("\"shouldParse\":true");
        assert!(should_parse || test.contains("\"shouldParse\":false"), "{}", case.display());
        seen += 1;
        let judged = metricsdb_wire::openmetrics::parse(&text, 0).map(|batch| batch.series.len());
        if judged.is_ok() != should_parse {
            wrong.push(format!("{}: {judged:?}", case.display()));
        }
    }
    assert!(seen > 0);
    assert!(wrong.is_empty(), "{} of {seen} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
