//! What a scrape target gave last time, so that what is gone now gets a staleness marker.

use std::collections::{BTreeMap, HashSet};

use metricsdb_model::batch::Extra;
use metricsdb_model::sample::stale;
use metricsdb_model::{Columns, Values, WriteReport};
use metricsdb_wire::remote_write::v2;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::call;
use crate::database::{NativeDatabase, Report, decode, report};
use crate::{error, input};

/// The series of a target's last good scrape. One for each target; not shared between databases.
#[pyclass(frozen, module = "metricsdb._native")]
#[derive(Default)]
pub struct ScrapeState {
    series: Mutex<HashSet<u64>>,
}

#[pymethods]
impl ScrapeState {
    #[new]
    fn new() -> ScrapeState {
        ScrapeState::default()
    }
}

#[pymethods]
impl NativeDatabase {
    /// Takes one scrape's body at `now_ms`, and ends the series that the last scrape had and this one has not.
    /// An empty body (a failed scrape) ends them all.
    #[allow(clippy::too_many_arguments)] // one to one what a scrape knows
    fn ingest_scrape(
        &self,
        py: Python<'_>,
        state: &ScrapeState,
        body: &[u8],
        format: &str,
        now_ms: i64,
        labels: BTreeMap<String, String>,
        honor_labels: bool,
    ) -> PyResult<Report> {
        let written = call::detached(py, || {
            let extra = Extra { labels: input::label_map(&labels)?, honor: honor_labels };
            let _room = self.arrive(body)?;
            let mut scratch = v2::Scratch::default();
            let batch = decode(body, format, now_ms, extra, &mut scratch)?;
            let mut ids = Vec::with_capacity(batch.series.len());
            let mut written = self.store.write_tracked(&batch, &mut ids);
            let now: HashSet<u64> = ids.into_iter().flatten().collect();
            let mut last = state.series.lock();
            let gone: Vec<u64> = last.difference(&now).copied().collect();
            *last = now;
            let ended = self.store.append_columns(Columns {
                ids: &gone,
                timestamps: &vec![now_ms; gone.len()],
                values: Values::Float(&vec![stale(); gone.len()]),
            })?;
            // The markers are ours: the report counts what the target gave.
            written.merge(WriteReport { accepted: 0, ..ended });
            Ok(written)
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }
}
