//! Streams: new steps of a range query, with what is kept between them.

use metricsdb_model::Error;
use metricsdb_query::exec::{self, Memo, Params};
use metricsdb_query::syntax;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::call;
use crate::database::NativeDatabase;
use crate::query::{Found, found};

/// What one subscription keeps between its evaluations. Not shared between databases or expressions.
#[pyclass(frozen, module = "metricsdb._native")]
#[derive(Default)]
pub struct StreamState {
    memo: Mutex<Memo>,
}

#[pymethods]
impl StreamState {
    #[new]
    fn new() -> StreamState {
        StreamState::default()
    }

    /// Numbers held for subqueries.
    fn held(&self) -> usize {
        self.memo.lock().len()
    }
}

#[pymethods]
impl NativeDatabase {
    /// As a range query. Steps follow those of the state's last call, and see no sample that has come since for a time
    /// that those saw.
    #[allow(clippy::too_many_arguments)] // times and state, one to one
    fn query_next(
        &self,
        py: Python<'_>,
        state: &StreamState,
        expr: &str,
        start: i64,
        end: i64,
        step_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<Found> {
        let params = Params { lookback_ms, ..Params::range(expr, start, end, step_ms) };
        self.run(py, expr, |budget| {
            // Never waits: a kernel thread that waits inside one call may take up the next one itself.
            let Some(mut memo) = state.memo.try_lock() else {
                return Err(Error::execution("the stream is being evaluated already"));
            };
            let mut answer = exec::evaluate_on(
                &syntax::parse(expr)?,
                &params,
                &*self.stores(),
                budget,
                Some(&mut memo),
                None,
            )?;
            self.beside.warn(&mut answer);
            found(answer, false, budget)
        })
    }

    /// (milliseconds after a step that the expression looks, latest time in ms that `@` names)
    #[staticmethod]
    fn stream_waits(
        py: Python<'_>,
        expr: &str,
        step_ms: i64,
        lookback_ms: i64,
    ) -> PyResult<(i64, Option<i64>)> {
        let waits = call::short(py, || exec::waits(&syntax::parse(expr)?, expr, step_ms, lookback_ms))?;
        Ok((waits.ahead, waits.pinned))
    }
}
