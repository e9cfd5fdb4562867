//! Classic histograms: rows that differ only in `le` become the buckets of one histogram.

use std::collections::HashMap;

use metricsdb_model::{Grouping, Labels, Result, Span};

use super::Evaluator;
use super::block::{ABSENT, Block, present};
use super::grid::Grid;
use crate::function::histogram::{Bucket, Repair, fraction, parse_le, quantile};
use crate::number::open_metrics;
use crate::syntax::tree::Call;

const BUCKET_LABEL: &str = "le";

/// The rows of one histogram, with their upper bounds.
struct Histogram {
    labels: Labels,
    rows: Vec<(usize, f64)>,
}

impl Histogram {
    /// The buckets at one step.
    fn buckets(&self, block: &Block<'_>, step: usize, into: &mut Vec<Bucket>) {
        into.clear();
        into.extend(self.rows.iter().filter_map(|&(row, upper)| {
            let count = block.row(row)[step];
            present(count).then_some(Bucket { upper, count })
        }));
    }
}

impl<'a> Evaluator<'a> {
    #[inline(never)]
    pub(super) fn histogram_quantile(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let phi = self.scalar(&call.args[0], grid)?;
        self.notes.quantiles(&phi, call.args[0].span);
        let (block, histograms) = self.histograms(&call.args[1], grid)?;
        let mut result = Block::empty(grid.steps);
        self.quantile_rows(&block, &histograms, &phi, call.args[1].span, grid, |labels, row| {
            result.push(labels.clone(), true, row);
        })?;
        result.drop_empty(self.budget)?;
        Ok(result)
    }

    /// One row per quantile; its number becomes a label.
    #[inline(never)]
    pub(super) fn histogram_quantiles(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let label = self.string(&call.args[1])?;
        let (block, histograms) = self.histograms(&call.args[0], grid)?;
        let mut rows: HashMap<Labels, usize> = HashMap::new();
        let mut result = Block::empty(grid.steps);
        for arg in &call.args[2..] {
            let phi = self.scalar(arg, grid)?;
            self.notes.quantiles(&phi, arg.span);
            self.quantile_rows(&block, &histograms, &phi, call.args[0].span, grid, |labels, row| {
                for (step, &value) in row.iter().enumerate().filter(|(_, v)| present(**v)) {
                    let labels = labels.with(&label, &open_metrics(phi[step]));
                    let next = rows.len();
                    let at = *rows.entry(labels).or_insert_with_key(|labels| {
                        result.push(labels.clone(), true, &vec![ABSENT; row.len()]);
                        next
                    });
                    result.row_mut(at)[step] = value;
                }
            })?;
        }
        Ok(result)
    }

    #[inline(never)]
    pub(super) fn histogram_fraction(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let lower = self.scalar(&call.args[0], grid)?;
        let upper = self.scalar(&call.args[1], grid)?;
        let (block, histograms) = self.histograms(&call.args[2], grid)?;
        let mut result = Block::empty(grid.steps);
        let mut buckets = Vec::new();
        for histogram in &histograms {
            self.budget.check()?;
            let row: Vec<f64> = (0..grid.steps)
                .map(|step| {
                    histogram.buckets(&block, step, &mut buckets);
                    if buckets.is_empty() {
                        return ABSENT;
                    }
                    fraction(lower[step], upper[step], &mut buckets)
                })
                .collect();
            result.push(histogram.labels.clone(), true, &row);
        }
        result.drop_empty(self.budget)?;
        Ok(result)
    }

    /// Hands out one row per histogram, and remarks on the buckets that had to be repaired.
    #[inline(never)]
    fn quantile_rows(
        &self,
        block: &Block<'a>,
        histograms: &[Histogram],
        phi: &[f64],
        span: Span,
        grid: &Grid,
        mut emit: impl FnMut(&Labels, &[f64]),
    ) -> Result<()> {
        let compute = |buckets: &mut Vec<Bucket>, histogram: &Histogram| {
            self.budget.check()?;
            let mut repairs: Vec<(usize, Repair)> = Vec::new();
            let mut row = vec![ABSENT; grid.steps];
            for (step, slot) in row.iter_mut().enumerate() {
                self.budget.check_at(step)?;
                histogram.buckets(block, step, buckets);
                if !buckets.is_empty() {
                    let (value, repair) = quantile(phi[step], buckets);
                    repairs.extend(repair.map(|r| (step, r)));
                    *slot = value;
                }
            }
            Ok((row, repairs))
        };
        let mut buckets = Vec::new();
        for histogram in histograms {
            let (row, repairs) = compute(&mut buckets, histogram)?;
            for (step, repair) in repairs {
                let metric = histogram.labels.metric_name();
                self.notes.forced_monotonicity(metric, repair, grid.time(step), span);
            }
            emit(&histogram.labels, &row);
        }
        Ok(())
    }

    /// Rows by their labels but `le`; rows whose `le` is no number are remarked on and left out.
    #[inline(never)]
    fn histograms(
        &self,
        arg: &crate::syntax::tree::Expr,
        grid: &Grid,
    ) -> Result<(Block<'a>, Vec<Histogram>)> {
        let block = self.block(arg, grid)?;
        let groups = block.labels.group(&Grouping::Without(vec![BUCKET_LABEL.to_owned()]), self.budget)?;
        let bounds = block.labels.group(&Grouping::By(vec![BUCKET_LABEL.to_owned()]), self.budget)?;
        let uppers: Vec<Option<f64>> =
            bounds.labels.iter().map(|l| parse_le(l.value(BUCKET_LABEL))).collect();
        let mut histograms: Vec<Histogram> =
            groups.labels.into_iter().map(|labels| Histogram { labels, rows: Vec::new() }).collect();
        let histogram_bytes = 2 * (size_of::<Histogram>() + grid.steps * size_of::<f64>() + 64);
        self.budget.hold(histograms.len() * histogram_bytes + block.len() * 2 * size_of::<(usize, f64)>())?;
        for row in 0..block.len() {
            self.budget.check()?;
            let histogram = &mut histograms[groups.of[row] as usize];
            let bound = bounds.of[row] as usize;
            match uppers[bound] {
                Some(upper) => histogram.rows.push((row, upper)),
                None => {
                    let le = bounds.labels[bound].value(BUCKET_LABEL);
                    self.notes.bad_bucket_label(le, histogram.labels.metric_name(), arg.span);
                }
            }
        }
        Ok((block, histograms))
    }
}
