//! Selectors and subqueries: which series are read, and when each step looks at them.

use std::sync::Arc;

use metricsdb_model::{Error, Result, SeriesSet, TimeRange};

use super::block::{Block, GridSeries};
use super::edges::Edges;
use super::grid::{Grid, Looks};
use super::scan::{DropName, Leaf, Rows};
use super::{Evaluator, Ranges};
use crate::syntax::predicate;
use crate::syntax::tree::{Expr, ExprKind, Extension, Selector};

impl<'a> Evaluator<'a> {
    /// Where a selector looks on a grid.
    fn looks(&self, selector: &Selector, grid: &Grid) -> Result<Looks> {
        let offset = self.times.offset(&selector.offset)?;
        Ok(Looks::new(grid, selector.at.as_ref().map(|at| self.times.at(at)), offset))
    }

    fn series(&self, selector: &Selector, reach: TimeRange) -> Result<Arc<dyn SeriesSet + 'a>> {
        let predicate = predicate(selector);
        let mut selected = self.selected.borrow_mut();
        if let Some((_, _, set)) = selected.iter().find(|(p, r, _)| *r == reach && *p == predicate) {
            return Ok(set.clone());
        }
        let set: Arc<dyn SeriesSet + 'a> = self.source.select(&predicate, reach, self.budget)?.into();
        selected.push((predicate, reach, set.clone()));
        Ok(set)
    }

    fn edges(&self, selector: &Selector) -> Option<Edges> {
        let lookback = self.params.lookback_ms;
        selector.extension.map(|extension| Edges { extension, lookback })
    }

    /// An instant vector selector; with `times` the samples' times in seconds stand for their values.
    pub(super) fn instant(&self, selector: &Selector, grid: &Grid, times: bool) -> Result<Rows<'a>> {
        let looks = self.looks(selector, grid)?;
        let lookback = self.params.lookback_ms;
        let smoothed = selector.extension == Some(Extension::Smoothed);
        let after = if smoothed { lookback } else { 0 };
        let set = self.series(selector, looks.around(lookback, after))?;
        Ok(Rows {
            set,
            leaf: match smoothed {
                true => Leaf::Smoothed { looks, lookback },
                false => Leaf::Instant { looks, lookback, times },
            },
            maps: Vec::new(),
            drop_name: DropName::All(false),
            steps: grid.steps,
        })
    }

    /// A range vector: a selector with a range, or a subquery.
    pub(super) fn ranges(&self, expr: &Expr, grid: &Grid) -> Result<Ranges<'a>> {
        match &expr.unparenthesized().kind {
            ExprKind::Range { selector, range } => {
                let looks = self.looks(selector, grid)?;
                let range = self.times.positive(range)?;
                let edges = self.edges(selector);
                let reach = edges.map_or(looks.reach(range), |edges| edges.reach(&looks, range));
                let set = self.series(selector, reach)?;
                Ok(Ranges { set, looks, range, drop_name: DropName::All(false), edges })
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
                        let block = self.vector_or_scalar(expr, &inner)?;
                        visits.iter().for_each(|v| v.leave_subquery());
                        (block, inner)
                    }
                    None => (Block::empty(1), Grid::instant(looks.first)),
                };
                let drop_name = DropName::Each(block.drop_name.clone());
                let set = Arc::new(GridSeries::new(block, inner));
                Ok(Ranges { set, looks, range, drop_name, edges: None })
            }
            _ => Err(Error::execution("expected a range vector")),
        }
    }

    /// What a subquery repeats: a vector, or a scalar as a series without labels.
    fn vector_or_scalar(&self, expr: &Expr, grid: &Grid) -> Result<Block<'a>> {
        match self.eval(expr, grid)? {
            super::Value::Vector(vector) => vector.into_block(self.budget),
            super::Value::Scalar(values) => Ok(Block::unlabelled(values)),
            super::Value::String(_) => Err(Error::execution("a string has no series")),
        }
    }
}
