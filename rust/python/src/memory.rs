//! The memory limit as Python sees it: what is held, what was refused, and the ways to make room.

use std::collections::BTreeMap;

use metricsdb_model::memory::Arriving;
use metricsdb_model::{Budget, Result};
use pyo3::prelude::*;

use crate::call;
use crate::database::NativeDatabase;

/// A body is decoded into so many times its bytes, about: text and compressed messages alike.
const DECODED: u64 = 6;

/// (samples, chunks, series, bytes)
type Expired = (u64, u64, u64, u64);

impl NativeDatabase {
    /// Room for a body while it is decoded and written. Errors: `Memory`.
    pub fn arrive(&self, body: &[u8]) -> Result<Arriving<'_>> {
        self.memory.arrive(body.len() as u64 * DECODED)
    }

    /// Counters of the limit, by name.
    pub fn memory_stats(&self) -> Vec<(&'static str, i64)> {
        let shares = self.memory.shares();
        let names = [
            "refused_batch_queries",
            "refused_queries",
            "refused_new_series",
            "refused_low_samples",
            "refused_samples",
            "refused_bodies",
            "refused_alert_queries",
        ];
        let mut all = vec![
            ("memory_limit_bytes", self.memory.limit().unwrap_or(0) as i64),
            ("memory_soft_bytes", self.memory.limit().map_or(0, |_| self.memory.soft()) as i64),
            ("memory_stored_bytes", shares.stored as i64),
            ("memory_queries_bytes", shares.queries as i64),
            ("memory_kept_bytes", shares.kept as i64),
            ("memory_arriving_bytes", shares.arriving as i64),
        ];
        all.extend(
            names.into_iter().zip(self.memory.refused()).map(|(name, (_, count))| (name, count as i64)),
        );
        all
    }
}

#[pymethods]
impl NativeDatabase {
    /// Measures the store: bytes.
    fn measure(&self, py: Python<'_>) -> u64 {
        call::detached(py, || {
            self.memory.set_kept(self.cache.counts().bytes as u64);
            self.store.measure()
        })
    }

    /// Forgets the answers that are kept; their bytes.
    fn forget_answers(&self, py: Python<'_>) -> usize {
        call::detached(py, || {
            let freed = self.cache.clear();
            self.memory.set_kept(self.cache.counts().bytes as u64);
            freed
        })
    }

    /// One step of eviction while the store holds more than `goal` bytes: what left, the time before which it did,
    /// and whether that is all that may go.
    fn evict(
        &self,
        py: Python<'_>,
        goal: u64,
        before: i64,
        keep_from: i64,
    ) -> PyResult<(Expired, i64, bool)> {
        let step = call::short(py, || self.store.evict(goal, before, keep_from, &Budget::unlimited()))?;
        let e = step.expired;
        Ok(((e.samples, e.chunks, e.series, e.bytes), step.before, step.finished))
    }

    /// Bytes by who holds them, as they count now.
    fn memory_shares(&self) -> BTreeMap<&'static str, u64> {
        let shares = self.memory.shares();
        BTreeMap::from([
            ("stored", shares.stored),
            ("queries", shares.queries),
            ("kept", shares.kept),
            ("arriving", shares.arriving),
        ])
    }

    /// By step of refusal: its name, the bytes from which on it is refused, and how many were.
    fn memory_steps(&self) -> BTreeMap<&'static str, (u64, u64)> {
        self.memory.refused().map(|(step, n)| (step.as_str(), (self.memory.threshold(step), n))).collect()
    }
}
