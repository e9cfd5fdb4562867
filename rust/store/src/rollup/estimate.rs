//! What a pass would come to: counted by the heads of chunks, and tried on some of its series without keeping anything.

use metricsdb_model::{Budget, Result, TimeRange};

use super::roll::{Pass, Rolled, Rule, Step};
use crate::database::Database;
use crate::shard::{SHARDS, Shard};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Series that have something to do, and the samples of theirs that would be read, late ones' buckets aside.
    pub series: u64,
    pub samples: u64,
    /// What the series that were tried came to, and the bytes that they hold more than before.
    pub tried: Rolled,
    pub bytes: u64,
}

impl Shard {
    /// Samples that a step reads of a row.
    fn samples_due(&self, row: u32, step: &Step) -> Result<u64> {
        let made = self.rollups.get(row).and_then(|series| series.finest()).map_or(i64::MIN, |f| f.1);
        let range = TimeRange::new(made.saturating_add(1), step.horizon);
        if let Some(histograms) = self.histograms.get(row) {
            return Ok(histograms.count_at_most(range) as u64);
        }
        let mut count = 0;
        for chunk in self.series.sealed[row].overlapping(range) {
            count += chunk.count_within(range)? as u64;
        }
        let head = &self.series.heads[row];
        let open = if self.open_overlaps(head, range) { head.state.count() } else { 0 };
        Ok(count + open as u64)
    }
}

impl Database {
    /// Counts what `roll` would do in a pass over all series, and does it for one in `nth` of them (0: for none) without keeping
    /// it. Linear in the chunks chosen, and in the samples of what is tried. Errors: the budget's.
    pub fn roll_estimate(&self, rules: &[Rule], pass: Pass, nth: u64, budget: &Budget) -> Result<Estimate> {
        let _inside = self.inside();
        let mut all = Estimate::default();
        for (rule, step, by_shard) in self.rolled_by(rules, pass, budget)? {
            for number in 0..SHARDS {
                for &row in by_shard.rows(number) {
                    budget.check()?;
                    let shard = self.shard(number);
                    if !shard.series.has(row) || !shard.roll_due(row, &step, pass.batch.max(1)) {
                        continue;
                    }
                    all.series += 1;
                    all.samples += shard.samples_due(row, &step)?;
                    if nth == 0 || !all.series.is_multiple_of(nth) {
                        continue;
                    }
                    let before = shard.rollups.get(row).map_or(0, |series| series.bytes());
                    let kind = self.kind_of_row(&shard, row, rule)?;
                    let series = shard.rolled(row, kind, &step, &mut all.tried)?;
                    all.bytes += self.rolled.pack(series).bytes().saturating_sub(before) as u64;
                }
            }
        }
        Ok(all)
    }
}
