//! The core's answers to Polars frames. Label text is laid down once for its run of rows, so that long frames cost
//! views, not strings.

use std::collections::BTreeSet;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Answer, Budget, Error, Freed, Histogram, Labels, Matrix, Result};
use metricsdb_store::ChunkRow;
use polars::prelude::*;
use polars_arrow::array::MutableBinaryViewArray;
use pyo3_polars::PyDataFrame;
use rayon::prelude::*;

use crate::{histogram, wide};

/// Columns that long frames have: a label of the same name gets the prefix `label_`.
const RESERVED: [&str; 4] = ["series", "timestamp", "value", "histogram"];

/// Label sets looked at, and rows of a column laid down, between two looks at the budget.
const SETS_PER_CHECK: usize = 2048;
const ROWS_PER_CHECK: usize = 1 << 18;
/// Label sets that are taken apart before their columns grow: bounds the cells between the two steps.
const SETS_PER_BLOCK: usize = 1 << 14;
/// Bytes of a view of text in a column.
const VIEW_BYTES: usize = 16;
/// Bytes of the fields of a row that is no histogram: fixed ones, and the ends of lists.
const FIELDS_BYTES: usize = 160;

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
    let mut last: Vec<&str> = Vec::new();
    for (i, labels) in sets.enumerate() {
        if i % SETS_PER_CHECK == 0 {
            budget.check()?;
        }
        // Neighbours mostly have the same names.
        if !labels.iter().map(|(n, _)| n).eq(last.iter().copied()) {
            last.clear();
            last.extend(labels.iter().map(|(n, _)| n));
            names.extend(&last);
        }
    }
    let named = names.remove(METRIC_NAME);
    let first = named.then(|| METRIC_NAME.to_owned());
    Ok(first.into_iter().chain(names.into_iter().map(str::to_owned)).collect())
}

/// One String column for each label that any of the sets has, as `label_columns`.
pub fn all_label_columns(sets: &[Labels], budget: &Budget) -> Result<Vec<Column>> {
    label_columns(sets, &label_names(sets.iter(), budget)?, budget)
}

/// One String column per name, a row per label set; an absent label is null.
pub fn label_columns(sets: &[Labels], names: &[String], budget: &Budget) -> Result<Vec<Column>> {
    repeated_labels(sets, names, |_| 1, budget)
}

/// The same with `rows(i)` rows for label set `i`. Rows of one text in a row are views of one copy of it, which
/// costs 16 bytes a row, and far less time than gathering views by index.
fn repeated_labels(
    sets: &[Labels],
    names: &[String],
    rows: impl Fn(usize) -> usize + Sync,
    budget: &Budget,
) -> Result<Vec<Column>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let total: usize = (0..sets.len()).map(&rows).sum();
    budget.keep(names.len() * total * (VIEW_BYTES + 1))?;
    let mut columns: Vec<Runs> = names.iter().map(|_| Runs::new(budget)).collect();
    let place = places(names);
    budget.hold(sets.len().min(SETS_PER_BLOCK) * names.len() * size_of::<Option<&str>>())?;
    let mut cells: Vec<Option<&str>> = Vec::new();
    for (block, part) in sets.chunks(SETS_PER_BLOCK).enumerate() {
        budget.check()?;
        // Texts in buffers that double as they grow.
        budget.keep(2 * part.iter().map(Labels::heap_bytes).sum::<usize>())?;
        cells.clear();
        cells.resize(part.len() * names.len(), None);
        cells.par_chunks_mut(names.len()).zip(part).with_min_len(256).for_each(|(row, labels)| {
            split(labels, names, &place, row);
        });
        columns.par_iter_mut().enumerate().try_for_each(|(column, runs)| {
            budget.check()?;
            runs.reserve(total);
            for (i, row) in cells.chunks(names.len()).enumerate() {
                runs.push(row[column], rows(block * SETS_PER_BLOCK + i))?;
            }
            runs.flush()
        })?;
    }
    Ok(columns.into_iter().zip(names).map(|(runs, name)| runs.finish(column_name(name))).collect())
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
struct Runs<'a> {
    column: MutableBinaryViewArray<str>,
    text: Option<&'a str>,
    rows: usize,
    /// Rows since the last look at the budget.
    since: usize,
    budget: &'a Budget,
}

impl<'a> Runs<'a> {
    fn new(budget: &'a Budget) -> Runs<'a> {
        Runs { column: MutableBinaryViewArray::default(), text: None, rows: 0, since: 0, budget }
    }

    fn reserve(&mut self, rows: usize) {
        self.column.reserve(rows - self.column.len());
    }

    fn push(&mut self, text: Option<&'a str>, rows: usize) -> Result<()> {
        if text != self.text {
            self.flush()?;
            self.text = text;
        }
        self.rows += rows;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        while self.rows > 0 {
            let rows = self.rows.min(ROWS_PER_CHECK);
            match self.text {
                None => self.column.extend_null(rows),
                text => self.column.extend_constant(rows, text),
            }
            self.rows -= rows;
            self.since += rows;
            if self.since >= ROWS_PER_CHECK {
                self.since = 0;
                self.budget.check()?;
            }
        }
        Ok(())
    }

    fn finish(self, name: PlSmallStr) -> Column {
        StringChunked::with_chunk(name, self.column.freeze()).into_column()
    }
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
pub fn column_name(label: &str) -> PlSmallStr {
    let mut bare = label;
    while let Some(rest) = bare.strip_prefix("label_") {
        bare = rest;
    }
    if RESERVED.contains(&bare) { format!("label_{label}").into() } else { label.into() }
}

/// The label of a column that `column_name` named.
pub fn label_name(column: &str) -> &str {
    let mut bare = column;
    while let Some(rest) = bare.strip_prefix("label_") {
        bare = rest;
    }
    let named = column.strip_prefix("label_").filter(|_| RESERVED.contains(&bare));
    named.unwrap_or(column)
}

/// The long frame of a matrix: labels, `timestamp` (Int64 ms), `value`; a row per sample. O(rows x labels).
fn long_frame(matrix: Matrix, budget: &Budget) -> Result<PyDataFrame> {
    let offsets = &matrix.offsets;
    let columns = label_names(matrix.labels.iter(), budget)
        .and_then(|names| repeated_labels(&matrix.labels, &names, |i| offsets[i + 1] - offsets[i], budget));
    drop(Freed(matrix.labels));
    let mut columns = columns?;
    columns.push(Column::new("timestamp".into(), matrix.timestamps));
    columns.push(value_column(matrix.values, &matrix.histograms));
    frame(columns)
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
pub fn histogram_fields(matrix: &Matrix, budget: &Budget) -> Result<Option<PyDataFrame>> {
    if matrix.histograms.is_empty() {
        return Ok(None);
    }
    let bytes: usize = matrix.histograms.iter().map(|(_, h)| size_of::<Histogram>() + h.bytes()).sum();
    // A copy of the histograms, their columns, and these with a row a sample.
    budget.keep(3 * bytes + matrix.timestamps.len() * FIELDS_BYTES)?;
    budget.check()?;
    let mut rows: Vec<Option<IdxSize>> = vec![None; matrix.timestamps.len()];
    matrix.histograms.iter().enumerate().for_each(|(i, (at, _))| rows[*at] = Some(i as IdxSize));
    let histograms: Vec<Histogram> = matrix.histograms.iter().map(|(_, h)| h.clone()).collect();
    let fields = histogram::fields_frame(&histograms).map_err(frame_error)?;
    budget.check()?;
    let fields = fields.take(&IdxCa::new("".into(), rows)).map_err(frame_error)?;
    Ok(Some(PyDataFrame(fields)))
}

/// The answer without the samples that are histograms: a wide frame has a column of numbers a series.
fn numbers_alone(matrix: Matrix, budget: &Budget) -> Result<Matrix> {
    if matrix.histograms.is_empty() {
        return Ok(matrix);
    }
    budget.keep(2 * matrix.timestamps.len() * (size_of::<i64>() + size_of::<f64>()))?;
    let mut numbers = Matrix::default();
    for row in matrix.all_series() {
        budget.check()?;
        for (t, value) in row.floats() {
            numbers.timestamps.push(t);
            numbers.values.push(value);
        }
        numbers.end_row(row.labels.clone());
    }
    Ok(numbers)
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

/// The frame of any answer, long or wide; a string answer has its text as `value`.
pub fn answer_frame(answer: Answer, wide: bool, budget: &Budget) -> Result<PyDataFrame> {
    match answer.string {
        Some(text) => frame(vec![
            Column::new("timestamp".into(), answer.matrix.timestamps),
            Column::new("value".into(), [text]),
        ]),
        None if wide => wide::frame(&numbers_alone(answer.matrix, budget)?, budget),
        None => long_frame(answer.matrix, budget),
    }
}
