//! Errors of the core to Python's exception classes: one match, no wildcard.

use metricsdb_model::Error;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception of `metricsdb.errors` that stands for `error`.
pub fn to_python(py: Python<'_>, error: Error) -> PyErr {
    let class = match &error {
        Error::Parse { .. } => "ParseError",
        Error::Execution { .. } => "ExecutionError",
        Error::Input { .. } => "ConfigError",
        Error::Limit { .. } | Error::Costly { .. } => "QueryLimit",
        Error::Timeout { .. } => "QueryTimeout",
        Error::Cancelled => "QueryCancelled",
        Error::Killed => "QueryKilled",
        Error::Busy { .. } => "QueryRejected",
        Error::Memory { step, .. } if step.is_write() => "MemoryLimit",
        Error::Memory { .. } => "QueryRejected",
        Error::Corruption { .. } => "CorruptionError",
        Error::Storage { .. } => "StorageError",
        Error::Locked { .. } => "DatabaseLocked",
        Error::Version { .. } => "FormatVersionError",
        Error::Cardinality { .. } => "CardinalityLimit",
        Error::NotDurable { .. } => "NotDurable",
    };
    raise(py, class, &error).unwrap_or_else(|e| e)
}

/// As `to_python` for a write: a body or a column that is wrong or too large is a `WriteError`.
pub fn write_error(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Input { .. } | Error::Limit { .. } => raise(py, "WriteError", &error).unwrap_or_else(|e| e),
        other => to_python(py, other),
    }
}

fn raise(py: Python<'_>, class: &str, error: &Error) -> PyResult<PyErr> {
    let class = py.import("metricsdb.errors")?.getattr(class)?.cast_into::<PyType>()?;
    Ok(match error {
        Error::Parse { line, column, remedy, .. } => {
            PyErr::from_type(class, (error.to_string(), *line, *column, remedy.clone()))
        }
        Error::Memory { step, .. } => {
            PyErr::from_type(class, (error.to_string(), step.retry_after_s() as f64))
        }
        _ => PyErr::from_type(class, (error.to_string(),)),
    })
}
