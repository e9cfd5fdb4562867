//! What checks look at: the tree with its parents, and the series behind a selector.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{
    Bound, Budget, Grouping, Labels, Predicate, Result, Samples, SeriesSet, Source, TimeRange,
};

use super::Surroundings;
use crate::exec::Params;
use crate::exec::times::QueryTimes;
use crate::syntax::predicate;
use crate::syntax::tree::{Expr, ExprKind, Selector};

/// Series of which samples are read, and how many of each.
const SERIES_READ: usize = 16;
const SAMPLES_READ: usize = 512;
/// How far back samples are looked at for what they are like.
const REACH_MS: i64 = 3_600_000;

pub(super) struct Context<'a> {
    pub params: &'a Params<'a>,
    pub source: &'a dyn Source,
    pub budget: &'a Budget,
    pub around: &'a Surroundings<'a>,
    times: QueryTimes,
    /// Milliseconds that subqueries and ranges reach back together.
    back: i64,
}

/// What samples of a selector are like.
pub(super) struct Habit {
    /// The median step between samples.
    pub interval_ms: i64,
    pub samples: usize,
    /// How often a value is smaller than the one before.
    pub falls: usize,
}

/// Every node with the one above it, parentheses among them.
pub(super) fn every(expr: &Expr) -> Vec<(&Expr, Option<&Expr>)> {
    let (mut out, mut waiting) = (Vec::new(), vec![(expr, None)]);
    while let Some((expr, above)) = waiting.pop() {
        out.push((expr, above));
        waiting.extend(expr.children().rev().map(|child| (child, Some(expr))));
    }
    out
}

impl<'a> Context<'a> {
    pub fn new(
        root: &'a Expr,
        params: &'a Params<'a>,
        source: &'a dyn Source,
        budget: &'a Budget,
        around: &'a Surroundings<'a>,
    ) -> Context<'a> {
        let times = params.times();
        let back = every(root).iter().fold(params.lookback_ms, |sum, (expr, _)| match &expr.kind {
            ExprKind::Range { range, .. } | ExprKind::Subquery { range, .. } => {
                sum.saturating_add(times.positive(range).unwrap_or(0))
            }
            _ => sum,
        });
        Context { params, source, budget, around, times, back }
    }

    /// Milliseconds of a range or a step.
    pub fn ms(&self, duration: &crate::syntax::tree::Duration) -> Option<i64> {
        self.times.positive(duration).ok()
    }

    /// The stretch of time that a selector may see.
    pub fn reach(&self, selector: &Selector) -> TimeRange {
        let offset = self.times.offset(&selector.offset).unwrap_or(0);
        let (first, last) = match &selector.at {
            Some(at) => (self.times.at(at), self.times.at(at)),
            None => (self.params.start, self.params.end),
        };
        TimeRange::new(first.saturating_sub(offset).saturating_sub(self.back), last.saturating_sub(offset))
    }

    /// What a selector selects: a query of its own, so that the account of memory holds one at a time.
    pub fn set(&self, selector: &Selector) -> Result<Box<dyn SeriesSet + 'a>> {
        self.source.select(&predicate(selector), self.reach(selector), &self.budget.fresh())
    }

    /// The labels of the groups of a set.
    pub fn grouped(&self, set: &dyn SeriesSet, by: &Grouping) -> Result<Vec<Labels>> {
        Ok(set.group(by, &self.budget.fresh())?.labels)
    }

    /// The number of series, where storage can tell exactly.
    pub fn count(&self, predicate: &Predicate, reach: TimeRange) -> Result<Option<u64>> {
        let exact = |b: Bound| (b.series_min == b.series).then_some(b.series);
        Ok(self.source.bound(predicate, reach, self.budget)?.and_then(exact))
    }

    /// The values of some labels among the selected series, each combination once.
    pub fn groups(&self, selector: &Selector, labels: &[&str]) -> Result<Vec<Labels>> {
        let by = Grouping::By(labels.iter().map(|&l| l.to_owned()).collect());
        self.grouped(&*self.set(selector)?, &by)
    }

    pub fn names(&self, selector: &Selector) -> Result<Vec<String>> {
        let groups = self.groups(selector, &[METRIC_NAME])?;
        let mut names: Vec<String> = groups.iter().map(|l| l.metric_name().to_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What the newest samples of some of the series are like; `None` where there are too few.
    pub fn habit(&self, selector: &Selector) -> Result<Option<Habit>> {
        let reach = self.reach(selector);
        let recent = TimeRange::new(reach.start.max(reach.end.saturating_sub(REACH_MS)), reach.end);
        let set = self.set(selector)?;
        let (mut gaps, mut falls, mut samples) = (Vec::new(), 0, Samples::default());
        let mut seen = 0;
        for row in (0..set.len()).step_by(set.len().div_ceil(SERIES_READ).max(1)) {
            self.budget.check()?;
            samples.clear();
            set.read(row, recent, &mut samples)?;
            samples.drop_stale(0);
            let from = samples.len().saturating_sub(SAMPLES_READ);
            let (times, values) = (&samples.timestamps[from..], &samples.values[from..]);
            gaps.extend(times.windows(2).map(|w| w[1] - w[0]));
            falls += values.windows(2).filter(|w| w[1] < w[0]).count();
            seen += times.len();
        }
        if gaps.is_empty() {
            return Ok(None);
        }
        let middle = gaps.len() / 2;
        let (_, median, _) = gaps.select_nth_unstable(middle);
        Ok(Some(Habit { interval_ms: (*median).max(1), samples: seen, falls }))
    }
}
