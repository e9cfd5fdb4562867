//! The database as Python sees it: samples in, series and their raw samples out.

use std::collections::BTreeMap;

use metricsdb_model::batch::Extra;
use metricsdb_model::{Batch, Budget, Columns, Error, Labels, Predicate, Result, TimeRange, WriteReport};
use metricsdb_store::{Database, DuplicatePolicy, Options};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use polars::prelude::{Column, DataFrame, IntoColumn, UInt64Chunked};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use pyo3_polars::PyDataFrame;

use crate::call::{self, Limits};
use crate::error;
use crate::input::{self, ValueColumn};
use crate::output;

#[pyclass(frozen, module = "metricsdb._native")]
pub struct NativeDatabase {
    pub store: Database,
    pub limits: Limits,
}

/// accepted, duplicates, out_of_order, series_created, [(reason, count, example)]
pub type Report = (u64, u64, u64, u64, Vec<(&'static str, u64, String)>);

pub fn report(report: WriteReport) -> Report {
    let rejected = report.rejected.into_iter().map(|r| (r.reason.as_str(), r.count, r.example)).collect();
    (report.accepted, report.duplicates, report.out_of_order, report.series_created, rejected)
}

/// One predicate per selector text.
pub fn predicates(selectors: &[String]) -> Result<Vec<Predicate>> {
    selectors.iter().map(|text| metricsdb_query::syntax::selector(text)).collect()
}

#[pymethods]
impl NativeDatabase {
    #[new]
    fn new(
        py: Python<'_>,
        duplicates: &str,
        timeout_ms: u64,
        samples_max: u64,
        hash_key: u64,
    ) -> PyResult<Self> {
        let duplicates = DuplicatePolicy::from_name(duplicates).map_err(|e| error::to_python(py, e))?;
        let store = Database::new(Options { duplicates, raw_hash_key: hash_key, ..Options::default() });
        Ok(NativeDatabase { store, limits: Limits { timeout_ms, samples_max } })
    }

    fn register<'py>(
        &self,
        py: Python<'py>,
        series: Vec<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let labels: Result<Vec<Labels>> = input::label_dicts(&series)?.into_iter().collect();
        self.register_labels(py, labels)
    }

    fn register_frame<'py>(
        &self,
        py: Python<'py>,
        frame: PyDataFrame,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let labels = py.detach(|| input::label_rows(&frame.0));
        self.register_labels(py, labels)
    }

    fn append_columns(
        &self,
        py: Python<'_>,
        ids: PyReadonlyArray1<'_, u64>,
        timestamps: PyReadonlyArray1<'_, i64>,
        values: ValueColumn<'_>,
    ) -> PyResult<Report> {
        let columns =
            Columns { ids: ids.as_slice()?, timestamps: timestamps.as_slice()?, values: values.values()? };
        let written = py.detach(|| self.store.append_columns(columns));
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    fn ingest(
        &self,
        py: Python<'_>,
        body: &[u8],
        format: &str,
        now_ms: i64,
        labels: BTreeMap<String, String>,
        honor_labels: bool,
    ) -> PyResult<Report> {
        let written = py.detach(|| {
            let extra = Extra { labels: input::label_map(&labels)?, honor: honor_labels };
            let mut scratch = Vec::new();
            let mut batch = decode(body, format, now_ms, &mut scratch)?;
            batch.extra = extra;
            Ok(self.store.write(&batch))
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    /// Remote write 1.0, the hot path of the server.
    fn write_remote(&self, py: Python<'_>, body: &[u8]) -> PyResult<Report> {
        let written = py.detach(|| {
            let mut scratch = Vec::new();
            let batch = metricsdb_wire::remote_write::decode(body, &mut scratch)?;
            Ok(self.store.write(&batch))
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    /// `series` (UInt64 reference) and one String column a label.
    fn series_frame(
        &self,
        py: Python<'_>,
        selectors: Vec<String>,
        start: i64,
        end: i64,
    ) -> PyResult<PyDataFrame> {
        let (ids, sets) = call::run(py, self.limits, |budget| {
            self.store.series(&predicates(&selectors)?, TimeRange::new(start, end), budget)
        })?;
        let names = output::label_names(sets.iter());
        let mut columns = vec![UInt64Chunked::from_vec("series".into(), ids).into_column()];
        columns.extend(output::label_columns(&sets, &names));
        Ok(PyDataFrame(DataFrame::new_infer_height(columns).map_err(output::frame_error)?))
    }

    /// Samples of the series in the frame's `series` column, its other columns repeated beside them.
    fn read(&self, py: Python<'_>, frame: PyDataFrame, start: i64, end: i64) -> PyResult<PyDataFrame> {
        let ids: Vec<u64> = frame
            .0
            .column("series")
            .and_then(|c| Ok(c.u64()?.into_no_null_iter().collect()))
            .map_err(output::frame_error)?;
        let matrix = call::run(py, self.limits, |budget| {
            self.store.read_many(&ids, TimeRange::new(start, end), budget)
        })?;
        let rows = output::gather(&matrix.offsets);
        let mut columns: Vec<Column> = Vec::new();
        for column in frame.0.columns() {
            columns.push(column.take(&rows).map_err(output::frame_error)?);
        }
        columns.push(Column::new("timestamp".into(), matrix.timestamps));
        columns.push(Column::new("value".into(), matrix.values));
        Ok(PyDataFrame(DataFrame::new_infer_height(columns).map_err(output::frame_error)?))
    }
}
