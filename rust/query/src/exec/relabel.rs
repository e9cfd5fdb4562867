//! Functions of labels and of order: label_replace, label_join, sort, sort_by_label.

use std::cmp::Ordering;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::order::sort_by;
use metricsdb_model::{Budget, Freed, Labels, Result, Span};

use super::Evaluator;
use super::block::Block;
use super::grid::Grid;
use super::labels::natural;
use crate::function::label::{LabelJoin, LabelReplace};
use crate::syntax::tree::{Call, Expr};

impl<'a> Evaluator<'a> {
    #[inline(never)]
    pub(super) fn label_replace(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let replace = LabelReplace::new(&self.strings(&call.args[1..])?)?;
        relabel(self.block(&call.args[0], grid)?, replace.target(), self.budget, |labels| {
            replace.apply(labels)
        })
    }

    #[inline(never)]
    pub(super) fn label_join(&self, call: &Call, grid: &Grid) -> Result<Block<'a>> {
        let join = LabelJoin::new(&self.strings(&call.args[1..])?)?;
        relabel(self.block(&call.args[0], grid)?, join.target(), self.budget, |labels| join.apply(labels))
    }

    fn strings(&self, args: &[Expr]) -> Result<Vec<String>> {
        args.iter().map(|arg| self.string(arg)).collect()
    }

    /// By value; NaN last either way.
    #[inline(never)]
    pub(super) fn sort(&self, arg: &Expr, descending: bool, span: Span, grid: &Grid) -> Result<Block<'a>> {
        let mut block = self.block(arg, grid)?;
        block.cells.clear();
        block.drop_empty(self.budget)?;
        self.order_rows(block, span, |block, a, b| {
            let (x, y) = (block.row(a)[0], block.row(b)[0]);
            let order = x.partial_cmp(&y).map(|o| if descending { o.reverse() } else { o });
            order.unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
        })
    }

    /// By the values of labels, numbers in them by size; then by all labels.
    #[inline(never)]
    pub(super) fn sort_by_label(
        &self,
        args: &[Expr],
        descending: bool,
        span: Span,
        grid: &Grid,
    ) -> Result<Block<'a>> {
        let names = self.strings(&args[1..])?;
        let mut block = self.block(&args[0], grid)?;
        let labels = Freed(block.labels_ready(self.budget)?.clone());
        self.order_rows(block, span, |_, a, b| {
            let (x, y) = (&labels.0[a], &labels.0[b]);
            let by_name = names.iter().map(|name| natural(x.value(name), y.value(name)));
            let order = by_name.fold(Ordering::Equal, Ordering::then).then_with(|| x.cmp(y));
            if descending { order.reverse() } else { order }
        })
    }

    /// Only the answer of an instant query has an order of its own.
    #[inline(never)]
    fn order_rows(
        &self,
        mut block: Block<'a>,
        span: Span,
        compare: impl Fn(&Block<'a>, usize, usize) -> Ordering,
    ) -> Result<Block<'a>> {
        if self.params.step.is_some() {
            self.notes.sort_is_ineffective(span);
            return Ok(block);
        }
        if block.steps > 1 {
            return Ok(block);
        }
        let labels = Freed(block.labels_ready(self.budget)?.clone());
        self.budget.hold(block.len() * (2 * size_of::<Labels>() + size_of::<usize>()))?;
        let mut order: Vec<usize> = (0..block.len()).collect();
        sort_by(&mut order, self.budget, |&a, &b| {
            compare(&block, a, b).then_with(|| labels.0[a].cmp(&labels.0[b]))
        })?;
        block.reorder(&order, self.budget)?;
        block.ordered = true;
        Ok(block)
    }
}

/// Gives every row new labels. A metric name that is set on purpose is not one to be dropped.
fn relabel<'a>(
    mut block: Block<'a>,
    target: &str,
    budget: &Budget,
    change: impl Fn(&Labels) -> Labels,
) -> Result<Block<'a>> {
    for labels in block.labels_ready(budget)? {
        budget.check()?;
        *labels = change(labels);
        budget.hold(labels.heap_bytes())?;
    }
    if target == METRIC_NAME {
        block.drop_name.fill(false);
    }
    block.merge_equal(budget)
}
