//! Python's arguments to the core's words.

use std::collections::BTreeMap;
use std::ops::Range;

use metricsdb_model::{Error, LabelError, Labels, LabelsBuilder, Result, Values};
use numpy::PyReadonlyArray1;
use polars::prelude::{DataFrame, PlSmallStr, StringChunked};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A numpy column whose dtype picks the value kind.
#[derive(FromPyObject)]
pub enum ValueColumn<'py> {
    Float(PyReadonlyArray1<'py, f64>),
    Int(PyReadonlyArray1<'py, i64>),
    Uint(PyReadonlyArray1<'py, u64>),
}

impl ValueColumn<'_> {
    pub fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            ValueColumn::Float(a) => Values::Float(a.as_slice()?),
            ValueColumn::Int(a) => Values::Int(a.as_slice()?),
            ValueColumn::Uint(a) => Values::Uint(a.as_slice()?),
        })
    }
}

/// Label sets from a list of dicts.
pub fn label_dicts(series: &[Bound<'_, PyDict>]) -> PyResult<Vec<Result<Labels>>> {
    let mut builder = LabelsBuilder::default();
    series
        .iter()
        .map(|dict| {
            builder.clear();
            for (name, value) in dict.iter() {
                let (Ok(n), Ok(v)) = (name.extract::<&str>(), value.extract::<&str>()) else {
                    return Ok(Err(Error::input(
                        "label",
                        &format!("{name}={value}"),
                        "name and value must be text",
                        "convert them with str()",
                    )));
                };
                builder.push(n, v);
            }
            Ok(finish(&mut builder, || dict.to_string()))
        })
        .collect()
}

pub fn label_map(labels: &BTreeMap<String, String>) -> Result<Labels> {
    Labels::from_pairs(labels.iter()).map_err(|e| label_error(e, &format!("{labels:?}")))
}

/// Label sets from rows of a frame of String columns; null is an absent label.
pub fn label_rows(frame: &DataFrame, rows: Range<usize>) -> Result<Vec<Labels>> {
    let columns: Vec<(&PlSmallStr, &StringChunked)> = frame
        .columns()
        .iter()
        .map(|c| match c.str() {
            Ok(text) => Ok((c.name(), text)),
            Err(_) => Err(Error::input("label column", c.name(), "is not of type String", "cast it")),
        })
        .collect::<Result<_>>()?;
    let mut builder = LabelsBuilder::default();
    rows.map(|row| {
        builder.clear();
        for (name, text) in &columns {
            if let Some(value) = text.get(row) {
                builder.push(name, value);
            }
        }
        finish(&mut builder, || format!("row {row}"))
    })
    .collect()
}

fn finish(builder: &mut LabelsBuilder, what: impl Fn() -> String) -> Result<Labels> {
    builder.finish().map_err(|e| label_error(e, &what()))
}

fn label_error(error: LabelError, what: &str) -> Error {
    Error::input("labels", what, error.to_string(), "give each label once, with a name and UTF-8 text")
}
