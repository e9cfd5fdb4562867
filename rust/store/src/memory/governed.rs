//! What the series of ordered rules hold: the first rule that takes a series governs it.

use metricsdb_model::{Budget, Labels, Predicate, Result, Samples, TimeRange};

use super::walk::Held;
use crate::database::Database;
use crate::shard::{Shard, id_of};

/// The series of one rule, or of none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Governed {
    pub series: u64,
    pub samples: u64,
    /// Of samples, and with labels and index.
    pub sample_bytes: u64,
    pub bytes: u64,
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// Of each interval: samples, and series whose first sample, and whose last, lies in it.
    pub intervals: Vec<[u64; 3]>,
}

/// One series, and the rule that governs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GovernedSeries {
    pub labels: Labels,
    pub rule: Option<usize>,
    pub first: i64,
    pub last: i64,
    pub samples: u64,
    pub bytes: u64,
}

impl Database {
    /// What the series of each rule hold, and behind these what those of none do; by intervals `(edges[i], edges[i + 1]]` of
    /// ascending times (ms). Walks every series. Errors: the budget's.
    pub fn governed(&self, rules: &[Predicate], edges: &[i64], budget: &Budget) -> Result<Vec<Governed>> {
        let _inside = self.inside();
        let of_rules = self.governed_by(rules, budget)?;
        let none = Governed { intervals: vec![[0; 3]; edges.len().saturating_sub(1)], ..Governed::default() };
        let mut all = vec![none; rules.len() + 1];
        let mut outcome = Ok(());
        self.each_shard(|shard, held, _| {
            for (row, held) in (0u32..).zip(held).filter(|(row, _)| shard.series.has(*row)) {
                let id = id_of(shard.number, row);
                let at = of_rules.iter().position(|ids| ids.contains(id)).unwrap_or(rules.len());
                let Some(governed) = all.get_mut(at) else { continue };
                if outcome.is_ok() {
                    outcome = budget.check().and_then(|()| governed.add(shard, row, held, edges));
                }
            }
        });
        outcome.map(|()| all)
    }

    /// The series that satisfy a predicate, each with the rule that governs it. Errors: the budget's.
    pub fn governing(
        &self,
        predicate: &Predicate,
        rules: &[Predicate],
        budget: &Budget,
    ) -> Result<Vec<GovernedSeries>> {
        let _inside = self.inside();
        let chosen = self.index.select(predicate, self, budget)?;
        let of_rules = self.governed_by(rules, budget)?;
        let (mut all, mut text) = (Vec::new(), Vec::new());
        self.each_shard(|shard, held, _| {
            for (row, held) in (0u32..).zip(held) {
                let id = id_of(shard.number, row);
                let Some(span) = shard.span(row).filter(|_| chosen.contains(id)) else { continue };
                all.push(GovernedSeries {
                    labels: self.labels_of(shard, row, &mut text),
                    rule: of_rules.iter().position(|ids| ids.contains(id)),
                    first: span.start,
                    last: span.end,
                    samples: held.samples + histograms_of(shard, row),
                    bytes: held.bytes() as u64,
                });
            }
        });
        budget.keep(all.iter().map(|one| size_of::<GovernedSeries>() + one.labels.heap_bytes()).sum())?;
        Ok(all)
    }
}

fn histograms_of(shard: &Shard, row: u32) -> u64 {
    let count = shard.histograms.get(row).map(|h| h.count());
    count.map_or(0, |count| (count.open_rows + count.sealed_rows) as u64)
}

impl Governed {
    fn add(&mut self, shard: &Shard, row: u32, held: &Held, edges: &[i64]) -> Result<()> {
        self.series += 1;
        self.samples += held.samples + histograms_of(shard, row);
        self.sample_bytes += held.sample_bytes() as u64;
        self.bytes += held.bytes() as u64;
        let Some(span) = shard.span(row) else { return Ok(()) };
        self.first = self.first.into_iter().chain([span.start]).min();
        self.last = self.last.max(Some(span.end));
        let interval = |time: i64| edges.partition_point(|&edge| edge < time).checked_sub(1);
        for (what, time) in [(1, span.start), (2, span.end)] {
            if let Some(counts) = interval(time).and_then(|i| self.intervals.get_mut(i)) {
                counts[what] += 1;
            }
        }
        for (counts, pair) in self.intervals.iter_mut().zip(edges.windows(2)) {
            let range = TimeRange::new(pair[0].saturating_add(1), pair[1]);
            if range.overlaps(span) {
                counts[0] += shard.samples_within(row, range)? + shard.histograms_within(row, range)?;
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Samples of a row in a range, exactly, without its histograms. Decodes times where chunks are cut.
    pub(crate) fn samples_within(&self, row: u32, range: TimeRange) -> Result<u64> {
        let mut count = 0;
        for chunk in self.series.sealed[row].overlapping(range) {
            count += chunk.count_within(range)?;
        }
        let head = &self.series.heads[row];
        match self.open_span(head).filter(|span| span.overlaps(range)) {
            Some(span) if range.contains(span.start) && range.contains(span.end) => {
                count += head.state.count()
            }
            Some(_) => {
                let mut open = Samples::default();
                crate::codec::open::decode_f64(&head.state, self.open_bytes(head), range, &mut open)?;
                count += open.len();
            }
            None => {}
        }
        Ok(count as u64)
    }

    fn histograms_within(&self, row: u32, range: TimeRange) -> Result<u64> {
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        if let Some(histograms) = self.histograms.get(row) {
            histograms.read_range(range, &Budget::unlimited(), &mut times, &mut rows)?;
        }
        Ok(times.len() as u64)
    }
}
