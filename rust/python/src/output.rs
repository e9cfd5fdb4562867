//! The core's answers to Polars frames. Label text is laid down once a series and gathered to rows by
//! index, so that long frames cost views, not strings.

use std::collections::BTreeSet;

use metricsdb_model::{Answer, Budget, Error, Labels, Matrix, Result};
use metricsdb_store::ChunkRow;
use polars::prelude::*;
use pyo3_polars::PyDataFrame;

/// Columns that long frames have: a label of the same name gets the prefix `label_`.
const RESERVED: [&str; 4] = ["series", "timestamp", "value", "histogram"];

/// Rows of label text laid down, and rows of a long frame gathered, between two looks at the budget.
const SETS_PER_CHECK: usize = 2048;
const ROWS_PER_CHECK: usize = 1 << 18;
/// Bytes of a view of text in a column.
const VIEW_BYTES: usize = 16;

/// A frame that cannot be put together is our bug.
pub fn frame_error(error: PolarsError) -> Error {
    Error::execution(format!("internal error, please report it: {error}"))
}

pub fn frame(columns: Vec<Column>) -> Result<PyDataFrame> {
    DataFrame::new_infer_height(columns).map(PyDataFrame).map_err(frame_error)
}

/// Label names of all sets: the metric name first, then in order.
pub fn label_names<'a>(sets: impl Iterator<Item = &'a Labels>, budget: &Budget) -> Result<Vec<String>> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (i, labels) in sets.enumerate() {
        if i % SETS_PER_CHECK == 0 {
            budget.check()?;
        }
        names.extend(labels.iter().map(|(n, _)| n));
    }
    let named = names.remove("__name__");
    let first = named.then(|| "__name__".to_owned());
    Ok(first.into_iter().chain(names.into_iter().map(str::to_owned)).collect())
}

/// One String column per name, a row per label set; an absent label is null.
pub fn label_columns(sets: &[Labels], names: &[String], budget: &Budget) -> Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        let mut column = StringChunkedBuilder::new(column_name(name), sets.len());
        for block in sets.chunks(SETS_PER_CHECK) {
            budget.check()?;
            let texts = block.iter().map(|labels| labels.get(name));
            let bytes: usize = texts.map(|text| VIEW_BYTES + 1 + 2 * text.map_or(0, str::len)).sum();
            budget.keep(bytes)?;
            block.iter().for_each(|labels| column.append_option(labels.get(name)));
        }
        columns.push(column.finish().into_column());
    }
    Ok(columns)
}

/// Each column's row `i` as often as series `i` has samples.
pub fn repeat(columns: &[Column], offsets: &[usize], budget: &Budget) -> Result<Vec<Column>> {
    let mut rows: Vec<IdxSize> = Vec::new();
    let mut repeated: Vec<Option<Column>> = vec![None; columns.len()];
    let total = offsets.last().copied().unwrap_or(0);
    budget.keep(total * columns.len() * (VIEW_BYTES + 1))?;
    let mut add = |rows: &mut Vec<IdxSize>| -> Result<()> {
        let rows = IdxCa::from_vec("".into(), std::mem::take(rows));
        for (column, whole) in columns.iter().zip(&mut repeated) {
            budget.check()?;
            let part = column.take(&rows).map_err(frame_error)?;
            match whole {
                None => *whole = Some(part),
                Some(whole) => whole.append(&part).map(|_| ()).map_err(frame_error)?,
            }
        }
        Ok(())
    };
    for (series, pair) in offsets.windows(2).enumerate() {
        let mut left = pair[1] - pair[0];
        while left > 0 {
            let now = left.min(ROWS_PER_CHECK - rows.len());
            rows.resize(rows.len() + now, series as IdxSize);
            left -= now;
            if rows.len() == ROWS_PER_CHECK {
                add(&mut rows)?;
            }
        }
    }
    if !rows.is_empty() || total == 0 {
        add(&mut rows)?;
    }
    Ok(repeated.into_iter().flatten().collect())
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
fn long_frame(matrix: Matrix, budget: &Budget) -> Result<PyDataFrame> {
    let names = label_names(matrix.labels.iter(), budget)?;
    let labels = label_columns(&matrix.labels, &names, budget)?;
    let is_flat =
        matrix.timestamps.len() == matrix.len() && matrix.offsets.windows(2).all(|o| o[1] - o[0] == 1);
    let mut columns = if is_flat { labels } else { repeat(&labels, &matrix.offsets, budget)? };
    // Freeing a million label sets takes longer than a caller who stopped the query should wait.
    rayon::spawn(move || drop(matrix.labels));
    columns.push(Column::new("timestamp".into(), matrix.timestamps));
    columns.push(Column::new("value".into(), matrix.values));
    frame(columns)
}

/// A row a chunk: its series as PromQL writes it, and how it is stored.
pub fn chunk_frame(rows: Vec<ChunkRow>) -> Result<PyDataFrame> {
    let numbers = |f: &dyn Fn(&ChunkRow) -> usize| rows.iter().map(|r| f(r) as u64).collect::<Vec<u64>>();
    let texts = |f: &dyn Fn(&ChunkRow) -> String| rows.iter().map(f).collect::<Vec<String>>();
    frame(vec![
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

/// The frame of any answer; a string answer has its text as `value`.
pub fn answer_frame(answer: Answer, budget: &Budget) -> Result<PyDataFrame> {
    match answer.string {
        Some(text) => frame(vec![
            Column::new("timestamp".into(), answer.matrix.timestamps),
            Column::new("value".into(), [text]),
        ]),
        None => long_frame(answer.matrix, budget),
    }
}
