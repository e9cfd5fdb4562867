//! The body of an answer over HTTP, piece by piece: what is not sent yet is not written yet.

use std::time::Instant;

use metricsdb_model::budget::Stop;
use metricsdb_model::{Answer, QueryStats, Result};
use metricsdb_wire::prom_json::Pieces;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::call;
use crate::error;
use crate::queries::Ticket;

/// Bytes of a piece: a millisecond's work, and few enough to hold for each client.
const PIECE_BYTES: usize = 256 << 10;

/// An answer, and how much of it is written. On the list of queries until it is dropped.
pub struct Unsent {
    answer: Answer,
    stats: Option<QueryStats>,
    pieces: Pieces,
    ticket: Ticket,
    deadline: Option<Instant>,
}

impl Unsent {
    pub fn new(
        answer: Answer,
        stats: Option<QueryStats>,
        ticket: Ticket,
        deadline: Option<Instant>,
    ) -> Unsent {
        ticket.evaluated();
        Unsent { answer, stats, pieces: Pieces::default(), ticket, deadline }
    }

    /// Fails when the query was ended meanwhile.
    pub fn next(&mut self) -> Result<Vec<u8>> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.ticket.stop.time_out();
        }
        self.ticket.budget.check()?;
        let mut out =
            Vec::with_capacity(if self.answer.matrix.is_empty() { 256 } else { PIECE_BYTES + 1024 });
        self.pieces.next(&self.answer, self.stats.as_ref(), PIECE_BYTES, &mut out);
        Ok(out)
    }

    pub fn is_done(&self) -> bool {
        self.pieces.is_done()
    }
}

/// Iterates over the pieces; `close` ends it early.
#[pyclass(frozen, module = "metricsdb._native")]
pub struct Body(Mutex<Option<Unsent>>);

impl Body {
    pub fn new(unsent: Unsent) -> Body {
        Body(Mutex::new(Some(unsent)))
    }
}

#[pymethods]
impl Body {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let piece = call::detached(py, || {
            let mut slot = self.0.lock();
            let Some(unsent) = slot.as_mut() else { return Ok(None) };
            let piece = unsent.next();
            if piece.is_err() || unsent.is_done() {
                *slot = None;
            }
            piece.map(Some)
        });
        Ok(piece.map_err(|e| error::to_python(py, e))?.map(|piece| PyBytes::new(py, &piece)))
    }

    /// Seconds until the query times out; 0 when all is written.
    fn seconds_left(&self) -> f64 {
        let deadline = self.0.lock().as_ref().and_then(|unsent| unsent.deadline);
        deadline.map_or(0.0, |at| at.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    fn close(&self, py: Python<'_>) {
        call::detached(py, || drop(self.0.lock().take()));
    }
}

/// Ends a query from outside, also before it has begun.
#[pyclass(frozen, module = "metricsdb._native")]
#[derive(Default)]
pub struct StopSwitch(pub Stop);

#[pymethods]
impl StopSwitch {
    #[new]
    fn new() -> StopSwitch {
        StopSwitch::default()
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}
