//! Queries that choose a level themselves.

use std::sync::Arc;

use metricsdb_model::source::Bound;
use metricsdb_model::{Budget, Predicate, Result, SeriesSet, Source, TimeRange};

use crate::database::Database;
use crate::view::{Kinds, View};

impl Database {
    /// As `select_exact`, with records of native histograms. Errors: the budget's.
    pub fn select_records(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<View<'_>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        self.capture(&ids, range, Kinds::NumbersAndHistograms, None, budget)
    }

    /// As `Source::select`. `level`: records of this width stand wherever they are made.
    pub(crate) fn select_at(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        level: Option<i64>,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + '_>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        Ok(Box::new(self.capture(&ids, range, Kinds::NumbersAndHistograms, level, budget)?))
    }
}

/// A store for queries that want records of one width, though samples or finer records are there: of samples there are those
/// that no such record stands for. Where a series has no such level, or it ends, the rest answers as ever.
#[derive(Clone)]
pub struct AtLevel {
    pub store: Arc<Database>,
    /// Milliseconds.
    pub every: i64,
}

impl Source for AtLevel {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        self.store.select_at(predicate, range, Some(self.every), budget)
    }

    /// Points that stand for samples are no more than these; beside them samples that survived are read.
    fn bound(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Option<Bound>> {
        let all = self.store.bound_of(predicate, range, budget)?;
        let twice = |figure: u64| figure.saturating_mul(2);
        let (samples, mixed) = (twice(all.samples), twice(all.mixed));
        Ok(Some(Bound { series_min: 0, samples_min: 0, samples, mixed, bytes: u64::MAX, ..all }))
    }

    fn label_size(&self, label: &str) -> Option<u64> {
        self.store.label_size(label)
    }

    fn samples_at_most(&self) -> Option<u64> {
        Some(self.store.samples_ever().saturating_mul(2))
    }
}
