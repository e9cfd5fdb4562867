//! Functions of histograms: of classic ones, whose rows differ only in `le` and become the buckets of one
//! histogram, and of native ones beside them.

use std::collections::HashMap;

use metricsdb_model::{Freed, Grouping, Labels, Result, Span};

use super::Evaluator;
use super::binary::map_rows;
use super::block::{ABSENT, Block, Vector, duplicate_labelset, present};
use super::grid::Grid;
use super::native::Hints;
use super::scan::RowMap;
use crate::function::histogram::{Bucket, Repair, fraction, parse_le, quantile};
use crate::histogram::{FloatHistogram, Remark};
use crate::number::open_metrics;
use crate::syntax::tree::Call;

const BUCKET_LABEL: &str = "le";

/// One histogram: the rows of its classic buckets with their upper bounds, and rows of native ones.
struct Histogram {
    labels: Labels,
    rows: Vec<(usize, f64)>,
    natives: Vec<usize>,
}

/// What a histogram is at one step.
enum Found<'b> {
    Nothing,
    /// Its buckets stand in the buffer.
    Classic,
    Native(&'b FloatHistogram),
    /// Both: neither is computed with.
    Both,
}

impl Histogram {
    /// What there is at one step; classic buckets go into the buffer.
    fn at<'b>(&self, block: &'b Block<'_>, step: usize, into: &mut Vec<Bucket>) -> Found<'b> {
        into.clear();
        into.extend(self.rows.iter().filter_map(|&(row, upper)| {
            let count = block.row(row)[step];
            present(count).then_some(Bucket { upper, count })
        }));
        match (self.natives.iter().find_map(|&row| block.cells.get(row, step)), into.is_empty()) {
            (Some(_), false) => Found::Both,
            (Some(native), true) => Found::Native(native),
            (None, false) => Found::Classic,
            (None, true) => Found::Nothing,
        }
    }
}

impl<'a> Evaluator<'a> {
    #[inline(never)]
    pub(super) fn histogram_quantile(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let phi = self.scalar(&call.args[0], grid)?;
        self.notes.quantiles(&phi, call.args[0].span);
        let (block, histograms) = self.histograms(&call.args[1], grid)?;
        let mut result = Block::empty(grid.steps);
        self.quantile_rows(&block, &histograms.0, &phi, call.args[1].span, grid, |labels, row| {
            result.push(labels.clone(), true, row);
            Ok(())
        })?;
        result.drop_empty(self.budget)?;
        Ok(result)
    }

    /// One row per quantile; its number becomes a label, in the place of the one that was there.
    #[inline(never)]
    pub(super) fn histogram_quantiles(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let label = self.string(&call.args[1])?;
        let (block, histograms) = self.histograms(&call.args[0], grid)?;
        let mut rows: HashMap<Labels, usize> = HashMap::new();
        let mut result = Block::empty(grid.steps);
        for arg in &call.args[2..] {
            let phi = self.scalar(arg, grid)?;
            self.notes.quantiles(&phi, arg.span);
            self.quantile_rows(&block, &histograms.0, &phi, call.args[0].span, grid, |labels, row| {
                for (step, &value) in row.iter().enumerate().filter(|(_, v)| present(**v)) {
                    let labels = labels.with(&label, &open_metrics(phi[step]));
                    let next = rows.len();
                    let at = *rows.entry(labels).or_insert_with_key(|labels| {
                        result.push(labels.clone(), true, &vec![ABSENT; row.len()]);
                        next
                    });
                    let slot = &mut result.row_mut(at)[step];
                    if present(*slot) {
                        return Err(duplicate_labelset());
                    }
                    *slot = value;
                }
                Ok(())
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
        let remarks = self.remarks(call.args[2].span);
        for histogram in &histograms.0 {
            self.budget.check()?;
            let metric = histogram.labels.metric_name();
            let row: Vec<f64> = (0..grid.steps)
                .map(|step| match histogram.at(&block, step, &mut buckets) {
                    Found::Nothing => ABSENT,
                    Found::Classic => fraction(lower[step], upper[step], &mut buckets),
                    Found::Native(native) => {
                        let (value, remark) = native.fraction(lower[step], upper[step]);
                        remark.into_iter().for_each(|remark| remarks.add(remark.note(metric)));
                        value
                    }
                    Found::Both => {
                        remarks.add(Remark::MixedClassicNative.note(metric));
                        ABSENT
                    }
                })
                .collect();
            result.push(histogram.labels.clone(), true, &row);
        }
        result.drop_empty(self.budget)?;
        Ok(result)
    }

    /// A number that native histograms have of their own.
    #[inline(never)]
    pub(super) fn histogram_number(&self, call: &Call, grid: &Grid) -> Result<Vector<'a>> {
        let number: fn(&FloatHistogram) -> f64 = match call.function.name {
            "histogram_count" => |h| h.count,
            "histogram_sum" => |h| h.sum,
            "histogram_avg" => FloatHistogram::average,
            "histogram_stdvar" => FloatHistogram::variance,
            _ => FloatHistogram::deviation,
        };
        let compares = matches!(call.function.name, "histogram_count" | "histogram_sum" | "histogram_avg");
        let hints = if compares { Hints::Compared } else { self.hints.get() };
        let vector = self.with_hints(hints, || self.vector(&call.args[0], grid))?;
        let map = RowMap::of_numbers(|row| row.fill(ABSENT)).with_histograms(move |row, cells| {
            for (slot, cell) in row.iter_mut().zip(cells.drain(..)) {
                *slot = cell.map_or(ABSENT, |histogram| number(&histogram));
            }
        });
        map_rows(vector, map, true, self.budget)
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
        mut emit: impl FnMut(&Labels, &[f64]) -> Result<()>,
    ) -> Result<()> {
        let remarks = self.remarks(span);
        let compute = |buckets: &mut Vec<Bucket>, histogram: &Histogram| {
            self.budget.check()?;
            let metric = histogram.labels.metric_name();
            let mut repairs: Vec<(usize, Repair)> = Vec::new();
            let mut row = vec![ABSENT; grid.steps];
            for (step, slot) in row.iter_mut().enumerate() {
                self.budget.check_at(step)?;
                match histogram.at(block, step, buckets) {
                    Found::Nothing => {}
                    Found::Classic => {
                        let (value, repair) = quantile(phi[step], buckets);
                        repairs.extend(repair.map(|r| (step, r)));
                        *slot = value;
                    }
                    Found::Native(native) => {
                        let (value, remark) = native.quantile(phi[step]);
                        remark.into_iter().for_each(|remark| remarks.add(remark.note(metric)));
                        *slot = value;
                    }
                    Found::Both => remarks.add(Remark::MixedClassicNative.note(metric)),
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
            emit(&histogram.labels, &row)?;
        }
        Ok(())
    }

    /// Rows by their labels but `le`; numbers whose `le` is none are remarked on and left out. Native histograms
    /// keep all labels.
    #[inline(never)]
    fn histograms(
        &self,
        arg: &crate::syntax::tree::Expr,
        grid: &Grid,
    ) -> Result<(Block<'a>, Freed<Histogram>)> {
        let block = self.with_hints(Hints::Whole, || self.block(arg, grid))?;
        let groups = block.labels.group(&Grouping::Without(vec![BUCKET_LABEL.to_owned()]), self.budget)?;
        let (mut sets, group_of) = (Freed(groups.labels), groups.of);
        let bounds = block.labels.group(&Grouping::By(vec![BUCKET_LABEL.to_owned()]), self.budget)?;
        let (bounds, bound_of) = (Freed(bounds.labels), bounds.of);
        let upper = |(i, labels): (usize, &Labels)| {
            self.budget.check_at(i).map(|()| parse_le(labels.value(BUCKET_LABEL)))
        };
        let uppers = bounds.0.iter().enumerate().map(upper).collect::<Result<Vec<Option<f64>>>>()?;
        let new = |labels| Histogram { labels, rows: Vec::new(), natives: Vec::new() };
        let mut apart: HashMap<Labels, usize> = HashMap::new();
        let histogram_bytes = 2 * (size_of::<Histogram>() + grid.steps * size_of::<f64>() + 64);
        self.budget.hold(sets.0.len() * histogram_bytes + block.len() * 2 * size_of::<(usize, f64)>())?;
        let mut all = Freed(Vec::with_capacity(sets.0.len()));
        let histograms = &mut all.0;
        for (i, labels) in sets.0.iter_mut().enumerate() {
            self.budget.check_at(i)?;
            histograms.push(new(std::mem::take(labels)));
        }
        for row in 0..block.len() {
            self.budget.check()?;
            let (at, bound) = (group_of[row] as usize, bound_of[row] as usize);
            if !block.cells.row(row).is_empty() {
                let labelled = !bounds.0[bound].is_empty();
                let to = if labelled {
                    self.budget.hold(histogram_bytes)?;
                    *apart.entry(block.labels.get(row)).or_insert_with_key(|labels| {
                        histograms.push(new(labels.clone()));
                        histograms.len() - 1
                    })
                } else {
                    at
                };
                histograms[to].natives.push(row);
                if !block.row(row).iter().any(|&v| present(v)) {
                    continue;
                }
            }
            match uppers[bound] {
                Some(upper) => histograms[at].rows.push((row, upper)),
                None => {
                    let le = bounds.0[bound].value(BUCKET_LABEL);
                    self.notes.bad_bucket_label(le, histograms[at].labels.metric_name(), arg.span);
                }
            }
        }
        Ok((block, all))
    }
}
