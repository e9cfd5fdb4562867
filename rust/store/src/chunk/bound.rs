//! How much of a chunk lies in a range, from its head and the heads of its blocks of times.

use metricsdb_model::{Result, TimeRange};

use super::{Chunk, Parts};

impl Chunk {
    /// Samples in `range`, exactly. Only blocks of irregular times that the range cuts are decoded. Errors:
    /// `Corruption`.
    pub fn count_within(&self, range: TimeRange) -> Result<usize> {
        let (from, to) = Parts::parse(self)?.places(range)?;
        Ok(to.saturating_sub(from))
    }

    /// What chunks with the same column of times have in common; `None` for regular times.
    pub fn times_key(&self) -> Option<(usize, i64, usize)> {
        if self.is_regular() {
            return None;
        }
        let times = self.block.shared()?.times();
        Some((times.as_ptr() as usize, self.first(), self.count()))
    }
}
