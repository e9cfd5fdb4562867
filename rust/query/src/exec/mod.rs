//! The evaluator: a tree, times and a source to an answer.
//!
//! One evaluator serves instant queries, range queries and subqueries: each evaluates an expression over a
//! grid of times at once. An expression over stored series stays a description of rows (`scan`) until an
//! aggregation folds them or somebody needs them all. Metric names are dropped at the end of the query.
//!
//! `#[inline(never)]` stands where inlining would add a function's frame to that of a caller that recurses:
//! the deepest tree then needs a fraction of the stack.

pub(crate) mod aggregate;
mod alone;
mod binary;
mod block;
mod call;
mod cells;
mod drawn;
mod edges;
mod fold;
mod gaps;
pub(crate) mod grid;
mod histogram;
pub(crate) mod info;
pub(crate) mod labels;
mod matching;
mod memo;
mod mixed;
mod native;
mod outliers;
mod output;
pub(crate) mod over_range;
mod pick;
mod places;
pub mod profile;
mod relabel;
mod scan;
mod select;
pub(crate) mod times;
pub(crate) mod twins;
mod waits;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use metricsdb_model::budget::Visits;
use metricsdb_model::{Answer, Budget, Error, Grouping, Result, SeriesSet, Source, Span};

use crate::annotations::{Note, Notes};
use crate::syntax::tree::{Aggregate, AggregateOp, Binary, BinaryOp, Expr, ExprKind, ValueType};
pub use alone::alone;
use block::{Block, Vector, present};
use grid::Grid;
pub use memo::Memo;
use mixed::Remarks;
use native::Hints;
use pick::Pick;
use profile::{Probe, Profile};
use times::{QueryTimes, is_step_invariant};
use twins::Sharing;
pub use waits::{Waits, waits};

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

    pub(crate) fn times(&self) -> QueryTimes {
        QueryTimes { start: self.start, end: self.end, step: self.step.unwrap_or(0) }
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
    evaluate_on(expr, params, source, budget, None, None)
}

/// The same, counting into a profile of the same tree; or where steps go on from those of the evaluation before, with
/// a memo that is of this expression alone.
pub fn evaluate_on(
    expr: &Expr,
    params: &Params<'_>,
    source: &dyn Source,
    budget: &Budget,
    memo: Option<&mut Memo>,
    profile: Option<&Profile<'_>>,
) -> Result<Answer> {
    if let Some(step) = params.step.filter(|step| *step <= 0) {
        return Err(Error::input("step", &step.to_string(), "not a positive number", "use a positive step"));
    }
    if let Some(memo) = &memo {
        budget.keep(memo.bytes())?;
    }
    let times = params.times();
    let notes = Notes::new(params.text);
    let (selected, hints, memo) = (RefCell::default(), Cell::default(), RefCell::new(memo));
    let unscaled = RefCell::default();
    // A stream keeps what it needs itself; who counts samples step by step counts them at each place.
    // A value that is shared is read: what its rows stand for is not known any more.
    let shares = memo.borrow().is_none() && budget.visits().is_none() && !source.has_draws();
    let sharing = if shares { Sharing::of(expr) } else { Sharing::default() };
    let single = crate::plan::only_selector(expr).is_some();
    let evaluator = Evaluator {
        source,
        budget,
        params,
        times,
        notes: &notes,
        profile,
        selected,
        unscaled,
        hints,
        memo,
        sharing,
        single,
    };
    let (kind, matrix, string) = evaluator.answer(expr)?;
    budget.check_samples()?;
    for (span, draw) in evaluator.unscaled.take() {
        notes.add(Note::Drawn { of: notes.text(span), draw }, span);
    }
    drop(evaluator);
    let (rolled, samples_loaded) = (notes.has_rollups(), budget.samples_used());
    Ok(Answer { kind, matrix, string, annotations: notes.into_list(), samples_loaded, rolled })
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
#[derive(Clone)]
struct Ranges<'a> {
    set: Arc<dyn SeriesSet + 'a>,
    looks: grid::Looks,
    range: i64,
    drop_name: scan::DropName,
    edges: Option<edges::Edges>,
    hints: Hints,
    probe: Option<Box<Probe<'a>>>,
}

/// One evaluation: what is asked of which storage, and what there was to remark on.
struct Evaluator<'a> {
    source: &'a dyn Source,
    budget: &'a Budget,
    params: &'a Params<'a>,
    times: QueryTimes,
    notes: &'a Notes<'a>,
    profile: Option<&'a Profile<'a>>,
    /// What was selected so far: equal selectors share one view, and see the same samples.
    selected: RefCell<Vec<select::Selected<'a>>>,
    /// Selectors of whose series some stand for others, and how these were drawn, that nothing has scaled.
    unscaled: RefCell<Vec<(Span, String)>>,
    /// For the selectors inside of what is being evaluated.
    hints: Cell<Hints>,
    /// What subqueries came to before, in a stream.
    memo: RefCell<Option<&'a mut Memo>>,
    sharing: Sharing<'a>,
    /// The query has one selector.
    single: bool,
}

impl<'a> Evaluator<'a> {
    /// Evaluates a node, or takes the value of one that is the same.
    fn eval(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        if self.is_twin(expr) { self.eval_twin(expr, grid) } else { self.eval_alone(expr, grid) }
    }

    /// Evaluates a node. What it allocated is given back to the account, but for its value.
    fn eval_alone(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        let since = self.profile.map_or(0, Profile::now);
        let mark = self.budget.mark();
        let value = self.eval_node(expr, grid)?;
        self.budget.settle(mark, value.bytes())?;
        match self.profile {
            None => Ok(value),
            Some(_) => Ok(self.observe(expr, since, value)),
        }
    }

    /// Tells the profile what came of a node.
    #[inline(never)]
    fn observe<T>(&self, part: &T, since: u64, mut value: Value<'a>) -> Value<'a> {
        let Some((profile, counters)) = self.profile.and_then(|p| Some((p, p.of(part)?))) else {
            return value;
        };
        profile.spent(counters, since);
        match &mut value {
            Value::Scalar(values) => counters.held(0, values.len() as u64),
            Value::String(_) => {}
            Value::Vector(Vector::Block(block)) => counters.held(block.len(), block.cost()),
            Value::Vector(Vector::Rows(rows)) => {
                let maps = rows.maps.len();
                rows.probe.iter_mut().for_each(|probe| probe.add(maps, counters));
            }
        }
        value
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
                let rows = self.instant(selector, expr.span, grid, scan::Shows::Value)?;
                Ok(Value::Vector(Vector::Rows(rows)))
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

    fn remarks(&self, span: Span) -> Remarks<'a> {
        Remarks { notes: self.notes, span }
    }

    /// Evaluates what needs such hints; whole histograms are whole all the way down.
    fn with_hints<T>(&self, hints: Hints, evaluate: impl FnOnce() -> T) -> T {
        let before = self.hints.get();
        self.hints.set(if before == Hints::Whole { before } else { hints });
        let result = evaluate();
        self.hints.set(before);
        result
    }

    fn compute(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        match &expr.kind {
            ExprKind::Negate(inner) => self.negate(inner, grid),
            ExprKind::Binary(_) => self.binaries(expr, grid),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, expr.span, grid).map(Value::block),
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
                let map = scan::RowMap::of_numbers(|row| {
                    row.iter_mut().filter(|v| present(**v)).for_each(|v| *v = -*v);
                });
                let map = map.with_histograms(|_, cells| {
                    cells.iter_mut().flatten().for_each(|histogram| Arc::make_mut(histogram).negate());
                });
                Value::Vector(binary::map_rows(vector, map, true, self.budget)?)
            }
            Value::String(_) => return Err(Error::execution("a string has no sign")),
        })
    }

    /// A chain of operators leans to the left: its spine is walked, not recursed.
    #[inline(never)]
    fn binaries(&self, expr: &Expr, grid: &Grid) -> Result<Value<'a>> {
        let since = self.profile.map_or(0, Profile::now);
        let mut spine: Vec<(&Binary, Span)> = Vec::new();
        let mut first = expr;
        while let ExprKind::Binary(binary) = &first.kind {
            spine.push((binary, first.span));
            first = &binary.left;
        }
        let trims = |op| matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
        let hints = if spine.iter().any(|(b, _)| trims(b.op)) { Hints::Whole } else { self.hints.get() };
        self.with_hints(hints, || {
            let notes = self.notes.len();
            let mut value = self.eval(first, grid)?;
            let mut leaf = Some(first);
            for (binary, span) in spine.into_iter().rev() {
                // Rows of both operands of such an operator are to stand in memory.
                let held = !binary.op.is_gap() && binary.right.value_type() == ValueType::Vector;
                if let Some(first) = leaf.take().filter(|_| held) {
                    value = self.operand(first, grid, value, notes)?;
                }
                let before = self.notes.len();
                let mut right = self.eval(&binary.right, grid)?;
                if held && matches!(value, Value::Vector(_)) {
                    right = self.operand(&binary.right, grid, right, before)?;
                }
                value = self.binary(binary, span, value, right)?;
                value = self.observe(binary, since, value);
            }
            Ok(value)
        })
    }

    #[inline(never)]
    fn binary(&self, binary: &Binary, span: Span, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>> {
        let op = binary.op;
        if op.is_gap() {
            return self.gap_operator(binary, left, right);
        }
        let remarks = self.remarks(span);
        Ok(match (left, right) {
            (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(binary::scalars(op, a, &b)),
            (Value::Vector(v), Value::Scalar(s)) => {
                Value::Vector(binary::with_scalar(binary, false, v, s, remarks, self.budget)?)
            }
            (Value::Scalar(s), Value::Vector(v)) => {
                Value::Vector(binary::with_scalar(binary, true, v, s, remarks, self.budget)?)
            }
            (Value::Vector(a), Value::Vector(b)) => {
                let (a, b) = (a.into_block(self.budget)?, b.into_block(self.budget)?);
                Value::block(if op.is_set() {
                    matching::set_operator(op, a, b, &binary.matching, self.budget)?
                } else {
                    matching::operator(binary, a, b, self.budget, remarks)?
                })
            }
            _ => return Err(Error::execution("operators do not take strings")),
        })
    }

    #[inline(never)]
    fn aggregate(&self, aggregate: &Aggregate, span: Span, grid: &Grid) -> Result<Block<'a>> {
        let Aggregate { op, expr, param, grouping } = aggregate;
        let Some(param) = param else {
            if let Some(counted) = self.counted(*op, expr, grouping, grid)? {
                return Ok(counted);
            }
            let input = self.vector(expr, grid)?;
            if let Some(rows) = drawn::scaled(*op, &input) {
                self.unscaled.borrow_mut().retain(|(span, _)| *span != rows.remarks.span);
            }
            if *op == AggregateOp::OutliersIqr {
                return outliers::outliers(*op, input, grouping, &[], self.budget);
            }
            return aggregate::fold(*op, &input, grouping, grid.steps, self.budget, self.remarks(expr.span));
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
                return pick::quantiles(input, grouping, &numbers, self.budget, self.remarks(expr.span));
            }
            AggregateOp::OutliersMad | AggregateOp::Outliersk => {
                let input = self.vector(expr, grid)?;
                return outliers::outliers(*op, input, grouping, &numbers, self.budget);
            }
            AggregateOp::LimitRatio => {
                let numbers = self.ratios(numbers, param)?;
                return self.pick(Pick::Share, expr, span, grouping, &numbers, grid);
            }
            AggregateOp::Bottomk => Pick::Smallest,
            AggregateOp::Limitk => Pick::Any,
            _ => Pick::Largest,
        };
        check_counts(&numbers)?;
        self.pick(pick, expr, span, grouping, &numbers, grid)
    }

    fn pick(
        &self,
        pick: Pick,
        expr: &Expr,
        span: Span,
        grouping: &Grouping,
        numbers: &[f64],
        grid: &Grid,
    ) -> Result<Block<'a>> {
        let input = self.vector(expr, grid)?;
        pick::pick(pick, input, grouping, numbers, self.budget, self.remarks(span))
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
