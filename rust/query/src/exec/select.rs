//! Selectors and subqueries: which series are read, and when each step looks at them.

use std::sync::Arc;

use metricsdb_model::{Error, Grouping, Predicate, Result, SeriesSet, Span, TimeRange};

use super::block::{Block, GridSeries, ROW_BYTES};
use super::edges::Edges;
use super::grid::{Grid, Looks};
use super::labels::meant;
use super::native::Hints;
use super::profile::Probe;
use super::scan::{DropName, Leaf, Rows, Shows};
use super::{Evaluator, Ranges};
use crate::syntax::predicate;
use crate::syntax::tree::{AggregateOp, Expr, ExprKind, Extension, Selector};

/// Which samples of the selected series are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// The newest in the range.
    Newest,
}

/// What was selected: equal selectors share one view, and see the same samples.
pub(super) struct Selected<'a> {
    predicate: Predicate,
    reach: TimeRange,
    wanted: Wanted,
    set: Arc<dyn SeriesSet + 'a>,
}

impl<'a> Evaluator<'a> {
    /// Where a selector looks on a grid.
    fn looks(&self, selector: &Selector, grid: &Grid) -> Result<Looks> {
        let offset = self.times.offset(&selector.offset)?;
        Ok(Looks::new(grid, selector.at.as_ref().map(|at| self.times.at(at)), offset))
    }

    fn series(
        &self,
        selector: &Selector,
        reach: TimeRange,
        wants: Wanted,
    ) -> Result<Arc<dyn SeriesSet + 'a>> {
        let predicate = predicate(selector);
        let mut selected = self.selected.borrow_mut();
        let serves = |s: &&Selected<'a>| {
            s.reach == reach && (s.wanted == Wanted::All || s.wanted == wants) && s.predicate == predicate
        };
        if let Some(known) = selected.iter().find(serves) {
            return Ok(known.set.clone());
        }
        let set: Arc<dyn SeriesSet + 'a> = match wants {
            Wanted::All => self.source.select(&predicate, reach, self.budget)?.into(),
            Wanted::Newest => self.source.select_newest(&predicate, reach, self.budget)?.into(),
        };
        selected.push(Selected { predicate, reach, wanted: wants, set: set.clone() });
        Ok(set)
    }

    /// Tells of series that stand for others, until something scales them.
    fn note_draws(&self, set: &dyn SeriesSet, span: Span) {
        let texts: Vec<&str> = set.draws().iter().map(|draw| &*draw.text).collect();
        if !texts.is_empty() {
            self.unscaled.borrow_mut().push((span, texts.join(", ")));
        }
    }

    fn edges(&self, selector: &Selector) -> Option<Edges> {
        let lookback = self.params.lookback_ms;
        selector.extension.map(|extension| Edges { extension, lookback })
    }

    /// An instant vector selector, and what of its samples stands for them.
    pub(super) fn instant(
        &self,
        selector: &Selector,
        span: Span,
        grid: &Grid,
        shows: Shows,
    ) -> Result<Rows<'a>> {
        let looks = self.looks(selector, grid)?;
        let lookback = self.params.lookback_ms;
        let smoothed = selector.extension == Some(Extension::Smoothed);
        let after = if smoothed { lookback } else { 0 };
        let wants = if looks.count == 1 && !smoothed { Wanted::Newest } else { Wanted::All };
        let set = self.series(selector, looks.around(lookback, after), wants)?;
        self.note_draws(&*set, span);
        Ok(Rows {
            set,
            leaf: match smoothed {
                true => Leaf::Smoothed { looks, lookback, remarks: self.remarks(span) },
                false => Leaf::Instant { looks, lookback, shows },
            },
            maps: Vec::new(),
            drop_name: DropName::All(false),
            steps: grid.steps,
            hints: self.hints.get(),
            probe: Probe::new(self.profile, selector),
            remarks: self.remarks(span),
        })
    }

    /// `count` and `group` of a selector at one time, where storage counts by itself. Not where another selector of
    /// the query may look at the same series: all see the same samples.
    pub(super) fn counted(
        &self,
        op: AggregateOp,
        expr: &Expr,
        grouping: &Grouping,
        grid: &Grid,
    ) -> Result<Option<Block<'a>>> {
        let ExprKind::Selector(selector) = &expr.unparenthesized().kind else { return Ok(None) };
        let counts = matches!(op, AggregateOp::Count | AggregateOp::Group) && selector.extension.is_none();
        if !counts
            || !self.single
            || grid.steps > 1
            || self.profile.is_some()
            || self.budget.visits().is_some()
        {
            return Ok(None);
        }
        let reach = self.looks(selector, grid)?.reach(self.params.lookback_ms);
        let found = self.source.count_newest(&predicate(selector), reach, &meant(grouping), self.budget)?;
        let Some(groups) = found else { return Ok(None) };
        let mut block = Block::empty(1);
        self.budget.hold(groups.len() * 2 * (size_of::<f64>() + ROW_BYTES))?;
        for (labels, count) in groups {
            block.push(labels, false, &[if op == AggregateOp::Group { 1.0 } else { count as f64 }]);
        }
        Ok(Some(block))
    }

    /// A range vector: a selector with a range, or a subquery.
    pub(super) fn ranges(&self, expr: &Expr, grid: &Grid) -> Result<Ranges<'a>> {
        let node = expr.unparenthesized();
        match &node.kind {
            ExprKind::Range { selector, range } => {
                let looks = self.looks(selector, grid)?;
                let range = self.times.positive(range)?;
                let edges = self.edges(selector);
                let reach = edges.map_or(looks.reach(range), |edges| edges.reach(&looks, range));
                let set = self.series(selector, reach, Wanted::All)?;
                self.note_draws(&*set, expr.span);
                Ok(Ranges {
                    set,
                    looks,
                    range,
                    drop_name: DropName::All(false),
                    edges,
                    hints: self.hints.get(),
                    probe: Probe::new(self.profile, selector),
                })
            }
            ExprKind::Subquery { expr, range, step, offset, at } => {
                let at = at.as_ref().map(|at| self.times.at(at));
                let looks = Looks::new(grid, at, self.times.offset(offset)?);
                let range = self.times.positive(range)?;
                let step = match step {
                    Some(step) => self.times.positive(step)?,
                    None => self.params.subquery_step_ms,
                };
                let visits = self.budget.visits();
                let (block, inner) = match grid.inner(&looks, range, step)? {
                    Some(inner) => {
                        visits.iter().for_each(|v| v.enter_subquery());
                        let block = self.with_hints(Hints::Whole, || self.repeated(expr, &inner))?;
                        visits.iter().for_each(|v| v.leave_subquery());
                        (block, inner)
                    }
                    None => (Block::empty(1), Grid::instant(looks.first)),
                };
                let drop_name = DropName::Each(block.drop_name.clone());
                let set = Arc::new(GridSeries::new(block, inner));
                let probe = Probe::new(self.profile, node);
                Ok(Ranges { set, looks, range, drop_name, edges: None, hints: Hints::AsTheyAre, probe })
            }
            _ => Err(Error::execution("expected a range vector")),
        }
    }

    /// What a subquery repeats: a vector, or a scalar as a series without labels.
    pub(super) fn vector_or_scalar(&self, expr: &Expr, grid: &Grid) -> Result<Block<'a>> {
        match self.eval(expr, grid)? {
            super::Value::Vector(vector) => vector.into_block(self.budget),
            super::Value::Scalar(values) => Ok(Block::unlabelled(values)),
            super::Value::String(_) => Err(Error::execution("a string has no series")),
        }
    }
}
