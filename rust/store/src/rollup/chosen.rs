//! Queries that choose which records stand: those of one level, and those that were fetched from elsewhere.

use std::sync::Arc;

use hashbrown::HashMap;
use metricsdb_model::source::Bound;
use metricsdb_model::{Budget, Labels, Predicate, Result, SeriesSet, Source, TimeRange};

use super::Packed;
use crate::database::Database;
use crate::shard::id_of;
use crate::view::{ByShard, Kinds, View};

/// What a series with fetched records takes in their table, its text aside.
const ROW_BYTES: usize = 96;

/// Records of one series in several stores.
pub(crate) struct Elsewhere {
    pub labels: Labels,
    /// Those that stand first where several have a bucket come first.
    pub records: Vec<Arc<Packed>>,
}

/// A store for queries that choose what stands for samples. Where a series has no records of the level, or they end, the rest
/// answers as ever.
#[derive(Clone)]
pub struct Chosen {
    pub store: Arc<Database>,
    /// Records of this width, in milliseconds, stand wherever they are made, though samples or finer records are there.
    pub level: Option<i64>,
    /// Stores of records alone: they stand beside those of `store`, of which each stands first, then that of the first one.
    pub fetched: Vec<Arc<Database>>,
}

impl Chosen {
    /// Series that the predicate takes and that have something in the range. Errors: the budget's, `Corruption`.
    pub fn view(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<View<'_>> {
        let store = &*self.store;
        let _inside = store.inside();
        let ids = store.index.select(predicate, store, budget)?;
        let mut view = store.capture(&ids, range, Kinds::WithRecords, budget)?;
        view.choose(range, self.level, self.elsewhere(predicate, budget)?)?;
        Ok(view)
    }

    /// Fetched records by the hash of their series.
    fn elsewhere(&self, predicate: &Predicate, budget: &Budget) -> Result<HashMap<u64, Elsewhere>> {
        let mut found: HashMap<u64, Elsewhere> = HashMap::new();
        for store in &self.fetched {
            let _inside = store.inside();
            let by_shard = ByShard::new(&store.index.select(predicate, &**store, budget)?, budget)?;
            let mut rows = Vec::new();
            by_shard.each(store, budget, |shard, some| {
                for &row in some {
                    let packed = shard.rollups.get(row).cloned();
                    rows.extend(packed.map(|p| (shard.series.hashes[row], id_of(shard.number, row), p)));
                }
                Ok(())
            })?;
            for (i, (hash, id, packed)) in rows.into_iter().enumerate() {
                budget.check_at(i)?;
                if let Some(known) = found.get_mut(&hash) {
                    known.records.push(packed);
                    continue;
                }
                let labels = store.labels_of_id(id);
                budget.keep(ROW_BYTES + labels.heap_bytes())?;
                found.insert(hash, Elsewhere { labels, records: vec![packed] });
            }
        }
        Ok(found)
    }
}

impl Source for Chosen {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        Ok(Box::new(self.view(predicate, range, budget)?))
    }

    /// Points that stand for samples are no more than these; beside them samples that survived are read.
    fn bound(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Option<Bound>> {
        let mut all = self.store.bound_of(predicate, range, budget)?;
        for store in &self.fetched {
            let one = store.bound_of(predicate, range, budget)?;
            all.series = all.series.saturating_add(one.series);
            all.samples = all.samples.saturating_add(one.samples);
            all.width = all.width.saturating_add(one.width);
        }
        let twice = |figure: u64| figure.saturating_mul(2);
        let samples = twice(all.samples);
        let mixed = if self.fetched.is_empty() || all.mixed == 0 { twice(all.mixed) } else { samples };
        Ok(Some(Bound { series_min: 0, samples_min: 0, samples, mixed, bytes: u64::MAX, ..all }))
    }

    fn label_size(&self, label: &str) -> Option<u64> {
        self.stores().map(|store| store.label_size(label)).sum()
    }

    fn samples_at_most(&self) -> Option<u64> {
        self.stores().map(|store| Some(store.samples_ever().saturating_mul(2))).sum()
    }
}

impl Chosen {
    fn stores(&self) -> impl Iterator<Item = &Database> {
        std::iter::once(&*self.store).chain(self.fetched.iter().map(|store| &**store))
    }
}
