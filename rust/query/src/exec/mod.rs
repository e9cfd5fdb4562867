//! The evaluator: a tree, times and a source to an answer.
//!
//! One evaluator serves instant queries, range queries and subqueries: each evaluates an expression over a
//! grid of times at once. An expression over stored series stays a description of rows (`scan`) until an
//! aggregation folds them or somebody needs them all. Metric names are dropped at the end of the query.
//!
//! `#[inline(never)]` stands where inlining would add a function's frame to that of a caller that recurses:
//! the deepest tree then needs a fraction of the stack.

mod aggregate;
mod binary;
mod block;
mod call;
mod edges;
mod grid;
mod histogram;
mod info;
mod labels;
mod matching;
mod output;
mod pick;
mod relabel;
mod scan;
mod select;
mod times;

use std::cell::RefCell;
use std::sync::Arc;

use metricsdb_model::budget::Visits;
use metricsdb_model::{Answer, Budget, Error, Grouping, Predicate, Result, SeriesSet, Source, TimeRange};

use crate::annotations::Notes;
use crate::syntax::tree::{Aggregate, AggregateOp, Binary, Expr, ExprKind, ValueType};
use block::{Block, Vector, present};
use grid::Grid;
use pick::Pick;
use times::{QueryTimes, is_step_invariant};

/// The newest sample is looked for so far back, as in Prometheus.
pub const LOOKBACK_MS_DEFAULT: i64 = 300_000;
/// Step of a subquery that names none.
pub const SUBQUERY_STEP_MS_DEFAULT: i64 = 60_000;

/// When and how to evaluate. Times are milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Params<'t> {
    /// The query's text: annotations name positions in it.
    pub text: &'t str,
    pub start: i64,
    pub end: i64,
    /// `None`: an instant query at `start`.
    pub step: Option<i64>,
    pub lookback_ms: i64,
    pub subquery_step_ms: i64,
}

impl<'t> Params<'t> {
    pub fn instant(text: &'t str, at: i64) -> Params<'t> {
        Params {
            text,
            start: at,
            end: at,
            step: None,
            lookback_ms: LOOKBACK_MS_DEFAULT,
            subquery_step_ms: SUBQUERY_STEP_MS_DEFAULT,
        }
    }

    /// Steps at `start, start + step, …`, not after `end`.
    pub fn range(text: &'t str, start: i64, end: i64, step: i64) -> Params<'t> {
        Params { start, end, step: Some(step), ..Params::instant(text, start) }
    }
}

/// Evaluates an expression that passed the parser's type check. An instant query answers a scalar, a
/// vector, a matrix or a string; a range query answers a matrix. Fails with `Error::Execution` as
/// Prometheus does, and with the budget's errors.
pub fn evaluate(expr: &Expr, params: &Params<'_>, source: &dyn Source, budget: &Budget) -> Result<Answer> {
    let step = params.step.unwrap_or(0);
    if step < 0 || params.step == Some(0) {
        return Err(Error::input("step", &step.to_string(), "not a positive number", "use a positive step"));
    }
    let times = QueryTimes { start: params.start, end: params.end, step };
    let evaluator = Evaluator {
        source,
        budget,
        params,
        times,
        notes: Notes::new(params.text),
        selected: RefCell::default(),
    };
    let (kind, matrix, string) = evaluator.answer(expr)?;
    Ok(Answer {
        kind,
        matrix,
        string,
        annotations: evaluator.notes.into_list(),
        samples_loaded: budget.samples_used(),
    })
}

/// The value of an expression over a grid.
enum Value<'a> {
    /// One number per step.
    Scalar(Vec<f64>),
    String(String),
    Vector(Vector<'a>),
}

impl<'a> Value<'a> {
    fn block(block: Block<'a>) -> Value<'a> {
        Value::Vector(Vector::Block(block))
    }

    fn bytes(&self) -> usize {
        match self {
            Value::Scalar(values) => size_of_val(&values[..]),
            Value::String(text) => text.len(),
            Value::Vector(vector) => vector.bytes(),
        }
    }
}

/// A range vector: series, and how to cut windows out of them.
struct Ranges<'a> {
    set: Arc<dyn SeriesSet + 'a>,
    looks: grid::Looks,
    range: i64,
    drop_name: scan::DropName,
    edges: Option<edges::Edges>,
}

/// One evaluation: what is asked of which storage, and what there was to remark on.
struct Evaluator<'a> {
    source: &'a dyn Source,
    budget: &'a Budget,
    params: &'a Params<'a>,
    times: QueryTimes,
    notes: Notes<'a>,
    /// What was selected so far: equal selectors share one view, and see the same samples.
    selected: RefCell<Vec<Selected<'a>>>,
}

type Selected<'a> = (Predicate, TimeRange, Arc<dyn SeriesSet + 'a>);

impl<'a> Evaluator<'a> {
    /// Evaluates a node. What it allocated is given back to the account, but for its value.
    fn eval(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        let mark = self.budget.mark();
        let value = self.eval_node(expr, grid)?;
        self.budget.settle(mark, value.bytes())?;
        Ok(value)
    }

    fn eval_node(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        self.budget.check()?;
        match &expr.kind {
            ExprKind::Number(value) | ExprKind::Seconds(value) => {
                Ok(Value::Scalar(grid::filled(self.budget, 1, grid.steps, *value)?))
            }
            ExprKind::String(text) => Ok(Value::String(text.clone())),
            ExprKind::Paren(inner) | ExprKind::Plus(inner) => self.eval(inner, grid),
            ExprKind::Selector(selector) => {
                Ok(Value::Vector(Vector::Rows(self.instant(selector, grid, false)?)))
            }
            ExprKind::Range { .. } | ExprKind::Subquery { .. } => {
                Err(Error::execution("a range vector cannot stand here"))
            }
            _ if grid.steps > 1 && is_step_invariant(expr) => {
                let before = self.budget.visits().map_or(0, Visits::first);
                let once = self.compute(expr, &Grid::instant(grid.start))?;
                let spread = self.spread(once, grid.steps)?;
                if let Some(visits) = self.budget.visits() {
                    visits.repeat_first(before);
                }
                Ok(spread)
            }
            _ => self.compute(expr, grid),
        }
    }

    fn compute(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        match &expr.kind {
            ExprKind::Negate(inner) => self.negate(inner, grid),
            ExprKind::Binary(_) => self.binaries(expr, grid),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, grid).map(Value::block),
            ExprKind::Call(call) => self.call(call, expr.span, grid),
            _ => self.eval(expr, grid),
        }
    }

    /// Repeats a value of one step.
    fn spread(&self, value: Value<'a>, steps: usize) -> Result<Value<'a>> {
        Ok(match value {
            Value::Scalar(one) => Value::Scalar(vec![one[0]; steps]),
            Value::String(text) => Value::String(text),
            Value::Vector(vector) => {
                let once = vector.into_block(self.budget)?;
                Value::block(once.spread(steps, self.budget)?)
            }
        })
    }

    fn vector(&self, expr: &Expr, grid: &Grid) -> Result<Vector<'a>> {
        match self.eval(expr, grid)? {
            Value::Vector(vector) => Ok(vector),
            _ => Err(Error::execution("expected an instant vector")),
        }
    }

    fn scalar(&self, expr: &Expr, grid: &Grid) -> Result<Vec<f64>> {
        match self.eval(expr, grid)? {
            Value::Scalar(values) => Ok(values),
            _ => Err(Error::execution("expected a scalar")),
        }
    }

    fn string(&self, expr: &Expr) -> Result<String> {
        match &expr.unparenthesized().kind {
            ExprKind::String(text) => Ok(text.clone()),
            _ => Err(Error::execution("expected a string")),
        }
    }

    #[inline(never)]
    fn negate(&self, inner: &Expr, grid: &Grid) -> Result<Value<'a>> {
        Ok(match self.eval(inner, grid)? {
            Value::Scalar(mut values) => {
                values.iter_mut().for_each(|v| *v = -*v);
                Value::Scalar(values)
            }
            Value::Vector(vector) => {
                let negate = |row: &mut [f64]| {
                    row.iter_mut().filter(|v| present(**v)).for_each(|v| *v = -*v);
                };
                Value::Vector(binary::map_rows(vector, Box::new(negate), true, self.budget)?)
            }
            Value::String(_) => return Err(Error::execution("a string has no sign")),
        })
    }

    /// A chain of operators leans to the left: its spine is walked, not recursed.
    #[inline(never)]
    fn binaries(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        let mut spine: Vec<&Binary> = Vec::new();
        let mut first = expr;
        while let ExprKind::Binary(binary) = &first.kind {
            spine.push(binary);
            first = &binary.left;
        }
        let mut value = self.eval(first, grid)?;
        for binary in spine.into_iter().rev() {
            let right = self.eval(&binary.right, grid)?;
            value = self.binary(binary, value, right)?;
        }
        Ok(value)
    }

    #[inline(never)]
    fn binary(&self, binary: &Binary, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>> {
        let (op, bool_) = (binary.op, binary.return_bool);
        Ok(match (left, right) {
            (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(binary::scalars(op, a, &b)),
            (Value::Vector(v), Value::Scalar(s)) => {
                Value::Vector(binary::with_scalar(op, bool_, false, v, s, self.budget)?)
            }
            (Value::Scalar(s), Value::Vector(v)) => {
                Value::Vector(binary::with_scalar(op, bool_, true, v, s, self.budget)?)
            }
            (Value::Vector(a), Value::Vector(b)) => {
                let (a, b) = (a.into_block(self.budget)?, b.into_block(self.budget)?);
                Value::block(if op.is_set() {
                    matching::set_operator(op, a, b, &binary.matching, self.budget)?
                } else {
                    matching::operator(binary, a, b, self.budget)?
                })
            }
            _ => return Err(Error::execution("operators do not take strings")),
        })
    }

    #[inline(never)]
    fn aggregate(&self, aggregate: &Aggregate, grid: &Grid) -> Result<Block<'a>> {
        let Aggregate { op, expr, param, grouping } = aggregate;
        let Some(param) = param else {
            let input = self.vector(expr, grid)?;
            return aggregate::fold(*op, &input, grouping, grid.steps, self.budget);
        };
        if *op == AggregateOp::CountValues {
            let label = self.string(param)?;
            let input = self.vector(expr, grid)?;
            return pick::count_values(input, grouping, &label, self.budget);
        }
        let numbers = self.scalar(param, grid)?;
        let pick = match op {
            AggregateOp::Quantile => {
                self.notes.quantiles(&numbers, param.span);
                let input = self.vector(expr, grid)?;
                return pick::quantiles(input, grouping, &numbers, self.budget);
            }
            AggregateOp::LimitRatio => {
                let numbers = self.ratios(numbers, param)?;
                return self.pick(Pick::Share, expr, grouping, &numbers, grid);
            }
            AggregateOp::Bottomk => Pick::Smallest,
            AggregateOp::Limitk => Pick::Any,
            _ => Pick::Largest,
        };
        check_counts(&numbers)?;
        self.pick(pick, expr, grouping, &numbers, grid)
    }

    fn pick(
        &self,
        pick: Pick,
        expr: &Expr,
        grouping: &Grouping,
        numbers: &[f64],
        grid: &Grid,
    ) -> Result<Block<'a>> {
        let input = self.vector(expr, grid)?;
        pick::pick(pick, input, grouping, numbers, self.budget)
    }

    /// The ratios of limit_ratio, with remarks on those outside [-1, 1].
    fn ratios(&self, mut ratios: Vec<f64>, param: &Expr) -> Result<Vec<f64>> {
        for r in &mut ratios {
            if r.is_nan() {
                return Err(Error::execution("Ratio value is NaN"));
            }
            let capped = r.clamp(-1.0, 1.0);
            if capped != *r {
                self.notes.ratio(*r, capped, param.span);
                *r = capped;
            }
        }
        Ok(ratios)
    }
}

/// Refuses a k that is no 64-bit integer.
fn check_counts(numbers: &[f64]) -> Result<()> {
    for k in numbers {
        if k.is_nan() {
            return Err(Error::execution("Parameter value is NaN"));
        }
        if k.abs() >= i64::MAX as f64 {
            return Err(Error::execution(format!("Scalar value {k} overflows int64")));
        }
    }
    Ok(())
}

/// What an expression of this type is called where it is refused.
fn refuse_range_query(found: ValueType) -> Error {
    Error::execution(format!(
        "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
        found.as_str()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
