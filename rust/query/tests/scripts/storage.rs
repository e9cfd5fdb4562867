//! Storage in memory, as plain as it can be.

use std::collections::BTreeMap;

use metricsdb_model::{
    Budget, Histogram, HistogramSamples, Labels, Predicate, Result, Samples, SeriesSet, Source, TimeRange,
};

#[derive(Default)]
pub struct Series {
    pub numbers: BTreeMap<i64, f64>,
    pub histograms: BTreeMap<i64, Histogram>,
}

#[derive(Default)]
pub struct Storage {
    pub series: BTreeMap<Labels, Series>,
    /// When the counters of samples began, by their times.
    pub starts: BTreeMap<Labels, BTreeMap<i64, i64>>,
}

struct Found<'a> {
    series: Vec<(&'a Labels, &'a Series)>,
    starts: &'a BTreeMap<Labels, BTreeMap<i64, i64>>,
}

impl Source for Storage {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        _: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let matching = self.series.iter().filter(|(labels, _)| predicate.matches(labels.as_ref()));
        let within = matching.filter(|(_, series)| {
            let times = range.start..=range.end;
            !range.is_empty()
                && (series.numbers.range(times.clone()).next().is_some()
                    || series.histograms.range(times).next().is_some())
        });
        Ok(Box::new(Found { series: within.collect(), starts: &self.starts }))
    }
}

impl SeriesSet for Found<'_> {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, index: usize) -> Labels {
        self.series[index].0.clone()
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        for (&t, &v) in self.series[index].1.numbers.range(range.start..=range.end) {
            out.push(t, v);
        }
        Ok(())
    }

    fn has_histograms(&self, index: usize) -> bool {
        !self.series[index].1.histograms.is_empty()
    }

    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        for (&t, histogram) in self.series[index].1.histograms.range(range.start..=range.end) {
            out.push(t, histogram.clone());
        }
        Ok(())
    }

    fn histogram_before(&self, index: usize, time: i64) -> Result<Option<(i64, Histogram)>> {
        let before = self.series[index].1.histograms.range(..time).next_back();
        Ok(before.map(|(&t, histogram)| (t, histogram.clone())))
    }

    fn has_starts(&self, index: usize) -> bool {
        self.starts.contains_key(self.series[index].0)
    }

    fn read_starts(&self, index: usize, timestamps: &[i64], out: &mut Vec<i64>) -> Result<()> {
        let of = self.starts.get(self.series[index].0);
        out.extend(timestamps.iter().map(|t| of.and_then(|of| of.get(t)).copied().unwrap_or(0)));
        Ok(())
    }
}
