//! Which series there are, and their labels: without a sample of them.

use metricsdb_model::{Budget, Labels, Predicate, Result, TimeRange};
use roaring::RoaringBitmap;

use crate::database::Database;
use crate::shard::{Work, id_of};
use crate::view::ByShard;

impl Database {
    /// The series that satisfy one of the predicates (none given: every series) and have a sample in the
    /// range: their ids and label sets, in no particular order.
    pub fn series(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<(Vec<u64>, Vec<Labels>)> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.with_samples(predicates, range, budget)?, budget)?;
        budget.keep(by_shard.rows.len() * (size_of::<u64>() + size_of::<Labels>() + size_of::<u32>()))?;
        let mut ids = Vec::with_capacity(by_shard.rows.len());
        let mut sets = Vec::with_capacity(by_shard.rows.len());
        let mut text = Vec::new();
        by_shard.each(self, budget, |shard, rows| {
            let from = sets.len();
            for &row in rows {
                ids.push(shard.public_id(row));
                sets.push(self.labels_of(shard, row, &mut text));
            }
            budget.keep(sets[from..].iter().map(Labels::heap_bytes).sum())
        })?;
        Ok((ids, sets))
    }

    /// The names of all labels of such series, sorted.
    pub fn label_names(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<String>> {
        let _inside = self.inside();
        let ids = self.with_samples(predicates, range, budget)?;
        self.index.label_names(self.unless_all(&ids), budget)
    }

    /// The values of one label of such series, sorted.
    pub fn label_values(
        &self,
        name: &str,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<String>> {
        let _inside = self.inside();
        let ids = self.with_samples(predicates, range, budget)?;
        self.index.label_values(name, self.unless_all(&ids), self, budget)
    }

    fn unless_all<'i>(&self, ids: &'i RoaringBitmap) -> Option<&'i RoaringBitmap> {
        (ids.len() != self.index.all().len()).then_some(ids)
    }

    fn with_samples(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<RoaringBitmap> {
        let mut chosen = RoaringBitmap::new();
        if predicates.is_empty() {
            chosen |= &*self.index.all();
        }
        for predicate in predicates {
            chosen |= self.index.select(predicate, self, budget)?;
        }
        let by_shard = ByShard::new(&chosen, budget)?;
        let mut work = Work::default();
        by_shard.each(self, budget, |shard, rows| {
            for &row in rows {
                if !shard.has_sample(row, range, &mut work)? {
                    chosen.remove(id_of(shard.number, row));
                }
            }
            Ok(())
        })?;
        Ok(chosen)
    }
}
