//! What a query at one time sees: the newest sample of most series stands in the state of their open chunk, so
//! nothing of the chunk is copied. A million series take 20 bytes each.

use metricsdb_model::source::Groups;
use metricsdb_model::{
    Budget, Grouping, Histogram, HistogramSamples, Labels, Result, Samples, SeriesSet, Summary, TimeRange,
    Wants,
};
use roaring::RoaringBitmap;

use crate::database::Database;
use crate::shard::{Shard, id_of};
use crate::view::{ByShard, Kinds, Part, Taken, View};

/// The newest sample in a range of chosen series.
pub struct NewestView<'a> {
    /// The series whose newest sample is known, and it.
    ids: Vec<u32>,
    samples: Vec<(i64, f64)>,
    /// Those behind them: with histograms, with starts, or with newer samples than the range has.
    rest: View<'a>,
}

#[derive(Default)]
struct Known {
    ids: Vec<u32>,
    samples: Vec<(i64, f64)>,
    rest: Part,
}

impl Known {
    fn capture(&mut self, shard: &Shard, row: u32, range: TimeRange) {
        let state = &shard.series.heads[row].state;
        let is_known = !state.is_empty() && range.contains(state.last_time());
        if is_known && shard.histograms.get(row).is_none() && shard.starts.get(row).is_none() {
            self.ids.push(id_of(shard.number, row));
            self.samples.push((state.last_time(), state.kind().widen(state.last_bits())));
        } else {
            self.rest.capture(shard, row, range, Kinds::NumbersAndHistograms);
        }
    }
}

impl Taken for Known {
    fn bytes(&self) -> usize {
        self.ids.capacity() * size_of::<u32>()
            + self.samples.capacity() * size_of::<(i64, f64)>()
            + self.rest.bytes()
    }

    fn reserve(&mut self, parts: &[Known]) {
        self.ids.reserve_exact(parts.iter().map(|part| part.ids.len()).sum());
        self.samples.reserve_exact(parts.iter().map(|part| part.samples.len()).sum());
    }

    fn append(&mut self, mut other: Known) {
        self.ids.append(&mut other.ids);
        self.samples.append(&mut other.samples);
        self.rest.append(other.rest);
    }
}

impl Database {
    pub(crate) fn capture_newest(
        &self,
        ids: &RoaringBitmap,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<NewestView<'_>> {
        let by_shard = ByShard::new(ids, budget)?;
        let mut known = Known::default();
        let take = |part: &mut Known, shard: &Shard, rows: &[u32]| {
            part.ids.reserve(rows.len());
            part.samples.reserve(rows.len());
            rows.iter().for_each(|&row| part.capture(shard, row, range));
        };
        by_shard.take(self, budget, take, &mut known)?;
        Ok(NewestView { ids: known.ids, samples: known.samples, rest: View::new(self, known.rest, budget) })
    }
}

impl NewestView<'_> {
    /// The sample of a known series, or the index of another in `rest`.
    #[inline]
    fn place(&self, index: usize) -> std::result::Result<(i64, f64), usize> {
        self.samples.get(index).copied().ok_or_else(|| index - self.samples.len())
    }
}

impl SeriesSet for NewestView<'_> {
    fn len(&self) -> usize {
        self.ids.len() + self.rest.len()
    }

    fn labels(&self, index: usize) -> Labels {
        match self.ids.get(index) {
            Some(&id) => self.rest.store.labels_of_id(id),
            None => self.rest.labels(index - self.ids.len()),
        }
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        match self.place(index) {
            Ok((t, v)) => {
                if range.contains(t) {
                    out.push(t, v);
                }
                Ok(())
            }
            Err(other) => self.rest.read(other, range, out),
        }
    }

    #[inline]
    fn newest(&self, index: usize, range: TimeRange) -> Result<Option<(i64, f64)>> {
        match self.place(index) {
            Ok(sample) => Ok(Some(sample).filter(|s| range.contains(s.0))),
            Err(other) => self.rest.newest(other, range),
        }
    }

    fn has_histograms(&self, index: usize) -> bool {
        self.place(index).is_err_and(|other| self.rest.has_histograms(other))
    }

    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        self.place(index).map_or_else(|other| self.rest.read_histograms(other, range, out), |_| Ok(()))
    }

    fn histogram_before(&self, index: usize, time: i64) -> Result<Option<(i64, Histogram)>> {
        self.place(index).map_or_else(|other| self.rest.histogram_before(other, time), |_| Ok(None))
    }

    fn has_starts(&self, index: usize) -> bool {
        self.place(index).is_err_and(|other| self.rest.has_starts(other))
    }

    fn read_starts(&self, index: usize, timestamps: &[i64], out: &mut Vec<i64>) -> Result<()> {
        match self.place(index) {
            Ok(_) => {
                out.resize(out.len() + timestamps.len(), 0);
                Ok(())
            }
            Err(other) => self.rest.read_starts(other, timestamps, out),
        }
    }

    fn encoded_bytes(&self, index: usize, range: TimeRange) -> u64 {
        self.place(index).map_or_else(|other| self.rest.encoded_bytes(other, range), |_| 0)
    }

    fn codecs(&self, index: usize, range: TimeRange, names: &mut Vec<&'static str>) {
        match self.place(index) {
            Ok(_) if names.contains(&"open") => {}
            Ok(_) => names.push("open"),
            Err(other) => self.rest.codecs(other, range, names),
        }
    }

    fn summary(&self, index: usize, range: TimeRange, wants: Wants) -> Result<Option<Summary>> {
        self.place(index).map_or_else(|other| self.rest.summary(other, range, wants), |_| Ok(None))
    }

    fn resolution(&self, index: usize, range: TimeRange) -> i64 {
        self.place(index).map_or_else(|other| self.rest.resolution(other, range), |_| 0)
    }

    fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        self.rest.store.group(self.ids.iter().copied().chain(self.rest.ids()), grouping, budget)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use metricsdb_model::batch::Columns;
    use metricsdb_model::{Labels, Predicate, Source, Values};
    use proptest::prelude::*;

    use super::*;
    use crate::database::Options;

    type Found = BTreeMap<String, Option<(i64, u64)>>;

    fn found(set: &dyn SeriesSet, range: TimeRange) -> Found {
        let newest = |i| set.newest(i, range).unwrap().map(|(t, v)| (t, v.to_bits()));
        let rows = (0..set.len()).map(|i| (set.labels(i).to_string(), newest(i)));
        rows.filter(|(_, newest)| newest.is_some()).collect()
    }

    proptest! {
        #[test]
        fn the_newest_are_those_of_a_whole_view(
            series in prop::collection::vec(prop::collection::vec(0i64..60, 0..40), 1..12),
            (start, length) in (0i64..60, 0i64..60),
            samples_per_chunk in prop_oneof![Just(4usize), Just(128)],
        ) {
            let db = Database::new(Options { samples_per_chunk, ..Options::default() });
            let names: Vec<Labels> =
                (0..series.len()).map(|i| Labels::from_pairs([("i", i.to_string())]).unwrap()).collect();
            let (ids, _) = db.register(&names).unwrap();
            for (&id, times) in ids.iter().zip(&series) {
                let values: Vec<f64> = times.iter().map(|t| (t * 7 % 11) as f64).collect();
                let ids = vec![id; times.len()];
                let columns = Columns { ids: &ids, timestamps: times, values: Values::Float(&values) };
                db.append_columns(columns).unwrap();
            }
            let range = TimeRange::new(start, start + length);
            let every = Predicate::All(Vec::new());
            let budget = Budget::unlimited();
            let whole = db.select(&every, range, &budget).unwrap();
            let newest = db.select_newest(&every, range, &budget).unwrap();
            prop_assert_eq!(found(&*newest, range), found(&*whole, range));
            let grouping = Grouping::By(vec!["i".to_owned()]);
            let groups = newest.group(&grouping, &budget).unwrap();
            for i in 0..newest.len() {
                prop_assert_eq!(&groups.labels[groups.of[i] as usize], &newest.labels(i));
                let mut samples = Samples::default();
                newest.read(i, range, &mut samples).unwrap();
                let last = samples.timestamps.last().copied().zip(samples.values.last().copied());
                prop_assert_eq!(last, newest.newest(i, range).unwrap());
            }
        }
    }
}
