//! What a call may spend. Every long loop asks once per block of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const TIMED_OUT: u8 = 2;

/// The switch that ends a call from outside. Rust reads no clock: whoever owns time pulls it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    pub fn cancel(&self) {
        self.0.store(CANCELLED, Relaxed);
    }

    pub fn time_out(&self) {
        self.0.store(TIMED_OUT, Relaxed);
    }
}

/// Limits of one call, shared by all threads that work for it.
#[derive(Debug)]
pub struct Budget {
    stop: Stop,
    /// Milliseconds the caller allowed; only for the message of the error.
    timeout_ms: u64,
    samples_max: u64,
    samples: AtomicU64,
    /// The largest block that was held.
    held: AtomicU64,
    counts: bool,
}

impl Budget {
    pub fn new(stop: Stop, timeout_ms: u64, samples_max: u64) -> Budget {
        let (samples, held) = (AtomicU64::new(0), AtomicU64::new(0));
        Budget { stop, timeout_ms, samples_max, samples, held, counts: true }
    }

    /// For work that is done over again: it stops with this one, and counts nothing once more.
    pub fn uncounted(&self) -> Budget {
        Budget { counts: false, ..Budget::new(self.stop.clone(), self.timeout_ms, u64::MAX) }
    }

    /// For one more query in the same call: the same limits, counted anew.
    pub fn fresh(&self) -> Budget {
        Budget::new(self.stop.clone(), self.timeout_ms, self.samples_max)
    }

    /// Whether samples are counted for the first time here.
    pub fn counts(&self) -> bool {
        self.counts
    }

    pub fn samples_max(&self) -> u64 {
        self.samples_max
    }

    /// No limit at all: for tests and for work that is bounded by its input.
    pub fn unlimited() -> Budget {
        Budget::new(Stop::default(), 0, u64::MAX)
    }

    /// Fails once the call was cancelled or timed out.
    #[inline]
    pub fn check(&self) -> Result<()> {
        match self.stop.0.load(Relaxed) {
            RUNNING => Ok(()),
            TIMED_OUT => Err(Error::Timeout { timeout_ms: self.timeout_ms }),
            _ => Err(Error::Cancelled),
        }
    }

    /// Counts samples that were loaded or made, and checks: call it once per series or block.
    #[inline]
    pub fn take_samples(&self, count: u64) -> Result<()> {
        let used = self.samples.fetch_add(count, Relaxed) + count;
        if used > self.samples_max {
            return Err(Error::Limit {
                what: "samples loaded by one query",
                limit: self.samples_max,
                needed: used,
                remedy: "narrow the selector or the time range, or raise max_samples",
            });
        }
        self.check()
    }

    /// Fails when `count` values may not stand in memory at once. What an evaluation makes is not
    /// counted again in `samples_used`, but it meets the same limit.
    pub fn hold_samples(&self, count: u64) -> Result<()> {
        self.held.fetch_max(count, Relaxed);
        if count > self.samples_max {
            return Err(Error::Limit {
                what: "samples held by one query",
                limit: self.samples_max,
                needed: count,
                remedy: "narrow the selector, the time range or the steps, or raise max_samples",
            });
        }
        self.check()
    }

    /// The most values that one block of the evaluation held.
    pub fn samples_held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub fn samples_used(&self) -> u64 {
        self.samples.load(Relaxed)
    }
}
