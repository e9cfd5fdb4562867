//! How far back what was written changes what a query would answer.

use std::sync::atomic::{AtomicI64, Ordering::AcqRel};

/// The lowest time (ms) of all samples that were written, or changed, since somebody asked.
pub struct Written(AtomicI64);

impl Default for Written {
    fn default() -> Written {
        Written(AtomicI64::new(i64::MAX))
    }
}

impl Written {
    /// To be called when the samples can be read, and before the call that wrote them returns. `i64::MIN` where
    /// samples of any time may have changed. Always writes: one that only looked whether a lower time stands there
    /// could look before its samples can be read.
    pub fn note(&self, lowest: i64) {
        self.0.fetch_min(lowest, AcqRel);
    }

    /// Forgets it, and gives it: `i64::MAX` for nothing.
    pub fn take(&self) -> i64 {
        self.0.swap(i64::MAX, AcqRel)
    }
}
