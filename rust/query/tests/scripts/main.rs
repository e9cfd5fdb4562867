//! Runs `.test` scripts: our own, and Prometheus' where the shared vectors are at hand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod check;
mod native;
mod notation;
mod script;
mod storage;

use std::path::{Path, PathBuf};

use notation::Item;
use script::{Command, Load};
use storage::Storage;

#[derive(Default)]
struct Report {
    passed: usize,
    failed: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The scripts of a folder, by name; `None` where the folder is not there.
fn scripts(folder: &Path) -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "test"));
    paths.sort();
    Some(paths)
}

fn run(path: &Path, report: &mut Report) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap();
    let commands = script::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut storage = Storage::default();
    for command in commands {
        match command {
            Command::Clear => storage = Storage::default(),
            Command::Load(load) => store(load, &mut storage),
            Command::Eval(eval) => match check::run(&eval, &storage) {
                Ok(()) => report.passed += 1,
                Err(e) => report.failed.push(format!("{name}:{} {}\n    {e}", eval.line, eval.query)),
            },
        }
    }
}

fn store(load: Load, storage: &mut Storage) {
    if load.with_nhcb {
        for (labels, steps) in native::beside_classic(&load.series) {
            let series = storage.series.entry(labels).or_default();
            let stored = steps.into_iter().map(|(step, h)| (load.step * step as i64, h.to_model()));
            series.histograms.extend(stored);
        }
    }
    for (labels, offsets) in load.starts {
        let times = (0..).map(|i| load.step * i);
        let known = times.zip(offsets).filter_map(|(time, offset)| Some((time, time + offset?)));
        storage.starts.entry(labels).or_default().extend(known);
    }
    for (labels, values) in load.series {
        let series = storage.series.entry(labels).or_default();
        for (i, value) in values.into_iter().enumerate() {
            let time = load.step * i as i64;
            match value {
                Item::Gap => {}
                Item::Float(value) => {
                    series.numbers.insert(time, value);
                }
                Item::Histogram(written) => {
                    series.histograms.insert(time, written.histogram.to_model());
                }
            }
        }
    }
}

fn finish(what: &str, report: &Report) {
    println!("{what}: {} passed, {} failed", report.passed, report.failed.len());
    assert!(report.failed.is_empty(), "{} evals differ:\n{}", report.failed.len(), report.failed.join("\n"));
}

#[test]
fn our_own_scripts_hold() {
    let mut report = Report::default();
    for path in scripts(&root().join("tests/scripts")).unwrap_or_default() {
        run(&path, &mut report);
    }
    finish("own scripts", &report);
}

#[test]
fn prometheus_scripts_hold() {
    let shared = std::env::var_os("METRICSDB_SHARED").map_or(root().join("../shared"), PathBuf::from);
    let Some(paths) = scripts(&shared.join("conformance/promql")) else {
        println!("skipped: no conformance vectors in {}", shared.display());
        return;
    };
    let mut report = Report::default();
    for path in paths {
        let before = (report.passed, report.failed.len());
        run(&path, &mut report);
        let name = path.file_name().unwrap().to_string_lossy();
        println!("{name}: {} passed, {} failed", report.passed - before.0, report.failed.len() - before.1);
    }
    finish("Prometheus' scripts", &report);
}
