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
use crate::view::{ByShard, Kinds, Part, View};

/// The newest sample in a range of chosen series.
pub struct NewestView<'a> {
    /// The series whose newest sample is known, and it.
    ids: Vec<u32>,
    samples: Vec<(i64, f64)>,
    /// Those behind them: with histograms, or with newer samples than the range has.
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
        if is_known && shard.histograms.get(row).is_none() {
            self.ids.push(id_of(shard.number, row));
            self.samples.push((state.last_time(), state.kind().widen(state.last_bits())));
        } else {
            self.rest.capture(shard, row, range, Kinds::NumbersAndHistograms);
        }
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
        let by_shard = ByShard::new(ids);
        let mut known = Known::default();
        known.ids.reserve(by_shard.rows.len());
        known.samples.reserve(by_shard.rows.len());
        let take = |part: &mut Known, shard: &Shard, rows: &[u32]| {
            rows.iter().for_each(|&row| part.capture(shard, row, range));
        };
        by_shard.take(self, budget, take, Known::append, &mut known)?;
        Ok(NewestView { ids: known.ids, samples: known.samples, rest: View::new(self, known.rest) })
    }
}

impl NewestView<'_> {
    /// The sample of a known series, or the index of another in `rest`.
    #[inline]
    fn place(&self, index: usize) -> std::result::Result<(i64, f64), usize> {
        self.samples.get(index).copied().ok_or(index - self.samples.len())
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

    fn summary(&self, index: usize, range: TimeRange, wants: Wants) -> Result<Option<Summary>> {
        self.place(index).map_or_else(|other| self.rest.summary(other, range, wants), |_| Ok(None))
    }

    fn group(&self, grouping: &Grouping) -> Groups {
        self.rest.store.group(self.ids.iter().copied().chain(self.rest.ids()), grouping)
    }
}
