//! The core's answers to Polars frames. Label text is laid down once a series and gathered to rows by
//! index, so that long frames cost views, not strings.

use std::collections::BTreeSet;

use metricsdb_model::{Labels, Matrix};
use metricsdb_store::ChunkRow;
use polars::prelude::*;
use pyo3::PyErr;
use pyo3::exceptions::PyRuntimeError;

/// Columns that long frames have: a label of the same name gets the prefix `label_`.
const RESERVED: [&str; 4] = ["series", "timestamp", "value", "histogram"];

/// A frame that cannot be put together is our bug.
pub fn frame_error(error: PolarsError) -> PyErr {
    PyRuntimeError::new_err(format!("internal error, please report it: {error}"))
}

/// Label names of all sets: the metric name first, then in order.
pub fn label_names<'a>(sets: impl Iterator<Item = &'a Labels>) -> Vec<String> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for labels in sets {
        names.extend(labels.iter().map(|(n, _)| n));
    }
    let named = names.remove("__name__");
    let first = named.then(|| "__name__".to_owned());
    first.into_iter().chain(names.into_iter().map(str::to_owned)).collect()
}

/// One String column per name, a row per label set; an absent label is null.
pub fn label_columns(sets: &[Labels], names: &[String]) -> Vec<Column> {
    names
        .iter()
        .map(|name| {
            let mut column = StringChunkedBuilder::new(column_name(name), sets.len());
            for labels in sets {
                column.append_option(labels.get(name));
            }
            column.finish().into_column()
        })
        .collect()
}

/// `value` becomes `label_value`, `label_value` becomes `label_label_value`: two labels never share a column.
fn column_name(label: &str) -> PlSmallStr {
    let mut bare = label;
    while let Some(rest) = bare.strip_prefix("label_") {
        bare = rest;
    }
    if RESERVED.contains(&bare) { format!("label_{label}").into() } else { label.into() }
}

/// The long frame of a matrix: labels, `timestamp` (Int64 ms), `value`; a row per sample.
pub fn long_frame(matrix: Matrix) -> PolarsResult<DataFrame> {
    let names = label_names(matrix.labels.iter());
    let rows = gather(&matrix.offsets);
    let mut columns = Vec::with_capacity(names.len() + 2);
    for column in label_columns(&matrix.labels, &names) {
        columns.push(column.take(&rows)?);
    }
    columns.push(Column::new("timestamp".into(), matrix.timestamps));
    columns.push(Column::new("value".into(), matrix.values));
    DataFrame::new_infer_height(columns)
}

/// A row a chunk: its series as PromQL writes it, and how it is stored.
pub fn chunk_frame(rows: Vec<ChunkRow>) -> PolarsResult<DataFrame> {
    let numbers = |f: &dyn Fn(&ChunkRow) -> usize| rows.iter().map(|r| f(r) as u64).collect::<Vec<u64>>();
    let texts = |f: &dyn Fn(&ChunkRow) -> String| rows.iter().map(f).collect::<Vec<String>>();
    DataFrame::new_infer_height(vec![
        Column::new("series".into(), texts(&|r| r.labels.to_string())),
        Column::new("tier".into(), texts(&|r| r.tier.to_owned())),
        Column::new("first".into(), rows.iter().map(|r| r.first).collect::<Vec<i64>>()),
        Column::new("last".into(), rows.iter().map(|r| r.last).collect::<Vec<i64>>()),
        Column::new("samples".into(), numbers(&|r| r.samples)),
        Column::new("bytes".into(), numbers(&|r| r.bytes)),
        Column::new("time_codec".into(), texts(&|r| r.time_codec.to_owned())),
        Column::new("value_codec".into(), texts(&|r| r.value_codec.clone())),
        Column::new("detail".into(), texts(&|r| r.detail.clone())),
    ])
}

/// For each row of the long form the series it belongs to.
pub fn gather(offsets: &[usize]) -> IdxCa {
    let mut rows = Vec::with_capacity(offsets.last().copied().unwrap_or(0));
    for (series, pair) in offsets.windows(2).enumerate() {
        rows.resize(pair[1], series as IdxSize);
    }
    IdxCa::from_vec("".into(), rows)
}

/// The frame of any answer; a string answer has its text as `value`.
pub fn answer_frame(answer: metricsdb_model::Answer) -> PolarsResult<DataFrame> {
    match answer.string {
        Some(text) => DataFrame::new_infer_height(vec![
            Column::new("timestamp".into(), answer.matrix.timestamps),
            Column::new("value".into(), [text]),
        ]),
        None => long_frame(answer.matrix),
    }
}
