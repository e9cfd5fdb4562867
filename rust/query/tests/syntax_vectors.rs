//! Every expression of the conformance vectors parses, and prints to a text that means the same.
//! Skipped, with a message, where the vectors are absent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use metricsdb_query::syntax::{parse, parse_without_metricsql, pretty, to_json};

/// The folder of vectors beside the repository, at whatever height it lies.
fn vectors() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared/conformance"))
        .find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: no shared/conformance beside the repository");
    }
    found
}

/// The query of an `eval` line: what follows the times.
fn query_of(line: &str) -> Option<String> {
    let (command, rest) = line.trim().split_once(' ')?;
    if !matches!(command, "eval" | "eval_ordered" | "eval_warn" | "eval_info") {
        return None;
    }
    let mut words = rest.split_whitespace();
    let skip = match words.next()? {
        "instant" => 3,
        "range" => 7,
        _ => return None,
    };
    let mut rest = rest;
    for _ in 0..skip {
        rest = rest.trim_start().split_once(char::is_whitespace)?.1;
    }
    Some(rest.trim().to_owned())
}

/// The queries of a script that are not expected to fail.
fn queries(script: &str) -> Vec<String> {
    let lines: Vec<&str> = script.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(query) = query_of(line) else { continue };
        let block = lines[i + 1..].iter().take_while(|l| !l.trim().is_empty() && !l.trim().starts_with('#'));
        if !block.clone().any(|l| l.trim().starts_with("expect fail")) {
            found.push(query);
        }
    }
    found
}

/// What is wrong with how this query is read and written, if anything.
fn fault(query: &str) -> Option<String> {
    let expr = match parse(query) {
        Ok(expr) => expr,
        Err(error) => return Some(format!("{query}\n    {error}")),
    };
    let alone = parse_without_metricsql(query);
    if format!("{alone:?}") != format!("{:?}", Ok::<_, metricsdb_model::Error>(&expr)) {
        return Some(format!("{query}\n    has another tree beside MetricsQL's syntax"));
    }
    if to_json(&expr).contains("\"filter\":") {
        return Some(format!("{query}\n    is taken for a boolean selector"));
    }
    for printed in [expr.to_string(), pretty(&expr)] {
        match parse(&printed) {
            Ok(again) if again.to_string() == expr.to_string() => {}
            Ok(again) => return Some(format!("{query}\n    prints {printed}\n    then {again}")),
            Err(error) => return Some(format!("{query}\n    prints {printed}\n    {error}")),
        }
    }
    None
}

#[test]
fn every_expression_of_the_scripts_parses_and_prints() {
    let Some(folder) = vectors() else { return };
    let mut faults = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(folder.join("promql")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "test") {
            let script = fs::read_to_string(&path).unwrap();
            for query in queries(&script) {
                count += 1;
                faults.extend(fault(&query));
            }
        }
    }
    assert!(count > 1000, "only {count} expressions found");
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_query_of_the_compliance_suite_parses_and_prints() {
    let Some(folder) = vectors() else { return };
    let text = fs::read_to_string(folder.join("compliance/queries.json")).unwrap();
    let mut faults = Vec::new();
    let mut count = 0;
    for item in text.split("\"query\": \"").skip(1) {
        let (query, rest) = item.split_once("\",\n\"should_fail\": ").expect("known layout");
        if rest.starts_with("false") {
            count += 1;
            faults.extend(fault(&query.replace("\\\"", "\"").replace("\\\\", "\\")));
        }
    }
    assert!(count > 250, "only {count} queries found");
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}
