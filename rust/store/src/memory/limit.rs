//! The memory limit where samples come in: measured now and then, and asked before anything is kept.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metricsdb_model::memory::Step;
use metricsdb_model::{Budget, Error, Reason, Result, WriteReport};
use parking_lot::Mutex;

use super::Walked;
use crate::database::Database;
use crate::expire::Expired;
use crate::resolve::Refusal;

/// Writers measure when the store may have grown by this share of the limit.
const MEASURE_SHARE: u64 = 128;
/// What a sample and a new series may take; rather more than less.
pub(super) const SAMPLE_BYTES: u64 = 9;
const SERIES_BYTES: u64 = 1024;
/// A step of eviction takes this share of the time that may go, or more.
const EVICT_STEPS: i64 = 64;

/// When the store was measured last, and what was found.
#[derive(Default)]
pub(crate) struct Meter {
    /// What it could have grown to since its beginning, at the last measurement.
    weight: AtomicU64,
    pub walked: Mutex<Walked>,
}

/// What one step of eviction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub expired: Expired,
    /// All that was older than this (ms) has left, or was told to.
    pub before: i64,
    /// Enough is free, or nothing more may go.
    pub finished: bool,
}

impl Database {
    /// Measures the store for its limit; bytes.
    pub fn measure(&self) -> u64 {
        let mut walked = self.meter.walked.lock();
        self.meter.weight.store(self.weight(), Relaxed);
        let held = self.held_after(&mut walked) as u64;
        self.limit.set_stored(held);
        held
    }

    /// What all that ever came may take at most.
    fn weight(&self) -> u64 {
        let samples = self.appended.load(Relaxed).saturating_mul(SAMPLE_BYTES);
        let series = (self.series_count() as u64).saturating_mul(SERIES_BYTES);
        samples.saturating_add(series).saturating_add(self.appended_histograms.bytes())
    }

    /// Measures if the store may have grown much since the last time; one thread at a time. To be called without
    /// a lock.
    pub(crate) fn measure_when_due(&self) {
        let Some(limit) = self.limit.limit() else { return };
        let grown = self.weight().abs_diff(self.meter.weight.load(Relaxed));
        if grown > limit / MEASURE_SHARE
            && let Some(mut walked) = self.meter.walked.try_lock()
        {
            self.meter.weight.store(self.weight(), Relaxed);
            self.limit.set_stored(self.held_after(&mut walked) as u64);
        }
    }

    /// Whether series may be made, and what families say of themselves be kept. A series that may not leaves nothing
    /// behind, not even its text.
    pub(crate) fn admits_series(&self) -> bool {
        self.measure_when_due();
        self.limit.admit(Step::NewSeries, 0).is_ok()
    }

    /// What to tell of a series that may not be made; counts it.
    pub(crate) fn refuse_series(&self) -> Refusal {
        self.limit.count_refused(Step::NewSeries, 1);
        Refusal::new(Reason::MemoryLimit, self.limit.refusal(Step::NewSeries).to_string())
    }

    /// Whether so many samples may come in; else they are counted as refused.
    pub(crate) fn admit_samples(&self, count: usize, report: &mut WriteReport) -> bool {
        self.measure_when_due();
        let count = count as u64;
        let Err(error) = self.limit.admit(Step::Samples, count * SAMPLE_BYTES) else { return true };
        self.limit.count_refused(Step::Samples, count);
        report.refuse(Step::Samples, count, || error.to_string());
        false
    }

    /// The error of a refused series, or of another refusal.
    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        match refusal.reason {
            Reason::MemoryLimit => self.limit.refusal(Step::NewSeries),
            _ => refusal.into_error(),
        }
    }

    /// Drops the oldest samples, older than `before` at least, while the store holds more than `goal` bytes: one
    /// step, which grows with what is too much. Nothing from `keep_from` (ms) on goes. Errors: the budget's, and
    /// `NotDurable`.
    pub fn evict(&self, goal: u64, before: i64, keep_from: i64, budget: &Budget) -> Result<Evicted> {
        let held = self.measure();
        let nothing = Evicted { expired: Expired::default(), before, finished: true };
        if held <= goal {
            return Ok(nothing);
        }
        let stats = self.stats();
        let (Some(oldest), Some(newest)) = (stats.oldest, stats.newest) else { return Ok(nothing) };
        let oldest = oldest.max(before);
        if oldest >= keep_from {
            return Ok(nothing);
        }
        // Samples of the future are no reason for longer steps.
        let span = keep_from.min(newest).saturating_sub(oldest).max(1);
        let excess = (held - goal) as f64 / held as f64;
        let step = ((span as f64 * excess) as i64).max(span / EVICT_STEPS).max(1);
        let before = oldest.saturating_add(step).min(keep_from);
        let expired = self.evict_before(before, budget)?;
        let finished = self.measure() <= goal || before == keep_from;
        Ok(Evicted { expired, before, finished })
    }
}

#[cfg(test)]
mod tests;
