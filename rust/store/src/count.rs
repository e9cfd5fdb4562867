//! How many series have a sample at one time: the newest ones are looked at where they stand, and none is copied.

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Budget, Grouping, Labels, Predicate, Result, SeriesSet, TimeRange};

use crate::database::Database;
use crate::shard::{Shard, id_of};
use crate::view::{ByShard, Kinds, Part, Taken, View};

#[derive(Default)]
struct Counted {
    /// Series whose newest sample lies in the range, and those of them where it is no staleness marker.
    found: u64,
    present: u64,
    /// The latter, where they are to be grouped.
    ids: Vec<u32>,
    /// Series that are to be looked at again: with histograms, or with newer samples than the range has.
    rest: Part,
}

impl Counted {
    fn add(&mut self, id: u32, value: f64, grouped: bool) {
        self.found += 1;
        if !is_stale(value) {
            self.present += 1;
            if grouped {
                self.ids.push(id);
            }
        }
    }

    fn look(&mut self, shard: &Shard, row: u32, range: TimeRange, grouped: bool) {
        let state = &shard.series.heads[row].state;
        let is_known = !state.is_empty() && range.contains(state.last_time());
        if is_known && shard.histograms.get(row).is_none() {
            self.add(id_of(shard.number, row), state.kind().widen(state.last_bits()), grouped);
        } else {
            self.rest.capture(shard, row, range, Kinds::NumbersAndHistograms);
        }
    }
}

impl Taken for Counted {
    fn bytes(&self) -> usize {
        self.ids.capacity() * size_of::<u32>() + self.rest.bytes()
    }

    fn reserve(&mut self, parts: &[Counted]) {
        self.ids.reserve_exact(parts.iter().map(|part| part.ids.len()).sum());
    }

    fn append(&mut self, mut other: Counted) {
        self.found += other.found;
        self.present += other.present;
        self.ids.append(&mut other.ids);
        self.rest.append(other.rest);
    }
}

impl Database {
    /// See `Source::count_newest`.
    pub(crate) fn count_of_newest(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        grouping: &Grouping,
        budget: &Budget,
    ) -> Result<Option<Vec<(Labels, u64)>>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let grouped = !matches!(grouping, Grouping::By(names) if names.is_empty());
        let mut counted = Counted::default();
        let take = |part: &mut Counted, shard: &Shard, rows: &[u32]| {
            part.ids.reserve(if grouped { rows.len() } else { 0 });
            rows.iter().for_each(|&row| part.look(shard, row, range, grouped));
        };
        by_shard.take(self, budget, take, &mut counted)?;
        let rest = View::new(self, std::mem::take(&mut counted.rest), budget);
        // Points that stand for samples are to be remarked on.
        if rest.any_histograms() || rest.any_rolled() {
            return Ok(None);
        }
        for (i, id) in rest.ids().enumerate() {
            budget.check_at(i)?;
            if let Some((_, value)) = rest.newest(i, range)? {
                counted.add(id, value, grouped);
            }
        }
        budget.take_samples(counted.found)?;
        if !grouped {
            let all = (counted.present > 0).then(|| (Labels::empty(), counted.present));
            return Ok(Some(all.into_iter().collect()));
        }
        let groups = self.group(counted.ids.iter().copied(), grouping, budget)?;
        let mut counts = vec![0; groups.labels.len()];
        groups.of.iter().for_each(|&group| counts[group as usize] += 1);
        Ok(Some(groups.labels.into_iter().zip(counts).collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use metricsdb_model::batch::Columns;
    use metricsdb_model::sample::stale;
    use metricsdb_model::{Source, Values};
    use proptest::prelude::*;

    use super::*;
    use crate::database::Options;

    proptest! {
        #[test]
        fn counts_are_those_of_the_newest_samples(
            series in prop::collection::vec(prop::collection::vec((0i64..60, 0..4), 0..40), 1..12),
            (start, length) in (0i64..60, 0i64..60),
            samples_per_chunk in prop_oneof![Just(4usize), Just(128)],
            by in prop_oneof![Just(vec![]), Just(vec!["g"]), Just(vec!["g", "i"]), Just(vec!["none"])],
        ) {
            let db = Database::new(Options { samples_per_chunk, ..Options::default() });
            let labels = |i: usize| Labels::from_pairs([("g", (i % 3).to_string()), ("i", i.to_string())]).unwrap();
            let names: Vec<Labels> = (0..series.len()).map(labels).collect();
            let (ids, _) = db.register(&names).unwrap();
            for (&id, samples) in ids.iter().zip(&series) {
                let times: Vec<i64> = samples.iter().map(|s| s.0).collect();
                let values: Vec<f64> =
                    samples.iter().map(|s| if s.1 == 0 { stale() } else { f64::from(s.1) }).collect();
                let ids = vec![id; times.len()];
                let columns = Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) };
                db.append_columns(columns).unwrap();
            }
            let range = TimeRange::new(start, start + length);
            let (every, budget) = (Predicate::All(Vec::new()), Budget::unlimited());
            let grouping = Grouping::By(by.iter().map(|name| (*name).to_owned()).collect());
            let view = db.select(&every, range, &budget).unwrap();
            let mut wanted: BTreeMap<Labels, u64> = BTreeMap::new();
            for i in 0..view.len() {
                if view.newest(i, range).unwrap().is_some_and(|(_, v)| !is_stale(v)) {
                    *wanted.entry(grouping.apply(&view.labels(i))).or_default() += 1;
                }
            }
            let found = db.count_newest(&every, range, &grouping, &budget).unwrap().unwrap();
            prop_assert_eq!(found.len(), wanted.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), wanted);
        }
    }
}
