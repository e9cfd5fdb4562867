//! The core's answers to Polars frames. Label text is laid down once for its run of rows, so that long frames cost
//! views, not strings.

use std::collections::BTreeSet;

use metricsdb_model::{Answer, Budget, Error, Histogram, Labels, Matrix, Result};
use metricsdb_store::ChunkRow;
use polars::prelude::*;
use polars_arrow::array::MutableBinaryViewArray;
use pyo3::PyErr;
use pyo3::exceptions::PyRuntimeError;
use rayon::prelude::*;

use crate::{histogram, wide};

/// Columns that long frames have: a label of the same name gets the prefix `label_`.
const RESERVED: [&str; 4] = ["series", "timestamp", "value", "histogram"];

/// Label sets that are taken apart before their columns grow: bounds the cells between the two steps.
const SETS_PER_BLOCK: usize = 1 << 14;

/// A frame that cannot be put together is our bug.
pub fn frame_error(error: PolarsError) -> PyErr {
    PyRuntimeError::new_err(format!("internal error, please report it: {error}"))
}

/// Label names of all sets: the metric name first, then in order.
pub fn label_names<'a>(sets: impl Iterator<Item = &'a Labels>) -> Vec<String> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut last: Vec<&str> = Vec::new();
    for labels in sets {
        // Neighbours mostly have the same names.
        if !labels.iter().map(|(n, _)| n).eq(last.iter().copied()) {
            last.clear();
            last.extend(labels.iter().map(|(n, _)| n));
            names.extend(&last);
        }
    }
    let named = names.remove("__name__");
    let first = named.then(|| "__name__".to_owned());
    first.into_iter().chain(names.into_iter().map(str::to_owned)).collect()
}

/// One String column per name, a row per label set; an absent label is null.
pub fn label_columns(sets: &[Labels], names: &[String]) -> Vec<Column> {
    repeated_labels(sets, names, |_| 1)
}

/// The same with `rows(i)` rows for label set `i`. Rows of one text in a row are views of one copy of it, which
/// costs 16 bytes a row, and far less time than gathering views by index.
fn repeated_labels(sets: &[Labels], names: &[String], rows: impl Fn(usize) -> usize + Sync) -> Vec<Column> {
    if names.is_empty() {
        return Vec::new();
    }
    let total = (0..sets.len()).map(&rows).sum();
    let mut columns: Vec<Runs> = names.iter().map(|_| Runs::default()).collect();
    let place = places(names);
    let mut cells: Vec<Option<&str>> = Vec::new();
    for (block, part) in sets.chunks(SETS_PER_BLOCK).enumerate() {
        cells.clear();
        cells.resize(part.len() * names.len(), None);
        cells.par_chunks_mut(names.len()).zip(part).with_min_len(256).for_each(|(row, labels)| {
            split(labels, names, &place, row);
        });
        columns.par_iter_mut().enumerate().for_each(|(column, runs)| {
            runs.reserve(total);
            for (i, row) in cells.chunks(names.len()).enumerate() {
                runs.push(row[column], rows(block * SETS_PER_BLOCK + i));
            }
            runs.flush();
        });
    }
    columns.into_iter().zip(names).map(|(runs, name)| runs.finish(column_name(name))).collect()
}

/// The columns in the order in which a label set names them.
fn places(names: &[String]) -> Vec<usize> {
    let mut place: Vec<usize> = (0..names.len()).collect();
    place.sort_unstable_by(|&a, &b| names[a].cmp(&names[b]));
    place
}

/// One label set into a cell a column: both are sorted, so one walk finds them all.
fn split<'a>(labels: &'a Labels, names: &[String], place: &[usize], row: &mut [Option<&'a str>]) {
    let mut columns = place.iter();
    for (name, value) in labels.iter() {
        if let Some(&column) = columns.find(|&&column| names[column] == name) {
            row[column] = Some(value);
        }
    }
}

/// A String column that is laid down run by run.
#[derive(Default)]
struct Runs<'a> {
    column: MutableBinaryViewArray<str>,
    text: Option<&'a str>,
    rows: usize,
}

impl<'a> Runs<'a> {
    fn reserve(&mut self, rows: usize) {
        self.column.reserve(rows - self.column.len());
    }

    fn push(&mut self, text: Option<&'a str>, rows: usize) {
        if text != self.text {
            self.flush();
            self.text = text;
        }
        self.rows += rows;
    }

    fn flush(&mut self) {
        match (std::mem::take(&mut self.rows), self.text) {
            (0, _) => {}
            (rows, None) => self.column.extend_null(rows),
            (rows, text) => self.column.extend_constant(rows, text),
        }
    }

    fn finish(self, name: PlSmallStr) -> Column {
        StringChunked::with_chunk(name, self.column.freeze()).into_column()
    }
}

/// `value` becomes `label_value`, `label_value` becomes `label_label_value`: two labels never share a column.
fn column_name(label: &str) -> PlSmallStr {
    let mut bare = label;
    while let Some(rest) = bare.strip_prefix("label_") {
        bare = rest;
    }
    if RESERVED.contains(&bare) { format!("label_{label}").into() } else { label.into() }
}

/// The long frame of a matrix: labels, `timestamp` (Int64 ms), `value`; a row per sample. O(rows x labels).
pub fn long_frame(matrix: Matrix) -> PolarsResult<DataFrame> {
    let names = label_names(matrix.labels.iter());
    let offsets = &matrix.offsets;
    let mut columns = repeated_labels(&matrix.labels, &names, |i| offsets[i + 1] - offsets[i]);
    columns.push(Column::new("timestamp".into(), matrix.timestamps));
    columns.push(value_column(matrix.values, &matrix.histograms));
    DataFrame::new_infer_height(columns)
}

/// Null where a sample is a histogram.
fn value_column(values: Vec<f64>, histograms: &[(usize, Histogram)]) -> Column {
    if histograms.is_empty() {
        return Column::new("value".into(), values);
    }
    let mut present = vec![true; values.len()];
    histograms.iter().for_each(|(at, _)| present[*at] = false);
    let numbers = values.into_iter().zip(present).map(|(value, present)| present.then_some(value));
    Float64Chunked::from_iter_options("value".into(), numbers).into_column()
}

/// The fields of the histograms of an answer, a row per sample, all null where it is a number; `None` where no
/// sample is a histogram.
pub fn histogram_fields(matrix: &Matrix) -> PolarsResult<Option<DataFrame>> {
    if matrix.histograms.is_empty() {
        return Ok(None);
    }
    let mut rows: Vec<Option<IdxSize>> = vec![None; matrix.timestamps.len()];
    matrix.histograms.iter().enumerate().for_each(|(i, (at, _))| rows[*at] = Some(i as IdxSize));
    let histograms: Vec<Histogram> = matrix.histograms.iter().map(|(_, h)| h.clone()).collect();
    let fields = histogram::fields_frame(&histograms)?;
    fields.take(&IdxCa::new("".into(), rows)).map(Some)
}

/// The answer without the samples that are histograms: a wide frame has a column of numbers a series.
fn numbers_alone(matrix: Matrix) -> Matrix {
    if matrix.histograms.is_empty() {
        return matrix;
    }
    let mut numbers = Matrix::default();
    for row in matrix.all_series() {
        for (t, value) in row.floats() {
            numbers.timestamps.push(t);
            numbers.values.push(value);
        }
        numbers.end_row(row.labels.clone());
    }
    numbers
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

/// The frame of any answer, long or wide; a string answer has its text as `value`.
pub fn answer_frame(answer: Answer, wide: bool, budget: &Budget) -> Result<DataFrame> {
    let frame = match answer.string {
        Some(text) => DataFrame::new_infer_height(vec![
            Column::new("timestamp".into(), answer.matrix.timestamps),
            Column::new("value".into(), [text]),
        ]),
        None if wide => wide::frame(&numbers_alone(answer.matrix), budget)?,
        None => long_frame(answer.matrix),
    };
    frame.map_err(|e| Error::execution(format!("internal error, please report it: {e}")))
}
