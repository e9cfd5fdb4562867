//! Storage for tests, as plain as it can be: lists of samples, which are looked through one by one.

use std::collections::BTreeMap;

use metricsdb_model::{
    Bound, Budget, Histogram, HistogramSamples, Labels, Predicate, Result, Samples, SeriesSet, Source,
    TimeRange,
};

/// Samples of one series, ascending in time.
pub(crate) trait Line: Send + Sync {
    const MAY_HOLD_HISTOGRAMS: bool;
    fn samples(&self) -> impl DoubleEndedIterator<Item = (i64, Sample<&Histogram>)>;
}

/// A sample, whose histogram is owned or borrowed.
#[derive(Clone, Debug)]
pub(crate) enum Sample<H = Histogram> {
    Number(f64),
    Histogram(H),
}

pub(crate) type Numbers = Vec<(i64, f64)>;
/// Samples of both kinds.
pub(crate) type Mixed = BTreeMap<i64, Sample>;

impl Line for Numbers {
    const MAY_HOLD_HISTOGRAMS: bool = false;

    fn samples(&self) -> impl DoubleEndedIterator<Item = (i64, Sample<&Histogram>)> {
        self.iter().map(|&(t, value)| (t, Sample::Number(value)))
    }
}

impl Line for Mixed {
    const MAY_HOLD_HISTOGRAMS: bool = true;

    fn samples(&self) -> impl DoubleEndedIterator<Item = (i64, Sample<&Histogram>)> {
        self.iter().map(|(&t, sample)| match sample {
            Sample::Number(value) => (t, Sample::Number(*value)),
            Sample::Histogram(histogram) => (t, Sample::Histogram(histogram)),
        })
    }
}

/// Bounds what it holds by counting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plain<L = Numbers>(pub Vec<(Labels, L)>);

struct Found<'a, L>(Vec<&'a (Labels, L)>);

impl<L: Line> Plain<L> {
    fn found(&self, predicate: &Predicate) -> Found<'_, L> {
        Found(self.0.iter().filter(|(labels, _)| predicate.matches(labels.as_ref())).collect())
    }
}

impl<L: Line> Source for Plain<L> {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        _: TimeRange,
        _: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        Ok(Box::new(self.found(predicate)))
    }

    fn bound(&self, predicate: &Predicate, range: TimeRange, _: &Budget) -> Result<Option<Bound>> {
        let found = self.found(predicate);
        let all = |range| (0..found.len()).map(|i| found.cost(i, range)).sum::<u64>();
        let (series, samples) = (found.len() as u64, all(range));
        Ok(Some(Bound {
            series_min: series,
            series,
            samples_min: samples,
            samples,
            bytes: 16 * all(TimeRange::ALL),
            ..Bound::default()
        }))
    }

    fn label_size(&self, label: &str) -> Option<u64> {
        let mut values: Vec<&str> = self.0.iter().filter_map(|(l, _)| l.get(label)).collect();
        values.sort_unstable();
        values.dedup();
        Some(values.len() as u64)
    }

    fn samples_at_most(&self) -> Option<u64> {
        let found = self.found(&Predicate::All(Vec::new()));
        Some((0..found.len()).map(|i| found.cost(i, TimeRange::ALL)).sum())
    }
}

impl<L: Line> Found<'_, L> {
    fn samples(&self, index: usize, range: TimeRange) -> impl Iterator<Item = (i64, Sample<&Histogram>)> {
        self.0[index].1.samples().filter(move |(t, _)| range.contains(*t))
    }

    /// What reading a series takes of a budget.
    fn cost(&self, index: usize, range: TimeRange) -> u64 {
        let cost = |sample| match sample {
            Sample::Number(_) => 1,
            Sample::Histogram(histogram) => {
                let mut one = HistogramSamples::default();
                one.push(0, Histogram::clone(histogram));
                one.cost(0)
            }
        };
        self.samples(index, range).map(|(_, sample)| cost(sample)).sum()
    }
}

impl<L: Line> SeriesSet for Found<'_, L> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, index: usize) -> Labels {
        self.0[index].0.clone()
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        for (t, sample) in self.samples(index, range) {
            if let Sample::Number(value) = sample {
                out.push(t, value);
            }
        }
        Ok(())
    }

    fn has_histograms(&self, _: usize) -> bool {
        L::MAY_HOLD_HISTOGRAMS
    }

    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        for (t, sample) in self.samples(index, range) {
            if let Sample::Histogram(histogram) = sample {
                out.push(t, histogram.clone());
            }
        }
        Ok(())
    }

    fn histogram_before(&self, index: usize, time: i64) -> Result<Option<(i64, Histogram)>> {
        let mut before = self.0[index].1.samples().rev().filter(|(t, _)| *t < time);
        Ok(before.find_map(|(t, sample)| match sample {
            Sample::Histogram(histogram) => Some((t, histogram.clone())),
            Sample::Number(_) => None,
        }))
    }

    fn encoded_bytes(&self, index: usize, _: TimeRange) -> u64 {
        16 * self.cost(index, TimeRange::ALL)
    }

    fn codecs(&self, _: usize, _: TimeRange, names: &mut Vec<&'static str>) {
        if names.is_empty() {
            names.push("plain");
        }
    }
}

/// Samples at their times, from the gaps before them.
pub(crate) fn after_gaps<T>(gaps: Vec<(i64, T)>) -> impl Iterator<Item = (i64, T)> {
    let mut now = 0;
    gaps.into_iter().map(move |(gap, sample)| {
        now += gap;
        (now, sample)
    })
}
