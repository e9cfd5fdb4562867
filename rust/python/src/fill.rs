//! Columns as a cold store hands them out, into a store that stands beside another: exact, starts too.

use std::borrow::Cow;

use metricsdb_model::batch::BatchSeries;
use metricsdb_model::{Batch, Columns, Error, Labels, Result, Values};
use metricsdb_wire::{dialect, statsd};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::database::NativeDatabase;
use crate::{call, error, input, output};

#[pymethods]
impl NativeDatabase {
    /// Writes samples of the series in `series`, a row of labels each. `samples`: `row` (UInt32, of `series`, ascending),
    /// `timestamp`, and `value`, `integer`, `kind`, `start` as `Catalog.samples` has them.
    fn fill(&self, py: Python<'_>, series: PyDataFrame, samples: PyDataFrame) -> PyResult<()> {
        let filled = call::detached(py, || {
            let labels = input::label_rows(&series.0, 0..series.0.height())?;
            self.fill_rows(&labels, &Filling::of(&samples.0)?)
        });
        filled.map_err(|e| error::write_error(py, e))
    }
}

/// The columns of such a frame.
struct Filling<'f> {
    frame: &'f DataFrame,
    rows: Vec<u32>,
    times: Vec<i64>,
    /// 0 where it is not known; empty where no row has any.
    starts: Vec<i64>,
}

impl<'f> Filling<'f> {
    fn of(frame: &'f DataFrame) -> Result<Filling<'f>> {
        let starts = integers(frame, "start")?;
        Ok(Filling {
            frame,
            rows: column(frame, "row")?.u32().map_err(output::frame_error)?.into_no_null_iter().collect(),
            times: integers(frame, "timestamp")?,
            starts: if starts.iter().all(|&start| start == 0) { Vec::new() } else { starts },
        })
    }

    /// Places in the columns, series by series.
    fn runs(&self) -> impl Iterator<Item = (u32, std::ops::Range<usize>)> {
        let mut from = 0;
        self.rows.chunk_by(|a, b| a == b).map(move |run| {
            from += run.len();
            (run[0], from - run.len()..from)
        })
    }
}

fn column<'f>(frame: &'f DataFrame, name: &str) -> Result<&'f Column> {
    frame.column(name).map_err(output::frame_error)
}

/// An Int64 column, nulls as 0.
fn integers(frame: &DataFrame, name: &str) -> Result<Vec<i64>> {
    let column = column(frame, name)?.i64().map_err(output::frame_error)?;
    Ok(column.iter().map(Option::unwrap_or_default).collect())
}

fn canonical<'a>() -> Batch<'a> {
    Batch::new(dialect::CANONICAL, statsd::decode_canonical)
}

impl NativeDatabase {
    fn fill_rows(&self, labels: &[Labels], given: &Filling<'_>) -> Result<()> {
        if let Some(&row) = given.rows.iter().find(|&&row| row as usize >= labels.len()) {
            return Err(Error::input(
                "row",
                &row.to_string(),
                "is no row of the series",
                "give its place there",
            ));
        }
        let values = column(given.frame, "value")?.f64().map_err(output::frame_error)?;
        let values: Vec<f64> = values.into_no_null_iter().collect();
        let kinds = column(given.frame, "kind")?.u8().map_err(output::frame_error)?.rechunk();
        let integers =
            if kinds.max().unwrap_or(0) > 0 { integers(given.frame, "integer")? } else { Vec::new() };
        if !given.starts.is_empty() && integers.is_empty() {
            return self.fill_with_starts(labels, given, values);
        }
        let (ids, _) = self.store.register_or_refuse(labels)?;
        let ids: Vec<u64> = given.rows.iter().map(|&row| ids[row as usize]).collect();
        if integers.is_empty() {
            let values = Values::Float(&values);
            return self.filled(self.store.append_columns(Columns {
                ids: &ids,
                timestamps: &given.times,
                values,
            })?);
        }
        let kinds: Vec<u8> = kinds.into_no_null_iter().collect();
        for kind in 0..3 {
            let places: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i] == kind).collect();
            let ids: Vec<u64> = places.iter().map(|&i| ids[i]).collect();
            let times: Vec<i64> = places.iter().map(|&i| given.times[i]).collect();
            let floats: Vec<f64> = places.iter().map(|&i| values[i]).collect();
            let ints: Vec<i64> = places.iter().map(|&i| integers[i]).collect();
            let uints: Vec<u64> = ints.iter().map(|&i| i as u64).collect();
            let values =
                [Values::Float(&floats), Values::Int(&ints), Values::Uint(&uints)][usize::from(kind)];
            self.filled(self.store.append_columns(Columns { ids: &ids, timestamps: &times, values })?)?;
        }
        Ok(())
    }

    fn fill_with_starts(&self, labels: &[Labels], given: &Filling<'_>, values: Vec<f64>) -> Result<()> {
        let series = |(row, run): (u32, std::ops::Range<usize>)| BatchSeries {
            raw: Cow::Borrowed(labels[row as usize].as_ref().canonical()),
            samples: run.start as u32..run.end as u32,
        };
        let (timestamps, starts) = (given.times.clone(), given.starts.clone());
        let series = given.runs().map(series).collect();
        self.filled(self.store.write(&Batch { series, timestamps, values, starts, ..canonical() }))
    }

    /// Nothing is left out: what stood in another store fits into one.
    fn filled(&self, report: metricsdb_model::WriteReport) -> Result<()> {
        let report = self.promised(report)?;
        match report.rejected.first() {
            None => Ok(()),
            Some(refused) => Err(Error::input(
                "samples",
                &refused.example,
                format!("were refused: {}", refused.reason.as_str()),
                "read less at once, or give the view more memory",
            )),
        }
    }
}
