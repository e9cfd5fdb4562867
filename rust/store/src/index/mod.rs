//! Which series carry which labels: postings per label value, and selectors answered from them.
//!
//! Derived from the shards' label sets; `Database::check` proves it. A series is visible when `add` returns. Each
//! label has its own lock, held for one series or one block of values at a time, so that a spike of new
//! series and a long scan do not stop each other.

mod gather;
mod label;
mod leaf;
mod postings;
mod report;
mod select;

#[cfg(test)]
mod naive;

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Predicate, Result};
use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use crate::bound::Counted;
use crate::symbols::Symbols;
use label::Label;
pub use report::{Cardinality, LabelBytes};
use select::{Selection, Set};

/// The way back from a series to its labels, which the shards own.
pub trait Forward: Sync {
    /// The value symbol of the label `name` in series `id`; `None` where it has none. The index holds
    /// no lock while it asks.
    fn value(&self, id: u32, name: u32) -> Option<u32>;
}

pub struct Index {
    symbols: Arc<Symbols>,
    /// By name symbol.
    labels: RwLock<HashMap<u32, Arc<Label>>>,
    /// Every series that is complete in all postings. Whoever selects keeps a snapshot, so that a series
    /// that is being added meanwhile is not judged by half of its labels.
    all: Mutex<Arc<RoaringBitmap>>,
    /// Labels with a long tail of unsorted values.
    unsorted: Mutex<Vec<Arc<Label>>>,
}

impl Index {
    pub fn new(symbols: Arc<Symbols>) -> Index {
        Index { symbols, labels: RwLock::default(), all: Mutex::default(), unsorted: Mutex::default() }
    }

    /// Makes the series `id` findable by its name and value symbols. Fails with `Error::Limit` when the
    /// memory that 32-bit addresses reach is used up. Call `settle` after a batch of new series.
    pub fn add(&self, id: u32, pairs: &[(u32, u32)]) -> Result<()> {
        for &(name, value) in pairs {
            let known = self.labels.read();
            let long = match known.get(&name) {
                Some(label) => label.insert(value, id)?.then(|| label.clone()),
                None => {
                    drop(known);
                    let label = self.labels.write().entry(name).or_default().clone();
                    label.insert(value, id)?.then_some(label)
                }
            };
            if let Some(label) = long {
                self.unsorted.lock().push(label);
            }
        }
        Arc::make_mut(&mut self.all.lock()).insert(id);
        Ok(())
    }

    /// Makes series unfindable, before their pairs are taken out of the postings.
    pub fn hide(&self, ids: &RoaringBitmap) {
        *Arc::make_mut(&mut self.all.lock()) -= ids;
    }

    /// Takes a hidden series out of the postings of its pairs. Call `compact` after many. Fails with `Error::Limit`
    /// as `add`; the id must not be given out again then.
    pub fn remove(&self, id: u32, pairs: impl Iterator<Item = (u32, u32)>) -> Result<()> {
        for (name, value) in pairs {
            if let Some(label) = self.labels.read().get(&name) {
                label.remove(value, id)?;
            }
        }
        Ok(())
    }

    /// Frees the room of values that no series has any more, where they are many; returns their symbols.
    pub fn compact(&self) -> Vec<u32> {
        let mut gone = Vec::new();
        self.labels_by_number().iter().for_each(|(_, label)| label.compact(&mut gone));
        gone.sort_unstable();
        gone.dedup();
        gone
    }

    /// Which of these symbols are neither a label's name nor a value that it has or had lately.
    pub fn unused(&self, symbols: &[u32]) -> Vec<u32> {
        let labels = self.labels_by_number();
        let is_name = |symbol: u32| labels.binary_search_by_key(&symbol, |l| l.0).is_ok();
        let mut unused: Vec<u32> = symbols.iter().copied().filter(|&s| !is_name(s)).collect();
        for (_, label) in &labels {
            let state = label.read();
            unused.retain(|&symbol| state.find(symbol).is_none());
        }
        unused
    }

    /// Sorts the values that came lately, where they are many. Nothing is wrong without it, but prefixes
    /// are then looked for among unsorted values. Costs a microsecond or two a new value; call it once a
    /// batch, with no lock held: it stops neither readers nor writers.
    pub fn settle(&self) {
        let labels = std::mem::take(&mut *self.unsorted.lock());
        labels.iter().for_each(|label| label.sort_tail(&self.symbols));
    }

    /// Every series there is.
    pub fn all(&self) -> Arc<RoaringBitmap> {
        self.all.lock().clone()
    }

    /// The series that satisfy `predicate`, by Prometheus' rule that an absent label is "". Fails when
    /// `budget` runs out.
    pub fn select(
        &self,
        predicate: &Predicate,
        forward: &dyn Forward,
        budget: &Budget,
    ) -> Result<RoaringBitmap> {
        let all = self.all();
        let selection = Selection { index: self, forward, budget };
        Ok(match selection.eval(predicate, None)? {
            Set::In(ids) => ids & &*all,
            Set::Out(ids) => &*all - ids,
        })
    }

    /// As `select` where that tests at most `values_max` label values. Else the parts of the predicate that are
    /// cheap choose a superset, if there are any, and the count says that it is one.
    pub fn select_cheaply(
        &self,
        predicate: &Predicate,
        forward: &dyn Forward,
        budget: &Budget,
        values_max: u64,
    ) -> Result<(Option<RoaringBitmap>, Counted)> {
        let selection = Selection { index: self, forward, budget };
        if selection.values_tested(predicate) <= values_max {
            let ids = self.select(predicate, forward, budget)?;
            let count = Counted::Exactly(ids.len());
            return Ok((Some(ids), count));
        }
        let Predicate::All(parts) = predicate else {
            return Ok((None, Counted::AtMost(self.all().len())));
        };
        let mut left = values_max;
        let cheap = parts.iter().filter(|part| {
            let tested = selection.values_tested(part);
            let fits = tested <= left;
            left -= if fits { tested } else { 0 };
            fits
        });
        let cheap = Predicate::All(cheap.cloned().collect());
        let ids = self.select(&cheap, forward, budget)?;
        if ids.len() <= values_max / 8 {
            // So few series are left that the dear parts are asked of them alone.
            let ids = self.select(predicate, forward, budget)?;
            let count = Counted::Exactly(ids.len());
            return Ok((Some(ids), count));
        }
        let count = Counted::AtMost(ids.len());
        Ok((Some(ids), count))
    }

    /// How many values a label has.
    pub fn label_size(&self, name: &str) -> u64 {
        self.label(name).map_or(0, |label| label.read().values() as u64)
    }

    /// Whether some series has this value of a label.
    pub fn has_value(&self, name: &str, value: &str) -> bool {
        let (label, value) = (self.label(name), self.symbols.lookup(value));
        label.zip(value).is_some_and(|(label, value)| {
            let state = label.read();
            state.find(value).is_some_and(|at| state.ids_len(at) > 0)
        })
    }

    fn label(&self, name: &str) -> Option<Arc<Label>> {
        let name = self.symbols.lookup(name)?;
        self.labels.read().get(&name).cloned()
    }

    /// Calls `f` with the value symbols of each label, and its name's. Linear in the number of values.
    pub fn each_value(&self, mut f: impl FnMut(u32, u32)) {
        for (name, label) in self.labels_by_number() {
            let state = label.read();
            state.entries.iter().filter(|e| e.posting.len > 0).for_each(|entry| f(name, entry.value));
        }
    }

    fn labels_by_number(&self) -> Vec<(u32, Arc<Label>)> {
        let mut labels: Vec<_> = self.labels.read().iter().map(|(n, l)| (*n, l.clone())).collect();
        labels.sort_unstable_by_key(|l| l.0);
        labels
    }

    /// The names of the labels that occur in `ids` (`None`: in any series), sorted.
    pub fn label_names(&self, ids: Option<&RoaringBitmap>, budget: &Budget) -> Result<Vec<String>> {
        let occurs = |label: &Label| {
            let has = &label.read().has;
            ids.map_or(!has.is_empty(), |ids| !has.is_disjoint(ids))
        };
        let mut names: Vec<String> = Vec::new();
        for (name, label) in self.labels_by_number() {
            budget.check()?;
            if occurs(&label) {
                names.push(self.symbols.get(name).to_owned());
            }
        }
        sort_owned(&mut names, budget, String::cmp)?;
        Ok(names)
    }

    /// The values of one label that occur in `ids` (`None`: in any series), sorted.
    pub fn label_values(
        &self,
        name: &str,
        ids: Option<&RoaringBitmap>,
        forward: &dyn Forward,
        budget: &Budget,
    ) -> Result<Vec<String>> {
        let (Some(label), Some(name)) = (self.label(name), self.symbols.lookup(name)) else {
            return Ok(Vec::new());
        };
        let mut values: Vec<u32> = Vec::new();
        let few = |ids: &&RoaringBitmap| ids.len() < label.read().entries.len() as u64 / 4;
        if let Some(ids) = ids.filter(few) {
            for (i, id) in ids.iter().enumerate() {
                budget.check_at(i)?;
                values.extend(forward.value(id, name));
            }
            values.sort_unstable();
            values.dedup();
        } else {
            values = label.steadily(|| {
                let mut values: Vec<u32> = Vec::new();
                let positions = label.read().positions();
                for block in positions.chunks(2048) {
                    budget.check()?;
                    let state = label.read();
                    let occurs = |ids: &RoaringBitmap, at: u32| leaf::meets(state.ids(at), ids);
                    let occurring = block.iter().filter(|&&at| match ids {
                        Some(ids) => occurs(ids, at),
                        None => state.ids_len(at) > 0,
                    });
                    values.extend(occurring.map(|&at| state.value(at)));
                }
                Ok(values)
            })?;
        }
        let mut texts: Vec<String> = Vec::with_capacity(values.len());
        for (i, value) in values.into_iter().enumerate() {
            budget.check_at(i)?;
            texts.push(self.symbols.get(value).to_owned());
        }
        budget.keep(texts.iter().map(|text| text.len() + size_of::<String>() + 16).sum())?;
        sort_owned(&mut texts, budget, String::cmp)?;
        Ok(texts)
    }
}
