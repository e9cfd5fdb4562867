//! Old samples leave memory: whole sealed chunks whose samples are all older than a time.

use metricsdb_model::{Budget, Result};

use crate::database::Database;
use crate::shard::SHARDS;

/// What left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub samples: u64,
    pub chunks: u64,
    pub series: u64,
    pub bytes: u64,
}

impl Database {
    /// Drops what is older than `before` (ms). Errors: the budget's.
    pub fn expire(&self, before: i64, budget: &Budget) -> Result<Expired> {
        let mut done = Expired::default();
        for number in 0..SHARDS {
            budget.check()?;
            let mut shard = self.shard(number);
            for row in 0..shard.series.len() as u32 {
                let old = shard.series.sealed[row].iter().take_while(|chunk| chunk.last() < before);
                let (mut count, mut samples, mut bytes) = (0, 0, 0);
                for chunk in old {
                    count += 1;
                    samples += chunk.count() as u64;
                    bytes += chunk.bytes() as u64;
                }
                if count > 0 {
                    shard.swap_sealed(row, 0, count, Vec::new());
                    done.chunks += count as u64;
                    done.samples += samples;
                    done.bytes += bytes;
                }
            }
        }
        self.written.note(i64::MIN);
        Ok(done)
    }
}
