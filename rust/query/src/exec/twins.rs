//! Parts of a query that stand in it more than once, over the same times: evaluated once.
//!
//! Only values that stand in memory anyhow are shared. Rows that an aggregation folds one by one are read again:
//! holding them all would cost more than it saves, and more than the query was admitted for.

use std::cell::RefCell;
use std::collections::HashMap;

use metricsdb_model::Result;

use super::block::Vector;
use super::grid::Grid;
use super::native::Hints;
use super::profile::address;
use super::{Evaluator, Value};
use crate::syntax::tree::{Expr, ExprKind};

/// In expressions of more nodes nothing is looked for: each part is written out to be compared.
const PARTS_MAX: usize = 256;

/// The calls and aggregations of an expression that are alike, by their addresses.
#[derive(Default)]
pub(crate) struct Twins {
    /// The address of the first one of its kind.
    first: HashMap<usize, usize>,
    /// How often each kind occurs.
    count: HashMap<usize, usize>,
}

impl Twins {
    pub fn of(expr: &Expr) -> Twins {
        let (mut seen, mut worth) = (0, 0);
        let mut waiting = vec![expr];
        while let Some(part) = waiting.pop() {
            (seen, worth) = (seen + 1, worth + usize::from(is_worth_it(part)));
            waiting.extend(part.children());
            if seen > PARTS_MAX {
                return Twins::default();
            }
        }
        let mut twins = Twins::default();
        if worth > 1 {
            twins.add(expr, &mut HashMap::new());
            twins.first.retain(|_, first| twins.count.get(first).is_some_and(|count| *count > 1));
        }
        twins
    }

    /// In the order of evaluation. What is in the second of two twins is not evaluated, and needs none.
    fn add(&mut self, expr: &Expr, known: &mut HashMap<String, usize>) {
        if is_worth_it(expr) {
            let first = *known.entry(expr.to_string()).or_insert(address(expr));
            self.first.insert(address(expr), first);
            let count = self.count.entry(first).or_insert(0);
            *count += 1;
            if *count > 1 {
                return;
            }
        }
        expr.children().for_each(|child| self.add(child, known));
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The address of the one that this one is like, if that comes before it.
    pub fn earlier(&self, expr: &Expr) -> Option<usize> {
        let first = *self.first.get(&address(expr))?;
        (first != address(expr)).then_some(first)
    }
}

/// Calls and aggregations that read samples. Selectors share their view of the store, and are cheap beside it.
fn is_worth_it(expr: &Expr) -> bool {
    let reads =
        |e: &Expr| !matches!(e.kind, ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_));
    match &expr.kind {
        ExprKind::Aggregate(_) => true,
        ExprKind::Call(call) => call.args.iter().any(reads),
        _ => false,
    }
}

/// What a twin came to: with the same times, and told the same of counter resets.
struct Shared<'a> {
    first: usize,
    grid: Grid,
    hints: Hints,
    value: Value<'a>,
    /// Twins that are still to come.
    left: usize,
}

#[derive(Default)]
pub(super) struct Sharing<'a> {
    twins: Twins,
    values: RefCell<Vec<Shared<'a>>>,
}

impl<'a> Sharing<'a> {
    pub fn of(expr: &Expr) -> Sharing<'a> {
        Sharing { twins: Twins::of(expr), values: RefCell::default() }
    }
}

impl<'a> Evaluator<'a> {
    pub(super) fn is_twin(&self, expr: &Expr) -> bool {
        self.sharing.twins.first.contains_key(&address(expr))
    }

    #[inline(never)]
    pub(super) fn eval_twin(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        if let Some(value) = self.shared(expr, grid)? {
            return Ok(value);
        }
        let notes = self.notes.len();
        let value = self.eval_alone(expr, grid)?;
        self.share(expr, grid, &value, notes)?;
        Ok(value)
    }

    /// The value of an earlier twin of this expression.
    fn shared(&self, expr: &Expr, grid: &Grid) -> Result<Option<Value<'a>>> {
        let Some(first) = self.sharing.twins.first.get(&address(expr)) else { return Ok(None) };
        let values = &mut *self.sharing.values.borrow_mut();
        let same = |s: &Shared<'_>| s.first == *first && s.grid == *grid && s.hints == self.hints.get();
        let Some(at) = values.iter().position(same) else { return Ok(None) };
        if values[at].left <= 1 {
            return Ok(Some(values.swap_remove(at).value));
        }
        values[at].left -= 1;
        self.budget.hold(values[at].value.bytes())?;
        Ok(values[at].value.copy())
    }

    /// Keeps a value for twins that come later. What was remarked on is remarked on at each place: then nothing is
    /// shared. `notes`: how many there were before.
    fn share(&self, expr: &Expr, grid: &Grid, value: &Value<'a>, notes: usize) -> Result<()> {
        let Some(&first) = self.sharing.twins.first.get(&address(expr)) else { return Ok(()) };
        let hints = self.hints.get();
        let values = &mut *self.sharing.values.borrow_mut();
        let known = values.iter().any(|s| s.first == first && s.grid == *grid && s.hints == hints);
        if known || self.notes.len() != notes {
            return Ok(());
        }
        if let Some(value) = value.copy() {
            self.budget.keep(value.bytes())?;
            let left = self.sharing.twins.count.get(&first).map_or(0, |count| count - 1);
            values.push(Shared { first, grid: *grid, hints, value, left });
        }
        Ok(())
    }

    /// Reads the rows of an operand that is to stand in memory, and shares them.
    #[inline(never)]
    pub(super) fn operand(
        &self,
        expr: &Expr,
        grid: &Grid,
        value: Value<'a>,
        notes: usize,
    ) -> Result<Value<'a>> {
        let expr = crate::plan::bare(expr);
        match value {
            Value::Vector(Vector::Rows(rows)) if self.is_twin(expr) => {
                let value = Value::block(rows.into_block(self.budget)?);
                self.share(expr, grid, &value, notes)?;
                Ok(value)
            }
            value => Ok(value),
        }
    }
}

impl<'a> Value<'a> {
    /// A copy of what stands in memory.
    fn copy(&self) -> Option<Value<'a>> {
        match self {
            Value::Scalar(values) => Some(Value::Scalar(values.clone())),
            Value::Vector(Vector::Block(block)) => Some(Value::block(block.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    #[test]
    fn only_the_largest_parts_that_are_alike_are_shared() {
        let kinds = |text: &str| {
            let twins = Twins::of(&parse(text).unwrap());
            let mut counts: Vec<usize> = twins.count.values().copied().filter(|count| *count > 1).collect();
            counts.sort_unstable();
            (counts, twins.first.len())
        };
        assert_eq!(kinds("sum(rate(x[5m])) / (sum(rate(x[5m])) + sum(rate(y[5m])))"), (vec![2], 2));
        assert_eq!(kinds("rate(x[5m]) / (rate( x[5m] ) - rate(x[1m])) + rate(x[5m])"), (vec![3], 3));
        assert_eq!(kinds("x / x + time() + time() + vector(1) + vector(1)"), (vec![], 0));
        assert_eq!(kinds("rate(x[5m]) / rate(x[5m] offset 1m)"), (vec![], 0));
    }
}
