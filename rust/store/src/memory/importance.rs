//! Whose samples are refused first where memory is short: those of series of low importance, by ordered rules.
//!
//! The series are found once, when the rules change; one that is made later finds its rule itself.

use std::sync::Arc;

use metricsdb_model::memory::Step;
use metricsdb_model::{Budget, LabelsRef, Predicate, Result, WriteReport};
use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use super::limit::SAMPLE_BYTES;
use crate::database::Database;
use crate::heap;

/// A rule of a series' importance: the first that takes a series holds.
#[derive(Clone, Debug)]
pub struct ImportanceRule {
    pub predicate: Predicate,
    /// Samples of these series are refused before those of others.
    pub is_low: bool,
}

#[derive(Default)]
pub(crate) struct Importance {
    /// Held while the rules change; before all other locks.
    changing: Mutex<()>,
    /// Taken with a shard locked, too: no shard is locked under it.
    rules: RwLock<Vec<ImportanceRule>>,
    /// Series that are low. Only those that have samples count: a row that is free may be among them.
    low: RwLock<Arc<RoaringBitmap>>,
}

impl Importance {
    /// Notes a series that was made now, under the lock of its shard.
    pub fn note_made(&self, id: u32, labels: LabelsRef<'_>) {
        let rules = self.rules.read();
        if rules.is_empty() {
            return;
        }
        let rule = rules.iter().find(|rule| rule.predicate.matches(labels));
        // The row may have had another series.
        match rule.is_some_and(|rule| rule.is_low) {
            true => _ = Arc::make_mut(&mut self.low.write()).insert(id),
            false => _ = Arc::make_mut(&mut self.low.write()).remove(id),
        }
    }

    pub fn bytes(&self) -> usize {
        heap::vector(&self.rules.read()) + self.low.read().serialized_size()
    }
}

impl Database {
    /// Replaces the rules that say whose samples are refused first where memory is short; none: all are alike. Costs a
    /// selection a rule. Errors: none but those of a selection.
    pub fn set_importance(&self, mut rules: Vec<ImportanceRule>) -> Result<()> {
        let importance = &self.importance;
        let _changing = importance.changing.lock();
        // Rules behind the last low one change nothing.
        rules.truncate(rules.iter().rposition(|rule| rule.is_low).map_or(0, |last| last + 1));
        {
            let mut current = importance.rules.write();
            current.clone_from(&rules);
            *importance.low.write() = Arc::default();
        }
        // Series that come from here on find their rule themselves; a row that is chosen now is nobody else's meanwhile.
        let _inside = self.inside();
        let governed = self.governed_by(rules.iter().map(|rule| &rule.predicate), &Budget::unlimited())?;
        for (ids, _) in governed.iter().zip(&rules).filter(|(_, rule)| rule.is_low) {
            *Arc::make_mut(&mut importance.low.write()) |= ids;
        }
        Ok(())
    }

    /// The series whose samples are to be refused, where so many samples are too many for those of low importance.
    pub(crate) fn refused_low(&self, count: usize) -> Option<Arc<RoaringBitmap>> {
        self.measure_when_due();
        self.limit.admit(Step::LowSamples, count as u64 * SAMPLE_BYTES).err()?;
        Some(self.importance.low.read().clone()).filter(|low| !low.is_empty())
    }

    /// Counts samples of low importance that were refused.
    pub(crate) fn refuse_low(&self, count: u64, report: &mut WriteReport) {
        if count > 0 {
            self.limit.count_refused(Step::LowSamples, count);
            report.refuse(Step::LowSamples, count, || self.limit.refusal(Step::LowSamples).to_string());
        }
    }
}

#[cfg(test)]
mod tests;
