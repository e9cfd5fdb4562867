//! How much of a chunk lies in a range, from its head and the heads of its blocks of times.

use metricsdb_model::{Result, TimeRange};

use super::column::TimeBlocks;
use super::{Chunk, Parts};

impl Chunk {
    /// Samples in `range`, exactly. Only blocks of irregular times that the range cuts are decoded. Errors:
    /// `Corruption`.
    pub fn count_within(&self, range: TimeRange) -> Result<usize> {
        let parts = Parts::parse(self)?;
        if let Some((_, from, to)) = parts.positions(range) {
            return Ok(to.saturating_sub(from));
        }
        let (mut count, mut times) = (0, Vec::new());
        for block in TimeBlocks::new(parts.times, parts.first, parts.count) {
            let block = block?;
            if block.last < range.start {
                continue;
            }
            if block.first > range.end {
                break;
            }
            if range.contains(block.first) && range.contains(block.last) {
                count += block.count;
                continue;
            }
            times.clear();
            block.decode(&mut times)?;
            count += times.iter().filter(|&&t| range.contains(t)).count();
        }
        Ok(count)
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
