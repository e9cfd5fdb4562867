//! Storage in memory, as plain as it can be.

use std::collections::BTreeMap;

use metricsdb_model::{Budget, Labels, Predicate, Result, Samples, SeriesSet, Source, TimeRange};

#[derive(Default)]
pub struct Storage {
    pub series: BTreeMap<Labels, BTreeMap<i64, f64>>,
    /// When the counters of samples began, by their times.
    pub starts: BTreeMap<Labels, BTreeMap<i64, i64>>,
    /// Series of native histograms, which are not held.
    pub native: Vec<Labels>,
}

struct Found<'a> {
    series: Vec<(&'a Labels, &'a BTreeMap<i64, f64>)>,
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
        let within = matching.filter(|(_, samples)| {
            !range.is_empty() && samples.range(range.start..=range.end).next().is_some()
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
        for (&t, &v) in self.series[index].1.range(range.start..=range.end) {
            out.push(t, v);
        }
        Ok(())
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
