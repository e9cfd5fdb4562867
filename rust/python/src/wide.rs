//! Wide frames: a row a timestamp, a column a series, named as PromQL writes the series.

use metricsdb_model::order::sort_by;
use metricsdb_model::{Budget, Error, Labels, Matrix, Result};
use metricsdb_wire::exposition_writer;
use polars::prelude::*;
use polars_arrow::array::PrimitiveArray;
use polars_arrow::bitmap::MutableBitmap;
use pyo3_polars::PyDataFrame;
use rayon::prelude::*;

use crate::output;

/// More columns than this are no frame that anybody reads, and Polars takes milliseconds a thousand of them.
const COLUMNS_MAX: usize = 10_000;

/// `timestamp` (Int64 ms, ascending), then a Float64 column a series in the answer's order; null: no sample. Fails
/// with `Error::Limit` for too many columns, or more cells than the query may hold samples. O(cells).
pub fn frame(matrix: &Matrix, budget: &Budget) -> Result<PyDataFrame> {
    if matrix.len() > COLUMNS_MAX {
        return Err(Error::Limit {
            what: "columns of a wide frame, one a series",
            limit: COLUMNS_MAX as u64,
            needed: matrix.len() as u64,
            remedy: "aggregate with sum by (...), choose with topk, narrow the selector, or take wide=False",
        });
    }
    let times = times(matrix, budget)?;
    let cells = times.len().saturating_mul(matrix.len());
    budget.hold_samples(cells as u64)?;
    // A bit says whether a cell is filled.
    budget.keep(cells.saturating_mul(size_of::<f64>()).saturating_add(cells / 8))?;
    let series = (0..matrix.len()).into_par_iter().map(|i| {
        let (labels, at, values) = matrix.row(i);
        budget.check()?;
        Ok(column(name(labels), &times, at, values))
    });
    let series: Vec<Column> = series.collect::<Result<_>>()?;
    let mut columns = vec![Column::new("timestamp".into(), &times)];
    columns.extend(series);
    output::frame(columns)
}

/// Every time at which some series has a sample.
fn times(matrix: &Matrix, budget: &Budget) -> Result<Vec<i64>> {
    let first = if matrix.is_empty() { &[][..] } else { matrix.row(0).1 };
    if matrix.rows().all(|(_, at, _)| at == first) {
        return Ok(first.to_vec());
    }
    budget.keep(2 * size_of_val(&matrix.timestamps[..]))?;
    let mut all = matrix.timestamps.clone();
    sort_by(&mut all, budget, i64::cmp)?;
    all.dedup();
    Ok(all)
}

/// One series laid out over all times, which hold its own.
fn column(name: PlSmallStr, times: &[i64], at: &[i64], values: &[f64]) -> Column {
    if at.len() == times.len() {
        return Column::new(name, values);
    }
    let mut cells = vec![0.0; times.len()];
    let mut present = MutableBitmap::from_len_zeroed(times.len());
    let mut row = 0;
    for (t, &value) in at.iter().zip(values) {
        while times[row] < *t {
            row += 1;
        }
        cells[row] = value;
        present.set(row, true);
    }
    let cells = PrimitiveArray::from_vec(cells).with_validity(Some(present.into()));
    Float64Chunked::with_chunk(name, cells).into_column()
}

/// With braces always, so that no metric is taken for the column `timestamp`.
fn name(labels: &Labels) -> PlSmallStr {
    let mut text = Vec::with_capacity(64);
    exposition_writer::series(labels, &mut text);
    String::from_utf8_lossy(&text).as_ref().into()
}
